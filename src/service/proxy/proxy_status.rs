//! Floor 4. `Proxy-Status` (RFC 9209): what a proxy has to say of an answer, above all of one that it gives
//! in a server's stead.
//!
//! Invariant: a member is a structured field (RFC 8941) whatever the details are: what a string may not
//! hold is replaced. Nothing here is meant for secrets: details are for strangers to read.

/// The longest details that are written, in bytes; what is longer is cut.
pub const MAX_DETAILS: usize = 256;

/// Writes a member of `Proxy-Status`. `proxy` is the name this proxy goes by; `error` what went wrong, in the
/// registry's words (§2.3, [`crate::FetchError::token`]); `received` the status a server
/// has answered with; `details` may be empty.
///
/// ```
/// use loopwright::service::proxy::proxy_status::write;
/// let mut out = Vec::new();
/// write(&mut out, "loopwright", Some("connection_refused"), None, "port \"80\"");
/// assert_eq!(out, br#"loopwright; error=connection_refused; details="port \"80\"""#);
/// ```
pub fn write(
    out: &mut Vec<u8>,
    proxy: &str,
    error: Option<&str>,
    received: Option<u16>,
    details: &str,
) {
    match is_sf_token(proxy) {
        true => out.extend_from_slice(proxy.as_bytes()),
        false => write_string(out, proxy),
    }
    if let Some(error) = error {
        out.extend_from_slice(b"; error=");
        out.extend_from_slice(error.as_bytes());
    }
    if let Some(status) = received {
        out.extend_from_slice(b"; received-status=");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    }
    if !details.is_empty() {
        out.extend_from_slice(b"; details=");
        write_string(out, details);
    }
}

/// RFC 8941 §3.3.4.
fn is_sf_token(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b":/!#$%&'*+-.^_`|~".contains(&b);
    let first = text.as_bytes().first();
    first.is_some_and(|&b| b.is_ascii_alphabetic() || b == b'*') && text.bytes().all(byte)
}

/// RFC 8941 §3.3.3: printable ASCII; a quote and a backslash are escaped.
fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars().take(MAX_DETAILS) {
        match u8::try_from(c) {
            Ok(b @ (b'"' | b'\\')) => out.extend_from_slice(&[b'\\', b]),
            Ok(b @ b' '..=b'~') => out.push(b),
            _ => out.push(b'?'),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        for (proxy, problem, received, details, want) in [
            ("loopwright", None, None, "", "loopwright"),
            (
                "loopwright",
                Some("http_protocol_error"),
                Some(200),
                "",
                "loopwright; error=http_protocol_error; received-status=200",
            ),
            (
                "a b",
                Some("dns_error"),
                None,
                "x",
                "\"a b\"; error=dns_error; details=\"x\"",
            ),
            ("1a", None, None, "", "\"1a\""),
            ("", None, None, "", "\"\""),
            (
                "*a",
                None,
                None,
                "a\"b\\c\r\nd: e\u{e9}\0\u{7f}\t",
                "*a; details=\"a\\\"b\\\\c??d: e????\"",
            ),
        ] {
            let mut out = Vec::new();
            write(&mut out, proxy, problem, received, details);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
        let mut out = Vec::new();
        write(&mut out, "a", None, None, &"\"".repeat(300));
        assert_eq!(out.len(), "a; details=\"\"".len() + 2 * MAX_DETAILS);
    }
}
