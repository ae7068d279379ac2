//! docs/samples: each config runs, and does what its comments say. The real binary, asked by curl.

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
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{PATIENCE, Running, in_crate, loopwright, run};
use tempfile::TempDir;

/// A copy of the samples, and a server that runs one of them.
struct Sample {
    folder: TempDir,
    server: Running,
    url: String,
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(fs::copy(&path, &target).expect("a file")),
        }
    }
}

impl Sample {
    fn start(name: &str, prepare: impl FnOnce(&Path)) -> Sample {
        Sample::start_with(name, prepare, |_| ())
    }

    fn start_with(
        name: &str,
        prepare: impl FnOnce(&Path),
        surround: impl FnOnce(&mut Command),
    ) -> Sample {
        let folder = tempfile::tempdir().expect("a folder");
        copy_folder(&in_crate("docs/samples"), folder.path());
        prepare(folder.path());
        let file = format!("{name}.toml");
        // From elsewhere: what the sample names is found from its own folder.
        let path = folder.path().join(&file);
        let args = ["run", "-c", path.to_str().expect("UTF-8")];
        let elsewhere = Path::new("/");
        let mut command = loopwright(elsewhere, &args);
        command.env("LISTEN", "127.0.0.1:0").env("WORKERS", "2");
        surround(&mut command);
        let mut server = Running::start(&mut command);
        let url = server.url();
        Sample {
            folder,
            server,
            url,
        }
    }

    /// Asks for a path, with more arguments for curl.
    fn ask(&self, path: &str, args: &[&str]) -> Answer {
        ask(&format!("{}{path}", self.url), args)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(path, &[])
    }

    /// Where a redirect leads.
    fn leads(&self, host: &str, path: &str, args: &[&str]) -> (u16, String) {
        let host = format!("host: {host}");
        let answer = self.ask(path, &[&["-H", &host], args].concat());
        let to = answer.field("location").unwrap_or("nowhere").to_string();
        (answer.status, to)
    }

    fn stop(self) {
        assert_eq!(self.server.stop(), Some(0));
    }
}

#[test]
fn a_static_site() {
    let sample = Sample::start("static", |folder| {
        let css = folder.join("site/assets/style.1f0c3a.css");
        let gzip = run(Command::new("gzip").arg("-k9").arg(css));
        assert_eq!((gzip.code, gzip.err.as_str()), (Some(0), ""));
    });
    let home = sample.get("/");
    assert_eq!(home.status, 200);
    assert!(home.body.contains("<h1>Harbour notes</h1>"));
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("content-security-policy", "default-src 'self'"),
    ] {
        assert_eq!(home.field(name), Some(value), "{}", home.head);
    }
    let tag = format!("if-none-match: {}", home.field("etag").expect("a tag"));
    assert_eq!(sample.ask("/", &["-H", &tag]).status, 304);

    let about = sample.get("/about");
    assert_eq!(
        (about.status, about.field("cache-control")),
        (200, Some("no-cache"))
    );
    assert!(about.body.contains("<h1>About</h1>"));

    let css = "/assets/style.1f0c3a.css";
    let plain = sample.get(css);
    let for_ever = Some("public, max-age=31536000, immutable");
    assert_eq!(
        (plain.status, plain.field("cache-control")),
        (200, for_ever)
    );
    assert_eq!(plain.field("content-encoding"), None);
    let small = sample.ask(css, &["--compressed"]);
    assert_eq!(small.field("content-encoding"), Some("gzip"));
    assert_eq!(
        (small.field("vary"), &small.body),
        (Some("accept-encoding"), &plain.body)
    );

    let nowhere = sample.get("/nowhere");
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.body.contains("<h1>Not here</h1>"));
    let post = sample.ask("/", &["-d", "x"]);
    assert_eq!(
        (post.status, post.field("allow")),
        (405, Some("GET, HEAD, OPTIONS"))
    );
    assert!(post.body.contains("<h1>Not here</h1>"));
    // Every link of the pages leads somewhere, but for the one that is meant not to.
    for page in [&home.body, &about.body, &nowhere.body] {
        for link in page
            .split("href=\"")
            .skip(1)
            .filter_map(|part| part.split('"').next())
        {
            let want = if link == "/nowhere" { 404 } else { 200 };
            assert_eq!(sample.get(link).status, want, "{link}");
        }
    }
    sample.stop();
}

