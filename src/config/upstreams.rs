//! Floor 5. The sections `[upstreams.NAME]`: what may stand in them, what they may not say, and what is made of them.

use super::decode::{At, Short, Shorthand, table};
use super::kinds::Count;
use super::site::Making;
use crate::{Backend, Upstream};

#[derive(Clone, Debug, Default)]
pub(super) struct UpstreamSection {
    pub(super) servers: Vec<At<Short<ServerEntry>>>,
}

table! { UpstreamSection {
    "Servers: \"http://host:port\", \"host:port\", \"unix:/path\", \"srv:_http._tcp.name\", or tables." servers: Vec<At<Short<ServerEntry>>>,
} required ["servers"] }

#[derive(Clone, Debug)]
pub(super) struct ServerEntry {
    pub(super) to: At<String>,
    pub(super) weight: At<Count>,
    pub(super) backup: bool,
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
    "Where it is." to: At<String>,
    "Its share beside the others', 1 to 1,000." weight: At<Count>,
    "Whether it is used only when no other can be." backup: bool,
} required ["to"] }

impl Shorthand for ServerEntry {
    const WHAT: &'static str = "a server's address";
    fn of(to: At<String>) -> Self {
        ServerEntry {
            to,
            ..ServerEntry::default()
        }
    }
}

impl Making<'_> {
    pub(super) fn upstreams(&mut self) {
        let document = self.document;
        for (name, section) in &document.upstreams.0 {
            let servers = section.value.servers.iter().map(|server| {
                let ServerEntry { to, weight, backup } = &server.value.0;
                let weight = u32::try_from(weight.value.0).unwrap_or(u32::MAX);
                let backend = Backend::new(&to.value).weight(weight);
                match backup {
                    true => backend.backup(),
                    false => backend,
                }
            });
            let upstream = Upstream::new(servers);
            self.app.upstream(&name.value, upstream);
        }
    }
}
