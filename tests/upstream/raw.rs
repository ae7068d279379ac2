//! A client that sends the bytes it is given, whatever they are, and reads what comes back.

use crate::message::{Kind, Message, Parsed, parse};
use crate::support::PATIENCE;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// The other side has ended it.
    Closed,
    Reset,
    /// Nothing comes any more, but it is open.
    Open,
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: End,
}

/// A connection, and what came on it that nobody has taken yet.
pub(crate) struct Raw {
    stream: TcpStream,
    got: Vec<u8>,
    end: End,
}

impl Raw {
    pub(crate) fn connect(to: SocketAddr) -> Raw {
        let stream = TcpStream::connect(to).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a write timeout");
        Raw {
            stream,
            got: Vec::new(),
            end: End::Open,
        }
    }

    /// It may be refused in the middle: what was answered meanwhile is still to be read.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Reads until something comes, or for so long. False: nothing came.
    fn read(&mut self, patience: Duration) -> bool {
        if self.end != End::Open {
            return false;
        }
        let patience = patience.max(Duration::from_millis(1));
        self.stream
            .set_read_timeout(Some(patience))
            .expect("a read timeout");
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => self.end = End::Closed,
            Ok(n) => {
                self.got.extend_from_slice(&piece[..n]);
                return true;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => self.end = End::Reset,
        }
        false
    }

    /// One answer, the interim ones before it left out: or what came instead.
    pub(crate) fn answer(&mut self, to_head: bool) -> Result<Message, String> {
        let start = Instant::now();
        loop {
            let ended = self.end == End::Closed;
            match parse(&self.got, Kind::Answer { to_head, ended }) {
                Parsed::Whole(answer, used) => {
                    self.got.drain(..used);
                    if answer.status() / 100 != 1 || answer.status() == 101 {
                        return Ok(answer);
                    }
                }
                Parsed::Partial if start.elapsed() < PATIENCE && self.end == End::Open => {
                    self.read(PATIENCE - start.elapsed());
                }
                other => {
                    let got = String::from_utf8_lossy(&self.got);
                    return Err(format!("{other:?}, {:?}: {got:.200}", self.end));
                }
            }
        }
    }

    /// Reads until the end, or until nothing has come for so long.
    pub(crate) fn rest(mut self, quiet: Duration) -> Got {
        let start = Instant::now();
        while start.elapsed() < PATIENCE && self.read(quiet) {}
        Got {
            bytes: self.got,
            end: self.end,
        }
    }
}

pub(crate) fn exchange(to: SocketAddr, bytes: &[u8], quiet: Duration) -> Got {
    let mut raw = Raw::connect(to);
    raw.send(bytes);
    raw.rest(quiet)
}

impl Got {
    /// `200 404x`: the statuses, interim ones left out, and whether the connection has ended. `cut`: the last answer is
    /// not whole.
    pub(crate) fn outcome(&self, to_head: bool) -> String {
        let ended = self.end == End::Closed;
        let (mut rest, mut statuses) = (&self.bytes[..], Vec::new());
        while !rest.is_empty() {
            match parse(rest, Kind::Answer { to_head, ended }) {
                Parsed::Whole(answer, used) => {
                    if answer.status() / 100 != 1 {
                        statuses.push(answer.status().to_string());
                    }
                    rest = &rest[used..];
                }
                Parsed::Partial => {
                    let status = rest.split(|&b| b == b' ').nth(1).unwrap_or_default();
                    statuses.push(format!("{} cut", String::from_utf8_lossy(status)));
                    break;
                }
                Parsed::Wrong(why) => {
                    statuses.push(format!("wrong ({why})"));
                    break;
                }
            }
        }
        let end = if self.end == End::Open { "" } else { "x" };
        format!("{}{end}", statuses.join(" "))
    }
}
