//! A client: what it asks for, how it sends, and what it makes of what comes.

use crate::reader::find;
use crate::record::{Record, Token, body, stranger, token};
use fastrand::Rng;
use loopwright::Instant;
use loopwright::sim::{Answer, Asked, Client as Wire, SimNet};
use std::time::Duration;

pub(crate) struct Ask {
    token: Token,
    method: &'static str,
    expects: bool,
    upgrades: bool,
    bytes: Vec<u8>,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It waits for its answers, and goes.
    Waits,
    /// It closes its sending side when all is said.
    Finishes,
    /// It breaks the connection at this byte of what it says, or takes.
    Resets(usize),
    TakesAndResets(usize),
}

pub(crate) struct Client {
    pub(crate) wire: Wire,
    asks: Vec<Ask>,
    is_pipelining: bool,
    end: End,
    /// Of which ask what is being sent; how much of that.
    asking: usize,
    said: usize,
    /// Answers that are complete, and the bytes they took.
    answered: usize,
    used: usize,
    looked: usize,
    /// The present answer is of another protocol from here on.
    tunnel: Option<usize>,
    tunnel_said: usize,
    tunnel_bytes: Vec<u8>,
    has_ended: bool,
    is_broken: bool,
    /// It takes nothing until then; and how often it does that.
    stalled: Option<Instant>,
    stalls: u8,
    wakes: Option<Instant>,
    continued: bool,
    pub(crate) statuses: Vec<u16>,
    /// The last answer was cut off, or the connection closed behind it by right.
    excused: bool,
    aborts_on_close: bool,
    /// The server it is to be kept to.
    cookie: Option<String>,
    pub(crate) stats: [usize; 3],
}

pub(crate) struct Habits {
    pub(crate) longest: usize,
    /// Of a hundred, so many do what clients should not.
    pub(crate) bad: u32,
    /// Who closes its sending side has left.
    pub(crate) aborts_on_close: bool,
}

impl Client {
    pub(crate) fn connect(net: &mut SimNet, n: usize, habits: &Habits, rng: &mut Rng) -> Client {
        let wire = net.connect(0);
        let mut asks = Vec::new();
        let many = rng.usize(1..8);
        for number in 0..many {
            let ask = draw(n, number, number + 1 == many, habits, rng);
            asks.push(ask);
        }
        let all: usize = asks.iter().map(|ask| ask.bytes.len()).sum();
        let is_bad = rng.u32(0..100) < habits.bad;
        let end = match rng.u8(0..6) {
            0 if is_bad => End::Resets(rng.usize(0..=all)),
            1 | 2 if is_bad => End::TakesAndResets(rng.usize(0..habits.longest)),
            3 => End::Finishes,
            _ => End::Waits,
        };
        let tunnel_bytes = match asks.last() {
            Some(ask) if ask.upgrades => body(&ask.token, 16 * rng.usize(0..=habits.longest / 16)),
            _ => Vec::new(),
        };
        Client {
            wire,
            asks,
            is_pipelining: rng.u8(0..3) == 0,
            end,
            asking: 0,
            said: 0,
            answered: 0,
            used: 0,
            looked: 0,
            tunnel: None,
            tunnel_said: 0,
            tunnel_bytes,
            has_ended: false,
            is_broken: false,
            stalled: None,
            stalls: [0, 0, 3][rng.usize(0..3)],
            wakes: None,
            continued: false,
            statuses: Vec::new(),
            excused: false,
            aborts_on_close: habits.aborts_on_close,
            cookie: None,
            stats: [0; 3],
        }
    }

    /// Nothing more is to come of it.
    pub(crate) fn is_done(&self) -> bool {
        self.is_broken
    }

    /// It has more to do than wait.
    pub(crate) fn is_busy(&self) -> bool {
        !self.is_broken && self.may_say()
    }

    fn may_say(&self) -> bool {
        if self.tunnel.is_some() {
            return !self.has_ended;
        }
        self.asking < self.asks.len()
            && !self.has_ended
            && !self.excused
            && (self.is_pipelining || self.asking <= self.answered)
    }

