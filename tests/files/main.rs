//! The file service over loopback: what it serves, what it hides, and what it does while the disk
//! changes under it.

#[allow(dead_code)] // what the other tests need of it
#[path = "../clients/support.rs"]
mod support;

mod changes;
mod table;

use loopwright::App;
use loopwright::service::files::Files;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};
use support::{Answer, Client, PATIENCE, TestServer, serve, wait_until};
use tempfile::TempDir;

/// A folder to serve, beside things that must never be.
struct Tree {
    outside: TempDir,
}

impl Tree {
    fn new() -> Tree {
        let tree = Tree {
            outside: tempfile::tempdir().expect("a folder"),
        };
        fs::create_dir(tree.root()).expect("the root");
        fs::write(tree.outside.path().join("secret"), "secret").expect("a file");
        tree
    }

    fn root(&self) -> std::path::PathBuf {
        self.outside.path().join("root")
    }

    fn with(self, path: &str, content: impl AsRef<[u8]>) -> Tree {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, content).expect("a file");
        self
    }

    /// Served as the whole site, and below `/static`.
    fn serve(&self) -> TestServer {
        let root = self.root();
        serve(move || {
            let files = || Files::new(&root).expect("the root");
            let mut app: App = App::new();
            files().mount(&mut app, "/static");
            files().mount(&mut app, "");
            app
        })
    }
}

fn ask(server: &TestServer, method: &str, path: &str, fields: &str) -> Answer {
    let mut client = server.connect();
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\n{fields}\r\n"
    ));
    if method == "HEAD" {
        client.head()
    } else {
        client.answer()
    }
}

/// No file system goes as far back as the tests go forward in time.
fn set_modified(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let file = fs::File::options()
        .write(true)
        .open(path)
        .expect("the file");
    file.set_modified(time).expect("its time");
}

