//! The tests on PostgreSQL, as callbacks. This is what `scripts/bench db` measures.

use super::{ALL_WORLDS, Cache, Cx, FORTUNES, Found, WORLD, World};
use super::{count, different, page, random, sample};
use loopwright::service::pg::{Param, PgError, Postgres, Row, Rows};
use loopwright::{App, Responder};
use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;

// In the order of the ids, so that two of these never wait for each other.
const UPDATE: &str = "update world set randomnumber = new.number
    from (select unnest($1::int[]) as id, unnest($2::int[]) as number order by 1) as new
    where world.id = new.id";

pub(crate) fn routes(app: &mut App<Cache>, url: &str) -> Found<()> {
    // One connection, on which all is under way at once, as the servers have it that this is measured beside: what is
    // asked in a turn of the loop leaves in one write. A database with cores to spare does more with more.
    let database = Postgres::new(url).map_err(|error| error.to_string())?;
    let database = database.connections(1);
    app.postgres("main", database.pipeline(8_192).queue(32_000));

    app.get("/db", |cx, _, res| {
        let res = res.defer();
        let asked = cx.pg("main");
        asked.one(WORLD, [random()], |_, row| match world(row) {
            Ok(world) => res.json(&world),
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
        worlds(cx, different(n), |cx, found| match found {
            Ok(worlds) => update(cx, worlds, res),
            Err(error) => fail(res, &*error),
        });
    });
    app.get("/fortunes", |cx, _, res| {
        let res = res.defer();
        cx.pg("main")
            .query(FORTUNES, (), |_, rows| match fortunes(rows) {
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
    Ok(())
}

fn fail(res: Responder, error: &(dyn Error + 'static)) {
    eprintln!("{error}");
    let status = error.downcast_ref().map_or(500, PgError::status);
    res.status(status).text("the database has no answer");
}

fn world(row: Result<Option<Row>, PgError>) -> Found<World> {
    let row = row?.ok_or("no such row")?;
    let (id, random_number) = (row.get(0)?, row.get(1)?);
    Ok(World { id, random_number })
}

/// Asks for each of these, all at once. `then` is called with the last answer.
fn worlds(
    cx: &mut Cx<'_>,
    ids: impl IntoIterator<Item = i32>,
    then: impl FnOnce(&mut Cx<'_>, Found<Vec<World>>) + 'static,
) {
    let all = Rc::new((RefCell::new(Ok(Vec::new())), then));
    for id in ids {
        let all = all.clone();
        cx.pg("main").one(WORLD, [id], move |cx, row| {
            let mut found = all.0.borrow_mut();
            match (&mut *found, world(row)) {
                (Ok(worlds), Ok(world)) => worlds.push(world),
                (Ok(_), Err(error)) => *found = Err(error),
                (Err(_), _) => {}
            }
            drop(found);
            // Who has it alone is the last.
            if let Some((found, then)) = Rc::into_inner(all) {
                then(cx, found.into_inner());
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

fn fortunes(rows: Result<Rows, PgError>) -> Found<String> {
    let rows = rows?;
    let fortunes = rows.iter().map(|row| Ok((row.get(1)?, row.get(0)?)));
    Ok(page(fortunes.collect::<Found<Vec<_>>>()?))
}
