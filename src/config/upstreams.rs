//! Floor 5. The sections `[upstreams.NAME]`: what may stand in them, what they may not say, and what is made of them.
//!
//! What is out of range is told by `Upstream` itself, which has the same rules for embedders; here is what needs
//! a place of its own: each server, the names, the cookie.

use super::decode::{At, Decode, Reader, Short, Shorthand, Value, choice, table};
use super::kinds::{Count, Factor, Percent, Secret, Size, Status, StatusRanges, Wait};
use super::report::{self, Mistake};
use super::site::Making;
use crate::app::upstream::Origin;
use crate::service::proxy::Key;
use crate::upstream::balance::MAX_WEIGHT;
use crate::upstream::expect::Expect;
use crate::upstream::health::{Checks, Outliers};
use crate::upstream::sticky::{Sticky, StickyError};
use crate::{
    Backend, Balance, CircuitLimits, HealthSettings, Introduction, PoolLimits, Retries, Upstream,
    UpstreamLimits, UpstreamTimeouts,
};
use serde_json::{Value as Json, json};
use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub(super) struct UpstreamSection {
    servers: At<Vec<At<Short<ServerEntry>>>>,
    balance: Short<BalanceSection>,
    sticky: Option<At<StickySection>>,
    proxy_protocol: Option<Introduction>,
    pool: PoolLimits,
    health: Option<HealthSection>,
    outliers: OutlierSection,
    retries: RetrySection,
    timeouts: UpstreamTimeouts,
    limits: LimitSection,
}

table! { UpstreamSection {
    "Servers: \"http://host:port\", \"host:port\", \"dns:host:port\", \"srv:_http._tcp.name\", \"unix:/path\", or tables." servers: At<Vec<At<Short<ServerEntry>>>>,
    "How a server is chosen." balance: Short<BalanceSection>,
    "A client stays with its server, by a signed cookie." sticky: Option<At<StickySection>>,
    "The version of the PROXY protocol that tells servers whose connection they are given; left out: none." proxy_protocol: Option<Introduction>,
    "Connections to each server." pool: PoolLimits,
    "Servers are asked for a path all the time; left out: they are not." health: Option<HealthSection>,
    "Servers that serve badly are left alone for a while." outliers: OutlierSection,
    "When a request is sent again, to another server." retries: RetrySection,
    "How long servers may take." timeouts: UpstreamTimeouts,
    "How much they may send, and how much of them may be in use." limits: LimitSection,
} required ["servers"] }

choice! { Introduction { "v1" => Introduction::V1, "v2" => Introduction::V2 } }

#[derive(Clone, Debug)]
pub(super) struct ServerEntry {
    to: At<String>,
    weight: At<Count>,
    backup: bool,
}

impl Default for ServerEntry {
    fn default() -> Self {
        ServerEntry {
            to: At::default(),
            weight: At {
                value: Count(1),
                span: 0..0,
            },
            backup: false,
        }
    }
}

table! { ServerEntry {
    "Where it is, as in the string." to: At<String>,
    "Its share of the requests beside the others', 1 to 1,000." weight: At<Count>,
    "Whether it is used only when no other can be." backup: bool,
} required ["to"] }

impl Shorthand for ServerEntry {
    type Word = String;
    const WHAT: &'static str = "a server's address";
    fn of(to: At<String>) -> Self {
        let other = ServerEntry::default();
        ServerEntry { to, ..other }
    }
}

/// A policy that needs nothing but its name.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Policy(Balance);

impl Decode for Policy {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let names = Balance::NAMED.map(|(name, _)| name);
        let text = reader.text(value, "a word in quotes", "\"round_robin\"")?;
        let found = Balance::named(&text).map(Policy);
        if found.is_none() {
            let instead = match &text[..] {
                "hash" => "say of what: { hash = \"address\" }, or \"path\" …".to_string(),
                _ => report::instead(&text, &names),
            };
            reader.mistake(value.span(), "no such way to choose a server", instead);
        }
        found
    }
    fn schema() -> Json {
        json!({ "enum": Balance::NAMED.map(|(name, _)| name) })
    }
    fn show(&self) -> Json {
        let named = |(name, policy)| (policy == self.0).then_some(name);
        Balance::NAMED.into_iter().find_map(named).into()
    }
}

#[derive(Clone, Debug)]
struct BalanceSection {
    by: Option<At<Policy>>,
    hash: Option<At<Hashed>>,
    load: At<Bound>,
    decay: At<Wait>,
}

