//! The PROXY protocol through whole servers: what a header in front of a connection makes of it, and what an
//! upstream is told. Over loopback, the server turned by the test itself, so that each write is a read of its own;
//! time limits in the simulator; nginx and haproxy on the other side.

use loopwright::proto::proxy_protocol::{Endpoints, Front, read, write_v2};
use loopwright::service::access_log::{Format, access_log};
use loopwright::service::proxy::Proxy;
use loopwright::sim::{Faults, SimNet};
use loopwright::upstream::health::Checks;
use loopwright::{
    App, Builder, HealthSettings, Introduction, Limits, Listen, Peer, PoolLimits, Server, Timeouts,
    Trusted, Upstream,
};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Once, mpsc};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &[u8] = b"GET /?2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

// ------------------------------------------------------------------ what is logged, by this thread's server

thread_local!(static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

struct Collect;

impl log::Log for Collect {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        LOG.with_borrow_mut(|log| log.push(line));
    }
    fn flush(&self) {}
}

/// Forgets what was logged before.
fn begin_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collect).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
    });
    LOG.take();
}

fn logged(what: &str) -> bool {
    LOG.with_borrow(|log| log.iter().any(|line| line.contains(what)))
}

// ------------------------------------------------------------------ a server, and who speaks to it

struct Served {
    server: Server<()>,
    address: SocketAddr,
}

fn trusting(entries: &str) -> Trusted {
    Trusted::parse(entries.split_whitespace()).unwrap()
}

fn builder() -> Builder {
    Server::builder().listen("127.0.0.1:0")
}

/// Says who asks.
fn telling() -> App<()> {
    let mut app: App = App::new();
    app.get("/", |_, req, res| res.text(req.remote().to_string()));
    app.after(access_log(Format::Combined));
    app
}

impl Served {
    fn new(builder: Builder, app: App<()>) -> Served {
        begin_log();
        let server = builder.build(app, ()).unwrap();
        let Listen::Tcp(address) = server.addresses().remove(0) else {
            unreachable!("bound to TCP")
        };
        Served { server, address }
    }

    /// As often as something that has been sent over loopback needs to be seen.
    fn turns(&mut self) {
        for _ in 0..3 {
            self.server.turn_within(Duration::ZERO).unwrap();
        }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    /// Everything that comes until the end, or until `is_enough`.
    fn hear(&mut self, client: &mut impl Hears, is_enough: impl Fn(&str) -> bool) -> String {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        let until = Instant::now() + PATIENCE;
        client.poll_only();
        loop {
            match client.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => heard.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.server.turn_within(Duration::from_millis(1)).unwrap();
                }
                Err(_) => break,
            }
            if is_enough(&String::from_utf8_lossy(&heard)) {
                break;
            }
            let heard = String::from_utf8_lossy(&heard);
            assert!(Instant::now() < until, "no end to {heard:?}");
        }
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Sends each piece for itself; the statuses and bodies of what is answered. The client's address is `own`.
    fn ask(&mut self, pieces: &[&[u8]]) -> String {
        let mut client = self.connect();
        for piece in pieces {
            // It may have been cut off.
            let _ = client.write_all(piece);
            self.turns();
        }
        let own = client.local_addr().unwrap().to_string();
        essence(&self.hear(&mut client, |_| false)).replace(&own, "own")
    }
}

trait Hears: Read {
    fn poll_only(&self);
}

impl Hears for TcpStream {
    fn poll_only(&self) {
        self.set_nonblocking(true).unwrap();
    }
}

impl Hears for std::os::unix::net::UnixStream {
    fn poll_only(&self) {
        self.set_nonblocking(true).unwrap();
    }
}

/// Status and body of each answer.
fn essence(heard: &str) -> String {
    let answers = heard.split("HTTP/1.1 ").skip(1).map(|answer| {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
        let status = head.get(..3).unwrap_or(head);
        format!("{status} {body}").trim_end().to_string()
    });
    answers.collect::<Vec<_>>().join(", ")
}

fn v2(endpoints: Endpoints<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_v2(&mut out, endpoints);
    out
}

fn of(source: &str, destination: &str) -> Vec<u8> {
    v2(Endpoints::Inet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    })
}

