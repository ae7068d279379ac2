//! Floor 2. Answering: now, through the connection that is being served; or later, through the outbox.
//!
//! ```text
//!                    ┌─ text, json, file … ──► bytes in the loop's output buffer
//!  callback ─ Response ─ stream ─► BodyWriter
//!                    └─ defer ─► Responder ─ text, json, file … ──► a command, settled by the loop
//! ```
//! Both are consumed by answering, so answering twice does not compile; a `Response` borrows from
//! the loop, so it cannot outlive its callback; a `Responder` is `!Send`, so it stays on its loop.
//! Whoever drops one unanswered has answered 500.

use super::body::Body;
use super::ctx::Ctx;
use super::events::{self, Events};
use super::outbox::{Command, Flow, Outbox, Reply};
use super::stream::{BodyWriter, Open, sealed};
use crate::base::backlog::{FileSlice, Output};
use crate::base::clock::{Instant, StockFields};
use crate::base::id::StreamRef;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::server::{Extent, Server as Http1};
use http::StatusCode;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// The sending half of the exchange that is being served.
pub(crate) struct Tx<'a> {
    pub(crate) protocol: &'a mut Http1,
    pub(crate) out: Output<'a>,
    pub(crate) stock: &'a StockFields,
    pub(crate) now: Instant,
    /// `limits.discard`: how much of an unread body may be thrown away to keep the connection.
    pub(crate) discard: u64,
}

impl Tx<'_> {
    /// Sends a whole answer.
    pub(crate) fn send(&mut self, status: StatusCode, fields: &FieldBlock, body: Body<'_>) {
        self.head(status, fields, Extent::Whole(body.len()));
        self.chunk(body);
        self.end(b"");
    }

    /// Begins an answer whose body follows in pieces.
    pub(crate) fn begin(&mut self, status: StatusCode, fields: &FieldBlock, length: Option<u64>) {
        self.head(status, fields, length.map_or(Extent::Open, Extent::Sized));
    }

    fn head(&mut self, status: StatusCode, fields: &FieldBlock, extent: Extent) {
        let Tx {
            protocol,
            out,
            stock,
            discard,
            ..
        } = self;
        protocol.begin_answer(out.cork, status, fields, stock, extent, *discard);
    }

    /// Sends a piece. A file comes only whole, behind a head that has announced its length.
    pub(crate) fn chunk(&mut self, piece: Body<'_>) {
        let Tx { protocol, out, .. } = self;
        match piece {
            Body::File(slice) => {
                let len = protocol.frame_file(slice.len);
                out.put_file(FileSlice { len, ..slice });
            }
            Body::Borrowed(bytes) => {
                let (n, after) = protocol.frame_body(bytes.len(), out.cork);
                out.cork.extend_from_slice(&bytes[..n]);
                out.cork.extend_from_slice(after);
            }
            Body::Owned(bytes) => {
                let (n, after) = protocol.frame_body(bytes.len(), out.cork);
                out.put_shared(bytes.slice(..n));
                out.cork.extend_from_slice(after);
            }
            Body::Parts(parts) => parts.into_iter().for_each(|part| self.chunk(part)),
        }
    }

    /// Ends the answer; says whether it is whole.
    pub(crate) fn end(&mut self, trailers: &[u8]) -> bool {
        self.protocol
            .end_answer(trailers, self.out.cork, self.discard, self.now)
    }
}

/// What became of a response while its callback ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Neither answered nor deferred: it was dropped.
    Unanswered,
    Answered,
    Deferred,
    /// It could not be sent, and why.
    Faulty(&'static str),
}

/// Answer now: borrowed from the loop, and consumed by answering.
///
/// ```
/// use loopwright::App;
/// let mut app: App = App::new();
/// app.get("/", |_, _, res| res.text("Hello, World!"));
/// app.get("/old", |_, _, res| res.redirect(301, "/new"));
/// app.get("/teapot", |_, _, res| res.status(418).header("x-kind", "oolong").html("<h1>short and stout</h1>"));
/// app.delete("/thing", |_, _, res| res.status(204).empty());
/// ```
#[must_use = "a response that is dropped unanswered is a 500"]
pub struct Response<'a> {
    /// One pointer, because a response is handed on a lot.
    pub(crate) sending: &'a mut Sending<'a>,
}

/// What a response points to while callbacks run.
pub(crate) struct Sending<'a> {
    pub(crate) tx: Tx<'a>,
    pub(crate) fields: &'a mut FieldBlock,
    /// Where JSON is written before its length is known.
    #[cfg_attr(not(feature = "json"), expect(dead_code))]
    pub(crate) scratch: &'a mut Vec<u8>,
    pub(crate) fate: &'a Cell<Fate>,
    pub(crate) outbox: &'a Rc<Outbox>,
    pub(crate) to: StreamRef,
    pub(crate) status: StatusCode,
}

