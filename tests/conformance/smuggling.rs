//! Two messages in one: what others read as two, or as one, must not become a second request here. Nor
//! may what a client sends end a line of an answer.

use crate::support::{Case, check, check_between, run};

pub(crate) const COUNT: usize = PAYLOADS.len() + INJECTIONS.len();

const PAYLOADS: &[Case] = &[
    // CL.TE: a proxy that goes by the length hands on the rest as the body.
    (
        "POST /read HTTP/1.1|host: a|content-length: 13|transfer-encoding: chunked||0||SMUGGLED",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 44|transfer-encoding: chunked||0||GET /smuggled HTTP/1.1|host: a|x: ",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked|content-length: 4||1|Z|Q",
        "400x",
    ),
    (
        "POST /ignore HTTP/1.1|host: a|content-length: 6|transfer-encoding: chunked||0||G",
        "400x",
    ),
    // TE.CL: a proxy that goes by the chunks.
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding: chunked||2d|POST /smuggled HTTP/1.1|host: a||0||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 3|transfer-encoding: chunked||8|SMUGGLED|0||",
        "400x",
    ),
    // TE.TE: one of the two is overlooked by somebody.
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked|transfer-encoding: x||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding: chunked|transfer-encoding: identity||5c|GPOST / HTTP/1.1||0||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding: xchunked||5c|GPOST||0||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding : chunked||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding:\u{b}chunked||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding:\tchunked||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|x: y\ntransfer-encoding: chunked||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding| : chunked||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|transfer-encoding:| chunked||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|x:|transfer-encoding\0: chunked||0||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 4|\u{ff}transfer-encoding: chunked||0||",
        "400x",
    ),
    // CL.CL: two lengths.
    (
        "POST /read HTTP/1.1|host: a|content-length: 3|content-length: 38||abcGET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: 0|content-length: 38||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    // CL.0: a server that overlooks the body of what it does not expect to have one.
    (
        "GET / HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "200 > GET /",
    ),
    (
        "POST / HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "405 > POST /",
    ),
    (
        "POST /nowhere HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "404 > POST /nowhere",
    ),
    (
        "POST /ignore HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "200 > POST /ignore",
    ),
    (
        "FOO / HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "501 > FOO /",
    ),
    (
        "HEAD / HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "200 > HEAD /",
    ),
    (
        "OPTIONS * HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "204 > OPTIONS *",
    ),
    (
        "TRACE / HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "405 > TRACE /",
    ),
    (
        "GET /fails HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "500 > GET /fails",
    ),
    (
        "GET /later HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "200 > GET /later",
    ),
    (
        "GET /status/304 HTTP/1.1|host: a|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "304 > GET /status/304",
    ),
    (
        "GET / HTTP/1.1|host: a|connection: content-length|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "200 > GET /",
    ),
    (
        "GET / HTTP/1.1|host: a|transfer-encoding: chunked||26|GET /smuggled HTTP/1.1|host: a||xyz|0||",
        "200 > GET /",
    ),
    // 0.CL: a proxy that overlooks a length that is written oddly.
    (
        "POST /read HTTP/1.1|host: a|content-length : 35||GET /smuggled HTTP/1.1|host: a||xyz",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length:| 35||GET /smuggled HTTP/1.1|host: a||xyz",
        "400x",
    ),
    (
        "POST /read HTTP/1.1|host: a|content-length: +35||GET /smuggled HTTP/1.1|host: a||xyz",
        "400x",
    ),
    (
        "GET / HTTP/1.1|host: a| content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "400x",
    ),
    (
        "GET / HTTP/1.1| content-length: 38|host: a||GET /smuggled HTTP/1.1|host: a||xyz",
        "400x",
    ),
    (
        "GET / HTTP/1.1|host: a|x: y\rcontent-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "400x",
    ),
    // A line that ends where others see none.
    (
        "GET / HTTP/1.1|host: a|x: y\n\nGET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "GET / HTTP/1.1|host: a\n\r\nGET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "GET / HTTP/1.1|host: a|\nGET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "GET / HTTP/1.1|host: a|x: y\r\rGET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "GET / HTTP/1.1\r\rhost: a||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    // Chunks that others cut elsewhere (TERM.EXT, EXT.TERM, TERM.SPILL, SPILL.TERM, ONE.TWO, ZERO.TWO, TWO.ZERO).
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||2;\nxx|2d|0||GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||2;a\rxx|0||GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||2\nxx|0||GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||5|AAAAAX1|0||GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||5|AAAAA\n0||GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||5|AAAAA0||GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||10000000000000000||GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||0|GET /smuggled HTTP/1.1|host: a||",
        "400x > POST /read",
    ),
    (
        "POST /read HTTP/1.1|host: a|transfer-encoding: chunked||0|content-length: 3||abc",
        "400x > POST /read",
    ),
    // The same where nobody reads the body: the answer is out, what follows is dropped.
    (
        "POST /ignore HTTP/1.1|host: a|transfer-encoding: chunked||2\nxx|0||GET /smuggled HTTP/1.1|host: a||",
        "200! > POST /ignore",
    ),
    (
        "POST /ignore HTTP/1.1|host: a|transfer-encoding: chunked||0|GET /smuggled HTTP/1.1|host: a||",
        "200! > POST /ignore",
    ),
    (
        "POST /nowhere HTTP/1.1|host: a|transfer-encoding: chunked||0|content-length: 3||abc",
        "404! > POST /nowhere",
    ),
    // HTTP/1.0, and what it does not know.
    (
        "POST /read HTTP/1.0|connection: keep-alive|transfer-encoding: chunked||0||GET /smuggled HTTP/1.1|host: a||",
        "400x",
    ),
    (
        "GET / HTTP/1.0|connection: close||GET /smuggled HTTP/1.1|host: a||",
        "200x > GET /",
    ),
    // An upgrade or a tunnel that a proxy believes in.
    (
        "GET / HTTP/1.1|host: a|upgrade: websocket|connection: upgrade|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "200 > GET /",
    ),
    (
        "CONNECT b:443 HTTP/1.1|host: b:443||GET /smuggled HTTP/1.1|host: a||",
        "501x > CONNECT ",
    ),
    // A body behind leave that is not awaited.
    (
        "POST /read HTTP/1.1|host: a|expect: 100-continue|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "200 > POST /read=GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\nxyz",
    ),
    (
        "GET / HTTP/1.1|host: a|expect: 100-continuex|content-length: 38||GET /smuggled HTTP/1.1|host: a||xyz",
        "417x",
    ),
];

