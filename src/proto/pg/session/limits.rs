//! Floor 1. How much a session takes, and how long it waits.
//!
//! ```text
//!  Startup … Settling   from the begin on: `startup`
//!  Ready                from the oldest question, or what came last of an answer, on: `reply`. None: without a
//!                       question, and while a copy waits for its data
//!  Over                 none
//! ```
//! Invariant: a session whose deadline has passed is over at the first [`Session::expire`] behind it.

use super::{Phase, Session};
use crate::base::clock::Instant;
use crate::proto::pg::Error;
use std::time::Duration;

/// How much, and how long.
///
/// ```
/// use loopwright::proto::pg::Limits;
/// let limits = Limits { pipeline: 16, ..Limits::default() };
/// assert_eq!(limits.statements, 256);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one message, either way: a row, a query with its parameters.
    pub message: usize,
    /// Questions without an answer.
    pub pipeline: usize,
    /// Prepared statements that the server keeps for us; at least 1.
    pub statements: usize,
    /// Columns of one answer.
    pub columns: usize,
    /// Bytes that wait for the socket, above which nothing more is asked.
    pub output: usize,
    /// Bytes of one row as JSON.
    pub json: usize,
    /// Rounds of hashing that the server may want of us for SCRAM: 4096 are usual. The loop does nothing else meanwhile.
    pub iterations: u32,
    /// How long it may take until the session is ready.
    pub startup: Duration,
    /// How long the oldest question may be without a sign of its answer.
    pub reply: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message: 16 * 1024 * 1024,
            pipeline: 128,
            statements: 256,
            columns: 1664,
            output: 4 * 1024 * 1024,
            json: 64 * 1024 * 1024,
            iterations: 32 * 1024,
            startup: Duration::from_secs(10),
            reply: Duration::from_secs(60),
        }
    }
}

impl Session {
    /// When [`Session::expire`] wants to be called; it moves with what comes and what is asked. Who does not read does
    /// not count the time: then the server is not to blame.
    pub fn next_deadline(&self) -> Option<Instant> {
        match (&self.phase, self.waiting.front()) {
            (Phase::Over(_), _) => None,
            (Phase::Ready, Some(oldest)) if self.copying.is_none() => {
                Some(self.progress.max(oldest.since) + self.limits.reply)
            }
            (Phase::Ready, _) => None,
            _ => Some(self.started + self.limits.startup),
        }
    }

    /// At the deadline: the session is over.
    ///
    /// # Errors
    /// It is.
    pub fn expire(&mut self, now: Instant) -> Result<(), Error> {
        if let Phase::Over(error) = &self.phase {
            return Err(error.clone());
        }
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let limit = match self.phase {
            Phase::Ready => self.limits.reply,
            _ => self.limits.startup,
        };
        let error = Error::Silent { limit };
        self.end(error.clone());
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, ready, wire};
    use super::*;
    use crate::proto::pg::{Query, Settings};

    #[test]
    fn silence() {
        let limits = Limits::default();
        let mut session = Session::new(&Settings::new("ada"), limits, at(5)).expect("a session");
        assert_eq!(session.next_deadline(), Some(at(15)));
        assert_eq!(session.expire(at(14)), Ok(()));
        let limit = limits.startup;
        assert_eq!(session.expire(at(15)), Err(Error::Silent { limit }));
        assert_eq!(session.next_deadline(), None);

        let mut session = ready(limits);
        assert_eq!(session.next_deadline(), None);
        assert_eq!(session.query(Query::new("a"), at(10)), Ok(0));
        assert_eq!(session.next_deadline(), Some(at(70)));
        // What comes of its answer moves the deadline; a notice does not.
        assert!(
            session
                .poll_event(&mut &wire("1 t: n Z:I 2")[..], at(20))
                .is_ok()
        );
        assert_eq!(session.next_deadline(), Some(at(80)));
        assert!(
            session
                .poll_event(&mut &wire("N:00000")[..], at(30))
                .is_ok()
        );
        assert_eq!(session.next_deadline(), Some(at(80)));
        let limit = limits.reply;
        assert_eq!(session.expire(at(80)), Err(Error::Silent { limit }));
    }
}
