//! What must hold when two things happen in one turn, or a connection ends at the worst moment. Which of them comes
//! first is drawn: so each is done under several seeds.

use crate::sure::{ANSWER, CALM, GET, TWO, World};
use loopwright::service::proxy::Proxy;
use loopwright::sim::{Client, Faults, SimNet};
use loopwright::upstream::sticky::Sticky;
use loopwright::{App, Balance, PoolLimits, Retries, Server, Timeouts, Upstream, UpstreamTimeouts};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const ONE: [&str; 1] = ["10.0.0.0:80"];
const UPGRADE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad";

fn most(most: usize) -> PoolLimits {
    PoolLimits {
        most,
        ..PoolLimits::default()
    }
}

impl World {
    fn turn(&mut self) {
        self.0.turn().expect("a turn");
    }

    /// A client that was answered, and the connection that was made for it: idle from here on.
    fn idle(&mut self) -> (Client, Client) {
        let client = self.ask(GET);
        let server = self.net().dialled().expect("a connection");
        self.say(server, ANSWER);
        assert!(self.heard(client).ends_with("hi"));
        (client, server)
    }
}

#[test]
fn a_connection_that_is_never_made_is_given_up_whatever_wakes_it() {
    for seed in 0..16 {
        let upstream = Upstream::new(ONE)
            .timeouts(UpstreamTimeouts {
                connect: Duration::from_secs(1),
                ..UpstreamTimeouts::default()
            })
            .retries(Retries {
                tries: 1,
                ..Retries::default()
            });
        let faults = Faults { segment: 1, ..CALM };
        let mut world = World::with(upstream, seed, faults);
        let client = world.net().connect(0);
        world.net().send(client, GET.as_bytes());
        let server = loop {
            if let Some(server) = world.net().dialled() {
                break server;
            }
            world.turn();
        };
        world.net().hang(server, true);
        // One byte after the other wakes it for nothing, as its time runs out, too.
        world.net().send(server, &[b'x'; 20_000]);
        world.pass(Duration::from_secs(2));
        let heard = world.heard(client);
        assert!(heard.starts_with("HTTP/1.1 504 "), "seed {seed}: {heard:?}");
    }
}

#[test]
fn a_request_of_which_nothing_was_sent_is_sent_again_whatever_its_method() {
    for seed in 0..64 {
        let mut world = World::with(Upstream::new(ONE), seed, CALM);
        let (client, idle) = world.idle();
        let sent = world.heard(idle).len();
        let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab";
        // Which of them is told first is open.
        world.net().reset(idle);
        world.say(client, post);
        assert_eq!(world.heard(idle).len(), sent);
        let Some(fresh) = world.net().dialled() else {
            panic!("seed {seed}: {}", world.heard(client));
        };
        world.say(fresh, ANSWER);
        let heard = world.heard(client);
        assert_eq!(
            heard.matches("HTTP/1.1 200 ").count(),
            2,
            "seed {seed}: {heard:?}"
        );
    }
}

#[test]
fn a_request_that_was_sent_and_must_not_be_done_twice_is_not() {
    let mut world = World::of(Upstream::new(TWO));
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab";
    let client = world.ask(post);
    let server = world.net().dialled().expect("a connection");
    assert!(world.heard(server).ends_with("ab"));
    world.net().reset(server);
    world.pass(Duration::from_millis(10));
    assert!(world.net().dialled().is_none());
    assert!(world.heard(client).starts_with("HTTP/1.1 502 "));
}

