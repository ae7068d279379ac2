//! What a server does wrong, and what the client sees of it: 502 for what is no answer, 504 for one that does not come, an
//! answer that is visibly broken off, never one that looks whole and is not, and never somebody else's.
//!
//! RFC 9112 §6.3 and §8, RFC 9110 §15.6.3, §15.6.5 and §7.6.

use crate::faulty::{Faulty, HEALTHY, OK, Refusing, Step, hanging, refusing};
use crate::message::{Kind, Parsed, bytes, parse};
use crate::raw::{End, Raw};
use crate::under_test::{IMPATIENT, config, proxy, try_rows};
use Step::*;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const POST: &str = "POST /a HTTP/1.1|host: a|content-length: 3||abc";
const GET: &str = "GET /a HTTP/1.1|host: a||";
const HEAD: &str = "HEAD /a HTTP/1.1|host: a||";

/// One try, so that what it meets shows.
const ONCE: usize = 1;

/// So many tries, and little patience.
fn tries(count: usize) -> String {
    format!("{IMPATIENT}retries = {{ tries = {count} }}")
}

/// Name; what the client asks; what the upstream does on its first connection, later ones being healthy; what the client
/// gets, where ` or ` parts what is allowed.
type Row = (&'static str, &'static str, &'static [Step], &'static str);

/// The answer's status and body, `cut` if it is not whole; and whether the client's next request, on the same connection
/// if that is still there, is answered as it should be.
fn outcome(proxy: SocketAddr, request: &str) -> String {
    let start = Instant::now();
    let mut raw = Raw::connect(proxy);
    raw.send(&bytes(request));
    let first = match raw.answer(request.starts_with("HEAD ")) {
        Ok(answer) if answer.status() >= 500 => answer.status().to_string(),
        Ok(answer) => format!("{}={}", answer.status(), answer.body),
        Err(why) if why.contains("HTTP/1.1 ") => return "cut".into(),
        Err(why) => return format!("no answer: {why}"),
    };
    if start.elapsed() > Duration::from_secs(8) {
        return format!("{first} after {:?}", start.elapsed());
    }
    // What the upstream sends unasked has time to arrive.
    std::thread::sleep(Duration::from_millis(150));
    let next = |mut raw: Raw| {
        raw.send(&bytes(GET));
        raw.answer(false)
    };
    // On the same connection, unless what was sent there is no whole request yet.
    let second = match parse(&bytes(request), Kind::Request) {
        Parsed::Whole(..) => next(raw).or_else(|_| next(Raw::connect(proxy))),
        _ => next(Raw::connect(proxy)),
    };
    match second {
        Ok(answer) if answer.body == "ok" && answer.status() == 200 => first,
        other => format!("{first}, then {other:?}"),
    }
}

fn check(count: usize, rows: &[Row]) {
    try_rows(rows, |(name, request, steps, want)| {
        let behind = Faulty::first(steps.to_vec());
        let proxy = proxy(&config(&[behind.address], &tries(count)));
        let got = outcome(proxy.address, request);
        match want.split(" or ").any(|allowed| allowed == got) {
            true => Ok(()),
            false => Err(format!("{name}\n  got  {got}\n  want {want}")),
        }
    });
}

