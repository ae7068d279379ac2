//! Our own App, with callbacks of about fifty kinds, as `loopwright::sim` runs an embedder's: clients,
//! schedules and faults are the simulation's; the App, and what must be true of it, are here.
//!
//! `LOOPWRIGHT_SIM_SEED=n` runs one seed and tells what happens in it, with the schedule in the file
//! `LOOPWRIGHT_SIM_SCHEDULE` if there is one; `LOOPWRIGHT_SIM_SEEDS=n` runs that many, from
//! `LOOPWRIGHT_SIM_FROM` on; see `scripts/sweep`.

mod check;
mod site;

use check::World;
use fastrand::Rng;
use loopwright::Limits;
use loopwright::sim::{self, Failure, Outcome, Schedule, Simulation, Template};
use site::{Ending, KINDS, Number, State};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SEEDS: u64 = 500;

#[test]
fn seeds() {
    hide_meant_panics();
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    let files = Files::new();
    if let Some(seed) = number("LOOPWRIGHT_SIM_SEED") {
        env_logger::builder()
            .filter_level(log::LevelFilter::Debug)
            .format_timestamp(None)
            .target(env_logger::Target::Stdout)
            .init();
        replay(seed, &files);
        return;
    }
    let from = number("LOOPWRIGHT_SIM_FROM").unwrap_or(0);
    let count = number("LOOPWRIGHT_SIM_SEEDS").unwrap_or(SEEDS);
    if let Some(failure) = sweep(from, count, &files) {
        panic!(
            "{failure}\nreplay: LOOPWRIGHT_SIM_SEED={} cargo test --test simulation -- --nocapture",
            failure.seed
        );
    }
}

fn replay(seed: u64, files: &Files) {
    let Subject { simulation, .. } = subject(files);
    let schedule = match std::env::var("LOOPWRIGHT_SIM_SCHEDULE") {
        Ok(path) => {
            let text = std::fs::read_to_string(path).expect("a schedule");
            text.parse::<Schedule>().expect("a schedule")
        }
        Err(_) => simulation.draw(seed).1,
    };
    println!("{schedule}");
    match simulation.replay(seed, &schedule) {
        Ok(outcome) => println!("{}seed {seed} is well", outcome.trace),
        Err(failure) => panic!("{failure}"),
    }
}

/// Runs seeds on all cores, up to the first that fails.
fn sweep(from: u64, count: u64, files: &Files) -> Option<Box<Failure>> {
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let (is_over, first) = (AtomicBool::new(false), Mutex::new(None));
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                let Subject { simulation, alive } = subject(files);
                while !is_over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    if let Err(failure) = simulation.run(from + n) {
                        is_over.store(true, Ordering::Relaxed);
                        first.lock().unwrap().get_or_insert(failure);
                        return;
                    }
                    let left = alive.borrow().strong_count();
                    assert_eq!(left, 0, "seed {}: something outlives the server", from + n);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, count, begun);
                }
            });
        }
    });
    first.into_inner().unwrap()
}

/// A bar, for somebody who looks.
fn progress(done: u64, count: u64, begun: Instant) {
    if !std::io::stderr().is_terminal() || !(done.is_multiple_of(16) || done == count) {
        return;
    }
    const WIDTH: u64 = 40;
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    let left = Duration::from_secs_f64((count - done) as f64 / rate).as_secs();
    let full = (done * WIDTH / count) as usize;
    let bar = "#".repeat(full) + &"-".repeat(WIDTH as usize - full);
    let end = if done == count { "\n" } else { "" };
    let _ = write!(
        std::io::stderr(),
        "\r[{bar}] {done}/{count}, {rate:.0} seeds/s, {left} s to go   {end}"
    );
}

/// The panics that callbacks are meant to raise are no news; those of the checker are told once, shrunk.
fn hide_meant_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let of_checker = panic
            .location()
            .is_some_and(|at| at.file().ends_with("check.rs"));
        if !of_checker && !panic.to_string().ends_with(site::MEANT) {
            hook(panic);
        }
    }));
}

/// What the file callbacks answer with.
struct Files {
    paths: Vec<PathBuf>,
    _dir: TempDir,
}

