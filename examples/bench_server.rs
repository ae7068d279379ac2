//! What the benchmark measures: everything as by default, no access log.
//! `cargo run --release --example bench_server -- --listen 127.0.0.1:8080 --root DIR`

use loopwright::service::files::Files;
use loopwright::{App, Demand, Server};

#[derive(serde::Serialize)]
struct Message {
    message: &'static str,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut listen, mut root) = ("127.0.0.1:8080".to_string(), ".".to_string());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(format!("{arg} wants a value"))?;
        match arg.as_str() {
            "--listen" => listen = value,
            "--root" => root = value,
            _ => {
                return Err(
                    format!("unknown argument {arg}: want --listen ADDR, --root DIR").into(),
                );
            }
        }
    }

    let mut app: App = App::new();
    app.get("/", |_, _, res| res.text("ok"));
    app.stream("POST", "/", |_, _, res, body| body.pipe(res.stream()))
        .body_limit(16 << 20);
    app.get("/plaintext", |_, _, res| res.text("Hello, World!"));
    app.get("/json", |_, _, res| {
        res.json(&Message {
            message: "Hello, World!",
        })
    });
    app.get("/user/{id}", |_, req, res| res.text(req.param("id")));
    app.stream("POST", "/upload", |cx, _, res, body| {
        let start = (0u64, res.defer());
        body.fold(
            cx,
            start,
            |(total, _), _, chunk| {
                *total += chunk.len() as u64;
                Demand::More
            },
            |(total, res), _, end| {
                if end.is_ok() {
                    res.text(total.to_string());
                }
            },
        );
    })
    .body_limit(16 << 20);
    let directory = format!("{root}/static");
    match Files::new(&directory) {
        Ok(files) => drop(app.get("/static/{*rest}", files.handler("rest"))),
        Err(e) => eprintln!("no /static: {e}"),
    }

    let mut server = Server::bind(listen, app, ())?;
    for address in server.addresses() {
        eprintln!("listening on http://{address}");
    }
    Ok(server.run()?)
}
