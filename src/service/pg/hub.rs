//! Floor 4. The connections to one database, the queue before them, and who waits for which answer.
//!
//! ```text
//!            dial         open              Ready              what is asked               the last answer
//!  (making) ─────► Wire ───────► Greeting ───────► idle ───────────────────────► at work ──────────────────┐
//!     │              │              │               ▲  ▲                            │ commit, drop: a        │
//!     └── refused ───┴──────────────┘               │  └── clean ◄──────────────────┴─ transaction's end ◄──┘
//!            a pause, then one attempt at a time    │         └── not clean: ROLLBACK, DISCARD ALL ─┘
//!                                                   └─ or closed: too old, too many, in doubt
//! ```
//! What is asked in a turn of the loop waits in `queue` until its end, and so does what is to be written: whatever has
//! happened in a turn, at its end those who wait get what there is ([`Hub::pump`]), and each connection writes once.
//!
//! Invariants:
//! 1. The pool has a connection in use exactly while it has something in `asked`, belongs to a transaction, or somebody
//!    cancels on it.
//! 2. A job that is `alone` shares its connection with nobody: [`Use::Own`], from its checkout to its recycling.
//! 3. A job is in `queue`, or its connection has it in `asked`. While one waits in the queue, newcomers wait behind it.
//! 4. Nothing of the embedder's is called while the hub is taken: its callbacks are left for later, but for those that
//!    say whether more may come, which `answers.rs` calls in between; and for the conversion of a parameter of an own type,
//!    whose panic is caught.
//! 5. Nothing is asked twice: what was written when a connection ends is [`PgErrorKind::Lost`].

use super::super::agenda::Agenda;
use super::super::dial::{self, Shared, hand_on};
use super::cancel::Cancel;
use super::job::{Ask, Deadline, Id, Job, Jobs, NOBODY, Sink};
use super::listen::Ear;
use super::{PgError, PgErrorKind, PgStatus, Postgres, is_plain};
use crate::base::backoff::Backoff;
use crate::base::id::StreamRef;
use crate::proto::pg::{Error, Limits, Refusal, Session, Status};
use crate::upstream::pool::{Action, Back, Bounds, Checkout, Pool};
use crate::{AbortId, Ctx, Instant, Link, LinkHandle, Store, Target};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(super) type Db<S> = Rc<Database<S>>;

/// Of a copy's data in one message.
pub(super) const PIECE: usize = 64 * 1024;
/// Databases made so far, which are never mistaken for each other: a reload may bring another of the same name.
static DATABASES: AtomicU64 = AtomicU64::new(0);
/// The pool knows one server.
const SERVER: usize = 0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// It is not ready yet.
    Greeting,
    /// For whoever has a plain query.
    Shared,
    /// For one job, or one transaction, and then it is made clean.
    Own,
    /// It listens, and is not of the pool.
    Ear,
}

pub(super) struct Conn {
    pub(super) session: Session,
    pub(super) handle: LinkHandle,
    pub(super) target: Target,
    pub(super) used: Use,
    /// The transaction that it belongs to.
    pub(super) tx: Option<Id>,
    /// What has no answer yet: ticket and job.
    pub(super) asked: VecDeque<(u64, Id)>,
    /// Input that came before it was held.
    pub(super) kept: Vec<u8>,
    pub(super) is_held: bool,
    /// When it was read again after it was held.
    resumed: Instant,
    /// It is in `dirty`.
    is_dirty: bool,
    pub(super) cancel: Cancel,
    /// Why it is closed when it has answered.
    pub(super) doomed: Option<&'static str>,
    /// Times that it was asked to be clean.
    resets: u8,
}

impl Conn {
    /// When its server has been silent for too long. While it is not read, it is not to blame.
    fn due(&self, reply: Duration) -> Option<Instant> {
        let due = self.session.next_deadline().filter(|_| !self.is_held);
        match self.used {
            Use::Greeting => due,
            _ => due.map(|due| due.max(self.resumed + reply)),
        }
    }

