//! Floor 4. The connections to one Redis, the queue before them, and who waits for which reply.
//!
//! ```text
//!                   Ready                asked                    replied
//!  dial ─► (Wire) ───────► Shared ──────────────────────► Session ───────► callback
//!    ▲       │      ├────► Own: one question at a time, which may wait or watch
//!    │       │      └────► Ear: subscriptions (subscribe.rs)
//!    └─ a pause ◄── refused, broken, silent: what was handed on is Lost, the rest goes elsewhere
//! ```
//! A job is a question and who waits for its reply. It is in a queue, or on a connection (`on`), and leaves `jobs` with
//! its reply, once. One that was given up leaves `jobs` at once; its reply comes for nobody.
//!
//! Invariants:
//! 1. `asked` of a connection holds what its session owes to jobs, in order, and of each job the last entry says how far
//!    the output goes that the server needs to do it.
//! 2. Nothing is asked twice, unless the server cannot have done it: that much of it was not handed on.
//! 3. While a job waits in a queue, newcomers wait behind it.
//! 4. Nothing of the embedder's is called while the hub is taken: its callbacks are left for later.
//! 5. A transaction is in a session whole or not at all: there is room for it, or it waits.

use super::super::agenda::Agenda;
use super::super::dial::{self, Shared};
use super::subscribe::Ear;
use super::wire::{self, Line, Owner};
use super::{Command, Redis, RedisError, RedisStatus, Value};
use crate::base::backoff::Backoff;
use crate::base::id::StreamRef;
use crate::proto::redis::{Error, Event, Refusal, Settings};
use crate::proto::resp;
use crate::{AbortId, Bytes, Ctx, Instant, Store};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

pub(super) type Db<S> = Rc<Remote<S>>;
pub(super) type Id = u64;
pub(super) type Then<S> = Box<dyn FnOnce(&mut Ctx<'_, S>, Result<Value, RedisError>)>;
pub(super) type Decide<S> = Box<dyn FnMut(&mut Ctx<'_, S>, Vec<Value>) -> Option<Vec<Command>>>;

/// How much may be in a session's output before other connections are asked.
const OUTPUT: usize = 1024 * 1024;
/// What nobody waits for: the hub's own questions.
const NOBODY: Id = 0;

/// What is asked.
pub(super) enum Ask<S: 'static> {
    One(Command),
    /// By its digest; if it is not known, whole.
    Script(Command, Command),
    Multi(Vec<Command>),
    Watched(Watched<S>),
}

pub(super) struct Watched<S: 'static> {
    pub(super) watch: Command,
    pub(super) reads: Vec<Command>,
    /// `None`: it is being called.
    pub(super) decide: Option<Decide<S>>,
    /// What it has decided.
    pub(super) writes: Option<Vec<Command>>,
    pub(super) attempts: u32,
}

impl<S: 'static> Ask<S> {
    fn commands(&self) -> impl Iterator<Item = &Command> {
        let (one, many) = match self {
            Ask::One(command) => (Some(command), &[][..]),
            // The longer one.
            Ask::Script(_, whole) => (Some(whole), &[][..]),
            Ask::Multi(commands) => (None, &commands[..]),
            Ask::Watched(watched) => (
                Some(&watched.watch),
                &watched.writes.as_ref().unwrap_or(&watched.reads)[..],
            ),
        };
        one.into_iter().chain(many)
    }

    fn size(&self) -> usize {
        self.commands().map(Command::size).sum::<usize>() + 256
    }

    fn len(&self) -> usize {
        let framing = match self {
            Ask::Multi(_) | Ask::Watched(_) => 2,
            _ => 0,
        };
        self.commands().count() + framing
    }

    /// Why it is not asked.
    fn check(&self, settings: &Redis) -> Result<(), RedisError> {
        // The hub says WATCH itself.
        let ours = usize::from(matches!(self, Ask::Watched(_)));
        if let Some(why) = self.commands().skip(ours).find_map(Command::refusal) {
            return Err(RedisError::Refused(why));
        }
        check_size(self.commands(), settings)
    }
}

fn check_size<'a>(
    commands: impl Iterator<Item = &'a Command>,
    settings: &Redis,
) -> Result<(), RedisError> {
    let (mut count, mut size) = (0, 0);
    for command in commands {
        count += 1;
        size += command.size();
    }
    let (limit, setting) = match () {
        () if size > settings.request => (settings.request, "request"),
        () if count > settings.pipeline.max(1) => (settings.pipeline, "pipeline"),
        () => return Ok(()),
    };
    Err(RedisError::TooLarge { limit, setting })
}

