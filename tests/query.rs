//! The route action `query`: the real binary with a config, before a PostgreSQL of the test's own.

#[path = "check/curl.rs"]
mod curl;
#[path = "pg_service/installed.rs"]
mod installed;
#[allow(dead_code)]
#[path = "pg_service/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "check/support.rs"]
mod support;

use curl::{Answer, ask};
use serde_json::{Value, json};
use server::{Cluster, eventually};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Running, loopwright, run};
use tempfile::TempDir;

/// A server with a config, and its database.
struct Site {
    cluster: Arc<Cluster>,
    folder: TempDir,
    server: Running,
    url: String,
}

/// What an answer says, which is JSON.
trait Json {
    fn json(&self) -> Value;
    /// Its status, and its `{"error": …}`.
    fn error(&self) -> (u16, String);
}

impl Json for Answer {
    fn json(&self) -> Value {
        let kind = self.field("content-type");
        let what = format!("{} {}", self.head, self.body);
        assert_eq!(kind, Some("application/json"), "{what}");
        serde_json::from_str(&self.body).expect(&what)
    }

    fn error(&self) -> (u16, String) {
        let json = self.json();
        let text = json["error"].as_str().expect("an error").to_string();
        (self.status, text)
    }
}

fn error(status: u16, text: &str) -> (u16, String) {
    (status, text.to_string())
}

/// `[databases.main]` of a cluster, with more keys, and routes.
fn config(cluster: &Cluster, keys: &str, routes: &str) -> String {
    let port = cluster.port;
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\
         [databases.main]\nurl = \"postgres://postgres@127.0.0.1:{port}/postgres\"\n{keys}\n{routes}"
    )
}

fn route(path: &str, method: &str, query: &str) -> String {
    format!(
        "[[routes]]\npath = \"{path}\"\nmethods = [\"{method}\"]\nquery = {{ database = \"main\", {query} }}\n"
    )
}

impl Site {
    /// `sql` prepares the database.
    fn start(sql: &str, keys: &str, routes: &str) -> Site {
        let cluster = Cluster::shared();
        if !sql.is_empty() {
            cluster.psql(sql);
        }
        Site::on(cluster, keys, routes)
    }

    fn on(cluster: Arc<Cluster>, keys: &str, routes: &str) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &config(&cluster, keys, routes));
        let mut server = Running::start(&mut loopwright(folder.path(), &["run"]));
        let url = server.url();
        Site {
            cluster,
            folder,
            server,
            url,
        }
    }

    fn ask(&self, path: &str, args: &[&str]) -> Answer {
        ask(&format!("{}{path}", self.url), args)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(path, &[])
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> Answer {
        let kind = format!("content-type: {kind}");
        self.ask(path, &["-X", method, "-H", &kind, "--data-binary", body])
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, "application/json", &body.to_string())
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.url.trim_start_matches("http://"));
        let socket = socket.expect("a connection");
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).expect("a timeout");
        socket
    }
}

fn write(folder: &Path, config: &str) {
    fs::write(folder.join("loopwright.toml"), config).expect("the config");
}

