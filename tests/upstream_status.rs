//! Upstreams over loopback: how they stand, servers taken out of use under load, and limits that hold and leak nothing.

#[allow(dead_code)]
#[path = "clients/support.rs"]
mod support;

use loopwright::service::proxy::Proxy;
use loopwright::{
    App, Backend, CircuitLimits, Ctx, Fetch, HealthState, PoolLimits, Retries, Upstream,
    UpstreamStatus, UpstreamTimeouts,
};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::Deref;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{Answer, Client, PATIENCE, TestServer, serve, wait_until};

/// A server behind: says who it is, in as many milliseconds as it is asked to take.
fn origin(name: &'static str) -> TestServer {
    serve(move || {
        let mut app = App::new();
        app.get("/after/{ms}", move |cx, req, res| {
            let ms = req.param("ms").parse().unwrap();
            let res = res.defer();
            cx.after(Duration::from_millis(ms), move |_| res.text(name));
        });
        app.get("/status/{n}", |_, req, res| {
            res.status(req.param("n").parse().unwrap()).text("as asked")
        });
        app.get("/long", |_, _, res| res.bytes(vec![b'x'; 1 << 20]));
        app.get("/endless", |_, _, res| {
            let body = res.stream();
            body.write("torn");
            body.abort();
        });
        app
    })
}

/// Stopped when it is dropped; the connections it keeps to servers behind are then still open.
struct Gateway(Option<TestServer>);

impl Deref for Gateway {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let left = self.0.take().unwrap().stop();
        if !std::thread::panicking() {
            assert_eq!((left.cut, left.open_exchanges), (0, 0));
        }
    }
}

/// Sends everything below `/to/` on to `upstream`.
fn gateway(upstream: Upstream) -> Gateway {
    let server = serve(move || {
        let mut app = App::new();
        app.upstream("api", upstream);
        app.get("/to/{*rest}", |cx, req, res| {
            let fetch = Fetch::get(format!("/{}", req.param("rest")));
            let res = res.defer();
            cx.fetch(
                "api",
                fetch.answering(&res),
                move |_, answer| match answer {
                    Ok(answer) => {
                        let status = answer.status().as_u16();
                        answer.pipe(res.status(status));
                    }
                    Err(why) => res.status(why.status().as_u16()).text(why.to_string()),
                },
            );
        });
        // Nobody waits for these.
        app.get("/drop/{*rest}", |cx, req, res| {
            let fetch = Fetch::get(format!("/{}", req.param("rest")));
            let res = res.defer();
            cx.fetch("api", fetch, move |_, answer| {
                drop(answer.map(|answer| answer.into_body()));
                res.text("dropped");
            });
        });
        app.get("/cancel/{*rest}", |cx, req, res| {
            let fetch = Fetch::get(format!("/{}", req.param("rest")));
            let handle = cx.fetch("api", fetch, |_, _| {});
            let res = res.defer();
            cx.after(Duration::from_millis(30), move |_| {
                handle.cancel();
                res.text("cancelled");
            });
        });
        app
    });
    Gateway(Some(server))
}

fn on_loop<T: Send + 'static>(
    server: &TestServer,
    f: impl FnOnce(&mut Ctx<'_>) -> T + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    let post = move |cx: &mut Ctx<'_>| drop(tell.send(f(cx)));
    server.handle.post(post).unwrap();
    told.recv_timeout(PATIENCE).unwrap()
}

fn status(gateway: &TestServer) -> UpstreamStatus {
    on_loop(gateway, |cx| cx.upstreams().remove(0))
}

fn set_drained(gateway: &TestServer, server: &str, drained: bool) -> bool {
    let server = server.to_string();
    on_loop(gateway, move |cx| match drained {
        true => cx.drain_server("api", &server),
        false => cx.undrain_server("api", &server),
    })
}

fn used(gateway: &TestServer) -> [u32; 3] {
    let used = status(gateway).used;
    [used.pending, used.requests, used.retries]
}

/// Answers what it is asked with the same bytes, then closes; and closes every other connection at once.
fn odd_origin(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            if n % 2 == 1 && stream.read(&mut [0; 1024]).is_ok() {
                let _ = stream.write_all(answer);
            }
        }
    });
    format!("http://{address}")
}

/// Answers 101 to an upgrade and keeps the connection; 200 to anything else, and closes.
fn switching_origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let n = stream.read(&mut request).unwrap_or_default();
                let upgrades = request[..n].windows(10).any(|at| at == b"websocket\r");
                let _ = stream.write_all(match upgrades {
                    true => b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".as_slice(),
                    false => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".as_slice(),
                });
                while upgrades && stream.read(&mut request).is_ok_and(|n| n > 0) {}
            });
        }
    });
    format!("http://{address}")
}

