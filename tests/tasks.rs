//! Tasks in the simulator: virtual time, seeded networks; and at the end over loopback, where threads are real.

use futures_util::future::{Either, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use loopwright::sim::{self, Client, Faults, SimNet, Simulation, Template};
use loopwright::{
    Aborted, App, BodyWriter, Fetch, Limits, OwnedRequest, Responder, Sent, Server, SpawnError,
    StatusError, Task, TaskError, TaskHandle, Timeouts, Upstream, asynchronous,
    asynchronous_socket, asynchronous_stream,
};
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

type World<S = ()> = Server<S, SimNet>;

const MS: Duration = Duration::from_millis(1);

fn faults(seed: u64) -> Faults {
    Faults {
        accept_errors: 0,
        send_buffer: (64, 8192),
        segment: if seed.is_multiple_of(2) { 2048 } else { 16 },
    }
}

fn world_of<S: 'static>(seed: u64, limits: Limits, app: App<S>, state: S) -> World<S> {
    let net = SimNet::new(seed, faults(seed));
    let builder = Server::builder().limits(limits);
    builder.simulate(net, app, state).unwrap()
}

fn world(seed: u64, app: App) -> World {
    world_of(seed, Limits::default(), app, ())
}

fn wait<S: 'static>(world: &mut World<S>, time: Duration) {
    let end = world.net_mut().now() + time;
    world.net_mut().wake_at(end);
    while world.net_mut().now() < end {
        world.turn().unwrap();
    }
}

fn ask<S: 'static>(world: &mut World<S>, request: &str) -> Client {
    let client = world.net_mut().connect(0);
    world.net_mut().send(client, request.as_bytes());
    client
}

fn get<S: 'static>(world: &mut World<S>, path: &str) -> Client {
    ask(world, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
}

fn text<S: 'static>(world: &mut World<S>, client: Client) -> String {
    let bytes = world.net_mut().received(client);
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Status and body of the answer that has arrived; 0 if there is none.
fn answer<S: 'static>(world: &mut World<S>, client: Client) -> (u16, String) {
    let text = text(world, client);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.get(9..12).map_or(0, |digits| digits.parse().unwrap());
    (status, body.to_string())
}

/// Says when it is dropped.
struct Guard(Rc<Cell<u32>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn an_answer_at_once_and_one_after_a_while() {
    for seed in 0..8 {
        let mut app: App = App::new();
        app.get(
            "/now/{name}",
            asynchronous(|_, req, res| async move { res.text(req.param("name")) }),
        );
        app.get(
            "/later",
            asynchronous(|task, _, res| async move {
                task.sleep(50 * MS).await;
                res.text("later");
            }),
        );
        let mut world = world(seed, app);
        let (now, later) = (get(&mut world, "/now/a%20b"), get(&mut world, "/later"));
        wait(&mut world, 40 * MS);
        assert_eq!(answer(&mut world, now), (200, "a b".into()));
        assert_eq!(answer(&mut world, later).0, 0);
        wait(&mut world, 40 * MS);
        assert_eq!(answer(&mut world, later), (200, "later".into()));
        assert_eq!((world.stats().tasks, world.open_exchanges()), (0, 0));
    }
}

#[test]
fn an_owned_request_is_the_request() {
    let mut app: App = App::new();
    app.post(
        "/a/{id}/{*rest}",
        asynchronous(|_, req, res| async move {
            let headers: Vec<_> = req.headers().map(|(name, _)| name.to_string()).collect();
            let form = req.view(|req| {
                let fields = req.form().map(|fields| fields.count()).unwrap_or(0);
                (
                    req.path() == "/a/1%2F2/x/y",
                    req.param("rest").to_string(),
                    fields,
                )
            });
            let said = format!(
                "{} {} {:?} {:?} {} {} {:?} {:?} {} {} {} {:?} {form:?} {:?}",
                req.method(),
                req.path(),
                req.query(),
                req.query_param("q"),
                req.param("id"),
                req.param("none"),
                req.header("X-ONE"),
                req.header("x-two"),
                req.host(),
                req.route(),
                String::from_utf8_lossy(req.body()),
                headers,
                req.body_bytes(),
            );
            res.text(said);
        }),
    );
    let mut world = world(1, app);
    let request = "POST /a/1%2F2/x/y?q=%41&r HTTP/1.1\r\nHost: here:80\r\nx-one: 1\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: 3\r\n\r\na=b";
    let client = ask(&mut world, request);
    wait(&mut world, 10 * MS);
    let want = "POST /a/1%2F2/x/y Some(\"q=%41&r\") Some(\"A\") 1/2  Some(\"1\") None here:80 \
             /a/{id}/{*rest} a=b [\"Host\", \"x-one\", \"content-type\", \"content-length\"] \
             (true, \"x/y\", 1) b\"a=b\"";
    assert_eq!(answer(&mut world, client), (200, want.into()));
}

#[test]
fn tasks_are_polled_in_the_order_they_were_woken() {
    let mut world = world_of(1, Limits::default(), App::new(), Vec::<String>::new());
    let begin = |cx: &mut loopwright::Ctx<'_, Vec<String>>| {
        for name in ["a", "b", "c"] {
            let task = cx.task();
            let each = async move {
                for step in 0..3 {
                    task.with(move |cx| cx.state.push(format!("{name}{step}")))
                        .await;
                }
            };
            drop(cx.spawn(each).unwrap());
        }
    };
    world.handle().post(begin).unwrap();
    wait(&mut world, 10 * MS);
    let order = world.state().join(" ");
    assert_eq!(order, "a0 b0 c0 a1 b1 c1 a2 b2 c2");
}

#[test]
fn an_error_ends_like_a_handlers() {
    for (path, want) in [
        ("/status", (418, "short and stout")),
        ("/hidden", (500, "Internal Server Error")),
        ("/panic", (500, "Internal Server Error")),
        ("/early", (500, "Internal Server Error")),
        ("/dropped", (500, "Internal Server Error")),
        ("/elsewhere", (200, "all the same")),
    ] {
        let mut app: App = App::new();
        app.get(
            "/status",
            asynchronous(|task, _, res| async move {
                task.yield_now().await;
                drop(res.header("x-kind", "oolong"));
                Err::<(), _>(StatusError::new(418, "short and stout"))
            }),
        );
        app.get(
            "/hidden",
            asynchronous(|task, _, res| async move {
                let _res = res;
                task.sleep(MS).await;
                Err::<(), _>("a secret")
            }),
        );
        app.get(
            "/panic",
            asynchronous(|task, _, res| async move {
                let _res = res;
                task.sleep(MS).await;
                assert_eq!(1, 2, "in a poll");
            }),
        );
        app.get(
            "/early",
            asynchronous(|_, _, res| async move {
                let _res = res;
                panic!("at once")
            }),
        );
        app.get(
            "/dropped",
            asynchronous(|task, _, res| async move {
                drop(res);
                task.sleep(MS).await;
            }),
        );
        app.get(
            "/elsewhere",
            asynchronous(|task, _, res: Responder| async move {
                let inner = task.clone();
                let answer = async move {
                    inner.sleep(5 * MS).await;
                    res.text("all the same");
                };
                drop(task.spawn(answer).unwrap());
                Err::<(), _>("only the log hears of it")
            }),
        );
        let mut world = world(3, app);
        let client = get(&mut world, path);
        wait(&mut world, 20 * MS);
        assert_eq!(
            answer(&mut world, client),
            (want.0, want.1.into()),
            "{path}"
        );
        assert_eq!((world.stats().tasks, world.open_exchanges()), (0, 0));
    }
}

