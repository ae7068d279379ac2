//! What is true of a file at one request, and not at the next.

use super::{Tree, ask, set_modified};
use crate::support::{TestServer, serve, wait_until};
use loopwright::service::files::Files;
use loopwright::{App, Body, FileSlice};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

fn tag(server: &TestServer, path: &str) -> String {
    let answer = ask(server, "HEAD", path, "");
    assert_eq!(answer.status, 200, "{path}");
    answer.field("etag").expect("a tag").to_string()
}

/// As if both had been written at one moment.
fn write_at_one_time(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("written");
    set_modified(path, 784_111_777);
}

/// Small and large, from disk and from the cache, in place and by renaming.
#[test]
fn two_contents_never_share_a_tag() {
    let tree = Tree::new();
    let server = tree.serve();
    for len in [5, 100_000] {
        for pause in [0, 120] {
            let path = tree.root().join("file");
            let mut tags = Vec::new();
            for round in 0..8_u8 {
                let content = vec![b'a' + round; len];
                if round % 2 == 0 {
                    write_at_one_time(&path, &content);
                } else {
                    write_at_one_time(&tree.root().join("next"), &content);
                    fs::rename(tree.root().join("next"), &path).expect("renamed");
                }
                std::thread::sleep(Duration::from_millis(pause));
                let answer = server.get("/file");
                assert!(answer.body == content, "{len} {pause} {round}");
                let tag = answer.field("etag").expect("a tag").to_string();
                assert!(!tags.contains(&tag), "{len} {pause} {round}");
                for old in &tags {
                    let none = ask(
                        &server,
                        "GET",
                        "/file",
                        &format!("if-none-match: {old}\r\n"),
                    );
                    assert!(none.status == 200 && none.body == content);
                    let range = format!("range: bytes=0-1\r\nif-range: {old}\r\n");
                    assert_eq!(ask(&server, "GET", "/file", &range).status, 200);
                }
                tags.push(tag);
            }
        }
    }
}

/// A tag that is settled stays, on both servers: a small file's is its content's.
#[test]
fn the_same_content_keeps_its_tag() {
    let tree = Tree::new()
        .with("small", "content")
        .with("copy", "content")
        .with("large", vec![b'x'; 100_000]);
    let (one, other) = (tree.serve(), tree.serve());
    assert_eq!(tag(&one, "/small"), tag(&other, "/small"));
    assert_eq!(tag(&one, "/small"), tag(&one, "/copy"));
    // What is not settled is given no tag twice.
    assert_ne!(tag(&one, "/large"), tag(&one, "/large"));
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(tag(&one, "/large"), tag(&one, "/large"));
    assert_eq!(tag(&one, "/large"), tag(&other, "/large"));
    let before = tag(&one, "/small");
    fs::write(tree.root().join("small"), "content").expect("written");
    assert_eq!(tag(&one, "/small"), before);
}

