//! Floor 1. Whom a request comes from, as the proxies in front say: `Forwarded` (RFC 7239) and the
//! `X-Forwarded-*` it was meant to replace. Anybody can write these fields; what is believed here is what
//! a proxy has written that the operator trusts ([`Trusted`]), and nobody is trusted by default.
//!
//! ```text
//! x-forwarded-for:  forged, 203.0.113.9, 10.0.0.7       peer: 10.0.0.1       trusted: 10.0.0.0/8
//!                   ignored │ the client ◄── trusted ◄── trusted: read from the right
//! ```
//!
//! Each hop appends whom it was called by. So the walk begins with the peer, whose address nobody can
//! forge, and goes one to the left for as long as it stands on somebody trusted. It stops where it
//! cannot go on: a member that is malformed, `unknown` or obfuscated leaves it on the last hop
//! that is known. Invariant: nothing to the left of where the walk stops has any influence.
//!
//! **Where both dialects are there**, `X-Forwarded-For` is heard, and `Forwarded` is not, whatever they
//! say. Nearly every proxy there is (nginx, Envoy, Traefik, Caddy, the load balancers that are rented) writes
//! the former, and passes on a `Forwarded` of the client's as it is: to prefer the standard would
//! be to let clients choose their address. Whoever has proxies that write `Forwarded` says so
//! ([`Trusted::hearing`]), and the other is not looked at.
//!
//! `X-Forwarded-Proto` and `-Host` have no hops: proxies replace them. Of several members the last counts.

use crate::proto::http::{Fields, is_authority, is_token_byte, list, trim_ows};
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who is believed about whom a request comes from. Nobody, by default.
///
/// ```
/// use loopwright::proto::forwarded::Trusted;
/// let trusted = Trusted::parse(["10.0.0.0/8", "::1", "unix"]).unwrap();
/// assert!(trusted.contains(Some("10.1.2.3".parse().unwrap())));
/// assert!(!trusted.contains(Some("192.0.2.1".parse().unwrap())));
/// let why = Trusted::parse(["10.0.0.1/8"]).unwrap_err().to_string();
/// assert_eq!(why, "\"10.0.0.1/8\": the address goes on behind the prefix: write \"10.0.0.0/8\"");
/// ```
// Not `ipnet`: what it lacks (words for each mistake, IPv4-mapped addresses taken for what they
// are) is longer than what it has that is wanted here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    networks: Vec<Network>,
    unix: bool,
    dialect: Dialect,
}

/// Which of the two dialects is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `X-Forwarded-For` if it is there, else `Forwarded`.
    #[default]
    Either,
    /// `Forwarded` alone.
    Forwarded,
    /// `X-Forwarded-*` alone.
    XForwarded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// Canonical: never an IPv4 address in IPv6's clothes.
    address: IpAddr,
    prefix: u8,
}

/// What is wrong with an entry of a list of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedError {
    /// The entry.
    pub entry: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Address,
    Prefix { most: u8 },
    HostBits { instead: String },
}

impl fmt::Display for TrustedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.entry)?;
        match &self.why {
            Why::Address => f.write_str(
                "not a network: write an address (\"::1\"), an address with a prefix (\"10.0.0.0/8\") or \"unix\"",
            ),
            Why::Prefix { most } => write!(f, "the prefix is no number up to {most}"),
            Why::HostBits { instead } => {
                write!(f, "the address goes on behind the prefix: write {instead:?}")
            }
        }
    }
}

impl std::error::Error for TrustedError {}

impl Trusted {
    /// Reads a list of addresses and networks; `unix` stands for whoever comes over a Unix socket.
    ///
    /// # Errors
    /// The first entry that is none of these, with what to write instead.
    pub fn parse<'t>(entries: impl IntoIterator<Item = &'t str>) -> Result<Trusted, TrustedError> {
        let mut trusted = Trusted::default();
        for entry in entries {
            match entry {
                "unix" => trusted.unix = true,
                _ => trusted
                    .networks
                    .push(Network::parse(entry).map_err(|why| TrustedError {
                        entry: entry.to_string(),
                        why,
                    })?),
            }
        }
        Ok(trusted)
    }

    /// The same, with ears for one dialect.
    #[must_use]
    pub fn hearing(self, dialect: Dialect) -> Trusted {
        Trusted { dialect, ..self }
    }

    /// Whether this peer is believed; `None` is one on a Unix socket.
    pub fn contains(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            None => self.unix,
            Some(ip) => {
                let ip = ip.to_canonical();
                self.networks.iter().any(|network| network.contains(ip))
            }
        }
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }
}