/// Headers, and whose connection theirs is.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let unix = Endpoints::Unix {
        source: b"/run/a",
        destination: b"/run/b",
    };
    vec![
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n".to_vec(),
            "192.0.2.1:4711",
        ),
        (
            b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n".to_vec(),
            "[2001:db8::1]:4711",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "own"),
        (of("192.0.2.1:4711", "198.51.100.7:443"), "192.0.2.1:4711"),
        (
            of("[2001:db8::1]:4711", "[2001:db8::2]:443"),
            "[2001:db8::1]:4711",
        ),
        (
            of("[::ffff:192.0.2.1]:4711", "[::ffff:192.0.2.7]:443"),
            "192.0.2.1:4711",
        ),
        (v2(Endpoints::Local), "own"),
        (v2(Endpoints::Unknown), "own"),
        (v2(unix), "own"),
    ]
}

// ------------------------------------------------------------------ in

#[test]
fn a_header_however_it_arrives() {
    let mut served = Served::new(builder().proxy_protocol(trusting("127.0.0.0/8")), telling());
    for (header, who) in headers() {
        let all = [&header, GET, LAST].concat();
        let want = format!("200 {who}, 200 {who}");
        let shown = header.escape_ascii();
        assert_eq!(served.ask(&[&all]), want, "{shown}");
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(served.ask(&bytes), want, "{shown}, byte by byte");
        for at in 1..header.len() + GET.len() + 1 {
            let (front, rest) = all.split_at(at);
            assert_eq!(served.ask(&[front, rest]), want, "{shown}, split at {at}");
        }
    }
    assert!(logged("192.0.2.1 - - ["), "the access log names the client");
    assert!(!logged("server.proxy_protocol"));
}

#[test]
fn whoever_is_not_trusted_speaks_http() {
    for entries in ["", "192.0.2.0/24 unix ::1"] {
        let mut served = Served::new(builder().proxy_protocol(trusting(entries)), telling());
        assert_eq!(served.ask(&[GET, LAST]), "200 own, 200 own");
        for (header, _) in headers() {
            let all = [&header, LAST].concat();
            assert_eq!(
                served.ask(&[&all]),
                "400 Bad Request",
                "{}",
                header.escape_ascii()
            );
        }
    }
}

#[test]
fn a_trusted_proxy_that_begins_otherwise_is_cut() {
    let whole = of("192.0.2.1:4711", "198.51.100.7:443");
    let mut version = whole.clone();
    version[12] = 0x31;
    for (front, came) in [
        (GET, "something else"),
        (b"\x16\x03\x01\x02\x00", "something else"),
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 65536\r\n",
            "a port",
        ),
        (b"PROXY TCP4 192.0.2.1\r\n", "too few words"),
        (&[b'P'; 200], "something else"),
        (&version, "a version that is not 2"),
    ] {
        let shown = front.escape_ascii();
        for is_split in [false, true] {
            let mut served =
                Served::new(builder().proxy_protocol(trusting("127.0.0.1")), telling());
            let all = [front, GET].concat();
            let pieces: Vec<&[u8]> = match is_split {
                false => vec![&all],
                true => all.chunks(1).collect(),
            };
            assert_eq!(served.ask(&pieces), "", "{shown}");
            assert!(logged("WARN"), "{shown}");
            assert!(logged("server.proxy_protocol"), "{shown}");
            assert!(logged(came), "{shown}: {came}");
            assert_eq!(served.server.connections(), 0);
        }
    }
}

#[test]
fn one_header_and_no_more() {
    let mut served = Served::new(builder().proxy_protocol(trusting("127.0.0.1")), telling());
    for (header, who) in headers() {
        let twice = [&header, &header, LAST].concat();
        assert_eq!(served.ask(&[&twice]), "400 Bad Request");
        let late = [&header, GET, &header, LAST].concat();
        assert_eq!(served.ask(&[&late]), format!("200 {who}, 400 Bad Request"));
    }
}

/// What balancers do to see whether somebody listens.
#[test]
fn a_look_whether_we_listen_is_no_news() {
    let mut served = Served::new(builder().proxy_protocol(trusting("127.0.0.1")), telling());
    for sent in [
        &b"PROXY "[..],
        b"P",
        &of("192.0.2.1:1", "192.0.2.2:2")[..20],
    ] {
        let mut client = served.connect();
        client.write_all(sent).unwrap();
        served.turns();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(served.hear(&mut client, |_| false), "");
    }
    served.turns();
    assert_eq!(served.server.connections(), 0);
    assert!(!logged("WARN"));
}