#[test]
fn after_a_stale_connection_comes_a_new_one_of_the_same_server() {
    let mut world = World::of(Upstream::new(ONE));
    let clients = [world.ask(GET), world.ask(GET)];
    let idle = [(); 2].map(|()| world.net().dialled().expect("a connection"));
    for server in idle {
        world.say(server, ANSWER);
    }
    assert!(clients.iter().all(|one| world.heard(*one).ends_with("hi")));
    let client = world.ask(GET);
    let asked = |world: &mut World, server| world.heard(server).matches("GET / ").count();
    let stale = idle.into_iter().find(|one| asked(&mut world, *one) == 2);
    // Its end and the request have met.
    world.net().finish(stale.expect("a connection used again"));
    world.pass(Duration::from_millis(10));
    let fresh = world.net().dialled().expect("a new connection");
    world.say(fresh, ANSWER);
    assert!(world.heard(client).ends_with("hi"));
}

#[test]
fn what_came_unasked_is_no_answer_to_a_hedge() {
    let mut judged = 0;
    for seed in 0..400 {
        let retries = Retries {
            hedge: Some(0.5),
            ..Retries::default()
        };
        let upstream = Upstream::new(TWO).retries(retries).pool(most(1));
        let upstream = upstream.balance(Balance::First);
        let mut world = World::with(upstream, seed, CALM);
        // Both servers have a connection.
        let clients = [world.ask(GET), world.ask(GET)];
        let [first, second] = [(); 2].map(|()| world.net().dialled().expect("a connection"));
        world.say(second, ANSWER);
        world.say(first, ANSWER);
        assert!(clients.iter().all(|one| world.heard(*one).ends_with("hi")));
        // How long answers take.
        for _ in 0..6 {
            let client = world.ask(GET);
            world.pass(Duration::from_millis(90));
            world.say(first, ANSWER);
            world.pass(Duration::from_millis(30));
            assert!(world.heard(client).ends_with("hi"), "seed {seed}");
        }
        let client = world.ask(GET);
        world.pass(Duration::from_millis(85));
        // Before the hedge, or in the very turn of it; what comes later cannot be told from an answer.
        let at = world.net().rng().u64(0..20_000);
        world.pass(Duration::from_micros(at));
        world.net().send(second, POISON.as_bytes());
        let is_asked = |world: &mut World| world.0.under_way().pools[0].1[1].in_use > 0;
        while !is_asked(&mut world) && !world.net().is_released(second) {
            let soon = world.net().now() + Duration::from_micros(300);
            world.net().wake_at(soon);
            world.turn();
        }
        if world.net().unread(second) > 0 && !world.net().is_released(second) {
            continue;
        }
        judged += 1;
        world.pass(Duration::from_millis(10));
        world.say(first, ANSWER);
        let heard = world.heard(client);
        assert!(!heard.ends_with("bad"), "seed {seed}: {heard:?}");
    }
    assert!(judged > 100);
}

#[test]
fn what_comes_behind_a_gulp_is_no_answer_to_the_next() {
    // An answer fills one read to its last byte; what is behind it comes with the next.
    const GULP: usize = 128 * 1024;
    for seed in 0..16 {
        let mut world = World::with(Upstream::new(ONE).pool(most(1)), seed, CALM);
        let (one, other) = (world.ask(GET), world.ask(GET));
        let server = world.net().dialled().expect("a connection");
        let head = |len: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {len:0>7}\r\n\r\n");
        let len = GULP - head(0).len();
        let bad = head(3 * GULP) + &"bad".repeat(GULP);
        world.say(server, &(head(len) + &"g".repeat(len) + &bad));
        world.pass(Duration::from_millis(100));
        assert!(world.heard(one).ends_with('g'), "seed {seed}");
        assert!(!world.heard(other).contains("bad"), "seed {seed}");
    }
}

