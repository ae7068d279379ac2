//! The client of Redis against a Redis that is started here, killed and started again. The server that asks is on a thread
//! of its own, as in a process.

#[allow(dead_code)]
#[path = "bus/server.rs"]
mod server;

use loopwright::service::redis::{
    Bounds, Command, Heard, Redis, RedisError, RedisStatus, Script, Subscribed, Value,
};
use loopwright::{App, Ctx, Handle, Server};
use rustix::process::Signal;
use server::{PATIENCE, RedisServer, eventually};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const WITHOUT_HELLO: &[&str] = &["--rename-command", "HELLO", ""];

#[derive(Default)]
struct Site {
    subscribed: Vec<Subscribed<Site>>,
}

/// A server on a thread of its own.
struct Node {
    handle: Handle<Site>,
    thread: Option<JoinHandle<()>>,
}

type Answer = Result<String, String>;

/// A reply that may leave the loop.
fn answer(reply: Result<Value, RedisError>) -> Answer {
    reply.map(|value| text(&value)).map_err(|e| e.to_string())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_string(),
        Value::Integer(n) => n.to_string(),
        Value::Error(said) => format!("-{}", String::from_utf8_lossy(said)),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(text).collect();
            format!("[{}]", values.join(" "))
        }
        other => match other.bytes() {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => format!("{other:?}"),
        },
    }
}

fn list(replies: Result<Vec<Value>, RedisError>) -> Answer {
    answer(replies.map(Value::Array))
}

impl Node {
    fn new(settings: Redis) -> Node {
        let (tell, told) = channel();
        let run = move || {
            let mut app = App::new();
            app.redis("cache", settings);
            let builder = Server::builder().listen("127.0.0.1:0");
            let mut server = builder.build(app, Site::default()).expect("a server");
            tell.send(server.handle()).expect("sent");
            server.run().expect("a good end");
        };
        let thread = Some(std::thread::spawn(run));
        let handle = told.recv_timeout(PATIENCE).expect("a server");
        Node { handle, thread }
    }

    fn of(redis: &RedisServer) -> Node {
        Node::new(settings(redis))
    }

