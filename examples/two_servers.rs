//! Two servers in one process, one thread: a public one, and one for the operator.
//! `cargo run --example two_servers`, then `curl localhost:8080` and `curl localhost:8081`.
//!
//! There is no global state, so nothing stops you. Each has its loop; a turn of each is driven in
//! turns, waiting a little only while both are idle. (Or give each a thread, and call `run`.)

use loopwright::{App, Server};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let hits = Rc::new(Cell::new(0u64));

    let mut public = App::<Rc<Cell<u64>>>::new();
    public.get("/", |cx, _, res| {
        cx.state.set(cx.state.get() + 1);
        res.text("Hello, World!\n");
    });
    let mut operator = App::<Rc<Cell<u64>>>::new();
    operator.get("/", |cx, _, res| {
        res.text(format!("{} hits\n", cx.state.get()))
    });

    let mut public = Server::bind("127.0.0.1:8080", public, hits.clone())?;
    let mut operator = Server::bind("127.0.0.1:8081", operator, hits)?;
    let pause = Duration::from_millis(5);
    while public.turn_within(pause)? && operator.turn_within(pause)? {}
    Ok(())
}
