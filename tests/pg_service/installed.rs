//! Where PostgreSQL's programs are, and as whom its server runs.

use rustix::process::geteuid;
use std::path::PathBuf;

/// The server does not run as root.
pub(crate) fn unprivileged() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("users");
    let user = users.lines().find(|line| line.starts_with("postgres:"));
    let user = user.expect("no user postgres: apt-get install postgresql");
    let mut ids = user
        .split(':')
        .skip(2)
        .map(|id| id.parse().expect("a number"));
    Some((ids.next().expect("a user"), ids.next().expect("a group")))
}

/// Debian keeps them out of the PATH.
pub(crate) fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.extend(std::env::split_paths(&path));
    let is_there = |place: &PathBuf| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|name| place.join(name).exists())
    };
    let found = places.into_iter().rev().find(is_there);
    found.expect("postgres, initdb and psql are missing: apt-get install postgresql")
}
