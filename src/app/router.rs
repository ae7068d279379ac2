//! Floor 2. From method, host and path to a route's number. Knows no callbacks.
//!
//! One tree of patterns per method, so that `GET /a/{x}` and `POST /a/b` do not get in each other's
//! way: the most specific pattern among those that know the method wins. `HEAD` finds what `GET`
//! finds unless it has a route of its own; a route for any method is in every tree, behind one
//! registered for the method itself. Routes of the request's host come before those of any host.

use super::mistake::{Mistake, Place};
use super::request::Params;
use http::Method;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::str::Utf8Error;

/// What is registered: enough to find it, and to name it in an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The route it belongs to; one route may have several.
    pub(crate) route: usize,
    /// `None`: any method.
    pub(crate) method: Option<Method>,
    /// `None`: any host. `*.example.org`: any host below it.
    pub(crate) host: Option<String>,
    pub(crate) path: String,
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.method {
            Some(method) => write!(f, "{method} ")?,
            None => write!(f, "any method ")?,
        }
        write!(f, "{}{}", self.host.as_deref().unwrap_or(""), self.path)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Found(usize),
    /// The path is there, for these methods.
    WrongMethod(Vec<Method>),
    /// Nothing there.
    Unknown,
    /// A method nobody registered anything for, anywhere.
    UnknownMethod,
    /// A parameter is not UTF-8 once decoded.
    BadEncoding,
}

type Tree = matchit::Router<usize>;

#[derive(Default)]
struct Table {
    trees: Vec<(Method, Tree)>,
    any_method: Tree,
}

#[derive(Default)]
pub(crate) struct Router {
    hosts: Vec<(String, Table)>,
    any_host: Table,
    methods: Vec<Method>,
}

const STANDARD: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::OPTIONS,
    Method::TRACE,
];

impl Router {
    /// Builds the trees, or says everything that is wrong with the patterns.
    pub(crate) fn build(patterns: &[Pattern]) -> Result<Router, Vec<Mistake>> {
        // A pattern is compared as requests are: without what is encoded for no need, and a host without the
        // dot of the root.
        let plain = |pattern: &Pattern| Pattern {
            path: decode_unreserved(&pattern.path).unwrap_or_else(|| pattern.path.clone()),
            host: pattern
                .host
                .as_deref()
                .map(|host| host.strip_suffix('.').unwrap_or(host).to_string()),
            ..pattern.clone()
        };
        let patterns: &[Pattern] = &patterns.iter().map(plain).collect::<Vec<_>>();
        let mut router = Router {
            methods: STANDARD.to_vec(),
            ..Router::default()
        };
        for method in patterns.iter().filter_map(|p| p.method.as_ref()) {
            if !router.methods.contains(method) {
                router.methods.push(method.clone());
            }
        }
        let mut mistakes = Vec::new();
        let mut hosts: Vec<Option<String>> = patterns.iter().map(|p| p.host.clone()).collect();
        hosts.sort();
        hosts.dedup();
        for host in hosts {
            let of_host = |p: &&(usize, &Pattern)| p.1.host == host;
            let numbered: Vec<(usize, &Pattern)> = patterns.iter().enumerate().collect();
            let here: Vec<(usize, &Pattern)> = numbered.iter().filter(of_host).copied().collect();
            let table = Table::build(&here, patterns, &router.methods, &mut mistakes);
            match host {
                Some(host) => router.hosts.push((host.to_ascii_lowercase(), table)),
                None => router.any_host = table,
            }
        }
        // Exact hosts before wildcards, longer wildcards before shorter ones.
        router
            .hosts
            .sort_by_key(|(host, _)| (host.starts_with("*."), usize::MAX - host.len()));
        if mistakes.is_empty() {
            Ok(router)
        } else {
            Err(mistakes)
        }
    }

