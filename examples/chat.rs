//! A chat: rooms, names, who is here. `cargo run --example chat`, then open <http://localhost:8080> in two
//! windows, or `cargo run --example chat -- --listen 0.0.0.0:8080` and take your phone.
//!
//! ```text
//! socket ─ what is said ─► chat/ROOM ─► all sockets of the room, and its lines for who comes later
//! comes, goes ──────────► presence/ROOM, to the other processes: who is here with us
//! any change of who is here ─► here/ROOM, to the sockets of this process
//! ```
//! A room is there while somebody is. The page is `chat.html`; it connects again by itself, and begins with
//! what the room remembers.

use loopwright::{App, Closed, Ctx, Instant, Message, Publication, Server};
use loopwright::{Socket, StatusError, WebSocket};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, UNIX_EPOCH};

const PAGE: &str = include_str!("chat.html");
const LONGEST_NAME: usize = 24;
const LONGEST_MESSAGE: usize = 4096;
/// Lines of a room that are shown to who comes later.
const LINES: usize = 50;
const ROOMS: usize = 100;
const GUESTS: usize = 200;
/// How often a process says who is with it, and how long it is believed.
const BEAT: Duration = Duration::from_secs(10);
const BELIEVED: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Chat {
    /// This process, among those that share the rooms.
    process: String,
    rooms: BTreeMap<String, Room>,
    guests: u64,
}

#[derive(Default)]
struct Room {
    lines: VecDeque<Value>,
    /// Names by the number of their sockets: one person may have several.
    here: BTreeMap<u64, String>,
    /// Those with other processes, and when they were last heard of.
    elsewhere: BTreeMap<String, (BTreeSet<String>, Instant)>,
    /// Who was here when it was last told.
    told: BTreeSet<String>,
}

impl Room {
    fn here(&self) -> BTreeSet<String> {
        self.here.values().cloned().collect()
    }

    fn everybody(&self) -> BTreeSet<String> {
        let elsewhere = self.elsewhere.values().flat_map(|(names, _)| names);
        elsewhere.chain(self.here.values()).cloned().collect()
    }
}

struct Guest {
    number: u64,
    room: String,
    name: String,
}

impl Socket<Chat> for Guest {
    fn open(&mut self, cx: &mut Ctx<'_, Chat>, ws: &mut WebSocket<'_>) {
        let said = format!("chat/{}", self.room);
        let mut lines: Vec<Value> = match cx.state.rooms.get(&self.room) {
            Some(room) => room.lines.iter().cloned().collect(),
            None => Vec::new(),
        };
        // What was said and is not delivered yet is not for those who subscribe now.
        lines.extend(cx.waiting(&said).filter_map(line));
        let room = cx.state.rooms.entry(self.room.clone()).or_default();
        let is_first = room.here.is_empty();
        room.here.insert(self.number, self.name.clone());
        ws.send(&json!({ "history": lines, "here": room.told }).to_string());
        for topic in [said, format!("here/{}", self.room)] {
            if cx.subscribe(ws, &topic).is_err() {
                return ws.close(1013, "too many subscriptions");
            }
        }
        tell_others(cx, &self.room, is_first);
        tell_here(cx, &self.room);
    }

    fn message(&mut self, cx: &mut Ctx<'_, Chat>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        let Some(text) = message.as_text().map(str::trim) else {
            return ws.close(1003, "text only");
        };
        if text.is_empty() {
            return;
        }
        let since = cx.wall_clock().duration_since(UNIX_EPOCH);
        let at = since.map_or(0, |since| since.as_millis() as u64);
        let line = json!({ "from": self.name, "text": text, "at": at }).to_string();
        if cx.publish(&format!("chat/{}", self.room), &line).is_err() {
            ws.close(1013, "too much is said at once");
        }
    }

    fn close(&mut self, cx: &mut Ctx<'_, Chat>, _: Closed<'_>) {
        if let Some(room) = cx.state.rooms.get_mut(&self.room) {
            room.here.remove(&self.number);
        }
        tell_others(cx, &self.room, false);
        tell_here(cx, &self.room);
    }
}

/// Something that was said.
fn line(publication: &Publication) -> Option<Value> {
    let line: Value = serde_json::from_str(publication.message().as_text()?).ok()?;
    line["text"].is_string().then_some(line)
}

/// Tells the other processes who is here with us; and asks who is with them.
fn tell_others(cx: &mut Ctx<'_, Chat>, name: &str, asks: bool) {
    let Some(room) = cx.state.rooms.get(name) else {
        return;
    };
    let here = json!({ "process": cx.state.process, "names": room.here(), "asks": asks });
    if let Err(e) = cx.publish(&format!("presence/{name}"), &here.to_string()) {
        log::warn!("nobody else is told who is in {name}: {e}");
    }
}

