//! Floor 6. Signals, on a thread of their own: a loop that is stuck in a callback can still be told to
//! leave.

use super::{exit, log};
use crate::Handle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::time::Duration;

/// How long a loop that was told to leave at once has to do so by itself, with its log lines.
const LAST_MOMENT: Duration = Duration::from_millis(500);

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

/// TERM, INT and QUIT drain the server behind `handle`; a second one leaves at once, with exit code 3.
/// USR1 opens the access log's file again ([`log::reopen`]). HUP changes nothing.
///
/// # Errors
/// If the handlers cannot be installed.
///
/// ```no_run
/// use loopwright::{App, Server, process};
/// let mut server = Server::bind("127.0.0.1:8080", App::new(), ())?;
/// process::stop_on_signals(server.handle())?;
/// server.run()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn stop_on_signals<S: 'static>(handle: Handle<S>) -> io::Result<()> {
    obey(handle, || {
        ::log::warn!("HUP: there is no config to read again")
    })
}

/// The same; `reload` is called for HUP.
pub(super) fn obey<S: 'static>(
    handle: Handle<S>,
    mut reload: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let mut stops = 0;
    watch(move |request| match request {
        Request::Stop => {
            stops += 1;
            handle.stop();
            if stops > 1 {
                std::thread::sleep(LAST_MOMENT);
                log::flush(LAST_MOMENT);
                std::process::exit(exit::CUT.into());
            }
        }
        Request::Reload => reload(),
        Request::Reopen => log::reopen(),
        Request::Replace => ::log::warn!("{NO_REPLACE}"),
    })
}

/// What is said to USR2.
pub(super) const NO_REPLACE: &str = "USR2: replacing the running binary is not built yet";

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
