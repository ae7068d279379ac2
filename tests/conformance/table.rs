//! `docs/conformance.md`: what it names is there.

use std::fs;
use std::path::{Path, PathBuf};

/// Every `file::name` in the table is a test `name` in a file (or a folder) of that name.
#[test]
fn every_test_in_the_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/conformance.md")).expect("the table");
    let mut sources = Vec::new();
    for dir in ["tests", "src"] {
        walk(&root.join(dir), &mut sources);
    }
    let (mut seen, mut missing) = (0, Vec::new());
    for row in page.lines().filter(|line| {
        ["| 9", "| 3", "| 6", "| 7"]
            .iter()
            .any(|rfc| line.starts_with(rfc))
    }) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 4, "{row}");
        let tests: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
        for test in &tests {
            seen += 1;
            let (file, name) = test.split_once("::").unwrap_or(("", test));
            let is_there = sources.iter().any(|path| {
                let here = path.with_extension("");
                let named =
                    here.ends_with(file) || here.parent().is_some_and(|dir| dir.ends_with(file));
                let text = fs::read_to_string(path).expect("a source");
                named && text.contains("#[test]") && text.contains(&format!("fn {name}("))
            });
            if !is_there {
                missing.push(test.to_string());
            }
        }
        // What no test can show says why.
        assert!(!tests.is_empty() || cells[3].trim().len() > 1, "{row}");
    }
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    assert!(seen > 80, "the test has stopped to see the table: {seen}");
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The tables do not shrink unseen.
#[test]
fn there_are_hundreds_of_rows() {
    let rows = crate::framing::COUNT
        + crate::fields::COUNT
        + crate::line::COUNT
        + crate::host::COUNT
        + crate::connection::COUNT
        + crate::answers::COUNT
        + crate::smuggling::COUNT;
    assert!(rows > 600, "{rows}");
}
