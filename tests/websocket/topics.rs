//! Publishing through the loop: who gets what, in which order, once; and that nobody waits for it.

use crate::peer::*;
use crate::support::*;
use loopwright::{
    App, Bus, Ctx, Limits, Message, Publication, Server, Socket, SocketHandle, Subscription,
    WebSocket,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

fn act(probe: &mut Probe, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    let mut words = text.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("+"), Some(pattern), _) => {
            let new = cx.subscribe(ws, pattern);
            ws.send(&format!("{new:?} {}", cx.subscribers(pattern)));
        }
        (Some("-"), Some(pattern), _) => {
            let was = cx.unsubscribe(ws, pattern);
            ws.send(&format!("{was} {}", cx.subscribers(pattern)));
        }
        (Some("pub"), Some(topic), Some(text)) => cx.publish(topic, text).expect("published"),
        (Some("from"), Some(topic), Some(text)) => {
            cx.publish_from(ws, topic, text).expect("published");
        }
        _ => probe.say("?"),
    }
}

fn server() -> TestServer {
    serve(|| {
        let (tell, _) = ear();
        let mut app: App = App::new();
        probes(&mut app, "/", tell, |_| Ok(()), act);
        app
    })
}

impl Ws {
    fn asks(&mut self, text: &str, answer: &str) {
        self.text(text);
        assert_eq!(self.says(), answer, "{text}");
    }
}

#[test]
fn who_gets_what() {
    let server = server();
    let [mut a, mut b, mut c] = [(); 3].map(|()| Ws::open(&server, "/"));
    a.asks("+ rooms/1", "Ok(true) 1");
    a.asks("+ rooms/*", "Ok(true) 1");
    a.asks("+ rooms/1", "Ok(false) 1");
    b.asks("+ rooms/**", "Ok(true) 1");
    c.asks("+ rooms/1", "Ok(true) 2");
    a.text("pub rooms/1 one");
    a.text("pub rooms/2 two");
    a.text("pub rooms/2/x three");
    a.text("pub other four");
    a.text("from rooms/1 five");
    let got = |ws: &mut Ws, n: usize| (0..n).map(|_| ws.says()).collect::<Vec<_>>();
    assert_eq!(got(&mut b, 4), ["one", "two", "three", "five"]);
    assert_eq!(got(&mut a, 2), ["one", "two"]);
    a.asks("- rooms/1", "true 1");
    // It is subscribed by a pattern still.
    b.text("pub rooms/1 six");
    assert_eq!(b.says(), "six");
    b.asks("- rooms/**", "true 0");
    b.text("pub rooms/1 seven");
    b.asks("- rooms/**", "false 0");
    assert_eq!(got(&mut a, 2), ["six", "seven"]);
    assert_eq!(got(&mut c, 4), ["one", "five", "six", "seven"]);
    for ws in [&mut a, &mut b, &mut c] {
        ws.is_silent(Duration::from_millis(50));
    }
}

/// Who has left is subscribed to nothing, and counts for nothing; nor can a handle that is kept bring it back.
#[test]
fn subscriptions_end_with_their_socket() {
    struct Late(Option<SocketHandle>);
    impl Socket for Late {
        fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
            self.0 = Some(ws.handle());
            cx.subscribe(ws, "t").expect("a pattern");
        }
        fn message(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: Message<'_>) {}
        fn close(&mut self, cx: &mut Ctx<'_>, _: loopwright::Closed<'_>) {
            let handle = self.0.take().expect("it was open");
            assert_eq!(cx.subscribers("t"), 0, "its own has ended");
            assert_eq!(cx.subscribe(&handle, "t"), Ok(false));
            cx.after(Duration::from_millis(1), move |cx| {
                assert_eq!(cx.subscribe(&handle, "t"), Ok(false));
                cx.on_publish("done", |_, _| {}).expect("a pattern");
            });
        }
    }
    let server = serve(|| {
        let mut app: App = App::new();
        app.sockets("/late", |_, _, _| Ok(Late(None)));
        app.get("/count", |cx, _, res| {
            let count = (cx.subscribers("t"), cx.subscribers("done"));
            res.text(format!("{count:?}"))
        });
        app
    });
    let ws = Ws::open(&server, "/late");
    wait_until("it is subscribed", || {
        server.get("/count").text() == "(1, 0)"
    });
    drop(ws);
    wait_until("it has left", || server.get("/count").text() == "(0, 1)");
}