    pub(crate) fn wakes(&self) -> Option<Instant> {
        self.wakes.filter(|_| !self.is_broken)
    }

    /// What was told wrong, if anything.
    pub(crate) fn act(
        &mut self,
        net: &mut SimNet,
        rng: &mut Rng,
        record: &Record,
    ) -> Result<(), String> {
        if self.is_broken {
            return Ok(());
        }
        let now = net.now();
        if self.stalled.is_some_and(|until| until <= now) {
            net.stall(self.wire, false);
            (self.stalled, self.wakes) = (None, None);
        }
        if self.stalls > 0
            && rng.u8(0..30) == 0
            && self.stalled.is_none()
            && !net.received(self.wire).is_empty()
        {
            self.stalls -= 1;
            let until = now + Duration::from_millis(rng.u64(1..6000));
            net.stall(self.wire, true);
            (self.stalled, self.wakes) = (Some(until), Some(until));
        }
        self.take(net, record)?;
        if let End::TakesAndResets(at) = self.end
            && net.received(self.wire).len() > at
        {
            self.is_broken = true;
            net.reset(self.wire);
            return Ok(());
        }
        if net.is_finished(self.wire) {
            self.is_broken = true;
            // What is behind it need not be cleaned up by the server alone.
            net.finish(self.wire);
            return self.judge_end(net, record);
        }
        self.say(net, rng);
        Ok(())
    }

    fn say(&mut self, net: &mut SimNet, rng: &mut Rng) {
        if self.tunnel.is_some() {
            let left = self.tunnel_bytes.len() - self.tunnel_said;
            if left > 0 {
                let n = rng.usize(1..=left);
                net.send(
                    self.wire,
                    &self.tunnel_bytes[self.tunnel_said..self.tunnel_said + n],
                );
                self.tunnel_said += n;
            } else if !self.has_ended {
                self.has_ended = true;
                net.finish(self.wire);
            }
            return;
        }
        if self.may_say() && rng.u8(0..3) > 0 {
            if self.said == 0
                && let Some(cookie) = self.cookie.take()
            {
                let bytes = &mut self.asks[self.asking].bytes;
                let line = find(bytes, b"\r\n").map_or(0, |at| at + 2);
                bytes.splice(line..line, format!("cookie: {cookie}\r\n").into_bytes());
            }
            let ask = &self.asks[self.asking];
            let left = ask.bytes.len() - self.said;
            let mut n = match rng.u8(0..3) {
                0 => left,
                _ => rng.usize(1..=left),
            };
            let before: usize = self.asks[..self.asking]
                .iter()
                .map(|ask| ask.bytes.len())
                .sum();
            let so_far = before + self.said;
            if let End::Resets(at) = self.end {
                n = n.min(at.saturating_sub(so_far));
            }
            net.send(self.wire, &ask.bytes[self.said..self.said + n]);
            self.said += n;
            if self.end == End::Resets(so_far + n) || (matches!(self.end, End::Resets(_)) && n == 0)
            {
                self.is_broken = true;
                return net.reset(self.wire);
            }
            if self.said == ask.bytes.len() {
                (self.asking, self.said) = (self.asking + 1, 0);
            }
        }
        let is_all_said = self.asking == self.asks.len();
        let is_tunnel = self.asks.last().is_some_and(|ask| ask.upgrades);
        let is_satisfied = is_all_said && self.answered == self.asks.len();
        let wants_end = self.end == End::Finishes && is_all_said && !is_tunnel;
        if !self.has_ended && (wants_end || is_satisfied || self.excused) {
            self.has_ended = true;
            self.excused |= self.aborts_on_close && !is_satisfied;
            net.finish(self.wire);
        }
    }

