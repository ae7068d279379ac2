//! Floor 4. Giving a question up: who waits is told at once, and then the server, if it can be.
//!
//! ```text
//!                        the head, and nobody else's behind it
//!  give_up ─► abandoned ─────────────────────────────────────► Going ── closed by the server ─► None, or Again
//!              (its answer is passed over)                       └── ended otherwise ─► the connection is closed
//! ```
//! A request to cancel names a connection, not a question: whatever runs there when it arrives is cancelled. So it is sent
//! only if all that the server owes on this connection is of the one who gives up; nothing is asked there until the server
//! has closed the connection that the request came on, which it does when it has delivered it; and if that is not how it
//! ended, this connection is closed, too, once it has answered.

use super::hub::{Db, Hub, Transaction, Use};
use super::job::{Id, Sink};
use super::{PgErrorKind, hub};
use crate::base::id::StreamRef;
use crate::proto::pg::cancel_request;
use crate::{AbortId, Ctx, Instant, Link, LinkHandle};
use std::rc::Rc;
use std::time::Duration;

/// How long the server may take to deliver it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A request that has come too early, or too late, is sent again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// What is known of a request to cancel what runs on a connection.
#[derive(Default)]
pub(super) enum Cancel {
    #[default]
    None,
    /// It is on its way.
    Going {
        until: Instant,
        handle: Option<LinkHandle>,
    },
    /// It was delivered, and has changed nothing.
    Again(Instant),
}

impl Cancel {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Cancel::None)
    }

    /// When all is answered, there is nothing to send again.
    pub(super) fn settle(&mut self, all_answered: bool) {
        if all_answered && matches!(self, Cancel::Again(_)) {
            *self = Cancel::None;
        }
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Cancel::None => None,
            Cancel::Going { until, .. } | Cancel::Again(until) => Some(*until),
        }
    }

    /// There is nothing to cancel any more.
    pub(super) fn abort(&self) {
        if let Cancel::Going {
            handle: Some(handle),
            ..
        } = self
        {
            handle.abort("there is nothing to cancel any more");
        }
    }
}

impl<S: 'static> hub::Database<S> {
    /// Gives a question up, or a transaction, if its client goes before its end.
    pub(super) fn watch(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        client: StreamRef,
    ) -> AbortId {
        let db = self.clone();
        let gone = move |cx: &mut Ctx<'_, S>| db.give_up(cx, id, PgErrorKind::Gone);
        cx.on_abort_of(client, Box::new(gone))
    }

    /// Nobody waits for it any more, or not for so long: a question, or a transaction.
    pub(super) fn give_up(self: &Rc<Self>, cx: &mut Ctx<'_, S>, id: Id, kind: PgErrorKind) {
        self.enter(cx, |hub, db, cx| hub.give_up(db, cx, id, kind));
    }
}

