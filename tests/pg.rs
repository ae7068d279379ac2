//! The session with PostgreSQL against a PostgreSQL: what a real server says to what ours says. The socket here is a
//! plain blocking one.

use bytes::Bytes;
use loopwright::Instant;
use loopwright::proto::address::Secret;
use loopwright::proto::pg::{
    Error, Event, Limits, Notification, Param, Params, Query, QueryError, Refusal, Row, Session,
    Settings, Status, cancel_request,
};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Longer than anything here takes: past it a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A PostgreSQL on a Unix socket of its own, stopped when the last test that uses it is done.
struct Postgres {
    child: Child,
    folder: tempfile::TempDir,
}

const ACCESS: &str = "\
local all clear password
local all scram scram-sha-256
local all hashed md5
local all unwanted reject
local all all trust
";

const ROLES: &str = "
    create role clear login password 'p w';
    create role scram login password 'pä\u{a0}ss';
    create role unwanted login;
    set password_encryption = 'md5';
    create role hashed login password 'secret';
    reset password_encryption;
";

impl Postgres {
    fn shared() -> Arc<Postgres> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let postgres = Arc::new(Postgres::start());
            *shared = Arc::downgrade(&postgres);
            postgres
        })
    }

    fn start() -> Postgres {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let owner = unprivileged();
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).expect("a folder");
        }
        let command = |name: &str| {
            let mut command = Command::new(programs().join(name));
            command
                .arg("-D")
                .arg(&data)
                .stdin(Stdio::null())
                .current_dir(folder.path());
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command
        };
        let mut init = command("initdb");
        init.args([
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        let init = init.output().expect("initdb");
        assert!(init.status.success(), "{init:?}");
        std::fs::write(data.join("pg_hba.conf"), ACCESS).expect("a file");
        let mut server = command("postgres");
        server.args([
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=20",
        ]);
        server.arg("-c").arg(format!(
            "unix_socket_directories={}",
            folder.path().display()
        ));
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = server
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        let child = child.expect("postgres");
        let postgres = Postgres { child, folder };
        let start = std::time::Instant::now();
        while !postgres.is_up() {
            let log = std::fs::read_to_string(postgres.folder.path().join("log"));
            assert!(start.elapsed() < PATIENCE, "it does not start: {log:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        postgres.connect(settings("postgres", None)).run(ROLES);
        postgres
    }

    fn socket(&self) -> UnixStream {
        let socket = UnixStream::connect(self.folder.path().join(".s.PGSQL.5432"));
        let socket = socket.expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    /// It listens before it takes anybody.
    fn is_up(&self) -> bool {
        let path = self.folder.path().join(".s.PGSQL.5432");
        UnixStream::connect(path).is_ok() && {
            let mut client = self.client(settings("postgres", None));
            client.ready().is_ok()
        }
    }

    fn client(&self, settings: Settings) -> Client {
        Client::new(self.socket(), &settings, Limits::default())
    }

    fn connect(&self, settings: Settings) -> Client {
        let mut client = self.client(settings);
        client.ready().expect("a session");
        client
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        // At once, but with its children.
        let _ = kill_process(pid, Signal::INT);
        let _ = self.child.wait();
    }
}

/// The server does not run as root.
fn unprivileged() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("users");
    let user = users.lines().find(|line| line.starts_with("postgres:"));
    let user = user.expect("no user postgres: apt-get install postgresql");
    let mut ids = user
        .split(':')
        .skip(2)
        .map(|id| id.parse().expect("a number"));
    Some((ids.next().expect("a user"), ids.next().expect("a group")))
}

/// Debian keeps them out of the PATH.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.extend(std::env::split_paths(&path));
    let is_there =
        |place: &PathBuf| place.join("initdb").exists() && place.join("postgres").exists();
    let found = places.into_iter().rev().find(is_there);
    found.expect("postgres and initdb are missing: apt-get install postgresql")
}

fn settings(user: &str, password: Option<&str>) -> Settings {
    let mut settings = Settings::new(user);
    settings.password = password.map(|text| Secret::new(text.into()));
    settings.database = Some("postgres".into());
    settings
}

struct Client {
    socket: UnixStream,
    session: Session,
    start: std::time::Instant,
    received: Vec<u8>,
    /// Bytes read at once.
    piece: usize,
}

impl Client {
    fn new(socket: UnixStream, settings: &Settings, limits: Limits) -> Client {
        Client {
            socket,
            session: Session::new(settings, limits, Instant::default()).expect("a session"),
            start: std::time::Instant::now(),
            received: Vec::new(),
            piece: 4096,
        }
    }

    fn now(&self) -> Instant {
        Instant::default() + self.start.elapsed()
    }

    fn flush(&mut self) {
        let n = self.session.output().len();
        self.socket.write_all(self.session.output()).expect("sent");
        self.session.sent(n);
    }

    /// Writes, and reads up to the next event.
    fn any(&mut self) -> Result<Event, Error> {
        loop {
            let now = self.now();
            let mut input = &self.received[..];
            let event = self.session.poll_event(&mut input, now)?;
            self.received = input.to_vec();
            if let Some(event) = event {
                return Ok(event);
            }
            self.flush();
            let mut bytes = vec![0; self.piece];
            let n = self.socket.read(&mut bytes).expect("bytes");
            assert!(n > 0, "the server has hung up");
            self.received.extend_from_slice(&bytes[..n]);
        }
    }

    /// But for parameters and notices.
    fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.any()? {
                Event::ParameterStatus(..) | Event::Notice(_) => {}
                event => return Ok(event),
            }
        }
    }

    fn ready(&mut self) -> Result<(), Error> {
        let event = self.next()?;
        assert_eq!(event, Event::Ready);
        Ok(())
    }

    fn ask(&mut self, query: Query) -> u64 {
        let now = self.now();
        self.session.query(query, now).expect("asked")
    }

    /// Up to the end of one question, of which alone events come.
    fn answer(&mut self, ticket: u64) -> Result<(Vec<Row>, String), QueryError> {
        let mut rows = Vec::new();
        loop {
            match self.next().expect("an event") {
                Event::Columns(t, _) | Event::Completed(t, _) => assert_eq!(t, ticket),
                Event::Row(t, row) => {
                    assert_eq!(t, ticket);
                    rows.push(row);
                }
                Event::Done(t, tag) => {
                    assert_eq!(t, ticket);
                    return Ok((rows, tag.as_str().into()));
                }
                Event::Failed(t, error) => {
                    assert_eq!(t, ticket);
                    return Err(error);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn query(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<(Vec<Row>, String), QueryError> {
        let ticket = self.ask(Query::new(sql).with(params));
        self.answer(ticket)
    }

    fn run(&mut self, sql: &str) -> String {
        let now = self.now();
        let ticket = self.session.simple(sql, now).expect("asked");
        self.answer(ticket).expect("done").1
    }

    fn json(&mut self, sql: &str, params: impl Into<Params>) -> String {
        let (rows, _) = self
            .query(sql, params)
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
        let mut out = Vec::new();
        for row in rows {
            row.json(&mut out).expect("JSON");
        }
        String::from_utf8(out).expect("UTF-8")
    }
}

fn code(error: &QueryError) -> &str {
    error.server().map_or("", |error| &error.code)
}

#[test]
fn logins() {
    let postgres = Postgres::shared();
    for (user, password, cleartext, want) in [
        ("postgres", None, false, Ok(())),
        ("scram", Some("pä\u{a0}ss"), false, Ok(())),
        ("scram", Some("wrong"), false, Err("28P01")),
        ("scram", None, false, Err("there is none")),
        ("hashed", Some("secret"), false, Ok(())),
        ("hashed", Some("secreT"), false, Err("28P01")),
        ("clear", Some("p w"), true, Ok(())),
        ("clear", Some("pw"), true, Err("28P01")),
        (
            "clear",
            Some("p w"),
            false,
            Err("clear text, which is not allowed"),
        ),
        ("unwanted", None, false, Err("28000")),
        ("nobody", None, false, Err("28000")),
    ] {
        for piece in [1, 4096] {
            let settings = Settings {
                cleartext,
                ..settings(user, password)
            };
            let mut client = postgres.client(settings);
            client.piece = piece;
            match (client.ready(), want) {
                (Ok(()), Ok(())) => assert!(client.session.cancel_key().is_some()),
                (Err(error), Err(want)) => {
                    assert!(error.to_string().contains(want), "{user}: {error}");
                    let all = format!("{error} {error:?} {:?}", client.session);
                    assert!(
                        password.is_none_or(|password| !all.contains(password)),
                        "{all}"
                    );
                }
                (got, want) => panic!("{user}: {got:?} instead of {want:?}"),
            }
        }
    }
    let mut nowhere = settings("postgres", None);
    nowhere.database = Some("nowhere".into());
    let error = postgres.client(nowhere).ready().expect_err("no database");
    assert_eq!(
        error.to_string(),
        "the server refuses the login: database \"nowhere\" does not exist (3D000)"
    );
}

#[test]
fn pipelines() {
    let postgres = Postgres::shared();
    for piece in [1, 4096] {
        let mut client = postgres.connect(settings("postgres", None));
        client.piece = piece;
        let mut want = Vec::new();
        // Twice, so that the second time all is prepared, and written at once.
        for round in 0..2 {
            let mut tickets = Vec::new();
            for n in 0..20 {
                let query = match n % 4 {
                    0 => Query::new("select $1::int4 + 1 as n").with([n]),
                    1 => Query::new("select 1 / ($1::int4 - $1::int4)").with([n]),
                    2 => Query::new("select $1::text as t, generate_series(1, 3)")
                        .with([format!("t{n}")]),
                    _ => Query::new("select $1::int2").with([n * 10_000]),
                };
                tickets.push((n, client.ask(query)));
            }
            assert_eq!(client.session.owed(), 20);
            let unanswered: Vec<u64> = client.session.unanswered().collect();
            assert_eq!(
                unanswered,
                tickets
                    .iter()
                    .map(|(_, ticket)| *ticket)
                    .collect::<Vec<_>>()
            );
            let mut got: Vec<(u64, String)> = Vec::new();
            while client.session.owed() > 0 || got.len() < 20 {
                let mut line = |ticket, text: String| got.push((ticket, text));
                match client.next().expect("an event") {
                    Event::Columns(ticket, columns) => line(ticket, columns[0].name.clone()),
                    Event::Row(ticket, row) => {
                        let mut json = Vec::new();
                        row.json(&mut json).expect("JSON");
                        line(ticket, String::from_utf8(json).expect("UTF-8"));
                    }
                    Event::Done(ticket, tag) => line(ticket, format!("{tag:?}")),
                    Event::Failed(ticket, error) => line(ticket, format!("{error}")),
                    other => panic!("{other:?}"),
                }
            }
            for (n, ticket) in tickets {
                let of: Vec<&str> = got
                    .iter()
                    .filter(|(t, _)| *t == ticket)
                    .map(|(_, text)| &text[..])
                    .collect();
                let range = format!("parameter $1 (int2): {} is out of its range", n * 10_000);
                let number = format!("{{\"n\":{}}}", n + 1);
                let series =
                    [1, 2, 3].map(|at| format!("{{\"t\":\"t{n}\",\"generate_series\":{at}}}"));
                let want: Vec<&str> = match n % 4 {
                    0 => vec!["n", &number, "\"SELECT 1\""],
                    1 => vec!["?column?", "division by zero (22012)"],
                    2 => vec!["t", &series[0], &series[1], &series[2], "\"SELECT 3\""],
                    _ if n * 10_000 > 32767 => vec![&range],
                    _ => vec!["int2", "{\"int2\":30000}", "\"SELECT 1\""],
                };
                assert_eq!(of, want, "{n} in round {round}");
            }
            want.push(client.session.owed());
        }
        assert_eq!(want, [0, 0]);
        assert!(client.session.is_clean());
    }
}

#[test]
fn transactions() {
    let postgres = Postgres::shared();
    let mut client = postgres.connect(settings("postgres", None));
    client.run("create temp table t (id int4 primary key deferrable initially deferred)");
    assert!(!client.session.is_clean());
    client.run("discard all");
    assert!(client.session.is_clean());
    client.run("create temp table t (id int4 primary key deferrable initially deferred)");
    assert_eq!(
        client.query("begin", Params::new()).expect("begun").1,
        "BEGIN"
    );
    assert_eq!(client.session.status(), Status::InTransaction);
    let inserted = client
        .query("insert into t values ($1), ($2)", [1, 2])
        .expect("inserted");
    assert_eq!(inserted.1, "INSERT 0 2");
    let error = client
        .query("select nothing", Params::new())
        .expect_err("no column");
    assert_eq!(
        (code(&error), client.session.status()),
        ("42703", Status::Failed)
    );
    assert_eq!(error.server().and_then(|error| error.position), Some(8));
    let error = client
        .query("select 1", Params::new())
        .expect_err("not now");
    assert_eq!(code(&error), "25P02");
    client
        .query("rollback", Params::new())
        .expect("rolled back");
    assert_eq!(client.session.status(), Status::Idle);
    // What is only found at the end of the implicit transaction is not said to be done.
    let error = client
        .query("insert into t values ($1), ($2)", [1, 1])
        .expect_err("twice");
    assert_eq!(code(&error), "23505");
    let error = error.server().expect("an error");
    assert_eq!(
        (error.table.as_deref(), error.constraint.as_deref()),
        (Some("t"), Some("t_pkey"))
    );
}

#[test]
fn several_at_once() {
    let postgres = Postgres::shared();
    let mut client = postgres.connect(settings("postgres", None));
    let now = client.now();
    let ticket = client
        .session
        .simple("select 1 as a; ; select true as b, null as c; select", now);
    let ticket = ticket.expect("asked");
    let behind = client.ask(Query::new("select 'behind'"));
    let mut got = Vec::new();
    loop {
        match client.next().expect("an event") {
            Event::Row(t, row) => {
                assert_eq!(t, ticket);
                let mut json = Vec::new();
                row.json(&mut json).expect("JSON");
                got.push(String::from_utf8(json).expect("UTF-8"));
            }
            Event::Completed(_, tag) => got.push(tag.as_str().into()),
            Event::Done(t, _) => {
                assert_eq!(t, ticket);
                break;
            }
            Event::Columns(..) => {}
            other => panic!("{other:?}"),
        }
    }
    let want = [
        "{\"a\":1}",
        "SELECT 1",
        "{\"b\":true,\"c\":null}",
        "SELECT 1",
        "{}",
        "SELECT 1",
    ];
    assert_eq!(got, want);
    assert_eq!(client.answer(behind).expect("behind").1, "SELECT 1");
}
