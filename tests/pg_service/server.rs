//! A PostgreSQL of a test's own, on a port and in a folder of its own; and a loop that asks it.

use crate::installed::{programs, unprivileged};
use loopwright::service::pg::{Pg, Postgres, Rows};
use loopwright::{App, Ctx, Handle, Listen, Server};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything here takes: past it a test fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) struct Cluster {
    child: Option<Child>,
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    options: Vec<String>,
}

const ACCESS: &str = "\
local all all trust
host all scram,odd 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
";

impl Cluster {
    /// The one that most tests share.
    pub(crate) fn shared() -> Arc<Cluster> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Cluster::start(&["max_connections=200"]));
            cluster.psql("create role scram login password 's3cret'");
            cluster.psql("create role odd login password 'p%41#/w:@ \u{e9}'");
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    pub(crate) fn start(options: &[&str]) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some((user, group)) = unprivileged() {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).expect("a folder");
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut cluster = Cluster {
            child: None,
            folder,
            port: free.expect("a port").port(),
            options: options.iter().map(|option| option.to_string()).collect(),
        };
        let mut init = cluster.command("initdb");
        init.args([
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        let init = init.output().expect("initdb");
        assert!(init.status.success(), "{init:?}");
        let access = cluster.folder.path().join("data/pg_hba.conf");
        std::fs::write(access, ACCESS).expect("a file");
        cluster.start_again();
        cluster
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(programs().join(name));
        command.arg("-D").arg(self.folder.path().join("data"));
        command.stdin(Stdio::null()).current_dir(self.folder.path());
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        command
    }

    pub(crate) fn start_again(&mut self) {
        let mut server = self.command("postgres");
        server.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        server.args(["-p", &self.port.to_string()]);
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        server.arg("-c").arg(sockets);
        for option in &self.options {
            server.arg("-c").arg(option);
        }
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        let child = server
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("postgres"));
        eventually("PostgreSQL takes connections", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && self.try_psql("select 1").is_ok()
        });
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // At once, but with its children.
            let _ = kill_process(Pid::from_child(&child), Signal::INT);
            let _ = child.wait();
        }
    }

    fn try_psql(&self, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(programs().join("psql"));
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
        ]);
        psql.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-c",
            sql,
            "postgres",
        ]);
        let done = psql.stdin(Stdio::null()).output().expect("psql");
        match done.status.success() {
            true => Ok(String::from_utf8_lossy(&done.stdout).trim().to_string()),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    /// What another client says.
    pub(crate) fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// How to reach it, as an application of this name.
    pub(crate) fn settings(&self, name: &str) -> Postgres {
        let url = format!(
            "postgres://postgres@127.0.0.1:{}/postgres?application_name={name}",
            self.port
        );
        Postgres::new(&url).expect("a URL")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A server of ours, on a thread of its own, with the database `main`.
pub(crate) struct Loop {
    pub(crate) handle: Handle<()>,
    pub(crate) address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// An answer that can leave its thread: rows as JSON, errors as their status and text.
pub(crate) type Said = Result<String, (u16, String)>;

pub(crate) fn said(rows: Result<Rows, loopwright::service::pg::PgError>) -> Said {
    let rows = rows.map_err(|error| (error.status(), error.to_string()))?;
    let mut out = Vec::new();
    rows.json(&mut out).expect("JSON");
    Ok(String::from_utf8(out).expect("UTF-8"))
}

impl Loop {
    pub(crate) fn start(settings: Postgres) -> Loop {
        Loop::with(settings, |_| {})
    }

    pub(crate) fn with(settings: Postgres, routes: impl FnOnce(&mut App) + Send + 'static) -> Loop {
        let _ = env_logger::builder().is_test(true).try_init();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let mut app = App::new();
            app.postgres("main", settings);
            routes(&mut app);
            let mut server = Server::bind("127.0.0.1:0", app, ()).expect("a server");
            let address = match server.addresses().pop() {
                Some(Listen::Tcp(address)) => address,
                other => panic!("{other:?}"),
            };
            tell.send((server.handle(), address)).expect("told");
            server.run().expect("served");
        });
        let (handle, address) = told.recv().expect("a server");
        let thread = Some(thread);
        Loop {
            handle,
            address,
            thread,
        }
    }

    /// Calls `f` on the loop; what it sends comes out here.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Ctx<'_>, Sender<T>) + Send + 'static,
    ) -> Receiver<T> {
        let (tell, told) = channel();
        let posted = self.handle.post(move |cx| f(cx, tell));
        posted.expect("posted");
        told
    }

    pub(crate) fn ask(&self, sql: &str) -> Said {
        self.ask_with(sql, |pg| pg)
    }

    pub(crate) fn ask_with(
        &self,
        sql: &str,
        with: impl for<'a, 'c> FnOnce(Pg<'a, 'c>) -> Pg<'a, 'c> + Send + 'static,
    ) -> Said {
        let sql = sql.to_string();
        let told = self.call(move |cx, tell| {
            with(cx.pg("main")).query(sql, (), move |_, rows| tell.send(said(rows)).expect("told"));
        });
        told.recv_timeout(PATIENCE).expect("an answer")
    }

    pub(crate) fn status(&self) -> loopwright::service::pg::PgStatus {
        let told = self.call(|cx, tell| tell.send(cx.pg("main").status()).expect("told"));
        told.recv_timeout(PATIENCE)
            .expect("an answer")
            .expect("a database")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().expect("a loop without a panic");
        }
    }
}
