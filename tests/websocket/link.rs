//! Connections that the server makes.

use crate::peer::{Ear, ear};
use crate::support::*;
use loopwright::{App, Builder, Ctx, Limits, Link, LinkHandle, Target, Timeouts};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

struct Line {
    tell: Sender<String>,
    handle: Option<LinkHandle>,
    greeting: usize,
    left: usize,
}

impl Line {
    fn new(tell: Sender<String>, greeting: usize, left: usize) -> Line {
        Line {
            tell,
            handle: None,
            greeting,
            left,
        }
    }

    fn go_on(&mut self) {
        let handle = self.handle.as_ref().expect("open");
        while self.left > 0 && handle.buffered() <= 64 * 1024 {
            self.left -= 1;
            handle.write(vec![b'x'; 10_000]);
        }
        if self.left == 0 {
            handle.close();
        }
    }
}

impl Link<()> for Line {
    fn open(&mut self, _: &mut Ctx<'_>, handle: LinkHandle) {
        let _ = self.tell.send("open".into());
        handle.write(vec![b'x'; self.greeting]);
        self.handle = Some(handle);
        if self.left > 0 {
            self.go_on();
        }
    }
    fn input(&mut self, cx: &mut Ctx<'_>, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match bytes {
            b"wrong" => return Err("not what was asked for".into()),
            b"panic" => panic!("on purpose"),
            b"hold" => {
                let handle = self.handle.clone().expect("open");
                handle.hold();
                let tell = self.tell.clone();
                let _ = tell.send("held".into());
                cx.after(Duration::from_millis(500), move |_| {
                    let _ = tell.send("resumed".into());
                    handle.resume();
                });
            }
            b"bye" => self.handle.as_ref().expect("open").close(),
            _ => out.extend_from_slice(bytes),
        }
        Ok(())
    }
    fn drained(&mut self, _: &mut Ctx<'_>) {
        let _ = self.tell.send("drained".into());
        self.go_on();
    }
    fn close(&mut self, _: &mut Ctx<'_>, why: &str) {
        assert!(self.handle.as_ref().is_none_or(LinkHandle::is_closed));
        let _ = self.tell.send(format!("close: {why}"));
    }
}

fn builder() -> Builder {
    let limits = Limits {
        output: 1 << 20,
        unsent: 16 * 1024,
        ..Limits::default()
    };
    let timeouts = Timeouts {
        connect: Duration::from_millis(200),
        ..timeouts()
    };
    local().limits(limits).timeouts(timeouts)
}

fn connected(target: Target, greeting: usize, left: usize) -> (TestServer, Ear) {
    let (tell, told) = ear();
    let server = serve_with(builder(), || (App::new(), ()));
    let post = server
        .handle
        .post(move |cx| cx.connect(target, Line::new(tell, greeting, left)));
    assert!(post.is_ok());
    (server, told)
}

fn adopted(greeting: usize, left: usize) -> (TestServer, Ear, UnixStream) {
    let (tell, told) = ear();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let server = serve_with(builder(), || (App::new(), ()));
    let post = server
        .handle
        .post(move |cx| cx.adopt(ours, Line::new(tell, greeting, left)));
    assert!(post.is_ok());
    told.hears("open");
    (server, told, theirs)
}

#[test]
fn refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let (server, told) = connected(Target::Inet(address), 0, 0);
    let why = told.next();
    assert!(why.contains("refused"), "{why}");
    drop(server);
    assert_eq!(told.rest(), [""; 0]);
    let (_server, told) = connected(Target::Unix("/nowhere/at/all".into()), 0, 0);
    let why = told.next();
    assert!(
        why.starts_with("close: ") && why.contains("No such file"),
        "{why}"
    );
}

