//! Floor 0: what everything else stands on. Knows no protocol, no socket and no callback.

pub mod backlog;
pub mod backoff;
pub mod clock;
pub mod id;
pub mod lookup;
pub mod topics;
pub mod wheel;