    /// Does something on the loop, which sends as many answers as it likes.
    fn post<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Ctx<'_, Site>, Sender<T>) + Send + 'static,
    ) -> Receiver<T> {
        let (tell, told) = channel();
        let post = self.handle.post(move |cx| f(cx, tell));
        post.expect("a running server");
        told
    }

    fn begin(&self, words: &[&str]) -> Receiver<Answer> {
        let command = Command::from(words);
        self.post(move |cx, tell| {
            let then = move |_: &mut Ctx<'_, Site>, reply| drop(tell.send(answer(reply)));
            cx.redis("cache").command(command, then);
        })
    }

    fn ask(&self, words: &[&str]) -> Answer {
        only(&self.begin(words))
    }

    fn status(&self) -> RedisStatus {
        let told = self.post(|cx, tell| {
            let status = cx.redis("cache").status().expect("a redis");
            tell.send(status).expect("sent");
        });
        told.recv_timeout(PATIENCE).expect("a status")
    }

    fn script(&self, script: &'static str, key: &'static str, n: i64) -> Answer {
        only(&self.post(move |cx, tell| {
            let then = move |_: &mut Ctx<'_, Site>, reply| drop(tell.send(answer(reply)));
            cx.redis("cache")
                .script(&Script::new(script), &[key], &[n], then);
        }))
    }

    fn multi(&self, commands: Vec<Command>) -> Answer {
        only(&self.post(move |cx, tell| {
            let then = move |_: &mut Ctx<'_, Site>, replies| drop(tell.send(list(replies)));
            cx.redis("cache").multi(commands, then);
        }))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// The answer, and that there is no other.
#[track_caller]
fn only<T: std::fmt::Debug>(told: &Receiver<T>) -> T {
    let first = told.recv_timeout(PATIENCE).expect("an answer");
    // Whoever could send another is gone.
    let second = told.recv_timeout(PATIENCE);
    assert!(second.is_err(), "answered twice: {second:?}");
    first
}

fn settings(redis: &RedisServer) -> Redis {
    Redis::new(&redis.url())
        .expect("a URL")
        .queue_wait(PATIENCE)
        .retry(Duration::from_millis(100))
}

/// Both protocols: what is asked in one turn is answered in order, errors where they belong, whether it fits into the
/// pipeline or waits.
#[test]
fn many_at_once() {
    for options in [&[][..], WITHOUT_HELLO] {
        let redis = RedisServer::start(options);
        for pipeline in [1000, 3] {
            let node = Node::new(settings(&redis).connections(1).pipeline(pipeline));
            let told = node.post(|cx, tell| {
                for n in 0..100 {
                    let commands: [Command; 4] = [
                        ("SET", "k", n).into(),
                        ("LPUSH", "k", n).into(),
                        ("GET", "k").into(),
                        ("NONSENSE", n).into(),
                    ];
                    for (at, command) in commands.into_iter().enumerate() {
                        let tell = tell.clone();
                        cx.redis("cache").command(command, move |_, reply| {
                            tell.send((4 * n + at, answer(reply))).expect("sent");
                        });
                    }
                }
            });
            for at in 0..400 {
                let (which, reply) = told.recv_timeout(PATIENCE).expect("an answer");
                assert_eq!(which, at, "in order");
                let want = match at % 4 {
                    0 => Ok("OK".to_string()),
                    1 => Err("redis says WRONGTYPE".to_string()),
                    2 => Ok((at / 4).to_string()),
                    _ => Err("redis says ERR unknown command".to_string()),
                };
                match (&reply, &want) {
                    (Err(reply), Err(want)) => assert!(reply.starts_with(&want[..]), "{reply}"),
                    _ => assert_eq!(reply, want),
                }
            }
            assert!(told.recv_timeout(PATIENCE).is_err(), "answered twice");
            let status = node.status();
            assert_eq!((status.running, status.waiting), (0, 0));
            assert_eq!((status.commands, status.errors), (400, 200));
        }
    }
}

#[test]
fn killed_and_started_again_under_load() {
    let mut redis = RedisServer::start(&[]);
    let node = Node::new(settings(&redis).queue(10_000).timeout(PATIENCE));
    assert_eq!(node.ask(&["SET", "n", "0"]), Ok("OK".into()));
    let (tell, told) = channel();
    let mut asked = 0;
    for round in 0..60 {
        for _ in 0..50 {
            let (tell, which) = (tell.clone(), asked);
            asked += 1;
            let post = node.handle.post(move |cx| {
                cx.redis("cache").command(["INCR", "n"], move |_, reply| {
                    tell.send((which, answer(reply))).expect("sent");
                });
            });
            post.expect("a running server");
        }
        match round {
            20 => redis.kill(),
            25 => redis.start_again(),
            // Stopped, so that much is under way when it dies.
            40 => redis.signal(Signal::STOP),
            42 => redis.kill(),
            45 => redis.start_again(),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    drop(tell);
    let mut answers = vec![0; asked];
    let (mut good, mut lost) = (0, 0);
    while let Ok((which, answer)) = told.recv_timeout(PATIENCE) {
        answers[which] += 1;
        match answer {
            Ok(_) => good += 1,
            Err(why) if why.contains("is lost") => lost += 1,
            Err(why) => panic!("{why}"),
        }
    }
    assert!(answers.iter().all(|times| *times == 1), "{answers:?}");
    assert!(good > 1000 && lost > 0, "{good} good, {lost} lost");
    // And what was told to be done was done: the number counts those of the last life, and none twice.
    let n: usize = node
        .ask(&["GET", "n"])
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(n > 0 && n <= good + lost, "{n}");
}

#[test]
fn logins() {
    for options in [
        &["--requirepass", "s3cret"][..],
        &["--requirepass", "s3cret", "--rename-command", "HELLO", ""],
    ] {
        let redis = RedisServer::start(options);
        let url = |login: &str| format!("redis://{login}127.0.0.1:{}/3", redis.port);
        let with = |login: &str| Redis::new(&url(login)).expect("a URL").queue_wait(PATIENCE);
        let node = Node::new(with(":s3cret@").name("a test"));
        assert_eq!(node.ask(&["SET", "k", "v"]), Ok("OK".into()));
        let info = node.ask(&["CLIENT", "INFO"]).expect("a line");
        assert!(
            info.contains("name=atest ") && info.contains("db=3 "),
            "{info}"
        );
        for login in [":wrong@", ""] {
            let node = Node::new(with(login));
            let start = Instant::now();
            let why = node.ask(&["GET", "k"]).expect_err("nothing");
            assert!(
                why.contains("no connection") && why.contains("refuses"),
                "{why}"
            );
            assert!(!why.contains(":wrong"), "{why}");
            assert!(start.elapsed() < PATIENCE / 2, "it need not be waited for");
        }
    }
}

#[test]
fn scripts() {
    let redis = RedisServer::start(&[]);
    let node = Node::of(&redis);
    const ADD: &str = "return redis.call('incrby', KEYS[1], ARGV[1])";
    assert_eq!(node.script(ADD, "n", 5), Ok("5".into()));
    assert_eq!(node.script(ADD, "n", 5), Ok("10".into()));
    redis.ask(&["script", "flush"]);
    assert_eq!(node.script(ADD, "n", 5), Ok("15".into()));
    let stats = redis.ask(&["info", "commandstats"]);
    assert!(stats.contains("cmdstat_eval:calls=2,"), "{stats}");
    assert!(stats.contains("cmdstat_evalsha:calls=3,"), "{stats}");
    let why = node
        .script("return nonsense()", "n", 1)
        .expect_err("nothing");
    assert!(why.starts_with("redis says ERR"), "{why}");
}

#[test]
fn transactions() {
    let redis = RedisServer::start(&[]);
    let node = Node::of(&redis);
    let done = node.multi(vec![
        ("SET", "k", "v").into(),
        ("INCR", "k").into(),
        ("GET", "k").into(),
    ]);
    let want = "[OK -ERR value is not an integer or out of range v]";
    assert_eq!(done, Ok(want.into()));
    let done = node.multi(vec![("SET", "k", "w").into(), Command::new("NONSENSE")]);
    let why = done.expect_err("nothing");
    assert!(why.starts_with("redis says ERR unknown command"), "{why}");
    assert_eq!(node.ask(&["GET", "k"]), Ok("v".into()));
    assert_eq!(node.multi(vec![]), Ok("[]".into()));
}

/// Somebody else changes what is watched, `times` times.
fn double(node: &Node, port: u16, times: u32) -> (Answer, u32) {
    let calls = Arc::new(Mutex::new(0));
    let counted = calls.clone();
    let told = node.post(move |cx, tell| {
        let decide = move |_: &mut Ctx<'_, Site>, replies: Vec<Value>| {
            let n: i64 = text(&replies[0]).parse().ok()?;
            let mut calls = counted.lock().expect("a count");
            *calls += 1;
            if *calls <= times {
                let mut other = std::process::Command::new("redis-cli");
                let said = other.args(["-p", &port.to_string(), "incr", "n"]).output();
                assert!(said.expect("redis-cli").status.success());
            }
            Some(vec![("SET", "n", 2 * n).into(), ("GET", "n").into()])
        };
        let then = move |_: &mut Ctx<'_, Site>, done: Result<Option<Vec<Value>>, RedisError>| {
            let done = done.map(|done| done.map_or(Value::Null, Value::Array));
            tell.send(answer(done)).expect("sent");
        };
        cx.redis("cache").watch(["n"], [["GET", "n"]], decide, then);
    });
    let done = only(&told);
    let calls = *calls.lock().expect("a count");
    (done, calls)
}

#[test]
fn watched() {
    let redis = RedisServer::start(&[]);
    let node = Node::new(settings(&redis).retries(2).blocking(1));
    // Nothing to decide on: and the connection is for others then.
    assert_eq!(double(&node, redis.port, 0), (Ok("nil".into()), 0));
    redis.ask(&["set", "n", "10"]);
    assert_eq!(double(&node, redis.port, 0), (Ok("[OK 20]".into()), 1));
    assert_eq!(double(&node, redis.port, 2), (Ok("[OK 44]".into()), 3));
    let (done, calls) = double(&node, redis.port, 9);
    let why = "what was watched has changed, 3 times";
    assert_eq!((done, calls), (Err(why.into()), 3));
    assert_eq!(redis.ask(&["get", "n"]).trim(), "47");
    let wrong = node.post(move |cx, tell| {
        let decide = |_: &mut Ctx<'_, Site>, _| Some(vec![Command::new("EXEC")]);
        let then = move |_: &mut Ctx<'_, Site>, done: Result<_, RedisError>| {
            let done: Result<Option<Vec<Value>>, _> = done;
            tell.send(done.map(|_| ()).map_err(|e| e.to_string()))
                .expect("sent");
        };
        let reads: [Command; 0] = [];
        cx.redis("cache").watch(["n"], reads, decide, then);
    });
    let why = only(&wrong).expect_err("nothing");
    assert!(why.starts_with("not asked of redis"), "{why}");
    assert_eq!(double(&node, redis.port, 0), (Ok("[OK 94]".into()), 1));
}

