//! Floor 6. One process that serves, from its first listener to its exit code.
//!
//! ```text
//! signals ── TERM, INT, QUIT ─► Handle::stop                              the loop drains and ends
//!         ── HUP ─► reload thread: Config::load ─┬─ good ─► channel, wake ─► between two turns: reload
//!         │                                      └─ bad  ─► log; the old one stays
//!         └─ USR1 ─► log::reopen
//! a worker: the config comes from its parent instead, who has checked it
//! ```

use super::bond::{self, Bond};
use super::log::{self, AccessTarget, LogSettings};
use super::signals::Signals;
use super::{exit, raise_file_limit};
use crate::config::{BusConfig, Config, LogConfig, Report};
use crate::service::bus::Workers;
use crate::{App, Builder, Handle, Listen, Server};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};

/// Where another config comes from.
pub enum Source {
    /// From nowhere: what is served stays.
    Nowhere,
    /// From this file, at HUP; the bus is to stay the same.
    File(PathBuf, Box<BusConfig>),
    /// From the parent of this worker, who introduces the others if they are to hear each other.
    Parent(Bond, Box<BusConfig>),
}

/// Serves until told to stop, and returns the exit code. `announce` is called when the listeners are
/// open, unless a parent does that.
///
/// # Errors
/// If the server cannot be built, or no thread be started.
pub fn serve(
    signals: Signals,
    builder: Builder,
    mut app: App,
    source: Source,
    announce: impl FnOnce(&[Listen]),
) -> io::Result<u8> {
    raise_file_limit();
    let (tell, reloads) = mpsc::channel();
    let mut running = None;
    let (mut server, bond) = match source {
        Source::Parent(bond, bus) => {
            if let BusConfig::Workers(limits) = *bus {
                app.bus(Workers::new(limits));
            }
            let server = bond.place(builder).build(app, ())?;
            let handle = server.handle();
            signals.obey(handle, || {
                ::log::warn!("HUP: the parent process reads the config")
            })?;
            let places = bond.clone();
            bond.ready(server.handle(), tell)?;
            (server, Some(places))
        }
        Source::File(path, bus) => {
            running = Some(bus);
            warn_of_sharing(&builder);
            let server = builder.build(app, ())?;
            let handle = server.handle();
            let found = loader(path, move |config| hand_over(config, &handle, &tell))?;
            signals.obey(server.handle(), move || {
                let _ = found.send(());
            })?;
            announce(&server.addresses());
            (server, None)
        }
        Source::Nowhere => {
            warn_of_sharing(&builder);
            let server = builder.build(app, ())?;
            let why = "HUP: there is no config to read again";
            signals.obey(server.handle(), move || ::log::warn!("{why}"))?;
            announce(&server.addresses());
            (server, None)
        }
    };
    while server.turn()? {
        reload(&mut server, &reloads, bond.as_ref(), running.as_deref());
    }
    Ok(match server.cut_connections() {
        0 => exit::CLEAN,
        cut => {
            ::log::warn!("{cut} answers were cut");
            exit::CUT
        }
    })
}

/// A thread that loads the config whenever it is asked to: reading a file may take its time.
pub(super) fn loader(
    path: PathBuf,
    then: impl Fn(Result<Config, Report>) + Send + 'static,
) -> io::Result<Sender<()>> {
    let (ask, asked) = mpsc::channel();
    let load = move || {
        for () in asked {
            then(Config::load(&path));
        }
    };
    std::thread::Builder::new()
        .name("loopwright-config".into())
        .spawn(load)?;
    Ok(ask)
}

/// Gives what has been loaded to the loop.
pub(super) fn hand_over(found: Result<Config, Report>, handle: &Handle, tell: &Sender<Config>) {
    match found {
        Ok(config) => {
            if config.workers() > 1 && !bond::is_worker() {
                let n = config.workers();
                ::log::warn!("workers = {n}: from one to several needs a restart");
            }
            let _ = tell.send(config);
            // Whatever it is at, it looks at the channel after that turn.
            let _ = handle.post(|_| {});
        }
        Err(report) => ::log::error!("{report}\nthe config stays as it was"),
    }
}

/// Takes what has been loaded; the last one counts.
fn reload(
    server: &mut Server,
    reloads: &Receiver<Config>,
    bond: Option<&Bond>,
    running: Option<&BusConfig>,
) {
    let Some(config) = reloads.try_iter().last() else {
        return;
    };
    let mut replace = || -> io::Result<()> {
        if let Some(bus) = running {
            same_bus(bus, &config)?;
        }
        let (builder, app) = config.build().map_err(io::Error::other)?;
        let builder = match bond {
            Some(bond) => bond.place(builder),
            None => builder,
        };
        // What can fail comes first, so that all of it changes or nothing.
        let logs = log::prepare(&log_settings(config.log()))?;
        server.reload(builder, app)?;
        logs.apply();
        Ok(())
    };
    match replace() {
        Ok(()) => ::log::info!("the config has been read again"),
        Err(e) => ::log::error!("{e}\nthe config stays as it was"),
    }
}

/// The bus is for as long as a process runs, and the same in all that hear each other.
pub(super) fn same_bus(running: &BusConfig, config: &Config) -> io::Result<()> {
    match *running == config.bus() {
        true => Ok(()),
        false => Err(io::Error::other("another [bus] needs a restart")),
    }
}

/// Listeners share ports, on purpose or not.
fn warn_of_sharing(builder: &Builder) {
    for address in builder.taken() {
        ::log::warn!(
            "{address}: another process listens there, too; new connections are spread over both"
        );
    }
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
