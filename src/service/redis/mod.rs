//! Floor 4. A client of Redis (and Valkey) on the loop: a few connections that are links, on which many commands are under
//! way at once.
//!
//! ```text
//! command, multi, script ──► the least loaded of `connections` (or the queue) ──► Session ─► Link ─► server
//! BLPOP …, watch ──────────► a connection of its own, of up to `blocking`
//! subscribe ───────────────► one connection for all subscriptions
//! ```
//! - `mod.rs`: what an embedder sees. [`Redis`] (settings), [`RedisClient`] (asking), [`RedisStatus`].
//! - `command.rs`: commands, their arguments, scripts. `error.rs`: why there is no reply.
//! - `hub.rs`: the connections, the queue, who waits for which reply. Nothing of the embedder's runs while it is in use.
//! - `subscribe.rs`: subscriptions. `wire.rs`: a connection, as the bus has it, too.
//!
//! The protocol is `proto/redis.rs`. Cluster and Sentinel are not known to it, nor TLS.

mod awaits;
mod command;
mod error;
mod hub;
mod subscribe;
pub(super) mod wire;

pub use crate::proto::redis::{Url, UrlError};
pub use crate::proto::resp::{Bounds, Value};
pub use awaits::TaskRedis;
pub use command::{Arg, Command, Script};
pub use error::RedisError;
pub use subscribe::Subscribed;

use super::dial::setters;
use crate::base::id::StreamRef;
use crate::{App, Bytes, Ctx, Open};
use hub::{Ask, Db, Remote, Then, Watched};
use std::rc::Rc;
use std::time::Duration;
use subscribe::Topic;

/// Where a Redis is, and how much may be asked of it. Each worker has connections of its own.
///
/// ```no_run
/// use loopwright::{App, Server, service::redis::Redis};
/// use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut app = App::new();
/// let cache = Redis::new("redis://:s3cret@cache.example/2")?.timeout(Duration::from_millis(500));
/// app.redis("cache", cache);
/// app.get("/users/{id}", |cx, req, res| {
///     let (key, res) = (format!("user:{}", req.param("id")), res.defer());
///     cx.redis("cache").answering(&res).command(["GET", &key], move |_, user| {
///         match user.as_ref().map(|user| user.bytes()) {
///             Ok(Some(user)) => res.bytes(user.clone()),
///             Ok(None) => res.status(404).text("no such user"),
///             Err(error) => res.status(error.status()).text("the cache has no answer"),
///         }
///     });
/// });
/// Server::bind("0.0.0.0:8080", app, ())?.run()?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Redis {
    url: Url,
    name: String,
    connections: usize,
    blocking: usize,
    idle: Duration,
    pipeline: usize,
    queue: usize,
    queue_size: usize,
    queue_wait: Duration,
    timeout: Duration,
    block: Duration,
    reply: Duration,
    ping: Duration,
    retry: Duration,
    retries: u32,
    request: usize,
    subscriptions: usize,
    bounds: Bounds,
}

