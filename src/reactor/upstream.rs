//! Floor 3. Connections to upstreams: made, asked over, kept for the next, closed.
//!
//! ```text
//!        ┌─ race: one socket after the other, the first that connects wins (RFC 8305)
//! dial ──┤                                  ┌────── next in the queue ──────┐
//!        └─ connecting ─ won ─► busy ─ End ─┴─► idle ─ checked out ─► busy ─┘
//!               └─ refused, timeouts.connect ─► dead ◄─ closed, failed, cancelled, grown old
//! ```
//! Invariants: the pool of a group knows exactly its living connections that are no longer connecting;
//! a connection that is busy has one exchange, whose `upload` is the answer's body; an idle one
//! has none, and dies of the first byte that comes unasked.

use super::Reactor;
use super::conn::{Conn, Role};
use super::exchange::{Exchange, Side, Upload};
use super::groups::MOVED;
use super::io::Stop;
use crate::app::ctx::Timer;
use crate::app::fetch::{FetchError, Fetching, Outgoing, Reached, Stage, Try};
use crate::app::named::NO_ADDRESS;
use crate::app::outbox::Flow;
use crate::app::stream::Aborted;
use crate::base::clock::Instant;
use crate::base::id::{ConnId, FetchId, StreamRef};
use crate::net::{Net, Peer, Target};
use crate::proto::h1::body::Trailers;
use crate::proto::h1::client::{Client, Event};
use crate::proto::h1::error::ClientError;
use crate::proto::h1::head;
use crate::upstream::eyeballs::{self, Eyeballs, Step};
use crate::upstream::pool::{Back, Checkout};
use crate::upstream::retry::Sent;
use smallvec::SmallVec;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// What is known of a connection to an upstream.
pub(super) struct Dialled {
    pub(super) client: Client,
    pub(super) group: usize,
    pub(super) server: usize,
    pub(super) is: Is,
    /// The pool knows it, and may keep it. Not so one that looks after a server's health.
    pub(super) pooled: bool,
    /// Requests that it was sent.
    pub(super) served: u32,
    /// When the last of them was.
    pub(super) asked: Instant,
    /// How long the present answer took to begin, if it has.
    pub(super) latency: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Is {
    /// One of those that race in this dial.
    Connecting(u32),
    Idle,
    Busy(FetchId),
}

/// How long a server that is too busy to be connected to is left alone.
const BUSY: Duration = Duration::from_millis(10);

/// What is tried, and when.
enum Race {
    /// There is one way to it: a Unix socket, or that has been tried.
    Only(Option<Target>),
    Addresses(Eyeballs),
}

impl Race {
    fn to(targets: &[Target], last_good: Option<SocketAddr>, settings: eyeballs::Settings) -> Race {
        if let [only] = targets {
            return Race::Only(Some(only.clone()));
        }
        let inet = |target: &Target| match target {
            Target::Inet(address) => Some(*address),
            Target::Unix(_) => None,
        };
        let addresses: Vec<SocketAddr> = targets.iter().filter_map(inet).collect();
        Race::Addresses(Eyeballs::new(&addresses, last_good, settings))
    }

    fn failed(&mut self, target: &Target) {
        if let (Race::Addresses(eyeballs), Target::Inet(address)) = (self, target) {
            eyeballs.failed(*address);
        }
    }
}

/// A connection that is to be made.
pub(super) struct Dial {
    group: usize,
    server: usize,
    fetch: Option<FetchId>,
    pooled: bool,
    race: Race,
    racing: SmallVec<[ConnId; 2]>,
    began: Instant,
    why: FetchError,
}

impl<N: Net, S: 'static> Reactor<N, S> {
    /// Makes a connection to a server, for a fetch or to have one ready.
    pub(super) fn dial(
        &mut self,
        group: usize,
        server: usize,
        fetch: Option<FetchId>,
        pooled: bool,
    ) {
        let now = self.now;
        let Some(upstream) = self.core.upstreams.get(group) else {
            return;
        };
        let targets = upstream.targets(server);
        let why = match targets.is_empty() {
            true => FetchError::NoServer(NO_ADDRESS),
            false => FetchError::Connect("no address".into()),
        };
        let dial = Dial {
            group,
            server,
            fetch,
            pooled,
            race: Race::to(
                targets,
                upstream.last_good(server),
                self.core.upstreams.lookups().eyeballs(),
            ),
            racing: SmallVec::new(),
            began: now,
            why,
        };
        let key = self.dials.insert(dial) as u32;
        if let Some(fetching) = fetch.and_then(|id| self.core.fetches.get_mut(id)) {
            fetching.stage = Stage::Trying;
            fetching.timings.server = upstream.name_of(server);
            fetching.tries.push(Try::Dialling(key));
        }
        self.race(key);
    }

