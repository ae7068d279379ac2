//! TechEmpower's database tests: rows of `world` as JSON, fortunes as a page.
//!
//! ```text
//! cargo run --example fortunes                                                  in SQLite: fortunes.db
//! cargo run --example fortunes -- postgres://me@localhost/hello_world 8080
//! curl localhost:8080/db            one row at random
//! curl localhost:8080/queries?n=20  so many, each asked for by itself
//! curl localhost:8080/updates?n=20  so many, with another number from now on
//! curl localhost:8080/fortunes      a page
//! curl localhost:8080/cached?n=20   as /queries, from memory
//! ```
//! The database, if not given, is that of `DATABASE_URL`. A file is filled when it is made; in PostgreSQL do that first:
//! `psql -f examples/fortunes/tables.sql hello_world`.
//!
//! `postgres.rs` has callbacks, the fastest there is; `sqlite.rs` awaits, which is easier to read: docs/async.md.

mod postgres;
mod sqlite;
#[path = "../support/sqlite_pool.rs"]
mod sqlite_pool;

use loopwright::{App, Ctx, Request, Server};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write;

const WORLD: &str = "select id, randomnumber from world where id = $1";
const ALL_WORLDS: &str = "select id, randomnumber from world order by id";
const FORTUNES: &str = "select id, message from fortune";
const PAGE: &str = "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>\
    <tr><th>id</th><th>message</th></tr>";

#[derive(Serialize, Deserialize)]
struct World {
    id: i32,
    #[serde(rename(deserialize = "randomnumber", serialize = "randomNumber"))]
    random_number: i32,
}

type Found<T> = Result<T, Box<dyn Error>>;
/// The state: what /cached answers from, empty until it is asked for.
type Cache = Vec<World>;
type Cx<'a> = Ctx<'a, Cache>;

fn main() -> Found<()> {
    env_logger::init();
    let mut args = std::env::args().skip(1);
    let database = args.next().or_else(|| std::env::var("DATABASE_URL").ok());
    let database = database.unwrap_or_else(|| "fortunes.db".to_string());
    let port: u16 = args.next().as_deref().unwrap_or("8080").parse()?;

    let mut app = App::new();
    match database.contains("://") {
        true => postgres::routes(&mut app, &database)?,
        false => sqlite::routes(&mut app, &database)?,
    }
    let mut server = Server::bind(format!("127.0.0.1:{port}"), app, Cache::new())?;
    for listen in server.addresses() {
        eprintln!("listening on {}", listen.url());
    }
    Ok(server.run()?)
}

fn random() -> i32 {
    fastrand::i32(1..=10_000)
}

/// So many, no two of them the same, in order: so two updates never wait for each other.
fn different(n: usize) -> BTreeSet<i32> {
    let mut ids = BTreeSet::new();
    while ids.len() < n {
        ids.insert(random());
    }
    ids
}

/// How many are wanted: 1 to 500.
fn count(req: &Request<'_>) -> usize {
    let n = req.query_param("n").and_then(|n| n.parse().ok());
    n.unwrap_or(1).clamp(1, 500)
}

/// The fortunes and one more, by their texts.
fn page(mut fortunes: Vec<(&str, i32)>) -> String {
    fortunes.push(("Additional fortune added at request time.", 0));
    fortunes.sort_unstable();
    let mut page = String::with_capacity(2048);
    page += PAGE;
    for (message, id) in fortunes {
        let _ = write!(page, "<tr><td>{id}</td><td>");
        escape(message, &mut page);
        page += "</td></tr>";
    }
    page + "</table></body></html>"
}

fn escape(text: &str, page: &mut String) {
    let mut done = 0;
    for (at, byte) in text.bytes().enumerate() {
        let instead = match byte {
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'&' => "&amp;",
            b'"' => "&quot;",
            b'\'' => "&#39;",
            _ => continue,
        };
        *page += &text[done..at];
        *page += instead;
        done = at + 1;
    }
    *page += &text[done..];
}

fn sample(all: &[World], n: usize) -> Vec<&World> {
    (0..n).map(|_| &all[fastrand::usize(..all.len())]).collect()
}
