//! One table of requests and what they are answered with, asked twice: once of the disk, once of the
//! cache; and each GET once more as HEAD.
//!
//! A request is its line and its fields, apart by ` | `. `{a.txt}` stands for that file's tag.
//! Of the answer: the status; fields, `name: value` to the letter, `name~part` to hold a part, `!name`
//! to be absent; and the body: to the letter, `~part`, `*` for any, `@12-34` for those bytes of the
//! large file. `{b}` stands for the boundary.

use super::{Tree, ask, set_modified};
use crate::support::{Answer, Client, TestServer, serve};
use loopwright::App;
use loopwright::service::files::Files;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

type Case = (&'static str, u16, &'static [&'static str], &'static str);

const STAMP: u64 = 784_111_777;
const TEN: &str = "0123456789";

/// Bytes that are not the same anywhere near.
fn large() -> Vec<u8> {
    (0..30_000u32).flat_map(u32::to_be_bytes).collect()
}

fn tree() -> Tree {
    let tree = Tree::new()
        .with("index.html", "root")
        .with("ten.txt", TEN)
        .with("empty.txt", "")
        .with("large.bin", large())
        .with("style.css", "plain")
        .with("style.css.br", "as-br")
        .with("style.css.zst", "as-zstd")
        .with("style.css.gz", "as-gzip")
        .with("only.js", "plain-js")
        .with("only.js.gz", "js-gzip-ten")
        .with("big.txt", "plain-big")
        .with("big.txt.gz", large())
        .with("same.txt", "same")
        .with("same.txt.gz", "same")
        .with("orphan.css.br", "orphan")
        .with("folded.txt", "folded")
        .with("folded.txt.br/x", "a folder, no sibling")
        .with("sub/index.html", "sub")
        .with("sub/page.html", "page")
        .with("bare/x.txt", "x")
        .with("about.html", "about")
        .with("docs.html", "docs")
        .with("docs/x.txt", "x")
        .with("app.html", "app")
        .with("404.html", "not here")
        .with(".pages/416.txt", "no such part")
        .with("412.html", "changed")
        .with(".env", "hidden")
        .with(".html", "hidden")
        .with("sub/.env", "hidden")
        .with(".git/config", "hidden")
        .with(".well-known/security.txt", "mailto:")
        .with("with space.txt", "space")
        .with("100%.txt", "percent")
        .with("a+b.txt", "plus")
        .with("été.txt", "summer")
        .with("%2e%2e", "literal")
        .with("c:d.txt", "colon")
        .with("dots.a..b.txt", "dots")
        .with("evil.example/index.html", "evil");
    let tree = [
        "p.html",
        "P.HTM",
        "s.css",
        "j.js",
        "m.mjs",
        "d.json",
        "v.svg",
        "x.xml",
        "app.webmanifest",
        "w.wasm",
        "f.woff2",
        "i.png",
        "i.jpeg",
        "t.tar.gz",
        "l.min.js",
        "noext",
        "odd.unheardof",
        "r.md",
        "z.pdf",
        "v.mp4",
        "i.webp",
        "c.csv",
    ]
    .iter()
    .fold(tree, |tree, name| tree.with(&format!("types/{name}"), ""));
    let tree = tree
        .with("list/b.txt", "xxx")
        .with("list/a.txt", "x".repeat(2000))
        .with("list/c.txt", "x".repeat(10))
        .with("list/zdir/x", "")
        .with("list/adir/x", "")
        .with("list/.hidden", "")
        .with("list/.well-known/x", "")
        .with("list/x:y", "")
        .with("list/<i>&\"'.txt", "")
        .with("list/back\\slash", "")
        .with("list/été ?#%.txt", "")
        .with("list/zdir/<deep>/x", "");
    let list = tree.root().join("list");
    fs::write(list.join(OsStr::from_bytes(b"\xff\xfe")), "").expect("a file");
    for (to, name) in [
        ("b.txt", "link-in"),
        ("../ten.txt", "link-up"),
        ("zdir", "link-dir"),
        ("../../secret", "link-out"),
        ("/etc/passwd", "link-absolute"),
        ("link-loop", "link-loop"),
        ("nothing", "link-dangling"),
    ] {
        symlink(to, list.join(name)).expect("a link");
    }
    for name in ["list/fifo", "fifo"] {
        let path = tree.root().join(name);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, 0o644.into(), 0).expect("a FIFO");
    }
    for (name, to) in [
        ("link.txt", "ten.txt"),
        ("link-folder", "sub"),
        ("link-out", "../secret"),
        ("link-out-folder", ".."),
        ("link-loop", "link-loop"),
    ] {
        symlink(to, tree.root().join(name)).expect("a link");
    }
    for name in [
        "index.html",
        "ten.txt",
        "empty.txt",
        "large.bin",
        "style.css",
    ] {
        set_modified(&tree.root().join(name), STAMP);
    }
    set_modified(&tree.root().join("style.css.br"), STAMP + 60);
    for (name, time) in [("b.txt", 1000), ("a.txt", 3000), ("c.txt", 2000)] {
        set_modified(&list.join(name), time);
    }
    // The tag of a large file is its own from here on.
    std::thread::sleep(Duration::from_millis(100));
    tree
}

fn site(tree: &Tree) -> TestServer {
    let root = tree.root();
    serve(move || {
        let files = || Files::new(&root).expect("the root");
        let mut app: App = App::new();
        files().mount(&mut app, "");
        files().precompressed(false).mount(&mut app, "/raw");
        files().listing(true).mount(&mut app, "/l");
        files()
            .try_files(["{path}.html", "/{path}/x.txt", "{path}.txt"])
            .mount(&mut app, "/try");
        files()
            .index(["none.html"])
            .try_files(["/app.html"])
            .mount(&mut app, "/spa");
        files()
            .index(["none.html"])
            .try_files(["{path}.html"])
            .mount(&mut app, "/clean");
        files()
            .listing(true)
            .try_files(["{path}.html"])
            .mount(&mut app, "/both");
        files()
            .listing(true)
            .cache_control("types/*", "max-age=31536000, immutable")
            .cache_control("*.html", "max-age=60")
            .cache_control("types/p.html", "never this")
            .cache_control("with space*", "max-age=1")
            .cache_control("bare/", "max-age=5")
            .mount(&mut app, "/rules");
        files()
            .error_page(404, "/404.html")
            .error_page(416, ".pages/416.txt")
            .error_page(412, "412.html")
            .error_page(406, "missing.html")
            .mount(&mut app, "/own");
        app
    })
}

