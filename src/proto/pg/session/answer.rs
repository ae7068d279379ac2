//! Floor 1. Answers: each message belongs to the oldest question, the first of `waiting`.
//!
//! ```text
//!  Query    Asked ── 2 ──► Bound ── D… ──► C or I: Complete ── Z ──► Done
//!  Simple   Asked ── T, D…, C … or H: CopyOut … Complete ── Z ──► Done
//!  any      ── E ──► failed ── Z ──► Failed; or asked again, if the statement was stale
//! ```
//! What prepares is in `statement.rs`, what copies in `copy.rs`.
//!
//! Invariants: nothing but `Z` is taken behind an error, and `Z` only when the question is complete or has failed. A
//! query is asked again once at most: outside of a transaction, before its first event, and behind independent ones only.

use super::ask::Ask;
use super::event::columns;
use super::read::{Answer, Shelf};
use super::statement::{Cached, Statement, is_stale, on_prepare};
use super::{Event, Limits, Query, Session, Status, Tag};
use crate::base::clock::Instant;
use crate::proto::pg::row::Columns;
use crate::proto::pg::{DbError, Error, QueryError};
use bytes::Bytes;
use postgres_protocol::message::backend::Message;
use std::collections::HashMap;
use std::rc::Rc;

/// How far the answer to a query has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Asked,
    /// `1`, of a copy.
    Parsed,
    /// `2`: rows may come.
    Bound,
    /// `G`: data may go.
    CopyIn,
    /// `H`: data may come.
    CopyOut,
    /// `c`
    Copied,
    /// `C` or `I`.
    Complete,
}

#[derive(Debug)]
pub(super) enum What {
    /// For the head of the queue.
    Prepare {
        sql: Rc<str>,
        statement: Statement,
        /// `3`s that come first.
        closes: usize,
        /// `1`, `t`, `T` or `n`.
        step: u8,
    },
    Query {
        query: Query,
        /// It has been, or shall not be asked again.
        again: bool,
        statement: Rc<Statement>,
    },
    /// A query of a transaction that does not fit, why, and an error of the server's in its place.
    Unfit(QueryError),
    Simple {
        columns: Option<Rc<Columns>>,
    },
    Copy {
        inwards: bool,
        /// The one `Sync` is out.
        synced: bool,
    },
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: u64,
    pub(super) what: What,
    pub(super) step: Step,
    pub(super) since: Instant,
    pub(super) tag: Tag,
    pub(super) failed: Option<QueryError>,
}

impl Session {
    pub(super) fn on_answer(
        &mut self,
        answer: Answer<'_>,
        now: Instant,
    ) -> Result<Option<Event>, Error> {
        self.progress = now;
        let Some(waiting) = self.waiting.front_mut() else {
            return match answer {
                // That it shuts down, for example.
                Answer::Other(Message::ErrorResponse(body)) => {
                    Err(Error::Fatal(Box::new(DbError::read(body.fields())?)))
                }
                _ => Err(Error::Unexpected("an answer nobody waits for")),
            };
        };
        match answer {
            Answer::Ready(status) => self.on_ready(status, now),
            _ if waiting.failed.is_some() => Err(Error::Unexpected("an answer behind an error")),
            Answer::Other(Message::ErrorResponse(body)) => {
                let error = Box::new(DbError::read(body.fields())?);
                if error.is_fatal() {
                    return Err(Error::Fatal(error));
                }
                waiting.failed = Some(match &waiting.what {
                    What::Unfit(why) => why.clone(),
                    _ => QueryError::Server(error),
                });
                if matches!(waiting.what, What::Copy { .. }) {
                    self.end_copy(now);
                }
                Ok(None)
            }
            answer => match waiting.what {
                What::Prepare { .. } => on_prepare(waiting, &answer, &self.limits),
                What::Query { .. } => on_query(waiting, answer, &mut self.shelf),
                What::Unfit(_) => Err(Error::Unexpected("a strange answer to what is none")),
                What::Simple { .. } => {
                    let is_quiet = !matches!(waiting.step, Step::CopyIn | Step::CopyOut);
                    if is_quiet && matches!(answer, Answer::Other(Message::CopyInResponse(_))) {
                        // Nobody has said that there would be data.
                        waiting.step = Step::CopyIn;
                        self.refuse_copy();
                        return Ok(None);
                    }
                    let has_rows = matches!(waiting.what, What::Simple { columns: Some(_) });
                    let event = on_simple(waiting, answer, &self.limits, &mut self.shelf)?;
                    if let Some(Event::Completed(_, tag)) = &event {
                        note(tag, has_rows, &mut self.is_changed, &mut self.cache);
                    }
                    Ok(event)
                }
                What::Copy { .. } => self.on_copy(answer, now),
            },
        }
    }