fn said(heard: Heard) -> String {
    match heard {
        Heard::Message(message) => {
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            format!("{} {payload}", String::from_utf8_lossy(&message.channel))
        }
        Heard::Gap(_) => "gap".to_string(),
        other => format!("{other:?}"),
    }
}

fn subscribe(node: &Node, topic: &'static str) -> Receiver<String> {
    node.post(move |cx, tell| {
        let hear = move |_: &mut Ctx<'_, Site>, heard| drop(tell.send(said(heard)));
        let redis = cx.redis("cache");
        let subscribed = match topic.contains('*') {
            true => redis.psubscribe(topic, hear),
            false => redis.subscribe(topic, hear),
        };
        cx.state.subscribed.push(subscribed);
    })
}

#[test]
fn subscriptions_through_a_restart() {
    for options in [&[][..], WITHOUT_HELLO] {
        let mut redis = RedisServer::start(options);
        let node = Node::of(&redis);
        let (news, all) = (subscribe(&node, "news"), subscribe(&node, "n*"));
        let next = |told: &Receiver<String>| told.recv_timeout(PATIENCE).expect("something");
        assert_eq!(
            (next(&news), next(&all)),
            ("Subscribed".into(), "Subscribed".into())
        );
        let told = node.post(|cx, tell| {
            let then = move |_: &mut Ctx<'_, Site>, heard: Result<i64, RedisError>| {
                tell.send(heard.map_err(|e| e.to_string())).expect("sent");
            };
            cx.redis("cache").publish("news", "it rains", then);
        });
        assert_eq!(only(&told), Ok(2));
        assert_eq!(
            (next(&news), next(&all)),
            ("news it rains".into(), "news it rains".into())
        );
        redis.kill();
        assert_eq!((next(&news), next(&all)), ("gap".into(), "gap".into()));
        redis.start_again();
        assert_eq!(
            (next(&news), next(&all)),
            ("Subscribed".into(), "Subscribed".into())
        );
        // A second one of the same: it is on already.
        let more = subscribe(&node, "news");
        assert_eq!(next(&more), "Subscribed");
        redis.ask(&["publish", "news", "again"]);
        for told in [&news, &all, &more] {
            assert_eq!(next(told), "news again");
        }
        redis.await_subscribed("news", 1);
        // Dropped: one is left, then none, and no connection for them.
        let forget = |keep: usize| {
            let told = node.post(move |cx, tell| {
                cx.state.subscribed.truncate(keep);
                tell.send(()).expect("sent");
            });
            told.recv_timeout(PATIENCE).expect("done");
        };
        forget(1);
        redis.await_subscribed("news", 0);
        forget(0);
        redis.await_subscribed("", 0);
        eventually("the connection is gone", || node.status().open == 2);
        assert!(news.recv_timeout(PATIENCE).is_err(), "nothing more");
    }
}

