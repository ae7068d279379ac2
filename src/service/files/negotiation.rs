//! Floor 4. Negotiation: RFC 9110 §12.4.2 (weights), §12.5.1 (HTML or JSON), §12.5.3 (codings).

/// A content coding, and what a sibling of that coding is called.
pub(super) struct Coding {
    pub(super) token: &'static str,
    pub(super) extension: &'static str,
}

/// The codings we know, the best first.
pub(super) const CODINGS: [Coding; 3] = [
    Coding {
        token: "br",
        extension: ".br",
    },
    Coding {
        token: "zstd",
        extension: ".zst",
    },
    Coding {
        token: "gzip",
        extension: ".gz",
    },
];

/// Which of [`CODINGS`] a file has siblings for.
pub(super) type Siblings = [bool; CODINGS.len()];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    Identity,
    /// Its place in [`CODINGS`].
    Coded(usize),
    /// Nothing there is acceptable.
    Nothing,
}

/// The best of what there is for these `accept-encoding` lines. A coding is only sent to who names
/// it, or `*`; the file as it is to everybody who does not refuse it. At equal weights the coding
/// goes before the file as it is.
pub(super) fn choose<'a>(lines: impl Iterator<Item = &'a [u8]>, siblings: Siblings) -> Choice {
    let mut weights = [None; CODINGS.len()];
    let (mut identity, mut any) = (None, None);
    for (name, weight) in lines.flat_map(weighted) {
        let is = |token: &str| name.eq_ignore_ascii_case(token.as_bytes());
        if is("*") {
            any = Some(weight);
        } else if is("identity") {
            identity = Some(weight);
        } else if let Some(n) = CODINGS
            .iter()
            .position(|coding| is(coding.token) || (coding.token == "gzip" && is("x-gzip")))
        {
            weights[n] = Some(weight);
        }
    }
    let mut best = (0, Choice::Nothing);
    for (n, weight) in weights.into_iter().enumerate() {
        let weight = weight.or(any).unwrap_or(0);
        if siblings[n] && weight > best.0 {
            best = (weight, Choice::Coded(n));
        }
    }
    let is_refused = identity.or(any) == Some(0);
    match best {
        (weight, _) if identity.is_some_and(|identity| identity > weight) => Choice::Identity,
        (0, _) if is_refused => Choice::Nothing,
        (0, _) => Choice::Identity,
        (_, choice) => choice,
    }
}

/// Whether these `accept` lines prefer `application/json` to `text/html`.
pub(super) fn prefers_json<'a>(lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut html, mut json) = (Media::default(), Media::default());
    for (range, weight) in lines.flat_map(weighted) {
        html.hear(range, weight, [b"text/html", b"text/*"]);
        json.hear(range, weight, [b"application/json", b"application/*"]);
    }
    json.weight > html.weight
}

/// What is known of a media type's weight: the most specific range decides.
#[derive(Default)]
struct Media {
    specific: usize,
    weight: u16,
}

impl Media {
    fn hear(&mut self, range: &[u8], weight: u16, [exact, group]: [&[u8]; 2]) {
        let specific = [b"*/*", group, exact]
            .iter()
            .position(|known| range.eq_ignore_ascii_case(known));
        let specific = specific.map_or(0, |n| n + 1);
        if specific > self.specific {
            *self = Media { specific, weight };
        }
    }
}

/// The members of a list and their weights in thousandths. One whose weight is none is left out.
fn weighted(line: &[u8]) -> impl Iterator<Item = (&[u8], u16)> {
    line.split(|&b| b == b',').filter_map(|member| {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let quality = parts.find_map(|part| {
            part.strip_prefix(b"q=")
                .or_else(|| part.strip_prefix(b"Q="))
        });
        Some((name, quality.map_or(Some(1000), weight)?))
    })
}

