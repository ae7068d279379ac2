//! Floor 2. Every bound of a server, with its default. None can be left out, each can be set.

use super::mistake::{Mistake, Place};
use crate::proto::h1::head::{HeadLimits, MAX_FIELDS, MAX_HEAD};
use crate::proto::h1::server::{Bounds, Waits};
use std::time::Duration;

/// How much of anything there may be. Sizes in bytes.
///
/// ```
/// use loopwright::Limits;
/// let limits = Limits { body: 16 << 20, ..Limits::default() };
/// assert_eq!(limits.head, 16 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and fields of one request; 431 past it. At most 1 MiB. Default 16 KiB.
    pub head: usize,
    /// The request target alone; 414 past it. Default 8 KiB.
    pub target: usize,
    /// Field lines of one request; 431 past it. At most 128. Default 100.
    pub fields: usize,
    /// A request's body, unless its route sets another `body_limit`; 413 past it. Default 1 MiB.
    pub body: u64,
    /// How much of a body nobody wants is read and dropped so that the connection can be kept; past
    /// it the connection closes. Default 256 KiB.
    pub discard: u64,
    /// Output of one connection past which its producers are told to wait. Default 64 KiB.
    pub high_water: usize,
    /// Output of one connection past which a producer that did not wait has its answer broken off, and the
    /// connection closed behind what was answered before. A body that is piped comes in gulps of up to 128 KiB:
    /// leave room for one. Default 16 MiB.
    pub output: usize,
    /// A WebSocket message, unless its socket sets another limit; closed with 1009 past it. Default 1 MiB.
    pub message: usize,
    /// Messages that wait for one WebSocket client, in bytes, and some 40 more for each; past it its
    /// [`crate::Slow`] policy decides. Default 1 MiB.
    pub socket_output: usize,
    /// WebSocket messages shorter than this are sent uncompressed, whatever was agreed on. 0: all are
    /// compressed, even where that makes them longer. Default 256 B.
    pub compress_from: usize,
    /// Topics and patterns that one subscriber may be subscribed to. Default 256.
    pub subscriptions: usize,
    /// Publications that wait to be delivered. Default 65,536.
    pub publications: usize,
    /// Their bytes. Default 64 MiB.
    pub published: usize,
    /// Publications handed to subscribers in one turn. Default 1,024.
    pub deliveries_per_turn: usize,
    /// Output of one connection that the kernel holds and has not sent (`TCP_NOTSENT_LOWAT`): what a
    /// client that hardly reads costs, beside `high_water`. Default 512 KiB.
    pub unsent: usize,
    /// Open connections; past it accepting pauses. Lowered to what the file limit allows, less a
    /// reserve of 64. Default 65,536.
    pub connections: usize,
    /// Open connections from one IP address (IPv6: from one /64); past it they are answered 503 and
    /// closed. Default 65,536: no other limit than `connections`.
    pub connections_per_address: usize,
    /// Connections accepted from one listener in one turn. Default 64.
    pub accepts_per_turn: usize,
    /// Reads of one connection in one turn, of 128 KiB each. Default 4.
    pub reads_per_turn: usize,
    /// Requests of one connection answered in one turn. Default 256.
    pub requests_per_turn: usize,
    /// Bytes written to one connection in one turn. Default 256 KiB.
    pub writes_per_turn: usize,
    /// Commands of deferred answers settled, and timers called, in one turn: so many before, and so
    /// many while connections are served. So many tasks are polled, each once. Default 4,096.
    pub commands_per_turn: usize,
    /// Closures posted from other threads that may wait. Default 65,536.
    pub posts: usize,
    /// Tasks that run at once ([`crate::Ctx::spawn`], [`crate::asynchronous`]); past it spawning fails, and
    /// requests whose handler would be one are answered 503. Default 65,536.
    pub tasks: usize,
    /// Threads for [`crate::Ctx::offload`]. Default 4.
    pub offload_threads: usize,
    /// Pieces of offloaded work that may wait for a thread. Default 1,024.
    pub offload_queue: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head: 16 * 1024,
            target: 8 * 1024,
            fields: 100,
            body: 1 << 20,
            discard: 256 * 1024,
            high_water: 64 * 1024,
            output: 16 << 20,
            message: 1 << 20,
            socket_output: 1 << 20,
            compress_from: 256,
            subscriptions: 256,
            publications: 65_536,
            published: 64 << 20,
            deliveries_per_turn: 1024,
            unsent: 512 * 1024,
            connections: 65_536,
            connections_per_address: 65_536,
            accepts_per_turn: 64,
            reads_per_turn: 4,
            requests_per_turn: 256,
            writes_per_turn: 256 * 1024,
            commands_per_turn: 4096,
            posts: 65_536,
            tasks: 65_536,
            offload_threads: 4,
            offload_queue: 1024,
        }
    }
}

