//! Floor 2. Publishing to topics, and subscribing to them: WebSockets, closures, and through a [`Bus`] other
//! processes.
//!
//! ```text
//! publish ─┬─► waits ─ so many a turn ─► sockets (one frame for all), closures
//!          └─► the bus ─► other processes ─► their subscribers
//! ```
//! What is published is queued, and delivered by the loop in the turns that follow, in order: nobody is
//! called within `publish`.

use super::ctx::{Ctx, Job};
use super::websocket::{Message, SocketHandle, WebSocket};
use crate::base::id::ConnId;
use crate::base::topics::Change;
pub use crate::base::topics::TopicError;
use crate::proto::ws::send::Prepared;
use crate::proto::ws::session::Kind;
use bytes::Bytes;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// Who is subscribed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Subscriber {
    Socket(ConnId),
    /// A closure: slot and generation.
    Call(u32, u32),
}

/// What was published: where, and what.
///
/// ```
/// use loopwright::{App, Server};
/// let mut server = Server::bind("127.0.0.1:0", App::<Vec<String>>::new(), vec![]).unwrap();
/// let handle = server.handle();
/// handle.post(|cx| {
///     cx.on_publish("news/*", |cx, news| {
///         cx.state.push(format!("{}: {:?}", news.topic(), news.message().as_text()));
///         cx.stop();
///     }).unwrap();
///     cx.publish("news/sport", "1:0").unwrap();
/// }).unwrap();
/// server.run().unwrap();
/// assert_eq!(server.state()[0], "news/sport: Some(\"1:0\")");
/// ```
#[derive(Debug)]
pub struct Publication {
    number: u64,
    topic: Box<str>,
    /// As WebSockets are sent it.
    pub(crate) message: Prepared,
    /// Not to this one.
    except: Option<ConnId>,
}

impl Publication {
    fn new(number: u64, topic: &str, message: Message<'_>, except: Option<ConnId>) -> Publication {
        Publication {
            number,
            topic: topic.into(),
            message: Prepared::new(message.kind(), message.as_bytes()),
            except,
        }
    }

    /// Which of the publications this process has accepted it is, over all topics: the value of
    /// [`crate::LoopStats::publications`] when [`Ctx::publish`] had returned. Another process that it
    /// reaches through a bus counts it for itself.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where it was published.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What was published.
    pub fn message(&self) -> Message<'_> {
        let payload = self.message.payload();
        match (self.message.kind(), std::str::from_utf8(payload)) {
            (Kind::Text, Ok(text)) => Message::Text(text),
            _ => Message::Binary(payload),
        }
    }

    /// Its bytes, to keep or to send on: a handle, not a copy.
    pub fn bytes(&self) -> Bytes {
        self.message.payload().clone()
    }

    pub(crate) fn is_for(&self, id: ConnId) -> bool {
        self.except != Some(id)
    }
}

/// A closure's subscription, to end it: from [`Ctx::on_publish`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Subscription {
    slot: u32,
    generation: u32,
}

