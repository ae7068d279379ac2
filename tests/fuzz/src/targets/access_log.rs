//! A line of the access log is one line, whatever was asked for; JSON is JSON, and says what was asked.
//!
//! Input: a request's head.

use log::{Log, Metadata, Record};
use loopwright::proto::h1::head::{self, HeadLimits};
use loopwright::service::access_log::{Format, LONGEST, TARGET, access_log};
use std::cell::RefCell;
use std::sync::Once;

thread_local!(static LINE: RefCell<String> = const { RefCell::new(String::new()) });

struct Listener;

impl Log for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }
    fn log(&self, record: &Record<'_>) {
        if record.target() == TARGET {
            LINE.with(|line| *line.borrow_mut() = record.args().to_string());
        }
    }
    fn flush(&self) {}
}

pub(crate) fn run(data: &[u8]) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Listener).expect("no other logger");
        log::set_max_level(log::LevelFilter::Info);
    });
    let (mut slots, limits) = (head::slots(), HeadLimits::NONE);
    let Ok(Some(head)) = head::read(data, &mut 0, true, &mut slots, &limits) else {
        return;
    };
    for format in [Format::Combined, Format::Json] {
        LINE.with(|line| line.borrow_mut().clear());
        loopwright::bench_after(data, access_log::<()>(format), |call| call());
        let line = LINE.with(|line| line.borrow().clone());
        assert!(
            !line.is_empty() && line.len() <= LONGEST,
            "{} bytes",
            line.len()
        );
        assert!(
            line.bytes().all(|b| (b' '..=b'~').contains(&b)),
            "not one line of ASCII: {line:?}"
        );
        match format {
            Format::Combined => combined(&line),
            Format::Json => json(&line, &head),
        }
    }
}

/// Three texts in quotes, and what is between them has no more of those.
fn combined(line: &str) {
    let (mut quotes, mut is_escaped) = (0, false);
    for c in line.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => quotes += 1,
            _ => {}
        }
    }
    assert_eq!((quotes, is_escaped), (6, false), "{line}");
}

fn json(line: &str, head: &head::Head<'_>) {
    let value: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let keys = value.as_object().expect("an object").len();
    assert_eq!(keys, 16, "{line}");
    // Each text is whole if all are short.
    if head.raw.len() > 400 {
        return;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(value["method"], head.method.as_str(), "{line}");
    assert_eq!(value["path"], head.path, "{line}");
    assert_eq!(value["query"].as_str(), head.query, "{line}");
    assert_eq!(
        value["host"].as_str().unwrap_or(""),
        text(head.authority),
        "{line}"
    );
    for (key, name) in [("referer", "referer"), ("user_agent", "user-agent")] {
        let sent = head.fields.get(name);
        assert_eq!(value[key].is_null(), sent.is_none(), "{line}");
        // What is not UTF-8 is told in some other way.
        if let Some(Ok(sent)) = sent.map(std::str::from_utf8) {
            assert_eq!(value[key], sent, "{line}");
        }
    }
}