    /// Fills `params` if it finds a route.
    pub(crate) fn find<'a>(
        &'a self,
        method: &Method,
        authority: &[u8],
        path: &'a str,
        params: &mut Params<'a>,
    ) -> Lookup {
        if let Some(plain) = decode_unreserved(path) {
            return self.find_decoded(method, authority, &plain, params);
        }
        match self.look_up(method, authority, path) {
            Some((route, raw)) => {
                let push = |name, value| params.push((name, value));
                decode(&raw, push).map_or(Lookup::BadEncoding, |()| Lookup::Found(route))
            }
            None => self.miss(method, authority, path),
        }
    }

    /// The same for a path that is not as it was sent: what is found in it has to be copied.
    #[cold]
    fn find_decoded<'a>(
        &'a self,
        method: &Method,
        authority: &[u8],
        path: &str,
        params: &mut Params<'a>,
    ) -> Lookup {
        let Some((route, raw)) = self.look_up(method, authority, path) else {
            return self.miss(method, authority, path);
        };
        let push = |name, value: Cow<'_, str>| params.push((name, Cow::Owned(value.into_owned())));
        decode(&raw, push).map_or(Lookup::BadEncoding, |()| Lookup::Found(route))
    }

    fn look_up<'s, 'p>(
        &'s self,
        method: &Method,
        authority: &[u8],
        path: &'p str,
    ) -> Option<(usize, matchit::Params<'s, 'p>)> {
        if self.hosts.is_empty() {
            // The common case, and the hot path.
            return self.any_host.find(method, path);
        }
        self.tables(authority)
            .into_iter()
            .find_map(|table| table.find(method, path))
    }

    fn tables<'r>(&'r self, authority: &[u8]) -> Vec<&'r Table> {
        let named = self
            .hosts
            .iter()
            .filter(|(pattern, _)| host_matches(pattern, authority));
        named
            .map(|(_, table)| table)
            .chain([&self.any_host])
            .collect()
    }

    #[cold]
    fn miss(&self, method: &Method, authority: &[u8], path: &str) -> Lookup {
        let mut allowed = Vec::new();
        for table in self.tables(authority) {
            for known in &self.methods {
                if !allowed.contains(known) && table.find(known, path).is_some() {
                    allowed.push(known.clone());
                }
            }
        }
        match () {
            _ if !self.methods.contains(method) => Lookup::UnknownMethod,
            _ if allowed.is_empty() => Lookup::Unknown,
            _ => {
                // Answered for every path that exists.
                if !allowed.contains(&Method::OPTIONS) {
                    allowed.push(Method::OPTIONS);
                }
                Lookup::WrongMethod(allowed)
            }
        }
    }

    /// What any path may be asked with, for `OPTIONS *`.
    pub(crate) fn methods(&self) -> &[Method] {
        &self.methods
    }
}

impl Table {
    fn build(
        here: &[(usize, &Pattern)],
        all: &[Pattern],
        methods: &[Method],
        mistakes: &mut Vec<Mistake>,
    ) -> Table {
        let mut table = Table::default();
        let of = |method: Option<&Method>| -> Vec<(usize, &Pattern)> {
            here.iter()
                .filter(|(_, p)| p.method.as_ref() == method)
                .copied()
                .collect()
        };
        for (route, pattern) in of(None) {
            insert(
                &mut table.any_method,
                route,
                pattern,
                all,
                Rank::Own,
                mistakes,
            );
        }
        for method in methods {
            let mut tree = Tree::new();
            for (route, pattern) in of(Some(method)) {
                insert(&mut tree, route, pattern, all, Rank::Own, mistakes);
            }
            // What is there already, for this very method, comes first.
            if *method == Method::HEAD {
                for (route, pattern) in of(Some(&Method::GET)) {
                    insert(&mut tree, route, pattern, all, Rank::Behind, mistakes);
                }
            }
            for (route, pattern) in of(None) {
                insert(&mut tree, route, pattern, all, Rank::Behind, mistakes);
            }
            table.trees.push((method.clone(), tree));
        }
        table
    }

    fn find<'s, 'p>(
        &'s self,
        method: &Method,
        path: &'p str,
    ) -> Option<(usize, matchit::Params<'s, 'p>)> {
        let tree = match self.trees.iter().find(|(known, _)| known == method) {
            Some((_, tree)) => tree,
            None => &self.any_method,
        };
        let found = tree.at(path).ok()?;
        Some((*found.value, found.params))
    }
}

/// More than anybody needs; past 25 matchit panics.
const MOST_PARAMETERS: usize = 16;

/// Whose method a tree is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    /// The pattern's.
    Own,
    /// Another one's: the pattern stands in for it, unless that has one for the same path.
    Behind,
}

