//! The client of PostgreSQL against a PostgreSQL, over loopback.

mod installed;
mod isolation;
mod server;
mod tasks;

use loopwright::service::pg::{CopyIn, Param, PgErrorKind};
use loopwright::{Ctx, Demand};
use server::{Cluster, Loop, PATIENCE, Said, eventually, said};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

fn ok(text: &str) -> Said {
    Ok(text.to_string())
}

#[derive(serde::Deserialize, Debug, PartialEq)]
struct User {
    id: i32,
    name: String,
    age: Option<i32>,
}

#[test]
fn rows_by_index_by_name_and_as_structs() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("rows"));
    let sql = "select * from (values (1, 'ada', 36), (2, 'grace', null)) users (id, name, age) where id >= $1";
    let told = main.call(move |cx, tell: Sender<(i32, String, Vec<User>, u64)>| {
        cx.pg("main").query(sql, (1,), move |_, rows| {
            let rows = rows.expect("rows");
            let first = rows[0].get::<i32>(0).expect("a number");
            let name = rows[1].get::<String>("name").expect("a name");
            let users = rows.to::<User>().expect("users");
            tell.send((first, name, users, rows.affected()))
                .expect("told");
        });
    });
    let (first, name, users, affected) = told.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!((first, &name[..], affected), (1, "grace", 2));
    let ada = User {
        id: 1,
        name: "ada".into(),
        age: Some(36),
    };
    let grace = User {
        id: 2,
        name: "grace".into(),
        age: None,
    };
    assert_eq!(users, [ada, grace]);

    let told = main.call(|cx, tell: Sender<(usize, Result<bool, String>)>| {
        let one = |sql: &'static str, n| {
            let tell = tell.clone();
            move |cx: &mut Ctx<'_>| {
                cx.pg("main").one(sql, (), move |_, row| {
                    let row = row
                        .map(|row| row.is_some())
                        .map_err(|error| error.to_string());
                    tell.send((n, row)).expect("told");
                });
            }
        };
        one("select 1 where false", 0)(cx);
        one("select 1", 1)(cx);
        one("select generate_series(1, 2)", 2)(cx);
    });
    let mut all: Vec<_> = told.iter().take(3).collect();
    all.sort();
    let many = "database main: more than one row, where one was wanted".to_string();
    assert_eq!(all, [(0, Ok(false)), (1, Ok(true)), (2, Err(many))]);
}

#[test]
fn errors_say_where_and_what() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("errors"));
    let told = main.call(
        |cx, tell: Sender<(Option<String>, Option<u32>, u16, String)>| {
            cx.pg("main").query("select 1 +* 2", (), move |_, rows| {
                let error = rows.expect_err("no SQL");
                let position = error.server().and_then(|error| error.position);
                let code = error.code().map(String::from);
                tell.send((code, position, error.status(), error.to_string()))
                    .expect("told");
            });
        },
    );
    let (code, position, status, text) = told.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(
        (code.as_deref(), position, status),
        (Some("42883"), Some(10), 500),
        "{text}"
    );
    let told = main.call(|cx, tell: Sender<Said>| {
        cx.pg("other").query("select 1", (), move |_, rows| {
            tell.send(said(rows)).expect("told")
        });
    });
    let unknown = (
        500,
        "database other: there is none of this name".to_string(),
    );
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Err(unknown)));
    let told = main.call(|cx, tell: Sender<Said>| {
        cx.pg("main")
            .query("select $1::int", ("ten",), move |_, rows| {
                tell.send(said(rows)).expect("told")
            });
    });
    let wrong = "database main: parameter $1 (int4): a text does not fit".to_string();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Err((500, wrong))));
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
}

#[test]
fn an_error_in_the_middle_of_a_pipeline_is_its_own() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("pipeline").connections(1));
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
    let told = main.call(|cx, tell: Sender<(i32, Said)>| {
        for n in 0..500 {
            let tell = tell.clone();
            // The 250th divides by 0, the 100th is no SQL.
            let sql = match n {
                100 => "selec",
                _ => "select 100 / ($1 - 250) as n",
            };
            cx.pg("main").query(sql, (n,), move |_, rows| {
                tell.send((n, said(rows))).expect("told")
            });
        }
    });
    let all: Vec<_> = told.iter().collect();
    assert_eq!(all.len(), 500);
    for (at, (n, said)) in all.into_iter().enumerate() {
        assert_eq!(at as i32, n, "in order on one connection");
        match n {
            100 => assert!(said.expect_err("no SQL").1.contains("42601")),
            250 => assert!(said.expect_err("a division by 0").1.contains("22012")),
            n => assert_eq!(said, Ok(format!("[{{\"n\":{}}}]", 100 / (n - 250)))),
        }
    }
    let status = main.status();
    assert_eq!(
        (status.open, status.made, status.queries, status.errors),
        (1, 1, 501, 2)
    );
}

