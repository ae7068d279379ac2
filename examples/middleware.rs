//! Middleware is a callback that hands the response on, or does not.
//! `cargo run --example middleware`, then `curl -i localhost:8080/admin` with and without `-H 'x-key: sesame'`.

use loopwright::{App, Server, StatusError};
use std::collections::BTreeMap;

#[derive(Default)]
struct Counts {
    by_status: BTreeMap<u16, u64>,
}

fn main() -> std::io::Result<()> {
    let mut app = App::<Counts>::new();

    // Every answer of this App, errors and unknown paths included.
    app.before(|_, _, res| Some(res.header("x-frame-options", "DENY")));
    app.after(|cx, done| *cx.state.by_status.entry(done.status()).or_default() += 1);

    app.get("/", |_, _, res| res.text("open to everybody\n"));
    app.get("/square/{n}", |_, req, res| -> Result<(), StatusError> {
        let n: u32 = req
            .param("n")
            .parse()
            .map_err(|e| StatusError::new(400, format!("{e}")))?;
        res.text(format!("{}\n", u64::from(n).pow(2)));
        Ok(())
    });

    // A group has middleware of its own, behind the App's.
    app.group("/admin", |admin| {
        admin.before(|_, req, res| {
            if req.header("x-key") == Some("sesame") {
                return Some(res);
            }
            res.status(401).text("who are you?\n");
            None
        });
        admin.get("/", |cx, _, res| {
            res.text(format!("{:?}\n", cx.state.by_status))
        });
    });

    // Pages of your own.
    app.not_found(|_, req, res| res.text(format!("nothing at {}\n", req.path())));
    app.on_error(|_, failure, res| res.text(format!("sorry: {}\n", failure.public_text())));

    Server::bind("127.0.0.1:8080", app, Counts::default())?.run()
}
