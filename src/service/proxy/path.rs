//! Floor 4. Which path a server behind is asked for.
//!
//! ```text
//! route /api/{*rest}                        asked: /api/a%2Fb?q
//!   neither                → /api/a%2Fb?q   byte for byte
//!   strip = "/api"         → /a%2Fb?q
//!   path = "/v2/{rest}"    → /v2/a%2Fb?q
//! ```
//!
//! Parameters are taken from the path as it was sent, still percent-encoded: nothing is decoded, so nothing
//! is encoded in another way than it was. An encoded slash stays one, for there are servers that want it
//! (`/projects/group%2Fname`).
//!
//! Invariant: what is asked for has no segment that means "here" or "one up" (`.`, `..`), in whichever way
//! it is spelled: with `%2e`, between encoded slashes or backslashes, before a `;`, an encoded `?` or a zero.
//! A path that has one is
//! refused: what is behind would resolve it, and be asked for what is outside of the route. Clients that
//! are browsers resolve these themselves and never send them.

use std::fmt;

/// What becomes of the path. By default it stays as it is.
///
/// ```
/// use loopwright::service::proxy::path::Rewrite;
/// let to = |rewrite: &Rewrite, path| {
///     let mut out = Vec::new();
///     rewrite.write(&mut out, path, Some("q=1")).map(|()| String::from_utf8(out).unwrap())
/// };
/// let strip = Rewrite::new("/api/{*rest}", Some("/api"), None).unwrap();
/// assert_eq!(to(&strip, "/api/a%2Fb").as_deref(), Ok("/a%2Fb?q=1"));
/// let path = Rewrite::new("/api/{*rest}", None, Some("/v2/{rest}")).unwrap();
/// assert_eq!(to(&path, "/api/a/b").as_deref(), Ok("/v2/a/b?q=1"));
/// assert!(to(&path, "/api/..%2Fadmin").is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    to: To,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum To {
    #[default]
    Same,
    /// Without so many segments at its front.
    Strip(usize),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A parameter: one segment, without what the pattern has around it.
    Segment {
        at: usize,
        before: String,
        after: String,
    },
    /// From this segment on.
    Rest {
        at: usize,
    },
}

/// What is wrong with a rewriting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewriteError(String);

impl fmt::Display for RewriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RewriteError {}

/// A path that would lead out of what it was asked for under. 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escapes;

impl fmt::Display for Escapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path with a dot segment, which the server behind might resolve")
    }
}

impl std::error::Error for Escapes {}

impl Rewrite {
    /// Of a route with this pattern: without the prefix `strip`, or to `path`, where `{name}` is a
    /// parameter of the pattern.
    ///
    /// # Errors
    /// Both are given; `strip` is no prefix of the pattern; `path` is none, or names a parameter that the
    /// pattern has not.
    pub fn new(
        pattern: &str,
        strip: Option<&str>,
        path: Option<&str>,
    ) -> Result<Rewrite, RewriteError> {
        let to = match (strip, path) {
            (None, None) => To::Same,
            (Some(strip), None) => To::Strip(segments_to_strip(pattern, strip)?),
            (None, Some(path)) => To::Parts(parts(pattern, path)?),
            (Some(_), Some(_)) => {
                let why = "strip and path both say what becomes of the path: keep one";
                return Err(RewriteError(why.into()));
            }
        };
        Ok(Rewrite { to })
    }

    /// Writes the request target in origin-form, the query as it was. Nothing is written if it fails.
    ///
    /// # Errors
    /// The target would have dot segments.
    pub fn write(&self, out: &mut Vec<u8>, path: &str, query: Option<&str>) -> Result<(), Escapes> {
        let start = out.len();
        match &self.to {
            To::Same => out.extend_from_slice(path.as_bytes()),
            // `OPTIONS *` has no path to change.
            _ if path == "*" => out.push(b'*'),
            To::Strip(segments) => match from_segment(path, *segments) {
                Some(rest) => out.extend_from_slice(absolute(rest)),
                None => out.push(b'/'),
            },
            To::Parts(parts) => {
                for part in parts {
                    let Some(value) = part.of(path) else {
                        out.truncate(start);
                        return Err(Escapes);
                    };
                    // A rest that begins with a slash would make `/{rest}` another host's address.
                    let value = match out[start..] {
                        [b'/'] if !matches!(part, Part::Text(_)) => value.trim_start_matches('/'),
                        _ => value,
                    };
                    out.extend_from_slice(value.as_bytes());
                }
                // The same for a parameter that came to nothing.
                let doubled = out[start..].iter().take_while(|&&b| b == b'/').count();
                out.drain(start + 1..start + doubled.max(1));
            }
        }
        if has_dot_segments(&out[start..]) {
            out.truncate(start);
            return Err(Escapes);
        }
        if let Some(query) = query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        Ok(())
    }
}

/// What follows the slash before segment `at`, the slash included; segments count from zero.
fn from_segment(path: &str, at: usize) -> Option<&str> {
    let slash = memchr::memchr_iter(b'/', path.as_bytes()).nth(at)?;
    path.get(slash..)
}

