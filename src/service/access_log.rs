//! Floor 4. The access log: one line for each exchange, when it is over.
//!
//! ```text
//! Done ─► Line (one reused buffer) ─► log::info!(target: TARGET) ─► whatever logger is installed
//! ```
//! Invariants: an exchange is one line, whatever its client sent, for every byte outside printable
//! ASCII is escaped; no line is longer than [`LONGEST`], so that a pipe takes it whole; once the buffer
//! has grown, nothing is allocated.

use crate::{Ctx, Done, Peer, Timings};
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// The `log` target of the lines: loggers tell them from other records by it.
pub const TARGET: &str = "loopwright::access";

/// The longest line, in bytes, without its end: with it, what POSIX promises to write to a pipe in one
/// piece (`PIPE_BUF` on Linux). In a longer one each text is cut to fit, and ends in `...`.
pub const LONGEST: usize = 4095;

/// What each of a line's texts (path, query, referer …) may take once the line is too long. Seven of
/// them and the rest stay below [`LONGEST`].
const CUT: usize = 480;
/// The same with an upstream: its name, its server's, and its error are three texts more.
const CUT_WITH_UPSTREAM: usize = 330;

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Apache's combined format, then request id, seconds in all, and seconds of them waited in the loop; then, if an
    /// upstream was asked for the answer, `name=value` for how that went.
    #[default]
    Combined,
    /// One JSON object, in ASCII.
    Json,
}

/// An `after` callback that writes one line for each exchange to the [`log`] crate, at level info, with
/// [`TARGET`]. Without a logger it writes nothing, and costs next to nothing.
///
/// The formats, field by field, are in `docs/logging.md`.
///
/// ```
/// use loopwright::App;
/// use loopwright::service::access_log::{Format, access_log};
/// let mut app: App = App::new();
/// app.after(access_log(Format::Json));
/// ```
pub fn access_log<S: 'static>(format: Format) -> impl FnMut(&mut Ctx<'_, S>, &Done<'_>) + 'static {
    let mut line = Line::new(format);
    move |cx, done| {
        if log::log_enabled!(target: TARGET, log::Level::Info) {
            let line = line.write(cx.wall_clock(), done);
            log::info!(target: TARGET, "{line}");
        }
    }
}

/// The buffer a line is written into, and the second that its time was last written for.
struct Line {
    format: Format,
    out: Vec<u8>,
    second: Option<u64>,
    /// `06/Nov/1994:08:49:37 +0000`, or `1994-11-06T08:49:37`.
    time: Vec<u8>,
    /// What an upstream's error says, before it is escaped.
    words: Vec<u8>,
}

impl Line {
    fn new(format: Format) -> Line {
        Line {
            format,
            out: Vec::with_capacity(1024),
            second: None,
            time: Vec::new(),
            words: Vec::new(),
        }
    }

    fn write(&mut self, wall: SystemTime, done: &Done<'_>) -> &str {
        let since_epoch = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if self.second != Some(since_epoch.as_secs()) {
            self.second = Some(since_epoch.as_secs());
            self.time.clear();
            time(&mut self.time, self.format, since_epoch.as_secs());
        }
        self.fill(since_epoch.subsec_millis(), done, usize::MAX);
        if self.out.len() > LONGEST {
            let cut = match done.upstream() {
                None => CUT,
                Some(_) => CUT_WITH_UPSTREAM,
            };
            self.fill(since_epoch.subsec_millis(), done, cut);
        }
        // It is ASCII; this way nobody has to take our word for it.
        std::str::from_utf8(&self.out).unwrap_or_default()
    }

    fn fill(&mut self, millis: u32, done: &Done<'_>, longest: usize) {
        self.out.clear();
        match self.format {
            Format::Combined => self.combined(done, longest),
            Format::Json => self.json(millis, done, longest),
        }
        if let Some(timings) = done.upstream() {
            self.upstream(timings, longest);
        }
        if self.format == Format::Json {
            self.out.push(b'}');
        }
    }