#[test]
fn the_error_hook_makes_the_page() {
    let mut app: App = App::new();
    app.before(|_, _, res| Some(res.header("x-before", "1")));
    app.on_error(|_, failure, res| {
        res.text(format!(
            "{:?} {} {}",
            failure.kind(),
            failure.status(),
            failure.message()
        ))
    });
    app.get(
        "/",
        asynchronous(|task, _, res| async move {
            task.sleep(MS).await;
            drop(res.header("x-after", "1"));
            panic!("boom")
        }),
    );
    let mut world = world(2, app);
    let client = get(&mut world, "/");
    wait(&mut world, 10 * MS);
    let text = text(&mut world, client);
    assert!(
        text.ends_with("\r\n\r\nPanic 500 Internal Server Error boom"),
        "{text}"
    );
    assert!(
        text.contains("x-before: 1\r\n") && !text.contains("x-after"),
        "{text}"
    );
}

#[test]
fn an_error_amid_a_body_cuts_it_off() {
    for (path, whole) in [("/whole", true), ("/error", false), ("/panic", false)] {
        let mut app: App = App::new();
        let half = |task: Task, res: Responder| async move {
            let body = res.stream();
            task.write(&body, "half").await.unwrap();
            task.sleep(5 * MS).await;
            body
        };
        app.get(
            "/whole",
            asynchronous(move |task, _, res| async move {
                half(task, res).await.end();
            }),
        );
        app.get(
            "/error",
            asynchronous(move |task, _, res| async move {
                let _body = half(task, res).await;
                Err::<(), _>("the other half is lost")
            }),
        );
        app.get(
            "/panic",
            asynchronous(move |task, _, res| async move {
                let _body = half(task, res).await;
                panic!("the other half is lost")
            }),
        );
        let mut world = world(4, app);
        let client = get(&mut world, path);
        wait(&mut world, 20 * MS);
        let (status, body) = answer(&mut world, client);
        assert_eq!((status, body.starts_with("4\r\nhalf\r\n")), (200, true));
        assert_eq!(body.ends_with("0\r\n\r\n"), whole, "{path}");
        assert_eq!((world.stats().tasks, world.open_exchanges()), (0, 0));
    }
}

/// What the task of the route waits for when its client leaves.
fn waits(app: &mut App<u32>, dropped: &Rc<Cell<u32>>) {
    fn route<F: Future<Output = ()> + 'static>(
        app: &mut App<u32>,
        dropped: &Rc<Cell<u32>>,
        path: &str,
        f: impl Fn(Task<u32>, Responder) -> F + Copy + 'static,
    ) {
        let dropped = dropped.clone();
        app.get(
            path,
            asynchronous(move |task, _, res| {
                let guard = Guard(dropped.clone());
                async move {
                    f(task.clone(), res).await;
                    // It was not cancelled.
                    task.with(|cx| *cx.state += 1).await;
                    drop(guard);
                }
            }),
        );
    }
    route(app, dropped, "/sleep", |task, res| async move {
        let _res = res;
        task.sleep(200 * MS).await
    });
    route(app, dropped, "/never", |_, res| async move {
        let _res = res;
        pending::<()>().await
    });
    route(app, dropped, "/call", |task, res| async move {
        let _res = res;
        task.call(|cx, done| {
            cx.after(200 * MS, move |_| done.resolve(()));
        })
        .await;
    });
    route(app, dropped, "/fetch", |task, res| async move {
        let _res = res;
        drop(task.fetch("nobody", Fetch::get("/")).await);
        pending::<()>().await
    });
    route(app, dropped, "/hangs", |task, res| async move {
        let _res = res;
        drop(task.fetch("hangs", Fetch::get("/")).await);
    });
    route(app, dropped, "/offload", |task, res| async move {
        let _res = res;
        task.offload(|| ()).await.unwrap();
        pending::<()>().await
    });
    route(app, dropped, "/timeout", |task, res| async move {
        let _res = res;
        let _ = task.timeout(200 * MS, pending::<()>()).await;
    });
    route(app, dropped, "/handle", |task, res| async move {
        let _res = res;
        let _ = task.spawn(pending::<()>()).unwrap().await;
    });
    route(app, dropped, "/stream", |task, res| async move {
        let body = res.stream();
        while task.write(&body, vec![b'x'; 10_000]).await.is_ok() {}
        // Cancelled before it sees the error.
        task.with(|cx| *cx.state += 100).await;
    });
    route(app, dropped, "/yield", |task, res| async move {
        let _res = res;
        loop {
            task.sleep(MS).await;
            task.yield_now().await;
        }
    });
}

#[test]
fn a_task_is_dropped_when_its_client_leaves() {
    let paths = [
        "/sleep", "/never", "/call", "/fetch", "/hangs", "/offload", "/timeout", "/handle",
        "/stream", "/yield",
    ];
    for (seed, path) in paths
        .into_iter()
        .enumerate()
        .flat_map(|(n, path)| [(2 * n as u64, path), (2 * n as u64 + 1, path)])
    {
        for reset in [false, true] {
            let dropped = Rc::new(Cell::new(0));
            let mut app: App<u32> = App::new();
            app.upstream("hangs", Upstream::new(["http://10.0.0.1:80"]));
            waits(&mut app, &dropped);
            let mut world = world_of(seed, Limits::default(), app, 0);
            let client = get(&mut world, path);
            wait(&mut world, 50 * MS);
            let own = usize::from(path == "/handle");
            assert_eq!((dropped.get(), world.stats().tasks), (0, 1 + own), "{path}");
            match reset {
                true => world.net_mut().reset(client),
                false => world.net_mut().finish(client),
            }
            wait(&mut world, 50 * MS);
            // Gone at once, and nothing of it goes on afterwards.
            assert_eq!(
                (dropped.get(), world.open_exchanges()),
                (1, 0),
                "{path} {reset}"
            );
            wait(&mut world, 500 * MS);
            assert_eq!(
                (*world.state(), world.stats().tasks),
                (0, own),
                "{path} {reset}"
            );
        }
    }
}

#[test]
fn a_client_that_only_closes_its_sending_side_is_told() {
    let mut app: App = App::new();
    app.get(
        "/",
        asynchronous(|task, _, res| async move {
            task.sleep(100 * MS).await;
            res.text("too late");
        }),
    );
    let mut world = world(1, app);
    let client = get(&mut world, "/");
    world.net_mut().finish(client);
    wait(&mut world, 20 * MS);
    assert_eq!(answer(&mut world, client).0, 499);
    let timers = world.timers();
    wait(&mut world, 200 * MS);
    assert_eq!(
        (world.stats().tasks, world.connections()),
        (0, 0),
        "{timers} timers"
    );
}

