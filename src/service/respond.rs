//! Floor 4. Answers that need no thought: a fixed one, and the way to another place.

use crate::{Ctx, Request, Response};
use bytes::Bytes;

/// A handler that always answers the same: a status, a media type, a body.
///
/// ```
/// use loopwright::{App, service::respond::respond};
/// let mut app: App = App::new();
/// app.get("/robots.txt", respond(200, "text/plain", "User-agent: *\nDisallow:\n"));
/// ```
pub fn respond<S: 'static>(
    status: u16,
    content_type: &str,
    body: impl Into<Bytes>,
) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) + 'static {
    let (content_type, body) = (content_type.to_string(), body.into());
    move |_, _, res| {
        res.status(status)
            .header("content-type", &content_type)
            .bytes(body.clone())
    }
}

/// A handler that sends the client elsewhere: 301 and 308 for good, 302 and 307 for now, 303 to read
/// the result of a POST. `{name}` in the location is replaced by the path parameter of that name,
/// percent-encoded, and `{host}` by the host that was asked for, without its port; the query is kept
/// unless the location has one. A request without a host, to a location that needs it, is 400.
///
/// ```
/// use loopwright::{App, service::respond::redirect};
/// let mut app: App = App::new();
/// app.any("/blog/{*rest}", redirect(308, "https://blog.example.org/{rest}"));
/// ```
pub fn redirect<S: 'static>(
    status: u16,
    location: &str,
) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) + 'static {
    let location = location.to_string();
    move |_, req, res| {
        if location.contains("{host}") && host(req).is_empty() {
            return res.status(400).text("Bad Request");
        }
        let mut to = expand(&location, req);
        if let Some(query) = req.query().filter(|_| !to.contains('?')) {
            to = format!("{to}?{query}");
        }
        res.redirect(status, to)
    }
}

/// What a resource that says nothing of methods allows: those of RFC 9110 §9.3 and RFC 5789 that are about
/// its content. OPTIONS says which; TRACE and CONNECT are 405, a method nobody knows is 501.
#[cfg(feature = "config")]
pub(crate) fn for_known_methods<S: 'static>(
    mut call: impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) + 'static,
) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) + 'static {
    const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    move |cx, req, res| match req.method().as_str() {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" => call(cx, req, res),
        "OPTIONS" => res.status(204).header("allow", ALLOW).empty(),
        "TRACE" | "CONNECT" => res
            .status(405)
            .header("allow", ALLOW)
            .text("Method Not Allowed"),
        _ => res.status(501).text("Not Implemented"),
    }
}

fn expand(template: &str, req: &Request<'_>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        match after.split_once('}') {
            Some((name, after)) => {
                if name == "host" && req.param(name).is_empty() {
                    // What a head may name as its host is a URL's host as it stands.
                    out.push_str(host(req));
                    rest = after;
                    continue;
                }
                let value = req.param(name);
                // A value that begins with a slash would make `/{rest}` another host's address.
                let value = if out.ends_with('/') {
                    value.trim_start_matches(['/', '\\'])
                } else {
                    value
                };
                out.extend(percent_encoding::utf8_percent_encode(value, PATH));
                rest = after;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    // A parameter that came to nothing must not turn a path into another host's address.
    if template.starts_with('/') && !template.starts_with("//") {
        let doubled = out.len() - out.trim_start_matches('/').len();
        out.drain(1..doubled.max(1));
    }
    out
}

/// The host that was asked for, without its port.
fn host<'a>(req: &Request<'a>) -> &'a str {
    let authority = req.host();
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

/// RFC 3986 §3.3: what a path may hold as it is.
const PATH: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=');
