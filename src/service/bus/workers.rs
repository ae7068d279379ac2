//! Floor 4. A bus between the processes of one parent: a link from each to each, no server between.
//!
//! ```text
//! parent ── a socket pair for each two workers ─► Ctx::introduce ─► Bus::meet ─► a link (proto::bus::Link)
//! ```
//! Each side tells the other what it wants, change by change; one that does not read is told later, when there is
//! room again, what has become of all the changes since.
//!
//! Invariants: each other worker is published to only what it wants; what one of them does not read waits for it
//! alone, within `BusLimits::queue_size`, and is lost past it. A link ends with the process at its other end.

use super::super::dial::{Shared, hand_on};
use super::{BusLimits, Stats, deliver, pattern, stamped};
use crate::proto::bus::link::{Error, Event, Fate, Limits};
use crate::proto::bus::{Link as Machine, Pattern, Stamps};
use crate::{Bus, Ctx, Link, LinkHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;

const BUS: &str = "workers bus";

/// A bus to the other processes of one parent, for as many as introduce themselves with [`Ctx::introduce`]. `loopwright run`
/// does that for its workers; between processes of your own:
///
/// ```
/// use loopwright::service::bus::{BusLimits, Workers};
/// use loopwright::{App, Handle, Server};
/// use std::os::unix::net::UnixStream;
///
/// // Two servers, each on a thread of its own.
/// let (ours, theirs) = UnixStream::pair().unwrap();
/// let run = |stream: UnixStream, is_publisher: bool| std::thread::spawn(move || {
///     let mut app = App::<()>::new();
///     app.bus(Workers::new(BusLimits::default()));
///     let mut server = Server::bind("127.0.0.1:0", app, ()).unwrap();
///     server.handle().post(move |cx| {
///         cx.introduce(stream);
///         if is_publisher {
///             // Until the other one is heard to have got it.
///             cx.every(std::time::Duration::from_millis(5), |cx| cx.publish("ping", "hello").unwrap());
///             cx.on_publish("pong", |cx, _| cx.stop()).unwrap();
///         } else {
///             cx.on_publish("ping", |cx, ping| {
///                 assert_eq!(ping.message().as_text(), Some("hello"));
///                 cx.publish("pong", "got it").unwrap();
///                 cx.after(std::time::Duration::from_millis(100), |cx| cx.stop());
///             }).unwrap();
///         }
///     }).unwrap();
///     server.run().unwrap();
/// });
/// for server in [run(ours, true), run(theirs, false)] { server.join().unwrap() }
/// ```
pub struct Workers {
    hub: Shared<Hub>,
    stats: Stats,
}

struct Hub {
    limits: BusLimits,
    stats: Stats,
    mine: BTreeSet<Pattern>,
    stamps: Stamps,
    peers: BTreeMap<u64, Peer>,
    last: u64,
}

struct Peer {
    machine: Machine,
    /// `None`: its connection is not open yet.
    handle: Option<LinkHandle>,
    /// It has not been told all that is wanted here.
    is_behind: bool,
    /// What it has been told that is wanted no more, and it has yet to be told so.
    gone: BTreeSet<Pattern>,
}

/// Output that is handed on at once.
const PIECE: usize = 16 * 1024;

impl Workers {
    /// With nobody to speak to yet.
    pub fn new(limits: BusLimits) -> Workers {
        let stats = Stats::default();
        let hub = Hub {
            limits,
            stats: stats.clone(),
            mine: BTreeSet::new(),
            stamps: Stamps::new(fastrand::u64(..), super::REMEMBERED),
            peers: BTreeMap::new(),
            last: 0,
        };
        Workers {
            hub: Shared::new(hub),
            stats,
        }
    }

    /// What it counts, to be read while it runs.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }
}

impl<S: 'static> Bus<S> for Workers {
    fn publish(&mut self, cx: &mut Ctx<'_, S>, publication: &crate::Publication) {
        self.hub.with(|hub| hub.publish(cx, publication));
    }

    fn wanted(&mut self, _: &mut Ctx<'_, S>, text: &str, wanted: bool) {
        let Some(pattern) = pattern(text) else { return };
        self.hub.with(|hub| hub.wanted(pattern, wanted));
    }

    fn meet(&mut self, cx: &mut Ctx<'_, S>, peer: UnixStream) {
        if let Some(id) = self.hub.with(Hub::meet) {
            let hub = self.hub.clone();
            cx.adopt(peer, Wire { hub, id });
        }
    }
}

/// A connection's end of it.
struct Wire {
    hub: Shared<Hub>,
    id: u64,
}

