//! Floor 4. A reverse proxy: requests go to a server behind, its answers come back, as they come.
//!
//! ```text
//! request ─► fields, path ─► Ctx::fetch ─► a server of the upstream
//! client ◄── fields ◄────── status ◄────── its answer     101: both pass each other's bytes on
//!            502, 503, 504 ◄── FetchError (proxy_status)
//!
//! fields  which field lines pass, in both directions      path    which path the server is asked for
//! proxy_status   what went wrong, for the client
//! ```
//! Written on what every embedder has: a stream route, a fetch, a responder.

pub mod fields;
pub mod path;
pub mod proxy_status;

use crate::proto::forwarded::Trusted;
use crate::proto::h1::error::ClientError;
use crate::proto::h1::head::Framing;
use crate::proto::http::names_fields;
use crate::{
    App, Ctx, Fetch, FetchError, Fetched, Incoming as Body, Method, Peer, Request, RequestId,
    Responder, Response, Route,
};
use bytes::Bytes;
use fields::{Asker, Incoming, Rules, Stop, Towards};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What an upstream that chooses by a hash is given of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// The client's address.
    #[default]
    Address,
    /// The path, as sent.
    Path,
    /// The first field of this name; the address, if there is none.
    Header(String),
    /// The cookie of this name; the address, if there is none.
    Cookie(String),
}

/// A route that passes requests on.
///
/// ```
/// use loopwright::service::proxy::Proxy;
/// use loopwright::{App, Upstream};
/// let mut app: App = App::new();
/// app.upstream("app", Upstream::new(["http://127.0.0.1:9000", "http://127.0.0.1:9001"]));
/// Proxy::to("app").on(&mut app, "/{*rest}").body_limit(16 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Proxy {
    upstream: String,
    rules: Rules,
    trusted: Arc<Trusted>,
    key: Option<Key>,
    status_field: bool,
    abort_on_close: bool,
    spool_request: usize,
    spool_response: usize,
}

impl Proxy {
    /// To the upstream of this name, everything else as by default.
    pub fn to(upstream: impl Into<String>) -> Proxy {
        Proxy {
            upstream: upstream.into(),
            rules: Rules::new("loopwright"),
            trusted: Arc::default(),
            key: None,
            status_field: false,
            abort_on_close: true,
            spool_request: 0,
            spool_response: 0,
        }
    }

    /// What happens to the path and the fields.
    pub fn rules(self, rules: Rules) -> Proxy {
        Proxy { rules, ..self }
    }

    /// Whose word on the client's address, scheme and host counts; by default nobody's.
    pub fn trusted(self, trusted: Arc<Trusted>) -> Proxy {
        Proxy { trusted, ..self }
    }

    /// What the upstream chooses by, if it chooses by a hash.
    pub fn key(self, key: Key) -> Proxy {
        let key = Some(key);
        Proxy { key, ..self }
    }

    /// Says in `Proxy-Status` (RFC 9209) what went wrong. Off by default: it tells strangers about what is
    /// behind.
    pub fn status_field(self, status_field: bool) -> Proxy {
        Proxy {
            status_field,
            ..self
        }
    }

    /// Whether a request ends, with what was asked for it, when its client closes its sending side: nearly always
    /// that client has left, and a server would work for nobody. On by default. Off, such a client is answered all the
    /// same, as one that has only said all it had to say (`nc -N`); one that breaks the connection ends its request
    /// either way.
    pub fn abort_on_close(self, abort_on_close: bool) -> Proxy {
        Proxy {
            abort_on_close,
            ..self
        }
    }

    /// Gathers a request's body, so that a server is not kept by a slow client; one of more bytes than this
    /// is 413. 0, the default: it is passed on as it comes.
    pub fn spool_request(self, spool_request: usize) -> Proxy {
        Proxy {
            spool_request,
            ..self
        }
    }

    /// Takes so much of an answer from the server ahead of a slow client, in bytes, below `limits.output`. 0,
    /// the default: `limits.high_water`.
    pub fn spool_response(self, spool_response: usize) -> Proxy {
        Proxy {
            spool_response,
            ..self
        }
    }

