//! The client of Redis in the simulator, against a server that is made of a script: it ends between any two bytes, is late,
//! and notes what it is told. Each seed is a world.
//!
//! What holds in each: every command has one answer, its own; the server does nothing twice.

use loopwright::proto::resp::{Bounds, Decoder, Value};
use loopwright::service::redis::{Command, Redis, RedisError};
use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{App, Ctx, Limits, Server};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

#[derive(Default)]
struct Asked {
    /// Of each command, how often it was answered.
    answers: BTreeMap<u64, u32>,
    good: u32,
    lost: u32,
    late: u32,
    conflicts: u32,
    wrong: Vec<String>,
}

type Shared = Arc<Mutex<Asked>>;

fn lock(asked: &Shared) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(|e| e.into_inner())
}

/// What the server says to `ECHO n`: long enough to be cut anywhere, and nobody else's.
fn echo(n: u64) -> String {
    format!("{n}:{}", "e".repeat(n as usize % 50))
}

impl Asked {
    fn answer(&mut self, n: u64, is_right: Result<bool, RedisError>) {
        *self.answers.entry(n).or_default() += 1;
        match is_right {
            Ok(true) => self.good += 1,
            Ok(false) => self.wrong.push(format!("{n} has another's answer")),
            Err(RedisError::Lost(_)) => self.lost += 1,
            Err(RedisError::Conflict { attempts: 3 }) => self.conflicts += 1,
            Err(
                RedisError::NoConnection { .. }
                | RedisError::QueueFull { .. }
                | RedisError::Deadline { .. },
            ) => self.late += 1,
            Err(error) => self.wrong.push(format!("{n}: {error}")),
        }
    }
}

/// The server's end of a connection.
struct Backend {
    client: Client,
    read: usize,
    decoder: Decoder,
    /// Since MULTI.
    queued: Option<Vec<u64>>,
    is_watched: bool,
    to_say: VecDeque<u8>,
    /// Bytes that it says before it dies.
    life: usize,
    is_dead: bool,
}

/// What those who watch decide.
fn is_written(n: u64) -> bool {
    !n.is_multiple_of(3)
}

/// Reads, decides, and writes if nobody else has.
fn watched(cx: &mut Ctx<'_>, asked: &Shared, n: u64) {
    let (asked, decided) = (asked.clone(), asked.clone());
    let decide = move |_: &mut Ctx<'_>, replies: Vec<Value>| {
        if replies.len() != 1 || !is_echo(&replies[0], n) {
            let wrong = format!("{n} has read {replies:?}");
            lock(&decided).wrong.push(wrong);
        }
        is_written(n).then(|| vec![Command::from(("ECHO", n))])
    };
    let then = move |_: &mut Ctx<'_>, done: Result<Option<Vec<Value>>, RedisError>| {
        let is_right = done.map(|done| match done {
            Some(replies) => is_written(n) && replies.len() == 1 && is_echo(&replies[0], n),
            None => !is_written(n),
        });
        lock(&asked).answer(n, is_right);
    };
    cx.redis("cache").watch([n], [("GET", n)], decide, then);
}

struct World {
    server: Server<(), SimNet>,
    asked: Shared,
    backends: Vec<Backend>,
    /// What the server has done, and how often.
    done: BTreeMap<u64, u32>,
    rng: fastrand::Rng,
    next: u64,
    dies: bool,
    pause: Duration,
    is_resp2: bool,
}

fn is_echo(value: &Value, n: u64) -> bool {
    value.bytes().is_some_and(|text| text == echo(n).as_bytes())
}

const LONG: Duration = Duration::from_secs(3600);

fn settings() -> Redis {
    Redis::new("redis://192.0.2.7")
        .expect("a URL")
        .pipeline(8)
        .queue(50)
        .queue_wait(Duration::from_secs(2))
        .retries(2)
}

impl World {
    fn new(seed: u64, dies: bool) -> World {
        // The pauses between attempts are drawn from it.
        fastrand::seed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let faults = Faults {
            accept_errors: 0,
            ..Faults::default()
        };
        let mut app = App::new();
        let settings = match dies {
            true => settings(),
            // Who has time gets an answer.
            false => settings().queue(10_000).queue_wait(LONG).timeout(LONG),
        };
        app.redis("cache", settings);
        let limits = Limits {
            high_water: 1024,
            ..Limits::default()
        };
        let builder = Server::builder().limits(limits);
        let server = builder
            .simulate(SimNet::new(seed, faults), app, ())
            .expect("a server");
        World {
            is_resp2: rng.bool(),
            server,
            asked: Shared::default(),
            backends: Vec::new(),
            done: BTreeMap::new(),
            rng,
            next: 0,
            dies,
            pause: Duration::from_millis(1),
        }
    }

    /// A few commands, in one callback: watching, as a transaction, or plain.
    fn come(&mut self) {
        let kind = self.rng.u32(0..5);
        self.come_as(kind);
    }

