//! The binary as an operator runs it: several workers, signals, a config that changes under load. Each
//! test starts real processes on free ports, and ends them by their ids.

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes: past it a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

fn pid(id: u32) -> Pid {
    Pid::from_raw(id as i32).expect("a process id")
}

/// Waits until something is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program, running a config in a folder of its own.
struct Program {
    folder: TempDir,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    fn start(config: &str) -> Program {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("site.toml");
        std::fs::write(&path, config).expect("the config");
        let (child, log) = spawn(&path);
        Program { folder, child, log }
    }

    /// Writes another config, and has it read.
    fn reload(&self, config: &str) {
        self.write(config);
        self.signal(Signal::HUP);
    }

    fn write(&self, config: &str) {
        let path = self.folder.path().join("site.toml");
        std::fs::write(path, config).expect("the config");
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).expect("a living process");
    }

    fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    fn await_log(&self, text: &str) {
        self.await_log_times(text, 1);
    }

    fn await_log_times(&self, text: &str, times: usize) {
        let start = Instant::now();
        while self.log().matches(text).count() < times {
            let log = self.log();
            assert!(start.elapsed() < PATIENCE, "never logged: {text:?}\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it listens, once it does.
    fn address(&self) -> SocketAddr {
        self.await_log("listening on ");
        let log = self.log();
        let address = log
            .split("listening on http://")
            .nth(1)
            .expect("an address");
        address
            .lines()
            .next()
            .and_then(|a| a.parse().ok())
            .expect("an address")
    }

    /// Process ids of the workers, in the order in which they began to listen, once so many have.
    fn workers(&self, count: usize) -> Vec<u32> {
        self.await_log_times(" listens", count);
        let log = self.log();
        let ready = log.lines().filter(|line| line.ends_with(" listens"));
        ready
            .filter_map(|line| line.split("(pid ").nth(1)?.split(')').next()?.parse().ok())
            .collect()
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it does not end\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0), "{}", self.log());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its workers leave when it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config: &Path) -> (Child, Arc<Mutex<String>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loopwright"));
    collect(command.arg("run").arg("-c").arg(config))
}

/// Starts it, and collects what it says on standard error.
fn collect(command: &mut Command) -> (Child, Arc<Mutex<String>>) {
    let mut child = command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let log = Arc::new(Mutex::new(String::new()));
    let stderr = child.stderr.take().expect("its standard error");
    let into = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            into.lock().expect("the log").push_str(&format!("{line}\n"));
        }
    });
    (child, log)
}

/// One route, with this body.
fn site(workers: usize, body: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = {workers}\n\
         [timeouts]\ndrain = \"5s\"\ndrain_idle = \"100ms\"\n\
         [[routes]]\npath = \"/\"\nrespond = {{ body = \"{body}\" }}\n"
    )
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> std::io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(BufReader::new(stream)))
    }

    /// Status and body.
    fn get(&mut self, path: &str) -> std::io::Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let early = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(early());
            }
            if let Some(code) = line.strip_prefix("HTTP/1.1 ") {
                status = code[..3].parse().map_err(|_| early())?;
            }
            if let Some(n) = line.strip_prefix("content-length: ") {
                length = n.trim().parse().map_err(|_| early())?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut client = Client::connect(address).expect("a connection");
    client.get(path).expect("an answer")
}

/// Clients that ask again and again, every other one on a connection that it keeps.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(address: SocketAddr, clients: usize) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            answered: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        for n in 0..clients {
            let (stop, answered) = (load.stop.clone(), load.answered.clone());
            let failed = load.failed.clone();
            load.threads.push(std::thread::spawn(move || {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    let mut ask = || -> std::io::Result<Client> {
                        let mut client = match kept.take() {
                            Some(client) => client,
                            None => Client::connect(address)?,
                        };
                        let (status, body) = client.get("/")?;
                        let is_right = status == 200 && ["old", "new"].contains(&body.as_str());
                        assert!(is_right, "{status} {body}");
                        Ok(client)
                    };
                    match ask() {
                        Ok(client) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            kept = Some(client).filter(|_| n % 2 == 0);
                        }
                        Err(e) => failed.lock().expect("the list").push(e.to_string()),
                    }
                }
            }));
        }
        load
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    fn go_on(&self, more: usize) {
        let before = self.answered();
        eventually("more answers", || self.answered() >= before + more);
    }

    /// What went wrong.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let failed = self.failed.lock().expect("the list");
        failed.clone()
    }
}