    /// It is read again.
    pub(super) fn unhold(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_held) {
            self.resumed = now;
            self.handle.resume();
        }
    }

    /// Whether another's query may be put behind what is under way.
    fn is_shareable(&self) -> bool {
        let is_free = self.doomed.is_none() && self.cancel.is_none();
        // Of one that was changed nobody else gets anything until it is clean.
        self.used == Use::Shared && is_free && !self.session.is_changed()
    }
}

/// One that is open.
pub(super) struct Transaction {
    pub(super) conn: Id,
    pub(super) until: Instant,
    pub(super) abort: Option<AbortId>,
}

pub(super) struct Database<S: 'static> {
    pub(super) name: Rc<str>,
    /// Of all there are and were in this process.
    pub(super) number: u64,
    pub(super) settings: Postgres,
    pub(super) hub: Shared<Hub<S>>,
    ids: Cell<Id>,
}

pub(super) struct Hub<S: 'static> {
    pub(super) pool: Pool<Id, Id>,
    pub(super) conns: BTreeMap<Id, Conn>,
    /// Connections on their way, and whether each is of the pool.
    dials: BTreeMap<Id, bool>,
    pub(super) jobs: Jobs<S>,
    pub(super) queue: VecDeque<(Id, Ask)>,
    pub(super) transactions: BTreeMap<Id, Transaction>,
    /// Connections that have something to say at the end of the turn.
    dirty: VecDeque<Id>,
    /// That will be called: once, whoever has entered the hub.
    will_end: bool,
    pub(super) agenda: Agenda,
    backoff: Backoff,
    attempts: usize,
    /// Not before this; `None`: the last attempt was a good one.
    retry: Option<Instant>,
    /// What was wrong with the last attempt.
    pub(super) why: Rc<str>,
    pub(super) ear: Ear<S>,
    is_stopping: bool,
    /// Of the jobs, those that nobody waits for any more.
    pub(super) abandoned: usize,
    queries: u64,
    pub(super) errors: u64,
    pub(super) cancels: u64,
}

impl<S: 'static> Store<S> for Database<S> {
    fn start(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        self.enter(cx, |_, _, _| ());
    }

    fn stop(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        self.enter(cx, |hub, db, _| {
            hub.is_stopping = true;
            hub.hush(db);
        });
    }

    fn is_same(&self, other: &Database<S>) -> bool {
        self.settings == other.settings
    }
}

