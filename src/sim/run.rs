//! Floor 4. One run: a server, its clients, and what is checked after each turn and at the end.

use super::check::check;
use super::client::{Client, Ended, Seen};
use super::reason::{Kind, Reason, must};
use super::schedule::{Operation, Schedule};
use super::simulation::{Simulation, World};
use super::trace::Trace;
use crate::net::Peer;
use crate::net::sim::SimNet;
use crate::{App, Builder, Instant, Server};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// No run should need as many turns. One that does is going round in circles.
const MOST_TURNS: usize = 200_000;
/// No loop should look as often in vain.
const MOST_EMPTY_POLLS: usize = 1000;
/// Turns in which what was written before a stop still arrives, or a broken connection is noticed.
const LAST_TURNS: usize = 2000;
/// Bytes of input beyond a head that may wait: one read.
const ONE_READ: usize = 128 * 1024;
/// What a loop may keep for itself: one read, and output of a burst.
const LOOP_KEEPS: usize = 1 << 20;
/// A turn that does not wait takes no longer, in this world.
const NO_WAIT: Duration = Duration::from_millis(1);

/// What became of a run.
///
/// ```
/// # use loopwright::App;
/// # use loopwright::sim::{Simulation, Template};
/// # let simulation = Simulation::new(|| (), |_| {
/// #     let mut app: App = App::new();
/// #     app.get("/{id}", |_, _, res| res.text("hi"));
/// #     app
/// # });
/// let simulation = simulation.ask(Template::new("GET", "/{id}"));
/// let outcome = simulation.run(3).unwrap();
/// assert_eq!(outcome.cut, 0);
/// assert!(outcome.turns > 0);
/// ```
pub struct Outcome {
    /// Its circumstances.
    pub world: World,
    /// Its clients, in order.
    pub clients: Vec<Seen>,
    /// The server was told to stop.
    pub is_stopped: bool,
    /// It was told twice, and left at once: what was on its way may be lost.
    pub left_at_once: bool,
    /// Connections that were cut when it left, in the middle of an answer.
    pub cut: usize,
    /// When it left, if it did not wait for all connections to end.
    pub left_at: Option<Instant>,
    /// Requests that were dispatched.
    pub requests: u64,
    /// Turns of the loop.
    pub turns: usize,
    /// When it was over.
    pub end: Instant,
    /// The time of each step and answer, if it was traced.
    pub trace: String,
}

pub(super) struct Run<'a, S> {
    simulation: &'a Simulation<S>,
    world: &'a World,
    builder: Builder,
    server: Server<S, SimNet>,
    clients: Vec<Client>,
    /// What the server is yet to be told, and when the next of it is due.
    program: VecDeque<Operation>,
    next: Instant,
    trace: Trace,
    told: &'a mut Option<String>,
    turns: usize,
    is_stopped: bool,
    left_at_once: bool,
    stopped_at: Instant,
    left_at: Option<Instant>,
    /// Calls of `after`.
    afters: Afters,
}

/// What `after` was told, and of whom.
type Afters = Rc<Cell<Vec<(Peer, Ended)>>>;

fn app<S: 'static>(simulation: &Simulation<S>, state: &S, afters: &Afters) -> App<S> {
    let (mut app, afters) = ((simulation.app)(state), afters.clone());
    app.after(move |cx, done| {
        let ended = Ended {
            at: cx.now(),
            is_aborted: done.is_aborted(),
        };
        let mut all = afters.take();
        all.push((done.remote(), ended));
        afters.set(all);
    });
    app
}

/// What happened is told of a run that panics, too.
impl<S> Drop for Run<'_, S> {
    fn drop(&mut self) {
        *self.told = self.trace.0.take();
    }
}