/// A path without the names of its parameters.
fn shape(path: &str) -> Vec<&str> {
    let kind = |segment| match segment {
        rest if str::starts_with(rest, "{*") => "{*}",
        one if str::starts_with(one, "{") => "{}",
        exact => exact,
    };
    path.split('/').map(kind).collect()
}

/// Enters a pattern; `/x/{*rest}` also as `/x/`, where the rest is empty.
fn insert(
    tree: &mut Tree,
    number: usize,
    pattern: &Pattern,
    all: &[Pattern],
    rank: Rank,
    mistakes: &mut Vec<Mistake>,
) {
    let mut complain = |place: Place, text: String| {
        let mistake = Mistake::new(place, text);
        // A pattern for any method meets the same one in several trees.
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
    };
    let path = pattern.path.as_str();
    if !path.starts_with('/') {
        return complain(
            Place::Route(pattern.route),
            format!("route \"{pattern}\": a path begins with /"),
        );
    }
    if path.matches('{').count() > MOST_PARAMETERS {
        let text = format!("route \"{pattern}\": more than {MOST_PARAMETERS} parameters");
        return complain(Place::Route(pattern.route), text);
    }
    // matchit takes a slash for the beginning of a name; `{{` is a brace.
    let inserted = match path.replace("{{", "").contains("{/") {
        true => Err(matchit::InsertError::InvalidParam),
        false => tree.insert(path, pattern.route),
    };
    match inserted {
        Ok(()) => {}
        // One for this very path is there, and wins.
        Err(matchit::InsertError::Conflict { with })
            if rank == Rank::Behind && shape(&with) == shape(path) =>
        {
            return;
        }
        Err(matchit::InsertError::Conflict { with }) => {
            let same = |p: &&Pattern| {
                let is_rival = rank == Rank::Behind || p.method == pattern.method;
                is_rival && p.path == with && p.host == pattern.host && *p != pattern
            };
            let earlier = all[..number].iter().rfind(same);
            let other = earlier.or_else(|| all.iter().filter(|_| rank == Rank::Behind).find(same));
            let name = other.map_or(with.clone(), |other| other.to_string());
            let place = match other {
                Some(other) => Place::Routes(pattern.route, other.route),
                None => Place::Route(pattern.route),
            };
            return complain(
                place,
                format!("route \"{pattern}\" conflicts with route \"{name}\""),
            );
        }
        Err(e) => {
            let why = match e {
                matchit::InsertError::InvalidCatchAll => "{*rest} stands only at the end",
                matchit::InsertError::InvalidParamSegment => "a segment has one parameter at most",
                _ => "a parameter needs a name, between { and }",
            };
            let text = format!("route \"{pattern}\": {why}");
            return complain(Place::Route(pattern.route), text);
        }
    }
    if let Some(at) = path.find("{*").filter(|&at| path[..at].ends_with('/')) {
        // A route of its own for that path wins; it may have been, or will be, registered.
        let bare = &path[..at];
        let knows_method = |p: &&Pattern| p.method == pattern.method || p.method.is_none();
        let is_own = |p: &&Pattern| p.path == bare && p.host == pattern.host;
        let has_own = all.iter().filter(is_own).any(|p| knows_method(&p));
        if !has_own {
            let _ = tree.insert(bare, pattern.route);
        }
    }
}

/// Percent-decodes once, after matching: an encoded slash does not separate segments.
fn decode<'s, 'p>(
    raw: &matchit::Params<'s, 'p>,
    mut push: impl FnMut(&'s str, Cow<'p, str>),
) -> Result<(), Utf8Error> {
    for (name, value) in raw.iter() {
        let value = match memchr::memchr(b'%', value.as_bytes()) {
            None => Cow::Borrowed(value),
            Some(_) => percent_decode_str(value).decode_utf8()?,
        };
        push(name, value);
    }
    Ok(())
}

