//! Floor 2. An [`App`] once built: what never changes (the table) beside what is called (the
//! callbacks), so that the loop can look things up in one while it calls the other.

use super::ctx::Ctx;
use super::failure::Failure;
use super::mistake::{Mistake, Place};
use super::publish::Bus;
use super::request::{Params, Request};
use super::response::Response;
use super::router::{Lookup, Pattern, Router, host_matches};
use super::routes::{After, App, Before, Done, Endpoint, ErrorHook, Handler};
use super::store::Stores;
use super::stream::Incoming;
use super::upstream::Upstream;
use crate::proto::h1::head::Head;
use crate::proto::http::is_authority;
use http::{Method, StatusCode};
use std::cmp::Reverse;

pub(crate) struct Site<S> {
    pub(crate) table: Table,
    pub(crate) calls: Callbacks<S>,
    /// Of a server that begins.
    pub(crate) bus: Option<Box<dyn Bus<S>>>,
    pub(crate) upstreams: Vec<(String, Upstream)>,
    pub(crate) stores: Stores<S>,
}

/// Everything about routes that is not a callback.
pub(crate) struct Table {
    router: Router,
    routes: Vec<RouteInfo>,
    scopes: Vec<Scope>,
    /// Whether anybody wants to know when an exchange is over.
    pub(crate) has_after: bool,
}

struct RouteInfo {
    path: String,
    is_stream: bool,
    before: Vec<usize>,
    after: Vec<usize>,
    body_limit: Option<u64>,
    ignores_body: bool,
    scope: usize,
}

/// One App: where its pages and hooks hold.
#[derive(Clone)]
struct Scope {
    prefix: String,
    host: Option<String>,
    before: Vec<usize>,
    after: Vec<usize>,
    on_error: Option<usize>,
    not_found: Option<usize>,
    method_not_allowed: Option<usize>,
}

impl Scope {
    /// Of two scopes that hold for a path, the one that says more about it comes first.
    fn rank(&self) -> (usize, u8) {
        let host = match self.host.as_deref() {
            None => 0,
            Some(host) if host.starts_with("*.") => 1,
            Some(_) => 2,
        };
        (self.prefix.len(), host)
    }

    fn holds(&self, head: &Head<'_>) -> bool {
        let is_here = self
            .host
            .as_deref()
            .is_none_or(|host| host_matches(host, head.authority));
        let below = head.path.strip_prefix(self.prefix.as_str());
        is_here
            && below.is_some_and(|rest| {
                self.prefix.is_empty() || rest.is_empty() || rest.starts_with('/')
            })
    }
}

/// What outlives a request's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RouteKey {
    Route(usize),
    /// No route matched in this scope.
    Miss(usize),
}

/// Where a request goes.
pub(crate) struct Destination {
    pub(crate) key: RouteKey,
    miss: Option<Box<Miss>>,
}

struct Miss {
    status: StatusCode,
    allow: Option<String>,
    page: Option<usize>,
}

pub(crate) struct Callbacks<S> {
    endpoints: Vec<Endpoint<S>>,
    before: Vec<Before<S>>,
    after: Vec<After<S>>,
    errors: Vec<ErrorHook<S>>,
    pages: Vec<Handler<S>>,
}

impl<S: 'static> Site<S> {
    /// Builds an App, or says everything that is wrong with it.
    pub(crate) fn build(mut app: App<S>) -> Result<Site<S>, Vec<Mistake>> {
        let bus = app.bus.take();
        let calls = Callbacks {
            endpoints: vec![],
            before: vec![],
            after: vec![],
            errors: vec![],
            pages: vec![],
        };
        let mut building = Building {
            calls,
            routes: vec![],
            scopes: vec![],
            patterns: vec![],
            mistakes: vec![],
            upstreams: vec![],
            stores: Stores::new(),
        };
        let outermost = Scope {
            prefix: String::new(),
            host: None,
            before: vec![],
            after: vec![],
            on_error: None,
            not_found: None,
            method_not_allowed: None,
        };
        building.add(app, outermost);
        let Building {
            calls,
            routes,
            scopes,
            patterns,
            mut mistakes,
            upstreams,
            stores,
        } = building;
        match Router::build(&patterns) {
            Ok(router) if mistakes.is_empty() => {
                let has_after = !calls.after.is_empty();
                Ok(Site {
                    table: Table {
                        router,
                        routes,
                        scopes,
                        has_after,
                    },
                    calls,
                    bus,
                    upstreams,
                    stores,
                })
            }
            built => {
                mistakes.extend(built.err().unwrap_or_default());
                Err(mistakes)
            }
        }
    }
}

struct Building<S> {
    calls: Callbacks<S>,
    routes: Vec<RouteInfo>,
    scopes: Vec<Scope>,
    patterns: Vec<Pattern>,
    mistakes: Vec<Mistake>,
    upstreams: Vec<(String, Upstream)>,
    stores: Stores<S>,
}

