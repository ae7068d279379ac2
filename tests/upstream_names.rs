//! Names among an upstream's servers: in the simulator, where names answer what the test says and an hour takes no
//! time, and over loopback with a name server of the test's own.

use loopwright::base::lookup::{Address, Answer, Failure, Question};
use loopwright::sim::{Client, Faults, SimNet};
use loopwright::upstream::health;
use loopwright::{
    App, Ctx, Fetch, FetchError, Fetched, HealthSettings, Instant, Lookups, PoolLimits, Request,
    Response, Server, Upstream, UpstreamTimeouts,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const CALM: Faults = Faults {
    accept_errors: 0,
    send_buffer: (1 << 16, 1 << 16),
    segment: 1 << 16,
};
const SEEDS: std::ops::Range<u64> = 0..4;
const TTL: Duration = Duration::from_secs(10);

/// What fetches have told, the last one last: how long they waited for a name.
#[derive(Default)]
struct Seen {
    resolve: Vec<Duration>,
}

/// Asks the upstream, and answers with what it has answered, or why it has not.
fn pass<'a>(cx: &mut Ctx<'_, Seen>, _: &Request<'_>, res: Response<'a>) {
    let res = res.defer();
    let then = move |cx: &mut Ctx<'_, Seen>, answer: Result<Fetched<'_>, FetchError>| match answer {
        Ok(answer) => {
            cx.state.resolve.push(answer.timings().resolve);
            answer.collect(cx, move |_, body| res.bytes(body.unwrap_or_default()));
        }
        Err(why) => res.status(why.status().as_u16()).text(why.to_string()),
    };
    cx.fetch("api", Fetch::get("/"), then);
}

fn app(upstream: Upstream) -> App<Seen> {
    let mut app = App::new();
    app.upstream("api", upstream);
    app.get("/", pass);
    app
}

fn to(server: &str) -> Upstream {
    Upstream::new([server])
}

/// A server that passes everything on, and the world around it: whoever is connected to answers with its address.
struct World {
    server: Server<Seen, SimNet>,
    /// Connections that were made, where to, and how many requests were answered on them.
    made: Vec<(Client, String, usize)>,
    /// Does not answer.
    silent: Option<&'static str>,
}

impl World {
    fn new(seed: u64, names: &[(&str, &[&str])], upstream: Upstream) -> World {
        let mut net = SimNet::new(seed, CALM);
        for (name, addresses) in names {
            net.name(question(name), answer(addresses));
        }
        let server = Server::builder().simulate(net, app(upstream), Seen::default());
        World {
            server: server.unwrap(),
            made: Vec::new(),
            silent: None,
        }
    }

    /// What a name answers from now on: hosts' addresses, or `priority weight address`.
    fn name(&mut self, name: &str, addresses: &[&str]) {
        self.set(name, answer(addresses));
    }

    fn set(&mut self, name: &str, answer: Result<Answer, Failure>) {
        self.server.net_mut().name(question(name), answer);
    }

    fn turn(&mut self) {
        let soon = self.now() + Duration::from_millis(5);
        self.server.net_mut().wake_at(soon);
        self.server.turn().unwrap();
        let net = self.server.net_mut();
        while let Some((client, to)) = net.dialled_to() {
            self.made.push((client, to.to_string(), 0));
        }
        for (client, to, answered) in &mut self.made {
            let asked = String::from_utf8_lossy(net.received(*client))
                .matches("\r\n\r\n")
                .count();
            if asked > *answered && self.silent != Some(to.as_str()) {
                *answered += 1;
                let length = to.len();
                let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{to}");
                net.send(*client, text.as_bytes());
            }
        }
    }