#[test]
fn a_single_page_app() {
    let sample = Sample::start("spa", |_| ());
    let home = sample.get("/");
    for path in ["/inbox", "/users/7/edit", "/users/"] {
        let page = sample.get(path);
        assert_eq!((page.status, &page.body), (200, &home.body), "{path}");
        assert_eq!(page.field("cache-control"), Some("no-cache"), "{path}");
        assert_eq!(page.field("x-frame-options"), Some("DENY"), "{path}");
    }
    let css = sample.get("/assets/style.1f0c3a.css");
    let for_ever = Some("public, max-age=31536000, immutable");
    assert_eq!((css.status, css.field("cache-control")), (200, for_ever));
    let old = sample.get("/assets/style.000000.css");
    assert_eq!(old.status, 404, "a page for a style sheet");
    let api = sample.get("/api/users/7");
    assert_eq!(
        (api.status, &api.body[..]),
        (404, "{\"error\":\"not found\"}")
    );
    assert_eq!(api.field("content-type"), Some("application/json"));
    sample.stop();
}

#[test]
fn redirects_and_hosts() {
    let sample = Sample::start("redirects", |_| ());
    for (host, path, want) in [
        ("www.example.org", "/", (301, "https://example.org/")),
        (
            "www.example.org",
            "/a/b?c=d",
            (301, "https://example.org/a/b?c=d"),
        ),
        (
            "WWW.EXAMPLE.ORG:80",
            "/about",
            (301, "https://example.org/about"),
        ),
        (
            "example.org",
            "/blog/2026/05",
            (308, "https://blog.example.org/2026/05"),
        ),
        ("example.org", "/blog/", (308, "https://blog.example.org/")),
        ("example.org", "/users/ada", (308, "/people/ada")),
        ("example.org", "/users/a%20b", (308, "/people/a%20b")),
        (
            "example.org",
            "/sale?x=y",
            (302, "/campaigns/autumn?from=sale"),
        ),
        ("example.org", "/about.html", (301, "/about")),
        ("example.org", "/about", (200, "nowhere")),
        ("example.org", "/assets/style.1f0c3a.css", (200, "nowhere")),
        ("example.org", "/guestbook", (410, "nowhere")),
        ("example.org", "/nowhere", (404, "nowhere")),
    ] {
        let (status, to) = sample.leads(host, path, &[]);
        assert_eq!((status, to.as_str()), want, "{host}{path}");
    }
    let post = sample.leads("example.org", "/subscribe", &["-d", "name=ada"]);
    assert_eq!(post, (307, "/forms/subscribe".to_string()));
    let status = sample.ask("/any/path", &["-H", "host: status.example.org"]);
    assert_eq!(
        (status.status, status.body.as_str()),
        (200, "All is well.\n")
    );
    assert_eq!(status.field("cache-control"), Some("no-store"));
    sample.stop();
}

