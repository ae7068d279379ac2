//! Floor 2. What a future can await: time, answers, work elsewhere, bodies in and out, a WebSocket's messages.
//!
//! Each is a callback of the loop's behind [`Task::call`]; what comes piece by piece waits in a queue that has a
//! limit, and holds its source when that is full.

use super::ctx::{Ctx, Job, OffloadError};
use super::failure::{Outcome, StatusError};
use super::fetch::{Fetch, FetchError};
use super::outbox::{Command, Outbox, Queue, SocketAct};
use super::owned::{OwnedFetched, OwnedMessage, OwnedRequest};
use super::routes::{App, Route};
use super::slow::Sent;
use super::stream::{Aborted, BodySink, BodyWriter, Demand, Incoming, Open, Resume};
use super::task::{Call, SpawnError, Task};
use super::websocket::{Closed, Message, Socket, SocketHandle, WebSocket};
use crate::base::id::StreamRef;
use crate::proto::h1::body::Trailers;
use bytes::Bytes;
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

impl<S: 'static> Task<S> {
    /// Ready `delay` after it was first polled: to the millisecond, never early.
    pub fn sleep(&self, delay: Duration) -> Call<S, ()> {
        self.cancellable(move |cx, done| {
            let timer = cx.after(delay, move |_| done.resolve(()));
            move |cx: &mut Ctx<'_, S>| {
                cx.cancel(timer);
            }
        })
    }

    /// Lets everybody else have a turn: for work that is long, and can be done in steps.
    pub async fn yield_now(&self) {
        let mut polled = false;
        poll_fn(|cx| match std::mem::replace(&mut polled, true) {
            true => Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
    }

    /// `future`, for no longer than `limit`; then it is dropped.
    ///
    /// # Errors
    /// [`Elapsed`].
    ///
    /// ```
    /// use loopwright::{App, StatusError, asynchronous};
    /// use std::time::Duration;
    /// let mut app: App = App::new();
    /// app.get("/", asynchronous(|task, _, res| async move {
    ///     let work = task.offload(|| 6 * 7);
    ///     match task.timeout(Duration::from_millis(100), work).await {
    ///         Ok(answer) => res.text(answer?.to_string()),
    ///         Err(elapsed) => res.status(504).text(elapsed.to_string()),
    ///     }
    ///     Ok::<_, loopwright::OffloadError>(())
    /// }));
    /// ```
    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let (mut future, mut sleep) = (pin!(future), self.sleep(limit));
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed(limit))),
        })
        .await
    }

    /// [`Ctx::fetch`]: ready when the head of the answer is there. Dropped, it is cancelled.
    ///
    /// # Errors
    /// Why there is no answer.
    ///
    /// ```
    /// use loopwright::{App, Fetch, FetchError, Upstream, asynchronous};
    /// let mut app: App = App::new();
    /// app.upstream("weather", Upstream::new(["http://127.0.0.1:9000"]));
    /// app.get("/today", asynchronous(|task, _, res| async move {
    ///     match task.fetch("weather", Fetch::get("/forecast?days=1")).await {
    ///         Ok(answer) => answer.pipe(res),
    ///         Err(why) => res.status(why.status().as_u16()).text(why.to_string()),
    ///     }
    /// }));
    /// ```
    pub fn fetch(&self, upstream: &str, fetch: Fetch) -> Call<S, Result<OwnedFetched, FetchError>> {
        let upstream: Box<str> = upstream.into();
        self.cancellable(move |cx, done| {
            let fetch = cx.fetch(&upstream, fetch, move |_, answer| {
                done.resolve(answer.map(|answer| answer.into_owned()));
            });
            move |_: &mut Ctx<'_, S>| fetch.cancel()
        })
    }

    /// [`Ctx::offload`]: ready when the work is done on its thread. Dropped, the work goes on all the same, and its result
    /// is lost.
    ///
    /// # Errors
    /// As [`Ctx::offload`].
    pub fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Call<S, Result<T, OffloadError>> {
        self.call(|cx, done| cx.offload(work, move |_, result| done.resolve(result)))
    }

    /// A whole body, up to its route's `body_limit` or its upstream's `limits.collect`.
    ///
    /// # Errors
    /// Why it did not come.
    ///
    /// ```
    /// use loopwright::{Aborted, App, asynchronous_stream};
    /// let mut app: App = App::new();
    /// app.stream("POST", "/reverse", asynchronous_stream(|task, _, res, body| async move {
    ///     let mut body = task.collect(body).await?;
    ///     body.reverse();
    ///     res.bytes(body);
    ///     Ok::<_, Aborted>(())
    /// }));
    /// ```
    pub fn collect(&self, body: Incoming) -> Call<S, Result<Vec<u8>, Aborted>> {
        let from = body.source();
        self.cancellable(move |cx, done| {
            // Of an exchange that is over, nobody is told.
            let done = done.otherwise(Err(Aborted::Connection));
            body.collect(cx, move |_, body| done.resolve(body));
            move |cx: &mut Ctx<'_, S>| cx.core.outbox.push(Command::Discard { from })
        })
    }

    /// A body, piece by piece: it is read on only as fast as they are taken.
    pub fn chunks(&self, mut body: Incoming) -> Chunks {
        let resume = body.resume_handle();
        let pipe = Rc::new(Pipe {
            most: Cell::new(self.tasks.outbox.high_water.get()),
            ..Pipe::default()
        });
        let from = body.take_source();
        let sink = Box::new(ChunkSink(pipe.clone()));
        self.tasks.jobs.push_back(Job::Sink { from, sink });
        Chunks {
            pipe,
            resume,
            from,
            outbox: self.tasks.outbox.clone(),
        }
    }

    /// Writes a piece of an answer, and waits until there is room for more: until less than half of
    /// `limits.high_water` waits for the client.
    ///
    /// # Errors
    /// [`Aborted::Connection`]: the client has gone, and there is no use in more. (The task is dropped as well, unless
    /// it was spawned.)
    ///
    /// ```
    /// use loopwright::{Aborted, App, asynchronous};
    /// let mut app: App = App::new();
    /// app.get("/gigabyte", asynchronous(|task, _, res| async move {
    ///     let body = res.stream();
    ///     for _ in 0..65_536 {
    ///         task.write(&body, vec![b'x'; 16 * 1024]).await?; // as fast as the client takes it
    ///     }
    ///     Ok::<_, Aborted>(())
    /// }));
    /// ```
    pub async fn write(&self, body: &BodyWriter, bytes: impl Into<Bytes>) -> Result<(), Aborted> {
        body.write(bytes);
        match body.is_full() {
            true => self.drained(body).await,
            false if body.is_closed() => Err(Aborted::Connection),
            false => Ok(()),
        }
    }

    /// Waits until less than half of `limits.high_water` waits for the client.
    ///
    /// # Errors
    /// As [`Task::write`].
    pub fn drained(&self, body: &BodyWriter) -> Call<S, Result<(), Aborted>> {
        let to = body.exchange();
        self.call(move |cx, done| {
            let done = done.otherwise(Err(Aborted::Connection));
            let call = Box::new(move |_: &mut Ctx<'_, S>| done.resolve(Ok(())));
            cx.core.jobs.push_back(Job::OnDrain { to, call });
        })
    }
}

