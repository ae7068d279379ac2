//! The examples with a database, as their readers run them: built, started, asked over loopback.

#[path = "check/curl.rs"]
mod curl;
#[path = "pg_service/installed.rs"]
mod installed;
#[allow(dead_code)]
#[path = "pg_service/server.rs"]
mod server;
#[path = "../examples/support/sqlite_pool.rs"]
mod sqlite_pool;
#[allow(dead_code)]
#[path = "check/support.rs"]
mod support;

use curl::{Answer, ask};
use loopwright::{App, Limits, Server, StatusError};
use rusqlite::{Connection, Transaction};
use serde_json::{Value, json};
use server::{Cluster, eventually};
use sqlite_pool::{BUSY, SqlitePool, WAIT};
use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread::scope;
use std::time::{Duration, Instant};
use support::{PATIENCE, Running, run};

/// Where it is, built: whoever runs this test alone has cargo build none of them.
fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("this test");
        let profile = test.ancestors().nth(2).expect("target/debug/deps");
        let name = profile.file_name().and_then(|name| name.to_str());
        let name = name.map(|name| if name == "debug" { "dev" } else { name });
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--locked", "--profile"])
            .arg(name.expect("a profile"))
            .args(["--example", "guestbook", "--example", "fortunes"])
            .args(["--example", "notify"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", profile.parent().expect("a folder"));
        let built = cargo.output().expect("cargo");
        assert!(built.status.success(), "{built:?}");
        profile.join("examples")
    });
    folder.join(name)
}

/// An example that runs, and where it listens.
struct Site {
    server: Running,
    url: String,
}

impl Site {
    fn start(name: &str, folder: &Path, args: &[&str]) -> Site {
        let mut command = Command::new(example(name));
        command
            .args(args)
            .current_dir(folder)
            .env_remove("DATABASE_URL")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        let mut server = Running::start(&mut command);
        let url = server.url();
        Site { server, url }
    }

    fn guestbook(folder: &Path, database: &str) -> Site {
        Site::start("guestbook", folder, &[database, "127.0.0.1:0"])
    }

    fn ask(&self, path: &str, args: &[&str]) -> Answer {
        ask(&format!("{}{path}", self.url), args)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(path, &[])
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.field("content-type"), Some("application/json"));
        serde_json::from_str(&answer.body).expect("JSON")
    }

    fn write(&self, name: &str, text: &str) -> Answer {
        write(&self.url, name, text)
    }

    /// Name and text of each entry, the latest first.
    fn entries(&self) -> Vec<(String, String)> {
        let entries = self.json("/entries");
        let text = |value: &Value| value.as_str().expect("a text").to_string();
        let entries = entries.as_array().expect("a list").iter();
        entries
            .map(|entry| (text(&entry["name"]), text(&entry["text"])))
            .collect()
    }

    /// What it has said of migrations.
    fn migrations(&self) -> usize {
        let said = self.server.said.iter();
        said.filter(|line| line.contains("migration ")).count()
    }
}

/// Writes into the guestbook.
fn write(url: &str, name: &str, text: &str) -> Answer {
    let fields = [format!("name={name}"), format!("text={text}")];
    let [name, text] = &fields;
    let args = ["--data-urlencode", name, "--data-urlencode", text];
    ask(&format!("{url}/entries"), &args)
}

/// An EventSource. Of HTTP/1.0, so that there is nothing but lines.
struct Follower(RefCell<BufReader<TcpStream>>);

impl Follower {
    /// It is told what happens from now on, or what has come since an event.
    fn start(site: &Site, path: &str, last: Option<&str>) -> Follower {
        let socket = TcpStream::connect(site.url.trim_start_matches("http://"));
        let mut socket = socket.expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let last = last.map(|id| format!("last-event-id: {id}\r\n"));
        let last = last.unwrap_or_default();
        let ask = format!("GET {path} HTTP/1.0\r\naccept: text/event-stream\r\n{last}\r\n");
        socket.write_all(ask.as_bytes()).expect("asked");
        let follower = Follower(RefCell::new(BufReader::new(socket)));
        assert_eq!(follower.line(), "HTTP/1.1 200 OK");
        // It follows when the head has come.
        while !follower.line().is_empty() {}
        follower
    }

