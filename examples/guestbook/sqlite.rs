//! The entries in SQLite: what blocks is done on another thread, and awaited.

use super::sqlite_pool::SqlitePool;
use super::{Entry, Store, TOPIC};
use loopwright::{StatusError, Task};

/// Each is done once, in this order, and stays as it is: changes come behind it.
pub(crate) const MIGRATIONS: [&str; 2] = [
    include_str!("migrations/sqlite/0001_entries.sql"),
    include_str!("migrations/sqlite/0002_written.sql"),
];

pub(crate) async fn entries(
    pool: &SqlitePool,
    task: &Task<Store>,
) -> Result<Vec<Entry>, StatusError> {
    let sql = "select id, name, text, written from entries order by id desc limit 100";
    let entries = pool.read(task, move |connection| {
        let mut select = connection.prepare(sql)?;
        let entries = select.query_map((), |row| {
            Ok(Entry {
                id: row.get(0)?,
                name: row.get(1)?,
                text: row.get(2)?,
                written: row.get(3)?,
            })
        })?;
        entries.collect()
    });
    entries.await
}

pub(crate) async fn add(
    pool: &SqlitePool,
    task: &Task<Store>,
    name: String,
    text: String,
) -> Result<(), StatusError> {
    let told = format!("{name}: {text}");
    let sql =
        "insert into entries (name, text, written) values (?1, ?2, strftime('%Y-%m-%dT%H:%M:%SZ'))";
    let written = pool.write(task, move |tx| tx.execute(sql, [name, text]));
    written.await?;
    // It is kept: whether anybody can be told changes nothing.
    let published = task.with(move |cx| cx.publish(TOPIC, told.as_str())).await;
    if let Err(error) = published {
        log::warn!("nobody is told of an entry: {error}");
    }
    Ok(())
}