#[test]
fn who_waits_holds_nobody_up() {
    let redis = RedisServer::start(&[]);
    let node = Node::new(
        settings(&redis)
            .blocking(2)
            .reply(Duration::from_millis(300)),
    );
    let first = node.begin(&["BLPOP", "a", "0"]);
    let second = node.begin(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]);
    let third = node.begin(&["BLPOP", "b", "0"]);
    eventually("two of them wait there", || {
        redis
            .ask(&["info", "clients"])
            .contains("blocked_clients:2")
    });
    // Longer than the server may owe an answer that it has.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(node.ask(&["SET", "k", "v"]), Ok("OK".into()));
    assert_eq!(node.status().waiting, 1);
    redis.ask(&["rpush", "b", "2"]);
    redis.ask(&["rpush", "a", "1"]);
    assert_eq!(only(&first), Ok("[a 1]".into()));
    // It has the connection of the first.
    assert_eq!(only(&third), Ok("[b 2]".into()));
    redis.ask(&["xadd", "s", "1-1", "f", "v"]);
    let read = only(&second).expect("an entry");
    assert!(read.contains("1-1"), "{read}");
    // Its time is up: the server is told, by the end of the connection.
    let told = node.post(|cx, tell| {
        let then = move |_: &mut Ctx<'_, Site>, reply| drop(tell.send(answer(reply)));
        let redis = cx.redis("cache").timeout(Duration::from_millis(100));
        redis.command(["BLPOP", "c", "0"], then);
    });
    let why = only(&told).expect_err("nothing");
    assert_eq!(why, "no reply of redis within 100ms (timeout)");
    eventually("nobody waits there", || {
        redis
            .ask(&["info", "clients"])
            .contains("blocked_clients:0")
    });
    redis.ask(&["rpush", "c", "3"]);
    assert_eq!(redis.ask(&["llen", "c"]).trim(), "1");
}

