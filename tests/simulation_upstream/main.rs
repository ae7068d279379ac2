//! Upstreams in the simulated network: a proxy between clients that send and leave as they like, and servers that
//! refuse, hang, die and talk nonsense. Each request has a name of its own, and all bodies consist of it, so that a
//! stranger's bytes are seen wherever they come up. What must hold is in `run.rs`, and where it is seen.
//!
//! `LOOPWRIGHT_SIM_SEED=n` runs one seed with a log; `LOOPWRIGHT_SIM_SEEDS=n` runs that many, from
//! `LOOPWRIGHT_SIM_FROM` on.

mod client;
mod early;
mod races;
mod reader;
mod record;
mod run;
mod sure;
mod upstream;

use run::{Run, run};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SEEDS: u64 = 500;

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
        let run = run(seed, true);
        println!("seed {seed} is well: {run:?}");
        return;
    }
    let from = number("LOOPWRIGHT_SIM_FROM").unwrap_or(0);
    let seeds = number("LOOPWRIGHT_SIM_SEEDS").unwrap_or(SEEDS);
    // A sweep has time to run each twice.
    let again = if seeds == SEEDS { 4 } else { 1 };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut sum = Run::default();
    std::thread::scope(|scope| {
        let of_core = |core| {
            let mine = (from + core..from + seeds).step_by(cores as usize);
            scope.spawn(move || {
                let mut sum = Run::default();
                mine.for_each(|seed| sum += checked(seed, again));
                sum
            })
        };
        let threads: Vec<_> = (0..cores).map(of_core).collect();
        for thread in threads {
            sum += thread.join().expect("all seeds to be well");
        }
    });
    println!("{sum:?}");
    assert!(
        seeds < SEEDS
            || sum.answered > 1000
                && sum.cut > 50
                && sum.refused > 50
                && sum.tunnels > 50
                && sum.retried > 50,
        "it tests nothing"
    );
}

/// One seed, and a second time if its number says so.
fn checked(seed: u64, again: u64) -> Run {
    let first = catch_unwind(AssertUnwindSafe(|| run(seed, false)));
    let Ok(first) = first else {
        panic!(
            "seed {seed}; replay: LOOPWRIGHT_SIM_SEED={seed} cargo test --test simulation_upstream -- --nocapture"
        );
    };
    if seed.is_multiple_of(again) {
        let second = run(seed, false);
        assert!(
            first == second,
            "seed {seed} runs otherwise the second time"
        );
    }
    first
}
