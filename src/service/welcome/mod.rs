//! Floor 4. The site that a server without a configuration shows: the loop at work, demos, and what
//! to do next. Every byte is in the binary.
//!
//! The pages refer to each other by relative paths, so that the site works mounted, and behind a
//! proxy that takes a prefix away. Nothing is loaded from elsewhere, and the policy sent with every
//! answer says so.

mod watch;

use crate::{App, BodyWriter, Ctx, Demand, Request, Response};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;
use watch::Watchers;

const PAGE: &str = include_str!("page.html");

/// Where each page is, its title, and what it says.
const PAGES: [(&str, &str, &str); 3] = [
    ("/", "The loop at work", include_str!("loop.html")),
    ("/demos", "Demos", include_str!("demos.html")),
    ("/next", "What to do next", include_str!("next.html")),
];

const ASSETS: [(&str, &str, &str); 4] = [
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("style.css"),
    ),
    (
        "/script.js",
        "text/javascript; charset=utf-8",
        include_str!("script.js"),
    ),
    ("/favicon.svg", "image/svg+xml", include_str!("favicon.svg")),
    // Asked for by browsers that show an answer which is no page.
    ("/favicon.ico", "image/svg+xml", include_str!("favicon.svg")),
];

/// The program that the last page shows. It compiles:
/// ```no_run
#[doc = include_str!("embed.txt")]
/// ```
const EXAMPLE: &str = include_str!("embed.txt");

/// The configuration it shows.
const CONFIG: &str = include_str!("sample.toml");

/// What curl is shown instead of the first page.
const TEXT: &str = "\
loopwright is running.

GET  /loop.json     what the loop has done so far
GET  /loop          the same, four times a second (curl -N)
GET  /hello/{name}  a path parameter
GET  /slow          an answer deferred for a second
GET  /count         an answer streamed line by line (curl -N)
POST /upload        a body counted as it arrives (curl -X POST -T FILE)

A browser shows more.
";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'";

/// The welcome site, as an App to serve or mount.
///
/// ```
/// use loopwright::{App, Server, service::welcome};
/// let mut app = App::new();
/// app.mount("/welcome", welcome::site());
/// let server = Server::bind("127.0.0.1:0", app, ()).unwrap();
/// # drop(server);
/// ```
pub fn site() -> App {
    let mut app = App::new();
    app.before(|_, _, res| {
        let res = res.header("content-security-policy", POLICY);
        Some(res.header("x-content-type-options", "nosniff"))
    });
    for (path, title, main) in PAGES {
        let page = PAGE
            .replace("{title}", title)
            .replace("{main}", main)
            .replace("{config}", &escape(CONFIG.trim_end()))
            .replace("{example}", &escape(EXAMPLE.trim_end()));
        app.get(path, move |_, req, res| show(&page, path == "/", req, res));
    }
    for (path, content_type, text) in ASSETS {
        let tag = tag(text);
        app.get(path, move |_, req, res| {
            let res = res.header("cache-control", "no-cache").header("etag", &tag);
            match req.header("if-none-match") {
                Some(known) if known == tag => res.status(304).empty(),
                _ => res.header("content-type", content_type).text(text),
            }
        });
    }

    let watchers = Watchers::default();
    app.head("/loop", |_, _, res| watch::event_stream(res).empty());
    app.get("/loop", move |cx, _, res| watchers.admit(cx, res));
    app.get("/loop.json", |cx, _, res| {
        res.header("content-type", "application/json")
            .header("cache-control", "no-store")
            .text(watch::reading(cx) + "\n");
    });

    app.get("/hello/{name}", |_, req, res| {
        res.text(format!("Hello, {}!\n", req.param("name")))
    });
    app.get("/slow", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_secs(1), move |_| {
            res.text("a second later, and the loop did not wait\n")
        });
    });
    app.get("/count", |cx, _, res| {
        let body = res
            .header("content-type", "text/plain; charset=utf-8")
            .stream();
        count_down(cx, body, 10);
    });
    app.stream("POST", "/upload", |cx, _, res, body| {
        let start = (0u64, res.defer());
        let step = |(total, _): &mut (u64, _), _: &mut Ctx<'_>, chunk: &[u8]| {
            *total += chunk.len() as u64;
            Demand::More
        };
        body.fold(cx, start, step, |(total, res), _, end| {
            if end.is_ok() {
                res.text(format!("{total} bytes, none of them kept\n"));
            }
        });
    })
    .body_limit(1 << 30);
    app
}

/// Answers with a page; the first one is text for clients that have not asked for HTML.
fn show(page: &str, is_home: bool, req: &Request<'_>, res: Response<'_>) {
    let res = res
        .header("cache-control", "no-cache")
        .header("vary", "accept");
    let wants_html = req
        .header("accept")
        .is_some_and(|a| a.contains("text/html"));
    if is_home && !wants_html {
        return res.text(TEXT);
    }
    let (base, home) = whereabouts(req.path(), is_home);
    res.html(page.replace("{base}", &base).replace("{home}", &home));
}

/// Where the site is, seen from one of its pages, and where its first page is, seen from there:
/// mounted, that is `/welcome`, but the others are below `/welcome/`.
fn whereabouts(path: &str, is_home: bool) -> (String, String) {
    let home = match path.rsplit_once('/') {
        Some((above, _)) if !is_home => above,
        _ => path,
    };
    // What a client sent is in it if the site is mounted under a parameter.
    let name = home.rsplit('/').next().unwrap_or("");
    match (escape(name).as_str(), is_home) {
        ("", _) => ("./".into(), "./".into()),
        (name, true) => (format!("./{name}/"), format!("../{name}")),
        (name, false) => ("./".into(), format!("../{name}")),
    }
}

/// Text as HTML, between tags or in quotes.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('"', "&quot;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// Names a content, so that a browser which has it need not load it again.
fn tag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// A line every 300 ms; ends when the client has gone.
fn count_down(cx: &mut Ctx<'_>, body: BodyWriter, left: u32) {
    if left == 0 || body.is_closed() {
        return body.end();
    }
    body.write(format!("{left}\n"));
    cx.after(Duration::from_millis(300), move |cx| {
        count_down(cx, body, left - 1)
    });
}

#[cfg(test)]
mod tests {
    use super::whereabouts;

    #[test]
    fn the_site_is_found_from_each_page() {
        for (path, is_home, base, home) in [
            ("/", true, "./", "./"),
            ("/demos", false, "./", "./"),
            ("/welcome", true, "./welcome/", "../welcome"),
            ("/welcome/demos", false, "./", "../welcome"),
            ("/a/b", true, "./b/", "../b"),
            ("/a/b/demos", false, "./", "../b"),
            ("/\"&", true, "./&quot;&amp;/", "../&quot;&amp;"),
        ] {
            let want = (base.to_string(), home.to_string());
            assert_eq!(whereabouts(path, is_home), want, "{path}");
        }
    }
}
