//! Floor 4. A directory as a page, or as JSON. All of it is done on another thread.
//!
//! Invariant: what is listed is what would be served: regular files and directories beneath the
//! root, of names that are not hidden.

use super::{cache, names, negotiation};
use crate::Request;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::{AtFlags, Dir, FileType, Stat};
use std::cmp::Reverse;
use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;

/// So many entries are listed.
const MAX_ENTRIES: usize = 10_000;
const PAGE: &str = include_str!("listing.html");
/// The page has no script; should a name ever come to be one, it is not to run.
pub(super) const POLICY: &str = "script-src 'none'; base-uri 'none'; form-action 'none'";

/// RFC 3986 §2.3: what needs no encoding anywhere.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What a request wants of a directory.
pub(super) struct Wanted {
    /// Below the root: empty, or ending in a slash.
    path: String,
    json: bool,
    order: Order,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Order {
    by: By,
    descending: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Name,
    Size,
    Time,
}

pub(super) struct Page {
    pub(super) content_type: &'static str,
    pub(super) text: String,
}

struct Item {
    name: String,
    is_directory: bool,
    /// In bytes.
    size: u64,
    /// Seconds since 1970.
    modified: i64,
}

impl Wanted {
    pub(super) fn new(path: &str, req: &Request<'_>) -> Wanted {
        let by = match req.query_param("sort").as_deref() {
            Some("size") => By::Size,
            Some("time") => By::Time,
            _ => By::Name,
        };
        Wanted {
            path: path.to_string(),
            json: negotiation::prefers_json(req.headers().get_all("accept")),
            order: Order {
                by,
                descending: req.query_param("order").as_deref() == Some("desc"),
            },
        }
    }
}

/// Reads a directory and writes it down.
pub(super) fn write(root: &OwnedFd, directory: OwnedFd, wanted: Wanted) -> io::Result<Page> {
    let (mut items, is_cut) = read(root, directory, &wanted.path)?;
    sort(&mut items, wanted.order);
    Ok(if wanted.json {
        Page {
            content_type: "application/json",
            text: json(&items)?,
        }
    } else {
        Page {
            content_type: "text/html; charset=utf-8",
            text: html(&items, is_cut, &wanted),
        }
    })
}

fn read(root: &OwnedFd, directory: OwnedFd, path: &str) -> io::Result<(Vec<Item>, bool)> {
    let mut items = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if !names::is_servable_name(name) {
            continue;
        }
        let found = match entry.file_type() {
            FileType::RegularFile | FileType::Directory => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::statat(&directory, name, flags).ok()
            }
            // A link may lead anywhere, and some file systems do not tell what is what.
            FileType::Symlink | FileType::Unknown => cache::look(root, &format!("{path}{name}")),
            _ => None,
        };
        let Some(item) = found.and_then(|stat| Item::new(name, &stat)) else {
            continue;
        };
        if items.len() == MAX_ENTRIES {
            return Ok((items, true));
        }
        items.push(item);
    }
    Ok((items, false))
}

impl Item {
    fn new(name: &str, stat: &Stat) -> Option<Item> {
        let is_directory = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::Directory => true,
            _ => return None,
        };
        Some(Item {
            name: name.to_string(),
            is_directory,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: stat.st_mtime,
        })
    }
}

/// Directories first, whatever the order; a directory has no size to go by.
fn sort(items: &mut [Item], order: Order) {
    items.sort_by(|a, b| a.name.cmp(&b.name));
    let size = |item: &Item| if item.is_directory { 0 } else { item.size };
    match (order.by, order.descending) {
        (By::Name, false) => {}
        (By::Name, true) => items.reverse(),
        (By::Size, false) => items.sort_by_key(size),
        (By::Size, true) => items.sort_by_key(|item| Reverse(size(item))),
        (By::Time, false) => items.sort_by_key(|item| item.modified),
        (By::Time, true) => items.sort_by_key(|item| Reverse(item.modified)),
    }
    items.sort_by_key(|item| !item.is_directory);
}

fn json(items: &[Item]) -> io::Result<String> {
    let mut out = String::from("[");
    for (n, item) in items.iter().enumerate() {
        let (kind, size) = if item.is_directory {
            ("directory", "null".to_string())
        } else {
            ("file", item.size.to_string())
        };
        let name = serde_json::to_string(&item.name)?;
        let (comma, time) = (if n == 0 { "" } else { "," }, Time::of(item.modified));
        out.push_str(&format!(
            "{comma}\n{{\"name\":{name},\"type\":\"{kind}\",\"size\":{size},\"modified\":\"{}\"}}",
            time.rfc3339()
        ));
    }
    out.push_str("\n]\n");
    Ok(out)
}

