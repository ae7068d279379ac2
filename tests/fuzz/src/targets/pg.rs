//! What a PostgreSQL sends: whole and in pieces of any size, the same; nothing larger than it may be; a value of any
//! type and any bytes is a value or an error.
//!
//! Input: the length of the pieces, what has been said before, then what arrives.

use super::take;
use loopwright::Instant;
use loopwright::proto::address::Secret;
use loopwright::proto::pg::{Event, Limits, Params, Query, Row, Session, Settings};

const LIMITS: Limits = Limits {
    message: 4096,
    pipeline: 4,
    statements: 2,
    columns: 8,
    output: 1024,
    json: 64 * 1024,
    iterations: 64,
    startup: std::time::Duration::from_secs(1),
    reply: std::time::Duration::from_secs(1),
};

/// `AuthenticationOk`, `ReadyForQuery`.
const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// Types that values are read of: one for each way to read them.
const TYPES: [u32; 34] = [
    16, 17, 18, 20, 21, 23, 25, 26, 114, 650, 700, 701, 790, 869, 1000, 1001, 1005, 1007, 1009,
    1016, 1021, 1082, 1083, 1114, 1184, 1186, 1231, 1266, 1700, 2950, 3802, 3807, 3904, 99_999,
];

pub(crate) fn run(mut data: &[u8]) {
    let step = usize::from(take(&mut data)).max(1);
    let mode = take(&mut data);
    let before = match mode % 3 {
        0 => Vec::new(),
        1 => READY.to_vec(),
        _ => {
            let ty = TYPES[usize::from(take(&mut data)) % TYPES.len()];
            data = &data[..data.len().min(LIMITS.message - 64)];
            value(ty, data)
        }
    };
    let data = if mode % 3 == 2 { &[][..] } else { data };
    let whole = session(&before, data, usize::MAX);
    assert_eq!(session(&before, data, step), whole, "by {step}");
}

/// The session is ready, the first question has an answer: one column, one row.
fn value(ty: u32, value: &[u8]) -> Vec<u8> {
    let message = |tag: u8, body: &[u8]| {
        let len = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[tag][..], &len, body].concat()
    };
    let len = u32::try_from(value.len()).expect("short").to_be_bytes();
    [
        READY.to_vec(),
        message(b'1', b""),
        message(b't', &[0, 0]),
        message(
            b'T',
            &[b"\0\x01v\0\0\0\0\0\0\0", &ty.to_be_bytes()[..], &[0; 8]].concat(),
        ),
        message(b'Z', b"I"),
        message(b'2', b""),
        message(b'D', &[b"\0\x01", &len[..], value].concat()),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn session(before: &[u8], data: &[u8], step: usize) -> Vec<String> {
    let mut settings = Settings::new("ada");
    settings.password = Some(Secret::new("pw".into()));
    settings.cleartext = true;
    let now = Instant::default();
    let mut session = Session::new(&settings, LIMITS, now).expect("a session");
    let (mut seen, mut copying) = (Vec::new(), None);
    for mut piece in [before].into_iter().chain(data.chunks(step)) {
        loop {
            match session.poll_event(&mut piece, now) {
                Ok(Some(event)) => {
                    match &event {
                        Event::Row(_, row) => look(row, &mut seen),
                        Event::CopyIn(ticket) => copying = Some(*ticket),
                        _ => {}
                    }
                    seen.push(format!("{event:?}"));
                    // Something to be answered: each event leads to other questions.
                    let parameter = Query::new("select $1").with(Params::new().with(7));
                    let _ = match seen.len() % 5 {
                        0 => session.simple("select 1; select 2", now),
                        1 => session.query(Query::new("select 1"), now),
                        2 => session.query(parameter, now),
                        3 => session.copy_in("copy c from stdin", now),
                        _ => session.copy_out("copy c to stdout", now),
                    };
                    if let Some(ticket) = copying {
                        let _ = session.copy_data(ticket, b"1\n");
                        if seen.len().is_multiple_of(2) {
                            let _ = session.copy_done(ticket, now);
                        }
                    }
                    assert!(session.owed() <= LIMITS.pipeline);
                    assert!(
                        session.output().len() <= 4 * LIMITS.output,
                        "{} of output",
                        session.output().len()
                    );
                }
                Ok(None) => break assert!(piece.is_empty(), "more is wanted, with some left"),
                Err(error) => {
                    assert!(!error.to_string().contains("pw"));
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen.push(format!("{} owed, {:?}", session.owed(), session.status()));
    seen
}

/// In every way.
fn look(row: &Row, seen: &mut Vec<String>) {
    let mut json = Vec::new();
    let written = row.json(&mut json);
    let binary_json = row
        .columns()
        .iter()
        .any(|column| [114, 3802].contains(&column.oid));
    match &written {
        // Documents stand as the server has sent them.
        Ok(()) if !binary_json => {
            let read = serde_json::from_slice::<serde::de::IgnoredAny>(&json);
            assert!(read.is_ok(), "{}", String::from_utf8_lossy(&json));
        }
        Ok(()) => {}
        Err(_) => assert!(json.is_empty()),
    }
    // One numeric of a few bytes may have 147,455 digits.
    assert!(json.len() <= LIMITS.json + 150_000);
    seen.push(format!("{written:?} {}", String::from_utf8_lossy(&json)));
    seen.push(format!("{:?}", row.to::<serde_json::Value>()));
    seen.push(format!("{:?}", row.to::<Vec<Option<f64>>>()));
    for at in 0..row.len() {
        seen.push(format!(
            "{:?} {:?}",
            row.get::<Option<i64>>(at),
            row.get::<&str>(at)
        ));
        seen.push(format!(
            "{:?} {:?}",
            row.get::<Vec<Option<i32>>>(at),
            row.get::<Vec<String>>(at)
        ));
        seen.push(format!("{:?}", row.get::<std::time::SystemTime>(at)));
        seen.push(format!("{:?}", row.get::<std::net::IpAddr>(at)));
        seen.push(format!("{:?}", row.get::<serde_json::Value>(at)));
    }
}
