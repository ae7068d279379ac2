//! Where a message ends: RFC 9112 §6 and §7, RFC 9110 §6.5 and §8.6.

use crate::support::{Case, check, check_one};

pub(crate) const COUNT: usize =
    LENGTH.len() + CODING.len() + CHUNKS.len() + EXTENSIONS.len() + TRAILERS.len() + UNREAD.len();

pub(crate) const POST: &str = "POST /read HTTP/1.1|host: a|";
pub(crate) const CHUNKED: &str = "POST /stream HTTP/1.1|host: a|transfer-encoding: chunked||";

pub(crate) const LENGTH: &[Case] = &[
    ("content-length: 3||abc", "200 > POST /read=abc"),
    ("CONTENT-LENGTH: 3||abc", "200 > POST /read=abc"),
    ("content-length:3||abc", "200 > POST /read=abc"),
    ("content-length: \t 3 \t ||abc", "200 > POST /read=abc"),
    ("content-length: 003||abc", "200 > POST /read=abc"),
    (
        "content-length: 0000000000000000000000000000003||abc",
        "200 > POST /read=abc",
    ),
    ("content-length: 0||", "200 > POST /read="),
    (
        "content-length: 5||\0|\u{ff}\n",
        "200 > POST /read=\0\r\n\u{ff}\n",
    ),
    ("|", "200 > POST /read="),
    ("content-length: 4097||", "413x"),
    ("content-length: 18446744073709551615||", "413x"),
    ("content-length: 18446744073709551616||", "400x"),
    (
        "content-length: 99999999999999999999999999999999||abc",
        "400x",
    ),
    ("content-length:||", "400x"),
    ("content-length: \t ||", "400x"),
    ("content-length: +3||abc", "400x"),
    ("content-length: -3||abc", "400x"),
    ("content-length: -0||", "400x"),
    ("content-length: 3 3||abc", "400x"),
    ("content-length: 3\t||abc", "200 > POST /read=abc"),
    ("content-length: 3\u{b}||abc", "400x"),
    ("content-length: \u{c}3||abc", "400x"),
    ("content-length: 3\0||abc", "400x"),
    ("content-length: 0x3||abc", "400x"),
    ("content-length: a||0123456789", "400x"),
    ("content-length: 3.0||abc", "400x"),
    ("content-length: 3e0||abc", "400x"),
    ("content-length: 1_0||0123456789", "400x"),
    ("content-length: \u{b3}||abc", "400x"),
    ("content-length: \u{d9}\u{a3}||abc", "400x"),
    ("content-length: \"3\"||abc", "400x"),
    ("content-length: 3;q=1||abc", "400x"),
    ("content-length: 3, 3||abc", "400x"),
    ("content-length: 3,3||abc", "400x"),
    ("content-length: 3, 4||abcd", "400x"),
    ("content-length: 3,||abc", "400x"),
    ("content-length: ,3||abc", "400x"),
    ("content-length: 3|content-length: 3||abc", "400x"),
    ("content-length: 3|content-length: 4||abcd", "400x"),
    ("content-length: 0|content-length: 3||abc", "400x"),
    ("content-length: 3|x: y|Content-Length: 3||abc", "400x"),
    ("content-length: 3|content-length:||abc", "400x"),
    ("content-length : 3||abc", "400x"),
    ("content-length\t: 3||abc", "400x"),
    (" content-length: 3||abc", "400x"),
    ("content-length: 3| ||abc", "400x"),
    ("content-length:| 3||abc", "400x"),
    (
        "content_length: 3||GET / HTTP/1.1|host: a||",
        "200 200 > POST /read=; GET /",
    ),
    ("content-lengths: 3||", "200 > POST /read="),
    ("x-content-length: 3||", "200 > POST /read="),
];

/// One length, in digits alone. An equal one beside it is refused as well: RFC 9110 §8.6 allows either.
#[test]
fn content_length() {
    check(POST, LENGTH);
}