/// Moves callbacks to where they are called; returns their numbers behind those inherited.
fn enlist<T>(
    inherited: &[usize],
    all: &mut Vec<T>,
    new: impl IntoIterator<Item = T>,
) -> Vec<usize> {
    let mut numbers = inherited.to_vec();
    for one in new {
        numbers.push(all.len());
        all.push(one);
    }
    numbers
}

impl<S: 'static> Building<S> {
    fn add(&mut self, app: App<S>, outer: Scope) {
        let calls = &mut self.calls;
        let in_app = |text| Mistake::new(Place::App, text);
        self.mistakes.extend(app.mistakes.into_iter().map(in_app));
        for (name, upstream) in app.upstreams {
            self.mistakes.extend(upstream.mistakes(&name));
            if self.upstreams.iter().any(|(other, _)| *other == name) {
                let text = format!("upstream {name:?}: there are two of this name");
                self.mistakes.push(Mistake::new(Place::App, text));
            }
            self.upstreams.push((name, upstream));
        }
        for store in app.stores {
            let name = store.name().to_string();
            if !self.stores.add(store) {
                let text = format!("store {name:?}: there are two of this name and type");
                self.mistakes.push(Mistake::new(Place::App, text));
            }
        }
        let page =
            |pages: &mut Vec<Handler<S>>, page: Option<Handler<S>>| enlist(&[], pages, page).pop();
        let scope = Scope {
            prefix: outer.prefix.clone(),
            host: app.host.or(outer.host),
            before: enlist(&outer.before, &mut calls.before, app.before),
            after: enlist(&outer.after, &mut calls.after, app.after),
            on_error: enlist(&[], &mut calls.errors, app.on_error)
                .pop()
                .or(outer.on_error),
            not_found: page(&mut calls.pages, app.not_found).or(outer.not_found),
            method_not_allowed: page(&mut calls.pages, app.method_not_allowed)
                .or(outer.method_not_allowed),
        };
        let number = self.scopes.len();
        for route in app.routes {
            let path = join(&scope.prefix, &route.path);
            let hosts: Vec<Option<String>> = match route.hosts.is_empty() {
                true => vec![scope.host.clone()],
                false => route.hosts.into_iter().map(Some).collect(),
            };
            for host in hosts {
                if let Some(host) = host.as_deref().filter(|host| !is_host_pattern(host)) {
                    let text = format!(
                        "route {path:?}: host {host:?}: want \"example.org\" or \"*.example.org\", without a port"
                    );
                    let place = Place::Host(self.routes.len(), host.to_string());
                    self.mistakes.push(Mistake::new(place, text));
                }
                self.patterns.push(Pattern {
                    route: self.routes.len(),
                    method: route.method.clone(),
                    host: host.map(|host| host.to_ascii_lowercase()),
                    path: path.clone(),
                });
            }
            self.routes.push(RouteInfo {
                path,
                is_stream: matches!(route.endpoint, Endpoint::Stream(_)),
                before: enlist(&scope.before, &mut self.calls.before, route.before),
                after: enlist(&scope.after, &mut self.calls.after, route.after),
                body_limit: route.body_limit,
                ignores_body: route.ignores_body,
                scope: number,
            });
            self.calls.endpoints.push(route.endpoint);
        }
        self.scopes.push(scope.clone());
        for (prefix, mounted) in app.mounts {
            if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.ends_with('/')) {
                let text = format!("prefix {prefix:?}: want \"/like/this\", or \"\" for none");
                self.mistakes.push(Mistake::new(Place::App, text));
            }
            let prefix = format!("{}{prefix}", scope.prefix);
            self.add(
                mounted,
                Scope {
                    prefix,
                    ..scope.clone()
                },
            );
        }
    }
}

/// A name or an address, perhaps with `*.` for all that is below it.
fn is_host_pattern(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let is_literal = name.starts_with('[') && name.ends_with(']');
    !name.is_empty() && is_authority(name.as_bytes()) && (is_literal || !name.contains([':', '*']))
}

/// `/api` and `/users` are `/api/users`; `/api` and `/` are `/api`.
fn join(prefix: &str, path: &str) -> String {
    match path {
        "/" | "" if !prefix.is_empty() => prefix.to_string(),
        _ => format!("{prefix}{path}"),
    }
}