#[test]
fn files_and_their_types() {
    let types = [
        ("page.html", "text/html; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("code.js", "text/javascript; charset=utf-8"),
        ("data.json", "application/json; charset=utf-8"),
        ("notes.txt", "text/plain; charset=utf-8"),
        ("UPPER.TXT", "text/plain; charset=utf-8"),
        ("picture.svg", "image/svg+xml; charset=utf-8"),
        ("picture.png", "image/png"),
        ("code.wasm", "application/wasm"),
        ("no-extension", "application/octet-stream"),
        ("archive.unheardof", "application/octet-stream"),
    ];
    let tree = types
        .iter()
        .fold(Tree::new(), |tree, (name, _)| tree.with(name, name));
    let server = tree.serve();
    for (name, kind) in types {
        for prefix in ["", "/static"] {
            let answer = server.get(&format!("{prefix}/{name}"));
            assert_eq!(answer.essence(), (200, name));
            assert_eq!(answer.field("content-type"), Some(kind), "{name}");
            assert_eq!(
                answer.field("x-content-type-options"),
                Some("nosniff"),
                "{name}"
            );
        }
    }
}

#[test]
fn index_files() {
    let tree = Tree::new()
        .with("index.html", "root")
        .with("sub/index.html", "sub")
        .with("plain/page.html", "page")
        .with("odd/index.html/page.html", "an index that is a folder");
    let server = tree.serve();
    for (path, want) in [
        ("/", (200, "root")),
        ("/static/", (200, "root")),
        ("/sub/", (200, "sub")),
        ("/sub/index.html", (200, "sub")),
        ("/plain/", (404, "Not Found")),
        ("/odd/", (404, "Not Found")),
        ("/plain/page.html/", (404, "Not Found")),
        ("/plain/page.html/x", (404, "Not Found")),
        ("/missing", (404, "Not Found")),
        ("/missing/", (404, "Not Found")),
        ("/missing/page.html", (404, "Not Found")),
    ] {
        assert_eq!(server.get(path).essence(), want, "{path}");
    }
    assert_eq!(
        server.get("/").field("content-type"),
        Some("text/html; charset=utf-8")
    );

    let root = tree.root();
    let other = serve(move || {
        let files = Files::new(&root)
            .expect("the root")
            .index(["none.html", "page.html"]);
        let mut app: App = App::new();
        files.mount(&mut app, "");
        app
    });
    assert_eq!(other.get("/plain/").essence(), (200, "page"));
    assert_eq!(other.get("/sub/").essence(), (404, "Not Found"));
}

#[test]
fn a_folder_is_asked_for_with_a_slash_at_its_end() {
    let tree = Tree::new()
        .with("sub/index.html", "sub")
        .with("a b/é/index.html", "odd");
    let server = tree.serve();
    for (path, location) in [
        ("/sub", "/sub/"),
        ("/sub?x=1&y=/a?b", "/sub/?x=1&y=/a?b"),
        ("/sub?", "/sub/?"),
        ("/static", "/static/"),
        ("/static?q", "/static/?q"),
        ("/static/sub?q", "/static/sub/?q"),
        ("/a%20b/%C3%A9", "/a%20b/%C3%A9/"),
    ] {
        let answer = server.get(path);
        assert_eq!(
            (answer.status, answer.field("location")),
            (301, Some(location)),
            "{path}"
        );
        assert_eq!(answer.text(), "");
        let head = ask(&server, "HEAD", path, "");
        assert_eq!(
            (head.status, head.field("location")),
            (301, Some(location)),
            "HEAD {path}"
        );
    }
}

/// `location: //host` and `/\host` are addresses of another host.
#[test]
fn a_redirect_never_leaves_the_host() {
    let tree = Tree::new()
        .with("evil.example/index.html", "a folder like a host")
        .with("sub/index.html", "sub");
    let server = tree.serve();
    for path in [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "/%5Cevil.example",
        "/%2Fevil.example",
        "/%2F%2Fevil.example",
        "//evil.example/..",
        "/static//evil.example",
        "http://test//evil.example",
        "//sub",
    ] {
        let answer = ask(&server, "GET", path, "");
        let location = answer.field("location").unwrap_or("/none");
        let is_local =
            location.starts_with('/') && !location.starts_with("//") && !location.contains('\\');
        assert!(is_local, "{path}: {location}");
        assert!(
            matches!(answer.status, 301 | 400 | 404),
            "{path}: {answer:?}"
        );
    }
}

#[test]
fn nothing_is_served_from_outside_the_root() {
    let tree = Tree::new()
        .with("sub/page.html", "page")
        .with("page.html", "page");
    let server = tree.serve();
    for path in [
        "/../secret",
        "/sub/../../secret",
        "/sub/../page.html",
        "/./page.html",
        "/sub/./page.html",
        "/%2e%2e/secret",
        "/%2E%2E/secret",
        "/.%2e/secret",
        "/%2e./secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret",
        "/sub%2f..%2f..%2fsecret",
        "/sub/..%2f..%2fsecret",
        "/%252e%252e/secret",
        "/..%5csecret",
        "/..\\secret",
        "/%2e%2e%5c%2e%2e%5csecret",
        "/sub%5cpage.html",
        "/%c0%ae%c0%ae/secret",
        "/%e0%80%ae/secret",
        "/%00",
        "/page.html%00",
        "/page.html%00.png",
        "/../secret%00.html",
        "//secret",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/%2fetc%2fpasswd",
        "/sub//page.html",
        "/..;/secret",
        "/...",
        "/..",
        "/.",
        "/sub/..",
        "/~",
    ] {
        for prefix in ["", "/static"] {
            let path = format!("{prefix}{path}");
            let answer = server.get(&path);
            assert!(
                matches!(answer.status, 400 | 404),
                "{path}: {} {:?}",
                answer.status,
                answer.text()
            );
        }
    }
    // An absolute target, as a proxy would be asked.
    assert_eq!(ask(&server, "GET", "http://test/../secret", "").status, 404);
    assert_eq!(server.get("/sub/page.html").essence(), (200, "page"));
}

#[test]
fn hidden_names_are_hidden() {
    let hidden = [
        ".env",
        ".git/config",
        "sub/.htaccess",
        "sub/.hidden/page.html",
        ".well-known/.secret",
        "..a",
    ];
    let tree = hidden
        .iter()
        .fold(Tree::new(), |tree, path| tree.with(path, "hidden"));
    let tree = tree
        .with(".well-known/security.txt", "mailto:")
        .with("sub/.well-known/x", "x")
        .with("a.b..c", "dots");
    let server = tree.serve();
    for path in hidden {
        assert_eq!(server.get(&format!("/{path}")).status, 404, "{path}");
        assert_eq!(
            server.get(&format!("/{}", path.replace('.', "%2e"))).status,
            404,
            "{path}, encoded"
        );
    }
    assert_eq!(server.get("/.git/").status, 404);
    assert_eq!(server.get("/.git").status, 404);
    assert_eq!(
        server.get("/.well-known/security.txt").essence(),
        (200, "mailto:")
    );
    assert_eq!(server.get("/sub/.well-known/x").essence(), (200, "x"));
    assert_eq!(server.get("/a.b..c").essence(), (200, "dots"));
}

#[test]
fn symbolic_links_are_followed_inside_and_nowhere_else() {
    let tree = Tree::new()
        .with("sub/page.html", "page")
        .with("later.txt", "inside");
    let (root, outside) = (tree.root(), tree.outside.path());
    let link = |to: &Path, name: &str| symlink(to, root.join(name)).expect("a link");
    link(Path::new("sub/page.html"), "file");
    link(Path::new("sub"), "folder");
    link(Path::new("../sub/page.html"), "sub/up");
    link(&outside.join("secret"), "absolute");
    link(Path::new("../secret"), "relative");
    link(outside, "parent");
    link(Path::new("/proc/self/root"), "magic");
    link(Path::new("loop"), "loop");
    link(Path::new("nothing"), "dangling");
    let server = tree.serve();
    for path in ["/file", "/folder/page.html", "/sub/up"] {
        assert_eq!(server.get(path).essence(), (200, "page"), "{path}");
    }
    assert_eq!(server.get("/folder").field("location"), Some("/folder/"));
    for path in [
        "/absolute",
        "/relative",
        "/parent/secret",
        "/parent",
        "/magic/etc/passwd",
        "/loop",
        "/dangling",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    // A file that was served, and is then replaced by a way out.
    assert_eq!(server.get("/later.txt").essence(), (200, "inside"));
    fs::remove_file(root.join("later.txt")).expect("removed");
    link(&outside.join("secret"), "later.txt");
    assert_eq!(server.get("/later.txt").status, 404);
}

#[test]
fn what_is_no_file_is_not_opened() {
    let tree = Tree::new().with("page.html", "page");
    let fifo = tree.root().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o644.into(),
        0,
    )
    .expect("a FIFO");
    let _socket =
        std::os::unix::net::UnixListener::bind(tree.root().join("socket")).expect("a socket");
    symlink("/dev/zero", tree.root().join("zero")).expect("a link");
    let server = tree.serve();
    for path in ["/fifo", "/socket", "/zero"] {
        // One that blocked would keep the loop from the second answer, too.
        assert_eq!(server.get(path).status, 404, "{path}");
        assert_eq!(
            server.get("/page.html").essence(),
            (200, "page"),
            "after {path}"
        );
    }
}

#[test]
fn names_of_all_kinds() {
    let names = [
        "a b",
        "été",
        "日本.txt",
        "100%",
        "a+b&c=d",
        "semi;colon",
        "q?uestion",
        "h#ash",
        "-",
        "~tilde",
        "%41",
    ];
    let tree = names
        .iter()
        .fold(Tree::new(), |tree, name| tree.with(name, name));
    let server = tree.serve();
    for name in names {
        let encoded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
        assert_eq!(server.get(&format!("/{encoded}")).essence(), (200, name));
    }
    assert_eq!(server.get("/a+b&c=d").essence(), (200, "a+b&c=d"));
    assert_eq!(server.get("/a+b").status, 404, "a plus is a plus in a path");
    let long = "x".repeat(300);
    assert_eq!(server.get(&format!("/{long}")).status, 404);
}

#[test]
fn conditional_requests() {
    let tree = Tree::new().with("page.html", "page").with("old.txt", "old");
    let (page, old) = (tree.root().join("page.html"), tree.root().join("old.txt"));
    set_modified(&page, 784_111_777);
    set_modified(&old, 0);
    let server = tree.serve();
    let stamp = "Sun, 06 Nov 1994 08:49:37 GMT";
    let answer = server.get("/page.html");
    assert_eq!(
        (answer.essence(), answer.field("last-modified")),
        ((200, "page"), Some(stamp))
    );
    for (since, status) in [
        (stamp, 304),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 304),
        ("Sun Nov  6 08:49:37 1994", 304),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 304),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("yesterday", 200),
        ("", 200),
    ] {
        let since = format!("if-modified-since: {since}\r\n");
        let mut client = server.connect();
        for method in ["GET", "HEAD"] {
            client.send(format!(
                "{method} /page.html HTTP/1.1\r\nhost: test\r\n{since}\r\n"
            ));
            let answer = if method == "HEAD" {
                client.head()
            } else {
                client.answer()
            };
            assert_eq!(answer.status, status, "{method} {since:?}");
            assert_eq!(
                answer.field("last-modified"),
                Some(stamp),
                "{method} {since:?}"
            );
            assert_eq!(
                answer.text(),
                if status == 200 && method == "GET" {
                    "page"
                } else {
                    ""
                }
            );
            // A 304 says nothing of what it leaves out, and has no body to be in the way.
            assert_eq!(answer.field("content-type").is_some(), status == 200);
        }
        assert_eq!(client.get("/old.txt").essence(), (200, "old"));
    }
    assert_eq!(
        server.get("/old.txt").field("last-modified"),
        Some("Thu, 01 Jan 1970 00:00:00 GMT")
    );
}