#[test]
fn what_was_spawned_goes_on_without_the_client() {
    let mut app: App<u32> = App::new();
    app.get(
        "/",
        asynchronous(|task: Task<u32>, _, res| async move {
            let _res = res;
            let inner = task.clone();
            let nested = async move {
                let innermost = inner.clone();
                let last = async move {
                    innermost.sleep(50 * MS).await;
                    innermost.with(|cx| *cx.state += 1).await;
                    7
                };
                inner.spawn(last).unwrap().await.unwrap()
            };
            let seven = task.spawn(nested).unwrap().await.unwrap();
            assert_eq!(seven, 7);
            pending::<()>().await
        }),
    );
    let mut world = world_of(5, Limits::default(), app, 0);
    let client = get(&mut world, "/");
    wait(&mut world, 20 * MS);
    assert_eq!(world.stats().tasks, 3);
    world.net_mut().finish(client);
    wait(&mut world, 10 * MS);
    assert_eq!((world.stats().tasks, *world.state()), (2, 0));
    wait(&mut world, 50 * MS);
    assert_eq!((world.stats().tasks, *world.state()), (0, 1));
}

/// Runs a future of its own on the loop until it is over.
fn run<T: 'static, F: Future<Output = T> + 'static>(f: impl FnOnce(Task) -> F + 'static) -> T {
    let mut app: App = App::new();
    let result = Rc::new(RefCell::new(None));
    let (f, into) = (Cell::new(Some(f)), result.clone());
    app.get("/", move |cx, _, res| {
        let (task, into) = (cx.task(), into.clone());
        let future = f.take().unwrap()(task);
        drop(
            cx.spawn(async move { *into.borrow_mut() = Some(future.await) })
                .unwrap(),
        );
        res.text("begun");
    });
    let mut world = world(1, app);
    get(&mut world, "/");
    for _ in 0..1000 {
        wait(&mut world, 10 * MS);
        if let Some(result) = result.borrow_mut().take() {
            assert_eq!(world.stats().tasks, 0);
            return result;
        }
    }
    panic!("the future is not over after 10 s");
}

#[test]
fn select_drops_the_one_that_loses() {
    let undone = Rc::new(Cell::new(0));
    let seen = undone.clone();
    let won = run(move |task| async move {
        let loser = task.cancellable(move |cx, done| {
            let timer = cx.after(100 * MS, move |_| done.resolve("slow"));
            move |cx: &mut loopwright::Ctx<'_>| {
                seen.set(seen.get() + 1);
                assert!(cx.cancel(timer));
            }
        });
        let quick = async {
            task.sleep(10 * MS).await;
            "quick"
        };
        match select(std::pin::pin!(quick), loser).await {
            Either::Left((won, _)) | Either::Right((won, _)) => won,
        }
    });
    assert_eq!((won, undone.get()), ("quick", 1));
}

#[test]
fn nothing_is_undone_that_was_never_asked_or_is_done() {
    let undone = Rc::new(Cell::new(0));
    let seen = undone.clone();
    run(move |task| async move {
        let one = |delay| {
            let seen = Guard(seen.clone());
            task.cancellable(move |cx, done| {
                cx.after(delay, move |_| done.resolve(()));
                // Called or dropped, the guard counts; called, it counts ten more.
                move |_: &mut loopwright::Ctx<'_>| seen.0.set(seen.0.get() + 10)
            })
        };
        // Dropped before it was polled.
        drop(one(MS));
        assert_eq!(seen.get(), 1);
        one(MS).await;
        assert_eq!(seen.get(), 2);
        // Polled, and dropped before the loop has asked.
        let mut never = one(MS);
        poll_fn(|cx| {
            assert!(Pin::new(&mut never).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(never);
        task.sleep(10 * MS).await;
        assert_eq!(seen.get(), 3);
    });
    assert_eq!(undone.get(), 3);
}

#[test]
fn a_select_by_hand_and_wakers_of_others() {
    let order = run(|task| async move {
        let (mut a, mut b) = (task.sleep(20 * MS), task.sleep(10 * MS));
        let first = poll_fn(|cx| {
            if Pin::new(&mut a).poll(cx).is_ready() {
                return Poll::Ready("a");
            }
            Pin::new(&mut b).poll(cx).map(|()| "b")
        })
        .await;
        a.await;
        // These have wakers of their own, which wake ours.
        let all: FuturesUnordered<_> = [30, 10, 20]
            .into_iter()
            .map(|ms| {
                let task = &task;
                async move {
                    task.sleep(ms * MS).await;
                    ms
                }
            })
            .collect();
        let order: Vec<u32> = all.collect().await;
        (first, order)
    });
    assert_eq!(order, ("b", vec![10, 20, 30]));
}

#[test]
fn join_waits_for_both_and_timeout_for_one() {
    run(|task| async move {
        let now = |task: &Task| task.with(|cx| cx.now());
        let begun = now(&task).await;
        let both = join(task.sleep(30 * MS), task.sleep(50 * MS));
        both.await;
        let joined = now(&task).await - begun;
        assert!((50 * MS..60 * MS).contains(&joined), "{joined:?}");
        let late = task.timeout(10 * MS, task.sleep(50 * MS)).await;
        assert_eq!(late.unwrap_err().to_string(), "not done within 10ms");
        assert_eq!(task.timeout(10 * MS, async { 5 }).await, Ok(5));
        // What has lost was cancelled: no timer of it is left but that of the connection.
        let timers = task.with(|cx| cx.stats().timers).await;
        task.sleep(MS).await;
        assert!(task.with(move |cx| cx.stats().timers <= timers).await);
    });
}

#[test]
fn a_handle_cancels_and_tells() {
    run(|task| async move {
        let never = task.spawn(pending::<()>()).unwrap();
        task.yield_now().await;
        assert!(!never.is_finished());
        never.cancel();
        never.cancel();
        assert_eq!(never.await, Err(TaskError::Cancelled));

        let panics = task.spawn(async { panic!("as it should") }).unwrap();
        assert_eq!(panics.await, Err::<(), _>(TaskError::Panicked));

        let early = task.spawn(async { 3 }).unwrap();
        task.sleep(MS).await;
        assert!(early.is_finished());
        early.cancel();
        assert_eq!(early.await, Ok(3));

        // One that cancels itself is over when it has to wait.
        let own: Rc<RefCell<Option<TaskHandle<()>>>> = Rc::default();
        let (inner, at) = (own.clone(), Rc::new(Cell::new(0)));
        let (task_of, seen) = (task.clone(), at.clone());
        let itself = async move {
            task_of.yield_now().await;
            inner.borrow().as_ref().unwrap().cancel();
            seen.set(1);
            task_of.yield_now().await;
            seen.set(2);
        };
        *own.borrow_mut() = Some(task.spawn(itself).unwrap());
        task.sleep(MS).await;
        assert_eq!(at.get(), 1);
        own.take();
    });
}

#[test]
fn a_panic_as_it_is_dropped_is_the_logs() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("as it is dropped");
        }
    }
    run(|task| async move {
        let bomb = async {
            let _bomb = Bomb;
            pending::<()>().await
        };
        let bomb = task.spawn(bomb).unwrap();
        task.yield_now().await;
        bomb.cancel();
        task.yield_now().await;
        assert!(bomb.is_finished());
    });
}