    fn line(&self) -> String {
        let mut line = String::new();
        let read = self.0.borrow_mut().read_line(&mut line);
        assert_ne!(read.expect("a line"), 0, "it has ended");
        line.trim_end().to_string()
    }

    /// The next event: its data and its id.
    fn event(&self) -> (String, String) {
        let (mut data, mut id) = (None, None);
        let start = Instant::now();
        loop {
            // There are heartbeats all the time.
            assert!(start.elapsed() < PATIENCE, "no event within {PATIENCE:?}");
            match (self.line().split_once(": "), &data, &id) {
                (Some(("data", text)), ..) => data = Some(text.to_string()),
                (Some(("id", text)), ..) => id = Some(text.to_string()),
                (Some(("event", name)), ..) => panic!("an event named {name}"),
                (None, Some(data), Some(id)) => return (data.clone(), id.clone()),
                _ => {}
            }
        }
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn pair(name: &str, text: &str) -> (String, String) {
    (name.to_string(), text.to_string())
}

/// A database of its own, and the connection that its examples have, by name.
fn database(cluster: &Cluster, name: &str) -> String {
    cluster.psql(&format!("create database {name}"));
    let port = cluster.port;
    format!("postgres://postgres@127.0.0.1:{port}/{name}?application_name={name}")
}

/// Waits for the connection that listens, other than this one, and says which it is.
fn listening(cluster: &Cluster, name: &str, other: &str) -> String {
    let sql = format!(
        "select pid from pg_stat_activity where application_name = '{name}'
         and query ilike 'listen%' and state = 'idle' and pid <> {other}"
    );
    let mut pid = String::new();
    eventually("it listens", || {
        pid = cluster.psql(&sql);
        !pid.is_empty()
    });
    pid
}

/// What holds on every database.
fn is_a_guestbook(site: &Site) {
    let page = site.get("/");
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.body.contains("<form"), "{}", page.body);
    assert_eq!(site.json("/entries"), json!([]));

    let new = Follower::start(site, "/new", None);
    let answer = site.write("ada", "<b>hello</b> & 'you'; drop table entries");
    let shown = (answer.status, answer.field("location"));
    assert_eq!(shown, (303, Some("/")), "{}", answer.body);
    let told = "ada: <b>hello</b> & 'you'; drop table entries";
    assert_eq!(new.event().0, told);

    // As long as may be, in as many bytes.
    let long = "é".repeat(1_500);
    assert_eq!(site.write(&long, &long).status, 303);
    assert_eq!(new.event().0, format!("{long}: {long}"));
    for (name, text) in [("", "x"), ("x", ""), ("x", &*format!("{long}e"))] {
        let answer = site.write(name, text);
        let why = "want name and text, of at most 3000 bytes";
        assert_eq!((answer.status, &*answer.body), (400, why));
    }
    assert_eq!(site.ask("/entries", &["-d", "name=x&text=%00"]).status, 400);
    assert_eq!(site.ask("/new", &["-d", "forged"]).status, 405);

    let entries = site.json("/entries");
    let written = entries[0]["written"].as_str().expect("a time");
    let is_time = regex_lite::Regex::new(r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$").expect("a regex");
    assert!(is_time.is_match(written), "{written}");
    assert_eq!(
        (&entries[0]["id"], &entries[1]["id"]),
        (&json!(2), &json!(1))
    );
    let kept = [
        pair(&long, &long),
        pair("ada", "<b>hello</b> & 'you'; drop table entries"),
    ];
    assert_eq!(site.entries(), kept);
}

#[test]
fn a_guestbook_in_sqlite_is_there_again_after_a_kill() {
    let folder = folder();
    let site = Site::guestbook(folder.path(), "guestbook.db");
    assert_eq!(site.migrations(), 2);
    is_a_guestbook(&site);
    let before = site.json("/entries");
    drop(site);

    let site = Site::guestbook(folder.path(), "guestbook.db");
    assert_eq!(site.migrations(), 0, "{:?}", site.server.said);
    assert_eq!(site.json("/entries"), before);
    assert_eq!(site.write("grace", "again").status, 303);
    assert_eq!(site.entries()[0], pair("grace", "again"));
}

#[test]
fn a_guestbook_in_postgresql_is_there_again_after_a_kill() {
    let cluster = Cluster::shared();
    let (url, folder) = (database(&cluster, "guests"), folder());
    let listened = Cell::new("0".to_string());
    let start = || {
        let mut site = Site::guestbook(folder.path(), &url);
        site.server.wait_for("the tables are there");
        let pid = listening(&cluster, "guests", &listened.take());
        listened.set(pid);
        site
    };
    let site = start();
    assert_eq!(site.migrations(), 2);
    is_a_guestbook(&site);
    let before = site.json("/entries");
    drop(site);

    let site = start();
    assert_eq!(site.migrations(), 0, "{:?}", site.server.said);
    assert_eq!(site.json("/entries"), before);
}

#[test]
fn a_guestbook_from_before_its_second_migration_is_brought_up_to_date() {
    let folder = folder();
    let file = folder.path().join("old.db");
    let old = Connection::open(file).expect("a database");
    old.execute_batch(include_str!(
        "../examples/guestbook/migrations/sqlite/0001_entries.sql"
    ))
    .expect("a table");
    old.execute_batch(
        "insert into entries (name, text) values ('ada', 'old'); pragma user_version = 1",
    )
    .expect("an entry");
    let site = Site::guestbook(folder.path(), "old.db");
    assert_eq!(
        (site.migrations(), site.entries()),
        (1, vec![pair("ada", "old")])
    );
    let version = old.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0));
    assert_eq!(version, Ok(2));
}