    /// Registers it for every method on `path`.
    pub fn on<'a, S: 'static>(self, app: &'a mut App<S>, path: &str) -> &'a mut Route<S> {
        let proxy = Rc::new(self);
        app.any_stream(path, move |cx, req, res, body| {
            proxy.clone().serve(cx, req, res, body);
        })
    }

    /// The same for one method.
    pub fn on_method<'a, S: 'static>(
        self: Rc<Self>,
        app: &'a mut App<S>,
        method: &str,
        path: &str,
    ) -> &'a mut Route<S> {
        app.stream(method, path, move |cx, req, res, body| {
            self.clone().serve(cx, req, res, body);
        })
    }

    /// Passes one request on, and its answer back: for a handler that looks at it first.
    pub fn serve<S: 'static>(
        self: Rc<Self>,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        res: Response<'_>,
        body: Body,
    ) {
        if [Method::CONNECT, Method::TRACE].contains(req.method()) {
            // A reverse proxy stands for its servers, not for the world; and what it adds is not for clients.
            return res.status(405).text("Method Not Allowed");
        }
        let head = req.head;
        let incoming = Incoming::of(head, req.remote().ip(), &self.trusted, req.id());
        let upgrade = fields::upgrade(head);
        let framing = head.framing;
        let towards = Towards {
            authority: "",
            framing,
            expects_continue: head.expects_continue && self.spool_request == 0,
            upgrade,
            close: false,
        };
        let mut out = Vec::with_capacity(head.raw.len() + 256);
        if let Err(stop) = self.rules.request(&mut out, &incoming, &towards) {
            return self.stop(stop, req, res);
        }
        let asker = self
            .rules
            .response
            .is_about_request()
            .then(|| Asker::of(&incoming));
        let about = About {
            id: req.id(),
            #[cfg(feature = "sticky")]
            secure: incoming.client.proto == Some("https"),
            asker,
        };
        let key = self.key_of(&incoming);
        let method = req.method().clone();
        let mut fetch = Fetch::ready(method, out, framing, upgrade.is_some());
        fetch.peer = Some(introduced(req.remote(), incoming.client.address));
        fetch.expects_continue = towards.expects_continue;
        fetch.aborts_on_close = self.abort_on_close;
        fetch.sends_trailers = !names_fields(&head.fields);
        if let Some(key) = key {
            fetch = fetch.key(&key);
        }
        #[cfg(feature = "sticky")]
        if let Some(sticky) = cx.sticky(&self.upstream) {
            let found = sticky.find(head.fields.get_all("cookie"), cx.wall_clock());
            fetch.sticky = found.map(|name| name.0);
        }
        let res = res.defer();
        let fetch = fetch.answering(&res);
        if self.spool_request > 0 && framing != Framing::None {
            let most = self.spool_request;
            return body.limited(most).collect(cx, move |cx, all| match all {
                Ok(all) => self.ask(cx, fetch.body(Bytes::from(all)), res, about),
                Err(crate::Aborted::TooLarge) => {
                    let (id, name) = (about.id, &self.upstream);
                    log::info!("{id}: refused with 413: a body for upstream {name} over spool.request = {most}");
                    res.status(413).text("Payload Too Large");
                }
                Err(_) => res.status(400).text("Bad Request"),
            });
        }
        let fetch = match framing {
            Framing::None | Framing::Length(0) => fetch,
            Framing::Length(length) => fetch.stream(body, Some(length)),
            Framing::Chunked => fetch.stream(body, None),
        };
        self.ask(cx, fetch, res, about);
    }

    fn ask<S: 'static>(
        self: Rc<Self>,
        cx: &mut Ctx<'_, S>,
        fetch: Fetch,
        res: Responder,
        about: About,
    ) {
        let proxy = self.clone();
        cx.fetch(&self.upstream, fetch, move |cx, answer| match answer {
            Ok(answer) => proxy.pass_back(cx, answer, res, about),
            Err(why) => proxy.fail(&why, res, about.id),
        });
    }

    /// An answer's head has come.
    fn pass_back<S: 'static>(
        &self,
        cx: &mut Ctx<'_, S>,
        answer: Fetched<'_>,
        mut res: Responder,
        about: About,
    ) {
        let status = answer.status().as_u16();
        let is_tunnel = status == 101;
        res.reserve(answer.head.raw.len() + 64);
        let blank;
        let incoming = match &about.asker {
            Some(asker) => asker.incoming(),
            None => {
                blank = Asker::default();
                blank.incoming()
            }
        };
        let minor = u8::from(!answer.head.http_10);
        let (headers, mut scratch) = (answer.headers(), Vec::new());
        let passed = self.rules.response(
            &headers,
            minor,
            is_tunnel,
            &incoming,
            &mut scratch,
            |name, value| res.push_header(name, value),
        );
        if passed.is_err() {
            let why = ClientError::Malformed("its Connection names too many fields");
            let why = FetchError::Protocol(why);
            return self.fail(&why, res, about.id);
        }
        let _ = cx;
        #[cfg(feature = "sticky")]
        if let Some(sticky) = cx.sticky(&self.upstream) {
            stick(cx, &sticky, &answer, &mut res, about.secure);
        }
        if self.status_field {
            let mut member = Vec::new();
            proxy_status::write(&mut member, "loopwright", None, Some(status), "");
            res.push_header(b"proxy-status", &member);
        }
        match is_tunnel {
            true => answer.tunnel(res),
            false => answer.pipe_ahead(res.status(status), self.spool_response),
        }
    }

    /// There is no answer to pass back.
    fn fail(&self, why: &FetchError, res: Responder, id: RequestId) {
        let status = why.status();
        log::warn!(
            "{id}: upstream {}: {}: {why}",
            self.upstream,
            status.as_u16()
        );
        let mut res = res.status(status.as_u16());
        if self.status_field {
            let mut member = Vec::new();
            proxy_status::write(
                &mut member,
                "loopwright",
                Some(why.token()),
                None,
                &why.to_string(),
            );
            res.push_header(b"proxy-status", &member);
        }
        res.text(status.canonical_reason().unwrap_or(""))
    }

    /// The request does not go on.
    fn stop(&self, stop: Stop, req: &Request<'_>, res: Response<'_>) {
        log::info!(
            "{}: not passed on to upstream {}: {stop}",
            req.id(),
            self.upstream
        );
        match stop {
            Stop::Last if *req.method() == Method::TRACE => {
                res.status(405).text("Method Not Allowed")
            }
            Stop::Last => res.status(204).empty(),
            _ => {
                let status = http::StatusCode::from_u16(stop.status()).unwrap_or_default();
                res.status(stop.status())
                    .text(status.canonical_reason().unwrap_or(""))
            }
        }
    }

    fn key_of(&self, incoming: &Incoming<'_>) -> Option<Vec<u8>> {
        let address = || match incoming.client.address {
            Some(std::net::IpAddr::V4(ip)) => ip.octets().to_vec(),
            Some(std::net::IpAddr::V6(ip)) => ip.octets().to_vec(),
            None => Vec::new(),
        };
        let found = match self.key.as_ref()? {
            Key::Address => None,
            Key::Path => Some(incoming.path.as_bytes().to_vec()),
            Key::Header(name) => incoming.fields.get(name).map(<[u8]>::to_vec),
            Key::Cookie(name) => fields::cookie(&incoming.fields, name).map(<[u8]>::to_vec),
        };
        Some(found.unwrap_or_else(address))
    }
}