    /// `Z`: the oldest question is done.
    fn on_ready(&mut self, status: Status, now: Instant) -> Result<Option<Event>, Error> {
        // Whose answer breaks off stays among those without one.
        let is_over = |oldest: &Waiting| oldest.failed.is_some() || oldest.step == Step::Complete;
        let unfinished = Error::Unexpected("the end of an answer before all of it");
        if !self.waiting.front().is_some_and(is_over) {
            return Err(unfinished);
        }
        let mut waiting = self.waiting.pop_front().ok_or(unfinished)?;
        let before = std::mem::replace(&mut self.status, status);
        let ticket = waiting.ticket;
        let failed = waiting.failed.take();
        if !matches!(waiting.what, What::Query { .. } | What::Unfit(_)) {
            self.blocked = false;
        }
        let event = match (waiting.what, failed) {
            (What::Prepare { sql, statement, .. }, None) => {
                self.uses += 1;
                let (used, statement) = (self.uses, Rc::new(statement));
                self.cache.insert(sql, Cached { statement, used });
                None
            }
            (What::Prepare { .. }, Some(error)) => {
                // Of the question that it was for.
                let asker = self.queue.iter().position(|(asker, _)| *asker == ticket);
                if let Some((_, ask)) = asker.and_then(|at| self.queue.remove(at)) {
                    self.queued -= ask.size();
                }
                Some(Event::Failed(ticket, error))
            }
            (
                What::Query {
                    query,
                    again,
                    statement,
                },
                Some(error),
            ) => {
                let is_stale = waiting.step == Step::Asked && is_stale(&error);
                if is_stale {
                    self.forget(&query.sql, &statement);
                }
                let is_idle = before == Status::Idle && status == Status::Idle;
                if is_stale && is_idle && !again && self.may_be_later(&query) {
                    let ask = Ask::Query { query, again: true };
                    self.queued += ask.size();
                    // Behind others that are asked again, so that these stay in order.
                    let later = self.queue.iter().position(|(other, _)| *other > ticket);
                    let at = later.unwrap_or(self.queue.len());
                    self.queue.insert(at, (ticket, ask));
                    None
                } else {
                    // A lock of the session outlives the failure of what has taken it.
                    self.is_changed |= is_idle && !query.independent;
                    Some(Event::Failed(ticket, error))
                }
            }
            (what, Some(error)) => {
                // A lock of the session outlives the failure of what has taken it.
                self.is_changed |= matches!(what, What::Simple { .. }) && before == Status::Idle;
                Some(Event::Failed(ticket, error))
            }
            (What::Query { statement, .. }, None) => {
                let (tag, has_rows) = (waiting.tag, statement.columns.is_some());
                note(&tag, has_rows, &mut self.is_changed, &mut self.cache);
                Some(Event::Done(ticket, tag))
            }
            // The tags of several were looked at as they came; a copy changes nothing.
            (_, None) => Some(Event::Done(ticket, waiting.tag)),
        };
        if event.is_some() {
            self.open -= 1;
        }
        self.pump(now);
        Ok(event)
    }

    /// Whether all that was asked behind it are independent queries, so that it may go behind them.
    fn may_be_later(&self, query: &Query) -> bool {
        let waiting = self.waiting.iter().all(|waiting| match &waiting.what {
            What::Query { query, .. } => query.independent,
            What::Prepare { .. } => true,
            What::Unfit(_) | What::Simple { .. } | What::Copy { .. } => false,
        });
        let mut queue = self.queue.iter();
        let queue =
            queue.all(|(_, ask)| matches!(ask, Ask::Query { query, .. } if query.independent));
        let is_last = self.waiting.is_empty() && self.queue.is_empty();
        is_last || (query.independent && waiting && queue)
    }
}

