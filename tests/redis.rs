//! The session with Redis against a Redis: what a real server says to what ours says. The socket here is a plain
//! blocking one.

use bytes::Bytes;
use loopwright::Instant;
use loopwright::proto::bus::{Arrival, Arrivals, Channels, Kind, Publication, Stamps};
use loopwright::proto::redis::{Error, Event, Login, Secret, Session, Settings, Verb};
use loopwright::proto::resp::Value;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longer than anything here takes: past it a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis on a Unix socket of its own, killed when it is dropped.
struct Redis {
    child: Child,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start(config: &str) -> Redis {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "port 0\nunixsocket {}\nsave \"\"\nappendonly no\ndir {}\n{config}\n",
            path("socket"),
            folder.path().display()
        );
        std::fs::write(path("config"), config).expect("a config");
        let mut command = Command::new("redis-server");
        command.arg(path("config")).stdin(Stdio::null());
        let log = std::fs::File::create(path("log")).expect("a log");
        let child = match command.stdout(log).spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                panic!("redis-server is missing: apt-get install redis-server")
            }
            Err(e) => panic!("{command:?}: {e}"),
        };
        let redis = Redis { child, folder };
        let start = std::time::Instant::now();
        while UnixStream::connect(redis.folder.path().join("socket")).is_err() {
            let log = std::fs::read_to_string(redis.folder.path().join("log"));
            assert!(start.elapsed() < PATIENCE, "it does not start: {log:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        redis
    }

    fn connect(&self, settings: Settings) -> Client {
        let socket = UnixStream::connect(self.folder.path().join("socket")).expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let start = std::time::Instant::now();
        let session = Session::new(settings, Instant::default());
        Client {
            socket,
            session,
            start,
            received: Vec::new(),
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("its end");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client {
    socket: UnixStream,
    session: Session,
    start: std::time::Instant,
    received: Vec<u8>,
}

impl Client {
    fn now(&self) -> Instant {
        Instant::default() + self.start.elapsed()
    }

    /// Writes, and reads up to the next event. Bytes come one by one: the server's are cut everywhere.
    fn next(&mut self) -> Result<Event, Error> {
        loop {
            let now = self.now();
            let mut input = &self.received[..];
            let event = self.session.poll_event(&mut input, now)?;
            self.received = input.to_vec();
            if let Some(event) = event {
                return Ok(event);
            }
            self.flush();
            let mut byte = [0];
            self.socket.read_exact(&mut byte).expect("a byte");
            self.received.push(byte[0]);
        }
    }

    fn flush(&mut self) {
        let n = self.session.output().len();
        let written = self.socket.write_all(self.session.output());
        written.expect("sent");
        self.session.sent(n);
    }

    fn ready(&mut self) -> u8 {
        match self.next() {
            Ok(Event::Ready { protocol, version }) => {
                assert_eq!(version.is_some(), protocol == 3);
                protocol
            }
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, arguments: &[&str]) -> Value {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        let asked = self.session.command(&arguments, self.now());
        match self.next() {
            Ok(Event::Reply { token, value }) if asked == Ok(token) => value,
            other => panic!("{other:?}"),
        }
    }

    fn change(&mut self, verb: Verb, name: &str) -> Event {
        let now = self.now();
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.session.subscription(verb, name, now).expect("asked");
        self.next().expect("a confirmation")
    }

    fn is_dead(&mut self) -> bool {
        match self.socket.read(&mut [0]) {
            Ok(n) => n == 0,
            // It has not read all that was sent.
            Err(e) => e.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn plain() -> Settings {
    Settings::default()
}

fn login(user: Option<&str>, password: &str, database: u32) -> Settings {
    let user = user.map(String::from);
    let password = Some(Secret::new(password.into()));
    Settings {
        login: Login {
            user,
            password,
            database,
        },
        name: Some("loopwright-test".into()),
        ..Settings::default()
    }
}

const WITHOUT_HELLO: &str = "rename-command HELLO \"\"";

#[test]
fn greetings() {
    let users = "requirepass s3cret\nuser ada on >hers allcommands allkeys allchannels";
    for (config, protocol) in [("", 3), (WITHOUT_HELLO, 2)] {
        let open = Redis::start(config);
        assert_eq!(open.connect(plain()).ready(), protocol);
        let guarded = Redis::start(&format!("{users}\n{config}"));
        for settings in [login(None, "s3cret", 3), login(Some("ada"), "hers", 3)] {
            let mut client = guarded.connect(settings);
            assert_eq!(client.ready(), protocol);
            let info = match client.ask(&["CLIENT", "INFO"]) {
                Value::Bulk(info) | Value::Verbatim { text: info, .. } => info,
                other => panic!("{other:?}"),
            };
            let info = String::from_utf8_lossy(&info).into_owned();
            assert!(
                info.contains(" name=loopwright-test ") && info.contains(" db=3 "),
                "{info}"
            );
        }
        for settings in [login(None, "wr0ng", 0), login(Some("ada"), "wr0ng", 0)] {
            let error = guarded.connect(settings).next().expect_err("a refusal");
            let said = error.to_string();
            assert!(
                said.contains("WRONGPASS") && !said.contains("wr0ng"),
                "{said}"
            );
        }
        let error = open
            .connect(login(None, "", 99))
            .next()
            .expect_err("no such database");
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    // A server that repeats our arguments does not get the password into our log.
    let neither = Redis::start("rename-command HELLO \"\"\nrename-command AUTH \"\"");
    let error = neither
        .connect(login(None, "s3cret", 0))
        .next()
        .expect_err("no way in");
    assert_eq!(
        error.to_string(),
        "the server refuses AUTH: ERR unknown command 'AUTH'"
    );
    // Nobody said that there is a password.
    let guarded = Redis::start(users);
    let error = guarded
        .connect(plain())
        .next()
        .expect_err("a refusal")
        .to_string();
    assert!(
        error.starts_with("the server refuses HELLO: NOAUTH"),
        "{error}"
    );
}

#[test]
fn replies() {
    let redis = Redis::start("enable-debug-command local");
    let mut client = redis.connect(plain());
    client.ready();
    assert_eq!(client.ask(&["SET", "k", "v"]), Value::Simple("OK".into()));
    assert_eq!(client.ask(&["GET", "k"]), Value::Bulk("v".into()));
    assert_eq!(client.ask(&["GET", "none"]), Value::Null);
    assert!(matches!(client.ask(&["INCR", "k"]), Value::Error(e) if e.starts_with(b"ERR ")));
    client.ask(&["HSET", "h", "a", "1"]);
    let entry = (Value::Bulk("a".into()), Value::Bulk("1".into()));
    assert_eq!(client.ask(&["HGETALL", "h"]), Value::Map(vec![entry]));
    client.ask(&["SADD", "s", "a"]);
    let member = Value::Bulk("a".into());
    assert_eq!(client.ask(&["SMEMBERS", "s"]), Value::Set(vec![member]));
    client.ask(&["ZADD", "z", "1.5", "a"]);
    assert_eq!(client.ask(&["ZSCORE", "z", "a"]), Value::Double(1.5));
    // Every type that the server knows, as it writes it.
    for (kind, want) in [
        (
            "bignum",
            Value::BigNumber("1234567999999999999999999999999999999".into()),
        ),
        ("true", Value::Boolean(true)),
        ("null", Value::Null),
        ("double", Value::Double("3.141".parse().expect("a number"))),
        ("verbatim", {
            let text = "This is a verbatim\nstring".into();
            Value::Verbatim {
                format: *b"txt",
                text,
            }
        }),
    ] {
        assert_eq!(client.ask(&["DEBUG", "PROTOCOL", kind]), want);
    }
    let attributed = client.ask(&["DEBUG", "PROTOCOL", "attrib"]);
    assert!(
        matches!(&attributed, Value::Attributed { .. }),
        "{attributed:?}"
    );
    // Pipelined: in order.
    let now = client.now();
    let asked: Vec<_> = (0..1000)
        .map(|n: i32| {
            let text = n.to_string();
            let words = [&b"ECHO"[..], text.as_bytes()];
            (client.session.command(&words, now).expect("room"), text)
        })
        .collect();
    for (token, text) in asked {
        let value = Value::Bulk(text.into_bytes().into());
        assert_eq!(client.next(), Ok(Event::Reply { token, value }));
    }
}

/// Our patterns as globs of a real server, through which more comes than they stand for; the same with both versions.
#[test]
fn publications() {
    for (config, protocol) in [("", 3), (WITHOUT_HELLO, 2)] {
        let redis = Redis::start(config);
        let (mut here, mut there) = (redis.connect(plain()), redis.connect(plain()));
        assert_eq!((here.ready(), there.ready()), (protocol, protocol));
        let mut channels = Channels::new("app[1]*:".into());
        let patterns = [
            "rooms/*/says",
            "rooms/7/says",
            "all/**",
            r"odd?[x]\/*",
            "end",
        ];
        for text in patterns {
            let (verb, name) = channels
                .want(&text.parse().expect(text))
                .expect("it is new");
            let confirmed = here.change(verb, &name);
            assert!(matches!(confirmed, Event::Confirmed { verb: v, .. } if v == verb));
        }
        let mut stamps = Stamps::new(0xABCD, 100);
        let topics = [
            ("rooms/7/says", true),
            ("rooms/8/says", true),
            ("rooms/7/8/says", false),
            ("all", false),
            ("all/of/it", true),
            (r"odd?[x]\/1", true),
            ("oddyx/1", false),
            ("rooms/8/says", true),
        ];
        for (topic, _) in topics {
            let publication = Publication {
                topic: topic.into(),
                payload: topic.as_bytes().to_vec().into(),
                kind: Kind::Text,
                stamp: Some(stamps.next(topic)),
            };
            let channel = channels.channel(topic);
            let now = there.now();
            let sealed = publication.seal();
            there
                .session
                .publish(channel.as_bytes(), &sealed, now)
                .expect("asked");
            assert!(matches!(
                there.next(),
                Ok(Event::Reply {
                    value: Value::Integer(_),
                    ..
                })
            ));
        }
        // As with redis-cli, and the last.
        assert_eq!(
            there.ask(&["PUBLISH", "app[1]*:end", "hello"]),
            Value::Integer(1)
        );

        let mut arrivals = Arrivals::new(1, 100);
        let mut got = Vec::new();
        let mut came = 0;
        loop {
            let Ok(Event::Message {
                pattern,
                channel,
                payload,
            }) = here.next()
            else {
                panic!("no message");
            };
            came += 1;
            let Some(got_one) = channels.open(pattern.as_deref(), &channel, payload) else {
                continue;
            };
            assert_eq!(
                arrivals.see(&got_one.topic, got_one.stamp),
                Arrival::InOrder
            );
            if got_one.topic == "end" {
                assert_eq!((got_one.kind, got_one.stamp), (Kind::Text, None));
                assert_eq!(got_one.payload, "hello");
                break;
            }
            assert_eq!(got_one.payload, got_one.topic);
            got.push(got_one.topic);
        }
        let want: Vec<&str> = topics.iter().filter(|t| t.1).map(|t| t.0).collect();
        assert_eq!(got, want);
        // Once more for rooms/7/says, and what only the glob stands for.
        assert_eq!(came, want.len() + 1 + 2);
        assert_eq!(arrivals.lost(), 0);

        // And back: with no subscriptions left, version 2 takes commands again.
        for text in patterns {
            let (verb, name) = channels
                .unwant(&text.parse().expect(text))
                .expect("it was there");
            here.change(verb, &name);
        }
        assert_eq!(here.ask(&["ECHO", "x"]), Value::Bulk("x".into()));
    }
}

#[test]
fn a_subscription_that_is_denied_takes_no_other_along() {
    let redis = Redis::start("user default on nopass allcommands allkeys resetchannels &open*");
    for protocol in [3, 2] {
        let redis = match protocol {
            3 => &redis,
            _ => &Redis::start(&format!(
                "user default on nopass allcommands allkeys resetchannels &open*\n{WITHOUT_HELLO}"
            )),
        };
        let mut client = redis.connect(plain());
        assert_eq!(client.ready(), protocol);
        let now = client.now();
        for name in ["open1", "closed", "open2"] {
            client
                .session
                .subscription(Verb::Subscribe, name.into(), now)
                .expect("asked");
        }
        let names: Vec<String> = (0..3)
            .map(|_| match client.next() {
                Ok(Event::Confirmed { name, count, .. }) => format!("{name:?} {count}"),
                Ok(Event::Denied { name, error, .. }) => {
                    assert!(error.starts_with(b"NOPERM"), "{error:?}");
                    format!("{name:?} denied")
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            names,
            ["b\"open1\" 1", "b\"closed\" denied", "b\"open2\" 2"]
        );
    }
}

#[test]
fn silence_and_the_end() {
    for config in ["", WITHOUT_HELLO] {
        let mut redis = Redis::start(config);
        let settings = Settings {
            idle: Duration::from_millis(50),
            reply: Duration::from_millis(300),
            ..Settings::default()
        };
        let mut client = redis.connect(settings);
        client.ready();
        client.change(Verb::Subscribe, "a");
        // It is asked whether it is there, and is.
        std::thread::sleep(Duration::from_millis(60));
        client.session.expire(client.now()).expect("only idle");
        assert_eq!(client.session.owed(), 1);
        client.flush();
        let mut other = redis.connect(plain());
        other.ready();
        other.ask(&["PUBLISH", "a", "hi"]);
        assert!(matches!(client.next(), Ok(Event::Message { .. })));
        assert_eq!(
            client.session.owed(),
            0,
            "the answer came before the publication"
        );
        // It hangs.
        let pid = rustix::process::Pid::from_child(&redis.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
        std::thread::sleep(Duration::from_millis(60));
        client.session.expire(client.now()).expect("only idle");
        client.flush();
        std::thread::sleep(Duration::from_millis(310));
        let silent = Error::Silent {
            limit: Duration::from_millis(300),
        };
        assert_eq!(client.session.expire(client.now()), Err(silent));
        // It is killed.
        redis.kill();
        assert!(client.is_dead());
    }
}
