//! A connection's machine with an app that notes what it hears, and answers.

use http::StatusCode;
use loopwright::base::clock::StockFields;
use loopwright::proto::h1::answer::FieldBlock;
use loopwright::proto::h1::body::Trailers;
use loopwright::proto::h1::head::{self, Head, HeadLimits};
use loopwright::proto::h1::server::{Bounds, Event, Extent, Server, Waits};
use loopwright::{Instant, Method};
use std::time::{Duration, SystemTime};

pub(crate) const WAITS: Waits = Waits {
    head: Duration::from_secs(10),
    body: Duration::from_secs(30),
    body_rate: 0,
    body_grace: Duration::from_secs(10),
    idle: Duration::from_secs(75),
};

/// Everything that a message of a few thousand bytes may be.
pub(crate) const WIDE: Bounds = Bounds {
    head: HeadLimits::NONE,
    discard: 1 << 20,
    waits: WAITS,
};

/// When the app answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// At the head; it never takes the body.
    Head,
    /// When the body has come.
    End,
    /// It begins at the head, and is done when the body has come.
    Around,
}

/// One request, as the app heard of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub(crate) method: Method,
    /// The head as it arrived.
    pub(crate) raw: Vec<u8>,
    /// Path, query, authority, fields.
    pub(crate) essence: String,
    pub(crate) body: Vec<u8>,
    /// The body came whole; with these trailers.
    pub(crate) end: Option<Vec<(String, Vec<u8>)>>,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) machine: Server,
    bounds: Bounds,
    body_limit: u64,
    when: When,
    pub(crate) heard: Vec<Heard>,
    pub(crate) refused: Option<u16>,
    pub(crate) kept: Vec<u8>,
    /// Bytes taken from the input while messages were read.
    pub(crate) taken: usize,
    pub(crate) out: Vec<u8>,
    stock: StockFields,
}

impl Connection {
    pub(crate) fn new(when: When, bounds: Bounds, body_limit: u64) -> Connection {
        let mut stock = StockFields::new(None);
        stock.refresh(Instant::default(), || SystemTime::UNIX_EPOCH);
        Connection {
            machine: Server::new(Instant::default()),
            bounds,
            body_limit,
            when,
            heard: Vec::new(),
            refused: None,
            kept: Vec::new(),
            taken: 0,
            out: Vec::new(),
            stock,
        }
    }

    pub(crate) fn arrive(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let kept = std::mem::take(&mut self.kept);
        let mut input = &kept[..];
        let mut polls = 0;
        loop {
            let before = input;
            let mut slots = head::slots();
            let now = Instant::default();
            let polled = self
                .machine
                .poll_event(&mut input, &mut slots, &self.bounds, now);
            assert!(
                before.ends_with(input),
                "the input is not what was left of it"
            );
            self.taken += before.len() - input.len();
            polls += 1;
            assert!(polls <= 4 * kept.len() + 16, "it goes round in circles");
            match polled {
                Ok(Event::Request(head)) => {
                    assert!(self.refused.is_none(), "a request after a refusal");
                    let taken = before.len() - input.len();
                    assert!(before[..taken].ends_with(head.raw), "a head from elsewhere");
                    self.on_request(&head, &mut input);
                }
                Ok(Event::Data(bytes)) => {
                    assert!(!bytes.is_empty(), "an empty piece");
                    self.on_data(bytes)
                }
                Ok(Event::End(trailers)) => {
                    self.on_end(&trailers);
                    self.on_whole();
                }
                Ok(Event::NeedInput | Event::Paused) => break,
                // Nobody here agrees on another protocol.
                Ok(Event::Switched) => unreachable!("no upgrade was answered"),
                Ok(Event::Closed) => {
                    assert!(input.is_empty(), "worthless input is kept");
                    break;
                }
                Err(error) => self.refuse(error),
            }
        }
        self.kept = input.to_vec();
    }

    fn refuse(&mut self, error: loopwright::proto::h1::error::Error) {
        assert!(self.refused.is_none(), "refused twice");
        let _ = error.to_string();
        self.refused = Some(error.status().as_u16());
        self.machine.refuse(error, &mut self.out, &self.stock);
        assert!(self.machine.is_closed(), "open after a refusal");
    }

    fn on_request(&mut self, head: &Head<'_>, input: &mut &[u8]) {
        let fields: Vec<_> = head.fields.iter().collect();
        let essence = format!(
            "{} {:?} {:?} {:?} {} {} {fields:?}",
            head.path, head.query, head.authority, head.framing, head.keep_alive, head.http_10
        );
        self.heard.push(Heard {
            method: head.method.clone(),
            raw: head.raw.to_vec(),
            essence,
            body: Vec::new(),
            end: None,
        });
        if let Err(error) = self.machine.limit_body(self.body_limit) {
            return self.refuse(error);
        }
        if self.when == When::Head {
            self.begin();
            return self.finish();
        }
        if self.when == When::Around {
            self.begin();
        }
        let before = input.len();
        let whole = match self.when {
            When::Around if self.machine.has_body_to_come() => None,
            _ => self.machine.take_whole_body(input),
        };
        self.taken += before - input.len();
        match whole {
            Some(body) => {
                self.on_data(body);
                self.on_end(&Trailers::default());
                self.on_whole();
            }
            None => self.machine.want_body(&mut self.out),
        }
    }

    fn last(&mut self) -> &mut Heard {
        self.heard.last_mut().expect("a request")
    }

    fn on_data(&mut self, bytes: &[u8]) {
        self.last().body.extend_from_slice(bytes);
    }

    fn on_end(&mut self, trailers: &Trailers<'_>) {
        let mut all = Vec::new();
        trailers.with(|fields| {
            all.extend(
                fields
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_vec())),
            );
        });
        assert!(self.last().end.replace(all).is_none(), "a body ends twice");
    }

    fn on_whole(&mut self) {
        match self.when {
            When::End => {
                self.begin();
                self.finish();
            }
            When::Around => self.finish(),
            When::Head => unreachable!("it does not take bodies"),
        }
    }

    fn begin(&mut self) {
        let extent = match self.when {
            When::Around => Extent::Open,
            _ => Extent::Whole(2),
        };
        let (status, fields) = (StatusCode::OK, FieldBlock::default());
        let discard = self.bounds.discard;
        self.machine
            .begin_answer(&mut self.out, status, &fields, &self.stock, extent, discard);
    }

    fn finish(&mut self) {
        let (n, after) = self.machine.frame_body(2, &mut self.out);
        self.out.extend_from_slice(&b"ok"[..n]);
        if n > 0 {
            self.out.extend_from_slice(after);
        }
        let (discard, now) = (self.bounds.discard, Instant::default());
        self.machine.end_answer(b"", &mut self.out, discard, now);
    }
}
