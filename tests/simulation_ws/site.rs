//! The App: sockets that do what their messages say, and a diary of what has really happened.

use loopwright::{
    App, Closed, Compression, Ctx, Message, Sent, Slow, Socket, StatusError, TopicError, WebSocket,
};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

pub(crate) const MEANT: &str = "meant to";

/// More than the largest message, and than the control frames that one read may bring.
const SLACK: usize = 40 * 1024;

#[derive(Default)]
pub(crate) struct Diary {
    pub(crate) guests: Vec<Entry>,
    /// What was published: its number is its place.
    pub(crate) accepted: Vec<Accepted>,
    /// What a closure that hears all has heard.
    pub(crate) heard: Vec<usize>,
    pub(crate) faults: Vec<String>,
    /// As many sockets as there are.
    pub(crate) alive: Weak<()>,
}

#[derive(Default)]
pub(crate) struct Entry {
    pub(crate) opens: usize,
    pub(crate) closes: Vec<u16>,
    pub(crate) patterns: Vec<String>,
    /// Patterns it has left, and how many publications there had been.
    pub(crate) left: Vec<(String, usize)>,
    /// Echoes: the message, and what became of it.
    pub(crate) echoes: Vec<(String, Sent)>,
    pub(crate) missed: Vec<usize>,
}

pub(crate) struct Accepted {
    pub(crate) topic: String,
    pub(crate) publisher: usize,
    pub(crate) audience: Vec<usize>,
}

pub(crate) fn matches(pattern: &str, topic: &str) -> bool {
    match (pattern.split_once('/'), topic.split_once('/')) {
        _ if pattern == "**" => true,
        (None, None) => pattern == "*" || pattern == topic,
        (Some((p, more)), Some((t, rest))) => (p == "*" || p == t) && matches(more, rest),
        _ => false,
    }
}

struct Guest {
    n: usize,
    most: usize,
    /// Of a message that is being sent.
    parts: VecDeque<String>,
    /// One of these is held by each socket.
    _alive: Rc<()>,
}

type Cx<'a> = Ctx<'a, Diary>;

impl Guest {
    fn look(&self, cx: &mut Cx<'_>, ws: &WebSocket<'_>) {
        // What is behind a message in parts may wait beside these.
        if ws.buffered() > 2 * self.most + SLACK {
            let fault = format!("client {}: {} bytes wait", self.n, ws.buffered());
            cx.state.faults.push(fault);
        }
    }

    fn go_on(&mut self, ws: &mut WebSocket<'_>) {
        while let Some(part) = self.parts.front() {
            let is_last = self.parts.len() == 1;
            match ws.send_fragment(Message::Text(part), is_last) {
                Sent::Taken => drop(self.parts.pop_front()),
                Sent::Full => {
                    self.parts.pop_front();
                    return;
                }
                Sent::Dropped | Sent::Closed => return,
            }
        }
    }

    fn publish(&self, cx: &mut Cx<'_>, ws: Option<&WebSocket<'_>>, topic: &str, pad: &str) {
        let number = cx.state.accepted.len();
        let mut audience = Vec::new();
        for (n, entry) in cx.state.guests.iter().enumerate() {
            let is_self = ws.is_some() && n == self.n;
            let is_subscribed = entry.patterns.iter().any(|pattern| matches(pattern, topic));
            if is_subscribed && entry.closes.is_empty() && !is_self {
                audience.push(n);
            }
        }
        let text = format!("P|{number}|{topic}|{pad}");
        let published = match ws {
            Some(ws) => cx.publish_from(ws, topic, &text),
            None => cx.publish(topic, &text),
        };
        match published {
            Ok(()) => cx.state.accepted.push(Accepted {
                topic: topic.into(),
                publisher: self.n,
                audience,
            }),
            Err(TopicError::Publications(_) | TopicError::Bytes(_)) => {}
            Err(e) => cx.state.faults.push(format!("{topic}: {e}")),
        }
    }
}

impl Socket<Diary> for Guest {
    fn open(&mut self, cx: &mut Cx<'_>, ws: &mut WebSocket<'_>) {
        cx.state.guests[self.n].opens += 1;
        self.look(cx, ws);
    }

