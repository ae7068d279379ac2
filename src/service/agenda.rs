//! Floor 4. When a service on links is to be looked at, and the one timer for that.
//!
//! What is due is a field of what it is about. Who sets such a field says so with [`Agenda::note`]; who calls it off, or puts
//! it off, does not: the timer then fires too early, its owner shows all it has, and what is still to come is noted anew. That is
//! one look at all per period of the shortest timeout, and for a question no more than a comparison.

use crate::{Ctx, Instant, TimerId};

#[derive(Default)]
pub(super) struct Agenda {
    /// Nothing is due before this.
    next: Option<Instant>,
    timer: Option<(Instant, TimerId)>,
}

impl Agenda {
    /// Something is due then.
    pub(super) fn note(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Sees to it that `look` is called when something is due; it begins with [`Agenda::due`].
    pub(super) fn arm<S: 'static>(
        &mut self,
        cx: &mut Ctx<'_, S>,
        look: impl FnOnce(&mut Ctx<'_, S>) + 'static,
    ) {
        let Some(next) = self.next else { return };
        if let Some((at, timer)) = self.timer {
            if at <= next {
                return;
            }
            cx.cancel(timer);
        }
        let timer = cx.after(next - cx.now(), look);
        self.timer = Some((next, timer));
    }

    /// Its timer has fired: of all there is, what is due, the earliest first. The rest is noted anew.
    pub(super) fn due(
        &mut self,
        now: Instant,
        all: impl Iterator<Item = (Instant, u64)>,
    ) -> Vec<u64> {
        *self = Agenda::default();
        let mut due = Vec::new();
        for (at, id) in all {
            match at <= now {
                true => due.push((at, id)),
                false => self.note(at),
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Nothing will be looked at.
    pub(super) fn cancel<S: 'static>(&mut self, cx: &mut Ctx<'_, S>) {
        if let Some((_, timer)) = self.timer.take() {
            cx.cancel(timer);
        }
        *self = Agenda::default();
    }
}