#[test]
fn limits() {
    let redis = RedisServer::start(&[]);
    let node = Node::new(
        settings(&redis)
            .connections(1)
            .request(10_000)
            .pipeline(2)
            .queue(3)
            .queue_wait(Duration::from_millis(200))
            .timeout(Duration::from_millis(400))
            .bounds(Bounds {
                bulk: 5000,
                ..Bounds::default()
            }),
    );
    let big = "x".repeat(6000);
    assert_eq!(node.ask(&["SET", "k", &big]), Ok("OK".into()));
    let huge = node.ask(&["SET", "k", &big.repeat(2)]);
    assert_eq!(
        huge,
        Err("too large for redis, over 10000 (request)".into())
    );
    let got = node.ask(&["GET", "k"]);
    assert_eq!(got, Err("too large for redis, over 5000 (bulk)".into()));
    assert_eq!(node.ask(&["STRLEN", "k"]), Ok("6000".into()));
    let many = vec![Command::new("PING"); 3];
    assert_eq!(
        node.multi(many),
        Err("too large for redis, over 2 (pipeline)".into())
    );
    for word in ["SELECT", "MULTI", "SUBSCRIBE", "MONITOR", ""] {
        let why = node.ask(&[word, "1"]).expect_err("nothing");
        assert!(why.starts_with("not asked of redis"), "{word}: {why}");
    }
    // It is stopped: two are under way, three wait, the rest is told at once.
    redis.signal(Signal::STOP);
    let told = node.post(|cx, tell| {
        for which in 0..7 {
            let tell = tell.clone();
            cx.redis("cache").command(["PING"], move |_, reply| {
                tell.send((which, answer(reply).expect_err("nothing")))
                    .expect("sent");
            });
        }
    });
    let mut answers: Vec<_> = (0..7)
        .map(|_| told.recv_timeout(PATIENCE).expect("an answer"))
        .collect();
    assert!(told.recv_timeout(PATIENCE).is_err(), "answered twice");
    answers.sort();
    for (which, why) in &answers {
        let want = match which {
            0 | 1 => "no reply of redis within 400ms (timeout)",
            2..=4 => "all connections to redis are busy for 200ms (queue_wait or timeout)",
            _ => "too much waits for redis: 3 (queue)",
        };
        assert_eq!(why, want, "{which}");
    }
    redis.signal(Signal::CONT);
    eventually("it answers", || node.ask(&["PING"]) == Ok("PONG".into()));
    let told = node.post(|cx, tell| {
        let then = move |_: &mut Ctx<'_, Site>, reply| drop(tell.send(answer(reply)));
        cx.redis("other").command(["PING"], then);
    });
    assert_eq!(only(&told), Err("there is no redis \"other\"".into()));
}

/// What is asked in one turn is one write: the server reads it at once.
#[test]
fn a_turn_is_one_write() {
    let redis = RedisServer::start(&[]);
    let node = Node::of(&redis);
    let reads = || -> u32 {
        let stats = node.ask(&["INFO", "stats"]).expect("stats");
        let mut lines = stats.lines();
        let line = lines.find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.expect("a line").parse().expect("a number")
    };
    eventually("all connections are there", || node.status().open == 2);
    let before = reads();
    let told = node.post(|cx, tell| {
        for n in 0..100 {
            let tell = tell.clone();
            cx.redis("cache").command(("SET", "k", n), move |_, reply| {
                tell.send(answer(reply)).expect("sent");
            });
        }
    });
    for _ in 0..100 {
        assert_eq!(
            told.recv_timeout(PATIENCE).expect("an answer"),
            Ok("OK".into())
        );
    }
    // Those, and the question itself; and a ping, if the machine is slow.
    let after = reads();
    assert!(after - before <= 4, "{before} to {after}");
}

