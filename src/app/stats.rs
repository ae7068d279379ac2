//! Floor 2. What the loop has done so far: counted once a turn, read by whoever wants to show it.

use std::time::Duration;

/// Counters and gauges of one loop, since it was made; from [`crate::Ctx::stats`] and
/// [`crate::Reactor::stats`]. As of the beginning of the present turn, but for
/// requests and publications.
///
/// ```
/// use loopwright::App;
/// let mut app: App = App::new();
/// app.get("/load", |cx, _, res| {
///     let stats = cx.stats();
///     let busy = stats.worked.as_secs_f64() / (stats.worked + stats.waited).as_secs_f64();
///     res.text(format!("{:.0} % busy, {} connections", busy * 100.0, stats.connections));
/// });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LoopStats {
    /// Turns begun.
    pub turns: u64,
    /// Readiness events, of all turns.
    pub events: u64,
    /// Time spent waiting for something to happen.
    pub waited: Duration,
    /// Time spent on everything else, your callbacks included.
    pub worked: Duration,
    /// Connections accepted.
    pub accepted: u64,
    /// Requests dispatched.
    pub requests: u64,
    /// Publications accepted, subscribers or not.
    pub publications: u64,
    /// Connections open.
    pub connections: usize,
    /// Exchanges whose answer is open from one turn to the next.
    pub open_exchanges: usize,
    /// Timers that run: deadlines of connections, and yours.
    pub timers: usize,
    /// Tasks that run.
    pub tasks: usize,
}
