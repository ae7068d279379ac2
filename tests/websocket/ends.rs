//! Every way in which a socket ends: `close` is called, once, last, and says how.

use crate::peer::*;
use crate::support::*;
use loopwright::{App, Builder, Ctx, Limits, Timeouts, WebSocket};
use std::time::{Duration, Instant};

fn act(probe: &mut Probe, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    match text {
        "close" => ws.close(4000, "as asked"),
        "close twice" => {
            ws.close(4001, "first");
            ws.close(4002, "second");
            probe.say(format!("{:?} {}", ws.send("late"), ws.is_open()));
        }
        "odd code" => ws.close(1005, &"ä".repeat(100)),
        "panic" => panic!("on purpose"),
        "stop" => cx.stop(),
        "flood" => {
            for _ in 0..48 {
                ws.send_binary([b'x'; 16 * 1024]);
            }
        }
        _ => {}
    }
}

fn probe(builder: Builder) -> (TestServer, Ear) {
    collect_log();
    let (tell, told) = ear();
    let server = serve_with(builder, move || {
        let mut app: App = App::new();
        probes(&mut app, "/", tell.clone(), |_| Ok(()), act);
        probes(
            &mut app,
            "/panics",
            tell.clone(),
            |_| Ok(()),
            |_, _, _, _| panic!("in open"),
        );
        app.sockets("/last", move |_, _, _| Ok(PanicsLast(tell.clone())));
        app.get("/page", |_, _, res| res.text("here"));
        (app, ())
    });
    (server, told)
}

struct PanicsLast(std::sync::mpsc::Sender<String>);

