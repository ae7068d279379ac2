//! Floor 4. The loop's figures as a stream of events: one timer for all who watch, which runs only
//! while somebody does.

use crate::{BodyWriter, Bytes, Ctx, Instant, Response};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Between two readings.
const BEAT: Duration = Duration::from_millis(250);

/// Streams open at once. Past it a client is sent to `/loop.json`.
const MOST: usize = 64;

/// Who watches. The timer runs exactly while this is not empty.
#[derive(Clone, Default)]
pub(super) struct Watchers(Rc<Cell<Vec<BodyWriter>>>);

impl Watchers {
    /// Answers with the stream, or 503 if enough others watch.
    pub(super) fn admit(&self, cx: &mut Ctx<'_>, res: Response<'_>) {
        let mut bodies = self.0.take();
        if bodies.len() < MOST {
            if bodies.is_empty() {
                self.beat_later(cx);
            }
            let body = event_stream(res).stream();
            // How soon a browser that has lost the stream asks again.
            body.write("retry: 2000\n\n");
            body.write(event(cx));
            bodies.push(body);
        } else {
            res.status(503)
                .header("retry-after", "30")
                .text("enough others watch; /loop.json has the figures, too\n");
        }
        self.0.set(bodies);
    }

    fn beat_later(&self, cx: &mut Ctx<'_>) {
        let watchers = self.clone();
        cx.after(BEAT, move |cx| watchers.beat(cx));
    }

    fn beat(&self, cx: &mut Ctx<'_>) {
        let mut bodies = self.0.take();
        if cx.is_stopping() {
            return; // dropped, they end
        }
        bodies.retain(|body| !body.is_closed());
        if bodies.is_empty() {
            return;
        }
        let event = event(cx);
        // Who is behind misses a beat: the figures are totals, so nothing is lost.
        for body in bodies.iter().filter(|body| !body.is_full()) {
            body.write(event.clone());
        }
        self.0.set(bodies);
        self.beat_later(cx);
    }
}

/// The head of the stream.
pub(super) fn event_stream(res: Response<'_>) -> Response<'_> {
    res.header("content-type", "text/event-stream")
        .header("cache-control", "no-store")
}

fn event(cx: &Ctx<'_>) -> Bytes {
    format!("data: {}\n\n", reading(cx)).into()
}

/// The figures as JSON. Without a library: the site is part of the crate's core.
pub(super) fn reading(cx: &Ctx<'_>) -> String {
    let stats = cx.stats();
    let uptime = cx.now() - Instant::default();
    format!(
        "{{\"uptime_seconds\":{:.3},\"process_id\":{},\"turns\":{},\"events\":{},\
         \"waited_seconds\":{:.6},\"worked_seconds\":{:.6},\"accepted\":{},\"requests\":{},\
         \"connections\":{},\"open_exchanges\":{},\"timers\":{}}}",
        uptime.as_secs_f64(),
        std::process::id(),
        stats.turns,
        stats.events,
        stats.waited.as_secs_f64(),
        stats.worked.as_secs_f64(),
        stats.accepted,
        stats.requests,
        stats.connections,
        stats.open_exchanges,
        stats.timers,
    )
}
