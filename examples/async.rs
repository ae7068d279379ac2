//! Handlers that await. Run it, then:
//!
//! ```text
//! curl localhost:8080/hello/ada                  after 100 ms
//! curl localhost:8080/both                       two parts of this server, asked at once, within a second
//! curl localhost:8080/slow                       given up after 50 ms
//! curl --data-binary @Cargo.lock localhost:8080/count
//! curl -N localhost:8080/countdown
//! ```

use futures_util::future::try_join;
use loopwright::{
    Aborted, App, Fetch, Sent, Server, Task, Upstream, asynchronous, asynchronous_stream,
};
use std::error::Error;
use std::time::Duration;

const ADDRESS: &str = "127.0.0.1:8080";

async fn part(task: &Task, path: String) -> Result<Vec<u8>, Box<dyn Error>> {
    let answer = task.fetch("self", Fetch::get(path)).await?;
    Ok(answer.collect(task).await?)
}

fn main() -> std::io::Result<()> {
    let mut app: App = App::new();
    app.upstream("self", Upstream::new([format!("http://{ADDRESS}")]));

    app.get(
        "/hello/{name}",
        asynchronous(|task, req, res| async move {
            task.sleep(Duration::from_millis(100)).await;
            res.text(format!("Hello, {}!\n", req.param("name")));
        }),
    );

    app.get(
        "/both",
        asynchronous(|task, _, res| async move {
            let both = try_join(
                part(&task, "/hello/ada".into()),
                part(&task, "/hello/grace".into()),
            );
            let (ada, grace) = task.timeout(Duration::from_secs(1), both).await??;
            res.text([ada, grace].concat());
            Ok::<_, Box<dyn Error>>(())
        }),
    );

    app.get(
        "/slow",
        asynchronous(|task, _, res| async move {
            let late = task.timeout(Duration::from_millis(50), part(&task, "/hello/you".into()));
            match late.await {
                Ok(hello) => res.bytes(hello?),
                Err(elapsed) => res.status(504).text(format!("{elapsed}\n")),
            }
            Ok::<_, Box<dyn Error>>(())
        }),
    );

    app.stream(
        "POST",
        "/count",
        asynchronous_stream(|task, _, res, body| async move {
            let (mut chunks, mut bytes) = (task.chunks(body), 0);
            while let Some(chunk) = chunks.next().await {
                bytes += chunk?.len();
            }
            res.text(format!("{bytes} bytes\n"));
            Ok::<_, Aborted>(())
        }),
    );

    app.get(
        "/countdown",
        asynchronous(|task, _, res| async move {
            let body = res.stream();
            for n in (1..=10).rev() {
                task.write(&body, format!("{n}\n")).await?;
                task.sleep(Duration::from_millis(200)).await;
            }
            task.write(&body, "lift-off\n").await
        }),
    );

    app.ws_async("/echo", |_, _, mut socket| async move {
        while let Some(message) = socket.next().await {
            if socket.send(&message).await == Sent::Closed {
                break;
            }
        }
    });

    Server::bind(ADDRESS, app, ())?.run()
}
