//! The client of PostgreSQL in the simulator, against a server that is made of a script: it ends between any two bytes, is
//! late, never answers, and notes what it is told. Each seed is a world.
//!
//! What holds in each: every question has one answer, its own; the server is asked nothing twice; in a transaction there is
//! nobody else's question; a request to cancel meets only what was given up.

use loopwright::service::pg::{PgErrorKind, Postgres};
use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{App, Ctx, Demand, Server};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the askers know.
#[derive(Default)]
struct Asked {
    /// Of each question, how often it was answered.
    answers: BTreeMap<i32, u32>,
    /// Whose askers were told that they wait no more.
    given_up: BTreeSet<i32>,
    good: u32,
    lost: u32,
    behind: u32,
    late: u32,
    next: i32,
    wrong: Vec<String>,
}

type Shared = Arc<Mutex<Asked>>;

fn lock(asked: &Shared) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(|e| e.into_inner())
}

impl Asked {
    fn ask(&mut self) -> i32 {
        self.next += 1;
        self.answers.insert(self.next, 0);
        self.next
    }

    fn answer(&mut self, n: i32, value: Result<Vec<i32>, &PgErrorKind>) {
        *self.answers.entry(n).or_default() += 1;
        match value {
            Ok(values) if values == rows_of(n) => self.good += 1,
            Ok(values) => self.wrong.push(format!("{n} was answered {values:?}")),
            Err(PgErrorKind::Deadline { .. } | PgErrorKind::Gone) => {
                self.given_up.insert(n);
                self.late += 1;
            }
            // Behind one that was given up, and could not be cancelled for their sake.
            Err(PgErrorKind::Lost(why)) if why.contains("has not answered") => self.behind += 1,
            Err(PgErrorKind::Lost(_)) => self.lost += 1,
            Err(PgErrorKind::Query(_)) if is_wrong(n) || self.given_up.contains(&n) => {}
            Err(
                PgErrorKind::NoConnection { .. }
                | PgErrorKind::QueueFull { .. }
                | PgErrorKind::Over,
            ) => {}
            // In a transaction in which something has failed.
            Err(PgErrorKind::Query(error))
                if error.server().is_some_and(|error| error.code == "25P02") => {}
            Err(kind) => self.wrong.push(format!("{n} was answered {kind:?}")),
        }
    }
}

fn is_wrong(n: i32) -> bool {
    n % 13 == 0
}

/// The server is not done with it before it is cancelled.
fn is_endless(n: i32) -> bool {
    n % 17 == 0
}

/// It takes so many turns.
fn takes(n: i32) -> u32 {
    match n % 3 {
        0 => n.unsigned_abs() * 7 % 300,
        _ => 0,
    }
}

fn rows_of(n: i32) -> Vec<i32> {
    (0..n % 4).map(|row| n * 10 + row).collect()
}

/// One connection at the server's end.
struct Backend {
    client: Client,
    /// What of it was read.
    read: usize,
    greeted: bool,
    /// After so many bytes it dies.
    life: usize,
    is_dead: bool,
    /// By their names: whether they have a parameter.
    statements: BTreeMap<Vec<u8>, bool>,
    bound: Option<i32>,
    /// Passes everything over up to a `Sync`.
    skips: bool,
    /// Of its transaction: its number, or 0; and whether it has failed.
    status: u8,
    owner: Option<i32>,
    /// What it does, and for how many turns yet; `None`: until it is cancelled.
    doing: Option<(i32, Option<u32>)>,
    /// A request to cancel, of which backend, and in how many turns it is delivered.
    cancels: Option<(usize, u32)>,
}

struct World {
    server: Server<(), SimNet>,
    backends: Vec<Backend>,
    asked: Shared,
    executed: BTreeMap<i32, u32>,
    cancelled: u32,
    rng: fastrand::Rng,
    dies: bool,
    /// How long a turn may wait.
    pause: Duration,
    wrong: Vec<String>,
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn error(code: &str) -> Vec<u8> {
    message(b'E', format!("VERROR\0C{code}\0Mno\0\0").as_bytes())
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

fn string(bytes: &mut &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).expect("a string");
    let text = bytes[..end].to_vec();
    *bytes = &bytes[end + 1..];
    text
}

impl World {
    fn new(seed: u64, dies: bool) -> World {
        fastrand::seed(seed);
        let faults = Faults {
            accept_errors: 0,
            ..Faults::default()
        };
        let mut app: App = App::new();
        let database = Postgres::new("postgres://ada@192.0.2.1/shop").expect("a URL");
        let database = database.connections(3).pipeline(4).queue(50);
        let database = database
            .transaction(Duration::from_secs(5))
            .reply(Duration::from_secs(20));
        app.postgres("main", database.retry(Duration::from_millis(200)));
        let mut server = Server::simulate(SimNet::new(seed, faults), app, ()).expect("a server");
        server.net_mut().let_clients_react();
        World {
            server,
            backends: Vec::new(),
            asked: Shared::default(),
            executed: BTreeMap::new(),
            cancelled: 0,
            rng: fastrand::Rng::with_seed(seed),
            dies,
            pause: Duration::from_millis(1),
            wrong: Vec::new(),
        }
    }

