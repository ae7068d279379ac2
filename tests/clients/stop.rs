//! Leaving: nobody loses an answer that can still be given, and nobody waits for ever.

use crate::site::{pattern, site};
use crate::support::*;
use loopwright::{App, Limits, Timeouts};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn slow_site() -> App {
    let mut app = site();
    app.get("/in/{ms}", |cx, req, res| {
        let (res, ms) = (res.defer(), req.param("ms").parse().unwrap_or(0));
        cx.after(Duration::from_millis(ms), move |_| res.text("done"));
    });
    app
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

fn refuses(server: &TestServer) -> bool {
    match TcpStream::connect(server.tcp()) {
        Ok(_) => false,
        Err(e) => {
            // Refused, or reset by a listener that closes at this moment.
            let known = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset];
            assert!(known.contains(&e.kind()), "{e}");
            true
        }
    }
}

#[test]
fn a_drain_answers_what_is_open_and_refuses_what_is_new() {
    let server = serve(slow_site);
    let mut waiting = server.connect();
    waiting.send(get("/in/600"));
    let mut reading = server.connect();
    reading.send(get("/megabytes/24"));
    let head = reading.head();
    let start = Instant::now();
    server.handle.stop();
    let took = wait_until("new connections are refused", || refuses(&server));
    assert!(took < Duration::from_millis(500), "it took {took:?}");

    let mut body = head;
    reading.read_chunks(&mut body).expect("the whole body");
    assert!(body.body == pattern(0, 24 << 20));
    reading.expect_end();
    let answer = waiting.answer();
    assert_eq!((answer.essence(), answer.closes()), ((200, "done"), true));
    waiting.expect_end();
    let left = server.join();
    assert_eq!((left.cut, left.connections, left.open_exchanges), (0, 0, 0));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        start.elapsed()
    );
}

#[test]
fn idle_connections_get_a_grace() {
    let timeouts = Timeouts {
        drain_idle: Duration::from_millis(500),
        ..timeouts()
    };
    let server = serve_with(local().timeouts(timeouts), || (slow_site(), ()));
    let [mut idle, mut late] = [server.connect(), server.connect()];
    assert_eq!(idle.get("/").text(), "home");
    assert_eq!(late.get("/").text(), "home");
    server.handle.stop();
    wait_until("new connections are refused", || refuses(&server));
    // A request that was on its way.
    let answer = late.get("/");
    assert_eq!((answer.text(), answer.closes()), ("home", true));
    late.expect_end();
    let start = Instant::now();
    idle.expect_end();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        start.elapsed()
    );
    assert_eq!(server.join().cut, 0);
}

/// They have been connected as far as they know: closing the listener would reset them.
#[test]
fn clients_in_the_queue_are_served() {
    let limits = Limits {
        accepts_per_turn: 1,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), || {
        let mut app = site();
        app.get("/block", |_, _, res| {
            std::thread::sleep(Duration::from_millis(300));
            res.text("blocked");
        });
        (app, ())
    });
    let mut blocking = server.connect();
    blocking.send(get("/block"));
    std::thread::sleep(Duration::from_millis(50));
    let mut queued: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    for client in &mut queued {
        client.send(get("/"));
    }
    server.handle.stop();
    assert_eq!(blocking.answer().text(), "blocked");
    for client in &mut queued {
        let answer = client.answer();
        assert_eq!((answer.text(), answer.closes()), ("home", true));
    }
    drop((blocking, queued));
    assert_eq!(server.join().cut, 0);
}

#[test]
fn past_the_deadline_the_rest_is_cut() {
    let timeouts = Timeouts {
        drain: Duration::from_millis(300),
        ..timeouts()
    };
    let server = serve_with(local().timeouts(timeouts), || (slow_site(), ()));
    let mut client = server.connect();
    client.send(get("/in/60000"));
    std::thread::sleep(Duration::from_millis(30));
    let start = Instant::now();
    let left = server.stop();
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(2),
        "it took {took:?}"
    );
    assert_eq!(left.cut, 1);
    client.expect_end();
}

#[test]
fn a_second_stop_leaves_at_once() {
    for now in [false, true] {
        let server = serve(slow_site);
        let mut client = server.connect();
        client.send(get("/in/60000"));
        std::thread::sleep(Duration::from_millis(30));
        let start = Instant::now();
        if now {
            server.handle.stop_now();
        } else {
            server.handle.stop();
            server.handle.stop();
        }
        assert_eq!(server.join().cut, 1);
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "it took {:?}",
            start.elapsed()
        );
        client.expect_end();
    }
}

#[test]
fn a_callback_may_stop_the_server_and_is_still_answered() {
    let server = serve(|| {
        let mut app = site();
        app.post("/stop", |cx, _, res| {
            cx.stop();
            res.text("bye");
        });
        app
    });
    let mut client = server.connect();
    client.send("POST /stop HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.answer().text(), "bye");
    client.expect_end();
    assert_eq!(server.join().cut, 0);
}
