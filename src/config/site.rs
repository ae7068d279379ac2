//! Floor 5. From a config to a server: routes to callbacks, sections to settings. Written on the
//! crate's public surface, as an embedder's own program would be.
//!
//! Each action becomes routes of one App; which route of the config an App's route comes from is
//! noted, so that what the builder finds wrong can be shown where it was written.

use super::decode::{At, Named, Value};
use super::kinds::{ServerHeader, Size};
use super::model::{Access, Document, FilesAction, RedirectAction, RespondAction, RouteSection};
use super::report::{self, Mistake, Span};
use crate::app::mistake::{Mistake as Found, Place};
use crate::service::access_log::{Format, access_log};
use crate::service::files::Files;
use crate::service::respond::redirect;
use crate::{App, Builder, Bytes, Ctx, Listen, Request, Response, Route, Server};
use std::path::Path;
use toml::de::DeValue;

/// Everything that is wrong with a config that could be read.
pub(super) fn mistakes(document: &Document, value: &Value<'_>) -> Vec<Mistake> {
    let mut making = Making::of(document);
    let found = making.builder.check(std::mem::take(&mut making.app)).err();
    for found in found.unwrap_or_default() {
        let mistake = making.show(found, value);
        if !making.mistakes.contains(&mistake) {
            making.mistakes.push(mistake);
        }
    }
    making.mistakes
}

/// The server.
pub(super) fn build(document: &Document) -> Result<(Builder, App), Vec<Mistake>> {
    let making = Making::of(document);
    match making.mistakes.is_empty() {
        true => Ok((making.builder, making.app)),
        false => Err(making.mistakes),
    }
}

struct Making<'d> {
    document: &'d Document,
    builder: Builder,
    app: App,
    /// Of each route of the App: the route of the config it comes from.
    origins: Vec<&'d RouteSection>,
    mistakes: Vec<Mistake>,
}

/// In place of a method: every one that has no route of its own.
const ANY: &str = "*";

/// A field of an answer, checked.
type Field = (String, String);

impl<'d> Making<'d> {
    fn of(document: &'d Document) -> Making<'d> {
        let mut making = Making {
            document,
            builder: Server::builder()
                .limits(document.limits.clone())
                .timeouts(document.timeouts.clone()),
            app: App::new(),
            origins: Vec::new(),
            mistakes: Vec::new(),
        };
        making.server();
        making.log();
        making.error_pages();
        for (_, set) in &document.headers.0 {
            making.fields(set);
        }
        if document.routes.is_empty() {
            making.mistake(&(0..0), "nothing is served", "add a [[routes]] section");
        }
        for route in &document.routes {
            making.route(route);
        }
        making
    }

    fn mistake(&mut self, at: &Span, title: impl Into<String>, instead: impl Into<String>) {
        self.mistakes.push(Mistake::new(at.clone(), title, instead));
    }

    fn server(&mut self) {
        let server = &self.document.server;
        let mut builder = self.builder.clone();
        let mut seen: Vec<(Listen, &At<String>)> = Vec::new();
        for address in &server.listen.0 {
            let Ok(listen) = address.value.parse::<Listen>() else {
                self.mistake(
                    &address.span,
                    "not an address to listen on",
                    "write \"ip:port\", \"[ipv6]:port\", \"localhost:port\" or \"unix:/path\"",
                );
                continue;
            };
            if matches!(listen, Listen::Unix(_)) && server.workers.count() > 1 {
                let instead = "write workers = 1, or a TCP address";
                self.mistake(
                    &address.span,
                    "several workers cannot share a Unix socket",
                    instead,
                );
            }
            let any_port = matches!(&listen, Listen::Tcp(address) if address.port() == 0);
            match seen.iter().find(|(other, _)| *other == listen && !any_port) {
                Some((_, first)) => self.mistakes.push(
                    Mistake::new(
                        address.span.clone(),
                        "an address twice",
                        "remove one of them",
                    )
                    .with(first.span.clone(), "the first"),
                ),
                None => seen.push((listen, address)),
            }
            builder = builder.listen(&address.value);
        }
        if server.listen.0.is_empty() {
            self.mistake(&(0..0), "no address to listen on", "write at least one");
        }
        let ServerHeader(value) = &server.server_header;
        self.builder = builder.server_header(value.as_deref());
    }

    fn log(&mut self) {
        let log = &self.document.log;
        let format = match log.access {
            Access::Off => None,
            Access::Combined => Some(Format::Combined),
            Access::Json => Some(Format::Json),
        };
        if let Some(format) = format {
            self.app.after(access_log(format));
        }
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        for part in log.level.value.split(',') {
            let level = part.rsplit('=').next().unwrap_or("").trim();
            if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                let instead = format!("there are: {}", LEVELS.join(", "));
                self.mistake(&log.level.span, "not a log level", instead);
            }
        }
    }

