//! A proxy between real parties: clients that people use and clients that attack in front of it, servers that people
//! use and servers that break every rule behind it. All over loopback, each on a port of its own.
//!
//! The proxy is the program, run with a config (`support::proxy`). `LOOPWRIGHT_STAND_IN=nginx` (or `haproxy`) runs that
//! instead, to see what others make of the same: `cargo test --test upstream`. They fail some rows: what
//! is asked here is more than what they promise.

mod behind;
mod faults;
mod faulty;
mod front;
mod message;
#[path = "../websocket/programs.rs"]
mod programs;
mod raw;
mod restart;
#[allow(dead_code)]
#[path = "../clients/site.rs"]
mod site;
mod smuggling;
#[allow(dead_code)]
#[path = "../clients/support.rs"]
mod support;
mod under_test;
mod websocket;