#[test]
fn every_shape() {
    let users = "create table shapes (id int primary key, name text);
                 insert into shapes values (1, 'ada'), (2, null), (3, 'grace')";
    let one = "params = [\"{id}\"], shape = \"one\"";
    let routes = [
        route(
            "/one/{id}",
            "GET",
            &format!("sql = \"select id, name from shapes where id = $1\", {one}"),
        ),
        route(
            "/many",
            "GET",
            "sql = \"select id, name from shapes where $1::int is null or id >= $1 order by id\", params = [\"{query.from}\"]",
        ),
        route(
            "/value",
            "GET",
            "sql = \"select count(*) from shapes\", shape = \"value\"",
        ),
        route(
            "/name/{id}",
            "GET",
            &format!(
                "sql = \"select name from shapes where id = $1\", {}",
                one.replace("one", "value")
            ),
        ),
        route(
            "/wide",
            "GET",
            "sql = \"select 1 as a, 2 as b\", shape = \"value\"",
        ),
        route(
            "/two",
            "GET",
            "sql = \"select id from shapes\", shape = \"one\"",
        ),
        route("/few", "GET", "sql = \"select id from shapes\", rows = 2"),
        // Nothing of it is the client's.
        route("/number", "GET", "sql = \"select name::int from shapes\""),
        route(
            "/document",
            "POST",
            "sql = \"select $1::jsonb as json, $1::jsonb #>> '{}' as text, $2::text as name\", \
             params = [\"{body.json}\", \"{body.json}\"], shape = \"one\", status = 200",
        ),
        route(
            "/gone",
            "GET",
            "sql = \"select id from shapes where false\", rows = 0",
        ),
    ];
    let mut site = Site::start(users, "", &routes.concat());
    let one = site.get("/one/1");
    assert_eq!(
        (one.status, one.json()),
        (200, json!({"id": 1, "name": "ada"}))
    );
    assert_eq!(one.body, r#"{"id":1,"name":"ada"}"#);
    assert_eq!(site.get("/one/2").json(), json!({"id": 2, "name": null}));
    assert_eq!(site.get("/one/9").error(), error(404, "there is none"));
    let all =
        json!([{"id": 1, "name": "ada"}, {"id": 2, "name": null}, {"id": 3, "name": "grace"}]);
    assert_eq!(site.get("/many").json(), all);
    assert_eq!(
        site.get("/many?from=3").json(),
        json!([{"id": 3, "name": "grace"}])
    );
    assert_eq!(site.get("/many?from=4").body, "[]");
    assert_eq!(site.get("/value").json(), json!(3));
    assert_eq!(site.get("/name/1").json(), json!("ada"));
    assert_eq!(site.get("/name/2").json(), Value::Null);
    assert_eq!(site.get("/name/9").status, 404);
    assert_eq!(site.get("/gone").body, "[]");
    // What the config has wrong is told to the log alone.
    for (path, why) in [
        ("/wide", "2 columns, where shape = \"value\""),
        ("/two", "3 rows, where one was wanted (shape)"),
        ("/number", "invalid input syntax for type integer"),
        ("/few", "more rows than the 2 that are allowed (rows)"),
    ] {
        assert_eq!(site.get(path).error(), error(500, "Internal Server Error"));
        let line = site.server.wait_for(why);
        assert!(line.contains(path), "{line}");
    }
    // A string of JSON is one for JSON, and its text for a text.
    for (member, text) in [
        (json!("x"), "x"),
        (json!("{\"is_admin\":true}"), "{\"is_admin\":true}"),
        (json!("\u{e9}\n\""), "\u{e9}\n\""),
    ] {
        let answer = site.post("/document", &json!({ "json": member }));
        let wanted = json!({ "json": member, "text": text, "name": text });
        assert_eq!((answer.status, answer.json()), (200, wanted));
    }
    let member = json!({ "a": [1] });
    let answer = site.post("/document", &json!({ "json": member })).json();
    assert_eq!(answer["json"], member);
    let head = site.ask("/one/1", &["-I"]);
    let length = "content-length: 21";
    assert!(
        head.status == 200 && head.head.contains(length),
        "{}",
        head.head
    );
    assert!(!head.body.contains("ada"), "{}", head.body);
    assert_eq!(site.ask("/one/1", &["-X", "POST"]).status, 405);
    assert_eq!(site.server.stop(), Some(0));
}

#[test]
fn every_type_of_value() {
    let mut routes = String::new();
    let cases = [
        ("bool", "true", json!(true)),
        ("int2", "-7", json!(-7)),
        ("int4", "2147483647", json!(2147483647)),
        ("int8", "9007199254740993", json!(9007199254740993_i64)),
        ("float8", "1.5", json!(1.5)),
        ("text", "it's%20%C3%A4", json!("it's ä")),
        (
            "uuid",
            "c0ffee00-0000-4000-8000-000000000001",
            json!("c0ffee00-0000-4000-8000-000000000001"),
        ),
        ("date", "2024-02-29", json!("2024-02-29")),
        (
            "timestamptz",
            "2024-01-01T12:00:00%2B02:00",
            json!("2024-01-01T10:00:00Z"),
        ),
        ("jsonb", "%7B%22a%22:[1]%7D", json!({"a": [1]})),
        ("int4[]", "%7B1,2%7D", json!([1, 2])),
        ("inet", "10.0.0.1", json!("10.0.0.1")),
        ("mood", "calm", json!("calm")),
    ];
    for (at, (ty, ..)) in cases.iter().enumerate() {
        let query = format!(
            "sql = \"select $1::{ty} as v\", params = [\"{{query.v}}\"], shape = \"value\""
        );
        routes += &route(&format!("/{at}"), "GET", &query);
    }
    routes += &route(
        "/numeric",
        "GET",
        "sql = \"select $1::numeric\", params = [\"{query.v}\"], shape = \"value\"",
    );
    let site = Site::start("create type mood as enum ('calm', 'wild')", "", &routes);
    for (at, (ty, text, value)) in cases.iter().enumerate() {
        let answer = site.get(&format!("/{at}?v={text}"));
        assert_eq!((answer.status, answer.json()), (200, value.clone()), "{ty}");
        assert_eq!(site.get(&format!("/{at}")).json(), Value::Null, "{ty}");
    }
    // All its digits.
    let digits = "12345678901234567890.12345678901234567890";
    assert_eq!(site.get(&format!("/numeric?v={digits}")).body, digits);
    for (at, text, what) in [
        (
            0,
            "maybe",
            "`v` in the query string (bool): \"maybe\" is no boolean",
        ),
        (
            1,
            "70000",
            "`v` in the query string (int2): \"70000\" is no integer from -32768 to 32767",
        ),
        (
            2,
            "1;drop",
            "`v` in the query string (int4): \"1;drop\" is no integer of 32 bits",
        ),
        (
            2,
            "",
            "`v` in the query string (int4): \"\" is no integer of 32 bits",
        ),
        (6, "x", "`v` in the query string (uuid): \"x\" is no UUID"),
        (
            7,
            "2023-02-29",
            "`v` in the query string (date): \"2023-02-29\" is no date (YYYY-MM-DD)",
        ),
        (
            9,
            "%7B",
            "`v` in the query string (jsonb): \"{\" is no JSON document",
        ),
        (
            5,
            "a%00b",
            "`v` in the query string (text): a text with a NUL in it",
        ),
    ] {
        assert_eq!(
            site.get(&format!("/{at}?v={text}")).error(),
            error(400, what)
        );
    }
    // What only the server can judge.
    let (status, text) = site.get("/12?v=grim").error();
    assert_eq!(status, 400);
    assert_eq!(
        text,
        "`v` in the query string: invalid input value for enum mood: \"grim\""
    );
    assert_eq!(site.get("/11?v=10.0.0.300").status, 400);
}

#[test]
fn where_values_come_from() {
    let routes = [
        route(
            "/a/{id}/{*rest}",
            "GET",
            "sql = \"select $1::text as id, $2::text as rest, $3::text as q, $4::text as h, $5::text as f\", \
            params = [\"{id}\", \"{rest}\", \"{query.q}\", \"{header.X-User}\", \"fixed\"], shape = \"one\"",
        ),
        route(
            "/b",
            "POST",
            "sql = \"select $1::text as name, $2::numeric as n, $3::jsonb as tags\", \
            params = [{ from = \"{body.name}\", required = true }, { from = \"{body.n}\", default = \"7\" }, \"{body.tags}\"], shape = \"one\"",
        ),
        route(
            "/c",
            "POST",
            "sql = \"select jsonb_array_length($1)\", params = [\"{body}\"], shape = \"value\"",
        ),
    ];
    let site = Site::start("", "", &routes.concat());
    let answer = site.ask("/a/1/x/y%20z?q=%26&q=2", &["-H", "x-user: ada"]);
    let all = json!({"id": "1", "rest": "x/y z", "q": "&", "h": "ada", "f": "fixed"});
    assert_eq!(answer.json(), all);
    let none = json!({"id": "1", "rest": "x", "q": null, "h": null, "f": "fixed"});
    assert_eq!(site.get("/a/1/x").json(), none);
    assert_eq!(site.get("/a/1/x?q=").json()["q"], "");

    let full = site.send(
        "POST",
        "/b",
        "application/json",
        r#"{"name": "a\u00e4\"", "n": 1.50, "tags": {"a": [null]}, "x": 1}"#,
    );
    assert_eq!(
        full.body,
        r#"{"name":"aä\"","n":1.50,"tags":{"a": [null]}}"#
    );
    let form = site.send(
        "POST",
        "/b",
        "application/x-www-form-urlencoded",
        "name=a+b%26&n=3",
    );
    assert_eq!(form.json(), json!({"name": "a b&", "n": 3, "tags": null}));
    assert_eq!(
        site.post("/b", &json!({"name": "x", "n": null})).json()["n"],
        7
    );
    let missing = error(400, "`name` in the body is missing");
    for body in [json!({}), json!({"name": null})] {
        assert_eq!(site.post("/b", &body).error(), missing);
    }
    assert_eq!(site.ask("/b", &["-X", "POST"]).error(), missing);
    assert_eq!(
        site.send("POST", "/b", "text/plain", "name=x").error().0,
        415
    );
    for broken in ["[1]", "{\"name\": ", "{\"name\": \"\\ud800\"}", "nul"] {
        let (status, text) = site.send("POST", "/b", "application/json", broken).error();
        assert!(
            status == 400 && text.starts_with("the body is no object: "),
            "{text}"
        );
    }
    let wrong = site.post("/b", &json!({"name": "x", "n": "seven"}));
    assert_eq!(
        wrong.error(),
        error(400, "`n` in the body (numeric): \"seven\" is no number")
    );
    assert_eq!(site.post("/c", &json!([1, 2, 3])).json(), 3);
    // What would be an error of the server's, about what the client sent.
    assert_eq!(
        site.send("POST", "/c", "text/plain", "").json(),
        Value::Null
    );
    assert_eq!(
        site.post("/c", &json!({})).error(),
        error(400, "a value does not fit")
    );
    assert_eq!(site.send("POST", "/c", "text/plain", "{").error().0, 400);
}

#[test]
fn what_a_client_sends_is_never_sql() {
    let users = "create table secrets (owner text, what text); insert into secrets values ('ada', 'her own'), ('root', 'not yours')";
    let site = Site::start(
        users,
        "",
        &route(
            "/{owner}",
            "GET",
            "sql = \"select what from secrets where owner = $1\", params = [\"{owner}\"]",
        ),
    );
    assert_eq!(site.get("/ada").json(), json!([{"what": "her own"}]));
    for attempt in [
        "' or '1'='1",
        "ada'; drop table secrets; --",
        "ada' union select what from secrets --",
        "$1",
        "\\'",
        "ada\\",
        "%",
        "ada\u{2019} or true",
    ] {
        let path: String = attempt.bytes().map(|b| format!("%{b:02X}")).collect();
        assert_eq!(site.get(&format!("/{path}")).body, "[]", "{attempt}");
    }
    assert_eq!(site.cluster.psql("select count(*) from secrets"), "2");
}

#[test]
fn writing() {
    let tables = "create table shelves (id int primary key);
        create table books (id serial primary key, title text not null check (title <> ''), isbn text unique, shelf int references shelves);
        insert into shelves values (1)";
    let params = "params = [\"{body.title}\", \"{body.isbn}\", \"{body.shelf}\"]";
    let insert = "insert into books (title, isbn, shelf) values ($1, $2, $3)";
    let routes = [
        route(
            "/books",
            "POST",
            &format!(
                "sql = \"{insert} returning id, title\", {params}, shape = \"one\", status = 201"
            ),
        ),
        route("/silent", "POST", &format!("sql = \"{insert}\", {params}")),
        route(
            "/books/{id}",
            "DELETE",
            "sql = \"delete from books where id = $1\", params = [\"{id}\"], shape = \"one\"",
        ),
        route(
            "/books/{id}",
            "PUT",
            "sql = \"update books set title = $2 where id = $1 returning title\", params = [\"{id}\", \"{body.title}\"], shape = \"value\"",
        ),
        route(
            "/books",
            "GET",
            "sql = \"select id, title from books order by id\"",
        ),
    ];
    let site = Site::start(tables, "", &routes.concat());
    let made = site.post("/books", &json!({"title": "Emma", "isbn": "1", "shelf": 1}));
    assert_eq!(
        (made.status, made.json()),
        (201, json!({"id": 1, "title": "Emma"}))
    );
    let silent = site.post("/silent", &json!({"title": "Persuasion"}));
    assert_eq!((silent.status, silent.body.as_str()), (204, ""));
    for (body, answer) in [
        (
            json!({"title": "Again", "isbn": "1"}),
            error(409, "there is one already"),
        ),
        (
            json!({"title": "Nowhere", "shelf": 9}),
            error(
                409,
                "it refers to what is not there, or something refers to it",
            ),
        ),
        (json!({"isbn": "2"}), error(422, "a value is missing")),
        (json!({"title": ""}), error(422, "a value is not allowed")),
    ] {
        assert_eq!(site.post("/books", &body).error(), answer, "{body}");
    }
    let put = site.send(
        "PUT",
        "/books/1",
        "application/json",
        r#"{"title": "Emma II"}"#,
    );
    assert_eq!((put.status, put.json()), (200, json!("Emma II")));
    assert_eq!(
        site.send("PUT", "/books/99", "application/json", r#"{"title": "x"}"#)
            .status,
        404
    );
    let delete = |id| site.ask(&format!("/books/{id}"), &["-X", "DELETE"]).status;
    assert_eq!((delete(1), delete(1)), (204, 404));
    assert_eq!(
        site.get("/books").json(),
        json!([{"id": 2, "title": "Persuasion"}])
    );
    assert_eq!(site.ask("/books", &["-X", "PUT"]).status, 405);
}

#[test]
fn a_get_cannot_write() {
    let sql = "create table visits (n int); insert into visits values (0);
        create function visit() returns int language sql as 'update visits set n = n + 1 returning n'";
    let visit = "sql = \"select visit()\", shape = \"value\"";
    let with = "sql = \"with w as (delete from visits returning n) select count(*) from w\"";
    let routes = [
        route("/visit", "GET", visit),
        route("/visit", "POST", visit),
        route("/with", "GET", with),
    ];
    let mut site = Site::start(sql, "", &routes.concat());
    for path in ["/visit", "/with", "/visit"] {
        assert_eq!(site.get(path).error(), error(500, "Internal Server Error"));
        site.server.wait_for("in a read-only transaction (25006)");
    }
    assert_eq!(site.cluster.psql("select n from visits"), "0");
    assert_eq!(site.ask("/visit", &["-X", "POST"]).json(), 1);
    assert_eq!(site.get("/visit").status, 500);
}

#[test]
fn what_goes_wrong_here_is_told_to_the_log() {
    let routes = [
        route("/syntax", "GET", "sql = \"selec 1\"")
            .replace("methods = [\"GET\"]", "methods = [\"POST\"]"),
        route("/table", "GET", "sql = \"select secret from nowhere\""),
        route(
            "/zero",
            "GET",
            "sql = \"select 1 / $1::int\", params = [\"{query.n}\"]",
        ),
        route(
            "/fixed",
            "GET",
            "sql = \"select $1::int\", params = [\"seven\"]",
        ),
        route(
            "/data",
            "GET",
            "sql = \"select t::int from (values ('a secret')) v(t)\"",
        ),
    ];
    let mut site = Site::start("", "", &routes.concat());
    let ours = error(500, "Internal Server Error");
    assert_eq!(site.ask("/syntax", &["-X", "POST"]).error(), ours);
    let line = site.server.wait_for("syntax error");
    assert!(
        line.contains("(42601), at character 1 of the query"),
        "{line}"
    );
    assert_eq!(site.get("/table").error(), ours);
    site.server.wait_for("relation \"nowhere\" does not exist");
    assert_eq!(site.get("/zero?n=0").error(), ours);
    site.server.wait_for("division by zero");
    assert_eq!(site.get("/fixed").error(), ours);
    site.server.wait_for("\"seven\" is no integer");
    // A value that does not fit, but not one of the client's; and what is in the table is nobody's to know.
    assert_eq!(site.get("/data").error(), ours);
    site.server
        .wait_for("invalid input syntax for type integer");
}

#[test]
fn too_long_and_too_many() {
    let sleep = "sql = \"select pg_sleep(10)\"";
    let routes = [
        route("/slow", "GET", &format!("{sleep}, timeout = \"200ms\"")),
        route("/sleep", "GET", sleep),
    ];
    let keys =
        "connections = 1\nqueue = 1\nqueue_wait = \"1s\"\npipeline = 1\nstatement_timeout = \"3s\"";
    let mut site = Site::start("", keys, &routes.concat());
    assert_eq!(site.get("/slow").error(), error(504, "Gateway Timeout"));
    site.server.wait_for("no answer within 200ms (timeout)");
    // The server's own limit.
    assert_eq!(site.get("/sleep").error(), error(504, "Gateway Timeout"));
    // One is under way, one waits, the third is too many; the second waits too long.
    let start = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut socket = site.connect();
        socket
            .write_all(b"GET /sleep HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .expect("sent");
        waiting.push(socket);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut said = waiting.into_iter().map(|mut socket| {
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        text.get(9..12).map(str::to_string).expect("a status")
    });
    let statuses: Vec<String> = said.by_ref().collect();
    assert_eq!(statuses, ["504", "503", "503"], "{:?}", start.elapsed());
    site.server
        .wait_for("1 wait for a connection already (queue)");
    site.server.wait_for("(queue_wait");
}

#[test]
fn without_a_database() {
    let mut cluster = Cluster::start(&[]);
    let port = cluster.port;
    cluster.stop();
    let folder = tempfile::tempdir().expect("a folder");
    let routes = route("/", "GET", "sql = \"select 1\", shape = \"value\"");
    write(
        folder.path(),
        &config(
            &cluster,
            "queue_wait = \"500ms\"\nretry = \"200ms\"",
            &routes,
        ),
    );
    let mut server = Running::start(&mut loopwright(folder.path(), &["run"]));
    let url = server.url();
    let ask = || {
        let said = run(Command::new("curl").args(["-sS", "-m", "20", "-w", " %{http_code}", &url]));
        said.out
    };
    assert_eq!(ask(), r#"{"error":"Service Unavailable"} 503"#);
    server.wait_for("no connection, after 500ms");
    cluster.start_again();
    assert_eq!(cluster.port, port);
    eventually("it is found again", || ask() == "1 200");
    // Connections that have ended meanwhile are not used again.
    cluster.stop();
    cluster.start_again();
    eventually("it is found once more", || ask() == "1 200");
}

/// Kibibytes of memory, at the most so far.
fn peak(pid: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let digits = line.and_then(|line| line.split_whitespace().nth(1));
    digits
        .and_then(|digits| digits.parse().ok())
        .expect("a number")
}

#[test]
fn a_million_rows_in_little_memory() {
    // Not in `from`, where the server would gather them all before the first.
    let sql = "sql = \"select generate_series(1, $1::int) as id, repeat('x', 100) as text\", params = [\"{query.n}\"], rows = 0";
    let routes = [
        route("/rows", "GET", sql),
        route(
            "/broken",
            "GET",
            &sql.replace(
                "generate_series(1, $1::int)",
                "1 / (50000 - generate_series(1, $1::int))",
            ),
        ),
    ];
    let mut site = Site::start("", "connections = 2", &routes.concat());
    let few = site.get("/rows?n=2").json();
    assert_eq!(few[1]["id"], 2);
    let pid = site.cluster.psql("select 1");
    assert_eq!(pid, "1");
    let pid = site.server.pid().to_string();
    let before = peak(&pid);

    // A client that takes nothing for a while, and then all of it.
    let mut socket = site.connect();
    socket
        .write_all(b"GET /rows?n=1000000 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .expect("sent");
    std::thread::sleep(Duration::from_secs(1));
    let (mut rows, mut bytes, mut piece) = (0, 0, vec![0; 1 << 16]);
    let mut last = Vec::new();
    loop {
        let n = socket.read(&mut piece).expect("bytes");
        if n == 0 {
            break;
        }
        bytes += n;
        rows += piece[..n].iter().filter(|b| **b == b'{').count();
        last = piece[n.saturating_sub(40)..n].to_vec();
    }
    assert!(
        last.ends_with(b"]\r\n0\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&last)
    );
    assert_eq!(rows, 1_000_000);
    let grown = peak(&pid) - before;
    assert!(bytes > 100 << 20, "{bytes}");
    assert!(grown < 16 << 10, "{grown} KiB for {bytes} bytes");

    // What goes wrong before anything was sent has a status; what goes wrong later breaks the answer off.
    assert_eq!(site.get("/rows?n=x").error().0, 400);
    let url = format!("{}/broken?n=100000", site.url);
    let said = run(Command::new("curl").args(["-sS", "-m", "20", "-o", "/dev/null", &url]));
    assert_ne!(said.code, Some(0));
    site.server.wait_for("division by zero");

    // Who leaves takes the query along.
    let mut socket = site.connect();
    socket
        .write_all(b"GET /rows?n=100000000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    socket.read_exact(&mut [0; 1000]).expect("a beginning");
    drop(socket);
    eventually("the query is cancelled", || {
        let sql = "select count(*) from pg_stat_activity where state = 'active' and query like '%generate_series%' and pid <> pg_backend_pid()";
        site.cluster.psql(sql) == "0"
    });
    assert_eq!(site.get("/rows?n=1").status, 200);
}

#[test]
fn a_changed_query_is_there_after_hup() {
    let of = |what| {
        route(
            "/",
            "GET",
            &format!("sql = \"select {what}, pg_backend_pid() as pid\", shape = \"one\""),
        )
    };
    let mut site = Site::start("", "connections = 1", &of("1 as old"));
    let first = site.get("/").json();
    assert_eq!(first["old"], 1);
    let change = |site: &mut Site, keys: &str, routes: &str| {
        write(site.folder.path(), &config(&site.cluster, keys, routes));
        site.server.signal("HUP");
    };
    change(&mut site, "connections = 1", &of("2 as new"));
    eventually("the new one", || site.get("/").json()["new"] == 2);
    // The database is the same, and so is the connection.
    assert_eq!(site.get("/").json()["pid"], first["pid"]);
    // With a mistake, all stays as it is.
    change(&mut site, "connections = 1", &of("3 as new, $1"));
    site.server
        .wait_for("the statement has $1, and `params` has 0");
    assert_eq!(site.get("/").json()["new"], 2);
    change(&mut site, "connections = 2", &of("4 as new"));
    eventually("the newest", || site.get("/").json()["new"] == 4);
    assert_ne!(site.get("/").json()["pid"], first["pid"]);
}

#[test]
fn check_asks_the_databases_if_it_is_told_to() {
    let cluster = Cluster::shared();
    let folder = tempfile::tempdir().expect("a folder");
    let check = |args: &[&str]| run(&mut loopwright(folder.path(), &[&["check"], args].concat()));
    cluster.psql("create table checked (id int, name text)");
    let right = [
        route(
            "/a/{id}",
            "GET",
            "sql = \"select name from checked where id = $1\", params = [\"{id}\"]",
        ),
        route(
            "/b",
            "POST",
            "sql = \"insert into checked values ($1)\", params = [\"{body.id}\"]",
        ),
        route("/c", "GET", "sql = \"show work_mem\""),
    ];
    write(folder.path(), &config(&cluster, "", &right.concat()));
    let said = check(&[]);
    let plain = "loopwright.toml: no mistakes, routes: 3\nqueries: 3, seen without their databases: --connect asks those\n";
    assert_eq!((said.code, &said.out[..]), (Some(0), plain), "{}", said.err);
    let said = check(&["--connect"]);
    let asked = "loopwright.toml: no mistakes, routes: 3\nqueries: 3\ndatabase main: takes 2\n\
        database main: /c: of a kind that cannot be prepared\n";
    assert_eq!((said.code, &said.out[..]), (Some(0), asked), "{}", said.err);
    assert_eq!(cluster.psql("select count(*) from checked"), "0");

    let wrong = [
        route("/a", "GET", "sql = \"select nmae from checked\""),
        route(
            "/b",
            "GET",
            "sql = \"\"\"\n  select id\n  form checked\n\"\"\"",
        ),
        route(
            "/c",
            "GET",
            "sql = \"select $1 + $2\", params = [\"{query.a}\", \"{query.b}\"]",
        ),
        route("/d", "POST", "sql = \"insert into nowhere values (1)\""),
        route(
            "/e",
            "GET",
            "sql = \"select \\u0022nmae\\u0022 from checked\"",
        ),
    ];
    write(folder.path(), &config(&cluster, "", &wrong.concat()));
    assert_eq!(check(&[]).code, Some(0));
    let said = check(&["--connect"]);
    assert_eq!((said.code, &said.out[..]), (Some(78), ""));
    for (what, place) in [
        ("column \"nmae\" does not exist (42703)", "^^^^ "),
        ("syntax error at or near \"checked\" (42601)", "^^^^^^^ "),
        ("operator is not unique: unknown + unknown (42725)", "^ "),
        ("relation \"nowhere\" does not exist (42P01)", "^^^^^^^ "),
        // It is not written there as it is: all of it is meant.
        ("column \"nmae\" does not exist (42703)", "^^^^^^^^^^^"),
    ] {
        let title = format!("error: {what}");
        let mut told = said.err.split(&title).skip(1);
        let at = |part: &str| {
            part.split("\n\n")
                .next()
                .is_some_and(|one| one.contains(place))
        };
        assert!(told.any(at), "{what}: {}", said.err);
    }
    assert!(
        said.err.contains("5 mistakes in loopwright.toml"),
        "{}",
        said.err
    );

    // Its password is wrong, or nobody is there: said where the URL stands, and the password nowhere.
    let text = config(&cluster, "", &right.concat());
    for (instead, why) in [
        ("postgres://scram:wr0ng@", "password authentication failed"),
        (
            "postgres://scram@",
            "the server wants a password, and there is none",
        ),
    ] {
        write(
            folder.path(),
            &text.replace("postgres://postgres@", instead),
        );
        let said = check(&["--connect"]);
        assert_eq!(said.code, Some(78));
        assert!(
            said.err.contains("this database cannot be reached: ") && said.err.contains(why),
            "{}",
            said.err
        );
    }
    // A key of its own holds in place of the URL's, and stands there as it is.
    let text = text.replace("postgres://postgres@", "postgres://odd:wr0ng@");
    let text_with = |password: &str| {
        let line = format!("[databases.main]\npassword = '{password}'");
        text.replace("[databases.main]", &line)
    };
    write(folder.path(), &text_with("p%41#/w:@ \u{e9}"));
    let said = check(&["--connect"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    write(folder.path(), &text_with("pA#/w:@ \u{e9}"));
    let said = check(&["--connect"]).err;
    assert!(
        said.contains("password authentication failed") && !said.contains("pA#"),
        "{said}"
    );
    let text = config(&cluster, "", &right.concat());
    let port = format!(":{}/", cluster.port);
    write(folder.path(), &text.replace(&port, ":1/"));
    assert!(check(&["--connect"]).err.contains("Connection refused"));
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    write(
        folder.path(),
        &text.replace(&port, &format!(":{}/", address.port())),
    );
    let said = check(&["--connect"]);
    assert!(said.err.contains("no answer within 10s"), "{}", said.err);
}

#[test]
fn headers_and_limits_are_those_of_every_route() {
    let cached = route("/", "GET", "sql = \"select 1 as n\"")
        + "headers = { cache-control = \"max-age=60\" }\n";
    let limited = route(
        "/",
        "POST",
        "sql = \"select length($1)\", params = [\"{body}\"], shape = \"value\"",
    ) + "limits = { body = \"10B\" }\n";
    let site = Site::start(
        "",
        "parameters = { search_path = \"pg_catalog\" }",
        &[cached, limited].concat(),
    );
    let answer = site.get("/");
    assert!(
        answer.head.contains("cache-control: max-age=60"),
        "{}",
        answer.head
    );
    assert_eq!(site.send("POST", "/", "text/plain", "12345").json(), 5);
    assert_eq!(
        site.send("POST", "/", "text/plain", "12345678901").status,
        413
    );
}

#[test]
fn what_a_client_has_sent_is_no_fault_of_ours() {
    let page = "params = [\"{query.v}\"]";
    let routes = [
        route(
            "/limit",
            "GET",
            &format!("sql = \"select 1 limit $1\", {page}"),
        ),
        route(
            "/offset",
            "GET",
            &format!("sql = \"select 1 offset $1\", {page}"),
        ),
        route(
            "/like",
            "GET",
            &format!("sql = \"select 1 where 'ab' like $1\", {page}"),
        ),
        route(
            "/regex",
            "GET",
            &format!("sql = \"select 1 where 'a' ~ $1\", {page}"),
        ),
        route(
            "/deep",
            "POST",
            "sql = \"select $1::jsonb is null\", params = [\"{body}\"]",
        ),
        route(
            "/log",
            "GET",
            &format!("sql = \"select ln($1::float8)\", {page}"),
        ),
        route(
            "/zone",
            "GET",
            &format!("sql = \"select now() at time zone $1\", {page}"),
        ),
        route(
            "/code",
            "GET",
            &format!("sql = \"select decode($1, 'hex')\", {page}"),
        ),
        route(
            "/base",
            "GET",
            &format!("sql = \"select decode($1, 'base64')\", {page}"),
        ),
        route(
            "/path",
            "GET",
            &format!("sql = \"select '{{}}'::jsonb @? $1::jsonpath\", {page}"),
        ),
    ];
    let site = Site::start("", "", &routes.concat());
    let deep = "[".repeat(50_000) + &"]".repeat(50_000);
    let mut wrong = Vec::new();
    for (path, status) in [
        ("/limit?v=-1", site.get("/limit?v=-1").status),
        ("/offset?v=-1", site.get("/offset?v=-1").status),
        ("/like?v=a\\", site.get("/like?v=a%5C").status),
        ("/regex?v=(", site.get("/regex?v=(").status),
        ("/log?v=0", site.get("/log?v=0").status),
        ("/zone?v=nowhere", site.get("/zone?v=nowhere").status),
        ("/code?v=x", site.get("/code?v=x").status),
        ("/base?v=a", site.get("/base?v=a").status),
        ("/path?v=(", site.get("/path?v=(").status),
        (
            "/deep",
            site.send("POST", "/deep", "application/json", &deep).status,
        ),
    ] {
        if status != 400 {
            wrong.push((path, status));
        }
    }
    assert_eq!(wrong, []);
}

#[test]
fn answers_without_a_body() {
    let many = "select n from generate_series(1, 100000) n";
    let routes = [
        route("/one", "GET", "sql = \"select 1 as n\", shape = \"one\""),
        route("/many", "GET", &format!("sql = \"{many}\", rows = 0")),
        route("/silent", "POST", "sql = \"select 1 as n\", status = 204"),
    ];
    let site = Site::start("", "", &routes.concat());
    for path in ["/one", "/many", "/one"] {
        let head = site.ask(path, &["-I"]);
        assert_eq!((head.status, head.body.trim_end()), (200, ""), "{path}");
        assert_eq!(
            head.field("content-type"),
            Some("application/json"),
            "{path}"
        );
    }
    // On one connection: no byte of a body is taken for the next answer.
    let mut socket = site.connect();
    let ask = "POST /silent HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n";
    let text = format!("{ask}\r\n{ask}connection: close\r\n\r\n");
    socket.write_all(text.as_bytes()).expect("sent");
    let mut said = String::new();
    socket.read_to_string(&mut said).expect("an answer");
    let heads: Vec<_> = said.trim_end().split("\r\n\r\n").collect();
    assert_eq!(heads.len(), 2, "{said}");
    assert!(
        heads.iter().all(|head| head.starts_with("HTTP/1.1 204")),
        "{said}"
    );
}

#[test]
fn few_bytes_of_a_table_are_not_gathered_as_many_of_json() {
    let routes = [
        route("/all", "GET", "sql = \"select n from huge\""),
        route(
            "/add",
            "POST",
            "sql = \"insert into huge values ($1)\", params = [\"{body.n}\"]",
        ),
    ];
    let mut site = Site::start("create table huge (n numeric)", "", &routes.concat());
    assert_eq!(site.post("/add", &json!({"n": "1e131071"})).status, 204);
    assert_eq!(site.get("/all").body.len(), 131_072 + 8);
    site.cluster
        .psql("insert into huge select n from huge, generate_series(1, 999)");
    let all = site.get("/all");
    assert_eq!((all.status, all.body.len() < 100), (500, true));
    site.server.wait_for("bytes of JSON");
}

#[test]
fn a_get_cannot_be_made_to_write_by_the_one_before_it() {
    let sql = "create table marks (n int);
        create function mark() returns int language sql as 'insert into marks values (1) returning n';
        create function unlock() returns text language sql as
            'select set_config(''default_transaction_read_only'', ''off'', false)'";
    let routes = [
        route("/mark", "GET", "sql = \"select mark()\""),
        route("/unlock", "GET", "sql = \"select unlock()\""),
    ];
    let site = Site::start(sql, "connections = 1", &routes.concat());
    assert_eq!(site.get("/unlock").status, 200);
    assert_eq!(site.get("/mark").status, 500);
    assert_eq!(site.cluster.psql("select count(*) from marks"), "0");
}

#[test]
fn what_is_longer_than_a_message_is_413() {
    let echo = "sql = \"select length($1)\", params = [\"{body}\"], shape = \"value\"";
    let keys = "message = \"64KiB\"";
    let site = Site::start("", keys, &route("/length", "POST", echo));
    let send = |length| site.send("POST", "/length", "text/plain", &"x".repeat(length));
    assert_eq!(send(60_000).json(), 60_000);
    for length in [70_000, 100_000] {
        let want = error(413, "more than a query can hold");
        assert_eq!(send(length).error(), want, "{length}");
    }
}
