//! The App under test: a callback of every kind, and a ledger of what became of each request.
//!
//! Every path is `/{kind}/{tag}/{n}`, its tag unique in the run, and what is answered follows from
//! the path (and the request's body) alone. So an answer that meets the wrong request is seen, and
//! so is a byte of one body in another.

use bytes::Bytes;
use loopwright::{Aborted, App, BodyWriter, Ctx, Demand, Responder, StatusError, Trailers};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// What the answer to a request of a kind should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// The path.
    Path(u16),
    /// The words that HTTP has for the status.
    Reason(u16),
    Empty(u16),
    /// `n` bytes of [`noise`].
    Noise,
    /// Some of them, and then the connection breaks.
    Cut,
    /// One of the files.
    File,
    /// The request's own body.
    Echo,
    /// Path, length and sum of the request's body, and its trailer.
    Sum,
    /// The body of an upload on another connection.
    Relayed,
}

/// What `n` in the path is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Number {
    Bytes,
    /// Milliseconds.
    Delay,
}

/// Why a connection may end with an answer, even if the client would have kept it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Never,
    /// The callback wants it so.
    Always,
    /// The answer may come before the request's body has.
    Early,
    /// The producer may write more than `limits.output`.
    Overflow,
}

#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) is_upload: bool,
    pub(crate) number: Number,
    pub(crate) answer: Answer,
    pub(crate) ending: Ending,
}

const fn get(name: &'static str, number: Number, answer: Answer) -> Kind {
    Kind {
        name,
        is_upload: false,
        number,
        answer,
        ending: Ending::Never,
    }
}

const fn post(name: &'static str, number: Number, answer: Answer, ending: Ending) -> Kind {
    Kind {
        name,
        is_upload: true,
        number,
        answer,
        ending,
    }
}

/// `limited` takes no more than this.
pub(crate) const BODY_LIMIT: u64 = 2000;

pub(crate) const KINDS: &[Kind] = {
    use Answer::*;
    use Ending::*;
    use Number::*;
    &[
        // Answered in the callback.
        get("text", Delay, Path(200)),
        get("file", Delay, File),
        get("big", Bytes, Noise),
        get("empty", Delay, Empty(204)),
        get("unchanged", Delay, Empty(304)),
        get("moved", Delay, Empty(307)),
        Kind {
            ending: Always,
            ..get("closing", Delay, Path(200))
        },
        get("refused", Delay, Path(401)),
        get("unknown", Delay, Reason(404)),
        get("wrong_method", Delay, Reason(405)),
        // Answered later.
        get("later", Delay, Path(200)),
        get("big_later", Bytes, Noise),
        get("file_later", Delay, File),
        get("watched", Delay, Path(200)),
        get("poll", Delay, Path(200)),
        get("publish", Delay, Path(200)),
        get("posted", Delay, Path(200)),
        get("offload", Delay, Path(200)),
        // Streamed.
        get("paced", Bytes, Noise),
        get("paced_later", Bytes, Noise),
        Kind {
            ending: Overflow,
            ..get("greedy", Bytes, Noise)
        },
        get("ticking", Delay, Noise),
        get("sized", Bytes, Noise),
        Kind {
            ending: Overflow,
            ..get("sized_over", Bytes, Noise)
        },
        get("sized_short", Bytes, Cut),
        Kind {
            ending: Overflow,
            ..get("summed", Bytes, Noise)
        },
        get("aborted", Bytes, Cut),
        get("aborted_later", Bytes, Cut),
        get("listen", Delay, Relayed),
        // Failing.
        get("never", Delay, Reason(500)),
        get("unanswered", Delay, Reason(500)),
        get("dropped", Delay, Reason(500)),
        get("dropped_later", Delay, Reason(500)),
        get("panic", Delay, Reason(500)),
        get("panic_before", Delay, Reason(500)),
        get("panic_later", Delay, Reason(500)),
        get("panic_deferred", Delay, Path(200)),
        get("error", Delay, Path(418)),
        get("secret", Delay, Reason(500)),
        get("bad_field", Delay, Reason(500)),
        get("bad_field_later", Delay, Reason(500)),
        // With a body.
        post("post", Delay, Sum, Never),
        post("post_later", Delay, Sum, Never),
        post("limited", Delay, Sum, Early),
        post("fold", Delay, Sum, Never),
        post("fold_slowly", Delay, Sum, Never),
        post("collect", Delay, Sum, Never),
        post("echo", Delay, Echo, Never),
        post("pipe", Delay, Echo, Never),
        post("relay", Delay, Sum, Never),
        post("ignored", Delay, Path(403), Early),
        post("ignored_later", Delay, Path(403), Early),
        post("midway", Delay, Path(200), Early),
        post("timed", Delay, Path(200), Early),
        post("panic_in_step", Delay, Reason(500), Early),
        post("panic_at_end", Delay, Reason(500), Never),
    ]
};