impl Sending<'_> {
    fn send(&mut self, body: Body<'_>) {
        if let Some(fault) = self.fields.fault() {
            return self.fate.set(Fate::Faulty(fault));
        }
        self.fate.set(Fate::Answered);
        self.tx.send(self.status, self.fields, body);
    }
}

/// Answer later, once, from any callback on the same loop. From [`Response::defer`].
///
/// ```
/// use loopwright::App;
/// use std::time::Duration;
/// let mut app: App = App::new();
/// app.get("/slow", |cx, _, res| {
///     let res = res.defer();
///     cx.after(Duration::from_millis(200), move |_| res.text("worth the wait"));
/// });
/// ```
#[must_use = "a responder that is dropped unanswered is a 500"]
pub struct Responder {
    to: StreamRef,
    status: StatusCode,
    fields: FieldBlock,
    outbox: Rc<Outbox>,
    /// The request was `HEAD`: a body would go nowhere.
    is_head: bool,
    open: bool,
}

/// The answers both give. `$send` is how.
macro_rules! answers {
    ($body:lifetime) => {
        /// The status; 200 if never set. A number that is no final status is a fault, answered 500.
        pub fn status(mut self, status: u16) -> Self {
            match StatusCode::from_u16(status) {
                // RFC 9110 §15: there are none past 599.
                Ok(known) if (200..600).contains(&status) => *self.status_mut() = known,
                _ => {
                    log::error!("{status} is not a status an answer can have");
                    *self.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
            }
            self
        }

        /// Adds a field. Names must be tokens, values free of control characters; `content-length`
        /// and `transfer-encoding` are the server's to write. A field that breaks these rules is
        /// never sent: the answer becomes a 500, and the log says why.
        pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
            self.fields_mut().push(name.as_ref(), value.as_ref());
            self
        }

        /// Sets a cookie (RFC 6265), its value percent-encoded.
        #[cfg(feature = "cookies")]
        pub fn cookie(self, cookie: cookie::Cookie<'_>) -> Self {
            let line = cookie.encoded().to_string();
            self.header("set-cookie", line)
        }

        /// Closes the connection after this answer.
        pub fn close(mut self) -> Self {
            self.fields_mut().close();
            self
        }

        /// Answers with text (`text/plain; charset=utf-8`, unless a type was set).
        pub fn text<$body>(mut self, text: impl Into<Body<$body>>) {
            self.fields_mut().default_text();
            self.send(text.into())
        }

        /// Answers with HTML (`text/html; charset=utf-8`, unless a type was set).
        pub fn html<$body>(mut self, html: impl Into<Body<$body>>) {
            self.fields_mut()
                .default_content_type("text/html; charset=utf-8");
            self.send(html.into())
        }

        /// Answers with bytes (`application/octet-stream`, unless a type was set).
        pub fn bytes<$body>(mut self, bytes: impl Into<Body<$body>>) {
            self.fields_mut()
                .default_content_type("application/octet-stream");
            self.send(bytes.into())
        }

        /// Answers without a body: the status and the fields say it all.
        pub fn empty(self) {
            self.send(Body::Borrowed(b""))
        }

        /// Answers with `status` (301, 302, 303, 307, 308) and a `location`.
        pub fn redirect(self, status: u16, location: impl AsRef<str>) {
            self.status(status)
                .header("location", location.as_ref())
                .empty()
        }

        /// Answers with a file: its media type by its name, its bytes sent by the kernel. Opening it
        /// is done here and now. 404 if there is no such regular file, 500 if it cannot be opened.
        /// The path is taken as it is: never build it from what a client sent; that is what
        /// [`crate::service::files`] is for.
        pub fn file(mut self, path: impl AsRef<Path>) {
            let path = path.as_ref();
            match open_regular(path) {
                Ok(slice) => {
                    #[cfg(feature = "files")]
                    if let Some(mime) = mime_guess::from_path(path).first_raw() {
                        self.fields_mut().default_content_type(mime);
                    }
                    self.fields_mut()
                        .default_content_type("application/octet-stream");
                    self.send(Body::File(slice))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.status(404).text("Not Found"),
                Err(e) => {
                    log::error!("cannot answer with {}: {e}", path.display());
                    self.status(500).text("Internal Server Error")
                }
            }
        }
    };
}

impl<'a> Response<'a> {
    answers!('b);

    fn fields_mut(&mut self) -> &mut FieldBlock {
        self.sending.fields
    }

    fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.sending.status
    }

    fn send(self, body: Body<'_>) {
        self.sending.send(body);
    }

    /// Answers with a value as JSON (`application/json`, unless a type was set). A value that cannot
    /// be written so is a 500, and the log says why.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(self, value: &T) {
        let mut json = std::mem::take(self.sending.scratch);
        json.clear();
        match serde_json::to_writer(&mut json, value) {
            Ok(()) => {
                self.sending.fields.default_content_type("application/json");
                self.sending.send((&json).into());
                *self.sending.scratch = json;
            }
            Err(e) => {
                log::error!("an answer cannot be written as JSON: {e}");
                self.status(500).text("Internal Server Error")
            }
        }
    }

    /// The visible step from now to later: the answer leaves this callback with what was set so far.
    pub fn defer(self) -> Responder {
        let Sending {
            fields,
            fate,
            outbox,
            to,
            status,
            tx,
            ..
        } = self.sending;
        fate.set(Fate::Deferred);
        Responder {
            is_head: tx.protocol.is_head(),
            to: *to,
            status: *status,
            fields: fields.clone(),
            outbox: Rc::clone(outbox),
            open: true,
        }
    }

    /// Answers with a body that follows in pieces. Short for `defer().stream()`.
    pub fn stream(self) -> BodyWriter {
        self.defer().stream()
    }

    /// Answers with server-sent events. Short for `defer().events(cx)`: see [`Responder::events`].
    pub fn events<S: 'static>(self, cx: &mut Ctx<'_, S>) -> Events {
        self.defer().events(cx)
    }
}

