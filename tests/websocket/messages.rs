//! Messages both ways: kinds, sizes, fragments, pings, and who may send from where.

use crate::peer::*;
use crate::support::*;
use loopwright::{App, Compression, Ctx, Message, Sent, SocketHandle, Timeouts, WebSocket};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

fn echoing() -> TestServer {
    serve(|| {
        let mut app: App = App::new();
        app.ws("/echo", |_, ws, message| ws.send(message));
        app.get("/", |_, _, res| res.text("here"));
        app
    })
}

#[test]
fn what_is_sent_comes_back() {
    let server = echoing();
    let mut ws = Ws::open(&server, "/echo");
    for (opcode, payload) in [
        (TEXT, b"hello".to_vec()),
        (TEXT, Vec::new()),
        (BINARY, Vec::new()),
        (BINARY, vec![0xff; 1]),
        (TEXT, "ä€😀".repeat(5000).into_bytes()),
        (BINARY, vec![7; 125]),
        (BINARY, vec![8; 126]),
        (BINARY, vec![9; 65_535]),
        (BINARY, (0..64 * 1024).map(|n| (n % 251) as u8).collect()),
        (BINARY, (0..1 << 20).map(|n| (n % 241) as u8).collect()),
    ] {
        ws.send(FIN | opcode, &payload);
        assert!(
            ws.message() == (opcode, payload.clone()),
            "{opcode} {}",
            payload.len()
        );
    }
    // Many in one write, in their order.
    let many: Vec<u8> = (0..1000)
        .flat_map(|n: u32| frame(FIN | TEXT, n.to_string().as_bytes()))
        .collect();
    ws.raw(&many);
    for n in 0..1000 {
        assert_eq!(ws.says(), n.to_string());
    }
    assert_eq!(server.get("/").text(), "here");
}

/// Large ones leave without being copied: past what waits, they may not.
#[test]
fn large_ones_keep_their_place() {
    const SIZES: [usize; 7] = [40_000, 10, 300_000, 16 * 1024, 0, 200_000, 1];
    let server = serve(|| {
        let mut app: App = App::new();
        app.ws("/", |_, ws, message| {
            let from = message.as_bytes().first().map_or(0, |n| usize::from(*n));
            for (n, size) in SIZES.iter().enumerate().skip(from) {
                let sent = ws.send_binary(vec![n as u8; *size]);
                assert!(sent == Sent::Taken || sent == Sent::Full, "{n} {sent:?}");
            }
        });
        app
    });
    let mut ws = Ws::small(&server, "/");
    for from in [0, 1, 2] {
        ws.send(FIN | BINARY, [from]);
        // It has all been sent, and most of it waits.
        std::thread::sleep(Duration::from_millis(50));
        for (n, size) in SIZES.iter().enumerate().skip(from.into()) {
            let whole = ws.message() == (BINARY, vec![n as u8; *size]);
            assert!(whole, "{n}, from {from}");
        }
    }
}

#[test]
fn fragments_are_one_message_and_pings_may_come_between() {
    let server = echoing();
    let mut ws = Ws::open(&server, "/echo");
    ws.send(TEXT, "a\u{20ac}".as_bytes().split_at(2).0);
    ws.send(FIN | PING, "between");
    ws.send(0, "a\u{20ac}".as_bytes().split_at(2).1);
    assert_eq!(ws.message(), (PONG, b"between".to_vec()));
    ws.send(0, "");
    ws.send(FIN, "z");
    assert_eq!(ws.says(), "a\u{20ac}z");
}

