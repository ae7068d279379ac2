//! Floor 1. A stream between two workers, each a small publish/subscribe server to the other.
//!
//! The wire is RESP, both ways at once: `SUBSCRIBE topic`, `PSUBSCRIBE pattern` and their opposites are commands, one
//! name each; a confirmation (`subscribe`, the name, how many there are) and a publication (`message`, topic, envelope) are
//! pushes. Patterns are ours, not Redis' globs, and whoever publishes filters exactly.
//!
//! Invariants: `theirs` has at most `Limits::patterns`, and the peer's breach of that or any other limit ends the link;
//! `mine` keeps to the same, so that the peer has no reason to. A publication that finds no room is lost, and counted; changes
//! of patterns are never lost, so a peer that reads nothing for long enough ends the link. Nothing is kept alive:
//! the kernel says when a process at the other end is gone.

use super::pattern::PatternError;
use super::{MAX_ENVELOPE, Pattern, Publication, Wants};
use crate::proto::redis::Verb;
use crate::proto::resp::{self, Bounds, Decoder, Output, Value};
use bytes::Bytes;
use std::fmt;

/// Of a link; the same on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How many patterns a side may have.
    pub patterns: usize,
    /// Bytes of a publication.
    pub publication: usize,
    /// Bytes of publications that wait for the socket. Changes of patterns may take as much again.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            patterns: 16 * 1024,
            publication: 1024 * 1024,
            output: 4 * 1024 * 1024,
        }
    }
}

/// Why a link is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// What came is not RESP, or over the limits.
    Protocol(resp::Error),
    /// It is RESP, but nothing that a link says.
    Unexpected(&'static str),
    /// A pattern that is none.
    Pattern(PatternError),
    /// More patterns than [`Limits::patterns`].
    TooManyPatterns {
        /// Patterns allowed.
        limit: usize,
    },
    /// The peer does not read.
    Stuck {
        /// Bytes that may wait.
        limit: usize,
    },
}

impl From<resp::Error> for Error {
    fn from(error: resp::Error) -> Error {
        Error::Protocol(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Protocol(error) => error.fmt(f),
            Error::Unexpected(what) => write!(f, "the peer sends {what}"),
            Error::Pattern(error) => write!(f, "the peer's pattern is {error}"),
            Error::TooManyPatterns { limit } => write!(f, "more than {limit} patterns"),
            Error::Stuck { limit } => {
                write!(
                    f,
                    "more than {limit} bytes wait for a peer that does not read"
                )
            }
        }
    }
}

impl std::error::Error for Error {}

/// What the peer has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A publication that we want.
    Message(Publication),
    /// It has changed what it wants; [`Link::wants`] knows already.
    Changed {
        /// How.
        verb: Verb,
        /// What.
        pattern: Pattern,
    },
    /// It knows of a change of ours: what it publishes from here on is filtered so.
    Confirmed {
        /// How.
        verb: Verb,
        /// What.
        name: Bytes,
        /// How many patterns of ours it has.
        count: i64,
    },
}

/// What has become of a publication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is in the output.
    Queued,
    /// The peer has no subscriber for it.
    Unwanted,
    /// It is longer than [`Limits::publication`], or there is no room for it. Counted in [`Link::lost`].
    Lost,
}

/// One end.
///
/// ```
/// use loopwright::proto::bus::link::{Event, Fate, Limits, Link};
/// let (mut here, mut there) = (Link::new(Limits::default()), Link::new(Limits::default()));
/// here.want(&"a/*".parse().unwrap()).unwrap();
/// let mut input = here.output();
/// there.poll_event(&mut input).unwrap();
/// assert!(there.wants("a/b"));
/// assert_eq!(there.publish("a/b", b"hello"), Fate::Queued);
/// assert_eq!(there.publish("b", b"hello"), Fate::Unwanted);
/// ```
#[derive(Debug)]
pub struct Link {
    limits: Limits,
    decoder: Decoder,
    output: Output,
    mine: Wants,
    theirs: Wants,
    lost: u64,
    over: Option<Error>,
}

impl Link {
    /// On a stream that has just been made.
    pub fn new(limits: Limits) -> Link {
        let sealed = limits.publication.saturating_add(MAX_ENVELOPE);
        let bulk = sealed.max(Pattern::MAX);
        let bounds = Bounds {
            depth: 1,
            bulk,
            line: 64,
            elements: 3,
            value: bulk.saturating_add(2 * Pattern::MAX),
        };
        Link {
            limits,
            decoder: Decoder::new(bounds),
            output: Output::new(limits.output),
            mine: Wants::default(),
            theirs: Wants::default(),
            lost: 0,
            over: None,
        }
    }

