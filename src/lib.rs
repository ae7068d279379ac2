#![forbid(unsafe_code)]
#![allow(missing_docs)]
pub mod base; pub mod proto; pub mod net;
pub use base::clock::Instant; pub use proto::h1::body::Trailers; pub use net::{Peer, mio::Listen};
