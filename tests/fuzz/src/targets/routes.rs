//! The router against matching patterns one by one; parameters against decoding them by hand.
//!
//! Input, in lines: patterns (`GET a.org/x/{id}`, `ANY /x`), an empty line, requests
//! (`GET a.org/x/%41`).

use super::percent_decoded;
use http::Method;
use loopwright::fuzzing::{Found, Pattern, Routes};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some((patterns, requests)) = text.split_once("\n\n") else {
        return;
    };
    let patterns: Vec<Pattern> = patterns.lines().take(12).filter_map(pattern).collect();
    let Ok(routes) = Routes::new(&patterns) else {
        return;
    };
    for line in requests.lines().take(24) {
        let Some((method, host, path)) = split(line) else {
            continue;
        };
        // What a head lets through.
        let is_sent = path
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'#' && b != b'?');
        let Some(method) = Method::from_bytes(method.as_bytes())
            .ok()
            .filter(|_| is_sent)
        else {
            continue;
        };
        check(&patterns, &routes, &method, host, path);
    }
}

fn split(line: &str) -> Option<(&str, &str, &str)> {
    let (method, rest) = line.split_once(' ')?;
    let at = rest.find('/')?;
    Some((method, &rest[..at], &rest[at..]))
}

fn pattern(line: &str) -> Option<Pattern> {
    let (method, host, path) = split(line)?;
    // Braces that stand for themselves are not for the matching below.
    if path.contains("{{") || path.contains("}}") || !path.is_ascii() {
        return None;
    }
    let method = match method {
        "ANY" => None,
        name => Some(Method::from_bytes(name.as_bytes()).ok()?),
    };
    Some(Pattern {
        method,
        host: Some(host.to_string()).filter(|host| !host.is_empty()),
        // What is encoded without need is the same path; `Routes` is given it so in one test of the router's.
        path: plain(path),
    })
}

/// What needs no encoding (RFC 3986 §2.3) decoded, the rest left.
fn plain(path: &str) -> String {
    let (mut plain, mut rest) = (String::new(), path);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let digits = rest.get(..2).filter(|_| c == '%');
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let decoded = code
            .map(char::from)
            .filter(|&d| d.is_ascii_alphanumeric() || "-._~".contains(d));
        rest = &rest[decoded.map_or(0, |_| 2)..];
        plain.push(decoded.unwrap_or(c));
    }
    plain
}

