//! What an embedder does besides answering: middleware, timers, other threads, loops of its own.

use crate::support::*;
use loopwright::{App, Done, Handle, Limits, OffloadError, PostError, Responder, Server};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn middleware_runs_from_the_outside_in() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let theirs = log.clone();
    let server = serve(move || {
        let before = |who: &'static str| {
            let log = theirs.clone();
            move || log.lock().expect("the log").push(format!("before {who}"))
        };
        let after = |who: &'static str| {
            let log = theirs.clone();
            move |done: &Done<'_>| {
                let (route, status, bytes) = (done.route(), done.status(), done.body_bytes());
                log.lock().expect("the log").push(format!(
                    "after {who}: {} {route} {status} {bytes}",
                    done.method()
                ));
            }
        };
        let mut app: App = App::new();
        app.group("/api", |api| {
            let note = before("group");
            api.before(move |_, req, res| {
                note();
                if req.header("x-key") == Some("sesame") {
                    return Some(res.header("x-user", "ada"));
                }
                res.status(401).text("who are you?");
                None
            });
            let note = after("group");
            api.after(move |_, done| note(done));
            let (first, last) = (before("route"), after("route"));
            api.post("/users/{id}", |_, req, res| {
                res.text(format!("{} bytes", req.body().len()))
            })
            .before(move |_, _, res| {
                first();
                Some(res.status(201))
            })
            .after(move |_, done| last(done));
        });
        // Registered last, and the outermost all the same.
        let note = before("app");
        app.before(move |_, _, res| {
            note();
            Some(res.header("x-frame-options", "DENY"))
        });
        let note = after("app");
        app.after(move |_, done| note(done));
        app.get("/", |_, _, res| res.text("home"));
        app
    });
    let told = || std::mem::take(&mut *log.lock().expect("the log"));
    let mut client = server.connect();

    // The body comes later: middleware does not wait for it, the handler does.
    client.send(
        "POST /api/users/7 HTTP/1.1\r\nhost: test\r\nx-key: sesame\r\ncontent-length: 5\r\n\r\n",
    );
    wait_until("middleware runs", || {
        log.lock().expect("the log").len() == 3
    });
    client.send("hello");
    let answer = client.answer();
    assert_eq!(
        answer.essence(),
        (201, "7 bytes".replace('7', "5").as_str())
    );
    assert_eq!(
        (answer.field("x-user"), answer.field("x-frame-options")),
        (Some("ada"), Some("DENY"))
    );
    wait_until("`after` runs", || log.lock().expect("the log").len() == 6);
    assert_eq!(
        told(),
        [
            "before app",
            "before group",
            "before route",
            "after app: POST /api/users/{id} 201 7",
            "after group: POST /api/users/{id} 201 7",
            "after route: POST /api/users/{id} 201 7",
        ]
    );

    // Refused before the body is asked for.
    client.send("POST /api/users/7 HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    let refused = client.answer();
    assert_eq!(
        (refused.essence(), refused.field("x-frame-options")),
        ((401, "who are you?"), Some("DENY"))
    );
    wait_until("`after` runs", || log.lock().expect("the log").len() == 5);
    assert_eq!(
        told()[1..3],
        ["before group", "after app: POST /api/users/{id} 401 12"]
    );

    // What nobody knows passes through middleware, too.
    assert_eq!(server.get("/api/nowhere").status, 401);
    let nowhere = server.get("/nowhere");
    assert_eq!(
        (nowhere.status, nowhere.field("x-frame-options")),
        (404, Some("DENY"))
    );
}

