//! Floor 3. An exchange that outlives its callback: deferred, streamed, or waiting for its body.
//!
//! The synchronous path never makes one. Made when a callback returns without having answered,
//! taken away when the answer is complete or the connection is gone; whatever waits for it (sinks,
//! abort and drain callbacks, uploads piped into it) is told then.

use super::Reactor;
use crate::app::ctx::Callback;
use crate::app::fetch::Timings;
use crate::app::outbox::Flow;
use crate::app::routes::Done;
use crate::app::site::RouteKey;
use crate::app::stream::{Aborted, BodySink};
use crate::base::clock::Instant;
use crate::base::id::{ConnId, FetchId, RequestId, StreamRef};
use crate::net::Net;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::head::{self, Head, HeadLimits};
use http::StatusCode;
use smallvec::SmallVec;
use std::rc::Rc;
use std::time::Duration;

/// What is known of a request from its head on.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// The site it began with, whatever has replaced that since.
    pub(crate) site: u32,
    pub(crate) key: RouteKey,
    pub(crate) request_id: RequestId,
    pub(crate) at: Instant,
    /// From then to its first callback; measured only if somebody will ask.
    pub(crate) waited_us: u32,
}

pub(crate) struct Exchange<S> {
    pub(crate) stream: StreamRef,
    pub(crate) side: Side,
    pub(crate) upload: Upload<S>,
    /// The credit of its streamed answer.
    pub(crate) flow: Option<Rc<Flow>>,
    /// Output of answers before its streamed one may still wait.
    pub(crate) follows: bool,
    pub(crate) on_abort: Vec<(u64, Callback<S>)>,
    pub(crate) on_drain: Vec<Callback<S>>,
    /// Uploads that wait for this answer to drain.
    pub(crate) feeders: SmallVec<[StreamRef; 1]>,
}

/// Whose request it is.
pub(crate) enum Side {
    /// A client's, and it waits for our answer.
    Served(Served),
    /// Ours, and `upload` is the answer's body.
    Asked(FetchId),
}

pub(crate) struct Served {
    pub(crate) start: Start,
    /// The head, kept only if somebody will ask.
    pub(crate) head: Option<Vec<u8>>,
    /// The client has said it sends no more; `on_abort` has been told.
    pub(crate) told_gone: bool,
    /// The error hook has been asked already.
    pub(crate) failed: bool,
    /// What it asks of upstreams, and has no use for once it is over.
    pub(crate) fetches: SmallVec<[FetchId; 2]>,
    /// How the last of them went, for the log.
    pub(crate) upstream: Option<Box<Timings>>,
}

impl<S> Exchange<S> {
    pub(crate) fn served(&mut self) -> Option<&mut Served> {
        match &mut self.side {
            Side::Served(served) => Some(served),
            Side::Asked(_) => None,
        }
    }

    pub(crate) fn start(&self) -> Option<Start> {
        match &self.side {
            Side::Served(served) => Some(served.start),
            Side::Asked(_) => None,
        }
    }
}

/// Where the request's body goes.
pub(crate) enum Upload<S> {
    /// Nobody has said yet: the socket waits.
    Undecided,
    /// Into memory, for a handler that wants it whole.
    Collect(Box<Collect>),
    Sink(Box<dyn BodySink<S>>),
    /// Into this exchange's answer.
    Pipe(StreamRef),
    /// On to an upstream.
    Fetch(FetchId),
    /// Nowhere.
    Discard,
    /// Complete.
    Done,
}

/// What a handler needs once its body is whole: the head again, and what middleware has set.
pub(crate) struct Collect {
    /// The body is only waited for.
    pub(crate) ignores_body: bool,
    pub(crate) raw: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) fields: FieldBlock,
    pub(crate) status: StatusCode,
}

