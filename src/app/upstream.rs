//! Floor 2. An upstream: servers that answer for each other, and everything that holds for them.
//!
//! Registered by name with [`crate::App::upstream`], asked by [`crate::Ctx::fetch`]. What it decides by is
//! in `crate::upstream`; what is going on in it, in `group.rs`.

use super::mistake::{Mistake, Place};
use crate::base::lookup::{Address, Question};
use crate::net::Target;
use crate::proto::h1::client::ClientWaits;
use crate::upstream::balance::{MAX_WEIGHT, Policy};
use crate::upstream::circuit::Counts;
use crate::upstream::expect::Expect;
use crate::upstream::health;
use crate::upstream::pool;
use crate::upstream::retry::Rules;
use std::sync::Arc;
use std::time::Duration;

/// Servers that answer for each other.
///
/// ```
/// use loopwright::{App, Backend, Balance, Upstream, UpstreamTimeouts};
/// use std::time::Duration;
/// let mut app: App = App::new();
/// app.upstream(
///     "api",
///     Upstream::new(["http://10.0.0.1:8080", "http://10.0.0.2:8080"])
///         .server(Backend::new("unix:/run/api.sock").weight(3))
///         .server(Backend::new("http://10.0.1.1:8080").backup())
///         .balance(Balance::TwoChoices)
///         .timeouts(UpstreamTimeouts { first_byte: Duration::from_secs(5), ..UpstreamTimeouts::default() }),
/// );
/// ```
#[derive(Clone, Debug)]
pub struct Upstream {
    pub(crate) servers: Vec<Backend>,
    pub(crate) settings: Settings,
}

/// What holds for all servers of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) balance: Policy,
    pub(crate) pool: pool::Bounds,
    pub(crate) health: health::Settings,
    pub(crate) check: Check,
    pub(crate) retries: Retries,
    pub(crate) timeouts: UpstreamTimeouts,
    pub(crate) limits: UpstreamLimits,
    pub(crate) circuit: Counts,
    pub(crate) introduction: Introduction,
    #[cfg(feature = "sticky")]
    pub(crate) sticky: Option<Arc<crate::upstream::sticky::Sticky>>,
}

/// What a look at a server's health asks, and what it hopes for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Check {
    pub(crate) path: String,
    pub(crate) expect: Arc<Expect>,
}

/// Whether a server is told, before anything else, whose connection it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Introduction {
    /// It is not.
    #[default]
    None,
    /// By version 1 of the PROXY protocol: a line. Connections are then not used again for others.
    V1,
    /// By version 2, in binary.
    V2,
}

/// One server of an [`Upstream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub(crate) to: String,
    pub(crate) weight: u32,
    pub(crate) backup: bool,
}

impl Backend {
    /// `http://host:port`, `host:port`, `http://host` (port 80), `[ipv6]:port` or `unix:/path`: one server, at any
    /// of its addresses if it has many. `dns:host:port`: each address of the name is a server.
    /// `srv:_service._tcp.name`: each that those records name is one, with its weight (up to 1,000); those that are not
    /// the first choice are backups. These come and go as answers change.
    pub fn new(to: impl Into<String>) -> Backend {
        Backend {
            to: to.into(),
            weight: 1,
            backup: false,
        }
    }

    /// Its share of the requests beside the others', from 1 to 1,000. Default 1.
    pub fn weight(self, weight: u32) -> Backend {
        Backend { weight, ..self }
    }

    /// Used only when no other can be.
    pub fn backup(self) -> Backend {
        Backend {
            backup: true,
            ..self
        }
    }
}

/// The same as [`Backend::new`], looked at before.
///
/// ```
/// use loopwright::Backend;
/// assert_eq!("10.0.0.1:80".parse(), Ok(Backend::new("10.0.0.1:80")));
/// assert!("https://example.org".parse::<Backend>().is_err());
/// ```
impl std::str::FromStr for Backend {
    type Err = String;

    fn from_str(to: &str) -> Result<Backend, String> {
        to.parse::<Origin>().map(|_| Backend::new(to))
    }
}

/// Where it is, as written.
impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to)
    }
}

impl From<&str> for Backend {
    fn from(to: &str) -> Backend {
        Backend::new(to)
    }
}

impl From<String> for Backend {
    fn from(to: String) -> Backend {
        Backend::new(to)
    }
}

