//! Floor 4. A client of PostgreSQL on the loop: a pool of connections that are links, on which many questions are under
//! way at once.
//!
//! ```text
//! query ──► queue ─┬─ an idle connection ───────────────────────────────────────┐
//!                  ├─ room for another: it is made meanwhile                    ├─► Session ─► Link ─► server
//!                  └─ neither: the least loaded one that is shared (pipelining) ┘
//! answer ─► callback;  the connection's last ─► clean? ─► idle, or for the next of the queue
//!                                                └─ ROLLBACK, DISCARD ALL ─┘, or closed
//! ```
//! - `mod.rs`: what an embedder sees. [`Postgres`] (settings), [`Pg`] (asking), [`Rows`], [`PgStatus`].
//! - `job.rs`: a question, and who waits for its answer.
//! - `hub.rs`: the connections and the queue before them. Nothing of the embedder's runs while it is in use.
//! - `answers.rs`: what comes, and who it is for.
//! - `cancel.rs`: giving up, and what the server is told of it.
//! - `transaction.rs`, `listen.rs`, `error.rs`; `awaits.rs`: the same, to be awaited.
//!
//! What may change a session (anything but `select`, `insert`, `update`, `delete`, `merge`, `values`, `table`, `with`, `show`,
//! `explain`), what may hold it up ([`Pg::each`], copies) and transactions have a connection to themselves. Before it is
//! anybody else's, it is made clean, or closed.

mod answers;
mod awaits;
mod cancel;
mod error;
mod hub;
mod job;
mod listen;
mod transaction;

pub use crate::proto::pg::{
    Column, Columns, ConvertError, DbError, Notification, Param, Params, QueryError, Refusal, Row,
    Sql, Url, UrlError, types,
};
pub use awaits::{TaskPg, TaskTx};
pub use error::{PgError, PgErrorKind};
pub use listen::Listening;
pub use transaction::Tx;

use super::dial::setters;
use crate::base::id::StreamRef;
use crate::proto::pg::{Limits, Query, Tag};
use crate::{App, Bytes, Ctx, Demand, Open};
use hub::{Database, Db};
use job::{Ask, Sink};
use smallvec::SmallVec;
use std::rc::Rc;
use std::time::Duration;

/// Where a database is, and how much may be asked of it. Each worker has a pool of its own.
///
/// ```no_run
/// use loopwright::{App, Server, service::pg::Postgres};
/// use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut app = App::new();
/// let database = Postgres::new("postgres://shop:s3cret@db.example/shop")?
///     .connections(20)
///     .statement_timeout(Duration::from_secs(5));
/// app.postgres("main", database);
/// app.get("/users/{id}", |cx, req, res| {
///     let (id, res) = (req.param("id").to_string(), res.defer());
///     cx.pg("main").answering(&res).one("select name from users where id = $1::text::int", (id,), move |_, row| {
///         match row {
///             Ok(Some(row)) => res.text(row.get::<String>("name").unwrap_or_default()),
///             Ok(None) => res.status(404).text("no such user"),
///             Err(error) => res.status(error.status()).text("the database has no answer"),
///         }
///     });
/// });
/// Server::bind("0.0.0.0:8080", app, ())?.run()?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Postgres {
    url: Url,
    connections: usize,
    warm: usize,
    idle: Duration,
    lifetime: Duration,
    jitter: f64,
    queue: usize,
    queue_wait: Duration,
    timeout: Duration,
    transaction: Duration,
    hold: Duration,
    result: usize,
    retry: Duration,
    ping: Duration,
    limits: Limits,
}

