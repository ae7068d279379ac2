//! Floor 2. Server-sent events (WHATWG HTML §9.2): what is written, to whom, and what a client that comes
//! back has missed.
//!
//! ```text
//!  Event ─ encode ─► Encoded ─ send ──► body ──► backlog ─► client
//!                       │        └──► queue ──┘ when drained
//!                     Replay ─ since(last id) ─ resume ─► another connection of the same client
//! ```
//! An [`Events`] is open until one of: its handle is dropped, the client leaves (its timer is cancelled),
//! [`Slow::Close`] finds it slow, or a heartbeat finds that the server stops. From then on `body` is empty,
//! and nothing is written. Invariant: while `queue` is not empty, a drain callback is set that empties it,
//! and nothing but comments overtakes what is in it.

use super::ctx::{Ctx, Job, TimerId};
use super::outbox::Queue;
use super::slow::{Sent, Slow};
use super::stream::{BodyWriter, Demand, Open, sealed};
use crate::base::id::StreamRef;
use bytes::Bytes;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::{Display, Write};
use std::rc::{Rc, Weak};
use std::time::Duration;

pub(crate) const MEDIA_TYPE: &str = "text/event-stream";
/// What else the head says, unless it says it already.
pub(crate) const FIELDS: [(&[u8], &[u8]); 2] = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
];
/// A comment, which clients ignore and proxies see.
const BEAT: &[u8] = b":\n\n";

/// One event, put together line by line.
///
/// ```
/// use loopwright::Event;
/// use std::time::Duration;
/// let event = Event::new("two\nlines").id(7).name("tick").retry(Duration::from_secs(2));
/// let wire = b"data: two\ndata: lines\nid: 7\nevent: tick\nretry: 2000\n\n";
/// assert_eq!(event.encode().as_ref(), wire);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    lines: String,
}

impl Event {
    /// An event with this data. Each line of it (ended by CR, LF or both) becomes a line on the wire; the
    /// client puts them together again, with LF between them.
    pub fn new(data: impl AsRef<str>) -> Event {
        Event::of_lines("data: ", data.as_ref())
    }

    /// A comment: no client sees it. With an id or a retry behind it, it sets those without an event.
    pub fn comment(text: impl AsRef<str>) -> Event {
        Event::of_lines(": ", text.as_ref())
    }

    fn of_lines(field: &str, text: &str) -> Event {
        let mut lines = String::with_capacity(text.len() + 32);
        for line in text_lines(text) {
            lines.push_str(field);
            lines.push_str(line);
            lines.push('\n');
        }
        Event { lines }
    }

    /// What the client will say as `Last-Event-ID` when it comes back. An empty one makes it say nothing.
    /// One with a line break or NUL cannot be sent: it is left out, and the log says so.
    pub fn id(self, id: impl Display) -> Event {
        self.line("id", id)
    }

    /// The name that the client listens for; `message` if there is none. One with a line break or NUL
    /// cannot be sent: it is left out, and the log says so.
    pub fn name(self, name: impl Display) -> Event {
        self.line("event", name)
    }

    /// How long the client waits before it connects again, from now on.
    pub fn retry(self, wait: Duration) -> Event {
        self.line("retry", wait.as_millis())
    }

    fn line(mut self, field: &str, value: impl Display) -> Event {
        let start = self.lines.len();
        // Writing to a String cannot fail; a `Display` that does has written what there is.
        let _ = write!(self.lines, "{field}: {value}");
        if self.lines[start..].contains(['\r', '\n', '\0']) {
            log::error!("an event's {field} has a line break or NUL, and is left out");
            self.lines.truncate(start);
        } else {
            self.lines.push('\n');
        }
        self
    }

    /// As it is sent: once, for any number of clients.
    pub fn encode(mut self) -> Encoded {
        self.lines.push('\n');
        Encoded(self.lines.into())
    }
}

/// The lines of a text; at least one.
fn text_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\r', '\n']) else {
            return rest.take();
        };
        let (line, after) = text.split_at(end);
        rest = after.strip_prefix("\r\n").or_else(|| after.get(1..));
        Some(line)
    })
}

