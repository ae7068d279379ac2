//! Floor 3. What callbacks asked for while the loop's own fields were out of their reach. The only
//! place where one connection acts on another.
//!
//! Jobs come before commands, so that whatever a callback set up (a sink, an abort callback) is in
//! place when what it did (an answer) has consequences. A command for an exchange that is over is
//! ignored: its stream reference names nothing any more.

use super::Reactor;
use super::exchange::{Exchange, Upload};
use crate::app::body::Body;
use crate::app::ctx::Job;
use crate::app::failure::{Failure, FailureKind};
use crate::app::outbox::{Command, Flow, Reply};
use crate::app::response::Tx;
use crate::app::stream::Aborted;
use crate::base::backlog::{LARGE, Output};
use crate::base::id::{ConnId, StreamRef};
use crate::net::Net;
use crate::proto::h1::answer::FieldBlock;
use http::StatusCode;
use std::rc::Rc;

impl<N: Net, S: 'static> Reactor<N, S> {
    /// Applies everything queued, and what that queues in turn, within the turn's budget; the rest
    /// is the next turn's. Callbacks left for later have a budget of theirs, so that one that leaves another, for ever, keeps
    /// nobody waiting. Then tasks are polled, within a third: a flood of timers keeps none waiting.
    pub(super) fn settle(&mut self) {
        if std::mem::replace(&mut self.settling, true) {
            return;
        }
        loop {
            let has_budget = self.commands_left > 0;
            if has_budget && let Some(job) = self.core.jobs.pop_front() {
                match job {
                    Job::Call(..) if self.calls_left == 0 => self.late.push_back(job),
                    Job::Call(..) => {
                        self.calls_left -= 1;
                        self.settle_job(job);
                    }
                    _ => {
                        self.commands_left -= 1;
                        self.settle_job(job);
                    }
                }
            } else if has_budget && let Some(command) = self.outbox.pop() {
                self.commands_left -= 1;
                self.settle_command(command);
            } else if !self.core.jobs.is_empty() || !self.outbox.is_empty() || !self.poll_next() {
                break;
            }
        }
        self.settling = false;
    }

    fn settle_job(&mut self, job: Job<S>) {
        match job {
            Job::Sink { from, sink } => {
                match self.exchange_of(from).map(|exchange| &exchange.upload) {
                    None => self.end_body(sink, Err(Aborted::Answered)),
                    // There was none.
                    Some(Upload::Done) => self.end_body(sink, Ok(Default::default())),
                    Some(_) => self.take_body(from, Upload::Sink(sink)),
                }
            }
            Job::OnAbort { id, call } => {
                // Whoever asks, or is heard, when nobody waits any more is told at once.
                let waits = self.exchange_of(id.to).is_some_and(|exchange| {
                    exchange.served().is_none_or(|served| !served.told_gone)
                });
                match self.exchange_of(id.to) {
                    Some(exchange) if waits => exchange.on_abort.push((id.n, call)),
                    _ => self.call("an abort callback", call),
                }
            }
            Job::ForgetAbort(id) => {
                if let Some(exchange) = self.exchange_of(id.to)
                    && let Some(at) = exchange.on_abort.iter().position(|(n, _)| *n == id.n)
                {
                    drop(exchange.on_abort.remove(at));
                }
            }
            Job::OnDrain { to, call } => {
                if let Some(exchange) = self.exchange_of(to) {
                    exchange.on_drain.push(call);
                    self.wake(to.conn);
                }
            }
            Job::Call(who, call) => self.call(who, call),
            Job::Fetch(fetch) => self.begin_fetch(fetch),
            Job::RunGroup(group) => self.run_group(group),
            Job::LookedUp {
                group,
                name,
                result,
            } => self.looked_up(group, name, result),
            Job::StartBus => self.with_bus(|bus, cx| bus.start(cx)),
            Job::Published(publication) => {
                self.with_bus(|bus, cx| bus.publish(cx, &publication));
            }
            Job::Wanted { pattern, wanted } => {
                self.with_bus(|bus, cx| bus.wanted(cx, &pattern, wanted));
            }
            Job::Introduce(peer) => self.with_bus(|bus, cx| bus.meet(cx, peer)),
            Job::Socket(new) => self.open_socket(*new),
            Job::Link { from, link } => self.begin_link(from, link),
            Job::Offload { work, slot } => {
                if !self.net.offload(work) {
                    self.finish_offload(slot, false);
                }
            }
        }
    }

    fn settle_command(&mut self, command: Command) {
        match command {
            Command::Respond { to, reply } => self.respond(to, reply),
            Command::Begin {
                to,
                status,
                fields,
                length,
                flow,
            } => self.begin(to, status, fields, length, flow),
            Command::Chunk { to, bytes } => self.write_piece(to, Body::Owned(bytes)),
            Command::End { to, trailers } => self.end_answer(to, &trailers),
            Command::Abort { to } => self.abort_answer(to),
            Command::Unanswered { to, fields } => {
                self.unanswered(
                    to,
                    fields,
                    unanswered("the responder was dropped unanswered"),
                );
            }
            Command::CancelTask(task) => self.cancel_task(task, false),
            Command::ClientLeft(task) => self.cancel_task(task, true),
            Command::Pipe { from, to } => self.pipe(from, to),
            Command::Discard { from } if self.is_asked(from) => self.discard_answer(from),
            Command::Discard { from } => self.take_body(from, Upload::Discard),
            Command::Cancel { fetch } => self.cancel_fetch(fetch),
            Command::Tunnel { from, to, fields } => self.join_tunnel(from, to, &fields),
            Command::Resume { from } => self.resume(from),
            Command::Socket { to, act } => self.settle_socket(to, act),
            Command::Link { to, act } => self.settle_link(to, act),
        }
    }

    /// Lets `f` write to an exchange's connection.
    pub(super) fn with_tx(&mut self, id: ConnId, f: impl FnOnce(&mut Tx<'_>)) {
        let own = self.address(id);
        if let Some(conn) = self.conns.get_mut(id) {
            let cork = match own {
                true => &mut self.cork,
                false => &mut self.spare,
            };
            f(&mut tx!(self, conn, cork));
        }
        self.addressed(id);
    }

    /// Where output for this connection is gathered from here on: `true` is the cork, for it is the running one,
    /// and `false` the spare. When it is written, [`Reactor::addressed`] is told.
    pub(super) fn address(&mut self, id: ConnId) -> bool {
        let own = self.running == Some(id);
        if !own && self.partner != Some(id) {
            self.part();
            self.partner = Some(id);
        }
        own
    }

    /// Something was written: the running connection and its partner see to it themselves.
    pub(super) fn addressed(&mut self, id: ConnId) {
        match self.running {
            Some(_) => self.wake(id),
            None => self.part(),
        }
    }

    /// Moves what was gathered for the partner to where it belongs.
    pub(super) fn part(&mut self) {
        let Some(id) = self.partner.take() else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(id) {
            Output {
                cork: &mut self.spare,
                backlog: &mut conn.backlog,
            }
            .seal();
        }
        self.spare.clear();
        self.wake(id);
    }

    pub(super) fn is_waiting(&mut self, to: StreamRef) -> bool {
        self.exchange_of(to).is_some()
            && self
                .conns
                .get(to.conn)
                .is_some_and(|conn| conn.http.is_waiting())
    }

    fn respond(&mut self, to: StreamRef, reply: Reply) {
        if !self.is_waiting(to) {
            return;
        }
        if let Some(fault) = reply.fields.fault() {
            let failure = Failure::new(FailureKind::Header, fault);
            return self.unanswered(to, reply.fields, failure);
        }
        let Reply {
            status,
            fields,
            body,
        } = reply;
        self.with_tx(to.conn, |tx| tx.send(status, &fields, body));
        self.complete(to.conn, false);
    }

    fn begin(
        &mut self,
        to: StreamRef,
        status: StatusCode,
        fields: FieldBlock,
        length: Option<u64>,
        flow: Rc<Flow>,
    ) {
        if !self.is_waiting(to) {
            flow.closed.set(true);
            return;
        }
        if let Some(fault) = fields.fault() {
            flow.closed.set(true);
            let failure = Failure::new(FailureKind::Header, fault);
            return self.unanswered(to, fields, failure);
        }
        let follows = self.output_of(to.conn) > 0;
        self.with_tx(to.conn, |tx| tx.begin(status, &fields, length));
        if let Some(exchange) = self.exchange_of(to) {
            exchange.flow = Some(flow);
            exchange.follows = follows;
            for from in std::mem::take(&mut exchange.feeders) {
                self.resume(from);
            }
        }
    }

    /// A piece of a streamed answer. One that is over `limits.output` is not queued: the answer is broken off.
    pub(super) fn write_piece(&mut self, to: StreamRef, bytes: Body<'_>) {
        let Some(exchange) = self.exchange_of(to) else {
            return;
        };
        let Some(flow) = exchange.flow.clone() else {
            return;
        };
        let waits = self.output_of(to.conn);
        let Some(conn) = self.conns.get(to.conn) else {
            return;
        };
        let len = usize::try_from(bytes.len()).unwrap_or(usize::MAX);
        if !conn.ours && conn.http.sends_body() && waits.saturating_add(len) > self.limits.output {
            log::warn!(
                "{}: {waits} bytes wait for a client, and {len} more are over limits.output = {}: wait for the writer's Demand",
                conn.peer,
                self.limits.output
            );
            return self.break_off(to);
        }
        self.put_piece(to.conn, bytes);
        let waits = self.output_of(to.conn);
        flow.buffered.set(waits.max(flow.buffered.get()));
    }

    /// Frames a piece of a body, as the connection's protocol has it.
    fn put_piece(&mut self, id: ConnId, bytes: Body<'_>) {
        let own = self.address(id);
        let mut after: &[u8] = b"";
        if let Some(conn) = self.conns.get_mut(id) {
            let key = conn.upstream().map(|key| key as usize);
            let out = &mut Output {
                cork: match own {
                    true => &mut self.cork,
                    false => &mut self.spare,
                },
                backlog: &mut conn.backlog,
            };
            let dialled = key.and_then(|key| self.dialled.get_mut(key));
            let frame = |len, out: &mut Vec<u8>| match dialled {
                Some(dialled) => dialled.client.frame_body(len, out),
                None => conn.http.frame_body(len, out),
            };
            let n;
            match bytes {
                Body::Owned(bytes) => {
                    (n, after) = frame(bytes.len(), out.cork);
                    out.put_shared(bytes.slice(..n));
                }
                Body::Borrowed(bytes) => {
                    (n, after) = frame(bytes.len(), out.cork);
                    match n >= LARGE && !own {
                        true => self.write_through(id, &bytes[..n]),
                        false => out.cork.extend_from_slice(&bytes[..n]),
                    }
                }
                // Nobody sends these in pieces.
                Body::File(_) | Body::Parts(_) => {}
            }
        }
        match own {
            true => self.cork.extend_from_slice(after),
            false => self.spare.extend_from_slice(after),
        }
        self.addressed(id);
    }

    /// What waits to be sent on a connection, that of its present run included.
    pub(super) fn output_of(&self, id: ConnId) -> usize {
        let id_is = |other: Option<ConnId>| other == Some(id);
        let corked = match (id_is(self.running), id_is(self.partner)) {
            (true, _) => self.cork.len(),
            (false, true) => self.spare.len(),
            (false, false) => 0,
        };
        let conn = self.conns.get(id);
        conn.map_or(0, |conn| conn.backlog.bytes()) + corked
    }

    /// Ends a streamed answer of which too much waits. Its own pieces are worth nothing now, and go with
    /// it; but if whole answers may wait before them, all of it goes out.
    fn break_off(&mut self, to: StreamRef) {
        let is_alone = self
            .exchange_of(to)
            .is_some_and(|exchange| !exchange.follows);
        if self.partner == Some(to.conn) {
            self.part();
        }
        if is_alone && let Some(conn) = self.conns.get_mut(to.conn) {
            conn.backlog.clear();
        }
        self.give_up(to.conn, "over limits.output");
    }

    /// The end of a streamed answer.
    pub(super) fn end_answer(&mut self, to: StreamRef, trailers: &FieldBlock) {
        if self.is_asked(to) {
            return self.end_request(to);
        }
        if self.exchange_of(to).is_none()
            || !self
                .conns
                .get(to.conn)
                .is_some_and(|conn| conn.http.is_streaming())
        {
            return;
        }
        let mut is_whole = false;
        self.with_tx(to.conn, |tx| is_whole = tx.end(trailers.lines()));
        self.complete(to.conn, !is_whole);
    }

    /// An answer that cannot be completed. One that has not begun can still say so.
    pub(super) fn abort_answer(&mut self, to: StreamRef) {
        if self.is_asked(to) {
            return self.cut(to.conn, "its request was aborted");
        }
        if self.is_waiting(to) {
            let failure = unanswered("the answer was aborted");
            return self.unanswered(to, FieldBlock::default(), failure);
        }
        if self.exchange_of(to).is_some() {
            self.give_up(to.conn, "its answer was aborted");
        }
    }

    pub(super) fn unanswered(&mut self, to: StreamRef, fields: FieldBlock, failure: Failure) {
        if !self.is_waiting(to) {
            return;
        }
        let Some(served) = self.exchange_of(to).and_then(Exchange::served) else {
            return;
        };
        let start = served.start;
        let ask = !std::mem::replace(&mut served.failed, true);
        self.fields = fields;
        // `fail` writes into the cork, which is another connection's unless this one is running.
        let own = self.address(to.conn);
        if !own {
            std::mem::swap(&mut self.cork, &mut self.spare);
        }
        let answered = self.fail(to.conn, start, failure, ask);
        if !own {
            std::mem::swap(&mut self.cork, &mut self.spare);
        }
        self.addressed(to.conn);
        if answered {
            self.complete(to.conn, false);
        }
        self.wake(to.conn);
    }

    /// Somebody takes the body, or nobody ever will.
    pub(super) fn take_body(&mut self, from: StreamRef, upload: Upload<S>) {
        // Where it is piped to has to be there; until then it is held.
        let (is_wanted, is_ready) = match upload {
            Upload::Discard => (false, false),
            Upload::Pipe(to) => (
                true,
                self.exchange_of(to)
                    .is_none_or(|target| target.flow.is_some()),
            ),
            _ => (true, true),
        };
        match self.exchange_of(from) {
            Some(exchange) if matches!(exchange.upload, Upload::Undecided) => {
                exchange.upload = upload
            }
            _ => return,
        }
        if is_wanted {
            self.with_tx(from.conn, |tx| tx.protocol.want_body(tx.out.cork));
        }
        // One that is discarded is not read before the answer: with that is decided whether it pays.
        self.hold(from.conn);
        if is_ready {
            self.resume(from);
        }
    }

    fn pipe(&mut self, from: StreamRef, to: StreamRef) {
        match self.exchange_of(from) {
            Some(exchange) if matches!(exchange.upload, Upload::Done) => {
                // Its answer has yet to begin.
                self.outbox.push(Command::End {
                    to,
                    trailers: FieldBlock::default(),
                });
            }
            Some(_) => {
                self.take_body(from, Upload::Pipe(to));
                if let Some(target) = self.exchange_of(to).filter(|target| target.flow.is_none()) {
                    target.feeders.push(from);
                }
            }
            None => self.abort_answer(to),
        }
    }

    /// Reading of a body goes on.
    pub(super) fn resume(&mut self, from: StreamRef) {
        let now = self.now;
        if self
            .exchange_of(from)
            .is_none_or(|exchange| matches!(exchange.upload, Upload::Undecided | Upload::Discard))
        {
            return;
        }
        if let Some(conn) = self.conns.get_mut(from.conn)
            && conn.held
        {
            conn.held = false;
            conn.http.resume_body(now);
            if let Some(dialled) = self.dialled(from.conn) {
                dialled.client.resume_body(now);
            }
            self.wake(from.conn);
        }
    }

    /// Reading of `from` stops if what was written to `to` is more than should wait.
    pub(super) fn hold_until_drained(&mut self, from: StreamRef, to: StreamRef) {
        let Some(target) = self.exchange_of(to) else {
            return;
        };
        let is_full = target.flow.as_ref().is_some_and(|flow| flow.is_full());
        if is_full {
            target.feeders.push(from);
            self.hold(from.conn);
            self.wake(to.conn);
        }
    }
}

/// Nobody has answered.
fn unanswered(why: &str) -> Failure {
    Failure::new(FailureKind::Unanswered, why)
}
