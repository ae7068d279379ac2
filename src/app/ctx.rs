//! Floor 2. The loop on loan: what a callback may do besides answering.
//!
//! `Core` is the part of the loop that callbacks may touch; connections, routes and sinks are not
//! in it. What a callback wants from those is queued as a [`Job`] or a command, and settled after it
//! has returned.

use super::fetch::Fetches;
use super::group::Upstreams;
use super::link::{Link, Origin};
use super::mailbox::{Handle, Mailbox, Post};
use super::outbox::{Outbox, Queue};
use super::publish::{Listener, Publication, Subscriber};
use super::slow::Slow;
use super::stats::LoopStats;
use super::store::Stores;
use super::stream::{BodySink, Open};
use super::task::Tasks;
use super::websocket::{Line, Socket, SocketSettings};
use crate::base::clock::Instant;
use crate::base::id::{ConnId, FetchId, RequestId, StreamRef};
use crate::base::lookup::{Answer, Failure};
use crate::base::topics::{TopicLimits, Topics};
use crate::base::wheel::{TimerId as WheelId, Wheel};
use slab::Slab;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub(crate) type Callback<S> = Box<dyn FnOnce(&mut Ctx<'_, S>)>;
pub(crate) type Repeated<S> = Box<dyn FnMut(&mut Ctx<'_, S>)>;

pub(crate) type Finish<S> = Box<dyn FnOnce(&mut Ctx<'_, S>, bool)>;

/// What the wheel fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// A connection's deadline may have passed.
    Conn(ConnId),
    /// An embedder's timer: slot and generation.
    Call { slot: u32, generation: u32 },
    /// Something is due in an upstream.
    Group(u32),
    /// A server was too busy to be connected to: the number of the dial.
    Dial(u32),
    /// A fetch has taken too long, or may be hedged.
    Fetch(FetchId),
    /// Accepting may go on.
    Accept,
    /// Connections that are still idle after the grace of a drain.
    DrainIdle,
    /// The drain's deadline.
    Drain,
}

pub(crate) enum Due<S> {
    Once(Callback<S>),
    Every(Duration, Repeated<S>),
    /// Its callback is running.
    Running,
}

pub(crate) struct TimerEntry<S> {
    pub(crate) generation: u32,
    pub(crate) wheel: WheelId,
    pub(crate) due: Due<S>,
}

/// What a callback asks of the parts of the loop it cannot touch.
pub(crate) enum Job<S> {
    /// The body goes here.
    Sink {
        from: StreamRef,
        sink: Box<dyn BodySink<S>>,
    },
    /// Tell me if nobody waits for the answer any more.
    OnAbort {
        id: AbortId,
        call: Callback<S>,
    },
    ForgetAbort(AbortId),
    /// Tell me when there is room again.
    OnDrain {
        to: StreamRef,
        call: Callback<S>,
    },
    /// This connection speaks WebSocket from here on.
    Socket(Box<NewSocket<S>>),
    /// A connection to be made.
    Link {
        from: Origin,
        link: Box<dyn Link<S>>,
    },
    /// Something is asked of an upstream.
    Fetch(FetchId),
    /// Something may be due in an upstream.
    RunGroup(usize),
    /// A name of an upstream's servers was looked up.
    LookedUp {
        group: usize,
        name: usize,
        result: Result<Answer, Failure>,
    },
    /// Somebody is to be called: a store that begins or ends, a task that asks for something, what was left for
    /// [`Later`]. Who, for the log.
    Call(&'static str, Callback<S>),
    /// The loop has begun.
    StartBus,
    /// Something was published here, for the bus to carry.
    Published(Rc<Publication>),
    /// A pattern has got its first subscriber, or lost its last.
    Wanted {
        pattern: Box<str>,
        wanted: bool,
    },
    /// Another process, for the bus to speak with.
    Introduce(UnixStream),
    /// Do this elsewhere.
    Offload {
        work: crate::net::Work,
        slot: usize,
    },
}

/// A connection whose handshake is answered.
pub(crate) struct NewSocket<S> {
    pub(crate) to: ConnId,
    pub(crate) socket: Box<dyn Socket<S>>,
    pub(crate) line: Line,
    pub(crate) request: RequestId,
}

/// Until the reactor says what the limits are.
const NOTHING: TopicLimits = TopicLimits {
    subscriptions: 0,
    publications: 0,
    bytes: 0,
};

pub(crate) struct Core<S> {
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) timers: Wheel<Timer>,
    pub(crate) calls: Slab<TimerEntry<S>>,
    pub(crate) generations: u32,
    /// Shared, for handles that have a job for the loop without a `Ctx` at hand.
    pub(crate) jobs: Rc<Queue<Job<S>>>,
    /// Numbers given to those who wait for an abort.
    pub(crate) aborts: u64,
    /// For the end of this turn.
    pub(crate) last: Vec<Callback<S>>,
    /// What happens when offloaded work is done: called with `false` if it was refused.
    pub(crate) offloads: Slab<Finish<S>>,
    pub(crate) outbox: Rc<Outbox>,
    pub(crate) mailbox: Arc<Mailbox<S>>,
    pub(crate) requests: u64,
    pub(crate) stats: LoopStats,
    /// `timeouts.heartbeat`.
    pub(crate) heartbeat: Duration,
    /// What holds for a socket unless its handshake says otherwise.
    pub(crate) sockets: SocketSettings,
    pub(crate) topics: Topics<Subscriber, Rc<Publication>>,
    /// Closures that are subscribed.
    pub(crate) listeners: Slab<Listener<S>>,
    /// Somebody wants to know what is published and subscribed to.
    pub(crate) has_bus: bool,
    pub(crate) fetches: Fetches<S>,
    pub(crate) upstreams: Upstreams,
    pub(crate) tasks: Rc<Tasks<S>>,
    pub(crate) stores: Stores<S>,
}

impl<S> Core<S> {
    pub(crate) fn new(mailbox: Arc<Mailbox<S>>, seed: u64) -> Core<S> {
        let (jobs, outbox) = (Rc::default(), Rc::default());
        Core {
            tasks: Tasks::new(&jobs, &outbox, &mailbox),
            now: Instant::default(),
            wall: SystemTime::UNIX_EPOCH,
            timers: Wheel::new(),
            calls: Slab::new(),
            generations: 0,
            jobs,
            last: Vec::new(),
            aborts: 0,
            offloads: Slab::new(),
            outbox,
            mailbox,
            requests: seed,
            stats: LoopStats::default(),
            heartbeat: Duration::ZERO,
            sockets: SocketSettings {
                message: 0,
                output: 0,
                slow: Slow::default(),
                fragments: false,
            },
            topics: Topics::new(NOTHING),
            listeners: Slab::new(),
            has_bus: false,
            fetches: Fetches::new(),
            upstreams: Upstreams::new(seed),
            stores: Stores::new(),
        }
    }

    pub(crate) fn next_request_id(&mut self) -> RequestId {
        self.requests = self.requests.wrapping_add(1);
        self.stats.requests += 1;
        RequestId(self.requests)
    }

    /// Ends all subscriptions of one that is gone.
    pub(crate) fn unsubscribe_all(&mut self, key: Subscriber) {
        let (jobs, has_bus) = (&mut self.jobs, self.has_bus);
        self.topics.remove(key, |pattern| {
            if has_bus {
                let pattern = pattern.into();
                let wanted = false;
                jobs.push_back(Job::Wanted { pattern, wanted });
            }
        });
    }

    fn insert_timer(&mut self, delay: Duration, due: Due<S>) -> TimerId {
        self.generations = self.generations.wrapping_add(1);
        let generation = self.generations;
        let slot = self.calls.vacant_key() as u32;
        let wheel = self
            .timers
            .insert(self.now + delay, Timer::Call { slot, generation });
        self.calls.insert(TimerEntry {
            generation,
            wheel,
            due,
        });
        TimerId { slot, generation }
    }
}

/// Names a timer of [`Ctx::after`] or [`Ctx::every`]. Once it has fired or was cancelled, it names
/// nothing, and is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TimerId {
    slot: u32,
    generation: u32,
}

/// The loop, on loan for one callback: its first argument, always.
///
/// ```
/// use loopwright::App;
/// let mut app = App::<u64>::new(); // the state is a counter
/// app.get("/hits", |cx, _, res| {
///     *cx.state += 1;
///     res.text(cx.state.to_string());
/// });
/// ```
pub struct Ctx<'a, S = ()> {
    /// What the server was built with: the embedder's own.
    pub state: &'a mut S,
    pub(crate) core: &'a mut Core<S>,
}