#[test]
fn a_hedge_has_a_time_of_its_own() {
    let told = Rc::new(RefCell::new(Vec::new()));
    let retries = Retries {
        hedge: Some(0.5),
        ..Retries::default()
    };
    let mut app = App::new();
    let upstream = Upstream::new(TWO).retries(retries).pool(most(1));
    app.upstream("app", upstream.balance(Balance::First));
    Proxy::to("app").on(&mut app, "/{*rest}");
    let log = told.clone();
    app.after(move |_, done| log.borrow_mut().extend(done.upstream().cloned()));
    let mut world = World(Server::simulate(SimNet::new(1, CALM), app, ()).expect("a server"));
    let (_, first) = world.idle();
    for _ in 0..7 {
        let client = world.ask(GET);
        world.pass(Duration::from_millis(90));
        world.say(first, ANSWER);
        assert!(world.heard(client).ends_with("hi"));
    }
    let client = world.ask(GET);
    world.pass(Duration::from_millis(200));
    world.net().dialled().expect("a hedge");
    world.say(first, ANSWER);
    assert!(world.heard(client).ends_with("hi"));
    let told = told.borrow();
    let last = told.last().expect("a request");
    assert_eq!((&*last.server, last.reused, last.tries), (TWO[0], true, 2));
    assert!(last.first_byte >= Duration::from_millis(200), "{last:?}");
}

#[test]
fn a_tunnel_takes_its_place_until_it_ends() {
    let mut world = World::of(Upstream::new(ONE).pool(most(1)));
    let first = world.ask(UPGRADE);
    let waiting = world.ask(GET);
    let tunnel = world.net().dialled().expect("a connection");
    world.say(tunnel, SWITCHED);
    assert!(world.heard(first).starts_with("HTTP/1.1 101 "));
    assert!(world.net().dialled().is_none(), "there is room for one");
    assert_eq!(world.0.under_way().pools[0].1[0].in_use, 1);
    world.net().finish(tunnel);
    world.net().finish(first);
    world.pass(Duration::from_millis(10));
    let next = world.net().dialled().expect("room for the next");
    world.say(next, ANSWER);
    assert!(world.heard(waiting).starts_with("HTTP/1.1 200 "));
    assert_eq!(world.0.under_way().pools[0].1[0].in_use, 0);
}

#[test]
fn a_tunnel_ends_when_one_side_takes_nothing_whatever_it_says() {
    for is_client in [true, false] {
        let mut app = App::new();
        app.upstream("app", Upstream::new(ONE));
        Proxy::to("app").on(&mut app, "/{*rest}");
        let faults = Faults {
            send_buffer: (1000, 1000),
            ..CALM
        };
        let timeouts = Timeouts {
            write: Duration::from_secs(5),
            ..Timeouts::default()
        };
        let server = Server::builder().timeouts(timeouts);
        let server = server.simulate(SimNet::new(1, faults), app, ());
        let mut world = World(server.expect("a server"));
        let client = world.ask(UPGRADE);
        let server = world.net().dialled().expect("a connection");
        world.say(server, SWITCHED);
        let (deaf, other) = match is_client {
            true => (client, server),
            false => (server, client),
        };
        world.net().stall(deaf, true);
        for _ in 0..20 {
            world.net().send(other, &[b'x'; 100_000]);
            world.say(deaf, "I am here");
            world.pass(Duration::from_secs(1));
            let most = 2 * 65_536 + 128 * 1024;
            assert!(world.0.held().all(|held| held.output <= most));
        }
        for side in [client, server] {
            assert!(world.net().is_released(side), "client deaf: {is_client}");
        }
        assert_eq!(world.0.under_way().tunnels, 0);
    }
}

#[test]
fn an_answer_that_has_come_whole_is_whole_though_its_connection_breaks() {
    for seed in 0..8 {
        let faults = Faults {
            send_buffer: (1000, 1000),
            ..CALM
        };
        let mut world = World::with(Upstream::new(ONE), seed, faults);
        let client = world.ask(GET);
        let server = world.net().dialled().expect("a connection");
        world.net().stall(client, true);
        let body = "x".repeat(120_000);
        world.say(
            server,
            &format!("HTTP/1.1 200 OK\r\ncontent-length: 120000\r\n\r\n{body}"),
        );
        world.pass(Duration::from_secs(1));
        world.net().reset(server);
        world.pass(Duration::from_secs(1));
        world.net().stall(client, false);
        world.pass(Duration::from_secs(1));
        let heard = world.heard(client);
        assert!(heard.ends_with(&body), "seed {seed}: {} bytes", heard.len());
        assert!(!world.net().was_reset(client), "seed {seed}");
    }
}

