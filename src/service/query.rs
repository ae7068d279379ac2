//! Floor 4. A query of a database as a handler: a request's values in, JSON out.
//!
//! ```text
//! request ─► values (path, query string, fields, body) ─► bound to $1, $2 … ─► rows ─► one │ many │ value ─► JSON
//!               └─ missing, not of the statement's type: 400     └─ SQLSTATE ─► 400, 409, 422, 503, 504, 500
//! ```
//! Invariants: what a client sends is a value, never SQL; what a server says goes to the log, not to the client, unless it
//! is about what this client has sent and nothing else.
//!
//! An answer is gathered before it is sent, so that it is whole or an error, unless its rows are without a limit
//! ([`Query::rows`]): then it is sent as it comes, and a client that takes it slowly slows down the server.

use super::pg::{
    DbError, Param, Params, PgError, PgErrorKind, PgQuery, QueryError, Refusal as NotAsked, Row,
    Rows,
};
use crate::{BodyWriter, Bytes, Ctx, Demand, Request, Responder, Response};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

/// What of the rows is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shape {
    /// The one row, an object; 404 if there is none.
    One,
    /// All of them, an array of objects.
    #[default]
    Many,
    /// The one value of the one row; 404 if there is none.
    Value,
}

/// Where the value of a parameter comes from.
///
/// ```
/// use loopwright::service::query::Source;
/// assert_eq!("{id}".parse(), Ok(Source::Path("id".into())));
/// assert_eq!("{query.page}".parse(), Ok(Source::Query("page".into())));
/// assert_eq!("{header.X-User}".parse(), Ok(Source::Header("x-user".into())));
/// assert_eq!("{body.name}".parse(), Ok(Source::Field("name".into())));
/// assert_eq!("{body}".parse(), Ok(Source::Body));
/// assert_eq!("open".parse(), Ok(Source::Fixed("open".into())));
/// assert!("{cookie.id}".parse::<Source>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A parameter of the path.
    Path(String),
    /// The first of this name in the query string.
    Query(String),
    /// The first field of this name.
    Header(String),
    /// A member of the JSON object, or a field of the form, that is the body.
    Field(String),
    /// The whole body, as a text.
    Body,
    /// Always the same.
    Fixed(String),
}

/// What is no [`Source`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceError;

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "want {name} of the path, {query.name}, {header.name}, {body.name}, {body}, or a text without braces",
        )
    }
}

impl std::error::Error for SourceError {}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Source, SourceError> {
        if !text.contains(['{', '}']) {
            return Ok(Source::Fixed(text.into()));
        }
        let name = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
        let is_name = |name: &&str| !name.is_empty() && !name.contains(['{', '}', '*']);
        let name = name.filter(is_name).ok_or(SourceError)?;
        match name.split_once('.') {
            None if name == "body" => Ok(Source::Body),
            None => Ok(Source::Path(name.into())),
            Some((_, "")) => Err(SourceError),
            Some(("query", name)) => Ok(Source::Query(name.into())),
            Some(("body", name)) => Ok(Source::Field(name.into())),
            Some(("header", name)) if name.bytes().all(is_token) => {
                Ok(Source::Header(name.to_ascii_lowercase()))
            }
            Some(_) => Err(SourceError),
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// For whoever has sent it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path(name) => write!(f, "`{name}` in the path"),
            Source::Query(name) => write!(f, "`{name}` in the query string"),
            Source::Header(name) => write!(f, "the header field `{name}`"),
            Source::Field(name) => write!(f, "`{name}` in the body"),
            Source::Body => f.write_str("the body"),
            Source::Fixed(_) => f.write_str("a fixed value"),
        }
    }
}

/// A parameter of the statement: where its value comes from, and what holds if there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Where its value comes from.
    pub source: Source,
    /// In its place, if it is missing. `None`: NULL.
    pub default: Option<String>,
    /// Whether it is 400 if it is missing.
    pub required: bool,
}

