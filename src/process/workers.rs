//! Floor 6. N processes on one port: the parent that starts them. `bond.rs` is the workers' side.
//!
//! ```text
//! parent ── reserves the addresses, binds but does not listen: port 0 becomes one port for all
//!    │ ─ starts ─► worker 1 … N: the same binary, each with SO_REUSEPORT listeners of its own
//!    │ ◄─ ready ──     one socket pair each, the worker's stdin: configs go down, a byte that says that it
//!    │ ─ configs ─►    listens comes up, and its end means that the other side is gone
//!    │ ─ peers ─►      and, with a bus between workers, one more pair for each two that listen
//!    │ ─ signals ─►
//!    └ one dies ─► a log line ─► another one, after 100 ms, 200 ms … 5 s
//! ```
//! Invariants: nobody is started again while the parent is leaving; a worker leaves when its parent is
//! gone, however that ended; a signal goes to the process it is for, never to one that has since got
//! its number (pidfd).

use super::bond::{ADDRESSES, HAND_OVER, WORKER, introduce, send};
use super::log::{self, LogSettings};
use super::signals::{self, Request, Signals};
use super::{exit, raise_file_limit, serve};
use crate::Listen;
use crate::config::{BusConfig, Config, Report};
use crate::net::mio::Reservation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

/// A worker that has lived so long was not doomed from its start.
const SETTLED: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Past the drain's deadline workers have so long to be gone by themselves.
const GRACE: Duration = Duration::from_secs(5);

enum Event {
    Asked(Request),
    Loaded(Box<Result<Config, Report>>),
    Ready(u64),
    Ended(u64, io::Result<ExitStatus>),
}

/// A place for a worker, filled or waiting to be.
struct Slot {
    number: usize,
    process: Option<Process>,
    /// Deaths since one was settled.
    failures: u32,
    /// When it is to be filled again.
    due: Option<Instant>,
}

struct Process {
    id: u64,
    pid: u32,
    pidfd: OwnedFd,
    bond: UnixStream,
    since: Instant,
    is_ready: bool,
    /// The log files were to be opened again while it was starting.
    missed_reopen: bool,
}

struct Parent {
    path: PathBuf,
    /// The config that all run, as accepted; the file may say something else by now.
    text: String,
    /// Asks for the file to be read.
    load: Sender<()>,
    bus: BusConfig,
    reserved: Vec<(String, Reservation)>,
    slots: Vec<Slot>,
    /// Told to leave because a reload wants fewer.
    leaving: Vec<Process>,
    last_id: u64,
    events: Sender<Event>,
    has_announced: bool,
    stops: u32,
    kill_at: Option<Instant>,
    drain: Duration,
    /// The worst exit code of a worker.
    code: u8,
}

/// Serves with as many processes as the config says, until told to stop; returns the exit code.
/// `announce` is called once, when the first of them all listen.
///
/// # Errors
/// If an address cannot be had, or no process be started.
pub fn run(
    signals: Signals,
    path: &Path,
    config: &Config,
    announce: impl FnMut(&[Listen]),
) -> io::Result<u8> {
    raise_file_limit();
    let (events, happened) = mpsc::channel();
    let (loaded, asked) = (events.clone(), events.clone());
    let load = serve::loader(path.to_path_buf(), move |found| {
        let _ = loaded.send(Event::Loaded(Box::new(found)));
    })?;
    let mut parent = Parent {
        path: path.to_path_buf(),
        text: config.text().to_string(),
        load,
        bus: config.bus(),
        reserved: Vec::new(),
        slots: Vec::new(),
        leaving: Vec::new(),
        last_id: 0,
        events,
        has_announced: false,
        stops: 0,
        kill_at: None,
        drain: config.drain(),
        code: exit::CLEAN,
    };
    parent.reserve(&config.listen())?;
    signals.watch(move |request| drop(asked.send(Event::Asked(request))))?;
    for number in 1..=config.workers() {
        parent.open_slot(number)?;
    }
    parent.serve(&happened, announce)
}

impl Parent {
    fn serve(
        &mut self,
        happened: &Receiver<Event>,
        mut announce: impl FnMut(&[Listen]),
    ) -> io::Result<u8> {
        loop {
            let is_over = self.leaving.is_empty() && self.processes().next().is_none();
            if self.stops > 0 && is_over {
                return Ok(self.code);
            }
            match self.next(happened) {
                Some(Event::Asked(request)) => self.on_request(request),
                Some(Event::Loaded(found)) => self.on_loaded(*found),
                Some(Event::Ready(id)) => self.on_ready(id),
                Some(Event::Ended(id, status)) => self.on_end(id, &status?),
                None => self.on_time(),
            }
            // Whatever it was, it may have left only workers that listen.
            let all = self.stops == 0 && self.processes().all(|process| process.is_ready);
            if all && !std::mem::replace(&mut self.has_announced, true) {
                let real = self.reserved.iter().map(|(_, held)| held.address());
                announce(&real.collect::<Vec<Listen>>());
            }
        }
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.slots.iter().filter_map(|slot| slot.process.as_ref())
    }

