//! Floor 2: what an embedder sees. Routes and callbacks on one side, the loop's promises on the
//! other; nothing here knows a socket, and services are written on nothing else.

pub(crate) mod awaits;
pub(crate) mod body;
pub(crate) mod ctx;
pub(crate) mod events;
pub(crate) mod failure;
pub(crate) mod fetch;
pub(crate) mod group;
pub(crate) mod handshake;
pub(crate) mod link;
pub(crate) mod lookups;
pub(crate) mod mailbox;
pub(crate) mod mistake;
pub(crate) mod named;
pub(crate) mod outbox;
pub(crate) mod owned;
pub(crate) mod publish;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod routes;
pub(crate) mod settings;
pub(crate) mod site;
pub(crate) mod slow;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod task;
pub(crate) mod upstream;
pub(crate) mod websocket;
