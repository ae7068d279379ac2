//! The real binary, in a folder of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longer than anything here takes: past it a test fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a program said, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The binary, with nothing in its environment that would change what it says.
pub(crate) fn loopwright(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loopwright"));
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null());
    command
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Said {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program does not start");
    let out = read_all(child.stdout.take().expect("piped"));
    let err = read_all(child.stderr.take().expect("piped"));
    let code = end(&mut child).code();
    let text = |read: mpsc::Receiver<String>| read.recv_timeout(PATIENCE).expect("its output ends");
    Said {
        code,
        out: text(out),
        err: text(err),
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text)
            .expect("the output is not UTF-8");
        let _ = tell.send(text);
    });
    told
}

/// Waits for a process to end by itself; kills it if it does not.
fn end(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("a process did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server that runs, killed if a test fails before it has stopped it.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Standard error so far.
    pub(crate) said: Vec<String>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program does not start");
        let err = BufReader::new(child.stderr.take().expect("piped"));
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in err.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Running {
            child,
            lines,
            said: Vec::new(),
        }
    }

    /// Waits for a line that contains `what`, and returns it.
    pub(crate) fn wait_for(&mut self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(_) => panic!("it never said {what:?}, but: {:#?}", self.said),
            }
            let last = &self.said[self.said.len() - 1];
            if last.contains(what) {
                return last.clone();
            }
        }
    }

    /// Where it listens, as it says: `http://127.0.0.1:4711`.
    pub(crate) fn url(&mut self) -> String {
        let line = self.wait_for("listening on ");
        let url = line.trim_start_matches("listening on ");
        url.trim_end_matches('/').to_string()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.expect("kill(1)").success(), "kill -s {name} {pid}");
    }

    /// TERM, and the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        end(&mut self.child).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its pid is its own until it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file below this crate.
pub(crate) fn in_crate(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
