//! Floor 4. What must be true of every run, whatever the App: each complete valid request has one
//! complete answer, in order, on its own connection; or the schedule says why not.

use super::Outcome;
use super::client::Seen;
use super::reader::{Answer, Asked, excerpt};
use super::reason::{Kind, Reason};
use super::request::Request;

/// The checks of one client.
pub(super) fn check(outcome: &Outcome) -> Result<(), Reason> {
    for (n, seen) in outcome.clients.iter().enumerate() {
        let judge = Judge { outcome, seen };
        judge
            .judge()
            .map_err(|why| why.at(format_args!("client {n}, ")))?;
    }
    Ok(())
}

struct Judge<'a> {
    outcome: &'a Outcome,
    seen: &'a Seen,
}

impl Judge<'_> {
    fn judge(&self) -> Result<(), Reason> {
        let seen = self.seen;
        let mut rest = &seen.received[..];
        let mut end = 0;
        for (n, request) in seen.requests.iter().enumerate() {
            let at = |why: Reason| why.at(format_args!("request {n} ({}): ", request.line()));
            let begin = end;
            end += request.bytes.len();
            if seen.sent <= begin {
                break;
            }
            let is_sent = seen.sent >= end;
            if !is_sent && request.by_head {
                // Whether the server knows that it is HEAD's, nobody can tell from here.
                return Ok(());
            }
            let is_blank = rest.is_empty();
            let answer = self.next(&mut rest, request).map_err(at)?;
            let is_whole = answer.as_ref().is_some_and(|answer| answer.is_whole);
            if !is_whole {
                return match self.excuses(n, end, is_blank) {
                    true => Ok(()),
                    false => Err(at(self.missing(n, begin, end, is_blank))),
                };
            }
            let Some(answer) = answer else { return Ok(()) };
            self.content(n, &answer, is_sent).map_err(at)?;
            if answer.closes {
                return match rest {
                    [] => Ok(()),
                    // Its first letters alone do not say that it is HEAD's.
                    b"Request Timeout" if request.by_head && answer.status == 408 => Ok(()),
                    rest => {
                        let text = format!("after `connection: close`: {}", excerpt(rest));
                        Err(at(Reason::new(Kind::Unasked, text)))
                    }
                };
            }
        }
        match rest {
            [] => Ok(()),
            rest => {
                let text = format!("an answer nobody asked for: {}", excerpt(rest));
                Err(Reason::new(Kind::Unasked, text))
            }
        }
    }

    /// The next final answer, with what may come before it.
    fn next<'b>(
        &self,
        rest: &mut &'b [u8],
        request: &Request,
    ) -> Result<Option<Answer<'b>>, Reason> {
        let asked: Asked = request.asked();
        // What ends with the connection is whole only if that has not broken.
        let ended = self.seen.has_ended && !self.seen.was_reset;
        let read =
            |rest| Answer::read(rest, asked, ended).map_err(|why| Reason::new(Kind::Grammar, why));
        let Some(mut answer) = read(rest)? else {
            return Ok(None);
        };
        if answer.is_interim() {
            if !request.expects_leave {
                return Err(Reason::new(Kind::Unfit, "nobody asked for 100 Continue"));
            }
            *rest = &rest[answer.len..];
            if rest.is_empty() {
                return Ok(None);
            }
            let Some(second) = read(rest)? else {
                return Ok(None);
            };
            answer = second;
            if answer.is_interim() {
                return Err(Reason::new(Kind::Unfit, "100 Continue twice"));
            }
        }
        *rest = &rest[answer.len..];
        Ok(Some(answer))
    }

    fn content(&self, n: usize, answer: &Answer<'_>, is_sent: bool) -> Result<(), Reason> {
        let request = &self.seen.requests[n];
        if request.is_malformed() {
            let is_refused = (400..600).contains(&answer.status) && answer.closes;
            return match is_refused || !is_sent {
                true => Ok(()),
                false => Err(Reason::new(
                    Kind::Unfit,
                    format!("malformed, and answered {}", answer.status),
                )),
            };
        }
        if answer.status == 408 {
            return match !is_sent || self.is_slow(n) {
                true => Ok(()),
                false => Err(Reason::new(Kind::Unfit, "408, though it came at once")),
            };
        }
        let limits = &self.outcome.world.limits;
        if request.is_head_over(limits) || answer.status == 431 {
            let is_right = request.is_head_over(limits) && answer.status == 431 && answer.closes;
            return match is_right || !is_sent {
                true => Ok(()),
                false => {
                    let (bytes, fields) = (request.head_len, request.fields);
                    let text = format!(
                        "a head of {bytes} bytes and {fields} fields is answered {}; limits.head = {}, limits.fields = {}",
                        answer.status, limits.head, limits.fields
                    );
                    Err(Reason::new(Kind::Unfit, text))
                }
            };
        }
        if request.closes && !answer.closes {
            return Err(Reason::new(Kind::Unfit, "the connection should close"));
        }
        match &request.check {
            Some(check) => check(request, answer).map_err(|why| Reason::new(Kind::Template, why)),
            None => Ok(()),
        }
    }

    /// Request `n` has no answer, or a part of one.
    fn missing(&self, n: usize, begin: usize, end: usize, is_blank: bool) -> Reason {
        let seen = self.seen;
        let (kind, what) = match is_blank {
            true => (Kind::Missing, "no answer"),
            false => (Kind::Part, "a part of an answer"),
        };
        let connection = match (seen.was_reset, seen.has_ended) {
            (true, _) => "was reset",
            (false, true) => "was closed",
            (false, false) => "is open, and nothing moves any more",
        };
        let server = match seen.ended.get(n) {
            None => "has not answered it",
            Some(ended) if ended.is_aborted => "has broken it off",
            Some(_) => "says that it is answered",
        };
        let (sent, all) = (seen.sent.min(end) - begin, end - begin);
        let text = format!(
            "{what}; {sent} of its {all} bytes were sent, the connection {connection}; the server {server}"
        );
        Reason::new(kind, text)
    }

    /// There is a reason why request `n` has no answer, or a part of one.
    fn excuses(&self, n: usize, end: usize, is_blank: bool) -> bool {
        let (outcome, seen) = (self.outcome, self.seen);
        let request = &seen.requests[n];
        if seen.did_reset || seen.stalls || seen.sent < end {
            return true;
        }
        // What was on its way when the server left is lost; what was sent and read before is not.
        let was_cut = outcome.left_at.is_some() && seen.closed_at == outcome.left_at;
        if was_cut && outcome.cut > 0 || self.was_overtaken(n, end) {
            return true;
        }
        let ended = |n: usize| seen.ended.get(n);
        match ended(n) {
            // The server says that it is answered, and so it must be: in a drain, too.
            Some(ended) if !ended.is_aborted => seen.stalled >= outcome.world.timeouts.write / 2,
            // A body that turns out to be too long takes the answer that had begun along.
            Some(_) => {
                let is_over = request.is_body_over(&outcome.world.limits);
                request.may_fail || is_over || self.is_slow(n)
            }
            // Nothing moves any more, and it still waits.
            None if !seen.has_ended => request.may_fail,
            None => {
                let last = n.checked_sub(1);
                // HEAD is answered whole, even if what would be its body was broken off.
                let is_behind_broken = last.and_then(ended).is_some_and(|last| last.is_aborted);
                let is_behind_unread = last.is_some_and(|last| self.may_be_unread(last));
                let faults = outcome.world.faults.accept_errors > 0;
                is_blank && (outcome.is_stopped || is_behind_broken || is_behind_unread)
                    || is_blank && n == 0 && seen.was_reset && faults
                    || self.is_slow(n)
            }
        }
    }

    /// Its body was refused, or is too long to be dropped: its answer came before.
    fn may_be_unread(&self, n: usize) -> bool {
        let request = &self.seen.requests[n];
        let limits = &self.outcome.world.limits;
        let is_long = request.bytes.len() as u64 > limits.discard || request.is_body_over(limits);
        request.has_body && (request.expects_leave || is_long)
    }

    /// A reset has taken the end of its answer along. A server resets who has sent more than it reads:
    /// behind the last answer for longer than it lingers, or when it leaves at once; and who would take
    /// a part of an answer for the whole.
    fn was_overtaken(&self, n: usize, end: usize) -> bool {
        let (outcome, seen) = (self.outcome, self.seen);
        if !seen.was_reset {
            return false;
        }
        let limits = &outcome.world.limits;
        let ends = |request: &Request| {
            let is_over = request.is_head_over(limits) || request.is_body_over(limits);
            // An answer without a length ends with the connection in HTTP/1.0.
            request.closes || request.by_http_10 || request.is_malformed() || is_over
        };
        let sent_more = seen.sent > end || seen.requests[n].has_body;
        let lingers =
            outcome.left_at_once || outcome.world.is_tight() || seen.requests.iter().any(ends);
        let mut behind = seen.requests.iter().zip(&seen.ended).skip(n + 1);
        let breaks_off = behind.any(|(request, ended)| request.by_http_10 && ended.is_aborted);
        sent_more && lingers || breaks_off
    }

    fn is_slow(&self, n: usize) -> bool {
        // Where a timeout is that short, the network alone may exceed it.
        self.seen.was_slow(n) || self.outcome.world.is_tight()
    }
}
