//! Floor 3. Fetches: which server, which connection, the request's body, another try, the answer.
//!
//! ```text
//! asked ─► choose ─┬─ a connection is free ─► sent ─► head ─► answered ─► end
//!            ▲     ├─ one may be made ──────► dialling ─┘         then(Ok)
//!            │     └─ none may ─► queued ─► …
//!            └──── failed, and may be tried again ◄── sent, dialling      else: then(Err)
//! ```
//! Invariants: `then` is called at most once, and exactly once unless the fetch is cancelled; nothing of a
//! request goes out on two connections at a time but where it is hedged; a fetch that is over is in
//! nobody's queue, dial, or exchange.

use super::Reactor;
use super::exchange::{Exchange, Side, Upload};
use crate::app::body::Body;
use crate::app::ctx::Timer;
use crate::app::fetch::{FetchError, Fetched, Outgoing, Stage, Timings, Try};
use crate::app::group::Tried;
use crate::app::stream::Incoming;
use crate::base::clock::Instant;
use crate::base::id::{ConnId, FetchId, StreamRef};
use crate::net::Net;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::response::ResponseHead;
use crate::proto::http::list;
use crate::upstream::pool::Checkout;
use crate::upstream::retry::{self, Replay, Sent, Verdict};
use bytes::Bytes;

