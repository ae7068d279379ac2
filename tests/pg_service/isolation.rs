//! What one asker does is nobody else's: not its session, not its failures, not its mistakes.

use crate::server::{Cluster, Loop, PATIENCE, Said, eventually, said};
use loopwright::service::pg::{CopyIn, Param, Params, PgErrorKind, PgQuery, types};
use loopwright::{App, Demand, Server};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// A query that is not even asked has failed all the same.
#[test]
fn what_is_refused_here_fails_its_transaction_too() {
    let cluster = Cluster::shared();
    cluster.psql("create table halves (n int)");
    let main = Loop::start(cluster.settings("halves").connections(1));
    for (sql, params) in [
        ("insert into halves values ($1)", 1),
        ("insert into halves values ($1)", 2),
        ("insert into halves values (1) -- \0", 0),
        ("copy halves from stdin", 0),
    ] {
        let told = main.call(move |cx, tell: Sender<(&'static str, String)>| {
            cx.pg("main").transaction(move |cx, tx| {
                let tx = tx.expect("a transaction");
                let failed = tell.clone();
                // A text where a number is wanted, or too many of them.
                tx.query(
                    cx,
                    sql,
                    std::iter::repeat_n("x", params).collect::<Params>(),
                    move |_, _, rows| {
                        failed
                            .send(("query", rows.expect_err("refused").to_string()))
                            .expect("told");
                    },
                );
                tx.query(cx, "insert into halves values (2)", (), |_, _, _| {});
                tx.commit(cx, move |_, done| {
                    let done = done.map_err(|error| error.kind().clone());
                    tell.send(("commit", format!("{done:?}"))).expect("told");
                });
            });
        });
        let all: Vec<_> = told.iter().take(2).collect();
        assert_eq!(all[1], ("commit", "Err(RolledBack)".to_string()), "{all:?}");
        assert_eq!(cluster.psql("select count(*) from halves"), "0", "{all:?}");
    }
    // Who goes back to before it has seen to it.
    let told = main.call(move |cx, tell: Sender<String>| {
        cx.pg("main").transaction(move |cx, tx| {
            let tx = tx.expect("a transaction");
            tx.query(cx, "insert into halves values (3)", (), |_, _, _| {});
            tx.savepoint(cx, "here");
            let wrong = "insert into halves values ($1)";
            tx.query(cx, wrong, ("x",), |_, _, rows| assert!(rows.is_err()));
            tx.rollback_to(cx, "here");
            tx.commit(cx, move |_, done| {
                tell.send(format!("{done:?}")).expect("told")
            });
        });
    });
    assert_eq!(told.recv_timeout(PATIENCE), Ok("Ok(())".to_string()));
    assert_eq!(cluster.psql("select n from halves"), "3");
}

#[test]
fn what_no_tag_tells_of_is_not_left_to_the_next() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("tags").connections(1));
    let probe = "select current_setting('search_path') as path, current_setting('application_name') as app,
        (select count(*)::int from pg_class where relpersistence = 't') as temporary,
        (select count(*)::int from pg_proc p join pg_namespace n on n.oid = pronamespace where nspname like 'pg_temp%') as functions,
        (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks";
    let clean = main.ask(probe).expect("a look");
    for sql in [
        "create temporary table mine as select 1 as n",
        "select 1 as n into temporary mine",
        "create temporary view mine as select 1 as n",
        "create temporary sequence mine",
        "create function pg_temp.mine() returns int language sql as 'select 1'",
        "do $$ begin perform set_config('search_path', 'nowhere', false); end $$",
        "do $$ begin perform pg_advisory_lock(7); end $$",
        // The server says of it that it has changed.
        "select set_config('application_name', 'another', false)",
    ] {
        for is_batch in [false, true] {
            let told = main.call(move |cx, tell: Sender<bool>| {
                let tell = move |is_ok| tell.send(is_ok).expect("told");
                match is_batch {
                    true => cx.pg("main").batch(sql, move |_, end| tell(end.is_ok())),
                    false => cx
                        .pg("main")
                        .query(sql, (), move |_, end| tell(end.is_ok())),
                };
            });
            assert_eq!(told.recv_timeout(PATIENCE), Ok(true), "{sql}");
            assert_eq!(
                main.ask(probe),
                Ok(clean.clone()),
                "{sql}, in a batch: {is_batch}"
            );
        }
    }
    assert_eq!(main.status().made, 1);
}