#[test]
fn who_waits_waits_for_any_server_whatever_his_cookie_says() {
    let sticky = Sticky::new("server", b"0123456789abcdef", Duration::from_secs(60));
    let upstream = Upstream::new(TWO).pool(most(1)).balance(Balance::First);
    let mut world = World::of(upstream.sticky(sticky.expect("a cookie")));
    let (client, first) = world.idle();
    let heard = world.heard(client);
    let cookie = heard.split("set-cookie: ").nth(1).expect("a cookie");
    let cookie = cookie.split(';').next().expect("its value");
    let kept = format!("GET / HTTP/1.1\r\nhost: a\r\ncookie: {cookie}\r\n\r\n");
    let asked = |world: &mut World, server| world.heard(server).matches("GET / ").count();
    // His server; the other one, as his has as many connections as it may; and a place in the queue.
    let clients = [(); 3].map(|()| world.ask(&kept));
    let second = world.net().dialled().expect("a connection");
    assert_eq!(
        (asked(&mut world, first), asked(&mut world, second)),
        (2, 1)
    );
    assert_eq!(world.0.under_way().pools[0].0.waiting, 1);
    let drained = world.0.handle().post(|cx| {
        assert!(cx.drain_server("app", TWO[0]));
    });
    drained.expect("a loop that reads");
    world.say(second, ANSWER);
    assert!(world.heard(clients[1]).ends_with("hi"));
    assert_eq!(asked(&mut world, second), 2);
    world.say(second, ANSWER);
    assert!(world.heard(clients[2]).ends_with("hi"));
}

#[test]
fn nothing_that_is_idle_holds_up_a_stop() {
    let mut world = World::of(Upstream::new(ONE));
    let client = world.ask(GET);
    let server = world.net().dialled().expect("a connection");
    world.say(server, ANSWER);
    world.net().finish(client);
    world.pass(Duration::from_millis(10));
    assert_eq!(world.0.connections(), 1, "the idle one");
    let begun = world.net().now();
    world.0.handle().stop();
    while world.0.turn().expect("a turn") {}
    let took = world.net().now() - begun;
    assert!(took < Duration::from_millis(5), "{took:?}");
    assert_eq!(world.0.connections(), 0);
    assert!(world.net().is_released(server));
}

#[test]
fn what_was_said_before_a_tunnel_broke_is_heard() {
    let faults = Faults {
        send_buffer: (1000, 1000),
        ..CALM
    };
    let mut world = World::with(Upstream::new(ONE), 1, faults);
    let client = world.ask(&(GET.to_string() + UPGRADE));
    let server = world.net().dialled().expect("a connection");
    world.net().stall(client, true);
    let body = "x".repeat(5000);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{body}");
    world.say(server, &answer);
    world.pass(Duration::from_millis(100));
    world.say(server, &format!("{SWITCHED}the last words"));
    world.net().reset(server);
    world.pass(Duration::from_secs(1));
    world.net().stall(client, false);
    world.pass(Duration::from_secs(1));
    let heard = world.heard(client);
    assert!(
        heard.contains(&body) && heard.ends_with("the last words"),
        "{heard}"
    );
    assert!(world.net().is_finished(client) && !world.net().was_reset(client));
}

#[test]
fn an_answer_in_place_of_100_continue_says_that_it_is_the_last() {
    let mut world = World::of(Upstream::new(ONE));
    let client = world
        .ask("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
    let server = world.net().dialled().expect("a connection");
    world.say(server, ANSWER);
    world.pass(Duration::from_millis(100));
    let heard = world.heard(client);
    assert!(
        heard.ends_with("hi") && world.net().is_finished(client),
        "{heard}"
    );
    assert!(heard.contains("connection: close\r\n"), "{heard}");
}
