//! A world in the simulator: a server of a database or of a cache that is made of a script, a loop that is its client, and
//! those who ask. The server ends between any two bytes, or is only late, and notes what it does. Each seed is another.
//!
//! A protocol adds what its server does ([`Service::serve`]) and what is asked ([`Service::come`]); whoever has an answer
//! judges it ([`Asked::answered`]).
//!
//! What holds in each world: every question has one answer, its own; the server does nothing twice; nobody waits for ever,
//! and the loop does not spin meanwhile; in the end nothing is left of what was asked.

use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{App, Ctx, Limits, Server};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How an answer is judged.
pub(crate) enum Answer {
    /// It is its own.
    Good,
    /// The connection is lost. Whether it was done is not known.
    Lost,
    /// Its asker does not wait any longer.
    Late,
    /// There is none, for a reason that may be.
    Refused,
    /// What may not be.
    Wrong(String),
}

/// How many answers were what.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Seen {
    pub(crate) good: u32,
    pub(crate) lost: u32,
    pub(crate) late: u32,
    pub(crate) refused: u32,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, more: Seen) {
        self.good += more.good;
        self.lost += more.lost;
        self.late += more.late;
        self.refused += more.refused;
    }
}

/// What the askers know.
#[derive(Default)]
pub(crate) struct Asked {
    /// Of each question, how often it was answered.
    pub(crate) answers: BTreeMap<i32, u32>,
    /// Those whose askers do not wait any longer.
    pub(crate) given_up: BTreeSet<i32>,
    pub(crate) seen: Seen,
    /// What may not be, found by whoever found it.
    pub(crate) wrong: Vec<String>,
}

pub(crate) type Shared = Arc<Mutex<Asked>>;

pub(crate) fn lock(asked: &Shared) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(|e| e.into_inner())
}

impl Asked {
    /// The number of one more question, from 1 on.
    pub(crate) fn ask(&mut self) -> i32 {
        let n = self.answers.len() as i32 + 1;
        self.answers.insert(n, 0);
        n
    }

    pub(crate) fn answered(&mut self, n: i32, answer: Answer) {
        *self.answers.get_mut(&n).expect("a question") += 1;
        match answer {
            Answer::Good => self.seen.good += 1,
            Answer::Lost => self.seen.lost += 1,
            Answer::Late => {
                self.given_up.insert(n);
                self.seen.late += 1;
            }
            Answer::Refused => self.seen.refused += 1,
            Answer::Wrong(why) => self.wrong.push(format!("{n} {why}")),
        }
    }

    fn is_answered(&self) -> bool {
        self.answers.values().all(|times| *times > 0)
    }
}

/// What is another for each protocol.
pub(crate) trait Service: Sized {
    /// What the server knows of one connection.
    type Connection;

    /// Of one that has just been made.
    fn accept() -> Self::Connection;

    /// The server does what it is told in the input of the connection at this place, once a turn.
    fn serve(world: &mut World<Self>, at: usize);

    /// What is left of all that was asked, if anything is.
    fn left(cx: &mut Ctx<'_>) -> Option<String>;

    /// Somebody comes and asks.
    fn come(world: &mut World<Self>);
}

/// The server's end of a connection.
pub(crate) struct Backend<C> {
    pub(crate) client: Client,
    pub(crate) connection: C,
    /// How many bytes were read.
    pub(crate) read: usize,
    /// Those of them that were not understood yet.
    pub(crate) input: Vec<u8>,
    to_say: Vec<u8>,
    /// Bytes that it says before it dies.
    life: usize,
    pub(crate) is_dead: bool,
}

impl<C> Backend<C> {
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.to_say.extend_from_slice(bytes);
    }
}

pub(crate) struct World<S: Service> {
    pub(crate) server: Server<(), SimNet>,
    pub(crate) service: S,
    pub(crate) backends: Vec<Backend<S::Connection>>,
    pub(crate) asked: Shared,
    /// What the server has done, and how often.
    pub(crate) done: BTreeMap<i32, u32>,
    pub(crate) rng: fastrand::Rng,
    /// How long a turn may wait.
    pub(crate) pause: Duration,
    pub(crate) dies: bool,
    seed: u64,
}

impl<S: Service> World<S> {
    pub(crate) fn new(seed: u64, dies: bool, service: S, app: App) -> World<S> {
        // The pauses between attempts are drawn from it.
        fastrand::seed(seed);
        let faults = Faults {
            accept_errors: 0,
            ..Faults::default()
        };
        let limits = Limits {
            high_water: 1024,
            ..Limits::default()
        };
        let builder = Server::builder().limits(limits);
        let server = builder.simulate(SimNet::new(seed, faults), app, ());
        let mut server = server.expect("a server");
        server.net_mut().let_clients_react();
        World {
            server,
            service,
            backends: Vec::new(),
            asked: Shared::default(),
            done: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
            pause: Duration::from_millis(1),
            dies,
            seed,
        }
    }

