//! Floor 4. Subscriptions: one connection for all of them.
//!
//! ```text
//! Off ── something is wanted ─► dialled ── Ready: all of it is asked for ─► On ── nothing is wanted ─► Off
//!  ▲                               │                                        │
//!  └──────── a pause ◄─────────────┴──────── broken, silent (gap) ──────────┘
//! ```
//! Invariants: `todo` is what is not asked yet, in order; `changing` counts what is asked and not confirmed, for each
//! topic. A topic `is_on` when its last change was confirmed and was a subscription: what is published from then on to
//! the next gap is heard.

use super::super::dial::Place;
use super::hub::{Db, Hub, Id};
use super::{Heard, Message, RedisClient};
use crate::proto::redis::{Event, Verb};
use crate::{Bytes, Ctx, Later};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

pub(super) type Hear<S> = Box<dyn FnMut(&mut Ctx<'_, S>, Heard)>;

/// How much may be heard and not told yet; then the server has to wait.
const UNTOLD: usize = 1024;

/// Hears until it is dropped: from [`RedisClient::subscribe`].
#[must_use = "dropped, it hears nothing"]
pub struct Subscribed<S: 'static = ()> {
    to: Option<(Db<S>, Topic, Id, Later<S>)>,
}

impl<S: 'static> Drop for Subscribed<S> {
    fn drop(&mut self) {
        if let Some((db, topic, id, later)) = self.to.take() {
            later.call(move |cx| {
                db.enter(cx, |hub, db, cx| hub.unsubscribe(db, cx, &topic, id));
            });
        }
    }
}

/// A channel, or a pattern of channels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Topic {
    pub(super) is_pattern: bool,
    pub(super) name: Bytes,
}

impl Topic {
    fn of(verb: Verb, name: Bytes) -> Topic {
        let is_pattern = matches!(verb, Verb::PSubscribe | Verb::PUnsubscribe);
        Topic { is_pattern, name }
    }

    fn change(&self, wanted: bool) -> (Verb, Bytes) {
        let verb = match (self.is_pattern, wanted) {
            (false, true) => Verb::Subscribe,
            (false, false) => Verb::Unsubscribe,
            (true, true) => Verb::PSubscribe,
            (true, false) => Verb::PUnsubscribe,
        };
        (verb, self.name.clone())
    }
}

struct Audience<S: 'static> {
    is_on: bool,
    /// In the order in which they came.
    all: BTreeMap<Id, Place<Hear<S>>>,
}

/// The connection that hears, and for whom.
pub(super) struct Ear<S: 'static> {
    topics: BTreeMap<Topic, Audience<S>>,
    on: Option<Id>,
    todo: VecDeque<(Verb, Bytes)>,
    changing: BTreeMap<Topic, usize>,
    /// Heard, and not told yet.
    untold: usize,
}

impl<S: 'static> Ear<S> {
    pub(super) fn new() -> Ear<S> {
        Ear {
            topics: BTreeMap::new(),
            on: None,
            todo: VecDeque::new(),
            changing: BTreeMap::new(),
            untold: 0,
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.topics.is_empty()
    }

    /// How many subscriptions stand.
    pub(super) fn heard(&self) -> usize {
        self.topics.values().filter(|of| of.is_on).count()
    }

    /// Its connection is ready.
    pub(super) fn begin(&mut self, id: Id) {
        self.on = Some(id);
        self.changing.clear();
        self.todo = self.topics.keys().map(|topic| topic.change(true)).collect();
    }

    /// Whether a change of it waits for its confirmation.
    fn is_asked(&self, topic: &Topic) -> bool {
        let mut todo = self.todo.iter();
        self.changing.contains_key(topic)
            || todo.any(|(verb, name)| Topic::of(*verb, name.clone()) == *topic)
    }

    fn place(&self, topic: &Topic, id: Id) -> Option<Place<Hear<S>>> {
        self.topics.get(topic)?.all.get(&id).cloned()
    }
}

pub(super) fn subscribe<S: 'static>(
    client: RedisClient<'_, '_, S>,
    topic: Topic,
    mut hear: Hear<S>,
) -> Subscribed<S> {
    let Some(db) = client.db else {
        let why = format!("there is no redis {:?}", client.name);
        log::error!("{why}: nothing is subscribed to");
        let later = client.cx.later();
        later.call(move |cx| hear(cx, Heard::Denied(why)));
        return Subscribed { to: None };
    };
    let (id, later) = (client.id, client.cx.later());
    let limit = db.settings.subscriptions;
    let refused = db.enter(client.cx, |hub, db, cx| {
        let is_full = hub.ear.topics.len() >= limit && !hub.ear.topics.contains_key(&topic);
        if is_full || hub.is_stopping {
            return Some(hear);
        }
        hub.subscribe(db, cx, id, topic.clone(), hear);
        None
    });
    if let Some(Some(mut hear)) = refused {
        let why = format!("there are {limit} subscriptions already (subscriptions)");
        later.call(move |cx| hear(cx, Heard::Denied(why)));
        return Subscribed { to: None };
    }
    let to = Some((db, topic, id, later));
    Subscribed { to }
}

