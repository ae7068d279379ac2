//! Channels over real sockets: WebSockets, events, long polls and publishers on one path.

#[allow(dead_code)]
#[path = "clients/support.rs"]
mod support;

use loopwright::service::channel::Channel;
use loopwright::{App, Builder, Limits, Slow};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Answer, Client, PATIENCE, TestServer, local, serve_with};
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

fn serve(channel: impl FnOnce(Channel) -> Channel + Send + 'static) -> TestServer {
    serve_on(local(), channel)
}

fn serve_on(
    builder: Builder,
    channel: impl FnOnce(Channel) -> Channel + Send + 'static,
) -> TestServer {
    serve_with(builder, move || {
        let mut app = App::new();
        channel(Channel::new("rooms/{room}")).mount(&mut app, "/rooms/{room}");
        (app, ())
    })
}

fn ask(server: &TestServer, request: &str) -> Answer {
    let mut client = server.connect();
    client.send(request);
    client.answer()
}

/// Says something in a room; the id it has got.
fn say(server: &TestServer, room: &str, text: &str) -> String {
    let answer = post(server, room, "", text);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.field("last-event-id").expect("an id").to_string();
    assert_eq!(answer.text(), format!("{{\"id\":\"{id}\"}}\n"));
    id
}

fn post(server: &TestServer, room: &str, fields: &str, body: impl AsRef<[u8]>) -> Answer {
    let body = body.as_ref();
    let length = body.len();
    let head = format!(
        "POST /rooms/{room} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{fields}\r\n"
    );
    let mut client = server.connect();
    client.send([head.as_bytes(), body].concat());
    client.answer()
}

fn get(server: &TestServer, path: &str) -> Answer {
    ask(
        server,
        &format!("GET /rooms/{path} HTTP/1.1\r\nhost: test\r\n\r\n"),
    )
}

/// The messages of a list: text, `base64:…`, or `reset`.
fn list(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.field("content-type"), Some("application/json"));
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    let list: serde_json::Value = serde_json::from_str(answer.text()).expect("JSON");
    let list = list.as_array().expect("a list");
    if let Some(last) = list.last() {
        assert_eq!(last["id"].as_str(), answer.field("last-event-id"));
    }
    list.iter().map(told).collect()
}

fn told(message: &serde_json::Value) -> String {
    match (&message["text"], &message["base64"], &message["reset"]) {
        (serde_json::Value::String(text), ..) => text.clone(),
        (_, serde_json::Value::String(bytes), _) => format!("base64:{bytes}"),
        (_, _, serde_json::Value::Bool(true)) => "reset".to_string(),
        _ => panic!("{message}"),
    }
}

fn next(answer: &Answer) -> String {
    answer.field("last-event-id").expect("an id").to_string()
}

type Peer = WebSocket<TcpStream>;

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";

