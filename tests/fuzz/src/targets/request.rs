//! What a callback asks of its request: query, form, cookies, JSON.
//!
//! Input: query, cookie lines and media type, a line each (`c` before a cookie line, `t` before a media
//! type), an empty line, the body.

use super::percent_decoded;
use loopwright::proto::h1::head::{self, HeadLimits};
use loopwright::{Cookie, fuzzing};

pub(crate) fn run(data: &[u8]) {
    let at = data.windows(2).position(|two| two == b"\n\n");
    let (lines, body) = at.map_or((data, &[][..]), |at| (&data[..at], &data[at + 2..]));
    let mut lines = lines.split(|&b| b == b'\n');
    let mut text = b"POST /?".to_vec();
    text.extend_from_slice(lines.next().unwrap_or_default());
    text.extend_from_slice(b" HTTP/1.1\r\nhost: a\r\n");
    for line in lines {
        let (name, value) = match line {
            [b'c', value @ ..] => ("cookie: ", value),
            [b't', value @ ..] => ("content-type: ", value),
            value => ("x: ", value),
        };
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    let (mut slots, limits) = (head::slots(), HeadLimits::NONE);
    let Ok(Some(head)) = head::read(&text, &mut 0, true, &mut slots, &limits) else {
        return;
    };
    fuzzing::request(&head, body, |req| {
        let query: Vec<_> = req
            .query_pairs()
            .map(|(k, v)| (k.into_owned(), v.into_owned()))
            .collect();
        assert_eq!(
            query,
            pairs(req.query().unwrap_or("").as_bytes()),
            "{:?}",
            req.query()
        );
        for (name, _) in &query {
            let first = query
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str());
            assert_eq!(req.query_param(name).as_deref(), first);
        }

        let kind = req.content_type();
        match req.form() {
            Ok(form) => {
                assert_eq!(kind, "application/x-www-form-urlencoded");
                let form: Vec<_> = form
                    .map(|(k, v)| (k.into_owned(), v.into_owned()))
                    .collect();
                assert_eq!(form, pairs(body));
            }
            Err(_) => assert_ne!(kind, "application/x-www-form-urlencoded"),
        }
        let is_json = kind == "application/json" || kind.ends_with("+json");
        let json = req.json::<serde_json::Value>().ok();
        let want = serde_json::from_slice::<serde_json::Value>(body).ok();
        assert_eq!(json, want.filter(|_| is_json));

        let cookies: Vec<Cookie<'_>> = req.cookies().collect();
        let lines: Vec<&[u8]> = req.headers().get_all("cookie").collect();
        let most: usize = lines
            .iter()
            .map(|line| line.split(|&b| b == b';').count())
            .sum();
        assert!(cookies.len() <= most, "cookies from nowhere");
        for cookie in &cookies {
            assert!(!cookie.name().is_empty(), "a cookie without a name");
            let first = cookies.iter().find(|other| other.name() == cookie.name());
            assert_eq!(
                req.cookie(cookie.name()).as_deref(),
                first.map(|first| first.value())
            );
            // What we would set is what would come back.
            let pair = Cookie::new(cookie.name().to_string(), cookie.value().to_string());
            let sent = pair.encoded().stripped().to_string();
            let back =
                Cookie::parse_encoded(sent.clone()).unwrap_or_else(|e| panic!("{sent:?}: {e}"));
            assert_eq!(back.name_value(), cookie.name_value(), "{sent:?}");
        }
    });
}

/// `application/x-www-form-urlencoded` as the WHATWG's URL standard has it (§5.1).
fn pairs(text: &[u8]) -> Vec<(String, String)> {
    let decoded = |part: &[u8]| {
        let spaced: Vec<u8> = part
            .iter()
            .map(|&b| if b == b'+' { b' ' } else { b })
            .collect();
        String::from_utf8_lossy(&percent_decoded(&spaced)).into_owned()
    };
    let parts = text.split(|&b| b == b'&').filter(|part| !part.is_empty());
    let pair = |part: &[u8]| {
        let at = part.iter().position(|&b| b == b'=').unwrap_or(part.len());
        let value = part.get(at + 1..).unwrap_or_default();
        (decoded(&part[..at]), decoded(value))
    };
    parts.map(pair).collect()
}