/// A listener whose queue is full answers nothing.
#[test]
fn not_in_time() {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .expect("an address")
                .into(),
        )
        .expect("bound");
    socket.listen(0).expect("listening");
    let address = socket
        .local_addr()
        .expect("an address")
        .as_socket()
        .expect("IP");
    let _full: Vec<_> = (0..3)
        .map(|_| {
            let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .expect("a socket");
            filler.set_nonblocking(true).expect("nonblocking");
            let _ = filler.connect(&address.into());
            filler
        })
        .collect();
    let begun = Instant::now();
    let (_server, told) = connected(Target::Inet(address), 0, 0);
    told.hears("close: not connected within timeouts.connect");
    let took = begun.elapsed();
    assert!((190..3000).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn one_that_is_held_is_not_read() {
    let (server, told, mut theirs) = adopted(0, 0);
    theirs.write_all(b"hold").expect("sent");
    told.hears("held");
    theirs.set_nonblocking(true).expect("nonblocking");
    let mut sent = 0;
    while let Ok(n) = theirs.write(&[b'x'; 10_000]) {
        sent += n;
        assert!(sent < 4 << 20, "somebody reads");
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(theirs.read(&mut [0; 10]).is_err());
    told.hears("resumed");
    theirs.set_nonblocking(false).expect("blocking");
    let mut all = Vec::new();
    let mut piece = vec![0; 65_536];
    while all.len() < sent
        && let Ok(n @ 1..) = theirs.read(&mut piece)
    {
        all.extend_from_slice(&piece[..n]);
    }
    assert_eq!(all.len(), sent);
    drop(theirs);
    told.hears("close: the other side has closed it");
    drop(server);
    assert_eq!(told.rest(), [""; 0]);
}

#[test]
fn connected_in_time_stays_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let target = Target::Inet(listener.local_addr().expect("an address"));
    let (server, told) = connected(target, 5, 0);
    let (mut theirs, _) = listener.accept().expect("accepted");
    let mut greeting = [0; 5];
    theirs.read_exact(&mut greeting).expect("a greeting");
    told.hears("open");
    // Past `timeouts.connect`, which is over when it is connected.
    std::thread::sleep(Duration::from_millis(400));
    theirs.write_all(b"echo").expect("sent");
    theirs.read_exact(&mut greeting[..4]).expect("an echo");
    assert_eq!(&greeting[..4], b"echo");
    drop(theirs);
    told.hears("close: the other side has closed it");
    drop(server);
    assert_eq!(told.rest(), [""; 0]);
}

#[test]
fn every_end_of_a_link() {
    for (said, why) in [
        (&b"wrong"[..], "close: not what was asked for"),
        (b"panic", "close: it panicked"),
        (b"bye", "close: closed"),
    ] {
        let (server, told, mut theirs) = adopted(5, 0);
        let mut greeting = [0; 5];
        theirs.read_exact(&mut greeting).expect("a greeting");
        theirs.write_all(said).expect("sent");
        told.hears(why);
        assert_eq!(theirs.read(&mut greeting).expect("an end"), 0);
        drop(server);
        assert_eq!(told.rest(), [""; 0]);
    }
    // A stop does not wait for links, and tells them.
    let (server, told, theirs) = adopted(0, 0);
    drop(server);
    assert_eq!(told.rest(), ["close: the server leaves"]);
    drop(theirs);
}

#[test]
fn drained_says_when_to_go_on() {
    let (server, told, mut theirs) = adopted(0, 300);
    let mut got = 0;
    let mut buffer = vec![0; 20_000];
    loop {
        // In steps that leave some of it waiting for a long time.
        std::thread::sleep(Duration::from_micros(500));
        match theirs.read(&mut buffer).expect("cannot read") {
            0 => break,
            n => got += n,
        }
    }
    assert_eq!(got, 3_000_000);
    drop(server);
    let rest = told.rest();
    let drained = rest.iter().filter(|word| *word == "drained").count();
    assert!(drained > 5, "{rest:?}");
    assert_eq!(rest.last().map(String::as_str), Some("close: closed"));
}

/// Whoever writes on and on is cut, as is whoever makes us write on and on.
#[test]
fn output_is_bounded() {
    let (_server, told, _theirs) = adopted(2 << 20, 0);
    told.hears("close: more waits for it than limits.output");
    let (_server, told, mut theirs) = adopted(0, 0);
    theirs.set_nonblocking(true).expect("nonblocking");
    let begun = Instant::now();
    let mut sent = 0;
    let why = loop {
        if let Ok(n) = theirs.write(&[b'x'; 64 * 1024]) {
            sent += n;
        }
        if let Some(why) = told.try_next() {
            break why;
        }
        assert!(
            begun.elapsed() < PATIENCE && sent < 50 << 20,
            "{sent} bytes were taken and answered"
        );
    };
    assert_eq!(why, "close: more waits for it than limits.output");
}
