//! Floor 6. Where log lines wait until the world takes them: a buffer, and a thread that writes it.
//!
//! ```text
//! any thread: append ─► lines ─┐            wait ─► gather ─► take ─► write ─┐
//!              (whole lines,   └─ writer: ───┘                               │  poll, write
//!               or dropped)                  └──◄── tell what was dropped ◄──┘
//! ```
//! Invariants: whoever appends does so under a lock that nobody keeps while writing, and wakes the
//! writer once a batch, so neither a stuck pipe nor a full disk is ever met by the caller. What waits
//! is bounded; a line that does not fit is dropped whole, and counted. Lines are written in order,
//! each once; where writing fails inside one, its rest is written before anything else.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Up to so many bytes a pipe takes whole, or not yet (`PIPE_BUF`): lines of several processes do not mix.
const PIPE_PIECE: usize = 4096;
/// A regular file opened to append takes any piece whole.
const FILE_PIECE: usize = 64 * 1024;
/// How long the writer waits for a stuck output, or after an error, before it looks around.
const RETRY: Duration = Duration::from_millis(100);
/// Dropped lines are told of no more often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// For [`State::wake_at`]: the writer is at work, and will look by itself.
const NEVER: usize = usize::MAX;

/// What a [`Sink`] writes to.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// To open it again.
    path: Option<PathBuf>,
    /// Whole lines of at most so many bytes are written at once.
    piece: usize,
}

impl Output {
    /// Appends to the file at `path`, made if there is none.
    ///
    /// # Errors
    /// If it cannot be opened, with its name. Also for a FIFO that nobody reads: opening waits for nobody.
    pub fn open(path: &Path) -> io::Result<Output> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(named)?;
        let mut output = Output::new(file.into()).map_err(named)?;
        output.path = Some(path.to_path_buf());
        Ok(output)
    }

    /// Writes to a descriptor that is open already, blocking or not.
    ///
    /// # Errors
    /// If the descriptor cannot be looked at.
    pub fn new(fd: OwnedFd) -> io::Result<Output> {
        let file = File::from(fd);
        let kind = file.metadata()?.file_type();
        let is_stream = kind.is_fifo() || kind.is_socket() || kind.is_char_device();
        Ok(Output {
            file,
            path: None,
            piece: if is_stream { PIPE_PIECE } else { FILE_PIECE },
        })
    }

    /// The process's standard output.
    ///
    /// # Errors
    /// If it is closed, or no descriptor is free.
    pub fn stdout() -> io::Result<Output> {
        Output::new(io::stdout().as_fd().try_clone_to_owned()?)
    }

    /// The process's standard error.
    ///
    /// # Errors
    /// If it is closed, or no descriptor is free.
    pub fn stderr() -> io::Result<Output> {
        Output::new(io::stderr().as_fd().try_clone_to_owned()?)
    }

    /// Writes what is taken now, 0 if nothing was for a while. A blocking pipe with room for one page
    /// does not block for [`PIPE_PIECE`] bytes, so the writer stays able to look around.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
        let patience = Timespec::try_from(RETRY).ok();
        if self.piece == PIPE_PIECE && poll(&mut fds, patience.as_ref())? == 0 {
            return Ok(0);
        }
        (&self.file).write(bytes)
    }
}

/// A bounded buffer of lines and the thread that writes them. Dropping it ends the thread, without
/// waiting for what is not written; see [`Sink::flush`].
///
/// ```
/// use loopwright::process::sink::{Output, Sink};
/// use std::io::Read;
/// use std::time::Duration;
///
/// let (mut reader, writer) = std::io::pipe().unwrap();
/// let sink = Sink::start("example log", 1 << 20, Duration::from_millis(200)).unwrap();
/// sink.direct(Some(Output::new(writer.into()).unwrap()));
/// sink.append(b"a line\n");
/// assert!(sink.flush(Duration::from_secs(5)));
/// drop(sink);
/// let mut text = String::new();
/// reader.read_to_string(&mut text).unwrap();
/// assert_eq!(text, "a line\n");
/// ```
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    state: Mutex<State>,
    /// For the writer: there is something to do.
    work: Condvar,
    /// For whoever flushes: something was written.
    progress: Condvar,
    /// Lines are taken at all.
    is_on: AtomicBool,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Whole lines that the writer has not taken yet.
    lines: Vec<u8>,
    /// Bytes appended since the beginning, and those of them the writer is done with.
    appended: u64,
    written: u64,
    /// The most that may be between the two.
    limit: usize,
    /// How long the writer lets lines come together.
    gather: Duration,
    /// The writer sleeps, and wants to be woken when `lines` is this long.
    wake_at: usize,
    /// Somebody waits until `written` is this.
    flush_to: u64,
    /// What is to become of the output, each after how much of `lines`.
    changes: VecDeque<(usize, Change)>,
    is_closing: bool,
    /// Lines dropped that nobody was told of.
    untold: u64,
}

