//! Floor 5. The action `proxy` of a route: what may stand in it, what it may not say, and what is made of it.

use super::checks::path_mistake;
use super::decode::{At, Decode, Named, Reader, Shorthand, Value, choice, table};
use super::kinds::{Count, Size};
use super::model::RouteSection;
use super::report::{self, Mistake, Span};
use super::site::{ANY, Field, Making, finish};
use crate::proto::forwarded::Dialect;
use crate::proto::http::is_authority;
use crate::service::proxy::Proxy;
use crate::service::proxy::fields::{Announced, Edits, HostRule, MAX_VISITS, RuleError, Rules};
use crate::service::proxy::path::Rewrite;
use serde_json::{Value as Json, json};
use std::rc::Rc;

#[derive(Clone, Debug)]
pub(super) struct ProxyAction {
    to: At<String>,
    strip: Option<At<String>>,
    path: Option<At<String>>,
    host: Host,
    request: EditSection,
    response: EditSection,
    forwarded: Announced,
    via: At<String>,
    visits: At<Count>,
    spool: SpoolSection,
    proxy_status: bool,
    abort_on_close: bool,
}

impl Default for ProxyAction {
    fn default() -> Self {
        fn at<T>(value: T) -> At<T> {
            At { value, span: 0..0 }
        }
        ProxyAction {
            to: At::default(),
            strip: None,
            path: None,
            host: Host::default(),
            request: EditSection::default(),
            response: EditSection::default(),
            forwarded: Announced::default(),
            via: at("loopwright".to_string()),
            visits: at(MAX_VISITS.into()),
            spool: SpoolSection::default(),
            proxy_status: false,
            abort_on_close: true,
        }
    }
}

table! { ProxyAction {
    "The upstream's name." to: At<String>,
    "What the path loses at its front: \"/api\"." strip: Option<At<String>>,
    "What is asked for instead; {name} stands for the path's parameter of that name." path: Option<At<String>>,
    "What the server is told is its host: \"keep\" for what the client said, \"upstream\" for the server's own, or a name." host: Host,
    "What becomes of the request's fields." request: EditSection,
    "What becomes of the answer's." response: EditSection,
    "Which fields tell the server who asks." forwarded: Announced,
    "Our name in `via`." via: At<String>,
    "How often a request may have come here before; 508 past it." visits: At<Count>,
    "What is gathered, so that a slow client does not keep a server." spool: SpoolSection,
    "Whether the `proxy-status` field says what went wrong." proxy_status: bool,
    "Whether a request ends when its client closes its sending side, as one does that leaves." abort_on_close: bool,
} required ["to"] }

impl Shorthand for ProxyAction {
    type Word = String;
    const WHAT: &'static str = "an upstream's name";
    fn of(to: At<String>) -> Self {
        let other = ProxyAction::default();
        ProxyAction { to, ..other }
    }
}

#[derive(Clone, Debug, Default)]
struct EditSection {
    set: Named<At<String>>,
    add: Named<At<String>>,
    remove: Vec<At<String>>,
}

table! { EditSection {
    "Fields in place of those there are; {client_ip}, {host}, {proto} and {request_id} stand for themselves." set: Named<At<String>>,
    "Fields beside those there are." add: Named<At<String>>,
    "Names of fields that do not pass." remove: Vec<At<String>>,
} }

#[derive(Clone, Debug, Default)]
struct SpoolSection {
    request: Size,
    response: At<Size>,
}

table! { SpoolSection {
    "A request's body is gathered before a server is asked, up to so much; 413 past it. \"0B\": passed on as it comes." request: Size,
    "So much of an answer is taken ahead of its client; below `limits.output`. \"0B\": `limits.high_water`." response: At<Size>,
} }

/// `"keep"`, `"upstream"` or a name.
#[derive(Clone, Debug, Default)]
struct Host(HostRule);