/// Asks again and again, until it is told to stop; counts what comes.
#[derive(Default)]
struct Load {
    asked: Cell<u32>,
    good: Cell<u32>,
    bad: Cell<u32>,
    /// Answers that are not for the question.
    wrong: Cell<u32>,
    over: Cell<bool>,
    last: RefCell<String>,
}

fn load(cx: &mut Ctx<'_>, load: Rc<Load>) {
    if load.over.get() {
        return;
    }
    let n = load.asked.get() as i32;
    load.asked.set(load.asked.get() + 1);
    cx.pg("main").query(
        "select $1::int as n, pg_sleep(0.001)",
        (n,),
        move |cx, rows| {
            match rows {
                Ok(rows) if rows.len() == 1 && rows[0].get::<i32>(0) == Ok(n) => {
                    load.good.set(load.good.get() + 1)
                }
                Ok(_) => load.wrong.set(load.wrong.get() + 1),
                Err(error) => {
                    load.bad.set(load.bad.get() + 1);
                    *load.last.borrow_mut() = error.to_string();
                }
            }
            let pause = Duration::from_millis(u64::from(load.last.borrow().is_empty()));
            cx.after(pause, move |cx| self::load(cx, load));
        },
    );
}

/// Begins a load of so many at once; what ends it gives (asked, good, bad, wrong, the last error).
fn begin_load(main: &Loop, at_once: u32) -> impl FnOnce(&Loop) -> (u32, u32, u32, u32, String) {
    thread_local!(static LOAD: Rc<Load> = Rc::default());
    main.call(move |cx, tell: Sender<()>| {
        for _ in 0..at_once {
            load(cx, LOAD.with(Rc::clone));
        }
        let _ = tell.send(());
    });
    |main| {
        main.call(|_, _: Sender<()>| LOAD.with(|load| load.over.set(true)));
        let numbers = || {
            let told = main.call(|_, tell| {
                let load = LOAD.with(Rc::clone);
                let last = load.last.borrow().clone();
                let (good, bad, wrong) = (load.good.get(), load.bad.get(), load.wrong.get());
                tell.send((load.asked.get(), good, bad, wrong, last))
                    .expect("told");
            });
            told.recv_timeout(PATIENCE).expect("numbers")
        };
        eventually("each question has its answer", || {
            let (asked, good, bad, wrong, _) = numbers();
            asked == good + bad + wrong
        });
        numbers()
    }
}

#[test]
fn a_restart_under_load_answers_each_question_once() {
    let mut cluster = Cluster::start(&[]);
    let main = Loop::start(
        cluster
            .settings("restart")
            .connections(5)
            .queue_wait(Duration::from_secs(20)),
    );
    let end = begin_load(&main, 50);
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..3 {
        cluster.stop();
        std::thread::sleep(Duration::from_millis(300));
        cluster.start_again();
        let before = main.status().queries;
        eventually("it goes on", || main.status().queries > before + 200);
    }
    let (asked, good, bad, wrong, last) = end(&main);
    assert_eq!(wrong, 0);
    // What was on its way three times, on up to five connections, which end one after the other; what waited has waited.
    assert!(
        good > 500 && bad > 0 && bad <= 3 * 50 * 5,
        "{asked} asked, {good} good, {bad} bad: {last}"
    );
    let status = main.status();
    assert_eq!(
        (status.waiting, status.running, status.in_use),
        (0, 0, 0),
        "{status:?}"
    );
}

#[test]
fn terminated_backends_are_replaced() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("terminated").connections(5));
    let end = begin_load(&main, 50);
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'terminated'";
    let mut killed = 0;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(50));
        killed += cluster.psql(kill).parse::<u32>().expect("a number");
    }
    let (asked, good, bad, wrong, last) = end(&main);
    assert!(killed >= 10, "{killed}");
    assert_eq!(wrong, 0);
    assert!(
        good > 100 && bad <= 10 * 50 * 5,
        "{asked} asked, {good} good, {bad} bad: {last}"
    );
    // One that said good-bye while it was idle is not used.
    eventually("idle", || main.status().in_use == 0);
    cluster.psql(kill);
    eventually("noticed", || main.status().open == 0);
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
}

#[test]
fn a_statement_that_takes_too_long_is_ended_by_the_server() {
    let cluster = Cluster::shared();
    let main = Loop::start(
        cluster
            .settings("slow")
            .statement_timeout(Duration::from_millis(100)),
    );
    let (status, text) = main.ask("select pg_sleep(10)").expect_err("too slow");
    assert_eq!(status, 504);
    assert!(
        text.contains("statement timeout") && text.contains("57014"),
        "{text}"
    );
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
}