#[test]
fn guestbooks_that_start_together_migrate_once() {
    let folder = folder();
    let sites: Vec<Site> = scope(|all| {
        let start = || Site::guestbook(folder.path(), "shared.db");
        let sites: Vec<_> = (0..4).map(|_| all.spawn(start)).collect();
        sites
            .into_iter()
            .map(|site| site.join().expect("a site"))
            .collect()
    });
    assert_eq!(sites.iter().map(Site::migrations).sum::<usize>(), 2);
    for (n, site) in sites.iter().enumerate() {
        assert_eq!(site.write("n", &n.to_string()).status, 303);
        assert_eq!(sites[0].entries()[0], pair("n", &n.to_string()));
    }
}

#[test]
fn a_locked_file_costs_those_who_write_an_error_and_others_nothing() {
    let folder = folder();
    let site = Site::guestbook(folder.path(), "guestbook.db");
    assert_eq!(site.write("ada", "before").status, 303);
    let other = Connection::open(folder.path().join("guestbook.db")).expect("a database");
    other.execute_batch("begin exclusive").expect("the lock");

    let url = &site.url;
    scope(|all| {
        let writers: Vec<_> = (0..12)
            .map(|_| {
                all.spawn(|| {
                    let start = Instant::now();
                    let answer = write(url, "grace", "locked out");
                    (answer.status, answer.body, start.elapsed())
                })
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < BUSY {
            let asked = Instant::now();
            assert_eq!(site.get("/").status, 200);
            assert_eq!(site.entries(), [pair("ada", "before")]);
            let took = asked.elapsed();
            assert!(took < BUSY / 2, "{took:?}");
        }
        let mut longest = Duration::ZERO;
        for writer in writers {
            let (status, text, took) = writer.join().expect("an answer");
            let said = (status, &*text);
            assert_eq!(said, (503, "the database is busy: try again"));
            assert!(took >= BUSY, "{took:?}");
            longest = longest.max(took);
        }
        // Not twelve times BUSY.
        assert!(longest < WAIT + BUSY + BUSY, "{longest:?}");
    });

    other.execute_batch("rollback").expect("no lock");
    assert_eq!(site.write("grace", "let in").status, 303);
    assert_eq!(
        site.entries(),
        [pair("grace", "let in"), pair("ada", "before")]
    );
}

#[test]
fn a_full_queue_a_panic_and_a_client_that_leaves() {
    let folder = folder();
    let file = folder.path().join("pool.db");
    let (release, held) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let pool = SqlitePool::open(file, &["create table t (n int)"]).expect("a pool");
        let held = std::sync::Arc::new(Mutex::new(held));
        let mut app: App<SqlitePool> = App::new();
        app.get("/hold", move |cx, _, res| {
            let (pool, held, begin) = (cx.state.clone(), held.clone(), begin.clone());
            cx.answer(res, async move |task, res| {
                let work = move |_: &Connection| {
                    begin.send(()).expect("told");
                    let _ = held.lock().expect("held").recv();
                    Ok(())
                };
                pool.read(&task, work).await?;
                res.text("released");
                Ok::<_, StatusError>(())
            })
        });
        app.get("/write/{n}", |cx, req, res| {
            let (pool, n) = (cx.state.clone(), req.param("n").to_string());
            cx.answer(res, async move |task, res| {
                let sql = "insert into t values (?1)";
                pool.write(&task, move |tx| tx.execute(sql, [n])).await?;
                res.text("written");
                Ok::<_, StatusError>(())
            })
        });
        app.get("/panic", |cx, _, res| {
            let pool = cx.state.clone();
            cx.answer(res, async move |task, res| {
                let work = |tx: &Transaction<'_>| -> rusqlite::Result<()> {
                    tx.execute("insert into t values (-1)", ())?;
                    panic!("as it should");
                };
                pool.write(&task, work).await?;
                res.text("written");
                Ok::<_, StatusError>(())
            })
        });
        app.get("/all", |cx, _, res| {
            let pool = cx.state.clone();
            cx.answer(res, async move |task, res| {
                let sql =
                    "select coalesce(group_concat(n, ' '), '') from (select n from t order by n)";
                let all = pool.read(&task, |db| {
                    db.query_row(sql, (), |row| row.get::<_, String>(0))
                });
                res.text(all.await?);
                Ok::<_, StatusError>(())
            })
        });
        app.get("/tasks", |cx, _, res| {
            res.text(cx.stats().tasks.to_string())
        });
        let limits = Limits {
            offload_threads: 1,
            offload_queue: 1,
            ..Limits::default()
        };
        let server = Server::builder().listen("127.0.0.1:0").limits(limits);
        let mut server = server.build(app, pool).expect("a server");
        let url = server.addresses()[0].url();
        tell.send((server.handle(), url)).expect("told");
        server.run().expect("served");
    });
    let (handle, url) = told.recv_timeout(PATIENCE).expect("a server");
    let get = |path: &str| {
        let answer = ask(&format!("{url}{path}"), &[]);
        (answer.status, answer.body)
    };
    let said = |status, text: &str| (status, text.to_string());
    let busy = said(503, "the database is busy: try again");
    let tasks = |n: &str| {
        let is = || get("/tasks") == said(200, n);
        eventually(&format!("{n} tasks"), is);
    };

    assert_eq!(get("/write/1"), said(200, "written"));
    assert_eq!(get("/panic"), said(500, "the database has refused"));
    assert_eq!(get("/all"), said(200, "1"));

    scope(|all| {
        let holder = all.spawn(|| get("/hold"));
        begun.recv_timeout(PATIENCE).expect("a thread is held");
        // One waits for the thread; its client leaves.
        let mut curl = Command::new("curl");
        let curl = curl.args(["-sS", "-m", "60"]).arg(format!("{url}/write/2"));
        let mut leaver = curl.spawn().expect("curl");
        tasks("2");
        // No room for a third.
        assert_eq!(get("/all"), busy);
        assert_eq!(get("/hold"), busy);
        leaver.kill().expect("killed");
        leaver.wait().expect("killed");
        tasks("1");
        release.send(()).expect("released");
        assert_eq!(holder.join().expect("an answer"), said(200, "released"));
        tasks("0");
        assert_eq!(get("/write/3"), said(200, "written"));
        assert_eq!(get("/all"), said(200, "1 3"));

        // Who would have to wait for too long is told, and its work is not done.
        let holder = all.spawn(|| get("/hold"));
        begun.recv_timeout(PATIENCE).expect("a thread is held");
        let late = all.spawn(|| get("/write/4"));
        tasks("2");
        std::thread::sleep(WAIT);
        release.send(()).expect("released");
        assert_eq!(holder.join().expect("an answer"), said(200, "released"));
        assert_eq!(late.join().expect("an answer"), busy);
        assert_eq!(get("/all"), said(200, "1 3"));
    });
    handle.stop();
}

