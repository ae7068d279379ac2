//! `loopwright.toml`: reading never panics; each mistake has a place within the text; what a variable
//! or a file has put in is never shown.
//!
//! Input: the config.

use loopwright::config::Config;
use std::path::PathBuf;
use std::sync::OnceLock;

const SECRET: &str = "hunter2";

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // The machine's own files are no test's business, and some of its devices never end.
    let is_own = ["/dev", "/proc", "/sys", "..", SECRET]
        .iter()
        .any(|word| text.contains(word));
    if is_own {
        return;
    }
    let path = folder().join("site.toml").display().to_string();
    match Config::parse(&path, text) {
        Ok(config) => {
            config.log();
            assert!(config.workers() > 0);
            if let Err(report) = config.build() {
                check(text, &path, &report.to_string(), report.count());
            }
        }
        Err(report) => {
            assert!(report.count() > 0, "a report of nothing");
            assert!(!report.styled().contains(SECRET), "a secret is shown");
            check(text, &path, &report.to_string(), report.count());
        }
    }
}

fn check(text: &str, path: &str, report: &str, count: usize) {
    assert!(!report.contains(SECRET), "a secret is shown: {report}");
    // Lines of the config are behind `|`.
    let places: Vec<&str> = report
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--> ")?.strip_prefix(path))
        .collect();
    // A hundred are shown, and the rest counted.
    assert!(
        places.len() >= count.min(100),
        "{count} mistakes, {} places: {report}",
        places.len()
    );
    // The library that shows them ends a line at a lone CR, too, or does not.
    let lines = text.split('\n').count();
    for place in places {
        let (line, column) = place.trim_start_matches(':').split_once(':').expect(report);
        let (line, column): (usize, usize) =
            (line.parse().expect(report), column.parse().expect(report));
        assert!(
            (1..=lines).contains(&line),
            "line {line} of {lines}: {report}"
        );
        let longest = text
            .split('\n')
            .nth(line - 1)
            .map_or(0, |line| line.chars().count());
        assert!(
            (1..=longest + 2).contains(&column),
            "column {column} of {longest}: {report}"
        );
    }
}

/// A folder with what the corpus' configs name.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("loopwright-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("site")).expect("a folder");
        for (name, content) in [
            ("secret.txt", "hunter2 from a file\n"),
            ("lines.txt", "hunter2\nin lines\n"),
            ("number.txt", "2"),
            ("site/404.html", "<p>not there"),
        ] {
            std::fs::write(folder.join(name), content).expect("a file");
        }
        folder
    })
}
