//! Floor 5. Asks the databases of a config whether they would take its statements: for `loopwright check --connect`.
//!
//! Nothing is executed: a statement is prepared (`PREPARE … AS`, in a session that can only read), and forgotten with the
//! connection. There is no loop here: a plain socket that blocks, and has a deadline.

use super::databases::{DatabaseSection, QueryAction};
use super::decode::At;
use super::report::{Mistake, Span};
use super::{Config, Report};
use crate::proto::address::Address;
use crate::proto::pg::{DbError, Event, Limits, Query, QueryError, Session, Url};
use crate::service::query::Outline;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a connection, or one statement, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be prepared. PostgreSQL plans others when they are executed.
const PREPARED: [&str; 8] = [
    "select", "with", "values", "table", "insert", "update", "delete", "merge",
];

/// What a database says to the statements of a config: from [`Config::connect`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Its name in the config.
    pub database: String,
    /// How many statements it would take.
    pub statements: usize,
    /// The paths of routes whose statements are of a kind that cannot be prepared.
    pub unknown: Vec<String>,
}

impl Config {
    /// How many routes answer with a query of a database.
    pub fn queries(&self) -> usize {
        self.statements().count()
    }

    fn statements(&self) -> impl Iterator<Item = (&str, &QueryAction)> {
        self.document.routes.iter().filter_map(|route| {
            let action = route.value.query.as_ref()?;
            Some((&route.value.path.value[..], &action.value))
        })
    }

    /// Connects to each database, and has each statement prepared by it. This blocks, for as long as databases take: it is
    /// for a tool, not for a server that runs.
    ///
    /// # Errors
    /// A report of every database that cannot be reached, and of every statement that it does not take.
    ///
    /// ```
    /// use loopwright::config::Config;
    /// let config = Config::parse("site.toml", r#"
    ///     [databases.main]
    ///     url = "postgres://shop@127.0.0.1:1/shop"
    ///     [[routes]]
    ///     path = "/now"
    ///     query = { database = "main", sql = "select now()" }
    /// "#).unwrap();
    /// assert_eq!(config.queries(), 1);
    /// let report = config.connect().unwrap_err();
    /// assert!(report.to_string().contains("cannot be reached"));
    /// ```
    pub fn connect(&self) -> Result<Vec<Verified>, Report> {
        let mut mistakes = Vec::new();
        let mut verified = Vec::new();
        for (name, section) in &self.document.databases.0 {
            match self.verify(&name.value, &section.value, &mut mistakes) {
                Ok(one) => verified.push(one),
                Err(why) => {
                    let title = format!("this database cannot be reached: {why}");
                    let at = section.value.url.span.clone();
                    mistakes.push(Mistake::new(at, title, "from here, now"));
                }
            }
        }
        mistakes.sort_by_key(|mistake| mistake.at.start);
        match mistakes.is_empty() {
            true => Ok(verified),
            false => Err(Report {
                path: self.path.clone(),
                text: Some(self.text.clone()),
                mistakes,
            }),
        }
    }

    fn verify(
        &self,
        name: &str,
        section: &DatabaseSection,
        mistakes: &mut Vec<Mistake>,
    ) -> Result<Verified, String> {
        let mut url = section.full_url().ok_or("its URL is wrong")?;
        let parameters = &mut url.settings.parameters;
        parameters.push(("default_transaction_read_only".into(), "on".into()));
        let mut asking = Asking::connect(&url)?;
        let mut verified = Verified {
            database: name.to_string(),
            statements: 0,
            unknown: Vec::new(),
        };
        let ours = |(_, action): &(&str, &QueryAction)| action.database.value == name;
        for (number, (path, action)) in self.statements().filter(ours).enumerate() {
            let sql = &action.sql.value;
            if !PREPARED.contains(&&Outline::of(sql).verb[..]) {
                verified.unknown.push(path.to_string());
                continue;
            }
            let prepare = format!("PREPARE loopwright_{number} AS ");
            match asking.ask(&format!("{prepare}{sql}"))? {
                Ok(()) => verified.statements += 1,
                Err(error) => {
                    let before = prepare.chars().count();
                    mistakes.push(self.show(&action.sql, &error, before));
                }
            }
        }
        Ok(verified)
    }