/// Sockets a process has open.
fn sockets(id: u32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{id}/fd")).expect("a living process");
    fds.flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// The inodes of the sockets that listen on a port of 127.0.0.1.
fn listeners(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let wanted = format!("0100007F:{port:04X}");
    let mut inodes: Vec<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.get(3) == Some(&"0A") && columns[1] == wanted)
        .map(|columns| columns[9].to_string())
        .collect();
    inodes.sort();
    inodes
}

fn is_alive(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    test_kill_process(pid(id)).is_ok() && !stat.contains(") Z ")
}

#[test]
fn workers_share_the_connections() {
    let program = Program::start(&site(3, "old"));
    let address = program.address();
    let workers = program.workers(3);
    assert_eq!(workers.len(), 3, "{}", program.log());
    let before: Vec<usize> = workers.iter().map(|&id| sockets(id)).collect();
    let mut clients: Vec<Client> = (0..90)
        .map(|_| Client::connect(address).expect("a connection"))
        .collect();
    for client in &mut clients {
        assert_eq!(client.get("/").expect("an answer"), (200, "old".into()));
    }
    let each: Vec<usize> = workers
        .iter()
        .zip(before)
        .map(|(&id, before)| sockets(id) - before)
        .collect();
    assert_eq!(each.iter().sum::<usize>(), 90);
    // A fair spread is 30 each; the kernel's hash is not that even.
    assert!(each.iter().all(|&n| n >= 10), "{each:?}");
    drop(clients);
    program.stop();
}

#[test]
fn a_killed_worker_is_replaced_and_the_others_go_on() {
    let program = Program::start(&site(3, "old"));
    let address = program.address();
    let load = Load::on(address, 8);
    load.go_on(200);
    let victim = program.workers(3)[0];
    kill_process(pid(victim), Signal::KILL).expect("a living worker");
    program.await_log("was killed by signal 9; another one starts in 100 ms");
    load.go_on(500);
    program.await_log_times(" listens", 4);
    load.go_on(200);
    let failed = load.end();
    // Each client may have been in the middle of one request with the victim, and one more may have
    // waited in its queue.
    assert!(failed.len() <= 16, "{} failures: {failed:?}", failed.len());
    assert_eq!(listeners(address.port()).len(), 3);
    program.stop();
}

#[test]
fn the_pause_before_another_start_grows() {
    let program = Program::start(&site(2, "old"));
    program.address();
    for (death, pause) in [100, 200, 400].into_iter().enumerate() {
        let victim = *program.workers(2 + death).last().expect("a worker");
        kill_process(pid(victim), Signal::KILL).expect("a living worker");
        program.await_log(&format!("another one starts in {pause} ms"));
        program.await_log_times(" listens", 3 + death);
    }
    program.stop();
}

#[test]
fn workers_leave_when_their_parent_is_killed() {
    let mut program = Program::start(&site(2, "old"));
    program.address();
    let workers = program.workers(2);
    program.child.kill().expect("a living parent");
    program.wait();
    eventually("workers without a parent leave", || {
        !workers.iter().any(|&id| is_alive(id))
    });
}

#[test]
fn a_reload_under_load_fails_no_request() {
    for workers in [1, 2] {
        let program = Program::start(&site(workers, "old"));
        let address = program.address();
        let mut kept = Client::connect(address).expect("a connection");
        assert_eq!(kept.get("/").expect("an answer").1, "old");
        let before = listeners(address.port());
        assert_eq!(before.len(), workers);
        let load = Load::on(address, 6);
        for round in 1..=3 {
            load.go_on(100);
            let body = if round % 2 == 1 { "new" } else { "old" };
            program.reload(&site(workers, body));
            program.await_log_times("the config has been read again", round * workers);
            // On a connection from before, too.
            assert_eq!(kept.get("/").expect("an answer").1, body);
        }
        load.go_on(100);
        assert_eq!(load.end(), Vec::<String>::new(), "workers = {workers}");
        assert_eq!(
            listeners(address.port()),
            before,
            "the listeners are others"
        );
        program.stop();
    }
}