impl Postgres {
    /// At `postgres://user:password@host:port/database`: see [`Url`] for what else may stand there.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(url: &str) -> Result<Postgres, UrlError> {
        Ok(Postgres::at(url.parse()?))
    }

    /// At a URL that was read already.
    pub fn at(mut url: Url) -> Postgres {
        let parameters = &mut url.settings.parameters;
        if !parameters.iter().any(|(key, _)| key == "application_name") {
            parameters.push(("application_name".into(), "loopwright".into()));
        }
        let mut limits = Limits::default();
        limits.startup = url.connect_timeout.unwrap_or(limits.startup);
        Postgres {
            url,
            connections: 10,
            warm: 0,
            idle: Duration::from_secs(600),
            lifetime: Duration::from_secs(3600),
            jitter: 0.1,
            queue: 1024,
            queue_wait: Duration::from_secs(3),
            timeout: Duration::from_secs(60),
            transaction: Duration::from_secs(60),
            hold: Duration::from_secs(60),
            result: 16 * 1024 * 1024,
            retry: Duration::from_secs(2),
            ping: Duration::from_secs(30),
            limits,
        }
    }

    setters! {
        /// Connections, at the most; at least 1. Default 10.
        connections: usize;
        /// Connections that are made ahead of need. Default 0.
        warm: usize;
        /// How long a connection may be idle. Default 10 minutes.
        idle: Duration;
        /// How old a connection may be when it is used again. Default 1 hour.
        lifetime: Duration;
        /// By which share of it, at the most, a connection's lifetime is shorter, so that those made together do not end
        /// together: 0 to 1. Default 0.1.
        jitter: f64;
        /// Questions that may wait for a connection. Default 1024.
        queue: usize;
        /// How long. Default 3 s.
        queue_wait: Duration;
        /// How long an answer may take, waiting included, unless [`Pg::timeout`] says otherwise. It does not hold for
        /// [`Pg::each`] and copies. Default 60 s.
        timeout: Duration;
        /// How long a transaction may be open. Default 60 s.
        transaction: Duration;
        /// How long who takes rows one by one may say [`Demand::Hold`]. Default 60 s.
        hold: Duration;
        /// Bytes of the rows of one answer, if they are not taken one by one. Default 16 MiB.
        result: usize;
        /// The longest pause before another attempt to connect; the first is 100 ms, each is drawn at random. Default 2 s.
        retry: Duration;
        /// How often the connection that listens is asked whether it is there. Default 30 s.
        ping: Duration;
        /// Queries on a connection without an answer. Default 128.
        pipeline: usize, of limits;
        /// Bytes of one message: of a row, of a query with its parameters. Default 16 MiB.
        message: usize, of limits;
        /// Prepared statements that each connection keeps. Default 256.
        statements: usize, of limits;
        /// Bytes that wait to be sent on a connection; what is asked beyond them waits for another, or in the queue. Default 4
        /// MiB.
        output: usize, of limits;
        /// Bytes that one row, or all rows of an answer, may be as JSON. Default 64 MiB.
        json: usize, of limits;
        /// How long the server may owe an answer without a sign of it; then the connection is given up. Default 60 s.
        reply: Duration, of limits;
    }

    /// How long it may take until a connection is ready, the login included. Default 10 s.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Postgres {
        self.limits.startup = connect_timeout;
        self
    }

    /// A parameter of the session, as `SET` has it: `search_path`, `lock_timeout`, …
    pub fn parameter(mut self, name: &str, value: &str) -> Postgres {
        let parameters = &mut self.url.settings.parameters;
        parameters.retain(|(key, _)| key != name);
        parameters.push((name.into(), value.into()));
        self
    }

    /// How long the server lets a statement run: what holds even if nobody is there to cancel it. Default: as the server
    /// has it, which mostly is for ever.
    pub fn statement_timeout(self, timeout: Duration) -> Postgres {
        let millis = timeout.as_millis().clamp(1, 2_147_483_647);
        self.parameter("statement_timeout", &millis.to_string())
    }
}

impl<S: 'static> App<S> {
    /// A database, to be asked with [`Ctx::pg`]. Connections are made when they are needed; a reload that brings the same
    /// settings keeps them.
    pub fn postgres(&mut self, name: impl Into<String>, settings: Postgres) -> &mut Self {
        let name = name.into();
        let database = Database::<S>::new(&name, settings);
        self.store(name, database)
    }
}

impl<'c, S: 'static> Ctx<'c, S> {
    /// The database of this name, to ask it something. If there is none, whoever asks is told.
    pub fn pg<'a>(&'a mut self, name: &'a str) -> Pg<'a, 'c, S> {
        let db = self.store::<Database<S>>(name);
        Pg {
            name,
            cx: self,
            timeout: None,
            most: usize::MAX,
            client: None,
            db,
        }
    }
}