/// Puts the tags of files in the place of their names.
fn with_tags(server: &TestServer, text: &str) -> String {
    let mut text = text.to_string();
    while let Some((before, rest)) = text.split_once('{') {
        let (name, after) = rest.split_once('}').expect("a name in braces");
        let answer = ask(server, "HEAD", &format!("/raw/{name}"), "");
        let tag = answer.field("etag").expect("its tag");
        text = format!("{before}{tag}{after}");
    }
    text
}

/// The request of a case, with the tags it speaks of.
fn request(server: &TestServer, case: &str, method: Option<&str>) -> String {
    let text = with_tags(server, case);
    let mut lines = text.split(" | ");
    let line = lines.next().expect("a request line");
    let (known, target) = line.split_once(' ').expect("a method and a target");
    let method = method.unwrap_or(known);
    let fields: String = lines.map(|line| format!("{line}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nhost: test\r\n{fields}\r\n")
}

fn check(server: &TestServer, case: &Case, answer: &Answer, with_body: bool) {
    let (request, status, fields, body) = case;
    let say = |what: &str| {
        let head: Vec<_> = answer
            .fields
            .iter()
            .map(|(n, v)| format!("{n}: {v}"))
            .collect();
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(2000)]);
        format!("{request}\n{what}\n{} {head:#?}\n{body}", answer.status)
    };
    assert_eq!(answer.status, *status, "{}", say("status"));
    for field in *fields {
        let field = with_tags(server, field);
        let is_so = if let Some(name) = field.strip_prefix('!') {
            answer.field(name).is_none()
        } else if let Some((name, value)) = field.split_once(": ") {
            answer.field(name) == Some(value)
        } else if let Some((name, part)) = field.split_once('~') {
            answer.field(name).is_some_and(|value| value.contains(part))
        } else {
            panic!("{field}: a field is `name: value`, `name~part` or `!name`");
        };
        assert!(is_so, "{}", say(&field));
    }
    // What holds for each answer.
    if matches!(status, 200 | 206) {
        assert_eq!(
            answer.field("x-content-type-options"),
            Some("nosniff"),
            "{}",
            say("nosniff")
        );
    }
    if matches!(status, 301 | 304) {
        assert!(answer.body.is_empty(), "{}", say("a body"));
        assert_eq!(answer.field("content-encoding"), None, "{}", say("coding"));
    }
    if !with_body {
        return;
    }
    let boundary = answer
        .field("content-type")
        .and_then(|kind| kind.strip_prefix("multipart/byteranges; boundary="))
        .unwrap_or("none");
    let is_so = if *body == "*" {
        true
    } else if let Some(part) = body.strip_prefix('~') {
        answer.text().contains(part)
    } else if let Some((first, last)) = body.strip_prefix('@').and_then(|b| b.split_once('-')) {
        let index = |text: &str| text.parse::<usize>().expect("an index");
        answer.body == large()[index(first)..=index(last)]
    } else {
        answer.body == body.replace("{b}", boundary).as_bytes()
    };
    assert!(is_so, "{}", say("body"));
}

#[test]
fn table() {
    assert!(CASES.len() >= 150, "{} cases", CASES.len());
    let tree = tree();
    let server = site(&tree);
    for round in 0..2 {
        let mut client = server.connect();
        for case in CASES {
            let request = request(&server, case.0, None);
            client.send(&request);
            if request.starts_with("HEAD ") {
                check(&server, case, &client.head(), false);
            } else {
                check(&server, case, &client.answer(), true);
            }
            if round == 1 && request.starts_with("GET ") && !request.contains("\r\nrange:") {
                same_as_head(&server, case, &mut client);
            }
        }
    }
}

/// RFC 9110 §9.3.2: HEAD says what GET would say.
fn same_as_head(server: &TestServer, case: &Case, client: &mut Client) {
    client.send(request(server, case.0, Some("HEAD")));
    let head = client.head();
    check(server, case, &head, false);
    client.send(request(server, case.0, None));
    let get = client.answer();
    let without_date = |answer: &Answer| {
        let mut fields = answer.fields.clone();
        fields.retain(|(name, _)| name != "date");
        fields
    };
    assert_eq!(
        without_date(&head),
        without_date(&get),
        "HEAD of {}",
        case.0
    );
}

