//! A PostgreSQL session that is ready, with one statement prepared, and what a server answers to it: for those who count
//! and measure.

use loopwright::Instant;
use loopwright::proto::pg::{Event, Limits, Query, Session, Settings};
use std::rc::Rc;

/// What is asked for again and again.
pub(crate) const SQL: &str = "select id, name, at from users where id = $1";

/// `BindComplete`, one row (7, `Ada Lovelace`, a time stamp), its end, `ReadyForQuery`.
pub(crate) const ANSWER: &[u8] = b"2\0\0\0\x04\
    D\0\0\0\x2a\0\x03\0\0\0\x04\0\0\0\x07\0\0\0\x0cAda Lovelace\0\0\0\x08\0\x02\xb0\x2a\x1c\xd5\x80\x40\
    C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

/// It has answered `SQL` once.
pub(crate) fn session(now: Instant) -> (Session, Rc<str>) {
    const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    const PREPARED: &[u8] = b"1\0\0\0\x04t\0\0\0\x0a\0\x01\0\0\0\x17\
        T\0\0\0\x47\0\x03id\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0\
        name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0\
        at\0\0\0\0\0\0\0\0\0\x04\xa0\0\x08\xff\xff\xff\xff\0\0Z\0\0\0\x05I";
    let session = Session::new(&Settings::new("ada"), Limits::default(), now);
    let mut session = session.expect("a session");
    let sql: Rc<str> = SQL.into();
    assert_eq!(
        session.poll_event(&mut &READY[..], now),
        Ok(Some(Event::Ready))
    );
    let asked = session.query(Query::new(sql.clone()).with([1]), now);
    asked.expect("asked");
    assert_eq!(session.poll_event(&mut &PREPARED[..], now), Ok(None));
    let mut answer = ANSWER;
    while let Some(event) = session.poll_event(&mut answer, now).expect("an answer") {
        drop(event);
    }
    assert_eq!(session.owed(), 0);
    session.sent(session.output().len());
    (session, sql)
}
