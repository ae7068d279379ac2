//! Starts the proxy that is tried, and other programs, and ends them by their ids.

use crate::support::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A program that runs, in a folder of its own.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    child: Child,
    log: Arc<Mutex<String>>,
    #[allow(dead_code)]
    folder: TempDir,
}

impl Running {
    /// Starts it, and waits until it listens: at `address`, or where it says on standard error that it does.
    pub(crate) fn start(
        command: &mut Command,
        folder: TempDir,
        address: Option<SocketAddr>,
    ) -> Running {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child =
            child.unwrap_or_else(|e| panic!("{program}: {e}; scripts/test installs it"));
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("its standard error");
        let into = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = writeln!(into.lock().expect("the log"), "{line}");
            }
        });
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut running = Running {
            address: address.unwrap_or(any),
            child,
            log,
            folder,
        };
        let start = Instant::now();
        loop {
            if let Some(said) = running.log().split("listening on http://").nth(1) {
                let said = said.lines().next().unwrap_or_default();
                running.address = said.parse().expect("an address");
            }
            if running.address.port() != 0 && TcpStream::connect(running.address).is_ok() {
                return running;
            }
            let ended = running.child.try_wait().expect("a child");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{program} does not listen: {ended:?}\n{}",
                running.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Bytes of memory that are its own, those of its children included.
    pub(crate) fn memory(&self) -> usize {
        let own = |id: &str| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
            let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<usize>().ok());
            kilobytes.unwrap_or(0) << 10
        };
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        own(&id.to_string()) + children.split_whitespace().map(own).sum::<usize>()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("a living process");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In order, so that it ends its own children.
        self.signal(Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

pub(crate) fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    // nginx's workers are somebody else.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    folder
}

/// To be told soon of what does not come.
pub(crate) const IMPATIENT: &str =
    "timeouts = { connect = \"500ms\", first_byte = \"1s\", read = \"1s\" }\n";

/// A config of one route to these servers, with `more` lines about them.
pub(crate) fn config(servers: &[SocketAddr], more: &str) -> String {
    let urls: Vec<String> = servers.iter().map(|a| format!("http://{a}")).collect();
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\
         [limits]\nbody = \"64MiB\"\n[timeouts]\ndrain = \"2s\"\ndrain_idle = \"100ms\"\n\
         [upstreams.up]\nservers = {urls:?}\n{more}\n\
         [[routes]]\npath = \"/{{*rest}}\"\nproxy = {{ to = \"up\", host = \"keep\" }}\n"
    )
}

/// The proxy, with this config; or what stands in for it.
pub(crate) fn proxy(config: &str) -> Running {
    let folder = folder();
    let path = folder.path().join("proxy.toml");
    fs::write(&path, config).expect("the config");
    match std::env::var("LOOPWRIGHT_STAND_IN").as_deref() {
        Err(_) => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_loopwright"));
            Running::start(command.arg("run").arg("-c").arg(path), folder, None)
        }
        Ok("nginx") => {
            let (lines, address) = (servers_of(config), free_address());
            let read = if config.contains(IMPATIENT) {
                "1s"
            } else {
                "20s"
            };
            let servers: String = lines
                .map(|at| format!("server {at} max_fails=0;"))
                .collect();
            nginx(
                folder,
                address,
                &format!(
                    "upstream up {{ {servers} keepalive 16; }}\n\
                     map $http_upgrade $up {{ default upgrade; '' ''; }}\n\
                     server {{ listen {address}; client_max_body_size 0; proxy_request_buffering off;\n\
                     location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Host $http_host;\n\
                     proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $up;\n\
                     proxy_connect_timeout 500ms; proxy_read_timeout {read}; }} }}"
                ),
            )
        }
        Ok("haproxy") => {
            let address = free_address();
            let servers: String = servers_of(config)
                .enumerate()
                .map(|(i, at)| format!("    server s{i} {at}\n"))
                .collect();
            let text = format!(
                "global\n    nbthread 1\ndefaults\n    mode http\n    timeout client 20s\n    \
                 timeout connect 500ms\n    timeout server 1s\n    retries 1\n    option redispatch\n\
                 listen up\n    bind {address}\n{servers}"
            );
            let path = folder.path().join("haproxy.cfg");
            fs::write(&path, text).expect("the config");
            let mut command = Command::new("haproxy");
            Running::start(command.arg("-f").arg(path), folder, Some(address))
        }
        Ok(other) => panic!("LOOPWRIGHT_STAND_IN={other}: nginx or haproxy"),
    }
}

fn servers_of(config: &str) -> impl Iterator<Item = String> {
    let urls = config.split("\"http://").skip(1);
    urls.map(|rest| rest.split('"').next().unwrap_or_default().to_string())
}

/// nginx with this in its `http` block.
pub(crate) fn nginx(folder: TempDir, address: SocketAddr, http: &str) -> Running {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {};\n", path(name)))
        .collect();
    let text = format!(
        "worker_processes 1; daemon off; pid {}; error_log {} error;\nevents {{}}\n\
         http {{ access_log off;\n{paths}{http}\n}}\n",
        path("pid"),
        path("log")
    );
    let config = path("nginx.conf");
    fs::write(&config, text).expect("the config");
    let mut command = Command::new(nginx_program());
    command.args(["-c", &config, "-e", &path("log")]);
    Running::start(&mut command, folder, Some(address))
}

/// It is not in everybody's path.
fn nginx_program() -> &'static str {
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx"]
        .into_iter()
        .find(|program| Path::new(program).exists())
        .unwrap_or("nginx")
}

/// Tries every row, four at a time, each with its own proxy and upstream. All that is wrong is told at once.
pub(crate) fn try_rows<R: Sync>(rows: &[R], try_row: impl Fn(&R) -> Result<(), String> + Sync) {
    let quarter = rows.len().div_ceil(4).max(1);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let try_row = &try_row;
        let threads: Vec<_> = rows
            .chunks(quarter)
            .map(|part| {
                scope.spawn(move || {
                    let tried = part.iter().map(try_row);
                    tried.filter_map(Result::err).collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a row panicked"))
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}
