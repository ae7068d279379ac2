//! The same questions, awaited.

use crate::server::{Cluster, Loop, PATIENCE, eventually};
use loopwright::Task;
use loopwright::service::pg::PgError;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Has a task ask, and waits for what it says.
fn ask<F>(main: &Loop, asks: impl FnOnce(Task) -> F + Send + 'static) -> String
where
    F: Future<Output = Result<String, PgError>> + 'static,
{
    let told = main.call(move |cx, tell: Sender<String>| {
        let asked = asks(cx.task());
        let told = async move {
            let said = asked.await.unwrap_or_else(|error| error.to_string());
            tell.send(said).expect("told");
        };
        cx.spawn(told).expect("room for a task");
    });
    told.recv_timeout(PATIENCE).expect("an answer")
}

#[test]
fn one_after_the_other_and_at_once() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("awaited"));
    let said = ask(&main, |task| async move {
        let pg = task.pg("main");
        let one = pg.one("select 1 + $1::int", (1,)).await?.expect("a row");
        let (two, three) = futures_util::future::join(
            pg.query("select n from generate_series(1, 3) n", ()),
            pg.execute("select", ()),
        )
        .await;
        let wrong = pg.query("select 1 / 0", ()).await.expect_err("a mistake");
        let text = (one.get::<i32>(0), two?.len(), three?, wrong.status());
        Ok(format!("{text:?}"))
    });
    assert_eq!(said, "(Ok(2), 3, 1, 500)");
    let said = ask(&main, |task| async move {
        task.pg("elsewhere").query("select 1", ()).await?;
        Ok("there".to_string())
    });
    assert!(said.contains("elsewhere"), "{said}");
}

#[test]
fn a_transaction_is_done_or_not() {
    let cluster = Cluster::shared();
    cluster.psql("create table awaited (n int)");
    let main = Loop::start(cluster.settings("awaited_transactions"));
    let said = ask(&main, |task| async move {
        let pg = task.pg("main");
        // Dropped: rolled back.
        let tx = pg.transaction().await?;
        tx.execute("insert into awaited values (1)", ()).await?;
        drop(tx);
        let tx = pg.transaction().await?;
        tx.execute("insert into awaited values (2)", ()).await?;
        tx.savepoint("before").await;
        let twice = tx.execute("insert into awaited values ('x')", ()).await;
        tx.rollback_to("before").await;
        tx.execute("insert into awaited values (3)", ()).await?;
        tx.commit().await?;
        let tx = pg.transaction().await?;
        tx.execute("insert into awaited values (4)", ()).await?;
        tx.rollback().await?;
        Ok(format!("{}", twice.is_err()))
    });
    assert_eq!(said, "true");
    let all = cluster.psql("select string_agg(n::text, ',' order by n) from awaited");
    assert_eq!(all, "2,3");
}

/// Whoever stops waiting has the server stop, too.
#[test]
fn a_question_that_is_dropped_is_cancelled() {
    let cluster = Cluster::shared();
    let main = Loop::start(cluster.settings("awaited_too_long"));
    let said = ask(&main, |task| async move {
        let slow = task.pg("main").query("select pg_sleep(60)", ());
        let late = task.timeout(Duration::from_millis(300), slow).await;
        Ok(format!("{}", late.is_err()))
    });
    assert_eq!(said, "true");
    eventually("the server has stopped", || {
        let running = "select count(*) from pg_stat_activity \
                       where application_name = 'awaited_too_long' and state = 'active'";
        cluster.psql(running) == "0"
    });
    let said = ask(&main, |task| async move {
        let pg = task.pg("main").timeout(Duration::from_millis(200));
        let error = pg.query("select pg_sleep(60)", ()).await.expect_err("late");
        Ok(error.status().to_string())
    });
    assert_eq!(said, "504");
}
