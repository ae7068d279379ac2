//! Floor 3. Polling tasks: a phase of `settle`, when what callbacks have asked for is done.
//!
//! A task is polled at most once a turn, and so many of them as `limits.commands_per_turn`: one that wakes itself for
//! ever has its turn like everybody else. Polled where nothing is queued, so that what is queued afterwards is this
//! task's doing, and a failure can take back the answer it dropped.

use super::Reactor;
use crate::app::failure::{Failure, FailureKind, panic_text};
use crate::app::outbox::Dropped;
use crate::app::task::{Boxed, Origin, Running, Turn};
use crate::base::id::{StreamRef, TaskId};
use crate::net::Net;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

impl<N: Net, S: 'static> Reactor<N, S> {
    /// Those that had their poll in the last turn come first.
    pub(super) fn begin_tasks(&mut self) {
        self.tasks_left = self.limits.commands_per_turn;
        while let Some(task) = self.polled.pop_back() {
            self.woken.push_front(task);
        }
    }

    pub(super) fn has_woken(&self) -> bool {
        !self.woken.is_empty() || !self.polled.is_empty()
    }

    /// Polls the next task that was woken. `false`: there is none that may run in this turn.
    pub(super) fn poll_next(&mut self) -> bool {
        self.core.mailbox.take_woken(&mut self.woken);
        while self.tasks_left > 0
            && let Some(task) = self.woken.pop_front()
        {
            match self.core.tasks.begin(task, self.core.stats.turns) {
                Turn::Gone => {}
                Turn::Later => self.polled.push_back(task),
                Turn::Now(running) => {
                    self.tasks_left -= 1;
                    self.poll_task(task, running);
                    return true;
                }
            }
        }
        false
    }

    fn poll_task(&mut self, task: TaskId, running: Running) {
        let Running {
            mut future,
            waker,
            origin,
        } = running;
        let begun = self.net.coarse_now();
        let mut cx = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().step(&mut cx)));
        if let Origin::Answer(to) = origin {
            let (conns, exchanges, sites) = (&self.conns, &self.exchanges, &mut self.sites);
            self.watch.over(&self.net, begun, || {
                let exchange = conns.get(to.conn).and_then(|conn| conn.exchange);
                let exchange = exchange.and_then(|key| exchanges.get(key as usize));
                let start = exchange.and_then(|exchange| exchange.start());
                let site = start.and_then(|start| Some((sites.of(start.site)?, start.key)));
                let route = site.map_or("", |(site, key)| site.table.pattern(key));
                format!("the task of route {route:?}")
            });
        } else {
            self.watch.over(&self.net, begun, || name(origin));
        }
        let failure = match polled {
            Ok(Poll::Pending) => match self.core.tasks.put_back(task, future) {
                Some(cancelled) => return self.drop_future(cancelled),
                None => return,
            },
            Ok(Poll::Ready(failure)) => failure,
            Err(payload) => Some(Failure::panic(payload)),
        };
        self.core.tasks.remove(task);
        self.drop_future(future);
        if let Some(failure) = failure {
            self.fail_task(origin, failure);
        }
    }

    /// Nobody wants it to go on.
    pub(super) fn cancel_task(&mut self, task: TaskId, client_left: bool) {
        let Some((future, origin)) = self.core.tasks.remove(task) else {
            return;
        };
        if let Some(future) = future {
            self.drop_future(future);
        }
        if client_left {
            self.fail_task(origin, Failure::client_left());
        }
    }

    /// What it drops may be an embedder's, and panic.
    fn drop_future(&mut self, future: Boxed) {
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        if let Err(payload) = dropped {
            log::error!("a task panicked as it was dropped: {}", panic_text(payload));
        }
    }

    /// The answer that it has not given, or not to the end, is its failure's. Where there is no such, only the log
    /// hears of it.
    fn fail_task(&mut self, origin: Origin, failure: Failure) {
        let Origin::Answer(to) = origin else {
            return log::error!("{} panicked: {}", name(origin), failure.message());
        };
        match self.outbox.take_dropped(to) {
            Some(Dropped::Unanswered(fields)) => self.unanswered(to, fields, failure),
            Some(Dropped::Body) => {
                self.tell_failure(to, &failure);
                self.abort_answer(to);
            }
            None => self.tell_failure(to, &failure),
        }
    }

    fn tell_failure(&mut self, to: StreamRef, failure: &Failure) {
        if failure.kind == FailureKind::Cancelled {
            return;
        }
        match self.exchange_of(to).and_then(|exchange| exchange.start()) {
            Some(start) => self.log_failure(start, failure),
            None => log::error!("a task failed after its answer: {}", failure.message()),
        }
    }

    /// The loop is over, and so are they.
    pub(super) fn end_tasks(&mut self) {
        for future in self.core.tasks.close() {
            self.drop_future(future);
        }
        (self.woken, self.polled) = Default::default();
    }
}

fn name(origin: Origin) -> String {
    match origin {
        Origin::Answer(_) => "a handler's task".to_string(),
        Origin::Spawned(at) => format!("the task spawned at {at}"),
    }
}
