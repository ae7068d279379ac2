//! The WebSocket handshake as tables: what is asked, what is answered (RFC 6455 §4, RFC 7692 §7.1).

use loopwright::StatusCode;
use loopwright::proto::h1::head::{self, HeadLimits};
use loopwright::proto::ws::extension::{self, Direction};
use loopwright::proto::ws::handshake::{Client, Refusal, Settings, accept, is_upgrade};

const GOOD: &str = "GET /chat HTTP/1.1|Host: a|Upgrade: websocket|Connection: Upgrade|\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|Sec-WebSocket-Version: 13|";

/// The status and the fields that are answered; `|` is a line's end.
fn answer(request: &str, settings: &Settings) -> String {
    let text = format!("{}\r\n", request.replace('|', "\r\n"));
    let mut slots = head::slots();
    let head = head::read(text.as_bytes(), &mut 0, true, &mut slots, &HeadLimits::NONE);
    let head = head
        .unwrap_or_else(|why| panic!("{request}: {why}"))
        .expect("a whole head");
    let (status, fields): (_, Vec<_>) = match accept(&head, settings) {
        Ok(accepted) => (
            101,
            accepted
                .fields(settings)
                .map(|(n, v)| format!("{n}: {v}"))
                .collect(),
        ),
        Err(refusal) => {
            assert!(!refusal.reason().is_empty());
            let fields = refusal.fields().iter().map(|(n, v)| format!("{n}: {v}"));
            (refusal.status().as_u16(), fields.collect())
        }
    };
    format!("{status} {}", fields.join("|"))
}

const SWITCHED: &str =
    "101 connection: Upgrade|upgrade: websocket|sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const ASK_FOR_IT: &str = "426 upgrade: websocket|connection: Upgrade";
const OTHER_VERSION: &str = "426 sec-websocket-version: 13|upgrade: websocket|connection: Upgrade";

#[test]
fn who_is_let_in() {
    let without = |name: &str| -> String {
        let lines = GOOD
            .split_inclusive('|')
            .filter(|line| !line.starts_with(name));
        lines.collect()
    };
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from));
        GOOD.replace(from, to)
    };
    for (request, want) in [
        (GOOD.to_string(), SWITCHED),
        (with("websocket|", "h2c, WebSocket|"), SWITCHED),
        (
            with(
                "Connection: Upgrade",
                "Connection: keep-alive|Connection: foo, UPGRADE",
            ),
            SWITCHED,
        ),
        (with("Version: 13", "Version:  13 "), SWITCHED),
        (with("Host: a", "Host: a|Content-Length: 0"), SWITCHED),
        (
            with("Host: a", "Host: a|Origin: https://anything.example"),
            SWITCHED,
        ),
        (with("GET", "POST"), "405 allow: GET"),
        (with("GET", "HEAD"), "405 allow: GET"),
        ("GET / HTTP/1.1|Host: a|".into(), ASK_FOR_IT),
        (
            "GET / HTTP/1.1|Host: a|Connection: keep-alive|".into(),
            ASK_FOR_IT,
        ),
        ("POST / HTTP/1.1|Host: a|".into(), "405 allow: GET"),
        (without("Upgrade"), "400 "),
        (without("Connection"), "400 "),
        (with("websocket", "h2c"), "400 "),
        (with("websocket", "websockets"), "400 "),
        (with("Connection: Upgrade", "Connection: close"), "400 "),
        (with("HTTP/1.1", "HTTP/1.0"), "400 "),
        (with("Host: a", "Host: a|Content-Length: 5"), "400 "),
        (
            with("Host: a", "Host: a|Transfer-Encoding: chunked"),
            "400 ",
        ),
        (without("Sec-WebSocket-Version"), OTHER_VERSION),
        (with("Version: 13", "Version: 8"), OTHER_VERSION),
        (with("Version: 13", "Version: 013"), OTHER_VERSION),
        (with("Version: 13", "Version: 13, 8"), OTHER_VERSION),
        (
            with("Version: 13|", "Version: 13|Sec-WebSocket-Version: 13|"),
            OTHER_VERSION,
        ),
        (without("Sec-WebSocket-Key"), "400 "),
        (with("dGhlIHNhbXBsZSBub25jZQ==", ""), "400 "),
        (
            with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"),
            "400 ",
        ),
        (
            with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"),
            "400 ",
        ),
        (
            with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZWU="),
            "400 ",
        ),
        (
            with("dGhlIHNhbXBsZSBub25jZQ==", "!!hlIHNhbXBsZSBub25jZQ=="),
            "400 ",
        ),
        (
            with(
                "Host: a|",
                "Host: a|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==|",
            ),
            "400 ",
        ),
        (
            with("Host: a|", "Host: a|Sec-WebSocket-Protocol: a b|"),
            "400 ",
        ),
    ] {
        assert_eq!(answer(&request, &Settings::default()), want, "{request}");
    }
    // Even where others ask for it, it is an upgrade to look at.
    for (request, want) in [
        (GOOD.to_string(), true),
        (with("GET", "POST"), true),
        (without("Upgrade"), false),
    ] {
        let text = format!("{}\r\n", request.replace('|', "\r\n"));
        let mut slots = head::slots();
        let head = head::read(text.as_bytes(), &mut 0, true, &mut slots, &HeadLimits::NONE);
        assert_eq!(is_upgrade(&head.unwrap().unwrap()), want);
    }
    assert_eq!(Refusal::Origin.status(), StatusCode::FORBIDDEN);
}