    /// Pages for what no route answers, and for answers that failed.
    fn error_pages(&mut self) {
        let mut pages: Vec<(u16, Page)> = Vec::new();
        for (name, file) in &self.document.errors.0 {
            let Some(status) = error_status(&name.value) else {
                self.mistake(&name.span, "not a status of an error", "write 400 to 599");
                continue;
            };
            match Page::read(&file.value) {
                Ok(page) => pages.push((status, page)),
                Err(e) => {
                    let title = format!("cannot read this page: {e}");
                    self.mistake(&file.span, title, "name a file that can be read");
                }
            }
        }
        if let Some(page) = find(&pages, 404) {
            self.app.not_found(move |_, _, res| page.answer(res));
        }
        if let Some(page) = find(&pages, 405) {
            self.app
                .method_not_allowed(move |_, _, res| page.answer(res));
        }
        if !pages.is_empty() {
            self.app.on_error(move |_, failure, res| {
                match find(&pages, failure.status().as_u16()) {
                    Some(page) => page.answer(res),
                    None => res.text(failure.public_text()),
                }
            });
        }
    }

    fn route(&mut self, route: &'d At<RouteSection>) {
        let RouteSection { path, .. } = &route.value;
        if path.value.is_empty() {
            // It has been said that it is missing.
            return;
        }
        let actions = [
            (
                "respond",
                route.value.respond.as_ref().map(|action| &action.span),
            ),
            (
                "redirect",
                route.value.redirect.as_ref().map(|action| &action.span),
            ),
            (
                "files",
                route.value.files.as_ref().map(|action| &action.span),
            ),
        ];
        let named: Vec<(&str, &Span)> = actions
            .iter()
            .filter_map(|(name, span)| span.map(|span| (*name, span)))
            .collect();
        match named[..] {
            [] => {
                let names: Vec<&str> = actions.iter().map(|(name, _)| *name).collect();
                let instead = format!("add one of: {}", names.join(", "));
                return self.mistake(&path.span, "this route does nothing", instead);
            }
            [_] => {}
            [(first, at), (second, again), ..] => {
                let title = format!("a route does one thing, not `{first}` and `{second}`");
                let mistake = Mistake::new(again.clone(), title, "make it a route of its own");
                return self.mistakes.push(mistake.with(at.clone(), "the first"));
            }
        }
        let methods = self.methods(&route.value);
        let before = self.middleware(&route.value);
        let route = &route.value;
        if let Some(action) = &route.respond {
            let fields = self.respond_fields(action, route);
            for method in methods {
                let call = respond(&action.value, fields.clone());
                self.add(&method, route, &before, call);
            }
        } else if let Some(action) = &route.redirect {
            self.check_redirect(action, route);
            for method in methods {
                let status = action.value.status.value.0;
                let call = redirect(status, &action.value.to.value);
                self.add(&method, route, &before, call);
            }
        } else if let Some(action) = &route.files {
            self.files(action, route, &before);
        }
    }

