//! Which host is meant: RFC 9110 §7.2, RFC 9112 §3.2 and §3.3.

use crate::support::{Case, check, check_one, run};

pub(crate) const COUNT: usize = HOSTS.len();

const HOSTS: &[Case] = &[
    ("host: a||", "200 > GET /"),
    ("HOST: a||", "200 > GET /"),
    ("host:a||", "200 > GET /"),
    ("host: \t a \t ||", "200 > GET /"),
    ("host:||", "200 > GET /"),
    ("host: a:80||", "200 > GET /"),
    ("host: a:||", "200 > GET /"),
    ("host: a.||", "200 > GET /"),
    ("host: A.EXAMPLE||", "200 > GET /"),
    ("host: a_b||", "200 > GET /"),
    ("host: a%41||", "200 > GET /"),
    ("host: 127.0.0.1:8080||", "200 > GET /"),
    ("host: [::1]||", "200 > GET /"),
    ("host: [::1]:80||", "200 > GET /"),
    ("host: [::ffff:127.0.0.1]||", "200 > GET /"),
    ("|", "400x"),
    ("x-host: a||", "400x"),
    ("host: a|host: a||", "400x"),
    ("host: a|host: b||", "400x"),
    ("host: a|x: y|HOST: a||", "400x"),
    ("host:|host: a||", "400x"),
    ("host : a||", "400x"),
    ("host: a, b||", "400x"),
    ("host: a,a||", "400x"),
    ("host: a b||", "400x"),
    ("host: a\tb||", "400x"),
    ("host: u@a||", "400x"),
    ("host: u:p@a||", "400x"),
    ("host: @a||", "400x"),
    ("host: a:x||", "400x"),
    ("host: a:80x||", "400x"),
    ("host: a:+80||", "400x"),
    ("host: a: 80||", "400x"),
    ("host: a :80||", "400x"),
    ("host: a:65536||", "400x"),
    ("host: a:99999999999999999999||", "400x"),
    ("host: a:80:80||", "400x"),
    ("host: :80||", "400x"),
    ("host: :||", "400x"),
    ("host: [::1||", "400x"),
    ("host: ::1||", "400x"),
    ("host: []||", "400x"),
    ("host: [::1]x||", "400x"),
    ("host: [::1]80||", "400x"),
    ("host: [a]||", "400x"),
    ("host: [v7.x]||", "400x"),
    ("host: [::1%25lo]||", "400x"),
    ("host: [::1]:x||", "400x"),
    ("host: a/||", "400x"),
    ("host: a/b||", "400x"),
    ("host: a?b||", "400x"),
    ("host: a#b||", "400x"),
    ("host: a\\b||", "400x"),
    ("host: http://a||", "400x"),
    ("host: <a>||", "400x"),
    ("host: a\"||", "400x"),
    ("host: a%||", "400x"),
    ("host: a%zz||", "400x"),
    ("host: \u{e9}||", "400x"),
    ("host: a\0||", "400x"),
];

/// One Host, and what is in it is a host and perhaps a port.
#[test]
fn hosts() {
    check("GET / HTTP/1.1|", HOSTS);
}

/// HTTP/1.0 knows no Host: it may be missing, but not wrong.
#[test]
fn hosts_of_http_1_0() {
    check(
        "GET / HTTP/1.0|",
        &[
            ("|", "200x > GET /"),
            ("host: a||", "200x > GET /"),
            ("host: a|host: a||", "400x"),
            ("host: a b||", "400x"),
        ],
    );
    check_one("GET http://b/ HTTP/1.0||", "200x > GET /");
}

/// RFC 9112 §3.2.2: the target's host counts; Host has to be there all the same, and right.
#[test]
fn the_target_names_the_host() {
    for (request, host) in [
        ("GET http://b:81/host HTTP/1.1|host: a||", "b:81"),
        ("GET http://B/host HTTP/1.1|host:||", "B"),
        ("GET /host HTTP/1.1|host: a:80||", "a:80"),
        ("GET /host HTTP/1.1|host:||", ""),
        ("GET http://b/host HTTP/1.2|host: a||", "b"),
    ] {
        let got = run(request);
        assert_eq!(got.answers[0].body, host.as_bytes(), "{request}");
    }
    for request in [
        "GET http://b/host HTTP/1.1||",
        "GET http://b/host HTTP/1.1|host: a b||",
        "GET http://b/host HTTP/1.1|host: a|host: b||",
    ] {
        check_one(request, "400x");
    }
}
