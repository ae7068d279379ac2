//! Every limit and timeout that concerns a connection, on both sides of its edge: the whole server
//! in the simulator, where a minute takes no time, under several seeds each.

use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{
    App, BodyWriter, Ctx, Instant, Limits, Listen, OffloadError, PostError, Responder, Server,
    Timeouts,
};
use rustix::io::Errno;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

const SEEDS: std::ops::Range<u64> = 0..4;
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\n";
/// How much later than its deadline a thing may happen: a tick of the wheel, and bytes on the way.
const SLACK: Duration = Duration::from_millis(50);

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// No accident but those a test causes.
const CALM: Faults = Faults {
    accept_errors: 0,
    send_buffer: (64, 8192),
    segment: 2048,
};

/// What the callbacks have seen, and what they keep for later.
#[derive(Default)]
struct Seen {
    /// Requests, answered exchanges, timers, bytes of bodies: whatever the test counts.
    count: usize,
    notes: Vec<String>,
    responders: Vec<Responder>,
    writers: Vec<BodyWriter>,
}

/// A server, and the world around it.
struct World {
    server: Server<Seen, SimNet>,
    turns: usize,
    /// When the test next looks at the world, however little the server has to do by then.
    look: Instant,
}

impl World {
    fn new(seed: u64, limits: Limits, timeouts: Timeouts, app: App<Seen>) -> World {
        World::with(SimNet::new(seed, CALM), limits, timeouts, app)
    }

    fn with(net: SimNet, limits: Limits, timeouts: Timeouts, app: App<Seen>) -> World {
        let builder = Server::builder().limits(limits).timeouts(timeouts);
        let server = builder.simulate(net, app, Seen::default()).unwrap();
        World {
            server,
            turns: 0,
            look: Instant::default(),
        }
    }

    fn net(&mut self) -> &mut SimNet {
        self.server.net_mut()
    }

    fn seen(&mut self) -> &mut Seen {
        self.server.state_mut()
    }

    fn now(&mut self) -> Instant {
        self.net().now()
    }

    fn turn(&mut self) -> bool {
        self.turns += 1;
        self.server.turn().unwrap()
    }

    /// Lets the world go on until something is so, seen from outside.
    #[track_caller]
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut World) -> bool) {
        for _ in 0..50_000 {
            if is_so(self) {
                return;
            }
            let now = self.now();
            if self.look <= now {
                self.look = now + Duration::from_millis(5);
                let look = self.look;
                self.net().wake_at(look);
            }
            self.turn();
        }
        panic!("never: {what}");
    }

    /// Lets the world go on for that long. The server wakes when it has reason to, and at the end.
    fn wait(&mut self, time: Duration) {
        let at = self.now() + time;
        self.wait_until(at);
    }

    fn wait_until(&mut self, at: Instant) {
        self.net().wake_at(at);
        while self.now() < at {
            self.turn();
        }
    }

    fn connect(&mut self) -> Client {
        self.net().connect(0)
    }

    /// A client that has sent something.
    fn client(&mut self, bytes: impl AsRef<[u8]>) -> Client {
        let client = self.connect();
        self.send(client, bytes);
        client
    }

    fn send(&mut self, client: Client, bytes: impl AsRef<[u8]>) {
        self.net().send(client, bytes.as_ref());
    }

    fn text(&mut self, client: Client) -> String {
        String::from_utf8_lossy(self.net().received(client)).into_owned()
    }

    /// The statuses of the answers that have begun to arrive.
    fn statuses(&mut self, client: Client) -> Vec<u16> {
        let text = self.text(client);
        let answers = text.split("HTTP/1.1 ").skip(1);
        answers
            .filter_map(|line| line.get(..3)?.parse().ok())
            .collect()
    }

    /// Waits for the next answers' statuses; all of them, from the first on.
    #[track_caller]
    fn answers(&mut self, client: Client, n: usize) -> Vec<u16> {
        self.until("an answer", |world| {
            world.statuses(client).len() >= n || world.net().is_finished(client)
        });
        self.statuses(client)
    }

    /// What a new client gets for one request, and whether the server then closes.
    #[track_caller]
    fn ask(&mut self, request: impl AsRef<[u8]>) -> (u16, bool) {
        let client = self.client(request);
        let statuses = self.answers(client, 1);
        assert_eq!(statuses.len(), 1, "{:?}", self.text(client));
        self.wait(SLACK);
        (statuses[0], self.net().is_finished(client))
    }

    /// The server ends the connection after `time` from `began`, and not before.
    #[track_caller]
    fn assert_ends(&mut self, client: Client, began: Instant, time: Duration) {
        self.wait_until(began + (time - SLACK));
        assert!(!self.net().is_finished(client), "ends too early");
        self.wait_until(began + (time + SLACK));
        assert!(self.net().is_finished(client), "does not end");
    }

    /// The same for the socket.
    #[track_caller]
    fn assert_released(&mut self, client: Client, began: Instant, time: Duration) {
        self.wait_until(began + (time - SLACK));
        assert!(!self.net().is_released(client), "released too early");
        self.wait_until(began + (time + SLACK));
        assert!(self.net().is_released(client), "not released");
    }
}

/// Answers everything at `/`, and counts.
fn counting() -> App<Seen> {
    let mut app = App::new();
    app.get("/", |cx: &mut Ctx<'_, Seen>, _, res| {
        cx.state.count += 1;
        res.text("hi");
    });
    app
}

fn each_seed(test: impl Fn(u64)) {
    for seed in SEEDS {
        println!("seed {seed}"); // shown if the test fails
        test(seed);
    }
}

// ---- limits of a request

#[test]
fn head_target_and_fields() {
    let limits = Limits {
        head: 256,
        target: 64,
        fields: 6,
        ..Limits::default()
    };
    let head = |len: usize| {
        let start = "GET / HTTP/1.1\r\nhost: a\r\nx: ";
        format!("{start}{}\r\n\r\n", "y".repeat(len - start.len() - 4))
    };
    let target = |len: usize| format!("GET /?{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(len - 2));
    let fields = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
            "x: y\r\n".repeat(n - 1)
        )
    };
    each_seed(|seed| {
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), counting());
        for (request, want) in [
            (head(256), (200, false)),
            (head(257), (431, true)),
            (target(64), (200, false)),
            (target(65), (414, true)),
            (fields(6), (200, false)),
            (fields(7), (431, true)),
        ] {
            assert_eq!(world.ask(&request), want, "{request}");
        }
    });
}