pub(crate) use loopwright::sim::noise;

pub(crate) const FILE_SIZES: [usize; 3] = [0, 1000, 40_000];

pub(crate) fn file_content(n: usize) -> Vec<u8> {
    noise(
        &format!("file {}", n % FILE_SIZES.len()),
        FILE_SIZES[n % FILE_SIZES.len()],
    )
}

/// What happened to a request.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Calls of `before`.
    pub(crate) begun: u32,
    /// Calls of `after`: status, bytes of the body, and whether it was cut short.
    pub(crate) done: Vec<(u16, u64, bool)>,
    pub(crate) folds: u32,
    pub(crate) fold_ends: u32,
    pub(crate) watched: u32,
    pub(crate) aborts: u32,
    /// The upload whose body a `listen` was answered with.
    pub(crate) source: Option<String>,
}

pub(crate) struct State {
    /// Shared by all that the callbacks leave behind; alone again when that is gone.
    pub(crate) alive: Rc<()>,
    pub(crate) ledger: BTreeMap<String, Entry>,
    files: Vec<PathBuf>,
    polls: Vec<(String, Responder)>,
    listeners: VecDeque<(String, Responder)>,
    posted: VecDeque<(String, Responder)>,
    never: Vec<Responder>,
}

impl State {
    pub(crate) fn new(files: Vec<PathBuf>, alive: Rc<()>) -> State {
        State {
            alive,
            ledger: BTreeMap::new(),
            files,
            polls: Vec::new(),
            listeners: VecDeque::new(),
            posted: VecDeque::new(),
            never: Vec::new(),
        }
    }

    fn entry(&mut self, path: &str) -> &mut Entry {
        self.ledger.entry(path.to_string()).or_default()
    }

    fn file(&self, n: usize) -> PathBuf {
        self.files[n % self.files.len()].clone()
    }

    /// Lets go of everybody who waits for another request, which may never come. Says whether
    /// there was anybody.
    pub(crate) fn let_go(&mut self) -> bool {
        let waiting = self.polls.len() + self.listeners.len() + self.never.len();
        for (path, res) in self.polls.drain(..) {
            res.text(path);
        }
        self.listeners.clear();
        self.never.clear();
        waiting > 0
    }
}

fn ms(n: usize) -> Duration {
    Duration::from_millis(n as u64)
}

fn number(text: &str) -> usize {
    text.parse().expect("the scripts send numbers")
}

pub(crate) fn app(alive: &Rc<()>) -> App<State> {
    let mut app = App::<State>::new();
    let alive = alive.clone();
    app.after(move |_, _| assert!(Rc::strong_count(&alive) > 0));
    app.before(|cx, req, res| {
        cx.state.entry(req.path()).begun += 1;
        // What else came with the request belongs to it as well.
        let tag = req.path().split('/').nth(2).unwrap_or("");
        assert_eq!(req.query_param("tag").as_deref(), Some(tag));
        assert_eq!(req.header("x-tag"), Some(tag));
        Some(res.header("x-path", req.path()))
    });
    app.after(|cx, done| {
        let path = done.path().to_string();
        cx.state
            .entry(&path)
            .done
            .push((done.status(), done.body_bytes(), done.is_aborted()));
    });
    answered(&mut app);
    deferred(&mut app);
    streamed(&mut app);
    failing(&mut app);
    whole_bodies(&mut app);
    incoming(&mut app);
    app
}

