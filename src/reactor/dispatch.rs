//! Floor 3. From a protocol's event to a callback, and what follows from how it returned.
//!
//! ```text
//! on_request ─► middleware ─► endpoint ─┬─ answered ─► after middleware
//!     │                                 ├─ deferred ─► an Exchange waits
//!     └─ body to come: collect ─► …     └─ failed, panicked, dropped ─► the error hook, or a plain 500
//! ```

use super::Reactor;
use super::exchange::{Collect, Exchange, Start, Upload};
use crate::app::body::Body;
use crate::app::ctx::Ctx;
use crate::app::failure::{Failure, FailureKind};
use crate::app::request::{Params, Request};
use crate::app::response::{Fate, Response, Sending};
use crate::app::site::{Callbacks, Destination, Site};
use crate::app::stream::Aborted;
use crate::base::id::{ConnId, StreamRef};
use crate::net::Net;
use crate::proto::h1::Error;
use crate::proto::h1::head::{self, Head, HeadLimits};
use http::StatusCode;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Which callbacks a request meets now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its body has still to be collected.
    Middleware,
    /// Middleware has passed it, and the body is here.
    Endpoint,
    All,
}

/// How they returned.
struct Returned {
    fate: Fate,
    /// Middleware handed the response on, with this status, and nothing was called behind it.
    passed: Option<StatusCode>,
    failure: Option<Failure>,
}

/// The one place where an embedder's handler is called: everything it may touch, side by side.
struct Call<'a, S> {
    calls: &'a mut Callbacks<S>,
    before: &'a [usize],
    cx: Ctx<'a, S>,
    sending: Sending<'a>,
}

impl<S: 'static> Call<'_, S> {
    fn run(self, step: Step, target: &Destination, req: &Request<'_>) -> Returned {
        let Call {
            calls,
            before,
            mut cx,
            mut sending,
        } = self;
        let (fate, mut passed) = (sending.fate, None);
        let res = Response {
            sending: &mut sending,
        };
        let passed_on = &mut passed;
        let result = catch_unwind(AssertUnwindSafe(move || {
            let res = match step {
                Step::Endpoint => Some(res),
                Step::All | Step::Middleware => calls.before(before, &mut cx, req, res),
            };
            match (res, step) {
                (None, _) => None,
                (Some(res), Step::Middleware) => {
                    *passed_on = Some(res.sending.status);
                    None
                }
                (Some(res), _) => {
                    res.sending.fields.set_mark();
                    calls.endpoint(target, &mut cx, req, res)
                }
            }
        }));
        let failure = result.unwrap_or_else(|payload| Some(Failure::panic(payload)));
        Returned {
            fate: fate.get(),
            passed,
            failure,
        }
    }
}

/// Borrows what a [`Call`] needs from the fields of the reactor, each on its own.
macro_rules! call {
    ($self:ident, $calls:expr, $conn:ident, $to:expr, $status:expr, $fate:expr, $before:expr) => {
        Call {
            calls: $calls,
            before: $before,
            cx: cx!($self),
            sending: Sending {
                tx: tx!($self, $conn, &mut $self.cork),
                fields: &mut $self.fields,
                scratch: &mut $self.scratch,
                fate: $fate,
                outbox: &$self.outbox,
                to: $to,
                status: $status,
            },
        }
    };
}