#[test]
fn a_bad_config_is_reported_and_the_old_one_stays() {
    for workers in [1, 2] {
        let program = Program::start(&site(workers, "old"));
        let address = program.address();
        program.reload("[server]\nlisen = \"127.0.0.1:0\"\n");
        program.await_log("the config stays as it was");
        assert!(program.log().contains("site.toml:2:1"), "{}", program.log());
        assert!(program.log().contains("did you mean `listen`?"));
        assert_eq!(get(address, "/"), (200, "old".into()));
        program.stop();
    }
}

#[test]
fn a_reload_swaps_routes_and_limits() {
    let program = Program::start(&site(1, "old"));
    let address = program.address();
    let mut kept = Client::connect(address).expect("a connection");
    assert_eq!(kept.get("/more").expect("an answer").0, 404);
    let more = "[[routes]]\npath = \"/more\"\nrespond = { status = 203, body = \"more\" }\n";
    program.reload(&format!(
        "{}{more}[limits]\ntarget = \"64B\"\nhead = \"1KiB\"\n",
        site(1, "new")
    ));
    program.await_log("the config has been read again");
    assert_eq!(kept.get("/more").expect("an answer"), (203, "more".into()));
    assert_eq!(get(address, &format!("/{}", "x".repeat(80))).0, 414);
    program.await_log("limits.target = 64");
    program.stop();
}

#[test]
fn a_reload_does_not_change_the_bus() {
    for workers in [1, 2] {
        let program = Program::start(&site(workers, "before"));
        let address = program.address();
        let bus = "[bus]\nredis = \"redis://127.0.0.1:1\"\n";
        program.reload(&format!("{bus}{}", site(workers, "after")));
        program.await_log("another [bus] needs a restart");
        program.await_log("the config stays as it was");
        assert_eq!(get(address, "/"), (200, "before".to_string()));
        program.reload(&site(workers, "after"));
        eventually("the rest is read", || get(address, "/").1 == "after");
        program.stop();
    }
}

/// Follows a channel as server-sent events: begun, when this returns.
fn follow(address: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = "GET /rooms/7 HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("asked");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer");
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    reader
}

fn post(address: SocketAddr, text: &str) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let length = text.len();
    let request = format!(
        "POST /rooms/7 HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{text}"
    );
    stream.write_all(request.as_bytes()).expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
}

/// So many followers that each worker has some, and what is posted to one of the workers comes to all.
#[test]
fn a_channel_is_one_for_all_workers() {
    let site = |workers| {
        format!(
            "{}[[routes]]\npath = \"/rooms/{{room}}\"\nchannel = {{ topic = \"rooms/{{room}}\" }}\n",
            site(workers, "home")
        )
    };
    let program = Program::start(&site(2));
    let address = program.address();
    for (round, workers) in [2, 4].into_iter().enumerate() {
        if round > 0 {
            program.reload(&site(workers));
            program.workers(workers);
        }
        let mut followers: Vec<_> = (0..10 * workers).map(|_| follow(address)).collect();
        let has_followers = |id: &u32| sockets(*id) > 3;
        eventually("each worker has followers", || {
            program.workers(workers).iter().all(has_followers)
        });
        // Other workers hear of a follower a moment later.
        std::thread::sleep(Duration::from_millis(300));
        for n in 0..20 {
            post(address, &format!("round {round}, {n}"));
        }
        for follower in &mut followers {
            let (start, mut heard) = (Instant::now(), Vec::new());
            while heard.len() < 20 {
                assert!(start.elapsed() < PATIENCE, "{heard:?}\n{}", program.log());
                let mut line = String::new();
                follower.read_line(&mut line).expect("an event");
                heard.extend(
                    line.strip_prefix("data: round")
                        .map(|text| text.trim().to_string()),
                );
            }
            // Each once; two that were posted to two workers may come in either order.
            heard.sort();
            heard.dedup();
            assert_eq!(heard.len(), 20, "{heard:?}");
        }
    }
    program.stop();
}

