//! The commands and their exit codes.

use super::mistakes::furnish;
use super::support::{Running, Said, loopwright, run};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const CONFIG: &str = "[server]\nlisten = \"${LISTEN:-127.0.0.1:0}\"\n\n[[routes]]\npath = \"/\"\nrespond = { body = \"it runs\" }\n";
const WRONG: &str = "[server]\nlisten = 80\n";

/// A folder with this `loopwright.toml`.
fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    furnish(folder.path());
    fs::write(folder.path().join("loopwright.toml"), config).expect("the config");
    folder
}

fn say(folder: &Path, args: &[&str]) -> Said {
    run(&mut loopwright(folder, args))
}

#[test]
fn version_and_help() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = say(folder.path(), &["--version"]);
    let begin = format!("loopwright {} (cli, config, ", env!("CARGO_PKG_VERSION"));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert!(said.out.starts_with(&begin), "{}", said.out);
    for args in [&["--help"][..], &["-h"], &["help"]] {
        let said = say(folder.path(), args);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{args:?}");
        for command in [
            "run",
            "check",
            "files",
            "proxy",
            "schema",
            "completion",
            "manpage",
        ] {
            let line = format!("\n  {command} ");
            assert!(
                said.out.contains(&line),
                "{args:?}: {command}: {}",
                said.out
            );
        }
    }
    for command in ["run", "check", "files", "proxy"] {
        let said = say(folder.path(), &[command, "--help"]);
        assert_eq!(said.code, Some(0), "{command}: {}", said.err);
        assert!(said.out.contains("Usage: loopwright "), "{}", said.out);
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    let folder = folder(CONFIG);
    for args in [
        &["serve"][..],
        &["--no-such-option"],
        &["check", "site.toml"],
        &["check", "--config"],
        &["files"],
        &["proxy"],
        &["proxy", "--to", "https://example.org"],
        &["proxy", "--to", "localhost:1", "--balance", "hash"],
        &["completion", "cmd.exe"],
        &["completion"],
    ] {
        let said = say(folder.path(), args);
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.err.starts_with("error: "), "{args:?}: {}", said.err);
        assert_eq!(said.out, "", "{args:?}");
    }
}

#[test]
fn check_says_what_it_has_found() {
    let right = folder(CONFIG);
    for args in [
        &["check"][..],
        &["check", "-c", "loopwright.toml"],
        &["check", "--config", "loopwright.toml"],
    ] {
        let said = say(right.path(), args);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out, "loopwright.toml: no mistakes, routes: 1\n");
    }
    let wrong = folder(WRONG);
    let said = say(wrong.path(), &["check"]);
    assert_eq!((said.code, said.out.as_str()), (Some(78), ""));
    assert!(
        said.err.ends_with("\n2 mistakes in loopwright.toml\n"),
        "{}",
        said.err
    );
    assert!(!said.err.contains('\u{1b}'), "colours, and no terminal");
}

#[test]
fn what_cannot_be_read_is_78() {
    let empty = tempfile::tempdir().expect("a folder");
    for command in ["run", "check"] {
        let said = say(empty.path(), &[command, "-c", "site.toml"]);
        assert_eq!(said.code, Some(78), "{said:?}");
        let want = "error: cannot read site.toml: No such file or directory (os error 2)\n\n1 mistake in site.toml\n";
        assert_eq!(said.err, want);
        let said = say(empty.path(), &[command]);
        assert_eq!(said.code, Some(78), "{said:?}");
        assert!(
            said.err.contains("cannot read loopwright.toml: "),
            "{}",
            said.err
        );
        let said = say(empty.path(), &[command, "-c", "."]);
        assert_eq!(said.code, Some(78), "{said:?}");
        assert!(said.err.contains("not a regular file"), "{}", said.err);
    }
    fs::write(
        empty.path().join("latin.toml"),
        b"[server]\n# gr\xfc\xdfe\n",
    )
    .expect("a file");
    let said = say(empty.path(), &["check", "-c", "latin.toml"]);
    assert_eq!(said.code, Some(78));
    assert!(
        said.err
            .contains("cannot read latin.toml: line 2 is not UTF-8"),
        "{}",
        said.err
    );
}

