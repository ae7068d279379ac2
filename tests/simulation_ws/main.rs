//! WebSockets in the simulated network: clients that fragment, stall, vanish and flood, on topics, under each
//! policy. What must hold whatever they do is in `check.rs`.
//!
//! `LOOPWRIGHT_SIM_SEED=n` runs one seed and tells what its clients do; `LOOPWRIGHT_SIM_SEEDS=n` runs that
//! many, from `LOOPWRIGHT_SIM_FROM` on.

mod check;
mod client;
mod site;

use check::{Run, run};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SEEDS: u64 = 300;

#[test]
fn seeds() {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect(name))
    };
    if let Some(seed) = number("LOOPWRIGHT_SIM_SEED") {
        env_logger::builder()
            .filter_level(log::LevelFilter::Debug)
            .format_timestamp(None)
            .target(env_logger::Target::Stdout)
            .init();
        let Run { told, .. } = run(seed, true);
        println!("{told}seed {seed} is well");
        return;
    }
    hide_meant_panics();
    let from = number("LOOPWRIGHT_SIM_FROM").unwrap_or(0);
    let (mut messages, mut publications, mut dropped) = (0, 0, 0);
    for seed in from..from + number("LOOPWRIGHT_SIM_SEEDS").unwrap_or(SEEDS) {
        let first = catch_unwind(AssertUnwindSafe(|| run(seed, false)));
        let Ok(first) = first else {
            panic!(
                "seed {seed}; replay: LOOPWRIGHT_SIM_SEED={seed} cargo test --test simulation_ws -- --nocapture"
            );
        };
        if seed.is_multiple_of(16) {
            assert!(
                run(seed, false).trace == first.trace,
                "seed {seed} runs otherwise the second time"
            );
        }
        messages += first.messages;
        publications += first.publications;
        dropped += first.dropped;
    }
    println!("{messages} messages and {publications} publications arrived, {dropped} were dropped");
    assert!(
        messages > 1000 && publications > 1000 && dropped > 100,
        "it tests nothing"
    );
}

fn hide_meant_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.to_string().ends_with(site::MEANT) {
            hook(panic);
        }
    }));
}