    /// Begins with the next address, if it is time, or gives up.
    pub(super) fn race(&mut self, key: u32) {
        loop {
            let now = self.now;
            let Some(dial) = self.dials.get_mut(key as usize) else {
                return;
            };
            let Some(upstream) = self.core.upstreams.get(dial.group) else {
                return;
            };
            let patience = upstream.timeouts().connect;
            let limit = dial.began + patience;
            let step = match &mut dial.race {
                Race::Addresses(eyeballs) => eyeballs.next(now),
                Race::Only(target) => match target.take() {
                    Some(target) => {
                        if !self.connect_to(key, target.clone()) {
                            return self.try_later(key, target, patience);
                        }
                        continue;
                    }
                    None if dial.racing.is_empty() => Step::Exhausted,
                    None => Step::Wait,
                },
            };
            match step {
                Step::Start(address) => {
                    self.connect_to(key, Target::Inet(address));
                }
                Step::WaitUntil(at) => return self.arm_race(key, at.min(limit)),
                Step::Wait => return self.arm_race(key, limit),
                Step::Exhausted => return self.give_up_dial(key),
            }
        }
    }

    /// Whoever of those that race wakes first, at `at`, sees to what is next.
    fn arm_race(&mut self, key: u32, at: Instant) {
        if let Some(&id) = self
            .dials
            .get(key as usize)
            .and_then(|dial| dial.racing.last())
        {
            self.arm(id, Some(at));
        }
    }

    /// `false`: the server is there, and too busy to be connected to.
    fn connect_to(&mut self, key: u32, target: Target) -> bool {
        let made = self.net.connect(&target);
        let Some(dial) = self.dials.get_mut(key as usize) else {
            return true;
        };
        let (sock, peer) = match made {
            Ok(made) => made,
            // Of a Unix socket: as many wait to be accepted there as may (unix(7)).
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(e) => {
                dial.race.failed(&target);
                dial.why = FetchError::Connect(format!("{target}: {e}").into());
                return true;
            }
        };
        let dialled = self.dialled.insert(Dialled {
            client: Client::new(self.now),
            group: dial.group,
            server: dial.server,
            is: Is::Connecting(key),
            pooled: dial.pooled,
            served: 0,
            asked: self.now,
            latency: None,
        });
        let mut conn = Conn::ours(sock, peer, Role::Upstream(dialled as u32), self.now);
        conn.blocked = true;
        let id = self.conns.insert(conn);
        dial.racing.push(id);
        self.await_connection(id);
        true
    }

    /// Tries again in a moment, as long as there is time for it.
    fn try_later(&mut self, key: u32, target: Target, limit: Duration) {
        let again = self.now + BUSY;
        let Some(dial) = self.dials.get_mut(key as usize) else {
            return;
        };
        if again >= dial.began + limit {
            dial.why = FetchError::ConnectTimeout(limit);
            return self.give_up_dial(key);
        }
        dial.race = Race::Only(Some(target));
        self.core.timers.insert(again, Timer::Dial(key));
    }

    fn give_up_dial(&mut self, key: u32) {
        let Some(dial) = self.dials.try_remove(key as usize) else {
            return;
        };
        if dial.pooled
            && let Some(upstream) = self.core.upstreams.get_mut(dial.group)
        {
            upstream.pool.connect_failed(dial.server);
        }
        match dial.fetch {
            Some(fetch) => {
                if let Some(fetching) = self.core.fetches.get_mut(fetch) {
                    fetching.unmade += 1;
                }
                let attempt = Try::Dialling(key);
                self.fail_try(fetch, attempt, dial.server, dial.why, Reached::NOTHING);
            }
            None => self.note_failure(dial.group, dial.server, &dial.why),
        }
        self.run_group_soon(dial.group);
    }

