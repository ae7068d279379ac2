//! Floor 1: servers that requests are passed on to. What decides is here, as pure state with the clock an argument;
//! siblings do not import each other.

pub mod balance;
pub mod circuit;
pub mod expect;
pub mod eyeballs;
pub mod health;
pub mod names;
pub mod pool;
pub mod retry;
#[cfg(feature = "sticky")]
pub mod sticky;
