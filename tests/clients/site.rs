//! The site that curl, Python and Node are let loose on.

use loopwright::{App, BodyWriter, Cookie, Ctx, Demand, Incoming, Request, Response, StatusError};
use std::sync::OnceLock;
use std::time::Duration;

/// Byte `i` of every large body is `i % 251`: a piece that is lost, doubled or moved shows, for no
/// size of a buffer is a multiple of 251.
pub(crate) fn pattern(from: usize, len: usize) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let all = PATTERN.get_or_init(|| (0..=250).collect::<Vec<u8>>().repeat((34 << 20) / 251));
    &all[from % 251..][..len]
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Point {
    x: i32,
    y: i32,
}

pub(crate) fn site() -> App {
    let mut app = App::new();
    app.get("/", |_, _, res| res.text("home"));
    app.get("/remote", |_, req, res| res.text(req.remote().to_string()));
    app.get("/host", |_, req, res| res.text(req.host()));
    app.any("/method", |_, req, res| res.text(req.method().as_str()));
    app.get("/users/{id}", |_, req, res| res.text(req.param("id")));
    app.get("/files/{*rest}", |_, req, res| res.text(req.param("rest")));
    app.get("/query", |_, req, res| res.text(lines(req.query_pairs())));
    app.get("/nothing", |_, _, res| res.status(204).empty());

    app.post("/form", |_, req, res| -> Result<(), StatusError> {
        res.text(lines(req.form()?));
        Ok(())
    });
    app.post("/json", |_, req, res| -> Result<(), StatusError> {
        let Point { x, y } = req.json()?;
        res.json(&Point { x: y, y: x });
        Ok(())
    });
    app.get("/cookies", |_, req, res| {
        let seen = req
            .cookies()
            .map(|c| (c.name().to_string(), c.value().to_string()));
        let seen = lines(seen);
        let theme = Cookie::build(("theme", "dark & blue; =")).path("/");
        let visits = Cookie::build(("visits", "1")).path("/").http_only(true);
        res.cookie(theme.build()).cookie(visits.build()).text(seen);
    });

    app.get("/old", |_, _, res| res.redirect(301, "/new?from=old"));
    app.get("/new", |_, req, res| res.text(req.query().unwrap_or("")));
    app.post("/submit", |_, _, res| res.redirect(303, "/method"));
    app.post("/moved", |_, _, res| res.redirect(307, "/mirror"));
    app.post("/mirror", |_, req, res| res.text(req.body()));

    app.get("/slow", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_millis(100), |_| res.text("worth the wait"));
    });
    app.get("/megabytes/{n}", |cx, req, res| {
        let n: usize = req.param("n").parse().unwrap_or(0);
        produce(cx, res.stream(), 0, n << 20);
    });
    app.get("/sized/{n}", |cx, req, res| {
        let n: usize = req.param("n").parse().unwrap_or(0);
        produce(cx, res.defer().stream_sized((n << 20) as u64), 0, n << 20);
    });
    app.get("/trailers", |_, _, res| {
        let body = res.header("trailer", "x-sum").defer().stream();
        body.write("summed");
        body.end_with_trailers(&[("x-sum", "42")]);
    });

    for method in ["POST", "PUT"] {
        app.stream(method, "/check", check).body_limit(1 << 30);
        app.stream(method, "/echo", |_, _, res, body| body.pipe(res.stream()))
            .body_limit(1 << 30);
        app.stream(method, "/refuse", |_, _, res, _| {
            res.status(403).text("not you")
        })
        .body_limit(1 << 30);
        app.route(method, "/small", |_, req, res| res.text(req.body()))
            .body_limit(1000);
    }
    app.stream("POST", "/trailers", |cx, _, res, body| {
        body.fold(
            cx,
            res.defer(),
            |_, _, _| Demand::More,
            |res, _, end| {
                let sum = end.ok().and_then(|trailers| trailers.get("x-sum"));
                res.text(sum.unwrap_or_default())
            },
        );
    });
    app
}

fn lines(pairs: impl Iterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> String {
    pairs
        .map(|(k, v)| format!("{}={}\n", k.as_ref(), v.as_ref()))
        .collect()
}

/// `len` bytes of the pattern, from `from` on, as fast as the client takes them.
pub(crate) fn produce<S: 'static>(
    cx: &mut Ctx<'_, S>,
    body: BodyWriter,
    mut from: usize,
    len: usize,
) {
    while from < len && !body.is_full() {
        let piece = pattern(from, (len - from).min(16 * 1024));
        body.write(piece);
        from += piece.len();
    }
    if from < len {
        cx.on_drain(body, move |cx, body| produce(cx, body, from, len));
    }
}

/// Counts a body for as long as it is the pattern.
fn check(cx: &mut Ctx<'_>, _: &Request<'_>, res: Response<'_>, body: Incoming) {
    struct Seen {
        total: usize,
        is_right: bool,
    }
    let start = Seen {
        total: 0,
        is_right: true,
    };
    body.fold(
        cx,
        (start, res.defer()),
        |(seen, _), _, piece| {
            seen.is_right &= piece == pattern(seen.total, piece.len());
            seen.total += piece.len();
            Demand::More
        },
        |(seen, res), _, end| {
            let is_right = seen.is_right && end.is_ok();
            res.text(format!(
                "{} bytes, {}",
                seen.total,
                if is_right { "right" } else { "wrong" }
            ));
        },
    );
}
