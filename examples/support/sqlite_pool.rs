//! SQLite for a loop that must not wait: whatever is asked is done on a thread of [`Task::offload`], with a connection of
//! its own, and awaited. Any library that blocks is used like this; copy what you need.
//!
//! ```text
//! handler ─ run(work) ─► limits.offload_queue ─► a thread: a connection that is idle, or a new one ─► work ─► handler
//! ```
//! - **A pool, not a connection of each thread**: one that a panic has met is not used again, several databases may share
//!   the threads, and what is idle is closed with the pool. There are never more connections than
//!   `limits.offload_threads`, so nobody waits for one, and the lock is held for a push or a pop.
//! - **Write-ahead log** (`journal_mode = wal`): whoever writes does not keep readers waiting. Two that write do: the second
//!   waits for [`BUSY`], and then it is 503.
//! - **A wait has an end.** What was asked more than [`WAIT`] before a thread is there for it is not done any more, and
//!   neither is what nobody waits for. So a file that is locked for long costs each request `WAIT + BUSY` at the most,
//!   instead of all those before it in the queue.

use loopwright::{OffloadError, StatusError, Task};
use rusqlite::{Connection, ErrorCode, OpenFlags, Result, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a connection waits for another's lock.
pub(crate) const BUSY: Duration = Duration::from_secs(2);
/// How long what is asked may wait for a thread.
pub(crate) const WAIT: Duration = Duration::from_secs(3);

/// A database in a file. A clone is the same one.
#[derive(Clone)]
pub(crate) struct SqlitePool {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// What has become of what was asked.
enum Done<T> {
    Yes(Result<T>),
    TooLate,
}

impl SqlitePool {
    /// Opens it, and does those migrations that were not done yet: all or nothing, one process at a time. This blocks, so
    /// it is for the time before the loop runs.
    pub(crate) fn open(path: impl Into<PathBuf>, migrations: &[&str]) -> Result<SqlitePool> {
        let path = path.into();
        let mut connection = connect(&path, OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // SQLite keeps this number for us; it is part of the transaction.
        let done = tx.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
        for (number, sql) in (1..).zip(migrations).skip(done as usize) {
            tx.execute_batch(sql)?;
            tx.pragma_update(None, "user_version", number)?;
            log::info!("migration {number} is done");
        }
        tx.commit()?;
        let idle = Arc::new(Mutex::new(vec![connection]));
        Ok(SqlitePool { path, idle })
    }

    /// Does `work` elsewhere. What goes wrong goes to the log; the client is told 503 if it may try again, else 500.
    pub(crate) async fn run<S: 'static, T: Send + 'static>(
        &self,
        task: &Task<S>,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StatusError> {
        let (pool, asked) = (self.clone(), Instant::now());
        let waits = Arc::new(());
        let is_wanted = Arc::downgrade(&waits);
        let done = task.offload(move || match is_late(asked, &is_wanted) {
            true => Done::TooLate,
            false => Done::Yes(pool.with(work)),
        });
        let (status, why) = match done.await {
            Ok(Done::Yes(Ok(value))) => return Ok(value),
            Ok(Done::Yes(Err(error))) => (status_of(&error), error.to_string()),
            Ok(Done::TooLate) => (503, format!("no thread was free for it within {WAIT:?}")),
            Err(OffloadError::Full) => (503, OffloadError::Full.to_string()),
            Err(panicked) => (500, panicked.to_string()),
        };
        // Dropped earlier, if this future is: then nobody waits.
        drop(waits);
        log::error!("{}: {why}", self.path.display());
        let text = match status {
            503 => "the database is busy: try again",
            _ => "the database has refused",
        };
        Err(StatusError::new(status, text))
    }

    /// On a thread that may block.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle().pop();
        let mut connection = match connection {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::empty())?,
        };
        let done = work(&mut connection);
        idle().push(connection);
        done
    }
}

fn is_late(asked: Instant, is_wanted: &Weak<()>) -> bool {
    asked.elapsed() > WAIT || is_wanted.strong_count() == 0
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    // Each connection is one thread's at a time, so it needs no lock of SQLite's.
    let usual = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, usual | flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

fn status_of(error: &rusqlite::Error) -> u16 {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => 503,
        _ => 500,
    }
}