pub(super) struct Job<S: 'static> {
    ask: Ask<S>,
    then: Then<S>,
    /// It has a connection to itself.
    alone: bool,
    on: Option<Id>,
    /// What was read of what is watched.
    values: Vec<Value>,
    /// The first error before the last reply.
    failed: Option<Bytes>,
    since: Instant,
    /// How long it may take, and which setting says so.
    limit: (Duration, &'static str),
    deadline: Option<(Instant, Duration, &'static str)>,
    /// What happens if its client goes.
    abort: Option<AbortId>,
    /// Counted in `queued_bytes`.
    queued: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// For commands that are answered at once.
    Shared,
    /// For one job after the other.
    Own,
    /// For subscriptions.
    Ear,
}

/// A question that the server owes a reply to.
struct Asked {
    token: u64,
    job: Id,
    /// Where it ends, in bytes since the connection was made.
    end: u64,
    is_last: bool,
}

pub(super) struct Conn {
    pub(super) line: Line,
    role: Role,
    /// The job that has it to itself.
    own: Option<Id>,
    asked: VecDeque<Asked>,
    /// Bytes handed on to the socket.
    handed: u64,
    /// It will be flushed.
    is_dirty: bool,
    /// It has nothing to do since then.
    rests: Instant,
}

impl Conn {
    fn is_ready(&self) -> bool {
        self.line.session.is_ready()
    }

    fn is_idle(&self) -> bool {
        self.is_ready() && self.own.is_none() && self.asked.is_empty()
    }

    fn has_room(&self, count: usize, size: usize, pipeline: usize) -> bool {
        let (owed, waiting) = (self.line.session.owed(), self.line.session.output().len());
        self.is_ready()
            && !self.line.handle.is_full()
            && (owed == 0 || owed + count <= pipeline)
            && (waiting == 0 || waiting + size <= OUTPUT)
    }

    fn ask<'a>(
        &mut self,
        words: impl Iterator<Item = &'a [u8]>,
        job: Id,
        is_last: bool,
        now: Instant,
    ) -> Result<(), Refusal> {
        let words: smallvec::SmallVec<[&[u8]; 8]> = words.collect();
        let session = &mut self.line.session;
        let token = session.command(&words, now)?;
        let end = self.handed + session.output().len() as u64;
        self.asked.push_back(Asked {
            token,
            job,
            end,
            is_last,
        });
        Ok(())
    }

    fn ask_all(
        &mut self,
        head: Option<&'static str>,
        commands: &[Command],
        tail: Option<&'static str>,
        job: Id,
        now: Instant,
    ) -> Result<(), Refusal> {
        if let Some(head) = head {
            self.ask([head.as_bytes()].into_iter(), job, false, now)?;
        }
        for (at, command) in commands.iter().enumerate() {
            let is_last = tail.is_none() && at + 1 == commands.len();
            self.ask(command.arguments(), job, is_last, now)?;
        }
        match tail {
            Some(tail) => self.ask([tail.as_bytes()].into_iter(), job, true, now),
            None => Ok(()),
        }
    }
}

/// A Redis, as an App knows it.
pub(super) struct Remote<S: 'static> {
    pub(super) name: Rc<str>,
    pub(super) settings: Redis,
    hub: Shared<Hub<S>>,
    ids: Cell<Id>,
}

pub(super) struct Hub<S: 'static> {
    pub(super) conns: BTreeMap<Id, Conn>,
    /// Connections that are not ready yet.
    pub(super) dials: BTreeMap<Id, Role>,
    jobs: BTreeMap<Id, Job<S>>,
    queue: VecDeque<Id>,
    /// Who waits for a connection to themselves.
    alone: VecDeque<Id>,
    queued_bytes: usize,
    /// Of jobs, and of connections that have been idle for too long.
    agenda: Agenda,
    backoff: Backoff,
    attempts: usize,
    /// Not before this; `None`: the last attempt was a good one.
    retry: Option<Instant>,
    /// What was wrong with the last attempt.
    why: Rc<str>,
    pub(super) ear: Ear<S>,
    pub(super) is_stopping: bool,
    commands: u64,
    errors: u64,
    made: u64,
    failed: u64,
}

