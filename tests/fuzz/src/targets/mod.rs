//! The fuzz targets: each takes bytes, and panics if something is wrong. Run by libFuzzer
//! (`tests/fuzz`, `scripts/fuzz`), and by `tests/fuzz_corpus.rs` with what is in `tests/fuzz/corpus`.

mod access_log;
mod chunked;
mod client;
mod config;
mod connection;
mod files;
mod forwarded;
mod framing;
mod machine;
mod pg;
mod proxy_fields;
mod proxy_protocol;
mod request;
mod resp;
mod routes;
mod websocket;
mod world;

/// Panics if something is wrong.
pub(crate) type Target = fn(&[u8]);

/// All there are; `tests/fuzz/corpus` has a folder for each.
pub(crate) const TARGETS: [(&str, Target); 16] = [
    ("access_log", access_log::run),
    ("chunked", chunked::run),
    ("client", client::run),
    ("config", config::run),
    ("connection", connection::run),
    ("files", files::run),
    ("forwarded", forwarded::run),
    ("framing", framing::run),
    ("pg", pg::run),
    ("proxy_fields", proxy_fields::run),
    ("proxy_protocol", proxy_protocol::run),
    ("request", request::run),
    ("resp", resp::run),
    ("routes", routes::run),
    ("websocket", websocket::run),
    ("world", world::run),
];

/// Takes the first byte away; 0 if there is none.
fn take(data: &mut &[u8]) -> u8 {
    match data {
        [first, rest @ ..] => {
            *data = rest;
            *first
        }
        [] => 0,
    }
}

/// Cuts into pieces of these lengths. Once they are used up they begin anew, if they get anywhere.
fn cut<'a>(data: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), data);
    let mut next = lengths.iter().cycle();
    let moves = lengths.iter().any(|&n| n > 0);
    while !rest.is_empty() {
        let n = if moves { *next.next().unwrap_or(&1) } else { 1 };
        let (piece, after) = rest.split_at(n.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Percent-decoding as one would write it down.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |b: u8| (b as char).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at..] {
            [b'%', a, b, ..] if hex(a).is_some() && hex(b).is_some() => {
                out.push(hex(a).unwrap_or(0) * 16 + hex(b).unwrap_or(0));
                at += 3;
            }
            [b, ..] => {
                out.push(b);
                at += 1;
            }
            [] => {}
        }
    }
    out
}
