//! Ranges, preconditions, negotiation and names of the file service, each against a naive reading of
//! RFC 9110.
//!
//! Input: the file's length, bits, then field lines as a client sends them; its path is the target.

use super::{percent_decoded, take};
use loopwright::Fields;
use loopwright::proto::h1::head::{self, HeadLimits};
use loopwright::service::files::fuzzing;
use std::time::{Duration, SystemTime};

const ETAG: &str = "\"a,b\"";
/// Thu, 01 Jan 1970 00:01:40 GMT
const MODIFIED: u64 = 100;

pub(crate) fn run(mut data: &[u8]) {
    let (len, bits) = (u64::from(take(&mut data)), take(&mut data));
    let (target, lines) = data.split_at(data.iter().position(|&b| b == b'\n').unwrap_or(0));
    let mut text = b"GET /".to_vec();
    text.extend_from_slice(target);
    text.extend_from_slice(b" HTTP/1.1\r\nhost: a");
    for line in lines.split(|&b| b == b'\n') {
        text.extend_from_slice(line);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    let (mut slots, limits) = (head::slots(), HeadLimits::NONE);
    let Ok(Some(head)) = head::read(&text, &mut 0, true, &mut slots, &limits) else {
        return;
    };

    name(head.path);
    if let Some(value) = head.fields.get("range") {
        assert_eq!(
            fuzzing::select(value, len),
            ranges(value, len),
            "{} of {len}",
            show(value)
        );
    }
    preconditions(head.fields, Duration::from_secs(u64::from(bits >> 4)));
    codings(head.fields, [0, 1, 2].map(|n| bits & (1 << n) != 0));
    fuzzing::prefers_json(head.fields);
    if let Some(query) = head.query {
        let (pattern, text) = query.split_once('&').unwrap_or((query, head.path));
        let (pattern, text) = (
            &pattern[..pattern.len().min(24)],
            &text[..text.len().min(48)],
        );
        let want = is_of_form(pattern.as_bytes(), text.as_bytes());
        assert_eq!(
            fuzzing::matches(pattern, text),
            want,
            "{pattern:?} {text:?}"
        );
    }
}

fn show(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Nothing that may be looked up leaves the root, or is hidden.
fn name(target: &str) {
    let raw = target.trim_start_matches('/');
    if target.len() - raw.len() != 1 {
        return;
    }
    let Ok(path) = String::from_utf8(percent_decoded(raw.as_bytes())) else {
        return;
    };
    let (is_servable, has_slash) = fuzzing::servable(target, &path);
    assert_eq!(
        has_slash,
        raw.to_ascii_lowercase().contains("%2f"),
        "{target}"
    );
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.len() > 1 && parts.last() == Some(&"") {
        parts.pop();
    }
    let is_plain = |part: &&str| {
        let is_hidden = part.starts_with('.') && *part != ".well-known";
        !is_hidden && !part.is_empty() && !part.contains(['\0', '\\'])
    };
    assert_eq!(
        is_servable,
        path.is_empty() || parts.iter().all(is_plain),
        "{path:?}"
    );
    if is_servable {
        let is_normal = |part| matches!(part, std::path::Component::Normal(_));
        assert!(
            std::path::Path::new(&path).components().all(is_normal),
            "{path:?}"
        );
    }
}

/// What is selected, byte by byte. `None`: all.
fn ranges(value: &[u8], len: u64) -> Option<Vec<std::ops::Range<u64>>> {
    let text: String = value.iter().map(|&b| char::from(b)).collect();
    let set = text
        .get(..6)
        .filter(|unit| unit.eq_ignore_ascii_case("bytes="))
        .map(|_| &text[6..])?;
    let is_space = |c: char| c.is_ascii_whitespace();
    let specs: Vec<&str> = set
        .split(',')
        .map(|spec| spec.trim_matches(is_space))
        .collect();
    let specs: Vec<&str> = specs.into_iter().filter(|spec| !spec.is_empty()).collect();
    if specs.is_empty() || specs.len() > 64 {
        return None;
    }
    // A number beyond u64 is beyond any file, too; 128 bits hold its first digits.
    let number = |digits: &str| -> Option<Option<u128>> {
        if digits.is_empty() {
            return Some(None);
        }
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        let digits = digits.trim_start_matches('0');
        is_number.then(|| {
            Some(match digits.len() {
                0 => 0,
                1..=20 => digits
                    .parse()
                    .unwrap_or(u128::MAX)
                    .min(u128::from(u64::MAX)),
                _ => u128::from(u64::MAX),
            })
        })
    };
    let len = u128::from(len);
    let mut asked: Vec<(u128, u128)> = Vec::new();
    for spec in specs {
        let (first, last) = spec.split_once('-')?;
        match (number(first)?, number(last)?) {
            (None, None) => return None,
            (None, Some(0)) => {}
            (None, Some(_)) if len == 0 => return None,
            (None, Some(n)) => asked.push((len - n.min(len), len - 1)),
            (Some(first), last) => {
                let last = last.unwrap_or(u128::from(u64::MAX));
                if last < first {
                    return None;
                }
                if first < len {
                    asked.push((first, last.min(len - 1)));
                }
            }
        }
    }
    // Those that share a byte become one, in the place of the first.
    let mut groups: Vec<(u128, u128)> = asked.clone();
    let mut has_changed = true;
    while has_changed {
        has_changed = false;
        'pairs: for a in 0..groups.len() {
            for b in a + 1..groups.len() {
                let (x, y) = (groups[a], groups[b]);
                if x.0 <= y.1 && y.0 <= x.1 {
                    groups[a] = (x.0.min(y.0), x.1.max(y.1));
                    groups.remove(b);
                    has_changed = true;
                    break 'pairs;
                }
            }
        }
    }
    let total: u128 = groups.iter().map(|part| part.1 - part.0 + 1).sum();
    if groups.len() > 32 || (groups.len() > 1 && total >= len) {
        return None;
    }
    Some(
        groups
            .iter()
            .map(|part| part.0 as u64..part.1 as u64 + 1)
            .collect(),
    )
}

/// RFC 9110 §13.2.2.
fn preconditions(fields: Fields<'_>, age: Duration) {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED);
    let got = fuzzing::evaluate(fields, ETAG, modified, modified + age);
    let lines = |name: &str| -> Vec<String> {
        let text = |value: &[u8]| value.iter().map(|&b| char::from(b)).collect();
        fields.get_all(name).map(text).collect()
    };
    let has_tag = |name: &str, is_weak: bool| {
        lines(name).iter().any(|line| {
            let is_ours =
                |tag: &String| tag == ETAG || (is_weak && tag.strip_prefix("W/") == Some(ETAG));
            line == "*" || tags(line).iter().any(is_ours)
        })
    };
    // A date in its only form in use; the others are left to the library.
    let date = |name: &str| -> Option<u64> {
        let lines = lines(name);
        let [line] = &lines[..] else { return None };
        let since = loopwright_date(line)?
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()?;
        Some(since.as_secs())
    };
    let is_failed = match lines("if-match").is_empty() {
        false => !has_tag("if-match", false),
        true => date("if-unmodified-since").is_some_and(|date| MODIFIED > date),
    };
    let is_same = match lines("if-none-match").is_empty() {
        false => has_tag("if-none-match", true),
        true => date("if-modified-since").is_some_and(|date| MODIFIED <= date),
    };
    let want = match (is_failed, is_same) {
        (true, _) => 412,
        (false, true) => 304,
        (false, false) => 200,
    };
    assert_eq!(got.0, want, "{fields:?}");
    let counts = match &lines("if-range")[..] {
        [] => true,
        [line] => {
            line == ETAG || (age >= Duration::from_secs(1) && date("if-range") == Some(MODIFIED))
        }
        _ => false,
    };
    assert_eq!(got.1, counts, "{fields:?}");
}

fn loopwright_date(text: &str) -> Option<SystemTime> {
    // Those of bytes over 127 would have become other text here.
    text.is_ascii()
        .then(|| httpdate::parse_http_date(text).ok())?
}

/// The tags at the front of a list, up to what is none.
fn tags(line: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars
            .next_if(|&c| c == ',' || c == ' ' || c == '\t')
            .is_some()
        {}
        let mut tag = String::new();
        if chars.next_if_eq(&'W').is_some() {
            if chars.next() != Some('/') {
                return tags;
            }
            tag += "W/";
        }
        if chars.next() != Some('"') {
            return tags;
        }
        tag.push('"');
        loop {
            match chars.next() {
                None => return tags,
                Some(c) => tag.push(c),
            }
            if tag.ends_with('"') {
                break;
            }
        }
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        match chars.peek() {
            None | Some(',') => tags.push(tag),
            Some(_) => return tags,
        }
    }
}