#[test]
fn more_connections_than_the_server_takes() {
    let cluster = Cluster::start(&[
        "max_connections=8",
        "superuser_reserved_connections=0",
        "max_wal_senders=0",
    ]);
    let main = Loop::start(cluster.settings("many").connections(30));
    let told = main.call(|cx, tell: Sender<Said>| {
        for _ in 0..300 {
            let tell = tell.clone();
            cx.pg("main")
                .query("select pg_sleep(0.005)::text as n", (), move |_, rows| {
                    tell.send(said(rows)).expect("told")
                });
        }
    });
    let all: Vec<_> = told.iter().collect();
    assert_eq!(all.len(), 300);
    for said in all {
        assert_eq!(said, ok("[{\"n\":\"\"}]"));
    }
    let status = main.status();
    assert!(status.failed > 0 && status.open <= 8, "{status:?}");
}

#[test]
fn the_queue_has_a_limit_and_a_time() {
    let cluster = Cluster::shared();
    let settings = cluster
        .settings("queue")
        .connections(1)
        .pipeline(1)
        .queue(2);
    let main = Loop::start(settings.queue_wait(Duration::from_millis(200)));
    let told = main.call(|cx, tell: Sender<(u32, Said)>| {
        for n in 0..4 {
            let tell = tell.clone();
            cx.pg("main")
                .query("select pg_sleep(1)::text as n", (), move |_, rows| {
                    tell.send((n, said(rows))).expect("told")
                });
        }
    });
    let first = told.recv_timeout(PATIENCE).expect("an answer");
    // The first waits for its connection: with it there are two.
    let full = (
        503,
        "database main: 2 wait for a connection already (queue)".to_string(),
    );
    assert!(
        [2, 3].contains(&first.0) && first.1 == Err(full),
        "{first:?}"
    );
    let rest: Vec<_> = told.iter().collect();
    assert_eq!(rest.len(), 3);
    let late = rest.iter().filter_map(|(_, said)| said.as_ref().err());
    for (status, text) in late {
        assert!(
            *status == 503 && (text.contains("queue_wait") || text.contains("(queue)")),
            "{text}"
        );
    }
    assert_eq!(rest.iter().filter(|(_, said)| said.is_ok()).count(), 1);
}

#[test]
fn a_wrong_password_is_told_at_once() {
    let cluster = Cluster::shared();
    let url = |password| {
        let url = format!(
            "postgres://scram:{password}@127.0.0.1:{}/postgres",
            cluster.port
        );
        loopwright::service::pg::Postgres::new(&url).expect("a URL")
    };
    let main = Loop::start(url("wrong").queue_wait(Duration::from_secs(30)));
    let start = Instant::now();
    let (status, text) = main.ask("select 1").expect_err("no login");
    assert_eq!(status, 503);
    assert!(text.contains("28P01") && !text.contains("wrong"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10));
    let main = Loop::start(url("s3cret"));
    assert_eq!(
        main.ask("select current_user as n"),
        ok("[{\"n\":\"scram\"}]")
    );
}

#[test]
fn a_consumer_that_holds_stops_the_server_and_may_not_for_ever() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("held").hold(Duration::from_millis(3000)));
    let told = main.call(move |cx, tell: Sender<(u64, Result<u64, u16>)>| {
        let seen = Rc::new(Cell::new(0));
        let counted = seen.clone();
        let sql = "select repeat('x', 1000) from generate_series(1, 1000000)";
        cx.pg("main").each(
            sql,
            (),
            move |_, _| {
                counted.set(counted.get() + 1);
                Demand::Hold
            },
            move |_, end| {
                tell.send((seen.get(), end.map_err(|error| error.status())))
                    .expect("told")
            },
        );
    });
    let waits = || {
        let sql = "select wait_event from pg_stat_activity where application_name = 'held'";
        cluster.psql(sql) == "ClientWrite"
    };
    eventually("the server waits for us", waits);
    // And goes on waiting: a gigabyte is to come.
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        assert!(waits(), "somebody reads");
    }
    assert_eq!(told.recv_timeout(PATIENCE), Ok((1, Err(504))));
    eventually("cancelled", || {
        cluster.psql("select count(*) from pg_stat_activity where application_name = 'held' and state = 'active'") == "0"
    });
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
}

fn running(cluster: &Cluster, name: &str) -> String {
    cluster.psql(&format!(
        "select count(*) from pg_stat_activity where application_name = '{name}' and state = 'active'"
    ))
}

#[test]
fn a_deadline_cancels_the_query_and_no_other() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("cancel").connections(1));
    for round in 0..20 {
        let start = Instant::now();
        let (status, text) = main
            .ask_with("select pg_sleep(30)", |pg| {
                pg.timeout(Duration::from_millis(100))
            })
            .expect_err("too slow");
        assert_eq!(
            (status, &text[..]),
            (504, "database main: no answer within 100ms (timeout)")
        );
        assert!(start.elapsed() < Duration::from_secs(10));
        // The next one has the same connection, and is not cancelled.
        assert_eq!(
            main.ask("select pg_sleep(0.02)::text as n"),
            ok("[{\"n\":\"\"}]"),
            "{round}"
        );
        assert_eq!(running(&cluster, "cancel"), "0");
    }
    let status = main.status();
    assert!(status.cancels >= 20, "{status:?}");
    assert_eq!(status.made, 1, "{status:?}");
}

