//! Floor 5. The sections `[databases.NAME]` and the action `query` of a route: what may stand in them, what they may not
//! say, and what is made of them.
//!
//! A database becomes one pool or two: a route that is asked by GET or HEAD uses connections on which nothing can be written
//! (`default_transaction_read_only`), so that no transaction has to be begun for that, and many queries can be under way
//! on a connection; any other uses connections on which it can.

use super::checks::{parameters, path_mistake};
use super::decode::{At, Decode, Named, Reader, Short, Shorthand, Value, choice, table};
use super::kinds::{Count, Percent, Size, Status, Wait};
use super::model::RouteSection;
use super::report::{self, Mistake, Span};
use super::site::{ANY, Field, Making};
use crate::proto::address::Secret;
use crate::service::pg::{Postgres, Url};
use crate::service::query::{Input, Outline, Query, Shape, Source};
use serde_json::{Value as Json, json};
use std::time::Duration;

/// Where a PostgreSQL is, and as whom to speak to it. `None` is left by what could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PostgresUrl(pub(super) Option<Url>);

impl Decode for PostgresUrl {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let instead = "a string: \"postgres://user@host/database\"";
        let text = reader.text(value, "a URL", instead)?;
        match text.parse() {
            Ok(url) => Some(PostgresUrl(Some(url))),
            // Says nothing of the text: there may be a password in it.
            Err(e) => {
                let e: crate::service::pg::UrlError = e;
                let instead = e.to_string().replacen("want ", "write ", 1);
                reader.mistake(value.span(), "not the URL of a PostgreSQL", instead);
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^postgres(ql)?://|\$\{" })
    }
    fn show(&self) -> Json {
        Json::Null
    }
}

/// In no log, and in nothing that is printed of the config.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Password(Secret);

impl Decode for Password {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, "a password", "a string: \"${DATABASE_PASSWORD}\"")?;
        Some(Password(Secret::new(text.to_string())))
    }
    fn schema() -> Json {
        json!({ "type": "string" })
    }
    fn show(&self) -> Json {
        Json::Null
    }
}

#[derive(Clone, Debug)]
pub(super) struct DatabaseSection {
    pub(super) url: At<PostgresUrl>,
    password: Option<Password>,
    connections: At<Count>,
    warm: At<Count>,
    idle: Wait,
    lifetime: Wait,
    jitter: Percent,
    queue: At<Count>,
    queue_wait: At<Wait>,
    timeout: At<Wait>,
    statement_timeout: Option<Wait>,
    connect_timeout: Option<At<Wait>>,
    hold: At<Wait>,
    reply: At<Wait>,
    retry: At<Wait>,
    pipeline: At<Count>,
    statements: At<Count>,
    result: At<Size>,
    message: At<Size>,
    output: At<Size>,
    json: At<Size>,
    parameters: Named<String>,
}

fn at<T>(value: T) -> At<T> {
    At { value, span: 0..0 }
}

fn seconds(seconds: u64) -> Wait {
    Wait(Duration::from_secs(seconds))
}

/// The same as those of `Postgres`: a test compares them.
impl Default for DatabaseSection {
    fn default() -> Self {
        DatabaseSection {
            url: At::default(),
            password: None,
            connections: at(Count(10)),
            warm: at(Count(0)),
            idle: seconds(600),
            lifetime: seconds(3600),
            jitter: Percent(0.1),
            queue: at(Count(1024)),
            queue_wait: at(seconds(3)),
            timeout: at(seconds(60)),
            statement_timeout: None,
            connect_timeout: None,
            hold: at(seconds(60)),
            reply: at(seconds(60)),
            retry: at(seconds(2)),
            pipeline: at(Count(128)),
            statements: at(Count(256)),
            result: at(Size(16 << 20)),
            message: at(Size(16 << 20)),
            output: at(Size(4 << 20)),
            json: at(Size(64 << 20)),
            parameters: Named::default(),
        }
    }
}

