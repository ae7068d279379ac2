//! SQLite for a loop that must not wait: whatever is asked is done on a thread of [`Task::offload`], with a connection of
//! its own, and awaited. Any library that blocks is used like this; copy what you need.
//!
//! ```text
//! read ──────────────────────┬─► limits.offload_queue ─► a thread: a connection that is idle, or a new one ─► work ─► handler
//! write ─► one at a time, ───┘
//!          in order of coming
//! ```
//! - **A pool, not a connection of each thread**: one that a panic has met is not used again, several databases may share
//!   the threads, and what is idle is closed with the pool. There are never more connections than
//!   `limits.offload_threads`, so nobody waits for one, and the lock is held for a push or a pop.
//! - **Write-ahead log** (`journal_mode = wal`): whoever writes keeps no reader waiting. Two that write do keep each other
//!   waiting, and SQLite only looks now and then whether it may go on; so here they queue, in the loop, where that takes no
//!   thread. Another process's lock is waited for, for [`BUSY`]: then it is 503. Meanwhile one thread blocks, and readers
//!   have the others.
//! - **A wait has an end.** What was asked more than [`WAIT`] before it could begin is not done any more, and neither is
//!   what nobody waits for. So a file that is locked for long costs a request `WAIT + BUSY` at the most, not that much for
//!   each of those before it.

use loopwright::{OffloadError, Resolver, StatusError, Task};
use rusqlite::{Connection, ErrorCode, OpenFlags, Result, Transaction, TransactionBehavior};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection waits for another process's lock.
pub(crate) const BUSY: Duration = Duration::from_secs(2);
/// How long what is asked may wait for its turn, and for a thread.
pub(crate) const WAIT: Duration = Duration::from_secs(3);

/// A database in a file. A clone is the same one.
#[derive(Clone)]
pub(crate) struct SqlitePool {
    file: Arc<File>,
    writers: Rc<Writers>,
}

/// What the threads share.
struct File {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
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
        let idle = Mutex::new(vec![connection]);
        let file = Arc::new(File { path, idle });
        let writers = Rc::default();
        Ok(SqlitePool { file, writers })
    }

    /// Does `work` elsewhere. What goes wrong goes to the log; the client is told 503 if it may try again, else 500.
    pub(crate) async fn read<S: 'static, T: Send + 'static>(
        &self,
        task: &Task<S>,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StatusError> {
        self.run(task, Instant::now(), |connection| work(connection))
            .await
    }

    /// The same in a transaction, when it is its turn: all that `work` does, or nothing.
    pub(crate) async fn write<S: 'static, T: Send + 'static>(
        &self,
        task: &Task<S>,
        work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StatusError> {
        let asked = Instant::now();
        let _turn = self.writers.turn(task).await;
        let written = self.run(task, asked, |connection| {
            // The lock at once: one that begins by reading may find that it cannot go on to write.
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        written.await
    }

    async fn run<S: 'static, T: Send + 'static>(
        &self,
        task: &Task<S>,
        asked: Instant,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StatusError> {
        let file = self.file.clone();
        // Dropped with this future, when its client leaves.
        let waits = Arc::new(());
        let is_wanted = Arc::downgrade(&waits);
        let done = task.offload(move || {
            let is_late = asked.elapsed() > WAIT || is_wanted.strong_count() == 0;
            match is_late {
                true => Done::TooLate,
                false => Done::Yes(file.with(work)),
            }
        });
        let (status, why) = match done.await {
            Ok(Done::Yes(Ok(value))) => return Ok(value),
            Ok(Done::Yes(Err(error))) => (status_of(&error), error.to_string()),
            Ok(Done::TooLate) => (503, format!("it was not its turn within {WAIT:?}")),
            Err(OffloadError::Full) => (503, OffloadError::Full.to_string()),
            Err(panicked) => (500, panicked.to_string()),
        };
        drop(waits);
        log::error!("{}: {why}", self.file.path.display());
        let text = match status {
            503 => "the database is busy: try again",
            _ => "the database has refused",
        };
        Err(StatusError::new(status, text))
    }
}

impl File {
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

/// Those who want to write. `None`: nobody does.
#[derive(Default)]
struct Writers(RefCell<Option<VecDeque<Resolver<Turn>>>>);

/// Dropped, it is the next one's. (If its client leaves while a thread is at its work, that goes on beside the next
/// one's, and SQLite has the one wait for the other.)
struct Turn(Rc<Writers>);

impl Writers {
    /// Ready when all who came before have written.
    fn turn<S: 'static>(self: &Rc<Self>, task: &Task<S>) -> loopwright::Call<S, Turn> {
        let writers = self.clone();
        task.call(move |_, done| {
            let mut queue = writers.0.borrow_mut();
            match &mut *queue {
                Some(queue) => queue.push_back(done),
                None => {
                    *queue = Some(VecDeque::new());
                    done.resolve(Turn(writers.clone()));
                }
            }
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.0.0.borrow_mut();
        let mut waiting = std::iter::from_fn(|| queue.as_mut()?.pop_front());
        let next = waiting.find(Resolver::is_wanted);
        if next.is_none() {
            *queue = None;
        }
        drop(queue);
        if let Some(next) = next {
            next.resolve(Turn(self.0.clone()));
        }
    }
}