#[test]
fn a_query_that_others_wait_behind_is_not_cancelled() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("behind").connections(1));
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
    let told = main.call(|cx, tell: Sender<Said>| {
        let first = tell.clone();
        let timeout = Duration::from_millis(100);
        cx.pg("main")
            .timeout(timeout)
            .query("select pg_sleep(1)", (), move |_, rows| {
                first.send(said(rows)).expect("told")
            });
        cx.pg("main").query("select 2 as n", (), move |_, rows| {
            tell.send(said(rows)).expect("told")
        });
    });
    let all: Vec<_> = told.iter().collect();
    assert_eq!(all[0].as_ref().expect_err("too slow").0, 504);
    assert_eq!(all[1], ok("[{\"n\":2}]"));
    assert_eq!(main.status().cancels, 0);
}

#[test]
fn a_client_that_goes_takes_its_query_with_it() {
    let cluster = Cluster::shared();
    let main = Loop::with(cluster.settings("gone"), |app| {
        app.get("/sleep", |cx, _, res| {
            let res = res.defer();
            cx.pg("main")
                .answering(&res)
                .query("select pg_sleep(30)", (), move |_, rows| {
                    let gone = rows.is_err_and(|error| *error.kind() == PgErrorKind::Gone);
                    res.text(format!("{gone}"));
                });
        });
    });
    let mut client = std::net::TcpStream::connect(main.address).expect("a connection");
    client
        .write_all(b"GET /sleep HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("sent");
    eventually("it runs", || running(&cluster, "gone") == "1");
    client.shutdown(std::net::Shutdown::Write).expect("closed");
    eventually("it was cancelled", || running(&cluster, "gone") == "0");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("true"), "{answer}");
}

#[test]
fn what_is_heard_goes_on_after_a_reconnect() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("listen"));
    let told = main.call(|cx, tell: Sender<(&'static str, String)>| {
        for channel in ["news", "Wei\"rd"] {
            let tell = tell.clone();
            let listening = cx.pg("main").listen(channel, move |_, said| {
                tell.send((channel, said.payload)).expect("told");
            });
            std::mem::forget(listening);
        }
    });
    for round in 0..3 {
        eventually("listening", || main.status().listening == 2);
        cluster.psql(&format!("notify news, 'n{round}'"));
        cluster.psql(&format!("notify \"Wei\"\"rd\", 'w{round}'"));
        cluster.psql("notify other, 'x'");
        assert_eq!(
            told.recv_timeout(PATIENCE),
            Ok(("news", format!("n{round}")))
        );
        assert_eq!(
            told.recv_timeout(PATIENCE),
            Ok(("Wei\"rd", format!("w{round}")))
        );
        let before = main.status();
        cluster.psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'listen'");
        eventually("noticed", || main.status() != before);
    }
    assert!(told.try_recv().is_err());
}

#[test]
fn who_listens_no_more_hears_nothing() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("unlisten"));
    let told = main.call(|cx, tell: Sender<String>| {
        let second = tell.clone();
        let listening = cx
            .pg("main")
            .listen("a", move |_, said| tell.send(said.payload).expect("told"));
        cx.after(Duration::from_millis(500), move |_| drop(listening));
        let listening = cx
            .pg("main")
            .listen("b", move |_, said| second.send(said.payload).expect("told"));
        cx.after(PATIENCE, move |_| drop(listening));
    });
    eventually("listening", || main.status().listening == 2);
    eventually("not to both", || main.status().listening == 1);
    cluster.psql("notify a, 'one'");
    cluster.psql("notify b, 'two'");
    assert_eq!(told.recv_timeout(PATIENCE), Ok("two".to_string()));
    drop(main);
    assert!(told.recv_timeout(PATIENCE).is_err());
}

