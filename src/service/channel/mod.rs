//! Floor 4. Channels: one path where WebSockets, server-sent events and long polls follow a topic, and
//! where POST publishes to it.
//!
//! ```text
//! GET ─┬─ Upgrade: websocket ─────────► member.rs: messages as they are, or with their ids
//!      ├─ Accept: text/event-stream ──► events, each with its id
//!      ├─ ?since=ID ──────────────────► what is newer, at once or when it comes; 204 after `wait`
//!      └─ else ───────────────────────► what is held, as JSON
//! POST ─► publish ─► 202 and the id         (and what a socket says, if it may)
//! ```
//! What is published elsewhere, by a callback or through the bus by another process, is heard and remembered
//! as well. Each topic that somebody asks for has a `Feed`; one timer looks after them all, and runs
//! while there are any.

mod feed;
mod member;
mod ring;

use crate::{
    App, Ctx, Instant, Message, Method, Publication, Request, Response, Slow, StatusCode,
    StatusError, TopicError,
};
use feed::{Feed, Waiter, as_list, nothing_new};
use member::Member;
use ring::{Bounds, Entry, Since, id};
use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often gone clients and old messages are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What holds for a channel.
#[derive(Clone, Debug)]
struct Settings {
    topic: String,
    history: Bounds,
    message: usize,
    publish: bool,
    publish_sockets: bool,
    origins: Option<Vec<String>>,
    slow: Slow,
    wait: Duration,
    topics: usize,
}

/// A topic, or many, for clients to follow and to publish to, without a line of code on either side: a
/// browser's `WebSocket` and `EventSource`, `wscat`, `curl`. `docs/realtime.md` has all of it.
///
/// ```
/// use loopwright::{App, service::channel::Channel};
/// let mut app: App = App::new();
/// Channel::new("rooms/{room}").history(20).mount(&mut app, "/rooms/{room}");
/// ```
///
/// Who may publish and who may follow is middleware's to say: a publisher sends POST, a follower GET. What
/// is published to `rooms/7` by [`Ctx::publish`], anywhere, comes to the followers of `/rooms/7`, too.
#[derive(Clone, Debug)]
pub struct Channel {
    settings: Settings,
}

impl Channel {
    /// A channel for this topic; `{name}` in it stands for the path's parameter of that name.
    pub fn new(topic: impl Into<String>) -> Channel {
        Channel {
            settings: Settings {
                topic: topic.into(),
                history: Bounds {
                    messages: 100,
                    bytes: 1 << 20,
                    age: Duration::from_secs(3600),
                },
                message: 64 << 10,
                publish: true,
                publish_sockets: false,
                origins: None,
                slow: Slow::Close,
                wait: Duration::from_secs(25),
                topics: 256,
            },
        }
    }

    /// The messages of a topic that are remembered. Default 100; 0 for none.
    pub fn history(mut self, messages: usize) -> Self {
        self.settings.history.messages = messages;
        self
    }

    /// Their bytes, and some 60 more for each. Default 1 MiB.
    pub fn history_bytes(mut self, bytes: usize) -> Self {
        self.settings.history.bytes = bytes;
        self
    }

    /// How long a message is remembered; and how long a topic that nobody follows. Default an hour.
    pub fn history_age(mut self, age: Duration) -> Self {
        self.settings.history.age = age;
        self
    }

