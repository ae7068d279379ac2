//! Each limit and timeout of WebSockets and topics, on both sides of its edge.

use crate::peer::*;
use crate::support::*;
use loopwright::{App, Ctx, Limits, Timeouts, TopicError, WebSocket};
use std::time::{Duration, Instant};

#[test]
fn message() {
    collect_log();
    let limits = Limits {
        message: 1000,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), || {
        let mut app: App = App::new();
        app.ws("/all", |_, ws, message| ws.send(message));
        let (tell, _) = ear();
        probes(
            &mut app,
            "/own",
            tell,
            |h| {
                h.message_limit(10);
                Ok(())
            },
            echo,
        );
        (app, ())
    });
    for (path, limit, setting) in [
        ("/all", 1000, "(limits.message)"),
        ("/own", 10, "Handshake::message_limit"),
    ] {
        let whole = |n: usize| frame(FIN | TEXT, &vec![b'x'; n]);
        let parts = |n: usize| [frame(TEXT, &vec![b'x'; n - 3]), frame(FIN, b"xxx")].concat();
        for wire in [whole(limit), parts(limit)] {
            let mut ws = Ws::open(&server, path);
            ws.raw(wire);
            assert_eq!(ws.says().len(), limit);
        }
        // Said from its header alone.
        for wire in [
            whole(limit + 1),
            parts(limit + 1),
            vec![FIN | BINARY, 0x80 | 127, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4],
        ] {
            let mut ws = Ws::open(&server, path);
            ws.raw(wire);
            assert_eq!(ws.closed().0, 1009);
            ws.ends();
            assert_eq!(logged(&[&ws.address(), "1009", setting]), 1);
        }
    }
}

/// A message that is small on the wire, and is not when it is decompressed.
#[test]
fn message_decompressed() {
    use loopwright::proto::ws::extension::{Agreed, Direction};
    use loopwright::proto::ws::send::Outbound;
    use loopwright::proto::ws::session::{Kind, Session};
    let limits = Limits {
        message: 100_000,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), || {
        let mut app: App = App::new();
        app.ws("/", |_, ws, message| {
            ws.send(&message.as_bytes().len().to_string())
        });
        (app, ())
    });
    let both = Direction {
        takeover: false,
        window_bits: 15,
    };
    let mut client = Session::client(
        Some(Agreed {
            server: both,
            client: both,
        }),
        1,
    );
    for (size, is_taken) in [(100_000, true), (100_001, false), (8_000_000, false)] {
        let mut wire = Vec::new();
        client
            .send(
                Kind::Binary,
                &vec![0; size],
                &mut wire,
                &mut Outbound::default(),
            )
            .expect("sent");
        assert!(wire.len() < 100_000);
        let offer = "sec-websocket-extensions: permessage-deflate\r\n";
        let mut ws = Ws::ask(
            server.tcp(),
            format!("GET / HTTP/1.1\r\n{FIELDS}{offer}\r\n"),
        );
        ws.raw(&wire);
        match is_taken {
            true => assert_eq!(ws.says(), size.to_string()),
            false => assert_eq!(ws.closed().0, 1009),
        }
    }
}

#[test]
fn compress_from() {
    for (from, expected) in [
        (0, [true, true, true]),
        (100, [false, false, true]),
        (usize::MAX, [false; 3]),
    ] {
        let limits = Limits {
            compress_from: from,
            ..Limits::default()
        };
        let server = serve_with(local().limits(limits), || {
            let mut app: App = App::new();
            app.ws("/", |_, ws, message| ws.send(message));
            (app, ())
        });
        let offer = "sec-websocket-extensions: permessage-deflate\r\n";
        let mut ws = Ws::ask(
            server.tcp(),
            format!("GET / HTTP/1.1\r\n{FIELDS}{offer}\r\n"),
        );
        let compressed = [0, 99, 100].map(|n| {
            ws.text(&"x".repeat(n));
            ws.frame().expect("an answer").rsv1
        });
        assert_eq!(compressed, expected, "{from}");
    }
}

fn subscribe(probe: &mut Probe, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    if let Some(pattern) = text.strip_prefix("+") {
        probe.say(format!("{:?}", cx.subscribe(ws, pattern)));
    } else if let Some(pattern) = text.strip_prefix("-") {
        probe.say(format!("{}", cx.unsubscribe(ws, pattern)));
    }
}

#[test]
fn subscriptions() {
    let limits = Limits {
        subscriptions: 2,
        ..Limits::default()
    };
    let (tell, told) = ear();
    let server = serve_with(local().limits(limits), move || {
        let mut app: App = App::new();
        probes(&mut app, "/", tell, |_| Ok(()), subscribe);
        (app, ())
    });
    let mut ws = Ws::open(&server, "/");
    told.hears("open");
    let too_many = format!("{:?}", Err::<bool, _>(TopicError::Subscriptions(2)));
    for (said, answer) in [
        ("+a", "Ok(true)"),
        ("+a", "Ok(false)"),
        ("+b/*", "Ok(true)"),
        ("+c", &too_many),
        ("-d", "false"),
        ("-a", "true"),
        ("+c", "Ok(true)"),
        ("+a//b", "Err(EmptySegment)"),
    ] {
        ws.text(said);
        told.hears(&format!("text:{said}"));
        told.hears(answer);
    }
}

