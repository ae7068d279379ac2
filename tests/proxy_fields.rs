//! What a client sent, and what the server behind a proxy receives, byte for byte; and the same for answers.

use loopwright::proto::forwarded::{Dialect, Trusted};
use loopwright::proto::h1::head::{Framing, Head, HeadLimits, read, slots};
use loopwright::service::proxy::fields::{
    Announced, Edits, HostRule, Incoming, RuleError, Rules, Stop, Towards,
};
use loopwright::service::proxy::path::Rewrite;

/// Parses a head, written with `|` for its lines' ends, and without the last two.
fn with_head<T>(lines: &str, then: impl FnOnce(&Head<'_>) -> T) -> T {
    let bytes = format!("{lines}||").replace('|', "\r\n");
    let mut slots = slots();
    let head = read(
        bytes.as_bytes(),
        &mut 0,
        true,
        &mut slots,
        &HeadLimits::NONE,
    );
    then(&head.expect(lines).expect(lines))
}

struct World {
    rules: Rules,
    trusted: Trusted,
    peer: Option<&'static str>,
    towards: fn(&mut Towards<'_>),
}

/// Nobody is trusted, and the server is not told who asks.
fn quiet() -> World {
    let mut rules = Rules::new("lw");
    rules.announced = Announced {
        x_forwarded: false,
        forwarded: false,
    };
    World {
        rules,
        trusted: Trusted::default(),
        peer: Some("192.0.2.1"),
        towards: |_| {},
    }
}

impl World {
    /// What the server receives, or why it receives nothing.
    fn sends(&self, lines: &str) -> String {
        with_head(lines, |head| {
            let peer = self.peer.map(|ip| ip.parse().unwrap());
            let incoming = Incoming::of(head, peer, &self.trusted, Default::default());
            let mut towards = Towards::server("10.0.0.9:80", head);
            (self.towards)(&mut towards);
            let mut out = b"before".to_vec();
            let sent = self.rules.request(&mut out, &incoming, &towards);
            let out = String::from_utf8(out).unwrap();
            let out = out.strip_prefix("before").unwrap();
            match sent {
                Err(stop) => {
                    assert_eq!(out, "", "a piece of what does not go on");
                    format!("{stop:?}")
                }
                Ok(()) => {
                    assert!(!out.replace("\r\n", "").contains(['\r', '\n']));
                    let out = out.replace("\r\n", "|");
                    out.strip_suffix("||").expect("an empty line").to_string()
                }
            }
        })
    }

    /// The fields that a client receives.
    fn receives(&self, lines: &str) -> String {
        self.receives_over(lines, 1, false)
    }

    fn receives_over(&self, lines: &str, minor: u8, tunnel: bool) -> String {
        // An answer's fields are those of any head; its reader is another's.
        let head = format!("GET / HTTP/1.1|host: gone|{lines}");
        with_head("GET / HTTP/1.1|host: example.org", |request| {
            let peer = self.peer.map(|ip| ip.parse().unwrap());
            let incoming = Incoming::of(request, peer, &self.trusted, Default::default());
            with_head(head.trim_end_matches('|'), |answer| {
                let (mut out, mut scratch) = (String::new(), Vec::new());
                let passed = self.rules.response(
                    &answer.fields,
                    minor,
                    tunnel,
                    &incoming,
                    &mut scratch,
                    |name, value| {
                        let text = |bytes| std::str::from_utf8(bytes).unwrap();
                        out += &format!("{}: {}|", text(name), text(value));
                    },
                );
                match passed {
                    Ok(()) => out
                        .replace("host: gone|", "")
                        .trim_end_matches('|')
                        .to_string(),
                    Err(stop) => format!("{stop:?}"),
                }
            })
        })
    }
}

/// A row: lines behind `GET / HTTP/1.1|Host: a`, and what becomes of them before `via`.
fn rows(world: &World, rows: &[(&str, &str)]) {
    for (sent, want) in rows {
        let lines = format!("GET / HTTP/1.1|Host: a|{sent}");
        let want = match want {
            stop if !stop.is_empty() && !stop.contains(':') => stop.to_string(),
            lines => format!("GET / HTTP/1.1|host: a|{lines}|via: 1.1 lw").replace("||", "|"),
        };
        assert_eq!(world.sends(lines.trim_end_matches('|')), want, "{sent}");
    }
}

#[test]
fn what_passes_and_what_does_not() {
    rows(
        &quiet(),
        &[
            ("", ""),
            ("Accept: */*", "Accept: */*"),
            ("X-A: 1|x-a: 2|X-A:   3  ", "X-A: 1|x-a: 2|X-A: 3"),
            ("Empty:", "Empty: "),
            ("Cookie: a=b|Cookie: c=d", "Cookie: a=b|Cookie: c=d"),
            ("Authorization: Basic eDp5", "Authorization: Basic eDp5"),
            ("X: a\tb\u{e9}", "X: a\tb\u{e9}"),
            ("Cache-Control: no-cache", "Cache-Control: no-cache"),
            (
                "Range: bytes=0-1|If-Match: \"x\"",
                "Range: bytes=0-1|If-Match: \"x\"",
            ),
            // Hop by hop.
            ("Connection: keep-alive", ""),
            ("Connection: close", ""),
            ("CONNECTION: Close", ""),
            ("Connection:", ""),
            ("Keep-Alive: timeout=5", ""),
            ("Proxy-Connection: keep-alive", ""),
            ("Proxy-Authorization: Basic eDp5", ""),
            ("Proxy-Authenticate: Basic", ""),
            ("Proxy-Authentication-Info: x", ""),
            (
                "Upgrade: h2c|HTTP2-Settings: x|Connection: upgrade, http2-settings",
                "",
            ),
            ("Upgrade: websocket|Connection: Upgrade", ""),
            ("Proxy: http://evil", ""),
            ("Proxy-Thing: 1", "Proxy-Thing: 1"),
            // What Connection names.
            ("Connection: X-A|X-A: 1|X-B: 2", "X-B: 2"),
            ("X-A: 1|x-a: 2|Connection: close, x-A", ""),
            (
                "Connection: x-a|Connection: x-b|X-A: 1|X-B: 2|X-C: 3",
                "X-C: 3",
            ),
            ("Connection: ,, x-a ,\tx-b,|X-A: 1|X-B: 2", ""),
            ("Connection: x-a;q=1|X-A: 1", "X-A: 1"),
            // What it cannot.
            ("Connection: host", ""),
            (
                "Connection: authorization|Authorization: x",
                "Authorization: x",
            ),
            ("Connection: Cookie|Cookie: a=b", "Cookie: a=b"),
            (
                "Connection: cache-control|Cache-Control: no-store",
                "Cache-Control: no-store",
            ),
            (
                "Connection: content-type|Content-Type: a/b",
                "Content-Type: a/b",
            ),
            ("Connection: origin|Origin: http://a", "Origin: http://a"),
            (
                "Connection: range, if-range|Range: x|If-Range: y",
                "Range: x|If-Range: y",
            ),
            (
                "Connection: sec-fetch-site|Sec-Fetch-Site: none",
                "Sec-Fetch-Site: none",
            ),
            ("Connection: via|Via: 1.1 b", "Via: 1.1 b"),
            (
                "Connection: max-forwards|Max-Forwards: 3",
                "Max-Forwards: 3",
            ),
            // Bounds.
            (
                "Connection: a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p|P: 1|Q: 2",
                "Q: 2",
            ),
            (
                "Connection: a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q",
                "Options",
            ),
            (
                "Connection: a,a,a,a,a,a,a,a,a|connection: a,a,a,a,a,a,a,a",
                "Options",
            ),
            (
                "Connection: close,close,close,close,close,close,close,close,close,close,close,close,close,close,close,close,close",
                "",
            ),
            // Underscores.
            ("X_A: 1|x-a: 2", "X_A: 1|x-a: 2"),
            ("Content_Length: 5", ""),
            ("content_length: 5|Content-length: 0", ""),
            ("Transfer_Encoding: chunked", ""),
            ("X_Forwarded_For: 1.1.1.1", ""),
            ("X-Forwarded_For: 1.1.1.1", ""),
            ("x_forwarded_port: 1", ""),
            ("X_REAL_IP: 1.1.1.1", ""),
            ("Max_Forwards: 1", ""),
            // Who asks: not from somebody who is not trusted.
            (
                "X-Forwarded-For: 1.1.1.1|x-forwarded-proto: https|X-Forwarded-Host: b",
                "",
            ),
            ("Forwarded: for=1.1.1.1", ""),
            (
                "X-Forwarded-Port: 443|X-Forwarded-Prefix: /a|X-FORWARDED-: x|X-Real-IP: 1.1.1.1",
                "",
            ),
            (
                "X-Forwarded: x|X-Forward-For: y|XX-Forwarded-For: z",
                "X-Forwarded: x|X-Forward-For: y|XX-Forwarded-For: z",
            ),
            // TE and Trailer.
            ("TE: gzip", ""),
            ("Trailer: X-Sum", ""),
            // Max-Forwards is counted for two methods alone.
            ("Max-Forwards: 0", "Max-Forwards: 0"),
            ("Max-Forwards: x", "Max-Forwards: x"),
            // Via.
            (
                "Via: 1.0 fred, 1.1 p.example.net (Apache/1.1)",
                "Via: 1.0 fred, 1.1 p.example.net (Apache/1.1)",
            ),
            (
                "Via: 1.1 lw,1.1 LW (x), HTTP/1.1 lw|Via: 1.1 lw,1.1 lw,1.1 lw,1.1 lw,1.1   lw",
                "Via: 1.1 lw,1.1 LW (x), HTTP/1.1 lw|Via: 1.1 lw,1.1 lw,1.1 lw,1.1 lw,1.1   lw",
            ),
            (
                "Via: 1.1 lw,1.1 LW (x), HTTP/1.1 lw|Via: 1.1 lw,1.1 lw,1.1 lw,1.1 lw,1.1   lw, 1.1 lw",
                "Loop",
            ),
            (
                "Via: lw, lw, lw, lw, lw, lw, lw, lw, lw, lw",
                "Via: lw, lw, lw, lw, lw, lw, lw, lw, lw, lw",
            ),
        ],
    );
}

/// Whole heads.
#[test]
fn request_lines_hosts_and_framing() {
    let world = quiet();
    for (sent, want) in [
        (
            "GET /a%2Fb?c=%zz&d HTTP/1.1|Host: a",
            "GET /a%2Fb?c=%zz&d HTTP/1.1|host: a|via: 1.1 lw",
        ),
        (
            "GET /? HTTP/1.1|Host: a",
            "GET /? HTTP/1.1|host: a|via: 1.1 lw",
        ),
        (
            "GET //a HTTP/1.1|Host: a",
            "GET //a HTTP/1.1|host: a|via: 1.1 lw",
        ),
        (
            "BREW /pot HTTP/1.1|Host: a:80",
            "BREW /pot HTTP/1.1|host: a:80|via: 1.1 lw",
        ),
        (
            "GET http://b:8/x?y HTTP/1.1|Host: a",
            "GET /x?y HTTP/1.1|host: b:8|via: 1.1 lw",
        ),
        (
            "GET http://b HTTP/1.1|Host: a",
            "GET / HTTP/1.1|host: b|via: 1.1 lw",
        ),
        (
            "GET http://b?q HTTP/1.1|Host: a",
            "GET /?q HTTP/1.1|host: b|via: 1.1 lw",
        ),
        (
            "OPTIONS * HTTP/1.1|Host: a",
            "OPTIONS * HTTP/1.1|host: a|via: 1.1 lw",
        ),
        (
            "OPTIONS http://b HTTP/1.1|Host: a",
            "OPTIONS * HTTP/1.1|host: b|via: 1.1 lw",
        ),
        (
            "GET / HTTP/1.0",
            "GET / HTTP/1.1|host: 10.0.0.9:80|via: 1.0 lw",
        ),
        (
            "GET / HTTP/1.0|Host: a|X: y",
            "GET / HTTP/1.1|host: a|X: y|via: 1.0 lw",
        ),
        (
            "GET / HTTP/1.1|Host:",
            "GET / HTTP/1.1|host: 10.0.0.9:80|via: 1.1 lw",
        ),
        (
            "GET / HTTP/1.1|X: y|HOST: a",
            "GET / HTTP/1.1|host: a|X: y|via: 1.1 lw",
        ),
        // The body's end.
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 007",
            "POST / HTTP/1.1|host: a|via: 1.1 lw|content-length: 7",
        ),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 0",
            "POST / HTTP/1.1|host: a|via: 1.1 lw|content-length: 0",
        ),
        (
            "POST / HTTP/1.1|Host: a",
            "POST / HTTP/1.1|host: a|via: 1.1 lw|content-length: 0",
        ),
        (
            "DELETE / HTTP/1.1|Host: a|Content-Length: 0",
            "DELETE / HTTP/1.1|host: a|via: 1.1 lw",
        ),
        (
            "GET / HTTP/1.1|Host: a|Content-Length: 18446744073709551615",
            "GET / HTTP/1.1|host: a|via: 1.1 lw|content-length: 18446744073709551615",
        ),
        (
            "PUT / HTTP/1.1|Host: a|Transfer-Encoding: Chunked",
            "PUT / HTTP/1.1|host: a|via: 1.1 lw|transfer-encoding: chunked",
        ),
        (
            "PUT / HTTP/1.1|Host: a|Connection: content-length, transfer-encoding|content-length: 5",
            "PUT / HTTP/1.1|host: a|via: 1.1 lw|content-length: 5",
        ),
        (
            "PUT / HTTP/1.1|Host: a|Connection: transfer-encoding|transfer-encoding: chunked",
            "PUT / HTTP/1.1|host: a|via: 1.1 lw|transfer-encoding: chunked",
        ),
        (
            "PUT / HTTP/1.1|Host: a|Transfer-Encoding: chunked|content_length: 5",
            "PUT / HTTP/1.1|host: a|via: 1.1 lw|transfer-encoding: chunked",
        ),
        // Expect, TE, Trailer.
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 5|Expect: 100-Continue",
            "POST / HTTP/1.1|host: a|via: 1.1 lw|content-length: 5|expect: 100-continue",
        ),
        (
            "POST / HTTP/1.1|Host: a|Expect: 100-continue",
            "POST / HTTP/1.1|host: a|via: 1.1 lw|content-length: 0",
        ),
        (
            "POST / HTTP/1.0|Host: a|Content-Length: 5|Expect: 100-continue",
            "POST / HTTP/1.1|host: a|via: 1.0 lw|content-length: 5",
        ),
        (
            "GET / HTTP/1.1|Host: a|TE: gzip;q=0.5, Trailers|Connection: te",
            "GET / HTTP/1.1|host: a|via: 1.1 lw|te: trailers|connection: te",
        ),
        (
            "GET / HTTP/1.1|Host: a|TE: trailersX",
            "GET / HTTP/1.1|host: a|via: 1.1 lw",
        ),
        (
            "PUT / HTTP/1.1|Host: a|Trailer: X-Sum|Transfer-Encoding: chunked",
            "PUT / HTTP/1.1|host: a|Trailer: X-Sum|via: 1.1 lw|transfer-encoding: chunked",
        ),
        // Max-Forwards.
        (
            "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: 1|X: y",
            "OPTIONS / HTTP/1.1|host: a|max-forwards: 0|X: y|via: 1.1 lw",
        ),
        (
            "TRACE / HTTP/1.1|Host: a|Max-Forwards: 10",
            "TRACE / HTTP/1.1|host: a|max-forwards: 9|via: 1.1 lw",
        ),
        ("TRACE / HTTP/1.1|Host: a|Max-Forwards: 0", "Last"),
        ("OPTIONS * HTTP/1.1|Host: a|Max-Forwards: 0", "Last"),
        (
            "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: 0|Connection: max-forwards",
            "Last",
        ),
        ("OPTIONS / HTTP/1.1|Host: a|Max-Forwards: -1", "MaxForwards"),
        ("OPTIONS / HTTP/1.1|Host: a|Max-Forwards:", "MaxForwards"),
        (
            "OPTIONS / HTTP/1.1|Host: a|Max-Forwards: 99999999999999999999",
            "MaxForwards",
        ),
        // Paths that would be resolved by somebody.
        ("GET /a/../b HTTP/1.1|Host: a", "Path"),
        ("GET /a/.%2E HTTP/1.1|Host: a", "Path"),
    ] {
        assert_eq!(world.sends(sent), want, "{sent}");
    }
}

