//! Floor 6: what a process is to its operating system: signals, the file limit, exit codes, logs, and
//! the processes beside it.

#[doc(hidden)]
pub mod bond;
pub mod log;
#[doc(hidden)]
pub mod serve;
pub(crate) mod signals;
#[doc(hidden)]
pub mod sink;
#[doc(hidden)]
pub mod workers;

pub use signals::{Signals, stop_on_signals};

/// Exit codes a supervisor may rely on.
pub mod exit {
    /// Stopped when told, nobody cut off.
    pub const CLEAN: u8 = 0;
    /// Could not start: a port taken, a folder missing.
    pub const CANNOT_START: u8 = 1;
    /// The drain's deadline passed, or a second signal came: answers were cut.
    pub const CUT: u8 = 3;
    /// The config is wrong (EX_CONFIG of sysexits.h).
    pub const BAD_CONFIG: u8 = 78;
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
