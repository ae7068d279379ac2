//! What `tests/fuzz` asks of parts that have no public name. No part of the interface.

use crate::app::request::Params;
use crate::app::router::{self, Lookup, Router};
use crate::proto::h1::head::Head;
use crate::{Method, Peer, Request, RequestId};

/// A route's pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// `None`: any.
    pub method: Option<Method>,
    /// `None`: any.
    pub host: Option<String>,
    /// With its parameters.
    pub path: String,
}

/// What a router says.
#[derive(Debug)]
pub enum Found {
    /// The pattern of this number, and its parameters, decoded.
    Route(usize, Vec<(String, String)>),
    /// The path is there for these methods.
    WrongMethod(Vec<Method>),
    /// Nothing there.
    Unknown,
    /// Nobody knows the method.
    UnknownMethod,
    /// A parameter is not UTF-8.
    BadEncoding,
}

/// A router.
pub struct Routes(Router);

impl Routes {
    /// Of these patterns.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(patterns: &[Pattern]) -> Result<Routes, Vec<String>> {
        let numbered = |(route, pattern): (usize, &Pattern)| router::Pattern {
            route,
            method: pattern.method.clone(),
            host: pattern.host.clone(),
            path: pattern.path.clone(),
        };
        let patterns: Vec<_> = patterns.iter().enumerate().map(numbered).collect();
        let router = Router::build(&patterns);
        router
            .map(Routes)
            .map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    /// Looks a request up.
    pub fn find(&self, method: &Method, authority: &[u8], path: &str) -> Found {
        let mut params = Params::new();
        match self.0.find(method, authority, path, &mut params) {
            Lookup::Found(route) => {
                let owned = params
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_string()));
                Found::Route(route, owned.collect())
            }
            Lookup::WrongMethod(methods) => Found::WrongMethod(methods),
            Lookup::Unknown => Found::Unknown,
            Lookup::UnknownMethod => Found::UnknownMethod,
            Lookup::BadEncoding => Found::BadEncoding,
        }
    }
}

/// Hands `f` a request with this head and body.
pub fn request<R>(head: &Head<'_>, body: &[u8], f: impl FnOnce(&Request<'_>) -> R) -> R {
    f(&Request {
        head,
        params: &[],
        body,
        peer: Peer::Unix,
        id: RequestId(1),
        route: "",
    })
}