impl<S: 'static> Database<S> {
    pub(super) fn new(name: &str, settings: Postgres) -> Database<S> {
        let mut pool = Pool::new(Bounds {
            most: settings.connections.max(1),
            idle: settings.connections.max(1),
            warm: settings.warm,
            idle_for: settings.idle,
            lifetime: settings.lifetime,
            jitter: settings.jitter,
            ..Bounds::default()
        });
        pool.add_server();
        let backoff = dial::backoff(settings.retry);
        let hub = Hub {
            pool,
            conns: BTreeMap::new(),
            dials: BTreeMap::new(),
            jobs: Jobs::new(),
            queue: VecDeque::new(),
            transactions: BTreeMap::new(),
            dirty: VecDeque::new(),
            will_end: false,
            agenda: Agenda::default(),
            ear: Ear::new(backoff.clone()),
            backoff,
            attempts: 0,
            retry: None,
            why: "".into(),
            is_stopping: false,
            abandoned: 0,
            queries: 0,
            errors: 0,
            cancels: 0,
        };
        Database {
            name: name.into(),
            number: DATABASES.fetch_add(1, Ordering::Relaxed),
            settings,
            hub: Shared::new(hub),
            ids: Cell::new(NOBODY + 1),
        }
    }

    pub(super) fn next_id(&self) -> Id {
        self.ids.replace(self.ids.get() + 1)
    }

    pub(super) fn error(&self, kind: PgErrorKind) -> PgError {
        PgError::new(&self.name, kind)
    }

    /// Takes the hub. It is never taken while something of the embedder's runs: so it is there. What has changed is seen
    /// to at the end of the turn.
    pub(super) fn enter<R>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        f: impl FnOnce(&mut Hub<S>, &Db<S>, &mut Ctx<'_, S>) -> R,
    ) -> Option<R> {
        self.hub.with(|hub| {
            if !std::mem::replace(&mut hub.will_end, true) {
                let db = self.clone();
                cx.at_end_of_turn(move |cx| db.end_turn(cx));
            }
            f(hub, self, cx)
        })
    }

    /// Those who wait get what there is, and what was asked leaves together.
    fn end_turn(self: &Rc<Self>, cx: &mut Ctx<'_, S>) {
        self.hub.with(|hub| hub.will_end = false);
        let next = |hub: &mut Hub<S>, cx: &mut Ctx<'_, S>| {
            if hub.dirty.is_empty() {
                hub.pump(self, cx);
            }
            hub.dirty.pop_front()
        };
        while let Some(Some(conn)) = self.hub.with(|hub| next(hub, cx)) {
            self.take(cx, conn, &[]);
            self.hub.with(|hub| hub.flush(conn));
        }
        self.hub.with(|hub| hub.arm(self, cx));
    }

    pub(super) fn submit(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        ask: Ask,
        sink: Sink<S>,
        timeout: Option<Duration>,
        client: Option<StreamRef>,
    ) -> Id {
        let limit = (!sink.is_streamed()).then_some(self.settings.timeout);
        let alone = match &ask {
            Ask::Query(query) => sink.is_streamed() || !is_plain(&query.sql),
            _ => true,
        };
        let timeout = timeout.or(limit);
        let job = Job::new(cx.now(), sink, alone, timeout);
        let asked = self.enter(cx, |hub, db, cx| {
            let id = hub.submit(db, cx, job, ask);
            if let Some(client) = client
                && let Some(job) = hub.jobs.get_mut(id)
            {
                job.abort = Some(db.watch(cx, id, client));
            }
            id
        });
        asked.unwrap_or(NOBODY)
    }

    /// A question of a transaction, and whether it was asked.
    pub(super) fn submit_in(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        tx: Id,
        ask: Ask,
        sink: Sink<S>,
    ) -> (Id, bool) {
        let job = Job::new(cx.now(), sink, true, None);
        let asked = self.enter(cx, |hub, db, cx| {
            let id = hub.admit(db, cx, job);
            let asked = match hub.transactions.get(&tx).map(|open| open.conn) {
                Some(conn) => hub
                    .dispatch(cx, conn, id, ask)
                    .map_err(PgErrorKind::Refused),
                None => Err(PgErrorKind::Over),
            };
            let asked = asked.map_err(|kind| hub.finish(db, cx, id, Err(kind)));
            (id, asked.is_ok())
        });
        asked.unwrap_or((NOBODY, false))
    }

    pub(super) fn status(&self) -> Option<PgStatus> {
        self.hub.with(|hub| {
            let of = hub.pool.counters(SERVER);
            PgStatus {
                name: (&*self.name).into(),
                open: of.open,
                making: of.making,
                idle: of.idle,
                in_use: of.in_use,
                transactions: hub.transactions.len(),
                waiting: hub.queue.len(),
                running: hub.jobs.len() - hub.queue.len(),
                queries: hub.queries,
                errors: hub.errors,
                cancels: hub.cancels,
                made: of.made,
                failed: of.failed,
                listening: hub.ear.heard(),
            }
        })
    }
}

