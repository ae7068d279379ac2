//! Floor 0. What a connection still has to send: bytes and slices of files, in order.
//!
//! Only what a socket refused, or what arrived while it was refusing, is kept here; an idle
//! connection's backlog owns no memory. Invariant: `bytes` is the sum of the byte segments, and
//! [`FILE_COST`] for each file; no segment is empty.

use bytes::{Buf, Bytes};
use std::{collections::VecDeque, fs::File, io::IoSlice, rc::Rc};

/// A part of an open file, sent by the kernel without passing through the process. If the file turns
/// out to be shorter, the connection is cut: its length has been announced.
///
/// ```
/// use loopwright::{App, FileSlice};
/// use std::{fs::File, rc::Rc};
/// let file = Rc::new(File::open("Cargo.toml").unwrap());
/// let mut app: App = App::new();
/// app.get("/head", move |_, _, res| res.bytes(FileSlice { file: file.clone(), offset: 0, len: 16 }));
/// ```
#[derive(Clone, Debug)]
pub struct FileSlice {
    /// The open file; shared with the cache that opened it.
    pub file: Rc<File>,
    /// Where the rest begins.
    pub offset: u64,
    /// How much is left.
    pub len: u64,
}

/// One piece of output.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes in a file.
    File(FileSlice),
}

/// An open file that waits counts like so many bytes of memory: descriptors are scarce, too.
pub const FILE_COST: usize = 4 * 1024;

/// Output waiting for its socket.
#[derive(Debug, Default)]
pub struct Backlog {
    segments: VecDeque<Segment>,
    bytes: usize,
}

impl Backlog {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// What waits, in bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What its pieces take beside their bytes: much, if they are small.
    pub fn places(&self) -> usize {
        self.segments.len() * size_of::<Segment>()
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.segments.push_back(Segment::Bytes(bytes));
        }
    }

    /// Appends a slice of a file.
    pub fn push_file(&mut self, slice: FileSlice) {
        if slice.len > 0 {
            self.bytes += FILE_COST;
            self.segments.push_back(Segment::File(slice));
        }
    }

    /// What goes out next.
    pub fn front(&self) -> Option<&Segment> {
        self.segments.front()
    }

    /// Whether anything follows the front segment.
    pub fn has_more(&self) -> bool {
        self.segments.len() > 1
    }

    /// Fills `slices` with the byte segments at the front, up to the first file; returns how many.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>], mut budget: usize) -> usize {
        let mut n = 0;
        for (slot, segment) in slices.iter_mut().zip(&self.segments) {
            let Segment::Bytes(bytes) = segment else {
                break;
            };
            if budget == 0 {
                break;
            }
            let bytes = &bytes[..bytes.len().min(budget)];
            budget -= bytes.len();
            *slot = IoSlice::new(bytes);
            n += 1;
        }
        n
    }

    /// Forgets `n` sent bytes from the front. They may span segments.
    pub fn advance(&mut self, mut n: u64) {
        while let Some(front) = self.segments.front_mut() {
            let sent = match front {
                Segment::Bytes(bytes) => {
                    let sent = bytes.len().min(usize::try_from(n).unwrap_or(usize::MAX));
                    bytes.advance(sent);
                    self.bytes -= sent;
                    sent as u64
                }
                Segment::File(slice) => {
                    let sent = slice.len.min(n);
                    slice.offset += sent;
                    slice.len -= sent;
                    sent
                }
            };
            n -= sent;
            let left = match front {
                Segment::Bytes(bytes) => bytes.len() as u64,
                Segment::File(slice) => slice.len,
            };
            if left > 0 {
                return;
            }
            if let Some(Segment::File(_)) = self.segments.pop_front() {
                self.bytes -= FILE_COST;
            }
        }
        // Drained: give the memory back, an idle connection owns none.
        self.segments = VecDeque::new();
    }

    /// Drops the first bytes that may go of those behind the front, which may be partly sent. `false`: there
    /// are none.
    pub fn drop_behind(&mut self, may_go: impl Fn(&[u8]) -> bool) -> bool {
        let is_it = |segment: &Segment| matches!(segment, Segment::Bytes(bytes) if may_go(bytes));
        let Some(at) = self.segments.iter().skip(1).position(is_it) else {
            return false;
        };
        if let Some(Segment::Bytes(bytes)) = self.segments.remove(at + 1) {
            self.bytes -= bytes.len();
        }
        true
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Backlog::default();
    }
}

/// Where the answers of one connection go while it runs: into the loop's one output buffer, or,
/// where that cannot hold them (files, large bodies), behind each other in the backlog.
/// Invariant: what is in `cork` comes after what is in `backlog`.
#[derive(Debug)]
pub struct Output<'a> {
    /// Small things, written at the end of the connection's run in one call.
    pub cork: &'a mut Vec<u8>,
    /// Large ones.
    pub backlog: &'a mut Backlog,
}

/// From this size on, copying bytes costs more than a second slice in the system call.
pub const LARGE: usize = 16 * 1024;

impl Output<'_> {
    /// Appends bytes that somebody else owns.
    pub fn put_shared(&mut self, bytes: Bytes) {
        if bytes.len() < LARGE {
            self.cork.extend_from_slice(&bytes);
        } else {
            self.seal();
            self.backlog.push(bytes);
        }
    }

    /// Appends a slice of a file.
    pub fn put_file(&mut self, slice: FileSlice) {
        self.seal();
        self.backlog.push_file(slice);
    }

    /// Moves the small things behind the large ones.
    pub fn seal(&mut self) {
        if !self.cork.is_empty() {
            self.backlog.push(Bytes::copy_from_slice(self.cork));
            self.cork.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advance_spans_segments_and_counts_only_memory() {
        let mut backlog = Backlog::default();
        backlog.push(Bytes::from_static(b"abc"));
        backlog.push(Bytes::new());
        backlog.push(Bytes::from_static(b"defg"));
        let file = Rc::new(File::open("/dev/null").unwrap());
        backlog.push_file(FileSlice {
            file,
            offset: 10,
            len: 5,
        });
        backlog.push(Bytes::from_static(b"h"));
        assert_eq!(backlog.bytes(), 8 + FILE_COST);
        let mut slices = [IoSlice::new(b""); 8];
        assert_eq!(backlog.gather(&mut slices, 100), 2);
        backlog.advance(5);
        assert!(matches!(backlog.front(), Some(Segment::Bytes(b)) if &b[..] == b"fg"));
        backlog.advance(4);
        assert!(matches!(backlog.front(), Some(Segment::File(f)) if (f.offset, f.len) == (12, 3)));
        assert_eq!(backlog.bytes(), 1 + FILE_COST);
        backlog.advance(4);
        assert!(backlog.is_empty());
        assert_eq!((backlog.bytes(), backlog.segments.capacity()), (0, 0));
    }
}
