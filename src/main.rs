//! The program: arguments → a config → serve.

#![forbid(unsafe_code)]

mod manpage;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use loopwright::config::{self, Config, Report, Verified};
use loopwright::process::bond::Bond;
use loopwright::process::log::{self as logs, LogSettings};
use loopwright::process::serve::{Source, log_settings, serve};
use loopwright::process::workers;
use loopwright::process::{Signals, exit};
use loopwright::service::files::Files;
use loopwright::service::proxy::Proxy;
use loopwright::service::welcome;
use loopwright::upstream::expect::Expect;
use loopwright::upstream::health::Checks;
use loopwright::{App, Backend, Balance, Builder, HealthSettings, Listen, Server, Upstream};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

const WELCOME_ADDRESS: &str = "127.0.0.1:8080";
const CONFIG: &str = "loopwright.toml";
/// How long the last log lines may take to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// A web server built around one event loop.
///
/// Without a command it runs loopwright.toml, if the current folder has one; else it serves its
/// welcome site on 127.0.0.1:8080.
#[derive(Parser)]
#[command(name = "loopwright", version = version(), arg_required_else_help = false)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a config.
    ///
    /// TERM, INT and QUIT: drain and leave; a second time: leave now. HUP: read the config again.
    /// USR1: open the log files again.
    Run {
        /// The config.
        #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
    },
    /// Read a config and print every mistake in it.
    ///
    /// Opens no port and asks for no name. Exits with 0, or with 78 if there are mistakes.
    Check {
        /// The config.
        #[arg(short, long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Connect to its databases, and have them prepare the statements of its queries. Nothing is executed.
        #[arg(long)]
        connect: bool,
    },
    /// Serve the files of a folder.
    ///
    /// Entity tags, ranges, compressed siblings (.br, .zst, .gz), index.html for folders. Files whose
    /// names begin with a dot are hidden (but for .well-known), and nothing outside the folder is ever
    /// served.
    Files {
        /// The folder.
        dir: PathBuf,
        /// Where to listen: ip:port, [ipv6]:port, localhost:port or unix:/path. Port 0 takes a free one.
        #[arg(long, value_name = "ADDR", default_value = WELCOME_ADDRESS)]
        listen: String,
        /// List folders that have no index.html.
        #[arg(long)]
        listing: bool,
    },
    /// Pass requests on to servers behind.
    ///
    /// What a config can say of a proxy, and of the servers, is in the manual of configs.
    Proxy {
        /// A server: http://host:port, host:port, dns:host:port, srv:_http._tcp.name or unix:/path. Several of them
        /// answer for each other.
        #[arg(long, value_name = "URL", required = true, value_parser = Backend::from_str)]
        to: Vec<Backend>,
        /// How a server is chosen.
        #[arg(long, value_name = "NAME", default_value = "round_robin", value_parser = balance())]
        balance: String,
        /// Ask each server for this path, every 5 seconds; without a good answer it is left out.
        #[arg(long, value_name = "PATH")]
        health: Option<String>,
        /// Where to listen: ip:port, [ipv6]:port, localhost:port or unix:/path. Port 0 takes a free one.
        #[arg(long, value_name = "ADDR", default_value = WELCOME_ADDRESS)]
        listen: String,
    },
    /// Print the config's JSON Schema.
    Schema,
    /// Print completions for a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page.
    Manpage,
}

/// The names that `--balance` takes.
fn balance() -> PossibleValuesParser {
    Balance::NAMED.map(|(name, _)| name).into()
}

/// Why the program could not do what it was asked to.
enum Failure {
    Config(Report),
    Start(io::Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Start(e)
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Failure::Config(report)
    }
}

fn main() -> ExitCode {
    let code = match run(Arguments::parse()) {
        Ok(code) => code,
        Err(Failure::Config(report)) => {
            let is_plain = std::env::var_os("NO_COLOR").is_some();
            match io::stderr().is_terminal() && !is_plain {
                true => eprintln!("{}", report.styled()),
                false => eprintln!("{report}"),
            }
            exit::BAD_CONFIG
        }
        Err(Failure::Start(e)) => {
            eprintln!("loopwright: {e}");
            exit::CANNOT_START
        }
    };
    logs::flush(FLUSH);
    ExitCode::from(code)
}

