//! Floor 0. Who is subscribed to what, and who gets what is published. No IO, no clock.
//!
//! A topic is segments between slashes: `rooms/7/chat`. A pattern is a topic in which a segment may be
//! `*`, any one segment, and the last may be `**`, any one or more:
//!
//! | pattern | `a` | `a/b` | `a/b/c` |
//! | --- | --- | --- | --- |
//! | `a/b` | | yes | |
//! | `a/*` | | yes | |
//! | `*/b/*` | | | yes |
//! | `a/**` | | yes | yes |
//! | `**` | yes | yes | yes |
//!
//! `*` and `**` are what MQTT writes `+` and `#`, with these differences: `a/**` does not match `a`
//! itself; no segment is empty, so no topic begins or ends with a slash; `$` means nothing; no control
//! characters at all; and whoever is subscribed through several patterns gets a publication once.
//!
//! ```text
//!  names ─► patterns ──first──► sub ⇄ sub ⇄ sub ──last     in the order they subscribed
//!  trie ───────┘                 │ sibling, a ring
//!  keys ─────────────────────► sub ─► sub ─► (the first)   all of one key's
//! ```
//!
//! A publication finds its patterns when it is accepted, waits in one queue, and is handed out in as many
//! calls as its subscribers take: [`Topics::deliver`] has one cursor, into the list of one pattern of the
//! publication in front. It needs no copy of that list: publications are numbered, and a subscription
//! knows the number of the first it may get. A place that another pattern or subscription has taken
//! meanwhile holds only such as came later.
//!
//! Invariants: a list is in the order of `since`; the cursor is at a subscription of the pattern it is in, or
//! at none; a pattern has a subscription; `keys` names exactly those who have one; `seen` is a part of `keys`.

use slab::Slab;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU64;
use std::rc::Rc;

/// Bytes of a topic or pattern.
pub const MAX_TOPIC: usize = 256;
/// Segments of a topic or pattern.
pub const MAX_SEGMENTS: usize = 16;

/// Wildcards of a pattern. Each may double the places where a topic is looked for.
pub const MAX_WILDCARDS: usize = 4;

/// How much of anything there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicLimits {
    /// Subscriptions of one key.
    pub subscriptions: usize,
    /// Publications that wait to be delivered.
    pub publications: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Why a topic, a subscription or a publication was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicError {
    /// It is longer than [`MAX_TOPIC`].
    TooLong,
    /// It has more than [`MAX_SEGMENTS`] segments.
    TooDeep,
    /// A segment of it, or all of it, is empty.
    EmptySegment,
    /// It has a control character.
    Control,
    /// A `*` where none may be: in the topic of a publication, beside other characters, or a `**` that
    /// is not the last segment.
    Wildcard,
    /// It has more than [`MAX_WILDCARDS`].
    TooWild,
    /// The key has as many subscriptions as it may have; this is how many.
    Subscriptions(usize),
    /// As many publications wait as may wait; this is how many.
    Publications(usize),
    /// The publications that wait would be more bytes than this.
    Bytes(usize),
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::TooLong => write!(f, "a topic has at most {MAX_TOPIC} bytes"),
            TopicError::TooDeep => write!(f, "a topic has at most {MAX_SEGMENTS} segments"),
            TopicError::EmptySegment => f.write_str("no segment of a topic is empty"),
            TopicError::Control => f.write_str("a topic has no control characters"),
            TopicError::Wildcard => f.write_str(
                "a wildcard is a whole segment of a pattern: * anywhere, ** as the last",
            ),
            TopicError::TooWild => {
                write!(f, "a pattern has at most {MAX_WILDCARDS} wildcards")
            }
            TopicError::Subscriptions(n) => write!(f, "{n} subscriptions are all one may have"),
            TopicError::Publications(n) => write!(f, "{n} publications wait already"),
            TopicError::Bytes(n) => write!(f, "more than {n} bytes of publications would wait"),
        }
    }
}

impl std::error::Error for TopicError {}

/// What subscribing or unsubscribing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing: it was so already.
    None,
    /// One subscriber more or less, of several.
    Subscriber,
    /// The pattern got its first subscriber, or lost its last.
    Edge,
}

/// Checks a pattern, and says whether it has a wildcard.
pub fn check_pattern(pattern: &str) -> Result<bool, TopicError> {
    if pattern.len() > MAX_TOPIC {
        return Err(TopicError::TooLong);
    }
    if pattern.chars().any(char::is_control) {
        return Err(TopicError::Control);
    }
    let mut wild = 0;
    let mut segments = pattern.split('/').enumerate().peekable();
    while let Some((n, segment)) = segments.next() {
        if n == MAX_SEGMENTS {
            return Err(TopicError::TooDeep);
        }
        match segment {
            "" => return Err(TopicError::EmptySegment),
            "*" => wild += 1,
            "**" if segments.peek().is_none() => wild += 1,
            _ if segment.contains('*') => return Err(TopicError::Wildcard),
            _ => {}
        }
    }
    if wild > MAX_WILDCARDS {
        return Err(TopicError::TooWild);
    }
    Ok(wild > 0)
}

