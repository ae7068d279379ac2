//! Server-sent events in the simulator: heartbeats in virtual time, and every policy for slow clients
//! under drawn traffic, a client that stalls whenever it likes, and buffers of any size.

use loopwright::sim::{Client, Faults, SimNet};
use loopwright::{App, Event, Events, Limits, Replay, Sent, Server, Slow};
use std::time::Duration;

/// HTTP/1.0: the body comes without chunks, and ends with the connection.
const GET: &str = "GET / HTTP/1.0\r\n\r\n";
const HIGH_WATER: usize = 4096;

#[derive(Default)]
struct Seen {
    events: Option<Events>,
    closed: usize,
}

type World = Server<Seen, SimNet>;

fn world(seed: u64, app: App<Seen>) -> World {
    let faults = Faults {
        accept_errors: 0,
        send_buffer: (64, 8192),
        segment: 2048,
    };
    let limits = Limits {
        high_water: HIGH_WATER,
        ..Limits::default()
    };
    let builder = Server::builder().limits(limits);
    let net = SimNet::new(seed, faults);
    builder.simulate(net, app, Seen::default()).unwrap()
}

/// One reader, kept in the state.
fn reader(policy: Slow) -> App<Seen> {
    let mut app = App::<Seen>::new();
    app.get("/", move |cx, _, res| {
        let events = res.events(cx).slow(policy);
        events.on_close(cx, |cx| cx.state.closed += 1);
        cx.state.events = Some(events);
    });
    app
}

fn wait(world: &mut World, time: Duration) {
    let end = world.net_mut().now() + time;
    world.net_mut().wake_at(end);
    while world.net_mut().now() < end {
        world.turn().unwrap();
    }
}

fn ask(world: &mut World) -> Client {
    let client = world.net_mut().connect(0);
    world.net_mut().send(client, GET.as_bytes());
    client
}

/// What has arrived after the head.
fn body(world: &mut World, client: Client) -> String {
    let bytes = world.net_mut().received(client);
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head:?}");
    body.to_string()
}

#[test]
fn heartbeats_every_fifteen_seconds_until_the_client_leaves() {
    const SLACK: Duration = Duration::from_millis(50);
    for seed in 0..8 {
        let mut world = world(seed, reader(Slow::Close));
        let client = ask(&mut world);
        wait(&mut world, Duration::from_secs(15) - SLACK);
        assert_eq!(body(&mut world, client), "");
        wait(&mut world, 2 * SLACK);
        assert_eq!(body(&mut world, client), ":\n\n");
        wait(&mut world, Duration::from_secs(45));
        assert_eq!(body(&mut world, client), ":\n\n".repeat(4));
        let timers = world.timers();
        world.net_mut().finish(client);
        wait(&mut world, SLACK);
        assert_eq!(world.state().closed, 1);
        assert!(world.state().events.as_ref().is_some_and(Events::is_closed));
        // The heartbeat's is cancelled at once, not when it would have fired.
        assert!(world.timers() < timers, "{} timers", world.timers());
        assert_eq!((world.open_exchanges(), world.timers()), (0, 0));
    }
}