#[test]
fn workers_with_an_access_log() {
    let sample = Sample::start("workers", |_| ());
    let health = sample.get("/health");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    assert_eq!(health.field("server"), None);
    let body = |bytes: usize| "x".repeat(bytes);
    assert_eq!(sample.ask("/health", &["-d", &body(1025)]).status, 413);
    let report = |bytes| sample.ask("/csp-report", &["-d", &body(bytes)]).status;
    assert_eq!((report(2000), report(70_000)), (204, 413));
    let long = sample.get(&format!("/{}", body(3000)));
    assert_eq!(long.status, 414);
    assert_eq!(sample.get("/nowhere?a=b").status, 404);

    let file = sample.folder.path().join("access.log");
    let read = |wanted: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if text.lines().any(|line| line.contains(wanted)) && text.ends_with('\n') {
                return text;
            }
            assert!(Instant::now() < deadline, "no {wanted:?} in: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let text = read("/nowhere");
    let line = |path: &str| {
        let line = text.lines().find(|line| line.contains(path)).expect(path);
        serde_json::from_str::<serde_json::Value>(line).expect("a line is JSON")
    };
    let (health, nowhere) = (line("/health"), line("/nowhere"));
    assert_eq!(
        (&health["status"], &nowhere["status"]),
        (&200.into(), &404.into())
    );
    assert_eq!(nowhere["method"], "GET");

    // Rotation, as the sample says: away with the file, then USR1.
    fs::rename(&file, file.with_extension("log.1")).expect("rename");
    sample.server.signal("USR1");
    // The signal is on its way through the parent to both workers.
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        assert!(Instant::now() < deadline, "no new file");
        sample.get("/health");
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = fs::read_to_string(file.with_extension("log.1")).expect("the old log");
    assert!(before.contains("/nowhere"), "{before}");
    sample.stop();
}

/// What the unit says of exit codes and signals is what the program does; the rest is systemd's to
/// judge, where there is one.
#[test]
fn the_unit() {
    let path = in_crate("docs/samples/loopwright.service");
    let unit = fs::read_to_string(path).expect("the unit");
    for line in [
        "Type=exec",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartPreventExitStatus=78 2",
        "KillMode=mixed",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    ] {
        assert!(unit.lines().any(|known| known == line), "no {line}");
    }
    // A broken config fails the reload, before the signal.
    let reload: Vec<_> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecReload="))
        .collect();
    assert!(reload.len() == 2 && reload[0].contains(" check ") && reload[1].contains("kill"));
    assert!(!unit.contains("\nExecStartPre="), "it hides the exit code");
    let command = "/usr/local/bin/loopwright ";
    let folder = tempfile::tempdir().expect("a folder");
    for args in unit.lines().filter_map(|line| line.split_once(command)) {
        let args: Vec<&str> = args.1.split(' ').collect();
        let help = [&args[..1], &["--help"]].concat();
        assert_eq!(run(&mut loopwright(folder.path(), &help)).code, Some(0));
        assert_eq!(args[1..], ["-c", "/etc/loopwright/loopwright.toml"]);
    }
}

/// The image copies what is there.
#[test]
fn the_dockerfile() {
    let text = fs::read_to_string(in_crate("docs/samples/Dockerfile")).expect("the file");
    let copied = text
        .lines()
        .filter_map(|line| line.strip_prefix("COPY docs"));
    let mut seen = 0;
    for path in copied.filter_map(|rest| rest.split(' ').next()) {
        assert!(
            in_crate("docs").join(path.trim_start_matches('/')).exists(),
            "{path}"
        );
        seen += 1;
    }
    assert_eq!(seen, 2);
    for line in [
        "STOPSIGNAL SIGTERM",
        "EXPOSE 8080",
        "ENV LISTEN=0.0.0.0:8080",
    ] {
        assert!(text.lines().any(|known| known == line), "no {line}");
    }
    assert!(text.contains(":nonroot\n"), "root");
    let manifest = fs::read_to_string(in_crate("Cargo.toml")).expect("the manifest");
    let rust = |text: &str, before: &str| -> Option<String> {
        let version = text.split(before).nth(1)?.split(['"', '-']).next()?;
        Some(version.to_string())
    };
    assert_eq!(
        rust(&text, "FROM rust:"),
        rust(&manifest, "rust-version = \"")
    );
}

/// A command that goes on until it is killed; what it has said so far.
struct Following {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
    said: String,
}

impl Following {
    fn start(command: &mut Command) -> Following {
        use std::io::{BufRead, BufReader};
        let piped = command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped());
        let mut child = piped.spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .for_each(|line| drop(tell.send(line)));
        });
        Following {
            child,
            lines,
            said: String::new(),
        }
    }

    /// The next line.
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    fn wait_for(&mut self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said.contains(what) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said += &(line + "\n"),
                Err(e) => panic!("{e}: {what:?} never came: {}", self.said),
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With `websockets`: the one that `scripts/test` has made, if it has.
fn python() -> String {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python/bin/python3");
    match made.exists() {
        true => made.display().to_string(),
        false => "python3".into(),
    }
}

/// curl, by events and by polls, and Python's websockets in the same room.
#[test]
fn a_channel() {
    let sample = Sample::start("channel", |_| ());
    let room = format!("{}/rooms/7", sample.url);
    let mut events =
        Following::start(Command::new("curl").args(["-sSN", &format!("{room}?events&since=")]));
    let all = format!("{room}?since=");
    let accept = ["-sSN", "-H", "Accept: text/event-stream", &all];
    let mut accepting = Following::start(Command::new("curl").args(accept));
    const PEER: &str = "
import sys
from websockets.sync.client import connect
with connect(sys.argv[1]) as ws:
    print('joined', flush=True)
    ws.send('hello from Python')
    for message in ws:
        print(message, flush=True)
";
    let mut python = Following::start(Command::new(python()).args([
        "-c",
        PEER,
        &room.replace("http://", "ws://"),
    ]));
    python.wait_for("joined\nhello from Python\n");
    for n in 1..=3 {
        let said = sample.ask("/rooms/7", &["-d", &format!("hello {n} from curl")]);
        assert_eq!(
            (said.status, said.field("content-type")),
            (202, Some("application/json"))
        );
        assert!(said.body.starts_with("{\"id\":\""), "{}", said.body);
    }
    for follower in [&mut python, &mut events, &mut accepting] {
        follower.wait_for("hello 3 from curl\n");
    }
    let held = sample.get("/rooms/7");
    assert!(held.body.contains("hello from Python") && held.body.contains("hello 2 from curl"));
    let last = held.field("last-event-id").expect("an id");
    let first = held.body.split('"').nth(3).expect("the first id");
    let missed = sample.get(&format!("/rooms/7?since={first}"));
    assert!(missed.body.contains("hello 1 from curl") && !missed.body.contains("Python"));
    assert_eq!(missed.field("last-event-id"), Some(last));
    let too_long = "x".repeat(4097);
    let refused = sample.ask("/rooms/7", &["--data-binary", &too_long]);
    assert_eq!(refused.status, 413);
    assert_eq!(sample.ask("/rooms/7", &["-X", "PUT", "-d", ""]).status, 405);
    drop((events, accepting, python));
    sample.stop();
}

/// Something to stand in front of: says its name, the path and the fields it is asked with; /healthz as it is told;
/// and a WebSocket that echoes.
const APP: &str = "
import sys, http.server, base64, hashlib, threading
name, well = sys.argv[1], threading.Event()
well.set()
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *rest): pass
    def answer(self, status, body=b''):
        self.send_response(status)
        self.send_header('content-length', str(len(body)))
        self.send_header('x-powered-by', 'python')
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == '/healthz': return self.answer(200 if well.is_set() else 500)
        if self.path == '/fall-ill': well.clear()
        if self.path == '/flaky' and name == 'one': return self.answer(503)
        if self.headers['upgrade']:
            key = self.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
            self.send_response(101)
            self.send_header('upgrade', 'websocket')
            self.send_header('connection', 'upgrade')
            self.send_header('sec-websocket-accept', base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            head = self.rfile.read(6)
            said = bytes(b ^ head[2 + n % 4] for n, b in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(bytes([0x81, len(said)]) + said)
            self.rfile.read(1)
            self.close_connection = True
            return
        said = [name, self.path, self.headers['x-forwarded-for'], self.headers['x-request-id']]
        self.answer(200, ' '.join(map(str, said)).encode())
    def do_POST(self):
        self.answer(200, str(len(self.rfile.read(int(self.headers['content-length'])))).encode())
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), App)
print(server.server_port, flush=True)
server.serve_forever()
";