#[test]
fn a_reload_changes_where_it_listens() {
    let program = Program::start(&site(1, "old"));
    let address = program.address();
    let mut kept = Client::connect(address).expect("a connection");
    assert_eq!(kept.get("/").expect("an answer").1, "old");
    // Nobody else's: a port that was free a moment ago may be shared with another test's server.
    let free = SocketAddr::from(([127, 0, 0, 2], address.port()));
    program.reload(&site(1, "new").replace("127.0.0.1:0", &free.to_string()));
    program.await_log("the config has been read again");
    assert_eq!(get(free, "/").1, "new");
    assert!(
        listeners(address.port()).is_empty(),
        "the old address is still listened on"
    );
    assert_eq!(
        kept.get("/").expect("an answer").1,
        "new",
        "the old connection is closed"
    );

    // An address that cannot be had: everything stays.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let wanted = taken.local_addr().expect("an address").to_string();
    program.reload(&site(1, "old").replace("127.0.0.1:0", &wanted));
    program.await_log("the config stays as it was");
    assert_eq!(get(free, "/").1, "new");
    program.stop();
}

#[test]
fn a_reload_changes_the_number_of_workers() {
    let program = Program::start(&site(2, "old"));
    let address = program.address();
    program.reload(&site(4, "new"));
    program.await_log_times(" listens", 4);
    assert_eq!(listeners(address.port()).len(), 4);
    assert!(!program.log().contains("starts in"), "{}", program.log());
    program.reload(&site(1, "new"));
    eventually("one worker is left", || {
        listeners(address.port()).len() == 1
    });
    assert_eq!(get(address, "/").1, "new");
    program.stop();
}

#[test]
fn started_twice_by_hand_they_share_the_port() {
    let first = Program::start(&site(1, "old"));
    let address = first.address();
    let second = Program::start(&site(1, "new").replace("127.0.0.1:0", &address.to_string()));
    assert_eq!(second.address(), address);
    let seen: Vec<String> = (0..60).map(|_| get(address, "/").1).collect();
    let of = |body: &str| seen.iter().filter(|seen| *seen == body).count();
    assert!(
        of("old") > 5 && of("new") > 5,
        "{} old, {} new",
        of("old"),
        of("new")
    );
    first.stop();
    assert!((0..20).all(|_| get(address, "/").1 == "new"));
    second.stop();
}

/// A file that takes a while to send, below a folder of its own.
fn slow_site(workers: usize) -> (TempDir, String) {
    let root = TempDir::new().expect("a folder");
    std::fs::write(root.path().join("big"), vec![b'x'; 32 << 20]).expect("a file");
    let files = format!(
        "[[routes]]\npath = \"/f/{{*rest}}\"\nfiles = {{ root = {:?} }}\n",
        root.path()
    );
    (root, site(workers, "old") + &files)
}

