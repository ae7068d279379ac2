//! Floor 6. The program's logger: where records of the `log` crate go.
//!
//! ```text
//!                ┌ target loopwright::access ─────────────► access Sink ─► stdout, or a file
//! log::info!(…) ─┤
//!                └ the rest ─► env_logger (level, format) ─► error Sink ─► stderr
//! ```
//! Invariant: no thread that logs ever waits for what the lines are written to; see [`super::sink`].

use super::sink::{Output, Sink};
use crate::service::access_log::TARGET;
use log::{LevelFilter, Log, Metadata, Record};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// Where the access log goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AccessTarget {
    /// Nowhere.
    Off,
    /// To standard output.
    #[default]
    Stdout,
    /// To the end of this file, which is made if there is none.
    File(PathBuf),
}

/// What is logged, and where.
///
/// ```
/// use loopwright::process::log::{AccessTarget, LogSettings};
/// let settings = LogSettings {
///     level: Some("warn,loopwright=debug".into()),
///     access: AccessTarget::File("/var/log/loopwright/access.log".into()),
///     ..LogSettings::default()
/// };
/// assert_eq!(settings.buffer, 1 << 20);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// The levels of everything but the access log, in the language of `RUST_LOG`: `info`,
    /// `warn,loopwright=debug`. The variable `RUST_LOG` wins if it is set. `None`: `info`.
    pub level: Option<String>,
    /// Where the access log goes. It has lines only if an App has
    /// [`access_log`](crate::service::access_log::access_log).
    pub access: AccessTarget,
    /// How many bytes of lines may wait to be written, in each of the two logs. 1 MiB.
    pub buffer: usize,
    /// How long lines of the access log wait for others, to be written together. 200 ms. The
    /// error log is written at once.
    pub flush: Duration,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings {
            level: None,
            access: AccessTarget::default(),
            buffer: 1 << 20,
            flush: Duration::from_millis(200),
        }
    }
}

struct Logger {
    errors: Sink,
    access: Sink,
    /// Filters and formats what goes to `errors`.
    formatter: RwLock<env_logger::Logger>,
}

/// How long a panic waits for its own line to be written.
const PANIC_FLUSH: Duration = Duration::from_millis(5);

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Installs the logger of this process. Once; later settings are for [`prepare`]. From now on panics are
/// logged as errors, with a backtrace if `RUST_BACKTRACE` is 1.
///
/// # Errors
/// If the access log's file cannot be opened (the error names it), a level is none, no thread can be
/// started, or the process has a logger already.
///
/// ```no_run
/// use loopwright::process::log;
/// log::init(&log::LogSettings::default())?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn init(settings: &LogSettings) -> io::Result<()> {
    let output = output(&settings.access)?;
    let formatter = formatter(settings)?;
    let errors = Sink::start("error log", settings.buffer, Duration::ZERO)?;
    // A process without standard error has nowhere to complain to, and works all the same.
    errors.direct(Output::stderr().ok());
    let access = Sink::start("access log", settings.buffer, settings.flush)?;
    access.direct(output);
    let logger = Logger {
        errors,
        access,
        formatter: RwLock::new(formatter),
    };
    let logger = LOGGER.get_or_init(|| logger);
    ::log::set_logger(logger).map_err(io::Error::other)?;
    logger.set_max_level();
    // The standard hook writes to standard error itself, and waits for it.
    std::panic::set_hook(Box::new(|info| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => ::log::error!("{info}\n{trace}"),
            _ => ::log::error!("{info}"),
        }
        // This may be the last thing the process does; but a panicking handler is to stall nobody.
        flush_errors(PANIC_FLUSH);
    }));
    Ok(())
}

/// Settings that can be had: from [`prepare`], for [`Prepared::apply`].
#[must_use = "nothing has changed yet"]
pub struct Prepared {
    settings: LogSettings,
    output: Option<Output>,
    formatter: env_logger::Logger,
}

/// Opens and reads what other settings need, and changes nothing yet: so that they can be part of a
/// larger change that happens as a whole or not at all.
///
/// # Errors
/// As [`init`]. Also if that was not called.
///
/// ```no_run
/// use loopwright::process::log::{self, LogSettings};
/// log::init(&LogSettings::default())?;
/// let other = LogSettings { level: Some("debug".into()), ..LogSettings::default() };
/// log::prepare(&other)?.apply();
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn prepare(settings: &LogSettings) -> io::Result<Prepared> {
    if LOGGER.get().is_none() {
        return Err(io::Error::other("the log was not set up"));
    }
    Ok(Prepared {
        settings: settings.clone(),
        output: output(&settings.access)?,
        formatter: formatter(settings)?,
    })
}