    fn post(&mut self, f: impl FnOnce(&mut Ctx<'_>) + Send + 'static) {
        self.server.handle().post(f).expect("posted");
    }

    /// Somebody asks something.
    fn come(&mut self) {
        let asked = self.asked.clone();
        let timeout = Duration::from_millis(self.rng.u64(1..3000));
        let kind = self.rng.u32(0..10);
        let steps = self.rng.u32(1..4);
        let ending = self.rng.u32(0..3);
        self.post(move |cx| match kind {
            0..=5 => query(cx, asked, timeout),
            6 | 7 => each(cx, asked, timeout),
            _ => {
                cx.pg("main").transaction(move |cx, tx| {
                    let Ok(tx) = tx else { return };
                    let owner = lock(&asked).ask();
                    // Itself, it is no question.
                    *lock(&asked).answers.entry(owner).or_default() = 1;
                    for _ in 0..steps {
                        let n = lock(&asked).ask();
                        let asked = asked.clone();
                        let late = asked.clone();
                        let query =
                            tx.query(cx, "in transaction", (owner, n), move |_, _, rows| {
                                let rows = rows.as_ref().map_err(|error| error.kind());
                                let values = rows.map(|rows| {
                                    rows.iter()
                                        .map(|row| row.get(0).expect("a number"))
                                        .collect()
                                });
                                lock(&asked).answer(n, values);
                            });
                        if is_endless(n) {
                            cx.after(timeout, move |cx| {
                                lock(&late).given_up.insert(n);
                                cx.pg("main").cancel(query);
                            });
                        }
                    }
                    match ending {
                        0 => tx.commit(cx, |_, _| {}),
                        1 => tx.rollback(cx, |_, _| {}),
                        _ => {}
                    }
                });
            }
        });
    }

    fn turn(&mut self) {
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
                read: 0,
                greeted: false,
                life,
                is_dead: false,
                statements: BTreeMap::new(),
                bound: None,
                skips: false,
                status: b'I',
                owner: None,
                doing: None,
                cancels: None,
            });
        }
        for at in 0..self.backends.len() {
            self.serve(at);
        }
    }

    fn serve(&mut self, at: usize) {
        if self.backends[at].is_dead {
            return;
        }
        if let Some((target, turns)) = &mut self.backends[at].cancels {
            if *turns > 0 {
                *turns -= 1;
                return;
            }
            let target = *target;
            self.deliver(target);
            self.backends[at].is_dead = true;
            let client = self.backends[at].client;
            return self.server.net_mut().finish(client);
        }
        // It is late, now and then.
        if self.rng.u32(0..3) == 0 {
            return;
        }
        let client = self.backends[at].client;
        let read = std::mem::take(&mut self.backends[at].read);
        let all = self.server.net_mut().received(client)[read..].to_vec();
        if let Some((_, Some(turns))) = &mut self.backends[at].doing {
            *turns = turns.saturating_sub(1);
            if *turns == 0 {
                self.backends[at].doing = None;
                self.say(at, &message(b'C', b"SELECT 1\0"));
            }
        }
        while self.backends[at].doing.is_none() && !self.backends[at].is_dead {
            let rest = &all[self.backends[at].read..];
            let head = usize::from(self.backends[at].greeted);
            if rest.len() < head + 4 {
                break;
            }
            let len = int(&rest[head..]) as usize;
            if rest.len() < head + len {
                break;
            }
            self.backends[at].read += head + len;
            let body = rest[head + 4..head + len].to_vec();
            if head == 0 {
                self.greet(at, &body);
            } else {
                self.on_message(at, rest[0], &body);
            }
            if self.backends[at].cancels.is_some() {
                break;
            }
        }
        self.backends[at].read += read;
        if self.server.net_mut().is_finished(client) {
            self.backends[at].is_dead = true;
        }
    }

    fn say(&mut self, at: usize, bytes: &[u8]) {
        let backend = &mut self.backends[at];
        if backend.is_dead {
            return;
        }
        let n = bytes.len().min(backend.life);
        backend.life -= n;
        let (client, dies) = (backend.client, backend.life == 0);
        backend.is_dead = dies;
        self.server.net_mut().send(client, &bytes[..n]);
        if dies {
            match self.rng.bool() {
                true => self.server.net_mut().finish(client),
                false => self.server.net_mut().reset(client),
            }
        }
    }

    fn greet(&mut self, at: usize, body: &[u8]) {
        self.backends[at].greeted = true;
        if int(body) == 80_877_102 {
            let turns = self.rng.u32(0..150);
            self.backends[at].cancels = Some((int(&body[4..]) as usize, turns));
            return;
        }
        let mut key = (at as u32).to_be_bytes().to_vec();
        key.extend_from_slice(&7u32.to_be_bytes());
        self.say(at, &message(b'R', &[0; 4]));
        self.say(at, &message(b'K', &key));
        self.say(at, &message(b'Z', b"I"));
    }

    /// A request to cancel arrives: whatever runs there is cancelled.
    fn deliver(&mut self, at: usize) {
        let Some((n, _)) = self.backends[at].doing.take() else {
            return;
        };
        self.cancelled += 1;
        if !lock(&self.asked).given_up.contains(&n) {
            self.wrong
                .push(format!("{n} was cancelled, and nobody had given it up"));
        }
        self.fail(at, "57014");
    }

    fn fail(&mut self, at: usize, code: &str) {
        let backend = &mut self.backends[at];
        backend.skips = true;
        if backend.status == b'T' {
            backend.status = b'E';
        }
        self.say(at, &error(code));
    }

    fn on_message(&mut self, at: usize, tag: u8, body: &[u8]) {
        let mut rest = body;
        if self.backends[at].skips && tag != b'S' {
            return;
        }
        match tag {
            b'P' => {
                let name = string(&mut rest);
                let in_transaction = string(&mut rest) == b"in transaction";
                self.backends[at].statements.insert(name, in_transaction);
                self.say(at, &message(b'1', b""));
            }
            b'D' => {
                rest = &rest[1..];
                let name = string(&mut rest);
                let params: &[u8] = match self.backends[at].statements[&name] {
                    true => &[0, 2, 0, 0, 0, 23, 0, 0, 0, 23],
                    false => &[0, 1, 0, 0, 0, 23],
                };
                self.say(at, &message(b't', params));
                let mut row = b"\0\x01n\0".to_vec();
                row.extend_from_slice(&[0; 6]);
                row.extend_from_slice(&[0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, 1]);
                self.say(at, &message(b'T', &row));
            }
            b'C' => self.say(at, &message(b'3', b"")),
            b'B' => {
                string(&mut rest);
                let name = string(&mut rest);
                let in_transaction = self.backends[at].statements[&name];
                // Formats, then values of four bytes.
                let formats = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                rest = &rest[2 + 2 * formats + 2..];
                let first = int(&rest[4..]);
                let n = if in_transaction {
                    int(&rest[12..])
                } else {
                    first
                };
                let owner = in_transaction.then_some(first);
                let backend = &self.backends[at];
                let is_open = backend.status != b'I';
                if is_open != in_transaction || (backend.owner.is_some() && backend.owner != owner)
                {
                    let (status, other) = (char::from(backend.status), backend.owner);
                    self.wrong.push(format!(
                        "{n} of {owner:?} came in a transaction ({status}) of {other:?}"
                    ));
                }
                self.backends[at].owner = owner;
                self.backends[at].bound = Some(n);
                if self.backends[at].status == b'E' {
                    return self.fail(at, "25P02");
                }
                self.say(at, &message(b'2', b""));
            }
            b'E' => {
                let n = self.backends[at].bound.take().expect("something bound");
                *self.executed.entry(n).or_default() += 1;
                if is_wrong(n) {
                    return self.fail(at, "22012");
                }
                for value in rows_of(n) {
                    let mut row = b"\0\x01\0\0\0\x04".to_vec();
                    row.extend_from_slice(&value.to_be_bytes());
                    self.say(at, &message(b'D', &row));
                }
                match takes(n) {
                    _ if is_endless(n) => self.backends[at].doing = Some((n, None)),
                    0 => {}
                    turns => self.backends[at].doing = Some((n, Some(turns))),
                }
                if self.backends[at].doing.is_some() {
                    return;
                }
                self.say(at, &message(b'C', b"SELECT 1\0"));
            }
            b'S' => {
                self.backends[at].skips = false;
                let status = self.backends[at].status;
                self.say(at, &message(b'Z', &[status]));
            }
            b'Q' => {
                let sql = string(&mut rest);
                let before = self.backends[at].status;
                let (status, tag) = match &sql[..] {
                    b"BEGIN" => (b'T', "BEGIN"),
                    b"COMMIT" if before == b'E' => (b'I', "ROLLBACK"),
                    b"COMMIT" => (b'I', "COMMIT"),
                    b"ROLLBACK" => (b'I', "ROLLBACK"),
                    b"DISCARD ALL" => (before, "DISCARD ALL"),
                    other => panic!("{}", String::from_utf8_lossy(other)),
                };
                self.backends[at].status = status;
                if status == b'I' {
                    self.backends[at].owner = None;
                }
                self.say(at, &message(b'C', format!("{tag}\0").as_bytes()));
                self.say(at, &message(b'Z', &[status]));
            }
            b'X' => self.backends[at].is_dead = true,
            other => panic!("{}", char::from(other)),
        }
    }
}

