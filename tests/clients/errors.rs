//! Callbacks that fail: what the client gets, what the hooks are told, and that the server goes on.

use crate::support::*;
use loopwright::{Aborted, App, Ctx, Demand, FailureKind, Request, Response, StatusError};
use std::sync::mpsc;
use std::time::Duration;

fn panics(_: &mut Ctx<'_>, _: &Request<'_>, _: Response<'_>) {
    panic!("on purpose");
}

/// Every way to fail, by path.
fn failing() -> App {
    let mut app = App::new();
    app.get("/fine", |_, _, res| res.text("fine"));
    app.get("/panic", panics);
    app.get("/error", |_, _, _| Err::<(), _>("the password is wrong"));
    app.get("/status", |_, _, _| {
        Err::<(), _>(StatusError::new(409, "taken"))
    });
    app.get("/dropped", |_, _, _| {});
    app.get("/dropped-later", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_millis(20), move |_| drop(res));
    });
    app.get("/panic-later", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_millis(20), move |_| {
            let _res = res;
            panic!("on purpose");
        });
    });
    app.get("/injected", |_, _, res| {
        res.header("x-a", "b\r\nx-c: d").text("split")
    });
    app.get("/injected-later", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_millis(20), move |_| {
            res.header("x-a", "b\nx-c: d").text("split")
        });
    });
    app.post("/panic", panics);
    app
}

const SERVER_ERRORS: [&str; 8] = [
    "/panic",
    "/error",
    "/dropped",
    "/dropped-later",
    "/panic-later",
    "/injected",
    "/injected-later",
    "/fine",
];

#[test]
fn failures_are_500_and_the_server_goes_on() {
    let server = serve(failing);
    let mut client = server.connect();
    for path in SERVER_ERRORS {
        let answer = client.get(path);
        let want = match path {
            "/fine" => (200, "fine"),
            _ => (500, "Internal Server Error"),
        };
        assert_eq!(
            (answer.essence(), answer.closes(), answer.field("x-c")),
            (want, false, None),
            "{path}"
        );
    }
    assert_eq!(client.get("/status").essence(), (409, "taken"));
    // With a body behind it.
    client.send("POST /panic HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n");
    std::thread::sleep(Duration::from_millis(20));
    client.send([b'x'; 100]);
    assert_eq!(client.answer().status, 500);
    assert_eq!(client.get("/fine").essence(), (200, "fine"));
}

#[test]
fn the_error_hook_makes_the_page() {
    let (tell, told) = mpsc::channel();
    let server = serve(move || {
        let mut app = failing();
        app.on_error(move |_, failure, res| {
            let id = failure.request_id().expect("an id").to_string();
            let _ = tell.send((failure.kind(), failure.message().to_string(), id.len()));
            res.header("x-hook", "yes").html(format!(
                "<h1>{}</h1>{}",
                failure.status(),
                failure.public_text()
            ));
        });
        app.group("/inner", |inner| {
            inner.get("/panic", panics);
            inner.get("/hookless", |_, _, res| res.text("fine"));
            inner.on_error(|_, _, _| panic!("the hook, too"));
        });
        app
    });
    let page = "<h1>500 Internal Server Error</h1>Internal Server Error";
    for (path, kind, message) in [
        ("/panic", FailureKind::Panic, "on purpose"),
        ("/error", FailureKind::Error, "the password is wrong"),
        ("/dropped", FailureKind::Unanswered, "without an answer"),
        (
            "/dropped-later",
            FailureKind::Unanswered,
            "dropped unanswered",
        ),
        (
            "/panic-later",
            FailureKind::Unanswered,
            "dropped unanswered",
        ),
        ("/injected", FailureKind::Header, "control character"),
        ("/injected-later", FailureKind::Header, "control character"),
    ] {
        let answer = server.get(path);
        assert_eq!(
            (answer.essence(), answer.field("x-hook")),
            ((500, page), Some("yes")),
            "{path}"
        );
        let (told_kind, told_message, id) = told.recv_timeout(PATIENCE).expect("the hook");
        assert_eq!((told_kind, id), (kind, 16), "{path}");
        assert!(told_message.contains(message), "{path}: {told_message}");
    }
    assert_eq!(
        server.get("/status").essence(),
        (409, "<h1>409 Conflict</h1>taken")
    );
    // A hook that fails is not asked again.
    assert_eq!(
        server.get("/inner/panic").essence(),
        (500, "Internal Server Error")
    );
    assert_eq!(server.get("/inner/hookless").essence(), (200, "fine"));
}

#[test]
fn own_pages_for_what_is_not_there() {
    let server = serve(|| {
        let mut app = failing();
        app.not_found(|_, req, res| res.text(format!("nothing at {}", req.path())));
        app.method_not_allowed(|_, req, res| res.text(format!("no {} here", req.method())));
        app.group("/api", |api| {
            api.get("/users", |_, _, res| res.text("ada"));
            api.not_found(|_, _, res| res.json("nothing"));
        });
        app
    });
    assert_eq!(
        server.get("/nowhere").essence(),
        (404, "nothing at /nowhere")
    );
    assert_eq!(server.get("/api/nowhere").essence(), (404, "\"nothing\""));
    assert_eq!(server.get("/apis").essence(), (404, "nothing at /apis"));
    let mut client = server.connect();
    for path in ["/fine", "/api/users"] {
        client.send(format!("DELETE {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        let answer = client.answer();
        assert_eq!(answer.essence(), (405, "no DELETE here"));
        assert_eq!(answer.field("allow"), Some("GET, HEAD, OPTIONS"));
    }
}

/// A step that panics has lost its state, but whoever waits for the body still hears that it ended.
#[test]
fn a_body_whose_step_panics_ends() {
    let (tell, told) = mpsc::channel();
    let server = serve(move || {
        let mut app = failing();
        app.stream("POST", "/step", move |cx, _, res, body| {
            let tell = tell.clone();
            body.fold(
                cx,
                res.defer(),
                |_, _, _| -> Demand { panic!("on purpose") },
                move |_, _, end| tell.send(end.map(drop)).expect("the test waits"),
            );
        });
        app
    });
    let mut client = server.connect();
    client.send("POST /step HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!(client.answer().status, 500);
    assert_eq!(client.get("/fine").text(), "fine");
    assert_eq!(
        told.recv_timeout(Duration::from_secs(2)),
        Ok(Err(Aborted::Panicked))
    );
}

/// An answer that has begun cannot become a 500: it is cut, so that a part is not taken for the whole.
#[test]
fn an_answer_that_breaks_off_is_no_whole_answer() {
    let server = serve(|| {
        let mut app = failing();
        app.get("/aborted", |cx, _, res| {
            let body = res.stream();
            body.write("part");
            cx.after(Duration::from_millis(20), |_| body.abort());
        });
        app.get("/short", |_, _, res| {
            let body = res.defer().stream_sized(10);
            body.write("part");
            body.end();
        });
        app.get("/long", |_, _, res| {
            let body = res.defer().stream_sized(4);
            body.write("part, and more");
            body.end();
        });
        app
    });
    let mut client = server.connect();
    client.send("GET /aborted HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut answer = client.head();
    assert!(client.read_chunks(&mut answer).is_err());
    assert_eq!(answer.text(), "part");

    let mut client = server.connect();
    client.send("GET /short HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.head().field("content-length"), Some("10"));
    assert_eq!(client.read_once(), "part");
    client.expect_end();

    let mut client = server.connect();
    assert_eq!(client.get("/long").text(), "part");
    assert_eq!(client.get("/fine").text(), "fine");
}
