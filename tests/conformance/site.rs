//! The site that is asked, and what it saw.

use loopwright::{App, Cookie, Demand, Limits};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Requests in the order the app saw them: `POST /read`, and `=body` once a handler has read it.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn saw(&self, request: String) {
        self.0.lock().expect("the log").push(request);
    }

    fn read(&self, body: &[u8]) {
        let mut log = self.0.lock().expect("the log");
        let last = log.last_mut().expect("a request before its body");
        last.push('=');
        last.extend(body.iter().map(|&b| char::from(b)));
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("the log"))
    }
}

/// Small, so that what is too long is still short.
pub(crate) fn limits() -> Limits {
    Limits {
        head: 1024,
        target: 256,
        fields: 16,
        body: 4096,
        discard: 1024,
        ..Limits::default()
    }
}

pub(crate) fn site(log: Log) -> App {
    let mut app = App::new();
    let seen = log.clone();
    app.before(move |_, req, res| {
        let query = req.query().map(|q| format!("?{q}")).unwrap_or_default();
        seen.saw(format!("{} {}{query}", req.method(), req.path()));
        // A tunnel, as middleware could promise one.
        if req.header("x-tunnel").is_some() {
            res.text("a tunnel");
            return None;
        }
        Some(res)
    });
    app.get("/probe", |_, _, res| res.text("probe"));
    app.get("/", |_, _, res| res.text("home"));
    app.get("/host", |_, req, res| res.text(req.host()));
    for method in ["GET", "POST", "PUT", "OPTIONS", "X-OWN"] {
        let log = log.clone();
        app.route(method, "/read", move |_, req, res| {
            log.read(req.body());
            res.text(req.body());
        });
    }
    let seen = log.clone();
    app.stream("POST", "/stream", move |cx, _, res, body| {
        let log = seen.clone();
        body.fold(
            cx,
            (Vec::new(), res.defer()),
            |(all, _): &mut (Vec<u8>, _), _, piece| {
                all.extend_from_slice(piece);
                Demand::More
            },
            move |(mut all, res), _, end| {
                // A body that breaks off is nobody's.
                let Ok(trailers) = end else { return };
                if let Some(sum) = trailers.get("x-sum") {
                    all.extend([b"+", &sum[..]].concat());
                }
                log.read(&all);
                res.text(all)
            },
        );
    });
    app.stream("POST", "/ignore", |_, _, res, _| res.text("ignored"));
    app.get("/later", |cx, _, res| {
        let res = res.defer();
        cx.after(Duration::from_millis(2), |_| res.text("late"));
    });
    app.get("/pieces", |_, _, res| {
        let body = res.header("trailer", "x-sum").stream();
        body.write("some");
        body.write("pieces");
        body.end_with_trailers(&[("x-sum", "10"), ("content-length", "3"), ("host", "b")]);
    });
    app.get("/sized", |_, _, res| {
        res.defer().stream_sized(4).write("size");
    });
    app.get("/file", |_, _, res| {
        res.file(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
    });
    app.get("/status/{n}", |_, req, res| {
        let status = req.param("n").parse().unwrap_or(500);
        res.status(status).text("not for every status");
    });
    app.get("/open/{n}", |_, req, res| {
        let status = req.param("n").parse().unwrap_or(500);
        res.status(status).stream().write("not for every status");
    });
    app.get("/fails", |_, _, _| panic!("on purpose"));
    app.get("/cookie", |_, req, res| {
        let value = req.query_param("v").unwrap_or_default().into_owned();
        res.cookie(Cookie::new("c", value)).text("set")
    });
    app.get("/to", |_, req, res| {
        res.redirect(302, req.query_param("v").unwrap_or_default());
    });
    app.get("/field", |_, req, res| {
        let value = req.query_param("v").unwrap_or_default();
        res.header("x-v", value.as_bytes()).text("set");
    });
    app.get("/name", |_, req, res| {
        let name = req.query_param("v").unwrap_or_default();
        res.header(name.as_bytes(), "v").text("set");
    });
    app
}