const DEATHS: &[Row] = &[
    ("closes at once", POST, &[Close], "502"),
    ("resets at once", POST, &[Reset], "502"),
    (
        "closes when it has the request",
        POST,
        &[Request, Close],
        "502",
    ),
    (
        "resets when it has the request",
        POST,
        &[Request, Reset],
        "502",
    ),
    ("says nothing", POST, &[Silence], "504"),
    (
        "says nothing to a request it has read",
        GET,
        &[Request, Silence],
        "504",
    ),
    (
        "dies in the status line",
        POST,
        &[Request, Send("HTTP/1.1 20"), Close],
        "502",
    ),
    (
        "dies in the head",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-le"), Close],
        "502",
    ),
    (
        "resets in the head",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-le"), Reset],
        "502",
    ),
    (
        "stops in the head",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-le"), Silence],
        "504",
    ),
    (
        "dies in a body with a length",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 9||abc"),
            Close,
        ],
        "cut or 502",
    ),
    (
        "resets in a body with a length",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 9||abc"),
            Wait(Duration::from_millis(100)),
            Reset,
        ],
        "cut or 502",
    ),
    (
        "stops in a body with a length",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 9||abc"),
            Silence,
        ],
        "cut or 504",
    ),
    (
        "dies in a chunk",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||9|abc"),
            Close,
        ],
        "cut or 502",
    ),
    (
        "dies between chunks",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||3|abc|"),
            Close,
        ],
        "cut or 502",
    ),
    (
        "dies in the trailers",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||3|abc|0|x: y"),
            Close,
        ],
        "cut or 502",
    ),
    (
        "resets in a body that its end ends",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK||abc"),
            Wait(Duration::from_millis(100)),
            Reset,
        ],
        "cut or 502",
    ),
    (
        "a body that its end ends",
        POST,
        &[Request, Send("HTTP/1.1 200 OK||abc"), Close],
        "200=abc",
    ),
    (
        "a body in drops",
        POST,
        &[
            Request,
            Drip(
                "HTTP/1.1 200 OK|content-length: 3||abc",
                Duration::from_millis(5),
            ),
        ],
        "200=abc",
    ),
    (
        "resets behind its answer",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 2||ok"),
            Reset,
        ],
        "200=ok",
    ),
    (
        "answers before it has read the body, and closes",
        "POST /a HTTP/1.1|host: a|content-length: 9||abc",
        &[
            Head,
            Send("HTTP/1.1 413 Big|connection: close|content-length: 2||no"),
            Close,
        ],
        "413=no",
    ),
    (
        "answers before it has read the body, and resets",
        "POST /a HTTP/1.1|host: a|content-length: 9||abc",
        &[
            Head,
            Send("HTTP/1.1 413 Big|connection: close|content-length: 2||no"),
            Wait(Duration::from_millis(100)),
            Reset,
        ],
        "413=no or 502",
    ),
];

const GARBAGE: &[Row] = &[
    (
        "noise",
        POST,
        &[Request, Send("\0\u{1}\u{2}\u{ff}||||")],
        "502",
    ),
    (
        "another protocol",
        POST,
        &[Request, Send("SSH-2.0-OpenSSH_9.6||")],
        "502",
    ),
    (
        "HTTP/0.9",
        POST,
        &[Request, Send("<html>hello</html>")],
        "502",
    ),
    ("ICY", POST, &[Request, Send("ICY 200 OK||"), Close], "502"),
    (
        "HTTP/2.0",
        POST,
        &[Request, Send("HTTP/2.0 200 OK|content-length: 0||")],
        "502",
    ),
    (
        "a status of two digits",
        POST,
        &[Request, Send("HTTP/1.1 20 OK|content-length: 0||")],
        "502",
    ),
    (
        "a status of four digits",
        POST,
        &[Request, Send("HTTP/1.1 2000 OK|content-length: 0||")],
        "502",
    ),
    (
        "a status below 100",
        POST,
        &[Request, Send("HTTP/1.1 099 OK|content-length: 0||")],
        "502",
    ),
    (
        "a status with a sign",
        POST,
        &[Request, Send("HTTP/1.1 +20 OK|content-length: 0||")],
        "502",
    ),
    (
        "no reason",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200|content-length: 2||ok"),
            Request,
            Send(OK),
            Again,
        ],
        "200=ok",
    ),
    (
        "a bare LF in the head",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|x: y\nz: a|content-length: 2||ok"),
        ],
        "502",
    ),
    (
        "LF for every line",
        POST,
        &[Request, Send("HTTP/1.1 200 OK\ncontent-length: 2\n\nok")],
        "502",
    ),
    (
        "a bare CR in a value",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|x: y\rz|content-length: 2||ok"),
        ],
        "502",
    ),
    (
        "a NUL in a value",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|x: y\0z|content-length: 2||ok"),
        ],
        "502",
    ),
    (
        "a fold",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|x: y| z|content-length: 2||ok"),
            Again,
        ],
        "502 or 200=ok",
    ),
    (
        "a space before a colon",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|x : y|content-length: 2||ok"),
            Again,
        ],
        "502 or 200=ok",
    ),
    (
        "a line without a colon",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|x|content-length: 2||ok")],
        "502",
    ),
    (
        "a head that does not end",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|"),
            Repeat(
                "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy|",
                100_000,
            ),
        ],
        "502",
    ),
    (
        "a head of 100 KiB",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 2|"),
            Repeat(
                "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy|",
                1800,
            ),
            Send("|ok"),
        ],
        "502",
    ),
    (
        "fields without end",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|"), Repeat("x:|", 10_000)],
        "502",
    ),
    (
        "a line that does not end",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|x: "),
            Repeat(
                "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
                100_000,
            ),
        ],
        "502",
    ),
    (
        "interim answers without end",
        POST,
        &[
            Request,
            Repeat("HTTP/1.1 103 Early Hints|link: </a>||", 100_000),
        ],
        "502",
    ),
    (
        "a switch that nobody has asked for",
        POST,
        &[
            Request,
            Send("HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: x||abc"),
        ],
        "502",
    ),
];

