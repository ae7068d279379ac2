//! Publications between processes: through a Redis that is started here, killed and started again, and between
//! servers that are introduced to each other. Each server here runs on a thread of its own, as in a process.

mod server;

use log::{LevelFilter, Log, Metadata, Record};
use loopwright::proto::bus::link::{Limits as MachineLimits, Link as Machine};
use loopwright::service::bus::{BusLimits, Redis, RedisSettings, Stats, Workers};
use loopwright::{App, Bus, Ctx, Handle, Limits, Link, LinkHandle, Message, Server, Timeouts};
use rustix::process::Signal;
use server::{PATIENCE, RedisServer, eventually};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Once, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// What all servers of this file have logged; told apart by the port of their Redis.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        self.0.lock().expect("the log").push(line);
    }
    fn flush(&self) {}
}

fn logged(part: &str) -> Vec<String> {
    let lines = LINES.0.lock().expect("the log");
    lines
        .iter()
        .filter(|line| line.contains(part))
        .cloned()
        .collect()
}

/// A server's state.
struct Site {
    stats: Stats,
    ticks: u64,
}

/// Topic, text.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// A server on a thread of its own.
struct Node {
    handle: Handle<Site>,
    thread: Option<JoinHandle<()>>,
    heard: Heard,
}

impl Node {
    fn with<B: Bus<Site>>(make: impl FnOnce() -> (B, Stats) + Send + 'static) -> Node {
        static LOGGER: Once = Once::new();
        LOGGER.call_once(|| {
            log::set_logger(&LINES).expect("the only logger");
            log::set_max_level(LevelFilter::Info);
        });
        let (tell, told) = mpsc::channel();
        let run = move || {
            let (bus, stats) = make();
            let mut app = App::new();
            app.bus(bus);
            // A link is not cut by what cuts clients.
            let builder = Server::builder().listen("127.0.0.1:0").timeouts(Timeouts {
                write: Duration::from_millis(200),
                ..Timeouts::default()
            });
            let mut server = builder
                .build(app, Site { stats, ticks: 0 })
                .expect("a server");
            tell.send(server.handle()).expect("sent");
            server.run().expect("a good end");
        };
        let thread = std::thread::spawn(run);
        let handle = told.recv_timeout(PATIENCE).expect("a server");
        let heard = Heard::default();
        Node {
            handle,
            thread: Some(thread),
            heard,
        }
    }

    fn redis(url: &str, settings: RedisSettings) -> Node {
        let url = url.parse().expect("a URL");
        Node::with(move || {
            let bus = Redis::new(url, settings);
            let stats = bus.stats();
            (bus, stats)
        })
    }

    fn worker(limits: BusLimits) -> Node {
        Node::with(move || {
            let bus = Workers::new(limits);
            let stats = bus.stats();
            (bus, stats)
        })
    }

    /// Does something on the loop.
    fn ask<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Ctx<'_, Site>) -> T + Send + 'static,
    ) -> T {
        let (tell, told) = mpsc::channel();
        let post = self.handle.post(move |cx| {
            let _ = tell.send(f(cx));
        });
        post.expect("a running server");
        told.recv_timeout(PATIENCE).expect("an answer")
    }

    fn listen(&self, pattern: &'static str) {
        let heard = self.heard.clone();
        self.ask(move |cx| {
            let listening = cx.on_publish(pattern, move |_, publication| {
                let kind = match publication.message() {
                    Message::Text(text) => text.to_string(),
                    Message::Binary(bytes) => format!("{bytes:?}"),
                };
                let heard = &mut heard.lock().expect("what was heard");
                heard.push((publication.topic().to_string(), kind));
            });
            listening.expect("a pattern");
        });
    }

    fn publish(&self, topic: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.ask(move |cx| cx.publish(topic, &text))
            .expect("published");
    }

    fn heard(&self) -> Vec<(String, String)> {
        self.heard.lock().expect("what was heard").clone()
    }

    fn heard_on(&self, topic: &str) -> Vec<String> {
        let heard = self.heard().into_iter();
        heard
            .filter(|(at, _)| at == topic)
            .map(|(_, text)| text)
            .collect()
    }

    /// Publishes 1, 2, 3 … from now on, every millisecond.
    fn count_on(&self, topic: &'static str) {
        self.ask(move |cx| {
            cx.every(Duration::from_millis(1), move |cx| {
                cx.state.ticks += 1;
                let text = cx.state.ticks.to_string();
                cx.publish(topic, &text).expect("room");
            });
        });
    }

    fn stats(&self) -> (u64, u64, u64) {
        self.ask(|cx| {
            let stats = &cx.state.stats;
            (stats.lost(), stats.unconfirmed(), stats.missed())
        })
    }

    fn await_connections(&self, n: usize) {
        eventually(&format!("{n} connections"), || {
            self.ask(|cx| cx.state.stats.connections()) == n
        });
    }

    fn stop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .collect()
}