/// A question to a database, about to be asked: from [`Ctx::pg`].
///
/// Callbacks are called later, exactly once (those of rows as often as there are rows), in the order of the answers. Queries
/// of different requests are independent: they may run at once, on different connections.
#[must_use = "nothing was asked yet"]
pub struct Pg<'a, 'c, S: 'static = ()> {
    cx: &'a mut Ctx<'c, S>,
    name: &'a str,
    db: Option<Db<S>>,
    /// Who waits for the answer.
    client: Option<StreamRef>,
    timeout: Option<Duration>,
    /// How many rows there may be.
    most: usize,
}

/// Names a question: for [`Pg::cancel`] and [`Pg::resume`]. When it is answered, it names nothing, and is harmless.
///
/// ```no_run
/// use loopwright::App;
/// use std::time::Duration;
/// let mut app: App = App::new();
/// app.get("/report", |cx, _, res| {
///     let res = res.defer();
///     let asked = cx.pg("main").execute("select slow_report()", (), |_, done| match done {
///         Ok(_) => res.text("done"),
///         Err(error) => res.status(error.status()).text("not done"),
///     });
///     cx.after(Duration::from_secs(5), move |cx| cx.pg("main").cancel(asked));
/// });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PgQuery {
    /// The database that was asked: by its name a reload may have brought another.
    database: u64,
    id: job::Id,
}

/// The next piece of what is copied in: see [`Pg::copy_in`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyIn {
    /// Rows, or parts of them, in the format that `COPY` was told.
    Data(Bytes),
    /// Nothing yet: ask again after [`Pg::resume`].
    Wait,
    /// That was all.
    End,
    /// Nothing of it is to be, and why.
    Abort(String),
}