impl OwnedFetched {
    /// The whole body, up to the upstream's `limits.collect`.
    ///
    /// # Errors
    /// Why it did not come.
    pub fn collect<S: 'static>(self, task: &Task<S>) -> Call<S, Result<Vec<u8>, Aborted>> {
        task.collect(self.into_body())
    }
}

/// [`Task::timeout`] was over first: it lasted that long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed(pub Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not done within {:?}", self.0)
    }
}

impl std::error::Error for Elapsed {}

/// What comes piece by piece, between the callback that brings it and the future that takes it.
struct Pipe<T, E> {
    waiting: Queue<T>,
    /// Of what waits.
    bytes: Cell<usize>,
    /// Past that the source is held.
    most: Cell<usize>,
    held: Cell<bool>,
    /// Nobody takes it any more.
    unwanted: Cell<bool>,
    ended: Cell<bool>,
    end: Cell<Option<E>>,
    waker: Cell<Option<Waker>>,
}

impl<T, E> Default for Pipe<T, E> {
    fn default() -> Self {
        Pipe {
            waiting: Queue::default(),
            bytes: Cell::new(0),
            most: Cell::new(0),
            held: Cell::new(false),
            unwanted: Cell::new(false),
            ended: Cell::new(false),
            end: Cell::new(None),
            waker: Cell::new(None),
        }
    }
}

