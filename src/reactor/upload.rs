//! Floor 3. A request's body as it comes: to the sink, the memory or the answer that wants it.
//!
//! ```text
//! on_data ─► collect, sink, pipe ── demand ─► read on, or hold: the socket is not read
//! on_body_end ─► the handler that waited for the whole, the sink's end, the end of the answer
//! ```

use super::Reactor;
use super::exchange::Upload;
use crate::app::body::Body;
use crate::app::outbox::Command;
use crate::app::stream::{Aborted, BodySink, Demand};
use crate::base::id::ConnId;
use crate::net::Net;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::body::Trailers;
use bytes::Bytes;

impl<N: Net, S: 'static> Reactor<N, S> {
    /// A piece of a body has come.
    pub(super) fn on_data(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(key) = self.conns.get(id).and_then(|conn| conn.exchange) else {
            return;
        };
        let Some(exchange) = self.exchanges.get_mut(key as usize) else {
            return;
        };
        let from = exchange.stream;
        match &mut exchange.upload {
            Upload::Collect(collect) if collect.ignores_body => {}
            Upload::Collect(collect) => collect.body.extend_from_slice(bytes),
            Upload::Sink(sink) => {
                let mut cx = cx!(self);
                match self
                    .watch
                    .guarded(&self.net, "a body's step", || sink.chunk(&mut cx, bytes))
                {
                    Some(Demand::More) => {}
                    Some(Demand::UntilDrained(to)) => {
                        // What it wrote has to be counted before it can be waited for.
                        self.settle();
                        self.hold_until_drained(from, to);
                    }
                    Some(Demand::Hold) => self.hold(id),
                    // A responder in its state answers 500 as it drops.
                    None => self.end_sink(id, Aborted::Panicked),
                }
            }
            Upload::Pipe(to) => {
                let to = *to;
                if self.outbox.is_empty() {
                    self.write_piece(to, Body::Borrowed(bytes));
                } else {
                    // What a callback wrote before it piped may still be queued: not past that.
                    if let Some(flow) = self.exchange_of(to).and_then(|to| to.flow.as_ref()) {
                        flow.buffered.set(flow.buffered.get() + bytes.len());
                    }
                    let bytes = Bytes::copy_from_slice(bytes);
                    self.outbox.push(Command::Chunk { to, bytes });
                }
                self.hold_until_drained(from, to);
            }
            Upload::Fetch(fetch) => {
                let fetch = *fetch;
                self.feed(fetch, from, bytes);
            }
            Upload::Undecided | Upload::Discard | Upload::Done => {}
        }
    }

    pub(super) fn hold(&mut self, id: ConnId) {
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(id)
            && !std::mem::replace(&mut conn.held, true)
        {
            conn.http.hold_body(now);
        }
    }

    /// The rest of a body has nowhere to go.
    pub(super) fn end_sink(&mut self, id: ConnId, why: Aborted) {
        let Some(exchange) = self.exchange_on(id) else {
            return;
        };
        if let Upload::Sink(sink) = std::mem::replace(&mut exchange.upload, Upload::Discard) {
            self.end_body(sink, Err(why));
        }
    }

    /// The last word to a sink: exactly one, whatever has become of its body.
    pub(super) fn end_body(
        &mut self,
        sink: Box<dyn BodySink<S>>,
        how: Result<Trailers<'_>, Aborted>,
    ) {
        let mut cx = cx!(self);
        self.watch
            .guarded(&self.net, "the end of a body", || sink.end(&mut cx, how));
    }

    /// A body has come whole.
    pub(super) fn on_body_end(&mut self, id: ConnId, trailers: Trailers<'_>) {
        let Some(exchange) = self.exchange_on(id) else {
            return;
        };
        match std::mem::replace(&mut exchange.upload, Upload::Done) {
            Upload::Collect(collect) => self.on_collected(id, *collect),
            Upload::Sink(sink) => self.end_body(sink, Ok(trailers)),
            Upload::Pipe(to) => {
                let trailers = match self.drops_trailers(id) {
                    true => FieldBlock::default(),
                    false => trailers.passing(),
                };
                if self.outbox.is_empty() {
                    self.end_answer(to, &trailers);
                } else {
                    self.outbox.push(Command::End { to, trailers });
                }
            }
            Upload::Fetch(fetch) => self.fed(fetch, trailers),
            Upload::Undecided | Upload::Discard | Upload::Done => {}
        }
    }
}