fn check(patterns: &[Pattern], routes: &Routes, method: &Method, host: &str, path: &str) {
    let standard = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE",
    ];
    let takes = |pattern: &Pattern, method: &Method| match &pattern.method {
        None => true,
        Some(own) => own == method || (*method == Method::HEAD && *own == Method::GET),
    };
    let sought = plain(path);
    let fits = |pattern| fit(pattern, host, &sought);
    let candidates = |method: &Method| -> Vec<usize> {
        let all = patterns.iter().enumerate();
        all.filter(|(_, p)| takes(p, method) && fits(p).is_some())
            .map(|(n, _)| n)
            .collect()
    };
    let all = candidates(method);
    let found = routes.find(method, host.as_bytes(), path);
    let what = format!("{method} {host}{path} of {patterns:?}: {found:?}, fit: {all:?}");
    match found {
        Found::Route(n, params) => {
            let pattern = &patterns[n];
            assert!(all.contains(&n), "it does not fit: {what}");
            let raw = fits(pattern).unwrap_or_default();
            let want: Vec<_> = raw
                .iter()
                .map(|(name, value)| {
                    let value = percent_decoded(value.as_bytes());
                    (
                        name.to_string(),
                        String::from_utf8_lossy(&value).into_owned(),
                    )
                })
                .collect();
            assert_eq!(params, want, "{what}");
            for &other in &all {
                let other = &patterns[other];
                assert!(
                    pattern.host.is_some() || other.host.is_none(),
                    "hosts come first: {what}"
                );
                let is_exact = !other.path.contains('{') && other.host == pattern.host;
                assert!(
                    !is_exact || !pattern.path.contains('{'),
                    "exact ones come first: {what}"
                );
                let is_twin = other.host == pattern.host && other.path == pattern.path;
                let has_own = other.method.as_ref() == Some(method);
                assert!(
                    !is_twin || !has_own || pattern.method.as_ref() == Some(method),
                    "own method first: {what}"
                );
            }
        }
        Found::BadEncoding => {
            let is_bad = |n: &usize| {
                let raw = fits(&patterns[*n]).unwrap_or_default();
                raw.iter()
                    .any(|(_, value)| String::from_utf8(percent_decoded(value.as_bytes())).is_err())
            };
            assert!(all.iter().any(is_bad), "{what}");
        }
        Found::WrongMethod(allowed) => {
            assert!(all.is_empty(), "it fits: {what}");
            for method in allowed.iter().filter(|&method| *method != Method::OPTIONS) {
                assert!(
                    !candidates(method).is_empty(),
                    "{method} is not allowed: {what}"
                );
            }
            for pattern in patterns.iter().filter(|p| fits(p).is_some()) {
                let is_told = pattern
                    .method
                    .as_ref()
                    .is_none_or(|method| allowed.contains(method));
                assert!(is_told, "an allowed method is missing: {what}");
            }
        }
        Found::Unknown => {
            assert!(all.is_empty(), "it fits: {what}");
            let fitting = patterns.iter().filter(|p| fits(p).is_some()).count();
            assert_eq!(fitting, 0, "with another method it fits: {what}");
        }
        Found::UnknownMethod => {
            assert!(all.is_empty(), "it fits: {what}");
            let is_known = |p: &Pattern| p.method.as_ref() == Some(method);
            assert!(
                !patterns.iter().any(is_known) && !standard.contains(&method.as_str()),
                "{what}"
            );
        }
    }
}

fn fit<'a>(pattern: &'a Pattern, host: &str, path: &'a str) -> Option<Raw<'a>> {
    let is_here = pattern
        .host
        .as_deref()
        .is_none_or(|known| is_host(known, host));
    matched(&pattern.path, path).filter(|_| is_here)
}

fn is_host(known: &str, authority: &str) -> bool {
    let host = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    // With the dot of the root it is the same host.
    let rooted = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let (known, host) = (rooted(known), rooted(host));
    match known.strip_prefix('*') {
        Some(domain) => host.len() > domain.len() && host.ends_with(domain),
        None => known == host,
    }
}

type Raw<'a> = Vec<(&'a str, &'a str)>;

/// Segment by segment; `{*rest}` takes the rest, which is empty only behind a slash, where it has no
/// name then.
fn matched<'a>(pattern: &'a str, path: &'a str) -> Option<Raw<'a>> {
    let (mut pattern, mut path) = (pattern, path);
    let mut raw = Vec::new();
    if let Some((bare, _)) = pattern
        .split_once("{*")
        .filter(|(bare, _)| bare.ends_with('/'))
    {
        // Parameters before it would still be to find.
        if let Some(raw) = matched(bare, path) {
            return Some(raw);
        }
    }
    loop {
        let (head, rest) = pattern
            .split_once('/')
            .map_or((pattern, None), |(a, b)| (a, Some(b)));
        if let Some((prefix, name)) = head.split_once("{*") {
            let value = path
                .strip_prefix(prefix)
                .filter(|value| !value.is_empty())?;
            raw.push((name.strip_suffix('}')?, value));
            return Some(raw);
        }
        let (segment, after) = path
            .split_once('/')
            .map_or((path, None), |(a, b)| (a, Some(b)));
        match head.split_once('{') {
            None if head == segment => {}
            None => return None,
            Some((prefix, name)) => {
                let (name, suffix) = name.split_once('}')?;
                let value = segment.strip_prefix(prefix)?.strip_suffix(suffix)?;
                if value.is_empty() {
                    return None;
                }
                raw.push((name, value));
            }
        }
        match (rest, after) {
            (None, None) => return Some(raw),
            (Some(rest), Some(after)) => (pattern, path) = (rest, after),
            _ => return None,
        }
    }
}
