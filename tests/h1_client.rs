//! The client's half of the HTTP/1.1 connection machine alone, as tables: what arrives, what is reported.
//!
//! Every row is fed whole, byte by byte, and split in two at every place, and has to come out the
//! same. In a row, `|` is a line's end (CRLF), and some elements are no bytes but what is done then.
//! What is reported is written short, and ends with the state the connection is left in:
//!
//! ```text
//! 200 5, data hello, end, reusable      an answer's head and its framing: a length, chunked, close, none
//! interim 103                           an interim answer
//! refused http_protocol_error: why      an error, by its Proxy-Status name
//! ```

use loopwright::Instant;
use loopwright::proto::h1::ClientError;
use loopwright::proto::h1::client::{Client, ClientBounds, ClientWaits, Event, MAX_INTERIMS};
use loopwright::proto::h1::error::Cut;
use loopwright::proto::h1::head::{self, Framing, HeadLimits};
use loopwright::proto::h1::response::{Asked, ResponseFraming, ResponseHead};
use std::time::Duration;

const BOUNDS: ClientBounds = ClientBounds {
    head: HeadLimits {
        head: 256,
        target: 0,
        fields: 6,
    },
    body: 32,
};

/// In a row's arrivals: the server closes its sending side.
const EOF: &str = "(eof)";
/// The request's body is complete.
const SENT: &str = "(sent)";
/// The next request, a GET.
const NEXT: &str = "(next)";
/// The exchange under way is to be the last.
const DRAIN: &str = "(drain)";

/// What is asked.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Ask {
    Nothing,
    Get,
    Head,
    Connect,
    /// GET with an `Upgrade`.
    Upgrade,
    /// With a chunked body, which is complete at `SENT`.
    Post,
    /// The same, with an `Upgrade`.
    PostUpgrade,
    /// The same for CONNECT.
    PostConnect,
}
use Ask::{Connect, Get, Head, Nothing, Post, PostConnect, PostUpgrade, Upgrade};

struct Connection {
    machine: Client,
    kept: Vec<u8>,
    events: Vec<String>,
    is_switched: bool,
}

impl Connection {
    fn new(ask: Ask) -> Connection {
        let mut connection = Connection {
            machine: Client::new(Instant::default()),
            kept: Vec::new(),
            events: Vec::new(),
            is_switched: false,
        };
        if ask != Nothing {
            assert!(connection.begin(ask));
        }
        connection
    }

    fn begin(&mut self, ask: Ask) -> bool {
        let asked = Asked {
            head: ask == Head,
            connect: matches!(ask, Connect | PostConnect),
            upgrade: matches!(ask, Upgrade | PostUpgrade),
        };
        let framing = match ask {
            Post | PostUpgrade | PostConnect => Framing::Chunked,
            _ => Framing::None,
        };
        self.machine
            .begin_request(asked, framing, Instant::default())
    }

    fn arrive(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let kept = std::mem::take(&mut self.kept);
        let mut input = &kept[..];
        self.read(&mut input);
        self.kept = input.to_vec();
    }

    fn read(&mut self, input: &mut &[u8]) {
        loop {
            let mut slots = head::slots();
            let now = Instant::default();
            match self.machine.poll_event(input, &mut slots, &BOUNDS, now) {
                Ok(Event::Interim(head)) => self.on_head("interim ", &head),
                Ok(Event::Response(head)) => self.on_head("", &head),
                Ok(Event::Data(bytes)) => self.on_data(bytes),
                Ok(Event::End(trailers)) => {
                    let mut event = "end".to_string();
                    trailers.with(|fields| {
                        for (name, value) in fields.iter() {
                            event += &format!(" {name}={}", String::from_utf8_lossy(value));
                        }
                    });
                    self.events.push(event);
                }
                Ok(Event::NeedInput | Event::Idle | Event::Closed) => return,
                Ok(Event::Switched) => {
                    self.is_switched = true;
                    return;
                }
                Err(error) => self.events.push(told(error)),
            }
        }
    }

    fn on_head(&mut self, kind: &str, head: &ResponseHead<'_>) {
        let framing = match head.framing {
            ResponseFraming::None => "none".to_string(),
            ResponseFraming::Length(n) => n.to_string(),
            ResponseFraming::Chunked => "chunked".to_string(),
            ResponseFraming::UntilClose => "close".to_string(),
        };
        let framing = if kind.is_empty() {
            format!(" {framing}")
        } else {
            String::new()
        };
        self.events
            .push(format!("{kind}{}{framing}", head.status.as_u16()));
    }

    fn on_data(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        match self
            .events
            .last_mut()
            .filter(|last| last.starts_with("data "))
        {
            Some(last) => last.push_str(&text),
            None => self.events.push(format!("data {text}")),
        }
    }

    fn act(&mut self, element: &str) -> bool {
        match element {
            EOF => self.machine.handle_eof(),
            DRAIN => self.machine.drain(),
            SENT => {
                let mut out = Vec::new();
                assert!(self.machine.end_request(b"", &mut out, Instant::default()));
            }
            NEXT => {
                let event = if self.begin(Get) { "next" } else { "no next" };
                self.events.push(event.to_string());
            }
            _ => return false,
        }
        self.arrive(b"");
        true
    }

    fn state(&self) -> String {
        let machine = &self.machine;
        match () {
            () if self.is_switched => {
                format!("switched {}", String::from_utf8_lossy(&self.kept))
            }
            () if machine.is_reusable() => "reusable".to_string(),
            () if machine.is_closed() => "closed".to_string(),
            () if machine.is_idle() => "idle".to_string(),
            () if machine.nothing_seen() => "nothing seen".to_string(),
            () if machine.has_body_to_come() => "in body".to_string(),
            () if machine.is_sending() => "sending".to_string(),
            () => "in head".to_string(),
        }
    }
}

fn told(error: ClientError) -> String {
    let why = match error {
        ClientError::Malformed(why) | ClientError::Chunks(why) => format!(": {why}"),
        ClientError::Truncated(cut) => format!(": {cut:?}"),
        _ => String::new(),
    };
    format!("refused {}{why}", error.proxy_status())
}

/// Feeds `arrives`, a piece ending wherever `ends_at` says so, and where an element ends.
fn run(ask: Ask, arrives: &[String], ends_at: impl Fn(usize) -> bool) -> String {
    let mut connection = Connection::new(ask);
    let mut at = 0;
    for element in arrives {
        if connection.act(element) {
            continue;
        }
        let mut piece = Vec::new();
        for &byte in element.as_bytes() {
            piece.push(byte);
            at += 1;
            if ends_at(at) {
                connection.arrive(&piece);
                piece.clear();
            }
        }
        connection.arrive(&piece);
    }
    connection.events.push(connection.state());
    connection.events.join(", ").replace("\r\n", "|")
}

/// What the row is about, what arrives, what is reported.
type Row<'a> = (&'a str, &'a [&'a str], &'a str);

#[track_caller]
fn check(ask: Ask, (name, arrives, want): Row<'_>) {
    let arrives: Vec<String> = arrives
        .iter()
        .map(|text| text.replace('|', "\r\n"))
        .collect();
    let total = arrives
        .iter()
        .filter(|text| !text.starts_with('('))
        .map(String::len)
        .sum();
    assert_eq!(
        run(ask, &arrives, |_| false),
        want,
        "{name}, whole: {arrives:?}"
    );
    assert_eq!(
        run(ask, &arrives, |_| true),
        want,
        "{name}, byte by byte: {arrives:?}"
    );
    for split in 1..total {
        let got = run(ask, &arrives, |at| at == split);
        assert_eq!(got, want, "{name}, split at {split}: {arrives:?}");
    }
}

