//! Floor 1. Bytes → one message of the server's, when all of it is there.
//!
//! ```text
//!  head: kind and length ──► longer than its kind may be, or no such kind ──► Error
//!                       ├──► all of it is here ───────────────────────────┐
//!                       └──► kept, as its bytes come ──► the rest of it ──┴─► Answer
//! ```
//! The messages that come with each query are read where they are ([`Answer`]); the others are the `postgres-protocol`
//! crate's. Rows are slices of a [`Shelf`]'s block, which is filled once for all the rows of a piece of input.
//!
//! Invariants: no more memory is taken than a message of its kind may have, and no sooner than its bytes come. `input` is
//! the begin of one message, or empty.

use super::{LARGE, Session, Status, Tag};
use crate::proto::pg::Error;
use crate::proto::pg::row::{Columns, Row, Values};
use bytes::BytesMut;
use postgres_protocol::message::backend::{self, Header, Message};
use std::borrow::Cow;
use std::rc::Rc;

/// A message's kind and length.
const HEAD: usize = 5;
/// How much of what has come is copied at once, for the rows that are in it.
const BLOCK: usize = 16 * 1024;
/// The longest description of a statement: 65,535 parameters, or 1664 columns with names of 63 bytes, and twice that.
const DESCRIPTION: usize = 300_000;
/// The longest message of the kinds that are always short, and of any before the session is ready.
const SHORT: usize = 30_000;

/// What the server has said.
pub(super) enum Answer<'a> {
    /// `2`
    Bound,
    /// `D`: how many values. The [`Shelf`] has them.
    Row(u16),
    /// `C`
    Complete(Tag),
    /// `d`
    Data(&'a [u8]),
    /// `Z`
    Ready(Status),
    Other(Message),
}

impl Answer<'_> {
    /// `message` is one, with its head.
    pub(super) fn read(message: &[u8]) -> Result<Answer<'_>, Error> {
        let malformed = Error::Malformed("a message");
        let Some((head, body)) = message.split_first_chunk::<HEAD>() else {
            return Err(malformed);
        };
        Ok(match (head[0], body) {
            (backend::BIND_COMPLETE_TAG, []) => Answer::Bound,
            (backend::DATA_ROW_TAG, [high, low, ..]) => {
                Answer::Row(u16::from_be_bytes([*high, *low]))
            }
            (backend::COMMAND_COMPLETE_TAG, [tag @ .., 0]) if !tag.contains(&0) => {
                let tag = std::str::from_utf8(tag).map_err(|_| Error::Malformed("a tag"))?;
                Answer::Complete(Tag::new(tag))
            }
            (backend::COPY_DATA_TAG, data) => Answer::Data(data),
            (backend::READY_FOR_QUERY_TAG, [status]) => Answer::Ready(match status {
                b'I' => Status::Idle,
                b'T' => Status::InTransaction,
                b'E' => Status::Failed,
                _ => return Err(Error::Malformed("a transaction's state")),
            }),
            _ => match Message::parse(&mut BytesMut::from(message)) {
                Ok(Some(message)) => Answer::Other(message),
                _ => return Err(malformed),
            },
        })
    }
}

/// The block that the row came in that was read last, and what comes behind it.
#[derive(Default)]
pub(super) struct Shelf {
    block: Rc<Vec<u8>>,
    /// Where it begins, in bytes of the connection.
    begin: u64,
    /// Of the block, the row's message.
    row: std::ops::Range<usize>,
    /// Where the next message begins.
    next: u64,
}

impl Shelf {
    fn pass(&mut self, bytes: usize) {
        self.next += bytes as u64;
    }

    /// `input` begins with a row's message of so many bytes.
    fn put(&mut self, input: &[u8], whole: usize) {
        let at = usize::try_from(self.next - self.begin).unwrap_or(usize::MAX);
        self.row = at..at.saturating_add(whole);
        if self.block.len() < self.row.end {
            let new = &input[..input.len().min(BLOCK.max(whole))];
            match Rc::get_mut(&mut self.block) {
                // No row is left of what was there.
                Some(block) => {
                    block.clear();
                    block.extend_from_slice(new);
                }
                None => self.block = Rc::new(new.to_vec()),
            }
            self.begin = self.next;
            self.row = 0..whole;
        }
    }

    /// The same of one that has come in pieces. A large one is not copied: what comes back is its begin.
    fn put_whole(&mut self, message: Vec<u8>) -> Vec<u8> {
        let whole = message.len();
        if whole <= BLOCK {
            self.put(&message, whole);
            return message;
        }
        let begin = message[..HEAD + 2].to_vec();
        (self.begin, self.row) = (self.next, 0..whole);
        self.block = Rc::new(message);
        begin
    }

    /// The row.
    pub(super) fn row(&mut self, count: u16, columns: &Rc<Columns>) -> Result<Row, Error> {
        let malformed = Error::Malformed("a row");
        let values = self.row.start + HEAD + size_of_val(&count)..self.row.end;
        let block = match self.block.len() > BLOCK {
            // A large one goes when it does.
            true => std::mem::take(&mut self.block),
            false => self.block.clone(),
        };
        let row = Values::new(block, values).and_then(|values| Row::new(values, columns.clone()));
        row.filter(|row| row.len() == usize::from(count))
            .ok_or(malformed)
    }
}

