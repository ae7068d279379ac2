//! A client that stops reading, under each policy: what it gets in the end, and what waits meanwhile.

use crate::peer::*;
use crate::support::*;
use loopwright::{App, Ctx, Limits, Message, Sent, Slow, Timeouts, WebSocket};
use std::time::Duration;

const MESSAGES: usize = 400;
const SIZE: usize = 10_000;
const WAITS: usize = 128 * 1024;

fn numbered(n: usize) -> String {
    format!("{n:06}{}", "x".repeat(SIZE - 6))
}

fn number(text: &str) -> usize {
    assert_eq!(text.len(), SIZE);
    text[..6].parse().expect("a number")
}

fn act(probe: &mut Probe, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    match text {
        "open" => drop(cx.subscribe(ws, "all").expect("a pattern")),
        "here" => {
            let mut most = 0;
            for n in 0..MESSAGES {
                ws.send(&numbered(n));
                most = most.max(ws.buffered());
            }
            probe.say(format!("most {most}"));
        }
        "by handle" => {
            let handle = ws.handle();
            (0..MESSAGES).for_each(|n| {
                handle.send(&numbered(n));
            });
        }
        "published" => {
            (0..MESSAGES).for_each(|n| cx.publish("all", &numbered(n)).expect("published"));
        }
        "how much" => probe.say(format!("most {}", ws.buffered())),
        "last" => drop(ws.send(&numbered(MESSAGES))),
        "state" => probe.say(format!("{}", ws.is_open())),
        _ => {}
    }
}

fn server(slow: Slow) -> (TestServer, Ear) {
    collect_log();
    let (tell, told) = ear();
    let limits = Limits {
        unsent: 16 * 1024,
        socket_output: WAITS,
        high_water: 32 * 1024,
        ..Limits::default()
    };
    let timeouts = Timeouts {
        drain: Duration::from_secs(2),
        ..timeouts()
    };
    let server = serve_with(local().limits(limits).timeouts(timeouts), move || {
        let mut app: App = App::new();
        let set = move |h: &mut loopwright::Handshake<'_>| {
            h.slow(slow).message_limit(1 << 20);
            Ok(())
        };
        probes(&mut app, "/", tell, set, act);
        (app, ())
    });
    (server, told)
}

/// Has so much sent to a client that does not read; what is told while it does not.
fn flood(how: &str, slow: Slow) -> (TestServer, Ear, Ws) {
    let (server, told) = server(slow);
    let mut ws = Ws::small(&server, "/");
    told.hears("open");
    ws.text(how);
    told.hears(&format!("text:{how}"));
    (server, told, ws)
}

fn most(told: &Ear) -> usize {
    let word = told.next();
    let most = word
        .strip_prefix("most ")
        .unwrap_or_else(|| panic!("{word}"));
    most.parse().expect("a number")
}

/// Reads up to the message behind the flood.
fn read_on(ws: &mut Ws) -> Vec<usize> {
    ws.text("last");
    let mut got = Vec::new();
    while got.last() != Some(&MESSAGES) {
        got.push(number(&ws.says()));
    }
    assert!(
        got.is_sorted_by(|a, b| a < b),
        "in order, each once: {got:?}"
    );
    got.pop();
    got
}

const HOW: [&str; 3] = ["here", "by handle", "published"];

#[test]
fn drop_newest() {
    for how in HOW {
        let (_server, told, mut ws) = flood(how, Slow::DropNewest);
        if how == "here" {
            assert!(most(&told) <= WAITS);
        }
        ws.is_quiet();
        let mut got = read_while_it_comes(&mut ws);
        assert!(got.len() < MESSAGES, "{how}: nothing was dropped");
        assert!(got.iter().copied().eq(0..got.len()), "{how}: {got:?}");
        got = read_on(&mut ws);
        assert_eq!(got, [0; 0], "{how}");
    }
}

#[test]
fn drop_oldest() {
    for how in HOW {
        let (_server, told, mut ws) = flood(how, Slow::DropOldest);
        if how == "here" {
            assert!(most(&told) <= WAITS);
        }
        ws.is_quiet();
        let got = read_while_it_comes(&mut ws);
        assert!(got.len() < MESSAGES, "{how}: nothing was dropped");
        let latest = WAITS / SIZE / 2;
        assert!(
            got.ends_with(&(MESSAGES - latest..MESSAGES).collect::<Vec<_>>()),
            "{how}: the latest are missing: {got:?}"
        );
        assert_eq!(read_on(&mut ws), [0; 0], "{how}");
    }
}

#[test]
fn close() {
    for how in HOW {
        let (server, told, mut ws) = flood(how, Slow::Close);
        if how == "here" {
            assert!(most(&told) <= WAITS + 1024);
        }
        ws.is_quiet();
        let mut got = 0;
        let (code, reason) = loop {
            match ws.message() {
                (TEXT, payload) => {
                    assert_eq!(number(std::str::from_utf8(&payload).expect("UTF-8")), got);
                    got += 1;
                }
                (CLOSE, payload) => {
                    break (
                        u16::from_be_bytes([payload[0], payload[1]]),
                        payload[2..].to_vec(),
                    );
                }
                other => panic!("{other:?}"),
            }
        };
        assert!(got < MESSAGES);
        assert_eq!((code, &reason[..]), (1008, &b"too slow"[..]));
        ws.close(1008, "");
        ws.ends();
        told.hears("close:1008:too slow");
        drop(ws);
        drop(server);
        assert_eq!(told.rest(), [""; 0]);
    }
    assert!(logged(&["limits.socket_output", "131072"]) >= 3);
}

