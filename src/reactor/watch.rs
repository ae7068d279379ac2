//! Floor 3. An embedder's code is called here, under watch: its panic is logged and is nobody else's
//! problem; and if it keeps the loop for too long, the log says what it was and who waited.
//!
//! Both looks at the clock are at the coarse one, a few nanoseconds each: a stall is much longer than
//! its ticks.

use crate::app::failure::panic_text;
use crate::base::clock::Instant;
use crate::net::Net;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Watch {
    /// `timeouts.stall`; zero: nobody looks.
    pub(super) threshold: Duration,
    /// The longest of this turn.
    worst: Option<Stall>,
}

/// Code that kept the loop.
pub(super) struct Stall {
    pub(super) what: String,
    pub(super) took: Duration,
}

impl Watch {
    pub(super) fn new(threshold: Duration) -> Watch {
        Watch {
            threshold,
            worst: None,
        }
    }

    /// Calls an embedder's code; `None` if it panicked.
    pub(super) fn guarded<N: Net, R>(
        &mut self,
        net: &N,
        what: &str,
        f: impl FnOnce() -> R,
    ) -> Option<R> {
        let begun = net.coarse_now();
        let result = catch_unwind(AssertUnwindSafe(f));
        self.over(net, begun, || what.to_string());
        match result {
            Ok(result) => Some(result),
            Err(payload) => {
                log::error!("{what} panicked: {}", panic_text(payload));
                None
            }
        }
    }

    /// Code that began at `begun` has returned.
    pub(super) fn over<N: Net>(&mut self, net: &N, begun: Instant, what: impl FnOnce() -> String) {
        let took = net.coarse_now() - begun;
        if took >= self.threshold && !self.threshold.is_zero() {
            self.note(took, what());
        }
    }

    #[cold]
    fn note(&mut self, took: Duration, what: String) {
        if self.worst.as_ref().is_none_or(|worst| took > worst.took) {
            self.worst = Some(Stall { what, took });
        }
    }

    /// The worst of the turn that is over.
    pub(super) fn take(&mut self) -> Option<Stall> {
        self.worst.take()
    }
}