fn query(cx: &mut Ctx<'_>, asked: Shared, timeout: Duration) {
    let n = lock(&asked).ask();
    cx.pg("main")
        .timeout(timeout)
        .query("select n", (n,), move |_, rows| {
            let rows = rows.as_ref().map_err(|error| error.kind());
            let values = rows.map(|rows| {
                rows.iter()
                    .map(|row| row.get(0).expect("a number"))
                    .collect()
            });
            lock(&asked).answer(n, values);
        });
}

fn each(cx: &mut Ctx<'_>, asked: Shared, timeout: Duration) {
    let n = lock(&asked).ask();
    let id = Arc::new(Mutex::new(None));
    let place = id.clone();
    let values: Arc<Mutex<VecDeque<i32>>> = Arc::default();
    let gathered = values.clone();
    let query = cx.pg("main").timeout(timeout).each(
        "select n",
        (n,),
        move |cx, row| {
            gathered
                .lock()
                .expect("rows")
                .push_back(row.get(0).expect("a number"));
            let id = id.clone();
            cx.after(Duration::from_millis(20), move |cx| {
                if let Some(id) = *id.lock().expect("a question") {
                    cx.pg("main").resume(id);
                }
            });
            Demand::Hold
        },
        move |_, end| {
            let values = values.lock().expect("rows").iter().copied().collect();
            lock(&asked).answer(
                n,
                end.as_ref().map(|_| values).map_err(|error| error.kind()),
            );
        },
    );
    *place.lock().expect("a question") = Some(query);
}

