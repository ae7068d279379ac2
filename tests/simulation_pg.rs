//! The client of PostgreSQL in the simulator: [what holds in each world](world), and that in a transaction there is nobody
//! else's question, and a request to cancel meets only what was given up. The server takes its time with some questions,
//! and does not end others before it is told to.

#[path = "simulated/world.rs"]
mod world;

use loopwright::service::pg::{PgError, PgErrorKind, Postgres, Rows};
use loopwright::{App, Ctx, Demand};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::{Answer, Seen, Service, Shared, lock, seeds};

type World = world::World<Pg>;

#[derive(Default)]
struct Pg {
    cancelled: u32,
}

// ---- the server

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

struct Connection {
    greeted: bool,
    /// By their names: whether they have a parameter.
    statements: BTreeMap<Vec<u8>, bool>,
    bound: Option<i32>,
    /// Passes everything over up to a `Sync`.
    skips: bool,
    /// Of its transaction.
    status: u8,
    /// The first question of its transaction.
    owner: Option<i32>,
    /// What it does, and for how many turns yet; `None`: until it is cancelled.
    doing: Option<(i32, Option<u32>)>,
    /// A request to cancel, of which backend, and in how many turns it is delivered.
    cancels: Option<(usize, u32)>,
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

impl Service for Pg {
    type Connection = Connection;

    fn accept() -> Connection {
        Connection {
            greeted: false,
            statements: BTreeMap::new(),
            bound: None,
            skips: false,
            status: b'I',
            owner: None,
            doing: None,
            cancels: None,
        }
    }

    fn serve(world: &mut World, at: usize) {
        let backend = &mut world.backends[at];
        if let Some((target, turns)) = &mut backend.connection.cancels {
            if *turns > 0 {
                *turns -= 1;
                return;
            }
            let target = *target;
            world.deliver(target);
            return world.finish(at);
        }
        if let Some((_, Some(turns))) = &mut backend.connection.doing {
            *turns -= 1;
            if *turns == 0 {
                backend.connection.doing = None;
                backend.say(&message(b'C', b"SELECT 1\0"));
            }
        }
        while let Some((tag, body)) = world.heard(at) {
            match tag {
                None => world.greet(at, &body),
                Some(tag) => world.on_message(at, tag, &body),
            }
        }
        // A request to cancel is delivered, whatever becomes of its connection.
        let backend = &mut world.backends[at];
        if backend.connection.cancels.is_none() {
            backend.is_dead |= world.server.net_mut().is_finished(backend.client);
        }
    }

    fn left(cx: &mut Ctx<'_>) -> Option<String> {
        let status = cx.pg("main").status().expect("a database");
        let left = status.in_use + status.waiting + status.running + status.transactions;
        (left > 0).then(|| format!("{status:?}"))
    }

    fn come(world: &mut World) {
        let asked = world.asked.clone();
        let timeout = Duration::from_millis(world.rng.u64(1..3000));
        let kind = world.rng.u32(0..10);
        let steps = world.rng.u32(1..4);
        let ending = world.rng.u32(0..3);
        let burst = world.rng.u32(0..150);
        world.post(move |cx| match kind {
            0..=3 => query(cx, asked, timeout),
            // More than may wait, in one turn.
            4 if burst > 100 => (100..burst).for_each(|_| query(cx, asked.clone(), timeout)),
            4 => regretted(cx, asked),
            5 => followed(cx, asked, timeout, steps),
            6 | 7 => each(cx, asked, timeout),
            _ => transaction(cx, asked, timeout, steps, ending),
        });
    }
}

impl World {
    /// The next message, if the server takes one now; the first of a connection has no letter.
    fn heard(&mut self, at: usize) -> Option<(Option<u8>, Vec<u8>)> {
        let backend = &mut self.backends[at];
        let connection = &backend.connection;
        if connection.doing.is_some() || connection.cancels.is_some() || backend.is_dead {
            return None;
        }
        let head = usize::from(connection.greeted);
        let len = int(backend.input.get(head..head + 4)?) as usize;
        if backend.input.len() < head + len {
            return None;
        }
        let message: Vec<u8> = backend.input.drain(..head + len).collect();
        let tag = (head > 0).then(|| message[0]);
        Some((tag, message[head + 4..].to_vec()))
    }

    fn greet(&mut self, at: usize, body: &[u8]) {
        let backend = &mut self.backends[at];
        backend.connection.greeted = true;
        if int(body) == 80_877_102 {
            let turns = self.rng.u32(0..150);
            backend.connection.cancels = Some((int(&body[4..]) as usize, turns));
            if self.dies && self.rng.u32(0..3) == 0 {
                self.server.net_mut().reset(backend.client);
            }
            return;
        }
        let mut key = (at as u32).to_be_bytes().to_vec();
        key.extend_from_slice(&7u32.to_be_bytes());
        backend.say(&message(b'R', &[0; 4]));
        backend.say(&message(b'K', &key));
        backend.say(&message(b'Z', b"I"));
    }

