//! A bug found is first a failing test: here they stay, one test per bug. The name of a test says what
//! holds, its comment what went wrong. In the simulator wherever the bug shows there.

use loopwright::service::respond;
use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{App, BodyWriter, Bytes, Limits, Listen, PostError, Responder, Server, Timeouts};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const TICK: Duration = Duration::from_millis(5);
/// How long anything outside the simulator may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything fits, and arrives whole.
const CALM: Faults = Faults {
    accept_errors: 0,
    send_buffer: (1 << 20, 1 << 20),
    segment: 1 << 20,
};

/// What the callbacks count, and keep for later.
#[derive(Default)]
struct Seen {
    count: usize,
    responders: Vec<Responder>,
    writers: Vec<BodyWriter>,
}

type World = Server<Seen, SimNet>;

fn world(seed: u64, faults: Faults, limits: Limits, app: App<Seen>) -> World {
    Server::builder()
        .limits(limits)
        .simulate(SimNet::new(seed, faults), app, Seen::default())
        .unwrap()
}

fn calm(app: App<Seen>) -> World {
    world(1, CALM, Limits::default(), app)
}

fn client(world: &mut World, bytes: &str) -> Client {
    let client = world.net_mut().connect(0);
    world.net_mut().send(client, bytes.as_bytes());
    client
}

fn get(world: &mut World, path: &str) -> Client {
    client(world, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
}

fn received(world: &mut World, client: Client) -> String {
    String::from_utf8_lossy(world.net_mut().received(client)).into_owned()
}

/// Lets a world go on until something is so.
#[track_caller]
fn until(world: &mut World, what: &str, mut is_so: impl FnMut(&mut World) -> bool) {
    for _ in 0..20_000 {
        if is_so(world) {
            return;
        }
        world.turn_within(TICK).unwrap();
    }
    panic!("never: {what}");
}

/// Lets a world go on for that long.
fn wait(world: &mut World, time: Duration) {
    let end = world.net_mut().now() + time;
    while world.net_mut().now() < end {
        world.turn_within(TICK).unwrap();
    }
}

/// The body of a chunked answer that is complete.
fn unchunked(answer: &str) -> String {
    let (_, mut rest) = answer.split_once("\r\n\r\n").expect("a head");
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk");
        let size = usize::from_str_radix(size, 16).expect("its size");
        if size == 0 {
            return body;
        }
        body.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
}

/// Runs on a stack as small as a thread's is by default, whatever this one has.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(2 << 20).spawn(test);
    thread.unwrap().join().unwrap();
}

/// 3,000 streams that wait for a first piece.
fn many_streams(world: &mut World, stalled: bool) {
    const MANY: usize = 3000;
    for _ in 0..MANY {
        let client = get(world, "/stream");
        world.net_mut().stall(client, stalled);
    }
    until(world, "all streams are open", |world| {
        world.state().writers.len() == MANY
    });
}

/// A server on loopback.
fn on_loopback(app: App<Seen>) -> (Server<Seen>, TcpStream) {
    let server = Server::bind("127.0.0.1:0", app, Seen::default()).unwrap();
    let Listen::Tcp(address) = server.addresses()[0] else {
        panic!("not TCP");
    };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nonblocking(true).unwrap();
    (server, stream)
}

/// Lets a server on loopback go on until something is so.
#[track_caller]
fn really_until(
    server: &mut Server<Seen>,
    what: &str,
    mut is_so: impl FnMut(&mut Server<Seen>) -> bool,
) {
    let start = Instant::now();
    while !is_so(server) {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        server.turn_within(TICK).unwrap();
    }
}

/// Sends a request, and takes an answer with a body of `len` bytes.
#[track_caller]
fn exchange(server: &mut Server<Seen>, mut stream: &TcpStream, path: &str, len: usize) -> String {
    let request = GET.replacen("/", path, 1);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    really_until(server, "an answer", |_| {
        let _ = stream.read_to_end(&mut answer); // as much as there is
        let text = String::from_utf8_lossy(&answer);
        text.split_once("\r\n\r\n")
            .is_some_and(|(_, body)| body.len() >= len)
    });
    String::from_utf8(answer).unwrap()
}