impl Files {
    fn new() -> Files {
        let dir = TempDir::new().expect("a temporary folder");
        let write = |n: usize| {
            let path = dir.path().join(n.to_string());
            let mut file = std::fs::File::create(&path).expect("a file");
            file.write_all(&site::file_content(n)).expect("its content");
            path
        };
        Files {
            paths: (0..site::FILE_SIZES.len()).map(write).collect(),
            _dir: dir,
        }
    }
}

/// The simulation, and what all that an App leaves behind has in common.
struct Subject {
    simulation: Simulation<State>,
    alive: Rc<RefCell<Weak<()>>>,
}

fn subject(files: &Files) -> Subject {
    let paths = files.paths.clone();
    let alive = Rc::new(RefCell::new(Weak::new()));
    let newest = alive.clone();
    let state = move || {
        let alive = Rc::new(());
        *newest.borrow_mut() = Rc::downgrade(&alive);
        State::new(paths.clone(), alive)
    };
    let simulation = Simulation::new(state, |state: &State| site::app(&state.alive))
        .when_quiet(State::let_go)
        .world(|rng| {
            let world = sim::World::default().vary(rng);
            // The largest answer given at once, with its head; or the longest body handed on.
            let largest_piece = world.longest.max(site::FILE_SIZES[2]) + 4096;
            // Where a request is too large: requests come close to that, from both sides.
            let default = world.limits;
            let limits = Limits {
                head: [default.head, default.head, 400, 1000][rng.usize(..4)],
                fields: [default.fields, default.fields, 8][rng.usize(..3)],
                body: [default.body, default.body, 300, 4000][rng.usize(..4)],
                ..default
            };
            let limits = Limits {
                target: limits.target.min(limits.head),
                ..limits
            };
            sim::World {
                limits,
                largest_piece,
                ..world
            }
        })
        .check(|state, outcome| {
            judge(state, outcome);
            Ok(())
        });
    let simulation = KINDS.iter().fold(simulation, |simulation, kind| {
        simulation.ask(template(kind))
    });
    Subject { simulation, alive }
}

fn template(kind: &site::Kind) -> Template {
    let method = if kind.is_upload { "POST" } else { "GET" };
    let target = format!("/{}/{{id}}/{{n}}?tag={{id}}", kind.name);
    let number = kind.number;
    // A producer that does not wait has to come past `limits.output`, and past what may wait besides.
    let times = match kind.ending {
        Ending::Overflow => 4,
        _ => 1,
    };
    let draw = move |rng: &mut Rng, longest| match number {
        // Mostly small, sometimes as large as can be.
        Number::Bytes => {
            let most = [longest, 5000, 5000, 400, 400, 400, 400, 0][rng.usize(..8)];
            times * rng.usize(..=most.min(longest))
        }
        Number::Delay if rng.u32(..20) == 0 => rng.usize(1000..100_000),
        // The timeouts of a tight plan: timers of the loop and of callbacks fall together.
        Number::Delay if rng.u32(..3) == 0 => [20, 30, 40][rng.usize(..3)],
        Number::Delay => rng.usize(..40),
    };
    let mut template = Template::new(method, &target)
        .field("x-tag", "{id}")
        .number(draw);
    if kind.is_upload {
        let least = usize::from(kind.name == "panic_in_step");
        template = template.body(least..=200_000);
    }
    let may_fail = matches!(kind.answer, site::Answer::Cut | site::Answer::Relayed)
        || kind.ending == site::Ending::Overflow;
    if may_fail {
        template.may_fail()
    } else {
        template
    }
}

fn judge(state: &State, outcome: &Outcome) {
    // The state's, and the App's.
    let uses = Rc::strong_count(&state.alive);
    assert_eq!(uses, 2, "a replaced App is still there");
    let world = World {
        ledger: &state.ledger,
        outcome,
        is_tight: outcome.world.is_tight(),
        refuses: outcome.world.faults.accept_errors > 0 || outcome.is_stopped,
        drains: outcome.is_stopped,
        has_cut: outcome.cut > 0,
    };
    world.check();
}