fn socket(server: &TestServer, path: &str) -> Peer {
    let mut stream = TcpStream::connect(server.tcp()).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = format!("GET /rooms/{path} HTTP/1.1\r\nhost: test\r\n{UPGRADE}\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // Byte by byte: what comes behind is the socket's.
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        answer.extend(byte);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    WebSocket::from_raw_socket(stream, Role::Client, None)
}

fn text(peer: &mut Peer) -> String {
    match peer.read().expect("a message") {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

fn closed(peer: &mut Peer) -> u16 {
    loop {
        match peer.read().expect("a message") {
            Message::Close(Some(CloseFrame { code, .. })) => return code.into(),
            Message::Close(None) => panic!("no code"),
            _ => {}
        }
    }
}

/// An EventSource, as far as its bytes go.
struct Source(Client);

impl Source {
    fn open(server: &TestServer, path: &str, fields: &str) -> Source {
        let mut client = server.connect();
        client.send(format!(
            "GET /rooms/{path} HTTP/1.1\r\nhost: test\r\n{fields}\r\n"
        ));
        let head = client.head();
        assert_eq!(head.status, 200);
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        Source(client)
    }

    /// Reads until it has this, and returns all of it.
    fn until(&mut self, what: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(what) {
            seen += &self.0.read_once();
        }
        seen
    }
}

const EVENTS: &str = "accept: text/event-stream\r\n";

/// Waits until something is so: what is on its way has arrived.
fn eventually(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn all_of_them_hear_what_anybody_says() {
    let server = serve(|channel| channel.publish_sockets(true));
    let mut plain = socket(&server, "7");
    let mut with_ids = socket(&server, "7?ids");
    let mut source = Source::open(&server, "7", EVENTS);
    let mut by_query = Source::open(&server, "7?events", "accept: */*\r\n");
    let begin = next(&get(&server, "7"));
    let mut poll = server.connect();
    poll.send(format!(
        "GET /rooms/7?since={begin} HTTP/1.1\r\nhost: test\r\n\r\n"
    ));
    // Elsewhere nothing is heard of it.
    let mut other = socket(&server, "8");

    let id = say(&server, "7", "hello");
    assert_eq!(text(&mut plain), "hello");
    let seen: serde_json::Value = serde_json::from_str(&text(&mut with_ids)).expect("JSON");
    assert_eq!(seen, serde_json::json!({ "id": id, "text": "hello" }));
    let event = format!("data: hello\nid: {id}\n\n");
    source.until(&event);
    by_query.until(&event);
    let polled = poll.answer();
    assert_eq!(
        (list(&polled), next(&polled)),
        (vec!["hello".into()], id.clone())
    );

    // What a socket says goes to all, itself included, and to who asks later.
    plain.send(Message::text("from a socket")).expect("sent");
    assert_eq!(text(&mut plain), "from a socket");
    assert!(text(&mut with_ids).contains("from a socket"));
    source.until("data: from a socket\n");
    assert_eq!(list(&get(&server, "7")), ["hello", "from a socket"]);
    let since = get(&server, &format!("7?since={id}"));
    assert_eq!(list(&since), ["from a socket"]);

    say(&server, "8", "first");
    assert_eq!(text(&mut other), "first");
}

#[test]
fn text_and_bytes_stay_what_they_are() {
    let server = serve(|channel| channel);
    let mut plain = socket(&server, "b");
    let mut source = Source::open(&server, "b", EVENTS);
    let binary = "content-type: application/octet-stream\r\n";
    assert_eq!(post(&server, "b", binary, [0, 255, 1]).status, 202);
    assert_eq!(plain.read().expect("it"), Message::binary(vec![0, 255, 1]));
    let event = source.until("\n\n");
    assert!(event.contains("data: AP8B\nevent: binary\nid: "), "{event}");
    // What is not UTF-8 is no text, whatever it is called; UTF-8 may be called bytes.
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    assert_eq!(post(&server, "b", form, [0xff]).status, 400);
    assert_eq!(
        post(&server, "b", "content-type: image/png\r\n", "png").status,
        202
    );
    assert_eq!(plain.read().expect("it"), Message::binary("png"));
    assert_eq!(post(&server, "b", "", "\u{1F600}\r\n").status, 202);
    assert_eq!(text(&mut plain), "\u{1F600}\r\n");
    assert_eq!(
        list(&get(&server, "b")),
        ["base64:AP8B", "base64:cG5n", "\u{1F600}\r\n"]
    );
}

#[test]
fn who_comes_back_gets_what_came_meanwhile() {
    let server = serve(|channel| channel.history(3));
    let ids = ["one", "two", "three", "four"].map(|text| say(&server, "r", text));
    let mut later = [("", vec!["two", "three", "four"], false)].to_vec();
    later.push((&ids[2], vec!["four"], false));
    later.push((&ids[0], vec!["two", "three", "four"], false));
    // Of another process, and none at all.
    later.push(("0123456789abcdef-1", vec!["two", "three", "four"], true));
    later.push(("what", vec!["two", "three", "four"], true));
    for (id, texts, is_reset) in later {
        let mut expected: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
        if is_reset {
            expected.insert(0, "reset".to_string());
        }
        assert_eq!(
            list(&get(&server, &format!("r?since={id}"))),
            expected,
            "{id}"
        );
        let mut with_ids = socket(&server, &format!("r?ids&since={id}"));
        for wanted in &expected {
            let message = serde_json::from_str(&text(&mut with_ids)).expect("JSON");
            assert_eq!(told(&message), *wanted, "{id}");
        }
        let mut plain = socket(&server, &format!("r?since={id}"));
        for wanted in &texts {
            assert_eq!(text(&mut plain), *wanted, "{id}");
        }
        if id.is_empty() {
            continue;
        }
        let field = format!("{EVENTS}last-event-id: {id}\r\n");
        // The field wins: an EventSource that comes back asks for the same address.
        let mut source = Source::open(&server, &format!("r?since={}", ids[3]), &field);
        let seen = source.until("data: four\n");
        assert_eq!(seen.contains("event: reset\n"), is_reset, "{seen}");
        assert_eq!(seen.matches("data: ").count(), expected.len(), "{seen}");
    }
    // What fell out of the history is told of.
    say(&server, "r", "five");
    let since = get(&server, &format!("r?since={}", ids[0]));
    assert_eq!(list(&since), ["reset", "three", "four", "five"]);
    // Who asks for nothing gets nothing old.
    let mut plain = socket(&server, "r");
    let mut source = Source::open(&server, "r", EVENTS);
    say(&server, "r", "six");
    assert_eq!(text(&mut plain), "six");
    assert!(!source.until("data: six\n").contains("five"));
}

#[test]
fn a_poll_waits_so_long_and_no_longer() {
    let server = serve(|channel| channel.wait(Duration::from_millis(300)));
    let first = get(&server, "w");
    assert_eq!((first.status, first.text()), (200, "[]\n"));
    let begin = next(&first);
    let start = Instant::now();
    let nothing = get(&server, &format!("w?since={begin}"));
    assert_eq!((nothing.status, next(&nothing)), (204, begin.clone()));
    assert!(start.elapsed() >= Duration::from_millis(300));
    // HEAD does not wait.
    let mut client = server.connect();
    client.send(format!(
        "HEAD /rooms/w?since={begin} HTTP/1.1\r\nhost: test\r\n\r\n"
    ));
    assert_eq!(client.head().status, 200);
    // Who hangs up is forgotten: nothing is left when the server ends.
    let mut gone = server.connect();
    gone.send(format!(
        "GET /rooms/w?since={begin} HTTP/1.1\r\nhost: test\r\n\r\n"
    ));
    drop(gone);
    say(&server, "w", "still here");
}

#[test]
fn a_stop_does_not_wait_for_those_who_wait() {
    let server = serve(|channel| channel.wait(Duration::from_secs(3600)));
    let begin = next(&get(&server, "s"));
    let mut poll = server.connect();
    poll.send(format!(
        "GET /rooms/s?since={begin} HTTP/1.1\r\nhost: test\r\n\r\n"
    ));
    let mut source = Source::open(&server, "s", EVENTS);
    let mut plain = socket(&server, "s");
    say(&server, "other", "both have joined by now");
    server.handle.stop();
    assert_eq!(closed(&mut plain), 1001);
    let _ = plain.close(None);
    assert_eq!(poll.answer().status, 204);
    source.until("0\r\n\r\n");
    let left = server.join();
    assert_eq!((left.cut, left.open_exchanges), (0, 0));
}

#[test]
fn the_longest_message_and_one_more() {
    let server = serve(|channel| channel.message_limit(1000).publish_sockets(true));
    assert_eq!(post(&server, "m", "", "x".repeat(1000)).status, 202);
    assert_eq!(post(&server, "m", "", "x".repeat(1001)).status, 413);
    let mut peer = socket(&server, "m");
    peer.send(Message::text("y".repeat(1000))).expect("sent");
    assert_eq!(text(&mut peer).len(), 1000);
    peer.send(Message::text("y".repeat(1001))).expect("sent");
    assert_eq!(closed(&mut peer), 1009);
    assert_eq!(list(&get(&server, "m")).len(), 2);
}

#[test]
fn history_is_bounded_by_bytes_and_by_age() {
    let server = serve(|channel| {
        channel
            .history_bytes(1000)
            .history_age(Duration::from_millis(700))
    });
    let begin = next(&get(&server, "h"));
    for text in ["a", "b", "c"] {
        say(&server, "h", &text.repeat(300));
    }
    let held = list(&get(&server, "h"));
    assert_eq!(held, ["b".repeat(300), "c".repeat(300)]);
    let expired = || list(&get(&server, &format!("h?since={begin}"))) == ["reset"];
    assert!(!expired());
    eventually(expired);
    let none = serve(|channel| channel.history(0));
    say(&none, "h", "said, and forgotten");
    assert!(list(&get(&none, "h")).is_empty());
}

#[test]
fn so_many_topics_and_no_more() {
    let server = serve(|channel| channel.topics(2));
    let _one = socket(&server, "1");
    let mut two = socket(&server, "2");
    say(&server, "2", "held");
    assert_eq!(text(&mut two), "held");
    for (path, status) in [("3", 503), ("2", 200), ("1", 200)] {
        assert_eq!(get(&server, path).status, status, "{path}");
    }
    assert_eq!(post(&server, "3", "", "x").status, 503);
    let upgrade = format!("GET /rooms/3 HTTP/1.1\r\nhost: test\r\n{UPGRADE}\r\n");
    assert_eq!(ask(&server, &upgrade).status, 503);
    // What nobody follows makes room, though it holds something.
    two.close(None).expect("closed");
    eventually(|| get(&server, "3").status == 200);
    // What holds nothing does so first, and of what holds something the oldest.
    say(&server, "4", "held");
    say(&server, "5", "held");
    assert_eq!(list(&get(&server, "5")).len(), 1);
    assert!(list(&get(&server, "4")).is_empty(), "let go for 5");
    // Room 1 is still followed.
    say(&server, "1", "x");
}

/// As after a reload, when the channel that was and the one that is hear the same topic.
#[test]
fn two_channels_do_not_keep_each_other_alive() {
    let server = serve_with(local(), || {
        let mut app = App::new();
        let channel = Channel::new("rooms/{room}").topics(1);
        let channel = channel.history_age(Duration::from_millis(300));
        channel.clone().mount(&mut app, "/rooms/{room}");
        channel.mount(&mut app, "/rooms/{room}/again");
        (app, ())
    });
    let (first, second) = (next(&get(&server, "1")), next(&get(&server, "1/again")));
    let mut peer = socket(&server, "1/again");
    say(&server, "1", "to both");
    assert_eq!(text(&mut peer), "to both");
    assert_ne!(first[..16], second[..16], "each has its epoch");
    // The first is followed by nobody; the second is, until it is not.
    eventually(|| get(&server, "2").status == 200);
    assert_eq!(get(&server, "2/again").status, 503);
    peer.close(None).expect("closed");
    eventually(|| get(&server, "2/again").status == 200);
}

#[test]
fn topics_that_are_none() {
    let server = serve(|channel| channel);
    let long = "x".repeat(251);
    for room in ["*", "a*", "%2A", "a%2Fb", "%0A", &long] {
        assert_eq!(get(&server, room).status, 400, "{room}");
        assert_eq!(post(&server, room, "", "x").status, 400, "{room}");
    }
    assert_eq!(get(&server, &long[1..]).status, 200);
}

#[test]
fn who_may_publish() {
    let server = serve(|channel| channel.publish(false));
    assert_eq!(post(&server, "p", "", "x").status, 405);
    let mut peer = socket(&server, "p");
    peer.send(Message::text("may I?")).expect("sent");
    assert_eq!(closed(&mut peer), 1008);
    // What a callback publishes comes all the same.
    let mut peer = socket(&server, "p");
    let mut source = Source::open(&server, "p", EVENTS);
    let posted = server
        .handle
        .post(|cx| cx.publish("rooms/p", "from within").expect("taken"));
    posted.expect("the loop runs");
    assert_eq!(text(&mut peer), "from within");
    source.until("data: from within\n");
    assert_eq!(list(&get(&server, "p")), ["from within"]);
}

#[test]
fn pages_of_other_sites_may_not() {
    fn status(server: &TestServer, origin: &str) -> (u16, u16, Option<String>) {
        let field = format!("origin: {origin}\r\n");
        let read = ask(
            server,
            &format!("GET /rooms/o HTTP/1.1\r\nhost: example.org\r\n{field}\r\n"),
        );
        let allowed = read.field("access-control-allow-origin").map(String::from);
        let mut client = server.connect();
        client.send(format!(
            "GET /rooms/o HTTP/1.1\r\nhost: example.org\r\n{UPGRADE}{field}\r\n"
        ));
        (read.status, client.head().status, allowed)
    }
    let same = serve(|channel| channel);
    assert_eq!(status(&same, "https://example.org"), (200, 101, None));
    assert_eq!(status(&same, "https://EXAMPLE.org"), (200, 101, None));
    for other in [
        "https://example.org:8080",
        "https://evil.example",
        "null",
        "example.org",
    ] {
        assert_eq!(status(&same, other), (403, 403, None), "{other}");
    }
    let evil = "origin: https://evil.example\r\n";
    assert_eq!(post(&same, "o", evil, "x").status, 403);
    assert!(list(&get(&same, "o")).is_empty());
    let listed = serve(|channel| channel.origins(["https://shop.example"]));
    let allowed = Some("https://shop.example".to_string());
    assert_eq!(status(&listed, "https://shop.example"), (200, 101, allowed));
    assert_eq!(status(&listed, "https://example.org"), (403, 403, None));
    let open = serve(|channel| channel.origins(["*"]));
    assert_eq!(status(&open, "null"), (200, 101, Some("null".to_string())));
}

/// More than high water is held: what is missed comes as fast as it is taken, in order, with what is said
/// meanwhile behind it, whether by the feed or through the topic itself.
#[test]
fn who_catches_up_slowly_misses_nothing() {
    let limits = Limits {
        high_water: 4096,
        socket_output: 1 << 20,
        ..Limits::default()
    };
    let server = serve_on(local().limits(limits), |channel| {
        channel.history(1000).history_bytes(8 << 20)
    });
    let mut client = server.connect();
    let text_of = |n: usize| format!("{n} {}", "x".repeat(4000));
    for n in 0..500 {
        let body = text_of(n);
        let length = body.len();
        client.send(format!(
            "POST /rooms/c HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"
        ));
        assert_eq!(client.answer().status, 202);
    }
    let mut plain = socket(&server, "c?since=");
    let mut with_ids = socket(&server, "c?ids&since=");
    let mut source = Source::open(&server, "c?events&since=", "");
    for n in 500..520 {
        say(&server, "c", &text_of(n));
    }
    for n in 0..520 {
        assert_eq!(text(&mut plain), text_of(n));
        let message = serde_json::from_str(&text(&mut with_ids)).expect("JSON");
        assert_eq!(told(&message), text_of(n));
    }
    let mut seen = String::new();
    while !seen.contains("data: 519 ") {
        seen += &source.0.read_once();
    }
    for n in 0..520 {
        assert_eq!(seen.matches(&format!("data: {n} ")).count(), 1, "{n}");
    }
    say(&server, "c", "the end");
    assert_eq!(text(&mut plain), "the end");
}

#[test]
fn who_takes_nothing_is_closed() {
    let limits = Limits {
        high_water: 4096,
        socket_output: 16 * 1024,
        unsent: 16 * 1024,
        ..Limits::default()
    };
    let server = serve_on(local().limits(limits), |channel| channel.slow(Slow::Close));
    let mut slow = socket(&server, "s");
    let mut quick = socket(&server, "s");
    let mut said = 0;
    // What it does not take fills its buffers, and then there is an end.
    eventually(|| {
        said += 1;
        say(&server, "s", &"x".repeat(60_000));
        assert_eq!(text(&mut quick).len(), 60_000);
        said > 200
    });
    let mut got = 0;
    let code = loop {
        match slow.read() {
            Ok(Message::Text(_)) => got += 1,
            Ok(Message::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
            Ok(other) => panic!("{other:?}"),
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!(code, Some(1008));
    assert!(got < said, "{got} of {said}");
}

/// Publications that wait to be delivered when somebody joins are neither lost nor doubled.
#[test]
fn who_joins_in_the_middle_of_it() {
    let limits = Limits {
        deliveries_per_turn: 1,
        ..Limits::default()
    };
    let server = serve_on(local().limits(limits), |channel| channel.history(1000));
    let begin = next(&get(&server, "j"));
    let mut stream = TcpStream::connect(server.tcp()).expect("connect");
    let mut peers = Vec::new();
    for n in 0..20 {
        // All in one write, so that they wait together.
        let burst: String = (0..10)
            .map(|m| {
                let body = format!("{:03}", n * 10 + m);
                format!("POST /rooms/j HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\n{body}")
            })
            .collect();
        stream.write_all(burst.as_bytes()).expect("sent");
        peers.push(socket(&server, &format!("j?since={begin}")));
        peers.push(socket(&server, &format!("j?ids&since={begin}")));
    }
    for (at, peer) in peers.iter_mut().enumerate() {
        for n in 0..200 {
            let got = text(peer);
            let got = match at % 2 {
                0 => got,
                _ => told(&serde_json::from_str(&got).expect("JSON")),
            };
            assert_eq!(got, format!("{n:03}"), "peer {at}");
        }
    }
    let mut rest = [0; 16];
    stream.set_nonblocking(false).expect("blocking");
    assert!(stream.read(&mut rest).expect("answers") > 0);
}