/// Each is one request, or none; the rest is its body, or dropped with the connection.
#[test]
fn no_second_request() {
    check("", PAYLOADS);
}

const INJECTIONS: &[Case] = &[
    ("to?v=/x", "302 > GET /to?v=/x"),
    (
        "to?v=/x%0d%0aset-cookie:%20a=b",
        "500 > GET /to?v=/x%0d%0aset-cookie:%20a=b",
    ),
    (
        "to?v=/x%0aset-cookie:%20a=b",
        "500 > GET /to?v=/x%0aset-cookie:%20a=b",
    ),
    (
        "to?v=/x%0dset-cookie:%20a=b",
        "500 > GET /to?v=/x%0dset-cookie:%20a=b",
    ),
    ("to?v=/x%00y", "500 > GET /to?v=/x%00y"),
    (
        "to?v=%0d%0a%0d%0aHTTP/1.1%20200%20OK",
        "500 > GET /to?v=%0d%0a%0d%0aHTTP/1.1%20200%20OK",
    ),
    ("field?v=a%0d%0ab:c", "500 > GET /field?v=a%0d%0ab:c"),
    ("field?v=a%0d%0a%20b", "500 > GET /field?v=a%0d%0a%20b"),
    ("field?v=a%7fb", "500 > GET /field?v=a%7fb"),
    ("field?v=a%0bb", "500 > GET /field?v=a%0bb"),
    ("name?v=x-a", "200 > GET /name?v=x-a"),
    ("name?v=x:a", "500 > GET /name?v=x:a"),
    ("name?v=x%0d%0aa:b", "500 > GET /name?v=x%0d%0aa:b"),
    ("name?v=x%20a", "500 > GET /name?v=x%20a"),
    ("name?v=", "500 > GET /name?v="),
    ("name?v=content-length", "500 > GET /name?v=content-length"),
    (
        "name?v=Transfer-Encoding",
        "500 > GET /name?v=Transfer-Encoding",
    ),
    (
        "cookie?v=a%0d%0aset-cookie:b=c",
        "200 > GET /cookie?v=a%0d%0aset-cookie:b=c",
    ),
    (
        "cookie?v=a%00;%20path=/x",
        "200 > GET /cookie?v=a%00;%20path=/x",
    ),
];

/// RFC 9110 §5.5: what would end a line makes the answer a 500; cookies are encoded.
#[test]
fn nothing_ends_a_line_of_an_answer() {
    check_between("GET /", INJECTIONS, " HTTP/1.1|host: a||");
    for (row, _) in INJECTIONS {
        let got = run(&format!("GET /{row} HTTP/1.1|host: a||"));
        let cookies = got.answers[0]
            .fields
            .iter()
            .filter(|(name, _)| name == "set-cookie");
        let cookies: Vec<_> = cookies.map(|(_, value)| value.as_str()).collect();
        assert_eq!(
            cookies.len(),
            usize::from(row.starts_with("cookie")),
            "{row}"
        );
        assert!(
            cookies.iter().all(|value| !value.contains("; ")),
            "{cookies:?}"
        );
        assert_eq!(got.answers[0].field("b"), None, "{row}");
    }
}
