//! Floor 4. What clients may ask, and one request as they ask it: its bytes follow from its template
//! and a few numbers, so that a schedule can be printed, shrunk and read back.

use super::reader::{Answer, Asked};
use super::schedule::Ask;
use super::simulation::World;
use crate::Limits;
use fastrand::Rng;
use std::ops::RangeInclusive;
use std::rc::Rc;

type Check = Rc<dyn Fn(&Request, &Answer<'_>) -> Result<(), String>>;
type Number = Rc<dyn Fn(&mut Rng, usize) -> usize>;

/// A kind of request that clients may send.
///
/// In the target and in values of fields, `{id}` stands for what no other request of a run has, and
/// `{n}` for a number.
///
/// ```
/// use loopwright::sim::Template;
/// let template = Template::new("POST", "/notes/{id}?size={n}")
///     .field("content-type", "text/plain")
///     .body(0..=5000)
///     .check(|request, answer| match answer.status {
///         200 if *answer.body == *request.body => Ok(()),
///         status => Err(format!("{status} instead of an echo")),
///     });
/// # drop(template);
/// ```
#[derive(Clone)]
pub struct Template {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Option<RangeInclusive<usize>>,
    number: Number,
    check: Option<Check>,
    may_fail: bool,
}

impl Template {
    /// Requests with this method and target.
    ///
    /// ```
    /// use loopwright::sim::Template;
    /// let _ = Template::new("GET", "/notes/{id}?size={n}");
    /// ```
    pub fn new(method: &str, target: &str) -> Template {
        Template {
            method: method.to_string(),
            target: target.to_string(),
            fields: Vec::new(),
            body: None,
            number: Rc::new(|rng, _| rng.usize(..1000)),
            check: None,
            may_fail: false,
        }
    }

    /// One more field.
    ///
    /// ```
    /// use loopwright::sim::Template;
    /// let _ = Template::new("GET", "/").field("x-number", "{n}");
    /// ```
    pub fn field(mut self, name: &str, value: &str) -> Template {
        self.fields.push((name.to_string(), value.to_string()));
        self
    }

    /// They have a body of so many bytes, with its length announced or in chunks.
    ///
    /// ```
    /// use loopwright::sim::Template;
    /// let _ = Template::new("POST", "/notes").body(0..=5000);
    /// ```
    pub fn body(mut self, bytes: RangeInclusive<usize>) -> Template {
        self.body = Some(bytes);
        self
    }

    /// Where `{n}` comes from: chance, and the longest body that this run's network can bear. By
    /// default below 1000.
    ///
    /// ```
    /// use loopwright::sim::Template;
    /// // A size that this network can bear.
    /// let _ = Template::new("GET", "/zeros/{n}").number(|rng, longest| rng.usize(..=longest));
    /// ```
    pub fn number(mut self, draw: impl Fn(&mut Rng, usize) -> usize + 'static) -> Template {
        self.number = Rc::new(draw);
        self
    }

    /// What must be true of each whole answer, beyond its framing. Not asked about refusals of what
    /// came too late (408).
    ///
    /// # Errors
    /// `check` says what is wrong.
    ///
    /// ```
    /// use loopwright::sim::Template;
    /// let _ = Template::new("GET", "/old").check(|_, answer| match answer.field("location") {
    ///     Some("/new") => Ok(()),
    ///     other => Err(format!("to {other:?}")),
    /// });
    /// ```
    pub fn check(
        mut self,
        check: impl Fn(&Request, &Answer<'_>) -> Result<(), String> + 'static,
    ) -> Template {
        self.check = Some(Rc::new(check));
        self
    }

    /// The App may leave them without an answer, or break the answer off.
    ///
    /// ```
    /// use loopwright::sim::Template;
    /// let _ = Template::new("GET", "/stream/{id}").may_fail();
    /// ```
    pub fn may_fail(mut self) -> Template {
        self.may_fail = true;
        self
    }

    /// As a client asks it: now and then at the edge of a limit, on either side.
    pub(super) fn draw(&self, rng: &mut Rng, template: usize, id: String, world: &World) -> Ask {
        let most = world.longest;
        let one_in = |rng: &mut Rng, n: u32| rng.u32(..n) == 0;
        let http_10 = one_in(rng, 10);
        let body = self.body.as_ref().map(|range| {
            let (least, most) = (*range.start(), most.clamp(*range.start(), *range.end()));
            let edge = edge(
                rng,
                usize::try_from(world.limits.body).unwrap_or(usize::MAX),
            );
            match one_in(rng, 4) && (least..=most).contains(&edge) {
                true => edge,
                false => least + size(rng, most - least),
            }
        });
        let by_head = self.method == "GET" && one_in(rng, 10);
        // Of a head that it refuses, the server does not know that it is HEAD's.
        let (head, fields) = match rng.u32(..40) {
            0 if !by_head => (edge(rng, world.limits.head), 0),
            1 if !by_head => (0, edge(rng, world.limits.fields)),
            _ => (0, 0),
        };
        Ask {
            template,
            id,
            n: (self.number)(rng, most),
            body: body.unwrap_or(0),
            chunked: (body.is_some() && !http_10 && rng.bool()).then(|| rng.u32(..1000)),
            by_head,
            http_10,
            says: one_in(rng, 10),
            expects: body.is_some() && !http_10 && one_in(rng, 6),
            head,
            fields,
        }
    }

    pub(super) fn request(&self, ask: &Ask) -> Request {
        let fill = |text: &str| {
            text.replace("{id}", &ask.id)
                .replace("{n}", &ask.n.to_string())
        };
        let method = if ask.by_head { "HEAD" } else { &self.method };
        let target = fill(&self.target);
        let path = target.split('?').next().unwrap_or("").to_string();
        let version = if ask.http_10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut head = format!("{method} {target} {version}\r\nhost: sim\r\n");
        for (name, value) in &self.fields {
            head += &format!("{name}: {}\r\n", fill(value));
        }
        if ask.says {
            let what = if ask.http_10 { "keep-alive" } else { "close" };
            head += &format!("connection: {what}\r\n");
        }
        if ask.expects {
            head += "expect: 100-continue\r\n";
        }
        let body = noise(&path, ask.body);
        let (mut wire, mut trailer) = (Vec::new(), None);
        if let Some(seed) = ask.chunked {
            head += "transfer-encoding: chunked\r\n";
            (wire, trailer) = chunks(&mut Rng::with_seed(seed.into()), &body);
        } else if self.body.is_some() {
            head += &format!("content-length: {}\r\n", body.len());
            wire.clone_from(&body);
        }
        let own = head.lines().count() - 1;
        for n in own..ask.fields {
            head += &format!("x-{n}: {n}\r\n");
        }
        let filled = head.len() + "x-fill: \r\n\r\n".len();
        if ask.head >= filled {
            head += &format!("x-fill: {}\r\n", "z".repeat(ask.head - filled));
        }
        let field_lines = head.lines().count() - 1;
        head += "\r\n";
        let head_len = head.len();
        let mut bytes = head.into_bytes();
        bytes.append(&mut wire);
        Request {
            template: Some(ask.template),
            path,
            number: ask.n,
            body,
            trailer,
            by_head: ask.by_head,
            by_http_10: ask.http_10,
            closes: ask.says != ask.http_10,
            expects_leave: ask.expects,
            has_body: self.body.is_some(),
            may_fail: self.may_fail,
            check: self.check.clone(),
            bytes,
            head_len,
            fields: field_lines,
        }
    }
}

/// A request of a run: what was sent, and what its answer is judged by.
///
/// ```
/// # use loopwright::App;
/// # use loopwright::sim::{Simulation, Template};
/// # let simulation = Simulation::new(|| (), |_| {
/// #     let mut app: App = App::new();
/// #     app.get("/{id}", |_, _, res| res.text("hi"));
/// #     app
/// # });
/// let simulation = simulation.ask(Template::new("GET", "/{id}"));
/// let outcome = simulation.run(3).unwrap();
/// for request in outcome.clients.iter().flat_map(|seen| &seen.requests) {
///     assert!(request.is_malformed() || request.path.starts_with('/'));
/// }
/// ```
#[derive(Clone)]
pub struct Request {
    /// The number of its template, in the order they were given; `None`: it is malformed.
    pub template: Option<usize>,
    /// Without the query.
    pub path: String,
    /// What `{n}` was.
    pub number: usize,
    /// Its content, decoded: the path and the offset, again and again.
    pub body: Vec<u8>,
    /// The value of the trailer field `x-sum`, if it has one: the body's length, in hex.
    pub trailer: Option<String>,
    /// Its method is HEAD.
    pub by_head: bool,
    /// Its version is HTTP/1.0.
    pub by_http_10: bool,
    /// The client wants the connection to end with the answer.
    pub closes: bool,
    /// It asks for `100 Continue`.
    pub expects_leave: bool,
    /// As sent.
    pub bytes: Vec<u8>,
    pub(super) has_body: bool,
    pub(super) may_fail: bool,
    pub(super) check: Option<Check>,
    pub(super) head_len: usize,
    pub(super) fields: usize,
}

impl Request {
    /// What the framing of its answer depends on.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// let simulation = simulation.ask(Template::new("GET", "/{id}"));
    /// let outcome = simulation.run(3).unwrap();
    /// for request in outcome.clients.iter().flat_map(|seen| &seen.requests) {
    ///     assert_eq!(request.asked().by_head, request.by_head);
    /// }
    /// ```
    pub fn asked(&self) -> Asked {
        Asked {
            by_head: self.by_head,
            by_http_10: self.by_http_10,
        }
    }

    /// The server refuses it on sight.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// let simulation = simulation.ask(Template::new("GET", "/{id}"));
    /// let outcome = simulation.run(3).unwrap();
    /// for request in outcome.clients.iter().flat_map(|seen| &seen.requests) {
    ///     assert!(request.is_malformed() || request.template == Some(0));
    /// }
    /// ```
    pub fn is_malformed(&self) -> bool {
        self.template.is_none()
    }

    /// It is well formed, and its head is over a limit: the server refuses it with 431.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// let simulation = simulation.ask(Template::new("GET", "/{id}"));
    /// let outcome = simulation.run(3).unwrap();
    /// for request in outcome.clients.iter().flat_map(|seen| &seen.requests) {
    ///     let limits = loopwright::Limits { head: 1 << 20, fields: 128, ..outcome.world.limits.clone() };
    ///     assert!(!request.is_head_over(&limits));
    /// }
    /// ```
    pub fn is_head_over(&self, limits: &Limits) -> bool {
        let is_over = self.head_len > limits.head || self.fields > limits.fields;
        is_over && !self.is_malformed()
    }

    /// Its body is over the limit of a route that has none of its own.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// let simulation = simulation.ask(Template::new("GET", "/{id}"));
    /// let outcome = simulation.run(3).unwrap();
    /// for request in outcome.clients.iter().flat_map(|seen| &seen.requests) {
    ///     assert!(!request.is_body_over(&outcome.world.limits));
    /// }
    /// ```
    pub fn is_body_over(&self, limits: &Limits) -> bool {
        self.body.len() as u64 > limits.body
    }

    /// The first line, for a message.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// let simulation = simulation.ask(Template::new("GET", "/{id}"));
    /// let outcome = simulation.run(3).unwrap();
    /// for request in outcome.clients.iter().flat_map(|seen| &seen.requests) {
    ///     assert!(request.is_malformed() || request.line().ends_with(|c| c == '0' || c == '1'));
    /// }
    /// ```
    pub fn line(&self) -> String {
        let line = self.bytes.split(|&b| b == b'\r').next().unwrap_or_default();
        String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned()
    }

    pub(super) fn malformed(n: usize) -> Request {
        let bytes = malformed_bytes(n);
        Request {
            template: None,
            path: String::new(),
            number: 0,
            body: Vec::new(),
            trailer: None,
            by_head: false,
            by_http_10: false,
            closes: true,
            expects_leave: false,
            has_body: false,
            may_fail: false,
            check: None,
            head_len: bytes.len(),
            fields: 0,
            bytes,
        }
    }
}

/// How many kinds of malformed requests there are.
pub(super) const MALFORMED: usize = 12;

fn malformed_bytes(n: usize) -> Vec<u8> {
    // Over the largest head and target that Limits has by default, and over every smaller one.
    let long = || "y".repeat(20_000);
    let text = match n % MALFORMED {
        0 => "GET / HTTP/1.1\r\n\r\n",
        1 => "GET / HTTP/1.1\nhost: a\n\n",
        2 => "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        3 => "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        4 => "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
        5 => "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
        6 => {
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        }
        7 => "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
        8 => "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello",
        9 => "\x16\x03\x01\x02\r\n\r\n",
        10 => return format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", long()).into_bytes(),
        _ => return format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", long()).into_bytes(),
    };
    text.as_bytes().to_vec()
}

/// Bytes that could come from nowhere else: `name` and the offset, again and again. Bodies of
/// requests are made so, of their path.
///
/// ```
/// assert_eq!(loopwright::sim::noise("/a", 9), b"/a@0\n/a@5");
/// ```
pub fn noise(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + name.len() + 16);
    while bytes.len() < len {
        bytes.extend_from_slice(format!("{name}@{:x}\n", bytes.len()).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A limit, or one less, or one more.
fn edge(rng: &mut Rng, limit: usize) -> usize {
    limit.saturating_add(rng.usize(..3)).saturating_sub(1)
}

/// Mostly small, sometimes as large as can be.
fn size(rng: &mut Rng, most: usize) -> usize {
    let most = match rng.u32(..10) {
        0 => most,
        1..4 => most.min(5000),
        4..9 => most.min(400),
        _ => 0,
    };
    rng.usize(..=most)
}

fn chunks(rng: &mut Rng, body: &[u8]) -> (Vec<u8>, Option<String>) {
    let (mut bytes, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rng.usize(1..=rest.len()));
        let extension = ["", "", "", ";a;b=\"c \\\" d\""][rng.usize(..4)];
        bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        rest = after;
    }
    bytes.extend_from_slice(b"0\r\n");
    let sum = rng.bool().then(|| format!("{:x}", body.len()));
    if let Some(sum) = &sum {
        bytes.extend_from_slice(format!("x-sum: {sum}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    (bytes, sum)
}
