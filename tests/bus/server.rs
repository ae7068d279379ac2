//! A Redis for a test: a real one, on a free port, that can be killed, stopped and started again.

use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes: past it a test fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A Redis on a port of its own, killed when it is dropped.
pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
    options: Vec<&'static str>,
}

impl RedisServer {
    pub(crate) fn start(options: &[&'static str]) -> RedisServer {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let options = options.to_vec();
        RedisServer {
            child: RedisServer::spawn(port, &options),
            port,
            options,
        }
    }

    fn spawn(port: u16, options: &[&str]) -> Child {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ]);
        command
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn();
        let child = child.expect("redis-server: apt-get install redis-server");
        eventually("redis listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        child
    }

    pub(crate) fn url(&self) -> String {
        // A name, so that it is resolved.
        format!("redis://localhost:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("its end");
    }

    pub(crate) fn start_again(&mut self) {
        self.child = RedisServer::spawn(self.port, &self.options);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("a living process");
    }

    /// What `redis-cli` prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        let said = command.args(["-p", &self.port.to_string()]).args(arguments);
        String::from_utf8(said.output().expect("redis-cli").stdout).expect("text")
    }

    pub(crate) fn await_subscribed(&self, channels: &str, patterns: usize) {
        eventually("subscribed", || {
            let mut lines: Vec<String> = self
                .ask(&["pubsub", "channels"])
                .lines()
                .map(String::from)
                .collect();
            lines.sort();
            lines.retain(|line| !line.is_empty());
            lines.join(" ") == channels
                && self.ask(&["pubsub", "numpat"]).trim() == patterns.to_string()
        });
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
