//! Floor 4. The files that are open or in memory, each with what its answers say.
//!
//! ```text
//! path ─► cache ─┬─ looked at in this turn, or its identity is the same ─► entry
//!                └─ open beneath the root ─► regular? directory? neither?
//! ```
//! Invariants: nothing is opened but beneath the root, symbolic links included (the kernel sees to
//! that, openat2(2)); nothing is opened that could block (a FIFO is refused after a non-blocking
//! open); what a cached file says is true as of the turn it is served in.

use super::names;
use super::negotiation::{CODINGS, Siblings};
use crate::{Body, FileSlice, Instant};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::unsync::Cache as Map;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha1::{Digest, Sha1};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Files up to this size are kept with their content, in bytes.
const SMALL: u64 = 64 * 1024;
/// Small files that are kept with their content.
const CACHED: usize = 1024;
/// Large files that are kept open: descriptors are for clients, first of all.
const CACHED_OPEN: usize = 32;
/// A file that has changed so lately may change again without a trace: its times are as coarse as the
/// kernel's clock ticks.
const SETTLED: Duration = Duration::from_millis(50);
/// The same on file systems whose times are whole seconds, or two.
const SETTLED_COARSE: Duration = Duration::from_secs(3);
/// How long it is taken for granted which siblings a file has.
const SIBLINGS_KNOWN: Duration = Duration::from_secs(1);
/// Bytes of a tag's digest: with 120 bits, nobody finds two contents with one tag by chance.
const TAG: usize = 15;

/// No way out, and none by way of /proc.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
/// To read, without waiting for anybody.
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
/// To look at, not to read.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

/// This turn, by both clocks.
pub(super) type Now = (Instant, SystemTime);

/// A folder, and what is known of the files below it.
pub(super) struct Cache {
    root: Arc<OwnedFd>,
    small: Map<String, Rc<Entry>>,
    large: Map<String, Rc<Entry>>,
    /// Where a name is put together without a new string for each.
    scratch: String,
    /// Files opened so far.
    opened: u64,
}

/// A regular file, and what an answer says of it.
pub(super) struct Entry {
    /// Below the root.
    pub(super) path: String,
    pub(super) content: Content,
    pub(super) content_type: String,
    /// Strong, in quotes.
    pub(super) etag: String,
    /// In whole seconds, and not in the future.
    pub(super) modified: SystemTime,
    pub(super) last_modified: String,
    identity: Identity,
    checked: Cell<Instant>,
    siblings: Cell<Option<(Instant, Siblings)>>,
}

/// A small file needs no descriptor once it has been read.
pub(super) enum Content {
    Small(bytes::Bytes),
    Large(FileSlice),
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

pub(super) enum Found {
    File(Rc<Entry>),
    Directory,
    Nothing,
}

impl Cache {
    pub(super) fn new(path: &Path) -> io::Result<Cache> {
        let open = || -> rustix::io::Result<OwnedFd> {
            let root = rustix::fs::openat(CWD, path, FOLDER, Mode::empty())?;
            rustix::fs::openat2(&root, ".", FOLDER, Mode::empty(), BENEATH)?;
            Ok(root)
        };
        let explain = |e: Errno| {
            let text = format!("cannot serve {}: {e}", path.display());
            io::Error::new(io::Error::from(e).kind(), text)
        };
        Ok(Cache {
            root: Arc::new(open().map_err(explain)?),
            small: Map::new(CACHED),
            large: Map::new(CACHED_OPEN),
            scratch: String::new(),
            opened: 0,
        })
    }

    /// The folder, for work on another thread.
    pub(super) fn root(&self) -> Arc<OwnedFd> {
        self.root.clone()
    }

    /// What `path` names, as of this turn.
    pub(super) fn find(&mut self, now: Now, path: &str) -> io::Result<Found> {
        for map in [&mut self.small, &mut self.large] {
            let Some(entry) = map.get(path) else {
                continue;
            };
            // Many requests of one turn share one look.
            let is_fresh = entry.checked.get() == now.0
                || rustix::fs::statat(&self.root, path, AtFlags::empty())
                    .is_ok_and(|stat| Identity::of(&stat) == entry.identity);
            if is_fresh {
                entry.checked.set(now.0);
                return Ok(Found::File(entry.clone()));
            }
            map.remove(path);
        }
        let Some((fd, stat)) = open_beneath(&self.root, path, OPEN)? else {
            return Ok(Found::Nothing);
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(Found::Directory),
            _ => return Ok(Found::Nothing),
        }
        self.opened += 1;
        let entry = Rc::new(Entry::new(now, self.opened, path, fd.into(), &stat)?);
        if entry.identity.is_settled(now.1) {
            let map = match entry.content {
                Content::Small(_) => &mut self.small,
                Content::Large(_) => &mut self.large,
            };
            map.insert(path.to_string(), entry.clone());
        }
        Ok(Found::File(entry))
    }

    /// What the path `start` and `end` make together names.
    pub(super) fn find_joined(&mut self, now: Now, start: &str, end: &str) -> io::Result<Found> {
        let mut path = std::mem::take(&mut self.scratch);
        join(&mut path, start, end);
        let found = self.find(now, &path);
        self.scratch = path;
        found
    }