/// How long an upstream may take.
///
/// ```
/// use loopwright::UpstreamTimeouts;
/// use std::time::Duration;
/// assert_eq!(UpstreamTimeouts::default().connect, Duration::from_secs(3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// To make a connection, all addresses of a name together; 504 past it. Default 3 s.
    pub connect: Duration,
    /// From the end of the request to the first byte of the answer; 504 past it. Default 30 s.
    pub first_byte: Duration,
    /// For `100 Continue`, if the client waits for it; then the body is sent without (RFC 9110 §10.1.1). Default 1 s.
    pub expect: Duration,
    /// Between two pieces of the answer, or of the request being taken. Default 30 s.
    pub read: Duration,
    /// For a whole fetch up to its answer's head, with all tries; 504 past it. 0: no limit, which is the
    /// default.
    pub total: Duration,
    /// How long a tunnel (a WebSocket that is passed through) may be silent in both directions. Default 1 h.
    pub tunnel: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> UpstreamTimeouts {
        UpstreamTimeouts {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(30),
            expect: Duration::from_secs(1),
            read: Duration::from_secs(30),
            total: Duration::ZERO,
            tunnel: Duration::from_secs(3600),
        }
    }
}

impl UpstreamTimeouts {
    pub(crate) fn waits(&self) -> ClientWaits {
        ClientWaits {
            first_byte: self.first_byte,
            read: self.read,
        }
    }
}

/// How much an upstream may send. Sizes in bytes.
///
/// ```
/// use loopwright::UpstreamLimits;
/// assert_eq!(UpstreamLimits::default().head, 64 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Status line and fields of one answer; 502 past it. At most 1 MiB. Default 64 KiB.
    pub head: usize,
    /// Field lines of one answer; 502 past it. At most 128. Default 128.
    pub fields: usize,
    /// An answer's body; broken off past it. 0: no limit, which is the default: a body is passed on as it
    /// comes.
    pub body: u64,
    /// An answer's body that is collected in memory ([`crate::Fetched::collect`]). Default 16 MiB.
    pub collect: usize,
}

impl Default for UpstreamLimits {
    fn default() -> UpstreamLimits {
        UpstreamLimits {
            head: 64 * 1024,
            fields: 128,
            body: 0,
            collect: 16 << 20,
        }
    }
}

/// When a request is sent again, to another server; docs/proxy.md has the table of when that is safe.
///
/// ```
/// use loopwright::Retries;
/// let retries = Retries { statuses: vec![502, 503], ..Retries::default() };
/// assert_eq!(retries.tries, 2);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// How many tries there may be, the first included. Default 2.
    pub tries: u32,
    /// Answers with these statuses are not passed on while there are tries left. Default none.
    pub statuses: Vec<u16>,
    /// Whether a request is sent again when an answer does not begin in time. Default no.
    pub timeouts: bool,
    /// Tries again, as a share of the requests of the last ten seconds. Default 0.2.
    pub budget: f64,
    /// Tries again a second that are always there. Default 3.
    pub floor: u32,
    /// Of a request's body, so many bytes are kept to be sent again. Default 64 KiB.
    pub replay: usize,
    /// A second server is asked when the first takes longer than this share of answers: 0.95. The first answer
    /// counts, the other is given up. Default never.
    pub hedge: Option<f64>,
}

impl Default for Retries {
    fn default() -> Retries {
        let Rules {
            tries,
            statuses,
            timeouts,
        } = Rules::default();
        Retries {
            tries,
            statuses,
            timeouts,
            budget: 0.2,
            floor: 3,
            replay: 64 * 1024,
            hedge: None,
        }
    }
}

impl Retries {
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            tries: self.tries,
            statuses: self.statuses.clone(),
            timeouts: self.timeouts,
        }
    }
}

impl Upstream {
    /// These servers, everything else as by default.
    pub fn new<T: Into<Backend>>(servers: impl IntoIterator<Item = T>) -> Upstream {
        let check = Check {
            path: "/".into(),
            expect: Arc::default(),
        };
        Upstream {
            servers: servers.into_iter().map(T::into).collect(),
            settings: Settings {
                balance: Policy::default(),
                pool: pool::Bounds::default(),
                health: health::Settings::default(),
                check,
                retries: Retries::default(),
                timeouts: UpstreamTimeouts::default(),
                limits: UpstreamLimits::default(),
                circuit: Counts::default(),
                introduction: Introduction::None,
                #[cfg(feature = "sticky")]
                sticky: None,
            },
        }
    }