/// Numbers, rising: nothing twice, nothing out of order. Returns how many of those between are not there.
#[track_caller]
fn holes(numbers: &[String]) -> u64 {
    let numbers: Vec<u64> = numbers
        .iter()
        .map(|n| n.parse().expect("a number"))
        .collect();
    assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{numbers:?}");
    match (numbers.first(), numbers.last()) {
        (Some(first), Some(last)) => last - first + 1 - numbers.len() as u64,
        _ => 0,
    }
}

#[test]
fn servers_hear_each_other_through_redis() {
    let redis = RedisServer::start(&[]);
    let [a, b] = [(); 2].map(|()| Node::redis(&redis.url(), RedisSettings::default()));
    a.listen("rooms/7");
    b.listen("rooms/*");
    b.listen("rooms/7");
    b.listen("**");
    redis.await_subscribed("loopwright:rooms/7", 2);
    let both = "loopwright:rooms/7\n2\n";
    eventually("both are subscribed", || {
        redis.ask(&["pubsub", "numsub", "loopwright:rooms/7"]) == both
    });
    a.publish("rooms/7", "from a");
    // Each closure of each server once, and nobody's own through Redis again.
    let twice = [("rooms/7", "from a"); 3];
    eventually("b hears it", || b.heard() == pairs(&twice));
    b.publish("rooms/7", "from b");
    let both = [("rooms/7", "from a"), ("rooms/7", "from b")];
    eventually("a hears it", || a.heard() == pairs(&both));
    // Bytes stay bytes, even if they could be text.
    a.ask(|cx| cx.publish("rooms/8", &b"\x01"[..]))
        .expect("published");
    eventually("b hears bytes", || b.heard_on("rooms/8") == ["[1]", "[1]"]);
    // Somebody else, with nothing of ours.
    assert_eq!(
        redis
            .ask(&["publish", "loopwright:rooms/7", "from a shell"])
            .trim(),
        "4"
    );
    eventually("a hears the shell", || a.heard_on("rooms/7").len() == 3);
    assert_eq!(a.heard_on("rooms/7")[2], "from a shell");
    redis.ask(&["publish", "other:rooms/7", "not for us"]);
    // A topic that is none is not delivered.
    redis.ask(&["publish", "loopwright:rooms//", "no topic"]);
    eventually("it is counted", || b.stats() == (0, 0, 1));
    assert!(!b.heard().iter().any(|(_, text)| text == "not for us"));
    assert_eq!(b.heard_on("rooms/7").len(), 9);
}

