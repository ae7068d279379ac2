//! Floor 2. How upstreams stand, for whoever shows it, measures it, or takes a server out of use.

use super::ctx::{Ctx, Job};
use crate::upstream::circuit::Counts;
use crate::upstream::health::State;
use crate::upstream::pool::{Counters, QueueCounters};
use std::time::Duration;

/// An upstream as it stands: see [`Ctx::upstreams`]. Each worker has its own connections, and its own numbers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpstreamStatus {
    /// Its name.
    pub name: Box<str>,
    /// Its servers; those that have left are not among them.
    pub servers: Vec<ServerStatus>,
    /// Who waits for a connection, and how that went.
    pub queue: QueueCounters,
    /// What of `limits` is in use.
    pub used: Counts,
    /// How much of it may be in use at once.
    pub limits: Counts,
    /// How often a request was sent again, or to a second server, ever.
    pub retries: u64,
    /// How often one may be now, by the budget.
    pub retries_left: u32,
    /// So few servers are usable that what is known about the others is disregarded.
    pub panicking: bool,
}

/// One server of an upstream as it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStatus {
    /// As it was given.
    pub name: Box<str>,
    /// Whether it is used.
    pub state: State,
    /// What was wrong when its last check failed; empty if none has.
    pub why: Box<str>,
    /// What of its weight counts: 0 is not at all, 1 all of it, and between them it is starting.
    pub share: f32,
    /// Requests it has been sent that are not over.
    pub in_flight: u32,
    /// Its connections.
    pub connections: Counters,
    /// How long its answers take to begin, lately; `None` while nothing is known.
    pub latency: Option<Duration>,
    /// Its weight.
    pub weight: u32,
    /// It is used only when no other can be.
    pub backup: bool,
}

impl<S: 'static> Ctx<'_, S> {
    /// How the upstreams stand, in the order in which they came.
    ///
    /// ```
    /// use loopwright::{App, Upstream};
    /// use std::fmt::Write;
    /// let mut app: App = App::new();
    /// app.upstream("api", Upstream::new(["http://127.0.0.1:9000", "http://127.0.0.1:9001"]));
    /// app.get("/upstreams", |cx, _, res| {
    ///     let mut text = String::new();
    ///     for upstream in cx.upstreams() {
    ///         let (used, limits) = (upstream.used, upstream.limits);
    ///         let _ = writeln!(text, "{}: {} of {} requests", upstream.name, used.requests, limits.requests);
    ///         for server in &upstream.servers {
    ///             let open = server.connections.open;
    ///             let _ = writeln!(text, "  {} is {}, {open} connections", server.name, server.state);
    ///         }
    ///     }
    ///     res.text(text);
    /// });
    /// let mut server = loopwright::Server::bind("127.0.0.1:0", app, ()).unwrap();
    /// let _ = server.handle().post(|cx| {
    ///     let api = &cx.upstreams()[0];
    ///     assert_eq!((&*api.name, api.servers.len(), api.used.requests), ("api", 2, 0));
    ///     cx.stop();
    /// });
    /// server.run().unwrap();
    /// ```
    pub fn upstreams(&self) -> Vec<UpstreamStatus> {
        self.core.upstreams.status(self.core.now)
    }

    /// Takes a server of an upstream, by the name it was given, out of use: no new requests go there, its idle
    /// connections are closed, those in use when their answers are complete. Its checks go on. Says whether there is
    /// such a server. It holds until [`Ctx::undrain_server`], or until the upstream is configured otherwise.
    ///
    /// ```
    /// use loopwright::{App, Upstream};
    /// let mut app: App = App::new();
    /// app.upstream("api", Upstream::new(["http://127.0.0.1:9000", "http://127.0.0.1:9001"]));
    /// app.post("/drain/{server}", |cx, req, res| {
    ///     let server = format!("http://{}", req.param("server"));
    ///     let found = cx.drain_server("api", &server);
    ///     res.status(if found { 204 } else { 404 }).empty();
    /// });
    /// ```
    pub fn drain_server(&mut self, upstream: &str, server: &str) -> bool {
        self.set_drained(upstream, server, true)
    }

    /// The end of that: the server is used again as far as its health allows, with a small share first if the
    /// upstream has a slow start.
    ///
    /// ```
    /// use loopwright::{App, Upstream};
    /// let mut app: App = App::new();
    /// app.upstream("api", Upstream::new(["http://127.0.0.1:9000"]));
    /// app.post("/undrain", |cx, _, res| {
    ///     cx.undrain_server("api", "http://127.0.0.1:9000");
    ///     res.empty();
    /// });
    /// ```
    pub fn undrain_server(&mut self, upstream: &str, server: &str) -> bool {
        self.set_drained(upstream, server, false)
    }

    fn set_drained(&mut self, upstream: &str, server: &str, drained: bool) -> bool {
        let (now, upstreams) = (self.core.now, &mut self.core.upstreams);
        let Some(number) = upstreams.find(upstream) else {
            return false;
        };
        let Some(group) = upstreams.get_mut(number) else {
            return false;
        };
        let found = group.set_drained(server, drained, now);
        // It closes what is idle, and serves who waits.
        self.core.jobs.push_back(Job::RunGroup(number));
        found
    }
}