/// What holds on every database. `number` asks it for a row's number, past the example.
fn are_fortunes(site: &Site, number: impl Fn(i64) -> i64) {
    let world = |world: &Value| {
        let fields = world.as_object().expect("an object");
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["id", "randomNumber"]);
        let (id, n) = (&world["id"], &world["randomNumber"]);
        (id.as_i64().expect("an id"), n.as_i64().expect("a number"))
    };
    let worlds = |path: &str| -> Vec<(i64, i64)> {
        let found = site.json(path);
        let found = found.as_array().expect("a list").iter();
        found.map(world).collect()
    };
    let is_filled =
        |(id, n): &(i64, i64)| (1..=10_000).contains(id) && *n == id * 7919 % 10_000 + 1;

    let one = world(&site.json("/db"));
    assert!(is_filled(&one), "{one:?}");
    for (n, count) in [("20", 20), ("0", 1), ("-1", 1), ("x", 1), ("501", 500)] {
        let found = worlds(&format!("/queries?n={n}"));
        assert_eq!(found.len(), count, "n={n}");
        assert!(found.iter().all(is_filled), "{found:?}");
        let found = worlds(&format!("/cached?n={n}"));
        assert_eq!(found.len(), count, "n={n}");
        assert!(found.iter().all(is_filled), "{found:?}");
    }

    let updated = worlds("/updates?n=20");
    let mut ids: Vec<i64> = updated.iter().map(|world| world.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert!(updated.iter().any(|world| !is_filled(world)), "{updated:?}");
    for (id, n) in updated {
        assert_eq!(number(id), n, "{id}");
    }

    let page = site.get("/fortunes");
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.body, PAGE.replace('\n', ""));
}

