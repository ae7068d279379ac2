//! Floor 1. HAProxy's PROXY protocol, versions 1 and 2: whom a connection comes from, said in front of
//! its first byte by a proxy that works on connections rather than on requests.
//!
//! ```text
//! v1   PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n                          at most 107 bytes
//! v2   signature (12) · version and command · family · length (2) · addresses · TLVs
//! ```
//!
//! Bytes in, a header out, nothing kept. Strict: the specification asks receivers to drop whoever says
//! what it does not know, for what is skipped here is believed by somebody else. Invariants: no verdict
//! depends on how the bytes were cut into reads; nothing is waited for beyond [`MAX_V1`] and [`MAX_V2`].
//!
//! TLVs are skipped, all but the checksum (CRC32C), which is checked where there is one.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line of version 1, its end included.
pub const MAX_V1: usize = 107;
/// What may follow the first 16 bytes of version 2: addresses and TLVs. The specification asks for room
/// for 520 bytes behind an IPv4 header; certificates that some proxies append want more, and are refused.
pub const MAX_V2_LENGTH: usize = 536;
/// The longest header of version 2.
pub const MAX_V2: usize = V2_START + MAX_V2_LENGTH;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_START: usize = 16;
/// `sun_path`.
const UNIX_PATH: usize = 108;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints<'a> {
    /// The proxy's own, for its checks of health (`LOCAL`): the addresses of the socket hold.
    Local,
    /// The proxy does not know, or says it in no family we have: the addresses of the socket hold.
    Unknown,
    /// Of this client, towards this address.
    Inet {
        /// The client.
        source: SocketAddr,
        /// Where it wanted to go.
        destination: SocketAddr,
    },
    /// The same on a Unix socket: paths, without the zeros behind them. May be empty.
    Unix {
        /// The client.
        source: &'a [u8],
        /// Where it wanted to go.
        destination: &'a [u8],
    },
}

/// What the bytes at the front of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front<'a> {
    /// The beginning of a header, perhaps.
    More,
    /// No header: they belong to the protocol that is spoken here.
    Absent,
    /// A header.
    Header {
        /// Whose connection it is.
        endpoints: Endpoints<'a>,
        /// How many bytes it takes.
        used: usize,
    },
}

/// A header that cannot be believed; the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed PROXY header: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads the header at the front of `input`, of either version.
///
/// # Errors
/// It begins as a header does, and is none.
///
/// ```
/// use loopwright::proto::proxy_protocol::{read, Endpoints, Front};
/// let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\nGET / HTTP/1.1\r\n";
/// let Ok(Front::Header { endpoints: Endpoints::Inet { source, .. }, used }) = read(line) else { panic!() };
/// assert_eq!((source.to_string().as_str(), used), ("192.0.2.1:4711", 44));
/// assert_eq!(read(b"PROX"), Ok(Front::More));
/// assert_eq!(read(b"GET "), Ok(Front::Absent));
/// ```
pub fn read(input: &[u8]) -> Result<Front<'_>, Malformed> {
    let begins = |signature: &[u8]| {
        let common = signature.len().min(input.len());
        input[..common] == signature[..common]
    };
    if begins(V1_SIGNATURE) {
        return match input.get(V1_SIGNATURE.len()..) {
            None => Ok(Front::More),
            Some(_) => read_v1(input),
        };
    }
    match begins(V2_SIGNATURE) {
        true => read_v2(input),
        false => Ok(Front::Absent),
    }
}

