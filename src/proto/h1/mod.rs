//! Floor 1. HTTP/1.1 (RFC 9112), the server's half.
//!
//! ```text
//! head    bytes → a request's head, checked          body    bytes → pieces of a body, and back
//! answer  status, fields, framing → bytes            server  the connection: what is due next
//! error   what is refused, and with which status
//! ```

pub mod answer;
pub mod body;
pub mod error;
pub mod head;
pub mod server;

pub use error::Error;
