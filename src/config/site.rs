//! Floor 5. From a config to a server: routes to callbacks, sections to settings. Written on the
//! crate's public surface, as an embedder's own program would be.
//!
//! Each action becomes routes of one App; which route of the config an App's route comes from is
//! noted, so that what the builder finds wrong can be shown where it was written.

use super::decode::{At, Named, Value};
use super::kinds::{ServerHeader, Size};
use super::model::{
    Access, CacheRule, Document, FilesAction, RedirectAction, RespondAction, RouteSection,
};
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
    making.left_out(value);
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

/// Less than this holds no line that is worth to be logged.
const LEAST_BUFFER: u64 = 4096;

/// The fields of which an answer may have several.
const REPEATABLE: [&str; 3] = ["link", "set-cookie", "vary"];

/// The statuses that `files` answers with, and may have pages for.
const FILES_ERRORS: [u16; 6] = [403, 404, 406, 412, 416, 500];

const PATHS: &str = "write \"/exact\", \"/users/{id}\" or \"/static/{*rest}\"";

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
        for route in &document.routes {
            making.route(route);
        }
        making
    }

    fn mistake(&mut self, at: &Span, title: impl Into<String>, instead: impl Into<String>) {
        self.mistakes.push(Mistake::new(at.clone(), title, instead));
    }

    /// The later of two places that say the same.
    fn twice(&mut self, title: &str, one: &Span, other: &Span) {
        let (first, second) = match one.start <= other.start {
            true => (one, other),
            false => (other, one),
        };
        let mistake = Mistake::new(second.clone(), title, "say it in one place");
        let mistake = mistake.with(first.clone(), "the first");
        // Two routes may use the same two sets.
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// What has to be there. What is there, and wrong, has been told already.
    fn left_out(&mut self, value: &Value<'_>) {
        let empty = |name: &str| match look_up(value, name).map(|v| (v.get_ref(), v.span())) {
            None => Some(0..0),
            Some((DeValue::Array(list), span)) => list.is_empty().then_some(span),
            Some(_) => None,
        };
        if let Some(at) = empty("routes") {
            self.mistake(&at, "nothing is served", "add a [[routes]] section");
        }
        if let Some(at) = empty("server.listen").filter(|at| *at != (0..0)) {
            let instead = "write at least one, or remove the key";
            self.mistake(&at, "no address to listen on", instead);
        }
        if let Some(file) = look_up(value, "log.access_file")
            && look_up(value, "log.access").is_none()
        {
            let instead = "add access = \"combined\" or \"json\"";
            self.mistake(
                &file.span(),
                "a file for an access log that is off",
                instead,
            );
        }
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
            if matches!(&listen, Listen::Unix(path) if path.is_relative()) {
                let instead = "write \"unix:/run/site.sock\", from the root on";
                self.mistake(&address.span, "a socket's path is absolute", instead);
            }
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
                Some((_, first)) => self.twice("an address twice", &first.span, &address.span),
                None => seen.push((listen, address)),
            }
            builder = builder.listen(&address.value);
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
        if log.buffer.value.0 < LEAST_BUFFER {
            let instead = "write \"4KiB\" or more: lines that do not fit are dropped";
            self.mistake(&log.buffer.span, "`log.buffer` is out of range", instead);
        }
        if let Some(file) = &log.access_file {
            let folder = file.value.parent().unwrap_or(Path::new(""));
            let is_here = folder.as_os_str().is_empty() || folder.is_dir();
            if file.value.is_dir() {
                self.mistake(&file.span, "a folder, not a file", "name a file in it");
            } else if !is_here {
                let instead = "make the folder, or name another";
                self.mistake(&file.span, "a file in a folder that is not there", instead);
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
        let route = &route.value;
        if route.path.span == (0..0) {
            // It has been said that it is missing, or what else is wrong with it.
            return;
        }
        if let Some((title, instead)) = path_mistake(&route.path.value) {
            self.mistake(&route.path.span, title, instead);
        }
        let actions = [
            ("respond", route.respond.as_ref().map(|action| &action.span)),
            (
                "redirect",
                route.redirect.as_ref().map(|action| &action.span),
            ),
            ("files", route.files.as_ref().map(|action| &action.span)),
        ];
        let is_there =
            |(name, span): &(&'static str, Option<&'d Span>)| span.map(|span| (*name, span));
        let mut named: Vec<(&str, &Span)> = actions.iter().filter_map(is_there).collect();
        named.sort_by_key(|(_, span)| span.start);
        match &named[..] {
            [] => {
                let instead = "add one of: respond, redirect, files";
                self.mistake(&route.path.span, "this route does nothing", instead);
            }
            [(first, at), more @ ..] => {
                for (other, again) in more {
                    let title = format!("a route does one thing, not `{first}` and `{other}`");
                    let instead = "make it a route of its own";
                    let mistake = Mistake::new((*again).clone(), title, instead);
                    self.mistakes.push(mistake.with((*at).clone(), "the first"));
                }
            }
        }
        let methods = self.methods(route);
        self.hosts(route);
        let before = self.fields_before(route);
        if named.len() > 1 {
            // Which of them is meant, nobody knows.
        } else if let Some(action) = &route.respond {
            self.check_respond(action);
            for method in methods {
                let call = respond(&action.value, plain(&action.value.headers));
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
        if path_mistake(path).is_some() {
            return;
        }
        let added = match method {
            ANY => self.app.any(path, call),
            method => self.app.route(method, path, call),
        };
        finish(added, route, fields);
        self.origins.push(route);
    }

    /// The methods named that are some, or [`ANY`].
    fn methods(&mut self, route: &'d RouteSection) -> Vec<String> {
        let At { value: named, span } = &route.methods;
        if named.is_empty() {
            if *span != (0..0) {
                let instead = "name one, or remove the key: it is every method then";
                self.mistake(span, "no method", instead);
            }
            return vec![ANY.to_string()];
        }
        let mut methods: Vec<&At<String>> = Vec::new();
        for method in named {
            if crate::Method::from_bytes(method.value.as_bytes()).is_err() {
                self.mistake(&method.span, "not a method", "write \"GET\", \"POST\" …");
            } else if method.value != method.value.to_ascii_uppercase() {
                let instead = "methods are case-sensitive: write it in capitals";
                self.mistake(&method.span, "a method in small letters", instead);
            } else if let Some(first) = methods.iter().find(|known| known.value == method.value) {
                self.twice("a method twice", &first.span, &method.span);
            } else {
                methods.push(method);
            }
        }
        methods.iter().map(|method| method.value.clone()).collect()
    }

    fn hosts(&mut self, route: &'d RouteSection) {
        let At { value, span } = &route.host;
        if value.0.is_empty() && *span != (0..0) {
            let instead = "name one, or remove the key: it is every host then";
            self.mistake(span, "no host", instead);
        }
        for (at, host) in value.0.iter().enumerate() {
            let same = |first: &&At<String>| first.value.eq_ignore_ascii_case(&host.value);
            if let Some(first) = value.0[..at].iter().find(same) {
                self.twice("a host twice", &first.span, &host.span);
            }
        }
    }

    /// The fields that middleware and the route itself add to each answer.
    fn fields_before(&mut self, route: &'d RouteSection) -> Vec<Field> {
        let sets = &self.document.headers.0;
        let known: Vec<String> = sets
            .iter()
            .map(|(name, _)| format!("headers:{}", name.value))
            .collect();
        // Each with the word that asks for it.
        let mut tables: Vec<(&'d Named<String>, Option<&'d Span>)> = Vec::new();
        for (at, name) in route.middleware.iter().enumerate() {
            let same = |first: &&At<String>| first.value == name.value;
            match known.iter().position(|known| *known == name.value) {
                Some(set) => match route.middleware[..at].iter().find(same) {
                    Some(first) => self.twice("a set twice", &first.span, &name.span),
                    // Its own mistakes have been told where it is.
                    None => tables.push((&sets[set].1, Some(&name.span))),
                },
                None => {
                    let instead = match known.is_empty() {
                        true => "write \"headers:NAME\", and a section [headers.NAME]".to_string(),
                        false => report::instead(&name.value, &known),
                    };
                    self.mistake(&name.span, "no such middleware", instead);
                }
            }
        }
        self.fields(&route.headers);
        tables.push((&route.headers, None));
        let before = tables.iter().flat_map(|(table, _)| plain(table)).collect();
        if let Some(action) = &route.respond {
            self.fields(&action.value.headers);
            tables.push((&action.value.headers, None));
        }
        for (at, (table, asked)) in tables.iter().enumerate() {
            for (name, _) in &table.0 {
                let lower = name.value.to_ascii_lowercase();
                self.written_by_action(name, &lower, route, *asked);
                let same = |(other, _): &&(At<String>, String)| {
                    other.value.eq_ignore_ascii_case(&lower) && !REPEATABLE.contains(&&lower[..])
                };
                let mut earlier = tables[..at].iter().flat_map(|(table, _)| &table.0);
                if let Some((first, _)) = earlier.find(same) {
                    self.twice("a field twice in one answer", &first.span, &name.span);
                }
            }
        }
        before
    }

    /// A field that the route's action says already.
    fn written_by_action(
        &mut self,
        name: &At<String>,
        lower: &str,
        route: &RouteSection,
        asked: Option<&Span>,
    ) {
        const OF_FILES: [&str; 5] = [
            "content-type",
            "etag",
            "last-modified",
            "accept-ranges",
            "content-encoding",
        ];
        let title = match (&route.files, &route.redirect) {
            (Some(_), _) if OF_FILES.contains(&lower) => "a field that `files` writes itself",
            (Some(action), _) if lower == "cache-control" && !action.value.cache.is_empty() => {
                let rule = &action.value.cache[0].span;
                return self.twice("cache-control twice in one answer", rule, &name.span);
            }
            (_, Some(_)) if lower == "location" => "a field that `redirect` writes itself",
            _ => return,
        };
        let mistake = Mistake::new(name.span.clone(), title, "remove it");
        self.mistakes.push(match asked {
            Some(asked) => mistake.with(asked.clone(), "used here"),
            None => mistake,
        });
    }

    /// The fields of a table that cannot be sent.
    fn fields(&mut self, table: &Named<String>) {
        const FRAMING: [&str; 6] = [
            "connection",
            "content-length",
            "date",
            "keep-alive",
            "server",
            "transfer-encoding",
        ];
        for (at, (name, value)) in table.0.iter().enumerate() {
            let lower = name.value.to_ascii_lowercase();
            let same =
                |(other, _): &&(At<String>, String)| other.value.eq_ignore_ascii_case(&lower);
            if let Some((other, _)) = table.0[..at].iter().find(same) {
                self.twice("a field twice", &other.span, &name.span);
            }
            if http::HeaderName::from_bytes(name.value.as_bytes()).is_err() {
                self.mistake(
                    &name.span,
                    "not a field name",
                    "write letters, digits and - alone",
                );
            } else if http::HeaderValue::from_str(value).is_err() {
                let instead = "write it without line breaks and other control characters";
                self.mistake(&name.span, "not a field value", instead);
            } else if FRAMING.contains(&lower.as_str()) {
                let instead = match lower.as_str() {
                    "server" => "set server_header in [server]",
                    _ => "remove it",
                };
                self.mistake(&name.span, "a field that the server writes itself", instead);
            }
        }
    }

    fn check_respond(&mut self, action: &At<RespondAction>) {
        let status = action.value.status.0;
        if matches!(status, 204 | 205 | 304) && !action.value.body.is_empty() {
            let title = format!("an answer with status {status} has no body");
            self.mistake(
                &action.span,
                title,
                "remove the body, or choose another status",
            );
        }
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
        let scheme = to.value.split_once("://").map(|(scheme, _)| scheme);
        let is_named = scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphabetic()));
        let outside = outside_braces(&to.value);
        if to.value.is_empty() || !outside.bytes().all(|b| b.is_ascii_graphic()) {
            let instead = "write a path or a URL; other characters as %XX";
            self.mistake(&to.span, "not a location", instead);
        } else if !to.value.starts_with('/') && !is_named {
            let instead = "begin with / for the same host, or with https://";
            self.mistake(&to.span, "a location without a beginning", instead);
        }
        let is_read =
            route.methods.value.is_empty() || route.methods.value.iter().any(|m| m.value == "GET");
        if to.value == route.path.value && is_read {
            let mistake = Mistake::new(
                to.span.clone(),
                "a redirect to itself",
                "name another place",
            );
            self.mistakes
                .push(mistake.with(route.path.span.clone(), "where it comes from"));
        }
        let known: Vec<&str> = parameters(&route.path.value)
            .map(|name| name.trim_start_matches('*'))
            .collect();
        for name in parameters(&to.value).filter(|name| !known.contains(name)) {
            // Not by name: a path may hold what a variable has put there.
            let instead = match name.strip_prefix('*') {
                Some(name) if known.contains(&name) => "write it without the *",
                _ if known.is_empty() => "that path has none: remove it",
                _ => "name one of that path",
            };
            let mistake = Mistake::new(to.span.clone(), "no such parameter", instead);
            let path = route.path.span.clone();
            self.mistakes
                .push(mistake.with(path, "the path of this route"));
        }
        if to.value.matches('{').count() != parameters(&to.value).count() {
            let title = "a parameter's name has no end";
            self.mistake(&to.span, title, "close it with }");
        }
    }

    fn files(&mut self, action: &At<FilesAction>, route: &'d RouteSection, before: &[Field]) {
        for method in &route.methods.value {
            if !matches!(method.value.as_str(), "GET" | "HEAD") {
                let instead = "remove it: there are GET and HEAD";
                self.mistake(&method.span, "files are only read", instead);
            }
        }
        let files = self.make_files(&action.value);
        let path = &route.path.value;
        if path_mistake(path).is_some() {
            return;
        }
        let Some((prefix, param)) = path
            .strip_suffix('}')
            .and_then(|path| path.split_once("{*"))
        else {
            let instead = "let it end with /{*rest}";
            let title = "a path for one file, not for a folder";
            return self.mistake(&route.path.span, title, instead);
        };
        let Some(files) = files else {
            return;
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

    fn make_files(&mut self, action: &FilesAction) -> Option<Files> {
        let root = &action.root;
        if root.span == (0..0) {
            return None;
        }
        // Errors of the standard library do not name the path, which may come from a variable.
        let found = match std::fs::metadata(&root.value) {
            Ok(found) if !found.is_dir() => {
                self.mistake(
                    &root.span,
                    "a file, not a folder",
                    "name the folder it is in",
                );
                return None;
            }
            Ok(_) => Files::new(&root.value).map_err(|e| e.kind().to_string()),
            Err(e) => Err(e.to_string()),
        };
        let mut files = match found {
            Ok(files) => files,
            Err(why) => {
                let title = format!("this folder cannot be served: {why}");
                let instead = "name one that can be read, from this file's folder on";
                self.mistake(&root.span, title, instead);
                return None;
            }
        };
        for name in &action.index {
            if name.value.is_empty() || name.value.contains('/') {
                let instead = "write a name alone: \"index.html\"";
                self.mistake(&name.span, "not a file's name", instead);
            }
        }
        for template in &action.try_files {
            let name = template.value.replace("{path}", "");
            if name.contains(['{', '}']) {
                let instead = "write {path} for the path below the root";
                self.mistake(&template.span, "an unknown name in braces", instead);
            } else if name == template.value && !is_file_below(&root.value, &name) {
                self.mistake(&template.span, "no such file below the root", "name one");
            }
        }
        for (name, page) in &action.errors.0 {
            match error_status(&name.value).filter(|status| FILES_ERRORS.contains(status)) {
                Some(status) => files = files.error_page(status, &page.value),
                None => {
                    let title = "not a status that files answer with";
                    let instead = "write 403, 404, 406, 412, 416 or 500; others go into [errors]";
                    self.mistake(&name.span, title, instead);
                }
            }
            if !is_file_below(&root.value, &page.value) {
                self.mistake(&page.span, "no such file below the root", "name one");
            }
        }
        for (at, rule) in action.cache.iter().enumerate() {
            let CacheRule { matches, value } = &rule.value;
            self.check_rule(&rule.value, &action.cache[..at]);
            files = files.cache_control(&matches.value, &value.value);
        }
        let index = action.index.iter().map(|name| &name.value);
        let try_files = action.try_files.iter().map(|name| &name.value);
        Some(
            files
                .index(index)
                .listing(action.listing)
                .precompressed(action.precompressed)
                .try_files(try_files),
        )
    }

    fn check_rule(&mut self, rule: &CacheRule, before: &[At<CacheRule>]) {
        let CacheRule { matches, value } = rule;
        if value.span != (0..0) && !is_value(&value.value) {
            let instead = "write \"no-cache\", \"public, max-age=3600\" …";
            self.mistake(&value.span, "not a field value", instead);
        }
        if matches.span == (0..0) {
            return;
        }
        if matches.value.starts_with('/') {
            let title = "a pattern that matches nothing";
            let instead = "write it without the slash: paths are those below the root";
            self.mistake(&matches.span, title, instead);
        }
        let takes_all = |first: &&At<CacheRule>| {
            let first = &first.value.matches;
            first.value == "*" || first.value == matches.value
        };
        if let Some(first) = before.iter().find(takes_all) {
            let title = "a rule that is never reached";
            let mistake = Mistake::new(matches.span.clone(), title, "put it first, or remove it");
            let first = first.value.matches.span.clone();
            self.mistakes
                .push(mistake.with(first, "this one matches before"));
        }
    }

    /// What the builder has found, where it was written.
    fn show(&self, found: Found, value: &Value<'_>) -> Mistake {
        let route = |number: usize| self.origins.get(number).copied();
        let path = |number: usize| route(number).map_or(0..0, |route| route.path.span.clone());
        match found.place {
            // The methods have been looked at before: there is none.
            Place::App => Mistake::new(0..0, found.text, ""),
            Place::Setting(name) => show_setting(&name, &found.text, value),
            Place::Route(number) => {
                // Behind the route's name, which may hold what a variable has put there.
                let why = found.text.rsplit_once("\": ").map(|(_, why)| why);
                let why = why.unwrap_or("it is in the way of another");
                Mistake::new(path(number), format!("not a path: {why}"), PATHS)
            }
            Place::Host(number, host) => {
                let hosts = route(number).map_or(&[][..], |route| &route.host.value.0);
                let same = |at: &&At<String>| at.value == host;
                let at = hosts.iter().find(same).map_or(0..0, |at| at.span.clone());
                let instead = match host.is_ascii() {
                    true => "write \"example.org\" or \"*.example.org\", without a port",
                    false => "write it as it is sent, in Punycode: \"xn--…\"",
                };
                Mistake::new(at, "not a host", instead)
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
    for (at, host) in route.host.value.0.iter().enumerate() {
        let same = |first: &At<String>| first.value.eq_ignore_ascii_case(&host.value);
        if !route.host.value.0[..at].iter().any(same) {
            added.host(&host.value);
        }
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

/// What is wrong with a path, whatever the other routes are, and what to write instead. What is in
/// braces is the router's to judge.
fn path_mistake(path: &str) -> Option<(&'static str, &'static str)> {
    let outside = outside_braces(path);
    let mut names: Vec<&str> = parameters(path).collect();
    names.sort_unstable();
    let is_foreign = |segment: &str| segment.starts_with(':') || segment.starts_with('*');
    // The router could tell `/{page}.html` from `/{page}`, but not from `/{*rest}`.
    let is_part = |segment: &str| {
        let braces = segment.matches('{').count();
        braces > 1 || (braces == 1 && segment.contains('}') && !is_whole(segment))
    };
    match () {
        _ if !path.starts_with('/') => Some(("a path begins with /", PATHS)),
        _ if outside.contains(['?', '#']) => Some((
            "a path with a query or a fragment",
            "write the path alone: the query is not looked at",
        )),
        _ if !outside.bytes().all(|b| b.is_ascii_graphic()) => Some((
            "no request has such a path",
            "write other characters as they are sent: %XX",
        )),
        _ if outside.split('/').any(is_foreign) => Some((
            "not how a parameter is written",
            "write {id} for one segment, {*rest} for the rest",
        )),
        _ if path.split('/').any(is_part) => Some((
            "a parameter is a whole segment",
            "write /{name}/, with nothing else between the slashes",
        )),
        _ if names.windows(2).any(|pair| pair[0] == pair[1]) => {
            Some(("a parameter twice", "give each a name of its own"))
        }
        () => None,
    }
}

/// `{id}`, and nothing beside it.
fn is_whole(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}')
}

/// Whether a field can have this value, and has one at all.
fn is_value(value: &str) -> bool {
    !value.is_empty() && http::HeaderValue::from_str(value).is_ok()
}

fn is_file_below(root: &Path, name: &str) -> bool {
    let name = name.trim_start_matches('/');
    !name.split('/').any(|part| part == "..") && root.join(name).is_file()
}

/// The names in braces of a path or a template.
fn parameters(text: &str) -> impl Iterator<Item = &str> {
    text.split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name)
}

/// A setting that cannot be. The text ends in what can be, and holds the value before that, which is
/// not shown: a variable may have put it there.
fn show_setting(name: &str, text: &str, value: &Value<'_>) -> Mistake {
    let title = format!("`{name}` is out of range");
    let Some((_, want)) = text.rsplit_once(": want ") else {
        let instead = "write text without control characters, or false for none";
        return Mistake::new(place_of(value, name), "not a field value", instead);
    };
    // One that is left out is out of range because of another.
    let because = match name {
        _ if look_up(value, name).is_some() => None,
        "limits.target" => Some("limits.head"),
        "limits.output" => Some("limits.high_water"),
        _ => None,
    };
    match because {
        Some(other) => {
            let instead = format!("set `{name}`, too: {want}");
            Mistake::new(place_of(value, other), title, instead)
        }
        None => Mistake::new(place_of(value, name), title, format!("write {want}")),
    }
}

/// What is left of a path or a template without its names in braces.
fn outside_braces(text: &str) -> String {
    text.split('{')
        .map(|part| part.split_once('}').map_or(part, |(_, rest)| rest))
        .collect()
}

/// The value of `limits.head`.
fn look_up<'v, 'a>(value: &'v Value<'a>, name: &str) -> Option<&'v Value<'a>> {
    name.split('.')
        .try_fold(value, |value, key| match value.get_ref() {
            DeValue::Table(table) => table.get(key),
            _ => None,
        })
}

/// Where `limits.head` stands; the beginning, if it is left out.
fn place_of(value: &Value<'_>, name: &str) -> Span {
    look_up(value, name).map_or(0..0, |found| found.span())
}
