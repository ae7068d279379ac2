//! Floor 3. Putting a server together: addresses, bounds, routes, state. What is wrong is told here,
//! all of it, and never later.

use super::Reactor;
use super::addresses::Addresses;
use super::conn::Conns;
use super::shutdown::Stopping;
use super::sites::Sites;
use super::watch::Watch;
use crate::app::ctx::{Core, Job};
use crate::app::lookups::Lookups;
use crate::app::mailbox::Mailbox;
use crate::app::mistake::{Mistake, Place};
use crate::app::routes::App;
use crate::app::settings::{Limits, Timeouts, bounds};
use crate::app::site::Site;
use crate::app::slow::Slow;
use crate::app::store::Stores;
use crate::app::websocket::SocketSettings;
use crate::base::clock::{Instant, StockFields};
use crate::base::topics::TopicLimits;
use crate::net::Net;
use crate::net::mio::{Bounds, Listen, MioNet};
use crate::net::sim::SimNet;
use crate::proto::forwarded::Trusted;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::ws::send::Outbound;
use crate::proto::ws::session::Inbound;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// A server on this machine's sockets, or, as `Server<S, SimNet>`, in the simulator.
///
/// ```no_run
/// use loopwright::{App, Server};
///
/// fn main() -> std::io::Result<()> {
///     let mut app = App::new();
///     app.get("/", |_, _, res| res.text("Hello, World!"));
///     Server::bind("127.0.0.1:8080", app, ())?.run()
/// }
/// ```
pub type Server<S = (), N = MioNet> = Reactor<N, S>;

/// What a server is to be like; from [`Server::builder`].
///
/// ```
/// use loopwright::{App, Limits, Server, Timeouts};
/// use std::time::Duration;
///
/// let server = Server::builder()
///     .listen("127.0.0.1:0")
///     .listen("[::1]:0")
///     .limits(Limits { body: 8 << 20, ..Limits::default() })
///     .timeouts(Timeouts { idle: Duration::from_secs(20), ..Timeouts::default() })
///     .server_header(None)
///     .build(App::new(), ());
/// # drop(server);
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    listen: Vec<String>,
    limits: Limits,
    timeouts: Timeouts,
    lookups: Lookups,
    server_header: Option<String>,
    proxy_protocol: Trusted,
    seed: Option<u64>,
}

/// Descriptors kept for files, pipes and everything else that is no client.
const RESERVED_FILES: u64 = 64;
/// The level of compression of messages: quick.
const COMPRESSION: u8 = 1;

