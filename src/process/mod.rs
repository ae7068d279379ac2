//! Floor 5: what a process is to its operating system: signals, the file limit, exit codes, logs.

pub mod log;
#[doc(hidden)]
pub mod sink;

use crate::Handle;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::io;
use std::time::Duration;

/// Exit codes a supervisor may rely on.
pub mod exit {
    /// Stopped when told, nobody cut off.
    pub const CLEAN: u8 = 0;
    /// Could not start: a port taken, a folder missing.
    pub const CANNOT_START: u8 = 1;
    /// The drain's deadline passed, or a second signal came: answers were cut.
    pub const CUT: u8 = 3;
}

/// TERM, INT and QUIT drain the server behind `handle`; a second one leaves at once. USR1 has the access
/// log's file opened anew ([`log::reopen`]).
///
/// The signals are waited for on a thread of their own: a loop that is stuck in a callback can
/// still be told to leave, and then the process ends, whatever the loop is at.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn stop_on_signals<S: 'static>(handle: Handle<S>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGUSR1])?;
    let watch = move || {
        let mut seen = 0;
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                log::reopen();
                continue;
            }
            seen += 1;
            handle.stop();
            if seen > 1 {
                // The loop has a moment to leave by itself, with its log lines.
                std::thread::sleep(Duration::from_millis(500));
                log::flush(Duration::from_millis(500));
                std::process::exit(exit::CUT.into());
            }
        }
    };
    std::thread::Builder::new()
        .name("loopwright-signals".into())
        .spawn(watch)
        .map(drop)
}

/// Raises the soft limit of open files to the hard one: one connection is one file.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, wanted) {
        ::log::warn!("the limit of open files stays at {:?}: {e}", now.current);
    }
}
