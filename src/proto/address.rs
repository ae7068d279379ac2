//! Floor 1. Where the server of a database or a cache listens, and with which password: what their URLs share.

use std::fmt;
use std::path::PathBuf;

/// A password: shown to nobody by accident.
///
/// ```
/// use loopwright::proto::address::Secret;
/// let secret = Secret::new("s3cret".into());
/// assert_eq!((format!("{secret:?}"), secret.expose()), ("[secret]".into(), "s3cret"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The password itself: for the server alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a server listens.
///
/// ```
/// use loopwright::proto::address::Address;
/// assert_eq!(Address::Tcp("::1".into(), 5432).to_string(), "[::1]:5432");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A host name, or an address without brackets; a port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
