//! The policies of load balancing on the same simulated days, as tables and, with a path, a picture:
//! `cargo run --profile quick --example balancing -- [WORKERS [SVG]]`
//!
//! Ten servers, four workers or as many as you say, virtual time. `simulation.rs` is the world, `plot.rs` draws.

mod plot;
mod simulation;

use loopwright::upstream::balance::Policy;
use simulation::{Day, Trouble, simulate};
use std::time::Duration;

const LATENCY: Policy = Policy::Latency {
    decay: Policy::DECAY,
};
const UNBOUNDED: Policy = Policy::Hash {
    load: f64::INFINITY,
};

const POLICIES: [(&str, Policy); 8] = [
    ("round_robin", Policy::RoundRobin),
    ("random", Policy::Random),
    ("least_connections", Policy::LeastConnections),
    ("two_choices", Policy::TwoChoices),
    ("latency", LATENCY),
    ("hash, load 1.25", Policy::Hash { load: Policy::LOAD }),
    ("hash, load 2", Policy::Hash { load: 2.0 }),
    ("hash, no bound", UNBOUNDED),
];

const DAYS: [Day; 6] = [
    Day::new("all equal"),
    Day {
        heavy_tailed: true,
        ..Day::new("service times with a heavy tail")
    },
    Day {
        trouble: Trouble::Slow,
        ..Day::new("one server five times as slow")
    },
    Day {
        trouble: Trouble::Pauses,
        ..Day::new("one server stands still, 1 s of 10")
    },
    Day {
        trouble: Trouble::Refuses,
        ..Day::new("one server fails at once, 5 s of 10")
    },
    Day {
        trouble: Trouble::Refuses,
        ejection: true,
        ..Day::new("the same, with ejection")
    },
];

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let workers = args.next().and_then(|n| n.parse().ok()).unwrap_or(4);
    let results = DAYS.map(|day| {
        println!("\n**{}**\n", day.name);
        println!("| policy | p50 | p99 | p99.9 | busiest server | same as before | errors |");
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        let results = POLICIES.map(|(name, policy)| {
            let result = simulate(&day, policy, workers, 1);
            let ms = |part| milliseconds(result.latency(part));
            println!(
                "| {name} | {} | {} | {} | {:.1} % | {:.0} % | {:.2} % |",
                ms(0.5),
                ms(0.99),
                ms(0.999),
                result.busiest * 100.0,
                result.returned * 100.0,
                result.errors * 100.0
            );
            (name, result)
        });
        (day.name, results)
    });
    match args.next() {
        Some(path) => std::fs::write(path, plot::draw(&results)),
        None => Ok(()),
    }
}

fn milliseconds(latency: Duration) -> String {
    let ms = latency.as_secs_f64() * 1000.0;
    format!("{ms:.0} ms")
}
