//! Floor 4. A reverse proxy: what goes to a server behind, and what comes back.
//!
//! ```text
//! fields  which field lines pass, in both directions      path    which path the server is asked for
//! sticky  a client stays with its server                  proxy_status   what went wrong, for the client
//! ```

pub mod fields;
pub mod path;
pub mod proxy_status;
#[cfg(feature = "sticky")]
pub mod sticky;