#[test]
fn a_channel_that_cannot_be_does_not_silence_the_others() {
    let cluster = Cluster::shared();
    for name in ["", "a\0b"] {
        let main = Loop::start(cluster.settings("channels"));
        let told = main.call(move |cx, tell: Sender<String>| {
            let wrong = cx.pg("main").listen(name, |_, _| {});
            let listening = cx.pg("main").listen("others", move |_, said| {
                tell.send(said.payload).expect("told")
            });
            cx.after(PATIENCE, move |_| drop((wrong, listening)));
        });
        let start = Instant::now();
        let mut heard = None;
        while heard.is_none() && start.elapsed() < Duration::from_secs(5) {
            cluster.psql("notify others, 'yes'");
            heard = told.recv_timeout(Duration::from_millis(100)).ok();
        }
        assert_eq!(heard.as_deref(), Some("yes"), "{name:?}");
    }
}

/// The server cuts names; so it says another than it was told.
#[test]
fn a_channel_of_a_long_name_is_heard() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("long_channel"));
    let name = "ä".repeat(40);
    let to = name.clone();
    let told = main.call(move |cx, tell: Sender<String>| {
        let listening = cx
            .pg("main")
            .listen(&to, move |_, said| tell.send(said.payload).expect("told"));
        cx.after(PATIENCE, move |_| drop(listening));
    });
    eventually("listening", || main.status().listening == 1);
    cluster.psql(&format!("notify \"{name}\", 'yes'"));
    assert_eq!(
        told.recv_timeout(Duration::from_secs(5)),
        Ok("yes".to_string())
    );
}

#[test]
fn what_was_asked_before_a_reload_is_not_taken_for_what_was_asked_after_it() {
    let cluster = Cluster::shared();
    let app = |settings| {
        let mut app: App = App::new();
        app.postgres("main", settings);
        app
    };
    let builder = || Server::builder().listen("127.0.0.1:0");
    let mut server = builder()
        .build(app(cluster.settings("first")), ())
        .expect("a server");
    let (tell, told) = std::sync::mpsc::channel();
    let (name, named) = std::sync::mpsc::channel();
    let ask = |server: &mut Server<()>| {
        let (tell, name) = (tell.clone(), name.clone());
        let posted = server.handle().post(move |cx| {
            let sql = "select pg_sleep(0.3)::text as n";
            let query = cx.pg("main").query(sql, (), move |_, rows| {
                tell.send(said(rows)).expect("told");
            });
            name.send(query).expect("named");
        });
        posted.expect("posted");
        server.turn().expect("a turn");
    };
    ask(&mut server);
    server
        .reload(builder(), app(cluster.settings("second")))
        .expect("reloaded");
    server.turn().expect("a turn");
    ask(&mut server);
    let first = named.recv().expect("a name");
    assert_ne!(Ok(first), named.recv());
    let posted = server.handle().post(move |cx| cx.pg("main").cancel(first));
    posted.expect("posted");
    let mut all = Vec::new();
    let start = Instant::now();
    while all.len() < 2 && start.elapsed() < PATIENCE {
        server
            .turn_within(Duration::from_millis(10))
            .expect("a turn");
        all.extend(told.try_iter());
    }
    assert_eq!(all, vec![Ok("[{\"n\":\"\"}]".to_string()); 2]);
}

