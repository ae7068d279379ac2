//! What becomes of the connection: RFC 9112 §9, RFC 9110 §7.6.1, §7.8 and §10.1.1.

use crate::support::{Case, Tcp, bytes, check, check_one, run};
use std::io::{Read, Write};

pub(crate) const COUNT: usize = OPTIONS.len() + OPTIONS_1_0.len() + EXPECT.len() + UPGRADE.len();

const OPTIONS: &[Case] = &[
    ("connection: close||", "200x > GET /"),
    ("Connection: CLOSE||", "200x > GET /"),
    ("connection: x, close||", "200x > GET /"),
    ("connection: close, keep-alive||", "200x > GET /"),
    ("connection: ,close,||", "200x > GET /"),
    ("connection: x|connection: close||", "200x > GET /"),
    (
        "connection: close||GET / HTTP/1.1|host: a||",
        "200x > GET /",
    ),
    ("connection: keep-alive||", "200 > GET /"),
    ("connection:||", "200 > GET /"),
    ("connection: closed||", "200 > GET /"),
    ("connection: x-close||", "200 > GET /"),
    ("connection: \"close\"||", "200 > GET /"),
    ("connection: host||", "200 > GET /"),
    (
        "connection: content-length|content-length: 3||abc",
        "200 > GET /",
    ),
    ("proxy-connection: close||", "200 > GET /"),
    ("keep-alive: timeout=1||", "200 > GET /"),
    ("|GET / HTTP/1.1|host: a||", "200 200 > GET /; GET /"),
    ("||GET / HTTP/1.1|host: a||", "200 200 > GET /; GET /"),
    (
        "|GET /later HTTP/1.1|host: a||GET / HTTP/1.1|host: a||",
        "200 200 200 > GET /; GET /later; GET /",
    ),
    (
        "|GET /pieces HTTP/1.1|host: a||GET / HTTP/1.1|host: a||",
        "200 200 200 > GET /; GET /pieces; GET /",
    ),
    ("|GET / HTTP/1.1||", "200 400x > GET /"),
    ("|GET / HTTP/2.0||", "200 505x > GET /"),
    ("|abc||", "200 400x > GET /"),
];

/// HTTP/1.1 stays unless somebody says `close`; what comes behind that is nobody's.
#[test]
fn options() {
    check("GET / HTTP/1.1|host: a|", OPTIONS);
}

const OPTIONS_1_0: &[Case] = &[
    ("|", "200x > GET /"),
    ("connection: keep-alive||", "200 > GET /"),
    ("Connection: Keep-Alive||", "200 > GET /"),
    ("connection: x, keep-alive||", "200 > GET /"),
    ("connection: keep-alive, close||", "200x > GET /"),
    ("connection: close||", "200x > GET /"),
    ("keep-alive: timeout=1||", "200x > GET /"),
    ("proxy-connection: keep-alive||", "200x > GET /"),
    ("|GET / HTTP/1.0||", "200x > GET /"),
];

/// HTTP/1.0 goes unless the client says `keep-alive`.
#[test]
fn options_of_http_1_0() {
    check("GET / HTTP/1.0|", OPTIONS_1_0);
    // Without a length only the end of the connection can end an answer, whatever was asked.
    check_one(
        "GET /pieces HTTP/1.0|connection: keep-alive||",
        "200x > GET /pieces",
    );
    check_one(
        "GET /sized HTTP/1.0|connection: keep-alive||",
        "200 > GET /sized",
    );
    let got = run("GET /pieces HTTP/1.0||");
    assert_eq!(got.answers[0].field("transfer-encoding"), None);
    assert_eq!(got.answers[0].body, b"somepieces");
}