    /// Which compressed siblings a file has, as of a second ago at most.
    pub(super) fn siblings(&mut self, now: Now, entry: &Entry) -> Siblings {
        if let Some((looked, siblings)) = entry.siblings.get()
            && now.0 - looked < SIBLINGS_KNOWN
        {
            return siblings;
        }
        let Cache { root, scratch, .. } = self;
        let siblings = CODINGS.map(|coding| {
            join(scratch, &entry.path, coding.extension);
            look(root, scratch)
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        });
        entry.siblings.set(Some((now.0, siblings)));
        siblings
    }

    /// A directory, to be listed; `None` if there is none of this name.
    pub(super) fn open_directory(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        let path = if path.is_empty() { "." } else { path };
        Ok(open_beneath(&self.root, path, FOLDER)?.map(|(fd, _)| fd))
    }
}

fn join(path: &mut String, start: &str, end: &str) {
    path.clear();
    path.push_str(start);
    path.push_str(end);
}

/// `None`: there is nothing of this name beneath the root, or nothing that could be served.
fn open_beneath(root: &OwnedFd, path: &str, flags: OFlags) -> io::Result<Option<(OwnedFd, Stat)>> {
    let mut tries = 0;
    let fd = loop {
        tries += 1;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), BENEATH) {
            Ok(fd) => break fd,
            Err(Errno::INTR) => {}
            // A rename raced with it; or another process holds a lease on the file, which may last.
            Err(Errno::AGAIN) if tries < 8 => {}
            // Not there, not beneath the root, a socket, too many links, a name that cannot be.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::XDEV
                | Errno::LOOP
                | Errno::NXIO
                | Errno::NAMETOOLONG
                | Errno::NODEV
                | Errno::INVAL,
            ) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    };
    let stat = rustix::fs::fstat(&fd)?;
    Ok(Some((fd, stat)))
}

/// What `path` leads to beneath the root, links followed, without opening it.
pub(super) fn look(root: &OwnedFd, path: &str) -> Option<Stat> {
    let (_, stat) = open_beneath(root, path, LOOK).ok()??;
    Some(stat)
}

impl Entry {
    fn new(now: Now, nth: u64, path: &str, mut file: File, stat: &Stat) -> io::Result<Entry> {
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        let (content, identity) = if len <= SMALL {
            let mut content = Vec::with_capacity(len as usize);
            (&mut file).take(len).read_to_end(&mut content)?;
            // Looked at after it was read: if it is settled now, this was its content.
            let identity = Identity::of(&rustix::fs::fstat(&file)?);
            (Content::Small(content.into()), identity)
        } else {
            let slice = FileSlice {
                file: Rc::new(file),
                offset: 0,
                len,
            };
            (Content::Large(slice), Identity::of(stat))
        };
        // The clock of HTTP has no fractions: a time rounded down is never in the future. One that is
        // all the same, by a clock that was set, is taken for now (RFC 9110 §8.8.2.1).
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        let modified = u64::try_from(identity.modified.0).unwrap_or(0);
        let modified = modified.min(seconds(now.1));
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(modified);
        Ok(Entry {
            path: path.to_string(),
            etag: etag(path, &content, identity, now.1, nth),
            content,
            content_type: names::content_type(path),
            modified,
            last_modified: httpdate::fmt_http_date(modified),
            identity,
            checked: Cell::new(now.0),
            siblings: Cell::new(None),
        })
    }
}

/// A strong tag (RFC 9110 §8.8.3). A small file's is its content's, the same on every machine. A large
/// one's is its identity; and if that could stay the same while the content changes, it is a tag that
/// was never given before.
fn etag(path: &str, content: &Content, identity: Identity, wall: SystemTime, nth: u64) -> String {
    let mut hash = Sha1::new();
    match content {
        Content::Small(bytes) => hash.update(bytes),
        Content::Large(_) => {
            let Identity {
                inode,
                size,
                modified,
                changed,
                ..
            } = identity;
            hash.update(format!("{inode} {size} {modified:?} {changed:?}"));
            if !identity.is_settled(wall) {
                hash.update(format!("{wall:?} {} {nth}", std::process::id()));
            }
        }
    }
    // Two representations of one resource differ in their tags, even if someone calls one file both.
    if let Some(coding) = CODINGS.iter().find(|c| path.ends_with(c.extension)) {
        hash.update(coding.extension);
    }
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.finalize()[..TAG]))
}

impl Content {
    /// In bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Content::Small(bytes) => bytes.len() as u64,
            Content::Large(slice) => slice.len,
        }
    }

    pub(super) fn whole(&self) -> Body<'static> {
        match self {
            Content::Small(bytes) => bytes.clone().into(),
            Content::Large(slice) => slice.clone().into(),
        }
    }

    /// A part that lies within it.
    pub(super) fn part(&self, range: Range<u64>) -> Body<'static> {
        match self {
            Content::Small(bytes) => bytes.slice(range.start as usize..range.end as usize).into(),
            Content::Large(slice) => Body::File(FileSlice {
                file: slice.file.clone(),
                offset: slice.offset + range.start,
                len: range.end - range.start,
            }),
        }
    }
}

impl Identity {
    fn of(stat: &Stat) -> Identity {
        Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether a later change would show in its times.
    fn is_settled(&self, wall: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(
            u64::try_from(seconds).unwrap_or(0),
            u32::try_from(nanos).unwrap_or(0),
        );
        let settled = if nanos == 0 { SETTLED_COARSE } else { SETTLED };
        wall.duration_since(SystemTime::UNIX_EPOCH)
            .is_ok_and(|wall| wall > changed + settled)
    }
}
