//! Floor 4. Conditional requests: RFC 9110 §13, in the order of §13.2.2.
//!
//! ```text
//! if-match ─ or if-unmodified-since ─► 412
//! if-none-match ─ or if-modified-since ─► 304
//! if-range ─► whether `range` counts
//! ```

use crate::Fields;
use std::time::{Duration, SystemTime};

/// What tells one state of a representation from another.
#[derive(Clone, Copy)]
pub(super) struct Validators<'a> {
    /// A strong one, in quotes.
    pub(super) etag: &'a str,
    /// In whole seconds.
    pub(super) modified: SystemTime,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Proceed,
    NotModified,
    Failed,
}

/// What the preconditions of a GET or HEAD come to.
pub(super) fn evaluate(fields: Fields<'_>, current: Validators<'_>) -> Verdict {
    let etag = current.etag.as_bytes();
    if fields.get("if-match").is_some() {
        // §13.1.1: strong comparison, so a weak tag matches nothing.
        if !any_tag(fields, "if-match", |tag| tag == etag) {
            return Verdict::Failed;
        }
    } else if date(fields, "if-unmodified-since").is_some_and(|date| current.modified > date) {
        return Verdict::Failed;
    }
    if fields.get("if-none-match").is_some() {
        // §13.1.2: weak comparison.
        let is_same = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag) == etag;
        if any_tag(fields, "if-none-match", is_same) {
            return Verdict::NotModified;
        }
    } else if date(fields, "if-modified-since").is_some_and(|date| current.modified <= date) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// §13.1.5: whether a range is of what the client has: without `if-range`, or if its strong tag is
/// ours, or its date; and a date is strong if nothing can have changed twice in its second.
pub(super) fn range_applies(fields: Fields<'_>, current: Validators<'_>, now: SystemTime) -> bool {
    let Some(value) = fields.get("if-range") else {
        return true;
    };
    if value == current.etag.as_bytes() {
        return fields.get_all("if-range").count() == 1;
    }
    let is_strong = current.modified + Duration::from_secs(1) <= now;
    is_strong && date(fields, "if-range") == Some(current.modified)
}

/// Whether a list of entity tags, over however many lines, is `*` or has one that is `wanted`.
fn any_tag(fields: Fields<'_>, name: &str, wanted: impl Fn(&[u8]) -> bool) -> bool {
    fields
        .get_all(name)
        .any(|line| line == b"*" || tags(line).any(&wanted))
}

/// The entity tags of one line (§8.8.3), as sent: they may hold commas. It ends where they end to be
/// well-formed.
fn tags(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        let opening = if rest.starts_with(b"W/") { 2 } else { 0 };
        let opaque = rest.get(opening..)?.strip_prefix(b"\"")?;
        let closing = opening + 1 + memchr::memchr(b'"', opaque)?;
        let (tag, after) = rest.split_at(closing + 1);
        rest = after.trim_ascii_start();
        (rest.is_empty() || rest.starts_with(b",")).then_some(tag)
    })
}