fn read_v1(input: &[u8]) -> Result<Front<'_>, Malformed> {
    let window = &input[..input.len().min(MAX_V1)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return match window.len() {
            MAX_V1 => Err(Malformed("a line of more than 107 bytes")),
            _ => Ok(Front::More),
        };
    };
    let line = window[V1_SIGNATURE.len().min(end)..end]
        .strip_suffix(b"\r")
        .ok_or(Malformed("a line that does not end in CR LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("a line that is not ASCII"))?;
    if line.contains('\r') || !line.is_ascii() {
        return Err(Malformed("a line that is not ASCII, or has a CR within"));
    }
    let mut words = line.split(' ');
    let family = words.next().unwrap_or("");
    let endpoints = match family {
        // What follows it is to be ignored.
        "UNKNOWN" => Endpoints::Unknown,
        "TCP4" | "TCP6" => {
            let mut word = || words.next().ok_or(Malformed("too few words"));
            let (source, destination) = (word()?, word()?);
            let (source_port, destination_port) = (word()?, word()?);
            if words.next().is_some() {
                return Err(Malformed("too many words"));
            }
            let address = |text| v1_address(text, family == "TCP4");
            Endpoints::Inet {
                source: SocketAddr::new(address(source)?, v1_port(source_port)?),
                destination: SocketAddr::new(address(destination)?, v1_port(destination_port)?),
            }
        }
        _ => return Err(Malformed("a family that is not TCP4, TCP6 or UNKNOWN")),
    };
    let used = end + 1;
    Ok(Front::Header { endpoints, used })
}

fn v1_address(text: &str, v4: bool) -> Result<IpAddr, Malformed> {
    let bad = Malformed("an address that is not of its family");
    match v4 {
        true => text
            .parse()
            .map(|ip: Ipv4Addr| IpAddr::V4(ip))
            .map_err(|_| bad),
        false => text
            .parse()
            .map(|ip: Ipv6Addr| IpAddr::V6(ip))
            .map_err(|_| bad),
    }
}

/// Decimal, without a sign, and without zeros in front.
fn v1_port(text: &str) -> Result<u16, Malformed> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = text.parse().ok().filter(|_| canonical);
    port.ok_or(Malformed("a port that is no number up to 65535"))
}

fn read_v2(input: &[u8]) -> Result<Front<'_>, Malformed> {
    let local = match input.get(12) {
        None => return Ok(Front::More),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(byte) if byte >> 4 != 2 => return Err(Malformed("a version that is not 2")),
        Some(_) => return Err(Malformed("a command that is not LOCAL or PROXY")),
    };
    // Of a LOCAL connection the family is to be ignored. Whether the client spoke over a stream or in
    // datagrams (0x?1, 0x?2) is between it and the proxy.
    let addresses = match input.get(13) {
        None => return Ok(Front::More),
        Some(_) if local => 0,
        Some(0x00) => 0,
        Some(0x11 | 0x12) => 12,
        Some(0x21 | 0x22) => 36,
        Some(0x31 | 0x32) => 2 * UNIX_PATH,
        Some(_) => return Err(Malformed("an address family that is not assigned")),
    };
    let Some(&[high, low]) = input.get(14..V2_START) else {
        return Ok(Front::More);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2_LENGTH {
        return Err(Malformed("a length of more than 536 bytes"));
    }
    if length < addresses {
        return Err(Malformed("a length that has no room for the addresses"));
    }
    let used = V2_START + length;
    let Some(header) = input.get(..used) else {
        return Ok(Front::More);
    };
    let (block, tlvs) = header[V2_START..].split_at(addresses);
    // What follows an address of no family may be anything.
    if addresses > 0 {
        check_tlvs(header, tlvs)?;
    }
    let endpoints = match block.len() {
        0 if local => Endpoints::Local,
        0 => Endpoints::Unknown,
        12 => Endpoints::Inet {
            source: inet(&block[..4], &block[8..10]),
            destination: inet(&block[4..8], &block[10..]),
        },
        36 => Endpoints::Inet {
            source: inet(&block[..16], &block[32..34]),
            destination: inet(&block[16..32], &block[34..]),
        },
        _ => Endpoints::Unix {
            source: unix(&block[..UNIX_PATH]),
            destination: unix(&block[UNIX_PATH..]),
        },
    };
    Ok(Front::Header { endpoints, used })
}

/// `address` of 4 or of 16 bytes.
fn inet(address: &[u8], port: &[u8]) -> SocketAddr {
    let ip = match <[u8; 4]>::try_from(address) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).unwrap_or_default()),
    };
    SocketAddr::new(ip, u16::from_be_bytes(port.try_into().unwrap_or_default()))
}

/// The zeros at its end are none of it; those at its beginning say that it is an abstract one.
fn unix(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |last| last + 1);
    &path[..end]
}

const TLV_CRC32C: u8 = 0x03;

