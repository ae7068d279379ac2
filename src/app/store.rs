//! Floor 2. What lives beside requests and is asked by its name: databases, caches.
//!
//! ```text
//! App::store ─► start ─► Ctx::store, as often as anybody likes ─► stop
//!                 ▲                                                 │
//!                 └── a reload that brings another of this name ◄───┘   one that brings the same leaves it alone
//! ```
//! A store's connections are links ([`Ctx::connect`]), its waits are timers: nothing here knows what it does.
//!
//! Invariant: of a name and a type there is one at a time, and between its `start` and its `stop` it is the one that is
//! found.

use super::ctx::{Ctx, Job};
use super::routes::App;
use std::any::{Any, TypeId};
use std::rc::Rc;

/// Something that lives as long as the configuration that names it; see [`App::store`].
pub trait Store<S: 'static = ()>: Any {
    /// The loop has begun, or a configuration that names it.
    fn start(self: Rc<Self>, cx: &mut Ctx<'_, S>);

    /// It is named no more: whoever has it may go on to the end of what they do, nobody else comes. Not called when
    /// the server leaves, where its connections are closed in any case.
    fn stop(self: Rc<Self>, cx: &mut Ctx<'_, S>);

    /// Whether another of its name and type is made of the same settings: then this one stays, with all it has.
    fn is_same(&self, other: &Self) -> bool
    where
        Self: Sized;
}

/// A store whose type is known to itself alone.
pub(crate) trait AnyStore<S: 'static>: Any {
    fn start(self: Rc<Self>, cx: &mut Ctx<'_, S>);
    fn stop(self: Rc<Self>, cx: &mut Ctx<'_, S>);
    fn is_same(&self, other: &dyn Any) -> bool;
}

impl<S: 'static, T: Store<S>> AnyStore<S> for T {
    fn start(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        Store::start(self, cx);
    }

    fn stop(self: Rc<Self>, cx: &mut Ctx<'_, S>) {
        Store::stop(self, cx);
    }

    fn is_same(&self, other: &dyn Any) -> bool {
        other
            .downcast_ref()
            .is_some_and(|other| Store::is_same(self, other))
    }
}

/// One that has a name.
pub(crate) struct Named<S> {
    name: String,
    kind: TypeId,
    store: Rc<dyn AnyStore<S>>,
}

impl<S: 'static> Named<S> {
    fn is(&self, name: &str, kind: TypeId) -> bool {
        self.kind == kind && self.name == name
    }
}

/// All of a loop.
pub(crate) struct Stores<S>(Vec<Named<S>>);

impl<S> Stores<S> {
    pub(crate) fn new() -> Stores<S> {
        Stores(Vec::new())
    }
}

impl<S: 'static> Stores<S> {
    /// Adds one to those of a configuration. `false`: there is one of that name and type.
    pub(crate) fn add(&mut self, new: Named<S>) -> bool {
        let is_new = !self.0.iter().any(|old| old.is(&new.name, new.kind));
        self.0.push(new);
        is_new
    }

    /// Those of another configuration in place of these. What is to be done comes back.
    pub(crate) fn replace(&mut self, new: Stores<S>) -> Vec<Job<S>> {
        let mut jobs = Vec::new();
        let mut before = std::mem::replace(&mut self.0, new.0);
        for new in &mut self.0 {
            let same = |old: &Named<S>| {
                old.is(&new.name, new.kind) && old.store.is_same(&*new.store as &dyn Any)
            };
            match before.iter().position(same) {
                Some(at) => *new = before.swap_remove(at),
                None => {
                    let store = new.store.clone();
                    jobs.push(Job::Call("a store", Box::new(move |cx| store.start(cx))));
                }
            }
        }
        let stops = before.into_iter().map(|old| old.store);
        jobs.extend(stops.map(|store| Job::Call("a store", Box::new(move |cx| store.stop(cx)))));
        jobs
    }

    fn find<T: Store<S>>(&self, name: &str) -> Option<Rc<T>> {
        let kind = TypeId::of::<T>();
        let named = self.0.iter().find(|named| named.is(name, kind))?;
        let any: Rc<dyn Any> = named.store.clone();
        any.downcast().ok()
    }
}