/// An event as it is sent. A clone costs nothing.
///
/// ```
/// use loopwright::{App, Event, Events};
/// let mut app = App::<Vec<Events>>::new();
/// app.get("/news", |cx, _, res| { let events = res.events(cx); cx.state.push(events) });
/// app.post("/news", |cx, req, res| {
///     let event = Event::new(String::from_utf8_lossy(req.body())).encode();
///     cx.state.retain(|events| !events.is_closed());
///     cx.state.iter().for_each(|events| { events.send(&event); });
///     res.status(204).empty();
/// });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded(Bytes);

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Event> for Encoded {
    fn from(event: Event) -> Encoded {
        event.encode()
    }
}

impl From<&Encoded> for Encoded {
    fn from(event: &Encoded) -> Encoded {
        event.clone()
    }
}

impl Encoded {
    /// What it counts while it waits.
    fn cost(&self) -> usize {
        self.0.len() + size_of::<Encoded>()
    }
}

/// Events on their way to one client; from [`super::response::Responder::events`]. Dropping it ends them,
/// and the client connects again after its retry time.
///
/// A heartbeat, a comment every 15 s, keeps proxies from taking the connection for dead, and finds out when
/// it is. When the server is asked to stop, the next heartbeat ends the events, so that they do not hold up
/// the drain.
///
/// ```
/// use loopwright::{App, Ctx, Event, Events, Sent, Slow};
/// use std::time::Duration;
/// fn tick(cx: &mut Ctx<'_>, events: Events, n: u64) {
///     if events.send(Event::new("tick").id(n)) != Sent::Closed {
///         cx.after(Duration::from_secs(1), move |cx| tick(cx, events, n + 1));
///     }
/// }
/// let mut app: App = App::new();
/// app.get("/ticks", |cx, _, res| {
///     let events = res.events(cx).heartbeat(cx, Duration::from_secs(5)).slow(Slow::DropNewest);
///     tick(cx, events, 1);
/// });
/// ```
#[must_use = "events that are dropped end"]
pub struct Events {
    inner: Rc<Inner>,
}

struct Inner {
    to: StreamRef,
    /// Empty when nothing more can be sent.
    body: Cell<Option<BodyWriter>>,
    slow: Cell<Slow>,
    beat: Cell<Option<TimerId>>,
    /// What waits for the body to drain.
    queue: Queue<Encoded>,
    queued: Cell<usize>,
    /// How much may be queued: `limits.high_water`, and what a resume has added.
    bound: Cell<usize>,
    dropped: Cell<u64>,
    /// A drain callback is set.
    armed: Cell<bool>,
    /// Sets one.
    arm: Box<dyn Fn(Rc<Inner>)>,
}