/// What becomes of the output, once the lines before it are written or if they cannot be.
#[derive(Debug)]
enum Change {
    To(Option<Output>),
    Reopen,
}

impl State {
    fn waiting(&self) -> u64 {
        self.appended - self.written
    }

    fn is_urgent(&self) -> bool {
        !self.changes.is_empty() || self.is_closing || self.written < self.flush_to
    }
}

impl Sink {
    /// Starts the thread of an empty sink that is off. At most `limit` bytes wait; the writer lets lines
    /// come together for `gather`, or until half of `limit` is full. `name` is what messages call it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(name: &'static str, limit: usize, gather: Duration) -> io::Result<Sink> {
        let shared = Arc::new(Shared {
            name,
            state: Mutex::new(State {
                lines: Vec::new(),
                appended: 0,
                written: 0,
                limit,
                gather,
                wake_at: NEVER,
                flush_to: 0,
                changes: VecDeque::new(),
                is_closing: false,
                untold: 0,
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            is_on: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        });
        let mut writer = Writer {
            shared: shared.clone(),
            output: None,
            batch: Vec::new(),
            at: 0,
            next: None,
            trouble: None,
            told: None,
        };
        thread::Builder::new()
            .name("loopwright-log".into())
            .spawn(move || writer.run())?;
        Ok(Sink { shared })
    }

    /// Takes a line, its end included, or drops and counts it if there is no room. Never waits for the output.
    pub fn append(&self, line: &[u8]) {
        if !self.is_on() {
            return;
        }
        let mut state = self.shared.lock();
        if state.waiting() + line.len() as u64 > state.limit as u64 {
            state.untold += 1;
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.lines.extend_from_slice(line);
        state.appended += line.len() as u64;
        if state.lines.len() >= state.wake_at {
            state.wake_at = NEVER;
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Whether lines are taken.
    pub fn is_on(&self) -> bool {
        self.shared.is_on.load(Ordering::Relaxed)
    }

    /// From now on lines go to `output`; with `None`, nowhere. What was appended before is written to the
    /// old output first, if that takes it without delay.
    pub fn direct(&self, output: Option<Output>) {
        let is_on = output.is_some();
        self.change(|state| {
            let after = state.lines.len();
            state.changes.push_back((after, Change::To(output)));
            self.shared.is_on.store(is_on, Ordering::Relaxed);
        });
    }

    /// Opens the file anew under its name, after it was moved away. What was appended before is written
    /// to the old file. Nothing happens to an output without a name.
    pub fn reopen(&self) {
        self.change(|state| {
            let after = state.lines.len();
            state.changes.push_back((after, Change::Reopen));
        });
    }

    /// Other bounds, from now on.
    pub fn resize(&self, limit: usize, gather: Duration) {
        self.change(|state| (state.limit, state.gather) = (limit, gather));
    }

    /// Waits until all that was appended before is written, at most for `limit`. Says whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let goal = self.shared.lock().appended;
        self.change(|state| state.flush_to = state.flush_to.max(goal));
        let wait = |state: &mut State| state.written < goal;
        let progress = &self.shared.progress;
        let waited = progress.wait_timeout_while(self.shared.lock(), limit, wait);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.written >= goal
    }

    /// Lines dropped since the beginning.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.shared.lock());
        self.shared.work.notify_one();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.change(|state| state.is_closing = true);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes more are written, or given up.
    fn done_with(&self, bytes: usize) {
        let mut state = self.lock();
        let is_awaited = state.written < state.flush_to;
        state.written += bytes as u64;
        drop(state);
        if is_awaited {
            self.progress.notify_all();
        }
    }

    /// Sleeps until `lines` is `length` long or something is urgent, for `time` at the most.
    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        length: usize,
        time: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.wake_at = length;
        let idle = |state: &mut State| state.lines.len() < length && !state.is_urgent();
        let mut state = match time {
            None => self
                .work
                .wait_while(state, idle)
                .unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                let woken = self.work.wait_timeout_while(state, time, idle);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.wake_at = NEVER;
        state
    }
}

/// The thread's own half.
struct Writer {
    shared: Arc<Shared>,
    output: Option<Output>,
    /// The lines in hand, and how far they are written.
    batch: Vec<u8>,
    at: usize,
    /// What comes after the batch.
    next: Option<Change>,
    /// The last error; its end is told with the lines it has cost.
    trouble: Option<String>,
    told: Option<Instant>,
}

impl Writer {
    fn run(&mut self) {
        while self.take() {
            self.write();
            let next = self.next.take();
            self.apply(next);
            self.tell();
        }
    }

    /// Waits for lines, then a little longer for more of them, and takes what there is, with the change
    /// that comes after. `false` at the end.
    fn take(&mut self) -> bool {
        let shared = &self.shared;
        let mut state = shared.lock();
        let since_told = self.told.filter(|_| state.untold > 0);
        let tell_in = since_told.map(|told| TELL_EVERY.saturating_sub(told.elapsed()));
        state = shared.sleep(state, 1, tell_in);
        if !state.lines.is_empty() && !state.gather.is_zero() {
            let (half, gather) = (state.limit / 2, state.gather);
            state = shared.sleep(state, half, Some(gather));
        }
        if state.is_closing && state.lines.is_empty() && state.changes.is_empty() {
            return false;
        }
        self.batch.clear();
        self.at = 0;
        std::mem::swap(&mut state.lines, &mut self.batch);
        if let Some((after, change)) = state.changes.pop_front() {
            state.lines.extend_from_slice(&self.batch[after..]);
            self.batch.truncate(after);
            for (later, _) in &mut state.changes {
                *later -= after;
            }
            self.next = Some(change);
        }
        true
    }

    /// Writes the batch, however long that takes; what comes meanwhile waits, and is dropped when too
    /// much does.
    fn write(&mut self) {
        while self.at < self.batch.len() {
            let Some(output) = &self.output else {
                return self.drop_batch();
            };
            match output.write(piece(&self.batch[self.at..], output.piece)) {
                Ok(0) => {}
                Ok(n) => {
                    self.at += n;
                    self.shared.done_with(n);
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => self.pause_after(&e),
            }
            // Stuck: whoever wants another output need not wait for this one.
            let mut state = self.shared.lock();
            if state.is_closing {
                return;
            }
            let later = std::mem::take(&mut state.changes);
            drop(state);
            let later = later.into_iter().map(|(_, change)| change);
            for change in self.next.take().into_iter().chain(later) {
                self.back_to_line_start();
                self.apply(Some(change));
            }
        }
    }

    fn pause_after(&mut self, e: &io::Error) {
        let name = self.shared.name;
        // When another process fills this pipe faster, it is stuck, not broken.
        if e.kind() != ErrorKind::WouldBlock {
            let text = e.to_string();
            if self.trouble.as_ref() != Some(&text) {
                let limit = self.shared.lock().limit;
                log::error!("{name}: {text}; lines wait (log.buffer = {limit} bytes)");
                self.trouble = Some(text);
            }
        }
        let is_stuck = |state: &mut State| state.changes.is_empty() && !state.is_closing;
        let (state, work) = (self.shared.lock(), &self.shared.work);
        drop(work.wait_timeout_while(state, RETRY, is_stuck));
    }

    /// A line that was begun in one output is written whole in the next.
    fn back_to_line_start(&mut self) {
        let written = &self.batch[..self.at];
        let start = memchr::memrchr(b'\n', written).map_or(0, |end| end + 1);
        self.shared.lock().written -= (self.at - start) as u64;
        self.at = start;
    }

    fn drop_batch(&mut self) {
        let rest = &self.batch[self.at..];
        let lines = memchr::memchr_iter(b'\n', rest).count() as u64;
        self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
        self.shared.done_with(rest.len());
        self.at = self.batch.len();
    }

    fn apply(&mut self, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::To(output)) => self.output = output,
            Some(Change::Reopen) => {
                let path = self
                    .output
                    .as_ref()
                    .and_then(|output| output.path.as_deref());
                match path.map(Output::open) {
                    None => {}
                    Some(Ok(output)) => self.output = Some(output),
                    Some(Err(e)) => log::error!("{}: not reopened: {e}", self.shared.name),
                }
            }
        }
    }

    /// All is written: what was dropped meanwhile can be said now.
    fn tell(&mut self) {
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        let mut state = self.shared.lock();
        // Only an output was changed: whether it works is still to be seen.
        if self.batch.is_empty() && !state.lines.is_empty() {
            return;
        }
        let (untold, limit) = (std::mem::take(&mut state.untold), state.limit);
        drop(state);
        let trouble = self
            .trouble
            .take()
            .map(|e| format!(" ({e})"))
            .unwrap_or_default();
        if untold > 0 {
            self.told = Some(Instant::now());
            let name = self.shared.name;
            log::error!(
                "{name}: {untold} lines dropped: log.buffer = {limit} bytes were full{trouble}"
            );
        }
    }
}

/// The whole lines at the front of `bytes` that fit into `longest`; a part of the first, if it does not.
fn piece(bytes: &[u8], longest: usize) -> &[u8] {
    if bytes.len() <= longest {
        return bytes;
    }
    let end = memchr::memrchr(b'\n', &bytes[..longest]);
    &bytes[..end.map_or(longest, |at| at + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_lines_do() {
        for (bytes, longest, first) in [
            (&b"a\nb\nc\n"[..], 6, &b"a\nb\nc\n"[..]),
            (b"a\nb\nc\n", 5, b"a\nb\n"),
            (b"a\nb\nc\n", 2, b"a\n"),
            (b"long\nb\n", 3, b"lon"),
        ] {
            assert_eq!(piece(bytes, longest), first);
        }
    }
}