/// Larger than what is kept in memory: the kernel sends it. Several at once, and behind each other.
#[test]
fn large_files() {
    const LEN: usize = 24 << 20;
    let content: Vec<u8> = (0..=250).collect::<Vec<u8>>().repeat(LEN / 251 + 1)[..LEN].to_vec();
    let tree = Tree::new()
        .with("large", &content)
        .with("edge", &content[..64 * 1024])
        .with("over", &content[..64 * 1024 + 1]);
    let tree = tree.with("empty", "");
    let server = tree.serve();
    let mut clients: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        client.send(
            [
                get("/large"),
                get("/over"),
                get("/edge"),
                get("/empty"),
                get("/missing"),
            ]
            .concat(),
        );
    }
    for client in &mut clients {
        assert!(client.answer().body == content);
        assert!(client.answer().body == content[..64 * 1024 + 1]);
        assert!(client.answer().body == content[..64 * 1024]);
        assert_eq!(client.answer().essence(), (200, ""));
        assert_eq!(client.answer().essence(), (404, "Not Found"));
    }
    let head = ask(&server, "HEAD", "/large", "");
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some(LEN.to_string().as_str()))
    );
    // Nothing of the file may follow the head.
    clients[0].send("HEAD /large HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(clients[0].head().status, 200);
    assert_eq!(clients[0].get("/empty").essence(), (200, ""));
}