#[test]
fn a_wake_after_the_end_does_nothing() {
    let polls = Rc::new(Cell::new(0));
    let seen = polls.clone();
    run(move |task| async move {
        let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
        let (inner, counted) = (kept.clone(), seen.clone());
        let first = task.spawn(poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            *inner.borrow_mut() = Some(cx.waker().clone());
            Poll::Ready(())
        }));
        first.unwrap().await.unwrap();
        let waker = kept.take().unwrap();
        // In its slot is another now.
        let counted = seen.clone();
        let second = task.spawn(poll_fn(move |_: &mut Context<'_>| {
            counted.set(counted.get() + 100);
            Poll::<()>::Pending
        }));
        let second = second.unwrap();
        task.yield_now().await;
        for _ in 0..3 {
            waker.wake_by_ref();
            task.yield_now().await;
        }
        drop(waker);
        second.cancel();
    });
    assert_eq!(polls.get(), 101);
}

#[test]
fn the_limit_is_an_error_and_503() {
    let limits = Limits {
        tasks: 3,
        ..Limits::default()
    };
    let mut app: App = App::new();
    app.get(
        "/",
        asynchronous(|task, _, res| async move {
            task.sleep(50 * MS).await;
            res.text("done");
        }),
    );
    app.get("/spawn", |cx, _, res| {
        let error = cx.spawn(async {}).err();
        res.text(error.map_or("none".to_string(), |error| error.to_string()));
    });
    let mut world = world_of(1, limits, app, ());
    let clients: Vec<Client> = (0..4).map(|_| get(&mut world, "/")).collect();
    wait(&mut world, 20 * MS);
    let spawn = get(&mut world, "/spawn");
    wait(&mut world, 10 * MS);
    let said = "limits.tasks = 3 is reached";
    assert_eq!(answer(&mut world, spawn), (200, said.into()));
    assert_eq!(SpawnError::Full { limit: 3 }.to_string(), said);
    let mut statuses: Vec<u16> = clients.iter().map(|&c| answer(&mut world, c).0).collect();
    statuses.sort();
    assert_eq!(statuses, [0, 0, 0, 503]);
    wait(&mut world, 50 * MS);
    let mut answers: Vec<_> = clients.iter().map(|&c| answer(&mut world, c)).collect();
    answers.sort();
    assert_eq!(answers[3], (503, "Service Unavailable".into()));
    assert!(answers[..3].iter().all(|it| *it == (200, "done".into())));
    let after = get(&mut world, "/");
    wait(&mut world, 100 * MS);
    assert_eq!(answer(&mut world, after).0, 200);
}

#[test]
fn thousands_of_tasks() {
    const MANY: u64 = 20_000;
    let mut world = world_of(1, Limits::default(), App::new(), 0u64);
    let begin = |cx: &mut loopwright::Ctx<'_, u64>| {
        for n in 0..MANY {
            let task = cx.task();
            let each = async move {
                task.sleep(Duration::from_millis(n % 50)).await;
                task.yield_now().await;
                task.with(move |cx| *cx.state += n).await;
            };
            drop(cx.spawn(each).unwrap());
        }
    };
    world.handle().post(begin).unwrap();
    wait(&mut world, 2000 * MS);
    assert_eq!(*world.state(), MANY * (MANY - 1) / 2);
    assert_eq!((world.stats().tasks, world.timers()), (0, 0));
}

