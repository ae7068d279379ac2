//! Answers that come before their request is whole, and what becomes of the rest of it.

use crate::sure::{ANSWER, CALM, GET, TWO, World};
use loopwright::sim::{Client, Faults};
use loopwright::{Balance, PoolLimits, Retries, Upstream};
use std::time::Duration;

const ONE: [&str; 1] = ["10.0.0.0:80"];
const HEAD: &str = "PUT /up HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const PIECES: usize = 40;
const PIECE: usize = 5000;

fn piece(number: usize) -> String {
    format!("{number:05}").repeat(PIECE / 5)
}

fn chunk(number: usize) -> String {
    format!("{PIECE:x}\r\n{}\r\n", piece(number))
}

/// The bodies of chunked requests, without their framing.
fn unchunked(mut rest: &str) -> Result<String, String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").ok_or("no chunk size")?;
        let size = usize::from_str_radix(size, 16).map_err(|e| format!("{size:?}: {e}"))?;
        body.push_str(after.get(..size).ok_or("a chunk is cut off")?);
        rest = after[size..].strip_prefix("\r\n").ok_or("no line end")?;
        if size == 0 {
            return Ok(body);
        }
    }
}

impl World {
    /// Whether it comes to hear this, and nothing behind it.
    fn hears(&mut self, wire: Client, end: &str) -> bool {
        let mut patience = 100;
        while !self.heard(wire).ends_with(end) && patience > 0 {
            self.pass(Duration::from_millis(10));
            patience -= 1;
        }
        patience > 0
    }
}

/// A status that is tried again comes while the body is on its way, and the next server has no connection free.
#[test]
fn a_body_waits_while_its_request_waits_for_another_server() {
    for more in [3, PIECES] {
        let retries = Retries {
            tries: 3,
            statuses: vec![503],
            ..Retries::default()
        };
        let pool = PoolLimits {
            most: 1,
            ..PoolLimits::default()
        };
        let upstream = Upstream::new(TWO).retries(retries).pool(pool);
        let mut world = World::of(upstream.balance(Balance::First));
        let slow = world.ask(GET);
        let first = world.net().dialled().expect("a connection");
        world.say(first, BUSY);
        let second = world.net().dialled().expect("another try");
        let client = world.ask(HEAD);
        world.say(client, &chunk(0));
        let third = world.net().dialled().expect("a connection");
        assert!(world.hears(third, "0\r\n"));
        world.say(third, BUSY);
        for number in 1..more {
            world.say(client, &chunk(number));
        }
        world.say(client, "0\r\n\r\n");
        world.say(second, ANSWER);
        assert!(world.hears(slow, "hi"));
        assert!(world.hears(second, "\r\n0\r\n\r\n"));
        let heard = world.heard(second);
        let body = heard.split("\r\n\r\n").skip(2).collect::<Vec<_>>();
        let sent: String = (0..more).map(piece).collect();
        let got = unchunked(&body.join("\r\n\r\n")).expect("a body");
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        world.say(second, ANSWER);
        assert!(world.hears(client, "hi"));
    }
}

/// What is too large to be kept is not asked for again: the answer with that status is the answer.
#[test]
fn a_body_that_is_not_kept_is_not_sent_again() {
    let retries = Retries {
        statuses: vec![503],
        ..Retries::default()
    };
    let mut world = World::of(Upstream::new(TWO).retries(retries));
    let client = world.ask(HEAD);
    for number in 0..PIECES {
        world.say(client, &chunk(number));
    }
    let server = world.net().dialled().expect("a connection");
    world.say(server, BUSY);
    assert!(world.net().dialled().is_none());
    let heard = world.heard(client);
    assert!(heard.starts_with("HTTP/1.1 503 "), "{heard}");
}

/// As an echo does: the answer is on its way while the request is, whatever its status and however it is framed.
#[test]
fn an_answer_and_its_request_are_passed_on_at_a_time() {
    for (status, closes) in [("200 OK", false), ("200 OK", true), ("422 No", false)] {
        let mut world = World::of(Upstream::new(ONE));
        let total = PIECES * PIECE;
        let client = world.ask(&format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {total}\r\n\r\n"
        ));
        let server = world.net().dialled().expect("a connection");
        let connection = if closes { "connection: close\r\n" } else { "" };
        world.say(
            server,
            &format!("HTTP/1.1 {status}\r\n{connection}content-length: {total}\r\n\r\n"),
        );
        for number in 0..PIECES {
            world.say(client, &piece(number));
            assert!(world.hears(server, &piece(number)), "{status} {number}");
            world.say(server, &piece(number));
            assert!(world.hears(client, &piece(number)), "{status} {number}");
        }
        world.say(client, GET);
        world.pass(Duration::from_millis(50));
        let again = world.net().dialled();
        assert_eq!(again.is_some(), closes, "its connection is used again");
        world.say(again.unwrap_or(server), ANSWER);
        assert!(world.hears(client, "hi"), "{status}");
    }
}