#[test]
fn who_has_said_commit_has_no_more_time_than_others() {
    let cluster = Cluster::shared();
    let settings = cluster.settings("committing").connections(1);
    let main = Loop::start(settings.transaction(Duration::from_millis(300)));
    let start = Instant::now();
    let told = main.call(|cx, tell: Sender<String>| {
        cx.pg("main").transaction(move |cx, tx| {
            let tx = tx.expect("a transaction");
            tx.query(cx, "select pg_sleep(20)", (), |_, _, _| {});
            tx.commit(cx, move |_, done| {
                let error = done.expect_err("too long");
                assert!(
                    matches!(error.kind(), PgErrorKind::Deadline { .. }),
                    "{error}"
                );
                tell.send(error.to_string()).expect("told");
            });
        });
    });
    let told = told.recv_timeout(Duration::from_secs(10));
    assert!(
        told.is_ok() && start.elapsed() < Duration::from_secs(5),
        "{told:?}"
    );
    // The server was told, too: there is but one connection.
    assert_eq!(main.ask("select 1 as n"), Ok("[{\"n\":1}]".to_string()));
}

#[test]
fn who_gives_up_within_a_row_and_holds_keeps_no_connection() {
    let cluster = Cluster::shared();
    let settings = cluster.settings("given_up").connections(1);
    let main = Loop::start(settings.hold(Duration::from_millis(300)));
    let told = main.call(|cx, tell: Sender<bool>| {
        let query = Rc::new(Cell::new(None::<PgQuery>));
        let own = query.clone();
        let asked = cx.pg("main").each(
            "select repeat('x', 1000) from generate_series(1, 100000)",
            (),
            move |cx, _| {
                if let Some(own) = own.take() {
                    cx.pg("main").cancel(own);
                }
                Demand::Hold
            },
            move |_, end| tell.send(end.is_err()).expect("told"),
        );
        query.set(Some(asked));
    });
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    assert_eq!(main.ask("select 1 as n"), Ok("[{\"n\":1}]".to_string()));
    eventually("it is free", || main.status().in_use == 0);
}

/// What is given up within a transaction is cancelled, and ends it; what comes after it is not asked.
#[test]
fn a_request_to_cancel_meets_nothing_else_of_its_transaction() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("late_cancels").connections(1));
    let mut met = Vec::new();
    for round in 0..60u64 {
        let told = main.call(move |cx, tell: Sender<Result<(), String>>| {
            cx.pg("main").transaction(move |cx, tx| {
                let tx = tx.expect("a transaction");
                tx.savepoint(cx, "here");
                // It ends when it is given up, or about then.
                let given_up = tx.query(cx, "select pg_sleep(0.01)", (), move |cx, tx, _| {
                    tx.rollback_to(cx, "here");
                    tx.query(cx, "select pg_sleep(0.05)", (), move |_, _, rows| {
                        let rows = rows.map(|_| ()).map_err(|error| error.to_string());
                        tell.send(rows).expect("told");
                    });
                });
                let after = Duration::from_millis(8 + round % 6);
                cx.after(after, move |cx| cx.pg("main").cancel(given_up));
            });
        });
        met.push(told.recv_timeout(PATIENCE).expect("an answer"));
    }
    let over = Err("database main: the transaction is over".to_string());
    assert!(met.contains(&over), "{met:?}");
    met.retain(|said| *said != over && said.is_err());
    assert_eq!(met, []);
}

/// More than a connection takes at once waits; it is no mistake of who asks.
#[test]
fn large_queries_at_once_wait_for_each_other() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("large").connections(1));
    let told = main.call(|cx, tell: Sender<Result<Option<i32>, String>>| {
        for _ in 0..20 {
            let (tell, text) = (tell.clone(), "x".repeat(1 << 20));
            let pg = cx.pg("main");
            pg.one("select length($1)", (text,), move |_, row| {
                let length = row.map(|row| row.and_then(|row| row.get(0).ok()));
                tell.send(length.map_err(|error| error.to_string()))
                    .expect("told");
            });
        }
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), vec![Ok(Some(1 << 20)); 20]);
}