impl Redis {
    /// At `redis://user:password@host:port/database`: see [`Url`] for what else may stand there.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(url: &str) -> Result<Redis, UrlError> {
        Ok(Redis::at(url.parse()?))
    }

    /// At a URL that was read already.
    pub fn at(url: Url) -> Redis {
        Redis {
            url,
            name: "loopwright".to_string(),
            connections: 2,
            blocking: 8,
            idle: Duration::from_secs(60),
            pipeline: 1024,
            queue: 1024,
            queue_size: 16 * 1024 * 1024,
            queue_wait: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            block: Duration::from_secs(300),
            reply: Duration::from_secs(10),
            ping: Duration::from_secs(15),
            retry: Duration::from_secs(2),
            retries: 8,
            request: 16 * 1024 * 1024,
            subscriptions: 1024,
            bounds: Bounds::default(),
        }
    }

    /// What the server's administrator sees of us in `CLIENT LIST`; what may not stand there (spaces, control
    /// characters) is left out. Default `loopwright`.
    pub fn name(mut self, name: &str) -> Redis {
        self.name = name.chars().filter(char::is_ascii_graphic).collect();
        self
    }

    setters! {
        /// Connections for commands that are answered at once; at least 1. Default 2.
        connections: usize;
        /// Connections, at the most, for commands that wait ([`RedisClient::command`]) and for [`RedisClient::watch`]: as
        /// many may wait at once. Default 8.
        blocking: usize;
        /// How long one of those may have nothing to do. Default 60 s.
        idle: Duration;
        /// Commands on a connection without a reply, and in one transaction. Default 1024.
        pipeline: usize;
        /// Commands that may wait for a connection. Default 1024.
        queue: usize;
        /// Bytes of them. Default 16 MiB.
        queue_size: usize;
        /// How long. Default 1 s.
        queue_wait: Duration;
        /// How long a reply may take, waiting for a connection included, unless [`RedisClient::timeout`] says otherwise.
        /// Default 5 s.
        timeout: Duration;
        /// The same for commands that wait for something to happen. Default 5 minutes.
        block: Duration;
        /// How long a connection may owe replies without a sign of one; then it is given up. Default 10 s.
        reply: Duration;
        /// How long the server may be silent before it is asked whether it is there. Default 15 s.
        ping: Duration;
        /// The longest pause before another attempt to connect; the first is 100 ms, each is drawn at random. Default 2 s.
        retry: Duration;
        /// How often [`RedisClient::watch`] begins again. Default 8.
        retries: u32;
        /// Bytes of a command with its arguments, or of all of a transaction. Default 16 MiB.
        request: usize;
        /// Channels and patterns that are subscribed to. Default 1024.
        subscriptions: usize;
        /// What a reply may be: bytes of a string, elements, … Default: see [`Bounds`].
        bounds: Bounds;
    }
}

impl<S: 'static> App<S> {
    /// A Redis, to be asked with [`Ctx::redis`]. It is connected to when the server begins to run; a reload that brings
    /// the same settings keeps the connections.
    ///
    /// ```
    /// use loopwright::{App, service::redis::Redis};
    /// let mut app: App = App::new();
    /// app.redis("cache", Redis::new("redis://cache.example")?);
    /// # Ok::<(), loopwright::service::redis::UrlError>(())
    /// ```
    pub fn redis(&mut self, name: impl Into<String>, settings: Redis) -> &mut Self {
        let name = name.into();
        let remote = Remote::<S>::new(&name, settings);
        self.store(name, remote)
    }
}

impl<'c, S: 'static> Ctx<'c, S> {
    /// The Redis of this name, to ask it something. If there is none, whoever asks is told.
    pub fn redis(&mut self, name: &str) -> RedisClient<'_, 'c, S> {
        let db = self.store::<Remote<S>>(name);
        let id = db.as_ref().map_or(0, |db| db.next_id());
        RedisClient {
            name: name.into(),
            cx: self,
            timeout: None,
            client: None,
            db,
            id,
        }
    }
}

/// A question to a Redis, about to be asked: from [`Ctx::redis`].
///
/// Callbacks are called later, exactly once. What is asked in one callback is sent in one write, and done in that order as long
/// as its connection has room for it (`pipeline`) and lasts; who must be sure of an order asks in the callback of what comes
/// before, or uses [`RedisClient::multi`].
///
/// A command whose connection ends is not sent again, unless the server cannot have done it; else its asker is told
/// [`RedisError::Lost`].
#[must_use = "nothing was asked yet"]
pub struct RedisClient<'a, 'c, S: 'static = ()> {
    cx: &'a mut Ctx<'c, S>,
    name: Rc<str>,
    db: Option<Db<S>>,
    id: u64,
    timeout: Option<Duration>,
    /// Who waits for the answer.
    client: Option<StreamRef>,
}