/// Two readings of where an answer ends: none is passed on.
const FRAMING: &[Row] = &[
    (
        "both lengths",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 3|transfer-encoding: chunked||2|ok|0||"),
        ],
        "502",
    ),
    (
        "two lengths",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 2|content-length: 3||ok"),
        ],
        "502",
    ),
    (
        "the same length twice",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 2|content-length: 2||ok"),
        ],
        "502",
    ),
    (
        "a list of lengths",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-length: 2, 2||ok")],
        "502",
    ),
    (
        "a length with a sign",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-length: +2||ok")],
        "502",
    ),
    (
        "a negative length",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-length: -2||ok")],
        "502",
    ),
    (
        "a length that is none",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-length: 2x||ok")],
        "502",
    ),
    (
        "a length beyond 64 bits",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 18446744073709551618||ok"),
        ],
        "502",
    ),
    (
        "no length in its field",
        POST,
        &[Request, Send("HTTP/1.1 200 OK|content-length:||ok")],
        "502",
    ),
    (
        "chunked twice",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked, chunked||2|ok|0||"),
        ],
        "502",
    ),
    (
        "two fields of codings",
        POST,
        &[
            Request,
            Send(
                "HTTP/1.1 200 OK|transfer-encoding: chunked|transfer-encoding: identity||2|ok|0||",
            ),
        ],
        "502",
    ),
    (
        "an unknown coding",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: xchunked||2|ok|0||"),
            Close,
        ],
        "502",
    ),
    (
        "chunks in HTTP/1.0",
        POST,
        &[
            Request,
            Send("HTTP/1.0 200 OK|transfer-encoding: chunked||2|ok|0||"),
            Close,
        ],
        "502",
    ),
    (
        "a chunk's size with 0x",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||0x2|ok|0||"),
        ],
        "cut or 502",
    ),
    (
        "a chunk's size beyond 64 bits",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||10000000000000002|ok|0||"),
        ],
        "cut or 502",
    ),
    (
        "a negative chunk",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||-2|ok|0||"),
        ],
        "cut or 502",
    ),
    (
        "a chunk longer than its size",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||2|okay|0||"),
        ],
        "cut or 502",
    ),
    (
        "LF in an extension",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||2;\nok|0||"),
        ],
        "cut or 502",
    ),
    (
        "more than its length",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 2||okSTALE"),
            Again,
        ],
        "200=ok",
    ),
    (
        "more than its chunks",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|transfer-encoding: chunked||2|ok|0||STALE"),
            Again,
        ],
        "200=ok",
    ),
    (
        "a second answer unasked for",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 2||okHTTP/1.1 200 OK|content-length: 5||STALE"),
            Again,
        ],
        "200=ok",
    ),
    (
        "a second answer unasked for, later",
        POST,
        &[
            Request,
            Send(OK),
            Wait(Duration::from_millis(60)),
            Send("HTTP/1.1 200 OK|content-length: 5||STALE"),
            Again,
        ],
        "200=ok",
    ),
    (
        "408 on an idle connection",
        POST,
        &[
            Request,
            Send(OK),
            Wait(Duration::from_millis(60)),
            Send("HTTP/1.1 408 Slow|connection: close|content-length: 0||"),
            Close,
        ],
        "200=ok",
    ),
    (
        "204 with a length",
        POST,
        &[
            Request,
            Send("HTTP/1.1 204 No|content-length: 5||STALE"),
            Again,
        ],
        "204= or 502",
    ),
    (
        "204 with chunks",
        POST,
        &[
            Request,
            Send("HTTP/1.1 204 No|transfer-encoding: chunked||5|STALE|0||"),
            Again,
        ],
        "204= or 502",
    ),
    (
        "304 with a length",
        GET,
        &[
            Request,
            Send("HTTP/1.1 304 Same|content-length: 5||"),
            Request,
            Send(OK),
            Again,
        ],
        "304=",
    ),
    (
        "304 with a body",
        GET,
        &[
            Request,
            Send("HTTP/1.1 304 Same|content-length: 5||STALE"),
            Again,
        ],
        "304=",
    ),
    (
        "HEAD with a body",
        HEAD,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 5||STALE"),
            Again,
        ],
        "200=",
    ),
    (
        "HEAD with a length",
        HEAD,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 5||"),
            Request,
            Send(OK),
            Again,
        ],
        "200=",
    ),
    (
        "100 before the answer",
        POST,
        &[
            Request,
            Send("HTTP/1.1 100 Continue||HTTP/1.1 200 OK|content-length: 2||ok"),
            Again,
        ],
        "200=ok",
    ),
    (
        "103 before the answer",
        GET,
        &[
            Request,
            Send("HTTP/1.1 103 Early Hints|link: </a>||"),
            Send(OK),
            Again,
        ],
        "200=ok",
    ),
    (
        "103 with a length",
        GET,
        &[
            Request,
            Send(
                "HTTP/1.1 103 Early Hints|content-length: 5||HTTP/1.1 200 OK|content-length: 2||ok",
            ),
            Again,
        ],
        "200=ok or 502",
    ),
    (
        "HTTP/1.0 that closes",
        POST,
        &[Request, Send("HTTP/1.0 200 OK||ok"), Close],
        "200=ok",
    ),
    (
        "HTTP/1.0 that stays",
        POST,
        &[
            Request,
            Send("HTTP/1.0 200 OK|connection: keep-alive|content-length: 2||ok"),
            Again,
        ],
        "200=ok",
    ),
    (
        "connection: close, and it stays",
        POST,
        &[
            Request,
            Send("HTTP/1.1 200 OK|connection: close|content-length: 2||ok"),
            Silence,
        ],
        "200=ok",
    ),
];

