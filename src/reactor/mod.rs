//! Floor 3: the loop. One thread, one poll, one slab of connections.
//!
//! ```text
//!  ┌───────────────────────────────── turn ─────────────────────────────────┐
//!  poll ─► note readiness ─► accept ─► timers ─► mail ─► deliver ─► run ─► reap
//!                                                                    │
//!                         read ─► protocol ─► dispatch ─► settle ─► flush      (io, dispatch, settle)
//! ```
//! The one rule: callbacks may touch `core` and `state`; the loop iterates over connections, routes
//! and sinks, which are other fields. What a callback wants from those is queued, and settled after
//! it has returned. So nothing is closed under its caller's feet, and the borrow checker knows.
//!
//! Invariants: everything that gives a connection something to do ends in [`Reactor::wake`]; while
//! the runnable queue is not empty the loop does not sleep; each loop within a turn has a budget.

/// The loop on loan: the two fields of the reactor that a callback may touch.
macro_rules! cx {
    ($self:ident) => {
        crate::app::ctx::Ctx {
            state: &mut $self.state,
            core: &mut $self.core,
        }
    };
}

/// The sending half of a connection, and what it needs of the loop; `cork` is where small things go.
macro_rules! tx {
    ($self:ident, $conn:ident, $cork:expr) => {
        crate::app::response::Tx {
            protocol: &mut $conn.http,
            out: crate::base::backlog::Output {
                cork: $cork,
                backlog: &mut $conn.backlog,
            },
            stock: &$self.stock,
            now: $self.now,
            discard: $self.limits.discard,
        }
    };
}

mod addresses;
mod conn;
mod dispatch;
mod exchange;
mod fetch;
mod groups;
mod held;
mod io;
mod link;
mod preface;
mod publish;
mod server;
mod settle;
mod shutdown;
mod sites;
mod socket;
mod task;
mod tunnel;
mod upload;
mod upstream;
mod watch;

pub use server::{Builder, Server};

use crate::app::ctx::{Core, Due, Job, Timer};
use crate::app::mailbox::{Handle, Post};
use crate::app::outbox::Outbox;
use crate::app::publish::Bus;
use crate::app::settings::{Limits, Timeouts};
use crate::app::stats::LoopStats;
use crate::base::clock::{Instant, StockFields};
use crate::base::id::{ConnId, StreamRef, TaskId};
use crate::net::{Net, Peer, Ready, Source};
use crate::proto::forwarded::Trusted;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::server::{Bounds, Expired};
use crate::proto::ws::send::Outbound;
use crate::proto::ws::session::Inbound;
use addresses::Addresses;
use conn::{Conn, Conns, Role};
use exchange::Exchange;
use link::Linked;
use shutdown::Stopping;
use sites::Sites;
use slab::Slab;
use socket::Attached;
use std::collections::VecDeque;
use std::io as std_io;
use std::rc::Rc;
use std::time::Duration;
use tunnel::Tunnel;
use upstream::{Dial, Dialled};
use watch::Watch;

/// A server: sockets, connections, routes, state. Made by [`Server::bind`] or [`Server::builder`].
///
/// It has no global state and starts nothing behind your back: two fit in one process, and
/// [`Reactor::turn`] lets you drive one yourself.
pub struct Reactor<N: Net, S> {
    net: N,
    conns: Conns,
    exchanges: Slab<Exchange<S>>,
    sockets: Slab<Attached<S>>,
    links: Slab<Linked<S>>,
    dialled: Slab<Dialled>,
    dials: Slab<Dial>,
    tunnels: Slab<Tunnel>,
    bus: Option<Box<dyn Bus<S>>>,
    sites: Sites<S>,
    state: S,
    core: Core<S>,
    /// The same queue that `core` has, for responses to borrow.
    outbox: Rc<Outbox>,
    stock: StockFields,
    /// The time of this turn; `core` has it, too.
    now: Instant,

    limits: Limits,
    timeouts: Timeouts,
    bounds: Bounds,

