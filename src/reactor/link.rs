//! Floor 3. Connections that the loop makes itself: connecting, bytes in, bytes out, the end.
//!
//! ```text
//! connecting ── writable, no error ─► open ─► closing (what waits goes out) ─► dead
//!     └── refused, timeouts.connect ──────────► dead
//! ```
//! A link's connection runs as a client's does, up to the point where bytes are looked at.

use super::Reactor;
use super::conn::{Conn, Role};
use super::io::Stop;
use crate::app::link::{Link, LinkHandle, Origin};
use crate::app::outbox::{Flow, LinkAct};
use crate::base::id::ConnId;
use crate::net::Net;
use std::io;
use std::rc::Rc;

pub(super) struct Linked<S> {
    link: Box<dyn Link<S>>,
    flow: Rc<Flow>,
    /// More than high water waited, and it has not been told that there is room again.
    is_full: bool,
    state: State,
}

const TOO_MUCH: &str = "more waits for it than limits.output";

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Closing,
}

impl<N: Net, S: 'static> Reactor<N, S> {
    pub(super) fn begin_link(&mut self, from: Origin, link: Box<dyn Link<S>>) {
        let (made, state) = match from {
            Origin::Connect(to) => (self.net.connect(&to), State::Connecting),
            Origin::Adopt(stream) => (self.net.adopt(stream), State::Open),
        };
        let (sock, peer) = match made {
            Ok(made) => made,
            Err(e) => return self.close_link(link, &format!("cannot connect: {e}")),
        };
        let flow = Flow::new(self.limits.high_water);
        let key = self.links.insert(Linked {
            link,
            flow,
            is_full: false,
            state,
        });
        let mut conn = Conn::ours(sock, peer, Role::Link(key as u32), self.now);
        conn.blocked = state == State::Connecting;
        let id = self.conns.insert(conn);
        match state {
            State::Connecting => {
                self.await_connection(id);
                self.arm(id, Some(self.now + self.timeouts.connect));
            }
            _ => self.open_link(id),
        }
    }

    /// Room to write tells that the connection is made.
    pub(super) fn await_connection(&mut self, id: ConnId) {
        if !self.register(id) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.wants_write = true;
        if let Err(e) = self.net.want_write(conn.sock, id.token()) {
            self.cut(id, &format!("it cannot be waited for: {e}"));
        }
    }

    fn linked(&mut self, id: ConnId) -> Option<&mut Linked<S>> {
        let key = self.conns.get(id)?.link()?;
        self.links.get_mut(key as usize)
    }

    fn open_link(&mut self, id: ConnId) {
        let (to, outbox) = (id, self.outbox.clone());
        let Some(key) = self.conns.get(id).and_then(|conn| conn.link()) else {
            return;
        };
        let Some(linked) = self.links.get_mut(key as usize) else {
            return;
        };
        linked.state = State::Open;
        let flow = linked.flow.clone();
        let handle = LinkHandle { to, outbox, flow };
        let mut cx = cx!(self);
        self.watch
            .guarded(&self.net, "the beginning of a link", || {
                linked.link.open(&mut cx, handle)
            });
        self.wake(id);
        self.settle();
    }

    /// Before it runs. `false`: there is nothing to run yet.
    pub(super) fn is_linked(&mut self, id: ConnId) -> bool {
        let is_connecting = |linked: &mut Linked<S>| linked.state == State::Connecting;
        if !self.linked(id).is_some_and(is_connecting) {
            return true;
        }
        let Some(conn) = self.conns.get(id) else {
            return false;
        };
        if conn.blocked {
            return false;
        }
        match self.net.finish_connect(conn.sock) {
            Ok(()) => self.open_link(id),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(e) => self.cut(id, &e.to_string()),
        }
        true
    }

    /// It does not want to be given more at present.
    pub(super) fn is_link_held(&self, key: u32) -> bool {
        let linked = self.links.get(key as usize);
        // One that only closes reads on, to see the end.
        linked.is_some_and(|linked| linked.flow.held.get() && linked.state == State::Open)
    }

    pub(super) fn serve_link(&mut self, id: ConnId, input: &[u8]) -> Stop {
        let Some(key) = self.conns.get(id).and_then(|conn| conn.link()) else {
            return Stop::Over;
        };
        let Some(linked) = self.links.get_mut(key as usize) else {
            return Stop::Over;
        };
        if linked.state == State::Closing {
            return Stop::NeedInput;
        }
        let mut cx = cx!(self);
        let cork = &mut self.cork;
        let used = self.watch.guarded(&self.net, "the input of a link", || {
            linked.link.input(&mut cx, input, cork)
        });
        match used {
            Some(Ok(())) => {
                self.settle();
                match self.is_link_held(key) {
                    true => Stop::Wait,
                    false => Stop::NeedInput,
                }
            }
            Some(Err(why)) => {
                self.cut(id, &why);
                Stop::Over
            }
            None => {
                self.cut(id, "it panicked");
                Stop::Over
            }
        }
    }

    pub(super) fn settle_link(&mut self, to: ConnId, act: LinkAct) {
        let Some(linked) = self.linked(to) else {
            return;
        };
        match act {
            LinkAct::Write(_) if linked.state == State::Closing => {}
            LinkAct::Write(bytes) => {
                let flow = linked.flow.clone();
                self.with_tx(to, |tx| tx.out.put_shared(bytes));
                let waits = self.output_of(to);
                if waits > self.limits.output {
                    return self.cut(to, TOO_MUCH);
                }
                flow.buffered.set(waits.max(flow.buffered.get()));
            }
            LinkAct::Resume => self.wake(to),
            LinkAct::Close => {
                linked.state = State::Closing;
                self.wake(to);
            }
            LinkAct::Abort(why) => self.cut(to, &why),
        }
    }

    /// It has run, and perhaps written.
    pub(super) fn after_link_flush(&mut self, id: ConnId, waits: usize) {
        let half = self.limits.high_water / 2;
        let Some(key) = self.conns.get(id).and_then(|conn| conn.link()) else {
            return;
        };
        let Some(linked) = self.links.get_mut(key as usize) else {
            return;
        };
        linked.is_full |= linked.flow.is_full();
        linked.flow.buffered.set(waits);
        if waits > self.limits.output {
            return self.cut(id, TOO_MUCH);
        }
        if waits <= half && std::mem::take(&mut linked.is_full) {
            let mut cx = cx!(self);
            self.watch
                .guarded(&self.net, "a link that has drained", || {
                    linked.link.drained(&mut cx)
                });
            self.settle();
        }
    }

    /// Nothing is left for it to say.
    pub(super) fn is_link_spent(&mut self, id: ConnId) -> bool {
        self.linked(id)
            .is_some_and(|linked| linked.state == State::Closing)
    }

    /// Those that are left when the server leaves.
    pub(super) fn end_links(&mut self) {
        for id in self.conns.ids() {
            if self.linked(id).is_some() {
                self.cut(id, "the server leaves");
            }
        }
    }

    pub(super) fn end_link(&mut self, id: ConnId, why: &str) {
        let Some(key) = self.conns.get_mut(id).and_then(|conn| conn.link()) else {
            return;
        };
        if let Some(linked) = self.links.try_remove(key as usize) {
            linked.flow.closed.set(true);
            self.close_link(linked.link, why);
        }
    }

    fn close_link(&mut self, mut link: Box<dyn Link<S>>, why: &str) {
        let mut cx = cx!(self);
        self.watch
            .guarded(&self.net, "the end of a link", || link.close(&mut cx, why));
    }
}