/// The sender hears of each that is not sent: together they are all, and none is both.
#[test]
fn tell() {
    for how in HOW {
        let (server, told, mut ws) = flood(how, Slow::Tell);
        if how == "here" {
            assert!(most(&told) <= WAITS);
        }
        ws.is_quiet();
        let got = read_while_it_comes(&mut ws);
        assert!(got.iter().copied().eq(0..got.len()), "{how}: {got:?}");
        assert_eq!(read_on(&mut ws), [0; 0], "{how}");
        ws.close(1000, "");
        assert_eq!(ws.closed().0, 1000);
        drop(ws);
        drop(server);
        let rest = told.rest();
        let missed = rest
            .iter()
            .filter_map(|word| word.strip_prefix("missed:text:"));
        let missed: Vec<usize> = missed.map(number).collect();
        let expected = match how {
            // There it is what `send` says.
            "here" => Vec::new(),
            _ => (got.len()..MESSAGES).collect(),
        };
        assert_eq!(missed, expected, "{how}");
        assert_eq!(
            rest.iter().filter(|word| *word == "drained").count(),
            1,
            "{how}"
        );
    }
}

impl Ws {
    /// For as long as it takes the server to do what it was asked.
    fn is_quiet(&mut self) {
        std::thread::sleep(Duration::from_millis(150));
    }
}

fn read_while_it_comes(ws: &mut Ws) -> Vec<usize> {
    ws.text("how much");
    let mut got = Vec::new();
    // The answer to a ping comes behind all that waits.
    ws.send(FIN | PING, "done?");
    loop {
        match ws.message() {
            (TEXT, payload) => got.push(number(std::str::from_utf8(&payload).expect("UTF-8"))),
            (PONG, _) => return got,
            other => panic!("{other:?}"),
        }
    }
}

fn many_parts(probe: &mut Probe, _: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    if text == "begin" {
        probe.left = 500;
    }
    if !["begin", "drained"].contains(&text) {
        return;
    }
    while probe.left > 0 {
        let part = numbered(probe.left as usize);
        let sent = ws.send_fragment(Message::Text(&part), probe.left == 1);
        assert_ne!(sent, Sent::Dropped);
        probe.left -= 1;
        if sent != Sent::Taken {
            probe.say(format!("most {}", ws.buffered()));
            break;
        }
    }
}

/// A message much larger than what may wait, as fast as the client takes it.
#[test]
fn drained_goes_on_with_a_message_in_parts() {
    let (tell, told) = ear();
    let limits = Limits {
        unsent: 16 * 1024,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), move || {
        let mut app: App = App::new();
        probes(&mut app, "/", tell, |_| Ok(()), many_parts);
        (app, ())
    });
    let mut ws = Ws::small(&server, "/");
    ws.text("begin");
    std::thread::sleep(Duration::from_millis(50));
    for left in (1..=500).rev() {
        let frame = ws.frame().expect("a part");
        assert_eq!(frame.fin, left == 1);
        assert_eq!(frame.opcode, if left == 500 { TEXT } else { 0 });
        assert_eq!(
            number(std::str::from_utf8(&frame.payload).expect("UTF-8")),
            left
        );
    }
    drop(ws);
    drop(server);
    let rest = told.rest();
    let most = rest.iter().filter_map(|word| word.strip_prefix("most "));
    let most: Vec<usize> = most.map(|n| n.parse().expect("a number")).collect();
    assert!(
        most.len() > 3 && most.iter().all(|n| *n < 64 * 1024 + 2 * SIZE),
        "{most:?}"
    );
}

fn heedless(probe: &mut Probe, _: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    match text {
        "begin" => {
            let (mut most, mut dropped) = (0, 0);
            for n in 0..MESSAGES {
                let sent = ws.send_fragment(Message::Text(&numbered(n)), false);
                dropped += usize::from(sent == Sent::Dropped);
                most = most.max(ws.buffered());
            }
            // Behind it.
            for n in 0..MESSAGES {
                dropped += usize::from(ws.send(&numbered(n)) == Sent::Dropped);
                most = most.max(ws.buffered());
            }
            probe.say(format!("{} {most}", dropped > 0));
        }
        "end" => probe.say(format!(
            "{:?}",
            ws.send_fragment(Message::Text(&numbered(7)), true)
        )),
        _ => {}
    }
}