impl Network {
    fn parse(text: &str) -> Result<Network, Why> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| Why::Address)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|&n| n <= most)
                .ok_or(Why::Prefix { most })?,
            Some(_) => return Err(Why::Prefix { most }),
        };
        let network = masked(address, prefix);
        if network != address {
            let instead = format!("{network}/{prefix}");
            return Err(Why::HostBits { instead });
        }
        // A network of IPv4 addresses, as IPv6 writes them.
        Ok(match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() && prefix >= 96 => Network {
                address: v4,
                prefix: prefix - 96,
            },
            _ => Network { address, prefix },
        })
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4() && masked(ip, self.prefix) == self.address
    }
}

/// The first `prefix` bits of an address.
fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Who asks, as far as it can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    /// Its address; `None` is a Unix socket. Never an IPv4 address in IPv6's clothes.
    pub address: Option<IpAddr>,
    /// The scheme it used towards the first proxy that is trusted, if that has said so: a URI scheme.
    pub proto: Option<&'a str>,
    /// The host it asked that proxy for: an authority, as in `Host`.
    pub host: Option<&'a [u8]>,
    /// The dialect that was heard: `Forwarded` or `XForwarded`; `None` if the peer is not trusted.
    pub heard: Option<Dialect>,
}

/// Who asks. `peer` is the other end of the connection, `None` for a Unix socket.
///
/// ```
/// use loopwright::proto::forwarded::{client, Trusted};
/// use loopwright::proto::h1::head::{read, slots, HeadLimits};
/// let head = b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 6.6.6.6, 203.0.113.9\r\nx-forwarded-proto: https\r\n\r\n";
/// let mut slots = slots();
/// let head = read(head, &mut 0, true, &mut slots, &HeadLimits::NONE).unwrap().unwrap();
/// let peer = Some("10.0.0.1".parse().unwrap());
///
/// let trusted = Trusted::parse(["10.0.0.0/8"]).unwrap();
/// let who = client(peer, &head.fields, &trusted);
/// assert_eq!(who.address, Some("203.0.113.9".parse().unwrap()));
/// assert_eq!(who.proto, Some("https"));
///
/// let who = client(peer, &head.fields, &Trusted::default());
/// assert_eq!((who.address, who.proto), (peer, None));
/// ```
pub fn client<'a>(peer: Option<IpAddr>, fields: &Fields<'a>, trusted: &Trusted) -> Client<'a> {
    let mut client = Client {
        address: peer.map(|ip| ip.to_canonical()),
        proto: None,
        host: None,
        heard: None,
    };
    if trusted.is_empty() || !trusted.contains(peer) {
        return client;
    }
    let heard = match trusted.dialect {
        Dialect::Either => {
            let standard =
                fields.get("x-forwarded-for").is_none() && fields.get("forwarded").is_some();
            match standard {
                true => Dialect::Forwarded,
                false => Dialect::XForwarded,
            }
        }
        one => one,
    };
    client.heard = Some(heard);
    match heard {
        Dialect::Forwarded => walk_forwarded(&mut client, fields, trusted),
        _ => walk_x_forwarded(&mut client, fields, trusted),
    }
    client
}

