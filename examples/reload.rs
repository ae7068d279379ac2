//! A server whose routes change while it runs. `cargo run --example reload`, then
//! `curl localhost:8080`, and type lines: each is the new answer. An empty one ends the program.
//!
//! The App is built on the loop's thread, between two turns; another thread only says that it is
//! time, and what has changed. Here that is a line of standard input. It may as well be a thread
//! that looks once a second whether a file has changed.

use loopwright::{App, Server};
use std::io::{BufRead, stdin};
use std::sync::mpsc;

/// The routes, made anew from what they depend on.
fn routes(text: String) -> App {
    let mut app = App::new();
    app.get("/", move |_, _, res| res.text(format!("{text}\n")));
    app
}

fn main() -> std::io::Result<()> {
    let builder = Server::builder().listen("127.0.0.1:8080");
    let mut server = builder.clone().build(routes("Hello, World!".into()), ())?;

    let (tell, news) = mpsc::channel();
    let handle = server.handle();
    std::thread::spawn(move || {
        let lines = stdin().lock().lines().map_while(Result::ok);
        for line in lines.take_while(|line| !line.is_empty()) {
            let _ = tell.send(line);
            // The loop may be asleep: whatever is posted ends that turn.
            let _ = handle.post(|_| {});
        }
        handle.stop();
    });

    println!("http://127.0.0.1:8080; type a line to change its answer, an empty one to end");
    // `true`: go on. `false`: it was told to stop, and everybody has been answered or cut.
    while server.turn()? {
        // Only the newest counts.
        let Some(text) = news.try_iter().last() else {
            continue;
        };
        // Other limits or addresses would go into this builder. After an error all is as it was.
        match server.reload(builder.clone(), routes(text)) {
            Ok(()) => println!("from now on, on open connections, too"),
            Err(e) => eprintln!("as before: {e}"),
        }
    }
    Ok(())
}
