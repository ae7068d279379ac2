//! The client of Redis in the simulator: [what holds in each world](world), for plain commands, transactions, and those who
//! watch what somebody else changes; and that nobody else's command comes on a connection that watches.

#[path = "simulated/world.rs"]
mod world;

use loopwright::proto::resp::{Bounds, Decoder, Value};
use loopwright::service::redis::{Command, Redis, RedisError};
use loopwright::sim::Client;
use loopwright::{App, Ctx, Server};
use std::collections::BTreeMap;
use std::time::Duration;
use world::{Answer, Seen, Service, Shared, lock, seeds};

type World = world::World<Cache>;

struct Cache {
    is_resp2: bool,
}

// ---- the server

/// What it says to `ECHO n`: long enough to be cut anywhere, and nobody else's.
fn echo(n: i32) -> String {
    format!("{n}:{}", "e".repeat(n as usize % 50))
}

struct Connection {
    decoder: Decoder,
    /// Since MULTI.
    queued: Option<Vec<i32>>,
    /// Since WATCH.
    watched: Option<i32>,
}

impl Service for Cache {
    type Connection = Connection;

    fn accept() -> Connection {
        Connection {
            decoder: Decoder::new(Bounds::default()),
            queued: None,
            watched: None,
        }
    }

    fn serve(world: &mut World, at: usize) {
        let backend = &mut world.backends[at];
        let input = std::mem::take(&mut backend.input);
        let mut input = &input[..];
        let connection = &mut backend.connection;
        let mut said = Vec::new();
        while let Some(value) = connection.decoder.decode(&mut input).expect("a command") {
            let Value::Array(words) = value else {
                panic!("{value:?}")
            };
            let words: Vec<String> = words
                .iter()
                .filter_map(Value::bytes)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            let number: Option<i32> = words.get(1).and_then(|word| word.parse().ok());
            if let (Some(n), Some(watcher)) = (number, connection.watched)
                && n != watcher
            {
                let wrong = format!("{n} came while {watcher} was watched");
                lock(&world.asked).wrong.push(wrong);
            }
            let is_resp2 = world.service.is_resp2;
            let bulk = |n: i32| {
                let text = echo(n);
                format!("${}\r\n{text}\r\n", text.len())
            };
            let mut echoed = |n: i32| {
                *world.done.entry(n).or_default() += 1;
                bulk(n)
            };
            match &words[0][..] {
                "HELLO" if is_resp2 => said.extend(b"-ERR unknown command 'HELLO'\r\n"),
                "HELLO" => said.extend(b"%1\r\n$5\r\nproto\r\n:3\r\n"),
                "CLIENT" => said.extend(b"+OK\r\n"),
                "PING" => said.extend(b"+PONG\r\n"),
                "MULTI" => {
                    connection.queued = Some(Vec::new());
                    said.extend(b"+OK\r\n");
                }
                "WATCH" | "UNWATCH" => {
                    connection.watched = number;
                    said.extend(b"+OK\r\n");
                }
                "GET" => said.extend(bulk(number.expect("a number")).bytes()),
                // Somebody else has changed it.
                "EXEC" if connection.watched.take().is_some() && world.rng.u32(0..3) == 0 => {
                    connection.queued = None;
                    said.extend(match is_resp2 {
                        true => &b"*-1\r\n"[..],
                        false => b"_\r\n",
                    });
                }
                "EXEC" => {
                    let queued = connection.queued.take().expect("a transaction");
                    said.extend(format!("*{}\r\n", queued.len()).bytes());
                    for n in queued {
                        said.extend(echoed(n).bytes());
                    }
                }
                "ECHO" => {
                    let n = number.expect("a number");
                    match &mut connection.queued {
                        Some(queued) => {
                            queued.push(n);
                            said.extend(b"+QUEUED\r\n");
                        }
                        None => said.extend(echoed(n).bytes()),
                    }
                }
                other => panic!("{other}"),
            }
        }
        backend.say(&said);
    }

    fn left(cx: &mut Ctx<'_>) -> Option<String> {
        let status = cx.redis("cache").status().expect("a cache");
        (status.waiting + status.running > 0).then(|| format!("{status:?}"))
    }

    fn come(world: &mut World) {
        let kind = world.rng.u32(0..5);
        come_as(world, kind);
    }
}

// ---- those who ask

fn is_echo(value: &Value, n: i32) -> bool {
    value.bytes().is_some_and(|text| text == echo(n).as_bytes())
}

fn answered(asked: &Shared, n: i32, is_right: Result<bool, RedisError>) {
    let answer = match is_right {
        Ok(true) => Answer::Good,
        Ok(false) => Answer::Wrong("has another's answer".into()),
        Err(RedisError::Lost(_)) => Answer::Lost,
        Err(RedisError::Conflict { attempts: 3 }) => Answer::Refused,
        Err(
            RedisError::NoConnection { .. }
            | RedisError::QueueFull { .. }
            | RedisError::Deadline { .. },
        ) => Answer::Late,
        Err(error) => Answer::Wrong(format!("was answered {error}")),
    };
    lock(asked).answered(n, answer);
}

/// What those who watch decide.
fn is_written(n: i32) -> bool {
    n % 3 != 0
}