table! { DatabaseSection {
    "Where it is: \"postgres://user:password@host:port/database\"; keep the password in ${…}." url: At<PostgresUrl>,
    "The password, as it is: nothing is encoded. It holds in place of one in `url`; keep it in ${…}." password: Option<Password>,
    "Connections of each worker, at the most; as many again for routes that only read, if there are both." connections: At<Count>,
    "Connections that are made ahead of need." warm: At<Count>,
    "How long a connection may be idle." idle: Wait,
    "How old a connection may be when it is used again." lifetime: Wait,
    "By how much of it, at the most, a lifetime is shorter, so that they do not end together." jitter: Percent,
    "Queries that may wait for a connection; 503 past it." queue: At<Count>,
    "How long, if no connection has room for it; then 503." queue_wait: At<Wait>,
    "How long an answer may take, waiting included, unless its route says otherwise; 504 past it. Not for rows without a limit." timeout: At<Wait>,
    "How long the server lets a statement run; 504 past it. Left out: as the server has it." statement_timeout: Option<Wait>,
    "How long a connection may take to be made, the login included. Left out: as the URL says, or \"10s\"." connect_timeout: Option<At<Wait>>,
    "How long a client may keep rows without a limit waiting." hold: At<Wait>,
    "How long the server may owe an answer without a sign of it; then the connection is given up." reply: At<Wait>,
    "The longest pause before the server is tried again." retry: At<Wait>,
    "Queries under way on one connection." pipeline: At<Count>,
    "Prepared statements that each connection keeps." statements: At<Count>,
    "The rows of one answer, unless they are without a limit; 500 past it." result: At<Size>,
    "One row, or one query with its parameters." message: At<Size>,
    "What waits to be sent on a connection; queries beyond it wait for another." output: At<Size>,
    "One row, or all rows of an answer, as JSON; 500 past it." json: At<Size>,
    "Parameters of the session, as SET has them: `search_path` …" parameters: Named<String>,
} required ["url"] }

impl DatabaseSection {
    /// With the parameters of the session. `None`: it is wrong, which has been told.
    pub(super) fn full_url(&self) -> Option<Url> {
        let mut url = self.url.value.0.clone()?;
        if let Some(Password(password)) = &self.password {
            url.settings.password = Some(password.clone());
        }
        let parameters = &mut url.settings.parameters;
        for (name, value) in &self.parameters.0 {
            parameters.retain(|(known, _)| *known != name.value);
            parameters.push((name.value.clone(), value.clone()));
        }
        Some(url)
    }

    /// `None`: its URL is wrong, which has been told.
    fn postgres(&self) -> Option<Postgres> {
        let mut postgres = Postgres::at(self.full_url()?)
            .connections(self.connections.value.into())
            .warm(self.warm.value.into())
            .idle(self.idle.into())
            .lifetime(self.lifetime.into())
            .jitter(self.jitter.into())
            .queue(self.queue.value.into())
            .queue_wait(self.queue_wait.value.into())
            .timeout(self.timeout.value.into())
            .hold(self.hold.value.into())
            .reply(self.reply.value.into())
            .retry(self.retry.value.into())
            .pipeline(self.pipeline.value.into())
            .statements(self.statements.value.into())
            .result(self.result.value.into())
            .message(self.message.value.into())
            .output(self.output.value.into())
            .json(self.json.value.into());
        if let Some(timeout) = self.statement_timeout {
            postgres = postgres.statement_timeout(timeout.into());
        }
        if let Some(timeout) = &self.connect_timeout {
            postgres = postgres.connect_timeout(timeout.value.into());
        }
        Some(postgres)
    }
}

/// The pool of a database on which nothing can be written.
fn read_only(name: &str) -> String {
    format!("{name} (read only)")
}

#[derive(Clone, Debug)]
pub(super) struct QueryAction {
    pub(super) database: At<String>,
    pub(super) sql: At<String>,
    pub(super) params: At<Vec<At<Short<ParamEntry>>>>,
    shape: Shape,
    rows: At<Count>,
    timeout: Option<At<Wait>>,
    status: Option<At<Status>>,
}

impl Default for QueryAction {
    fn default() -> Self {
        QueryAction {
            database: At::default(),
            sql: At::default(),
            params: At::default(),
            shape: Shape::default(),
            rows: at(Query::ROWS.into()),
            timeout: None,
            status: None,
        }
    }
}

table! { QueryAction {
    "The database's name." database: At<String>,
    "One statement, with $1, $2 … where values go." sql: At<String>,
    "Where the values of $1, $2 … come from: \"{id}\" of the path, \"{query.page}\", \"{header.x-user}\", \"{body.name}\", \"{body}\" for all of it, a fixed text, or tables." params: At<Vec<At<Short<ParamEntry>>>>,
    "What is answered: the one row, an array of all rows, or the one value of the one row." shape: Shape,
    "Rows of an array, at the most; 500 past it. 0 for no limit: rows are sent as they come." rows: At<Count>,
    "How long the answer may take; 504 past it. Left out: as the database has it." timeout: Option<At<Wait>>,
    "The status. Left out: 200, or 204 if the statement has no columns." status: Option<At<Status>>,
} required ["database", "sql"] }

