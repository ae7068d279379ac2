//! Streaming both ways with back-pressure: nothing is ever held whole.
//! `cargo run --example upload`, then `curl -T FILE -X POST localhost:8080/count`,
//! `curl -T FILE -X POST localhost:8080/upper`, `curl --limit-rate 1M -o /dev/null localhost:8080/zeros`.

use loopwright::{App, BodyWriter, Bytes, Ctx, Demand, Server};

const GIGABYTE: u64 = 1 << 30;

/// Writes as long as there is room, and comes back when there is again.
fn zeros(cx: &mut Ctx<'_>, body: BodyWriter, mut left: u64) {
    static PIECE: [u8; 16 * 1024] = [0; 16 * 1024];
    while left > 0 && !body.is_full() {
        body.write(Bytes::from_static(&PIECE));
        left = left.saturating_sub(PIECE.len() as u64);
    }
    if left > 0 {
        cx.on_drain(body, move |cx, body| zeros(cx, body, left));
    }
}

fn main() -> std::io::Result<()> {
    let mut app = App::new();

    // A step per piece; the answer at the end.
    app.stream("POST", "/count", |cx, _, res, body| {
        body.fold(
            cx,
            (0u64, res.defer()),
            |(total, _), _, chunk| {
                *total += chunk.len() as u64;
                Demand::More
            },
            |(total, res), _, end| match end {
                Ok(_) => res.text(format!("{total} bytes\n")),
                Err(why) => log::info!("after {total} bytes: {why}"),
            },
        );
    })
    .body_limit(GIGABYTE);

    // What `write` says is what the step says: a slow reader slows its own upload down.
    app.stream("POST", "/upper", |cx, _, res, body| {
        let step = |out: &mut BodyWriter, _: &mut Ctx<'_>, chunk: &[u8]| {
            out.write(chunk.to_ascii_uppercase())
        };
        body.fold(cx, res.stream(), step, |out, _, end| {
            if end.is_err() {
                out.abort()
            }
        });
    })
    .body_limit(GIGABYTE);

    // Without a callback in between, the loop does it.
    app.stream("POST", "/echo", |_, _, res, body| body.pipe(res.stream()))
        .body_limit(GIGABYTE);

    app.get("/zeros", |cx, _, res| zeros(cx, res.stream(), GIGABYTE));

    Server::bind("127.0.0.1:8080", app, ())?.run()
}
