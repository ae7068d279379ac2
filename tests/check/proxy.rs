//! What a config says of a proxy is what the server behind is asked, and what the client is told.

use super::mistakes::furnish;
use super::support::{Running, loopwright, run};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

/// A server that answers each request with its name and the head it was asked with, a connection for each.
fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let mut head = format!("name: {name}\r\n");
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    break;
                }
            }
            let length = head.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\nx-powered-by: tests\r\nserver: behind\r\n\
                 content-length: {length}\r\n\r\n{head}"
            );
            let mut stream = reader.into_inner();
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    address
}

#[test]
fn a_config_reaches_the_servers() {
    let folder = tempfile::tempdir().expect("a folder");
    furnish(folder.path());
    let (one, two) = (echo("one"), echo("two"));
    let config = format!(
        r#"
[server]
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.0/8"]
trusted_fields = "x-forwarded"

[upstreams.plain]
servers = ["{one}"]

[upstreams.hashed]
servers = ["{one}", {{ to = "{two}" }}]
balance = {{ hash = "header:X-User", load = "none" }}

[upstreams.other]
servers = ["{two}"]

[[routes]]
path = "/api/{{*rest}}"
[routes.proxy]
to = "plain"
path = "/v2/{{rest}}"
host = "app.internal:81"
request = {{ set = {{ x-who = "{{client_ip}}" }}, add = {{ x-more = "1" }}, remove = ["cookie"] }}
response = {{ set = {{ x-ours = "{{host}}" }}, remove = ["x-powered-by"] }}
forwarded = "both"
via = "edge-1"
proxy_status = true

[[routes]]
path = "/hashed"
methods = ["GET"]
proxy = "hashed"

[[routes]]
path = "/other"
proxy = {{ to = "other", host = "upstream", forwarded = "none" }}
"#
    );
    fs::write(folder.path().join("loopwright.toml"), config).expect("the config");
    let mut server = Running::start(&mut loopwright(folder.path(), &["run"]));
    let url = server.url();
    let ask = |path: &str, args: &[&str]| {
        let mut curl = Command::new("curl");
        let said = run(curl
            .args(["-sSim20"])
            .args(args)
            .arg(format!("{url}{path}")));
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out.to_lowercase()
    };
    let fields = [
        "x-forwarded-for: 192.0.2.7",
        "cookie: a=b",
        "x-more: 0",
        "x-who: me",
    ];
    let args: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
    let said = ask("/api/a%2Fb?q", &args);
    let (answer, request) = said.split_once("\r\n\r\n").expect("a head");
    for line in [
        "get /v2/a%2fb?q http/1.1",
        "host: app.internal:81",
        "x-who: 192.0.2.7",
        "x-more: 0",
        "x-more: 1",
        "via: 1.1 edge-1",
        "x-forwarded-for: 192.0.2.7, 127.0.0.1",
    ] {
        assert!(
            request.contains(&format!("{line}\r\n")),
            "{line}: {request}"
        );
    }
    assert!(request.contains("\r\nforwarded: "), "{request}");
    assert!(
        !request.contains("cookie") && !request.contains("x-who: me"),
        "{request}"
    );
    let host = url.trim_start_matches("http://");
    for line in [
        format!("x-ours: {host}"),
        "via: 1.1 edge-1".to_string(),
        "server: behind".to_string(),
        "proxy-status: loopwright; received-status=200".to_string(),
    ] {
        assert!(answer.contains(&line), "{line}: {answer}");
    }
    assert!(!answer.contains("x-powered-by"), "{answer}");
    // The same server for the same user, not the same for all.
    let name = |user: usize| {
        let said = ask("/hashed", &["-H", &format!("x-user: {user}")]);
        let name = said.split("name: ").nth(1).and_then(|rest| rest.get(..3));
        name.expect("a name").to_string()
    };
    let users: Vec<String> = (0..16).map(name).collect();
    assert_eq!(users, (0..16).map(name).collect::<Vec<_>>());
    assert_eq!(users.into_iter().collect::<BTreeSet<_>>().len(), 2);
    assert!(ask("/hashed", &["-d", "x"]).starts_with("http/1.1 405 "));
    let said = ask("/other", &[]);
    assert!(said.contains(&format!("host: {two}\r\n")), "{said}");
    assert!(!said.contains("forwarded"), "{said}");
    assert_eq!(server.stop(), Some(0));
}
