//! Floor 2. Futures on the loop: tasks, what wakes them, and the one adapter between a future and a callback.
//!
//! ```text
//! spawn ─► woken ─► polled (at most once a turn) ─┬─ ready ──────────► over: its handle is told
//!            ▲                                    ├─ panicked ───────► over: 500, if an answer was its to give
//!            └── Waker, from any thread ◄─ waits ─┘
//!                                            └─ cancelled, client left, end of the drain ─► dropped
//! ```
//! A future cannot borrow the loop, for it lives longer than a callback. What it wants it leaves as a job, a callback
//! like any other, and what that finds comes back through a slot for one value: [`Task::call`]. All other futures
//! (`awaits.rs`) are made of that.
//!
//! Invariants: a future is out of the slab while it is polled or dropped, so its code may spawn and cancel as it
//! likes; whoever names a task that is gone names another generation, and is ignored; after the end of the loop
//! nothing is spawned, so that what is dropped stays dropped.

use super::ctx::{Callback, Core, Ctx, Job};
use super::failure::{Failure, Outcome};
use super::mailbox::{Handle, Mailbox};
use super::outbox::{Command, Outbox, Queue};
use super::owned::OwnedRequest;
use super::request::Request;
use super::response::{Responder, Response};
use super::stream::{Incoming, Open};
use crate::base::id::{StreamRef, TaskId};
use slab::Slab;
use std::cell::Cell;
use std::fmt;
use std::panic::{Location, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Whose callback it is, for the log.
const WHO: &str = "a task's call";

/// A future as the loop polls it: all it wants to know of its end is whether that was a failure.
pub(crate) trait Steps {
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Failure>>;
}

impl<F: Future> Steps for F
where
    F::Output: Outcome,
{
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Failure>> {
        self.poll(cx).map(Outcome::failure)
    }
}

pub(crate) type Boxed = Pin<Box<dyn Steps>>;

/// What a task's wakers ring. It rings once until the task is polled, however many ring it.
pub(crate) struct Alarm<S> {
    mailbox: Arc<Mailbox<S>>,
    task: TaskId,
    rung: AtomicBool,
}

impl<S> Alarm<S> {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.mailbox.wake_task(self.task);
        }
    }
}

impl<S: 'static> Wake for Alarm<S> {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Whose a task is: for the log, and for the answer that it owes.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// A handler's: it goes with the exchange.
    Answer(StreamRef),
    /// Its own, from this line of somebody's source.
    Spawned(&'static Location<'static>),
}

struct Entry<S> {
    generation: u32,
    /// `None` while it is polled.
    future: Option<Boxed>,
    alarm: Arc<Alarm<S>>,
    /// The turn in which it was last polled.
    turn: u64,
    origin: Origin,
}

/// A task that is taken out to be polled.
pub(crate) struct Running {
    pub(crate) future: Boxed,
    pub(crate) waker: Waker,
    pub(crate) origin: Origin,
}

/// What becomes of one that was woken.
pub(crate) enum Turn {
    Gone,
    /// It had its poll in this turn.
    Later,
    Now(Running),
}

/// The tasks of a loop, and all that a future of theirs reaches: shared by the loop and every [`Task`].
pub(crate) struct Tasks<S> {
    slab: Cell<Slab<Entry<S>>>,
    len: Cell<usize>,
    generations: Cell<u32>,
    /// `limits.tasks`.
    pub(crate) limit: Cell<usize>,
    /// The loop is over.
    closed: Cell<bool>,
    pub(super) jobs: Rc<Queue<Job<S>>>,
    pub(super) outbox: Rc<Outbox>,
    pub(super) mailbox: Arc<Mailbox<S>>,
}