fn sized(path: &str, len: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len}\r\n\r\n")
}

fn chunked(path: &str, len: usize) -> String {
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let body = match len {
        0 => String::new(),
        _ => format!("{len:x}\r\n{}\r\n", "x".repeat(len)),
    };
    head + &body + "0\r\n\r\n"
}

#[test]
fn body() {
    let limits = Limits {
        body: 100,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut app: App<Seen> = App::new();
        let plain =
            |_: &mut Ctx<'_, Seen>,
             req: &loopwright::Request<'_>,
             res: loopwright::Response<'_>| { res.text(req.body().len().to_string()) };
        app.post("/plain", plain);
        app.post("/more", plain).body_limit(1000);
        app.post("/less", plain).body_limit(10);
        app.post("/none", plain).body_limit(0);
        app.stream("POST", "/stream", |cx, _, res, body| {
            let res = res.defer();
            body.collect(cx, |cx, body| match body {
                Ok(body) => res.text(body.len().to_string()),
                // It is the server that refuses; what is answered here comes too late.
                Err(why) => {
                    cx.state.notes.push(why.to_string());
                    res.status(500).empty();
                }
            });
        });
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), app);
        for (path, limit) in [
            ("/plain", 100),
            ("/more", 1000),
            ("/less", 10),
            ("/none", 0),
            ("/stream", 100),
        ] {
            let fits = sized(path, limit) + &"x".repeat(limit);
            assert_eq!(world.ask(fits), (200, false), "{path}");
            assert_eq!(world.ask(chunked(path, limit)), (200, false), "{path}");
            assert!(world.seen().notes.is_empty());
            // Announced, it is refused before it is sent.
            assert_eq!(world.ask(sized(path, limit + 1)), (413, true), "{path}");
            assert_eq!(world.ask(chunked(path, limit + 1)), (413, true), "{path}");
            let told = std::mem::take(&mut world.seen().notes);
            let want: &[&str] = match path {
                "/stream" => &["the body is over the route's body_limit"],
                _ => &[],
            };
            assert_eq!(told, want, "{path}");
        }
    });
}

#[test]
fn discard() {
    let limits = Limits {
        discard: 1000,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut app = counting();
        app.stream("POST", "/dropped", |_, _, res, body| {
            drop(body);
            res.text("no, thanks");
        });
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), app);
        // Answered from the head: a path nobody knows, and a body that nobody takes.
        for path in ["/unknown", "/dropped"] {
            let client = world.client(sized(path, 1000));
            world.answers(client, 1);
            world.send(client, "x".repeat(1000) + GET);
            assert_eq!(world.answers(client, 2)[1], 200, "{path}");

            let client = world.client(sized(path, 1001));
            world.answers(client, 1);
            world.wait(SLACK);
            assert!(world.text(client).contains("connection: close\r\n"));
            world.send(client, "x".repeat(1001) + GET);
            world.until("released", |world| world.net().is_released(client));
            assert_eq!(world.statuses(client).len(), 1);
            assert!(!world.net().was_reset(client));

            // Nobody knows how long this one is; what it takes to read it counts.
            let bytes = |path: &str, len: usize| {
                let request = chunked(path, len);
                let (head, body) = request.split_once("\r\n\r\n").unwrap();
                (format!("{head}\r\n\r\n"), body.to_string())
            };
            for (len, kept) in [(990, true), (991, false)] {
                let (head, body) = bytes(path, len);
                assert_eq!(body.len() - 2, len + 10);
                let client = world.client(head);
                world.answers(client, 1);
                world.send(client, body + GET);
                world.wait(secs(6));
                assert_eq!(
                    world.statuses(client).len(),
                    if kept { 2 } else { 1 },
                    "{path} {len}"
                );
                assert_eq!(world.net().is_finished(client), !kept);
            }
        }
    });
}

// ---- limits of an answer

#[test]
fn high_water_is_told_to_the_callback_that_writes() {
    let limits = Limits {
        high_water: 1000,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut app: App<Seen> = App::new();
        app.get("/", |cx, _, res| {
            let body = res.stream();
            for _ in 0..3 {
                let demand = body.write(vec![b'x'; 500]);
                cx.state.notes.push(format!(
                    "{} {:?}",
                    body.is_full(),
                    demand == loopwright::Demand::More
                ));
            }
        });
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), app);
        assert_eq!(world.ask(GET).0, 200);
        assert_eq!(
            world.seen().notes,
            ["false true", "false true", "true false"]
        );
    });
}

/// Writes as the documentation says: while there is room, then when there is again.
fn produce(cx: &mut Ctx<'_, Seen>, body: BodyWriter, piece: usize, left: usize) {
    let mut left = left;
    while left > 0 && !body.is_full() {
        body.write(vec![b'x'; piece]);
        cx.state.count += piece;
        left -= 1;
    }
    if left > 0 {
        cx.on_drain(body, move |cx, body| produce(cx, body, piece, left));
    }
}

/// The data of a chunked body, and whether it is whole.
fn dechunk(text: &str) -> (String, bool) {
    let (mut data, mut rest) = (
        String::new(),
        text.split_once("\r\n\r\n").map_or("", |(_, rest)| rest),
    );
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else {
            panic!("not a chunk: {rest:.40?}")
        };
        if size == 0 {
            return (data, after == "\r\n");
        }
        let Some(chunk) = after.get(..size) else {
            break;
        };
        data += chunk;
        rest = after.get(size + 2..).unwrap_or("");
    }
    (data, false)
}

