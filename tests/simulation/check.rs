//! What must be true of a run, whatever its seed.
//!
//! For each client: its answers come one per request, in order, each the answer to that request and
//! to no other; where one is missing or broken off, the script knows why. For each request: `after`
//! was called once if `before` was, a body's `end` once if its `fold` was.

use crate::site::{self, Ending, Entry, KINDS, Kind, Number};
use loopwright::sim::{Answer, Asked, Outcome, Request, Seen};
use std::collections::BTreeMap;

/// What holds for all clients of a run. `loopwright::sim` has checked already what holds for any App.
pub(crate) struct World<'a> {
    pub(crate) ledger: &'a BTreeMap<String, Entry>,
    pub(crate) outcome: &'a Outcome,
    /// Timeouts are so short that a client may be too slow by chance.
    pub(crate) is_tight: bool,
    pub(crate) refuses: bool,
    /// The server was asked to stop, and has cut some answers when it left.
    pub(crate) drains: bool,
    pub(crate) has_cut: bool,
}

static MALFORMED: Kind = Kind {
    name: "malformed",
    is_upload: false,
    number: Number::Delay,
    answer: site::Answer::Reason(400),
    ending: Ending::Always,
};

fn kind(request: &Request) -> &'static Kind {
    request.template.map_or(&MALFORMED, |n| &KINDS[n])
}

/// The connection breaks in the middle of its answer. (A length that the body falls short of is no
/// matter without a body.)
fn is_cut(request: &Request) -> bool {
    let kind = kind(request);
    kind.answer == site::Answer::Cut && !(request.by_head && kind.name == "sized_short")
}

impl World<'_> {
    pub(crate) fn check(&self) {
        for (path, entry) in self.ledger {
            let request = self
                .request(path)
                .unwrap_or_else(|| panic!("nobody asked for {path}"));
            // A body that is announced too large is refused before anybody is called.
            let calls = if self.is_body_over(request) {
                entry.begun.max(entry.done.len() as u32)
            } else {
                entry.begun
            };
            assert!(calls == 1 && entry.done.len() == 1, "{path}: {entry:?}");
            assert_eq!(
                entry.folds, entry.fold_ends,
                "{path}: a body's end is told once"
            );
            assert!(entry.aborts <= entry.watched, "{path}: {entry:?}");
        }
        for (n, seen) in self.outcome.clients.iter().enumerate() {
            let world = self;
            Judge { world, seen, n }.judge();
        }
    }

    /// Its body is over its route's limit.
    fn is_body_over(&self, request: &Request) -> bool {
        match kind(request).name {
            "limited" => request.body.len() as u64 > site::BODY_LIMIT,
            _ => request.is_body_over(&self.outcome.world.limits),
        }
    }

    /// Its length is announced, so that it is refused before anything else happens.
    fn is_announced_over(&self, request: &Request) -> bool {
        let lines = request.bytes.split(|&b| b == b'\n');
        let mut head = lines.take_while(|line| *line != b"\r");
        let is_chunked = head.any(|line| line == b"transfer-encoding: chunked\r");
        self.is_body_over(request) && !is_chunked
    }

    fn is_head_over(&self, request: &Request) -> bool {
        request.is_head_over(&self.outcome.world.limits)
    }

    fn request(&self, path: &str) -> Option<&Request> {
        let mut all = self.outcome.clients.iter().flat_map(|seen| &seen.requests);
        all.find(|request| request.path == path)
    }
}

struct Judge<'a> {
    world: &'a World<'a>,
    seen: &'a Seen,
    n: usize,
}