const PAGE: &str = "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>
<tr><th>id</th><th>message</th></tr>
<tr><td>11</td><td>&lt;script&gt;alert(&quot;This should not be displayed in a browser alert box.&quot;);&lt;/script&gt;</td></tr>
<tr><td>4</td><td>A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 4.33e+67, 4.33e+67</td></tr>
<tr><td>5</td><td>A computer program does what you tell it to do, not what you want it to do.</td></tr>
<tr><td>2</td><td>A computer scientist is someone who fixes things that aren&#39;t broken.</td></tr>
<tr><td>8</td><td>A list is only as strong as its weakest link. — Donald Knuth</td></tr>
<tr><td>0</td><td>Additional fortune added at request time.</td></tr>
<tr><td>3</td><td>After enough decimal places, nobody gives a damn.</td></tr>
<tr><td>7</td><td>Any program that runs right is obsolete.</td></tr>
<tr><td>10</td><td>Computers make very fast, very accurate mistakes.</td></tr>
<tr><td>6</td><td>Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen</td></tr>
<tr><td>9</td><td>Feature: A bug with seniority.</td></tr>
<tr><td>1</td><td>fortune: No such file or directory</td></tr>
<tr><td>12</td><td>フレームワークのベンチマーク</td></tr>
</table></body></html>";