#[test]
fn high_water_holds_a_producer_back_until_its_client_has_taken_half() {
    let limits = Limits {
        high_water: 20_000,
        ..Limits::default()
    };
    // Small pieces are gathered, large ones are passed on as they are.
    for (piece, pieces) in [(100, 2000), (17_000, 12)] {
        each_seed(|seed| {
            let mut app = counting();
            app.get("/stream", move |cx, _, res| {
                produce(cx, res.stream(), piece, pieces)
            });
            let mut world = World::new(seed, limits.clone(), Timeouts::default(), app);
            let client = world.connect();
            world.net().stall(client, true);
            world.send(client, "GET /stream HTTP/1.1\r\nhost: a\r\n\r\n");
            world.wait(secs(1));
            // The edge, a piece over it, and what the socket has taken in the meantime, twice.
            let made = world.seen().count;
            assert!(
                (20_000..=2 * (20_000 + piece) + 8192).contains(&made),
                "{made}"
            );
            world.wait(secs(10));
            assert_eq!(world.seen().count, made);
            world.net().stall(client, false);
            // Others are served meanwhile, each with its own bytes.
            let others: Vec<Client> = (0..20).map(|_| world.client(GET)).collect();
            for other in others {
                world.answers(other, 1);
                world.until("its answer", |world| world.text(other).ends_with("hi"));
                let text = world.text(other);
                assert!(
                    text.starts_with(OK) && text.matches("\r\n\r\n").count() == 1,
                    "{text:?}"
                );
            }
            world.until("the end of the body", |world| {
                world.text(client).ends_with("\r\n0\r\n\r\n")
            });
            let (data, whole) = dechunk(&world.text(client));
            assert!(
                whole && data == "x".repeat(piece * pieces),
                "{} bytes",
                data.len()
            );
        });
    }
}

#[test]
fn high_water_bounds_a_client_that_asks_and_does_not_take() {
    let limits = Limits {
        high_water: 4000,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), counting());
        let client = world.connect();
        world.net().stall(client, true);
        world.send(client, GET.repeat(500));
        world.wait(secs(20));
        // An answer is some 140 bytes long; the socket takes up to 8 KiB.
        let answered = world.seen().count;
        assert!(
            (4000 / 140..=(4000 + 8192) / 130 + 2).contains(&answered),
            "{answered}"
        );
        world.net().stall(client, false);
        world.until("all answers", |world| world.statuses(client).len() == 500);
        assert_eq!(world.seen().count, 500);
    });
}

#[test]
fn output_cuts_a_producer_that_does_not_wait() {
    let limits = Limits {
        high_water: 1000,
        output: 100_000,
        ..Limits::default()
    };
    // Head and chunk framing count, too.
    for (pieces, is_cut) in [(98, false), (101, true)] {
        each_seed(|seed| {
            let mut app: App<Seen> = App::new();
            app.get("/", move |cx, _, res| {
                let body = res.stream();
                cx.on_abort(&body, |cx| cx.state.notes.push("aborted".to_string()));
                cx.state.writers.push(body);
            });
            let faults = Faults {
                send_buffer: (1, 1),
                ..CALM
            };
            let net = SimNet::new(seed, faults);
            let mut world = World::with(net, limits.clone(), Timeouts::default(), app);
            let client = world.connect();
            world.net().stall(client, true);
            world.send(client, GET);
            world.until("the writer", |world| !world.seen().writers.is_empty());
            for _ in 0..pieces {
                world.seen().writers[0].write(vec![b'x'; 1000]);
                world.turn();
            }
            // Broken off, it is closed like any other: the client has a moment to close its side.
            world.wait(Timeouts::default().linger + SLACK);
            assert_eq!(world.net().is_released(client), is_cut);
            assert_eq!(world.seen().writers[0].is_closed(), is_cut);
            assert_eq!(world.seen().notes.len(), usize::from(is_cut));
            assert_eq!(world.server.open_exchanges(), usize::from(!is_cut));
        });
    }
}

// ---- limits of the loop

#[test]
fn connections() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), counting());
        let (first, second) = (world.client(GET), world.client(GET));
        for client in [first, second] {
            assert_eq!(world.answers(client, 1), [200]);
        }
        let third = world.client(GET);
        let turns = world.turns;
        world.wait(secs(10));
        assert!(world.statuses(third).is_empty());
        assert_eq!(world.server.connections(), 2);
        assert!(
            world.turns - turns < 100,
            "the loop spins: {} turns",
            world.turns - turns
        );
        // Those who are in are served on.
        world.send(second, GET);
        assert_eq!(world.answers(second, 2), [200, 200]);
        world.net().finish(first);
        assert_eq!(world.answers(third, 1), [200]);
        assert!(world.server.connections() <= 2);
    });
}

/// Turns until `count` has reached `total`, of which no turn did more than `per_turn`, and some did
/// as many. `other` asks meanwhile, and is answered before the flood is over.
#[track_caller]
fn assert_flood(world: &mut World, per_turn: usize, total: usize, other: Client) {
    let (mut most, mut served_at, answers) = (0, None, world.statuses(other).len());
    world.send(other, OTHER);
    while world.seen().count < total {
        let before = world.seen().count;
        world.turn();
        let done = world.seen().count - before;
        assert!(done <= per_turn, "{done} in a turn");
        most = most.max(done);
        if served_at.is_none() && world.statuses(other).len() > answers {
            served_at = Some(world.seen().count);
        }
        assert!(
            world.turns < 50_000,
            "stuck at {} of {total}",
            world.seen().count
        );
    }
    assert_eq!(most, per_turn, "the limit was never what held it back");
    assert!(
        served_at.is_some_and(|at| at < total),
        "the other one had to wait"
    );
    assert_eq!(world.seen().count, total);
}

/// Two clients that have been accepted and served once at `/other`.
fn two(world: &mut World) -> (Client, Client) {
    let (one, other) = (world.client(OTHER), world.client(OTHER));
    world.answers(one, 1);
    world.answers(other, 1);
    (one, other)
}

const OTHER: &str = "GET /other HTTP/1.1\r\nhost: a\r\n\r\n";

fn with_other(mut app: App<Seen>) -> App<Seen> {
    app.get("/other", |_, _, res| res.text("other"));
    app
}

/// Whatever a client sends arrives at once.
const GUSHING: Faults = Faults {
    segment: 1 << 24,
    send_buffer: (1 << 20, 1 << 20),
    ..CALM
};

