//! Floor 6. Signals, on a thread of their own: a loop that is stuck in a callback can still be told to
//! leave.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;

/// What an operator asks of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// TERM, INT, QUIT: drain and leave.
    Stop,
    /// HUP: read the config again.
    Reload,
    /// USR1: open the log files again.
    Reopen,
    /// USR2: not built yet, but it must not end the process either, as it would by default.
    Replace,
}

/// Calls `f` for each signal.
pub(super) fn watch(mut f: impl FnMut(Request) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    let watch = move || {
        for signal in signals.forever() {
            f(match signal {
                SIGHUP => Request::Reload,
                SIGUSR1 => Request::Reopen,
                SIGUSR2 => Request::Replace,
                _ => Request::Stop,
            });
        }
    };
    std::thread::Builder::new()
        .name("loopwright-signals".into())
        .spawn(watch)
        .map(drop)
}