    /// One server more.
    pub fn server(mut self, server: impl Into<Backend>) -> Upstream {
        self.servers.push(server.into());
        self
    }

    /// How a server is chosen. Default: in turns, by weight.
    pub fn balance(mut self, balance: Policy) -> Upstream {
        self.settings.balance = balance;
        self
    }

    /// How many connections there are, and who waits for one.
    pub fn pool(mut self, pool: pool::Bounds) -> Upstream {
        self.settings.pool = pool;
        self
    }

    /// When a server may be used.
    pub fn health(mut self, health: health::Settings) -> Upstream {
        self.settings.health = health;
        self
    }

    /// What a check asks for, and what is a good answer; checks are made if `health` says how often.
    pub fn check(mut self, path: impl Into<String>, expect: Expect) -> Upstream {
        self.settings.check = Check {
            path: path.into(),
            expect: Arc::new(expect),
        };
        self
    }

    /// When a request is sent again.
    pub fn retries(mut self, retries: Retries) -> Upstream {
        self.settings.retries = retries;
        self
    }

    /// How long it may take.
    pub fn timeouts(mut self, timeouts: UpstreamTimeouts) -> Upstream {
        self.settings.timeouts = timeouts;
        self
    }

    /// How much it may send.
    pub fn limits(mut self, limits: UpstreamLimits) -> Upstream {
        self.settings.limits = limits;
        self
    }

    /// How much of it may be in use at once; more is answered 503 at once.
    pub fn circuit(mut self, circuit: Counts) -> Upstream {
        self.settings.circuit = circuit;
        self
    }

    /// Has servers told by the PROXY protocol whose connection they are given.
    pub fn introduction(mut self, introduction: Introduction) -> Upstream {
        self.settings.introduction = introduction;
        self
    }

    /// A client that a proxy serves stays with its server, by a signed cookie.
    #[cfg(feature = "sticky")]
    pub fn sticky(mut self, sticky: crate::upstream::sticky::Sticky) -> Upstream {
        self.settings.sticky = Some(Arc::new(sticky));
        self
    }

    /// Everything that is wrong with it.
    pub(crate) fn mistakes(&self, name: &str) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut say = |key: &str, text: String| {
            let place = Place::Setting(format!("upstreams.{name}.{key}"));
            mistakes.push(Mistake::new(
                place,
                format!("upstreams.{name}.{key}: {text}"),
            ));
        };
        if self.servers.is_empty() {
            say("servers", "none: want at least one".into());
        }
        for server in &self.servers {
            if let Err(why) = server.to.parse::<Origin>() {
                say("servers", format!("{:?}: {why}", server.to));
            }
            if !(1..=MAX_WEIGHT).contains(&server.weight) {
                say(
                    "servers",
                    format!("weight = {}: want 1 to {MAX_WEIGHT}", server.weight),
                );
            }
        }
        self.settings.check_ranges(&mut |key, want| {
            say(key, format!("out of range: want {want}"));
        });
        mistakes
    }
}

