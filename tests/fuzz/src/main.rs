//! What libFuzzer runs: the target that `LOOPWRIGHT_FUZZ_TARGET` names. One binary for all of them.

#![no_main]

mod targets;

use std::sync::OnceLock;
use targets::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("LOOPWRIGHT_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|target| target.0 == name) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.0).collect();
        eprintln!(
            "LOOPWRIGHT_FUZZ_TARGET is {name:?}; there are {}",
            names.join(", ")
        );
        std::process::exit(2);
    };
    target.1
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));
