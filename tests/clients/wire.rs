//! Bare sockets against the site: framing, order, pipelining, and what is refused.

use crate::site::{pattern, site};
use crate::support::*;
use loopwright::{App, Limits, Timeouts};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";

#[test]
fn pipelined_requests_are_answered_in_order_in_one_write() {
    let server = serve(site);
    let mut client = server.connect();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    client.send([get("/users/1"), get("/users/2"), get("/users/3")].concat());
    let said = client.read_once();
    let bodies: Vec<&str> = said
        .split("HTTP/1.1 200 OK\r\n")
        .skip(1)
        .map(|answer| &answer[answer.len() - 1..])
        .collect();
    assert_eq!(bodies, ["1", "2", "3"], "{said}");

    // A late answer holds back those behind it; a body is not taken for a request.
    let post = "POST /mirror HTTP/1.1\r\nhost: test\r\ncontent-length: 34\r\n\r\n";
    client.send(
        [
            get("/slow").as_str(),
            post,
            GET,
            "abcd",
            &get("/nothing"),
            GET,
        ]
        .concat(),
    );
    assert_eq!(client.answer().text(), "worth the wait");
    assert_eq!(client.answer().text(), format!("{GET}abcd"));
    assert_eq!(client.answer().status, 204);
    assert_eq!(client.answer().text(), "home");
}

#[test]
fn more_pipelined_requests_than_one_turn_answers() {
    let server = serve(site);
    let mut client = server.connect();
    let requests: Vec<String> = (0..2000)
        .map(|n| format!("GET /users/{n} HTTP/1.1\r\nhost: test\r\n\r\n"))
        .collect();
    let mut sender = client.socket().try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || sender.write_all(requests.concat().as_bytes()));
    for n in 0..2000 {
        assert_eq!(client.answer().text(), n.to_string());
    }
    sending.join().expect("the sender").expect("cannot send");
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = serve(site);
    let mut client = server.connect();
    client.socket().set_nodelay(true).expect("nodelay");
    let chunked = "POST /mirror HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nx: y\r\n\r\n";
    for byte in [chunked, GET].concat().bytes() {
        client.send([byte]);
        std::thread::sleep(Duration::from_micros(500));
    }
    assert_eq!(client.answer().text(), "abcdefg");
    assert_eq!(client.answer().text(), "home");
}

/// Whoever takes a body as it comes gets all of it, though it may all have come already.
#[test]
fn a_streamed_body_may_come_with_its_head() {
    let server = serve(site);
    let mut client = server.connect();
    for framed in [
        "content-length: 3\r\n\r\n\0\x01\x02",
        "transfer-encoding: chunked\r\n\r\n3\r\n\0\x01\x02\r\n0\r\n\r\n",
    ] {
        for (path, want) in [("/check", "3 bytes, right"), ("/echo", "\0\x01\x02")] {
            client.send(format!(
                "POST {path} HTTP/1.1\r\nhost: test\r\n{framed}{GET}"
            ));
            assert_eq!(client.answer().text(), want, "{path}: {framed:?}");
            assert_eq!(client.answer().text(), "home", "{path}: {framed:?}");
        }
    }
}

#[test]
fn no_body_where_none_belongs() {
    let server = serve(|| {
        let mut app = site();
        app.get("/304", |_, _, res| res.status(304).text("not sent"));
        app
    });
    let mut client = server.connect();
    for path in ["/", "/megabytes/1", "/sized/1", "/nowhere"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.status, if path == "/nowhere" { 404 } else { 200 });
        // Anything behind the head would be in front of this.
        assert_eq!(client.get("/").text(), "home", "after HEAD {path}");
    }
    for (path, status) in [("/304", 304), ("/nothing", 204)] {
        let answer = client.get(path);
        assert_eq!(
            (answer.status, answer.field("transfer-encoding")),
            (status, None)
        );
        assert_eq!(client.get("/").text(), "home", "after {status}");
    }
}

#[test]
fn a_client_that_has_closed_its_side_is_still_answered() {
    let server = serve(site);
    for (path, want) in [("/", "home"), ("/slow", "worth the wait")] {
        let mut client = server.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        client.close_sending();
        assert_eq!(client.answer().text(), want);
        client.expect_end();
    }
    let mut client = server.connect();
    client.send("POST /check HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\n\0\x01\x02\r\n0\r\n\r\n");
    client.close_sending();
    assert_eq!(client.answer().text(), "3 bytes, right");
    client.expect_end();
    let mut client = server.connect();
    client.send("GET /megabytes/8 HTTP/1.1\r\nhost: test\r\n\r\n");
    client.close_sending();
    assert!(client.answer().body == pattern(0, 8 << 20));
    client.expect_end();
}

