//! Floor 4. A WebSocket that follows a topic.
//!
//! ```text
//! open ─► catching up: what it has missed, from the ring, as fast as it takes it
//!              │ all sent
//!              ├─ as they are ─► subscribed to the topic: framed once for all, as any socket
//!              └─ with ids ────► told by the feed, each message as JSON
//! ```
//! Nothing is lost or doubled on the way from the ring to the topic: what has been accepted, and waits to be
//! delivered, is sent in between, and who subscribes gets what is accepted later.

use super::Hub;
use super::ring::{Start, reset_json};
use crate::{Ctx, Message, Sent, Slow, Socket, WebSocket};
use std::rc::Rc;

pub(super) struct Member {
    hub: Rc<Hub>,
    topic: Rc<str>,
    wants_ids: bool,
    /// What comes after this one it has not got; `None` once it has caught up.
    missing: Option<Start>,
}

impl Member {
    pub(super) fn new(hub: Rc<Hub>, topic: &str, start: Start, wants_ids: bool) -> Member {
        Member {
            hub,
            topic: topic.into(),
            wants_ids,
            missing: Some(start),
        }
    }

    fn catch_up<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>) {
        let Some(mut start) = self.missing.take() else {
            return;
        };
        let Member { hub, topic, .. } = &*self;
        let wants_ids = self.wants_ids;
        let caught_up = hub.with(cx, topic, |cx, feed| {
            let Ok(feed) = feed else {
                ws.close(1013, "too many topics are in use");
                return true;
            };
            let before = feed.ring.before();
            if start.after < before {
                // The ring has gone on without it.
                start = Start {
                    after: before,
                    reset: true,
                };
                if hub.settings.slow == Slow::Close {
                    ws.close(1008, "too slow");
                    return true;
                }
            }
            if std::mem::take(&mut start.reset) && wants_ids {
                ws.send(&reset_json(hub.epoch(), before));
            }
            for entry in feed.ring.after(start.after) {
                let sent = match wants_ids {
                    true => ws.send(&entry.json(hub.epoch())),
                    false => ws.send(entry.message()),
                };
                start.after = entry.number;
                if sent == Sent::Full {
                    return false;
                }
            }
            if wants_ids {
                feed.tell(ws.handle(), start.after);
                return true;
            }
            let after = start.after.max(feed.ring.last());
            for publication in cx.waiting(topic) {
                if publication.number() > after {
                    ws.send(publication.message());
                }
            }
            if cx.subscribe(ws, topic).is_err() {
                ws.close(1013, "too many subscriptions");
            }
            true
        });
        if !caught_up {
            self.missing = Some(start);
        }
    }
}

impl<S: 'static> Socket<S> for Member {
    fn open(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>) {
        self.catch_up(cx, ws);
    }

    fn message(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        if !self.hub.settings.publish_sockets {
            return ws.close(1008, "this socket only listens");
        }
        if let Err(why) = self.hub.publish(cx, &self.topic, message) {
            ws.close(1013, &why.to_string());
        }
    }

    fn drained(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>) {
        self.catch_up(cx, ws);
    }
}
