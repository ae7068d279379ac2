//! A web server built around one event loop, to run, to embed and to read.
//!
//! ```no_run
//! use loopwright::{App, Server};
//!
//! fn main() -> std::io::Result<()> {
//!     let mut app = App::new();
//!     app.get("/", |_, _, res| res.text("Hello, World!"));
//!     Server::bind("127.0.0.1:8080", app, ())?.run()
//! }
//! ```
//!
//! One thread, one poll, one slab of connections. Bytes come in, a state machine turns them into
//! events, an event calls a registered callback, and what it answers goes out through a non-blocking
//! buffer. There is no runtime beside it and no unsafe code. Handlers answer at once ([`Response`]), later
//! ([`Responder`]), or piece by piece ([`BodyWriter`]); uploads arrive whole or as they come
//! ([`Incoming`]), or as a future ([`asynchronous`]); the loop itself is on loan to every callback ([`Ctx`]). Each bound has a default
//! ([`Limits`], [`Timeouts`]). The same server runs in a simulated world ([`sim`]), where a seed
//! decides what the network does.
//!
//! # Features
//! `cli` the binary · `config` [`config`], for TOML files · `files` [`service::files`] · `json` [`Response::json`], [`Request::json`] ·
//! `cookies` [`Request::cookies`], [`Response::cookie`] · `sim` [`sim::Simulation`] ·
//! `deflate` compressed WebSocket messages · `dns` names looked up by ourselves · `sticky` [`upstream::sticky`] · `postgres` [`service::pg`]. All are on by default; with `default-features = false` the core is left.
//!
//! # To read it
//! A file imports only from floors below its own; every file says which that is.
//!
//! ```text
//! 0 base      ids, clock, timer wheel, backlog
//! 1 proto     HTTP/1.1, WebSocket: bytes in, events out         net       sockets and the clock: mio, or a simulation
//!   upstream  servers behind this one: which, whether, when again
//! 2 app       what an embedder sees
//! 3 reactor   the loop
//! 4 service   files, fixed answers, access log, welcome site: written on `app` alone
//!   sim       schedules, clients and checks for Apps in the simulation
//! 5 config    `loopwright.toml` → Builder and App
//! 6 process   workers, signals, reload, logs          main.rs   the binary
//! ```
//! A request visits `Reactor::turn` → `run_connection` → `h1::server::Server::poll_event` → `on_request` →
//! `Router::find` → your callback → `Response::text` → `flush`.

#![forbid(unsafe_code)]

mod app;
#[doc(hidden)]
pub mod base;
#[cfg(feature = "config")]
pub mod config;
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod net;
#[cfg(feature = "cli")]
pub mod process;
#[doc(hidden)]
pub mod proto;
mod reactor;
pub mod service;
pub mod sim;
#[doc(hidden)]
pub mod upstream;

pub use app::awaits::{AsyncSocket, Chunks, Elapsed, asynchronous_socket};
pub use app::body::Body;
pub use app::ctx::{AbortId, Ctx, Later, OffloadError, TimerId};
pub use app::events::{Encoded, Event, Events, Replay};
pub use app::failure::{Failure, FailureKind, Outcome, StatusError};
pub use app::fetch::{Fetch, FetchError, FetchHandle, Fetched, Timings};
pub use app::handshake::{Compression, Handshake};
pub use app::link::{Link, LinkHandle};
pub use app::lookups::Lookups;
pub use app::mailbox::{Handle, PostError};
pub use app::owned::{OwnedFetched, OwnedMessage, OwnedRequest};
pub use app::publish::{Bus, Publication, Subscribes, Subscription, TopicError};
pub use app::request::Request;
pub use app::response::{Responder, Response};
pub use app::routes::{App, Done, Route};
pub use app::settings::{Limits, Timeouts};
pub use app::slow::{Sent, Slow};
pub use app::stats::LoopStats;
pub use app::status::{ServerStatus, UpstreamStatus};
pub use app::store::Store;
pub use app::stream::{Aborted, BodyWriter, Demand, Incoming, Open, Resume};
pub use app::task::{
    Call, Resolver, SpawnError, Task, TaskError, TaskHandle, asynchronous, asynchronous_stream,
};
pub use app::upstream::{
    Backend, Introduction, Retries, Upstream, UpstreamLimits, UpstreamTimeouts,
};
pub use app::websocket::{Closed, Fragment, Message, Socket, SocketHandle, WebSocket};
pub use base::backlog::FileSlice;
pub use base::clock::Instant;
pub use base::id::RequestId;
pub use net::mio::Listen;
pub use net::{Peer, Target};
pub use proto::forwarded::{Trusted, TrustedError};
pub use proto::h1::body::Trailers;
pub use proto::http::Fields;
pub use reactor::{Builder, Reactor, Server};
pub use upstream::balance::Policy as Balance;
pub use upstream::circuit::Counts as CircuitLimits;
pub use upstream::health::{Settings as HealthSettings, State as HealthState};
pub use upstream::pool::{Bounds as PoolLimits, Counters as PoolCounters, QueueCounters};

