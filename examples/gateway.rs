//! A gateway: requests are passed on to other servers, and their answers back, as they come.
//!
//! ```text
//! cargo run --example gateway -- 127.0.0.1:8080 http://127.0.0.1:9000 http://127.0.0.1:9001
//! ```

use loopwright::{App, Balance, Fetch, Server, Upstream};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let servers: Vec<String> = args.collect();

    let mut app = App::new();
    app.upstream("app", Upstream::new(servers).balance(Balance::TwoChoices));
    app.get("/{*rest}", |cx, req, res| {
        let fetch = Fetch::get(req.path()).header("host", req.host());
        let res = res.defer();
        cx.fetch(
            "app",
            fetch.answering(&res),
            move |_, answer| match answer {
                Ok(answer) => {
                    let kind = answer
                        .header("content-type")
                        .unwrap_or("text/plain")
                        .to_owned();
                    let res = res.status(answer.status().as_u16());
                    answer.pipe(res.header("content-type", kind));
                }
                Err(why) => res.status(why.status().as_u16()).text(why.to_string()),
            },
        );
    });
    Server::bind(listen, app, ())?.run()
}