/// Checks the topic of a publication: a pattern without wildcards.
pub fn check_topic(topic: &str) -> Result<(), TopicError> {
    if check_pattern(topic)? {
        return Err(TopicError::Wildcard);
    }
    Ok(())
}

/// No subscription.
const NIL: u32 = u32::MAX;

/// One key's subscription to one pattern. 32 bytes, for a key of 8.
#[derive(Debug)]
struct Subscription<K> {
    key: K,
    /// The number of the first publication it may get. Never 0, which gives the slab room for its mark.
    since: NonZeroU64,
    pattern: u32,
    /// Its neighbours in the pattern's list.
    next: u32,
    prev: u32,
    /// The next in the ring of its key.
    sibling: u32,
}

#[derive(Debug)]
struct Pattern {
    name: Rc<str>,
    first: u32,
    last: u32,
    count: u32,
}

#[derive(Debug)]
struct Publication<M> {
    message: M,
    patterns: SmallVec<[u32; 4]>,
    bytes: usize,
}

/// Where the delivery of the publication in front stands.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// Its patterns that are begun.
    begun: usize,
    /// Who is next in the last of them.
    next: u32,
}

const START: Cursor = Cursor {
    begun: 0,
    next: NIL,
};

/// Subscriptions of keys `K` to patterns, and publications `M` that wait for them.
///
/// ```
/// use loopwright::base::topics::{Change, TopicLimits, Topics};
/// let mut topics = Topics::new(TopicLimits { subscriptions: 16, publications: 64, bytes: 1 << 20 });
/// assert_eq!(topics.subscribe("rooms/*/chat", 1), Ok(Change::Edge));
/// assert_eq!(topics.subscribe("rooms/7/chat", 1), Ok(Change::Edge));
/// assert_eq!(topics.subscribe("rooms/7/chat", 2), Ok(Change::Subscriber));
/// assert_eq!(topics.publish("rooms/7/chat", "hello", 5), Ok(true));
///
/// let mut got = Vec::new();
/// while topics.deliver(1, &mut |key, text| got.push((key, *text))) == 1 {} // one step at a time
/// assert_eq!(got, [(1, "hello"), (2, "hello")]);
/// ```
#[derive(Debug)]
pub struct Topics<K, M> {
    limits: TopicLimits,
    subscriptions: Slab<Subscription<K>>,
    /// One of each key's subscriptions.
    keys: HashMap<K, u32>,
    patterns: Slab<Pattern>,
    /// Every pattern, by its text.
    names: HashMap<Rc<str>, u32>,
    /// Those with wildcards, by segment.
    trie: Trie,
    waiting: VecDeque<Publication<M>>,
    waiting_bytes: usize,
    /// The number of the next publication.
    number: NonZeroU64,
    cursor: Cursor,
    /// The last publication that several patterns found, of keys that have several subscriptions.
    seen: HashMap<K, NonZeroU64>,
    /// Where the patterns of a publication are gathered.
    found: Vec<u32>,
}

impl<K: Copy + Eq + Hash, M> Topics<K, M> {
    /// Nobody is subscribed, nothing waits.
    pub fn new(limits: TopicLimits) -> Topics<K, M> {
        Topics {
            limits,
            subscriptions: Slab::new(),
            keys: HashMap::new(),
            patterns: Slab::new(),
            names: HashMap::new(),
            trie: Trie::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            number: NonZeroU64::MIN,
            cursor: START,
            seen: HashMap::new(),
            found: Vec::new(),
        }
    }

    /// Subscribes `key`, for what is published from now on. Costs a look at each subscription the key has.
    ///
    /// # Errors
    /// The pattern is none, or the key has `limits.subscriptions`.
    pub fn subscribe(&mut self, pattern: &str, key: K) -> Result<Change, TopicError> {
        let wild = check_pattern(pattern)?;
        let known = self.names.get(pattern).copied();
        let mut own = 0;
        for at in self.ring(key) {
            if Some(self.subscriptions[at as usize].pattern) == known {
                return Ok(Change::None);
            }
            own += 1;
        }
        if own >= self.limits.subscriptions {
            return Err(TopicError::Subscriptions(self.limits.subscriptions));
        }
        let pattern = known.unwrap_or_else(|| self.name(pattern, wild));
        self.link(pattern, key);
        Ok(if known.is_some() {
            Change::Subscriber
        } else {
            Change::Edge
        })
    }