impl From<Source> for Input {
    fn from(source: Source) -> Input {
        Input {
            source,
            default: None,
            required: false,
        }
    }
}

/// A statement, and what is answered with it.
///
/// ```
/// use loopwright::{App, service::pg::Postgres, service::query::{Query, Shape, Source}};
/// let mut app: App = App::new();
/// app.postgres("main", Postgres::new("postgres://shop@db.example/shop").unwrap());
/// let user = Query::new("main", "select id, name from users where id = $1")
///     .param(Source::Path("id".into()))
///     .shape(Shape::One);
/// app.get("/users/{id}", user.handler());
/// ```
#[derive(Clone, Debug)]
pub struct Query {
    database: String,
    sql: Rc<str>,
    params: Vec<Input>,
    shape: Shape,
    rows: usize,
    timeout: Option<Duration>,
    status: Option<u16>,
}

impl Query {
    /// The rows of an answer, unless [`Query::rows`] says otherwise.
    pub const ROWS: usize = 1000;

    /// Asks the database of this name ([`App::postgres`](crate::App::postgres)).
    pub fn new(database: impl Into<String>, sql: &str) -> Query {
        Query {
            database: database.into(),
            sql: sql.into(),
            params: Vec::new(),
            shape: Shape::default(),
            rows: Query::ROWS,
            timeout: None,
            status: None,
        }
    }

    /// The next of `$1`, `$2`, …
    pub fn param(mut self, input: impl Into<Input>) -> Query {
        self.params.push(input.into());
        self
    }

    /// What of the rows is answered. Default: [`Shape::Many`].
    pub fn shape(self, shape: Shape) -> Query {
        Query { shape, ..self }
    }

    /// Rows of one answer of [`Shape::Many`]; with more it is 500. 0: there is no limit, and rows are sent as they come, on
    /// a connection of their own. Default 1000.
    pub fn rows(self, rows: usize) -> Query {
        Query { rows, ..self }
    }

    /// How long the answer may take; 504 past it. Default: as the database has it.
    pub fn timeout(self, timeout: Duration) -> Query {
        let timeout = Some(timeout);
        Query { timeout, ..self }
    }

    /// The status of an answer without an error. Default: 200; 204 if the statement has no columns.
    pub fn status(self, status: u16) -> Query {
        let status = Some(status);
        Query { status, ..self }
    }

    /// To be registered with a route; its clones share the statement.
    pub fn handler<S: 'static>(
        self,
    ) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) + Clone + 'static {
        let query = Rc::new(self);
        move |cx, req, res| query.clone().ask(cx, req, res.defer())
    }

    fn ask<S: 'static>(self: Rc<Self>, cx: &mut Ctx<'_, S>, req: &Request<'_>, res: Responder) {
        let params = match self.values(req) {
            Ok(params) => params,
            Err(refusal) => return refusal.answer(res),
        };
        let asked = Asked {
            request: req.id().to_string(),
            route: req.route().into(),
            query: self.clone(),
        };
        let mut pg = cx.pg(&self.database).answering(&res);
        if let Some(timeout) = self.timeout {
            pg = pg.timeout(timeout);
        }
        if self.shape != Shape::Many || self.rows > 0 {
            let pg = match self.shape {
                Shape::Many => pg.rows(self.rows),
                Shape::One | Shape::Value => pg,
            };
            pg.query(self.sql.clone(), params, move |_, rows| {
                let answer = rows.map_err(|error| asked.refusal(&error));
                match answer.and_then(|rows| asked.answer(&rows)) {
                    Ok((status, json)) => send(res, status, json),
                    Err(refusal) => refusal.answer(res),
                }
            });
            return;
        }
        let stream = Stream::new(asked, res);
        let (rows, end) = (stream.clone(), stream.clone());
        let query = pg.each(
            self.sql.clone(),
            params,
            move |cx, row| rows.row(cx, &row),
            move |_, result| end.end(result.err()),
        );
        stream.query.set(Some(query));
    }

    /// Whether anything of it is the client's.
    fn has_input(&self) -> bool {
        let is_input = |input: &Input| !matches!(input.source, Source::Fixed(_));
        self.params.iter().any(is_input)
    }

    fn values(&self, req: &Request<'_>) -> Result<Params, Refusal> {
        let is_field = |input: &Input| matches!(input.source, Source::Field(_));
        let fields = match self.params.iter().any(is_field) {
            true => fields(req)?,
            false => HashMap::new(),
        };
        let value = |input: &Input| {
            let found = match &input.source {
                Source::Path(name) => Some(req.param(name).into()),
                Source::Query(name) => req.query_param(name),
                Source::Header(name) => req.header(name).map(Cow::Borrowed),
                Source::Field(name) => match fields.get(&name[..]) {
                    Some(Field::Quoted(raw)) => return Ok(Param::JsonString((*raw).into())),
                    Some(Field::Text(text)) => Some(text.clone()),
                    None => None,
                },
                Source::Body => match std::str::from_utf8(req.body()) {
                    Ok("") => None,
                    Ok(text) => Some(text.into()),
                    Err(_) => return Err(Refusal::new(400, "the body is not UTF-8")),
                },
                Source::Fixed(text) => Some(text.into()),
            };
            match found.or_else(|| input.default.as_deref().map(Cow::Borrowed)) {
                Some(text) => Ok(Param::Given(text.into_owned())),
                None if input.required => {
                    Err(Refusal::new(400, format!("{} is missing", input.source)))
                }
                None => Ok(Param::Null),
            }
        };
        self.params.iter().map(value).collect()
    }
}