/// Polled again and again, without an end.
fn restless(polls: &Rc<Cell<u64>>) -> impl Future<Output = ()> + use<> {
    let polls = polls.clone();
    poll_fn(move |cx| {
        polls.set(polls.get() + 1);
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

#[test]
fn one_that_wakes_itself_is_polled_once_a_turn_and_starves_nobody() {
    let polls = Rc::new(Cell::new(0));
    let mut app: App = App::new();
    let counted = polls.clone();
    app.get(
        "/restless",
        asynchronous(move |_, _, res| {
            let restless = restless(&counted);
            async move {
                let _res = res;
                restless.await
            }
        }),
    );
    app.get("/", |_, _, res| res.text("here"));
    app.get(
        "/task",
        asynchronous(|task, _, res| async move {
            for _ in 0..10 {
                task.yield_now().await;
            }
            res.text("here, too");
        }),
    );
    let mut world = world(2, app);
    get(&mut world, "/restless");
    while polls.get() == 0 {
        world.turn().unwrap();
    }
    for _ in 0..100 {
        let before = polls.get();
        world.turn().unwrap();
        assert_eq!(polls.get(), before + 1);
    }
    let (plain, task) = (get(&mut world, "/"), get(&mut world, "/task"));
    let mut turns = 0;
    while answer(&mut world, plain).1 != "here" || answer(&mut world, task).1 != "here, too" {
        world.turn().unwrap();
        turns += 1;
        assert!(turns < 1000, "starved");
    }
}

#[test]
fn more_restless_ones_than_a_turn_has_room_for() {
    let limits = Limits {
        commands_per_turn: 8,
        ..Limits::default()
    };
    let polls = Rc::new(Cell::new(0));
    let mut app: App = App::new();
    let counted = polls.clone();
    app.get("/restless", move |cx, _, res| {
        for _ in 0..100 {
            drop(cx.spawn(restless(&counted)).unwrap());
        }
        res.text("begun");
    });
    app.get(
        "/task",
        asynchronous(|task, _, res| async move {
            task.yield_now().await;
            res.text("here, too");
        }),
    );
    app.get("/", |_, _, res| res.text("here"));
    let mut world = world_of(2, limits, app, ());
    let begun = get(&mut world, "/restless");
    while answer(&mut world, begun).0 == 0 {
        world.turn().unwrap();
    }
    let before = polls.get();
    for _ in 0..100 {
        world.turn().unwrap();
    }
    assert_eq!(polls.get() - before, 800);
    let (plain, task) = (get(&mut world, "/"), get(&mut world, "/task"));
    for _ in 0..300 {
        world.turn().unwrap();
    }
    assert_eq!(answer(&mut world, plain), (200, "here".into()));
    assert_eq!(answer(&mut world, task), (200, "here, too".into()));
}

#[test]
fn a_drain_waits_for_those_with_a_request_and_drops_the_others() {
    let dropped = Rc::new(Cell::new(0));
    let mut app: App = App::new();
    let guarded = dropped.clone();
    app.get(
        "/",
        asynchronous(move |task, _, res| {
            let guard = Guard(guarded.clone());
            async move {
                let forever = async move {
                    let _guard = guard;
                    pending::<()>().await
                };
                drop(task.spawn(forever).unwrap());
                task.sleep(300 * MS).await;
                res.text("in time");
            }
        }),
    );
    let mut world = world(1, app);
    let client = get(&mut world, "/");
    wait(&mut world, 50 * MS);
    let begun = world.net_mut().now();
    world.handle().stop();
    while world.turn().unwrap() {
        assert_eq!(dropped.get(), 0);
    }
    let took = world.net_mut().now() - begun;
    assert!((200 * MS..2000 * MS).contains(&took), "{took:?}");
    assert_eq!(answer(&mut world, client), (200, "in time".into()));
    assert_eq!(dropped.get(), 1);
}

#[test]
fn the_end_of_a_drain_cuts_what_is_left() {
    let dropped = Rc::new(Cell::new(0));
    let mut app: App = App::new();
    let (guarded, late) = (dropped.clone(), Rc::new(RefCell::new(None)));
    let spawned = late.clone();
    app.get(
        "/",
        asynchronous(move |task, _, res| {
            let guard = Guard(guarded.clone());
            *spawned.borrow_mut() = Some(task.clone());
            async move {
                let _res = res;
                let _guard = guard;
                pending::<()>().await
            }
        }),
    );
    let timeouts = Timeouts {
        drain: 100 * MS,
        ..Timeouts::default()
    };
    let net = SimNet::new(1, faults(1));
    let builder = Server::builder().timeouts(timeouts);
    let mut world = builder.simulate(net, app, ()).unwrap();
    get(&mut world, "/");
    wait(&mut world, 50 * MS);
    world.handle().stop();
    while world.turn().unwrap() {}
    assert_eq!((dropped.get(), world.stats().tasks), (1, 1));
    let task = late.take().unwrap();
    assert_eq!(task.spawn(async {}).unwrap_err(), SpawnError::Stopped);
}

#[test]
fn a_server_that_is_dropped_drops_its_tasks() {
    let dropped = Rc::new(Cell::new(0));
    let mut app: App = App::new();
    let guarded = dropped.clone();
    app.get(
        "/",
        asynchronous(move |task, _, res| {
            let guard = Guard(guarded.clone());
            async move {
                let _res = res;
                // Each holds what holds it.
                let (_guard, inner) = (guard, task.clone());
                task.call::<()>(move |cx, done| {
                    cx.after(3_600_000 * MS, move |_| drop((inner, done)));
                })
                .await;
            }
        }),
    );
    let mut world = world(1, app);
    get(&mut world, "/");
    while world.stats().tasks == 0 {
        world.turn().unwrap();
    }
    assert_eq!(dropped.get(), 0);
    drop(world);
    assert_eq!(dropped.get(), 1);
}

#[test]
fn bodies_come_whole_or_piece_by_piece() {
    let mut app: App = App::new();
    app.stream(
        "POST",
        "/collect",
        asynchronous_stream(|task, _, res, body| async move {
            let body = task.collect(body).await?;
            res.text(body.len().to_string());
            Ok::<_, Aborted>(())
        }),
    );
    app.stream(
        "POST",
        "/echo",
        asynchronous_stream(|task, _, res, body| async move {
            let (mut chunks, out) = (task.chunks(body), res.stream());
            while let Some(chunk) = chunks.next().await {
                task.write(&out, chunk?).await?;
                task.yield_now().await;
            }
            assert!(chunks.next().await.is_none());
            Ok::<_, Aborted>(())
        }),
    );
    app.stream(
        "POST",
        "/first",
        asynchronous_stream(|task, _, res, body| async move {
            let mut chunks = task.chunks(body);
            let first = chunks.next().await.unwrap()?;
            drop(chunks);
            res.text((!first.is_empty()).to_string());
            Ok::<_, Aborted>(())
        }),
    );
    app.group("", |app| {
        let limited = asynchronous_stream(|task: Task, _, res, body| async move {
            let mut chunks = task.chunks(body);
            let mut said = Vec::new();
            while let Some(chunk) = chunks.next().await {
                said.push(chunk.map(|chunk| chunk.len()));
            }
            let last = said.last().copied();
            res.text(format!("{last:?}"));
        });
        app.stream("POST", "/limited", limited).body_limit(100_000);
    });
    let app = Rc::new(RefCell::new(Some(app)));
    let limits = Limits {
        high_water: 4096,
        ..Limits::default()
    };
    let mut world = world_of(2, limits, app.take().unwrap(), ());
    let body = "x".repeat(70_000);
    let post = |path: &str| {
        format!(
            "POST {path} HTTP/1.0\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let requests = ["/collect", "/echo", "/first", "/limited"];
    let clients = requests.map(|path| ask(&mut world, &post(path)));
    wait(&mut world, 5000 * MS);
    let answers = clients.map(|client| answer(&mut world, client));
    assert_eq!(answers[0], (200, "70000".into()));
    assert_eq!((answers[1].0, answers[1].1 == body), (200, true));
    assert_eq!(answers[2], (200, "true".into()));
    assert!(answers[3].1.starts_with("Some(Ok("), "{}", answers[3].1);
    assert_eq!((world.stats().tasks, world.open_exchanges()), (0, 0));
}

#[test]
fn a_body_that_nobody_takes_is_not_read() {
    let mut app: App<usize> = App::new();
    app.stream(
        "POST",
        "/",
        asynchronous_stream(|task: Task<usize>, _, res, body| async move {
            let mut chunks = task.chunks(body);
            task.sleep(1000 * MS).await;
            let mut total = 0;
            while let Some(chunk) = chunks.next().await {
                total += chunk?.len();
            }
            res.text(total.to_string());
            Ok::<_, Aborted>(())
        }),
    );
    let limits = Limits {
        high_water: 4096,
        reads_per_turn: 1,
        ..Limits::default()
    };
    let mut world = world_of(1, limits, app, 0);
    let size = 900_000;
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n");
    let client = ask(&mut world, &head);
    world.net_mut().send(client, "y".repeat(size).as_bytes());
    wait(&mut world, 500 * MS);
    // What was read waits for the task: some 4 KiB, and one gulp.
    let unread = world.net_mut().unread(client);
    assert!(unread > size - 140_000, "{unread} of {size} unread");
    wait(&mut world, 60_000 * MS);
    assert_eq!(answer(&mut world, client), (200, size.to_string()));
}

#[test]
fn a_stream_waits_for_its_client() {
    let written = Rc::new(Cell::new(0usize));
    let mut app: App = App::new();
    let counted = written.clone();
    app.get(
        "/",
        asynchronous(move |task, _, res| {
            let counted = counted.clone();
            async move {
                let body = res.stream();
                for _ in 0..300 {
                    task.write(&body, vec![b'x'; 1000]).await?;
                    counted.set(counted.get() + 1000);
                }
                Ok::<_, Aborted>(())
            }
        }),
    );
    let limits = Limits {
        high_water: 4096,
        ..Limits::default()
    };
    let mut world = world_of(2, limits, app, ());
    let client = ask(&mut world, "GET / HTTP/1.0\r\n\r\n");
    world.net_mut().stall(client, true);
    wait(&mut world, 500 * MS);
    let ahead = written.get();
    assert!(
        (4000..40_000).contains(&ahead),
        "{ahead} bytes for a client that takes none"
    );
    world.net_mut().stall(client, false);
    wait(&mut world, 5000 * MS);
    assert_eq!(answer(&mut world, client).1.len(), 300_000);
}

#[test]
fn what_is_written_for_nobody_says_so() {
    let mut app: App<u32> = App::new();
    app.get("/", |cx, _, res| {
        // Its own, so that it outlives the client.
        let (task, body): (Task<u32>, BodyWriter) = (cx.task(), res.stream());
        let writer = async move {
            while task.write(&body, vec![b'x'; 10_000]).await.is_ok() {}
            assert_eq!(task.drained(&body).await, Err(Aborted::Connection));
            task.with(|cx| *cx.state = 1).await;
        };
        drop(cx.spawn(writer).unwrap());
    });
    let mut world = world_of(2, Limits::default(), app, 0);
    let client = get(&mut world, "/");
    world.net_mut().stall(client, true);
    wait(&mut world, 100 * MS);
    world.net_mut().reset(client);
    wait(&mut world, 100 * MS);
    assert_eq!((*world.state(), world.stats().tasks), (1, 0));
}

/// Clients, schedules and faults as they are drawn.
#[test]
fn whatever_clients_do() {
    let all = |bodies: bool| {
        move |request: &sim::Request, answer: &sim::Answer<'_>| {
            let is_right = match bodies {
                true => *answer.body == request.body[..],
                false => &*answer.body == b"at last",
            };
            match answer.status {
                // It had only closed its sending side, and is told so.
                499 => Ok(()),
                200 if request.by_head || is_right => Ok(()),
                status => Err(format!(
                    "{status}: {:?}",
                    String::from_utf8_lossy(&answer.body)
                )),
            }
        }
    };
    let app = |dropped: &Rc<Cell<i64>>| {
        let dropped = dropped.clone();
        let mut app: App<Rc<Cell<i64>>> = App::new();
        // As many futures are made as are dropped.
        let guard = move || {
            dropped.set(dropped.get() - 1);
            let dropped = dropped.clone();
            Defer(Some(move || dropped.set(dropped.get() + 1)))
        };
        let guarded = guard.clone();
        app.get(
            "/slow/{ms}",
            asynchronous(move |task: Task<Rc<Cell<i64>>>, req, res| {
                let guard = guarded();
                async move {
                    let _guard = guard;
                    let ms: u64 = req.param("ms").parse().unwrap_or(0);
                    task.sleep(Duration::from_millis(ms % 50)).await;
                    task.yield_now().await;
                    let state = task.with(|cx| cx.state.get()).await;
                    assert!(state < 0);
                    res.text("at last");
                }
            }),
        );
        let guarded = guard.clone();
        app.post(
            "/whole/{n}",
            asynchronous(move |task, req, res| {
                let guard = guarded();
                async move {
                    let _guard = guard;
                    task.yield_now().await;
                    res.bytes(req.body_bytes());
                }
            }),
        );
        app.stream(
            "POST",
            "/echo/{n}",
            asynchronous_stream(move |task, _, res, body| {
                let guard = guard();
                async move {
                    let _guard = guard;
                    let (mut chunks, out) = (task.chunks(body), res.stream());
                    while let Some(chunk) = chunks.next().await {
                        task.write(&out, chunk?).await?;
                    }
                    Ok::<_, Aborted>(())
                }
            }),
        );
        app
    };
    let simulation = Simulation::new(|| Rc::new(Cell::new(0)), app)
        .ask(
            Template::new("GET", "/slow/{n}")
                .check(all(false))
                .may_fail(),
        )
        .ask(
            Template::new("POST", "/whole/{n}")
                .body(0..=20_000)
                .check(all(true))
                .may_fail(),
        )
        .ask(
            Template::new("POST", "/echo/{n}")
                .body(0..=20_000)
                .check(all(true))
                .may_fail(),
        )
        .check(|left, _| match left.get() {
            0 => Ok(()),
            left => Err(format!("{} futures were not dropped", -left)),
        });
    let from = std::env::var("LOOPWRIGHT_SIM_FROM").map_or(0, |text| text.parse().unwrap());
    let seeds = std::env::var("LOOPWRIGHT_SIM_SEEDS").map_or(150, |text| text.parse().unwrap());
    if let Err(failure) = simulation.sweep(from..from + seeds) {
        panic!("{failure}");
    }
}

/// Calls it when dropped.
struct Defer<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Defer<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// An upstream's part of the simulation: takes the request of each connection that is made, and answers it.
fn upstream(world: &mut World, answers: &[(&str, &str)]) -> usize {
    let mut served = 0;
    let mut open: Vec<Client> = Vec::new();
    for _ in 0..200 {
        wait(world, MS);
        while let Some(client) = world.net_mut().dialled() {
            open.push(client);
        }
        open.retain(|&client| {
            let asked = text(world, client);
            if !asked.ends_with("\r\n\r\n") {
                return true;
            }
            let found = answers.iter().find(|(path, _)| asked.contains(path));
            let body = found.map_or("what?", |(_, body)| body);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nx-is: {body}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            world.net_mut().send(client, answer.as_bytes());
            served += 1;
            false
        });
    }
    served
}

#[test]
fn fetches_at_once_and_one_after_another() {
    let mut app: App = App::new();
    app.upstream("one", Upstream::new(["http://10.0.0.1:80"]));
    app.upstream("two", Upstream::new(["http://10.0.0.2:80"]));
    app.get(
        "/both",
        asynchronous(|task, _, res| async move {
            let (a, b) = join(
                task.fetch("one", Fetch::get("/a")),
                task.fetch("two", Fetch::get("/b")),
            )
            .await;
            let (a, b) = (a?, b?);
            assert_eq!(
                (a.header("X-Is"), a.length(), a.headers().count()),
                (Some("A"), Some(1), 2)
            );
            let (a, b) = join(a.collect(&task), b.collect(&task)).await;
            res.bytes([a?, b?].concat());
            Ok::<_, Box<dyn std::error::Error>>(())
        }),
    );
    app.get(
        "/none",
        asynchronous(|task, _, res| async move {
            let why = task.fetch("three", Fetch::get("/")).await.unwrap_err();
            res.text(why.to_string());
        }),
    );
    app.get(
        "/pipe",
        asynchronous(|task, _, res| async move {
            task.fetch("one", Fetch::get("/a")).await?.pipe(res);
            Ok::<_, loopwright::FetchError>(())
        }),
    );
    app.get(
        "/chunks",
        asynchronous(|task, _, res| async move {
            let answer = task.fetch("two", Fetch::get("/b")).await?;
            let (mut chunks, out) = (task.chunks(answer.into_body()), res.stream_sized(1));
            while let Some(chunk) = chunks.next().await {
                task.write(&out, chunk?).await?;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        }),
    );
    let mut world = world(2, app);
    let asked = ["/both", "/none", "/pipe", "/chunks"].map(|path| get(&mut world, path));
    assert_eq!(upstream(&mut world, &[("/a ", "A"), ("/b ", "B")]), 4);
    let answers = asked.map(|client| answer(&mut world, client));
    let want = ["AB", "there is no upstream \"three\"", "A", "B"];
    assert_eq!(answers, want.map(|body| (200, body.to_string())));
    assert_eq!((world.stats().tasks, world.open_exchanges()), (0, 0));
}

#[test]
fn a_fetch_that_is_dropped_is_cancelled() {
    let mut app: App = App::new();
    app.upstream("slow", Upstream::new(["http://10.0.0.1:80"]));
    app.get(
        "/",
        asynchronous(|task, _, res| async move {
            let late = task
                .timeout(20 * MS, task.fetch("slow", Fetch::get("/")))
                .await;
            res.text(late.is_err().to_string());
        }),
    );
    let mut world = world(2, app);
    let client = get(&mut world, "/");
    wait(&mut world, 10 * MS);
    let asked = world
        .net_mut()
        .dialled()
        .expect("a connection to the upstream");
    wait(&mut world, 100 * MS);
    assert_eq!(answer(&mut world, client), (200, "true".into()));
    assert!(world.net_mut().is_finished(asked) || world.net_mut().was_reset(asked));
}

/// A server on a thread of its own, until it is dropped.
struct Real {
    address: String,
    handle: loopwright::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Real {
    fn serve(app: impl FnOnce() -> App + Send + 'static) -> Real {
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut server = Server::bind("127.0.0.1:0", app(), ()).unwrap();
            let address = server.addresses()[0].to_string();
            tell.send((address, server.handle())).unwrap();
            server.run().unwrap();
        });
        let (address, handle) = told.recv().unwrap();
        let thread = Some(thread);
        Real {
            address,
            handle,
            thread,
        }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(10_000 * MS)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_string()
    }

    fn websocket(&self, path: &str) -> tungstenite::WebSocket<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(10_000 * MS)).unwrap();
        let handshake = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        );
        stream.write_all(handshake.as_bytes()).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(
            head.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&head)
        );
        tungstenite::WebSocket::from_raw_socket(stream, tungstenite::protocol::Role::Client, None)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.handle.stop_now();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[test]
fn another_thread_wakes_a_task() {
    let server = Real::serve(|| {
        let mut app: App = App::new();
        app.get(
            "/",
            asynchronous(|_, _, res| async move {
                let shared = Arc::new(Mutex::new((false, None::<Waker>)));
                let theirs = shared.clone();
                let mut thread = Some(move || {
                    std::thread::sleep(20 * MS);
                    let mut shared = theirs.lock().unwrap();
                    shared.0 = true;
                    shared.1.take().unwrap().wake();
                });
                let done = poll_fn(move |cx| {
                    let mut shared = shared.lock().unwrap();
                    if shared.0 {
                        return Poll::Ready("woken");
                    }
                    shared.1 = Some(cx.waker().clone());
                    if let Some(thread) = thread.take() {
                        std::thread::spawn(thread);
                    }
                    Poll::Pending
                });
                res.text(done.await);
            }),
        );
        app.get(
            "/post",
            asynchronous(|task, _, res| async move {
                let handle = task.handle();
                let posted = task.call(move |_, done| {
                    // Kept on the loop, for what another thread posts.
                    POSTED.set(Some(done));
                    std::thread::spawn(move || {
                        let resolve = |_: &mut loopwright::Ctx<'_>| {
                            POSTED.take().unwrap().resolve("posted");
                        };
                        handle.post(resolve).unwrap();
                    });
                });
                res.text(posted.await);
            }),
        );
        app.get(
            "/offload",
            asynchronous(|task, _, res| async move {
                let here = std::thread::current().id();
                let there = task.offload(|| std::thread::current().id()).await.unwrap();
                let panicked = task.offload(|| panic!("on its thread")).await;
                res.text(format!("{} {:?}", here != there, panicked.map(|()| 0)));
            }),
        );
        app
    });
    assert_eq!(server.get("/"), "woken");
    assert_eq!(server.get("/post"), "posted");
    assert_eq!(server.get("/offload"), "true Err(Panicked)");
}

thread_local! {
    static POSTED: Cell<Option<loopwright::Resolver<&'static str>>> = const { Cell::new(None) };
}

#[test]
fn many_threads_wake_many_tasks_many_times() {
    const THREADS: usize = 4;
    const EACH: u32 = 500;
    let server = Real::serve(|| {
        let mut app: App = App::new();
        app.get(
            "/",
            asynchronous(|task, _, res| async move {
                // Ping-pong: each wake of a thread is answered before it wakes again.
                let players = (0..THREADS).map(|_| {
                    let ball = Arc::new(Mutex::new((0u32, None::<Waker>)));
                    let theirs = ball.clone();
                    std::thread::spawn(move || {
                        for n in 0..EACH {
                            loop {
                                let mut ball = theirs.lock().unwrap();
                                if ball.0 == n
                                    && let Some(waker) = ball.1.take()
                                {
                                    ball.0 = n + 1;
                                    drop(ball);
                                    waker.wake();
                                    break;
                                }
                                drop(ball);
                                std::thread::yield_now();
                            }
                        }
                    });
                    task.spawn(poll_fn(move |cx| {
                        let mut ball = ball.lock().unwrap();
                        if ball.0 == EACH {
                            return Poll::Ready(ball.0);
                        }
                        ball.1 = Some(cx.waker().clone());
                        Poll::Pending
                    }))
                    .unwrap()
                });
                let players: Vec<_> = players.collect();
                let mut total = 0;
                for player in players {
                    total += player.await.unwrap();
                }
                res.text(total.to_string());
            }),
        );
        app
    });
    assert_eq!(server.get("/"), (THREADS as u32 * EACH).to_string());
}

#[test]
fn a_websocket_in_a_loop() {
    use tungstenite::Message;
    let server = Real::serve(|| {
        let mut app: App = App::new();
        app.ws_async(
            "/echo/{name}",
            |_, req: OwnedRequest, mut socket| async move {
                while let Some(message) = socket.next().await {
                    match message.as_text() {
                        Some("end") => return Ok(()),
                        Some("fail") => return Err("as asked"),
                        Some("panic") => panic!("as asked"),
                        Some("name") => {
                            assert_eq!(socket.send(req.param("name")).await, Sent::Taken)
                        }
                        _ => assert_eq!(socket.send(&message).await, Sent::Taken),
                    }
                }
                assert_eq!(socket.closed().map(|(code, _)| code), Some(4000));
                assert_eq!(socket.send("nobody").await, Sent::Closed);
                Ok(())
            },
        );
        app
    });
    let connect = || server.websocket("/echo/ada");
    let mut ws = connect();
    ws.send(Message::text("name")).unwrap();
    assert_eq!(ws.read().unwrap(), Message::text("ada"));
    // More at once than the task has taken.
    let large = vec![7u8; 200_000];
    for n in 0..20u8 {
        ws.send(Message::binary(vec![n; 10])).unwrap();
    }
    ws.send(Message::binary(large.clone())).unwrap();
    for n in 0..20u8 {
        assert_eq!(ws.read().unwrap(), Message::binary(vec![n; 10]));
    }
    assert_eq!(ws.read().unwrap(), Message::binary(large));
    let frame = tungstenite::protocol::CloseFrame {
        code: 4000.into(),
        reason: "bye".into(),
    };
    ws.close(Some(frame)).unwrap();
    while ws.read().is_ok() {}
    for (last, code) in [("end", 1000), ("fail", 1011), ("panic", 1011)] {
        let mut ws = connect();
        ws.send(Message::text(last)).unwrap();
        match ws.read().unwrap() {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), code, "{last}"),
            other => panic!("{last}: {other:?}"),
        }
    }
}