    fn message(&mut self, cx: &mut Cx<'_>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        if !cx.state.guests[self.n].closes.is_empty() {
            cx.state.faults.push("a message after close".into());
        }
        let text = match message {
            Message::Text(text) => text.to_string(),
            Message::Binary(bytes) => {
                ws.send_binary(bytes);
                return;
            }
        };
        let mut words = text.splitn(3, '|');
        let (what, first) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let rest = words.next().unwrap_or("");
        match what {
            "E" => {
                let sent = ws.send(&text);
                cx.state.guests[self.n].echoes.push((text, sent));
            }
            "G" => {
                let size = rest.len().max(1).div_ceil(5);
                let parts = rest.as_bytes().chunks(size);
                let begun = !self.parts.is_empty();
                if !begun {
                    self.parts.push_back(format!("G|{first}|"));
                    self.parts
                        .extend(parts.map(|part| String::from_utf8_lossy(part).into_owned()));
                    self.parts.push_back(String::new());
                    self.go_on(ws);
                }
            }
            "P" => self.publish(cx, None, first, rest),
            "F" => self.publish(cx, Some(ws), first, rest),
            "T" => {
                let (handle, text) = (ws.handle(), text.clone());
                let wait = Duration::from_millis(first.len() as u64);
                cx.after(wait, move |_| {
                    handle.send(&text);
                });
            }
            "+" => match cx.subscribe(ws, first) {
                Ok(true) => cx.state.guests[self.n].patterns.push(first.into()),
                Ok(false) => {}
                Err(e) => cx.state.faults.push(format!("{first}: {e}")),
            },
            "-" => {
                let number = cx.state.accepted.len();
                let entry = &mut cx.state.guests[self.n];
                let was = entry.patterns.iter().position(|pattern| pattern == first);
                if let Some(at) = was {
                    let pattern = entry.patterns.remove(at);
                    entry.left.push((pattern, number));
                }
                if cx.unsubscribe(ws, first) != was.is_some() {
                    cx.state
                        .faults
                        .push(format!("it was not subscribed to {first}"));
                }
            }
            "close" => ws.close(4000, first),
            "panic" => panic!("{MEANT}"),
            _ => cx.state.faults.push(format!("{text:?}?")),
        }
        self.look(cx, ws);
    }

    fn drained(&mut self, cx: &mut Cx<'_>, ws: &mut WebSocket<'_>) {
        self.look(cx, ws);
        self.go_on(ws);
    }

    fn missed(&mut self, cx: &mut Cx<'_>, _: &mut WebSocket<'_>, message: Message<'_>) {
        let text = message.as_text().unwrap_or("");
        if let Some(number) = text
            .strip_prefix("P|")
            .and_then(|text| text.split('|').next())
        {
            let number = number.parse().expect("a number");
            cx.state.guests[self.n].missed.push(number);
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, closed: Closed<'_>) {
        cx.state.guests[self.n].closes.push(closed.code);
    }
}

pub(crate) const POLICIES: [(&str, Slow); 4] = [
    ("newest", Slow::DropNewest),
    ("oldest", Slow::DropOldest),
    ("close", Slow::Close),
    ("tell", Slow::Tell),
];

/// `/ws/{number}/{policy}/{compression}`.
pub(crate) fn app(most: usize, alive: &Rc<()>) -> App<Diary> {
    let mut app: App<Diary> = App::new();
    let alive = Rc::downgrade(alive);
    app.sockets(
        "/ws/{n}/{policy}/{compression}",
        move |cx, req, handshake| {
            let refuse = |_| StatusError::new(400, "no such guest");
            let n: usize = req.param("n").parse().map_err(refuse)?;
            let policy = POLICIES
                .iter()
                .find(|(name, _)| *name == req.param("policy"));
            handshake
                .slow(policy.map_or(Slow::Close, |(_, slow)| *slow))
                .compression(match req.param("compression") {
                    "on" => Compression::On,
                    "context" => Compression::Context,
                    _ => Compression::Off,
                });
            if cx.state.guests.len() <= n {
                cx.state.guests.resize_with(n + 1, Entry::default);
            }
            Ok(Guest {
                n,
                most,
                parts: VecDeque::new(),
                _alive: alive.upgrade().ok_or(StatusError::new(503, "over"))?,
            })
        },
    );
    app
}