impl Prepared {
    /// These settings from now on. Lines logged before still go where they would have gone.
    pub fn apply(self) {
        let Some(logger) = LOGGER.get() else { return };
        *logger
            .formatter
            .write()
            .unwrap_or_else(PoisonError::into_inner) = self.formatter;
        logger.errors.resize(self.settings.buffer, Duration::ZERO);
        logger
            .access
            .resize(self.settings.buffer, self.settings.flush);
        logger.access.direct(self.output);
        logger.set_max_level();
    }
}

/// Opens the access log's file anew, after it was moved away: for log rotation. Lines logged before go
/// to the old file, none is lost. If it cannot be opened, the old one is kept, and an error logged.
pub fn reopen() {
    if let Some(logger) = LOGGER.get() {
        logger.access.reopen();
    }
}

/// Waits until all that was logged before is written, at most for `limit`: for the end of a process.
pub fn flush(limit: Duration) {
    if let Some(logger) = LOGGER.get() {
        logger.flush(limit);
    }
}

fn flush_errors(limit: Duration) {
    if let Some(logger) = LOGGER.get() {
        logger.errors.flush(limit);
    }
}

/// Lines that were dropped, from both logs, since [`init`].
pub fn dropped() -> u64 {
    LOGGER.get().map_or(0, |logger| {
        logger.errors.dropped() + logger.access.dropped()
    })
}

fn output(access: &AccessTarget) -> io::Result<Option<Output>> {
    match access {
        AccessTarget::Off => Ok(None),
        AccessTarget::Stdout => Output::stdout().map(Some),
        AccessTarget::File(path) => Output::open(path).map(Some),
    }
}

/// What filters and formats, and hands its lines to the error sink.
fn formatter(settings: &LogSettings) -> io::Result<env_logger::Logger> {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info);
    match (std::env::var("RUST_LOG"), &settings.level) {
        (Ok(level), _) => builder.parse_filters(&level),
        (_, Some(level)) => builder.parse_filters(checked(level)?),
        _ => &mut builder,
    };
    let style = match std::env::var("RUST_LOG_STYLE").as_deref() {
        Ok("always") => env_logger::WriteStyle::Always,
        Ok("never") => env_logger::WriteStyle::Never,
        _ if std::env::var_os("NO_COLOR").is_some() => env_logger::WriteStyle::Never,
        _ if io::stderr().is_terminal() => env_logger::WriteStyle::Always,
        _ => env_logger::WriteStyle::Never,
    };
    builder.write_style(style);
    builder.target(env_logger::Target::Pipe(Box::new(ToErrors)));
    Ok(builder.build())
}

/// env_logger complains to standard error and goes on; a setting with a mistake is to be refused.
fn checked(level: &str) -> io::Result<&str> {
    for part in level
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let word = part.rsplit('=').next().unwrap_or(part).trim();
        if word.parse::<LevelFilter>().is_err() {
            let text = format!("log.level: {word:?} is not off, error, warn, info, debug or trace");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(level)
}

/// env_logger writes each record, its line's end included, with one call.
struct ToErrors;

impl io::Write for ToErrors {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if let Some(logger) = LOGGER.get() {
            logger.errors.append(record);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    /// Taken while it is used, so that a `Display` that logs meanwhile finds an empty one.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

impl Logger {
    /// The access log is not a matter of levels: it is on or off.
    fn set_max_level(&self) {
        let access = match self.access.is_on() {
            true => LevelFilter::Info,
            false => LevelFilter::Off,
        };
        let errors = self.formatter(env_logger::Logger::filter);
        ::log::set_max_level(errors.max(access));
    }

    fn formatter<T>(&self, f: impl FnOnce(&env_logger::Logger) -> T) -> T {
        f(&self
            .formatter
            .read()
            .unwrap_or_else(PoisonError::into_inner))
    }

    fn flush(&self, limit: Duration) {
        // The error log last: it is where the other one's losses are told.
        if !self.access.flush(limit / 2) {
            ::log::error!("access log: its last lines could not be written");
        }
        self.errors.flush(limit / 2);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        match metadata.target() == TARGET {
            true => self.access.is_on(),
            false => self.formatter(|formatter| formatter.enabled(metadata)),
        }
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() != TARGET {
            return self.formatter(|formatter| formatter.log(record));
        }
        if !self.access.is_on() {
            return;
        }
        let mut line = LINE.take();
        line.clear();
        // Writing to a String fails only if the message's own `Display` does.
        let _ = writeln!(line, "{}", record.args());
        self.access.append(line.as_bytes());
        LINE.set(line);
    }

    fn flush(&self) {
        Logger::flush(self, Duration::from_secs(1));
    }
}
