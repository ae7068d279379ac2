//! Floor 1. Bytes → one message of the server's, when all of it is there.
//!
//! ```text
//!  head: kind and length ──► longer than its kind may be, or no such kind ──► Error
//!                       └──► room, as its bytes come ──► whole ──► Message
//! ```
//! Invariants: no more memory is taken than a message of its kind may have, and no sooner than its bytes come. Rows are
//! slices of the blocks that they were read to: nothing is copied again.

use super::{LARGE, Session};
use crate::proto::pg::Error;
use bytes::BytesMut;
use postgres_protocol::message::backend::{self, Header, Message};

/// How much is made room for at once: rows are slices of such blocks.
const BLOCK: usize = 16 * 1024;
/// The longest description of a statement: 65,535 parameters, or 1664 columns with names of 63 bytes, and twice that.
const DESCRIPTION: usize = 300_000;
/// The longest message of the kinds that are always short, and of any before the session is ready.
const SHORT: usize = 30_000;

impl Session {
    /// One message, when all of it is there.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        const HEAD: usize = 5;
        if self.input.len() < HEAD {
            if input.is_empty() {
                return Ok(None);
            }
            if self.input.capacity() < HEAD {
                self.input.reserve(BLOCK);
            }
            self.take(input, HEAD);
        }
        let header = Header::parse(&self.input).map_err(|_| Error::Malformed("a length"))?;
        let Some(header) = header else {
            return Ok(None);
        };
        let size = usize::try_from(header.len()).unwrap_or(usize::MAX);
        let limit = self.longest(header.tag())?;
        if size > limit {
            return Err(Error::TooLong { size, limit });
        }
        let whole = size.saturating_add(1);
        if whole > self.input.capacity() {
            // As its bytes come, not as they are announced.
            let missing = whole - self.input.len();
            let room = if whole > LARGE {
                missing.min(input.len().max(self.input.len()).max(BLOCK))
            } else {
                missing.max(BLOCK)
            };
            self.input.reserve(room);
        }
        self.take(input, whole);
        if self.input.len() < whole {
            return Ok(None);
        }
        let message = Message::parse(&mut self.input).map_err(|_| Error::Malformed("a message"))?;
        if whole > LARGE {
            self.input = BytesMut::new();
        }
        Ok(message)
    }

    /// Up to `whole` bytes of a message.
    fn take(&mut self, input: &mut &[u8], whole: usize) {
        let missing = whole.saturating_sub(self.input.len());
        let (now, rest) = input.split_at(missing.min(input.len()));
        self.input.extend_from_slice(now);
        *input = rest;
    }

    /// How long a message may be, before anything of it is kept.
    fn longest(&self, tag: u8) -> Result<usize, Error> {
        let is_long = matches!(
            tag,
            backend::DATA_ROW_TAG
                | backend::COPY_DATA_TAG
                | backend::ERROR_RESPONSE_TAG
                | backend::NOTICE_RESPONSE_TAG
                | backend::NOTIFICATION_RESPONSE_TAG
        );
        let is_short = matches!(
            tag,
            b'1' | b'2'
                | b'3'
                | b'c'
                | b'C'
                | b'G'
                | b'H'
                | b'I'
                | b'K'
                | b'n'
                | b'R'
                | b'S'
                | b't'
                | b'T'
                | b'Z'
        );
        // These are kept as long as their statement.
        let is_description = matches!(
            tag,
            backend::ROW_DESCRIPTION_TAG | backend::PARAMETER_DESCRIPTION_TAG
        );
        if is_description && self.is_ready() {
            return Ok(DESCRIPTION.min(self.limits.message));
        }
        match is_long && self.is_ready() {
            true => Ok(self.limits.message),
            false if is_long || is_short => Ok(SHORT.min(self.limits.message)),
            false => Err(Error::Malformed("an unknown kind of message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, feed, ready};
    use super::*;
    use crate::proto::pg::{Limits, Settings};
    use crate::proto::resp::cuts;

    /// Nothing is kept of what is too long, or of lengths that are none.
    #[test]
    fn lengths() {
        let limits = Limits {
            message: 100_000,
            ..Limits::default()
        };
        let head = |tag: u8, len: u32| [&[tag][..], &len.to_be_bytes()].concat();
        let malformed = Error::Malformed("a length");
        let too_long = |size, limit| Error::TooLong { size, limit };
        for (input, error) in [
            (head(b'D', 3), malformed.clone()),
            (head(b'D', 0), malformed.clone()),
            (head(b'D', u32::MAX), malformed),
            (
                head(b'D', i32::MAX.unsigned_abs()),
                too_long(i32::MAX.unsigned_abs() as usize, 100_000),
            ),
            (head(b'D', 100_001), too_long(100_001, 100_000)),
            (head(b'Z', 30_001), too_long(30_001, 30_000)),
            (head(b'T', 100_001), too_long(100_001, 100_000)),
        ] {
            for pieces in cuts(&input) {
                let mut session = ready(limits);
                assert_eq!(feed(&mut session, &pieces), Err(error.clone()));
                assert_eq!(session.input.capacity(), 0);
            }
        }
        // Before the session is ready, everything is short.
        let mut session = Session::new(&Settings::new("ada"), limits, at(0)).expect("a session");
        assert_eq!(
            feed(&mut session, &[&head(b'E', 30_001)]),
            Err(too_long(30_001, 30_000))
        );
        // What is announced is not yet made room for.
        let mut session = ready(Limits::default());
        let announced = head(b'N', 16 * 1024 * 1024);
        assert_eq!(feed(&mut session, &[&announced]), Ok(vec![]));
        assert!(session.input.capacity() <= 64 * 1024);
        for _ in 0..100 {
            assert_eq!(feed(&mut session, &[&[b'x'; 1000]]), Ok(vec![]));
        }
        assert!(
            session.input.capacity() <= 400_000,
            "{}",
            session.input.capacity()
        );
    }
}