impl Events {
    pub(crate) fn begin<S: 'static>(
        cx: &mut Ctx<'_, S>,
        body: BodyWriter,
        is_head: bool,
    ) -> Events {
        // Weak: a job that waits has the writer, and the queue of jobs has the job.
        let jobs = Rc::downgrade(&cx.core.jobs);
        let arm = move |inner: Rc<Inner>| {
            if let Some(jobs) = jobs.upgrade() {
                jobs.push_back(Job::OnDrain {
                    to: inner.to,
                    call: Box::new(move |_| inner.drained()),
                });
            }
        };
        let inner = Rc::new(Inner {
            to: body.exchange(),
            slow: Cell::default(),
            beat: Cell::default(),
            queue: Queue::default(),
            queued: Cell::default(),
            bound: Cell::new(body.high_water()),
            dropped: Cell::default(),
            armed: Cell::default(),
            arm: Box::new(arm),
            body: Cell::new(Some(body).filter(|_| !is_head)),
        });
        let events = Events { inner };
        if is_head {
            return events;
        }
        let weak = Rc::downgrade(&events.inner);
        events.on_close(cx, move |cx| {
            if let Some(inner) = weak.upgrade() {
                inner.body.take();
                inner.beat.take().map(|beat| cx.cancel(beat));
            }
        });
        let heartbeat = cx.core.heartbeat;
        events.heartbeat(cx, heartbeat)
    }

    /// A comment every so often; [`Duration::ZERO`] for none. Default 15 s.
    pub fn heartbeat<S: 'static>(self, cx: &mut Ctx<'_, S>, period: Duration) -> Events {
        self.inner.beat.take().map(|beat| cx.cancel(beat));
        if !period.is_zero() && !self.is_closed() {
            beat(cx, Rc::downgrade(&self.inner), period);
        }
        self
    }

    /// What happens when the client takes less than it is sent. Default [`Slow::Close`]: with a [`Replay`]
    /// it comes back and misses nothing.
    pub fn slow(self, policy: Slow) -> Events {
        self.inner.slow.set(policy);
        self
    }

    /// Sends an event: an [`Event`], or an [`Encoded`] one for many clients. It leaves at the end of the
    /// turn.
    pub fn send(&self, event: impl Into<Encoded>) -> Sent {
        let event = event.into();
        let Some(body) = self.inner.open() else {
            return Sent::Closed;
        };
        let (sent, goes_on) = self.inner.send(&body, event);
        if goes_on {
            self.inner.body.set(Some(body));
        }
        sent
    }

    /// Sends what a client has missed, as fast as it takes it: what [`Replay::since`] returns. Not held to
    /// the policy for slow clients, and what is sent later comes behind it.
    pub fn resume<E: Into<Encoded>>(&self, missed: impl IntoIterator<Item = E>) {
        for event in missed {
            let event = event.into();
            self.inner.bound.set(self.inner.bound.get() + event.cost());
            self.inner.push(event);
        }
        self.inner.write_queued();
    }

    /// Whether nothing arrives any more: the client is gone, or was closed for being slow.
    pub fn is_closed(&self) -> bool {
        let body = self.inner.open();
        let is_closed = body.is_none();
        self.inner.body.set(body);
        is_closed
    }

    /// Calls `f` once, when the client leaves; [`Ctx::on_abort`] with this does the same. A client that
    /// closes its sending side has left: none that reads events does so and stays.
    pub fn on_close<S: 'static>(
        &self,
        cx: &mut Ctx<'_, S>,
        f: impl FnOnce(&mut Ctx<'_, S>) + 'static,
    ) {
        cx.on_abort(self, f);
    }

    /// How many events the client's slowness has cost it.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.get()
    }

    /// No more events: the client connects again after its retry time. To keep it from that, answer its
    /// next request with status 204.
    pub fn end(self) {}
}

impl Open for Events {
    fn exchange(&self) -> StreamRef {
        self.inner.to
    }
}

impl sealed::Sealed for Events {}

fn beat<S: 'static>(cx: &mut Ctx<'_, S>, weak: Weak<Inner>, period: Duration) {
    let Some(inner) = weak.upgrade() else {
        return;
    };
    let next = cx.after(period, move |cx| {
        let Some(inner) = weak.upgrade() else {
            return;
        };
        inner.beat.take();
        let Some(body) = inner.open().filter(|_| !cx.is_stopping()) else {
            return;
        };
        // What waits tells the proxies as well that there is somebody.
        if !body.is_full() {
            body.write(BEAT);
        }
        inner.body.set(Some(body));
        beat(cx, weak, period);
    });
    inner.beat.set(Some(next));
}

impl Inner {
    /// The body, if there is a client for it. To be put back.
    fn open(&self) -> Option<BodyWriter> {
        self.body.take().filter(|body| !body.is_closed())
    }

    /// What became of an event, and whether the body goes on.
    fn send(self: &Rc<Self>, body: &BodyWriter, event: Encoded) -> (Sent, bool) {
        if self.queue.is_empty() && !body.is_full() {
            return (write(body, event), true);
        }
        let fits = |event: &Encoded| self.queued.get() + event.cost() <= self.bound.get();
        match self.slow.get() {
            Slow::Tell => {
                while let Some(event) = self.pop() {
                    write(body, event);
                }
                write(body, event);
                return (Sent::Full, true);
            }
            Slow::DropOldest => {
                let before = self.dropped.get();
                while !fits(&event) && self.pop().is_some() {
                    self.dropped.set(self.dropped.get() + 1);
                }
                // The newest waits, if need be alone.
                self.push(event);
                if self.dropped.get() == before {
                    return (Sent::Full, true);
                }
                return (Sent::Dropped, true);
            }
            // Slow it is only when more waits than it has missed.
            _ if !self.queue.is_empty() && fits(&event) => {
                self.push(event);
                return (Sent::Full, true);
            }
            Slow::DropNewest => {}
            Slow::Close => return (Sent::Closed, false),
        }
        self.dropped.set(self.dropped.get() + 1);
        (Sent::Dropped, true)
    }

