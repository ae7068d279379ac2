//! Floor 2. Servers of a group that names stand for: they come, go and move as answers to look-ups say.
//!
//! | written | stands for |
//! | --- | --- |
//! | `host:port` | one server from the beginning, usable while the name has an address |
//! | `dns:host:port` | a server for each address, all of one weight |
//! | `srv:_http._tcp.name` | a server for each address that the records name, with their weights; ranks above the first are backups |
//!
//! Invariants: a named server is known to `health` exactly while it has an address, so nobody is sent to one that has
//! none; one that has left gives its number to another only when nothing of it is left (see [`Group::free_number`]).

use super::fetch::FetchError;
use super::group::{Group, Newcomer};
use super::upstream::{Backend, Origin};
use crate::base::clock::Instant;
use crate::base::id::{ConnId, FetchId};
use crate::base::lookup::{Address, Answer, Failure, Question};
use crate::net::{Peer, Target};
use crate::upstream::circuit::Kind;
use crate::upstream::names::{Change, Names, News};
use std::time::Duration;

/// A name among a group's servers. It has the same number in `Group::names`.
pub(super) struct Source {
    backend: Backend,
    origin: Origin,
    /// The one server that it stands for, if it is one.
    only: Option<usize>,
}

/// Longer than a look at the server's health takes to be given up once its time is over.
const AFTERMATH: Duration = Duration::from_secs(1);

impl Group {
    /// Another name. If others know it already, it begins with what they know.
    pub(super) fn add_name(
        &mut self,
        backend: &Backend,
        origin: Origin,
        question: Question,
        elsewhere: &[&Names],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        let only = match origin {
            Origin::Name { .. } => {
                let newcomer = Newcomer {
                    name: &backend.to,
                    host: origin.host(),
                    weight: backend.weight,
                    tier: u16::from(backend.backup),
                    targets: Vec::new(),
                    address: None,
                };
                self.join(newcomer, false, now, rng)
            }
            _ => None,
        };
        let (name, _) = self.names.add(question, now);
        self.sources.push(Source {
            backend: backend.clone(),
            origin,
            only,
        });
        for others in elsewhere {
            let change = self.names.adopt(name, others, now);
            self.apply(name, change, false, now, rng);
        }
    }

