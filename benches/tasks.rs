//! What a task costs: the same endpoints as callbacks and as futures, one request after the other on one connection.
//!
//! Client and loop share a thread, so that its CPU time is that of both; the client's part is the same for all. Allocations
//! are those of a whole exchange.
//!
//! `cargo bench --bench tasks`, or, built faster, `cargo bench --profile quick --bench tasks`

use loopwright::{App, Fetch, Server, Upstream, asynchronous};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 15;
const REQUESTS: usize = 2000;
const NONE: Duration = Duration::ZERO;

const PATHS: [&str; 10] = [
    "/now/callback",
    "/now/deferred",
    "/now/answer",
    "/now/asynchronous",
    "/later/callback",
    "/later/answer",
    "/later/asynchronous",
    "/fetch/callback",
    "/fetch/answer",
    "/fetch/asynchronous",
];

fn app(address: &str) -> App {
    let mut app: App = App::new();
    app.upstream("self", Upstream::new([format!("http://{address}")]));
    app.get("/now/callback", |_, _, res| res.text("Hello, World!"));
    app.get("/now/deferred", |_, _, res| {
        res.defer().text("Hello, World!")
    });
    app.get("/now/answer", |cx, _, res| {
        cx.answer(res, async |_, res| res.text("Hello, World!"))
    });
    let now = asynchronous(|_, _, res| async move { res.text("Hello, World!") });
    app.get("/now/asynchronous", now);

    app.get("/later/callback", |cx, _, res| {
        let res = res.defer();
        cx.after(NONE, move |_| res.text("Hello, World!"));
    });
    app.get("/later/answer", |cx, _, res| {
        cx.answer(res, async |task, res| {
            task.sleep(NONE).await;
            res.text("Hello, World!");
        })
    });
    let later = asynchronous(|task, _, res| async move {
        task.sleep(NONE).await;
        res.text("Hello, World!");
    });
    app.get("/later/asynchronous", later);

    app.get("/fetch/callback", |cx, _, res| {
        let res = res.defer();
        let fetch = Fetch::get("/now/callback").answering(&res);
        cx.fetch("self", fetch, move |cx, answer| match answer {
            Ok(answer) => answer.collect(cx, move |_, body| match body {
                Ok(body) => res.bytes(body),
                Err(why) => res.status(502).text(why.to_string()),
            }),
            Err(why) => res.status(502).text(why.to_string()),
        });
    });
    app.get("/fetch/answer", |cx, _, res| {
        cx.answer(res, async |task, res| {
            let answer = task.fetch("self", Fetch::get("/now/callback")).await?;
            res.bytes(answer.collect(&task).await?);
            Ok::<_, Box<dyn std::error::Error>>(())
        })
    });
    let fetch = asynchronous(|task, _, res| async move {
        let answer = task.fetch("self", Fetch::get("/now/callback")).await?;
        res.bytes(answer.collect(&task).await?);
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    app.get("/fetch/asynchronous", fetch);
    app
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn ask(server: &mut Server, client: &mut TcpStream, path: &str, times: usize) {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nuser-agent: bench\r\naccept: */*\r\n\r\n");
    let mut answer = [0; 4096];
    for _ in 0..times {
        client.write_all(request.as_bytes()).unwrap();
        loop {
            server.turn().unwrap();
            match client.read(&mut answer) {
                Ok(n) => {
                    assert!(answer[..n].starts_with(b"HTTP/1.1 200 OK\r\n"));
                    assert!(answer[..n].ends_with(b"Hello, World!"));
                    break;
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
    }
}

fn main() {
    // A port that is free, for a server that asks itself.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut server = Server::bind(&*address, app(&address), ()).unwrap();
    let mut client = TcpStream::connect(&address).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut times = PATHS.map(|_| Vec::new());
    let mut counts = PATHS.map(|_| (0, 0));
    for round in 0..=ROUNDS {
        // One after the other in each round, so that what else the machine does meets all of them.
        for (n, path) in PATHS.iter().enumerate() {
            let (region, begun) = (Region::new(ALLOCATOR), cpu());
            ask(&mut server, &mut client, path, REQUESTS);
            let (took, made) = (cpu() - begun, region.change());
            if round > 0 {
                times[n].push(took / REQUESTS as u32);
                let made_of = made.allocations + made.reallocations;
                counts[n] = (made_of, made.bytes_allocated);
            }
        }
    }
    println!("endpoint                 allocations   bytes   CPU, median (least)");
    for (n, path) in PATHS.iter().enumerate() {
        times[n].sort();
        let (made, bytes) = counts[n];
        println!(
            "{path:24} {:11.2} {:7} {:8.2} µs ({:.2})",
            made as f64 / REQUESTS as f64,
            bytes / REQUESTS,
            times[n][ROUNDS / 2].as_nanos() as f64 / 1000.0,
            times[n][0].as_nanos() as f64 / 1000.0,
        );
    }
}
