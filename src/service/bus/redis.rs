//! Floor 4. A bus through a Redis server (6 or later): one connection that publishes and is subscribed.
//!
//! ```text
//!  resolve ─► connect ─► greet ─► subscribe to what is wanted ─► send what waits ─► publish, hear
//!     ▲          └──────────┴────────────┴───────────┬────────────────────────────────┘
//!     └────────────── a pause, longer each time ◄────┘ refused, broken, silent
//! ```
//! Invariants: one attempt or connection at a time, for [`Owner::lost`] is called exactly once, and only that
//! begins another. Every publication goes through `outage`, so their order is kept; in it waits what the server
//! cannot be given yet, and no more than `BusLimits` says.

use super::super::dial::{self, Shared};
use super::super::redis::wire::{self, Line, Owner};
use super::{BusLimits, GATHERED, Hearing, Stats, deliver, pattern, stamped};
use crate::base::backoff::Backoff;
use crate::proto::bus::{Channels, MAX_ENVELOPE, Outage, Pattern, Stamps};
use crate::proto::redis::{Error, Event, Settings, Url, Verb};
use crate::proto::resp::{Bounds, Value};
use crate::{Bus, Bytes, Ctx};
use std::collections::VecDeque;
use std::time::Duration;

/// How a Redis is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisSettings {
    /// Before each topic, in the name of its channel. Default `loopwright:`.
    pub prefix: String,
    /// How much may wait.
    pub limits: BusLimits,
    /// How long the server may be silent before it is asked whether it is there. Default 15 s.
    pub idle: Duration,
    /// How long it may owe an answer; then the connection is given up. Default 10 s.
    pub reply: Duration,
    /// The longest pause before another attempt to connect; the first is 100 ms, each is drawn at random. Default 10 s.
    pub retry: Duration,
}

impl Default for RedisSettings {
    fn default() -> RedisSettings {
        RedisSettings {
            prefix: "loopwright:".to_string(),
            limits: BusLimits::default(),
            idle: Duration::from_secs(15),
            reply: Duration::from_secs(10),
            retry: Duration::from_secs(10),
        }
    }
}

/// How many answers the server may owe.
const PIPELINE: usize = 16 * 1024;
const BUS: &str = "redis bus";

/// A bus through Redis' publish/subscribe: servers on any number of machines that name the same Redis hear each other.
///
/// Each server has a connection of its own, and is subscribed to what has subscribers in it. While Redis is away, what is published
/// reaches the subscribers of this process as ever; for the others it waits, within [`BusLimits`].
///
/// ```no_run
/// use loopwright::service::bus::{Redis, RedisSettings};
/// use loopwright::{App, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut app = App::new();
/// app.ws("/chat", |cx, ws, message| cx.publish_from(ws, "chat", message));
/// app.bus(Redis::new("redis://:s3cret@cache.example/".parse()?, RedisSettings::default()));
/// Server::bind("0.0.0.0:8080", app, ())?.run()?;
/// # Ok(()) }
/// ```
pub struct Redis {
    hub: Shared<Hub>,
    stats: Stats,
}

struct Hub {
    url: Url,
    settings: RedisSettings,
    stats: Stats,
    channels: Channels,
    stamps: Stamps,
    hearing: Hearing,
    /// What is to be sent, oldest first.
    outage: Outage,
    backoff: Backoff,
    attempts: usize,
    open: Option<Open>,
    /// It has been logged that the server is away.
    is_away: bool,
}

struct Open {
    line: Line,
    /// Subscriptions to ask for.
    todo: VecDeque<(Verb, String)>,
    has_told_refusal: bool,
}

impl Redis {
    /// At `url`; connects when the server begins to run.
    pub fn new(url: Url, settings: RedisSettings) -> Redis {
        let stats = Stats::default();
        let origin = fastrand::u64(..);
        let hub = Hub {
            channels: Channels::new(settings.prefix.clone()),
            stamps: Stamps::new(origin, super::REMEMBERED),
            hearing: Hearing::new(origin),
            outage: Outage::new(settings.limits.queue_size, settings.limits.queue),
            backoff: dial::backoff(settings.retry),
            attempts: 0,
            open: None,
            is_away: false,
            stats: stats.clone(),
            url,
            settings,
        };
        Redis {
            hub: Shared::new(hub),
            stats,
        }
    }