impl<S> Tasks<S> {
    pub(crate) fn new(
        jobs: &Rc<Queue<Job<S>>>,
        outbox: &Rc<Outbox>,
        mailbox: &Arc<Mailbox<S>>,
    ) -> Rc<Tasks<S>> {
        Rc::new(Tasks {
            slab: Cell::default(),
            len: Cell::new(0),
            generations: Cell::new(0),
            limit: Cell::new(0),
            closed: Cell::new(false),
            jobs: jobs.clone(),
            outbox: outbox.clone(),
            mailbox: mailbox.clone(),
        })
    }

    /// Take, change, set: nothing that `f` does comes back here.
    fn with<R>(&self, f: impl FnOnce(&mut Slab<Entry<S>>) -> R) -> R {
        let mut slab = self.slab.take();
        let result = f(&mut slab);
        self.len.set(slab.len());
        self.slab.set(slab);
        result
    }

    /// How many run.
    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }

    /// Whether there may be another.
    fn room(&self) -> Result<(), SpawnError> {
        let limit = self.limit.get();
        match self.len() < limit {
            _ if self.closed.get() => Err(SpawnError::Stopped),
            true => Ok(()),
            false => Err(SpawnError::Full { limit }),
        }
    }

    fn insert(&self, future: Boxed, origin: Origin) -> TaskId {
        let generation = self.generations.get().checked_add(1).unwrap_or(1);
        self.generations.set(generation);
        let mailbox = self.mailbox.clone();
        let (task, alarm) = self.with(|slab| {
            let slot = slab.vacant_key() as u32;
            let task = TaskId { slot, generation };
            let rung = AtomicBool::new(false);
            let alarm = Arc::new(Alarm {
                mailbox,
                task,
                rung,
            });
            slab.insert(Entry {
                generation,
                future: Some(future),
                alarm: alarm.clone(),
                turn: 0,
                origin,
            });
            (task, alarm)
        });
        alarm.ring();
        task
    }

    fn entry<R>(&self, task: TaskId, f: impl FnOnce(&mut Entry<S>) -> R) -> Option<R> {
        self.with(|slab| {
            slab.get_mut(task.slot as usize)
                .filter(|entry| entry.generation == task.generation)
                .map(f)
        })
    }

    /// Takes the future out to be polled. From now on its wakers ring again.
    pub(crate) fn begin(&self, task: TaskId, turn: u64) -> Turn
    where
        S: 'static,
    {
        let begun = self.entry(task, |entry| {
            if entry.turn == turn {
                return Turn::Later;
            }
            let Some(future) = entry.future.take() else {
                return Turn::Gone;
            };
            entry.turn = turn;
            // With what those have done who found it rung: this poll is to see it.
            entry.alarm.rung.swap(false, Ordering::AcqRel);
            Turn::Now(Running {
                future,
                waker: Waker::from(entry.alarm.clone()),
                origin: entry.origin,
            })
        });
        begun.unwrap_or(Turn::Gone)
    }

    /// It has to wait. It is handed back if it was cancelled meanwhile.
    pub(crate) fn put_back(&self, task: TaskId, future: Boxed) -> Option<Boxed> {
        let mut future = Some(future);
        self.entry(task, |entry| entry.future = future.take());
        future
    }

    /// Takes it away: its future, unless it is being polled, and whose it was.
    pub(crate) fn remove(&self, task: TaskId) -> Option<(Option<Boxed>, Origin)> {
        self.entry(task, |_| ())?;
        let entry = self.with(|slab| slab.try_remove(task.slot as usize))?;
        Some((entry.future, entry.origin))
    }

    /// The loop is over: all of them, to be dropped.
    pub(crate) fn close(&self) -> Vec<Boxed> {
        self.closed.set(true);
        let entries = self.with(std::mem::take);
        let futures = entries.into_iter().filter_map(|(_, entry)| entry.future);
        futures.collect()
    }
}

impl<S: 'static> Core<S> {
    fn task(&self) -> Task<S> {
        let tasks = self.tasks.clone();
        Task { tasks }
    }
}

