//! What a request for an upgrade is answered, through the whole server.

use crate::peer::*;
use crate::support::*;
use loopwright::{App, StatusError, Timeouts};
use std::time::Duration;

fn server() -> TestServer {
    serve(|| {
        let mut app: App = App::new();
        app.before(|_, req, res| match req.header("x-refuse") {
            Some(_) => {
                res.status(401).text("who are you?");
                None
            }
            None => Some(res.header("x-middleware", "yes")),
        });
        app.ws("/echo", |_, ws, message| ws.send(message));
        let (tell, _) = ear();
        app.sockets("/strict", move |_, _, handshake| {
            handshake.origins(&["https://example.org", "http://localhost:8080"])?;
            if handshake.protocols(&["b", "a"]).is_none() {
                return Err(StatusError::new(400, "speak a or b"));
            }
            Ok(Probe::new(&tell, echo))
        });
        app.sockets("/never", |_, _, _| -> Result<Probe, _> {
            Err(StatusError::new(418, "no"))
        });
        app.get("/both", |cx, req, res| match req.wants_websocket() {
            true => res.websocket(cx, req, |_, _| -> Result<Probe, _> {
                Err(StatusError::new(410, "a socket"))
            }),
            false => res.text("a page"),
        });
        app
    })
}

#[test]
fn statuses() {
    let server = server();
    let edit = |from: &str, to: &str| {
        let all = FIELDS.replace(from, to);
        assert_ne!(all, FIELDS, "{from}");
        all
    };
    let version = ("sec-websocket-version", Some("13"));
    let upgrade = ("upgrade", Some("websocket"));
    let none = ("sec-websocket-version", None);
    let plus = |line: &str| format!("{FIELDS}{line}\r\n");
    for (path, fields, status, (name, value)) in [
        (
            "/echo",
            edit("upgrade: websocket", "upgrade: h2c"),
            400,
            none,
        ),
        (
            "/echo",
            edit("connection: Upgrade", "connection: keep-alive"),
            400,
            none,
        ),
        (
            "/echo",
            edit("bXBsZSBub25jZQ==", "bXBsZSBub25jZQ="),
            400,
            none,
        ),
        ("/echo", edit("key: dGhl", "key: dGhlAAAA"), 400, none),
        ("/echo", edit("version: 13", "version: 8"), 426, version),
        ("/echo", edit("version: 13", "version: 13, 8"), 426, version),
        (
            "/echo",
            edit("sec-websocket-version: 13\r\n", ""),
            426,
            version,
        ),
        ("/echo", plus("sec-websocket-version: 13"), 426, version),
        ("/echo", "host: test\r\n".into(), 426, upgrade),
        ("/echo", plus("x-refuse: yes"), 401, none),
        (
            "/echo",
            plus("sec-websocket-extensions: permessage-deflate; ="),
            400,
            none,
        ),
        (
            "/strict",
            plus("origin: https://example.com\r\nsec-websocket-protocol: a"),
            403,
            none,
        ),
        (
            "/strict",
            plus("origin: null\r\nsec-websocket-protocol: a"),
            403,
            none,
        ),
        ("/strict", plus("origin: https://example.org"), 400, none),
        ("/strict", plus("sec-websocket-protocol: c"), 400, none),
        (
            "/strict",
            plus("sec-websocket-protocol: a, \"b\""),
            400,
            none,
        ),
        ("/never", FIELDS.into(), 418, none),
        ("/both", FIELDS.into(), 410, none),
        ("/both", "host: test\r\n".into(), 200, none),
        ("/none", FIELDS.into(), 404, none),
    ] {
        let mut client = server.connect();
        client.send(format!("GET {path} HTTP/1.1\r\n{fields}\r\n"));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{path} {fields}: {}", answer.text());
        assert_eq!(answer.field(name), value, "{path} {fields}");
        // A refusal is an answer like any other: the connection goes on.
        client.send("GET /both HTTP/1.1\r\nhost: test\r\n\r\n");
        assert_eq!(
            client.answer().essence(),
            (200, "a page"),
            "{path} {fields}"
        );
    }
    let mut client = server.connect();
    client.send(format!(
        "POST /echo HTTP/1.1\r\n{FIELDS}content-length: 0\r\n\r\n"
    ));
    let answer = client.answer();
    assert_eq!(answer.status, 405);
    assert!(
        answer
            .field("allow")
            .is_some_and(|allow| allow.contains("GET"))
    );
    let mut client = server.connect();
    client.send(format!(
        "GET /echo HTTP/1.1\r\n{FIELDS}content-length: 2\r\n\r\n\x01\x02"
    ));
    assert_eq!(client.answer().status, 400);
    let mut client = server.connect();
    client.send(format!("GET /echo HTTP/1.0\r\n{FIELDS}\r\n"));
    assert_eq!(client.answer().status, 400);
}

