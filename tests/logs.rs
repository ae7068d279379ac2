//! Logs: what a line says, and that whoever logs never waits, whatever becomes of the lines.
//!
//! Three kinds of tests: servers in this process, whose lines an embedder's own logger catches; a `Sink`
//! against pipes, files and full disks; and servers in processes of their own (this program, started
//! again as [`the_other_process`]), with the logger of the binary.

#[allow(dead_code)]
#[path = "clients/support.rs"]
mod support;

use loopwright::process::log::{AccessTarget, LogSettings};
use loopwright::process::sink::{Output, Sink};
use loopwright::process::{self, log as process_log};
use loopwright::service::access_log::{Format, LONGEST, TARGET, access_log};
use loopwright::{App, Fetch, Listen, PoolLimits, Server, Upstream};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};
use support::{Client, PATIENCE, TestServer, local, serve, serve_with, wait_until};
use tempfile::TempDir;

// ------------------------------------------------------------------ lines, caught by a logger of ours

static CAUGHT: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

struct Catch;

impl log::Log for Catch {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let caught = (record.target().to_string(), record.args().to_string());
        CAUGHT.lock().unwrap().push(caught);
    }
    fn flush(&self) {}
}

fn catch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Catch).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// What was logged that `holds` holds for: the tests of this process share one logger.
fn caught(is_access: bool, holds: impl Fn(&str) -> bool) -> Vec<String> {
    let caught = CAUGHT.lock().unwrap();
    let lines = caught
        .iter()
        .filter(|(target, line)| (target == TARGET) == is_access && holds(line));
    lines.map(|(_, line)| line.clone()).collect()
}

/// The lines about paths below `prefix`, once there are `count` of each format: combined, JSON.
fn both_formats(prefix: &str, count: usize) -> (Vec<String>, Vec<Value>) {
    let holds = |line: &str| line.contains(prefix);
    let of = |json: bool| caught(true, |line| holds(line) && line.starts_with('{') == json);
    wait_until("the lines", || of(true).len() >= count);
    let (combined, json) = (of(false), of(true));
    assert_eq!((combined.len(), json.len()), (count, count), "{json:#?}");
    parse_with_python(&combined, &json);
    let parse = |line: &String| serde_json::from_str(line).expect("JSON");
    (combined, json.iter().map(parse).collect())
}

/// A second opinion on both formats.
fn parse_with_python(combined: &[String], json: &[String]) {
    const SCRIPT: &str = r#"
import json, re, sys
combined = re.compile(
    r'(\S+) - - \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "((?:[ !#-\[\]-~]|\\x[0-9A-F]{2})*)" (\d{3}) (\d+|-)'
    r' "((?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)" "((?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)" ([0-9a-f]{16}) (\d+\.\d{6}) (\d+\.\d{6})'
    r'( upstream="[ !#-\[\]-~]+" server="[ !#-\[\]-~]+" upstream_status=\d+ tries=\d+ reused=[01] upstream_queue=\d+\.\d{6}'
    r' upstream_resolve=\d+\.\d{6} upstream_connect=\d+\.\d{6} upstream_first_byte=\d+\.\d{6} upstream_total=\d+\.\d{6}'
    r' error="((?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)")?')
names = ("time request_id remote host method path query route version status bytes total_us waited_us"
         " referer user_agent aborted").split()
of_upstream = "name server status tries reused queue_us resolve_us connect_us first_byte_us total_us error".split()
for line in sys.stdin.buffer.read().split(b"\n")[:-1]:
    line = line.decode("ascii")
    if line.startswith("{"):
        value = json.loads(line)
        if "upstream" in value:
            assert list(value.pop("upstream")) == of_upstream, line
        assert list(value) == names, value
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value["time"]), line
        assert value["waited_us"] <= value["total_us"], line
    else:
        assert combined.fullmatch(line), line
print("ok")
"#;
    let mut python = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is missing: apt-get install python3");
    let mut lines = [combined, json].concat().join("\n");
    lines.push('\n');
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n", "{lines}");
}