pub use bytes::Bytes;
#[cfg(feature = "cookies")]
pub use cookie::Cookie;
pub use http::{Method, StatusCode};

/// The router over `routes` patterns, for the benchmark of its look-up alone.
#[doc(hidden)]
pub fn bench_router(routes: usize) -> impl Fn(&str) -> bool {
    app::router::bench(routes)
}

/// Has `run` call an `after` callback as often as it likes, for the request in `head`: for its benchmark.
#[doc(hidden)]
pub fn bench_after(
    head: &[u8],
    after: impl FnMut(&mut Ctx<'_>, &Done<'_>),
    run: impl FnOnce(&mut dyn FnMut()),
) {
    call_after(head, None, after, run);
}

/// Calls it once, for a request that an upstream was asked for.
#[cfg(test)]
fn after_upstream(head: &[u8], timings: &Timings, after: impl FnMut(&mut Ctx<'_>, &Done<'_>)) {
    call_after(head, Some(timings), after, |call| call());
}

fn call_after(
    head: &[u8],
    upstream: Option<&Timings>,
    mut after: impl FnMut(&mut Ctx<'_>, &Done<'_>),
    run: impl FnOnce(&mut dyn FnMut()),
) {
    let mailbox = app::mailbox::Mailbox::new(std::sync::Arc::new(|| ()), 1);
    let mut core = app::ctx::Core::new(std::sync::Arc::new(mailbox), 0);
    let (mut slots, limits) = (proto::h1::head::slots(), proto::h1::head::HeadLimits::NONE);
    let Ok(Some(head)) = proto::h1::head::read(head, &mut 0, true, &mut slots, &limits) else {
        return;
    };
    let done = Done {
        head: &head,
        route: "/plaintext",
        status: 200,
        body_bytes: 13,
        elapsed: std::time::Duration::from_micros(87),
        waited: std::time::Duration::from_micros(12),
        remote: Peer::Inet(([192, 0, 2, 17], 4711).into()),
        request_id: RequestId(0x1234_5678_9abc_def0),
        aborted: false,
        upstream,
    };
    run(&mut || {
        let (state, core) = (&mut (), &mut core);
        after(&mut Ctx { state, core }, &done);
    });
}

/// The examples of the guides run as tests.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/async.md")]
    struct Async;
    #[doc = include_str!("../docs/bus.md")]
    struct Bus;
    #[cfg(feature = "postgres")]
    #[doc = include_str!("../docs/databases.md")]
    struct Databases;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
    #[doc = include_str!("../docs/logging.md")]
    struct Logging;
    #[doc = include_str!("../docs/realtime.md")]
    struct Realtime;
    #[doc = include_str!("../docs/redis.md")]
    struct Redis;
    #[cfg(feature = "sim")]
    #[doc = include_str!("../docs/simulation.md")]
    struct Simulation;
}