    /// The longest message, in bytes: 413 past it, for a WebSocket 1009. Default 64 KiB.
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.settings.message = bytes;
        self
    }

    /// Whether POST publishes. Default `true`; 405 otherwise.
    pub fn publish(mut self, on: bool) -> Self {
        self.settings.publish = on;
        self
    }

    /// Whether what a WebSocket sends is published. A WebSocket is a GET: whoever may follow may publish
    /// then. Default `false`: one that sends is closed with 1008.
    pub fn publish_sockets(mut self, on: bool) -> Self {
        self.settings.publish_sockets = on;
        self
    }

    /// The pages that may use the channel, by origin (`https://example.org`), or `*` for all. Default: those
    /// of the same host. A client that names no origin is no page, and may. 403 otherwise.
    pub fn origins<T: Into<String>>(mut self, origins: impl IntoIterator<Item = T>) -> Self {
        self.settings.origins = Some(origins.into_iter().map(Into::into).collect());
        self
    }

    /// What happens to a follower that takes less than it is sent. Default [`Slow::Close`].
    pub fn slow(mut self, policy: Slow) -> Self {
        self.settings.slow = policy;
        self
    }

    /// How long a long poll waits. Default 25 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Topics remembered or followed at once, in one process; 503 past it. Default 256.
    pub fn topics(mut self, most: usize) -> Self {
        self.settings.topics = most;
        self
    }

    /// The channel as a handler, for GET and POST: what [`Channel::mount`] adds.
    ///
    /// ```
    /// use loopwright::{App, service::channel::Channel};
    /// let mut app: App = App::new();
    /// let news = Channel::new("news").handler();
    /// app.get("/news", news.clone()); // anybody follows
    /// app.post("/news", news).before(|_, req, res| {
    ///     if req.remote().ip().is_some_and(|ip| ip.is_loopback()) {
    ///         return Some(res);
    ///     }
    ///     res.status(403).text("only from this machine");
    ///     None
    /// });
    /// ```
    pub fn handler<S: 'static>(
        self,
    ) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) + Clone + 'static {
        let hub = Rc::new(Hub {
            settings: self.settings,
            epoch: OnceCell::new(),
            feeds: Cell::default(),
            polls: Cell::default(),
        });
        move |cx, req, res| hub.answer(cx, req, res)
    }

    /// Adds it to an App, at this path.
    ///
    /// ```
    /// use loopwright::{App, service::channel::Channel};
    /// let mut app: App = App::new();
    /// Channel::new("news").publish(false).mount(&mut app, "/news"); // what `cx.publish("news", …)` says
    /// ```
    pub fn mount<S: 'static>(self, app: &mut App<S>, path: &str) {
        let (publishes, limit) = (self.settings.publish, self.settings.message as u64);
        let handler = self.handler();
        app.get(path, handler.clone());
        if publishes {
            app.post(path, handler).body_limit(limit);
        }
    }
}

/// All topics of a channel.
struct Hub {
    settings: Settings,
    /// Of this process: the first request's id, which begins somewhere else in each.
    epoch: OnceCell<Rc<str>>,
    /// Taken out while it is in use: nothing that is called meanwhile comes back here.
    feeds: Cell<Feeds>,
    /// Long polls so far.
    polls: Cell<u64>,
}

#[derive(Default)]
struct Feeds {
    /// In order, so that nothing depends on chance.
    by_topic: BTreeMap<Rc<str>, Feed>,
    is_swept: bool,
}

/// Why there is no feed.
enum NoFeed {
    Topic(TopicError),
    /// There are as many as may be.
    Full,
}

impl From<NoFeed> for StatusError {
    fn from(why: NoFeed) -> StatusError {
        match why {
            NoFeed::Topic(e) => refusal(e),
            NoFeed::Full => StatusError::new(503, "too many topics are in use"),
        }
    }
}

/// What is said of a topic that is none, or of a message that was not published.
fn refusal(why: TopicError) -> StatusError {
    match why {
        TopicError::Publications(_) | TopicError::Bytes(_) | TopicError::Subscriptions(_) => {
            StatusError::new(503, "too much waits to be delivered")
        }
        _ => StatusError::new(400, why.to_string()),
    }
}

fn refuse(res: Response<'_>, why: StatusError) {
    let res = res.status(why.status().as_u16());
    match why.status() {
        StatusCode::SERVICE_UNAVAILABLE => res.header("retry-after", "5").text(why.to_string()),
        _ => res.text(why.to_string()),
    }
}