fn answered(app: &mut App<State>) {
    app.get("/text/{tag}/{n}", |_, req, res| res.text(req.path()));
    app.get("/file/{tag}/{n}", |cx, req, res| {
        res.file(cx.state.file(number(req.param("n"))))
    });
    app.get("/big/{tag}/{n}", |_, req, res| {
        let n = number(req.param("n"));
        let body = noise(req.path(), n);
        // Borrowed and owned bodies take different ways out.
        if n.is_multiple_of(2) {
            res.bytes(&body)
        } else {
            res.bytes(body)
        }
    });
    app.get("/empty/{tag}/{n}", |_, _, res| res.status(204).empty());
    app.get("/unchanged/{tag}/{n}", |_, _, res| {
        res.status(304).text("none of this is sent")
    });
    app.get("/moved/{tag}/{n}", |_, req, res| {
        res.redirect(307, req.path())
    });
    app.get("/closing/{tag}/{n}", |_, req, res| {
        res.close().text(req.path())
    });
    app.get("/refused/{tag}/{n}", |_, _, res| {
        res.text("nobody comes here")
    })
    .before(|_, req, res| {
        res.status(401).text(req.path());
        None
    });
    app.put("/wrong_method/{tag}/{n}", |_, _, res| {
        res.text("nobody puts")
    });
}

fn deferred(app: &mut App<State>) {
    app.get("/later/{tag}/{n}", |cx, req, res| {
        let (path, res) = (req.path().to_string(), res.defer());
        cx.after(ms(number(req.param("n"))), move |_| res.text(path));
    });
    app.get("/big_later/{tag}/{n}", |cx, req, res| {
        let (body, res) = (noise(req.path(), number(req.param("n"))), res.defer());
        cx.after(ms(3), move |_| res.bytes(body));
    });
    app.get("/file_later/{tag}/{n}", |cx, req, res| {
        let n = number(req.param("n"));
        let (file, res) = (cx.state.file(n), res.defer());
        cx.after(ms(n), move |_| res.file(file));
    });
    app.get("/watched/{tag}/{n}", |cx, req, res| {
        let (path, res) = (req.path().to_string(), res.defer());
        cx.state.entry(&path).watched += 1;
        let of = path.clone();
        cx.on_abort(&res, move |cx| cx.state.entry(&of).aborts += 1);
        cx.after(ms(number(req.param("n"))), move |_| res.text(path));
    });
    app.get("/poll/{tag}/{n}", |cx, req, res| {
        cx.state.polls.push((req.path().to_string(), res.defer()))
    });
    app.get("/publish/{tag}/{n}", |cx, req, res| {
        for (path, res) in cx.state.polls.drain(..) {
            res.text(path);
        }
        res.text(req.path());
    });
    app.get("/posted/{tag}/{n}", |cx, req, res| {
        cx.state
            .posted
            .push_back((req.path().to_string(), res.defer()));
        let answer = |cx: &mut Ctx<'_, State>| {
            if let Some((path, res)) = cx.state.posted.pop_front() {
                res.text(path)
            }
        };
        cx.handle().post(answer).expect("the loop runs");
    });
    app.get("/offload/{tag}/{n}", |cx, req, res| {
        let (path, res) = (req.path().to_string(), res.defer());
        cx.offload(
            move || path,
            |_, path| res.text(path.expect("the work is short")),
        );
    });
}

/// As fast as the client takes it.
fn pace(cx: &mut Ctx<'_, State>, body: BodyWriter, mut rest: Bytes) {
    while !rest.is_empty() && !body.is_full() {
        let piece = rest.split_to(rest.len().min(1 + rest.len() / 8));
        body.write(piece);
    }
    if !rest.is_empty() {
        cx.on_drain(body, move |cx, body| pace(cx, body, rest));
    }
}

