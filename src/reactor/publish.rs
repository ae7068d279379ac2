//! Floor 3. What was published, on its way to its subscribers: so many a turn.

use super::Reactor;
use crate::app::ctx::Ctx;
use crate::app::publish::{Bus, Publication, Subscriber};
use crate::net::Net;
use std::rc::Rc;

impl<N: Net, S: 'static> Reactor<N, S> {
    /// Hands out what waits, within the turn's budgets; the rest is the next turn's. One by one, for a subscriber
    /// that is called may change who is subscribed.
    pub(super) fn deliver(&mut self) {
        if self.core.topics.waiting() == 0 {
            return;
        }
        for _ in 0..self.limits.deliveries_per_turn {
            // What subscribers ask for from here on would wait in memory: what is published waits instead.
            if self.commands_left == 0 {
                break;
            }
            let mut due = None;
            let to_one = &mut |to, publication: &Rc<Publication>| {
                due = Some((to, publication.clone()));
            };
            if self.core.topics.deliver(1, to_one) == 0 {
                break;
            }
            match due {
                Some((Subscriber::Socket(id), publication)) => {
                    self.deliver_to_socket(id, &publication);
                }
                Some((Subscriber::Call(slot, generation), publication)) => {
                    self.deliver_to_call(slot as usize, generation, &publication);
                }
                None => {}
            }
        }
        self.settle();
    }

    fn deliver_to_call(&mut self, slot: usize, generation: u32, publication: &Publication) {
        let listener = self.core.listeners.get_mut(slot);
        let Some(mut call) = listener
            .filter(|listener| listener.generation == generation)
            .and_then(|listener| listener.call.take())
        else {
            return;
        };
        let mut cx = cx!(self);
        self.watch.guarded(&self.net, "a subscriber", || {
            call(&mut cx, publication);
        });
        // It may have ended itself, and its slot may be somebody else's by now.
        if let Some(listener) = self.core.listeners.get_mut(slot)
            && listener.generation == generation
        {
            listener.call = Some(call);
        }
        self.settle();
    }

    pub(super) fn with_bus(&mut self, call: impl FnOnce(&mut dyn Bus<S>, &mut Ctx<'_, S>)) {
        let Some(bus) = &mut self.bus else { return };
        let mut cx = cx!(self);
        self.watch
            .guarded(&self.net, "the bus", || call(&mut **bus, &mut cx));
    }
}