    fn combined(&mut self, done: &Done<'_>, longest: usize) {
        let Line { out, time, .. } = self;
        let text = |out: &mut Vec<u8>, value: &[u8]| escape(out, value, longest, as_hex);
        address(out, done.remote());
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(time);
        out.extend_from_slice(b"] \"");
        text(out, done.method().as_str().as_bytes());
        out.push(b' ');
        text(out, done.path().as_bytes());
        if let Some(query) = done.query() {
            out.push(b'?');
            text(out, query.as_bytes());
        }
        out.push(b' ');
        out.extend_from_slice(done.version().as_bytes());
        out.extend_from_slice(b"\" ");
        number(out, u64::from(status(done)));
        match done.body_bytes() {
            0 => out.extend_from_slice(b" -"),
            bytes => {
                out.push(b' ');
                number(out, bytes);
            }
        }
        for name in ["referer", "user-agent"] {
            out.extend_from_slice(b" \"");
            match done.headers().get(name) {
                Some(value) if !value.is_empty() => text(out, value),
                _ => out.push(b'-'),
            }
            out.push(b'"');
        }
        let _ = write!(out, " {} ", done.request_id());
        seconds(out, done.elapsed());
        out.push(b' ');
        seconds(out, done.waited());
    }

    fn json(&mut self, millis: u32, done: &Done<'_>, longest: usize) {
        let Line { out, time, .. } = self;
        let text = |out: &mut Vec<u8>, name: &str, value: Option<&[u8]>| {
            json_text(out, name, value, longest);
        };

        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(time);
        out.push(b'.');
        digits(out, millis, 100);
        let _ = write!(
            out,
            "Z\",\"request_id\":\"{}\",\"remote\":\"",
            done.request_id()
        );
        address(out, done.remote());
        out.push(b'"');
        text(out, ",\"host\":", unless_empty(done.host()));
        text(out, ",\"method\":", Some(done.method().as_str().as_bytes()));
        text(out, ",\"path\":", Some(done.path().as_bytes()));
        text(out, ",\"query\":", done.query().map(str::as_bytes));
        text(out, ",\"route\":", unless_empty(done.route()));
        text(out, ",\"version\":", Some(done.version().as_bytes()));
        for (name, value) in [
            (",\"status\":", u64::from(done.status())),
            (",\"bytes\":", done.body_bytes()),
            (",\"total_us\":", micros(done.elapsed())),
            (",\"waited_us\":", micros(done.waited())),
        ] {
            out.extend_from_slice(name.as_bytes());
            number(out, value);
        }
        text(out, ",\"referer\":", done.headers().get("referer"));
        text(out, ",\"user_agent\":", done.headers().get("user-agent"));
        let aborted = match done.is_aborted() {
            true => ",\"aborted\":true",
            false => ",\"aborted\":false",
        };
        out.extend_from_slice(aborted.as_bytes());
    }

    /// How asking the upstream went; apart, so that other lines do not pay for it.
    #[inline(never)]
    fn upstream(&mut self, timings: &Timings, longest: usize) {
        let Line { out, words, .. } = self;
        words.clear();
        if let Some(error) = &timings.error {
            // Writing to a Vec cannot fail.
            let _ = write!(words, "{error}");
        }
        match self.format {
            Format::Combined => upstream_combined(out, timings, words, longest),
            Format::Json => upstream_json(out, timings, words, longest),
        }
    }
}