#[test]
fn a_subscription_that_is_denied() {
    let redis = RedisServer::start(&[]);
    redis.ask(&["acl", "setuser", "default", "resetchannels", "&news"]);
    let node = Node::of(&redis);
    let (secret, news) = (subscribe(&node, "secret"), subscribe(&node, "news"));
    let next = |told: &Receiver<String>| told.recv_timeout(PATIENCE).expect("something");
    let why = next(&secret);
    assert!(why.contains("Denied(\"NOPERM"), "{why}");
    assert_eq!(next(&news), "Subscribed");
    redis.ask(&["acl", "setuser", "default", "allchannels"]);
    // Whoever comes then has it asked for again.
    let more = subscribe(&node, "secret");
    assert_eq!(
        (next(&secret), next(&more)),
        ("Subscribed".into(), "Subscribed".into())
    );
}

#[test]
fn a_connection_of_ones_own_does_not_stay() {
    let redis = RedisServer::start(&[]);
    let node = Node::new(settings(&redis).idle(Duration::from_millis(300)));
    redis.ask(&["rpush", "l", "1", "2", "3"]);
    for n in 1..=3 {
        assert_eq!(node.ask(&["BLPOP", "l", "0"]), Ok(format!("[l {n}]")));
        std::thread::sleep(Duration::from_millis(100));
    }
    // The same one each time.
    assert_eq!((node.status().open, node.status().made), (3, 3));
    eventually("it is closed", || node.status().open == 2);
}

/// Nor one that is still told that nothing is watched any more when its time to rest is over.
#[test]
fn a_connection_of_ones_own_does_not_stay_if_its_server_is_slow() {
    use std::io::{Read, Write};
    let redis = RedisServer::start(&[]);
    let node = Node::new(settings(&redis).idle(Duration::from_millis(300)));
    let port = redis.port;
    let decide = move |_: &mut Ctx<'_, Site>, _: Vec<Value>| {
        let mut other = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let paused = other.write_all(b"client pause 700 all\r\n");
        paused.expect("written");
        other.read_exact(&mut [0; 5]).expect("paused");
        None
    };
    let done = only(&node.post(move |cx, tell| {
        let then = move |_: &mut Ctx<'_, Site>, done: Result<Option<Vec<Value>>, RedisError>| {
            drop(tell.send(done.map(|done| done.is_none()).map_err(|e| e.to_string())));
        };
        cx.redis("cache").watch(["n"], [["GET", "n"]], decide, then);
    }));
    assert_eq!(done, Ok(true));
    assert_eq!(node.status().open, 3);
    eventually("it is closed", || node.status().open == 2);
}

#[test]
fn commands_are_awaited_and_given_up() {
    let redis = RedisServer::start(&[]);
    let node = Node::of(&redis);
    let told = node.post(|cx, tell| {
        let task = cx.task();
        let asks = async move {
            let cache = task.redis("cache");
            let mut said = Vec::new();
            said.push(answer(cache.command(["SET", "k", "1"]).await));
            let commands = [["INCR", "k"], ["GET", "k"]];
            said.push(list(cache.multi(commands).await));
            let script = Script::new("return {KEYS[1], ARGV[1]}");
            said.push(answer(cache.script(&script, &["k"], &["v"]).await));
            let (one, two) = futures_util::future::join(
                cache.command(["GET", "k"]),
                cache.command(["NONSENSE"]),
            )
            .await;
            said.extend([answer(one), answer(two).map_err(|_| "refused".into())]);
            // Its connection goes, too.
            let job = cache.command(["BLPOP", "jobs", "0"]);
            let late = task.timeout(Duration::from_millis(100), job).await;
            said.push(Ok(late.is_err().to_string()));
            tell.send(said).expect("sent");
        };
        cx.spawn(asks).expect("room for a task");
    });
    let ok = |text: &str| Ok(text.to_string());
    assert_eq!(
        told.recv_timeout(PATIENCE).expect("answers"),
        [
            ok("OK"),
            ok("[2 2]"),
            ok("[k v]"),
            ok("2"),
            Err("refused".to_string()),
            ok("true"),
        ]
    );
    eventually("nobody waits for a job", || {
        !node
            .ask(&["CLIENT", "LIST"])
            .expect("clients")
            .contains("cmd=blpop")
    });
}

