//! Floor 4. Transactions: a connection for several questions, until the last of them.
//!
//! ```text
//! BEGIN ─► open ─┬─ commit, rollback ──────────────► its answer ─► recycled
//!                ├─ the last handle dropped, too long, its client gone ─► recycled: ROLLBACK
//!                └─ the connection ends ─► over
//! ```
//! Invariant: while it is open, its connection answers nobody else. What comes after its end is [`PgErrorKind::Over`].

use super::hub::{Database, Db, Hub, Transaction};
use super::job::{Ask, Id, Sink};
use super::{CopyIn, Params, PgError, PgErrorKind, PgQuery, Row, Rows, Sql};
use crate::proto::pg::Query;
use crate::{Bytes, Ctx, Demand, Later};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A transaction: from [`Pg::transaction`](super::Pg::transaction). Its clones are the same one; when the last of them is
/// dropped, and it was not committed, it is rolled back.
///
/// What is asked is sent at once, and answered in order. When a query has failed, so do those behind it, up to a
/// [`Tx::rollback_to`]. One that was not asked ([`PgErrorKind::Refused`]: too many at once, too long, no query) cannot be
/// made up for: there is nothing to commit any more. One that is given up ([`Pg::cancel`](super::Pg::cancel)) ends it.
pub struct Tx<S: 'static = ()>(Rc<Open<S>>);

struct Open<S: 'static> {
    db: Db<S>,
    id: Id,
    later: Later<S>,
    /// Something of it was not asked, of which the server knows nothing.
    is_partial: Cell<bool>,
}

impl<S: 'static> Clone for Tx<S> {
    fn clone(&self) -> Tx<S> {
        Tx(self.0.clone())
    }
}

impl<S: 'static> Drop for Open<S> {
    fn drop(&mut self) {
        let (db, id) = (self.db.clone(), self.id);
        // Nobody is told of it: whoever had asked something had a handle.
        self.later
            .call(move |cx| db.give_up(cx, id, PgErrorKind::Over));
    }
}