/// Each abort settled what was queued behind it, within itself: one level of stack per writer.
#[test]
fn a_callback_may_abort_thousands_of_writers() {
    on_a_small_stack(|| {
        let mut app: App<Seen> = App::new();
        app.get("/stream", |cx, _, res| cx.state.writers.push(res.stream()));
        app.get("/end", |cx, _, res| {
            for writer in cx.state.writers.drain(..) {
                writer.abort();
            }
            res.text("ended");
        });
        let mut world = calm(app);
        many_streams(&mut world, false);
        let client = get(&mut world, "/end");
        until(&mut world, "the end is answered", |world| {
            received(world, client).ends_with("ended")
        });
        until(&mut world, "all streams are gone", |world| {
            world.open_exchanges() == 0 && world.connections() == 1
        });
    });
}

/// As above, with connections that were cut because their clients did not take what was sent.
#[test]
fn a_broadcast_may_cut_thousands_of_stalled_clients() {
    const PIECE: &[u8] = &[b'x'; 3000];
    on_a_small_stack(|| {
        let mut app: App<Seen> = App::new();
        app.get("/stream", |cx, _, res| cx.state.writers.push(res.stream()));
        app.get("/say", |cx, _, res| {
            for writer in &cx.state.writers {
                writer.write(Bytes::from_static(PIECE));
            }
            res.text("said");
        });
        let faults = Faults {
            send_buffer: (256, 256),
            ..CALM
        };
        let limits = Limits {
            high_water: 1000,
            output: 5000,
            ..Limits::default()
        };
        let mut world = world(1, faults, limits, app);
        many_streams(&mut world, true);
        for _ in 0..2 {
            let client = get(&mut world, "/say");
            until(&mut world, "it is said", |world| {
                received(world, client).ends_with("said")
            });
        }
        until(&mut world, "all streams are cut", |world| {
            world.open_exchanges() == 0 && world.connections() == 2
        });
    });
}

/// What was piped overtook what still waited for the turn's budget of commands.
#[test]
fn what_is_written_before_a_pipe_is_sent_before_it() {
    for commands_per_turn in 1..=8 {
        let mut app: App<Seen> = App::new();
        app.stream("POST", "/", |_, _, res, body| {
            let writer = res.stream();
            writer.write("first ");
            writer.write("second ");
            body.pipe(writer);
        });
        let limits = Limits {
            commands_per_turn,
            ..Limits::default()
        };
        let mut world = world(1, CALM, limits, app);
        let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nthird";
        let client = client(&mut world, post);
        until(&mut world, "the answer is complete", |world| {
            received(world, client).ends_with("\r\n0\r\n\r\n")
        });
        let body = unchunked(&received(&mut world, client));
        assert_eq!(body, "first second third", "{commands_per_turn} commands");
    }
}

