//! Floor 2. How a connection becomes a WebSocket: what the app looks at, what it may say, and the answer.
//!
//! ```text
//! GET ─ app.ws, app.sockets, Response::websocket ─► accept ─┬─ Err: its status, as for any request
//!                                                           └─ Ok(socket) ─► 101 ─► the loop opens it
//! ```
//! What is no opening handshake is refused before the app is asked, and nothing of the connection has changed
//! until the 101 is written.

use super::ctx::{Ctx, Job, NewSocket};
use super::failure::StatusError;
use super::request::Request;
use super::response::{Fate, Response};
use super::slow::Slow;
use super::websocket::{Line, Socket, SocketSettings};
use crate::proto::ws::extension;
use crate::proto::ws::handshake::{self, Refusal};
use crate::proto::ws::session::Session;

/// Whether messages are compressed, with clients that offer it (RFC 7692). Those shorter than
/// `limits.compress_from` are left as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Never.
    Off,
    /// Each on its own: an idle socket keeps nothing.
    #[default]
    On,
    /// With what was sent before as dictionary: better for small messages that resemble each other,
    /// at some 300 KiB a socket.
    Context,
}

impl Compression {
    fn settings(self) -> Option<extension::Settings> {
        let forgets = self != Compression::Context;
        (self != Compression::Off).then(|| extension::Settings {
            server_no_context_takeover: forgets,
            client_no_context_takeover: forgets,
            ..extension::Settings::default()
        })
    }
}
/// A client that wants a WebSocket: look at it, say what holds for it, accept by returning a socket.
///
/// ```
/// use loopwright::{App, Ctx, Message, Slow, Socket, StatusError, WebSocket};
/// # struct Trader;
/// # impl Socket for Trader {
/// #     fn message(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: Message<'_>) {}
/// # }
/// let mut app: App = App::new();
/// app.sockets("/prices", |_, _, handshake| {
///     handshake.origins(&["https://shop.example.org"])?; // else 403
///     if handshake.protocols(&["prices.v2", "prices.v1"]).is_none() {
///         return Err(StatusError::new(400, "speak prices.v2 or prices.v1"));
///     }
///     handshake.message_limit(4 * 1024).slow(Slow::DropOldest);
///     Ok(Trader)
/// });
/// ```
pub struct Handshake<'a> {
    req: &'a Request<'a>,
    agreed: handshake::Settings,
    compression: Compression,
    settings: SocketSettings,
}

impl Handshake<'_> {
    /// Only for pages of these origins: `https://example.org`, scheme, host and port as a browser says
    /// them (RFC 6454 §7). A client that says none is no browser, and passes. Without this call any page
    /// in the world may have its reader's browser connect to you, cookies included.
    ///
    /// # Errors
    /// 403, to be returned with `?`.
    pub fn origins(&mut self, allowed: &[&str]) -> Result<(), StatusError> {
        self.agreed.origins = Some(allowed.iter().map(|origin| origin.to_string()).collect());
        match handshake::accept(self.req.head, &self.agreed) {
            Err(refusal @ Refusal::Origin) => Err(StatusError::new(403, refusal.reason())),
            _ => Ok(()),
        }
    }

    /// Chooses the subprotocol: the first of `ours` that the client offers. `None`, if it offers none
    /// of them; the client then decides whether to go on without.
    pub fn protocols<'p>(&mut self, ours: &[&'p str]) -> Option<&'p str> {
        self.agreed.protocols = ours.iter().map(|name| name.to_string()).collect();
        let accepted = handshake::accept(self.req.head, &self.agreed).ok()?;
        ours.get(accepted.protocol?).copied()
    }

    /// The longest message taken, in bytes, decompressed; closed with 1009 past it. `limits.message`
    /// otherwise.
    pub fn message_limit(&mut self, bytes: usize) -> &mut Self {
        self.settings.message = bytes;
        self
    }

    /// How much may wait for this client, with some 40 bytes for each message; past it, its [`Slow`] policy
    /// decides. While a message is being sent in fragments, as much again may wait behind it.
    /// `limits.socket_output` otherwise.
    pub fn output_limit(&mut self, bytes: usize) -> &mut Self {
        self.settings.output = bytes;
        self
    }

    /// What happens to messages for it if it is slow. [`Slow::Close`] otherwise.
    pub fn slow(&mut self, policy: Slow) -> &mut Self {
        self.settings.slow = policy;
        self
    }

    /// Whether messages are compressed if the client offers it. [`Compression::On`] otherwise.
    pub fn compression(&mut self, compression: Compression) -> &mut Self {
        self.compression = compression;
        self
    }

    /// Messages are handed on as they come, to [`Socket::fragment`], and never gathered; their length
    /// has no limit then, and their least rate is `timeouts.body_rate`, as with all.
    pub fn fragments(&mut self) -> &mut Self {
        self.settings.fragments = true;
        self
    }
}