/// The loop, for a future: clone it as you like. [`Ctx::task`] gives one, [`asynchronous`] hands one over.
///
/// Its methods are futures. They begin when they are first polled, can be dropped at any time, and what they had asked
/// for is cancelled then, as far as that can be.
///
/// ```
/// use loopwright::{App, Fetch, StatusError, Upstream, asynchronous};
/// use std::time::Duration;
///
/// let mut app: App = App::new();
/// app.upstream("api", Upstream::new(["http://127.0.0.1:9000"]));
/// app.get("/users/{id}", asynchronous(|task, req, res| async move {
///     let path = format!("/v1/users/{}", req.param("id"));
///     let answer = task.timeout(Duration::from_secs(2), task.fetch("api", Fetch::get(path))).await;
///     let answer = answer.map_err(|_| StatusError::new(504, "too slow"))??;
///     let status = answer.status().as_u16();
///     res.status(status).bytes(answer.collect(&task).await?);
///     Ok::<_, Box<dyn std::error::Error>>(())
/// }));
/// ```
pub struct Task<S = ()> {
    pub(super) tasks: Rc<Tasks<S>>,
}

impl<S> Clone for Task<S> {
    fn clone(&self) -> Self {
        let tasks = self.tasks.clone();
        Task { tasks }
    }
}

impl<S> fmt::Debug for Task<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