impl Builder {
    /// Another address to listen on: `ip:port`, `[ipv6]:port`, `localhost:port` (127.0.0.1), `unix:/path`. Port 0 takes a free one.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(address.into());
        self
    }

    /// How much of anything there may be.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long anybody may take.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// How names of upstreams' servers are looked up.
    pub fn lookups(mut self, lookups: Lookups) -> Self {
        self.lookups = lookups;
        self
    }

    /// The value of the `server` field; `None` leaves it out. Default `loopwright`.
    pub fn server_header(mut self, value: Option<&str>) -> Self {
        self.server_header = value.map(str::to_string);
        self
    }

    /// Whose connections begin with a header of the PROXY protocol, version 1 or 2: those from these
    /// addresses have to, and from then on are those of the client that the header names, in
    /// [`crate::Request::remote`], the access log and `limits.connections_per_address`. From anybody else it is a
    /// malformed request. By default nobody's.
    ///
    /// ```
    /// use loopwright::{App, Server, Trusted};
    /// let balancers = Trusted::parse(["10.0.0.0/8", "::1"]).unwrap();
    /// let server = Server::builder().listen("127.0.0.1:0").proxy_protocol(balancers).build(App::new(), ());
    /// # drop(server);
    /// ```
    pub fn proxy_protocol(mut self, proxies: Trusted) -> Self {
        self.proxy_protocol = proxies;
        self
    }

    /// Opens the listeners.
    ///
    /// # Errors
    /// `InvalidInput`, with all mistakes in limits and routes, a line each; otherwise the error of
    /// the first listener that cannot be opened, named.
    pub fn build<S: 'static>(self, app: App<S>, state: S) -> io::Result<Server<S>> {
        let site = self.check(app).map_err(invalid)?;
        let net = MioNet::bind(&self.addresses()?, self.net_bounds())?;
        Ok(self.within_file_limit().assemble(net, site, state))
    }

    /// The same, but where `real` says for each address.
    #[cfg(feature = "cli")]
    pub(crate) fn with_addresses(mut self, mut real: impl FnMut(&str) -> String) -> Builder {
        self.listen = self.listen.iter().map(|asked| real(asked)).collect();
        self
    }

    /// Those of its addresses on which somebody listens already.
    #[cfg(feature = "cli")]
    pub(crate) fn taken(&self) -> Vec<Listen> {
        let all = self.addresses().unwrap_or_default();
        all.into_iter().filter(crate::net::mio::is_taken).collect()
    }

    fn addresses(&self) -> io::Result<Vec<Listen>> {
        if self.listen.is_empty() {
            let why = "no address to listen on: Builder::listen";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.listen.iter().map(|text| text.parse()).collect()
    }

    fn net_bounds(&self) -> Bounds {
        Bounds {
            threads: self.limits.offload_threads,
            queue: self.limits.offload_queue,
            unsent: u32::try_from(self.limits.unsent).unwrap_or(u32::MAX),
            keepalive: self.timeouts.tcp_keepalive,
        }
    }

    /// No more connections than the operating system lets us have.
    fn within_file_limit(mut self) -> Builder {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if let Some(files) = files {
            let allowed = usize::try_from(files.saturating_sub(RESERVED_FILES))
                .unwrap_or(usize::MAX)
                .max(1);
            self.limits.connections = self.limits.connections.min(allowed);
        }
        self
    }

    /// The same server in a simulated world; see [`SimNet`].
    ///
    /// # Errors
    /// As [`Builder::build`], but for listeners.
    pub fn simulate<S: 'static>(
        self,
        net: SimNet,
        app: App<S>,
        state: S,
    ) -> io::Result<Server<S, SimNet>> {
        let site = self.check(app).map_err(invalid)?;
        let builder = Builder {
            seed: Some(0),
            ..self
        };
        Ok(builder.assemble(net, site, state))
    }

    /// The site, or everything that is wrong with it and with the bounds.
    pub(crate) fn check<S: 'static>(&self, app: App<S>) -> Result<Site<S>, Vec<Mistake>> {
        let mut mistakes = self.limits.mistakes();
        mistakes.extend(self.timeouts.mistakes());
        mistakes.extend(self.lookups.mistakes());
        if let Some(value) = &self.server_header {
            let mut fields = FieldBlock::default();
            fields.push(b"server", value.as_bytes());
            if fields.fault().is_some() || value.is_empty() {
                let text = "server_header: not a field value";
                let place = Place::Setting("server.server_header".to_string());
                mistakes.push(Mistake::new(place, text));
            }
        }
        match Site::build(app) {
            Ok(site) if mistakes.is_empty() => Ok(site),
            site => {
                mistakes.extend(site.err().unwrap_or_default());
                Err(mistakes)
            }
        }
    }

    fn assemble<N: Net, S: 'static>(self, net: N, mut site: Site<S>, state: S) -> Reactor<N, S> {
        let mailbox = Arc::new(Mailbox::new(net.waker(), self.limits.posts));
        // Request ids of two lives of a server should not meet in one log.
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        let mut core = Core::new(mailbox, seed);
        bound_core(&mut core, &self.limits, &self.timeouts);
        core.upstreams.set_lookups(self.lookups);
        let bus = site.bus.take();
        core.has_bus = bus.is_some();
        if bus.is_some() {
            core.jobs.push_back(Job::StartBus);
        }
        let mut stock = StockFields::new(self.server_header);
        stock.refresh(net.now(), || net.wall_clock());
        let upstreams = std::mem::take(&mut site.upstreams);
        let stores = std::mem::replace(&mut site.stores, Stores::new());
        let mut reactor = Reactor {
            acceptable: vec![false; net.listeners()],
            net,
            conns: Conns::default(),
            exchanges: Slab::new(),
            sockets: Slab::new(),
            links: Slab::new(),
            dialled: Slab::new(),
            dials: Slab::new(),
            tunnels: Slab::new(),
            bus,
            inbound: Inbound::default(),
            outbound: Outbound::new(COMPRESSION, self.limits.compress_from),
            sites: Sites::new(site),
            state,
            outbox: core.outbox.clone(),
            core,
            stock,
            now: Instant::default(),
            bounds: bounds(&self.limits, &self.timeouts),
            watch: Watch::new(self.timeouts.stall),
            addresses: Addresses::new(
                self.limits.connections_per_address,
                self.limits.connections,
                std::iter::empty(),
            ),
            proxies: self.proxy_protocol,
            commands_left: self.limits.commands_per_turn,
            limits: self.limits,
            timeouts: self.timeouts,
            runnable: VecDeque::new(),
            ready: Vec::new(),
            mail: VecDeque::new(),
            inbox: vec![0; super::INBOX],
            cork: Vec::new(),
            spare: Vec::new(),
            partner: None,
            rewoken: false,
            fields: FieldBlock::default(),
            scratch: Vec::new(),
            settling: false,
            woken: VecDeque::new(),
            polled: VecDeque::new(),
            calls_left: 0,
            late: VecDeque::new(),
            tasks_left: 0,
            running: None,
            accept_paused: false,
            accept_warned: None,
            stopping: Stopping::No,
            cut_answers: 0,
        };
        reactor.set_stores(stores);
        reactor.set_upstreams(&upstreams);
        reactor
    }
}