impl<S: 'static> Hub<S> {
    fn subscribe(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, topic: Topic, hear: Hear<S>) {
        let audience = self.ear.topics.entry(topic.clone()).or_insert(Audience {
            is_on: false,
            all: BTreeMap::new(),
        });
        let (is_first, is_on) = (audience.all.is_empty(), audience.is_on);
        audience.all.insert(id, Place::new(hear));
        if is_on {
            self.tell(db, cx, &topic, id, Heard::Subscribed);
        } else if is_first || !self.ear.is_asked(&topic) {
            // Asked again, if it was denied.
            self.change(db, cx, &topic, true);
        }
        self.pump(db, cx);
    }

    fn unsubscribe(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, topic: &Topic, id: Id) {
        let Some(audience) = self.ear.topics.get_mut(topic) else {
            return;
        };
        audience.all.remove(&id);
        if !audience.all.is_empty() {
            return;
        }
        self.ear.topics.remove(topic);
        if self.ear.topics.is_empty() {
            return self.hush(cx);
        }
        self.change(db, cx, topic, false);
    }

    /// If the connection is there; when it will be, it is told all.
    fn change(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, topic: &Topic, wanted: bool) {
        let Some(id) = self.ear.on else { return };
        self.ear.todo.push_back(topic.change(wanted));
        if self.ear.todo.len() > 2 * db.settings.subscriptions + 16 {
            // It takes nothing: another one is told all.
            return self.lose(db, cx, id, "it takes no subscriptions", None);
        }
        self.touch(db, cx, id);
    }

    /// Asks for what is to be asked for, as much as there is room for.
    pub(super) fn tell_ear(&mut self, cx: &mut Ctx<'_, S>, id: Id) {
        if self.ear.on != Some(id) {
            return;
        }
        let now = cx.now();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        while let Some((verb, name)) = self.ear.todo.front().cloned()
            && conn
                .line
                .session
                .subscription(verb, name.clone(), now)
                .is_ok()
        {
            self.ear.todo.pop_front();
            *self.ear.changing.entry(Topic::of(verb, name)).or_default() += 1;
        }
    }

    /// The server says something of subscriptions.
    pub(super) fn on_heard(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, event: Event) {
        match event {
            Event::Message {
                pattern,
                channel,
                payload,
            } => {
                let topic = Topic {
                    is_pattern: pattern.is_some(),
                    name: pattern.unwrap_or_else(|| channel.clone()),
                };
                self.tell_all(
                    db,
                    cx,
                    &topic,
                    &Heard::Message(Message { channel, payload }),
                );
            }
            Event::Confirmed { verb, name, .. } => {
                let topic = Topic::of(verb, name);
                let is_on = matches!(verb, Verb::Subscribe | Verb::PSubscribe);
                if self.changed(&topic) && is_on {
                    self.turn(&topic, true);
                    self.tell_all(db, cx, &topic, &Heard::Subscribed);
                }
            }
            Event::Denied { verb, name, error } => {
                let topic = Topic::of(verb, name);
                if self.changed(&topic) {
                    let why = String::from_utf8_lossy(&error).into_owned();
                    self.tell_all(db, cx, &topic, &Heard::Denied(why));
                }
            }
            Event::Ready { .. } | Event::Reply { .. } | Event::Push(_) => {}
        }
    }

    /// A change was answered. Returns whether it was the last one of its topic.
    fn changed(&mut self, topic: &Topic) -> bool {
        if let Some(left) = self.ear.changing.get_mut(topic) {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.ear.changing.remove(topic);
        }
        !self.ear.is_asked(topic)
    }

    fn turn(&mut self, topic: &Topic, is_on: bool) {
        if let Some(audience) = self.ear.topics.get_mut(topic) {
            audience.is_on = is_on;
        }
    }

    fn tell_all(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, topic: &Topic, heard: &Heard) {
        let Some(audience) = self.ear.topics.get(topic) else {
            return;
        };
        for id in audience.all.keys().copied().collect::<Vec<_>>() {
            self.tell(db, cx, topic, id, heard.clone());
        }
    }

    fn tell(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, topic: &Topic, id: Id, heard: Heard) {
        self.ear.untold += 1;
        if self.ear.untold >= UNTOLD {
            self.with_ear(|line| line.hold());
        }
        let (db, topic) = (db.clone(), topic.clone());
        cx.later().call(move |cx| {
            let place = db.enter(cx, |hub, _, _| {
                hub.ear.untold -= 1;
                if hub.ear.untold == UNTOLD / 2 {
                    hub.with_ear(|line| line.resume());
                }
                hub.ear.place(&topic, id)
            });
            if let Some(Some(place)) = place {
                place.with(|hear| hear(cx, heard));
            }
        });
    }

    fn with_ear(&mut self, f: impl FnOnce(&crate::LinkHandle)) {
        if let Some(conn) = self.ear.on.and_then(|id| self.conns.get(&id)) {
            f(&conn.line.handle);
        }
    }

    /// Its connection has ended.
    pub(super) fn deafen(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, why: &str) {
        self.ear.on = None;
        self.ear.todo.clear();
        self.ear.changing.clear();
        let why: Rc<str> = why.into();
        let topics = self.ear.topics.iter_mut();
        let were_on =
            topics.filter_map(|(topic, of)| std::mem::take(&mut of.is_on).then(|| topic.clone()));
        for topic in were_on.collect::<Vec<_>>() {
            self.tell_all(db, cx, &topic, &Heard::Gap(why.clone()));
        }
    }

    /// Nobody hears anything any more: whoever still would is told.
    pub(super) fn hush(&mut self, cx: &mut Ctx<'_, S>) {
        let topics = std::mem::take(&mut self.ear.topics);
        let all = topics.into_values().flat_map(|of| of.all.into_values());
        for mut hear in all.filter_map(|place| place.end()) {
            let why = "a reload has brought another redis of this name".to_string();
            cx.later().call(move |cx| hear(cx, Heard::Denied(why)));
        }
        self.ear.todo.clear();
        self.ear.changing.clear();
        if let Some(id) = self.ear.on.take() {
            self.close(id);
        }
    }
}
