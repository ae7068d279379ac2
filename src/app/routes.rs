//! Floor 2. What an embedder registers: routes, groups, middleware, hooks. Built once, into a `Site`.
//!
//! An [`App`] is a scope: its middleware and hooks hold for its routes and for the Apps mounted in
//! it, whatever the order in which they were registered.

use super::ctx::Ctx;
use super::failure::{Failure, Outcome, StatusError};
use super::fetch::Timings;
use super::handshake::Handshake;
use super::publish::Bus;
use super::request::Request;
use super::response::Response;
use super::store::Named;
use super::stream::Incoming;
use super::upstream::Upstream;
use super::websocket::{Message, OnMessage, Socket, WebSocket};
use crate::base::id::RequestId;
use crate::net::Peer;
use crate::proto::h1::head::Head;
use crate::proto::http::Fields;
use http::Method;
use std::rc::Rc;
use std::time::Duration;

pub(crate) type Handler<S> =
    Box<dyn FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> Option<Failure>>;
pub(crate) type StreamHandler<S> =
    Box<dyn FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>, Incoming) -> Option<Failure>>;
pub(crate) type Before<S> =
    Box<dyn for<'r> FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'r>) -> Option<Response<'r>>>;
pub(crate) type After<S> = Box<dyn FnMut(&mut Ctx<'_, S>, &Done<'_>)>;
pub(crate) type ErrorHook<S> = Box<dyn FnMut(&mut Ctx<'_, S>, &Failure, Response<'_>)>;

/// An exchange that is over: what `after` middleware is told.
#[derive(Clone, Debug)]
pub struct Done<'a> {
    pub(crate) head: &'a Head<'a>,
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) body_bytes: u64,
    pub(crate) elapsed: Duration,
    pub(crate) waited: Duration,
    pub(crate) remote: Peer,
    pub(crate) request_id: RequestId,
    pub(crate) aborted: bool,
    pub(crate) upstream: Option<&'a Timings>,
}

impl<'a> Done<'a> {
    /// The request's method.
    pub fn method(&self) -> &'a Method {
        &self.head.method
    }
    /// The path as sent, without the query.
    pub fn path(&self) -> &'a str {
        self.head.path
    }
    /// What follows the `?`, as sent.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query
    }
    /// The first request field of this name (any case), if it is valid UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let value = self.head.fields.get(name)?;
        std::str::from_utf8(value).ok()
    }
    /// Every request field, as sent.
    pub fn headers(&self) -> Fields<'a> {
        self.head.fields
    }
    /// The host (and port) the client wanted; empty if it said none.
    pub fn host(&self) -> &'a str {
        std::str::from_utf8(self.head.authority).unwrap_or("")
    }
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub fn version(&self) -> &'static str {
        match self.head.http_10 {
            true => "HTTP/1.0",
            false => "HTTP/1.1",
        }
    }
    /// The pattern that matched; empty if none did.
    pub fn route(&self) -> &'a str {
        self.route
    }
    /// The status answered; 0 if the exchange was aborted before there was one.
    pub fn status(&self) -> u16 {
        self.status
    }
    /// Bytes of the answer's body handed to the connection, without framing.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }
    /// From the moment the loop was told of the request to the one in which the last byte of its
    /// answer was queued.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
    /// How long the request waited in the loop, for others to be served, before its first callback
    /// was called. A part of [`Done::elapsed`].
    pub fn waited(&self) -> Duration {
        self.waited
    }
    /// The client.
    pub fn remote(&self) -> Peer {
        self.remote
    }
    /// The request's id.
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }
    /// How the fetch went that was made for this answer ([`crate::Fetch::answering`]): the proxy makes one.
    pub fn upstream(&self) -> Option<&'a Timings> {
        self.upstream
    }
    /// The answer was not completed: the connection broke, or the body's producer gave up.
    pub fn is_aborted(&self) -> bool {
        self.aborted
    }
}

pub(crate) enum Endpoint<S> {
    Plain(Handler<S>),
    Stream(StreamHandler<S>),
}

/// One route, as registered; what its methods set holds for it alone.
///
/// ```
/// use loopwright::App;
/// let mut app: App = App::new();
/// app.post("/avatar", |_, req, res| res.text(format!("{} bytes", req.body().len())))
///     .body_limit(4 << 20)
///     .host("images.example.org")
///     .before(|_, req, res| {
///         if req.content_type() == "image/png" { return Some(res) }
///         res.status(415).text("PNG only");
///         None
///     });
/// ```
pub struct Route<S> {
    pub(crate) method: Option<Method>,
    pub(crate) hosts: Vec<String>,
    pub(crate) path: String,
    pub(crate) endpoint: Endpoint<S>,
    pub(crate) before: Vec<Before<S>>,
    pub(crate) after: Vec<After<S>>,
    pub(crate) body_limit: Option<u64>,
    pub(crate) ignores_body: bool,
}

