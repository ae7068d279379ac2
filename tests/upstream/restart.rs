//! Servers that are killed and come back under load: no request that may be repeated fails while one of them stands.

use crate::faulty::{Faulty, HEALTHY, Step};
use crate::message::bytes;
use crate::raw::Raw;
use crate::under_test::{config, proxy};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CLIENTS: usize = 8;

/// Asks until it is told to stop: how many were answered, and what else came.
fn load(proxy: SocketAddr, ends: &AtomicBool, request: &str) -> (usize, Vec<String>) {
    let (mut answered, mut failed) = (0, Vec::new());
    let mut raw = Raw::connect(proxy);
    while !ends.load(Ordering::SeqCst) {
        raw.send(&bytes(request));
        match raw.answer(false) {
            Ok(answer) if answer.status() == 200 && answer.body == "ok" => {
                answered += 1;
                if answer.field("connection") == Some("close") {
                    raw = Raw::connect(proxy);
                }
            }
            Ok(answer) => failed.push(answer.first),
            Err(why) => {
                failed.push(why);
                raw = Raw::connect(proxy);
            }
        }
        // Bounded, so that machines that are busy keep up.
        std::thread::sleep(Duration::from_millis(2));
    }
    (answered, failed)
}

/// Loads a proxy with so many servers while `disturb` does what it wants with them.
fn under_load(
    count: usize,
    script: fn() -> Vec<Step>,
    request: &str,
    disturb: impl FnOnce(&mut [Faulty]),
) -> (usize, Vec<String>, Vec<usize>) {
    let mut servers: Vec<Faulty> = (0..count)
        .map(|_| Faulty::start(move |_| script()))
        .collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|s| s.address).collect();
    let proxy = proxy(&config(&addresses, ""));
    let ends = AtomicBool::new(false);
    let (answered, failed) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| load(proxy.address, &ends, request)))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        disturb(&mut servers);
        std::thread::sleep(Duration::from_millis(300));
        ends.store(true, Ordering::SeqCst);
        let all = clients.into_iter().map(|c| c.join().expect("a client"));
        all.fold((0, Vec::new()), |(n, mut all), (m, failed)| {
            all.extend(failed);
            (n + m, all)
        })
    });
    let shares = servers.iter().map(|s| s.requests().0.len()).collect();
    (answered, failed, shares)
}

const GET: &str = "GET /a HTTP/1.1|host: a||";

#[test]
fn one_of_two_is_killed_and_comes_back() {
    let (answered, failed, shares) = under_load(
        2,
        || HEALTHY.to_vec(),
        GET,
        |servers| {
            for turn in 0..6 {
                let server = &mut servers[turn % 2];
                server.kill();
                std::thread::sleep(Duration::from_millis(250));
                server.start_again();
                // The other is killed only when this one is known to be back: an ejection may last.
                std::thread::sleep(Duration::from_millis(if turn % 2 == 0 { 50 } else { 250 }));
            }
        },
    );
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert!(answered > 500, "only {answered} answered");
    assert!(shares.iter().all(|&n| n > 50), "{shares:?}");
}

/// Each connection is good for three answers, and its end is not announced.
#[test]
fn connections_that_end_without_a_word() {
    let script = || {
        let mut steps = HEALTHY[..2].repeat(3);
        steps.push(Step::Close);
        steps
    };
    let (answered, failed, _) = under_load(2, script, GET, |_| {
        std::thread::sleep(Duration::from_secs(1));
    });
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert!(answered > 300, "only {answered} answered");
}

/// None stands: what is asked is answered all the same, with 502 or 503, and all is well when one is back.
#[test]
fn all_are_killed_and_one_comes_back() {
    let (answered, failed, _) = under_load(
        2,
        || HEALTHY.to_vec(),
        GET,
        |servers| {
            servers.iter_mut().for_each(Faulty::kill);
            std::thread::sleep(Duration::from_millis(400));
            servers[0].start_again();
            std::thread::sleep(Duration::from_secs(1));
        },
    );
    let known = ["HTTP/1.1 502", "HTTP/1.1 503", "HTTP/1.1 504"];
    for line in &failed {
        assert!(known.iter().any(|k| line.starts_with(k)), "{line}");
    }
    assert!(
        !failed.is_empty() && answered > 100,
        "{answered} {}",
        failed.len()
    );
}

/// What must not be repeated is asked once at the most, whatever happens.
#[test]
fn no_post_is_asked_twice() {
    let post = "POST /a HTTP/1.1|host: a|content-length: 3||abc";
    let (answered, failed, shares) = under_load(
        2,
        || HEALTHY.to_vec(),
        post,
        |servers| {
            for turn in 0..4 {
                servers[turn % 2].kill();
                std::thread::sleep(Duration::from_millis(150));
                servers[turn % 2].start_again();
                std::thread::sleep(Duration::from_millis(100));
            }
        },
    );
    let sent = answered + failed.len();
    let got: usize = shares.iter().sum();
    assert!(got <= sent, "{sent} sent, {got} arrived");
    assert!(answered > 300, "only {answered} answered");
}
