//! Floor 6. One process that serves, from its first listener to its exit code.
//!
//! ```text
//! signals thread ── TERM, INT, QUIT ─► Handle::stop                      the loop drains and ends
//!                ── HUP ─► Config::load ─┬─ good ─► channel, wake ─► between two turns: reload
//!                │                       └─ bad  ─► log; the old one stays
//!                └─ USR1 ─► log::reopen
//! ```

use super::log::{self, AccessTarget, LogSettings};
use super::{exit, raise_file_limit, signals, workers};
use crate::config::{Config, LogConfig};
use crate::{App, Builder, Handle, Listen, Server};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};

/// Serves until told to stop, and returns the exit code. `ready` is called when the listeners are
/// open. With a config's path, HUP reads it again; `addresses` says where its addresses really are.
///
/// # Errors
/// If the server cannot be built, or signals not be waited for.
pub fn serve(
    builder: Builder,
    app: App,
    config: Option<PathBuf>,
    addresses: impl Fn(&str) -> String + 'static,
    ready: impl FnOnce(&[Listen], Handle) -> io::Result<()>,
) -> io::Result<u8> {
    raise_file_limit();
    let mut server = builder.with_addresses(&addresses).build(app, ())?;
    let (tell, reloads) = mpsc::channel();
    obey(server.handle(), config, tell)?;
    ready(&server.addresses(), server.handle())?;
    while server.turn()? {
        reload(&mut server, &reloads, &addresses);
    }
    Ok(match server.cut_connections() {
        0 => exit::CLEAN,
        cut => {
            ::log::warn!("{cut} answers were cut");
            exit::CUT
        }
    })
}

/// Reads the config again when HUP says so, and hands a good one to the loop.
fn obey(handle: Handle, config: Option<PathBuf>, tell: Sender<Config>) -> io::Result<()> {
    let Some(path) = config else {
        return signals::stop_on_signals(handle);
    };
    let wake = handle.clone();
    signals::obey(handle, move || match Config::load(&path) {
        Ok(config) => {
            if config.workers() > 1 && !workers::is_worker() {
                ::log::warn!(
                    "workers = {}: from one to several needs a restart",
                    config.workers()
                );
            }
            let _ = tell.send(config);
            // Whatever it is at, it looks at the channel after that turn.
            let _ = wake.post(|_| {});
        }
        Err(report) => ::log::error!("{report}\nthe config stays as it was"),
    })
}

/// Takes what the signals thread has read; the last one counts.
fn reload(server: &mut Server, reloads: &Receiver<Config>, addresses: &impl Fn(&str) -> String) {
    let Some(config) = reloads.try_iter().last() else {
        return;
    };
    let mut replace = || -> io::Result<()> {
        let (builder, app) = config.build().map_err(io::Error::other)?;
        server.reload(builder.with_addresses(addresses), app)
    };
    if let Err(e) = replace() {
        return ::log::error!("{e}\nthe config stays as it was");
    }
    if let Err(e) = log::apply(&log_settings(config.log())) {
        ::log::error!("{e}\nthe log stays as it was");
    }
    ::log::info!("the config has been read again");
}

/// What the logger has to know of a config.
pub fn log_settings(config: LogConfig) -> LogSettings {
    LogSettings {
        level: Some(config.level),
        access: match (config.access, config.access_file) {
            (None, _) => AccessTarget::Off,
            (Some(_), None) => AccessTarget::Stdout,
            (Some(_), Some(path)) => AccessTarget::File(path),
        },
        buffer: config.buffer,
        flush: config.flush,
    }
}
