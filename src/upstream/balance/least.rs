//! Floor 1. Least connections, weighted; those that are equal take turns.
//!
//! Source: nginx, `src/http/modules/ngx_http_upstream_least_conn_module.c` (Maxim Dounin, 2012).

use super::{Server, round_robin};

/// The eligible server with the fewest requests in flight for its weight.
pub(super) fn choose(servers: &mut [Server]) -> Option<usize> {
    let mut least: Option<(u64, u64)> = None;
    for server in servers.iter().filter(|s| s.units > 0) {
        let load = load(server);
        if least.is_none_or(|least| is_less(load, least)) {
            least = Some(load);
        }
    }
    let least = least?;
    round_robin::choose(servers, |server| !is_less(least, load(server)))
}

/// Requests in flight, and the units that carry them: a fraction.
fn load(server: &Server) -> (u64, u64) {
    (server.in_flight.into(), server.units.into())
}

fn is_less(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 * b.1 < b.0 * a.1
}
