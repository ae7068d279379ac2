//! A guestbook: a page with a form, the entries as JSON, and what is new as server-sent events. Without arguments it keeps
//! its entries in SQLite, in `guestbook.db`, and nothing has to be installed; with a URL, in PostgreSQL.
//!
//! ```sh
//! cargo run --example guestbook                                           # then open http://localhost:8080
//! cargo run --example guestbook -- guests.db 0.0.0.0:8080                 # another file, another address
//! cargo run --example guestbook -- postgres://ada@localhost/guests
//! curl localhost:8080/entries -d name=ada -d text=hello
//! curl localhost:8080/entries
//! ```
//! `sqlite.rs` and `postgres.rs` do the same on each of the two: the first blocks, so its work is offloaded; the other's
//! connections are the loop's own. The tables are plain SQL files, `migrations/`.

mod postgres;
mod sqlite;
#[path = "../support/sqlite_pool.rs"]
mod sqlite_pool;

use loopwright::service::channel::Channel;
use loopwright::service::pg::Postgres;
use loopwright::{App, Server, StatusError, Task};
use serde::{Deserialize, Serialize};
use sqlite_pool::SqlitePool;
use std::error::Error;

/// The topic of what is new.
const TOPIC: &str = "entries";
/// The longest name and text, in bytes: PostgreSQL notifies of no more than 8,000.
const LONGEST: usize = 3_000;

#[derive(Serialize, Deserialize)]
struct Entry {
    id: i64,
    name: String,
    text: String,
    written: String,
}

/// Where the entries are: the state of the server.
#[derive(Clone)]
enum Store {
    Sqlite(SqlitePool),
    Postgres,
}

impl Store {
    /// The latest.
    async fn entries(&self, task: &Task<Store>) -> Result<Vec<Entry>, StatusError> {
        match self {
            Store::Sqlite(pool) => sqlite::entries(pool, task).await,
            Store::Postgres => postgres::entries(task).await,
        }
    }

    /// Keeps a new one, and tells those who look at `/new`.
    async fn add(&self, task: &Task<Store>, name: String, text: String) -> Result<(), StatusError> {
        match self {
            Store::Sqlite(pool) => sqlite::add(pool, task, name, text).await,
            Store::Postgres => postgres::add(task, name, text).await,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::builder()
        .filter_level(log::LevelFilter::Info)
        .init();
    let mut args = std::env::args().skip(1);
    let database = args.next().unwrap_or_else(|| "guestbook.db".to_string());
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_string());

    let mut app: App<Store> = App::new();
    let store = if database.contains("://") {
        app.postgres(
            "main",
            Postgres::new(&database).map_err(|error| error.to_string())?,
        );
        Store::Postgres
    } else {
        Store::Sqlite(SqlitePool::open(database, &sqlite::MIGRATIONS)?)
    };

    app.get("/", |_, _, res| res.html(include_str!("page.html")));

    app.get("/entries", |cx, _, res| {
        let store = cx.state.clone();
        cx.answer(res, async move |task, res| {
            res.json(&store.entries(&task).await?);
            Ok::<_, StatusError>(())
        })
    });

    app.post("/entries", |cx, req, res| -> Result<(), Box<dyn Error>> {
        let (mut name, mut text) = (String::new(), String::new());
        for (key, value) in req.form()? {
            match &*key {
                "name" => name = value.into_owned(),
                "text" => text = value.into_owned(),
                _ => {}
            }
        }
        let is_fit = |s: &str| !s.is_empty() && s.len() <= LONGEST && !s.contains('\0');
        if !is_fit(&name) || !is_fit(&text) {
            let why = format!("want name and text, of at most {LONGEST} bytes");
            return Err(StatusError::new(400, why).into());
        }
        let store = cx.state.clone();
        Ok(cx.answer(res, async move |task, res| {
            store.add(&task, name, text).await?;
            res.redirect(303, "/");
            Ok::<_, StatusError>(())
        })?)
    });

    // What is new: server-sent events, WebSockets. Nobody else may say that something is.
    Channel::new(TOPIC).publish(false).mount(&mut app, "/new");

    let is_postgres = matches!(store, Store::Postgres);
    let mut server = Server::bind(address, app, store)?;
    if is_postgres {
        server.handle().post(postgres::start)?;
    }
    for listen in server.addresses() {
        eprintln!("listening on {}", listen.url());
    }
    server.run()?;
    Ok(())
}