#[test]
fn nothing_is_answered_after_connection_close() {
    let server = serve(|| {
        let mut app = site();
        app.get("/bye", |_, _, res| res.close().text("bye"));
        app
    });
    let asked = GET.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let bye = GET.replace("/ ", "/bye ");
    for (first, text) in [(asked, "home"), (bye, "bye")] {
        let mut client = server.connect();
        client.send([&first, GET, GET].concat());
        let answer = client.answer();
        assert_eq!((answer.text(), answer.closes()), (text, true));
        client.expect_end();
    }
}

#[test]
fn what_is_not_http_is_refused_and_the_connection_closed() {
    let server = serve(site);
    let fields = |fields: &str| format!("GET / HTTP/1.1\r\nhost: test\r\n{fields}\r\n\r\n");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n");
    let cases: Vec<(String, u16)> = vec![
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        (fields("host: again"), 400),
        (fields("content-length: 3\r\ntransfer-encoding: chunked"), 400),
        (fields("content-length: 3, 3"), 400),
        (fields("content-length: +3"), 400),
        (fields("content-length: 3\r\ncontent-length: 3"), 400),
        (fields("transfer-encoding: chunked, identity"), 400),
        (fields("transfer-encoding: gzip, chunked"), 501),
        (fields("x : y"), 400),
        (fields("x: y\r\n z"), 400),
        (fields("x: y\rz"), 400),
        (fields("x: y\nz: w"), 400),
        (fields("x: \0"), 400),
        (fields("expect: everything"), 417),
        (fields(&format!("x: {}", "y".repeat(17 * 1024))), 431),
        (fields(&"x: y\r\n".repeat(100)), 431),
        (target(&format!("/{}", "x".repeat(9 * 1024))), 414),
        (target("//\u{e9}"), 400),
        (target("/a#b"), 400),
        (target("ftp://test/"), 400),
        (target("*"), 400),
        ("GET / HTTP/2.0\r\nhost: test\r\n\r\n".into(), 505),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n".into(), 400),
        ("POST /mirror HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n".into(), 400),
    ];
    for (what, status) in cases {
        let mut client = server.connect();
        // The request behind it must not be taken for one.
        client.send([&what, GET].concat());
        let answer = client.answer();
        if what.starts_with("POST / ") {
            // The path is refused before the body is looked at.
            assert_eq!(answer.status, 405, "{what:?}");
        } else {
            assert_eq!(answer.status, status, "{what:?}");
            assert!(answer.closes(), "{what:?}");
        }
        if !answer.closes() {
            continue;
        }
        client.expect_end();
    }
    assert_eq!(server.get("/").essence(), (200, "home"));
}

/// 413 is said before the body is sent, and a body that is sent all the same is not a request.
#[test]
fn a_body_that_is_too_large_is_refused_from_its_head() {
    let server = serve(site);
    let mut client = server.connect();
    client.send("POST /small HTTP/1.1\r\nhost: test\r\ncontent-length: 1001\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (413, true));
    client.send(GET);
    client.expect_end();
}

/// The client reads only after it has sent everything. Closing in its face would reset the
/// connection, and the reset would overtake the answer.
#[test]
fn an_answer_reaches_a_client_that_sends_on() {
    let server = serve(site);
    for (path, status) in [("/refuse", 403), ("/small", 413), ("/nowhere", 413)] {
        let mut client = server.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
            8 << 20
        ));
        for _ in 0..128 {
            client.send(pattern(0, 64 * 1024));
        }
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (status, true), "{path}");
        client.expect_end();
    }
}

/// A body that nobody wants is read and dropped if it is short: the connection goes on behind it.
#[test]
fn a_short_body_that_nobody_wants_costs_no_connection() {
    let server = serve(site);
    let mut client = server.connect();
    for path in ["/refuse", "/nowhere", "/"] {
        client.send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n"
        ));
        let answer = client.answer();
        assert!(
            answer.status >= 400 && !answer.closes(),
            "{path}: {answer:?}"
        );
        client.send(pattern(0, 100_000));
        assert_eq!(client.get("/").text(), "home", "{path}");
    }
}