fn run(arguments: Arguments) -> Result<u8, Failure> {
    let print = |text: &str| io::stdout().write_all(text.as_bytes());
    match arguments.command {
        None if Path::new(CONFIG).exists() => run_config(Path::new(CONFIG)),
        None => serve_plain(
            Server::builder().listen(WELCOME_ADDRESS),
            welcome::site(),
            announce,
        ),
        Some(Command::Run { config }) => run_config(&config),
        Some(Command::Check { config, connect }) => {
            print(&check(&config, connect)?)?;
            Ok(exit::CLEAN)
        }
        Some(Command::Files {
            dir,
            listen,
            listing,
        }) => {
            let mut app = App::new();
            Files::new(dir)?.listing(listing).mount(&mut app, "");
            serve_plain(Server::builder().listen(listen), app, announce)
        }
        Some(Command::Proxy {
            to,
            balance,
            health,
            listen,
        }) => {
            let servers: Vec<String> = to.iter().map(Backend::to_string).collect();
            let mut upstream = Upstream::new(to);
            if let Some(balance) = Balance::named(&balance) {
                upstream = upstream.balance(balance);
            }
            if let Some(path) = health {
                upstream = upstream
                    .check(path, Expect::default())
                    .health(HealthSettings {
                        checks: Some(Checks::default()),
                        ..HealthSettings::default()
                    });
            }
            let mut app = App::new();
            app.upstream("proxy", upstream);
            Proxy::to("proxy").on(&mut app, "/{*rest}");
            let builder = Server::builder().listen(listen);
            serve_plain(builder, app, |addresses| {
                announce(addresses);
                eprintln!("passing requests on to {}", servers.join(", "));
            })
        }
        Some(Command::Schema) => {
            print(&format!("{:#}\n", config::schema()))?;
            Ok(exit::CLEAN)
        }
        Some(Command::Completion { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "loopwright", &mut script);
            io::stdout().write_all(&script)?;
            Ok(exit::CLEAN)
        }
        Some(Command::Manpage) => {
            manpage::write(Arguments::command(), &mut io::stdout())?;
            Ok(exit::CLEAN)
        }
    }
}

/// What there is to say of a config without a mistake.
fn check(path: &Path, connect: bool) -> Result<String, Report> {
    let config = Config::load(path)?;
    let verified = match connect {
        true => config.connect()?,
        false => Vec::new(),
    };
    let routes = config.routes();
    let mut said = format!("{}: no mistakes, routes: {routes}\n", path.display());
    match config.queries() {
        0 => {}
        queries if !connect => {
            said += &format!(
                "queries: {queries}, seen without their databases: --connect asks those\n"
            );
        }
        queries => said += &format!("queries: {queries}\n"),
    }
    for Verified {
        database,
        statements,
        unknown,
    } in verified
    {
        said += &format!("database {database}: takes {statements}\n");
        for path in unknown {
            said += &format!("database {database}: {path}: of a kind that cannot be prepared\n");
        }
    }
    Ok(said)
}

/// What needs no config.
fn serve_plain(
    builder: Builder,
    app: App,
    announce: impl FnOnce(&[Listen]),
) -> Result<u8, Failure> {
    let signals = Signals::register()?;
    logs::init(&LogSettings::default())?;
    Ok(serve(signals, builder, app, Source::Nowhere, announce)?)
}

/// A config: as one process, as the parent of several, or as one of those.
fn run_config(path: &Path) -> Result<u8, Failure> {
    let signals = Signals::register()?;
    let bond = Bond::find(path)?;
    let config = match &bond {
        Some(bond) => bond.config()?,
        None => Config::load(path)?,
    };
    let settings = log_settings(config.log());
    if bond.is_none() && config.workers() > 1 {
        logs::init(&workers::log_settings(settings))?;
        return Ok(workers::run(signals, path, &config, announce)?);
    }
    logs::init(&settings)?;
    let (builder, app) = config.build()?;
    let bus = Box::new(config.bus());
    let source = match bond {
        Some(bond) => Source::Parent(bond, bus),
        None => Source::File(path.to_path_buf(), bus),
    };
    Ok(serve(signals, builder, app, source, announce)?)
}

fn announce(addresses: &[Listen]) {
    for address in addresses {
        // In one piece: the log lines of workers go the same way.
        let line = format!("listening on {}\n", address.url());
        eprint!("{line}");
    }
}

/// The version, and what this build can do.
fn version() -> &'static str {
    const FEATURES: [(&str, bool); 10] = [
        ("cli", cfg!(feature = "cli")),
        ("config", cfg!(feature = "config")),
        ("cookies", cfg!(feature = "cookies")),
        ("deflate", cfg!(feature = "deflate")),
        ("dns", cfg!(feature = "dns")),
        ("files", cfg!(feature = "files")),
        ("json", cfg!(feature = "json")),
        ("postgres", cfg!(feature = "postgres")),
        ("sim", cfg!(feature = "sim")),
        ("sticky", cfg!(feature = "sticky")),
    ];
    let built: Vec<&str> = FEATURES
        .iter()
        .filter(|(_, is_built)| *is_built)
        .map(|(name, _)| *name)
        .collect();
    // Called once, for the life of the process.
    Box::leak(format!("{} ({})", env!("CARGO_PKG_VERSION"), built.join(", ")).into_boxed_str())
}