/// A command that the server does not answer would have the next one's reply.
#[test]
fn what_has_no_reply_is_refused() {
    let redis = RedisServer::start(&[]);
    let node = Node::new(settings(&redis).connections(1));
    let silent = node.begin(&["REPLCONF", "ACK", "0"]);
    assert_eq!(node.ask(&["ECHO", "mine"]), Ok("mine".into()));
    let why = only(&silent).expect_err("it is not asked");
    assert!(why.starts_with("not asked of redis"), "{why}");
}

/// Its own time is its connection's, too.
#[test]
fn who_may_wait_longer_than_block_does() {
    let redis = RedisServer::start(&[]);
    let settings = settings(&redis).block(Duration::from_millis(200));
    let node = Node::new(
        settings
            .reply(Duration::from_millis(300))
            .ping(Duration::from_millis(200)),
    );
    let told = node.post(|cx, tell| {
        let then = move |_: &mut Ctx<'_, Site>, reply| drop(tell.send(answer(reply)));
        let redis = cx.redis("cache").timeout(PATIENCE);
        redis.command(["BLPOP", "jobs", "0"], then);
    });
    std::thread::sleep(Duration::from_secs(3));
    redis.ask(&["rpush", "jobs", "late"]);
    assert_eq!(only(&told), Ok("[jobs late]".into()));
}

/// One panic is one call's.
#[test]
fn who_panics_once_still_hears() {
    let redis = RedisServer::start(&[]);
    let node = Node::of(&redis);
    let told = node.post(|cx, tell| {
        let subscribed = cx.redis("cache").subscribe("panics", move |_, heard| {
            if let Heard::Message(message) = heard {
                assert_ne!(&message.payload[..], b"first", "as it is to be");
                tell.send(message.payload.to_vec()).expect("sent");
            }
        });
        cx.state.subscribed.push(subscribed);
    });
    redis.await_subscribed("panics", 0);
    for data in ["first", "second"] {
        redis.ask(&["publish", "panics", data]);
    }
    assert_eq!(told.recv_timeout(PATIENCE), Ok(b"second".to_vec()));
}

/// Many who hear the same: what comes costs no more for each of them.
#[test]
fn many_hear_the_same() {
    const MANY: usize = 20_000;
    let redis = RedisServer::start(&[]);
    let node = Node::of(&redis);
    let heard = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = heard.clone();
    let told = node.post(move |cx, tell| {
        for _ in 0..MANY {
            let count = count.clone();
            let subscribed = cx.redis("cache").subscribe("news", move |_, heard| {
                if let Heard::Message(_) = heard {
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
            cx.state.subscribed.push(subscribed);
        }
        tell.send(()).expect("sent");
    });
    told.recv_timeout(PATIENCE).expect("subscribed");
    redis.await_subscribed("news", 0);
    let begun = Instant::now();
    redis.ask(&["publish", "news", "x"]);
    while heard.load(std::sync::atomic::Ordering::Relaxed) < MANY {
        assert!(begun.elapsed() < Duration::from_secs(60), "{heard:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let told_in = begun.elapsed();
    let begun = Instant::now();
    node.post(|cx, tell| {
        cx.state.subscribed.clear();
        tell.send(()).expect("sent");
    })
    .recv_timeout(PATIENCE)
    .expect("done");
    redis.await_subscribed("", 0);
    let gone_in = begun.elapsed();
    println!("{MANY}: told in {told_in:?}, gone in {gone_in:?}");
    assert!(
        told_in + gone_in < Duration::from_secs(2),
        "{told_in:?} {gone_in:?}"
    );
}

/// A reload that brings other settings ends what was subscribed to by the old ones, and says so.
#[test]
fn subscriptions_over_a_reload() {
    let redis = RedisServer::start(&[]);
    let app = |settings: Redis| {
        let mut app: App<Site> = App::new();
        app.redis("cache", settings);
        app
    };
    let builder = || Server::builder().listen("127.0.0.1:0");
    let mut server = builder()
        .build(app(settings(&redis)), Site::default())
        .expect("a server");
    let (tell, told) = channel();
    let subscribe = move |cx: &mut Ctx<'_, Site>| {
        let hear = move |_: &mut Ctx<'_, Site>, heard| drop(tell.send(said(heard)));
        let subscribed = cx.redis("cache").subscribe("news", hear);
        cx.state.subscribed.push(subscribed);
    };
    server.handle().post(subscribe).expect("a loop");
    let next = |server: &mut Server<Site>| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            server
                .turn_within(Duration::from_millis(10))
                .expect("a turn");
            if let Ok(said) = told.try_recv() {
                return said;
            }
        }
        "nothing".to_string()
    };
    assert_eq!(next(&mut server), "Subscribed");
    let other = settings(&redis).connections(3);
    server.reload(builder(), app(other)).expect("a reload");
    assert_ne!(next(&mut server), "nothing");
}

/// Who waits for a shorter time than `queue_wait` is told what is wrong, too: there is no connection.
#[test]
fn no_connection_is_said_whoever_is_first_to_lose_patience() {
    let mut redis = RedisServer::start(&[]);
    let node = Node::new(settings(&redis).timeout(Duration::from_millis(300)));
    assert_eq!(node.ask(&["ECHO", "x"]), Ok("x".into()));
    redis.kill();
    eventually("it is noticed", || node.status().open == 0);
    let told = node.post(|cx, tell| {
        let then = move |_: &mut Ctx<'_, Site>, reply: Result<Value, RedisError>| {
            tell.send(reply.map_err(|e| (e.status(), e.to_string())))
                .expect("sent");
        };
        cx.redis("cache").command(["ECHO", "y"], then);
    });
    let (status, why) = only(&told).expect_err("there is no server");
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("refused"), "{why}");
}

