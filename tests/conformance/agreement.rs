//! An independent parser, Node's, frames what we accept as we do.

use crate::framing::{CHUNKED, CHUNKS, CODING, EXTENSIONS, LENGTH, POST, TRAILERS};
use crate::support::{Case, bytes};
use std::io::Write;
use std::process::{Command, Stdio};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `POST /read=abc; GET /` as Node's side says it, but for `+6`, which is a trailer.
fn as_node_says(seen: &str) -> String {
    let one = |request: &str| {
        let (request, body) = request.split_once('=').unwrap_or((request, ""));
        let method = request.split(' ').next().unwrap_or_default();
        let body = body.trim_end_matches("+6");
        let body: Vec<u8> = body.chars().map(|c| c as u8).collect();
        format!("{method}={}", hex(&body))
    };
    seen.split("; ").map(one).collect::<Vec<_>>().join(" ")
}

/// Bodies that we take have the same bytes there. Node may refuse more; it refuses little of this.
#[test]
fn node_frames_bodies_as_we_do() {
    let rows = |prefix: &str, rows: &[Case]| -> Vec<(String, &'static str)> {
        let accepted = rows
            .iter()
            .filter(|(_, outcome)| outcome.starts_with("200 "));
        accepted
            .map(|(row, outcome)| (format!("{prefix}{row}"), *outcome))
            .collect()
    };
    let cases = [
        rows(POST, LENGTH),
        rows(POST, CODING),
        rows(CHUNKED, CHUNKS),
        rows(CHUNKED, EXTENSIONS),
        rows(&format!("{CHUNKED}3|abc|0|"), TRAILERS),
    ]
    .concat();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/agreement.mjs"
    );
    let mut node = Command::new("node")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is missing: apt-get install nodejs");
    let input: String = cases
        .iter()
        .map(|(row, _)| hex(&bytes(row)) + "\n")
        .collect();
    let mut stdin = node.stdin.take().expect("its input");
    stdin.write_all(input.as_bytes()).expect("node reads");
    drop(stdin);
    let output = node.wait_with_output().expect("node's end");
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(said.lines().count(), cases.len(), "{said}");
    let (mut agreed, mut refused) = (0, Vec::new());
    for ((row, outcome), said) in cases.iter().zip(said.lines()) {
        let (_, seen) = outcome.split_once(" > ").expect("something was seen");
        match said.strip_suffix('!') {
            Some(_) => refused.push(row),
            None => {
                assert_eq!(said, as_node_says(seen), "{row}");
                agreed += 1;
            }
        }
    }
    assert!(agreed > 25 && refused.len() < 8, "{agreed} {refused:#?}");
}
