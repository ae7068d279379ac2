//! The synchronous path allocates nothing: not for the head, the route, a parameter, the answer, the
//! timers, a small file that is in memory, the access log's lines, a WebSocket's message; nor does publishing
//! to any number of subscribers, and what a subscription costs is bounded; nor does choosing an upstream's
//! server, nor a query whose statement PostgreSQL knows, nor its answer; what passing a request on costs is bounded.
//! A process of its own, for it counts every allocation there is.

#[path = "canned/pg.rs"]
mod pg;

use loopwright::base::id::ConnId;
use loopwright::base::topics::{TopicLimits, Topics};
use loopwright::proto::forwarded::Trusted;
use loopwright::proto::h1::head::{HeadLimits, read, slots};
use loopwright::proto::ws::extension::{Agreed, Direction};
use loopwright::proto::ws::send::Outbound;
use loopwright::proto::ws::session::{Event, Inbound, Kind, Session};
use loopwright::service::access_log::{Format, access_log};
use loopwright::service::files::Files;
use loopwright::service::proxy::Proxy;
use loopwright::service::proxy::fields::{Announced, Incoming, Rules, Towards};
use loopwright::service::proxy::path::Rewrite;
use loopwright::upstream::balance::{Balance, Pick, Policy, Server as Upstream};
use loopwright::{App, Instant, Server, asynchronous};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A logger that looks at each line, so that it is written.
struct Nowhere;

impl log::Log for Nowhere {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        std::hint::black_box(record.args());
    }
    fn flush(&self) {}
}

const REQUESTS: usize = 1000;