/// Reads, decides, and writes if nobody else has.
fn watched(cx: &mut Ctx<'_>, asked: &Shared, n: i32) {
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
        answered(&asked, n, is_right);
    };
    cx.redis("cache").watch([n], [("GET", n)], decide, then);
}

/// A few commands, in one callback: watching, as a transaction, or plain.
fn come_as(world: &mut World, kind: u32) {
    let count = world.rng.usize(1..6);
    let asked = world.asked.clone();
    world.post(move |cx| {
        let command = |n: i32| Command::from(("ECHO", n));
        let numbers: Vec<i32> = (0..count).map(|_| lock(&asked).ask()).collect();
        match kind {
            0 => numbers.iter().for_each(|n| watched(cx, &asked, *n)),
            1 => {
                let commands: Vec<Command> = numbers.iter().copied().map(command).collect();
                cx.redis("cache").multi(commands, move |_, replies| {
                    for (at, n) in numbers.into_iter().enumerate() {
                        let is_right = replies
                            .clone()
                            .map(|replies| replies.len() == count && is_echo(&replies[at], n));
                        answered(&asked, n, is_right);
                    }
                });
            }
            _ => {
                for n in numbers {
                    let asked = asked.clone();
                    cx.redis("cache").command(command(n), move |_, reply| {
                        answered(&asked, n, reply.map(|reply| is_echo(&reply, n)));
                    });
                }
            }
        }
    });
}

// ---- the worlds

const LONG: Duration = Duration::from_secs(3600);

fn settings() -> Redis {
    Redis::new("redis://192.0.2.7")
        .expect("a URL")
        .pipeline(8)
        .queue(50)
        .queue_wait(Duration::from_secs(2))
        .retries(2)
}

/// Who has time gets an answer.
fn patient() -> Redis {
    settings().queue(10_000).queue_wait(LONG).timeout(LONG)
}

fn app(settings: Redis) -> App {
    let mut app = App::new();
    app.redis("cache", settings);
    app
}

fn begin(seed: u64, dies: bool, settings: Redis) -> World {
    let is_resp2 = fastrand::Rng::with_seed(seed).bool();
    World::new(seed, dies, Cache { is_resp2 }, app(settings))
}

#[test]
fn a_server_that_dies_between_any_two_bytes() {
    let mut seen = Seen::default();
    for seed in seeds(100) {
        seen += begin(seed, true, settings()).run();
    }
    println!("{seen:?}");
    // It is worth something only if much of each has happened. Refused: the keys were changed by somebody each time.
    let is_much = seen.good > 10_000 && seen.lost > 1000 && seen.refused > 50;
    assert!(is_much, "{seen:?}");
}

#[test]
fn a_server_that_lives() {
    for seed in seeds(30) {
        let seen = begin(seed, false, patient()).run();
        let is_all = seen.good > 300 && seen.lost == 0 && seen.late == 0;
        assert!(is_all, "seed {seed}: {seen:?}");
    }
}

/// The same settings: the connections stay.
#[test]
fn a_reload() {
    let mut world = begin(1, false, patient());
    let reload = |world: &mut World, settings: Redis| {
        world
            .server
            .reload(Server::builder(), app(settings))
            .expect("a reload");
        for _ in 0..100 {
            world.turn();
        }
        come_as(world, 2);
        for _ in 0..100 {
            world.turn();
        }
        let wrong = std::mem::take(&mut lock(&world.asked).wrong);
        assert!(wrong.is_empty(), "{wrong:?}");
        world.backends.len()
    };
    assert_eq!(reload(&mut world, patient()), 2);
    assert_eq!(reload(&mut world, patient()), 2);
    assert_eq!(reload(&mut world, patient().pipeline(9)), 4);
    let (first, last) = (world.backends[0].client, world.backends[3].client);
    assert!(world.server.net_mut().is_released(first));
    assert!(!world.server.net_mut().is_released(last));
    assert!(lock(&world.asked).answers.values().all(|times| *times == 1));
}

/// What was handed on to a connection that ends is lost; of what was not, the server cannot have done anything: that goes to
/// another connection.
#[test]
fn what_was_not_sent_goes_elsewhere() {
    let mut world = begin(1, false, patient());
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
        for size in [10, 40_000, 10] {
            let n = lock(&asked).ask();
            let asked = asked.clone();
            let command = ("ECHO", n, "x".repeat(size));
            cx.redis("cache").command(command, move |_, reply| {
                answered(&asked, n, reply.map(|reply| is_echo(&reply, n)));
            });
        }
    };
    world.post(post);
    (0..20).for_each(|_| world.turn());
    assert!(lock(&world.asked).answers.values().all(|times| *times == 0));
    for (backend, client) in world.backends.iter_mut().zip(clients) {
        backend.is_dead = true;
        world.server.net_mut().reset(client);
    }
    world.pause = Duration::from_millis(20);
    (0..500).for_each(|_| world.turn());
    let asked = lock(&world.asked);
    let seen = asked.seen;
    assert_eq!(
        (seen.lost, seen.good, seen.late),
        (1, 2, 0),
        "{:?}",
        asked.wrong
    );
    assert_eq!(world.done, BTreeMap::from([(2, 1), (3, 1)]));
}
