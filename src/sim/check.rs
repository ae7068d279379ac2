//! Floor 4. What must be true of every run, whatever the App: each complete valid request has one
//! complete answer, in order, on its own connection; or the schedule says why not.

use super::Outcome;
use super::client::Seen;
use super::reader::{Answer, Asked, excerpt};
use super::request::Request;

/// The checks of one client.
pub(super) fn check(outcome: &Outcome) -> Result<(), String> {
    for (n, seen) in outcome.clients.iter().enumerate() {
        let judge = Judge { outcome, seen };
        judge.judge().map_err(|why| format!("client {n}, {why}"))?;
    }
    Ok(())
}

struct Judge<'a> {
    outcome: &'a Outcome,
    seen: &'a Seen,
}

impl Judge<'_> {
    fn judge(&self) -> Result<(), String> {
        let seen = self.seen;
        let mut rest = &seen.received[..];
        let mut end = 0;
        for (n, request) in seen.requests.iter().enumerate() {
            let at = |why: String| format!("request {n} ({}): {why}", request.line());
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
                return match self.excuses(n, is_sent, is_blank) {
                    true => Ok(()),
                    false => Err(at(format!(
                        "{}; {} of its {} bytes were sent, the connection {}",
                        if is_blank {
                            "no answer"
                        } else {
                            "a part of an answer"
                        },
                        seen.sent.min(end) - begin,
                        request.bytes.len(),
                        match (seen.was_reset, seen.has_ended) {
                            (true, _) => "was reset",
                            (false, true) => "was closed",
                            (false, false) => "is open, and nothing moves any more",
                        }
                    ))),
                };
            }
            let Some(answer) = answer else { return Ok(()) };
            self.content(request, &answer, is_sent).map_err(at)?;
            if answer.closes {
                return match rest {
                    [] => Ok(()),
                    rest => Err(at(format!("after `connection: close`: {}", excerpt(rest)))),
                };
            }
        }
        match rest {
            [] => Ok(()),
            rest => Err(format!("an answer nobody asked for: {}", excerpt(rest))),
        }
    }

    /// The next final answer, with what may come before it.
    fn next<'b>(
        &self,
        rest: &mut &'b [u8],
        request: &Request,
    ) -> Result<Option<Answer<'b>>, String> {
        let asked: Asked = request.asked();
        // What ends with the connection is whole only if that has not broken.
        let ended = self.seen.has_ended && !self.seen.was_reset;
        let Some(mut answer) = Answer::read(rest, asked, ended)? else {
            return Ok(None);
        };
        if answer.is_interim() {
            if !request.expects_leave {
                return Err("nobody asked for 100 Continue".to_string());
            }
            *rest = &rest[answer.len..];
            if rest.is_empty() {
                return Ok(None);
            }
            let Some(second) = Answer::read(rest, asked, ended)? else {
                return Ok(None);
            };
            answer = second;
            if answer.is_interim() {
                return Err("100 Continue twice".to_string());
            }
        }
        *rest = &rest[answer.len..];
        Ok(Some(answer))
    }

    fn content(&self, request: &Request, answer: &Answer<'_>, is_sent: bool) -> Result<(), String> {
        if request.is_malformed() {
            let is_refused = (400..600).contains(&answer.status) && answer.closes;
            return match is_refused || !is_sent {
                true => Ok(()),
                false => Err(format!("malformed, and answered {}", answer.status)),
            };
        }
        if answer.status == 408 {
            return match !is_sent || self.is_slow() {
                true => Ok(()),
                false => Err("408, though it came at once".to_string()),
            };
        }
        if request.closes && !answer.closes {
            return Err("the connection should close".to_string());
        }
        match &request.check {
            Some(check) => check(request, answer),
            None => Ok(()),
        }
    }

    /// There is a reason why request `n` has no answer, or a part of one.
    fn excuses(&self, n: usize, is_sent: bool, is_blank: bool) -> bool {
        let (outcome, seen) = (self.outcome, self.seen);
        let request = &seen.requests[n];
        if seen.did_reset || seen.stalls || !is_sent || request.may_fail {
            return true;
        }
        if !seen.has_ended {
            // Nothing moves any more, and it still waits.
            return false;
        }
        let ends = |request: &Request| request.closes || request.is_malformed();
        let world = &outcome.world;
        // Its body was refused, or is too long to be dropped: its answer came before.
        let unread = n
            .checked_sub(1)
            .map(|last| &seen.requests[last])
            .is_some_and(|last| {
                last.has_body
                    && (last.expects_leave || last.bytes.len() as u64 > world.limits.discard)
            });
        let is_refused = n == 0 && (world.faults.accept_errors > 0 || outcome.is_stopped);
        outcome.cut > 0
            || self.is_slow()
            || (is_blank && (outcome.is_stopped || unread))
            // What HEAD is answered looks whole, even if what would be its body was broken off.
            || (is_blank && seen.requests[..n].iter().any(|before| before.may_fail))
            || (seen.was_reset && (outcome.left_at_once || seen.requests.iter().any(ends)))
            // A producer over `limits.output` takes what waits before it along.
            || seen.requests[n + 1..].iter().any(|later| later.may_fail)
            || (seen.was_reset && is_blank && is_refused)
    }

    fn is_slow(&self) -> bool {
        // Where a timeout is that short, the network alone may exceed it.
        self.seen.is_slow || self.outcome.world.quickest().as_millis() < 1000
    }
}