#[test]
fn only_what_is_wanted_is_subscribed_to() {
    let redis = RedisServer::start(&[]);
    let a = Node::redis(
        &redis.url(),
        RedisSettings {
            prefix: "app:".into(),
            ..Default::default()
        },
    );
    let ids = a.ask(|cx| {
        ["x", "x", "x/*", "x/**"]
            .map(|pattern| cx.on_publish(pattern, |_, _| ()).expect("a pattern"))
    });
    // `x/*` and `x/**` are one pattern of Redis'.
    redis.await_subscribed("app:x", 1);
    let [one, another, single, all] = ids;
    a.ask(move |cx| cx.stop_listening(one));
    a.ask(move |cx| cx.stop_listening(single));
    redis.await_subscribed("app:x", 1);
    a.ask(move |cx| cx.stop_listening(another));
    redis.await_subscribed("", 1);
    a.ask(move |cx| cx.stop_listening(all));
    redis.await_subscribed("", 0);
}

#[test]
fn a_redis_that_is_killed_and_comes_back() {
    let mut redis = RedisServer::start(&[]);
    let small = BusLimits {
        queue: 100,
        ..BusLimits::default()
    };
    let settings = RedisSettings {
        limits: small,
        retry: Duration::from_millis(500),
        ..RedisSettings::default()
    };
    let [mut a, b] = [(); 2].map(|()| Node::redis(&redis.url(), settings.clone()));
    a.listen("count");
    b.listen("count");
    redis.await_subscribed("loopwright:count", 0);
    a.count_on("count");
    eventually("b hears", || b.heard().len() > 200);
    redis.kill();
    let address = format!("localhost:{} is away", redis.port);
    eventually("it is noticed", || logged(&address).len() == 2);
    // Local delivery goes on.
    let (before, at_b) = (a.heard().len(), b.heard().len());
    eventually("a hears itself", || a.heard().len() > before + 500);
    assert_eq!(b.heard().len(), at_b);
    redis.start_again();
    eventually("b hears again", || b.heard().len() > at_b + 500);
    // Once more, for the subscriptions of the second connection.
    redis.kill();
    eventually("it is noticed again", || logged(&address).len() == 4);
    redis.start_again();
    let at_b = b.heard().len();
    eventually("b hears once more", || b.heard().len() > at_b + 500);

    assert_eq!(holes(&a.heard_on("count")), 0, "every one, once, in order");
    let lost = a.stats().0;
    assert!(lost > 200, "{lost}");
    eventually("b has counted", || {
        holes(&b.heard_on("count")) == b.stats().2
    });
    let missed = b.stats().2;
    // What a has lost, and what it sent before b was back.
    assert!(lost <= missed, "{lost} {missed}");
    let summaries = logged(&format!("localhost:{} was away", redis.port));
    assert_eq!(summaries.len(), 2, "{summaries:?}");
    let told: u64 = summaries
        .iter()
        .map(|line| {
            line.split(", ")
                .nth(1)
                .expect("how many")
                .split(' ')
                .next()
                .expect("a number")
        })
        .map(|n| n.parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(told, lost, "{summaries:?}");
    a.stop();
}

#[test]
fn a_redis_that_says_nothing_is_given_up() {
    let redis = RedisServer::start(&[]);
    let settings = RedisSettings {
        idle: Duration::from_millis(100),
        reply: Duration::from_millis(300),
        retry: Duration::from_millis(200),
        ..RedisSettings::default()
    };
    let a = Node::redis(&redis.url(), settings);
    // More patient.
    let b = Node::redis(&redis.url(), RedisSettings::default());
    a.listen("count");
    b.listen("count");
    a.await_connections(1);
    b.await_connections(1);
    // Silence alone is none: it is asked, and answers.
    std::thread::sleep(Duration::from_millis(700));
    let away = format!("localhost:{} is away", redis.port);
    assert_eq!(logged(&away), Vec::<String>::new());
    redis.signal(Signal::STOP);
    a.publish("count", "1");
    a.await_connections(0);
    eventually("it is told why", || {
        logged(&away)
            .iter()
            .any(|line| line.contains("has not replied within 300ms; 1 publications"))
    });
    assert_eq!(a.stats().1, 1);
    a.publish("count", "2");
    eventually("a hears itself", || a.heard_on("count") == ["1", "2"]);
    redis.signal(Signal::CONT);
    a.await_connections(1);
    // What waited is sent.
    eventually("b hears it", || {
        b.heard_on("count").last().is_some_and(|last| last == "2")
    });
    redis.await_subscribed("loopwright:count", 0);
}

#[test]
fn a_password_is_told_to_redis_and_to_nobody_else() {
    let redis = RedisServer::start(&["--requirepass", "s3cret"]);
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}/1", redis.port);
    let a = Node::redis(&url("s3cret"), RedisSettings::default());
    a.await_connections(1);
    let b = Node::redis(&url("wr0ng"), RedisSettings::default());
    let away = format!("127.0.0.1:{} is away", redis.port);
    eventually("it is refused", || logged(&away).len() == 1);
    assert!(
        logged(&away)[0].contains("refuses HELLO"),
        "{:?}",
        logged(&away)
    );
    assert_eq!(b.ask(|cx| cx.state.stats.connections()), 0);
    assert!(logged("s3cret").is_empty() && logged("wr0ng").is_empty());
}