const TXT: &str = "content-type: text/plain; charset=utf-8";
const HTML: &str = "content-type: text/html; charset=utf-8";
const CSS: &str = "content-type: text/css; charset=utf-8";
const MODIFIED: &str = "last-modified: Sun, 06 Nov 1994 08:49:37 GMT";
const VARY: &str = "vary: accept-encoding";
const BYTES: &str = "accept-ranges: bytes";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Plain.
    ("GET /ten.txt", 200, &[TXT, MODIFIED, BYTES, "content-length: 10", "etag~\"", "!vary", "!cache-control", "!content-encoding", "!content-range"], TEN),
    ("HEAD /ten.txt", 200, &[TXT, MODIFIED, BYTES, "content-length: 10", "etag~\""], ""),
    ("GET /empty.txt", 200, &[TXT, "content-length: 0", "etag: \"2jmj7l5rSw0yVb_vlWAY\""], ""),
    ("GET /large.bin", 200, &["content-type: application/octet-stream", "content-length: 120000", "etag~\"", BYTES], "@0-119999"),
    ("GET /ten.txt?query", 200, &[], TEN),
    ("GET /", 200, &[HTML, MODIFIED], "root"),
    ("GET /index.html", 200, &[HTML], "root"),
    ("GET /sub/", 200, &[HTML], "sub"),
    ("GET /sub/page.html", 200, &[HTML], "page"),
    ("GET /bare/", 404, &["!etag"], "Not Found"),
    ("GET /missing", 404, &["!etag", "!last-modified", TXT], "Not Found"),
    ("GET /missing/", 404, &[], "Not Found"),
    ("GET /ten.txt/", 404, &[], "Not Found"),
    ("GET /ten.txt/x", 404, &[], "Not Found"),
    ("POST /ten.txt | content-length: 0", 405, &["allow: GET, HEAD, OPTIONS"], "*"),
    ("DELETE /ten.txt", 405, &["allow: GET, HEAD, OPTIONS"], "*"),
    ("OPTIONS /ten.txt", 204, &["allow: GET, HEAD, OPTIONS"], ""),
    // Types.
    ("GET /types/p.html", 200, &[HTML], ""),
    ("GET /types/P.HTM", 200, &[HTML], ""),
    ("GET /types/s.css", 200, &[CSS], ""),
    ("GET /types/j.js", 200, &["content-type: text/javascript; charset=utf-8"], ""),
    ("GET /types/m.mjs", 200, &["content-type: text/javascript; charset=utf-8"], ""),
    ("GET /types/l.min.js", 200, &["content-type: text/javascript; charset=utf-8"], ""),
    ("GET /types/d.json", 200, &["content-type: application/json; charset=utf-8"], ""),
    ("GET /types/v.svg", 200, &["content-type: image/svg+xml; charset=utf-8"], ""),
    ("GET /types/x.xml", 200, &["content-type: text/xml; charset=utf-8"], ""),
    ("GET /types/app.webmanifest", 200, &["content-type: application/manifest+json; charset=utf-8"], ""),
    ("GET /types/r.md", 200, &["content-type: text/markdown; charset=utf-8"], ""),
    ("GET /types/c.csv", 200, &["content-type: text/csv; charset=utf-8"], ""),
    ("GET /types/w.wasm", 200, &["content-type: application/wasm"], ""),
    ("GET /types/f.woff2", 200, &["content-type: font/woff2"], ""),
    ("GET /types/i.png", 200, &["content-type: image/png"], ""),
    ("GET /types/i.jpeg", 200, &["content-type: image/jpeg"], ""),
    ("GET /types/i.webp", 200, &["content-type: image/webp"], ""),
    ("GET /types/z.pdf", 200, &["content-type: application/pdf"], ""),
    ("GET /types/v.mp4", 200, &["content-type: video/mp4"], ""),
    ("GET /types/t.tar.gz", 200, &["content-type: application/gzip", "!content-encoding"], ""),
    ("GET /types/noext", 200, &["content-type: application/octet-stream"], ""),
    ("GET /types/odd.unheardof", 200, &["content-type: application/octet-stream"], ""),
    // Names.
    ("GET /with%20space.txt", 200, &[], "space"),
    ("GET /100%25.txt", 200, &[], "percent"),
    ("GET /a+b.txt", 200, &[], "plus"),
    ("GET /a%2Bb.txt", 200, &[], "plus"),
    ("GET /a%20b.txt", 404, &[], "Not Found"),
    ("GET /%C3%A9t%C3%A9.txt", 200, &[], "summer"),
    ("GET /%252e%252e", 200, &[], "literal"),
    ("GET /c:d.txt", 200, &[], "colon"),
    ("GET /c%3Ad.txt", 200, &[], "colon"),
    ("GET /dots.a..b.txt", 200, &[], "dots"),
    ("GET /%74en.txt", 200, &[], TEN),
    ("GET /TEN.TXT", 404, &[], "Not Found"),
    ("GET /.well-known/security.txt", 200, &[TXT], "mailto:"),
    ("GET /.env", 404, &[], "Not Found"),
    ("GET /%2eenv", 404, &[], "Not Found"),
    ("GET /sub/.env", 404, &[], "Not Found"),
    ("GET /.git/config", 404, &[], "Not Found"),
    ("GET /.git", 404, &[], "Not Found"),
    ("GET /.git/", 404, &[], "Not Found"),
    ("GET /try/.env", 404, &[], "Not Found"),
    // Ways out.
    ("GET /../secret", 404, &[], "Not Found"),
    ("GET /%2e%2e/secret", 404, &[], "Not Found"),
    ("GET /..%2fsecret", 404, &[], "Not Found"),
    ("GET /%2e%2e%2fsecret", 404, &[], "Not Found"),
    ("GET /sub/..%2F..%2Fsecret", 404, &[], "Not Found"),
    ("GET /sub/../../secret", 404, &[], "Not Found"),
    ("GET /sub/../ten.txt", 404, &[], "Not Found"),
    ("GET /./ten.txt", 404, &[], "Not Found"),
    ("GET /sub/./page.html", 404, &[], "Not Found"),
    ("GET /sub//page.html", 404, &[], "Not Found"),
    ("GET //ten.txt", 404, &[], "Not Found"),
    ("GET /sub%2fpage.html", 404, &[], "Not Found"),
    ("GET /sub%2F", 404, &[], "Not Found"),
    ("GET /sub%5cpage.html", 404, &[], "Not Found"),
    ("GET /..%5csecret", 404, &[], "Not Found"),
    ("GET /ten.txt%00", 404, &[], "Not Found"),
    ("GET /ten.txt%00.html", 404, &[], "Not Found"),
    ("GET /%252e%252e/secret", 404, &[], "Not Found"),
    ("GET /%252e%252e%252fsecret", 404, &[], "Not Found"),
    ("GET /%2fetc/passwd", 404, &[], "Not Found"),
    ("GET /link-out", 404, &[], "Not Found"),
    ("GET /link-out-folder", 404, &[], "Not Found"),
    ("GET /link-out-folder/secret", 404, &[], "Not Found"),
    ("GET /link-loop", 404, &[], "Not Found"),
    ("GET /fifo", 404, &[], "Not Found"),
    ("GET /link.txt", 200, &[], TEN),
    ("GET /link-folder/page.html", 200, &[], "page"),
    // Redirects.
    ("GET /sub", 301, &["location: /sub/"], ""),
    ("GET /sub?x=1&y=/z?", 301, &["location: /sub/?x=1&y=/z?"], ""),
    ("GET /link-folder", 301, &["location: /link-folder/"], ""),
    ("GET /evil.example", 301, &["location: /evil.example/"], ""),
    ("GET //evil.example", 404, &["!location"], "*"),
    ("GET ///evil.example", 404, &["!location"], "*"),
    ("GET /%2f/evil.example", 404, &["!location"], "*"),
    ("GET /%2fevil.example", 404, &["!location"], "*"),
    ("GET /%5cevil.example", 404, &["!location"], "*"),
    ("GET /l", 301, &["location: /l/"], ""),
    ("GET /l?sort=size", 301, &["location: /l/?sort=size"], ""),
    // Preconditions.
    ("GET /ten.txt | if-none-match: {ten.txt}", 304, &["etag~\"", MODIFIED, "!content-type", "!content-length", "!accept-ranges"], ""),
    ("HEAD /ten.txt | if-none-match: {ten.txt}", 304, &["etag~\"", MODIFIED], ""),
    ("GET /ten.txt | if-none-match: W/{ten.txt}", 304, &[], ""),
    ("GET /ten.txt | if-none-match: *", 304, &[], ""),
    ("GET /ten.txt | if-none-match: \"a\", \"b,c\", {ten.txt}", 304, &[], ""),
    ("GET /ten.txt | if-none-match: \"a\" | if-none-match: {ten.txt}", 304, &[], ""),
    ("GET /ten.txt | if-none-match: \"a\"", 200, &[], TEN),
    ("GET /ten.txt | if-none-match: {empty.txt}", 200, &[], TEN),
    ("GET /large.bin | if-none-match: {large.bin}", 304, &["etag~\""], ""),
    ("GET /missing | if-none-match: *", 404, &[], "Not Found"),
    ("GET /ten.txt | if-match: {ten.txt}", 200, &[], TEN),
    ("GET /ten.txt | if-match: *", 200, &[], TEN),
    ("GET /ten.txt | if-match: \"a\" | if-match: {ten.txt}", 200, &[], TEN),
    ("GET /ten.txt | if-match: W/{ten.txt}", 412, &["!etag"], "Precondition Failed"),
    ("GET /ten.txt | if-match: \"a\"", 412, &[TXT], "Precondition Failed"),
    ("HEAD /ten.txt | if-match: \"a\"", 412, &["content-length: 19"], ""),
    ("GET /missing | if-match: *", 404, &[], "Not Found"),
    ("GET /ten.txt | if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT", 304, &["etag~\""], ""),
    ("GET /ten.txt | if-modified-since: Sunday, 06-Nov-94 08:49:37 GMT", 304, &[], ""),
    ("GET /ten.txt | if-modified-since: Sun Nov  6 08:49:37 1994", 304, &[], ""),
    ("GET /ten.txt | if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT", 200, &[], TEN),
    ("GET /ten.txt | if-modified-since: soon", 200, &[], TEN),
    ("GET /ten.txt | if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT | if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT", 200, &[], TEN),
    ("GET /ten.txt | if-none-match: \"a\" | if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT", 200, &[], TEN),
    ("GET /ten.txt | if-none-match: {ten.txt} | if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT", 304, &[], ""),
    ("GET /ten.txt | if-unmodified-since: Sun, 06 Nov 1994 08:49:36 GMT", 412, &[], "Precondition Failed"),
    ("GET /ten.txt | if-unmodified-since: Sun, 06 Nov 1994 08:49:37 GMT", 200, &[], TEN),
    ("GET /ten.txt | if-unmodified-since: then", 200, &[], TEN),
    ("GET /ten.txt | if-match: {ten.txt} | if-unmodified-since: Sun, 06 Nov 1994 08:49:36 GMT", 200, &[], TEN),
    ("GET /ten.txt | if-match: \"a\" | if-none-match: {ten.txt}", 412, &[], "Precondition Failed"),
    ("GET /ten.txt | if-match: {ten.txt} | if-none-match: {ten.txt}", 304, &[], ""),
    ("GET /ten.txt | if-unmodified-since: Sun, 06 Nov 1994 08:49:36 GMT | if-none-match: {ten.txt}", 412, &[], "Precondition Failed"),
    ("GET /ten.txt | if-none-match: {ten.txt} | range: bytes=0-1", 304, &["!content-range"], ""),
    ("GET /ten.txt | if-match: \"a\" | range: bytes=0-1", 412, &["!content-range"], "Precondition Failed"),
    ("GET /ten.txt | if-none-match: {ten.txt} | range: bytes=50-", 304, &["!content-range"], ""),
    // One range.
    ("GET /ten.txt | range: bytes=0-3", 206, &["content-range: bytes 0-3/10", "content-length: 4", TXT, MODIFIED, BYTES, "etag~\""], "0123"),
    ("GET /ten.txt | range: bytes=7-", 206, &["content-range: bytes 7-9/10"], "789"),
    ("GET /ten.txt | range: bytes=-3", 206, &["content-range: bytes 7-9/10"], "789"),
    ("GET /ten.txt | range: bytes=-30", 206, &["content-range: bytes 0-9/10"], TEN),
    ("GET /ten.txt | range: bytes=0-", 206, &["content-range: bytes 0-9/10"], TEN),
    ("GET /ten.txt | range: bytes=5-99999999999999999999999999", 206, &["content-range: bytes 5-9/10"], "56789"),
    ("GET /ten.txt | range: BYTES=1-1", 206, &["content-range: bytes 1-1/10"], "1"),
    ("GET /ten.txt | range: bytes=,, 1-1 ,", 206, &["content-range: bytes 1-1/10"], "1"),
    ("GET /ten.txt | range: bytes=1-2,50-60", 206, &["content-range: bytes 1-2/10"], "12"),
    ("GET /ten.txt | range: bytes=1-4,3-6", 206, &["content-range: bytes 1-6/10"], "123456"),
    ("GET /ten.txt | range: bytes=10-", 416, &["content-range: bytes */10", "!etag"], "Range Not Satisfiable"),
    ("GET /ten.txt | range: bytes=-0", 416, &["content-range: bytes */10"], "Range Not Satisfiable"),
    ("GET /ten.txt | range: bytes=99999999999999999999999999-", 416, &["content-range: bytes */10"], "Range Not Satisfiable"),
    ("GET /ten.txt | range: bytes=4-2", 200, &["!content-range"], TEN),
    ("GET /ten.txt | range: bytes=a-b", 200, &["!content-range"], TEN),
    ("GET /ten.txt | range: bytes=", 200, &["!content-range"], TEN),
    ("GET /ten.txt | range: bytes 0-3", 200, &["!content-range"], TEN),
    ("GET /ten.txt | range: lines=0-3", 200, &["!content-range"], TEN),
    ("GET /ten.txt | range: bytes=0-1 | range: bytes=0-1", 200, &["!content-range"], TEN),
    ("HEAD /ten.txt | range: bytes=0-3", 200, &["content-length: 10", "!content-range"], ""),
    ("HEAD /ten.txt | range: bytes=50-", 200, &["content-length: 10", "!content-range"], ""),
    ("GET /empty.txt | range: bytes=0-", 416, &["content-range: bytes */0"], "Range Not Satisfiable"),
    ("GET /empty.txt | range: bytes=-5", 200, &["content-length: 0", "!content-range"], ""),
    ("GET /large.bin | range: bytes=70000-70099", 206, &["content-range: bytes 70000-70099/120000"], "@70000-70099"),
    ("GET /large.bin | range: bytes=-1", 206, &["content-range: bytes 119999-119999/120000"], "@119999-119999"),
    ("GET /large.bin | range: bytes=1-", 206, &["content-length: 119999"], "@1-119999"),
    ("GET /sub/ | range: bytes=0-0", 206, &["content-range: bytes 0-0/3"], "s"),
    ("GET /missing | range: bytes=0-0", 404, &["!content-range"], "Not Found"),
    // If-Range.
    ("GET /ten.txt | range: bytes=0-1 | if-range: {ten.txt}", 206, &[], "01"),
    ("GET /ten.txt | range: bytes=0-1 | if-range: W/{ten.txt}", 200, &[], TEN),
    ("GET /ten.txt | range: bytes=0-1 | if-range: \"a\"", 200, &[], TEN),
    ("GET /ten.txt | range: bytes=50- | if-range: \"a\"", 200, &[], TEN),
    ("GET /ten.txt | range: bytes=0-1 | if-range: Sun, 06 Nov 1994 08:49:37 GMT", 206, &[], "01"),
    ("GET /ten.txt | range: bytes=0-1 | if-range: Sun, 06 Nov 1994 08:49:38 GMT", 200, &[], TEN),
    ("GET /ten.txt | range: bytes=0-1 | if-range: whenever", 200, &[], TEN),
    ("GET /ten.txt | range: bytes=0-1 | if-range: {ten.txt} | if-range: {ten.txt}", 200, &[], TEN),
    ("GET /ten.txt | if-range: \"a\"", 200, &[], TEN),
    // Several ranges.
    ("GET /ten.txt | range: bytes=0-1,8-9", 206, &["content-type~multipart/byteranges; boundary=", "!content-range", MODIFIED, BYTES],
        "--{b}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-range: bytes 0-1/10\r\n\r\n01\r\n--{b}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-range: bytes 8-9/10\r\n\r\n89\r\n--{b}--\r\n"),
    ("GET /ten.txt | range: bytes=-1, 2-3", 206, &["content-type~multipart/byteranges"],
        "--{b}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-range: bytes 9-9/10\r\n\r\n9\r\n--{b}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-range: bytes 2-3/10\r\n\r\n23\r\n--{b}--\r\n"),
    ("GET /ten.txt | range: bytes=8-8,0-1,1-2", 206, &["content-type~multipart/byteranges"],
        "--{b}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-range: bytes 8-8/10\r\n\r\n8\r\n--{b}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-range: bytes 0-2/10\r\n\r\n012\r\n--{b}--\r\n"),
    ("GET /ten.txt | range: bytes=0-0,2-2 | if-range: {ten.txt}", 206, &["content-type~multipart/byteranges"], "~bytes 2-2/10\r\n\r\n2\r\n--"),
    ("GET /ten.txt | range: bytes=0-4,5-9", 200, &["!content-range", TXT], TEN),
    ("GET /ten.txt | range: bytes=0-1,8-9 | if-range: \"a\"", 200, &[TXT], TEN),
    ("HEAD /ten.txt | range: bytes=0-1,8-9", 200, &[TXT, "content-length: 10"], ""),
    ("GET /ten.txt | range: bytes=0-1,9-8", 200, &[TXT], TEN),
    // Compressed siblings.
    ("GET /style.css", 200, &[CSS, VARY, "etag: {style.css}", "!content-encoding", MODIFIED], "plain"),
    ("GET /style.css | accept-encoding: br", 200, &[CSS, VARY, "content-encoding: br", "content-length: 5", "etag: {style.css.br}", "last-modified: Sun, 06 Nov 1994 08:50:37 GMT"], "as-br"),
    ("GET /style.css | accept-encoding: gzip, deflate, br, zstd", 200, &["content-encoding: br"], "as-br"),
    ("GET /style.css | accept-encoding: gzip, zstd", 200, &["content-encoding: zstd"], "as-zstd"),
    ("GET /style.css | accept-encoding: gzip", 200, &["content-encoding: gzip"], "as-gzip"),
    ("GET /style.css | accept-encoding: X-GZip", 200, &["content-encoding: gzip"], "as-gzip"),
    ("GET /style.css | accept-encoding: gzip | accept-encoding: zstd", 200, &["content-encoding: zstd"], "as-zstd"),
    ("GET /style.css | accept-encoding: br;q=0.5, gzip;q=0.8", 200, &["content-encoding: gzip"], "as-gzip"),
    ("GET /style.css | accept-encoding: br;q=0, *", 200, &["content-encoding: zstd"], "as-zstd"),
    ("GET /style.css | accept-encoding: identity, gzip;q=0.5", 200, &[VARY, "!content-encoding"], "plain"),
    ("GET /style.css | accept-encoding: identity;q=0.5, gzip;q=0.5", 200, &["content-encoding: gzip"], "as-gzip"),
    ("GET /style.css | accept-encoding: deflate", 200, &[VARY, "!content-encoding"], "plain"),
    ("GET /style.css | accept-encoding: ", 200, &[VARY, "!content-encoding"], "plain"),
    ("GET /style.css | accept-encoding: identity;q=0", 406, &[VARY, "!etag"], "Not Acceptable"),
    ("GET /style.css | accept-encoding: *;q=0", 406, &[VARY], "Not Acceptable"),
    ("GET /style.css | accept-encoding: identity;q=0, *", 200, &["content-encoding: br"], "as-br"),
    ("GET /only.js | accept-encoding: br, gzip", 200, &["content-encoding: gzip", "content-type: text/javascript; charset=utf-8"], "js-gzip-ten"),
    ("GET /only.js | accept-encoding: br", 200, &[VARY, "!content-encoding"], "plain-js"),
    ("GET /only.js | accept-encoding: identity;q=0, br", 406, &[VARY], "Not Acceptable"),
    ("GET /ten.txt | accept-encoding: br, gzip", 200, &["!vary", "!content-encoding"], TEN),
    ("GET /ten.txt | accept-encoding: identity;q=0", 406, &[VARY], "Not Acceptable"),
    ("GET /folded.txt | accept-encoding: br", 200, &["!vary", "!content-encoding"], "folded"),
    ("GET /orphan.css | accept-encoding: br", 404, &["!vary"], "Not Found"),
    ("GET /style.css.br", 200, &["!content-encoding", "!vary"], "as-br"),
    ("GET /big.txt | accept-encoding: gzip", 200, &["content-encoding: gzip", TXT, "content-length: 120000"], "@0-119999"),
    ("GET /style.css | accept-encoding: br | if-none-match: {style.css.br}", 304, &[VARY, "etag: {style.css.br}", "last-modified: Sun, 06 Nov 1994 08:50:37 GMT"], ""),
    ("GET /style.css | accept-encoding: br | if-none-match: {style.css}", 200, &["content-encoding: br"], "as-br"),
    ("GET /style.css | if-none-match: {style.css.br}", 200, &["!content-encoding"], "plain"),
    ("GET /same.txt | accept-encoding: gzip | if-none-match: {same.txt}", 200, &["content-encoding: gzip"], "same"),
    ("GET /style.css | accept-encoding: br | if-match: {style.css}", 412, &[VARY], "Precondition Failed"),
    ("GET /style.css | accept-encoding: br | range: bytes=3-", 206, &[VARY, CSS, "etag: {style.css.br}", "content-encoding: br", "content-range: bytes 3-4/5"], "br"),
    ("GET /style.css | accept-encoding: br | range: bytes=3- | if-range: {style.css}", 200, &["content-encoding: br"], "as-br"),
    ("GET /style.css | accept-encoding: br | range: bytes=9-", 416, &[VARY, "content-range: bytes */5"], "Range Not Satisfiable"),
    // Parts of a coded representation could not be decoded: all of it.
    ("GET /only.js | accept-encoding: gzip | range: bytes=0-1,5-6", 200, &["content-encoding: gzip", "!content-range"], "js-gzip-ten"),
    ("HEAD /style.css | accept-encoding: zstd", 200, &["content-encoding: zstd", "content-length: 7"], ""),
    ("GET /raw/style.css | accept-encoding: br", 200, &["!vary", "!content-encoding"], "plain"),
    ("GET /raw/style.css | accept-encoding: identity;q=0", 200, &["!vary"], "plain"),
    // Listings.
    ("GET /l/", 200, &[HTML], "root"),
    ("GET /l/bare/", 200, &[HTML, "vary: accept", "cache-control: no-cache", "!etag", "!last-modified", "!accept-ranges"], "~<a href=\"./x.txt\">x.txt</a>"),
    ("GET /l/bare/", 200, &[], "~<a href=\"../\">../</a><td class=size><td class=time>\n"),
    ("GET /l/bare/", 200, &[], "~<title>/bare/</title>"),
    ("GET /l/bare/", 200, &[], "~<meta name=\"viewport\""),
    ("GET /l/bare", 301, &["location: /l/bare/"], ""),
    ("GET /l/list/", 200, &[], "~<a href=\"./x%3Ay\">x:y</a>"),
    ("GET /l/list/", 200, &[], "~<a href=\"./%3Ci%3E%26%22%27.txt\">&lt;i&gt;&amp;&quot;&#39;.txt</a>"),
    ("GET /l/list/", 200, &[], "~<a href=\"./%C3%A9t%C3%A9%20%3F%23%25.txt\">été ?#%.txt</a>"),
    ("GET /l/list/", 200, &[], "~<a href=\"./adir/\">adir/</a>"),
    ("GET /l/list/", 200, &[], "~<td class=size>2.0 KiB<td class=time><time datetime=\"1970-01-01T00:50:00Z\">1970-01-01 00:50</time>"),
    ("GET /l/list/", 200, &[], "~aria-sort=ascending><a href=\"?sort=name&amp;order=desc\">Name ↑</a>"),
    ("GET /l/list/?sort=size", 200, &[], "~aria-sort=ascending><a href=\"?sort=size&amp;order=desc\">Size ↑</a>"),
    ("GET /l/list/?sort=time&order=desc", 200, &[], "~aria-sort=descending><a href=\"?sort=time&amp;order=asc\">Modified ↓</a>"),
    ("GET /l/list/zdir/%3Cdeep%3E/", 200, &[], "~<h1><a href=\"../../../\">/</a><a href=\"../../\">list</a>/<a href=\"../\">zdir</a>/&lt;deep&gt;/</h1>"),
    ("GET /l/bare/ | accept: application/json", 200, &["content-type: application/json", "vary: accept", "cache-control: no-cache"], "~{\"name\":\"x.txt\",\"type\":\"file\",\"size\":1,\"modified\":\"2"),
    ("GET /l/bare/ | accept: text/html;q=0.5, application/json", 200, &["content-type: application/json"], "*"),
    ("GET /l/bare/ | accept: text/html, application/json;q=0.9", 200, &[HTML], "*"),
    ("GET /l/bare/ | accept: */*", 200, &[HTML], "*"),
    ("GET /l/bare/ | range: bytes=0-3", 200, &["!content-range"], "*"),
    ("HEAD /l/bare/", 200, &[HTML, "vary: accept"], ""),
    ("GET /l/types/?sort=nonsense&order=sideways", 200, &[], "~aria-sort=ascending><a href=\"?sort=name"),
    ("GET /l/link-folder/", 200, &[], "sub"),
    ("GET /l/list/link-dir/", 200, &[], "~&lt;deep&gt;/</a>"),
    ("GET /l/.git/", 404, &[], "Not Found"),
    ("GET /l/link-out-folder/", 404, &[], "Not Found"),
    ("GET /l/ten.txt/", 404, &[], "Not Found"),
    ("GET /l/missing/", 404, &[], "Not Found"),
    ("GET /l/list/link-loop/", 404, &[], "Not Found"),
    // try_files.
    ("GET /try/about", 200, &[HTML, "etag~\""], "about"),
    ("GET /try/about/", 200, &[HTML], "about"),
    ("GET /try/docs", 301, &["location: /try/docs/"], ""),
    ("GET /try/docs/", 200, &[HTML], "docs"),
    ("GET /try/bare/", 200, &[TXT], "x"),
    ("GET /try/ten", 200, &[TXT], TEN),
    ("GET /try/ten | range: bytes=0-1", 206, &["content-range: bytes 0-1/10"], "01"),
    ("GET /try/ten | if-none-match: {ten.txt}", 304, &[], ""),
    ("GET /try/ten.txt", 200, &[], TEN),
    ("GET /try/nothing", 404, &[], "Not Found"),
    ("GET /try/nothing/", 404, &[], "Not Found"),
    ("GET /try/link-out", 404, &[], "Not Found"),
    ("HEAD /try/about", 200, &[HTML, "content-length: 5"], ""),
    ("POST /try/about | content-length: 0", 405, &[], "*"),
    ("GET /spa/", 200, &[HTML], "app"),
    ("GET /spa/some/route", 200, &[HTML], "app"),
    ("GET /spa/some/route/", 200, &[HTML], "app"),
    ("GET /spa/sub/", 200, &[], "app"),
    ("GET /spa/sub/page.html", 200, &[], "page"),
    ("GET /spa/.env", 404, &[], "Not Found"),
    ("GET /spa/some/.hidden", 404, &[], "Not Found"),
    ("GET /spa/../secret", 404, &[], "Not Found"),
    ("GET /spa/%2e%2e%2fsecret", 404, &[], "Not Found"),
    ("GET /spa/a%00b", 404, &[], "Not Found"),
    ("GET /spa/a%5cb", 404, &[], "Not Found"),
    ("GET /spa/a//b", 404, &[], "Not Found"),
    ("GET /both/docs/", 200, &["vary: accept"], "~x.txt"),
    ("GET /both/about", 200, &[], "about"),
    ("GET /both/about/", 200, &[], "about"),
    ("GET /clean/", 404, &[], "Not Found"),
    ("GET /clean/about", 200, &[], "about"),
    ("GET /clean/sub/", 404, &[], "Not Found"),
    // Rules.
    ("GET /rules/types/j.js", 200, &["cache-control: max-age=31536000, immutable"], ""),
    ("GET /rules/types/p.html", 200, &["cache-control: max-age=31536000, immutable"], ""),
    ("GET /rules/", 200, &["cache-control: max-age=60"], "root"),
    ("GET /rules/sub/page.html", 200, &["cache-control: max-age=60"], "page"),
    ("GET /rules/with%20space.txt", 200, &["cache-control: max-age=1"], "space"),
    ("GET /rules/ten.txt", 200, &["!cache-control"], TEN),
    ("GET /rules/index.html | if-none-match: *", 304, &["cache-control: max-age=60"], ""),
    ("GET /rules/index.html | range: bytes=0-1", 206, &["cache-control: max-age=60"], "ro"),
    ("GET /rules/types/missing.js", 404, &["!cache-control"], "Not Found"),
    ("GET /rules/sub", 301, &["!cache-control"], ""),
    ("GET /rules/bare/", 200, &["cache-control: max-age=5"], "*"),
    ("GET /rules/docs/", 200, &["cache-control: no-cache"], "*"),
    // Own pages.
    ("GET /own/missing", 404, &[HTML, "x-content-type-options: nosniff", "!etag", "!last-modified", "!cache-control", "!accept-ranges"], "not here"),
    ("GET /own/.env", 404, &[HTML], "not here"),
    ("HEAD /own/missing", 404, &[HTML, "content-length: 8"], ""),
    ("GET /own/missing | if-none-match: *", 404, &[], "not here"),
    ("GET /own/missing | range: bytes=0-1", 404, &["!content-range"], "not here"),
    ("GET /own/404.html", 200, &[HTML, "etag~\""], "not here"),
    ("GET /own/ten.txt | range: bytes=50-", 416, &[TXT, "content-range: bytes */10"], "no such part"),
    ("GET /own/.pages/416.txt", 404, &[], "not here"),
    ("GET /own/ten.txt | if-match: \"a\"", 412, &[HTML], "changed"),
    ("GET /own/style.css | accept-encoding: identity;q=0", 406, &[TXT, VARY], "Not Acceptable"),
];