choice! { Shape { "one" => Shape::One, "many" => Shape::Many, "value" => Shape::Value } }

#[derive(Clone, Debug, Default)]
pub(super) struct ParamEntry {
    pub(super) from: At<String>,
    default: Option<String>,
    required: bool,
}

table! { ParamEntry {
    "Where it comes from, as in the string." from: At<String>,
    "Its value if it is missing. Left out: NULL." default: Option<String>,
    "Whether it is 400 if it is missing." required: bool,
} required ["from"] }

impl Shorthand for ParamEntry {
    type Word = String;
    const WHAT: &'static str = "where a value comes from";
    fn of(from: At<String>) -> Self {
        let other = ParamEntry::default();
        ParamEntry { from, ..other }
    }
}

impl QueryAction {
    /// Whether it looks at the request's body.
    pub(super) fn reads_body(&self) -> bool {
        let is_of_body =
            |param: &At<Short<ParamEntry>>| param.value.0.from.value.starts_with("{body");
        self.params.value.iter().any(is_of_body)
    }
}

fn is_reading(method: &str) -> bool {
    matches!(method, "GET" | "HEAD")
}

impl<'d> Making<'d> {
    /// Behind the routes, which say how a database is used.
    pub(super) fn databases(&mut self) {
        for (name, section) in &self.document.databases.0 {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if name.value.is_empty() || !name.value.bytes().all(is_plain) {
                let instead = "write letters, digits, - and _ alone";
                self.mistake(&name.span, "not a database's name", instead);
            }
            self.check_database(&section.value);
            let Some(postgres) = section.value.postgres() else {
                continue;
            };
            let of = |used: &(&str, bool), reads| used.0 == name.value && used.1 == reads;
            let reads = self.used.iter().any(|used| of(used, true));
            let writes = self.used.iter().any(|used| of(used, false));
            if reads {
                let postgres = postgres.clone();
                let postgres = postgres.parameter("default_transaction_read_only", "on");
                self.app.postgres(read_only(&name.value), postgres);
            }
            // There for a program that has more to ask, but without connections that nobody uses.
            let postgres = match writes || !reads {
                true => postgres,
                false => postgres.warm(0),
            };
            self.app.postgres(&name.value, postgres);
        }
    }

    fn check_database(&mut self, section: &DatabaseSection) {
        let DatabaseSection {
            connections, warm, ..
        } = section;
        let counts = [
            ("connections", connections),
            ("queue", &section.queue),
            ("pipeline", &section.pipeline),
            ("statements", &section.statements),
        ];
        for (key, count) in counts {
            if count.value.0 == 0 {
                self.out_of_range(&count.span, key, "write 1 or more");
            }
        }
        if warm.value.0 > connections.value.0 {
            let instead = "write no more than `connections`";
            let at = [&warm.span, &connections.span].map(Clone::clone);
            let at = at.into_iter().find(|at| *at != (0..0)).unwrap_or(0..0);
            self.out_of_range(&at, "warm", instead);
        }
        let waits = [
            ("queue_wait", Some(&section.queue_wait)),
            ("timeout", Some(&section.timeout)),
            ("hold", Some(&section.hold)),
            ("reply", Some(&section.reply)),
            ("retry", Some(&section.retry)),
            ("connect_timeout", section.connect_timeout.as_ref()),
        ];
        for (key, wait) in waits {
            if let Some(At { span, .. }) = wait.filter(|wait| wait.value.0.is_zero()) {
                self.out_of_range(span, key, "write more than \"0s\"");
            }
        }
        if section.timeout.value.0 > section.reply.value.0 {
            let (timeout, reply) = (&section.timeout.span, &section.reply.span);
            let at = if *timeout != (0..0) { timeout } else { reply };
            let instead =
                "let `reply` be as long as `timeout`, at the least: a connection is given up then";
            self.out_of_range(at, "timeout", instead);
        }
        let sizes = [
            ("result", &section.result),
            ("message", &section.message),
            ("output", &section.output),
            ("json", &section.json),
        ];
        for (key, size) in sizes {
            if size.value.0 < LEAST_MESSAGE {
                self.out_of_range(&size.span, key, "write \"64KiB\" or more");
            }
        }
        const OURS: [&str; 4] = [
            "client_encoding",
            "datestyle",
            "default_transaction_read_only",
            "statement_timeout",
        ];
        for (name, value) in &section.parameters.0 {
            let lower = name.value.to_ascii_lowercase();
            if lower == "statement_timeout" {
                let instead = "write it as the key `statement_timeout`";
                self.mistake(&name.span, "a parameter that has a key", instead);
            } else if OURS.contains(&&lower[..]) {
                self.mistake(&name.span, "a parameter that is set already", "remove it");
            } else if name.value.is_empty() || name.value.contains('\0') || value.contains('\0') {
                let instead = "write it without control characters";
                self.mistake(&name.span, "not a parameter", instead);
            }
        }
    }

