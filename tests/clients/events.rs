//! Server-sent events: what is on the wire, who comes back, who is slow, who leaves.

use crate::flow::{small_client, vanish};
use crate::support::*;
use loopwright::{App, Event, Events, Handle, Limits, Sent, Slow};
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

#[path = "../../examples/ticker.rs"]
mod ticker;

type Readers = Vec<Events>;

/// Everybody who asks for `/events` is a reader; `/slow/{policy}` has the policy.
fn app() -> App<Readers> {
    let mut app = App::<Readers>::new();
    app.get("/", |_, _, res| res.text("home"));
    app.get("/events", |cx, _, res| {
        let events = res.events(cx);
        cx.state.push(events);
    });
    app.get("/beats", |cx, _, res| {
        let events = res.events(cx).heartbeat(cx, Duration::from_millis(20));
        cx.state.push(events);
    });
    app.get("/typed", |cx, _, res| {
        let res = res.header("Cache-Control", "no-store").defer();
        let events = res.events(cx);
        events.send(Event::new("one\ntwo").id(1).name("pair"));
        events.end();
    });
    app
}

fn readers() -> TestServer<Readers> {
    serve_with(local(), || (app(), Vec::new()))
}

/// Runs `f` on the loop, and waits for what it returns.
fn on_loop<S: 'static, T: Send + 'static>(
    handle: &Handle<S>,
    f: impl FnOnce(&mut loopwright::Ctx<'_, S>) -> T + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    let posted = handle.post(move |cx| tell.send(f(cx)).expect("the test waits"));
    posted.expect("the loop runs");
    told.recv_timeout(PATIENCE).expect("the loop answers")
}

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

#[test]
fn the_head_comes_at_once_and_each_event_by_itself() {
    let server = readers();
    let mut client = server.connect();
    client.send(ask("/events"));
    let head = client.head();
    assert_eq!(head.status, 200);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(head.field(name), Some(value));
    }
    for text in ["first", "second\nline"] {
        let sent = on_loop(&server.handle, move |cx| cx.state[0].send(Event::new(text)));
        assert_eq!(sent, Sent::Taken);
        let wire = format!("data: {}\n\n", text.replace('\n', "\ndata: "));
        assert_eq!(
            client.read_once(),
            format!("{:x}\r\n{wire}\r\n", wire.len())
        );
    }
    // The end of the events is the end of the answer, not of the connection.
    on_loop(&server.handle, |cx| cx.state.clear());
    assert_eq!(client.read_once(), "0\r\n\r\n");
    assert_eq!(client.get("/").text(), "home");
}

#[test]
fn what_was_set_before_stays_and_a_head_request_holds_nothing_open() {
    let server = readers();
    let mut client = server.connect();
    let answer = client.get("/typed");
    assert_eq!(
        answer.text(),
        "data: one\ndata: two\nid: 1\nevent: pair\n\n"
    );
    let caches = answer
        .fields
        .iter()
        .filter(|(name, _)| name == "cache-control");
    assert!(caches.map(|(_, value)| &**value).eq(["no-store"]));

    client.send("HEAD /events HTTP/1.1\r\nhost: test\r\n\r\n");
    let head = client.head();
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    assert_eq!(client.get("/").text(), "home");
    let sent = on_loop(&server.handle, |cx| cx.state[0].send(Event::new("x")));
    assert_eq!(sent, Sent::Closed);
}

#[test]
fn heartbeats_come_and_end_with_the_client() {
    let server = readers();
    let timers = || {
        on_loop(&server.handle, |cx| {
            (cx.stats().connections, cx.stats().timers)
        })
    };
    let before = timers();
    for with_reset in [false, true] {
        let mut client = server.connect();
        client.send(ask("/beats"));
        client.head();
        for _ in 0..3 {
            assert_eq!(client.read_once(), "3\r\n:\n\n\r\n");
        }
        let (tell, told) = mpsc::channel();
        on_loop(&server.handle, move |cx| {
            let events = cx.state.pop().expect("the reader");
            assert!(!events.is_closed());
            events.on_close(cx, move |cx| {
                let left = cx.state.pop().expect("the reader");
                tell.send(left.is_closed()).expect("the test waits");
            });
            cx.state.push(events);
        });
        vanish(client, with_reset);
        assert_eq!(
            told.recv_timeout(PATIENCE),
            Ok(true),
            "closed when it is told"
        );
        wait_until("no timer is left", || timers() == before);
    }
}