/// RFC 9112 §9.5: one that is refused by a server that closes is sent no further; nor is one whose answer is over.
#[test]
fn what_a_server_does_not_want_is_not_sent() {
    for answer in [
        "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 5\r\n\r\nla",
        "HTTP/1.1 401 No\r\ncontent-length: 5\r\n\r\nlarge",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nlarge",
    ] {
        let mut world = World::of(Upstream::new(ONE));
        let client = world.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n");
        world.say(client, &piece(0));
        let server = world.net().dialled().expect("a connection");
        assert!(world.hears(server, &piece(0)));
        world.say(server, answer);
        let before = world.heard(server).len();
        world.say(client, &piece(1));
        assert_eq!(world.heard(server).len(), before, "{answer}");
        if answer.ends_with("la") {
            world.say(server, "rge");
        }
        assert!(world.hears(client, "large"), "{answer}");
        assert!(world.net().is_released(server), "{answer}");
    }
}

/// What a server has said before it broke the connection is its answer, though what it is sent fails first; and to
/// refuse is no failure of its.
#[test]
fn a_server_that_refuses_and_is_gone_has_answered() {
    let refusal = "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 5\r\n\r\nlarge";
    let mut judged = 0;
    for seed in 0..200 {
        let mut world = World::with(Upstream::new(ONE), seed, CALM);
        let client = world.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n");
        world.say(client, &piece(0));
        world.pass(Duration::from_millis(20));
        let server = world.net().dialled().expect("a connection");
        // The answer is there, and has not been read; then more comes, which the server does not take.
        world.net().send(server, refusal.as_bytes());
        for number in 1..10 {
            world.net().send(client, piece(number).as_bytes());
            world.0.turn().expect("a turn");
            if world.net().unread(server) == world.net().arrived(server) {
                break;
            }
        }
        let (unread, arrived) = (world.net().unread(server), world.net().arrived(server));
        if arrived == 0 || arrived < unread {
            continue;
        }
        judged += 1;
        world.net().reset(server);
        for number in 10..20 {
            world.net().send(client, piece(number).as_bytes());
        }
        world.pass(Duration::from_millis(50));
        let heard = world.heard(client);
        assert!(
            heard.starts_with("HTTP/1.1 413 ") && heard.ends_with("large"),
            "seed {seed}: {heard}"
        );
    }
    assert!(judged > 10, "{judged}");
}

/// A server breaks the connection without an answer: what it was sent is kept, and no more of the body is taken until it
/// goes to another.
#[test]
fn a_body_waits_until_it_is_known_that_its_server_is_gone() {
    // What one read takes is not more than what is kept; all of it is.
    let retries = Retries {
        replay: PIECES * PIECE - 1,
        ..Retries::default()
    };
    for seed in 0..100 {
        let upstream = Upstream::new(TWO).retries(retries.clone());
        let mut world = World::with(upstream, seed, CALM);
        let client = world.ask(HEAD);
        world.say(client, &chunk(0));
        world.pass(Duration::from_millis(50));
        let first = world.net().dialled().expect("a connection");
        assert!(world.hears(first, "0\r\n"));
        for number in 1..PIECES {
            world.net().send(client, chunk(number).as_bytes());
        }
        world.net().send(client, b"0\r\n\r\n");
        world.net().reset(first);
        world.pass(Duration::from_millis(50));
        let second = world.net().dialled();
        let second = second.unwrap_or_else(|| panic!("seed {seed}: {}", world.heard(client)));
        assert!(world.hears(second, "\r\n0\r\n\r\n"), "seed {seed}");
        let heard = world.heard(second);
        let (_, body) = heard.split_once("\r\n\r\n").expect("a head");
        let sent: String = (0..PIECES).map(piece).collect();
        assert!(unchunked(body).as_ref() == Ok(&sent), "seed {seed}");
        world.say(second, ANSWER);
        assert!(world.hears(client, "hi"), "seed {seed}");
    }
}

/// One side takes nothing: what goes the other way passes all the same, and no more is held than `limits.high_water`
/// and a read.
#[test]
fn each_way_of_an_exchange_is_held_back_on_its_own() {
    for is_client_deaf in [true, false] {
        let faults = Faults {
            send_buffer: (1000, 1000),
            ..CALM
        };
        let mut world = World::with(Upstream::new(ONE), 1, faults);
        let client = world.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n");
        let server = world.net().dialled().expect("a connection");
        world.say(server, "HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n");
        assert!(world.hears(client, "\r\n\r\n"));
        let (deaf, hearing) = match is_client_deaf {
            true => (client, server),
            false => (server, client),
        };
        world.net().stall(deaf, true);
        world.net().send(hearing, &[b'x'; 899_999]);
        for number in 0..5 {
            world.say(deaf, &piece(number));
            assert!(world.hears(hearing, &piece(number)), "{is_client_deaf}");
            let most = world.0.held().map(|held| held.output).max();
            assert!(most <= Some(65_536 + 128 * 1024), "{most:?}");
        }
        assert!(world.net().unread(hearing) > 500_000);
        world.net().stall(deaf, false);
        world.say(hearing, "y");
        assert!(world.hears(deaf, "xy"), "{is_client_deaf}");
    }
}