/// A callback that panics is called again for what is said next.
#[test]
fn who_panics_once_still_hears() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("deaf"));
    let told = main.call(|cx, tell: Sender<String>| {
        let listening = cx.pg("main").listen("panics", move |_, said| {
            assert_ne!(said.payload, "first", "as it is to be");
            tell.send(said.payload).expect("told");
        });
        cx.after(PATIENCE, move |_| drop(listening));
    });
    eventually("listening", || main.status().listening == 1);
    cluster.psql("notify panics, 'first'; notify panics, 'second'");
    let heard = told.recv_timeout(Duration::from_secs(5));
    assert_eq!(heard, Ok("second".to_string()));
}

/// What was held is not lost with who panics over it: nothing of it is anybody else's, and nobody waits for it.
#[test]
fn who_panics_after_a_pause_is_told_at_once() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("pause").connections(1));
    let begun = Instant::now();
    let told = main.call(move |cx, tell: Sender<bool>| {
        let asked = Rc::new(Cell::new(None));
        let (place, mut n) = (asked.clone(), 0);
        let id = cx.pg("main").each(
            "select generate_series(1, 10)",
            (),
            move |cx, _| {
                n += 1;
                assert!(n < 2, "on purpose");
                let asked = asked.clone();
                cx.after(Duration::from_millis(1), move |cx| {
                    if let Some(id) = asked.get() {
                        cx.pg("main").resume(id);
                    }
                });
                Demand::Hold
            },
            move |_, end| tell.send(end.is_err()).expect("told"),
        );
        place.set(Some(id));
    });
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    assert_eq!(main.ask("select 7 as n"), Ok("[{\"n\":7}]".to_string()));
    assert!(begun.elapsed() < Duration::from_secs(10), "at once");
}

/// Who is to give more, neither.
#[test]
fn who_panics_over_a_copy_after_a_pause_is_told_at_once() {
    let cluster = Cluster::shared();
    cluster.psql("create table pauses (n int)");
    let main = Loop::start(cluster.settings("copies").connections(1));
    let begun = Instant::now();
    let told = main.call(move |cx, tell: Sender<bool>| {
        let asked = Rc::new(Cell::new(None));
        let (place, mut n) = (asked.clone(), 0);
        let id = cx.pg("main").copy_in(
            "copy pauses from stdin",
            move |cx| {
                n += 1;
                assert!(n < 2, "on purpose");
                let asked = asked.clone();
                cx.after(Duration::from_millis(1), move |cx| {
                    if let Some(id) = asked.get() {
                        cx.pg("main").resume(id);
                    }
                });
                CopyIn::Wait
            },
            move |_, end| tell.send(end.is_err()).expect("told"),
        );
        place.set(Some(id));
    });
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    assert_eq!(main.ask("select 7 as n"), Ok("[{\"n\":7}]".to_string()));
    assert!(begun.elapsed() < Duration::from_secs(10), "at once");
}

/// A value of the embedder's own type is written while the hub is in use.
#[test]
fn a_parameter_that_panics_is_only_its_own_error() {
    #[derive(Debug)]
    struct Panics;
    impl types::ToSql for Panics {
        fn to_sql(
            &self,
            _: &types::Type,
            out: &mut types::private::BytesMut,
        ) -> Result<types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
            out.extend_from_slice(b"half of it");
            panic!("on purpose")
        }
        fn accepts(_: &types::Type) -> bool {
            true
        }
        types::to_sql_checked!();
    }
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("typed").connections(1));
    let sql = "select $1::int as n";
    for _ in 0..2 {
        let told = main.call(move |cx, tell: Sender<Said>| {
            let params = Params::new().with(Param::Typed(Box::new(Panics)));
            cx.pg("main").query(sql, params, move |_, rows| {
                tell.send(said(rows)).expect("told");
            });
        });
        let (status, text) = told
            .recv_timeout(PATIENCE)
            .expect("told")
            .expect_err("no value");
        assert_eq!(status, 500);
        assert!(
            text.contains("parameter $1 (int4)") && text.contains("panicked"),
            "{text}"
        );
    }
    assert_eq!(main.ask("select 7 as n"), Ok("[{\"n\":7}]".to_string()));
}