impl<'a, S: 'static> Run<'a, S> {
    pub(super) fn new(
        simulation: &'a Simulation<S>,
        seed: u64,
        world: &'a World,
        schedule: &Schedule,
        told: &'a mut Option<String>,
    ) -> Result<Run<'a, S>, Reason> {
        let builder = Server::builder();
        let builder = builder
            .limits(world.limits.clone())
            .timeouts(world.timeouts.clone());
        let (state, afters) = ((simulation.state)(), Rc::default());
        let app = app(simulation, &state, &afters);
        let net = SimNet::new(seed, world.faults).listeners(world.listeners);
        let server = builder.clone().simulate(net, app, state);
        let mut server =
            server.map_err(|e| Reason::new(Kind::Setup, format!("it does not build: {e}")))?;
        server.net_mut().let_clients_react();
        let program = |client| {
            let steps = schedule.steps.iter().filter(|step| step.client == client);
            steps
                .map(|step| step.operation.clone())
                .collect::<VecDeque<_>>()
        };
        let client = |n| Client::new(n, program(Some(n)), world.quickest());
        Ok(Run {
            simulation,
            world,
            builder,
            server,
            clients: (0..schedule.clients()).map(client).collect(),
            program: program(None),
            next: Instant::default(),
            trace: Trace(told.take()),
            told,
            turns: 0,
            is_stopped: false,
            left_at_once: false,
            stopped_at: Instant::default(),
            left_at: None,
            afters,
        })
    }

    pub(super) fn run(mut self) -> Result<Outcome, Reason> {
        let mut outcome = self.whole()?;
        outcome.trace = self.trace.0.clone().unwrap_or_default();
        Ok(outcome)
    }

    fn whole(&mut self) -> Result<Outcome, Reason> {
        let has_left = self.live()?;
        if has_left {
            // What the server has written before it left still arrives.
            for client in &mut self.clients {
                client.rest(self.server.net_mut());
            }
            self.last_turns()?;
        }
        let (net, afters) = (self.server.net_mut(), self.afters.take());
        let outcome = Outcome {
            world: self.world.clone(),
            clients: self
                .clients
                .iter()
                .map(|client| client.seen(net, &afters))
                .collect(),
            is_stopped: self.is_stopped,
            left_at_once: self.left_at_once,
            cut: self.server.cut_connections(),
            left_at: self.left_at,
            requests: self.server.stats().requests,
            turns: self.turns,
            end: self.server.net_mut().now(),
            trace: String::new(),
        };
        self.afters.set(afters);
        check(&outcome)?;
        if !has_left && self.server.open_exchanges() > 0 {
            // Answers that never come, as the App may: their clients go home.
            for client in &mut self.clients {
                client.leave(self.server.net_mut());
            }
            self.last_turns()?;
        }
        self.nothing_is_left(has_left)?;
        for check in &self.simulation.checks {
            check(self.server.state_mut(), &outcome)
                .map_err(|why| Reason::new(Kind::Check, why))?;
        }
        Ok(outcome)
    }

    /// Until nothing moves. Says whether the server has left.
    fn live(&mut self) -> Result<bool, Reason> {
        loop {
            let mut has_acted = self.act()?;
            let net = self.server.net_mut();
            for client in &mut self.clients {
                has_acted |= client.act(net, &self.simulation.templates, &mut self.trace)?;
            }
            let is_still = !has_acted && self.is_still();
            if is_still && !(self.simulation.when_quiet)(self.server.state_mut()) {
                return Ok(false);
            }
            if !self.turn()? {
                return Ok(true);
            }
        }
    }

    /// Nothing will ever happen again, or nothing but the App's own timers.
    fn is_still(&mut self) -> bool {
        let is_done = self.program.is_empty() && self.clients.iter().all(Client::is_done);
        let is_empty = self.server.connections() == 0 && self.server.open_exchanges() == 0;
        self.server.net_mut().is_quiet()
            || (is_done && is_empty && self.server.net_mut().is_still())
    }

    /// What the server is told.
    fn act(&mut self) -> Result<bool, Reason> {
        let mut has_acted = false;
        while self.next <= self.server.net_mut().now()
            && let Some(operation) = self.program.pop_front()
        {
            has_acted = true;
            self.trace
                .add(self.server.net_mut(), || format!("server: {operation}"));
            match operation {
                Operation::Wait(time) => {
                    let net = self.server.net_mut();
                    self.next = net.now() + time;
                    net.wake_at(self.next);
                }
                Operation::Stop => {
                    self.left_at_once = self.is_stopped;
                    if !self.is_stopped {
                        self.stopped_at = self.server.net_mut().now();
                    }
                    self.is_stopped = true;
                    self.server.handle().stop();
                }
                Operation::Reload => {
                    let app = app(self.simulation, self.server.state(), &self.afters);
                    let done = self.server.reload(self.builder.clone(), app);
                    done.map_err(|e| {
                        Reason::new(Kind::Setup, format!("it does not build again: {e}"))
                    })?;
                }
                Operation::Exhaust(times) => self.server.net_mut().exhaust(times),
                other => {
                    let text = format!("nothing for a server to do: {other}");
                    return Err(Reason::new(Kind::Setup, text));
                }
            }
        }
        Ok(has_acted)
    }

    /// Lets the end of a run arrive. A server that has left does not wait any more.
    fn last_turns(&mut self) -> Result<(), Reason> {
        for _ in 0..LAST_TURNS {
            self.server
                .turn()
                .map_err(|e| Reason::new(Kind::Setup, format!("a turn fails: {e}")))?;
        }
        Ok(())
    }

    /// A turn, and what must be true after each.
    fn turn(&mut self) -> Result<bool, Reason> {
        let (before, is_runnable) = (self.server.net_mut().now(), self.server.is_runnable());
        let goes_on = self
            .server
            .turn()
            .map_err(|e| Reason::new(Kind::Setup, format!("a turn fails: {e}")))?;
        self.turns += 1;
        let waited = self.server.net_mut().now() - before;
        must(!is_runnable || waited < NO_WAIT, Kind::Loop, || {
            format!("the loop slept for {waited:?} with somebody runnable")
        })?;
        must(self.turns < MOST_TURNS, Kind::Loop, || {
            "it goes round in circles".to_string()
        })?;
        let empty = self.server.net_mut().empty_polls();
        must(empty < MOST_EMPTY_POLLS, Kind::Loop, || {
            "the loop spins".to_string()
        })?;
        if let Some(what) = self.server.forgotten().next() {
            let text = format!("a connection sleeps, although {what}");
            return Err(Reason::new(Kind::Forgotten, text));
        }
        self.memory()?;
        if !goes_on {
            self.may_leave()?;
        }
        Ok(goes_on)
    }

    /// A server that has left has cut nobody, unless it was told to leave at once, or its drain has run
    /// out of time.
    fn may_leave(&mut self) -> Result<(), Reason> {
        let (now, cut) = (self.server.net_mut().now(), self.server.cut_connections());
        let (took, most) = (now - self.stopped_at, self.world.timeouts.drain);
        let may_cut = self.left_at_once || took >= most;
        must(cut == 0 || may_cut, Kind::Drain, || {
            format!("a drain has cut {cut} connections after {took:?} of {most:?}")
        })?;
        self.left_at = may_cut.then_some(now);
        Ok(())
    }

    fn memory(&mut self) -> Result<(), Reason> {
        let limits = &self.world.limits;
        let connections = self.server.connections();
        must(connections <= limits.connections, Kind::Memory, || {
            format!(
                "{connections} connections, limits.connections = {}",
                limits.connections
            )
        })?;
        let most_input = limits.head + ONE_READ;
        let most_output = limits.output + self.world.largest_piece;
        for held in self.server.held() {
            must(held.input <= most_input, Kind::Memory, || {
                format!(
                    "{} bytes of input are kept, of at most {most_input}",
                    held.input
                )
            })?;
            must(held.output <= most_output, Kind::Memory, || {
                format!(
                    "{} bytes of output wait, of at most {most_output}",
                    held.output
                )
            })?;
            must(held.body.0 as u64 <= held.body.1, Kind::Memory, || {
                format!(
                    "a body of {} bytes is gathered, its limit is {}",
                    held.body.0, held.body.1
                )
            })?;
        }
        let own = self.server.held_by_loop();
        must(
            own <= LOOP_KEEPS + self.world.largest_piece,
            Kind::Memory,
            || format!("the loop keeps {own} bytes for itself"),
        )
    }

    fn nothing_is_left(&mut self, has_left: bool) -> Result<(), Reason> {
        let left = (self.server.connections(), self.server.open_exchanges());
        must(left == (0, 0), Kind::Left, || {
            format!(
                "at the end there are {} connections and {} exchanges",
                left.0, left.1
            )
        })?;
        // An App may have timers of its own; then the world is never quiet.
        let is_quiet = !has_left && self.server.net_mut().is_quiet();
        let timers = self.server.timers();
        must(!is_quiet || timers == 0, Kind::Left, || {
            format!("{timers} timers that nobody needs")
        })?;
        let (afters, requests) = (
            self.afters.take().len() as u64,
            self.server.stats().requests,
        );
        must(afters == requests, Kind::Left, || {
            format!("{requests} requests were dispatched, `after` was called {afters} times")
        })
    }
}