impl<T, E> Pipe<T, E> {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Says whether the source is to be held.
    fn put(&self, item: T, bytes: usize) -> bool {
        if self.unwanted.get() {
            return false;
        }
        self.waiting.push_back(item);
        self.bytes.set(self.bytes.get() + bytes);
        self.held.set(self.bytes.get() >= self.most.get());
        self.wake();
        self.held.get()
    }

    fn end(&self, how: E) {
        if !self.ended.replace(true) {
            self.end.set(Some(how));
            self.wake();
        }
    }

    /// The next, and how many bytes that frees; `Ready(None)` at the end.
    fn poll(&self, cx: &Context<'_>, size: impl Fn(&T) -> usize) -> Poll<Option<T>> {
        if let Some(item) = self.waiting.pop_front() {
            self.bytes.set(self.bytes.get() - size(&item));
            return Poll::Ready(Some(item));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// There is room again in a source that was held.
    fn has_room(&self) -> bool {
        self.bytes.get() <= self.most.get() / 2 && self.held.replace(false)
    }

    fn drop_all(&self) {
        self.unwanted.set(true);
        while self.waiting.pop_front().is_some() {}
    }
}

/// A body on its way in, from [`Task::chunks`]. Dropped, the rest of it is discarded.
///
/// ```
/// use loopwright::{Aborted, App, asynchronous_stream};
/// let mut app: App = App::new();
/// // An echo that reads only as fast as the client takes its answer.
/// app.stream("POST", "/echo", asynchronous_stream(|task, _, res, body| async move {
///     let (mut chunks, out) = (task.chunks(body), res.stream());
///     while let Some(chunk) = chunks.next().await {
///         task.write(&out, chunk?).await?;
///     }
///     Ok::<_, Aborted>(())
/// }));
/// ```
pub struct Chunks {
    pipe: Rc<Pipe<Bytes, Result<(), Aborted>>>,
    resume: Resume,
    from: StreamRef,
    outbox: Rc<Outbox>,
}

impl Chunks {
    /// The next piece; `None` at the end of a body that has come whole.
    ///
    /// # Errors
    /// Why it did not: said once, last.
    pub async fn next(&mut self) -> Option<Result<Bytes, Aborted>> {
        let next = poll_fn(|cx| self.pipe.poll(cx, Bytes::len)).await;
        if next.is_some() && self.pipe.has_room() {
            self.resume.resume();
        }
        match next {
            Some(chunk) => Some(Ok(chunk)),
            None => self.pipe.end.take()?.err().map(Err),
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.pipe.drop_all();
        if !self.pipe.ended.get() {
            // An upstream's answer can be given up. A request's body is read to its end, and dropped.
            self.outbox.push(Command::Discard { from: self.from });
            self.resume.resume();
        }
    }
}

struct ChunkSink(Rc<Pipe<Bytes, Result<(), Aborted>>>);

impl<S> BodySink<S> for ChunkSink {
    fn chunk(&mut self, _: &mut Ctx<'_, S>, bytes: &[u8]) -> Demand {
        let chunk = match self.0.unwanted.get() {
            true => Bytes::new(),
            false => Bytes::copy_from_slice(bytes),
        };
        match self.0.put(chunk, bytes.len()) {
            true => Demand::Hold,
            false => Demand::More,
        }
    }

    fn end(self: Box<Self>, _: &mut Ctx<'_, S>, how: Result<Trailers<'_>, Aborted>) {
        self.0.end(how.map(|_| ()));
    }
}

impl Drop for ChunkSink {
    fn drop(&mut self) {
        // The loop has ended first.
        self.0.end(Err(Aborted::Connection));
    }
}

/// What waits of a message costs its place as well.
fn cost(message: &OwnedMessage) -> usize {
    message.as_bytes().len() + size_of::<OwnedMessage>()
}

/// Between a socket's callbacks and its task.
struct Conversation {
    pipe: Pipe<OwnedMessage, (u16, String)>,
    /// How often it has drained.
    drains: Cell<u64>,
    /// Who waits for that, each once.
    writers: Cell<Vec<Waker>>,
}

/// A WebSocket, for a future: of [`App::ws_async`]. It ends with its task: closed with 1000 when that is over, with 1011
/// when it failed.
///
/// ```
/// use loopwright::{App, Sent};
/// let mut app: App = App::new();
/// app.ws_async("/echo", |_, _, mut socket| async move {
///     while let Some(message) = socket.next().await {
///         if socket.send(&message).await == Sent::Closed { break }
///     }
/// });
/// ```
pub struct AsyncSocket<S = ()> {
    conversation: Rc<Conversation>,
    handle: SocketHandle,
    task: Task<S>,
}

impl<S: 'static> AsyncSocket<S> {
    /// The next message; `None` when the socket is closed. While more than `limits.high_water` of them waits for
    /// the task, nothing is read from the client.
    pub async fn next(&mut self) -> Option<OwnedMessage> {
        let pipe = &self.conversation.pipe;
        let next = poll_fn(|cx| pipe.poll(cx, cost)).await;
        if next.is_some() && pipe.has_room() {
            self.handle.resume();
        }
        next
    }

    /// Sends a message, and waits until there is room for more. What is for a slow client, its [`crate::Slow`] policy
    /// decides; [`Sent::Dropped`] and [`Sent::Closed`] are told.
    pub async fn send<'m>(&self, message: impl Into<Message<'m>>) -> Sent {
        let message = message.into();
        let (kind, bytes) = (message.kind(), Bytes::copy_from_slice(message.as_bytes()));
        let (handle, conversation) = (self.handle.clone(), self.conversation.clone());
        let sent = self.task.call(move |_, done| {
            // Nobody says it of a socket that is gone.
            let done = done.otherwise((Sent::Closed, 0));
            // It may have drained before this task has its next turn.
            let told = move |sent| done.resolve((sent, conversation.drains.get()));
            handle.act(SocketAct::SendThen(kind, bytes, Box::new(told)));
        });
        let (sent, before) = sent.await;
        if sent != Sent::Full {
            return sent;
        }
        let Conversation {
            pipe,
            drains,
            writers,
        } = &*self.conversation;
        poll_fn(|cx| {
            if drains.get() != before {
                return Poll::Ready(Sent::Taken);
            }
            if pipe.ended.get() {
                return Poll::Ready(Sent::Closed);
            }
            let mut waiting = writers.take();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            writers.set(waiting);
            Poll::Pending
        })
        .await
    }

    /// Closes it, as [`WebSocket::close`]; what has arrived before is still to be had.
    pub fn close(&self, code: u16, reason: &str) {
        self.handle.close(code, reason);
    }

    /// How it ended, if it has: code and reason, as [`Closed`] has them.
    pub fn closed(&self) -> Option<(u16, String)> {
        let end = &self.conversation.pipe.end;
        let how = end.take();
        end.set(how.clone());
        how
    }

    /// To send without waiting, and from elsewhere.
    pub fn handle(&self) -> &SocketHandle {
        &self.handle
    }
}

impl<S> fmt::Debug for AsyncSocket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsyncSocket")
    }
}