/// The connection was not idle when idle ones were closed, and nobody looked at it again before the
/// drain's deadline.
#[test]
fn a_drain_ends_soon_after_the_last_download() {
    let mut app: App<Seen> = App::new();
    app.get("/", |_, _, res| res.text("x".repeat(200_000)));
    let faults = Faults {
        send_buffer: (8192, 8192),
        ..CALM
    };
    let mut world = world(1, faults, Limits::default(), app);
    let client = client(&mut world, GET);
    world.net_mut().stall(client, true);
    until(&mut world, "the answer is under way", |world| {
        world.net_mut().now() > loopwright::Instant::default() + Duration::from_millis(100)
    });
    world.handle().stop();
    wait(&mut world, Duration::from_secs(3));
    assert_eq!(world.connections(), 1);
    world.net_mut().stall(client, false);
    let resumed = world.net_mut().now();
    world.run().unwrap();
    assert!(world.net_mut().received(client).len() > 200_000);
    assert_eq!(world.cut_connections(), 0);
    let took = world.net_mut().now() - resumed;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// The hook was asked again for the answer it had let go, and again.
#[test]
fn an_error_hook_that_drops_its_responder_is_asked_once() {
    let mut app: App<Seen> = App::new();
    app.get("/", |_, _, _| panic!("as it must"));
    app.on_error(|cx, _, res| {
        cx.state.count += 1;
        drop(res.defer());
    });
    let mut world = calm(app);
    let client = client(&mut world, GET);
    wait(&mut world, Duration::from_secs(1));
    assert_eq!(world.state().count, 1);
    let answer = received(&mut world, client);
    assert_eq!(answer.matches("HTTP/1.1 500 ").count(), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_eq!(world.open_exchanges(), 0);
}

fn one_that_waits() -> App<Seen> {
    let mut app: App<Seen> = App::new();
    app.get("/", |_, _, res| res.text("x"));
    app.get("/wait", |cx, _, res| {
        let res = res.defer();
        cx.on_abort(&res, |cx| cx.state.count += 1);
        cx.state.responders.push(res);
    });
    app
}

/// The end was seen when there was no exchange yet, and never reported to the one that came of it.
#[test]
fn on_abort_is_called_for_an_end_that_came_with_the_request() {
    for seed in 0..40 {
        let mut world = world(seed, CALM, Limits::default(), one_that_waits());
        let client = client(&mut world, GET);
        until(&mut world, "the first answer", |world| {
            received(world, client).ends_with("\r\n\r\nx")
        });
        let wait_for_it = GET.replacen("/", "/wait", 1);
        world.net_mut().send(client, wait_for_it.as_bytes());
        world.net_mut().finish(client);
        wait(&mut world, Duration::from_secs(5));
        assert_eq!(world.state().responders.len(), 1, "seed {seed}");
        assert_eq!(world.state().count, 1, "seed {seed}");
    }
}

/// The same with the events of a kernel.
#[test]
fn on_abort_is_called_for_an_end_that_came_with_the_request_over_tcp() {
    let (mut server, stream) = on_loopback(one_that_waits());
    exchange(&mut server, &stream, "/", 1);
    let wait_for_it = GET.replacen("/", "/wait", 1);
    (&stream).write_all(wait_for_it.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    really_until(&mut server, "on_abort", |server| server.state().count == 1);
    assert_eq!(server.state().responders.len(), 1);
}

/// A Unix socket closed by its client hangs up at once, which was taken for a broken connection: what
/// it had sent was not read.
#[test]
fn a_client_of_a_unix_socket_may_send_and_leave() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut app: App<Seen> = App::new();
    app.post("/", |cx, _, res| {
        cx.state.count += 1;
        res.text("x");
    });
    let address = format!("unix:{}", path.display());
    let mut server = Server::bind(address, app, Seen::default()).unwrap();
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    // Gone before it is accepted.
    let mut early = UnixStream::connect(&path).unwrap();
    early.write_all(post.as_bytes()).unwrap();
    drop(early);
    really_until(&mut server, "served", |server| server.state().count == 1);
    // Gone when the server already waits for it.
    let mut late = UnixStream::connect(&path).unwrap();
    really_until(&mut server, "accepted", |server| server.connections() == 1);
    server.turn_within(TICK).unwrap();
    late.write_all(post.as_bytes()).unwrap();
    drop(late);
    really_until(&mut server, "served", |server| server.state().count == 2);
}

/// Only answers that had begun to stream were looked at.
#[test]
fn on_drain_is_called_for_a_responder() {
    let mut app: App<Seen> = App::new();
    app.get("/", |cx, _, res| {
        let res = res.defer();
        cx.on_drain(res, |_, res| res.text("drained"));
    });
    let mut world = calm(app);
    let client = client(&mut world, GET);
    until(&mut world, "the answer", |world| {
        received(world, client).ends_with("\r\n\r\ndrained")
    });
}

/// A first parameter of slashes alone came to nothing, and left "//": another host's address.
#[test]
fn a_redirect_to_a_path_never_names_another_host() {
    let mut app: App<Seen> = App::new();
    app.get("/old/{a}/{b}", respond::redirect(301, "/{a}/{b}"));
    let mut world = calm(app);
    for (path, location) in [
        ("/old/a/b", "/a/b"),
        ("/old/%2F/evil.example", "/evil.example"),
        ("/old/%2F%2F/evil.example", "/evil.example"),
        ("/old/%5C/evil.example", "/evil.example"),
        ("/old/%2F/%2Fevil.example", "/evil.example"),
    ] {
        let client = get(&mut world, path);
        until(&mut world, "a redirect", |world| {
            received(world, client).contains("\r\n\r\n")
        });
        let answer = received(&mut world, client);
        let field = format!("\r\nlocation: {location}\r\n");
        assert!(answer.contains(&field), "{path}: {answer}");
    }
}

#[cfg(feature = "files")]
mod files {
    use super::*;
    use loopwright::service::files::Files;
    use std::fs;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc;

    fn app(root: &Path) -> App<Seen> {
        let mut app: App<Seen> = App::new();
        Files::new(root).unwrap().mount(&mut app, "");
        app
    }

    fn descriptors() -> usize {
        fs::read_dir("/proc/self/fd").unwrap().count()
    }

    /// Every file in the cache was kept open, though its content was kept too.
    #[test]
    fn small_files_do_not_use_up_descriptors() {
        const FILES: usize = 1200;
        let root = tempfile::tempdir().unwrap();
        for n in 0..FILES {
            fs::write(root.path().join(format!("{n}.txt")), "small").unwrap();
        }
        let mut world = calm(app(root.path()));
        // A file written just now is not kept: it has to be of long ago.
        wait_for_years(&mut world);
        let before = descriptors();
        let requests: String = (0..FILES)
            .map(|n| GET.replacen("/", &format!("/{n}.txt"), 1))
            .collect();
        let client = client(&mut world, &requests);
        until(&mut world, "all are served", |world| {
            let answers = received(world, client);
            answers.matches("HTTP/1.1 200 OK\r\n").count() == FILES
        });
        // Other tests of this process open a few at the same time.
        let more = descriptors().saturating_sub(before);
        assert!(more < 100, "{more} more descriptors");
    }

    fn wait_for_years(world: &mut World) {
        let century = Duration::from_secs(100 * 365 * 86_400);
        world.turn_within(century).unwrap();
        assert!(world.net_mut().now() >= loopwright::Instant::default() + century);
    }

    /// The times of a file are as coarse as the kernel's clock (before Linux 6.13, where alone this
    /// can fail): a second change within one tick left no trace, and the first content was served
    /// from then on.
    #[test]
    fn a_file_rewritten_right_after_it_was_read_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.txt");
        let (mut server, stream) = on_loopback(app(root.path()));
        for n in 0..100 {
            let content = format!("{n:08}");
            fs::write(&path, &content).unwrap();
            let answer = exchange(&mut server, &stream, "/a.txt", content.len());
            assert!(answer.ends_with(&content), "not {content}: {answer}");
        }
    }

    /// A process that ends with this value.
    struct Held(Child);

    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Takes a lease on a file that it does not give back (until its own input ends).
    const HOLD_A_LEASE: &str = "
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";

    /// The kernel says EAGAIN until the lease is broken, 45 seconds later, and so long was it asked.
    #[test]
    fn a_file_under_a_lease_does_not_stop_the_loop() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.txt");
        fs::write(&path, "leased").unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", HOLD_A_LEASE]).arg(&path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Held(command.spawn().expect("python3"));
        let mut held = [0; 5];
        let output = holder.0.stdout.as_mut().unwrap();
        output.read_exact(&mut held).expect("a lease");

        // On a thread of its own: it may freeze.
        let (tell, told) = mpsc::channel();
        let root = root.path().to_path_buf();
        let server = thread::spawn(move || {
            let mut server = Server::bind("127.0.0.1:0", app(&root), Seen::default()).unwrap();
            let address = server.addresses().remove(0);
            tell.send((address, server.handle())).unwrap();
            server.run().unwrap();
        });
        let (Listen::Tcp(address), handle) = told.recv().unwrap() else {
            panic!("not TCP");
        };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = GET.replacen("/", "/a.txt", 1);
        stream.write_all(request.as_bytes()).unwrap();
        let mut start = [0; 9];
        let answered = stream.read_exact(&mut start);
        drop(holder);
        handle.stop_now();
        server.join().unwrap();
        answered.expect("an answer");
        assert_eq!(&start, b"HTTP/1.1 ");
    }
}

