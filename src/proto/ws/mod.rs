//! Floor 1. WebSocket (RFC 6455) and its compression (RFC 7692), for either end.
//!
//! ```text
//! handshake  a request's head → 101 or a refusal; the client's request and its check
//! extension  permessage-deflate: what is offered, what is agreed on
//! frame      headers, masking                  utf8     text that arrives in pieces
//! session    the states of a connection        receive  payloads → messages
//! send       messages → bytes                  deflate  compressors
//! error      what is wrong, and the code to close with
//! ```

pub mod deflate;
pub mod error;
pub mod extension;
pub mod frame;
pub mod handshake;
mod receive;
pub mod send;
pub mod session;
mod utf8;

pub use error::Error;
