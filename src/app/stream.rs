//! Floor 2. Bodies in pieces: on their way in, and on their way out.
//!
//! ```text
//! client ─► Incoming ── fold ──► your step  ── Demand ─► read on, or pause the socket
//!                    └─ pipe ──► BodyWriter ── write ──► backlog ─► client
//! ```
//! Back-pressure is one value: a step (or a write) says what it can take next, and the loop stops
//! reading the socket until then.

use super::ctx::{Ctx, Job};
use super::outbox::{Command, Flow, Outbox};
use crate::base::id::StreamRef;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::body::{Trailers, may_follow};
use bytes::Bytes;
use std::fmt;
use std::rc::Rc;

/// What a step of a body can take next.
///
/// ```
/// use loopwright::{App, Demand};
/// let mut app: App = App::new();
/// // An echo that reads only as fast as the client takes its answer.
/// app.stream("POST", "/echo", |cx, _, res, body| {
///     body.fold(cx, res.defer().stream(), |out, _, chunk| out.write(chunk.to_vec()), |out, _, _| out.end());
/// });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    /// The next piece.
    More,
    /// Nothing until the [`BodyWriter`] whose `write` said so has room again.
    UntilDrained(#[doc(hidden)] StreamRef),
    /// Nothing until [`Resume::resume`].
    Hold,
}

#[cfg(feature = "postgres")]
impl<S: 'static> Ctx<'_, S> {
    /// After [`Demand::UntilDrained`]: calls `drained` when there is room. For what feeds an answer, and is no body itself.
    pub(crate) fn on_demand(
        &mut self,
        to: StreamRef,
        drained: impl FnOnce(&mut Ctx<'_, S>) + 'static,
    ) {
        let call = Box::new(drained);
        self.core.jobs.push_back(Job::OnDrain { to, call });
    }
}

/// Why a body did not arrive, or an answer did not leave, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aborted {
    /// The client is gone, too slow, or broke the protocol.
    Connection,
    /// The answer was complete before the body; nobody waits for the rest.
    Answered,
    /// The body grew over its route's `body_limit`.
    TooLarge,
    /// The step that received it panicked.
    Panicked,
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aborted::Connection => "the connection ended first",
            Aborted::Answered => "the answer was complete first",
            Aborted::TooLarge => "the body is over the route's body_limit",
            Aborted::Panicked => "the callback that received the body panicked",
        })
    }
}

impl std::error::Error for Aborted {}

