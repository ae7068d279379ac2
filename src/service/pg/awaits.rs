//! Floor 4. The same questions to be awaited: each is the callback of [`Pg`] behind [`Task::cancellable`]. A future that is
//! dropped gives its question up.

use super::{Params, Pg, PgError, PgErrorKind, PgQuery, Row, Rows, Sql, Tx};
use crate::{Call, Ctx, Task};
use std::rc::Rc;
use std::time::Duration;

/// A database, to be asked from a task: from [`Task::pg`].
///
/// ```no_run
/// use loopwright::{App, StatusError, asynchronous};
/// let mut app: App = App::new();
/// app.get("/users/{id}", asynchronous(|task, req, res| async move {
///     let sql = "select name from users where id = $1::text::int";
///     let user = task.pg("main").one(sql, (req.param("id").to_string(),)).await;
///     match user.map_err(|error| StatusError::new(error.status(), error.to_string()))? {
///         Some(row) => res.text(row.get::<String>("name").unwrap_or_default()),
///         None => res.status(404).text("no such user"),
///     }
///     Ok::<_, StatusError>(())
/// }));
/// ```
#[derive(Clone)]
pub struct TaskPg<S: 'static = ()> {
    task: Task<S>,
    name: Rc<str>,
    timeout: Option<Duration>,
}

/// A transaction of a task: from [`TaskPg::transaction`]. Dropped before [`TaskTx::commit`], it is rolled back.
pub struct TaskTx<S: 'static = ()> {
    task: Task<S>,
    tx: Tx<S>,
}

impl<S: 'static> Task<S> {
    /// The database of this name: see [`Ctx::pg`].
    pub fn pg(&self, name: &str) -> TaskPg<S> {
        TaskPg {
            task: self.clone(),
            name: name.into(),
            timeout: None,
        }
    }
}

impl<S: 'static> TaskPg<S> {
    /// How long an answer may take: see [`Pg::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        let timeout = Some(timeout);
        TaskPg { timeout, ..self }
    }

    fn ask<T: 'static>(
        &self,
        ask: impl FnOnce(Pg<'_, '_, S>, crate::Resolver<T>) -> PgQuery + 'static,
    ) -> Call<S, T> {
        let (name, timeout) = (self.name.clone(), self.timeout);
        self.task.cancellable(move |cx, done| {
            let pg = cx.pg(&name);
            let pg = match timeout {
                Some(timeout) => pg.timeout(timeout),
                None => pg,
            };
            // The one that was asked: by its name a reload may have brought another.
            let db = pg.db.clone();
            let query = ask(pg, done).id;
            move |cx: &mut Ctx<'_, S>| {
                if let Some(db) = db {
                    db.give_up(cx, query, PgErrorKind::Gone);
                }
            }
        })
    }

    /// All rows: see [`Pg::query`].
    pub fn query(
        &self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
    ) -> Call<S, Result<Rows, PgError>> {
        let (sql, params) = (sql.into(), params.into());
        self.ask(move |pg, done| pg.query(sql, params, move |_, rows| done.resolve(rows)))
    }

    /// The one row, or `None`: see [`Pg::one`].
    pub fn one(
        &self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
    ) -> Call<S, Result<Option<Row>, PgError>> {
        let (sql, params) = (sql.into(), params.into());
        self.ask(move |pg, done| pg.one(sql, params, move |_, row| done.resolve(row)))
    }

    /// How many rows were changed: see [`Pg::execute`].
    pub fn execute(
        &self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
    ) -> Call<S, Result<u64, PgError>> {
        let (sql, params) = (sql.into(), params.into());
        self.ask(move |pg, done| pg.execute(sql, params, move |_, n| done.resolve(n)))
    }

    /// Several statements: see [`Pg::batch`].
    pub fn batch(&self, sql: impl Into<Sql>) -> Call<S, Result<(), PgError>> {
        let sql = sql.into();
        self.ask(move |pg, done| pg.batch(sql, move |_, end| done.resolve(end)))
    }

    /// Begins a transaction: see [`Pg::transaction`].
    ///
    /// ```no_run
    /// use loopwright::service::pg::PgError;
    /// use loopwright::Task;
    /// async fn pay(task: &Task) -> Result<(), PgError> {
    ///     let tx = task.pg("main").transaction().await?;
    ///     let changed = tx.execute("update a set n = n - 1 where n > 0", ()).await?;
    ///     if changed == 0 {
    ///         return tx.rollback().await;
    ///     }
    ///     tx.execute("update b set n = n + 1", ()).await?;
    ///     tx.commit().await
    /// }
    /// ```
    ///
    /// # Errors
    /// There is no connection for it.
    pub async fn transaction(&self) -> Result<TaskTx<S>, PgError> {
        let begun = self.ask(|pg, done| pg.transaction(move |_, tx| done.resolve(tx)));
        let (task, tx) = (self.task.clone(), begun.await?);
        Ok(TaskTx { task, tx })
    }
}