#[test]
fn a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listen = format!("unix:{}", path.display());
    let builder = builder().listen(listen);
    for (entries, want) in [
        ("unix", "200 192.0.2.1:4711"),
        ("127.0.0.1", "400 Bad Request"),
    ] {
        let mut served = Served::new(builder.clone().proxy_protocol(trusting(entries)), telling());
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let header = of("192.0.2.1:4711", "198.51.100.7:443");
        client.write_all(&[&header, LAST].concat()).unwrap();
        assert_eq!(essence(&served.hear(&mut client, |_| false)), want);
    }
}

#[test]
fn connections_are_counted_for_the_client() {
    let builder = builder().proxy_protocol(trusting("127.0.0.1"));
    let limits = |most| Limits {
        connections_per_address: most,
        ..Limits::default()
    };
    let mut served = Served::new(builder.clone().limits(limits(2)), telling());
    let open = |served: &mut Served, source: &str| {
        let mut client = served.connect();
        let header = of(source, "198.51.100.7:443");
        client.write_all(&[&header, GET].concat()).unwrap();
        let heard = served.hear(&mut client, |heard| heard.contains(source));
        (client, essence(&heard))
    };
    // Those of whom nothing is known count for nobody, the proxy least of all.
    let mut silent: Vec<TcpStream> = (0..4).map(|_| served.connect()).collect();
    for client in &mut silent {
        client.write_all(b"PROXY TCP4 ").unwrap();
    }
    served.turns();
    let (first, heard) = open(&mut served, "192.0.2.1:1");
    assert_eq!(heard, "200 192.0.2.1:1");
    let (second, heard) = open(&mut served, "192.0.2.1:2");
    assert_eq!(heard, "200 192.0.2.1:2");
    let (other, heard) = open(&mut served, "192.0.2.2:1");
    assert_eq!(heard, "200 192.0.2.2:1");
    assert_eq!(open(&mut served, "192.0.2.1:3").1, "503");
    assert!(logged(
        "192.0.2.1:3: refused with 503: limits.connections_per_address = 2"
    ));
    drop(first);
    served.turns();
    let (third, heard) = open(&mut served, "192.0.2.1:4");
    assert_eq!(heard, "200 192.0.2.1:4");
    assert_eq!(open(&mut served, "192.0.2.1:5").1, "503");

    // A limit that a reload sets counts those who are there, by the same addresses.
    served
        .server
        .reload(builder.limits(limits(1)), telling())
        .unwrap();
    assert_eq!(open(&mut served, "192.0.2.2:2").1, "503");
    let (_fourth, heard) = open(&mut served, "192.0.2.3:1");
    assert_eq!(heard, "200 192.0.2.3:1");
    drop((second, other, third));
    served.turns();
    for source in ["192.0.2.1:6", "192.0.2.2:3"] {
        assert_eq!(open(&mut served, source).1, format!("200 {source}"));
        served.turns();
    }
    // LOCAL and UNKNOWN are the proxy's own: they count for it, and those that are silent still do not.
    let mut local = served.connect();
    let header = v2(Endpoints::Local);
    local.write_all(&[&header, GET].concat()).unwrap();
    let heard = served.hear(&mut local, |heard| heard.contains("127.0.0.1"));
    let own = local.local_addr().unwrap();
    assert_eq!(essence(&heard), format!("200 {own}"));
    drop(silent.pop());
    served.turns();
    assert_eq!(served.ask(&[b"PROXY UNKNOWN\r\n", LAST]), "503");
    // One of those that were silent says who it is, at last.
    silent[0]
        .write_all(b"192.0.2.9 198.51.100.7 1 2\r\n")
        .unwrap();
    silent[0].write_all(LAST).unwrap();
    let heard = served.hear(&mut silent[0], |_| false);
    assert_eq!(essence(&heard), "200 192.0.2.9:1");
}

#[test]
fn a_reload_says_who_is_trusted_from_now_on() {
    let mut served = Served::new(builder(), telling());
    let header = of("192.0.2.1:4711", "198.51.100.7:443");
    let all = [&header, LAST].concat();
    assert_eq!(served.ask(&[&all]), "400 Bad Request");
    let trusted = builder().proxy_protocol(trusting("127.0.0.1"));
    served.server.reload(trusted, telling()).unwrap();
    assert_eq!(served.ask(&[&all]), "200 192.0.2.1:4711");
    served.server.reload(builder(), telling()).unwrap();
    assert_eq!(served.ask(&[&all]), "400 Bad Request");
}