    fn now(&mut self) -> Instant {
        self.server.net_mut().now()
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            self.turn();
        }
    }

    /// The same, when nobody is asked anything.
    fn rest(&mut self, time: Duration) {
        let end = self.now() + time;
        self.server.net_mut().wake_at(end);
        while self.now() < end {
            self.server.turn().unwrap();
        }
    }

    fn begin(&mut self) -> Client {
        let net = self.server.net_mut();
        let client = net.connect(0);
        net.send(
            client,
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        );
        client
    }

    /// The status and the body.
    fn end(&mut self, client: Client) -> (u16, String) {
        for _ in 0..20_000 {
            if self.server.net_mut().is_finished(client) {
                let text =
                    String::from_utf8_lossy(self.server.net_mut().received(client)).into_owned();
                let (head, body) = text.split_once("\r\n\r\n").expect(&text);
                return (head[9..12].parse().unwrap(), body.to_string());
            }
            self.turn();
        }
        panic!("no answer");
    }

    fn ask(&mut self) -> (u16, String) {
        let client = self.begin();
        self.end(client)
    }

    /// Who answers so many requests, how often.
    fn ask_often(&mut self, times: usize) -> BTreeMap<String, usize> {
        let mut who = BTreeMap::new();
        for _ in 0..times {
            let (status, text) = self.ask();
            assert_eq!(status, 200, "{text}");
            *who.entry(text).or_default() += 1;
        }
        who
    }

    /// How many connections are open to an address.
    fn open(&mut self, to: &str) -> usize {
        let net = self.server.net_mut();
        let is_open = |made: &&(Client, String, usize)| made.1 == to && !net.is_released(made.0);
        self.made.iter().filter(is_open).count()
    }
}

fn question(text: &str) -> Question {
    text.parse().unwrap()
}

fn answer(addresses: &[&str]) -> Result<Answer, Failure> {
    let address = |text: &&str| {
        let words: Vec<&str> = text.split(' ').collect();
        let (priority, weight) = match words[..] {
            [priority, weight, _] => (priority.parse().unwrap(), weight.parse().unwrap()),
            _ => (0, 1),
        };
        let addr: SocketAddr = words[words.len() - 1].parse().unwrap();
        let host = addr.ip().to_string();
        Address {
            priority,
            host,
            addr,
            weight,
        }
    };
    let (ttl, missing) = (Some(TTL), None);
    let addresses = addresses.iter().map(address).collect();
    Ok(Answer {
        addresses,
        ttl,
        missing,
    })
}

