//! Floor 4. The page that a server without a configuration shows: the loop at work, and a link to
//! each thing it can do here.

use crate::{App, Ctx, Demand, Instant};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const PAGE: &str = include_str!("welcome.html");

/// What the page shows of the loop.
#[derive(Default)]
struct Seen {
    requests: Cell<u64>,
    open: Cell<u64>,
}

/// The welcome site, as an App to serve or mount.
///
/// ```
/// use loopwright::{Server, service::welcome};
/// let server = Server::bind("127.0.0.1:0", welcome::site(), ()).unwrap();
/// # drop(server);
/// ```
pub fn site() -> App {
    let mut app = App::new();
    let seen = Rc::new(Seen::default());

    let counting = seen.clone();
    app.before(move |_, _, res| {
        counting.requests.set(counting.requests.get() + 1);
        counting.open.set(counting.open.get() + 1);
        Some(res)
    });
    let counting = seen.clone();
    app.after(move |_, _| counting.open.set(counting.open.get().saturating_sub(1)));

    app.get("/", |_, _, res| {
        res.header("cache-control", "no-cache").html(PAGE)
    });
    app.get("/loop", move |cx, _, res| {
        let uptime = (cx.now() - Instant::default()).as_secs_f64();
        let (requests, open) = (seen.requests.get(), seen.open.get());
        res.header("content-type", "application/json").text(format!(
            "{{\"uptime_seconds\":{uptime:.1},\"requests\":{requests},\"open_exchanges\":{open},\"process_id\":{}}}",
            std::process::id()
        ));
    });
    app.get("/hello/{name}", |_, req, res| {
        res.text(format!("Hello, {}!", req.param("name")))
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
        tick(cx, body, 10);
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

/// Counts down, a line every 300 ms; ends when the client has gone.
fn tick(cx: &mut Ctx<'_>, body: crate::BodyWriter, left: u32) {
    if left == 0 || body.is_closed() {
        return body.end();
    }
    body.write(format!("{left}\n"));
    cx.after(Duration::from_millis(300), move |cx| {
        tick(cx, body, left - 1)
    });
}