/// RFC 9110 §9.2.2: what may be asked again is asked again where nothing has been answered.
const RETRIES: &[Row] = &[
    (
        "closes when it has the request",
        GET,
        &[Request, Close],
        "200=ok",
    ),
    (
        "resets when it has the request",
        GET,
        &[Request, Reset],
        "200=ok",
    ),
    (
        "dies in the head",
        GET,
        &[Request, Send("HTTP/1.1 2"), Close],
        "200=ok or 502",
    ),
    ("a POST is not asked again", POST, &[Request, Close], "502"),
    (
        "a POST that nobody has begun to read may be",
        POST,
        &[Reset],
        "200=ok or 502",
    ),
    (
        "what has begun to be answered is not",
        GET,
        &[
            Request,
            Send("HTTP/1.1 200 OK|content-length: 9||abc"),
            Wait(Duration::from_millis(50)),
            Close,
        ],
        "cut or 502",
    ),
];

macro_rules! tables {
    ($($name:ident $tries:expr, $rows:ident;)*) => {$(
        #[test]
        fn $name() {
            check($tries, $rows);
        }
    )*};
}

tables! {
    deaths ONCE, DEATHS;
    garbage ONCE, GARBAGE;
    framing ONCE, FRAMING;
    retries 2, RETRIES;
}

#[test]
fn connections_that_do_not_come_about() {
    let (Refusing(refused, _kept), hanging) = (refusing(), hanging());
    for (address, want) in [(refused, 502), (hanging.address, 504)] {
        let proxy = proxy(&config(&[address], &tries(ONCE)));
        let start = Instant::now();
        let mut raw = Raw::connect(proxy.address);
        raw.send(&bytes(GET));
        let answer = raw.answer(false).expect("an answer");
        assert_eq!(answer.status(), want);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "it took {took:?}");
    }
}