impl Session {
    /// One message, when all of it is there.
    pub(super) fn read<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Cow<'a, [u8]>>, Error> {
        if !self.input.is_empty() {
            self.keep(input, HEAD);
        }
        let begin = if self.input.is_empty() {
            *input
        } else {
            &self.input
        };
        let header = Header::parse(begin).map_err(|_| Error::Malformed("a length"))?;
        let Some(header) = header else {
            self.keep(input, HEAD);
            return Ok(None);
        };
        let size = usize::try_from(header.len()).unwrap_or(usize::MAX);
        let limit = self.longest(header.tag())?;
        if size > limit {
            return Err(Error::TooLong { size, limit });
        }
        let whole = size.saturating_add(1);
        let is_row = header.tag() == backend::DATA_ROW_TAG;
        if self.input.is_empty()
            && let Some((message, rest)) = input.split_at_checked(whole)
        {
            if is_row {
                self.shelf.put(input, whole);
            }
            *input = rest;
            self.shelf.pass(whole);
            return Ok(Some(Cow::Borrowed(message)));
        }
        self.keep(input, whole);
        if self.input.len() < whole {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.input);
        if is_row {
            message = self.shelf.put_whole(message);
        }
        self.shelf.pass(whole);
        Ok(Some(Cow::Owned(message)))
    }

    /// Up to `whole` bytes of a message. Room is made for them as they come, not as they are announced.
    fn keep(&mut self, input: &mut &[u8], whole: usize) {
        let missing = whole.saturating_sub(self.input.len());
        let (now, rest) = input.split_at(missing.min(input.len()));
        // Half of it is there: room for the rest is no more than that.
        if whole <= LARGE || self.input.len() >= missing {
            self.input.reserve_exact(missing);
        }
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
    use super::super::tests::{ask, at, feed, message, ready, wire};
    use super::*;
    use crate::proto::pg::Event;
    use crate::proto::pg::{Limits, Settings};
    use crate::proto::resp::cuts;
    use proptest::prelude::*;

    /// The text of the row of this number, which no other row has.
    fn text(number: usize, len: usize) -> Vec<u8> {
        (0..len)
            .map(|at| b'a' + ((number * 7 + at) % 26) as u8)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// However the bytes are cut, held back and come again, and whichever rows are kept for how long: each row is what was sent.
        #[test]
        fn each_row_has_its_own_bytes(
            rows in proptest::collection::vec((prop_oneof![0..40usize, 0..5_000usize, 16_000..17_000usize, 30_000..70_000usize], any::<bool>(), 0..4u8), 1..60),
            pieces in proptest::collection::vec((prop_oneof![1..30usize, 1..70_000usize], any::<bool>()), 1..40),
        ) {
            let mut session = ready(Limits::default());
            let mut wires = wire("1 t: T:n=25 Z:I 2");
            for (number, (len, _, end)) in rows.iter().enumerate() {
                let value = text(number, *len);
                let body = [&[0, 1][..], &(*len as u32).to_be_bytes(), &value].concat();
                wires.extend(message(b'D', &body));
                match end {
                    0 => wires.extend(wire("N:00000")),
                    1 => wires.extend(wire("C:SELECT_1 Z:I 2")),
                    _ => {}
                }
            }
            wires.extend(wire("C:SELECT_1 Z:I"));
            for _ in 0..=rows.iter().filter(|row| row.2 == 1).count() {
                ask(&mut session, "q select n");
            }
            let (mut kept, mut seen, mut back) = (Vec::new(), 0, Vec::new());
            let mut rest = &wires[..];
            for (size, holds) in pieces.iter().cycle() {
                if rest.is_empty() && back.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at(rest.len().min(*size));
                rest = behind;
                let mut all = std::mem::take(&mut back);
                all.extend_from_slice(piece);
                let mut input = &all[..];
                while let Some(event) = session.poll_event(&mut input, at(0)).expect("no error") {
                    let Event::Row(_, row) = event else { continue };
                    let sent = text(seen, rows[seen].0);
                    prop_assert_eq!(row.raw(0).expect("a column"), Some(&sent[..]));
                    if rows[seen].1 {
                        kept.push((seen, row));
                    } else if seen % 5 == 0 {
                        kept.clear();
                    }
                    seen += 1;
                    if *holds {
                        break;
                    }
                }
                back = input.to_vec();
            }
            prop_assert_eq!(seen, rows.len());
            for (number, row) in kept {
                let sent = text(number, rows[number].0);
                prop_assert_eq!(row.raw(0).expect("a column"), Some(&sent[..]));
            }
        }
    }

    /// A large row is in memory once, and takes no more than it is long.
    #[test]
    fn a_large_row_is_not_copied() {
        let value = vec![b'x'; 1_000_000];
        let body = [&[0, 1][..], &1_000_000u32.to_be_bytes(), &value].concat();
        let mut session = ready(Limits::default());
        ask(&mut session, "q select n");
        let begin = [wire("1 t: T:n=25 Z:I 2"), message(b'D', &body)].concat();
        let (begin, mut end) = begin.split_at(begin.len() - 1);
        let pieces: Vec<&[u8]> = begin.chunks(10_000).collect();
        assert_eq!(feed(&mut session, &pieces), Ok(vec!["0 columns n".into()]));
        assert_eq!(session.input.capacity(), body.len() + HEAD);
        let place = session.input.as_ptr_range();
        let Ok(Some(Event::Row(_, row))) = session.poll_event(&mut end, at(0)) else {
            panic!("no row");
        };
        let raw = row.raw(0).expect("a column").expect("a value");
        assert!(raw == value && place.contains(&raw.as_ptr()));
    }

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
