//! Floor 1. Prepared statements: what the server knows by a name, and we by its SQL.
//!
//! ```text
//!  Close… Parse Describe Sync ──► 3… ──► 1 ──► t ──► T or n ──► Z: cached
//!                                                              └── E: the question that it was for has failed
//!  cached ──► the one used least lately, when there are too many; or found stale ──► closing ──► Close, with the next
//! ```
//! Invariants: a name is given once. No more are cached than [`Limits::statements`]; each that leaves the cache without the
//! server having said so is closed.

use super::answer::{Step, Waiting, What};
use super::event::columns;
use super::read::Answer;
use super::{Event, Limits, Session};
use crate::base::clock::Instant;
use crate::proto::pg::param::Wanted;
use crate::proto::pg::row::Columns;
use crate::proto::pg::{Error, QueryError};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::rc::Rc;

/// A statement that the server knows by a name.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) name: String,
    pub(super) params: Vec<Wanted>,
    pub(super) columns: Option<Rc<Columns>>,
}

#[derive(Debug)]
pub(super) struct Cached {
    pub(super) statement: Rc<Statement>,
    /// The number of its last use.
    pub(super) used: u64,
}

impl Session {
    pub(super) fn cached(&mut self, sql: &str) -> Option<Rc<Statement>> {
        let cached = self.cache.get_mut(sql)?;
        self.uses += 1;
        cached.used = self.uses;
        Some(cached.statement.clone())
    }

    pub(super) fn prepare(&mut self, ticket: u64, sql: Rc<str>, now: Instant) {
        while self.cache.len() >= self.limits.statements.max(1) {
            let oldest = self.cache.iter().min_by_key(|(_, cached)| cached.used);
            let Some(sql) = oldest.map(|(sql, _)| sql.clone()) else {
                break;
            };
            if let Some(cached) = self.cache.remove(&sql) {
                self.closing.push(cached.statement.name.clone());
            }
        }
        let closing = std::mem::take(&mut self.closing);
        for name in &closing {
            self.write(|out| frontend::close(b'S', name, out));
        }
        let name = format!("s{}", self.next_statement);
        self.next_statement += 1;
        self.write(|out| frontend::parse(&name, &sql, [], out));
        self.write(|out| frontend::describe(b'S', &name, out));
        frontend::sync(&mut self.output);
        let what = What::Prepare {
            sql,
            statement: Statement {
                name,
                params: Vec::new(),
                columns: None,
            },
            closes: closing.len(),
            step: b'1',
        };
        self.wait(ticket, what, now);
        self.blocked = true;
    }

    pub(super) fn forget(&mut self, sql: &str, statement: &Rc<Statement>) {
        let is_it = |cached: &Cached| Rc::ptr_eq(&cached.statement, statement);
        if self.cache.get(sql).is_some_and(is_it) {
            self.cache.remove(sql);
            self.closing.push(statement.name.clone());
        }
    }
}

/// The statement is not what it was when it was prepared, or not there.
pub(super) fn is_stale(error: &QueryError) -> bool {
    let code = error.server().map(|error| &error.code[..]);
    matches!(code, Some("0A000" | "26000"))
}

pub(super) fn on_prepare(
    waiting: &mut Waiting,
    answer: &Answer<'_>,
    limits: &Limits,
) -> Result<Option<Event>, Error> {
    let What::Prepare {
        statement,
        closes,
        step,
        ..
    } = &mut waiting.what
    else {
        return Ok(None);
    };
    match (answer, *step) {
        (Answer::Other(Message::CloseComplete), b'1') if *closes > 0 => *closes -= 1,
        (Answer::Other(Message::ParseComplete), b'1') if *closes == 0 => *step = b't',
        (Answer::Other(Message::ParameterDescription(body)), b't') => {
            let malformed = |_| Error::Malformed("a description of parameters");
            let mut oids = body.parameters();
            while let Some(oid) = oids.next().map_err(malformed)? {
                statement.params.push(Wanted::new(oid));
            }
            *step = b'T';
        }
        (Answer::Other(Message::RowDescription(body)), b'T') => {
            statement.columns = Some(columns(body, None, limits)?);
            waiting.step = Step::Complete;
            *step = b'Z';
        }
        (Answer::Other(Message::NoData), b'T') => {
            waiting.step = Step::Complete;
            *step = b'Z';
        }
        _ => return Err(Error::Unexpected("a strange answer to a statement")),
    }
    Ok(None)
}
