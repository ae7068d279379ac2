//! Floor 5. From a config to a server: routes to callbacks, sections to settings. Written on the
//! crate's public surface, as an embedder's own program would be.
//!
//! Each action becomes routes of one App; which route of the config an App's route comes from is
//! noted, so that what the builder finds wrong can be shown where it was written.

use super::BusConfig;
use super::checks::{error_status, is_file_below, path_mistake};
use super::decode::{At, Named, Value};
use super::kinds::{Network, RedisUrl, ServerHeader, Size};
use super::model::{
    BusSection, CacheRule, ChannelAction, Document, FilesAction, RespondAction, RouteSection,
};
use super::pages::{self, Page};
use super::report::{Mistake, Span};
use crate::app::mistake::Place;
use crate::proto::forwarded::Trusted;
use crate::service::access_log::access_log;
use crate::service::bus::{BusLimits, Redis, RedisSettings};
use crate::service::channel::Channel;
use crate::service::files::Files;
use crate::service::respond::{for_known_methods, redirect};
use crate::{App, Builder, Bytes, Ctx, Listen, Request, Response, Route, Server};
use std::path::Path;
use std::sync::Arc;

impl BusSection {
    pub(super) fn config(&self) -> BusConfig {
        let limits = BusLimits {
            publication: self.publication.value.into(),
            queue: self.queue.value.into(),
            queue_size: self.queue_size.value.into(),
            patterns: self.patterns.into(),
        };
        match &self.redis {
            Some(RedisUrl(url)) => {
                let settings = RedisSettings {
                    prefix: self.prefix.clone(),
                    limits,
                    idle: self.idle.value.into(),
                    reply: self.reply.value.into(),
                    retry: self.retry.value.into(),
                };
                BusConfig::Redis(url.clone(), settings)
            }
            None if self.workers => BusConfig::Workers(limits),
            None => BusConfig::Off,
        }
    }
}

