//! What the fuzzers were given and have found, once more: every file of `tests/fuzz/corpus` through the
//! target it belongs to. Seconds; no fuzzer is needed. `docs/fuzzing.md` has the rest.

#[path = "fuzz/src/targets/mod.rs"]
mod targets;

use std::path::{Path, PathBuf};
use targets::TARGETS;

/// Tells which file it was, if it is dropped by a panic.
struct Replay(PathBuf);

impl Drop for Replay {
    fn drop(&mut self) {
        let Replay(path) = self;
        let target = path.parent().and_then(Path::file_name).unwrap_or_default();
        eprintln!(
            "{} fails; replay: scripts/fuzz {} {}",
            path.display(),
            target.display(),
            path.display()
        );
    }
}

#[test]
fn corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut folders: Vec<_> = entries(&root);
    folders.sort();
    let names = TARGETS.map(|(name, _)| root.join(name));
    assert_eq!(folders, names, "folders and targets");
    for ((name, target), folder) in TARGETS.iter().zip(folders) {
        let files = entries(&folder);
        assert!(files.len() >= 5, "{name}: {} files", files.len());
        for path in files {
            let data = std::fs::read(&path).expect("a file");
            let replay = Replay(path);
            target(&data);
            std::mem::forget(replay);
        }
        // Nothing, and everything.
        target(b"");
        let all: Vec<u8> = (0..=255).collect();
        target(&all);
    }
    // What `config` and `world` have put up for themselves.
    let folder = format!("loopwright-fuzz-{}", std::process::id());
    std::fs::remove_dir_all(std::env::temp_dir().join(folder)).expect("a folder");
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}