/// Of a publication that is too long, and of more than a slow connection takes.
#[test]
fn what_is_too_much_for_redis_is_lost_and_counted() {
    let redis = RedisServer::start(&[]);
    let limits = BusLimits {
        publication: 1000,
        ..BusLimits::default()
    };
    let settings = RedisSettings {
        limits,
        ..RedisSettings::default()
    };
    let [a, b] = [(); 2].map(|()| Node::redis(&redis.url(), settings.clone()));
    b.listen("x");
    redis.await_subscribed("loopwright:x", 0);
    a.await_connections(1);
    a.publish("x", "-".repeat(1001));
    a.publish("x", "-".repeat(1000));
    eventually("the other arrives", || b.heard_on("x").len() == 1);
    assert_eq!(b.heard_on("x")[0].len(), 1000);
    assert_eq!((a.stats(), b.stats()), ((1, 0, 0), (0, 0, 0)));
}

/// Introduces two servers to each other.
fn introduce(a: &Node, b: &Node) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    a.ask(|cx| cx.introduce(ours));
    b.ask(|cx| cx.introduce(theirs));
}

/// Publishes until it is heard: the other side may not have said yet what it wants.
fn until_met(from: &Node, to: &Node) {
    let text = format!("{:?}", std::time::Instant::now());
    eventually("they have met", || {
        from.publish("rooms/probe", &*text);
        to.heard_on("rooms/probe").contains(&text)
    });
}

#[test]
fn workers_hear_each_other() {
    let [a, b, mut c] = [(); 3].map(|()| Node::worker(BusLimits::default()));
    // Before and after they have met.
    a.listen("rooms/*");
    for (one, other) in [(&a, &b), (&a, &c), (&b, &c)] {
        introduce(one, other);
    }
    b.listen("rooms/**");
    b.listen("rooms/7");
    let both = |cx: &mut Ctx<'_, Site>| cx.state.stats.connections() == 2;
    eventually("they have met", || {
        [&a, &b, &c].iter().all(|node| node.ask(both))
    });
    for (from, to) in [(&c, &a), (&c, &b), (&a, &b)] {
        until_met(from, to);
    }
    for n in 0..1000 {
        c.publish("rooms/7", n.to_string());
    }
    let all: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    eventually("a has heard", || a.heard_on("rooms/7").len() >= 1000);
    assert_eq!(a.heard_on("rooms/7"), all);
    eventually("b has heard", || b.heard_on("rooms/7").len() >= 2000);
    assert_eq!(b.heard_on("rooms/7").len(), 2000);
    a.ask(|cx| cx.publish("rooms/8", &b"\x01"[..]))
        .expect("published");
    eventually("b hears bytes", || b.heard_on("rooms/8") == ["[1]"]);

    // One goes, and comes again as another.
    c.stop();
    a.await_connections(1);
    a.publish("rooms/7", "without c");
    let c = Node::worker(BusLimits::default());
    c.listen("rooms/*");
    introduce(&c, &a);
    introduce(&b, &c);
    c.await_connections(2);
    until_met(&b, &c);
    until_met(&c, &a);
    b.publish("rooms/7", "with c");
    eventually("c hears b", || c.heard_on("rooms/7") == ["with c"]);
    eventually("and a", || a.heard_on("rooms/7").len() == 1002);
    c.publish("rooms/7", "from c");
    eventually("a hears c", || a.heard_on("rooms/7").len() == 1003);
    assert_eq!(
        a.heard_on("rooms/7")[1000..],
        ["without c", "with c", "from c"]
    );
}

