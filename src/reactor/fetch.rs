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
use crate::app::fetch::{FetchError, Fetched, Outgoing, Reached, Stage, Timings, Try};
use crate::app::group::Tried;
use crate::app::stream::Incoming;
use crate::base::clock::Instant;
use crate::base::id::{ConnId, FetchId, StreamRef};
use crate::net::Net;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::body::Trailers;
use crate::proto::h1::response::ResponseHead;
use crate::proto::http::{list, names_fields};
use crate::upstream::pool::Checkout;
use crate::upstream::retry::{self, Replay, Verdict};
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
            fetching.replay = Replay::new(upstream.retries().replay);
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
            let has_left = match self.exchange_of(to).and_then(Exchange::served) {
                Some(served) => {
                    served.fetches.push(id);
                    served.told_gone
                }
                // Nobody waits any more.
                None => return self.cancel_fetch(id),
            };
            if has_left && self.aborts_on_close(id) {
                return self.give_up(to.conn, "the client left before it was answered");
            }
        }
        self.try_fetch(id);
    }

    /// Finds a server and a connection, or a place in the queue.
    pub(super) fn try_fetch(&mut self, id: FetchId) {
        let now = self.now;
        if let Err(full) = self.core.regroup_fetch(id) {
            return self.fail_fetch(id, full);
        }
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
            let is_last_resort = full.is_empty() && !fetching.tried.is_empty();
            let chosen = self.core.upstreams.with(group, |upstream, rng| {
                let sticky = sticky.and_then(|tag| upstream.numbered(tag));
                match upstream.choose(key, sticky, &passed, now, rng) {
                    None if is_last_resort => upstream.choose_ejected(key, &passed, now, rng),
                    chosen => chosen,
                }
            });
            let Some(server) = chosen.flatten() else {
                if !full.is_empty() {
                    return self.queue_fetch(id, group);
                }
                if !std::mem::take(&mut fetching.tried).is_empty() {
                    // There is nobody else: those that were tried may do better now.
                    continue;
                }
                return self.await_names(id, group);
            };
            let Some(upstream) = self.core.upstreams.get_mut(group) else {
                return;
            };
            let out = upstream.pool.checkout(server, now);
            match self.vet(group, server, id, out) {
                Checkout::Reuse(conn) => return self.send_on(conn, id),
                Checkout::Connect => return self.dial(group, server, Some(id), true),
                Checkout::Full => full.push(server),
            }
        }
    }

    /// There is nobody. That may be because nothing has been heard yet of the servers' names.
    fn await_names(&mut self, id: FetchId, group: usize) {
        let now = self.now;
        let (Some(fetching), Some(upstream)) = (
            self.core.fetches.get_mut(id),
            self.core.upstreams.get_mut(group),
        ) else {
            return;
        };
        if !upstream.is_resolving() {
            let why = upstream.why_none();
            return self.fail_fetch(id, FetchError::NoServer(why));
        }
        if let Err(full) = upstream.await_names(id) {
            return self.fail_fetch(id, full);
        }
        if !matches!(fetching.stage, Stage::Resolving { .. }) {
            let (since, by) = (now, now + upstream.timeouts().connect);
            fetching.stage = Stage::Resolving { since, by };
            self.arm_fetch(id);
        }
    }

    /// Something was heard of a name, or its upstream is gone.
    pub(super) fn resume_awaiting(&mut self, group: usize) {
        let now = self.now;
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        for id in upstream.take_awaiting() {
            let Some(fetching) = self.core.fetches.get_mut(id) else {
                continue;
            };
            if let Stage::Resolving { since, .. } = fetching.stage {
                fetching.timings.resolve = now - since;
            }
            self.try_fetch(id);
            self.arm_fetch(id);
        }
    }

    /// Its upstream may have been replaced: it waits for the new one then, if that has no connection for it.
    pub(super) fn requeue_fetch(&mut self, id: FetchId) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        if let Stage::Queued(ticket) = fetching.stage
            && let Some(upstream) = self.core.upstreams.get_mut(fetching.group)
            && upstream.is_retired()
        {
            upstream.pool.cancel(ticket);
            self.try_fetch(id);
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
            Outgoing::Stream(_) if fetching.replay.body() == retry::Body::Gone => {
                // What is left of it would look like the whole.
                let why = "the beginning of its body is not kept";
                return self.end_upstream(to.conn, FetchError::Request(why));
            }
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
        let to = fetching.sent_on().and_then(|to| self.conns.get(to.conn));
        if to.is_some_and(|to| to.wrote) && !fetching.fetch.method.is_idempotent() {
            // What may have arrived is not sent again if it must not be done twice.
            fetching.replay.give_up();
        } else if fetching.replay.body() != retry::Body::Gone {
            fetching.replay.push(bytes);
        }
        // It is held while there is none.
        if let Some(to) = fetching.sent_on() {
            self.write_piece(to, Body::Borrowed(bytes));
            self.hold_until_drained(from, to);
        }
    }

    /// A body that is sent on is complete.
    pub(super) fn fed(&mut self, id: FetchId, trailers: Trailers<'_>) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        fetching.upload = None;
        if fetching.fetch.sends_trailers {
            fetching.trailers = trailers.passing();
        }
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
        let Some(dialled) = self.dialled(id) else {
            return;
        };
        let (server, asked, reused) = (dialled.server, dialled.asked, dialled.served > 1);
        let stream_number = dialled.client.exchange();
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
        fetching.timings.first_byte = now - asked;
        fetching.timings.status = head.status.as_u16();
        let (group, is_check) = (fetching.group, fetching.only.is_some());
        if let Some(upstream) = self.core.upstreams.get_mut(group) {
            // It may have been asked twice.
            fetching.tell_server(upstream, server, reused);
            if !is_check {
                let changes = upstream.answered(server, head.status, now - asked, now);
                upstream.tell(&changes);
            }
        }
        if let Some(dialled) = self.dialled(id) {
            dialled.latency = Some(now - asked);
        }
        if self.tries_again_after(id, fetch, server, head) {
            self.let_go(id);
            if let Some(fetching) = self.core.fetches.get_mut(fetch) {
                fetching
                    .tries
                    .retain(|attempt| *attempt != Try::Sent(stream));
                if fetching.tries.is_empty() {
                    self.try_again(fetch);
                }
            }
            return;
        }
        let Some(fetching) = self.core.fetches.get_mut(fetch) else {
            return;
        };
        fetching.stage = Stage::Answered(stream);
        fetching.drops_trailers = names_fields(&head.fields);
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
        // It is not sent a second time.
        fetching.replay = Replay::new(0);
        let upload = fetching.upload;
        // What is still to come of the request is of no use to a server that says so (RFC 9112 §9.5), or that takes
        // nothing more. Any other that answers while it reads goes on with both.
        let is_refused = !head.keep_alive && head.status.as_u16() >= 400;
        let is_refused = is_refused || self.conns.get(id).is_some_and(|conn| conn.broken);
        if let Some(from) = upload
            && (is_refused || !self.is_fed(fetch, from))
        {
            self.end_upload(fetch, from);
            if let Some(fetching) = self.core.fetches.get_mut(fetch) {
                fetching.upload = None;
            }
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

    /// What follows the answer on this connection is not for others.
    pub(super) fn drops_trailers(&mut self, id: ConnId) -> bool {
        let fetch = self.fetch_on(id);
        let fetching = fetch.and_then(|fetch| self.core.fetches.get_mut(fetch));
        fetching.is_some_and(|fetching| fetching.drops_trailers)
    }

    /// Whether it ends with what its client has to say.
    pub(super) fn aborts_on_close(&mut self, id: FetchId) -> bool {
        let fetching = self.core.fetches.get_mut(id);
        fetching.is_some_and(|fetching| fetching.fetch.aborts_on_close)
    }

    /// A fetch is over with the end of its answer: whole, or broken off.
    pub(super) fn end_fetched(&mut self, id: FetchId) {
        let upload = self.core.end_fetch(id).and_then(|fetching| fetching.upload);
        if let Some(from) = upload {
            self.end_upload(id, from);
        }
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
    fn tries_again_after(
        &mut self,
        conn: ConnId,
        id: FetchId,
        server: usize,
        head: &ResponseHead<'_>,
    ) -> bool {
        let sent = self.sent(conn);
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
        let attempt = fetching.attempt(kind, sent, true);
        let verdict = upstream.verdict(&attempt, &mut fetching.again, self.now);
        match verdict {
            Verdict::Retry | Verdict::Free => {
                fetching.tried.push(server);
                true
            }
            Verdict::No(_) => false,
        }
    }

    /// A try has failed, and has come so far.
    pub(super) fn fail_try(
        &mut self,
        id: FetchId,
        which: Try,
        server: usize,
        error: FetchError,
        reached: Reached,
    ) {
        let now = self.now;
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        let (group, is_check) = (fetching.group, fetching.only.is_some());
        // A request that cannot be sent is no fault of the server.
        if !is_check && !matches!(error, FetchError::Request(_)) {
            self.note_failure(group, server, &error);
        }
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        let failure = error.kind(reached.reused);
        let attempt = fetching.attempt(failure, reached.sent, reached.seen);
        // Others that are idle, there or at another server, have been so for as long.
        fetching.was_stale |= failure == (retry::Failure::Reset { reused: true });
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
            Verdict::Retry | Verdict::Free => {
                log::debug!(
                    "upstream {}: tried again: {error}",
                    fetching.timings.upstream
                );
                self.try_again(id);
            }
            Verdict::No(_) => self.fail_fetch(id, error),
        }
    }

    /// Its last try is over, and another may be made. Until that is sent, nobody takes the request's body.
    fn try_again(&mut self, id: FetchId) {
        let Some(fetching) = self.core.fetches.get_mut(id) else {
            return;
        };
        (fetching.stage, fetching.body_at) = (Stage::Asked, None);
        self.hold_upload(id);
        self.try_fetch(id);
    }

    /// A request's body is not read at present: there is nobody to take it.
    fn hold_upload(&mut self, id: FetchId) {
        let fetching = self.core.fetches.get_mut(id);
        if let Some(from) = fetching.and_then(|fetching| fetching.upload)
            && self.is_fed(id, from)
        {
            self.hold(from.conn);
        }
    }

    /// A server takes nothing more of a request; it may have answered before that. Until that is known the rest of the
    /// body is left where it is: it may be another server's.
    pub(super) fn stop_request(&mut self, id: ConnId) {
        if let Some(dialled) = self.dialled(id) {
            dialled.client.give_up_request();
        }
        if let Some(fetch) = self.fetch_on(id) {
            self.hold_upload(fetch);
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
        let resolve_by = match fetching.stage {
            Stage::Resolving { by, .. } => Some(by),
            _ => None,
        };
        let dues = [
            fetching.hedge_at,
            fetching.body_at,
            fetching.deadline,
            resolve_by,
        ];
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
        if let Some(deadline) = fetching.deadline.filter(|deadline| *deadline <= now) {
            let limit = deadline - fetching.begun;
            let tries = std::mem::take(&mut fetching.tries);
            if let Stage::Queued(ticket) = fetching.stage
                && let Some(upstream) = self.core.upstreams.get_mut(fetching.group)
            {
                upstream.pool.cancel(ticket);
            }
            for attempt in tries {
                self.stop_try(attempt);
            }
            return self.fail_fetch(id, FetchError::Deadline(limit));
        }
        if let Stage::Resolving { since, by } = fetching.stage
            && by <= now
        {
            fetching.timings.resolve = now - since;
            let why = "nothing has been heard of its name within timeouts.connect";
            return self.fail_fetch(id, FetchError::NoServer(why));
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
        let out = upstream.pool.checkout(server, now);
        match self.vet(group, server, id, out) {
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
            served.fetches.retain(|fetch| *fetch != id);
            // As the head, it is kept only if somebody will ask.
            served.upstream = served.head.is_some().then(|| Box::new(timings));
        }
    }
}