/// RFC 9110 §12.5.3, as `docs/files.md` has it.
fn codings(fields: Fields<'_>, siblings: [bool; 3]) {
    let got = fuzzing::choose(fields, siblings);
    let mut wanted: Vec<(String, u32)> = Vec::new();
    for line in fields.get_all("accept-encoding") {
        let line: String = line.iter().map(|&b| char::from(b)).collect();
        for member in line.split(',') {
            let mut parts = member
                .split(';')
                .map(|part| part.trim_matches(|c: char| c.is_ascii_whitespace()));
            let name = parts.next().unwrap_or("").to_ascii_lowercase();
            let quality = parts.find(|part| part.starts_with("q=") || part.starts_with("Q="));
            let Some(weight) = weight(quality.map_or("1", |quality| &quality[2..])) else {
                continue;
            };
            let name = if name == "x-gzip" {
                "gzip".to_string()
            } else {
                name
            };
            wanted.push((name, weight));
        }
    }
    let said = |name: &str| {
        wanted
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, weight)| *weight)
    };
    let of = |name: &str| said(name).or(said("*"));
    let mut best: Option<(u32, usize)> = None;
    for (n, name) in ["br", "zstd", "gzip"].iter().enumerate() {
        let weight = of(name).unwrap_or(0);
        if siblings[n] && weight > best.map_or(0, |best| best.0) {
            best = Some((weight, n));
        }
    }
    let want = match best {
        Some((weight, _)) if said("identity").is_some_and(|identity| identity > weight) => Some(3),
        Some((_, n)) => Some(n),
        None if of("identity") == Some(0) => None,
        None => Some(3),
    };
    assert_eq!(got, want, "{fields:?} of {siblings:?}");
}

/// In thousandths.
fn weight(text: &str) -> Option<u32> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u32 = format!("{digits:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// `*` is any run of bytes: a table of which beginnings match which.
fn is_of_form(pattern: &[u8], text: &[u8]) -> bool {
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for &p in pattern {
        let mut next = vec![false; text.len() + 1];
        for t in 0..=text.len() {
            next[t] = match p {
                b'*' => row[t] || (t > 0 && next[t - 1]),
                p => t > 0 && row[t - 1] && text[t - 1] == p,
            };
        }
        row = next;
    }
    row[text.len()]
}