/// A worker that takes nothing: what is for it waits, up to a limit, and the others do not notice.
#[test]
fn a_stuck_worker_costs_the_others_nothing() {
    let limits = BusLimits {
        queue_size: 1 << 20,
        ..BusLimits::default()
    };
    let [a, b] = [(); 2].map(|()| Node::worker(limits));
    introduce(&a, &b);
    b.listen("big");
    let (ours, mut stuck) = UnixStream::pair().expect("a pair");
    a.ask(|cx| cx.introduce(ours));
    stuck
        .write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$3\r\nbig\r\n")
        .expect("sent");
    let mut confirmation = [0; 32];
    stuck.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stuck.read_exact(&mut confirmation).expect("confirmed");
    assert_eq!(
        &confirmation,
        b">3\r\n$9\r\nsubscribe\r\n$3\r\nbig\r\n:1\r\n"
    );
    // b's wish may come later.
    eventually("b hears", || {
        a.publish("big", "-");
        !b.heard().is_empty()
    });
    let before = b.heard().len();
    let kilobytes = "-".repeat(64 * 1024);
    for n in 0..160 {
        a.publish("big", kilobytes.clone());
        // As fast as b takes them, and not as the other does not.
        eventually("b hears all", || b.heard().len() > before + n);
    }
    let lost = a.stats().0;
    assert!((100..160).contains(&lost), "{lost} of 160");
    // Longer than timeouts.write of clients; then it reads again.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(a.ask(|cx| cx.state.stats.connections()), 2);
    let reader = std::thread::spawn(move || {
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while !bytes.ends_with(b"the last\r\n") {
            let n = stuck.read(&mut piece).expect("more");
            assert!(n > 0, "closed");
            bytes.extend_from_slice(&piece[..n]);
        }
        bytes.windows(8).filter(|part| part == b"message\r").count()
    });
    // When there is room again.
    eventually("it is over", || {
        a.publish("big", "the last");
        reader.is_finished()
    });
    let came = reader.join().expect("a reader");
    assert!(came > (160 - lost) as usize, "{came}");
    eventually("the log tells", || !logged("workers bus: ").is_empty());
}

/// One that reads nothing while subscriptions come and go is told of what is left of them, not of each.
#[test]
fn a_stuck_worker_is_told_later_what_is_wanted() {
    let a = Node::worker(BusLimits {
        queue_size: 64 * 1024,
        publication: 1024,
        ..BusLimits::default()
    });
    let (ours, mut stuck) = UnixStream::pair().expect("a pair");
    a.listen("from the beginning/*");
    let before = a.ask(|cx| cx.on_publish("before", |_, _| ()).expect("a pattern"));
    a.ask(|cx| cx.introduce(ours));
    a.await_connections(1);
    a.listen("stays");
    for _ in 0..100 {
        // 200 bytes each, 2 · 100 · 100 times: far more than the kernel and the queue hold.
        a.ask(|cx| {
            for n in 0..100 {
                let pattern = format!("{}/{n}", "-".repeat(200));
                let id = cx.on_publish(&pattern, |_, _| ()).expect("a pattern");
                cx.stop_listening(id);
            }
        });
    }
    a.ask(move |cx| cx.stop_listening(before));
    a.listen("at last");
    assert_eq!(a.ask(|cx| cx.state.stats.connections()), 1);
    stuck
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    let mut machine = Machine::new(MachineLimits::default());
    let (mut piece, mut came) = (vec![0; 1 << 16], 0);
    while let Ok(n @ 1..) = stuck.read(&mut piece) {
        came += n;
        let mut input = &piece[..n];
        while machine
            .poll_event(&mut input)
            .expect("good input")
            .is_some()
        {}
        let n = machine.output().len();
        machine.sent(n);
    }
    assert!(came < 2_000_000, "{came}");
    let theirs = machine.theirs();
    for pattern in ["from the beginning/*", "stays", "at last"] {
        assert!(
            theirs.contains(&pattern.parse().expect("a pattern")),
            "{pattern}"
        );
    }
    assert_eq!(theirs.len(), 3, "{theirs:?}");
    assert_eq!(a.ask(|cx| cx.state.stats.connections()), 1);
}

