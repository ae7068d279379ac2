//! Floor 4. A simulation: what is simulated, under which circumstances, and what becomes of a seed.

use super::reader::excerpt;
use super::reason::{Kind, Reason};
use super::request::Template;
use super::run::{Outcome, Run};
use super::schedule::Schedule;
use super::shrink::shrink;
use crate::net::sim::Faults;
use crate::{App, Limits, Timeouts};
use fastrand::Rng;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The circumstances of a run.
///
/// ```
/// use loopwright::sim::World;
/// let world = World { clients: 3, ..World::default() };
/// assert_eq!(world.listeners, 1);
/// ```
#[derive(Clone, Debug)]
pub struct World {
    /// The server's.
    pub limits: Limits,
    /// The server's.
    pub timeouts: Timeouts,
    /// The network's.
    pub faults: Faults,
    /// How many listeners there are.
    pub listeners: usize,
    /// How many clients.
    pub clients: usize,
    /// The longest body in either direction; long ones through narrow pipes take too many turns.
    pub longest: usize,
    /// The largest piece that the App answers with at once: it waits in memory, whatever the limits.
    pub largest_piece: usize,
}

impl Default for World {
    fn default() -> World {
        World {
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            faults: Faults::default(),
            listeners: 1,
            clients: 4,
            longest: 100_000,
            largest_piece: 1 << 20,
        }
    }
}

fn any<T: Copy, const N: usize>(rng: &mut Rng, of: [T; N]) -> T {
    of[rng.usize(..N)]
}

impl World {
    /// Takes chances: narrow and wide networks, budgets of a turn down to one, up to eight clients on
    /// up to three listeners, and sometimes timeouts of a few milliseconds. Limits that an App's
    /// answers depend on (`head`, `body` …) stay.
    ///
    /// ```
    /// use loopwright::sim::World;
    /// let mut rng = fastrand::Rng::with_seed(7);
    /// assert!(World::default().vary(&mut rng).clients > 0);
    /// ```
    pub fn vary(self, rng: &mut Rng) -> World {
        let send = any(rng, [32, 600, 8192, 8192, 100_000]);
        let segment = any(rng, [20, 2048, 2048, 100_000]);
        let faults = Faults {
            accept_errors: any(rng, [0, 8]),
            send_buffer: (send / 8 + 1, send),
            segment,
        };
        let high_water = any(rng, [1000, 16 * 1024, 64 * 1024]).min(self.limits.high_water);
        let default = self.limits;
        let limits = Limits {
            high_water,
            // Room for a gulp of a body that is piped.
            output: any(rng, [4 * high_water + 136_000, default.output]),
            discard: any(rng, [0, 1000, default.discard]),
            connections: any(rng, [2, default.connections, default.connections]),
            accepts_per_turn: any(rng, [1, default.accepts_per_turn]),
            reads_per_turn: any(rng, [1, default.reads_per_turn]),
            requests_per_turn: any(rng, [1, 2, default.requests_per_turn]),
            writes_per_turn: any(rng, [100, default.writes_per_turn]),
            commands_per_turn: any(rng, [1, 8, default.commands_per_turn]),
            ..default
        };
        let timeouts = if rng.u32(..4) == 0 {
            tight(&self.timeouts)
        } else {
            self.timeouts
        };
        let longest = self
            .longest
            .min(300 * faults.send_buffer.0)
            .min(300 * segment);
        World {
            limits,
            timeouts,
            faults,
            listeners: rng.usize(1..=3),
            clients: rng.usize(1..=8),
            longest,
            ..self
        }
    }

    /// The shortest time that a client or the network could exceed.
    pub(super) fn quickest(&self) -> Duration {
        let t = &self.timeouts;
        let all = [
            t.head,
            t.body,
            t.body_grace,
            t.write,
            t.idle,
            t.linger,
            t.drain_idle,
        ];
        all.into_iter().min().unwrap_or_default()
    }

    /// Timeouts are so short that a client may be too slow by chance.
    ///
    /// ```
    /// use loopwright::sim::World;
    /// assert!(!World::default().is_tight());
    /// ```
    pub fn is_tight(&self) -> bool {
        self.quickest() < Duration::from_secs(1)
    }
}

/// Timeouts that a client misses now and then, and that fall together with timers of callbacks.
fn tight(default: &Timeouts) -> Timeouts {
    let ms = Duration::from_millis;
    Timeouts {
        head: ms(30),
        body: ms(20),
        body_grace: ms(30),
        write: ms(100),
        idle: ms(40),
        drain: ms(100),
        drain_idle: ms(15),
        linger: ms(10),
        ..default.clone()
    }
}

type MakeApp<S> = Box<dyn Fn(&S) -> App<S>>;
type Draw = Box<dyn Fn(&mut Rng) -> World>;
type Check<S> = Box<dyn Fn(&mut S, &Outcome) -> Result<(), String>>;