    /// The next thing to happen; `None`: something is due.
    fn next(&self, happened: &Receiver<Event>) -> Option<Event> {
        let due = self.slots.iter().filter_map(|slot| slot.due);
        match due.chain(self.kill_at).min() {
            None => happened.recv().ok(),
            Some(due) => {
                let wait = due.saturating_duration_since(Instant::now());
                happened.recv_timeout(wait).ok()
            }
        }
    }

    /// Holds these addresses for the workers. What was held before stays if one cannot be had.
    fn reserve(&mut self, addresses: &[String]) -> io::Result<()> {
        let mut reserved = Vec::new();
        for address in addresses {
            let held = self.reserved.iter().any(|(known, _)| known == address);
            if !held {
                reserved.push((address.clone(), Reservation::of(&address.parse()?)?));
            }
        }
        self.reserved.retain(|(known, _)| addresses.contains(known));
        self.reserved.extend(reserved);
        Ok(())
    }

    fn open_slot(&mut self, number: usize) -> io::Result<()> {
        let process = self.start(number)?;
        self.slots.push(Slot {
            number,
            process: Some(process),
            failures: 0,
            due: None,
        });
        Ok(())
    }

    fn start(&mut self, number: usize) -> io::Result<Process> {
        let line = |(asked, held): &(String, Reservation)| format!("{asked}={}", held.address());
        let addresses: Vec<String> = self.reserved.iter().map(line).collect();
        let (ours, theirs) = UnixStream::pair()?;
        // The very binary that runs, even if another has taken its place on the disk.
        let child = Command::new("/proc/self/exe")
            .arg0(format!("loopwright-w{number}"))
            .arg("run")
            .arg("--config")
            .arg(&self.path)
            .env(WORKER, number.to_string())
            .env(ADDRESSES, addresses.join("\n"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // A terminal's Ctrl-C is for the parent, which passes it on.
            .process_group(0)
            .spawn()?;
        self.last_id += 1;
        let bound = bind(&child, &ours, &self.text);
        let (pidfd, bond) = match bound {
            Ok(bound) => bound,
            Err(e) => {
                let mut child = child;
                // It would wait for us, and nobody for it.
                let _ = child.kill();
                let _ = child.wait();
                return Err(e);
            }
        };
        let process = Process {
            id: self.last_id,
            pid: child.id(),
            pidfd,
            bond,
            since: Instant::now(),
            is_ready: false,
            missed_reopen: false,
        };
        attend(child, ours, process.id, self.events.clone())?;
        Ok(process)
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Stop => {
                self.stops += 1;
                self.kill_at
                    .get_or_insert(Instant::now() + self.drain + GRACE);
                self.slots.iter_mut().for_each(|slot| slot.due = None);
                self.signal(Signal::TERM);
                if self.stops > 1 {
                    // The first one they have had already.
                    self.leaving.iter().for_each(|p| p.signal(Signal::TERM));
                }
            }
            Request::Reload => drop(self.load.send(())),
            Request::Reopen => {
                let processes = self
                    .slots
                    .iter_mut()
                    .filter_map(|slot| slot.process.as_mut());
                for process in processes.chain(&mut self.leaving) {
                    match process.is_ready {
                        true => process.signal(Signal::USR1),
                        false => process.missed_reopen = true,
                    }
                }
            }
            Request::Replace => ::log::warn!("{}", signals::NO_REPLACE),
        }
    }

    /// The file has been read.
    fn on_loaded(&mut self, found: Result<Config, Report>) {
        if self.stops > 0 {
            return;
        }
        let accept = |config: Config| self.reload(&config);
        let accepted = found.map_err(io::Error::other).and_then(accept);
        if let Err(e) = accepted {
            ::log::error!("{e}\nthe config stays as it was");
        }
    }

    /// What of a config is the parent's: addresses, and how many workers there are. The rest goes to the
    /// workers.
    fn reload(&mut self, config: &Config) -> io::Result<()> {
        serve::same_bus(&self.bus, config)?;
        let logs = log::prepare(&log_settings(serve::log_settings(config.log())))?;
        let listen = config.listen();
        let mut held: Vec<&String> = self.reserved.iter().map(|(asked, _)| asked).collect();
        for address in &listen {
            let any_port = matches!(address.parse(), Ok(Listen::Tcp(a)) if a.port() == 0);
            match held.iter().position(|known| *known == address) {
                Some(at) => drop(held.remove(at)),
                None if any_port => {
                    let why = format!("{address}: with workers, a new port 0 needs a restart");
                    return Err(io::Error::other(why));
                }
                None => {}
            }
        }
        self.reserve(&listen)?;
        logs.apply();
        self.drain = config.drain();
        self.text = config.text().to_string();
        for process in self.processes() {
            if let Err(e) = send(&process.bond, &self.text) {
                ::log::error!("pid {}: it does not take the config: {e}", process.pid);
            }
        }
        for number in self.slots.len() + 1..=config.workers() {
            self.open_slot(number)?;
        }
        for slot in self.slots.split_off(config.workers().min(self.slots.len())) {
            if let Some(process) = slot.process {
                ::log::info!(
                    "worker {} (pid {}) is not needed any more",
                    slot.number,
                    process.pid
                );
                process.signal(Signal::TERM);
                self.leaving.push(process);
            }
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        self.processes().for_each(|process| process.signal(signal));
    }

    fn on_ready(&mut self, id: u64) {
        for slot in &mut self.slots {
            if let Some(process) = slot.process.as_mut().filter(|process| process.id == id) {
                process.is_ready = true;
                if process.missed_reopen {
                    process.signal(Signal::USR1);
                }
                ::log::info!("worker {} (pid {}) listens", slot.number, process.pid);
            }
        }
        if matches!(self.bus, BusConfig::Workers(_)) {
            self.introduce(id);
        }
    }

    /// Gives a worker that has begun to listen, and each of the others, a connection to the other.
    fn introduce(&self, id: u64) {
        let (new, others): (Vec<&Process>, Vec<&Process>) = self
            .processes()
            .filter(|p| p.is_ready)
            .partition(|p| p.id == id);
        for (new, other) in new
            .iter()
            .flat_map(|new| others.iter().map(move |o| (new, o)))
        {
            let introduced = UnixStream::pair().and_then(|(one, another)| {
                introduce(&new.bond, &one)?;
                introduce(&other.bond, &another)
            });
            if let Err(e) = introduced {
                let (new, other) = (new.pid, other.pid);
                ::log::error!(
                    "pid {new} and pid {other} do not hear each other's publications: {e}"
                );
            }
        }
    }

    fn on_end(&mut self, id: u64, status: &ExitStatus) {
        let is_its = |slot: &&mut Slot| slot.process.as_ref().is_some_and(|p| p.id == id);
        let Some(slot) = self.slots.iter_mut().find(is_its) else {
            return self.leaving.retain(|process| process.id != id);
        };
        let Some(process) = slot.process.take() else {
            return;
        };
        let how = match status.signal() {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("ended with {}", status.code().unwrap_or_default()),
        };
        let code = match status.code() {
            Some(code) => u8::try_from(code).unwrap_or(exit::CANNOT_START),
            None if self.stops > 0 && process.is_ready => exit::CUT,
            None if self.stops > 0 => exit::CLEAN,
            None => exit::CANNOT_START,
        };
        let name = format!("worker {} (pid {})", slot.number, process.pid);
        if self.stops > 0 {
            self.code = self.code.max(code);
            return;
        }
        if !self.has_announced {
            // What keeps one of them from starting keeps the others, too.
            ::log::error!("{name} {how} before all of them listened");
            self.code = self.code.max(code).max(exit::CANNOT_START);
            return self.on_request(Request::Stop);
        }
        if process.since.elapsed() >= SETTLED {
            slot.failures = 0;
        }
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(slot.failures)).min(LONGEST_PAUSE);
        slot.failures = slot.failures.saturating_add(1);
        slot.due = Some(Instant::now() + pause);
        ::log::error!(
            "{name} {how}; another one starts in {} ms",
            pause.as_millis()
        );
    }

    /// Starts whom it is time to start, and ends whom it is time to end.
    fn on_time(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            ::log::warn!("the drain's deadline has passed: killing the rest");
            self.kill_at = None;
            self.signal(Signal::KILL);
            self.leaving.iter().for_each(|p| p.signal(Signal::KILL));
        }
        for at in 0..self.slots.len() {
            if self.slots[at].due.is_none_or(|due| due > now) {
                continue;
            }
            let number = self.slots[at].number;
            let started = self.start(number);
            let slot = &mut self.slots[at];
            match started {
                Ok(process) => (slot.process, slot.due) = (Some(process), None),
                Err(e) => {
                    ::log::error!("worker {number} cannot be started: {e}");
                    slot.due = Some(now + LONGEST_PAUSE);
                }
            }
        }
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        // It may be gone already, and then its end is on its way to us.
        if let Err(e) = pidfd_send_signal(&self.pidfd, signal) {
            ::log::debug!("pid {}: {e}", self.pid);
        }
    }
}

/// What is needed to speak with a worker, which is told what to run.
fn bind(child: &Child, ours: &UnixStream, text: &str) -> io::Result<(OwnedFd, UnixStream)> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let bond = ours.try_clone()?;
    bond.set_write_timeout(Some(HAND_OVER))?;
    send(&bond, text)?;
    Ok((pidfd, bond))
}

/// Waits on a thread for what a worker says, and for its end.
fn attend(mut child: Child, mut bond: UnixStream, id: u64, tell: Sender<Event>) -> io::Result<()> {
    let attend = move || {
        if matches!(bond.read(&mut [0]), Ok(1)) {
            let _ = tell.send(Event::Ready(id));
        }
        let _ = tell.send(Event::Ended(id, child.wait()));
    };
    std::thread::Builder::new()
        .name(format!("loopwright-worker-{id}"))
        .spawn(attend)
        .map(drop)
}

/// The parent logs to standard error alone: the access log is the workers'.
pub fn log_settings(settings: LogSettings) -> LogSettings {
    LogSettings {
        access: log::AccessTarget::Off,
        ..settings
    }
}