    pub(crate) fn post(&mut self, f: impl FnOnce(&mut Ctx<'_>) + Send + 'static) {
        self.server.handle().post(f).expect("posted");
    }

    pub(crate) fn turn(&mut self) {
        let soon = self.server.net_mut().now() + self.pause;
        self.server.net_mut().wake_at(soon);
        self.server.turn().expect("a turn");
        while let Some(client) = self.server.net_mut().dialled() {
            if self.dies && self.rng.u32(0..10) == 0 {
                self.server.net_mut().reset(client);
                continue;
            }
            let life = match self.dies {
                true if self.rng.u32(0..4) > 0 => self.rng.usize(0..1200),
                _ => usize::MAX,
            };
            self.backends.push(Backend {
                client,
                connection: S::accept(),
                read: 0,
                input: Vec::new(),
                to_say: Vec::new(),
                life,
                is_dead: false,
            });
        }
        for at in 0..self.backends.len() {
            let backend = &mut self.backends[at];
            if backend.is_dead {
                continue;
            }
            let new = &self.server.net_mut().received(backend.client)[backend.read..];
            backend.read += new.len();
            backend.input.extend_from_slice(new);
            // It is late, now and then.
            if self.rng.u32(0..3) > 0 {
                S::serve(self, at);
            }
            self.speak(at);
        }
    }

    /// Says a piece of what is to be said, or all, or nothing yet.
    fn speak(&mut self, at: usize) {
        let backend = &mut self.backends[at];
        let most = backend.to_say.len();
        if backend.is_dead || most == 0 {
            return;
        }
        let piece = match self.rng.u32(0..3) {
            0 => 0,
            1 => self.rng.usize(0..=most),
            _ => most,
        };
        let piece = piece.min(backend.life);
        let bytes: Vec<u8> = backend.to_say.drain(..piece).collect();
        backend.life -= piece;
        let net = self.server.net_mut();
        net.send(backend.client, &bytes);
        if backend.life == 0 {
            backend.is_dead = true;
            match self.rng.bool() {
                true => net.finish(backend.client),
                false => net.reset(backend.client),
            }
        }
    }

    /// The server ends this connection, in order.
    #[allow(dead_code, reason = "not every protocol has that")]
    pub(crate) fn finish(&mut self, at: usize) {
        self.backends[at].is_dead = true;
        self.server.net_mut().finish(self.backends[at].client);
    }

    /// When nobody asks any more: within a time that is longer than any setting.
    fn come_to_rest(&mut self) {
        self.pause = Duration::from_secs(1);
        let until = self.server.net_mut().now() + Duration::from_secs(120);
        loop {
            (0..100).for_each(|_| self.turn());
            let told = Arc::new(Mutex::new(None));
            let tell = told.clone();
            self.post(move |cx| *tell.lock().expect("a place") = Some(S::left(cx)));
            self.turn();
            let left = told.lock().expect("a place").take().expect("told");
            let Some(left) = left else { return };
            let now = self.server.net_mut().now();
            assert!(now < until, "seed {}: {left}", self.seed);
        }
    }

    /// Some come, until nobody does any more and all have their answers: what holds then.
    pub(crate) fn run(&mut self) -> Seen {
        let seed = self.seed;
        for _ in 0..500 {
            if self.rng.u32(0..3) == 0 {
                S::come(self);
            }
            self.turn();
        }
        self.pause = Duration::from_millis(20);
        for turn in 0.. {
            self.turn();
            if turn > 200 && lock(&self.asked).is_answered() {
                break;
            }
            assert!(turn < 200_000, "seed {seed}: somebody waits for ever");
        }
        self.come_to_rest();
        let spins = self.server.net_mut().empty_polls();
        assert!(spins < 100, "seed {seed}: it spins");
        let asked = lock(&self.asked);
        assert!(asked.wrong.is_empty(), "seed {seed}: {:?}", asked.wrong);
        for (n, times) in &asked.answers {
            assert_eq!(*times, 1, "seed {seed}: {n} was answered so often");
        }
        for (n, times) in &self.done {
            assert_eq!(*times, 1, "seed {seed}: {n} was done so often");
        }
        asked.seen
    }
}

/// `LOOPWRIGHT_SIM_SEEDS` of them, or so many.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = std::env::var("LOOPWRIGHT_SIM_SEEDS").ok();
    0..number
        .and_then(|number| number.parse().ok())
        .unwrap_or(usual)
}