/// Asks once, lets the loop turn until it has answered, and reads the answer into `answer`.
fn exchange(server: &mut Server, client: &mut TcpStream, request: &[u8], answer: &mut [u8]) {
    client.write_all(request).unwrap();
    let (handshake, message) = (request == HANDSHAKE, request == MESSAGE);
    let expected: &[u8] = match (handshake, message) {
        (true, _) => b"HTTP/1.1 101 ",
        (_, true) => b"\x81\x05Hello",
        _ => b"HTTP/1.1 200 OK\r\n",
    };
    loop {
        server.turn().unwrap();
        match client.read(answer) {
            Ok(n) => return assert!(answer[..n].starts_with(expected)),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

const HANDSHAKE: &[u8] =
    b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The example of RFC 6455 §5.7.
const MESSAGE: &[u8] = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";

fn address(server: &Server) -> SocketAddr {
    match server.addresses()[..] {
        [loopwright::Listen::Tcp(address)] => address,
        _ => unreachable!("bound to TCP"),
    }
}

/// Nothing is allocated in so many rounds.
fn allocates_nothing(server: &mut Server, client: &mut TcpStream, request: &[u8]) {
    let mut answer = [0; 4096];
    // The loop's own buffers grow to what they need, once.
    for _ in 0..10 {
        exchange(server, client, request, &mut answer);
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..REQUESTS {
        exchange(server, client, request, &mut answer);
    }
    let counted = region.change();
    let made = counted.allocations + counted.reallocations;
    let request = String::from_utf8_lossy(request);
    assert_eq!(made, 0, "{made} allocations in {REQUESTS} of {request:?}");
}

/// Takes what arrives, in two reads, and appends its echo.
fn echo(session: &mut Session, wire: &[u8], cut: usize, shared: &mut Loop) {
    shared.out.clear();
    shared.kept.clear();
    for piece in [&wire[..cut], &wire[cut..]] {
        shared.kept.extend_from_slice(piece);
        let mut input = &mut shared.kept[..];
        while let Some(event) = session
            .poll_event(&mut input, &mut shared.inbound, 1 << 20)
            .unwrap()
        {
            let Event::Binary(data) = event else {
                unreachable!("{event:?}")
            };
            session
                .send_binary(data, &mut shared.out, &mut shared.outbound)
                .unwrap();
        }
        let left = input.len();
        let used = shared.kept.len() - left;
        shared.kept.drain(..used);
    }
    assert!(shared.kept.is_empty() && !shared.out.is_empty());
}

/// What a loop has once.
struct Loop {
    inbound: Inbound,
    outbound: Outbound,
    out: Vec<u8>,
    kept: Vec<u8>,
}

fn agreed(takeover: bool, window_bits: u8) -> Option<Agreed> {
    let both = Direction {
        takeover,
        window_bits,
    };
    Some(Agreed {
        server: both,
        client: both,
    })
}

/// A message that is echoed allocates nothing, and a session that has echoed one holds nothing, unless
/// messages may refer to those before.
fn websocket_messages() {
    let mut shared = Loop {
        inbound: Inbound::default(),
        outbound: Outbound::new(1, 0),
        out: Vec::new(),
        kept: Vec::new(),
    };
    let payload: Vec<u8> = (0..4000u32).map(|n| (n * n % 251) as u8).collect();
    for deflate in [None, agreed(false, 15)] {
        let mut wire = Vec::new();
        let mut client = Session::client(deflate, 7);
        client
            .send(Kind::Binary, &payload, &mut wire, &mut Outbound::new(1, 0))
            .unwrap();
        for cut in [0, 1, wire.len() / 2, wire.len()] {
            let mut sessions: Vec<_> = (0..100).map(|_| Session::server(deflate)).collect();
            // The loop's own buffers grow to what they need, once: two take turns.
            for session in &mut sessions[..2] {
                echo(session, &wire, cut, &mut shared);
            }
            let region = Region::new(ALLOCATOR);
            for session in &mut sessions {
                echo(session, &wire, cut, &mut shared);
            }
            let counted = region.change();
            let made = counted.allocations + counted.reallocations;
            // The part of an unfinished message is lent, and comes back.
            assert_eq!(
                (made, counted.bytes_allocated),
                (0, 0),
                "{deflate:?}, cut at {cut}"
            );
        }
    }
    for (window_bits, most) in [(15, 430), (12, 320), (9, 310)] {
        let mut wire = Vec::new();
        let mut client = Session::client(agreed(true, window_bits), 7);
        client
            .send(Kind::Binary, &payload, &mut wire, &mut Outbound::new(1, 0))
            .unwrap();
        // The first has the pool's compressor.
        echo(
            &mut Session::server(agreed(true, window_bits)),
            &wire,
            0,
            &mut shared,
        );
        let region = Region::new(ALLOCATOR);
        let mut session = Session::server(agreed(true, window_bits));
        echo(&mut session, &wire, 0, &mut shared);
        let counted = region.change();
        let kept = (counted.bytes_allocated - counted.bytes_deallocated) / 1024;
        println!("a connection that keeps contexts of {window_bits} bits: {kept} KiB");
        assert!((most / 2..=most).contains(&kept), "{kept} KiB");
    }
}

/// What a task costs, to the allocation; docs/async.md has a table of it.
fn tasks() {
    let mut app: App = App::new();
    app.get("/deferred", |_, _, res| res.defer().text("Hello, World!"));
    app.get("/answer", |cx, _, res| {
        cx.answer(res, async |_, res| res.text("Hello, World!"))
    });
    let now = asynchronous(|_, _, res| async move { res.text("Hello, World!") });
    app.get("/asynchronous", now);
    app.get("/after", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::ZERO, move |_| res.text("Hello, World!"));
    });
    app.get("/sleep", |cx, _, res| {
        cx.answer(res, async |task, res| {
            task.sleep(Duration::ZERO).await;
            res.text("Hello, World!");
        })
    });
    let mut server = Server::bind("127.0.0.1:0", app, ()).unwrap();
    let loopwright::Listen::Tcp(address) = server.addresses().remove(0) else {
        unreachable!("bound to TCP")
    };
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut count = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut answer = [0; 4096];
        for _ in 0..10 {
            exchange(&mut server, &mut client, request.as_bytes(), &mut answer);
        }
        let region = Region::new(ALLOCATOR);
        for _ in 0..REQUESTS {
            exchange(&mut server, &mut client, request.as_bytes(), &mut answer);
        }
        let counted = region.change();
        let made = counted.allocations + counted.reallocations;
        println!("{path}: {} in {REQUESTS} requests", made);
        made.div_ceil(REQUESTS)
    };
    let counted = ["/deferred", "/answer", "/asynchronous", "/after", "/sleep"].map(&mut count);
    assert_eq!(counted, TASKS);
}

/// Allocations of an exchange, in the order asked.
const TASKS: [usize; 5] = [3, 7, 8, 6, 13];

/// Without the test harness, whose own thread allocates now and then.
/// A head on its way to a server, and its fields back, into buffers that have the room; with all that takes
/// work: who asks is looked for, a path is rewritten, fields are named away, set and removed.
fn proxied_heads() {
    let bytes = b"GET /api/a%2Fb?q=1 HTTP/1.1\r\nHost: a\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nCookie: a=b\r\n\
        X-Forwarded-For: 203.0.113.9, 2001:db8::1\r\nX-Forwarded-Proto: https\r\nForwarded: for=\"[::1]\"\r\n\
        Via: 1.1 b\r\nTE: trailers\r\nServer: c\r\n\r\n";
    let mut slots = slots();
    let head = read(bytes, &mut 0, true, &mut slots, &HeadLimits::NONE);
    let head = head.unwrap().unwrap();
    let trusted = Trusted::parse(["10.0.0.0/8", "2001:db8::/32"]).unwrap();
    let mut rules = Rules::new("loopwright");
    rules.path = Rewrite::new("/api/{*rest}", None, Some("/v2/{rest}")).unwrap();
    rules.announced = Announced {
        x_forwarded: true,
        forwarded: true,
    };
    for edits in [&mut rules.request, &mut rules.response] {
        edits.remove("cookie").unwrap();
        edits
            .set("x-who", "{client_ip} {host} {proto} {request_id}")
            .unwrap();
    }
    let (mut out, mut scratch) = (Vec::with_capacity(4096), Vec::with_capacity(256));
    let peer = Some([10, 0, 0, 1].into());
    let region = Region::new(ALLOCATOR);
    for _ in 0..REQUESTS {
        out.clear();
        let incoming = Incoming::of(&head, peer, &trusted, Default::default());
        let towards = Towards::server("10.0.0.9:80", &head);
        rules.request(&mut out, &incoming, &towards).unwrap();
        assert!(out.starts_with(b"GET /v2/a%2Fb?q=1 HTTP/1.1\r\nhost: a\r\n"));
        let push = |name: &[u8], value: &[u8]| {
            out.extend_from_slice(name);
            out.extend_from_slice(value);
        };
        let passed = rules.response(&head.fields, 1, false, &incoming, &mut scratch, push);
        passed.unwrap();
    }
    let change = region.change();
    let all = (change.allocations, change.reallocations);
    assert_eq!(all, (0, 0), "for a proxied head");
}

fn main() {
    log::set_logger(&Nowhere).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    websocket_messages();
    proxied_heads();
    queries();
    let mut app: App = App::new();
    app.after(access_log(Format::Combined));
    app.after(access_log(Format::Json));
    app.before(|_, _, res| Some(res.header("x-middleware", "yes")));
    app.get("/", |_, _, res| res.text("Hello, World!"));
    app.get("/user/{id}", |_, req, res| res.text(req.param("id")));
    app.post("/length", |_, req, res| {
        res.header("x-type", "length")
            .text(if req.body().len() == 5 { "5" } else { "?" })
    });
    app.ws("/echo", |_, ws, message| ws.send(message));
    app.get("/json", |_, _, res| res.json(&["Hello, World!"]));
    let folder = tempfile::tempdir().unwrap();
    for name in ["index.html", "plain.txt", "style.css", "style.css.br"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    // Only what may be kept is kept: a file that has just been written may change unseen.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let files = Files::new(folder.path()).unwrap();
    files
        .cache_control("*", "no-cache")
        .mount(&mut app, "/files");
    let mut server = Server::bind("127.0.0.1:0", app, ()).unwrap();
    let mut client = TcpStream::connect(address(&server)).unwrap();
    client.set_nonblocking(true).unwrap();

    let pipelined = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(8);
    let requests: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\naccept: */*\r\ncookie: a=b\r\n\r\n",
        b"GET /user/12345?q=1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        b"GET /json HTTP/1.1\r\nhost: a\r\n\r\n",
        &pipelined,
        b"GET /files/plain.txt HTTP/1.1\r\nhost: a\r\nif-none-match: \"x\"\r\n\r\n",
        b"GET /files/ HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip, br\r\n\r\n",
        b"GET /files/style.css HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip, br\r\n\r\n",
    ];
    for request in requests {
        allocates_nothing(&mut server, &mut client, request);
    }
    exchange(&mut server, &mut client, HANDSHAKE, &mut [0; 4096]);
    allocates_nothing(&mut server, &mut client, MESSAGE);
    drop(client);
    passing_on();
    tasks();
    topics();
    balance();
}

/// Asked, answered, looked at, as JSON. The memory of rows is taken again when they are gone.
fn queries() {
    use loopwright::proto::pg::{Event, Query};
    let now = Instant::default();
    let (mut session, sql) = pg::session(now);
    let mut json = Vec::with_capacity(256);
    let mut ask = |n: i32| {
        let asked = session.query(Query::new(sql.clone()).with([n]), now);
        let (asked, mut answer) = (asked.unwrap(), pg::ANSWER);
        while let Some(event) = session.poll_event(&mut answer, now).unwrap() {
            match event {
                Event::Row(ticket, row) => {
                    assert_eq!((ticket, row.get::<i32>("id")), (asked, Ok(7)));
                    assert_eq!(row.get::<&str>(1), Ok("Ada Lovelace"));
                    json.clear();
                    row.json(&mut json).unwrap();
                    assert!(json.starts_with(b"{\"id\":7,\"name\":\"Ada"));
                }
                Event::Columns(ticket, _) | Event::Done(ticket, _) => assert_eq!(ticket, asked),
                other => unreachable!("{other:?}"),
            }
        }
        session.sent(session.output().len());
    };
    // Rows come in blocks; a few of these.
    (0..500).for_each(&mut ask);
    let region = Region::new(ALLOCATOR);
    for n in 0..1000 {
        ask(n);
    }
    let counted = region.change();
    let made = counted.allocations + counted.reallocations;
    assert_eq!(made, 0, "{made} allocations in 1000 queries");
}

/// Whatever the policy, whoever is out; but for the table, which is made once.
fn balance() {
    let (load, decay) = (Policy::LOAD, Policy::DECAY);
    for policy in [
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastConnections,
        Policy::TwoChoices,
        Policy::Latency { decay },
        Policy::First,
        Policy::Hash { load },
    ] {
        let mut balance = Balance::new(policy);
        for n in 0..50 {
            let server = Upstream::new(&format!("10.0.0.{n}:80"), 1 + n % 3);
            balance.add(if n > 45 { server.backup() } else { server });
        }
        let mut rng = fastrand::Rng::with_seed(1);
        let mut choose = |request: u64, out: usize| {
            let pick = Pick {
                key: Some(request),
                tried: &[3, 4],
                now: Instant::from_micros(request * 1000),
                ..Pick::default()
            };
            let share = |ix| if ix < out { 0.0 } else { 1.0 };
            let chosen = balance.choose(&pick, share, &mut rng);
            chosen.inspect(|ix| balance.started(*ix));
            assert_eq!(chosen.is_some(), out < 50);
        };
        choose(0, 0);
        let region = Region::new(ALLOCATOR);
        for request in 0..1000 {
            choose(request, [0, 10, 45, 46, 50][request as usize % 5]);
        }
        let counted = region.change();
        assert_eq!(counted.allocations + counted.reallocations, 0, "{policy:?}");
    }
}

/// A request that is passed on takes memory for its head, what is to be done with the answer, that one's fields, and
/// how much of it waits; nothing for being on its way.
fn passing_on() {
    let mut app = App::new();
    app.get("/{*rest}", |_, _, res| res.text("Hello, World!"));
    let mut behind = Server::bind("127.0.0.1:0", app, ()).unwrap();
    let mut app = App::new();
    let to = format!("http://{}", address(&behind));
    app.upstream("up", loopwright::Upstream::new([to]));
    Proxy::to("up").on(&mut app, "/{*rest}");
    let mut server = Server::bind("127.0.0.1:0", app, ()).unwrap();
    let mut client = TcpStream::connect(address(&server)).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut pass_on = || {
        client
            .write_all(b"GET /a?b HTTP/1.1\r\nhost: a\r\naccept: */*\r\n\r\n")
            .unwrap();
        let mut answer = [0; 4096];
        loop {
            for server in [&mut server, &mut behind] {
                server.turn_within(Duration::ZERO).unwrap();
            }
            match client.read(&mut answer) {
                Ok(n) => return assert!(answer[..n].starts_with(b"HTTP/1.1 200 OK\r\n")),
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    for _ in 0..10 {
        pass_on();
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..REQUESTS {
        pass_on();
    }
    let counted = region.change();
    let made = counted.allocations + counted.reallocations;
    assert!(made <= 4 * REQUESTS, "{made} for {REQUESTS}");
}

fn topics() {
    const SOCKETS: u32 = 1_000_000;
    let key = |slot| ConnId {
        slot,
        generation: 1,
    };
    // A million sockets: all on one topic, then each on its own.
    for (most, own) in [(64, false), (256, true)] {
        let region = Region::new(ALLOCATOR);
        let mut topics = Topics::new(TopicLimits {
            subscriptions: 8,
            publications: 8,
            bytes: 1024,
        });
        for slot in 0..SOCKETS {
            let topic = format!("users/{}", if own { slot } else { 7 });
            topics.subscribe(&topic, key(slot)).unwrap();
        }
        let counted = region.change();
        let bytes = (counted.bytes_allocated - counted.bytes_deallocated) / SOCKETS as usize;
        println!("{bytes} bytes a subscription, a topic each: {own}");
        assert!(bytes <= most, "{bytes} bytes a subscription");
        for slot in 0..100 {
            topics.subscribe("*/7", key(slot)).unwrap();
        }
        let mut publish = || {
            assert_eq!(topics.publish("users/7", 0u8, 1), Ok(true));
            topics.deliver(usize::MAX, &mut |_, _| {})
        };
        // The queue, and the marks of those who are subscribed twice, are made once.
        publish();
        let region = Region::new(ALLOCATOR);
        publish();
        let counted = region.change();
        assert_eq!(counted.allocations + counted.reallocations, 0);
    }
}
