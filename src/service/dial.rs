//! Floor 4. What services on links have in common: their settings, where the server is, what they share with their
//! connections, how bytes are handed on, what a client is told when there is no answer.

use crate::base::backoff::Backoff;
use crate::proto::address::Address;
use crate::{Bytes, Ctx, LinkHandle, StatusError, Target};
use std::cell::Cell;
use std::fmt::Display;
use std::net::{IpAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

/// A method for each setting, which sets the field of this name, of the settings themselves or of a part of them.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty $(, of $part:ident)?;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self$(.$part)?.$name = $name;
            self
        }
    )*};
}
pub(super) use setters;

/// Finds out where a server is, on another thread if its name is to be resolved; else `then` is called at once.
pub(super) fn find<S: 'static>(
    cx: &mut Ctx<'_, S>,
    address: Address,
    then: impl FnOnce(&mut Ctx<'_, S>, Result<Vec<Target>, String>) + 'static,
) {
    let (host, port) = match address {
        Address::Unix(path) => return then(cx, Ok(vec![Target::Unix(path)])),
        Address::Tcp(host, port) => (host, port),
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return then(cx, Ok(vec![Target::Inet((ip, port).into())]));
    }
    let resolve = move || {
        let found = (host.as_str(), port).to_socket_addrs()?;
        Ok::<_, std::io::Error>(found.map(Target::Inet).collect::<Vec<_>>())
    };
    cx.offload(resolve, move |cx, found| {
        let found = match found {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        then(
            cx,
            found.map_err(|why| format!("its name is not found: {why}")),
        );
    });
}

/// Of what was found, the one for this attempt: each is for the next of its addresses.
pub(super) fn pick(found: Result<Vec<Target>, String>, attempt: usize) -> Result<Target, String> {
    let found = found?;
    let at = attempt % found.len().max(1);
    let target = found.into_iter().nth(at);
    target.ok_or_else(|| "its name has no address".to_string())
}

/// When to try again what has failed. One that has lasted a second was a good one: of a server that takes connections and
/// drops them at once, not of one that has been restarted.
pub(super) fn backoff(longest: Duration) -> Backoff {
    Backoff::new(Duration::from_millis(100), longest, Duration::from_secs(1))
}

/// What a service and its connections share: taken out while it is used, so that it cannot be entered twice.
pub(super) struct Shared<T>(Rc<Cell<Option<Box<T>>>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T> Shared<T> {
    pub(super) fn new(hub: T) -> Shared<T> {
        Shared(Rc::new(Cell::new(Some(Box::new(hub)))))
    }

    /// `None`: it is in use further up the stack, or was when a callback panicked.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut hub = self.0.take()?;
        let result = f(&mut hub);
        self.0.set(Some(hub));
        Some(result)
    }
}

/// A callback that is called again and again. While it runs it is out of its place; and so that one panic is one call's, it
/// comes back after that, too.
pub(super) struct Place<T>(Rc<Slot<T>>);

struct Slot<T> {
    item: Cell<Option<T>>,
    is_over: Cell<bool>,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        Place(self.0.clone())
    }
}

impl<T> Place<T> {
    pub(super) fn new(item: T) -> Place<T> {
        let (item, is_over) = (Cell::new(Some(item)), Cell::new(false));
        Place(Rc::new(Slot { item, is_over }))
    }

    /// Nothing happens if it is over, or is out already.
    pub(super) fn with(&self, f: impl FnOnce(&mut T)) {
        let item = self.0.item.take();
        let mut out = Out {
            item,
            slot: &self.0,
        };
        if let Some(item) = &mut out.item {
            f(item);
        }
    }

    /// It is called no more. It comes back, unless it runs at this moment.
    pub(super) fn end(&self) -> Option<T> {
        self.0.is_over.set(true);
        self.0.item.take()
    }
}

struct Out<'a, T> {
    item: Option<T>,
    slot: &'a Slot<T>,
}

impl<T> Drop for Out<'_, T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take()
            && !self.slot.is_over.get()
        {
            self.slot.item.set(Some(item));
        }
    }
}

/// Moves what waits on to a connection, as much as it is to hold. Returns how much that was.
pub(super) fn hand_on(handle: &LinkHandle, waiting: &[u8]) -> usize {
    const PIECE: usize = 16 * 1024;
    let mut done = 0;
    for piece in waiting.chunks(PIECE) {
        if handle.is_full() {
            break;
        }
        handle.write(Bytes::copy_from_slice(piece));
        done += piece.len();
    }
    done
}

/// Why the server asked has no answer, as a gateway tells it: nothing of that server, which is for the log.
pub(super) fn no_answer(what: &str, status: u16, why: impl Display) -> StatusError {
    log::error!("{why}");
    let has = match status {
        503 => "is not available",
        504 => "took too long",
        _ => "has refused",
    };
    StatusError::new(status, format!("the {what} {has}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_cannot_be_entered_twice() {
        let shared = Shared::new(1);
        let again = shared.clone();
        assert_eq!(shared.with(|_| again.with(|_| ())), Some(None));
        assert_eq!(again.with(|n| *n), Some(1));
    }

    #[test]
    fn a_place_is_taken_back_and_may_end() {
        let calls = Cell::new(0);
        let place = Place::new(());
        let inner = place.clone();
        place.with(|()| inner.with(|()| calls.set(100)));
        place.with(|()| calls.set(calls.get() + 1));
        let panics = std::panic::AssertUnwindSafe(|| place.with(|()| panic!("as it is to be")));
        assert!(std::panic::catch_unwind(panics).is_err());
        place.with(|()| calls.set(calls.get() + 1));
        place.with(|()| assert_eq!(inner.end(), None));
        place.with(|()| calls.set(100));
        assert_eq!(calls.get(), 2);
        assert_eq!(Place::new(1).end(), Some(1));
    }

    #[test]
    fn no_answer_says_nothing_of_the_server() {
        for (status, text) in [
            (503, "the store is not available"),
            (504, "the store took too long"),
            (500, "the store has refused"),
        ] {
            let error = no_answer("store", status, "10.0.0.7: no such table");
            assert_eq!(
                (error.status().as_u16(), &error.to_string()[..]),
                (status, text)
            );
        }
    }
}