#[test]
fn requests_per_turn() {
    let limits = Limits {
        requests_per_turn: 7,
        ..Limits::default()
    };
    each_seed(|seed| {
        let net = SimNet::new(seed, GUSHING);
        let app = with_other(counting());
        let mut world = World::with(net, limits.clone(), Timeouts::default(), app);
        let (one, other) = two(&mut world);
        world.send(one, GET.repeat(1000));
        assert_flood(&mut world, 7, 1000, other);
        world.until("all answers", |world| world.statuses(one).len() == 1001);
    });
}

#[test]
fn reads_per_turn() {
    const READ: usize = 128 * 1024;
    let limits = Limits {
        reads_per_turn: 1,
        body: 1 << 30,
        ..Limits::default()
    };
    each_seed(|seed| {
        let net = SimNet::new(seed, GUSHING);
        let mut app = with_other(App::new());
        app.stream("POST", "/", |cx: &mut Ctx<'_, Seen>, _, res, body| {
            let step = |_: &mut Responder, cx: &mut Ctx<'_, Seen>, bytes: &[u8]| {
                cx.state.count += bytes.len();
                loopwright::Demand::More
            };
            body.fold(cx, res.defer(), step, |res, _, _| res.text("thanks"));
        });
        let mut world = World::with(net, limits.clone(), Timeouts::default(), app);
        let (one, other) = two(&mut world);
        world.send(one, sized("/", 80 * READ));
        world.wait(SLACK);
        world.send(one, vec![b'x'; 80 * READ]);
        assert_flood(&mut world, READ, 80 * READ, other);
        assert_eq!(world.answers(one, 2), [200, 200]);
    });
}

#[test]
fn accepts_per_turn() {
    let limits = Limits {
        accepts_per_turn: 3,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut world = World::new(
            seed,
            limits.clone(),
            Timeouts::default(),
            with_other(counting()),
        );
        let (_, other) = two(&mut world);
        let clients: Vec<Client> = (0..100).map(|_| world.client(GET)).collect();
        world.send(other, OTHER);
        let (mut most, mut open) = (0, world.server.connections());
        while open < 102 {
            world.turn();
            let opened = world.server.connections() - open;
            assert!(opened <= 3, "{opened} in a turn");
            (most, open) = (most.max(opened), world.server.connections());
            assert!(world.turns < 50_000, "stuck at {open}");
        }
        assert_eq!(most, 3);
        for client in clients {
            assert_eq!(world.answers(client, 1), [200]);
        }
        assert_eq!(world.answers(other, 2), [200, 200]);
    });
}

#[test]
fn writes_per_turn() {
    const LEN: usize = 1 << 20;
    // The socket takes all there is, the client all the time: only the limit makes it many turns.
    for (writes_per_turn, turns) in [
        (2048, LEN / 2048..=usize::MAX),
        (1 << 20, 0..=LEN / 2048 - 1),
    ] {
        let limits = Limits {
            writes_per_turn,
            ..Limits::default()
        };
        each_seed(|seed| {
            let mut app = with_other(App::new());
            app.get("/", |_, _, res| res.bytes(vec![b'x'; LEN]));
            let faults = Faults {
                send_buffer: (2 * LEN, 2 * LEN),
                ..GUSHING
            };
            let mut world = World::with(
                SimNet::new(seed, faults),
                limits.clone(),
                Timeouts::default(),
                app,
            );
            let (one, other) = two(&mut world);
            world.send(one, GET);
            world.send(other, OTHER);
            let began = world.turns;
            world.until("all of it", |world| world.net().received(one).len() > LEN);
            let took = world.turns - began;
            assert!(turns.contains(&took), "{took} turns by {writes_per_turn}");
            assert_eq!(world.answers(other, 2), [200, 200]);
        });
    }
}

#[test]
fn commands_per_turn() {
    let limits = Limits {
        commands_per_turn: 5,
        ..Limits::default()
    };
    each_seed(|seed| {
        // Timers that are all due at once.
        let mut world = World::new(
            seed,
            limits.clone(),
            Timeouts::default(),
            with_other(counting()),
        );
        let (_, other) = two(&mut world);
        let post = |cx: &mut Ctx<'_, Seen>| {
            for _ in 0..1000 {
                cx.after(Duration::from_millis(1), |cx| cx.state.count += 1);
            }
        };
        world.server.handle().post(post).unwrap();
        assert_flood(&mut world, 5, 1000, other);

        // Answers that are all given at once.
        let mut app = with_other(App::new());
        app.get("/", |cx: &mut Ctx<'_, Seen>, _, res| {
            cx.state.responders.push(res.defer())
        });
        app.after(|cx, done| cx.state.count += usize::from(done.path() == "/"));
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), app);
        let clients: Vec<Client> = (0..200).map(|_| world.client(GET)).collect();
        world.until("all requests", |world| world.seen().responders.len() == 200);
        let (_, other) = two(&mut world);
        let post = |cx: &mut Ctx<'_, Seen>| {
            for res in cx.state.responders.drain(..) {
                res.text("now");
            }
        };
        world.server.handle().post(post).unwrap();
        // Five before connections are served, and five meanwhile.
        assert_flood(&mut world, 10, 200, other);
        for client in clients {
            assert_eq!(world.answers(client, 1), [200]);
        }
    });
}

/// A command may lead to others, which are settled within it: the last of a turn's budget, too.
#[test]
fn commands_per_turn_may_run_out_anywhere() {
    for commands_per_turn in 1..=8 {
        let limits = Limits {
            commands_per_turn,
            ..Limits::default()
        };
        each_seed(|seed| {
            let mut app: App<Seen> = App::new();
            app.get("/wait", |cx, _, res| cx.state.responders.push(res.defer()));
            app.get("/abort", |cx, _, res| {
                let body = res.stream();
                cx.on_abort(&body, |cx| {
                    for res in cx.state.responders.drain(..) {
                        res.text("now");
                    }
                });
                body.write("never whole");
                body.abort();
            });
            let mut world = World::new(seed, limits.clone(), Timeouts::default(), app);
            let waiting: Vec<Client> = (0..3)
                .map(|_| world.client("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n"))
                .collect();
            world.until("all requests", |world| world.seen().responders.len() == 3);
            let aborted = world.client("GET /abort HTTP/1.1\r\nhost: a\r\n\r\n");
            for client in waiting {
                assert_eq!(world.answers(client, 1), [200]);
            }
            world.until("the cut", |world| world.net().is_finished(aborted));
        });
    }
}

