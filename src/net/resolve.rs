//! Floor 1. Looks names up, and blocks meanwhile: for a thread of [`Net::offload`](super::Net::offload), never for the loop.
//!
//! With the feature `dns` the name servers of `/etc/resolv.conf` are asked by ourselves (`dns.rs`), which says how
//! long an answer holds, and knows services (SRV). Without, it is the C library that asks: it says neither.

#[cfg(any(test, not(feature = "dns")))]
use crate::base::lookup::Address;
use crate::base::lookup::{Answer, Failure, Question};
use std::net::SocketAddr;
#[cfg(any(test, not(feature = "dns")))]
use std::net::ToSocketAddrs;

/// Looks a name up as this machine is set up to do.
///
/// ```
/// use loopwright::net::resolve::resolve;
/// let answer = resolve(&"127.0.0.1:8080".parse().unwrap()).unwrap();
/// assert_eq!(answer.addresses[0].addr, "127.0.0.1:8080".parse().unwrap());
/// let answer = resolve(&"localhost:8080".parse().unwrap()).unwrap();
/// assert!(answer.addresses.iter().all(|address| address.addr.ip().is_loopback()));
/// ```
pub fn resolve(question: &Question) -> Result<Answer, Failure> {
    resolve_by(question, &[])
}

/// The same, but if there are `servers`, they are asked in place of the machine's own; its hosts file and search
/// domains hold all the same. Without the feature `dns`, the C library knows only its own.
pub fn resolve_by(question: &Question, servers: &[SocketAddr]) -> Result<Answer, Failure> {
    if let Some(address) = question.literal() {
        return Ok(Answer {
            addresses: vec![address],
            ttl: None,
            missing: None,
        });
    }
    #[cfg(feature = "dns")]
    {
        let mut resolver = super::dns::Resolver::system();
        if !servers.is_empty() {
            resolver.nameservers = servers.to_vec();
        }
        resolver.resolve(question)
    }
    #[cfg(not(feature = "dns"))]
    {
        let _ = servers;
        by_libc(question)
    }
}

#[cfg(any(test, not(feature = "dns")))]
fn by_libc(question: &Question) -> Result<Answer, Failure> {
    let Question::Host { name, port } = question else {
        let why = "services (srv:) are looked up with the feature `dns` only";
        return Err(Failure::Other(why.to_owned()));
    };
    let addrs = (name.as_str(), *port).to_socket_addrs().map_err(|e| {
        let said = e.to_string();
        // What getaddrinfo means is in its words alone.
        let not_found = ["not known", "No address associated", "does not resolve"];
        match not_found.iter().any(|words| said.contains(words)) {
            true => Failure::NotFound,
            false => Failure::Other(said),
        }
    })?;
    let address = |addr| Address::new(name, addr);
    Ok(Answer {
        addresses: addrs.map(address).collect(),
        ttl: None,
        missing: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_knows_this_machine() {
        let answer = by_libc(&"localhost:81".parse().unwrap()).unwrap();
        assert!(!answer.addresses.is_empty());
        for address in &answer.addresses {
            assert!(address.addr.ip().is_loopback() && address.addr.port() == 81);
        }
        let service = by_libc(&"srv:_http._tcp.localhost".parse().unwrap());
        assert!(service.unwrap_err().to_string().contains("`dns`"));
    }
}
