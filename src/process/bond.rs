//! Floor 6. The bond between a worker and its parent, the worker's side: a socket pair, which is the
//! worker's standard input. Configs come down, each behind its length, and connections to other workers;
//! a byte goes up when the worker listens; and the end of either side is heard by the other.
//!
//! Invariant: a worker runs what its parent has accepted, and nothing else, whatever the file says.

use super::serve;
use crate::config::{Config, Report};
use crate::{Builder, Handle};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
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
        let parent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Some(Bond {
            text: match receive(&parent)? {
                Message::Config(text) => text,
                Message::Peer(_) => return Err(io::ErrorKind::InvalidData.into()),
            },
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
            while let Ok(message) = receive(&self.parent) {
                match message {
                    Message::Config(text) => {
                        let found = Config::parse(&self.path, &text);
                        serve::hand_over(found, &handle, &tell);
                    }
                    Message::Peer(peer) => {
                        if let Err(e) = handle.post(|cx| cx.introduce(peer)) {
                            ::log::error!("another worker is not heard: {e}");
                        }
                    }
                }
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

/// What a parent says.
enum Message {
    Config(String),
    /// A connection to another worker.
    Peer(UnixStream),
}

/// In place of a config's length: a descriptor comes with it.
const PEER: [u8; 4] = [0xff; 4];

fn receive(from: &UnixStream) -> io::Result<Message> {
    let mut length = [0; 4];
    let mut peer = None;
    let mut done = 0;
    // A descriptor comes with the first byte that it was sent with.
    while done < length.len() {
        let (read, found) = receive_some(from, &mut length[done..])?;
        done += read;
        peer = found.or(peer);
    }
    if length == PEER {
        let peer = peer.ok_or(io::ErrorKind::InvalidData)?;
        return Ok(Message::Peer(peer.into()));
    }
    let length = u32::from_be_bytes(length).min(LONGEST_CONFIG);
    let mut text = String::new();
    let read = from.take(length.into()).read_to_string(&mut text)?;
    match read == length as usize {
        true => Ok(Message::Config(text)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// At least a byte, and the descriptor that has come with it.
fn receive_some(from: &UnixStream, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(into)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = retry_on_intr(|| recvmsg(from, &mut pieces, &mut control, flags))?;
    let mut found = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            found = descriptors.last();
        }
    }
    match got.bytes {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok((read, found)),
    }
}

/// Sends a config, behind its length.
pub(super) fn send(mut to: &UnixStream, text: &str) -> io::Result<()> {
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(text.as_bytes())
}

/// Hands a worker a connection to another, if it has room for that: nobody waits for one that is stuck.
pub(super) fn introduce(to: &UnixStream, peer: &UnixStream) -> io::Result<()> {
    let peer = [peer.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&peer));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // So few bytes are sent whole, or not at all.
    sendmsg(to, &[IoSlice::new(&PEER)], &mut control, flags)?;
    Ok(())
}

/// Whether this process was started by a parent.
pub(super) fn is_worker() -> bool {
    std::env::var_os(WORKER).is_some()
}
