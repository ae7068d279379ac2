//! Floor 1. A message bus between processes: what travels, over Redis or from worker to worker.
//!
//! ```text
//! mod      a publication, its envelope, its number        pattern  topics, patterns, sets of them
//! channels what we want, as subscriptions of Redis         link     two workers, each a small server to the other
//! away     reconnecting, and what waits meanwhile
//! ```
//! A process publishes to its own subscribers first, then stamps the publication ([`Stamps`]) and hands it to
//! Redis or to its links; what comes back with its own origin has been delivered already.
//!
//! Numbers count for each origin *and topic*: a process sees only the topics that it has subscribers for, so a
//! number for each origin alone would have gaps without any loss. [`Arrivals`] counts the gaps.

pub mod away;
pub mod channels;
pub mod link;
pub mod pattern;

pub use away::Outage;
pub use channels::Channels;
pub use link::Link;
pub use pattern::{Pattern, Wants};

use bytes::Bytes;
use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write;

/// What a payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// UTF-8, always.
    Text,
    /// Any bytes.
    Binary,
}

/// Who has published, and as which publication of that topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// A process; drawn when it starts.
    pub origin: u64,
    /// From 1 on, for each topic. 1 may come again: the origin has forgotten the topic in between.
    pub seq: u64,
}

/// Something published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Segments, split by `/`.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// What that is.
    pub kind: Kind,
    /// `None`: not published by one of us, but by whoever can write to Redis.
    pub stamp: Option<Stamp>,
}

/// What the first line of an envelope begins with, version included.
const MAGIC: &[u8] = b"lw1 ";
/// `lw1 binary 0123456789abcdef 18446744073709551615\n`
pub const MAX_ENVELOPE: usize = 49;

impl Publication {
    /// The payload in its envelope: a line that people can read, and the payload as it is. Without a stamp, the
    /// payload alone.
    ///
    /// ```
    /// use loopwright::proto::bus::{Kind, Publication, Stamp};
    /// let stamp = Some(Stamp { origin: 0xC0FFEE, seq: 7 });
    /// let publication = Publication { topic: "a/b".into(), payload: "hi".into(), kind: Kind::Text, stamp };
    /// let sealed = publication.seal();
    /// assert_eq!(sealed, b"lw1 text 0000000000c0ffee 7\nhi");
    /// assert_eq!(Publication::open("a/b".into(), sealed.into()), publication);
    /// ```
    pub fn seal(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_ENVELOPE + self.payload.len());
        if let Some(Stamp { origin, seq }) = self.stamp {
            let kind = match self.kind {
                Kind::Text => "text",
                Kind::Binary => "binary",
            };
            out.extend_from_slice(MAGIC);
            // Writing to a Vec cannot fail.
            let _ = writeln!(out, "{kind} {origin:016x} {seq}");
        }
        out.extend_from_slice(&self.payload);
        out
    }

    /// What was received. What is no envelope to the letter was published by somebody else, as it is: text if it
    /// is UTF-8.
    pub fn open(topic: String, sealed: Bytes) -> Publication {
        let (kind, stamp, payload) = match envelope(&sealed) {
            Some((kind, stamp, at)) => (kind, Some(stamp), sealed.slice(at..)),
            None => (kind_of(&sealed), None, sealed),
        };
        Publication {
            topic,
            payload,
            kind,
            stamp,
        }
    }

    /// What it counts for where it has to wait.
    pub fn size(&self) -> usize {
        size_of::<Publication>() + self.topic.len() + self.payload.len()
    }
}

fn kind_of(payload: &[u8]) -> Kind {
    match std::str::from_utf8(payload) {
        Ok(_) => Kind::Text,
        Err(_) => Kind::Binary,
    }
}

/// Kind, stamp, and where the payload begins.
fn envelope(sealed: &[u8]) -> Option<(Kind, Stamp, usize)> {
    let line = sealed.get(..sealed.len().min(MAX_ENVELOPE))?;
    let end = memchr::memchr(b'\n', line)?;
    let text = std::str::from_utf8(line.get(MAGIC.len()..end)?).ok()?;
    let mut words = text.split(' ');
    let (kind, origin, seq) = (words.next()?, words.next()?, words.next()?);
    let kind = match kind {
        "text" => Kind::Text,
        "binary" => Kind::Binary,
        _ => return None,
    };
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let is_strict = origin.len() == 16
        && origin.bytes().all(is_hex)
        && seq.bytes().all(|b| b.is_ascii_digit())
        && !seq.starts_with('0');
    if !line.starts_with(MAGIC) || words.next().is_some() || !is_strict {
        return None;
    }
    // A text is UTF-8 to whoever is handed it, whatever its sender says.
    if kind == Kind::Text && kind_of(&sealed[end + 1..]) == Kind::Binary {
        return None;
    }
    let origin = u64::from_str_radix(origin, 16).ok()?;
    let seq = seq.parse().ok()?;
    Some((kind, Stamp { origin, seq }, end + 1))
}