#[test]
fn what_a_handshake_agrees_on() {
    let server = server();
    let ask = |path: &str, more: &str| {
        Ws::ask(
            server.tcp(),
            format!("GET {path} HTTP/1.1\r\n{FIELDS}{more}\r\n"),
        )
        .head
    };
    let head = ask("/echo", "sec-websocket-protocol: a\r\n");
    assert_eq!(
        head.field("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(head.field("upgrade"), Some("websocket"));
    assert_eq!(head.field("connection"), Some("upgrade"));
    assert_eq!(head.field("x-middleware"), Some("yes"));
    for absent in [
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "content-length",
    ] {
        assert_eq!(head.field(absent), None, "{absent}");
    }
    let deflate = "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    let head = ask("/echo", deflate);
    let agreed = head.field("sec-websocket-extensions").expect("compression");
    assert!(agreed.starts_with("permessage-deflate"), "{agreed}");
    for (offered, chosen) in [
        ("a", "a"),
        ("a, b", "b"),
        ("x, a", "a"),
        ("x\r\nsec-websocket-protocol: b", "b"),
    ] {
        let more = format!("origin: HTTPS://example.org\r\nsec-websocket-protocol: {offered}\r\n");
        let head = ask("/strict", &more);
        assert_eq!(
            head.field("sec-websocket-protocol"),
            Some(chosen),
            "{offered}"
        );
    }
    ask("/strict", "sec-websocket-protocol: a\r\n");
}

#[test]
fn frames_may_come_with_the_request_or_in_single_bytes() {
    let server = server();
    let ping = frame(FIN | PING, b"1");
    let all = [
        request("/echo").as_bytes(),
        &frame(FIN | TEXT, b"at once"),
        &ping,
        &frame(FIN | CLOSE, &close_payload(1000, "")),
    ]
    .concat();
    for step in [all.len(), 1, 7] {
        let mut ws = match step {
            1 | 7 => {
                let mut client = std::net::TcpStream::connect(server.tcp()).expect("connect");
                client.set_nodelay(true).expect("nodelay");
                let request = request("/echo");
                let (head, rest) = all.split_at(request.len());
                let (first, last) = head.split_at(head.len() - 1);
                std::io::Write::write_all(&mut client, first).expect("send");
                let sender = client.try_clone().expect("a second handle");
                let mut rest = rest.to_vec();
                rest.insert(0, last[0]);
                let sending = std::thread::spawn(move || {
                    for piece in rest.chunks(step) {
                        std::io::Write::write_all(&mut &sender, piece).expect("send");
                        std::thread::sleep(Duration::from_micros(500));
                    }
                });
                let ws = Ws::over(client, b"");
                sending.join().expect("sent");
                ws
            }
            _ => Ws::ask(server.tcp(), &all),
        };
        assert_eq!(ws.says(), "at once");
        assert_eq!(ws.message(), (PONG, b"1".to_vec()));
        assert_eq!(ws.closed(), (1000, String::new()));
        ws.ends();
    }
}

#[test]
fn an_upgrade_is_an_exchange_that_is_over_with_its_answer() {
    let (tell, told) = ear();
    let server = serve(move || {
        let mut app: App = App::new();
        app.after(move |_, done| {
            let (status, path, aborted) = (done.status(), done.path(), done.is_aborted());
            let _ = tell.send(format!("{status} {path} {aborted}"));
        });
        app.ws("/echo", |_, ws, message| ws.send(message));
        app
    });
    let mut ws = Ws::open(&server, "/echo");
    told.hears("101 /echo false");
    ws.text("x");
    assert_eq!(ws.says(), "x");
    assert_eq!(server.connect().get("/").status, 404);
    told.hears("404 / false");
    drop(ws);
    drop(server);
    assert_eq!(told.rest(), [""; 0], "said once");
}

/// A request that is on its way while the server is asked to stop is answered, but not with a socket.
#[test]
fn nobody_is_let_in_by_a_server_that_leaves() {
    let timeouts = Timeouts {
        drain_idle: Duration::from_secs(5),
        ..timeouts()
    };
    let server = serve_with(local().timeouts(timeouts), || {
        let mut app: App = App::new();
        app.ws("/echo", |_, ws, message| ws.send(message));
        app.get("/", |_, _, res| res.text("here"));
        (app, ())
    });
    let mut client = server.connect();
    assert_eq!(client.get("/").text(), "here");
    server.handle.stop();
    wait_until("the listener closes", || {
        std::net::TcpStream::connect(server.tcp()).is_err()
    });
    client.send(request("/echo"));
    let answer = client.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.closes());
    client.expect_end();
}

/// The stop comes after the handshake was accepted, and before the socket is there.
#[test]
fn a_stop_from_within_the_handshake() {
    let (tell, told) = ear();
    let server = serve(move || {
        let mut app: App = App::new();
        app.sockets("/stop", move |cx, _, _| {
            cx.stop();
            Ok(Probe::new(&tell, echo))
        });
        app
    });
    let mut ws = Ws::open(&server, "/stop");
    assert_eq!(ws.closed(), (1001, "the server leaves".into()));
    ws.close(1001, "");
    ws.ends();
    server.join();
    assert_eq!(told.rest(), ["open", "close:1001:the server leaves"]);
}