/// Closures hear, too, and may publish, end themselves, and end what others are subscribed to, all in
/// the middle of a delivery.
#[test]
fn closures_in_the_middle_of_a_delivery() {
    let mut server = Server::bind("127.0.0.1:0", App::<Vec<String>>::new(), vec![]).expect("bound");
    let handle = server.handle();
    handle
        .post(|cx: &mut Ctx<'_, Vec<String>>| {
            type Slot = std::rc::Rc<std::cell::Cell<Option<Subscription>>>;
            let (first, second) = (Slot::default(), Slot::default());
            let (own, other) = (first.clone(), second.clone());
            let once = cx.on_publish("t", move |cx, news| {
                let text = news.message().as_text().unwrap_or("?").to_string();
                cx.state.push(format!("once {text}"));
                cx.publish("t", "again").expect("published");
                assert!(cx.stop_listening(own.get().expect("listening")));
                assert!(!cx.stop_listening(own.get().expect("listening")));
                assert!(cx.stop_listening(other.get().expect("listening")));
            });
            first.set(Some(once.expect("a pattern")));
            let never = cx.on_publish("t", |cx, _| cx.state.push("never".into()));
            second.set(Some(never.expect("a pattern")));
            let always = cx.on_publish("*", |cx, news| {
                let text = news.message().as_text().unwrap_or("?").to_string();
                cx.state.push(format!("{} {text}", news.topic()));
                if text == "end" {
                    cx.stop();
                }
                if text == "boom" {
                    panic!("on purpose");
                }
            });
            always.expect("a pattern");
            for text in ["1", "boom", "2"] {
                cx.publish("t", text).expect("published");
            }
            cx.publish("t", "end").expect("published");
        })
        .expect("posted");
    server.run().expect("ran");
    let mut heard = server.state().clone();
    heard.sort();
    let mut expected = vec!["once 1", "t 1", "t boom", "t 2", "t end"];
    // It was published in the middle, and comes behind all that waited.
    expected.push("t again");
    expected.sort();
    heard.retain(|word| word != "t again");
    expected.retain(|word| *word != "t again");
    assert_eq!(heard, expected);
}

/// Whoever is unsubscribed before it is their turn does not get it, and be it by somebody who was a moment before.
#[test]
fn unsubscribed_in_the_middle_of_a_delivery() {
    let server = serve(|| {
        let mut app: App = App::new();
        app.sockets("/", |_, _, _| Ok(Reader));
        app
    });
    struct Reader;
    impl Socket for Reader {
        fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
            let handle = ws.handle();
            let closure = cx.on_publish("t", move |cx, _| {
                cx.unsubscribe(&handle, "t");
            });
            closure.expect("a pattern");
            cx.subscribe(ws, "t").expect("a pattern");
        }
        fn message(&mut self, cx: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: Message<'_>) {
            for n in 0..5 {
                cx.publish("t", &n.to_string()).expect("published");
            }
        }
    }
    let mut ws = Ws::open(&server, "/");
    ws.text("now");
    ws.send(FIN | PING, "");
    let mut got = 0;
    std::thread::sleep(Duration::from_millis(50));
    ws.send(FIN | PING, "done");
    loop {
        match ws.message() {
            (PONG, payload) if payload == b"done" => break,
            (PONG, _) => {}
            _ => got += 1,
        }
    }
    assert!(
        got <= 1,
        "it got {got} after it was unsubscribed with the first"
    );
}