type Fields<'a> = HashMap<Cow<'a, str>, Field<'a>>;

enum Field<'a> {
    Text(Cow<'a, str>),
    /// A string of JSON, as it is written.
    Quoted(&'a str),
}

/// The members of a JSON object, or the fields of a form; none for `null`.
fn fields<'a>(req: &Request<'a>) -> Result<Fields<'a>, Refusal> {
    let kind = req.content_type();
    if req.body().is_empty() {
        return Ok(HashMap::new());
    }
    if let Ok(form) = req.form() {
        let mut fields = HashMap::new();
        for (name, value) in form {
            fields.entry(name).or_insert(Field::Text(value));
        }
        return Ok(fields);
    }
    if kind != "application/json" && !kind.ends_with("+json") {
        let text = "the body is neither application/json nor application/x-www-form-urlencoded";
        return Err(Refusal::new(415, text));
    }
    // As they are written: a number keeps all its digits.
    let wrong = |e: serde_json::Error| Refusal::new(400, format!("the body is no object: {e}"));
    let members: HashMap<String, &'a serde_json::value::RawValue> =
        serde_json::from_slice(req.body()).map_err(wrong)?;
    let mut fields = HashMap::with_capacity(members.len());
    for (name, raw) in members {
        let text = match raw.get() {
            "null" => continue,
            text if text.starts_with('"') => {
                let _: Cow<'_, str> = serde_json::from_str(text).map_err(wrong)?;
                Field::Quoted(text)
            }
            text => Field::Text(Cow::Borrowed(text)),
        };
        fields.insert(Cow::Owned(name), text);
    }
    Ok(fields)
}

/// An answer that is not what was asked for. Its body is `{"error": "…"}`.
#[derive(Debug)]
struct Refusal {
    status: u16,
    text: String,
}

impl Refusal {
    fn new(status: u16, text: impl Into<String>) -> Refusal {
        let text = text.into();
        Refusal { status, text }
    }

    fn answer(self, res: Responder) {
        res.status(self.status)
            .json(&serde_json::json!({ "error": self.text }));
    }
}

fn send(res: Responder, status: u16, json: Vec<u8>) {
    let res = res.status(status);
    match json.is_empty() {
        true => res.empty(),
        false => res.header("content-type", JSON).bytes(json),
    }
}

const JSON: &str = "application/json";

