//! Floor 4. A file as an answer: which representation, whether it is wanted, how much of it.
//!
//! ```text
//! entry ─► coding ─► preconditions ─► range ─► 200, 206
//!            └► 406       └► 304, 412     └► 416
//! ```

use super::cache::{Entry, Found, Now};
use super::conditional::{self, Validators, Verdict};
use super::negotiation::{self, CODINGS, Choice};
use super::range::{self, Selection};
use super::{Files, names};
use crate::{Body, Method, Request, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha1::{Digest, Sha1};
use std::ops::Range;
use std::rc::Rc;

impl Files {
    pub(super) fn answer(
        &mut self,
        now: Now,
        entry: Rc<Entry>,
        req: &Request<'_>,
        mut res: Response<'_>,
    ) {
        let (mut selected, mut coding) = (entry.clone(), None);
        if self.precompressed {
            let mut siblings = self.cache.siblings(now, &entry);
            let varies = siblings.contains(&true);
            if varies {
                res = res.header("vary", "accept-encoding");
            }
            loop {
                let accepted = req.headers().get_all("accept-encoding");
                let n = match negotiation::choose(accepted, siblings) {
                    Choice::Identity => break,
                    Choice::Coded(n) => n,
                    Choice::Nothing if varies => return self.refuse(now, 406, res),
                    Choice::Nothing => {
                        return self.refuse(now, 406, res.header("vary", "accept-encoding"));
                    }
                };
                let extension = CODINGS[n].extension;
                match self.cache.find_joined(now, &entry.path, extension) {
                    Ok(Found::File(sibling)) => {
                        (selected, coding) = (sibling, Some(CODINGS[n].token));
                        break;
                    }
                    // Gone since it was seen, or not to be read.
                    _ => siblings[n] = false,
                }
            }
        }

        let current = Validators {
            etag: &selected.etag,
            modified: selected.modified,
        };
        let verdict = conditional::evaluate(req.headers(), current);
        if verdict == Verdict::Failed {
            return self.refuse(now, 412, res);
        }
        let len = selected.content.len();
        let selection = match asked_range(req) {
            Some(value)
                if verdict == Verdict::Proceed
                    && conditional::range_applies(req.headers(), current, now.1) =>
            {
                range::select(value, len)
            }
            _ => Selection::Whole,
        };
        // The parts of a coded representation are no whole that could be decoded.
        let selection = match selection {
            Selection::Parts(parts) if parts.len() > 1 && coding.is_some() => Selection::Whole,
            other => other,
        };
        if selection == Selection::Unsatisfiable {
            let res = res.header("content-range", format!("bytes */{len}"));
            return self.refuse(now, 416, res);
        }

        let mut res = res
            .header("etag", &selected.etag)
            .header("last-modified", &selected.last_modified);
        if let Some(value) = self.cache_control_of(&entry.path) {
            res = res.header("cache-control", value);
        }
        if verdict == Verdict::NotModified {
            return res.status(304).empty();
        }
        if let Some(coding) = coding {
            res = res.header("content-encoding", coding);
        }
        let res = res
            .header("accept-ranges", "bytes")
            .header("x-content-type-options", "nosniff");
        match selection {
            Selection::Parts(parts) => match &parts[..] {
                [part] => res
                    .status(206)
                    .header("content-type", &entry.content_type)
                    .header("content-range", content_range(part, len))
                    .bytes(selected.content.part(part.clone())),
                parts => {
                    let boundary = boundary(now, req, &selected.etag);
                    let body = multipart(&boundary, &entry.content_type, parts, &selected);
                    res.status(206)
                        .header(
                            "content-type",
                            format!("multipart/byteranges; boundary={boundary}"),
                        )
                        .bytes(body)
                }
            },
            _ => res
                .header("content-type", &entry.content_type)
                .bytes(selected.content.whole()),
        }
    }

    /// The value of the first rule that a path falls under.
    pub(super) fn cache_control_of(&self, path: &str) -> Option<&str> {
        self.cache_control
            .iter()
            .find(|(pattern, _)| names::matches(pattern, path))
            .map(|(_, value)| value.as_str())
    }
}

/// RFC 9110 §14.2: a range is for GET alone. Several lines of it are not what the field allows.
fn asked_range<'a>(req: &Request<'a>) -> Option<&'a [u8]> {
    let headers = req.headers();
    let mut lines = headers.get_all("range");
    let line = lines.next()?;
    (*req.method() == Method::GET && lines.next().is_none()).then_some(line)
}

fn content_range(part: &Range<u64>, len: u64) -> String {
    format!("bytes {}-{}/{len}", part.start, part.end - 1)
}

/// RFC 9110 §14.6.
fn multipart(
    boundary: &str,
    content_type: &str,
    parts: &[Range<u64>],
    selected: &Entry,
) -> Body<'static> {
    let len = selected.content.len();
    let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
    for (n, part) in parts.iter().enumerate() {
        let line_end = if n == 0 { "" } else { "\r\n" };
        let range = content_range(part, len);
        pieces.push(Body::from(format!(
            "{line_end}--{boundary}\r\ncontent-type: {content_type}\r\ncontent-range: {range}\r\n\r\n"
        )));
        pieces.push(selected.content.part(part.clone()));
    }
    pieces.push(Body::from(format!("\r\n--{boundary}--\r\n")));
    Body::Parts(pieces)
}

/// What no file holds but by design of who knows the future: the request is part of it.
fn boundary((_, wall): Now, req: &Request<'_>, etag: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("{etag} {} {wall:?}", req.id()));
    URL_SAFE_NO_PAD.encode(&hash.finalize()[..])
}