impl<S: 'static> Ctx<'_, S> {
    /// The time of this turn. It stands still within one: read it as often as you like.
    pub fn now(&self) -> Instant {
        self.core.now
    }

    /// The wall clock of this turn. It may jump, as wall clocks do: measure with [`Ctx::now`].
    pub fn wall_clock(&self) -> SystemTime {
        self.core.wall
    }

    /// What the loop has done so far, and what it has to do.
    pub fn stats(&self) -> LoopStats {
        self.core.stats
    }

    /// Calls `f` once, `delay` from now (to the millisecond, never early).
    ///
    /// ```
    /// use loopwright::App;
    /// use std::time::Duration;
    /// let mut app: App = App::new();
    /// app.get("/slow", |cx, _, res| {
    ///     let res = res.defer();
    ///     cx.after(Duration::from_secs(1), move |_| res.text("a second later"));
    /// });
    /// ```
    pub fn after(&mut self, delay: Duration, f: impl FnOnce(&mut Ctx<'_, S>) + 'static) -> TimerId {
        self.core.insert_timer(delay, Due::Once(Box::new(f)))
    }

    /// Calls `f` again and again, every `period` (at least a millisecond), first after one period.
    /// A turn that takes longer than a period delays it; missed calls are not made up for.
    pub fn every(&mut self, period: Duration, f: impl FnMut(&mut Ctx<'_, S>) + 'static) -> TimerId {
        let period = period.max(Duration::from_millis(1));
        self.core
            .insert_timer(period, Due::Every(period, Box::new(f)))
    }

    /// Cancels a timer; its callback is dropped. Says whether there was one to cancel. A repeating
    /// timer may cancel itself.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        match self.core.calls.get(id.slot as usize) {
            Some(entry) if entry.generation == id.generation => {
                self.core.timers.cancel(entry.wheel);
                self.core.calls.remove(id.slot as usize);
                true
            }
            _ => false,
        }
    }

