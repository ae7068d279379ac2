//! curl against the site: what a person would try by hand.

use crate::site::{pattern, site};
use crate::support::*;
use loopwright::{App, Server};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A curl that listens to nobody's configuration and to no proxy.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args([
        "-q",
        "-sS",
        "--noproxy",
        "*",
        "--globoff",
        "--max-time",
        "20",
    ]);
    command.args(args).stdin(Stdio::null());
    command
}

fn succeeded(output: Output, what: &[&str]) -> Output {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "curl {what:?}: {} {said}",
        output.status
    );
    output
}

/// The last answer curl got, redirects and interim answers left behind.
fn curl(args: &[&str]) -> Answer {
    curl_fed(args, Stdio::null())
}

fn curl_fed(args: &[&str], stdin: Stdio) -> Answer {
    let folder = tempfile::tempdir().expect("a folder");
    let (heads, body) = (folder.path().join("heads"), folder.path().join("body"));
    let mut command = command(args);
    command
        .stdin(stdin)
        .arg("-D")
        .arg(&heads)
        .arg("-o")
        .arg(&body);
    succeeded(run(&mut command), args);
    let heads = std::fs::read_to_string(heads).expect("heads");
    let last = heads
        .trim_end()
        .rsplit("\r\n\r\n")
        .next()
        .unwrap_or_default();
    // Without a body curl makes no file.
    let body = std::fs::read(body).unwrap_or_default();
    Answer {
        body,
        ..Answer::parse_head(last)
    }
}

/// What curl writes to standard output.
fn curl_says(args: &[&str]) -> String {
    let output = succeeded(run(&mut command(args)), args);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn pattern_file(folder: &Path, len: usize) -> String {
    let path = folder.join("pattern");
    std::fs::write(&path, pattern(0, len)).expect("a file");
    path.to_str().expect("UTF-8").to_string()
}

#[test]
fn methods() {
    let server = serve(site);
    let url = server.url("/");
    assert_eq!(curl(&[&url]).essence(), (200, "home"));

    // What curl writes for a HEAD is the head; a body behind it would make it complain.
    let head = curl(&["-I", &url]);
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("4"))
    );

    let options = curl(&["-X", "OPTIONS", &url]);
    assert_eq!(
        (options.essence(), options.field("allow")),
        ((204, ""), Some("GET, HEAD, OPTIONS"))
    );
    let anything = curl(&["-X", "OPTIONS", "--request-target", "*", &url]);
    assert_eq!(anything.status, 204);
    assert!(
        anything
            .field("allow")
            .is_some_and(|all| all.contains("DELETE")),
        "{anything:?}"
    );

    let refused = curl(&["-X", "DELETE", &url]);
    assert_eq!(
        (refused.essence(), refused.field("allow")),
        ((405, "Method Not Allowed"), Some("GET, HEAD, OPTIONS"))
    );
    assert_eq!(curl(&["-X", "BREW", &url]).status, 501);
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        assert_eq!(
            curl(&["-X", method, &server.url("/method")]).essence(),
            (200, method)
        );
    }

    assert_eq!(
        curl(&[&server.url("/nowhere")]).essence(),
        (404, "Not Found")
    );
    assert_eq!(curl(&[&server.url("/nothing")]).essence(), (204, ""));
}

#[test]
fn redirects_are_followed() {
    let server = serve(site);
    let old = server.url("/old");
    let first = curl(&[&old]);
    assert_eq!(
        (first.status, first.field("location")),
        (301, Some("/new?from=old"))
    );
    assert_eq!(curl(&["-L", &old]).essence(), (200, "from=old"));
    // 303 turns a POST into a GET; 307 keeps it, and sends its body again.
    assert_eq!(
        curl(&["-L", "-d", "x=1", &server.url("/submit")]).essence(),
        (200, "GET")
    );
    assert_eq!(
        curl(&["-L", "-d", "x=1", &server.url("/moved")]).essence(),
        (200, "x=1")
    );
}

