//! Servers to test against, and what the tests read and run.

use loopwright::{App, Builder, Handle, Listen, Server, Timeouts};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything here takes: past it a test fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a thread of its own, stopped and looked over when it is dropped.
pub(crate) struct TestServer<S: 'static = ()> {
    pub(crate) addresses: Vec<Listen>,
    pub(crate) handle: Handle<S>,
    thread: Option<JoinHandle<Left>>,
}

/// What a server has left after its last turn.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) cut: usize,
    pub(crate) connections: usize,
    pub(crate) open_exchanges: usize,
}

/// Serves `make`'s App on a free port of 127.0.0.1.
pub(crate) fn serve(make: impl FnOnce() -> App + Send + 'static) -> TestServer {
    serve_with(local(), move || (make(), ()))
}

/// A free port of 127.0.0.1, and stops that wait for nobody long.
pub(crate) fn local() -> Builder {
    Server::builder().listen("127.0.0.1:0").timeouts(timeouts())
}

pub(crate) fn timeouts() -> Timeouts {
    Timeouts {
        drain: Duration::from_secs(5),
        drain_idle: Duration::from_millis(100),
        ..Timeouts::default()
    }
}

/// Serves an App with a state. Both are made on the server's thread: they cannot leave it.
pub(crate) fn serve_with<S: 'static>(
    builder: Builder,
    make: impl FnOnce() -> (App<S>, S) + Send + 'static,
) -> TestServer<S> {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (app, state) = make();
        let mut server = builder.build(app, state).expect("the server cannot start");
        let _ = tell.send((server.addresses(), server.handle()));
        server.run().expect("the loop failed");
        Left {
            cut: server.cut_connections(),
            connections: server.connections(),
            open_exchanges: server.open_exchanges(),
        }
    });
    let (addresses, handle) = told.recv().expect("the server did not start");
    TestServer {
        addresses,
        handle,
        thread: Some(thread),
    }
}

impl<S: 'static> TestServer<S> {
    pub(crate) fn tcp(&self) -> SocketAddr {
        match self.addresses[0] {
            Listen::Tcp(address) => address,
            Listen::Unix(_) => panic!("the first listener is no TCP one"),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.tcp().port()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.addresses[0].url())
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.tcp())
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    /// Waits for the loop to end by itself.
    pub(crate) fn join(mut self) -> Left {
        let thread = self.thread.take().expect("joined once");
        thread.join().expect("the loop panicked")
    }

    pub(crate) fn stop(self) -> Left {
        self.handle.stop();
        self.join()
    }
}

impl<S: 'static> Drop for TestServer<S> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.handle.stop();
        let left = thread.join();
        // A test that fails anyway is to say why itself.
        if !std::thread::panicking() {
            let left = left.expect("the loop panicked");
            assert_eq!(
                (left.cut, left.connections, left.open_exchanges),
                (0, 0, 0),
                "cut connections, connections and exchanges left"
            );
        }
    }
}

/// One answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A head, without the empty line that ends it.
    pub(crate) fn parse_head(head: &str) -> Answer {
        let mut lines = head.lines();
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let field = |line: &str| match line.split_once(':') {
            Some((name, value)) => (name.to_ascii_lowercase(), value.trim().to_string()),
            None => panic!("not a field line: {line:?}"),
        };
        Answer {
            status,
            fields: lines.map(field).collect(),
            body: Vec::new(),
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is not UTF-8")
    }

    /// What most tests compare.
    pub(crate) fn essence(&self) -> (u16, &str) {
        (self.status, self.text())
    }

    pub(crate) fn closes(&self) -> bool {
        self.field("connection") == Some("close")
    }
}

/// A bare connection, which takes answers only if they are framed to the letter.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        Client::new(TcpStream::connect(address).expect("cannot connect"))
    }

    pub(crate) fn new(stream: TcpStream) -> Client {
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("set_read_timeout");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("set_write_timeout");
        Client {
            stream: BufReader::new(stream),
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let mut socket = self.socket();
        socket.write_all(bytes.as_ref()).expect("cannot send");
    }

    pub(crate) fn close_sending(&mut self) {
        let how = std::net::Shutdown::Write;
        self.socket().shutdown(how).expect("cannot shut down");
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        self.answer()
    }

    /// What one `read` returns.
    pub(crate) fn read_once(&mut self) -> String {
        let mut bytes = vec![0; 64 * 1024];
        let n = self.stream.read(&mut bytes).expect("cannot read");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    pub(crate) fn head(&mut self) -> Answer {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            let n = self.stream.read_line(&mut line).expect("cannot read");
            assert!(line.ends_with("\r\n"), "the head ends in {line:?} ({n})");
            if line == "\r\n" {
                return Answer::parse_head(&head);
            }
            head.push_str(&line);
        }
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let has_none = answer.status / 100 == 1 || matches!(answer.status, 204 | 304);
        if answer.field("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut answer)
                .expect("the body ends too early");
        } else if let Some(length) = answer.field("content-length") {
            assert!(!has_none, "{} with content-length", answer.status);
            answer.body = vec![0; length.parse().expect("content-length")];
            self.stream
                .read_exact(&mut answer.body)
                .expect("the body ends too early");
        } else if !has_none {
            assert!(
                answer.closes(),
                "only the end of the connection can end this"
            );
            self.stream
                .read_to_end(&mut answer.body)
                .expect("cannot read");
        }
        answer
    }

    /// A chunked body; its trailers are added to the fields.
    pub(crate) fn read_chunks(&mut self, answer: &mut Answer) -> std::io::Result<()> {
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).expect("chunk size");
            if size == 0 {
                break;
            }
            let start = answer.body.len();
            answer.body.resize(start + size, 0);
            self.stream.read_exact(&mut answer.body[start..])?;
            assert_eq!(self.line()?, "", "after a chunk");
        }
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                assert_eq!(line, "", "after the trailers");
                return Ok(());
            };
            answer
                .fields
                .push((name.to_string(), value.trim().to_string()));
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_string()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The server has closed its side, and has sent nothing before.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream
            .read_to_end(&mut rest)
            .expect("want an orderly end");
        assert_eq!(String::from_utf8_lossy(&rest), "", "before the end");
    }
}

/// Runs a client that has to be installed.
pub(crate) fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(e) if e.kind() == ErrorKind::NotFound => panic!(
            "{:?} is missing: apt-get install curl nodejs python3",
            command.get_program()
        ),
        Err(e) => panic!("{command:?}: {e}"),
    }
}

/// Runs one case of a script in this folder; the script says which one it has run to its end.
pub(crate) fn run_case(program: &str, script: &str, case: &str, target: &[&str]) {
    run_script(&[program], &format!("clients/{script}"), case, target);
}

/// The same for a script below `tests`, by a program with arguments of its own.
pub(crate) fn run_script(program: &[&str], script: &str, case: &str, target: &[&str]) {
    let script = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(script).arg(case);
    let output = run(command.args(target));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim_end() == format!("ok {case}"),
        "{program:?} {case}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until `is_so`, and says how long that took.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Waits until `value` has stood still for a while, and returns it.
pub(crate) fn settled(mut value: impl FnMut() -> usize) -> usize {
    let (start, mut last, mut since) = (Instant::now(), value(), Instant::now());
    while since.elapsed() < Duration::from_millis(300) {
        assert!(start.elapsed() < PATIENCE, "it never stands still");
        std::thread::sleep(Duration::from_millis(10));
        let now = value();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}