impl<S: 'static> Hub<S> {
    // ---- time

    /// Sees to it that it is looked at when something is due.
    fn arm(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        if self.is_over() {
            return self.agenda.cancel(cx);
        }
        let reply = db.settings.limits.reply;
        let sessions = self.conns.values().filter_map(|conn| conn.due(reply));
        let cancels = self.conns.values().filter_map(|conn| conn.cancel.due());
        let of = self.pool.counters(SERVER);
        let has_room = self.pool.taken() < self.pool.bounds().most;
        let is_wanted = !self.queue.is_empty() && of.making == 0 && has_room;
        let retry = self.retry.filter(|_| is_wanted);
        let single = [retry, self.pool.next_deadline(), self.ear.due()];
        let due = single.into_iter().flatten().chain(sessions).chain(cancels);
        if let Some(due) = due.min() {
            self.agenda.note(due);
        }
        let db = db.clone();
        self.agenda.arm(cx, move |cx| {
            db.enter(cx, |hub, db, cx| hub.tick(db, cx));
        });
    }

    fn tick(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        let now = cx.now();
        let open = self.transactions.iter();
        let open = open.map(|(id, open)| (open.until, *id));
        for id in self.agenda.due(now, self.jobs.deadlines().chain(open)) {
            self.expire(db, cx, id);
        }
        let reply = db.settings.limits.reply;
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            let Some(conn) = self.conns.get_mut(&id) else {
                continue;
            };
            let is_silent = conn.due(reply).is_some_and(|due| due <= now);
            if is_silent && let Err(error) = conn.session.expire(now) {
                self.lose(db, cx, id, &error.to_string(), Some(&error));
            } else if conn.cancel.due().is_some_and(|due| due <= now) {
                self.cancel_again(db, cx, id);
            }
        }
        self.listen_on(db, cx);
    }

    /// A job, or a transaction, is at its deadline.
    fn expire(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        if let Some(job) = self.jobs.get_mut(id) {
            let Some((_, limit, setting)) = job.due.take() else {
                return;
            };
            let kind = match setting {
                "queue_wait" => PgErrorKind::NoConnection {
                    waited: limit,
                    why: self.why.clone(),
                },
                _ => PgErrorKind::Deadline { limit, setting },
            };
            self.give_up(db, cx, id, kind);
        } else if self.transactions.contains_key(&id) {
            let (limit, setting) = (db.settings.transaction, "transaction");
            log::warn!(
                "database {}: a transaction is open for {limit:?}, and rolled back",
                db.name
            );
            self.give_up(db, cx, id, PgErrorKind::Deadline { limit, setting });
        }
    }

    pub(super) fn set_deadline(&mut self, id: Id, deadline: Option<Deadline>) {
        if let Some((at, ..)) = deadline {
            self.agenda.note(at);
        }
        if let Some(job) = self.jobs.get_mut(id) {
            job.due = deadline;
        }
    }

    // ---- the queue

    /// Makes it one of the jobs. Who is one too many is told so, and is [`NOBODY`].
    fn admit(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, job: Job<S>) -> Id {
        self.queries += 1;
        if self.jobs.is_full() {
            let limit = Jobs::<S>::MOST;
            self.tell(db, cx, job.sink, Err(PgErrorKind::QueueFull { limit }));
            return NOBODY;
        }
        self.jobs.insert(job)
    }

    fn submit(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, mut job: Job<S>, ask: Ask) -> Id {
        // While it waits, it has another deadline than with the server.
        let wait = (db.settings.queue_wait, "queue_wait");
        let (limit, setting) = match job.timeout {
            Some(timeout) if timeout < wait.0 => (timeout, "timeout"),
            _ => wait,
        };
        let due = job.since + limit;
        job.due = Some((due, limit, setting));
        self.agenda.note(due);
        let id = self.admit(db, cx, job);
        if id == NOBODY {
            return id;
        }
        self.queue.push_back((id, ask));
        let limit = db.settings.queue;
        if self.queue.len() > limit {
            // Some of those may not have to wait.
            self.pump(db, cx);
            if self.queue.len() > limit {
                self.queue.pop_back();
                self.finish(db, cx, id, Err(PgErrorKind::QueueFull { limit }));
            }
        }
        id
    }

    /// Gives those who wait what there is, and makes connections for those for whom there is nothing.
    pub(super) fn pump(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        let now = cx.now();
        if self.is_over() {
            return;
        }
        if self.is_stopping && self.queue.is_empty() {
            // Who came is served; nothing is kept for others.
            let bounds = *self.pool.bounds();
            let (idle, warm) = (0, 0);
            self.pool.set_bounds(Bounds {
                idle,
                warm,
                ..bounds
            });
        }
        let may_dial = self.may_dial(now);
        while let Some(action) = self.pool.poll(now, |_| may_dial) {
            match action {
                Action::Close(_, conn) => self.close(db, cx, conn, "it is not needed any more"),
                Action::Connect(_) => self.dial(db, cx, true),
                // Nobody waits in the pool's own queue.
                Action::Expired(_) | Action::Serve(..) => {}
            }
        }
        while !self.queue.is_empty()
            && self.pool.counters(SERVER).idle > 0
            && let Checkout::Reuse(conn) = self.pool.checkout(SERVER, now)
        {
            self.assign(db, cx, conn);
        }
        while self.pool.counters(SERVER).making < self.queue.len()
            && self.may_dial(now)
            && let Checkout::Connect = self.pool.checkout(SERVER, now)
        {
            self.dial(db, cx, true);
        }
        if self.may_dial(now) {
            return;
        }
        // There will not be more of them soon: what can be shared is.
        while let Some((id, _)) = self.queue.front()
            && self.jobs.get(*id).is_some_and(|job| !job.alone)
            && let Some(conn) = self.least_loaded(db)
        {
            self.assign(db, cx, conn);
        }
    }

    /// It has stopped, and nothing is left of it.
    fn is_over(&self) -> bool {
        self.is_stopping && self.conns.is_empty() && self.dials.is_empty() && self.queue.is_empty()
    }

    /// Whether a connection may be made now. After a failure it is one at a time, after a pause.
    fn may_dial(&self, now: Instant) -> bool {
        let is_failing = self.retry.is_some();
        let is_early = self.retry.is_some_and(|retry| now < retry);
        let is_tried = is_failing && self.pool.counters(SERVER).making > 0;
        !is_early && !is_tried && self.pool.taken() < self.pool.bounds().most
    }

    fn least_loaded(&self, db: &Db<S>) -> Option<Id> {
        let limit = db.settings.limits.pipeline;
        let conns = self.conns.iter().filter(|(_, conn)| {
            // One whose head nobody waits for is to be cancelled, or slow.
            let head = conn.asked.front().and_then(|(_, job)| self.jobs.get(*job));
            let is_wanted = head.is_some_and(|job| !job.sink.is_nobody());
            let has_room = conn.session.has_room() && !conn.handle.is_full();
            conn.is_shareable() && is_wanted && has_room && conn.session.owed() < limit
        });
        conns
            .min_by_key(|(id, conn)| (conn.session.owed(), **id))
            .map(|(id, _)| *id)
    }

    /// Asks there what has waited longest; if that cannot be, whoever asked is told.
    fn assign(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, conn: Id) {
        let Some((id, ask)) = self.queue.pop_front() else {
            return;
        };
        if let Err(refusal) = self.dispatch(cx, conn, id, ask) {
            self.finish(db, cx, id, Err(PgErrorKind::Refused(refusal)));
            self.after_answer(db, cx, conn);
        }
    }

    pub(super) fn dispatch(
        &mut self,
        cx: &mut Ctx<'_, S>,
        conn_id: Id,
        id: Id,
        ask: Ask,
    ) -> Result<(), Refusal> {
        let now = cx.now();
        let conn = self.conns.get_mut(&conn_id).ok_or(Refusal::NotReady)?;
        let job = self.jobs.get_mut(id).ok_or(Refusal::NotReady)?;
        if job.alone {
            conn.used = Use::Own;
        }
        let ticket = match ask {
            Ask::Query(query) if job.alone => conn.session.query(query.in_order(), now),
            Ask::Query(query) => conn.session.query(query, now),
            Ask::Simple(sql) => conn.session.simple(sql, now),
            Ask::CopyIn(sql) => conn.session.copy_in(sql, now),
            Ask::CopyOut(sql) => conn.session.copy_out(sql, now),
        }?;
        job.on = Some(conn_id);
        job.ticket = ticket;
        conn.asked.push_back((ticket, id));
        let deadline = job.deadline(now, None);
        self.set_deadline(id, deadline);
        self.touch(conn_id);
        Ok(())
    }

    /// It has something to say at the end of the turn.
    pub(super) fn touch(&mut self, id: Id) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !std::mem::replace(&mut conn.is_dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    fn flush(&mut self, id: Id) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.is_dirty = false;
            let n = hand_on(&conn.handle, conn.session.output());
            conn.session.sent(n);
        }
    }

    // ---- connections

    /// Makes a connection; if it is for the pool, that has counted it.
    pub(super) fn dial(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, is_pooled: bool) {
        let id = db.next_id();
        self.dials.insert(id, is_pooled);
        self.attempts = self.attempts.wrapping_add(1);
        let (attempt, db) = (self.attempts, db.clone());
        let address = db.settings.url.address.clone();
        // Later, for what is found at once would enter the hub at once.
        cx.later().call(move |cx| {
            dial::find(cx, address, move |cx, found| {
                match dial::pick(found, attempt) {
                    Ok(target) => cx.connect(target.clone(), Wire { db, id, target }),
                    Err(why) => {
                        db.enter(cx, |hub, db, cx| hub.lose(db, cx, id, &why, None));
                    }
                }
            });
        });
    }

    fn opened(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        handle: LinkHandle,
        target: Target,
    ) {
        let now = cx.now();
        let settings = &db.settings;
        // For the pool's own limit, and for what makes a connection clean.
        let pipeline = settings.limits.pipeline.max(1) + 2;
        let limits = Limits {
            pipeline,
            ..settings.limits
        };
        let session = match Session::new(&settings.url.settings, limits, now) {
            Ok(session) => session,
            Err(refusal) => {
                handle.abort("the settings are no greeting");
                return self.lose(db, cx, id, &refusal.to_string(), None);
            }
        };
        let conn = Conn {
            session,
            handle,
            target,
            used: Use::Greeting,
            tx: None,
            asked: VecDeque::new(),
            kept: Vec::new(),
            is_held: false,
            resumed: now,
            is_dirty: false,
            cancel: Cancel::default(),
            doomed: None,
            resets: 0,
        };
        self.conns.insert(id, conn);
        self.touch(id);
    }

    pub(super) fn on_ready(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let now = cx.now();
        if self.dials.remove(&id) == Some(false) {
            return self.on_ear_ready(db, cx, id);
        }
        if self.retry.take().is_some() {
            log::info!(
                "database {}: connected to {} again",
                db.name,
                db.settings.url.address
            );
        }
        self.backoff = dial::backoff(db.settings.retry);
        self.pool
            .connected(SERVER, id, now, &mut fastrand::Rng::new());
        self.recycle(db, cx, id);
    }

    /// A connection has ended, or was not made.
    pub(super) fn lose(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        why: &str,
        error: Option<&Error>,
    ) {
        let conn = self.conns.remove(&id);
        if let Some(conn) = &conn {
            conn.handle.abort(why);
            conn.cancel.abort();
        }
        let text: Rc<str> = why.into();
        let used = conn.as_ref().map(|conn| conn.used);
        match self.dials.remove(&id) {
            Some(true) => self.dial_failed(db, cx, &text, error),
            Some(false) => self.lose_ear(db, cx, why),
            None if used == Some(Use::Ear) => self.lose_ear(db, cx, why),
            None if used.is_some() => {
                self.pool.closed(SERVER, id);
                if !cx.is_stopping() {
                    log::warn!("database {}: a connection is lost: {why}", db.name);
                }
            }
            None => return,
        }
        let Some(conn) = conn else { return };
        if let Some(tx) = conn.tx {
            self.end_transaction(cx, tx);
        }
        for (_, job) in conn.asked {
            self.finish(db, cx, job, Err(PgErrorKind::Lost(text.clone())));
        }
    }

    fn dial_failed(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        why: &Rc<str>,
        error: Option<&Error>,
    ) {
        let now = cx.now();
        self.pool.connect_failed(SERVER);
        if self.retry.is_none() && !cx.is_stopping() {
            let address = &db.settings.url.address;
            log::warn!(
                "database {}: no connection to {address}: {why}; trying again",
                db.name
            );
        }
        self.why = why.clone();
        // Those that were tried together have failed once.
        if self.retry.is_none_or(|retry| retry <= now) {
            let pause = self.backoff.failed(now, &mut fastrand::Rng::new());
            self.retry = Some(now + pause);
        }
        // It will say the same again: whoever waits need not wait for it. Others may still use what is open.
        if error.is_some_and(is_final) && self.conns.is_empty() {
            for (id, _) in std::mem::take(&mut self.queue) {
                let waited = self
                    .jobs
                    .get(id)
                    .map_or(Duration::ZERO, |job| now - job.since);
                let why = why.clone();
                self.finish(db, cx, id, Err(PgErrorKind::NoConnection { waited, why }));
            }
        }
    }

    /// Says good-bye.
    pub(super) fn close(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, why: &str) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        log::debug!("database {}: a connection is closed: {why}", db.name);
        if conn.asked.is_empty() {
            conn.session.close();
            let n = hand_on(&conn.handle, conn.session.output());
            conn.session.sent(n);
            conn.handle.close();
            self.pool.closed(SERVER, id);
            if let Some(tx) = conn.tx {
                self.end_transaction(cx, tx);
            }
            self.conns.remove(&id);
        } else {
            self.lose(db, cx, id, why, None);
        }
    }

    /// It has nothing to do: for the next, if it is as new.
    pub(super) fn recycle(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let now = cx.now();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if let Some(why) = conn.doomed {
            return self.close(db, cx, id, why);
        }
        if conn.session.is_clean() {
            conn.used = Use::Shared;
            conn.resets = 0;
            if let Back::Close(why) = self.pool.give_back(SERVER, id, true, now) {
                self.close(db, cx, id, why.as_str());
            }
            return;
        }
        conn.resets += 1;
        let sql = match conn.session.status() {
            Status::Idle => "DISCARD ALL",
            _ => "ROLLBACK",
        };
        let asked = match conn.resets {
            ..=2 => conn.session.simple(sql, now).ok(),
            _ => None,
        };
        let Some(ticket) = asked else {
            return self.close(db, cx, id, "it cannot be made clean");
        };
        conn.used = Use::Own;
        conn.asked.push_back((ticket, NOBODY));
        self.touch(id);
    }
}

