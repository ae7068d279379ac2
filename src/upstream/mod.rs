//! Floor 1. What decides about servers we ask: state with the clock as an argument, no socket in sight.

pub mod pool;
pub mod retry;