#[test]
fn posts() {
    let limits = Limits {
        posts: 2,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), counting());
        let handle = world.server.handle();
        for _ in 0..3 {
            let before = world.seen().count;
            assert_eq!(handle.post(|cx| cx.state.count += 1), Ok(()));
            assert_eq!(handle.post(|cx| cx.state.count += 1), Ok(()));
            assert_eq!(handle.post(|cx| cx.state.count += 1), Err(PostError::Full));
            world.turn();
            assert_eq!(world.seen().count, before + 2);
        }
        // However full it is, a stop comes through.
        handle.post(|_| {}).unwrap();
        handle.post(|_| {}).unwrap();
        handle.stop();
        world.until("the stop", |world| !world.turn());
        drop(world);
        assert_eq!(handle.post(|_| {}), Err(PostError::Stopped));
    });
}

/// What a turn has taken out of the mailbox and not reached yet waits, too.
#[test]
fn posts_are_counted_until_they_run() {
    let limits = Limits {
        posts: 20,
        commands_per_turn: 2,
        ..Limits::default()
    };
    each_seed(|seed| {
        let mut world = World::new(seed, limits.clone(), Timeouts::default(), counting());
        let handle = world.server.handle();
        let mut posted = 0;
        for _ in 0..50 {
            while handle.post(|cx| cx.state.count += 1).is_ok() {
                posted += 1;
            }
            let waits = posted - world.seen().count;
            let most = limits.posts + limits.commands_per_turn;
            assert!(waits <= most, "{waits} closures wait");
            world.turn();
        }
        world.until("all have run", |world| world.seen().count == posted);
    });
}

/// On real threads: the simulator has none.
#[test]
fn offload_threads_and_offload_queue() {
    let limits = Limits {
        offload_threads: 2,
        offload_queue: 3,
        ..Limits::default()
    };
    let builder = Server::builder().listen("127.0.0.1:0").limits(limits);
    let mut server = builder.build(App::new(), Seen::default()).unwrap();
    let (started, starts) = mpsc::channel();
    let (gate, gates): (Vec<_>, Vec<_>) = (0..6).map(|_| mpsc::channel::<()>()).unzip();
    let mut gates = gates.into_iter();
    let mut offload = |server: &mut Server<Seen>| {
        let (started, gate) = (started.clone(), gates.next().unwrap());
        let work = move || {
            started.send(()).unwrap();
            let _ = gate.recv();
        };
        let then = |cx: &mut Ctx<'_, Seen>, done: Result<(), OffloadError>| {
            cx.state.notes.push(format!("{done:?}"))
        };
        server
            .handle()
            .post(move |cx| cx.offload(work, then))
            .unwrap();
        server.turn().unwrap();
    };
    for _ in 0..2 {
        offload(&mut server);
        starts.recv_timeout(secs(10)).unwrap();
    }
    for _ in 0..3 {
        offload(&mut server);
    }
    // Two run, three wait.
    assert!(starts.recv_timeout(SLACK).is_err());
    assert!(server.state().notes.is_empty());
    offload(&mut server);
    assert_eq!(server.state().notes, ["Err(Full)"]);
    drop(gate);
    while server.state().notes.len() < 6 {
        server.turn().unwrap();
    }
    assert_eq!(server.state().notes[1..], ["Ok(())"; 5]);
}

// ---- timeouts of a request

#[test]
fn head_timeout() {
    let timeouts = Timeouts {
        head: secs(10),
        ..Timeouts::default()
    };
    let (first, rest) = GET.split_at(9);
    each_seed(|seed| {
        let mut world = World::new(seed, Limits::default(), timeouts.clone(), counting());
        // Not a byte: there is nothing to answer.
        let began = world.now();
        let client = world.connect();
        world.assert_ends(client, began, secs(10));
        assert_eq!(world.text(client), "");
        // A part: counted from the accept, whenever it came, and however it drips.
        let began = world.now();
        let client = world.connect();
        for n in 1..=3 {
            world.wait(secs(3));
            world.send(client, &first[n..=n]);
        }
        world.assert_ends(client, began, secs(10));
        assert_eq!(world.statuses(client), [408]);
        // Just in time.
        let (silent, slow) = (world.connect(), world.client(first));
        world.wait(secs(10) - SLACK);
        world.send(silent, GET);
        world.send(slow, rest);
        assert_eq!(world.answers(silent, 1), [200]);
        assert_eq!(world.answers(slow, 1), [200]);
        // The next one: counted from its first byte.
        world.wait(secs(60));
        world.send(slow, first);
        world.wait(secs(10) - SLACK);
        world.send(slow, rest);
        assert_eq!(world.answers(slow, 2), [200, 200]);
        world.wait(secs(60));
        let began = world.now();
        world.send(slow, first);
        world.assert_ends(slow, began, secs(10));
        assert_eq!(world.statuses(slow), [200, 200, 408]);
    });
}

/// One route takes its body whole, one as it comes.
fn uploads() -> App<Seen> {
    let mut app: App<Seen> = App::new();
    app.post("/whole", |_, _, res| res.text("thanks"));
    app.stream("POST", "/pieces", |cx, _, res, body| {
        let res = res.defer();
        body.collect(cx, |_, body| {
            if body.is_ok() {
                res.text("thanks")
            }
        });
    });
    app
}

#[test]
fn body_timeout() {
    let timeouts = Timeouts {
        body: secs(30),
        body_rate: 0,
        ..Timeouts::default()
    };
    each_seed(|seed| {
        for path in ["/whole", "/pieces"] {
            let mut world = World::new(seed, Limits::default(), timeouts.clone(), uploads());
            let client = world.client(sized(path, 4));
            for _ in 0..3 {
                world.wait(secs(30) - SLACK);
                world.send(client, "x");
            }
            world.wait(secs(30) - SLACK);
            assert!(world.statuses(client).is_empty() && !world.net().is_finished(client));
            world.send(client, "x");
            assert_eq!(world.answers(client, 1), [200], "{path}");

            let client = world.client(sized(path, 4));
            world.wait(secs(20));
            let last = world.now();
            world.send(client, "xx");
            world.assert_ends(client, last, secs(30));
            assert_eq!(world.statuses(client), [408], "{path}");
        }
    });
}

