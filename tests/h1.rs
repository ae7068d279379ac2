//! The HTTP/1.1 connection machine alone, as tables: what arrives, what is reported, what leaves.
//!
//! Every row is fed whole, byte by byte, and split in two at every place, and has to come out the
//! same. In a row, `|` is a line's end (CRLF). What leaves is written without its date, and short:
//!
//! ```text
//! <200 /a>          an answer with status 200 and the body "/a"
//! <200 /a close>    the same, saying `connection: close`
//! <400>             a refusal: its reason as the body, and `connection: close`
//! <100>             100 Continue
//! ```

use loopwright::Instant;
use loopwright::base::clock::StockFields;
use loopwright::proto::h1::answer::FieldBlock;
use loopwright::proto::h1::body::Trailers;
use loopwright::proto::h1::head::{self, Head, HeadLimits};
use loopwright::proto::h1::server::{Bounds, Event, Extent, Server, Waits};
use std::time::{Duration, SystemTime};

const BOUNDS: Bounds = Bounds {
    head: HeadLimits {
        head: 256,
        target: 64,
        fields: 6,
    },
    discard: 16,
    waits: Waits {
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        body_rate: 0,
        body_grace: Duration::from_secs(10),
        idle: Duration::from_secs(75),
    },
};
const BODY_LIMIT: u64 = 32;

/// In a row's arrivals: the client closes its sending side.
const EOF: &str = "(eof)";

/// When the app answers.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// As soon as it has seen the head; it never takes the body.
    Head,
    /// When the body has come.
    End,
    /// It takes the body, and answers when everything has arrived that will.
    Later,
    /// It begins at the head, takes the body, and is done when that has come.
    Around,
}
use When::{Around, End, Later};

/// What the app answers with.
#[derive(Clone, Copy)]
struct Answer {
    status: u16,
    /// None: of the pieces together.
    extent: Option<Extent>,
    /// None: the path of the request.
    pieces: Option<&'static [&'static str]>,
    trailers: &'static str,
    closes: bool,
}

const PATH: Answer = Answer {
    status: 200,
    extent: None,
    pieces: None,
    trailers: "",
    closes: false,
};
const STREAM: Answer = Answer {
    extent: Some(Extent::Open),
    ..PATH
};

/// A machine with its trivial app.
struct Connection {
    machine: Server,
    when: When,
    answer: Answer,
    path: String,
    kept: Vec<u8>,
    out: Vec<u8>,
    events: Vec<String>,
    stock: StockFields,
}

impl Connection {
    fn new(when: When, answer: Answer) -> Connection {
        let mut stock = StockFields::new(None);
        stock.refresh(Instant::default(), || SystemTime::UNIX_EPOCH);
        Connection {
            machine: Server::new(Instant::default()),
            when,
            answer,
            path: String::new(),
            kept: Vec::new(),
            out: Vec::new(),
            events: Vec::new(),
            stock,
        }
    }

    fn arrive(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let kept = std::mem::take(&mut self.kept);
        let mut input = &kept[..];
        self.serve(&mut input);
        self.kept = input.to_vec();
    }

    fn serve(&mut self, input: &mut &[u8]) {
        loop {
            let mut slots = head::slots();
            let now = Instant::default();
            match self.machine.poll_event(input, &mut slots, &BOUNDS, now) {
                Ok(Event::Request(head)) => self.on_request(&head, input),
                Ok(Event::Data(bytes)) => self.on_data(bytes),
                Ok(Event::End(trailers)) => {
                    self.on_end(&trailers);
                    match self.when {
                        When::End => self.answer(),
                        When::Around => self.finish(),
                        When::Head | When::Later => {}
                    }
                }
                Ok(Event::NeedInput | Event::Paused | Event::Closed | Event::Switched) => return,
                Err(error) => {
                    self.events
                        .push(format!("refused {}", error.status().as_u16()));
                    self.machine.refuse(error, &mut self.out, &self.stock);
                }
            }
        }
    }