/// `client.address` is trusted when it begins.
fn walk_forwarded<'a>(client: &mut Client<'a>, fields: &Fields<'a>, trusted: &Trusted) {
    for line in fields.get_all("forwarded").rev() {
        let elements = RightToLeft(Some(line)).map(trim_ows);
        for element in elements.filter(|element| !element.is_empty()) {
            let Some(element) = Element::parse(element) else {
                return;
            };
            // What this hop says of itself: of the scheme and host nothing is known where it is silent.
            (client.proto, client.host) = (element.proto, element.host);
            match element.client {
                Some(Node::Address(ip)) => client.address = Some(ip),
                _ => return,
            }
            if !trusted.contains(client.address) {
                return;
            }
        }
    }
}

fn walk_x_forwarded<'a>(client: &mut Client<'a>, fields: &Fields<'a>, trusted: &Trusted) {
    let last = |name| {
        fields
            .get_all(name)
            .next_back()
            .and_then(|v| list(v).last())
    };
    client.proto = last("x-forwarded-proto").and_then(scheme);
    client.host = last("x-forwarded-host").filter(|host| is_host(host));
    for line in fields.get_all("x-forwarded-for").rev() {
        for member in line.rsplit(|&b| b == b',').map(trim_ows) {
            match node(member) {
                _ if member.is_empty() => continue,
                Some(Node::Address(ip)) => client.address = Some(ip),
                _ => return,
            }
            if !trusted.contains(client.address) {
                return;
            }
        }
    }
}

/// RFC 3986 §3.1.
fn scheme(text: &[u8]) -> Option<&str> {
    let rest = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
    match text {
        [first, ..] if first.is_ascii_alphabetic() && text.iter().all(rest) => {
            std::str::from_utf8(text).ok()
        }
        _ => None,
    }
}

fn is_host(text: &[u8]) -> bool {
    !text.is_empty() && is_authority(text)
}

/// Whom a hop was called by (RFC 7239 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// An address; its port, if there was one, is of no use and forgotten.
    Address(IpAddr),
    /// The hop does not know.
    Unknown,
    /// The hop does not say: `_hidden`.
    Obfuscated,
}

/// Reads a node. Beyond what RFC 7239 allows, an IPv6 address may stand without brackets, as it does
/// in `X-Forwarded-For`.
pub fn node(text: &[u8]) -> Option<Node> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = |ip: IpAddr| Node::Address(ip.to_canonical());
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Some(plain(ip.into()));
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest.split_once(']')?;
            let ip: Ipv6Addr = name.parse().ok()?;
            let port = match after.is_empty() {
                true => None,
                false => Some(after.strip_prefix(':')?),
            };
            return port.is_none_or(is_port).then(|| plain(ip.into()));
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if !port.is_none_or(is_port) {
        return None;
    }
    if name.eq_ignore_ascii_case("unknown") {
        return Some(Node::Unknown);
    }
    if is_obfuscated(name) {
        return Some(Node::Obfuscated);
    }
    name.parse().ok().map(|ip: Ipv4Addr| plain(ip.into()))
}

/// Digits, or as obfuscated as the address.
fn is_port(text: &str) -> bool {
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits && text.parse::<u16>().is_ok()) || is_obfuscated(text)
}

fn is_obfuscated(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    text.len() > 1 && text.starts_with('_') && text.bytes().all(byte)
}

/// The elements of a `Forwarded` line, the last first. A comma within quotes is none. Read from the
/// right because a client can leave a quote open: what a proxy appends behind that would be part of the
/// client's string to whoever reads from the left.
struct RightToLeft<'a>(Option<&'a [u8]>);

impl<'a> Iterator for RightToLeft<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0?;
        let mut quoted = false;
        for at in (0..line.len()).rev() {
            match line[at] {
                b'"' => {
                    // Within a string, one that is escaped is a letter.
                    let escapes = line[..at].iter().rev().take_while(|&&b| b == b'\\').count();
                    quoted = !quoted || escapes % 2 == 1;
                }
                b',' if !quoted => {
                    self.0 = Some(&line[..at]);
                    return Some(&line[at + 1..]);
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(line)
    }
}

/// Whether every string in a `Forwarded` line that begins also ends. To add to one that is not whole would be
/// to write into the client's string.
///
/// ```
/// use loopwright::proto::forwarded::is_whole;
/// assert!(is_whole(br#"for="[::1]";x="\"""#));
/// assert!(!is_whole(br#"for="_x, for=192.0.2.1"#));
/// ```
pub fn is_whole(line: &[u8]) -> bool {
    let (mut quoted, mut rest) = (false, line);
    loop {
        rest = match rest {
            [] => return !quoted,
            [b'\\', _, rest @ ..] if quoted => rest,
            [b'"', rest @ ..] => {
                quoted = !quoted;
                rest
            }
            [_, rest @ ..] => rest,
        };
    }
}

/// What one hop says (RFC 7239 §4).
struct Element<'a> {
    client: Option<Node>,
    proto: Option<&'a str>,
    host: Option<&'a [u8]>,
}