impl<S: 'static> Route<S> {
    /// The longest body this route takes, in bytes; `limits.body` otherwise. 413 past it, before the
    /// body is read if its length is announced.
    pub fn body_limit(&mut self, bytes: u64) -> &mut Self {
        self.body_limit = Some(bytes);
        self
    }

    /// This route does nothing with a body: within its limit it is dropped as it comes, not gathered in
    /// memory, and the handler sees an empty one.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.any("/", |_, _, res| res.text("whatever you say")).ignore_body();
    /// ```
    pub fn ignore_body(&mut self) -> &mut Self {
        self.ignores_body = true;
        self
    }

    /// Only for this host: `example.org`, or `*.example.org` for every host below it. Said again, for
    /// that one, too.
    pub fn host(&mut self, host: impl Into<String>) -> &mut Self {
        self.hosts.push(host.into());
        self
    }

    /// Middleware for this route, after its App's; see [`App::before`].
    pub fn before(
        &mut self,
        f: impl for<'r> FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'r>) -> Option<Response<'r>>
        + 'static,
    ) -> &mut Self {
        self.before.push(Box::new(f));
        self
    }

    /// Called when an exchange of this route is over; see [`App::after`].
    pub fn after(&mut self, f: impl FnMut(&mut Ctx<'_, S>, &Done<'_>) + 'static) -> &mut Self {
        self.after.push(Box::new(f));
        self
    }
}

/// Routes and middleware, registered with callbacks. `S` is your state, which every callback may
/// touch as [`Ctx::state`].
///
/// Patterns: `/users` exactly, `/users/{id}` one segment, `/files/{*rest}` the rest (which may be
/// empty). The most specific pattern wins, whatever the order. HEAD is answered by GET's route
/// without its body, OPTIONS with the methods there are, and any other method that a path has not
/// with 405.
///
/// ```
/// use loopwright::{App, Server};
///
/// let mut app = App::new();
/// app.get("/", |_, _, res| res.text("Hello, World!"));
/// app.get("/hello/{name}", |_, req, res| res.text(req.param("name")));
/// let server = Server::bind("127.0.0.1:0", app, ()).unwrap();
/// # drop(server);
/// ```
pub struct App<S = ()> {
    pub(crate) host: Option<String>,
    pub(crate) before: Vec<Before<S>>,
    pub(crate) after: Vec<After<S>>,
    pub(crate) routes: Vec<Route<S>>,
    pub(crate) mounts: Vec<(String, App<S>)>,
    pub(crate) on_error: Option<ErrorHook<S>>,
    pub(crate) not_found: Option<Handler<S>>,
    pub(crate) method_not_allowed: Option<Handler<S>>,
    pub(crate) mistakes: Vec<String>,
    pub(crate) bus: Option<Box<dyn Bus<S>>>,
    pub(crate) upstreams: Vec<(String, Upstream)>,
    pub(crate) stores: Vec<Named<S>>,
}

impl<S: 'static> Default for App<S> {
    fn default() -> Self {
        App::new()
    }
}

macro_rules! method_routes {
    ($($name:ident $method:ident)*) => {$(
        #[doc = concat!("A route for ", stringify!($method), ": `f` is called with the whole body at hand.")]
        pub fn $name<R: Outcome>(
            &mut self,
            path: &str,
            f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> R + 'static,
        ) -> &mut Route<S> {
            self.add(Some(Method::$method), path, plain(f))
        }
    )*};
}

fn plain<S, R: Outcome>(
    mut f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> R + 'static,
) -> Endpoint<S> {
    Endpoint::Plain(Box::new(move |cx, req, res| f(cx, req, res).failure()))
}