    fn come_as(&mut self, kind: u32) {
        let count = self.rng.u64(1..6);
        let (asked, first) = (self.asked.clone(), self.next);
        self.next += count;
        lock(&asked)
            .answers
            .extend((first..first + count).map(|n| (n, 0)));
        let post = move |cx: &mut Ctx<'_>| {
            let redis = |n: u64| Command::from(("ECHO", n));
            if kind == 0 {
                for n in first..first + count {
                    watched(cx, &asked, n);
                }
                return;
            }
            if kind == 1 {
                let commands = (first..first + count).map(redis);
                return cx.redis("cache").multi(commands, move |_, replies| {
                    for n in first..first + count {
                        let at = (n - first) as usize;
                        let is_right = replies.clone().map(|replies| {
                            replies.len() == count as usize && is_echo(&replies[at], n)
                        });
                        lock(&asked).answer(n, is_right);
                    }
                });
            }
            for n in first..first + count {
                let asked = asked.clone();
                cx.redis("cache").command(redis(n), move |_, reply| {
                    lock(&asked).answer(n, reply.map(|reply| is_echo(&reply, n)));
                });
            }
        };
        self.server.handle().post(post).expect("posted");
    }

    fn turn(&mut self) {
        let soon = self.server.net_mut().now() + self.pause;
        self.server.net_mut().wake_at(soon);
        self.server.turn().expect("a turn");
        while let Some(client) = self.server.net_mut().dialled() {
            if self.dies && self.rng.u32(0..10) == 0 {
                self.server.net_mut().reset(client);
                continue;
            }
            let life = match self.dies {
                true if self.rng.u32(0..4) > 0 => self.rng.usize(0..2000),
                _ => usize::MAX,
            };
            self.backends.push(Backend {
                client,
                read: 0,
                decoder: Decoder::new(Bounds::default()),
                queued: None,
                is_watched: false,
                to_say: VecDeque::new(),
                life,
                is_dead: false,
            });
        }
        for at in 0..self.backends.len() {
            self.serve(at);
        }
    }

    fn serve(&mut self, at: usize) {
        let backend = &mut self.backends[at];
        if backend.is_dead {
            return;
        }
        let net = self.server.net_mut();
        let input = net.received(backend.client)[backend.read..].to_vec();
        backend.read += input.len();
        let mut input = &input[..];
        while let Some(value) = backend.decoder.decode(&mut input).expect("a command") {
            let Value::Array(words) = value else {
                panic!("{value:?}")
            };
            let words: Vec<String> = words
                .iter()
                .filter_map(Value::bytes)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            let mut said = Vec::new();
            let echoed = |done: &mut BTreeMap<u64, u32>, n: u64| {
                *done.entry(n).or_default() += 1;
                let text = echo(n);
                format!("${}\r\n{text}\r\n", text.len())
            };
            match &words[0][..] {
                "HELLO" if self.is_resp2 => said.extend(b"-ERR unknown command 'HELLO'\r\n"),
                "HELLO" => said.extend(b"%1\r\n$5\r\nproto\r\n:3\r\n"),
                "CLIENT" => said.extend(b"+OK\r\n"),
                "PING" => said.extend(b"+PONG\r\n"),
                "MULTI" => {
                    backend.queued = Some(Vec::new());
                    said.extend(b"+OK\r\n");
                }
                "WATCH" | "UNWATCH" => {
                    backend.is_watched = words[0] == "WATCH";
                    said.extend(b"+OK\r\n");
                }
                "GET" => {
                    let text = echo(words[1].parse().expect("a number"));
                    said.extend(format!("${}\r\n{text}\r\n", text.len()).bytes());
                }
                // Somebody else has changed it.
                "EXEC" if std::mem::take(&mut backend.is_watched) && self.rng.u32(0..3) == 0 => {
                    backend.queued = None;
                    said.extend(match self.is_resp2 {
                        true => &b"*-1\r\n"[..],
                        false => b"_\r\n",
                    });
                }
                "EXEC" => {
                    let queued = backend.queued.take().expect("a transaction");
                    said.extend(format!("*{}\r\n", queued.len()).bytes());
                    for n in queued {
                        said.extend(echoed(&mut self.done, n).bytes());
                    }
                }
                "ECHO" => {
                    let n = words[1].parse().expect("a number");
                    match &mut backend.queued {
                        Some(queued) => {
                            queued.push(n);
                            said.extend(b"+QUEUED\r\n");
                        }
                        None => said.extend(echoed(&mut self.done, n).bytes()),
                    }
                }
                other => panic!("{other}"),
            }
            backend.to_say.extend(said);
        }
        // A piece of what it has to say, or all, or nothing yet.
        let most = backend.to_say.len();
        let piece = match self.rng.u32(0..3) {
            0 => 0,
            1 => self.rng.usize(0..=most),
            _ => most,
        };
        let piece = piece.min(backend.life);
        let bytes: Vec<u8> = backend.to_say.drain(..piece).collect();
        backend.life -= bytes.len();
        net.send(backend.client, &bytes);
        if backend.life == 0 && most > piece {
            backend.is_dead = true;
            match self.rng.bool() {
                true => net.finish(backend.client),
                false => net.reset(backend.client),
            }
        }
    }
}