impl Hub {
    fn answer<S: 'static>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        res: Response<'_>,
    ) {
        if !self.is_welcome(req) {
            return res.status(403).text("not for pages of this origin");
        }
        let res = self.with_origin(req, res);
        let topic = match expand(&self.settings.topic, req) {
            Ok(topic) => topic,
            Err(why) => return refuse(res, why),
        };
        let epoch = self.epoch.get_or_init(|| req.id().to_string().into());
        match *req.method() {
            Method::POST if self.settings.publish => return self.post(cx, req, res, &topic),
            Method::GET | Method::HEAD => {}
            _ => return res.status(405).header("allow", "GET").text("only GET"),
        }
        // An EventSource that comes back asks for the same address, and names what it has got since.
        let said = req.last_event_id().map(Cow::from);
        let said = said.or_else(|| req.query_param("since"));
        let since = Since::read(said.as_deref(), epoch, cx.stats().publications);
        if req.wants_websocket() {
            self.socket(cx, req, res, &topic, since);
        } else if wants_events(req) {
            self.with(cx, &topic, |cx, feed| match feed {
                Ok(feed) => feed.read(res.events(cx).slow(self.settings.slow), since),
                Err(why) => refuse(res, why.into()),
            });
        } else {
            self.poll(cx, req, res, &topic, since);
        }
    }

    /// No page of another site may have its reader's browser follow or publish.
    fn is_welcome(&self, req: &Request<'_>) -> bool {
        let Some(origin) = req.header("origin") else {
            return true;
        };
        match &self.settings.origins {
            None => origin
                .split_once("://")
                .is_some_and(|(_, host)| host.eq_ignore_ascii_case(req.host())),
            Some(known) => known
                .iter()
                .any(|known| known == "*" || known.eq_ignore_ascii_case(origin)),
        }
    }

    /// Lets a page of a known origin read the answer (Fetch §3.2).
    fn with_origin<'r>(&self, req: &Request<'_>, res: Response<'r>) -> Response<'r> {
        match req.header("origin") {
            Some(origin) if self.settings.origins.is_some() => res
                .header("access-control-allow-origin", origin)
                .header("access-control-expose-headers", "last-event-id")
                .header("vary", "origin"),
            _ => res,
        }
    }

    fn post<S: 'static>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        res: Response<'_>,
        topic: &str,
    ) {
        if req.body().len() > self.settings.message {
            return res.status(413).text("the message is too long");
        }
        let message = match (is_binary(&req.content_type()), str::from_utf8(req.body())) {
            (true, _) => Message::Binary(req.body()),
            (false, Ok(text)) => Message::Text(text),
            (false, Err(_)) => {
                let why = "not UTF-8: call it application/octet-stream";
                return res.status(400).text(why);
            }
        };
        match self.publish(cx, topic, message) {
            Ok(id) => res
                .status(202)
                .header("content-type", "application/json")
                .header("last-event-id", &id)
                .text(format!("{{\"id\":\"{id}\"}}\n")),
            Err(why) => refuse(res, why),
        }
    }

    /// Publishes, and says under what id.
    fn publish<S: 'static>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        topic: &str,
        message: Message<'_>,
    ) -> Result<String, StatusError> {
        // Somebody has to listen, for it to be remembered.
        self.with(cx, topic, |cx, feed| {
            feed?;
            cx.publish(topic, message).map_err(refusal)?;
            Ok(id(self.epoch(), cx.stats().publications))
        })
    }

    fn poll<S: 'static>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        res: Response<'_>,
        topic: &str,
        since: Since,
    ) {
        let waits = since != Since::Now && req.method() == Method::GET && !cx.is_stopping();
        self.with(cx, topic, |cx, feed| {
            let feed = match feed {
                Ok(feed) => feed,
                Err(why) => return refuse(res, why.into()),
            };
            let start = feed.ring.start(match since {
                Since::Now => Since::Beginning,
                since => since,
            });
            let (list, next) = feed.list(start);
            let res = res.defer();
            if !waits || !list.is_empty() {
                let list = format!("[{}]\n", list.join(",\n"));
                return as_list(res, &next).bytes(list);
            }
            let key = self.polls.get();
            self.polls.set(key + 1);
            let hub = self.clone();
            let name: Rc<str> = topic.into();
            let again = (hub.clone(), name.clone());
            let timer = cx.after(self.settings.wait, move |cx| hub.end_poll(cx, &name, key));
            cx.on_abort(&res, move |cx| again.0.end_poll(cx, &again.1, key));
            let after = start.after;
            feed.wait(Waiter {
                key,
                res,
                after,
                timer,
            });
        });
    }

    /// Nothing has come, or nobody waits for it any more.
    fn end_poll<S: 'static>(&self, cx: &mut Ctx<'_, S>, topic: &str, key: u64) {
        let mut feeds = self.feeds.take();
        let feed = feeds.by_topic.get_mut(topic);
        if let Some(waiter) = feed.and_then(|feed| feed.take_waiter(key)) {
            cx.cancel(waiter.timer);
            nothing_new(waiter.res, &id(self.epoch(), waiter.after));
        }
        self.feeds.set(feeds);
    }

    fn socket<S: 'static>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        res: Response<'_>,
        topic: &str,
        since: Since,
    ) {
        res.websocket(cx, req, |cx, handshake| {
            let Settings { message, slow, .. } = self.settings;
            handshake.message_limit(message).slow(slow);
            let start = self.with(cx, topic, |_, feed| feed.map(|feed| feed.ring.start(since)))?;
            let wants_ids = req.query_param("ids").is_some();
            Ok(Member::new(self.clone(), topic, start, wants_ids))
        });
    }

    /// With the feed of a topic, which is made if there is none.
    fn with<S: 'static, R>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        topic: &str,
        f: impl FnOnce(&mut Ctx<'_, S>, Result<&mut Feed, NoFeed>) -> R,
    ) -> R {
        let mut feeds = self.feeds.take();
        let result = match self.open(cx, &mut feeds, topic) {
            Ok(()) => match feeds.by_topic.get_mut(topic) {
                Some(feed) => {
                    feed.touch(cx.now());
                    f(cx, Ok(feed))
                }
                None => f(cx, Err(NoFeed::Full)),
            },
            Err(why) => f(cx, Err(why)),
        };
        self.feeds.set(feeds);
        result
    }

    fn open<S: 'static>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        feeds: &mut Feeds,
        topic: &str,
    ) -> Result<(), NoFeed> {
        if feeds.by_topic.contains_key(topic) {
            return Ok(());
        }
        if topic.contains('*') {
            return Err(NoFeed::Topic(TopicError::Wildcard));
        }
        if feeds.by_topic.len() >= self.settings.topics {
            feeds.keep(cx, |_, feed| !feed.is_bare());
        }
        // Whoever may publish could fill all places with what nobody reads: the oldest of that goes.
        if feeds.by_topic.len() >= self.settings.topics
            && let Some(oldest) = feeds.oldest_unfollowed()
        {
            feeds.keep(cx, |_, feed| {
                feed.has_followers() || feed.touched() != oldest
            });
        }
        if feeds.by_topic.len() >= self.settings.topics {
            return Err(NoFeed::Full);
        }
        let hub = self.clone();
        let subscription = cx
            .on_publish(topic, move |cx, publication| hub.hear(cx, publication))
            .map_err(NoFeed::Topic)?;
        let feed = Feed::new(cx, self.epoch().into(), self.settings.history, subscription);
        feeds.by_topic.insert(topic.into(), feed);
        if !std::mem::replace(&mut feeds.is_swept, true) {
            self.sweep_later(cx);
        }
        Ok(())
    }

    fn hear<S: 'static>(&self, cx: &mut Ctx<'_, S>, publication: &Publication) {
        let mut feeds = self.feeds.take();
        if let Some(feed) = feeds.by_topic.get_mut(publication.topic()) {
            feed.hear(cx, Entry::new(publication, cx.now()));
        }
        self.feeds.set(feeds);
    }

    /// A socket has gone.
    fn leave(&self, topic: &str) {
        let mut feeds = self.feeds.take();
        if let Some(feed) = feeds.by_topic.get_mut(topic) {
            // It has counted this one, and is not let go before it is left.
            feed.members -= 1;
        }
        self.feeds.set(feeds);
    }

    fn sweep_later<S: 'static>(self: &Rc<Self>, cx: &mut Ctx<'_, S>) {
        let hub = self.clone();
        cx.after(SWEEP, move |cx| hub.sweep(cx));
    }

    fn sweep<S: 'static>(self: &Rc<Self>, cx: &mut Ctx<'_, S>) {
        let mut feeds = self.feeds.take();
        let leaves = cx.is_stopping();
        feeds.keep(cx, |cx, feed| {
            if leaves {
                feed.end(cx);
            }
            feed.sweep(cx.now())
        });
        feeds.is_swept = !feeds.by_topic.is_empty();
        if feeds.is_swept {
            self.sweep_later(cx);
        }
        self.feeds.set(feeds);
    }

    fn epoch(&self) -> &str {
        // Set before anything is made that asks for it.
        self.epoch.get().map_or("", |epoch| epoch)
    }
}