impl Settings {
    /// Says the key of each value that cannot be, and what can.
    fn check_ranges(&self, say: &mut dyn FnMut(&str, &str)) {
        let mut unless = |is_right: bool, key: &str, want: &str| {
            if !is_right {
                say(key, want);
            }
        };
        let (limits, circuit) = (&self.limits, &self.circuit);
        let head = (64..=1 << 20).contains(&limits.head);
        unless(head, "limits.head", "64 B to 1 MiB");
        let fields = (1..=128).contains(&limits.fields);
        unless(fields, "limits.fields", "1 to 128");
        unless(limits.collect > 0, "limits.collect", "1 B or more");
        let more = "1 or more";
        unless(circuit.connections > 0, "limits.connections", more);
        unless(circuit.requests > 0, "limits.requests", more);
        let pool = &self.pool;
        unless(pool.most > 0, "pool.connections", more);
        let warm = pool.warm <= pool.idle.min(pool.most);
        unless(
            warm,
            "pool.warm",
            "no more than `pool.idle` and `pool.connections`",
        );
        unless(is_share(pool.jitter), "pool.jitter", "0% to 100%");
        let timeouts = &self.timeouts;
        let outliers = &self.health.outliers;
        let mut waits = vec![
            ("timeouts.connect", timeouts.connect),
            ("timeouts.first_byte", timeouts.first_byte),
            ("timeouts.read", timeouts.read),
            ("timeouts.expect", timeouts.expect),
            ("timeouts.tunnel", timeouts.tunnel),
            ("pool.idle_for", pool.idle_for),
            ("pool.lifetime", pool.lifetime),
            ("pool.queue_wait", pool.queue_wait),
            ("outliers.base_ejection", outliers.ejection),
        ];
        if let Policy::Latency { decay } = self.balance {
            waits.push(("balance.decay", decay));
        }
        if let Some(checks) = &self.health.checks {
            waits.push(("health.interval", checks.interval));
            waits.push(("health.timeout", checks.timeout));
            unless(checks.rise > 0, "health.rise", more);
            unless(checks.fall > 0, "health.fall", more);
            // All of it would be no interval at all.
            let jitter = (0.0..=0.5).contains(&checks.jitter);
            unless(jitter, "health.jitter", "0% to 50%");
            let Check { path, expect } = &self.check;
            let is_path = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
            let want = "a path that begins with /, other characters as %XX";
            unless(is_path && !path.contains('#'), "health.path", want);
            let within = (1..=1 << 20).contains(&expect.within);
            unless(within, "health.within", "1 B to 1 MiB");
            let length = expect.body.as_ref().map(String::len);
            let body = length.is_none_or(|length| (1..=expect.within).contains(&length));
            unless(body, "health.body", "text, no longer than `health.within`");
        }
        for (key, wait) in waits {
            unless(!wait.is_zero(), key, "more than \"0s\"");
        }
        let longest = outliers.longest >= outliers.ejection;
        let want = "`outliers.base_ejection` or more";
        unless(longest, "outliers.max_ejection", want);
        let all = "0% to 100%";
        unless(is_share(outliers.most), "outliers.max_ejected", all);
        unless(is_share(outliers.margin), "outliers.margin", all);
        unless(is_share(self.health.panic), "outliers.panic_threshold", all);
        unless(outliers.volume > 0, "outliers.request_volume", more);
        unless(
            outliers.servers > 1,
            "outliers.minimum_servers",
            "2 or more",
        );
        let deviations = outliers.deviations > 0.0 && outliers.deviations.is_finite();
        unless(deviations, "outliers.stdev_factor", "more than 0");
        let floor = self.health.slow_start_floor;
        let floor = is_share(floor) && floor > 0.0;
        unless(
            floor,
            "outliers.slow_start_min_weight",
            "more than 0%, to 100%",
        );
        let aggression = (0.1..=10.0).contains(&self.health.aggression);
        unless(aggression, "outliers.slow_start_aggression", "0.1 to 10");
        let retries = &self.retries;
        unless(
            (1..=16).contains(&retries.tries),
            "retries.tries",
            "1 to 16",
        );
        unless(is_share(retries.budget), "retries.budget", all);
        let hedge = retries
            .hedge
            .is_none_or(|share| (0.5..=0.99).contains(&share));
        unless(hedge, "retries.hedge", "50% to 99%");
        if let Policy::Hash { load } = self.balance {
            unless(load > 1.0, "balance.load", "more than 1");
        }
    }
}

fn is_share(part: impl Into<f64>) -> bool {
    (0.0..=1.0).contains(&part.into())
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Known(Target),
    /// One server, at any of the addresses of a name.
    Name {
        host: String,
        port: u16,
    },
    /// As many servers as a name has addresses.
    Each {
        host: String,
        port: u16,
    },
    /// As many as the records of a service name.
    Srv(String),
}

impl Origin {
    /// What `host` says of it.
    pub(crate) fn host(&self) -> String {
        match self {
            Origin::Known(Target::Inet(address)) => match address {
                std::net::SocketAddr::V4(v4) => authority(v4.ip().to_string(), v4.port()),
                std::net::SocketAddr::V6(v6) => authority(format!("[{}]", v6.ip()), v6.port()),
            },
            Origin::Known(Target::Unix(_)) => "localhost".to_string(),
            Origin::Name { host, port } | Origin::Each { host, port } => {
                authority(host.trim_end_matches('.').to_string(), *port)
            }
            Origin::Srv(name) => name.trim_end_matches('.').to_string(),
        }
    }