/// What cannot be, in one line.
#[track_caller]
fn mistake(built: io::Result<impl Sized>) -> String {
    match built {
        Ok(_) => panic!("it was built"),
        Err(e) => {
            assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
            e.to_string()
        }
    }
}

/// A server without an address ran, and nobody could reach it.
#[test]
fn a_server_without_a_listener_is_not_built() {
    let why = mistake(Server::builder().build(App::new(), ()));
    assert!(why.contains("listen"), "{why}");
}

fn with_hosts(hosts: &[&str]) -> io::Result<Server<(), SimNet>> {
    let mut app: App = App::new();
    for host in hosts {
        app.get("/", |_, _, res| res.text("x")).host(*host);
    }
    Server::simulate(SimNet::new(1, CALM), app, ())
}

/// Requests are matched without their port: such a route was never found.
#[test]
fn a_host_with_a_port_is_a_mistake() {
    let why = mistake(with_hosts(&["example.org:8080"]));
    assert!(why.contains("example.org:8080"), "{why}");
    with_hosts(&["example.org", "*.example.org", "127.0.0.1", "[::1]"]).expect("hosts");
}

/// The second of two such routes was never found.
#[test]
fn routes_that_differ_only_in_the_case_of_the_host_conflict() {
    mistake(with_hosts(&["example.org", "Example.ORG"]));
    with_hosts(&["example.org", "example.net"]).expect("two hosts");
}