impl Default for BalanceSection {
    fn default() -> Self {
        BalanceSection {
            by: None,
            hash: None,
            load: At::default(),
            decay: At {
                value: Balance::DECAY.into(),
                span: 0..0,
            },
        }
    }
}

table! { BalanceSection {
    "The same as the string." by: Option<At<Policy>>,
    "In place of `by`: the same server for the same \"address\", \"path\", \"header:NAME\" or \"cookie:NAME\"." hash: Option<At<Hashed>>,
    "With `hash`: how many times its fair part of the requests a server may have; \"none\" for no bound." load: At<Bound>,
    "With by = \"latency\": how long a latency is remembered." decay: At<Wait>,
} }

impl Shorthand for BalanceSection {
    type Word = Policy;
    const WHAT: &'static str = "a way to choose a server";
    fn of(policy: At<Policy>) -> Self {
        let by = Some(policy);
        BalanceSection {
            by,
            ..BalanceSection::default()
        }
    }
    fn word(&self) -> Option<Policy> {
        let is_plain = self.hash.is_none();
        is_plain.then(|| self.by.as_ref().map_or(Policy::default(), |by| by.value))
    }
}

/// How much more than its part a server may have: a number, or "none".
#[derive(Clone, Copy, PartialEq, Debug)]
struct Bound(f64);

impl Default for Bound {
    fn default() -> Self {
        Bound(Balance::LOAD)
    }
}

impl Decode for Bound {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match value.get_ref().as_str() {
            Some("none") => Some(Bound(f64::INFINITY)),
            _ => Factor::decode(value, reader).map(|factor| Bound(factor.0)),
        }
    }
    fn schema() -> Json {
        json!({ "anyOf": [Factor::schema(), { "const": "none" }] })
    }
    fn show(&self) -> Json {
        Factor(self.0).show()
    }
}

/// What of a request is hashed.
#[derive(Clone, PartialEq, Debug)]
struct Hashed(Key);

impl Decode for Hashed {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str = "\"address\", \"path\", \"header:NAME\" or \"cookie:NAME\"";
        let text = reader.text(value, "a word in quotes", WRITE)?;
        let is_name = |name: &&str| http::HeaderName::from_bytes(name.as_bytes()).is_ok();
        let key = match text.split_once(':') {
            None if text == "address" => Some(Key::Address),
            None if text == "path" => Some(Key::Path),
            Some(("header", name)) => Some(name)
                .filter(is_name)
                .map(|name| Key::Header(name.to_ascii_lowercase())),
            Some(("cookie", name)) => Some(name)
                .filter(is_name)
                .map(|name| Key::Cookie(name.to_string())),
            _ => None,
        };
        if key.is_none() {
            let instead = format!("write {WRITE}");
            reader.mistake(value.span(), "not what a server is chosen by", instead);
        }
        key.map(Hashed)
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^(address|path|(header|cookie):[^\s:,;=]+)$|\$\{" })
    }
    fn show(&self) -> Json {
        Json::Null
    }
}

#[derive(Clone, Debug)]
struct StickySection {
    cookie: At<String>,
    secret: At<Secret>,
    max_age: At<Wait>,
}

impl Default for StickySection {
    fn default() -> Self {
        StickySection {
            cookie: At::default(),
            secret: At::default(),
            max_age: At {
                value: Wait(Duration::from_secs(3600)),
                span: 0..0,
            },
        }
    }
}

table! { StickySection {
    "The cookie's name." cookie: At<String>,
    "What signs it, 16 bytes or more, the same in all that serve; keep it in ${…}." secret: At<Secret>,
    "How long it holds." max_age: At<Wait>,
} required ["cookie", "secret"] }

table! { PoolLimits {
    "Connections to a server: idle, in use and being made." most as "connections": Count,
    "Idle ones to a server." idle: Count,
    "How long one may be idle: less than the server's own patience." idle_for: Wait,
    "How old one may be when it is used again." lifetime: Wait,
    "By how much of it, at the most, a lifetime is shorter, so that they do not end together." jitter: Percent,
    "Connections to a server that are made ahead of need." warm: Count,
    "How long a request may wait for a connection; then 503." queue_wait: Wait,
} }

#[derive(Clone, Debug)]
struct HealthSection {
    path: At<String>,
    interval: Wait,
    jitter: Percent,
    timeout: Wait,
    status: StatusRanges,
    body: Option<String>,
    within: Size,
    rise: Count,
    fall: Count,
}

impl Default for HealthSection {
    fn default() -> Self {
        let (checks, expect) = (Checks::default(), Expect::default());
        HealthSection {
            path: At::default(),
            interval: checks.interval.into(),
            jitter: checks.jitter.into(),
            timeout: checks.timeout.into(),
            status: StatusRanges(expect.statuses),
            body: None,
            within: expect.within.into(),
            rise: checks.rise.into(),
            fall: checks.fall.into(),
        }
    }
}