    /// What is to be looked up for it.
    pub(crate) fn question(&self) -> Option<Question> {
        match self {
            Origin::Known(_) => None,
            Origin::Name { host, port } | Origin::Each { host, port } => Some(Question::Host {
                name: host.clone(),
                port: *port,
            }),
            Origin::Srv(name) => Some(Question::Service { name: name.clone() }),
        }
    }

    /// What `host` says of a server that an address of its name is.
    pub(crate) fn host_of(&self, address: &Address) -> String {
        match self {
            Origin::Srv(_) => authority(address.host.clone(), address.addr.port()),
            _ => self.host(),
        }
    }
}

fn authority(host: String, port: u16) -> String {
    match port {
        80 => host,
        port => format!("{host}:{port}"),
    }
}

impl std::str::FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Origin, String> {
        let want = "want \"http://host:port\", \"host:port\", \"dns:host:port\", \"unix:/path\" or \"srv:_http._tcp.name\"";
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(format!("{want}: the path of a Unix socket begins with /"));
            }
            return Ok(Origin::Known(Target::Unix(path.into())));
        }
        if let Some(name) = text.strip_prefix("srv:") {
            let is_name = name.starts_with('_') && name.contains('.') && is_host(name);
            return match is_name {
                true => Ok(Origin::Srv(name.to_string())),
                false => Err(want.to_string()),
            };
        }
        if let Some(name) = text.strip_prefix("dns:") {
            // A scheme is one too many; an address has no addresses.
            return match name.parse() {
                Ok(Origin::Name { host, port }) if !name.contains('/') => {
                    Ok(Origin::Each { host, port })
                }
                _ => Err(want.to_string()),
            };
        }
        if text.starts_with("https://") {
            return Err("upstreams over TLS are not there yet: want \"http://…\"".to_string());
        }
        let (authority, has_scheme) = match text.strip_prefix("http://") {
            Some(rest) => (rest.strip_suffix('/').unwrap_or(rest), true),
            None => (text, false),
        };
        if authority.contains("://") {
            return Err(want.to_string());
        }
        if authority.contains('/') {
            return Err(format!(
                "{want}, without a path: a route's proxy has its own"
            ));
        }
        if let Ok(address) = authority.parse() {
            return Ok(Origin::Known(Target::Inet(address)));
        }
        if let Ok(ip) = authority.trim_matches(['[', ']']).parse()
            && has_scheme
        {
            return Ok(Origin::Known(Target::Inet(std::net::SocketAddr::new(
                ip, 80,
            ))));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| want.to_string())?),
            None if has_scheme => (authority, 80),
            None => return Err(format!("{want}: the port is missing")),
        };
        if port == 0 || !is_host(host) {
            return Err(want.to_string());
        }
        Ok(Origin::Name {
            // A dot at its end says that no search domain goes behind it.
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

/// RFC 1123 §2.1, and the underscore that names of services have.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() < 64 && label.bytes().all(is_known)
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() < 254 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (text, host) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://127.0.0.1", "127.0.0.1"),
            ("http://[::1]:81/", "[::1]:81"),
            ("http://[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("http://App.internal", "app.internal"),
            ("app.internal.:81", "app.internal:81"),
            ("unix:/run/a.sock", "localhost"),
            ("srv:_http._tcp.app.internal", "_http._tcp.app.internal"),
            ("dns:App.internal:81", "app.internal:81"),
        ] {
            let origin: Origin = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(origin.host(), host, "{text}");
        }
        let question = |text: &str| text.parse::<Origin>().unwrap().question().unwrap();
        for text in ["app.internal.:81", "dns:app.internal.:81"] {
            let (name, port) = ("app.internal.".to_string(), 81);
            assert_eq!(question(text), Question::Host { name, port });
        }
        let name = "_http._tcp.app.".to_string();
        assert_eq!(question("srv:_http._tcp.app."), Question::Service { name });
        for bad in [
            "",
            "a",
            "http://",
            "https://a",
            "a:0",
            "a:99999",
            "a:b",
            "unix:a",
            "srv:a.b",
            "dns:a.b",
            "dns:http://a:1",
            "dns:10.0.0.1:80",
            "dns:dns:a:1",
            "dns:srv:_http._tcp.a",
            "http://a/b",
            "a b:1",
            "-:x",
            "a..b:1",
            "http://u@h:1",
            "::1",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