fn streamed(app: &mut App<State>) {
    app.get("/paced/{tag}/{n}", |cx, req, res| {
        pace(
            cx,
            res.stream(),
            noise(req.path(), number(req.param("n"))).into(),
        );
    });
    app.get("/paced_later/{tag}/{n}", |cx, req, res| {
        let (body, rest) = (
            res.stream(),
            noise(req.path(), number(req.param("n"))).into(),
        );
        cx.after(ms(1), move |cx| pace(cx, body, rest));
    });
    app.get("/greedy/{tag}/{n}", |_, req, res| {
        let body = res.stream();
        for piece in noise(req.path(), number(req.param("n"))).chunks(3000) {
            body.write(piece.to_vec());
        }
    });
    app.get("/ticking/{tag}/{n}", |cx, req, res| {
        let mut rest = Bytes::from(noise(req.path(), number(req.param("n"))));
        let mut body = Some(res.stream());
        let timer = Rc::new(Cell::new(None));
        let own = timer.clone();
        let id = cx.every(ms(1), move |cx| {
            if let Some(body) = &body {
                body.write(rest.split_to(rest.len().min(20)));
            }
            if rest.is_empty() {
                drop(body.take());
                assert!(
                    own.get().is_some_and(|id| cx.cancel(id)),
                    "a timer that runs can be cancelled"
                );
            }
        });
        timer.set(Some(id));
    });
    app.get("/sized/{tag}/{n}", |cx, req, res| {
        let body = noise(req.path(), number(req.param("n")));
        pace(cx, res.defer().stream_sized(body.len() as u64), body.into());
    });
    app.get("/sized_over/{tag}/{n}", |_, req, res| {
        let mut body = noise(req.path(), number(req.param("n")));
        let writer = res.defer().stream_sized(body.len() as u64);
        body.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        writer.write(body);
    });
    app.get("/sized_short/{tag}/{n}", |_, req, res| {
        let body = noise(req.path(), number(req.param("n")));
        let writer = res.defer().stream_sized(body.len() as u64 + 10);
        writer.write(body);
    });
    app.get("/summed/{tag}/{n}", |_, req, res| {
        let body = res.stream();
        body.write(noise(req.path(), number(req.param("n"))));
        body.end_with_trailers(&[("x-sum", req.path())]);
    });
    app.get("/aborted/{tag}/{n}", |_, req, res| {
        let body = res.stream();
        body.write(noise(req.path(), number(req.param("n"))));
        body.abort();
    });
    app.get("/aborted_later/{tag}/{n}", |cx, req, res| {
        let body = res.stream();
        body.write(noise(req.path(), number(req.param("n"))));
        cx.after(ms(2), move |_| body.abort());
    });
    app.get("/listen/{tag}/{n}", |cx, req, res| {
        cx.state
            .listeners
            .push_back((req.path().to_string(), res.defer()));
    });
}

/// The panic of a callback that is meant to: kept out of the test's output.
pub(crate) const MEANT: &str = "meant to";

fn fail() {
    panic!("{MEANT}")
}

fn failing(app: &mut App<State>) {
    app.get("/never/{tag}/{n}", |cx, _, res| {
        cx.state.never.push(res.defer())
    });
    app.get("/unanswered/{tag}/{n}", |_, _, res| drop(res));
    app.get("/dropped/{tag}/{n}", |_, _, res| drop(res.defer()));
    app.get("/dropped_later/{tag}/{n}", |cx, req, res| {
        let res = res.defer();
        cx.after(ms(number(req.param("n"))), move |_| drop(res));
    });
    app.get("/panic/{tag}/{n}", |_, _, _| fail());
    app.get("/panic_before/{tag}/{n}", |_, _, res| {
        res.text("nobody comes here")
    })
    .before(|_, _, res| {
        fail();
        Some(res)
    });
    app.get("/panic_later/{tag}/{n}", |cx, req, res| {
        let res = res.defer();
        cx.after(ms(number(req.param("n"))), move |_| {
            let _res = res;
            fail();
        });
    });
    app.get("/panic_deferred/{tag}/{n}", |cx, req, res| {
        let (path, res) = (req.path().to_string(), res.defer());
        cx.after(ms(number(req.param("n"))), move |_| res.text(path));
        fail();
    });
    app.get("/error/{tag}/{n}", |_, req, _| -> Result<(), StatusError> {
        Err(StatusError::new(418, req.path()))
    });
    app.get("/secret/{tag}/{n}", |_, _, _| -> Result<(), &str> {
        Err("not for clients")
    });
    app.get("/bad_field/{tag}/{n}", |_, _, res| {
        res.header("x", "a\r\nb: c").text("never sent")
    });
    app.get("/bad_field_later/{tag}/{n}", |_, _, res| {
        res.header("content-length", "5").defer().text("never sent")
    });
}