/// Deep nesting must not end the process in another way than with a mistake.
#[test]
fn nesting_has_an_end() {
    let folder = folder(&format!("a = {}", "[".repeat(100_000)));
    let said = say(folder.path(), &["check"]);
    assert_eq!(
        said.code,
        Some(78),
        "{}",
        &said.err[..said.err.len().min(500)]
    );
}

#[test]
fn a_wrong_config_does_not_run() {
    let folder = folder(WRONG);
    for args in [&["run"][..], &["run", "-c", "loopwright.toml"], &[]] {
        let said = say(folder.path(), args);
        assert_eq!(said.code, Some(78), "{args:?}: {said:?}");
        assert!(
            said.err.contains("--> loopwright.toml:2:10"),
            "{}",
            said.err
        );
        assert!(!said.err.contains("listening on"), "{}", said.err);
    }
}

/// Without `SO_REUSEPORT`, as most programs bind.
#[test]
fn a_port_of_another_program_is_1_but_check_opens_none() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let folder = folder(CONFIG);
    for workers in ["1", "2"] {
        let config = CONFIG.replace("[server]", &format!("[server]\nworkers = {workers}"));
        fs::write(folder.path().join("loopwright.toml"), config).expect("the config");
        let said = run(loopwright(folder.path(), &["run"]).env("LISTEN", &address));
        assert_eq!(said.code, Some(1), "{workers} workers: {said:?}");
        assert!(
            said.err.contains(&address),
            "{workers} workers: {}",
            said.err
        );
        let said = run(loopwright(folder.path(), &["check"]).env("LISTEN", &address));
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let said = say(folder.path(), &["files", "public", "--listen", &address]);
    assert_eq!(said.code, Some(1), "{said:?}");
    taken.set_nonblocking(true).expect("non-blocking");
    assert!(taken.accept().is_err(), "somebody has connected");
}

#[test]
fn a_config_in_the_folder_runs_without_a_command() {
    for args in [&[][..], &["run"]] {
        let folder = folder(CONFIG);
        let mut server = Running::start(&mut loopwright(folder.path(), args));
        let url = server.url();
        let page = run(Command::new("curl").args(["-sSm20", &url]));
        assert_eq!(
            (page.code, page.out.as_str()),
            (Some(0), "it runs"),
            "{}",
            page.err
        );
        assert_eq!(server.stop(), Some(0));
    }
}

#[test]
fn a_folder_is_served_without_a_config() {
    let folder = folder(WRONG);
    let args = ["files", "public", "--listen", "127.0.0.1:0"];
    let mut server = Running::start(&mut loopwright(folder.path(), &args));
    let url = server.url();
    let page = run(Command::new("curl").args(["-sSm20", &url]));
    assert_eq!((page.code, page.out.as_str()), (Some(0), "<p>home"));
    assert_eq!(server.stop(), Some(0));
    let said = say(
        folder.path(),
        &["files", "nowhere", "--listen", "127.0.0.1:0"],
    );
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.starts_with("loopwright: cannot serve nowhere: "),
        "{}",
        said.err
    );
}

#[test]
fn servers_are_passed_on_to_without_a_config() {
    let folder = folder(WRONG);
    let start = |args: &[&str]| Running::start(&mut loopwright(folder.path(), args));
    let files = || {
        let mut server = start(&["files", "public", "--listen", "127.0.0.1:0"]);
        (server.url(), server)
    };
    let (first, second) = (files(), files());
    let args = ["proxy", "--to", &first.0, "--to", &second.0];
    let more = ["--balance", "two_choices", "--health", "/index.html"];
    let listen = ["--listen", "127.0.0.1:0"];
    let mut proxy = start(&[&args[..], &more, &listen].concat());
    let url = proxy.url();
    let line = proxy.wait_for("passing requests on to ");
    assert!(
        line.contains(&first.0) && line.contains(&second.0),
        "{line}"
    );
    let ask = || run(Command::new("curl").args(["-sSm20", "-w", "%{http_code}", &url])).out;
    assert_eq!(ask(), "<p>home200");
    // One that is gone is not missed.
    assert_eq!(first.1.stop(), Some(0));
    for _ in 0..10 {
        assert_eq!(ask(), "<p>home200");
    }
    assert_eq!(second.1.stop(), Some(0));
    assert_eq!(ask(), "Bad Gateway502");
    assert_eq!(proxy.stop(), Some(0));
}