/// The path with its needlessly encoded characters decoded (RFC 3986 §6.2.2.2): `/%73ecret` is
/// `/secret`, and must not get past what guards that. `None`: it has none.
fn decode_unreserved(path: &str) -> Option<String> {
    memchr::memchr(b'%', path.as_bytes())?;
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let code = after
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(b) if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => {
                plain.push(char::from(b));
                rest = &after[2..];
            }
            _ => {
                plain.push('%');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    (plain.len() < path.len()).then_some(plain)
}

/// Whether the host of `authority`, its port aside, is `pattern`, or below it for `*.example.org`.
pub(crate) fn host_matches(pattern: &str, authority: &[u8]) -> bool {
    let pattern = pattern.strip_suffix('.').unwrap_or(pattern);
    let host = host_of(std::str::from_utf8(authority).unwrap_or(""));
    match pattern.strip_prefix('*') {
        Some(domain) => {
            let end = host
                .len()
                .checked_sub(domain.len())
                .filter(|&at| at > 0 && host.is_char_boundary(at));
            end.is_some_and(|at| host[at..].eq_ignore_ascii_case(domain))
        }
        None => host.eq_ignore_ascii_case(pattern),
    }
}

/// The host without its port.
fn host_of(authority: &str) -> &str {
    let host = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    // The name from the root of the DNS: the same host.
    host.strip_suffix('.').unwrap_or(host)
}

/// A look-up over a site of ordinary size, for the benchmark.
pub(crate) fn bench(routes: usize) -> impl Fn(&str) -> bool {
    let known = [
        "/",
        "/user/{id}",
        "/orgs/{org}/teams/{team}/members/{id}",
        "/static/{*rest}",
    ]
    .map(str::to_string);
    let others = (known.len()..routes).map(|n| format!("/api/v1/resource{n}/{{id}}/part"));
    let patterns: Vec<Pattern> = known
        .into_iter()
        .chain(others)
        .enumerate()
        .map(|(route, path)| Pattern {
            route,
            method: Some(Method::GET),
            host: None,
            path,
        })
        .collect();
    let router = Router::build(&patterns).unwrap_or_default();
    move |path| {
        let found = router.find(&Method::GET, b"localhost", path, &mut Params::new());
        matches!(found, Lookup::Found(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        let (method, rest) = text.split_once(' ').unwrap();
        let at = rest.find('/').unwrap_or(0);
        Pattern {
            route: 0,
            method: (method != "ANY").then(|| method.parse().unwrap()),
            host: (at > 0).then(|| rest[..at].to_string()),
            path: rest[at..].to_string(),
        }
    }

    fn router(patterns: &[&str]) -> Result<Router, Vec<String>> {
        let numbered = |(route, text): (usize, &&str)| Pattern {
            route,
            ..pattern(text)
        };
        let patterns: Vec<Pattern> = patterns.iter().enumerate().map(numbered).collect();
        Router::build(&patterns)
            .map_err(|mistakes| mistakes.iter().map(Mistake::to_string).collect())
    }

    fn find(router: &Router, request: &str) -> String {
        let (method, rest) = request.split_once(' ').unwrap();
        let at = rest.find('/').unwrap();
        let mut params = Params::new();
        let method = method.parse().unwrap();
        match router.find(&method, &rest.as_bytes()[..at], &rest[at..], &mut params) {
            Lookup::Found(route) => {
                let params: Vec<_> = params.iter().map(|(k, v)| format!(" {k}={v}")).collect();
                format!("{route}{}", params.concat())
            }
            Lookup::WrongMethod(methods) => methods
                .iter()
                .map(Method::as_str)
                .collect::<Vec<_>>()
                .join(","),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn requests_find_the_most_specific_route() {
        let patterns = [
            "GET /",
            "GET /a/{x}",
            "POST /a/b",
            "GET /a/b/c",
            "GET /s/{*rest}",
            "ANY /any",
            "GET /any",
            "PUT /u/{id}/f/{name}",
            "GET example.org/",
            "GET *.example.org/{sub}",
            "PURGE /cache",
            "HEAD /h",
            "GET /h",
            "GET /t/{*rest}",
            "GET /t/",
            "GET /n%65edless",
            "GET rooted.example./",
        ];
        let router = router(&patterns).unwrap();
        for (request, want) in [
            ("GET h/needless", "15"),
            ("GET rooted.example/", "16"),
            ("GET rooted.example./", "16"),
            ("GET h/ne%65dless", "15"),
            ("GET h/", "0"),
            ("HEAD h/", "0"),
            ("GET h/a/b", "1 x=b"),
            ("POST h/a/b", "2"),
            ("GET h/a/b/c", "3"),
            ("GET h/a/b%2Fc", "1 x=b/c"),
            ("GET h/a/%C3%A9", "1 x=é"),
            ("GET h/a/%FF", "BadEncoding"),
            ("GET h/a/%2541", "1 x=%41"),
            // What need not be encoded is the same as if it were not.
            ("GET h/%61/%62/c", "3"),
            ("POST h/%61/b", "2"),
            ("GET h/%73/x%2fy%2e", "4 rest=x/y."),
            ("GET h/%41/b", "Unknown"),
            ("GET h/a/%zz", "1 x=%zz"),
            ("GET h/a/%", "1 x=%"),
            ("DELETE h/%61/b", "GET,HEAD,POST,OPTIONS"),
            ("GET h/s/x/y.css", "4 rest=x/y.css"),
            ("GET h/s/", "4"),
            ("GET h/s", "Unknown"),
            ("GET h/any", "6"),
            ("DELETE h/any", "5"),
            ("PURGE h/any", "5"),
            ("PUT h/u/7/f/x", "7 id=7 name=x"),
            ("GET example.org/", "8"),
            ("GET EXAMPLE.org:80/", "8"),
            ("GET example.org/a/q", "1 x=q"),
            ("GET a.example.org/q", "9 sub=q"),
            ("GET example.org/q", "Unknown"),
            ("PURGE h/cache", "10"),
            ("HEAD h/h", "11"),
            ("GET h/h", "12"),
            ("GET h/t/", "14"),
            ("GET h/t/x", "13 rest=x"),
            ("DELETE h/a/b", "GET,HEAD,POST,OPTIONS"),
            ("OPTIONS h/a/b", "GET,HEAD,POST,OPTIONS"),
            ("GET h/nothing", "Unknown"),
            ("BREW h/a/b", "UnknownMethod"),
            ("GET h//", "Unknown"),
            ("GET h/A/b", "Unknown"),
        ] {
            assert_eq!(find(&router, request), want, "{request}");
        }
    }

    #[test]
    fn mistakes_are_all_told_and_name_both_routes() {
        let mistakes = router(&[
            "GET /a/{x}",
            "GET /a/{y}",
            "POST /a/{x}",
            "GET no",
            "GET /{a",
            "GET /a/{x}",
        ])
        .err()
        .unwrap();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert_eq!(
            mistakes[0],
            "route \"GET /a/{y}\" conflicts with route \"GET /a/{x}\""
        );
        assert!(mistakes[1].contains("\"GET no\""), "{mistakes:?}");
        assert!(mistakes[2].contains("GET /{a"), "{mistakes:?}");
        assert_eq!(
            mistakes[3],
            "route \"GET /a/{x}\" conflicts with route \"GET /a/{x}\""
        );
        assert!(router(&["ANY /x", "ANY /x"]).is_err());
        // matchit takes a slash for the beginning of a name.
        for wrong in ["GET /{/x}", "GET /a{/x}/b", "GET /{{{/x}"] {
            let mistakes = router(&[wrong]).err().unwrap_or_default().concat();
            assert!(
                mistakes.contains("a parameter needs a name"),
                "{wrong}: {mistakes}"
            );
        }
        assert!(router(&["GET /{{/x}}"]).is_ok());
        // Nothing is hidden without a word.
        assert_eq!(
            router(&["GET /{*rest}", "ANY /{page}", "POST /{id}"])
                .err()
                .unwrap(),
            ["route \"any method /{page}\" conflicts with route \"GET /{*rest}\""]
        );
        assert_eq!(
            router(&["ANY /{page}", "GET /{*rest}"]).err().unwrap(),
            ["route \"any method /{page}\" conflicts with route \"GET /{*rest}\""]
        );
        assert!(router(&["GET /{a}", "ANY /{b}", "HEAD /{c}"]).is_ok());
        let many: String = (0..40).map(|n| format!("/{{p{n}}}")).collect();
        let mistakes = router(&[&format!("GET {many}")]).err().unwrap();
        assert!(
            mistakes[0].contains("more than 16 parameters"),
            "{mistakes:?}"
        );
        assert!(router(&["GET a.org/x", "GET b.org/x", "GET /x"]).is_ok());
    }

    #[test]
    fn hosts_lose_their_port() {
        for (authority, host) in [
            ("a", "a"),
            ("a:80", "a"),
            ("a.:80", "a"),
            ("a.", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }
}
