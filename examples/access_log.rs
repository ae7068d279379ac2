//! An access log that never makes a request wait: `cargo run --example access_log`, then
//! `curl localhost:8080/hello`. To a file that may be moved away, with a USR1 afterwards:
//! `cargo run --example access_log -- 127.0.0.1:8080 access.log`.

use loopwright::process::{self, log::AccessTarget, log::LogSettings};
use loopwright::service::access_log::{Format, access_log};
use loopwright::{App, Server};
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or("127.0.0.1:8080".into());
    let access = match arguments.next() {
        None => AccessTarget::Stdout,
        Some(path) => AccessTarget::File(path.into()),
    };
    process::log::init(&LogSettings {
        access,
        ..LogSettings::default()
    })?;

    let mut app = App::new();
    app.after(access_log(Format::Json));
    app.get("/", |_, _, res| res.text("Hello, World!\n"));
    app.get("/hello/{name}", |_, req, res| res.text(req.param("name")));
    app.get("/warn", |_, _, res| {
        log::warn!("somebody asked for a warning");
        res.text("warned\n");
    });

    let mut server = Server::bind(listen, app, ())?;
    process::stop_on_signals(server.handle())?;
    log::info!("listening on {}", server.addresses()[0].url());
    server.run()?;
    process::log::flush(Duration::from_secs(2));
    Ok(())
}