/// A name within SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl<S: 'static> Tx<S> {
    /// Asks; `then` gets the transaction back, and all rows.
    pub fn query(
        &self,
        cx: &mut Ctx<'_, S>,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
        then: impl FnOnce(&mut Ctx<'_, S>, Tx<S>, Result<Rows, PgError>) + 'static,
    ) -> PgQuery {
        let query = Query::new(sql).with(params);
        let tx = self.clone();
        let sink = Sink::rows(move |cx, rows| then(cx, tx, rows));
        self.submit(cx, Ask::Query(query), sink)
    }

    /// Asks; `then` gets the transaction back, and the one row, or `None`. Two are an error.
    pub fn one(
        &self,
        cx: &mut Ctx<'_, S>,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
        then: impl FnOnce(&mut Ctx<'_, S>, Tx<S>, Result<Option<Row>, PgError>) + 'static,
    ) -> PgQuery {
        let name = self.0.db.name.clone();
        self.query(cx, sql, params, move |cx, tx, rows| {
            then(cx, tx, rows.and_then(|rows| rows.one(&name)));
        })
    }

    /// Asks; `row` gets one row after the other, as with [`Pg::each`](super::Pg::each). What was asked before it should have been
    /// answered: `row` may be called before the callback of that.
    pub fn each(
        &self,
        cx: &mut Ctx<'_, S>,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
        row: impl FnMut(&mut Ctx<'_, S>, Row) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Tx<S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        let query = Query::new(sql).with(params);
        let tx = self.clone();
        let sink = Sink::each(row, move |cx, rows| then(cx, tx, rows));
        self.submit(cx, Ask::Query(query), sink)
    }

    /// Several statements at once, without parameters.
    pub fn batch(
        &self,
        cx: &mut Ctx<'_, S>,
        sql: impl Into<Sql>,
        then: impl FnOnce(&mut Ctx<'_, S>, Tx<S>, Result<(), PgError>) + 'static,
    ) -> PgQuery {
        let tx = self.clone();
        let sink = Sink::rows(move |cx, rows| then(cx, tx, rows.map(|_| ())));
        self.submit(cx, Ask::Simple(sql.into()), sink)
    }

    /// `COPY … FROM STDIN`: see [`Pg::copy_in`](super::Pg::copy_in).
    pub fn copy_in(
        &self,
        cx: &mut Ctx<'_, S>,
        sql: impl Into<Sql>,
        source: impl FnMut(&mut Ctx<'_, S>) -> CopyIn + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Tx<S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        let tx = self.clone();
        let sink = Sink::copy_in(source, move |cx, rows| then(cx, tx, rows));
        self.submit(cx, Ask::CopyIn(sql.into()), sink)
    }

    /// `COPY … TO STDOUT`: see [`Pg::copy_out`](super::Pg::copy_out).
    pub fn copy_out(
        &self,
        cx: &mut Ctx<'_, S>,
        sql: impl Into<Sql>,
        piece: impl FnMut(&mut Ctx<'_, S>, Bytes) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Tx<S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        let tx = self.clone();
        let sink = Sink::copy_out(piece, move |cx, rows| then(cx, tx, rows));
        self.submit(cx, Ask::CopyOut(sql.into()), sink)
    }

    /// A place to come back to. Whether it was made is told by what comes after it: if not, that fails.
    pub fn savepoint(&self, cx: &mut Ctx<'_, S>, name: &str) {
        self.batch(cx, format!("SAVEPOINT {}", quoted(name)), |_, _, _| {});
    }

    /// Takes back what was done since the savepoint, errors included. The savepoint stays.
    pub fn rollback_to(&self, cx: &mut Ctx<'_, S>, name: &str) {
        let sql = format!("ROLLBACK TO SAVEPOINT {}", quoted(name));
        self.batch(cx, sql, |_, _, _| {});
    }

    /// Ends it: all of it is done, or nothing. If one of its queries has failed, nothing is, and `then` gets
    /// [`PgErrorKind::RolledBack`].
    pub fn commit(
        self,
        cx: &mut Ctx<'_, S>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<(), PgError>) + 'static,
    ) {
        let db = self.0.db.clone();
        let sql = match self.0.is_partial.get() {
            true => "ROLLBACK",
            false => "COMMIT",
        };
        self.end(cx, sql, move |cx, rows| {
            let done = rows.and_then(|rows| match rows.tag.as_str() {
                "COMMIT" => Ok(()),
                _ => Err(db.error(PgErrorKind::RolledBack)),
            });
            then(cx, done);
        });
    }

    /// Ends it: nothing of it is done.
    pub fn rollback(
        self,
        cx: &mut Ctx<'_, S>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<(), PgError>) + 'static,
    ) {
        self.end(cx, "ROLLBACK", |cx, rows| then(cx, rows.map(|_| ())));
    }

    fn end(
        self,
        cx: &mut Ctx<'_, S>,
        sql: &'static str,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Rows, PgError>) + 'static,
    ) {
        self.submit(cx, Ask::Simple(sql.into()), Sink::rows(then));
        let id = self.0.id;
        self.0.db.enter(cx, |hub, db, cx| {
            hub.limit_rest(db.settings.transaction, id);
            hub.end_transaction(cx, id);
        });
    }

    fn submit(&self, cx: &mut Ctx<'_, S>, ask: Ask, sink: Sink<S>) -> PgQuery {
        let Open {
            db, id, is_partial, ..
        } = &*self.0;
        let (query, was_asked) = db.submit_in(cx, *id, ask, sink);
        is_partial.set(is_partial.get() || !was_asked);
        let database = db.number;
        PgQuery {
            database,
            id: query,
        }
    }
}

impl<S: 'static> Hub<S> {
    /// What a transaction still waits for when it is to end has as much time as it had.
    fn limit_rest(&mut self, limit: Duration, id: Id) {
        let Some(&Transaction { conn, until, .. }) = self.transactions.get(&id) else {
            return;
        };
        let conn = self.conns.get(&conn);
        let asked: Vec<Id> = conn.map_or(Vec::new(), |conn| {
            conn.asked.iter().map(|(_, job)| *job).collect()
        });
        for job in asked {
            self.set_deadline(job, Some((until, limit, "transaction")));
        }
    }

    /// The server has begun one: whoever wanted it gets it, with its connection.
    pub(super) fn begun(&mut self, db: &Db<S>, cx: &mut Ctx<'_, S>, conn: Id, id: Id) {
        let Some((Sink::Begin(then), abort)) = self.take_job(id) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.tx = Some(id);
        }
        let until = cx.now() + db.settings.transaction;
        self.add_transaction(id, Transaction { conn, until, abort });
        let (db, later) = (db.clone(), cx.later());
        let is_partial = Cell::new(false);
        let tx = Tx(Rc::new(Open {
            db,
            id,
            later,
            is_partial,
        }));
        cx.later().call(move |cx| then(cx, Ok(tx)));
    }
}

impl<S: 'static> std::fmt::Debug for Tx<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Open { db, id, .. } = &*self.0;
        let db: &Database<S> = db;
        f.debug_tuple("Tx").field(&db.name).field(id).finish()
    }
}
