//! The tests on SQLite: each request is one piece of work for a thread that may block.

use super::sqlite_pool::SqlitePool;
use super::{ALL_WORLDS, Cache, FORTUNES, Found, WORLD, World};
use super::{count, different, page, random, sample};
use loopwright::{App, StatusError, Task};
use rusqlite::{Connection, Result, Row, Transaction};

const UPDATE: &str = "update world set randomnumber = ?2 where id = ?1";

pub(crate) fn routes(app: &mut App<Cache>, file: &str) -> Found<()> {
    let pool = SqlitePool::open(file, &[include_str!("tables.sql")])?;

    let db = pool.clone();
    app.get("/db", move |cx, _, res| {
        let db = db.clone();
        cx.answer(res, async move |task, res| {
            let found = db.read(&task, |db| worlds(db, [random()]));
            res.json(&found.await?[0]);
            Ok::<_, StatusError>(())
        })
    });

    let db = pool.clone();
    app.get("/queries", move |cx, req, res| {
        let (n, db) = (count(req), db.clone());
        cx.answer(res, async move |task, res| {
            let found = db.read(&task, move |db| worlds(db, (0..n).map(|_| random())));
            res.json(&found.await?);
            Ok::<_, StatusError>(())
        })
    });

    let db = pool.clone();
    app.get("/updates", move |cx, req, res| {
        let (n, db) = (count(req), db.clone());
        cx.answer(res, async move |task, res| {
            let updated = db.write(&task, move |tx| update(tx, n));
            res.json(&updated.await?);
            Ok::<_, StatusError>(())
        })
    });

    let db = pool.clone();
    app.get("/fortunes", move |cx, _, res| {
        let db = db.clone();
        cx.answer(res, async move |task, res| {
            res.html(db.read(&task, fortunes).await?);
            Ok::<_, StatusError>(())
        })
    });

    app.get("/cached", move |cx, req, res| {
        let (n, db) = (count(req), pool.clone());
        cx.answer(res, async move |task: Task<Cache>, res| {
            if task.with(|cx| cx.state.is_empty()).await {
                let all = db.read(&task, |db| {
                    db.prepare(ALL_WORLDS)?.query_map((), world)?.collect()
                });
                let all: Cache = all.await?;
                task.with(|cx| *cx.state = all).await;
            }
            task.with(move |cx| res.json(&sample(cx.state, n))).await;
            Ok::<_, StatusError>(())
        })
    });
    Ok(())
}

fn world(row: &Row<'_>) -> Result<World> {
    let (id, random_number) = (row.get(0)?, row.get(1)?);
    Ok(World { id, random_number })
}

fn worlds(db: &Connection, ids: impl IntoIterator<Item = i32>) -> Result<Vec<World>> {
    let mut select = db.prepare(WORLD)?;
    ids.into_iter()
        .map(|id| select.query_row([id], world))
        .collect()
}

fn update(tx: &Transaction<'_>, n: usize) -> Result<Vec<World>> {
    let mut worlds = worlds(tx, different(n))?;
    let mut update = tx.prepare(UPDATE)?;
    for world in &mut worlds {
        world.random_number = random();
        update.execute((world.id, world.random_number))?;
    }
    Ok(worlds)
}

fn fortunes(db: &Connection) -> Result<String> {
    let mut select = db.prepare(FORTUNES)?;
    let fortunes = select.query_map((), |row| Ok((row.get(1)?, row.get(0)?)))?;
    let fortunes: Vec<(String, i32)> = fortunes.collect::<Result<_>>()?;
    Ok(page(
        fortunes.iter().map(|(text, id)| (&**text, *id)).collect(),
    ))
}