impl<S: 'static> Store<S> for Remote<S> {
    fn start(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        self.enter(cx, |hub, db, cx| hub.pump(db, cx));
    }

    fn stop(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        self.enter(cx, |hub, db, cx| {
            // What is under way ends in its time; nothing is kept.
            hub.is_stopping = true;
            hub.hush(cx);
            hub.pump(db, cx);
        });
    }

    fn is_same(&self, other: &Remote<S>) -> bool {
        self.settings == other.settings
    }
}

impl<S: 'static> Remote<S> {
    pub(super) fn new(name: &str, settings: Redis) -> Remote<S> {
        let hub = Hub {
            conns: BTreeMap::new(),
            dials: BTreeMap::new(),
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            alone: VecDeque::new(),
            queued_bytes: 0,
            agenda: Agenda::default(),
            backoff: dial::backoff(settings.retry),
            attempts: 0,
            retry: None,
            why: "".into(),
            ear: Ear::new(),
            is_stopping: false,
            commands: 0,
            errors: 0,
            made: 0,
            failed: 0,
        };
        Remote {
            name: name.into(),
            settings,
            hub: Shared::new(hub),
            ids: Cell::new(NOBODY + 1),
        }
    }

    pub(super) fn next_id(&self) -> Id {
        self.ids.replace(self.ids.get() + 1)
    }

    /// Takes the hub; never while something of the embedder's runs, so it is there.
    pub(super) fn enter<R>(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        f: impl FnOnce(&mut Hub<S>, &Db<S>, &mut Ctx<'_, S>) -> R,
    ) -> Option<R> {
        self.hub.with(|hub| {
            let result = f(hub, self, cx);
            hub.arm(self, cx);
            result
        })
    }

    pub(super) fn submit(
        self: &Rc<Self>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        ask: Ask<S>,
        timeout: Option<Duration>,
        client: Option<StreamRef>,
        then: Then<S>,
    ) {
        let is_blocking = match &ask {
            Ask::One(command) => command.is_blocking(),
            _ => false,
        };
        let limit = match (timeout, is_blocking) {
            (Some(timeout), _) => (timeout, "timeout"),
            (None, true) => (self.settings.block, "block"),
            (None, false) => (self.settings.timeout, "timeout"),
        };
        let job = Job {
            alone: is_blocking || matches!(ask, Ask::Watched(_)),
            ask,
            then,
            on: None,
            values: Vec::new(),
            failed: None,
            since: cx.now(),
            limit,
            deadline: None,
            abort: client.map(|client| {
                let db = self.clone();
                cx.on_abort_of(client, Box::new(move |cx| db.give_up(cx, id)))
            }),
            queued: 0,
        };
        self.enter(cx, |hub, db, cx| hub.submit(db, cx, id, job));
    }

    /// Nobody waits for it any more.
    pub(super) fn give_up(self: &Rc<Self>, cx: &mut Ctx<'_, S>, id: Id) {
        self.enter(cx, |hub, db, cx| {
            hub.give_up(db, cx, id, RedisError::Gone);
            hub.pump(db, cx);
        });
    }

    pub(super) fn status(&self) -> Option<RedisStatus> {
        self.hub.with(|hub| {
            let waiting = hub.queue.len() + hub.alone.len();
            RedisStatus {
                name: (&*self.name).into(),
                open: hub.conns.len()
                    - hub
                        .conns
                        .keys()
                        .filter(|id| hub.dials.contains_key(id))
                        .count(),
                making: hub.dials.len(),
                waiting,
                running: hub.jobs.len() - waiting,
                commands: hub.commands,
                errors: hub.errors,
                made: hub.made,
                failed: hub.failed,
                subscriptions: hub.ear.heard(),
            }
        })
    }
}