#[test]
fn a_cached_file_gives_way_to_whatever_takes_its_place() {
    let tree = Tree::new().with("other", "other").with("folder/x", "x");
    let (path, outside) = (tree.root().join("file"), tree.outside.path().join("secret"));
    let server = tree.serve();
    for len in [5, 100_000] {
        let cached = || {
            fs::write(&path, vec![b'x'; len]).expect("written");
            std::thread::sleep(Duration::from_millis(120));
            for _ in 0..3 {
                assert_eq!(server.get("/file").body.len(), len);
            }
        };
        cached();
        fs::write(&path, "rewritten").expect("written");
        assert_eq!(server.get("/file").text(), "rewritten");
        cached();
        fs::rename(tree.root().join("other"), &path).expect("renamed");
        assert_eq!(server.get("/file").text(), "other");
        fs::rename(&path, tree.root().join("other")).expect("renamed");
        assert_eq!(server.get("/file").status, 404);
        cached();
        let file = fs::File::options()
            .write(true)
            .open(&path)
            .expect("the file");
        file.set_len(3).expect("a length");
        assert_eq!(server.get("/file").text(), "xxx");
        cached();
        fs::remove_file(&path).expect("removed");
        assert_eq!(server.get("/file").status, 404);
        cached();
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder");
        assert_eq!(server.get("/file").status, 301);
        fs::remove_dir(&path).expect("removed");
        cached();
        fs::remove_file(&path).expect("removed");
        symlink(&outside, &path).expect("a link");
        assert_eq!(server.get("/file").status, 404);
        fs::remove_file(&path).expect("removed");
        // A link inside, led elsewhere: the name stays, the file is another.
        symlink("other", &path).expect("a link");
        std::thread::sleep(Duration::from_millis(120));
        assert_eq!(server.get("/file").text(), "other");
        assert_eq!(server.get("/file").text(), "other");
        fs::remove_file(&path).expect("removed");
        symlink("folder/x", &path).expect("a link");
        assert_eq!(server.get("/file").text(), "x");
        fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn siblings_that_come_and_go() {
    let tree = Tree::new().with("a.css", "plain");
    let sibling = tree.root().join("a.css.br");
    std::thread::sleep(Duration::from_millis(120));
    let server = tree.serve();
    let get = || {
        let answer = ask(&server, "GET", "/a.css", "accept-encoding: br\r\n");
        assert_eq!(answer.status, 200);
        let coded = answer.field("content-encoding").is_some();
        (answer.text().to_string(), coded)
    };
    let (plain, coded) = (
        || ("plain".to_string(), false),
        |text: &str| (text.to_string(), true),
    );
    assert_eq!(get(), plain());
    fs::write(&sibling, "one").expect("written");
    let took = wait_until("the sibling is seen", || get() == coded("one"));
    assert!(took < Duration::from_millis(1500), "{took:?}");
    // From here on it is a file as all are.
    fs::write(&sibling, "two").expect("written");
    assert_eq!(get(), coded("two"));
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(get(), coded("two"));
    fs::remove_file(&sibling).expect("removed");
    assert_eq!(get(), plain());
    fs::create_dir(&sibling).expect("a folder");
    assert_eq!(get(), plain());
    fs::remove_dir(&sibling).expect("removed");
    symlink(tree.outside.path().join("secret"), &sibling).expect("a link");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(get(), plain());
    // Without the file itself there is nothing to be coded.
    fs::remove_file(&sibling).expect("removed");
    fs::write(&sibling, "three").expect("written");
    fs::remove_file(tree.root().join("a.css")).expect("removed");
    let gone = ask(&server, "GET", "/a.css", "accept-encoding: br\r\n");
    assert_eq!(gone.status, 404);
}

#[test]
fn an_own_page_that_is_edited() {
    let tree = Tree::new().with("404.html", "one");
    let root = tree.root();
    let server = serve(move || {
        let mut app: App = App::new();
        let files = Files::new(&root).expect("the root");
        files.error_page(404, "404.html").mount(&mut app, "");
        app
    });
    std::thread::sleep(Duration::from_millis(120));
    for _ in 0..2 {
        assert_eq!(server.get("/x").essence(), (404, "one"));
    }
    fs::write(tree.root().join("404.html"), "two").expect("written");
    assert_eq!(server.get("/x").essence(), (404, "two"));
    fs::remove_file(tree.root().join("404.html")).expect("removed");
    assert_eq!(server.get("/x").essence(), (404, "Not Found"));
    fs::create_dir(tree.root().join("404.html")).expect("a folder");
    assert_eq!(server.get("/x").essence(), (404, "Not Found"));
}

#[test]
fn a_time_in_the_future_is_now() {
    let tree = Tree::new().with("file", "file");
    set_modified(&tree.root().join("file"), 4_000_000_000);
    let server = tree.serve();
    let answer = server.get("/file");
    let time = answer.field("last-modified").expect("a time");
    let time = httpdate::parse_http_date(time).expect("a date");
    let now = SystemTime::now();
    assert!(
        time <= now && now < time + Duration::from_secs(10),
        "{time:?}"
    );
}

/// A date is strong only when its second is over.
#[test]
fn if_range_with_the_date_of_this_second() {
    let tree = Tree::new();
    let server = tree.serve();
    let start = Instant::now();
    fs::write(tree.root().join("file"), "0123456789").expect("written");
    let answer = server.get("/file");
    let date = answer.field("last-modified").expect("a date");
    let range = format!("range: bytes=0-1\r\nif-range: {date}\r\n");
    let now = ask(&server, "GET", "/file", &range).status;
    assert!(
        now == 200 || start.elapsed() > Duration::from_millis(900),
        "{now}"
    );
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(ask(&server, "GET", "/file", &range).status, 206);
}

/// Reads as nobody in particular, if it was started as root, who may read everything: the loop's
/// thread gives up its user, for that is what Linux keeps for each thread.
#[test]
fn files_that_may_not_be_read() {
    let tree = Tree::new()
        .with("closed", "closed")
        .with("shut/page", "page")
        .with("shut/index.html", "index")
        .with("unlisted/page", "page")
        .with("later", "later")
        .with("open", "open")
        .with("a.css", "plain")
        .with("a.css.br", "coded")
        .with("403.html", "go away");
    let set = |name: &str, mode: u32| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(tree.root().join(name), mode).expect("a mode");
    };
    set("closed", 0);
    set("shut", 0);
    set("unlisted", 0o711);
    set("a.css.br", 0);
    let root = tree.root();
    let server = serve(move || {
        let files = || Files::new(&root).expect("the root").listing(true);
        let mut app: App = App::new();
        files().mount(&mut app, "");
        files().error_page(403, "403.html").mount(&mut app, "/own");
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::fs::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("another user");
        }
        app
    });
    std::thread::sleep(Duration::from_millis(120));
    for path in [
        "/closed",
        "/shut/page",
        "/shut/",
        "/shut/missing",
        "/unlisted/",
    ] {
        assert_eq!(server.get(path).essence(), (403, "Forbidden"), "{path}");
    }
    assert_eq!(server.get("/own/closed").essence(), (403, "go away"));
    assert_eq!(server.get("/unlisted/page").essence(), (200, "page"));
    assert_eq!(server.get("/open").essence(), (200, "open"));
    // A sibling that may not be read is as good as none.
    let coded = ask(&server, "GET", "/a.css", "accept-encoding: br\r\n");
    assert_eq!(coded.essence(), (200, "plain"));
    // In memory already, and forbidden since.
    assert_eq!(server.get("/later").essence(), (200, "later"));
    set("later", 0);
    assert_eq!(server.get("/later").essence(), (403, "Forbidden"));
    // So that the folder can be removed.
    set("shut", 0o700);
}