#[test]
fn a_websocket_whose_task_is_slow_is_not_read() {
    use tungstenite::Message;
    let server = Real::serve(|| {
        let mut app: App = App::new();
        app.ws_async("/", |task, _, mut socket| async move {
            task.sleep(300 * MS).await;
            let mut total = 0;
            while let Some(message) = socket.next().await {
                total += message.as_bytes().len();
                if message.as_text() == Some("how much?") {
                    socket.send(&total.to_string()).await;
                }
            }
        });
        app
    });
    let mut ws = server.websocket("/");
    ws.get_ref().set_write_timeout(Some(50 * MS)).unwrap();
    let piece = vec![1u8; 60_000];
    let mut sent = 0;
    // Far more than the kernel's buffers hold: somebody has to say stop.
    let full = (0..1000).any(|_| match ws.send(Message::binary(piece.clone())) {
        Ok(()) => {
            sent += piece.len();
            false
        }
        Err(_) => true,
    });
    assert!(full, "60 MB for a task that takes none");
    ws.get_ref().set_write_timeout(None).unwrap();
    ws.get_ref().set_read_timeout(Some(10_000 * MS)).unwrap();
    // The piece that was refused has stayed in the client's own buffer.
    sent += piece.len();
    ws.send(Message::text("how much?")).unwrap();
    assert_eq!(ws.read().unwrap(), Message::text((sent + 9).to_string()));
}

