//! Floor 4. Files below one folder, and none outside it.
//!
//! ```text
//! path ─► segments, each checked ─► cache ─┬─ fresh ─► answer
//!                                          └─ open beneath the root ─► regular? directory? neither?
//! ```
//! Invariants: nothing is opened but beneath the root, symbolic links included (the kernel sees to
//! that, openat2(2)); nothing is opened that could block (a FIFO is refused after a non-blocking
//! open); what a cached file says is true as of the turn it is served in.

use crate::{App, Ctx, FileSlice, Instant, Request, Response};
use bytes::Bytes;
use quick_cache::unsync::Cache;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
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

/// No way out, and none by way of /proc.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// A folder to serve with GET and HEAD: index files, media types, `last-modified` and
/// `if-modified-since`. Names that begin with a dot are hidden, but for `.well-known`. A large file is
/// sent by the kernel; a small one is kept in memory, and looked at again in each turn of the loop
/// that serves it.
///
/// ```
/// use loopwright::{App, service::files::Files};
/// let mut app: App = App::new();
/// Files::new(".").unwrap().index(["index.html"]).mount(&mut app, "/static");
/// ```
pub struct Files {
    root: OwnedFd,
    index: Vec<String>,
    small: Cache<String, Entry>,
    large: Cache<String, Entry>,
}

#[derive(Clone)]
struct Entry {
    content: Content,
    content_type: String,
    modified: SystemTime,
    last_modified: String,
    identity: Identity,
    /// The wall clock when it was read.
    wall: SystemTime,
    checked: Instant,
}

/// A small file needs no descriptor once it has been read.
#[derive(Clone)]
enum Content {
    Small(Bytes),
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

/// This turn, by both clocks.
type Now = (Instant, SystemTime);

enum Found {
    File(Entry),
    Directory,
    Nothing,
}

impl Files {
    /// The files below `root`.
    ///
    /// # Errors
    /// If `root` is not a directory that can be opened, or the kernel (before Linux 5.6) or a sandbox
    /// has no `openat2`, without which nothing can be promised.
    pub fn new(root: impl AsRef<Path>) -> io::Result<Files> {
        let path = root.as_ref();
        let open = || -> rustix::io::Result<OwnedFd> {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
            rustix::fs::openat2(&root, ".", flags, Mode::empty(), BENEATH)?;
            Ok(root)
        };
        let explain = |e: Errno| {
            let text = format!("cannot serve {}: {e}", path.display());
            io::Error::new(io::Error::from(e).kind(), text)
        };
        let root = open().map_err(explain)?;
        Ok(Files {
            root,
            index: vec!["index.html".to_string()],
            small: Cache::new(CACHED),
            large: Cache::new(CACHED_OPEN),
        })
    }

    /// What a directory is answered with: the first of these that it has. Default `index.html`.
    pub fn index<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.index = names.into_iter().map(Into::into).collect();
        self
    }