impl<S: 'static> Task<S> {
    /// Runs a future on this loop, for its own sake: see [`Ctx::spawn`].
    ///
    /// # Errors
    /// As [`Ctx::spawn`].
    ///
    /// ```
    /// use loopwright::{App, asynchronous};
    /// use std::time::Duration;
    /// let mut app: App = App::new();
    /// app.post("/orders", asynchronous(|task, _, res| async move {
    ///     let later = task.clone();
    ///     // Goes on, whether or not the client waits.
    ///     task.spawn(async move {
    ///         later.sleep(Duration::from_secs(60)).await;
    ///         log::info!("time to send the mail");
    ///     })?;
    ///     res.status(202).text("we will write to you");
    ///     Ok::<_, loopwright::SpawnError>(())
    /// }));
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> Result<TaskHandle<F::Output>, SpawnError>
    where
        F: Future + 'static,
    {
        self.spawn_at(future, Location::caller())
    }

    /// For somebody further out.
    pub(super) fn spawn_at<F>(
        &self,
        future: F,
        at: &'static Location<'static>,
    ) -> Result<TaskHandle<F::Output>, SpawnError>
    where
        F: Future + 'static,
    {
        let tasks = &self.tasks;
        tasks.room()?;
        let slot = Rc::new(Slot::default());
        let spawned = Spawned {
            future: Box::pin(future),
            told: Resolver::new(slot.clone()),
        };
        let id = tasks.insert(Box::pin(spawned), Origin::Spawned(at));
        let outbox = tasks.outbox.clone();
        Ok(TaskHandle { id, outbox, slot })
    }

    /// The adapter that every other future here is made of: calls `ask` with the loop at hand, in a callback of its
    /// own, and is ready with what its [`Resolver`] is given, then or in any later callback. So whatever has a
    /// callback can be awaited.
    ///
    /// If the future is dropped before `ask` was called, it never is; afterwards, the resolver's
    /// [`Resolver::is_wanted`] says so, and [`Task::cancellable`] is told.
    ///
    /// # Panics
    /// The future does, and its task ends as by any panic, if the resolver is dropped without a value, and has none
    /// for that case ([`Resolver::otherwise`]).
    ///
    /// ```
    /// use loopwright::{App, Resolver, Task, asynchronous};
    /// use std::time::Duration;
    ///
    /// /// A future of a callback: three lines.
    /// async fn tick(task: &Task) -> &'static str {
    ///     task.call(|cx, done: Resolver<_>| {
    ///         cx.after(Duration::from_millis(5), move |_| done.resolve("tick"));
    ///     }).await
    /// }
    ///
    /// let mut app: App = App::new();
    /// app.get("/", asynchronous(|task, _, res| async move { res.text(tick(&task).await) }));
    /// ```
    pub fn call<T: 'static>(
        &self,
        ask: impl FnOnce(&mut Ctx<'_, S>, Resolver<T>) + 'static,
    ) -> Call<S, T> {
        self.asking(move |cx, done| {
            ask(cx, done);
            None
        })
    }

    /// The same, where there is something to be undone: what `ask` returns is called if the future is dropped
    /// before it is ready.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Task, asynchronous};
    /// use std::time::Duration;
    /// async fn nap(task: &Task) {
    ///     task.cancellable(|cx, done| {
    ///         let timer = cx.after(Duration::from_secs(3600), move |_| done.resolve(()));
    ///         move |cx: &mut Ctx<'_>| { cx.cancel(timer); }
    ///     }).await
    /// }
    /// let mut app: App = App::new();
    /// app.get("/", asynchronous(|task, _, res| async move {
    ///     let late = task.timeout(Duration::from_secs(1), nap(&task)).await.is_err();
    ///     res.text(late.to_string());
    /// }));
    /// ```
    pub fn cancellable<T, U>(
        &self,
        ask: impl FnOnce(&mut Ctx<'_, S>, Resolver<T>) -> U + 'static,
    ) -> Call<S, T>
    where
        T: 'static,
        U: FnOnce(&mut Ctx<'_, S>) + 'static,
    {
        let jobs = self.tasks.jobs.clone();
        self.asking(move |cx, done| {
            let undo = ask(cx, done);
            Some(Box::new(move || {
                jobs.push_back(Job::Call(WHO, Box::new(undo)));
            }))
        })
    }

    fn asking<T: 'static>(
        &self,
        ask: impl FnOnce(&mut Ctx<'_, S>, Resolver<T>) -> Option<Undo> + 'static,
    ) -> Call<S, T> {
        let slot = Rc::new(Slot::default());
        let (resolver, for_undo) = (Resolver::new(slot.clone()), slot.clone());
        let job: Callback<S> = Box::new(move |cx| {
            if !for_undo.wanted.get() {
                return;
            }
            let undo = ask(cx, resolver);
            if for_undo.is_open() {
                for_undo.undo.set(undo);
            }
        });
        Call {
            job: Some(job),
            tasks: self.tasks.clone(),
            slot,
        }
    }

    /// Calls `f` with the loop at hand, for the state and for whatever has no future of its own: soon, but not before
    /// this task has returned to the loop.
    ///
    /// ```
    /// use loopwright::{App, Task, asynchronous};
    /// let mut app = App::<u64>::new();
    /// app.get("/hits", asynchronous(|task: Task<u64>, _, res| async move {
    ///     let hits = task.with(|cx| { *cx.state += 1; *cx.state }).await;
    ///     res.text(hits.to_string());
    /// }));
    /// ```
    pub fn with<T: 'static>(&self, f: impl FnOnce(&mut Ctx<'_, S>) -> T + 'static) -> Call<S, T> {
        self.call(move |cx, done| done.resolve(f(cx)))
    }

    /// Whether there may be another task.
    pub(super) fn room(&self) -> Result<(), SpawnError> {
        self.tasks.room()
    }

    /// The loop, for other threads.
    pub fn handle(&self) -> Handle<S> {
        let mailbox = self.tasks.mailbox.clone();
        Handle { mailbox }
    }

    /// Whether the loop was asked to stop: see [`Ctx::is_stopping`].
    pub fn is_stopping(&self) -> bool {
        self.tasks.mailbox.is_stopping()
    }
}

impl<S: 'static> Ctx<'_, S> {
    /// The loop, for a future.
    pub fn task(&self) -> Task<S> {
        self.core.task()
    }

