//! Floor 1. The vocabulary HTTP/1 shares with later versions: fields, tokens, authorities.

/// The field lines of a message, in order, as they arrived. A view into the receive buffer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    lines: &'a [httparse::Header<'a>],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(lines: &'a [httparse::Header<'a>]) -> Self {
        Fields { lines }
    }

    /// The value of the first line with this name (any case), without surrounding white space.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.get_all(name).next()
    }

    /// The values of every line with this name, in order.
    pub fn get_all<'n>(
        &self,
        name: &'n str,
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, 'n> {
        self.lines
            .iter()
            .filter(move |line| line.name.eq_ignore_ascii_case(name))
            .map(|line| line.value)
    }

    /// Every line: name as sent, value.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.lines.iter().map(|line| (line.name, line.value))
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// No line at all.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// RFC 9110 §5.6.2: the bytes of a token (a method, a field name).
pub const fn is_token_byte(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// The same as a table: names of answers' fields are checked on the hot path.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = is_token_byte(b as u8);
        b += 1;
    }
    table
};

/// RFC 9110 §5.5: a byte that a field value may hold.
pub const fn is_value_byte(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

/// RFC 9110 §5.5: spaces and tabs around a value are no part of it. Nothing else is taken away: a line's
/// end at a value's end is as wrong as within it.
pub fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether `name` may be a field name.
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&b| TOKEN[usize::from(b)])
}

/// The members of a comma-separated list (RFC 9110 §5.6.1), empty ones left out.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Whether a message's `Connection` names fields of its own, which are not for others, be they trailers (RFC 9110 §7.6.1).
pub fn names_fields(fields: &Fields<'_>) -> bool {
    const KNOWN: [&[u8]; 5] = [b"close", b"keep-alive", b"te", b"trailer", b"upgrade"];
    let mut options = fields.get_all("connection").flat_map(list);
    options.any(|option| !KNOWN.iter().any(|known| option.eq_ignore_ascii_case(known)))
}

/// RFC 3986 §3.2.2: the bytes of a registered name or an IPv4 address, as a table, for every request
/// has one to check.
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"-._~!$&'()*+;=%";
    let mut b = 0;
    while b < 128 {
        table[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let mut n = 0;
    while n < others.len() {
        table[others[n] as usize] = true;
        n += 1;
    }
    table
};

/// RFC 3986 §3.2 without user information, which RFC 9110 §4.2.4 forbids: `host [":" port]`.
/// An empty authority is a valid `Host` (RFC 9110 §7.2).
pub fn is_authority(text: &[u8]) -> bool {
    let port = if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', rest) else {
            return false;
        };
        let literal = std::str::from_utf8(&rest[..end]).unwrap_or("");
        if literal.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        &rest[end + 1..]
    } else {
        let end = text
            .iter()
            .position(|&b| !HOST_BYTES[b as usize])
            .unwrap_or(text.len());
        if (end == 0 && !text.is_empty()) || !percent_encoding_is_whole(&text[..end]) {
            return false;
        }
        &text[end..]
    };
    match port {
        [] => true,
        [b':', digits @ ..] => is_port(digits),
        _ => false,
    }
}

/// RFC 3986 §3.2.3, within TCP's 16 bits. It may be empty.
fn is_port(digits: &[u8]) -> bool {
    let digit = |port: u32, b: &u8| {
        b.is_ascii_digit()
            .then(|| (port * 10 + u32::from(b - b'0')).min(1 << 16))
    };
    digits
        .iter()
        .try_fold(0, digit)
        .is_some_and(|port| port < 1 << 16)
}

/// Whether every `%` in `text` is followed by two hexadecimal digits.
pub fn percent_encoding_is_whole(text: &[u8]) -> bool {
    memchr::memchr_iter(b'%', text).all(
        |at| matches!(text.get(at + 1..at + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for good in [
            "",
            "a",
            "example.org",
            "example.org:80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "a:",
            "a_b",
            "a%41",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "u@h", "a:b", "a:99999", "[::1", "[::1]x", "[x]", "a b", "a,b", "a/b", ":80", "a:1:2",
            "::1", "[]", "a\u{e9}", "a%", "a%4:80",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn lists_and_percent_encoding() {
        assert_eq!(list(b" a , ,b,").collect::<Vec<_>>(), [b"a", b"b"]);
        for (text, whole) in [
            ("", true),
            ("%41", true),
            ("a%4", false),
            ("%", false),
            ("%zz", false),
            ("%%41", false),
        ] {
            assert_eq!(percent_encoding_is_whole(text.as_bytes()), whole, "{text}");
        }
    }
}