    /// Serves the folder under a prefix (`""` for the whole host).
    pub fn mount<S: 'static>(self, app: &mut App<S>, prefix: &str) {
        if !prefix.is_empty() {
            app.get(prefix, |_, req: &Request<'_>, res: Response<'_>| {
                add_slash(req, res)
            });
        }
        app.get(&format!("{prefix}/{{*path}}"), self.handler("path"));
    }

    /// A handler for a route whose parameter `param` is the path below the root.
    ///
    /// ```
    /// use loopwright::{App, service::files::Files};
    /// let mut app: App = App::new();
    /// app.get("/static/{*rest}", Files::new(".").unwrap().handler("rest"));
    /// ```
    pub fn handler<S: 'static>(
        mut self,
        param: &'static str,
    ) -> impl FnMut(&mut Ctx<'_, S>, &Request<'_>, Response<'_>) + 'static {
        move |cx, req, res| self.serve((cx.now(), cx.wall_clock()), req.param(param), req, res)
    }

    fn serve(&mut self, now: Now, path: &str, req: &Request<'_>, res: Response<'_>) {
        let names = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && !names.split('/').all(is_servable) {
            return not_found(res);
        }
        let is_directory = path.is_empty() || path.ends_with('/');
        let found = if is_directory {
            self.find_index(now, path)
        } else {
            self.find(now, path)
        };
        match found {
            Ok(Found::File(entry)) => answer(entry, req, res),
            Ok(Found::Directory) if !is_directory => add_slash(req, res),
            Ok(_) => not_found(res),
            Err(e) => {
                log::error!("{}: cannot serve {path:?}: {e}", req.id());
                let (status, text) = match e.kind() {
                    io::ErrorKind::PermissionDenied => (403, "Forbidden"),
                    _ => (500, "Internal Server Error"),
                };
                res.status(status).text(text)
            }
        }
    }

    fn find_index(&mut self, now: Now, directory: &str) -> io::Result<Found> {
        for n in 0..self.index.len() {
            let path = format!("{directory}{}", self.index[n]);
            if let found @ Found::File(_) = self.find(now, &path)? {
                return Ok(found);
            }
        }
        Ok(Found::Nothing)
    }

    fn find(&mut self, now: Now, path: &str) -> io::Result<Found> {
        let root = self.root.as_fd();
        for cache in [&mut self.small, &mut self.large] {
            let Some(mut entry) = cache.get_mut(path) else {
                continue;
            };
            // Many requests of one turn share one look.
            let flags = rustix::fs::AtFlags::empty();
            let is_fresh = entry.checked == now.0
                || rustix::fs::statat(root, path, flags)
                    .is_ok_and(|stat| Identity::of(&stat) == entry.identity);
            if is_fresh {
                entry.checked = now.0;
                return Ok(Found::File(entry.clone()));
            }
            drop(entry);
            cache.remove(path);
        }
        let found = self.open(now, path)?;
        if let Found::File(entry) = &found
            && entry.is_settled()
        {
            let cache = match entry.content {
                Content::Small(_) => &mut self.small,
                Content::Large(_) => &mut self.large,
            };
            cache.insert(path.to_string(), entry.clone());
        }
        Ok(found)
    }

    fn open(&self, now: Now, path: &str) -> io::Result<Found> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut tries = 0;
        let fd = loop {
            tries += 1;
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), BENEATH) {
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
                ) => return Ok(Found::Nothing),
                Err(e) => return Err(e.into()),
            }
        };
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(Found::Directory),
            _ => return Ok(Found::Nothing),
        }
        let mut file = File::from(fd);
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        let content = if len <= SMALL {
            Content::Small(read_small(&mut file, len)?)
        } else {
            Content::Large(FileSlice {
                file: Rc::new(file),
                offset: 0,
                len,
            })
        };
        // The clock of HTTP has no fractions: a time rounded down is never in the future.
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(Found::File(Entry {
            content,
            content_type: content_type(path),
            modified,
            last_modified: httpdate::fmt_http_date(modified),
            identity: Identity::of(&stat),
            wall: now.1,
            checked: now.0,
        }))
    }
}

/// The content, if the file has not changed its length between two calls; else it is read later.
fn read_small(file: &mut File, len: u64) -> io::Result<Bytes> {
    let mut content = Vec::with_capacity(len as usize);
    file.take(len).read_to_end(&mut content)?;
    Ok(content.into())
}

impl Entry {
    /// Whether a later change would show in its times.
    fn is_settled(&self) -> bool {
        let (seconds, nanos) = self.identity.changed;
        let changed = Duration::new(
            u64::try_from(seconds).unwrap_or(0),
            u32::try_from(nanos).unwrap_or(0),
        );
        self.wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .is_ok_and(|wall| wall > changed + SETTLED)
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
}

/// One segment of a path, percent-decoded: no way up, nothing hidden, nothing that means something
/// else to another system.
fn is_servable(segment: &str) -> bool {
    let is_plain = !segment.is_empty() && !segment.contains(['\0', '\\', '/']);
    is_plain && (!segment.starts_with('.') || segment == ".well-known")
}

fn content_type(path: &str) -> String {
    let mime = mime_guess::from_path(path)
        .first_raw()
        .unwrap_or("application/octet-stream");
    let is_text = mime.starts_with("text/")
        || matches!(
            mime,
            "application/javascript" | "application/json" | "image/svg+xml"
        );
    if is_text {
        format!("{mime}; charset=utf-8")
    } else {
        mime.to_string()
    }
}

fn answer(entry: Entry, req: &Request<'_>, res: Response<'_>) {
    let res = res.header("last-modified", &entry.last_modified);
    let since = req
        .header("if-modified-since")
        .and_then(|text| httpdate::parse_http_date(text).ok());
    if since.is_some_and(|since| entry.modified <= since) {
        return res.status(304).empty();
    }
    let res = res
        .header("content-type", &entry.content_type)
        .header("x-content-type-options", "nosniff");
    match entry.content {
        Content::Small(bytes) => res.bytes(bytes),
        Content::Large(slice) => res.bytes(slice),
    }
}

/// `/a` is a directory: relative links in it work from `/a/`. The path is the one that was asked
/// for, so it begins with exactly one slash and cannot name another host.
fn add_slash(req: &Request<'_>, res: Response<'_>) {
    let query = req
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    res.redirect(
        301,
        format!("/{}/{query}", req.path().trim_start_matches('/')),
    )
}

fn not_found(res: Response<'_>) {
    res.status(404).text("Not Found")
}
