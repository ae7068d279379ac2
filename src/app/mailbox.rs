//! Floor 2. The one door from other threads into the loop.

use super::ctx::Ctx;
use crate::base::id::TaskId;
use crate::net::Waker;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) type PostedCall<S> = Box<dyn FnOnce(&mut Ctx<'_, S>) + Send>;

pub(crate) enum Post<S> {
    Call(PostedCall<S>),
    /// Offloaded work is done, one way or another.
    WorkDone(usize),
    /// Drain and leave; or leave at once.
    Stop {
        now: bool,
    },
}

pub(crate) struct Mailbox<S> {
    state: Mutex<State<S>>,
    /// Lets the loop look without taking the lock, once a turn.
    pending: AtomicBool,
    /// A stop was asked for.
    stopping: AtomicBool,
    /// Tasks were woken since the loop last looked.
    has_woken: AtomicBool,
    waker: Waker,
    limit: AtomicUsize,
    /// The loop waits for something to happen, or is about to: else a task needs no more than to be noted.
    asleep: AtomicBool,
}

struct State<S> {
    queue: VecDeque<Post<S>>,
    /// Each task at most once: see `Alarm`.
    woken: Vec<TaskId>,
    closed: bool,
}

impl<S> Mailbox<S> {
    pub(crate) fn new(waker: Waker, limit: usize) -> Mailbox<S> {
        let state = Mutex::new(State {
            queue: VecDeque::new(),
            woken: Vec::new(),
            closed: false,
        });
        Mailbox {
            state,
            pending: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            has_woken: AtomicBool::new(false),
            waker,
            limit: AtomicUsize::new(limit),
            asleep: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // Nobody panics while holding it; were it so, the queue would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only closures count against the limit: results and stops are ours, and must arrive.
    pub(crate) fn put(&self, post: Post<S>) -> Result<(), PostError> {
        let mut state = self.lock();
        if state.closed {
            return Err(PostError::Stopped);
        }
        if matches!(post, Post::Call(_)) && state.queue.len() >= self.limit.load(Ordering::Relaxed)
        {
            return Err(PostError::Full);
        }
        if matches!(post, Post::Stop { .. }) {
            self.stopping.store(true, Ordering::Relaxed);
        }
        state.queue.push_back(post);
        drop(state);
        // One wake is enough for all that is put before the loop looks.
        if !self.pending.swap(true, Ordering::AcqRel) {
            (self.waker)();
        }
        Ok(())
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes the first `most`; the others wait where they count against the limit.
    pub(crate) fn take(&self, most: usize) -> VecDeque<Post<S>> {
        if !self.pending.swap(false, Ordering::AcqRel) {
            return VecDeque::new();
        }
        let mut state = self.lock();
        if state.queue.len() <= most {
            return std::mem::take(&mut state.queue);
        }
        self.pending.store(true, Ordering::Release);
        state.queue.drain(..most).collect()
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) || self.has_woken.load(Ordering::SeqCst)
    }

    /// Said before the loop looks whether there is anything to do, and when it has waited. Whoever wakes a task notes
    /// that first, and looks here then: so one of the two sees the other.
    pub(crate) fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::SeqCst);
    }

    /// A task has something to do. From any thread; without a system call while the loop is awake, as it is
    /// whenever the wake comes from its own.
    pub(crate) fn wake_task(&self, task: TaskId) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.woken.push(task);
        drop(state);
        let is_first = !self.has_woken.swap(true, Ordering::SeqCst);
        if is_first && self.asleep.load(Ordering::SeqCst) {
            (self.waker)();
        }
    }

    /// Tasks that were woken, in that order.
    pub(crate) fn take_woken(&self, into: &mut VecDeque<TaskId>) {
        if self.has_woken.swap(false, Ordering::SeqCst) {
            into.extend(self.lock().woken.drain(..));
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        let left = {
            let mut state = self.lock();
            state.closed = true;
            state.woken = Vec::new();
            std::mem::take(&mut state.queue)
        };
        drop(left); // outside the lock: a closure's drop may post again
    }
}

/// Why a closure could not be posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PostError {
    /// The loop has ended.
    Stopped,
    /// `limits.posts` closures wait already.
    Full,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Stopped => "the loop has ended",
            PostError::Full => "limits.posts closures wait already",
        })
    }
}

impl std::error::Error for PostError {}

/// A loop, seen from another thread. `Send`, cheap to clone.
///
/// ```
/// use loopwright::{App, Server};
/// let mut app = App::<u32>::new();
/// app.get("/", |cx, _, res| res.text(cx.state.to_string()));
/// let mut server = Server::bind("127.0.0.1:0", app, 0).unwrap();
/// let handle = server.handle();
/// let other = std::thread::spawn(move || {
///     handle.post(|cx| *cx.state += 1).unwrap();
///     handle.stop();
/// });
/// server.run().unwrap();
/// other.join().unwrap();
/// assert_eq!(*server.state(), 1);
/// ```
pub struct Handle<S = ()> {
    pub(crate) mailbox: Arc<Mailbox<S>>,
}

impl<S> Handle<S> {
    /// Runs `f` on the loop, in the order posted.
    ///
    /// # Errors
    /// [`PostError::Stopped`] after the loop has ended, [`PostError::Full`] past `limits.posts`.
    pub fn post(&self, f: impl FnOnce(&mut Ctx<'_, S>) + Send + 'static) -> Result<(), PostError> {
        self.mailbox.put(Post::Call(Box::new(f)))
    }

    /// Stops accepting, answers what is open until `timeouts.drain`, and leaves. Called a second
    /// time, it leaves at once.
    pub fn stop(&self) {
        let _ = self.mailbox.put(Post::Stop { now: false });
    }

    /// Leaves at once; open connections are cut.
    pub fn stop_now(&self) {
        let _ = self.mailbox.put(Post::Stop { now: true });
    }
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Handle {
            mailbox: self.mailbox.clone(),
        }
    }
}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn a_task_wakes_a_loop_that_sleeps() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let waker: Waker = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let mailbox: Arc<Mailbox<()>> = Arc::new(Mailbox::new(waker, 1));
        let task = |slot| TaskId {
            slot,
            generation: 1,
        };
        let taken = || {
            let mut woken = VecDeque::new();
            mailbox.take_woken(&mut woken);
            woken.into_iter().map(|task| task.slot).collect::<Vec<_>>()
        };
        assert!(!mailbox.is_pending());
        mailbox.wake_task(task(1));
        assert!(mailbox.is_pending());
        assert_eq!((calls.load(Ordering::Relaxed), taken()), (0, vec![1]));
        assert!(!mailbox.is_pending());
        let elsewhere = |slots: [u32; 2]| {
            let mailbox = mailbox.clone();
            let wake = move || slots.map(|slot| mailbox.wake_task(task(slot)));
            std::thread::spawn(wake).join().unwrap();
        };
        elsewhere([8, 9]);
        assert_eq!((calls.load(Ordering::Relaxed), taken()), (0, vec![8, 9]));
        mailbox.set_asleep(true);
        // Once is enough until the loop has looked.
        elsewhere([2, 3]);
        assert_eq!((calls.load(Ordering::Relaxed), taken()), (1, vec![2, 3]));
        elsewhere([4, 5]);
        mailbox.close();
        elsewhere([6, 7]);
        assert_eq!((calls.load(Ordering::Relaxed), taken()), (2, vec![]));
    }
}