/// With one slash at its front, never two: `//a` would be another host to whoever makes a URL of it.
fn absolute(rest: &str) -> &[u8] {
    let doubled = rest.len() - rest.trim_start_matches('/').len();
    rest.as_bytes().get(doubled.max(1) - 1..).unwrap_or(b"/")
}

impl Part {
    fn of<'a>(&'a self, path: &'a str) -> Option<&'a str> {
        match self {
            Part::Text(text) => Some(text),
            Part::Rest { at } => from_segment(path, *at).map(|rest| &rest[1..]),
            Part::Segment { at, before, after } => {
                let segment = from_segment(path, *at)?[1..].split('/').next()?;
                segment.strip_prefix(&before[..])?.strip_suffix(&after[..])
            }
        }
    }
}

/// Whether any segment is `.` or `..` to somebody. One look at each byte tells that most have none.
fn has_dot_segments(path: &[u8]) -> bool {
    if memchr::memchr2(b'.', b'%', path).is_none() {
        return false;
    }
    // What has been seen of a segment: nothing but so many dots, or anything else.
    let (mut dots, mut plain, mut over) = (0, false, false);
    let mut rest = path;
    loop {
        let (byte, next) = match rest {
            [] => return is_dots(dots, plain),
            [b'%', high, low, next @ ..] => (hex(*high) << 4 | hex(*low), next),
            [byte, next @ ..] => (*byte, next),
        };
        match byte {
            // A zero ends what programs in C take for the path.
            b'/' | b'\\' | 0 => {
                if is_dots(dots, plain) {
                    return true;
                }
                (dots, plain, over) = (0, false, false);
            }
            // RFC 3986 §3.3: parameters of the segment, which some servers take away before they resolve it;
            // and what ends a path for those that decode first.
            b';' | b'?' | b'#' => over = true,
            _ if over => {}
            b'.' => dots += 1,
            _ => plain = true,
        }
        rest = next;
    }
}

fn is_dots(dots: usize, plain: bool) -> bool {
    !plain && (dots == 1 || dots == 2)
}

/// A digit that the head's reader has checked.
fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or(0) as u8
}

/// How many segments `strip` takes away: literal ones, at the pattern's front.
fn segments_to_strip(pattern: &str, strip: &str) -> Result<usize, RewriteError> {
    let complain = |why: String| Err(RewriteError(why));
    let strip = strip.strip_suffix('/').unwrap_or(strip);
    if strip.is_empty() {
        return Ok(0);
    }
    if !strip.starts_with('/') {
        return complain(format!("strip = {strip:?}: a path begins with /"));
    }
    if strip.contains('{') {
        return complain(format!("strip = {strip:?}: no parameters in it"));
    }
    match pattern.strip_prefix(strip) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok(strip.matches('/').count()),
        _ => complain(format!(
            "strip = {strip:?}: the route {pattern:?} does not begin so"
        )),
    }
}

/// The text of `path` between its parameters, and where in the pattern these are.
fn parts(pattern: &str, path: &str) -> Result<Vec<Part>, RewriteError> {
    let complain = |why: &str| Err(RewriteError(format!("path = {path:?}: {why}")));
    if !path.starts_with('/') {
        return complain("a path begins with /");
    }
    let mut parts = Vec::new();
    let mut rest = path;
    while let Some((text, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            return complain("a { without }");
        };
        parts.push(Part::Text(text.to_string()));
        let segments = pattern.split('/').skip(1).enumerate();
        let found = segments.filter_map(|(at, segment)| {
            let (before, parameter) = segment.split_once('{')?;
            let (its, after) = parameter.split_once('}')?;
            match its.strip_prefix('*') {
                Some(its) => (its == name).then_some(Part::Rest { at }),
                None => (its == name).then(|| Part::Segment {
                    at,
                    before: before.to_string(),
                    after: after.to_string(),
                }),
            }
        });
        match found.last() {
            Some(part) => parts.push(part),
            None => return complain(&format!("the route {pattern:?} has no {{{name}}}")),
        }
        rest = after;
    }
    parts.push(Part::Text(rest.to_string()));
    let text = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        // Something: what it is, is looked at when it is known.
        _ => "x".to_string(),
    };
    let text: String = parts.iter().map(text).collect();
    if text.contains('?') {
        return complain("the query stays as it is, and is not written here");
    }
    let plain = |b: u8| b.is_ascii_graphic() && !b"#\"<>\\^`{}|".contains(&b);
    if !text.bytes().all(plain) {
        return complain("what no path may hold has to be percent-encoded");
    }
    let mut after_percent = text.split('%').skip(1);
    let whole = |hex: &str| hex.len() > 1 && hex.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !after_percent.all(whole) {
        return complain("a % without two hexadecimal digits");
    }
    if has_dot_segments(text.as_bytes()) {
        return complain("a dot segment");
    }
    Ok(parts)
}