    /// What is to be written.
    pub fn output(&self) -> &[u8] {
        self.output.waiting()
    }

    /// The first `n` bytes of the output have been written.
    pub fn sent(&mut self, n: usize) {
        self.output.sent(n);
    }

    /// Whether the peer has a subscriber for this topic.
    pub fn wants(&self, topic: &str) -> bool {
        self.theirs.wants(topic)
    }

    /// What the peer has been told that we want.
    pub fn mine(&self) -> &Wants {
        &self.mine
    }

    /// What the peer wants.
    pub fn theirs(&self) -> &Wants {
        &self.theirs
    }

    /// Publications that the peer wanted and was not sent.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Tells the peer what we have subscribers for. Nothing, if it knows.
    ///
    /// # Errors
    /// One pattern too many, which is not asked for and leaves the link as it is; or the link is over.
    pub fn want(&mut self, pattern: &Pattern) -> Result<(), Error> {
        let limit = self.limits.patterns;
        if self.mine.len() >= limit && !self.mine.contains(pattern) {
            return Err(Error::TooManyPatterns { limit });
        }
        let is_new = self.mine.insert(pattern);
        let verbs = [Verb::PSubscribe, Verb::Subscribe];
        self.tell(is_new, verbs, pattern)
    }

    /// Tells it that we have none any more.
    ///
    /// # Errors
    /// The link is over.
    pub fn unwant(&mut self, pattern: &Pattern) -> Result<(), Error> {
        let was_there = self.mine.remove(pattern);
        let verbs = [Verb::PUnsubscribe, Verb::Unsubscribe];
        self.tell(was_there, verbs, pattern)
    }

    fn tell(&mut self, changed: bool, verbs: [Verb; 2], pattern: &Pattern) -> Result<(), Error> {
        if let Some(error) = self.over {
            return Err(error);
        }
        if changed {
            let verb = verbs[usize::from(pattern.is_topic())];
            let words = [verb.command(), pattern.as_str()];
            resp::command(words, self.output.bytes_mut());
        }
        self.check_output()
    }

    /// Publishes to the peer, if it wants it. `sealed`: [`Publication::seal`], once for all links.
    pub fn publish(&mut self, topic: &str, sealed: &[u8]) -> Fate {
        if self.over.is_some() || !self.theirs.wants(topic) {
            return Fate::Unwanted;
        }
        let framing = 64;
        let room = self.output.room();
        let is_within = sealed.len() <= self.limits.publication.saturating_add(MAX_ENVELOPE);
        if !is_within
            || topic.len() > Pattern::MAX
            || sealed.len().saturating_add(topic.len() + framing) > room
        {
            self.lost += 1;
            return Fate::Lost;
        }
        let strings = [b"message", topic.as_bytes(), sealed];
        resp::push(strings, self.output.bytes_mut());
        Fate::Queued
    }

