//! Sends back each message it gets, as text or binary as it came: `cargo run --example ws_echo -- --listen
//! 127.0.0.1:9001`. What the conformance suite and the benchmarks talk to.
//!
//! What is sent at `/topic` goes to everybody else there. Compression is agreed on with every client that offers it, and messages may have 64 MiB.

use loopwright::{App, Ctx, Limits, Message, Server, Socket, WebSocket};

/// Somebody at `/topic`.
struct Member;

impl Socket for Member {
    fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
        if let Err(e) = cx.subscribe(ws, "topic") {
            ws.close(1011, &e.to_string());
        }
    }

    fn message(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        if let Err(e) = cx.publish_from(ws, "topic", message) {
            ws.close(1013, &e.to_string());
        }
    }
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = match (args.next().as_deref(), args.next()) {
        (None, _) => "127.0.0.1:9001".to_string(),
        (Some("--listen"), Some(address)) => address,
        _ => {
            eprintln!("usage: ws_echo [--listen ADDRESS]");
            std::process::exit(2);
        }
    };
    const LONGEST: usize = 64 << 20;
    let limits = Limits {
        message: LONGEST,
        socket_output: LONGEST + 1024,
        output: LONGEST + 1024,
        // The suite takes an answer that is not compressed for a mistake.
        compress_from: 0,
        ..Limits::default()
    };
    let mut app: App = App::new();
    app.ws("/", |_, ws, message| ws.send(message));
    app.sockets("/topic", |_, _, _| Ok(Member));
    let mut server = Server::builder()
        .listen(address)
        .limits(limits)
        .build(app, ())?;
    for listen in server.addresses() {
        eprintln!("listening on {}", listen.url());
    }
    server.run()
}