/// The closing code says what was wrong, and it says so as soon as that is sure.
#[test]
fn what_is_no_message() {
    collect_log();
    let server = echoing();
    for (wire, code) in [
        // Half a code point may still become one; this cannot.
        ([TEXT, 0x80 | 3, 0, 0, 0, 0, b'a', 0xff].to_vec(), 1007),
        (frame(FIN | TEXT, b"\xc0\x80"), 1007),
        (frame(FIN | TEXT, b"\xe2\x82"), 1007),
        (b"\x81\x01x".to_vec(), 1002),
        (frame(FIN | 3, b""), 1002),
        (frame(FIN | 0x40 | TEXT, b""), 1002),
        (frame(FIN, b"continues nothing"), 1002),
        (frame(PING, b"in pieces"), 1002),
        (frame(FIN | PING, &[0; 126]), 1002),
        (frame(FIN | CLOSE, &close_payload(1005, "")), 1002),
        (frame(FIN | CLOSE, &close_payload(999, "")), 1002),
        (frame(FIN | CLOSE, b"x"), 1002),
        (frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
        ([frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(), 1002),
    ] {
        let mut ws = Ws::open(&server, "/echo");
        ws.text("before");
        ws.raw(&wire);
        assert_eq!(ws.says(), "before", "{wire:?}");
        assert_eq!(ws.closed().0, code, "{wire:?}");
        ws.ends();
        let (who, what) = (ws.address(), format!("closed with {code}"));
        assert_eq!(logged(&[&who, &what]), 1, "{wire:?}");
    }
}

#[test]
fn fragments_as_they_come() {
    let (tell, told) = ear();
    let server = serve(move || {
        let mut app: App = App::new();
        let set = |handshake: &mut loopwright::Handshake<'_>| {
            handshake.fragments().message_limit(8);
            Ok(())
        };
        probes(&mut app, "/parts", tell, set, echo);
        app
    });
    let mut ws = Ws::open(&server, "/parts");
    told.hears("open");
    ws.send(BINARY, "abc");
    told.hears("part:false:true:false:abc");
    // Longer than the limit for messages, which are not gathered here.
    ws.send(0, "defghijklmnop");
    told.hears("part:false:false:false:defghijklmnop");
    ws.send(FIN | PING, "");
    assert_eq!(ws.message(), (PONG, vec![]));
    ws.send(FIN, "");
    told.hears("part:false:false:true:");
    ws.text("whole");
    told.hears("part:true:true:true:whole");
    // A frame that comes in two segments is two parts.
    let wire = frame(FIN | TEXT, b"one two");
    ws.raw(&wire[..9]);
    told.hears("part:true:true:false:one");
    ws.raw(&wire[9..]);
    told.hears("part:true:false:true: two");
    ws.close(1000, "bye");
    assert_eq!(ws.closed().0, 1000);
    told.hears("close:1000:bye");
}

fn in_parts(probe: &mut Probe, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    match text {
        "begin" => {
            ws.send_fragment(Message::Text("a"), false);
            ws.send("behind 1");
            ws.send_fragment(Message::Text("\u{20ac}"), false);
            ws.ping("now");
            let handle = ws.handle();
            handle.send("behind 3");
            ws.send_binary("behind 2");
            cx.publish("parts", "behind 4").expect("published");
        }
        "end" => drop(ws.send_fragment(Message::Text("z"), true)),
        "open" => drop(cx.subscribe(ws, "parts").expect("a pattern")),
        "wrong" => {
            ws.send_fragment(Message::Text("a"), false);
            let sent = ws.send_fragment(Message::Binary(b"b"), false);
            probe.say(format!("{sent:?}"));
            ws.close(1000, "in the middle of a message");
        }
        _ => {}
    }
}

#[test]
fn other_messages_wait_behind_one_in_parts() {
    let (tell, told) = ear();
    let server = serve(move || {
        let mut app: App = App::new();
        probes(&mut app, "/parts", tell, |_| Ok(()), in_parts);
        app
    });
    let mut ws = Ws::open(&server, "/parts");
    ws.text("begin");
    let part = |fin, opcode, payload: &str| {
        let payload = payload.as_bytes().to_vec();
        Some(Frame {
            fin,
            rsv1: false,
            opcode,
            payload,
        })
    };
    assert_eq!(ws.frame(), part(false, TEXT, "a"));
    assert_eq!(ws.frame(), part(false, 0, "\u{20ac}"));
    assert_eq!(ws.frame(), part(true, PING, "now"));
    ws.is_silent(Duration::from_millis(100));
    ws.text("end");
    assert_eq!(ws.frame(), part(true, 0, "z"));
    assert_eq!(ws.says(), "behind 1");
    assert_eq!(ws.message(), (BINARY, b"behind 2".to_vec()));
    assert_eq!(ws.says(), "behind 3");
    assert_eq!(ws.says(), "behind 4");
    ws.text("wrong");
    assert_eq!(ws.frame(), part(false, TEXT, "a"));
    assert_eq!(ws.closed(), (1000, "in the middle of a message".into()));
    for expected in ["open", "text:begin", "text:end", "text:wrong", "Dropped"] {
        told.hears(expected);
    }
}

#[test]
fn pings_and_pongs() {
    let (tell, told) = ear();
    let server = serve(move || {
        let mut app: App = App::new();
        probes(
            &mut app,
            "/",
            tell,
            |_| Ok(()),
            |_, _, ws, text| match text {
                "ping" => ws.ping("are you there?"),
                "long" => ws.ping([b'x'; 200]),
                _ => {}
            },
        );
        app
    });
    let mut ws = Ws::open(&server, "/");
    told.hears("open");
    ws.send(FIN | PING, [1; 125]);
    assert_eq!(ws.message(), (PONG, vec![1; 125]));
    ws.send(FIN | PONG, "nobody asked");
    told.hears("pong:nobody asked");
    ws.text("ping");
    assert_eq!(ws.message(), (PING, b"are you there?".to_vec()));
    told.hears("text:ping");
    ws.text("long");
    assert_eq!(ws.message(), (PING, vec![b'x'; 125]));
}

type Handles = Rc<RefCell<Vec<SocketHandle>>>;

/// A handle sends from timers, other requests, and closures of other threads; once the socket is gone,
/// nothing happens.
#[test]
fn handles() {
    let (tell, told) = ear();
    let server = serve(move || {
        let handles = Handles::default();
        let mut app: App = App::new();
        let known = handles.clone();
        app.sockets("/", move |cx, _, _| {
            let known = known.clone();
            let probe = Probe::new(&tell, |probe, cx, ws, text| match text {
                "open" => {
                    let handle = ws.handle();
                    cx.after(Duration::from_millis(1), move |_| {
                        assert!(handle.send("from a timer"));
                    });
                }
                _ => probe.say("?"),
            });
            cx.after(Duration::from_millis(20), move |_| drop(known));
            Ok(probe)
        });
        app.sockets("/known", {
            let handles = handles.clone();
            move |_, _, _| Ok(Known(handles.clone()))
        });
        app.post("/say", {
            let handles = handles.clone();
            move |_, req, res| {
                let text = String::from_utf8_lossy(req.body()).into_owned();
                let sent = handles
                    .borrow()
                    .iter()
                    .filter(|handle| handle.send(&text))
                    .count();
                res.text(sent.to_string())
            }
        });
        app.post("/close", {
            let handles = handles.clone();
            move |_, _, res| {
                let handles = handles.borrow();
                // What is said before goes out before, and nothing after.
                let said: Vec<bool> = handles
                    .iter()
                    .flat_map(|h| {
                        [
                            h.send("last"),
                            h.ping(b"p"),
                            h.close(4321, "enough"),
                            h.close(1000, "again"),
                            h.send("late"),
                        ]
                    })
                    .collect();
                res.text(format!("{said:?}"))
            }
        });
        app.get("/gone", move |_, _, res| {
            let handles = handles.borrow();
            let handle = &handles[0];
            let sent = (handle.send("x"), handle.ping(b""), handle.close(1000, ""));
            res.text(format!("{} {sent:?}", handle.is_closed()))
        });
        app
    });
    let mut ws = Ws::open(&server, "/");
    told.hears("open");
    assert_eq!(ws.says(), "from a timer");
    let mut known = Ws::open(&server, "/known");
    let post = |path: &str, body: &str| {
        let mut client = server.connect();
        let length = body.len();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"
        ));
        client.answer().text().to_string()
    };
    assert_eq!(post("/say", "from a request"), "1");
    assert_eq!(known.says(), "from a request");
    post("/close", "");
    assert_eq!(known.says(), "last");
    assert_eq!(known.message(), (PING, b"p".to_vec()));
    assert_eq!(known.closed(), (4321, "enough".into()));
    known.close(4321, "");
    known.ends();
    wait_until("it is gone", || {
        server.get("/gone").text() == "true (false, false, false)"
    });
}

