//! Floor 4. What a channel remembers of one topic: the latest messages, bounded by number, bytes and age,
//! and how each is written for those who follow.
//!
//! A message is named by an id, `EPOCH-NUMBER`. The epoch stands for one process, the number for one
//! publication in it: numbers grow, and are not dense, as they are counted over all topics.
//!
//! Invariant: `before < number of the oldest ≤ … ≤ last`, and nothing that was published between `before` and
//! `last` is missing.

use crate::{Bytes, Encoded, Event, Instant, Message, Publication};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) age: Duration,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: u64,
    is_text: bool,
    payload: Bytes,
    at: Instant,
}

impl Entry {
    pub(super) fn new(publication: &Publication, at: Instant) -> Entry {
        Entry {
            number: publication.number(),
            is_text: publication.message().as_text().is_some(),
            payload: publication.bytes(),
            at,
        }
    }

    fn cost(&self) -> usize {
        self.payload.len() + size_of::<Entry>()
    }

    /// As it was published.
    pub(super) fn message(&self) -> Message<'_> {
        match std::str::from_utf8(&self.payload) {
            Ok(text) if self.is_text => Message::Text(text),
            _ => Message::Binary(&self.payload),
        }
    }

    /// As a JSON object.
    pub(super) fn json(&self, epoch: &str) -> String {
        let mut out = String::with_capacity(self.payload.len() + 48);
        out.push_str("{\"id\":\"");
        out.push_str(&id(epoch, self.number));
        match self.message() {
            Message::Text(text) => {
                out.push_str("\",\"text\":\"");
                escape(&mut out, text);
            }
            Message::Binary(bytes) => {
                out.push_str("\",\"base64\":\"");
                STANDARD.encode_string(bytes, &mut out);
            }
        }
        out.push_str("\"}");
        out
    }

    /// As a server-sent event. What is binary is called so, and written in base64.
    pub(super) fn event(&self, epoch: &str) -> Encoded {
        let event = match self.message() {
            Message::Text(text) => Event::new(text),
            Message::Binary(bytes) => Event::new(STANDARD.encode(bytes)).name("binary"),
        };
        event.id(id(epoch, self.number)).encode()
    }
}

/// What begins where something is missing, as JSON.
pub(super) fn reset_json(epoch: &str, before: u64) -> String {
    format!("{{\"id\":\"{}\",\"reset\":true}}", id(epoch, before))
}

/// The same as an event.
pub(super) fn reset_event(epoch: &str, before: u64) -> Encoded {
    let event = Event::new("").name("reset");
    event.id(id(epoch, before)).encode()
}

pub(super) fn id(epoch: &str, number: u64) -> String {
    format!("{epoch}-{number}")
}

/// RFC 8259 §7: what a string may not hold as it is.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // Writing to a String cannot fail.
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
}

/// From where on somebody wants to hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Since {
    /// What is published from now on.
    Now,
    /// All that is held.
    Beginning,
    /// What comes after this one.
    After(u64),
    /// What comes after one that this process has not numbered.
    Elsewhere,
}

impl Since {
    /// From what a client says; `latest` is the highest number there is.
    pub(super) fn read(said: Option<&str>, epoch: &str, latest: u64) -> Since {
        let Some(said) = said else {
            return Since::Now;
        };
        if said.is_empty() {
            return Since::Beginning;
        }
        let number = said
            .strip_prefix(epoch)
            .and_then(|rest| rest.strip_prefix('-'));
        match number.and_then(|number| number.parse().ok()) {
            Some(number) if number <= latest => Since::After(number),
            _ => Since::Elsewhere,
        }
    }
}

/// Where somebody who joins begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Start {
    /// What comes after this one is theirs.
    pub(super) after: u64,
    /// Something between what they have and that is lost: they are told.
    pub(super) reset: bool,
}

#[derive(Debug)]
pub(super) struct Ring {
    held: VecDeque<Entry>,
    bytes: usize,
    /// Who has got this one has missed only what is held.
    before: u64,
    /// The latest that was published.
    last: u64,
}

impl Ring {
    /// Begins after the publication of this number.
    pub(super) fn new(before: u64) -> Ring {
        Ring {
            held: VecDeque::new(),
            bytes: 0,
            before,
            last: before,
        }
    }

    pub(super) fn push(&mut self, entry: Entry, bounds: Bounds) {
        self.last = entry.number;
        self.bytes += entry.cost();
        self.held.push_back(entry);
        while self.held.len() > bounds.messages || self.bytes > bounds.bytes {
            self.forget();
        }
    }

    /// Forgets what is too old.
    pub(super) fn expire(&mut self, now: Instant, age: Duration) {
        while self.held.front().is_some_and(|entry| entry.at + age <= now) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        if let Some(entry) = self.held.pop_front() {
            self.bytes -= entry.cost();
            self.before = entry.number;
        }
    }