/// Ten thousand subscribers are served in many turns, and a client of HTTP in the middle of them.
#[test]
fn many_subscribers_keep_nobody_waiting() {
    const SUBSCRIBERS: usize = 10_000;
    let (tell, told) = channel();
    let limits = Limits {
        deliveries_per_turn: 100,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), move || {
        let mut app: App<u64> = App::new();
        app.get("/", |cx, _, res| {
            let turns = cx.stats().turns;
            res.text(turns.to_string())
        });
        app.post("/publish", move |cx, _, res| {
            let tell = tell.clone();
            let begun = cx.stats().turns;
            for n in 0..SUBSCRIBERS {
                let tell = (n == SUBSCRIBERS - 1).then(|| tell.clone());
                let closure = cx.on_publish("t", move |cx, _| {
                    *cx.state += 1;
                    std::thread::sleep(Duration::from_micros(10));
                    if let Some(tell) = &tell {
                        let _ = tell.send((*cx.state, cx.stats().turns - begun));
                    }
                });
                closure.expect("a pattern");
            }
            cx.publish("t", "x").expect("published");
            res.text("published")
        });
        (app, 0)
    });
    let mut client = server.connect();
    client.send("POST /publish HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.answer().text(), "published");
    let mut asked = 0;
    let mut slowest = Duration::ZERO;
    let (count, turns) = loop {
        let begun = Instant::now();
        client.get("/");
        slowest = slowest.max(begun.elapsed());
        asked += 1;
        if let Ok(done) = told.try_recv() {
            break done;
        }
    };
    assert_eq!(count as usize, SUBSCRIBERS);
    assert!(turns >= (SUBSCRIBERS / 100) as u64 - 1, "{turns} turns");
    assert!(
        asked > 10,
        "{asked} requests answered meanwhile, the slowest in {slowest:?}"
    );
}

/// The same with sockets, to the last of which it comes, and once.
#[test]
fn a_publication_reaches_every_socket_over_turns() {
    const SOCKETS: usize = 300;
    let limits = Limits {
        deliveries_per_turn: 7,
        ..Limits::default()
    };
    let server = serve_with(local().limits(limits), || {
        let (tell, _) = ear();
        let mut app: App = App::new();
        probes(&mut app, "/", tell, |_| Ok(()), act);
        (app, ())
    });
    let mut all: Vec<Ws> = (0..SOCKETS)
        .map(|_| {
            let mut ws = Ws::open(&server, "/");
            ws.text("+ t");
            ws.says();
            ws
        })
        .collect();
    for (n, ws) in all.iter_mut().take(20).enumerate() {
        ws.text(&format!("from t {n}"));
    }
    for (n, ws) in all.iter_mut().enumerate() {
        let mut got: Vec<usize> = (0..20 - usize::from(n < 20))
            .map(|_| ws.says().parse().expect("a number"))
            .collect();
        got.sort_unstable();
        assert!(
            got.iter().copied().eq((0..20).filter(|m| *m != n)),
            "{n}: {got:?}"
        );
    }
    all[0].is_silent(Duration::from_millis(50));
}

/// Sockets outlive the site they were opened with, and what its routes had put aside for them.
#[test]
fn a_reload_leaves_sockets_alone() {
    struct Named(&'static str);
    impl Socket for Named {
        fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
            cx.subscribe(ws, "t").expect("a pattern");
        }
        fn message(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, message: Message<'_>) {
            ws.send(&format!("{} {:?}", self.0, message.as_text()));
            cx.publish("t", "to both").expect("published");
        }
    }
    let app = |name: &'static str| {
        let mut app: App = App::new();
        app.sockets("/", move |_, _, _| Ok(Named(name)));
        app
    };
    let mut server = local().build(app("old"), ()).expect("a server");
    let (handle, addresses) = (server.handle(), server.addresses());
    let loopwright::Listen::Tcp(address) = addresses[0] else {
        unreachable!("TCP")
    };
    let client = std::thread::spawn(move || {
        let mut old = Ws::ask(address, request("/"));
        old.text("1");
        assert_eq!([old.says(), old.says()], ["old Some(\"1\")", "to both"]);
        let (tell, told) = channel();
        (old, tell, told, address)
    });
    while !client.is_finished() {
        server
            .turn_within(Duration::from_millis(1))
            .expect("a turn");
    }
    let (mut old, tell, told, address) = client.join().expect("the client");
    server
        .reload(
            Server::builder()
                .listen(format!("{address}"))
                .timeouts(timeouts()),
            app("new"),
        )
        .expect("reloaded");
    let client = std::thread::spawn(move || {
        let mut new = Ws::ask(address, request("/"));
        new.text("2");
        assert_eq!([new.says(), new.says()], ["new Some(\"2\")", "to both"]);
        assert_eq!(old.says(), "to both");
        old.text("3");
        assert_eq!([old.says(), old.says()], ["old Some(\"3\")", "to both"]);
        assert_eq!(new.says(), "to both");
        handle.stop();
        for ws in [&mut old, &mut new] {
            assert_eq!(ws.closed().0, 1001);
            ws.close(1001, "");
            ws.ends();
        }
        tell.send(()).expect("told");
    });
    server.run().expect("ran");
    client.join().expect("the client");
    told.recv().expect("told");
}

