//! Floor 4. `LISTEN`: one connection for all channels, beside the pool.
//!
//! ```text
//! Off ── a channel is wanted ─► Dialling ── Ready: LISTEN, all of them ─► On ── the last is not wanted ─► Off
//!  ▲                               │                                       │
//!  └───────────── a pause ◄────────┴──────── broken, silent (ping) ────────┘
//! ```

use super::super::dial::Place;
use super::hub::{Db, Hub, Use};
use super::job::{Id, NOBODY};
use super::transaction::quoted;
use super::{Notification, Pg, Sql};
use crate::base::backoff::Backoff;
use crate::{Ctx, Instant, Later};
use std::collections::BTreeMap;

/// Who hears a channel.
type Hearers<S> = Vec<(Id, Place<Hear<S>>)>;
type Hear<S> = Box<dyn FnMut(&mut Ctx<'_, S>, Notification)>;

/// Hears a channel until it is dropped: from [`Pg::listen`].
#[must_use = "dropped, it hears nothing"]
pub struct Listening<S: 'static = ()> {
    to: Option<(Db<S>, Id, Later<S>)>,
}

impl<S: 'static> Drop for Listening<S> {
    fn drop(&mut self) {
        if let Some((db, id, later)) = self.to.take() {
            later.call(move |cx| {
                db.enter(cx, |hub, db, cx| hub.unlisten(db, cx, id));
            });
        }
    }
}

/// The connection that listens, and who hears it.
pub(super) struct Ear<S: 'static> {
    /// Of each channel, who hears it.
    channels: BTreeMap<String, Hearers<S>>,
    state: State,
    backoff: Backoff,
    retry: Option<Instant>,
    /// When it is asked whether it is there.
    ping: Instant,
    /// What was asked of it has no answer yet.
    is_asking: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    Dialling,
    On(Id),
}

impl<S: 'static> Ear<S> {
    pub(super) fn new(backoff: Backoff) -> Ear<S> {
        Ear {
            channels: BTreeMap::new(),
            state: State::Off,
            backoff,
            retry: None,
            ping: Instant::default(),
            is_asking: false,
        }
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Off if !self.channels.is_empty() => Some(self.retry.unwrap_or_default()),
            State::On(_) => Some(self.ping),
            _ => None,
        }
    }

    /// Channels that are heard now.
    pub(super) fn heard(&self) -> usize {
        match self.state {
            State::On(_) if !self.is_asking => self.channels.len(),
            _ => 0,
        }
    }
}

/// What the server makes of a name that is too long for it, and says when something is said there.
fn clipped(name: &str) -> &str {
    const MOST: usize = 63;
    let end = (0..=name.len().min(MOST)).rev();
    let end = end.into_iter().find(|at| name.is_char_boundary(*at));
    &name[..end.unwrap_or(0)]
}

pub(super) fn listen<S: 'static>(pg: Pg<'_, '_, S>, channel: &str, hear: Hear<S>) -> Listening<S> {
    let Some(db) = pg.db else {
        log::error!(
            "database {}: there is none of this name to listen to",
            pg.name
        );
        return Listening { to: None };
    };
    // All channels are told in one message: one that cannot be would silence the others.
    if channel.is_empty() || channel.contains('\0') {
        log::error!("database {}: {channel:?} is no channel", pg.name);
        return Listening { to: None };
    }
    let channel = clipped(channel);
    let (id, later) = (db.next_id(), pg.cx.later());
    db.enter(pg.cx, |hub, db, cx| {
        let all = hub.ear.channels.entry(channel.to_string()).or_default();
        let is_first = all.is_empty();
        all.push((id, Place::new(hear)));
        if is_first {
            hub.tell_ear(db, cx, format!("LISTEN {}", quoted(channel)));
        }
        hub.listen_on(db, cx);
    });
    let to = Some((db, id, later));
    Listening { to }
}