pub(crate) const CODING: &[Case] = &[
    (
        "transfer-encoding: chunked||3|abc|0||",
        "200 > POST /read=abc",
    ),
    (
        "Transfer-Encoding: CHUNKED||3|abc|0||",
        "200 > POST /read=abc",
    ),
    (
        "tRANSFER-eNCODING:cHuNkEd||3|abc|0||",
        "200 > POST /read=abc",
    ),
    (
        "transfer-encoding: \tchunked \t||3|abc|0||",
        "200 > POST /read=abc",
    ),
    ("transfer-encoding:\tchunked||0||", "200 > POST /read="),
    ("transfer-encoding: chunked, chunked||0||", "400x"),
    (
        "transfer-encoding: chunked|transfer-encoding: chunked||0||",
        "400x",
    ),
    (
        "transfer-encoding: gzip|transfer-encoding: chunked||0||",
        "400x",
    ),
    (
        "transfer-encoding: chunked|transfer-encoding: identity||0||",
        "400x",
    ),
    ("transfer-encoding: identity||", "400x"),
    ("transfer-encoding: identity, chunked||0||", "501x"),
    ("transfer-encoding: gzip||", "400x"),
    ("transfer-encoding: gzip, chunked||0||", "501x"),
    ("transfer-encoding: gzip;q=1, chunked||0||", "501x"),
    ("transfer-encoding: x, y, chunked||0||", "501x"),
    ("transfer-encoding: chunked, gzip||0||", "400x"),
    ("transfer-encoding: chunked, identity||0||", "400x"),
    ("transfer-encoding: chunked, gzip, chunked||0||", "400x"),
    ("transfer-encoding: xchunked||0||", "400x"),
    ("transfer-encoding: chunkedx||0||", "400x"),
    ("transfer-encoding: x chunked||0||", "400x"),
    ("transfer-encoding: chunked;q=1||0||", "400x"),
    ("transfer-encoding: chunked;||0||", "400x"),
    ("transfer-encoding: \"chunked\"||0||", "400x"),
    ("transfer-encoding: 'chunked'||0||", "400x"),
    ("transfer-encoding: chunked,||0||", "400x"),
    ("transfer-encoding: ,chunked||0||", "400x"),
    ("transfer-encoding:||0||", "400x"),
    ("transfer-encoding: ,||0||", "400x"),
    ("transfer-encoding: \u{b}chunked||0||", "400x"),
    ("transfer-encoding: chunked\u{b}||0||", "400x"),
    ("transfer-encoding: \u{c}chunked||0||", "400x"),
    ("transfer-encoding: chunked\0||0||", "400x"),
    ("transfer-encoding: \u{a0}chunked||0||", "400x"),
    ("transfer-encoding: chunked\u{85}||0||", "400x"),
    ("transfer-encoding : chunked||0||", "400x"),
    ("transfer-encoding\t: chunked||0||", "400x"),
    ("transfer-encoding\u{b}: chunked||0||", "400x"),
    ("transfer-encoding:| chunked||0||", "400x"),
    ("transfer-encoding: chunked| ||0||", "400x"),
    ("x: y|\ttransfer-encoding: chunked||0||", "400x"),
    ("x: y\rtransfer-encoding: chunked||0||", "400x"),
    ("x: y\ntransfer-encoding: chunked||0||", "400x"),
    ("transfer-encoding: chunked|content-length: 3||0||", "400x"),
    ("content-length: 3|transfer-encoding: chunked||0||", "400x"),
    ("content-length: 0|transfer-encoding: chunked||0||", "400x"),
    ("content-length: 3|transfer-encoding: identity||abc", "400x"),
    ("content-length: 3|transfer-encoding:||abc", "400x"),
    ("transfer_encoding: chunked||", "200 > POST /read="),
    ("te: chunked||", "200 > POST /read="),
    ("te: trailers|connection: te||", "200 > POST /read="),
];

/// `chunked`, once, and nothing beside it. A coding we lack is 501 if the end is certain, else 400.
#[test]
fn transfer_encoding() {
    check(POST, CODING);
    check(
        "POST /read HTTP/1.0|",
        &[
            ("transfer-encoding: chunked||0||", "400x"),
            (
                "connection: keep-alive|transfer-encoding: chunked||0||",
                "400x",
            ),
            ("transfer-encoding: chunked|content-length: 3||abc", "400x"),
            ("transfer-encoding: identity|content-length: 3||abc", "400x"),
        ],
    );
}