impl<N: Net, S: 'static> Reactor<N, S> {
    /// An answer is being waited for: remember for what, and who wants to know.
    pub(super) fn open_exchange(
        &mut self,
        id: ConnId,
        head: &Head<'_>,
        start: Start,
        upload: Upload<S>,
    ) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let stream = StreamRef {
            conn: id,
            stream: conn.http.exchange(),
        };
        let has_body = conn.http.has_body_to_come();
        let upload = if has_body { upload } else { Upload::Done };
        conn.held = matches!(upload, Upload::Undecided);
        conn.http.hold_body(self.now);
        self.sites.count(start.site, 1);
        let has_after = self
            .sites
            .of(start.site)
            .is_some_and(|site| site.table.has_after);
        let head = has_after.then(|| head.raw.to_vec());
        let exchange = Exchange {
            stream,
            side: Side::Served(Served {
                start,
                head,
                told_gone: conn.read_closed,
                failed: false,
                fetches: SmallVec::new(),
                upstream: None,
            }),
            upload,
            flow: None,
            follows: false,
            on_abort: Vec::new(),
            on_drain: Vec::new(),
            feeders: SmallVec::new(),
        };
        conn.exchange = Some(self.exchanges.insert(exchange) as u32);
    }

    /// The record of a connection's exchange, taken from it.
    pub(super) fn close_exchange(&mut self, id: ConnId) -> Option<Exchange<S>> {
        let conn = self.conns.get_mut(id)?;
        conn.held = false;
        let key = conn.exchange.take()?;
        let exchange = self.exchanges.try_remove(key as usize)?;
        if let Some(start) = exchange.start() {
            self.sites.count(start.site, -1);
        }
        Some(exchange)
    }

    /// A deferred or streamed answer is over; `aborted`, if it is not all that it said it would be.
    pub(super) fn complete(&mut self, id: ConnId, aborted: bool) {
        self.retire(id, Aborted::Answered, aborted);
        self.wake(id);
    }

    /// Takes away the exchange of a connection that goes on, or closes by itself.
    pub(super) fn retire(&mut self, id: ConnId, why: Aborted, aborted: bool) {
        let Some(exchange) = self.close_exchange(id) else {
            return;
        };
        let side = self.dissolve(exchange, why);
        self.report_kept(id, side, aborted);
    }

    /// Takes away the exchange of a connection that is gone.
    pub(super) fn abandon(&mut self, id: ConnId) {
        let Some(mut exchange) = self.close_exchange(id) else {
            return;
        };
        let calls = std::mem::take(&mut exchange.on_abort);
        let side = self.dissolve(exchange, Aborted::Connection);
        for (_, call) in calls {
            self.call("an abort callback", call);
        }
        self.report_kept(id, side, true);
        self.settle();
    }

    /// Tells whoever waits for an exchange that there is nothing to wait for.
    pub(super) fn dissolve(&mut self, exchange: Exchange<S>, why: Aborted) -> Side {
        if let Some(flow) = &exchange.flow {
            flow.closed.set(true);
        }
        for from in exchange.feeders {
            self.resume(from);
        }
        match exchange.upload {
            Upload::Sink(sink) => self.end_body(sink, Err(why)),
            // The answer this body was piped into cannot be completed any more.
            Upload::Pipe(to) if to != exchange.stream => self.abort_answer(to),
            // What the upstream has of it cannot be completed.
            Upload::Fetch(fetch) if why != Aborted::Answered => self.cancel_fetch(fetch),
            _ => {}
        }
        let mut side = exchange.side;
        if let Side::Served(served) = &mut side {
            for fetch in std::mem::take(&mut served.fetches) {
                served.upstream = self.timings_of(fetch);
                self.cancel_fetch(fetch);
            }
        }
        side
    }

    /// The client has closed its sending side while its answer is open.
    pub(super) fn tell_gone(&mut self, id: ConnId) {
        let Some(exchange) = self.exchange_on(id) else {
            return;
        };
        let Some(served) = exchange.served() else {
            return;
        };
        served.told_gone = true;
        let fetches = served.fetches.clone();
        for (_, call) in std::mem::take(&mut exchange.on_abort) {
            self.call("an abort callback", call);
        }
        self.settle();
        if fetches.iter().any(|fetch| self.aborts_on_close(*fetch)) {
            self.give_up(id, "the client left before it was answered");
        }
    }

    /// The same for an exchange that has outlived its request's bytes.
    fn report_kept(&mut self, id: ConnId, side: Side, aborted: bool) {
        let Side::Served(served) = side else { return };
        let (start, upstream, Some(raw)) = (served.start, served.upstream, served.head) else {
            return;
        };
        let mut slots = head::slots();
        if let Ok(Some(head)) = head::read(&raw, &mut 0, true, &mut slots, &HeadLimits::NONE) {
            self.report(id, start, &head, aborted, upstream.as_deref());
        }
    }

    /// An exchange is over: its last byte is queued, or it was aborted. `after` middleware hears of it.
    pub(super) fn report(
        &mut self,
        id: ConnId,
        start: Start,
        head: &Head<'_>,
        aborted: bool,
        upstream: Option<&Timings>,
    ) {
        let Some(site) = self.sites.of(start.site) else {
            return;
        };
        let Some(conn) = self.conns.get(id).filter(|_| site.table.has_after) else {
            return;
        };
        let (table, calls) = (&site.table, &mut site.calls);
        let done = Done {
            head,
            route: table.pattern(start.key),
            status: conn.http.status(),
            body_bytes: conn.http.sent(),
            elapsed: self.net.now() - start.at,
            waited: Duration::from_micros(start.waited_us.into()),
            remote: conn.peer,
            request_id: start.request_id,
            aborted,
            upstream,
        };
        let mut cx = cx!(self);
        self.watch.guarded(&self.net, "an after callback", || {
            calls.after(table.after(start.key), &mut cx, &done)
        });
    }

    pub(super) fn call(&mut self, what: &str, call: Callback<S>) {
        let mut cx = cx!(self);
        self.watch.guarded(&self.net, what, || call(&mut cx));
    }
}
