//! Answering later: from a timer, from another thread, from somebody else's request.
//! `cargo run --example delayed`, then `curl localhost:8080/slow`, or `curl localhost:8080/wait` in one
//! terminal and `curl localhost:8080/tell/hello` in another.

use loopwright::{App, Responder, Server};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everybody who waits for news, by number: who leaves is taken out.
#[derive(Default)]
struct Lobby {
    last: u64,
    waiting: BTreeMap<u64, Responder>,
}

fn main() -> std::io::Result<()> {
    let mut app = App::<Lobby>::new();

    // The loop goes on meanwhile; try it with a thousand at once.
    app.get("/slow", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_secs(1), move |_| {
            res.text("a second later\n")
        });
    });

    // Work that blocks goes to another thread, and comes back as a callback.
    app.get("/compute", |cx, _, res| {
        let res = res.defer();
        cx.offload(
            || (1..=20_000_000u64).map(|n| n % 7).sum::<u64>(),
            move |_, sum| match sum {
                Ok(sum) => res.text(format!("{sum}\n")),
                Err(e) => res.status(503).text(e.to_string()),
            },
        );
    });

    // A responder is a value: keep it, and answer when there is something to say.
    app.get("/wait", |cx, _, res| {
        let res = res.defer();
        cx.state.last += 1;
        let number = cx.state.last;
        cx.on_abort(&res, move |cx| drop(cx.state.waiting.remove(&number)));
        cx.state.waiting.insert(number, res);
    });
    app.get("/tell/{news}", |cx, req, res| {
        let told = cx.state.waiting.len();
        for (_, waiting) in std::mem::take(&mut cx.state.waiting) {
            waiting.text(format!("{}\n", req.param("news")));
        }
        res.text(format!("told {told}\n"));
    });

    Server::bind("127.0.0.1:8080", app, Lobby::default())?.run()
}