table! { HealthSection {
    "What is asked for, by GET." path: At<String>,
    "From the beginning of one check to that of the next." interval: Wait,
    "By how much of it an interval is longer or shorter, so that checks do not come in step." jitter: Percent,
    "How long an answer may take." timeout: Wait,
    "The statuses of a good answer: \"200-399\", \"200, 204\", 200." status: StatusRanges,
    "What a good answer's body holds." body: Option<String>,
    "In so much of it, from its beginning." within: Size,
    "So many good answers in a row, and the server is up." rise: Count,
    "So many bad ones in a row, and it is down; before any has been good, one is enough." fall: Count,
} required ["path"] }

#[derive(Clone, Debug)]
struct OutlierSection {
    consecutive_failures: Count,
    base_ejection: Wait,
    max_ejection: Wait,
    max_ejected: Percent,
    interval: Wait,
    request_volume: Count,
    minimum_servers: Count,
    stdev_factor: Factor,
    margin: Percent,
    panic_threshold: Percent,
    slow_start: Wait,
    slow_start_min_weight: Percent,
    slow_start_aggression: Factor,
}

impl Default for OutlierSection {
    fn default() -> Self {
        let settings = HealthSettings::default();
        let outliers = settings.outliers;
        OutlierSection {
            consecutive_failures: outliers.failures.into(),
            base_ejection: outliers.ejection.into(),
            max_ejection: outliers.longest.into(),
            max_ejected: outliers.most.into(),
            interval: outliers.interval.into(),
            request_volume: outliers.volume.into(),
            minimum_servers: outliers.servers.into(),
            stdev_factor: outliers.deviations.into(),
            margin: outliers.margin.into(),
            panic_threshold: settings.panic.into(),
            slow_start: settings.slow_start.into(),
            slow_start_min_weight: settings.slow_start_floor.into(),
            slow_start_aggression: settings.aggression.into(),
        }
    }
}

table! { OutlierSection {
    "So many requests failed in a row, and the server is ejected; 0: not for that." consecutive_failures: Count,
    "How long, the first time; the next are two, three times as long." base_ejection: Wait,
    "How long at the most." max_ejection: Wait,
    "How many of the servers may be ejected; of two or more, one may." max_ejected: Percent,
    "How often the servers' rates of success are compared; \"0s\" for never." interval: Wait,
    "Of servers with so many requests since." request_volume: Count,
    "If there are so many such servers." minimum_servers: Count,
    "Ejected is who succeeds less often than the mean less so many standard deviations." stdev_factor: Factor,
    "And by at least so much." margin: Percent,
    "With a smaller part of the servers usable, all are used; \"0%\" for never." panic_threshold: Percent,
    "How long a server that comes back takes to get its whole share; \"0s\" for at once." slow_start: Wait,
    "The part of its share that it begins with." slow_start_min_weight: Percent,
    "1: the share grows evenly. More: faster at first." slow_start_aggression: Factor,
} }

#[derive(Clone, Debug)]
struct RetrySection {
    tries: Count,
    statuses: Vec<Status>,
    timeouts: bool,
    budget: Percent,
    floor: Count,
    replay: Size,
    hedge: Option<Percent>,
}

impl Default for RetrySection {
    fn default() -> Self {
        let retries = Retries::default();
        RetrySection {
            tries: retries.tries.into(),
            statuses: retries.statuses.into_iter().map(Status).collect(),
            timeouts: retries.timeouts,
            budget: retries.budget.into(),
            floor: retries.floor.into(),
            replay: retries.replay.into(),
            hedge: retries.hedge.map(Percent),
        }
    }
}

table! { RetrySection {
    "How many tries there may be, the first included." tries: Count,
    "Answers with these statuses are not passed on while there are tries left." statuses: Vec<Status>,
    "Whether a request is sent again when its answer does not begin in time." timeouts: bool,
    "Tries again, as a share of the requests of the last ten seconds." budget: Percent,
    "Tries again a second that there may always be." floor: Count,
    "How much of a request's body is kept to be sent again; with more it is sent once." replay: Size,
    "A second server is asked when the first takes longer than this share of answers; left out: never." hedge: Option<Percent>,
} }