#[test]
fn a_proxy() {
    let start = |name| {
        let app = Following::start(Command::new(python()).args(["-c", APP, name]));
        let port = app.line();
        (app, format!("127.0.0.1:{port}"))
    };
    let apps = ["one", "two", "spare"].map(start);
    let sample = Sample::start_with(
        "proxy",
        |_| (),
        |command| {
            for (name, (_, address)) in ["APP_1", "APP_2", "APP_SPARE"].iter().zip(&apps) {
                command.env(name, address);
            }
            command.env("CHECK_EVERY", "50ms");
            command.env("STICKY_SECRET", "of this test, and of no other");
        },
    );
    let checked = run(
        loopwright(sample.folder.path(), &["check", "-c", "proxy.toml"])
            .env("STICKY_SECRET", "sixteen bytes or more"),
    );
    assert_eq!((checked.code, &checked.err[..]), (Some(0), ""));
    // Balanced: both are asked, the spare one is not.
    let name = |answer: &Answer| answer.body.split(' ').next().unwrap_or("").to_string();
    let names =
        |path: &str| -> BTreeSet<String> { (0..40).map(|_| name(&sample.get(path))).collect() };
    let both = BTreeSet::from(["one".to_string(), "two".to_string()]);
    assert_eq!(names("/a"), both);
    // Retried: what one of them never answers well, the other does.
    for _ in 0..10 {
        let answer = sample.get("/flaky");
        assert_eq!((answer.status, name(&answer)), (200, "two".to_string()));
    }
    // Stripped, with fields of ours, and without one of theirs.
    let cart = sample.get("/cart/items?q=1");
    let said: Vec<&str> = cart.body.split(' ').collect();
    assert_eq!(said[1..3], ["/items?q=1", "127.0.0.1"]);
    assert_eq!((said[3].len(), cart.field("x-powered-by")), (16, None));
    // Sticky: a client stays where it was.
    let cookie = cart.field("set-cookie").expect("a cookie");
    let cookie = cookie.split(';').next().expect("its value");
    assert!(cookie.starts_with("server="), "{cookie}");
    for _ in 0..20 {
        let again = sample.ask("/cart/", &["-H", &format!("cookie: {cookie}")]);
        assert_eq!(
            (name(&again), again.field("set-cookie")),
            (name(&cart), None)
        );
    }
    // Gathered, up to the limit.
    let upload = |size: usize| {
        let body = sample.folder.path().join("body");
        fs::write(&body, vec![b'x'; size]).expect("a file");
        let file = format!("@{}", body.display());
        sample.ask("/upload", &["-H", "expect:", "--data-binary", &file])
    };
    assert_eq!(upload(1 << 20).body, "1048576");
    assert_eq!(upload((8 << 20) + 1).status, 413);
    // A WebSocket passes through.
    const PEER: &str = "
import sys
from websockets.sync.client import connect
with connect(sys.argv[1], compression=None) as ws:
    ws.send('hello through')
    print(ws.recv(), flush=True)
";
    let live = sample.url.replace("http://", "ws://") + "/live";
    let mut peer = Following::start(Command::new(python()).args(["-c", PEER, &live]));
    peer.wait_for("hello through\n");
    drop(peer);
    // Health: one says it is ill, and is asked no more; then the other, and the spare one serves.
    let ask = |app: usize| {
        run(Command::new("curl").args(["-sS", &format!("http://{}/fall-ill", apps[app].1)]))
    };
    let eventually = |path: &str, wanted: &str| {
        let deadline = Instant::now() + PATIENCE;
        while names(path) != BTreeSet::from([wanted.to_string()]) {
            assert!(Instant::now() < deadline, "{:?}", names(path));
        }
    };
    assert_eq!(ask(0).code, Some(0));
    eventually("/a", "two");
    assert_eq!(ask(1).code, Some(0));
    eventually("/a", "spare");
    sample.stop();
}