struct Known(Handles);

impl loopwright::Socket for Known {
    fn open(&mut self, _: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
        self.0.borrow_mut().push(ws.handle());
    }
    fn message(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: Message<'_>) {}
}

/// With each kind of compression, a client that offers it: the bit is set, and what is short is plain.
#[test]
fn compression_is_agreed_on_and_used() {
    let server = serve(|| {
        let mut app: App = App::new();
        for (path, compression) in [
            ("/off", Compression::Off),
            ("/on", Compression::On),
            ("/context", Compression::Context),
        ] {
            let (tell, _) = ear();
            probes(
                &mut app,
                path,
                tell,
                move |h| {
                    h.compression(compression);
                    Ok(())
                },
                echo,
            );
        }
        app
    });
    for (path, long, agreed) in [
        ("/off", false, None),
        (
            "/on",
            true,
            Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ),
        ("/context", true, Some("permessage-deflate")),
    ] {
        let offer = "sec-websocket-extensions: permessage-deflate\r\n";
        let mut ws = Ws::ask(
            server.tcp(),
            format!("GET {path} HTTP/1.1\r\n{FIELDS}{offer}\r\n"),
        );
        assert_eq!(ws.head.field("sec-websocket-extensions"), agreed, "{path}");
        ws.text(&"x".repeat(255));
        assert_eq!(ws.says(), "x".repeat(255));
        ws.text(&"x".repeat(256));
        let frame = ws.frame().expect("an answer");
        assert_eq!(
            (frame.rsv1, frame.payload.len() < 256),
            (long, long),
            "{path}"
        );
    }
}

/// A socket that is heard from is never asked; one that answers the ping lives on.
#[test]
fn a_ping_that_is_answered_keeps_it_open() {
    let timeouts = Timeouts {
        socket_idle: Duration::from_millis(100),
        pong: Duration::from_millis(300),
        ..timeouts()
    };
    let (tell, told) = ear();
    let server = serve_with(local().timeouts(timeouts), move || {
        let mut app: App = App::new();
        probes(&mut app, "/", tell, |_| Ok(()), echo);
        (app, ())
    });
    let mut ws = Ws::open(&server, "/");
    for _ in 0..8 {
        assert_eq!(ws.message(), (PING, vec![]));
        ws.send(FIN | PONG, "");
    }
    for n in 0..8 {
        ws.text(&n.to_string());
        assert_eq!(ws.says(), n.to_string());
        std::thread::sleep(Duration::from_millis(30));
    }
    ws.close(1000, "");
    assert_eq!(ws.closed().0, 1000);
    drop(ws);
    drop(server);
    let told = told.rest();
    assert_eq!(told.iter().filter(|word| *word == "pong:").count(), 8);
    assert_eq!(told.last().map(String::as_str), Some("close:1000:"));
}