#[test]
fn a_drain_completes_what_has_begun() {
    for workers in [1, 2] {
        let (_root, config) = slow_site(workers);
        let mut program = Program::start(&config);
        let mut stream = TcpStream::connect(program.address()).expect("a connection");
        stream
            .write_all(b"GET /f/big HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
            .expect("sent");
        let mut begun = [0; 100];
        stream.read_exact(&mut begun).expect("the beginning");
        program.signal(Signal::TERM);
        program.await_log("draining 1 connections");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the rest");
        assert!(rest.len() > 32 << 20, "{} bytes", rest.len());
        assert_eq!(program.wait().code(), Some(0), "{}", program.log());
    }
}

#[test]
fn a_second_signal_cuts_what_is_open() {
    for workers in [1, 2] {
        let (_root, config) = slow_site(workers);
        let mut program = Program::start(&config);
        let mut stream = TcpStream::connect(program.address()).expect("a connection");
        stream
            .write_all(b"GET /f/big HTTP/1.1\r\nhost: test\r\n\r\n")
            .expect("sent");
        stream.read_exact(&mut [0; 100]).expect("the beginning");
        program.signal(Signal::TERM);
        program.await_log("draining 1 connections");
        program.signal(Signal::INT);
        let start = Instant::now();
        assert_eq!(program.wait().code(), Some(3), "{}", program.log());
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}

#[test]
fn what_is_not_built_yet_does_not_end_it() {
    for workers in [1, 2] {
        let program = Program::start(&site(workers, "old"));
        let address = program.address();
        program.signal(Signal::USR2);
        program.await_log("USR2: ");
        program.signal(Signal::USR1);
        assert_eq!(get(address, "/"), (200, "old".into()));
        program.stop();
    }
}

#[test]
fn a_client_that_is_stopped_in_the_middle_costs_the_others_nothing() {
    let (_root, config) = slow_site(1);
    let program =
        Program::start(&config.replace("drain = \"5s\"", "drain = \"5s\"\nwrite = \"1s\""));
    let address = program.address();
    let mut curl = Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "--limit-rate", "1M"])
        .arg(format!("http://{address}/f/big"))
        .spawn()
        .expect("curl");
    let before = sockets(program.child.id());
    eventually("it is connected", || sockets(program.child.id()) > before);
    kill_process(pid(curl.id()), Signal::STOP).expect("a living curl");
    let (start, mut slowest) = (Instant::now(), Duration::ZERO);
    while start.elapsed() < Duration::from_millis(800) {
        let asked = Instant::now();
        assert_eq!(get(address, "/"), (200, "old".into()));
        slowest = slowest.max(asked.elapsed());
    }
    // It would have been seconds if anybody waited for the other.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    program.await_log("timeouts.write = 1s");
    eventually("its connection is gone", || {
        sockets(program.child.id()) == before
    });
    curl.kill().expect("a stopped curl");
    curl.wait().expect("its end");
    program.stop();
}

#[test]
fn a_new_worker_runs_what_the_others_run() {
    let program = Program::start(&site(2, "old"));
    let address = program.address();
    // What is on the disk was not accepted by anybody; then it is not even a config.
    for (round, text) in [site(2, "new"), "nonsense".to_string()]
        .into_iter()
        .enumerate()
    {
        program.write(&text);
        let victim = *program.workers(2 + round).last().expect("a worker");
        kill_process(pid(victim), Signal::KILL).expect("a living worker");
        program.await_log_times(" listens", 3 + round);
        assert!((0..30).all(|_| get(address, "/").1 == "old"));
    }
    program.signal(Signal::HUP);
    program.await_log("the config stays as it was");
    program.reload(&site(2, "new"));
    program.await_log_times("the config has been read again", 2);
    assert!((0..30).all(|_| get(address, "/").1 == "new"));
    program.stop();
}

#[test]
fn port_0_twice_is_two_ports() {
    for workers in [1, 2] {
        let two =
            site(workers, "old").replace("\"127.0.0.1:0\"", "[\"127.0.0.1:0\", \"127.0.0.1:0\"]");
        let program = Program::start(&two);
        program.await_log_times("listening on http://127.0.0.1:", 2);
        let log = program.log();
        let addresses: Vec<SocketAddr> = log
            .split("listening on http://")
            .skip(1)
            .map(|rest| {
                rest.lines()
                    .next()
                    .and_then(|a| a.parse().ok())
                    .expect("an address")
            })
            .collect();
        assert_ne!(addresses[0], addresses[1]);
        for address in addresses {
            assert!((0..10).all(|_| get(address, "/").1 == "old"), "{address}");
        }
        program.stop();
    }
}

#[test]
fn signals_are_heard_from_the_beginning_on() {
    for workers in [1, 2] {
        for n in 0..12 {
            let mut program = Program::start(&site(workers, "old"));
            std::thread::sleep(Duration::from_millis(n));
            // The first milliseconds are the dynamic linker's and ours; then nothing ends it but TERM.
            if program.log().is_empty() && n < 6 {
                program.await_log("listen");
            }
            program.signal(Signal::HUP);
            program.address();
            program.signal(Signal::TERM);
            assert_eq!(program.wait().code(), Some(0), "{}", program.log());
        }
    }
}