/// `WAIT` is about what its own connection has written.
#[test]
fn a_promise_of_replicas_is_not_given_for_another_connection() {
    let redis = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::start(&["--repl-diskless-load", "swapdb"]);
    replica.ask(&["replicaof", "127.0.0.1", &redis.port.to_string()]);
    eventually("it is in step", || {
        redis.ask(&["wait", "1", "100"]).trim() == "1"
    });
    let node = Node::of(&redis);
    // From now on there is a connection for commands that wait.
    let _ = node.ask(&["BLPOP", "none", "0.01"]);
    replica.signal(Signal::STOP);
    assert_eq!(node.ask(&["SET", "k", "v"]), Ok("OK".into()));
    let waited = node.ask(&["WAIT", "1", "500"]);
    assert_ne!(waited, Ok("1".into()), "the replica has stopped");
}

#[test]
fn a_task_publishes_and_changes_what_it_watches() {
    let redis = RedisServer::start(&[]);
    let node = Node::of(&redis);
    let heard = subscribe(&node, "news");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok("Subscribed".into()));
    let told = node.post(|cx, tell| {
        let task = cx.task();
        let asks = async move {
            let cache = task.redis("cache");
            let listeners = cache.publish("news", "it rains").await;
            let doubled = |replies: Vec<Value>| {
                let n: i64 = std::str::from_utf8(replies[0].bytes()?)
                    .ok()?
                    .parse()
                    .ok()?;
                Some(vec![Command::from(("SET", "n", 2 * n))])
            };
            let nothing = cache.watch(["n"], [["GET", "n"]], doubled).await;
            let set = cache.command(["SET", "n", "21"]).await;
            let done = cache.watch(["n"], [["GET", "n"]], doubled).await;
            let n = cache.command(["GET", "n"]).await;
            let all = (
                listeners.ok(),
                nothing.ok().map(|none| none.is_none()),
                answer(set),
                done.ok().flatten().is_some(),
                answer(n),
            );
            tell.send(all).expect("sent");
        };
        drop(cx.spawn(asks).expect("room for a task"));
    });
    let ok = |text: &str| Ok(text.to_string());
    assert_eq!(
        told.recv_timeout(PATIENCE).expect("answers"),
        (Some(1), Some(true), ok("OK"), true, ok("42"))
    );
    assert_eq!(heard.recv_timeout(PATIENCE), Ok("news it rains".into()));
}

/// What we do not take is no failure of the server's: nobody else waits for the pauses that those have.
#[test]
fn replies_that_are_too_large_are_no_outage() {
    let redis = RedisServer::start(&[]);
    redis.ask(&["set", "large", &"x".repeat(2000)]);
    let bounds = Bounds {
        bulk: 1000,
        ..Bounds::default()
    };
    let settings = settings(&redis).retry(Duration::from_secs(10));
    let node = Node::new(settings.timeout(PATIENCE).connections(1).bounds(bounds));
    let mut longest = Duration::ZERO;
    for _ in 0..12 {
        let why = node.ask(&["GET", "large"]).expect_err("it is too large");
        assert!(why.contains("(bulk)"), "{why}");
        let begun = Instant::now();
        assert_eq!(node.ask(&["ECHO", "x"]), Ok("x".into()));
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
