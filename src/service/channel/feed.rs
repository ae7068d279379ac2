//! Floor 4. One topic of a channel: what it remembers, and who follows it.
//!
//! ```text
//! publication ─► hear ─┬─► ring ─► who joins later
//!                      ├─► readers (events), tellers (sockets that want ids)
//!                      └─► waiters (long polls): answered, and gone
//! ```
//! Sockets that want no ids are only counted here: once they have caught up, they are subscribed to the topic itself.

use super::ring::{Bounds, Entry, Ring, reset_event, reset_json};
use super::ring::{Since, Start, id};
use crate::{Ctx, Events, Instant, Responder, Sent, SocketHandle, Subscription, TimerId};
use std::rc::Rc;

/// A client of server-sent events.
struct Reader {
    events: Events,
    after: u64,
}

/// A WebSocket that is told ids.
struct Teller {
    socket: SocketHandle,
    after: u64,
}

/// A long poll.
pub(super) struct Waiter {
    /// Names it for its timer.
    pub(super) key: u64,
    pub(super) res: Responder,
    pub(super) after: u64,
    pub(super) timer: TimerId,
}

pub(super) struct Feed {
    epoch: Rc<str>,
    bounds: Bounds,
    pub(super) ring: Ring,
    pub(super) subscription: Subscription,
    /// When somebody last had to do with it.
    touched: Instant,
    /// Sockets that are open, of both kinds.
    pub(super) members: usize,
    readers: Vec<Reader>,
    tellers: Vec<Teller>,
    waiters: Vec<Waiter>,
}

impl Feed {
    /// Begins with what is published from now on.
    pub(super) fn new<S: 'static>(
        cx: &Ctx<'_, S>,
        epoch: Rc<str>,
        bounds: Bounds,
        subscription: Subscription,
    ) -> Feed {
        Feed {
            epoch,
            bounds,
            ring: Ring::new(cx.stats().publications),
            subscription,
            touched: cx.now(),
            members: 0,
            readers: Vec::new(),
            tellers: Vec::new(),
            waiters: Vec::new(),
        }
    }

    /// Somebody has to do with it: nothing too old is seen.
    pub(super) fn touch(&mut self, now: Instant) {
        self.touched = now;
        self.ring.expire(now, self.bounds.age);
    }

    /// Something was published.
    pub(super) fn hear<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, entry: Entry) {
        self.touch(cx.now());
        let number = entry.number;
        if !self.readers.is_empty() {
            let event = entry.event(&self.epoch);
            self.readers.retain(|reader| {
                number <= reader.after || reader.events.send(&event) != Sent::Closed
            });
        }
        if !self.tellers.is_empty() || !self.waiters.is_empty() {
            let json = entry.json(&self.epoch);
            self.tellers.retain(|teller| !teller.socket.is_closed());
            let late = self.tellers.iter().filter(|teller| number > teller.after);
            SocketHandle::send_all(late.map(|teller| &teller.socket), &json);
            let list = crate::Bytes::from(format!("[{json}]"));
            let name = id(&self.epoch, number);
            for waiter in self.waiters.extract_if(.., |waiter| number > waiter.after) {
                cx.cancel(waiter.timer);
                as_list(waiter.res, &name).bytes(list.clone());
            }
        }
        self.ring.push(entry, self.bounds);
    }

    /// A client of server-sent events joins.
    pub(super) fn read(&mut self, events: Events, since: Since) {
        let Start { after, reset } = self.ring.start(since);
        let epoch = &self.epoch;
        let told = reset.then(|| reset_event(epoch, self.ring.before()));
        let missed = self.ring.after(after).map(|entry| entry.event(epoch));
        events.resume(told.into_iter().chain(missed));
        self.readers.push(Reader { events, after });
    }

    /// A WebSocket that has caught up is told what follows.
    pub(super) fn tell(&mut self, socket: SocketHandle, after: u64) {
        self.tellers.push(Teller { socket, after });
    }

    /// What is held of what comes after, as JSON, and the id to go on from.
    pub(super) fn list(&self, Start { after, reset }: Start) -> (Vec<String>, String) {
        let epoch = &self.epoch;
        let told = reset.then(|| reset_json(epoch, self.ring.before()));
        let held = self.ring.after(after).map(|entry| entry.json(epoch));
        let last = self.ring.last().max(after);
        (told.into_iter().chain(held).collect(), id(epoch, last))
    }

    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    /// A long poll that is over: its time has come, or its client has gone.
    pub(super) fn take_waiter(&mut self, key: u64) -> Option<Waiter> {
        let at = self.waiters.iter().position(|waiter| waiter.key == key)?;
        Some(self.waiters.swap_remove(at))
    }

    /// Lets go of who has gone and what is too old. Says whether it is still wanted.
    pub(super) fn sweep(&mut self, now: Instant) -> bool {
        self.readers.retain(|reader| !reader.events.is_closed());
        self.tellers.retain(|teller| !teller.socket.is_closed());
        self.ring.expire(now, self.bounds.age);
        if self.has_followers() {
            self.touched = now;
            return true;
        }
        self.touched + self.bounds.age > now
    }

    /// Nobody would miss it but who comes back with an id.
    pub(super) fn is_bare(&self) -> bool {
        self.ring.is_empty() && !self.has_followers()
    }

    /// When somebody last had to do with it.
    pub(super) fn touched(&self) -> Instant {
        self.touched
    }

    pub(super) fn has_followers(&self) -> bool {
        self.members + self.readers.len() + self.waiters.len() > 0
    }

    /// The server is about to leave: what has no end of its own is ended. (Sockets the loop closes.)
    pub(super) fn end<S: 'static>(&mut self, cx: &mut Ctx<'_, S>) {
        self.readers.clear();
        for waiter in self.waiters.drain(..) {
            cx.cancel(waiter.timer);
            nothing_new(waiter.res, &id(&self.epoch, waiter.after));
        }
    }
}

/// The head of a list of messages.
pub(super) fn as_list(res: Responder, next: &str) -> Responder {
    res.header("content-type", "application/json")
        .header("cache-control", "no-store")
        .header("last-event-id", next)
}

/// The answer to a long poll that has waited for nothing.
pub(super) fn nothing_new(res: Responder, next: &str) {
    let res = res.status(204).header("cache-control", "no-store");
    res.header("last-event-id", next).empty();
}