    /// What it counts, to be read while it runs.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }
}

impl<S: 'static> Bus<S> for Redis {
    fn start(&mut self, cx: &mut Ctx<'_, S>) {
        find(&self.hub, cx);
    }

    fn publish(&mut self, cx: &mut Ctx<'_, S>, publication: &crate::Publication) {
        self.hub.with(|hub| hub.publish(cx, publication));
    }

    fn wanted(&mut self, cx: &mut Ctx<'_, S>, text: &str, wanted: bool) {
        let Some(pattern) = pattern(text) else { return };
        let forget = self.hub.with(|hub| hub.wanted(cx, &pattern, wanted));
        if forget == Some(true) {
            let hub = self.hub.clone();
            cx.after(GATHERED, move |_| {
                hub.with(|hub| hub.hearing.forget());
            });
        }
    }
}

/// The bus has one connection.
const ONLY: u64 = 0;

/// Finds out where the server is, and connects.
fn find<S: 'static>(hub: &Shared<Hub>, cx: &mut Ctx<'_, S>) {
    let attempt = hub.with(|hub| {
        hub.attempts = hub.attempts.wrapping_add(1);
        (hub.url.address.clone(), hub.attempts)
    });
    if let Some((address, attempt)) = attempt {
        wire::dial(hub, cx, ONLY, address, attempt);
    }
}

/// No connection, or no more: another one after a pause.
fn fail<S: 'static>(hub: &Shared<Hub>, cx: &mut Ctx<'_, S>, why: &str) {
    if cx.is_stopping() {
        return;
    }
    let Some(pause) = hub.with(|hub| hub.failed(cx, why)) else {
        return;
    };
    let hub = hub.clone();
    cx.after(pause, move |cx| find(&hub, cx));
}

impl<S: 'static> Owner<S> for Shared<Hub> {
    fn settings(&self, _: u64) -> Option<Settings> {
        self.with(|hub| hub.session())
    }

    fn opened(&self, _: &mut Ctx<'_, S>, _: u64, line: Line) {
        self.with(|hub| {
            hub.open = Some(Open {
                line,
                todo: VecDeque::new(),
                has_told_refusal: false,
            });
        });
    }

    fn line<R>(&self, _: u64, f: impl FnOnce(&mut Line) -> R) -> Option<R> {
        self.with(|hub| hub.open.as_mut().map(|open| f(&mut open.line)))?
    }

    fn event(&self, cx: &mut Ctx<'_, S>, _: u64, event: Event) -> Result<(), String> {
        let heard = self.with(|hub| hub.on_event(cx, event));
        heard.unwrap_or(Ok(()))
    }

    fn pump(&self, cx: &mut Ctx<'_, S>, _: u64) {
        self.with(|hub| hub.pump(cx));
    }

    fn lost(&self, cx: &mut Ctx<'_, S>, _: u64, why: &str, _: Option<&Error>) {
        fail(self, cx, why);
    }
}

impl Hub {
    /// How the server is spoken to.
    fn session(&self) -> Settings {
        let longest = self.settings.limits.publication + MAX_ENVELOPE;
        let names = self.settings.prefix.len() + Pattern::MAX;
        let defaults = Settings::default();
        Settings {
            login: self.url.login.clone(),
            name: Some("loopwright".to_string()),
            bounds: Bounds {
                bulk: longest,
                value: longest + 2 * names + 4096,
                ..defaults.bounds
            },
            idle: self.settings.idle,
            reply: self.settings.reply,
            pipeline: PIPELINE,
            // Its output moves on at once: room for the longest is enough.
            output: defaults.output.max(longest + names + 4096),
        }
    }

