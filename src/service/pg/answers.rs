//! Floor 4. What comes from the server, and who it is for: rows to their job, pieces to who takes them, and the end of each
//! job to who waits for it.
//!
//! What the embedder has to say whether there may be more of, is called here, between two looks into the hub: then nobody
//! has it. If it says no, the connection is held until [`Database::resume`], or until it has done so for too long.

use super::hub::{Conn, Database, Db, Hub, PIECE, Transaction, Use};
use super::job::{Id, Job, NOBODY, Sink, Source, Take};
use super::{CopyIn, PgErrorKind, Rows};
use crate::proto::pg::{Event, QueryError, Row, Status, Tag};
use crate::service::dial::hand_on;
use crate::{AbortId, Bytes, Ctx, Demand, Instant};
use std::rc::Rc;

/// What has to be done outside of the hub.
enum Step<S: 'static> {
    Done,
    Row(Id, Take<S, Row>, Row),
    Piece(Id, Take<S, Bytes>, Bytes),
    Feed(Id),
}

/// A connection on which somebody takes or gives data. If that one panics, what is behind is lost, or never comes, and the
/// connection goes with it: what came next would not be what it seems.
struct Taking<'a, S: 'static> {
    db: &'a Database<S>,
    conn: Id,
    /// All of it was taken.
    is_done: bool,
}

impl<S: 'static> Taking<'_, S> {
    fn of(db: &Database<S>, conn: Id) -> Taking<'_, S> {
        let is_done = false;
        Taking { db, conn, is_done }
    }
}

impl<S: 'static> Drop for Taking<'_, S> {
    fn drop(&mut self) {
        if !self.is_done {
            self.db.hub.with(|hub| {
                if let Some(conn) = hub.conns.get(&self.conn) {
                    conn.handle
                        .abort("who takes or gives its data has panicked");
                }
            });
        }
    }
}

impl<S: 'static> Database<S> {
    /// What came in on a connection.
    pub(super) fn run(self: &Rc<Self>, cx: &mut Ctx<'_, S>, conn: Id, bytes: &[u8]) {
        self.take(cx, conn, bytes);
        if self.hub.with(|hub| hub.is_amid(conn)) != Some(true) {
            self.enter(cx, |hub, _, _| hub.touch(conn));
        }
    }

    /// The same, or nothing: then what the connection has to say is looked after.
    pub(super) fn take(self: &Rc<Self>, cx: &mut Ctx<'_, S>, conn: Id, bytes: &[u8]) {
        let mut kept = self.hub.with(|hub| hub.take_kept(conn)).unwrap_or_default();
        let mut taking = Taking::of(self, conn);
        let mut input = bytes;
        if !kept.is_empty() {
            kept.extend_from_slice(bytes);
            input = &kept;
        }
        loop {
            let step = self.hub.with(|hub| hub.step(self, cx, conn, &mut input));
            match step {
                None | Some(Step::Done) => break,
                Some(Step::Row(job, mut take, row)) => {
                    let demand = take(cx, row);
                    self.enter(cx, |hub, db, cx| {
                        if let Some(Sink::Each(place, _)) = hub.sink(job) {
                            *place = Some(take);
                        }
                        hub.demanded(db, cx, job, demand);
                    });
                }
                Some(Step::Piece(job, mut take, bytes)) => {
                    let demand = take(cx, bytes);
                    self.enter(cx, |hub, db, cx| {
                        if let Some(Sink::CopyOut(place, _)) = hub.sink(job) {
                            *place = Some(take);
                        }
                        hub.demanded(db, cx, job, demand);
                    });
                }
                Some(Step::Feed(job)) => self.feed(cx, job),
            }
        }
        taking.is_done = true;
    }

    /// Asks for data that is to be copied in, for as long as there is room.
    pub(super) fn feed(self: &Rc<Self>, cx: &mut Ctx<'_, S>, job: Id) {
        let on = self
            .hub
            .with(|hub| hub.jobs.get(job).and_then(|job| job.on));
        let Some(Some(conn)) = on else { return };
        let mut taking = Taking::of(self, conn);
        while let Some(Some(mut source)) =
            self.enter(cx, |hub, db, cx| hub.source(db, cx.now(), job))
        {
            let piece = source(cx);
            let went = self.enter(cx, |hub, _, cx| {
                if let Some(Sink::CopyIn(place, _)) = hub.sink(job) {
                    *place = Some(source);
                }
                hub.fed(cx, job, piece)
            });
            if went != Some(true) {
                break;
            }
        }
        taking.is_done = true;
    }

    /// Who has said `Hold` or `Wait` goes on.
    pub(super) fn resume(self: &Rc<Self>, cx: &mut Ctx<'_, S>, job: Id) {
        let Some(Some(conn)) = self.enter(cx, |hub, _, cx| hub.resume(cx.now(), job)) else {
            return;
        };
        self.run(cx, conn, &[]);
        self.feed(cx, job);
    }
}

