//! Workers that hear each other: real processes, started by a parent as `loopwright run` starts them. This
//! program is the parent, each of the workers, and the test that talks to them: a WebSocket to each worker,
//! which is told the worker's process id, publishes what it says and hears what is published.

#[allow(dead_code)]
#[path = "bus/server.rs"]
mod server;

use loopwright::config::Config;
use loopwright::process::bond::Bond;
use loopwright::process::log as logs;
use loopwright::process::serve::{Source, log_settings, serve};
use loopwright::process::{Signals, workers};
use loopwright::{Ctx, Message, Socket, WebSocket};
use rustix::process::{Pid, Signal, kill_process};
use server::{PATIENCE, RedisServer};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tungstenite::protocol::Role;

/// Names the config to whom is to be parent or worker.
const CONFIG: &str = "BUS_WORKERS_CONFIG";
const WORKERS: usize = 3;

struct Member;

impl Socket for Member {
    fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
        cx.subscribe(ws, "room").expect("a pattern");
        ws.send(&*format!("pid {}", std::process::id()));
    }
    fn message(&mut self, cx: &mut Ctx<'_>, _: &mut WebSocket<'_>, message: Message<'_>) {
        // What is long is for the other processes: no reader here has to take it.
        match message.as_bytes().len() {
            0..100 => cx.publish("room", message),
            _ => cx.publish("big", message),
        }
        .expect("room");
    }
}

/// The parent, or a worker.
fn run(path: &Path) -> u8 {
    let signals = Signals::register().expect("signals");
    let bond = Bond::find(path).expect("a bond");
    let config = match &bond {
        Some(bond) => bond.config(),
        None => Config::load(path),
    };
    let config = config.expect("a good config");
    logs::init(&log_settings(config.log())).expect("a log");
    let Some(bond) = bond else {
        let announce = |addresses: &[loopwright::Listen]| {
            log::info!(
                "announced {}",
                addresses[0].to_string().trim_start_matches("http://")
            );
        };
        return workers::run(signals, path, &config, announce).expect("workers");
    };
    let (builder, mut app) = config.build().expect("a good config");
    app.sockets("/room", |cx, _, _| {
        // One of the process is enough for what is long.
        if cx.subscribers("big") == 0 {
            let heard = |cx: &mut Ctx<'_>, big: &loopwright::Publication| {
                let text = format!("{} bytes", big.message().as_bytes().len());
                cx.deliver("room", &text).expect("room");
            };
            cx.on_publish("big", heard).expect("a pattern");
        }
        Ok(Member)
    });
    let source = Source::Parent(bond, Box::new(config.bus()));
    serve(signals, builder, app, source, |_| ()).expect("a good end")
}

struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

impl Program {
    fn start(bus: &str) -> Program {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("site.toml");
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nworkers = {WORKERS}\n[bus]\n{bus}\n\
             [timeouts]\nwrite = \"500ms\"\ndrain = \"5s\"\n\
             [[routes]]\npath = \"/\"\nrespond = {{}}\n"
        );
        std::fs::write(&path, config).expect("the config");
        let mut child = Command::new("/proc/self/exe")
            .env(CONFIG, &path)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program");
        let log = Arc::new(Mutex::new(String::new()));
        let (into, stderr) = (
            log.clone(),
            child.stderr.take().expect("its standard error"),
        );
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                into.lock().expect("the log").push_str(&format!("{line}\n"));
            }
        });
        Program {
            child,
            log,
            _folder: folder,
        }
    }

    fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A client of each worker, by its process id.
    fn clients(&self) -> BTreeMap<u32, Client> {
        self.eventually("it listens", || self.log().contains("announced "));
        let log = self.log();
        let address = log
            .split("announced ")
            .nth(1)
            .and_then(|rest| rest.lines().next());
        let address = address.expect("an address").to_string();
        let mut clients = BTreeMap::new();
        self.eventually("a client of each", || {
            // A worker that has just died may still be drawn.
            if let Some(client) = Client::connect(&address) {
                clients.insert(client.pid, client);
            }
            clients.len() == WORKERS
        });
        clients
    }

    /// When its clients have gone.
    fn stop(mut self, clients: BTreeMap<u32, Client>) {
        drop(clients);
        signal(self.child.id(), Signal::TERM);
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}\n{}", self.log());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id");
    kill_process(pid, signal).expect("a living process");
}

struct Client {
    pid: u32,
    ws: tungstenite::WebSocket<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Option<Client> {
        let stream = TcpStream::connect(address).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a timeout");
        let head = "GET /room HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        (&stream).write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            (&stream).read_exact(&mut byte).ok()?;
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
        let ws = tungstenite::WebSocket::from_raw_socket(stream, Role::Client, None);
        let mut client = Client { pid: 0, ws };
        let pid = client.hear()?;
        client.pid = pid.strip_prefix("pid ")?.parse().ok()?;
        Some(client)
    }

    fn say(&mut self, text: &str) {
        self.ws.send(text.to_string().into()).expect("sent");
    }

    /// What comes, if it comes soon.
    fn hear(&mut self) -> Option<String> {
        match self.ws.read() {
            Ok(message) => Some(message.into_text().expect("text").to_string()),
            Err(_) => None,
        }
    }

    /// What comes, up to what is waited for.
    #[track_caller]
    fn hear_until(&mut self, last: &str) -> Vec<String> {
        let (start, mut heard) = (Instant::now(), Vec::new());
        while heard.last().is_none_or(|text| text != last) {
            assert!(
                start.elapsed() < PATIENCE,
                "{last:?} never came, after {heard:?}"
            );
            heard.extend(self.hear());
        }
        heard
    }
}