#[test]
fn leave_to_send_is_given_once_and_only_to_who_asks() {
    let server = serve(site);
    let head = "POST /mirror HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n";
    let mut client = server.connect();
    client.send(format!("{head}expect: 100-continue\r\n\r\n"));
    assert_eq!(client.answer().status, 100);
    client.send("he");
    client.send("llo");
    assert_eq!(client.answer().essence(), (200, "hello"));
    // Who does not wait is not told.
    client.send(format!("{head}expect: 100-continue\r\n\r\nhello"));
    assert_eq!(client.answer().essence(), (200, "hello"));
    client.send(format!("{head}\r\nhe"));
    std::thread::sleep(Duration::from_millis(20));
    client.send("llo");
    assert_eq!(client.answer().essence(), (200, "hello"));
    // HTTP/1.0 does not know of it.
    let old = head.replace("1.1", "1.0");
    client.send(format!("{old}expect: 100-continue\r\n\r\n"));
    client.send("hello");
    assert_eq!(client.answer().essence(), (200, "hello"));
    client.expect_end();
}

#[test]
fn absolute_targets_name_the_host() {
    let server = serve(site);
    let mut client = server.connect();
    client.send("GET http://other:81/host HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer().text(), "other:81");
    client.send("GET http://other HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.answer().text(), "home");
}

#[test]
fn stock_fields() {
    let server = serve(site);
    let answer = server.get("/");
    assert_eq!(answer.field("server"), Some("loopwright"));
    assert_eq!(
        answer.field("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let date = answer.field("date").expect("a date");
    let age = httpdate::parse_http_date(date).expect("a date").elapsed();
    assert!(age.is_ok_and(|age| age < Duration::from_secs(3)), "{date}");

    let silent = serve_with(local().server_header(None), || (site(), ()));
    assert_eq!(silent.get("/").field("server"), None);
    let other = serve_with(local().server_header(Some("mine/1")), || (site(), ()));
    assert_eq!(other.get("/").field("server"), Some("mine/1"));
}

#[test]
fn clients_that_take_too_long() {
    let short = Duration::from_millis(250);
    let timeouts = Timeouts {
        head: short,
        body: short,
        idle: short,
        ..timeouts()
    };
    let server = serve_with(local().timeouts(timeouts), || (site(), ()));
    let ends_after = |client: &mut Client, start: Instant| {
        client.expect_end();
        let took = start.elapsed();
        assert!(took >= short && took < 10 * short, "it took {took:?}");
    };
    // Half a head, a head without its body: both are told.
    for what in [
        "GET / HT",
        "POST /mirror HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nhalf",
    ] {
        let (mut client, start) = (server.connect(), Instant::now());
        client.send(what);
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (408, true), "{what:?}");
        ends_after(&mut client, start);
    }
    // Between two requests there is nobody to tell.
    let mut client = server.connect();
    assert_eq!(client.get("/").text(), "home");
    ends_after(&mut client, Instant::now());
}

/// A page that nobody reads is not worth a connection for ever.
#[test]
fn clients_that_take_nothing_of_their_answer() {
    let timeouts = Timeouts {
        write: Duration::from_millis(250),
        ..timeouts()
    };
    let (tell, told) = std::sync::mpsc::channel();
    let server = serve_with(local().timeouts(timeouts), move || {
        let mut app = site();
        app.after(move |_, done| {
            let _ = tell.send(done.is_aborted());
        });
        (app, ())
    });
    let mut client = server.connect();
    client.send("GET /megabytes/32 HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(
        told.recv_timeout(PATIENCE).expect("the exchange ends"),
        "it was aborted"
    );
    let mut answer = client.head();
    assert!(
        client.read_chunks(&mut answer).is_err(),
        "a part must not pass for the whole"
    );
}

/// What is over the limit waits to be accepted until there is room.
#[test]
fn more_clients_than_connections() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), || {
        let mut app: App = App::new();
        app.get("/", |_, _, res| res.text("home"));
        (app, ())
    });
    let mut first: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut first {
        assert_eq!(client.get("/").text(), "home");
    }
    let mut late = server.connect();
    late.send(GET);
    let short = Some(Duration::from_millis(200));
    late.socket().set_read_timeout(short).expect("a timeout");
    let early = std::io::Read::read(&mut late.socket(), &mut [0]);
    assert!(early.is_err(), "a fourth client was served: {early:?}");
    drop(first.pop());
    late.socket()
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    assert_eq!(late.answer().text(), "home");
    for client in &mut first {
        assert_eq!(client.get("/").text(), "home");
    }
}

/// Connections that say nothing, and those that leave at once, are in nobody's way.
#[test]
fn clients_that_say_nothing() {
    let server = serve(site);
    for _ in 0..200 {
        drop(TcpStream::connect(server.tcp()).expect("a connection"));
    }
    let silent: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(server.tcp()).expect("a connection"))
        .collect();
    assert_eq!(server.get("/").text(), "home");
    drop(silent);
}