impl Feeds {
    /// When somebody last had to do with the topic that nobody has missed for the longest time.
    fn oldest_unfollowed(&self) -> Option<Instant> {
        let feeds = self.by_topic.values();
        let unfollowed = feeds.filter(|feed| !feed.has_followers());
        unfollowed.map(Feed::touched).min()
    }

    /// Lets go of the others.
    fn keep<S: 'static>(
        &mut self,
        cx: &mut Ctx<'_, S>,
        mut is_kept: impl FnMut(&mut Ctx<'_, S>, &mut Feed) -> bool,
    ) {
        self.by_topic.retain(|_, feed| {
            let kept = is_kept(cx, feed);
            if !kept {
                cx.stop_listening(feed.subscription);
            }
            kept
        });
    }
}

/// The topic a request is about.
fn expand(template: &str, req: &Request<'_>) -> Result<String, StatusError> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        let value = req.param(name);
        // `%2F` in a segment must not lead to a topic of another depth.
        let is_rest = req.route().contains(&format!("{{*{name}}}"));
        if value.contains('/') && !is_rest {
            return Err(StatusError::new(400, "a slash in a name"));
        }
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// By header or, for clients that cannot set one, by `?events`.
fn wants_events(req: &Request<'_>) -> bool {
    let accept = req.header("accept").unwrap_or("");
    let is_events = |range: &str| {
        let range = range.split(';').next().unwrap_or("").trim();
        range.eq_ignore_ascii_case("text/event-stream")
    };
    accept.split(',').any(is_events) || req.query_param("events").is_some()
}

/// What is not text, whatever its bytes.
fn is_binary(content_type: &str) -> bool {
    let kind = content_type.split('/').next().unwrap_or("");
    content_type == "application/octet-stream"
        || matches!(kind, "image" | "audio" | "video" | "font")
}