/// Sends `0, 1, 2 …` as it is drawn, then lets the client take what there is: what became of each, and
/// which arrived.
fn draw(seed: u64, policy: Slow) -> (Vec<Sent>, Vec<usize>) {
    let mut world = world(seed, reader(policy));
    let client = ask(&mut world);
    while world.state().events.is_none() {
        world.turn().unwrap();
    }
    let (mut rng, mut sent) = (fastrand::Rng::with_seed(seed), Vec::new());
    for _ in 0..200 {
        let stalled = rng.u8(..3) > 0;
        world.net_mut().stall(client, stalled);
        for _ in 0..rng.usize(..6) {
            let most = if rng.u8(..8) == 0 { 9000 } else { 900 };
            let size = rng.usize(..most);
            let event = Event::new(format!("{} {}", sent.len(), "x".repeat(size)));
            sent.push(world.state().events.as_ref().unwrap().send(event));
        }
        // Not just a turn: with nothing to do it would last until a timeout.
        wait(&mut world, Duration::from_millis(1));
    }
    world.net_mut().stall(client, false);
    // Nobody sends any more, and no heartbeat comes by: what waits goes out by itself.
    wait(&mut world, Duration::from_secs(10));
    let dropped = world.state().events.as_ref().unwrap().dropped();
    world.state_mut().events = None;
    wait(&mut world, Duration::from_secs(1));
    assert_eq!(world.open_exchanges(), 0);
    let text = body(&mut world, client);
    let tail = &text[text.len().saturating_sub(20)..];
    assert!(
        text.is_empty() || tail.ends_with("\n\n"),
        "{policy:?} {tail:?} {dropped} {:?}",
        sent.last()
    );
    let number = |event: &str| {
        event
            .strip_prefix("data: ")?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    let events = text.split_terminator("\n\n");
    let got: Vec<usize> = events.map(|event| number(event).unwrap()).collect();
    if policy != Slow::Close {
        assert_eq!(
            got.len() + dropped as usize,
            sent.len(),
            "all are accounted for"
        );
    }
    (sent, got)
}

#[test]
fn whatever_is_drawn_each_policy_holds() {
    let [mut gaps, mut closed] = [0, 0];
    for seed in 0..25 {
        let (sent, got) = draw(seed, Slow::Tell);
        assert!(got.into_iter().eq(0..sent.len()));

        let (sent, got) = draw(seed, Slow::DropNewest);
        let is_taken = |n: &usize| sent[*n] != Sent::Dropped;
        assert!(got.iter().copied().eq((0..sent.len()).filter(is_taken)));
        gaps += usize::from(got.len() < sent.len());

        let (sent, got) = draw(seed, Slow::DropOldest);
        assert!(got.is_sorted_by(|a, b| a < b), "in order, and none twice");
        assert_eq!(got.last(), Some(&(sent.len() - 1)), "the newest arrives");
        gaps += usize::from(got.len() < sent.len());

        let (sent, got) = draw(seed, Slow::Close);
        let end = sent.iter().position(|sent| *sent == Sent::Closed);
        let end = end.unwrap_or(sent.len());
        assert!(got.into_iter().eq(0..end), "what was taken arrives");
        assert!(sent[end..].iter().all(|sent| *sent == Sent::Closed));
        closed += usize::from(end < sent.len());
    }
    // The draws are such that there is something to see.
    assert!(gaps > 40 && closed > 20, "{gaps} {closed}");
}

/// What was missed, more than may wait, and what is sent meanwhile: all of it, in order, under every policy.
#[test]
fn a_resume_is_not_held_to_the_policy() {
    for policy in [Slow::Tell, Slow::DropNewest, Slow::DropOldest, Slow::Close] {
        for seed in 0..20 {
            let mut app = App::<Seen>::new();
            app.get("/", move |cx, _, res| {
                let mut replay = Replay::new(1000, 1 << 20);
                for n in 0..100 {
                    replay.push(n, Event::new("x".repeat(n * 10)));
                }
                let events = res.events(cx).slow(policy);
                events.resume(replay.since("9").unwrap());
                cx.state.events = Some(events);
            });
            let mut world = world(seed, app);
            let client = ask(&mut world);
            while world.state().events.is_none() {
                world.turn().unwrap();
            }
            for n in 100..110 {
                let sent = world
                    .state()
                    .events
                    .as_ref()
                    .unwrap()
                    .send(Event::new("live").id(n));
                assert!(
                    matches!(sent, Sent::Taken | Sent::Full),
                    "{policy:?}: {sent:?}"
                );
                world.turn().unwrap();
            }
            wait(&mut world, Duration::from_secs(10));
            let text = body(&mut world, client);
            let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
            assert!(
                ids.map(|id| id.parse::<usize>().unwrap()).eq(10..110usize),
                "{policy:?}"
            );
        }
    }
}