    /// Unsubscribes `key`. Costs a look at each subscription the key has.
    pub fn unsubscribe(&mut self, pattern: &str, key: K) -> Change {
        let (Some(&pattern), Some(&first)) = (self.names.get(pattern), self.keys.get(&key)) else {
            return Change::None;
        };
        let mut before = first;
        loop {
            let Subscription { sibling: at, .. } = self.subscriptions[before as usize];
            let Subscription {
                sibling: after,
                pattern: its,
                ..
            } = self.subscriptions[at as usize];
            if its == pattern {
                if at == before {
                    self.forget(key);
                } else {
                    self.subscriptions[before as usize].sibling = after;
                    self.keys.insert(key, before);
                }
                return match self.unlink(at) {
                    Some(_) => Change::Edge,
                    None => Change::Subscriber,
                };
            }
            if at == first {
                return Change::None;
            }
            before = at;
        }
    }

    /// Ends every subscription of `key`, and names each pattern that has lost its last subscriber with it.
    /// Costs as much as the key has subscriptions.
    pub fn remove(&mut self, key: K, mut last: impl FnMut(&str)) {
        let Some(first) = self.forget(key) else {
            return;
        };
        let mut at = first;
        loop {
            let next = self.subscriptions[at as usize].sibling;
            if let Some(name) = self.unlink(at) {
                last(&name);
            }
            if next == first {
                return;
            }
            at = next;
        }
    }

    /// How many are subscribed to exactly this pattern.
    pub fn subscribers(&self, pattern: &str) -> usize {
        self.pattern(pattern).map_or(0, |p| p.count as usize)
    }

