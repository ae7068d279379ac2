//! The entries in PostgreSQL: its connections are the loop's, so nothing blocks.

use super::{Entry, Store, TOPIC};
use loopwright::service::pg::PgError;
use loopwright::{Ctx, StatusError, Task};

/// Each is done once, in this order, and stays as it is: changes come behind it.
const MIGRATIONS: [&str; 2] = [
    include_str!("migrations/postgres/0001_entries.sql"),
    include_str!("migrations/postgres/0002_written.sql"),
];

/// The first thing the loop does.
pub(crate) fn start(cx: &mut Ctx<'_, Store>) {
    let task = cx.task();
    let migrated = cx.spawn(async move {
        match migrate(&task).await {
            Ok(()) => log::info!("the tables are there"),
            Err(error) => {
                log::error!("the tables cannot be made: {error}");
                task.handle().stop();
            }
        }
    });
    // It goes on by itself.
    drop(migrated);

    let heard = cx.pg("main").listen(TOPIC, |cx, said| {
        if let Err(error) = cx.publish(TOPIC, said.payload.as_str()) {
            log::warn!("nobody is told of an entry: {error}");
        }
    });
    // For as long as the server runs.
    std::mem::forget(heard);
}

/// Does what was not done yet, all or nothing, and one process at a time.
async fn migrate(task: &Task<Store>) -> Result<(), PgError> {
    let tx = task.pg("main").transaction().await?;
    tx.query("select pg_advisory_xact_lock(7)", ()).await?;
    let table = "create table if not exists migrations (done int not null)";
    tx.query(table, ()).await?;
    let done = tx.query("select done from migrations", ()).await?.len();
    for (number, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        tx.batch(*sql).await?;
        let note = format!("insert into migrations values ({number})");
        tx.query(note, ()).await?;
        log::info!("migration {} is done", number + 1);
    }
    tx.commit().await
}

pub(crate) async fn entries(task: &Task<Store>) -> Result<Vec<Entry>, StatusError> {
    let sql = r#"select id, name, text, to_char(written at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as written
        from entries order by id desc limit 100"#;
    let rows = task.pg("main").query(sql, ()).await?;
    rows.to().map_err(|error| {
        log::error!("entries: {error}");
        StatusError::new(500, "not to be shown")
    })
}

pub(crate) async fn add(task: &Task<Store>, name: String, text: String) -> Result<(), StatusError> {
    // The entry, and word of it to all processes, this one too: both, or neither.
    let sql = "with new as (insert into entries (name, text) values ($1, $2) returning name, text)
        select pg_notify('entries', name || ': ' || text) from new";
    task.pg("main").execute(sql, [name, text]).await?;
    Ok(())
}
