//! TechEmpower's database tests: rows of `world` as JSON, fortunes as a page.
//!
//! ```text
//! cargo run --example fortunes -- postgres://me@localhost/hello_world 8080
//! curl localhost:8080/db            one row at random
//! curl localhost:8080/queries?n=20  so many, each asked for by itself
//! curl localhost:8080/updates?n=20  so many, with another number from now on
//! curl localhost:8080/fortunes      a page
//! curl localhost:8080/cached?n=20   as /queries, from memory
//! ```
//! The database, if not given, is that of `DATABASE_URL`. It has the tables
//! `world (id int primary key, randomnumber int not null)` with ids from 1 to 10,000, and
//! `fortune (id int primary key, message text not null)`.
//!
//! These are callbacks, the fastest there is; the same with `await` is easier to read: docs/async.md.

use loopwright::service::pg::{Param, PgError, Postgres, Rows};
use loopwright::{App, Ctx, Request, Responder, Server};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::error::Error;
use std::rc::Rc;

const WORLD: &str = "select id, randomnumber from world where id = $1";
const ALL_WORLDS: &str = "select id, randomnumber from world order by id";
// In the order of the ids, so that two of these never wait for each other.
const UPDATE: &str = "update world set randomnumber = new.number
    from (select unnest($1::int[]) as id, unnest($2::int[]) as number order by 1) as new
    where world.id = new.id";
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

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().or_else(|| std::env::var("DATABASE_URL").ok());
    let url = url.ok_or("which database? fortunes [URL [PORT]], or DATABASE_URL")?;
    let port: u16 = args.next().as_deref().unwrap_or("8080").parse()?;

    let mut app = App::new();
    // Few connections: what is asked in one turn of the loop leaves in one write on each. A database with
    // more cores to itself than these would do with more.
    let database = Postgres::new(&url)?.connections(
        std::env::var("CONNS")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(4),
    );
    app.postgres("main", database.pipeline(8_192).queue(32_000));

    app.get("/db", |cx, _, res| {
        let res = res.defer();
        worlds(cx, [random()], |_, found| match found {
            Ok(worlds) => res.json(&worlds[0]),
            Err(error) => fail(res, &*error),
        });
    });
    app.get("/queries", |cx, req, res| {
        let (n, res) = (count(req), res.defer());
        worlds(cx, (0..n).map(|_| random()), |_, found| match found {
            Ok(worlds) => res.json(&worlds),
            Err(error) => fail(res, &*error),
        });
    });
    app.get("/updates", |cx, req, res| {
        let (n, res) = (count(req), res.defer());
        let mut ids = BTreeSet::new();
        while ids.len() < n {
            ids.insert(random());
        }
        worlds(cx, ids, |cx, found| match found {
            Ok(worlds) => update(cx, worlds, res),
            Err(error) => fail(res, &*error),
        });
    });
    app.get("/fortunes", |cx, _, res| {
        let res = res.defer();
        cx.pg("main")
            .query(FORTUNES, (), |_, rows| match page(rows) {
                Ok(page) => res.html(page),
                Err(error) => fail(res, &*error),
            });
    });
    app.get("/cached", |cx, req, res| {
        let n = count(req);
        if !cx.state.is_empty() {
            return res.json(&sample(cx.state, n));
        }
        let res = res.defer();
        cx.pg("main").query(ALL_WORLDS, (), move |cx, rows| {
            let all = || -> Found<Cache> { Ok(rows?.to()?) };
            match all() {
                Ok(all) => {
                    *cx.state = all;
                    res.json(&sample(cx.state, n));
                }
                Err(error) => fail(res, &*error),
            }
        });
    });

    Ok(Server::bind(format!("127.0.0.1:{port}"), app, Cache::new())?.run()?)
}

fn random() -> i32 {
    fastrand::i32(1..=10_000)
}

/// How many are wanted: 1 to 500.
fn count(req: &Request<'_>) -> usize {
    let n = req.query_param("n").and_then(|n| n.parse().ok());
    n.unwrap_or(1).clamp(1, 500)
}

fn fail(res: Responder, error: &(dyn Error + 'static)) {
    eprintln!("{error}");
    let status = error.downcast_ref().map_or(500, PgError::status);
    res.status(status).text("the database has no answer");
}

/// Asks for each of these, all at once. `then` is called with the last answer.
fn worlds(
    cx: &mut Cx<'_>,
    ids: impl IntoIterator<Item = i32>,
    then: impl FnOnce(&mut Cx<'_>, Found<Vec<World>>) + 'static,
) {
    let all = Rc::new((RefCell::new(Vec::new()), then));
    for id in ids {
        let all = all.clone();
        cx.pg("main").one(WORLD, [id], move |cx, row| {
            let world = || Ok(row?.ok_or("no such row")?.to()?);
            all.0.borrow_mut().push(world());
            // Who has it alone is the last.
            if let Some((found, then)) = Rc::into_inner(all) {
                then(cx, found.into_inner().into_iter().collect());
            }
        });
    }
}

fn update(cx: &mut Cx<'_>, mut worlds: Vec<World>, res: Responder) {
    for world in &mut worlds {
        world.random_number = random();
    }
    let ids: Vec<i32> = worlds.iter().map(|world| world.id).collect();
    let numbers: Vec<i32> = worlds.iter().map(|world| world.random_number).collect();
    let params = [ids, numbers].map(|list| Param::Typed(Box::new(list)));
    cx.pg("main")
        .execute(UPDATE, params, move |_, done| match done {
            Ok(_) => res.json(&worlds),
            Err(error) => fail(res, &error),
        });
}

/// The fortunes and one more, by their texts.
fn page(rows: Result<Rows, PgError>) -> Found<String> {
    let rows = rows?;
    let mut fortunes = rows
        .iter()
        .map(|row| Ok((row.get(1)?, row.get(0)?)))
        .collect::<Found<Vec<_>>>()?;
    fortunes.push(("Additional fortune added at request time.", 0));
    fortunes.sort_unstable();
    let mut page = String::from(PAGE);
    for (message, id) in fortunes {
        page += "<tr><td>";
        page += &i32::to_string(&id);
        page += "</td><td>";
        escape(message, &mut page);
        page += "</td></tr>";
    }
    Ok(page + "</table></body></html>")
}

fn escape(text: &str, page: &mut String) {
    for c in text.chars() {
        match c {
            '<' => *page += "&lt;",
            '>' => *page += "&gt;",
            '&' => *page += "&amp;",
            '"' => *page += "&quot;",
            '\'' => *page += "&#39;",
            c => page.push(c),
        }
    }
}

fn sample(all: &[World], n: usize) -> Vec<&World> {
    (0..n).map(|_| &all[fastrand::usize(..all.len())]).collect()
}
