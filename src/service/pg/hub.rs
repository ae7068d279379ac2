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
//! A job is a question and who waits for its answer. It is in `queue`, or its connection has it in `asked`; it leaves
//! `jobs` with its answer, once.
//!
//! Invariants:
//! 1. The pool has a connection in use exactly while it has something in `asked`, belongs to a transaction, or somebody
//!    cancels on it.
//! 2. A job that is `alone` shares its connection with nobody: [`Use::Own`], from its checkout to its recycling.
//! 3. While a job waits in the queue, newcomers wait behind it.
//! 4. Nothing of the embedder's is called while the hub is taken: its callbacks are left for later, but for those that
//!    say whether more may come ([`Step`]).
//! 5. Nothing is asked twice: what was written when a connection ends is [`PgErrorKind::Lost`].

use super::super::dial::{self, Shared, hand_on};
use super::cancel::Cancel;
use super::listen::Ear;
use super::{CopyIn, PgError, PgErrorKind, PgStatus, Postgres, Rows, Tx, is_plain};
use crate::base::backoff::Backoff;
use crate::proto::pg::{Error, Limits, Query, Refusal, Row, Session, Status};
use crate::upstream::pool::{Action, Back, Bounds, Checkout, Pool};
use crate::{Bytes, Ctx, Demand, Instant, Link, LinkHandle, Store, Target, TimerId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(super) type Db<S> = Rc<Database<S>>;
pub(super) type Id = u64;
pub(super) type Then<S, T> = Box<dyn FnOnce(&mut Ctx<'_, S>, Result<T, PgError>)>;
pub(super) type Take<S, T> = Box<dyn FnMut(&mut Ctx<'_, S>, T) -> Demand>;
pub(super) type Source<S> = Box<dyn FnMut(&mut Ctx<'_, S>) -> CopyIn>;

/// Of a copy's data in one message.
pub(super) const PIECE: usize = 64 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// What nobody waits for: the hub's own questions.
pub(super) const NOBODY: Id = 0;
/// Databases made so far: what one calls a question names nothing in another, be it the one that a reload has brought.
static DATABASES: AtomicU64 = AtomicU64::new(NOBODY + 1);
/// The pool knows one server.
const SERVER: usize = 0;

/// What is asked.
pub(super) enum Ask {
    Query(Query),
    Simple(Rc<str>),
    CopyIn(Rc<str>),
    CopyOut(Rc<str>),
}

/// Who waits for the answer.
pub(super) enum Sink<S: 'static> {
    Rows {
        rows: Rows,
        bytes: usize,
        then: Then<S, Rows>,
    },
    /// `None`: it is being called.
    Each(Option<Take<S, Row>>, Then<S, u64>),
    CopyIn(Option<Source<S>>, Then<S, u64>),
    CopyOut(Option<Take<S, Bytes>>, Then<S, u64>),
    Begin(Then<S, Tx<S>>),
    /// Nobody any more.
    Nobody,
}

impl<S: 'static> Sink<S> {
    pub(super) fn rows(
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Rows, PgError>) + 'static,
    ) -> Sink<S> {
        let (rows, bytes, then) = (Rows::default(), 0, Box::new(then));
        Sink::Rows { rows, bytes, then }
    }

    pub(super) fn each(
        row: impl FnMut(&mut Ctx<'_, S>, Row) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> Sink<S> {
        Sink::Each(Some(Box::new(row)), Box::new(then))
    }

    pub(super) fn copy_in(
        source: impl FnMut(&mut Ctx<'_, S>) -> CopyIn + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> Sink<S> {
        Sink::CopyIn(Some(Box::new(source)), Box::new(then))
    }

    pub(super) fn copy_out(
        piece: impl FnMut(&mut Ctx<'_, S>, Bytes) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> Sink<S> {
        Sink::CopyOut(Some(Box::new(piece)), Box::new(then))
    }

    pub(super) fn is_nobody(&self) -> bool {
        matches!(self, Sink::Nobody)
    }

    fn is_streamed(&self) -> bool {
        matches!(self, Sink::Each(..) | Sink::CopyIn(..) | Sink::CopyOut(..))
    }

    /// There is no answer.
    pub(super) fn fail(self, cx: &mut Ctx<'_, S>, error: PgError) {
        match self {
            Sink::Rows { then, .. } => then(cx, Err(error)),
            Sink::Each(_, then) | Sink::CopyIn(_, then) | Sink::CopyOut(_, then) => {
                then(cx, Err(error));
            }
            Sink::Begin(then) => then(cx, Err(error)),
            Sink::Nobody => {}
        }
    }
}

/// When, for how long it will have been, and the setting that says so.
type Deadline = (Instant, Duration, &'static str);

impl<S: 'static> Job<S> {
    fn new(
        since: Instant,
        ask: Ask,
        sink: Sink<S>,
        alone: bool,
        timeout: Option<Duration>,
    ) -> Job<S> {
        Job {
            ask: Some(ask),
            sink,
            on: None,
            ticket: 0,
            alone,
            since,
            timeout,
            due: None,
            rest: Bytes::new(),
            waits: false,
            is_copying: false,
            is_watched: false,
        }
    }

    /// Until when it may take, or the pause that begins now.
    pub(super) fn deadline(&self, now: Instant, pause: Option<Duration>) -> Option<Deadline> {
        let whole = self
            .timeout
            .map(|limit| (self.since + limit, limit, "timeout"));
        let pause = pause.map(|limit| (now + limit, limit, "hold"));
        whole.into_iter().chain(pause).min_by_key(|(at, ..)| *at)
    }
}

pub(super) struct Job<S: 'static> {
    /// Until it is asked.
    ask: Option<Ask>,
    pub(super) sink: Sink<S>,
    /// The connection it is asked on; `None`: it waits in the queue.
    pub(super) on: Option<Id>,
    pub(super) ticket: u64,
    pub(super) alone: bool,
    pub(super) since: Instant,
    /// How long it may take.
    pub(super) timeout: Option<Duration>,
    /// Its entry in `deadlines`, and what it is for.
    due: Option<Deadline>,
    /// What is there of the data of a copy.
    pub(super) rest: Bytes,
    /// Who takes or gives the pieces has said that there is to be a pause.
    pub(super) waits: bool,
    /// The server takes the data of this copy.
    pub(super) is_copying: bool,
    /// The client that it feeds is watched.
    pub(super) is_watched: bool,
}

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
    /// When it was held last.
    resumed: Instant,
    /// It will be flushed.
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

pub(super) struct Database<S: 'static> {
    pub(super) name: Rc<str>,
    pub(super) settings: Postgres,
    pub(super) hub: Shared<Hub<S>>,
    ids: Cell<Id>,
}

pub(super) struct Hub<S: 'static> {
    pub(super) pool: Pool<Id, Id>,
    pub(super) conns: BTreeMap<Id, Conn>,
    /// Connections on their way, and whether each is of the pool.
    dials: BTreeMap<Id, bool>,
    pub(super) jobs: BTreeMap<Id, Job<S>>,
    pub(super) queue: VecDeque<Id>,
    /// Which are open, on which connection, until when.
    pub(super) transactions: BTreeMap<Id, (Id, Instant)>,
    pub(super) deadlines: BTreeSet<(Instant, Id)>,
    armed: Option<(Instant, TimerId)>,
    /// At the end of the turn, once, whoever has entered it.
    will_arm: bool,
    backoff: Backoff,
    attempts: usize,
    /// Not before this; `None`: the last attempt was a good one.
    retry: Option<Instant>,
    /// What was wrong with the last attempt.
    pub(super) why: Rc<str>,
    pub(super) ear: Ear<S>,
    is_stopping: bool,
    queries: u64,
    pub(super) errors: u64,
    pub(super) cancels: u64,
}

impl<S: 'static> Store<S> for Database<S> {
    fn start(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        self.enter(cx, |hub, db, cx| hub.pump(db, cx));
    }

    fn stop(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        self.enter(cx, |hub, db, cx| {
            hub.is_stopping = true;
            hub.hush(db);
            hub.pump(db, cx);
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
        let backoff = Backoff::new(FIRST_PAUSE, settings.retry, settings.retry);
        let hub = Hub {
            pool,
            conns: BTreeMap::new(),
            dials: BTreeMap::new(),
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            transactions: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            armed: None,
            will_arm: false,
            ear: Ear::new(backoff.clone()),
            backoff,
            attempts: 0,
            retry: None,
            why: "".into(),
            is_stopping: false,
            queries: 0,
            errors: 0,
            cancels: 0,
        };
        Database {
            name: name.into(),
            settings,
            hub: Shared::new(hub),
            ids: Cell::new(DATABASES.fetch_add(1, Ordering::Relaxed) << 48),
        }
    }

    pub(super) fn next_id(&self) -> Id {
        self.ids.replace(self.ids.get() + 1)
    }

    pub(super) fn error(&self, kind: PgErrorKind) -> PgError {
        PgError::new(&self.name, kind)
    }

    /// Takes the hub. It is taken only here, and never while something of the embedder's runs: so it is there.
    pub(super) fn enter<R>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        f: impl FnOnce(&mut Hub<S>, &Db<S>, &mut Ctx<'_, S>) -> R,
    ) -> Option<R> {
        self.hub.with(|hub| {
            let result = f(hub, self, cx);
            if !std::mem::replace(&mut hub.will_arm, true) {
                let db = self.clone();
                cx.at_end_of_turn(move |cx| {
                    db.hub.with(|hub| {
                        hub.will_arm = false;
                        hub.arm(&db, cx);
                    });
                });
            }
            result
        })
    }

    pub(super) fn submit(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        ask: Ask,
        sink: Sink<S>,
        timeout: Option<Duration>,
    ) {
        let limit = (!sink.is_streamed()).then_some(self.settings.timeout);
        let alone = match &ask {
            Ask::Query(query) => sink.is_streamed() || !is_plain(&query.sql),
            _ => true,
        };
        let timeout = timeout.or(limit);
        let job = Job::new(cx.now(), ask, sink, alone, timeout);
        self.enter(cx, |hub, db, cx| hub.submit(db, cx, id, job));
    }

    /// A question of a transaction, and whether it was asked.
    pub(super) fn submit_in(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        tx: Id,
        ask: Ask,
        sink: Sink<S>,
    ) -> (Id, bool) {
        let id = self.next_id();
        let job = Job::new(cx.now(), ask, sink, true, None);
        let was_asked = self.enter(cx, |hub, db, cx| {
            hub.queries += 1;
            hub.jobs.insert(id, job);
            let asked = match hub.transactions.get(&tx).map(|(conn, _)| *conn) {
                Some(conn) => hub.dispatch(db, cx, conn, id).map_err(PgErrorKind::Refused),
                None => Err(PgErrorKind::Over),
            };
            asked
                .map_err(|kind| hub.finish(db, cx, id, Err(kind)))
                .is_ok()
        });
        (id, was_asked == Some(true))
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
    pub(super) fn arm(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        let Some(next) = self.next_deadline(db) else {
            return;
        };
        if let Some((at, timer)) = self.armed {
            // What fires too early is placed anew.
            if at <= next {
                return;
            }
            cx.cancel(timer);
        }
        let db = db.clone();
        let wait = next - cx.now();
        let timer = cx.after(wait, move |cx| {
            db.enter(cx, |hub, db, cx| hub.tick(db, cx));
        });
        self.armed = Some((next, timer));
    }

    fn next_deadline(&self, db: &Db<S>) -> Option<Instant> {
        let jobs = self.deadlines.first().map(|(at, _)| *at);
        let reply = db.settings.limits.reply;
        let sessions = self.conns.values().filter_map(|conn| conn.due(reply));
        let cancels = self.conns.values().filter_map(|conn| conn.cancel.due());
        let of = self.pool.counters(SERVER);
        let has_room = self.pool.taken() < self.pool.bounds().most;
        let is_wanted = !self.queue.is_empty() && of.making == 0 && has_room;
        let retry = self.retry.filter(|_| is_wanted);
        let pool = self.pool.next_deadline();
        let single = [jobs, retry, pool, self.ear.due()];
        let due = single.into_iter().flatten().chain(sessions).chain(cancels);
        due.min()
    }

    fn tick(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        self.armed = None;
        let now = cx.now();
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            if let Some(job) = self.jobs.get_mut(&id) {
                let Some((_, limit, setting)) = job.due.take() else {
                    continue;
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
        self.pump(db, cx);
    }

    pub(super) fn set_deadline(
        &mut self,
        id: Id,
        deadline: Option<(Instant, Duration, &'static str)>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if let Some((at, ..)) = std::mem::replace(&mut job.due, deadline) {
            self.deadlines.remove(&(at, id));
        }
        if let Some((at, ..)) = deadline {
            self.deadlines.insert((at, id));
        }
    }

    // ---- the queue

    fn submit(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, job: Job<S>) {
        self.queries += 1;
        let (since, timeout) = (job.since, job.timeout);
        self.jobs.insert(id, job);
        let limit = db.settings.queue;
        if self.queue.len() >= limit {
            return self.finish(db, cx, id, Err(PgErrorKind::QueueFull { limit }));
        }
        self.queue.push_back(id);
        self.pump(db, cx);
        // It waits: in the queue it has another deadline than with the server.
        if self.jobs.get(&id).is_some_and(|job| job.on.is_none()) {
            let wait = (db.settings.queue_wait, "queue_wait");
            let (limit, setting) = match timeout {
                Some(timeout) if timeout < wait.0 => (timeout, "timeout"),
                _ => wait,
            };
            self.set_deadline(id, Some((since + limit, limit, setting)));
        }
    }

    /// Gives those who wait what there is, and makes connections for those for whom there is nothing.
    pub(super) fn pump(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        let now = cx.now();
        if self.is_stopping
            && self.conns.is_empty()
            && self.dials.is_empty()
            && self.queue.is_empty()
        {
            if let Some((_, timer)) = self.armed.take() {
                cx.cancel(timer);
            }
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
        while let Some(&id) = self.queue.front()
            && self.pool.counters(SERVER).idle > 0
            && let Checkout::Reuse(conn) = self.pool.checkout(SERVER, now)
        {
            self.queue.pop_front();
            self.assign(db, cx, conn, id);
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
        while let Some(&id) = self.queue.front()
            && self.jobs.get(&id).is_some_and(|job| !job.alone)
            && let Some(conn) = self.least_loaded(db)
        {
            self.queue.pop_front();
            self.assign(db, cx, conn, id);
        }
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
            let head = conn.asked.front().and_then(|(_, job)| self.jobs.get(job));
            let is_wanted = head.is_some_and(|job| !job.sink.is_nobody());
            let has_room = conn.session.has_room() && !conn.handle.is_full();
            conn.is_shareable() && is_wanted && has_room && conn.session.owed() < limit
        });
        conns
            .min_by_key(|(id, conn)| (conn.session.owed(), **id))
            .map(|(id, _)| *id)
    }

    /// Asks it there; if that cannot be, whoever asked is told.
    fn assign(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, conn: Id, id: Id) {
        if let Err(refusal) = self.dispatch(db, cx, conn, id) {
            self.finish(db, cx, id, Err(PgErrorKind::Refused(refusal)));
            self.after_answer(db, cx, conn);
        }
    }

    pub(super) fn dispatch(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        conn_id: Id,
        id: Id,
    ) -> Result<(), Refusal> {
        let now = cx.now();
        let conn = self.conns.get_mut(&conn_id).ok_or(Refusal::NotReady)?;
        let job = self.jobs.get_mut(&id).ok_or(Refusal::NotReady)?;
        if job.alone {
            conn.used = Use::Own;
        }
        let ticket = match job.ask.take() {
            Some(Ask::Query(query)) if job.alone => conn.session.query(query.in_order(), now),
            Some(Ask::Query(query)) => conn.session.query(query, now),
            Some(Ask::Simple(sql)) => conn.session.simple(sql, now),
            Some(Ask::CopyIn(sql)) => conn.session.copy_in(sql, now),
            Some(Ask::CopyOut(sql)) => conn.session.copy_out(sql, now),
            None => Err(Refusal::NotReady),
        }?;
        job.on = Some(conn_id);
        job.ticket = ticket;
        conn.asked.push_back((ticket, id));
        let deadline = job.deadline(now, None);
        self.set_deadline(id, deadline);
        self.touch(db, cx, conn_id);
        Ok(())
    }

    /// What is asked in this turn, by whomever, leaves together at its end.
    pub(super) fn touch(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut conn.is_dirty, true) {
            let db = db.clone();
            cx.at_end_of_turn(move |cx| db.run(cx, id, &[]));
        }
    }

    pub(super) fn flush(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.is_dirty = false;
            let n = hand_on(&conn.handle, conn.session.output());
            conn.session.sent(n);
        }
        self.pump(db, cx);
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
        self.flush(db, cx, id);
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
        self.backoff = Backoff::new(FIRST_PAUSE, db.settings.retry, db.settings.retry);
        self.pool
            .connected(SERVER, id, now, &mut fastrand::Rng::new());
        self.recycle(db, cx, id);
        self.pump(db, cx);
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
        let Some(conn) = conn else {
            return self.pump(db, cx);
        };
        if let Some(tx) = conn.tx {
            self.end_transaction(tx);
        }
        for (_, job) in conn.asked {
            self.finish(db, cx, job, Err(PgErrorKind::Lost(text.clone())));
        }
        self.pump(db, cx);
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
            for id in std::mem::take(&mut self.queue) {
                let waited = self
                    .jobs
                    .get(&id)
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
                self.end_transaction(tx);
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
        self.touch(db, cx, id);
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