#[test]
fn json_both_ways() {
    let server = serve(site);
    let url = server.url("/json");
    let post =
        |kind: &str, json: &str| curl(&["-H", &format!("content-type: {kind}"), "-d", json, &url]);
    let answer = post("application/json; charset=utf-8", r#"{"x": 1, "y": -2}"#);
    assert_eq!(answer.essence(), (200, r#"{"x":-2,"y":1}"#));
    assert_eq!(answer.field("content-type"), Some("application/json"));
    let broken = post("application/json", r#"{"x": 1,"#);
    assert_eq!(broken.status, 400);
    assert!(broken.text().contains("line 1 column 8"), "{broken:?}");
    assert_eq!(post("text/plain", "{}").status, 415);
}

#[test]
fn forms_queries_and_parameters() {
    let server = serve(site);
    let form = curl(&[
        "-d",
        "a=1",
        "--data-urlencode",
        "b=x & y = é",
        "-d",
        "a=2",
        &server.url("/form"),
    ]);
    assert_eq!(form.essence(), (200, "a=1\nb=x & y = é\na=2\n"));
    assert_eq!(curl(&["-F", "a=1", &server.url("/form")]).status, 415);
    let query = curl(&[
        "-G",
        "--data-urlencode",
        "q=a+b c",
        "-d",
        "empty=",
        "-d",
        "bare",
        &server.url("/query"),
    ]);
    assert_eq!(query.essence(), (200, "q=a+b c\nempty=\nbare=\n"));

    for (path, want) in [
        ("/users/%C3%A9t%C3%A9", (200, "été")),
        ("/users/a%2Fb%20c", (200, "a/b c")),
        ("/users/%2541", (200, "%41")),
        ("/users/%FF", (400, "Bad Request")),
        ("/users/a%4", (400, "Bad Request")),
        ("/users/", (404, "Not Found")),
        ("/files/", (200, "")),
        ("/files/a/%62/c", (200, "a/b/c")),
    ] {
        let url = server.url(path);
        assert_eq!(curl(&["--path-as-is", &url]).essence(), want, "{path}");
    }
}

#[test]
fn cookies_both_ways() {
    let server = serve(site);
    let folder = tempfile::tempdir().expect("a folder");
    let jar = folder
        .path()
        .join("jar")
        .to_str()
        .expect("UTF-8")
        .to_string();
    let url = server.url("/cookies");
    assert_eq!(curl(&["-c", &jar, "-b", &jar, &url]).essence(), (200, ""));
    let again = curl(&["-c", &jar, "-b", &jar, &url]);
    let mut seen: Vec<&str> = again.text().lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, ["theme=dark & blue; =", "visits=1"]);
}

#[test]
fn one_connection_serves_many_requests() {
    let server = serve(site);
    let url = server.url("/remote");
    let posted = server.url("/mirror");
    let said = curl_says(&[
        &url,
        "-w",
        " %{num_connects} %{local_port}\n", //
        "--next",
        "-sS",
        "-q",
        "--noproxy",
        "*",
        "-d",
        "posted",
        &posted,
        "-w",
        " %{num_connects} %{local_port}\n",
        "--next",
        "-sS",
        "-q",
        "--noproxy",
        "*",
        &url,
        "-w",
        " %{num_connects} %{local_port}\n",
    ]);
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split(' ').collect()).collect();
    let port = lines[0][2];
    let remote = format!("127.0.0.1:{port}");
    assert_eq!(
        lines,
        [
            [remote.as_str(), "1", port],
            ["posted", "0", port],
            [remote.as_str(), "0", port]
        ]
    );
}

#[test]
fn large_bodies_both_ways() {
    const LEN: usize = 32 << 20;
    let server = serve(site);
    let folder = tempfile::tempdir().expect("a folder");
    let file = pattern_file(folder.path(), LEN);
    let right = format!("{LEN} bytes, right");

    for path in ["/megabytes/32", "/sized/32"] {
        let down = curl(&[&server.url(path)]);
        assert!(
            down.status == 200 && down.body == pattern(0, LEN),
            "{path}: {} {}",
            down.status,
            down.body.len()
        );
    }
    assert_eq!(
        curl(&["-T", &file, &server.url("/check")]).essence(),
        (200, right.as_str())
    );
    // From standard input curl sends chunks, for it cannot know the length.
    let stdin = || Stdio::from(File::open(&file).expect("the file"));
    assert_eq!(
        curl_fed(&["-T", "-", &server.url("/check")], stdin()).essence(),
        (200, right.as_str())
    );
    let echo = curl_fed(&["-T", "-", &server.url("/echo")], stdin());
    assert!(
        echo.status == 200 && echo.body == pattern(0, LEN),
        "{} {}",
        echo.status,
        echo.body.len()
    );
}

#[test]
fn expectations() {
    let server = serve(site);
    let folder = tempfile::tempdir().expect("a folder");
    // Past 1 MiB curl waits for leave to send by itself.
    let file = pattern_file(folder.path(), 2 << 20);
    let format = [
        "-v",
        "--expect100-timeout",
        "15",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_upload}",
    ];
    let post = |path: &str| {
        let url = server.url(path);
        let args = [&format[..], &["-T", &file, &url]].concat();
        let output = succeeded(run(&mut command(&args)), &args);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(err.contains("> Expect: 100-continue"), "{err}");
        (out.into_owned(), err.contains("< HTTP/1.1 100 Continue"))
    };
    assert_eq!(post("/check"), ("200 2097152".to_string(), true));
    assert_eq!(post("/small"), ("413 0".to_string(), false));
    assert_eq!(post("/refuse"), ("403 0".to_string(), false));
    assert_eq!(post("/nowhere"), ("413 0".to_string(), false));
    assert_eq!(
        curl(&["-H", "expect: a miracle", &server.url("/")]).status,
        417
    );
}

#[test]
fn body_limits() {
    let server = serve(site);
    let url = server.url("/small");
    let body = "x".repeat(1001);
    assert_eq!(
        curl(&["-d", &body[..1000], &url]).essence(),
        (200, &body[..1000])
    );
    assert_eq!(curl(&["-d", &body, &url]).status, 413);
    let chunked = "transfer-encoding: chunked";
    assert_eq!(
        curl(&["-H", chunked, "-d", &body[..1000], &url]).essence(),
        (200, &body[..1000])
    );
    assert_eq!(curl(&["-H", chunked, "-d", &body, &url]).status, 413);
}

#[test]
fn http_1_0() {
    let server = serve(site);
    let url = server.url("/");
    let answer = curl(&["-0", &url]);
    assert_eq!((answer.essence(), answer.closes()), ((200, "home"), true));
    let streamed = curl(&["-0", &server.url("/megabytes/2")]);
    assert_eq!(
        (streamed.field("transfer-encoding"), streamed.closes()),
        (None, true)
    );
    assert!(
        streamed.body == pattern(0, 2 << 20),
        "{} bytes",
        streamed.body.len()
    );
    let sized = curl(&["-0", &server.url("/sized/2")]);
    assert!(
        sized.body == pattern(0, 2 << 20),
        "{} bytes",
        sized.body.len()
    );

    let kept = curl_says(&[
        "-0",
        "-H",
        "connection: keep-alive",
        "-w",
        " %{num_connects}\n",
        &url,
        &url,
    ]);
    assert_eq!(kept, "home 1\nhome 0\n");
}

#[test]
fn ipv6_and_unix_sockets() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("site.sock");
    let builder = local()
        .listen("[::1]:0")
        .listen(format!("unix:{}", path.display()));
    let server = serve_with(builder, || (site(), ()));
    let [four, six, unix] = &server.addresses[..] else {
        panic!("{:?}", server.addresses)
    };

    assert!(
        curl(&[&format!("{}/remote", four.url())])
            .text()
            .starts_with("127.0.0.1:")
    );
    assert!(
        curl(&[&format!("{}/remote", six.url())])
            .text()
            .starts_with("[::1]:")
    );
    assert_eq!(
        curl(&[&format!("{}/host", six.url())]).text(),
        six.to_string()
    );
    assert_eq!(unix.to_string(), format!("unix:{}", path.display()));
    let socket = path.to_str().expect("UTF-8");
    assert_eq!(
        curl(&["--unix-socket", socket, "http://localhost/remote"]).essence(),
        (200, "unix")
    );
    let down = curl(&["--unix-socket", socket, "http://localhost/megabytes/8"]);
    assert!(
        down.body == pattern(0, 8 << 20),
        "{} bytes",
        down.body.len()
    );
    let many = [
        "--unix-socket",
        socket,
        "-w",
        " %{num_connects}\n",
        "http://localhost/",
        "http://localhost/",
    ];
    assert_eq!(curl_says(&many), "home 1\nhome 0\n");

    drop(server);
    assert!(!path.exists(), "the socket outlives its server");
}