    /// An error, where it stands in the config; `before`: so many characters of what was sent are ours.
    fn show(&self, sql: &At<String>, error: &DbError, before: usize) -> Mistake {
        let at = error.position.and_then(|at| {
            let at = usize::try_from(at).ok()?.checked_sub(before + 1)?;
            self.place(sql, at)
        });
        let title = format!("{} ({})", error.message, error.code);
        let instead = error.hint.as_deref().or(error.detail.as_deref());
        let at = at.unwrap_or_else(|| sql.span.clone());
        Mistake::new(at, title, instead.unwrap_or("says PostgreSQL"))
    }

    /// The word at a character of a statement, in the config; `None` if it is not written there as it is (with `\` in it,
    /// or with what a variable has put there).
    fn place(&self, sql: &At<String>, character: usize) -> Option<Span> {
        let written = self.text.get(sql.span.clone())?;
        let start = sql.span.start + written.find(&sql.value)?;
        let rest = sql.value.char_indices().nth(character);
        let (at, _) = rest?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let rest = &sql.value[at..];
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len()).max(1);
        Some(start + at..start + at + length)
    }
}

trait Socket: Read + Write {
    /// The next read or write ends by itself after this.
    fn patience(&self, left: Duration) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn patience(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

impl Socket for UnixStream {
    fn patience(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

/// A connection that is asked one thing after the other.
struct Asking {
    socket: Box<dyn Socket>,
    session: Session,
    received: Vec<u8>,
}

impl Asking {
    fn connect(url: &Url) -> Result<Asking, String> {
        let socket = dial(&url.address).map_err(|e| e.to_string())?;
        // Deadlines are the socket's: the session's clock stands still.
        let now = crate::Instant::default();
        let session = Session::new(&url.settings, Limits::default(), now);
        let mut asking = Asking {
            socket,
            session: session.map_err(|e| e.to_string())?,
            received: Vec::new(),
        };
        asking.until(|event| matches!(event, Event::Ready).then_some(()))?;
        Ok(asking)
    }

    /// Whether the server does what it is asked.
    fn ask(&mut self, sql: &str) -> Result<Result<(), Box<DbError>>, String> {
        let now = crate::Instant::default();
        let asked = self.session.query(Query::new(sql.to_string()), now);
        let ticket = asked.map_err(|e| e.to_string())?;
        let answer = self.until(|event| match event {
            Event::Done(of, _) if of == ticket => Some(Ok(())),
            Event::Failed(of, error) if of == ticket => Some(Err(error)),
            _ => None,
        })?;
        match answer {
            Ok(()) => Ok(Ok(())),
            Err(QueryError::Server(error)) => Ok(Err(error)),
            Err(other) => Err(other.to_string()),
        }
    }

    fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut piece = [0; 16 * 1024];
        loop {
            let mut input = &self.received[..];
            let event = self
                .session
                .poll_event(&mut input, crate::Instant::default());
            self.received = input.to_vec();
            if let Some(event) = event.map_err(|e| e.to_string())? {
                match wanted(event) {
                    Some(found) => return Ok(found),
                    None => continue,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no answer within {PATIENCE:?}"));
            }
            let read = self
                .exchange(left, &mut piece)
                .map_err(|e| match e.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        format!("no answer within {PATIENCE:?}")
                    }
                    _ => e.to_string(),
                })?;
            if read == 0 {
                return Err("the server has ended the connection".into());
            }
            self.received.extend_from_slice(&piece[..read]);
        }
    }

    fn exchange(&mut self, left: Duration, piece: &mut [u8]) -> io::Result<usize> {
        self.socket.patience(left)?;
        let length = self.session.output().len();
        self.socket.write_all(self.session.output())?;
        self.session.sent(length);
        loop {
            match self.socket.read(piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

fn dial(address: &Address) -> io::Result<Box<dyn Socket>> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path)?)),
        Address::Tcp(host, port) => (host.as_str(), *port),
    };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => return Ok(Box::new(socket)),
            Err(e) => last = e,
        }
    }
    Err(last)
}
