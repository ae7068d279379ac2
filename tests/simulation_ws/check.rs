//! One seed: a server, its clients, and what must have been true when it is over.

use crate::client::{Client, Step};
use crate::site::{Accepted, Diary, Entry, POLICIES, app, matches};
use loopwright::sim::{Faults, SimNet};
use loopwright::{Limits, Sent, Server, Timeouts};
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

const MOST_TURNS: usize = 200_000;
const MOST_EMPTY_POLLS: usize = 1000;

pub(crate) struct Run {
    pub(crate) trace: String,
    pub(crate) told: String,
    pub(crate) messages: usize,
    pub(crate) publications: usize,
    pub(crate) dropped: usize,
}

type World = Server<Diary, SimNet>;

pub(crate) fn run(seed: u64, tell: bool) -> Run {
    let mut rng = fastrand::Rng::with_seed(seed);
    let faults = Faults {
        accept_errors: *rng.choice(&[0, 16]).expect("some"),
        send_buffer: *rng
            .choice(&[(20, 200), (100, 8192), (50_000, 80_000)])
            .expect("some"),
        segment: *rng.choice(&[7, 300, 20_000]).expect("some"),
    };
    // Small steps take long.
    let longest = match faults.segment < 100 || faults.send_buffer.1 < 1000 {
        true => 200,
        false => 5000,
    };
    // Where nothing need be dropped, nothing may be.
    let is_roomy = rng.bool();
    let high_water = *rng.choice(&[500, 4096, 65_536]).expect("some");
    let limits = Limits {
        high_water,
        socket_output: match is_roomy {
            true => 64 << 20,
            false => high_water * rng.usize(1..3),
        },
        publications: *rng.choice(&[3, 65_536]).expect("some"),
        deliveries_per_turn: *rng.choice(&[1, 5, 1024]).expect("some"),
        commands_per_turn: *rng.choice(&[2, 50, 4096]).expect("some"),
        requests_per_turn: *rng.choice(&[1, 256]).expect("some"),
        writes_per_turn: *rng.choice(&[100, 256 * 1024]).expect("some"),
        compress_from: *rng.choice(&[0, 64, 256]).expect("some"),
        ..Limits::default()
    };
    let most = limits.socket_output;
    let builder = Server::builder().limits(limits).timeouts(Timeouts {
        write: Duration::from_secs(600),
        ..Timeouts::default()
    });
    let alive = Rc::new(());
    let net = SimNet::new(seed, faults);
    let mut server = builder
        .clone()
        .simulate(net, app(most, &alive), Diary::default())
        .expect("a server");
    server.net_mut().let_clients_react();
    server.state_mut().alive = Rc::downgrade(&alive);
    server
        .handle()
        .post(|cx| {
            let all = cx.on_publish("**", |cx, publication| {
                let message = publication.message().as_text().unwrap_or("").to_string();
                let number = message
                    .split('|')
                    .nth(1)
                    .and_then(|number| number.parse().ok());
                cx.state.heard.push(number.expect("a number"));
            });
            all.expect("a pattern");
        })
        .expect("posted");
    turn(&mut server);

    let mut clients: Vec<Client> = (0..rng.usize(1..7))
        .map(|n| {
            let policy = rng.choice(&POLICIES).expect("some").0;
            Client::connect(server.net_mut(), n, policy, longest)
        })
        .collect();
    let mut told = String::new();
    if tell {
        for client in &clients {
            let _ = writeln!(told, "client {}, {}:", client.n, client.policy);
            for step in &client.steps {
                let _ = writeln!(told, "  {:.100}", format!("{step:?}"));
            }
        }
        println!("{told}");
    }

    let (reloads, stops_early) = (rng.u32(0..3) == 0, rng.u32(0..6) == 0);
    let mut turns = 0;
    let mut step = |server: &mut World, clients: &mut Vec<Client>| {
        turns += 1;
        let goes_on = turn(server);
        if turns >= MOST_TURNS {
            let now = server.net_mut().now();
            let all = clients.iter().map(|client| {
                let is_over = server.net_mut().is_finished(client.wire);
                (
                    client.n,
                    client.policy,
                    client.is_open,
                    client.closed,
                    is_over,
                    client.has_left(),
                )
            });
            panic!(
                "it goes on and on, at {now:?}: {:?}",
                all.collect::<Vec<_>>()
            );
        }
        for client in clients {
            client.react(server.net_mut());
        }
        goes_on
    };
    let mut spent = 0;
    while !clients.iter().all(Client::is_done) && spent < 3000 {
        spent += 1;
        // Clients that mean to go on do so before anybody has waited long.
        let soon = server.net_mut().now() + Duration::from_millis(1);
        server.net_mut().wake_at(soon);
        step(&mut server, &mut clients);
        for client in &mut clients {
            if rng.u8(0..3) == 0 {
                client.act(server.net_mut());
            }
        }
        if reloads && spent == 20 {
            server
                .reload(builder.clone(), app(most, &alive))
                .expect("reloaded");
        }
        if stops_early && spent == 60 {
            break;
        }
    }
    // Everybody who is still there takes what there is.
    if !stops_early {
        for client in clients.iter().filter(|client| !client.has_left()) {
            server.net_mut().stall(client.wire, false);
        }
        // Until the loop has nothing to do for so long as nothing but silence lasts.
        let mut now = server.net_mut().now();
        while server.net_mut().now() - now < Duration::from_secs(1) && !server.net_mut().is_quiet()
        {
            now = server.net_mut().now();
            step(&mut server, &mut clients);
        }
        for client in clients.iter_mut().filter(|client| !client.has_left()) {
            client.steps.truncate(client.next);
            client.steps.push(Step::Close);
            client.act(server.net_mut());
        }
        let is_over =
            |server: &mut World, client: &Client| server.net_mut().is_finished(client.wire);
        while !clients
            .iter()
            .filter(|client| client.is_open && !client.has_left())
            .all(|client| is_over(&mut server, client))
        {
            step(&mut server, &mut clients);
            for client in &mut clients {
                client.leave(server.net_mut());
            }
        }
    } else {
        for client in &mut clients {
            client.is_well = false;
            server.net_mut().stall(client.wire, false);
        }
    }
    server.handle().stop();
    while step(&mut server, &mut clients) {
        for client in &mut clients {
            client.leave(server.net_mut());
        }
    }

    assert_eq!(server.connections(), 0, "connections left");
    assert_eq!(server.open_exchanges(), 0, "exchanges left");
    assert_eq!(Rc::strong_count(&alive), 1, "sockets left");
    let mut result = Run {
        trace: String::new(),
        told,
        messages: 0,
        publications: 0,
        dropped: 0,
    };
    let _ = write!(result.trace, "{turns} {:?} ", server.net_mut().now());
    let diary = server.state();
    assert_eq!(diary.faults, [""; 0]);
    assert!(
        diary.heard.iter().copied().eq(0..diary.heard.len()),
        "a closure hears all, once, in order: {:?}",
        diary.heard
    );
    if !stops_early {
        assert_eq!(
            diary.heard.len(),
            diary.accepted.len(),
            "a closure hears all"
        );
    }
    for client in &clients {
        let _ = write!(
            result.trace,
            "{:?} {:?} {:?};",
            client.texts, client.bytes, client.closed
        );
        let nobody = Entry::default();
        let entry = diary.guests.get(client.n).unwrap_or(&nobody);
        check(client, entry, diary, is_roomy, &mut result);
    }
    result
}