impl Decode for Host {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str = "\"keep\", \"upstream\", or a host: \"example.org\"";
        match reader.text(value, "a word in quotes", WRITE)? {
            word if word == "keep" => Some(Host(HostRule::Keep)),
            word if word == "upstream" => Some(Host(HostRule::Upstream)),
            name if is_authority(name.as_bytes()) && !name.is_empty() => {
                Some(Host(HostRule::Named(name)))
            }
            _ => {
                reader.mistake(value.span(), "not a host", format!("write {WRITE}"));
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^[^\s/@?#]+$|\$\{" })
    }
    fn show(&self) -> Json {
        match &self.0 {
            HostRule::Keep => "keep".into(),
            HostRule::Upstream => "upstream".into(),
            HostRule::Named(_) => Json::Null,
        }
    }
}

const fn announced(x_forwarded: bool, forwarded: bool) -> Announced {
    Announced {
        x_forwarded,
        forwarded,
    }
}

choice! { Announced {
    "x-forwarded" => announced(true, false),
    "forwarded" => announced(false, true),
    "both" => announced(true, true),
    "none" => announced(false, false),
} }

choice! { Dialect {
    "either" => Dialect::Either,
    "x-forwarded" => Dialect::XForwarded,
    "forwarded" => Dialect::Forwarded,
} }

impl<'d> Making<'d> {
    pub(super) fn proxy(
        &mut self,
        action: &'d ProxyAction,
        route: &'d RouteSection,
        before: &[Field],
        methods: &[String],
    ) {
        let rules = self.rules(action, route);
        let document = self.document;
        let named = document.upstreams.0.iter();
        let upstream = named
            .clone()
            .find(|(name, _)| name.value == action.to.value);
        if upstream.is_none() && action.to.span != (0..0) {
            let known: Vec<&str> = named.map(|(name, _)| &name.value[..]).collect();
            let instead = match known.is_empty() {
                true => "write a section [upstreams.NAME]".to_string(),
                false => report::instead(&action.to.value, &known),
            };
            self.mistake(&action.to.span, "no such upstream", instead);
        }
        let ahead = &action.spool.response;
        if usize::try_from(ahead.value.0).is_ok_and(|size| size >= document.limits.output) {
            let instead = "write less than `limits.output`, where an answer is broken off";
            self.mistake(&ahead.span, "`spool.response` is out of range", instead);
        }
        let path = &route.path.value;
        if path_mistake(path).is_some() {
            return;
        }
        let mut proxy = Proxy::to(&action.to.value)
            .rules(rules)
            .trusted(self.trusted.clone())
            .status_field(action.proxy_status)
            .abort_on_close(action.abort_on_close)
            .spool_request(action.spool.request.into())
            .spool_response(ahead.value.into());
        if let Some(key) = upstream.and_then(|(_, section)| section.value.key()) {
            proxy = proxy.key(key);
        }
        let proxy = Rc::new(proxy);
        for method in methods {
            let added = match &method[..] {
                ANY => Proxy::clone(&proxy).on(&mut self.app, path),
                method => proxy.clone().on_method(&mut self.app, method, path),
            };
            finish(added, route, before);
            self.origins.push(route);
        }
    }

    fn rules(&mut self, action: &'d ProxyAction, route: &'d RouteSection) -> Rules {
        let via = &action.via;
        let is_pseudonym = |b: u8| b.is_ascii_graphic() && !b"\"(),;<=>?@[\\]{}".contains(&b);
        if via.value.is_empty() || !via.value.bytes().all(is_pseudonym) {
            let instead = "write a word, or a host: \"edge-1\", \"proxy.example.org:8080\"";
            self.mistake(&via.span, "not a name for `via`", instead);
        }
        if action.visits.value.0 == 0 {
            let instead = "write 1 or more";
            self.mistake(&action.visits.span, "`visits` is out of range", instead);
        }
        let mut rules = Rules::new(&via.value);
        rules.path = self.rewrite(action, route);
        rules.host = action.host.0.clone();
        rules.announced = action.forwarded;
        rules.visits = action.visits.value.into();
        rules.request = self.edits(&action.request);
        rules.response = self.edits(&action.response);
        rules
    }

    fn rewrite(&mut self, action: &'d ProxyAction, route: &'d RouteSection) -> Rewrite {
        let pattern = &route.path;
        let (at, title, instead) = match (&action.strip, &action.path) {
            (None, None) => return Rewrite::default(),
            (Some(strip), Some(path)) => {
                let title = "two words on what becomes of the path";
                let mistake = Mistake::new(path.span.clone(), title, "keep one");
                self.mistakes
                    .push(mistake.with(strip.span.clone(), "the other"));
                return Rewrite::default();
            }
            (Some(strip), None) => match Rewrite::new(&pattern.value, Some(&strip.value), None) {
                Ok(rewrite) => return rewrite,
                Err(_) => (
                    &strip.span,
                    "not what this route's path begins with",
                    "write whole segments of it, from its front, without parameters",
                ),
            },
            (None, Some(path)) => {
                let known = self.mistakes.len();
                self.check_parameters(path, route, None);
                match Rewrite::new(&pattern.value, None, Some(&path.value)) {
                    Ok(rewrite) => return rewrite,
                    Err(_) if self.mistakes.len() > known => return Rewrite::default(),
                    Err(_) => (
                        &path.span,
                        "not a path to ask for",
                        "begin with /, without a query and without .. in it; other characters as %XX",
                    ),
                }
            }
        };
        // Of a pattern that is none, all of this may be because of that.
        if path_mistake(&pattern.value).is_none() {
            let mistake = Mistake::new(at.clone(), title, instead);
            let path = pattern.span.clone();
            self.mistakes
                .push(mistake.with(path, "the path of this route"));
        }
        Rewrite::default()
    }

    fn edits(&mut self, section: &'d EditSection) -> Edits {
        let mut edits = Edits::default();
        let mut seen: Vec<(String, &Span)> = Vec::new();
        for (name, value) in &section.set.0 {
            let result = edits.set(&name.value, &value.value);
            self.check_edit(result, &name.span, &value.span);
            seen.push((name.value.to_ascii_lowercase(), &name.span));
        }
        for name in &section.remove {
            let result = edits.remove(&name.value);
            self.check_edit(result, &name.span, &name.span);
            seen.push((name.value.to_ascii_lowercase(), &name.span));
        }
        for (at, (name, span)) in seen.iter().enumerate() {
            if let Some((_, first)) = seen[..at].iter().find(|(first, _)| first == name) {
                self.twice("a field twice", first, span);
            }
        }
        for (name, value) in &section.add.0 {
            let result = edits.add(&name.value, &value.value);
            self.check_edit(result, &name.span, &value.span);
        }
        edits
    }

    /// Without the words of the error, which hold what a variable may have put there.
    fn check_edit(&mut self, result: Result<(), RuleError>, name: &Span, value: &Span) {
        let (at, title, instead) = match result {
            Ok(()) => return,
            Err(RuleError::Name(_)) => (
                name,
                "not a field name",
                "write letters, digits and - alone",
            ),
            Err(RuleError::Ours(_)) => (
                name,
                "a field that the proxy writes itself",
                "remove it: there are `host`, `forwarded` and `via` for some of them",
            ),
            Err(RuleError::Value(_)) => (
                value,
                "not a field value",
                "write it without line breaks and other control characters",
            ),
            Err(RuleError::Placeholder(_)) => (
                value,
                "no such placeholder",
                "there are {client_ip}, {host}, {proto} and {request_id}; {{ is a brace",
            ),
        };
        self.mistake(at, title, instead);
    }
}
