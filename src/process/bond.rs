//! Floor 6. The bond between a worker and its parent, the worker's side: a socket pair, which is the
//! worker's standard input. Configs come down, each behind its length; a byte goes up when the worker
//! listens; and the end of either side is heard by the other.
//!
//! Invariant: a worker runs what its parent has accepted, and nothing else, whatever the file says.

use super::serve;
use crate::config::{Config, Report};
use crate::{Builder, Handle};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// The worker's number, for whom it is one.
pub(super) const WORKER: &str = "LOOPWRIGHT_WORKER";
/// Where the addresses of the config really are: `127.0.0.1:0=127.0.0.1:4711`, one a line.
pub(super) const ADDRESSES: &str = "LOOPWRIGHT_ADDRESSES";
/// The longest config that is handed over, in bytes.
const LONGEST_CONFIG: u32 = 64 << 20;
/// How long a worker has to take it.
pub(super) const HAND_OVER: Duration = Duration::from_secs(5);

/// A worker's end of the bond with its parent: what comes over it are configs that the parent has
/// accepted, so that no worker runs what is on the disk and was refused.
#[derive(Clone)]
pub struct Bond {
    parent: Arc<UnixStream>,
    addresses: Vec<(String, String)>,
    /// What the parent runs, as it began.
    text: String,
    path: String,
}

impl Bond {
    /// What this process was given, if it was started as a worker of the config `path`.
    ///
    /// # Errors
    /// If standard input is not what a parent hands over.
    pub fn find(path: &Path) -> io::Result<Option<Bond>> {
        let Ok(addresses) = std::env::var(ADDRESSES) else {
            return Ok(None);
        };
        let number = std::env::var(WORKER).unwrap_or_default();
        // For `ps` and `top`; the parent keeps the name that signals are sent to.
        if let Ok(name) = std::ffi::CString::new(format!("loopwright-w{number}")) {
            let _ = rustix::thread::set_name(&name);
        }
        let pair = |line: &str| {
            let (asked, real) = line.split_once('=')?;
            Some((asked.to_string(), real.to_string()))
        };
        let mut parent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Some(Bond {
            text: receive(&mut parent)?,
            parent: Arc::new(parent),
            addresses: addresses.lines().filter_map(pair).collect(),
            path: path.display().to_string(),
        }))
    }

    /// The config to begin with.
    ///
    /// # Errors
    /// A report, if what was right for the parent is not so here.
    pub fn config(&self) -> Result<Config, Report> {
        Config::parse(&self.path, &self.text)
    }

    /// The builder, with its addresses where they really are.
    pub(super) fn place(&self, builder: Builder) -> Builder {
        let mut known = self.addresses.clone();
        builder.with_addresses(move |asked| {
            // Each is used once: port 0 twice is two ports.
            match known.iter().position(|(name, _)| name == asked) {
                Some(at) => known.remove(at).1,
                None => asked.to_string(),
            }
        })
    }

    /// Tells the parent that this worker listens, and takes what it sends. When it is gone, the worker
    /// drains.
    pub(super) fn ready(self, handle: Handle, tell: Sender<Config>) -> io::Result<()> {
        let mut parent = &*self.parent;
        parent.write_all(b"R")?;
        let attend = move || {
            let mut parent = &*self.parent;
            while let Ok(text) = receive(&mut parent) {
                let found = Config::parse(&self.path, &text);
                serve::hand_over(found, &handle, &tell);
            }
            // A second stop would cut what a drain that has begun still answers.
            let _ = handle.post(|cx| {
                if !cx.is_stopping() {
                    ::log::warn!("the parent process is gone: leaving");
                    cx.stop();
                }
            });
        };
        std::thread::Builder::new()
            .name("loopwright-bond".into())
            .spawn(attend)
            .map(drop)
    }
}

/// A config, behind its length.
fn receive(from: &mut impl Read) -> io::Result<String> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length).min(LONGEST_CONFIG);
    let mut text = String::new();
    let read = from.take(length.into()).read_to_string(&mut text)?;
    match read == length as usize {
        true => Ok(text),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends a config, behind its length.
pub(super) fn send(mut to: &UnixStream, text: &str) -> io::Result<()> {
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(text.as_bytes())
}

/// Whether this process was started by a parent.
pub(super) fn is_worker() -> bool {
    std::env::var_os(WORKER).is_some()
}
