//! One connection that the server has made, seen from the upstream: what it reads, and what it makes of it.

use crate::reader::{Head, Reader, text};
use crate::record::{Record, Token, body, stranger};
use fastrand::Rng;
use loopwright::Instant;
use loopwright::sim::{Client as Wire, SimNet};
use std::time::Duration;

/// What becomes of a connection when all that is to be said is said.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Keep,
    Finish,
    Reset,
    /// Neither: it does nothing any more.
    Silence,
    Tunnel,
}

/// What is said to one request.
#[derive(Debug)]
struct Plan {
    what: &'static str,
    /// Not before the request is whole.
    waits: bool,
    bytes: Vec<u8>,
    then: Then,
    /// At these bytes, so long a pause.
    pauses: Vec<(usize, Duration)>,
    /// One byte at a time.
    drips: bool,
}

/// What upstreams do in this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Of 100 requests, so many are served badly.
    pub(crate) bad: u32,
    /// Of 100 connections, so many are not made.
    pub(crate) refused: u32,
    pub(crate) longest: usize,
    /// `timeouts.read` and `timeouts.first_byte` of the upstream.
    pub(crate) patience: Duration,
}

#[derive(Debug)]
enum State {
    /// Not made before then; never, if that does not come.
    Connecting(Option<Instant>),
    Open,
    Tunnel {
        echoed: usize,
    },
    /// It does nothing any more.
    Dead,
}

pub(crate) struct Upstream {
    pub(crate) wire: Wire,
    pub(crate) server: usize,
    manner: Manner,
    state: State,
    reader: Reader,
    plan: Option<Plan>,
    sent: usize,
    wakes: Option<Instant>,
    served: usize,
    token: Option<Token>,
    last: Token,
    /// It does not count against the pool.
    pub(crate) is_apart: bool,
    stalled: Option<Instant>,
    pausing: Option<Instant>,
    /// A tunnel's end takes no more while so much waits for the server to read.
    window: usize,
    dies: bool,
    is_echoing: bool,
}

impl Upstream {
    pub(crate) fn accept(
        net: &mut SimNet,
        wire: Wire,
        server: usize,
        manner: Manner,
        rng: &mut Rng,
        record: &mut Record,
    ) -> Upstream {
        let mut state = State::Open;
        if rng.u32(0..100) < manner.refused {
            record.idle_faults += 1;
            state = match rng.u8(0..4) {
                0 => State::Connecting(None),
                1 => State::Connecting(Some(net.now() + Duration::from_millis(rng.u64(1..900)))),
                _ => State::Dead,
            };
            match state {
                State::Dead => net.reset(wire),
                _ => net.hang(wire, true),
            }
        }
        Upstream {
            wire,
            server,
            manner,
            state,
            reader: Reader::new(),
            plan: None,
            sent: 0,
            wakes: None,
            served: 0,
            token: None,
            last: Token::new(),
            is_apart: false,
            stalled: None,
            pausing: None,
            window: rng.usize(100..20_000),
            dies: false,
            is_echoing: true,
        }
    }

    pub(crate) fn wakes(&self) -> Option<Instant> {
        self.wakes.filter(|_| !matches!(self.state, State::Dead))
    }

    /// It has more to do than wait.
    pub(crate) fn is_busy(&self) -> bool {
        match self.state {
            State::Tunnel { .. } => self.is_echoing,
            State::Open => self.plan.as_ref().is_some_and(|plan| {
                let may_speak = !plan.waits || self.reader.is_whole();
                may_speak && self.wakes.is_none() && self.sent < plan.bytes.len()
            }),
            State::Dead | State::Connecting(_) => false,
        }
    }

    pub(crate) fn describe(&self, net: &mut SimNet) -> Option<String> {
        let plan = self.plan.as_ref()?;
        let said = format!(
            "server {}: {:?} ({}), {} of {} bytes said, then {:?}, busy {}, wakes {:?}, drips {}, request whole {}",
            self.server,
            self.token,
            plan.what,
            self.sent,
            plan.bytes.len(),
            plan.then,
            self.is_busy(),
            self.wakes,
            plan.drips,
            self.reader.is_whole(),
        );
        self.is_open(net).then_some(said)
    }

    pub(crate) fn is_open(&self, net: &mut SimNet) -> bool {
        !net.is_released(self.wire) && !net.was_reset(self.wire)
    }