impl<S: 'static> Hub<S> {
    pub(super) fn give_up(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, kind: PgErrorKind) {
        if let Some(Transaction { conn, .. }) = self.transactions.get(&id) {
            let conn = *conn;
            self.end_transaction(cx, id);
            let asked = self.conns.get(&conn).map(|conn| conn.asked.clone());
            for (_, job) in asked.unwrap_or_default() {
                self.pass_over(db, cx, job, kind.clone());
            }
            return self.after_answer(db, cx, conn);
        }
        let on = self.jobs.get(id).map(|job| job.on);
        match on {
            Some(None) => {
                self.unqueue(id);
                self.finish(db, cx, id, Err(kind));
            }
            Some(Some(conn)) => {
                self.pass_over(db, cx, id, kind);
                // Its transaction ends with it: what came next there would be met by the request.
                match self.conns.get(&conn).and_then(|conn| conn.tx) {
                    Some(tx) => self.give_up(db, cx, tx, PgErrorKind::Over),
                    None => self.try_cancel(db, cx, conn),
                }
            }
            None => {}
        }
    }

    /// Tells who waits. The server's answer will be passed over.
    fn pass_over(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, kind: PgErrorKind) {
        let Some(sink) = self.abandon(id) else {
            return;
        };
        let error = db.error(kind);
        cx.later().call(move |cx| sink.fail(cx, error));
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let (on, ticket) = (job.on, job.ticket);
        let was_waiting = std::mem::take(&mut job.waits);
        let was_copying = std::mem::take(&mut job.is_copying);
        let Some(on) = on else { return };
        if let Some(conn) = self.conns.get_mut(&on) {
            if was_copying {
                // If the copy has ended by itself, it does not take this.
                let _ = conn.session.copy_fail(ticket, "given up", cx.now());
            }
            if was_waiting {
                conn.unhold(cx.now());
            }
        }
        self.touch(on);
    }

    /// Has what a connection is about cancelled, if nobody waits for any of it.
    pub(super) fn try_cancel(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        if self.abandoned == 0 {
            return;
        }
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let is_abandoned = |(_, job): &(u64, Id)| {
            let job = self.jobs.get(*job);
            job.is_some_and(|job| matches!(job.sink, Sink::Nobody))
        };
        let is_pooled = matches!(conn.used, Use::Shared | Use::Own);
        let all = !conn.asked.is_empty() && conn.asked.iter().all(is_abandoned);
        if !is_pooled || !all || !conn.cancel.is_none() {
            return;
        }
        // What is not at the server yet cannot be cancelled there.
        if !conn.session.output().is_empty() || conn.handle.buffered() > 0 {
            let again = cx.now() + AGAIN;
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.cancel = Cancel::Again(again);
            }
            return;
        }
        let Some(key) = conn.session.cancel_key() else {
            return;
        };
        let target = conn.target.clone();
        let until = cx.now() + PATIENCE;
        self.cancels += 1;
        if let Some(conn) = self.conns.get_mut(&id) {
            let handle = None;
            conn.cancel = Cancel::Going { until, handle };
        }
        let (db, was_sent) = (db.clone(), false);
        let wire = CancelWire {
            db,
            id,
            key,
            was_sent,
        };
        cx.connect(target, wire);
    }

    /// At the time that [`Cancel::due`] has said.
    pub(super) fn cancel_again(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        match &conn.cancel {
            Cancel::Again(_) => {
                conn.cancel = Cancel::None;
                self.after_answer(db, cx, id);
            }
            Cancel::Going {
                handle: Some(handle),
                ..
            } => {
                handle.abort("the server does not close it");
                // What it did is not known: see `cancel_over`.
                self.cancel_over(db, cx, id, true, "the server does not close it");
            }
            // It is being connected, which ends in its own time.
            Cancel::Going { handle: None, .. } => {
                let until = cx.now() + PATIENCE;
                conn.cancel = Cancel::Going {
                    until,
                    handle: None,
                };
            }
            Cancel::None => {}
        }
    }

    fn cancel_over(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, was_sent: bool, why: &str) {
        let now = cx.now();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !matches!(conn.cancel, Cancel::Going { .. }) {
            return;
        }
        if was_sent && why != LinkHandle::ENDED {
            conn.doomed = Some("a request to cancel may still be on its way");
        }
        // If it was the end of what runs, that is told in a moment.
        conn.cancel = match conn.asked.is_empty() {
            true => Cancel::None,
            false => Cancel::Again(now + AGAIN),
        };
        self.after_answer(db, cx, id);
    }
}

struct CancelWire<S: 'static> {
    db: Db<S>,
    id: Id,
    key: (i32, i32),
    was_sent: bool,
}

impl<S: 'static> Link<S> for CancelWire<S> {
    fn open(&mut self, cx: &mut Ctx<'_, S>, handle: LinkHandle) {
        let (id, key) = (self.id, self.key);
        // What was to be cancelled may have ended by now.
        let is_wanted = self.db.enter(cx, |hub, _, _| {
            let conn = hub.conns.get_mut(&id)?;
            if conn.asked.is_empty() {
                return None;
            }
            if let Cancel::Going { handle: place, .. } = &mut conn.cancel {
                *place = Some(handle.clone());
            }
            Some(())
        });
        if is_wanted.flatten().is_none() {
            return handle.abort("there is nothing to cancel any more");
        }
        self.was_sent = true;
        let bytes = cancel_request(key.0, key.1);
        handle.write(bytes.to_vec());
    }

    fn input(&mut self, _: &mut Ctx<'_, S>, _: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
        Ok(())
    }

    fn close(&mut self, cx: &mut Ctx<'_, S>, why: &str) {
        let (id, was_sent) = (self.id, self.was_sent);
        self.db
            .enter(cx, |hub, db, cx| hub.cancel_over(db, cx, id, was_sent, why));
    }
}