    fn add(
        &mut self,
        method: &str,
        route: &'d RouteSection,
        fields: &[Field],
        call: impl FnMut(&mut Ctx<'_>, &Request<'_>, Response<'_>) + 'static,
    ) {
        let path = &route.path.value;
        let added = match method {
            ANY => self.app.any(path, call),
            method => self.app.route(method, path, call),
        };
        finish(added, route, fields);
        self.origins.push(route);
    }

    /// The methods named, or [`ANY`].
    fn methods(&mut self, route: &RouteSection) -> Vec<String> {
        for method in &route.methods {
            if crate::Method::from_bytes(method.value.as_bytes()).is_err() {
                self.mistake(&method.span, "not a method", "write \"GET\", \"POST\" …");
            } else if method.value != method.value.to_ascii_uppercase() {
                let instead = "methods are case-sensitive: write it in capitals";
                self.mistake(&method.span, "not a method there is", instead);
            }
        }
        match route.methods.is_empty() {
            true => vec![ANY.to_string()],
            false => route.methods.iter().map(|m| m.value.clone()).collect(),
        }
    }

    /// The fields that middleware and the route itself add to each answer.
    fn middleware(&mut self, route: &RouteSection) -> Vec<Field> {
        let mut fields = Vec::new();
        for name in &route.middleware {
            let sets = &self.document.headers.0;
            let known: Vec<String> = sets
                .iter()
                .map(|(name, _)| format!("headers:{}", name.value))
                .collect();
            match known.iter().position(|known| *known == name.value) {
                // Its own mistakes have been told where it is.
                Some(at) => fields.extend(plain(&sets[at].1)),
                None => {
                    let instead = match known.is_empty() {
                        true => "write \"headers:NAME\", and a section [headers.NAME]".to_string(),
                        false => report::instead(&name.value, &known),
                    };
                    self.mistake(&name.span, "no such middleware", instead);
                }
            }
        }
        fields.extend(self.fields(&route.headers));
        if let Some(action) = &route.files {
            let written = [
                "content-type",
                "etag",
                "last-modified",
                "accept-ranges",
                "content-encoding",
            ];
            for (name, _) in &route.headers.0 {
                if written.contains(&name.value.to_ascii_lowercase().as_str()) {
                    let instead = "remove it: the file says what it is";
                    self.mistake(&name.span, "a field that `files` writes itself", instead);
                }
                if name.value.eq_ignore_ascii_case("cache-control")
                    && !action.value.cache.is_empty()
                {
                    let first = &action.value.cache[0].span;
                    self.mistakes.push(
                        Mistake::new(
                            name.span.clone(),
                            "cache-control twice",
                            "say it in one place",
                        )
                        .with(first.clone(), "here, too"),
                    );
                }
            }
        }
        fields
    }

    /// The fields of a table, those that cannot be sent left out and told.
    fn fields(&mut self, table: &Named<String>) -> Vec<Field> {
        const FRAMING: [&str; 6] = [
            "connection",
            "content-length",
            "date",
            "keep-alive",
            "server",
            "transfer-encoding",
        ];
        for (name, value) in &table.0 {
            let lower = name.value.to_ascii_lowercase();
            if http::HeaderName::from_bytes(name.value.as_bytes()).is_err() {
                self.mistake(
                    &name.span,
                    "not a field name",
                    "write a token: letters, digits, -",
                );
            } else if http::HeaderValue::from_str(value).is_err() {
                let instead = "a value has no line breaks or other control characters";
                self.mistake(&name.span, "not a field value", instead);
            } else if FRAMING.contains(&lower.as_str()) {
                let instead = match lower.as_str() {
                    "server" => "set server_header in [server]",
                    _ => "remove it",
                };
                self.mistake(&name.span, "a field that the server writes itself", instead);
            }
        }
        plain(table)
    }

    fn respond_fields(&mut self, action: &At<RespondAction>, route: &RouteSection) -> Vec<Field> {
        let fields = self.fields(&action.value.headers);
        for (name, _) in &route.headers.0 {
            let same =
                |(other, _): &&(At<String>, String)| other.value.eq_ignore_ascii_case(&name.value);
            if let Some((other, _)) = action.value.headers.0.iter().find(same) {
                self.mistakes.push(
                    Mistake::new(name.span.clone(), "a field twice", "say it in one place")
                        .with(other.span.clone(), "here, too"),
                );
            }
        }
        let status = action.value.status.0;
        if matches!(status, 204 | 205 | 304) && !action.value.body.is_empty() {
            let title = format!("an answer with status {status} has no body");
            self.mistake(
                &action.span,
                title,
                "remove the body, or choose another status",
            );
        }
        fields
    }

    fn check_redirect(&mut self, action: &At<RedirectAction>, route: &RouteSection) {
        let RedirectAction { to, status } = &action.value;
        if to.span == (0..0) {
            return;
        }
        if !matches!(status.value.0, 301 | 302 | 303 | 307 | 308) {
            let instead = "write 301, 302, 303, 307 or 308";
            self.mistake(&status.span, "not the status of a redirect", instead);
        }
        if to.value.is_empty() || !to.value.bytes().all(|b| b.is_ascii_graphic()) {
            let instead = "write a URL, or a path; other characters as %XX";
            self.mistake(&to.span, "not a location", instead);
        }
        let known: Vec<&str> = parameters(&route.path.value).collect();
        for name in parameters(&to.value).filter(|name| !known.contains(name)) {
            let instead = report::instead(name, &known);
            let mistake = Mistake::new(to.span.clone(), "no such parameter", instead);
            self.mistakes.push(mistake.with(
                route.path.span.clone(),
                "its parameters are those of this path",
            ));
        }
        if to.value.matches('{').count() != parameters(&to.value).count() {
            let title = "a parameter's name has no end";
            self.mistake(&to.span, title, "close it with }");
        }
    }

    fn files(&mut self, action: &At<FilesAction>, route: &'d RouteSection, before: &[Field]) {
        for method in &route.methods {
            if !matches!(method.value.as_str(), "GET" | "HEAD") {
                let instead = "remove it: there are GET and HEAD";
                self.mistake(&method.span, "files are only read", instead);
            }
        }
        let path = &route.path.value;
        let Some((prefix, param)) = path
            .strip_suffix('}')
            .and_then(|path| path.split_once("{*"))
        else {
            let instead = format!("write \"{}/{{*rest}}\"", path.trim_end_matches('/'));
            return self.mistake(
                &route.path.span,
                "a path for one file, not for a folder",
                instead,
            );
        };
        if action.value.root.span == (0..0) {
            return;
        }
        let files = match self.make_files(&action.value) {
            Ok(files) => files,
            Err(e) => {
                let title = format!("this folder cannot be served: {e}");
                return self.mistake(
                    &action.value.root.span,
                    title,
                    "name a folder that can be read",
                );
            }
        };
        let added = self.app.get(path, files.handler(param));
        finish(added, route, before);
        self.origins.push(route);
        // `/static` is where `/static/` is meant, unless it is a route of its own.
        let bare = prefix.trim_end_matches('/');
        let is_free = |other: &At<RouteSection>| other.value.path.value != bare;
        if !bare.is_empty() && bare.len() < prefix.len() && self.document.routes.iter().all(is_free)
        {
            let added = self.app.get(bare, redirect(301, prefix));
            finish(added, route, before);
            self.origins.push(route);
        }
    }

    fn make_files(&mut self, action: &FilesAction) -> std::io::Result<Files> {
        let mut files = Files::new(&action.root.value)?
            .index(action.index.iter())
            .listing(action.listing)
            .precompressed(action.precompressed)
            .try_files(action.try_files.iter());
        for rule in &action.cache {
            let rule = &rule.value;
            if http::HeaderValue::from_str(&rule.value.value).is_err() {
                let instead = "write \"no-cache\", \"public, max-age=3600\" …";
                self.mistake(&rule.value.span, "not a field value", instead);
            }
            files = files.cache_control(&rule.matches, &rule.value.value);
        }
        for (name, page) in &action.errors.0 {
            match error_status(&name.value) {
                Some(status) => files = files.error_page(status, page),
                None => self.mistake(&name.span, "not a status of an error", "write 400 to 599"),
            }
        }
        Ok(files)
    }

    /// What the builder has found, where it was written.
    fn show(&self, found: Found, value: &Value<'_>) -> Mistake {
        let route = |number: usize| self.origins.get(number).copied();
        let path = |number: usize| route(number).map_or(0..0, |route| route.path.span.clone());
        const PATHS: &str = "want \"/exact\", \"/users/{id}\" or \"/static/{*rest}\"";
        match found.place {
            Place::App => Mistake::new(0..0, found.text, ""),
            Place::Setting(name) => {
                Mistake::new(place_of(value, &name), found.text, "write another value")
            }
            Place::Route(number) => {
                // Behind the route's name, which may hold what a variable has put there.
                let why = found.text.rsplit("\": ").next().unwrap_or_default();
                Mistake::new(path(number), format!("not a path: {why}"), PATHS)
            }
            Place::Host(number, host) => {
                let hosts = route(number).map_or(&[][..], |route| &route.host.0);
                let same = |at: &&At<String>| at.value == host;
                let at = hosts.iter().find(same).map_or(0..0, |at| at.span.clone());
                let instead = "write \"example.org\" or \"*.example.org\"";
                Mistake::new(at, "not a host, or one with a port", instead)
            }
            Place::Routes(number, other) => {
                let instead = "change its path, its methods or its host";
                Mistake::new(path(number), "two routes for the same requests", instead)
                    .with(path(other), "the other one")
            }
        }
    }
}

/// What every route has, whatever its action.
fn finish(added: &mut Route<()>, route: &RouteSection, fields: &[Field]) {
    for host in &route.host.0 {
        added.host(&host.value);
    }
    if let Some(Size(body)) = route.limits.body {
        added.body_limit(body);
    }
    if !fields.is_empty() {
        let fields = fields.to_vec();
        added.before(move |_, _, mut res| {
            for (name, value) in &fields {
                res = res.header(name, value);
            }
            Some(res)
        });
    }
}

fn respond(
    action: &RespondAction,
    fields: Vec<Field>,
) -> impl FnMut(&mut Ctx<'_>, &Request<'_>, Response<'_>) + 'static {
    let (status, body) = (action.status.0, Bytes::from(action.body.clone()));
    move |_, _, mut res| {
        for (name, value) in &fields {
            res = res.header(name, value);
        }
        let res = res.status(status);
        match body.is_empty() {
            true => res.empty(),
            // Small ones are copied next to their head, which is cheaper than to share them.
            false => res.text(&body[..]),
        }
    }
}

/// A page read when the config was.
#[derive(Clone)]
struct Page {
    content_type: String,
    content: Bytes,
}

impl Page {
    /// Longer pages belong in a folder.
    const LIMIT: u64 = 1 << 20;

    fn read(path: &Path) -> std::io::Result<Page> {
        use std::io::{Error, ErrorKind, Read};
        let file = std::fs::File::open(path)?;
        let mut content = Vec::new();
        file.take(Page::LIMIT + 1).read_to_end(&mut content)?;
        if content.len() as u64 > Page::LIMIT {
            return Err(Error::new(ErrorKind::FileTooLarge, "it is over 1 MiB"));
        }
        Ok(Page {
            content_type: crate::service::files::content_type(&path.to_string_lossy()),
            content: content.into(),
        })
    }

    fn answer(&self, res: Response<'_>) {
        res.header("content-type", &self.content_type)
            .bytes(self.content.clone())
    }
}

fn find(pages: &[(u16, Page)], status: u16) -> Option<Page> {
    let page = pages.iter().find(|(known, _)| *known == status);
    page.map(|(_, page)| page.clone())
}

fn plain(table: &Named<String>) -> Vec<Field> {
    let field = |(name, value): &(At<String>, String)| (name.value.clone(), value.clone());
    table.0.iter().map(field).collect()
}

fn error_status(text: &str) -> Option<u16> {
    text.parse()
        .ok()
        .filter(|status| (400..600).contains(status))
}

/// The names in braces of a path or a template.
fn parameters(text: &str) -> impl Iterator<Item = &str> {
    text.split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name.trim_start_matches('*'))
}

/// Where `limits.head` stands; its section, if it is left out.
fn place_of(value: &Value<'_>, name: &str) -> Span {
    let (mut value, mut span) = (value, 0..0);
    for key in name.split('.') {
        let DeValue::Table(table) = value.get_ref() else {
            break;
        };
        let Some(inner) = table.get(key) else {
            break;
        };
        (value, span) = (inner, inner.span());
    }
    span
}
