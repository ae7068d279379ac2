//! A guestbook in PostgreSQL: pages, a form, and what is new as server-sent events. The tables are made at the start, by plain
//! SQL that is done once each.
//!
//! ```sh
//! cargo run --example guestbook -- postgres://ada@localhost/guests
//! curl localhost:8080/entries -d name=ada -d text=hello
//! curl localhost:8080/entries
//! ```

use loopwright::service::channel::Channel;
use loopwright::service::pg::{Postgres, Tx};
use loopwright::{App, Ctx, Server, StatusError};
use std::error::Error;

/// Each is done once, in this order, and stays as it is: changes come behind it.
const MIGRATIONS: [&str; 2] = [
    "create table entries (id bigint generated always as identity primary key, name text not null, text text not null)",
    "alter table entries add column written timestamptz not null default now()",
];

/// Does what was not done yet, all or nothing, and one process at a time.
fn migrate(cx: &mut Ctx<'_>) {
    cx.pg("main").transaction(|cx, tx| {
        let tx = match tx {
            Ok(tx) => tx,
            Err(error) => return give_up(cx, &error),
        };
        let begin = "select pg_advisory_xact_lock(7); create table if not exists migrations (done int not null)";
        tx.batch(cx, begin, |cx, tx, begun| {
            if let Err(error) = begun {
                return give_up(cx, &error);
            }
            tx.query(cx, "select count(*)::int from migrations", (), |cx, tx, rows| {
                let done = rows.map_err(|error| error.to_string()).and_then(|rows| {
                    let first = rows.first().ok_or("no count")?;
                    first.get::<i32>(0).map_err(|error| error.to_string())
                });
                match done {
                    Ok(done) => next(cx, tx, usize::try_from(done).unwrap_or(0)),
                    Err(error) => give_up(cx, &error),
                }
            });
        });
    });
}

fn next(cx: &mut Ctx<'_>, tx: Tx, done: usize) {
    let Some(sql) = MIGRATIONS.get(done) else {
        return tx.commit(cx, |cx, committed| match committed {
            Ok(()) => log::info!("the tables are there"),
            Err(error) => give_up(cx, &error),
        });
    };
    let sql = format!("{sql}; insert into migrations values ({done})");
    tx.batch(cx, sql, move |cx, tx, migrated| match migrated {
        Ok(()) => next(cx, tx, done + 1),
        Err(error) => give_up(cx, &error),
    });
}

fn give_up(cx: &mut Ctx<'_>, why: &dyn std::fmt::Display) {
    log::error!("the tables cannot be made: {why}");
    cx.stop();
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::builder()
        .filter_level(log::LevelFilter::Info)
        .init();
    let url = std::env::args()
        .nth(1)
        .ok_or("want a URL: postgres://user@host/database")?;
    let mut app = App::new();
    app.postgres("main", Postgres::new(&url)?);

    app.get("/entries", |cx, _, res| {
        let res = res.defer();
        let sql = "select id, name, text, written from entries order by id desc limit 100";
        cx.pg("main")
            .answering(&res)
            .query(sql, (), move |_, rows| {
                let mut out = Vec::new();
                match rows {
                    Ok(rows) if rows.json(&mut out).is_ok() => {
                        res.header("content-type", "application/json").bytes(out);
                    }
                    Ok(_) => res.status(500).text("not to be shown"),
                    Err(error) => {
                        let error = StatusError::from(error);
                        res.status(error.status().as_u16()).text(error.to_string());
                    }
                }
            });
    });

    app.post("/entries", |cx, req, res| -> Result<(), StatusError> {
        let mut entry = [String::new(), String::new()];
        for (key, value) in req.form()? {
            match &*key {
                "name" => entry[0] = value.into_owned(),
                "text" => entry[1] = value.into_owned(),
                _ => {}
            }
        }
        if entry.iter().any(String::is_empty) {
            return Err(StatusError::new(400, "want name and text"));
        }
        let res = res.defer();
        // The entry, and word of it to all processes: both, or neither.
        let sql =
            "with new as (insert into entries (name, text) values ($1, $2) returning name, text)
                   select pg_notify('entries', name || ': ' || text) from new";
        cx.pg("main")
            .execute(sql, entry, move |_, written| match written {
                Ok(_) => res.redirect(303, "/entries"),
                Err(error) => {
                    let error = StatusError::from(error);
                    res.status(error.status().as_u16()).text(error.to_string());
                }
            });
        Ok(())
    });

    // What is new: server-sent events, WebSockets.
    Channel::new("entries").mount(&mut app, "/new");

    let mut server = Server::bind("127.0.0.1:8080", app, ())?;
    server.handle().post(|cx| {
        migrate(cx);
        let heard = cx.pg("main").listen("entries", |cx, said| {
            // To those who look at /new.
            let _ = cx.publish("entries", said.payload.as_str());
        });
        // For as long as the server runs.
        std::mem::forget(heard);
    })?;
    server.run()?;
    Ok(())
}