    pub(super) fn dialled(&mut self, id: ConnId) -> Option<&mut Dialled> {
        let key = self.conns.get(id)?.upstream()?;
        self.dialled.get_mut(key as usize)
    }

    /// Before it runs. `false`: there is nothing to run yet, or any more.
    pub(super) fn is_connected(&mut self, id: ConnId) -> bool {
        let Some(Is::Connecting(key)) = self.dialled(id).map(|dialled| dialled.is) else {
            return true;
        };
        let Some(conn) = self.conns.get(id).filter(|conn| !conn.blocked) else {
            return false;
        };
        match self.net.finish_connect(conn.sock) {
            Ok(()) => {
                self.win(id, key);
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                let why = format!("{}: {e}", conn.peer);
                self.end_upstream(id, FetchError::Connect(why.into()));
                false
            }
        }
    }

    /// The first of a race that is connected.
    fn win(&mut self, id: ConnId, key: u32) {
        let Some(dial) = self.dials.try_remove(key as usize) else {
            return;
        };
        for other in dial.racing {
            if other != id {
                self.take_dialled(other);
                self.conns.kill(other);
            }
        }
        let now = self.now;
        let peer = self.conns.get(id).map_or(Peer::Unix, |conn| conn.peer);
        self.core.upstreams.with(dial.group, |upstream, rng| {
            if dial.pooled {
                upstream.connected(dial.server, id, peer, now, rng);
            }
        });
        if let Some(fetching) = dial.fetch.and_then(|id| self.core.fetches.get_mut(id)) {
            fetching.timings.connect = now - dial.began;
            fetching
                .tries
                .retain(|attempt| *attempt != Try::Dialling(key));
        }
        if let Some(dialled) = self.dialled(id) {
            dialled.is = Is::Idle;
        }
        match dial.fetch {
            Some(fetch) => self.send_on(id, fetch),
            None => self.give_back(id),
        }
    }

