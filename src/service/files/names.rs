//! Floor 4. What a name says: whether it may be served, which rule it falls under, its media type.

/// Whether a path below the root, percent-decoded, may be looked up: no way up, no empty segment,
/// nothing hidden, nothing that means something else to another system. One slash at the end is a
/// directory's.
pub(super) fn is_servable(path: &str) -> bool {
    path.is_empty()
        || path
            .strip_suffix('/')
            .unwrap_or(path)
            .split('/')
            .all(is_servable_name)
}

/// One segment of a path.
pub(super) fn is_servable_name(name: &str) -> bool {
    let is_plain = !name.is_empty() && !name.contains(['\0', '\\', '/']);
    is_plain && (!name.starts_with('.') || name == ".well-known")
}

/// Whether `path` came out of `target` only by decoding a slash. No name holds a slash, so an encoded
/// one (RFC 3986 §2.2: data, no separator) names nothing; and routes that guard `/private/` have not
/// seen it.
pub(super) fn has_encoded_slash(target: &str, path: &str) -> bool {
    if !target.contains('%') {
        return false;
    }
    let segments = path.split('/').count();
    target
        .rsplit('/')
        .take(segments)
        .any(|raw| raw.contains("%2F") || raw.contains("%2f"))
}

/// Whether `text` is of the form `pattern`, in which `*` is any run of characters.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // The last star, and where the text goes on if it takes one byte more.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(&b) if b == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((star, taken)) = retry else {
                    return false;
                };
                (p, t) = (star, taken + 1);
                retry = Some((star, taken + 1));
            }
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// The media type by the extension, in any case; text is UTF-8.
pub(crate) fn content_type(path: &str) -> String {
    let mime = match mime_guess::from_path(path).first_raw() {
        // RFC 9239 §6.
        Some("application/javascript") => "text/javascript",
        Some(mime) => mime,
        None => "application/octet-stream",
    };
    let is_text = mime.starts_with("text/")
        || ["/json", "+json", "/xml", "+xml"]
            .iter()
            .any(|end| mime.ends_with(end));
    if is_text {
        format!("{mime}; charset=utf-8")
    } else {
        mime.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servable_paths() {
        for path in [
            "",
            "a",
            "a/",
            "a/b",
            "a.b..c",
            "é",
            "%2e",
            " ",
            "-",
            ".well-known",
            "a/.well-known/b",
        ] {
            assert!(is_servable(path), "{path}");
        }
        for path in [
            "/",
            "//",
            "/a",
            "a//",
            "a//b",
            ".",
            "..",
            "a/..",
            "a/./b",
            ".a",
            "a/.b",
            "a\\b",
            "a\0",
            "...",
            ".well-known/.a",
            ".well-knowns",
        ] {
            assert!(!is_servable(path), "{path}");
        }
    }

    #[test]
    fn encoded_slashes() {
        for (target, path, want) in [
            ("/a/b", "a/b", false),
            ("/a%2Fb", "a/b", true),
            ("/a%2fb", "a/b", true),
            ("/x%2Fy/a", "a", false),
            ("/x%2Fy/a%20b/c", "a b/c", false),
            ("/p/a%2F", "a/", true),
            ("/%252F", "%2F", false),
        ] {
            assert_eq!(has_encoded_slash(target, path), want, "{target}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("**", "ab", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("ab", "a", false),
            ("*.css", "a/b.css", true),
            ("*.css", ".css", true),
            ("*.css", "a.css.map", false),
            ("assets/*", "assets/a/b", true),
            ("assets/*", "assets", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*aab", "aaab", true),
            ("é*", "été", true),
            ("é*", "e", false),
            ("é*", "éa", true),
            ("a?", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        // Stars do not multiply the work.
        assert!(!matches(
            &"a*".repeat(30),
            &format!("{}b", "c".repeat(3000))
        ));
    }

    #[test]
    fn media_types() {
        for (path, want) in [
            ("a.html", "text/html; charset=utf-8"),
            ("A.HTML", "text/html; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.webmanifest", "application/manifest+json; charset=utf-8"),
            ("a.xml", "text/xml; charset=utf-8"),
            ("a.svg", "image/svg+xml; charset=utf-8"),
            ("a.tar.gz", "application/gzip"),
            ("a.min.js", "text/javascript; charset=utf-8"),
            ("a.wasm", "application/wasm"),
            ("a.woff2", "font/woff2"),
            ("a", "application/octet-stream"),
            ("a.", "application/octet-stream"),
            ("a.html/b", "application/octet-stream"),
        ] {
            assert_eq!(content_type(path), want, "{path}");
        }
    }
}