/// Says it until all have heard it: they may not have met yet.
fn until_met(clients: &mut BTreeMap<u32, Client>) {
    for from in clients.keys().copied().collect::<Vec<_>>() {
        for to in clients.keys().copied().collect::<Vec<_>>() {
            let start = Instant::now();
            let word = format!("from {from} to {to}");
            let mut has_heard = false;
            while !has_heard {
                assert!(start.elapsed() < PATIENCE, "never: {word}");
                clients.get_mut(&from).expect("a client").say(&word);
                let to = clients.get_mut(&to).expect("a client");
                while !has_heard && let Some(text) = to.hear() {
                    has_heard = text == word;
                }
            }
        }
    }
    // What was said more than once: behind it comes this, one after the other, for only what one has
    // published is in order.
    for from in clients.keys().copied().collect::<Vec<_>>() {
        let marker = format!("{from} has met all");
        clients.get_mut(&from).expect("a client").say(&marker);
        for client in clients.values_mut() {
            client.hear_until(&marker);
        }
    }
}

fn others(clients: &mut BTreeMap<u32, Client>, but: u32) -> impl Iterator<Item = &mut Client> {
    clients.values_mut().filter(move |client| client.pid != but)
}

fn workers_hear_each_other_also_after_one_was_killed() {
    let program = Program::start("");
    let mut clients = program.clients();
    until_met(&mut clients);
    let ids: Vec<u32> = clients.keys().copied().collect();
    for from in &ids {
        for n in 0..100 {
            clients
                .get_mut(from)
                .expect("a client")
                .say(&format!("{from}: {n}"));
        }
        let all: Vec<String> = (0..100).map(|n| format!("{from}: {n}")).collect();
        for client in clients.values_mut() {
            assert_eq!(client.hear_until(&all[99]), all, "in order, each once");
        }
    }
    signal(ids[0], Signal::KILL);
    clients.remove(&ids[0]);
    program.eventually("another one listens", || {
        program.log().matches(" listens").count() > WORKERS
    });
    clients = program.clients();
    assert!(!clients.contains_key(&ids[0]));
    until_met(&mut clients);
    program.stop(clients);
}

fn a_stopped_worker_does_not_hold_up_the_others() {
    let program = Program::start("queue_size = \"2MiB\"");
    let mut clients = program.clients();
    until_met(&mut clients);
    let stopped = *clients.keys().next().expect("one");
    signal(stopped, Signal::STOP);
    // More than the kernel and the queue hold, and for longer than timeouts.write of clients.
    let big = "-".repeat(100_000);
    let start = Instant::now();
    for n in 0..60 {
        others(&mut clients, stopped)
            .next()
            .expect("another")
            .say(&big);
        for client in others(&mut clients, stopped) {
            assert_eq!(client.hear_until("100000 bytes").len(), 1, "{n}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() > Duration::from_millis(1100) && start.elapsed() < PATIENCE);
    program.eventually("it is told", || {
        program.log().contains("publications from here were lost")
    });
    signal(stopped, Signal::CONT);
    // It hears some of them, and is one of them again.
    let late = clients
        .get_mut(&stopped)
        .expect("a client")
        .hear_until("100000 bytes");
    assert_eq!(late.len(), 1);
    until_met(&mut clients);
    assert!(
        !program.log().contains("not spoken to any more"),
        "{}",
        program.log()
    );
    program.stop(clients);
}

fn without_a_bus_each_is_alone() {
    let program = Program::start("workers = false");
    let mut clients = program.clients();
    let word = "is anybody there?";
    let one = *clients.keys().next().expect("one");
    clients.get_mut(&one).expect("a client").say(word);
    assert_eq!(
        clients.get_mut(&one).expect("a client").hear_until(word),
        [word]
    );
    for client in others(&mut clients, one) {
        assert_eq!(client.hear(), None);
    }
    program.stop(clients);
}

/// Each worker has a connection of its own, and no links to the others.
fn workers_hear_each_other_and_other_servers_through_redis() {
    let redis = RedisServer::start(&[]);
    let bus = format!("redis = \"redis://127.0.0.1:{}\"", redis.port);
    let [here, there] = [(); 2].map(|()| Program::start(&bus));
    let (mut clients, more) = (here.clients(), there.clients());
    clients.extend(more);
    assert_eq!(clients.len(), 2 * WORKERS);
    until_met(&mut clients);
    let names = redis
        .ask(&["client", "list"])
        .matches("name=loopwright ")
        .count();
    assert_eq!(names, 2 * WORKERS);
    let from = *clients.keys().next().expect("one");
    let all: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for text in &all {
        clients.get_mut(&from).expect("a client").say(text);
    }
    for client in clients.values_mut() {
        assert_eq!(client.hear_until(&all[99]), all, "in order, each once");
    }
    here.stop(clients);
    there.stop(BTreeMap::new());
}

fn main() {
    if let Some(path) = std::env::var_os(CONFIG) {
        std::process::exit(run(Path::new(&path)).into());
    }
    let tests: [(&str, fn()); 4] = [
        (
            "workers_hear_each_other_also_after_one_was_killed",
            workers_hear_each_other_also_after_one_was_killed,
        ),
        (
            "a_stopped_worker_does_not_hold_up_the_others",
            a_stopped_worker_does_not_hold_up_the_others,
        ),
        (
            "workers_hear_each_other_and_other_servers_through_redis",
            workers_hear_each_other_and_other_servers_through_redis,
        ),
        ("without_a_bus_each_is_alone", without_a_bus_each_is_alone),
    ];
    // As the usual harness: names that are given choose.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part)) {
            test();
            println!("test {name} ... ok");
        }
    }
}