/// What is kept of a request until its answer comes.
struct About {
    id: RequestId,
    /// Its client has come over TLS, as somebody trusted says.
    #[cfg(feature = "sticky")]
    secure: bool,
    /// Only where a rule for answers wants it.
    asker: Option<Asker>,
}

/// Whom a server is told of by the PROXY protocol: the client that trusted proxies have named, of whom no port
/// is known, else our own peer.
fn introduced(peer: Peer, believed: Option<IpAddr>) -> Peer {
    match believed {
        Some(ip) if peer.ip().map(|ip| ip.to_canonical()) != Some(ip) => Peer::Inet((ip, 0).into()),
        _ => peer,
    }
}

/// Names the server in the client's cookie, if it is another than there.
#[cfg(feature = "sticky")]
fn stick<S: 'static>(
    cx: &Ctx<'_, S>,
    sticky: &crate::upstream::sticky::Sticky,
    answer: &Fetched<'_>,
    res: &mut Responder,
    secure: bool,
) {
    let timings = answer.timings();
    if timings.kept_to {
        return;
    }
    let value = sticky.value(sticky.name(&timings.server), cx.wall_clock());
    let cookie = format!(
        "{}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{}",
        sticky.cookie(),
        sticky.max_age().as_secs(),
        if secure { "; Secure" } else { "" }
    );
    res.push_header(b"set-cookie", cookie.as_bytes());
}