/// The date of a field, if it is one, in any of the three forms (§5.6.7).
fn date(fields: Fields<'_>, name: &str) -> Option<SystemTime> {
    let mut lines = fields.get_all(name);
    let line = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(std::str::from_utf8(line).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::Verdict::*;
    use super::*;

    /// A second before the file's time, that time, and a second after it.
    const EARLIER: &str = "Thu, 01 Jan 1970 00:01:39 GMT";
    const SAME: &str = "Thu, 01 Jan 1970 00:01:40 GMT";
    const LATER: &str = "Thu, 01 Jan 1970 00:01:41 GMT";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn with<T>(lines: &[(&str, &str)], f: impl FnOnce(Fields<'_>, Validators<'_>) -> T) -> T {
        let header = |&(name, value)| httparse::Header {
            name,
            value: str::as_bytes(value),
        };
        let headers: Vec<_> = lines.iter().map(header).collect();
        let current = Validators {
            etag: "\"a,b\"",
            modified: at(100),
        };
        f(Fields::new(&headers), current)
    }

    #[test]
    fn one_precondition() {
        for (name, value, want) in [
            ("if-match", "*", Proceed),
            ("if-match", "\"a,b\"", Proceed),
            ("If-Match", "\"x\", \"a,b\"", Proceed),
            ("if-match", "\"x\" ,\"a,b\" , \"y\"", Proceed),
            ("if-match", ",, \"a,b\"", Proceed),
            ("if-match", "W/\"a,b\"", Failed),
            ("if-match", "\"a\"", Failed),
            ("if-match", "\"b\"", Failed),
            ("if-match", "a,b", Failed),
            ("if-match", "\"a,b", Failed),
            ("if-match", "x \"a,b\"", Failed),
            ("if-match", "\"a,b\"x", Failed),
            ("if-match", "", Failed),
            ("if-none-match", "*", NotModified),
            ("if-none-match", "\"a,b\"", NotModified),
            ("if-none-match", "W/\"a,b\"", NotModified),
            ("if-none-match", "W/\"x\", W/\"a,b\"", NotModified),
            ("if-none-match", "\"x\",\"a,b\"", NotModified),
            ("if-none-match", "w/\"a,b\"", Proceed),
            ("if-none-match", "\"x\"", Proceed),
            ("if-none-match", "\"A,B\"", Proceed),
            ("if-none-match", "a,b", Proceed),
            ("if-none-match", "\"x\", *", Proceed),
            ("if-none-match", "W/", Proceed),
            ("if-none-match", "", Proceed),
            ("if-modified-since", EARLIER, Proceed),
            ("if-modified-since", SAME, NotModified),
            ("if-modified-since", LATER, NotModified),
            (
                "if-modified-since",
                "Thursday, 01-Jan-70 00:01:40 GMT",
                NotModified,
            ),
            ("if-modified-since", "Thu Jan  1 00:01:40 1970", NotModified),
            ("if-modified-since", "1970-01-01T00:01:40Z", Proceed),
            ("if-modified-since", "", Proceed),
            ("if-unmodified-since", EARLIER, Failed),
            ("if-unmodified-since", SAME, Proceed),
            ("if-unmodified-since", LATER, Proceed),
            ("if-unmodified-since", "never", Proceed),
        ] {
            assert_eq!(with(&[(name, value)], evaluate), want, "{name}: {value}");
        }
    }

    #[test]
    fn several_preconditions() {
        let (same, other) = ("\"a,b\"", "\"x\"");
        let (match_, none, since, unless) = (
            "if-match",
            "if-none-match",
            "if-modified-since",
            "if-unmodified-since",
        );
        for (lines, want) in [
            (&[][..], Proceed),
            (&[(match_, other), (match_, same)], Proceed),
            (&[(none, other), (none, same)], NotModified),
            // A tag decides over a date.
            (&[(match_, same), (unless, EARLIER)], Proceed),
            (&[(match_, other), (unless, LATER)], Failed),
            (&[(none, other), (since, LATER)], Proceed),
            (&[(none, same), (since, EARLIER)], NotModified),
            (&[(none, ""), (since, LATER)], Proceed),
            // 412 goes before 304.
            (&[(match_, other), (none, same)], Failed),
            (&[(match_, same), (none, same)], NotModified),
            (&[(match_, same), (since, SAME)], NotModified),
            (&[(unless, EARLIER), (none, same)], Failed),
            (&[(unless, EARLIER), (since, LATER)], Failed),
            (&[(unless, LATER), (none, other)], Proceed),
            // Two dates are none.
            (&[(since, LATER), (since, LATER)], Proceed),
            (&[(unless, EARLIER), (unless, EARLIER)], Proceed),
        ] {
            assert_eq!(with(lines, evaluate), want, "{lines:?}");
        }
    }

    #[test]
    fn if_range() {
        for (values, now, want) in [
            (&[][..], 100, true),
            (&["\"a,b\""], 100, true),
            (&["W/\"a,b\""], 200, false),
            (&["\"x\""], 200, false),
            (&["a,b"], 200, false),
            (&[SAME], 101, true),
            (&[SAME], 100, false),
            (&[EARLIER], 200, false),
            (&[LATER], 200, false),
            (&[""], 200, false),
            (&["\"a,b\"", "\"a,b\""], 200, false),
            (&[SAME, SAME], 200, false),
        ] {
            let lines: Vec<_> = values.iter().map(|&value| ("if-range", value)).collect();
            let got = with(&lines, |fields, current| {
                range_applies(fields, current, at(now))
            });
            assert_eq!(got, want, "{values:?} at {now}");
        }
    }
}