/// A [`Socket`] whose messages a future takes: for [`App::sockets`] and [`crate::Response::websocket`], where there is more to
/// say of a handshake than [`App::ws_async`] does.
///
/// ```
/// use loopwright::{App, asynchronous_socket};
/// let mut app: App = App::new();
/// app.sockets("/chat/{name}", |_, req, handshake| {
///     handshake.origins(&["https://example.org"])?;
///     handshake.message_limit(4096);
///     let name = req.param("name").to_string();
///     Ok(asynchronous_socket(async move |_, mut socket| {
///         while let Some(message) = socket.next().await {
///             log::info!("{name}: {message:?}");
///         }
///     }))
/// });
/// ```
#[track_caller]
pub fn asynchronous_socket<S, F>(
    f: impl FnOnce(Task<S>, AsyncSocket<S>) -> F + 'static,
) -> impl Socket<S>
where
    S: 'static,
    F: Future<Output: Outcome> + 'static,
{
    socket_at(f, Location::caller())
}

fn socket_at<S, F>(
    f: impl FnOnce(Task<S>, AsyncSocket<S>) -> F + 'static,
    at: &'static Location<'static>,
) -> TaskSocket<S>
where
    S: 'static,
    F: Future<Output: Outcome> + 'static,
{
    let begin: Begin<S> = Box::new(move |task, socket| {
        let ends = Ends(Some(socket.handle.clone()));
        let future = f(task.clone(), socket);
        let ended = async move {
            if let Some(failure) = future.await.failure() {
                log::error!("a WebSocket's task failed: {}", failure.message());
            } else {
                ends.well();
            }
        };
        task.spawn_at(ended, at).map(drop)
    });
    let conversation = Rc::new(Conversation {
        pipe: Pipe::default(),
        drains: Cell::new(0),
        writers: Cell::default(),
    });
    TaskSocket {
        begin: Some(begin),
        conversation,
    }
}

