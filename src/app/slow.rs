//! Floor 2. What becomes of a message for a client that takes less than it is sent: one set of words
//! for all that is pushed to clients.

/// What to do with a message when too much waits for its client already: for server-sent events more than
/// `limits.high_water`, for a WebSocket more than `limits.socket_output` or what its handshake says.
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
    /// The message is not sent. Right for chatter.
    DropNewest,
    /// The oldest that wait make room for it. Right for prices, positions, and all else of which only the
    /// latest counts. (Of events, `limits.high_water` more bytes may wait, or one message.)
    DropOldest,
    /// The client is sent no more, and that is the end (a WebSocket is closed with 1008). Right where a gap
    /// would be wrong: the client comes back and asks for what it has missed.
    #[default]
    Close,
    /// The sender is told, and decides. Events are sent all the same; past `limits.output` the connection is
    /// cut. A WebSocket is not sent the message, and its [`crate::Socket::missed`] is called with it.
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