#[test]
fn routes_are_as_specific_as_they_are_written() {
    let server = serve(|| {
        let mut files: App = App::new();
        files.get("/", |_, _, res| res.text("files"));
        files.get("/{*rest}", |_, req, res| {
            res.text(format!("{} of {}", req.param("rest"), req.route()))
        });
        let mut app = App::new();
        app.mount("/files", files);
        app.get("/a/{x}", |_, req, res| res.text(req.param("x")));
        app.get("/a/b", |_, _, res| res.text("exactly"));
        app.group("/v1", |v1| {
            v1.group("/users", |users| {
                users.get("/", |_, _, res| res.text("users"));
                users.get("/{id}/posts/{post}", |_, req, res| {
                    res.text(format!("{}: {}", req.param("id"), req.param("post")))
                });
            });
        });
        app.get("/rest/{*rest}", |_, req, res| {
            res.text(format!("<{}>", req.param("rest")))
        });
        app.post("/rest/", |_, _, res| res.text("posted"));
        app
    });
    for (path, want) in [
        ("/files", (200, "files")),
        ("/files/x/y", (200, "x/y of /files/{*rest}")),
        ("/a/b", (200, "exactly")),
        ("/a/c", (200, "c")),
        ("/v1/users", (200, "users")),
        ("/v1/users/7/posts/8", (200, "7: 8")),
        ("/v1/users/7", (404, "Not Found")),
        ("/rest/x", (200, "<x>")),
        // A POST route of that path takes nothing away from GET.
        ("/rest/", (200, "<>")),
    ] {
        assert_eq!(server.get(path).essence(), want, "{path}");
    }
}

#[test]
fn timers() {
    let server = serve(|| {
        let mut app: App = App::new();
        app.get("/after", |cx, _, res| {
            let (res, start) = (res.defer(), cx.now());
            cx.after(Duration::from_millis(50), move |cx| {
                res.text((cx.now() - start).as_millis().to_string())
            });
        });
        app.get("/every", |cx, _, res| {
            let (mut res, mut ticks, start) = (Some(res.defer()), 0, cx.now());
            let me = std::rc::Rc::new(std::cell::Cell::new(None));
            let this = me.clone();
            let timer = cx.every(Duration::from_millis(10), move |cx| {
                ticks += 1;
                if ticks == 5 {
                    let was_there = this.get().is_some_and(|timer| cx.cancel(timer));
                    let elapsed = (cx.now() - start).as_millis();
                    if let Some(res) = res.take() {
                        res.text(format!("{was_there} {}", elapsed >= 50));
                    }
                }
                assert!(ticks <= 5, "a cancelled timer fires");
            });
            me.set(Some(timer));
        });
        app.get("/cancel", |cx, _, res| {
            let timer = cx.after(Duration::from_millis(10), |_| {
                panic!("a cancelled timer fires")
            });
            let both = (cx.cancel(timer), cx.cancel(timer));
            let res = res.defer();
            cx.after(Duration::from_millis(30), move |_| {
                res.text(format!("{both:?}"))
            });
        });
        app
    });
    let after: u64 = server.get("/after").text().parse().expect("milliseconds");
    assert!((50..1000).contains(&after), "{after} ms");
    assert_eq!(server.get("/every").text(), "true true");
    assert_eq!(server.get("/cancel").text(), "(true, false)");
}

#[test]
fn offloaded_work_does_not_block_the_loop() {
    let limits = Limits {
        offload_threads: 1,
        offload_queue: 1,
        ..Limits::default()
    };
    let (started, has_started) = mpsc::channel();
    let (release, released) = mpsc::channel::<u32>();
    let released = Arc::new(Mutex::new(released));
    let server = serve_with(local().limits(limits), move || {
        let mut app: App = App::new();
        app.get("/", |_, _, res| res.text("home"));
        app.get("/hard", move |cx, _, res| {
            let (res, started, released) = (res.defer(), started.clone(), released.clone());
            let work = move || {
                started.send(()).expect("the test waits");
                released
                    .lock()
                    .expect("one worker")
                    .recv_timeout(PATIENCE)
                    .expect("released")
            };
            cx.offload(work, |_, n| match n {
                Ok(n) => res.text(n.to_string()),
                Err(e) => res.status(503).text(e.to_string()),
            });
        });
        app.get("/panic", |cx, _, res| {
            let res = res.defer();
            cx.offload(
                || -> u32 { panic!("on purpose") },
                |_, n| res.text(format!("{}", n == Err(OffloadError::Panicked))),
            );
        });
        (app, ())
    });
    let get = "GET /hard HTTP/1.1\r\nhost: test\r\n\r\n";
    let [mut first, mut second] = [server.connect(), server.connect()];
    first.send(get);
    has_started
        .recv_timeout(PATIENCE)
        .expect("the first has a thread");
    second.send(get);
    // The loop is free; what it has answered here came in after the second piece of work.
    assert_eq!(server.get("/").text(), "home");
    let full = server.get("/hard");
    assert_eq!(
        full.essence(),
        (503, OffloadError::Full.to_string().as_str())
    );
    release.send(1).expect("the worker");
    assert_eq!(first.answer().text(), "1");
    release.send(2).expect("the worker");
    assert_eq!(second.answer().text(), "2");
    assert_eq!(server.get("/panic").text(), "true");
    release.send(3).expect("the worker");
    assert_eq!(
        server.get("/hard").text(),
        "3",
        "the thread has outlived a panic"
    );
}