/// How many had an answer, were lost, were late, and had their keys changed by somebody each time.
fn run(seed: u64, dies: bool) -> [u32; 4] {
    let mut world = World::new(seed, dies);
    for _ in 0..500 {
        if world.rng.u32(0..3) == 0 {
            world.come();
        }
        world.turn();
    }
    world.pause = Duration::from_millis(20);
    for turn in 0.. {
        world.turn();
        let is_over = lock(&world.asked).answers.values().all(|times| *times > 0);
        if is_over && turn > 200 {
            break;
        }
        assert!(turn < 50_000, "seed {seed}: somebody waits for ever");
    }
    let asked = lock(&world.asked);
    assert!(asked.wrong.is_empty(), "seed {seed}: {:?}", asked.wrong);
    for (n, times) in &asked.answers {
        assert_eq!(*times, 1, "seed {seed}: {n} was answered so often");
    }
    for (n, times) in &world.done {
        assert_eq!(*times, 1, "seed {seed}: {n} was done so often");
    }
    [asked.good, asked.lost, asked.late, asked.conflicts]
}

#[test]
fn a_server_that_dies_between_any_two_bytes() {
    let mut totals = [0; 4];
    for seed in 0..100 {
        let seen = run(seed, true);
        totals.iter_mut().zip(seen).for_each(|(all, n)| *all += n);
    }
    println!("good, lost, late, conflicts: {totals:?}");
    // It is worth something only if much of each has happened.
    let [good, lost, _, conflicts] = totals;
    assert!(good > 10_000 && lost > 1000 && conflicts > 50, "{totals:?}");
}

#[test]
fn a_server_that_lives() {
    for seed in 0..30 {
        let [good, lost, late, _] = run(seed, false);
        assert!(
            good > 300 && lost == 0 && late == 0,
            "seed {seed}: {good} {lost} {late}"
        );
    }
}

/// The same settings: the connections stay.
#[test]
fn a_reload() {
    let mut world = World::new(1, false);
    let reload = |world: &mut World, settings: Redis| {
        let mut app = App::new();
        app.redis("cache", settings);
        world
            .server
            .reload(Server::builder(), app)
            .expect("a reload");
        for _ in 0..100 {
            world.turn();
        }
        world.come_as(2);
        for _ in 0..100 {
            world.turn();
        }
        let wrong = std::mem::take(&mut lock(&world.asked).wrong);
        assert!(wrong.is_empty(), "{wrong:?}");
        world.backends.len()
    };
    let same = || settings().queue(10_000).queue_wait(LONG).timeout(LONG);
    assert_eq!(reload(&mut world, same()), 2);
    assert_eq!(reload(&mut world, same()), 2);
    assert_eq!(reload(&mut world, same().pipeline(9)), 4);
    let (first, last) = (world.backends[0].client, world.backends[3].client);
    assert!(world.server.net_mut().is_released(first));
    assert!(!world.server.net_mut().is_released(last));
    assert!(lock(&world.asked).answers.values().all(|times| *times == 1));
}

/// What was handed on to a connection that ends is lost; of what was not, the server cannot have done anything: that goes to
/// another connection.
#[test]
fn what_was_not_sent_goes_elsewhere() {
    let mut world = World::new(1, false);
    while world
        .backends
        .iter()
        .filter(|backend| backend.read > 0)
        .count()
        < 2
    {
        world.turn();
    }
    (0..50).for_each(|_| world.turn());
    let clients: Vec<Client> = world
        .backends
        .iter()
        .map(|backend| backend.client)
        .collect();
    for client in &clients {
        world.server.net_mut().stall(*client, true);
    }
    let asked = world.asked.clone();
    let post = move |cx: &mut Ctx<'_>| {
        // More than a connection takes at once: so the last bytes of the second, and all of the third, are not handed on.
        for (n, size) in [(0, 10), (1, 40_000), (2, 10)] {
            let asked = asked.clone();
            let command = ("ECHO", n, "x".repeat(size));
            cx.redis("cache").command(command, move |_, reply| {
                lock(&asked).answer(n, reply.map(|reply| is_echo(&reply, n)));
            });
        }
    };
    world.server.handle().post(post).expect("posted");
    (0..20).for_each(|_| world.turn());
    assert!(lock(&world.asked).answers.is_empty());
    for (backend, client) in world.backends.iter_mut().zip(clients) {
        backend.is_dead = true;
        world.server.net_mut().reset(client);
    }
    world.pause = Duration::from_millis(20);
    (0..500).for_each(|_| world.turn());
    let asked = lock(&world.asked);
    assert_eq!(
        (asked.lost, asked.good, asked.late),
        (1, 2, 0),
        "{:?}",
        asked.wrong
    );
    assert_eq!(world.done, BTreeMap::from([(1, 1), (2, 1)]));
}
