//! Floor 1. `COPY`, either way: data instead of rows.
//!
//! ```text
//!  Asked ── 1 ──► Parsed ── 2 ──► Bound ─┬─ G ──► CopyIn: copy_data… copy_done or copy_fail ─┬── C ──► Complete ── Z
//!                                        ├─ H ──► CopyOut ── d… ── c ──► Copied ─────────────┤
//!                                        └─ a file of the server's ──────────────────────────┘
//! ```
//! Invariants: a server that wants the data of a copy would take everything behind it for its data, so the session is
//! `blocked` meanwhile. A copy has one `Sync`, which is written when nothing more goes into it, because the server passes
//! over those that it finds among the data.

use super::answer::{Step, Waiting, What};
use super::ask::Ask;
use super::read::Answer;
use super::{Event, Phase, Session};
use crate::base::clock::Instant;
use crate::proto::pg::{Error, Refusal, Sql};
use bytes::Bytes;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

impl Session {
    /// `COPY … FROM STDIN`: [`Event::CopyIn`] follows, then it is the caller's turn.
    ///
    /// # Errors
    /// It was not asked.
    pub fn copy_in(&mut self, sql: impl Into<Sql>, now: Instant) -> Result<u64, Refusal> {
        self.copy(sql.into(), true, now)
    }

    /// `COPY … TO STDOUT`: [`Event::CopyOut`]s follow.
    ///
    /// # Errors
    /// It was not asked.
    pub fn copy_out(&mut self, sql: impl Into<Sql>, now: Instant) -> Result<u64, Refusal> {
        self.copy(sql.into(), false, now)
    }

    fn copy(&mut self, sql: Sql, inwards: bool, now: Instant) -> Result<u64, Refusal> {
        if !is_copy(&sql) {
            return Err(Refusal::Copy);
        }
        self.check_sql(&sql, 0)?;
        Ok(self.ask(Ask::Copy { sql, inwards }, now))
    }

    /// A piece of what is copied in, cut anywhere.
    ///
    /// # Errors
    /// [`Refusal::NoCopy`]: the copy has ended, maybe for an error that the next events tell;
    /// [`Refusal::Full`]: again, when there is less output.
    pub fn copy_data(&mut self, ticket: u64, data: &[u8]) -> Result<(), Refusal> {
        self.check_copy(ticket)?;
        if data.len() > self.limits.message {
            return Err(Refusal::TooLong);
        }
        if self.output.len() >= self.limits.output {
            return Err(Refusal::Full);
        }
        let message = frontend::CopyData::new(data).map_err(|_| Refusal::TooLong)?;
        message.write(&mut self.output);
        Ok(())
    }

    /// That was all.
    ///
    /// # Errors
    /// [`Refusal::NoCopy`], as before.
    pub fn copy_done(&mut self, ticket: u64, now: Instant) -> Result<(), Refusal> {
        self.check_copy(ticket)?;
        frontend::copy_done(&mut self.output);
        self.end_copy(now);
        Ok(())
    }

    /// Nothing of it shall be: the copy fails with this message.
    ///
    /// # Errors
    /// [`Refusal::NoCopy`], as before; a NUL in `why`.
    pub fn copy_fail(&mut self, ticket: u64, why: &str, now: Instant) -> Result<(), Refusal> {
        self.check_copy(ticket)?;
        if why.contains('\0') {
            return Err(Refusal::Nul);
        }
        self.write(|out| frontend::copy_fail(why, out));
        self.end_copy(now);
        Ok(())
    }

    fn check_copy(&self, ticket: u64) -> Result<(), Refusal> {
        match (&self.phase, self.copying) {
            (Phase::Ready, Some(open)) if open == ticket => Ok(()),
            _ => Err(Refusal::NoCopy),
        }
    }

    /// No more data: the server's turn again.
    pub(super) fn end_copy(&mut self, now: Instant) {
        self.copying = None;
        self.progress = now;
        if let Some(Waiting {
            what: What::Copy { synced, .. },
            ..
        }) = self.waiting.front_mut()
            && !*synced
        {
            *synced = true;
            frontend::sync(&mut self.output);
        }
    }

    pub(super) fn refuse_copy(&mut self) {
        self.write(|out| frontend::copy_fail("want copy_in for COPY FROM STDIN", out));
    }

