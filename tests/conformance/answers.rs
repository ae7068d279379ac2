//! What answers look like: RFC 9110 §6.4, §6.6.1, §8.6, §9.3 and §15, RFC 9112 §6.

use crate::support::{Case, Got, check, check_between, check_one, run};

pub(crate) const COUNT: usize = HEADS.len() + BODILESS.len() + OTHER.len();

const HEADS: &[Case] = &[
    ("/", "200 > HEAD /"),
    ("/read", "200 > HEAD /read="),
    ("/later", "200 > HEAD /later"),
    ("/pieces", "200 > HEAD /pieces"),
    ("/sized", "200 > HEAD /sized"),
    ("/file", "200 > HEAD /file"),
    ("/host", "200 > HEAD /host"),
    ("/nowhere", "404 > HEAD /nowhere"),
    ("/stream", "405 > HEAD /stream"),
    ("/fails", "500 > HEAD /fails"),
    ("/status/204", "204 > HEAD /status/204"),
    ("/status/205", "205 > HEAD /status/205"),
    ("/status/304", "304 > HEAD /status/304"),
    ("/status/400", "400 > HEAD /status/400"),
    ("/status/503", "503 > HEAD /status/503"),
    ("/open/204", "204 > HEAD /open/204"),
    ("/to?v=/x", "302 > HEAD /to?v=/x"),
    ("/cookie?v=x", "200 > HEAD /cookie?v=x"),
];

/// RFC 9110 §9.3.2: the answer to HEAD never has a body, and says what GET's says.
#[test]
fn head() {
    check_between("HEAD ", HEADS, " HTTP/1.1|host: a||");
    for (path, _) in HEADS {
        let ask = |method: &str| {
            let mut got = run(&format!("{method} {path} HTTP/1.1|host: a||")).answers[0].clone();
            // A second may pass, trailers are not in the head, and what is allowed depends on the method.
            got.fields
                .retain(|(name, _)| name != "date" && name != "x-sum");
            got
        };
        if *path == "/stream" {
            continue;
        }
        let (head, get) = (ask("HEAD"), ask("GET"));
        assert_eq!(
            (head.status, head.fields),
            (get.status, get.fields),
            "{path}"
        );
        assert_eq!(head.body, b"", "{path}");
    }
}

/// A refusal of HEAD has no body either.
#[test]
fn head_refused() {
    check(
        "HEAD / HTTP/1.1|",
        &[
            ("|", "400x"),
            ("host: a|x : y||", "400x"),
            ("host: a|expect: x||", "417x"),
            ("host: a|transfer-encoding: gzip, chunked||", "501x"),
            ("host: a|content-length: 4097||", "413x"),
        ],
    );
    check_one("|HEAD / HTTP/2.0|host: a||", "505x");
    check_one(
        &format!("HEAD /?{} HTTP/1.1|host: a||", "x".repeat(300)),
        "414x",
    );
    check_one(
        &format!("HEAD / HTTP/1.1|host: a|x: {}||", "y".repeat(1024)),
        "431x",
    );
    check_one(
        "HEAD /read HTTP/1.1|host: a|transfer-encoding: chunked||x|",
        "400x > HEAD /read",
    );
}

const BODILESS: &[Case] = &[
    ("/status/204", "204 > GET /status/204"),
    ("/status/205", "205 > GET /status/205"),
    ("/status/304", "304 > GET /status/304"),
    ("/open/204", "204 > GET /open/204"),
    ("/open/205", "205 > GET /open/205"),
    ("/open/304", "304 > GET /open/304"),
    // 1xx is not the app's to send, and what is no status is our fault.
    ("/status/100", "500 > GET /status/100"),
    ("/status/101", "500 > GET /status/101"),
    ("/status/99", "500 > GET /status/99"),
    ("/status/0", "500 > GET /status/0"),
    ("/status/599", "599 > GET /status/599"),
    ("/status/600", "500 > GET /status/600"),
    ("/status/999", "500 > GET /status/999"),
];

/// RFC 9110 §8.6, RFC 9112 §6.1: 204, 205 and 304 have no body, and say so as they must.
#[test]
fn no_body() {
    check_between("GET ", BODILESS, " HTTP/1.1|host: a||");
    for kind in ["status", "open"] {
        for (status, length) in [(204, None), (205, Some("0")), (304, None)] {
            let got = run(&format!("GET /{kind}/{status} HTTP/1.1|host: a||"));
            let got = &got.answers[0];
            assert_eq!(got.field("content-length"), length, "{got:?}");
            assert_eq!(got.field("transfer-encoding"), None, "{got:?}");
            assert_eq!(got.body, b"");
        }
    }
}

/// RFC 9110 §9.3.6: nothing frames the answer that makes a tunnel. There are no tunnels here, so what
/// middleware has promised ends at once; and what was meant for it is never a request.
#[test]
fn connect() {
    let behind = "GET / HTTP/1.1|host: a||";
    check_one(
        &format!("CONNECT b:443 HTTP/1.1|host: b:443|x-tunnel: 1||{behind}"),
        "200x > CONNECT ",
    );
    check_one(
        &format!("CONNECT b:443 HTTP/1.1|host: b:443||{behind}"),
        "501x > CONNECT ",
    );
    check_one(
        "CONNECT b:443 HTTP/1.1|host: b:443|content-length: 3||abcGET / HTTP/1.1|host: a||",
        "501x > CONNECT ",
    );
    check_one(
        "CONNECT b:443 HTTP/1.0|connection: keep-alive||",
        "501x > CONNECT ",
    );
    let got = run("CONNECT b:443 HTTP/1.1|host: b:443|x-tunnel: 1||");
    let got = &got.answers[0];
    assert_eq!(got.field("content-length"), None, "{got:?}");
    assert_eq!(got.field("transfer-encoding"), None, "{got:?}");
    assert_eq!(got.body, b"");
}

