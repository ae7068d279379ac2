//! What an answer takes of memory that is larger than it: in a process of its own, for all of it is counted.

#[path = "pg_service/installed.rs"]
mod installed;
#[allow(dead_code)]
#[path = "pg_service/server.rs"]
mod server;

use loopwright::{BodyWriter, Ctx, Demand};
use server::{Cluster, Loop, PATIENCE};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
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

/// One at a time: each counts all that the process has.
static COUNTED: Mutex<()> = Mutex::new(());

#[test]
fn a_million_rows_for_a_slow_consumer_are_not_in_memory() {
    const ROWS: u64 = 1_000_000;
    let _counted = COUNTED.lock().unwrap_or_else(|e| e.into_inner());
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

/// A client's answer that stays open, and what is asked for it, so many at once until there were as many as wanted.
struct Feed {
    body: BodyWriter,
    left: Cell<u32>,
    under_way: Cell<u32>,
    tell: Sender<()>,
}

fn ask(cx: &mut Ctx<'_>, feed: &Rc<Feed>) {
    while feed.under_way.get() < 500 && feed.left.get() > 0 {
        feed.left.set(feed.left.get() - 1);
        feed.under_way.set(feed.under_way.get() + 1);
        let again = feed.clone();
        let pg = cx.pg("main").answering(&feed.body);
        pg.query("select 1", (), move |cx, rows| {
            // The test is over.
            if rows.is_err() {
                return;
            }
            again.under_way.set(again.under_way.get() - 1);
            ask(cx, &again);
        });
    }
    if feed.left.get() == 0 && feed.under_way.get() == 0 {
        let _ = feed.tell.send(());
    }
}

#[test]
fn what_was_asked_for_a_long_answer_and_is_answered_is_forgotten() {
    const ASKED: u32 = 200_000;
    let _counted = COUNTED.lock().unwrap_or_else(|e| e.into_inner());
    let cluster = Cluster::shared();
    let (tell, told) = channel();
    let main = Loop::with(cluster.settings("feed").connections(2), move |app| {
        app.get("/feed", move |cx, _, res| {
            let feed = Rc::new(Feed {
                body: res.stream(),
                left: Cell::new(20_000),
                under_way: Cell::new(0),
                tell: tell.clone(),
            });
            let again = feed.clone();
            ask(cx, &feed);
            let _ = cx.every(Duration::from_millis(100), move |cx| {
                if again.left.get() == 0 && again.under_way.get() == 0 {
                    again.left.set(ASKED);
                    ask(cx, &again);
                }
            });
        });
    });
    let mut client = TcpStream::connect(main.address).expect("a connection");
    let asked = client.write_all(b"GET /feed HTTP/1.1\r\nhost: a\r\n\r\n");
    asked.expect("asked");
    assert!(client.read(&mut [0; 64]).expect("a head") > 0);
    told.recv_timeout(PATIENCE).expect("warm");
    let before = resident();
    told.recv_timeout(PATIENCE).expect("all");
    let grown = resident().saturating_sub(before);
    assert!(grown < 3 << 20, "{grown} bytes for {ASKED} questions");
}