impl Responder {
    answers!('b);

    fn fields_mut(&mut self) -> &mut FieldBlock {
        &mut self.fields
    }

    fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.status
    }

    fn send(mut self, body: Body<'_>) {
        self.open = false;
        let reply = Reply {
            status: self.status,
            fields: std::mem::take(&mut self.fields),
            body: body.into_owned(),
        };
        self.outbox.push(Command::Respond { to: self.to, reply });
    }

    /// Answers with a value as JSON (`application/json`, unless a type was set). A value that cannot
    /// be written so is a 500, and the log says why.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(mut self, value: &T) {
        match serde_json::to_vec(value) {
            Ok(json) => {
                self.fields.default_content_type("application/json");
                self.send(json.into())
            }
            Err(e) => {
                log::error!("an answer cannot be written as JSON: {e}");
                self.status(500).text("Internal Server Error")
            }
        }
    }

    /// Answers with a body that follows in pieces, of unknown length.
    pub fn stream(self) -> BodyWriter {
        self.begin(None, 0)
    }

    /// Answers with a body of exactly `length` bytes that follows in pieces. Bytes over it are
    /// dropped; a body that ends short of it cuts the connection.
    pub fn stream_sized(self, length: u64) -> BodyWriter {
        self.begin(Some(length), 0)
    }

    /// Answers with server-sent events, for as long as the client stays: `text/event-stream`,
    /// `cache-control: no-cache` unless one was set, and `x-accel-buffering: no`, which keeps nginx from
    /// gathering them. The head is sent at once. A `HEAD` request gets the head, and an [`Events`] that is
    /// closed.
    pub fn events<S: 'static>(mut self, cx: &mut Ctx<'_, S>) -> Events {
        self.fields.default_content_type(events::MEDIA_TYPE);
        for (name, value) in events::FIELDS {
            if !self.fields.has(name) {
                self.fields.push(name, value);
            }
        }
        let is_head = self.is_head;
        Events::begin(cx, self.stream(), is_head)
    }

    /// Whose answer it is, and its fields: somebody else answers.
    pub(crate) fn into_parts(mut self) -> (StreamRef, FieldBlock) {
        self.open = false;
        (self.to, std::mem::take(&mut self.fields))
    }

    /// Adds a field, as `header` does.
    pub fn push_header(&mut self, name: &[u8], value: &[u8]) {
        self.fields.push(name, value);
    }

    /// Makes room for so many bytes of fields at once.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.fields.reserve(bytes);
    }

    /// `ahead`: of the body, so much is taken ahead of the client; 0 for `limits.high_water`.
    pub(crate) fn begin(mut self, length: Option<u64>, ahead: usize) -> BodyWriter {
        self.open = false;
        let flow = Flow::new(match ahead {
            0 => self.outbox.high_water.get(),
            ahead => ahead,
        });
        let fields = std::mem::take(&mut self.fields);
        let (to, status) = (self.to, self.status);
        self.outbox.push(Command::Begin {
            to,
            status,
            fields,
            length,
            flow: flow.clone(),
        });
        BodyWriter::new(to, self.outbox.clone(), flow)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.open {
            let fields = std::mem::take(&mut self.fields);
            self.outbox.push(Command::Unanswered {
                to: self.to,
                fields,
            });
        }
    }
}

impl Open for Responder {
    fn exchange(&self) -> StreamRef {
        self.to
    }
}

impl sealed::Sealed for Responder {}

fn open_regular(path: &Path) -> io::Result<FileSlice> {
    // Looked at before it is opened: opening a FIFO would wait for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok(FileSlice {
        file: Rc::new(file),
        offset: 0,
        len,
    })
}