#[cfg(feature = "config")]
#[test]
fn a_config_says_who_is_trusted() {
    let config = |entries| {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nproxy_protocol = [{entries}]\n\
             [[routes]]\npath = \"/\"\nrespond = {{ body = \"here\" }}\n"
        );
        let config = loopwright::config::Config::parse("site.toml", &text).unwrap();
        config.build().unwrap()
    };
    let all = [&of("192.0.2.1:4711", "198.51.100.7:443"), LAST].concat();
    let (builder, app) = config("");
    let mut served = Served::new(builder, app);
    assert_eq!(served.ask(&[&all]), "400 Bad Request");
    let (builder, app) = config("\"192.0.2.0/24\", \"127.0.0.0/8\"");
    served.server.reload(builder, app).unwrap();
    assert_eq!(served.ask(&[&all]), "200 here");
}

/// Header and head together have `timeouts.head`; in any segments, at any moment.
#[test]
fn a_header_has_the_time_of_a_head() {
    let head = Duration::from_secs(7);
    let header = of("192.0.2.1:4711", "198.51.100.7:443");
    for seed in 0..8 {
        for (sent, want) in [
            ([&header[..], LAST].concat(), "200 192.0.2.1:4711"),
            (header[..27].to_vec(), ""),
            (b"PROXY ".to_vec(), ""),
            (b"P".to_vec(), ""),
            ([&header[..], &LAST[..9]].concat(), "408 Request Timeout"),
        ] {
            let faults = Faults {
                accept_errors: 0,
                ..Faults::default()
            };
            begin_log();
            let timeouts = Timeouts {
                head,
                ..Timeouts::default()
            };
            let builder = Server::builder().timeouts(timeouts);
            let builder = builder.proxy_protocol(trusting("0.0.0.0/0"));
            let net = SimNet::new(seed, faults);
            let mut server = builder.simulate(net, telling(), ()).unwrap();
            let client = server.net_mut().connect(0);
            let begun = server.net_mut().now();
            server.net_mut().send(client, &sent);
            while !server.net_mut().is_finished(client) {
                server.turn().unwrap();
                assert!(server.net_mut().now() - begun < head * 2, "{seed} {want}");
            }
            let took = server.net_mut().now() - begun;
            let heard = String::from_utf8_lossy(server.net_mut().received(client)).into_owned();
            assert_eq!(essence(&heard), want, "{seed}");
            assert_eq!(took >= head, !want.starts_with("200"), "{seed} {took:?}");
            // Who has not said whose connection it is is named, with the setting that asks for it.
            assert_eq!(logged("server.proxy_protocol"), want.is_empty(), "{seed}");
            assert_eq!(
                logged("timeouts.head"),
                want.is_empty() || want.starts_with("408")
            );
        }
    }
}

#[test]
fn the_client_that_proxies_name() {
    let mut app: App = App::new();
    let trusted = trusting("127.0.0.0/8 198.51.100.0/24");
    app.get("/", move |_, req, res| {
        let ip = req.client_ip(&trusted).map(|ip| ip.to_string());
        res.text(ip.unwrap_or_default())
    });
    let mut served = Served::new(builder().proxy_protocol(trusting("127.0.0.1")), app);
    let request =
        "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n\r\n";
    for (header, want) in [
        // The source of the header is the peer: it is believed, or not, like any other.
        (of("192.0.2.1:1", "192.0.2.2:2"), "200 192.0.2.1"),
        (of("198.51.100.1:1", "192.0.2.2:2"), "200 203.0.113.9"),
        (v2(Endpoints::Local), "200 203.0.113.9"),
    ] {
        assert_eq!(served.ask(&[&[&header, request.as_bytes()].concat()]), want);
    }
}

// ------------------------------------------------------------------ out

/// A server that tells what each of its connections begins with, up to the end of the first head, and goes on
/// answering on it.
fn upstream() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let tell = tell.clone();
            std::thread::spawn(move || {
                let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..n]);
                    if seen.ends_with(b"\r\n\r\n") && seen.len() > 16 {
                        let _ = tell.send(std::mem::take(&mut seen));
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                    }
                }
            });
        }
    });
    (address, told)
}

fn passing_on(to: SocketAddr, with: impl FnOnce(Upstream) -> Upstream) -> App<()> {
    let mut app: App = App::new();
    app.upstream("app", with(Upstream::new([format!("http://{to}")])));
    let trusted = Arc::new(trusting("127.0.0.0/8"));
    Proxy::to("app").trusted(trusted).on(&mut app, "/{*rest}");
    app
}