#[test]
fn hosts_and_ways_to_go_on() {
    let sent = "GET / HTTP/1.1|Host: a|TE: trailers";
    let head = "GET / HTTP/1.1";
    let mut world = quiet();
    for (host, want) in [
        (HostRule::Keep, "host: a"),
        (HostRule::Upstream, "host: 10.0.0.9:80"),
        (HostRule::Named("b:81".into()), "host: b:81"),
    ] {
        world.rules.host = host;
        let want = format!("{head}|{want}|via: 1.1 lw|te: trailers|connection: te");
        assert_eq!(world.sends(sent), want);
    }
    world.rules.host = HostRule::Keep;
    for (towards, want) in [
        (
            (|_| {}) as fn(&mut Towards<'_>),
            "te: trailers|connection: te",
        ),
        (|to| to.close = true, "te: trailers|connection: te, close"),
        (
            |to| to.upgrade = Some("websocket"),
            "upgrade: websocket|connection: upgrade",
        ),
        (
            |to| to.framing = Framing::Length(3),
            "content-length: 3|te: trailers|connection: te",
        ),
    ] {
        world.towards = towards;
        assert_eq!(
            world.sends(sent),
            format!("{head}|host: a|via: 1.1 lw|{want}")
        );
    }
    world.towards = |to| to.close = true;
    let plain = world.sends("GET / HTTP/1.1|Host: a");
    assert_eq!(
        plain,
        format!("{head}|host: a|via: 1.1 lw|connection: close")
    );
}

#[test]
fn who_asks() {
    let both = Announced {
        x_forwarded: true,
        forwarded: true,
    };
    let x = Announced::default();
    let standard = Announced {
        x_forwarded: false,
        forwarded: true,
    };
    for (announced, peer, trusted, dialect, sent, want) in [
        (
            x,
            Some("192.0.2.1"),
            "",
            Dialect::Either,
            "",
            "x-forwarded-for: 192.0.2.1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        (
            x,
            Some("2001:db8::1"),
            "",
            Dialect::Either,
            "",
            "x-forwarded-for: 2001:db8::1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        (
            x,
            Some("::ffff:192.0.2.1"),
            "",
            Dialect::Either,
            "",
            "x-forwarded-for: 192.0.2.1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        (
            x,
            None,
            "",
            Dialect::Either,
            "",
            "x-forwarded-for: unknown|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        (
            standard,
            Some("192.0.2.1"),
            "",
            Dialect::Either,
            "",
            "forwarded: for=192.0.2.1;host=a;proto=http",
        ),
        (
            both,
            Some("2001:db8::1"),
            "",
            Dialect::Either,
            "",
            "forwarded: for=\"[2001:db8::1]\";host=a;proto=http|x-forwarded-for: 2001:db8::1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        // Not trusted: nothing that was said goes on.
        (
            both,
            Some("192.0.2.1"),
            "10.0.0.0/8",
            Dialect::Either,
            "X-Forwarded-For: 6.6.6.6|Forwarded: for=6.6.6.6|X-Forwarded-Proto: https|X-Forwarded-Host: b|X-Real-IP: 6.6.6.6",
            "forwarded: for=192.0.2.1;host=a;proto=http|x-forwarded-for: 192.0.2.1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        // And cannot be taken away.
        (
            x,
            Some("192.0.2.1"),
            "",
            Dialect::Either,
            "Connection: x-forwarded-for, x-forwarded-proto, forwarded|X-Forwarded-For: 6.6.6.6",
            "x-forwarded-for: 192.0.2.1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        // Trusted: it does.
        (
            x,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "X-Forwarded-For: 6.6.6.6|x-forwarded-for: 9.9.9.9|X-Forwarded-Proto: https|X-Forwarded-Host: b",
            "x-forwarded-for: 6.6.6.6, 9.9.9.9, 10.0.0.1|x-forwarded-proto: https|x-forwarded-host: b",
        ),
        (
            x,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "X-Real-IP: 9.9.9.9|X-Forwarded-Port: 443",
            "X-Real-IP: 9.9.9.9|X-Forwarded-Port: 443|x-forwarded-for: 10.0.0.1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        (
            standard,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "Forwarded: for=9.9.9.9;host=b",
            "forwarded: for=9.9.9.9;host=b, for=10.0.0.1;host=a;proto=http",
        ),
        // In the other dialect.
        (
            x,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "Forwarded: for=9.9.9.9;host=b;proto=https",
            "x-forwarded-for: 9.9.9.9, 10.0.0.1|x-forwarded-proto: https|x-forwarded-host: b",
        ),
        (
            standard,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "X-Forwarded-For: \"6.6.6.6\", 9.9.9.9|X-Forwarded-Proto: https",
            "forwarded: for=9.9.9.9;host=a;proto=https, for=10.0.0.1;host=a;proto=http",
        ),
        // What is not heard is not passed on.
        (
            both,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "Forwarded: for=6.6.6.6|X-Forwarded-For: 9.9.9.9",
            "forwarded: for=9.9.9.9;host=a;proto=http, for=10.0.0.1;host=a;proto=http|x-forwarded-for: 9.9.9.9, 10.0.0.1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        (
            x,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Forwarded,
            "Forwarded: for=9.9.9.9|X-Forwarded-For: 6.6.6.6",
            "x-forwarded-for: 9.9.9.9, 10.0.0.1|x-forwarded-proto: http|x-forwarded-host: a",
        ),
        (
            standard,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::XForwarded,
            "Forwarded: for=6.6.6.6",
            "forwarded: for=10.0.0.1;host=a;proto=http",
        ),
        // A string that a client has left open would swallow what is ours, for who reads from the left.
        (
            standard,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "Forwarded: for=\"6.6.6.6, for=9.9.9.9;proto=https",
            "forwarded: for=9.9.9.9;host=a;proto=https, for=10.0.0.1;host=a;proto=http",
        ),
        (
            standard,
            Some("10.0.0.1"),
            "10.0.0.1",
            Dialect::Either,
            "Forwarded: for=6.6.6.6;x=\"\\\"\"|Forwarded: for=9.9.9.9",
            "forwarded: for=6.6.6.6;x=\"\\\"\", for=9.9.9.9, for=10.0.0.1;host=a;proto=http",
        ),
    ] {
        let mut world = quiet();
        world.rules.announced = announced;
        world.peer = peer;
        world.trusted = Trusted::parse(trusted.split_whitespace())
            .unwrap()
            .hearing(dialect);
        let got = world.sends(format!("GET / HTTP/1.1|Host: a|{sent}").trim_end_matches('|'));
        let (kept, ours) = match want.split_once("x-forwarded-for: 10.0.0.1|") {
            Some((kept, _)) if kept.starts_with("X-") => (kept, &want[kept.len()..]),
            _ => ("", want),
        };
        assert_eq!(
            got,
            format!("GET / HTTP/1.1|host: a|{kept}via: 1.1 lw|{ours}"),
            "{sent}"
        );
    }
}

#[test]
fn rules_of_requests() {
    let mut world = quiet();
    let request = &mut world.rules.request;
    request.set("X-User", "{client_ip}/{host}/{proto}").unwrap();
    request.set("x-id", " {{{request_id}}} ").unwrap();
    request.add("Accept", "text/plain").unwrap();
    request.remove("Cookie").unwrap();
    let ours = "X-User: 192.0.2.1/a/http|x-id: {0000000000000000}|Accept: text/plain";
    for (sent, kept) in [
        ("", ""),
        ("Accept: */*", "Accept: */*|"),
        ("X-User: root", ""),
        ("x_user: root|X-UseR: root|x-users: root", "x-users: root|"),
        (
            "Cookie: a=b|COOKIE: c|Cookies: d|X-Cookie: e",
            "Cookies: d|X-Cookie: e|",
        ),
        ("Connection: x-user, accept", ""),
    ] {
        let got = world.sends(format!("GET / HTTP/1.1|Host: a|{sent}").trim_end_matches('|'));
        assert_eq!(
            got,
            format!("GET / HTTP/1.1|host: a|{kept}via: 1.1 lw|{ours}"),
            "{sent}"
        );
    }
    world.peer = None;
    assert!(
        world
            .sends("GET / HTTP/1.1|Host: a")
            .contains("X-User: unknown/a/http|")
    );
    // A rule of a field of ours takes its place.
    let mut world = quiet();
    world.rules.announced = Announced::default();
    world.rules.request.remove("x-forwarded-host").unwrap();
    world
        .rules
        .request
        .set("X-Forwarded-For", "{client_ip}")
        .unwrap();
    let got = world.sends("GET / HTTP/1.1|Host: a|x-forwarded-for: 6.6.6.6");
    assert_eq!(
        got,
        "GET / HTTP/1.1|host: a|via: 1.1 lw|x-forwarded-proto: http|X-Forwarded-For: 192.0.2.1"
    );
}

#[test]
fn rules_that_cannot_be() {
    let mut edits = Edits::default();
    for name in [
        "Host",
        "Content-Length",
        "transfer-encoding",
        "Connection",
        "Keep-Alive",
        "upgrade",
        "TE",
        "Via",
        "Expect",
        "Max-Forwards",
        "proxy-authorization",
        "content_length",
    ] {
        let ours = Err(RuleError::Ours(name.to_string()));
        assert_eq!(edits.set(name, "x"), ours);
        assert_eq!(edits.add(name, "x"), ours);
        assert_eq!(edits.remove(name), ours);
    }
    for name in ["", "a b", "a:", "a\r\n", "\u{e9}"] {
        assert_eq!(edits.remove(name), Err(RuleError::Name(name.to_string())));
    }
    for value in ["a\r\nb: c", "a\n", "\0", "\u{7f}"] {
        assert_eq!(
            edits.set("x", value),
            Err(RuleError::Value(value.to_string()))
        );
    }
    for (value, named) in [
        ("{ip}", "ip"),
        ("{}", ""),
        ("a{host", "{host"),
        ("a}b", "}b"),
        ("{{}", "}"),
    ] {
        assert_eq!(
            edits.add("x", value),
            Err(RuleError::Placeholder(named.to_string()))
        );
    }
    assert!(edits.set("x", "{{}}").is_ok());
}

#[test]
fn answers() {
    let world = quiet();
    for (sent, want) in [
        ("", ""),
        (
            "Content-Type: text/html|Content-Length: 5",
            "Content-Type: text/html",
        ),
        (
            "Transfer-Encoding: chunked|Trailer: X-Sum",
            "Trailer: X-Sum",
        ),
        (
            "Server: nginx|Date: Thu, 01 Jan 1970 00:00:00 GMT",
            "Server: nginx|Date: Thu, 01 Jan 1970 00:00:00 GMT",
        ),
        (
            "Set-Cookie: a=b; Domain=x|Set-Cookie: c=d",
            "Set-Cookie: a=b; Domain=x|Set-Cookie: c=d",
        ),
        ("Location: http://10.0.0.9/x", "Location: http://10.0.0.9/x"),
        ("Connection: close|Keep-Alive: timeout=5", ""),
        (
            "Connection: x-a, set-cookie|X-A: 1|Set-Cookie: a=b",
            "Set-Cookie: a=b",
        ),
        (
            "Connection: date, location, etag|Date: x|Location: y|ETag: z",
            "Date: x|Location: y|ETag: z",
        ),
        (
            "Proxy-Authenticate: Basic|WWW-Authenticate: Basic",
            "WWW-Authenticate: Basic",
        ),
        ("Upgrade: h2c|Connection: upgrade", ""),
        ("Content_Length: 5|x_a: 1", "x_a: 1"),
        (
            "Via: 1.1 b|Max-Forwards: 1|Proxy: x",
            "Via: 1.1 b|Max-Forwards: 1|Proxy: x",
        ),
        ("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 1.1.1.1"),
        ("Connection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", "Options"),
    ] {
        let want = match want {
            "Options" => want.to_string(),
            _ => format!("{want}|via: 1.1 lw")
                .trim_start_matches('|')
                .to_string(),
        };
        assert_eq!(world.receives(sent), want, "{sent}");
    }
    let upgrade = "Upgrade: websocket|Connection: upgrade|Keep-Alive: x";
    assert_eq!(
        world.receives_over(upgrade, 1, true),
        "Upgrade: websocket|via: 1.1 lw"
    );
    assert_eq!(world.receives_over("A: b", 0, false), "A: b|via: 1.0 lw");

    let mut world = quiet();
    let response = &mut world.rules.response;
    response.remove("Server").unwrap();
    response.set("x-served", "{host} for {client_ip}").unwrap();
    response.add("vary", "accept").unwrap();
    assert_eq!(
        world.receives("Server: x|X-Served: y|x_served: y|Vary: z"),
        "Vary: z|via: 1.1 lw|x-served: example.org for 192.0.2.1|vary: accept"
    );
}

#[test]
fn stops_have_a_status() {
    for (stop, status) in [
        (Stop::Loop, 508),
        (Stop::Path, 400),
        (Stop::Options, 400),
        (Stop::MaxForwards, 400),
        (Stop::Last, 200),
    ] {
        assert_eq!(stop.status(), status);
        assert!(!stop.to_string().is_empty());
    }
}

/// `error` stands for a path that is refused.
fn written(rewrite: &Rewrite, path: &str, query: Option<&str>) -> String {
    let mut out = b"before".to_vec();
    let written = rewrite.write(&mut out, path, query);
    let out = String::from_utf8(out).unwrap();
    let out = out.strip_prefix("before").unwrap();
    assert_eq!(written.is_err(), out.is_empty(), "{path}");
    match written {
        Ok(()) => out.to_string(),
        Err(_) => "error".into(),
    }
}

#[test]
fn paths() {
    for (pattern, strip, path, asked, want) in [
        // As it is.
        ("/{*rest}", None, None, "/", "/"),
        (
            "/{*rest}",
            None,
            None,
            "/a//b%2Fc;d=e/f:g@h",
            "/a//b%2Fc;d=e/f:g@h",
        ),
        (
            "/{*rest}",
            None,
            None,
            "/%2f%5c%00%E2%82%AC",
            "/%2f%5c%00%E2%82%AC",
        ),
        ("/{*rest}", None, None, "/...", "/..."),
        ("/{*rest}", None, None, "/.a/a./a..b/..c", "/.a/a./a..b/..c"),
        ("/{*rest}", None, None, "/.well-known/x", "/.well-known/x"),
        ("/{*rest}", None, None, "/a.b%2Ec", "/a.b%2Ec"),
        ("/{*rest}", None, None, "/%252e%252e/", "/%252e%252e/"),
        ("/{*rest}", None, None, "*", "*"),
        // Dot segments, as somebody might see them.
        ("/{*rest}", None, None, "/..", "error"),
        ("/{*rest}", None, None, "/.", "error"),
        ("/{*rest}", None, None, "/a/..", "error"),
        ("/{*rest}", None, None, "/a/./b", "error"),
        ("/{*rest}", None, None, "/%2e%2e/a", "error"),
        ("/{*rest}", None, None, "/%2E./a", "error"),
        ("/{*rest}", None, None, "/a/%2e", "error"),
        ("/{*rest}", None, None, "/a%2f..%2fb", "error"),
        ("/{*rest}", None, None, "/a%2F%2e%2e", "error"),
        ("/{*rest}", None, None, "/a\\..\\b", "error"),
        ("/{*rest}", None, None, "/a%5c..%5Cb", "error"),
        ("/{*rest}", None, None, "/..;/a", "error"),
        ("/{*rest}", None, None, "/a/..;x=y/b", "error"),
        ("/{*rest}", None, None, "/a/..%3bx/b", "error"),
        ("/{*rest}", None, None, "/a;b/..", "error"),
        ("/{*rest}", None, None, "/a/..%00b", "error"),
        ("/{*rest}", None, None, "/a/..%3Fb", "error"),
        ("/{*rest}", None, None, "/a/..%23b", "error"),
        ("/{*rest}", None, None, "/a/..%20b", "/a/..%20b"),
        // Stripped.
        ("/api/{*rest}", Some("/api"), None, "/api/a/b", "/a/b"),
        ("/api/{*rest}", Some("/api/"), None, "/api/a/b", "/a/b"),
        ("/api/{*rest}", Some("/api"), None, "/api/", "/"),
        ("/api", Some("/api"), None, "/api", "/"),
        (
            "/api/v1/{*rest}",
            Some("/api/v1"),
            None,
            "/api/v1/x%2Fy",
            "/x%2Fy",
        ),
        ("/api/{*rest}", Some("/api"), None, "/%61pi/x", "/x"),
        (
            "/api/{*rest}",
            Some("/api"),
            None,
            "/api//evil.example/x",
            "/evil.example/x",
        ),
        ("/api/{*rest}", Some("/api"), None, "/api///", "/"),
        ("/api/{*rest}", Some("/api"), None, "/api/../x", "error"),
        ("/api/{*rest}", Some("/api"), None, "/api/..%2fx", "error"),
        ("/api/{*rest}", Some("/"), None, "/api/x", "/api/x"),
        ("/api/{*rest}", Some("/api"), None, "*", "*"),
        // Rewritten.
        (
            "/api/{*rest}",
            None,
            Some("/v2/{rest}"),
            "/api/a/b",
            "/v2/a/b",
        ),
        ("/api/{*rest}", None, Some("/v2/{rest}"), "/api/", "/v2/"),
        (
            "/api/{*rest}",
            None,
            Some("/v2/{rest}"),
            "/api/a%2fb",
            "/v2/a%2fb",
        ),
        (
            "/api/{*rest}",
            None,
            Some("/v2/{rest}"),
            "/api//a",
            "/v2//a",
        ),
        (
            "/api/{*rest}",
            None,
            Some("/{rest}"),
            "/api//evil.example",
            "/evil.example",
        ),
        (
            "/api/{*rest}",
            None,
            Some("/v2/{rest}"),
            "/api/..%2f..",
            "error",
        ),
        ("/api/{*rest}", None, Some("/v2/.{rest}"), "/api/.", "error"),
        (
            "/u/{id}/p/{*rest}",
            None,
            Some("/{rest}/of/{id}"),
            "/u/7%2F8/p/a/b",
            "/a/b/of/7%2F8",
        ),
        (
            "/u/{id}/p/{*rest}",
            None,
            Some("/{rest}/of/{id}"),
            "/u/7/p/",
            "/of/7",
        ),
        ("/u/{id}", None, Some("/{id}{id}"), "/u/.", "error"),
        ("/u/{id}", None, Some("/x"), "/u/..", "/x"),
        (
            "/f/{name}.json",
            None,
            Some("/{name}"),
            "/f/a.b.json",
            "/a.b",
        ),
        (
            "/f/{name}.json",
            None,
            Some("/{name}"),
            "/f/a.jso%6E",
            "error",
        ),
    ] {
        let rewrite = Rewrite::new(pattern, strip, path).unwrap();
        assert_eq!(
            written(&rewrite, asked, None),
            want,
            "{pattern} {strip:?} {path:?} {asked}"
        );
        if want != "error" {
            let query = Some("a=../..&b=%zz?");
            let want = format!("{want}?a=../..&b=%zz?");
            assert_eq!(written(&rewrite, asked, query), want);
            assert_eq!(
                written(&rewrite, asked, Some("")),
                want.replace("a=../..&b=%zz?", "")
            );
        }
    }
    for (strip, path, why) in [
        (Some("/a"), Some("/b"), "strip and path both"),
        (Some("api"), None, "begins with /"),
        (Some("/ap"), None, "does not begin so"),
        (Some("/api/x"), None, "does not begin so"),
        (Some("/{rest}"), None, "no parameters"),
        (None, Some("v2"), "begins with /"),
        (None, Some("/{id}"), "has no {id}"),
        (None, Some("/{rest"), "without }"),
        (None, Some("/a?b"), "the query"),
        (None, Some("/a b"), "percent-encoded"),
        (None, Some("/\u{e9}"), "percent-encoded"),
        (None, Some("/a#b"), "percent-encoded"),
        (None, Some("/a%4"), "a % without"),
        (None, Some("/a/../b"), "a dot segment"),
    ] {
        let error = Rewrite::new("/api/{*rest}", strip, path)
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever lines a client sends: what goes on is a head again, with one host and the body's end as it
        /// was, and no name that a rule or this proxy answers for comes from the client.
        #[test]
        fn what_goes_on_is_a_head(lines in prop::collection::vec(
            ("(connection|[Tt][eE]|trailer|via|x[-_]forwarded[-_](for|proto|port)|content[_-]type|upgrade|x[-_]a|forwarded|proxy)",
             "[ -~]{0,12}|x-forwarded-for, host, x-a|trailers|1.1 lw"), 0..12))
        {
            let mut world = quiet();
            world.rules.announced = Announced::default();
            world.rules.request.set("x-a", "ours").unwrap();
            let fields: String = lines.iter().map(|(name, value)| format!("|{name}: {value}")).collect();
            let bytes = format!("POST /p HTTP/1.1|host: a|content-length: 7{fields}").replace('|', "\r\n") + "\r\n\r\n";
            let mut first = slots();
            let Ok(Some(head)) = read(bytes.as_bytes(), &mut 0, true, &mut first, &HeadLimits::NONE) else {
                return Ok(());
            };
            let incoming = Incoming::of(&head, Some("192.0.2.1".parse().unwrap()), &world.trusted, Default::default());
            let mut out = Vec::new();
            match world.rules.request(&mut out, &incoming, &Towards::server("s", &head)) {
                Err(_) => prop_assert!(out.is_empty()),
                Ok(()) => {
                    let mut second = slots();
                    let sent = read(&out, &mut 0, true, &mut second, &HeadLimits::NONE).unwrap().unwrap();
                    prop_assert_eq!(sent.raw.len(), out.len());
                    prop_assert_eq!(sent.framing, Framing::Length(7));
                    prop_assert_eq!(sent.authority, b"a");
                    for (name, value) in [("x-a", "ours"), ("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "http")] {
                        let twins = sent.fields.iter().filter(|(its, _)| its.replace('_', "-").eq_ignore_ascii_case(name));
                        let values: Vec<_> = twins.map(|(_, value)| value).collect();
                        prop_assert_eq!(values, [value.as_bytes()]);
                    }
                }
            }
        }
    }
    proptest! {
        /// A path passes, byte for byte, if and only if none of its segments, decoded at once, is a dot
        /// segment; and what is stripped of its prefix is what follows that.
        #[test]
        fn paths_are_refused_for_dot_segments_alone(path in "(/|\\.|%2[eEfF]|%5c|;|a|%00|%3b|\\\\){0,9}") {
            let path = format!("/api/{path}");
            let decoded = percent_encoding::percent_decode_str(&path).collect::<Vec<u8>>();
            let mut segments = decoded.split(|b| b"/\\\0".contains(b));
            let refused = segments.any(|segment| {
                let name = segment.split(|b| b";?#".contains(b)).next().unwrap();
                name == b"." || name == b".."
            });
            let same = written(&Rewrite::default(), &path, None);
            let strip = Rewrite::new("/api/{*rest}", Some("/api"), None).unwrap();
            let stripped = written(&strip, &path, None);
            match refused {
                true => prop_assert_eq!((same.as_str(), stripped.as_str()), ("error", "error")),
                false => {
                    let rest = format!("/{}", path.strip_prefix("/api").unwrap().trim_start_matches('/'));
                    prop_assert_eq!((same, stripped), (path, rest));
                }
            }
        }
    }
}