    fn on_event<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, event: Event) -> Result<(), String> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        match event {
            Event::Ready { protocol: 3, .. } => {
                let all = self.channels.all();
                open.todo = all.map(|(verb, name)| (verb, name.to_string())).collect();
                self.backoff.connected(cx.now());
                self.stats.0.connections.set(1);
                if self.is_away || self.attempts == 1 {
                    log::info!("{BUS}: connected to {}", self.url.address);
                }
            }
            Event::Ready { .. } => {
                return Err("it speaks RESP2 only: want Redis 6 or later".to_string());
            }
            Event::Message {
                pattern,
                channel,
                payload,
            } => {
                let pattern = pattern.as_deref();
                let Some(publication) = self.channels.open(pattern, &channel, payload) else {
                    return Ok(());
                };
                let (is_new, mut missed) = self.hearing.see(&publication);
                if is_new && !deliver(cx, &publication) {
                    missed += 1;
                }
                self.stats.tell(cx, BUS, 0, missed);
            }
            Event::Denied { name, error, .. } => {
                let name = String::from_utf8_lossy(&name).into_owned();
                self.refused(&error, &format!("the subscription to {name:?}"));
            }
            Event::Reply { value, .. } => {
                if let Value::Error(error) = value.plain() {
                    self.refused(&error, "a publication");
                    self.stats.tell(cx, BUS, 1, 0);
                }
            }
            Event::Confirmed { .. } | Event::Push(_) => {}
        }
        Ok(())
    }

    /// Once for each connection.
    fn refused(&mut self, said: &Bytes, what: &str) {
        if let Some(open) = &mut self.open
            && !std::mem::replace(&mut open.has_told_refusal, true)
        {
            let said = String::from_utf8_lossy(said);
            log::error!("{BUS}: {} refuses {what}: {said}", self.url.address);
        }
    }

    fn publish<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, publication: &crate::Publication) {
        let publication = stamped(&mut self.stamps, publication);
        if publication.payload.len() > self.settings.limits.publication {
            return self.stats.tell(cx, BUS, 1, 0);
        }
        let before = self.outage.lost();
        self.outage.push(publication, cx.now());
        self.stats.add_lost(self.outage.lost() - before);
        self.pump(cx);
    }

    /// Returns whether `forget` is to be called after a while.
    fn wanted<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, pattern: &Pattern, wanted: bool) -> bool {
        let change = match wanted {
            true => self.channels.want(pattern),
            false => self.channels.unwant(pattern),
        };
        // A session that is not ready yet is told all when it is.
        if let (Some(change), Some(open)) = (change, &mut self.open)
            && open.line.session.is_ready()
        {
            open.todo.push_back(change);
            if open.todo.len() > PIPELINE + 2 * self.channels.wants().len() {
                open.line.handle.abort("it takes no subscriptions");
            }
            self.pump(cx);
        }
        !wanted && self.hearing.unwant(pattern)
    }

    /// Sends what can be sent: subscriptions first, then what waits.
    fn pump<S: 'static>(&mut self, cx: &mut Ctx<'_, S>) {
        let Some(open) = &mut self.open else { return };
        let now = cx.now();
        loop {
            open.line.flush();
            let session = &mut open.line.session;
            let is_full = open.line.handle.is_full() || session.owed() >= PIPELINE;
            if is_full || !session.is_ready() {
                return;
            }
            if let Some((verb, name)) = open.todo.pop_front() {
                if let Err(e) = session.subscription(verb, name.into(), now) {
                    log::error!("{BUS}: a subscription: {e}");
                }
            } else if let Some(publication) = self.outage.pop() {
                let channel = self.channels.channel(&publication.topic);
                let sealed = publication.seal();
                if let Err(e) = session.publish(channel.as_bytes(), &sealed, now) {
                    log::error!("{BUS}: a publication: {e}");
                    self.stats.add_lost(1);
                }
            } else {
                break;
            }
        }
        let was_away = std::mem::take(&mut self.is_away);
        if let Some(summary) = self.outage.end(now)
            && (was_away || summary.lost > 0)
        {
            log::warn!("{BUS}: {} was {summary}", self.url.address);
        }
    }

    /// Returns how long to wait.
    fn failed<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, why: &str) -> Duration {
        let mut unconfirmed = 0;
        if let Some(open) = self.open.take() {
            unconfirmed = open.line.session.unanswered().count();
            let all = self.stats.unconfirmed() + unconfirmed as u64;
            self.stats.0.unconfirmed.set(all);
        }
        self.stats.0.connections.set(0);
        if !std::mem::replace(&mut self.is_away, true) {
            log::warn!(
                "{BUS}: {} is away: {why}; {unconfirmed} publications were on their way; trying again",
                self.url.address
            );
        }
        self.backoff.failed(cx.now(), &mut fastrand::Rng::new())
    }
}