/// `0` to `1`, with up to three digits after the point.
fn weight(text: &[u8]) -> Option<u16> {
    let (whole, digits) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |n: usize| digits.get(n).map_or(0, |b| u16::from(b - b'0'));
    let thousandths = digit(0) * 100 + digit(1) * 10 + digit(2);
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        for (text, want) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("0.", Some(0)),
            ("0.5", Some(500)),
            ("0.05", Some(50)),
            ("0.999", Some(999)),
            ("1.000", Some(1000)),
            ("1.001", None),
            ("2", None),
            ("0.1234", None),
            ("-1", None),
            (".5", None),
            ("", None),
            ("0.x", None),
        ] {
            assert_eq!(weight(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn codings() {
        use Choice::*;
        const ALL: Siblings = [true; 3];
        const NONE: Siblings = [false; 3];
        const GZIP: Siblings = [false, false, true];
        let (br, zstd, gzip) = (Coded(0), Coded(1), Coded(2));
        for (lines, siblings, want) in [
            (&[][..], ALL, Identity),
            (&[""], ALL, Identity),
            (&["br, zstd, gzip"], ALL, br),
            (&["gzip, zstd, br"], ALL, br),
            (&["gzip, zstd"], ALL, zstd),
            (&["gzip"], ALL, gzip),
            (&["GZip"], ALL, gzip),
            (&["x-gzip"], ALL, gzip),
            (&["X-GZIP;q=0.5"], ALL, gzip),
            (&["gzip", "br"], ALL, br),
            (&["gzip;q=1, br;q=0.9"], ALL, gzip),
            (&["gzip ; q=0.2 , br;Q=0.1"], ALL, gzip),
            (&["br;q=0, gzip"], ALL, gzip),
            (&["br"], GZIP, Identity),
            (&["br, gzip"], GZIP, gzip),
            (&["deflate"], ALL, Identity),
            (&["*"], ALL, br),
            (&["*"], GZIP, gzip),
            (&["*"], NONE, Identity),
            (&["*, br;q=0"], ALL, zstd),
            (&["br;q=0.1, *;q=0.5"], ALL, zstd),
            (&["identity, gzip"], ALL, gzip),
            (&["identity, gzip;q=0.9"], ALL, Identity),
            (&["identity;q=0.5, gzip;q=0.9"], ALL, gzip),
            (&["identity;q=0.5, gzip;q=0.4"], ALL, Identity),
            (&["identity"], ALL, Identity),
            (&["identity;q=0, gzip"], ALL, gzip),
            (&["identity;q=0"], ALL, Nothing),
            (&["identity;q=0, br"], GZIP, Nothing),
            (&["identity;q=0"], NONE, Nothing),
            (&["*;q=0"], ALL, Nothing),
            (&["*;q=0, gzip"], ALL, gzip),
            (&["*;q=0, identity"], ALL, Identity),
            (&["gzip;q=0"], ALL, Identity),
            (&["gzip;q=2"], ALL, Identity),
            (&["gzip;q=x, br;q=0.1"], ALL, br),
            (&["gzipped"], ALL, Identity),
        ] {
            let got = choose(lines.iter().map(|line| line.as_bytes()), siblings);
            assert_eq!(got, want, "{lines:?} of {siblings:?}");
        }
    }

    #[test]
    fn html_or_json() {
        for (lines, want) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["application/json"], true),
            (&["Application/JSON"], true),
            (&["application/*"], true),
            (&["text/html, application/json"], false),
            (&["text/html;q=0.9, application/json"], true),
            (&["text/html;q=0.9", "application/json"], true),
            (&["application/json;q=0.5, */*;q=0.8"], false),
            (&["*/*;q=0.5, application/json;q=0.8"], true),
            (&["text/*, application/json;q=0.9"], false),
            (&["text/html;q=0, */*"], true),
            (&["application/json;q=0"], false),
            (&["image/png"], false),
            (&["application/json;charset=utf-8"], true),
            (
                &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
                false,
            ),
        ] {
            let got = prefers_json(lines.iter().map(|line| line.as_bytes()));
            assert_eq!(got, want, "{lines:?}");
        }
    }
}