/// What a connection began with, and what came behind that.
fn announced(seen: &[u8]) -> (String, String) {
    let Ok(Front::Header { endpoints, used }) = read(seen) else {
        panic!("no header: {}", seen.escape_ascii());
    };
    let said = match endpoints {
        Endpoints::Inet {
            source,
            destination,
        } => format!("{source} > {destination}"),
        other => format!("{other:?}"),
    };
    let request = String::from_utf8_lossy(&seen[used..]).into_owned();
    let line = request.lines().next().unwrap_or("").to_string();
    (said, line)
}

#[test]
fn an_upstream_is_told_whose_connection_it_is_given() {
    for (introduction, front) in [
        (Introduction::V1, &b"PROXY TCP4 "[..]),
        (Introduction::V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11"),
    ] {
        let (to, told) = upstream();
        let app = passing_on(to, |upstream| upstream.introduction(introduction));
        let mut served = Served::new(builder(), app);
        // Two clients, two requests of each: nobody is given a connection that has been another's.
        for _ in 0..2 {
            let mut client = served.connect();
            let (own, local) = (client.local_addr().unwrap(), served.address);
            for request in [GET, LAST] {
                client.write_all(request).unwrap();
                served.hear(&mut client, |heard| heard.ends_with("ok"));
                let seen = told.recv_timeout(PATIENCE).unwrap();
                assert!(seen.starts_with(front), "{}", seen.escape_ascii());
                let (said, line) = announced(&seen);
                assert_eq!(said, format!("{own} > {local}"));
                let asked = String::from_utf8_lossy(request);
                assert_eq!(Some(&*line), asked.lines().next());
            }
        }
    }
}

#[test]
fn an_upstream_is_told_of_the_client_that_is_believed() {
    let forwarded =
        "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n\r\n";
    let (to, told) = upstream();
    let app = passing_on(to, |upstream| upstream.introduction(Introduction::V2));
    let mut served = Served::new(builder(), app);
    assert_eq!(served.ask(&[forwarded.as_bytes()]), "200 ok");
    let (said, _) = announced(&told.recv_timeout(PATIENCE).unwrap());
    assert_eq!(said, format!("203.0.113.9:0 > {}", served.address));

    // One proxy behind another, each with the protocol: the port comes through, too.
    let app = passing_on(to, |upstream| upstream.introduction(Introduction::V2));
    let mut served = Served::new(builder().proxy_protocol(trusting("127.0.0.1")), app);
    for (source, want) in [
        (
            "192.0.2.1:4711",
            format!("192.0.2.1:4711 > {}", served.address),
        ),
        ("[2001:db8::1]:4711", {
            let port = served.address.port();
            format!("[2001:db8::1]:4711 > [::ffff:127.0.0.1]:{port}")
        }),
    ] {
        let header = of(source, "[2001:db8::2]:443");
        assert_eq!(served.ask(&[&header, forwarded.as_bytes()]), "200 ok");
        let (said, _) = announced(&told.recv_timeout(PATIENCE).unwrap());
        assert_eq!(said, want);
    }
}

#[test]
fn a_client_on_a_unix_socket_has_no_address_to_tell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    for introduction in [Introduction::V1, Introduction::V2] {
        let (to, told) = upstream();
        let app = passing_on(to, |upstream| upstream.introduction(introduction));
        let builder = builder().listen(format!("unix:{}", path.display()));
        let mut served = Served::new(builder, app);
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(LAST).unwrap();
        assert_eq!(essence(&served.hear(&mut client, |_| false)), "200 ok");
        let (said, _) = announced(&told.recv_timeout(PATIENCE).unwrap());
        assert_eq!(said, "Unknown");
    }
}

