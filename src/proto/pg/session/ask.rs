//! Floor 1. What is asked: checked, queued, and written when it may be.
//!
//! ```text
//!  query, simple, copy ──► queue ──► pump ──► output, and an entry of `waiting`
//!                                     │ ▲
//!            statement not known yet: prepared, and the question back to the queue's front
//! ```
//! A query whose statement is known, and that has nobody before it, goes past the queue.
//!
//! Invariants: questions are written in the order of the queue; nothing is, while the session is `blocked`. `queued` is
//! the sum of what is in the queue. A query whose parameters do not fit its statement is taken back from the output
//! whole, and told by [`Session::poll_event`].

use super::answer::{Step, Waiting, What};
use super::copy::is_copy;
use super::statement::Statement;
use super::{LARGE, Session, Status, Tag};
use crate::base::clock::Instant;
use crate::proto::pg::param::{self, Params};
use crate::proto::pg::{ParamError, QueryError, Refusal, Sql};
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::rc::Rc;

/// SQL with parameters: one statement.
///
/// ```
/// use loopwright::proto::pg::{Params, Query};
/// let query = Query::new("select name from users where id = $1").with(Params::new().with(7));
/// assert_eq!(query.params.len(), 1);
/// ```
#[derive(Debug)]
pub struct Query {
    /// Prepared once for each connection: the same text should come again.
    pub sql: Sql,
    /// Its parameters.
    pub params: Params,
    /// Whether it does not mind to run behind what was asked after it, and begins no transaction. If a change of the
    /// schema has made the prepared statement useless, such a query is asked again.
    pub independent: bool,
}

impl Query {
    /// Without parameters, independent.
    pub fn new(sql: impl Into<Sql>) -> Query {
        Query {
            sql: sql.into(),
            params: Params::new(),
            independent: true,
        }
    }

    /// With parameters.
    pub fn with(self, params: impl Into<Params>) -> Query {
        let params = params.into();
        Query { params, ..self }
    }

    /// One whose place among the others matters: of a transaction.
    pub fn in_order(self) -> Query {
        let independent = false;
        Query {
            independent,
            ..self
        }
    }
}

/// What no statement is called; whoever reads the server's log finds it there.
const UNFIT: &str = "a query whose parameters did not fit";

/// What is to be asked.
#[derive(Debug)]
pub(super) enum Ask {
    Query { query: Query, again: bool },
    Simple(Sql),
    Copy { sql: Sql, inwards: bool },
}

impl Ask {
    pub(super) fn size(&self) -> usize {
        match self {
            // The text of a prepared statement is not sent.
            Ask::Query { query, .. } => query.params.size() + 64,
            Ask::Simple(sql) | Ask::Copy { sql, .. } => sql.len() + 64,
        }
    }
}

impl Session {
    /// Asks. Of [the events](super::Event), `Columns` (if it has rows), `Row`s and `Done` follow, or `Failed`.
    ///
    /// # Errors
    /// It was not asked.
    pub fn query(&mut self, query: Query, now: Instant) -> Result<u64, Refusal> {
        let size = query.params.size();
        if !self.blocked
            && self.queue.is_empty()
            && let Some(statement) = self.cached(&query.sql)
        {
            // What is prepared was looked at.
            self.check_room(query.sql.len().saturating_add(size))?;
            let ticket = self.open_ticket();
            self.execute(ticket, query, false, statement, now);
            return Ok(ticket);
        }
        if is_copy(&query.sql) {
            return Err(Refusal::Copy);
        }
        self.check_sql(&query.sql, size)?;
        let again = false;
        Ok(self.ask(Ask::Query { query, again }, now))
    }

    /// Asks several statements at once, without parameters; their values come as text. Nothing else is
    /// under way with the server meanwhile. Of [the events](super::Event), `Completed` follows for each, `Done` for all.
    ///
    /// # Errors
    /// It was not asked.
    pub fn simple(&mut self, sql: impl Into<Sql>, now: Instant) -> Result<u64, Refusal> {
        let sql = sql.into();
        self.check_sql(&sql, 0)?;
        Ok(self.ask(Ask::Simple(sql), now))
    }

    pub(super) fn check_sql(&self, sql: &str, params: usize) -> Result<(), Refusal> {
        if !self.is_ready() {
            return Err(Refusal::NotReady);
        }
        if sql.contains('\0') {
            return Err(Refusal::Nul);
        }
        self.check_room(sql.len().saturating_add(params))
    }

    fn check_room(&self, size: usize) -> Result<(), Refusal> {
        if !self.is_ready() {
            return Err(Refusal::NotReady);
        }
        if size > self.limits.message {
            return Err(Refusal::TooLong);
        }
        match self.has_room() {
            true => Ok(()),
            false => Err(Refusal::Full),
        }
    }

    pub(super) fn ask(&mut self, ask: Ask, now: Instant) -> u64 {
        let ticket = self.open_ticket();
        self.queued += ask.size();
        self.queue.push_back((ticket, ask));
        self.pump(now);
        ticket
    }

    fn open_ticket(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.open += 1;
        ticket
    }

