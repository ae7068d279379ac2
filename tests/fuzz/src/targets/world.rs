//! The whole server in the simulator, with several clients who send what the fuzzer makes up: it never
//! spins, every request is done with once, and at the end everything is gone.
//!
//! Input: a seed, faults, limits; then bytes for the present client, and between them what happens
//! (see [`Run::act`]).

use super::take;
use loopwright::service::files::Files;
use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{App, BodyWriter, Demand, Limits, Responder, Server};
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

const CLIENTS: usize = 4;
const MOST_TURNS: usize = 50_000;

#[derive(Default)]
struct State {
    held: Vec<Responder>,
    writers: Vec<BodyWriter>,
    begun: usize,
    done: usize,
}

fn app() -> App<State> {
    let mut app: App<State> = App::new();
    app.before(|cx, _, res| {
        cx.state.begun += 1;
        Some(res)
    });
    app.after(|cx, _| cx.state.done += 1);
    app.get("/", |_, _, res| res.text("hello"));
    app.get("/p/{name}", |_, req, res| {
        res.text(req.param("name").to_string())
    });
    app.post("/echo", |_, req, res| res.bytes(req.body().to_vec()));
    app.get("/later", |cx, _, res| cx.state.held.push(res.defer()));
    app.get("/release", |cx, _, res| {
        for held in cx.state.held.drain(..) {
            held.text("at last");
        }
        res.text("released");
    });
    app.get("/stream", |cx, _, res| {
        let writer = res.stream();
        writer.write("first");
        cx.state.writers.push(writer);
    });
    app.get("/write", |cx, _, res| {
        for writer in &cx.state.writers {
            writer.write("x".repeat(3000));
        }
        res.text("written");
    });
    app.get("/end", |cx, _, res| {
        for writer in cx.state.writers.drain(..) {
            writer.end_with_trailers(&[("sum", "1")]);
        }
        res.text("ended");
    });
    app.stream("POST", "/pipe", |_, _, res, body| body.pipe(res.stream()));
    app.stream("POST", "/drop", |_, _, res, _| res.text("no, thank you"));
    app.stream("POST", "/count", |cx, _, res, body| {
        let state = (0, res.defer());
        body.fold(
            cx,
            state,
            |(n, _), _, piece| {
                *n += piece.len();
                Demand::More
            },
            |(n, res), _, end| {
                if end.is_ok() {
                    res.text(n.to_string());
                }
            },
        );
    });
    let files = Files::new(folder())
        .expect("a folder")
        .index(["a.txt"])
        .listing(true);
    files.mount(&mut app, "/f");
    app
}

fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("loopwright-fuzz-{}", std::process::id()));
        let files = folder.join("world/d");
        std::fs::create_dir_all(&files).expect("a folder");
        std::fs::write(files.join("a.txt"), "abcdefghij").expect("a file");
        std::fs::write(files.join("large"), vec![b'x'; 70_000]).expect("a file");
        folder.join("world")
    })
}

struct Run {
    server: Server<State, SimNet>,
    clients: [Option<Client>; CLIENTS],
    present: usize,
    turns: usize,
    /// It was asked to stop, and has: there are no more turns.
    has_stopped: bool,
}

pub(crate) fn run(mut data: &[u8]) {
    let (seed, faults, limits) = (take(&mut data), take(&mut data), take(&mut data));
    let narrow = [1, 7, 100, 1 << 20][usize::from(faults & 3)];
    let faults = Faults {
        accept_errors: if faults & 4 == 0 { 0 } else { 3 },
        send_buffer: (narrow, 1 << 20),
        segment: [1, 5, 100, 1 << 20][usize::from(faults >> 3 & 3)],
    };
    let mut bounds = Limits::default();
    if limits & 1 != 0 {
        (bounds.head, bounds.target, bounds.fields) = (256, 64, 6);
    }
    if limits & 2 != 0 {
        (bounds.body, bounds.discard) = (32, 16);
    }
    let net = SimNet::new(u64::from(seed), faults);
    let builder = Server::builder().limits(bounds);
    let server = builder
        .simulate(net, app(), State::default())
        .expect("a server");
    let mut run = Run {
        server,
        clients: [None; CLIENTS],
        present: 0,
        turns: 0,
        has_stopped: false,
    };
    let mut literal = Vec::new();
    for &byte in data.iter().take(4096) {
        if byte < 0xf0 {
            literal.push(byte);
            continue;
        }
        run.send(&mut literal);
        run.act(byte);
    }
    run.send(&mut literal);
    run.end();
}