    /// Looks at what has come.
    fn take(&mut self, net: &mut SimNet, record: &Record) -> Result<(), String> {
        let is_over = net.is_finished(self.wire);
        let all = net.received(self.wire).to_vec();
        if all.len() == self.looked && !is_over {
            return Ok(());
        }
        self.looked = all.len();
        while self.tunnel.is_none() {
            let rest = &all[self.used..];
            if rest.is_empty() {
                return Ok(());
            }
            let Some(ask) = self.asks.get(self.answered) else {
                return Err(format!("an answer too many: {}", crate::reader::text(rest)));
            };
            let say = |what: String| format!("{} {}: {what}", ask.method, ask.token);
            if rest.starts_with(b"HTTP/1.1 1") {
                let Some(end) = find(rest, b"\r\n\r\n") else {
                    return Ok(());
                };
                let head = String::from_utf8_lossy(&rest[..end]);
                if head.starts_with("HTTP/1.1 101") {
                    if !ask.upgrades {
                        return Err(say(format!("a switch unasked: {head:?}")));
                    }
                    self.tunnel = Some(self.used + end + 4);
                    self.statuses.push(101);
                    break;
                }
                if head.starts_with("HTTP/1.1 100") && !ask.expects {
                    return Err(say("100 Continue unasked".into()));
                }
                self.continued = true;
                self.used += end + 4;
                continue;
            }
            if self.answered > self.asking || (self.answered == self.asking && self.said == 0) {
                return Err(say(format!(
                    "answered before it was asked: {}",
                    crate::reader::text(rest)
                )));
            }
            let asked = Asked {
                by_head: ask.method == "HEAD",
                ..Asked::default()
            };
            let answer = Answer::read(rest, asked, is_over).map_err(say)?;
            let Some(answer) = answer else { return Ok(()) };
            let is_empty = asked.by_head || matches!(answer.status, 204 | 304);
            let has_length = answer.field("content-length").is_some();
            let is_chunked = answer.field("transfer-encoding").is_some();
            if !is_empty && !has_length && !is_chunked {
                return Err(say(format!(
                    "an answer that ends with the connection: {}",
                    crate::reader::text(rest)
                )));
            }
            let whose = answer.field("x-token");
            let is_strangers = whose.is_some_and(|whose| {
                let unasked = whose == "unasked" && !record.poisoned.is_empty();
                whose != ask.token && !unasked
            });
            if is_strangers {
                return Err(say(format!("another's answer: {whose:?}")));
            }
            if let Some(set) = answer.field("set-cookie") {
                self.cookie = set.split(';').next().map(str::to_string);
            }
            let is_own = whose == Some(ask.token.as_str());
            if is_own && let Some(at) = stranger(&ask.token, &answer.body) {
                return Err(say(format!(
                    "another's bytes from {at} on: {}",
                    crate::reader::text(&answer.body[at..])
                )));
            }
            let faults = record.faults.get(&ask.token);
            if !answer.is_whole {
                let has_left = self.aborts_on_close && self.has_ended;
                if is_over && faults.is_none() && record.poisoned.is_empty() && !has_left {
                    return Err(say(format!(
                        "cut off, and nobody is to blame: {} of {:?} bytes",
                        answer.body.len(),
                        answer.field("x-size")
                    )));
                }
                self.excused |= is_over;
                self.stats[1] += usize::from(is_over);
                return Ok(());
            }
            if is_own && !is_empty {
                let size = answer.field("x-size").and_then(|size| size.parse().ok());
                if size != Some(answer.body.len()) {
                    return Err(say(format!(
                        "{} of {size:?} bytes pass for the whole",
                        answer.body.len()
                    )));
                }
            }
            match (answer.status, whose) {
                (_, Some(_)) => self.stats[0] += 1,
                (502 | 504, None) if faults.is_some() || record.idle_faults > 0 => {
                    self.stats[2] += 1
                }
                (503, None) if record.may_be_full => self.stats[2] += 1,
                (504, None) if record.may_be_late => self.stats[2] += 1,
                (status, None) => return Err(say(format!("{status}, and nobody is to blame"))),
            }
            self.statuses.push(answer.status);
            self.answered += 1;
            self.used += answer.len;
            if answer.closes {
                self.excused = true;
                if all.len() > self.used {
                    return Err(format!(
                        "behind the last answer: {}",
                        crate::reader::text(&all[self.used..])
                    ));
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// The connection is over.
    fn judge_end(&mut self, net: &mut SimNet, record: &Record) -> Result<(), String> {
        let Some(ask) = self.asks.get(self.answered) else {
            return Ok(());
        };
        let faults = record.faults.get(&ask.token);
        if let Some(from) = self.tunnel {
            let all = &net.received(self.wire)[from..];
            if let Some(at) = stranger(&ask.token, all) {
                return Err(format!(
                    "{}: in its tunnel, from {at} on: {}",
                    ask.token,
                    crate::reader::text(&all[at..])
                ));
            }
            if faults.is_none()
                && (all.len() < self.tunnel_bytes.len()
                    || self.tunnel_said < self.tunnel_bytes.len())
            {
                return Err(format!(
                    "{}: its tunnel has brought back {} of {} bytes, of which {} were sent",
                    ask.token,
                    all.len(),
                    self.tunnel_bytes.len(),
                    self.tunnel_said
                ));
            }
            self.stats[0] += 1;
            return Ok(());
        }
        if self.excused || faults.is_some() && (ask.upgrades || self.used < self.looked) {
            return Ok(());
        }
        if self.answered < self.asking {
            return Err(format!(
                "{} {}: no answer, and the connection is over",
                ask.method, ask.token
            ));
        }
        Ok(())
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{} of {} asked (and {} bytes of {:?}), {} answered {:?}, {} of {} bytes used, tunnel {:?} ({} of {} said), {:?}, ended {}, excused {}, stalled {:?}, pipelining {}",
            self.asking,
            self.asks.len(),
            self.said,
            self.asks
                .get(self.asking.min(self.asks.len() - 1))
                .map(|ask| (ask.method, &ask.token, ask.bytes.len())),
            self.answered,
            self.statuses,
            self.used,
            self.looked,
            self.tunnel,
            self.tunnel_said,
            self.tunnel_bytes.len(),
            self.end,
            self.has_ended,
            self.excused,
            self.stalled,
            self.is_pipelining,
        )
    }
}

fn draw(client: usize, number: usize, is_last: bool, habits: &Habits, rng: &mut Rng) -> Ask {
    let token = token(client, number);
    let upgrades = is_last && rng.u8(0..5) == 0;
    let method = match rng.u8(0..8) {
        _ if upgrades => "GET",
        0..3 => "GET",
        3 => "HEAD",
        4 => "PUT",
        5 => "DELETE",
        _ => "POST",
    };
    let has_body = matches!(method, "PUT" | "POST");
    let size = match rng.u8(0..4) {
        _ if !has_body => 0,
        0 => 0,
        1 => rng.usize(0..100),
        _ => rng.usize(0..=habits.longest),
    };
    let mut head = format!("{method} /t/{token}?size={size} HTTP/1.1\r\nhost: a\r\n");
    let content = body(&token, size);
    let mut framed = Vec::new();
    if has_body && rng.bool() {
        head.push_str("transfer-encoding: chunked\r\n");
        let mut rest = &content[..];
        while !rest.is_empty() {
            let n = rng.usize(1..=rest.len().min(1 + habits.longest / 3));
            framed.extend(format!("{n:x}\r\n").into_bytes());
            framed.extend(&rest[..n]);
            framed.extend(b"\r\n");
            rest = &rest[n..];
        }
        framed.extend(b"0\r\n\r\n");
    } else if has_body {
        head.push_str(&format!("content-length: {size}\r\n"));
        framed = content;
    }
    let expects = size > 0 && rng.u8(0..6) == 0;
    if expects {
        head.push_str("expect: 100-continue\r\n");
    }
    if upgrades {
        head.push_str("connection: upgrade\r\nupgrade: echo\r\n");
    }
    head.push_str("\r\n");
    let bytes = [head.into_bytes(), framed].concat();
    Ask {
        token,
        method,
        expects,
        upgrades,
        bytes,
    }
}