impl<S: 'static> Owner<S> for Db<S> {
    fn settings(&self, id: u64) -> Option<Settings> {
        let is_wanted = self.hub.with(|hub| hub.dials.contains_key(&id));
        let settings = &self.settings;
        is_wanted.filter(|wanted| *wanted).map(|_| Settings {
            login: settings.url.login.clone(),
            name: Some(settings.name.clone()).filter(|name| !name.is_empty()),
            bounds: settings.bounds,
            idle: settings.ping,
            reply: settings.reply,
            // A transaction's frame and a ping have room in any case.
            pipeline: settings.pipeline.max(1) + 3,
            output: settings.request.saturating_add(OUTPUT),
        })
    }

    fn opened(&self, cx: &mut Ctx<'_, S>, id: u64, line: Line) {
        self.enter(cx, |hub, _, cx| {
            let Some(&role) = hub.dials.get(&id) else {
                return;
            };
            let conn = Conn {
                line,
                role,
                own: None,
                asked: VecDeque::new(),
                handed: 0,
                is_dirty: false,
                rests: cx.now(),
            };
            hub.conns.insert(id, conn);
        });
    }

    fn line<R>(&self, id: u64, f: impl FnOnce(&mut Line) -> R) -> Option<R> {
        self.hub
            .with(|hub| hub.conns.get_mut(&id).map(|conn| f(&mut conn.line)))?
    }

    fn event(&self, cx: &mut Ctx<'_, S>, id: u64, event: Event) -> Result<(), String> {
        let heard = self.enter(cx, |hub, db, cx| hub.on_event(db, cx, id, event));
        heard.unwrap_or(Ok(()))
    }

    fn pump(&self, cx: &mut Ctx<'_, S>, id: u64) {
        self.enter(cx, |hub, db, cx| {
            hub.tell_ear(cx, id);
            if let Some(conn) = hub.conns.get_mut(&id) {
                conn.is_dirty = false;
                conn.handed += conn.line.flush() as u64;
            }
            hub.pump(db, cx);
        });
    }

    fn lost(&self, cx: &mut Ctx<'_, S>, id: u64, why: &str, error: Option<&Error>) {
        self.enter(cx, |hub, db, cx| hub.lose(db, cx, id, why, error));
    }
}