/// With more patterns than are told, all is told, and each hears what it is subscribed to.
#[test]
fn more_patterns_than_may_be_told() {
    let limits = BusLimits {
        patterns: 2,
        ..BusLimits::default()
    };
    let [a, b] = [(); 2].map(|()| Node::worker(limits));
    b.listen("one");
    introduce(&a, &b);
    b.listen("two");
    b.listen("three");
    b.listen("four");
    eventually("the last is heard", || {
        a.publish("four", "4");
        !b.heard_on("four").is_empty()
    });
    for topic in ["one", "two", "three", "five"] {
        a.publish(topic, topic);
    }
    eventually("each is heard", || {
        ["one", "two", "three"]
            .iter()
            .all(|topic| b.heard_on(topic) == [*topic])
    });
    assert!(b.heard_on("five").is_empty());
    // And told to one that comes later.
    let c = Node::worker(limits);
    introduce(&c, &b);
    eventually("it is heard from c", || {
        c.publish("four", "from c");
        b.heard_on("four").contains(&"from c".to_string())
    });
}

/// Writes until there is no room, and counts how often it is told that there is.
struct Filler(mpsc::Sender<()>);

impl Link<()> for Filler {
    fn open(&mut self, _: &mut Ctx<'_>, handle: LinkHandle) {
        while !handle.is_full() {
            handle.write(vec![b'x'; 64 * 1024]);
        }
    }
    fn input(&mut self, _: &mut Ctx<'_>, _: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
        Ok(())
    }
    fn drained(&mut self, _: &mut Ctx<'_>) {
        let _ = self.0.send(());
    }
    fn close(&mut self, _: &mut Ctx<'_>, _: &str) {}
}

/// What is taken in small pieces is between full and half full at some moment: told of all the same.
#[test]
fn a_link_is_told_of_room_however_it_comes() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let (tell, told) = mpsc::channel();
    let (tell_handle, handle) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let limits = Limits {
            high_water: 4 << 20,
            socket_output: 4 << 20,
            ..Limits::default()
        };
        let builder = Server::builder().listen("127.0.0.1:0").limits(limits);
        let mut server = builder.build(App::new(), ()).expect("a server");
        tell_handle.send(server.handle()).expect("sent");
        server.run().expect("a good end");
    });
    let handle = handle.recv_timeout(PATIENCE).expect("a server");
    let filler = Filler(tell);
    handle
        .post(move |cx| cx.adopt(ours, filler))
        .expect("posted");
    let mut piece = vec![0; 64 * 1024];
    for _ in 0..16 {
        theirs.read_exact(&mut piece).expect("a piece");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(
        told.try_recv(),
        Err(mpsc::TryRecvError::Empty),
        "not half of it"
    );
    for _ in 0..48 {
        theirs.read_exact(&mut piece).expect("a piece");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(told.recv_timeout(PATIENCE), Ok(()));
    handle.stop();
    thread.join().expect("no panic");
    assert!(told.try_recv().is_err(), "once");
}