/// Whether another attempt would end the same way: the login is wrong, or there is no such database.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Refused(error) => error.code.starts_with("28") || error.code == "3D000",
        Error::NoPassword | Error::Cleartext | Error::Unsupported(_) | Error::Proof(_) => true,
        _ => false,
    }
}

/// A connection's end of it.
struct Wire<S: 'static> {
    db: Db<S>,
    id: Id,
    target: Target,
}

impl<S: 'static> Link<S> for Wire<S> {
    fn open(&mut self, cx: &mut Ctx<'_, S>, handle: LinkHandle) {
        let (id, target) = (self.id, self.target.clone());
        self.db
            .enter(cx, |hub, db, cx| hub.opened(db, cx, id, handle, target));
    }

    fn input(&mut self, cx: &mut Ctx<'_, S>, bytes: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
        self.db.run(cx, self.id, bytes);
        Ok(())
    }

    fn drained(&mut self, cx: &mut Ctx<'_, S>) {
        self.db.run(cx, self.id, &[]);
        let copying = self.db.enter(cx, |hub, _, _| {
            let conn = hub.conns.get(&self.id)?;
            conn.asked.front().map(|(_, job)| *job)
        });
        if let Some(Some(job)) = copying {
            self.db.feed(cx, job);
        }
    }

    fn close(&mut self, cx: &mut Ctx<'_, S>, why: &str) {
        let id = self.id;
        self.db
            .enter(cx, |hub, db, cx| hub.lose(db, cx, id, why, None));
    }
}
