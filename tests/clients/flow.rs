//! Back-pressure both ways, and who is told when a client goes away.

use crate::site::{pattern, produce, site};
use crate::support::*;
use loopwright::{Aborted, App, BodyWriter, Ctx, Demand, Limits, Resume};
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// What the kernel may hold of one direction of a connection: both of its buffers at their largest
/// with a small one at the client, and then some.
const KERNEL: usize = 12 << 20;

/// A client whose receive buffer stays small.
pub(crate) fn small_client(server: &TestServer<impl Sized>) -> Client {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket
        .set_recv_buffer_size(64 * 1024)
        .expect("a receive buffer");
    socket
        .connect(&server.tcp().into())
        .expect("cannot connect");
    Client::new(socket.into())
}

/// A client that has asked and goes away without a word, or with a reset.
pub(crate) fn vanish(client: Client, with_reset: bool) {
    if with_reset {
        let socket = socket2::SockRef::from(client.socket());
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
    drop(client);
}

#[test]
fn a_reader_that_pauses_holds_back_its_producer_and_nobody_else() {
    const LEN: usize = 64 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let server = serve(move || {
        let mut app = site();
        app.get("/much", move |cx, _, res| {
            write_on(cx, res.stream(), 0, count.clone())
        });
        fn write_on(cx: &mut Ctx<'_>, body: BodyWriter, mut at: usize, count: Arc<AtomicUsize>) {
            let high_water = Limits::default().high_water;
            let start = at;
            while at < LEN && !body.is_full() {
                let demand = body.write(pattern(at, 16 * 1024));
                at += 16 * 1024;
                assert_eq!(demand == Demand::More, !body.is_full(), "both say the same");
            }
            // One call adds what there is room for, and the piece that fills it.
            assert!(
                at - start <= high_water + 16 * 1024,
                "{} bytes at once",
                at - start
            );
            count.store(at, SeqCst);
            if at < LEN {
                cx.on_drain(body, move |cx, body| write_on(cx, body, at, count));
            }
        }
        app
    });
    let mut client = small_client(&server);
    client.send("GET /much HTTP/1.1\r\nhost: test\r\n\r\n");
    let stuck = settled(|| written.load(SeqCst));
    assert!(
        stuck > 0 && stuck < KERNEL,
        "{stuck} bytes for a client that reads nothing"
    );
    // Everybody else is served meanwhile.
    assert_eq!(server.get("/").text(), "home");
    let mut answer = client.head();
    client.read_chunks(&mut answer).expect("the whole body");
    assert_eq!(answer.body.len(), LEN);
    assert!(
        answer
            .body
            .chunks(1 << 20)
            .enumerate()
            .all(|(n, piece)| piece == pattern(n << 20, piece.len()))
    );
}

/// `write` says when to wait. One that does not listen is cut before it fills the memory.
#[test]
fn a_producer_that_does_not_wait_is_cut() {
    let limits = Limits {
        output: 1 << 20,
        ..Limits::default()
    };
    let (tell, told) = mpsc::channel();
    let server = serve_with(local().limits(limits), move || {
        let mut app = site();
        app.get("/flood", move |cx, _, res| {
            let body = res.stream();
            let tell = tell.clone();
            cx.every(Duration::from_millis(1), move |_| {
                if !body.is_closed() {
                    body.write(pattern(0, 1 << 20));
                }
                let _ = tell.send(body.is_closed());
            });
        });
        (app, ())
    });
    let mut client = small_client(&server);
    client.send("GET /flood HTTP/1.1\r\nhost: test\r\n\r\n");
    let writes = told.iter().take_while(|is_closed| !is_closed).count();
    assert!(writes < KERNEL >> 20, "{writes} MiB written");
    let mut answer = client.head();
    assert!(
        client.read_chunks(&mut answer).is_err(),
        "a part must not pass for the whole"
    );
    assert_eq!(server.get("/").text(), "home");
}

/// A turn settles only so many commands; the rest is the next one's.
#[test]
fn little_is_settled_in_one_turn() {
    for commands_per_turn in [1, 3] {
        let limits = Limits {
            commands_per_turn,
            output: 4 << 20,
            ..Limits::default()
        };
        let server = serve_with(local().limits(limits), || {
            let mut app = site();
            app.get("/flood", |_, _, res| {
                let body = res.stream();
                for _ in 0..200 {
                    body.write(pattern(0, 64 * 1024));
                }
            });
            (app, ())
        });
        let mut flooded = small_client(&server);
        flooded.send("GET /flood HTTP/1.1\r\nhost: test\r\n\r\n");
        let mut client = server.connect();
        assert_eq!(client.get("/slow").text(), "worth the wait");
        assert!(client.get("/megabytes/2").body == pattern(0, 2 << 20));
        client.send(format!(
            "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
            200_000
        ));
        client.send(pattern(0, 200_000));
        assert!(client.answer().body == pattern(0, 200_000));
        assert_eq!(client.get("/").text(), "home");
    }
}

/// Requests without end from a client that takes no answer: they wait in the kernel, not here.
#[test]
fn a_flood_of_requests_is_answered_no_faster_than_it_is_read() {
    const PAGE: usize = 60_000;
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let server = serve(move || {
        let mut app = site();
        app.get("/page", move |_, _, res| {
            count.fetch_add(1, SeqCst);
            res.bytes(pattern(0, PAGE));
        });
        app
    });
    let mut client = small_client(&server);
    for _ in 0..2000 {
        client.send("GET /page HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    let stuck = settled(|| served.load(SeqCst));
    assert!(
        stuck > 0 && stuck * PAGE < KERNEL,
        "{stuck} pages for a client that reads nothing"
    );
    assert_eq!(server.get("/").text(), "home");
    for n in 0..2000 {
        assert!(client.answer().body == pattern(0, PAGE), "page {n}");
    }
}

#[test]
fn an_upload_that_is_held_is_not_read() {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let server = serve_with(local(), move || {
        let mut app = App::<Option<Resume>>::new();
        app.stream("POST", "/hold", move |cx, _, res, body| {
            cx.state.replace(body.resume_handle());
            let (count, mut is_first) = (count.clone(), true);
            body.fold(
                cx,
                res.defer(),
                move |_, _, piece| {
                    count.fetch_add(piece.len(), SeqCst);
                    if std::mem::take(&mut is_first) {
                        Demand::Hold
                    } else {
                        Demand::More
                    }
                },
                |res, _, _| res.text("all of it"),
            );
        })
        .body_limit(1 << 30);
        (app, None)
    });
    const LEN: usize = 64 << 20;
    let mut client = server.connect();
    client.send(format!(
        "POST /hold HTTP/1.1\r\nhost: test\r\ncontent-length: {LEN}\r\n\r\n"
    ));
    let sent = Arc::new(AtomicUsize::new(0));
    let sender = {
        let (sent, mut socket) = (
            sent.clone(),
            client.socket().try_clone().expect("a second handle"),
        );
        std::thread::spawn(move || {
            while sent.load(SeqCst) < LEN {
                socket.write_all(pattern(0, 1 << 20)).expect("cannot send");
                sent.fetch_add(1 << 20, SeqCst);
            }
        })
    };
    let stuck = settled(|| sent.load(SeqCst));
    assert!(stuck < LEN, "nobody holds the client back");
    let first = taken.load(SeqCst);
    assert!(first > 0 && first <= 128 * 1024, "{first} bytes taken");
    let go_on = |cx: &mut Ctx<'_, Option<Resume>>| cx.state.take().expect("a handle").resume();
    server.handle.post(go_on).expect("it runs");
    assert_eq!(client.answer().text(), "all of it");
    sender.join().expect("the sender");
    assert_eq!(taken.load(SeqCst), LEN);
}

/// An echo whose client sends but does not read: what it sends waits with the client, whoever does
/// the echoing, and however little is settled in one turn.
#[test]
fn an_echo_reads_no_faster_than_it_is_read() {
    for commands_per_turn in [1, Limits::default().commands_per_turn] {
        let limits = Limits {
            commands_per_turn,
            ..Limits::default()
        };
        let server = serve_with(local().limits(limits), || {
            let mut app = site();
            app.stream("POST", "/echo-by-hand", |cx, _, res, body| {
                let step =
                    |out: &mut BodyWriter, _: &mut Ctx<'_>, piece: &[u8]| out.write(piece.to_vec());
                body.fold(cx, res.stream(), step, |out, _, _| out.end());
            })
            .body_limit(1 << 30);
            (app, ())
        });
        for path in ["/echo", "/echo-by-hand"] {
            let sent = send_without_reading(&server, path);
            // Two directions, and the server's receive buffer may grow to its system's limit.
            assert!(
                sent < 64 << 20,
                "{path}, {commands_per_turn} a turn: {sent} bytes sent, none read"
            );
            assert_eq!(server.get("/").text(), "home");
        }
    }
}

/// Whoever is called for each byte of a body, and writes for each, must not be called faster than
/// what it writes is settled: what waits for that is memory that a client can fill.
#[test]
fn a_turn_takes_no_more_input_than_it_can_settle() {
    const BUDGET: usize = 100;
    const LEN: usize = 50_000;
    let mut app = App::<usize>::new();
    app.stream("POST", "/", |cx, _, res, body| {
        let step = |out: &mut BodyWriter, cx: &mut Ctx<'_, usize>, piece: &[u8]| {
            *cx.state += 1;
            out.write(piece.to_vec())
        };
        body.fold(cx, res.stream(), step, |out, _, _| out.end());
    });
    let limits = Limits {
        commands_per_turn: BUDGET,
        ..Limits::default()
    };
    let mut server = local().limits(limits).build(app, 0).expect("a server");
    let address = server.addresses()[0]
        .to_string()
        .parse()
        .expect("an address");
    let handle = server.handle();
    let client = std::thread::spawn(move || {
        let mut client = Client::connect(address);
        let chunks = "1\r\nx\r\n".repeat(LEN);
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
        ));
        let answer = client.answer();
        handle.stop();
        answer.body.len()
    });
    let (mut steps, mut most) = (0, 0);
    while server.turn().expect("a turn") {
        most = most.max(*server.state() - steps);
        steps = *server.state();
    }
    assert_eq!((client.join().expect("the client"), steps), (LEN, LEN));
    assert!(
        most <= 2 * BUDGET,
        "{most} steps in one turn, which settles {BUDGET}"
    );
}