/// A socket that a dead process has left is replaced; a living one, or a file, is not.
#[test]
fn unix_sockets_are_not_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| {
        folder
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_string()
    };
    let (socket, file) = (path("socket"), path("file"));
    let bind = |path: &str| Server::bind(format!("unix:{path}"), App::<()>::new(), ());
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    assert!(
        Path::new(&socket).exists(),
        "std has left its socket behind"
    );
    let server = serve_with(Server::builder().listen(format!("unix:{socket}")), || {
        (site(), ())
    });
    assert!(bind(&socket).is_err(), "a living server's socket");
    let remote = ["--unix-socket", &socket, "http://localhost/remote"];
    assert_eq!(curl(&remote).essence(), (200, "unix"));
    drop(server);
    std::fs::write(&file, "precious").expect("a file");
    assert!(bind(&file).is_err(), "somebody's file");
    assert_eq!(
        std::fs::read_to_string(&file).expect("still there"),
        "precious"
    );
}

#[test]
fn deferred_answers() {
    let server = serve(site);
    let url = server.url("/slow");
    let said = curl_says(&["-w", " %{time_total} %{num_connects}\n", &url, &url]);
    for (line, connects) in said.lines().zip(["1", "0"]) {
        let words: Vec<&str> = line.rsplitn(3, ' ').collect();
        assert_eq!((words[0], words[2]), (connects, "worth the wait"));
        assert!(
            words[1].parse::<f64>().is_ok_and(|seconds| seconds >= 0.1),
            "{line}"
        );
    }
    assert_eq!(said.lines().count(), 2);
}