/// The last few keys used, with what belongs to them: at least `limit`, at most twice as many. Two maps; what was
/// not used while the younger one has filled up goes with the older.
#[derive(Debug)]
struct Recent<K> {
    limit: usize,
    young: HashMap<K, u64>,
    old: HashMap<K, u64>,
}

impl<K: Hash + Eq> Recent<K> {
    fn new(limit: usize) -> Recent<K> {
        Recent {
            limit: limit.max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Sets it, and returns what it was.
    fn replace(&mut self, key: K, value: u64) -> Option<u64> {
        let before = match self.young.get_mut(&key) {
            Some(known) => return Some(std::mem::replace(known, value)),
            None => self.old.remove(&key),
        };
        if self.young.len() >= self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
        before
    }

    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<u64>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.young.get(key).or(self.old.get(key)).copied()
    }
}

/// Numbers what one process publishes.
///
/// ```
/// use loopwright::proto::bus::Stamps;
/// let mut stamps = Stamps::new(9, 1000);
/// assert_eq!(stamps.next("a").seq, 1);
/// assert_eq!(stamps.next("a").seq, 2);
/// assert_eq!(stamps.next("b").seq, 1);
/// ```
#[derive(Debug)]
pub struct Stamps {
    origin: u64,
    last: Recent<String>,
}

impl Stamps {
    /// Of this origin; `topics` are remembered at least. The numbers of one that was forgotten begin anew.
    pub fn new(origin: u64, topics: usize) -> Stamps {
        let last = Recent::new(topics);
        Stamps { origin, last }
    }

    /// Whose they are.
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// The next one of this topic.
    pub fn next(&mut self, topic: &str) -> Stamp {
        let seq = self
            .last
            .get(topic)
            .map_or(1, |last| last.saturating_add(1));
        self.last.replace(topic.to_string(), seq);
        let origin = self.origin;
        Stamp { origin, seq }
    }
}

/// What a publication's number says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Published by this process, and delivered already.
    Own,
    /// The same as the one before: it came through two subscriptions.
    Again,
    /// The next, the first that is seen of its topic, or one without a number.
    InOrder,
    /// So many before it have not come.
    AfterLoss(u64),
}

/// Looks at the numbers of what arrives, and counts.
///
/// ```
/// use loopwright::proto::bus::{Arrival, Arrivals, Stamp};
/// let mut arrivals = Arrivals::new(1, 1000);
/// let mut see = |seq| arrivals.see("a", Some(Stamp { origin: 2, seq }));
/// assert_eq!([see(4), see(5), see(5)], [Arrival::InOrder, Arrival::InOrder, Arrival::Again]);
/// assert_eq!(see(9), Arrival::AfterLoss(3));
/// assert_eq!(arrivals.lost(), 3);
/// ```
#[derive(Debug)]
pub struct Arrivals {
    own: u64,
    last: Recent<(u64, String)>,
    lost: u64,
}

impl Arrivals {
    /// Of the process whose origin is `own`; so many topics of origins are remembered at least. Losses of one that
    /// was forgotten are not seen.
    pub fn new(own: u64, topics: usize) -> Arrivals {
        Arrivals {
            own,
            last: Recent::new(topics),
            lost: 0,
        }
    }

    /// One has arrived.
    pub fn see(&mut self, topic: &str, stamp: Option<Stamp>) -> Arrival {
        let Some(Stamp { origin, seq }) = stamp else {
            return Arrival::InOrder;
        };
        if origin == self.own {
            return Arrival::Own;
        }
        match self.last.replace((origin, topic.to_string()), seq) {
            Some(last) if last == seq => Arrival::Again,
            // A lower number: the origin has begun anew.
            Some(last) if seq > last.saturating_add(1) => {
                let lost = seq - last - 1;
                self.lost = self.lost.saturating_add(lost);
                Arrival::AfterLoss(lost)
            }
            _ => Arrival::InOrder,
        }
    }