    /// How a look-up went. Of the connections that come back, each with its server, those that do not lead to one of
    /// its addresses any more ([`Group::leads_to`]) are to be closed.
    pub(crate) fn looked_up(
        &mut self,
        name: usize,
        result: Result<Answer, Failure>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Vec<(usize, ConnId)> {
        // Who is there from the beginning has nobody to be spared by.
        let slowly = !self.names.is_new(name);
        let mut change = self.names.answered(name, result, now, rng);
        if let (Some(news), Some(source)) = (change.news.take(), self.sources.get(name)) {
            let to = &source.backend.to;
            match news {
                News::Fails(why, 0) => log::warn!("upstream {}: {to}: {why}", self.name()),
                News::Fails(why, kept) => log::warn!(
                    "upstream {}: {to}: {why}; what is known is kept: {kept} addresses",
                    self.name()
                ),
                News::Resolves => log::info!("upstream {}: {to}: resolves again", self.name()),
                News::TooMany(all) => log::warn!(
                    "upstream {}: {to}: {all} addresses: no more than names.addresses = {} are used",
                    self.name(),
                    self.names.known(name).len()
                ),
            }
        }
        self.apply(name, change, slowly, now, rng)
    }

    fn apply(
        &mut self,
        name: usize,
        change: Change,
        slowly: bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Vec<(usize, ConnId)> {
        let Some(source) = self.sources.get(name) else {
            return Vec::new();
        };
        let to = source.backend.to.clone();
        for (addresses, what) in [(&change.added, "joins"), (&change.removed, "leaves")] {
            for address in addresses {
                log::info!("upstream {}: {to}: {} {what}", self.name(), address.addr);
            }
        }
        match source.only {
            Some(server) => self.move_to(server, name, &change, slowly, now, rng),
            None => self.exchange(name, &change, slowly, now, rng),
        }
    }

    /// One server has other addresses now.
    fn move_to(
        &mut self,
        server: usize,
        name: usize,
        change: &Change,
        slowly: bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Vec<(usize, ConnId)> {
        let known = self.names.known(name);
        let targets: Vec<_> = known.iter().map(|it| Target::Inet(it.addr)).collect();
        let Some(it) = self.servers.get_mut(server) else {
            return Vec::new();
        };
        let (is_there, tier) = (!targets.is_empty(), it.tier);
        let was_there = !std::mem::replace(&mut it.targets, targets).is_empty();
        let changes = match (was_there, is_there) {
            (false, true) => self.health.join(server, tier, slowly, now, rng),
            (true, false) => self.health.leave(server),
            _ => Vec::new(),
        };
        self.tell(&changes);
        match change.removed.is_empty() {
            true => Vec::new(),
            false => self.pool.idle(server).map(|conn| (server, conn)).collect(),
        }
    }

    /// Some servers leave, others come.
    fn exchange(
        &mut self,
        name: usize,
        change: &Change,
        slowly: bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Vec<(usize, ConnId)> {
        let mut idle = Vec::new();
        for address in &change.removed {
            if let Some(server) = self.server_at(name, address) {
                idle.extend(
                    self.leave(server, now)
                        .into_iter()
                        .map(|conn| (server, conn)),
                );
            }
        }
        for address in &change.moved {
            let Some(server) = self.server_at(name, address) else {
                continue;
            };
            let (weight, tier) = self.place_of(name, address);
            self.balance.set_weight(server, weight);
            self.balance.set_backup(server, tier > 0);
            let changes = self.health.set_tier(server, tier);
            self.tell(&changes);
        }
        for address in &change.added {
            let (weight, tier) = self.place_of(name, address);
            let Some(source) = self.sources.get(name) else {
                break;
            };
            let host = source.origin.host_of(address);
            let newcomer = Newcomer {
                name: &address.addr.to_string(),
                host,
                weight,
                tier,
                targets: vec![Target::Inet(address.addr)],
                address: Some((name, address)),
            };
            if self.join(newcomer, slowly, now, rng).is_none() {
                let addr = address.addr;
                log::warn!(
                    "upstream {}: {addr} is not used: it has too many servers",
                    self.name()
                );
            }
        }
        idle
    }

    /// An address's weight and tier.
    fn place_of(&self, name: usize, address: &Address) -> (u32, u16) {
        let Some(Source {
            backend, origin, ..
        }) = self.sources.get(name)
        else {
            return (1, 0);
        };
        let weight = match origin {
            Origin::Srv(_) => u32::from(address.weight),
            _ => backend.weight,
        };
        (
            weight,
            address.priority.saturating_add(backend.backup.into()),
        )
    }

    fn server_at(&self, name: usize, address: &Address) -> Option<usize> {
        let is_it = |of: &(usize, String, _)| *of == (name, address.host.clone(), address.addr);
        self.servers
            .iter()
            .position(|server| server.left.is_none() && server.address.as_ref().is_some_and(is_it))
    }

    /// A server is none of the group any more. Its idle connections come back.
    pub(super) fn leave(&mut self, server: usize, now: Instant) -> Vec<ConnId> {
        if let Some(it) = self.servers.get_mut(server) {
            (it.left, it.tag) = (Some(now), None);
            it.targets.clear();
        }
        self.balance.remove(server);
        let changes = self.health.leave(server);
        self.tell(&changes);
        self.pool.retire_server(server)
    }

    /// The number of a server that has left, when nothing names it any more: no request, no connection, no look at its
    /// health.
    pub(super) fn free_number(&mut self, now: Instant) -> Option<usize> {
        let aftermath = self.check_timeout() + AFTERMATH;
        let is_over = |left: Option<Instant>| left.is_some_and(|left| now - left >= aftermath);
        (0..self.servers.len()).find(|&server| {
            let in_flight = self.balance.server(server).map_or(0, |it| it.in_flight());
            in_flight == 0 && is_over(self.servers[server].left) && self.pool.renew_server(server)
        })
    }

    /// Whether a connection that was made to a server would still be.
    pub(crate) fn leads_to(&self, server: usize, peer: Peer) -> bool {
        let Peer::Inet(addr) = peer else {
            return true;
        };
        self.targets(server).contains(&Target::Inet(addr))
    }

    /// Whether nothing has been heard yet of one of its names: who has come first waits for that.
    pub(crate) fn is_resolving(&self) -> bool {
        self.names.has_new()
    }

    /// Has a fetch wait for a name, as others wait for a connection.
    pub(crate) fn await_names(&mut self, fetch: FetchId) -> Result<(), FetchError> {
        self.room_for(Kind::Pending)?;
        self.awaiting.push(fetch);
        Ok(())
    }

    /// It does not any more.
    pub(super) fn leave_names(&mut self, fetch: FetchId) {
        self.awaiting.retain(|&waits| waits != fetch);
    }

    /// Those that wait for a name: something was heard.
    pub(crate) fn take_awaiting(&mut self) -> Vec<FetchId> {
        std::mem::take(&mut self.awaiting)
    }

    /// Why there is no server for a request.
    pub(crate) fn why_none(&self) -> &'static str {
        match self.servers.iter().all(|server| server.targets.is_empty()) {
            true => NO_ADDRESS,
            false => "all are down",
        }
    }
}

/// Why there is no server.
pub(crate) const NO_ADDRESS: &str = "no name of the upstream has an address";
