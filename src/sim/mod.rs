//! Floor 4. Your App in a world made of a seed: virtual time, a network that does what networks do, and
//! clients that do what clients do. What fails is shrunk to a few steps, and can be replayed.
//!
//! ```text
//! seed ─► World (limits, timeouts, faults) ─► Schedule ─► turns, clients acting between them ─► checks
//!                                                │                                               │
//!                                                └────────── shrink, while it fails ◄────────────┘
//! ```
//! [`SimNet`] is the network alone, for tests that say themselves what happens; [`Simulation`] draws what
//! happens. `docs/simulation.md` is the guide.
//!
//! Invariant: nothing here draws from anything but the seed, so a run repeats byte for byte.

pub use crate::net::sim::{Client, Faults, SimNet};

#[cfg(feature = "sim")]
mod check;
#[cfg(feature = "sim")]
mod client;
#[cfg(feature = "sim")]
mod reader;
#[cfg(feature = "sim")]
mod reason;
#[cfg(feature = "sim")]
mod request;
#[cfg(feature = "sim")]
mod run;
#[cfg(feature = "sim")]
mod schedule;
#[cfg(feature = "sim")]
mod shrink;
#[cfg(feature = "sim")]
mod simulation;
#[cfg(feature = "sim")]
mod trace;

#[cfg(feature = "sim")]
pub use client::{Ended, Seen};
#[cfg(feature = "sim")]
pub use reader::{Answer, Asked};
#[cfg(feature = "sim")]
pub use request::{Request, Template, noise};
#[cfg(feature = "sim")]
pub use run::Outcome;
#[cfg(feature = "sim")]
pub use schedule::{Ask, Operation, Schedule, Step};
#[cfg(feature = "sim")]
pub use simulation::{Failure, Simulation, World};