    /// Forgets the topics that are not wanted any more: what passes while nobody listens is not lost.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.last.young.retain(|(_, topic), _| wanted(topic));
        self.last.old.retain(|(_, topic), _| wanted(topic));
    }

    /// How many were lost, of all.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn envelopes_and_what_only_looks_like_one() {
        let open = |sealed: &[u8]| {
            let got = Publication::open("t".into(), Bytes::copy_from_slice(sealed));
            let stamp = got.stamp.map(|stamp| (stamp.origin, stamp.seq));
            (got.kind, stamp, got.payload.to_vec())
        };
        let head = "lw1 text 00000000000000ff 12\n";
        let whole = |text: &str| (Kind::Text, Some((255, 12)), text.as_bytes().to_vec());
        assert_eq!(open(head.as_bytes()), whole(""));
        assert_eq!(open(format!("{head}a\nb").as_bytes()), whole("a\nb"));
        let max = b"lw1 binary ffffffffffffffff 18446744073709551615\n\xff";
        assert_eq!(max.len() - 1, MAX_ENVELOPE);
        assert_eq!(
            open(max),
            (Kind::Binary, Some((u64::MAX, u64::MAX)), vec![255])
        );

        for foreign in [
            "",
            "hello",
            "{\"a\": 1}\n",
            "lw1 ",
            "lw1 text 00000000000000ff 12",
            "lw2 text 00000000000000ff 12\n",
            "lw1 data 00000000000000ff 12\n",
            "lw1 text 00000000000000FF 12\n",
            "lw1 text ff 12\n",
            "lw1 text +0000000000000ff 12\n",
            "lw1 text 00000000000000ff 0\n",
            "lw1 text 00000000000000ff 012\n",
            "lw1 text 00000000000000ff +12\n",
            "lw1 text 00000000000000ff 18446744073709551616\n",
            "lw1 text 00000000000000ff 12 \n",
            "lw1 text 00000000000000ff  12\n",
        ] {
            let want = (Kind::Text, None, foreign.as_bytes().to_vec());
            assert_eq!(open(foreign.as_bytes()), want, "{foreign:?}");
        }
        let lie = [head.as_bytes(), b"\xff"].concat();
        assert_eq!(open(&lie), (Kind::Binary, None, lie.clone()));
        assert_eq!(open(b"\xff"), (Kind::Binary, None, vec![255]));
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(
            payload in proptest::collection::vec(any::<u8>(), 0..50),
            origin: u64,
            seq in 1..=u64::MAX,
        ) {
            let kind = kind_of(&payload);
            let (topic, payload) = ("a/b".to_string(), Bytes::from(payload));
            let stamp = Some(Stamp { origin, seq });
            let publication = Publication { topic: topic.clone(), payload, kind, stamp };
            let sealed = Bytes::from(publication.seal());
            prop_assert!(sealed.len() <= MAX_ENVELOPE + publication.payload.len());
            prop_assert_eq!(Publication::open(topic, sealed), publication);
        }
    }

    #[test]
    fn numbers() {
        let mut arrivals = Arrivals::new(1, 2);
        use Arrival::*;
        for (topic, stamp, want) in [
            ("a", Some((1, 5)), Own),
            ("a", None, InOrder),
            ("a", Some((2, 5)), InOrder),
            ("a", Some((2, 5)), Again),
            ("a", Some((2, 6)), InOrder),
            // Another topic and another origin have numbers of their own.
            ("b", Some((2, 1)), InOrder),
            ("a", Some((3, 9)), InOrder),
            ("a", Some((2, 8)), AfterLoss(1)),
            // The origin has forgotten the topic.
            ("a", Some((2, 1)), InOrder),
            ("a", Some((2, 4)), AfterLoss(2)),
            ("a", Some((2, u64::MAX)), AfterLoss(u64::MAX - 5)),
            ("a", Some((2, 1)), InOrder),
        ] {
            let stamp = stamp.map(|(origin, seq)| Stamp { origin, seq });
            assert_eq!(arrivals.see(topic, stamp), want, "{topic} {stamp:?}");
        }
        assert_eq!(arrivals.lost(), u64::MAX - 5 + 3);
        // What passes while nobody listens is not lost.
        arrivals.retain(|topic| topic != "a");
        assert_eq!(
            arrivals.see("a", Some(Stamp { origin: 2, seq: 7 })),
            InOrder
        );
        assert_eq!(
            arrivals.see("b", Some(Stamp { origin: 2, seq: 3 })),
            AfterLoss(1)
        );
    }

    #[test]
    fn a_bounded_memory() {
        let mut stamps = Stamps::new(1, 10);
        for n in 0..1000 {
            assert_eq!(stamps.next(&n.to_string()).seq, 1);
            // What is used does not go.
            assert_eq!(stamps.next("often").seq, n + 1);
            assert!(stamps.last.young.len() + stamps.last.old.len() <= 20);
        }
        assert_eq!(stamps.next("990").seq, 1 + 1, "one of the last ten");
        assert_eq!(stamps.next("5").seq, 1, "forgotten");
    }
}