/// A port that nobody listens on.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn upstreams_say_how_they_stand() {
    let (a, b) = (origin("a"), origin("b"));
    let upstream =
        Upstream::new([a.url(""), b.url("")]).server(Backend::new(nobody()).weight(3).backup());
    let gateway = gateway(upstream);
    let mut client = gateway.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/to/after/20").status, 200);
    }
    let now = status(&gateway);
    assert_eq!((&*now.name, now.panicking, now.retries), ("api", false, 0));
    assert_eq!(
        (now.retries_left, now.limits),
        (30, CircuitLimits::default())
    );
    assert_eq!((now.used.connections, now.queue.served), (2, 0));
    let names: Vec<&str> = now.servers.iter().map(|server| &*server.name).collect();
    assert_eq!(names[..2], [a.url(""), b.url("")]);
    for server in &now.servers[..2] {
        assert_eq!((server.state, server.share), (HealthState::Up, 1.0));
        assert_eq!(
            (server.weight, server.backup, server.in_flight),
            (1, false, 0)
        );
        let connections = server.connections;
        assert_eq!(
            (connections.made, connections.idle, connections.reused),
            (1, 1, 1)
        );
        assert!(
            server.latency.unwrap() >= Duration::from_millis(10),
            "{server:?}"
        );
    }
    let backup = &now.servers[2];
    assert_eq!(
        (backup.weight, backup.backup, backup.latency),
        (3, true, None)
    );
    client.send("GET /to/after/300 HTTP/1.1\r\nhost: a\r\n\r\n");
    wait_until("it is under way", || status(&gateway).used.requests == 1);
    let in_flight = |now: UpstreamStatus| now.servers.iter().map(|it| it.in_flight).sum::<u32>();
    wait_until("it is in flight", || in_flight(status(&gateway)) == 1);
    assert_eq!(client.answer().status, 200);
    assert_eq!((used(&gateway), in_flight(status(&gateway))), ([0; 3], 0));
}

#[test]
fn a_server_that_is_drained_under_load_loses_no_request_and_has_no_connection_left() {
    let (a, b) = (origin("a"), origin("b"));
    let gateway = gateway(Upstream::new([a.url(""), b.url("")]));
    let address = gateway.tcp();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let (mut client, begun) = (Client::connect(address), Instant::now());
                let mut answers = Vec::new();
                while begun.elapsed() < Duration::from_millis(900) {
                    let answer: Answer = client.get("/to/after/5");
                    answers.push((answer.status, begun.elapsed(), answer.text().to_string()));
                }
                answers
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    assert!(set_drained(&gateway, &b.url(""), true));
    assert!(set_drained(&gateway, &b.url(""), true), "it is there still");
    assert!(!set_drained(&gateway, "http://127.0.0.1:1", true));
    wait_until("its connections are closed", || {
        let server = status(&gateway).servers.remove(1);
        server.connections.open + server.connections.making == 0
    });
    let made = status(&gateway).servers[1].connections.made;
    std::thread::sleep(Duration::from_millis(200));
    let drained = status(&gateway).servers.remove(1);
    assert_eq!((drained.state, drained.share), (HealthState::Draining, 0.0));
    assert_eq!((drained.connections.made, drained.in_flight), (made, 0));
    assert!(set_drained(&gateway, &b.url(""), false));
    wait_until("it is used again", || {
        status(&gateway).servers[1].connections.made > made
    });
    let answers: Vec<_> = clients
        .into_iter()
        .flat_map(|it| it.join().unwrap())
        .collect();
    assert!(answers.len() > 100, "{}", answers.len());
    assert!(answers.iter().all(|(status, ..)| *status == 200));
    for name in ["a", "b"] {
        assert!(answers.iter().any(|(_, _, text)| text == name));
    }
    assert_eq!((used(&gateway), status(&gateway).retries), ([0; 3], 0));
}