impl<S: 'static> RedisClient<'_, '_, S> {
    /// If nobody waits for this answer any more, the question is given up: taken out of the queue, or its reply is
    /// thrown away. Its callback is called all the same, with [`RedisError::Gone`]. A command that waits for something to happen
    /// ends with its connection.
    ///
    /// ```
    /// use loopwright::App;
    /// use std::time::Duration;
    /// let mut app: App = App::new();
    /// // The next job, for a client that waits for one.
    /// app.get("/job", |cx, _, res| {
    ///     let res = res.defer();
    ///     let redis = cx.redis("cache").answering(&res).timeout(Duration::from_secs(20));
    ///     redis.command(["BLPOP", "jobs", "0"], move |_, job| match job {
    ///         Ok(job) => res.text(format!("{job:?}")),
    ///         Err(error) => res.status(error.status()).text("nothing to do"),
    ///     });
    /// });
    /// ```
    pub fn answering(self, answer: &impl Open) -> Self {
        let client = Some(answer.exchange());
        RedisClient { client, ..self }
    }

    /// How long the reply may take, waiting for a connection included; then the question is given up, as with
    /// [`RedisClient::answering`], with [`RedisError::Deadline`].
    pub fn timeout(self, timeout: Duration) -> Self {
        let timeout = Some(timeout);
        RedisClient { timeout, ..self }
    }

    /// Asks; `then` gets the reply (without the attributes that it may have). What is an error to the server is
    /// [`RedisError::Server`].
    ///
    /// `BLPOP` and others that wait for something to happen, and `XREAD` with `BLOCK`, have a connection to themselves, and
    /// `block` instead of `timeout` for a limit. What belongs to the connection (`SELECT`, `MULTI`, `SUBSCRIBE`, …) is
    /// [`RedisError::Refused`].
    ///
    /// ```
    /// use loopwright::{App, service::redis::{Command, Value}};
    /// let mut app: App = App::new();
    /// app.post("/visits/{page}", |cx, req, res| {
    ///     let (page, res) = (req.param("page").to_string(), res.defer());
    ///     cx.redis("cache").command(("HINCRBY", "visits", page, 1), move |_, visits| match visits {
    ///         Ok(Value::Integer(n)) => res.text(n.to_string()),
    ///         other => res.status(500).text(format!("{other:?}")),
    ///     });
    /// });
    /// ```
    pub fn command(
        self,
        command: impl Into<Command>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Value, RedisError>) + 'static,
    ) {
        self.submit(Ask::One(command.into()), Box::new(then));
    }

    /// Publishes; `then` gets how many clients of that server were given it.
    ///
    /// ```
    /// let mut app: loopwright::App = loopwright::App::new();
    /// app.post("/news", |cx, _, res| {
    ///     cx.redis("cache").publish("news", "it rains", |_, heard| log::info!("{heard:?}"));
    ///     res.text("published");
    /// });
    /// ```
    pub fn publish(
        self,
        channel: impl Arg,
        message: impl Arg,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<i64, RedisError>) + 'static,
    ) {
        let command = Command::new("PUBLISH").arg(channel).arg(message);
        self.command(command, move |cx, reply| {
            let heard = reply.and_then(|reply| match reply {
                Value::Integer(n) => Ok(n),
                _ => Err(RedisError::Refused("the reply to PUBLISH is no number")),
            });
            then(cx, heard);
        });
    }

    /// Asks for several commands as one transaction (`MULTI`, `EXEC`): nobody else's come between them. `then` gets a
    /// reply for each, which may be a [`Value::Error`]: Redis does the others all the same. If one of them is no command at
    /// all, none is done, and that is the error.
    ///
    /// ```
    /// use loopwright::{App, service::redis::Command};
    /// let mut app: App = App::new();
    /// app.post("/move", |cx, _, res| {
    ///     let res = res.defer();
    ///     let commands: [Command; 2] = [("DECRBY", "a", 5).into(), ("INCRBY", "b", 5).into()];
    ///     cx.redis("cache").multi(commands, move |_, replies| match replies {
    ///         Ok(replies) => res.text(format!("{replies:?}")),
    ///         Err(error) => res.status(error.status()).text(error.to_string()),
    ///     });
    /// });
    /// ```
    pub fn multi(
        self,
        commands: impl IntoIterator<Item = impl Into<Command>>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Vec<Value>, RedisError>) + 'static,
    ) {
        let commands = commands.into_iter().map(Into::into).collect();
        let then: Then<S> = Box::new(|cx, reply| then(cx, reply.and_then(replies)));
        self.submit(Ask::Multi(commands), then);
    }

    /// Changes what nobody else has changed meanwhile: watches `keys`, asks for `reads`, gives their replies to
    /// `decide`, and does what it returns as one transaction. If somebody has changed one of the keys by then, nothing is
    /// done, and it begins again: `decide` may be called several times, up to `retries` times more, then it is
    /// [`RedisError::Conflict`]. If it returns `None`, nothing is done, and `then` gets `None`.
    ///
    /// ```
    /// use loopwright::{App, service::redis::{Command, Value}};
    /// let mut app: App = App::new();
    /// app.post("/double", |cx, _, res| {
    ///     let res = res.defer();
    ///     let decide = |_: &mut loopwright::Ctx<'_>, replies: Vec<Value>| {
    ///         let text = std::str::from_utf8(replies[0].bytes()?).ok()?;
    ///         let n: i64 = text.parse().ok()?;
    ///         Some(vec![Command::from(("SET", "n", 2 * n))])
    ///     };
    ///     cx.redis("cache").watch(["n"], [["GET", "n"]], decide, move |_, done| match done {
    ///         Ok(Some(_)) => res.text("doubled"),
    ///         Ok(None) => res.text("there is no number"),
    ///         Err(error) => res.status(error.status()).text(error.to_string()),
    ///     });
    /// });
    /// ```
    pub fn watch(
        self,
        keys: impl IntoIterator<Item = impl Arg>,
        reads: impl IntoIterator<Item = impl Into<Command>>,
        decide: impl FnMut(&mut Ctx<'_, S>, Vec<Value>) -> Option<Vec<Command>> + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Option<Vec<Value>>, RedisError>) + 'static,
    ) {
        let watched = Watched {
            watch: Command::new("WATCH").args(keys),
            reads: reads.into_iter().map(Into::into).collect(),
            decide: Some(Box::new(decide)),
            writes: None,
            attempts: 0,
        };
        let then: Then<S> = Box::new(|cx, reply| {
            let done = reply.and_then(|reply| match reply {
                Value::Null => Ok(None),
                reply => replies(reply).map(Some),
            });
            then(cx, done);
        });
        self.submit(Ask::Watched(watched), then);
    }

    /// Has the server run a script: by its digest, and if the server does not know it (any more), whole. In that
    /// case it comes behind what was asked after it.
    ///
    /// ```
    /// use loopwright::{App, service::redis::{Script, Value}};
    /// let script = Script::new("return redis.call('incrby', KEYS[1], ARGV[1])");
    /// let mut app: App = App::new();
    /// app.post("/count", move |cx, _, res| {
    ///     let res = res.defer();
    ///     cx.redis("cache").script(&script, &["n"], &[5], move |_, n| match n {
    ///         Ok(Value::Integer(n)) => res.text(n.to_string()),
    ///         other => res.status(500).text(format!("{other:?}")),
    ///     });
    /// });
    /// ```
    pub fn script(
        self,
        script: &Script,
        keys: &[impl Arg],
        arguments: &[impl Arg],
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Value, RedisError>) + 'static,
    ) {
        let (short, whole) = script.commands(keys, arguments);
        self.submit(Ask::Script(short, whole), Box::new(then));
    }

    /// Hears what is published in a channel, for as long as the [`Subscribed`] is there. All subscriptions share one
    /// connection, which is made again when it breaks; what is published meanwhile is not heard: `hear` is told
    /// of the begin and the end of such a gap.
    ///
    /// ```
    /// use loopwright::{App, Ctx, service::redis::{Heard, Subscribed}};
    /// /// The embedder's state.
    /// struct Site { news: Option<Subscribed<Site>> }
    /// let mut app: App<Site> = App::new();
    /// app.post("/listen", |cx, _, res| {
    ///     let news = cx.redis("cache").subscribe("news", |_, heard| match heard {
    ///         Heard::Message(message) => log::info!("{:?}", message.payload),
    ///         Heard::Subscribed => log::info!("from now on"),
    ///         Heard::Gap(why) => log::warn!("something may be missed: {why}"),
    ///         Heard::Denied(why) => log::error!("{why}"),
    ///     });
    ///     cx.state.news = Some(news);
    ///     res.text("listening");
    /// });
    /// ```
    pub fn subscribe(
        self,
        channel: impl Into<Bytes>,
        hear: impl FnMut(&mut Ctx<'_, S>, Heard) + 'static,
    ) -> Subscribed<S> {
        let (is_pattern, name) = (false, channel.into());
        subscribe::subscribe(self, Topic { is_pattern, name }, Box::new(hear))
    }

    /// The same for all channels that a pattern fits, as `PSUBSCRIBE` has it: `news.*`.
    ///
    /// ```
    /// use loopwright::{Ctx, service::redis::Subscribed};
    /// fn listen(cx: &mut Ctx<'_>) -> Subscribed {
    ///     cx.redis("cache").psubscribe("news.*", |_, heard| log::info!("{heard:?}"))
    /// }
    /// ```
    pub fn psubscribe(
        self,
        pattern: impl Into<Bytes>,
        hear: impl FnMut(&mut Ctx<'_, S>, Heard) + 'static,
    ) -> Subscribed<S> {
        let (is_pattern, name) = (true, pattern.into());
        subscribe::subscribe(self, Topic { is_pattern, name }, Box::new(hear))
    }

    /// How it stands; `None`: there is no such Redis.
    ///
    /// ```
    /// let mut app: loopwright::App = loopwright::App::new();
    /// app.get("/health", |cx, _, res| match cx.redis("cache").status() {
    ///     Some(status) if status.open > 0 => res.text("well"),
    ///     _ => res.status(503).text("no cache"),
    /// });
    /// ```
    pub fn status(self) -> Option<RedisStatus> {
        self.db.and_then(|db| db.status())
    }

    fn submit(self, ask: Ask<S>, then: Then<S>) {
        match self.db {
            Some(db) => db.submit(self.cx, self.id, ask, self.timeout, self.client, then),
            None => {
                let error = RedisError::Unknown(self.name);
                self.cx.later().call(move |cx| then(cx, Err(error)));
            }
        }
    }
}

/// What `EXEC` says.
fn replies(reply: Value) -> Result<Vec<Value>, RedisError> {
    match reply {
        Value::Array(replies) => Ok(replies),
        _ => Err(RedisError::Refused("the reply to EXEC is no list")),
    }
}

/// What a subscription brings: see [`RedisClient::subscribe`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// From now on everything is heard: at the beginning, and after each gap.
    Subscribed,
    /// Somebody has published.
    Message(Message),
    /// The connection is lost, and why: until it is `Subscribed` again, nothing is heard.
    Gap(Rc<str>),
    /// The server does not allow it, or there are too many; it says so again after each gap. Or a reload has brought
    /// another Redis of this name: then nothing comes any more, and whoever wants to hear on subscribes anew.
    Denied(String),
}

/// A publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it was published.
    pub channel: Bytes,
    /// What.
    pub payload: Bytes,
}

/// How a Redis stands: see [`RedisClient::status`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RedisStatus {
    /// Its name.
    pub name: Box<str>,
    /// Connections that are ready, of all kinds.
    pub open: usize,
    /// Connections being made.
    pub making: usize,
    /// Commands that wait for a connection.
    pub waiting: usize,
    /// Commands that wait for a reply.
    pub running: usize,
    /// Commands, ever; a transaction is one.
    pub commands: u64,
    /// Of those, how many have ended with an error.
    pub errors: u64,
    /// Connections made, ever.
    pub made: u64,
    /// Connections that could not be made, ever.
    pub failed: u64,
    /// Subscriptions that stand.
    pub subscriptions: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_the_same_or_not() {
        let new = || Redis::new("redis://:s3cret@cache.example").unwrap();
        assert_eq!(new(), new());
        assert_ne!(new(), new().connections(3));
        assert_ne!(new(), Redis::new("redis://:other@cache.example").unwrap());
        assert_eq!(new().name("a b\r\nc").name, "abc");
        assert!(!format!("{:?}", new()).contains("s3cret"));
    }
}