const EXPECT: &[Case] = &[
    (
        "POST /read HTTP/1.1|host: a|expect: 100-continue|content-length: 3||abc",
        "200 > POST /read=abc",
    ),
    (
        "POST /read HTTP/1.1|host: a|Expect: 100-Continue|content-length: 3||abc",
        "200 > POST /read=abc",
    ),
    (
        "POST /stream HTTP/1.1|host: a|expect: 100-continue|transfer-encoding: chunked||3|abc|0||",
        "200 > POST /stream=abc",
    ),
    (
        "GET / HTTP/1.1|host: a|expect: 100-continue||",
        "200 > GET /",
    ),
    (
        "POST /read HTTP/1.1|host: a|expect: 100-continue|content-length: 0||",
        "200 > POST /read=",
    ),
    (
        "POST /read HTTP/1.0|expect: 100-continue|content-length: 3||abc",
        "200x > POST /read=abc",
    ),
    ("GET / HTTP/1.1|host: a|expect:||", "200 > GET /"),
    (
        "GET / HTTP/1.1|host: a|expect: ,100-continue,||",
        "200 > GET /",
    ),
    (
        "GET / HTTP/1.1|host: a|expect: 100-continue|expect: 100-continue||",
        "200 > GET /",
    ),
    ("GET / HTTP/1.1|host: a|expect: 100-continue, x||", "417x"),
    ("GET / HTTP/1.1|host: a|expect: 100-continue=x||", "417x"),
    ("GET / HTTP/1.0|expect: x||", "417x"),
    ("GET / HTTP/1.1|host: a|expect: 200-ok||", "417x"),
    (
        "GET / HTTP/1.1|host: a|expect: 100-continue, 100-continue||",
        "200 > GET /",
    ),
    ("GET / HTTP/1.1|host: a|expect: 100-continue;x||", "417x"),
    (
        "GET / HTTP/1.1|host: a|expect: 100-continue|expect: x||",
        "417x",
    ),
    (
        "POST /read HTTP/1.1|host: a|expect: x|content-length: 3||abc",
        "417x",
    ),
    (
        "POST /read HTTP/1.1|host: a|expect: 100-continue|content-length: 4097||",
        "413x",
    ),
];

/// One expectation is known.
#[test]
fn expectations() {
    check("", EXPECT);
    // None is met that has no body, or is of a version that has none.
    for request in [
        "GET / HTTP/1.1|host: a|expect: 100-continue||",
        "GET / HTTP/1.0|expect: 100-continue||",
    ] {
        assert_eq!(run(request).answers[0].status, 200, "{request}");
    }
}

/// RFC 9110 §10.1.1: leave is given before the final answer or not at all, and only to who waits.
#[test]
fn leave_to_continue() {
    let tcp = Tcp::new();
    let head = "POST /read HTTP/1.1|host: a|expect: 100-continue|content-length: 3||";
    let mut stream = tcp.connect();
    let read = |stream: &mut std::net::TcpStream| {
        let mut got = vec![0; 4096];
        let n = stream.read(&mut got).expect("an answer");
        String::from_utf8_lossy(&got[..n]).into_owned()
    };
    stream.write_all(&bytes(head)).expect("sent");
    assert_eq!(read(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").expect("sent");
    let last = read(&mut stream);
    assert!(last.starts_with("HTTP/1.1 200 OK\r\n"), "{last}");
    // Who sends at once has not waited.
    assert_eq!(run(&format!("{head}abc")).answers.len(), 1);
    // A final answer instead: whether the body still comes nobody knows, so the connection closes.
    for (path, status) in [("/ignore", "200"), ("/nowhere", "404"), ("/", "405")] {
        let mut stream = tcp.connect();
        let head = head.replace("/read", path);
        stream.write_all(&bytes(&head)).expect("sent");
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("an end");
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{all}");
        assert!(
            all.contains("connection: close\r\n") && !all.contains("100 "),
            "{all}"
        );
    }
}

const UPGRADE: &[Case] = &[
    ("upgrade: websocket|connection: upgrade||", "200 > GET /"),
    (
        "upgrade: h2c|connection: upgrade, http2-settings|http2-settings: AAMAAABkAAQAoAAAAAIAAAAA||",
        "200 > GET /",
    ),
    ("upgrade: TLS/1.0|connection: upgrade||", "200 > GET /"),
    ("upgrade: x||", "200 > GET /"),
    ("upgrade: h2c|connection: upgrade, close||", "200x > GET /"),
    ("upgrade:||", "200 > GET /"),
];

/// RFC 9110 §7.8: an upgrade may be ignored, and is: no 101, and the request is answered.
#[test]
fn upgrades_are_ignored() {
    check("GET / HTTP/1.1|host: a|", UPGRADE);
    check_one(
        "GET / HTTP/1.0|upgrade: h2c|connection: upgrade||",
        "200x > GET /",
    );
}