/// What callbacks meet of the bounds, from the beginning and after a reload.
fn bound_core<S>(core: &mut Core<S>, limits: &Limits, timeouts: &Timeouts) {
    core.outbox.high_water.set(limits.high_water);
    core.mailbox.set_limit(limits.posts);
    core.tasks.limit.set(limits.tasks);
    core.heartbeat = timeouts.heartbeat;
    // For sockets whose handshake does not say otherwise.
    core.sockets = SocketSettings {
        message: limits.message,
        output: limits.socket_output,
        slow: Slow::default(),
        fragments: false,
    };
    core.topics.set_limits(TopicLimits {
        subscriptions: limits.subscriptions,
        publications: limits.publications,
        bytes: limits.published,
    });
}

/// For those who get no more than an error.
fn invalid(mistakes: Vec<Mistake>) -> io::Error {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    io::Error::new(io::ErrorKind::InvalidInput, lines.join("\n"))
}

impl<N: Net, S: 'static> Reactor<N, S> {
    /// The stores of a site that begins, or replaces another.
    fn set_stores(&mut self, stores: Stores<S>) {
        for job in self.core.stores.replace(stores) {
            self.core.jobs.push_back(job);
        }
    }

    /// Everything but the addresses, between two turns.
    fn replace(&mut self, builder: Builder, mut site: Site<S>) {
        let upstreams = std::mem::take(&mut site.upstreams);
        let stores = std::mem::replace(&mut site.stores, Stores::new());
        let number = self.sites.number();
        let begun = self.exchanges.iter();
        let open = begun
            .filter(|(_, exchange)| exchange.start().is_some_and(|start| start.site == number));
        let open = open.count();
        self.sites.replace(site, open);
        self.bounds = bounds(&builder.limits, &builder.timeouts);
        self.watch.threshold = builder.timeouts.stall;
        bound_core(&mut self.core, &builder.limits, &builder.timeouts);
        self.core.upstreams.set_lookups(builder.lookups);
        self.outbound = Outbound::new(COMPRESSION, builder.limits.compress_from);
        self.stock = StockFields::new(builder.server_header);
        let (now, net) = (self.net.now(), &self.net);
        self.stock.refresh(now, || net.wall_clock());
        (self.limits, self.timeouts) = (builder.limits, builder.timeouts);
        self.proxies = builder.proxy_protocol;
        let (one, all) = (self.limits.connections_per_address, self.limits.connections);
        self.addresses = Addresses::new(one, all, self.conns.peers());
        self.set_stores(stores);
        self.set_upstreams(&upstreams);
        // Their deadlines are made from the timeouts when they have run.
        for id in self.conns.ids() {
            self.wake(id);
        }
    }
}