impl<N: Net, S: 'static> Reactor<N, S> {
    /// A request's head has arrived. `input` begins with its body.
    pub(super) fn on_request(&mut self, id: ConnId, head: &Head<'_>, input: &mut &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let number = self.sites.number();
        let Site { table, calls, .. } = &mut self.sites.current;
        let mut params = Params::new();
        let target = table.find(head, &mut params);
        let waited_us = match table.has_after {
            true => u32::try_from((self.net.now() - self.now).as_micros()).unwrap_or(u32::MAX),
            false => 0,
        };
        let start = Start {
            site: number,
            key: target.key,
            request_id: self.core.next_request_id(),
            at: self.now,
            waited_us,
        };
        let limit = table.body_limit(target.key).unwrap_or(self.limits.body);
        let whole = match conn.http.limit_body(limit) {
            Ok(()) if table.wants_whole_body(target.key) => conn.http.take_whole_body(input),
            Ok(()) => None,
            Err(error) => {
                drop(params);
                self.refuse(id, error);
                return self.report(id, start, head, false, None);
            }
        };
        let must_collect = whole.is_none() && table.wants_whole_body(target.key);
        let req = Request {
            head,
            params: &params,
            body: whole
                .filter(|_| !table.ignores_body(target.key))
                .unwrap_or(b""),
            peer: conn.peer,
            id: start.request_id,
            route: table.pattern(target.key),
        };
        self.fields.clear();
        let to = StreamRef {
            conn: id,
            stream: conn.http.exchange(),
        };
        let step = if must_collect {
            Step::Middleware
        } else {
            Step::All
        };
        let fate = Cell::new(Fate::Unanswered);
        let before = table.before(target.key);
        let begun = self.net.coarse_now();
        let call = call!(self, calls, conn, to, StatusCode::OK, &fate, before);
        let returned = call.run(step, &target, &req);
        self.watch
            .over(&self.net, begun, || format!("route {:?}", req.route));
        drop(params); // they borrow the table, which the consequences may need
        match returned.passed {
            Some(status) => self.collect(id, head, start, status),
            None => self.on_returned(id, head, start, returned),
        }
    }

    /// Middleware has passed a request whose handler wants the whole body: wait for it.
    fn collect(&mut self, id: ConnId, head: &Head<'_>, start: Start, status: StatusCode) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.http.want_body(&mut self.cork);
        let fields = self.fields.clone();
        let collect = Collect {
            ignores_body: self.sites.current.table.ignores_body(start.key),
            raw: head.raw.to_vec(),
            body: Vec::new(),
            fields,
            status,
        };
        self.open_exchange(id, head, start, Upload::Collect(Box::new(collect)));
    }

    /// The body has come.
    pub(super) fn on_collected(&mut self, id: ConnId, collect: Collect) {
        let Some(exchange) = self.close_exchange(id) else {
            return;
        };
        let to = exchange.stream;
        let Some(start) = exchange.start() else {
            return;
        };
        let (Some(conn), Some(site)) = (self.conns.get_mut(id), self.sites.of(start.site)) else {
            return;
        };
        let mut slots = head::slots();
        // It has been parsed before, so it will be again.
        let read = head::read(&collect.raw, &mut 0, true, &mut slots, &HeadLimits::NONE);
        let Ok(Some(head)) = read else { return };
        let Site { table, calls, .. } = site;
        let mut params = Params::new();
        let target = table.find(&head, &mut params);
        let req = Request {
            head: &head,
            params: &params,
            body: &collect.body,
            peer: conn.peer,
            id: start.request_id,
            route: table.pattern(target.key),
        };
        self.fields = collect.fields;
        let fate = Cell::new(Fate::Unanswered);
        let begun = self.net.coarse_now();
        let call = call!(self, calls, conn, to, collect.status, &fate, &[]);
        let returned = call.run(Step::Endpoint, &target, &req);
        self.watch
            .over(&self.net, begun, || format!("route {:?}", req.route));
        drop(params);
        self.on_returned(id, &head, start, returned);
    }

    fn on_returned(&mut self, id: ConnId, head: &Head<'_>, start: Start, returned: Returned) {
        let failure = match (returned.fate, returned.failure) {
            (Fate::Answered, None) => {
                return self.report(id, start, head, false, None);
            }
            (Fate::Deferred, failure) => {
                if let Some(failure) = failure {
                    // Its responder may live on, in a timer or a query: only the log hears of it.
                    self.log_failure(start, &failure);
                }
                return self.open_exchange(id, head, start, Upload::Undecided);
            }
            (Fate::Answered, Some(failure)) => {
                self.log_failure(start, &failure);
                return self.report(id, start, head, false, None);
            }
            (Fate::Faulty(why), None) => Failure::new(FailureKind::Header, why),
            (Fate::Unanswered, None) => Failure::new(
                FailureKind::Unanswered,
                "the handler returned without an answer",
            ),
            (Fate::Faulty(_) | Fate::Unanswered, Some(failure)) => failure,
        };
        if self.fail(id, start, failure, true) {
            self.report(id, start, head, false, None);
        } else {
            self.open_exchange(id, head, start, Upload::Undecided);
            if let Some(served) = self.exchange_on(id).and_then(Exchange::served) {
                served.failed = true;
            }
        }
    }

    pub(super) fn log_failure(&mut self, start: Start, failure: &Failure) {
        let site = self.sites.of(start.site);
        let route = site.map_or("", |site| site.table.pattern(start.key));
        log::error!(
            "{}: route {route:?}: {}",
            start.request_id,
            failure.message()
        );
    }

    /// Answers for a callback that has not, with the fields that middleware had set (they are in
    /// `self.fields`, up to their mark): with the error hook's page if it `may_ask` for one, else a
    /// plain one. `false`: the hook has deferred its answer.
    pub(super) fn fail(
        &mut self,
        id: ConnId,
        start: Start,
        mut failure: Failure,
        may_ask: bool,
    ) -> bool {
        failure.request_id = Some(start.request_id);
        if failure.status.is_server_error() {
            self.log_failure(start, &failure);
        }
        let (Some(conn), Some(site)) = (self.conns.get_mut(id), self.sites.of(start.site)) else {
            return true;
        };
        let to = StreamRef {
            conn: id,
            stream: conn.http.exchange(),
        };
        let fate = Cell::new(Fate::Unanswered);
        self.fields.reset_to_mark();
        let Site { table, calls, .. } = site;
        if let Some(hook) = table.on_error(start.key).filter(|_| may_ask) {
            let call = call!(self, calls, conn, to, failure.status, &fate, &[]);
            let Call {
                calls,
                mut cx,
                mut sending,
                ..
            } = call;
            let res = Response {
                sending: &mut sending,
            };
            self.watch.guarded(&self.net, "the error hook", || {
                calls.error(hook, &mut cx, &failure, res)
            });
        }
        match fate.get() {
            Fate::Deferred => return false,
            Fate::Answered => return true,
            Fate::Unanswered | Fate::Faulty(_) => {}
        }
        self.fields.reset_to_mark();
        self.fields.default_text();
        let Some(conn) = self.conns.get_mut(id) else {
            return true;
        };
        let mut tx = tx!(self, conn, &mut self.cork);
        tx.send(
            failure.status,
            &self.fields,
            Body::from(failure.public_text()),
        );
        true
    }

    /// Refuses what a client sends, as its protocol says, and takes no more of it.
    pub(super) fn refuse(&mut self, id: ConnId, error: Error) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        log::info!(
            "{}: refused with {}: {error}",
            conn.peer,
            error.status().as_u16()
        );
        if conn.http.is_streaming() {
            return self.give_up(id, "its request went wrong while it was being answered");
        }
        self.with_tx(id, |tx| tx.protocol.refuse(error, tx.out.cork, tx.stock));
        let too_large = matches!(error, Error::BodyTooLarge { .. });
        let why = if too_large {
            Aborted::TooLarge
        } else {
            Aborted::Connection
        };
        self.retire(id, why, false);
        self.wake(id);
    }
}
