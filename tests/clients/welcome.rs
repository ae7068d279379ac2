//! The welcome site, on the wire. What it looks like is tested in `tests/browser`.

use crate::support::{Answer, TestServer, serve, wait_until};
use loopwright::service::welcome;
use serde_json::Value;
use std::time::{Duration, Instant};

fn site() -> TestServer {
    serve(welcome::site)
}

fn get(server: &TestServer, path: &str, fields: &str) -> Answer {
    let mut client = server.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{fields}\r\n"));
    client.answer()
}

#[test]
fn a_browser_gets_a_page_and_curl_gets_text() {
    let server = site();
    for (accept, content_type) in [
        ("", "text/plain; charset=utf-8"),
        ("accept: */*\r\n", "text/plain; charset=utf-8"),
        (
            "accept: text/html,*/*;q=0.8\r\n",
            "text/html; charset=utf-8",
        ),
    ] {
        let answer = get(&server, "/", accept);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("content-type"), Some(content_type), "{accept}");
        assert_eq!(answer.field("vary"), Some("accept"));
    }
}

#[test]
fn every_answer_forbids_what_is_not_its_own() {
    let server = site();
    for path in [
        "/",
        "/demos",
        "/style.css",
        "/loop.json",
        "/hello/ada",
        "/nothing",
    ] {
        let answer = server.get(path);
        let policy = answer.field("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(
            answer.field("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
    }
}

#[test]
fn what_a_browser_has_is_not_sent_again() {
    let server = site();
    for (path, content_type) in [
        ("/style.css", "text/css; charset=utf-8"),
        ("/script.js", "text/javascript; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
    ] {
        let first = server.get(path);
        assert_eq!(first.status, 200);
        assert_eq!(first.field("content-type"), Some(content_type));
        assert_eq!(first.field("cache-control"), Some("no-cache"));
        let tag = first.field("etag").expect("an etag");
        let again = get(&server, path, &format!("if-none-match: {tag}\r\n"));
        assert_eq!(again.essence(), (304, ""), "{path}");
        let other = get(&server, path, "if-none-match: \"other\"\r\n");
        assert_eq!(other.status, 200, "{path}");
    }
}

#[test]
fn a_reading_has_every_figure() {
    let server = site();
    let answer = server.get("/loop.json");
    assert_eq!(answer.field("content-type"), Some("application/json"));
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    let reading: Value = serde_json::from_slice(&answer.body).expect("JSON");
    for name in [
        "uptime_seconds",
        "process_id",
        "turns",
        "events",
        "waited_seconds",
        "worked_seconds",
        "accepted",
        "requests",
        "connections",
        "open_exchanges",
        "timers",
    ] {
        assert!(reading[name].is_number(), "{name} in {reading}");
    }
    assert_eq!(reading["process_id"], std::process::id());
    assert_eq!(reading["requests"], 1);
}

#[test]
fn the_stream_goes_on_until_the_server_stops() {
    let server = site();
    let mut client = server.connect();
    client.send("GET /loop HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut answer = client.head();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    assert_eq!(answer.field("cache-control"), Some("no-store"));

    std::thread::sleep(Duration::from_millis(1100));
    let start = Instant::now();
    server.handle.stop();
    client
        .read_chunks(&mut answer)
        .expect("the stream ends in order");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the drain was held up"
    );

    let (first, events) = answer.text().split_once("\n\n").expect("events");
    assert_eq!(first, "retry: 2000");
    let turns: Vec<u64> = events
        .split_terminator("\n\n")
        .map(|event| {
            let data = event.strip_prefix("data: ").expect("data");
            let reading: Value = serde_json::from_str(data).expect("JSON");
            reading["turns"].as_u64().expect("a number")
        })
        .collect();
    // One at once, then one every 250 ms, or later on a machine that is busy.
    assert!((3..=6).contains(&turns.len()), "{turns:?}");
    assert!(turns.is_sorted_by(|a, b| a < b), "{turns:?}");
}

#[test]
fn so_many_may_watch_and_a_place_that_is_left_is_free_again() {
    let server = site();
    let watch = || {
        let mut client = server.connect();
        client.send("GET /loop HTTP/1.1\r\nhost: test\r\n\r\n");
        let head = client.head();
        (client, head)
    };
    let mut watchers: Vec<_> = (0..64).map(|_| watch()).collect();
    assert!(watchers.iter().all(|(_, head)| head.status == 200));
    let (_, refused) = watch();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.field("retry-after"), Some("30"));

    watchers.pop();
    wait_until("a free place", || watch().1.status == 200);
    // Nobody watches: the timer ends, and the loop waits.
    drop(watchers);
    let open = || -> u64 {
        let reading: Value = serde_json::from_slice(&server.get("/loop.json").body).expect("JSON");
        reading["open_exchanges"].as_u64().expect("a number")
    };
    wait_until("no open answer", || open() == 0);
}

#[test]
fn asking_only_for_the_head_of_the_stream_opens_none() {
    let server = site();
    let mut client = server.connect();
    client.send("HEAD /loop HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(
        client.head().field("content-type"),
        Some("text/event-stream")
    );
    assert_eq!(
        client.get("/hello/again").essence(),
        (200, "Hello, again!\n")
    );
}