/// Names too long for a case to be read.
#[test]
fn long_names() {
    let tree = tree().with(&"n".repeat(255), "long");
    let server = site(&tree);
    let name = |n: usize| format!("/{}", "n".repeat(n));
    assert_eq!(server.get(&name(255)).essence(), (200, "long"));
    for path in [
        name(256),
        format!("/try{}", name(255 - 4)),
        "/a/b".repeat(1500),
    ] {
        assert_eq!(server.get(&path).status, 404, "{} bytes", path.len());
    }
    let past_any = server.get(&"/a/b".repeat(4000)).status;
    assert!(matches!(past_any, 404 | 414 | 431), "{past_any}");
}

/// More ranges than are read, more than are sent, and as many as are.
#[test]
fn floods_of_ranges() {
    let tree = tree();
    let server = site(&tree);
    let ask = |count: usize, step: usize| {
        let specs: Vec<_> = (0..count)
            .map(|n| format!("{}-{}", n * step, n * step + 1))
            .collect();
        let range = format!("range: bytes={}\r\n", specs.join(","));
        ask(&server, "GET", "/large.bin", &range)
    };
    for (count, step, status) in [
        (32, 10, 206),
        (33, 10, 200),
        (64, 1, 206),
        (65, 1, 200),
        (1000, 10, 200),
    ] {
        let answer = ask(count, step);
        assert_eq!(answer.status, status, "{count} every {step}");
        if status == 200 {
            assert!(answer.body == large());
        }
    }
    // Each part of a large file, byte by byte.
    let answer = ask(32, 1000);
    let kind = answer.field("content-type").expect("a type");
    let boundary = kind.split_once("boundary=").expect("a boundary").1;
    let mut want = Vec::new();
    for n in 0..32 {
        let (first, last) = (n * 1000, n * 1000 + 1);
        let line_end = if n == 0 { "" } else { "\r\n" };
        want.extend_from_slice(
            format!("{line_end}--{boundary}\r\ncontent-type: application/octet-stream\r\ncontent-range: bytes {first}-{last}/120000\r\n\r\n").as_bytes(),
        );
        want.extend_from_slice(&large()[first..=last]);
    }
    want.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(answer.body == want);
    // Behind each other on one connection, large parts among them.
    let mut client = server.connect();
    let get = "GET /large.bin HTTP/1.1\r\nhost: test\r\nrange: bytes=0-49999,60000-109999\r\n\r\n";
    client.send(get.repeat(20));
    for _ in 0..20 {
        let answer = client.answer();
        assert_eq!(answer.status, 206);
        let at = |part: &[u8]| answer.body.windows(part.len()).any(|window| window == part);
        assert!(at(&large()[..50_000]) && at(&large()[60_000..110_000]));
    }
    assert_eq!(client.get("/ten.txt").essence(), (200, TEN));
}