/// How much of an endless upload the other side takes.
fn send_without_reading(server: &TestServer, path: &str) -> usize {
    let mut client = small_client(server);
    client.send(format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
        256 << 20
    ));
    let socket = client.socket().try_clone().expect("a second handle");
    socket.set_nonblocking(true).expect("non-blocking");
    let mut sent = 0;
    settled(|| {
        loop {
            match (&socket).write(pattern(0, 64 * 1024)) {
                Ok(n) if sent < 100 << 20 => sent += n,
                Ok(_) => return sent,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return sent,
                Err(e) => panic!("{path}: cannot send: {e}"),
            }
        }
    });
    drop(socket);
    vanish(client, true);
    sent
}

/// The loop has one output buffer: what a producer writes while its client drains must not be left
/// in it for the next connection.
#[test]
fn what_drains_to_one_client_reaches_no_other() {
    for size in [1000, 20_000] {
        let server = serve(move || {
            fn write_on(cx: &mut Ctx<'_>, body: BodyWriter, mut left: usize, size: usize) {
                while left > 0 && !body.is_full() {
                    body.write(vec![b'x'; size]);
                    left -= 1;
                }
                if left > 0 {
                    cx.on_drain(body, move |cx, body| write_on(cx, body, left, size));
                }
            }
            let mut app = site();
            app.get("/pieces", move |cx, _, res| {
                write_on(cx, res.stream(), (8 << 20) / size, size)
            });
            app
        });
        let mut streaming = server.connect();
        streaming.send("GET /pieces HTTP/1.1\r\nhost: test\r\n\r\n");
        let reader = std::thread::spawn(move || streaming.answer().body);
        let mut client = server.connect();
        while !reader.is_finished() {
            assert_eq!(client.get("/").text(), "home", "pieces of {size}");
        }
        let body = reader.join().expect("the reader");
        assert_eq!(body.len(), (8 << 20) / size * size);
        assert!(body.iter().all(|&b| b == b'x'), "pieces of {size}");
    }
}