#[test]
fn checks_and_requests_of_our_own_are_local() {
    for (introduction, want) in [(Introduction::V1, "Unknown"), (Introduction::V2, "Local")] {
        let (to, told) = upstream();
        let mut app = passing_on(to, |upstream| {
            upstream.introduction(introduction).health(HealthSettings {
                checks: Some(Checks::default()),
                ..HealthSettings::default()
            })
        });
        app.get("/own", |cx, _, res| {
            let res = res.defer();
            let fetch = loopwright::Fetch::get("/from-the-app");
            cx.fetch("app", fetch, move |_, answer| {
                res.text(answer.map_or_else(|e| e.to_string(), |_| "fetched".into()))
            });
        });
        let mut served = Served::new(builder(), app);
        let until = Instant::now() + PATIENCE;
        let seen = loop {
            served.server.turn_within(Duration::from_millis(5)).unwrap();
            match told.try_recv() {
                Ok(seen) => break seen,
                Err(_) => assert!(Instant::now() < until, "no check"),
            }
        };
        assert_eq!(announced(&seen), (want.into(), "GET / HTTP/1.1".into()));
        let own = b"GET /own HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert_eq!(served.ask(&[own]), "200 fetched");
        let seen = told.recv_timeout(PATIENCE).unwrap();
        let line = "GET /from-the-app HTTP/1.1".to_string();
        assert_eq!(announced(&seen), (want.to_string(), line));
    }
}

/// A connection that is made ahead says nothing until it is somebody's.
#[test]
fn a_connection_made_ahead_is_introduced_when_it_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let app = passing_on(listener.local_addr().unwrap(), |upstream| {
        upstream.introduction(Introduction::V1).pool(PoolLimits {
            warm: 1,
            ..PoolLimits::default()
        })
    });
    let mut served = Served::new(builder(), app);
    let mut made = Vec::new();
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        served.server.turn_within(Duration::from_millis(5)).unwrap();
        made.extend(listener.accept().map(|(stream, _)| stream));
    }
    // One is kept, and not thrown away and made again, and again.
    assert_eq!(made.len(), 1);
    let mut ahead = made.remove(0);
    ahead.set_nonblocking(true).unwrap();
    let nothing = ahead.read(&mut [0; 16]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    let mut client = served.connect();
    client.write_all(GET).unwrap();
    let want = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} ",
        client.local_addr().unwrap().port()
    );
    let seen = served.hear(&mut ahead, |seen| seen.ends_with("\r\n\r\n"));
    assert!(seen.starts_with(&want), "{seen}");
}

// ------------------------------------------------------------------ others' programs

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it, and waits until it listens.
fn start(command: &mut Command, at: SocketAddr) -> Program {
    let null = || Stdio::null();
    let child = command.stdin(null()).stdout(null()).stderr(null()).spawn();
    let name = command.get_program().to_string_lossy();
    let child = child.unwrap_or_else(|e| panic!("{name}: {e}; scripts/test installs it"));
    let program = Program(child);
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(at).is_err() {
        assert!(Instant::now() < until, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    program
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn nginx(folder: &Path, at: SocketAddr) -> Program {
    let folder = folder.display();
    let conf = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n\
         events {{}}\n\
         http {{\n\
           access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
           fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
           server {{ listen {at} proxy_protocol; location / {{\n\
             return 200 '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port';\n\
           }} }}\n\
         }}\n"
    );
    let path = format!("{folder}/nginx.conf");
    std::fs::write(&path, conf).unwrap();
    let mut command = Command::new("nginx");
    start(command.args(["-p", &folder.to_string(), "-c", &path]), at)
}

#[test]
fn nginx_is_told_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    let at = free_address();
    let _nginx = nginx(folder.path(), at);
    for introduction in [Introduction::V1, Introduction::V2] {
        let app = passing_on(at, |upstream| upstream.introduction(introduction));
        let mut served = Served::new(builder(), app);
        for _ in 0..3 {
            let mut client = served.connect();
            client.write_all(LAST).unwrap();
            let heard = essence(&served.hear(&mut client, |_| false));
            let (own, ours) = (client.local_addr().unwrap().port(), served.address.port());
            assert_eq!(heard, format!("200 127.0.0.1 {own} {ours}"));
        }
    }
}

#[test]
fn haproxy_tells_who_asks() {
    for word in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
    ] {
        let mut served = Served::new(builder().proxy_protocol(trusting("127.0.0.1")), telling());
        let folder = tempfile::tempdir().unwrap();
        let (at, to) = (free_address(), served.address);
        let conf = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
             listen f\n bind {at}\n server s {to} {word}\n"
        );
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, conf).unwrap();
        let _haproxy = start(Command::new("haproxy").args(["-db", "-f"]).arg(&path), at);
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(&[GET, LAST].concat()).unwrap();
        let own = Peer::Inet(client.local_addr().unwrap());
        let heard = essence(&served.hear(&mut client, |_| false));
        assert_eq!(heard, format!("200 {own}, 200 {own}"), "{word}");
    }
}