fn turn(server: &mut World) -> bool {
    let goes_on = server.turn().expect("a turn");
    assert!(
        server.net_mut().empty_polls() < MOST_EMPTY_POLLS,
        "it spins"
    );
    goes_on
}

fn check(client: &Client, entry: &Entry, diary: &Diary, is_roomy: bool, result: &mut Run) {
    let who = format!("client {} ({})", client.n, client.policy);
    assert_eq!(
        entry.closes.len(),
        entry.opens,
        "{who}: one close for its opening"
    );
    assert!(
        entry.opens == 1 || !client.is_open,
        "{who}: {}",
        entry.opens
    );
    let is_well = client.is_well && client.is_open && client.closed == Some(1000);
    if client.is_well && client.is_open && is_roomy {
        assert_eq!(
            client.closed,
            Some(1000),
            "{who}: it is well, and there is room: {:?}",
            entry.closes
        );
    }

    // Echoes: what was said, what the socket was told of it, what came.
    let echoed: Vec<&String> = entry.echoes.iter().map(|(text, _)| text).collect();
    let said: Vec<&String> = client.said.iter().collect();
    assert!(
        said.starts_with(&echoed),
        "{who}: messages arrive as sent, in order"
    );
    let sent = entry
        .echoes
        .iter()
        .filter(|(_, sent)| matches!(sent, Sent::Taken | Sent::Full));
    let sent: Vec<&String> = sent.map(|(text, _)| text).collect();
    let got: Vec<&String> = client
        .texts
        .iter()
        .filter(|text| text.starts_with("E|"))
        .collect();
    let may_drop = client.policy == "oldest" && !is_roomy;
    match may_drop {
        true => assert!(is_subsequence(&got, &sent), "{who}: {got:?} of {sent:?}"),
        false => assert!(sent.starts_with(&got), "{who}: {got:?} of {sent:?}"),
    }
    if is_well {
        assert_eq!(echoed, said, "{who}: all messages arrive");
        if !may_drop {
            assert_eq!(got, sent, "{who}: all that is sent arrives");
        }
        if is_roomy {
            assert_eq!(got, said, "{who}: all echoes arrive");
            assert_eq!(client.bytes, client.said_bytes, "{who}: all bytes arrive");
        }
    }
    assert!(
        is_subsequence(
            &client.bytes.iter().collect::<Vec<_>>(),
            &client.said_bytes.iter().collect::<Vec<_>>()
        ),
        "{who}"
    );
    result.dropped += said.len() - got.len();
    result.messages += got.len() + client.bytes.len();

    // Messages in parts, and those from timers.
    let parts: Vec<&String> = client
        .texts
        .iter()
        .filter(|text| text.starts_with("G|"))
        .collect();
    let asked: Vec<&String> = client.said_parts.iter().collect();
    assert!(
        is_subsequence(&parts, &asked),
        "{who}: {parts:?} of {asked:?}"
    );
    if is_well && is_roomy && !asked.is_empty() {
        assert!(
            !parts.is_empty(),
            "{who}: a message in parts comes to its end"
        );
    }

    // Publications: none that was not for it, none twice, in the order of all, none lost.
    let mut last = None;
    let mut arrived = Vec::new();
    for text in client
        .texts
        .iter()
        .filter_map(|text| text.strip_prefix("P|"))
    {
        let mut words = text.splitn(3, '|');
        let number: usize = words
            .next()
            .and_then(|number| number.parse().ok())
            .expect("a number");
        let Accepted {
            topic, audience, ..
        } = &diary.accepted[number];
        assert_eq!(words.next(), Some(&**topic), "{who}: {number}");
        assert!(
            audience.contains(&client.n),
            "{who}: {number} to {topic} was not for it"
        );
        assert!(last < Some(number), "{who}: {number} after {last:?}");
        last = Some(number);
        arrived.push(number);
    }
    result.publications += arrived.len();
    let is_told = is_roomy || client.policy == "tell";
    for (number, accepted) in diary.accepted.iter().enumerate() {
        let has_left =
            |(pattern, at): &(String, usize)| *at > number && matches(pattern, &accepted.topic);
        let is_for = accepted.audience.contains(&client.n) && !entry.left.iter().any(has_left);
        let count = usize::from(arrived.contains(&number))
            + entry.missed.iter().filter(|n| **n == number).count();
        assert!(count <= 1, "{who}: {number} both came and was missed");
        if is_for && is_well && is_told {
            assert_eq!(count, 1, "{who}: {number} to {} is lost", accepted.topic);
        }
        if is_for && count == 0 {
            result.dropped += 1;
        }
        assert!(accepted.publisher < diary.guests.len());
    }
}

fn is_subsequence<T: PartialEq>(part: &[T], whole: &[T]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|item| whole.any(|other| other == item))
}