/// How long anybody may take.
///
/// ```
/// use loopwright::Timeouts;
/// use std::time::Duration;
/// let timeouts = Timeouts { idle: Duration::from_secs(20), ..Timeouts::default() };
/// assert_eq!(timeouts.head, Duration::from_secs(10));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a whole request head, from its first byte (from the accept, for the first request); then
    /// 408 and close, or just close if not a byte came. Default 10 s.
    pub head: Duration,
    /// Between two pieces of a request's body; then 408 and close. Default 30 s.
    pub body: Duration,
    /// The least rate of a request's body, in bytes per second; below it 408 and close. The same holds for a
    /// WebSocket message that has begun to arrive; below it, it is closed with 1008. Default 240.
    pub body_rate: u64,
    /// How long a body, or a message, is given before its rate counts. Default 10 s.
    pub body_grace: Duration,
    /// For a client, or a side of a tunnel, to take some of what waits for it; then close. Whether it has is
    /// looked at when that has passed, so one that stops in between may stay for up to twice that. Default 30 s.
    pub write: Duration,
    /// Between two requests on a kept connection; then close. Default 75 s.
    pub idle: Duration,
    /// For anything from a WebSocket client; then it is asked with a ping. Default 60 s.
    pub socket_idle: Duration,
    /// For the answer to that; then the socket is closed with 1001. Default 30 s.
    pub pong: Duration,
    /// Between two comments in a stream of server-sent events, which keep proxies from taking it for dead; 0
    /// for none. Default 15 s.
    pub heartbeat: Duration,
    /// For a connection that the server makes. Default 3 s.
    pub connect: Duration,
    /// For open exchanges when the server is asked to stop; then they are cut. Default 30 s.
    pub drain: Duration,
    /// For connections that are idle when the server is asked to stop: a request already on its
    /// way is still answered. Default 1 s.
    pub drain_idle: Duration,
    /// For a client to close its side after we closed ours, so that it can read our last answer
    /// even while it still sends. Default 5 s.
    pub linger: Duration,
    /// How long a callback may keep the loop before the log names it, with how many connections waited; 0
    /// for never. Default 100 ms.
    pub stall: Duration,
    /// For a silent peer, until the kernel asks whether it is still there (`SO_KEEPALIVE`; whole seconds,
    /// three times, 10 s apart, then the connection is broken): for those that vanish in the middle of a long
    /// answer. 0 for never. Default 60 s.
    pub tcp_keepalive: Duration,
    /// How long accepting pauses when the process is out of descriptors or memory, or may not accept. Default 500 ms.
    pub accept_pause: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            body_rate: 240,
            body_grace: Duration::from_secs(10),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            socket_idle: Duration::from_secs(60),
            pong: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            connect: Duration::from_secs(3),
            drain: Duration::from_secs(30),
            drain_idle: Duration::from_secs(1),
            linger: Duration::from_secs(5),
            stall: Duration::from_millis(100),
            tcp_keepalive: Duration::from_secs(60),
            accept_pause: Duration::from_millis(500),
        }
    }
}