/// What a body came to.
pub(crate) fn summary(path: &str, body: &[u8], trailer: Option<&str>) -> String {
    let mut tally = Tally::default();
    tally.add(body);
    tally.words(path, trailer)
}

#[derive(Default)]
struct Tally {
    len: usize,
    sum: u64,
    pieces: usize,
}

impl Tally {
    fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.pieces += 1;
        for &byte in bytes {
            self.sum = self.sum.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
    }

    fn words(&self, path: &str, trailer: Option<&str>) -> String {
        format!(
            "{path}: {} bytes, sum {:x}, {}",
            self.len,
            self.sum,
            trailer.unwrap_or("no trailer")
        )
    }
}

fn whole_bodies(app: &mut App<State>) {
    app.post("/post/{tag}/{n}", |_, req, res| {
        res.text(summary(req.path(), req.body(), None))
    });
    app.post("/post_later/{tag}/{n}", |cx, req, res| {
        let (text, res) = (summary(req.path(), req.body(), None), res.defer());
        cx.after(ms(number(req.param("n"))), move |_| res.text(text));
    });
    app.post("/limited/{tag}/{n}", |_, req, res| {
        res.text(summary(req.path(), req.body(), None))
    })
    .body_limit(BODY_LIMIT);
}

/// The state of a fold that sums up what comes.
struct Upload {
    path: String,
    tally: Tally,
    res: Option<Responder>,
    _alive: Rc<()>,
}

impl Upload {
    fn begin(cx: &mut Ctx<'_, State>, path: &str, res: Option<Responder>) -> Upload {
        cx.state.entry(path).folds += 1;
        Upload {
            path: path.to_string(),
            tally: Tally::default(),
            res,
            _alive: cx.state.alive.clone(),
        }
    }

    fn end(self, cx: &mut Ctx<'_, State>, how: Result<Trailers<'_>, Aborted>) {
        cx.state.entry(&self.path).fold_ends += 1;
        if let (Ok(trailers), Some(res)) = (how, self.res) {
            let trailer = trailers
                .get("x-sum")
                .map(|value| String::from_utf8_lossy(&value).into_owned());
            res.text(self.tally.words(&self.path, trailer.as_deref()));
        }
    }
}

