//! Server-sent events: a clock that nobody misses a tick of. `cargo run --example ticker`, then open
//! <http://localhost:8080>, or `curl -N localhost:8080/ticks`. Whoever comes back after a while, with
//! `curl -N -H 'last-event-id: 7' localhost:8080/ticks`, is sent what came meanwhile; `curl -d '' localhost:8080/cut`
//! cuts everybody off, to see that.

use loopwright::{App, Ctx, Event, Events, Replay, Sent, Server};
use std::time::Duration;

pub(crate) struct Ticker {
    last: u64,
    /// The last hour of ticks, or 64 KiB of them.
    replay: Replay,
    readers: Vec<Events>,
}

impl Ticker {
    pub(crate) fn new() -> Ticker {
        Ticker {
            last: 0,
            replay: Replay::new(3600, 64 * 1024),
            readers: Vec::new(),
        }
    }

    fn tick(&mut self) {
        self.last += 1;
        let event = Event::new(format!("tick {}", self.last)).name("tick");
        // Encoded once, for all of them.
        let event = self.replay.push(self.last, event);
        self.readers
            .retain(|reader| reader.send(&event) != Sent::Closed);
    }
}

/// Begins to tick.
pub(crate) fn start(cx: &mut Ctx<'_, Ticker>, period: Duration) {
    cx.every(period, |cx| cx.state.tick());
}

/// Ends every connection. The clients come back for what they missed.
pub(crate) fn cut_off(cx: &mut Ctx<'_, Ticker>) {
    cx.state.readers.clear();
}

const PAGE: &str = r#"<!doctype html>
<title>ticker</title>
<ol id=ticks></ol>
<script>
  const source = new EventSource('/ticks');
  const show = (text) => {
    const item = document.createElement('li');
    item.textContent = text;
    document.getElementById('ticks').prepend(item);
  };
  source.addEventListener('tick', (event) => show(event.data));
  source.addEventListener('gap', () => show('…'));
  source.onerror = () => show('connecting again');
</script>
"#;

pub(crate) fn app() -> App<Ticker> {
    let mut app = App::<Ticker>::new();
    app.get("/", |_, _, res| res.html(PAGE));
    app.get("/ticks", |cx, req, res| {
        let events = res.events(cx);
        events.send(Event::comment("hello").retry(Duration::from_secs(1)));
        if let Some(id) = req.last_event_id() {
            match cx.state.replay.since(id) {
                Some(missed) => events.resume(missed),
                None => drop(events.send(Event::new("").name("gap"))),
            }
        }
        cx.state.readers.push(events);
    });
    app.post("/cut", |cx, _, res| {
        cut_off(cx);
        res.status(204).empty();
    });
    app
}

#[allow(dead_code)] // The tests have the rest without this.
fn main() -> std::io::Result<()> {
    let mut server = Server::bind("127.0.0.1:8080", app(), Ticker::new())?;
    // The first thing the loop does.
    let _ = server.handle().post(|cx| start(cx, Duration::from_secs(1)));
    println!("http://127.0.0.1:8080");
    server.run()
}
