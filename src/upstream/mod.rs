//! Floor 1: everything that decides about upstreams, as pure state with the clock as an argument. No socket in sight.

pub mod balance;
