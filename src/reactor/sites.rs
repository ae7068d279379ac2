//! Floor 3. The site that is served, and those it has replaced.
//!
//! A request keeps the site it began with: its hooks, its pages, its name in the log. So a replaced
//! site stays until the last exchange that began with it is over.
//! Invariant: a retired site has open exchanges; it goes at the end of the turn in which it has none.

use crate::app::site::Site;

pub(super) struct Sites<S> {
    pub(super) current: Site<S>,
    number: u32,
    retired: Vec<Retired<S>>,
}

struct Retired<S> {
    number: u32,
    site: Site<S>,
    open: usize,
}

impl<S> Sites<S> {
    pub(super) fn new(site: Site<S>) -> Sites<S> {
        Sites {
            current: site,
            number: 0,
            retired: Vec::new(),
        }
    }

    /// What names the current site in a [`super::exchange::Start`].
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The site that a request began with.
    pub(super) fn of(&mut self, number: u32) -> Option<&mut Site<S>> {
        if number == self.number {
            return Some(&mut self.current);
        }
        self.retired
            .iter_mut()
            .find(|retired| retired.number == number)
            .map(|retired| &mut retired.site)
    }

    /// From now on `site` is served. `open` exchanges have begun with the one before.
    pub(super) fn replace(&mut self, site: Site<S>, open: usize) {
        let before = std::mem::replace(&mut self.current, site);
        if open > 0 {
            self.retired.push(Retired {
                number: self.number,
                site: before,
                open,
            });
        }
        self.number = self.number.wrapping_add(1);
    }

    /// An exchange has been opened, or closed, that began with this site.
    pub(super) fn count(&mut self, number: u32, change: isize) {
        if number == self.number {
            return;
        }
        let of = |retired: &&mut Retired<S>| retired.number == number;
        if let Some(retired) = self.retired.iter_mut().find(of) {
            retired.open = retired.open.saturating_add_signed(change);
        }
    }

    /// At the end of a turn: nobody is in the middle of a report any more.
    pub(super) fn reap(&mut self) {
        self.retired.retain(|retired| retired.open > 0);
    }
}