/// Every connection was closed before it could send its first byte.
#[test]
fn a_timeout_of_zero_is_a_mistake() {
    type Set = fn(&mut Timeouts) -> &mut Duration;
    let sets: [(&str, Set); 5] = [
        ("head", |timeouts| &mut timeouts.head),
        ("body", |timeouts| &mut timeouts.body),
        ("write", |timeouts| &mut timeouts.write),
        ("idle", |timeouts| &mut timeouts.idle),
        // Out of descriptors, the loop would ask for another in each turn.
        ("accept_pause", |timeouts| &mut timeouts.accept_pause),
    ];
    for (name, field) in sets {
        let mut timeouts = Timeouts::default();
        *field(&mut timeouts) = Duration::ZERO;
        let builder = Server::builder().timeouts(timeouts);
        let net = SimNet::new(1, CALM);
        let why = mistake(builder.simulate(net, App::<()>::new(), ()));
        assert!(why.contains(&format!("timeouts.{name} ")), "{why}");
    }
}

/// All that had been posted ran in one turn, whatever the budget.
#[test]
fn posted_closures_do_not_keep_a_client_waiting() {
    const POSTS: usize = 10_000;
    let mut app: App<Seen> = App::new();
    app.get("/", |_, _, res| res.text("hello"));
    let limits = Limits {
        commands_per_turn: 10,
        ..Limits::default()
    };
    let mut world = world(1, CALM, limits, app);
    let handle = world.handle();
    for _ in 0..POSTS {
        handle.post(|cx| cx.state.count += 1).unwrap();
    }
    let client = client(&mut world, GET);
    until(&mut world, "the answer", |world| {
        received(world, client).ends_with("hello")
    });
    let count = world.state().count;
    assert!((1..POSTS / 10).contains(&count), "{count} have run");
    until(&mut world, "all have run", |world| {
        world.state().count == POSTS
    });
}