impl Reactor<MioNet, ()> {
    /// A server with everything as by default, to be changed.
    pub fn builder() -> Builder {
        Builder {
            listen: Vec::new(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            lookups: Lookups::default(),
            server_header: Some("loopwright".to_string()),
            proxy_protocol: Trusted::default(),
            seed: None,
        }
    }
}

impl<S: 'static> Reactor<MioNet, S> {
    /// A server with every limit and timeout as by default, on one address; see [`Builder::listen`].
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn bind(address: impl Into<String>, app: App<S>, state: S) -> io::Result<Server<S>> {
        Server::builder().listen(address).build(app, state)
    }

    /// From now on it is what `builder` would build from `app`, without a connection refused or
    /// closed: requests that have begun end as they would have, with the routes, hooks and pages they
    /// began with; every other request meets the new ones, on old connections, too. State and timers
    /// stay. Addresses that are still listened on are left alone; of those that are not, the queued
    /// connections are accepted before they are closed.
    ///
    /// # Errors
    /// As [`Builder::build`]; then everything is as it was. `NotConnected` from a server that drains.
    ///
    /// ```
    /// use loopwright::{App, Server};
    /// let mut app: App = App::new();
    /// app.get("/", |_, _, res| res.text("old"));
    /// let builder = Server::builder().listen("127.0.0.1:0");
    /// let mut server = builder.clone().build(app, ()).unwrap();
    /// let before = server.addresses();
    ///
    /// let mut app: App = App::new();
    /// app.get("/", |_, _, res| res.text("new"));
    /// server.reload(builder, app).unwrap();
    /// assert_eq!(server.addresses(), before);
    /// ```
    pub fn reload(&mut self, builder: Builder, app: App<S>) -> io::Result<()> {
        if self.stopping.is_draining() {
            let why = "the server is about to leave";
            return Err(io::Error::new(io::ErrorKind::NotConnected, why));
        }
        let site = builder.check(app).map_err(invalid)?;
        let unwanted = self
            .net
            .listen_on(&builder.addresses()?, builder.net_bounds())?;
        self.acceptable.resize(self.net.listeners(), true);
        for listener in unwanted {
            self.take_queue(listener);
            self.net.close_listener(listener);
        }
        self.replace(builder.within_file_limit(), site);
        Ok(())
    }

    /// Where it listens: port 0 has become a port.
    pub fn addresses(&self) -> Vec<Listen> {
        self.net.addresses()
    }
}

impl<S: 'static> Reactor<SimNet, S> {
    /// A server in a simulated world, everything as by default.
    ///
    /// # Errors
    /// As [`Builder::simulate`].
    pub fn simulate(net: SimNet, app: App<S>, state: S) -> io::Result<Server<S, SimNet>> {
        Server::builder().simulate(net, app, state)
    }

    /// The same as on real sockets, but for addresses.
    ///
    /// # Errors
    /// As [`Builder::simulate`]; then everything is as it was.
    pub fn reload(&mut self, builder: Builder, app: App<S>) -> io::Result<()> {
        let site = builder.check(app).map_err(invalid)?;
        self.replace(builder, site);
        Ok(())
    }

    /// The world, to act in it as a client.
    pub fn net_mut(&mut self) -> &mut SimNet {
        &mut self.net
    }
}

impl<N: Net, S> Drop for Reactor<N, S> {
    fn drop(&mut self) {
        self.core.mailbox.close();
        // Their futures hold what holds them.
        drop(self.core.tasks.close());
        while self.core.jobs.pop_front().is_some() {}
    }
}
