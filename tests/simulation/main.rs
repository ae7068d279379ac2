//! The whole server in the simulator, its clients and its callbacks drawn from a seed.
//!
//! ```text
//! seed ─► plan (limits, timeouts, faults) ─► scripts ─► turns, clients acting between them ─► check
//! ```
//! `LOOPWRIGHT_SIM_SEED=n` runs one seed and tells what happens in it; `LOOPWRIGHT_SIM_SEEDS=n`
//! runs that many. Invariant: nothing here draws from anything but the seed, so a run repeats byte
//! for byte, which is checked as well.

mod check;
mod client;
mod reader;
mod script;
mod site;

use check::World;
use client::Client;
use fastrand::Rng;
use loopwright::sim::{Faults, SimNet};
use loopwright::{Instant, Limits, Server, Timeouts};
use script::{Script, one_in};
use site::State;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;

const SEEDS: u64 = 256;
/// No run should need as many. One that does is going round in circles.
const MOST_TURNS: usize = 200_000;

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
        run(seed, &files, true);
        return;
    }
    for seed in 0..number("LOOPWRIGHT_SIM_SEEDS").unwrap_or(SEEDS) {
        let replay = Replay(seed);
        let first = run(seed, &files, false);
        assert!(
            first == run(seed, &files, false),
            "the same seed, and another run"
        );
        std::mem::forget(replay);
    }
}

/// Tells, if it is dropped by a panic, how to see that panic again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        eprintln!(
            "seed {} fails; replay: LOOPWRIGHT_SIM_SEED={} cargo test --test simulation -- --nocapture",
            self.0, self.0
        );
    }
}