#[test]
fn other_threads_post_in_order() {
    #[derive(Default)]
    struct State {
        posted: Vec<u32>,
        waiting: Vec<Responder>,
    }
    let server = serve_with(local(), || {
        let mut app = App::<State>::new();
        app.get("/posted", |cx, _, res| {
            res.text(format!("{:?}", cx.state.posted))
        });
        app.get("/wait", |cx, _, res| {
            let res = res.defer();
            cx.state.waiting.push(res);
        });
        (app, State::default())
    });
    let handle: Handle<State> = server.handle.clone();
    let poster = std::thread::spawn(move || {
        for n in 0..100 {
            handle
                .post(move |cx| cx.state.posted.push(n))
                .expect("it runs");
        }
    });
    poster.join().expect("the poster");
    assert_eq!(
        server.get("/posted").text(),
        format!("{:?}", (0..100).collect::<Vec<_>>())
    );

    // Answers that wait for another thread's word.
    let mut waiting: Vec<Client> = (0..10).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send("GET /wait HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    let all_wait = || {
        let (tell, told) = mpsc::channel();
        let count = move |cx: &mut loopwright::Ctx<'_, State>| {
            tell.send(cx.state.waiting.len()).expect("told")
        };
        server.handle.post(count).expect("it runs");
        told.recv_timeout(PATIENCE).expect("an answer") == 10
    };
    wait_until("all ten wait", all_wait);
    let answer_all = |cx: &mut loopwright::Ctx<'_, State>| {
        for (n, res) in cx.state.waiting.drain(..).enumerate() {
            res.text(n.to_string());
        }
    };
    server.handle.post(answer_all).expect("it runs");
    let numbers: HashSet<String> = waiting
        .iter_mut()
        .map(|client| client.answer().text().to_string())
        .collect();
    assert_eq!(numbers.len(), 10);

    // A closure that panics is nobody else's trouble.
    server
        .handle
        .post(|_| panic!("on purpose"))
        .expect("it runs");
    assert_eq!(server.get("/posted").status, 200);
    drop(waiting);
    let handle = server.handle.clone();
    server.stop();
    assert_eq!(handle.post(|_| {}), Err(PostError::Stopped));
}

#[test]
fn two_servers_in_one_process() {
    let site = |name: &'static str| {
        move || {
            let mut app = App::<u32>::new();
            app.get("/", move |cx, _, res| {
                *cx.state += 1;
                res.text(format!("{name} {}", cx.state))
            });
            (app, 0)
        }
    };
    let one = serve_with(local(), site("one"));
    let two = serve_with(local(), site("two"));
    assert_eq!(one.get("/").text(), "one 1");
    assert_eq!(one.get("/").text(), "one 2");
    assert_eq!(two.get("/").text(), "two 1");
    one.stop();
    assert_eq!(two.get("/").text(), "two 2");
}