impl Table {
    /// Fills `params` if a route matches.
    pub(crate) fn find<'a>(&'a self, head: &Head<'a>, params: &mut Params<'a>) -> Destination {
        if head.path == "*" {
            let allow = Some(join_methods(self.router.methods()));
            return self.miss(head, StatusCode::NO_CONTENT, allow);
        }
        match self
            .router
            .find(&head.method, head.authority, head.path, params)
        {
            Lookup::Found(route) => Destination {
                key: RouteKey::Route(route),
                miss: None,
            },
            Lookup::WrongMethod(methods) => {
                let is_question = head.method == Method::OPTIONS;
                let status = if is_question {
                    StatusCode::NO_CONTENT
                } else {
                    StatusCode::METHOD_NOT_ALLOWED
                };
                self.miss(head, status, Some(join_methods(&methods)))
            }
            Lookup::Unknown => self.miss(head, StatusCode::NOT_FOUND, None),
            Lookup::UnknownMethod => self.miss(head, StatusCode::NOT_IMPLEMENTED, None),
            Lookup::BadEncoding => self.miss(head, StatusCode::BAD_REQUEST, None),
        }
    }

    /// The innermost App whose prefix the path has: its middleware and its pages answer.
    #[cold]
    fn miss(&self, head: &Head<'_>, status: StatusCode, allow: Option<String>) -> Destination {
        let has = |scope: &&(usize, &Scope)| scope.1.holds(head);
        let scopes: Vec<(usize, &Scope)> = self.scopes.iter().enumerate().collect();
        let longest = scopes
            .iter()
            .filter(has)
            .max_by_key(|(number, scope)| (scope.rank(), Reverse(*number)));
        let number = longest.map_or(0, |(number, _)| *number);
        let page = match status {
            StatusCode::NOT_FOUND => self.scopes[number].not_found,
            StatusCode::METHOD_NOT_ALLOWED => self.scopes[number].method_not_allowed,
            _ => None,
        };
        Destination {
            key: RouteKey::Miss(number),
            miss: Some(Box::new(Miss {
                status,
                allow,
                page,
            })),
        }
    }

    fn scope(&self, key: RouteKey) -> &Scope {
        match key {
            RouteKey::Route(route) => &self.scopes[self.routes[route].scope],
            RouteKey::Miss(scope) => &self.scopes[scope],
        }
    }

    /// The pattern as registered, prefixes included; empty for a miss.
    pub(crate) fn pattern(&self, key: RouteKey) -> &str {
        match key {
            RouteKey::Route(route) => &self.routes[route].path,
            RouteKey::Miss(_) => "",
        }
    }

    pub(crate) fn before(&self, key: RouteKey) -> &[usize] {
        match key {
            RouteKey::Route(route) => &self.routes[route].before,
            RouteKey::Miss(scope) => &self.scopes[scope].before,
        }
    }

    pub(crate) fn after(&self, key: RouteKey) -> &[usize] {
        match key {
            RouteKey::Route(route) => &self.routes[route].after,
            RouteKey::Miss(scope) => &self.scopes[scope].after,
        }
    }

    pub(crate) fn on_error(&self, key: RouteKey) -> Option<usize> {
        self.scope(key).on_error
    }

    pub(crate) fn body_limit(&self, key: RouteKey) -> Option<u64> {
        match key {
            RouteKey::Route(route) => self.routes[route].body_limit,
            RouteKey::Miss(_) => None,
        }
    }

    /// Whether the endpoint wants the whole body before it is called.
    /// Nobody will look at the body.
    pub(crate) fn ignores_body(&self, key: RouteKey) -> bool {
        matches!(key, RouteKey::Route(route) if self.routes[route].ignores_body)
    }

    pub(crate) fn wants_whole_body(&self, key: RouteKey) -> bool {
        matches!(key, RouteKey::Route(route) if !self.routes[route].is_stream)
    }
}

fn join_methods(methods: &[Method]) -> String {
    methods
        .iter()
        .map(Method::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

impl<S: 'static> Callbacks<S> {
    /// Runs middleware; `None`: one of them has ended it.
    pub(crate) fn before<'r>(
        &mut self,
        which: &[usize],
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        mut res: Response<'r>,
    ) -> Option<Response<'r>> {
        for &hook in which {
            res = self.before[hook](cx, req, res)?;
        }
        Some(res)
    }

    /// Calls the endpoint, or answers a miss.
    pub(crate) fn endpoint(
        &mut self,
        target: &Destination,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        res: Response<'_>,
    ) -> Option<Failure> {
        let route = match (target.key, &target.miss) {
            (RouteKey::Route(route), _) => route,
            (RouteKey::Miss(_), Some(miss)) => return self.miss(miss, cx, req, res),
            (RouteKey::Miss(_), None) => return None,
        };
        match &mut self.endpoints[route] {
            Endpoint::Plain(f) => f(cx, req, res),
            Endpoint::Stream(f) => {
                let body = Incoming::new(res.sending.to, res.sending.outbox.clone());
                f(cx, req, res, body)
            }
        }
    }

    fn miss(
        &mut self,
        miss: &Miss,
        cx: &mut Ctx<'_, S>,
        req: &Request<'_>,
        mut res: Response<'_>,
    ) -> Option<Failure> {
        res = res.status(miss.status.as_u16());
        if let Some(allow) = &miss.allow {
            res = res.header("allow", allow);
        }
        match miss.page {
            Some(page) => return self.pages[page](cx, req, res),
            None if miss.status == StatusCode::NO_CONTENT => res.empty(),
            None => res.text(miss.status.canonical_reason().unwrap_or("")),
        }
        None
    }

    pub(crate) fn after(&mut self, which: &[usize], cx: &mut Ctx<'_, S>, done: &Done<'_>) {
        for &hook in which {
            self.after[hook](cx, done);
        }
    }

    pub(crate) fn error(
        &mut self,
        which: usize,
        cx: &mut Ctx<'_, S>,
        failure: &Failure,
        res: Response<'_>,
    ) {
        self.errors[which](cx, failure, res);
    }
}