/// Walks over the TLVs; a checksum has to be right.
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), Malformed> {
    while let [kind, high, low, rest @ ..] = tlvs {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, next)) = rest.split_at_checked(length) else {
            return Err(Malformed("a TLV that is longer than the header"));
        };
        if *kind == TLV_CRC32C {
            let Ok(sum) = <[u8; 4]>::try_from(value) else {
                return Err(Malformed("a checksum that has not four bytes"));
            };
            let at = header.len() - next.len() - 4;
            if crc32c(&[&header[..at], &[0; 4], next]) != u32::from_be_bytes(sum) {
                return Err(Malformed("a checksum that is wrong"));
            }
        }
        tlvs = next;
    }
    match tlvs {
        [] => Ok(()),
        _ => Err(Malformed("a TLV that is cut off")),
    }
}

/// RFC 3720's, bit by bit: there are a few hundred bytes, once a connection.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(!0, |sum: u32, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}

/// Both ends in one family: where they differ, IPv4 is written as IPv6 has it.
fn of_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (v6(source), v6(destination)),
    }
}

/// Writes a header of version 1. It has no word for Unix sockets nor for connections of the proxy's
/// own: both are `UNKNOWN`.
///
/// ```
/// use loopwright::proto::proxy_protocol::{write_v1, Endpoints};
/// let mut out = Vec::new();
/// let (source, destination) = ("192.0.2.1:4711".parse().unwrap(), "198.51.100.7:443".parse().unwrap());
/// write_v1(&mut out, Endpoints::Inet { source, destination });
/// assert_eq!(out, b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n");
/// ```
pub fn write_v1(out: &mut Vec<u8>, endpoints: Endpoints<'_>) {
    let Endpoints::Inet {
        source,
        destination,
    } = endpoints
    else {
        return out.extend_from_slice(b"PROXY UNKNOWN\r\n");
    };
    let (source, destination) = of_one_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
}