    /// Calls `f` once if nobody waits for this answer any more: the client has closed its side, or
    /// the connection broke. Work for it may stop then; an answer given all the same is still sent
    /// if it can be, for there are clients that close their sending side and wait.
    ///
    /// ```
    /// use loopwright::App;
    /// use std::time::Duration;
    /// let mut app: App = App::new();
    /// app.get("/report", |cx, _, res| {
    ///     let res = res.defer();
    ///     cx.on_abort(&res, |_| log::info!("nobody waits for the report"));
    ///     cx.after(Duration::from_secs(5), move |_| res.text("the report"));
    /// });
    /// ```
    pub fn on_abort(
        &mut self,
        answer: &impl Open,
        f: impl FnOnce(&mut Ctx<'_, S>) + 'static,
    ) -> AbortId {
        self.on_abort_of(answer.exchange(), Box::new(f))
    }

    /// For who has only the answer's name.
    pub(crate) fn on_abort_of(&mut self, to: StreamRef, call: Callback<S>) -> AbortId {
        self.core.aborts += 1;
        let n = self.core.aborts;
        let id = AbortId { to, n };
        self.core.jobs.push_back(Job::OnAbort { id, call });
        id
    }

    /// Calls off what [`Ctx::on_abort`] was told, and drops it: for an answer that stays open while many things are done
    /// for it, one after the other. If it was called already, nothing happens.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/watch", |cx, _, res| {
    ///     let events = res.events(cx);
    ///     let waits = cx.on_abort(&events, |_| log::info!("left before the first one"));
    ///     cx.after(std::time::Duration::from_secs(1), move |cx| {
    ///         cx.forget_abort(waits);
    ///         events.send(loopwright::Event::new("first"));
    ///     });
    /// });
    /// ```
    pub fn forget_abort(&mut self, id: AbortId) {
        self.core.jobs.push_back(Job::ForgetAbort(id));
    }

    /// Calls `f` once, when the client has taken so much of this body that less than half of
    /// `limits.high_water` waits; at once if that is so already. Never, if the client goes away
    /// first: see [`Ctx::on_abort`].
    ///
    /// ```
    /// use loopwright::{App, BodyWriter, Ctx};
    /// // A gigabyte, made as fast as the client takes it.
    /// fn produce(cx: &mut Ctx<'_>, body: BodyWriter, mut left: u32) {
    ///     while left > 0 && !body.is_full() {
    ///         body.write(vec![b'x'; 16 * 1024]);
    ///         left -= 1;
    ///     }
    ///     if left > 0 {
    ///         cx.on_drain(body, move |cx, body| produce(cx, body, left));
    ///     }
    /// }
    /// let mut app: App = App::new();
    /// app.get("/gigabyte", |cx, _, res| produce(cx, res.stream(), 65_536));
    /// ```
    pub fn on_drain<W: Open + 'static>(
        &mut self,
        body: W,
        f: impl FnOnce(&mut Ctx<'_, S>, W) + 'static,
    ) {
        let to = body.exchange();
        self.core.jobs.push_back(Job::OnDrain {
            to,
            call: Box::new(move |cx| f(cx, body)),
        });
    }

    /// Something to call the loop with from where there is no `Ctx`: a handle that is dropped, for example.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/", |cx, _, res| {
    ///     cx.later().call(|_| log::info!("when the handler has returned"));
    ///     res.text("now");
    /// });
    /// ```
    pub fn later(&self) -> Later<S> {
        Later(Rc::downgrade(&self.core.jobs))
    }

    /// Calls `f` at the end of this turn of the loop, when all who had something to say have said it: what many have
    /// asked for is then done once. Asked for there, it is for the end of the next turn, which comes at once.
    ///
    /// ```
    /// use loopwright::{App, Ctx};
    /// /// How many have asked since the last time.
    /// fn ask(cx: &mut Ctx<'_, u64>) {
    ///     *cx.state += 1;
    ///     if *cx.state == 1 {
    ///         cx.at_end_of_turn(|cx| log::info!("{} together", std::mem::take(cx.state)));
    ///     }
    /// }
    /// let mut app: App<u64> = App::new();
    /// app.get("/", |cx, _, res| { ask(cx); res.text("noted") });
    /// ```
    pub fn at_end_of_turn(&mut self, f: impl FnOnce(&mut Ctx<'_, S>) + 'static) {
        self.core.last.push(Box::new(f));
    }

    /// Runs `work` on another thread, then `then` with its result on this loop. For work that
    /// blocks or computes for long: a name to resolve, a password to hash, a slow disk.
    ///
    /// At most `limits.offload_threads` run at once and `limits.offload_queue` wait.
    ///
    /// # Errors
    /// `then` gets [`OffloadError::Full`] when too much waits, [`OffloadError::Panicked`] when the
    /// work did not return.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/hosts", |cx, _, res| {
    ///     let res = res.defer();
    ///     cx.offload(|| std::fs::read_to_string("/etc/hosts"), move |_, hosts| match hosts {
    ///         Ok(Ok(text)) => res.text(text),
    ///         Ok(Err(e)) => res.status(404).text(e.to_string()),
    ///         Err(full_or_panicked) => res.status(503).text(full_or_panicked.to_string()),
    ///     });
    /// });
    /// ```
    pub fn offload<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<T, OffloadError>) + 'static,
    ) {
        let result = Arc::new(Mutex::new(None));
        let for_work = result.clone();
        let finish = move |cx: &mut Ctx<'_, S>, accepted: bool| {
            let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
            let missing = if accepted {
                OffloadError::Panicked
            } else {
                OffloadError::Full
            };
            then(cx, result.ok_or(missing));
        };
        let slot = self.core.offloads.insert(Box::new(finish));
        let mailbox = self.core.mailbox.clone();
        let work = Box::new(move || {
            // Told when the work is over, however it ends.
            let _told = Told { mailbox, slot };
            let value = work();
            *for_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        });
        self.core.jobs.push_back(Job::Offload { work, slot });
    }

    /// The loop, for other threads.
    pub fn handle(&self) -> Handle<S> {
        Handle {
            mailbox: self.core.mailbox.clone(),
        }
    }

    /// Asks the loop to drain and leave; see [`Handle::stop`].
    pub fn stop(&self) {
        self.handle().stop();
    }

    /// Whether the loop was asked to stop. The time to end what has no end of its own: an answer
    /// that is streamed for as long as the client stays would hold up the drain.
    ///
    /// ```
    /// use loopwright::{App, BodyWriter, Ctx};
    /// use std::time::Duration;
    /// fn beat(cx: &mut Ctx<'_>, body: BodyWriter) {
    ///     if body.is_closed() || cx.is_stopping() { return body.end() }
    ///     body.write("beat\n");
    ///     cx.after(Duration::from_secs(1), move |cx| beat(cx, body));
    /// }
    /// let mut app: App = App::new();
    /// app.get("/beats", |cx, _, res| beat(cx, res.stream()));
    /// ```
    pub fn is_stopping(&self) -> bool {
        self.core.mailbox.is_stopping()
    }
}