#[test]
fn requests_past_their_limit_are_refused_at_once() {
    let a = origin("a");
    let circuit = CircuitLimits {
        requests: 2,
        ..CircuitLimits::default()
    };
    let gateway = gateway(Upstream::new([a.url("")]).circuit(circuit));
    let mut waiting: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    for client in &mut waiting {
        client.send("GET /to/after/400 HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    wait_until("both are under way", || status(&gateway).used.requests == 2);
    let begun = Instant::now();
    let refused = gateway.get("/to/after/0");
    assert_eq!(refused.essence(), (503, "limits.requests = 2 is reached"));
    assert!(begun.elapsed() < Duration::from_millis(300));
    for client in &mut waiting {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(gateway.get("/to/after/0").status, 200);
    assert_eq!(used(&gateway), [0; 3]);
}

#[test]
fn connections_have_a_limit_over_all_servers_and_requests_wait_for_one() {
    let (a, b) = (origin("a"), origin("b"));
    let circuit = CircuitLimits {
        connections: 2,
        pending: 3,
        ..CircuitLimits::default()
    };
    let gateway = gateway(Upstream::new([a.url(""), b.url("")]).circuit(circuit));
    let mut clients: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET /to/after/150 HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    wait_until("three wait", || used(&gateway) == [3, 5, 0]);
    assert_eq!(status(&gateway).used.connections, 2);
    let refused = gateway.get("/to/after/0");
    assert_eq!(refused.essence(), (503, "limits.pending = 3 is reached"));
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let now = status(&gateway);
    let made: u64 = now
        .servers
        .iter()
        .map(|server| server.connections.made)
        .sum();
    assert_eq!((made, now.queue.served, now.queue.waiting), (2, 3, 0));
}

#[test]
fn retries_have_a_limit() {
    let circuit = CircuitLimits {
        retries: 0,
        ..CircuitLimits::default()
    };
    let of = |circuit| {
        let a = origin("a");
        let bad = Retries {
            statuses: vec![503],
            tries: 3,
            ..Retries::default()
        };
        let gateway = gateway(Upstream::new([a.url("")]).retries(bad).circuit(circuit));
        assert_eq!(gateway.get("/to/status/503").status, 503);
        assert_eq!(used(&gateway), [0; 3]);
        status(&gateway).retries
    };
    assert_eq!(of(circuit), 0);
    assert_eq!(of(CircuitLimits::default()), 2);
}

#[test]
fn however_a_request_ends_nothing_of_it_is_counted_any_more() {
    let a = origin("a");
    let short = UpstreamTimeouts {
        first_byte: Duration::from_millis(50),
        ..UpstreamTimeouts::default()
    };
    let total = UpstreamTimeouts {
        total: Duration::from_millis(50),
        ..UpstreamTimeouts::default()
    };
    let one = PoolLimits {
        most: 1,
        queue_wait: Duration::from_millis(30),
        ..PoolLimits::default()
    };
    let retries = Retries {
        timeouts: true,
        hedge: Some(0.5),
        ..Retries::default()
    };
    let garbage = odd_origin(b"HTTP/1.1 banana\r\n\r\n");
    let torn = odd_origin(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ntorn");
    let to = |server: String| Upstream::new([server]).retries(retries.clone());
    let upstreams = [
        to(a.url("")).timeouts(short),
        to(a.url("")).timeouts(total),
        to(a.url("")).pool(one),
        Upstream::new([a.url(""), nobody()]).retries(retries.clone()),
        to(nobody()),
        to(garbage),
        to(torn),
        to(a.url(""))
            .circuit(CircuitLimits {
                pending: 0,
                retries: 1,
                ..CircuitLimits::default()
            })
            .pool(one),
    ];
    for (n, upstream) in upstreams.into_iter().enumerate() {
        let gateway = gateway(upstream);
        let address = gateway.tcp();
        let paths = [
            "/to/after/0",
            "/to/after/120",
            "/to/long",
            "/to/endless",
            "/to/status/500",
            "/drop/long",
            "/drop/after/1",
            "/drop/endless",
            "/cancel/after/60",
            "/cancel/after/0",
        ];
        let clients: Vec<_> = paths
            .into_iter()
            .map(|path| {
                std::thread::spawn(move || {
                    for leaves in [false, true, false] {
                        let mut client = Client::connect(address);
                        client.send(format!(
                            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
                        ));
                        match leaves {
                            true => std::thread::sleep(Duration::from_millis(10)),
                            false => {
                                drop(std::io::copy(&mut client.socket(), &mut std::io::sink()))
                            }
                        }
                    }
                })
            })
            .collect();
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        let begun = Instant::now();
        while used(&gateway) != [0; 3] {
            let left = status(&gateway);
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "upstream {n}: {left:#?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = status(&gateway);
        for server in &left.servers {
            let connections = server.connections;
            assert_eq!(
                (server.in_flight, connections.in_use, connections.making),
                (0, 0, 0),
                "upstream {n}: {left:#?}"
            );
        }
    }
}

#[test]
fn a_tunnel_is_no_request_but_has_its_place_until_it_ends() {
    let one = PoolLimits {
        most: 1,
        ..PoolLimits::default()
    };
    let upstream = Upstream::new([switching_origin()]).pool(one);
    let gateway = Gateway(Some(serve(move || {
        let mut app = App::new();
        app.upstream("api", upstream);
        Proxy::to("api").on(&mut app, "/{*rest}");
        app
    })));
    let mut client = gateway.connect();
    client.send(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(client.head().status, 101);
    wait_until("it is over", || used(&gateway) == [0; 3]);
    let now = status(&gateway);
    let server = &now.servers[0];
    let (open, in_flight) = (server.connections.in_use, server.in_flight);
    assert_eq!((now.used.connections, open, in_flight), (1, 1, 1));
    drop(client);
    wait_until("its place is free", || {
        status(&gateway).used.connections == 0
    });
    assert_eq!(gateway.get("/").status, 200);
}
