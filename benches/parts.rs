//! The parts of the hot path, in time: `cargo bench --bench parts`. The whole server is measured by
//! `scripts/bench`, which counts what matters: its CPU time per request.

#[cfg(feature = "postgres")]
#[path = "../tests/canned/pg.rs"]
mod pg;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use loopwright::base::clock::{Instant, StockFields};
use loopwright::base::id::ConnId;
use loopwright::base::topics::{TopicLimits, Topics};
use loopwright::base::wheel::Wheel;
use loopwright::proto::forwarded::Trusted;
use loopwright::proto::h1::answer::{Announce, FieldBlock, Persistence, encode};
use loopwright::proto::h1::body::{Decoder, Piece};
use loopwright::proto::h1::head::{self, HeadLimits};
use loopwright::proto::ws::frame::{self, Header};
use loopwright::proto::ws::send::Outbound;
use loopwright::proto::ws::session::{Event, Inbound, Kind, Session};
use loopwright::service::access_log::{Format, access_log};
use loopwright::service::proxy::fields::{Incoming, Rules, Towards};
use loopwright::upstream::balance::{Balance, Pick, Policy, Server};
use std::time::{Duration, SystemTime};

fn main() {
    divan::main();
}

const LIMITS: HeadLimits = HeadLimits {
    head: 16 * 1024,
    target: 8 * 1024,
    fields: 100,
};

const SMALL: &[u8] = b"GET /plaintext HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const BROWSER: &[u8] = b"GET /plaintext HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
    Referer: http://localhost:8080/index.html\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\nCookie: sid=6f1d2c9b0e8a4f57; theme=dark\r\n\r\n";

#[divan::bench(args = ["small", "browser"])]
fn h1_head_parse(bencher: Bencher<'_, '_>, head: &str) {
    let bytes = if head == "small" { SMALL } else { BROWSER };
    bencher.bench_local(|| {
        let mut slots = head::slots();
        let head = head::read(black_box(bytes), &mut 0, true, &mut slots, &LIMITS);
        head.ok().flatten().map(|head| head.path.len())
    });
}

#[divan::bench]
fn h1_encode(bencher: Bencher<'_, '_>) {
    let mut stock = StockFields::new(Some("loopwright".into()));
    stock.refresh(Instant::default(), || SystemTime::UNIX_EPOCH);
    let mut fields = FieldBlock::default();
    let mut out = Vec::with_capacity(1024);
    bencher.bench_local(|| {
        out.clear();
        fields.clear();
        fields.default_content_type(black_box("text/plain; charset=utf-8"));
        let status = loopwright::StatusCode::OK;
        encode(
            &mut out,
            status,
            &fields,
            &stock,
            Announce::Length(13),
            Persistence::Implied,
        );
        out.len()
    });
}

/// A parsed head to the head that a server behind a proxy gets: with what tells it who asks, and with what a
/// trusted peer has told.
#[divan::bench(args = ["small", "ten", "browser", "trusted"])]
fn proxy_request(bencher: Bencher<'_, '_>, which: &str) {
    const TEN: &[u8] =
        b"GET /api/items/4711?page=2 HTTP/1.1\r\nHost: example.org\r\nConnection: keep-alive\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: application/json\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
        Referer: http://localhost:8080/index.html\r\nCookie: sid=6f1d2c9b0e8a4f57; theme=dark\r\n\
        X-Requested-With: XMLHttpRequest\r\nX-Forwarded-For: 203.0.113.9, 10.0.0.2\r\n\r\n";
    let bytes = match which {
        "small" => SMALL,
        "browser" => BROWSER,
        _ => TEN,
    };
    let entries = (which == "trusted").then_some("10.0.0.0/8");
    let Ok(trusted) = Trusted::parse(entries) else {
        return;
    };
    let mut slots = head::slots();
    let Ok(Some(head)) = head::read(bytes, &mut 0, true, &mut slots, &LIMITS) else {
        return;
    };
    let (rules, peer) = (Rules::new("loopwright"), Some([10, 0, 0, 1].into()));
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        let incoming = Incoming::of(black_box(&head), peer, &trusted, Default::default());
        let towards = Towards::server("10.0.0.9:8080", &head);
        let sent = rules.request(&mut out, &incoming, &towards);
        (sent.is_ok(), out.len())
    });
}