/// Everything that is wrong with a config that could be read.
pub(super) fn mistakes(document: &Document, value: &Value<'_>) -> Vec<Mistake> {
    let mut making = Making::of(document);
    making.left_out(value);
    let found = making.builder.check(std::mem::take(&mut making.app)).err();
    for found in found.unwrap_or_default() {
        // Each server has been looked at where it stands.
        if matches!(&found.place, Place::Setting(name) if name.starts_with("upstreams.") && name.ends_with(".servers"))
        {
            continue;
        }
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

pub(super) struct Making<'d> {
    pub(super) document: &'d Document,
    builder: Builder,
    pub(super) app: App,
    /// Of each route of the App: the route of the config it comes from.
    pub(super) origins: Vec<&'d RouteSection>,
    pub(super) mistakes: Vec<Mistake>,
    /// Whose word on clients counts.
    pub(super) trusted: Arc<Trusted>,
    /// The sets of fields of every answer.
    pub(super) everywhere: Vec<Table<'d>>,
    /// The databases that routes ask, and whether they only read.
    pub(super) used: Vec<(&'d str, bool)>,
}

/// A table of fields, and the word that asks for it.
pub(super) type Table<'d> = (&'d Named<String>, Option<&'d Span>);

/// In place of a method: every one that has no route of its own.
pub(super) const ANY: &str = "*";

/// Less than this holds no line that is worth to be logged.
const LEAST_BUFFER: u64 = 4096;

/// The statuses that `files` answers with, and may have pages for.
const FILES_ERRORS: [u16; 6] = [403, 404, 406, 412, 416, 500];

/// A field of an answer, checked.
pub(super) type Field = (String, String);

impl<'d> Making<'d> {
    fn of(document: &'d Document) -> Making<'d> {
        let mut making = Making {
            document,
            builder: Server::builder()
                .limits(document.limits.clone())
                .timeouts(document.timeouts.clone())
                .lookups(document.names.clone()),
            app: App::new(),
            origins: Vec::new(),
            mistakes: Vec::new(),
            trusted: Arc::new(
                Network::all(&document.server.trusted_proxies)
                    .hearing(document.server.trusted_fields),
            ),
            everywhere: Vec::new(),
            used: Vec::new(),
        };
        making.server();
        making.log();
        making.bus();
        making.error_pages();
        for (_, set) in &document.headers.0 {
            making.check_fields(set);
        }
        making.upstreams();
        for route in &document.routes {
            making.route(route);
        }
        making.databases();
        making
    }

    pub(super) fn mistake(
        &mut self,
        at: &Span,
        title: impl Into<String>,
        instead: impl Into<String>,
    ) {
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
        self.everywhere = self.sets(&server.middleware);
        let fields: Vec<Field> = self.everywhere.iter().flat_map(|(t, _)| plain(t)).collect();
        if !fields.is_empty() {
            self.app.before(add(fields));
        }
        let ServerHeader(value) = &server.server_header;
        self.builder = builder
            .server_header(value.as_deref())
            .proxy_protocol(Network::all(&server.proxy_protocol));
    }

    fn log(&mut self) {
        let log = &self.document.log;
        if let Some(format) = log.access.format() {
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

    fn bus(&mut self) {
        let bus = &self.document.bus;
        let mut out_of_range = |at: &Span, key: &str, instead: &str| {
            self.mistake(at, format!("`bus.{key}` is out of range"), instead);
        };
        let waits = [
            ("idle", &bus.idle),
            ("reply", &bus.reply),
            ("retry", &bus.retry),
        ];
        for (key, wait) in waits {
            if wait.value.0.is_zero() {
                out_of_range(&wait.span, key, "write more than \"0s\"");
            }
        }
        if bus.queue.value.0 == 0 {
            out_of_range(&bus.queue.span, "queue", "write 1 or more");
        }
        let (longest, room) = (&bus.publication, &bus.queue_size);
        if room.value.0 < longest.value.0.saturating_add(LEAST_BUFFER) {
            let instead = "let it be 4 KiB more than `bus.publication`, at the least";
            let is_written = room.span != (0..0);
            let at = if is_written {
                &room.span
            } else {
                &longest.span
            };
            out_of_range(at, "queue_size", instead);
        }
        if let BusConfig::Redis(url, settings) = bus.config() {
            self.app.bus(Redis::new(url, settings));
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
        if let Some(page) = pages::find(&pages, 404) {
            self.app.not_found(move |_, _, res| page.answer(res));
        }
        if let Some(page) = pages::find(&pages, 405) {
            self.app
                .method_not_allowed(move |_, _, res| page.answer(res));
        }
        if !pages.is_empty() {
            self.app.on_error(move |_, failure, res| {
                match pages::find(&pages, failure.status().as_u16()) {
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
            ("channel", route.channel.as_ref().map(|action| &action.span)),
            ("proxy", route.proxy.as_ref().map(|action| &action.span)),
            ("query", route.query.as_ref().map(|action| &action.span)),
        ];
        let is_there =
            |(name, span): &(&'static str, Option<&'d Span>)| span.map(|span| (*name, span));
        let mut named: Vec<(&str, &Span)> = actions.iter().filter_map(is_there).collect();
        named.sort_by_key(|(_, span)| span.start);
        match &named[..] {
            [] => {
                let instead = "add one of: respond, redirect, files, channel, proxy, query";
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
        } else if let Some(action) = &route.channel {
            self.channel(&action.value, route, &before, &methods);
        } else if let Some(action) = &route.proxy {
            self.proxy(&action.value.0, route, &before, &methods);
        } else if let Some(action) = &route.query {
            self.query(&action.value, route, &before, &methods);
        }
    }

    pub(super) fn add(
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
            ANY => self.app.any(path, for_known_methods(call)),
            method => self.app.route(method, path, call),
        };
        finish(added, route, fields);
        self.origins.push(route);
    }

    fn channel(
        &mut self,
        action: &ChannelAction,
        route: &'d RouteSection,
        before: &[Field],
        methods: &[String],
    ) {
        self.check_channel(action, route);
        let path = &route.path.value;
        if path_mistake(path).is_some() {
            return;
        }
        let Size(message) = action.message.value;
        // Where a process could not hold it, it does not come.
        let count = |Size(size): Size| usize::try_from(size).unwrap_or(usize::MAX);
        let mut channel = Channel::new(&action.topic.value)
            .history(action.history.0)
            .history_bytes(count(action.history_bytes))
            .history_age(action.history_age.value.0)
            .message_limit(count(action.message.value))
            .publish(action.publish.value)
            .publish_sockets(action.publish_sockets)
            .slow(action.slow)
            .wait(action.wait.value.0)
            .topics(action.topics.value.0);
        if action.origins.span != (0..0) {
            channel = channel.origins(action.origins.value.iter().map(|origin| &origin.value));
        }
        let handler = channel.handler();
        let is_wanted = |method: &str| methods.iter().any(|m| m == method || m == ANY);
        if is_wanted("GET") {
            finish(self.app.get(path, handler.clone()), route, before);
            self.origins.push(route);
        }
        if is_wanted("POST") && action.publish.value {
            let added = self.app.post(path, handler).body_limit(message);
            finish(added, route, before);
            self.origins.push(route);
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
        // `/static` is where `/static/` is meant, unless another route says something of it.
        let bare = prefix.trim_end_matches('/');
        let mut others = matchit::Router::new();
        for other in &self.document.routes {
            let other = &other.value.path.value;
            if !other.contains("{*") && path_mistake(other).is_none() {
                let _ = others.insert(other, ());
            }
        }
        let is_free = others.at(bare).is_err() && !bare.contains('{');
        if !bare.is_empty() && bare.len() < prefix.len() && is_free {
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
}

/// What every route has, whatever its action.
pub(super) fn finish(added: &mut Route<()>, route: &RouteSection, fields: &[Field]) {
    for (at, host) in route.host.value.0.iter().enumerate() {
        let same = |first: &At<String>| first.value.eq_ignore_ascii_case(&host.value);
        if !route.host.value.0[..at].iter().any(same) {
            added.host(&host.value);
        }
    }
    if let Some(Size(body)) = route.limits.body {
        added.body_limit(body);
    }
    // No others look at it.
    let query = route.query.as_ref();
    let is_asked = query.is_some_and(|action| action.value.reads_body());
    if route.channel.is_none() && route.proxy.is_none() && !is_asked {
        added.ignore_body();
    }
    if !fields.is_empty() {
        added.before(add(fields.to_vec()));
    }
}

/// Middleware that adds fields to every answer.
fn add(
    fields: Vec<Field>,
) -> impl for<'r> FnMut(&mut Ctx<'_>, &Request<'_>, Response<'r>) -> Option<Response<'r>> + 'static
{
    move |_, _, mut res| {
        for (name, value) in &fields {
            res = res.header(name, value);
        }
        Some(res)
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

pub(super) fn plain(table: &Named<String>) -> Vec<Field> {
    let field = |(name, value): &(At<String>, String)| (name.value.clone(), value.clone());
    table.0.iter().map(field).collect()
}
