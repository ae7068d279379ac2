//! Floor 2. Connections that the server makes, or is handed, instead of accepting: bytes both ways, and
//! what they mean is the [`Link`]'s to say. A bus, a cache, a database are spoken to so.
//!
//! ```text
//! Ctx::connect ─┬─ refused, timed out ──────────────► close
//!               └─► open ─► input, input … drained ─► close (exactly once, however it ends)
//!                             │   ▲
//!                        hold ▼   │ resume
//!                        nothing is read: the other side's kernel stops it
//! ```
//! A link is no client: it is not counted against the limits of clients, does not hold up a drain, and how
//! long its other side may take is its own to say: `timeouts.write` does not cut it.

use super::ctx::{Ctx, Job};
use super::outbox::{Command, Flow, LinkAct, Outbox};
use crate::base::id::ConnId;
use crate::net::Target;
use bytes::Bytes;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// What is at our end of a connection that we have made.
///
/// ```no_run
/// use loopwright::{App, Ctx, Link, LinkHandle, Server, Target};
///
/// /// Asks a clock for the time of day (RFC 867), and logs it.
/// struct Daytime(Vec<u8>);
///
/// impl Link<()> for Daytime {
///     fn open(&mut self, _: &mut Ctx<'_>, _: LinkHandle) {}
///     fn input(&mut self, _: &mut Ctx<'_>, bytes: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
///         self.0.extend_from_slice(bytes);
///         if self.0.len() > 100 { Err("too much for a time of day".into()) } else { Ok(()) }
///     }
///     fn close(&mut self, _: &mut Ctx<'_>, why: &str) {
///         log::info!("{:?} ({why})", String::from_utf8_lossy(&self.0));
///     }
/// }
///
/// let clock = Target::Inet("192.0.2.1:13".parse().unwrap());
/// let mut app: App = App::new();
/// app.get("/time", move |cx, _, res| {
///     cx.connect(clock.clone(), Daytime(Vec::new()));
///     res.text("see the log");
/// });
/// ```
pub trait Link<S: 'static = ()>: 'static {
    /// The connection is there.
    fn open(&mut self, cx: &mut Ctx<'_, S>, handle: LinkHandle);

    /// Bytes have arrived. What is put into `out` is sent when this returns.
    ///
    /// # Errors
    /// What is wrong with them: the connection is closed, and `close` is told.
    fn input(&mut self, cx: &mut Ctx<'_, S>, bytes: &[u8], out: &mut Vec<u8>)
    -> Result<(), String>;

    /// After [`LinkHandle::is_full`], less than half of `limits.high_water` waits.
    fn drained(&mut self, cx: &mut Ctx<'_, S>) {
        let _ = cx;
    }

    /// It is over, or has never begun, and why. Called exactly once, last.
    fn close(&mut self, cx: &mut Ctx<'_, S>, why: &str);
}

/// A [`Link`]'s connection, to write to and to close from any callback. Once it is gone, nothing happens.
#[derive(Clone)]
pub struct LinkHandle {
    pub(crate) to: ConnId,
    pub(crate) outbox: Rc<Outbox>,
    pub(crate) flow: Rc<Flow>,
}

impl LinkHandle {
    /// What [`Link::close`] is told when the other side has closed the connection in good order, and not broken it.
    pub const ENDED: &str = "the other side has closed it";

    /// Sends bytes. `false` if the connection is gone.
    pub fn write(&self, bytes: impl Into<Bytes>) -> bool {
        let bytes = bytes.into();
        if self.flow.closed.get() {
            return false;
        }
        let buffered = self.flow.buffered.get() + bytes.len();
        self.flow.buffered.set(buffered);
        let act = LinkAct::Write(bytes);
        self.outbox.push(Command::Link { to: self.to, act });
        true
    }

    /// How many bytes wait to be sent. Past `limits.output` the connection is cut.
    pub fn buffered(&self) -> usize {
        self.flow.buffered.get()
    }

    /// Whether more than `limits.high_water` waits: better to go on in [`Link::drained`].
    pub fn is_full(&self) -> bool {
        self.flow.is_full()
    }

    /// From now on nothing more is read: who sends it has to wait, and what it sends does not wait in our memory. What
    /// [`Link::input`] was given already is the link's to keep. That the connection has ended is not seen meanwhile.
    ///
    /// ```
    /// use loopwright::{Ctx, Link, LinkHandle};
    /// use std::time::Duration;
    /// /// Takes what comes in gulps, ten a second.
    /// struct Sipper(Option<LinkHandle>);
    /// impl Link<()> for Sipper {
    ///     fn open(&mut self, _: &mut Ctx<'_>, handle: LinkHandle) { self.0 = Some(handle) }
    ///     fn input(&mut self, cx: &mut Ctx<'_>, _: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
    ///         if let Some(handle) = self.0.clone() {
    ///             handle.hold();
    ///             cx.after(Duration::from_millis(100), move |_| handle.resume());
    ///         }
    ///         Ok(())
    ///     }
    ///     fn close(&mut self, _: &mut Ctx<'_>, _: &str) {}
    /// }
    /// ```
    pub fn hold(&self) {
        self.flow.held.set(true);
    }

    /// The end of that.
    pub fn resume(&self) {
        if self.flow.held.replace(false) {
            let act = LinkAct::Resume;
            self.outbox.push(Command::Link { to: self.to, act });
        }
    }

    /// The connection is gone.
    pub fn is_closed(&self) -> bool {
        self.flow.closed.get()
    }

    /// Closes it, when what was written is out.
    pub fn close(&self) {
        let act = LinkAct::Close;
        self.outbox.push(Command::Link { to: self.to, act });
    }

    /// Closes it now, and drops what waits: for one whose other side takes nothing any more. [`Link::close`]
    /// is told `why`.
    pub fn abort(&self, why: &str) {
        let act = LinkAct::Abort(why.into());
        self.outbox.push(Command::Link { to: self.to, act });
    }
}

/// What a new link is made of.
pub(crate) enum Origin {
    Connect(Target),
    Adopt(UnixStream),
}

impl<S: 'static> Ctx<'_, S> {
    /// Connects to `target`; `link` is told how it goes, in a later callback. Within `timeouts.connect`.
    /// Names are not resolved here, for that blocks: see [`Ctx::offload`].
    pub fn connect(&mut self, target: Target, link: impl Link<S>) {
        let (from, link) = (Origin::Connect(target), Box::new(link));
        self.core.jobs.push_back(Job::Link { from, link });
    }

    /// Goes on with a connection that somebody else has made: a half of a socket pair, a socket that came
    /// through another one.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Link, LinkHandle, Server};
    /// use std::{io::Read, os::unix::net::UnixStream};
    ///
    /// struct Greeter;
    /// impl Link<()> for Greeter {
    ///     fn open(&mut self, cx: &mut Ctx<'_>, handle: LinkHandle) {
    ///         handle.write("hello");
    ///         handle.close();
    ///     }
    ///     fn input(&mut self, _: &mut Ctx<'_>, _: &[u8], _: &mut Vec<u8>) -> Result<(), String> { Ok(()) }
    ///     fn close(&mut self, cx: &mut Ctx<'_>, _: &str) { cx.stop() }
    /// }
    ///
    /// let (ours, mut theirs) = UnixStream::pair().unwrap();
    /// let mut server = Server::bind("127.0.0.1:0", App::new(), ()).unwrap();
    /// server.handle().post(move |cx| cx.adopt(ours, Greeter)).unwrap();
    /// let reader = std::thread::spawn(move || {
    ///     let mut text = String::new();
    ///     theirs.read_to_string(&mut text).unwrap();
    ///     text
    /// });
    /// server.run().unwrap();
    /// assert_eq!(reader.join().unwrap(), "hello");
    /// ```
    pub fn adopt(&mut self, stream: UnixStream, link: impl Link<S>) {
        let (from, link) = (Origin::Adopt(stream), Box::new(link));
        self.core.jobs.push_back(Job::Link { from, link });
    }
}