    pub(crate) fn act(&mut self, net: &mut SimNet, rng: &mut Rng, record: &mut Record) {
        let now = net.now();
        if let Some(until) = self.stalled
            && until <= now
        {
            net.stall(self.wire, false);
            self.stalled = None;
        }
        match self.state {
            State::Dead => return,
            State::Connecting(Some(at)) if at <= now => {
                net.hang(self.wire, false);
                self.state = State::Open;
            }
            State::Connecting(at) => {
                self.wakes = at;
                return;
            }
            State::Tunnel { echoed } => return self.echo(net, rng, echoed),
            State::Open => {}
        }
        if net.was_reset(self.wire) {
            self.state = State::Dead;
            return;
        }
        self.wakes = self.stalled;
        if let Err(why) = self.listen(net, rng, record) {
            record
                .errors
                .push(format!("an upstream was sent what is no request: {why}"));
            self.state = State::Dead;
            return net.reset(self.wire);
        }
        self.speak(net, rng);
        if net.is_finished(self.wire) && self.plan.is_none() {
            self.state = State::Dead;
            net.finish(self.wire);
        }
    }

    fn listen(
        &mut self,
        net: &mut SimNet,
        rng: &mut Rng,
        record: &mut Record,
    ) -> Result<(), String> {
        let all = net.received(self.wire);
        if self.reader.used == all.len() && !self.reader.is_whole() && self.plan.is_none() {
            // It may go at the worst moment.
            if self.served > 0 && self.token.is_none() && rng.u32(0..2000) < self.manner.bad {
                record.idle_faults += 1;
                self.state = State::Dead;
                if rng.bool() {
                    net.finish(self.wire);
                } else {
                    // The end of its last answer may still be on the way.
                    record.fault(&self.last, "reset when idle");
                    net.reset(self.wire);
                }
            }
            return Ok(());
        }
        if self.reader.is_whole() {
            // A tunnel's client may speak as soon as it has the head.
            let is_well = |plan: &Plan| plan.what == "well" && !matches!(plan.then, Then::Tunnel);
            let is_well = self.plan.as_ref().is_some_and(is_well);
            // Whose answer that was, which nobody has asked for, cannot be told.
            let is_well = is_well && record.poisoned.is_empty();
            if is_well && all.len() > self.reader.used {
                let said = self.describe(net).unwrap_or_default();
                let all = net.received(self.wire);
                return Err(format!(
                    "before the answer was out: {}; {said}",
                    text(&all[self.reader.used..])
                ));
            }
            return Ok(());
        }
        let had_head = self.reader.head.is_some();
        self.reader.read(all)?;
        let Some(head) = self.reader.head.clone() else {
            return Ok(());
        };
        if !had_head {
            if head.target == "/check" {
                self.is_apart = true;
                self.token = Some("check".into());
            } else {
                let token = head
                    .target
                    .strip_prefix("/t/")
                    .and_then(|rest| rest.split('?').next());
                let token = token.ok_or_else(|| format!("nobody has asked for this: {head:?}"))?;
                self.token = Some(token.to_string());
                let arrivals = record.arrivals.entry(token.to_string()).or_default();
                *arrivals += 1;
                let times = *arrivals;
                record.retried += usize::from(times > 1);
                record.reused += usize::from(self.served > 0);
                if times > 1 && head.method == "POST" {
                    record
                        .errors
                        .push(format!("{token}: a POST came {times} times"));
                }
            }
            self.plan = Some(self.draw(&head, rng, record, net));
        }
        let token = self.token.clone().unwrap_or_default();
        if let Some(at) = stranger(&token, &self.reader.body) {
            return Err(format!(
                "{token}: another's body from byte {at}: {}",
                text(&self.reader.body[at..])
            ));
        }
        if self.reader.is_whole() && token != "check" {
            let size = head
                .target
                .split_once("size=")
                .and_then(|(_, size)| size.parse().ok());
            if size != Some(self.reader.body.len()) {
                return Err(format!(
                    "{token}: a body of {} bytes for {}",
                    self.reader.body.len(),
                    head.target
                ));
            }
        }
        Ok(())
    }