impl<S: 'static> Pg<'_, '_, S> {
    /// If nobody waits for this answer any more, the question is given up: taken out of the queue, or cancelled if the
    /// server is at it and nobody else's question is behind it on its connection. Its callback is called all the same, with
    /// [`PgErrorKind::Gone`].
    pub fn answering(self, answer: &impl Open) -> Self {
        let client = Some(answer.exchange());
        Pg { client, ..self }
    }

    /// How long the answer may take, waiting included; then the question is given up, as above, with
    /// [`PgErrorKind::Deadline`].
    pub fn timeout(self, timeout: Duration) -> Self {
        let timeout = Some(timeout);
        Pg { timeout, ..self }
    }

    /// How many rows [`Pg::query`] may have; with one more the question is given up, as above, with
    /// [`PgErrorKind::TooManyRows`]. Default: as many as are in `result` bytes.
    ///
    /// ```no_run
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/names", |cx, _, res| {
    ///     let res = res.defer();
    ///     cx.pg("main").rows(100).query("select name from users", (), move |_, rows| match rows {
    ///         Ok(rows) => res.text(format!("{} names", rows.len())),
    ///         Err(error) => res.status(error.status()).text("too many, or none"),
    ///     });
    /// });
    /// ```
    pub fn rows(self, most: usize) -> Self {
        Pg { most, ..self }
    }

    /// Asks; `then` gets all rows.
    pub fn query(
        self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Rows, PgError>) + 'static,
    ) -> PgQuery {
        let query = Query::new(sql).with(params);
        self.submit(Ask::Query(query), Sink::rows(then))
    }

    /// Asks; `then` gets the one row, or `None`. Two are an error.
    pub fn one(
        self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Option<Row>, PgError>) + 'static,
    ) -> PgQuery {
        let name = self.db.as_ref().map(|db| db.name.clone());
        let name = name.unwrap_or_else(|| self.name.into());
        self.query(sql, params, move |cx, rows| {
            then(cx, rows.and_then(|rows| rows.one(&name)))
        })
    }

    /// Does; `then` gets how many rows were inserted, changed or deleted.
    pub fn execute(
        self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        self.query(sql, params, |cx, rows| {
            then(cx, rows.map(|rows| rows.affected()))
        })
    }

    /// Does several statements at once, without parameters, and all or nothing unless they say otherwise: for migrations.
    pub fn batch(
        self,
        sql: impl Into<Sql>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<(), PgError>) + 'static,
    ) -> PgQuery {
        let sink = Sink::rows(|cx, rows| then(cx, rows.map(|_| ())));
        self.submit(Ask::Simple(sql.into()), sink)
    }

    /// Asks; `row` gets one row after the other, on a connection of its own. It may say [`Demand::Hold`] until
    /// [`Pg::resume`], or hand on the demand of a [`BodyWriter`](crate::BodyWriter): nothing is read from the server meanwhile,
    /// so however many rows there are, few are in memory. `then` gets how many there were.
    ///
    /// ```no_run
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/names", |cx, _, res| {
    ///     let body = std::rc::Rc::new(res.stream());
    ///     let rows = body.clone();
    ///     cx.pg("main").answering(&*body).each("select name from users", (),
    ///         move |_, row| rows.write(row.get::<String>(0).unwrap_or_default() + "\n"),
    ///         move |_, end| if end.is_err() { log::error!("{end:?}") });
    /// });
    /// ```
    pub fn each(
        self,
        sql: impl Into<Sql>,
        params: impl Into<Params>,
        row: impl FnMut(&mut Ctx<'_, S>, Row) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        let query = Query::new(sql).with(params);
        self.submit(Ask::Query(query), Sink::each(row, then))
    }

    /// `COPY … FROM STDIN`: `source` is asked for one piece after the other, as fast as the server takes them. `then` gets
    /// how many rows there were.
    ///
    /// ```no_run
    /// use loopwright::{App, service::pg::CopyIn};
    /// let mut app: App = App::new();
    /// app.post("/numbers", |cx, _, res| {
    ///     let (res, mut left) = (res.defer(), 0..1_000_000);
    ///     cx.pg("main").copy_in("copy numbers (n) from stdin", move |_| match left.next() {
    ///         Some(n) => CopyIn::Data(format!("{n}\n").into()),
    ///         None => CopyIn::End,
    ///     }, move |_, rows| match rows {
    ///         Ok(rows) => res.text(format!("{rows} rows")),
    ///         Err(error) => res.status(error.status()).text("not copied"),
    ///     });
    /// });
    /// ```
    pub fn copy_in(
        self,
        sql: impl Into<Sql>,
        source: impl FnMut(&mut Ctx<'_, S>) -> CopyIn + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        self.submit(Ask::CopyIn(sql.into()), Sink::copy_in(source, then))
    }

    /// The same, of bytes that are all there.
    pub fn copy_bytes(
        self,
        sql: impl Into<Sql>,
        bytes: impl Into<Bytes>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        let mut rest = bytes.into();
        let source = move |_: &mut Ctx<'_, S>| match rest.is_empty() {
            true => CopyIn::End,
            false => CopyIn::Data(rest.split_to(rest.len().min(hub::PIECE))),
        };
        self.copy_in(sql, source, then)
    }

    /// `COPY … TO STDOUT`: `piece` gets the rows in the format that it was told, as [`Pg::each`] does.
    pub fn copy_out(
        self,
        sql: impl Into<Sql>,
        piece: impl FnMut(&mut Ctx<'_, S>, Bytes) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> PgQuery {
        self.submit(Ask::CopyOut(sql.into()), Sink::copy_out(piece, then))
    }

    /// Begins a transaction; `then` gets it, with a connection that is its own. Its last handle dropped, it is rolled
    /// back.
    ///
    /// ```no_run
    /// use loopwright::{App, service::pg::Tx};
    /// let mut app: App = App::new();
    /// app.post("/move", |cx, _, res| {
    ///     let res = res.defer();
    ///     cx.pg("main").transaction(|cx, tx| {
    ///         let Ok(tx) = tx else { return res.status(503).text("no database") };
    ///         tx.query(cx, "update a set n = n - 1", (), |_, _, _| {});
    ///         tx.query(cx, "update b set n = n + 1", (), |_, _, _| {});
    ///         // Fails if one of those has.
    ///         tx.commit(cx, |_, done| match done {
    ///             Ok(()) => res.text("moved"),
    ///             Err(error) => res.status(error.status()).text("not moved"),
    ///         });
    ///     });
    /// });
    /// ```
    pub fn transaction(
        self,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Tx<S>, PgError>) + 'static,
    ) -> PgQuery {
        self.submit(Ask::Simple("BEGIN".into()), Sink::Begin(Box::new(then)))
    }

    /// Hears what is said on a channel by `NOTIFY`, for as long as the [`Listening`] is there. All channels share one
    /// connection, beside the pool, which is made again when it breaks; what is said meanwhile is not heard.
    ///
    /// ```no_run
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/follow", |cx, _, res| {
    ///     let heard = cx.pg("main").listen("news", |cx, said| {
    ///         let _ = cx.publish("news", &said.payload[..]);
    ///     });
    ///     // For a minute.
    ///     cx.after(std::time::Duration::from_secs(60), move |_| drop(heard));
    ///     res.text("the news go to those who are subscribed");
    /// });
    /// ```
    pub fn listen(
        self,
        channel: &str,
        hear: impl FnMut(&mut Ctx<'_, S>, Notification) + 'static,
    ) -> Listening<S> {
        listen::listen(self, channel, Box::new(hear))
    }

    /// The end of a [`Demand::Hold`], or of a [`CopyIn::Wait`].
    pub fn resume(self, query: PgQuery) {
        if let Some(db) = self.db.filter(|db| db.number == query.database) {
            self.cx.later().call(move |cx| db.resume(cx, query.id));
        }
    }

    /// Gives a question up: see [`Pg::answering`].
    pub fn cancel(self, query: PgQuery) {
        if let Some(db) = self.db.filter(|db| db.number == query.database) {
            db.give_up(self.cx, query.id, PgErrorKind::Gone);
        }
    }

    /// How it stands; `None`: there is no such database.
    pub fn status(self) -> Option<PgStatus> {
        self.db.and_then(|db| db.status())
    }

    fn submit(self, ask: Ask, mut sink: Sink<S>) -> PgQuery {
        if let Sink::Rows { most, .. } = &mut sink {
            *most = self.most;
        }
        let (database, id) = match self.db {
            Some(db) => {
                let id = db.submit(self.cx, ask, sink, self.timeout, self.client);
                (db.number, id)
            }
            None => {
                let error = PgError::new(&self.name.into(), PgErrorKind::Unknown);
                self.cx.later().call(move |cx| sink.fail(cx, error));
                (0, job::NOBODY)
            }
        };
        PgQuery { database, id }
    }
}

/// How a database stands: see [`Pg::status`].
///
/// ```
/// use loopwright::{App, Server, service::pg::Postgres};
/// let mut app: App = App::new();
/// app.postgres("main", Postgres::new("postgres://ada@localhost/shop").unwrap());
/// let mut server = Server::bind("127.0.0.1:0", app, ()).unwrap();
/// let _ = server.handle().post(|cx| {
///     let status = cx.pg("main").status().unwrap();
///     // Connections are made when somebody asks.
///     assert_eq!((status.open, status.making, status.queries), (0, 0, 0));
///     assert_eq!(cx.pg("other").status(), None);
///     cx.stop();
/// });
/// server.run().unwrap();
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PgStatus {
    /// Its name.
    pub name: Box<str>,
    /// Connections of the pool that are ready.
    pub open: usize,
    /// Connections being made.
    pub making: usize,
    /// Of those that are open, with nothing to do.
    pub idle: usize,
    /// Of those that are open, with something to do.
    pub in_use: usize,
    /// Transactions that are open.
    pub transactions: usize,
    /// Questions that wait for a connection.
    pub waiting: usize,
    /// Questions that wait for the server.
    pub running: usize,
    /// Questions, ever.
    pub queries: u64,
    /// Of those, how many have ended with an error.
    pub errors: u64,
    /// Requests to cancel, ever.
    pub cancels: u64,
    /// Connections made, ever.
    pub made: u64,
    /// Connections that could not be made, ever.
    pub failed: u64,
    /// Channels that are listened to, with a connection that does.
    pub listening: usize,
}

/// The rows of an answer: a slice of [`Row`]s.
///
/// ```no_run
/// use loopwright::App;
/// #[derive(serde::Deserialize)]
/// struct User { id: i32, name: Option<String> }
/// let mut app: App = App::new();
/// app.get("/users", |cx, _, res| {
///     let res = res.defer();
///     cx.pg("main").query("select id, name from users", (), move |_, rows| {
///         let users = rows.map(|rows| rows.to::<User>());
///         let Ok(Ok(users)) = users else { return res.status(500).text("no users") };
///         let first = users.first().and_then(|user| user.name.clone());
///         res.text(format!("{} users, the first is {first:?}", users.len()));
///     });
/// });
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows {
    /// Most answers have one.
    rows: SmallVec<[Row; 1]>,
    columns: Option<Rc<Columns>>,
    tag: Tag,
}

impl Rows {
    /// What they have, if it was a question that has rows.
    pub fn columns(&self) -> Option<&Rc<Columns>> {
        self.columns.as_ref()
    }

    /// How many rows were selected, inserted, changed or deleted.
    pub fn affected(&self) -> u64 {
        self.tag.rows()
    }

    /// All of them as `T`s: structs whose fields are named like columns, or tuples.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn to<T: serde::de::DeserializeOwned>(&self) -> Result<Vec<T>, ConvertError> {
        self.rows.iter().map(|row| row.to()).collect()
    }

    /// Appends them as a JSON array of objects: see [`Row::json`].
    ///
    /// # Errors
    /// Bytes that are no value of their type; more JSON than 64 MiB, which ten bytes of a `numeric` for each row may be.
    pub fn json(&self, out: &mut Vec<u8>) -> Result<(), ConvertError> {
        let begin = out.len();
        for (at, row) in self.rows.iter().enumerate() {
            out.push(if at == 0 { b'[' } else { b',' });
            row.json(out)?;
            let limit = row.columns().json_limit();
            if out.len() - begin > limit {
                return Err(ConvertError::TooLong { limit });
            }
        }
        out.extend_from_slice(if self.rows.is_empty() { b"[]" } else { b"]" });
        Ok(())
    }

    fn one(mut self, database: &Rc<str>) -> Result<Option<Row>, PgError> {
        match self.rows.len() {
            0 | 1 => Ok(self.rows.pop()),
            _ => Err(PgError::new(database, PgErrorKind::ManyRows)),
        }
    }
}

