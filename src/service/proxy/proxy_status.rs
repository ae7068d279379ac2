//! Floor 4. `Proxy-Status` (RFC 9209): what a proxy has to say of an answer, above all of one that it gives
//! in a server's stead.
//!
//! Invariant: a member is a structured field (RFC 8941) whatever the details are: what a string may not
//! hold is replaced. Nothing here is meant for secrets: details are for strangers to read.

/// What went wrong (RFC 9209 §2.3), in the registry's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The name could not be resolved in time.
    DnsTimeout,
    /// The name could not be resolved.
    DnsError,
    /// There is no server that may be asked.
    DestinationUnavailable,
    /// The connection was refused.
    ConnectionRefused,
    /// The connection broke.
    ConnectionTerminated,
    /// The connection could not be made in time.
    ConnectionTimeout,
    /// The server paused for too long.
    ConnectionReadTimeout,
    /// The server took nothing for too long.
    ConnectionWriteTimeout,
    /// There are as many connections as there may be.
    ConnectionLimitReached,
    /// The answer ended early.
    HttpResponseIncomplete,
    /// The answer's head is too large.
    HttpResponseHeaderSectionSize,
    /// The answer's body is too large.
    HttpResponseBodySize,
    /// The answer did not come in time.
    HttpResponseTimeout,
    /// What came is not HTTP.
    HttpProtocolError,
    /// The change of protocols failed.
    HttpUpgradeFailed,
    /// The request was refused here.
    HttpRequestDenied,
    /// The request came here before.
    ProxyLoopDetected,
    /// Something is wrong with the proxy.
    ProxyInternalError,
}

impl Problem {
    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Problem::DnsTimeout => "dns_timeout",
            Problem::DnsError => "dns_error",
            Problem::DestinationUnavailable => "destination_unavailable",
            Problem::ConnectionRefused => "connection_refused",
            Problem::ConnectionTerminated => "connection_terminated",
            Problem::ConnectionTimeout => "connection_timeout",
            Problem::ConnectionReadTimeout => "connection_read_timeout",
            Problem::ConnectionWriteTimeout => "connection_write_timeout",
            Problem::ConnectionLimitReached => "connection_limit_reached",
            Problem::HttpResponseIncomplete => "http_response_incomplete",
            Problem::HttpResponseHeaderSectionSize => "http_response_header_section_size",
            Problem::HttpResponseBodySize => "http_response_body_size",
            Problem::HttpResponseTimeout => "http_response_timeout",
            Problem::HttpProtocolError => "http_protocol_error",
            Problem::HttpUpgradeFailed => "http_upgrade_failed",
            Problem::HttpRequestDenied => "http_request_denied",
            Problem::ProxyLoopDetected => "proxy_loop_detected",
            Problem::ProxyInternalError => "proxy_internal_error",
        }
    }

    /// The status RFC 9209 recommends for it.
    pub fn status(self) -> u16 {
        match self {
            Problem::DnsTimeout
            | Problem::ConnectionTimeout
            | Problem::ConnectionReadTimeout
            | Problem::ConnectionWriteTimeout
            | Problem::HttpResponseTimeout => 504,
            Problem::DestinationUnavailable | Problem::ConnectionLimitReached => 503,
            Problem::ProxyInternalError => 500,
            Problem::HttpRequestDenied => 403,
            Problem::DnsError
            | Problem::ConnectionRefused
            | Problem::ConnectionTerminated
            | Problem::HttpResponseIncomplete
            | Problem::HttpResponseHeaderSectionSize
            | Problem::HttpResponseBodySize
            | Problem::HttpProtocolError
            | Problem::HttpUpgradeFailed
            | Problem::ProxyLoopDetected => 502,
        }
    }
}

/// The longest details that are written, in bytes; what is longer is cut.
pub const MAX_DETAILS: usize = 256;

/// Writes a member of `Proxy-Status`. `proxy` is the name this proxy goes by; `received` the status a server
/// has answered with; `details` may be empty.
///
/// ```
/// use loopwright::service::proxy::proxy_status::{write, Problem};
/// let mut out = Vec::new();
/// write(&mut out, "loopwright", Some(Problem::ConnectionRefused), None, "port \"80\"");
/// assert_eq!(out, br#"loopwright; error=connection_refused; details="port \"80\"""#);
/// ```
pub fn write(
    out: &mut Vec<u8>,
    proxy: &str,
    problem: Option<Problem>,
    received: Option<u16>,
    details: &str,
) {
    match is_sf_token(proxy) {
        true => out.extend_from_slice(proxy.as_bytes()),
        false => write_string(out, proxy),
    }
    if let Some(problem) = problem {
        out.extend_from_slice(b"; error=");
        out.extend_from_slice(problem.name().as_bytes());
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
                Some(Problem::HttpProtocolError),
                Some(200),
                "",
                "loopwright; error=http_protocol_error; received-status=200",
            ),
            (
                "a b",
                Some(Problem::DnsError),
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