/// A query that was asked, and for which request.
struct Asked {
    request: String,
    route: String,
    query: Rc<Query>,
}

impl Asked {
    /// What went wrong here, and is not the client's to know.
    fn ours(&self, status: u16, text: &str, why: impl fmt::Display) -> Refusal {
        let Asked { request, route, .. } = self;
        match status {
            500 => log::error!("{request}: {route}: {why}"),
            _ => log::warn!("{request}: {route}: {why}"),
        }
        Refusal::new(status, text)
    }

    fn fault(&self, why: impl fmt::Display) -> Refusal {
        self.ours(500, "Internal Server Error", why)
    }

    /// Status and body.
    fn answer(&self, rows: &Rows) -> Result<(u16, Vec<u8>), Refusal> {
        let Query { shape, status, .. } = &*self.query;
        let none = || Refusal::new(404, "there is none");
        let Some(columns) = rows.columns() else {
            return match rows.affected() {
                0 if *shape != Shape::Many => Err(none()),
                _ => Ok((status.unwrap_or(204), Vec::new())),
            };
        };
        let mut json = Vec::new();
        let written = match (shape, &rows[..]) {
            (Shape::Many, _) => rows.json(&mut json),
            (_, []) => return Err(none()),
            (Shape::One, [row]) => row.json(&mut json),
            (Shape::Value, [row]) if columns.len() == 1 => row.json_value(0, &mut json),
            (Shape::Value, [_]) => {
                let why = format!("{} columns, where shape = \"value\"", columns.len());
                return Err(self.fault(why));
            }
            (_, all) => {
                let why = format!("{} rows, where one was wanted (shape)", all.len());
                return Err(self.fault(why));
            }
        };
        written.map_err(|error| self.fault(error))?;
        Ok((status.unwrap_or(200), json))
    }

    /// A value of the client's is none of what it is to be; of which, if that is known.
    fn unfit(&self, input: Option<&Input>, error: &DbError) -> Refusal {
        log::info!("{}: {}: {error}", self.request, self.route);
        let text = match input {
            Some(input) => format!("{}: {}", input.source, error.message),
            None => "a value does not fit".into(),
        };
        Refusal::new(400, text)
    }

    fn refusal(&self, error: &PgError) -> Refusal {
        let label = |position: usize| {
            let input = self.query.params.get(position.wrapping_sub(1));
            input.filter(|input| !matches!(input.source, Source::Fixed(_)))
        };
        match error.kind() {
            PgErrorKind::Query(QueryError::Param(wrong)) => match label(wrong.position) {
                Some(input) => {
                    let text = format!("{} ({}): {}", input.source, wrong.type_name, wrong.why);
                    Refusal::new(400, text)
                }
                None => self.fault(error),
            },
            PgErrorKind::Query(QueryError::TooLong { .. })
            | PgErrorKind::Refused(NotAsked::TooLong) => {
                Refusal::new(413, "more than a query can hold")
            }
            PgErrorKind::Query(QueryError::Server(server)) => {
                // Where the server says of which parameter it speaks, it speaks of nothing else.
                let context = server.context.as_deref().unwrap_or_default();
                let input = bound(context).and_then(label);
                match refused(&server.code).unwrap_or(error.status()) {
                    500 if input.is_some() => self.unfit(input, server),
                    400 if self.query.has_input() => self.unfit(input, server),
                    status @ (409 | 422) => {
                        let text = match &server.code[..] {
                            "23505" | "23P01" => "there is one already",
                            "23503" => "it refers to what is not there, or something refers to it",
                            "23502" => "a value is missing",
                            _ => "a value is not allowed",
                        };
                        log::debug!("{}: {}: {error}", self.request, self.route);
                        Refusal::new(status, text)
                    }
                    503 => self.ours(503, "Service Unavailable", error),
                    504 => self.ours(504, "Gateway Timeout", error),
                    _ => {
                        let at = match server.position {
                            Some(at) => format!(", at character {at} of the query"),
                            None => String::new(),
                        };
                        self.fault(format_args!("{error}{at}"))
                    }
                }
            }
            // Nobody hears it.
            PgErrorKind::Gone => Refusal::new(503, "Service Unavailable"),
            _ => match error.status() {
                503 => self.ours(503, "Service Unavailable", error),
                504 => self.ours(504, "Gateway Timeout", error),
                _ => self.fault(error),
            },
        }
    }
}