/// RFC 9110 §6.6.1: there is a clock, so every final answer has a date, once, in the preferred form.
#[test]
fn date() {
    for request in [
        "GET / HTTP/1.1|host: a||",
        "GET / HTTP/1.0||",
        "HEAD / HTTP/1.1|host: a||",
        "GET /later HTTP/1.1|host: a||",
        "GET /pieces HTTP/1.1|host: a||",
        "GET /status/204 HTTP/1.1|host: a||",
        "GET /status/304 HTTP/1.1|host: a||",
        "GET /fails HTTP/1.1|host: a||",
        "GET /nowhere HTTP/1.1|host: a||",
        "POST / HTTP/1.1|host: a||",
        "FOO / HTTP/1.1|host: a||",
        "OPTIONS * HTTP/1.1|host: a||",
        "GET / HTTP/1.1||",
        "GET / HTTP/2.0||",
        "GET / HTTP/1.1|host: a|expect: x||",
    ] {
        let got = run(request);
        let got = &got.answers[0];
        let dates = got.fields.iter().filter(|(name, _)| name == "date").count();
        let date = got.field("date").unwrap_or_default();
        let age = httpdate::parse_http_date(date).map(|date| date.elapsed());
        let is_now = age.is_ok_and(|age| age.is_ok_and(|age| age.as_secs() < 3));
        assert!(
            dates == 1 && date.ends_with(" GMT") && is_now,
            "{request}: {got:?}"
        );
    }
}

const OTHER: &[Case] = &[
    (
        "GET /read HTTP/1.1|host: a|content-length: 3||abc",
        "200 > GET /read=abc",
    ),
    (
        "GET /read HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0||",
        "200 > GET /read=abc",
    ),
    (
        "HEAD /read HTTP/1.1|host: a|content-length: 3||abc",
        "200 > HEAD /read=abc",
    ),
    (
        "OPTIONS /read HTTP/1.1|host: a|content-length: 3||abc",
        "200 > OPTIONS /read=abc",
    ),
    (
        "OPTIONS * HTTP/1.1|host: a|content-length: 3||abc",
        "204 > OPTIONS *",
    ),
    (
        "TRACE / HTTP/1.1|host: a|content-length: 3||abc",
        "405 > TRACE /",
    ),
    ("GET / HTTP/1.1|host: a|range: bytes=0-1||", "200 > GET /"),
    (
        "POST /read HTTP/1.1|host: a|range: bytes=0-1|content-length: 3||abc",
        "200 > POST /read=abc",
    ),
    (
        "GET / HTTP/1.1|host: a|te: trailers|connection: te||",
        "200 > GET /",
    ),
    ("GET / HTTP/1.1|host: a|max-forwards: 0||", "200 > GET /"),
    (
        "GET / HTTP/1.1|host: a|accept: x/y|accept-encoding: zz|accept-charset: q||",
        "200 > GET /",
    ),
    (
        "POST /read HTTP/1.0|content-length: 3||abc",
        "200x > POST /read=abc",
    ),
    ("POST /read HTTP/1.0||", "200x > POST /read="),
];

/// A body belongs to a message by its framing, whatever the method; fields we do not know change nothing.
#[test]
fn bodies_and_fields_of_any_method() {
    check("", OTHER);
}

/// RFC 9110 §10.2.1, §15.5.6: 405 says what is allowed; so do OPTIONS and `OPTIONS *`.
#[test]
fn allow() {
    for (request, allow) in [
        ("POST / HTTP/1.1|host: a||", "GET, HEAD, OPTIONS"),
        ("OPTIONS / HTTP/1.1|host: a||", "GET, HEAD, OPTIONS"),
        ("GET /stream HTTP/1.1|host: a||", "POST, OPTIONS"),
        (
            "OPTIONS * HTTP/1.1|host: a||",
            "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE, X-OWN",
        ),
    ] {
        let got = run(request);
        assert_eq!(got.answers[0].field("allow"), Some(allow), "{request}");
    }
}

/// RFC 9112 §7.1, RFC 9110 §6.5.1: an answer of unknown length is chunked, `chunked` alone; what frames
/// or routes a message does not come behind it.
#[test]
fn chunked_answers() {
    let got = run("GET /pieces HTTP/1.1|host: a||");
    let got: &Got = &got.answers[0];
    assert_eq!(got.field("transfer-encoding"), Some("chunked"));
    assert_eq!(
        (got.field("content-length"), got.field("host")),
        (None, None)
    );
    // What the app says of its trailers goes before them.
    assert_eq!(got.field("trailer"), Some("x-sum"));
    assert_eq!(got.field("x-sum"), Some("10"));
    assert_eq!(got.body, b"somepieces");
}
