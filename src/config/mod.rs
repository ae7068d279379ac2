//! Floor 5. `loopwright.toml`: read, checked, and made into a server.
//!
//! ```text
//! text ─► toml, with places ─► Document (decode, kinds, model) ─► Builder and App (site)
//!                    └──────────────┴── mistakes, all of them ──────┴─► Report
//! ```
//! Nothing here opens a port or asks for a name; files are looked at, because a folder that is not
//! there is a mistake, too.

mod checks;
mod connect;
mod databases;
mod decode;
mod kinds;
mod model;
mod pages;
mod proxy;
mod report;
mod site;
mod upstreams;

pub use connect::Verified;
pub use report::Report;

use crate::proto::redis::Url;
use crate::service::access_log::Format;
use crate::service::bus::{BusLimits, RedisSettings};
use crate::{App, Builder};
use decode::{Decode, Reader};
use model::Document;
use report::Mistake;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// A config without a mistake.
///
/// ```
/// use loopwright::config::Config;
/// let config = Config::parse("site.toml", r#"
///     [[routes]]
///     path = "/hello/{name}"
///     redirect = { to = "/greet?who={name}" }
/// "#).unwrap();
/// assert_eq!(config.workers(), 1);
/// let server = config.build().unwrap();
/// ```
#[derive(Clone)]
pub struct Config {
    path: String,
    text: String,
    document: Document,
}

impl Config {
    /// Reads and checks a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// A report of every mistake; or that the file cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Config, Report> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = read_regular(path, LONGEST).map_err(|e| Report::unreadable(&name, e))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            let line = 1 + e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
            Report::unreadable(&name, format!("line {line} is not UTF-8"))
        })?;
        Config::parse(&name, &text)
    }

    /// Checks a text that says it is from the file `path`, which need not be there.
    ///
    /// # Errors
    /// A report of every mistake.
    pub fn parse(path: &str, text: &str) -> Result<Config, Report> {
        let report = |mut mistakes: Vec<Mistake>| {
            mistakes.sort_by_key(|mistake| (mistake.at.start, mistake.at.end));
            Report {
                path: path.to_string(),
                text: Some(text.to_string()),
                mistakes,
            }
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What the rest means is a guess, and so is all but the first error of a line.
            let mistake = |e: &toml::de::Error| syntax(e, text);
            let mut mistakes: Vec<Mistake> = errors.iter().map(mistake).collect();
            mistakes.sort_by_key(|mistake| mistake.at.start);
            mistakes.truncate(report::MOST_SHOWN * 4);
            let line = |mistake: &mut Mistake| {
                let before = text.as_bytes().iter().take(mistake.at.start);
                before.filter(|&&b| b == b'\n').count()
            };
            mistakes.dedup_by_key(line);
            return Err(report(mistakes));
        }
        let variable = |name: &str| std::env::var(name).ok();
        let schema = std::cell::OnceCell::new();
        let home = |key: &str| section_of(schema.get_or_init(Document::schema), key);
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        let mut reader = Reader {
            mistakes: Vec::new(),
            folder,
            variable: &variable,
            home: &home,
        };
        let span = table.span();
        let value = toml::Spanned::new(span, DeValue::Table(table.into_inner()));
        let document = Document::decode(&value, &mut reader).unwrap_or_default();
        let mut mistakes = reader.mistakes;
        mistakes.extend(site::mistakes(&document, &value));
        match mistakes.is_empty() {
            true => Ok(Config {
                path: path.to_string(),
                text: text.to_string(),
                document,
            }),
            false => Err(report(mistakes)),
        }
    }

    /// The server it describes: addresses and bounds, routes and pages. Folders are opened now.
    ///
    /// # Errors
    /// A report, if what was true when it was checked is so no more.
    pub fn build(&self) -> Result<(Builder, App), Report> {
        site::build(&self.document).map_err(|mistakes| Report {
            path: self.path.clone(),
            text: Some(self.text.clone()),
            mistakes,
        })
    }

    /// Processes that are to serve: 1 or more.
    pub fn workers(&self) -> usize {
        self.document.server.workers.count()
    }

    /// The addresses, as written.
    pub fn listen(&self) -> Vec<String> {
        let all = self.document.server.listen.0.iter();
        all.map(|address| address.value.clone()).collect()
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many routes it has.
    pub fn routes(&self) -> usize {
        self.document.routes.len()
    }

    /// How long open requests have when the server is told to stop.
    pub fn drain(&self) -> Duration {
        self.document.timeouts.drain
    }

    /// How publications reach other processes. (Through Redis the App of [`Config::build`] does that; between
    /// workers it is for whoever starts them.)
    pub fn bus(&self) -> BusConfig {
        self.document.bus.config()
    }

    /// What is to be logged.
    pub fn log(&self) -> LogConfig {
        let log = &self.document.log;
        LogConfig {
            level: log.level.value.clone(),
            access: log.access.format(),
            access_file: log.access_file.as_ref().map(|file| file.value.clone()),
            buffer: log.buffer.value.into(),
            flush: log.flush.into(),
        }
    }
}