/// What an SQLSTATE is to a client, if it is what the client has sent.
fn refused(code: &str) -> Option<u16> {
    Some(match code {
        // A text that is no value of its type, or is out of range.
        "22P02" | "22P03" | "22P05" | "22001" | "22003" | "22007" | "22008" | "22018" | "22021"
        | "22023" | "22026" | "22032" => 400,
        // Numbers and patterns that a function or a clause does not take: LIMIT, OFFSET, LIKE, ~, ln, power, jsonpath.
        "2201W" | "2201X" | "22019" | "22025" | "2201B" | "2201E" | "2201F" | "2201G" => 400,
        "23505" | "23503" | "23P01" => 409,
        "23502" | "23514" => 422,
        _ => return None,
    })
}

/// The number of the parameter that an error's context names: `unnamed portal parameter $2 = '…'`.
fn bound(context: &str) -> Option<usize> {
    let (_, rest) = context.split_once("portal parameter $")?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

/// Rows on their way to a client, as they come.
///
/// ```text
/// Held ── a piece's worth of rows ─► Open ── the last row ─► ended
///   └─ an error: its status            └─ an error: broken off
/// ```
struct Stream {
    asked: Asked,
    query: Cell<Option<PgQuery>>,
    to: Cell<Option<To>>,
    json: Cell<Vec<u8>>,
}

enum To {
    /// There may still be another status.
    Held(Responder),
    Open(BodyWriter),
}

/// Rows are sent when there are so many bytes of them.
const PIECE: usize = 16 * 1024;

impl Stream {
    fn new(asked: Asked, res: Responder) -> Rc<Stream> {
        Rc::new(Stream {
            asked,
            query: Cell::new(None),
            to: Cell::new(Some(To::Held(res))),
            json: Cell::new(Vec::new()),
        })
    }

    fn status(&self) -> u16 {
        self.asked.query.status.unwrap_or(200)
    }

    fn row<S: 'static>(&self, cx: &mut Ctx<'_, S>, row: &Row) -> Demand {
        let Some(to) = self.to.take() else {
            return Demand::More;
        };
        let mut json = self.json.take();
        json.push(if self.is_first(&to, &json) {
            b'['
        } else {
            b','
        });
        if let Err(error) = row.json(&mut json) {
            refuse(to, self.asked.fault(error));
            if let Some(query) = self.query.take() {
                cx.pg(&self.asked.query.database).cancel(query);
            }
            return Demand::More;
        }
        if json.len() < PIECE {
            self.json.set(json);
            self.to.set(Some(to));
            return Demand::More;
        }
        let body = match to {
            To::Open(body) => body,
            To::Held(res) => res
                .status(self.status())
                .header("content-type", JSON)
                .stream(),
        };
        let demand = body.write(Bytes::from(json));
        self.to.set(Some(To::Open(body)));
        demand
    }

    fn is_first(&self, to: &To, json: &[u8]) -> bool {
        json.is_empty() && matches!(to, To::Held(_))
    }

    fn end(&self, error: Option<PgError>) {
        let Some(to) = self.to.take() else {
            return;
        };
        if let Some(error) = error {
            let is_broken = matches!(to, To::Open(_));
            let refusal = self.asked.refusal(&error);
            // What would have told the client is said to the log, at least.
            if is_broken && refusal.status < 500 {
                self.asked.fault(&error);
            }
            return refuse(to, refusal);
        }
        let mut json = self.json.take();
        if self.is_first(&to, &json) {
            json.push(b'[');
        }
        json.push(b']');
        match to {
            To::Held(res) => send(res, self.status(), json),
            To::Open(body) => {
                body.write(Bytes::from(json));
                body.end();
            }
        }
    }
}