#[test]
fn transactions_beside_queries() {
    let cluster = Cluster::shared();
    cluster.psql("create table accounts (id int primary key, n bigint); insert into accounts values (1, 1000), (2, 1000)");
    let main = Loop::start(
        cluster
            .settings("transactions")
            .connections(4)
            .queue_wait(PATIENCE),
    );
    let told = main.call(|cx, tell: Sender<Result<&'static str, String>>| {
        for n in 0..200 {
            let queried = tell.clone();
            cx.pg("main").query(
                "select sum(n)::text as n from accounts",
                (),
                move |_, rows| {
                    // Never half of a transfer.
                    let said = said(rows).map_err(|error| error.1);
                    assert_eq!(said.as_deref(), Ok("[{\"n\":\"2000\"}]"));
                    queried.send(Ok("query")).expect("told");
                },
            );
            let tell = tell.clone();
            cx.pg("main").transaction(move |cx, tx| {
                let tx = tx.expect("a transaction");
                tx.query(
                    cx,
                    "update accounts set n = n - 1 where id = 1",
                    (),
                    |_, _, rows| assert!(rows.is_ok()),
                );
                if n % 3 == 0 {
                    // Dropped: rolled back.
                    tx.query(cx, "select 1", (), move |_, _, _| {
                        tell.send(Ok("dropped")).expect("told")
                    });
                    return;
                }
                tx.query(
                    cx,
                    "update accounts set n = n + 1 where id = 2",
                    (),
                    move |cx, tx, rows| {
                        assert!(rows.is_ok());
                        tx.commit(cx, move |_, done| {
                            tell.send(
                                done.map(|()| "committed")
                                    .map_err(|error| error.to_string()),
                            )
                            .expect("told");
                        });
                    },
                );
            });
        }
    });
    let all: Vec<_> = told.iter().map(|said| said.expect("done")).collect();
    let count = |what| all.iter().filter(|said| **said == what).count();
    assert_eq!(
        (count("query"), count("dropped"), count("committed")),
        (200, 67, 133)
    );
    eventually("idle", || main.status().in_use == 0);
    assert_eq!(
        cluster.psql("select string_agg(n::text, ' ' order by id) from accounts"),
        "867 1133"
    );
    assert_eq!(main.status().transactions, 0);
}

#[test]
fn savepoints_and_failures_within_a_transaction() {
    let cluster = Cluster::shared();
    cluster.psql("create table kept (n int unique)");
    let main = Loop::start(cluster.settings("savepoints").connections(1));
    let told = main.call(|cx, tell: Sender<(&'static str, String)>| {
        cx.pg("main").transaction(move |cx, tx| {
            let tx = tx.expect("a transaction");
            let first = tell.clone();
            tx.query(cx, "insert into kept values (1)", (), |_, _, rows| {
                assert!(rows.is_ok())
            });
            tx.savepoint(cx, "here");
            tx.query(cx, "insert into kept values (1)", (), move |_, _, rows| {
                let code = rows.expect_err("twice").code().map(String::from);
                first
                    .send(("twice", code.unwrap_or_default()))
                    .expect("told");
            });
            tx.rollback_to(cx, "here");
            tx.query(
                cx,
                "insert into kept values (2)",
                (),
                move |cx, tx, rows| {
                    assert!(rows.is_ok());
                    tx.commit(cx, move |cx, done| {
                        assert_eq!(done, Ok(()));
                        // Another, which fails, and is not committed though it was asked to be.
                        cx.pg("main").transaction(move |cx, tx| {
                            let tx = tx.expect("a transaction");
                            tx.query(cx, "insert into kept values (3)", (), |_, _, rows| {
                                assert!(rows.is_ok())
                            });
                            tx.query(cx, "insert into kept values (2)", (), |_, _, rows| {
                                assert!(rows.is_err())
                            });
                            let late = tx.clone();
                            tx.commit(cx, move |cx, done| {
                                let error = done.expect_err("rolled back");
                                assert_eq!(error.kind(), &PgErrorKind::RolledBack);
                                late.query(
                                    cx,
                                    "insert into kept values (4)",
                                    (),
                                    move |_, _, rows| {
                                        let error = rows.expect_err("over");
                                        tell.send(("over", error.to_string())).expect("told");
                                    },
                                );
                            });
                        });
                    });
                },
            );
        });
    });
    assert_eq!(
        told.recv_timeout(PATIENCE),
        Ok(("twice", "23505".to_string()))
    );
    let over = "database main: the transaction is over".to_string();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(("over", over)));
    assert_eq!(
        cluster.psql("select string_agg(n::text, ' ' order by n) from kept"),
        "1 2"
    );
}

#[test]
fn a_transaction_that_is_kept_open_is_ended() {
    let cluster = Cluster::shared();
    cluster.psql("create table long (n int)");
    let main = Loop::start(
        cluster
            .settings("long")
            .connections(1)
            .transaction(Duration::from_millis(300)),
    );
    let told = main.call(|cx, tell: Sender<String>| {
        cx.pg("main").transaction(move |cx, tx| {
            let tx = tx.expect("a transaction");
            tx.query(cx, "insert into long values (1)", (), |_, _, rows| {
                assert!(rows.is_ok())
            });
            cx.after(Duration::from_secs(1), move |cx| {
                tx.commit(cx, move |_, done| {
                    tell.send(done.expect_err("over").to_string())
                        .expect("told")
                });
            });
        });
    });
    // Somebody else has the connection before that.
    assert_eq!(
        main.ask("select count(*)::int as n from long"),
        ok("[{\"n\":0}]")
    );
    assert_eq!(
        told.recv_timeout(PATIENCE),
        Ok("database main: the transaction is over".to_string())
    );
    assert_eq!(cluster.psql("select count(*) from long"), "0");
}

