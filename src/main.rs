//! Floor 5. The program: arguments → an App → run.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use loopwright::process::log::LogSettings;
use loopwright::process::{self, exit};
use loopwright::service::files::Files;
use loopwright::service::welcome;
use loopwright::{App, Server};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const WELCOME_ADDRESS: &str = "127.0.0.1:8080";
/// How long the last log lines may take to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// A web server built around one event loop.
///
/// Without a command it shows its welcome page on 127.0.0.1:8080.
#[derive(Parser)]
#[command(name = "loopwright", version = version(), arg_required_else_help = false)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the files of a folder.
    ///
    /// GET and HEAD, index.html for directories, media types, last-modified. Files whose names begin
    /// with a dot are hidden (but for .well-known), and nothing outside the folder is ever served.
    Files {
        /// The folder.
        dir: PathBuf,
        /// Where to listen: ip:port, [ipv6]:port, localhost:port or unix:/path. Port 0 takes a free one.
        #[arg(long, value_name = "ADDR", default_value = WELCOME_ADDRESS)]
        listen: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = process::log::init(&LogSettings::default()).and_then(|()| run(arguments));
    let code = match ended {
        Ok(0) => ExitCode::from(exit::CLEAN),
        Ok(cut) => {
            log::warn!("{cut} answers were cut");
            ExitCode::from(exit::CUT)
        }
        Err(e) => {
            eprintln!("loopwright: {e}");
            ExitCode::from(exit::CANNOT_START)
        }
    };
    process::log::flush(FLUSH);
    code
}

/// Serves until told to stop; how many answers were cut then.
fn run(arguments: Arguments) -> io::Result<usize> {
    let (listen, app) = match arguments.command {
        None => (WELCOME_ADDRESS.to_string(), welcome::site()),
        Some(Command::Files { dir, listen }) => {
            let mut app = App::new();
            Files::new(dir)?.mount(&mut app, "");
            (listen, app)
        }
    };
    process::raise_file_limit();
    let mut server = Server::bind(listen, app, ())?;
    process::stop_on_signals(server.handle())?;
    for address in server.addresses() {
        eprintln!("listening on {}", address.url());
    }
    server.run()?;
    Ok(server.cut_connections())
}

/// The version, and what this build can do.
fn version() -> &'static str {
    const FEATURES: [(&str, bool); 4] = [
        ("cli", cfg!(feature = "cli")),
        ("cookies", cfg!(feature = "cookies")),
        ("files", cfg!(feature = "files")),
        ("json", cfg!(feature = "json")),
    ];
    let built: Vec<&str> = FEATURES
        .iter()
        .filter(|(_, is_built)| *is_built)
        .map(|(name, _)| *name)
        .collect();
    // Called once, for the life of the process.
    Box::leak(format!("{} ({})", env!("CARGO_PKG_VERSION"), built.join(", ")).into_boxed_str())
}
