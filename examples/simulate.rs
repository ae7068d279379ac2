//! An App of your own under a hundred seeds: `cargo run --example simulate`.
//!
//! Notes are kept in memory, and read back late. What clients do to it, and what the network does to
//! them, is drawn from the seed; what must be true is said here.

use loopwright::App;
use loopwright::sim::{Simulation, Template};
use std::collections::HashMap;
use std::time::Duration;

type Notes = HashMap<String, Vec<u8>>;

fn app() -> App<Notes> {
    let mut app: App<Notes> = App::new();
    app.post("/notes/{id}", |cx, req, res| {
        let (id, body) = (req.param("id").to_string(), req.body().to_vec());
        cx.state.insert(id, body);
        res.status(201).text("kept")
    });
    app.get("/slow/{ms}", |cx, req, res| {
        let ms = req.param("ms").parse().unwrap_or(0);
        let res = res.defer();
        cx.after(Duration::from_millis(ms), move |_| res.text("at last"));
    });
    app
}

fn main() {
    let simulation = Simulation::new(Notes::new, |_| app())
        .ask(
            Template::new("POST", "/notes/{id}")
                .body(0..=20_000)
                .check(|_, answer| match answer.status {
                    201 => Ok(()),
                    other => Err(format!("{other} instead of 201")),
                }),
        )
        .ask(Template::new("GET", "/slow/{n}").check(|request, answer| {
            let is_right = request.by_head || &*answer.body == b"at last";
            is_right.then_some(()).ok_or("another answer".to_string())
        }))
        .check(|notes, outcome| match outcome.requests {
            n if notes.len() as u64 <= n => Ok(()),
            n => Err(format!("{} notes of {n} requests", notes.len())),
        });
    match simulation.sweep(0..100) {
        Ok(seeds) => println!("{seeds} seeds are well"),
        Err(failure) => {
            eprintln!("{failure}");
            std::process::exit(1);
        }
    }
}
