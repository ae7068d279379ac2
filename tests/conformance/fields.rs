//! Field lines: RFC 9110 §5, RFC 9112 §5.

use crate::support::{Case, check, check_one};

pub(crate) const COUNT: usize = SYNTAX.len();

const SYNTAX: &[Case] = &[
    ("x: y||", "200 > GET /"),
    ("x:y||", "200 > GET /"),
    ("x:||", "200 > GET /"),
    ("x: ||", "200 > GET /"),
    ("x:\t \t||", "200 > GET /"),
    ("x:\ty\t||", "200 > GET /"),
    ("x: a\tb  c||", "200 > GET /"),
    ("x: y|x: y||", "200 > GET /"),
    ("x: a:b||", "200 > GET /"),
    ("x: \"quoted\\\"||", "200 > GET /"),
    ("x: \u{e9}||", "200 > GET /"),
    ("x: \u{c3}\u{a9}\u{ff}\u{80}||", "200 > GET /"),
    ("!#$%&'*+-.^_`¦~09aZ: y||", "200 > GET /"),
    ("x: ,,||", "200 > GET /"),
    ("x||", "400x"),
    ("x y||", "400x"),
    (":||", "400x"),
    (": y||", "400x"),
    (" : y||", "400x"),
    ("x : y||", "400x"),
    ("x\t: y||", "400x"),
    ("x y: z||", "400x"),
    (" x: y||", "400x"),
    ("\tx: y||", "400x"),
    ("x: y| z||", "400x"),
    ("x: y|\tz||", "400x"),
    ("x: y| ||", "400x"),
    ("x:| y||", "400x"),
    ("x\0: y||", "400x"),
    ("x: \0||", "400x"),
    ("x: y\0z||", "400x"),
    ("x: \u{1}||", "400x"),
    ("x: \u{8}||", "400x"),
    ("x: \u{b}||", "400x"),
    ("x: \u{c}||", "400x"),
    ("x: \u{1b}[2J||", "400x"),
    ("x: \u{7f}||", "400x"),
    ("x: y\rz||", "400x"),
    ("x: y\r\r\n|", "400x"),
    ("x: y\r: z||", "400x"),
    ("x: y\n|", "400x"),
    ("x: y\nz: a||", "400x"),
    ("x: y|\n", "400x"),
    ("x: y|\rz||", "400x"),
    ("x\r: y||", "400x"),
    ("x\n: y||", "400x"),
    ("x\u{e9}: y||", "400x"),
    ("\u{ff}: y||", "400x"),
    ("x(: y||", "400x"),
    ("x): y||", "400x"),
    ("x<: y||", "400x"),
    ("x@: y||", "400x"),
    ("x,: y||", "400x"),
    ("x;: y||", "400x"),
    ("x\\: y||", "400x"),
    ("\"x\": y||", "400x"),
    ("x/: y||", "400x"),
    ("[x]: y||", "400x"),
    ("x?: y||", "400x"),
    ("x=: y||", "400x"),
    ("{x}: y||", "400x"),
    ("\u{7f}: y||", "400x"),
];

/// Names are tokens, values hold no control characters but tabs; nothing is folded, every line ends in CRLF.
#[test]
fn syntax() {
    check("GET / HTTP/1.1|host: a|", SYNTAX);
}

/// RFC 9112 §2.2: white space between the request line and the first field is refused.
#[test]
fn white_space_before_the_first_field() {
    check(
        "GET / HTTP/1.1|",
        &[
            (" host: a||", "400x"),
            ("\thost: a||", "400x"),
            (" |host: a||", "400x"),
        ],
    );
}

/// RFC 9110 §5.4: what is longer than we take is 431, and nothing of it is ignored.
#[test]
fn too_long_and_too_many() {
    let get = "GET / HTTP/1.1|host: a|";
    check_one(&format!("{get}x: {}||", "y".repeat(900)), "200 > GET /");
    check_one(&format!("{get}x: {}||", "y".repeat(1024)), "431x");
    check_one(&format!("{get}{}: y||", "x".repeat(1024)), "431x");
    check_one(&format!("{get}{}|", "x: y|".repeat(15)), "200 > GET /");
    check_one(&format!("{get}{}|", "x: y|".repeat(16)), "431x");
    check_one(&format!("{get}{}|", "x: y|".repeat(300)), "431x");
}