impl<S: 'static> Hub<S> {
    /// It owes more answers and has nothing to say, and nobody waits: the end of the turn would have nothing to see to.
    fn is_amid(&self, id: Id) -> bool {
        let is_quiet = |conn: &Conn| {
            let is_fine = conn.cancel.is_none() && conn.doomed.is_none();
            is_fine && !conn.asked.is_empty() && conn.session.output().is_empty()
        };
        let is_calm = self.queue.is_empty() && self.abandoned == 0;
        is_calm && self.conns.get(&id).is_some_and(is_quiet)
    }

    fn take_kept(&mut self, id: Id) -> Vec<u8> {
        let conn = self.conns.get_mut(&id);
        conn.map(|conn| std::mem::take(&mut conn.kept))
            .unwrap_or_default()
    }

    pub(super) fn sink(&mut self, job: Id) -> Option<&mut Sink<S>> {
        self.jobs.get_mut(job).map(|job| &mut job.sink)
    }

    /// Takes events, up to one that needs the embedder.
    fn step(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, input: &mut &[u8]) -> Step<S> {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else {
                return Step::Done;
            };
            if conn.is_held {
                conn.kept.extend_from_slice(input);
                return Step::Done;
            }
            let event = match conn.session.poll_event(input, cx.now()) {
                Ok(Some(event)) => event,
                Ok(None) => return Step::Done,
                Err(error) => {
                    self.lose(db, cx, id, &error.to_string(), Some(&error));
                    return Step::Done;
                }
            };
            let job_of = |ticket: u64| {
                let found = conn.asked.iter().find(|(asked, _)| *asked == ticket);
                found.map_or(NOBODY, |(_, job)| *job)
            };
            match event {
                Event::Ready => self.on_ready(db, cx, id),
                Event::Columns(ticket, columns) => {
                    let job = job_of(ticket);
                    if let Some(Sink::Rows {
                        rows,
                        columns: place,
                        ..
                    }) = self.sink(job)
                    {
                        // Of several statements, the last's.
                        rows.clear();
                        *place = Some(columns);
                    }
                }
                Event::Row(ticket, row) => {
                    let job = job_of(ticket);
                    if let Some(step) = self.on_row(db, cx, job, row) {
                        return step;
                    }
                }
                Event::CopyOut(ticket, bytes) => {
                    let job = job_of(ticket);
                    if let Some(Sink::CopyOut(take, _)) = self.sink(job) {
                        match take.take() {
                            Some(take) => return Step::Piece(job, take, bytes),
                            None => self.give_up(db, cx, job, panicked()),
                        }
                    }
                }
                Event::CopyIn(ticket) => {
                    let job = job_of(ticket);
                    if let Some(step) = self.on_copy_in(cx, id, job) {
                        return step;
                    }
                }
                Event::Done(ticket, tag) => self.answered(db, cx, id, ticket, Ok(tag)),
                Event::Failed(ticket, error) => self.answered(db, cx, id, ticket, Err(error)),
                Event::Notification(said) => self.heard(cx, &said),
                Event::Notice(notice) => {
                    let level = match &notice.severity[..] {
                        "WARNING" => log::Level::Warn,
                        _ => log::Level::Info,
                    };
                    log::log!(level, "database {}: {}: {notice}", db.name, notice.severity);
                }
                Event::Completed(..) | Event::ParameterStatus(..) => {}
            }
        }
    }

    fn on_row(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, job: Id, row: Row) -> Option<Step<S>> {
        let limit = db.settings.result;
        match self.sink(job)? {
            Sink::Rows { rows, most, .. } if rows.len() >= *most => {
                let limit = *most;
                self.give_up(db, cx, job, PgErrorKind::TooManyRows { limit });
                None
            }
            Sink::Rows { rows, bytes, .. } => {
                // A row's memory is what its values take, and about so much.
                *bytes += size_of::<Row>() + row.size();
                if *bytes > limit {
                    self.give_up(db, cx, job, PgErrorKind::TooLarge { limit });
                } else {
                    rows.push(row);
                }
                None
            }
            Sink::Each(take, _) => match take.take() {
                Some(take) => Some(Step::Row(job, take, row)),
                None => {
                    self.give_up(db, cx, job, panicked());
                    None
                }
            },
            _ => None,
        }
    }

    fn on_copy_in(&mut self, cx: &mut Ctx<'_, S>, conn: Id, id: Id) -> Option<Step<S>> {
        let job = self.jobs.get_mut(id)?;
        job.is_copying = true;
        if job.sink.is_nobody() {
            let conn = self.conns.get_mut(&conn)?;
            // It has just said that it takes data: so it takes that there is none.
            let _ = conn.session.copy_fail(job.ticket, "given up", cx.now());
            return None;
        }
        Some(Step::Feed(id))
    }

    fn answered(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        ticket: u64,
        result: Result<Tag, QueryError>,
    ) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let Some(at) = conn.asked.iter().position(|(asked, _)| *asked == ticket) else {
            return;
        };
        let job = conn.asked.remove(at).map_or(NOBODY, |(_, job)| job);
        let status = conn.session.status();
        if let Some(Sink::Begin(_)) = self.sink(job)
            && result.is_ok()
            && status == Status::InTransaction
        {
            self.begun(db, cx, id, job);
        } else {
            if job == NOBODY
                && let Err(error) = &result
            {
                log::warn!("database {}: {error}", db.name);
            }
            self.finish(db, cx, job, result.map_err(PgErrorKind::Query));
        }
        self.after_answer(db, cx, id);
    }

    /// A connection owes one answer less.
    pub(super) fn after_answer(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.used == Use::Ear {
            if conn.asked.is_empty() {
                self.ear_answered();
            }
            return;
        }
        conn.cancel.settle(conn.asked.is_empty());
        if !conn.cancel.is_none() {
            return;
        }
        if !conn.asked.is_empty() {
            // By a function that nobody could see from outside.
            if conn.used == Use::Shared && conn.session.status() != Status::Idle {
                return self.close(db, cx, id, "a shared connection is in a transaction");
            }
            return self.try_cancel(db, cx, id);
        }
        if conn.tx.is_none() {
            self.recycle(db, cx, id);
        }
    }

    /// The end of a job: whoever waits for it is told.
    pub(super) fn finish(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        result: Result<Tag, PgErrorKind>,
    ) {
        let Some(job) = self.jobs.remove(id) else {
            return;
        };
        self.abandoned -= usize::from(job.sink.is_nobody());
        if let Some(abort) = job.abort {
            cx.forget_abort(abort);
        }
        if job.waits
            && let Some(conn) = job.on.and_then(|conn| self.conns.get_mut(&conn))
        {
            conn.unhold(cx.now());
        }
        self.tell(db, cx, job.sink, result);
    }

    /// What came of it, to whoever waits for it.
    pub(super) fn tell(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        sink: Sink<S>,
        result: Result<Tag, PgErrorKind>,
    ) {
        if sink.is_nobody() {
            return;
        }
        self.errors += u64::from(result.is_err());
        let later = cx.later();
        match (sink, result) {
            (sink, Err(kind)) => {
                let error = db.error(kind);
                later.call(move |cx| sink.fail(cx, error));
            }
            (
                Sink::Rows {
                    rows,
                    columns,
                    then,
                    ..
                },
                Ok(tag),
            ) => {
                let rows = Rows { rows, columns, tag };
                later.call(move |cx| then(cx, Ok(rows)));
            }
            (Sink::Each(_, then) | Sink::CopyIn(_, then) | Sink::CopyOut(_, then), Ok(tag)) => {
                later.call(move |cx| then(cx, Ok(tag.rows())));
            }
            (Sink::Begin(then), Ok(_)) => {
                let error = db.error(PgErrorKind::Over);
                later.call(move |cx| then(cx, Err(error)));
            }
            (Sink::Nobody, Ok(_)) => {}
        }
    }

    /// A job that ends without an answer of its own; who waits for it comes back.
    pub(super) fn take_job(&mut self, id: Id) -> Option<(Sink<S>, Option<AbortId>)> {
        self.jobs.remove(id).map(|job| (job.sink, job.abort))
    }

    /// Who waits for a job; from now on nobody does, and its time does not count.
    pub(super) fn abandon(&mut self, id: Id) -> Option<Sink<S>> {
        let job = self.jobs.get_mut(id)?;
        if job.sink.is_nobody() {
            return None;
        }
        let sink = std::mem::replace(&mut job.sink, Sink::Nobody);
        self.abandoned += 1;
        self.errors += 1;
        self.set_deadline(id, None);
        Some(sink)
    }

    pub(super) fn add_transaction(&mut self, id: Id, transaction: Transaction) {
        self.agenda.note(transaction.until);
        self.transactions.insert(id, transaction);
    }

    /// Nothing more is asked in it.
    pub(super) fn end_transaction(&mut self, cx: &mut Ctx<'_, S>, id: Id) {
        let Some(transaction) = self.transactions.remove(&id) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(&transaction.conn) {
            conn.tx = None;
        }
        if let Some(abort) = transaction.abort {
            cx.forget_abort(abort);
        }
    }

    /// Takes a job out of the queue.
    pub(super) fn unqueue(&mut self, id: Id) {
        self.queue.retain(|(waiting, _)| *waiting != id);
    }

    // ---- pieces

    /// What who takes rows has said.
    fn demanded(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, demand: Demand) {
        // Who has given up while it took a row holds nothing.
        let wanted = |job: &&mut Job<S>| !job.sink.is_nobody();
        let Some(job) = self.jobs.get_mut(id).filter(wanted) else {
            return;
        };
        match demand {
            Demand::More => return,
            Demand::Hold => {}
            Demand::UntilDrained(to) => {
                if job.abort.is_none() {
                    job.abort = Some(db.watch(cx, id, to));
                }
                let db = db.clone();
                cx.on_demand(to, move |cx| db.resume(cx, id));
            }
        }
        job.waits = true;
        if let Some(conn) = job.on.and_then(|conn| self.conns.get_mut(&conn)) {
            conn.is_held = true;
            conn.handle.hold();
        }
        let deadline = job.deadline(cx.now(), Some(db.settings.hold));
        self.set_deadline(id, deadline);
    }

    fn resume(&mut self, now: Instant, id: Id) -> Option<Id> {
        let job = self.jobs.get_mut(id)?;
        if !std::mem::take(&mut job.waits) {
            return None;
        }
        let deadline = job.deadline(now, None);
        let on = job.on?;
        self.set_deadline(id, deadline);
        self.conns.get_mut(&on)?.unhold(now);
        Some(on)
    }

    /// Where the data of a copy comes from, if there is room for it. Who is asked, or the server that takes it, may take
    /// no longer than a pause may.
    fn source(&mut self, db: &Db<S>, now: Instant, id: Id) -> Option<Source<S>> {
        let job = self.jobs.get(id).filter(|job| job.is_copying)?;
        let deadline = job.deadline(now, Some(db.settings.hold));
        self.set_deadline(id, deadline);
        if !self.push_rest(id) {
            return None;
        }
        let job = self.jobs.get_mut(id)?;
        match &mut job.sink {
            Sink::CopyIn(source, _) if !job.waits => source.take(),
            _ => None,
        }
    }

    /// Writes what is there of a copy's data; whether that was all, and there is room for more.
    fn push_rest(&mut self, id: Id) -> bool {
        let Some(job) = self.jobs.get_mut(id) else {
            return false;
        };
        let Some(conn) = job.on.and_then(|conn| self.conns.get_mut(&conn)) else {
            return false;
        };
        while !conn.handle.is_full() {
            let n = hand_on(&conn.handle, conn.session.output());
            conn.session.sent(n);
            if job.rest.is_empty() {
                break;
            }
            let piece = job.rest.split_to(job.rest.len().min(PIECE));
            if conn.session.copy_data(job.ticket, &piece).is_err() {
                // It has ended, and that is on its way to who waits.
                job.is_copying = false;
                return false;
            }
        }
        job.rest.is_empty() && !conn.handle.is_full()
    }

    /// Whether there may be more.
    fn fed(&mut self, cx: &mut Ctx<'_, S>, id: Id, piece: CopyIn) -> bool {
        let now = cx.now();
        let Some(job) = self.jobs.get_mut(id) else {
            return false;
        };
        let Some(conn) = job.on.and_then(|conn| self.conns.get_mut(&conn)) else {
            return false;
        };
        job.is_copying = matches!(piece, CopyIn::Data(_) | CopyIn::Wait);
        // What is refused from here on is told by the end of the copy, which has come then.
        match piece {
            CopyIn::Data(bytes) => {
                job.rest = bytes;
                return self.push_rest(id);
            }
            CopyIn::Wait => {
                job.waits = true;
                return false;
            }
            CopyIn::End => {
                let _ = conn.session.copy_done(job.ticket, now);
            }
            CopyIn::Abort(why) => {
                let why = why.replace('\0', " ");
                let _ = conn.session.copy_fail(job.ticket, &why, now);
            }
        }
        let deadline = job.deadline(now, None);
        self.set_deadline(id, deadline);
        self.push_rest(id);
        false
    }
}

/// Nobody takes the rest.
fn panicked() -> PgErrorKind {
    PgErrorKind::Lost("the callback that takes it has panicked".into())
}
