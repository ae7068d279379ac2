//! Floor 6. Signals, on a thread of their own: a loop that is stuck in a callback can still be told to
//! leave. What they ask for is done elsewhere if it can take long, so that the next one is heard.

use super::{exit, log};
use crate::Handle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
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

/// What is said to USR2.
pub(super) const NO_REPLACE: &str = "USR2: replacing the running binary is not built yet";

/// Signals that do not end the process any more, and wait until somebody asks for them.
#[doc(hidden)]
pub struct Signals(signal_hook::iterator::Signals);

impl Signals {
    /// From now on none is lost, and none ends the process by itself.
    pub fn register() -> io::Result<Signals> {
        let all = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];
        signal_hook::iterator::Signals::new(all).map(Signals)
    }

    /// Calls `f` for each of them, those that came before included.
    pub(super) fn watch(mut self, mut f: impl FnMut(Request) + Send + 'static) -> io::Result<()> {
        let watch = move || {
            for signal in self.0.forever() {
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

    /// Does what they ask of one serving process; `reload` is called for HUP, and returns soon.
    pub(super) fn obey<S: 'static>(
        self,
        handle: Handle<S>,
        mut reload: impl FnMut() + Send + 'static,
    ) -> io::Result<()> {
        let mut stops = 0;
        self.watch(move |request| match request {
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
    Signals::register()?.obey(handle, || {
        ::log::warn!("HUP: there is no config to read again")
    })
}