/// A bus that counts.
struct Counter(Arc<AtomicUsize>);

impl Bus for Counter {
    fn publish(&mut self, _: &mut Ctx<'_>, _: &Publication) {
        self.0.fetch_add(1, Relaxed);
    }

    fn wanted(&mut self, _: &mut Ctx<'_>, _: &str, _: bool) {}
}

/// What one publication sets off is settled before many more are handed out: it does not pile up.
#[test]
fn what_subscribers_ask_for_does_not_pile_up() {
    const CALLS: usize = 300;
    const EACH: usize = 10;
    const BUDGET: usize = 25;
    let limits = Limits {
        commands_per_turn: BUDGET,
        ..Limits::default()
    };
    let (asked, settled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut app: App = App::new();
    app.bus(Counter(settled.clone()));
    let builder = Server::builder().listen("127.0.0.1:0").limits(limits);
    let mut server = builder.build(app, ()).expect("a server");
    let count = asked.clone();
    let begin = move |cx: &mut Ctx<'_>| {
        let fan_out = move |cx: &mut Ctx<'_>, _: &Publication| {
            for _ in 0..EACH {
                cx.publish("elsewhere", "x").expect("published");
                count.fetch_add(1, Relaxed);
            }
        };
        cx.on_publish("here", fan_out).expect("a pattern");
        (0..CALLS).for_each(|_| cx.deliver("here", "x").expect("delivered"));
    };
    server.handle().post(begin).expect("posted");
    let begun = Instant::now();
    let (mut most, mut done) = (0, 0);
    while done < CALLS * EACH {
        assert!(begun.elapsed() < PATIENCE, "{done} are done");
        assert!(server.turn_within(Duration::ZERO).expect("a turn"));
        done = settled.load(Relaxed);
        most = most.max(asked.load(Relaxed) - done);
    }
    assert!(most <= BUDGET + EACH, "{most} wait at once");
}

/// Two subscribers that never stop to answer each other: others are served meanwhile, and it ends with the server.
#[test]
fn an_endless_exchange_is_not_the_end_of_the_rest() {
    let server = serve(|| {
        let mut app: App = App::new();
        app.post("/", |cx, _, res| {
            for (from, to) in [("ping", "pong"), ("pong", "ping")] {
                let answer = move |cx: &mut Ctx<'_>, _: &Publication| {
                    cx.publish(to, "again").expect("published");
                };
                cx.on_publish(from, answer).expect("a pattern");
            }
            cx.publish("ping", "begin").expect("published");
            res.text("begun")
        });
        app.ws("/", |_, ws, message| ws.send(message));
        app
    });
    let begun = Instant::now();
    let mut other = Ws::open(&server, "/");
    let mut first = TcpStream::connect(server.tcp()).expect("connected");
    let post = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    first.write_all(post.as_bytes()).expect("sent");
    let mut answer = String::new();
    first.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("begun"), "{answer}");
    for n in 0..100 {
        other.text(&n.to_string());
        assert_eq!(other.says(), n.to_string());
    }
    drop(other);
    server.stop();
    assert!(begun.elapsed() < PATIENCE);
}