#[test]
fn protocols_and_origins() {
    let settings = Settings {
        protocols: ["chat.v2", "chat.v1"].map(String::from).to_vec(),
        origins: Some(vec![
            "https://example.org".into(),
            "http://localhost:8080".into(),
        ]),
        deflate: None,
    };
    let chosen = |name: &str| format!("{SWITCHED}|sec-websocket-protocol: {name}");
    for (lines, want) in [
        ("", SWITCHED.to_string()),
        ("Sec-WebSocket-Protocol: chat.v1|", chosen("chat.v1")),
        // Ours is the order.
        (
            "Sec-WebSocket-Protocol: chat.v1, chat.v2|",
            chosen("chat.v2"),
        ),
        (
            "Sec-WebSocket-Protocol: chat.v1|Sec-WebSocket-Protocol: other,chat.v2|",
            chosen("chat.v2"),
        ),
        ("Sec-WebSocket-Protocol: CHAT.V1|", SWITCHED.to_string()),
        ("Sec-WebSocket-Protocol: other|", SWITCHED.to_string()),
        ("Origin: https://example.org|", SWITCHED.to_string()),
        ("Origin: HTTPS://Example.org|", SWITCHED.to_string()),
        ("Origin: http://localhost:8080|", SWITCHED.to_string()),
        ("Origin: https://example.org.evil|", "403 ".into()),
        ("Origin: http://example.org|", "403 ".into()),
        ("Origin: null|", "403 ".into()),
        ("Origin: |", "403 ".into()),
        (
            "Origin: https://example.org|Origin: https://evil|",
            "403 ".into(),
        ),
    ] {
        assert_eq!(
            answer(&format!("{GOOD}{lines}"), &settings),
            want,
            "{lines}"
        );
    }
}