#[test]
fn changes_on_disk_are_noticed() {
    let tree = Tree::new()
        .with("page", "one")
        .with("large", vec![b'a'; 100_000])
        .with("sub/index.html", "index");
    let (page, large) = (tree.root().join("page"), tree.root().join("large"));
    let server = tree.serve();
    let mut client = server.connect();
    assert_eq!(client.get("/page").text(), "one");
    // Of the same length, in the same second; written in place, replaced, removed, made again.
    fs::write(&page, "two").expect("written");
    assert_eq!(client.get("/page").text(), "two");
    fs::write(tree.root().join("next"), "three").expect("written");
    fs::rename(tree.root().join("next"), &page).expect("renamed");
    assert_eq!(client.get("/page").text(), "three");
    fs::remove_file(&page).expect("removed");
    assert_eq!(client.get("/page").status, 404);
    fs::create_dir(&page).expect("a folder");
    assert_eq!(client.get("/page").status, 301);
    fs::remove_dir(&page).expect("removed");
    fs::write(&page, "four").expect("written");
    assert_eq!(client.get("/page").text(), "four");

    assert_eq!(client.get("/large").body.len(), 100_000);
    fs::write(&large, vec![b'b'; 100_000]).expect("written");
    assert!(client.get("/large").body.iter().all(|&b| b == b'b'));
    fs::write(&large, "small").expect("written");
    assert_eq!(client.get("/large").text(), "small");

    assert_eq!(client.get("/sub/").text(), "index");
    fs::remove_file(tree.root().join("sub/index.html")).expect("removed");
    assert_eq!(client.get("/sub/").status, 404);
}

