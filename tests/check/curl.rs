//! Asks a server, by curl.

use super::support::run;
use std::process::Command;

/// Status, head and body of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }
}

/// Asks for a URL, with more arguments for curl.
pub(crate) fn ask(url: &str, args: &[&str]) -> Answer {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-g", "-m", "60", "-D", "-"]).args(args);
    let said = run(curl.arg(url));
    assert_eq!(said.code, Some(0), "curl {args:?} {url}: {}", said.err);
    let (head, body) = said.out.split_once("\r\n\r\n").expect("a head");
    let status = head.get(9..12).and_then(|digits| digits.parse().ok());
    Answer {
        status: status.expect("a status"),
        head: head.to_string(),
        body: body.to_string(),
    }
}
