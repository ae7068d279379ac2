//! The man page: one for all commands. clap knows them and their options; the rest is told here.

use clap::Command;
use clap_mangen::Man;
use std::io::{self, Write};

/// What clap does not know.
const REST: &str = r#".SH SIGNALS
.TP
TERM, INT, QUIT
Drain and leave: the listeners close, open requests are answered.
What is left after timeouts.drain (30 s) is cut.
The same once more: leave at once.
.TP
HUP
Read the config again.
With a mistake in it all stays as it was, and the log says what is wrong.
.TP
USR1
Open the file of the access log again, after it has been moved away.
.TP
USR2
Nothing yet.
.PP
With several workers, send signals to the parent alone.
It passes them on.
.SH EXIT STATUS
.TP
0
Stopped by a signal, every answer completed; or the command is done.
.TP
1
It could not start: a port taken, a folder missing.
.TP
2
The command line is wrong.
.TP
3
Answers were cut: timeouts.drain passed, or a second signal came.
.TP
78
The config is wrong, or cannot be read.
.SH FILES
.TP
\fIloopwright.toml\fR
The config, in the current folder unless \fB\-c\fR names another.
Paths in it are relative to its own folder.
.SH ENVIRONMENT
.TP
RUST_LOG
What goes to standard error, as log.level in the config, which it overrides:
error, warn, info, debug, trace, off, or a filter such as warn,loopwright=debug.
.TP
NO_COLOR
If set, nothing is written in colours.
.TP
RUST_BACKTRACE
If 1, a panic is logged with a backtrace.
Finding its names takes up to a second of the loop's time: not for production.
.PP
The config may use variables of its own, written ${NAME}.
.SH EXAMPLES
.TP
Serve a folder, to all who can reach this machine:
loopwright files public \-\-listen 0.0.0.0:8080
.TP
Pass requests on to two servers that answer for each other:
loopwright proxy \-\-to localhost:9000 \-\-to localhost:9001 \-\-health /healthz
.TP
Look for mistakes, then have a running server read its config again:
loopwright check && kill \-HUP "$pid"
.SH SEE ALSO
.BR kill (1),
.BR signal (7),
.BR systemd.service (5)
.PP
The keys of the config are in docs/config.md of the sources, and in the schema that
.B loopwright schema
prints.
"#;

/// Writes the page.
pub(crate) fn write(command: Command, out: &mut dyn Write) -> io::Result<()> {
    let mut command = command
        .disable_help_subcommand(true)
        .subcommand_value_name("command")
        // Said once, for all of them.
        .mut_subcommands(|command| command.disable_help_flag(true));
    command.build();
    let mut page = String::from(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n");
    let version = env!("CARGO_PKG_VERSION");
    // By hand: clap_mangen leaves out an empty date, and the version takes its place.
    page += &format!(".TH loopwright 1 \"\" \"loopwright {version}\" \"User Commands\"\n");
    let whole = Man::new(command.clone());
    page += &text(|out| whole.render_name_section(out))?;
    page += &text(|out| whole.render_synopsis_section(out))?;
    page += &text(|out| whole.render_description_section(out))?;
    page += &text(|out| whole.render_options_section(out))?;
    page += ".SH COMMANDS\nEach of them takes \\fB\\-\\-help\\fR, too.\n";
    for command in command.get_subcommands() {
        page += &section(command)?;
    }
    page += REST;
    out.write_all(page.as_bytes())
}

/// One command: how it is called, what it does, its options.
fn section(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone());
    let parts = [
        text(|out| man.render_synopsis_section(out))?,
        text(|out| man.render_description_section(out))?,
        text(|out| man.render_options_section(out))?,
    ];
    let mut section = format!(".SS {}\n", command.get_name());
    for part in parts {
        // The headings would be those of a page of its own.
        let lines = body(&part).trim_end();
        if !lines.is_empty() {
            section += &format!(".PP\n{lines}\n");
        }
    }
    Ok(section)
}

/// A part without its heading, and what stands before it.
fn body(part: &str) -> &str {
    let rest = part.split_once(".SH ").map_or("", |(_, rest)| rest);
    rest.split_once('\n').map_or("", |(_, lines)| lines)
}

/// A part, without the definitions that each of them begins with.
fn text(render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    let mut out = Vec::new();
    render(&mut out)?;
    let text = String::from_utf8(out).map_err(io::Error::other)?;
    Ok(text.find(".SH ").map_or("", |at| &text[at..]).to_string())
}