/// Offers, and what is answered to them: by the default, and by a server that keeps contexts with small windows.
#[test]
fn extensions() {
    let offered = |settings: Option<extension::Settings>, offers: &str| {
        let lines: String = offers
            .split('|')
            .map(|offer| format!("Sec-WebSocket-Extensions: {offer}|"))
            .collect();
        let settings = Settings {
            deflate: settings,
            ..Settings::default()
        };
        let got = answer(&format!("{GOOD}{lines}"), &settings);
        let (status, rest) = got.split_at(4);
        let answered = rest
            .split_once("sec-websocket-extensions: ")
            .map_or("", |(_, value)| value);
        format!("{status}{answered}")
            .replace("permessage-deflate", "pd")
            .replace("_context_takeover", "")
    };
    let keeps = extension::Settings {
        server_no_context_takeover: false,
        client_no_context_takeover: false,
        server_max_window_bits: 12,
        client_max_window_bits: 11,
    };
    let none = "101 ";
    let no = "101 pd; server_no; client_no";
    for (offers, by_default, by_keeper) in [
        ("", none, none),
        ("x-other", none, none),
        ("x-other; permessage-deflate", none, none),
        (
            "permessage-deflate",
            no,
            "101 pd; server_max_window_bits=12",
        ),
        (
            "Permessage-Deflate",
            no,
            "101 pd; server_max_window_bits=12",
        ),
        (
            "permessage-deflate; client_max_window_bits",
            no,
            "101 pd; server_max_window_bits=12; client_max_window_bits=11",
        ),
        (
            "permessage-deflate;client_max_window_bits=10;server_max_window_bits=\"9\"",
            "101 pd; server_no; client_no; server_max_window_bits=9; client_max_window_bits=10",
            "101 pd; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            "permessage-deflate; client_max_window_bits=8; server_no_context_takeover; client_no_context_takeover",
            "101 pd; server_no; client_no; client_max_window_bits=9",
            "101 pd; server_no; client_no; server_max_window_bits=12; client_max_window_bits=9",
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            "101 pd; server_no; client_no; server_max_window_bits=15",
            "101 pd; server_max_window_bits=12",
        ),
        // Declined: no window of 8 bits for our compressor, nothing unknown, nothing twice.
        ("permessage-deflate; server_max_window_bits=8", none, none),
        ("permessage-deflate; server_max_window_bits", none, none),
        ("permessage-deflate; server_max_window_bits=16", none, none),
        ("permessage-deflate; server_max_window_bits=09", none, none),
        ("permessage-deflate; server_max_window_bits=+9", none, none),
        ("permessage-deflate; client_max_window_bits=7", none, none),
        (
            "permessage-deflate; client_no_context_takeover=1",
            none,
            none,
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            none,
            none,
        ),
        (
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            none,
            none,
        ),
        ("permessage-deflate; unknown", none, none),
        // The first that will do, in one line or several.
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            no,
            "101 pd; server_max_window_bits=12",
        ),
        (
            "permessage-deflate; unknown|x, permessage-deflate",
            no,
            "101 pd; server_max_window_bits=12",
        ),
        (
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            "101 pd; server_no; client_no; server_max_window_bits=10",
            "101 pd; server_max_window_bits=10",
        ),
        // Not of the grammar, wherever it stands.
        ("permessage deflate", "400 ", "400 "),
        ("permessage-deflate; =1", "400 ", "400 "),
        ("permessage-deflate; a=", "400 ", "400 "),
        ("permessage-deflate; a=\"", "400 ", "400 "),
        ("permessage-deflate; a=\"b c\"", "400 ", "400 "),
        ("permessage-deflate; a=\"b\\\"", "400 ", "400 "),
        ("permessage-deflate;", "400 ", "400 "),
        ("permessage-deflate, ;", "400 ", "400 "),
    ] {
        let (mut by_default, mut by_keeper) = (by_default, by_keeper);
        if !cfg!(feature = "deflate") && by_default != "400 " {
            (by_default, by_keeper) = (none, none);
        }
        assert_eq!(
            offered(Some(extension::Settings::default()), offers),
            by_default,
            "{offers}"
        );
        assert_eq!(offered(Some(keeps), offers), by_keeper, "{offers}");
        let never = if by_default == "400 " { "400 " } else { none };
        assert_eq!(offered(None, offers), never, "{offers}");
    }
}

/// An answer's status and fields, for a client with the RFC's key.
fn checked(
    client: &Client,
    status: u16,
    lines: &str,
) -> Result<(Option<usize>, Option<extension::Agreed>), &'static str> {
    // Fields come from heads; a request's are as good as an answer's.
    let text = format!(
        "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
        lines.replace('|', "\r\n")
    );
    let mut slots = head::slots();
    let head = head::read(text.as_bytes(), &mut 0, true, &mut slots, &HeadLimits::NONE);
    let head = head.unwrap().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    client
        .check(status, &head.fields)
        .map(|connected| (connected.protocol, connected.deflate))
}