/// The waits of a fetch, in the order in which they come; all of it last.
fn waits(timings: &Timings) -> [(&'static str, Duration); 5] {
    [
        ("queue", timings.queue),
        ("resolve", timings.resolve),
        ("connect", timings.connect),
        ("first_byte", timings.first_byte),
        ("total", timings.total),
    ]
}

fn upstream_combined(out: &mut Vec<u8>, timings: &Timings, error: &[u8], longest: usize) {
    let text = |out: &mut Vec<u8>, name: &str, value: &[u8]| {
        let _ = write!(out, " {name}=\"");
        match value {
            b"" => out.push(b'-'),
            value => escape(out, value, longest, as_hex),
        }
        out.push(b'"');
    };
    text(out, "upstream", timings.upstream.as_bytes());
    text(out, "server", timings.server.as_bytes());
    let reused = u8::from(timings.reused);
    let (status, tries) = (timings.status, timings.tries);
    let _ = write!(
        out,
        " upstream_status={status} tries={tries} reused={reused}"
    );
    for (name, wait) in waits(timings) {
        let _ = write!(out, " upstream_{name}=");
        seconds(out, wait);
    }
    text(out, "error", error);
}

fn upstream_json(out: &mut Vec<u8>, timings: &Timings, error: &[u8], longest: usize) {
    let text = |out: &mut Vec<u8>, name: &str, value: &[u8]| {
        let value = Some(value).filter(|value| !value.is_empty());
        json_text(out, name, value, longest);
    };
    text(out, ",\"upstream\":{\"name\":", timings.upstream.as_bytes());
    text(out, ",\"server\":", timings.server.as_bytes());
    let (status, tries, reused) = (timings.status, timings.tries, timings.reused);
    let _ = write!(
        out,
        ",\"status\":{status},\"tries\":{tries},\"reused\":{reused}"
    );
    for (name, wait) in waits(timings) {
        let _ = write!(out, ",\"{name}_us\":{}", micros(wait));
    }
    text(out, ",\"error\":", error);
    out.push(b'}');
}

/// Appends `name` and a JSON string, or null.
fn json_text(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>, longest: usize) {
    out.extend_from_slice(name.as_bytes());
    match value {
        None => out.extend_from_slice(b"null"),
        Some(value) => {
            out.push(b'"');
            escape(out, value, longest, as_utf16);
            out.push(b'"');
        }
    }
}

fn unless_empty(value: &str) -> Option<&[u8]> {
    Some(value.as_bytes()).filter(|value| !value.is_empty())
}

/// nginx's word for a client that left before there was a status: the format has no place for "none".
const CLIENT_LEFT: u16 = 499;

fn status(done: &Done<'_>) -> u16 {
    match done.status() {
        0 => CLIENT_LEFT,
        status => status,
    }
}

/// Appends the second, in the words of the format.
fn time(out: &mut Vec<u8>, format: Format, second: u64) {
    let mut date = *b"Sun, 06 Nov 1994 08:49:37 GMT";
    let second = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
    let _ = write!(&mut date[..], "{}", httpdate::HttpDate::from(second));
    let date = std::str::from_utf8(&date).unwrap_or_default();
    let part = |range| date.get(range).unwrap_or_default();
    let (day, month, year, clock) = (part(5..7), part(8..11), part(12..16), part(17..25));
    // Writing to a Vec cannot fail.
    let _ = match format {
        Format::Combined => write!(out, "{day}/{month}/{year}:{clock} +0000"),
        Format::Json => {
            let at = "JanFebMarAprMayJunJulAugSepOctNovDec".find(month);
            let month = at.unwrap_or_default() / 3 + 1;
            write!(out, "{year}-{month:02}-{day}T{clock}")
        }
    };
}

/// The client's address without its port.
fn address(out: &mut Vec<u8>, peer: Peer) {
    match peer.ip() {
        None => out.extend_from_slice(b"unix:"),
        // By hand: twice as fast as `Display`, and nearly everybody's.
        Some(IpAddr::V4(ip)) => {
            for (n, octet) in ip.octets().into_iter().enumerate() {
                if n > 0 {
                    out.push(b'.');
                }
                number(out, u64::from(octet));
            }
        }
        Some(ip) => {
            let _ = write!(out, "{ip}");
        }
    }
}

fn number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// `0.001234`
fn seconds(out: &mut Vec<u8>, time: Duration) {
    number(out, time.as_secs());
    out.push(b'.');
    digits(out, time.subsec_micros(), 100_000);
}

/// `n` with leading zeros; `unit` is what its first digit counts.
fn digits(out: &mut Vec<u8>, n: u32, mut unit: u32) {
    while unit > 0 {
        out.push(b'0' + (n / unit % 10) as u8);
        unit /= 10;
    }
}

/// Bytes that stand for themselves in both formats: printable ASCII without `"` and `\`.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = b' ';
    while b < 0x7f {
        table[b as usize] = b != b'"' && b != b'\\';
        b += 1;
    }
    table
};