    /// Takes what the peer has sent from the front of `input`, up to the next event. `None`: all of it.
    ///
    /// # Errors
    /// The link is over; the same from then on.
    pub fn poll_event(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Error> {
        if let Some(error) = self.over {
            return Err(error);
        }
        let event = self.next_event(input);
        self.over = event.as_ref().err().copied();
        event
    }

    fn next_event(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Error> {
        while let Some(value) = self.decoder.decode(input)? {
            let event = match value {
                Value::Array(words) => match &words[..] {
                    [Value::Bulk(word), Value::Bulk(name)] => Some(self.on_command(word, name)?),
                    _ => return Err(Error::Unexpected("a command with other arguments")),
                },
                Value::Push(words) => match &words[..] {
                    [Value::Bulk(word), Value::Bulk(topic), Value::Bulk(sealed)]
                        if word == "message" =>
                    {
                        self.on_message(topic, sealed)?
                    }
                    [Value::Bulk(word), Value::Bulk(name), Value::Integer(count)] => {
                        let verb = Verb::named(word);
                        Some(Event::Confirmed {
                            verb: verb.ok_or(Error::Unexpected("an unknown confirmation"))?,
                            name: name.clone(),
                            count: *count,
                        })
                    }
                    _ => return Err(Error::Unexpected("an unknown push")),
                },
                _ => return Err(Error::Unexpected("neither a command nor a push")),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn on_message(&mut self, topic: &[u8], sealed: &Bytes) -> Result<Option<Event>, Error> {
        let topic = std::str::from_utf8(topic).map_err(|_| Error::Unexpected("a bad topic"))?;
        // It may have been on its way when we said that we do not want it any more.
        let is_wanted = self.mine.wants(topic);
        let open = || Publication::open(topic.to_string(), sealed.clone());
        Ok(is_wanted.then(|| Event::Message(open())))
    }

    fn on_command(&mut self, word: &[u8], name: &Bytes) -> Result<Event, Error> {
        let verb = Verb::named(word).ok_or(Error::Unexpected("an unknown command"))?;
        let text = std::str::from_utf8(name).map_err(|_| Error::Unexpected("a bad pattern"))?;
        let pattern: Pattern = text.parse().map_err(Error::Pattern)?;
        if pattern.is_topic() != matches!(verb, Verb::Subscribe | Verb::Unsubscribe) {
            return Err(Error::Unexpected(
                "a pattern for a topic, or a topic for a pattern",
            ));
        }
        match verb {
            Verb::Subscribe | Verb::PSubscribe => {
                self.theirs.insert(&pattern);
                let limit = self.limits.patterns;
                if self.theirs.len() > limit {
                    return Err(Error::TooManyPatterns { limit });
                }
            }
            Verb::Unsubscribe | Verb::PUnsubscribe => {
                self.theirs.remove(&pattern);
            }
        }
        let word = verb.command().to_ascii_lowercase();
        let count = i64::try_from(self.theirs.len()).unwrap_or(i64::MAX);
        let confirmation = vec![
            Value::Bulk(word.into()),
            Value::Bulk(name.clone()),
            Value::Integer(count),
        ];
        Value::Push(confirmation).encode(self.output.bytes_mut());
        self.check_output()?;
        Ok(Event::Changed { verb, pattern })
    }

    fn check_output(&mut self) -> Result<(), Error> {
        let limit = self.limits.output.saturating_mul(2);
        if self.output.waiting().len() > limit {
            let error = Error::Stuck { limit };
            self.over = Some(error);
            return Err(error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::resp::cuts;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    fn events(link: &mut Link, pieces: &[&[u8]]) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(event) = link.poll_event(&mut piece)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn pass(from: &mut Link, to: &mut Link) -> Vec<Event> {
        let bytes = from.output().to_vec();
        from.sent(bytes.len());
        events(to, &[&bytes]).expect("a sound peer")
    }

    #[test]
    fn two_workers() {
        let (mut here, mut there) = (Link::new(Limits::default()), Link::new(Limits::default()));
        for text in ["a", "b/*", "b/*", "c/**"] {
            here.want(&pattern(text)).expect("room");
        }
        let wire = here.output().to_vec();
        here.sent(wire.len());
        let changed = |verb, text| Event::Changed {
            verb,
            pattern: pattern(text),
        };
        let want = [
            changed(Verb::Subscribe, "a"),
            changed(Verb::PSubscribe, "b/*"),
            changed(Verb::PSubscribe, "c/**"),
        ];
        for pieces in cuts(&wire) {
            there = Link::new(Limits::default());
            assert_eq!(events(&mut there, &pieces).as_deref(), Ok(&want[..]));
        }
        let counts = pass(&mut there, &mut here)
            .into_iter()
            .map(|event| match event {
                Event::Confirmed { count, .. } => count,
                other => panic!("{other:?}"),
            });
        assert_eq!(counts.collect::<Vec<_>>(), [1, 2, 3]);

        // Exactly what it wants, and not the other way round.
        for (topic, fate) in [
            ("a", Fate::Queued),
            ("b/1", Fate::Queued),
            ("b/1/2", Fate::Unwanted),
            ("c/1/2", Fate::Queued),
            ("d", Fate::Unwanted),
        ] {
            assert_eq!(
                there.publish(topic, b"lw1 text 000000000000000a 1\nhi"),
                fate,
                "{topic}"
            );
            assert_eq!(here.publish(topic, b"hi"), Fate::Unwanted);
        }
        here.unwant(&pattern("b/*")).expect("a link");
        here.unwant(&pattern("b/*")).expect("a link");
        // One of b/1 is on its way.
        let got = pass(&mut there, &mut here)
            .into_iter()
            .map(|event| match event {
                Event::Message(publication) => {
                    (publication.topic, publication.stamp.map(|s| s.seq))
                }
                other => panic!("{other:?}"),
            });
        assert_eq!(
            got.collect::<Vec<_>>(),
            [("a".into(), Some(1)), ("c/1/2".into(), Some(1))]
        );
        assert_eq!(
            pass(&mut here, &mut there),
            [changed(Verb::PUnsubscribe, "b/*")]
        );
        assert!(!there.wants("b/1") && there.wants("a"));
        assert_eq!((here.lost(), there.lost()), (0, 0));
    }

    #[test]
    fn what_a_peer_may_not_say() {
        let limits = Limits {
            patterns: 1,
            publication: 10,
            output: 1000,
        };
        let long = format!("$1025\r\n{}\r\n", "a".repeat(1025));
        for (input, error) in [
            ("+OK~", Error::Unexpected("neither a command nor a push")),
            (
                "*1~$4~PING~",
                Error::Unexpected("a command with other arguments"),
            ),
            (
                "*2~$9~SUBSCRIBE~+a~",
                Error::Unexpected("a command with other arguments"),
            ),
            ("*2~$3~GET~$1~a~", Error::Unexpected("an unknown command")),
            ("*2~$9~SUBSCRIBE~$1~*~", {
                Error::Unexpected("a pattern for a topic, or a topic for a pattern")
            }),
            ("*2~$10~PSUBSCRIBE~$1~a~", {
                Error::Unexpected("a pattern for a topic, or a topic for a pattern")
            }),
            ("*2~$9~SUBSCRIBE~$1~\u{1}~*2~$9~SUBSCRIBE~$1~b~", {
                Error::TooManyPatterns { limit: 1 }
            }),
            (
                "*2~$10~PSUBSCRIBE~$2~a*~",
                Error::Pattern(PatternError::Partial),
            ),
            (
                "*2~$10~PSUBSCRIBE~$0~~",
                Error::Pattern(PatternError::Empty),
            ),
            (
                ">3~$7~message~$1~a~:1~",
                Error::Unexpected("an unknown confirmation"),
            ),
            (">1~+x~", Error::Unexpected("an unknown push")),
            (
                "*4~",
                Error::Protocol(resp::Error::TooManyElements { count: 4, limit: 3 }),
            ),
            ("*1~*1~", Error::Protocol(resp::Error::TooDeep { limit: 1 })),
            (
                &long,
                Error::Protocol(resp::Error::BulkTooLong {
                    size: 1025,
                    limit: 1024,
                }),
            ),
        ] {
            let input = input.replace('~', "\r\n");
            let input = if input.starts_with('$') {
                format!("*2\r\n$9\r\nSUBSCRIBE\r\n{input}")
            } else {
                input
            };
            for pieces in cuts(input.as_bytes()) {
                let mut link = Link::new(limits);
                assert_eq!(events(&mut link, &pieces), Err(error), "{input:?}");
                assert_eq!(link.poll_event(&mut &b""[..]), Err(error));
                assert_eq!(link.want(&pattern("a")), Err(error));
                assert_eq!(link.publish("b", b"hi"), Fate::Unwanted);
            }
        }
        let mut link = Link::new(limits);
        let not_utf8 = b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\n\xff\r\n";
        let error = Error::Unexpected("a bad pattern");
        assert_eq!(events(&mut link, &[not_utf8]), Err(error));
    }

    #[test]
    fn a_peer_that_does_not_read() {
        let limits = Limits {
            patterns: 100,
            publication: 300,
            output: 1000,
        };
        let mut link = Link::new(limits);
        let wish = b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n";
        events(&mut link, &[wish]).expect("a wish");
        link.sent(link.output().len());
        let fates: Vec<Fate> = (0..5).map(|_| link.publish("a", &[b'x'; 300])).collect();
        use Fate::{Lost, Queued};
        assert_eq!(fates, [Queued, Queued, Lost, Lost, Lost]);
        assert_eq!(link.lost(), 3);
        assert_eq!(link.publish("a", &[b'x'; 300 + MAX_ENVELOPE + 1]), Lost);
        // It goes on asking, and reads none of the confirmations.
        let asked = (0..1000).find_map(|_| events(&mut link, &[wish]).err());
        assert_eq!(asked, Some(Error::Stuck { limit: 2000 }));
        assert!(link.output().len() < 2100);

        // Our own changes count, too, and our own patterns have the peer's limit.
        let mut link = Link::new(limits);
        for n in 0..100 {
            if n % 10 == 0 {
                link.sent(link.output().len());
            }
            link.want(&pattern(&n.to_string())).expect("room");
        }
        let one_more = Err(Error::TooManyPatterns { limit: 100 });
        assert_eq!(link.want(&pattern("more")), one_more);
        link.want(&pattern("1")).expect("it is there");
        let told = (0..1000).find_map(|_| {
            link.unwant(&pattern("1"))
                .err()
                .or(link.want(&pattern("1")).err())
        });
        assert_eq!(told, Some(Error::Stuck { limit: 2000 }));
    }
}