pub(crate) const CHUNKS: &[Case] = &[
    ("0||", "200 > POST /stream="),
    ("00000||", "200 > POST /stream="),
    ("3|abc|0||", "200 > POST /stream=abc"),
    ("1|a|2|bc|0||", "200 > POST /stream=abc"),
    ("a|0123456789|0||", "200 > POST /stream=0123456789"),
    ("A|0123456789|0||", "200 > POST /stream=0123456789"),
    ("0000000000000003|abc|0||", "200 > POST /stream=abc"),
    ("2||||0||", "400x > POST /stream"),
    ("2|||0||", "200 > POST /stream=\r\n"),
    ("00000000000000003|abc|0||", "200 > POST /stream=abc"),
    ("3|abc|00000000000000000||", "200 > POST /stream=abc"),
    ("0000000000000000g|abc|0||", "400x > POST /stream"),
    ("00000000000000003 |abc|0||", "400x > POST /stream"),
    // Announced is enough: nobody waits for what is over the limit.
    ("1001|", "413x > POST /stream"),
    ("ffffffffffffffff|", "413x > POST /stream"),
    ("0000ffffffffffffffff|", "413x > POST /stream"),
    ("10000000000000000|abc|0||", "400x > POST /stream"),
    ("10000000000000003|abc|0||", "400x > POST /stream"),
    ("fffffffffffffffff|abc|0||", "400x > POST /stream"),
    ("+3|abc|0||", "400x > POST /stream"),
    ("-3|abc|0||", "400x > POST /stream"),
    ("-1|abc|0||", "400x > POST /stream"),
    ("0x3|abc|0||", "400x > POST /stream"),
    ("x3|abc|0||", "400x > POST /stream"),
    ("3h|abc|0||", "400x > POST /stream"),
    ("g|abc|0||", "400x > POST /stream"),
    ("\u{b3}|abc|0||", "400x > POST /stream"),
    ("|abc|0||", "400x > POST /stream"),
    (" 3|abc|0||", "400x > POST /stream"),
    ("\t3|abc|0||", "400x > POST /stream"),
    ("3 |abc|0||", "400x > POST /stream"),
    ("3\t|abc|0||", "400x > POST /stream"),
    ("3 3|abc|0||", "400x > POST /stream"),
    ("3,3|abc|0||", "400x > POST /stream"),
    ("3_0|abc|0||", "400x > POST /stream"),
    ("3\0|abc|0||", "400x > POST /stream"),
    ("3\u{b}|abc|0||", "400x > POST /stream"),
    ("3\nabc|0||", "400x > POST /stream"),
    ("3\rabc|0||", "400x > POST /stream"),
    ("3\r\r\nabc|0||", "400x > POST /stream"),
    ("3|abc0||", "400x > POST /stream"),
    ("3|abcd|0||", "400x > POST /stream"),
    ("3|abc\n0||", "400x > POST /stream"),
    ("3|abc\r0||", "400x > POST /stream"),
    ("3|abc\n\r0||", "400x > POST /stream"),
    ("4|abc|0||", "400x > POST /stream"),
    ("3|abc||0||", "400x > POST /stream"),
    ("3|abc|0|\n", "400x > POST /stream"),
    ("3|abc|0\n\n", "400x > POST /stream"),
    ("3|abc|0\n|", "400x > POST /stream"),
    ("3|abc|0 ||", "400x > POST /stream"),
    ("3|abc|-0||", "400x > POST /stream"),
    ("3|abc|0x0||", "400x > POST /stream"),
];

/// A size in hexadecimal digits that fits in 64 bits, a line that ends in CRLF, data that ends in CRLF.
#[test]
fn chunks() {
    check(CHUNKED, CHUNKS);
    // What is over the route's limit is refused at the size that is over it.
    let over = format!("1001|{}|0||", "x".repeat(0x1001));
    check_one(&format!("{CHUNKED}{over}"), "413x > POST /stream");
    let huge = format!("{CHUNKED}ffffffffffffffff|{}", "x".repeat(0x1001));
    check_one(&huge, "413x > POST /stream");
    let later = format!("{CHUNKED}1000|{}|1|", "x".repeat(0x1000));
    check_one(&later, "413x > POST /stream");
    // Leading zeros are digits like others, but only so many.
    let zeros = format!("{CHUNKED}{}3|abc|0||", "0".repeat(900));
    check_one(&zeros, "200 > POST /stream=abc");
    let many = format!(
        "{CHUNKED}{}0||",
        format!("{}1|a|", "0".repeat(900)).repeat(20)
    );
    check_one(&many, "400x > POST /stream");
}

