//! Floor 4. What `tests/fuzz` asks of parts that have no public name. No part of the interface.

use super::conditional::{self, Validators, Verdict};
use super::names;
use super::negotiation::{self, Choice};
use super::range::{self, Selection};
use crate::Fields;
use std::ops::Range;
use std::time::SystemTime;

/// What a `range` field selects; `None` for all of it.
pub fn select(value: &[u8], len: u64) -> Option<Vec<Range<u64>>> {
    match range::select(value, len) {
        Selection::Whole => None,
        Selection::Unsatisfiable => Some(Vec::new()),
        Selection::Parts(parts) => Some(parts),
    }
}

/// 200, 304 or 412; and whether a range would count.
pub fn evaluate(
    fields: Fields<'_>,
    etag: &str,
    modified: SystemTime,
    now: SystemTime,
) -> (u16, bool) {
    let current = Validators { etag, modified };
    let status = match conditional::evaluate(fields, current) {
        Verdict::Proceed => 200,
        Verdict::NotModified => 304,
        Verdict::Failed => 412,
    };
    (status, conditional::range_applies(fields, current, now))
}

/// Which of br, zstd and gzip is sent: `Some(3)` for the file as it is, `None` for nothing.
pub fn choose(fields: Fields<'_>, siblings: [bool; 3]) -> Option<usize> {
    match negotiation::choose(fields.get_all("accept-encoding"), siblings) {
        Choice::Coded(n) => Some(n),
        Choice::Identity => Some(3),
        Choice::Nothing => None,
    }
}

/// Whether a listing is sent as JSON.
pub fn prefers_json(fields: Fields<'_>) -> bool {
    negotiation::prefers_json(fields.get_all("accept"))
}

/// Whether a path below the root may be looked up, and whether a decoded slash is in it.
pub fn servable(target: &str, path: &str) -> (bool, bool) {
    (
        names::is_servable(path),
        names::has_encoded_slash(target, path),
    )
}

/// Whether `text` is of the form `pattern`.
pub fn matches(pattern: &str, text: &str) -> bool {
    names::matches(pattern, text)
}
