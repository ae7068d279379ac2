//! What is refused is logged with the limit, the size seen and the setting that would allow more: it is all
//! an operator sees of it. The real server, on small limits.

use log::{LevelFilter, Log, Metadata, Record};
use loopwright::{App, Limits, Listen, Server, Timeouts};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collect;

impl Log for Collect {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What an operator sees without asking for more.
        metadata.level() <= log::Level::Info
    }
    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES
                .lock()
                .expect("the lines")
                .push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

/// Waits for a line that has all of these parts.
fn logged(parts: &[&str]) {
    let start = Instant::now();
    loop {
        let lines = LINES.lock().expect("the lines").clone();
        if lines
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)))
        {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "never logged: {parts:?} in {lines:#?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn app() -> App {
    let mut app = App::new();
    app.post("/", |_, req, res| res.text(req.body().len().to_string()));
    app.post("/small", |_, _, res| res.text("")).body_limit(10);
    app.get("/big", |_, _, res| res.bytes(vec![b'x'; 8 << 20]));
    app.get("/flood", |_, _, res| {
        let body = res.stream();
        for _ in 0..9000 {
            body.write(vec![b'x'; 1024]);
        }
    });
    app
}

fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // It may be refused before all of it is sent.
    let _ = stream.write_all(bytes);
    stream
}

fn status(stream: &mut TcpStream) -> String {
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[test]
fn each_refusal_names_limit_size_and_setting() {
    log::set_logger(&Collect).expect("no other logger");
    log::set_max_level(LevelFilter::Info);
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let limits = Limits {
            head: 1024,
            target: 100,
            fields: 8,
            body: 1000,
            output: 4 << 20,
            ..Limits::default()
        };
        let timeouts = Timeouts {
            head: Duration::from_millis(300),
            body: Duration::from_millis(400),
            body_rate: 1000,
            body_grace: Duration::from_millis(200),
            write: Duration::from_millis(500),
            drain_idle: Duration::from_millis(50),
            ..Timeouts::default()
        };
        let builder = Server::builder()
            .listen("127.0.0.1:0")
            .limits(limits)
            .timeouts(timeouts);
        let mut server = builder.build(app(), ()).expect("a server");
        let Listen::Tcp(address) = server.addresses().remove(0) else {
            unreachable!("bound to TCP")
        };
        tell.send((address, server.handle()))
            .expect("somebody waits");
        server.run().expect("the loop");
    });
    let (address, handle) = told.recv().expect("a server");

    let long_target = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(120));
    let long_head = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(2000)
    );
    let many_fields = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(9));
    for (request, want, parts) in [
        (
            long_target.as_str(),
            "414",
            &["limits.target = 100", "target of 121 bytes"][..],
        ),
        (&long_head, "431", &["limits.head = 1024", "head of 20"]),
        (&many_fields, "431", &["limits.fields = 8"]),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n",
            "413",
            &["body of 1001 bytes", "limits.body", "= 1000"],
        ),
        (
            "POST /small HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n",
            "413",
            &["body of 11 bytes", "limits.body", "= 10"],
        ),
        ("GET / HTTP/1.1\r\nho", "408", &["timeouts.head = 300ms"]),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n",
            "408",
            &["timeouts.body_rate = 1000 a second", "0 bytes in"],
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\n x: 1\r\n\r\n",
            "400",
            &["malformed request: "],
        ),
        // A browser told https:// where it is http://.
        ("\u{16}\u{3}\u{1}\u{2}", "400", &["malformed request: TLS"]),
    ] {
        let mut stream = send(address, request.as_bytes());
        assert_eq!(status(&mut stream), want, "{request:?}");
        logged(&[parts, &["refused with ", want]].concat());
    }
    // One that is fast enough, and then pauses.
    let mut stream = send(
        address,
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n",
    );
    let _ = stream.write_all(&[b'x'; 900]);
    assert_eq!(status(&mut stream), "408");
    logged(&["timeouts.body = 400ms", "refused with 408"]);
    // Clients that take nothing, and a producer that does not wait for them.
    let _idle = send(address, b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n");
    logged(&["timeouts.write = 500ms", "bytes that wait"]);
    let _idle = send(address, b"GET /flood HTTP/1.1\r\nhost: a\r\n\r\n");
    logged(&["limits.output = 4194304", "bytes wait for a client"]);
    handle.stop();
    thread.join().expect("the server");
}