/// Whichever worker a follower or a publisher has come to.
#[test]
fn a_channel_of_several_workers() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 3\n\n\
                  [[routes]]\npath = \"/rooms/{room}\"\nchannel = { topic = \"rooms/{room}\" }\n";
    fs::write(folder.path().join("site.toml"), config).expect("the config");
    let mut server = Running::start(&mut loopwright(folder.path(), &["run", "-c", "site.toml"]));
    let room = format!("{}/rooms/7", server.url());
    let say = |text: &str| {
        let said = run(Command::new("curl").args(["-sS", "-m", "20", "-d", text, &room]));
        assert!(
            said.out.starts_with("{\"id\":\""),
            "{}{}",
            said.out,
            said.err
        );
    };
    let mut followers: Vec<Following> = (0..8)
        .map(|_| Following::start(Command::new("curl").args(["-sSN", &format!("{room}?events")])))
        .collect();
    // Until each has joined, and the workers know of it.
    let deadline = Instant::now() + PATIENCE;
    while !followers
        .iter()
        .all(|follower| follower.said.contains("warm"))
    {
        assert!(Instant::now() < deadline, "somebody never hears");
        say("warm");
        for follower in &mut followers {
            follower.said.extend(follower.lines.try_iter());
        }
    }
    // What came by now has come by a worker's own publisher, or by another's: so many times that both happen.
    for n in 0..30 {
        say(&format!("message {n}."));
    }
    for follower in &mut followers {
        for n in 0..30 {
            follower.wait_for(&format!("message {n}."));
        }
    }
    drop(followers);
    assert_eq!(server.stop(), Some(0));
}

