//! A connection's machine: the same bytes, whole and in pieces, are the same requests, bodies and
//! refusals; nothing follows a refusal.
//!
//! Input: settings, `n` lengths of pieces, then what the client sends.

use super::machine::{Connection, Heard, WAITS, WIDE, When};
use super::{cut, take};
use loopwright::proto::h1::head::HeadLimits;
use loopwright::proto::h1::server::Bounds;

const TIGHT: Bounds = Bounds {
    head: HeadLimits {
        head: 256,
        target: 64,
        fields: 6,
    },
    discard: 16,
    waits: WAITS,
};

pub(crate) fn run(mut data: &[u8]) {
    let settings = take(&mut data);
    let when = [When::Head, When::End, When::Around][usize::from(settings % 3)];
    let (bounds, body_limit) = match settings & 0x80 {
        0 => (TIGHT, 32),
        _ => (WIDE, 1 << 20),
    };
    let count = usize::from(take(&mut data) % 16);
    let lengths: Vec<usize> = (0..count).map(|_| usize::from(take(&mut data))).collect();

    let mut whole = Connection::new(when, bounds, body_limit);
    whole.arrive(data);
    let mut split = Connection::new(when, bounds, body_limit);
    for piece in cut(data, &lengths) {
        split.arrive(piece);
    }
    for connection in [&whole, &split] {
        let in_sight = connection.taken + connection.kept.len();
        assert_eq!(in_sight, data.len(), "bytes got lost");
    }
    compare(&whole, &split, bounds);

    for mut connection in [whole, split] {
        let (before, has_been) = (connection.heard.len(), connection.machine.is_closed());
        connection.arrive(b"GET /evil HTTP/1.1\r\nhost: a\r\n\r\n");
        let is_more = connection.heard.len() > before;
        assert!(!(has_been && is_more), "a request after the end");
        if connection.machine.handle_eof() && connection.machine.is_answering() {
            connection.machine.abort();
        }
        let n = connection.heard.len();
        connection.arrive(b"GET /evil HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(
            connection.heard.len(),
            n,
            "a request after the client's end"
        );
    }
}

fn compare(whole: &Connection, split: &Connection, bounds: Bounds) {
    // A head that drips in is looked at when it is all there, or too long: until then the one that
    // came whole may be refused already, and which of two faults is told depends on what was seen.
    let waits =
        |c: &Connection| c.refused.is_none() && !c.machine.is_closed() && !c.kept.is_empty();
    match (whole.refused, split.refused) {
        (Some(_), None) => assert!(waits(split), "refused only when whole"),
        (None, Some(_)) => panic!("refused only in pieces: {:?}", split.refused),
        (Some(a), Some(b)) if a != b => {
            let is_of_head = |status| [400, 414, 431, 501, 505, 417].contains(&status);
            assert!(
                is_of_head(a) && is_of_head(b),
                "refused with {a} and with {b}"
            );
        }
        _ => {}
    }
    // Of a body over its limit, what came before the limit may have been told.
    let told = |c: &Connection| -> Vec<Heard> {
        let mut heard = c.heard.clone();
        if c.refused.is_some()
            && let Some(last) = heard.last_mut().filter(|last| last.end.is_none())
        {
            last.body.clear();
        }
        heard
    };
    assert_eq!(told(whole), told(split), "requests");
    if whole.refused == split.refused {
        assert_eq!(sent(whole), sent(split), "answers, {bounds:?}");
        assert_eq!(
            whole.machine.is_closed(),
            split.machine.is_closed(),
            "open or closed"
        );
        if !whole.machine.is_closed() {
            assert_eq!(whole.taken, split.taken, "bytes taken");
        }
    }
    let ok = sent(whole).matches("HTTP/1.1 200").count();
    let ended = whole
        .heard
        .iter()
        .filter(|heard| heard.end.is_some())
        .count();
    assert!(ok >= ended, "{ended} whole requests, {ok} answers");
    assert!(ok <= whole.heard.len(), "more answers than requests");
}

/// What left, but for `100 Continue`: a client that has sent its body already is not told to.
fn sent(connection: &Connection) -> String {
    let text = String::from_utf8_lossy(&connection.out).into_owned();
    text.replace("HTTP/1.1 100 Continue\r\n\r\n", "")
}