#[test]
fn a_websocket_that_is_not_read_is_not_taken_for_silent() {
    let mut app: App = App::new();
    app.sockets("/", |_, _, _| {
        Ok(asynchronous_socket(|task: Task, mut socket| async move {
            // Longer than timeouts.socket_idle and timeouts.pong.
            task.sleep(Duration::from_secs(300)).await;
            let (first, second) = (socket.next().await, socket.next().await);
            let total = [first, second].map(|message| message.unwrap().as_bytes().len());
            socket.send(&format!("{total:?}")).await;
        }))
    });
    let limits = Limits {
        high_water: 4096,
        ..Limits::default()
    };
    let mut world = world_of(2, limits, app, ());
    let client = ask(
        &mut world,
        "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
    );
    for size in [5000u16, 6000] {
        // A masked binary frame; a mask of zeros changes nothing.
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend(size.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(vec![b'x'; size.into()]);
        world.net_mut().send(client, &frame);
    }
    wait(&mut world, Duration::from_secs(400));
    let bytes = world.net_mut().received(client).to_vec();
    let said = String::from_utf8_lossy(&bytes);
    assert!(said.contains("[5000, 6000]"), "{said:?}");
    assert_eq!((world.stats().tasks, world.open_exchanges()), (0, 0));
}

/// Larger than `limits.high_water`, and taken by the kernel before the task has its next turn.
#[test]
fn a_message_that_is_gone_at_once_is_not_waited_for() {
    use tungstenite::Message;
    let server = Real::serve(|| {
        let mut app: App = App::new();
        app.ws_async("/", |_, _, mut socket| async move {
            while let Some(message) = socket.next().await {
                socket.send(&message).await;
            }
        });
        app
    });
    let mut ws = server.websocket("/");
    ws.get_ref().set_read_timeout(Some(5_000 * MS)).unwrap();
    for n in 0..20u8 {
        let large = Message::binary(vec![n; 66_000]);
        ws.send(large.clone()).unwrap();
        assert_eq!(ws.read().expect("an echo"), large, "message {n}");
    }
}

/// Counts who may still wake it.
struct Counted;

impl std::task::Wake for Counted {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_send_that_waits_keeps_one_waker() {
    use tungstenite::Message;
    let (tell, told) = std::sync::mpsc::channel();
    let server = Real::serve(move || {
        let mut app: App = App::new();
        app.ws_async("/", move |task, _, mut socket| {
            let tell = tell.clone();
            async move {
                socket.next().await;
                let counted = Arc::new(Counted);
                let waker = Waker::from(counted.clone());
                let large = vec![0u8; 32 * 1024 * 1024];
                let mut send = Box::pin(socket.send(large.as_slice()));
                for _ in 0..500 {
                    // As a `select` in a loop does it.
                    let polled = send.as_mut().poll(&mut Context::from_waker(&waker));
                    assert!(polled.is_pending(), "nobody reads it");
                    task.yield_now().await;
                }
                tell.send(Arc::strong_count(&counted)).unwrap();
            }
        });
        app
    });
    let mut ws = server.websocket("/");
    ws.send(Message::text("begin")).unwrap();
    let wakers = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(wakers <= 4, "{wakers} wakers after 500 polls");
}

/// Its task takes nothing and ends, with more on its way than it is given.
#[test]
fn a_websocket_that_was_held_ends_in_good_order() {
    use tungstenite::Message;
    let server = Real::serve(|| {
        let mut app: App = App::new();
        app.ws_async("/", |task, _, socket| async move {
            task.sleep(300 * MS).await;
            drop(socket);
        });
        app
    });
    let mut ws = server.websocket("/");
    ws.get_ref().set_read_timeout(Some(10_000 * MS)).unwrap();
    for _ in 0..8 {
        ws.send(Message::binary(vec![1u8; 50_000])).unwrap();
    }
    let begun = std::time::Instant::now();
    match ws.read().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1000),
        other => panic!("{other:?}"),
    }
    // Ours is answered by the client, and that by the end of the connection.
    let end = ws.read();
    let took = begun.elapsed();
    assert!(
        matches!(end, Err(tungstenite::Error::ConnectionClosed)) && took < Duration::from_secs(2),
        "{end:?} after {took:?}"
    );
}

