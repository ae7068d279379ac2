#![forbid(unsafe_code)]
#![allow(missing_docs)]
#[doc(hidden)] pub mod base; #[doc(hidden)] pub mod proto; 
#[doc(hidden)] pub mod net; mod app; mod reactor;
pub use base::clock::Instant; pub use proto::h1::body::Trailers; pub use net::{Peer, mio::Listen};
pub use app::body::*; pub use app::ctx::{Ctx, TimerId, OffloadError}; pub use app::failure::{Failure, FailureKind, StatusError, Outcome};
pub use app::mailbox::{Handle, PostError}; pub use app::request::{Request, RequestId}; pub use app::response::{Response, Responder};
pub use app::routes::{App, Done, Route}; pub use app::settings::{Limits, Timeouts}; pub use reactor::{Builder, Reactor, Server};
pub mod sim { pub use crate::net::sim::{Client, Faults, SimNet}; }
pub mod service;