#[track_caller]
fn check_all(ask: Ask, rows: &[Row<'_>]) {
    for &row in rows {
        check(ask, row);
    }
}

/// Answers that are refused, each for this reason, by their head.
#[track_caller]
fn check_refused(ask: Ask, rows: &[(&str, &str, &str)]) {
    for (name, head, why) in rows {
        let want = format!("refused {why}, closed");
        check(ask, (name, &[head], &want));
        // Behind an interim answer, and followed by what looks like another answer.
        let interim = "HTTP/1.1 103 Early Hints|link: </a>||";
        let want = format!("interim 103, {want}");
        check(ask, (name, &[interim, head, OK], &want));
    }
}

const OK: &str = "HTTP/1.1 200 OK|content-length: 2||hi";

#[test]
#[rustfmt::skip] // a row is a line
fn status_lines() {
    let long = format!("HTTP/1.1 200 {}|content-length: 0||", "x".repeat(220));
    check_all(Get, &[
        ("RFC 9112 4: with a reason", &["HTTP/1.1 200 OK|content-length: 0||"], "200 0, end, reusable"),
        ("RFC 9112 4: an empty reason", &["HTTP/1.1 200 |content-length: 0||"], "200 0, end, reusable"),
        ("RFC 9112 4: neither reason nor space", &["HTTP/1.1 200|content-length: 0||"], "200 0, end, reusable"),
        ("RFC 9112 4: a reason of any words", &["HTTP/1.1 200 All \t is  well!|content-length: 0||"], "200 0, end, reusable"),
        ("RFC 9112 4: obs-text in the reason", &["HTTP/1.1 200 \u{e4}\u{f6}|content-length: 0||"], "200 0, end, reusable"),
        ("RFC 9112 4: a long reason", &[&long], "200 0, end, reusable"),
        ("RFC 9110 15: an unknown status", &["HTTP/1.1 299 ?|content-length: 0||"], "299 0, end, reusable"),
        ("RFC 9110 15: the last status", &["HTTP/1.1 599 ?|content-length: 0||"], "599 0, end, reusable"),
        ("RFC 9110 2.5: a later minor version is ours", &["HTTP/1.2 200 OK|content-length: 2||hi"], "200 2, data hi, end, reusable"),
        ("RFC 9110 2.5: the last minor version", &["HTTP/1.9 200|content-length: 2||hi"], "200 2, data hi, end, reusable"),
        ("RFC 9110 2.5: a later minor version with chunks", &["HTTP/1.7 200 OK|transfer-encoding: chunked||0||"], "200 chunked, end, reusable"),
    ]);
    check_refused(Get, &[
        ("RFC 9112 2.3: HTTP/2.0", "HTTP/2.0 200 OK|content-length: 0||", "http_protocol_error"),
        ("RFC 9112 2.3: HTTP/0.9", "HTTP/0.9 200 OK|content-length: 0||", "http_protocol_error"),
        ("RFC 9112 2.3: HTTP/3.1", "HTTP/3.1 200 OK|content-length: 0||", "http_protocol_error"),
        ("RFC 9112 2.3: two digits", "HTTP/1.10 200 OK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 2.3: one number", "HTTP/1 200 OK|content-length: 0||", "http_protocol_error: HTTP version"),
        ("RFC 9112 2.3: lower case", "http/1.1 200 OK|content-length: 0||", "http_protocol_error: not HTTP/1"),
        ("RFC 9112 2.3: no version at all", "<html>hello</html>", "http_protocol_error: not HTTP/1"),
        ("RFC 9112 2.3: TLS", "\u{16}\u{3}\u{1}", "http_protocol_error: not HTTP/1"),
        ("RFC 9112 2.3: another protocol", "SSH-2.0-OpenSSH_9.9|", "http_protocol_error: not HTTP/1"),
        ("RFC 9112 2.2: an empty line before the answer", "|HTTP/1.1 200 OK|content-length: 0||", "http_protocol_error: not HTTP/1"),
        ("RFC 9112 2.2: a lone LF before the answer", "\nHTTP/1.1 200 OK|content-length: 0||", "http_protocol_error: not HTTP/1"),
        ("RFC 9112 2.2: space before the answer", " HTTP/1.1 200 OK|content-length: 0||", "http_protocol_error: not HTTP/1"),
        ("RFC 9110 15: status 099", "HTTP/1.1 099 ?|content-length: 0||", "http_protocol_error: status code"),
        ("RFC 9110 15: status 000", "HTTP/1.1 000 ?|content-length: 0||", "http_protocol_error: status code"),
        ("RFC 9110 15: status 600", "HTTP/1.1 600 ?|content-length: 0||", "http_protocol_error: status code"),
        ("RFC 9110 15: status 999", "HTTP/1.1 999 ?|content-length: 0||", "http_protocol_error: status code"),
        ("RFC 9112 4: two digits", "HTTP/1.1 20 OK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: four digits", "HTTP/1.1 2000 OK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: a signed status", "HTTP/1.1 +20 OK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: letters", "HTTP/1.1 2oo OK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: no status", "HTTP/1.1|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: two spaces before the status", "HTTP/1.1  200 OK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: a tab before the status", "HTTP/1.1\t200 OK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: a tab behind the status", "HTTP/1.1 200\tOK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: NUL in the reason", "HTTP/1.1 200 O\0K|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 4: DEL in the reason", "HTTP/1.1 200 O\u{7f}K|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 2.2: a bare CR in the reason", "HTTP/1.1 200 O\rK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 2.2: a bare CR behind the status", "HTTP/1.1 200\rOK|content-length: 0||", "http_protocol_error: status line"),
        ("RFC 9112 2.2: a lone LF ends the status line", "HTTP/1.1 200 OK\ncontent-length: 0||", "http_protocol_error: a line ends without CR"),
        ("RFC 9112 2.2: the same behind a later version", "HTTP/1.2 200 OK\ncontent-length: 0||", "http_protocol_error: a line ends without CR"),
        ("RFC 9112 2.2: CR CR LF", "HTTP/1.1 200 OK\r|content-length: 0||", "http_protocol_error: status line"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn field_lines() {
    check_all(Get, &[
        ("RFC 9110 5.5: white space around a value", &["HTTP/1.1 200 OK|content-length: \t2 ||hi"], "200 2, data hi, end, reusable"),
        ("RFC 9110 5.5: obs-text in a value", &["HTTP/1.1 200 OK|x: \u{e4}|content-length:2||hi"], "200 2, data hi, end, reusable"),
        ("RFC 9110 5.1: names in any case", &["HTTP/1.1 200 OK|CONTENT-Length: 2||hi"], "200 2, data hi, end, reusable"),
        ("as many fields as there may be", &["HTTP/1.1 200 OK|a:|b:|c:|d:|e:|content-length: 0||"], "200 0, end, reusable"),
        ("RFC 9110 10.1.1: Expect means nothing here", &["HTTP/1.1 200 OK|expect: x|host: a|host: b|content-length: 0||"], "200 0, end, reusable"),
    ]);
    let many = format!("HTTP/1.1 200 OK|{}|", "x: y|".repeat(7));
    let long = format!("HTTP/1.1 200 OK|x: {}||", "y".repeat(240));
    let later = format!("HTTP/1.3 200 OK|{}|", "x: y|".repeat(7));
    let endless = format!("HTTP/1.1 200 {}", "x".repeat(300));
    let no_end = format!("HTTP/1.1 200 OK|{}", "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy|".repeat(4));
    check_refused(Get, &[
        ("RFC 9110 5.4: too many fields", &many, "http_response_header_section_size"),
        ("RFC 9110 5.4: too many fields of a later version", &later, "http_response_header_section_size"),
        ("RFC 9110 5.4: too many bytes", &long, "http_response_header_section_size"),
        ("RFC 9110 5.4: too many bytes in the first line", &endless, "http_response_header_section_size"),
        ("RFC 9110 5.4: too many bytes, and no end", &no_end, "http_response_header_section_size"),
        ("RFC 9112 5.1: white space before the colon", "HTTP/1.1 200 OK|content-length : 0||", "http_protocol_error: field name"),
        ("RFC 9112 5.1: a tab before the colon", "HTTP/1.1 200 OK|content-length\t: 0||", "http_protocol_error: field name"),
        ("RFC 9112 5.1: the same in a later version", "HTTP/1.4 200 OK|content-length : 0||", "http_protocol_error: field name"),
        ("RFC 9112 5.2: a folded line", "HTTP/1.1 200 OK|x: a| b||", "http_protocol_error: field name"),
        ("RFC 9112 5.2: a line folded with a tab", "HTTP/1.1 200 OK|x: a|\tb||", "http_protocol_error: field name"),
        ("RFC 9112 5.2: a folded framing", "HTTP/1.1 200 OK|transfer-encoding:| chunked||", "http_protocol_error: field name"),
        ("RFC 9112 2.2: space before the first field", "HTTP/1.1 200 OK| content-length: 0||", "http_protocol_error: field name"),
        ("RFC 9112 5: no colon", "HTTP/1.1 200 OK|content-length||", "http_protocol_error: field name"),
        ("RFC 9112 5: no name", "HTTP/1.1 200 OK|: 0||", "http_protocol_error: field name"),
        ("RFC 9110 5.1: a name that is no token", "HTTP/1.1 200 OK|a(b): 0||", "http_protocol_error: field name"),
        ("RFC 9110 5.1: NUL in a name", "HTTP/1.1 200 OK|a\0b: 0||", "http_protocol_error: field name"),
        ("RFC 9110 5.5: NUL in a value", "HTTP/1.1 200 OK|x: a\0b||", "http_protocol_error: field value"),
        ("RFC 9110 5.5: DEL in a value", "HTTP/1.1 200 OK|x: a\u{7f}b||", "http_protocol_error: field value"),
        ("RFC 9112 2.2: a bare CR in a value", "HTTP/1.1 200 OK|x: a\rb||", "http_protocol_error: field value"),
        ("RFC 9112 2.2: a bare CR at a value's end", "HTTP/1.1 200 OK|x: a\r||", "http_protocol_error: field value"),
        ("RFC 9112 2.2: a bare CR hides a field", "HTTP/1.1 200 OK|x: a\rcontent-length: 0||", "http_protocol_error: field value"),
        ("RFC 9112 2.2: a bare CR in the empty line", "HTTP/1.1 200 OK|x: a|\r|y: b||", "http_protocol_error: a bare CR"),
        ("RFC 9112 2.2: a lone LF ends a field", "HTTP/1.1 200 OK|x: a\ncontent-length: 0||", "http_protocol_error: a line ends without CR"),
        ("RFC 9112 2.2: a lone LF for the empty line", "HTTP/1.1 200 OK|content-length: 0|\n", "http_protocol_error: a line ends without CR"),
        ("RFC 9112 2.2: lone LFs alone", "HTTP/1.1 200 OK\ncontent-length: 0\n\n", "http_protocol_error: a line ends without CR"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn two_readings_of_one_answer_are_none() {
    let framings = [
        ("RFC 9112 6.3: length and chunked", "content-length: 2|transfer-encoding: chunked", "both Content-Length and Transfer-Encoding"),
        ("RFC 9112 6.3: chunked and length", "transfer-encoding: chunked|content-length: 2", "both Content-Length and Transfer-Encoding"),
        ("RFC 9112 6.3: no length and chunked", "content-length: 0|transfer-encoding: chunked", "both Content-Length and Transfer-Encoding"),
        ("RFC 9112 6.3: two lengths", "content-length: 2|content-length: 3", "more than one Content-Length"),
        // The RFC lets a recipient merge these; whoever sends them does not know what it says.
        ("RFC 9112 6.3: the same length twice", "content-length: 2|content-length: 2", "more than one Content-Length"),
        ("RFC 9110 8.6: a list of lengths", "content-length: 2, 2", "Content-Length"),
        ("RFC 9110 8.6: a list of different lengths", "content-length: 2, 3", "Content-Length"),
        ("RFC 9110 8.6: a signed length", "content-length: +2", "Content-Length"),
        ("RFC 9110 8.6: a negative length", "content-length: -2", "Content-Length"),
        ("RFC 9110 8.6: no length", "content-length:", "Content-Length"),
        ("RFC 9110 8.6: a hexadecimal length", "content-length: 0x2", "Content-Length"),
        ("RFC 9110 8.6: a fraction", "content-length: 2.0", "Content-Length"),
        ("RFC 9110 8.6: white space within", "content-length: 2 0", "Content-Length"),
        ("RFC 9110 8.6: quoted", "content-length: \"2\"", "Content-Length"),
        ("RFC 9110 8.6: other digits", "content-length: \u{662}", "Content-Length"),
        ("RFC 9110 8.6: too many digits", "content-length: 18446744073709551616", "Content-Length"),
        ("RFC 9112 6.1: chunked twice", "transfer-encoding: chunked|transfer-encoding: chunked", "more than one Transfer-Encoding"),
        ("RFC 9112 6.1: codings in two lines", "transfer-encoding: gzip|transfer-encoding: chunked", "more than one Transfer-Encoding"),
        ("RFC 9112 7: chunked twice in a list", "transfer-encoding: chunked, chunked", "Transfer-Encoding"),
        ("RFC 9112 6.3: chunked is not the last", "transfer-encoding: chunked, identity", "Transfer-Encoding"),
        ("RFC 9112 6.3: not chunked at all", "transfer-encoding: gzip", "Transfer-Encoding"),
        ("RFC 9112 7: identity is no coding", "transfer-encoding: identity", "Transfer-Encoding"),
        ("RFC 9112 6.1: nothing", "transfer-encoding:", "Transfer-Encoding"),
        ("RFC 9112 6.1: an empty member", "transfer-encoding: chunked,", "Transfer-Encoding"),
        ("RFC 9112 7: with a parameter", "transfer-encoding: chunked;q=1", "Transfer-Encoding"),
        ("RFC 9112 7: nearly", "transfer-encoding: xchunked", "Transfer-Encoding"),
        ("RFC 9112 7: quoted", "transfer-encoding: \"chunked\"", "Transfer-Encoding"),
    ];
    for (name, framing, why) in framings {
        let why = format!("http_protocol_error: {why}");
        let head = format!("HTTP/1.1 200 OK|{framing}||");
        check_refused(Get, &[(name, &head, &why)]);
        // RFC 9112 6.3: without a body, but who sends this may not know.
        check_refused(Head, &[(name, &head, &why)]);
        for status in ["204 No Content", "304 Not Modified", "103 Early Hints", "101 Switching Protocols"] {
            let head = format!("HTTP/1.1 {status}|{framing}||");
            check_refused(Upgrade, &[(name, &head, &why)]);
        }
        check_refused(Connect, &[(name, &head, &why)]);
    }
    let coding = "http_response_transfer_coding";
    let none = "http_protocol_error: Transfer-Encoding in an answer without a body";
    let old = "http_protocol_error: Transfer-Encoding in HTTP/1.0";
    check_refused(Get, &[
        ("RFC 9112 6.1: a coding before chunked", "HTTP/1.1 200 OK|transfer-encoding: gzip, chunked||", coding),
        ("RFC 9112 6.1: the same in any case", "HTTP/1.1 200 OK|Transfer-Encoding: X , Chunked||", coding),
        ("RFC 9112 6.1: chunked in 204", "HTTP/1.1 204 No Content|transfer-encoding: chunked||", none),
        ("RFC 9112 6.1: chunked in 103", "HTTP/1.1 103 Early Hints|transfer-encoding: chunked||", none),
        ("RFC 9112 6.1: chunked in 100", "HTTP/1.1 100 Continue|transfer-encoding: chunked||", none),
        ("RFC 9112 6.1: chunked in HTTP/1.0", "HTTP/1.0 200 OK|transfer-encoding: chunked||", old),
        ("RFC 9112 6.1: the same with a length", "HTTP/1.0 200 OK|connection: keep-alive|transfer-encoding: gzip||", old),
        ("RFC 9110 8.6: an interim answer with a length", "HTTP/1.1 103 Early Hints|content-length: 5||", "http_protocol_error: Content-Length in an interim answer"),
    ]);
    check_refused(Head, &[
        ("RFC 9112 6.1: chunked in HTTP/1.0, to HEAD", "HTTP/1.0 200 OK|transfer-encoding: chunked||", old),
    ]);
    check_refused(Upgrade, &[
        ("RFC 9112 6.1: chunked in 101", "HTTP/1.1 101 Switching Protocols|transfer-encoding: chunked||", none),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn bodies() {
    let full = "01234567890123456789012345678901";
    let chunked = "HTTP/1.1 200 OK|transfer-encoding: chunked||";
    let long_line = format!("5;{}|hello|0||", "x".repeat(1100));
    let long_trailers = format!("0|{}|", format!("x: {}|", "y".repeat(1000)).repeat(9));
    check_all(Get, &[
        ("RFC 9112 6.3: a length", &["HTTP/1.1 200 OK|content-length: 5||hello"], "200 5, data hello, end, reusable"),
        ("RFC 9112 6.3: part of a length", &["HTTP/1.1 200 OK|content-length: 5||hell"], "200 5, data hell, in body"),
        ("RFC 9112 6.3: nothing of a length", &["HTTP/1.1 200 OK|content-length: 5||"], "200 5, in body"),
        ("RFC 9112 6.3: no length", &["HTTP/1.1 200 OK|content-length: 0||"], "200 0, end, reusable"),
        ("RFC 9112 6.3: zeros before a length", &["HTTP/1.1 200 OK|content-length: 0000005||hello"], "200 5, data hello, end, reusable"),
        ("the longest length", &["HTTP/1.1 200 OK|content-length: 32||", full], &format!("200 32, data {full}, end, reusable")),
        ("a length over the bound", &["HTTP/1.1 200 OK|content-length: 33||", full], "refused http_response_body_size, closed"),
        ("a length over the bound, far", &["HTTP/1.1 200 OK|content-length: 18446744073709551615||", full], "refused http_response_body_size, closed"),
        ("RFC 9112 7.1: no chunks", &[chunked, "0||"], "200 chunked, end, reusable"),
        ("RFC 9112 7.1: chunks", &[chunked, "5|hello|01|!|000||"], "200 chunked, data hello!, end, reusable"),
        ("RFC 9112 7.1: Chunked", &["HTTP/1.1 200 OK|Transfer-Encoding: \tCHUNKED ||0||"], "200 chunked, end, reusable"),
        ("RFC 9112 7.1: an answer within a chunk", &[chunked, "C|HTTP/1.1 200|0||"], "200 chunked, data HTTP/1.1 200, end, reusable"),
        ("RFC 9112 7.1.1: chunk extensions", &[chunked, "5;a=b;c=\"d;e\\\"\" ; f|hello|0;y||"], "200 chunked, data hello, end, reusable"),
        ("RFC 9112 7.1.2: trailers", &[chunked, "1|x|0|sum: 1|X-Y: ||"], "200 chunked, data x, end sum=1 X-Y=, reusable"),
        ("RFC 9112 7.1: the longest chunk", &[chunked, "20|", full, "|0||"], &format!("200 chunked, data {full}, end, reusable")),
        ("RFC 9112 7.1: chunks over the bound", &[chunked, "20|", full, "|1|x|0||"], &format!("200 chunked, data {full}, refused http_response_body_size, closed")),
        ("RFC 9112 7.1: a chunk over the bound", &[chunked, "21|", full], "200 chunked, refused http_response_body_size, closed"),
        ("RFC 9112 6.3: until the end", &["HTTP/1.1 200 OK||hello", EOF], "200 close, data hello, end, closed"),
        ("RFC 9112 6.3: until the end, nothing", &["HTTP/1.1 200 OK||", EOF], "200 close, end, closed"),
        ("RFC 9112 6.3: until the end, said so", &["HTTP/1.1 200 OK|connection: close||hi", EOF], "200 close, data hi, end, closed"),
        ("RFC 9112 6.3: until the end, though it says it stays", &["HTTP/1.1 200 OK|connection: keep-alive||hi", EOF], "200 close, data hi, end, closed"),
        ("RFC 9112 6.3: until the end, HTTP/1.0", &["HTTP/1.0 200 OK||hi|", EOF], "200 close, data hi|, end, closed"),
        ("RFC 9112 6.3: what looks like an answer is body until the end", &["HTTP/1.1 200 OK||", "HTTP/1.1 200 OK||", EOF], "200 close, data HTTP/1.1 200 OK||, end, closed"),
        ("RFC 9112 6.3: until an end that has not come", &["HTTP/1.1 200 OK||hello"], "200 close, data hello, in body"),
        ("RFC 9110 15.3.6: 205 is framed as any other", &["HTTP/1.1 205 Reset Content|content-length: 0||"], "205 0, end, reusable"),
        ("RFC 9112 6.3: 204 has no body", &["HTTP/1.1 204 No Content||"], "204 none, end, reusable"),
        ("RFC 9110 8.6: 204 with no length", &["HTTP/1.1 204 No Content|content-length: 0||"], "204 none, end, reusable"),
        ("RFC 9110 8.6: 204 with a length has no body, and is not trusted", &["HTTP/1.1 204 No Content|content-length: 5||"], "204 none, end, closed"),
        ("RFC 9112 6.3: 304 has no body", &["HTTP/1.1 304 Not Modified||"], "304 none, end, reusable"),
        ("RFC 9112 6.3: 304 with a length", &["HTTP/1.1 304 Not Modified|content-length: 500||"], "304 none, end, reusable"),
        ("RFC 9112 6.1: 304 with a coding", &["HTTP/1.1 304 Not Modified|transfer-encoding: chunked||"], "304 none, end, reusable"),
    ]);
    check_all(Head, &[
        ("RFC 9112 6.3: HEAD with a length", &["HTTP/1.1 200 OK|content-length: 500||"], "200 none, end, reusable"),
        ("RFC 9112 6.3: HEAD with a coding", &["HTTP/1.1 200 OK|transfer-encoding: chunked||"], "200 none, end, reusable"),
        ("RFC 9112 6.3: HEAD with neither", &["HTTP/1.1 200 OK||"], "200 none, end, reusable"),
        ("RFC 9112 6.3: HEAD, 404", &["HTTP/1.1 404 Not Found|content-length: 5||"], "404 none, end, reusable"),
        ("RFC 9112 6.3: a body to HEAD was not asked for", &["HTTP/1.1 200 OK|content-length: 5||hello"], "200 none, end, refused http_protocol_error, closed"),
    ]);
    let coding = "200 chunked, refused http_response_transfer_coding";
    for (name, body, want) in [
        ("RFC 9112 7.1: no size", "zz|", format!("{coding}: chunk size")),
        ("RFC 9112 7.1: a size's end", "5 |hello|0||", format!("{coding}: chunk extension")),
        ("RFC 9112 7.1: a signed size", "-5|hello|0||", format!("{coding}: chunk size")),
        ("RFC 9112 7.1: a size in other digits", "0x5|hello|0||", format!("{coding}: chunk extension")),
        ("RFC 9112 7.1: a size that overflows", "10000000000000005|hello|0||", format!("{coding}: chunk size")),
        ("RFC 9112 7.1: an empty size", "|hello|0||", format!("{coding}: chunk size")),
        ("RFC 9112 7.1.1: an empty extension", "5;|hello|0||", format!("{coding}: chunk extension")),
        ("RFC 9112 7.1.1: a bare CR in an extension", "5;a\rb|hello|0||", format!("{coding}: chunk extension")),
        ("RFC 9112 7.1.1: NUL in an extension", "5;a\0|hello|0||", format!("{coding}: chunk extension")),
        ("RFC 9112 7.1.1: extensions without end", &long_line, format!("{coding}: chunk size")),
        ("RFC 9112 2.2: a lone LF ends a size", "5\nhello|0||", format!("{coding}: chunk size")),
        ("RFC 9112 7.1: data too long", "5|helloX|0||", "200 chunked, data hello, refused http_response_transfer_coding: chunk data".to_string()),
        ("RFC 9112 2.2: a lone LF ends data", "5|hello\n0||", "200 chunked, data hello, refused http_response_transfer_coding: chunk data".to_string()),
        ("RFC 9112 2.2: a lone LF ends trailers", "0\r\n\n", format!("{coding}: trailer section")),
        ("RFC 9110 6.5.1: framing in trailers", "0|content-length: 3||", format!("{coding}: trailer")),
        ("RFC 9110 6.5.1: coding in trailers", "0|transfer-encoding: chunked||", format!("{coding}: trailer")),
        ("RFC 9112 5.1: white space in trailers", "0|a : b||", format!("{coding}: trailer")),
        ("RFC 9112 5.2: a folded trailer", "0|a: b| c||", format!("{coding}: trailer")),
        ("RFC 9112 7.1.2: no trailer", "0|no colon||", format!("{coding}: trailer")),
        ("RFC 9112 7.1.2: trailers without end", &long_trailers, format!("{coding}: trailer section")),
    ] {
        let want = format!("{want}, closed");
        let body = body.replace('|', "\r\n");
        let arrives = format!("{}{body}", chunked.replace('|', "\r\n"));
        if body.len() < 2000 {
            check(Get, (name, &[&arrives, OK], &want));
        } else {
            assert_eq!(run(Get, std::slice::from_ref(&arrives), |_| false), want, "{name}");
            assert_eq!(run(Get, &[arrives], |_| true), want, "{name}");
        }
    }
    // A body without an announced end is counted as it comes.
    for (step, data) in [(usize::MAX, ""), (1, full), (8, full)] {
        let arrives = format!("HTTP/1.1 200 OK\r\n\r\n{full}+");
        let got = run(Get, &[arrives], |at| at == 19 || (at > 19 && (at - 19) % step == 0));
        let data = if data.is_empty() { String::new() } else { format!("data {data}, ") };
        assert_eq!(got, format!("200 close, {data}refused http_response_body_size, closed"));
    }
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_connection_is_kept_or_closed_as_the_answer_says() {
    let empty = "content-length: 0||";
    let heads = |version: &str, more: &str| format!("{version} 200 OK|{more}{empty}");
    for (name, version, more, state) in [
        ("RFC 9112 9.3: it stays", "HTTP/1.1", "", "reusable"),
        ("RFC 9112 9.3: it stays, said so", "HTTP/1.1", "connection: keep-alive|", "reusable"),
        ("RFC 9112 9.6: it closes", "HTTP/1.1", "connection: close|", "closed"),
        ("RFC 9112 9.6: it closes, in a list", "HTTP/1.1", "connection: x ,, Close|", "closed"),
        ("RFC 9112 9.3: close comes first", "HTTP/1.1", "connection: keep-alive|connection: close|", "closed"),
        ("RFC 9112 9.3: HTTP/1.0 closes", "HTTP/1.0", "", "closed"),
        ("RFC 9112 9.3: HTTP/1.0 stays if it says so", "HTTP/1.0", "connection: Keep-Alive|", "reusable"),
        ("RFC 9112 9.3: HTTP/1.0, both", "HTTP/1.0", "connection: keep-alive, close|", "closed"),
        ("RFC 9112 9.3: a later version stays", "HTTP/1.5", "", "reusable"),
        ("RFC 9112 9.6: nearly", "HTTP/1.1", "connection: closed|", "reusable"),
    ] {
        let head = heads(version, more);
        check(Get, (name, &[&head], &format!("200 0, end, {state}")));
        let (next, then) = match state {
            "reusable" => ("next", "200 2, data hi, end, reusable"),
            // What comes is not looked at any more.
            _ => ("no next", "closed"),
        };
        check(Get, (name, &[&head, NEXT, OK], &format!("200 0, end, {next}, {then}")));
    }
    check_all(Get, &[
        ("what one answer said does not stick", &["HTTP/1.0 200 OK|connection: keep-alive|content-length: 0||", NEXT, OK, NEXT, OK], "200 0, end, next, 200 2, data hi, end, next, 200 2, data hi, end, reusable"),
        ("RFC 9112 9.6: an interim answer says close", &["HTTP/1.1 103 Early Hints|connection: close||", OK], "interim 103, 200 2, data hi, end, closed"),
        ("the last exchange", &[DRAIN, OK, NEXT], "200 2, data hi, end, no next, closed"),
        ("the last exchange, behind its end", &[OK, DRAIN, NEXT], "200 2, data hi, end, no next, closed"),
        ("the last exchange, in its middle", &["HTTP/1.1 200 OK|content-length: 2||h", DRAIN, "i", NEXT], "200 2, data hi, end, no next, closed"),
        ("one request at a time", &[NEXT, OK], "no next, 200 2, data hi, end, reusable"),
        ("one request at a time, in a body", &["HTTP/1.1 200 OK|content-length: 2||h", NEXT, "i"], "200 2, data h, no next, data i, end, reusable"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn what_was_not_asked_for() {
    let refused = "refused http_protocol_error, closed";
    check_all(Nothing, &[
        ("nothing", &[], "reusable"),
        ("an answer to nothing", &[OK], refused),
        ("an empty line to nothing", &["|"], refused),
        ("RFC 9110 15.5.9: 408 to nothing", &["HTTP/1.1 408 Request Timeout|connection: close|content-length: 0||"], refused),
        ("an interim answer to nothing", &["HTTP/1.1 100 Continue||"], refused),
        ("the end of nothing", &[EOF, NEXT], "no next, closed"),
        ("the end behind something", &["x", EOF], refused),
    ]);
    check_all(Get, &[
        ("RFC 9112 9.2: a second answer", &[OK, OK], &format!("200 2, data hi, end, {refused}")),
        ("RFC 9112 9.2: a second answer, in one piece", &["HTTP/1.1 200 OK|content-length: 2||hiHTTP/1.1 200 OK|content-length: 2||hi"], &format!("200 2, data hi, end, {refused}")),
        ("RFC 9112 9.2: more than the length", &["HTTP/1.1 200 OK|content-length: 2||hi!"], &format!("200 2, data hi, end, {refused}")),
        ("RFC 9112 9.2: an empty line behind a body", &["HTTP/1.1 200 OK|content-length: 2||hi|"], &format!("200 2, data hi, end, {refused}")),
        ("RFC 9112 9.2: more than the chunks", &["HTTP/1.1 200 OK|transfer-encoding: chunked||0|||"], &format!("200 chunked, end, {refused}")),
        ("RFC 9112 9.2: a body behind 204", &["HTTP/1.1 204 No Content||hello"], &format!("204 none, end, {refused}")),
        ("RFC 9112 9.2: a body behind 304", &["HTTP/1.1 304 Not Modified|content-length: 5||hello"], &format!("304 none, end, {refused}")),
        ("RFC 9112 9.2: an interim answer behind the last", &[OK, "HTTP/1.1 100 Continue||"], &format!("200 2, data hi, end, {refused}")),
        ("RFC 9112 9.2: a second answer, and no next", &[OK, "H", NEXT], "200 2, data hi, end, refused http_protocol_error, no next, closed"),
        ("RFC 9112 9.6: behind the last answer nothing counts", &["HTTP/1.1 200 OK|connection: close|content-length: 0||hello"], "200 0, end, closed"),
    ]);
    // A machine that has not been asked for what is behind the answer knows of it all the same.
    let mut machine = Client::new(Instant::default());
    assert!(machine.begin_request(Asked::default(), Framing::None, Instant::default()));
    let mut input = &b"HTTP/1.1 204 No Content\r\n\r\nx"[..];
    for _ in ["the head", "the end"] {
        let event = machine.poll_event(&mut input, &mut head::slots(), &BOUNDS, Instant::default()).map(|_| ());
        assert_eq!(event, Ok(()));
    }
    assert!(machine.is_idle() && !machine.is_reusable());
    assert!(!machine.begin_request(Asked::default(), Framing::None, Instant::default()));
}

#[test]
#[rustfmt::skip] // a row is a line
fn interim_answers_and_other_protocols() {
    let hints = "HTTP/1.1 103 Early Hints||";
    let many = hints.repeat(usize::from(MAX_INTERIMS));
    let told = "interim 103, ".repeat(usize::from(MAX_INTERIMS));
    check_all(Get, &[
        ("RFC 9110 15.2: an interim answer", &["HTTP/1.1 100 Continue||", OK], "interim 100, 200 2, data hi, end, reusable"),
        ("RFC 9110 15.2: an interim answer alone", &["HTTP/1.1 102 Processing||"], "interim 102, in head"),
        ("RFC 9110 15.2: an unknown one", &["HTTP/1.1 199 ?|x: y||", OK], "interim 199, 200 2, data hi, end, reusable"),
        ("RFC 9110 8.6: one with no length", &["HTTP/1.1 103 Early Hints|content-length: 0||", OK], "interim 103, 200 2, data hi, end, reusable"),
        ("RFC 9110 15.2: several", &[hints, "HTTP/1.1 100 Continue||", hints, OK], "interim 103, interim 100, interim 103, 200 2, data hi, end, reusable"),
        ("RFC 9110 15.2: as many as there may be", &[&many, OK], &format!("{told}200 2, data hi, end, reusable")),
        ("RFC 9110 15.2: too many", &[&many, hints, OK], &format!("{told}refused http_protocol_error, closed")),
        ("RFC 9110 15.2: counted anew for each request", &[&many, OK, NEXT, hints, OK], &format!("{told}200 2, data hi, end, next, interim 103, 200 2, data hi, end, reusable")),
        ("RFC 9110 15.2.2: 101 that was not asked for", &["HTTP/1.1 101 Switching Protocols|upgrade: x||hello"], "refused http_upgrade_failed, closed"),
        ("RFC 9110 15.2.2: behind an interim answer", &[hints, "HTTP/1.1 101 Switching Protocols||"], "interim 103, refused http_upgrade_failed, closed"),
        ("RFC 9110 15.2: HTTP/1.0 has none, and does not stay", &["HTTP/1.0 100 Continue||", OK], "interim 100, 200 2, data hi, end, closed"),
    ]);
    check_all(Upgrade, &[
        ("RFC 9110 7.8: 101", &["HTTP/1.1 101 Switching Protocols|upgrade: x||"], "101 none, switched "),
        ("RFC 9110 7.8: 101, and what follows", &["HTTP/1.1 101 Switching Protocols|upgrade: x||HTTP/1.1 200 OK||"], "101 none, switched HTTP/1.1 200 OK||"),
        ("RFC 9110 7.8: 101 behind an interim answer", &[hints, "HTTP/1.1 101 ||hello"], "interim 103, 101 none, switched hello"),
        ("RFC 9110 7.8: 101 in HTTP/1.0", &["HTTP/1.0 101 Switching Protocols|upgrade: x||"], "refused http_upgrade_failed, closed"),
        ("RFC 9110 8.6: 101 with a length", &["HTTP/1.1 101 Switching Protocols|content-length: 5||hello"], "refused http_protocol_error: Content-Length in an interim answer, closed"),
        ("RFC 9110 7.8: the upgrade is declined", &[OK, NEXT, OK], "200 2, data hi, end, next, 200 2, data hi, end, reusable"),
        ("RFC 9110 7.8: what was asked does not stick", &[OK, NEXT, "HTTP/1.1 101 x||"], "200 2, data hi, end, next, refused http_upgrade_failed, closed"),
        ("the end behind the switch is the other protocol's", &["HTTP/1.1 101 x||hello", EOF], "101 none, switched hello"),
        ("no request behind the switch", &["HTTP/1.1 101 x||", NEXT], "101 none, no next, switched "),
    ]);
    check_all(Connect, &[
        ("RFC 9110 9.3.6: a tunnel", &["HTTP/1.1 200 OK||hello"], "200 none, switched hello"),
        ("RFC 9110 9.3.6: a tunnel by any success", &["HTTP/1.1 299 ?||hello"], "299 none, switched hello"),
        ("RFC 9110 9.3.6: a tunnel's length is ignored", &["HTTP/1.1 200 OK|content-length: 2||hello"], "200 none, switched hello"),
        ("RFC 9110 9.3.6: a tunnel's coding is ignored", &["HTTP/1.1 200 OK|transfer-encoding: chunked||hello"], "200 none, switched hello"),
        ("RFC 9110 9.3.6: no tunnel", &["HTTP/1.1 403 Forbidden|content-length: 2||hi", NEXT, OK], "403 2, data hi, end, next, 200 2, data hi, end, reusable"),
        ("RFC 9110 9.3.6: 407", &["HTTP/1.1 407 ?|transfer-encoding: chunked||0||"], "407 chunked, end, reusable"),
        ("RFC 9110 7.8: 101 to CONNECT was not asked for", &["HTTP/1.1 101 x||"], "refused http_upgrade_failed, closed"),
    ]);
    let early = "refused http_upgrade_failed, closed";
    check(PostUpgrade, ("RFC 9110 7.8: 101 before the request is out", &["HTTP/1.1 101 x||hello"], early));
    check(PostUpgrade, ("RFC 9110 7.8: 101 when it is", &["HTTP/1.1 100 Continue||", SENT, "HTTP/1.1 101 x||hello"], "interim 100, 101 none, switched hello"));
    check(PostConnect, ("RFC 9110 9.3.6: a tunnel before the request is out", &["HTTP/1.1 200 OK||hello"], early));
}

#[test]
#[rustfmt::skip] // a row is a line
fn answers_before_the_end_of_the_request() {
    let close = "HTTP/1.1 413 Content Too Large|connection: close|content-length: 2||no";
    check_all(Post, &[
        ("in turn", &[SENT, OK], "200 2, data hi, end, reusable"),
        ("nothing yet", &[SENT], "nothing seen"),
        ("RFC 9110 10.1.1: leave to go on", &["HTTP/1.1 100 Continue||", SENT, OK], "interim 100, 200 2, data hi, end, reusable"),
        ("RFC 9112 9.3: an early answer", &[OK], "200 2, data hi, end, sending"),
        ("RFC 9112 9.3: an early answer, no next", &[OK, NEXT], "200 2, data hi, end, no next, sending"),
        ("RFC 9112 9.3: an early answer, and then the rest", &[OK, SENT], "200 2, data hi, end, reusable"),
        ("RFC 9112 9.3: and the next request", &[OK, SENT, NEXT, OK], "200 2, data hi, end, next, 200 2, data hi, end, reusable"),
        ("RFC 9112 9.3: the request's end within the answer", &["HTTP/1.1 200 OK|content-length: 2||h", SENT, "i"], "200 2, data hi, end, reusable"),
        ("RFC 9112 9.3: the request's end within the head", &["HTTP/1.1 200 OK|content-le", SENT, "ngth: 2||hi"], "200 2, data hi, end, reusable"),
        ("RFC 9112 9.6: an early last answer", &[close], "413 2, data no, end, sending"),
        ("RFC 9112 9.6: an early last answer, and the rest", &[close, SENT], "413 2, data no, end, closed"),
        ("RFC 9112 9.6: and the end", &[close, EOF], "413 2, data no, end, closed"),
        ("RFC 9112 6.3: an early answer until the end", &["HTTP/1.1 400 ?||no", EOF], "400 close, data no, end, closed"),
        ("RFC 9112 9.2: an early answer, and more", &[OK, "x"], "200 2, data hi, end, refused http_protocol_error, closed"),
        ("RFC 9112 9.2: an early answer, and more at once", &["HTTP/1.1 204 ?||x"], "204 none, end, refused http_protocol_error, closed"),
        ("the end instead of an answer", &[EOF], "refused connection_terminated: BeforeHead, closed"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn the_end_of_the_server_in_each_state() {
    let chunked = "HTTP/1.1 200 OK|transfer-encoding: chunked||";
    let incomplete = |what: &str| format!("refused http_response_incomplete: {what}, closed");
    let (head, body) = (incomplete("InHead"), incomplete("InBody"));
    let with = |events: &str| format!("{events}, {body}");
    check_all(Get, &[
        ("RFC 9112 9.5: before the answer", &[EOF], "refused connection_terminated: BeforeHead, closed"),
        ("RFC 9112 8: in the first word", &["HTT", EOF], &head),
        ("RFC 9112 8: in the status line", &["HTTP/1.1 200 O", EOF], &head),
        ("RFC 9112 8: behind the status line", &["HTTP/1.1 200 OK|", EOF], &head),
        ("RFC 9112 8: before the empty line", &["HTTP/1.1 200 OK|content-length: 0|", EOF], &head),
        ("RFC 9112 8: within the empty line", &["HTTP/1.1 200 OK|content-length: 0|\r", EOF], &head),
        ("RFC 9112 8: behind an interim answer", &["HTTP/1.1 100 Continue||", EOF], &format!("interim 100, {head}")),
        ("RFC 9112 8: before a body", &["HTTP/1.1 200 OK|content-length: 5||", EOF], &with("200 5")),
        ("RFC 9112 8: within a body", &["HTTP/1.1 200 OK|content-length: 5||hell", EOF], &with("200 5, data hell")),
        ("RFC 9112 8: before the chunks", &[chunked, EOF], &with("200 chunked")),
        ("RFC 9112 8: within a size", &[chunked, "5", EOF], &with("200 chunked")),
        ("RFC 9112 8: within a chunk", &[chunked, "5|hel", EOF], &with("200 chunked, data hel")),
        ("RFC 9112 8: behind a chunk's data", &[chunked, "5|hello", EOF], &with("200 chunked, data hello")),
        ("RFC 9112 8: between chunks", &[chunked, "5|hello|", EOF], &with("200 chunked, data hello")),
        ("RFC 9112 8: before the last line", &[chunked, "5|hello|0|", EOF], &with("200 chunked, data hello")),
        ("RFC 9112 8: within trailers", &[chunked, "0|sum: 1|", EOF], &with("200 chunked")),
        ("RFC 9112 9.5: behind an answer", &[OK, EOF, NEXT], "200 2, data hi, end, no next, closed"),
        ("RFC 9112 9.5: behind the last answer", &["HTTP/1.1 200 OK|connection: close|content-length: 0||", EOF], "200 0, end, closed"),
    ]);
    // The end is enough, before anybody asks what it means.
    let mut idle = Connection::new(Nothing);
    idle.machine.handle_eof();
    assert!(!idle.machine.is_reusable() && !idle.begin(Get));
    // What has come before the end counts, however late it is looked at.
    for (arrives, want) in [
        (&b"HTTP/1.1 200 OK\r\n\r\nhello"[..], "200 close, data hello, end, closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "200 2, data hi, end, closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", "200 3, data hi, refused http_response_incomplete: InBody, closed"),
    ] {
        let mut connection = Connection::new(Get);
        connection.machine.handle_eof();
        connection.arrive(arrives);
        connection.events.push(connection.state());
        assert_eq!(connection.events.join(", "), want);
    }
}

#[test]
fn requests_are_framed_as_they_were_announced() {
    let now = Instant::default();
    let send = |framing, pieces: &[&str], trailers: &str| {
        let mut machine = Client::new(now);
        assert!(machine.begin_request(Asked::default(), framing, now));
        let mut out = Vec::new();
        for piece in pieces {
            let (n, after) = machine.frame_body(piece.len(), &mut out);
            out.extend_from_slice(&piece.as_bytes()[..n]);
            if n > 0 {
                out.extend_from_slice(after);
            }
        }
        let is_whole = machine.end_request(trailers.as_bytes(), &mut out, now);
        let mut input = &b"HTTP/1.1 204 No Content\r\n\r\n"[..];
        for _ in ["the head", "the end"] {
            let mut slots = head::slots();
            let event = machine.poll_event(&mut input, &mut slots, &BOUNDS, now);
            assert!(event.is_ok());
        }
        assert_eq!(machine.is_reusable(), is_whole);
        let out = String::from_utf8(out).unwrap().replace("\r\n", "|");
        (is_whole, machine.sent(), out)
    };
    let pieces = ["hel", "", "lo"];
    let sent = |whole, n, text: &str| (whole, n, text.to_string());
    assert_eq!(send(Framing::None, &[], ""), sent(true, 0, ""));
    assert_eq!(send(Framing::None, &pieces, "a: b\r\n"), sent(true, 0, ""));
    assert_eq!(
        send(Framing::Length(5), &pieces, "a: b\r\n"),
        sent(true, 5, "hello")
    );
    // What is over the announced length stays here; what falls short of it only closing can say.
    assert_eq!(send(Framing::Length(4), &pieces, ""), sent(true, 4, "hell"));
    assert_eq!(
        send(Framing::Length(6), &pieces, ""),
        sent(false, 5, "hello")
    );
    assert_eq!(
        send(Framing::Chunked, &pieces, ""),
        sent(true, 5, "3|hel|2|lo|0||")
    );
    assert_eq!(
        send(Framing::Chunked, &[], "a: b\r\n"),
        sent(true, 0, "0|a: b||")
    );
}

#[test]
fn exchanges_are_numbered_and_counted() {
    let mut connection = Connection::new(Get);
    let machine = |connection: &Connection| {
        let machine = &connection.machine;
        (machine.exchange(), machine.status(), machine.received())
    };
    assert_eq!(machine(&connection), (1, 0, 0));
    connection.arrive(b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nhel");
    assert_eq!(machine(&connection), (1, 404, 3));
    assert!(connection.begin(Get));
    assert_eq!(machine(&connection), (2, 0, 0));
    assert!(!connection.begin(Get));
    assert_eq!(connection.machine.exchange(), 2);
}

#[test]
fn nothing_seen_until_the_first_byte() {
    let mut connection = Connection::new(Nothing);
    assert!(!connection.machine.nothing_seen(), "nothing is asked");
    assert!(connection.begin(Get));
    assert!(connection.machine.nothing_seen());
    connection.arrive(b"H");
    assert!(!connection.machine.nothing_seen());
    connection.arrive(b"TTP/1.1 100 Continue\r\n\r\n");
    assert!(
        !connection.machine.nothing_seen(),
        "an interim answer is one, too"
    );
    connection.arrive(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert!(!connection.machine.nothing_seen());
    assert!(connection.begin(Get));
    assert!(connection.machine.nothing_seen());
}

const WAITS: ClientWaits = ClientWaits {
    first_byte: Duration::from_secs(30),
    read: Duration::from_secs(5),
};

/// What happens, and when (in seconds) the wait is over then, if there is one.
#[track_caller]
fn check_waits(ask: Framing, steps: &[(u64, &str, Option<u64>)]) -> Client {
    let at = |second: u64| Instant::from_micros(second * 1_000_000);
    let mut machine = Client::new(at(0));
    assert_eq!(
        machine.next_deadline(&WAITS, true),
        None,
        "nothing is asked"
    );
    let mut kept = Vec::new();
    for &(now, what, deadline) in steps {
        match what {
            "ask" => assert!(machine.begin_request(Asked::default(), ask, at(now))),
            SENT => assert!(machine.end_request(b"", &mut Vec::new(), at(now))),
            "resume" => machine.resume_body(at(now)),
            _ => kept.extend_from_slice(what.replace('|', "\r\n").as_bytes()),
        }
        let mut input = &kept[..];
        loop {
            let mut slots = head::slots();
            match machine.poll_event(&mut input, &mut slots, &BOUNDS, at(now)) {
                Ok(Event::NeedInput | Event::Idle | Event::Closed) => break,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
        kept = input.to_vec();
        let got = machine.next_deadline(&WAITS, true);
        assert_eq!(got, deadline.map(at), "at {now} after {what:?}");
        let is_body = machine.has_body_to_come();
        assert_eq!(
            machine.next_deadline(&WAITS, false),
            got.filter(|_| !is_body),
            "not reading"
        );
    }
    machine
}

#[test]
fn waits() {
    let (first_byte, read) = (WAITS.first_byte, WAITS.read);
    let mut machine = check_waits(Framing::None, &[(10, "ask", Some(40))]);
    let expired = ClientError::FirstByteTimeout { limit: first_byte };
    assert_eq!(machine.expire(&WAITS), expired);
    assert!(machine.is_closed() && machine.next_deadline(&WAITS, true).is_none());

    // A head is given its time once, however it drips in; another begins behind an interim answer.
    let head = [
        (10, "ask", Some(40)),
        (12, "HTTP", Some(17)),
        (16, "/1.1 100 Continue|", Some(17)),
        (17, "|", Some(47)),
        (20, "HTTP/1.1 200 OK|", Some(25)),
    ];
    let mut machine = check_waits(Framing::None, &head);
    let expired = ClientError::HeadTimeout { limit: read };
    assert_eq!(machine.expire(&WAITS), expired);

    // A body is given it for every piece.
    for (framing, end, left) in [
        ("content-length: 4|", "cd", None),
        ("transfer-encoding: chunked|", "2|cd|0||", None),
        ("", "cd", Some(39)),
    ] {
        let first = format!("HTTP/1.1 200 OK|{framing}|");
        let piece = if framing.starts_with('t') {
            "2|ab|"
        } else {
            "ab"
        };
        let steps = [
            (10, "ask", Some(40)),
            (20, &first, Some(25)),
            (24, piece, Some(29)),
            // By our own choice nothing was read.
            (33, "resume", Some(38)),
            (34, end, left),
        ];
        let mut machine = check_waits(Framing::None, &steps);
        assert_eq!(machine.is_idle(), left.is_none());
        if left.is_some() {
            let expired = ClientError::BodyTimeout { limit: read };
            assert_eq!(machine.expire(&WAITS), expired);
        }
    }

    // While the request is not out the server may wait for the rest; what it has begun to say it may not.
    check_waits(
        Framing::Chunked,
        &[
            (10, "ask", None),
            (50, SENT, Some(80)),
            (60, "H", Some(65)),
            (61, "TTP/1.1 204 ?||", None),
        ],
    );
    check_waits(
        Framing::Chunked,
        &[
            (10, "ask", None),
            (20, "HTTP/1.1 100 Conti", Some(25)),
            (22, "nue||", None),
            (23, "HTTP/1.1 200 OK|", Some(28)),
            (24, "content-length: 4||", None),
            (30, "ab", None),
            (70, SENT, Some(75)),
            (72, "c", Some(77)),
            (73, "d", None),
        ],
    );
    check_waits(
        Framing::Length(0),
        &[
            (10, "ask", None),
            (20, "H", Some(25)),
            (21, SENT, Some(25)),
            (24, "TTP/1.1 204 ?||", None),
        ],
    );
}

#[test]
fn each_error_has_a_status_a_name_and_a_text() {
    let limit = Duration::from_secs(3);
    for (error, status, name, text) in [
        (
            ClientError::Malformed("why"),
            502,
            "http_protocol_error",
            "why",
        ),
        (
            ClientError::HeadTooLarge { size: 9, limit: 8 },
            502,
            "http_response_header_section_size",
            "limits.head = 8",
        ),
        (
            ClientError::TooManyFields { limit: 7 },
            502,
            "http_response_header_section_size",
            "limits.fields = 7",
        ),
        (
            ClientError::BodyTooLarge { size: 9, limit: 8 },
            502,
            "http_response_body_size",
            "limits.body = 8",
        ),
        (ClientError::Version, 502, "http_protocol_error", "version"),
        (
            ClientError::TransferCoding,
            502,
            "http_response_transfer_coding",
            "coding",
        ),
        (
            ClientError::Chunks("why"),
            502,
            "http_response_transfer_coding",
            "why",
        ),
        (
            ClientError::TooManyInterims,
            502,
            "http_protocol_error",
            "sixteen",
        ),
        (
            ClientError::Unasked,
            502,
            "http_protocol_error",
            "not asked for",
        ),
        (
            ClientError::UnaskedSwitch,
            502,
            "http_upgrade_failed",
            "101",
        ),
        (
            ClientError::EarlySwitch,
            502,
            "http_upgrade_failed",
            "before",
        ),
        (
            ClientError::Truncated(Cut::BeforeHead),
            502,
            "connection_terminated",
            "before the answer",
        ),
        (
            ClientError::Truncated(Cut::InHead),
            502,
            "http_response_incomplete",
            "head",
        ),
        (
            ClientError::Truncated(Cut::InBody),
            502,
            "http_response_incomplete",
            "body",
        ),
        (
            ClientError::FirstByteTimeout { limit },
            504,
            "http_response_timeout",
            "timeouts.first_byte = 3s",
        ),
        (
            ClientError::HeadTimeout { limit },
            504,
            "http_response_timeout",
            "timeouts.read = 3s",
        ),
        (
            ClientError::BodyTimeout { limit },
            504,
            "connection_read_timeout",
            "timeouts.read = 3s",
        ),
    ] {
        assert_eq!(error.status().as_u16(), status, "{error:?}");
        assert_eq!(error.proxy_status(), name, "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(MAX_INTERIMS, 16);
}