impl<S: 'static> App<S> {
    /// No routes: everything is 404.
    pub fn new() -> App<S> {
        App {
            host: None,
            before: Vec::new(),
            after: Vec::new(),
            routes: Vec::new(),
            mounts: Vec::new(),
            on_error: None,
            not_found: None,
            method_not_allowed: None,
            mistakes: Vec::new(),
            bus: None,
            upstreams: Vec::new(),
            stores: Vec::new(),
        }
    }

    fn add(&mut self, method: Option<Method>, path: &str, endpoint: Endpoint<S>) -> &mut Route<S> {
        let route = Route {
            method,
            hosts: Vec::new(),
            path: path.to_string(),
            endpoint,
            before: Vec::new(),
            after: Vec::new(),
            body_limit: None,
            ignores_body: false,
        };
        let at = self.routes.len();
        self.routes.push(route);
        &mut self.routes[at]
    }

    method_routes! { get GET post POST put PUT patch PATCH delete DELETE head HEAD options OPTIONS }

    /// A route for every method that has none of its own on this path.
    pub fn any<R: Outcome>(
        &mut self,
        path: &str,
        f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> R + 'static,
    ) -> &mut Route<S> {
        self.add(None, path, plain(f))
    }

    /// A route for a method by name: `"PROPFIND"`, or a [`Method`]. A name that is no token
    /// (RFC 9110 §9.1) is a mistake that is told when the server is built.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.route("PURGE", "/cache/{*key}", |_, req, res| res.text(req.param("key")));
    /// ```
    pub fn route<R: Outcome>(
        &mut self,
        method: impl AsRef<str>,
        path: &str,
        f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> R + 'static,
    ) -> &mut Route<S> {
        let method = self.token(method.as_ref());
        self.add(Some(method), path, plain(f))
    }

    /// A route that is called when the head has arrived, and reads the body as it comes.
    ///
    /// ```
    /// use loopwright::{App, Demand};
    /// let mut app: App = App::new();
    /// app.stream("POST", "/upload", |cx, _, res, body| {
    ///     body.fold(cx, (0, res.defer()),
    ///         |(total, _), _, chunk| { *total += chunk.len(); Demand::More },
    ///         |(total, res), _, end| if end.is_ok() { res.text(format!("{total} bytes")) });
    /// }).body_limit(16 << 20);
    /// ```
    pub fn stream<R: Outcome>(
        &mut self,
        method: impl AsRef<str>,
        path: &str,
        mut f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>, Incoming) -> R + 'static,
    ) -> &mut Route<S> {
        let handler = Box::new(
            move |cx: &mut Ctx<'_, S>, req: &Request<'_>, res: Response<'_>, body: Incoming| {
                f(cx, req, res, body).failure()
            },
        );
        let method = self.token(method.as_ref());
        self.add(Some(method), path, Endpoint::Stream(handler))
    }

    /// The same for every method that has no route of its own on this path.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.any_stream("/echo", |_, _, res, body| body.pipe(res.defer().stream()));
    /// ```
    pub fn any_stream<R: Outcome>(
        &mut self,
        path: &str,
        mut f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>, Incoming) -> R + 'static,
    ) -> &mut Route<S> {
        let handler = Box::new(
            move |cx: &mut Ctx<'_, S>, req: &Request<'_>, res: Response<'_>, body: Incoming| {
                f(cx, req, res, body).failure()
            },
        );
        self.add(None, path, Endpoint::Stream(handler))
    }

    /// A WebSocket (RFC 6455): `f` is called with each message of each client. For sockets with data of
    /// their own, and for more than messages: [`App::sockets`].
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.ws("/echo", |_, ws, message| ws.send(message));
    /// ```
    pub fn ws<R>(
        &mut self,
        path: &str,
        f: impl Fn(&mut Ctx<'_, S>, &mut WebSocket<'_>, Message<'_>) -> R + 'static,
    ) -> &mut Route<S> {
        let f = Rc::new(f);
        self.sockets(path, move |_, _, _| Ok(OnMessage(f.clone())))
    }

    /// A WebSocket (RFC 6455) with data of its own: `accept` looks at the request, says what holds for
    /// this client, and returns its [`Socket`], or the error it is refused with. Middleware runs before,
    /// as for any route.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Message, Socket, StatusError, WebSocket};
    ///
    /// struct Player { score: u32 }
    ///
    /// impl Socket for Player {
    ///     fn message(&mut self, _: &mut Ctx<'_>, ws: &mut WebSocket<'_>, message: Message<'_>) {
    ///         self.score += u32::from(message == Message::Text("hit"));
    ///         ws.send(&self.score.to_string());
    ///     }
    /// }
    ///
    /// let mut app: App = App::new();
    /// app.sockets("/game", |_, req, handshake| {
    ///     if req.query_param("ticket").is_none() {
    ///         return Err(StatusError::new(403, "no ticket"));
    ///     }
    ///     handshake.message_limit(1024);
    ///     Ok(Player { score: 0 })
    /// });
    /// ```
    pub fn sockets<T: Socket<S>>(
        &mut self,
        path: &str,
        mut accept: impl FnMut(
            &mut Ctx<'_, S>,
            &Request<'_>,
            &mut Handshake<'_>,
        ) -> Result<T, StatusError>
        + 'static,
    ) -> &mut Route<S> {
        self.get(path, move |cx, req, res| {
            res.websocket(cx, req, |cx, handshake| accept(cx, req, handshake))
        })
    }

    /// What carries publications to other processes, and brings theirs; of the outermost App, and for as
    /// long as the server runs: a reload does not change it. Without one, they stay in this process.
    pub fn bus(&mut self, bus: impl Bus<S>) -> &mut Self {
        self.bus = Some(Box::new(bus));
        self
    }

    /// Servers to pass requests on to, by the name that [`crate::Ctx::fetch`] says; one name for all of a server's
    /// Apps. One that a reload brings again unchanged keeps its connections and what it knows.
    ///
    /// ```
    /// use loopwright::{App, Upstream};
    /// let mut app: App = App::new();
    /// app.upstream("api", Upstream::new(["http://127.0.0.1:9000", "http://127.0.0.1:9001"]));
    /// ```
    pub fn upstream(&mut self, name: impl Into<String>, upstream: Upstream) -> &mut Self {
        self.upstreams.push((name.into(), upstream));
        self
    }

    /// Routes under a common prefix, with middleware of their own.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.group("/api", |api| {
    ///     api.before(|_, req, res| match req.header("x-key") {
    ///         Some("sesame") => Some(res),
    ///         _ => { res.status(401).text("who are you?"); None }
    ///     });
    ///     api.get("/users", |_, _, res| res.text("ada, grace")); // GET /api/users
    /// });
    /// ```
    pub fn group(&mut self, prefix: &str, routes: impl FnOnce(&mut App<S>)) -> &mut Self {
        let mut app = App::new();
        routes(&mut app);
        self.mount(prefix, app)
    }

    /// Puts another App's routes under a prefix. Its middleware, hooks and pages stay its own; this
    /// App's middleware comes before it.
    pub fn mount(&mut self, prefix: &str, app: App<S>) -> &mut Self {
        self.mounts.push((prefix.to_string(), app));
        self
    }

    /// Every route of this App only for this host: `example.org`, or `*.example.org`.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut admin: App = App::new();
    /// admin.host("admin.example.org").get("/", |_, _, res| res.text("the other side"));
    /// let mut app: App = App::new();
    /// app.mount("", admin);
    /// app.get("/", |_, _, res| res.text("the public side"));
    /// ```
    pub fn host(&mut self, host: impl Into<String>) -> &mut Self {
        self.host = Some(host.into());
        self
    }

    /// Middleware: called in the order registered, when a request's head has been read, before its
    /// body has (so it can refuse an upload early). Handing the response on is the control flow:
    /// return it to go on, with whatever headers you set; answer it and return `None` to end here.
    /// Paths that no route knows pass through it, too.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.before(|_, _, res| Some(res.header("x-frame-options", "DENY")));
    /// ```
    pub fn before(
        &mut self,
        f: impl for<'r> FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'r>) -> Option<Response<'r>>
        + 'static,
    ) -> &mut Self {
        self.before.push(Box::new(f));
        self
    }

    /// Called when the last byte of an answer is queued, or the exchange was aborted: exactly once
    /// for each request that was dispatched. The place for logs and metrics.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.after(|_, done| log::info!("{} {} {}", done.method(), done.path(), done.status()));
    /// ```
    pub fn after(&mut self, f: impl FnMut(&mut Ctx<'_, S>, &Done<'_>) + 'static) -> &mut Self {
        self.after.push(Box::new(f));
        self
    }

    /// Your own page for failures: a handler's error, its panic, an answer it never gave. The
    /// response comes with the failure's status set. The failure is logged with route and request
    /// id before this is called; if it fails itself, the plain page is answered.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.on_error(|_, failure, res| res.html(format!("<h1>{}</h1>", failure.status())));
    /// ```
    pub fn on_error(
        &mut self,
        f: impl FnMut(&mut Ctx<'_, S>, &Failure, Response<'_>) + 'static,
    ) -> &mut Self {
        self.on_error = Some(Box::new(f));
        self
    }

    /// Your own page where no route matches. The response comes with status 404 set.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.not_found(|_, req, res| res.text(format!("nothing at {}", req.path())));
    /// ```
    pub fn not_found<R: Outcome>(
        &mut self,
        mut f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> R + 'static,
    ) -> &mut Self {
        self.not_found = Some(Box::new(move |cx, req, res| f(cx, req, res).failure()));
        self
    }

    /// Your own page where the path is known but not for this method. The response comes with
    /// status 405 and `allow` set.
    pub fn method_not_allowed<R: Outcome>(
        &mut self,
        mut f: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) -> R + 'static,
    ) -> &mut Self {
        self.method_not_allowed = Some(Box::new(move |cx, req, res| f(cx, req, res).failure()));
        self
    }

    fn token(&mut self, method: &str) -> Method {
        Method::from_bytes(method.as_bytes()).unwrap_or_else(|_| {
            self.mistakes
                .push(format!("{method:?} is not a method (RFC 9110 §9.1)"));
            Method::GET
        })
    }
}