fn abort_site() -> (TestServer, Receiver<&'static str>) {
    let (tell, told) = mpsc::channel();
    let server = serve(move || {
        let mut app = site();
        let to = tell.clone();
        app.get("/never", move |cx, _, res| {
            let res = res.defer();
            let to = to.clone();
            cx.on_abort(&res, move |_| to.send("abort").expect("the test waits"));
            // Held until the server goes: it never answers.
            cx.after(Duration::from_secs(3600), move |_| res.text("too late"));
        });
        let to = tell.clone();
        app.get("/long", move |cx, _, res| {
            let body = res.stream();
            let to = to.clone();
            cx.on_abort(&body, move |_| to.send("abort").expect("the test waits"));
            produce(cx, body, 0, 64 << 20);
        });
        let to = tell.clone();
        app.get("/late", move |cx, _, res| {
            let res = res.defer();
            let to = to.clone();
            cx.on_abort(&res, move |_| to.send("abort").expect("the test waits"));
            cx.after(Duration::from_millis(300), move |_| res.text("late"));
        });
        let to = tell.clone();
        app.stream("POST", "/upload", move |cx, _, res, body| {
            let to = to.clone();
            let res = res.defer();
            body.fold(
                cx,
                (),
                |_, _, _| Demand::More,
                move |_, _, end| {
                    to.send(match end {
                        Err(Aborted::Connection) => "upload: the connection",
                        Err(Aborted::TooLarge) => "upload: too large",
                        Err(_) => "upload: another reason",
                        Ok(_) => "upload: whole",
                    })
                    .expect("the test waits");
                    drop(res);
                },
            );
        })
        .body_limit(1000);
        app.after(move |_, done| {
            if done.is_aborted() {
                let _ = tell.send("after: aborted");
            }
        });
        app
    });
    (server, told)
}