/// Answers of every kind, logged in both formats.
fn logged_site() -> App {
    catch();
    let mut app = App::new();
    app.after(access_log(Format::Combined));
    app.after(access_log(Format::Json));
    app.get("/{test}/text", |_, _, res| res.text("Hello, World!"));
    app.get("/{test}/unchanged", |_, _, res| res.status(304).empty());
    app.get("/{test}/later", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_millis(20), move |_| res.text("later"));
    });
    app.get("/{test}/pieces", |cx, _, res| {
        let body = res.stream();
        body.write("pie");
        cx.after(Duration::from_millis(20), move |_| {
            body.write("ces");
        });
    });
    app.get("/{test}/torn", |_, _, res| {
        let body = res.stream();
        body.write("to");
        body.abort();
    });
    app.get("/{test}/never", |cx, _, res| {
        let res = res.defer();
        cx.after(PATIENCE, move |_| res.text("never"));
    });
    app
}

fn find<'a>(lines: &'a [Value], path: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["path"] == path);
    found.unwrap_or_else(|| panic!("no line for {path}: {lines:#?}"))
}

#[test]
fn every_exchange_is_one_line() {
    let server = serve(logged_site);
    let mut client = server.connect();
    client.send(
        "GET /one/text?a=b HTTP/1.1\r\nhost: example.org\r\nuser-agent: Me/1.0\r\n\
         referer: http://example.org/\r\n\r\n",
    );
    assert_eq!(client.answer().text(), "Hello, World!");
    client.send("HEAD /one/text HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.get("/one/unchanged").status, 304);
    assert_eq!(client.get("/one/nothing/here").status, 404);
    client.send("DELETE /one/later HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.answer().status, 405);
    assert_eq!(client.get("/one/later").text(), "later");
    assert_eq!(client.get("/one/pieces").text(), "pieces");
    let mut old = server.connect();
    old.send("GET /one/text HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().text(), "Hello, World!");
    let mut torn = server.connect();
    torn.send("GET /one/torn HTTP/1.1\r\nhost: a\r\n\r\n");
    torn.head();
    let mut gone = server.connect();
    gone.send("GET /one/never HTTP/1.1\r\nhost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(50));
    let reset = Some(Duration::ZERO);
    socket2::SockRef::from(gone.socket())
        .set_linger(reset)
        .unwrap();
    drop(gone);

    let (combined, json) = both_formats("/one/", 10);
    let first = &json[0];
    for (name, value) in [
        ("remote", "127.0.0.1"),
        ("host", "example.org"),
        ("method", "GET"),
        ("path", "/one/text"),
        ("query", "a=b"),
        ("route", "/{test}/text"),
        ("version", "HTTP/1.1"),
        ("referer", "http://example.org/"),
        ("user_agent", "Me/1.0"),
    ] {
        assert_eq!(first[name], value, "{name}");
    }
    let essence = |line: &Value| (line["status"].as_u64().unwrap(), line["bytes"].as_u64());
    assert_eq!(essence(first), (200, Some(13)));
    assert_eq!(
        (&first["aborted"], json[1]["query"].is_null()),
        (&false.into(), true)
    );
    assert_eq!(
        (&json[1]["method"], essence(&json[1])),
        (&"HEAD".into(), (200, Some(0)))
    );
    assert_eq!(essence(find(&json, "/one/unchanged")), (304, Some(0)));
    let missing = find(&json, "/one/nothing/here");
    assert_eq!(
        (essence(missing).0, missing["route"].is_null()),
        (404, true)
    );
    let refused = json.iter().find(|line| line["method"] == "DELETE").unwrap();
    assert_eq!(essence(refused).0, 405);
    let later = json
        .iter()
        .find(|line| line["path"] == "/one/later" && line["method"] == "GET");
    let later = later.unwrap();
    assert_eq!(essence(later), (200, Some(5)));
    assert!(later["total_us"].as_u64() >= Some(20_000), "{later}");
    assert_eq!(essence(find(&json, "/one/pieces")), (200, Some(6)));
    let old = json
        .iter()
        .find(|line| line["version"] == "HTTP/1.0")
        .unwrap();
    assert!(old["host"].is_null() && old["user_agent"].is_null());
    let torn = find(&json, "/one/torn");
    assert_eq!(
        (essence(torn), &torn["aborted"]),
        ((200, Some(2)), &true.into())
    );
    let gone = find(&json, "/one/never");
    assert_eq!(
        (essence(gone), &gone["aborted"]),
        ((0, Some(0)), &true.into())
    );

    let line = combined[0].split(" [").next().unwrap();
    assert_eq!(line, "127.0.0.1 - -");
    let rest = combined[0].split("] ").nth(1).unwrap();
    let id = first["request_id"].as_str().unwrap();
    let want =
        format!(r#""GET /one/text?a=b HTTP/1.1" 200 13 "http://example.org/" "Me/1.0" {id} "#);
    assert!(rest.starts_with(&want), "{rest}");
    assert!(combined[1].contains(r#""HEAD /one/text HTTP/1.1" 200 - "-" "-" "#));
    let gone = combined
        .iter()
        .find(|line| line.contains("/never"))
        .unwrap();
    assert!(gone.contains(r#"HTTP/1.1" 499 - "#), "{gone}");
}

#[test]
fn a_line_tells_how_asking_an_upstream_went_and_only_then() {
    let behind = serve(|| {
        let mut app = App::new();
        app.get("/four/later", |cx, _, res| {
            let res = res.defer();
            cx.after(Duration::from_millis(20), move |_| {
                res.status(203).text("later");
            });
        });
        app
    });
    let (server, nobody) = (behind.url(""), "http://127.0.0.1:1");
    let known = server.clone();
    let gateway = serve(move || {
        let mut app = logged_site();
        // Each on a connection of its own, so that none is left when the server stops.
        let pool = PoolLimits {
            idle: 0,
            ..PoolLimits::default()
        };
        app.upstream("behind", Upstream::new([known]).pool(pool));
        app.upstream("nobody", Upstream::new([nobody]));
        app.get("/four/later", |cx, req, res| {
            let (fetch, res) = (Fetch::get(req.path()), res.defer());
            let name = req.query().unwrap_or("behind").to_string();
            cx.fetch(
                &name,
                fetch.answering(&res),
                move |_, answer| match answer {
                    Ok(answer) => answer.pipe(res),
                    Err(why) => res.status(why.status().as_u16()).empty(),
                },
            );
        });
        app
    });
    let mut client = gateway.connect();
    assert_eq!(client.get("/four/later").text(), "later");
    assert_eq!(client.get("/four/later?nobody").status, 502);
    assert_eq!(client.get("/four/text").status, 200);

    let (combined, json) = both_formats("/four/", 3);
    let went = &json[0]["upstream"];
    for (name, value) in [
        ("name", Value::from("behind")),
        ("server", server.as_str().into()),
        ("status", 203.into()),
        ("tries", 1.into()),
        ("reused", false.into()),
        ("queue_us", 0.into()),
        ("error", Value::Null),
    ] {
        assert_eq!(went[name], value, "{name}");
    }
    let micros = |name: &str| went[name].as_u64().unwrap();
    assert!(micros("first_byte_us") >= 20_000, "{went}");
    assert!(micros("total_us") >= micros("first_byte_us"), "{went}");
    let want = format!(
        " upstream=\"behind\" server=\"{server}\" upstream_status=203 tries=1 reused=0 upstream_queue=0.000000 "
    );
    assert!(combined[0].contains(&want), "{}", combined[0]);
    assert!(combined[0].ends_with(" error=\"-\""), "{}", combined[0]);

    let failed = &json[1]["upstream"];
    assert_eq!(
        (&failed["server"], &failed["status"]),
        (&nobody.into(), &0.into())
    );
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("refused"), "{error}");
    assert!(combined[1].ends_with(&format!(" error=\"{error}\"")));
    assert!(json[2].get("upstream").is_none() && !combined[2].contains("upstream"));
}

#[test]
fn nobody_forges_a_line() {
    let server = serve(logged_site);
    let mut client = server.connect();
    let agents: [&[u8]; 6] = [
        b"quote \" and \\ and \\\" and \\x22",
        b"latin \xe9 and \xff\xfe",
        "utf-8 \u{e9}\u{20ac}\u{1f980}".as_bytes(),
        b"tab\tand \xc2\x9b31m",
        &[b'a'; 15_000],
        &[0xff; 15_000],
    ];
    for agent in agents {
        client.send(b"GET /two/text?\\quoted\\ HTTP/1.1\r\nhost: a\r\nuser-agent: ");
        client.send([agent, b"\r\n\r\n"].concat());
        assert_eq!(client.answer().status, 200);
    }
    let (combined, json) = both_formats("/two/", agents.len());
    let agent = |n: usize| json[n]["user_agent"].as_str().unwrap();
    assert_eq!(agent(0).as_bytes(), agents[0]);
    assert_eq!(agent(1), "latin \u{fffd} and \u{fffd}\u{fffd}");
    assert_eq!(agent(2), "utf-8 \u{e9}\u{20ac}\u{1f980}");
    assert_eq!(json[0]["query"], "\\quoted\\");
    assert!(combined[0].contains(r#""quote \x22 and \x5C and \x5C\x22 and \x5Cx22" "#));
    assert!(combined[0].contains(r"?\x5Cquoted\x5C HTTP/1.1"));
    assert!(combined[1].contains(r"latin \xE9 and \xFF\xFE"));
    assert!(combined[3].contains(r"tab\x09and \xC2\x9B31m"));
    for n in [4, 5] {
        assert!(combined[n].len() <= LONGEST && combined[n].contains("...\""));
        assert!(agent(n).ends_with("...") && json[n].to_string().len() <= LONGEST);
        assert!(!combined[n - 4].contains("...\""));
    }
}

#[test]
fn a_unix_socket_has_no_address() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let builder = local().listen(format!("unix:{}", path.display()));
    let server: TestServer = serve_with(builder, || (logged_site(), ()));
    let mut stream = UnixStream::connect(&path).unwrap();
    let request = "GET /unix/text HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    let (combined, json) = both_formats("/unix/", 1);
    assert!(combined[0].starts_with("unix: - - ["));
    assert_eq!(json[0]["remote"], "unix:");
    drop(server);
}

// ------------------------------------------------------------------ the sink

const MIB: usize = 1 << 20;
const GATHER: Duration = Duration::from_millis(20);

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().unwrap()
}

fn sink(name: &'static str, limit: usize, output: Output) -> Sink {
    catch();
    let sink = Sink::start(name, limit, GATHER).unwrap();
    sink.direct(Some(output));
    sink
}

/// A line of 100 bytes that says which it is.
fn line(n: usize) -> Vec<u8> {
    format!("{n:08} {}\n", "x".repeat(90)).into_bytes()
}

/// The numbers of whole lines; fails for anything else.
fn numbers(text: &[u8]) -> Vec<usize> {
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn end");
    let number = |line: &str| {
        assert_eq!(line.len(), 99, "a torn line: {line:?}");
        line[..8].parse().unwrap()
    };
    text.lines().map(number).collect()
}

fn count_lines(name: &str) -> Vec<String> {
    caught(false, |line| {
        line.starts_with(name) && line.contains("lines dropped")
    })
}

#[test]
fn a_stuck_pipe_costs_lines_and_never_time() {
    for blocking in [true, false] {
        let name = if blocking {
            "stuck pipe"
        } else {
            "stuck pipe, non-blocking"
        };
        let (mut reader, writer) = pipe();
        if !blocking {
            rustix::io::ioctl_fionbio(&writer, true).unwrap();
        }
        let sink = sink(name, MIB, Output::new(writer.into()).unwrap());
        let lines = 5 * MIB / 100;
        let mut slowest = Duration::ZERO;
        for n in 0..lines {
            let start = Instant::now();
            sink.append(&line(n));
            slowest = slowest.max(start.elapsed());
        }
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");
        let dropped = sink.dropped() as usize;
        assert!(dropped > lines / 2, "{dropped} of {lines}");
        assert!(!sink.flush(Duration::from_millis(50)), "nobody reads");

        let reading = std::thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).map(|_| text)
        });
        assert!(sink.flush(PATIENCE));
        wait_until("it is told", || !count_lines(name).is_empty());
        let told = &count_lines(name)[0];
        let want = format!("{name}: {dropped} lines dropped: log.buffer = {MIB} bytes were full");
        assert_eq!(*told, want);
        sink.append(&line(lines));
        assert!(sink.flush(PATIENCE));
        drop(sink);
        let got = numbers(&reading.join().unwrap().unwrap());
        assert_eq!(got.len(), lines + 1 - dropped);
        assert!(got.is_sorted_by(|a, b| a < b), "in order, each once");
        assert_eq!(got.last(), Some(&lines));
    }
}

#[test]
fn a_full_device_is_tried_again_and_another_output_helps() {
    let name = "full device";
    let full = File::options().write(true).open("/dev/full").unwrap();
    let sink = sink(name, 10_000, Output::new(full.into()).unwrap());
    for n in 0..150 {
        sink.append(&line(n));
    }
    assert_eq!(sink.dropped(), 50);
    let says = |line: &str| line.starts_with("full device: No space left on device");
    wait_until("the error is told", || !caught(false, says).is_empty());
    assert!(!sink.flush(Duration::from_millis(300)));
    assert_eq!(caught(false, says).len(), 1, "once, not for every try");
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    sink.direct(Some(Output::open(&path).unwrap()));
    assert!(sink.flush(PATIENCE));
    assert_eq!(numbers(&fs::read(&path).unwrap()), Vec::from_iter(0..100));
    wait_until("it is told", || !count_lines(name).is_empty());
    assert!(count_lines(name)[0].ends_with("(No space left on device (os error 28))"));
}

/// A file system of 64 KiB, until it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let disk = TempDir::new().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(disk.path())
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|s| s.success()).then(|| SmallDisk(disk))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_tears_no_line() {
    let Some(disk) = SmallDisk::mount() else {
        return eprintln!("no tmpfs may be mounted here: only /dev/full was tested");
    };
    eprintln!("tested on a tmpfs of 64 KiB");
    let (path, filler) = (disk.0.path().join("log"), disk.0.path().join("filler"));
    fs::write(&filler, vec![0; 32 * 1024]).unwrap();
    let sink = sink("full disk", 20_000, Output::open(&path).unwrap());
    for n in 0..1000 {
        sink.append(&line(n));
        if n % 50 == 0 {
            sink.flush(Duration::from_millis(50));
        }
    }
    assert!(sink.dropped() > 0);
    let text = fs::read(&path).unwrap();
    assert!(
        !text.is_empty() && !text.ends_with(b"\n"),
        "it should be full inside a line"
    );
    fs::remove_file(&filler).unwrap();
    assert!(sink.flush(PATIENCE));
    sink.append(&line(1000));
    assert!(sink.flush(PATIENCE));
    let got = numbers(&fs::read(&path).unwrap());
    assert_eq!(got.len() + sink.dropped() as usize, 1001);
    assert!(got.is_sorted_by(|a, b| a < b), "in order, each once");
}

#[test]
fn rotation_neither_loses_nor_doubles() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let sink = sink("rotated", 100 * MIB, Output::open(&path).unwrap());
    for n in 0..50_000 {
        sink.append(&line(n));
        if n % 10_000 == 5_000 {
            fs::rename(&path, dir.path().join(format!("old.{}", n / 10_000))).unwrap();
            sink.reopen();
            // Once it exists it may be moved away again.
            wait_until("the new file", || path.exists());
        }
    }
    assert!(sink.flush(PATIENCE));
    let mut got = Vec::new();
    for n in 0..5 {
        let old = numbers(&fs::read(dir.path().join(format!("old.{n}"))).unwrap());
        assert!(!old.is_empty());
        got.extend(old);
    }
    got.extend(numbers(&fs::read(&path).unwrap()));
    assert!(got == Vec::from_iter(0..50_000), "in order, each once");
}

#[test]
fn another_output_begins_with_a_whole_line() {
    let (mut reader, writer) = pipe();
    let sink = sink("moved", MIB, Output::new(writer.into()).unwrap());
    // Longer than the pipe takes, so that it is stuck inside a line.
    let long = [vec![b'a'; 100_000], b"\n".to_vec()].concat();
    sink.append(&long);
    sink.append(&line(1));
    assert!(!sink.flush(Duration::from_millis(200)));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    sink.direct(Some(Output::open(&path).unwrap()));
    sink.append(&line(2));
    assert!(sink.flush(PATIENCE));
    let text = fs::read(&path).unwrap();
    assert!(text.starts_with(&long), "the whole line");
    assert_eq!(numbers(&text[long.len()..]), [1, 2]);
    let mut begun = Vec::new();
    reader.read_to_end(&mut begun).unwrap();
    assert!(long.starts_with(&begun));
}

#[test]
fn what_cannot_be_opened_is_named() {
    let missing = Path::new("/nonexistent/access.log");
    let error = Output::open(missing).unwrap_err();
    assert!(
        error.to_string().starts_with("/nonexistent/access.log: "),
        "{error}"
    );
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let sink = sink("not reopened", MIB, Output::open(&path).unwrap());
    sink.append(&line(0));
    assert!(sink.flush(PATIENCE));
    // A folder in its place: not even root can open that.
    fs::rename(&path, dir.path().join("old")).unwrap();
    fs::create_dir(&path).unwrap();
    sink.reopen();
    let says = |line: &str| line.starts_with("not reopened: not reopened: /");
    wait_until("the error is told", || !caught(false, says).is_empty());
    sink.append(&line(1));
    assert!(sink.flush(PATIENCE));
    assert_eq!(numbers(&fs::read(dir.path().join("old")).unwrap()), [0, 1]);
    sink.direct(None);
    sink.append(&line(2));
    assert_eq!((sink.is_on(), sink.dropped()), (false, 0));
}

// ------------------------------------------------------------------ processes

/// For tests in which it is to be full; the others are to lose nothing, however busy the machine is.
const SMALL_BUFFER: usize = 128 * 1024;

/// The body of [`Process`]; without its variables this is no test.
#[test]
fn the_other_process() {
    let Ok(dir) = std::env::var("LOGS_TEST_DIR") else {
        return;
    };
    let access = match std::env::var_os("LOGS_TEST_FILE") {
        Some(path) => AccessTarget::File(path.into()),
        None => AccessTarget::Stdout,
    };
    let is_small = std::env::var_os("LOGS_TEST_SMALL").is_some();
    let settings = LogSettings {
        access,
        buffer: SMALL_BUFFER * if is_small { 1 } else { 100 },
        ..LogSettings::default()
    };
    process_log::init(&settings).unwrap();
    assert!(process_log::init(&settings).is_err(), "once");
    let mut app: App = App::new();
    app.after(access_log(Format::Json));
    app.get("/{n}", |_, _, res| res.text("Hello, World!"));
    app.get("/warn/{n}", |_, req, res| {
        log::warn!("warning {}", req.param("n"));
        res.text("warned");
    });
    app.get("/panic/{n}", |_, req, _| -> () {
        panic!("panic {}", req.param("n"))
    });
    app.get("/count/dropped", |_, _, res| {
        res.text(process_log::dropped().to_string())
    });
    app.post("/apply", |_, req, res| {
        let target = match std::str::from_utf8(req.body()).unwrap() {
            "" => AccessTarget::Off,
            path => AccessTarget::File(path.into()),
        };
        let settings = LogSettings {
            access: target,
            ..LogSettings::default()
        };
        match process_log::prepare(&settings).map(process_log::Prepared::apply) {
            Ok(()) => res.text("applied"),
            Err(e) => res.status(500).text(e.to_string()),
        }
    });
    let mut server = Server::bind("127.0.0.1:0", app, ()).unwrap();
    process::stop_on_signals(server.handle()).unwrap();
    let Listen::Tcp(address) = server.addresses().remove(0) else {
        unreachable!("bound to TCP")
    };
    // Whole at once.
    let written = format!("{dir}/{}.address", std::process::id());
    fs::write(format!("{written}.new"), address.to_string()).unwrap();
    fs::rename(format!("{written}.new"), written).unwrap();
    server.run().unwrap();
    process_log::flush(Duration::from_secs(5));
    std::process::exit(0); // the test harness would write to a stuck pipe
}

struct Process {
    child: Child,
    client: Client,
}

impl Process {
    fn start(dir: &Path, file: Option<&Path>, stdout: Stdio, stderr: Stdio) -> Process {
        Process::start_with(false, dir, file, stdout, stderr)
    }

    fn start_with(
        is_small: bool,
        dir: &Path,
        file: Option<&Path>,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // With it, a panic's trace is resolved on the loop's thread, which takes its time.
        command.env_remove("RUST_BACKTRACE");
        command
            .args(["--exact", "the_other_process", "--nocapture"])
            .env("LOGS_TEST_DIR", dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        if is_small {
            command.env("LOGS_TEST_SMALL", "1");
        }
        if let Some(file) = file {
            command.env("LOGS_TEST_FILE", file);
        }
        let child = command.spawn().unwrap();
        let address = dir.join(format!("{}.address", child.id()));
        wait_until("it listens", || address.exists());
        let address = fs::read_to_string(address).unwrap().parse().unwrap();
        Process {
            child,
            client: Client::connect(address),
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Asks for `/{prefix}{n}` for each n, and says how long the slowest answer took.
    fn ask(&mut self, prefix: &str, count: usize) -> Duration {
        let mut slowest = Duration::ZERO;
        for n in 0..count {
            let start = Instant::now();
            self.client.get(&format!("/{prefix}{n}"));
            slowest = slowest.max(start.elapsed());
        }
        slowest
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The paths of JSON lines; what the test harness of the other process says is left out.
fn paths(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains("\"time\""));
    let path = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        value["path"].as_str().unwrap().to_string()
    };
    lines.map(path).collect()
}

fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("/{prefix}{n}")).collect()
}

#[test]
fn a_server_whose_output_nobody_reads_serves_on() {
    let dir = TempDir::new().unwrap();
    let (stdout, into) = pipe();
    let errors = File::create(dir.path().join("errors")).unwrap();
    let mut server = Process::start_with(true, dir.path(), None, into.into(), errors.into());
    let slowest = server.ask("", 4000);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let dropped: usize = server.client.get("/count/dropped").text().parse().unwrap();
    assert!(dropped > 1000, "{dropped}");

    let reading = std::thread::spawn(move || {
        let lines: Vec<String> = BufReader::new(stdout).lines().map(Result::unwrap).collect();
        lines.join("\n")
    });
    let told = || fs::read_to_string(dir.path().join("errors")).unwrap();
    wait_until("it is told", || told().contains("lines dropped"));
    assert!(told().contains("access log: "), "{}", told());
    assert!(
        told().contains("log.buffer = 131072 bytes were full"),
        "{}",
        told()
    );
    server.ask("again", 10);
    server.stop();
    let got = paths(&reading.join().unwrap());
    assert!(got.ends_with(&named("again", 10)), "{:?}", got.last());
    // The request for the count was dropped, too.
    assert_eq!(got.len(), 4000 + 10 - dropped);
}

#[test]
fn an_error_log_that_nobody_reads_stalls_nobody() {
    let dir = TempDir::new().unwrap();
    let (stderr, into) = pipe();
    let mut server = Process::start_with(true, dir.path(), None, Stdio::null(), into.into());
    let slowest = server.ask("warn/", 6000);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    // The standard panic hook would write to standard error by itself.
    let slowest = server.ask("panic/", 100);
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let dropped: usize = server.client.get("/count/dropped").text().parse().unwrap();
    assert!(dropped > 1000, "{dropped}");
    let (tell, told) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            let _ = tell.send(line.unwrap());
        }
    });
    let is_told = |line: String| line.contains("error log: ") && line.contains("lines dropped");
    let patience = || told.recv_timeout(PATIENCE).expect("never told");
    while !is_told(patience()) {}
    server.ask("warn/again", 1);
    while !patience().ends_with("warning again0") {}
    server.ask("panic/", 1);
    while !patience().contains("panicked at tests/logs.rs") {}
    server.stop();
    drop(told);
    reading.join().unwrap();
}

#[test]
fn usr1_goes_on_in_a_new_file() {
    let dir = TempDir::new().unwrap();
    let (path, old) = (dir.path().join("log"), dir.path().join("old"));
    let mut server = Process::start(dir.path(), Some(&path), Stdio::null(), Stdio::null());
    server.ask("before", 300);
    fs::rename(&path, &old).unwrap();
    server.ask("renamed", 300);
    server.signal(Signal::USR1);
    wait_until("the new file", || path.exists());
    server.ask("after", 300);
    server.stop();
    let read = |path| paths(&fs::read_to_string(path).unwrap());
    assert_eq!(
        read(&old),
        [named("before", 300), named("renamed", 300)].concat()
    );
    assert_eq!(read(&path), named("after", 300));
}

#[test]
fn the_last_line_is_there_after_term() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let mut server = Process::start(dir.path(), Some(&path), Stdio::null(), Stdio::null());
    server.ask("last", 1);
    server.stop();
    assert_eq!(paths(&fs::read_to_string(&path).unwrap()), ["/last0"]);
}

