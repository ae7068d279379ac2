//! Floor 5. The action `proxy` of a route: what may stand in it, what it may not say, and what is made of it.

use super::checks::path_mistake;
use super::decode::{At, Shorthand, table};
use super::model::RouteSection;
use super::report;
use super::site::{ANY, Field, Making, finish};
use crate::service::proxy::Proxy;
use std::rc::Rc;

#[derive(Clone, Debug, Default)]
pub(super) struct ProxyAction {
    pub(super) to: At<String>,
}

table! { ProxyAction {
    "The upstream's name." to: At<String>,
} required ["to"] }

impl Shorthand for ProxyAction {
    const WHAT: &'static str = "an upstream's name";
    fn of(to: At<String>) -> Self {
        ProxyAction { to }
    }
}

impl<'d> Making<'d> {
    pub(super) fn proxy(
        &mut self,
        action: &'d ProxyAction,
        route: &'d RouteSection,
        before: &[Field],
        methods: &[String],
    ) {
        let to = &action.to;
        let document = self.document;
        let names = document.upstreams.0.iter();
        let known: Vec<&str> = names.map(|(name, _)| &name.value[..]).collect();
        if to.span != (0..0) && !known.contains(&&to.value[..]) {
            let instead = match known.is_empty() {
                true => "write a section [upstreams.NAME]".to_string(),
                false => report::instead(&to.value, &known),
            };
            self.mistake(&to.span, "no such upstream", instead);
        }
        let path = &route.path.value;
        if path_mistake(path).is_some() {
            return;
        }
        let proxy = Rc::new(Proxy::to(&to.value));
        for method in methods {
            let added = match &method[..] {
                ANY => Proxy::clone(&proxy).on(&mut self.app, path),
                method => proxy.clone().on_method(&mut self.app, method, path),
            };
            finish(added, route, before);
            self.origins.push(route);
        }
    }
}