    pub(super) fn start(&self, since: Since) -> Start {
        let (after, reset) = match since {
            Since::Now => (self.last, false),
            Since::After(number) if number >= self.before => (number, false),
            Since::Beginning => (self.before, false),
            Since::After(_) | Since::Elsewhere => (self.before, true),
        };
        Start { after, reset }
    }

    /// What is held of what comes after this one.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Entry> {
        let start = self.held.partition_point(|entry| entry.number <= number);
        self.held.range(start..)
    }

    pub(super) fn before(&self) -> u64 {
        self.before
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        messages: 3,
        bytes: 3 * (size_of::<Entry>() + 10),
        age: Duration::from_secs(60),
    };

    fn entry(number: u64, payload: &'static [u8], seconds: u64) -> Entry {
        Entry {
            number,
            is_text: true,
            payload: Bytes::from_static(payload),
            at: Instant::default() + Duration::from_secs(seconds),
        }
    }

    fn numbers(ring: &Ring, after: u64) -> Vec<u64> {
        ring.after(after).map(|entry| entry.number).collect()
    }

    #[test]
    fn each_bound_holds_on_both_sides() {
        let mut ring = Ring::new(7);
        for number in [8, 10, 13] {
            ring.push(entry(number, b"0123456789", number), BOUNDS);
        }
        assert_eq!((numbers(&ring, 7), ring.before()), (vec![8, 10, 13], 7));
        ring.push(entry(20, b"", 20), BOUNDS);
        assert_eq!((numbers(&ring, 7), ring.before()), (vec![10, 13, 20], 8));
        ring.push(entry(21, b"01234567890123456789", 21), BOUNDS);
        assert_eq!(numbers(&ring, 7), [13, 20, 21], "30 bytes are not too many");
        ring.push(entry(22, b"x", 22), BOUNDS);
        assert_eq!(numbers(&ring, 7), [20, 21, 22]);
        let late = |seconds| Instant::default() + Duration::from_secs(seconds);
        ring.expire(late(79), BOUNDS.age);
        assert_eq!(numbers(&ring, 0), [20, 21, 22]);
        ring.expire(late(80), BOUNDS.age);
        assert_eq!((numbers(&ring, 0), ring.before()), (vec![21, 22], 20));
        // Longer than all that is held: it is sent, and not remembered.
        ring.push(entry(30, &[b'x'; 1000], 30), BOUNDS);
        assert!(ring.is_empty());
        assert_eq!((ring.before(), ring.last()), (30, 30));
        ring.push(
            entry(31, b"", 31),
            Bounds {
                messages: 0,
                ..BOUNDS
            },
        );
        assert!(ring.is_empty() && ring.bytes == 0);
    }

    #[test]
    fn where_one_begins() {
        let mut ring = Ring::new(7);
        for number in [8, 10, 13, 20] {
            ring.push(entry(number, b"", 0), BOUNDS);
        }
        for (said, after, reset) in [
            (None, 20, false),
            (Some(""), 8, false),
            (Some("e-8"), 8, false),
            (Some("e-11"), 11, false),
            // Accepted, and not delivered yet.
            (Some("e-25"), 25, false),
            (Some("e-7"), 8, true),
            (Some("e-26"), 8, true),
            (Some("f-11"), 8, true),
            (Some("e11"), 8, true),
            (Some("e-"), 8, true),
            (Some("e-99999999999999999999"), 8, true),
            (Some("11"), 8, true),
        ] {
            let start = ring.start(Since::read(said, "e", 25));
            assert_eq!(start, Start { after, reset }, "{said:?}");
        }
    }

    #[test]
    fn as_it_is_written() {
        let mut entry = entry(5, "a\"\\\n\u{1}\u{7f}é\r\nb".as_bytes(), 0);
        let json = entry.json("e");
        assert_eq!(
            json,
            "{\"id\":\"e-5\",\"text\":\"a\\\"\\\\\\n\\u0001\\u007fé\\u000d\\nb\"}"
        );
        let event = entry.event("e");
        let wire = "data: a\"\\\ndata: \u{1}\u{7f}é\ndata: b\nid: e-5\n\n";
        assert_eq!(event.as_ref(), wire.as_bytes());
        entry.is_text = false;
        entry.payload = Bytes::from_static(&[0, 255, 1, 2]);
        assert_eq!(entry.json("e"), "{\"id\":\"e-5\",\"base64\":\"AP8BAg==\"}");
        let wire = "data: AP8BAg==\nevent: binary\nid: e-5\n\n";
        assert_eq!(entry.event("e").as_ref(), wire.as_bytes());
        assert_eq!(reset_json("e", 4), "{\"id\":\"e-4\",\"reset\":true}");
        let wire = b"data: \nevent: reset\nid: e-4\n\n";
        assert_eq!(reset_event("e", 4).as_ref(), wire);
    }
}