fn next(told: &Receiver<&'static str>) -> &'static str {
    told.recv_timeout(PATIENCE).expect("nobody was told")
}

#[test]
fn who_waits_for_a_client_is_told_that_it_is_gone() {
    let (server, told) = abort_site();
    for path in ["/never", "/long"] {
        for with_reset in [false, true] {
            let mut client = server.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
            if path == "/long" {
                assert_eq!(client.head().status, 200);
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
            vanish(client, with_reset);
            assert_eq!(next(&told), "abort", "{path}, with a reset: {with_reset}");
            // The answer of `/never` could still be sent to a client that has only closed its side.
            if path == "/long" || with_reset {
                assert_eq!(
                    next(&told),
                    "after: aborted",
                    "{path}, with a reset: {with_reset}"
                );
            }
        }
    }
    assert!(told.try_recv().is_err(), "told twice");
    server.handle.stop_now();
    server.join();
}

#[test]
fn who_only_closes_its_side_is_taken_for_gone_and_answered_all_the_same() {
    let (server, told) = abort_site();
    let mut client = server.connect();
    client.send("GET /late HTTP/1.1\r\nhost: test\r\n\r\n");
    client.close_sending();
    assert_eq!(next(&told), "abort");
    assert_eq!(client.answer().text(), "late");
    assert!(told.try_recv().is_err(), "told twice");
}

#[test]
fn an_upload_that_breaks_off_says_why() {
    let (server, told) = abort_site();
    let head = "POST /upload HTTP/1.1\r\nhost: test\r\n";
    for with_reset in [false, true] {
        let mut client = server.connect();
        client.send(format!("{head}content-length: 100\r\n\r\nhalf"));
        std::thread::sleep(Duration::from_millis(20));
        vanish(client, with_reset);
        assert_eq!(next(&told), "upload: the connection");
        assert_eq!(next(&told), "after: aborted");
    }
    // Only as it comes can a chunked body be found to be too large.
    let mut client = server.connect();
    client.send(format!("{head}transfer-encoding: chunked\r\n\r\n"));
    for _ in 0..3 {
        client.send(format!("190\r\n{}\r\n", "x".repeat(0x190)));
    }
    assert_eq!(client.answer().status, 413);
    assert_eq!(next(&told), "upload: too large");
}

/// Whose answer is complete needs no more of the body.
#[test]
fn an_answer_before_its_upload_ends_the_upload() {
    let (tell, told) = mpsc::channel();
    let server = serve(move || {
        let mut app = site();
        app.stream("POST", "/enough", move |cx, _, res, body| {
            let tell = tell.clone();
            body.fold(
                cx,
                Some(res.defer()),
                |res, _, _| {
                    if let Some(res) = res.take() {
                        res.text("enough");
                    }
                    Demand::More
                },
                move |_, _, end| tell.send(end.map(drop)).expect("the test waits"),
            );
        });
        app
    });
    let mut client = server.connect();
    client.send("POST /enough HTTP/1.1\r\nhost: test\r\ncontent-length: 200000\r\n\r\nfirst");
    assert_eq!(client.answer().essence(), (200, "enough"));
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Err(Aborted::Answered)));
    client.send(pattern(0, 200_000 - 5));
    assert_eq!(client.get("/").text(), "home");
}