/// The length is out already: only cutting the connection tells the client that the rest is missing.
#[test]
fn a_file_that_becomes_shorter_while_it_is_sent() {
    const LEN: u64 = 64 << 20;
    let tree = Tree::new().with("large", "").with("page", "page");
    let large = tree.root().join("large");
    let file = fs::File::options()
        .write(true)
        .open(&large)
        .expect("the file");
    file.set_len(LEN).expect("a length");
    let server = tree.serve();
    let mut client = server.connect();
    client.send("GET /large HTTP/1.1\r\nhost: test\r\n\r\n");
    let head = client.head();
    assert_eq!(head.field("content-length"), Some(LEN.to_string().as_str()));
    // What the sockets hold is sent; the client has not taken it.
    std::thread::sleep(Duration::from_millis(100));
    file.set_len(1 << 20).expect("a length");
    let mut body = Vec::new();
    let mut socket = client.socket();
    let _ = socket.read_to_end(&mut body);
    assert!(
        (body.len() as u64) < LEN,
        "all of it has come: {} bytes",
        body.len()
    );
    assert_eq!(server.get("/page").essence(), (200, "page"));
    let again = server.get("/large");
    assert_eq!((again.status, again.body.len()), (200, 1 << 20));
}

#[test]
fn methods_that_files_do_not_have() {
    let tree = Tree::new().with("page.html", "page");
    let server = tree.serve();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        for path in ["/page.html", "/static/page.html", "/missing"] {
            let answer = ask(&server, method, path, "content-length: 0\r\n");
            let got = (answer.status, answer.field("allow"));
            assert_eq!(got, (405, Some("GET, HEAD, OPTIONS")), "{method} {path}");
        }
    }
    let options = ask(&server, "OPTIONS", "/page.html", "");
    assert_eq!(
        (options.status, options.field("allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
    let head = ask(&server, "HEAD", "/page.html", "");
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("4"))
    );
}

#[test]
fn a_root_that_is_none() {
    let tree = Tree::new().with("file", "file");
    for path in [tree.root().join("missing"), tree.root().join("file")] {
        let refused = Files::new(&path).err().expect("it must not be served");
        assert!(
            refused.to_string().contains(path.to_str().expect("UTF-8")),
            "{refused}"
        );
    }
}

/// A client that stops reading in the middle of a file is in nobody's way.
#[test]
fn a_client_that_leaves_in_the_middle() {
    let tree = Tree::new()
        .with("large", vec![b'x'; 32 << 20])
        .with("page", "page");
    let server = tree.serve();
    for _ in 0..20 {
        let mut client = server.connect();
        client.send("GET /large HTTP/1.1\r\nhost: test\r\n\r\n");
        assert_eq!(client.head().status, 200);
    }
    let took = wait_until("others are served", || {
        server.get("/page").essence() == (200, "page")
    });
    assert!(took < PATIENCE / 4, "{took:?}");
}