    /// Whether a bad plan was made is noted: only then may the request go wrong.
    fn draw(&mut self, head: &Head, rng: &mut Rng, record: &mut Record, net: &mut SimNet) -> Plan {
        let (method, upgrades) = (head.method.as_str(), head.field("upgrade").is_some());
        let expects = head.field("expect").is_some();
        let token = self.token.clone().unwrap_or_default();
        let most = self.manner.longest;
        let size = match rng.u8(0..4) {
            0 => 0,
            1 => rng.usize(0..=most.min(100)),
            _ => rng.usize(0..=most),
        };
        let is_bad = rng.u32(0..100) < self.manner.bad;
        let mut plan = Plan {
            what: "well",
            waits: true,
            bytes: Vec::new(),
            then: Then::Keep,
            pauses: Vec::new(),
            drips: false,
        };
        if upgrades && rng.u8(0..8) > 0 {
            plan.bytes = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\nx-token: {token}\r\n\r\n").into_bytes();
            // Something at once, some of the time.
            plan.bytes.extend(body(&token, 16 * rng.usize(0..3)));
            plan.then = Then::Tunnel;
            record.tunnels += 1;
            if is_bad {
                self.dies = true;
                record.fault(&token, "a tunnel's end");
            }
            return plan;
        }
        for _ in 0..if rng.u8(0..6) == 0 {
            rng.usize(1..3)
        } else {
            0
        } {
            let interim = [
                "100 Continue\r\n",
                "102 Processing\r\n",
                "103 Early Hints\r\nlink: </a>; rel=preload\r\n",
            ];
            let interim = interim[rng.usize(0..3)];
            plan.bytes
                .extend(format!("HTTP/1.1 {interim}\r\n").into_bytes());
        }
        let interims = plan.bytes.len();
        if expects && (rng.u8(0..4) > 0 || !is_bad) {
            net.send(self.wire, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let framing = rng.u8(0..6);
        let is_empty = rng.u8(0..12) == 0;
        let status = match is_empty {
            true => "204 No Content",
            false => "200 OK",
        };
        let status = match (is_bad, rng.u8(0..10)) {
            (true, 0) if !is_empty => "503 Service Unavailable",
            _ => status,
        };
        let version = match framing {
            5 => "1.0",
            _ => "1.1",
        };
        let mut head = format!("HTTP/{version} {status}\r\nx-token: {token}\r\n");
        let size = if is_empty { 0 } else { size };
        head.push_str(&format!("x-size: {size}\r\n"));
        if rng.bool() {
            head.push_str("date: Fri, 15 Jan 2027 08:00:00 GMT\r\n");
        }
        let content = body(&token, size);
        let mut framed = Vec::new();
        let is_chunked = !is_empty && (2..4).contains(&framing);
        let is_open = !is_empty && framing >= 4;
        if is_chunked {
            head.push_str("transfer-encoding: chunked\r\n");
            let mut rest = &content[..];
            while !rest.is_empty() {
                let n = rng.usize(1..=rest.len().min(1 + most / 3));
                framed.extend(format!("{n:x}\r\n").into_bytes());
                framed.extend(&rest[..n]);
                framed.extend(b"\r\n");
                rest = &rest[n..];
            }
            framed.extend(b"0\r\n\r\n");
        } else {
            framed = content;
            if !is_empty && !is_open {
                head.push_str(&format!("content-length: {size}\r\n"));
            }
            if is_open && method != "HEAD" {
                plan.then = Then::Finish;
            } else if rng.u8(0..10) == 0 {
                head.push_str("connection: close\r\n");
                plan.then = [Then::Finish, Then::Silence][rng.usize(0..2)];
            }
        }
        if method == "HEAD" {
            framed.clear();
        }
        head.push_str("\r\n");
        plan.bytes.extend(head.into_bytes());
        let head_end = plan.bytes.len();
        plan.bytes.extend(framed);
        let end = plan.bytes.len();
        // Silent for a while, but not for too long.
        if rng.u8(0..5) == 0 {
            let at = rng.usize(0..end);
            plan.pauses
                .push((at, self.manner.patience.mul_f64(rng.f64() * 0.8)));
        }
        if rng.u8(0..8) == 0 {
            plan.waits = false;
        }
        if rng.u8(0..10) == 0 && end < 1500 {
            plan.drips = true;
        }
        if !is_bad {
            return plan;
        }
        plan.what = match rng.u8(0..17) {
            0 => {
                plan.bytes.clear();
                plan.then = Then::Silence;
                "silence"
            }
            1 => {
                plan.bytes.clear();
                plan.then = Then::Finish;
                "closed before an answer"
            }
            2 => {
                plan.bytes.clear();
                plan.then = Then::Reset;
                "reset before an answer"
            }
            3 => {
                plan.bytes.truncate(rng.usize(0..head_end));
                plan.then = [Then::Finish, Then::Reset, Then::Silence][rng.usize(0..3)];
                "cut in its head"
            }
            4 if end > head_end => {
                plan.bytes.truncate(rng.usize(head_end..end));
                plan.then = match is_open {
                    // Its end would be the end of the answer.
                    true => [Then::Reset, Then::Silence][rng.usize(0..2)],
                    false => [Then::Finish, Then::Reset, Then::Silence][rng.usize(0..3)],
                };
                "cut in its body"
            }
            5 => {
                plan.bytes = (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect();
                plan.then = [Then::Finish, Then::Keep][rng.usize(0..2)];
                "garbage"
            }
            6 if is_chunked && method != "HEAD" => {
                plan.bytes[head_end] = b'!';
                "garbage in its body"
            }
            7 if !is_open => {
                plan.bytes.extend(body(&token, rng.usize(1..50)));
                "more than its length"
            }
            8 if !is_open => {
                plan.bytes.extend(b"HTTP/1.1 200 OK\r\nx-token: unasked\r\nx-size: 3\r\ncontent-length: 3\r\n\r\nabc");
                record.poisoned.insert(token.clone());
                "a second answer"
            }
            9 => {
                plan.pauses
                    .push((rng.usize(0..end), self.manner.patience * 2));
                "too long a pause"
            }
            10 => {
                plan.waits = false;
                plan.then = Then::Finish;
                "an early answer, and the end"
            }
            11 => {
                plan.waits = false;
                plan.then = Then::Reset;
                "an early answer, and a reset"
            }
            12 => {
                let until = net.now() + self.manner.patience.mul_f64(rng.f64() * 3.0);
                net.stall(self.wire, true);
                (self.stalled, self.wakes) = (Some(until), Some(until));
                "takes nothing for a while"
            }
            13 => {
                plan.drips = false;
                let many = "x-more: 1\r\n".repeat(7000);
                let many = format!("HTTP/1.1 200 OK\r\n{many}\r\n");
                plan.bytes.splice(interims.., many.into_bytes());
                "too large a head"
            }
            14 => {
                plan.then = Then::Finish;
                "closed behind its answer"
            }
            15 => {
                plan.then = Then::Reset;
                "reset behind its answer"
            }
            _ => "503",
        };
        // Whoever is next on this connection may suffer, too.
        record.idle_faults += 1;
        record.fault(&token, plan.what);
        plan
    }

    fn speak(&mut self, net: &mut SimNet, rng: &mut Rng) {
        let Some(plan) = &mut self.plan else { return };
        if plan.waits && !self.reader.is_whole() {
            return;
        }
        let now = net.now();
        if let Some(at) = plan.pauses.iter().position(|(at, _)| *at == self.sent) {
            let (_, pause) = plan.pauses.swap_remove(at);
            self.pausing = Some(now + pause);
        }
        if self.pausing.is_some_and(|until| now < until) {
            self.wakes = self.pausing;
            return;
        }
        self.pausing = None;
        let left = plan.bytes.len() - self.sent;
        if left > 0 && rng.u8(0..3) == 0 {
            return;
        }
        if left > 0 {
            let next = plan
                .pauses
                .iter()
                .map(|(at, _)| *at)
                .filter(|at| *at > self.sent)
                .min();
            let most = next.map_or(left, |at| at - self.sent).min(left);
            let n = match (plan.drips, rng.u8(0..4)) {
                (true, _) => 1,
                (_, 0) => most,
                _ => rng.usize(1..=most),
            };
            net.send(self.wire, &plan.bytes[self.sent..self.sent + n]);
            self.sent += n;
        }
        if self.sent < plan.bytes.len() {
            return;
        }
        match plan.then {
            Then::Keep if !self.reader.is_whole() => {}
            Then::Keep => {
                self.plan = None;
                self.sent = 0;
                self.served += 1;
                self.last = self.token.take().unwrap_or_default();
                self.reader.next();
            }
            Then::Finish => {
                net.finish(self.wire);
                self.state = State::Dead;
            }
            Then::Reset => {
                net.reset(self.wire);
                self.state = State::Dead;
            }
            Then::Silence => self.state = State::Dead,
            Then::Tunnel => {
                self.state = State::Tunnel {
                    echoed: self.reader.used,
                }
            }
        }
    }

    fn echo(&mut self, net: &mut SimNet, rng: &mut Rng, echoed: usize) {
        self.wakes = None;
        if net.was_reset(self.wire) {
            self.state = State::Dead;
            return;
        }
        if self.dies && rng.u8(0..30) == 0 {
            self.state = State::Dead;
            return net.reset(self.wire);
        }
        let is_full = net.unread(self.wire) > self.window;
        net.stall(self.wire, is_full);
        let all = net.received(self.wire);
        self.is_echoing = is_full || all.len() > echoed;
        if all.len() > echoed && !is_full {
            let n = rng.usize(1..=all.len() - echoed);
            let piece = all[echoed..echoed + n].to_vec();
            net.send(self.wire, &piece);
            self.state = State::Tunnel { echoed: echoed + n };
        } else if all.len() == echoed && net.is_finished(self.wire) {
            net.finish(self.wire);
            self.state = State::Dead;
        }
    }
}