/// What a tag says about the session's state. `has_rows`: the statement is of those that have.
fn note(tag: &Tag, has_rows: bool, is_changed: &mut bool, cache: &mut HashMap<Rc<str>, Cached>) {
    // Those that leave it as it is. `DO` and `CALL` may do anything, and what is created may be temporary: `SELECT` is
    // said of `CREATE TABLE AS` and `SELECT INTO`, too.
    const HARMLESS: [&str; 22] = [
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "BEGIN",
        "START",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "COPY",
        "SHOW",
        "EXPLAIN",
        "FETCH",
        "MOVE",
        "CLOSE",
        "NOTIFY",
        "TRUNCATE",
        "LOCK",
        "DROP",
        "VACUUM",
        "ANALYZE",
    ];
    let text = tag.as_str();
    match text.split(' ').next().unwrap_or_default() {
        "SELECT" if has_rows => {}
        "DISCARD" if text == "DISCARD ALL" => {
            cache.clear();
            *is_changed = false;
        }
        "DEALLOCATE" => {
            if text == "DEALLOCATE ALL" {
                cache.clear();
            }
        }
        "" => {}
        word => *is_changed |= !HARMLESS.contains(&word),
    }
}

fn on_query(
    waiting: &mut Waiting,
    answer: Answer<'_>,
    shelf: &mut Shelf,
) -> Result<Option<Event>, Error> {
    let What::Query { statement, .. } = &waiting.what else {
        return Ok(None);
    };
    match (waiting.step, answer) {
        (Step::Asked, Answer::Bound) => {
            waiting.step = Step::Bound;
            let columns = statement.columns.clone();
            Ok(columns.map(|columns| Event::Columns(waiting.ticket, columns)))
        }
        (Step::Bound, Answer::Row(count)) => {
            let columns = statement.columns.as_ref();
            let columns = columns.ok_or(Error::Unexpected("a row without columns"))?;
            Ok(Some(Event::Row(waiting.ticket, shelf.row(count, columns)?)))
        }
        (Step::Bound, Answer::Complete(tag)) => {
            waiting.tag = tag;
            waiting.step = Step::Complete;
            Ok(None)
        }
        (Step::Bound, Answer::Other(Message::EmptyQueryResponse)) => {
            waiting.step = Step::Complete;
            Ok(None)
        }
        _ => Err(Error::Unexpected("a strange answer to a query")),
    }
}