type Begin<S> = Box<dyn FnOnce(Task<S>, AsyncSocket<S>) -> Result<(), SpawnError>>;

/// Closes a socket whose task is over, however that came about.
struct Ends(Option<SocketHandle>);

impl Ends {
    fn well(mut self) {
        if let Some(handle) = self.0.take() {
            handle.close(1000, "");
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.close(1011, "");
        }
    }
}

struct TaskSocket<S> {
    begin: Option<Begin<S>>,
    conversation: Rc<Conversation>,
}

impl<S: 'static> Socket<S> for TaskSocket<S> {
    fn open(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>) {
        self.conversation.pipe.most.set(ws.high_water);
        let (conversation, handle) = (self.conversation.clone(), ws.handle());
        let socket = AsyncSocket {
            conversation,
            handle,
            task: cx.task(),
        };
        let begun = self.begin.take().map(|begin| begin(cx.task(), socket));
        if let Some(Err(why)) = begun {
            log::error!("a WebSocket is closed: {why}");
            ws.close(TRY_AGAIN_LATER, "");
        }
    }

    fn message(&mut self, _: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        let message = OwnedMessage::from(message);
        let cost = cost(&message);
        if self.conversation.pipe.put(message, cost) {
            ws.hold();
        }
    }

    fn drained(&mut self, _: &mut Ctx<'_, S>, _: &mut WebSocket<'_>) {
        let Conversation {
            drains, writers, ..
        } = &*self.conversation;
        drains.set(drains.get() + 1);
        wake_all(writers);
    }

    fn close(&mut self, _: &mut Ctx<'_, S>, closed: Closed<'_>) {
        let how = (closed.code, closed.reason.to_string());
        self.conversation.pipe.end(how);
        wake_all(&self.conversation.writers);
    }
}

/// RFC 6455 §7.4.1, IANA: overloaded.
const TRY_AGAIN_LATER: u16 = 1013;

fn wake_all(wakers: &Cell<Vec<Waker>>) {
    wakers.take().into_iter().for_each(Waker::wake);
}

impl<S: 'static> App<S> {
    /// A WebSocket (RFC 6455) whose messages a future takes, one future for each client. It goes on after the socket's
    /// end until it is over by itself; when it is, the socket is closed. At `limits.tasks` the handshake is refused
    /// with 503.
    ///
    /// See [`AsyncSocket`] for an example, and [`asynchronous_socket`] for handshakes that have more to say.
    #[track_caller]
    pub fn ws_async<F>(
        &mut self,
        path: &str,
        f: impl Fn(Task<S>, OwnedRequest, AsyncSocket<S>) -> F + 'static,
    ) -> &mut Route<S>
    where
        F: Future<Output: Outcome> + 'static,
    {
        let (f, at) = (Rc::new(f), Location::caller());
        self.sockets(path, move |cx, req, _| {
            let task = cx.task();
            if let Err(why) = task.room() {
                log::error!("{}: its WebSocket is refused: {why}", req.id());
                return Err(StatusError::new(503, "Service Unavailable"));
            }
            let (f, req) = (f.clone(), req.to_owned());
            Ok(socket_at(move |task, socket| f(task, req, socket), at))
        })
    }
}