/// Another server is asked instead, if there is one.
#[test]
fn another_server_is_asked() {
    let (Refusing(refused, _kept), hanging, healthy) = (refusing(), hanging(), Faulty::healthy());
    let servers = [refused, hanging.address, healthy.address];
    let proxy = proxy(&config(&servers, &tries(3)));
    for request in [GET, POST].repeat(3) {
        assert_eq!(outcome(proxy.address, request), "200=ok", "{request}");
    }
}

/// One that closes after each answer without a word: what comes next finds that out in time, POST as well.
#[test]
fn a_connection_that_was_closed_while_idle_is_not_used() {
    let behind = Faulty::start(|_| vec![Request, Send(OK), Close]);
    let proxy = proxy(&config(&[behind.address], &tries(ONCE)));
    let mut raw = Raw::connect(proxy.address);
    for _ in 0..5 {
        raw.send(&bytes(POST));
        let answer = raw.answer(false).expect("an answer");
        assert_eq!((answer.status(), &answer.body[..]), (200, "ok"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(behind.connections() >= 5);
}

/// The worst moment: the next request is on its way when the upstream closes. What may be repeated is; the rest is a 502,
/// and never asked twice.
#[test]
fn a_connection_that_closes_under_the_next_request() {
    let script = |_| vec![Request, Send(OK), Request, Close];
    for (request, want) in [(GET, &["200"][..]), (POST, &["502"])] {
        let behind = Faulty::start(script);
        let proxy = proxy(&config(&[behind.address], &tries(3)));
        let mut raw = Raw::connect(proxy.address);
        raw.send(&bytes(GET));
        assert_eq!(raw.answer(false).expect("an answer").status(), 200);
        raw.send(&bytes(request));
        let answer = raw.answer(false).expect("an answer");
        assert!(want.contains(&&*answer.status().to_string()), "{answer:?}");
        let (asked, _) = behind.requests();
        let posts = asked.iter().filter(|r| r.first.starts_with("POST")).count();
        assert!(posts <= 1, "a POST was asked {posts} times");
    }
}

/// A byte now and then is no progress for ever: the request has a time of its own.
#[test]
fn an_answer_in_drops_has_an_end() {
    for row in [
        "HTTP/1.1 200 OK|x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
        "HTTP/1.1 200 OK|transfer-encoding: chunked||1|a|1|a|1|a|1|a|1|a|1|a|1|a|1|a",
    ] {
        let behind = Faulty::start(move |_| vec![Request, Drip(row, Duration::from_millis(200))]);
        let more = "timeouts = { total = \"1500ms\" }\nretries = { tries = 1 }";
        let proxy = proxy(&config(&[behind.address], more));
        let start = Instant::now();
        let mut raw = Raw::connect(proxy.address);
        raw.send(&bytes(GET));
        match raw.answer(false) {
            Ok(answer) => assert_eq!(answer.status(), 504),
            Err(why) => assert!(why.contains("HTTP/1.1 200"), "{why}"),
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(4), "it took {took:?}");
    }
}

/// RFC 9110 §15.2: they are passed on, but for one that answers what the proxy has asked for itself.
#[test]
fn interim_answers_reach_the_client() {
    let hints = "HTTP/1.1 103 Early Hints|link: </a>||";
    let behind = Faulty::first(vec![Request, Send(hints), Send(OK)]);
    let proxy = proxy(&config(&[behind.address], &tries(ONCE)));
    let mut raw = Raw::connect(proxy.address);
    raw.send(&bytes(GET));
    let got = raw.rest(Duration::from_millis(300));
    let got = String::from_utf8_lossy(&got.bytes);
    assert!(got.starts_with("HTTP/1.1 103 "), "{got}");
    assert!(got.contains("link: </a>\r\n"), "{got}");
    assert!(
        got.contains("HTTP/1.1 200 ") && got.ends_with("ok"),
        "{got}"
    );
}

/// A client that leaves takes its request with it: the upstream hears of it.
#[test]
fn a_client_that_leaves_ends_its_request() {
    let behind = Faulty::start(|number| match number {
        0 => vec![Request, Silence],
        _ => HEALTHY.to_vec(),
    });
    let proxy = proxy(&config(&[behind.address], ""));
    let mut raw = Raw::connect(proxy.address);
    raw.send(&bytes(GET));
    let got = raw.rest(Duration::from_millis(200));
    assert_eq!((got.bytes.len(), got.end), (0, End::Open));
    crate::support::wait_until("the upstream's connection ends", || behind.open() == 0);
}

/// One that only has nothing more to say looks the same; whether it is answered is for the config to say.
#[test]
fn a_client_that_closes_its_sending_side() {
    for (aborts, want) in [(true, "x"), (false, "200x")] {
        let behind =
            Faulty::start(|_| vec![Request, Wait(Duration::from_millis(400)), Send(OK), Again]);
        let config = config(&[behind.address], "").replace(
            "host = \"keep\"",
            &format!("host = \"keep\", abort_on_close = {aborts}"),
        );
        let proxy = proxy(&config);
        // Together with its request, and later.
        for pause in [0, 100] {
            let mut raw = Raw::connect(proxy.address);
            raw.send(&bytes(GET));
            std::thread::sleep(Duration::from_millis(pause));
            raw.finish();
            let start = Instant::now();
            let got = raw.rest(Duration::from_secs(2));
            assert_eq!(
                (got.outcome(false).as_str(), got.end),
                (want, End::Closed),
                "{aborts} {pause}"
            );
            if aborts {
                assert!(start.elapsed() < Duration::from_millis(300), "{pause}");
            }
        }
    }
}

/// An answer that its client does not read is held back, not gathered.
#[test]
fn an_answer_is_passed_on_at_the_pace_of_its_client() {
    let behind = Faulty::start(|_| {
        let head = "HTTP/1.1 200 OK|content-length: 67108864||";
        let block = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        vec![Request, Send(head), Repeat(block, 1 << 20)]
    });
    let proxy = proxy(&config(&[behind.address], ""));
    let mut raw = Raw::connect(proxy.address);
    raw.send(&bytes(GET));
    std::thread::sleep(Duration::from_millis(500));
    let held = proxy.memory();
    assert!(held < 24 << 20, "it holds {held} bytes");
    let got = raw.rest(Duration::from_secs(2));
    assert!(got.bytes.len() > 64 << 20, "{} bytes", got.bytes.len());
}

/// Nor is an upload that its server does not read.
#[test]
fn an_upload_is_passed_on_at_the_pace_of_its_server() {
    let behind = Faulty::start(|_| vec![Head, Wait(Duration::from_secs(2)), Silence]);
    let proxy = proxy(&config(&[behind.address], ""));
    let mut raw = Raw::connect(proxy.address);
    raw.send(&bytes(
        "POST /a HTTP/1.1|host: a|content-length: 67108864||",
    ));
    let sender = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        (0..32).for_each(|_| raw.send(&piece));
        raw
    });
    std::thread::sleep(Duration::from_secs(1));
    let (held, passed) = (proxy.memory(), behind.received().concat().len());
    assert!(
        held < 24 << 20,
        "it holds {held} bytes, {passed} have arrived"
    );
    drop(sender.join().expect("the sender"));
}

/// Trailers pass, but for those that must not; none do where `connection` names fields.
#[test]
fn trailers_of_an_answer() {
    for (trailers, fields, want) in [
        ("x-sum: 1|y: 2|", "", vec!["x-sum: 1", "y: 2"]),
        (
            "set-cookie: a=b|x_forwarded_for: b|connection: close|keep-alive: 5|location: /b|x-sum: 1|",
            "trailer: x-sum|",
            vec!["x-sum: 1"],
        ),
        ("x-sum: 1|", "connection: x-sum|", vec![]),
    ] {
        let answer =
            format!("HTTP/1.1 200 OK|transfer-encoding: chunked|{fields}|2|ok|0|{trailers}|");
        let answer: &'static str = answer.leak();
        let behind = Faulty::start(move |_| vec![Request, Send(answer), Again]);
        let proxy = proxy(&config(&[behind.address], ""));
        let mut raw = Raw::connect(proxy.address);
        for _ in 0..2 {
            raw.send(&bytes(GET));
            let answer = raw.answer(false).expect("an answer");
            let got = answer
                .trailers
                .iter()
                .map(|(name, value)| format!("{name}: {value}"));
            assert_eq!(
                (answer.body.as_str(), got.collect::<Vec<_>>()),
                ("ok", want.iter().map(|s| s.to_string()).collect())
            );
        }
    }
}

/// A server that answers while it reads is sent the rest; one that refuses, and will close, is not (RFC 9112 §9.5).
#[test]
fn an_answer_before_the_end_of_its_request() {
    for (first, fields, goes_on) in [
        ("HTTP/1.1 200 OK", "", true),
        ("HTTP/1.1 200 OK", "connection: close|", true),
        ("HTTP/1.1 403 Forbidden", "", true),
        ("HTTP/1.1 403 Forbidden", "connection: close|", false),
    ] {
        let head = format!("{first}|{fields}transfer-encoding: chunked||1|a|");
        let (head, last): (&'static str, _) = (head.leak(), "1|b|0||");
        let behind = Faulty::start(move |_| {
            vec![
                Head,
                Send(head),
                Wait(Duration::from_millis(400)),
                Send(last),
                Silence,
            ]
        });
        let proxy = proxy(&config(&[behind.address], IMPATIENT));
        let mut raw = Raw::connect(proxy.address);
        raw.send(&bytes(
            "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|",
        ));
        std::thread::sleep(Duration::from_millis(200));
        raw.send(&bytes("3|def|0|x-sum: 1||"));
        let answer = raw.answer(false).expect("an answer");
        assert_eq!((answer.first.as_str(), answer.body.as_str()), (first, "ab"));
        let received = behind.received().concat();
        let is_whole = received.ends_with(&bytes("3|def|0|x-sum: 1||"));
        assert_eq!(
            is_whole,
            goes_on,
            "{first} {fields}: {}",
            String::from_utf8_lossy(&received)
        );
    }
}

/// Both go on with their half, and both fall silent: the client's silence has an end, and the server's after that.
#[test]
fn silence_on_both_sides_of_an_answer_that_came_early() {
    let head = "HTTP/1.1 200 OK|transfer-encoding: chunked||1|a|";
    for rest in ["", "3|def|0||"] {
        let behind = Faulty::start(move |_| vec![Head, Send(head), Silence]);
        let config =
            config(&[behind.address], IMPATIENT).replace("drain =", "body = \"1s\"\ndrain =");
        let proxy = proxy(&config);
        let mut raw = Raw::connect(proxy.address);
        raw.send(&bytes(
            "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|",
        ));
        std::thread::sleep(Duration::from_millis(200));
        raw.send(&bytes(rest));
        let got = raw.rest(Duration::from_secs(5));
        assert_eq!(got.outcome(false), "200 cutx", "{rest}");
        crate::support::wait_until("the upstream's connection ends", || behind.open() == 0);
    }
}

/// One that refuses and closes at once resets the connection, for what it has not read: its answer is passed on all the
/// same, and it is not thought to have failed.
#[test]
fn a_refusal_in_the_face_of_its_request() {
    const LARGE: &str = "HTTP/1.1 413 Large|connection: close|content-length: 5||large";
    let pause = Duration::from_millis(10);
    let behind =
        [(); 2].map(|()| Faulty::start(move |_| vec![Head, Wait(pause), Send(LARGE), Reset]));
    let servers = behind.each_ref().map(|server| server.address);
    let proxy = proxy(&config(&servers, ""));
    let body = vec![b'x'; 3 << 20];
    for number in 0..20 {
        let mut raw = Raw::connect(proxy.address);
        raw.send(&bytes("POST /a HTTP/1.1|host: a|content-length: 3145728||"));
        raw.send(&body);
        let answer = raw.answer(false).expect("an answer");
        let got = (answer.status(), answer.body.as_str());
        assert_eq!(got, (413, "large"), "{number}: {}", proxy.log());
    }
    assert!(!proxy.log().contains("ejected"), "{}", proxy.log());
}