impl loopwright::Socket for PanicsLast {
    fn message(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: loopwright::Message<'_>) {}
    fn close(&mut self, _: &mut Ctx<'_>, _: loopwright::Closed<'_>) {
        let _ = self.0.send("close".into());
        panic!("in close");
    }
}

/// One socket, one way to end, what it heard.
fn ends(how: impl FnOnce(&mut Ws), expected: &[&str]) {
    let (server, told) = probe(local());
    let mut ws = Ws::open(&server, "/");
    told.hears("open");
    how(&mut ws);
    for word in expected {
        told.hears(word);
    }
    assert_eq!(server.get("/page").text(), "here");
    drop(ws);
    drop(server);
    assert_eq!(told.rest(), [""; 0]);
}

#[test]
fn the_peer_closes() {
    for (code, echoed) in [(1000, 1000), (1001, 1001), (3000, 3000), (4999, 4999)] {
        ends(
            |ws| {
                ws.close(code, "the reason");
                assert_eq!(ws.closed(), (echoed, String::new()));
                ws.ends();
            },
            &[&format!("close:{code}:the reason")],
        );
    }
    ends(
        |ws| {
            ws.send(FIN | CLOSE, "");
            assert_eq!(ws.closed().0, 1005);
            ws.ends();
        },
        &["close:1005:"],
    );
}

#[test]
fn what_comes_behind_a_close_is_nothing() {
    ends(
        |ws| {
            let close = frame(FIN | CLOSE, &close_payload(1000, ""));
            ws.raw(
                [
                    close,
                    frame(FIN | TEXT, b"late"),
                    frame(FIN | TEXT, b"\xff"),
                ]
                .concat(),
            );
            assert_eq!(ws.closed().0, 1000);
            ws.ends();
        },
        &["close:1000:"],
    );
}

#[test]
fn we_close() {
    ends(
        |ws| {
            ws.text("close");
            assert_eq!(ws.closed(), (4000, "as asked".into()));
            // On its way before ours has come: read, and nobody's.
            ws.text("late");
            ws.send(FIN | PING, "late");
            ws.close(4000, "");
            ws.ends();
        },
        &["text:close", "close:4000:as asked"],
    );
    ends(
        |ws| {
            ws.text("close twice");
            assert_eq!(ws.closed(), (4001, "first".into()));
            ws.close(1000, "theirs");
            ws.ends();
        },
        &["text:close twice", "Closed false", "close:4001:first"],
    );
    ends(
        |ws| {
            ws.text("odd code");
            let (code, reason) = ws.closed();
            assert_eq!((code, reason), (1011, "ä".repeat(61)));
            ws.close(1011, "");
        },
        &["text:odd code", &format!("close:1011:{}", "ä".repeat(61))],
    );
}

#[test]
fn we_close_and_the_peer_just_leaves() {
    ends(
        |ws| {
            ws.text("close");
            assert_eq!(ws.closed().0, 4000);
            ws.stream
                .shutdown(std::net::Shutdown::Write)
                .expect("shut down");
            ws.ends();
        },
        &["text:close", "close:4000:as asked"],
    );
}

#[test]
fn we_close_and_the_peer_says_nothing_more() {
    let timeouts = Timeouts {
        linger: Duration::from_millis(200),
        ..timeouts()
    };
    let (server, told) = probe(local().timeouts(timeouts));
    let mut ws = Ws::open(&server, "/");
    ws.text("close");
    let begun = Instant::now();
    assert_eq!(ws.closed().0, 4000);
    ws.ends();
    assert!(
        begun.elapsed() > Duration::from_millis(150),
        "{:?}",
        begun.elapsed()
    );
    for word in ["open", "text:close", "close:4000:as asked"] {
        told.hears(word);
    }
}

#[test]
fn the_peer_is_gone() {
    ends(
        |ws| {
            ws.stream
                .shutdown(std::net::Shutdown::Write)
                .expect("shut down")
        },
        &["close:1006:the connection broke"],
    );
    ends(
        |ws| {
            // Within a frame, and within a message.
            ws.send(TEXT, "a");
            ws.raw(&frame(FIN, b"bcd")[..7]);
            ws.stream
                .shutdown(std::net::Shutdown::Both)
                .expect("shut down");
        },
        &["close:1006:the connection broke"],
    );
    let (server, told) = probe(local());
    let ws = Ws::open(&server, "/");
    told.hears("open");
    ws.reset();
    told.hears("close:1006:the connection broke");
    drop(server);
    assert_eq!(told.rest(), [""; 0]);
}

#[test]
fn the_server_leaves() {
    let (server, told) = probe(local());
    let mut clients: Vec<Ws> = (0..3).map(|_| Ws::open(&server, "/")).collect();
    (0..3).for_each(|_| told.hears("open"));
    server.handle.stop();
    for ws in &mut clients {
        assert_eq!(ws.closed(), (1001, "the server leaves".into()));
        ws.close(1001, "");
        ws.ends();
    }
    let left = server.join();
    assert_eq!((left.cut, left.connections), (0, 0));
    assert_eq!(told.rest(), ["close:1001:the server leaves"; 3]);
}

#[test]
fn the_server_leaves_at_once() {
    let (server, told) = probe(local());
    let ws = Ws::open(&server, "/");
    told.hears("open");
    // The client answers nothing: the first stop waits for it, the second does not.
    server.handle.stop();
    std::thread::sleep(Duration::from_millis(50));
    server.handle.stop();
    server.join();
    drop(ws);
    assert_eq!(told.rest(), ["close:1001:the server leaves"]);
}

#[test]
fn a_stop_from_within_a_callback() {
    let (server, told) = probe(local());
    let mut ws = Ws::open(&server, "/");
    ws.text("stop");
    assert_eq!(ws.closed().0, 1001);
    ws.close(1001, "");
    ws.ends();
    server.join();
    assert_eq!(
        told.rest(),
        ["open", "text:stop", "close:1001:the server leaves"]
    );
}

#[test]
fn a_callback_panics() {
    ends(
        |ws| {
            ws.raw([frame(FIN | TEXT, b"panic"), frame(FIN | TEXT, b"late")].concat());
            assert_eq!(ws.closed(), (1011, String::new()));
            ws.close(1011, "");
            ws.ends();
        },
        &["text:panic", "close:1011:"],
    );
    assert!(logged(&["WebSocket panicked", "on purpose"]) > 0);
    let (server, told) = probe(local());
    let mut ws = Ws::open(&server, "/panics");
    assert_eq!(ws.closed(), (1011, String::new()));
    ws.close(1011, "");
    ws.ends();
    told.hears("open");
    told.hears("close:1011:");
    assert!(logged(&["panicked: in open"]) > 0);
    drop(ws);
    let mut ws = Ws::open(&server, "/last");
    ws.close(1000, "");
    assert_eq!(ws.closed().0, 1000);
    told.hears("close");
    assert_eq!(server.get("/page").text(), "here");
    drop(ws);
    drop(server);
    assert_eq!(told.rest(), [""; 0]);
}

fn silent(first: &[u8]) {
    let timeouts = Timeouts {
        socket_idle: Duration::from_millis(150),
        pong: Duration::from_millis(150),
        // What ends an unfinished frame is no Close.
        linger: Duration::from_millis(200),
        ..timeouts()
    };
    let (server, told) = probe(local().timeouts(timeouts));
    let mut ws = Ws::open(&server, "/");
    told.hears("open");
    ws.raw(first);
    let begun = Instant::now();
    assert_eq!(ws.message(), (PING, vec![]));
    let asked = begun.elapsed();
    assert!(asked > Duration::from_millis(140), "{asked:?}");
    assert_eq!(ws.closed(), (1001, "no sign of life".into()));
    let closed = begun.elapsed();
    assert!(closed > Duration::from_millis(280), "{closed:?}");
    ws.close(1001, "");
    ws.ends();
    drop(ws);
    drop(server);
    assert_eq!(told.rest(), ["close:1001:no sign of life"]);
}

#[test]
fn a_client_that_falls_silent() {
    silent(b"");
}

/// What it began to say is no sign of life when it comes to nothing.
#[test]
fn a_client_that_falls_silent_within_a_frame() {
    silent(&frame(FIN | TEXT, b"")[..1]);
    silent(&frame(FIN | TEXT, b"abc")[..3]);
    silent(&frame(FIN | TEXT, b"abc")[..7]);
    silent(&frame(TEXT, b"abc"));
}

#[test]
fn a_client_that_takes_nothing() {
    let timeouts = Timeouts {
        write: Duration::from_millis(300),
        ..timeouts()
    };
    let limits = Limits {
        unsent: 16 * 1024,
        ..Limits::default()
    };
    let (server, told) = probe(local().timeouts(timeouts).limits(limits));
    let mut ws = Ws::small(&server, "/");
    ws.text("flood");
    for word in ["open", "text:flood", "close:1006:the connection broke"] {
        told.hears(word);
    }
    assert!(logged(&[&ws.address(), "timeouts.write"]) > 0);
    drop(ws);
    drop(server);
    assert_eq!(told.rest(), [""; 0]);
}
