//! A real server on loopback, asked by the clients people really use: curl, Python's http.client
//! and urllib, Node's http and fetch; and by bare sockets, for what none of those would send.
//!
//! Every test has a server of its own on a free port. A client that is not installed is a failure.

mod curl;
mod embed;
mod errors;
mod events;
mod flow;
mod node;
mod python;
mod site;
mod stop;
mod support;
mod welcome;
mod wire;
