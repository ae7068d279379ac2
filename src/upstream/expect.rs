//! Floor 1. What a health check expects of an answer: its status, and words near the beginning of its body.
//!
//! ```text
//!            head ok, no body wanted ──────────────────► Some(Ok)
//! Watch ──► head ok ──► data … found ──────────────────► Some(Ok)
//!    │                  └─ so many bytes, or the end ──► Some(Err)
//!    └─ another status ────────────────────────────────► Some(Err)
//! ```
//! Invariant: no more of a body is kept than is searched.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Statuses: `200`, `200-399`, `200, 204, 300-399`.
///
/// ```
/// use loopwright::upstream::expect::Statuses;
/// let statuses: Statuses = "200-299, 304".parse().unwrap();
/// assert!(statuses.contains(204) && statuses.contains(304) && !statuses.contains(301));
/// assert_eq!(statuses.to_string(), "200-299, 304");
/// assert!("399-200".parse::<Statuses>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statuses(Vec<(u16, u16)>);

/// What is wrong with a text that should name statuses: the part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotStatuses(String);

impl fmt::Display for NotStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no status between 100 and 599 and no range of them (\"200-399\")",
            self.0
        )
    }
}

impl std::error::Error for NotStatuses {}

impl Statuses {
    /// Whether `status` is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Statuses {
        Statuses(vec![(200, 399)])
    }
}

impl FromStr for Statuses {
    type Err = NotStatuses;

    fn from_str(text: &str) -> Result<Statuses, NotStatuses> {
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
            let status = text.parse().ok().filter(|_| digits)?;
            (100..=599).contains(&status).then_some(status)
        };
        let range = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (status(from.trim())?, status(to.trim())?);
            (from <= to).then_some((from, to))
        };
        text.split(',')
            .map(|part| range(part.trim()).ok_or_else(|| NotStatuses(part.trim().to_owned())))
            .collect::<Result<_, _>>()
            .map(Statuses)
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (from, to)) in self.0.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            match from == to {
                true => write!(f, "{comma}{from}")?,
                false => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

/// What an answer has to be.
///
/// ```
/// use loopwright::upstream::expect::Expect;
/// let expect = Expect::default();
/// assert_eq!(expect.statuses.to_string(), "200-399");
/// assert_eq!((expect.body, expect.within), (None, 64 * 1024));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expect {
    /// One of these statuses.
    pub statuses: Statuses,
    /// With this in its body.
    pub body: Option<String>,
    /// In so many bytes from its beginning; the rest is not read.
    pub within: usize,
}

impl Default for Expect {
    fn default() -> Expect {
        Expect {
            statuses: Statuses::default(),
            body: None,
            within: 64 * 1024,
        }
    }
}

/// Why an answer is not the one expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unexpected {
    /// Its status.
    Status(u16),
    /// The words are not in its body, of which so many bytes were searched.
    Body(usize),
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unexpected::Status(status) => write!(f, "answered with status {status}"),
            Unexpected::Body(searched) => {
                write!(
                    f,
                    "what is expected is not in the body's first {searched} bytes"
                )
            }
        }
    }
}

impl std::error::Error for Unexpected {}

/// Looks at one answer as it comes. Each function says `Some` once that is decided: the connection is then of no
/// more use to the check.
///
/// ```
/// use loopwright::upstream::expect::{Expect, Watch};
/// let expect = Expect { body: Some("all well".into()), ..Expect::default() };
/// let mut watch = Watch::new(expect.into());
/// assert_eq!(watch.head(200), None);
/// assert_eq!(watch.data(b"status: all"), None);
/// assert_eq!(watch.data(b" well, thanks"), Some(Ok(())));
/// ```
#[derive(Debug)]
pub struct Watch {
    expect: Arc<Expect>,
    body: Vec<u8>,
}

impl Watch {
    /// Of one answer.
    pub fn new(expect: Arc<Expect>) -> Watch {
        Watch {
            expect,
            body: Vec::new(),
        }
    }

    /// The head has come.
    pub fn head(&mut self, status: u16) -> Option<Result<(), Unexpected>> {
        if !self.expect.statuses.contains(status) {
            return Some(Err(Unexpected::Status(status)));
        }
        self.expect.body.is_none().then_some(Ok(()))
    }

