//! Floor 1. Topics, patterns of topics, and the channels and globs that Redis knows them by.
//!
//! A topic is a text of segments, split by `/`. In a pattern, a segment `*` stands for any one segment, and `**`, as the last,
//! for one or more. Redis' `*` does not stop at a slash, so a pattern's glob lets more through than the pattern:
//! what arrives is to be asked about again ([`Channels::open`](super::Channels::open)).

use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::fmt;

/// What is wrong with a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternError {
    /// Longer than [`Pattern::MAX`].
    TooLong,
    /// Nothing.
    Empty,
    /// `*` within a segment.
    Partial,
    /// `**` before the last segment.
    NotLast,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::TooLong => write!(f, "longer than {} bytes", Pattern::MAX),
            PatternError::Empty => f.write_str("empty"),
            PatternError::Partial => f.write_str("`*` stands for a whole segment only"),
            PatternError::NotLast => f.write_str("`**` stands for the last segments only"),
        }
    }
}

impl std::error::Error for PatternError {}

/// A pattern of topics; one without stars is a topic.
///
/// ```
/// use loopwright::proto::bus::Pattern;
/// let pattern: Pattern = "rooms/*/says".parse().unwrap();
/// assert!(pattern.matches("rooms/7/says") && !pattern.matches("rooms/7/8/says"));
/// assert!("rooms/**".parse::<Pattern>().unwrap().matches("rooms/7/says"));
/// assert_eq!(pattern.channel("app:"), "app:rooms/*/says");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pattern(String);

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        if text.len() > Pattern::MAX {
            return Err(PatternError::TooLong);
        }
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut segments = text.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "*" => {}
                "**" if segments.peek().is_none() => {}
                "**" => return Err(PatternError::NotLast),
                _ if segment.contains('*') => return Err(PatternError::Partial),
                _ => {}
            }
        }
        Ok(Pattern(text.to_string()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// The longest, in bytes. Bounds the recursion of [`Wants`], too.
    pub const MAX: usize = 1024;

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a topic.
    pub fn is_topic(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether it stands for this topic.
    pub fn matches(&self, topic: &str) -> bool {
        let mut segments = topic.split('/');
        for wanted in self.0.split('/') {
            match (wanted, segments.next()) {
                ("**", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(segment)) if wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// The channel to subscribe to, or the glob to subscribe to as a pattern ([`Pattern::is_topic`]) that matches
    /// `prefix` with every topic that this matches, and more.
    pub fn channel(&self, prefix: &str) -> String {
        let mut glob = String::with_capacity(prefix.len() + self.0.len());
        if self.is_topic() {
            glob.push_str(prefix);
            glob.push_str(&self.0);
            return glob;
        }
        escape(prefix, &mut glob);
        for (at, segment) in self.0.split('/').enumerate() {
            if at > 0 {
                glob.push('/');
            }
            match segment {
                "*" | "**" => glob.push('*'),
                _ => escape(segment, &mut glob),
            }
        }
        glob
    }
}

fn escape(text: &str, glob: &mut String) {
    for c in text.chars() {
        if r"?[]\*".contains(c) {
            glob.push('\\');
        }
        glob.push(c);
    }
}

/// A set of patterns, as a tree of segments, so that asking takes no longer for more of them.
///
/// ```
/// use loopwright::proto::bus::Wants;
/// let mut wants = Wants::default();
/// assert!(wants.insert(&"a/*".parse().unwrap()));
/// assert!(wants.wants("a/b") && !wants.wants("a/b/c"));
/// assert!(wants.remove(&"a/*".parse().unwrap()) && !wants.wants("a/b"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wants {
    root: Node,
    len: usize,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Node {
    /// A pattern ends here.
    ends: bool,
    /// By segment; `*` and `**` are segments like others.
    next: BTreeMap<Box<str>, Node>,
}

impl Wants {
    /// How many patterns.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a pattern. `false`: it was there.
    pub fn insert(&mut self, pattern: &Pattern) -> bool {
        let mut node = &mut self.root;
        for segment in pattern.0.split('/') {
            node = node.next.entry(segment.into()).or_default();
        }
        let is_new = !std::mem::replace(&mut node.ends, true);
        self.len += usize::from(is_new);
        is_new
    }

    /// Takes a pattern away. `false`: it was not there.
    pub fn remove(&mut self, pattern: &Pattern) -> bool {
        let was_there = self.root.remove(&mut pattern.0.split('/'));
        self.len -= usize::from(was_there);
        was_there
    }

    /// Whether this very pattern is there.
    pub fn contains(&self, pattern: &Pattern) -> bool {
        let mut segments = pattern.0.split('/');
        let found = segments.try_fold(&self.root, |node, segment| node.next.get(segment));
        found.is_some_and(|node| node.ends)
    }

    /// Whether one of them stands for this topic.
    pub fn wants(&self, topic: &str) -> bool {
        self.root.find(topic, &mut Path::new())
    }

    /// The first of them, in an order of our own, that stands for this topic.
    pub fn first(&self, topic: &str) -> Option<Pattern> {
        let mut path = Path::new();
        let found = self.root.find(topic, &mut path);
        found.then(|| Pattern(path.join("/")))
    }
}

/// Segments of a pattern, from the root.
type Path<'a> = SmallVec<[&'a str; 8]>;

impl Node {
    fn remove<'a>(&mut self, segments: &mut impl Iterator<Item = &'a str>) -> bool {
        let Some(segment) = segments.next() else {
            return std::mem::take(&mut self.ends);
        };
        let Some(node) = self.next.get_mut(segment) else {
            return false;
        };
        let was_there = node.remove(segments);
        if !node.ends && node.next.is_empty() {
            self.next.remove(segment);
        }
        was_there
    }

    /// Leaves in `path` how it was found.
    fn find<'a>(&'a self, topic: &str, path: &mut Path<'a>) -> bool {
        let (segment, rest) = match topic.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (topic, None),
        };
        // `**` stands for the rest, and only ever ends a pattern.
        for (name, rest) in [("**", None), ("*", rest), (segment, rest)] {
            let Some((name, node)) = self.next.get_key_value(name) else {
                continue;
            };
            path.push(name);
            if rest.map_or(node.ends, |rest| node.find(rest, path)) {
                return true;
            }
            path.pop();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn patterns() {
        for (text, matching, others) in [
            ("a", &["a"][..], &["b", "a/", "a/b", "", "/a"][..]),
            ("a/*", &["a/b", "a/", "a/*"], &["a", "a/b/c", "b/b"]),
            ("*", &["a", "", "**"], &["a/b"]),
            ("*/b", &["a/b", "/b"], &["b", "a/a/b"]),
            ("a/*/c", &["a/b/c"], &["a/c", "a/b/b/c"]),
            ("a/**", &["a/b", "a/b/c", "a/"], &["a", "b/a"]),
            ("**", &["a", "a/b", ""], &[]),
            ("*/**", &["a/b", "a/b/c"], &["a"]),
            ("a?[b]\\", &["a?[b]\\"], &["axb\\"]),
        ] {
            let pattern = pattern(text);
            let mut wants = Wants::default();
            wants.insert(&pattern);
            for (topics, is_match) in [(matching, true), (others, false)] {
                for topic in topics {
                    assert_eq!(pattern.matches(topic), is_match, "{text} {topic}");
                    assert_eq!(wants.wants(topic), is_match, "{text} {topic}, as a tree");
                    let want = is_match.then(|| pattern.clone());
                    assert_eq!(wants.first(topic), want);
                }
            }
        }
        let long = "a".repeat(Pattern::MAX + 1);
        for (text, error) in [
            ("", PatternError::Empty),
            ("a*", PatternError::Partial),
            ("a/***", PatternError::Partial),
            ("**/a", PatternError::NotLast),
            (&long, PatternError::TooLong),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text}");
        }
    }

    #[test]
    fn channels_and_globs() {
        for (text, channel) in [
            ("a/b", "p?:a/b"),
            ("a?[b]\\", "p?:a?[b]\\"),
            ("a/*", r"p\?:a/*"),
            ("a?[b]\\/*/**", r"p\?:a\?\[b\]\\/*/*"),
        ] {
            assert_eq!(pattern(text).channel("p?:"), channel);
        }
    }

    /// Redis' `stringmatchlen`, for what our globs use of it.
    fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
        match (glob, text) {
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| glob_matches(rest, &text[at..])),
            ([b'\\', b, glob @ ..], [c, text @ ..]) => b == c && glob_matches(glob, text),
            ([b, glob @ ..], [c, text @ ..]) => b == c && glob_matches(glob, text),
            (glob, text) => glob.is_empty() && text.is_empty(),
        }
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        let segments = proptest::collection::vec("|[ab?\\\\\\]]|\\*", 1..4);
        (segments, any::<bool>()).prop_filter_map("a pattern", |(segments, rest)| {
            let text = segments.join("/") + if rest { "/**" } else { "" };
            text.parse().ok()
        })
    }

    proptest! {
        #[test]
        fn sets_are_their_members(
            patterns in proptest::collection::vec((any_pattern(), any::<bool>()), 0..12),
            topic in "[ab?*\\\\\\]/]{0,6}",
        ) {
            let (mut wants, mut naive) = (Wants::default(), std::collections::BTreeSet::new());
            for (pattern, comes) in &patterns {
                if *comes {
                    prop_assert_eq!(wants.insert(pattern), naive.insert(pattern.clone()));
                } else {
                    prop_assert_eq!(wants.remove(pattern), naive.remove(pattern));
                }
                prop_assert_eq!(wants.contains(pattern), *comes);
            }
            prop_assert_eq!(wants.len(), naive.len());
            let is_wanted = naive.iter().any(|pattern| pattern.matches(&topic));
            prop_assert_eq!(wants.wants(&topic), is_wanted);
            let first = wants.first(&topic);
            prop_assert_eq!(first.is_some(), is_wanted);
            if let Some(first) = first {
                prop_assert!(naive.contains(&first) && first.matches(&topic));
            }
            for pattern in &naive {
                wants.remove(pattern);
            }
            prop_assert_eq!(wants, Wants::default(), "something is left");
        }

        #[test]
        fn globs_let_no_topic_out(pattern in any_pattern(), topic in "[ab?*\\\\\\]/]{0,6}") {
            if pattern.matches(&topic) && !pattern.is_topic() {
                let (glob, channel) = (pattern.channel("x[*:"), format!("x[*:{topic}"));
                prop_assert!(glob_matches(glob.as_bytes(), channel.as_bytes()), "{}", glob);
            }
        }
    }
}