impl<S: 'static> Hub<S> {
    /// What is due of the connection that listens.
    pub(super) fn listen_on(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        let now = cx.now();
        if self.ear.due().is_none_or(|due| now < due) {
            return;
        }
        if self.ear.state == State::Off {
            self.ear.state = State::Dialling;
            self.dial(db, cx, false);
        } else {
            self.ear.ping = now + db.settings.ping;
            if !self.ear.is_asking {
                self.tell_ear(db, cx, "");
            }
        }
    }

    /// If it is there; when it will be, it is told all.
    fn tell_ear(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, sql: impl Into<Sql>) {
        let State::On(id) = self.ear.state else {
            return;
        };
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        match conn.session.simple(sql, cx.now()) {
            Ok(ticket) => {
                conn.asked.push_back((ticket, NOBODY));
                self.ear.is_asking = true;
                self.touch(id);
            }
            // Then another one, which is told all.
            Err(refusal) => self.lose(db, cx, id, &refusal.to_string(), None),
        }
    }

    pub(super) fn on_ear_ready(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.used = Use::Ear;
        let now = cx.now();
        self.ear.state = State::On(id);
        self.ear.backoff.connected(now);
        self.ear.ping = now + db.settings.ping;
        if self.ear.retry.take().is_some() {
            log::info!("database {}: listening again", db.name);
        }
        let names = self.ear.channels.keys();
        let all: String = names
            .map(|name| format!("LISTEN {};", quoted(name)))
            .collect();
        if all.is_empty() {
            return self.close_ear();
        }
        self.tell_ear(db, cx, all);
    }

    /// It has answered all that it was asked.
    pub(super) fn ear_answered(&mut self) {
        self.ear.is_asking = false;
    }

    pub(super) fn lose_ear(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, why: &str) {
        let now = cx.now();
        self.ear.state = State::Off;
        self.ear.is_asking = false;
        if self.ear.retry.is_none() && !cx.is_stopping() {
            log::warn!("database {}: cannot listen: {why}; trying again", db.name);
        }
        let pause = self.ear.backoff.failed(now, &mut fastrand::Rng::new());
        self.ear.retry = Some(now + pause);
    }

    fn unlisten(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let has = |all: &Hearers<S>| all.iter().any(|(who, _)| *who == id);
        let found = self.ear.channels.iter_mut().find(|(_, all)| has(all));
        let Some((channel, all)) = found else {
            return;
        };
        // Neither what was said before and is still to be told.
        if let Some(at) = all.iter().position(|(who, _)| *who == id) {
            all.remove(at).1.end();
        }
        if !all.is_empty() {
            return;
        }
        let channel = channel.clone();
        self.ear.channels.remove(&channel);
        if self.ear.channels.is_empty() {
            return self.close_ear();
        }
        self.tell_ear(db, cx, format!("UNLISTEN {}", quoted(&channel)));
    }

    fn close_ear(&mut self) {
        if let State::On(id) = self.ear.state {
            self.ear.state = State::Off;
            self.ear.is_asking = false;
            if let Some(conn) = self.conns.remove(&id) {
                conn.handle.close();
            }
        }
    }

    /// Nobody hears anything any more: another database has this one's name.
    pub(super) fn hush(&mut self, db: &Db<S>) {
        if !self.ear.channels.is_empty() {
            let count = self.ear.channels.len();
            log::warn!(
                "database {}: {count} channels are heard no more, as it was replaced",
                db.name
            );
        }
        self.ear.channels.clear();
        self.close_ear();
    }

    /// Something was said.
    pub(super) fn heard(&self, cx: &mut Ctx<'_, S>, said: &Notification) {
        let Some(all) = self.ear.channels.get(&said.channel) else {
            return;
        };
        for (_, place) in all {
            let (place, said) = (place.clone(), said.clone());
            cx.later().call(move |cx| place.with(|hear| hear(cx, said)));
        }
    }
}
