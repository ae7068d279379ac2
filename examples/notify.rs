//! What one says in PostgreSQL by NOTIFY, everybody hears as server-sent events: any process, any client of the database.
//!
//! ```sh
//! cargo run --example notify -- postgres://ada@localhost/news      # then open http://localhost:8080
//! curl -N localhost:8080/news -H 'accept: text/event-stream'       # what is said from now on
//! curl localhost:8080/news -d 'hello'                              # says it
//! psql news -c "notify news, 'hello'"                              # so does this
//! ```
//! The latest are remembered, from the first request for `/news` on, and each has an id: who comes back is sent what came
//! meanwhile. A connection to the database that breaks is made again, and those who follow notice nothing; but what is said
//! while it is away, PostgreSQL keeps for nobody. What must not be lost belongs in a table: `examples/guestbook`.

use loopwright::service::channel::Channel;
use loopwright::service::pg::Postgres;
use loopwright::{App, Server, StatusError};
use std::error::Error;
use std::time::Duration;

/// PostgreSQL's own limit, in bytes.
const LONGEST: u64 = 7_999;

const PAGE: &str = r#"<!doctype html>
<meta charset=utf-8>
<title>notify</title>
<form id=form><input id=text placeholder="what is new?" required> <button>say</button></form>
<ol id=news reversed></ol>
<script>
  const show = (text) => {
    const item = document.createElement('li');
    item.textContent = text;
    document.getElementById('news').prepend(item);
  };
  // Connects again by itself, and says what it has got. Those that are held to begin with.
  const source = new EventSource('/news?since=');
  source.onmessage = (event) => show(event.data);
  source.addEventListener('reset', () => show('…')); // something may be missing
  document.getElementById('form').onsubmit = (event) => {
    event.preventDefault();
    const text = document.getElementById('text');
    fetch('/news', { method: 'POST', body: text.value });
    text.value = '';
  };
</script>
"#;

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::builder()
        .filter_level(log::LevelFilter::Info)
        .init();
    let mut args = std::env::args().skip(1);
    let url = args
        .next()
        .ok_or("which database? notify URL [ADDRESS], as postgres://user@host/database")?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_string());

    let mut app: App = App::new();
    let database = Postgres::new(&url).map_err(|error| error.to_string())?;
    // What is said while we are away is lost to us: so never away for long.
    app.postgres("main", database.retry(Duration::from_secs(1)));
    app.get("/", |_, _, res| res.html(PAGE));

    // Follows. What is published comes from the database alone, so that all processes say the same.
    let news = Channel::new("news").history(100);
    app.get("/news", news.publish(false).handler());

    app.post("/news", |cx, req, res| -> Result<(), Box<dyn Error>> {
        let text = std::str::from_utf8(req.body()).ok();
        let text = text.filter(|text| !text.is_empty() && !text.contains('\0'));
        let text = text
            .ok_or(StatusError::new(400, "want a text"))?
            .to_string();
        Ok(cx.answer(res, async move |task, res| {
            let sql = "select pg_notify('news', $1)";
            task.pg("main").execute(sql, [text]).await?;
            res.status(202).empty();
            Ok::<_, StatusError>(())
        })?)
    })
    .body_limit(LONGEST);

    let mut server = Server::bind(address, app, ())?;
    server.handle().post(|cx| {
        let heard = cx.pg("main").listen("news", |cx, said| {
            if let Err(error) = cx.publish("news", said.payload.as_str()) {
                log::warn!("nobody is told: {error}");
            }
        });
        // For as long as the server runs.
        std::mem::forget(heard);
    })?;
    for listen in server.addresses() {
        eprintln!("listening on {}", listen.url());
    }
    Ok(server.run()?)
}