/// The names of a listing, in its order.
fn listed(server: &TestServer, path: &str) -> Vec<String> {
    let answer = ask(server, "GET", path, "accept: application/json\r\n");
    assert_eq!(answer.status, 200, "{path}");
    let list: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    let list = list.as_array().expect("an array");
    list.iter()
        .map(|item| item["name"].as_str().expect("a name").to_string())
        .collect()
}

#[test]
fn listings_in_order_and_only_of_what_is_served() {
    let tree = tree();
    let server = site(&tree);
    let odd = "<i>&\"'.txt";
    let folders = [".well-known", "adir", "link-dir", "zdir"];
    let files = [
        odd,
        "a.txt",
        "b.txt",
        "c.txt",
        "link-in",
        "link-up",
        "x:y",
        "été ?#%.txt",
    ];
    let all = [&folders[..], &files].concat();
    assert_eq!(listed(&server, "/l/list/"), all);
    assert_eq!(listed(&server, "/l/list/?sort=name&order=asc"), all);
    let reversed: Vec<_> = folders
        .iter()
        .rev()
        .chain(files.iter().rev())
        .copied()
        .collect();
    assert_eq!(listed(&server, "/l/list/?order=desc"), reversed);
    let by_size = [
        odd,
        "x:y",
        "été ?#%.txt",
        "b.txt",
        "link-in",
        "c.txt",
        "link-up",
        "a.txt",
    ];
    assert_eq!(
        listed(&server, "/l/list/?sort=size"),
        [&folders[..], &by_size].concat()
    );
    assert_eq!(
        listed(&server, "/l/list/?sort=size&order=desc")[4..7],
        ["a.txt", "c.txt", "link-up"]
    );
    assert_eq!(
        listed(&server, "/l/list/?sort=time")[4..8],
        ["b.txt", "link-in", "c.txt", "a.txt"]
    );
    // The page has the same entries, each of which is there.
    let page = server.get("/l/list/");
    let hrefs: Vec<_> = page.text().split("href=\"./").skip(1).collect();
    assert_eq!(hrefs.len(), all.len());
    for (href, name) in hrefs.iter().zip(&all) {
        let href = href.split('"').next().expect("a reference");
        let answer = server.get(&format!("/l/list/{href}"));
        assert_eq!(answer.status, 200, "{name}: {href}");
    }
    assert!(!page.text().contains("<script") && !page.text().contains("//"));
}

#[test]
fn the_top_has_no_parent_and_long_listings_are_cut() {
    let tree = Tree::new().with("many/0", "").with("one/x", "");
    for n in 1..=10_000 {
        fs::File::create(tree.root().join(format!("many/{n}"))).expect("a file");
    }
    let root = tree.root();
    let server = serve(move || {
        let mut app: App = App::new();
        let files = Files::new(&root).expect("the root").listing(true);
        files.mount(&mut app, "/top");
        app
    });
    let top = server.get("/top/");
    assert_eq!(top.status, 200);
    assert!(!top.text().contains("../") && top.text().contains("2 entries"));
    let many = server.get("/top/many/");
    assert_eq!(many.text().matches("href=\"./").count(), 10_000);
    assert!(many.text().contains("Only 10000 entries are shown"));
    assert_eq!(listed(&server, "/top/many/").len(), 10_000);
    fs::remove_file(tree.root().join("many/7")).expect("removed");
    assert!(
        server
            .get("/top/many/")
            .text()
            .contains("10000 entries</p>")
    );
}