    /// Sends a fetch's request on an idle connection.
    pub(super) fn send_on(&mut self, id: ConnId, fetch: FetchId) {
        let now = self.now;
        let Some(key) = self.conns.get(id).and_then(Conn::upstream) else {
            return;
        };
        if self.core.fetches.get_mut(fetch).is_none() {
            // Nobody wants it any more.
            return self.give_back(id);
        }
        let own = self.address(id);
        let (Some(dialled), Some(fetching)) = (
            self.dialled.get_mut(key as usize),
            self.core.fetches.get_mut(fetch),
        ) else {
            return self.addressed(id);
        };
        let Some(upstream) = self.core.upstreams.get_mut(dialled.group) else {
            return self.addressed(id);
        };
        let cork = match own {
            true => &mut self.cork,
            false => &mut self.spare,
        };
        if dialled.served == 0 && !upstream.shares_connections() {
            let client = fetching.fetch.answer.and_then(|to| self.conns.get(to.conn));
            let local = client.and_then(|client| self.net.local(client.sock));
            upstream.introduce(fetching.fetch.peer, local, cork);
        }
        let framing = fetching.fetch.framing;
        let begun = dialled
            .client
            .begin_request(fetching.fetch.asked(), framing, now);
        debug_assert!(begun, "an idle connection takes a request");
        fetching
            .fetch
            .write_head(upstream.host(dialled.server), cork);
        let stream = StreamRef {
            conn: id,
            stream: dialled.client.exchange(),
        };
        (dialled.is, fetching.stage) = (Is::Busy(fetch), Stage::Trying);
        fetching.tries.push(Try::Sent(stream));
        fetching.timings.tries += 1;
        fetching.tell_server(upstream, dialled.server, dialled.served > 0);
        if !fetching.hedged
            && fetching.may_be_hedged()
            && let Some(after) = upstream.hedge_after()
        {
            fetching.hedge_at = Some(now + after);
        }
        let has_body = !matches!(fetching.fetch.body, Outgoing::Nothing);
        if dialled.pooled {
            upstream.started(dialled.server);
        }
        dialled.latency = None;
        dialled.served = dialled.served.saturating_add(1);
        dialled.asked = now;
        let exchange = Exchange {
            stream,
            side: Side::Asked(fetch),
            upload: Upload::Undecided,
            flow: has_body.then(|| Flow::new(self.limits.high_water)),
            follows: false,
            on_abort: Vec::new(),
            on_drain: Vec::new(),
            feeders: SmallVec::new(),
        };
        let exchange = self.exchanges.insert(exchange) as u32;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.exchange = Some(exchange);
            (conn.held, conn.wrote) = (false, false);
        }
        self.addressed(id);
        self.arm_fetch(fetch);
        self.send_body(fetch, stream);
    }

    /// When the present wait for an upstream is over.
    pub(super) fn upstream_deadline(&mut self, id: ConnId) -> Option<Instant> {
        let conn = self.conns.get(id)?;
        let (waits, held, progress) = (!conn.backlog.is_empty(), conn.held, conn.progress);
        let key = conn.upstream()?;
        let dialled = self.dialled.get_mut(key as usize)?;
        let timeouts = self.core.upstreams.get(dialled.group)?.timeouts();
        match dialled.is {
            Is::Connecting(_) => self.conns.get(id)?.deadline,
            Is::Idle => None,
            Is::Busy(_) => {
                let input = dialled.client.next_deadline(&timeouts.waits(), !held);
                let output = waits.then(|| progress + timeouts.read);
                input.into_iter().chain(output).min()
            }
        }
    }

    pub(super) fn on_upstream_deadline(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let (waits, progress) = (!conn.backlog.is_empty(), conn.progress);
        let Some(dialled) = self.dialled(id) else {
            return;
        };
        let (group, is) = (dialled.group, dialled.is);
        let Some(timeouts) = self.core.upstreams.get(group).map(|group| group.timeouts()) else {
            return;
        };
        if let Is::Connecting(key) = is {
            let Some(dial) = self.dials.get_mut(key as usize) else {
                return;
            };
            if now < dial.began + timeouts.connect {
                return self.race(key);
            }
            dial.why = FetchError::ConnectTimeout(timeouts.connect);
            for other in std::mem::take(&mut dial.racing) {
                self.take_dialled(other);
                self.conns.kill(other);
            }
            return self.give_up_dial(key);
        }
        let error = match waits && now >= progress + timeouts.read {
            true => FetchError::WriteTimeout(timeouts.read),
            false => {
                let waits = timeouts.waits();
                match self
                    .dialled(id)
                    .map(|dialled| dialled.client.expire(&waits))
                {
                    Some(ClientError::FirstByteTimeout { limit }) => {
                        FetchError::FirstByteTimeout(limit)
                    }
                    Some(error) => FetchError::Protocol(error),
                    None => return,
                }
            }
        };
        self.end_upstream(id, error);
    }

    /// Takes events from what an upstream sends.
    pub(super) fn serve_upstream(&mut self, id: ConnId, input: &mut &[u8]) -> Stop {
        loop {
            self.rewoken = false;
            if self.commands_left == 0 {
                self.wake(id);
                return Stop::Wait;
            }
            let Some(conn) = self.conns.get(id) else {
                return Stop::Over;
            };
            let Some(key) = conn.upstream() else {
                // It has become something else, which takes what is left of the input.
                self.wake(id);
                return Stop::Switched;
            };
            if conn.held {
                return Stop::Wait;
            }
            let Some(dialled) = self.dialled.get_mut(key as usize) else {
                return Stop::Over;
            };
            let Some(upstream) = self.core.upstreams.get(dialled.group) else {
                return Stop::Over;
            };
            let mut slots = head::slots();
            match dialled
                .client
                .poll_event(input, &mut slots, upstream.bounds(), self.now)
            {
                Ok(Event::Interim(head)) => self.on_interim(id, &head),
                Ok(Event::Response(head)) => self.on_response(id, &head),
                Ok(Event::Data(bytes)) => self.on_data(id, bytes),
                Ok(Event::End(trailers)) => self.on_fetched(id, trailers),
                Ok(Event::NeedInput | Event::Idle) => return Stop::NeedInput,
                Ok(Event::Closed) => return Stop::Over,
                // Whoever is told of the answer joins the two; nobody else can.
                Ok(Event::Switched) => return Stop::Wait,
                Err(error) => {
                    self.end_upstream(id, FetchError::Protocol(error));
                    return Stop::Over;
                }
            }
            self.settle();
        }
    }

    /// Its end of file.
    pub(super) fn on_upstream_eof(&mut self, id: ConnId) {
        let Some(dialled) = self.dialled(id) else {
            return;
        };
        dialled.client.handle_eof();
        if matches!(dialled.is, Is::Busy(_)) {
            // A body that ends with the connection has ended; anything else is cut off.
            self.serve_upstream(id, &mut &b""[..]);
        } else {
            self.end_upstream(id, FetchError::Closed("the server closed it".into()));
        }
    }

    /// The answer is complete.
    fn on_fetched(&mut self, id: ConnId, trailers: Trailers<'_>) {
        let Some(Is::Busy(fetch)) = self.dialled(id).map(|dialled| dialled.is) else {
            return;
        };
        self.note_end(fetch, None);
        self.on_body_end(id, trailers);
        self.end_fetched(fetch);
        if let Some(exchange) = self.close_exchange(id) {
            self.dissolve(exchange, Aborted::Answered);
        }
        let now = self.now;
        if let Some(dialled) = self.dialled(id) {
            let (group, server) = (dialled.group, dialled.server);
            let (pooled, latency) = (dialled.pooled, dialled.latency);
            dialled.is = Is::Idle;
            if pooled && let Some(upstream) = self.core.upstreams.get_mut(group) {
                upstream.ended(server, latency, now);
            }
        }
        self.give_back(id);
    }

    /// A connection whose answer is complete: kept, handed to the next, or closed.
    pub(super) fn give_back(&mut self, id: ConnId) {
        let now = self.now;
        let is_leaving = self.stopping.is_draining() && self.clients() == 0;
        let is_clean = !is_leaving && self.is_fresh(id);
        let Some(peer) = self.conns.get(id).map(|conn| conn.peer) else {
            return;
        };
        let Some(dialled) = self.dialled(id) else {
            return;
        };
        let is_clean = is_clean && dialled.client.is_reusable() && dialled.pooled;
        let (group, server, served) = (dialled.group, dialled.server, dialled.served);
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        if !upstream.leads_to(server, peer) {
            return self.end_upstream(id, FetchError::Closed(MOVED.into()));
        }
        // One on which nothing has been said is anybody's: it is introduced when it is used.
        let is_free = served == 0 || upstream.shares_connections();
        if !is_clean || !is_free || upstream.is_drained(server) {
            return self.end_upstream(id, FetchError::Closed("it cannot be used again".into()));
        }
        let usable = upstream.health.share(server, now) > 0.0;
        match upstream.pool.give_back(server, id, usable, now) {
            Back::Kept => self.arm_group(group),
            Back::Next(fetch, waited) => {
                if let Some(fetching) = self.core.fetches.get_mut(fetch) {
                    fetching.timings.queue += waited;
                }
                self.send_on(id, fetch);
            }
            Back::Close(why) => {
                self.close_upstream(id, why.as_str());
            }
        }
    }

    /// Whether nothing has come on a connection that owes nothing, as far as can be known: neither its end, which the
    /// very poll may have told whose events are being served, nor bytes that would be taken for an answer.
    fn is_fresh(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        if conn.read_closed || conn.eof || conn.broken || !conn.backlog.is_empty() {
            return false;
        }
        if !conn.readable {
            return true;
        }
        let read = self.net.read(conn.sock, &mut [0]);
        conn.readable = !matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        !conn.readable
    }

    /// What the pool has handed out for a fetch, or something else in its place: every way out of the pool leads
    /// through here, but for the one from an exchange straight to the next.
    pub(super) fn vet(
        &mut self,
        group: usize,
        server: usize,
        fetch: FetchId,
        mut out: Checkout<ConnId>,
    ) -> Checkout<ConnId> {
        let now = self.now;
        // Where one was found to be closed, those that have been idle as long are not to be trusted either.
        let is_shy = |fetching: &mut Fetching<S>| fetching.was_stale;
        let is_shy = self.core.fetches.get_mut(fetch).is_some_and(is_shy);
        while let Checkout::Reuse(id) = out {
            if !is_shy && self.is_fresh(id) {
                break;
            }
            self.close_upstream(id, "it is stale, or may be");
            let Some(upstream) = self.core.upstreams.get_mut(group) else {
                return Checkout::Full;
            };
            out = match is_shy {
                true => upstream.pool.renew(server, id),
                false => upstream.pool.replace(server, id, now),
            };
        }
        out
    }

    /// How much of the request on a connection has been written.
    pub(super) fn sent(&mut self, id: ConnId) -> Sent {
        let Some(Is::Busy(fetch)) = self.dialled(id).map(|dialled| dialled.is) else {
            return Sent::Nothing;
        };
        let is_uploaded = |fetching: &mut Fetching<S>| fetching.upload.is_none();
        let is_uploaded = self.core.fetches.get_mut(fetch).is_none_or(is_uploaded);
        let waits = self.output_of(id) > 0;
        match self.conns.get(id) {
            Some(conn) if conn.wrote => {
                let is_out = !waits && !conn.broken;
                match is_out && is_uploaded {
                    true => Sent::Whole,
                    false => Sent::Partly,
                }
            }
            _ => Sent::Nothing,
        }
    }

    /// Those that are left when the server leaves.
    pub(super) fn end_upstreams(&mut self) {
        for id in self.conns.ids() {
            if self.dialled(id).is_some() {
                self.close_upstream(id, "the server leaves");
            }
        }
    }

    /// Whether this is an exchange in which we ask.
    pub(super) fn is_asked(&mut self, stream: StreamRef) -> bool {
        self.exchange_of(stream)
            .is_some_and(|exchange| matches!(exchange.side, Side::Asked(_)))
    }

    /// The end of a request's body.
    pub(super) fn end_request(&mut self, to: StreamRef) {
        let now = self.now;
        let id = to.conn;
        if !self.is_asked(to) {
            return;
        }
        let Some(key) = self.conns.get(id).and_then(Conn::upstream) else {
            return;
        };
        let own = self.address(id);
        let Some(dialled) = self.dialled.get_mut(key as usize) else {
            return self.addressed(id);
        };
        let fetching = match dialled.is {
            Is::Busy(fetch) => self.core.fetches.get_mut(fetch),
            _ => None,
        };
        let trailers = fetching.map_or(&b""[..], |fetching| fetching.trailers.lines());
        let is_whole = dialled.client.end_request(
            trailers,
            match own {
                true => &mut self.cork,
                false => &mut self.spare,
            },
            now,
        );
        self.addressed(id);
        if !is_whole {
            let why = "its request's body ended short of what was announced";
            self.end_upstream(id, FetchError::Request(why));
        }
    }

    /// Nobody will read an answer's body: a short rest is read and dropped, for the connection's sake.
    pub(super) fn discard_answer(&mut self, from: StreamRef) {
        let limit = self.limits.discard;
        let Some(dialled) = self.dialled(from.conn) else {
            return;
        };
        if !dialled.client.is_short(limit) {
            self.let_go(from.conn);
            return;
        }
        if let Some(exchange) = self.exchange_of(from) {
            exchange.upload = Upload::Discard;
        }
        if let Some(conn) = self.conns.get_mut(from.conn) {
            conn.held = false;
        }
        self.wake(from.conn);
    }

    /// Nobody wants the connection that is being made for a fetch.
    pub(super) fn abandon_dial(&mut self, key: u32) {
        let Some(dial) = self.dials.get_mut(key as usize) else {
            return;
        };
        dial.fetch = None;
        if dial.pooled {
            // It may serve the next.
            return;
        }
        for id in std::mem::take(&mut dial.racing) {
            self.take_dialled(id);
            self.conns.kill(id);
        }
        self.dials.try_remove(key as usize);
    }

    /// Takes a connection from its group; its exchange goes, too.
    fn leave_upstream(&mut self, id: ConnId) -> Option<(Dialled, Option<Exchange<S>>)> {
        let dialled = self.take_dialled(id)?;
        let exchange = self.close_exchange(id);
        self.leave_group(&dialled, id);
        Some((dialled, exchange))
    }

    /// Its group counts a connection no longer.
    pub(super) fn leave_group(&mut self, dialled: &Dialled, id: ConnId) {
        let now = self.now;
        if let Some(upstream) = self
            .core
            .upstreams
            .get_mut(dialled.group)
            .filter(|_| dialled.pooled)
        {
            upstream.pool.closed(dialled.server, id);
            if matches!(dialled.is, Is::Busy(_)) {
                upstream.ended(dialled.server, dialled.latency, now);
            }
        }
    }

    /// Closes a connection in the middle of an answer that nobody wants.
    pub(super) fn let_go(&mut self, id: ConnId) {
        if let Some((dialled, exchange)) = self.leave_upstream(id) {
            self.end_answered(&dialled, id, None);
            self.close_upstream(id, "its answer is not wanted");
            if let Some(exchange) = exchange {
                self.dissolve(exchange, Aborted::Connection);
            }
            self.run_group_soon(dialled.group);
        }
    }

    /// A fetch is over with the connection that its answer came on. `false`: none did.
    pub(super) fn end_answered(
        &mut self,
        dialled: &Dialled,
        id: ConnId,
        error: Option<FetchError>,
    ) -> bool {
        let Is::Busy(fetch) = dialled.is else {
            return false;
        };
        let fetching = self.core.fetches.get_mut(fetch);
        let came_here = |stage| matches!(stage, Stage::Answered(stream) if stream.conn == id);
        let is_answered = fetching.is_some_and(|fetching| came_here(fetching.stage));
        if is_answered {
            self.note_end(fetch, error);
            self.end_fetched(fetch);
        }
        is_answered
    }

    /// Takes a connection's record; the pool has forgotten it already, or never knew it.
    pub(super) fn take_dialled(&mut self, id: ConnId) -> Option<Dialled> {
        let key = self.conns.get(id)?.upstream()?;
        self.dialled.try_remove(key as usize)
    }

    /// Closes a connection that the pool has let go of.
    pub(super) fn close_upstream(&mut self, id: ConnId, why: &str) {
        self.take_dialled(id);
        if let Some(conn) = self.conns.get_mut(id) {
            log::debug!("{}: closed: {why}", conn.peer);
            conn.backlog.clear();
        }
        self.conns.kill(id);
    }

    /// Ends a connection, whatever it was doing; whoever waits for it is told.
    pub(super) fn end_upstream(&mut self, id: ConnId, error: FetchError) {
        let peer = self.conns.get(id).map_or(Peer::Unix, |conn| conn.peer);
        let sent = self.sent(id);
        let Some((dialled, exchange)) = self.leave_upstream(id) else {
            return;
        };
        let (group, server) = (dialled.group, dialled.server);
        self.close_upstream(id, "its record is gone");
        if let Is::Connecting(key) = dialled.is {
            if let Some(dial) = self.dials.get_mut(key as usize) {
                dial.racing.retain(|other| *other != id);
                if let Peer::Inet(address) = peer {
                    dial.race.failed(&Target::Inet(address));
                }
                dial.why = error;
            }
            return self.race(key);
        }
        if let Is::Busy(fetch) = dialled.is {
            let stream = StreamRef {
                conn: id,
                stream: dialled.client.exchange(),
            };
            let reached = Reached {
                sent,
                seen: dialled.client.has_seen(),
                reused: dialled.served > 1,
            };
            let is_answered = self.end_answered(&dialled, id, Some(error.clone()));
            if is_answered {
                self.note_failure(group, server, &error);
            }
            if let Some(exchange) = exchange {
                self.dissolve(exchange, Aborted::Connection);
            }
            if !is_answered {
                let attempt = Try::Sent(stream);
                self.fail_try(fetch, attempt, server, error, reached);
            }
        }
        self.run_group_soon(group);
    }
}