impl std::ops::Deref for Rows {
    type Target = [Row];

    fn deref(&self) -> &[Row] {
        &self.rows
    }
}

impl IntoIterator for Rows {
    type Item = Row;
    type IntoIter = std::vec::IntoIter<Row>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_vec().into_iter()
    }
}

/// Whether a statement leaves the session as it is, so that others may be on the same connection. Who is in doubt has one
/// of its own.
fn is_plain(sql: &str) -> bool {
    const PLAIN: [&str; 10] = [
        "select", "insert", "update", "delete", "merge", "values", "table", "with", "show",
        "explain",
    ];
    let sql = sql.trim_start();
    let end = sql.find(|c: char| !c.is_ascii_alphabetic());
    let word = &sql[..end.unwrap_or(sql.len())];
    PLAIN.iter().any(|plain| word.eq_ignore_ascii_case(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_a_session_is_not_plain() {
        for sql in [
            "select 1",
            "  SELECT\n1",
            "with a as (select 1) select 2",
            "values(1)",
            "table t",
        ] {
            assert!(is_plain(sql), "{sql}");
        }
        for sql in [
            "begin",
            "set a = 1",
            "listen x",
            "-- select\nset a = 1",
            "/* */ begin",
            "",
            "selects",
            "call p()",
            "do $$$$",
            "declare c cursor for select 1",
            "create temp table t ()",
            "lock t",
            "prepare x as select 1",
        ] {
            assert!(!is_plain(sql), "{sql}");
        }
    }

    #[test]
    fn settings_are_the_same_or_not() {
        let new = || Postgres::new("postgres://ada:s3cret@db.example/shop").unwrap();
        assert_eq!(new(), new());
        assert_ne!(new(), new().connections(11));
        assert_ne!(
            new(),
            Postgres::new("postgres://ada:other@db.example/shop").unwrap()
        );
        let slow = new().statement_timeout(Duration::from_millis(1500));
        let set = ("statement_timeout".to_string(), "1500".to_string());
        assert!(slow.url.settings.parameters.contains(&set));
        assert!(!format!("{slow:?}").contains("s3cret"));
    }
}