    /// Who is subscribed to exactly this pattern, in the order they came.
    pub fn present(&self, pattern: &str) -> impl Iterator<Item = K> + '_ {
        let mut at = self.pattern(pattern).map_or(NIL, |p| p.first);
        std::iter::from_fn(move || {
            let subscription = self.subscriptions.get(at as usize)?;
            at = subscription.next;
            Some(subscription.key)
        })
    }

    /// What `key` is subscribed to, in no order.
    pub fn subscribed(&self, key: K) -> impl Iterator<Item = &str> {
        self.ring(key).map(|at| {
            let pattern = self.subscriptions[at as usize].pattern;
            &*self.patterns[pattern as usize].name
        })
    }

    /// Accepts a publication for whoever is subscribed now; `bytes` is what it counts. Says whether that is
    /// anybody: if not, it does not wait.
    ///
    /// # Errors
    /// The topic is none, or too much waits already.
    pub fn publish(&mut self, topic: &str, message: M, bytes: usize) -> Result<bool, TopicError> {
        check_topic(topic)?;
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        found.extend(self.names.get(topic));
        self.trie.find(ROOT, Some(topic), &mut found);
        let accepted = self.accept(&found, message, bytes);
        self.found = found;
        accepted
    }

    fn accept(&mut self, found: &[u32], message: M, bytes: usize) -> Result<bool, TopicError> {
        if found.is_empty() {
            return Ok(false);
        }
        if self.waiting.len() >= self.limits.publications {
            return Err(TopicError::Publications(self.limits.publications));
        }
        let bytes = bytes.saturating_add(size_of_val(found));
        if bytes > self.limits.bytes.saturating_sub(self.waiting_bytes) {
            return Err(TopicError::Bytes(self.limits.bytes));
        }
        self.waiting_bytes += bytes;
        self.number = self.number.saturating_add(1);
        self.waiting.push_back(Publication {
            message,
            patterns: found.into(),
            bytes,
        });
        Ok(true)
    }

    /// Other limits, from now on; what is over them already stays.
    pub fn set_limits(&mut self, limits: TopicLimits) {
        self.limits = limits;
    }

    /// How many publications wait, or are being delivered.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The publications that wait, or are being delivered, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &M> {
        self.waiting.iter().map(|publication| &publication.message)
    }

    /// Their bytes: what was said with them, and 4 for each pattern that matched.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Hands out what waits, oldest publication first, and goes on next time where it stopped. At most
    /// `budget` steps: a step is a delivery, or a subscription passed over because its key has the
    /// publication already, or a pattern whose subscribers have all left or come later. Returns the steps:
    /// less than `budget` means that nothing waits any more.
    pub fn deliver(&mut self, budget: usize, to: &mut impl FnMut(K, &M)) -> usize {
        let mut steps = 0;
        while let Some(publication) = self.waiting.front() {
            let Some(at) = self.subscriptions.get(self.cursor.next as usize) else {
                let Some(&pattern) = publication.patterns.get(self.cursor.begun) else {
                    self.waiting_bytes -= publication.bytes;
                    self.waiting.pop_front();
                    self.cursor = START;
                    continue;
                };
                if steps == budget {
                    break;
                }
                // Another pattern's place by now, or nobody's: what is there came later.
                let pattern = self.patterns.get(pattern as usize);
                self.cursor.begun += 1;
                self.cursor.next = pattern.map_or(NIL, |p| p.first);
                steps += usize::from(self.cursor.next == NIL);
                continue;
            };
            if steps == budget {
                break;
            }
            steps += 1;
            // Moved on first: were `to` to panic, it would not be called with the same again.
            let this = std::mem::replace(&mut self.cursor.next, at.next);
            let number = self.number.get() - self.waiting.len() as u64;
            if at.since.get() > number {
                // So did everybody behind it.
                self.cursor.next = NIL;
                continue;
            }
            if publication.patterns.len() > 1 {
                if self.seen.get(&at.key).is_some_and(|n| n.get() == number) {
                    continue;
                }
                if at.sibling != this {
                    // Not 0: it is no less than `since`.
                    self.seen
                        .extend(NonZeroU64::new(number).map(|n| (at.key, n)));
                }
            }
            to(at.key, &publication.message);
        }
        steps
    }

    fn pattern(&self, name: &str) -> Option<&Pattern> {
        self.patterns.get(*self.names.get(name)? as usize)
    }

    /// The subscriptions of a key.
    fn ring(&self, key: K) -> impl Iterator<Item = u32> + '_ {
        let first = self.keys.get(&key).copied();
        std::iter::successors(first, move |&at| {
            Some(self.subscriptions[at as usize].sibling).filter(|&next| Some(next) != first)
        })
    }

    fn forget(&mut self, key: K) -> Option<u32> {
        self.seen.remove(&key);
        self.keys.remove(&key)
    }

    /// A new pattern, without subscribers yet.
    fn name(&mut self, pattern: &str, wild: bool) -> u32 {
        let name: Rc<str> = pattern.into();
        // Fewer than 2^32: each has a subscription, and those are bounded by connections and limits.
        let id = self.patterns.insert(Pattern {
            name: name.clone(),
            first: NIL,
            last: NIL,
            count: 0,
        }) as u32;
        if wild {
            self.trie.insert(pattern, id);
        }
        self.names.insert(name, id);
        id
    }

    /// A new subscription, last in the pattern's list, second in the key's ring.
    fn link(&mut self, pattern: u32, key: K) {
        let index = self.subscriptions.vacant_key() as u32;
        let list = &mut self.patterns[pattern as usize];
        let prev = std::mem::replace(&mut list.last, index);
        list.count += 1;
        match prev {
            NIL => list.first = index,
            prev => self.subscriptions[prev as usize].next = index,
        }
        let head = *self.keys.entry(key).or_insert(index);
        let sibling = match self.subscriptions.get_mut(head as usize) {
            Some(head) => std::mem::replace(&mut head.sibling, index),
            None => index,
        };
        self.subscriptions.insert(Subscription {
            key,
            since: self.number,
            pattern,
            next: NIL,
            prev,
            sibling,
        });
    }

    /// Takes a subscription out of its pattern's list; the pattern's name, if it was the last.
    fn unlink(&mut self, index: u32) -> Option<Rc<str>> {
        let gone = self.subscriptions.remove(index as usize);
        if self.cursor.next == index {
            self.cursor.next = gone.next;
        }
        let list = &mut self.patterns[gone.pattern as usize];
        list.count -= 1;
        match gone.prev {
            NIL => list.first = gone.next,
            prev => self.subscriptions[prev as usize].next = gone.next,
        }
        match gone.next {
            NIL => list.last = gone.prev,
            next => self.subscriptions[next as usize].prev = gone.prev,
        }
        if list.count > 0 {
            return None;
        }
        let Pattern { name, .. } = self.patterns.remove(gone.pattern as usize);
        self.names.remove(&name);
        if name.contains('*') {
            self.trie.remove(ROOT, Some(&name));
        }
        Some(name)
    }
}

/// The patterns with wildcards, a node for each segment.
#[derive(Debug)]
struct Trie {
    nodes: Slab<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, u32>,
    /// The child that is `*`.
    any: Option<u32>,
    /// The pattern that ends here.
    here: Option<u32>,
    /// The pattern that goes on with `**`.
    rest: Option<u32>,
}

const ROOT: u32 = 0;

/// The first segment, and what follows its slash.
fn split(topic: &str) -> (&str, Option<&str>) {
    match topic.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (topic, None),
    }
}

impl Trie {
    fn new() -> Trie {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Trie { nodes }
    }

    fn insert(&mut self, pattern: &str, id: u32) {
        let mut at = ROOT;
        for segment in pattern.split('/') {
            let fresh = self.nodes.vacant_key() as u32;
            let node = &mut self.nodes[at as usize];
            at = match segment {
                "**" => return node.rest = Some(id),
                "*" => *node.any.get_or_insert(fresh),
                segment => *node.children.entry(segment.into()).or_insert(fresh),
            };
            if at == fresh {
                self.nodes.insert(Node::default());
            }
        }
        self.nodes[at as usize].here = Some(id);
    }