#[test]
fn a_stop_ends_them_at_the_next_heartbeat() {
    let server = readers();
    let mut client = server.connect();
    client.send(ask("/beats"));
    let mut answer = client.head();
    let stopping = std::time::Instant::now();
    let left = server.stop();
    assert_eq!(
        (left.cut, left.open_exchanges),
        (0, 0),
        "the drain was not held up"
    );
    assert!(stopping.elapsed() < timeouts().drain);
    client.read_chunks(&mut answer).expect("an orderly end");
}

/// What comes of 4 MiB for a client that reads nothing at first, in events of 64 KiB, many turns apart.
fn flood(policy: Slow) -> (Vec<Sent>, Vec<usize>, u64) {
    const EVENTS: usize = 256;
    let limits = Limits {
        unsent: 128 * 1024,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), || (app(), Readers::new()));
    let mut client = small_client(&server);
    client.send(ask("/events"));
    let mut answer = client.head();
    on_loop(&server.handle, move |cx| {
        let events = cx.state.pop().expect("the reader").slow(policy);
        cx.state.push(events);
    });
    let mut sent = Vec::new();
    for n in 0..EVENTS {
        let text = format!("{n} {}", "x".repeat(60 * 1024));
        sent.push(on_loop(&server.handle, move |cx| {
            cx.state[0].send(Event::new(text))
        }));
    }
    // It reads on: what waits goes out with nobody sending, and then it ends.
    let reader = std::thread::spawn(move || client.read_chunks(&mut answer).map(|()| answer));
    std::thread::sleep(Duration::from_millis(500));
    let dropped = on_loop(&server.handle, |cx| {
        let reader = cx.state.pop().expect("the reader");
        let dropped = reader.dropped();
        reader.send(Event::new(format!("{EVENTS} last")));
        dropped
    });
    let answer = reader.join().expect("the reader").expect("an orderly end");
    let events = answer.text().split_terminator("\n\n");
    let number = |event: &str| {
        event
            .strip_prefix("data: ")?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    let numbers = events.map(|event| number(event).expect("a whole event"));
    (sent, numbers.collect(), dropped)
}

#[test]
fn a_slow_client_gets_what_the_policy_says() {
    let all: Vec<usize> = (0..=256).collect();

    let (sent, got, dropped) = flood(Slow::Tell);
    assert_eq!((got, dropped), (all, 0));
    assert!(sent.contains(&Sent::Full) && !sent.contains(&Sent::Dropped));

    let (sent, got, dropped) = flood(Slow::DropNewest);
    let taken = |sent: &Sent| matches!(sent, Sent::Taken | Sent::Full);
    let expected = (0..256).filter(|n| taken(&sent[*n])).chain([256]);
    assert!(got.iter().copied().eq(expected), "{got:?}");
    assert_eq!(got.len() as u64 + dropped, 257);
    assert_eq!(got[..3], [0, 1, 2]);
    assert!(dropped > 100 && sent.last() == Some(&Sent::Dropped));

    let (sent, got, dropped) = flood(Slow::DropOldest);
    assert_eq!(got.len() as u64 + dropped, 257);
    assert!(got.is_sorted() && got.ends_with(&[255, 256]), "{got:?}");
    assert!(dropped > 100 && sent.last() == Some(&Sent::Dropped));

    let (sent, got, dropped) = flood(Slow::Close);
    let end = sent.iter().position(|sent| *sent == Sent::Closed);
    let end = end.expect("it is slow");
    assert!(sent[end..].iter().all(|sent| *sent == Sent::Closed));
    assert!(
        got.iter().copied().eq(0..end),
        "what was taken arrives: {got:?}"
    );
    assert_eq!(dropped, 0);
}