/// It was accepted, and never ran.
#[test]
fn nothing_can_be_posted_once_run_has_returned() {
    let mut world = calm(App::new());
    let handle = world.handle();
    handle.post(|cx| cx.state.count += 1).unwrap();
    handle.stop();
    world.run().unwrap();
    assert_eq!(world.state().count, 1);
    assert_eq!(handle.post(|_| {}), Err(PostError::Stopped));
}

/// Any field was sent as a trailer, also one that a proxy would merge into the head.
#[test]
fn fields_that_frame_a_message_are_left_out_of_its_trailers() {
    let mut app: App<Seen> = App::new();
    app.get("/", |_, _, res| {
        let body = res.defer().stream();
        body.write("data");
        body.end_with_trailers(&[
            ("content-length", "7"),
            ("Transfer-Encoding", "gzip"),
            ("Set-Cookie", "a=b"),
            ("checksum", "d0f7"),
        ]);
    });
    let mut world = calm(app);
    let client = client(&mut world, GET);
    until(&mut world, "the answer is complete", |world| {
        received(world, client).ends_with("\r\n0\r\nchecksum: d0f7\r\n\r\n")
    });
}

/// What middleware had set was lost when the handler failed: security headers, exactly on errors.
#[test]
fn what_middleware_sets_stays_on_failures() {
    let mut app: App = App::new();
    app.before(|_, _, res| Some(res.header("x-frame-options", "DENY")));
    app.get("/error", |_, _, res| -> Result<(), &str> {
        drop(res.header("x-own", "lost"));
        Err("meant to")
    });
    app.get("/panic", |_, _, _| panic!("meant to"));
    app.get("/dropped", |_, _, _| {});
    app.get("/later", |_, _, res| {
        drop(res.header("x-own", "lost").defer())
    });
    app.get("/split", |_, _, res| {
        res.header("x-own", "a\r\nb: c").text("no")
    });
    app.post("/error", |_, _, _| -> Result<(), &str> { Err("meant to") });
    let net = SimNet::new(
        1,
        Faults {
            accept_errors: 0,
            ..Faults::default()
        },
    );
    let mut server = Server::simulate(net, app, ()).unwrap();
    for request in [
        "GET /error",
        "GET /panic",
        "GET /dropped",
        "GET /later",
        "GET /split",
        "POST /error",
    ] {
        let client = server.net_mut().connect(0);
        let body = if request.starts_with("POST") {
            "content-length: 2\r\n\r\nhi"
        } else {
            "\r\n"
        };
        let bytes = format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{body}");
        server.net_mut().send(client, bytes.as_bytes());
        while !server.net_mut().is_finished(client) {
            server.turn().unwrap();
        }
        let answer = String::from_utf8_lossy(server.net_mut().received(client)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 500 "), "{request}: {answer}");
        assert_eq!(
            answer.matches("x-frame-options: DENY\r\n").count(),
            1,
            "{request}: {answer}"
        );
        assert!(!answer.contains("x-own"), "{request}: {answer}");
    }
}

/// What was refused before its method was looked at was answered as the request before it: after a HEAD,
/// with a head alone that announced a body.
#[test]
fn a_refusal_after_a_head_request_has_its_body() {
    for nonsense in ["\r\n\r\n\r\n\r\n\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}"] {
        let mut app = App::new();
        app.get("/", |_, _, res| res.text("home"));
        let mut world = calm(app);
        let head = GET.replace("GET", "HEAD");
        let client = client(&mut world, &format!("{head}{nonsense}"));
        until(&mut world, "it is refused", |world| {
            world.net_mut().is_finished(client)
        });
        let text = received(&mut world, client);
        let (_, refusal) = text.split_once("HTTP/1.1 400 ").unwrap();
        let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
        let announced = head.split("content-length: ").nth(1).unwrap();
        let announced: usize = announced.lines().next().unwrap().parse().unwrap();
        assert!(announced > 0 && announced == body.len(), "{text:?}");
    }
}

/// The kernel asks for more only when a lot of what it holds has gone: a client that took 4 KB a second was
/// cut for taking none.
#[test]
fn a_client_that_takes_little_is_not_one_that_takes_nothing() {
    let mut app: App<Seen> = App::new();
    app.get("/", |_, _, res| res.bytes(vec![b'x'; 32 << 20]));
    let write = Duration::from_secs(1);
    let timeouts = Timeouts {
        write,
        ..Timeouts::default()
    };
    let builder = Server::builder().listen("127.0.0.1:0").timeouts(timeouts);
    let mut server = builder.build(app, Seen::default()).unwrap();
    let Listen::Tcp(address) = server.addresses().remove(0) else {
        unreachable!("bound to TCP")
    };
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(8 * 1024).unwrap();
    client.connect(&address.into()).unwrap();
    let mut client = TcpStream::from(client);
    client.write_all(GET.as_bytes()).unwrap();
    let start = Instant::now();
    while start.elapsed() < write * 3 {
        server.turn_within(Duration::from_millis(50)).unwrap();
        if start.elapsed() > Duration::from_millis(200) {
            client.read_exact(&mut [0; 1024]).unwrap();
            assert_eq!(server.connections(), 1, "cut after {:?}", start.elapsed());
        }
    }
    // Now it takes nothing.
    let start = Instant::now();
    while server.connections() > 0 {
        assert!(start.elapsed() < write * 4, "not cut");
        server.turn_within(Duration::from_millis(50)).unwrap();
    }
    assert!(start.elapsed() > write / 2);
}

/// A byte that waited for the rest of its head kept the memory of all that had come with it.
#[test]
fn what_is_kept_of_the_input_costs_what_it_is_long() {
    let mut app: App<Seen> = App::new();
    app.post("/", |_, _, res| res.text("thanks"));
    let (mut server, mut client) = on_loopback(app);
    let body = "x".repeat(30_000);
    let upload = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\n{body}G");
    client.write_all(&upload.as_bytes()[..9]).unwrap();
    really_until(&mut server, "its first bytes are kept", |server| {
        server.held().any(|held| held.input == 9)
    });
    client.write_all(&upload.as_bytes()[9..]).unwrap();
    really_until(&mut server, "all but one byte is used", |server| {
        server.held().any(|held| held.input == 1)
    });
    let held = server.held().next().unwrap();
    assert!(held.input_memory <= 64, "{held:?}");
}

/// A producer that went over `limits.output` took along what its connection had been answered before,
/// though the client took all that it was sent. (Seed 12389 of the simulation.)
#[test]
fn what_was_answered_before_a_stream_over_its_limit_arrives() {
    let whole = "w".repeat(3000);
    let app = || {
        let (mut app, body) = (App::<Seen>::new(), "w".repeat(3000));
        app.get("/whole", move |_, _, res| res.text(&body));
        app.get("/over", |_, _, res| {
            let writer = res.stream();
            for _ in 0..10 {
                writer.write(Bytes::from_static(&[b'x'; 1000]));
            }
        });
        app
    };
    let narrow = Faults {
        send_buffer: (256, 256),
        ..CALM
    };
    let requests = ["/whole", "/over", "/whole"]
        .map(|path| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
        .concat();
    // What waits in memory, and what the network has and a reset would take from it.
    for faults in [narrow, CALM] {
        let limits = Limits {
            high_water: 4000,
            output: 5000,
            ..Limits::default()
        };
        let mut world = world(1, faults, limits, app());
        let client = client(&mut world, &requests);
        until(&mut world, "the connection ends", |world| {
            world.net_mut().is_finished(client)
        });
        assert!(!world.net_mut().was_reset(client));
        let received = received(&mut world, client);
        let (head, rest) = received.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("content-length: 3000"), "{head}");
        let rest = rest.strip_prefix(&whole).expect("the whole answer");
        assert!(rest.starts_with("HTTP/1.1 200"), "{rest:.40}");
        assert!(!rest.contains("www"), "an answer behind the broken one");
        assert!(!rest.ends_with("0\r\n\r\n"), "a part that looks whole");
        until(&mut world, "it is gone", |world| world.connections() == 0);
    }
}
