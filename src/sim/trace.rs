//! Floor 4. What happened in a run, line by line, if anybody wants to know.

use crate::net::sim::SimNet;

/// Lines with the time, in microseconds; or nothing.
pub(super) struct Trace(pub(super) Option<String>);

impl Trace {
    pub(super) fn add(&mut self, net: &SimNet, what: impl FnOnce() -> String) {
        if let Some(text) = &mut self.0 {
            *text += &format!("{:>10} {}\n", net.now().as_micros(), what());
        }
    }
}
