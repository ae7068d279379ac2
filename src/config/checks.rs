//! Floor 5. What a config may not say, though it can be read: each rule with the words in which its breach
//! is told. What only the builder can find (routes that conflict, limits out of range) is put into the
//! same words by [`Making::show`].
//!
//! Invariant: no title and no advice holds a value, for a variable may have put a secret there.

use super::decode::{At, Named, Value};
use super::model::{CacheRule, ChannelAction, RedirectAction, RespondAction, RouteSection};
use super::report::{self, Mistake, Span};
use super::site::{ANY, Field, Making, Table, plain};
use crate::app::mistake::{Mistake as Found, Place};
use crate::base::topics::check_topic;
use std::path::Path;
use toml::de::DeValue;

/// The fields of which an answer may have several.
const REPEATABLE: [&str; 3] = ["link", "set-cookie", "vary"];

const PATHS: &str = "write \"/exact\", \"/users/{id}\" or \"/static/{*rest}\"";

impl<'d> Making<'d> {
    /// The later of two places that say the same.
    pub(super) fn twice(&mut self, title: &str, one: &Span, other: &Span) {
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
    pub(super) fn left_out(&mut self, value: &Value<'_>) {
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
        for (name, _) in &self.document.upstreams.0 {
            let servers = format!("upstreams.{}.servers", name.value);
            if let Some(at) = empty(&servers).filter(|at| *at != (0..0)) {
                let instead = "write at least one: \"http://127.0.0.1:9000\"";
                self.mistake(&at, "no server", instead);
            }
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

    /// The methods named that are some, or [`ANY`].
    pub(super) fn methods(&mut self, route: &'d RouteSection) -> Vec<String> {
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

    pub(super) fn hosts(&mut self, route: &'d RouteSection) {
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

    /// The sets of fields that are asked for, each with the word that asks for it.
    pub(super) fn sets(&mut self, names: &'d [At<String>]) -> Vec<Table<'d>> {
        let sets = &self.document.headers.0;
        let known: Vec<String> = sets
            .iter()
            .map(|(name, _)| format!("headers:{}", name.value))
            .collect();
        let mut tables = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let same = |first: &&At<String>| first.value == name.value;
            match known.iter().position(|known| *known == name.value) {
                Some(set) => match names[..at].iter().find(same) {
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
        tables
    }

    /// The fields that middleware and the route itself add to each answer.
    pub(super) fn fields_before(&mut self, route: &'d RouteSection) -> Vec<Field> {
        // Those of the whole server are added once, and looked at here with the others.
        let mut tables = self.everywhere.clone();
        let here = tables.len();
        tables.extend(self.sets(&route.middleware));
        self.check_fields(&route.headers);
        tables.push((&route.headers, None));
        let before = tables[here..].iter();
        let before = before.flat_map(|(table, _)| plain(table)).collect();
        if let Some(action) = &route.respond {
            self.check_fields(&action.value.headers);
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
    pub(super) fn written_by_action(
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
        let remove = "remove it";
        let (title, instead) = match (&route.files, &route.redirect) {
            (Some(_), _) if OF_FILES.contains(&lower) => {
                ("a field that `files` writes itself", remove)
            }
            (Some(action), _) if lower == "cache-control" && !action.value.cache.is_empty() => {
                let rule = &action.value.cache[0].span;
                return self.twice("cache-control twice in one answer", rule, &name.span);
            }
            (_, Some(_)) if lower == "location" => {
                ("a field that `redirect` writes itself", remove)
            }
            _ if route.query.is_some() && lower == "content-type" => {
                ("a field that `query` writes itself", remove)
            }
            _ if route.proxy.is_some() && OF_FILES.contains(&lower) => (
                "a field that the server behind writes",
                "write it into `proxy`, as one of `response.set`",
            ),
            _ => return,
        };
        let mistake = Mistake::new(name.span.clone(), title, instead);
        self.mistakes.push(match asked {
            Some(asked) => mistake.with(asked.clone(), "used here"),
            None => mistake,
        });
    }

    /// The fields of a table that cannot be sent.
    pub(super) fn check_fields(&mut self, table: &Named<String>) {
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

    pub(super) fn check_respond(&mut self, action: &At<RespondAction>) {
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

    pub(super) fn check_redirect(&mut self, action: &At<RedirectAction>, route: &RouteSection) {
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
        if outside.contains('$') {
            let instead = "write {host}, {name} for a parameter of the path, or %24 for itself";
            self.mistake(&to.span, "`$` means nothing here", instead);
        }
        self.check_parameters(to, route, Some("host"));
    }

    /// The names in braces, which are to be those of the route's path, or another.
    pub(super) fn check_parameters(
        &mut self,
        text: &At<String>,
        route: &RouteSection,
        other: Option<&str>,
    ) {
        let known: Vec<&str> = parameters(&route.path.value)
            .map(|name| name.trim_start_matches('*'))
            .collect();
        let is_known = |name: &&str| known.contains(name) || Some(*name) == other;
        for name in parameters(&text.value).filter(|name| !is_known(name)) {
            // Not by name: a path may hold what a variable has put there.
            let instead = match name.strip_prefix('*') {
                Some(name) if known.contains(&name) => "write it without the *",
                _ if known.is_empty() => "that path has none: remove it",
                _ => "name one of that path",
            };
            let mistake = Mistake::new(text.span.clone(), "no such parameter", instead);
            let path = route.path.span.clone();
            self.mistakes
                .push(mistake.with(path, "the path of this route"));
        }
        if text.value.matches('{').count() != parameters(&text.value).count() {
            let title = "a parameter's name has no end";
            self.mistake(&text.span, title, "close it with }");
        }
    }

    pub(super) fn check_channel(&mut self, action: &ChannelAction, route: &RouteSection) {
        let topic = &action.topic;
        if topic.span != (0..0) {
            self.check_parameters(topic, route, None);
            // Whatever the parameters are, the rest has to be right.
            let filled = |part: &str| match part.split_once('}') {
                Some((_, rest)) => format!("x{rest}"),
                None => part.to_string(),
            };
            let shape: String = topic.value.split('{').map(filled).collect();
            if check_topic(&shape).is_err() {
                let instead = "write segments between slashes, without *: \"rooms/{room}\"";
                self.mistake(&topic.span, "not a topic", instead);
            }
        }
        for origin in &action.origins.value {
            let host = origin.value.split_once("://").map(|(_, host)| host);
            let is_origin = host.is_some_and(|host| {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && !b"/*".contains(&b))
            });
            if !is_origin && origin.value != "*" {
                let instead = "write \"https://example.org\", without a path, or \"*\" for all";
                self.mistake(&origin.span, "not an origin", instead);
            }
        }
        for (name, span, is_zero) in [
            (
                "history_age",
                &action.history_age.span,
                action.history_age.value.0.is_zero(),
            ),
            ("wait", &action.wait.span, action.wait.value.0.is_zero()),
            ("message", &action.message.span, action.message.value.0 == 0),
            ("topics", &action.topics.span, action.topics.value.0 == 0),
        ] {
            if is_zero {
                let title = format!("`{name}` is out of range");
                self.mistake(span, title, "write more than 0");
            }
        }
        for method in &route.methods.value {
            match method.value.as_str() {
                "GET" => {}
                "POST" if action.publish.value => {}
                "POST" => {
                    let title = "POST, where nothing is published";
                    let mistake = Mistake::new(method.span.clone(), title, "remove one of the two");
                    let off = action.publish.span.clone();
                    self.mistakes.push(mistake.with(off, "it is off here"));
                }
                _ => {
                    let title = "a method that a channel does not know";
                    self.mistake(
                        &method.span,
                        title,
                        "there are GET, which follows, and POST",
                    );
                }
            }
        }
    }

    pub(super) fn check_rule(&mut self, rule: &CacheRule, before: &[At<CacheRule>]) {
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
    pub(super) fn show(&self, found: Found, value: &Value<'_>) -> Mistake {
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

pub(super) fn error_status(text: &str) -> Option<u16> {
    text.parse()
        .ok()
        .filter(|status| (400..600).contains(status))
}

/// What is wrong with a path, whatever the other routes are, and what to write instead. What is in
/// braces is the router's to judge.
pub(super) fn path_mistake(path: &str) -> Option<(&'static str, &'static str)> {
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
pub(super) fn is_whole(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}')
}

/// Whether a field can have this value, and has one at all.
pub(super) fn is_value(value: &str) -> bool {
    !value.is_empty() && http::HeaderValue::from_str(value).is_ok()
}

pub(super) fn is_file_below(root: &Path, name: &str) -> bool {
    let name = name.trim_start_matches('/');
    !name.split('/').any(|part| part == "..") && root.join(name).is_file()
}

/// The names in braces of a path or a template.
pub(super) fn parameters(text: &str) -> impl Iterator<Item = &str> {
    text.split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name)
}

/// A setting that cannot be. The text ends in what can be, and holds the value before that, which is
/// not shown: a variable may have put it there.
pub(super) fn show_setting(name: &str, text: &str, value: &Value<'_>) -> Mistake {
    let title = format!("`{name}` is out of range");
    let Some((_, want)) = text.rsplit_once(": want ") else {
        let instead = "write text without control characters, or false for none";
        return Mistake::new(place_of(value, name), "not a field value", instead);
    };
    // One that is left out is out of range because of another.
    let because = match name {
        _ if look_up(value, name).is_some() => None,
        "limits.target" => Some("limits.head".to_string()),
        "limits.output" | "limits.socket_output" => Some("limits.high_water".to_string()),
        _ => name
            .strip_suffix("max_ejection")
            .map(|outliers| format!("{outliers}base_ejection")),
    };
    match because {
        Some(other) => {
            let instead = format!("set `{name}`, too: {want}");
            Mistake::new(place_of(value, &other), title, instead)
        }
        None => Mistake::new(place_of(value, name), title, format!("write {want}")),
    }
}

/// What is left of a path or a template without its names in braces.
pub(super) fn outside_braces(text: &str) -> String {
    text.split('{')
        .map(|part| part.split_once('}').map_or(part, |(_, rest)| rest))
        .collect()
}

/// The value of `limits.head`.
pub(super) fn look_up<'v, 'a>(value: &'v Value<'a>, name: &str) -> Option<&'v Value<'a>> {
    name.split('.')
        .try_fold(value, |value, key| match value.get_ref() {
            DeValue::Table(table) => table.get(key),
            _ => None,
        })
}

/// Where `limits.head` stands; the beginning, if it is left out.
pub(super) fn place_of(value: &Value<'_>, name: &str) -> Span {
    look_up(value, name).map_or(0..0, |found| found.span())
}