fn refuse(to: To, refusal: Refusal) {
    match to {
        To::Held(res) => refusal.answer(res),
        // A client that has heard 200 is to know that this is not all.
        To::Open(body) => body.abort(),
    }
}

/// What can be seen of a statement without a server.
///
/// ```
/// use loopwright::service::query::Outline;
/// let outline = Outline::of("select '$9' from a where b = $1 -- $8");
/// assert_eq!((&outline.params[..], &outline.verb[..]), (&[1][..], "select"));
/// assert!(outline.reads() && !outline.is_several);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outline {
    /// The numbers of its parameters, each once, in order.
    pub params: Vec<usize>,
    /// Its first word, in small letters; empty if there is none.
    pub verb: String,
    /// Whether there is more behind a semicolon.
    pub is_several: bool,
    /// What has no end: a text, a name, a comment.
    pub unfinished: Option<&'static str>,
}

impl Outline {
    /// Looks at a statement: at its words and numbers, not at its grammar.
    pub fn of(sql: &str) -> Outline {
        let mut outline = Outline::default();
        let mut rest = sql;
        let mut is_over = false;
        while let Some(c) = rest.chars().next() {
            let (length, is_blank) = match outline.token(rest) {
                Ok(token) => token,
                Err(what) => {
                    outline.unfinished = Some(what);
                    break;
                }
            };
            let token = &rest[..length];
            outline.is_several |= is_over && !is_blank && c != ';';
            is_over |= c == ';';
            if outline.verb.is_empty() && is_word(c) {
                outline.verb = token.to_ascii_lowercase();
            }
            if let Some(number) = token.strip_prefix('$').and_then(|n| n.parse().ok()) {
                outline.params.push(number);
            }
            rest = &rest[length..];
        }
        outline.params.sort_unstable();
        outline.params.dedup();
        outline
    }

    /// Whether it reads, as far as its first word tells.
    pub fn reads(&self) -> bool {
        matches!(
            &self.verb[..],
            "select" | "with" | "values" | "table" | "show" | "explain"
        )
    }