impl<S: 'static> Link<S> for Wire {
    fn open(&mut self, _: &mut Ctx<'_, S>, handle: LinkHandle) {
        self.hub.with(|hub| {
            if let Some(peer) = hub.peers.get_mut(&self.id) {
                peer.handle = Some(handle);
                peer.catch_up(&hub.mine, hub.limits.patterns);
            }
            hub.count();
        });
    }

    fn input(&mut self, cx: &mut Ctx<'_, S>, bytes: &[u8], _: &mut Vec<u8>) -> Result<(), String> {
        let heard = self.hub.with(|hub| hub.input(cx, self.id, bytes));
        heard.unwrap_or(Ok(()))
    }

    fn drained(&mut self, _: &mut Ctx<'_, S>) {
        self.hub.with(|hub| {
            let peer = hub.peers.get_mut(&self.id)?;
            peer.catch_up(&hub.mine, hub.limits.patterns);
            Some(())
        });
    }

    fn close(&mut self, cx: &mut Ctx<'_, S>, why: &str) {
        self.hub.with(|hub| {
            hub.peers.remove(&self.id);
            hub.count();
        });
        if !cx.is_stopping() {
            log::info!("{BUS}: a worker is not spoken to any more: {why}");
        }
    }
}

impl Hub {
    fn meet(&mut self) -> u64 {
        let limits = Limits {
            // And the one for everything.
            patterns: self.limits.patterns.saturating_add(1),
            publication: self.limits.publication,
            output: self.limits.queue_size,
        };
        let peer = Peer {
            machine: Machine::new(limits),
            handle: None,
            is_behind: true,
            gone: BTreeSet::new(),
        };
        self.last += 1;
        self.peers.insert(self.last, peer);
        self.last
    }

    fn count(&self) {
        let open = self.peers.values().filter(|peer| peer.handle.is_some());
        self.stats.0.connections.set(open.count());
    }

    fn publish<S: 'static>(&mut self, cx: &mut Ctx<'_, S>, publication: &crate::Publication) {
        let topic = publication.topic();
        if !self.peers.values().any(|peer| peer.machine.wants(topic)) {
            return;
        }
        let sealed = stamped(&mut self.stamps, publication).seal();
        let mut lost = 0;
        for peer in self.peers.values_mut() {
            match peer.machine.publish(topic, &sealed) {
                Fate::Queued => peer.flush(),
                Fate::Lost => lost += 1,
                Fate::Unwanted => {}
            }
        }
        self.stats.tell(cx, BUS, lost, 0);
    }

    fn wanted(&mut self, pattern: Pattern, wanted: bool) {
        for peer in self.peers.values_mut() {
            peer.change(&pattern, wanted, self.limits.patterns);
        }
        match wanted {
            true => self.mine.insert(pattern),
            false => self.mine.remove(&pattern),
        };
    }

    fn input<S: 'static>(
        &mut self,
        cx: &mut Ctx<'_, S>,
        id: u64,
        mut bytes: &[u8],
    ) -> Result<(), String> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        let mut missed = 0;
        loop {
            match peer.machine.poll_event(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Event::Message(publication))) => {
                    missed += u64::from(!deliver(cx, &publication));
                }
                Ok(Some(Event::Changed { .. } | Event::Confirmed { .. })) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        // Confirmations of what it has asked for.
        peer.flush();
        self.stats.tell(cx, BUS, 0, missed);
        Ok(())
    }
}

impl Peer {
    /// Tells it, unless there is no room for that now.
    fn change(&mut self, pattern: &Pattern, wanted: bool, most: usize) {
        self.is_behind |= !self.has_room();
        match wanted {
            true if self.is_behind => drop(self.gone.remove(pattern)),
            true => self.want(pattern, most),
            false if !self.is_behind => self.tell(|machine| machine.unwant(pattern)),
            false if self.machine.mine().contains(pattern) => {
                self.gone.insert(pattern.clone());
            }
            // It has never been told.
            false => {}
        }
        self.flush();
    }

    /// There is room again, or at last a connection.
    fn catch_up(&mut self, mine: &BTreeSet<Pattern>, most: usize) {
        while self.is_behind && self.has_room() {
            if let Some(pattern) = self.gone.pop_first() {
                self.tell(|machine| machine.unwant(&pattern));
                continue;
            }
            for pattern in mine {
                if !self.has_room() {
                    return;
                }
                if !self.machine.mine().contains(pattern) {
                    self.want(pattern, most);
                }
            }
            self.is_behind = false;
        }
        self.flush();
    }

    /// Past so many patterns, everything: what nobody here wants ends here.
    fn want(&mut self, pattern: &Pattern, most: usize) {
        match self.machine.mine().len() < most {
            true => self.tell(|machine| machine.want(pattern)),
            false => self.tell(|machine| match "**".parse() {
                Ok(everything) => machine.want(&everything),
                Err(e) => Err(Error::Pattern(e)),
            }),
        }
    }

    fn has_room(&mut self) -> bool {
        if self.machine.output().len() >= PIECE {
            self.flush();
        }
        self.handle.is_some() && self.machine.output().len() < PIECE
    }

    fn tell(&mut self, f: impl FnOnce(&mut Machine) -> Result<(), Error>) {
        if let (Err(e), Some(handle)) = (f(&mut self.machine), &self.handle) {
            handle.abort(&e.to_string());
        }
    }

    /// Hands the connection what it can take; the rest waits in the machine, which has a limit.
    fn flush(&mut self) {
        let Some(handle) = &self.handle else { return };
        let n = hand_on(handle, self.machine.output());
        self.machine.sent(n);
    }
}
