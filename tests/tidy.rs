//! The rules of the house, as a test: floors, who may name what, no dead files.

use std::fs;
use std::path::{Path, PathBuf};

/// Each folder of `src` and its floor. A file imports only from floors below its own, and siblings
/// on one floor do not import each other.
const FLOORS: [(&str, u8); 10] = [
    ("base", 0),
    ("proto", 1),
    ("net", 1),
    ("upstream", 1),
    ("app", 2),
    ("reactor", 3),
    ("service", 4),
    ("sim", 4),
    ("config", 5),
    ("process", 6),
];

/// The exceptions, with their reasons.
const EXCEPTIONS: [(&str, &str); 0] = [];

struct Source {
    /// Below `src/`.
    path: String,
    /// Without comments, and without its unit tests.
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found)
            } else {
                found.push(path)
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
            let code = code
                .lines()
                .map(|line| line.split("//").next().unwrap_or(""))
                .collect::<Vec<_>>()
                .join("\n");
            Source {
                path: path.strip_prefix(&root).unwrap().display().to_string(),
                code,
                text,
            }
        })
        .collect()
}

fn folder(path: &str) -> &str {
    path.split('/').next().unwrap_or("").trim_end_matches(".rs")
}

fn floor(folder: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == folder)
        .map(|(_, floor)| *floor)
}

/// The first names after each `crate::` in the code, braces unfolded.
fn imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| {
            text.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        };
        match rest.strip_prefix('{') {
            Some(list) => names.extend(
                list.split('}')
                    .next()
                    .unwrap_or("")
                    .split(',')
                    .map(|part| name(part.trim())),
            ),
            None => names.push(name(rest)),
        }
    }
    names
}

#[test]
fn files_import_only_from_floors_below() {
    let mut seen = 0;
    for source in sources() {
        let here = folder(&source.path);
        let Some(level) = floor(here) else { continue };
        for name in imports(&source.code) {
            let Some(other) = floor(&name).filter(|_| name != here) else {
                continue;
            };
            seen += 1;
            let excused = EXCEPTIONS.contains(&(source.path.as_str(), name.as_str()));
            assert!(
                other < level || excused,
                "src/{}: floor {level} names {name}, floor {other}",
                source.path
            );
        }
    }
    assert!(seen > 30, "the test has stopped to see the imports");
}

/// But for the protocols that a bus, a proxy and the clients of databases speak, and what is below those: they are no part
/// of the surface, nor of the loop.
#[test]
fn services_stand_on_the_public_surface() {
    for source in sources().iter().filter(|s| folder(&s.path) == "service") {
        for name in imports(&source.code) {
            let speaks =
                ["bus/", "dial.rs", "pg/", "proxy/", "redis/"].map(|at| format!("service/{at}"));
            let is_below = ["proto", "base"].contains(&name.as_str());
            if is_below && speaks.iter().any(|at| source.path.starts_with(at)) {
                continue;
            }
            assert!(
                !["app", "reactor", "net", "proto", "base"].contains(&name.as_str()),
                "src/{} names {name}",
                source.path
            );
        }
    }
}

#[test]
fn some_names_have_one_place() {
    for (what, places) in [
        ("mio::", &["net/mio.rs"][..]),
        ("use mio", &["net/mio.rs"]),
        (
            "httparse::",
            &[
                "proto/h1/head.rs",
                "proto/h1/response.rs",
                "proto/h1/body.rs",
                "proto/http.rs",
            ],
        ),
        // Threads of their own, outside of any loop's time.
        (
            "Instant::now",
            &[
                "config/connect.rs",
                "net/dns.rs",
                "net/mio.rs",
                "process/sink.rs",
                "process/workers.rs",
            ],
        ),
        ("SystemTime::now", &["net/mio.rs"]),
        (
            "thread::",
            &[
                "config/kinds.rs",
                "net/mio.rs",
                "process/bond.rs",
                "process/serve.rs",
                "process/signals.rs",
                "process/sink.rs",
                "process/workers.rs",
            ],
        ),
        ("RefCell", &[]),
        ("unsafe", &["lib.rs", "main.rs"]),
        ("println!", &["main.rs"]),
        ("todo!", &[]),
        ("unimplemented!", &[]),
        (".unwrap()", &[]),
        (".expect(", &[]),
        ("panic!(", &[]),
    ] {
        for source in sources() {
            // `net::mio` and `catch_unwind` are other words.
            let code = source
                .code
                .replace("net::mio::", "")
                .replace("mod mio", "")
                .replace("eprintln!", "println!");
            let named = code.lines().find(|line| line.contains(what));
            let allowed = places.contains(&source.path.as_str());
            assert!(
                named.is_none() || allowed,
                "src/{} names {what}: {}",
                source.path,
                named.unwrap_or("")
            );
        }
    }
    for root in ["lib.rs", "main.rs"] {
        let forbids = sources()
            .iter()
            .any(|s| s.path == root && s.code.contains("#![forbid(unsafe_code)]"));
        assert!(forbids, "src/{root} does not forbid unsafe code");
    }
}

#[test]
fn every_file_says_what_it_is_for_and_on_which_floor() {
    for source in sources() {
        assert!(
            source.text.starts_with("//! "),
            "src/{} does not say what it is for",
            source.path
        );
        let Some(level) = floor(folder(&source.path)) else {
            continue;
        };
        let head: String = source
            .text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        assert!(
            head.contains(&format!("Floor {level}")),
            "src/{} does not say that it is on floor {level}",
            source.path
        );
    }
}

/// Relative links in the docs, with or without a heading behind them.
#[test]
fn links_lead_to_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_page = |path: &PathBuf| path.extension().is_some_and(|e| e == "md");
        entries.filter(is_page).collect()
    };
    let mut seen = 0;
    for page in [pages(root), pages(&root.join("docs"))].concat() {
        let text = fs::read_to_string(&page).unwrap();
        let name = page.strip_prefix(root).unwrap().display();
        // What is in code is no link.
        let prose: String = text.split("```").step_by(2).collect();
        for link in prose.split("](").skip(1) {
            let link = link.split([')', ' ']).next().unwrap();
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            assert!(
                target.exists(),
                "{name} links to {link}, which is not there"
            );
            let anchors = || {
                let text = fs::read_to_string(&target).unwrap();
                text.lines()
                    .filter(|l| l.starts_with('#'))
                    .map(anchor)
                    .collect::<Vec<_>>()
            };
            let is_there = heading.is_empty() || anchors().contains(&heading.to_string());
            assert!(is_there, "{name} links to {link}: there is no such heading");
        }
    }
    assert!(seen > 15, "the test has stopped to see the links: {seen}");
}

/// A heading's anchor, as the usual renderers make it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    text.chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn no_file_is_dead() {
    let sources = sources();
    for source in &sources {
        let path = Path::new(&source.path);
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if ["lib", "main"].contains(&stem) {
            continue;
        }
        let (dir, name) = if stem == "mod" {
            let dir = path.parent().unwrap();
            (
                dir.parent().unwrap(),
                dir.file_name().unwrap().to_str().unwrap(),
            )
        } else {
            (path.parent().unwrap(), stem)
        };
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| dir.join(parent));
        let declared = sources.iter().any(|s| {
            parents.contains(&PathBuf::from(&s.path)) && s.code.contains(&format!("mod {name};"))
        });
        assert!(declared, "src/{} is declared by nobody", source.path);
    }
}
