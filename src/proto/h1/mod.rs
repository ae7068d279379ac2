//! Floor 1. HTTP/1.1 (RFC 9112), both halves.
//!
//! ```text
//! head      bytes → a request's head, checked        body    bytes → pieces of a body, and back
//! response  bytes → an answer's head, checked        answer  status, fields, framing → bytes
//! server    the connection we accepted: what is due next
//! client    the connection we opened: what is due next
//! error     what is refused, and how the other side, the client or the log is told
//! ```

pub mod answer;
pub mod body;
pub mod client;
pub mod error;
pub mod head;
pub mod response;
pub mod server;

pub use error::{ClientError, Error};