    /// A piece of the body.
    pub fn data(&mut self, piece: &[u8]) -> Option<Result<(), Unexpected>> {
        let Some(wanted) = &self.expect.body else {
            return Some(Ok(()));
        };
        // What was searched before can hold no more than the beginning of it.
        let from = self.body.len().saturating_sub(wanted.len());
        let room = self.expect.within - self.body.len();
        self.body.extend_from_slice(&piece[..piece.len().min(room)]);
        let searched = self.body.get(from..).unwrap_or_default();
        if memchr::memmem::find(searched, wanted.as_bytes()).is_some() {
            return Some(Ok(()));
        }
        (self.body.len() == self.expect.within).then(|| self.end())
    }

    /// The body has ended.
    pub fn end(&mut self) -> Result<(), Unexpected> {
        match &self.expect.body {
            Some(wanted) if memchr::memmem::find(&self.body, wanted.as_bytes()).is_none() => {
                Err(Unexpected::Body(self.body.len()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statuses_are_ranges() {
        for (text, has, has_not) in [
            (
                "200-399",
                &[200, 204, 399][..],
                &[199, 400, 500, 100, 0][..],
            ),
            ("200", &[200], &[199, 201]),
            (" 200 , 300 - 302 ", &[200, 300, 302], &[201, 299, 303]),
            ("100-599", &[100, 599], &[99, 600]),
        ] {
            let statuses: Statuses = text.parse().unwrap();
            assert!(has.iter().all(|s| statuses.contains(*s)), "{text}");
            assert!(!has_not.iter().any(|s| statuses.contains(*s)), "{text}");
            assert_eq!(statuses.to_string().parse::<Statuses>(), Ok(statuses));
        }
        for text in [
            "",
            ",",
            "200,",
            "ok",
            "99",
            "600",
            "0200",
            "+20",
            "-200",
            "200-",
            "300-200",
            "200-300-400",
        ] {
            assert!(text.parse::<Statuses>().is_err(), "{text:?}");
        }
        let said = "200, 2xx".parse::<Statuses>().unwrap_err().to_string();
        assert!(said.starts_with("\"2xx\" is no status"), "{said}");
    }

    #[test]
    fn the_status_decides_first() {
        let mut expect = Expect::default();
        assert_eq!(Watch::new(Arc::new(expect.clone())).head(204), Some(Ok(())));
        assert_eq!(
            Watch::new(Arc::new(expect.clone())).head(503),
            Some(Err(Unexpected::Status(503)))
        );
        expect.body = Some("ok".into());
        assert_eq!(Watch::new(Arc::new(expect.clone())).head(204), None);
        assert_eq!(
            Watch::new(Arc::new(expect.clone())).head(503),
            Some(Err(Unexpected::Status(503)))
        );
    }

    #[test]
    fn no_more_than_the_beginning_is_searched_or_kept() {
        for (within, body, want) in [
            (8, "xxxxxxok", Ok(())),
            (8, "xxxxxxxok", Err(Unexpected::Body(8))),
            (0, "ok", Err(Unexpected::Body(0))),
            (100, "o k", Err(Unexpected::Body(3))),
        ] {
            let expect = Expect {
                body: Some("ok".into()),
                within,
                ..Expect::default()
            };
            let mut watch = Watch::new(expect.into());
            let found = watch.data(body.as_bytes()).unwrap_or_else(|| watch.end());
            assert_eq!(found, want, "{body}");
            assert!(watch.body.len() <= within);
        }
    }

    proptest! {
        /// However it is cut.
        #[test]
        fn pieces_are_searched_as_one(body in "[ab]{0,40}", wanted in "[ab]{1,5}", within in 0usize..50, cut in 1usize..7) {
            let expect = Expect { body: Some(wanted.clone()), within, ..Expect::default() };
            let mut watch = Watch::new(expect.into());
            let found = body
                .as_bytes()
                .chunks(cut)
                .find_map(|piece| watch.data(piece))
                .unwrap_or_else(|| watch.end());
            let searched = &body[..body.len().min(within)];
            prop_assert_eq!(found.is_ok(), searched.contains(&wanted));
        }
    }
}