/// Calls back when the callback that runs now has returned, in this turn if its budget allows: from [`Ctx::later`].
pub struct Later<S = ()>(
    // Weak: what is called may hold one of these, and the queue holds what is called.
    Weak<Queue<Job<S>>>,
);

impl<S> Clone for Later<S> {
    fn clone(&self) -> Later<S> {
        Later(self.0.clone())
    }
}

impl<S: 'static> Later<S> {
    /// Calls `f` later; one panic is one callback's, as anywhere. Nothing happens once the loop is gone.
    pub fn call(&self, f: impl FnOnce(&mut Ctx<'_, S>) + 'static) {
        if let Some(jobs) = self.0.upgrade() {
            jobs.push_back(Job::Call("what was left for later", Box::new(f)));
        }
    }
}

/// Names what is to be called if nobody waits for an answer any more: from [`Ctx::on_abort`], for [`Ctx::forget_abort`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct AbortId {
    pub(crate) to: StreamRef,
    pub(crate) n: u64,
}

struct Told<S> {
    mailbox: Arc<Mailbox<S>>,
    slot: usize,
}

impl<S> Drop for Told<S> {
    fn drop(&mut self) {
        let _ = self.mailbox.put(Post::WorkDone(self.slot));
    }
}

/// Why offloaded work has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffloadError {
    /// `limits.offload_queue` pieces of work wait already.
    Full,
    /// The work panicked.
    Panicked,
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OffloadError::Full => "too much work waits (limits.offload_queue)",
            OffloadError::Panicked => "the work panicked",
        })
    }
}

impl std::error::Error for OffloadError {}