/// With the table that its comments say.
#[test]
fn an_api_over_a_database() {
    let cluster = server::Cluster::start(&[]);
    let text = fs::read_to_string(in_crate("docs/samples/database.toml")).expect("the sample");
    let create = text.lines().find(|line| line.contains("psql notes -c '"));
    let (_, create) = create
        .and_then(|line| line.split_once("-c '"))
        .expect("SQL");
    cluster.psql(create.trim_end_matches('\''));
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port);
    let sample = Sample::start_with(
        "database",
        |_| (),
        |command| {
            command.env("DATABASE", &url);
        },
    );
    let mut check = loopwright(
        sample.folder.path(),
        &["check", "-c", "database.toml", "--connect"],
    );
    let said = run(check.env("DATABASE", &url));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out
            .ends_with("queries: 7\ndatabase export: takes 1\ndatabase notes: takes 6\n"),
        "{}",
        said.out
    );

    let made = sample.ask("/notes", &["-d", "title=Tea", "-d", "body=green"]);
    assert_eq!(
        (made.status, made.field("content-type")),
        (201, Some("application/json"))
    );
    assert!(
        made.body.starts_with("{\"id\":1,\"written\":\"20"),
        "{}",
        made.body
    );
    let json = r#"{"title": "Coffee", "tags": ["hot"]}"#;
    let made = sample.ask(
        "/notes",
        &["-H", "content-type: application/json", "-d", json],
    );
    assert_eq!(made.status, 201, "{}", made.body);
    for (form, status) in [("title=", 422), ("body=green", 400)] {
        assert_eq!(sample.ask("/notes", &["-d", form]).status, status, "{form}");
    }
    let all = sample.get("/notes");
    assert_eq!(
        (all.status, all.field("cache-control")),
        (200, Some("no-cache"))
    );
    assert!(
        all.body.contains("\"Tea\"") && all.body.contains("\"Coffee\""),
        "{}",
        all.body
    );
    let found = sample.get("/notes?q=COF&limit=1");
    assert!(
        !found.body.contains("Tea") && found.body.contains("Coffee"),
        "{}",
        found.body
    );
    let coffee = sample.get("/notes/2");
    assert!(
        coffee.body.contains("\"body\":null,\"tags\":[\"hot\"]"),
        "{}",
        coffee.body
    );
    assert_eq!(
        (sample.get("/notes/9").status, sample.get("/notes/x").status),
        (404, 400)
    );
    assert_eq!(sample.get("/count").body, "2");
    let put = sample.ask("/notes/1", &["-X", "PUT", "-d", "title=Green tea"]);
    assert!(
        put.body.contains("\"Green tea\",\"body\":\"green\""),
        "{}",
        put.body
    );
    let delete = || sample.ask("/notes/1", &["-X", "DELETE"]).status;
    assert_eq!((delete(), delete()), (204, 404));
    let export = sample.get("/export").body;
    assert!(
        export.starts_with("[{\"id\":2,") && export.ends_with("}]"),
        "{export}"
    );
    // More than there may be in one answer. The fields of a route are on its errors, too.
    cluster.psql("insert into notes (title) select 'x' from generate_series(1, 1200)");
    let most = sample.get("/notes?limit=1201");
    let count = serde_json::from_str::<Vec<serde_json::Value>>(&most.body).map(|all| all.len());
    assert_eq!((most.status, count.ok()), (200, Some(1000)));
    let wrong = sample.get("/notes?limit=");
    assert_eq!(
        (wrong.status, wrong.field("cache-control")),
        (400, Some("no-cache"))
    );
    sample.stop();
}