/// What a cut text ends in.
const ELLIPSIS: &[u8] = b"...";
/// The longest that one character becomes: two UTF-16 units.
const LONGEST_ESCAPE: usize = 12;

/// Appends `value`, at most `longest` bytes of it once escaped. `other` writes the first character of
/// what it is given, which is not plain, and says how many bytes that was.
// A copy for each `other` is a tenth faster, and no longer made without being asked for.
#[inline(always)]
fn escape(
    out: &mut Vec<u8>,
    mut value: &[u8],
    longest: usize,
    other: fn(&mut Vec<u8>, &[u8]) -> usize,
) {
    let room = longest - LONGEST_ESCAPE - ELLIPSIS.len();
    let start = out.len();
    while !value.is_empty() {
        let left = room.saturating_sub(out.len() - start);
        if left == 0 {
            return out.extend_from_slice(ELLIPSIS);
        }
        let plain = value.iter().position(|&b| !PLAIN[usize::from(b)]);
        let plain = plain.unwrap_or(value.len()).min(left);
        let (now, rest) = value.split_at(plain);
        out.extend_from_slice(now);
        value = rest;
        if plain < left && !value.is_empty() {
            value = value.get(other(out, value)..).unwrap_or_default();
        }
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// `\x0A`, as nginx writes it.
fn as_hex(out: &mut Vec<u8>, value: &[u8]) -> usize {
    let b = usize::from(value.first().copied().unwrap_or_default());
    out.extend_from_slice(&[b'\\', b'x', HEX[b >> 4], HEX[b & 15]]);
    1
}

/// `\u000A`; U+FFFD for what is no UTF-8.
fn as_utf16(out: &mut Vec<u8>, value: &[u8]) -> usize {
    // No character is longer than four bytes.
    let first = value.get(..4).unwrap_or(value).utf8_chunks().next();
    let (valid, invalid) = first.map_or(("", 1), |chunk| (chunk.valid(), chunk.invalid().len()));
    let (character, length) = match valid.chars().next() {
        Some(c) => (c, c.len_utf8()),
        None => (char::REPLACEMENT_CHARACTER, invalid.max(1)),
    };
    if matches!(character, '"' | '\\') {
        out.extend_from_slice(&[b'\\', character as u8]);
        return length;
    }
    for unit in character.encode_utf16(&mut [0; 2]) {
        out.extend_from_slice(b"\\u");
        for shift in [12, 8, 4, 0] {
            out.push(HEX[usize::from(*unit >> shift & 15)]);
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &[u8], longest: usize, other: fn(&mut Vec<u8>, &[u8]) -> usize) -> String {
        let mut out = Vec::new();
        escape(&mut out, value, longest, other);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_but_printable_ascii_gets_through() {
        for (value, hex, utf16) in [
            (&b"plain /~%"[..], "plain /~%", "plain /~%"),
            (b"a\"b\\c", r"a\x22b\x5Cc", r#"a\"b\\c"#),
            (
                b"\r\n\t\x7f",
                r"\x0D\x0A\x09\x7F",
                r"\u000D\u000A\u0009\u007F",
            ),
            (
                "\u{e9}\u{1f980}".as_bytes(),
                r"\xC3\xA9\xF0\x9F\xA6\x80",
                r"\u00E9\uD83E\uDD80",
            ),
            (b"\xff\xe2\x82!", r"\xFF\xE2\x82!", r"\uFFFD\uFFFD!"),
            // A character at the end of the four bytes looked at is not taken for a broken one.
            (
                "aa\u{e9}\u{20ac}".as_bytes(),
                r"aa\xC3\xA9\xE2\x82\xAC",
                r"aa\u00E9\u20AC",
            ),
        ] {
            assert_eq!(escaped(value, usize::MAX, as_hex), hex);
            assert_eq!(escaped(value, usize::MAX, as_utf16), utf16);
        }
    }

    #[test]
    fn a_cut_text_keeps_within_its_bounds_and_says_so() {
        for value in [
            &[b'x'; 2000][..],
            &[0xff; 2000],
            "\u{1f980}".repeat(500).as_bytes(),
        ] {
            for other in [as_hex, as_utf16] {
                let text = escaped(value, CUT, other);
                assert!(text.len() <= CUT && text.len() > CUT - 30, "{}", text.len());
                assert!(text.ends_with("..."));
                assert!(!escaped(value, usize::MAX, other).ends_with("..."));
            }
        }
    }

    /// A line of a request that an upstream was asked for.
    fn line_of(format: Format, timings: &Timings, agent: &str) -> String {
        let head = format!("GET /a HTTP/1.1\r\nhost: a\r\nuser-agent: {agent}\r\n\r\n");
        let mut text = String::new();
        let mut line = Line::new(format);
        crate::after_upstream(head.as_bytes(), timings, |_, done| {
            text = line.write(SystemTime::UNIX_EPOCH, done).to_string();
        });
        text
    }

    #[test]
    fn what_upstreams_took_and_said_is_told_escaped_and_cut() {
        let went_well = Timings {
            upstream: "api".into(),
            server: "http://10.0.0.1:80".into(),
            queue: Duration::from_micros(12),
            resolve: Duration::from_micros(89),
            connect: Duration::from_micros(345),
            first_byte: Duration::from_micros(6_789),
            total: Duration::from_micros(1_234_567),
            reused: true,
            tries: 2,
            status: 200,
            ..Timings::default()
        };
        let line = line_of(Format::Combined, &went_well, "Me");
        let want = " upstream=\"api\" server=\"http://10.0.0.1:80\" upstream_status=200 tries=2 reused=1 \
                    upstream_queue=0.000012 upstream_resolve=0.000089 upstream_connect=0.000345 \
                    upstream_first_byte=0.006789 upstream_total=1.234567 error=\"-\"";
        assert!(line.ends_with(want), "{line}");
        let line = line_of(Format::Json, &went_well, "Me");
        let want = r#""aborted":false,"upstream":{"name":"api","server":"http://10.0.0.1:80","status":200,"tries":2,"reused":true,"queue_us":12,"resolve_us":89,"connect_us":345,"first_byte_us":6789,"total_us":1234567,"error":null}}"#;
        assert!(line.ends_with(want), "{line}");

        let said = "\"} \r\n\u{1b}[31m\u{e9}";
        let failed = |words: String, server: &str| Timings {
            upstream: "api".into(),
            server: server.into(),
            error: Some(crate::FetchError::Closed(words.into())),
            ..Timings::default()
        };
        let short = failed(said.into(), "");
        let line = line_of(Format::Combined, &short, "Me");
        assert!(line.contains(r#" server="-" "#), "{line}");
        assert!(
            line.ends_with(r#" error="\x22} \x0D\x0A\x1B[31m\xC3\xA9""#),
            "{line}"
        );
        let line = line_of(Format::Json, &short, "Me");
        let want = r#","server":null,"status":0,"#;
        assert!(line.contains(want), "{line}");
        let want = r#","error":"\"} \u000D\u000A\u001B[31m\u00E9"}}"#;
        assert!(line.ends_with(want), "{line}");

        let long = failed(said.repeat(900), &"s".repeat(9_000));
        for format in [Format::Combined, Format::Json] {
            let line = line_of(format, &long, &"\u{e9}".repeat(3_000));
            assert!(line.len() <= LONGEST && line.is_ascii(), "{}", line.len());
            assert_eq!(line.matches("...\"").count(), 3, "{line}");
            assert!(line.ends_with(if format == Format::Json {
                "...\"}}"
            } else {
                "...\""
            }));
        }
    }

    #[test]
    fn times() {
        for (format, want) in [
            (Format::Combined, "06/Nov/1994:08:49:37 +0000"),
            (Format::Json, "1994-11-06T08:49:37"),
        ] {
            let mut out = Vec::new();
            time(&mut out, format, 784_111_777);
            assert_eq!(String::from_utf8_lossy(&out), want);
        }
        let mut out = Vec::new();
        seconds(&mut out, Duration::from_micros(12_000_345));
        assert_eq!(out, b"12.000345");
    }
}