/// The upload has no end: only an answer that overtakes it ends this.
#[test]
fn an_answer_may_come_before_the_upload_ends() {
    let server = serve(site);
    for (path, want) in [
        ("/refuse", (403, "not you")),
        ("/nowhere", (404, "Not Found")),
    ] {
        let zero = Stdio::from(File::open("/dev/zero").expect("/dev/zero"));
        let answer = curl_fed(&["-T", "-", &server.url(path)], zero);
        assert_eq!((answer.essence(), answer.closes()), (want, true), "{path}");
    }
}

#[test]
fn hosts() {
    let server = serve(|| {
        let page = |text: &'static str| {
            let mut app: App = App::new();
            app.get("/", move |_, _, res| res.text(text));
            app
        };
        let mut admin = page("admin");
        admin
            .host("admin.example.org")
            .not_found(|_, _, res| res.text("nothing for admins"));
        let mut people = page("people");
        people
            .host("*.example.org")
            .not_found(|_, _, res| res.text("nothing for people"));
        let mut app = page("anybody");
        app.mount("", admin).mount("", people);
        app.get("/route", |_, _, res| res.text("by route"))
            .host("Example.ORG");
        app
    });
    let (url, route) = (server.url("/"), server.url("/route"));
    for (host, want) in [
        ("admin.example.org", "admin"),
        ("ADMIN.example.org:81", "admin"),
        ("ada.example.org", "people"),
        ("a.b.example.org", "people"),
        ("example.org", "anybody"),
        ("notexample.org", "anybody"),
    ] {
        assert_eq!(
            curl(&["-H", &format!("host: {host}"), &url]).essence(),
            (200, want),
            "{host}"
        );
    }
    assert_eq!(
        curl(&["-H", "host: example.org", &route]).essence(),
        (200, "by route")
    );
    assert_eq!(curl(&[&route]).status, 404);

    // As a browser would ask: by name, with a port that is not the standard one.
    let port = server.port();
    for (host, page, nothing) in [
        ("admin.example.org", "admin", "nothing for admins"),
        ("ada.example.org", "people", "nothing for people"),
        ("example.org", "anybody", "Not Found"),
    ] {
        let resolve = format!("{host}:{port}:127.0.0.1");
        let ask = |path: &str| {
            curl(&[
                "--resolve",
                &resolve,
                &format!("http://{host}:{port}{path}"),
            ])
        };
        assert_eq!(ask("/").essence(), (200, page), "{host}");
        assert_eq!(ask("/nowhere").essence(), (404, nothing), "{host}");
    }
}
