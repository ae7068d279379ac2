//! Floor 4. Ranges: RFC 9110 §14, in bytes.
//!
//! Invariant: what is selected lies within the file, does not overlap, and is less than all of it
//! unless it is one range.

use std::ops::Range;

/// So many ranges are read (§14.2: a server may ignore a field that asks for too many).
const MAX_ASKED: usize = 64;
/// So many are sent, overlapping ones counted as one.
const MAX_SENT: usize = 32;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Selection {
    /// The field is to be ignored: not of our syntax or unit, or as dear as the whole.
    Whole,
    /// Nothing of it exists: 416.
    Unsatisfiable,
    /// One part or several, in the order asked for.
    Parts(Vec<Range<u64>>),
}

/// What a `range` field's value selects of `len` bytes.
pub(super) fn select(value: &[u8], len: u64) -> Selection {
    let Some(specs) = specs(value) else {
        return Selection::Whole;
    };
    let mut asked = 0;
    let mut parts: Vec<Range<u64>> = Vec::new();
    for spec in specs {
        asked += 1;
        match resolve(spec, len) {
            _ if asked > MAX_ASKED => return Selection::Whole,
            None => return Selection::Whole,
            Some(Resolved::Nothing) => {}
            // §14.1.2: the last bytes of nothing are all of it, which no `content-range` can say.
            Some(Resolved::Part(part)) if part.is_empty() => return Selection::Whole,
            Some(Resolved::Part(part)) => add(&mut parts, part),
        }
    }
    let total: u64 = parts.iter().map(|part| part.end - part.start).sum();
    match parts.len() {
        0 if asked == 0 => Selection::Whole,
        0 => Selection::Unsatisfiable,
        1 => Selection::Parts(parts),
        n if n > MAX_SENT || total >= len => Selection::Whole,
        _ => Selection::Parts(parts),
    }
}

/// The members of `bytes=…`.
fn specs(value: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let (unit, set) = value.split_at_checked(b"bytes=".len())?;
    let members = set.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    unit.eq_ignore_ascii_case(b"bytes=")
        .then(|| members.filter(|member| !member.is_empty()))
}

enum Resolved {
    Nothing,
    Part(Range<u64>),
}

/// One of `a-b`, `a-`, `-n`, against the file; `None` if it is none of them.
fn resolve(spec: &[u8], len: u64) -> Option<Resolved> {
    let dash = spec.iter().position(|&b| b == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    let part = match (first, last) {
        ([], last) => {
            let suffix = number(last)?;
            if suffix == 0 {
                return Some(Resolved::Nothing);
            }
            return Some(Resolved::Part(len.saturating_sub(suffix)..len));
        }
        (first, []) => number(first)?..len,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(len)
        }
    };
    Some(if part.is_empty() {
        Resolved::Nothing
    } else {
        Resolved::Part(part)
    })
}

/// Digits, and nothing else. A number too big for us is past the end of any file.
fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let add = |n: u64, b: &u8| n.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    is_number.then(|| digits.iter().fold(0, add))
}

/// Adds a part, in one with those it overlaps, where the first of them was.
fn add(parts: &mut Vec<Range<u64>>, mut part: Range<u64>) {
    let mut place = parts.len();
    while let Some(n) = parts
        .iter()
        .position(|other| part.start < other.end && other.start < part.end)
    {
        let other = parts.remove(n);
        part = part.start.min(other.start)..part.end.max(other.end);
        place = place.min(n);
    }
    parts.insert(place, part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_of_ten_bytes() {
        let whole = || Selection::Whole;
        let none = || Selection::Unsatisfiable;
        let parts = |parts: &[(u64, u64)]| {
            Selection::Parts(parts.iter().map(|&(first, last)| first..last + 1).collect())
        };
        for (value, want) in [
            ("bytes=0-0", parts(&[(0, 0)])),
            ("bytes=0-9", parts(&[(0, 9)])),
            ("bytes=3-", parts(&[(3, 9)])),
            ("bytes=9-9", parts(&[(9, 9)])),
            ("bytes=8-100", parts(&[(8, 9)])),
            ("bytes=-1", parts(&[(9, 9)])),
            ("bytes=-10", parts(&[(0, 9)])),
            ("bytes=-11", parts(&[(0, 9)])),
            ("BYTES=1-2", parts(&[(1, 2)])),
            ("bytes=001-0002", parts(&[(1, 2)])),
            ("bytes=1-99999999999999999999999", parts(&[(1, 9)])),
            ("bytes=0-18446744073709551615", parts(&[(0, 9)])),
            ("bytes=-99999999999999999999999", parts(&[(0, 9)])),
            ("bytes=99999999999999999999999-", none()),
            ("bytes=10-", none()),
            ("bytes=10-20", none()),
            ("bytes=-0", none()),
            ("bytes=-0,10-", none()),
            ("bytes=0-1,5-6", parts(&[(0, 1), (5, 6)])),
            ("bytes=5-6,0-1", parts(&[(5, 6), (0, 1)])),
            ("bytes= 0-1 ,\t5-6 ", parts(&[(0, 1), (5, 6)])),
            ("bytes=,,0-1,,5-6,", parts(&[(0, 1), (5, 6)])),
            ("bytes=0-1,20-30", parts(&[(0, 1)])),
            ("bytes=0-3,2-5", parts(&[(0, 5)])),
            ("bytes=0-3,4-5", parts(&[(0, 3), (4, 5)])),
            ("bytes=8-9,0-1,4-5,1-4", parts(&[(8, 9), (0, 5)])),
            ("bytes=6-7,2-3,1-8", parts(&[(1, 8)])),
            ("bytes=0-,0-,0-", parts(&[(0, 9)])),
            ("bytes=0-4,5-9", whole()),
            ("bytes=5-9,0-4", whole()),
            ("bytes=2-1", whole()),
            ("bytes=0-1,2-1", whole()),
            ("bytes=", whole()),
            ("bytes=,", whole()),
            ("bytes=-", whole()),
            ("bytes=a-b", whole()),
            ("bytes=1", whole()),
            ("bytes=+1-2", whole()),
            ("bytes=1--2", whole()),
            ("bytes=--2", whole()),
            ("bytes=1 - 2", whole()),
            ("bytes =1-2", whole()),
            ("bytes 1-2", whole()),
            ("bytes", whole()),
            ("items=0-1", whole()),
            ("", whole()),
        ] {
            assert_eq!(select(value.as_bytes(), 10), want, "{value}");
        }
    }

    #[test]
    fn selections_of_nothing() {
        for (value, want) in [
            ("bytes=0-", Selection::Unsatisfiable),
            ("bytes=0-0", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=-5", Selection::Whole),
            ("bytes=0-,-5", Selection::Whole),
        ] {
            assert_eq!(select(value.as_bytes(), 0), want, "{value}");
        }
    }

    #[test]
    fn floods() {
        let set = |count: u64| {
            let specs: Vec<_> = (0..count)
                .map(|n| format!("{}-{}", n * 10, n * 10))
                .collect();
            format!("bytes={}", specs.join(","))
        };
        let parts = |value: &str| match select(value.as_bytes(), 1 << 40) {
            Selection::Parts(parts) => parts.len(),
            _ => 0,
        };
        assert_eq!(parts(&set(32)), 32);
        assert_eq!(parts(&set(33)), 0);
        assert_eq!(parts(&format!("bytes={}", "0-5,".repeat(64))), 1);
        assert_eq!(parts(&format!("bytes={}", "0-5,".repeat(65))), 0);
    }
}