/// Where the pieces of an incoming body go.
pub(crate) trait BodySink<S> {
    fn chunk(&mut self, cx: &mut Ctx<'_, S>, bytes: &[u8]) -> Demand;
    fn end(self: Box<Self>, cx: &mut Ctx<'_, S>, how: Result<Trailers<'_>, Aborted>);
}

struct Fold<T, F, G> {
    state: T,
    step: F,
    end: G,
}

impl<S, T, F, G> BodySink<S> for Fold<T, F, G>
where
    F: FnMut(&mut T, &mut Ctx<'_, S>, &[u8]) -> Demand,
    G: FnOnce(T, &mut Ctx<'_, S>, Result<Trailers<'_>, Aborted>),
{
    fn chunk(&mut self, cx: &mut Ctx<'_, S>, bytes: &[u8]) -> Demand {
        (self.step)(&mut self.state, cx, bytes)
    }
    fn end(self: Box<Self>, cx: &mut Ctx<'_, S>, how: Result<Trailers<'_>, Aborted>) {
        let Fold { state, end, .. } = *self;
        end(state, cx, how)
    }
}

/// A body on its way in. Nothing of it is read before one of the methods says where it goes;
/// dropped, it is read and thrown away within `limits.discard`, or the connection closes.
#[must_use = "a body that is dropped is discarded"]
pub struct Incoming {
    from: StreamRef,
    outbox: Rc<Outbox>,
    taken: bool,
    /// Of what is collected in memory, where no route has a limit.
    most: usize,
}

impl Incoming {
    pub(crate) fn new(from: StreamRef, outbox: Rc<Outbox>) -> Incoming {
        Incoming {
            from,
            outbox,
            taken: false,
            most: usize::MAX,
        }
    }

    /// The same, of which so much may be collected.
    pub(crate) fn limited(self, most: usize) -> Incoming {
        let mut all = self;
        all.most = most;
        all
    }

    /// Whose body it is.
    pub(crate) fn source(&self) -> StreamRef {
        self.from
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whose body it is; somebody sees to it.
    pub(crate) fn take_source(&mut self) -> StreamRef {
        self.taken = true;
        self.from
    }

    /// Calls `step` for each piece as it arrives, then `end` exactly once: with the trailers if the
    /// body is complete, else with the reason. `state` is theirs from piece to piece.
    ///
    /// ```
    /// use loopwright::{App, Demand};
    /// let mut app: App = App::new();
    /// app.stream("POST", "/upload", |cx, _, res, body| {
    ///     body.fold(cx, (0, res.defer()),
    ///         |(total, _), _, chunk| { *total += chunk.len(); Demand::More },
    ///         |(total, res), _, end| if end.is_ok() { res.text(format!("{total} bytes")) });
    /// });
    /// ```
    pub fn fold<S: 'static, T: 'static>(
        mut self,
        cx: &mut Ctx<'_, S>,
        state: T,
        step: impl FnMut(&mut T, &mut Ctx<'_, S>, &[u8]) -> Demand + 'static,
        end: impl FnOnce(T, &mut Ctx<'_, S>, Result<Trailers<'_>, Aborted>) + 'static,
    ) {
        self.taken = true;
        cx.core.jobs.push_back(Job::Sink {
            from: self.from,
            sink: Box::new(Fold { state, step, end }),
        });
    }

    /// Collects the whole body, up to the route's `body_limit` (an upstream's `limits.collect`), and calls `then`.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.stream("POST", "/reverse", |cx, _, res, body| {
    ///     let res = res.defer();
    ///     body.collect(cx, |_, body| if let Ok(mut body) = body { body.reverse(); res.bytes(body) });
    /// });
    /// ```
    pub fn collect<S: 'static>(
        self,
        cx: &mut Ctx<'_, S>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Vec<u8>, Aborted>) + 'static,
    ) {
        let most = self.most;
        let step = move |all: &mut Option<Vec<u8>>, _: &mut Ctx<'_, S>, chunk: &[u8]| {
            if let Some(bytes) = all.as_mut().filter(|all| all.len() + chunk.len() <= most) {
                bytes.extend_from_slice(chunk);
            } else {
                *all = None;
            }
            Demand::More
        };
        self.fold(cx, Some(Vec::new()), step, |all, cx, how| {
            then(cx, how.and_then(|_| all.ok_or(Aborted::TooLarge)))
        });
    }

    /// Sends the body to a client as it arrives, without a callback: read only as fast as it is
    /// taken. Trailers follow, but for those that must not (RFC 9110 §6.5.1). If the body does not arrive whole, the answer is cut off, so that nobody takes a part
    /// for the whole.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.stream("POST", "/echo", |_, _, res, body| body.pipe(res.defer().stream()));
    /// ```
    pub fn pipe(mut self, to: BodyWriter) {
        self.taken = true;
        // Before the beginning of its answer, if that is queued: once that is out, a client that waits
        // for leave to send its body could not be given it any more.
        self.outbox.push_first(Command::Pipe {
            from: self.from,
            to: to.into_target(),
        });
    }

    /// A handle that ends a [`Demand::Hold`].
    ///
    /// ```
    /// use loopwright::{App, Demand};
    /// use std::time::Duration;
    /// let mut app: App = App::new();
    /// // Takes one piece every 10 ms.
    /// app.stream("PUT", "/slowly", |cx, _, res, body| {
    ///     let resume = body.resume_handle();
    ///     body.fold(cx, res.defer(), move |_, cx, _| {
    ///         let resume = resume.clone();
    ///         cx.after(Duration::from_millis(10), move |_| resume.resume());
    ///         Demand::Hold
    ///     }, |res, _, _| res.text("done"));
    /// });
    /// ```
    pub fn resume_handle(&self) -> Resume {
        Resume {
            from: self.from,
            outbox: self.outbox.clone(),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.taken {
            self.outbox.push(Command::Discard { from: self.from });
        }
    }
}

/// Ends a [`Demand::Hold`]; from [`Incoming::resume_handle`].
#[derive(Clone)]
pub struct Resume {
    from: StreamRef,
    outbox: Rc<Outbox>,
}

impl Resume {
    /// The body may go on. Harmless when it is not held, or long over.
    pub fn resume(&self) {
        self.outbox.push(Command::Resume { from: self.from });
    }
}

/// A body on its way out: chunked for HTTP/1.1, until the end of the connection for HTTP/1.0.
/// Dropping it ends the body; [`BodyWriter::abort`] cuts it off.
///
/// ```
/// use loopwright::App;
/// let mut app: App = App::new();
/// app.get("/count", |_, _, res| {
///     let body = res.defer().stream();
///     for n in 0..3 {
///         body.write(format!("{n}\n"));
///     }
///     body.end();
/// });
/// ```
#[must_use = "a body writer that is dropped ends the body"]
pub struct BodyWriter {
    to: StreamRef,
    outbox: Rc<Outbox>,
    flow: Rc<Flow>,
    open: bool,
}

impl BodyWriter {
    pub(crate) fn new(to: StreamRef, outbox: Rc<Outbox>, flow: Rc<Flow>) -> BodyWriter {
        BodyWriter {
            to,
            outbox,
            flow,
            open: true,
        }
    }

    /// Sends a piece. The answer says whether more may follow at once: past `limits.high_water` it
    /// is [`Demand::UntilDrained`], which a `fold` step may return as its own, and after which other
    /// producers wait for [`Ctx::on_drain`]. Written all the same, it is buffered up to
    /// `limits.output`; past that the answer is broken off, and the connection closes. Once the client is gone, pieces vanish.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Demand {
        let bytes = bytes.into();
        if self.flow.closed.get() || bytes.is_empty() {
            return Demand::More;
        }
        self.flow
            .buffered
            .set(self.flow.buffered.get() + bytes.len());
        self.outbox.push(Command::Chunk { to: self.to, bytes });
        if self.is_full() {
            Demand::UntilDrained(self.to)
        } else {
            Demand::More
        }
    }

    /// Whether more than `limits.high_water` waits for the client.
    pub fn is_full(&self) -> bool {
        self.flow.is_full()
    }

    /// `limits.high_water`.
    pub(crate) fn high_water(&self) -> usize {
        self.flow.high_water
    }

    /// The client is gone; nothing that is written arrives.
    pub fn is_closed(&self) -> bool {
        self.flow.closed.get()
    }

    /// The body is complete.
    pub fn end(self) {}

    /// The body is complete; these fields follow it, if it is chunked (RFC 9110 §6.5). A field that
    /// must not be a trailer, or is no field, is left out.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/summed", |_, _, res| {
    ///     let body = res.header("trailer", "checksum").defer().stream();
    ///     body.write("data");
    ///     body.end_with_trailers(&[("checksum", "d0f7")]);
    /// });
    /// ```
    pub fn end_with_trailers(mut self, trailers: &[(&str, &str)]) {
        self.open = false;
        let mut fields = FieldBlock::default();
        for (name, value) in trailers {
            if may_follow(name) {
                fields.push(name.as_bytes(), value.as_bytes());
            }
        }
        self.outbox.push(Command::End {
            to: self.to,
            trailers: fields,
        });
    }

    /// The body cannot be completed: the connection is cut, so that the client knows.
    pub fn abort(mut self) {
        self.open = false;
        self.outbox.push(Command::Abort { to: self.to });
    }

    fn into_target(mut self) -> StreamRef {
        self.open = false;
        self.to
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if self.open {
            self.outbox.push(Command::End {
                to: self.to,
                trailers: FieldBlock::default(),
            });
        }
    }
}

/// Something that stands for an exchange whose answer is still open: [`super::response::Responder`]
/// and [`BodyWriter`].
pub trait Open: sealed::Sealed {
    #[doc(hidden)]
    fn exchange(&self) -> StreamRef;
}

impl Open for BodyWriter {
    fn exchange(&self) -> StreamRef {
        self.to
    }
}

pub(crate) mod sealed {
    pub trait Sealed {}
    impl Sealed for super::BodyWriter {}
}
