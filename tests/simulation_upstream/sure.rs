//! What must happen, said step by step.

use loopwright::service::proxy::Proxy;
use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{
    App, Fetch, FetchError, PoolLimits, Retries, Server, Target, Upstream, UpstreamTimeouts,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub(crate) const CALM: Faults = Faults {
    accept_errors: 0,
    send_buffer: (1 << 20, 1 << 20),
    segment: 1 << 20,
};

pub(crate) struct World(pub(crate) Server<(), SimNet>);

impl World {
    pub(crate) fn of(upstream: Upstream) -> World {
        World::with(upstream, 1, CALM)
    }

    pub(crate) fn with(upstream: Upstream, seed: u64, faults: Faults) -> World {
        let mut app = App::new();
        app.upstream("app", upstream);
        Proxy::to("app").on(&mut app, "/{*rest}");
        World(Server::simulate(SimNet::new(seed, faults), app, ()).expect("a server"))
    }

    pub(crate) fn net(&mut self) -> &mut SimNet {
        self.0.net_mut()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.net().now() + time;
        while self.net().now() < until {
            self.net().wake_at(until);
            self.0.turn().expect("a turn");
        }
    }

    pub(crate) fn ask(&mut self, bytes: &str) -> Client {
        let client = self.net().connect(0);
        self.net().send(client, bytes.as_bytes());
        self.pass(Duration::from_millis(10));
        client
    }

    pub(crate) fn say(&mut self, wire: Client, bytes: &str) {
        self.net().send(wire, bytes.as_bytes());
        self.pass(Duration::from_millis(10));
    }

    pub(crate) fn heard(&mut self, wire: Client) -> String {
        String::from_utf8_lossy(self.net().received(wire)).into_owned()
    }
}

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
pub(crate) const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
pub(crate) const TWO: [&str; 2] = ["10.0.0.0:80", "10.0.0.1:80"];

#[test]
fn closed_before_the_answer_is_tried_again() {
    let mut world = World::of(Upstream::new(TWO));
    let client = world.ask(GET);
    let first = world.net().dialled().expect("a connection");
    assert!(world.heard(first).starts_with("GET / "));
    world.net().finish(first);
    world.pass(Duration::from_millis(10));
    let second = world.net().dialled().expect("another try");
    world.say(second, ANSWER);
    assert!(world.heard(client).starts_with("HTTP/1.1 200 "));
}

#[test]
fn too_late_an_answer_is_tried_again_if_so_said() {
    let retries = Retries {
        timeouts: true,
        ..Retries::default()
    };
    let mut world = World::of(Upstream::new(TWO).retries(retries));
    let client = world.ask(GET);
    world.net().dialled().expect("a connection");
    world.pass(Duration::from_secs(31));
    let second = world.net().dialled().expect("another try");
    world.say(second, ANSWER);
    assert!(world.heard(client).starts_with("HTTP/1.1 200 "));
}

#[test]
fn connections_that_fail_at_once_are_no_more_than_tries() {
    let mut world = World::of(Upstream::new(TWO));
    world.net().fail_connects(1000);
    let client = world.ask(GET);
    assert!(world.heard(client).starts_with("HTTP/1.1 502 "));
    let left = world.net().connects_failing();
    assert_eq!(left, 998, "retries.tries");
}

#[test]
fn what_comes_with_the_switch_is_passed_on_at_once() {
    let mut world = World::of(Upstream::new(["10.0.0.0:80"]));
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let client = world.ask(upgrade);
    let server = world.net().dialled().expect("a connection");
    world.say(
        server,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nfrom the server",
    );
    assert!(world.heard(client).ends_with("\r\n\r\nfrom the server"));
}

#[test]
fn time_for_which_a_client_holds_an_answer_is_not_the_servers() {
    let timeouts = UpstreamTimeouts {
        read: Duration::from_secs(2),
        ..UpstreamTimeouts::default()
    };
    let mut app = App::new();
    app.upstream("app", Upstream::new(["10.0.0.0:80"]).timeouts(timeouts));
    Proxy::to("app").on(&mut app, "/{*rest}");
    let faults = Faults {
        send_buffer: (1000, 1000),
        ..CALM
    };
    let net = SimNet::new(1, faults);
    let mut world = World(Server::simulate(net, app, ()).expect("a server"));
    let client = world.ask(GET);
    let server = world.net().dialled().expect("a connection");
    world.net().stall(client, true);
    world.say(server, "HTTP/1.1 200 OK\r\ncontent-length: 70001\r\n\r\n");
    // More than limits.high_water, and nothing is left to be read.
    let mut sent = 0;
    for (up_to, piece) in [(65_000, 100), (65_536, 1)] {
        while world.0.held().all(|held| held.output <= up_to) {
            world.say(server, &"x".repeat(piece));
            sent += piece;
        }
    }
    assert_eq!(world.net().unread(server), 0);
    world.pass(Duration::from_secs(10));
    world.net().stall(client, false);
    world.pass(Duration::from_secs(1));
    let rest = "x".repeat(70_000 - sent) + "y";
    world.say(server, &rest);
    world.pass(Duration::from_secs(1));
    assert!(
        world.heard(client).ends_with("xy"),
        "{}",
        world.heard(client).len()
    );
}

#[test]
fn a_server_that_does_not_know_the_expectation_gets_the_body() {
    let mut world = World::of(Upstream::new(["10.0.0.0:80"]));
    let client = world
        .ask("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nab");
    let server = world.net().dialled().expect("a connection");
    assert!(world.heard(server).ends_with("\r\n\r\n"));
    world.pass(Duration::from_secs(2));
    assert!(world.heard(server).ends_with("\r\n\r\nab"));
    world.say(server, ANSWER);
    assert!(world.heard(client).ends_with("hi"));
}

#[test]
fn an_answer_that_nobody_asked_for_is_nobodys() {
    let pool = PoolLimits {
        most: 1,
        ..PoolLimits::default()
    };
    let mut world = World::of(Upstream::new(["10.0.0.0:80"]).pool(pool));
    let (one, other) = (world.ask(GET), world.ask(GET));
    let server = world.net().dialled().expect("a connection");
    world.say(
        server,
        &format!("{ANSWER}HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"),
    );
    assert!(world.heard(one).ends_with("hi"));
    let next = world.net().dialled().expect("another connection");
    assert!(matches!(world.net().target(next), Some(Target::Inet(_))));
    world.say(next, ANSWER);
    assert!(world.heard(other).ends_with("hi"));
}

#[test]
fn an_interim_answers_connection_is_not_the_clients() {
    let mut world = World::of(Upstream::new(["10.0.0.0:80"]));
    let client = world.ask(GET);
    let server = world.net().dialled().expect("a connection");
    world.say(server, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: close, x-a\r\nx-a: b\r\nkeep-alive: 5\r\n\r\n");
    world.say(server, ANSWER);
    let heard = world.heard(client);
    let interim = heard.split("\r\n\r\n").next().unwrap_or("");
    assert_eq!(interim, "HTTP/1.1 103 Early Hints\r\nlink: </a>");
}

#[test]
fn all_that_is_asked_for_an_answer_ends_with_it() {
    let mut app = App::new();
    app.upstream("app", Upstream::new(TWO));
    let kept = Rc::new(RefCell::new(Vec::new()));
    app.any("/", move |cx, _, res| {
        let res = res.defer();
        for path in ["/one", "/two"] {
            cx.fetch("app", Fetch::get(path).answering(&res), |_, _| {});
        }
        kept.borrow_mut().push(res);
    });
    let mut world = World(Server::simulate(SimNet::new(1, CALM), app, ()).expect("a server"));
    let client = world.ask(GET);
    let servers = [(); 2].map(|()| world.net().dialled().expect("a connection"));
    assert_eq!(world.0.under_way().fetches, 2);
    world.net().reset(client);
    world.pass(Duration::from_millis(10));
    assert_eq!(world.0.under_way().fetches, 0);
    assert!(servers.iter().all(|one| world.net().is_released(*one)));
}

#[test]
fn what_took_too_long_is_told_with_its_setting() {
    let total = Duration::from_secs(2);
    let timeouts = UpstreamTimeouts {
        total,
        ..UpstreamTimeouts::default()
    };
    let mut app = App::new();
    app.upstream("app", Upstream::new(TWO).timeouts(timeouts));
    Proxy::to("app").on(&mut app, "/{*rest}");
    let told = Rc::new(RefCell::new(Vec::new()));
    let log = told.clone();
    app.after(move |_, done| {
        let error = done.upstream().and_then(|upstream| upstream.error.clone());
        log.borrow_mut().extend(error);
    });
    let mut world = World(Server::simulate(SimNet::new(1, CALM), app, ()).expect("a server"));
    let client = world.ask(GET);
    world.pass(Duration::from_secs(3));
    assert!(world.heard(client).starts_with("HTTP/1.1 504 "));
    assert_eq!(*told.borrow(), [FetchError::Deadline(total)]);
}
