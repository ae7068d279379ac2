//! HTTP/1.1 to the letter: RFC 9110, RFC 9112 and RFC 3986, as tables of what arrives and what becomes
//! of it. `docs/conformance.md` says which clause which test stands for.
//!
//! A row is what arrives (`|` is CRLF, `¦` is a `|`, any other character is one byte) and its outcome:
//!
//! ```text
//! "200 > POST /read=abc"     answered 200; the app saw one request, and read "abc"; the connection goes on
//! "400x"                     answered 400, then closed; the app saw nothing
//! "200 400x > GET /"         the first request was answered, what came behind it refused
//! "200! > POST /ignore"      closed without a word, for the answer was out
//! ```
//! Every row is sent over TCP at once, with a probe behind it: a request that must be answered if the
//! connection goes on, and that nobody may see if it does not. Then by single bytes and by pieces of chance
//! in the simulator; then to the state machine alone, split in two at every byte (rows of more than 400 at
//! every second, third, …). All of them have to come out the same.

mod agreement;
mod answers;
mod connection;
mod fields;
mod framing;
mod host;
mod line;
mod site;
mod smuggling;
mod support;
mod table;