/// The panics that callbacks are meant to raise are no news.
fn hide_meant_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.to_string().ends_with(site::MEANT) {
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

/// The circumstances of a run.
struct Plan {
    limits: Limits,
    timeouts: Timeouts,
    is_tight: bool,
    faults: Faults,
    /// When the server is asked to stop: once to drain, a second time to leave.
    stops: Vec<Instant>,
    /// When its App is replaced by another of the same kind.
    reloads: Vec<Instant>,
    clients: usize,
    /// The longest body in either direction; long ones through narrow pipes take too many turns.
    most_bytes: usize,
}

impl Plan {
    fn new(rng: &mut Rng) -> Plan {
        fn any<T: Copy, const N: usize>(rng: &mut Rng, of: [T; N]) -> T {
            of[rng.usize(..N)]
        }
        let send = any(rng, [32, 600, 8192, 8192, 100_000]);
        let segment = any(rng, [20, 2048, 2048, 100_000]);
        let faults = Faults {
            accept_errors: any(rng, [0, 8]),
            send_buffer: (send / 8 + 1, send),
            segment,
        };
        let high_water = any(rng, [1000, 16 * 1024, 64 * 1024]);
        let default = Limits::default();
        let limits = Limits {
            high_water,
            output: any(rng, [4 * high_water + 70_000, default.output]),
            discard: any(rng, [0, 1000, default.discard]),
            connections: any(rng, [2, default.connections, default.connections]),
            accepts_per_turn: any(rng, [1, 64]),
            reads_per_turn: any(rng, [1, 4]),
            requests_per_turn: any(rng, [1, 2, 256]),
            writes_per_turn: any(rng, [100, default.writes_per_turn]),
            commands_per_turn: any(rng, [1, 8, default.commands_per_turn]),
            ..default
        };
        let is_tight = one_in(rng, 4);
        let moment = |rng: &mut Rng| Instant::default() + Duration::from_micros(rng.u64(..200_000));
        let stops = match rng.u32(..8) {
            0 => vec![moment(rng)],
            1 => vec![moment(rng), moment(rng)],
            _ => vec![],
        };
        Plan {
            limits,
            timeouts: if is_tight {
                tight()
            } else {
                Timeouts::default()
            },
            is_tight,
            faults,
            stops,
            reloads: (0..rng.usize(..4)).map(|_| moment(rng)).collect(),
            clients: rng.usize(1..=8),
            most_bytes: 200_000.min(300 * faults.send_buffer.0).min(300 * segment),
        }
    }
}

/// Timeouts that a client of these scripts misses now and then, and that fall together with the
/// timers of its callbacks.
fn tight() -> Timeouts {
    let ms = Duration::from_millis;
    Timeouts {
        head: ms(30),
        body: ms(20),
        body_grace: ms(30),
        write: ms(100),
        idle: ms(40),
        drain: ms(100),
        drain_idle: ms(15),
        linger: ms(10),
        ..Timeouts::default()
    }
}

/// All that can be seen of a run from outside.
#[derive(PartialEq)]
struct Transcript {
    received: Vec<Vec<u8>>,
    turns: usize,
    end: Instant,
}

fn run(seed: u64, files: &Files, is_told: bool) -> Transcript {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::new(&mut rng);
    let alive = Rc::new(());
    let builder = Server::builder()
        .limits(plan.limits.clone())
        .timeouts(plan.timeouts.clone());
    let net = SimNet::new(seed, plan.faults);
    let state = State::new(files.paths.clone(), alive.clone());
    let mut server = builder
        .clone()
        .simulate(net, site::app(&alive), state)
        .expect("it builds");
    if is_told {
        println!(
            "{:?}\n{:?}\nstops {:?}, reloads {:?}, {} clients",
            plan.limits, plan.faults, plan.stops, plan.reloads, plan.clients
        );
    }
    server.net_mut().let_clients_react();
    let mut clients: Vec<Client> = (0..plan.clients)
        .map(|n| {
            let script = Script::new(&mut rng, n, plan.most_bytes);
            Client::new(&mut rng, n, script, server.net_mut(), is_told)
        })
        .collect();
    let (mut stops, mut reloads) = (plan.stops.clone(), plan.reloads.clone());
    stops.sort();
    reloads.sort();
    for &at in stops.iter().chain(&reloads) {
        server.net_mut().wake_at(at);
    }

    let (mut turns, mut has_stopped) = (0, false);
    loop {
        let mut has_acted = false;
        for client in &mut clients {
            has_acted |= client.act(&mut rng, server.net_mut());
        }
        let now = server.net_mut().now();
        while stops.first().is_some_and(|&at| at <= now) {
            stops.remove(0);
            server.handle().stop();
        }
        while reloads.first().is_some_and(|&at| at <= now) {
            reloads.remove(0);
            let app = site::app(&alive);
            server
                .reload(builder.clone(), app)
                .expect("it builds again");
        }
        if !has_acted && server.net_mut().is_quiet() && !server.state_mut().let_go() {
            break;
        }
        if !server.turn().expect("the simulator says what is ready") {
            has_stopped = true;
            break;
        }
        turns += 1;
        assert!(turns < MOST_TURNS, "it goes round in circles");
        assert!(server.net_mut().empty_polls() < 1000, "the loop spins");
    }
    if has_stopped {
        // What the server has written before it left still arrives.
        for client in &mut clients {
            client.wait(server.net_mut());
        }
        for _ in 0..2000 {
            server.turn().expect("as before");
        }
    } else {
        assert_eq!(server.timers(), 0, "timers that nobody needs");
    }
    if is_told {
        println!(
            "{turns} turns, until {:?}, stopped {has_stopped}, {} cut",
            server.net_mut().now(),
            server.cut_connections()
        );
    }
    assert_eq!(
        (server.connections(), server.open_exchanges()),
        (0, 0),
        "connections and exchanges"
    );

    // This one, the state's, and the App's.
    assert_eq!(Rc::strong_count(&alive), 3, "a replaced App is still there");

    let received: Vec<_> = clients
        .iter()
        .map(|client| client.received(server.net_mut()))
        .collect();
    let seen: Vec<_> = clients
        .iter()
        .zip(&received)
        .map(|(client, received)| client.seen(received, server.net_mut()))
        .collect();
    let world = World {
        ledger: &server.state().ledger,
        scripts: clients.iter().map(|client| &client.script).collect(),
        is_tight: plan.is_tight,
        refuses: plan.faults.accept_errors > 0 || has_stopped,
        drains: !plan.stops.is_empty(),
        has_cut: server.cut_connections() > 0,
    };
    world.check(&seen);
    let end = server.net_mut().now();
    drop(server);
    assert_eq!(Rc::strong_count(&alive), 1, "something outlives the server");
    Transcript {
        received,
        turns,
        end,
    }
}
