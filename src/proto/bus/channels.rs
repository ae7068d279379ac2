//! Floor 1. What this process wants, as subscriptions of one Redis connection.
//!
//! Redis sends a message once for each subscription that matches, and its globs match more than our patterns do. So each
//! message is taken only when it comes through the first of our patterns that stands for its topic.
//!
//! Invariant: `asked` counts, for each channel and glob, the patterns in `wants` that map to it: `a/*` and `a/**`
//! have the same glob.

use super::{Pattern, Publication, Wants};
use crate::proto::redis::Verb;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Patterns of ours, subscriptions of Redis.
///
/// ```
/// use loopwright::proto::bus::Channels;
/// use loopwright::proto::redis::Verb;
/// let mut channels = Channels::new("app:".into());
/// let said = channels.want(&"rooms/*".parse().unwrap());
/// assert_eq!(said, Some((Verb::PSubscribe, "app:rooms/*".into())));
/// let got = channels.open(Some(b"app:rooms/*"), b"app:rooms/7", "hello".into()).unwrap();
/// assert_eq!((got.topic.as_str(), &got.payload[..]), ("rooms/7", &b"hello"[..]));
/// assert_eq!(channels.open(Some(b"app:rooms/*"), b"app:rooms/7/8", "hello".into()), None);
/// ```
#[derive(Debug)]
pub struct Channels {
    prefix: String,
    wants: Wants,
    asked: BTreeMap<(IsTopic, String), usize>,
}

type IsTopic = bool;

impl Channels {
    /// `prefix` is before every topic in its channel's name.
    pub fn new(prefix: String) -> Channels {
        Channels {
            prefix,
            wants: Wants::default(),
            asked: BTreeMap::new(),
        }
    }

    /// What is wanted.
    pub fn wants(&self) -> &Wants {
        &self.wants
    }

    /// The channel to publish a topic on.
    pub fn channel(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// Wants what a pattern stands for. `Some`: what to tell Redis, if it is there; if not, [`Channels::all`] has
    /// it later.
    pub fn want(&mut self, pattern: &Pattern) -> Option<(Verb, String)> {
        if !self.wants.insert(pattern) {
            return None;
        }
        let name = pattern.channel(&self.prefix);
        let asked = self
            .asked
            .entry((pattern.is_topic(), name.clone()))
            .or_insert(0);
        *asked += 1;
        (*asked == 1).then_some((subscribe(pattern.is_topic()), name))
    }

    /// Wants it no longer.
    pub fn unwant(&mut self, pattern: &Pattern) -> Option<(Verb, String)> {
        if !self.wants.remove(pattern) {
            return None;
        }
        let key = (pattern.is_topic(), pattern.channel(&self.prefix));
        let asked = self.asked.get_mut(&key)?;
        *asked -= 1;
        if *asked > 0 {
            return None;
        }
        self.asked.remove(&key);
        let verb = match key.0 {
            true => Verb::Unsubscribe,
            false => Verb::PUnsubscribe,
        };
        Some((verb, key.1))
    }

    /// What to tell a Redis that knows nothing of us, on a new connection.
    pub fn all(&self) -> impl Iterator<Item = (Verb, &str)> {
        let asked = self.asked.keys();
        asked.map(|(is_topic, name)| (subscribe(*is_topic), name.as_str()))
    }

    /// A message of Redis: `pattern` and `channel` as it has them. `None`: not wanted, or taken through another
    /// subscription.
    pub fn open(
        &self,
        pattern: Option<&[u8]>,
        channel: &[u8],
        payload: Bytes,
    ) -> Option<Publication> {
        let topic = channel.strip_prefix(self.prefix.as_bytes())?;
        let topic = std::str::from_utf8(topic).ok()?;
        let first = self.wants.first(topic)?;
        let is_through = match pattern {
            None => first.is_topic(),
            Some(glob) => !first.is_topic() && first.channel(&self.prefix).as_bytes() == glob,
        };
        is_through.then(|| Publication::open(topic.to_string(), payload))
    }
}

fn subscribe(is_topic: IsTopic) -> Verb {
    match is_topic {
        true => Verb::Subscribe,
        false => Verb::PSubscribe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_subscription_for_each_channel_and_glob() {
        let mut channels = Channels::new("p:".into());
        let steps = [
            ("+a/b", "SUBSCRIBE p:a/b"),
            ("+a/b", ""),
            ("+a/*", "PSUBSCRIBE p:a/*"),
            ("+a/**", ""),
            ("-a/*", ""),
            ("-c", ""),
            ("+c", "SUBSCRIBE p:c"),
            ("-a/b", "UNSUBSCRIBE p:a/b"),
        ];
        for (step, want) in steps {
            let (change, text) = step.split_at(1);
            let got = match change {
                "+" => channels.want(&pattern(text)),
                _ => channels.unwant(&pattern(text)),
            };
            let got = got.map(|(verb, name)| format!("{} {name}", verb.command()));
            assert_eq!(got.unwrap_or_default(), want, "{step}");
        }
        let all: Vec<_> = channels.all().collect();
        assert_eq!(all, [(Verb::PSubscribe, "p:a/*"), (Verb::Subscribe, "p:c")]);
        let last = channels.unwant(&pattern("a/**"));
        assert_eq!(last, Some((Verb::PUnsubscribe, "p:a/*".into())));
    }

    #[test]
    fn each_message_once() {
        let mut channels = Channels::new("p:".into());
        for text in ["a/b", "a/*", "*/b", "a/**"] {
            channels.want(&pattern(text));
        }
        // As Redis sends it: through every channel and glob that matches.
        for (channel, through, times) in [
            ("p:a/b", &[None, Some("p:a/*"), Some("p:*/b")][..], 1),
            ("p:a/c", &[Some("p:a/*")], 1),
            ("p:a/c/b", &[Some("p:a/*"), Some("p:*/b")], 1),
            // The glob lets it through; no pattern of ours does.
            ("p:c/c/b", &[Some("p:*/b")], 0),
            ("q:a/b", &[None], 0),
        ] {
            let taken = through.iter().filter_map(|pattern| {
                let pattern = pattern.map(str::as_bytes);
                channels.open(pattern, channel.as_bytes(), "x".into())
            });
            assert_eq!(taken.count(), times, "{channel}");
        }
        assert_eq!(channels.open(None, b"p:a/\xff", "x".into()), None);
    }
}
