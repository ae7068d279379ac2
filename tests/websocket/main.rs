//! WebSockets on the loop: real servers on loopback, and a client that frames by hand, so that it can send
//! what no client would, and sees each frame that comes.

mod clients;
mod ends;
mod handshake;
mod limits;
mod link;
mod messages;
mod peer;
mod programs;
mod slow;
#[allow(dead_code)] // what the other tests need of it
#[path = "../clients/support.rs"]
mod support;
mod topics;