    /// Connections with something to do. Entered by `wake` alone.
    runnable: VecDeque<ConnId>,
    ready: Vec<Ready>,
    /// The one buffer in: every read goes here, and is parsed in place.
    inbox: Vec<u8>,
    /// The one buffer out: what the running connection answers, written once at the end of its run.
    cork: Vec<u8>,
    /// The same for one other connection, the `partner`.
    spare: Vec<u8>,
    /// Whom the running connection has written to last, an upstream or the client that waits for it: run next.
    partner: Option<ConnId>,
    /// The running connection was woken after it last looked what there is to do.
    rewoken: bool,
    /// Response fields of the callback that runs.
    fields: FieldBlock,
    scratch: Vec<u8>,
    /// What WebSockets share: for what arrives, and for what is sent.
    inbound: Inbound,
    outbound: Outbound,
    /// The connection whose answers go into `cork`.
    running: Option<ConnId>,
    commands_left: usize,
    /// `settle` is at work further up the stack.
    settling: bool,
    /// Tasks that want to be polled; and those of them that were, in this turn.
    woken: VecDeque<TaskId>,
    polled: VecDeque<TaskId>,
    /// Callbacks left for later that may still be called in this turn, and those that are one too many.
    calls_left: usize,
    late: VecDeque<Job<S>>,
    tasks_left: usize,

    /// What other threads have posted and this turn's budget did not reach.
    mail: VecDeque<Post<S>>,
    /// Listeners with connections to accept.
    acceptable: Vec<bool>,
    accept_paused: bool,
    addresses: Addresses,
    /// Who begins with a PROXY header.
    proxies: Trusted,
    accept_warned: Option<Instant>,
    stopping: Stopping,
    watch: Watch,
    /// Connections cut in the middle of an answer.
    cut_answers: usize,
}

/// Where input goes in one gulp. Short reads are the rule; a full one means there may be more.
const INBOX: usize = 128 * 1024;
/// Output memory that is kept between turns; what a burst needed beyond it is given back.
const CORK_KEPT: usize = 256 * 1024;