#[test]
fn who_comes_back_is_sent_more_than_high_water_and_nothing_twice() {
    let server = serve_with(local(), || {
        let mut app = App::<Readers>::new();
        app.get("/events", |cx, _, res| {
            let events = res.events(cx);
            let missed = (0..64).map(|n| Event::new("x".repeat(32 * 1024)).id(n));
            events.resume(missed);
            assert_eq!(events.send(Event::new("live").id(64)), Sent::Full);
            cx.state.push(events);
        });
        (app, Vec::new())
    });
    let mut client = small_client(&server);
    client.send(ask("/events"));
    let mut answer = client.head();
    std::thread::sleep(Duration::from_millis(300));
    on_loop(&server.handle, |cx| {
        let reader = cx.state.pop().expect("the reader");
        assert_ne!(reader.send(Event::new("live").id(65)), Sent::Closed);
        assert_eq!(reader.dropped(), 0);
    });
    client.read_chunks(&mut answer).expect("an orderly end");
    let ids = answer
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("id: "));
    assert!(
        ids.map(str::parse)
            .eq((0..66).map(Ok::<usize, std::num::ParseIntError>))
    );
}

/// The example, ticking every 20 ms.
fn ticking() -> TestServer<ticker::Ticker> {
    let server = serve_with(local(), || (ticker::app(), ticker::Ticker::new()));
    let period = Duration::from_millis(20);
    let started = server.handle.post(move |cx| ticker::start(cx, period));
    started.expect("the loop runs");
    server
}

#[test]
fn curl_goes_on_where_it_was() {
    let server = ticking();
    let curl = |last: &str, most: usize| -> Vec<u64> {
        let mut curl = Command::new("curl")
            .args(["-q", "-sSN", "--noproxy", "*", "--max-time", "20"])
            .args([
                "-H",
                &format!("last-event-id: {last}"),
                &server.url("/ticks"),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is installed");
        let lines =
            std::io::BufRead::lines(std::io::BufReader::new(curl.stdout.take().expect("a pipe")));
        let lines = lines.map_while(Result::ok);
        let ids = lines.filter_map(|line| line.strip_prefix("id: ")?.parse().ok());
        let ids = ids.take(most).collect();
        // Gone without a word, or gone already.
        match curl.kill() {
            Err(e) if e.kind() != ErrorKind::InvalidInput => panic!("{e}"),
            _ => drop(curl.wait()),
        }
        ids
    };
    let first = curl("", 5);
    let last = first[4];
    assert!(first.iter().copied().eq(first[0]..=last));
    std::thread::sleep(Duration::from_millis(200));
    let then = curl(&last.to_string(), 12);
    assert!(then.iter().copied().eq(last + 1..=last + 12), "{then:?}");
    let from_the_beginning = curl("1", 3);
    assert_eq!(from_the_beginning, [2, 3, 4]);
    let mut client = server.connect();
    client.send("GET /ticks HTTP/1.1\r\nhost: test\r\nlast-event-id: 0123\r\n\r\n");
    client.head();
    let told = client.read_once();
    assert!(told.contains("event: gap\n"), "{told:?}");
}

/// A real EventSource, which is cut off twice and comes back by itself.
#[test]
fn an_eventsource_misses_nothing() {
    let server = ticking();
    let script = format!("{}/tests/clients/events.mjs", env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new("node")
        .args(["--no-warnings", "--experimental-eventsource", &script])
        .args(["127.0.0.1", &server.port().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed");
    let cut_off = std::time::Instant::now();
    while node.try_wait().expect("node").is_none() && cut_off.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(300));
        on_loop(&server.handle, ticker::cut_off);
    }
    let _ = node.kill();
    let output = node.wait_with_output().expect("node");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n");
}