#[test]
fn a_log_that_cannot_be_opened_changes_nothing() {
    for workers in [1, 2] {
        let program = Program::start(&site(workers, "old"));
        let address = program.address();
        let log = "[log]\naccess = \"json\"\naccess_file = \"/proc/nothing/here\"\n";
        let log = match std::fs::create_dir(program.folder.path().join("logs")) {
            Ok(()) => log.replace("/proc/nothing/here", "logs/x/../../site.toml/x"),
            Err(_) => log.to_string(),
        };
        program.reload(&format!("{log}{}", site(workers, "new")));
        program.await_log("the config stays as it was");
        assert_eq!(get(address, "/").1, "old");
        program.stop();
    }
}

#[test]
fn another_timeout_holds_for_open_connections_too() {
    let short = site(1, "old").replace("[timeouts]", "[timeouts]\nidle = \"1h\"");
    let program = Program::start(&short);
    let mut client = Client::connect(program.address()).expect("a connection");
    client.get("/").expect("an answer");
    program.reload(&short.replace("\"1h\"", "\"200ms\""));
    program.await_log("the config has been read again");
    let mut end = [0];
    assert_eq!(
        client.0.read(&mut end).expect("its end"),
        0,
        "it is still open"
    );

    let program = Program::start(&short.replace("\"1h\"", "\"700ms\""));
    let mut client = Client::connect(program.address()).expect("a connection");
    client.get("/").expect("an answer");
    program.reload(&short);
    program.await_log("the config has been read again");
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(client.get("/").expect("it is kept").1, "old");
    drop(client);
    program.stop();
}

#[test]
fn whoever_shares_a_port_is_told() {
    let first = Program::start(&site(1, "old"));
    let address = first.address();
    assert!(!first.log().contains("another process"), "{}", first.log());
    let second = Program::start(&site(1, "new").replace("127.0.0.1:0", &address.to_string()));
    second.await_log("another process listens there, too");
    second.stop();
    first.stop();
}

#[test]
fn a_route_cannot_be_got_around_by_encoding() {
    let (root, config) = slow_site(1);
    std::fs::create_dir(root.path().join("secret")).expect("a folder");
    std::fs::write(root.path().join("secret/key"), "key").expect("a file");
    let guard =
        "[[routes]]\npath = \"/f/secret/{*rest}\"\nrespond = { status = 403, body = \"no\" }\n";
    let program = Program::start(&format!("{config}{guard}"));
    let address = program.address();
    for path in [
        "/f/secret/key",
        "/f/%73ecret/key",
        "/f/s%65cret/key",
        "/%66/secret/key",
        "/f/secret%2Fkey",
        "/f//secret/key",
        "/f/./secret/key",
        "/f/x/../secret/key",
        "/f/%2e/secret/key",
        "/f/x/%2e%2e/secret/key",
        "/f/secret/%6bey",
    ] {
        let (status, body) = get(address, path);
        assert!(matches!(status, 403 | 404 | 400), "{path}: {status} {body}");
    }
    program.stop();
}

#[test]
fn a_small_file_limit_makes_clients_wait_and_nothing_worse() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("site.toml");
    std::fs::write(&path, site(1, "old")).expect("the config");
    let mut command = Command::new("sh");
    let script = "ulimit -n 256; exec \"$0\" run -c \"$1\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_loopwright")]);
    let (child, log) = collect(command.arg(&path));
    let program = Program { folder, child, log };
    let address = program.address();
    let mut clients: Vec<Client> = (0..250)
        .map(|_| Client::connect(address).expect("a connection"))
        .collect();
    let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    for client in &mut clients {
        client.0.get_mut().write_all(request).expect("sent");
    }
    program.await_log("accepting pauses: limits.connections = 192");
    // Who is in is served; the others get their turn when there is room.
    let waiting = clients.split_off(192);
    for mut client in clients {
        let mut line = String::new();
        client.0.read_line(&mut line).expect("an answer");
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    }
    for mut client in waiting {
        let mut line = String::new();
        client.0.read_line(&mut line).expect("an answer");
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    }
    assert!(program.log().matches("accepting pauses").count() <= 10);
    program.stop();
}