    /// Runs a future on this loop, beside everything else: it is polled when it is woken, at most once a turn. It
    /// belongs to nobody: it ends by itself, by [`TaskHandle::cancel`], or dropped with the loop.
    ///
    /// # Errors
    /// [`SpawnError::Full`] at `limits.tasks`, [`SpawnError::Stopped`] when the loop is over.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Server};
    /// use std::time::Duration;
    /// fn count(cx: &mut Ctx<'_, u32>) {
    ///     let task = cx.task();
    ///     let counted = cx.spawn(async move {
    ///         for _ in 0..3 {
    ///             task.sleep(Duration::from_millis(1)).await;
    ///             task.with(|cx| *cx.state += 1).await;
    ///         }
    ///         task.handle().stop();
    ///     });
    ///     drop(counted); // it runs all the same
    /// }
    /// let mut server = Server::bind("127.0.0.1:0", App::new(), 0).unwrap();
    /// server.handle().post(count).unwrap();
    /// server.run().unwrap();
    /// assert_eq!(*server.state(), 3);
    /// ```
    #[track_caller]
    pub fn spawn<F>(&mut self, future: F) -> Result<TaskHandle<F::Output>, SpawnError>
    where
        F: Future + 'static,
    {
        self.task().spawn(future)
    }

    /// Has a future give an answer: what [`asynchronous`] does for a route, for a handler that has looked at the
    /// request first, and needs no copy of it. It is dropped when the client leaves ([`Ctx::on_abort`]); its errors and
    /// panics end as a handler's.
    ///
    /// # Errors
    /// As [`Ctx::spawn`]; returned from the handler, it is answered 503.
    ///
    /// ```
    /// use loopwright::App;
    /// use std::time::Duration;
    /// let mut app: App = App::new();
    /// app.get("/sleep/{ms}", |cx, req, res| {
    ///     let time = Duration::from_millis(req.param("ms").parse().unwrap_or(0));
    ///     cx.answer(res, async move |task, res| {
    ///         task.sleep(time).await;
    ///         res.text("worth the wait");
    ///     })
    /// });
    /// ```
    pub fn answer<F>(
        &mut self,
        res: Response<'_>,
        f: impl FnOnce(Task<S>, Responder) -> F,
    ) -> Result<(), SpawnError>
    where
        F: Future<Output: Outcome> + 'static,
    {
        let tasks = self.core.tasks.clone();
        tasks.room()?;
        let res = res.defer();
        let answer = res.exchange();
        let future = f(self.task(), res);
        let task = tasks.insert(Box::pin(future), Origin::Answer(answer));
        let left = move |cx: &mut Ctx<'_, S>| cx.core.outbox.push(Command::ClientLeft(task));
        self.on_abort_of(answer, Box::new(left));
        Ok(())
    }
}

/// A handler whose answer is given by a future: for [`crate::App::get`] and its like. The request is copied, once, so that
/// the future may keep it; [`Ctx::answer`] does without.
///
/// The future is dropped when the client leaves. An error it returns, and a panic, end like a handler's; at
/// `limits.tasks` the answer is 503.
///
/// ```
/// use loopwright::{App, asynchronous};
/// use std::time::Duration;
/// let mut app: App = App::new();
/// app.get("/hello/{name}", asynchronous(|task, req, res| async move {
///     task.sleep(Duration::from_millis(10)).await;
///     res.text(format!("Hello, {}!", req.param("name")));
/// }));
/// ```
pub fn asynchronous<S, F>(
    mut f: impl FnMut(Task<S>, OwnedRequest, Responder) -> F + 'static,
) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> Result<(), SpawnError> + 'static
where
    S: 'static,
    F: Future<Output: Outcome> + 'static,
{
    move |cx, req, res| {
        let f = &mut f;
        cx.answer(res, |task, res| f(task, req.to_owned(), res))
    }
}