    /// Writes what may be written.
    pub(super) fn pump(&mut self, now: Instant) {
        while !self.blocked
            && let Some((ticket, ask)) = self.queue.pop_front()
        {
            self.queued -= ask.size();
            match ask {
                Ask::Query { query, again } => match self.cached(&query.sql) {
                    Some(statement) => self.execute(ticket, query, again, statement, now),
                    None => {
                        self.prepare(ticket, query.sql.shared(), now);
                        let ask = Ask::Query { query, again };
                        self.queued += ask.size();
                        self.queue.push_front((ticket, ask));
                    }
                },
                Ask::Simple(sql) => {
                    self.write(|out| frontend::query(&sql, out));
                    self.wait(ticket, What::Simple { columns: None }, now);
                    self.blocked = true;
                }
                Ask::Copy { sql, inwards } => {
                    self.write(|out| frontend::parse("", &sql, [], out));
                    let bound = param::bind(
                        "",
                        &[],
                        &Params::new(),
                        std::iter::empty(),
                        &mut self.output,
                    );
                    debug_assert!(bound.is_ok());
                    self.write(|out| frontend::execute("", 0, out));
                    frontend::flush(&mut self.output);
                    let synced = false;
                    self.wait(ticket, What::Copy { inwards, synced }, now);
                    self.blocked = true;
                }
            }
        }
    }

    /// What is written so has no NUL in its texts, and is no longer than a message may be: both were looked at. So it does
    /// not fail; if it did, the server would have half a message, and so the half is taken back.
    pub(super) fn write(&mut self, message: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) {
        let begin = self.output.len();
        if message(&mut self.output).is_err() {
            debug_assert!(false);
            self.output.truncate(begin);
        }
    }

    pub(super) fn wait(&mut self, ticket: u64, what: What, now: Instant) {
        if self.waiting.is_empty() {
            self.progress = now;
        }
        self.waiting.push_back(Waiting {
            ticket,
            what,
            step: Step::Asked,
            since: now,
            tag: Tag::default(),
            failed: None,
        });
    }

    fn execute(
        &mut self,
        ticket: u64,
        mut query: Query,
        again: bool,
        statement: Rc<Statement>,
        now: Instant,
    ) {
        let begin = self.output.len();
        let (want, given) = (statement.params.len(), query.params.len());
        let written = if want == given {
            let columns = statement.columns.iter().flat_map(|columns| columns.iter());
            let formats = columns.map(|column| i16::from(column.binary));
            let (name, out) = (&statement.name, &mut self.output);
            param::bind(name, &statement.params, &query.params, formats, out)
                .map_err(|wrong| QueryError::Param(wrong.unwrap_or_else(too_large)))
        } else {
            Err(QueryError::ParamCount { want, given })
        };
        let limit = self.limits.message;
        let written = written.and_then(|()| match self.output.len() - begin {
            size if size > limit => Err(QueryError::TooLong { limit }),
            _ => Ok(()),
        });
        if let Err(error) = written {
            self.output.truncate(begin);
            if self.status == Status::Idle {
                self.unfit.push_back((ticket, error));
                return;
            }
            // Its transaction fails, as it does when the server refuses: by a statement that there is none of.
            let nothing = (&[], &Params::new(), std::iter::empty());
            let bound = param::bind(UNFIT, nothing.0, nothing.1, nothing.2, &mut self.output);
            debug_assert!(bound.is_ok());
            frontend::sync(&mut self.output);
            return self.wait(ticket, What::Unfit(error), now);
        }
        self.write(|out| frontend::execute("", 0, out));
        frontend::sync(&mut self.output);
        // What is large is not kept to be asked again.
        let is_large = query.params.size() > LARGE;
        if is_large {
            query.params = Params::new();
        }
        let what = What::Query {
            query,
            again: again || is_large,
            statement,
        };
        self.wait(ticket, what, now);
    }
}

fn too_large() -> ParamError {
    ParamError {
        position: 0,
        type_name: String::new(),
        why: "longer than the protocol can say".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, ready, said, wire};
    use super::*;
    use crate::proto::pg::{Error, Limits, Settings};

    #[test]
    fn what_is_not_asked() {
        let limits = Limits {
            pipeline: 2,
            message: 100,
            ..Limits::default()
        };
        let mut session = Session::new(&Settings::new("ada"), limits, at(0)).expect("a session");
        assert_eq!(session.simple("select", at(0)), Err(Refusal::NotReady));
        let mut session = ready(limits);
        let query = |sql: &'static str| Query::new(sql);
        assert_eq!(session.query(query("a\0b"), at(0)), Err(Refusal::Nul));
        assert_eq!(
            session.query(Query::new("x".repeat(101)), at(0)),
            Err(Refusal::TooLong)
        );
        for sql in [
            "copy",
            " \n;COPY c",
            "-- a\ncopy c",
            "/* /* */ */copy c",
            "--\r/**/Copy(select 1)",
        ] {
            assert_eq!(
                session.query(query(sql), at(0)),
                Err(Refusal::Copy),
                "{sql}"
            );
        }
        for sql in [
            "copyist",
            "copy_x",
            "-- copy",
            "/* copy",
            "(copy c",
            "cop",
            "é",
            "/**/x copy",
            "",
        ] {
            assert_eq!(session.copy_in(sql, at(0)), Err(Refusal::Copy), "{sql}");
        }
        assert_eq!(session.query(query("a"), at(0)), Ok(0));
        assert_eq!(session.query(query("a"), at(0)), Ok(1));
        assert_eq!(session.query(query("a"), at(0)), Err(Refusal::Full));
        let limits = Limits {
            output: 100,
            ..Limits::default()
        };
        let mut session = ready(limits);
        assert_eq!(session.simple("x".repeat(200), at(0)), Ok(0));
        assert_eq!(session.simple("x", at(0)), Err(Refusal::Full));
        session.sent(1000);
        // What waits behind it counts, too.
        assert_eq!(session.simple("x".repeat(200), at(0)), Ok(1));
        assert_eq!(session.simple("x", at(0)), Err(Refusal::Full));
        session.close();
        assert_eq!(said(&mut session), "X");
        assert_eq!(
            session.poll_event(&mut &wire("Z:I")[..], at(0)),
            Err(Error::Closed)
        );
        assert_eq!(session.unanswered().collect::<Vec<_>>(), [0, 1]);
    }
}