#[test]
fn settings_are_applied_whole_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let (path, other) = (dir.path().join("log"), dir.path().join("other"));
    let mut server = Process::start(dir.path(), Some(&path), Stdio::null(), Stdio::null());
    let apply = |server: &mut Process, target: &str| {
        let length = target.len();
        let request =
            format!("POST /apply HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{target}");
        server.client.send(request);
        server.client.answer()
    };
    server.ask("a", 3);
    let refused = apply(&mut server, "/nonexistent/log");
    assert!(
        refused.text().starts_with("/nonexistent/log: "),
        "{}",
        refused.text()
    );
    server.ask("b", 3);
    assert_eq!(
        apply(&mut server, other.to_str().unwrap()).text(),
        "applied"
    );
    server.ask("c", 3);
    assert_eq!(apply(&mut server, "").text(), "applied");
    server.ask("d", 3);
    server.stop();
    let read = |path| paths(&fs::read_to_string(path).unwrap());
    let applied = vec!["/apply".to_string()];
    assert_eq!(
        read(&path),
        [named("a", 3), applied.clone(), named("b", 3)].concat()
    );
    assert_eq!(read(&other), [applied, named("c", 3)].concat());
}

#[test]
fn lines_of_two_processes_do_not_mix() {
    const EACH: usize = 1500;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let (stdout, into) = pipe();
    let reading = std::thread::spawn(move || std::io::read_to_string(stdout).unwrap());
    for file in [Some(path.as_path()), None] {
        let start = |_| {
            let stdout = into.try_clone().unwrap();
            Process::start(dir.path(), file, stdout.into(), Stdio::null())
        };
        let servers = [0, 1].map(start);
        std::thread::scope(|scope| {
            for (n, mut server) in servers.into_iter().enumerate() {
                scope.spawn(move || {
                    server.ask(&format!("{n}-"), EACH);
                    server.stop();
                });
            }
        });
    }
    drop(into);
    for text in [fs::read_to_string(&path).unwrap(), reading.join().unwrap()] {
        let got = paths(&text);
        assert_eq!(got.len(), 2 * EACH);
        for n in 0..2 {
            let prefix = format!("{n}-");
            let of: Vec<_> = got
                .iter()
                .filter(|path| path[1..].starts_with(&prefix))
                .collect();
            assert!(
                of.into_iter().eq(&named(&prefix, EACH)),
                "in order, each once"
            );
        }
    }
}