/// HUP takes a right config, and leaves a wrong one with a word about it.
#[test]
fn hup_reads_the_config_again() {
    let folder = folder(CONFIG);
    let file = folder.path().join("loopwright.toml");
    let mut server = Running::start(&mut loopwright(folder.path(), &[]));
    let url = server.url();
    let page = || run(Command::new("curl").args(["-sSm20", &url])).out;
    fs::write(&file, CONFIG.replace("it runs", "it runs anew")).expect("the config");
    server.signal("HUP");
    server.wait_for("the config has been read again");
    assert_eq!(page(), "it runs anew");
    fs::write(&file, WRONG).expect("the config");
    server.signal("HUP");
    server.wait_for("the config stays as it was");
    assert!(
        server
            .said
            .iter()
            .any(|line| line.contains("loopwright.toml:2:10"))
    );
    assert_eq!(page(), "it runs anew");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn completions() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        let said = say(folder.path(), &["completion", shell]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{shell}");
        for word in ["loopwright", "check", "config", "completion"] {
            assert!(said.out.contains(word), "{shell}: no {word:?}");
        }
    }
    let script = say(folder.path(), &["completion", "bash"]).out;
    let path = folder.path().join("completion.bash");
    fs::write(&path, script).expect("a file");
    let bash = run(Command::new("bash").arg("-n").arg(&path));
    assert_eq!((bash.code, bash.err.as_str()), (Some(0), ""));
}

#[test]
fn the_man_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = say(folder.path(), &["manpage"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let page = said.out;
    assert!(page.contains("\n.TH loopwright 1 "), "{page}");
    let headings: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix(".SH "))
        .map(|name| name.trim_matches('"'))
        .collect();
    let wanted = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "SIGNALS",
        "EXIT STATUS",
        "FILES",
        "ENVIRONMENT",
        "EXAMPLES",
        "SEE ALSO",
    ];
    assert_eq!(headings, wanted);
    for command in [
        "run",
        "check",
        "files",
        "proxy",
        "schema",
        "completion",
        "manpage",
    ] {
        assert!(page.contains(&format!("\n.SS {command}\n")), "{command}");
        // There are no pages of their own.
        assert!(!page.contains(&format!("{command}(1)")), "{command}");
    }
    for text in [
        "\\-\\-config",
        "\\-\\-listen",
        "\\-\\-listing",
        "HUP",
        "USR1",
        "RUST_LOG",
        "NO_COLOR",
        "loopwright.toml",
    ] {
        assert!(page.contains(text), "no {text}");
    }
    let codes = page.split(".SH ").find(|part| part.starts_with("EXIT"));
    let codes: Vec<_> = codes
        .expect("the section")
        .split(".TP\n")
        .skip(1)
        .filter_map(|code| code.lines().next())
        .collect();
    assert_eq!(codes, ["0", "1", "2", "3", "78"]);
    renders(&folder.path().join("loopwright.1"), &page);
}

/// Without a warning, if this machine can render it.
fn renders(path: &Path, page: &str) {
    fs::write(path, page).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let mut seen = Vec::new();
    for (program, args) in [
        ("man", &["--warnings", "-l", path][..]),
        ("groff", &["-man", "-Tutf8", "-ww", path]),
    ] {
        // There are others of these names, with other options, and stubs.
        let version = Command::new(program).arg("--version").output();
        let is_known = version.is_ok_and(|said| {
            let said = String::from_utf8_lossy(&said.stdout);
            said.starts_with("man 2.") || said.starts_with("GNU groff ")
        });
        if !is_known {
            continue;
        }
        let said = run(Command::new(program).args(args).env("LC_ALL", "C.UTF-8"));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{program}");
        assert!(said.out.contains("RUST_LOG"), "{program}: {}", said.out);
        seen.push(program);
    }
    eprintln!("rendered by {seen:?}");
}

/// Standard output that nobody reads is no reason to panic.
#[test]
fn output_to_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut command = loopwright(folder.path(), &["schema"]);
    let output = command.stdout(Stdio::from(full)).output().expect("it runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("loopwright: No space left"), "{err}");
}