#[test]
fn body_rate_and_body_grace() {
    let timeouts = Timeouts {
        body_rate: 100,
        body_grace: secs(10),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        for path in ["/whole", "/pieces"] {
            let mut world = World::new(seed, Limits::default(), timeouts.clone(), uploads());
            // Nothing within the grace but what the rate asks for, at its very end.
            let (good, began) = (world.client(sized(path, 3000)), world.now());
            world.wait(secs(10) - SLACK);
            world.send(good, "x".repeat(2000));
            // 2,000 bytes are 20 seconds' worth: the next come before they are over.
            world.wait_until(began + (secs(20) - SLACK));
            assert!(!world.net().is_finished(good));
            world.send(good, "x".repeat(1000));
            assert_eq!(world.answers(good, 1), [200], "{path}");

            for (sent, lives) in [(0, 10), (990, 10), (1100, 11), (2000, 20)] {
                let (client, began) = (world.client(sized(path, 3000)), world.now());
                world.wait(secs(5));
                world.send(client, "x".repeat(sent));
                world.assert_ends(client, began, secs(lives));
                assert_eq!(world.statuses(client), [408], "{path} {sent}");
            }
        }
        let timeouts = Timeouts {
            body_rate: 0,
            ..timeouts.clone()
        };
        let mut world = World::new(seed, Limits::default(), timeouts, uploads());
        let client = world.client(sized("/whole", 10));
        for _ in 0..10 {
            world.wait(secs(29));
            world.send(client, "x");
        }
        assert_eq!(world.answers(client, 1), [200]);
    });
}

/// A body that the app does not take is not the client's fault.
#[test]
fn body_timeouts_stand_still_while_the_app_holds_the_body() {
    let timeouts = Timeouts {
        body: secs(30),
        body_rate: 100,
        body_grace: secs(10),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        let mut app: App<Seen> = App::new();
        app.stream("POST", "/", |cx, _, res, body| {
            let resume = body.resume_handle();
            let mut held = false;
            let step = move |_: &mut Responder, cx: &mut Ctx<'_, Seen>, _: &[u8]| {
                if std::mem::replace(&mut held, true) {
                    return loopwright::Demand::More;
                }
                let resume = resume.clone();
                cx.after(secs(300), move |_| resume.resume());
                loopwright::Demand::Hold
            };
            body.fold(cx, res.defer(), step, |res, _, _| res.text("thanks"));
        });
        let mut world = World::new(seed, Limits::default(), timeouts.clone(), app);
        let (client, began) = (world.client(sized("/", 10) + "xxxxx"), world.now());
        world.wait_until(began + secs(305));
        assert!(!world.net().is_finished(client));
        // From here on it is.
        world.assert_ends(client, began, secs(310));
        assert_eq!(world.statuses(client), [408]);

        let (client, began) = (world.client(sized("/", 10) + "xxxxx"), world.now());
        world.wait_until(began + (secs(310) - SLACK));
        world.send(client, "xxxxx");
        assert_eq!(world.answers(client, 1), [200]);
    });
}

/// An app that takes each piece in its own time gives its client no more of it: pauses of ours do not
/// count, the client's own time adds up.
#[test]
fn body_rate_counts_between_pauses() {
    let timeouts = Timeouts {
        body_rate: 100,
        body_grace: secs(10),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        let mut app: App<Seen> = App::new();
        app.stream("POST", "/", |cx, _, res, body| {
            let resume = body.resume_handle();
            let step = move |_: &mut Responder, cx: &mut Ctx<'_, Seen>, _: &[u8]| {
                let resume = resume.clone();
                cx.after(secs(2), move |_| resume.resume());
                loopwright::Demand::Hold
            };
            body.fold(cx, res.defer(), step, |res, _, _| res.text("thanks"));
        });
        let mut world = World::new(seed, Limits::default(), timeouts.clone(), app);
        // Three seconds of its own for a byte, and two of ours to take it: over after ten of its own.
        let (slow, began) = (world.client(sized("/", 1000)), world.now());
        for n in 1..=3 {
            world.wait_until(began + secs(5 * n - 2));
            assert!(!world.net().is_finished(slow));
            world.send(slow, "x");
        }
        world.assert_ends(slow, began, secs(16));
        assert_eq!(world.statuses(slow), [408]);

        let (good, began) = (world.client(sized("/", 2000)), world.now());
        for n in 1..=4 {
            world.wait_until(began + secs(5 * n - 2));
            world.send(good, "x".repeat(500));
        }
        assert_eq!(world.answers(good, 1), [200]);
    });
}

/// A route that does nothing with a body does not gather it either; its limits hold all the same.
#[test]
fn a_body_nobody_looks_at_takes_no_memory() {
    let limits = Limits {
        body: 1000,
        ..Limits::default()
    };
    each_seed(|seed| {
        for (ignores, gathered) in [(true, 0), (false, 900)] {
            let mut app: App<Seen> = App::new();
            let route = app.post("/", |_, req, res| res.text(req.body().len().to_string()));
            if ignores {
                route.ignore_body();
            }
            let mut world = World::new(seed, limits.clone(), Timeouts::default(), app);
            let client = world.client(sized("/", 1000));
            world.send(client, "x".repeat(900));
            world.wait(secs(1));
            let held = world.server.held().next().expect("the connection");
            assert_eq!(held.body.0, gathered);
            world.send(client, "x".repeat(100));
            assert_eq!(world.answers(client, 1), [200]);
            let seen = if ignores { "\r\n0" } else { "\r\n1000" };
            world.until("the body", |world| world.text(client).ends_with(seen));
            assert_eq!(world.ask(chunked("/", 1001)), (413, true));
        }
    });
}

// ---- timeouts of an answer, and between them