/// An answer's fields on their way back.
#[divan::bench]
fn proxy_response(bencher: Bencher<'_, '_>) {
    const ANSWER: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: nginx\r\n\
        Content-Type: application/json\r\nContent-Length: 4711\r\nConnection: keep-alive\r\nVary: accept\r\n\
        Cache-Control: no-store\r\nETag: \"6f1d2c9b\"\r\nSet-Cookie: sid=6f1d2c9b0e8a4f57; HttpOnly\r\n\r\n";
    let (mut first, mut second) = (head::slots(), head::slots());
    let (Ok(Some(request)), Ok(Some(answer))) = (
        head::read(SMALL, &mut 0, true, &mut first, &LIMITS),
        head::read(ANSWER, &mut 0, true, &mut second, &LIMITS),
    ) else {
        return;
    };
    let rules = Rules::new("loopwright");
    let incoming = Incoming::of(&request, None, &Trusted::default(), Default::default());
    let (mut block, mut scratch) = (FieldBlock::default(), Vec::with_capacity(256));
    bencher.bench_local(|| {
        block.clear();
        let passed = rules.response(
            black_box(&answer.fields),
            1,
            false,
            &incoming,
            &mut scratch,
            |name, value| block.push(name, value),
        );
        (passed.is_ok(), block.lines().len())
    });
}

#[divan::bench]
fn h1_chunked_decode_64_kib(bencher: Bencher<'_, '_>) {
    let mut wire = b"1000\r\n".to_vec();
    wire.extend([b'x'; 4096]);
    wire.extend(b"\r\n");
    let wire = [wire.repeat(16), b"0\r\n\r\n".to_vec()].concat();
    bencher
        .counter(divan::counter::BytesCount::new(wire.len()))
        .bench_local(|| {
            let (mut decoder, mut rest, mut body) = (Decoder::CHUNKED, black_box(&wire[..]), 0);
            loop {
                match decoder.poll(rest) {
                    Ok(Piece::Data(n)) => {
                        body += n;
                        rest = &rest[n..];
                    }
                    Ok(Piece::Framing(n)) => rest = &rest[n..],
                    _ => return body,
                }
            }
        });
}

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame to the message that is handed out, in place. Copying it there is part of the time.
#[divan::bench(args = [64, 1024, 65536], consts = [false, true])]
fn ws_receive<const TEXT: bool>(bencher: Bencher<'_, '_>, len: usize) {
    let kind = if TEXT { Kind::Text } else { Kind::Binary };
    let (opcode, mask) = (kind.opcode(), Some(KEY));
    let mut wire = Vec::new();
    Header {
        opcode,
        fin: true,
        rsv1: false,
        mask,
        len: len as u64,
    }
    .encode(&mut wire);
    let start = wire.len();
    wire.resize(start + len, b'x');
    frame::mask(&mut wire[start..], &mut { KEY });
    let (mut session, mut inbound) = (Session::server(None), Inbound::default());
    let mut inbox = wire.clone();
    bencher
        .counter(divan::counter::BytesCount::new(len))
        .bench_local(|| {
            inbox.copy_from_slice(black_box(&wire));
            let mut input = &mut inbox[..];
            match session.poll_event(&mut input, &mut inbound, 1 << 20) {
                Ok(Some(Event::Binary(data))) => black_box(data).len(),
                Ok(Some(Event::Text(text))) => black_box(text).len(),
                _ => 0,
            }
        });
}

/// The unmasking alone.
#[divan::bench(args = [64, 1024, 65536])]
fn ws_mask(bencher: Bencher<'_, '_>, len: usize) {
    let mut payload = vec![b'x'; len];
    bencher
        .counter(divan::counter::BytesCount::new(len))
        .bench_local(|| frame::mask(black_box(&mut payload), &mut { KEY }));
}

/// To frame a message of a server, plain and compressed.
#[divan::bench(args = [64, 1024, 65536], consts = [false, true])]
fn ws_send<const COMPRESSED: bool>(bencher: Bencher<'_, '_>, len: usize) {
    use loopwright::proto::ws::extension::{Agreed, Direction};
    let both = Direction {
        takeover: false,
        window_bits: 15,
    };
    let deflate = COMPRESSED.then_some(Agreed {
        server: both,
        client: both,
    });
    let (mut session, mut outbound) = (Session::server(deflate), Outbound::new(1, 0));
    let text: Vec<u8> = (0..len).map(|n| BROWSER[n * 7 % BROWSER.len()]).collect();
    let mut out = Vec::new();
    bencher
        .counter(divan::counter::BytesCount::new(len))
        .bench_local(|| {
            out.clear();
            let sent = session.send(Kind::Text, black_box(&text), &mut out, &mut outbound);
            sent.map(|()| out.len())
        });
}