    fn push(self: &Rc<Self>, event: Encoded) {
        self.queued.set(self.queued.get() + event.cost());
        self.queue.push_back(event);
        if !self.armed.replace(true) {
            (self.arm)(self.clone());
        }
    }

    fn pop(&self) -> Option<Encoded> {
        let event = self.queue.pop_front()?;
        self.queued.set(self.queued.get() - event.cost());
        Some(event)
    }

    fn drained(self: &Rc<Self>) {
        self.armed.set(false);
        self.write_queued();
        if !self.queue.is_empty() && !self.armed.replace(true) {
            (self.arm)(self.clone());
        }
    }

    /// Writes of the queue what there is room for.
    fn write_queued(&self) {
        let Some(body) = self.open() else {
            while self.pop().is_some() {}
            return;
        };
        while !body.is_full()
            && let Some(event) = self.pop()
        {
            write(&body, event);
        }
        if self.queue.is_empty() {
            self.bound.set(body.high_water());
        }
        self.body.set(Some(body));
    }
}

fn write(body: &BodyWriter, event: Encoded) -> Sent {
    match body.write(event.0) {
        Demand::More => Sent::Taken,
        _ => Sent::Full,
    }
}

/// The latest events, for clients that come back: a ring, bounded by their number and their bytes.
///
/// ```
/// use loopwright::{App, Event, Events, Replay};
/// struct News { last: u64, replay: Replay, readers: Vec<Events> }
/// let mut app = App::<News>::new();
/// app.get("/news", |cx, req, res| {
///     let events = res.events(cx);
///     if let Some(id) = req.last_event_id() {
///         match cx.state.replay.since(id) {
///             Some(missed) => events.resume(missed),
///             // Too long ago: let it fetch the whole state.
///             None => { events.send(Event::new("").name("reload")); }
///         }
///     }
///     cx.state.readers.push(events);
/// });
/// app.post("/news", |cx, req, res| {
///     let News { last, replay, readers } = cx.state;
///     *last += 1;
///     let event = replay.push(*last, Event::new(String::from_utf8_lossy(req.body())));
///     readers.retain(|reader| !reader.is_closed());
///     readers.iter().for_each(|reader| { reader.send(&event); });
///     res.status(204).empty();
/// });
/// ```
#[derive(Debug)]
pub struct Replay {
    held: VecDeque<(Box<str>, Encoded)>,
    /// The id before the oldest that is held: who has that has missed only what is held.
    before: Option<Box<str>>,
    bytes: usize,
    most_events: usize,
    most_bytes: usize,
}

impl Replay {
    /// Holds at most so many events, of at most so many bytes, with their ids and places.
    pub fn new(most_events: usize, most_bytes: usize) -> Replay {
        Replay {
            held: VecDeque::new(),
            before: None,
            bytes: 0,
            most_events,
            most_bytes,
        }
    }

    /// Adds an event under an id that no other has, and returns it with that id, to be sent. The oldest
    /// make room for it.
    pub fn push(&mut self, id: impl Display, event: Event) -> Encoded {
        let id = id.to_string().into_boxed_str();
        let event = event.id(&id).encode();
        self.bytes += held_cost(&id, &event);
        self.held.push_back((id, event.clone()));
        while self.held.len() > self.most_events || self.bytes > self.most_bytes {
            let Some((id, event)) = self.held.pop_front() else {
                break;
            };
            self.bytes -= held_cost(&id, &event);
            self.before = Some(id);
        }
        event
    }