    /// The length of the first token of a text that has one, and whether it is a blank or a comment.
    fn token(&self, text: &str) -> Result<(usize, bool), &'static str> {
        let until = |end: Option<usize>, what| end.ok_or(what);
        let first = text.chars().next().map_or(1, char::len_utf8);
        let after = |n: usize| text.get(n..).unwrap_or("");
        let bytes = text.as_bytes();
        match (bytes[0], bytes.get(1)) {
            (b'-', Some(b'-')) => Ok((text.find('\n').unwrap_or(text.len()), true)),
            (b'/', Some(b'*')) => until(comment(bytes), "a comment").map(|end| (end, true)),
            (b'\'', _) => until(quoted(bytes, 0, false), "a text").map(|end| (end, false)),
            (b'"', _) => until(quoted(bytes, 0, false), "a name").map(|end| (end, false)),
            // What is escaped there is no end.
            (b'e' | b'E', Some(b'\'')) => {
                until(quoted(bytes, 1, true), "a text").map(|end| (end, false))
            }
            (b'$', Some(b'0'..=b'9')) => {
                let digits = bytes[1..].iter().take_while(|b| b.is_ascii_digit());
                Ok((1 + digits.count(), false))
            }
            (b'$', _) => {
                let tag = after(1).find(|c| !is_word(c) && !char::is_ascii_digit(&c));
                match tag.filter(|at| after(1 + at).starts_with('$')) {
                    Some(at) => {
                        let tag = &text[..at + 2];
                        let end = after(tag.len()).find(tag);
                        let end = end.map(|end| end + 2 * tag.len());
                        until(end, "a text").map(|end| (end, false))
                    }
                    None => Ok((1, false)),
                }
            }
            _ if text.starts_with(is_word) => {
                let end = text.find(|c| !is_word(c) && !char::is_ascii_digit(&c) && c != '$');
                Ok((end.unwrap_or(text.len()), false))
            }
            _ => Ok((first, text.starts_with(char::is_whitespace))),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// Where it ends that begins with a quote at `from`; a doubled quote is one of its letters.
fn quoted(bytes: &[u8], from: usize, escapes: bool) -> Option<usize> {
    let quote = bytes[from];
    let mut at = from + 1;
    loop {
        match *bytes.get(at)? {
            b'\\' if escapes => at += 2,
            b if b == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
            b if b == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Where a comment ends, with those in it.
fn comment(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0);
    loop {
        match bytes.get(at..at + 2)? {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => {
                (at, depth) = (at + 2, depth - 1);
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outlines() {
        for (sql, params, verb, is_several) in [
            ("select $1, $2, $1", &[1, 2][..], "select", false),
            ("  (SELECT 1)", &[], "select", false),
            (
                "/* insert /* $3 */ */ -- $4\n Select $2;",
                &[2],
                "select",
                false,
            ),
            ("select 1; ; -- that was all", &[], "select", false),
            ("select 1; select 2", &[], "select", true),
            (
                "select ';$1', \"a;$2\", $$;$3$$, $x$ $$ ;$4 $x$",
                &[],
                "select",
                false,
            ),
            ("select 'it''s $1', E'\\' $2', $3", &[3], "select", false),
            ("select e'\\\\', $1", &[1], "select", false),
            ("select a$1 from t where b=$2", &[2], "select", false),
            ("select $12::int", &[12], "select", false),
            ("insert into t values ($1)", &[1], "insert", false),
            ("", &[], "", false),
            (";", &[], "", false),
            ("select 'ä' || $1", &[1], "select", false),
            ("sélect", &[], "sélect", false),
            ("select 1 $", &[], "select", false),
        ] {
            let outline = Outline::of(sql);
            let found = (&outline.params[..], &outline.verb[..], outline.is_several);
            assert_eq!(found, (params, verb, is_several), "{sql}");
            assert_eq!(outline.unfinished, None, "{sql}");
        }
        for (sql, what) in [
            ("select 'a", "a text"),
            ("select E'a\\'", "a text"),
            ("select \"a", "a name"),
            ("select /* /* */", "a comment"),
            ("select $a$ $b$", "a text"),
        ] {
            assert_eq!(Outline::of(sql).unfinished, Some(what), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_outline(sql in "[\\PC]{0,40}|[-'\"$/*eE\\\\ab1; \n]{0,40}") {
            let outline = Outline::of(&sql);
            prop_assert!(outline.params.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn what_is_quoted_is_no_parameter(text in "\\PC{0,30}") {
            let sql = format!("select '{}' || $7", text.replace('\'', "''"));
            prop_assert_eq!(Outline::of(&sql).params, vec![7]);
        }
    }

    #[test]
    fn sources() {
        for text in [
            "{}",
            "{",
            "{a",
            "a}",
            "{a}{b}",
            "x{a}",
            "{*rest}",
            "{query.}",
            "{cookie.a}",
            "{header.a b}",
        ] {
            assert_eq!(text.parse::<Source>(), Err(SourceError), "{text}");
        }
        assert_eq!("{query.a.b}".parse(), Ok(Source::Query("a.b".into())));
        assert_eq!("".parse(), Ok(Source::Fixed(String::new())));
    }

    #[test]
    fn statuses() {
        for (code, status) in [
            ("22P02", Some(400)),
            ("23505", Some(409)),
            ("23503", Some(409)),
            ("23514", Some(422)),
            ("22012", None),
            ("42601", None),
            ("25006", None),
            ("", None),
        ] {
            assert_eq!(refused(code), status, "{code}");
        }
        assert_eq!(bound("unnamed portal parameter $12 = '…'"), Some(12));
        assert_eq!(bound("COPY t, line 1"), None);
    }
}