fn html(items: &[Item], is_cut: bool, wanted: &Wanted) -> String {
    let mut rows = String::new();
    if !wanted.path.is_empty() {
        rows.push_str("<tr><td class=name><a href=\"../\">../</a><td class=size><td class=time>\n");
    }
    for item in items {
        let slash = if item.is_directory { "/" } else { "" };
        // `./`, for a name with a colon would read as a scheme.
        let href = utf8_percent_encode(&item.name, UNRESERVED);
        let (name, time) = (escape(&item.name), Time::of(item.modified));
        let size = if item.is_directory {
            String::new()
        } else {
            human_size(item.size)
        };
        let _ = writeln!(
            rows,
            "<tr><td class=name><a href=\"./{href}{slash}\">{name}{slash}</a>\
             <td class=size>{size}<td class=time><time datetime=\"{}\">{}</time>",
            time.rfc3339(),
            time.short(),
        );
    }
    let note = if is_cut {
        format!("Only {MAX_ENTRIES} entries are shown; there are more.")
    } else {
        match items.len() {
            1 => "1 entry".to_string(),
            n => format!("{n} entries"),
        }
    };
    fill(
        PAGE,
        &[
            ("{title}", &format!("/{}", escape(&wanted.path))),
            ("{path}", &crumbs(&wanted.path)),
            ("{head}", &head(wanted.order)),
            ("{rows}", &rows),
            ("{note}", &note),
        ],
    )
}

/// Puts values in the place of their marks, which come in this order; what is in a value is no mark.
fn fill(mut template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (mark, value) in values {
        let (before, after) = template.split_once(mark).unwrap_or((template, ""));
        out.push_str(before);
        out.push_str(value);
        template = after;
    }
    out + template
}

/// The path, each folder above this one a link to it.
fn crumbs(path: &str) -> String {
    let names: Vec<_> = path.split_terminator('/').collect();
    let mut out = String::new();
    for (n, name) in ["/"].iter().chain(&names).enumerate() {
        let slash = if n == 0 { "" } else { "/" };
        let name = escape(name);
        let _ = match names.len() - n {
            0 => write!(out, "{name}{slash}"),
            up => write!(out, "<a href=\"{}\">{name}</a>{slash}", "../".repeat(up)),
        };
    }
    out
}

/// The table's head: each column a link to its order, the present one's to the reverse.
fn head(order: Order) -> String {
    let mut out = String::new();
    for (by, key, title) in [
        (By::Name, "name", "Name"),
        (By::Size, "size", "Size"),
        (By::Time, "time", "Modified"),
    ] {
        let (state, arrow) = match (order.by == by, order.descending) {
            (false, _) => ("none", ""),
            (true, false) => ("ascending", " ↑"),
            (true, true) => ("descending", " ↓"),
        };
        let next = if state == "ascending" { "desc" } else { "asc" };
        let _ = write!(
            out,
            "<th class={key} aria-sort={state}><a href=\"?sort={key}&amp;order={next}\">{title}{arrow}</a>"
        );
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn human_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        // What would be rounded to 1024.0 is one of the next unit.
        if size < 1023.95 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{size:.1} {unit}"),
            };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// A moment by the calendar, in UTC.
struct Time {
    year: i64,
    month: i64,
    day: i64,
    /// Of the day.
    second: i64,
}

impl Time {
    /// Days are counted from 1 March, so that the leap day is a year's last, and in cycles of 400
    /// years, after which the calendar repeats.
    fn of(seconds: i64) -> Time {
        const CYCLE: i64 = 146_097;
        // 1 March 0000 is so many days before 1970.
        let days = seconds.div_euclid(86_400) + 719_468;
        let (cycle, day) = (days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // Months from March on have 31, 30, 31, 30, 31 days, over and over: 153 in five.
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Time {
            year: cycle * 400 + year + i64::from(month <= 2),
            month,
            day,
            second: seconds.rem_euclid(86_400),
        }
    }

    fn rfc3339(&self) -> String {
        let Time {
            year,
            month,
            day,
            second,
        } = self;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// To the minute, for people.
    fn short(&self) -> String {
        self.rfc3339().replace('T', " ").chars().take(16).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (784_111_777, "1994-11-06T08:49:37Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Time::of(seconds).rfc3339(), want);
        }
        assert_eq!(Time::of(784_111_777).short(), "1994-11-06 08:49");
    }

    #[test]
    fn sizes() {
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(human_size(bytes), want);
        }
    }

    #[test]
    fn paths_as_links() {
        for (path, want) in [
            ("", "/"),
            ("a/", "<a href=\"../\">/</a>a/"),
            (
                "a/<b>/",
                "<a href=\"../../\">/</a><a href=\"../\">a</a>/&lt;b&gt;/",
            ),
        ] {
            assert_eq!(crumbs(path), want);
        }
    }

    #[test]
    fn values_are_no_marks() {
        assert_eq!(
            fill("<a>|<b>", &[("<a>", "<b>"), ("<b>", "<a>")]),
            "<b>|<a>"
        );
    }
}