impl Response<'_> {
    /// Makes a WebSocket of the request's connection, or says why not: what [`crate::App::sockets`] does
    /// for a route, for a handler that also answers otherwise.
    ///
    /// 405, 426 or 400 for what is no opening handshake (RFC 6455 §4.2.2), the error's status where
    /// `accept` returns one, 503 while the server leaves.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Message, Socket, WebSocket};
    /// # struct Visitor;
    /// # impl Socket for Visitor {
    /// #     fn message(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: Message<'_>) {}
    /// # }
    /// let mut app: App = App::new();
    /// app.get("/", |cx, req, res| match req.wants_websocket() {
    ///     true => res.websocket(cx, req, |_, _| Ok(Visitor)),
    ///     false => res.html("<h1>Come in</h1>"),
    /// });
    /// ```
    pub fn websocket<S: 'static, T: Socket<S>>(
        self,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        accept: impl FnOnce(&mut Ctx<'_, S>, &mut Handshake<'_>) -> Result<T, StatusError>,
    ) {
        let mut handshake = Handshake {
            req,
            agreed: handshake::Settings::default(),
            compression: Compression::default(),
            settings: cx.core.sockets,
        };
        // What is no handshake is refused before the embedder is asked; origin and protocol are theirs.
        if let Err(refusal) = handshake::accept(req.head, &handshake.agreed) {
            return self.refuse_websocket(refusal);
        }
        if cx.is_stopping() {
            return self
                .status(503)
                .close()
                .text("the server is about to leave");
        }
        let socket = match accept(cx, &mut handshake) {
            Ok(socket) => socket,
            Err(e) => return self.status(e.status().as_u16()).text(e.to_string()),
        };
        let settings = handshake.settings;
        let mut agreed = handshake.agreed;
        agreed.deflate = match (settings.slow, handshake.compression) {
            // What is dropped must not be what the next message refers to.
            (Slow::DropOldest, Compression::Context) => Compression::On.settings(),
            (_, compression) => compression.settings(),
        };
        let accepted = match handshake::accept(req.head, &agreed) {
            Ok(accepted) => accepted,
            Err(refusal) => return self.refuse_websocket(refusal),
        };
        let sending = self.sending;
        for (name, value) in accepted.fields(&agreed) {
            sending.fields.push(name.as_bytes(), value.as_bytes());
        }
        if let Some(fault) = sending.fields.fault() {
            return sending.fate.set(Fate::Faulty(fault));
        }
        sending.fate.set(Fate::Answered);
        let tx = &mut sending.tx;
        tx.protocol
            .switch_protocols(tx.out.cork, sending.fields, tx.stock);
        let mut session = Session::server(accepted.deflate);
        session.set_streamed(settings.fragments);
        cx.core.jobs.push_back(Job::Socket(Box::new(NewSocket {
            to: sending.to.conn,
            socket: Box::new(socket),
            line: Line::new(session, settings),
            request: req.id,
        })));
    }

    fn refuse_websocket(mut self, refusal: Refusal) {
        for (name, value) in refusal.fields() {
            self = self.header(name, value);
        }
        self.status(refusal.status().as_u16())
            .text(refusal.reason())
    }
}