    /// Removes a pattern, and the nodes that only it needed. Says whether `at` was one, and is gone.
    /// As deep as a pattern has segments.
    fn remove(&mut self, at: u32, pattern: Option<&str>) -> bool {
        let node = &mut self.nodes[at as usize];
        match pattern.map(split) {
            None => node.here = None,
            Some(("**", _)) => node.rest = None,
            Some((segment, after)) => {
                let child = match segment {
                    "*" => node.any,
                    segment => node.children.get(segment).copied(),
                };
                if child.is_some_and(|child| self.remove(child, after)) {
                    let node = &mut self.nodes[at as usize];
                    match segment {
                        "*" => node.any = None,
                        segment => drop(node.children.remove(segment)),
                    }
                }
            }
        }
        let node = &self.nodes[at as usize];
        let needed = node.any.or(node.here).or(node.rest).is_some() || !node.children.is_empty();
        if needed || at == ROOT {
            return false;
        }
        self.nodes.remove(at as usize);
        true
    }

    /// Every pattern that matches, below `at`. As deep as a topic has segments, and each wildcard may double
    /// the nodes to look at: a topic of 16 segments looks at 9,401, if there are patterns for all of them.
    fn find(&self, at: u32, topic: Option<&str>, found: &mut Vec<u32>) {
        let node = &self.nodes[at as usize];
        let Some((segment, after)) = topic.map(split) else {
            return found.extend(node.here);
        };
        found.extend(node.rest);
        let same = node.children.get(segment).copied();
        for child in [same, node.any].into_iter().flatten() {
            self.find(child, after, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: TopicLimits = TopicLimits {
        subscriptions: 8,
        publications: 8,
        bytes: 1024,
    };

    type Table = Topics<u32, u32>;

    /// Everything that waits.
    fn drain(topics: &mut Table) -> Vec<(u32, u32)> {
        let mut got = Vec::new();
        topics.deliver(usize::MAX, &mut |key, message| got.push((key, *message)));
        got
    }

    impl<K: Copy + Eq + Hash + fmt::Debug, M> Topics<K, M> {
        /// Asserts the invariants of the file's head.
        fn check(&self) {
            let mut linked = 0;
            for (id, pattern) in &self.patterns {
                assert!(pattern.count > 0);
                assert_eq!(self.names[&pattern.name] as usize, id);
                let (mut prev, mut at, mut since) = (NIL, pattern.first, NonZeroU64::MIN);
                while at != NIL {
                    let it = &self.subscriptions[at as usize];
                    assert_eq!((it.pattern as usize, it.prev), (id, prev));
                    assert!(it.since >= since);
                    assert!(self.ring(it.key).any(|own| own == at));
                    (prev, at, since) = (at, it.next, it.since);
                    linked += 1;
                }
                assert_eq!(pattern.last, prev);
            }
            assert_eq!(linked, self.subscriptions.len());
            assert_eq!(self.names.len(), self.patterns.len());
            let rings = self.keys.keys().map(|key| self.ring(*key).count());
            assert_eq!(rings.sum::<usize>(), linked);
            assert!(self.seen.keys().all(|key| self.keys.contains_key(key)));
            let wild = self.patterns.iter().filter(|(_, p)| p.name.contains('*'));
            let ends = self.trie.nodes.iter();
            let ends =
                ends.map(|(_, n)| usize::from(n.here.is_some()) + usize::from(n.rest.is_some()));
            assert_eq!(ends.sum::<usize>(), wild.count());
            let bytes: usize = self.waiting.iter().map(|p| p.bytes).sum();
            assert_eq!(bytes, self.waiting_bytes);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(
            size_of::<Option<Subscription<crate::base::id::ConnId>>>(),
            32
        );
    }

    #[test]
    fn what_a_pattern_is_and_what_a_topic() {
        use TopicError::*;
        let long = "x".repeat(MAX_TOPIC);
        let deep = ["x"; MAX_SEGMENTS].join("/");
        for (text, pattern, topic) in [
            ("a", Ok(false), Ok(())),
            ("a/b c/ä/$SYS/+/#", Ok(false), Ok(())),
            ("*", Ok(true), Err(Wildcard)),
            ("**", Ok(true), Err(Wildcard)),
            ("a/*/b", Ok(true), Err(Wildcard)),
            ("*/**", Ok(true), Err(Wildcard)),
            ("a/**", Ok(true), Err(Wildcard)),
            ("**/a", Err(Wildcard), Err(Wildcard)),
            ("a/**/b", Err(Wildcard), Err(Wildcard)),
            ("a*", Err(Wildcard), Err(Wildcard)),
            ("a/***", Err(Wildcard), Err(Wildcard)),
            ("*/a/*/*/*", Ok(true), Err(Wildcard)),
            ("*/a/*/*/**", Ok(true), Err(Wildcard)),
            ("*/a/*/*/*/*", Err(TooWild), Err(TooWild)),
            ("*/a/*/*/*/**", Err(TooWild), Err(TooWild)),
            ("", Err(EmptySegment), Err(EmptySegment)),
            ("/a", Err(EmptySegment), Err(EmptySegment)),
            ("a/", Err(EmptySegment), Err(EmptySegment)),
            ("a//b", Err(EmptySegment), Err(EmptySegment)),
            ("a\0", Err(Control), Err(Control)),
            ("a\n/b", Err(Control), Err(Control)),
            ("a\u{85}", Err(Control), Err(Control)),
            (&long, Ok(false), Ok(())),
            (&format!("{long}x"), Err(TooLong), Err(TooLong)),
            (&deep, Ok(false), Ok(())),
            (&format!("{deep}/x"), Err(TooDeep), Err(TooDeep)),
            (&format!("{deep}/**"), Err(TooDeep), Err(TooDeep)),
        ] {
            assert_eq!(check_pattern(text), pattern, "{text:?}");
            assert_eq!(check_topic(text), topic, "{text:?}");
        }
    }

    #[test]
    fn what_matches_what() {
        let topics = [
            "a", "b", "a/b", "a/c", "a/b/c", "b/b/c", "a/b/c/d", "$SYS/a",
        ];
        for (pattern, matched) in [
            ("a", &["a"][..]),
            ("a/b", &["a/b"]),
            ("*", &["a", "b"]),
            ("a/*", &["a/b", "a/c"]),
            ("*/b", &["a/b"]),
            ("*/b/*", &["a/b/c", "b/b/c"]),
            // Not MQTT's: there, `a/#` is `a`, too, and `+/a` is not `$SYS/a`.
            ("a/**", &["a/b", "a/c", "a/b/c", "a/b/c/d"]),
            ("*/a", &["$SYS/a"]),
            ("a/*/**", &["a/b/c", "a/b/c/d"]),
            ("*/*/c", &["a/b/c", "b/b/c"]),
            ("**", &topics),
            ("c/**", &[]),
        ] {
            let mut table = Table::new(LIMITS);
            assert_eq!(table.subscribe(pattern, 1), Ok(Change::Edge));
            table.check();
            for topic in topics {
                let reached = table.publish(topic, 0, 1).unwrap();
                assert_eq!(reached, matched.contains(&topic), "{pattern} {topic}");
                assert_eq!(drain(&mut table).len(), usize::from(reached));
            }
            assert_eq!(table.unsubscribe(pattern, 1), Change::Edge);
            assert_eq!(table.trie.nodes.len(), 1, "{pattern} left nodes");
            table.check();
        }
    }

    #[test]
    fn edges_and_presence() {
        let mut table = Table::new(LIMITS);
        let steps = [
            ("t", 1, Change::Edge),
            ("t", 1, Change::None),
            ("t", 2, Change::Subscriber),
        ];
        for (pattern, key, change) in steps {
            assert_eq!(table.subscribe(pattern, key), Ok(change));
        }
        assert_eq!(table.subscribe("t/*", 2), Ok(Change::Edge));
        assert_eq!(table.subscribers("t"), 2);
        assert!(table.present("t").eq([1, 2]));
        assert_eq!(table.present("none").count(), 0);
        let mut own: Vec<_> = table.subscribed(2).collect();
        own.sort_unstable();
        assert_eq!(own, ["t", "t/*"]);
        assert_eq!(table.unsubscribe("t", 3), Change::None);
        assert_eq!(table.unsubscribe("t", 1), Change::Subscriber);
        let mut last = Vec::new();
        table.remove(2, |pattern| last.push(pattern.to_owned()));
        last.sort_unstable();
        assert_eq!(last, ["t", "t/*"]);
        table.remove(2, |_| unreachable!("it has none"));
        table.check();
        assert_eq!((table.subscribers("t"), table.keys.len()), (0, 0));
    }

    #[test]
    fn every_limit_has_its_error() {
        let (subscriptions, publications, bytes) = (2, 2, 10);
        let mut table = Table::new(TopicLimits {
            subscriptions,
            publications,
            bytes,
        });
        table.subscribe("a", 1).unwrap();
        table.subscribe("b", 1).unwrap();
        assert_eq!(table.subscribe("a", 1), Ok(Change::None));
        assert_eq!(table.subscribe("c", 1), Err(TopicError::Subscriptions(2)));
        assert_eq!(table.subscribers("c"), 0);
        // Four bytes more for the pattern that matched.
        assert_eq!(table.publish("a", 0, 7), Err(TopicError::Bytes(10)));
        assert_eq!(
            table.publish("a", 0, usize::MAX),
            Err(TopicError::Bytes(10))
        );
        assert_eq!(table.publish("a", 0, 1), Ok(true));
        assert_eq!(table.publish("a", 0, 1), Ok(true));
        assert_eq!(table.publish("a", 0, 0), Err(TopicError::Publications(2)));
        assert_eq!(table.publish("nobody", 0, 99), Ok(false));
        assert_eq!(table.waiting_bytes(), 10);
        assert_eq!(drain(&mut table).len(), 2);
        assert_eq!((table.waiting(), table.waiting_bytes()), (0, 0));
    }

    #[test]
    fn who_leaves_in_the_middle_takes_nobody_along() {
        for leaver in 1..=4 {
            for stop in 0..4 {
                let mut table = Table::new(LIMITS);
                for key in 1..=4 {
                    table.subscribe("t", key).unwrap();
                }
                table.publish("t", 9, 1).unwrap();
                let mut got = Vec::new();
                table.deliver(stop, &mut |key, _| got.push(key));
                table.remove(leaver, |_| unreachable!());
                table.subscribe("t", leaver).unwrap();
                table.subscribe("t", 5).unwrap();
                table.check();
                table.deliver(9, &mut |key, _| got.push(key));
                let stayed = |key: &u32| *key != leaver || *key as usize <= stop;
                assert!(got.iter().copied().eq((1..=4).filter(stayed)));
            }
        }
    }

    #[test]
    fn once_though_the_pattern_that_brought_it_is_gone() {
        let mut table = Table::new(LIMITS);
        table.subscribe("t", 1).unwrap();
        table.subscribe("*", 1).unwrap();
        table.publish("t", 9, 1).unwrap();
        assert_eq!(table.deliver(1, &mut |_, _| {}), 1);
        assert_eq!(table.unsubscribe("t", 1), Change::Edge);
        assert_eq!(drain(&mut table), []);
    }

    #[test]
    fn a_callback_that_panics_is_not_called_again_with_the_same() {
        let mut table = Table::new(LIMITS);
        table.subscribe("t", 1).unwrap();
        table.subscribe("t", 2).unwrap();
        table.publish("t", 9, 1).unwrap();
        let call =
            std::panic::AssertUnwindSafe(|| table.deliver(9, &mut |_, _| panic!("on purpose")));
        assert!(std::panic::catch_unwind(call).is_err());
        assert_eq!(drain(&mut table), [(2, 9)]);
    }

    /// The same, written down as it is said.
    #[derive(Default)]
    struct Model {
        subscriptions: Vec<(&'static str, u32, u32)>,
        waiting: VecDeque<(u32, &'static str, Vec<u32>)>,
        accepted: u32,
    }

    fn matches(pattern: &str, topic: &str) -> bool {
        let (pattern, topic): (Vec<_>, Vec<_>) =
            (pattern.split('/').collect(), topic.split('/').collect());
        let (pattern, rest) = match pattern.split_last() {
            Some((&"**", pattern)) => (pattern, true),
            _ => (&pattern[..], false),
        };
        let long_enough = match rest {
            true => topic.len() > pattern.len(),
            false => topic.len() == pattern.len(),
        };
        let same = |(p, t): (&&str, &&str)| *p == "*" || p == t;
        long_enough && pattern.iter().zip(&topic).all(same)
    }

    impl Model {
        fn own(&self, key: u32) -> usize {
            self.subscriptions.iter().filter(|s| s.1 == key).count()
        }
        fn count(&self, pattern: &str) -> usize {
            self.subscriptions.iter().filter(|s| s.0 == pattern).count()
        }
        /// Who is to get the publication, were it delivered now.
        fn audience(&self, number: u32, topic: &str) -> Vec<u32> {
            let mut keys: Vec<u32> = self
                .subscriptions
                .iter()
                .filter(|(pattern, _, since)| *since <= number && matches(pattern, topic))
                .map(|(_, key, _)| *key)
                .collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        }
    }

    const PATTERNS: [&str; 10] = [
        "a", "b", "a/a", "a/b", "*", "**", "a/*", "*/a", "a/**", "*/*/*",
    ];
    const NAMES: [&str; 6] = ["a", "b", "a/a", "a/b", "b/a", "a/b/a"];

    #[derive(Clone, Debug)]
    enum Step {
        Subscribe(&'static str, u32),
        Unsubscribe(&'static str, u32),
        Remove(u32),
        Publish(&'static str),
        Deliver(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pattern = || prop::sample::select(&PATTERNS[..]);
        let key = 0..5u32;
        prop_oneof![
            5 => (pattern(), key.clone()).prop_map(|(p, k)| Step::Subscribe(p, k)),
            3 => (pattern(), key.clone()).prop_map(|(p, k)| Step::Unsubscribe(p, k)),
            1 => key.prop_map(Step::Remove),
            3 => prop::sample::select(&NAMES[..]).prop_map(Step::Publish),
            4 => (0..5usize).prop_map(Step::Deliver),
        ]
    }

    const SMALL: TopicLimits = TopicLimits {
        subscriptions: 5,
        publications: 4,
        bytes: 1024,
    };

    fn run(table: &mut Table, model: &mut Model, step: Step) {
        match step {
            Step::Subscribe(pattern, key) => {
                let is = |s: &&(&str, u32, u32)| (s.0, s.1) == (pattern, key);
                let expected = if model.subscriptions.iter().any(|s| is(&s)) {
                    Ok(Change::None)
                } else if model.own(key) == SMALL.subscriptions {
                    Err(TopicError::Subscriptions(SMALL.subscriptions))
                } else {
                    let first = model.count(pattern) == 0;
                    model.subscriptions.push((pattern, key, model.accepted));
                    Ok(if first {
                        Change::Edge
                    } else {
                        Change::Subscriber
                    })
                };
                assert_eq!(table.subscribe(pattern, key), expected);
            }
            Step::Unsubscribe(pattern, key) => {
                let before = model.subscriptions.len();
                model.subscriptions.retain(|s| (s.0, s.1) != (pattern, key));
                let expected = match (model.subscriptions.len() < before, model.count(pattern)) {
                    (false, _) => Change::None,
                    (true, 0) => Change::Edge,
                    (true, _) => Change::Subscriber,
                };
                assert_eq!(table.unsubscribe(pattern, key), expected);
            }
            Step::Remove(key) => {
                let (mine, others): (Vec<_>, Vec<_>) =
                    model.subscriptions.iter().partition(|s| s.1 == key);
                model.subscriptions = others;
                let mine = mine.into_iter().map(|s| s.0);
                let mut expected: Vec<_> = mine.filter(|p| model.count(p) == 0).collect();
                let mut last = Vec::new();
                table.remove(key, |pattern| last.push(pattern.to_owned()));
                last.sort_unstable();
                expected.sort_unstable();
                assert_eq!(last, expected);
            }
            Step::Publish(topic) => {
                let expected = if model.audience(model.accepted, topic).is_empty() {
                    Ok(false)
                } else if model.waiting.len() == SMALL.publications {
                    Err(TopicError::Publications(SMALL.publications))
                } else {
                    model.waiting.push_back((model.accepted, topic, Vec::new()));
                    model.accepted += 1;
                    Ok(true)
                };
                assert_eq!(
                    table.publish(topic, model.accepted.wrapping_sub(1), 1),
                    expected
                );
            }
            Step::Deliver(budget) => deliver(table, model, budget),
        }
        table.check();
        for pattern in PATTERNS {
            assert_eq!(table.subscribers(pattern), model.count(pattern));
            let keys = model.subscriptions.iter().filter(|s| s.0 == pattern);
            assert!(table.present(pattern).eq(keys.map(|s| s.1)));
        }
    }

    fn deliver(table: &mut Table, model: &mut Model, budget: usize) {
        let mut got = Vec::new();
        let steps = table.deliver(budget, &mut |key, message| got.push((key, *message)));
        assert!(got.len() <= steps && steps <= budget);
        assert!(steps == budget || table.waiting() == 0, "stopped early");
        assert!(
            got.is_sorted_by_key(|(_, message)| *message),
            "out of order"
        );
        for (key, message) in got {
            let of = model.waiting.iter_mut().find(|w| w.0 == message);
            let (number, topic, delivered) = of.expect("it was over");
            assert!(!delivered.contains(&key), "twice");
            delivered.push(key);
            let (number, topic) = (*number, *topic);
            assert!(model.audience(number, topic).contains(&key), "not for them");
        }
        // What is over has reached everybody, and nothing of what comes behind has begun.
        while model.waiting.len() > table.waiting() {
            let (number, topic, delivered) = model.waiting.pop_front().unwrap();
            let audience = model.audience(number, topic);
            assert!(
                audience.iter().all(|key| delivered.contains(key)),
                "left out"
            );
        }
        assert!(model.waiting.iter().skip(1).all(|w| w.2.is_empty()));
    }

    proptest! {
        #[test]
        fn the_topics_are_the_model(steps in prop::collection::vec(step(), 0..150)) {
            let (mut table, mut model) = (Table::new(SMALL), Model::default());
            for step in steps {
                run(&mut table, &mut model, step);
            }
            run(&mut table, &mut model, Step::Deliver(usize::MAX));
            for key in 0..5 {
                run(&mut table, &mut model, Step::Remove(key));
            }
            prop_assert!(table.subscriptions.is_empty() && table.patterns.is_empty());
            prop_assert_eq!(table.trie.nodes.len(), 1);
            prop_assert!(table.keys.is_empty() && table.seen.is_empty());
        }
    }
}