    /// A request to cancel arrives: whatever runs there is cancelled.
    fn deliver(&mut self, at: usize) {
        let Some((n, _)) = self.backends[at].connection.doing.take() else {
            return;
        };
        self.service.cancelled += 1;
        let mut asked = lock(&self.asked);
        if !asked.given_up.contains(&n) {
            let wrong = format!("{n} was cancelled, and nobody had given it up");
            asked.wrong.push(wrong);
        }
        drop(asked);
        self.fail(at, "57014");
    }

    fn fail(&mut self, at: usize, code: &str) {
        let backend = &mut self.backends[at];
        backend.connection.skips = true;
        if backend.connection.status == b'T' {
            backend.connection.status = b'E';
        }
        backend.say(&error(code));
    }

    fn on_message(&mut self, at: usize, tag: u8, body: &[u8]) {
        let mut rest = body;
        if self.backends[at].connection.skips && tag != b'S' {
            return;
        }
        match tag {
            b'P' => {
                let name = string(&mut rest);
                let in_transaction = string(&mut rest) == b"in transaction";
                self.backends[at]
                    .connection
                    .statements
                    .insert(name, in_transaction);
                self.backends[at].say(&message(b'1', b""));
            }
            b'D' => {
                rest = &rest[1..];
                let name = string(&mut rest);
                let params: &[u8] = match self.backends[at].connection.statements[&name] {
                    true => &[0, 2, 0, 0, 0, 23, 0, 0, 0, 23],
                    false => &[0, 1, 0, 0, 0, 23],
                };
                self.backends[at].say(&message(b't', params));
                let mut row = b"\0\x01n\0".to_vec();
                row.extend_from_slice(&[0; 6]);
                row.extend_from_slice(&[0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, 1]);
                self.backends[at].say(&message(b'T', &row));
            }
            b'C' => self.backends[at].say(&message(b'3', b"")),
            b'B' => {
                string(&mut rest);
                let name = string(&mut rest);
                let in_transaction = self.backends[at].connection.statements[&name];
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
                let backend = &self.backends[at].connection;
                let is_open = backend.status != b'I';
                if is_open != in_transaction || (backend.owner.is_some() && backend.owner != owner)
                {
                    let (status, other) = (char::from(backend.status), backend.owner);
                    lock(&self.asked).wrong.push(format!(
                        "{n} of {owner:?} came in a transaction ({status}) of {other:?}"
                    ));
                }
                self.backends[at].connection.owner = owner;
                self.backends[at].connection.bound = Some(n);
                if self.backends[at].connection.status == b'E' {
                    return self.fail(at, "25P02");
                }
                self.backends[at].say(&message(b'2', b""));
            }
            b'E' => {
                let n = self.backends[at]
                    .connection
                    .bound
                    .take()
                    .expect("something bound");
                *self.done.entry(n).or_default() += 1;
                if is_wrong(n) {
                    return self.fail(at, "22012");
                }
                for value in rows_of(n) {
                    let mut row = b"\0\x01\0\0\0\x04".to_vec();
                    row.extend_from_slice(&value.to_be_bytes());
                    self.backends[at].say(&message(b'D', &row));
                }
                match takes(n) {
                    _ if is_endless(n) => self.backends[at].connection.doing = Some((n, None)),
                    0 => {}
                    turns => self.backends[at].connection.doing = Some((n, Some(turns))),
                }
                if self.backends[at].connection.doing.is_some() {
                    return;
                }
                self.backends[at].say(&message(b'C', b"SELECT 1\0"));
            }
            b'S' => {
                self.backends[at].connection.skips = false;
                let status = self.backends[at].connection.status;
                self.backends[at].say(&message(b'Z', &[status]));
            }
            b'Q' => {
                let sql = string(&mut rest);
                let before = self.backends[at].connection.status;
                let (status, tag) = match &sql[..] {
                    b"BEGIN" => (b'T', "BEGIN"),
                    b"COMMIT" if before == b'E' => (b'I', "ROLLBACK"),
                    b"COMMIT" => (b'I', "COMMIT"),
                    b"ROLLBACK" => (b'I', "ROLLBACK"),
                    b"DISCARD ALL" => (before, "DISCARD ALL"),
                    other => panic!("{}", String::from_utf8_lossy(other)),
                };
                self.backends[at].connection.status = status;
                if status == b'I' {
                    self.backends[at].connection.owner = None;
                }
                self.backends[at].say(&message(b'C', format!("{tag}\0").as_bytes()));
                self.backends[at].say(&message(b'Z', &[status]));
            }
            b'X' => self.finish(at),
            other => panic!("{}", char::from(other)),
        }
    }
}

// ---- those who ask

fn numbers(rows: &Rows) -> Vec<i32> {
    rows.iter()
        .map(|row| row.get(0).expect("a number"))
        .collect()
}

fn answered(asked: &Shared, n: i32, values: Result<Vec<i32>, PgError>) {
    let mut asked = lock(asked);
    let answer = match values.as_ref().map_err(PgError::kind) {
        Ok(values) if *values == rows_of(n) => Answer::Good,
        Ok(values) => Answer::Wrong(format!("was answered {values:?}")),
        Err(PgErrorKind::Deadline { .. } | PgErrorKind::Gone) => Answer::Late,
        // Behind one that was given up, and could not be cancelled for their sake.
        Err(PgErrorKind::Lost(why)) if why.contains("has not answered") => Answer::Refused,
        Err(PgErrorKind::Lost(_)) => Answer::Lost,
        Err(PgErrorKind::Query(_)) if is_wrong(n) || asked.given_up.contains(&n) => Answer::Refused,
        // In a transaction in which something has failed.
        Err(PgErrorKind::Query(error))
            if error.server().is_some_and(|error| error.code == "25P02") =>
        {
            Answer::Refused
        }
        Err(
            PgErrorKind::NoConnection { .. } | PgErrorKind::QueueFull { .. } | PgErrorKind::Over,
        ) => Answer::Refused,
        Err(kind) => Answer::Wrong(format!("was answered {kind:?}")),
    };
    asked.answered(n, answer);
}

fn query(cx: &mut Ctx<'_>, asked: Shared, timeout: Duration) {
    let n = lock(&asked).ask();
    let pg = cx.pg("main").timeout(timeout);
    pg.query("select n", (n,), move |_, rows| {
        answered(&asked, n, rows.map(|rows| numbers(&rows)));
    });
}

/// Asked, and given up before it has left.
fn regretted(cx: &mut Ctx<'_>, asked: Shared) {
    let n = lock(&asked).ask();
    lock(&asked).given_up.insert(n);
    let query = cx.pg("main").query("select n", (n,), move |_, rows| {
        answered(&asked, n, rows.map(|rows| numbers(&rows)));
    });
    cx.pg("main").cancel(query);
}

/// The answer makes somebody ask again, at once.
fn followed(cx: &mut Ctx<'_>, asked: Shared, timeout: Duration, left: u32) {
    let n = lock(&asked).ask();
    let pg = cx.pg("main").timeout(timeout);
    pg.query("select n", (n,), move |cx, rows| {
        answered(&asked, n, rows.map(|rows| numbers(&rows)));
        if left > 0 {
            followed(cx, asked, timeout, left - 1);
        }
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
            answered(&asked, n, end.map(|_| values));
        },
    );
    *place.lock().expect("a question") = Some(query);
}

fn transaction(cx: &mut Ctx<'_>, asked: Shared, timeout: Duration, steps: u32, ending: u32) {
    cx.pg("main").transaction(move |cx, tx| {
        let Ok(tx) = tx else { return };
        let mut owner = None;
        for _ in 0..steps {
            let n = lock(&asked).ask();
            let owner = *owner.get_or_insert(n);
            let asked = asked.clone();
            let late = asked.clone();
            let query = tx.query(cx, "in transaction", (owner, n), move |_, _, rows| {
                answered(&asked, n, rows.map(|rows| numbers(&rows)));
            });
            if is_endless(n) {
                cx.after(timeout, move |cx| {
                    // With it its transaction: the questions of one were asked together.
                    lock(&late).given_up.extend(owner..owner + steps as i32);
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

// ---- the worlds

fn app() -> App {
    let database = Postgres::new("postgres://ada@192.0.2.1/shop").expect("a URL");
    let database = database.connections(3).pipeline(4).queue(50);
    let database = database
        .transaction(Duration::from_secs(5))
        .reply(Duration::from_secs(20));
    let mut app = App::new();
    app.postgres("main", database.retry(Duration::from_millis(200)));
    app
}

/// What has happened in all of them, and how many questions were cancelled.
fn run(dies: bool) -> (Seen, u32) {
    let (mut seen, mut cancelled) = (Seen::default(), 0);
    for seed in seeds(15) {
        let mut world = World::new(seed, dies, Pg::default(), app());
        seen += world.run();
        cancelled += world.service.cancelled;
    }
    println!("{seen:?}, {cancelled} cancelled");
    (seen, cancelled)
}

#[test]
fn a_server_that_dies_between_any_two_bytes() {
    let (seen, _) = run(true);
    // The worlds are not empty.
    let is_much = seen.good > 500 && seen.lost > 50 && seen.late > 100;
    assert!(is_much, "{seen:?}");
}

#[test]
fn a_server_that_is_only_late() {
    let (seen, cancelled) = run(false);
    assert_eq!(seen.lost, 0);
    let is_much = seen.good > 500 && seen.late > 100 && cancelled > 10;
    assert!(is_much, "{seen:?}, {cancelled} cancelled");
}
