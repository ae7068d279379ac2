//! A client: it acts between two turns, as its script says, and reads what it is answered.

use crate::check::Seen;
use crate::reader;
use crate::script::{Script, Step};
use fastrand::Rng;
use loopwright::Instant;
use loopwright::sim::{self, SimNet};
use std::time::Duration;

/// How long an impatient client waits for leave to send its body.
const PATIENCE: Duration = Duration::from_millis(15);

pub(crate) struct Client {
    pub(crate) script: Script,
    n: usize,
    conn: Option<sim::Client>,
    /// It does nothing before.
    next: Instant,
    /// Bytes of its requests that are sent.
    sent: usize,
    /// Bytes of its answers that are read, and how many of them were final.
    read: usize,
    answers: usize,
    has_leave: bool,
    gives_up: Option<Instant>,
    /// An answer has said that it is the last.
    is_dismissed: bool,
    did_reset: bool,
    did_finish: bool,
    is_told: bool,
}

impl Client {
    pub(crate) fn new(
        rng: &mut Rng,
        n: usize,
        script: Script,
        net: &mut SimNet,
        is_told: bool,
    ) -> Client {
        let mut client = Client {
            script,
            n,
            conn: None,
            next: Instant::default(),
            sent: 0,
            read: 0,
            answers: 0,
            has_leave: false,
            gives_up: None,
            is_dismissed: false,
            did_reset: false,
            did_finish: false,
            is_told,
        };
        client.tell(net, || "means to".to_string());
        if is_told {
            for step in &client.script.steps {
                match step {
                    Step::Send(bytes) => println!("    send {}", reader::excerpt(bytes)),
                    step => println!("    {step:?}"),
                }
            }
        }
        client.pause(Duration::from_micros(rng.u64(..50_000)), net);
        client
    }

    fn tell(&self, net: &SimNet, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:>9} client {} {}", net.now().as_micros(), self.n, what());
        }
    }

    fn pause(&mut self, time: Duration, net: &mut SimNet) {
        self.next = net.now() + time;
        net.wake_at(self.next);
    }

    /// Takes the steps that it can take now. Says whether there were any.
    pub(crate) fn act(&mut self, rng: &mut Rng, net: &mut SimNet) -> bool {
        let mut has_acted = false;
        while self.next <= net.now() && !self.script.steps.is_empty() {
            let conn = match self.conn {
                Some(conn) => conn,
                None => *self.conn.insert(net.connect(0)),
            };
            if !self.step(conn, rng, net) {
                break;
            }
            has_acted = true;
        }
        has_acted
    }

    /// Takes a step, or a part of one. `false`: it has to wait.
    fn step(&mut self, conn: sim::Client, rng: &mut Rng, net: &mut SimNet) -> bool {
        self.listen(conn, net);
        let is_over = net.is_finished(conn) || self.is_dismissed;
        if is_over && !self.script.is_deaf {
            self.tell(net, || "is done with".to_string());
            self.wait(net);
            return self.finish(conn, net);
        }
        let now = net.now();
        let Some(step) = self.script.steps.front_mut() else {
            return false;
        };
        match step {
            Step::Send(bytes) if bytes.is_empty() => {}
            Step::Send(bytes) => {
                let most = if rng.bool() {
                    bytes.len()
                } else {
                    bytes.len().min(100)
                };
                let piece: Vec<u8> = bytes.drain(..rng.usize(1..=most)).collect();
                self.sent += piece.len();
                net.send(conn, &piece);
                self.tell(net, || format!("sends {}", reader::excerpt(&piece)));
                let micros = match rng.u32(..20) {
                    0 => rng.u64(..20_000),
                    1..8 => rng.u64(..1000),
                    _ => 0,
                };
                self.pause(Duration::from_micros(micros), net);
                return true;
            }
            Step::Await(n) if self.answers < *n && !is_over => return false,
            Step::AwaitLeave(n) if self.answers < *n && !self.has_leave && !is_over => {
                let is_first = self.gives_up.is_none();
                let until = *self.gives_up.get_or_insert(now + PATIENCE);
                if self.script.is_patient || now < until {
                    if is_first {
                        net.wake_at(until);
                    }
                    return false;
                }
            }
            Step::Await(_) => {}
            Step::AwaitLeave(_) => (self.has_leave, self.gives_up) = (false, None),
            Step::Sleep(time) => {
                let time = *time;
                self.pause(time, net);
            }
            Step::Stall(stalled) => net.stall(conn, *stalled),
            Step::Finish => {
                self.finish(conn, net);
            }
            Step::Reset => {
                self.did_reset = true;
                net.reset(conn);
            }
        }
        let step = self.script.steps.pop_front();
        self.tell(net, || format!("is past {step:?}"));
        true
    }

    /// Does nothing more but take what comes, if it ever would.
    pub(crate) fn wait(&mut self, net: &mut SimNet) {
        self.script.steps.clear();
        if let Some(conn) = self.conn {
            net.stall(conn, self.script.stalls);
        }
    }

    fn finish(&mut self, conn: sim::Client, net: &mut SimNet) -> bool {
        self.did_finish = true;
        net.finish(conn);
        true
    }

    /// Reads the answers that are whole by now.
    fn listen(&mut self, conn: sim::Client, net: &mut SimNet) {
        let has_ended = net.is_finished(conn);
        while let Some(request) = self
            .script
            .requests
            .get(self.answers)
            .filter(|_| !self.is_dismissed)
        {
            let rest = &net.received(conn)[self.read..];
            if rest.is_empty() {
                break;
            }
            let Some(answer) =
                reader::read(rest, request.asked(), has_ended).filter(|answer| answer.is_whole)
            else {
                break;
            };
            self.read += answer.len;
            if answer.is_interim() {
                self.has_leave = true;
                continue;
            }
            self.answers += 1;
            self.is_dismissed = answer.closes;
            let (status, len) = (answer.status, answer.body.len());
            self.tell(net, || format!("is answered {status}, {len} bytes"));
        }
    }

    pub(crate) fn received(&self, net: &mut SimNet) -> Vec<u8> {
        self.conn
            .map(|conn| net.received(conn).to_vec())
            .unwrap_or_default()
    }

    pub(crate) fn seen<'a>(&'a self, received: &'a [u8], net: &mut SimNet) -> Seen<'a> {
        Seen {
            script: &self.script,
            received,
            sent: self.sent,
            has_ended: self.conn.is_none_or(|conn| net.is_finished(conn)),
            did_reset: self.did_reset,
            was_reset: self.conn.is_some_and(|conn| net.was_reset(conn)),
            did_finish: self.did_finish,
        }
    }
}