impl<N: Net, S: 'static> Reactor<N, S> {
    /// One bounded iteration of the loop. Waits for something to happen unless there is something
    /// to do. `false` once the server has stopped.
    ///
    /// # Errors
    /// Only if the operating system refuses to say what is ready, which nothing can go on without.
    ///
    /// ```
    /// use loopwright::{App, Server};
    /// let mut server = Server::bind("127.0.0.1:0", App::new(), ()).unwrap();
    /// server.handle().stop();
    /// while server.turn().unwrap() { /* something of yours, between two turns */ }
    /// ```
    pub fn turn(&mut self) -> std_io::Result<bool> {
        self.turn_until(None)
    }

    /// A turn that waits `wait` at the most: for a caller with something else to do.
    ///
    /// # Errors
    /// As [`Reactor::turn`].
    ///
    /// ```
    /// use loopwright::{App, Server};
    /// use std::time::Duration;
    /// let mut server = Server::bind("127.0.0.1:0", App::new(), ()).unwrap();
    /// assert!(server.turn_within(Duration::ZERO).unwrap());
    /// ```
    pub fn turn_within(&mut self, wait: Duration) -> std_io::Result<bool> {
        self.turn_until(Some(self.net.now() + wait))
    }

    fn turn_until(&mut self, latest: Option<Instant>) -> std_io::Result<bool> {
        self.commands_left = self.limits.commands_per_turn;
        self.calls_left = self.limits.commands_per_turn;
        // Those that were over the last turn's budget come first.
        while let Some(job) = self.late.pop_back() {
            self.core.jobs.push_front(job);
        }

        let mut ready = std::mem::take(&mut self.ready);
        self.core.mailbox.set_asleep(true);
        let until = self.wait_until().into_iter().chain(latest).min();
        let asleep = self.net.now();
        let polled = self.net.poll(until, &mut ready);
        self.core.mailbox.set_asleep(false);
        let awake = self.net.now();
        self.count_turn(asleep - self.now, awake - asleep, ready.len());
        self.now = awake;
        self.core.now = self.now;
        self.stock.refresh(self.now, || self.net.wall_clock());
        self.core.wall = self.stock.wall_clock(self.now);
        for event in ready.drain(..) {
            self.on_ready(event);
        }
        self.ready = ready;
        polled?;
        self.tell_stall();

        self.begin_tasks();
        self.accept();
        self.run_timers();
        self.read_mail();
        self.settle();
        self.deliver();
        // Connections have a budget of their own: however many timers are due, they are served.
        self.commands_left = self.limits.commands_per_turn;
        // Whoever is woken from now on, but for a partner, waits for the next turn: the work of a turn is bounded.
        for _ in 0..self.runnable.len() {
            // Out of budget: whoever has not had a turn is first in the next one.
            if self.commands_left == 0 {
                break;
            }
            let Some(id) = self.runnable.pop_front() else {
                break;
            };
            // It may have been run since, as somebody's partner.
            if self.conns.get(id).is_some_and(|conn| conn.queued) {
                self.run_connection(id);
                self.run_partner();
            }
        }
        self.run_last();
        self.reap();
        let goes_on = !self.is_stopped();
        if !goes_on {
            self.end_links();
            self.end_upstreams();
            self.end_tasks();
            self.reap();
            // Whoever posts from now on is told that nobody reads it.
            self.core.mailbox.close();
        }
        Ok(goes_on)
    }

    /// What was to wait until everybody has had their turn: what they have asked for leaves together.
    fn run_last(&mut self) {
        for call in std::mem::take(&mut self.core.last) {
            self.call("the end of a turn", call);
            self.settle();
            self.run_partner();
        }
    }

    /// Turns until the server has stopped.
    ///
    /// # Errors
    /// As [`Reactor::turn`].
    pub fn run(&mut self) -> std_io::Result<()> {
        while self.turn()? {}
        Ok(())
    }

    /// The loop, for other threads.
    pub fn handle(&self) -> Handle<S> {
        Handle {
            mailbox: self.core.mailbox.clone(),
        }
    }

    /// The embedder's state.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The embedder's state, to change between turns.
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Exchanges whose answer is still open at the end of a turn: deferred, streamed, or waiting
    /// for their body.
    pub fn open_exchanges(&self) -> usize {
        self.exchanges.len()
    }

    /// Timers that run: deadlines of connections, and the embedder's.
    pub fn timers(&self) -> usize {
        self.core.timers.len()
    }

    /// What the loop has done so far, and what it has to do.
    pub fn stats(&self) -> LoopStats {
        self.core.stats
    }

    /// A callback of the turn before kept everybody waiting; who that was is known now.
    fn tell_stall(&mut self) {
        if let Some(stall) = self.watch.take() {
            log::warn!(
                "{} kept the loop for {} ms, over timeouts.stall = {} ms; {} of {} connections waited",
                stall.what,
                stall.took.as_millis(),
                self.watch.threshold.as_millis(),
                self.runnable.len(),
                self.conns.len(),
            );
        }
    }

    fn count_turn(&mut self, worked: Duration, waited: Duration, events: usize) {
        let (connections, open_exchanges) = (self.conns.len(), self.exchanges.len());
        let (timers, tasks) = (self.core.timers.len(), self.core.tasks.len());
        let stats = &mut self.core.stats;
        stats.turns += 1;
        stats.events += events as u64;
        stats.worked += worked;
        stats.waited += waited;
        (stats.connections, stats.open_exchanges) = (connections, open_exchanges);
        (stats.timers, stats.tasks) = (timers, tasks);
    }

    fn wait_until(&self) -> Option<Instant> {
        let has_work = !self.runnable.is_empty()
            || !self.outbox.is_empty()
            || !self.core.jobs.is_empty()
            || !self.core.last.is_empty()
            || !self.late.is_empty()
            || self.has_woken()
            || self.core.mailbox.is_pending()
            || !self.mail.is_empty()
            || self.core.topics.waiting() > 0
            || self.is_stopped()
            || (self.can_accept() && self.acceptable.contains(&true));
        if has_work {
            Some(Instant::default())
        } else {
            self.core.timers.next_deadline()
        }
    }

    /// The only door to the runnable queue. Bytes queued outside a readiness event are woken by
    /// nobody for free: whoever touches a connection ends here.
    fn wake(&mut self, id: ConnId) {
        if self.running == Some(id) {
            self.rewoken = true;
        } else if self.partner == Some(id) {
            // It is run next anyway.
        } else if let Some(conn) = self.conns.get_mut(id)
            && !conn.queued
        {
            conn.queued = true;
            self.runnable.push_back(id);
        }
    }

    fn on_ready(&mut self, event: Ready) {
        match event.source {
            Source::Waker => {}
            Source::Listener(n) => {
                if let Some(acceptable) = self.acceptable.get_mut(n) {
                    *acceptable = true;
                }
            }
            Source::Conn(token) => {
                let id = ConnId::from_token(token);
                // A stale event of a reused slot ends here: its generation is another.
                let Some(conn) = self.conns.get_mut(id) else {
                    return;
                };
                conn.readable |= event.readable || event.read_closed || event.broken;
                conn.read_closed |= event.read_closed;
                conn.blocked &= !(event.writable || event.broken);
                if event.broken {
                    // One that is being made says itself why it was not.
                    if !self.is_linked(id) || !self.is_connected(id) {
                        return;
                    }
                    let is_read = |conn: &Conn| conn.is_read_to_the_end();
                    match self.conns.get(id).is_some_and(is_read) {
                        // Reading comes to the error, behind what was sent before it.
                        true => self.wake(id),
                        false => self.cut(id, io::BROKE),
                    }
                    return;
                }
                let waits_for_us = event.read_closed && conn.exchange.is_some() && !conn.ours;
                if waits_for_us {
                    self.tell_gone(id);
                }
                self.wake(id);
            }
        }
    }

    /// Connections that count against `limits.connections`: not those that we have made.
    fn clients(&self) -> usize {
        self.conns.len() - self.conns.ours()
    }

    fn can_accept(&self) -> bool {
        !self.accept_paused
            && !self.stopping.is_draining()
            && self.clients() < self.limits.connections
    }

    fn accept(&mut self) {
        for listener in 0..self.acceptable.len() {
            for _ in 0..self.limits.accepts_per_turn {
                if !self.acceptable[listener] || !self.can_accept() {
                    break;
                }
                self.accept_one(listener);
            }
            // Said now: there may be no next turn before a connection ends.
            let most = self.limits.connections;
            if self.acceptable[listener] && self.clients() >= most {
                self.warn_accept(&format!("accepting pauses: limits.connections = {most}"));
            }
        }
    }

    fn accept_one(&mut self, listener: usize) {
        match self.net.accept(listener) {
            Ok((sock, peer)) => {
                let mut conn = Conn::new(sock, peer, self.now);
                if self.proxies.contains(peer.ip()) {
                    conn.role = Role::Preface;
                } else if !self.admits(&peer) {
                    return self.net.refuse(sock);
                }
                let id = self.conns.insert(conn);
                self.core.stats.accepted += 1;
                self.wake(id);
            }
            Err(e) if e.kind() == std_io::ErrorKind::WouldBlock => {
                self.acceptable[listener] = false
            }
            // The next one may be fine.
            Err(e) if is_of_one_client(&e) => log::debug!("accept: {e}"),
            // Out of descriptors or memory, or not allowed to: the next accept would fail the same way.
            Err(e) => {
                self.warn_accept(&format!("accepting pauses for timeouts.accept_pause: {e}"));
                self.accept_paused = true;
                let until = self.now + self.timeouts.accept_pause;
                self.core.timers.insert(until, Timer::Accept);
            }
        }
    }

    /// Counts a connection for its address, if there may be another.
    fn admits(&mut self, peer: &Peer) -> bool {
        if self.addresses.is_full(peer) {
            let most = self.limits.connections_per_address;
            self.warn_accept(&format!(
                "{peer}: refused with 503: limits.connections_per_address = {most}"
            ));
            return false;
        }
        self.addresses.enter(peer);
        true
    }

    /// At most one a second, whatever the reason.
    fn warn_accept(&mut self, why: &str) {
        let now = self.now;
        if self
            .accept_warned
            .is_none_or(|last| now - last >= Duration::from_secs(1))
        {
            self.accept_warned = Some(now);
            log::warn!("{why}");
        }
    }

    fn run_timers(&mut self) {
        let now = self.now;
        while self.commands_left > 0
            && let Some(timer) = self.core.timers.pop_expired(now)
        {
            self.commands_left -= 1;
            match timer {
                Timer::Conn(id) => self.on_deadline(id),
                Timer::Call { slot, generation } => self.call_timer(slot, generation),
                Timer::Dial(key) => self.race(key),
                Timer::Group(group) => self.on_group_timer(group as usize),
                Timer::Fetch(fetch) => self.on_fetch_timer(fetch),
                Timer::Accept => self.accept_paused = false,
                Timer::DrainIdle => self.close_idle(),
                Timer::Drain => self.cut_all(),
            }
            self.settle();
        }
    }

    fn call_timer(&mut self, slot: u32, generation: u32) {
        let slot = slot as usize;
        let Some(entry) = self
            .core
            .calls
            .get_mut(slot)
            .filter(|entry| entry.generation == generation)
        else {
            return;
        };
        let due = std::mem::replace(&mut entry.due, Due::Running);
        let mut cx = cx!(self);
        match due {
            Due::Once(call) => {
                cx.core.calls.remove(slot);
                self.watch.guarded(&self.net, "a timer", || call(&mut cx));
            }
            Due::Every(period, mut call) => {
                let survived = self
                    .watch
                    .guarded(&self.net, "a repeating timer, which is cancelled", || {
                        call(&mut cx)
                    })
                    .is_some();
                let core = cx.core;
                // It may have cancelled itself, and its slot may be somebody else's by now.
                let Some(entry) = core
                    .calls
                    .get_mut(slot)
                    .filter(|entry| entry.generation == generation)
                else {
                    return;
                };
                if !survived {
                    core.calls.remove(slot);
                    return;
                }
                entry.due = Due::Every(period, call);
                let timer = Timer::Call {
                    slot: slot as u32,
                    generation,
                };
                entry.wheel = core.timers.insert(core.now + period, timer);
            }
            Due::Running => {}
        }
    }

    fn read_mail(&mut self) {
        if self.mail.is_empty() {
            self.mail = self.core.mailbox.take(self.commands_left);
        }
        while self.commands_left > 0
            && let Some(post) = self.mail.pop_front()
        {
            self.commands_left -= 1;
            match post {
                Post::Call(call) => {
                    let mut cx = cx!(self);
                    self.watch
                        .guarded(&self.net, "a posted closure", || call(&mut cx));
                }
                Post::WorkDone(slot) => self.finish_offload(slot, true),
                Post::Stop { now } => self.stop(now),
            }
            self.settle();
        }
    }

    fn finish_offload(&mut self, slot: usize, accepted: bool) {
        if let Some(finish) = self.core.offloads.try_remove(slot) {
            let mut cx = cx!(self);
            self.watch
                .guarded(&self.net, "a callback of offloaded work", || {
                    finish(&mut cx, accepted)
                });
        }
    }

    /// Places the wheel entry of a connection whose deadline is `deadline` from now on. One timer
    /// operation per timeout period, not per request: a deadline that only moves away leaves the
    /// entry where it is, to be placed anew when it fires early.
    fn arm(&mut self, id: ConnId, deadline: Option<Instant>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.deadline = deadline;
        let Some(deadline) = deadline else { return };
        match *conn.timer() {
            Some((_, fires)) if fires <= deadline => return,
            Some((timer, _)) => drop(self.core.timers.cancel(timer)),
            None => {}
        }
        *conn.timer() = Some((self.core.timers.insert(deadline, Timer::Conn(id)), deadline));
    }

    fn on_deadline(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        *conn.timer() = None;
        if conn.queued {
            // Something has happened since; when it has run, it will be armed anew.
            return;
        }
        let Some(deadline) = conn.deadline else {
            return;
        };
        if deadline > now {
            return self.arm(id, Some(deadline));
        }
        if conn.linger_until.is_some() {
            return self.release(id);
        }
        if conn.upstream().is_some() {
            return self.on_upstream_deadline(id);
        }
        if !conn.backlog.is_empty() && now >= conn.progress + self.timeouts.write {
            let taken = self.net.taken(conn.sock);
            if taken > conn.taken {
                (conn.taken, conn.progress) = (taken, now);
                // It runs only to be given its next deadline.
                return self.wake(id);
            }
            let (waits, limit) = (conn.backlog.bytes(), self.timeouts.write);
            log::info!(
                "{}: cut: it takes none of the {waits} bytes that wait for it within timeouts.write = {limit:?}",
                conn.peer
            );
            return self.cut(id, "timeouts.write");
        }
        if let Role::Tunnel(key) = conn.role {
            return self.on_tunnel_deadline(id, key);
        }
        if let Some(key) = conn.socket() {
            return self.on_socket_deadline(id, key);
        }
        if conn.link().is_some() {
            return self.cut(id, "not connected within timeouts.connect");
        }
        match conn.http.expire(&self.bounds.waits, now) {
            Expired::Refuse(error) => {
                self.refuse(id, error);
                self.wake(id);
            }
            Expired::Close if conn.role == Role::Preface => {
                self.distrust(id, "none within timeouts.head");
            }
            Expired::Close => {
                conn.http.abort();
                self.release(id);
            }
        }
    }

    fn reap(&mut self) {
        while let Some(mut conn) = self.conns.reap() {
            if let Some((timer, _)) = conn.timer().take() {
                self.core.timers.cancel(timer);
            }
            if conn.is_counted() {
                self.addresses.leave(&conn.peer);
            }
            self.net.close(conn.sock, conn.reset);
        }
        self.sites.reap();
        if self.cork.capacity() > CORK_KEPT {
            self.cork = Vec::new();
        }
    }

    /// The exchange that is open on a connection.
    fn exchange_on(&mut self, id: ConnId) -> Option<&mut Exchange<S>> {
        let key = self.conns.get(id)?.exchange?;
        self.exchanges.get_mut(key as usize)
    }

    /// The exchange a handle stands for, if it is still open.
    fn exchange_of(&mut self, stream: StreamRef) -> Option<&mut Exchange<S>> {
        self.exchange_on(stream.conn)
            .filter(|exchange| exchange.stream == stream)
    }
}

/// The client has gone again, or the network has failed it: accept(2) takes it out of the queue, and says so.
fn is_of_one_client(e: &std_io::Error) -> bool {
    use rustix::io::Errno;
    let known = [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::TIMEDOUT,
    ];
    e.kind() == std_io::ErrorKind::ConnectionAborted
        || known
            .iter()
            .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}