/// The same for [`crate::App::stream`]: the future takes the body as it comes.
///
/// ```
/// use loopwright::{App, StatusError, asynchronous_stream};
/// let mut app: App = App::new();
/// app.stream("POST", "/count", asynchronous_stream(|task, _, res, body| async move {
///     let (mut chunks, mut bytes) = (task.chunks(body), 0);
///     while let Some(chunk) = chunks.next().await {
///         bytes += chunk?.len();
///     }
///     res.text(format!("{bytes} bytes"));
///     Ok::<_, loopwright::Aborted>(())
/// }));
/// ```
pub fn asynchronous_stream<S, F>(
    mut f: impl FnMut(Task<S>, OwnedRequest, Responder, Incoming) -> F + 'static,
) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>, Incoming) -> Result<(), SpawnError> + 'static
where
    S: 'static,
    F: Future<Output: Outcome> + 'static,
{
    move |cx, req, res, body| {
        let f = &mut f;
        cx.answer(res, |task, res| f(task, req.to_owned(), res, body))
    }
}

/// A spawned future, and who is told its result.
struct Spawned<F: Future> {
    future: Pin<Box<F>>,
    told: Resolver<Result<F::Output, TaskError>>,
}

/// Its future is, but in a box of its own.
impl<F: Future> Unpin for Spawned<F> {}

impl<F: Future> Steps for Spawned<F> {
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Failure>> {
        let spawned = self.get_mut();
        // Stays so if it does.
        spawned.told.slot.panicked.set(true);
        let polled = spawned.future.as_mut().poll(cx);
        spawned.told.slot.panicked.set(false);
        polled.map(|value| {
            spawned.told.value = Some(Ok(value));
            None
        })
    }
}

/// A task under way: to cancel, or to await. Dropped, it lets the task go on.
///
/// ```
/// use loopwright::{App, TaskError, asynchronous};
/// use std::time::Duration;
/// let mut app: App = App::new();
/// app.get("/", asynchronous(|task, _, res| async move {
///     let inner = task.clone();
///     let sum = task.spawn(async move { inner.yield_now().await; 1 + 1 })?;
///     let never = task.spawn(std::future::pending::<()>())?;
///     never.cancel();
///     assert_eq!(never.await, Err(TaskError::Cancelled));
///     res.text(sum.await?.to_string());
///     Ok::<_, Box<dyn std::error::Error>>(())
/// }));
/// ```
pub struct TaskHandle<T> {
    id: TaskId,
    outbox: Rc<Outbox>,
    slot: Rc<Slot<Result<T, TaskError>>>,
}

impl<T> TaskHandle<T> {
    /// Drops the future when the present callback has returned; of one that is being polled, when that has. One that
    /// is over stays as it ended.
    pub fn cancel(&self) {
        self.outbox.push(Command::CancelTask(self.id));
    }

    /// Whether it is over, one way or another.
    pub fn is_finished(&self) -> bool {
        !self.slot.is_open()
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskHandle({:?})", self.slot)
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.slot.poll(cx) {
            // It was dropped without a result.
            Poll::Ready(None) => Poll::Ready(Err(match self.slot.panicked.get() {
                true => TaskError::Panicked,
                false => TaskError::Cancelled,
            })),
            Poll::Ready(Some(result)) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Why a task has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskError {
    /// It was cancelled, or the loop has ended.
    Cancelled,
    /// It panicked; the log says of what.
    Panicked,
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TaskError::Cancelled => "the task was cancelled",
            TaskError::Panicked => "the task panicked",
        })
    }
}

impl std::error::Error for TaskError {}

/// Why there is no task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpawnError {
    /// So many run already.
    Full {
        /// `limits.tasks`.
        limit: usize,
    },
    /// The loop has ended.
    Stopped,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::Full { limit } => write!(f, "limits.tasks = {limit} is reached"),
            SpawnError::Stopped => f.write_str("the loop has ended"),
        }
    }
}

impl std::error::Error for SpawnError {}