#[test]
fn write_timeout() {
    let timeouts = Timeouts {
        write: secs(30),
        ..Timeouts::default()
    };
    const LEN: usize = 100_000;
    each_seed(|seed| {
        let mut app = counting();
        app.get("/large", |_, _, res| res.bytes(vec![b'x'; LEN]));
        let mut world = World::new(seed, Limits::default(), timeouts.clone(), app);
        let large = "GET /large HTTP/1.1\r\nhost: a\r\n\r\n";

        let client = world.connect();
        world.net().stall(client, true);
        let began = world.now();
        world.send(client, large);
        world.assert_released(client, began, secs(30));

        let client = world.connect();
        world.net().stall(client, true);
        world.send(client, large);
        // Now and then it takes some.
        for _ in 0..3 {
            world.wait(secs(30) - SLACK);
            assert!(!world.net().is_released(client));
            let before = world.net().received(client).len();
            world.net().stall(client, false);
            world.until("some", |world| world.net().received(client).len() > before);
            world.net().stall(client, true);
            world.turn();
        }
        world.wait(secs(30) - SLACK);
        world.net().stall(client, false);
        world.until("all of it", |world| {
            world.net().received(client).len() > LEN
        });
        world.send(client, GET);
        world.until("the next answer", |world| {
            world.text(client).ends_with("hi")
        });
    });
}

/// The wait is for the answer that waits, not for what came before it.
#[test]
fn write_timeout_begins_when_output_begins_to_wait() {
    let timeouts = Timeouts {
        write: secs(30),
        ..Timeouts::default()
    };
    let large = "GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
    let deferred = "GET /deferred HTTP/1.1\r\nhost: a\r\n\r\n";
    // How long the first answer is: the socket takes that, and not a byte more.
    let mut world = World::new(0, Limits::default(), timeouts.clone(), counting());
    let client = world.client(GET);
    world.until("its answer", |world| world.text(client).ends_with("hi"));
    let exactly = world.text(client).len();
    each_seed(|seed| {
        for request in [large, deferred] {
            let mut app = counting();
            app.get("/large", |_, _, res| res.bytes(vec![b'x'; 100_000]));
            app.get("/deferred", |cx, _, res| {
                let res = res.defer();
                cx.after(secs(1), move |_| res.bytes(vec![b'x'; 100_000]));
            });
            let faults = Faults {
                send_buffer: (exactly, exactly),
                ..CALM
            };
            let net = SimNet::new(seed, faults);
            let mut world = World::with(net, Limits::default(), timeouts.clone(), app);
            let client = world.connect();
            world.net().stall(client, true);
            world.send(client, GET);
            world.wait(secs(50));
            world.send(client, request);
            world.wait(secs(20));
            assert!(!world.net().is_released(client), "cut too early");
            world.net().stall(client, false);
            world.until("all of it", |world| {
                world.net().received(client).len() > 100_000
            });
        }
    });
}

#[test]
fn idle() {
    let timeouts = Timeouts {
        idle: secs(75),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        let mut world = World::new(seed, Limits::default(), timeouts.clone(), counting());
        let client = world.client(GET);
        for n in 1..=3 {
            assert_eq!(world.answers(client, n).len(), n);
            world.wait(secs(75) - SLACK);
            world.send(client, GET);
        }
        assert_eq!(world.answers(client, 4), [200; 4]);
        let last = world.now();
        world.assert_ends(client, last, secs(75));
        assert_eq!(world.statuses(client).len(), 4);
        // An empty line is not the beginning of a request, in one piece or in two.
        for pieces in [&["\r\n"][..], &["\r", "\n"]] {
            let client = world.client(GET);
            world.answers(client, 1);
            let last = world.now();
            for piece in pieces {
                world.wait(secs(1));
                world.send(client, piece);
            }
            world.assert_ends(client, last, secs(75));
            assert_eq!(world.statuses(client), [200]);
        }
    });
}

#[test]
fn linger() {
    let timeouts = Timeouts {
        linger: secs(5),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        let limits = Limits {
            body: 10,
            ..Limits::default()
        };
        let mut app: App<Seen> = App::new();
        app.post("/", |_, _, res| res.text("thanks"));
        let mut world = World::new(seed, limits, timeouts.clone(), app);
        // It sends on, into a refusal; it still gets it, whole.
        let client = world.client(sized("/", 100_000));
        world.until("the refusal", |world| world.net().is_finished(client));
        let told = world.now();
        assert!(world.text(client).ends_with("\r\n\r\nPayload Too Large"));
        for _ in 0..4 {
            world.send(client, "x".repeat(10_000));
            world.wait(secs(1));
        }
        assert!(!world.net().was_reset(client));
        world.assert_released(client, told, secs(5));
        // It understands, and closes: nothing to wait for.
        let client = world.client(sized("/", 100_000));
        world.until("the refusal", |world| world.net().is_finished(client));
        world.send(client, "x".repeat(10_000));
        world.net().finish(client);
        world.wait(SLACK);
        assert!(world.net().is_released(client) && !world.net().was_reset(client));
        // No patience at all.
        let timeouts = Timeouts {
            linger: Duration::ZERO,
            ..timeouts.clone()
        };
        let mut world = World::new(
            seed,
            Limits {
                body: 10,
                ..Limits::default()
            },
            timeouts,
            uploads(),
        );
        let client = world.client(sized("/whole", 100_000));
        world.answers(client, 1);
        world.wait(SLACK);
        assert!(world.net().is_released(client));
    });
}

// ---- timeouts of the server