    fn on_request(&mut self, head: &Head<'_>, input: &mut &[u8]) {
        let query = head.query.map(|q| format!("?{q}")).unwrap_or_default();
        let authority = match String::from_utf8_lossy(head.authority).as_ref() {
            "a" => String::new(),
            other => format!(" @{other}"),
        };
        self.events
            .push(format!("{} {}{query}{authority}", head.method, head.path));
        self.path = head.path.to_string();
        if let Err(error) = self.machine.limit_body(BODY_LIMIT) {
            self.events
                .push(format!("refused {}", error.status().as_u16()));
            return self.machine.refuse(error, &mut self.out, &self.stock);
        }
        match self.when {
            When::Head => return self.answer(),
            When::Around => self.begin(),
            When::End | When::Later => {}
        }
        let whole = match self.when {
            When::Around if self.machine.has_body_to_come() => None,
            _ => self.machine.take_whole_body(input),
        };
        match whole {
            Some(body) if !body.is_empty() => {
                self.on_data(body);
                self.on_end(&Trailers::default());
            }
            Some(_) => {}
            None => return self.machine.want_body(&mut self.out),
        }
        match self.when {
            When::End => self.answer(),
            When::Around => self.finish(),
            When::Head | When::Later => {}
        }
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

    fn on_end(&mut self, trailers: &Trailers<'_>) {
        let mut event = "end".to_string();
        trailers.with(|fields| {
            for (name, value) in fields.iter() {
                event += &format!(" {name}={}", String::from_utf8_lossy(value));
            }
        });
        self.events.push(event);
    }

    fn begin(&mut self) {
        let mut fields = FieldBlock::default();
        if self.answer.closes {
            fields.close();
        }
        let length = self.path.len() as u64;
        self.machine.begin_answer(
            &mut self.out,
            http::StatusCode::from_u16(self.answer.status).unwrap(),
            &fields,
            &self.stock,
            self.answer.extent.unwrap_or(Extent::Whole(length)),
            BOUNDS.discard,
        );
    }

    fn finish(&mut self) {
        let path = [self.path.as_str()];
        for piece in self.answer.pieces.unwrap_or(&path) {
            let (n, after) = self.machine.frame_body(piece.len(), &mut self.out);
            self.out.extend_from_slice(&piece.as_bytes()[..n]);
            if n > 0 {
                self.out.extend_from_slice(after);
            }
        }
        let trailers = self.answer.trailers.replace('|', "\r\n");
        let (discard, now) = (BOUNDS.discard, Instant::default());
        self.machine
            .end_answer(trailers.as_bytes(), &mut self.out, discard, now);
    }

    fn answer(&mut self) {
        self.begin();
        self.finish();
    }

    fn eof(&mut self) {
        let cut_off = self.machine.handle_eof();
        self.events
            .push(if cut_off { "eof cuts" } else { "eof" }.to_string());
        if cut_off && self.machine.is_answering() {
            // The body will never be whole: nobody answers such a request.
            self.machine.abort();
        }
    }

    fn state(&self) -> &'static str {
        let machine = &self.machine;
        match () {
            () if machine.is_closed() && machine.left_unread() => "closed unread",
            () if machine.is_closed() => "closed",
            () if machine.is_answering() => "answering",
            () if machine.is_discarding() => "discarding",
            () if machine.is_idle() => "idle",
            () => "begun",
        }
    }
}