/// An App, what clients may ask of it, and what must be true.
///
/// ```
/// use loopwright::App;
/// use loopwright::sim::{Simulation, Template};
///
/// let simulation = Simulation::new(
///     || 0,
///     |_| {
///         let mut app: App<u32> = App::new();
///         app.get("/hello/{name}", |cx, req, res| {
///             *cx.state += 1;
///             res.text(req.param("name"))
///         });
///         app
///     },
/// )
/// .ask(Template::new("GET", "/hello/{id}").check(|request, answer| {
///     let is_right = request.by_head || request.path.as_bytes().ends_with(&answer.body);
///     is_right.then_some(()).ok_or_else(|| "another's name".to_string())
/// }));
/// if let Err(failure) = simulation.sweep(0..20) {
///     panic!("{failure}");
/// }
/// ```
pub struct Simulation<S> {
    pub(super) state: Box<dyn Fn() -> S>,
    pub(super) app: MakeApp<S>,
    pub(super) templates: Vec<Template>,
    pub(super) when_quiet: Box<dyn Fn(&mut S) -> bool>,
    pub(super) checks: Vec<Check<S>>,
    draw: Draw,
    tries: usize,
}

impl<S: 'static> Simulation<S> {
    /// Of this App, with this state; both are made anew for each run, and the App for each reload.
    ///
    /// ```
    /// use loopwright::App;
    /// use loopwright::sim::Simulation;
    /// let simulation = Simulation::new(|| 0, |_| App::<u32>::new());
    /// assert_eq!(simulation.sweep(0..3).unwrap(), 3);
    /// ```
    pub fn new(state: impl Fn() -> S + 'static, app: impl Fn(&S) -> App<S> + 'static) -> Self {
        Simulation {
            state: Box::new(state),
            app: Box::new(app),
            templates: Vec::new(),
            when_quiet: Box::new(|_| false),
            checks: Vec::new(),
            draw: Box::new(|rng| World::default().vary(rng)),
            tries: 3000,
        }
    }

    /// One more kind of request that clients may send.
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
    /// assert!(simulation.run(0).is_ok());
    /// ```
    pub fn ask(mut self, template: Template) -> Self {
        self.templates.push(template);
        self
    }

    /// Where the circumstances of a run come from; by default [`World::vary`] of the default ones.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// use loopwright::sim::World;
    /// let simulation = simulation.world(|rng| World { clients: rng.usize(1..3), ..World::default() });
    /// assert!(simulation.draw(0).0.clients < 3);
    /// ```
    pub fn world(mut self, draw: impl Fn(&mut Rng) -> World + 'static) -> Self {
        self.draw = Box::new(draw);
        self
    }

    /// Called when nothing moves: clients who wait for something that only the App can cause may be
    /// answered now. Says whether it has done anything; if not, the run is over.
    ///
    /// ```
    /// use loopwright::{App, Responder};
    /// use loopwright::sim::{Simulation, Template};
    /// // Whoever waits is answered when nothing else happens.
    /// let simulation = Simulation::new(Vec::new, |_| {
    ///     let mut app: App<Vec<Responder>> = App::new();
    ///     app.get("/", |cx, _, res| cx.state.push(res.defer()));
    ///     app
    /// })
    /// .ask(Template::new("GET", "/"))
    /// .when_quiet(|waiting| waiting.pop().map(|res| res.text("now")).is_some());
    /// simulation.sweep(0..3).unwrap();
    /// ```
    pub fn when_quiet(mut self, act: impl Fn(&mut S) -> bool + 'static) -> Self {
        self.when_quiet = Box::new(act);
        self
    }

    /// What must be true at the end of each run, beyond what is checked of any App.
    ///
    /// # Errors
    /// `check` says what is wrong.
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
    /// let simulation = simulation.check(|_, outcome| match outcome.requests {
    ///     0..100 => Ok(()),
    ///     many => Err(format!("{many} requests")),
    /// });
    /// simulation.sweep(0..3).unwrap();
    /// ```
    pub fn check(
        mut self,
        check: impl Fn(&mut S, &Outcome) -> Result<(), String> + 'static,
    ) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// The most schedules that are tried to shrink one that fails. Default 3000.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// // Told as it was drawn.
    /// let _ = simulation.tries(0);
    /// ```
    pub fn tries(mut self, tries: usize) -> Self {
        self.tries = tries;
        self
    }

    /// The circumstances that a seed stands for, and what happens in them.
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
    /// assert_eq!(simulation.draw(7).1, simulation.draw(7).1);
    /// ```
    pub fn draw(&self, seed: u64) -> (World, Schedule) {
        let mut rng = Rng::with_seed(seed);
        let world = (self.draw)(&mut rng);
        let schedule = Schedule::draw(&mut rng, &world, &self.templates);
        (world, schedule)
    }

    /// Runs a seed, twice: the second run must repeat the first.
    ///
    /// # Errors
    /// What failed, shrunk.
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
    /// assert_eq!(outcome.clients.len(), outcome.world.clients);
    /// ```
    pub fn run(&self, seed: u64) -> Result<Outcome, Box<Failure>> {
        let (world, schedule) = self.draw(seed);
        self.twice(seed, &world, &schedule).map_err(|first| {
            let drawn = schedule.steps.len();
            let fails = |schedule: &Schedule| {
                let result = match first.kind {
                    Kind::Chance => self.twice(seed, &world, schedule),
                    _ => self.once(seed, &world, schedule, &mut None),
                };
                result.is_err_and(|reason| reason.kind == first.kind)
            };
            let schedule = shrink(schedule, self.tries, fails);
            match self.replay(seed, &schedule) {
                Err(failure) => Box::new(Failure { drawn, ..*failure }),
                Ok(outcome) => Box::new(Failure {
                    seed,
                    reason: first.text,
                    schedule,
                    drawn,
                    trace: outcome.trace,
                }),
            }
        })
    }

    /// Runs a seed's world with another schedule, and traces what happens.
    ///
    /// # Errors
    /// What failed, as it is.
    ///
    /// ```
    /// use loopwright::App;
    /// use loopwright::sim::{Simulation, Template};
    ///
    /// // A handler that keeps its responder and never uses it.
    /// let simulation = Simulation::new(Vec::new, |_| {
    ///     let mut app: App<Vec<_>> = App::new();
    ///     app.get("/", |cx, _, res| cx.state.push(res.defer()));
    ///     app
    /// })
    /// .ask(Template::new("GET", "/"));
    /// let schedule = "0 ask #0 id=0-0 n=1\n0 send\n".parse().unwrap();
    /// let failure = simulation.replay(1, &schedule).err().unwrap();
    /// assert!(failure.reason.contains("no answer"), "{failure}");
    /// ```
    pub fn replay(&self, seed: u64, schedule: &Schedule) -> Result<Outcome, Box<Failure>> {
        let (world, _) = self.draw(seed);
        let mut trace = Some(format!("{world:?}\n"));
        let result = self.once(seed, &world, schedule, &mut trace);
        result.map_err(|reason| {
            Box::new(Failure {
                seed,
                reason: reason.text,
                schedule: schedule.clone(),
                drawn: schedule.steps.len(),
                trace: trace.unwrap_or_default(),
            })
        })
    }

    /// Runs many seeds, up to the first that fails. Says how many there were.
    ///
    /// # Errors
    /// As [`Simulation::run`].
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
    /// assert_eq!(simulation.sweep(5..8).unwrap(), 3);
    /// ```
    pub fn sweep(&self, seeds: Range<u64>) -> Result<u64, Box<Failure>> {
        let count = seeds.end.saturating_sub(seeds.start);
        for seed in seeds {
            self.run(seed)?;
        }
        Ok(count)
    }

    /// Runs a schedule two times, and compares.
    fn twice(&self, seed: u64, world: &World, schedule: &Schedule) -> Result<Outcome, Reason> {
        let first = self.once(seed, world, schedule, &mut None)?;
        let second = self.once(seed, world, schedule, &mut None)?;
        repeats(&first, &second).map_err(|why| Reason::new(Kind::Chance, why))?;
        Ok(first)
    }

    fn once(
        &self,
        seed: u64,
        world: &World,
        schedule: &Schedule,
        trace: &mut Option<String>,
    ) -> Result<Outcome, Reason> {
        // The loop survives an App's panics; its own, and those of checks, are failures like others.
        let run = || Run::new(self, seed, world, schedule, trace)?.run();
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            Err(Reason::new(Kind::Panic, text.unwrap_or("it panicked")))
        })
    }
}