#[test]
fn publications_and_their_bytes() {
    let (tell, told) = ear();
    let limits = Limits {
        publications: 3,
        published: 10_000,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), move || {
        let mut app: App = App::new();
        probes(
            &mut app,
            "/",
            tell,
            |_| Ok(()),
            |probe, cx, ws, text| match text {
                "open" => drop(cx.subscribe(ws, "t").expect("a pattern")),
                "number" => {
                    let said: Vec<bool> = (0..4)
                        .map(|n: i32| cx.publish("t", &n.to_string()).is_ok())
                        .collect();
                    // What nobody hears does not wait.
                    let nobody = cx.publish("nobody", "x").is_ok();
                    probe.say(format!("{said:?} {nobody} {:?}", cx.publish("t", "x")));
                }
                "bytes" => {
                    let large = "x".repeat(9_000);
                    let first = cx.publish("t", &large).is_ok();
                    probe.say(format!("{first} {:?}", cx.publish("t", &large)));
                }
                "too large" => probe.say(format!("{:?}", cx.publish("t", &"x".repeat(10_000)))),
                _ => {}
            },
        );
        (app, ())
    });
    let mut ws = Ws::open(&server, "/");
    told.hears("open");
    for _ in 0..3 {
        ws.text("number");
        told.hears("text:number");
        told.hears("[true, true, true, false] true Err(Publications(3))");
        assert_eq!([ws.says(), ws.says(), ws.says()], ["0", "1", "2"]);
        ws.text("bytes");
        told.hears("text:bytes");
        told.hears("true Err(Bytes(10000))");
        assert_eq!(ws.says().len(), 9_000);
        ws.text("too large");
        told.hears("text:too large");
        told.hears("Err(Bytes(10000))");
    }
}

/// Sockets live as long as their own timeouts say, and not as those of HTTP do.
#[test]
fn timeouts_of_http_are_none_of_a_socket() {
    let short = Duration::from_millis(50);
    let timeouts = Timeouts {
        idle: short,
        head: short,
        body: short,
        write: short,
        ..timeouts()
    };
    let server = serve_with(local().timeouts(timeouts), || {
        let mut app: App = App::new();
        app.ws("/", |_, ws, message| ws.send(message));
        (app, ())
    });
    let mut ws = Ws::open(&server, "/");
    ws.is_silent(Duration::from_millis(300));
    ws.text("still here");
    assert_eq!(ws.says(), "still here");
}

/// Neither sooner nor much later.
#[test]
fn socket_idle_begins_anew_with_what_is_heard() {
    let timeouts = Timeouts {
        socket_idle: Duration::from_millis(200),
        ..timeouts()
    };
    let server = serve_with(local().timeouts(timeouts), || {
        let mut app: App = App::new();
        app.ws("/", |_, ws, message| ws.send(message));
        (app, ())
    });
    let mut ws = Ws::open(&server, "/");
    std::thread::sleep(Duration::from_millis(120));
    ws.text("x");
    assert_eq!(ws.says(), "x");
    let begun = Instant::now();
    assert_eq!(ws.message().0, PING);
    let took = begun.elapsed();
    assert!((190..1500).contains(&took.as_millis()), "{took:?}");
}

/// As with the body of a request: who is slower than the least rate does not hold what has come of it.
#[test]
fn body_rate_holds_for_messages() {
    let grace = Duration::from_millis(400);
    let timeouts = Timeouts {
        body_rate: 1000,
        body_grace: grace,
        ..timeouts()
    };
    collect_log();
    let server = serve_with(local().timeouts(timeouts), || {
        let mut app: App = App::new();
        app.ws("/", |_, ws, message| ws.send(message));
        (app, ())
    });
    let drip = |ws: &mut Ws, wire: &[u8], at_once: usize, most: Duration| {
        let begun = Instant::now();
        for piece in wire.chunks(at_once) {
            if begun.elapsed() > most {
                return;
            }
            ws.raw(piece);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Short enough to be whole within the grace, or fast enough to be whole at all; again and again.
    let mut ws = Ws::open(&server, "/");
    for (len, at_once) in [(5, 1), (5, 1), (3000, 100), (5, 1)] {
        let text = "x".repeat(len);
        drip(
            &mut ws,
            &frame(FIN | TEXT, text.as_bytes()),
            at_once,
            grace * 10,
        );
        assert_eq!(ws.says(), text);
    }
    // Neither, in one frame or in many; whatever else it says.
    let parts: Vec<u8> = (0..100)
        .flat_map(|n| frame(if n == 0 { TEXT } else { 0 }, b"x"))
        .collect();
    for wire in [frame(TEXT, &[b'x'; 1000]), parts] {
        let mut ws = Ws::open(&server, "/");
        drip(&mut ws, &wire, 3, grace * 2);
        assert_eq!(ws.closed(), (1008, "too slow".into()));
    }
    assert_eq!(logged(&["less of a message", "timeouts.body_rate"]), 2);
}
