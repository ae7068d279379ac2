//! Floor 2. What becomes of a message for a client that takes less than it is sent: one set of words
//! for all that is pushed to clients.

/// What to do with a message when more than `limits.high_water` waits for its client already.
///
/// ```
/// use loopwright::{App, Events, Slow};
/// let mut app = App::<Vec<Events>>::new();
/// app.get("/prices", |cx, _, res| {
///     // Old prices are worth nothing.
///     let events = res.events(cx).slow(Slow::DropOldest);
///     cx.state.push(events);
/// });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Slow {
    /// The message is not sent.
    DropNewest,
    /// It waits, and the oldest that wait make room for it: `limits.high_water` more bytes
    /// may wait, or one message.
    DropOldest,
    /// The client is sent no more: what waits goes out, and that is the end.
    #[default]
    Close,
    /// It is sent all the same, and the sender is told. Past `limits.output` the connection is cut.
    Tell,
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is on its way.
    Taken,
    /// It is on its way, and more than `limits.high_water` waits now: better to send no more for a while.
    Full,
    /// It was dropped, or made an older one be.
    Dropped,
    /// The client is gone, or was slow under [`Slow::Close`]: nothing that is sent arrives any more.
    Closed,
}