/// The same seed is the same run.
fn repeats(first: &Outcome, second: &Outcome) -> Result<(), String> {
    if (first.turns, first.end) != (second.turns, second.end) {
        return Err("the same seed, and another number of turns".to_string());
    }
    let pairs = first.clients.iter().zip(&second.clients);
    for (a, b) in pairs {
        if a.received != b.received {
            let (a, b) = (excerpt(&a.received), excerpt(&b.received));
            return Err(format!("the same seed, and another answer: {a} and {b}"));
        }
    }
    Ok(())
}

/// A run that failed.
///
/// ```
/// # use loopwright::App;
/// # use loopwright::sim::{Simulation, Template};
/// # let simulation = Simulation::new(|| (), |_| {
/// #     let mut app: App = App::new();
/// #     app.get("/{id}", |_, _, res| res.text("hi"));
/// #     app
/// # });
/// // Nobody is answered like this.
/// let wrong = Template::new("GET", "/{id}").check(|_, _| Err("not what I meant".into()));
/// let failure = simulation.ask(wrong).sweep(0..20).unwrap_err();
/// assert!(failure.reason.contains("not what I meant") && failure.schedule.steps.len() <= 3);
/// ```
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub reason: String,
    /// The shortest schedule known that fails with this seed's world.
    pub schedule: Schedule,
    /// How many steps it had when it was drawn.
    pub drawn: usize,
    /// What happened, with the time in microseconds.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, reason, steps) = (self.seed, &self.reason, self.schedule.steps.len());
        writeln!(f, "seed {seed} fails: {reason}")?;
        writeln!(
            f,
            "\nThe schedule, {steps} of {} steps:\n\n{}",
            self.drawn, self.schedule
        )?;
        write!(f, "What happens:\n\n{}", self.trace)
    }
}

impl std::error::Error for Failure {}
