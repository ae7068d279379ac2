//! Whom a request comes from: nobody who is not trusted is believed, nothing to the left of the last that is has any
//! influence, and what one of us writes the next one reads.
//!
//! Input: the peer and who is trusted, then field lines: `f` before one of `Forwarded`, `x`, `p` and `h` before one of
//! `X-Forwarded-For`, `-Proto` and `-Host`.

use super::take;
use loopwright::proto::forwarded::{Dialect, Node, Trusted, client, node, write};
use loopwright::proto::h1::head::{HeadLimits, read, slots};
use std::net::IpAddr;

/// A line's name and value.
type Line = (&'static str, Vec<u8>);

#[derive(Clone, PartialEq, Debug)]
struct Seen {
    address: Option<IpAddr>,
    proto: Option<String>,
    host: Option<Vec<u8>>,
    heard: Option<Dialect>,
}

pub(crate) fn run(mut data: &[u8]) {
    let who = take(&mut data);
    let peers = ["10.0.0.1", "192.0.2.1", "::ffff:10.0.0.1", "fd00::1"];
    // Beyond them, a Unix socket.
    let peer = peers.get(usize::from(who % 5));
    let peer: Option<IpAddr> = peer.map(|ip| ip.parse().expect("an address"));
    let dialects = [Dialect::Either, Dialect::Forwarded, Dialect::XForwarded];
    let dialect = dialects[usize::from(who / 5 % 3)];
    let networks = ["10.0.0.0/8", "fd00::/8", "unix"];
    let trusted = match who / 15 % 4 {
        0 => Trusted::default(),
        _ => Trusted::parse(networks).expect("networks").hearing(dialect),
    };
    let lines: Vec<Line> = data.split(|&b| b == b'\n').filter_map(named).collect();
    for (_, value) in &lines {
        if let Some(Node::Address(ip)) = node(value) {
            assert_eq!(ip, ip.to_canonical());
            assert_eq!(node(ip.to_string().as_bytes()), Some(Node::Address(ip)));
        }
    }
    let Some(seen) = ask(&lines, peer, &trusted) else {
        return;
    };
    let Some(heard) = seen.heard else {
        assert!(!trusted.contains(peer));
        let address = peer.map(|ip| ip.to_canonical());
        let (proto, host) = (None, None);
        let nobody = Seen {
            address,
            proto,
            host,
            ..seen
        };
        return assert_eq!(seen, nobody);
    };
    assert!(trusted.contains(peer));
    assert!(dialect == Dialect::Either || dialect == heard);
    if !trusted.contains(seen.address) {
        is_deaf_to_the_left(&lines, heard, peer, &trusted, &seen);
    }
    is_read_by_the_next(peer, &trusted, &seen);
}

fn named(line: &[u8]) -> Option<Line> {
    let (first, value) = line.split_first()?;
    let name = match first {
        b'f' => "forwarded",
        b'x' => "x-forwarded-for",
        b'p' => "x-forwarded-proto",
        b'h' => "x-forwarded-host",
        _ => return None,
    };
    Some((name, value.to_vec()))
}

/// What these lines say, if they are field lines at all.
fn ask(lines: &[Line], peer: Option<IpAddr>, trusted: &Trusted) -> Option<Seen> {
    let mut text = b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec();
    for (name, value) in lines {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"\r\n");
    let mut slots = slots();
    let head = read(&text, &mut 0, true, &mut slots, &HeadLimits::NONE).ok()??;
    let told = client(peer, &head.fields, trusted);
    Some(Seen {
        address: told.address,
        proto: told.proto.map(str::to_string),
        host: told.host.map(<[u8]>::to_vec),
        heard: told.heard,
    })
}

/// The walk ended on somebody who is not trusted: whatever he has written in front is nothing.
fn is_deaf_to_the_left(
    lines: &[Line],
    heard: Dialect,
    peer: Option<IpAddr>,
    trusted: &Trusted,
    seen: &Seen,
) {
    let (name, forged): (_, &[&[u8]]) = match heard {
        Dialect::Forwarded => (
            "forwarded",
            &[
                b"for=6.6.6.6;proto=evil;host=evil",
                b"for=\"10.6.6.6",
                b"\"",
            ],
        ),
        _ => ("x-forwarded-for", &[b"6.6.6.6", b"10.6.6.6", b"evil"]),
    };
    for forged in forged {
        let mut ahead = lines.to_vec();
        ahead.insert(0, (name, forged.to_vec()));
        // One line more may be one too many.
        let told = ask(&ahead, peer, trusted);
        assert!(told.is_none_or(|told| told == *seen), "{seen:?}");
        let mut within = lines.to_vec();
        if let Some((_, line)) = within.iter_mut().find(|(its, _)| *its == name) {
            *line = [forged, &b", "[..], line].concat();
        }
        assert_eq!(ask(&within, peer, trusted).as_ref(), Some(seen), "within");
    }
}

/// What is written of what was seen is seen again.
fn is_read_by_the_next(peer: Option<IpAddr>, trusted: &Trusted, seen: &Seen) {
    let (Some(address), Some(proto)) = (seen.address, &seen.proto) else {
        return;
    };
    let host = seen.host.clone().unwrap_or_default();
    let mut line = Vec::new();
    write(&mut line, Some(address), &host, proto);
    let trusted = trusted.clone().hearing(Dialect::Forwarded);
    let next = ask(&[("forwarded", line)], peer, &trusted);
    let heard = Some(Dialect::Forwarded);
    let again = Seen {
        heard,
        ..seen.clone()
    };
    assert_eq!(next, Some(again));
}
