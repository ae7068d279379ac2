//! RESP, and the two machines on it: whole and in pieces of any size, the same; nothing larger than it may be.
//!
//! Input: the length of the pieces, who reads, then what arrives.

use super::take;
use loopwright::Instant;
use loopwright::proto::bus::link::{Limits, Link};
use loopwright::proto::redis::{Session, Settings, Verb};
use loopwright::proto::resp::{Bounds, Decoder, Value};

const BOUNDS: Bounds = Bounds {
    depth: 4,
    bulk: 64,
    line: 32,
    elements: 16,
    value: 1024,
};

pub(crate) fn run(mut data: &[u8]) {
    let step = usize::from(take(&mut data)).max(1);
    let who = take(&mut data);
    let read = match who % 4 {
        0 => values,
        1 => |data: &[u8], step: usize| session(data, step, &[]),
        // It has greeted us already, as either version.
        2 => |data: &[u8], step: usize| session(data, step, b"%0\r\n"),
        _ => link,
    };
    assert_eq!(read(data, step), read(data, usize::MAX), "by {step}");
}

/// What comes of it, in order, and how it ends.
fn values(data: &[u8], step: usize) -> Vec<String> {
    let (mut decoder, mut seen) = (Decoder::new(BOUNDS), Vec::new());
    for mut piece in data.chunks(step) {
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(value)) => {
                    let size = size(&value, 1);
                    assert!(size <= BOUNDS.value, "{size} bytes: {value:?}");
                    let mut again = Vec::new();
                    value.encode(&mut again);
                    let decoded = Decoder::new(Bounds::default()).decode(&mut &again[..]);
                    // NaN is not equal to itself.
                    assert_eq!(
                        format!("{decoded:?}"),
                        format!("{:?}", Ok::<_, ()>(Some(&value)))
                    );
                    seen.push(format!("{value:?}"));
                }
                Ok(None) => break assert!(piece.is_empty(), "more is wanted, with some left"),
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen.push(format!("between values: {}", decoder.is_between_values()));
    seen
}

/// At least what it takes of memory, for the part that the decoder answers for.
fn size(value: &Value, level: usize) -> usize {
    assert!(level <= BOUNDS.depth + 1, "{level} levels");
    let all = |values: &[Value]| -> usize {
        assert!(values.len() <= BOUNDS.elements);
        let each = values
            .iter()
            .map(|value| size_of::<Value>() + size(value, level + 1));
        each.sum()
    };
    let pairs = |entries: &[(Value, Value)]| -> usize {
        assert!(entries.len() * 2 <= BOUNDS.elements);
        let each = entries.iter().flat_map(|(key, value)| [key, value]);
        each.map(|value| size_of::<Value>() + size(value, level + 1))
            .sum()
    };
    match value {
        Value::Null | Value::Integer(_) | Value::Double(_) | Value::Boolean(_) => 0,
        Value::Simple(text) | Value::BigNumber(text) => text.len(),
        Value::Error(text) | Value::Bulk(text) | Value::Verbatim { text, .. } => text.len(),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => all(values),
        Value::Map(entries) => pairs(entries),
        Value::Attributed { attributes, value } => pairs(attributes) + size(value, level + 1),
    }
}

fn session(data: &[u8], step: usize, greeting: &[u8]) -> Vec<String> {
    let settings = Settings {
        bounds: BOUNDS,
        ..Settings::default()
    };
    let now = Instant::default();
    let (mut session, mut seen) = (Session::new(settings, now), Vec::new());
    for mut piece in [greeting].into_iter().chain(data.chunks(step)) {
        loop {
            match session.poll_event(&mut piece, now) {
                Ok(Some(event)) => {
                    seen.push(format!("{event:?}"));
                    // Something to be answered: each event leads to other questions.
                    match seen.len() % 3 {
                        0 => drop(session.command(&[b"GET", b"a"], now)),
                        1 => drop(session.subscription(Verb::Subscribe, "a".into(), now)),
                        _ => drop(session.subscription(Verb::PUnsubscribe, "b".into(), now)),
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen.push(format!("{} owed, {:?}", session.owed(), session.output()));
    seen
}

fn link(data: &[u8], step: usize) -> Vec<String> {
    let limits = Limits {
        patterns: 3,
        publication: 64,
        output: 256,
    };
    let (mut link, mut seen) = (Link::new(limits), Vec::new());
    for pattern in ["a", "a/*"] {
        let told = link.want(&pattern.parse().expect("a pattern"));
        told.expect("two of three");
    }
    for mut piece in data.chunks(step) {
        loop {
            match link.poll_event(&mut piece) {
                Ok(Some(event)) => seen.push(format!("{event:?} {:?}", link.publish("a/b", b"hi"))),
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
            assert!(link.theirs().len() <= limits.patterns);
            assert!(link.output().len() <= 2 * limits.output + 64);
        }
    }
    seen.push(format!("{} lost, {:?}", link.lost(), link.output()));
    seen
}
