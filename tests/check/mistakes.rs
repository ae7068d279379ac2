//! Wrong configs, and what `loopwright check` prints for each: `mistakes.txt`, read as a person would.
//!
//! `LOOPWRIGHT_BLESS=1` writes the file anew. Read the difference before it is committed: each answer
//! is to say what is wrong, where, and what to write instead.

use super::support::{in_crate, loopwright, run};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Put into the environment and into `secret.txt`; may be printed nowhere.
const SECRETS: [&str; 2] = ["hunter2", "31337"];
const FILE: &str = "tests/check/mistakes.txt";
const BAD_CONFIG: Option<i32> = Some(78);

/// `=== name`, the config, `--- `, what is printed.
struct Case {
    name: String,
    config: String,
    printed: String,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut is_printed = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            is_printed = false;
            cases.push(Case {
                name: name.to_string(),
                config: String::new(),
                printed: String::new(),
            });
            continue;
        }
        let case = cases.last_mut().expect("the file begins with ===");
        match line {
            "--- " if !is_printed => is_printed = true,
            _ if is_printed => case.printed += &format!("{line}\n"),
            _ => case.config += &format!("{line}\n"),
        }
    }
    cases
}

/// The wrong configs, with their names.
pub(crate) fn configs() -> Vec<(String, String)> {
    let text = fs::read_to_string(in_crate(FILE)).expect(FILE);
    let cases = cases(&text).into_iter();
    cases.map(|case| (case.name, case.config)).collect()
}

/// What is there for the configs to name.
pub(crate) fn furnish(folder: &Path) {
    fs::create_dir(folder.join("public")).expect("a folder");
    for (name, content) in [
        ("public/index.html", "<p>home"),
        ("404.html", "<p>nothing here"),
        ("secret.txt", "hunter2 from a file\n"),
    ] {
        fs::write(folder.join(name), content).expect("a file");
    }
}

fn check(folder: &Path, config: &str) -> (Option<i32>, String) {
    fs::write(folder.join("site.toml"), config).expect("the config");
    let said = run(loopwright(folder, &["check", "-c", "site.toml"])
        .env("SECRET", "hunter2 from the environment")
        .env("SECRET_WORD", "hunter2")
        .env("SECRET_LINES", "hunter2\nin lines")
        .env("SECRET_NUMBER", "31337"));
    (said.code, said.out + &said.err)
}

#[test]
fn every_mistake_is_told_as_written_down() {
    let folder = tempfile::tempdir().expect("a folder");
    furnish(folder.path());
    let text = fs::read_to_string(in_crate(FILE)).expect(FILE);
    let cases = cases(&text);
    assert!(cases.len() >= 110, "{} cases", cases.len());
    let (mut now, mut different, mut passed) = (String::new(), Vec::new(), Vec::new());
    for case in &cases {
        let (code, printed) = check(folder.path(), &case.config);
        if code != BAD_CONFIG {
            passed.push(&case.name);
        }
        let (name, want) = (&case.name, &case.printed);
        if printed != *want {
            different.push(format!("{name}, printed:\n{printed}\nwanted:\n{want}"));
        }
        let _ = write!(now, "=== {name}\n{}--- \n{printed}", case.config);
    }
    if std::env::var_os("LOOPWRIGHT_BLESS").is_some() {
        fs::write(in_crate(FILE), &now).expect(FILE);
        different.clear();
    }
    assert!(passed.is_empty(), "wrong, and not refused: {passed:#?}");
    for secret in SECRETS {
        assert!(!now.contains(secret), "{secret} has been printed");
    }
    let (count, first) = (different.len(), different.first());
    assert!(
        different.is_empty(),
        "{count} differ; LOOPWRIGHT_BLESS=1 writes them anew. The first:\n{}",
        first.map_or("", |text| text)
    );
}

/// What the snapshot must have, whatever is blessed: each answer names the file, a place in it and
/// what to do, and mistakes come in the order of their places.
#[test]
fn every_answer_has_a_place_and_an_advice() {
    let text = fs::read_to_string(in_crate(FILE)).expect(FILE);
    let mut names = Vec::new();
    for Case {
        name,
        config,
        printed,
    } in cases(&text)
    {
        assert!(!names.contains(&name), "{name}: twice");
        let errors = printed.matches("error: ").count();
        let counted = match errors {
            1 => "1 mistake in site.toml".to_string(),
            n => format!("{n} mistakes in site.toml"),
        };
        assert_eq!(printed.lines().last(), Some(counted.as_str()), "{name}");
        let place = |line: &str| {
            let rest = line.trim_start().strip_prefix("--> site.toml:")?;
            let (line, column) = rest.split_once(':')?;
            Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
        };
        let places: Vec<(usize, usize)> = printed.lines().filter_map(place).collect();
        assert_eq!(places.len(), errors, "{name}: a mistake without a place");
        assert!(places.is_sorted(), "{name}: {places:?}");
        for (line, column) in places {
            let there = config.lines().nth(line - 1).unwrap_or("");
            let length = there.chars().count();
            assert!(
                column <= length + 1,
                "{name}: {line}:{column}, past the end"
            );
        }
        let marks = |line: &&str| {
            let under = line.trim_start().trim_start_matches(['|', ' ', '_']);
            under.starts_with(['^', '┃'])
        };
        for mark in printed.lines().filter(marks) {
            let advice = mark.trim_start_matches(['|', ' ', '_', '^', '-']);
            assert!(advice.len() > 3, "{name}: no advice in {mark:?}");
        }
        names.push(name);
    }
}