/// A callback that has itself called again, for ever, takes part in every turn, and no more than that.
#[test]
fn callbacks_without_end_do_not_starve_tasks() {
    fn again(cx: &mut loopwright::Ctx<'_>) {
        cx.later().call(again);
    }
    let server = Real::serve(|| {
        let mut app: App = App::new();
        app.get("/flood", |cx, _, res| {
            again(cx);
            res.text("begun");
        });
        app.get("/now", |_, _, res| res.text("now"));
        app.get(
            "/task",
            asynchronous(|_, _, res| async move { res.text("done") }),
        );
        app
    });
    for (path, said) in [("/flood", "begun"), ("/now", "now"), ("/task", "done")] {
        assert_eq!(server.get(path), said, "{path}");
    }
    server.handle.stop_now();
}

/// What is undone as the server is dropped is called no more, but dropped, whatever it holds.
#[test]
fn what_is_undone_at_the_end_does_not_stay() {
    let dropped = Rc::new(Cell::new(0));
    let seen = dropped.clone();
    let mut app: App = App::new();
    app.get("/", move |cx, _, res| {
        let (task, guard) = (cx.task(), Guard(seen.clone()));
        let inner = task.clone();
        let waits = task.cancellable(move |cx, done| {
            cx.after(Duration::from_secs(3600), move |_| done.resolve(()));
            move |_: &mut loopwright::Ctx<'_>| drop((inner, guard))
        });
        drop(cx.spawn(waits).unwrap());
        res.text("begun");
    });
    let mut world = world(1, app);
    get(&mut world, "/");
    wait(&mut world, 100 * MS);
    assert_eq!((world.stats().tasks, dropped.get()), (1, 0));
    drop(world);
    assert_eq!(dropped.get(), 1);
}

/// However much is to be done before the loop hears that a task has begun.
#[test]
fn a_client_that_leaves_while_the_loop_is_busy_takes_its_task_along() {
    for before in 0..8 {
        for seed in 0..4 {
            let dropped = Rc::new(Cell::new(0));
            let seen = dropped.clone();
            let mut app: App = App::new();
            app.get("/", move |cx, _, res| {
                for _ in 0..before {
                    cx.later().call(|_| ());
                }
                let guard = Guard(seen.clone());
                cx.answer(res, async move |_, res| {
                    let _both = (guard, res);
                    pending::<()>().await;
                })
            });
            let limits = Limits {
                commands_per_turn: 1,
                ..Limits::default()
            };
            let mut world = world_of(seed, limits, app, ());
            let client = get(&mut world, "/");
            while world.open_exchanges() == 0 {
                world.turn().unwrap();
            }
            world.net_mut().reset(client);
            wait(&mut world, 1000 * MS);
            assert_eq!(
                (dropped.get(), world.stats().tasks, world.open_exchanges()),
                (1, 0, 0),
                "{before} {seed}"
            );
        }
    }
}