/// What a closure is called with.
pub(crate) type OnPublish<S> = Box<dyn FnMut(&mut Ctx<'_, S>, &Publication)>;

pub(crate) struct Listener<S> {
    pub(crate) generation: u32,
    /// `None` while it runs.
    pub(crate) call: Option<OnPublish<S>>,
}

/// What carries publications to other processes, and brings theirs: see [`crate::App::bus`].
///
/// The loop tells it what is published here and which patterns have subscribers here; what it hears it
/// hands to [`Ctx::deliver`]. It is called when those callbacks have returned that published.
pub trait Bus<S: 'static = ()>: 'static {
    /// The loop has begun.
    fn start(&mut self, cx: &mut Ctx<'_, S>) {
        let _ = cx;
    }

    /// Something was published here, and is on its way to the subscribers here.
    fn publish(&mut self, cx: &mut Ctx<'_, S>, publication: &Publication);

    /// A pattern has got its first subscriber here, or lost its last.
    fn wanted(&mut self, cx: &mut Ctx<'_, S>, pattern: &str, wanted: bool);

    /// A connection to another process, from [`Ctx::introduce`].
    fn meet(&mut self, cx: &mut Ctx<'_, S>, peer: UnixStream) {
        let _ = (cx, peer);
    }
}

/// A WebSocket that can be subscribed: [`WebSocket`] within its callback, [`SocketHandle`] elsewhere.
pub trait Subscribes: sealed::Sealed {
    #[doc(hidden)]
    fn connection(&self) -> (u32, u32);

    #[doc(hidden)]
    fn is_over(&self) -> bool {
        false
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::WebSocket<'_> {}
    impl Sealed for super::SocketHandle {}
}

impl Subscribes for WebSocket<'_> {
    fn connection(&self) -> (u32, u32) {
        (self.id.slot, self.id.generation)
    }
}

impl Subscribes for SocketHandle {
    fn connection(&self) -> (u32, u32) {
        (self.to.slot, self.to.generation)
    }

    fn is_over(&self) -> bool {
        self.is_closed()
    }
}

fn key(socket: &impl Subscribes) -> Subscriber {
    let (slot, generation) = socket.connection();
    Subscriber::Socket(ConnId { slot, generation })
}

impl<S: 'static> Ctx<'_, S> {
    /// Publishes to whoever is subscribed to `topic`: here, and through the bus in other processes.
    ///
    /// Delivery is spread over turns, `limits.deliveries_per_turn` each. Every subscriber gets it once, and
    /// those of one publisher in their order; one that cannot take it is its [`crate::Slow`] policy's.
    ///
    /// # Errors
    /// A topic that is none (segments between slashes, no wildcards, at most 256 bytes and 16 segments), or
    /// more than `limits.publications` or `limits.published` would wait: nobody gets it then.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.post("/rooms/{room}", |cx, req, res| {
    ///     let text = String::from_utf8_lossy(req.body());
    ///     match cx.publish(&format!("rooms/{}", req.param("room")), &*text) {
    ///         Ok(()) => res.status(202).empty(),
    ///         Err(e) => res.status(400).text(e.to_string()),
    ///     }
    /// });
    /// ```
    pub fn publish<'m>(
        &mut self,
        topic: &str,
        message: impl Into<Message<'m>>,
    ) -> Result<(), TopicError> {
        self.publish_to(topic, message.into(), None, true)
    }

    /// The same, to everybody but this socket, which is most often the one whose message it was.
    ///
    /// # Errors
    /// As [`Ctx::publish`].
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.ws("/chat", |cx, ws, message| cx.publish_from(ws, "chat", message));
    /// ```
    pub fn publish_from<'m>(
        &mut self,
        socket: &impl Subscribes,
        topic: &str,
        message: impl Into<Message<'m>>,
    ) -> Result<(), TopicError> {
        let (slot, generation) = socket.connection();
        let except = Some(ConnId { slot, generation });
        self.publish_to(topic, message.into(), except, true)
    }

    /// Hands on to the subscribers of this process what was published in another: for a [`Bus`].
    ///
    /// # Errors
    /// As [`Ctx::publish`].
    pub fn deliver<'m>(
        &mut self,
        topic: &str,
        message: impl Into<Message<'m>>,
    ) -> Result<(), TopicError> {
        self.publish_to(topic, message.into(), None, false)
    }

    /// Hands the bus a connection to another process: for [`crate::service::bus::Workers`]. Without a bus, it
    /// is closed.
    pub fn introduce(&mut self, peer: UnixStream) {
        if self.core.has_bus {
            self.core.jobs.push_back(Job::Introduce(peer));
        }
    }

    fn publish_to(
        &mut self,
        topic: &str,
        message: Message<'_>,
        except: Option<ConnId>,
        abroad: bool,
    ) -> Result<(), TopicError> {
        let abroad = abroad && self.core.has_bus;
        let number = self.core.stats.publications + 1;
        let publication = Rc::new(Publication::new(number, topic, message, except));
        let cost = publication.bytes().len() + topic.len() + size_of::<Publication>();
        self.core.topics.publish(topic, publication.clone(), cost)?;
        self.core.stats.publications = number;
        if abroad {
            self.core.jobs.push_back(Job::Published(publication));
        }
        Ok(())
    }

    /// What was published to exactly this topic and waits to be delivered, oldest first. Whoever subscribes
    /// now does not get it, so who is to miss nothing is told of it first.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/rooms/{room}/waiting", |cx, req, res| {
    ///     res.text(cx.waiting(&format!("rooms/{}", req.param("room"))).count().to_string())
    /// });
    /// ```
    pub fn waiting<'c>(&'c self, topic: &str) -> impl Iterator<Item = &'c Publication> {
        let waiting = self
            .core
            .topics
            .messages()
            .map(|publication| &**publication);
        waiting.filter(move |publication| publication.topic() == topic)
    }

    /// Subscribes a socket: to `rooms/7`, to `rooms/*` for any one segment, to `rooms/**` for all below. It
    /// ends with the socket, and does not begin if that has ended. Says whether it is new.
    ///
    /// # Errors
    /// A pattern that is none, or more than `limits.subscriptions` of one socket.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Message, Socket, WebSocket};
    /// struct Reader;
    /// impl Socket for Reader {
    ///     fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
    ///         cx.subscribe(ws, "news/**").expect("it is a pattern");
    ///     }
    ///     fn message(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: Message<'_>) {}
    /// }
    /// let mut app: App = App::new();
    /// app.sockets("/news", |_, _, _| Ok(Reader));
    /// ```
    pub fn subscribe(
        &mut self,
        socket: &impl Subscribes,
        pattern: &str,
    ) -> Result<bool, TopicError> {
        if socket.is_over() {
            return Ok(false);
        }
        self.enter(pattern, key(socket))
    }

    /// Ends a socket's subscription. Says whether there was one.
    pub fn unsubscribe(&mut self, socket: &impl Subscribes, pattern: &str) -> bool {
        self.leave(pattern, key(socket))
    }

    fn enter(&mut self, pattern: &str, key: Subscriber) -> Result<bool, TopicError> {
        let change = self.core.topics.subscribe(pattern, key)?;
        self.tell_bus(pattern, change, true);
        Ok(change != Change::None)
    }

    fn leave(&mut self, pattern: &str, key: Subscriber) -> bool {
        let change = self.core.topics.unsubscribe(pattern, key);
        self.tell_bus(pattern, change, false);
        change != Change::None
    }

    fn tell_bus(&mut self, pattern: &str, change: Change, wanted: bool) {
        if change == Change::Edge && self.core.has_bus {
            let pattern = pattern.into();
            self.core.jobs.push_back(Job::Wanted { pattern, wanted });
        }
    }

    /// Calls `f` with whatever is published to topics that match, from now on.
    ///
    /// # Errors
    /// A pattern that is none.
    ///
    /// ```
    /// use loopwright::{App, Server};
    /// let mut server = Server::bind("127.0.0.1:0", App::<u32>::new(), 0).unwrap();
    /// let handle = server.handle();
    /// handle.post(|cx| drop(cx.on_publish("hits", |cx, _| *cx.state += 1))).unwrap();
    /// # drop(server);
    /// ```
    pub fn on_publish(
        &mut self,
        pattern: &str,
        f: impl FnMut(&mut Ctx<'_, S>, &Publication) + 'static,
    ) -> Result<Subscription, TopicError> {
        self.core.generations = self.core.generations.wrapping_add(1);
        let generation = self.core.generations;
        let slot = self.core.listeners.vacant_key() as u32;
        self.enter(pattern, Subscriber::Call(slot, generation))?;
        self.core.listeners.insert(Listener {
            generation,
            call: Some(Box::new(f)),
        });
        Ok(Subscription { slot, generation })
    }

    /// Ends what [`Ctx::on_publish`] began; a closure may end itself. Says whether there was one.
    pub fn stop_listening(&mut self, subscription: Subscription) -> bool {
        let Subscription { slot, generation } = subscription;
        let listener = self.core.listeners.get(slot as usize);
        if listener.is_none_or(|listener| listener.generation != generation) {
            return false;
        }
        self.core.listeners.remove(slot as usize);
        self.core
            .unsubscribe_all(Subscriber::Call(slot, generation));
        true
    }

    /// How many subscribers of this process have exactly this pattern.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/rooms/{room}/count", |cx, req, res| {
    ///     res.text(cx.subscribers(&format!("rooms/{}", req.param("room"))).to_string())
    /// });
    /// ```
    pub fn subscribers(&self, pattern: &str) -> usize {
        self.core.topics.subscribers(pattern)
    }
}
