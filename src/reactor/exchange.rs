//! Floor 3. An exchange that outlives its callback: deferred, streamed, or waiting for its body.
//!
//! The synchronous path never makes one. Made when a callback returns without having answered,
//! taken away when the answer is complete or the connection is gone; whatever waits for it (sinks,
//! abort and drain callbacks, uploads piped into it) is told then.

use crate::app::body::BodySink;
use crate::app::ctx::Callback;
use crate::app::outbox::Flow;
use crate::app::request::RequestId;
use crate::app::site::RouteKey;
use crate::base::clock::Instant;
use crate::base::id::StreamRef;
use crate::proto::h1::answer::FieldBlock;
use http::{Method, StatusCode};
use std::rc::Rc;

/// What is known of a request from its head on.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub(crate) key: RouteKey,
    pub(crate) request_id: RequestId,
    pub(crate) at: Instant,
}

pub(crate) struct Exchange<S> {
    pub(crate) stream: StreamRef,
    pub(crate) start: Start,
    /// Method and path, kept only if somebody will ask.
    pub(crate) line: Option<(Method, String)>,
    pub(crate) upload: Upload<S>,
    /// The credit of its streamed answer.
    pub(crate) flow: Option<Rc<Flow>>,
    pub(crate) on_abort: Vec<Callback<S>>,
    pub(crate) on_drain: Vec<Callback<S>>,
    /// Uploads that wait for this answer to drain.
    pub(crate) feeders: Vec<StreamRef>,
    /// The client has said it sends no more; `on_abort` has been told.
    pub(crate) told_gone: bool,
    /// The error hook has been asked already.
    pub(crate) failed: bool,
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
    /// Nowhere.
    Discard,
    /// Complete.
    Done,
}

/// What a handler needs once its body is whole: the head again, and what middleware has set.
pub(crate) struct Collect {
    pub(crate) raw: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) fields: FieldBlock,
    pub(crate) status: StatusCode,
}
