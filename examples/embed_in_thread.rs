//! A server in a thread of a program that does something else. `cargo run --example embed_in_thread`
//!
//! The loop, its state and its callbacks live in that thread; the program reaches them through a
//! `Handle`, which is `Send`: it posts closures, and in the end asks the loop to stop.

use loopwright::{App, Server};
use std::io::{BufRead, stdin};
use std::sync::mpsc;

fn main() -> std::io::Result<()> {
    let (started, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || -> std::io::Result<usize> {
        let mut app = App::<Vec<String>>::new();
        app.get("/", |cx, _, res| res.text(cx.state.join("\n")));
        let mut server = Server::bind("127.0.0.1:8080", app, Vec::new())?;
        let _ = started.send(server.handle());
        server.run()?;
        Ok(server.state().len())
    });
    let Ok(handle) = wait.recv() else {
        // The thread ended before it began: its error says why.
        return thread.join().unwrap_or(Ok(0)).map(drop);
    };

    println!("type a line, and see it on http://127.0.0.1:8080; an empty one ends the program");
    for line in stdin().lock().lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Err(e) = handle.post(move |cx| cx.state.push(line)) {
            eprintln!("{e}");
        }
    }
    handle.stop();
    let lines = thread.join().unwrap_or(Ok(0))?;
    println!("{lines} lines were shown");
    Ok(())
}