    pub(super) fn on_copy(
        &mut self,
        answer: Answer<'_>,
        now: Instant,
    ) -> Result<Option<Event>, Error> {
        let Some(waiting) = self.waiting.front_mut() else {
            return Ok(None);
        };
        let What::Copy { inwards, .. } = waiting.what else {
            return Ok(None);
        };
        let ticket = waiting.ticket;
        let (step, event) = match (waiting.step, answer) {
            (Step::Asked, Answer::Other(Message::ParseComplete)) => (Step::Parsed, None),
            (Step::Parsed, Answer::Bound) => (Step::Bound, None),
            (Step::Bound, Answer::Other(Message::CopyInResponse(_))) if inwards => {
                self.copying = Some(ticket);
                (Step::CopyIn, Some(Event::CopyIn(ticket)))
            }
            (Step::Bound, Answer::Other(Message::CopyInResponse(_))) => {
                self.refuse_copy();
                self.end_copy(now);
                return Ok(None);
            }
            (Step::Bound, Answer::Other(Message::CopyOutResponse(_))) => (Step::CopyOut, None),
            (Step::CopyOut, Answer::Data(data)) => {
                let data = Bytes::copy_from_slice(data);
                return Ok(Some(Event::CopyOut(ticket, data)));
            }
            (Step::CopyOut, Answer::Other(Message::CopyDone)) => (Step::Copied, None),
            (Step::Bound | Step::CopyIn | Step::Copied, Answer::Complete(tag)) => {
                waiting.tag = tag;
                waiting.step = Step::Complete;
                self.end_copy(now);
                return Ok(None);
            }
            _ => return Err(Error::Unexpected("a strange answer to a copy")),
        };
        waiting.step = step;
        Ok(event)
    }
}

/// Whether the first word is `COPY`.
pub(super) fn is_copy(sql: &str) -> bool {
    let mut rest = sql;
    loop {
        rest =
            rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}' || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment
                .split_once(['\n', '\r'])
                .map_or("", |(_, rest)| rest);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = behind_comment(comment);
        } else {
            let word = rest
                .get(..4)
                .is_some_and(|word| word.eq_ignore_ascii_case("copy"));
            let next = rest.as_bytes().get(4);
            return word && !next.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        }
    }
}

/// Comments nest.
fn behind_comment(text: &str) -> &str {
    let (mut depth, mut rest) = (1, text);
    while depth > 0 {
        let Some(at) = rest.find(['*', '/']) else {
            return "";
        };
        rest = &rest[at..];
        let (step, len) = match rest.as_bytes() {
            [b'*', b'/', ..] => (-1, 2),
            [b'/', b'*', ..] => (1, 2),
            _ => (0, 1),
        };
        depth += step;
        rest = &rest[len..];
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ask, at, feed, ready, said, wire};
    use super::*;
    use crate::proto::pg::Limits;

    #[test]
    fn copied_in() {
        for (ends_with, server, says, last) in [
            ("done", "C:COPY_2 Z:I", "d:one d:two c S", "0 done COPY 2"),
            (
                "fail",
                "E:57014 Z:I",
                "d:one d:two f:enough S",
                "0 failed no (57014)",
            ),
            ("", "E:22P02 Z:I", "d:one d:two S", "0 failed no (22P02)"),
            // The error and our end meet on their way: no second Sync.
            (
                "done",
                "E:22P02 Z:I",
                "d:one d:two c S",
                "0 failed no (22P02)",
            ),
        ] {
            let mut session = ready(Limits::default());
            ask(&mut session, "i copy c from stdin");
            assert_eq!(session.copy_data(0, b"one"), Err(Refusal::NoCopy));
            assert_eq!(
                feed(&mut session, &[&wire("1 2 G")]),
                Ok(vec!["0 copy in".to_string()])
            );
            said(&mut session);
            assert_eq!(
                (session.copy_data(0, b"one"), session.copy_data(0, b"two")),
                (Ok(()), Ok(()))
            );
            assert_eq!(session.copy_data(1, b"one"), Err(Refusal::NoCopy));
            match ends_with {
                "done" => assert_eq!(session.copy_done(0, at(0)), Ok(())),
                "fail" => assert_eq!(session.copy_fail(0, "enough", at(0)), Ok(())),
                _ => {}
            }
            assert_eq!(
                feed(&mut session, &[&wire(server)]),
                Ok(vec![last.to_string()])
            );
            assert_eq!(said(&mut session), says);
            assert_eq!(session.copy_data(0, b"one"), Err(Refusal::NoCopy));
        }
    }
}