impl Run {
    fn client(&mut self) -> Client {
        let server = &mut self.server;
        *self.clients[self.present].get_or_insert_with(|| server.net_mut().connect(0))
    }

    fn send(&mut self, literal: &mut Vec<u8>) {
        if !literal.is_empty() {
            let client = self.client();
            self.server.net_mut().send(client, literal);
            literal.clear();
        }
    }

    fn act(&mut self, what: u8) {
        match what {
            0xf0..=0xf3 => self.present = usize::from(what - 0xf0),
            0xf4 => {
                let client = self.client();
                self.server.net_mut().finish(client);
            }
            0xf5 => {
                let client = self.client();
                self.server.net_mut().reset(client);
                // The next bytes are of another one.
                self.clients[self.present] = None;
            }
            0xf6 | 0xf7 => {
                let client = self.client();
                self.server.net_mut().stall(client, what == 0xf6);
            }
            0xf8 => self.turn(),
            0xf9 => (0..8).for_each(|_| self.turn()),
            0xfa => self.wait(Duration::from_secs(5)),
            0xfb => self.wait(Duration::from_secs(31)),
            0xfc => self.server.handle().stop(),
            _ => {}
        }
    }

    fn turn(&mut self) {
        self.turn_within(Duration::from_millis(5));
    }

    fn turn_within(&mut self, time: Duration) {
        self.turn_with(|server| server.turn_within(time));
    }

    fn turn_with(&mut self, turn: impl FnOnce(&mut Server<State, SimNet>) -> io::Result<bool>) {
        if self.has_stopped {
            return;
        }
        self.turns += 1;
        assert!(self.turns < MOST_TURNS, "it goes round in circles");
        let goes_on = turn(&mut self.server);
        self.has_stopped = !goes_on.expect("the simulator says what is ready");
        let empty = self.server.net_mut().empty_polls();
        assert!(empty < 1000, "the loop spins");
    }

    fn wait(&mut self, time: Duration) {
        let end = self.server.net_mut().now() + time;
        for _ in 0..20 {
            if self.server.net_mut().now() < end {
                self.turn_within(time / 8);
            }
        }
    }

    /// All clients read what there is and go; held answers are given up.
    fn end(mut self) {
        (0..8).for_each(|_| self.turn());
        for client in self.clients.into_iter().flatten() {
            self.server.net_mut().stall(client, false);
            self.server.net_mut().finish(client);
        }
        let state = self.server.state_mut();
        state.held.clear();
        state.writers.clear();
        while !self.has_stopped && !self.server.net_mut().is_quiet() {
            // Requests that were on their way may hold answers anew.
            let state = self.server.state_mut();
            state.held.clear();
            state.writers.clear();
            self.turn_with(|server| server.turn());
        }
        let left = (self.server.connections(), self.server.open_exchanges());
        assert_eq!(left, (0, 0), "connections and exchanges are left");
        if !self.has_stopped {
            assert_eq!(self.server.timers(), 0, "timers are left");
        }
        let State { begun, done, .. } = *self.server.state();
        assert!(begun <= done, "{begun} requests, {done} done with");
        for client in self.clients.into_iter().flatten() {
            let received = self.server.net_mut().received(client);
            let is_http = received.is_empty() || b"HTTP/1.1 ".starts_with(received);
            assert!(
                is_http || received.starts_with(b"HTTP/1.1 "),
                "no answer: {received:?}"
            );
        }
    }
}
