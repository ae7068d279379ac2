//! A process that runs out of descriptors, and callbacks that block. Processes of their own: one lowers a
//! limit of the whole process, the other reads the whole process's log.

use log::{LevelFilter, Log, Metadata, Record};
use loopwright::{App, Handle, Listen, Server, Timeouts};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// Every line logged, and when.
static LINES: Mutex<Vec<(Instant, String)>> = Mutex::new(Vec::new());

struct Collect;

impl Log for Collect {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let line = (Instant::now(), record.args().to_string());
        LINES.lock().expect("the lines").push(line);
    }
    fn flush(&self) {}
}

fn logged(part: &str) -> Vec<(Instant, String)> {
    let lines = LINES.lock().expect("the lines");
    lines
        .iter()
        .filter(|(_, line)| line.contains(part))
        .cloned()
        .collect()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn serve(app: fn() -> App) -> (SocketAddr, Handle, JoinHandle<u64>) {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let timeouts = Timeouts {
            drain_idle: Duration::from_millis(100),
            ..Timeouts::default()
        };
        let builder = Server::builder().listen("127.0.0.1:0").timeouts(timeouts);
        let mut server = builder.build(app(), ()).expect("a server");
        let Listen::Tcp(address) = server.addresses().remove(0) else {
            unreachable!("bound to TCP")
        };
        tell.send((address, server.handle()))
            .expect("somebody waits");
        server.run().expect("the loop");
        server.stats().turns
    });
    let (address, handle) = told.recv().expect("a server");
    (address, handle, thread)
}

fn ask(stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())?;
    let mut answer = [0; 1024];
    let n = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
}

/// One test, because both parts read the one log, and one changes the one limit.
#[test]
fn what_is_scarce() {
    log::set_logger(&Collect).expect("no other logger");
    log::set_max_level(LevelFilter::Debug);
    callbacks_that_block_are_named();
    descriptors_run_out_and_come_back();
}

/// The slow callback is running: who asks now has to wait for it.
static HAS_BEGUN: AtomicBool = AtomicBool::new(false);

fn callbacks_that_block_are_named() {
    let (address, handle, thread) = serve(|| {
        let mut app = App::new();
        app.get("/", |_, _, res| res.text("quick"));
        app.get("/slow/{what}", |_, _, res| {
            HAS_BEGUN.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(700));
            res.text("slow")
        });
        app.get("/later", |cx, _, res| {
            let res = res.defer();
            cx.after(Duration::from_millis(1), move |_| {
                std::thread::sleep(Duration::from_millis(150));
                res.text("later")
            });
        });
        app
    });
    let connect = move || TcpStream::connect(address).expect("a connection");
    let mut kept: Vec<TcpStream> = (0..3).map(|_| connect()).collect();
    for stream in &mut kept {
        assert!(ask(stream, "/").expect("an answer").ends_with("quick"));
    }
    assert!(logged("timeouts.stall").is_empty(), "nobody was slow");
    let mut other = connect();
    let slow = std::thread::spawn(move || ask(&mut other, "/slow/one"));
    eventually("it has begun", || HAS_BEGUN.load(Ordering::SeqCst));
    let waiting: Vec<_> = kept
        .into_iter()
        .map(|mut stream| std::thread::spawn(move || ask(&mut stream, "/")))
        .collect();
    for thread in waiting {
        let answer = thread.join().expect("a client").expect("an answer");
        assert!(answer.ends_with("quick"));
    }
    assert!(
        slow.join()
            .expect("a client")
            .expect("an answer")
            .ends_with("slow")
    );
    eventually("the route is named", || {
        let lines = logged("route \"/slow/{what}\" kept the loop for");
        lines.iter().any(|(_, line)| {
            // All four, if the one that was answered has left by then.
            ["1", "2", "3", "4"]
                .iter()
                .any(|n| line.contains(&format!("; {n} of 4 connections waited")))
        })
    });
    ask(
        &mut TcpStream::connect(address).expect("a connection"),
        "/later",
    )
    .expect("an answer");
    eventually("the timer is named", || {
        !logged("a timer kept the loop for 1").is_empty()
    });
    handle.stop();
    thread.join().expect("the server");
}

fn descriptors_run_out_and_come_back() {
    let (address, handle, thread) = serve(|| {
        let mut app = App::new();
        app.get("/", |_, _, res| res.text("here"));
        app
    });
    let mut first = TcpStream::connect(address).expect("a connection");
    assert!(ask(&mut first, "/").expect("an answer").ends_with("here"));
    // Clients and server are one process, and share what there is.
    let open = std::fs::read_dir("/proc/self/fd").expect("a list").count() as u64;
    let before = getrlimit(Resource::Nofile);
    let lower = Rlimit {
        current: Some(open + 20),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, lower).expect("a lower limit");
    let mut clients = Vec::new();
    loop {
        let Ok(mut stream) = TcpStream::connect(address) else {
            break;
        };
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("sent");
        clients.push(stream);
    }
    assert!(clients.len() >= 5, "{} clients", clients.len());
    eventually("accepting pauses", || {
        !logged("accepting pauses for timeouts.accept_pause").is_empty()
    });
    // Who is in is served, for a while, and the loop does not spin.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2200) {
        assert!(ask(&mut first, "/").expect("an answer").ends_with("here"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let warnings = logged("accepting pauses");
    for pair in warnings.windows(2) {
        assert!(
            pair[1].0 - pair[0].0 >= Duration::from_millis(990),
            "more than one warning a second"
        );
    }
    assert!(
        warnings.len() >= 2,
        "it does not say that it goes on: {warnings:?}"
    );

    // Descriptors come back: whoever still waits is served; some were told 503.
    setrlimit(Resource::Nofile, before).expect("the old limit");
    let (mut served, mut refused) = (0, 0);
    for mut stream in clients {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut answer = [0; 1024];
        match stream.read(&mut answer) {
            Ok(n) if answer[..n].starts_with(b"HTTP/1.1 200") => served += 1,
            Ok(n) if answer[..n].starts_with(b"HTTP/1.1 503") => refused += 1,
            // A socket closed with unread input is reset, which may overtake the 503.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(served >= 5, "{served} served, {refused} refused");
    assert!(refused >= 1, "the spare descriptor was of no use");
    handle.stop();
    let turns = thread.join().expect("the server");
    assert!(turns < 2000, "{turns} turns: it spins");
}