pub(crate) const EXTENSIONS: &[Case] = &[
    ("3;a|abc|0||", "200 > POST /stream=abc"),
    ("3;a=b|abc|0;c||", "200 > POST /stream=abc"),
    ("3;a=b;c=d|abc|0||", "200 > POST /stream=abc"),
    ("3 ; a = b|abc|0||", "200 > POST /stream=abc"),
    ("3\t;\ta|abc|0||", "200 > POST /stream=abc"),
    ("3;a=\"b c\"|abc|0||", "200 > POST /stream=abc"),
    ("3;a=\"\"|abc|0||", "200 > POST /stream=abc"),
    ("3;a=\"b\\\"c;d\"|abc|0||", "200 > POST /stream=abc"),
    ("3;a=\"\u{ff}\"|abc|0||", "200 > POST /stream=abc"),
    ("3;a=\"5;\"|abc|0||", "200 > POST /stream=abc"),
    ("3;|abc|0||", "400x > POST /stream"),
    ("3;;a|abc|0||", "400x > POST /stream"),
    ("3;a;|abc|0||", "400x > POST /stream"),
    ("3;a |abc|0||", "400x > POST /stream"),
    ("3;a=|abc|0||", "400x > POST /stream"),
    ("3;=b|abc|0||", "400x > POST /stream"),
    ("3;a b|abc|0||", "400x > POST /stream"),
    ("3;a=b c|abc|0||", "400x > POST /stream"),
    ("3;a=\"b|abc|0||", "400x > POST /stream"),
    ("3;a=\"b\"c|abc|0||", "400x > POST /stream"),
    ("3;a=\"b\\\"|abc|0||", "400x > POST /stream"),
    ("3;a=\"b|c\"|abc|0||", "400x > POST /stream"),
    ("3;a=b\0|abc|0||", "400x > POST /stream"),
    ("3;a=\"\0\"|abc|0||", "400x > POST /stream"),
    ("3;a=\"\u{7f}\"|abc|0||", "400x > POST /stream"),
    ("3;a\u{e9}=b|abc|0||", "400x > POST /stream"),
    ("3;a\nabc|0||", "400x > POST /stream"),
    ("3;a=\"\n\"|abc|0||", "400x > POST /stream"),
    ("3;a\rb|abc|0||", "400x > POST /stream"),
    ("3;a\r|abc|0||", "400x > POST /stream"),
    ("3/a|abc|0||", "400x > POST /stream"),
];

/// By the grammar, white space before `;` and around `=` included; they are ignored, and bounded.
#[test]
fn chunk_extensions() {
    check(CHUNKED, EXTENSIONS);
    let fits = format!("{CHUNKED}3;a={}|abc|0||", "x".repeat(900));
    check_one(&fits, "200 > POST /stream=abc");
    let long = format!("{CHUNKED}3;a={}|abc|0||", "x".repeat(1024));
    check_one(&long, "400x > POST /stream");
    // Each is short, all of them are not.
    let many = format!(
        "{CHUNKED}{}0||",
        format!("1;a={}|a|", "x".repeat(900)).repeat(20)
    );
    check_one(&many, "400x > POST /stream");
}

pub(crate) const TRAILERS: &[Case] = &[
    ("x-sum: 6||", "200 > POST /stream=abc+6"),
    ("X-Sum:\t6 \t||", "200 > POST /stream=abc+6"),
    ("a: b|x-sum: 6||", "200 > POST /stream=abc+6"),
    ("a:||", "200 > POST /stream=abc"),
    ("cookie: a=b||", "200 > POST /stream=abc"),
    ("a||", "400x > POST /stream"),
    (": b||", "400x > POST /stream"),
    (":||", "400x > POST /stream"),
    ("a : b||", "400x > POST /stream"),
    (" a: b||", "400x > POST /stream"),
    ("a: b| c||", "400x > POST /stream"),
    ("a: b\nc: d||", "400x > POST /stream"),
    ("a: b\rc||", "400x > POST /stream"),
    ("a: \0||", "400x > POST /stream"),
    ("a\u{e9}: b||", "400x > POST /stream"),
    ("content-length: 3||", "400x > POST /stream"),
    ("Transfer-Encoding: chunked||", "400x > POST /stream"),
    ("host: b||", "400x > POST /stream"),
    ("trailer: x||", "400x > POST /stream"),
    ("GET / HTTP/1.1|host: b||", "400x > POST /stream"),
];

/// Trailers are kept apart from the fields; those that frame or route a message are refused.
#[test]
fn trailers() {
    check(&format!("{CHUNKED}3|abc|0|"), TRAILERS);
    let many = format!("{CHUNKED}3|abc|0|{}|", "a: b|".repeat(33));
    check_one(&many, "400x > POST /stream");
    let long = format!("{CHUNKED}3|abc|0|a: {}||", "b".repeat(8200));
    check_one(&long, "400x > POST /stream");
}

pub(crate) const UNREAD: &[Case] = &[
    ("content-length: 3||abc", "200 > POST /ignore"),
    (
        "transfer-encoding: chunked||3|abc|0||",
        "200 > POST /ignore",
    ),
    (
        "transfer-encoding: chunked||3|abc|0|a: b||",
        "200 > POST /ignore",
    ),
];

/// RFC 9112 §9.3: what a handler leaves unread is read all the same, or the connection closes.
#[test]
fn a_body_that_nobody_reads() {
    check("POST /ignore HTTP/1.1|host: a|", UNREAD);
    check(
        "POST /nowhere HTTP/1.1|host: a|",
        &[
            ("content-length: 3||abc", "404 > POST /nowhere"),
            (
                "transfer-encoding: chunked||3|abc|0||",
                "404 > POST /nowhere",
            ),
        ],
    );
}
