//! The session with PostgreSQL against a PostgreSQL: what a real server says to what ours says. The socket here is a
//! plain blocking one.

#[path = "pg_service/installed.rs"]
mod installed;

use bytes::Bytes;
use installed::{programs, unprivileged};
use loopwright::Instant;
use loopwright::proto::address::Secret;
use loopwright::proto::pg::{
    Error, Event, Limits, Notification, Param, Params, Query, QueryError, Refusal, Row, Session,
    Settings, Status, cancel_request,
};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
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
        let ticket = self.ask(Query::new(sql.to_string()).with(params));
        self.answer(ticket)
    }

    fn run(&mut self, sql: &str) -> String {
        let now = self.now();
        let ticket = self.session.simple(sql.to_string(), now).expect("asked");
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
            let mut unanswered: Vec<u64> = client.session.unanswered().collect();
            // What is known not to fit is not asked at all, and the first to be told.
            unanswered.sort_unstable();
            let all: Vec<u64> = tickets.iter().map(|(_, ticket)| *ticket).collect();
            assert_eq!(unanswered, all);
            let mut got: Vec<(u64, String)> = Vec::new();
            let mut ended = 0;
            while ended < tickets.len() {
                let mut line = |ticket, text: String| got.push((ticket, text));
                match client.next().expect("an event") {
                    Event::Columns(ticket, columns) => line(ticket, columns[0].name.clone()),
                    Event::Row(ticket, row) => {
                        let mut json = Vec::new();
                        row.json(&mut json).expect("JSON");
                        line(ticket, String::from_utf8(json).expect("UTF-8"));
                    }
                    Event::Done(ticket, tag) => {
                        ended += 1;
                        line(ticket, format!("{tag:?}"));
                    }
                    Event::Failed(ticket, error) => {
                        ended += 1;
                        line(ticket, format!("{error}"));
                    }
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
                    1 => vec!["division by zero (22012)"],
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

/// Values of all types, in both protocols.
#[test]
fn values() {
    let postgres = Postgres::shared();
    let mut client = postgres.connect(settings("postgres", None));
    client.run(
        "set timezone to 'Asia/Kathmandu'; create type pg_temp.mood as enum ('sad', 'ok');
         create domain pg_temp.even as int4 check (value % 2 = 0)",
    );
    // An expression, as JSON, and as JSON of the simple protocol if that is another.
    for (sql, json, simple) in [
        ("null::int4", "null", None),
        ("true", "true", None),
        ("'-32768'::int2", "-32768", None),
        ("2147483647::int4", "2147483647", None),
        ("'-9223372036854775808'::int8", "-9223372036854775808", None),
        ("4294967295::oid", "4294967295", None),
        ("1.5::float4", "1.5", None),
        ("0.1::float8", "0.1", None),
        ("1e300::float8", "1e+300", None),
        ("'nan'::float8", "\"NaN\"", None),
        ("'-infinity'::float4", "\"-Infinity\"", None),
        ("'infinity'::float8", "\"Infinity\"", None),
        ("0::numeric", "0", None),
        ("-0.00::numeric", "0.00", None),
        ("1.10::numeric", "1.10", None),
        (
            "-12345678901234567890.123456789::numeric",
            "-12345678901234567890.123456789",
            None,
        ),
        ("1e20::numeric", "100000000000000000000", None),
        ("10000::numeric", "10000", None),
        ("0.00001234::numeric", "0.00001234", None),
        ("1e-9::numeric(20,10)", "0.0000000010", None),
        ("'NaN'::numeric", "\"NaN\"", None),
        ("'-Infinity'::numeric", "\"-Infinity\"", None),
        ("'a\"b\\ü\u{1}'", "\"a\\\"b\\\\ü\\u0001\"", None),
        ("'ab'::varchar", "\"ab\"", None),
        ("'ab'::char(4)", "\"ab  \"", None),
        ("'ab'::name", "\"ab\"", None),
        ("'x'::\"char\"", "\"x\"", None),
        ("''::\"char\"", "\"\"", None),
        ("'\\x00ff'::bytea", "\"\\\\x00ff\"", None),
        (
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid",
            "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"",
            None,
        ),
        ("'{\"a\": [1,  2]}'::json", "{\"a\": [1,  2]}", None),
        ("'{\"a\": [1,  2]}'::jsonb", "{\"a\": [1, 2]}", None),
        ("'2024-02-29'::date", "\"2024-02-29\"", None),
        ("'0044-03-15 BC'::date", "\"0044-03-15 BC\"", None),
        ("'4713-11-24 BC'::date", "\"4713-11-24 BC\"", None),
        ("'5874897-12-31'::date", "\"5874897-12-31\"", None),
        ("'-infinity'::date", "\"-infinity\"", None),
        (
            "'1999-12-31 23:59:59.000001'::timestamp",
            "\"1999-12-31T23:59:59.000001\"",
            Some("\"1999-12-31 23:59:59.000001\""),
        ),
        (
            "'2024-01-01T00:00:00Z'::timestamptz",
            "\"2024-01-01T00:00:00Z\"",
            Some("\"2024-01-01 05:45:00+05:45\""),
        ),
        (
            "'0001-01-01 00:00:00 BC'::timestamp",
            "\"0001-01-01T00:00:00 BC\"",
            Some("\"0001-01-01 00:00:00 BC\""),
        ),
        ("'infinity'::timestamptz", "\"infinity\"", None),
        ("'24:00'::time", "\"24:00:00\"", None),
        ("'12:34:56.7'::time", "\"12:34:56.7\"", None),
        ("'12:34:56-03:30'::timetz", "\"12:34:56-03:30\"", None),
        (
            "'12:34:56+00'::timetz",
            "\"12:34:56+00:00\"",
            Some("\"12:34:56+00\""),
        ),
        ("'0'::interval", "\"PT0S\"", None),
        (
            "'1 year 2 mons -3 days 04:05:06.7'::interval",
            "\"P1Y2M-3DT4H5M6.7S\"",
            None,
        ),
        ("'-0.5 seconds'::interval", "\"PT-0.5S\"", None),
        ("'-14 months'::interval", "\"P-1Y-2M\"", None),
        ("'192.168.1.5'::inet", "\"192.168.1.5\"", None),
        ("'192.168.1.5/24'::inet", "\"192.168.1.5/24\"", None),
        ("'fe80::/16'::cidr", "\"fe80::/16\"", None),
        (
            "'08:00:2b:01:02:03'::macaddr",
            "\"08:00:2b:01:02:03\"",
            None,
        ),
        ("'ok'::pg_temp.mood", "\"ok\"", None),
        ("4::pg_temp.even", "4", None),
        ("'12.5'::money", "\"$12.50\"", None),
        ("int4range(1, 5)", "\"[1,5)\"", None),
        ("row(1, 'x')", "\"(1,x)\"", None),
        ("'{}'::int4[]", "[]", Some("\"{}\"")),
        (
            "'{1,null,-3}'::int4[]",
            "[1,null,-3]",
            Some("\"{1,NULL,-3}\""),
        ),
        (
            "'[0:1][1:3]={{1,2,3},{4,5,6}}'::int8[]",
            "[[1,2,3],[4,5,6]]",
            Some("\"[0:1][1:3]={{1,2,3},{4,5,6}}\""),
        ),
        (
            "array['a', 'b,\"']",
            "[\"a\",\"b,\\\"\"]",
            Some("\"{a,\\\"b,\\\\\\\"\\\"}\""),
        ),
        (
            "array[1.50, 'NaN'::numeric]",
            "[1.50,\"NaN\"]",
            Some("\"{1.50,NaN}\""),
        ),
        ("array['ok'::pg_temp.mood]", "\"{ok}\"", None),
        // As many along their one dimension as there are: none, too.
        ("''::oidvector", "[]", Some("\"\"")),
        ("'1 2'::int2vector", "[1,2]", Some("\"1 2\"")),
        (
            "array['1 2'::int2vector, '3 4']",
            "[[1,2],[3,4]]",
            Some("\"{\\\"1 2\\\",\\\"3 4\\\"}\""),
        ),
        ("array[row(1, 'x')]", "\"{\\\"(1,x)\\\"}\"", None),
        ("'pg_class'::regclass", "\"pg_class\"", None),
        ("'17'::xid", "\"17\"", None),
    ] {
        let sql = format!("select {sql} as v");
        let want = format!("{{\"v\":{json}}}");
        assert_eq!(client.json(&sql, Params::new()), want, "{sql}");
        client.run("set intervalstyle = iso_8601");
        let now = client.now();
        let ticket = client.session.simple(sql.clone(), now).expect("asked");
        let (rows, _) = client
            .answer(ticket)
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
        let mut out = Vec::new();
        rows[0].json(&mut out).expect("JSON");
        let want = format!("{{\"v\":{}}}", simple.unwrap_or(json));
        assert_eq!(String::from_utf8_lossy(&out), want, "simple {sql}");
        serde_json::from_slice::<serde_json::Value>(&out).expect("JSON");
        client.run("reset intervalstyle");
    }
    // As Rust's types.
    let (rows, _) = client
        .query("select 7::int8 as a, null::text as b, array[1.5::float8] as c, 'x'::text, '{\"k\":1}'::jsonb", Params::new())
        .expect("a row");
    let row = &rows[0];
    assert_eq!(row.get::<i64>("a"), Ok(7));
    assert_eq!(row.get::<Option<i64>>(0), Ok(Some(7)));
    assert_eq!(row.get::<Option<&str>>("b"), Ok(None));
    assert_eq!(row.get::<Vec<f64>>("c"), Ok(vec![1.5]));
    assert_eq!(row.get::<&str>(3), Ok("x"));
    assert_eq!(
        row.get::<serde_json::Value>("jsonb"),
        Ok(serde_json::json!({"k": 1}))
    );
    for (error, want) in [
        (row.get::<i32>("a").err(), "column a (int8): cannot convert"),
        (
            row.get::<&str>("b").err(),
            "column b (text): a Postgres value was `NULL`",
        ),
        (row.get::<i32>("z").err(), "no column z"),
        (row.get::<i32>(5).err(), "no column 5"),
    ] {
        let error = error.expect("an error").to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[derive(serde::Deserialize, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
enum Mood {
    Sad,
    Ok,
}

#[derive(serde::Deserialize, PartialEq, Debug)]
struct Person<'a> {
    id: u32,
    name: &'a str,
    balance: f64,
    exact: String,
    nick: Option<String>,
    tags: Vec<Option<String>>,
    grid: [[i16; 2]; 2],
    mood: Mood,
    settings: std::collections::BTreeMap<String, bool>,
    raw: Vec<u8>,
    born: String,
}

#[test]
fn structs() {
    let postgres = Postgres::shared();
    let mut client = postgres.connect(settings("postgres", None));
    client.run("create type pg_temp.mood as enum ('sad', 'ok')");
    let sql = "select 7 as id, 'Ada' as name, 12.50::numeric as balance, 12.50::numeric as exact, null::text as nick,
        array['a', null] as tags, '{{1,2},{3,4}}'::int2[] as grid, 'ok'::pg_temp.mood as mood,
        '{\"dark\": true}'::jsonb as settings, '\\x0102'::bytea as raw, '1815-12-10'::date as born, 0 as unused";
    let (rows, _) = client.query(sql, Params::new()).expect("a row");
    let person: Person<'_> = rows[0].to().expect("a person");
    let want = Person {
        id: 7,
        name: "Ada",
        balance: 12.5,
        exact: "12.50".into(),
        nick: None,
        tags: vec![Some("a".into()), None],
        grid: [[1, 2], [3, 4]],
        mood: Mood::Ok,
        settings: [("dark".to_string(), true)].into(),
        raw: vec![1, 2],
        born: "1815-12-10".into(),
    };
    assert_eq!(person, want);
    assert_ne!(person.mood, Mood::Sad);
    let (rows, _) = client
        .query("select 18446744073709551615::numeric", Params::new())
        .expect("a row");
    assert_eq!(rows[0].to::<(u64,)>(), Ok((u64::MAX,)));
    let (rows, _) = client
        .query("select 1, 'a', true", Params::new())
        .expect("a row");
    assert_eq!(
        rows[0].to::<(i64, String, bool)>(),
        Ok((1, "a".into(), true))
    );
    let error = rows[0]
        .to::<(String, String, bool)>()
        .expect_err("no string");
    assert!(
        error
            .to_string()
            .starts_with("column ?column? (int4): invalid type: integer `1`"),
        "{error}"
    );
}

/// What goes there comes back: parameters of every kind against the server's own idea of them.
#[test]
fn parameters() {
    let postgres = Postgres::shared();
    let mut client = postgres.connect(settings("postgres", None));
    client.run("create type pg_temp.mood as enum ('sad', 'ok')");
    let text = |text: &str| Param::Text(text.into());
    let given = |text: &str| Param::Given(text.into());
    for (ty, param, want) in [
        ("int4", Param::Null, "null"),
        ("bool", Param::Bool(true), "true"),
        ("int2", Param::Int(-7), "-7"),
        ("int8", Param::Int(i64::MIN), "-9223372036854775808"),
        ("oid", Param::Int(u32::MAX.into()), "4294967295"),
        ("numeric", Param::Int(12), "12"),
        ("float8", Param::Int(12), "12.0"),
        ("float8", Param::Float(0.1), "0.1"),
        ("float4", Param::Float(0.5), "0.5"),
        ("float8", Param::Float(f64::NAN), "\"NaN\""),
        ("numeric", Param::Float(1.25e-3), "0.00125"),
        ("text", text("ü'--"), "\"ü'--\""),
        ("date", text("2024-02-29"), "\"2024-02-29\""),
        ("int4[]", text("{1,2}"), "[1,2]"),
        ("pg_temp.mood", text("ok"), "\"ok\""),
        (
            "bytea",
            Param::Bytes(Bytes::from_static(&[0, 255])),
            "\"\\\\x00ff\"",
        ),
        ("jsonb", serde_json::json!({"a": 1}).into(), "{\"a\": 1}"),
        ("json", Param::Json("[ ]".into()), "[ ]"),
        (
            "int4[]",
            Param::Typed(Box::new(vec![Some(1), None])),
            "[1,null]",
        ),
        (
            "inet",
            Param::Typed(Box::new(std::net::IpAddr::from([10, 0, 0, 1]))),
            "\"10.0.0.1\"",
        ),
        ("int4", given("7"), "7"),
        ("bool", given("ON"), "true"),
        ("numeric", given("-1.50e3"), "-1500"),
        ("float8", given("infinity"), "\"Infinity\""),
        (
            "uuid",
            given("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"",
        ),
        (
            "timestamptz",
            given("2024-01-01T12:00+02:00"),
            "\"2024-01-01T10:00:00Z\"",
        ),
        ("timestamp", given("2024-01-01"), "\"2024-01-01T00:00:00\""),
        ("time", given("23:59:59.5"), "\"23:59:59.5\""),
        ("jsonb", given("{\"a\":[]}"), "{\"a\": []}"),
        ("text[]", given("{a,b}"), "[\"a\",\"b\"]"),
        ("pg_temp.mood", given("sad"), "\"sad\""),
        ("varchar", given("x"), "\"x\""),
    ] {
        let sql = format!("select $1::{ty} as v");
        let shown = format!("{param:?}");
        let params = Params::from([param]);
        assert_eq!(
            client.json(&sql, params),
            format!("{{\"v\":{want}}}"),
            "{ty} {shown}"
        );
    }
    let long = "x".repeat(100);
    for (ty, param, why) in [
        ("int2", Param::Int(40_000), "40000 is out of its range"),
        ("oid", Param::Int(-1), "-1 is out of its range"),
        ("text", Param::Int(1), "an integer does not fit"),
        ("int4", text("1"), "a text does not fit"),
        ("int4", Param::Bool(true), "a boolean does not fit"),
        ("float4", Param::Float(1e300), "1e300 is out of its range"),
        (
            "text",
            Param::Bytes(Bytes::new()),
            "a string of bytes does not fit",
        ),
        ("text", text("a\0b"), "a text with a NUL in it"),
        ("int4", given("ten"), "\"ten\" is no integer of 32 bits"),
        ("int4", given(""), "\"\" is no integer of 32 bits"),
        ("bool", given("maybe"), "\"maybe\" is no boolean"),
        ("uuid", given("a0ee"), "\"a0ee\" is no UUID"),
        (
            "date",
            given("2023-02-29"),
            "\"2023-02-29\" is no date (YYYY-MM-DD)",
        ),
        (
            "time",
            given("25:00"),
            "\"25:00\" is no time of day (hh:mm:ss)",
        ),
        ("jsonb", given("{"), "\"{\" is no JSON document"),
        ("numeric", given("1,5"), "\"1,5\" is no number"),
        ("int4[]", given("1"), "\"1\" is no array ({…})"),
        (
            "numeric",
            given(&long),
            &format!("\"{}…\" is no number", "x".repeat(40)),
        ),
    ] {
        let name = if ty == "int4[]" { "_int4" } else { ty };
        let params = Params::new().with(1).with(param);
        let error = client
            .query(&format!("select $1::int4, $2::{ty}"), params)
            .expect_err(ty);
        assert_eq!(error.to_string(), format!("parameter $2 ({name}): {why}"));
    }
    let error = client
        .query("select $1::int4", Params::new())
        .expect_err("too few");
    assert_eq!(error, QueryError::ParamCount { want: 1, given: 0 });
    // Those that only the server can judge.
    let error = client
        .query("select $1::pg_temp.mood", [given("glad")])
        .expect_err("no mood");
    assert_eq!(code(&error), "22P02");
}

#[test]
fn statements_that_have_become_stale() {
    let postgres = Postgres::shared();
    let limits = Limits {
        statements: 2,
        ..Limits::default()
    };
    let mut client = Client::new(postgres.socket(), &settings("postgres", None), limits);
    client.ready().expect("a session");
    client.run("create temp table s (a int4); insert into s values (1)");
    let all = "select * from s";
    assert_eq!(client.json(all, Params::new()), "{\"a\":1}");
    client.run("alter table s add b text default 'b'");
    assert_eq!(client.json(all, Params::new()), "{\"a\":1,\"b\":\"b\"}");
    client.run("deallocate all");
    assert_eq!(client.json(all, Params::new()), "{\"a\":1,\"b\":\"b\"}");
    client.run("discard plans; alter table s drop b");
    // Many at once: each is asked again, once.
    let tickets: Vec<u64> = (0..5).map(|_| client.ask(Query::new(all))).collect();
    let mut done = Vec::new();
    while done.len() < tickets.len() {
        match client.next().expect("an event") {
            Event::Done(ticket, _) => done.push(ticket),
            Event::Row(_, row) => assert_eq!(row.len(), 1),
            Event::Columns(..) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(done, tickets);
    // In a transaction, or where the order matters, the error is the asker's to know.
    client.run("alter table s add c int4");
    client.query("begin", Params::new()).expect("begun");
    let error = client.query(all, Params::new()).expect_err("stale");
    assert_eq!(code(&error), "0A000");
    client
        .query("rollback", Params::new())
        .expect("rolled back");
    assert_eq!(client.json(all, Params::new()), "{\"a\":1,\"c\":null}");
    client.run("alter table s drop c");
    let stale = client.ask(Query::new(all).in_order());
    let begin = client.ask(Query::new("begin").in_order());
    assert_eq!(code(&client.answer(stale).expect_err("stale")), "0A000");
    assert_eq!(client.answer(begin).expect("begun").1, "BEGIN");
    client
        .query("rollback", Params::new())
        .expect("rolled back");
    // No more than two are kept.
    for n in 0..5 {
        assert_eq!(
            client.json(&format!("select {n} as n"), Params::new()),
            format!("{{\"n\":{n}}}")
        );
        let count = "select count(*) as n from pg_prepared_statements";
        let json = client.json(count, Params::new());
        assert!(["{\"n\":1}", "{\"n\":2}"].contains(&&json[..]), "{json}");
    }
}

#[test]
fn copies() {
    let postgres = Postgres::shared();
    let mut client = postgres.connect(settings("postgres", None));
    client.run("create temp table c (id int4, t text)");
    let now = client.now();
    let ticket = client
        .session
        .copy_in("copy c from stdin", now)
        .expect("asked");
    // What is asked behind it waits.
    let behind = client.ask(Query::new("select count(*)::int4 as n from c"));
    assert_eq!(client.session.copy_data(ticket, b"x"), Err(Refusal::NoCopy));
    assert_eq!(client.next(), Ok(Event::CopyIn(ticket)));
    assert_eq!(client.session.next_deadline(), None);
    for piece in [&b"1\ton"[..], b"e\n", b"2\ttwo\n"] {
        client.session.copy_data(ticket, piece).expect("taken");
    }
    client.session.copy_done(ticket, now).expect("taken");
    assert_eq!(client.answer(ticket).expect("copied").1, "COPY 2");
    let (rows, _) = client.answer(behind).expect("counted");
    assert_eq!(rows[0].get::<i32>("n"), Ok(2));

    let ticket = client
        .session
        .copy_out("/* all */ COPY c TO STDOUT", now)
        .expect("asked");
    let mut out = Vec::new();
    loop {
        match client.next().expect("an event") {
            Event::CopyOut(t, data) => {
                assert_eq!(t, ticket);
                out.extend_from_slice(&data);
            }
            Event::Done(_, tag) => {
                assert_eq!((tag.as_str(), tag.rows()), ("COPY 2", 2));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(out, b"1\tone\n2\ttwo\n");

    // It fails: by us; by bad data, which the server may say before or after we have ended; at once.
    for how in 0..5 {
        let sql = if how == 4 {
            "copy nowhere from stdin"
        } else {
            "copy c from stdin"
        };
        let ticket = client.session.copy_in(sql, now).expect("asked");
        let behind = client.ask(Query::new("select 'behind'"));
        let want = match how {
            4 => "42P01",
            _ => {
                assert_eq!(client.next(), Ok(Event::CopyIn(ticket)));
                match how {
                    0 => {
                        client
                            .session
                            .copy_fail(ticket, "no more", now)
                            .expect("taken");
                        "57014"
                    }
                    1 => {
                        client.session.copy_data(ticket, b"bad\n").expect("taken");
                        client.session.copy_done(ticket, now).expect("taken");
                        "22P02"
                    }
                    2 => {
                        client.session.copy_data(ticket, b"bad\n").expect("taken");
                        "22P02"
                    }
                    _ => {
                        // Its own error comes in the middle of what we send.
                        client.session.copy_data(ticket, b"bad\n").expect("taken");
                        client.flush();
                        std::thread::sleep(Duration::from_millis(50));
                        for _ in 0..1000 {
                            client.session.copy_data(ticket, b"1\tx\n").expect("taken");
                        }
                        client.flush();
                        client.session.copy_done(ticket, now).expect("taken");
                        "22P02"
                    }
                }
            }
        };
        let error = client.answer(ticket).expect_err("no copy");
        assert_eq!(code(&error), want, "{how}: {error}");
        assert_eq!(client.session.copy_data(ticket, b"x"), Err(Refusal::NoCopy));
        assert_eq!(client.answer(behind).expect("behind").1, "SELECT 1");
    }
    // In the wrong way.
    let ticket = client
        .session
        .copy_out("copy c from stdin", now)
        .expect("asked");
    assert_eq!(code(&client.answer(ticket).expect_err("in")), "57014");
    let ticket = client
        .session
        .simple("select 1; copy c from stdin", now)
        .expect("asked");
    let behind = client.ask(Query::new("select 'behind'"));
    assert_eq!(code(&client.answer(ticket).expect_err("in")), "57014");
    assert_eq!(client.answer(behind).expect("behind").1, "SELECT 1");
    let now = client.now();
    assert_eq!(
        client
            .session
            .query(Query::new(" -- x\n Copy c to stdout"), now),
        Err(Refusal::Copy)
    );
    assert_eq!(client.session.copy_in("select 1", now), Err(Refusal::Copy));
}

#[test]
fn notifications_and_notices() {
    let postgres = Postgres::shared();
    let mut listener = postgres.connect(settings("postgres", None));
    let mut speaker = postgres.connect(settings("postgres", None));
    listener.run("listen news");
    assert!(!listener.session.is_clean());
    speaker
        .query(
            "select pg_notify('news', $1)",
            [format!("ü{}", "x".repeat(7000))],
        )
        .expect("said");
    let process = speaker.session.cancel_key().expect("a key").0;
    let payload = format!("ü{}", "x".repeat(7000));
    let channel = "news".to_string();
    let want = Notification {
        channel,
        payload,
        process,
    };
    assert_eq!(listener.next(), Ok(Event::Notification(want)));
    let now = speaker.now();
    let sql = "do $$ begin raise warning 'look out' using hint = 'there'; end $$";
    speaker.session.query(Query::new(sql), now).expect("asked");
    let mut notices = Vec::new();
    loop {
        match speaker.any().expect("an event") {
            Event::Notice(notice) => notices.push(notice),
            Event::Done(..) => break,
            other => panic!("{other:?}"),
        }
    }
    let notice = &notices[0];
    assert_eq!(
        (notices.len(), &notice.severity[..], &notice.message[..]),
        (1, "WARNING", "look out")
    );
    assert_eq!(notice.hint.as_deref(), Some("there"));
}

#[test]
fn cancelled_and_thrown_out() {
    let postgres = Postgres::shared();
    let mut client = postgres.connect(settings("postgres", None));
    let asked = client.ask(Query::new("select pg_sleep(60)"));
    let behind = client.ask(Query::new("select 1"));
    client.flush();
    let (process, key) = client.session.cancel_key().expect("a key");
    let cancel = || {
        let mut socket = postgres.socket();
        socket
            .write_all(&cancel_request(process, key))
            .expect("sent");
        socket.read_to_end(&mut Vec::new()).expect("its end");
    };
    // The statement is prepared first, and that is not what is to be cancelled.
    let event = loop {
        let mut other = postgres.connect(settings("postgres", None));
        let sql = "select state = 'active' and query like '%pg_sleep%' from pg_stat_activity where pid = $1";
        client
            .socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        let mut bytes = [0; 4096];
        if let Ok(n) = client.socket.read(&mut bytes) {
            client.received.extend_from_slice(&bytes[..n]);
            let now = client.now();
            let mut input = &client.received[..];
            let event = client
                .session
                .poll_event(&mut input, now)
                .expect("no error");
            client.received = input.to_vec();
            client.flush();
            if let Some(event) = event {
                break event;
            }
        }
        let (rows, _) = other.query(sql, [process]).expect("a row");
        if rows[0].get::<bool>(0) == Ok(true) {
            cancel();
        }
    };
    client
        .socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    let error = match event {
        Event::Failed(ticket, error) if ticket == asked => error,
        Event::Columns(ticket, _) if ticket == asked => {
            client.answer(asked).expect_err("cancelled")
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&error), "57014");
    assert_eq!(client.answer(behind).expect("behind").1, "SELECT 1");

    // An administrator ends the session.
    let mut other = postgres.connect(settings("postgres", None));
    other
        .query("select pg_terminate_backend($1)", [process])
        .expect("thrown out");
    match client.next() {
        Err(Error::Fatal(error)) => assert_eq!(error.code, "57P01"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_and_large_values() {
    let postgres = Postgres::shared();
    let limits = Limits {
        message: 100_000,
        ..Limits::default()
    };
    let mut client = Client::new(postgres.socket(), &settings("postgres", None), limits);
    client.ready().expect("a session");
    let (rows, _) = client
        .query(
            "select repeat('x', $1) from generate_series(1, 20)",
            [90_000],
        )
        .expect("rows");
    assert!(
        rows.iter()
            .all(|row| row.get::<&str>(0).is_ok_and(|text| text.len() == 90_000))
    );
    let error = client
        .query("select $1::text", ["y".repeat(99_980)])
        .expect_err("too long");
    assert_eq!(error, QueryError::TooLong { limit: 100_000 });
    let now = client.now();
    let long = Query::new("select $1::text").with(["y".repeat(100_000)]);
    assert_eq!(client.session.query(long, now), Err(Refusal::TooLong));
    let ticket = client.ask(Query::new("select repeat('x', 200000)"));
    assert!(matches!(client.next(), Ok(Event::Columns(..))));
    let (size, limit) = (200_010, 100_000);
    assert_eq!(client.next(), Err(Error::TooLong { size, limit }));
    let unanswered: Vec<u64> = client.session.unanswered().collect();
    assert_eq!(unanswered, [ticket]);
}