    /// What came after the event with this id, oldest first; `None` if that is no longer held, or never was.
    pub fn since(&self, last_event_id: &str) -> Option<impl Iterator<Item = &Encoded>> {
        // From the newest on: who comes back has not been away for long.
        let found = self.held.iter().rposition(|(id, _)| **id == *last_event_id);
        let start = match found {
            Some(last) => last + 1,
            None if self.before.as_deref() == Some(last_event_id) => 0,
            None => return None,
        };
        Some(self.held.range(start..).map(|(_, event)| event))
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// None is.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

fn held_cost(id: &str, event: &Encoded) -> usize {
    id.len() + size_of::<(Box<str>, Encoded)>() + event.0.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an EventSource makes of a stream (WHATWG HTML §9.2.6): id, name and data of each event.
    fn interpret(stream: &str) -> Vec<(String, String, String)> {
        let (mut events, mut last_id) = (Vec::new(), String::new());
        let (mut name, mut data) = (String::new(), String::new());
        for line in stream.replace("\r\n", "\n").split(['\r', '\n']) {
            if line.is_empty() {
                let name = match std::mem::take(&mut name) {
                    name if name.is_empty() => "message".to_string(),
                    name => name,
                };
                if let Some(data) = std::mem::take(&mut data).strip_suffix('\n') {
                    events.push((last_id.clone(), name, data.to_string()));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data = data + value + "\n",
                "event" => name = value.to_string(),
                "id" if !value.contains('\0') => last_id = value.to_string(),
                _ => {}
            }
        }
        events
    }

    #[test]
    fn events_arrive_as_they_were_meant() {
        for (data, arrives) in [
            ("one", "one"),
            ("", ""),
            ("two\nlines", "two\nlines"),
            ("a\rb\r\nc\n\rd", "a\nb\nc\n\nd"),
            ("ends\n", "ends\n"),
            ("\n\n", "\n\n"),
            (" leading", " leading"),
            (":no comment", ":no comment"),
            ("id: 9\n\nevent: x", "id: 9\n\nevent: x"),
            ("nul \0 and \u{2028} pass", "nul \0 and \u{2028} pass"),
        ] {
            let event = Event::new(data).id("7").name("tick").encode();
            let text = String::from_utf8(event.as_ref().to_vec()).unwrap();
            let expected = ("7".to_string(), "tick".to_string(), arrives.to_string());
            assert_eq!(interpret(&text), [expected], "{text:?}");
        }
    }

    #[test]
    fn ids_names_and_comments_cannot_become_more_than_they_are() {
        let forged = ["1\ndata: forged", "1\rdata: forged", "1\0"];
        for bad in forged {
            let event = Event::new("x").id(bad).name(bad).encode();
            assert_eq!(event.as_ref(), b"data: x\n\n", "{bad:?}");
        }
        let event = Event::comment("a\ndata: forged").retry(Duration::from_millis(1500));
        let text = b": a\n: data: forged\nretry: 1500\n\n";
        assert_eq!(event.encode().as_ref(), text);
        assert_eq!(interpret(std::str::from_utf8(text).unwrap()), []);
    }

    #[test]
    fn a_replay_knows_what_was_missed_and_what_it_has_forgotten() {
        let mut replay = Replay::new(3, 10_000);
        let missed = |replay: &Replay, id: &str| {
            let events = replay.since(id)?;
            Some(events.cloned().collect::<Vec<_>>())
        };
        assert_eq!(missed(&replay, "1"), None);
        let sent: Vec<_> = (1..=5).map(|n| replay.push(n, Event::new("x"))).collect();
        assert_eq!(sent[4].as_ref(), b"data: x\nid: 5\n\n");
        for (id, held) in [
            ("1", None),
            // The last that was forgotten: what came after it is all there.
            ("2", Some(&sent[2..])),
            ("3", Some(&sent[3..])),
            ("5", Some(&[])),
            ("6", None),
        ] {
            assert_eq!(missed(&replay, id).as_deref(), held, "since {id}");
        }
        // By bytes, down to nothing.
        let mut small = Replay::new(100, 200);
        for n in 0..20 {
            small.push(n, Event::new("0123456789"));
            assert!(small.bytes <= 200 && !small.is_empty());
        }
        small.push(20, Event::new("x".repeat(200)));
        assert_eq!((small.len(), small.bytes), (0, 0));
        assert_eq!(missed(&small, "20"), Some(vec![]));
        assert_eq!(missed(&small, "19"), None);
    }
}
