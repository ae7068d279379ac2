//! Floor 3. What stands in front of a connection that a trusted proxy opens: a PROXY header, and then HTTP.
//!
//! ```text
//! accept ─► preface ── header ─► whose it is ─┬─► HTTP, as if that client had connected itself
//!              │                              └─ has too many ─► 503
//!              └─ none, malformed, late ─► cut
//! ```
//! Invariants: a connection counts for the address of its client alone, and for nobody's before that is known;
//! no byte is HTTP's before the header has been read; its wait ends with `timeouts.head`, as counted from the accept.

use super::Reactor;
use super::conn::Role;
use super::io::Stop;
use crate::base::id::ConnId;
use crate::net::{Net, Peer, TURNED_AWAY};
use crate::proto::proxy_protocol::{self, Endpoints, Front};
use std::net::SocketAddr;

impl<N: Net, S: 'static> Reactor<N, S> {
    /// Takes the header from the front of the input. `None`: HTTP is next.
    pub(super) fn serve_preface(&mut self, id: ConnId, input: &mut &[u8]) -> Option<Stop> {
        let conn = self.conns.get(id)?;
        if conn.role != Role::Preface {
            return None;
        }
        let (endpoints, used) = match proxy_protocol::read(input) {
            Ok(Front::Header { endpoints, used }) => (endpoints, used),
            // At most as many bytes are kept as a header may have.
            Ok(Front::More) => return Some(Stop::NeedInput),
            Ok(Front::Absent) => {
                self.distrust(id, "something else");
                return Some(Stop::Over);
            }
            Err(malformed) => {
                self.distrust(id, malformed.0);
                return Some(Stop::Over);
            }
        };
        let peer = match endpoints {
            // Never an IPv4 address in IPv6's clothes: it is the same client, whichever way it came.
            Endpoints::Inet { source, .. } => {
                Peer::Inet(SocketAddr::new(source.ip().to_canonical(), source.port()))
            }
            // The path of a socket on another machine says nothing here.
            Endpoints::Local | Endpoints::Unknown | Endpoints::Unix { .. } => conn.peer,
        };
        *input = &input[used..];
        let is_admitted = self.admits(&peer);
        let conn = self.conns.get_mut(id)?;
        if !is_admitted {
            *input = &[];
            self.cork.extend_from_slice(TURNED_AWAY);
            conn.http.abort();
            return Some(Stop::Over);
        }
        (conn.peer, conn.role) = (peer, Role::Http);
        None
    }

    /// Cuts a proxy that does not begin as it was trusted to.
    pub(super) fn distrust(&mut self, id: ConnId, came: &str) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        self.warn_accept(&format!(
            "{}: cut: server.proxy_protocol names it, so a PROXY header was to come; what came: {came}",
            conn.peer
        ));
        self.cut(id, "no PROXY header");
    }
}