table! { UpstreamTimeouts {
    "For a connection; 504 past it." connect: Wait,
    "From the end of the request to the first byte of the answer; 504 past it." first_byte: Wait,
    "For `100 Continue`, if the client waits for it; past it the body is sent without." expect: Wait,
    "Between two pieces of the answer, or of the request being taken." read: Wait,
    "For everything up to the answer's head, with all tries; 504 past it. \"0s\" for no limit." total: Wait,
    "How long a tunnel, a WebSocket that is passed through, may be silent in both directions; one that takes nothing for `timeouts.write` ends it, too." tunnel: Wait,
} }

#[derive(Clone, Debug)]
struct LimitSection {
    head: Size,
    fields: Count,
    body: Size,
    collect: Size,
    connections: Count,
    pending: Count,
    requests: Count,
    retries: Count,
}

impl Default for LimitSection {
    fn default() -> Self {
        let (limits, circuit) = (UpstreamLimits::default(), CircuitLimits::default());
        LimitSection {
            head: limits.head.into(),
            fields: limits.fields.into(),
            body: limits.body.into(),
            collect: limits.collect.into(),
            connections: circuit.connections.into(),
            pending: circuit.pending.into(),
            requests: circuit.requests.into(),
            retries: circuit.retries.into(),
        }
    }
}

table! { LimitSection {
    "Status line and fields of one answer; 502 past it. At most 1 MiB." head: Size,
    "Field lines of one answer; 502 past it. At most 128." fields: Count,
    "An answer's body; broken off past it. \"0B\" for no limit." body: Size,
    "An answer's body that a program collects in memory." collect: Size,
    "Connections to all servers together, tunnels included; past it, requests wait." connections: Count,
    "Requests that wait for a connection (Envoy: max_pending_requests); 503 past it." pending: Count,
    "Requests at the servers; 503 past it." requests: Count,
    "Tries again at the servers; past it there are none." retries: Count,
} }

impl UpstreamSection {
    fn policy(&self) -> Balance {
        let balance = &self.balance.0;
        match (&balance.hash, &balance.by) {
            (Some(_), _) => Balance::Hash {
                load: balance.load.value.0,
            },
            (None, Some(by)) => match by.value.0 {
                Balance::Latency { .. } => Balance::Latency {
                    decay: balance.decay.value.into(),
                },
                other => other,
            },
            (None, None) => Balance::default(),
        }
    }

    /// What a proxy has to tell of its requests.
    pub(super) fn key(&self) -> Option<Key> {
        let hash = self.balance.0.hash.as_ref();
        hash.map(|hash| hash.value.0.clone())
    }

    fn health(&self) -> HealthSettings {
        let these = &self.outliers;
        // One without a path has been told.
        let health = self.health.as_ref();
        let health = health.filter(|health| health.path.span != (0..0));
        let checks = health.map(|health| Checks {
            interval: health.interval.into(),
            jitter: health.jitter.into(),
            timeout: health.timeout.into(),
            rise: health.rise.into(),
            fall: health.fall.into(),
        });
        HealthSettings {
            checks,
            outliers: Outliers {
                failures: these.consecutive_failures.into(),
                ejection: these.base_ejection.into(),
                longest: these.max_ejection.into(),
                most: these.max_ejected.into(),
                interval: these.interval.into(),
                volume: these.request_volume.into(),
                servers: these.minimum_servers.into(),
                deviations: these.stdev_factor.into(),
                margin: these.margin.into(),
            },
            panic: these.panic_threshold.into(),
            slow_start: these.slow_start.into(),
            slow_start_floor: these.slow_start_min_weight.into(),
            aggression: these.slow_start_aggression.into(),
        }
    }

    fn retries(&self) -> Retries {
        let these = &self.retries;
        Retries {
            tries: these.tries.into(),
            statuses: these.statuses.iter().map(|status| status.0).collect(),
            timeouts: these.timeouts,
            budget: these.budget.into(),
            floor: these.floor.into(),
            replay: these.replay.into(),
            hedge: these.hedge.map(f64::from),
        }
    }

    /// Without the cookie, which may be wrong.
    fn upstream(&self) -> Upstream {
        let servers = self.servers.value.iter().map(|server| {
            let ServerEntry { to, weight, backup } = &server.value.0;
            let backend = Backend::new(&to.value).weight(weight.value.into());
            match backup {
                true => backend.backup(),
                false => backend,
            }
        });
        let these = &self.limits;
        let upstream = Upstream::new(servers)
            .balance(self.policy())
            .pool(self.pool)
            .health(self.health())
            .retries(self.retries())
            .timeouts(self.timeouts)
            .limits(UpstreamLimits {
                head: these.head.into(),
                fields: these.fields.into(),
                body: these.body.into(),
                collect: these.collect.into(),
            })
            .circuit(CircuitLimits {
                connections: these.connections.into(),
                pending: these.pending.into(),
                requests: these.requests.into(),
                retries: these.retries.into(),
            })
            .introduction(self.proxy_protocol.unwrap_or_default());
        match &self.health {
            Some(health) => {
                let expect = Expect {
                    statuses: health.status.0.clone(),
                    body: health.body.clone(),
                    within: health.within.into(),
                };
                upstream.check(&health.path.value, expect)
            }
            None => upstream,
        }
    }
}