    fn out_of_range(&mut self, at: &Span, key: &str, instead: &str) {
        self.mistake(at, format!("`{key}` is out of range"), instead);
    }

    pub(super) fn query(
        &mut self,
        action: &'d QueryAction,
        route: &'d RouteSection,
        before: &[Field],
        methods: &[String],
    ) {
        let databases = &self.document.databases.0;
        let section = databases
            .iter()
            .find(|(name, _)| name.value == action.database.value);
        if let (Some((_, section)), Some(timeout)) = (section, &action.timeout)
            && timeout.value.0 > section.value.reply.value.0
        {
            let instead =
                "write no more than `reply` of the database, when a connection is given up";
            self.out_of_range(&timeout.span, "timeout", instead);
        }
        if section.is_none() && action.database.span != (0..0) {
            let known: Vec<&str> = databases.iter().map(|(name, _)| &name.value[..]).collect();
            let instead = match known.is_empty() {
                true => "write a section [databases.NAME]".to_string(),
                false => report::instead(&action.database.value, &known),
            };
            self.mistake(&action.database.span, "no such database", instead);
        }
        let outline = Outline::of(&action.sql.value);
        if action.sql.span != (0..0) {
            self.check_statement(action, &outline);
        }
        let methods = self.query_methods(action, route, methods, &outline);
        if action.rows.value.0 == 0 && action.shape != Shape::Many {
            let instead = "write shape = \"many\", or remove it";
            let title = "rows without a limit, where one is answered";
            self.mistake(&action.rows.span, title, instead);
        }
        if let Some(timeout) = action
            .timeout
            .as_ref()
            .filter(|wait| wait.value.0.is_zero())
        {
            self.out_of_range(&timeout.span, "timeout", "write more than \"0s\"");
        }
        let inputs = self.inputs(action, route);
        let path = &route.path.value;
        if path_mistake(path).is_some() {
            return;
        }
        for method in methods {
            let reads = is_reading(method);
            self.used.push((&action.database.value, reads));
            let database = match reads {
                true => read_only(&action.database.value),
                false => action.database.value.clone(),
            };
            let mut query = Query::new(database, &action.sql.value)
                .shape(action.shape)
                .rows(action.rows.value.into());
            query = inputs.iter().cloned().fold(query, Query::param);
            if let Some(timeout) = &action.timeout {
                query = query.timeout(timeout.value.into());
            }
            if let Some(status) = &action.status {
                query = query.status(status.value.0);
            }
            self.add(method, route, before, query.handler());
        }
    }

    fn check_statement(&mut self, action: &QueryAction, outline: &Outline) {
        let At { span, .. } = &action.sql;
        if let Some(what) = outline.unfinished {
            return self.mistake(
                span,
                format!("{what} in this statement has no end"),
                "end it",
            );
        }
        if outline.verb.is_empty() {
            return self.mistake(span, "not a statement", "write one: \"select …\"");
        }
        if outline.is_several {
            let instead = "write one, or have a function of the database do the others";
            self.mistake(span, "several statements", instead);
        }
        let (wanted, given) = (&outline.params, action.params.value.len());
        let highest = wanted.last().copied().unwrap_or(0);
        let params = match action.params.span != (0..0) {
            true => &action.params.span,
            false => span,
        };
        let uses = |mistake: Mistake| match *params == *span {
            true => mistake,
            false => mistake.with(span.clone(), "the statement"),
        };
        if wanted.first() == Some(&0) {
            self.mistake(span, "`$0` is no parameter", "they begin with $1");
        } else if highest > given {
            let title = format!("the statement has ${highest}, and `params` has {given}");
            let mistake = Mistake::new(params.clone(), title, format!("add ${}", given + 1));
            self.mistakes.push(uses(mistake));
        } else if let Some(unused) = (1..=given).find(|n| !wanted.contains(n)) {
            let at = action.params.value.get(unused - 1);
            let at = at.map_or(span.clone(), |param| param.span.clone());
            let title = format!("the statement has no ${unused}");
            let mistake = Mistake::new(at, title, "remove it, or use it");
            self.mistakes.push(uses(mistake));
        }
    }