fn on_simple(
    waiting: &mut Waiting,
    answer: Answer<'_>,
    limits: &Limits,
    shelf: &mut Shelf,
) -> Result<Option<Event>, Error> {
    let ticket = waiting.ticket;
    let What::Simple { columns: present } = &mut waiting.what else {
        return Ok(None);
    };
    let event = match (waiting.step, answer) {
        (Step::CopyOut, Answer::Data(data)) => Event::CopyOut(ticket, Bytes::copy_from_slice(data)),
        (Step::CopyOut, Answer::Other(Message::CopyDone)) => {
            waiting.step = Step::Asked;
            return Ok(None);
        }
        (Step::CopyOut | Step::CopyIn, _) => {
            return Err(Error::Unexpected("a strange answer to a copy"));
        }
        (_, Answer::Other(Message::CopyOutResponse(_))) => {
            waiting.step = Step::CopyOut;
            return Ok(None);
        }
        (_, Answer::Other(Message::RowDescription(body))) => {
            let columns = columns(&body, Some(false), limits)?;
            *present = Some(columns.clone());
            Event::Columns(ticket, columns)
        }
        (_, Answer::Row(count)) => {
            let columns = present
                .as_ref()
                .ok_or(Error::Unexpected("a row without columns"))?;
            Event::Row(ticket, shelf.row(count, columns)?)
        }
        (_, Answer::Complete(tag)) => {
            waiting.tag = tag;
            waiting.step = Step::Complete;
            *present = None;
            Event::Completed(ticket, waiting.tag.clone())
        }
        (_, Answer::Other(Message::EmptyQueryResponse)) => {
            waiting.step = Step::Complete;
            return Ok(None);
        }
        _ => return Err(Error::Unexpected("a strange answer to a query")),
    };
    Ok(Some(event))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ask, at, feed, ready, said, wire};
    use super::*;
    use crate::proto::pg::Refusal;
    use crate::proto::resp::cuts;

    /// What is asked, what the server says to it, what happens, and what we say meanwhile.
    #[test]
    fn answers() {
        for (asked, server, events, says) in [
            (
                &["q select 1"][..],
                "1 t: T:n=23 Z:I 2 D:7 D:- C:SELECT_2 Z:I",
                &[
                    "0 columns n",
                    "0 {\"n\":7}",
                    "0 {\"n\":null}",
                    "0 done SELECT 2",
                ][..],
                "P:s0.select_1... D:Ss0 S B:s0.........\u{1} E S",
            ),
            // The same statement again is not prepared again, and not waited for.
            (
                &["q select $1|7", "q select $1|8"],
                "1 t:23 T:n=23 Z:I 2 D:7 C:SELECT_1 Z:I 2 D:8 C:SELECT_1 Z:I",
                &[
                    "0 columns n",
                    "0 {\"n\":7}",
                    "0 done SELECT 1",
                    "1 columns n",
                    "1 {\"n\":8}",
                    "1 done SELECT 1",
                ],
                "P:s0.select_$1 D:Ss0 S B:s0 E S B:s0 E S",
            ),
            // An error ends with the query that has made it: in the statement, in the parameters, in the middle.
            (
                &["q selec", "q select 1", "q select 1"],
                "E:42601 Z:I 1 t: T:n=23 Z:I 2 D:7 E:22012 Z:I 2 D:8 C:SELECT_1 Z:I",
                &[
                    "0 failed no (42601)",
                    "1 columns n",
                    "1 {\"n\":7}",
                    "1 failed no (22012)",
                    "2 columns n",
                    "2 {\"n\":8}",
                    "2 done SELECT 1",
                ],
                "P:s0.selec D:Ss0 S P:s1.select_1 D:Ss1 S B:s1 E S B:s1 E S",
            ),
            (
                &["q select $1", "q select $1|1"],
                "1 t:16 n Z:I",
                &[
                    "0 failed the statement has 1 parameters, 0 were given",
                    "1 failed parameter $1 (bool): an integer does not fit",
                ],
                "P:s0.select_$1 D:Ss0 S",
            ),
            // What is found at the end of the implicit transaction.
            (
                &["q insert"],
                "1 t: n Z:I 2 C:INSERT_0_1 E:23505 Z:I",
                &["0 failed no (23505)"],
                "P:s0.insert D:Ss0 S B:s0 E S",
            ),
            (
                &["q ;"],
                "1 t: n Z:I 2 I Z:I",
                &["0 done "],
                "P:s0.; D:Ss0 S B:s0 E S",
            ),
            // In between.
            (
                &["q select 1"],
                "1 N:00000 t: A:c=hi T:n=23 Z:I 2 S:TimeZone=UTC D:7 C:SELECT_1 N:00001 Z:T",
                &[
                    "notice 00000",
                    "hi on c by 7",
                    "0 columns n",
                    "TimeZone=UTC",
                    "0 {\"n\":7}",
                    "notice 00001",
                    "0 done SELECT 1",
                ],
                "P:s0.select_1 D:Ss0 S B:s0 E S",
            ),
            // Several at once are alone: what is behind waits.
            (
                &["s select 1; begin", "q select 2"],
                "T:a=23 D:x C:SELECT_1 C:BEGIN Z:T 1 t: n Z:T 2 C:X Z:T",
                &[
                    "0 columns a",
                    "0 column a (int4): no integer",
                    "0 completed SELECT 1",
                    "0 completed BEGIN",
                    "0 done BEGIN",
                    "1 done X",
                ],
                "Q:select_1;_begin P:s0.select_2 D:Ss0 S B:s0 E S",
            ),
            (
                &["s copy c from stdin", "s select"],
                "G E:57014 Z:I I Z:I",
                &["0 failed no (57014)", "1 done "],
                "Q:copy_c_from_stdin f:want_copy_in_for_COPY_FROM_STDIN Q:select",
            ),
            // Copies.
            (
                &["x copy c to stdout", "s select"],
                "1 2 H d:one d:two c C:COPY_2 Z:I I Z:I",
                &[
                    "0 copy out one",
                    "0 copy out two",
                    "0 done COPY 2",
                    "1 done ",
                ],
                "P:copy_c_to_stdout B E H S Q:select",
            ),
            (
                &["i copy c from stdin", "s select"],
                "1 2 G E:22P02 Z:I I Z:I",
                &["0 copy in", "0 failed no (22P02)", "1 done "],
                "P:copy_c_from_stdin B E H S Q:select",
            ),
            (
                &["i copy c from stdin"],
                "E:42P01 Z:I",
                &["0 failed no (42P01)"],
                "P:copy_c_from_stdin B E H S",
            ),
            (
                &["i copy c from '/file'"],
                "1 2 C:COPY_3 Z:I",
                &["0 done COPY 3"],
                "P:copy_c_from_'/file' B E H S",
            ),
            (
                &["x copy c from stdin"],
                "1 2 G E:57014 Z:I",
                &["0 failed no (57014)"],
                "P:copy_c_from_stdin B E H f:want_copy_in_for_COPY_FROM_STDIN S",
            ),
            // Stale: asked again, in order, behind what was written meanwhile. The old one is closed.
            (
                &["q select 1", "q select 1", "q select 2"],
                "1 t: n Z:I E:0A000 Z:I E:0A000 Z:I 1 t: n Z:I \
                 3 1 t: T:n=23 Z:I 2 C:A Z:I 2 C:B Z:I 2 C:C Z:I",
                &[
                    "0 columns n",
                    "0 done A",
                    "1 columns n",
                    "1 done B",
                    "2 done C",
                ],
                "P:s0.select_1 D:Ss0 S B:s0 E S B:s0 E S P:s1.select_2 D:Ss1 S C:Ss0 P:s2.select_1 D:Ss2 S \
                 B:s2 E S B:s2 E S B:s1 E S",
            ),
            // The second statement fails while the first waits to be asked again.
            (
                &["q select 1", "q selec"],
                "1 t: n Z:I E:26000 Z:I E:42601 Z:I 3 1 t: n Z:I E:26000 Z:I",
                &["1 failed no (42601)", "0 failed no (26000)"],
                "P:s0.select_1 D:Ss0 S B:s0 E S P:s1.selec D:Ss1 S C:Ss0 P:s2.select_1 D:Ss2 S B:s2 E S",
            ),
            // But not where the order matters, nor in a transaction.
            (
                &["q select 1", "o begin"],
                "1 t: n Z:I E:26000 Z:I 1 t: n Z:I 2 C:BEGIN Z:T",
                &["0 failed no (26000)", "1 done BEGIN"],
                "P:s0.select_1 D:Ss0 S B:s0 E S P:s1.begin D:Ss1 S B:s1 E S",
            ),
            (
                &["q select 1"],
                "1 t: n Z:T E:26000 Z:E",
                &["0 failed no (26000)"],
                "P:s0.select_1 D:Ss0 S B:s0 E S",
            ),
            // No more than two are kept.
            (
                &["q a", "q b", "q a", "q c", "q a"],
                "1 t: n Z:I 2 C:X Z:I 1 t: n Z:I 2 C:X Z:I 2 C:X Z:I 3 1 t: n Z:I 2 C:X Z:I 2 C:X Z:I",
                &["0 done X", "1 done X", "2 done X", "3 done X", "4 done X"],
                "P:s0.a D:Ss0 S B:s0 E S P:s1.b D:Ss1 S B:s1 E S B:s0 E S C:Ss1 P:s2.c D:Ss2 S B:s2 E S B:s0 E S",
            ),
        ] {
            let input = wire(server);
            for pieces in cuts(&input) {
                let limits = Limits {
                    statements: 2,
                    ..Limits::default()
                };
                let mut session = ready(limits);
                for what in asked {
                    ask(&mut session, what);
                }
                assert_eq!(session.owed(), asked.len());
                let got = feed(&mut session, &pieces).unwrap_or_else(|e| panic!("{asked:?}: {e}"));
                assert_eq!(got, events, "{asked:?}");
                assert_eq!(plain(&said(&mut session)), plain(says), "{asked:?}");
                assert_eq!((session.owed(), session.unanswered().count()), (0, 0));
                assert_eq!(session.next_deadline(), None);
            }
        }
    }

    /// Without what is binary: names of statements and texts are left.
    fn plain(said: &str) -> String {
        let words = said
            .split_whitespace()
            .map(|word| match word.split_once(':') {
                Some(("B", rest)) => match rest.split(['.', '\u{1}']).next() {
                    Some(name) if name.starts_with('s') => format!("B:{name}"),
                    _ => "B".into(),
                },
                Some(("E", _)) => "E".into(),
                _ => word.trim_end_matches('.').to_string(),
            });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_a_server_may_not_say() {
        for (asked, server, why) in [
            ("", "Z:I", "the server sends an answer nobody waits for"),
            ("", "D:7", "the server sends an answer nobody waits for"),
            ("", "E:57P01", "the server ends the session: no (57P01)"),
            ("", "F:57P01", "the server ends the session: no (57P01)"),
            (
                "",
                "x",
                "not PostgreSQL's protocol: an unknown kind of message",
            ),
            (
                "",
                "W:abc",
                "not PostgreSQL's protocol: an unknown kind of message",
            ),
            (
                "",
                "S:client_encoding=LATIN1",
                "the server sends another client_encoding than UTF8",
            ),
            (
                "",
                "S:integer_datetimes=off",
                "the server sends times as floats",
            ),
            ("", "R:0", "the server sends an answer nobody waits for"),
            (
                "q select 1",
                "F:57P01",
                "the server ends the session: no (57P01)",
            ),
            (
                "q select 1",
                "Z:I",
                "the server sends the end of an answer before all of it",
            ),
            (
                "q select 1",
                "1 t: T:n=23,m=23 Z:I 2 D:7",
                "not PostgreSQL's protocol: a row",
            ),
            (
                "q select 1",
                "1 t: n Z:I 2 D:7",
                "the server sends a row without columns",
            ),
            (
                "q select 1",
                "t:",
                "the server sends a strange answer to a statement",
            ),
            (
                "q select 1",
                "3",
                "the server sends a strange answer to a statement",
            ),
            ("q select 1", "1 t: T:a=23,b=23,c=23", "3 columns, over 2"),
            (
                "q select 1",
                "1 t: T:n=23 Z:x",
                "not PostgreSQL's protocol: a transaction's state",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I D:7",
                "the server sends a strange answer to a query",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 G",
                "the server sends a strange answer to a query",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 Z:I",
                "the server sends the end of an answer before all of it",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 C:A C:A",
                "the server sends a strange answer to a query",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 E:22012 D:7",
                "the server sends an answer behind an error",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 E:22012 E:22012",
                "the server sends an answer behind an error",
            ),
            (
                "s select 1",
                "D:7",
                "the server sends a row without columns",
            ),
            (
                "s select 1",
                "2",
                "the server sends a strange answer to a query",
            ),
            (
                "s select 1",
                "H D:7",
                "the server sends a strange answer to a copy",
            ),
            (
                "s select 1",
                "d:x",
                "the server sends a strange answer to a query",
            ),
            (
                "i copy c from stdin",
                "2",
                "the server sends a strange answer to a copy",
            ),
            (
                "i copy c from stdin",
                "1 2 G G",
                "the server sends a strange answer to a copy",
            ),
            (
                "x copy c to stdout",
                "1 2 H c d:x",
                "the server sends a strange answer to a copy",
            ),
        ] {
            let input = wire(server);
            for pieces in cuts(&input) {
                let limits = Limits {
                    columns: 2,
                    ..Limits::default()
                };
                let mut session = ready(limits);
                if !asked.is_empty() {
                    ask(&mut session, asked);
                }
                let error = feed(&mut session, &pieces).expect_err(server);
                assert_eq!(error.to_string(), why, "{asked} {server}");
                // And it stays over.
                assert_eq!(session.expire(at(1000)), Err(error.clone()));
                assert_eq!(session.poll_event(&mut &wire("Z:I")[..], at(0)), Err(error));
                assert_eq!(
                    session.query(Query::new("select 1"), at(0)),
                    Err(Refusal::NotReady)
                );
                assert_eq!(session.copy_data(0, b""), Err(Refusal::NoCopy));
                assert_eq!(session.unanswered().count(), usize::from(!asked.is_empty()));
            }
        }
    }

    #[test]
    fn clean() {
        let mut session = ready(Limits::default());
        assert!(session.is_clean());
        for (tag, state, clean) in [
            ("UPDATE_1", "I", true),
            ("BEGIN", "T", false),
            ("COMMIT", "I", true),
            ("LISTEN", "I", false),
            ("DISCARD_ALL", "I", true),
            ("SET", "I", false),
            ("SELECT_1", "I", false),
            ("DISCARD_ALL", "E", false),
            ("ROLLBACK", "I", true),
            // Without rows: CREATE TABLE AS, SELECT INTO.
            ("SELECT_1", "I", false),
            ("DISCARD_ALL", "I", true),
            ("DO", "I", false),
            ("DISCARD_ALL", "I", true),
        ] {
            ask(&mut session, "s x");
            assert!(!session.is_clean());
            feed(&mut session, &[&wire(&format!("C:{tag} Z:{state}"))]).expect("done");
            assert_eq!(session.is_clean(), clean, "{tag}");
        }
        for (script, clean) in [
            ("T:a=23 C:SELECT_1 Z:I", true),
            // Said when all is done.
            ("T:a=23 C:SELECT_1 S:TimeZone=UTC Z:I", false),
            ("C:DISCARD_ALL S:TimeZone=UTC Z:I", true),
            ("E:22012 Z:I", false),
        ] {
            ask(&mut session, "s x");
            feed(&mut session, &[&wire(script)]).expect("done");
            assert_eq!(session.is_clean(), clean, "{script}");
        }
    }
}
