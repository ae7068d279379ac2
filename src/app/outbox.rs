//! Floor 2. What handles that outlive their callback ask of the loop: answer, write, end, resume.
//!
//! A `Responder` may be used in any callback, even in one that runs because of another connection.
//! It never touches a connection: it leaves a command here, and the loop settles it after the
//! callback has returned.

use crate::app::body::Body;
use crate::app::slow::Sent;
use crate::base::id::{ConnId, FetchId, StreamRef, TaskId};
use crate::proto::h1::answer::FieldBlock;
use crate::proto::ws::send::Prepared;
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
    /// Nobody wants what was fetched any more.
    Cancel { fetch: FetchId },
    /// Nobody wants a task to go on.
    CancelTask(TaskId),
    /// Nor does the client that its answer was for.
    ClientLeft(TaskId),
    /// The answer on `from` was 101: it, and the connection of `to`, which is answered so with these fields,
    /// pass on each other's bytes from here.
    Tunnel {
        from: StreamRef,
        to: StreamRef,
        fields: FieldBlock,
    },
    /// Something for a WebSocket.
    Socket { to: ConnId, act: SocketAct },
    /// Something for a connection of ours.
    Link { to: ConnId, act: LinkAct },
}

/// What a [`super::websocket::SocketHandle`] does.
pub(crate) enum SocketAct {
    Send(Kind, Bytes),
    /// The same, and what became of it is told.
    SendThen(Kind, Bytes, Box<dyn FnOnce(Sent)>),
    /// What is made for many.
    SendPrepared(Rc<Prepared>),
    Ping(Bytes),
    Close(u16, String),
    /// Messages are taken again.
    Resume,
}

/// What a [`super::link::LinkHandle`] does.
pub(crate) enum LinkAct {
    Write(Bytes),
    Resume,
    Close,
    Abort(Box<str>),
}

/// A queue many handles share. Take, push, set: it cannot be entered twice, so it cannot panic.
pub(crate) struct Queue<T> {
    items: Cell<VecDeque<T>>,
    /// Its length: whoever only wants to know need not take it.
    len: Cell<usize>,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            items: Cell::default(),
            len: Cell::new(0),
        }
    }
}

impl<T> Queue<T> {
    fn with<R>(&self, f: impl FnOnce(&mut VecDeque<T>) -> R) -> R {
        let mut items = self.items.take();
        let result = f(&mut items);
        self.len.set(items.len());
        // What is replaced is empty, and owns nothing: its drop would only look for what to drop.
        std::mem::forget(self.items.replace(items));
        result
    }

    pub(crate) fn push_back(&self, item: T) {
        self.with(|items| items.push_back(item));
    }

    pub(crate) fn push_front(&self, item: T) {
        self.with(|items| items.push_front(item));
    }

    pub(crate) fn pop_front(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        self.with(VecDeque::pop_front)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    /// Takes the last one that `f` makes something of.
    fn take_last<R>(&self, f: impl Fn(&mut T) -> Option<R>) -> Option<R> {
        self.with(|items| {
            let found = items.iter_mut().enumerate().rev();
            let (at, result) = found.filter_map(|(at, item)| Some((at, f(item)?))).next()?;
            items.remove(at);
            Some(result)
        })
    }
}

/// What a dropped answer has left behind.
pub(crate) enum Dropped {
    /// Nothing of it was sent: these are its fields.
    Unanswered(FieldBlock),
    /// Its body, which would end here.
    Body,
}

/// Commands on their way to the loop.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: Queue<Command>,
    /// `limits.high_water`.
    pub(crate) high_water: Cell<usize>,
}

impl Outbox {
    pub(crate) fn push(&self, command: Command) {
        self.queue.push_back(command);
    }

    pub(crate) fn push_first(&self, command: Command) {
        self.queue.push_front(command);
    }

    pub(crate) fn pop(&self) -> Option<Command> {
        self.queue.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes back what a responder, or a body writer, has said as it was dropped: by a task that has failed,
    /// and knows better why.
    pub(crate) fn take_dropped(&self, of: StreamRef) -> Option<Dropped> {
        self.queue.take_last(|command| match command {
            Command::Unanswered { to, fields } if *to == of => {
                Some(Dropped::Unanswered(std::mem::take(fields)))
            }
            Command::End { to, .. } if *to == of => Some(Dropped::Body),
            _ => None,
        })
    }
}

/// How much of one streamed body waits for its client, known to writer and loop alike.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) buffered: Cell<usize>,
    pub(crate) closed: Cell<bool>,
    /// Of a link: its input waits.
    pub(crate) held: Cell<bool>,
    pub(crate) high_water: usize,
}

impl Flow {
    /// Nothing waits yet.
    pub(crate) fn new(high_water: usize) -> Rc<Flow> {
        Rc::new(Flow {
            high_water,
            ..Flow::default()
        })
    }

    /// Whether more than high water waits.
    pub(crate) fn is_full(&self) -> bool {
        self.buffered.get() > self.high_water
    }
}