impl<N: Net, S: 'static> Reactor<N, S> {
    pub(super) fn begin_fetch(&mut self, id: FetchId) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        if let Some(why) = fetching.fetch.fault {
            return self.fail_fetch(id, FetchError::Request(why));
        }
        let group = match fetching.only {
            Some(_) => fetching.group,
            None => match self.core.upstreams.find(&fetching.name) {
                Some(group) => group,
                None => {
                    let name = (&*fetching.name).into();
                    return self.fail_fetch(id, FetchError::Unknown(name));
                }
            },
        };
        fetching.group = group;
        if let Some(upstream) = self.core.upstreams.get(group) {
            fetching.timings.upstream = upstream.name();
            // What may have arrived is not sent again if it must not be done twice.
            let keeps = match fetching.fetch.method.is_idempotent() {
                true => upstream.retries().replay,
                false => 0,
            };
            fetching.replay = Replay::new(keeps);
        }
        let is_check = fetching.only.is_some();
        if let Some(upstream) = self.core.upstreams.get_mut(group) {
            if !is_check {
                match upstream.enter() {
                    Ok(()) => fetching.entered = true,
                    Err(full) => return self.fail_fetch(id, full),
                }
            }
            upstream.deposit(self.now);
            let total = upstream.timeouts().total;
            if !total.is_zero()
                && let Some(fetching) = self.core.fetches.get_mut(id)
            {
                fetching.deadline = Some(fetching.begun + total);
                self.arm_fetch(id);
            }
        }
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        if let Outgoing::Stream(body) = &mut fetching.fetch.body {
            fetching.upload = Some(body.take_source());
        }
        if let Some(to) = fetching.fetch.answer {
            match self.exchange_of(to).and_then(Exchange::served) {
                Some(served) => served.fetch = Some(id),
                // Nobody waits any more.
                None => return self.cancel_fetch(id),
            }
        }
        self.try_fetch(id);
    }

    /// Finds a server and a connection, or a place in the queue.
    pub(super) fn try_fetch(&mut self, id: FetchId) {
        let now = self.now;
        // Those that have as many connections as they may.
        let mut full = Tried::new();
        loop {
            let Some(fetching) = self.core.fetches.get_mut(id) else {
                return;
            };
            let group = fetching.group;
            if let Some(server) = fetching.only {
                return self.dial(group, server, Some(id), false);
            }
            let (key, sticky) = (fetching.fetch.key, fetching.fetch.sticky);
            let passed: Tried = fetching.tried.iter().chain(&full).copied().collect();
            let chosen = self.core.upstreams.with(group, |upstream, rng| {
                let sticky = sticky.and_then(|tag| upstream.numbered(tag));
                upstream.choose(key, sticky, &passed, now, rng)
            });
            let Some(server) = chosen.flatten() else {
                if !full.is_empty() {
                    return self.queue_fetch(id, group);
                }
                if !std::mem::take(&mut fetching.tried).is_empty() {
                    // There is nobody else: those that were tried may do better now.
                    continue;
                }
                return self.fail_fetch(id, FetchError::NoServer("all are down"));
            };
            let Some(upstream) = self.core.upstreams.get_mut(group) else {
                return;
            };
            match upstream.pool.checkout(server, now) {
                Checkout::Reuse(conn) => {
                    // Its end may have come in the very poll whose events are being served.
                    let is_fresh = self.conns.get(conn).is_some_and(|conn| {
                        !conn.readable && !conn.read_closed && !conn.eof && conn.backlog.is_empty()
                    });
                    if is_fresh {
                        return self.send_on(conn, id);
                    }
                    self.end_upstream(conn, FetchError::Closed("the server closed it".into()));
                }
                Checkout::Connect => return self.dial(group, server, Some(id), true),
                Checkout::Full => full.push(server),
            }
        }
    }

    /// All that may be used have as many connections as they may.
    fn queue_fetch(&mut self, id: FetchId, group: usize) {
        let now = self.now;
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        match upstream.wait(id, None, now) {
            Ok(ticket) => {
                if let Some(fetching) = self.core.fetches.get_mut(id) {
                    fetching.stage = Stage::Queued(ticket);
                }
                self.arm_group(group);
            }
            Err(error) => self.fail_fetch(id, error),
        }
    }

    /// The body of a request whose head is out.
    pub(super) fn send_body(&mut self, id: FetchId, to: StreamRef) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        let (from, expects) = (fetching.upload, fetching.fetch.expects_continue);
        let whole = match &fetching.fetch.body {
            Outgoing::Nothing => Bytes::new(),
            Outgoing::Whole(bytes) => bytes.clone(),
            Outgoing::Stream(_) => {
                self.replay(id, to);
                return match from {
                    Some(from) if expects && !self.is_fed(id, from) => self.await_continue(id),
                    Some(from) => self.take_upload(id, from, to),
                    None => self.end_request(to),
                };
            }
        };
        if !whole.is_empty() {
            self.write_piece(to, Body::Owned(whole));
        }
        self.end_request(to);
    }

    /// Whether the client's body was asked for, at an earlier try.
    fn is_fed(&mut self, id: FetchId, from: StreamRef) -> bool {
        let upload = self.exchange_of(from).map(|exchange| &exchange.upload);
        matches!(upload, Some(Upload::Fetch(fetch)) if *fetch == id)
    }

    /// A server that never says so may want the body all the same: some do not know the expectation.
    fn await_continue(&mut self, id: FetchId) {
        let now = self.now;
        if let Some(fetching) = self.core.fetches.get_mut(id)
            && let Some(upstream) = self.core.upstreams.get(fetching.group)
        {
            fetching.body_at = Some(now + upstream.timeouts().expect);
            self.arm_fetch(id);
        }
    }

    /// What has come of a body before this try.
    fn replay(&mut self, id: FetchId, to: StreamRef) {
        let mut at = 0;
        while let Some(fetching) = self.core.fetches.get_mut(id)
            && at < fetching.replay.len()
        {
            let piece = fetching.replay.at(at);
            at += piece.len();
            self.write_piece(to, Body::Owned(piece));
        }
    }

    /// A request's body is sent on from here, as it comes.
    fn take_upload(&mut self, id: FetchId, from: StreamRef, to: StreamRef) {
        match self.exchange_of(from).map(|exchange| &exchange.upload) {
            // It has none, or all of it was there.
            Some(Upload::Done) => {
                if let Some(fetching) = self.core.fetches.get_mut(id) {
                    fetching.upload = None;
                }
                self.end_request(to);
            }
            Some(Upload::Fetch(_)) => self.resume(from),
            Some(_) => self.take_body(from, Upload::Fetch(id)),
            None => self.cancel_fetch(id),
        }
    }

    /// A piece of a body that is sent on.
    pub(super) fn feed(&mut self, id: FetchId, from: StreamRef, bytes: &[u8]) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        fetching.replay.push(bytes);
        // It is held while there is none.
        if let Some(to) = fetching.sent_on() {
            self.write_piece(to, Body::Borrowed(bytes));
            self.hold_until_drained(from, to);
        }
    }

    /// A body that is sent on is complete.
    pub(super) fn fed(&mut self, id: FetchId) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        fetching.upload = None;
        fetching.replay.finish();
        if let Some(to) = fetching.sent_on() {
            self.end_request(to);
        }
    }

    /// The upstream may have sent `100 Continue`, hints, or a word that it is at work.
    pub(super) fn on_interim(&mut self, id: ConnId, head: &ResponseHead<'_>) {
        let Some(fetch) = self.fetch_on(id) else {
            return;
        };
        let Some(fetching) = self.core.fetches.get_mut(fetch) else {
            return;
        };
        let (upload, sent, answer) = (fetching.upload, fetching.sent_on(), fetching.fetch.answer);
        if head.status == http::StatusCode::CONTINUE {
            fetching.body_at = None;
            if let (Some(from), Some(to)) = (upload, sent) {
                self.take_upload(fetch, from, to);
            }
            return;
        }
        if let Some(to) = answer {
            self.inform(to, head);
        }
    }

    /// Passes an interim answer on (RFC 9110 §15.2).
    fn inform(&mut self, to: StreamRef, head: &ResponseHead<'_>) {
        if !self.is_waiting(to) {
            return;
        }
        let mut fields = FieldBlock::default();
        // Of this connection alone (RFC 9110 §7.6.1), or meaningless in an interim answer.
        let own = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "content-length",
            "transfer-encoding",
            "upgrade",
            "trailer",
            "te",
        ];
        let is_named = |name: &str| {
            let mut options = head.fields.get_all("connection").flat_map(list);
            options.any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
        };
        for (name, value) in head.fields.iter() {
            if !own.iter().any(|own| name.eq_ignore_ascii_case(own)) && !is_named(name) {
                fields.push(name.as_bytes(), value);
            }
        }
        let status = head.status;
        self.with_tx(to.conn, |tx| {
            tx.protocol.inform(tx.out.cork, status, &fields)
        });
    }

    fn fetch_on(&mut self, id: ConnId) -> Option<FetchId> {
        match self.exchange_on(id)?.side {
            Side::Asked(fetch) => Some(fetch),
            Side::Served(_) => None,
        }
    }

    /// The head of an answer.
    pub(super) fn on_response(&mut self, id: ConnId, head: &ResponseHead<'_>) {
        let now = self.now;
        let Some(fetch) = self.fetch_on(id) else {
            return;
        };
        let Some((server, stream_number)) = self
            .dialled(id)
            .map(|dialled| (dialled.server, dialled.client.exchange()))
        else {
            return;
        };
        let Some(fetching) = self.core.fetches.get_mut(fetch) else {
            return;
        };
        let stream = StreamRef {
            conn: id,
            stream: stream_number,
        };
        if fetching.stage != Stage::Trying || !fetching.tries.contains(&Try::Sent(stream)) {
            return;
        }
        fetching.timings.first_byte = now - fetching.since;
        fetching.timings.status = head.status.as_u16();
        let (group, since, is_check) = (fetching.group, fetching.since, fetching.only.is_some());
        if !is_check && let Some(upstream) = self.core.upstreams.get_mut(group) {
            let changes = upstream.answered(server, head.status, now - since, now);
            upstream.tell(&changes);
        }
        if let Some(dialled) = self.dialled(id) {
            dialled.latency = Some(now - since);
        }
        if self.tries_again_after(fetch, server, head) {
            self.let_go(id);
            if let Some(fetching) = self.core.fetches.get_mut(fetch) {
                fetching
                    .tries
                    .retain(|attempt| *attempt != Try::Sent(stream));
                if fetching.tries.is_empty() {
                    self.try_fetch(fetch);
                }
            }
            return;
        }
        let Some(fetching) = self.core.fetches.get_mut(fetch) else {
            return;
        };
        fetching.stage = Stage::Answered(stream);
        (fetching.deadline, fetching.hedge_at, fetching.body_at) = (None, None, None);
        let losers = std::mem::take(&mut fetching.tries);
        fetching.tries.push(Try::Sent(stream));
        if let Some(timer) = fetching.timer.take() {
            self.core.timers.cancel(timer);
        }
        for loser in losers.into_iter().filter(|one| *one != Try::Sent(stream)) {
            self.stop_try(loser);
        }
        let Some(fetching) = self.core.fetches.get_mut(fetch) else {
            return;
        };
        let (timings, then) = (fetching.timings.clone(), fetching.then.take());
        // What is still to come of the request is of no use to anybody.
        let upload = fetching.upload.take();
        if let Some(from) = upload {
            self.end_upload(fetch, from);
            if let Some(dialled) = self.dialled(id) {
                dialled.client.give_up_request();
            }
        }
        let limit = self
            .core
            .upstreams
            .get(group)
            .map_or(0, |group| group.collect_limit());
        let body = Incoming::new(stream, self.outbox.clone()).limited(limit);
        if let Some(conn) = self.conns.get_mut(id) {
            // Until somebody says where its body goes.
            conn.held = true;
        }
        let fetched = Fetched {
            head,
            body,
            timings: &timings,
        };
        if let Some(then) = then {
            let mut cx = cx!(self);
            self.watch
                .guarded(&self.net, "the callback of a fetch", || {
                    then(&mut cx, Ok(fetched))
                });
        }
        self.settle();
    }

    /// Nobody takes the rest of a request's body.
    fn end_upload(&mut self, fetch: FetchId, from: StreamRef) {
        if let Some(exchange) = self.exchange_of(from)
            && matches!(exchange.upload, Upload::Fetch(id) if id == fetch)
        {
            exchange.upload = Upload::Discard;
            self.hold(from.conn);
        }
    }

    /// Whether another server is asked, though this one has answered.
    fn tries_again_after(&mut self, id: FetchId, server: usize, head: &ResponseHead<'_>) -> bool {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return false;
        };
        let Some(upstream) = self.core.upstreams.get_mut(fetching.group) else {
            return false;
        };
        if !upstream.retries().statuses.contains(&head.status.as_u16()) {
            return false;
        }
        let kind = retry::Failure::Status(head.status.as_u16());
        let attempt = fetching.attempt(kind, Sent::Whole, true);
        let verdict = upstream.verdict(&attempt, &mut fetching.again, self.now);
        match verdict {
            Verdict::Retry => {
                fetching.tried.push(server);
                true
            }
            Verdict::No(_) => false,
        }
    }

    /// A try has failed, with so much of its request sent; something of an answer was `seen`, or not.
    pub(super) fn fail_try(
        &mut self,
        id: FetchId,
        which: Try,
        server: usize,
        error: FetchError,
        sent: Sent,
        seen: bool,
    ) {
        let now = self.now;
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        let (group, is_check) = (fetching.group, fetching.only.is_some());
        if !is_check {
            self.note_failure(group, server, &error);
        }
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        let attempt = fetching.attempt(error.kind(fetching.timings.reused), sent, seen);
        // What was tried before is tried again only if there is nobody else.
        fetching.tried.push(server);
        fetching.tries.retain(|attempt| *attempt != which);
        if !fetching.tries.is_empty() {
            // The other one may do better.
            return;
        }
        let verdict = match is_check {
            true => Verdict::No("a look at its health"),
            false => upstream.verdict(&attempt, &mut fetching.again, now),
        };
        match verdict {
            Verdict::Retry => {
                log::debug!(
                    "upstream {}: tried again: {error}",
                    fetching.timings.upstream
                );
                (fetching.stage, fetching.body_at) = (Stage::Asked, None);
                if let Some(from) = fetching.upload {
                    self.hold(from.conn);
                }
                self.try_fetch(id);
            }
            Verdict::No(_) => self.fail_fetch(id, error),
        }
    }

    /// There will be no answer.
    pub(super) fn fail_fetch(&mut self, id: FetchId, error: FetchError) {
        self.note_end(id, Some(error.clone()));
        let Some(fetching) = self.core.end_fetch(id) else {
            return;
        };
        if let Some(from) = fetching.upload {
            self.end_upload(id, from);
        }
        if let Some(then) = fetching.then {
            let mut cx = cx!(self);
            self.watch
                .guarded(&self.net, "the callback of a fetch", || {
                    then(&mut cx, Err(error))
                });
        }
        self.settle();
    }

    /// Nobody wants it any more.
    pub(super) fn cancel_fetch(&mut self, id: FetchId) {
        let Some(fetching) = self.core.end_fetch(id) else {
            return;
        };
        if let Stage::Queued(ticket) = fetching.stage
            && let Some(upstream) = self.core.upstreams.get_mut(fetching.group)
        {
            upstream.pool.cancel(ticket);
        }
        for attempt in fetching.tries {
            self.stop_try(attempt);
        }
        if let Some(from) = fetching.upload {
            self.end_upload(id, from);
        }
    }

    /// A try is not wanted any more.
    fn stop_try(&mut self, attempt: Try) {
        match attempt {
            Try::Dialling(key) => self.abandon_dial(key),
            Try::Sent(stream) => {
                if self.is_asked(stream) {
                    self.let_go(stream.conn);
                }
            }
        }
    }

    /// Has the fetch's timer fire when it is to be hedged, or to be over.
    pub(super) fn arm_fetch(&mut self, id: FetchId) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        let dues = [fetching.hedge_at, fetching.body_at, fetching.deadline];
        let due = dues.into_iter().flatten().min();
        let timer = fetching.timer.take();
        if let Some(timer) = timer {
            self.core.timers.cancel(timer);
        }
        if let Some(due) = due {
            let timer = self.core.timers.insert(due, Timer::Fetch(id));
            if let Some(fetching) = self.core.fetches.get_mut(id) {
                fetching.timer = Some(timer);
            }
        }
    }

    pub(super) fn on_fetch_timer(&mut self, id: FetchId) {
        let now = self.now;
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        fetching.timer = None;
        if fetching.deadline.is_some_and(|deadline| deadline <= now) {
            let (begun, tries) = (fetching.begun, std::mem::take(&mut fetching.tries));
            if let Stage::Queued(ticket) = fetching.stage
                && let Some(upstream) = self.core.upstreams.get_mut(fetching.group)
            {
                upstream.pool.cancel(ticket);
            }
            for attempt in tries {
                self.stop_try(attempt);
            }
            return self.fail_fetch(id, FetchError::Deadline(now - begun));
        }
        let is_due = |at: &mut Instant| *at <= now;
        let hedges = fetching.hedge_at.take_if(is_due).is_some();
        let sends = fetching.body_at.take_if(is_due).is_some();
        if sends && let (Some(from), Some(to)) = (fetching.upload, fetching.sent_on()) {
            self.take_upload(id, from, to);
        }
        if hedges {
            self.hedge(id);
        }
        self.arm_fetch(id);
    }

    /// Asks a second server, and sees which answers first (Dean and Barroso, The Tail at Scale, 2013).
    fn hedge(&mut self, id: FetchId) {
        let now = self.now;
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        fetching.hedged = true;
        let (group, key) = (fetching.group, fetching.fetch.key);
        let Some(stream) = fetching.sent_on() else {
            return;
        };
        let mut passed = fetching.tried.clone();
        let Some(first) = self.dialled(stream.conn).map(|dialled| dialled.server) else {
            return;
        };
        passed.push(first);
        let chosen = self.core.upstreams.with(group, |upstream, rng| {
            upstream.choose(key, None, &passed, now, rng)
        });
        let Some(server) = chosen.flatten() else {
            return;
        };
        let (Some(upstream), Some(fetching)) = (
            self.core.upstreams.get_mut(group),
            self.core.fetches.get_mut(id),
        ) else {
            return;
        };
        if upstream.may_spend(&mut fetching.again, now).is_err() {
            return;
        }
        match upstream.pool.checkout(server, now) {
            Checkout::Reuse(conn) => self.send_on(conn, id),
            Checkout::Connect => self.dial(group, server, Some(id), true),
            Checkout::Full => {}
        }
    }

    /// How a fetch has gone so far.
    pub(super) fn timings_of(&mut self, id: FetchId) -> Option<Box<Timings>> {
        let now = self.now;
        let fetching = self.core.fetches.get_mut(id)?;
        fetching.timings.total = now - fetching.begun;
        Some(Box::new(fetching.timings.clone()))
    }

    /// Tells the request that waits for it how a fetch went; it needs not be cancelled any more.
    pub(super) fn note_end(&mut self, id: FetchId, error: Option<FetchError>) {
        let now = self.now;
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        fetching.timings.total = now - fetching.begun;
        fetching.timings.error = error;
        let Some(to) = fetching.fetch.answer else {
            return;
        };
        let timings = fetching.timings.clone();
        if let Some(served) = self.exchange_of(to).and_then(Exchange::served) {
            served.fetch = None;
            // As the head, it is kept only if somebody will ask.
            served.upstream = served.head.is_some().then(|| Box::new(timings));
        }
    }
}