#[test]
fn the_clients_half() {
    let protocols = ["a", "b"].map(String::from).to_vec();
    let plain = Client::new(*b"the sample nonce", protocols.clone(), None);
    let mut request = Vec::new();
    plain.request("/chat", "example.org", &mut request);
    let request = String::from_utf8(request).unwrap().replace("\r\n", "|");
    assert_eq!(
        request,
        "GET /chat HTTP/1.1|host: example.org|connection: Upgrade|upgrade: websocket|sec-websocket-version: 13|\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==|sec-websocket-protocol: a, b||"
    );
    let good = "Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=|";
    assert_eq!(checked(&plain, 101, good), Ok((None, None)));
    let b = format!("{good}Sec-WebSocket-Protocol: b|");
    assert_eq!(checked(&plain, 101, &b), Ok((Some(1), None)));
    for (status, lines) in [
        (200, good.to_string()),
        (101, good.replace("s3p", "s3q")),
        (101, good.replace("Upgrade: websocket", "Upgrade: h2c")),
        (
            101,
            good.replace("Connection: Upgrade", "Connection: close"),
        ),
        (
            101,
            format!("{good}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=|"),
        ),
        (101, format!("{good}Sec-WebSocket-Protocol: c|")),
        (101, format!("{good}Sec-WebSocket-Protocol: a, b|")),
        (
            101,
            format!("{good}Sec-WebSocket-Extensions: permessage-deflate|"),
        ),
    ] {
        assert!(checked(&plain, status, &lines).is_err(), "{status} {lines}");
    }
    if !cfg!(feature = "deflate") {
        return;
    }
    let settings = extension::Settings {
        server_no_context_takeover: true,
        client_no_context_takeover: false,
        server_max_window_bits: 12,
        client_max_window_bits: 15,
    };
    let client = Client::new(*b"the sample nonce", protocols, Some(settings));
    for (answer, want) in [
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12",
            Some((false, 12, true, 15)),
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=8; client_max_window_bits=9; client_no_context_takeover",
            Some((false, 8, false, 9)),
        ),
        ("permessage-deflate; server_max_window_bits=12", None),
        ("permessage-deflate; server_no_context_takeover", None),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=13",
            None,
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; client_max_window_bits",
            None,
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; client_max_window_bits=8",
            None,
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; x",
            None,
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12, x-other",
            None,
        ),
    ] {
        let got = checked(
            &client,
            101,
            &format!("{good}Sec-WebSocket-Extensions: {answer}|"),
        );
        let want = want.map(
            |(server, server_bits, client, client_bits)| extension::Agreed {
                server: Direction {
                    takeover: server,
                    window_bits: server_bits,
                },
                client: Direction {
                    takeover: client,
                    window_bits: client_bits,
                },
            },
        );
        assert_eq!(got.ok().and_then(|(_, deflate)| deflate), want, "{answer}");
    }
}

/// Our client and our server agree, whatever each is ready for.
#[test]
fn both_halves() {
    let all = || {
        [false, true]
            .into_iter()
            .flat_map(|a| [false, true].map(|b| (a, b)))
            .flat_map(|(a, b)| {
                [9, 12, 15].into_iter().flat_map(move |server| {
                    [9, 15].map(|client| extension::Settings {
                        server_no_context_takeover: a,
                        client_no_context_takeover: b,
                        server_max_window_bits: server,
                        client_max_window_bits: client,
                    })
                })
            })
    };
    for offers in all() {
        for ready in all() {
            let client = Client::new([7; 16], Vec::new(), Some(offers));
            let mut request = Vec::new();
            client.request("/", "a", &mut request);
            let mut slots = head::slots();
            let head = head::read(&request, &mut 0, true, &mut slots, &HeadLimits::NONE);
            let settings = Settings {
                deflate: Some(ready),
                ..Settings::default()
            };
            let accepted = accept(&head.unwrap().unwrap(), &settings).expect("a handshake");
            let lines: String = accepted
                .fields(&settings)
                .map(|(n, v)| format!("{n}: {v}|"))
                .collect();
            let (_, got) = checked(&client, 101, &lines).expect("an answer");
            match (got, accepted.deflate) {
                (Some(got), Some(want)) => {
                    // The client may keep itself to less than it has told.
                    assert_eq!(got.server, want.server);
                    assert!(got.client.window_bits <= want.client.window_bits);
                    assert!(got.client.takeover <= want.client.takeover);
                }
                (got, want) => {
                    assert!(got.is_none() && want.is_none() && !cfg!(feature = "deflate"))
                }
            }
        }
    }
}