impl<S: 'static> Hub<S> {
    // ---- time

    /// Sees to it that it is looked at when something is due.
    fn arm(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        let is_idle = self.conns.is_empty() && self.dials.is_empty() && self.jobs.is_empty();
        if self.is_stopping && is_idle {
            return self.agenda.cancel(cx);
        }
        let is_waiting = self.dials.is_empty() && self.wanted(db).is_some();
        if let Some(retry) = self.retry
            && is_waiting
        {
            self.agenda.note(retry);
        }
        let db = db.clone();
        self.agenda.arm(cx, move |cx| {
            db.enter(cx, |hub, db, cx| hub.tick(db, cx));
        });
    }

    fn tick(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        let now = cx.now();
        let jobs = self.jobs.iter();
        let jobs = jobs.filter_map(|(id, job)| Some((job.deadline?.0, *id)));
        let resting = self.conns.iter();
        let resting = resting.filter(|(_, conn)| conn.role == Role::Own && conn.is_idle());
        let resting = resting.map(|(id, conn)| (conn.rests + db.settings.idle, *id));
        for id in self.agenda.due(now, jobs.chain(resting)) {
            if let Some(job) = self.jobs.get_mut(&id) {
                let Some((_, limit, setting)) = job.deadline.take() else {
                    continue;
                };
                let error = match job.on {
                    None => RedisError::NoConnection {
                        waited: limit,
                        why: self.why.clone(),
                    },
                    Some(_) => RedisError::Deadline { limit, setting },
                };
                self.give_up(db, cx, id, error);
            } else if self.conns.get(&id).is_some_and(Conn::is_idle) {
                self.close(id);
            }
        }
        self.pump(db, cx);
    }

    fn set_deadline(&mut self, id: Id, deadline: Option<(Instant, Duration, &'static str)>) {
        if let Some((at, ..)) = deadline {
            self.agenda.note(at);
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            job.deadline = deadline;
        }
    }

    // ---- the queue

    fn submit(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, job: Job<S>) {
        self.commands += 1;
        let checked = job.ask.check(&db.settings);
        let alone = job.alone;
        self.jobs.insert(id, job);
        if let Err(error) = checked {
            return self.finish(cx, id, Err(error));
        }
        let is_first = match alone {
            true => self.alone.is_empty(),
            false => self.queue.is_empty(),
        };
        if is_first && let Some(conn) = self.place(db, id) {
            return self.dispatch(db, cx, conn, id);
        }
        let size = self.jobs.get(&id).map_or(0, |job| job.ask.size());
        let (most, bytes) = (db.settings.queue, db.settings.queue_size);
        let (limit, setting) = match () {
            () if self.queue.len() + self.alone.len() >= most => (most, "queue"),
            () if self.queued_bytes.saturating_add(size) > bytes => (bytes, "queue_size"),
            () => {
                self.enqueue(db, cx, id, false);
                return self.pump(db, cx);
            }
        };
        self.finish(cx, id, Err(RedisError::QueueFull { limit, setting }));
    }

    /// Behind all others, or, if it was somewhere already, before them.
    fn enqueue(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, is_back: bool) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.on = None;
        job.values.clear();
        job.failed = None;
        job.queued = job.ask.size();
        self.queued_bytes += job.queued;
        let end = job.since + job.limit.0;
        let (wait, (limit, setting)) = (db.settings.queue_wait, job.limit);
        let queue = if job.alone {
            &mut self.alone
        } else {
            &mut self.queue
        };
        match is_back {
            true => queue.push_front(id),
            false => queue.push_back(id),
        }
        let until = cx.now() + wait;
        let deadline = match until < end {
            true => (until, wait, "queue_wait"),
            false => (end, limit, setting),
        };
        self.set_deadline(id, Some(deadline));
    }

    fn unqueued(&mut self, id: Id) {
        if let Some(job) = self.jobs.get_mut(&id) {
            self.queued_bytes -= std::mem::take(&mut job.queued);
        }
    }

    /// A connection for it, if there is one now.
    fn place(&self, db: &Db<S>, id: Id) -> Option<Id> {
        let job = self.jobs.get(&id)?;
        if job.alone {
            let mut own = self.conns.iter();
            let found = own.find(|(_, conn)| conn.role == Role::Own && conn.is_idle());
            return found.map(|(id, _)| *id);
        }
        let (count, size) = (job.ask.len(), job.ask.size());
        let pipeline = db.settings.pipeline;
        let usable = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.role == Role::Shared && conn.has_room(count, size, pipeline));
        // What is asked in one turn goes to one connection: in one write, and in order.
        let best = usable.min_by_key(|(id, conn)| (!conn.is_dirty, conn.line.session.owed(), **id));
        best.map(|(id, _)| *id)
    }

    /// Gives those who wait what there is, and makes connections.
    pub(super) fn pump(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>) {
        while let Some(&id) = self.queue.front()
            && let Some(conn) = self.place(db, id)
        {
            self.queue.pop_front();
            self.dispatch(db, cx, conn, id);
        }
        while let Some(&id) = self.alone.front()
            && let Some(conn) = self.place(db, id)
        {
            self.alone.pop_front();
            self.dispatch(db, cx, conn, id);
        }
        let now = cx.now();
        while self.may_dial(now)
            && let Some(role) = self.wanted(db)
        {
            self.dial(db, cx, role);
        }
        if self.is_stopping && self.queue.is_empty() && self.alone.is_empty() {
            let idle = self.conns.iter().filter(|(_, conn)| conn.is_idle());
            for id in idle.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.close(id);
            }
        }
    }

    /// Asks it there.
    fn dispatch(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, conn_id: Id, id: Id) {
        self.unqueued(id);
        let now = cx.now();
        let (Some(conn), Some(job)) = (self.conns.get_mut(&conn_id), self.jobs.get_mut(&id)) else {
            return;
        };
        job.on = Some(conn_id);
        job.values.clear();
        job.failed = None;
        let asked = match &mut job.ask {
            // What it waits for was written on other connections: since its own last command. That is now.
            Ask::One(command) if command.is_about_replicas() => {
                conn.ask_all(Some("PING"), std::slice::from_ref(command), None, id, now)
            }
            Ask::One(command) | Ask::Script(command, _) => {
                conn.ask(command.arguments(), id, true, now)
            }
            Ask::Multi(commands) => conn.ask_all(Some("MULTI"), commands, Some("EXEC"), id, now),
            Ask::Watched(watched) => match &watched.writes {
                Some(writes) => conn.ask_all(Some("MULTI"), writes, Some("EXEC"), id, now),
                None => conn
                    .ask(watched.watch.arguments(), id, watched.reads.is_empty(), now)
                    .and_then(|()| conn.ask_all(None, &watched.reads, None, id, now)),
            },
        };
        if job.alone {
            conn.own = Some(id);
            // As long as the job may wait, and a little more: it is the job's deadline that ends it.
            let longest = job.limit.0.saturating_add(db.settings.reply);
            conn.line.session.set_reply(longest);
        }
        let (limit, setting) = job.limit;
        let deadline = (job.since + limit, limit, setting);
        match asked {
            Ok(()) => {
                if job.deadline != Some(deadline) {
                    self.set_deadline(id, Some(deadline));
                }
            }
            // There was room: so it is the session that has ended, and of it nothing is used any more.
            Err(refusal) => {
                self.lose(db, cx, conn_id, &refusal.to_string(), None);
                return self.finish(cx, id, Err(RedisError::Lost(refusal.to_string().into())));
            }
        }
        self.touch(db, cx, conn_id);
    }

    /// What is asked in this turn leaves together, when whoever asks has returned.
    pub(super) fn touch(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut conn.is_dirty, true) {
            let db = db.clone();
            cx.later().call(move |cx| db.pump(cx, id));
        }
    }

    // ---- connections

    /// What for a connection is missing.
    fn wanted(&self, db: &Db<S>) -> Option<Role> {
        let count = |role: Role| {
            let dials = self.dials.values().filter(|of| **of == role).count();
            let ready = self
                .conns
                .values()
                .filter(|conn| conn.role == role && conn.is_ready());
            (dials, dials + ready.count())
        };
        let is_serving = !self.is_stopping || !self.queue.is_empty();
        let (making, own) = count(Role::Own);
        if self.ear.is_wanted() && count(Role::Ear).1 == 0 {
            Some(Role::Ear)
        } else if is_serving && count(Role::Shared).1 < db.settings.connections.max(1) {
            Some(Role::Shared)
        } else if making < self.alone.len() && own < db.settings.blocking {
            Some(Role::Own)
        } else {
            None
        }
    }

    /// After a failure it is one at a time, after a pause.
    fn may_dial(&self, now: Instant) -> bool {
        match self.retry {
            Some(retry) => retry <= now && self.dials.is_empty(),
            None => true,
        }
    }

    fn dial(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, role: Role) {
        let id = db.next_id();
        self.dials.insert(id, role);
        self.attempts = self.attempts.wrapping_add(1);
        let address = db.settings.url.address.clone();
        wire::dial(db, cx, id, address, self.attempts);
    }

    fn on_ready(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        self.made += 1;
        self.dials.remove(&id);
        self.backoff.connected(cx.now());
        self.why = "".into();
        if self.retry.take().is_some() {
            let address = &db.settings.url.address;
            log::info!("redis {}: connected to {address} again", db.name);
        }
        match self.conns.get_mut(&id) {
            Some(conn) if conn.role == Role::Own => self.rest(db, cx, id),
            Some(conn) if conn.role == Role::Ear => match self.ear.is_wanted() {
                true => self.ear.begin(id),
                false => self.close(id),
            },
            _ => {}
        }
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
        let (conn, dial) = (self.conns.remove(&id), self.dials.remove(&id));
        let Some(role) = dial.or(conn.as_ref().map(|conn| conn.role)) else {
            return;
        };
        let now = cx.now();
        self.failed += u64::from(dial.is_some());
        if self.retry.is_none() && !cx.is_stopping() && !self.is_stopping {
            let (name, address) = (&db.name, &db.settings.url.address);
            match dial {
                Some(_) => {
                    log::warn!("redis {name}: no connection to {address}: {why}; trying again")
                }
                None => log::warn!("redis {name}: a connection to {address} is lost: {why}"),
            }
        }
        self.why = why.into();
        // Those that end together have failed once; what we do not take is no failure of the server's.
        let is_failure = dial.is_some() || too_large(error).is_none();
        if is_failure && self.retry.is_none_or(|retry| retry <= now) {
            let pause = self.backoff.failed(now, &mut fastrand::Rng::new());
            self.retry = Some(now + pause);
        }
        if role == Role::Ear {
            self.deafen(db, cx, why);
        }
        if let Some(conn) = conn {
            conn.line.handle.abort(why);
            self.scatter(db, cx, conn, error);
        }
        let is_alone = !self.conns.values().any(Conn::is_ready);
        if error.is_some_and(is_final) && is_alone {
            // It will say the same again: whoever waits need not wait for it.
            let (queue, alone) = (
                std::mem::take(&mut self.queue),
                std::mem::take(&mut self.alone),
            );
            for id in queue.into_iter().chain(alone) {
                self.unqueued(id);
                let waited = self
                    .jobs
                    .get(&id)
                    .map_or(Duration::ZERO, |job| now - job.since);
                let why = self.why.clone();
                self.finish(cx, id, Err(RedisError::NoConnection { waited, why }));
            }
        }
        self.pump(db, cx);
    }

    /// What becomes of what was asked on a connection that has ended.
    fn scatter(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, conn: Conn, error: Option<&Error>) {
        // The reply that was too large was the first one owed.
        let mut first = conn
            .asked
            .front()
            .map(|asked| asked.job)
            .zip(too_large(error));
        let why = self.why.clone();
        let mut back = Vec::new();
        for asked in conn.asked.iter().filter(|asked| asked.is_last) {
            match first.take_if(|(job, _)| *job == asked.job) {
                Some((id, error)) => self.finish(cx, id, Err(error)),
                None if asked.end > conn.handed => back.push(asked.job),
                None => self.finish(cx, asked.job, Err(RedisError::Lost(why.clone()))),
            }
        }
        for id in back.into_iter().rev() {
            if let Some(job) = self.jobs.get_mut(&id)
                && let Ask::Watched(watched) = &mut job.ask
            {
                watched.writes = None;
            }
            self.enqueue(db, cx, id, true);
        }
        // It has been asked what to write.
        if let Some(id) = conn.own
            && self.jobs.get(&id).is_some_and(|job| job.on.is_some())
        {
            self.finish(cx, id, Err(RedisError::Lost(why)));
        }
    }

    /// Says good-bye to one that owes nothing.
    pub(super) fn close(&mut self, id: Id) {
        if let Some(conn) = self.conns.remove(&id) {
            conn.line.handle.close();
        }
    }

    /// A connection of one job's has nothing to do: for the next, or not for ever.
    fn rest(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        if let Some(conn) = self.conns.get_mut(&id)
            && conn.role == Role::Own
        {
            conn.own = None;
            conn.rests = cx.now();
            self.agenda.note(conn.rests + db.settings.idle);
        }
    }

    // ---- replies

    fn on_event(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        event: Event,
    ) -> Result<(), String> {
        match event {
            Event::Ready { .. } => self.on_ready(db, cx, id),
            Event::Reply { token, value } => {
                let asked = self
                    .conns
                    .get_mut(&id)
                    .and_then(|conn| conn.asked.pop_front());
                match asked {
                    Some(asked) if asked.token == token => {
                        self.on_reply(db, cx, id, &asked, value.plain());
                    }
                    _ => return Err("a reply nobody waits for".to_string()),
                }
            }
            event => self.on_heard(db, cx, event),
        }
        Ok(())
    }

    fn on_reply(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, conn: Id, asked: &Asked, value: Value) {
        let id = asked.job;
        let Some(job) = self.jobs.get_mut(&id) else {
            // What `unwatch` has asked, for example: from here on it has nothing to do.
            return self.rest(db, cx, conn);
        };
        if let Value::Error(said) = &value
            && !asked.is_last
        {
            job.failed.get_or_insert(said.clone());
        }
        let is_reading = matches!(&job.ask, Ask::Watched(watched) if watched.writes.is_none());
        if is_reading {
            job.values.push(value);
            if asked.is_last {
                self.ask_decision(db, cx, id);
            }
            return;
        }
        if !asked.is_last {
            return;
        }
        match (&mut job.ask, value) {
            (Ask::Script(_, whole), Value::Error(said)) if said.starts_with(b"NOSCRIPT") => {
                job.ask = Ask::One(std::mem::take(whole));
                self.enqueue(db, cx, id, true);
                return self.pump(db, cx);
            }
            // It is not done: not since the first error.
            (_, Value::Error(said)) => {
                let said = job.failed.take().unwrap_or(said);
                self.finish(cx, id, Err(RedisError::server(&said)));
            }
            (Ask::Watched(watched), Value::Null) => {
                watched.writes = None;
                watched.attempts += 1;
                let attempts = watched.attempts;
                if attempts <= db.settings.retries {
                    return self.dispatch(db, cx, conn, id);
                }
                self.finish(cx, id, Err(RedisError::Conflict { attempts }));
            }
            (_, value) => self.finish(cx, id, Ok(value)),
        }
        self.rest(db, cx, conn);
    }

    /// What is watched was read: what is to be written?
    fn ask_decision(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut values = std::mem::take(&mut job.values);
        let Ask::Watched(watched) = &mut job.ask else {
            return;
        };
        // The first is what WATCH says.
        let first = values.drain(..1.min(values.len())).next();
        if let Some(Value::Error(said)) = first {
            let conn = job.on;
            self.finish(cx, id, Err(RedisError::server(&said)));
            return self.unwatch(db, cx, conn);
        }
        let Some(mut decide) = watched.decide.take() else {
            return;
        };
        let db = db.clone();
        cx.later().call(move |cx| {
            let writes = decide(cx, values);
            db.enter(cx, |hub, db, cx| hub.decided(db, cx, id, decide, writes));
        });
    }

    fn decided(
        &mut self,
        db: &Db<S>,
        cx: &mut Ctx<'_, S>,
        id: Id,
        decide: Decide<S>,
        writes: Option<Vec<Command>>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Ask::Watched(watched) = &mut job.ask else {
            return;
        };
        watched.decide = Some(decide);
        let Some(conn) = job.on else { return };
        let Some(writes) = writes else {
            self.finish(cx, id, Ok(Value::Null));
            return self.unwatch(db, cx, Some(conn));
        };
        let refusal = writes.iter().find_map(Command::refusal);
        let checked = match refusal {
            Some(why) => Err(RedisError::Refused(why)),
            None => check_size(writes.iter(), &db.settings),
        };
        watched.writes = Some(writes);
        match checked {
            Ok(()) => self.dispatch(db, cx, conn, id),
            Err(error) => {
                self.finish(cx, id, Err(error));
                self.unwatch(db, cx, Some(conn));
            }
        }
    }

    /// Nothing is written: the connection is for others.
    fn unwatch(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Option<Id>) {
        let now = cx.now();
        let Some((id, conn)) = id.and_then(|id| Some((id, self.conns.get_mut(&id)?))) else {
            return;
        };
        match conn.ask([&b"UNWATCH"[..]].into_iter(), NOBODY, true, now) {
            Ok(()) => self.touch(db, cx, id),
            Err(refusal) => self.lose(db, cx, id, &refusal.to_string(), None),
        }
    }

    /// Takes it out of the queue, or forgets that the server owes it.
    fn give_up(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, id: Id, error: RedisError) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let (on, alone) = (job.on, job.alone);
        match on {
            None => {
                let queue = if alone {
                    &mut self.alone
                } else {
                    &mut self.queue
                };
                queue.retain(|waiting| *waiting != id);
                self.unqueued(id);
                self.finish(cx, id, Err(error));
            }
            Some(conn) => {
                self.finish(cx, id, Err(error));
                // The server waits or watches for nobody: only the end of the connection tells it so.
                if alone && let Some(conn) = self.conns.remove(&conn) {
                    conn.line.handle.abort("its question was given up");
                }
                self.pump(db, cx);
            }
        }
    }

    /// The end of a job: whoever waits for it is told.
    fn finish(&mut self, cx: &mut Ctx<'_, S>, id: Id, result: Result<Value, RedisError>) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        if let Some(abort) = job.abort {
            cx.forget_abort(abort);
        }
        self.errors += u64::from(result.is_err());
        let then = job.then;
        cx.later().call(move |cx| then(cx, result));
    }
}

/// Whether another attempt would end the same way: the login is wrong, or there is no such database.
fn is_final(error: &Error) -> bool {
    const FINAL: [&str; 6] = [
        "WRONGPASS",
        "NOAUTH",
        "NOPERM",
        "ERR invalid password",
        "ERR AUTH",
        "ERR DB index",
    ];
    match error {
        Error::Refused { said, .. } => FINAL.iter().any(|begin| said.starts_with(begin)),
        _ => false,
    }
}

/// Which bound a reply was over.
fn too_large(error: Option<&Error>) -> Option<RedisError> {
    let Some(Error::Protocol(error)) = error else {
        return None;
    };
    let (limit, setting) = match *error {
        resp::Error::TooDeep { limit } => (limit, "depth"),
        resp::Error::BulkTooLong { limit, .. } => (limit, "bulk"),
        resp::Error::LineTooLong { limit } => (limit, "line"),
        resp::Error::TooManyElements { limit, .. } => (limit, "elements"),
        resp::Error::ValueTooLarge { limit } => (limit, "value"),
        _ => return None,
    };
    Some(RedisError::TooLarge { limit, setting })
}