type Undo = Box<dyn FnOnce()>;

/// A place for one value, between a callback and a future.
struct Slot<T> {
    value: Cell<Option<T>>,
    waker: Cell<Option<Waker>>,
    /// Called if the future is dropped first.
    undo: Cell<Option<Undo>>,
    /// The future is there.
    wanted: Cell<bool>,
    /// The resolver is gone, with or without a value.
    over: Cell<bool>,
    panicked: Cell<bool>,
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot {
            value: Cell::new(None),
            waker: Cell::new(None),
            undo: Cell::new(None),
            wanted: Cell::new(true),
            over: Cell::new(false),
            panicked: Cell::new(false),
        }
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.over.get() { "over" } else { "open" })
    }
}

impl<T> Slot<T> {
    fn is_open(&self) -> bool {
        !self.over.get()
    }

    /// `Ready(None)`: there will never be a value, or it was taken.
    fn poll(&self, cx: &Context<'_>) -> Poll<Option<T>> {
        if self.over.get() {
            return Poll::Ready(self.value.take());
        }
        let waker = self.waker.take();
        let same = waker.filter(|waker| waker.will_wake(cx.waker()));
        self.waker
            .set(Some(same.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

/// Gives a future of [`Task::call`] its value: in any callback, once.
#[must_use = "a resolver that is dropped has its future panic, unless it has a value `otherwise`"]
pub struct Resolver<T> {
    slot: Rc<Slot<T>>,
    value: Option<T>,
}

impl<T> Resolver<T> {
    fn new(slot: Rc<Slot<T>>) -> Resolver<T> {
        let value = None;
        Resolver { slot, value }
    }

    /// The future is ready with this value.
    pub fn resolve(mut self, value: T) {
        self.value = Some(value);
    }

    /// The value if it is dropped unresolved: of a callback that may never be called.
    ///
    /// ```
    /// use loopwright::{App, Incoming, Task, asynchronous_stream};
    /// let mut app: App = App::new();
    /// app.stream("POST", "/", asynchronous_stream(|task: Task, _, res, body: Incoming| async move {
    ///     drop(body);
    ///     let answer = task.call(|_, done| drop(done.otherwise("nobody came"))).await;
    ///     res.text(answer);
    /// }));
    /// ```
    pub fn otherwise(mut self, value: T) -> Self {
        self.value = Some(value);
        self
    }

    /// Whether the future is still there.
    pub fn is_wanted(&self) -> bool {
        self.slot.wanted.get()
    }
}

impl<T> Drop for Resolver<T> {
    fn drop(&mut self) {
        let slot = &self.slot;
        slot.over.set(true);
        slot.undo.set(None);
        if slot.wanted.get() {
            slot.value.set(self.value.take());
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }
}

impl<T> fmt::Debug for Resolver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// What [`Task::call`] and its kin return.
#[must_use = "a future does nothing unless it is polled"]
pub struct Call<S, T> {
    /// Until it is first polled.
    job: Option<Callback<S>>,
    tasks: Rc<Tasks<S>>,
    slot: Rc<Slot<T>>,
}

/// Nothing in it is pinned.
impl<S, T> Unpin for Call<S, T> {}

impl<S, T> Future for Call<S, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(job) = self.job.take() {
            self.tasks.jobs.push_back(Job::Call(WHO, job));
        }
        self.slot.poll(cx).map(|value| match value {
            Some(value) => value,
            // Mostly because its callback has panicked: that goes on here, where it was asked for.
            None => resume_unwind(Box::new(
                "the Resolver of a Task::call was dropped unresolved",
            )),
        })
    }
}

impl<S, T> Drop for Call<S, T> {
    fn drop(&mut self) {
        self.slot.wanted.set(false);
        self.slot.value.take();
        if let Some(undo) = self.slot.undo.take() {
            undo();
        }
    }
}

impl<S, T> fmt::Debug for Call<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}