impl Judge<'_> {
    fn judge(&self) {
        let mut rest = &self.seen.received[..];
        let mut answered = 0;
        let mut is_over = false;
        for (n, request) in self.seen.requests.iter().enumerate() {
            let Some(answer) = self.next(&mut rest, n) else {
                break;
            };
            let is_whole = self.check_answer(n, &answer);
            if !is_whole {
                self.excuse(n, "is broken off");
            }
            answered = n + 1;
            is_over = answer.closes || !is_whole || is_cut(request);
            if is_over {
                break;
            }
        }
        let at = self.at(answered);
        let Some(next) = self.seen.requests.get(answered) else {
            assert!(
                rest.is_empty(),
                "{at}: an answer nobody asked for: {}",
                excerpt(rest)
            );
            return;
        };
        assert!(
            !is_over || rest.is_empty(),
            "{at}: an answer after the last: {}",
            excerpt(rest)
        );
        if !is_over
            && self.is_begun(answered)
            && (self.is_whole(answered) || !rest.is_empty() || self.entry(next).is_some())
        {
            self.excuse(answered, "has no answer");
        }
    }

    /// The next final answer, with what may come before it.
    fn next<'b>(&self, rest: &mut &'b [u8], n: usize) -> Option<Answer<'b>> {
        let request = &self.seen.requests[n];
        let asked = Asked {
            by_head: self.is_head(n),
            ..request.asked()
        };
        let mut answer = read(rest, asked, self.seen.has_ended)?;
        if answer.is_interim() {
            assert!(
                request.expects_leave,
                "{}: nobody asked for 100 Continue",
                request.path
            );
            let after = &rest[answer.len..];
            answer = read(after, asked, self.seen.has_ended).filter(|_| !after.is_empty())?;
            assert!(
                !answer.is_interim(),
                "{}: leave is given once",
                request.path
            );
            *rest = after;
        }
        *rest = &rest[answer.len..];
        Some(answer)
    }

    /// Says whether the answer is whole, which its framing alone need not tell.
    fn check_answer(&self, n: usize, answer: &Answer<'_>) -> bool {
        let request = &self.seen.requests[n];
        let at = self.at(n);
        let is_late = answer.status == 408
            && (self.world.is_tight || self.seen.was_slow(n) || !self.is_whole(n));
        let is_refused = request.is_malformed() && matches!(answer.status, 400 | 414 | 431);
        let (status, body) = match self.expected(request) {
            _ if is_late || is_refused => (answer.status, reason(answer.status)),
            _ if self.world.is_head_over(request) => (431, reason(431)),
            _ if self.is_too_large(request, answer) => (413, reason(413)),
            expected => expected,
        };
        assert_eq!(answer.status, status, "{at}: {}", excerpt(&answer.body));
        let is_head = self.is_head(n);
        let body = if is_head { &[][..] } else { &body };
        let is_until_close = request.by_http_10 && answer.field("content-length").is_none();
        let is_whole = answer.is_whole
            && answer.body.len() == body.len()
            && !(is_cut(request) && status == 200);
        assert!(
            body.starts_with(&answer.body),
            "{at}: {} instead of {}",
            excerpt(&answer.body),
            excerpt(body)
        );
        let looks_whole = answer.is_whole && !is_until_close && !is_head;
        assert!(
            is_whole || !looks_whole,
            "{at}: {} looks whole instead of {}",
            excerpt(&answer.body),
            excerpt(body)
        );
        match answer.field("x-path") {
            Some(path) => assert_eq!(path, request.path, "{at}"),
            None => assert!(status >= 400, "{at}: middleware's field is lost"),
        }
        if is_whole
            && status == 200
            && kind(request).name == "summed"
            && !request.by_head
            && !request.by_http_10
        {
            assert_eq!(answer.trailers, [("x-sum", request.path.as_str())], "{at}");
        }
        self.check_ending(request, answer, &at);
        // An answer to HEAD looks whole to its client even if what would be its body was cut.
        let is_broken = self.world.has_cut || self.seen.did_reset || self.seen.was_reset;
        let cut_unseen = request.by_head && is_broken;
        let is_known = is_whole && !cut_unseen && !self.may_be_part(request);
        if let Some(entry) = self.entry(request).filter(|_| is_known) {
            assert_eq!(
                entry.done,
                [(status, answer.body.len() as u64, false)],
                "{at}: what `after` was told"
            );
        }
        is_whole
    }

    /// Too long a body is refused, unless the answer may come before its end has.
    fn is_too_large(&self, request: &Request, answer: &Answer<'_>) -> bool {
        let kind = kind(request);
        let may_be_answered = kind.answer == site::Answer::Echo
            || kind.ending == Ending::Early && kind.name != "limited";
        let is_announced = self.world.is_announced_over(request);
        self.world.is_body_over(request)
            && (is_announced || !may_be_answered || answer.status == 413)
    }

    /// A connection ends if the client wants it so, and else only for a reason.
    fn check_ending(&self, request: &Request, answer: &Answer<'_>, at: &str) {
        let is_wanted = request.closes || kind(request).ending == Ending::Always;
        let may_close = is_wanted
            || request.by_http_10 && answer.field("content-length").is_none()
            || kind(request).ending == Ending::Early
            || answer.status == 408
            || self.world.is_head_over(request)
            || self.world.is_body_over(request)
            || self.seen.did_finish
            || self.world.drains;
        assert!(
            !is_wanted || answer.closes,
            "{at}: the connection should close"
        );
        assert!(
            !answer.closes || may_close,
            "{at}: why does the connection close? {answer:?}"
        );
    }

    /// Of a head that did not arrive whole, the server cannot know that it is HEAD's.
    fn is_head(&self, n: usize) -> bool {
        let request = &self.seen.requests[n];
        request.by_head && self.entry(request).is_some()
    }

    fn expected(&self, request: &Request) -> (u16, Vec<u8>) {
        let path = request.path.as_bytes();
        match kind(request).answer {
            site::Answer::Path(status) => (status, path.to_vec()),
            site::Answer::Reason(status) => (status, reason(status)),
            site::Answer::Empty(status) => (status, Vec::new()),
            site::Answer::Noise | site::Answer::Cut => {
                (200, site::noise(&request.path, request.number))
            }
            site::Answer::File => (200, site::file_content(request.number)),
            site::Answer::Echo => (200, request.body.clone()),
            site::Answer::Sum => {
                // Only a fold is told of trailers.
                let is_fold = matches!(kind(request).name, "fold" | "fold_slowly" | "relay");
                let trailer = request.trailer.as_deref().filter(|_| is_fold);
                (
                    200,
                    site::summary(&request.path, &request.body, trailer).into_bytes(),
                )
            }
            site::Answer::Relayed => match self.source(request) {
                Some(upload) => (200, upload.body.clone()),
                None => (500, reason(500)),
            },
        }
    }

    fn source(&self, request: &Request) -> Option<&Request> {
        let path = self.entry(request)?.source.as_deref()?;
        self.world.request(path)
    }

    /// What is relayed is as whole as what was sent.
    fn may_be_part(&self, request: &Request) -> bool {
        self.source(request).is_some_and(|upload| {
            self.entry(upload).is_some_and(|entry| {
                entry
                    .done
                    .iter()
                    .any(|done| done.2 || matches!(done.0, 408 | 413))
            })
        })
    }

    /// There is a reason why request `n` has no answer, or a part of one.
    fn excuse(&self, n: usize, what: &str) {
        let (world, seen) = (self.world, self.seen);
        let request = &seen.requests[n];
        let entry = self.entry(request);
        let is_lossy = seen.did_reset
            || seen.stalls
            || seen.stalled >= world.outcome.world.timeouts.write / 2
            || world.has_cut
            // Refused, and it sent the rest all the same.
            || (seen.was_reset && !self.is_whole(n))
            || (seen.was_reset && (world.outcome.left_at_once || self.may_be_closed_on()));
        // A client of HTTP/1.0 is told of it by a reset, which takes what is on its way along.
        let is_aborted = |request: &Request| {
            let done = self.entry(request).map(|entry| &entry.done);
            request.by_http_10 && done.is_some_and(|done| done.iter().any(|done| done.2))
        };
        let later_is_cut = seen.requests[n + 1..].iter().any(is_aborted);
        let is_answered = entry.is_some_and(|entry| entry.done.iter().any(|done| !done.2));
        let ends_early = n
            .checked_sub(1)
            .map(|last| &seen.requests[last])
            .is_some_and(|last| kind(last).ending == Ending::Early || world.is_body_over(last));
        // Nothing of such an answer is missing: only its connection's end tells, and `after`.
        let is_behind_broken_head = n
            .checked_sub(1)
            .map(|last| &seen.requests[last])
            .filter(|last| last.by_head)
            .and_then(|last| self.entry(last))
            .is_some_and(|last| last.done.iter().any(|done| done.2));
        let reason = [
            (is_lossy, "the connection broke"),
            (
                is_behind_broken_head && entry.is_none(),
                "the answer to HEAD before it was broken off",
            ),
            (is_cut(request), "its answer is cut"),
            (
                kind(request).answer == site::Answer::Echo && world.is_body_over(request),
                "its body turned out to be too long",
            ),
            (later_is_cut, "an answer behind it was cut"),
            (is_answered, ""),
            (
                kind(request).ending == Ending::Overflow,
                "its producer does not wait",
            ),
            (!self.is_whole(n), "it was not sent whole"),
            (self.may_be_part(request), "what it is relayed is not whole"),
            (
                seen.was_reset && world.refuses && entry.is_none(),
                "the connection was not accepted",
            ),
            (
                ends_early && entry.is_none(),
                "the body before it was too long to discard",
            ),
            (world.drains && entry.is_none(), "the server left"),
            (
                (world.is_tight || seen.was_slow(n))
                    && (entry.is_none() || kind(request).is_upload),
                "it was too slow",
            ),
        ];
        let reason = reason
            .iter()
            .find(|(holds, _)| *holds)
            .map(|(_, reason)| *reason);
        assert!(
            reason.is_some_and(|reason| !reason.is_empty()),
            "{} {what}: {entry:?}, received {}, sent {}, reset {} {}, ended {}",
            self.at(n),
            seen.received.len(),
            seen.sent,
            seen.did_reset,
            seen.was_reset,
            seen.has_ended
        );
    }

    /// A client that asks for the end and sends on all the same loses what it has not yet taken; so
    /// does one that sends for longer than the server lingers.
    fn may_be_closed_on(&self) -> bool {
        let asks_for_the_end = |request: &Request| {
            let is_over = self.world.is_head_over(request) || self.world.is_body_over(request);
            request.closes || request.by_http_10 || is_over
        };
        self.world.is_tight || self.seen.requests.iter().any(asks_for_the_end)
    }

    fn entry(&self, request: &Request) -> Option<&Entry> {
        self.world.ledger.get(&request.path)
    }

    fn end_of(&self, n: usize) -> usize {
        self.seen.requests[..=n]
            .iter()
            .map(|request| request.bytes.len())
            .sum()
    }

    fn is_whole(&self, n: usize) -> bool {
        self.seen.sent >= self.end_of(n)
    }

    fn is_begun(&self, n: usize) -> bool {
        self.seen.sent > self.end_of(n) - self.seen.requests[n].bytes.len()
    }

    fn at(&self, n: usize) -> String {
        let request = self.seen.requests.get(n);
        let head = request.map_or("(the end)".to_string(), |request| {
            let line = request
                .bytes
                .split(|&b| b == b'\r')
                .next()
                .unwrap_or_default();
            String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned()
        });
        format!("client {}, request {n}: {head}", self.n)
    }
}

fn reason(status: u16) -> Vec<u8> {
    let status = http::StatusCode::from_u16(status).ok();
    status
        .and_then(|status| status.canonical_reason())
        .unwrap_or("")
        .into()
}

/// `loopwright::sim` has read it before, and found nothing wrong.
fn read(input: &[u8], asked: Asked, ended: bool) -> Option<Answer<'_>> {
    let answer = Answer::read(input, asked, ended).unwrap()?;
    if !answer.is_interim() {
        assert_eq!(answer.field("server"), Some("loopwright"));
    }
    Some(answer)
}

/// The first bytes, for a message.
fn excerpt(bytes: &[u8]) -> String {
    let end = bytes.len().min(120);
    let text = String::from_utf8_lossy(&bytes[..end]);
    format!("{text:?} ({} bytes)", bytes.len())
}
