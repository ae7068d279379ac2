//! Floor 3. What upstreams need beside requests: their timers, looks at their servers' health, look-ups of their
//! names, and a configuration that replaces another.

use super::Reactor;
use crate::app::ctx::{Ctx, Job, OffloadError, Timer};
use crate::app::fetch::{Fetch, FetchError, FetchHandle, Fetched, Stage};
use crate::app::lookups::Due;
use crate::app::stream::Demand;
use crate::app::upstream::Upstream;
use crate::base::lookup::{Answer, Failure};
use crate::net::Net;
use crate::upstream::expect::Watch;
use crate::upstream::pool::{Action, Checkout};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Why a connection is not used again.
pub(super) const MOVED: &str = "its name does not lead there any more";

impl<N: Net, S: 'static> Reactor<N, S> {
    /// The upstreams of a site that begins, or replaces another. One that has not changed is left alone.
    pub(super) fn set_upstreams(&mut self, upstreams: &[(String, Upstream)]) {
        let now = self.net.now();
        (self.now, self.core.now) = (now, now);
        let in_use = self.core.fetches.groups();
        let idle = self.core.upstreams.replace(upstreams, &in_use, now);
        for conn in idle {
            self.close_upstream(conn, "its upstream is gone");
        }
        for fetch in self.core.fetches.queued() {
            self.requeue_fetch(fetch);
        }
        for group in self.core.upstreams.numbers() {
            self.resume_awaiting(group);
            self.run_group(group);
        }
        self.settle();
    }

    /// Something is due in a group: connections that have grown old, somebody who has waited too long or for
    /// whom there is room, a look at a server's health.
    pub(super) fn run_group(&mut self, group: usize) {
        let now = self.now;
        if let Some(upstream) = self.core.upstreams.get_mut(group) {
            upstream.is_due = false;
        }
        loop {
            // Where no connection can be made, there are as many who are told so as wait.
            if self.commands_left == 0 {
                return self.run_group_soon(group);
            }
            let Some(action) = self.core.upstreams.with(group, |it, _| it.poll_pool(now)) else {
                return;
            };
            let Some(action) = action else { break };
            self.commands_left -= 1;
            match action {
                Action::Close(_, conn) => self.close_upstream(conn, "it has grown old"),
                Action::Expired(fetch) => {
                    let upstream = self.core.upstreams.get(group);
                    let limit = upstream.map(|it| it.queue_wait()).unwrap_or_default();
                    if let Some(fetching) = self.core.fetches.get_mut(fetch) {
                        fetching.timings.queue += limit;
                    }
                    self.fail_fetch(fetch, FetchError::QueueTimeout(limit));
                }
                Action::Connect(server) => self.dial(group, server, None, true),
                Action::Serve(fetch, server, by, waited) => {
                    if let Some(fetching) = self.core.fetches.get_mut(fetch) {
                        fetching.timings.queue += waited;
                        fetching.stage = Stage::Asked;
                    }
                    match self.vet(group, server, fetch, by) {
                        Checkout::Reuse(conn) => self.send_on(conn, fetch),
                        Checkout::Connect => self.dial(group, server, Some(fetch), true),
                        // The server has left meanwhile.
                        Checkout::Full => self.try_fetch(fetch),
                    }
                }
            }
        }
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        let changes = upstream.health.tick(now);
        upstream.tell(&changes);
        for server in upstream.health.due(now) {
            let mut cx = cx!(self);
            look_at(&mut cx, group, server);
        }
        self.core.upstreams.queue_lookups(group, now);
        self.look_up();
        self.arm_group(group);
    }

    /// The same once what is being done is done: it may be a part of this very thing.
    pub(super) fn run_group_soon(&mut self, group: usize) {
        if let Some(upstream) = self.core.upstreams.get_mut(group)
            && !std::mem::replace(&mut upstream.is_due, true)
        {
            self.core.jobs.push_back(Job::RunGroup(group));
        }
        self.settle();
    }

    /// Begins look-ups that are due, as many as may be made at once.
    fn look_up(&mut self) {
        while let Some(due) = self.core.upstreams.begin_lookup() {
            let Due {
                group,
                name,
                question,
            } = due;
            let servers = &self.core.upstreams.lookups().servers;
            let work = self.net.lookup(question, servers);
            let mut cx = cx!(self);
            cx.offload(work, move |cx, result| {
                let failed = |why: OffloadError| Err(Failure::Other(why.to_string()));
                cx.core.jobs.push_back(Job::LookedUp {
                    group,
                    name,
                    result: result.unwrap_or_else(failed),
                });
            });
        }
    }

    /// A look-up is over.
    pub(super) fn looked_up(&mut self, group: usize, name: usize, result: Result<Answer, Failure>) {
        let now = self.now;
        self.core.upstreams.end_lookup();
        let idle = self.core.upstreams.with(group, |upstream, rng| {
            upstream.looked_up(name, result, now, rng)
        });
        for (server, conn) in idle.unwrap_or_default() {
            let peer = self.conns.get(conn).map(|conn| conn.peer);
            let upstream = self.core.upstreams.get(group);
            let (Some(peer), Some(upstream)) = (peer, upstream) else {
                continue;
            };
            if !upstream.leads_to(server, peer) {
                self.end_upstream(conn, FetchError::Closed(MOVED.into()));
            }
        }
        self.resume_awaiting(group);
        self.run_group(group);
    }

    pub(super) fn on_group_timer(&mut self, group: usize) {
        if let Some(upstream) = self.core.upstreams.get_mut(group) {
            upstream.timer = None;
        }
        self.run_group(group);
    }

    /// Has the group's timer fire when something is due.
    pub(super) fn arm_group(&mut self, group: usize) {
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        let Some(due) = upstream.next_deadline() else {
            return;
        };
        match upstream.timer {
            Some((_, at)) if at <= due => return,
            Some((timer, _)) => drop(self.core.timers.cancel(timer)),
            None => {}
        }
        let timer = self.core.timers.insert(due, Timer::Group(group as u32));
        upstream.timer = Some((timer, due));
    }

    /// What was seen of a server speaks against it.
    pub(super) fn note_failure(&mut self, group: usize, server: usize, why: &FetchError) {
        let now = self.now;
        let Some(upstream) = self.core.upstreams.get_mut(group) else {
            return;
        };
        log::info!(
            "upstream {}: {}: {why}",
            upstream.name(),
            upstream.name_of(server)
        );
        let changes = upstream.health.on_result(server, false, now);
        upstream.tell(&changes);
        self.arm_group(group);
    }
}

