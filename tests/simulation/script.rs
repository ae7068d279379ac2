//! What a client means to do: its requests, as bytes, and the steps in which it sends them.

use crate::reader::Asked;
use crate::site::{self, Answer, Ending, KINDS, Kind, Number};
use fastrand::Rng;
use std::collections::VecDeque;
use std::time::Duration;

/// One step of a client.
#[derive(Debug)]
pub(crate) enum Step {
    /// In pieces, whenever.
    Send(Vec<u8>),
    /// Until it has this many final answers.
    Await(usize),
    /// Until it may send its body, or is answered without, or loses patience.
    AwaitLeave(usize),
    Sleep(Duration),
    /// Takes nothing from now on, or takes it again.
    Stall(bool),
    /// Closes its sending side.
    Finish,
    Reset,
}

/// A request, and what it should be answered with.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) kind: &'static Kind,
    pub(crate) path: String,
    pub(crate) number: usize,
    pub(crate) body: Vec<u8>,
    pub(crate) trailer: Option<String>,
    pub(crate) by_head: bool,
    pub by_http_10: bool,
    /// The client wants the connection to end with the answer.
    pub(crate) closes: bool,
    pub(crate) expects_leave: bool,
    pub(crate) bytes: Vec<u8>,
    head_len: usize,
}

static MALFORMED: Kind = Kind {
    name: "malformed",
    is_upload: false,
    number: Number::Delay,
    answer: Answer::Reason(400),
    ending: Ending::Always,
};

impl Request {
    /// What the framing of its answer depends on.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            by_head: self.by_head,
            by_http_10: self.by_http_10,
        }
    }

    /// The connection breaks in the middle of its answer. (A length that the body falls short of
    /// is no matter without a body.)
    pub(crate) fn is_cut(&self) -> bool {
        self.kind.answer == Answer::Cut && !(self.by_head && self.kind.name == "sized_short")
    }

    /// The server refuses it on sight.
    pub(crate) fn is_malformed(&self) -> bool {
        std::ptr::eq(self.kind, &MALFORMED)
    }

    fn malformed(rng: &mut Rng) -> Request {
        let long = "y".repeat(20_000);
        let texts = [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\n\n",
            "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello",
            "\x16\x03\x01\x02\r\n\r\n",
            &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
            &format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
        ];
        let bytes = texts[rng.usize(..texts.len())].as_bytes().to_vec();
        Request {
            kind: &MALFORMED,
            path: String::new(),
            number: 0,
            body: Vec::new(),
            trailer: None,
            by_head: false,
            by_http_10: false,
            closes: true,
            expects_leave: false,
            head_len: bytes.len(),
            bytes,
        }
    }

    fn new(rng: &mut Rng, tag: &str, most_bytes: usize) -> Request {
        let kind = &KINDS[rng.usize(..KINDS.len())];
        let number = match kind.number {
            Number::Bytes => size(rng, most_bytes),
            Number::Delay if one_in(rng, 20) => rng.usize(1000..100_000),
            // The timeouts of a tight plan: timers of the loop and of callbacks fall together.
            Number::Delay if one_in(rng, 3) => [20, 30, 40][rng.usize(..3)],
            Number::Delay => rng.usize(..40),
        };
        let mut request = Request {
            kind,
            path: format!("/{}/{tag}/{number}", kind.name),
            number,
            body: Vec::new(),
            trailer: None,
            by_head: !kind.is_upload && one_in(rng, 10),
            by_http_10: one_in(rng, 10),
            closes: false,
            expects_leave: false,
            bytes: Vec::new(),
            head_len: 0,
        };
        let asks = one_in(rng, 10);
        request.closes = asks != request.by_http_10;
        if kind.is_upload {
            let least = usize::from(kind.name == "panic_in_step");
            request.body = site::noise(&request.path, size(rng, most_bytes).max(least));
            request.expects_leave = !request.by_http_10 && one_in(rng, 6);
        }
        request.write(rng, tag, asks);
        request
    }

    fn write(&mut self, rng: &mut Rng, tag: &str, asks: bool) {
        let method = match (self.kind.is_upload, self.by_head) {
            (true, _) => "POST",
            (false, true) => "HEAD",
            (false, false) => "GET",
        };
        let version = if self.by_http_10 {
            "HTTP/1.0"
        } else {
            "HTTP/1.1"
        };
        let mut head = format!(
            "{method} {}?tag={tag} {version}\r\nhost: sim\r\nx-tag: {tag}\r\n",
            self.path
        );
        if asks {
            head += if self.by_http_10 {
                "connection: keep-alive\r\n"
            } else {
                "connection: close\r\n"
            };
        }
        if self.expects_leave {
            head += "expect: 100-continue\r\n";
        }
        let mut body = Vec::new();
        if self.kind.is_upload && !self.by_http_10 && rng.bool() {
            head += "transfer-encoding: chunked\r\n";
            body = self.chunked(rng);
        } else if self.kind.is_upload {
            head += &format!("content-length: {}\r\n", self.body.len());
            body.clone_from(&self.body);
        }
        head += "\r\n";
        self.head_len = head.len();
        self.bytes = head.into_bytes();
        self.bytes.append(&mut body);
    }

    fn chunked(&mut self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = &self.body[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(rng.usize(1..=rest.len()));
            let extension = if one_in(rng, 4) {
                ";a;b=\"c \\\" d\""
            } else {
                ""
            };
            bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
            rest = after;
        }
        bytes.extend_from_slice(b"0\r\n");
        if rng.bool() {
            let sum = format!("{:x}", self.body.len());
            bytes.extend_from_slice(format!("x-sum: {sum}\r\n").as_bytes());
            self.trailer = Some(sum);
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

pub(crate) fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}

/// Mostly small, sometimes as large as can be.
fn size(rng: &mut Rng, most: usize) -> usize {
    let most = match rng.u32(..10) {
        0 => most,
        1..4 => most.min(5000),
        4..9 => most.min(400),
        _ => 0,
    };
    rng.usize(..=most)
}

/// A client's requests and what it does with them.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) requests: Vec<Request>,
    pub(crate) steps: VecDeque<Step>,
    /// It sends on when the server has said that it listens no more.
    pub(crate) is_deaf: bool,
    /// It waits for leave to send its body as long as it takes.
    pub(crate) is_patient: bool,
    /// It will stop taking answers for good.
    pub(crate) stalls: bool,
}

