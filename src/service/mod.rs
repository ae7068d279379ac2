//! Floor 4: what a server offers besides your callbacks, written only on what your callbacks see.
//! That it can be is the proof that the surface is good.

pub mod access_log;
mod agenda;
pub mod bus;
pub mod channel;
mod dial;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "postgres")]
pub mod pg;
pub mod proxy;
#[cfg(feature = "postgres")]
pub mod query;
pub mod redis;
pub mod respond;
pub mod welcome;