/// Asks a server how it is, on a connection of its own.
fn look_at<S: 'static>(cx: &mut Ctx<'_, S>, group: usize, server: usize) {
    let Some(upstream) = cx.core.upstreams.get(group) else {
        return;
    };
    let (name, check, timeout) = (
        upstream.name(),
        &upstream.settings.check,
        upstream.check_timeout(),
    );
    let watch = Watch::new(check.expect.clone());
    let agent = "loopwright health check";
    let fetch = Fetch::get(&check.path).header("user-agent", agent);
    let look = Rc::new(Look::default());
    let mut verdict = Looked {
        group,
        server,
        watch,
        look: look.clone(),
    };
    let then = move |cx: &mut Ctx<'_, S>, answer: Result<Fetched<'_>, FetchError>| match answer {
        Err(why) => verdict.tell(cx, Err(why.to_string())),
        Ok(answer) => match verdict.watch.head(answer.status().as_u16()) {
            Some(result) => verdict.tell(cx, result.map_err(|why| why.to_string())),
            None => {
                let step = |verdict: &mut Looked, cx: &mut Ctx<'_, S>, piece: &[u8]| {
                    if let Some(result) = verdict.watch.data(piece) {
                        verdict.tell(cx, result.map_err(|why| why.to_string()));
                    }
                    Demand::More
                };
                answer
                    .into_body()
                    .fold(cx, verdict, step, |mut verdict, cx, end| {
                        let result = match end {
                            Ok(_) => verdict.watch.end().map_err(|why| why.to_string()),
                            Err(why) => Err(why.to_string()),
                        };
                        verdict.tell(cx, result);
                    });
            }
        },
    };
    let handle = cx.ask(&name, fetch, Some((group, server)), Box::new(then));
    look.fetch.set(Some(handle));
    let mut late = Looked {
        group,
        server,
        watch: Watch::new(Arc::default()),
        look,
    };
    cx.after(timeout, move |cx| {
        late.tell(
            cx,
            Err(format!("not answered within health.timeout = {timeout:?}")),
        );
    });
}

/// What those who may end a look at a server share.
#[derive(Default)]
struct Look {
    /// What came of it has been told.
    told: Cell<bool>,
    fetch: Cell<Option<FetchHandle>>,
}

/// One look at a server's health.
struct Looked {
    group: usize,
    server: usize,
    watch: Watch,
    look: Rc<Look>,
}

impl Looked {
    fn tell<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, result: Result<(), String>) {
        if self.look.told.replace(true) {
            return;
        }
        // Nobody reads the rest.
        if let Some(fetch) = self.look.fetch.take() {
            fetch.cancel();
        }
        let (now, server) = (cx.core.now, self.server);
        cx.core.upstreams.with(self.group, |upstream, rng| {
            let changes = upstream.health.on_check(server, result, now, rng);
            upstream.tell(&changes);
        });
        cx.core.jobs.push_back(Job::RunGroup(self.group));
    }
}
