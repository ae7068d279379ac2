//! What passes a proxy: a request goes on as one request, the same to a server as it was to us; nothing that was said
//! of this connection passes; and who asks is what the next proxy, which trusts us, takes from it.
//!
//! Input: the peer and who is trusted, then a request's head; its fields are those of the answer, too.

use super::take;
use loopwright::Method;
use loopwright::proto::forwarded::Trusted;
use loopwright::proto::h1::head::{Framing, Head, HeadLimits, read, slots};
use loopwright::service::proxy::fields::{Incoming, MAX_OPTIONS, Rules, Stop, Towards};
use std::net::IpAddr;

/// Of one connection alone (RFC 9110 §7.6.1).
const HOP: [&str; 5] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "http2-settings",
    "upgrade",
];

pub(crate) fn run(mut data: &[u8]) {
    let who = take(&mut data);
    let peers = ["10.0.0.1", "192.0.2.1", "::ffff:10.0.0.1", "fd00::1"];
    let peer: IpAddr = peers[usize::from(who % 4)].parse().expect("an address");
    let ours = "10.255.255.255";
    let trusted = match who / 4 % 3 {
        0 => Trusted::default(),
        _ => Trusted::parse(["10.0.0.0/8", "fd00::/8"]).expect("networks"),
    };
    let text = [data, b"\r\n\r\n"].concat();
    let mut slots = slots();
    let Ok(Some(head)) = read(&text, &mut 0, true, &mut slots, &HeadLimits::NONE) else {
        return;
    };
    let rules = Rules::new("lw");
    let incoming = Incoming::of(&head, Some(peer), &trusted, Default::default());
    let mut towards = Towards::server("10.0.0.9:80", &head);
    towards.close = who & 0x80 != 0;
    let mut out = b"before".to_vec();
    let sent = rules.request(&mut out, &incoming, &towards);
    let out = out.strip_prefix(b"before").expect("what was there before");
    match sent {
        Err(stop) => {
            assert!(out.is_empty(), "a piece of what does not go on");
            let is_counted = matches!(*incoming.method, Method::OPTIONS | Method::TRACE);
            assert!(is_counted || !matches!(stop, Stop::Last | Stop::MaxForwards));
        }
        Ok(()) => {
            goes_on(out, &head);
            next(out, ours, &incoming, &trusted);
        }
    }
    answer(&rules, &head, &incoming);
}

fn goes_on(out: &[u8], head: &Head<'_>) {
    let mut slots = slots();
    let sent = read(out, &mut 0, true, &mut slots, &HeadLimits::NONE);
    let sent = sent.expect("a request").expect("a whole one");
    assert_eq!(sent.raw.len(), out.len(), "something behind it");
    assert_eq!((&sent.method, sent.framing), (&head.method, head.framing));
    assert_eq!((sent.path, sent.query), (head.path, head.query));
    assert!(!sent.http_10);
    let many = |name| sent.fields.get_all(name).count();
    assert_eq!(many("host"), 1);
    if !head.authority.is_empty() {
        assert_eq!(sent.authority, head.authority);
    }
    // Where there is no body, it may say so.
    assert!(many("content-length") <= usize::from(head.framing != Framing::Chunked));
    assert_eq!(
        many("transfer-encoding"),
        usize::from(head.framing == Framing::Chunked)
    );
    assert!(many("connection") <= 1 && many("x-forwarded-for") == 1 && many("forwarded") <= 1);
    for name in HOP {
        assert_eq!(many(name), 0, "{name}");
    }
    for (name, value) in sent.fields.iter() {
        let is_bare = |b: &u8| matches!(b, b'\r' | b'\n' | 0);
        assert!(!value.iter().any(is_bare), "{name}");
    }
}

/// The next one trusts us, and whom we trust.
fn next(out: &[u8], ours: &str, incoming: &Incoming<'_>, trusted: &Trusted) {
    let mut slots = slots();
    let head = read(out, &mut 0, true, &mut slots, &HeadLimits::NONE);
    let head = head.expect("a request").expect("a whole one");
    let all = match trusted.is_empty() {
        true => Trusted::parse([ours]),
        false => Trusted::parse(["10.0.0.0/8", "fd00::/8"]),
    };
    let (ours, all) = (ours.parse().expect("an address"), all.expect("networks"));
    let theirs = Incoming::of(&head, Some(ours), &all, Default::default());
    assert_eq!(theirs.client.address, incoming.client.address);
}

fn answer(rules: &Rules, head: &Head<'_>, incoming: &Incoming<'_>) {
    let named: usize = head
        .fields
        .get_all("connection")
        .map(|line| line.split(|&b| b == b',').count())
        .sum();
    let mut passed = Vec::new();
    let mut scratch = Vec::new();
    let push = |name: &[u8], value: &[u8]| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        passed.push((name, value.to_vec()));
    };
    let told = rules.response(&head.fields, 1, false, incoming, &mut scratch, push);
    if told.is_err() {
        return assert!(named > MAX_OPTIONS, "{named} options");
    }
    let lines = head.fields.iter().count();
    assert!(passed.len() <= lines + 1, "{} of {lines}", passed.len());
    let dropped = ["connection", "te", "content-length", "transfer-encoding"];
    for (name, _) in &passed {
        let is_dropped = HOP.contains(&name.as_str()) || dropped.contains(&name.as_str());
        assert!(!is_dropped, "{name}");
    }
}