#[test]
fn drain_timeout() {
    let timeouts = Timeouts {
        drain: secs(30),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        for in_time in [true, false] {
            let mut app: App<Seen> = App::new();
            app.get("/", |cx, _, res| cx.state.responders.push(res.defer()));
            let mut world = World::new(seed, Limits::default(), timeouts.clone(), app);
            let client = world.client(GET);
            world.until("the request", |world| !world.seen().responders.is_empty());
            let began = world.now();
            world.server.handle().stop();
            world.turn();
            world.wait_until(began + (secs(30) - SLACK));
            assert!(!world.net().is_released(client));
            if in_time {
                world.seen().responders.pop().unwrap().text("just in time");
            }
            world.until("the stop", |world| !world.turn());
            match in_time {
                true => {
                    // It lingers for its client at the most until the deadline.
                    assert!(world.now() < began + secs(30) + SLACK);
                    assert_eq!(world.server.cut_connections(), 0);
                    world.until("the answer", |world| {
                        world.text(client).ends_with("just in time")
                    });
                    assert!(world.text(client).contains("connection: close\r\n"));
                }
                false => {
                    let late = world.now() - began;
                    assert!(late >= secs(30) && late < secs(30) + SLACK, "{late:?}");
                    assert_eq!(world.text(client), "");
                }
            }
            assert!(world.net().is_released(client));
            assert_eq!(world.server.cut_connections(), usize::from(!in_time));
            assert_eq!(
                (world.server.connections(), world.server.open_exchanges()),
                (0, 0)
            );
        }
    });
}

#[test]
fn drain_idle() {
    let timeouts = Timeouts {
        drain_idle: secs(2),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        let mut world = World::new(seed, Limits::default(), timeouts.clone(), counting());
        let (asks, silent, fresh) = (world.client(GET), world.client(GET), world.connect());
        world.answers(asks, 1);
        world.answers(silent, 1);
        let began = world.now();
        world.server.handle().stop();
        world.turn();
        world.wait_until(began + (secs(2) - SLACK));
        for client in [asks, silent, fresh] {
            assert!(!world.net().is_finished(client));
        }
        world.send(asks, GET);
        assert_eq!(world.answers(asks, 2), [200, 200]);
        world.until("the end", |world| world.net().is_finished(asks));
        assert!(world.text(asks).contains("connection: close\r\n"));
        world.assert_ends(silent, began, secs(2));
        world.until("the stop", |world| !world.turn());
        assert_eq!(world.server.cut_connections(), 0);
        // Nobody is let in any more.
        let late = world.client(GET);
        assert!(world.net().was_reset(late));
    });
}

#[test]
fn accept_pause() {
    let timeouts = Timeouts {
        accept_pause: secs(2),
        ..Timeouts::default()
    };
    each_seed(|seed| {
        for times in [1, 3] {
            let mut world = World::new(seed, Limits::default(), timeouts.clone(), counting());
            let inside = world.client(GET);
            world.answers(inside, 1);
            world.net().exhaust(times);
            let (began, turns) = (world.now(), world.turns);
            let pause = secs(2 * u64::from(times));
            let outside = [world.client(GET), world.client(GET)];
            world.wait_until(began + (pause - SLACK));
            assert!(
                world.turns - turns < 100,
                "the loop spins: {} turns",
                world.turns - turns
            );
            assert_eq!(world.server.connections(), 1);
            // Those who are in are served.
            world.send(inside, GET);
            assert_eq!(world.answers(inside, 2), [200, 200]);
            assert_eq!(world.server.connections(), 1);
            world.wait_until(began + (pause + SLACK));
            assert_eq!(world.server.connections(), 3);
            for client in outside {
                assert_eq!(world.answers(client, 1), [200]);
            }
        }
    });
}

/// What is nobody's doing who connects will fail the next time, too: a policy that forbids to accept.
#[test]
fn accepting_pauses_after_an_error_that_stays() {
    each_seed(|seed| {
        let mut world = World::new(seed, Limits::default(), Timeouts::default(), counting());
        let (client, turns) = (world.client(GET), world.turns);
        world.net().fail_accepts(u32::MAX, Errno::ACCESS);
        world.wait(secs(10));
        let turns = world.turns - turns;
        assert!(turns < 100, "the loop spins: {turns} turns");
        world.net().fail_accepts(0, Errno::ACCESS);
        assert_eq!(world.answers(client, 1), [200]);
    });
}

#[test]
fn connections_per_address() {
    each_seed(|seed| {
        let limits = Limits {
            connections_per_address: 2,
            ..Limits::default()
        };
        let mut world = World::new(seed, limits, Timeouts::default(), counting());
        // In the simulator all clients have one address.
        let (first, second) = (world.client(GET), world.client(GET));
        world.until("two are served", |world| {
            world.statuses(first) == [200] && world.statuses(second) == [200]
        });
        let third = world.client(GET);
        world.until("a third one is not", |world| world.net().is_finished(third));
        assert_eq!(world.seen().count, 2);
        world.net().finish(first);
        world.until("one has left", |world| world.server.connections() == 1);
        let fourth = world.client(GET);
        world.until("there is room again", |world| {
            world.statuses(fourth) == [200]
        });
        // A limit that a reload sets counts those who are there already.
        let builder = Server::builder().limits(Limits {
            connections_per_address: 1,
            ..Limits::default()
        });
        world.server.reload(builder, counting()).unwrap();
        let fifth = world.client(GET);
        world.until("it counts them", |world| world.net().is_finished(fifth));
        world.net().finish(second);
        world.net().finish(fourth);
        world.until("all have left", |world| world.server.connections() == 0);
        let sixth = world.client(GET);
        world.until("and lets them go", |world| world.statuses(sixth) == [200]);
    });
}

/// The kernel asks a silent peer whether it is there, on behalf of answers that are long in coming.
#[test]
fn accepted_connections_are_kept_alive_by_the_kernel() {
    for (keepalive, expected) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
        let timeouts = Timeouts {
            tcp_keepalive: keepalive,
            ..Timeouts::default()
        };
        let builder = Server::builder().listen("127.0.0.1:0").timeouts(timeouts);
        let server = builder.build(App::<()>::new(), ()).unwrap();
        let Listen::Tcp(address) = server.addresses().remove(0) else {
            unreachable!("bound to TCP")
        };
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"G").unwrap();
        // proc(5): of the server's end, established (01), the timer that runs: 02 is this one.
        let port = format!(":{:04X}", address.port());
        let runs = || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let mut lines = sockets
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let ours = lines.find(|line| line[1].ends_with(&port) && line[3] == "01");
            ours.map(|line| line[5].starts_with("02"))
        };
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while runs() != Some(expected) {
            assert!(
                std::time::Instant::now() < end,
                "{keepalive:?}: {:?}",
                runs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