#[test]
fn fortunes_in_sqlite() {
    let folder = folder();
    let site = Site::start("fortunes", folder.path(), &["fortunes.db", "0"]);
    let other = Connection::open(folder.path().join("fortunes.db")).expect("a database");
    are_fortunes(&site, |id| {
        let sql = "select randomnumber from world where id = ?1";
        let number = other.query_row(sql, [id], |row| row.get(0));
        number.expect("a number")
    });
}

#[test]
fn fortunes_in_postgresql() {
    let cluster = Cluster::start(&[]);
    cluster.psql(include_str!("../examples/fortunes/tables.sql"));
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port);
    let folder = folder();
    let site = Site::start("fortunes", folder.path(), &[&url, "0"]);
    are_fortunes(&site, |id| {
        let number = cluster.psql(&format!("select randomnumber from world where id = {id}"));
        number.parse().expect("a number")
    });
}

#[test]
fn what_is_notified_comes_through_a_new_connection_and_to_who_comes_back() {
    let mut cluster = Cluster::start(&[]);
    let (port, folder) = (cluster.port, folder());
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?application_name=notify");
    let site = Site::start("notify", folder.path(), &[&url, "127.0.0.1:0"]);
    let say = |text: &str| site.ask("/news", &["--data-binary", text]);
    let said_last = |follower: &Follower, text: &str| {
        let (data, id) = follower.event();
        assert_eq!(data, text);
        id
    };

    assert!(
        site.get("/")
            .body
            .contains("new EventSource('/news?since=')")
    );
    let before = listening(&cluster, "notify", "0");
    let follower = Follower::start(&site, "/news", None);
    assert_eq!(say("first").status, 202);
    let first = said_last(&follower, "first");
    cluster.psql("notify news, 'by another'");
    said_last(&follower, "by another");
    assert_eq!(say("").status, 400);
    assert_eq!(say("long").status, 202);
    said_last(&follower, "long");
    let long = "x".repeat(7_999);
    assert_eq!(say(&long).status, 202);
    said_last(&follower, &long);
    assert_eq!(say(&format!("{long}x")).status, 413);

    cluster.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'notify'",
    );
    listening(&cluster, "notify", &before);
    assert_eq!(say("after a broken connection").status, 202);
    said_last(&follower, "after a broken connection");

    cluster.stop();
    let answer = say("into the void");
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.body, "the database is not available");
    cluster.start_again();
    listening(&cluster, "notify", "0");
    eventually("it is said", || say("after a restart").status == 202);
    let last = said_last(&follower, "after a restart");

    // Two who come back.
    let back = Follower::start(&site, "/news", Some(&first));
    let missed = ["by another", "long", &*long, "after a broken connection"];
    for text in missed {
        said_last(&back, text);
    }
    assert_eq!(said_last(&back, "after a restart"), last);
    let nothing_missed = Follower::start(&site, "/news", Some(&last));
    assert_eq!(say("new").status, 202);
    for follower in [&follower, &back, &nothing_missed] {
        said_last(follower, "new");
    }
}

#[test]
fn what_cannot_be_opened_is_said() {
    let folder = folder();
    for (name, args, why) in [
        ("guestbook", &["no/such/folder/x.db"][..], "unable to open"),
        ("guestbook", &["mysql://localhost/x"], "want postgres://"),
        ("fortunes", &["x.db", "port"], "InvalidDigit"),
        ("notify", &[], "which database?"),
    ] {
        let mut command = Command::new(example(name));
        let said = run(command
            .args(args)
            .current_dir(folder.path())
            .stdin(Stdio::null()));
        assert_eq!(said.code, Some(1), "{name} {args:?}: {}", said.err);
        assert!(said.err.contains(why), "{name} {args:?}: {}", said.err);
    }
}
