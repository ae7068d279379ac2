//! What a client sends so that the proxy and the upstream may read it differently: any doubt about where a message ends
//! is a 400 and a close, and nothing that is ambiguous is passed on.
//!
//! RFC 9112 §6 and §11.2; RFC 9110 §5.5, §7.2, §7.6 and §17.

use crate::faulty::Faulty;
use crate::message::bytes;
use crate::raw::exchange;
use crate::under_test::{config, proxy, try_rows};
use std::time::Duration;

/// Name; what the client sends; the whole requests that the upstream gets, parted by `; `; what the client gets: statuses,
/// and `x` for the end of the connection.
///
/// No requests: `-` is not a byte, `~` may be the beginning of one that never becomes whole (a body that turns out to
/// be wrong after its head has been passed on).
type Row = (&'static str, &'static str, &'static str, &'static str);

const LENGTHS: &[Row] = &[
    (
        "a body by its length",
        "POST /a HTTP/1.1|host: a|content-length: 3||abc",
        "POST /a HTTP/1.1|content-length: 3|host: a||abc",
        "200",
    ),
    (
        "CL.TE",
        "POST /a HTTP/1.1|host: a|content-length: 13|transfer-encoding: chunked||0||SMUGGLED",
        "-",
        "400x",
    ),
    (
        "CL.TE, a request behind",
        "POST /a HTTP/1.1|host: a|content-length: 44|transfer-encoding: chunked||0||GET /b HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
    (
        "TE.CL",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked|content-length: 4||1f|GET /b HTTP/1.1|host: a|x: y||0||",
        "-",
        "400x",
    ),
    (
        "TE.CL of HTTP/1.0",
        "POST /a HTTP/1.0|host: a|transfer-encoding: chunked|content-length: 3||abc",
        "-",
        "400x",
    ),
    (
        "CL.CL",
        "POST /a HTTP/1.1|host: a|content-length: 3|content-length: 30||abcGET /b HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
    (
        "CL.CL, the same",
        "POST /a HTTP/1.1|host: a|content-length: 3|content-length: 3||abc",
        "-",
        "400x",
    ),
    (
        "CL, a list",
        "POST /a HTTP/1.1|host: a|content-length: 3, 3||abc",
        "-",
        "400x",
    ),
    (
        "CL, a list of two",
        "POST /a HTTP/1.1|host: a|content-length: 3, 30||abc",
        "-",
        "400x",
    ),
    (
        "CL with a plus",
        "POST /a HTTP/1.1|host: a|content-length: +3||abc",
        "-",
        "400x",
    ),
    (
        "CL with a minus",
        "POST /a HTTP/1.1|host: a|content-length: -3||abc",
        "-",
        "400x",
    ),
    (
        "CL in parts",
        "POST /a HTTP/1.1|host: a|content-length: 3 0||abc",
        "-",
        "400x",
    ),
    (
        "CL in hexadecimal",
        "POST /a HTTP/1.1|host: a|content-length: 0x3||abc",
        "-",
        "400x",
    ),
    (
        "CL with nothing",
        "POST /a HTTP/1.1|host: a|content-length:||abc",
        "-",
        "400x",
    ),
    (
        "CL beyond 64 bits",
        "POST /a HTTP/1.1|host: a|content-length: 18446744073709551619||abc",
        "-",
        "400x",
    ),
    (
        "CL with a vertical tab",
        "POST /a HTTP/1.1|host: a|content-length: \u{b}3||abc",
        "-",
        "400x",
    ),
    (
        "CL with a space before the colon",
        "POST /a HTTP/1.1|host: a|content-length : 3||abc",
        "-",
        "400x",
    ),
    (
        "CL folded",
        "POST /a HTTP/1.1|host: a|content-length:| 3||abc",
        "-",
        "400x",
    ),
    (
        "CL behind a bare LF",
        "POST /a HTTP/1.1|host: a|x: y\ncontent-length: 3||abc",
        "-",
        "400x",
    ),
    (
        "CL behind a bare CR",
        "POST /a HTTP/1.1|host: a|x: y\rcontent-length: 3||abc",
        "-",
        "400x",
    ),
    (
        "CL.0: a GET with a body",
        "GET /a HTTP/1.1|host: a|content-length: 30||GET /b HTTP/1.1|host: a||..",
        "GET /a HTTP/1.1|content-length: 30|host: a||GET /b HTTP/1.1|host: a||..",
        "200",
    ),
    (
        "a GET with chunks",
        "GET /a HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0||",
        "GET /a HTTP/1.1|host: a|transfer-encoding: chunked||abc",
        "200",
    ),
    (
        "a HEAD with a body",
        "HEAD /a HTTP/1.1|host: a|content-length: 3||abc",
        "HEAD /a HTTP/1.1|content-length: 3|host: a||abc",
        "200",
    ),
];

const CODINGS: &[Row] = &[
    (
        "chunks",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||abc",
        "200",
    ),
    (
        "TE in capitals",
        "POST /a HTTP/1.1|host: a|TRANSFER-ENCODING: CHUNKED||3|abc|0||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||abc",
        "200",
    ),
    (
        "TE.TE: chunked, x",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked|transfer-encoding: x||0||",
        "-",
        "400x",
    ),
    (
        "TE.TE: chunked, identity",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked|transfer-encoding: identity||0||",
        "-",
        "400x",
    ),
    (
        "TE.TE: the same twice",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked|transfer-encoding: chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE, a list of the same",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked, chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE identity alone",
        "POST /a HTTP/1.1|host: a|transfer-encoding: identity|content-length: 3||abc",
        "-",
        "400x",
    ),
    (
        "TE xchunked",
        "POST /a HTTP/1.1|host: a|transfer-encoding: xchunked||0||",
        "-",
        "400x",
    ),
    (
        "TE gzip before chunked",
        "POST /a HTTP/1.1|host: a|transfer-encoding: gzip, chunked||0||",
        "-",
        "501x",
    ),
    (
        "TE with a space before the colon",
        "POST /a HTTP/1.1|host: a|transfer-encoding : chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE folded",
        "POST /a HTTP/1.1|host: a|transfer-encoding:| chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE behind a fold",
        "POST /a HTTP/1.1|host: a|x: y| transfer-encoding: chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE with a vertical tab",
        "POST /a HTTP/1.1|host: a|transfer-encoding: \u{b}chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE with a NUL",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked\0||0||",
        "-",
        "400x",
    ),
    (
        "TE in quotes",
        "POST /a HTTP/1.1|host: a|transfer-encoding: \"chunked\"||0||",
        "-",
        "400x",
    ),
    (
        "TE with a parameter",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked;q=1||0||",
        "-",
        "400x",
    ),
    (
        "TE with an empty member",
        "POST /a HTTP/1.1|host: a|transfer-encoding: ,chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE with nothing",
        "POST /a HTTP/1.1|host: a|transfer-encoding:||0||",
        "-",
        "400x",
    ),
    (
        "TE behind a bare LF",
        "POST /a HTTP/1.1|host: a|x: y\ntransfer-encoding: chunked||0||",
        "-",
        "400x",
    ),
    (
        "TE of HTTP/1.0",
        "POST /a HTTP/1.0|host: a|connection: keep-alive|transfer-encoding: chunked||0||",
        "-",
        "400x",
    ),
];

/// The head is right, so part of the request may have gone out before the mistake comes.
const CHUNKS: &[Row] = &[
    (
        "a size with 0x",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0x3|abc|0||",
        "~",
        "400x",
    ),
    (
        "a size with a plus",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||+3|abc|0||",
        "~",
        "400x",
    ),
    (
        "a negative size",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||-1|abc|0||",
        "~",
        "400x",
    ),
    (
        "a size beyond 64 bits",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||10000000000000003|abc|0||",
        "~",
        "400x",
    ),
    (
        "a space before the size",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked|| 3|abc|0||",
        "~",
        "400x",
    ),
    (
        "a space behind the size",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3 |abc|0||",
        "~",
        "400x",
    ),
    (
        "a tab behind the size",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3\t|abc|0||",
        "~",
        "400x",
    ),
    (
        "a NUL in an extension",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3;a=\0|abc|0||",
        "~",
        "400x",
    ),
    (
        "no size",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked|||abc|0||",
        "~",
        "400x",
    ),
    (
        "LF behind the size",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3\nabc|0||",
        "~",
        "400x",
    ),
    (
        "LF in an extension",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||2;\nxx|2d|0||GET /b HTTP/1.1|host: a||",
        "~",
        "400x",
    ),
    (
        "CR in an extension",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||2;a\rxx|0||GET /b HTTP/1.1|host: a||",
        "~",
        "400x",
    ),
    (
        "LF in a quoted extension",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3;a=\"\n\"|abc|0||",
        "~",
        "400x",
    ),
    (
        "an extension, which stays here",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3;a=\"5;\"|abc|0||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||abc",
        "200",
    ),
    (
        "more than its size",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||5|AAAAAX1|0||GET /b HTTP/1.1|host: a||",
        "~",
        "400x",
    ),
    (
        "LF behind a chunk",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||5|AAAAA\n0||GET /b HTTP/1.1|host: a||",
        "~",
        "400x",
    ),
    (
        "nothing behind a chunk",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||5|AAAAA0||GET /b HTTP/1.1|host: a||",
        "~",
        "400x",
    ),
    (
        "a request in the trailers",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|GET /b HTTP/1.1|host: a||",
        "~",
        "400x",
    ),
    (
        "a length in the trailers",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|content-length: 3||abc",
        "~",
        "400x",
    ),
    (
        "a coding in the trailers",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|transfer-encoding: chunked||0||",
        "~",
        "400x",
    ),
    (
        "a host in the trailers",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|host: b||",
        "~",
        "400x",
    ),
    (
        "a bare LF in the trailers",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|x: y\n||",
        "~",
        "400x",
    ),
    (
        "LF for the last line",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0|\n",
        "~",
        "400x",
    ),
];

/// RFC 9110 §6.5.1: a trailer passes, unless it frames or routes the message, authorizes it, says who asks, or is of one
/// connection: a server may well put it among the fields.
const TRAILERS: &[Row] = &[
    (
        "a trailer",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0|x-sum: 1|y:\t2 |content-digest: sha-256=:YQ==:||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||abc+content-digest: sha-256=:YQ==:|x-sum: 1|y: 2|",
        "200",
    ),
    (
        "a trailer of no body",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|x-sum: 1||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||+x-sum: 1|",
        "200",
    ),
    (
        "who asks",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|x-forwarded-for: 10.0.0.1|x_forwarded_for: 10.0.0.1|forwarded: for=b|x-real-ip: 10.0.0.1|via: 1.1 b|x-sum: 1||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||+x-sum: 1|",
        "200",
    ),
    (
        "what authorizes",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|authorization: Basic YTpi|cookie: a=b|proxy-authorization: Basic YTpi|x-sum: 1||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||+x-sum: 1|",
        "200",
    ),
    (
        "of one connection",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|connection: close|keep-alive: 5|te: trailers|upgrade: x|x-sum: 1||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||+x-sum: 1|",
        "200",
    ),
    (
        "what changes the request",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|if-match: x|range: bytes=0-|expect: 100-continue|max-forwards: 0|cache-control: no-store|content-type: a/b|x-sum: 1||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||+x-sum: 1|",
        "200",
    ),
    (
        "connection names fields: none pass",
        "POST /a HTTP/1.1|host: a|connection: x-sum|transfer-encoding: chunked||0|x-sum: 1|y: 2||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||",
        "200",
    ),
    (
        "a fold",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|x: y| z||",
        "~",
        "400x",
    ),
    (
        "no colon",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|x||",
        "~",
        "400x",
    ),
    (
        "a NUL",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||0|x: y\0||",
        "~",
        "400x",
    ),
];

const FIELDS: &[Row] = &[
    ("a fold", "GET /a HTTP/1.1|host: a|x: y| z||", "-", "400x"),
    (
        "a fold before the first field",
        "GET /a HTTP/1.1| x: y|host: a||",
        "-",
        "400x",
    ),
    (
        "a bare LF",
        "GET /a HTTP/1.1|host: a|x: y\n\nGET /b HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
    (
        "a bare CR",
        "GET /a HTTP/1.1|host: a|x: y\r\rGET /b HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
    (
        "LF for every line",
        "GET /a HTTP/1.1\nhost: a\n\n",
        "-",
        "400x",
    ),
    (
        "a NUL in a value",
        "GET /a HTTP/1.1|host: a|x: y\0z||",
        "-",
        "400x",
    ),
    (
        "a NUL in a name",
        "GET /a HTTP/1.1|host: a|x\0: y||",
        "-",
        "400x",
    ),
    (
        "a line without a colon",
        "GET /a HTTP/1.1|host: a|x||",
        "-",
        "400x",
    ),
    (
        "a name with a space",
        "GET /a HTTP/1.1|host: a|x y: z||",
        "-",
        "400x",
    ),
    ("no name", "GET /a HTTP/1.1|host: a|: z||", "-", "400x"),
    (
        "tabs around a value",
        "GET /a HTTP/1.1|host: a|x:\t\ty\t||",
        "GET /a HTTP/1.1|host: a|x: y||",
        "200",
    ),
    (
        "a tab before a colon",
        "GET /a HTTP/1.1|host: a|x\t: y||",
        "-",
        "400x",
    ),
    (
        "a vertical tab in a value",
        "GET /a HTTP/1.1|host: a|x: y\u{b}||",
        "-",
        "400x",
    ),
    (
        "bytes above ASCII, which are allowed",
        "GET /a HTTP/1.1|host: a|x: \u{e9}||",
        "GET /a HTTP/1.1|host: a|x: \u{e9}||",
        "200",
    ),
];

const HOSTS: &[Row] = &[
    ("no Host", "GET /a HTTP/1.1||", "-", "400x"),
    (
        "two Hosts",
        "GET /a HTTP/1.1|host: a|host: b||",
        "-",
        "400x",
    ),
    (
        "the same Host twice",
        "GET /a HTTP/1.1|host: a|host: a||",
        "-",
        "400x",
    ),
    (
        "a Host with a space before its colon",
        "GET /a HTTP/1.1|host : a||",
        "-",
        "400x",
    ),
    (
        "a list of Hosts",
        "GET /a HTTP/1.1|host: a, b||",
        "-",
        "400x",
    ),
    (
        "a Host with a user",
        "GET /a HTTP/1.1|host: a@b||",
        "-",
        "400x",
    ),
    (
        "a Host with a path",
        "GET /a HTTP/1.1|host: a/b||",
        "-",
        "400x",
    ),
    (
        "absolute-form counts, not Host",
        "GET http://b/a HTTP/1.1|host: a||",
        "GET /a HTTP/1.1|host: b||",
        "200",
    ),
    (
        "absolute-form with a user",
        "GET http://a@b/a HTTP/1.1|host: b||",
        "-",
        "400x",
    ),
    (
        "absolute-form and no Host",
        "GET http://b/a HTTP/1.1||",
        "-",
        "400x",
    ),
    (
        "absolute-form of another scheme",
        "GET ftp://b/a HTTP/1.1|host: b||",
        "-",
        "400x",
    ),
    (
        "a tunnel",
        "CONNECT b:443 HTTP/1.1|host: b:443||GET /b HTTP/1.1|host: a||",
        "-",
        "501x",
    ),
    (
        "authority-form for another method",
        "GET b:443 HTTP/1.1|host: b||",
        "-",
        "400x",
    ),
];

/// RFC 9110 §7.6.1: what `connection` names ends here; but not what the message needs.
const HOPS: &[Row] = &[
    (
        "a field that connection names",
        "GET /a HTTP/1.1|host: a|connection: x, close|x: y|z: y||",
        "GET /a HTTP/1.1|host: a|z: y||",
        "200x",
    ),
    (
        "connection names content-length",
        "POST /a HTTP/1.1|host: a|connection: content-length|content-length: 30||GET /b HTTP/1.1|host: a||..",
        "POST /a HTTP/1.1|content-length: 30|host: a||GET /b HTTP/1.1|host: a||..",
        "200",
    ),
    (
        "connection names transfer-encoding",
        "POST /a HTTP/1.1|host: a|connection: transfer-encoding|transfer-encoding: chunked||3|abc|0||",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked||abc",
        "200",
    ),
    (
        "connection names host",
        "GET /a HTTP/1.1|host: a|connection: host||",
        "GET /a HTTP/1.1|host: a||",
        "200",
    ),
    (
        "connection names a field of the proxy's own",
        "GET /a HTTP/1.1|host: a|connection: x-forwarded-for, forwarded, via||",
        "GET /a HTTP/1.1|host: a||",
        "200",
    ),
    (
        "the fields that always end here",
        "GET /a HTTP/1.1|host: a|keep-alive: 5|proxy-connection: keep-alive|te: gzip|upgrade: x||",
        "GET /a HTTP/1.1|host: a||",
        "200",
    ),
    (
        "of TE, what is for trailers is kept",
        "GET /a HTTP/1.1|host: a|connection: te|te: trailers||",
        "GET /a HTTP/1.1|host: a|te: trailers||",
        "200",
    ),
    (
        "credentials for a proxy end here",
        "GET /a HTTP/1.1|host: a|proxy-authorization: Basic YTpi||",
        "GET /a HTTP/1.1|host: a||",
        "200",
    ),
    (
        "what a CGI program takes for its proxy",
        "GET /a HTTP/1.1|host: a|proxy: http://b/||",
        "GET /a HTTP/1.1|host: a||",
        "200",
    ),
    (
        "an underscore for the hyphen of a length",
        "POST /a HTTP/1.1|host: a|content-length: 3|content_length: 30||abc",
        "POST /a HTTP/1.1|content-length: 3|host: a||abc",
        "200",
    ),
    (
        "an underscore for the hyphen of a coding",
        "POST /a HTTP/1.1|host: a|content-length: 3|transfer_encoding: chunked||abc",
        "POST /a HTTP/1.1|content-length: 3|host: a||abc",
        "200",
    ),
    (
        "a trailer field is kept",
        "POST /a HTTP/1.1|host: a|transfer-encoding: chunked|trailer: x-sum||3|abc|0||",
        "POST /a HTTP/1.1|host: a|trailer: x-sum|transfer-encoding: chunked||abc",
        "200",
    ),
    (
        "h2c",
        "GET /a HTTP/1.1|host: a|connection: upgrade, http2-settings|upgrade: h2c|http2-settings: AAMAAABkAARAAAAAAAIAAAAA||",
        "GET /a HTTP/1.1|host: a||",
        "200",
    ),
    (
        "h2c with a body",
        "POST /a HTTP/1.1|host: a|connection: upgrade, http2-settings|upgrade: h2c|http2-settings: AAMA|content-length: 30||GET /b HTTP/1.1|host: a||..",
        "POST /a HTTP/1.1|content-length: 30|host: a||GET /b HTTP/1.1|host: a||..",
        "200",
    ),
    (
        "a WebSocket that is none",
        "POST /a HTTP/1.1|host: a|connection: upgrade|upgrade: websocket|content-length: 30||GET /b HTTP/1.1|host: a||..",
        "POST /a HTTP/1.1|content-length: 30|host: a||GET /b HTTP/1.1|host: a||..",
        "200",
    ),
    ("the preface of HTTP/2", "PRI * HTTP/2.0||SM||", "-", "505x"),
    (
        "Max-Forwards of a GET is passed on",
        "GET /a HTTP/1.1|host: a|max-forwards: 0||",
        "GET /a HTTP/1.1|host: a|max-forwards: 0||",
        "200",
    ),
    (
        "Max-Forwards of OPTIONS ends here",
        "OPTIONS /a HTTP/1.1|host: a|max-forwards: 0||",
        "-",
        "204 or 200 or 405",
    ),
    (
        "Max-Forwards of OPTIONS is counted down",
        "OPTIONS /a HTTP/1.1|host: a|max-forwards: 3||",
        "OPTIONS /a HTTP/1.1|host: a|max-forwards: 2||",
        "200",
    ),
    (
        "Max-Forwards of OPTIONS is no number",
        "OPTIONS /a HTTP/1.1|host: a|max-forwards: -1||",
        "-",
        "400 or 400x",
    ),
    (
        "OPTIONS of the whole server is ours to answer",
        "OPTIONS * HTTP/1.1|host: a||",
        "-",
        "200 or 204",
    ),
    (
        "TRACE with Max-Forwards ends here",
        "TRACE /a HTTP/1.1|host: a|max-forwards: 0||",
        "-",
        "405 or 501 or 405x or 501x",
    ),
    (
        "TRACE would show what others have added",
        "TRACE /a HTTP/1.1|host: a|cookie: a=b||",
        "-",
        "405 or 501 or 405x or 501x",
    ),
];

const PIPELINES: &[Row] = &[
    (
        "two in one",
        "GET /a HTTP/1.1|host: a||GET /b HTTP/1.1|host: a||",
        "GET /a HTTP/1.1|host: a||; GET /b HTTP/1.1|host: a||",
        "200 200",
    ),
    (
        "one behind close",
        "GET /a HTTP/1.1|host: a|connection: close||GET /b HTTP/1.1|host: a||",
        "GET /a HTTP/1.1|host: a||",
        "200x",
    ),
    (
        "one behind HTTP/1.0",
        "GET /a HTTP/1.0|host: a||GET /b HTTP/1.1|host: a||",
        "GET /a HTTP/1.1|host: a||",
        "200x",
    ),
    (
        "one behind a mistake",
        "GET /a HTTP/1.1|host: a|x : y||GET /b HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
    (
        "a mistake behind one",
        "GET /a HTTP/1.1|host: a||GET /b HTTP/1.1|host: a|x : y||",
        "GET /a HTTP/1.1|host: a||",
        "200 400x",
    ),
    (
        "empty lines before",
        "||GET /a HTTP/1.1|host: a||",
        "GET /a HTTP/1.1|host: a||",
        "200 or 400x",
    ),
    ("no version", "GET /a||", "-", "400x"),
    (
        "a version that is none",
        "GET /a HTTP/1.1x|host: a||",
        "-",
        "400x",
    ),
    ("two spaces", "GET  /a HTTP/1.1|host: a||", "-", "400x"),
    (
        "a tab for a space",
        "GET\t/a HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
];

/// What is forwarded is the target that was routed by, to the letter; what cannot be in one is refused, and so is, in every
/// spelling, what a server would resolve to another path than the one that was routed by.
const TARGETS: &[Row] = &[
    (
        "a query",
        "GET /a?b=c&d HTTP/1.1|host: a||",
        "GET /a?b=c&d HTTP/1.1|host: a||",
        "200",
    ),
    (
        "escapes stay as they are",
        "GET /%41%2f%5c?%0d%0a HTTP/1.1|host: a||",
        "GET /%41%2f%5c?%0d%0a HTTP/1.1|host: a||",
        "200",
    ),
    (
        "an escaped end of a line",
        "GET /a%0d%0ax:%20y HTTP/1.1|host: a||",
        "GET /a%0d%0ax:%20y HTTP/1.1|host: a||",
        "200 or 400 or 400x",
    ),
    (
        "two slashes",
        "GET //b/a HTTP/1.1|host: a||",
        "GET //b/a HTTP/1.1|host: a||",
        "200 or 400 or 400x",
    ),
    (
        "two dots",
        "GET /a/../b HTTP/1.1|host: a||",
        "-",
        "400 or 400x",
    ),
    (
        "two dots at the end",
        "GET /a/.. HTTP/1.1|host: a||",
        "-",
        "400 or 400x",
    ),
    (
        "two escaped dots",
        "GET /a/%2e%2E/b HTTP/1.1|host: a||",
        "-",
        "400 or 400x",
    ),
    (
        "two dots between escaped slashes",
        "GET /a%2f..%2fb HTTP/1.1|host: a||",
        "-",
        "400 or 400x",
    ),
    (
        "two dots behind an escaped backslash",
        "GET /a%5c..%5cb HTTP/1.1|host: a||",
        "-",
        "400 or 400x",
    ),
    (
        "two dots with a parameter",
        "GET /a/..;x=y/b HTTP/1.1|host: a||",
        "-",
        "400 or 400x",
    ),
    (
        "dots in a query are nobody's path",
        "GET /a?b=../c HTTP/1.1|host: a||",
        "GET /a?b=../c HTTP/1.1|host: a||",
        "200",
    ),
    ("a fragment", "GET /a#b HTTP/1.1|host: a||", "-", "400x"),
    ("a space", "GET /a b HTTP/1.1|host: a||", "-", "400x"),
    ("a bare LF", "GET /a\nb HTTP/1.1|host: a||", "-", "400x"),
    ("a bare CR", "GET /a\rb HTTP/1.1|host: a||", "-", "400x"),
    ("a NUL", "GET /a\0b HTTP/1.1|host: a||", "-", "400x"),
    ("a backslash", "GET /a\\b HTTP/1.1|host: a||", "-", "400x"),
    (
        "a broken escape",
        "GET /a%zz HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
    (
        "bytes above ASCII",
        "GET /\u{e9} HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
    ("no slash", "GET a HTTP/1.1|host: a||", "-", "400x"),
    (
        "an asterisk for GET",
        "GET * HTTP/1.1|host: a||",
        "-",
        "400x",
    ),
];

/// A table, tried through a proxy with one upstream.
fn check(rows: &[Row]) {
    try_rows(rows, |(name, sent, upstream, client)| {
        let behind = Faulty::healthy();
        let proxy = proxy(&config(&[behind.address], ""));
        let got = exchange(proxy.address, &bytes(sent), Duration::from_millis(250));
        let outcome = got.outcome(sent.starts_with("HEAD "));
        drop(proxy); // What it still holds goes out, or never does.
        let (whole, left) = behind.requests();
        let whole: Vec<String> = whole.iter().map(|request| request.row()).collect();
        let passed = match *upstream {
            "-" => whole.is_empty() && left.is_empty(),
            "~" => whole.is_empty(),
            // What is answered with a 400 need not be passed on.
            rows => whole.join("; ") == rows || (outcome.starts_with("400") && whole.is_empty()),
        };
        let is_answered = client.split(" or ").any(|allowed| allowed == outcome);
        let left: Vec<String> = left
            .iter()
            .map(|b| String::from_utf8_lossy(b).into())
            .collect();
        match passed && is_answered && (*upstream == "~" || left.is_empty()) {
            true => Ok(()),
            false => Err(format!(
                "{name}: {sent:.120?}\n  client   {outcome}\n  want     {client}\n  upstream {whole:?} {left:?}\n  want     {upstream}"
            )),
        }
    });
}

macro_rules! tables {
    ($($name:ident $rows:ident)*) => {
        $(
            #[test]
            fn $name() {
                check($rows);
            }
        )*

        /// The tables do not shrink unseen.
        #[test]
        fn there_are_over_a_hundred_rows() {
            let rows = [$($rows.len()),*];
            assert!(rows.iter().sum::<usize>() > 120, "{rows:?}");
        }
    };
}

tables! {
    lengths LENGTHS
    codings CODINGS
    chunks CHUNKS
    trailers TRAILERS
    fields FIELDS
    hosts HOSTS
    hops HOPS
    pipelines PIPELINES
    targets TARGETS
}