/// Feeds `arrives`, a piece ending wherever `ends_at` says so; a client that waits for something
/// ends a piece by itself, and begins another element. Returns what was reported, the state at the
/// end, and what left.
fn run(
    when: When,
    answer: Answer,
    arrives: &[String],
    ends_at: impl Fn(usize) -> bool,
) -> (String, String) {
    let mut connection = Connection::new(when, answer);
    let mut at = 0;
    for element in arrives {
        if element == EOF {
            connection.eof();
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
    while when == When::Later && connection.machine.is_waiting() {
        connection.answer();
        connection.arrive(b"");
    }
    let out = String::from_utf8(connection.out.clone()).unwrap();
    let date = "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    connection.events.push(connection.state().to_string());
    let events = connection.events.join(", ").replace("\r\n", "|");
    (events, out.replace(date, ""))
}

/// Writes out what a row abbreviates.
fn expand(row: &str) -> String {
    let mut text = String::new();
    for part in row.split_inclusive('>') {
        let (plain, short) = part.split_once('<').unwrap_or((part, ""));
        text += plain;
        let words: Vec<&str> = short.trim_end_matches('>').split_whitespace().collect();
        let Some(status) = words.first() else {
            continue;
        };
        let status = http::StatusCode::from_bytes(status.as_bytes()).unwrap();
        let reason = status.canonical_reason().unwrap();
        text += &format!("HTTP/1.1 {} {reason}|", status.as_u16());
        text += &match words[1..] {
            [] if status.is_informational() => "|".to_string(),
            [] => format!(
                "content-type: text/plain; charset=utf-8|content-length: {}|connection: close||{reason}",
                reason.len()
            ),
            [body] => format!("content-length: {}||{body}", body.len()),
            [body, persistence] => format!(
                "content-length: {}|connection: {persistence}||{body}",
                body.len()
            ),
            _ => unreachable!("{part}"),
        };
    }
    text.replace('|', "\r\n")
}

#[track_caller]
fn check(when: When, answer: Answer, arrives: &[&str], events: &str, leaves: &str) {
    let arrives: Vec<String> = arrives
        .iter()
        .map(|text| text.replace('|', "\r\n"))
        .collect();
    let total = arrives
        .iter()
        .filter(|&text| text != EOF)
        .map(String::len)
        .sum();
    let want = (events.to_string(), expand(leaves));
    assert_eq!(
        run(when, answer, &arrives, |_| false),
        want,
        "whole: {arrives:?}"
    );
    assert_eq!(
        run(when, answer, &arrives, |_| true),
        want,
        "byte by byte: {arrives:?}"
    );
    for split in 1..total {
        let got = run(when, answer, &arrives, |at| at == split);
        assert_eq!(got, want, "split at {split}: {arrives:?}");
    }
}

/// Rows of an app that answers with the path.
type Rows<'a> = &'a [(When, &'a [&'a str], &'a str, &'a str)];

#[track_caller]
fn check_all(rows: Rows<'_>) {
    for &(when, arrives, events, leaves) in rows {
        check(when, PATH, arrives, events, leaves);
    }
}

const GET: &str = "GET /2 HTTP/1.1|host: a||";

#[test]
#[rustfmt::skip] // a row is a line
fn a_connection_is_kept_or_closed_as_both_sides_say() {
    use When::Head;
    check_all(&[
        (Head, &["GET /1 HTTP/1.1|host: a||"], "GET /1, idle", "<200 /1>"),
        (Head, &["GET /1 HTTP/1.1|host: a||", GET], "GET /1, GET /2, idle", "<200 /1><200 /2>"),
        (
            Head,
            &["GET /1 HTTP/1.1|host: a|connection: keep-alive||", GET],
            "GET /1, GET /2, idle",
            "<200 /1><200 /2>",
        ),
        (Head, &["GET /1 HTTP/1.1|host: a|connection: x, Close||", GET], "GET /1, closed", "<200 /1 close>"),
        (
            Head,
            &["GET /1 HTTP/1.1|host: a|connection: keep-alive|connection: close||", GET],
            "GET /1, closed",
            "<200 /1 close>",
        ),
        (Head, &["GET /1 HTTP/1.0||", GET], "GET /1 @, closed", "<200 /1 close>"),
        (
            Head,
            &["GET /1 HTTP/1.0|host: a|connection: Keep-Alive||", GET],
            "GET /1, GET /2, idle",
            "<200 /1 keep-alive><200 /2>",
        ),
        (Head, &["GET /1 HTTP/1.0|host: a|connection: keep-alive, close||", GET], "GET /1, closed", "<200 /1 close>"),
        // What one request said does not stick to the next.
        (
            Head,
            &["GET /1 HTTP/1.0|host: a|connection: keep-alive||", GET, "GET /3 HTTP/1.0|host: a||"],
            "GET /1, GET /2, GET /3, closed",
            "<200 /1 keep-alive><200 /2><200 /3 close>",
        ),
        // The body of a last request is still taken.
        (
            End,
            &["POST /1 HTTP/1.1|host: a|connection: close|content-length: 5||hello", GET],
            "POST /1, data hello, end, closed",
            "<200 /1 close>",
        ),
    ]);
    let closes = Answer { closes: true, ..PATH };
    let arrives = ["GET /1 HTTP/1.1|host: a||", GET];
    for when in [Head, End, Later] {
        check(when, closes, &arrives, "GET /1, closed unread", "<200 /1 close>");
    }
}

#[test]
#[rustfmt::skip] // a row is a line
fn answers_leave_in_the_order_of_their_requests() {
    use When::Head;
    let (get, post) = (
        "GET /1 HTTP/1.1|host: a||GET /2 HTTP/1.1|host: a||GET /3 HTTP/1.1|host: a||",
        "POST /1 HTTP/1.1|host: a|content-length: 5||helloGET /2 HTTP/1.1|host: a||\
         POST /3 HTTP/1.1|host: a|transfer-encoding: chunked||2|hi|0||GET /4 HTTP/1.1|host: a||",
    );
    for when in [Head, End, Later] {
        let leaves = "<200 /1><200 /2><200 /3>";
        check(when, PATH, &[get], "GET /1, GET /2, GET /3, idle", leaves);
    }
    for when in [End, Later] {
        let events = "POST /1, data hello, end, GET /2, POST /3, data hi, end, GET /4, idle";
        check(when, PATH, &[post], events, "<200 /1><200 /2><200 /3><200 /4>");
    }
    // Nobody wants the bodies; they are in the way all the same.
    let leaves = "<200 /1><200 /2><200 /3><200 /4>";
    check(Head, PATH, &[post], "POST /1, GET /2, POST /3, GET /4, idle", leaves);
}

#[test]
#[rustfmt::skip] // a row is a line
fn empty_lines_before_a_request() {
    use When::Head;
    check_all(&[
        (Head, &["||||GET /1 HTTP/1.1|host: a||"], "GET /1, idle", "<200 /1>"),
        (Head, &["|||||GET /1 HTTP/1.1|host: a||"], "refused 400, closed unread", "<400>"),
        // Counted anew for each request.
        (Head, &["|||GET /1 HTTP/1.1|host: a||||||", GET], "GET /1, GET /2, idle", "<200 /1><200 /2>"),
        (Head, &["GET /1 HTTP/1.1|host: a|||||||", GET], "GET /1, refused 400, closed unread", "<200 /1><400>"),
        (Head, &["\n", GET], "refused 400, closed unread", "<400>"),
        (Head, &["\nGET /1 HTTP/1.1|host: a||"], "refused 400, closed unread", "<400>"),
        (Head, &["\rGET /1 HTTP/1.1|host: a||"], "refused 400, closed unread", "<400>"),
        // Some clients end a body with one. The request after it has not begun.
        (End, &["POST /1 HTTP/1.1|host: a|content-length: 5||hello|"], "POST /1, data hello, end, idle", "<200 /1>"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn targets() {
    use When::Head;
    check_all(&[
        (Head, &["GET http://b:8/x?q=1?z HTTP/1.1|host: a||"], "GET /x?q=1?z @b:8, idle", "<200 /x>"),
        (Head, &["GET http://b HTTP/1.1|host: a||"], "GET / @b, idle", "<200 />"),
        (Head, &["GET http://b?q HTTP/1.1|host: a||"], "GET /?q @b, idle", "<200 />"),
        (Head, &["OPTIONS * HTTP/1.1|host: a||"], "OPTIONS *, idle", "<200 *>"),
        (Head, &["GET * HTTP/1.1|host: a||"], "refused 400, closed unread", "<400>"),
        // RFC 9112 §3.2.2: the Host field must be there, and right, all the same.
        (Head, &["GET http://b/ HTTP/1.1||"], "refused 400, closed unread", "<400>"),
        (Head, &["GET http://b/ HTTP/1.1|host: u@a||"], "refused 400, closed unread", "<400>"),
    ]);
}

#[test]
#[rustfmt::skip] // a row is a line
fn chunked_bodies_in() {
    let post = "POST /1 HTTP/1.1|host: a|transfer-encoding: chunked||";
    for (body, events) in [
        ("0||", "POST /1, end, GET /2, idle"),
        ("5|hello|0||", "POST /1, data hello, end, GET /2, idle"),
        ("5;a=b;c=\"d;e\\\"\" ; f|hello|01;x|!|00;y||", "POST /1, data hello!, end, GET /2, idle"),
        ("A|0123456789|0|sum: 1|X-Y: ||", "POST /1, data 0123456789, end sum=1 X-Y=, GET /2, idle"),
        ("7|GET /3 |0||", "POST /1, data GET /3 , end, GET /2, idle"),
        (
            "20|01234567890123456789012345678901|0||",
            "POST /1, data 01234567890123456789012345678901, end, GET /2, idle",
        ),
    ] {
        for when in [End, Later] {
            check(when, PATH, &[post, body, GET], events, "<200 /1><200 /2>");
        }
    }
}

#[test]
#[rustfmt::skip] // a row is a line
fn bodies_out() {
    use When::Head;
    let stream = |pieces: &'static [&'static str]| Answer { pieces: Some(pieces), ..STREAM };
    let sized = |n: u64, pieces: &'static [&'static str]| Answer { extent: Some(Extent::Sized(n)), ..stream(pieces) };
    let trailed = |answer: Answer| Answer { trailers: "sum: 1|", ..answer };
    let status = |status: u16, answer: Answer| Answer { status, ..answer };
    let (get, old, head) = ("GET /1 HTTP/1.1", "GET /1 HTTP/1.0|connection: keep-alive", "HEAD /1 HTTP/1.1");
    let (kept, unread) = ("idle", "closed unread");
    for (answer, request, leaves, then) in [
        (stream(&["hi", "", "there"]), get, "HTTP/1.1 200 OK|transfer-encoding: chunked||2|hi|5|there|0||", kept),
        (stream(&[]), get, "HTTP/1.1 200 OK|transfer-encoding: chunked||0||", kept),
        (trailed(stream(&["hi"])), get, "HTTP/1.1 200 OK|transfer-encoding: chunked||2|hi|0|sum: 1||", kept),
        (sized(5, &["hel", "", "lo"]), get, "HTTP/1.1 200 OK|content-length: 5||hello", kept),
        (sized(0, &[]), get, "HTTP/1.1 200 OK|content-length: 0||", kept),
        // Trailers need chunks.
        (trailed(sized(2, &["hi"])), get, "HTTP/1.1 200 OK|content-length: 2||hi", kept),
        // What is over the announced length stays here: the next answer begins where it should.
        (sized(4, &["hel", "lo", "!"]), get, "HTTP/1.1 200 OK|content-length: 4||hell", kept),
        // What falls short of it can only be told by closing.
        (sized(6, &["hello"]), get, "HTTP/1.1 200 OK|content-length: 6||hello", unread),
        (sized(6, &[]), get, "HTTP/1.1 200 OK|content-length: 6||", unread),
        // HTTP/1.0 knows no chunks.
        (stream(&["hi", "ho"]), old, "HTTP/1.1 200 OK|connection: close||hiho", unread),
        (trailed(stream(&["hi"])), old, "HTTP/1.1 200 OK|connection: close||hi", unread),
        (sized(2, &["hi"]), old, "HTTP/1.1 200 OK|content-length: 2|connection: keep-alive||hi", kept),
        // No body: the answer to HEAD says what GET's would.
        (PATH, head, "HTTP/1.1 200 OK|content-length: 2||", kept),
        (trailed(stream(&["hi"])), head, "HTTP/1.1 200 OK|transfer-encoding: chunked||", kept),
        (sized(5, &["hello"]), head, "HTTP/1.1 200 OK|content-length: 5||", kept),
        (sized(5, &[]), head, "HTTP/1.1 200 OK|content-length: 5||", kept),
        (status(204, PATH), get, "HTTP/1.1 204 No Content||", kept),
        (status(204, trailed(stream(&["hi"]))), get, "HTTP/1.1 204 No Content||", kept),
        (status(204, stream(&["hi"])), old, "HTTP/1.1 204 No Content|connection: keep-alive||", kept),
        (status(304, PATH), get, "HTTP/1.1 304 Not Modified||", kept),
        (status(304, sized(9, &["hi"])), get, "HTTP/1.1 304 Not Modified||", kept),
        (status(304, PATH), head, "HTTP/1.1 304 Not Modified||", kept),
    ] {
        let method = request.split(' ').next().unwrap();
        let events = format!("{method} /1, {then}");
        let request = format!("{request}|host: a||");
        for when in [Head, Later] {
            check(when, answer, &[&request], &events, leaves);
        }
    }
}

#[test]
#[rustfmt::skip] // a row is a line
fn leave_to_send_a_body_is_given_when_it_is_wanted() {
    use When::Head;
    let post = |more: &str| format!("POST /1 HTTP/1.1|host: a|expect: 100-continue|{more}||");
    let sized = post("content-length: 5");
    let chunked = post("transfer-encoding: chunked");
    let events = "POST /1, data hello, end, GET /2, idle";
    for when in [End, Later] {
        check(when, PATH, &[&sized, "hello", GET], events, "<100><200 /1><200 /2>");
        check(when, PATH, &[&chunked, "5|hello|0||", GET], events, "<100><200 /1><200 /2>");
        // There is no body to ask for.
        let bodiless = post("content-length: 0");
        check(when, PATH, &[&bodiless, GET], "POST /1, GET /2, idle", "<200 /1><200 /2>");
        // HTTP/1.0 would take it for the answer.
        let old = "POST /1 HTTP/1.0|host: a|expect: 100-continue|content-length: 5||";
        let events = "POST /1, data hello, end, closed";
        check(when, PATH, &[old, "hello", GET], events, "<200 /1 close>");
    }
    // It has come unasked: saying so would be late.
    let arrives = format!("{sized}hello{GET}").replace('|', "\r\n");
    let got = run(End, PATH, &[arrives], |_| false);
    assert_eq!(got, (events.to_string(), expand("<200 /1><200 /2>")));
    // Whether it comes after this answer nobody knows, so neither is known where a request begins.
    for request in [&sized, &chunked] {
        check(Head, PATH, &[request, "hello", GET], "POST /1, closed unread", "<200 /1 close>");
    }
    // After a head, 100 Continue would be read as body.
    // What is sent all the same is read, but whether it would be was not known when the head said so.
    let leaves = "HTTP/1.1 200 OK|transfer-encoding: chunked|connection: close||2|/1|0||";
    let events = "POST /1, data hello, end, closed unread";
    check(Around, STREAM, &[&sized, "hello"], events, leaves);
    let unknown = "POST /1 HTTP/1.1|host: a|expect: 200-ok|content-length: 5||";
    check(Head, PATH, &[unknown, "hello"], "refused 417, closed unread", "<417>");
}

#[test]
#[rustfmt::skip] // a row is a line
fn an_answer_before_the_end_of_the_upload() {
    use When::Head;
    let sized = |n: usize| format!("POST /1 HTTP/1.1|host: a|content-length: {n}||");
    let chunked = "POST /1 HTTP/1.1|host: a|transfer-encoding: chunked||";
    let old = "POST /1 HTTP/1.0|host: a|connection: keep-alive|content-length: 16||";
    let (sixteen, seventeen) = ("0123456789abcdef", "0123456789abcdefg");
    check_all(&[
        (Head, &[&sized(16), sixteen, GET], "POST /1, GET /2, idle", "<200 /1><200 /2>"),
        (Head, &[&sized(16), "0123"], "POST /1, discarding", "<200 /1>"),
        (Head, &[old, sixteen, GET], "POST /1, GET /2, idle", "<200 /1 keep-alive><200 /2>"),
        (Head, &[&sized(17), seventeen, GET], "POST /1, closed unread", "<200 /1 close>"),
        // The framing of what is thrown away has to be read, too, and counts.
        (Head, &[chunked, "8|01234567|0||", GET], "POST /1, GET /2, idle", "<200 /1><200 /2>"),
        (Head, &[chunked, "9|012345678|0||", GET], "POST /1, closed unread", "<200 /1>"),
        (Head, &[chunked, "4|0123|0|a: b||", GET], "POST /1, GET /2, idle", "<200 /1><200 /2>"),
        // A body that looks like a request is still a body.
        (Head, &[&sized(GET.replace('|', "  ").len()), GET], "POST /1, closed unread", "<200 /1 close>"),
        (End, &[&sized(GET.replace('|', "  ").len()), GET], &format!("POST /1, data {GET}, end, idle"), "<200 /1>"),
        // The answer is out: there is nothing left to say to what comes now.
        (Head, &[chunked, "zz|", GET], "POST /1, closed unread", "<200 /1>"),
        (Head, &[chunked, "1|xGET", GET], "POST /1, closed unread", "<200 /1>"),
        (Head, &[&sized(16), "0123", EOF], "POST /1, eof, closed", "<200 /1>"),
    ]);
    let leaves = "HTTP/1.1 200 OK|transfer-encoding: chunked||2|/1|0||";
    let second = "HTTP/1.1 200 OK|transfer-encoding: chunked||2|/2|0||";
    let kept = format!("{leaves}{second}");
    check(Head, STREAM, &[&sized(16), sixteen, GET], "POST /1, GET /2, idle", &kept);
    // Begun before the body had come, done with it.
    let events = "POST /1, data hello, end, GET /2, idle";
    check(Around, STREAM, &[&sized(5), "hello", GET], events, &kept);
}

#[test]
#[rustfmt::skip] // a row is a line
fn the_end_of_the_client_in_each_state() {
    use When::Head;
    let sized = "POST /1 HTTP/1.1|host: a|content-length: 5||";
    let chunked = "POST /1 HTTP/1.1|host: a|transfer-encoding: chunked||";
    let get = "GET /1 HTTP/1.1|host: a||";
    check_all(&[
        (Head, &[EOF], "eof, closed", ""),
        (Head, &["||", EOF], "eof, closed", ""),
        (Head, &["GET /1 HT", EOF], "eof cuts, closed", ""),
        (Head, &["GET /1 HTTP/1.1|host: a|", EOF], "eof cuts, closed", ""),
        (Head, &[get, EOF], "GET /1, eof, closed", "<200 /1>"),
        // A client that closes its sending side may still wait.
        (Later, &[get, EOF], "GET /1, eof, closed", "<200 /1 close>"),
        (Later, &[sized, "hello", EOF], "POST /1, data hello, end, eof, closed", "<200 /1 close>"),
        (End, &[sized, EOF], "POST /1, eof cuts, closed", ""),
        (End, &[sized, "hell", EOF], "POST /1, data hell, eof cuts, closed", ""),
        (Later, &[sized, "hell", EOF], "POST /1, data hell, eof cuts, closed", ""),
        (End, &[chunked, "5|hello", EOF], "POST /1, data hello, eof cuts, closed", ""),
        (End, &[chunked, "5|hello|", EOF], "POST /1, data hello, eof cuts, closed", ""),
        (End, &[chunked, "5|hello|0|", EOF], "POST /1, data hello, eof cuts, closed", ""),
        (Head, &["GET /1 HTTP/1.1|host: a|connection: close||", EOF], "GET /1, eof, closed", "<200 /1 close>"),
    ]);
    // What has begun cannot be completed, and must not look complete.
    let leaves = "HTTP/1.1 200 OK|transfer-encoding: chunked||";
    check(Around, STREAM, &[chunked, "5|hel", EOF], "POST /1, data hel, eof cuts, closed", leaves);
}

#[test]
#[rustfmt::skip] // a row is a line
fn heads_that_are_refused() {
    use When::Head;
    let long_target = format!("GET /{} HTTP/1.1|host: a||", "x".repeat(64));
    let longer_target = format!("GET /{}", "x".repeat(300));
    let long_head = format!("GET / HTTP/1.1|host: a|x: {}||", "y".repeat(240));
    let many_fields = format!("GET / HTTP/1.1|host: a|{}|", "x: y|".repeat(6));
    for (arrives, status) in [
        ("GET / HTTP/1.1||", 400),
        ("GET / HTTP/1.1|host: a|host: a||", 400),
        ("GET / HTTP/1.1|host: a, b||", 400),
        ("GET / HTTP/1.1\nhost: a||", 400),
        ("GET / HTTP/1.1|host: a|x: a\rb||", 400),
        ("GET / HTTP/1.1|host: a|x : y||", 400),
        ("GET / HTTP/1.1|host: a|x: y| z||", 400),
        ("GET /#x HTTP/1.1|host: a||", 400),
        ("nonsense||", 400),
        ("GET / HTTP/1.1|host: a|expect: x||", 417),
        ("GET / HTTP/2.0|host: a||", 505),
        ("POST / HTTP/1.1|host: a|transfer-encoding: gzip, chunked||", 501),
        (&long_target, 414),
        (&longer_target, 414),
        (&long_head, 431),
        (&many_fields, 431),
    ] {
        let events = format!("refused {status}, closed unread");
        check(Head, PATH, &[arrives, GET], &events, &format!("<{status}>"));
        let events = format!("GET /1, {events}");
        let leaves = format!("<200 /1><{status}>");
        check(Head, PATH, &["GET /1 HTTP/1.1|host: a||", arrives, GET], &events, &leaves);
    }
    // RFC 9110 §9.3.2: HEAD is never answered with a body. What follows HEAD is.
    let leaves = "HTTP/1.1 200 OK|content-length: 2||<400>";
    let arrives = ["HEAD /1 HTTP/1.1|host: a||", "GET / HTTP/1.1||"];
    check(Head, PATH, &arrives, "HEAD /1, refused 400, closed unread", leaves);
    let leaves = expand("<417>").replace("\r\n\r\nExpectation Failed", "\r\n\r\n");
    let arrives = ["HEAD /1 HTTP/1.1|host: a|expect: x||"];
    check(Head, PATH, &arrives, "refused 417, closed unread", &leaves);
}

#[test]
#[rustfmt::skip] // a row is a line
fn bodies_that_are_refused() {
    let sized = |n: u64| format!("POST /1 HTTP/1.1|host: a|content-length: {n}||");
    let chunked = "POST /1 HTTP/1.1|host: a|transfer-encoding: chunked||";
    let full = "01234567890123456789012345678901";
    let long_line = format!("5;{}|hello", "x".repeat(1100));
    for when in [End, Later, When::Head] {
        // Before a byte of it is read.
        let arrives = [&sized(33), full, "2", GET];
        check(when, PATH, &arrives, "POST /1, refused 413, closed unread", "<413>");
    }
    for when in [End, Later] {
        let events = format!("POST /1, data {full}, end, GET /2, idle");
        check(when, PATH, &[&sized(32), full, GET], &events, "<200 /1><200 /2>");
        for (body, data, status) in [
            (format!("20|{full}|1|2|0||"), full, 413),
            ("zz|".to_string(), "", 400),
            ("5 |hello|0||".to_string(), "", 400),
            ("-5|hello|0||".to_string(), "", 400),
            ("0x5|hello|0||".to_string(), "", 400),
            ("5;|hello|0||".to_string(), "", 400),
            ("5\nhello|0||".to_string(), "", 400),
            ("5;a\nhello|0||".to_string(), "", 400),
            ("10000000000000005|hello|0||".to_string(), "", 400),
            (long_line.clone(), "", 400),
            ("5|helloX|0||".to_string(), "hello", 400),
            ("5|hello\n0||".to_string(), "hello", 400),
            ("5|hello|0\n|".to_string(), "hello", 400),
            ("5|hello|0|content-length: 3||".to_string(), "hello", 400),
            ("5|hello|0|transfer-encoding: chunked||".to_string(), "hello", 400),
            ("5|hello|0|host: b||".to_string(), "hello", 400),
            ("5|hello|0|no colon||".to_string(), "hello", 400),
            ("5|hello|0|a: b\n|".to_string(), "hello", 400),
        ] {
            let data = if data.is_empty() { String::new() } else { format!("data {data}, ") };
            let events = format!("POST /1, {data}refused {status}, closed unread");
            check(when, PATH, &[chunked, &body, GET], &events, &format!("<{status}>"));
        }
    }
    // It is being answered: a second answer would be taken for a part of the first.
    let leaves = "HTTP/1.1 200 OK|transfer-encoding: chunked||";
    for (body, data) in [("zz|", ""), ("5|helloX", "data hello, "), ("0|host: b||", "")] {
        let events = format!("POST /1, {data}refused 400, closed unread");
        check(Around, STREAM, &[chunked, body, GET], &events, leaves);
    }
}

#[test]
#[rustfmt::skip] // a row is a line
fn two_readings_of_one_message_never_make_a_second_request() {
    use When::Head;
    // RFC 9112 §6.3, §11.2: what one server on the way takes for a body, another takes for a request.
    for framing in [
        "content-length: 5|transfer-encoding: chunked",
        "transfer-encoding: chunked|content-length: 5",
        "content-length: 0|transfer-encoding: chunked",
        "content-length: 5|content-length: 6",
        "content-length: 5|content-length: 5",
        "content-length: 5, 5",
        "content-length: +5",
        "content-length:\u{b}5",
        "content-length: 0x5",
        "content-length: 5_0",
        "content-length : 5",
        "content-length: ",
        "content-length: 18446744073709551621",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity",
        "transfer-encoding: \u{b}chunked",
        "transfer-encoding: chunked\u{b}",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding : chunked",
        " transfer-encoding: chunked",
        "transfer-encoding:| chunked",
        "transfer-encoding: chunked|transfer-encoding: identity",
        "transfer-encoding: chunked|transfer-encoding: chunked",
        "x: y\rtransfer-encoding: chunked",
        "x: y\ntransfer-encoding: chunked",
    ] {
        let request = format!("POST /1 HTTP/1.1|host: a|{framing}||0||{GET}");
        for when in [Head, End, Later] {
            check(when, PATH, &[&request], "refused 400, closed unread", "<400>");
        }
    }
    let old = format!("POST /1 HTTP/1.0|host: a|transfer-encoding: chunked||0||{GET}");
    check(Head, PATH, &[&old], "refused 400, closed unread", "<400>");
    // White space around a value is no part of it (RFC 9110 §5.5): this one has one reading.
    let spaced = "POST /1 HTTP/1.1|host: a|content-length: \t5 ||hello";
    check(Head, PATH, &[spaced, GET], "POST /1, GET /2, idle", "<200 /1><200 /2>");
    // GET may have a body, and its body is no request.
    let get = "GET /1 HTTP/1.1|host: a|content-length: 28||";
    check(Head, PATH, &[get, GET], "GET /1, closed unread", "<200 /1 close>");
}

#[test]
#[rustfmt::skip] // a row is a line
fn a_machine_that_drains_answers_once_more() {
    for request in ["GET /1 HTTP/1.1\r\nhost: a\r\n\r\n", "GET /1 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"] {
        for first_bytes in [0, 5, request.len()] {
            let mut connection = Connection::new(Later, PATH);
            connection.arrive(&request.as_bytes()[..first_bytes]);
            connection.machine.drain();
            assert!(!connection.machine.is_closed());
            connection.arrive(&request.as_bytes()[first_bytes..]);
            connection.answer();
            connection.arrive(GET.replace('|', "\r\n").as_bytes());
            assert_eq!(connection.events.len(), 1, "{:?}", connection.events);
            assert_eq!(connection.state(), "closed unread");
            assert!(connection.out.ends_with(b"connection: close\r\n\r\n/1"));
        }
    }
}