/// Who does not heed what `send_fragment` says cannot fill the memory either; and what was begun is never
/// torn, whatever is dropped.
#[test]
fn parts_and_what_is_behind_them_are_bounded() {
    for slow in [Slow::DropNewest, Slow::DropOldest, Slow::Tell] {
        let (tell, told) = ear();
        let limits = Limits {
            unsent: 16 * 1024,
            socket_output: WAITS,
            ..Limits::default()
        };
        let server = serve_with(local().limits(limits), move || {
            let mut app: App = App::new();
            let set = move |h: &mut loopwright::Handshake<'_>| {
                h.slow(slow);
                Ok(())
            };
            probes(&mut app, "/", tell, set, heedless);
            (app, ())
        });
        let mut ws = Ws::small(&server, "/");
        ws.text("begin");
        told.hears("open");
        told.hears("text:begin");
        let word = told.next();
        let most = word.strip_prefix("true ").expect("some are dropped");
        let most: usize = most.parse().expect("a number");
        assert!(most <= WAITS + SIZE, "{slow:?}: {most}");
        // The first part of a message begins it, whatever is between it and the last.
        let mut parts = 0;
        let last = loop {
            ws.stream
                .set_read_timeout(Some(Duration::from_millis(300)))
                .expect("a timeout");
            let mut peeked = [0];
            if ws.is_empty() && ws.stream.peek(&mut peeked).is_err() {
                break parts;
            }
            let frame = ws.frame().expect("a part");
            assert_eq!(
                (frame.fin, frame.opcode),
                (false, if parts == 0 { TEXT } else { 0 }),
                "{slow:?}"
            );
            parts += 1;
        };
        assert!(last > 0 && last < MESSAGES);
        ws.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        ws.text("end");
        let frame = ws.frame().expect("the last part");
        assert_eq!(
            (frame.fin, frame.opcode, &frame.payload[..]),
            (true, 0, numbered(7).as_bytes()),
            "{slow:?}"
        );
        ws.text("close");
        ws.send(FIN | PING, "");
        let mut behind = Vec::new();
        while let (TEXT, payload) = ws.message() {
            behind.push(number(std::str::from_utf8(&payload).expect("UTF-8")));
        }
        match slow {
            Slow::DropOldest => assert!(
                behind.iter().copied().eq(MESSAGES - behind.len()..MESSAGES),
                "{behind:?}"
            ),
            _ => assert!(behind.iter().copied().eq(0..behind.len()), "{behind:?}"),
        }
    }
}

/// With a limit below high water, too, there is a word to go on.
#[test]
fn a_small_output_limit_tells_when_there_is_room() {
    let (tell, told) = ear();
    let limits = Limits {
        unsent: 16 * 1024,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), move || {
        let mut app: App = App::new();
        let set = |h: &mut loopwright::Handshake<'_>| {
            h.output_limit(30_000).slow(Slow::Tell);
            Ok(())
        };
        probes(&mut app, "/", tell, set, |probe, _, ws, text| {
            if text == "begin" {
                probe.left = MESSAGES as u32;
            }
            while ["begin", "drained"].contains(&text) && probe.left > 0 {
                match ws.send(&numbered(MESSAGES - probe.left as usize)) {
                    Sent::Taken => probe.left -= 1,
                    Sent::Full => {
                        probe.left -= 1;
                        break;
                    }
                    // Again, when there is room.
                    Sent::Dropped => break,
                    Sent::Closed => panic!("it is open"),
                }
            }
        });
        (app, ())
    });
    let mut ws = Ws::small(&server, "/");
    ws.text("begin");
    std::thread::sleep(Duration::from_millis(50));
    for n in 0..MESSAGES {
        assert_eq!(number(&ws.says()), n);
    }
    told.hears("open");
}

/// Small messages take more than their bytes: what they take counts.
#[test]
fn many_small_messages_are_not_little() {
    const MANY: usize = 20_000;
    let (tell, told) = ear();
    let limits = Limits {
        socket_output: 64 * 1024,
        high_water: 32 * 1024,
        deliveries_per_turn: MANY,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), move || {
        let mut app: App = App::new();
        let drops = |h: &mut loopwright::Handshake<'_>| {
            h.slow(Slow::DropNewest);
            Ok(())
        };
        let act =
            |probe: &mut Probe, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str| match text {
                "open" => drop(cx.subscribe(ws, "all").expect("a pattern")),
                "flood" => (0..MANY).for_each(|_| cx.publish("all", "x").expect("published")),
                "behind" => {
                    ws.send_fragment(Message::Text("a"), false);
                    let taken = (0..MANY).take_while(|_| ws.send("") != Sent::Dropped);
                    probe.say(format!("{}", taken.count()));
                }
                "end" => drop(ws.send("end")),
                _ => {}
            };
        probes(&mut app, "/", tell, drops, act);
        (app, ())
    });
    let mut ws = Ws::open(&server, "/");
    ws.text("flood");
    std::thread::sleep(Duration::from_millis(300));
    ws.text("end");
    let got = std::iter::repeat_with(|| ws.says())
        .take_while(|text| text == "x")
        .count();
    assert!((500..3000).contains(&got), "{got}");
    ws.text("behind");
    told.hears("open");
    told.hears("text:flood");
    told.hears("drained");
    told.hears("text:end");
    told.hears("text:behind");
    let taken: usize = told.next().parse().expect("a number");
    assert!((500..3000).contains(&taken), "{taken}");
}
