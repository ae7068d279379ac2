//! Floor 2. What handles that outlive their callback ask of the loop: answer, write, end, resume.
//!
//! A `Responder` may be used in any callback, even in one that runs because of another connection.
//! It never touches a connection: it leaves a command here, and the loop settles it after the
//! callback has returned.

use crate::app::body::Body;
use crate::base::id::{ConnId, StreamRef};
use crate::proto::h1::answer::FieldBlock;
use crate::proto::ws::session::Kind;
use bytes::Bytes;
use http::StatusCode;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

/// A whole answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) fields: FieldBlock,
    pub(crate) body: Body<'static>,
}

pub(crate) enum Command {
    /// The answer, whole.
    Respond { to: StreamRef, reply: Reply },
    /// The head of an answer whose body is streamed.
    Begin {
        to: StreamRef,
        status: StatusCode,
        fields: FieldBlock,
        length: Option<u64>,
        flow: Rc<Flow>,
    },
    /// A piece of its body.
    Chunk { to: StreamRef, bytes: Bytes },
    /// Its end. `trailers` are field lines.
    End { to: StreamRef, trailers: FieldBlock },
    /// The answer cannot be completed.
    Abort { to: StreamRef },
    /// The responder was dropped.
    Unanswered { to: StreamRef, fields: FieldBlock },
    /// The body `from` goes where `to`'s body is written.
    Pipe { from: StreamRef, to: StreamRef },
    /// Nobody will read the body.
    Discard { from: StreamRef },
    /// The body goes on after `Demand::Hold`.
    Resume { from: StreamRef },
    /// Something for a WebSocket.
    Socket { to: ConnId, act: SocketAct },
    /// Something for a connection of ours.
    Link { to: ConnId, act: LinkAct },
}

/// What a [`super::websocket::SocketHandle`] does.
pub(crate) enum SocketAct {
    Send(Kind, Bytes),
    Ping(Bytes),
    Close(u16, String),
}

/// What a [`super::link::LinkHandle`] does.
pub(crate) enum LinkAct {
    Write(Bytes),
    Close,
}

/// A queue many handles share. Take, push, set: it cannot be entered twice, so it cannot panic.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: Cell<VecDeque<Command>>,
    /// Its length: whoever only wants to know need not take it.
    len: Cell<usize>,
    /// `limits.high_water`.
    pub(crate) high_water: Cell<usize>,
}

impl Outbox {
    pub(crate) fn push(&self, command: Command) {
        let mut queue = self.queue.take();
        queue.push_back(command);
        self.len.set(queue.len());
        self.queue.set(queue);
    }

    pub(crate) fn push_first(&self, command: Command) {
        let mut queue = self.queue.take();
        queue.push_front(command);
        self.len.set(queue.len());
        self.queue.set(queue);
    }

    pub(crate) fn pop(&self) -> Option<Command> {
        if self.is_empty() {
            return None;
        }
        let mut queue = self.queue.take();
        let command = queue.pop_front();
        self.len.set(queue.len());
        self.queue.set(queue);
        command
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }
}

/// How much of one streamed body waits for its client, known to writer and loop alike.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) buffered: Cell<usize>,
    pub(crate) closed: Cell<bool>,
    pub(crate) high_water: Cell<usize>,
}
