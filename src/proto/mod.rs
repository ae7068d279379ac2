//! Floor 1: protocols as state machines. Bytes in, events out, the clock an argument, no socket in
//! sight. Everything here can be tested with a table and fed one byte at a time.

pub mod address;
pub mod bus;
pub mod forwarded;
pub mod h1;
pub mod http;
#[cfg(feature = "postgres")]
pub mod pg;
pub mod proxy_protocol;
pub mod redis;
pub mod resp;
pub mod ws;