#[divan::bench(args = ["/", "/user/12345", "/orgs/7/teams/9/members/11", "/static/css/a/b/site.css", "/nothing/here"])]
fn router(bencher: Bencher<'_, '_>, path: &str) {
    let router = loopwright::bench_router(46);
    bencher.bench_local(|| router(black_box(path)));
}

/// A logger that takes a line and does nothing with it: what is left is to write the line.
struct Nowhere;

impl log::Log for Nowhere {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        black_box(record.args());
    }
    fn flush(&self) {}
}

#[divan::bench(args = [Format::Combined, Format::Json], sample_size = 1000)]
fn access_log_line(bencher: Bencher<'_, '_>, format: Format) {
    let _ = log::set_logger(&Nowhere);
    log::set_max_level(log::LevelFilter::Info);
    loopwright::bench_after(BROWSER, access_log(format), |call| {
        bencher.bench_local(call)
    });
}

/// To hand a line of 400 bytes over: the binary's logger does this with each, and its thread the rest.
#[cfg(feature = "cli")]
#[divan::bench]
fn log_sink_append(bencher: Bencher<'_, '_>) {
    use loopwright::process::sink::{Output, Sink};
    let Ok(output) = Output::open("/dev/null".as_ref()) else {
        return;
    };
    let Ok(sink) = Sink::start("benchmark", 1 << 20, Duration::from_millis(200)) else {
        return;
    };
    sink.direct(Some(output));
    let line = [b'x'; 400];
    bencher.bench_local(|| sink.append(black_box(&line)));
}

const TIMERS: usize = 10_000;

#[divan::bench]
fn wheel_insert_cancel(bencher: Bencher<'_, '_>) {
    let mut wheel = Wheel::new();
    for n in 0..TIMERS as u64 {
        wheel.insert(Instant::from_micros(n * 7_500), n);
    }
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 7_919_000) % 75_000_000;
        let id = wheel.insert(Instant::default() + Duration::from_micros(at), at);
        wheel.cancel(id)
    });
}

#[divan::bench]
fn wheel_expire_10_000(bencher: Bencher<'_, '_>) {
    let filled = || {
        let mut wheel = Wheel::new();
        for n in 0..TIMERS as u64 {
            wheel.insert(Instant::from_micros(n * 7_919 % 75_000_000), n);
        }
        wheel
    };
    bencher
        .counter(ItemsCount::new(TIMERS))
        .with_inputs(filled)
        .bench_local_values(|mut wheel| {
            let end = Instant::from_micros(80_000_000);
            while wheel.pop_expired(end).is_some() {}
            wheel
        });
}

const SUBSCRIBERS: usize = 10_000;

/// To hand one publication to 10,000, in turns of 1,024: through the exact topic; and where some of them come
/// through a wildcard, too, and are to get it once.
#[divan::bench(args = ["exact", "twice"])]
fn topics_deliver_10_000(bencher: Bencher<'_, '_>, how: &str) {
    let limits = TopicLimits {
        subscriptions: 8,
        publications: 8,
        bytes: 1024,
    };
    let mut topics = Topics::new(limits);
    let keys = (0..SUBSCRIBERS as u32).map(|slot| ConnId {
        slot,
        generation: 1,
    });
    for key in keys {
        let _ = topics.subscribe("rooms/7/chat", key);
        if how == "twice" {
            let _ = topics.subscribe("rooms/*/chat", key);
        }
    }
    bencher
        .counter(ItemsCount::new(SUBSCRIBERS))
        .bench_local(|| {
            let _ = topics.publish("rooms/7/chat", black_box(7), 4);
            let mut sum = 0;
            while topics.deliver(1024, &mut |key, n| sum += key.slot + n) == 1024 {}
            sum
        });
}

/// A topic's way to its patterns, one of which is exact and three have wildcards, among 10,000 others.
#[divan::bench]
fn topics_publish(bencher: Bencher<'_, '_>) {
    let limits = TopicLimits {
        subscriptions: 20_000,
        publications: 1,
        bytes: 1024,
    };
    let mut topics = Topics::new(limits);
    for n in 0..5_000 {
        let _ = topics.subscribe(&format!("rooms/{n}/chat"), n);
        let _ = topics.subscribe(&format!("rooms/{n}/**"), n);
    }
    for pattern in ["rooms/*/chat", "**"] {
        let _ = topics.subscribe(pattern, 0);
    }
    bencher.bench_local(|| {
        let accepted = topics.publish(black_box("rooms/77/chat"), 7, 4);
        topics.deliver(8, &mut |_, _| {});
        accepted
    });
}