impl<S: 'static> TaskTx<S> {
    fn ask<T: 'static>(
        &self,
        ask: impl FnOnce(&mut Ctx<'_, S>, Tx<S>, crate::Resolver<T>) + 'static,
    ) -> Call<S, T> {
        let tx = self.tx.clone();
        self.task.call(move |cx, done| ask(cx, tx, done))
    }

    /// All rows: see [`Tx::query`].
    pub fn query(
        &self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
    ) -> Call<S, Result<Rows, PgError>> {
        let (sql, params) = (sql.into(), params.into());
        self.ask(move |cx, tx, done| {
            tx.query(cx, sql, params, move |_, _, rows| done.resolve(rows));
        })
    }

    /// The one row, or `None`: see [`Tx::one`].
    pub fn one(
        &self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
    ) -> Call<S, Result<Option<Row>, PgError>> {
        let (sql, params) = (sql.into(), params.into());
        self.ask(move |cx, tx, done| {
            tx.one(cx, sql, params, move |_, _, row| done.resolve(row));
        })
    }

    /// How many rows were changed.
    ///
    /// # Errors
    /// As the server says.
    pub async fn execute(
        &self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
    ) -> Result<u64, PgError> {
        Ok(self.query(sql, params).await?.affected())
    }

    /// Several statements: see [`Tx::batch`].
    pub fn batch(&self, sql: impl Into<Rc<str>>) -> Call<S, Result<(), PgError>> {
        let sql = sql.into();
        self.ask(move |cx, tx, done| {
            tx.batch(cx, sql, move |_, _, end| done.resolve(end));
        })
    }

    /// A place to come back to: see [`Tx::savepoint`].
    pub fn savepoint(&self, name: &str) -> Call<S, ()> {
        let name = name.to_string();
        self.ask(move |cx, tx, done| {
            tx.savepoint(cx, &name);
            done.resolve(());
        })
    }

    /// Takes back what was done since: see [`Tx::rollback_to`].
    pub fn rollback_to(&self, name: &str) -> Call<S, ()> {
        let name = name.to_string();
        self.ask(move |cx, tx, done| {
            tx.rollback_to(cx, &name);
            done.resolve(());
        })
    }

    /// Ends it: all of it is done, or nothing; see [`Tx::commit`].
    ///
    /// # Errors
    /// Nothing was done.
    pub async fn commit(self) -> Result<(), PgError> {
        self.ask(|cx, tx, done| tx.commit(cx, move |_, end| done.resolve(end)))
            .await
    }

    /// Ends it: nothing of it is done.
    ///
    /// # Errors
    /// The connection is gone, and so is what was done.
    pub async fn rollback(self) -> Result<(), PgError> {
        self.ask(|cx, tx, done| tx.rollback(cx, move |_, end| done.resolve(end)))
            .await
    }
}