impl Making<'_> {
    pub(super) fn upstreams(&mut self) {
        let document = self.document;
        for (name, section) in &document.upstreams.0 {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if name.value.is_empty() || !name.value.bytes().all(is_plain) {
                let instead = "write letters, digits, - and _ alone";
                self.mistake(&name.span, "not an upstream's name", instead);
            }
            let section = &section.value;
            self.check_servers(section);
            self.check_balance(&section.balance.0);
            let mut upstream = section.upstream();
            if let Some(sticky) = &section.sticky
                && let Some(sticky) = self.sticky(&sticky.value)
            {
                upstream = upstream.sticky(sticky);
            }
            self.app.upstream(&name.value, upstream);
        }
    }

    fn check_servers(&mut self, section: &UpstreamSection) {
        let At { value, span } = &section.servers;
        let mut seen: Vec<(Origin, &At<String>)> = Vec::new();
        for server in value {
            let ServerEntry { to, weight, .. } = &server.value.0;
            if to.span == (0..0) {
                continue;
            }
            if !(1..=MAX_WEIGHT as usize).contains(&weight.value.0) {
                let instead = format!("write 1 to {MAX_WEIGHT}");
                self.mistake(&weight.span, "`weight` is out of range", instead);
            }
            match to.value.parse::<Origin>() {
                Err(why) => {
                    let instead = why.replacen("want ", "write ", 1);
                    self.mistake(&to.span, "not a server", instead);
                }
                Ok(origin) => match seen.iter().find(|(other, _)| *other == origin) {
                    Some((_, first)) => self.twice("a server twice", &first.span, &to.span),
                    None => seen.push((origin, to)),
                },
            }
        }
        let backup = |server: &At<Short<ServerEntry>>| server.value.0.backup;
        if !value.is_empty() && value.iter().all(backup) {
            let instead = "let one of them be none: write it without `backup`";
            self.mistake(span, "nothing but backups", instead);
        }
    }

    fn check_balance(&mut self, balance: &BalanceSection) {
        let BalanceSection {
            by,
            hash,
            load,
            decay,
        } = balance;
        if let (Some(by), Some(hash)) = (by, hash) {
            let title = "two ways to choose a server";
            let mistake = Mistake::new(hash.span.clone(), title, "keep one");
            self.mistakes
                .push(mistake.with(by.span.clone(), "the other"));
        }
        if hash.is_none() && load.span != (0..0) {
            let instead = "add hash = \"address\", or \"path\" …";
            self.mistake(&load.span, "a bound for nothing that is hashed", instead);
        }
        let by = by.as_ref().map(|by| by.value.0);
        if decay.span != (0..0) && !matches!(by, Some(Balance::Latency { .. })) {
            let instead = "add by = \"latency\", or remove it";
            self.mistake(&decay.span, "nothing here remembers a latency", instead);
        }
    }

    fn sticky(&mut self, section: &StickySection) -> Option<Sticky> {
        let StickySection {
            cookie,
            secret,
            max_age,
        } = section;
        if cookie.span == (0..0) || secret.span == (0..0) {
            return None;
        }
        if max_age.value.0.as_secs() == 0 {
            let instead = "write \"1s\" or more";
            self.mistake(&max_age.span, "`max_age` is out of range", instead);
        }
        let age = max_age.value.into();
        match Sticky::new(&cookie.value, secret.value.0.as_bytes(), age) {
            Ok(sticky) => Some(sticky),
            Err(StickyError::Name) => {
                let instead = "write letters, digits, - and _ alone";
                self.mistake(&cookie.span, "not a cookie's name", instead);
                None
            }
            Err(StickyError::Secret) => {
                let instead = "write 16 bytes or more, drawn at random";
                self.mistake(&secret.span, "too short a secret", instead);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret("0123456789abcdef".to_string());
        let section = StickySection {
            secret: At {
                value: secret,
                span: 1..2,
            },
            ..StickySection::default()
        };
        assert!(!format!("{section:?}").contains("0123"));
        assert_eq!(section.secret.show(), Json::Null);
    }
}