/// The server lives on this thread, between two lines of the test.
#[test]
fn a_caller_may_drive_the_loop() {
    let mut app = App::<Vec<String>>::new();
    app.get("/{name}", |cx, req, res| {
        cx.state.push(req.param("name").to_string());
        let res = res.defer();
        cx.after(Duration::from_millis(10), move |cx| {
            res.text(cx.state.len().to_string())
        });
    });
    let mut server = local().build(app, Vec::new()).expect("a server");
    let address = server.addresses()[0]
        .to_string()
        .parse()
        .expect("an address");
    let handle = server.handle();
    let client = std::thread::spawn(move || {
        let mut client = Client::connect(address);
        let answers = ["/ada", "/grace"].map(|path| client.get(path).text().to_string());
        handle.stop();
        client.expect_end();
        answers
    });
    let (mut turns, mut most) = (0, 0);
    while server.turn().expect("a turn") {
        turns += 1;
        most = most.max(server.open_exchanges());
        if server.state().len() == 1 && server.open_exchanges() == 0 {
            server.state_mut().push("between".to_string());
        }
    }
    assert_eq!(client.join().expect("the client"), ["1", "3"]);
    assert_eq!(server.state(), &["ada", "between", "grace"]);
    assert_eq!(
        (most, server.open_exchanges(), server.connections()),
        (1, 0, 0)
    );
    assert!(
        (4..100).contains(&turns),
        "{turns} turns: it spins, or it does not turn"
    );
}

/// With nothing to do, the loop sleeps.
#[test]
fn an_idle_server_does_not_turn() {
    let mut app: App = App::new();
    app.get("/", |_, _, res| res.text("home"));
    let mut server = local().build(app, ()).expect("a server");
    let address = server.addresses()[0]
        .to_string()
        .parse()
        .expect("an address");
    let handle = server.handle();
    let client = std::thread::spawn(move || {
        let mut clients = [Client::connect(address), Client::connect(address)];
        for client in &mut clients {
            assert_eq!(client.get("/").text(), "home");
        }
        std::thread::sleep(Duration::from_millis(500));
        drop(clients);
        handle.stop();
    });
    let mut turns = 0;
    while server.turn().expect("a turn") {
        turns += 1;
    }
    client.join().expect("the client");
    assert!(turns < 50, "{turns} turns");
}

#[test]
fn many_servers_share_a_port() {
    let site = |name: &'static str| {
        move || {
            let mut app: App = App::new();
            app.get("/", move |_, _, res| res.text(name));
            (app, ())
        }
    };
    let one = serve_with(local(), site("one"));
    let builder = Server::builder()
        .listen(one.tcp().to_string())
        .timeouts(timeouts());
    let two = serve_with(builder, site("two"));
    assert_eq!(one.tcp(), two.tcp());
    let mut served = [0, 0];
    for _ in 0..200 {
        match one.get("/").text() {
            "one" => served[0] += 1,
            "two" => served[1] += 1,
            other => panic!("{other}"),
        }
    }
    // The kernel spreads by a hash: an even share is likely, none is not.
    assert!(served[0] > 20 && served[1] > 20, "{served:?}");
    one.stop();
    for _ in 0..20 {
        assert_eq!(two.get("/").text(), "two");
    }
}

#[test]
fn mistakes_are_told_when_the_server_is_built() {
    let mut app: App = App::new();
    app.get("/a/{x}", |_, _, res| res.empty());
    app.get("/a/{y}", |_, _, res| res.empty());
    app.route("no method", "/", |_, _, res| res.empty());
    let limits = Limits {
        head: 1,
        ..Limits::default()
    };
    let refused = local()
        .limits(limits)
        .build(app, ())
        .err()
        .expect("it must not start");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let text = refused.to_string();
    for part in [
        "GET /a/{x}",
        "GET /a/{y}",
        "\"no method\"",
        "limits.head = 1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for address in [
        "nowhere",
        "127.0.0.1",
        "192.0.2.1:0",
        "unix:/no/such/folder/s",
        "unix:",
    ] {
        let refused = Server::bind(address, App::<()>::new(), ()).err();
        let text = refused.map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains(address), "{address}: {text:?}");
    }
}

/// Requests get different names.
#[test]
fn request_ids_are_unique() {
    let server = serve(|| {
        let mut app: App = App::new();
        app.get("/id", |_, req, res| res.text(req.id().to_string()));
        app
    });
    let mut client = server.connect();
    let start = Instant::now();
    let ids: HashSet<String> = (0..100)
        .map(|_| client.get("/id").text().to_string())
        .collect();
    assert_eq!(ids.len(), 100);
    assert!(ids.iter().all(|id| id.len() == 16));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "100 requests took {:?}",
        start.elapsed()
    );
}