/// Writes a header of version 2. Of a Unix path no more than 108 bytes are written; there is none that
/// is longer.
///
/// ```
/// use loopwright::proto::proxy_protocol::{read, write_v2, Endpoints, Front};
/// let mut out = Vec::new();
/// write_v2(&mut out, Endpoints::Local);
/// assert_eq!(read(&out), Ok(Front::Header { endpoints: Endpoints::Local, used: 16 }));
/// ```
pub fn write_v2(out: &mut Vec<u8>, endpoints: Endpoints<'_>) {
    let mut start = |command: u8, family: u8, length: usize| {
        out.extend_from_slice(V2_SIGNATURE);
        out.extend_from_slice(&[command, family]);
        out.extend_from_slice(&(length as u16).to_be_bytes());
    };
    match endpoints {
        Endpoints::Local => start(0x20, 0, 0),
        Endpoints::Unknown => start(0x21, 0, 0),
        Endpoints::Inet {
            source,
            destination,
        } => {
            let (source, destination) = of_one_family(source, destination);
            match source.is_ipv4() {
                true => start(0x21, 0x11, 12),
                false => start(0x21, 0x21, 36),
            }
            for address in [source, destination] {
                match address.ip() {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
        }
        Endpoints::Unix {
            source,
            destination,
        } => {
            start(0x21, 0x31, 2 * UNIX_PATH);
            for path in [source, destination] {
                let written = path.len().min(UNIX_PATH);
                out.extend_from_slice(&path[..written]);
                out.resize(out.len() + UNIX_PATH - written, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The essence of a verdict on all of `input`; with one byte less, with each byte for itself, and
    /// with others behind it, it has to be the same.
    fn verdict(input: &[u8]) -> String {
        let say = |front: Result<Front<'_>, Malformed>| match front {
            Ok(Front::More) => "more".to_string(),
            Ok(Front::Absent) => "absent".to_string(),
            Err(Malformed(why)) => format!("bad: {why}"),
            Ok(Front::Header { endpoints, used }) => match endpoints {
                Endpoints::Inet {
                    source,
                    destination,
                } => format!("{source} > {destination} {used}"),
                Endpoints::Unix {
                    source,
                    destination,
                } => format!(
                    "{} > {} {used}",
                    source.escape_ascii(),
                    destination.escape_ascii()
                ),
                other => format!("{other:?} {used}"),
            },
        };
        let whole = say(read(input));
        for n in 0..input.len() {
            let part = say(read(&input[..n]));
            let header_ends = matches!(read(input), Ok(Front::Header { used, .. }) if used <= n);
            assert!(
                part == "more" || part == whole,
                "{} at {n}: {part}, then {whole}",
                input.escape_ascii()
            );
            assert!(part == whole || !header_ends, "{}", input.escape_ascii());
        }
        if whole != "more" {
            let longer = [input, b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(say(read(&longer)), whole, "{}", input.escape_ascii());
        }
        whole
    }

    #[test]
    fn version_1() {
        let longest6 = "ffff:f...f:ffff".replace("f...f", "ffff:ffff:ffff:ffff:ffff:ffff");
        for (line, want) in [
            // The specification's own examples.
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".into(),
                "255.255.255.255:65535 > 255.255.255.255:65535 56",
            ),
            (
                format!("PROXY TCP6 {longest6} {longest6} 65535 65535\r\n"),
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535 > [ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535 104",
            ),
            ("PROXY UNKNOWN\r\n".into(), "Unknown 15"),
            (
                format!("PROXY UNKNOWN {longest6} {longest6} 65535 65535\r\n"),
                "Unknown 107",
            ),
            (
                "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".into(),
                "192.168.0.1:56324 > 192.168.0.11:443 47",
            ),
            (
                "PROXY TCP6 ::1 ::ffff:192.0.2.1 0 1\r\n".into(),
                "[::1]:0 > [::ffff:192.0.2.1]:1 37",
            ),
            ("".into(), "more"),
            ("PROXY".into(), "more"),
            ("PROXY ".into(), "more"),
            ("PROXY TCP4 1.2.3.4 ".into(), "more"),
            ("PROXY UNKNOWN\r".into(), "more"),
            ("GET / HTTP/1.1\r\n".into(), "absent"),
            ("PROXYX".into(), "absent"),
            ("proxy tcp4".into(), "absent"),
            ("\r\nGET".into(), "absent"),
            (" PROXY".into(), "absent"),
        ] {
            assert_eq!(verdict(line.as_bytes()), want, "{line:?}");
        }
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY \n",
            "PROXY \r\n",
            "PROXY UNKNOWN\n",
            "PROXY unknown\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY TCP 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP6 [::1] ::1 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8  2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
            "PROXY UNKNOWN a\rb\r\n",
            "PROXY UNKNOWN \u{e9}\r\n",
        ] {
            assert!(verdict(line.as_bytes()).starts_with("bad"), "{line:?}");
        }
        let long = |n: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(n - 16));
        assert_eq!(verdict(long(107).as_bytes()), "Unknown 107");
        assert!(verdict(long(108).as_bytes()).starts_with("bad"));
        assert!(verdict(&[b"PROXY ".as_slice(), &[b'x'; 101]].concat()).starts_with("bad"));
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = (block.len() as u16).to_be_bytes();
        [V2_SIGNATURE, &[command, family][..], &length, block].concat()
    }

    const INET: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x67, 1, 187];

    #[test]
    fn version_2() {
        let mut inet6 = [0; 36];
        (inet6[15], inet6[31], inet6[33], inet6[35]) = (1, 2, 80, 81);
        let mut unix = [0; 216];
        unix[..4].copy_from_slice(b"/a\0b");
        unix[108..111].copy_from_slice(b"\0cd");
        let with = |tlvs: &[u8]| [INET, tlvs].concat();
        let from = "192.0.2.1:4711 > 198.51.100.7:443";
        for (bytes, want) in [
            (v2(0x21, 0x11, INET), format!("{from} 28")),
            (v2(0x21, 0x12, INET), format!("{from} 28")),
            (v2(0x21, 0x11, &with(&[4, 0, 0])), format!("{from} 31")),
            (
                v2(0x21, 0x11, &with(&[0xea, 0, 2, 1, 2, 4, 0, 1, 0])),
                format!("{from} 37"),
            ),
            (
                v2(0x21, 0x11, &with(&[&[4, 2, 9][..], &[0; 521]].concat())),
                format!("{from} 552"),
            ),
            (v2(0x21, 0x21, &inet6), "[::1]:80 > [::2]:81 52".into()),
            (v2(0x21, 0x31, &unix), "/a\\x00b > \\x00cd 232".into()),
            (v2(0x21, 0x32, &[0; 216]), " >  232".into()),
            (v2(0x20, 0x00, b""), "Local 16".into()),
            (v2(0x20, 0x11, INET), "Local 28".into()),
            (v2(0x20, 0x99, b"x"), "Local 17".into()),
            (v2(0x21, 0x00, b""), "Unknown 16".into()),
            (v2(0x21, 0x00, b"anything"), "Unknown 24".into()),
            (v2(0x21, 0x11, INET)[..27].to_vec(), "more".into()),
            (V2_SIGNATURE.to_vec(), "more".into()),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "absent".into()),
        ] {
            assert_eq!(verdict(&bytes), want, "{}", bytes.escape_ascii());
        }
        for bytes in [
            v2(0x11, 0x11, INET),
            v2(0x31, 0x11, INET),
            v2(0x22, 0x11, INET),
            v2(0x2f, 0x11, INET),
            v2(0x21, 0x10, INET),
            v2(0x21, 0x13, INET),
            v2(0x21, 0x01, INET),
            v2(0x21, 0x41, INET),
            v2(0x21, 0x11, &INET[..11]),
            v2(0x21, 0x21, INET),
            v2(0x21, 0x31, &unix[..215]),
            v2(0x21, 0x11, &with(&[4])),
            v2(0x21, 0x11, &with(&[4, 0])),
            v2(0x21, 0x11, &with(&[4, 0, 1])),
            v2(0x21, 0x11, &with(&[&[4, 2, 10][..], &[0; 522]].concat())),
            v2(0x20, 0, &[0; 537]),
        ] {
            assert!(
                verdict(&bytes).starts_with("bad"),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn the_checksum_is_checked() {
        // RFC 3720 §B.4: thirty-two zeros; and the check value of the catalogue.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[b"12345", b"6789"]), 0xe306_9283);
        let mut header = v2(
            0x21,
            0x11,
            &[INET, &[3, 0, 4, 0, 0, 0, 0, 4, 0, 1, 9]].concat(),
        );
        let sum = crc32c(&[&header]).to_be_bytes();
        header[31..35].copy_from_slice(&sum);
        assert_eq!(verdict(&header), "192.0.2.1:4711 > 198.51.100.7:443 39");
        for at in [16, 31, 38] {
            let mut other = header.clone();
            other[at] ^= 1;
            assert!(verdict(&other).starts_with("bad"), "{at}");
        }
        let short = v2(0x21, 0x11, &[INET, &[3, 0, 3, 0, 0, 0]].concat());
        assert!(verdict(&short).starts_with("bad"));
    }

    #[test]
    fn what_is_written_is_read() {
        let inet = |source: &str, destination: &str| Endpoints::Inet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        let unix = Endpoints::Unix {
            source: b"",
            destination: b"/run/a.sock",
        };
        let mapped = inet("[::ffff:1.2.3.4]:5", "[::1]:6");
        for (endpoints, v1, v2) in [
            (inet("1.2.3.4:5", "6.7.8.9:10"), None, None),
            (inet("[2001:db8::1]:5", "[::1]:6"), None, None),
            (inet("1.2.3.4:5", "[::1]:6"), Some(mapped), Some(mapped)),
            (unix, Some(Endpoints::Unknown), None),
            (Endpoints::Local, Some(Endpoints::Unknown), None),
            (Endpoints::Unknown, None, None),
        ] {
            let (mut one, mut two) = (Vec::new(), Vec::new());
            write_v1(&mut one, endpoints);
            write_v2(&mut two, endpoints);
            for (bytes, want) in [(one, v1), (two, v2)] {
                let want = Front::Header {
                    endpoints: want.unwrap_or(endpoints),
                    used: bytes.len(),
                };
                assert_eq!(read(&bytes), Ok(want), "{}", bytes.escape_ascii());
            }
        }
    }
}