/// Tells our own sockets who is in the room, if that has changed. A room that everybody has left is gone.
fn tell_here(cx: &mut Ctx<'_, Chat>, name: &str) {
    let Some(room) = cx.state.rooms.get_mut(name) else {
        return;
    };
    let everybody = room.everybody();
    if everybody != room.told {
        let here = json!({ "here": everybody }).to_string();
        room.told = everybody;
        if let Err(e) = cx.deliver(&format!("here/{name}"), &here) {
            log::warn!("nobody is told who is in {name}: {e}");
        }
    }
    if cx.state.rooms[name].told.is_empty() {
        cx.state.rooms.remove(name);
    }
}

/// Another process says who is with it.
fn hear_presence(cx: &mut Ctx<'_, Chat>, publication: &Publication) {
    let said = publication.message().as_text().unwrap_or_default();
    let Ok(said) = serde_json::from_str::<Value>(said) else {
        return;
    };
    let Some((_, name)) = publication.topic().split_once('/') else {
        return;
    };
    let process = said["process"].as_str().unwrap_or_default();
    if process.is_empty() || process == cx.state.process {
        return;
    }
    let names = said["names"].as_array().into_iter().flatten();
    let names: BTreeSet<String> = names.filter_map(Value::as_str).map(String::from).collect();
    let now = cx.now();
    // A room is remembered where somebody of ours is in it.
    if let Some(room) = cx.state.rooms.get_mut(name) {
        match names.is_empty() {
            true => drop(room.elsewhere.remove(process)),
            false => drop(room.elsewhere.insert(process.to_string(), (names, now))),
        }
        tell_here(cx, name);
        if said["asks"] == true {
            tell_others(cx, name, false);
        }
    }
}

fn hear_line(cx: &mut Ctx<'_, Chat>, publication: &Publication) {
    let room = publication.topic().strip_prefix("chat/");
    if let Some(line) = line(publication)
        && let Some(room) = room.and_then(|name| cx.state.rooms.get_mut(name))
    {
        room.lines.push_back(line);
        if room.lines.len() > LINES {
            room.lines.pop_front();
        }
    }
}

/// Says again who is here, and forgets processes that do not.
fn beat(cx: &mut Ctx<'_, Chat>) {
    let now = cx.now();
    for name in cx.state.rooms.keys().cloned().collect::<Vec<_>>() {
        if let Some(room) = cx.state.rooms.get_mut(&name) {
            room.elsewhere
                .retain(|_, (_, heard)| now - *heard < BELIEVED);
        }
        tell_others(cx, &name, false);
        tell_here(cx, &name);
    }
}

/// The first thing the loop does. `process` names this one among those that share the rooms.
pub(crate) fn start(cx: &mut Ctx<'_, Chat>, process: String) {
    cx.state.process = process;
    cx.on_publish("chat/*", hear_line).expect("it is a pattern");
    cx.on_publish("presence/*", hear_presence)
        .expect("it is a pattern");
    cx.every(BEAT, beat);
}

/// A name that can be shown in one line.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control)
}

fn is_room(room: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    is_name(room) && room.chars().all(is_plain)
}

pub(crate) fn app() -> App<Chat> {
    let mut app = App::<Chat>::new();
    app.get("/", |_, _, res| res.redirect(302, "/lobby"));
    app.get("/{room}", |_, req, res| match is_room(req.param("room")) {
        true => res
            .header("content-security-policy", "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
            .header("cache-control", "no-cache")
            .html(PAGE),
        false => res.status(404).text("no such room: letters, digits, - and _"),
    });
    app.sockets("/{room}/socket", |cx, req, handshake| {
        let host = req.host();
        handshake.origins(&[&format!("http://{host}"), &format!("https://{host}")])?;
        handshake.message_limit(LONGEST_MESSAGE);
        let room = req.param("room").to_string();
        let name = req.query_param("name").unwrap_or_default();
        let name = name.trim().to_string();
        if !is_room(&room) || !is_name(&name) {
            return Err(StatusError::new(400, "who are you, and where?"));
        }
        let rooms = &cx.state.rooms;
        let guests = rooms.get(&room).map(|room| room.here.len());
        if guests.map_or(rooms.len() >= ROOMS, |guests| guests >= GUESTS) {
            return Err(StatusError::new(503, "it is full"));
        }
        cx.state.guests += 1;
        Ok(Guest {
            number: cx.state.guests,
            room,
            name,
        })
    });
    app
}

#[allow(dead_code)] // The tests have the rest without this.
fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut address = "127.0.0.1:8080".to_string();
    while let Some(option) = args.next() {
        match (option.as_str(), args.next()) {
            ("--listen", Some(value)) => address = value,
            _ => {
                eprintln!("usage: chat [--listen ADDRESS]");
                std::process::exit(2);
            }
        }
    }
    let mut server = Server::builder()
        .listen(address)
        .build(app(), Chat::default())?;
    let process = std::process::id().to_string();
    let _ = server.handle().post(|cx| start(cx, process));
    for listen in server.addresses() {
        eprintln!("listening on {}", listen.url());
    }
    server.run()
}
