//! Floor 4. A connection to a Redis: found, made, greeted, watched. What is said on it is its [`Owner`]'s: the client's
//! here, or the bus (`service/bus/redis.rs`).
//!
//! ```text
//! dial ─► find ─► connect ─► opened ─► event, event … (pump after each input) ─► lost
//!           └────────┴─────────────────────────────────────────────────────────► lost
//! ```
//! Invariant: for each [`dial`] there is one [`Owner::lost`], the last of all; [`Owner::opened`] before it at most once.

use super::super::dial::{self, hand_on};
use crate::proto::address::Address;
use crate::proto::redis::{Error, Event, Session, Settings};
use crate::{Ctx, Instant, Link, LinkHandle, TimerId};
use std::time::Duration;

/// A session and its connection.
pub(in crate::service) struct Line {
    pub(in crate::service) session: Session,
    pub(in crate::service) handle: LinkHandle,
    /// For the session's deadline.
    timer: TimerId,
}

impl Line {
    /// Hands on what the session has to say, as much as the connection takes. Returns how much that was.
    pub(in crate::service) fn flush(&mut self) -> usize {
        let n = hand_on(&self.handle, self.session.output());
        self.session.sent(n);
        n
    }

    /// At the session's deadline. Returns when the next one is.
    fn expire(&mut self, now: Instant) -> Option<Duration> {
        if let Err(e) = self.session.expire(now) {
            self.handle.abort(&e.to_string());
            return None;
        }
        // To the millisecond, and one more, so that it has passed.
        Some(self.session.next_deadline() - now + Duration::from_millis(1))
    }
}

/// Whose connections they are, which it names with numbers of its own.
pub(in crate::service) trait Owner<S: 'static>: Clone + 'static {
    /// How to speak on a new connection. `None`: it is not wanted any more.
    fn settings(&self, id: u64) -> Option<Settings>;

    /// It is made; the greeting is on its way.
    fn opened(&self, cx: &mut Ctx<'_, S>, id: u64, line: Line);

    /// What it was given then.
    fn line<R>(&self, id: u64, f: impl FnOnce(&mut Line) -> R) -> Option<R>;

    /// The server has said something.
    ///
    /// # Errors
    /// Why the connection is to end.
    fn event(&self, cx: &mut Ctx<'_, S>, id: u64, event: Event) -> Result<(), String>;

    /// There is room for more, or something to be sent.
    fn pump(&self, cx: &mut Ctx<'_, S>, id: u64);

    /// It has ended, or was never made; `error`: for what the server has said.
    fn lost(&self, cx: &mut Ctx<'_, S>, id: u64, why: &str, error: Option<&Error>);
}

/// Finds the server, and connects; each attempt is for the next of its addresses.
pub(in crate::service) fn dial<S: 'static, O: Owner<S>>(
    owner: &O,
    cx: &mut Ctx<'_, S>,
    id: u64,
    address: Address,
    attempt: usize,
) {
    let owner = owner.clone();
    // Later, for the owner may be in use.
    cx.later().call(move |cx| {
        dial::find(cx, address, move |cx, found| {
            match dial::pick(found, attempt) {
                Ok(target) => {
                    let error = None;
                    cx.connect(target, Wire { owner, id, error });
                }
                Err(why) => owner.lost(cx, id, &why, None),
            }
        });
    });
}

/// The connection's end of it.
struct Wire<O> {
    owner: O,
    id: u64,
    error: Option<Error>,
}

impl<S: 'static, O: Owner<S>> Link<S> for Wire<O> {
    fn open(&mut self, cx: &mut Ctx<'_, S>, handle: LinkHandle) {
        let Some(settings) = self.owner.settings(self.id) else {
            return handle.abort("it is not wanted any more");
        };
        let session = Session::new(settings, cx.now());
        let timer = watch(&self.owner, cx, self.id, Duration::ZERO);
        let line = Line {
            session,
            handle,
            timer,
        };
        self.owner.opened(cx, self.id, line);
        self.owner.pump(cx, self.id);
    }

    fn input(
        &mut self,
        cx: &mut Ctx<'_, S>,
        mut bytes: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), String> {
        let now = cx.now();
        let mut next = |line: &mut Line| line.session.poll_event(&mut bytes, now);
        while let Some(event) = self.owner.line(self.id, &mut next) {
            match event {
                Ok(Some(event)) => self.owner.event(cx, self.id, event)?,
                Ok(None) => break,
                Err(error) => {
                    let why = error.to_string();
                    self.error = Some(error);
                    return Err(why);
                }
            }
        }
        self.owner.pump(cx, self.id);
        Ok(())
    }

    fn drained(&mut self, cx: &mut Ctx<'_, S>) {
        self.owner.pump(cx, self.id);
    }

    fn close(&mut self, cx: &mut Ctx<'_, S>, why: &str) {
        if let Some(timer) = self.owner.line(self.id, |line| line.timer) {
            cx.cancel(timer);
        }
        self.owner.lost(cx, self.id, why, self.error.as_ref());
    }
}

/// Looks at the session's deadline when it comes.
fn watch<S: 'static, O: Owner<S>>(
    owner: &O,
    cx: &mut Ctx<'_, S>,
    id: u64,
    wait: Duration,
) -> TimerId {
    let owner = owner.clone();
    cx.after(wait, move |cx| {
        let now = cx.now();
        let Some(Some(wait)) = owner.line(id, |line| line.expire(now)) else {
            return;
        };
        owner.pump(cx, id);
        let timer = watch(&owner, cx, id, wait);
        owner.line(id, |line| line.timer = timer);
    })
}