fn incoming(app: &mut App<State>) {
    app.stream("POST", "/fold/{tag}/{n}", |cx, req, res, body| {
        let upload = Upload::begin(cx, req.path(), Some(res.defer()));
        let step = |upload: &mut Upload, _: &mut Ctx<'_, State>, piece: &[u8]| {
            upload.tally.add(piece);
            Demand::More
        };
        body.fold(cx, upload, step, Upload::end);
    });
    app.stream("POST", "/fold_slowly/{tag}/{n}", |cx, req, res, body| {
        let (resume, delay) = (body.resume_handle(), ms(number(req.param("n")) % 20));
        let upload = Upload::begin(cx, req.path(), Some(res.defer()));
        let step = move |upload: &mut Upload, cx: &mut Ctx<'_, State>, piece: &[u8]| {
            upload.tally.add(piece);
            if !upload.tally.pieces.is_multiple_of(3) {
                return Demand::More;
            }
            let resume = resume.clone();
            cx.after(delay, move |_| resume.resume());
            Demand::Hold
        };
        body.fold(cx, upload, step, Upload::end);
    });
    app.stream("POST", "/collect/{tag}/{n}", |cx, req, res, body| {
        let (path, res) = (req.path().to_string(), res.defer());
        cx.state.entry(&path).folds += 1;
        body.collect(cx, move |cx, body| {
            cx.state.entry(&path).fold_ends += 1;
            if let Ok(body) = body {
                res.text(summary(&path, &body, None));
            }
        });
    });
    app.stream("POST", "/echo/{tag}/{n}", |cx, req, res, body| {
        let upload = Upload::begin(cx, req.path(), None);
        let state = (upload, res.stream());
        body.fold(
            cx,
            state,
            |(_, out), _, piece| out.write(piece.to_vec()),
            |(upload, out), cx, how| {
                if how.is_err() {
                    out.abort()
                } else {
                    out.end()
                }
                upload.end(cx, how);
            },
        );
    });
    app.stream("POST", "/pipe/{tag}/{n}", |_, _, res, body| {
        body.pipe(res.stream())
    });
    app.stream("POST", "/relay/{tag}/{n}", |cx, req, res, body| {
        let upload = Upload::begin(cx, req.path(), Some(res.defer()));
        let listener = cx.state.listeners.pop_front().map(|(path, res)| {
            cx.state.entry(&path).source = Some(req.path().to_string());
            res.stream()
        });
        body.fold(
            cx,
            (upload, listener),
            |(upload, listener), _, piece| {
                upload.tally.add(piece);
                listener
                    .as_ref()
                    .map_or(Demand::More, |out| out.write(piece.to_vec()))
            },
            |(upload, listener), cx, how| {
                match listener {
                    Some(out) if how.is_err() => out.abort(),
                    listener => drop(listener),
                }
                upload.end(cx, how);
            },
        );
    });
    app.stream("POST", "/ignored/{tag}/{n}", |_, req, res, _| {
        res.status(403).text(req.path())
    });
    app.stream("POST", "/ignored_later/{tag}/{n}", |cx, req, res, _| {
        let (path, res) = (req.path().to_string(), res.status(403).defer());
        cx.after(ms(number(req.param("n"))), move |_| res.text(path));
    });
    app.stream("POST", "/midway/{tag}/{n}", |cx, req, res, body| {
        let upload = Upload::begin(cx, req.path(), Some(res.defer()));
        let step = |upload: &mut Upload, _: &mut Ctx<'_, State>, piece: &[u8]| {
            upload.tally.add(piece);
            if let Some(res) = upload.res.take_if(|_| upload.tally.pieces == 2) {
                res.text(upload.path.clone());
            }
            Demand::More
        };
        body.fold(cx, upload, step, |mut upload, cx, how| {
            if let Some(res) = upload.res.take_if(|_| how.is_ok()) {
                res.text(upload.path.clone());
            }
            upload.end(cx, how);
        });
    });
    app.stream("POST", "/timed/{tag}/{n}", |cx, req, res, body| {
        let (path, res) = (
            req.path().to_string(),
            Rc::new(Cell::new(Some(res.defer()))),
        );
        let upload = Upload::begin(cx, req.path(), None);
        let by_timer = (path.clone(), res.clone());
        cx.after(ms(number(req.param("n"))), move |_| {
            let (path, res) = by_timer;
            if let Some(res) = res.take() {
                res.text(path);
            }
        });
        body.fold(
            cx,
            upload,
            |_, _, _| Demand::More,
            move |upload, cx, how| {
                if let Some(res) = res.take().filter(|_| how.is_ok()) {
                    res.text(path);
                }
                upload.end(cx, how);
            },
        );
    });
    app.stream("POST", "/panic_in_step/{tag}/{n}", |cx, req, res, body| {
        let upload = Upload::begin(cx, req.path(), Some(res.defer()));
        body.fold(
            cx,
            upload,
            |_, _, _| panic!("{MEANT}"),
            |upload, cx, how| {
                Upload {
                    res: None,
                    ..upload
                }
                .end(cx, how)
            },
        );
    });
    app.stream("POST", "/panic_at_end/{tag}/{n}", |cx, req, res, body| {
        let upload = Upload::begin(cx, req.path(), Some(res.defer()));
        body.fold(
            cx,
            upload,
            |_, _, _| Demand::More,
            |upload, cx, _| {
                cx.state.entry(&upload.path).fold_ends += 1;
                fail();
            },
        );
    });
}
