//! The config, as its user meets it: what `loopwright check` says to wrong ones and right ones, what
//! docs/config.md and the schema promise, and the other commands. All with the real binary.

mod commands;
mod docs;
mod mistakes;
mod proxy;
mod right;
mod schema;
mod support;