impl Script {
    pub(crate) fn new(rng: &mut Rng, client: usize, most_bytes: usize) -> Script {
        let count = rng.usize(1..=6);
        let mut requests: Vec<_> = (0..count)
            .map(|n| Request::new(rng, &format!("{client}-{n}"), most_bytes))
            .collect();
        if one_in(rng, 12) {
            requests.push(Request::malformed(rng));
        }
        let mut steps = in_batches(rng, &requests);
        if one_in(rng, 4) {
            let at = rng.usize(..=steps.len());
            // Whoever waits for an answer takes it.
            let sends = steps[..at]
                .iter()
                .rev()
                .take_while(|step| matches!(step, Step::Send(_)))
                .count();
            steps.insert(at, Step::Stall(false));
            steps.insert(at, Step::Sleep(Duration::from_millis(rng.u64(1..40))));
            steps.insert(at - rng.usize(..=sends), Step::Stall(true));
        }
        let all = requests.len();
        match rng.u32(..100) {
            0..50 => steps.extend([Step::Await(all), Step::Finish]),
            50..65 => steps.extend([Step::Finish, Step::Await(all)]),
            65..75 => steps.push(Step::Await(all)),
            75..83 => {
                steps.truncate(rng.usize(..=steps.len()));
                cut_last(rng, &mut steps);
                steps.push(Step::Reset);
            }
            83..92 => {
                steps.truncate(rng.usize(1..=steps.len()));
                cut_last(rng, &mut steps);
                if rng.bool() {
                    steps.push(Step::Finish);
                }
            }
            _ => {
                steps.retain(|step| matches!(step, Step::Send(_) | Step::Sleep(_)));
                steps.insert(rng.usize(..=steps.len()), Step::Stall(true));
            }
        }
        let stalls = steps.iter().rev().find_map(|step| {
            if let Step::Stall(on) = step {
                Some(*on)
            } else {
                None
            }
        });
        Script {
            requests,
            steps: steps.into(),
            is_deaf: one_in(rng, 5),
            is_patient: !one_in(rng, 3),
            stalls: stalls == Some(true),
        }
    }
}

/// Some requests at once, some one by one; those that expect leave always alone.
fn in_batches(rng: &mut Rng, requests: &[Request]) -> Vec<Step> {
    let mut steps = Vec::new();
    let waits = rng.u32(1..5);
    let mut batch = Vec::new();
    for (n, request) in requests.iter().enumerate() {
        if request.expects_leave {
            if !batch.is_empty() {
                steps.push(Step::Send(std::mem::take(&mut batch)));
            }
            let (head, body) = request.bytes.split_at(request.head_len);
            steps.extend([
                Step::Await(n),
                Step::Send(head.to_vec()),
                Step::AwaitLeave(n + 1),
                Step::Send(body.to_vec()),
            ]);
            continue;
        }
        batch.extend_from_slice(&request.bytes);
        if one_in(rng, waits) {
            steps.extend([Step::Send(std::mem::take(&mut batch)), Step::Await(n + 1)]);
        }
    }
    if !batch.is_empty() {
        steps.push(Step::Send(batch));
    }
    steps
}

fn cut_last(rng: &mut Rng, steps: &mut [Step]) {
    if let Some(Step::Send(bytes)) = steps
        .iter_mut()
        .rev()
        .find(|step| matches!(step, Step::Send(_)))
    {
        bytes.truncate(rng.usize(..=bytes.len()));
    }
}