/// Without what variables and secret files have put in.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("routes", &self.routes())
            .finish_non_exhaustive()
    }
}

/// The longest config, in bytes.
const LONGEST: u64 = 16 << 20;

/// A regular file, up to a size: nothing that could be waited for, and nothing without an end.
fn read_regular(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, ErrorKind, Read};
    // Looked at before it is opened: opening a FIFO would wait for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(most + 1)
        .read_to_end(&mut content)?;
    match content.len() as u64 > most {
        true => Err(Error::new(
            ErrorKind::FileTooLarge,
            format!("it is over {} MiB", most >> 20),
        )),
        false => Ok(content),
    }
}

/// The section `[bus]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BusConfig {
    /// Every process is on its own.
    Off,
    /// From worker to worker.
    Workers(BusLimits),
    /// Through a server.
    Redis(Url, RedisSettings),
}

/// The section `[log]`.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A filter, as `RUST_LOG`.
    pub level: String,
    /// `None`: no access log.
    pub access: Option<Format>,
    /// `None`: standard output.
    pub access_file: Option<PathBuf>,
    /// Bytes of each log that may wait.
    pub buffer: usize,
    /// How long access lines are gathered.
    pub flush: Duration,
}

/// What the parser says, in words for whoever does not know TOML by heart.
fn syntax(error: &toml::de::Error, text: &str) -> Mistake {
    let at = error.span().unwrap_or(0..0);
    let (message, there) = (error.message(), text.get(at.clone()).unwrap_or_default());
    let (title, instead) = match message {
        "duplicate key" => ("a key or section twice", "say it in one place"),
        _ if message.starts_with("string values must be quoted") => match there.trim() {
            "" => ("a key without a value", "write a value; strings in quotes"),
            _ => ("a string without quotes", "put it in quotes: \"…\""),
        },
        _ => (
            "this is not TOML",
            message.trim_end_matches(", expected nothing"),
        ),
    };
    Mistake::new(at, title, instead)
}

/// The section that has a key of this name, for who has written it elsewhere.
fn section_of(schema: &serde_json::Value, key: &str) -> Option<String> {
    let sections = schema["properties"].as_object()?;
    let has = |(_, section): &(&String, &serde_json::Value)| !section["properties"][key].is_null();
    sections.iter().find(has).map(|(name, _)| name.clone())
}

/// The config's JSON Schema (draft 2020-12), made from the types that read it.
///
/// ```
/// let schema = loopwright::config::schema();
/// assert_eq!(schema["properties"]["limits"]["properties"]["head"]["default"], "16KiB");
/// ```
pub fn schema() -> serde_json::Value {
    let mut schema = Document::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "loopwright.toml".into();
    schema
}