fn counted(who: &[(&str, usize)]) -> BTreeMap<String, usize> {
    who.iter()
        .map(|(to, times)| (to.to_string(), *times))
        .collect()
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";

#[test]
fn whoever_comes_before_the_first_answer_waits_for_it() {
    for seed in SEEDS {
        for (server, name) in [
            ("app.internal:80", "app.internal:80"),
            ("dns:app.internal:80", "app.internal:80"),
            ("srv:_http._tcp.app.internal", "srv:_http._tcp.app.internal"),
        ] {
            let mut world = World::new(seed, &[(name, &[A])], to(server));
            let all: Vec<Client> = (0..5).map(|_| world.begin()).collect();
            for client in all {
                assert_eq!(world.end(client), (200, A.to_string()), "{server}");
            }
            let waited = &world.server.state().resolve;
            assert!(
                waited.iter().any(|it| !it.is_zero()),
                "{server}: {waited:?}"
            );
            assert_eq!(world.ask(), (200, A.to_string()));
            assert_eq!(world.server.state().resolve.last(), Some(&Duration::ZERO));
        }
    }
}

#[test]
fn nobody_waits_longer_than_for_a_connection() {
    let mut late = 0;
    for seed in 0..8 {
        let connect = Duration::from_millis(1);
        let upstream = to("app.internal:80").timeouts(UpstreamTimeouts {
            connect,
            ..UpstreamTimeouts::default()
        });
        let mut world = World::new(seed, &[("app.internal:80", &[A])], upstream);
        let begun = world.now();
        let client = world.begin();
        let (status, text) = world.end(client);
        assert!(world.now() - begun < Duration::from_millis(100));
        // A look-up takes up to 50 ms here.
        late += usize::from(status == 503);
        assert!(
            status == 200 || text.contains("timeouts.connect"),
            "{status} {text}"
        );
    }
    assert!(late >= 4, "{late}");
}

#[test]
fn a_name_that_is_not_there_yet_is_there_later() {
    for seed in SEEDS {
        for server in ["app.internal:80", "dns:app.internal:80"] {
            let mut world = World::new(seed, &[], to(server));
            let (status, text) = world.ask();
            assert_eq!(status, 503);
            assert!(
                text.contains("no name of the upstream has an address"),
                "{text}"
            );
            world.name("app.internal:80", &[A]);
            world.wait(Duration::from_secs(6));
            assert_eq!(world.ask(), (200, A.to_string()));
        }
    }
}

#[test]
fn a_health_check_waits_for_an_address() {
    let checks = Some(health::Checks::default());
    let upstream = to("app.internal:80").health(HealthSettings {
        checks,
        ..HealthSettings::default()
    });
    let mut world = World::new(1, &[], upstream);
    // A check without an address would be a bad one, and a first bad one takes a server down.
    world.wait(Duration::from_secs(20));
    world.name("app.internal:80", &[A]);
    world.wait(Duration::from_secs(6));
    assert_eq!(world.ask(), (200, A.to_string()));
}

#[test]
fn each_address_is_a_server_and_one_that_is_gone_is_asked_no_more() {
    for seed in SEEDS {
        let mut world = World::new(
            seed,
            &[("app.internal:80", &[A, B])],
            to("dns:app.internal:80"),
        );
        assert_eq!(world.ask_often(10), counted(&[(A, 5), (B, 5)]));
        assert_eq!((world.open(A), world.open(B)), (1, 1));
        world.name("app.internal:80", &[B, C]);
        world.wait(TTL);
        assert_eq!(
            (world.open(A), world.open(B)),
            (0, 1),
            "its idle connection is closed"
        );
        assert_eq!(world.ask_often(10), counted(&[(B, 5), (C, 5)]));
        // It comes back, as a server that nobody knows.
        world.name("app.internal:80", &[A, B]);
        world.wait(TTL);
        assert_eq!(world.ask_often(10), counted(&[(A, 5), (B, 5)]));
        assert_eq!(world.open(C), 0);
    }
}

#[test]
fn who_comes_late_begins_slowly() {
    let slow_start = Duration::from_secs(600);
    let upstream = to("dns:app.internal:80").health(HealthSettings {
        slow_start,
        ..HealthSettings::default()
    });
    let mut world = World::new(1, &[("app.internal:80", &[A, B])], upstream);
    assert_eq!(
        world.ask_often(20),
        counted(&[(A, 10), (B, 10)]),
        "not so from the beginning"
    );
    world.name("app.internal:80", &[B, C]);
    world.wait(TTL);
    let who = world.ask_often(40);
    assert!((1..=8).contains(&who[C]), "{who:?}");
    world.name("app.internal:80", &[A, B]);
    world.wait(TTL);
    let who = world.ask_often(40);
    assert!(
        (1..=8).contains(&who[A]),
        "the same again is a new one: {who:?}"
    );
}

#[test]
fn a_name_that_moves_takes_its_connections_along() {
    for seed in SEEDS {
        let mut world = World::new(seed, &[("app.internal:80", &[A])], to("app.internal:80"));
        assert_eq!(world.ask(), (200, A.to_string()));
        world.silent = Some(A);
        let busy = world.begin();
        world.wait(Duration::from_millis(100));
        world.name("app.internal:80", &[B]);
        world.wait(TTL);
        assert_eq!(world.ask(), (200, B.to_string()));
        // What was begun there ends there, and nothing else begins.
        world.silent = None;
        assert_eq!(world.open(A), 1);
        assert_eq!(world.end(busy), (200, A.to_string()));
        world.wait(Duration::from_millis(100));
        assert_eq!((world.open(A), world.open(B)), (0, 1));
    }
}

#[test]
fn an_idle_connection_to_where_a_name_was_is_closed() {
    for seed in SEEDS {
        let mut world = World::new(seed, &[("app.internal:80", &[A])], to("app.internal:80"));
        assert_eq!(world.ask(), (200, A.to_string()));
        world.wait(TTL + Duration::from_secs(1));
        assert_eq!(world.open(A), 1, "the same answer changes nothing");
        world.name("app.internal:80", &[B]);
        world.wait(TTL);
        assert_eq!(world.open(A), 0);
        assert_eq!(world.ask(), (200, B.to_string()));
    }
}

#[test]
fn a_name_that_is_gone_is_held_for_a_while() {
    let mut world = World::new(1, &[("app.internal:80", &[A])], to("dns:app.internal:80"));
    assert_eq!(world.ask().0, 200);
    world.set("app.internal:80", Err(Failure::NotFound));
    world.wait(TTL + Duration::from_secs(20));
    assert_eq!(world.ask().0, 200);
    world.wait(Duration::from_secs(20));
    assert_eq!(world.ask().0, 503);
    // Nobody can say: that is another matter.
    world.name("app.internal:80", &[A]);
    world.wait(Duration::from_secs(6));
    world.set("app.internal:80", Err(Failure::Timeout));
    world.wait(Duration::from_secs(3600));
    assert_eq!(world.ask().0, 200);
}

#[test]
fn services_have_weights_and_backups() {
    const NAME: &str = "srv:_http._tcp.app.internal";
    let records = ["10 3 10.0.0.1:80", "10 1 10.0.0.2:80", "20 1 10.0.0.3:80"];
    for seed in SEEDS {
        let mut world = World::new(seed, &[(NAME, &records)], to(NAME));
        assert_eq!(world.ask_often(40), counted(&[(A, 30), (B, 10)]));
        // Other weights, and who was the backup is the first choice.
        world.name(
            NAME,
            &[
                "20 3 10.0.0.1:80",
                "10 1 10.0.0.2:80",
                "10 65535 10.0.0.3:80",
            ],
        );
        world.wait(TTL);
        let who = world.ask_often(40);
        assert!(!who.contains_key(A) && who[C] >= 39, "{who:?}");
        // The last choice is the only one.
        world.name(NAME, &["20 3 10.0.0.1:80"]);
        world.wait(TTL);
        assert_eq!(world.ask_often(4), counted(&[(A, 4)]));
    }
}

#[test]
fn numbers_of_servers_that_are_gone_are_used_again() {
    let all: Vec<String> = (0..800)
        .map(|n| format!("10.0.{}.{}:80", n / 200, n % 200 + 1))
        .collect();
    let mut world = World::new(1, &[("app.internal:80", &[A])], to("dns:app.internal:80"));
    for (n, address) in all.iter().enumerate() {
        world.name("app.internal:80", &[address]);
        world.rest(TTL + Duration::from_millis(100));
        if n % 50 == 0 {
            assert_eq!(world.ask(), (200, address.clone()));
        }
    }
    assert_eq!(world.ask(), (200, all[799].clone()));
}

#[test]
fn a_reload_forgets_no_address() {
    for server in ["app.internal:80", "dns:app.internal:80"] {
        let mut world = World::new(1, &[("app.internal:80", &[A])], to(server));
        assert_eq!(world.ask(), (200, A.to_string()));
        world.set("app.internal:80", Err(Failure::Timeout));
        // The same.
        world
            .server
            .reload(Server::builder(), app(to(server)))
            .unwrap();
        assert_eq!(world.ask(), (200, A.to_string()));
        assert_eq!(world.open(A), 1, "not even a connection is lost");
        // Another, with the same name.
        let total = Duration::from_secs(5);
        let other = to(server).timeouts(UpstreamTimeouts {
            total,
            ..UpstreamTimeouts::default()
        });
        world.server.reload(Server::builder(), app(other)).unwrap();
        assert_eq!(world.ask(), (200, A.to_string()));
        world.wait(TTL + TTL);
        assert_eq!(world.ask(), (200, A.to_string()));
        // It goes on asking.
        world.name("app.internal:80", &[B]);
        world.wait(Duration::from_secs(60));
        assert_eq!(world.ask(), (200, B.to_string()));
    }
}

#[test]
fn whoever_waits_for_a_name_is_served_by_what_a_reload_brings() {
    let mut served = 0;
    for seed in 0..16 {
        let mut world = World::new(seed, &[], to("app.internal:80"));
        let begun = world.now();
        let client = world.begin();
        for _ in 0..10 {
            world.server.turn_within(Duration::from_millis(1)).unwrap();
        }
        let reloaded = world.now();
        world.server.reload(Server::builder(), app(to(B))).unwrap();
        match world.end(client) {
            (200, text) => {
                assert_eq!(text, B);
                // From the very moment of the reload on.
                let waited = world.server.state().resolve[0];
                assert!(waited <= reloaded - begun, "{waited:?}");
                served += 1;
            }
            // It was heard before the reload that there is no such name.
            (status, text) => assert_eq!((status, text.contains("no name")), (503, true), "{text}"),
        }
    }
    assert!(served >= 4, "{served}");
}

/// And so is whoever waits for a connection.
#[test]
fn whoever_is_in_the_queue_is_served_by_what_a_reload_brings() {
    let one = || PoolLimits {
        most: 1,
        ..PoolLimits::default()
    };
    for seed in SEEDS {
        let mut world = World::new(seed, &[], to(A).pool(one()));
        world.silent = Some(A);
        let [first, second] = [(); 2].map(|()| {
            let client = world.begin();
            world.wait(Duration::from_millis(100));
            client
        });
        let before = world.now();
        world
            .server
            .reload(Server::builder(), app(to(B).pool(one())))
            .unwrap();
        assert_eq!(world.end(second), (200, B.to_string()));
        let took = world.now() - before;
        assert!(took < Duration::from_secs(1), "{took:?}");
        // What has begun ends where it has begun.
        world.silent = None;
        assert_eq!(world.end(first), (200, A.to_string()));
    }
}

#[test]
fn other_settings_hold_after_a_reload() {
    let mut world = World::new(1, &[("app.internal:80", &[A])], to("dns:app.internal:80"));
    assert_eq!(world.ask(), (200, A.to_string()));
    let lookups = Lookups {
        longest: Duration::from_secs(1),
        ..Lookups::default()
    };
    world
        .server
        .reload(
            Server::builder().lookups(lookups),
            app(to("dns:app.internal:80")),
        )
        .unwrap();
    world.wait(TTL + TTL / 2);
    world.name("app.internal:80", &[B]);
    world.wait(Duration::from_millis(1200));
    assert_eq!(world.ask(), (200, B.to_string()));
}

/// Over loopback, with a name server of our own.
#[cfg(feature = "dns")]
mod loopback {
    use super::*;
    use loopwright::{Handle, Limits};
    use socket2::{Domain, Socket, Type};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
    use std::sync::{Arc, Mutex, mpsc};

    /// By name and type: data of records. A name without any does not exist.
    type Zone = Arc<Mutex<BTreeMap<(String, u16), Vec<Vec<u8>>>>>;

    const TYPE_SRV: u16 = 33;

    /// A name server (RFC 1035 §4).
    struct Dns {
        at: SocketAddr,
        zone: Zone,
    }

    impl Dns {
        /// One that takes so long for each answer, or is silent.
        fn start(answers_after: Option<Duration>) -> Dns {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let at = socket.local_addr().expect("an address");
            let zone = Zone::default();
            let of_thread = zone.clone();
            std::thread::spawn(move || {
                let mut query = [0; 512];
                while let Ok((len, from)) = socket.recv_from(&mut query) {
                    if let Some(delay) = answers_after {
                        std::thread::sleep(delay);
                        let answer = respond(&query[..len], &of_thread);
                        let _ = socket.send_to(&answer, from);
                    }
                }
            });
            Dns { at, zone }
        }

        fn put(&self, name: &str, kind: u16, data: Vec<Vec<u8>>) {
            self.zone
                .lock()
                .unwrap()
                .insert((name.to_string(), kind), data);
        }

        fn addresses(&self, name: &str, addresses: &[IpAddr]) {
            let (mut four, mut six) = (vec![], vec![]);
            for address in addresses {
                match address {
                    IpAddr::V4(ip) => four.push(ip.octets().to_vec()),
                    IpAddr::V6(ip) => six.push(ip.octets().to_vec()),
                }
            }
            self.put(name, 1, four);
            self.put(name, 28, six);
        }

        fn lookups(&self) -> Lookups {
            Lookups {
                servers: vec![self.at],
                shortest: Duration::from_millis(50),
                negative: Duration::from_millis(50),
                hold: Duration::from_millis(200),
                ..Lookups::default()
            }
        }
    }

    fn respond(query: &[u8], zone: &Zone) -> Vec<u8> {
        let (mut labels, mut at) = (Vec::new(), 12);
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
            at = end;
        }
        let name = labels.join(".");
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let zone = zone.lock().unwrap();
        let data = zone.get(&(name.clone(), kind)).cloned().unwrap_or_default();
        let exists = zone
            .iter()
            .any(|(key, data)| key.0 == name && !data.is_empty());
        let code = if exists { 0 } else { 3 };
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
        answer.extend(&query[12..at + 5]);
        for data in data {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            // It holds for a second.
            answer.extend([0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
            answer.extend(data);
        }
        answer
    }

    fn service(priority: u16, weight: u16, port: u16, host: &str) -> Vec<u8> {
        let mut data = Vec::new();
        for number in [priority, weight, port] {
            data.extend(number.to_be_bytes());
        }
        for label in host.split('.') {
            data.push(label.len() as u8);
            data.extend(label.bytes());
        }
        data.push(0);
        data
    }

    /// Answers each request with its own address and the host it was asked for.
    fn backend(address: &str) -> SocketAddr {
        let listener = TcpListener::bind(address).expect("a port");
        let at = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let (mut line, mut host) = (String::new(), String::new());
                while reader.read_line(&mut line).unwrap_or(0) > 2 {
                    if let Some(value) = line.strip_prefix("host: ") {
                        host = value.trim().to_string();
                    }
                    line.clear();
                }
                let body = format!("{at} {host}");
                let length = body.len();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
                let text = format!("{head}content-length: {length}\r\n\r\n{body}");
                let _ = reader.into_inner().write_all(text.as_bytes());
            }
        });
        at
    }

    struct Running {
        at: SocketAddr,
        handle: Handle<Seen>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Running {
        fn start(lookups: Lookups, limits: Limits, upstreams: Vec<Upstream>) -> Running {
            let (tell, told) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                let mut app = App::new();
                let last = upstreams.len() - 1;
                for (n, upstream) in upstreams.into_iter().enumerate() {
                    match n == last {
                        true => app.upstream("api", upstream),
                        false => app.upstream(format!("other{n}"), upstream),
                    };
                }
                app.get("/", pass);
                app.get("/offloaded", |cx, _, res| {
                    let res = res.defer();
                    cx.offload(
                        || "done",
                        move |_, done| res.text(done.unwrap_or("not done")),
                    );
                });
                let builder = Server::builder()
                    .listen("127.0.0.1:0")
                    .lookups(lookups)
                    .limits(limits);
                let mut server = builder.build(app, Seen::default()).expect("a server");
                let at = server.addresses()[0]
                    .to_string()
                    .parse::<SocketAddr>()
                    .expect("an address");
                tell.send((at, server.handle())).expect("the test waits");
                server.run().expect("an end");
            });
            let (at, handle) = told.recv().expect("it is there");
            let thread = Some(thread);
            Running { at, handle, thread }
        }

        fn get(&self, path: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(self.at).expect("connected");
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .expect("a timeout");
            let text = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            (head[9..12].parse().expect("a status"), body.to_string())
        }

        /// Asks again until something is so.
        fn until(&self, what: &str, is_so: impl Fn(&(u16, String)) -> bool) {
            let begun = std::time::Instant::now();
            loop {
                let got = self.get("/");
                if is_so(&got) {
                    return;
                }
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "never: {what}: {got:?}"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.handle.stop();
            if let Some(thread) = self.thread.take() {
                let ended = thread.join();
                assert!(ended.is_ok() || std::thread::panicking());
            }
        }
    }

    const BOTH: [&str; 2] = ["127.0.0.1", "::1"];

    fn both() -> Vec<IpAddr> {
        BOTH.iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect()
    }

    #[test]
    fn of_two_families_the_one_that_answers_is_used() {
        for listens in ["127.0.0.1:0", "[::1]:0"] {
            let dns = Dns::start(Some(Duration::ZERO));
            dns.addresses("app.test", &both());
            let at = backend(listens);
            let upstream = to(&format!("app.test:{}", at.port()));
            let running = Running::start(dns.lookups(), Limits::default(), vec![upstream]);
            for _ in 0..3 {
                let body = format!("{at} app.test:{}", at.port());
                assert_eq!(running.get("/"), (200, body));
            }
        }
    }

    /// Where nothing is accepted, nor refused: its queue is full.
    fn black_hole() -> (SocketAddr, Vec<Socket>) {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "[::1]:0".parse().expect("an address");
        socket.bind(&any.into()).expect("bound");
        socket.listen(1).expect("listening");
        let at = socket.local_addr().expect("an address");
        let mut held = vec![socket];
        for _ in 0..64 {
            let client = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
            if client
                .connect_timeout(&at, Duration::from_millis(300))
                .is_err()
            {
                return (at.as_socket().expect("an address"), held);
            }
            held.push(client);
        }
        panic!("the queue is never full");
    }

    #[test]
    fn an_address_that_hangs_costs_no_more_than_its_head_start() {
        let (hole, _held) = black_hole();
        let at = backend(&format!("127.0.0.1:{}", hole.port()));
        let dns = Dns::start(Some(Duration::ZERO));
        dns.addresses("app.test", &both());
        let upstream = to(&format!("app.test:{}", at.port()));
        let lookups = Lookups {
            delay: Duration::from_millis(300),
            ..dns.lookups()
        };
        let running = Running::start(lookups, Limits::default(), vec![upstream.clone()]);
        let begun = std::time::Instant::now();
        assert_eq!(running.get("/").0, 200);
        let took = begun.elapsed();
        assert!((300..2000).contains(&took.as_millis()), "{took:?}");
        // The one that was good is the first the next time.
        let begun = std::time::Instant::now();
        assert_eq!(running.get("/").0, 200);
        assert!(begun.elapsed() < Duration::from_millis(300));
        // Nor that if the other family is preferred.
        let lookups = Lookups {
            prefer_v4: true,
            ..dns.lookups()
        };
        let running = Running::start(lookups, Limits::default(), vec![upstream]);
        let begun = std::time::Instant::now();
        assert_eq!(running.get("/").0, 200);
        assert!(begun.elapsed() < Duration::from_millis(250));
    }

    #[test]
    fn names_come_and_go() {
        let dns = Dns::start(Some(Duration::ZERO));
        let at = backend("127.0.0.1:0");
        let upstream = to(&format!("dns:app.test:{}", at.port()));
        let running = Running::start(dns.lookups(), Limits::default(), vec![upstream]);
        let (status, text) = running.get("/");
        assert_eq!(
            (status, text.contains("has an address")),
            (503, true),
            "{text}"
        );
        dns.addresses("app.test", &both()[..1]);
        running.until("the name is there", |got| got.0 == 200);
        dns.addresses("app.test", &[]);
        running.until("the name is gone", |got| got.0 == 503);
    }

    #[test]
    fn services_are_where_their_records_say() {
        let dns = Dns::start(Some(Duration::ZERO));
        let (one, two) = (backend("127.0.0.1:0"), backend("127.0.0.1:0"));
        dns.addresses("one.test", &both()[..1]);
        dns.addresses("two.test", &both()[..1]);
        let records = vec![
            service(1, 2, one.port(), "one.test"),
            service(1, 1, two.port(), "two.test"),
        ];
        dns.put("_http._tcp.test", TYPE_SRV, records);
        let upstream = to("srv:_http._tcp.test");
        let running = Running::start(dns.lookups(), Limits::default(), vec![upstream]);
        let mut who: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..30 {
            let (status, text) = running.get("/");
            assert_eq!(status, 200, "{text}");
            *who.entry(text).or_default() += 1;
        }
        let names = [(one, "one.test", 20), (two, "two.test", 10)];
        let want = names.map(|(at, name, times)| (format!("{at} {name}:{}", at.port()), times));
        assert_eq!(who, BTreeMap::from(want));
    }

    #[test]
    fn names_that_nobody_answers_leave_room_for_other_work() {
        let dns = Dns::start(None);
        let limits = Limits {
            offload_threads: 2,
            ..Limits::default()
        };
        let lookups = Lookups {
            at_once: 1,
            ..dns.lookups()
        };
        let connect = Duration::from_millis(300);
        let timeouts = UpstreamTimeouts {
            connect,
            ..UpstreamTimeouts::default()
        };
        let named = |n: u32| to(&format!("app{n}.test:80")).timeouts(timeouts);
        let running = Running::start(lookups, limits, (0..8).map(named).collect());
        let begun = std::time::Instant::now();
        assert_eq!(running.get("/offloaded"), (200, "done".to_string()));
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        let (status, text) = running.get("/");
        assert_eq!(
            (status, text.contains("timeouts.connect")),
            (503, true),
            "{text}"
        );
    }

    #[test]
    fn a_look_up_that_is_refused_is_made_again() {
        let dns = Dns::start(Some(Duration::from_millis(20)));
        let at = backend("127.0.0.1:0");
        let named = |n: u32| {
            let name = format!("app{n}.test");
            dns.addresses(&name, &both()[..1]);
            to(&format!("{name}:{}", at.port()))
        };
        // The one thread has the first, the second may wait for it; the last are refused.
        let limits = Limits {
            offload_threads: 1,
            offload_queue: 1,
            ..Limits::default()
        };
        let lookups = Lookups {
            at_once: 8,
            retry: Duration::from_millis(60),
            ..dns.lookups()
        };
        let running = Running::start(lookups, limits, (0..8).map(named).collect());
        assert_eq!(running.get("/").0, 503);
        running.until("it is looked up", |got| got.0 == 200);
    }
}