impl<'a> Element<'a> {
    /// `None` if it is malformed in any part.
    fn parse(mut text: &'a [u8]) -> Option<Element<'a>> {
        let mut element = Element {
            client: None,
            proto: None,
            host: None,
        };
        let mut seen = 0_u8;
        loop {
            let end = text.iter().position(|&b| !is_token_byte(b))?;
            let (name, rest) = text.split_at(end);
            let (value, rest) = value(rest.strip_prefix(b"=")?)?;
            let known: [&[u8]; 3] = [b"for", b"host", b"proto"];
            let which = known.iter().position(|k| name.eq_ignore_ascii_case(k));
            let bit = which.map_or(0, |n| 1 << n);
            // RFC 7239 §4: each parameter once.
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
            match which {
                Some(0) => element.client = Some(node(value)?),
                Some(1) if is_host(value) => element.host = Some(value),
                Some(1) => return None,
                Some(_) => element.proto = Some(scheme(value)?),
                None if name.is_empty() => return None,
                None => {}
            }
            match trim_ows(rest) {
                [] => return Some(element),
                [b';', next @ ..] => text = trim_ows(next),
                _ => return None,
            }
        }
    }
}

/// A token or a quoted string, and what follows. A string with an escape in it is none of ours: no
/// address, host or scheme has anything to escape.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    match text {
        [b'"', rest @ ..] => {
            let end = memchr::memchr2(b'"', b'\\', rest)?;
            (rest[end] == b'"').then(|| (&rest[..end], &rest[end + 1..]))
        }
        _ => {
            let end = text.iter().position(|&b| !is_token_byte(b));
            let (value, rest) = text.split_at(end.unwrap_or(text.len()));
            (!value.is_empty()).then_some((value, rest))
        }
    }
}

