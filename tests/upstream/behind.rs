//! The proxy in front of servers that people use: nginx, Node's http, Python's http.server.

use crate::message::bytes;
use crate::raw::Raw;
use crate::under_test::{Running, config, folder, free_address, nginx, proxy};
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use tempfile::TempDir;

const LARGE: usize = 1 << 20;

/// A folder with what each of them serves.
fn site() -> TempDir {
    let folder = folder();
    fs::write(folder.path().join("index.html"), "hello").expect("a file");
    fs::write(folder.path().join("large"), large()).expect("a file");
    folder
}

fn large() -> String {
    "0123456789abcdef".repeat(LARGE / 16)
}

/// Asks on one connection, or on another where it ends, and wants these statuses and bodies.
fn ask(server: SocketAddr, rows: &[(&str, u16, Option<&str>)]) {
    let proxy = proxy(&config(&[server], ""));
    let mut raw = Raw::connect(proxy.address);
    for (row, status, body) in rows.iter().cycle().take(2 * rows.len()) {
        let to_head = row.starts_with("HEAD ");
        raw.send(&bytes(row));
        let answer = raw.answer(to_head).or_else(|_| {
            raw = Raw::connect(proxy.address);
            raw.send(&bytes(row));
            raw.answer(to_head)
        });
        let answer = answer.unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!(answer.status(), *status, "{row}: {:?}", answer.first);
        if let Some(body) = body {
            assert!(answer.body == **body, "{row}: {:.99}", answer.body);
        }
    }
}

#[test]
fn nginx_behind_it() {
    let (site, address, large) = (site(), free_address(), large());
    let root = site.path().display().to_string();
    let server = nginx(
        site,
        address,
        &format!(
            "server {{ listen {address}; root {root}; index index.html; if_modified_since before; }}"
        ),
    );
    ask(
        server.address,
        &[
            ("GET / HTTP/1.1|host: a||", 200, Some("hello")),
            ("HEAD / HTTP/1.1|host: a||", 200, Some("")),
            ("GET /large HTTP/1.1|host: a||", 200, Some(&large)),
            (
                "GET /large HTTP/1.1|host: a|range: bytes=16-19||",
                206,
                Some("0123"),
            ),
            (
                "GET /large HTTP/1.1|host: a|if-modified-since: Fri, 01 Jan 2100 00:00:00 GMT||",
                304,
                Some(""),
            ),
            ("GET /nowhere HTTP/1.1|host: a||", 404, None),
            ("POST / HTTP/1.1|host: a|content-length: 3||abc", 405, None),
            (
                "POST / HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0||",
                405,
                None,
            ),
        ],
    );
}

#[test]
fn node_behind_it() {
    let (address, large) = (free_address(), large());
    let mut command = Command::new("node");
    command.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/upstream/server.mjs"
    ));
    command.arg(address.port().to_string());
    let server = Running::start(&mut command, folder(), Some(address));
    ask(
        server.address,
        &[
            ("GET / HTTP/1.1|host: a||", 200, Some("hello")),
            ("HEAD /large HTTP/1.1|host: a||", 200, Some("")),
            ("GET /large HTTP/1.1|host: a||", 200, Some(&large)),
            ("GET /chunks HTTP/1.1|host: a||", 200, Some("ab")),
            (
                "POST /echo HTTP/1.1|host: a|content-length: 3||abc",
                200,
                Some("abc"),
            ),
            (
                "POST /echo HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0||",
                200,
                Some("abc"),
            ),
            ("GET /nowhere HTTP/1.1|host: a||", 404, Some("nowhere")),
        ],
    );
}

/// HTTP/1.0: the end of a connection is the end of an answer without a length.
#[test]
fn python_behind_it() {
    let (site, address, large) = (site(), free_address(), large());
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1"]);
    command
        .arg(address.port().to_string())
        .current_dir(site.path());
    let server = Running::start(&mut command, site, Some(address));
    ask(
        server.address,
        &[
            ("GET / HTTP/1.1|host: a||", 200, Some("hello")),
            ("HEAD / HTTP/1.1|host: a||", 200, Some("")),
            ("GET /large HTTP/1.1|host: a||", 200, Some(&large)),
            ("GET /nowhere HTTP/1.1|host: a||", 404, None),
            ("POST / HTTP/1.1|host: a|content-length: 3||abc", 501, None),
        ],
    );
}