/// A server for a request, of so many, with 50 requests in flight.
#[divan::bench(
    args = ["round_robin", "random", "least_connections", "two_choices", "latency", "hash"],
    consts = [10, 500]
)]
fn balance_choose<const SERVERS: usize>(bencher: Bencher<'_, '_>, policy: &str) {
    let (load, decay) = (Policy::LOAD, Policy::DECAY);
    let mut balance = Balance::new(match policy {
        "random" => Policy::Random,
        "least_connections" => Policy::LeastConnections,
        "two_choices" => Policy::TwoChoices,
        "latency" => Policy::Latency { decay },
        "hash" => Policy::Hash { load },
        _ => Policy::RoundRobin,
    });
    for n in 0..SERVERS {
        let _ = balance.add(Server::new(&format!("10.0.0.{n}:80"), 1));
    }
    let (mut rng, mut request) = (fastrand::Rng::with_seed(1), 0);
    let mut in_flight = [None; 50];
    bencher.bench_local(|| {
        request += 1;
        let pick = Pick {
            key: Some(request),
            now: Instant::from_micros(request * 20),
            ..Pick::default()
        };
        let chosen = balance.choose(&pick, |ix| black_box([1.0, 1.0])[ix % 2], &mut rng);
        chosen.inspect(|ix| balance.started(*ix));
        let place = &mut in_flight[request as usize % 50];
        if let Some(ended) = std::mem::replace(place, chosen) {
            balance.ended(ended, Some(Duration::from_millis(1)), pick.now);
        }
        chosen
    });
}

/// Our side of a login with SCRAM-SHA-256, of the rounds that servers want: the loop does nothing else meanwhile.
#[cfg(feature = "postgres")]
#[divan::bench]
fn pg_scram_4096(bencher: Bencher<'_, '_>) {
    use loopwright::proto::address::Secret;
    use loopwright::proto::pg::{Limits, Session, Settings};
    let now = Instant::default();
    let message = |kind: u32, text: &str| {
        let len = u32::try_from(text.len() + 8).unwrap_or(0).to_be_bytes();
        [b"R", &len[..], &kind.to_be_bytes(), text.as_bytes()].concat()
    };
    let challenged = || {
        let mut settings = Settings::new("ada");
        settings.password = Some(Secret::new("secret".into()));
        let mut session = Session::new(&settings, Limits::default(), now).ok()?;
        session.sent(session.output().len());
        let greeting = message(10, "SCRAM-SHA-256\0\0");
        session.poll_event(&mut &greeting[..], now).ok()?;
        let first = String::from_utf8_lossy(session.output());
        let nonce = first.split("r=").nth(1)?;
        let challenge = message(11, &format!("r={nonce}x,s=c2FsdHNhbHQ=,i=4096"));
        Some((session, challenge))
    };
    bencher
        .with_inputs(|| challenged().unwrap_or_else(|| unreachable!("a challenge")))
        .bench_local_values(|(mut session, challenge)| {
            let event = session.poll_event(&mut &challenge[..], now);
            assert_eq!(event, Ok(None));
            session
        });
}

/// A query whose statement is prepared, written; an answer of one row, read, and its values, as what is asked for.
#[cfg(feature = "postgres")]
#[divan::bench(args = ["ask", "values", "json"])]
fn pg_query(bencher: Bencher<'_, '_>, what: &str) {
    use loopwright::proto::pg::{Event, Query};
    let now = Instant::default();
    let (mut session, sql) = pg::session(now);
    let mut json = Vec::with_capacity(256);
    bencher.bench_local(|| {
        let asked = session.query(Query::new(sql.clone()).with([black_box(7)]), now);
        let mut answer = black_box(pg::ANSWER);
        json.clear();
        let mut id = asked.ok().and_then(|ticket| i32::try_from(ticket).ok());
        while let Ok(Some(event)) = session.poll_event(&mut answer, now) {
            match event {
                Event::Row(_, row) if what == "values" => {
                    id = row.get::<i32>("id").ok();
                    black_box(row.get::<&str>("name").ok());
                }
                Event::Row(_, row) if what == "json" => drop(row.json(&mut json)),
                _ => {}
            }
        }
        session.sent(session.output().len());
        id
    });
}