#[test]
fn nothing_of_a_session_is_left_to_the_next() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("state").connections(2));
    let probe = "select current_setting('search_path') as path, current_setting('transaction_isolation') as level,
        (select count(*)::int from pg_prepared_statements where name = 'mine') as prepared,
        (select count(*)::int from pg_class where relname = 'mine' and relpersistence = 't') as temporary,
        (select count(*)::int from pg_cursors where name = 'mine') as cursors,
        array_length(array(select pg_listening_channels()), 1) as channels,
        pg_current_xact_id_if_assigned()::text as xact, now() = statement_timestamp() as fresh";
    let clean = main.ask(probe).expect("a look");
    for sql in [
        "begin",
        "start transaction isolation level serializable",
        "set search_path = nowhere",
        "begin; set local search_path = nowhere",
        "listen mine",
        "prepare mine as select 1",
        "create temporary table mine (n int)",
        "declare mine cursor with hold for select 1",
        "begin; create temporary table mine (n int); select 1/0",
        "savepoint a",
    ] {
        let sql = sql.to_string();
        let told = main.call(move |cx, tell: Sender<()>| {
            // On the shared path, several at once; and with a transaction, too.
            for _ in 0..2 {
                let tell = tell.clone();
                let sql = sql.clone();
                if sql.contains(';') {
                    cx.pg("main")
                        .batch(sql, move |_, _| tell.send(()).expect("told"));
                } else {
                    cx.pg("main")
                        .query(sql, (), move |_, _| tell.send(()).expect("told"));
                }
            }
            cx.pg("main").transaction(move |cx, tx| {
                let tx = tx.expect("a transaction");
                tx.batch(cx, sql, move |_, _, _| tell.send(()).expect("told"));
            });
        });
        assert_eq!(told.iter().count(), 3);
        eventually("cleaned", || main.status().in_use == 0);
        // Both connections, at once.
        let told = main.call(move |cx, tell: Sender<Said>| {
            for _ in 0..4 {
                let tell = tell.clone();
                cx.pg("main").query(probe, (), move |_, rows| {
                    tell.send(said(rows)).expect("told")
                });
            }
        });
        assert_eq!(told.iter().collect::<Vec<_>>(), vec![Ok(clean.clone()); 4]);
    }
    let status = main.status();
    assert_eq!((status.transactions, status.made), (0, 2), "{status:?}");
}

#[test]
fn copies_in_and_out() {
    let cluster = Cluster::shared();
    cluster.psql("create table copied (n int, text text)");
    let main = Loop::start(cluster.settings("copies").connections(2));
    let told = main.call(|cx, tell: Sender<(&'static str, Result<u64, String>)>| {
        let (mut left, first) = (1..=200_000, tell.clone());
        let id = Rc::new(Cell::new(None));
        let (asked, mut pauses) = (id.clone(), 0);
        let query = cx.pg("main").copy_in(
            "copy copied from stdin",
            move |cx| {
                // Now and then there is nothing yet.
                pauses += 1;
                if pauses % 1000 == 0 {
                    let asked: Rc<Cell<_>> = asked.clone();
                    cx.after(Duration::from_millis(1), move |cx| {
                        if let Some(id) = asked.get() {
                            cx.pg("main").resume(id);
                        }
                    });
                    return CopyIn::Wait;
                }
                match left.next() {
                    Some(n) => CopyIn::Data(format!("{n}\t{}\n", "x".repeat(n % 300)).into()),
                    None => CopyIn::End,
                }
            },
            move |_, rows| {
                first
                    .send(("in", rows.map_err(|error| error.to_string())))
                    .expect("told")
            },
        );
        id.set(Some(query));
        let second = tell.clone();
        cx.pg("main")
            .copy_bytes("copy copied from stdin", "x\ty\n", move |_, rows| {
                second
                    .send((
                        "bad",
                        rows.map_err(|error| error.code().unwrap_or_default().to_string()),
                    ))
                    .expect("told");
            });
        let mut n = 0;
        cx.pg("main").copy_in(
            "copy copied from stdin",
            move |_| {
                n += 1;
                match n {
                    1 => CopyIn::Data("7\tx\n".into()),
                    _ => CopyIn::Abort("not today".into()),
                }
            },
            move |_, rows| {
                tell.send((
                    "aborted",
                    rows.map_err(|error| error.code().unwrap_or_default().to_string()),
                ))
                .expect("told");
            },
        );
    });
    let mut all: Vec<_> = told.iter().collect();
    all.sort();
    let want = [
        ("aborted", Err("57014".to_string())),
        ("bad", Err("22P02".to_string())),
        ("in", Ok(200_000)),
    ];
    assert_eq!(all, want);
    assert_eq!(
        cluster.psql("select sum(n) || ' ' || sum(length(text)) from copied"),
        "20000100000 29890200"
    );

    let told = main.call(|cx, tell: Sender<(u64, usize)>| {
        let bytes = Rc::new(Cell::new(0));
        let counted = bytes.clone();
        cx.pg("main").copy_out(
            "copy (select text from copied) to stdout",
            move |_, piece| {
                counted.set(counted.get() + piece.len());
                Demand::More
            },
            move |_, rows| tell.send((rows.expect("rows"), bytes.get())).expect("told"),
        );
    });
    assert_eq!(
        told.recv_timeout(PATIENCE),
        Ok((200_000, 29_890_200 + 200_000))
    );
}