    /// Those that are named, or GET.
    fn query_methods<'m>(
        &mut self,
        action: &QueryAction,
        route: &RouteSection,
        methods: &'m [String],
        outline: &Outline,
    ) -> Vec<&'m str> {
        let writes = !outline.reads() && !outline.verb.is_empty();
        if methods.first().is_some_and(|method| method == ANY) {
            if writes && action.sql.span != (0..0) {
                let instead = "add methods = [\"POST\"], or another that is not GET";
                let title = format!(
                    "a statement that begins with `{}` may write, and there is no method",
                    outline.verb
                );
                let mistake = Mistake::new(action.sql.span.clone(), title, instead);
                self.mistakes.push(mistake);
            }
            if !writes && action.reads_body() {
                let instead = "add methods = [\"POST\"], or take it from the query string";
                let title = "a body's value, and no method";
                self.mistake(&action.params.span, title, instead);
            }
            return vec!["GET"];
        }
        for method in &route.methods.value {
            if writes && is_reading(&method.value) {
                let title = "a statement that writes, where there is only reading";
                let instead = "write \"POST\", \"PUT\", \"PATCH\" or \"DELETE\"";
                let mistake = Mistake::new(method.span.clone(), title, instead);
                let sql = action.sql.span.clone();
                self.mistakes.push(mistake.with(sql, "the statement"));
            }
            if is_reading(&method.value) && action.reads_body() {
                let title = "a body's value, where there is no body";
                let instead = "write \"POST\", or take it from the query string";
                let mistake = Mistake::new(method.span.clone(), title, instead);
                let params = action.params.span.clone();
                self.mistakes.push(mistake.with(params, "the values"));
            }
        }
        methods.iter().map(String::as_str).collect()
    }

    fn inputs(&mut self, action: &'d QueryAction, route: &RouteSection) -> Vec<Input> {
        let known: Vec<&str> = parameters(&route.path.value)
            .map(|name| name.trim_start_matches('*'))
            .collect();
        let mut inputs = Vec::new();
        for param in &action.params.value {
            let ParamEntry {
                from,
                default,
                required,
            } = &param.value.0;
            let source = match from.value.parse() {
                Ok(source) => source,
                Err(_) => {
                    let instead = "write \"{name}\" of the path, \"{query.name}\", \"{header.name}\", \"{body.name}\", \"{body}\", or a text without braces";
                    self.mistake(&from.span, "not where a value can come from", instead);
                    continue;
                }
            };
            if let Source::Path(name) = &source
                && !known.contains(&&name[..])
            {
                let instead = match known.is_empty() {
                    true => "that path has none: {query.NAME} is of the query string",
                    false => "name one of that path; {query.NAME} is of the query string",
                };
                let mistake = Mistake::new(from.span.clone(), "no such parameter", instead);
                let path = route.path.span.clone();
                self.mistakes
                    .push(mistake.with(path, "the path of this route"));
            }
            if *required && default.is_some() {
                let title = "a value that has to be there, and a default";
                self.mistake(&param.span, title, "keep one");
            }
            inputs.push(Input {
                source,
                default: default.clone(),
                required: *required,
            });
        }
        inputs
    }
}

/// What a server's own messages need.
const LEAST_MESSAGE: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_a_program() {
        let url = "postgres://ada:s3cret@db.example/shop";
        let section = DatabaseSection {
            url: at(PostgresUrl(url.parse().ok())),
            ..DatabaseSection::default()
        };
        assert_eq!(section.postgres(), Postgres::new(url).ok());
        assert!(!format!("{section:?}").contains("s3cret"));
        assert_eq!(section.url.show(), Json::Null);
    }
}