/// Writes an element of `Forwarded`: who has called us, what for, and how. `host` is an authority,
/// `proto` a scheme. An empty host is left out.
///
/// ```
/// use loopwright::proto::forwarded::write;
/// let mut out = Vec::new();
/// write(&mut out, Some("2001:db8::1".parse().unwrap()), b"example.org:8080", "http");
/// assert_eq!(out, br#"for="[2001:db8::1]";host="example.org:8080";proto=http"#);
/// ```
pub fn write(out: &mut Vec<u8>, peer: Option<IpAddr>, host: &[u8], proto: &str) {
    // Writing to a Vec cannot fail.
    let _ = match peer.map(|ip| ip.to_canonical()) {
        None => write!(out, "for=unknown"),
        Some(IpAddr::V4(ip)) => write!(out, "for={ip}"),
        Some(IpAddr::V6(ip)) => write!(out, "for=\"[{ip}]\""),
    };
    if !host.is_empty() {
        out.extend_from_slice(b";host=");
        match host.iter().all(|&b| is_token_byte(b)) {
            true => out.extend_from_slice(host),
            // An authority has neither a quote nor a backslash.
            false => {
                out.push(b'"');
                out.extend_from_slice(host);
                out.push(b'"');
            }
        }
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(proto.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h1::head::{HeadLimits, read, slots};

    /// Who asks, seen by a server that is called by `peer`, in three words.
    fn who(peer: &str, trusted: &Trusted, lines: &[&str]) -> String {
        let head = format!(
            "GET / HTTP/1.1\r\nhost: h\r\n{}\r\n\r\n",
            lines.join("\r\n")
        );
        let mut slots = slots();
        let head = read(
            head.trim_start().as_bytes(),
            &mut 0,
            true,
            &mut slots,
            &HeadLimits::NONE,
        );
        let fields = head.unwrap().unwrap().fields;
        let client = client(peer.parse().ok(), &fields, trusted);
        let host = client.host.map(|host| std::str::from_utf8(host).unwrap());
        let address = client.address.map_or("unix".into(), |ip| ip.to_string());
        format!(
            "{address} {} {}",
            client.proto.unwrap_or("-"),
            host.unwrap_or("-")
        )
    }

    fn trusting(entries: &str) -> Trusted {
        Trusted::parse(entries.split_whitespace()).unwrap()
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        let lines = [
            "forwarded: for=1.1.1.1;host=x;proto=https",
            "x-forwarded-for: 1.1.1.1",
            "x-forwarded-proto: https",
        ];
        for (peer, entries) in [
            ("10.0.0.1", ""),
            ("10.0.0.1", "10.0.0.2"),
            ("10.0.0.1", "unix ::/0"),
            ("unix", "0.0.0.0/0 ::/0"),
        ] {
            assert_eq!(who(peer, &trusting(entries), &lines), format!("{peer} - -"));
        }
    }

    #[test]
    fn x_forwarded_for() {
        for (value, want) in [
            ("9.9.9.9", "9.9.9.9"),
            ("6.6.6.6, 9.9.9.9", "9.9.9.9"),
            ("6.6.6.6,9.9.9.9,10.0.0.2", "9.9.9.9"),
            ("6.6.6.6 , 9.9.9.9\t,\t10.0.0.2 , 10.9.9.9", "9.9.9.9"),
            ("9.9.9.9:4711, 10.0.0.2:1", "9.9.9.9"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("::ffff:9.9.9.9", "9.9.9.9"),
            ("9.9.9.9, ::ffff:10.0.0.2", "9.9.9.9"),
            ("9.9.9.9, ::1", "9.9.9.9"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("9.9.9.9, , 10.0.0.2,", "9.9.9.9"),
            // Where it cannot go on, it stays.
            ("", "10.0.0.1"),
            (",,", "10.0.0.1"),
            ("unknown", "10.0.0.1"),
            ("6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6, _x, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6, 1.2.3, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6, 1.2.3.04", "10.0.0.1"),
            ("6.6.6.6, 1.2.3.4:99999", "10.0.0.1"),
            ("6.6.6.6, 1.2.3.4:", "10.0.0.1"),
            ("6.6.6.6, [1.2.3.4]", "10.0.0.1"),
            ("6.6.6.6, [::2", "10.0.0.1"),
            ("6.6.6.6, [::2]x", "10.0.0.1"),
            ("6.6.6.6, fe80::1%eth0", "10.0.0.1"),
            ("6.6.6.6, \"9.9.9.9\"", "10.0.0.1"),
            ("6.6.6.6, 9.9.9.9 8.8.8.8", "10.0.0.1"),
            ("6.6.6.6, for=9.9.9.9", "10.0.0.1"),
            ("6.6.6.6, \u{661}.1.1.1", "10.0.0.1"),
        ] {
            let line = format!("X-Forwarded-For: {value}");
            let want = format!("{want} - -");
            let trusted = trusting("10.0.0.0/8 ::1");
            assert_eq!(who("10.0.0.1", &trusted, &[&line]), want, "{line}");
            assert_eq!(who("::ffff:10.0.0.1", &trusted, &[&line]), want, "{line}");
        }
    }

    #[test]
    fn several_lines_are_one() {
        let trusted = trusting("10.0.0.0/8");
        let lines = [
            "x-forwarded-for: 6.6.6.6",
            "X-FORWARDED-FOR: 9.9.9.9, 10.0.0.3",
            "x-forwarded-for: 10.0.0.2",
        ];
        assert_eq!(who("10.0.0.1", &trusted, &lines), "9.9.9.9 - -");
        let lines = [
            "forwarded: for=6.6.6.6",
            "FORWARDED: for=9.9.9.9, for=10.0.0.3",
            "forwarded: for=10.0.0.2",
        ];
        assert_eq!(who("10.0.0.1", &trusted, &lines), "9.9.9.9 - -");
        let lines = [
            "x-forwarded-proto: ftp",
            "x-forwarded-proto: http, https",
            "x-forwarded-host: a, b:80",
        ];
        assert_eq!(who("10.0.0.1", &trusted, &lines), "10.0.0.1 https b:80");
        let lines = ["x-forwarded-proto: ht tp", "x-forwarded-host: b/c"];
        assert_eq!(who("10.0.0.1", &trusted, &lines), "10.0.0.1 - -");
        assert_eq!(
            who("unix", &trusting("unix"), &["x-forwarded-for: 9.9.9.9"]),
            "9.9.9.9 - -"
        );
        assert_eq!(
            who("unix", &trusting("unix"), &["x-forwarded-for: unknown"]),
            "unix - -"
        );
    }

    #[test]
    fn forwarded() {
        for (value, want) in [
            // RFC 7239 §4 and §7.1.
            ("for=\"_gazonk\"", "10.0.0.1 - -"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17 - -"),
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                "192.0.2.60 http -",
            ),
            ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17 - -"),
            (
                "for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown",
                "10.0.0.1 - -",
            ),
            ("for=_hidden, for=_SEVKISEK", "10.0.0.1 - -"),
            // Behind proxies.
            (
                "for=6.6.6.6, for=9.9.9.9;proto=https;host=a, for=10.0.0.2;proto=http;host=b",
                "9.9.9.9 https a",
            ),
            ("for=9.9.9.9;proto=https, for=10.0.0.2", "9.9.9.9 https -"),
            ("for=9.9.9.9, for=10.0.0.2;proto=http;host=b", "9.9.9.9 - -"),
            (
                "for=6.6.6.6, for=unknown;proto=https, for=10.0.0.2",
                "10.0.0.2 https -",
            ),
            ("for=6.6.6.6, proto=https", "10.0.0.1 https -"),
            (
                "FOR=\"9.9.9.9:4711\" ; HOST=\"a:80\";Proto=https",
                "9.9.9.9 https a:80",
            ),
            (
                "for=9.9.9.9;x=\"a,b;c\", for=10.0.0.2;y=\",\"",
                "9.9.9.9 - -",
            ),
            ("for=9.9.9.9, , for=10.0.0.2,", "9.9.9.9 - -"),
            ("for=\"_x:_y\"", "10.0.0.1 - -"),
            ("for=\"9.9.9.9:_y\"", "9.9.9.9 - -"),
            // A quote that the client leaves open reaches no further than what the client wrote.
            ("for=\"6.6.6.6, for=9.9.9.9", "9.9.9.9 - -"),
            ("for=\"6.6.6.6, for=9.9.9.9;host=\"a:1\"", "9.9.9.9 - a:1"),
            ("x=\"\\\", for=9.9.9.9;host=\"a:1\"", "9.9.9.9 - a:1"),
            (
                "for=6.6.6.6, x=\"\\\",for=7.7.7.7\", for=10.0.0.2",
                "10.0.0.2 - -",
            ),
            // Malformed in any part: not believed in any part.
            ("for=6.6.6.6, for=9.9.9.9;proto=https;;", "10.0.0.1 - -"),
            ("for=9.9.9.9;for=9.9.9.9", "10.0.0.1 - -"),
            ("for=9.9.9.9;host=a/b", "10.0.0.1 - -"),
            ("for=9.9.9.9;proto=\"\"", "10.0.0.1 - -"),
            ("for = 9.9.9.9", "10.0.0.1 - -"),
            ("for=", "10.0.0.1 - -"),
            ("=9.9.9.9", "10.0.0.1 - -"),
            ("9.9.9.9", "10.0.0.1 - -"),
            ("for=9.9.9.9 proto=https", "10.0.0.1 - -"),
            ("for=[2001:db8::1]", "10.0.0.1 - -"),
            ("for=\"9.9\\.9.9\"", "10.0.0.1 - -"),
            ("for=\"9.9.9.9\"x", "10.0.0.1 - -"),
            ("\"", "10.0.0.1 - -"),
            ("", "10.0.0.1 - -"),
        ] {
            let line = format!("Forwarded: {value}");
            assert_eq!(
                who("10.0.0.1", &trusting("10.0.0.0/8"), &[&line]),
                want,
                "{line}"
            );
        }
    }

    #[test]
    fn where_both_are_there() {
        let both = [
            "forwarded: for=6.6.6.6;proto=ftp",
            "x-forwarded-for: 9.9.9.9",
            "x-forwarded-proto: https",
        ];
        let trusted = trusting("10.0.0.1");
        for (dialect, lines, want) in [
            (Dialect::Either, &both[..], "9.9.9.9 https -"),
            (Dialect::XForwarded, &both[..], "9.9.9.9 https -"),
            (Dialect::Forwarded, &both[..], "6.6.6.6 ftp -"),
            (Dialect::Either, &both[..1], "6.6.6.6 ftp -"),
            (Dialect::XForwarded, &both[..1], "10.0.0.1 - -"),
            (Dialect::Forwarded, &both[1..], "10.0.0.1 - -"),
            (Dialect::Either, &both[2..], "10.0.0.1 https -"),
        ] {
            let trusted = trusted.clone().hearing(dialect);
            assert_eq!(
                who("10.0.0.1", &trusted, lines),
                want,
                "{dialect:?} {lines:?}"
            );
        }
    }

    #[test]
    fn networks() {
        for (entry, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("::1", "::1", "::2"),
            ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
            ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.0"),
            ("::ffff:10.0.0.7", "10.0.0.7", "10.0.0.8"),
        ] {
            let trusted = trusting(entry);
            assert!(trusted.contains(inside.parse().ok()), "{entry} {inside}");
            assert!(!trusted.contains(outside.parse().ok()), "{entry} {outside}");
            assert!(!trusted.contains(None));
        }
        let address = "not a network: write an address (\"::1\"), an address with a prefix (\"10.0.0.0/8\") or \"unix\"";
        for (entry, why) in [
            ("", address),
            ("10.0.0", address),
            ("localhost", address),
            ("10.0.0.0 /8", address),
            ("[::1]", address),
            ("/8", address),
            ("10.0.0.0/33", "the prefix is no number up to 32"),
            ("10.0.0.0/", "the prefix is no number up to 32"),
            ("10.0.0.0/+8", "the prefix is no number up to 32"),
            ("10.0.0.0/255.0.0.0", "the prefix is no number up to 32"),
            ("::/129", "the prefix is no number up to 128"),
            (
                "10.0.0.1/8",
                "the address goes on behind the prefix: write \"10.0.0.0/8\"",
            ),
            (
                "::1/64",
                "the address goes on behind the prefix: write \"::/64\"",
            ),
        ] {
            let error = Trusted::parse(["::1", entry]).unwrap_err();
            assert_eq!(error.to_string(), format!("{entry:?}: {why}"));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let trusted = trusting("10.0.0.1");
        for (peer, host, want) in [
            ("192.0.2.1", "a", "192.0.2.1 http a"),
            ("::ffff:192.0.2.1", "a:80", "192.0.2.1 http a:80"),
            ("2001:db8::1", "[::1]:80", "2001:db8::1 http [::1]:80"),
            ("2001:db8::1", "a=b;c,d", "2001:db8::1 http -"),
            ("unix", "", "10.0.0.1 http -"),
        ] {
            let mut line = b"forwarded: ".to_vec();
            write(&mut line, peer.parse().ok(), host.as_bytes(), "http");
            let line = String::from_utf8(line).unwrap();
            let want = match host.contains(',') {
                // No authority: the head's reader lets none of these pass.
                true => "10.0.0.1 - -",
                false => want,
            };
            assert_eq!(who("10.0.0.1", &trusted, &[&line]), want, "{line}");
        }
    }
}