#[derive(Default)]
struct Totals {
    good: u32,
    lost: u32,
    late: u32,
    cancelled: u32,
}

fn run(seed: u64, dies: bool, totals: &mut Totals) {
    let mut world = World::new(seed, dies);
    for _ in 0..600 {
        if world.rng.u32(0..4) == 0 {
            world.come();
        }
        world.turn();
    }
    world.pause = Duration::from_millis(20);
    let is_over = |world: &World| {
        let asked = lock(&world.asked);
        asked.answers.values().all(|answers| *answers > 0)
    };
    for turn in 0.. {
        world.turn();
        if is_over(&world) && turn > 200 {
            break;
        }
        assert!(turn < 200_000, "seed {seed}: somebody waits for ever");
    }
    assert!(
        world.server.net_mut().empty_polls() < 100,
        "seed {seed}: it spins"
    );
    let asked = lock(&world.asked);
    assert!(asked.wrong.is_empty(), "seed {seed}: {:?}", asked.wrong);
    assert!(world.wrong.is_empty(), "seed {seed}: {:?}", world.wrong);
    for (n, answers) in &asked.answers {
        assert_eq!(*answers, 1, "seed {seed}: {n}");
    }
    for (n, times) in &world.executed {
        assert_eq!(*times, 1, "seed {seed}: {n} was done {times} times");
    }
    totals.good += asked.good;
    totals.lost += asked.lost;
    totals.late += asked.late;
    totals.cancelled += world.cancelled;
}

/// `LOOPWRIGHT_SIM_SEEDS` of them.
fn seeds() -> std::ops::Range<u64> {
    let more = std::env::var("LOOPWRIGHT_SIM_SEEDS").ok();
    0..more.and_then(|more| more.parse().ok()).unwrap_or(15)
}

#[test]
fn a_server_that_dies_between_any_two_bytes() {
    let mut totals = Totals::default();
    for seed in seeds() {
        run(seed, true, &mut totals);
    }
    // The worlds are not empty.
    let Totals {
        good, lost, late, ..
    } = totals;
    assert!(
        good > 500 && lost > 50 && late > 100,
        "{good} good, {lost} lost, {late} late"
    );
}

#[test]
fn a_server_that_is_only_late() {
    let mut totals = Totals::default();
    for seed in seeds() {
        run(seed, false, &mut totals);
    }
    let Totals {
        good,
        lost,
        late,
        cancelled,
    } = totals;
    assert_eq!(lost, 0);
    assert!(
        good > 500 && late > 100 && cancelled > 10,
        "{good} good, {late} late, {cancelled} cancelled"
    );
}