#[test]
fn a_piece_of_a_copy_may_be_large() {
    let cluster = Cluster::shared();
    cluster.psql("create table large (text text)");
    let main = Loop::start(cluster.settings("pieces"));
    let told = main.call(|cx, tell: Sender<Result<u64, String>>| {
        let mut left = 3;
        cx.pg("main").copy_in(
            "copy large from stdin",
            move |_| {
                left -= 1;
                match left {
                    0 => CopyIn::End,
                    _ => CopyIn::Data(format!("{}\n", "x".repeat(9_999)).repeat(1000).into()),
                }
            },
            move |_, rows| {
                let rows = rows.map_err(|error| error.to_string());
                tell.send(rows).expect("told");
            },
        );
    });
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Ok(2000)));
    let sum = cluster.psql("select sum(length(text)) from large");
    assert_eq!(sum, "19998000");
}

#[test]
fn callbacks_that_panic_take_nobody_with_them() {
    let cluster = Cluster::shared();
    cluster.psql("create table panics (n int)");
    let settings = cluster.settings("panics").connections(2);
    let main = Loop::start(settings.hold(Duration::from_millis(500)));
    for late in [false, true] {
        let told = main.call(move |cx, tell: Sender<(&'static str, bool)>| {
            let query = Rc::new(Cell::new(None));
            let asked = query.clone();
            let resume = move |cx: &mut Ctx<'_>| {
                let asked = asked.clone();
                cx.after(Duration::from_millis(1), move |cx| {
                    if let Some(id) = asked.get() {
                        cx.pg("main").resume(id);
                    }
                });
            };
            let (mut n, first, again) = (0, tell.clone(), resume.clone());
            let sql = "select generate_series(1, 100000)";
            let id = cx.pg("main").each(
                sql,
                (),
                move |cx, _| {
                    n += 1;
                    assert!(n < 3 - i32::from(!late), "on purpose");
                    again(cx);
                    if late { Demand::Hold } else { Demand::More }
                },
                move |_, end| first.send(("each", end.is_err())).expect("told"),
            );
            query.set(Some(id));
            let (mut n, second) = (0, tell.clone());
            let query = Rc::new(Cell::new(None));
            let asked = query.clone();
            let id = cx.pg("main").copy_in(
                "copy panics from stdin",
                move |cx| {
                    n += 1;
                    assert!(n < 3, "on purpose");
                    if !late {
                        return CopyIn::Data("7\n".into());
                    }
                    let asked: Rc<Cell<_>> = asked.clone();
                    cx.after(Duration::from_millis(1), move |cx| {
                        if let Some(id) = asked.get() {
                            cx.pg("main").resume(id);
                        }
                    });
                    CopyIn::Wait
                },
                move |_, end| second.send(("copy", end.is_err())).expect("told"),
            );
            query.set(Some(id));
            cx.pg("main").query("select 1", (), move |_, _| {
                drop(tell);
                panic!("on purpose")
            });
        });
        let mut all: Vec<_> = told.iter().collect();
        all.sort();
        assert_eq!(all, [("copy", true), ("each", true)]);
    }
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
    assert_eq!(cluster.psql("select count(*) from panics"), "0");
    eventually("idle", || main.status().in_use == 0);
}

#[test]
fn an_answer_that_is_too_large_is_not_gathered() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("large").connections(1).result(100_000));
    let (status, text) = main
        .ask("select repeat('x', 1000) from generate_series(1, 100000)")
        .expect_err("too large");
    assert_eq!(
        (status, &text[..]),
        (
            500,
            "database main: an answer of more than 100000 bytes (result)"
        )
    );
    assert_eq!(main.ask("select 1 as n"), ok("[{\"n\":1}]"));
}