impl<S: 'static> App<S> {
    /// Something to be asked by its name with [`Ctx::store`], for as long as the server runs, or a reload does not
    /// bring another: a client of a database, a cache. One of each name and type for all of a server's Apps.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Store};
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// /// Counts, and begins at a number.
    /// struct Counter { from: u32, at: Cell<u32> }
    ///
    /// impl Store for Counter {
    ///     fn start(self: Rc<Self>, _: &mut Ctx<'_>) { self.at.set(self.from) }
    ///     fn stop(self: Rc<Self>, _: &mut Ctx<'_>) {}
    ///     fn is_same(&self, other: &Counter) -> bool { self.from == other.from }
    /// }
    ///
    /// let mut app: App = App::new();
    /// app.store("hits", Counter { from: 1, at: Cell::new(0) });
    /// app.get("/", |cx, _, res| match cx.store::<Counter>("hits") {
    ///     Some(hits) => res.text(hits.at.replace(hits.at.get() + 1).to_string()),
    ///     None => res.status(500).text("nobody counts"),
    /// });
    /// ```
    pub fn store<T: Store<S>>(&mut self, name: impl Into<String>, store: T) -> &mut Self {
        self.stores.push(Named {
            name: name.into(),
            kind: TypeId::of::<T>(),
            store: Rc::new(store),
        });
        self
    }
}

impl<S: 'static> Named<S> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl<S: 'static> Ctx<'_, S> {
    /// The store of this name and type: see [`App::store`].
    pub fn store<T: Store<S>>(&self, name: &str) -> Option<Rc<T>> {
        self.core.stores.find(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;
    use crate::sim::{Faults, SimNet};
    use std::cell::RefCell;

    type Log = Rc<RefCell<Vec<String>>>;

    struct Book {
        name: &'static str,
        log: Log,
    }

    struct Other;

    impl Store<()> for Book {
        fn start(self: Rc<Self>, cx: &mut Ctx<'_>) {
            let text = match cx.store::<Book>("book") {
                Some(found) if Rc::ptr_eq(&found, &self) => format!("{} begins", self.name),
                _ => format!("{} is not found", self.name),
            };
            self.log.borrow_mut().push(text);
        }
        fn stop(self: Rc<Self>, cx: &mut Ctx<'_>) {
            let is_found = cx
                .store::<Book>("book")
                .is_some_and(|found| Rc::ptr_eq(&found, &self));
            let text = format!("{} ends, {is_found}", self.name);
            self.log.borrow_mut().push(text);
        }
        fn is_same(&self, other: &Book) -> bool {
            self.name == other.name
        }
    }

    impl Store<()> for Other {
        fn start(self: Rc<Self>, _: &mut Ctx<'_>) {}
        fn stop(self: Rc<Self>, _: &mut Ctx<'_>) {}
        fn is_same(&self, _: &Other) -> bool {
            true
        }
    }

    fn app(names: &[&'static str], log: &Log) -> App {
        let mut app = App::new();
        for name in names {
            let log = log.clone();
            app.store("book", Book { name, log });
        }
        // Of another type: another one.
        app.store("book", Other);
        app
    }

    #[test]
    fn a_store_begins_is_found_stays_and_ends() {
        let log = Log::default();
        let net = SimNet::new(1, Faults::default());
        let mut server = Server::builder()
            .simulate(net, app(&["a"], &log), ())
            .unwrap();
        let turn = |server: &mut Server<(), SimNet>| {
            server.turn().unwrap();
            std::mem::take(&mut *log.borrow_mut())
        };
        assert_eq!(turn(&mut server), ["a begins"]);
        for (names, want) in [
            (vec!["a"], vec![]),
            (vec!["b"], vec!["b begins", "a ends, false"]),
            (vec![], vec!["b ends, false"]),
            (vec!["b"], vec!["b begins"]),
        ] {
            server.reload(Server::builder(), app(&names, &log)).unwrap();
            assert_eq!(turn(&mut server), want, "{names:?}");
        }
    }

    #[test]
    fn two_of_a_name_and_type_are_a_mistake() {
        let log = Log::default();
        let mut outer = app(&["a"], &log);
        outer.mount("/inner", app(&["b"], &log));
        let net = SimNet::new(1, Faults::default());
        let built = Server::builder().simulate(net, outer, ());
        let text = built.err().expect("a mistake").to_string();
        assert!(
            text.contains("store \"book\": there are two of this name and type"),
            "{text}"
        );
    }
}