/// A shorter head is none.
const MIN_HEAD: usize = 64;
/// A connection's number has 32 bits.
const MAX_CONNECTIONS: usize = u32::MAX as usize;

/// What the HTTP/1 machine needs of both.
pub(crate) fn bounds(limits: &Limits, timeouts: &Timeouts) -> Bounds {
    Bounds {
        head: HeadLimits {
            head: limits.head.min(MAX_HEAD),
            target: limits.target,
            fields: limits.fields.min(MAX_FIELDS),
        },
        discard: limits.discard,
        waits: Waits {
            head: timeouts.head,
            body: timeouts.body,
            body_rate: timeouts.body_rate,
            body_grace: timeouts.body_grace,
            idle: timeouts.idle,
        },
    }
}

impl Timeouts {
    /// What cannot be, in words.
    pub(crate) fn mistakes(&self) -> Vec<Mistake> {
        let waits = [
            ("head", self.head, "nobody is that fast"),
            ("body", self.body, "nobody is that fast"),
            ("write", self.write, "nobody is that fast"),
            ("idle", self.idle, "nobody is that fast"),
            ("socket_idle", self.socket_idle, "nobody is that fast"),
            ("pong", self.pong, "nobody is that fast"),
            ("connect", self.connect, "nobody is that fast"),
            ("accept_pause", self.accept_pause, "the loop would spin"),
        ];
        let none = waits.iter().filter(|(_, wait, _)| wait.is_zero());
        none.map(|(name, _, why)| {
            let setting = format!("timeouts.{name}");
            let text = format!("{setting} = 0: want more: {why}");
            Mistake::new(Place::Setting(setting), text)
        })
        .collect()
    }
}

impl Limits {
    /// What cannot be, in words.
    pub(crate) fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut refuse = |name: &str, value: usize, want: &str| {
            let setting = format!("limits.{name}");
            let text = format!("{setting} = {value}: want {want}");
            mistakes.push(Mistake::new(Place::Setting(setting), text));
        };
        if !(MIN_HEAD..=MAX_HEAD).contains(&self.head) {
            refuse("head", self.head, "64 B to 1 MiB");
        } else if self.target == 0 || self.target > self.head {
            refuse(
                "target",
                self.target,
                "1 B or more, and no more than limits.head",
            );
        }
        if !(1..=MAX_FIELDS).contains(&self.fields) {
            refuse("fields", self.fields, &format!("1 to {MAX_FIELDS}"));
        }
        if self.high_water == 0 {
            refuse("high_water", self.high_water, "1 B or more");
        } else if self.output < self.high_water {
            refuse("output", self.output, "no less than limits.high_water");
        }
        if self.socket_output < self.high_water {
            let want = "no less than limits.high_water";
            refuse("socket_output", self.socket_output, want);
        }
        if self.message == 0 {
            refuse("message", 0, "1 B or more");
        }
        if !(1..MAX_CONNECTIONS).contains(&self.connections) {
            refuse("connections", self.connections, "1 to 4294967294");
        }
        if self.writes_per_turn == 0 {
            refuse("writes_per_turn", 0, "1 B or more");
        }
        for (name, value) in [
            ("connections_per_address", self.connections_per_address),
            ("unsent", self.unsent),
            ("subscriptions", self.subscriptions),
            ("deliveries_per_turn", self.deliveries_per_turn),
            ("accepts_per_turn", self.accepts_per_turn),
            ("reads_per_turn", self.reads_per_turn),
            ("requests_per_turn", self.requests_per_turn),
            ("commands_per_turn", self.commands_per_turn),
            ("offload_threads", self.offload_threads),
        ] {
            if value == 0 {
                refuse(name, value, "1 or more");
            }
        }
        mistakes
    }
}