/// As docs/databases.md has it: what takes the rows has let go of what it shares with the end.
#[test]
fn an_answer_that_is_cut_short_can_be_seen() {
    let cluster = Cluster::shared();
    let main = Loop::with(cluster.settings("short"), |app| {
        app.get("/short/{at}", |cx, req, res| {
            let at: i32 = req.param("at").parse().expect("a number");
            let body = Rc::new(res.stream());
            let rows = body.clone();
            cx.pg("main").answering(&*body).each(
                "select (10 / (n - $1::int))::text from generate_series(1, 20000) n",
                [at],
                move |_, row| rows.write(row.get::<String>(0).expect("a text") + "\n"),
                move |_, end| match end {
                    Ok(_) => drop(body),
                    Err(_) => Rc::into_inner(body).expect("nobody else's").abort(),
                },
            );
        });
    });
    for (at, is_whole) in [(0, true), (1, false), (19_999, false)] {
        let mut client = std::net::TcpStream::connect(main.address).expect("a connection");
        let head = format!("GET /short/{at} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        // Broken off, it may end with a reset.
        let _ = client.read_to_end(&mut answer);
        assert_eq!(answer.ends_with(b"\r\n0\r\n\r\n"), is_whole, "{at}");
    }
}

#[test]
fn rows_go_to_a_client_as_fast_as_it_takes_them() {
    let cluster = Cluster::shared();
    let main = Loop::with(cluster.settings("export"), |app| {
        app.get("/export", |cx, _, res| {
            let body = Rc::new(res.stream());
            let rows = body.clone();
            cx.pg("main").answering(&*body).each(
                "select repeat('x', 999) from generate_series(1, $1::int)",
                [Param::from(100_000)],
                move |_, row| rows.write(row.get::<String>(0).expect("a text") + "\n"),
                move |_, end| drop((body, end)),
            );
        });
    });
    let get = || {
        let mut client = std::net::TcpStream::connect(main.address).expect("a connection");
        client
            .write_all(b"GET /export HTTP/1.0\r\n\r\n")
            .expect("sent");
        client
    };
    let mut client = get();
    eventually("the server waits for the client", || {
        cluster.psql("select wait_event from pg_stat_activity where application_name = 'export'")
            == "ClientWrite"
    });
    // Not gathered here either: another test looks at this process' memory.
    let (mut bytes, mut piece) = (0, vec![0; 65_536]);
    loop {
        match client.read(&mut piece).expect("an answer") {
            0 => break,
            n => bytes += piece[..n].iter().filter(|b| **b == b'x').count(),
        }
    }
    assert_eq!(bytes, 99_900_000);
    // One that goes away ends it.
    drop(get());
    eventually("ended", || {
        running(&cluster, "export") == "0" && main.status().running == 0
    });
}

#[test]
fn who_waits_when_a_reload_brings_another_database_is_served() {
    use loopwright::{App, Server};
    let cluster = Cluster::shared();
    let app = |settings| {
        let mut app: App = App::new();
        app.postgres("main", settings);
        app
    };
    let settings = cluster.settings("before").connections(1).pipeline(1);
    let builder = || Server::builder().listen("127.0.0.1:0");
    let mut server = builder().build(app(settings), ()).expect("a server");
    let (tell, told) = std::sync::mpsc::channel();
    let asked = server.handle().post(move |cx| {
        for _ in 0..10 {
            let tell = tell.clone();
            let sql = "select current_setting('application_name') as n, pg_sleep(0.02)::text as t";
            cx.pg("main").query(sql, (), move |_, rows| {
                tell.send(said(rows)).expect("told");
            });
        }
    });
    asked.expect("posted");
    server.turn().expect("a turn");
    server
        .reload(builder(), app(cluster.settings("after")))
        .expect("reloaded");
    let mut all = Vec::new();
    while all.len() < 10 {
        server.turn().expect("a turn");
        all.extend(told.try_iter());
    }
    assert_eq!(all, vec![ok("[{\"n\":\"before\",\"t\":\"\"}]"); 10]);
    let gone = "select count(*) from pg_stat_activity where application_name = 'before'";
    eventually("its connection is closed", || {
        server
            .turn_within(Duration::from_millis(1))
            .expect("a turn");
        cluster.psql(gone) == "0"
    });
}

#[test]
fn a_reload_with_the_same_settings_keeps_connections() {
    use loopwright::{App, Server};
    let cluster = Cluster::shared();
    let settings = cluster.settings("reload");
    let app = |settings| {
        let mut app: App = App::new();
        app.postgres("main", settings);
        app
    };
    let mut server = Server::builder()
        .listen("127.0.0.1:0")
        .build(app(settings.clone()), ())
        .expect("a server");
    let pid = |server: &mut Server<()>| {
        let (tell, told) = std::sync::mpsc::channel();
        let asked = server.handle().post(move |cx| {
            cx.pg("main")
                .one("select pg_backend_pid() as n", (), move |_, row| {
                    let row = row.expect("an answer").expect("a row");
                    tell.send(row.get::<i32>(0).expect("a number"))
                        .expect("told");
                });
        });
        asked.expect("posted");
        loop {
            server.turn().expect("a turn");
            if let Ok(pid) = told.try_recv() {
                return pid;
            }
        }
    };
    let first = pid(&mut server);
    server
        .reload(
            Server::builder().listen("127.0.0.1:0"),
            app(settings.clone()),
        )
        .expect("reloaded");
    assert_eq!(pid(&mut server), first);
    server
        .reload(
            Server::builder().listen("127.0.0.1:0"),
            app(settings.connections(3)),
        )
        .expect("reloaded");
    assert_ne!(pid(&mut server), first);
    let is_gone = format!("select count(*) from pg_stat_activity where pid = {first}");
    eventually("the old one is closed", || {
        let _ = pid(&mut server);
        cluster.psql(&is_gone) == "0"
    });
}
