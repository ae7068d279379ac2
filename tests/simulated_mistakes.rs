//! Apps that misbehave: the simulation finds them, and shrinks what shows it to a few steps.

use loopwright::sim::{Answer, Failure, Request, Simulation, Template, World};
use loopwright::{App, Responder};
use std::cell::Cell;
use std::rc::Rc;

/// The first seed of many that fails.
fn found<S: 'static>(simulation: Simulation<S>) -> Box<Failure> {
    let failure = simulation.sweep(0..200).expect_err("nothing was found");
    let again = simulation.replay(failure.seed, &failure.schedule);
    let again = again.err().expect("what was shrunk fails no more");
    assert_eq!(again.reason, failure.reason);
    let text = failure.schedule.to_string();
    assert_eq!(text.parse().as_ref(), Ok(&failure.schedule));
    failure
}

fn steps(failure: &Failure, most: usize) {
    assert!(failure.schedule.steps.len() <= most, "{failure}");
    assert!(failure.drawn > most, "{failure}");
}

fn is_its_own(request: &Request, answer: &Answer<'_>) -> Result<(), String> {
    let is_right = request.by_head || *answer.body == *request.path.as_bytes();
    is_right.then_some(()).ok_or("another's answer".to_string())
}

#[test]
fn an_answer_that_never_comes() {
    let failure = found(
        Simulation::new(Vec::new, |_| {
            let mut app: App<Vec<Responder>> = App::new();
            app.get("/text/{id}", |_, req, res| res.text(req.path()));
            app.get("/never/{id}", |cx, _, res| cx.state.push(res.defer()));
            app
        })
        .ask(Template::new("GET", "/text/{id}").check(is_its_own))
        .ask(Template::new("GET", "/never/{id}")),
    );
    assert!(failure.reason.contains("no answer"), "{failure}");
    steps(&failure, 3);
}

#[test]
fn an_answer_to_another_request() {
    let failure = found(
        Simulation::new(
            || None,
            |_| {
                let mut app: App<Option<String>> = App::new();
                // Every answer is that of the request before.
                app.get("/{id}", |cx, req, res| {
                    let own = req.path().to_string();
                    let last = cx.state.replace(own.clone());
                    res.text(last.unwrap_or(own))
                });
                app
            },
        )
        .ask(Template::new("GET", "/{id}").check(is_its_own)),
    );
    assert!(failure.reason.contains("another's answer"), "{failure}");
    steps(&failure, 6);
}

#[test]
fn a_body_whose_end_is_missing() {
    let failure = found(
        Simulation::new(Vec::new, |_| {
            let mut app: App<Vec<_>> = App::new();
            app.post("/{id}", |cx, _, res| {
                let writer = res.stream();
                let _ = writer.write("a beginning");
                cx.state.push(writer);
            });
            app
        })
        .ask(Template::new("POST", "/{id}").body(0..=10)),
    );
    assert!(failure.reason.contains("a part of an answer"), "{failure}");
    steps(&failure, 3);
}

/// An App with three mistakes: what is shrunk shows the one that was found.
#[test]
fn a_shorter_schedule_fails_in_the_same_way() {
    let simulation = Simulation::new(Vec::new, |_| {
        let mut app: App<Vec<_>> = App::new();
        app.get("/part/{id}", |cx, _, res| {
            let writer = res.stream();
            let _ = writer.write("a beginning");
            cx.state.push(writer);
        });
        app.get("/other/{id}", |_, _, res| res.text("nothing of the kind"));
        app
    })
    .ask(Template::new("GET", "/part/{id}"))
    .ask(Template::new("GET", "/other/{id}").check(is_its_own));
    let ways = ["no answer", "a part of an answer", "another's answer"];
    let mut seen = [0; 3];
    for seed in 0..20 {
        let way = |failure: &Failure| ways.iter().position(|way| failure.reason.contains(way));
        let drawn = simulation.replay(seed, &simulation.draw(seed).1);
        let (Err(drawn), Err(shrunk)) = (drawn, simulation.run(seed)) else {
            continue;
        };
        assert_eq!(way(&drawn), way(&shrunk), "{drawn}\n{shrunk}");
        seen[way(&drawn).expect("a known way")] += 1;
    }
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

#[test]
fn an_answer_larger_than_was_said() {
    let simulation = Simulation::new(
        || (),
        |_| {
            let mut app: App = App::new();
            app.get("/{id}", |_, _, res| res.bytes(vec![0; 300_000]));
            app
        },
    );
    let simulation = simulation.ask(Template::new("GET", "/{id}")).world(|rng| {
        let mut world = World::default().vary(rng);
        (world.limits.output, world.limits.high_water) = (70_000, 1000);
        world.largest_piece = 100_000;
        world
    });
    let failure = found(simulation);
    assert!(failure.reason.contains("bytes of output wait"), "{failure}");
    steps(&failure, 3);
}

#[test]
fn a_run_that_does_not_repeat() {
    let runs = Rc::new(Cell::new(0));
    let simulation = Simulation::new(
        move || {
            runs.set(runs.get() + 1);
            runs.get()
        },
        |_| {
            let mut app: App<i32> = App::new();
            app.get("/{id}", |cx, _, res| res.text(format!("{}", cx.state)));
            app
        },
    );
    let simulation = simulation.ask(Template::new("GET", "/{id}"));
    let failure = simulation.sweep(0..20).expect_err("nothing was found");
    assert!(failure.reason.contains("the same seed"), "{failure}");
}