/// Parts in memory and on disk, small and large, nested, empty: one body, whoever sends it and when.
#[test]
fn a_body_of_several_parts() {
    let tree = Tree::new().with("file", (0..=255).cycle().take(200_000).collect::<Vec<u8>>());
    let path = tree.root().join("file");
    let content = fs::read(&path).expect("the file");
    let server = serve(move || {
        let file = Rc::new(fs::File::open(&path).expect("the file"));
        let parts = move || -> Vec<Body<'static>> {
            let slice = |offset, len| {
                Body::File(FileSlice {
                    file: file.clone(),
                    offset,
                    len,
                })
            };
            vec![
                "one".into(),
                slice(0, 100),
                vec![
                    Body::from("two"),
                    slice(150_000, 50_000),
                    Body::Parts(Vec::new()),
                ]
                .into(),
                "".into(),
                vec![b'y'; 40_000].into(),
                slice(7, 0),
                slice(100, 1),
            ]
        };
        let mut app: App = App::new();
        let later = parts.clone();
        app.get("/now", move |_, _, res| res.bytes(parts()));
        app.get("/later", move |cx, _, res| {
            let (res, parts) = (res.defer(), later());
            cx.after(Duration::from_millis(5), move |_| res.bytes(parts));
        });
        app.get("/borrowed", |_, req, res| {
            res.text(vec![Body::from("<"), req.path().into(), ">".into()])
        });
        app
    });
    let want = [
        &b"one"[..],
        &content[..100],
        b"two",
        &content[150_000..],
        &[b'y'; 40_000],
        &content[100..101],
    ]
    .concat();
    let mut client = server.connect();
    for path in ["/now", "/later"] {
        assert!(client.get(path).body == want, "{path}");
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        let head = client.head();
        assert_eq!(
            head.field("content-length"),
            Some(want.len().to_string().as_str())
        );
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").repeat(30));
        for _ in 0..30 {
            assert!(client.answer().body == want, "{path}");
        }
    }
    assert_eq!(client.get("/borrowed").text(), "</borrowed>");
}
