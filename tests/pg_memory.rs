//! What an answer takes of memory that is larger than it: in a process of its own, for all of it is counted.

#[path = "pg_service/installed.rs"]
mod installed;
#[allow(dead_code)]
#[path = "pg_service/server.rs"]
mod server;

use loopwright::Demand;
use server::{Cluster, Loop, PATIENCE};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// What this process keeps in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("memory");
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number") * 4096
}

#[test]
fn a_million_rows_for_a_slow_consumer_are_not_in_memory() {
    const ROWS: u64 = 1_000_000;
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("million"));
    main.ask("select 1 as n").expect("an answer");
    let before = resident();
    let told = main.call(move |cx, tell: Sender<(Result<u64, String>, u64, usize)>| {
        let (seen, most, query) = (
            Rc::new(Cell::new(0)),
            Rc::new(Cell::new(0)),
            Rc::new(Cell::new(None)),
        );
        let (seen_row, most_row, asked) = (seen.clone(), most.clone(), query.clone());
        let sql = "select n, repeat('x', 100) as text from generate_series(1, 1000000) n";
        let id = cx.pg("main").each(
            sql,
            (),
            move |cx, row| {
                seen_row.set(seen_row.get() + 1);
                assert_eq!(row.get::<i32>(0).expect("a number") as u64, seen_row.get());
                // A pause after each 20,000.
                if seen_row.get() % 20_000 != 0 {
                    return Demand::More;
                }
                most_row.set(resident().max(most_row.get()));
                let asked: Rc<Cell<_>> = asked.clone();
                // The first one is long enough for all to come, if it could.
                let pause = if seen_row.get() == 20_000 { 1000 } else { 5 };
                cx.after(Duration::from_millis(pause), move |cx| {
                    if let Some(id) = asked.get() {
                        cx.pg("main").resume(id);
                    }
                });
                Demand::Hold
            },
            move |_, end| {
                tell.send((
                    end.map_err(|error| error.to_string()),
                    seen.get(),
                    most.get(),
                ))
                .expect("told");
            },
        );
        query.set(Some(id));
    });
    let (end, seen, most) = told.recv_timeout(PATIENCE).expect("an end");
    assert_eq!((end, seen), (Ok(ROWS), ROWS));
    // 120 MB have come.
    let grown = most.saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes more");
}
