//! What an upstream reads of requests: by the letter of RFC 9112, sharing nothing with the server that it judges.

type Result<T> = std::result::Result<T, String>;

#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter();
        all.find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn is_single(&self, name: &str) -> bool {
        let of_name = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.fields.iter().filter(of_name).count() <= 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Head,
    /// So much of a body of announced length is to come.
    Length(usize),
    ChunkSize,
    Chunk(usize),
    Whole,
}

/// One request after the other, as it comes.
pub(crate) struct Reader {
    /// So much of the input is used.
    pub(crate) used: usize,
    at: At,
    pub(crate) head: Option<Head>,
    pub(crate) body: Vec<u8>,
}

impl Reader {
    pub(crate) fn new() -> Reader {
        Reader {
            used: 0,
            at: At::Head,
            head: None,
            body: Vec::new(),
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.at == At::Whole
    }

    /// The next request may come.
    pub(crate) fn next(&mut self) {
        assert!(self.is_whole());
        (self.at, self.head) = (At::Head, None);
        self.body.clear();
    }

    /// Reads on in all that has come so far.
    pub(crate) fn read(&mut self, all: &[u8]) -> Result<()> {
        loop {
            let rest = &all[self.used..];
            match self.at {
                At::Whole => return Ok(()),
                At::Head => {
                    if rest.first().is_some_and(|b| !b.is_ascii_uppercase()) {
                        return Err(format!("no request begins like this: {}", text(rest)));
                    }
                    let Some(end) = find(rest, b"\r\n\r\n") else {
                        return Ok(());
                    };
                    let head = head(&rest[..end])?;
                    self.at = framing(&head)?;
                    self.used += end + 4;
                    self.head = Some(head);
                }
                At::Length(0) => self.at = At::Whole,
                At::Length(left) => {
                    let n = left.min(rest.len());
                    if n == 0 {
                        return Ok(());
                    }
                    self.body.extend_from_slice(&rest[..n]);
                    self.used += n;
                    self.at = At::Length(left - n);
                }
                At::ChunkSize => {
                    let Some(end) = find(rest, b"\r\n") else {
                        return Ok(());
                    };
                    let digits = std::str::from_utf8(&rest[..end]).unwrap_or("?");
                    let is_hex =
                        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    let size = usize::from_str_radix(digits, 16).ok().filter(|_| is_hex);
                    let size = size.ok_or_else(|| format!("chunk size {digits:?}"))?;
                    if size == 0 {
                        // No trailers are sent on.
                        if rest.len() < end + 4 {
                            return Ok(());
                        }
                        if rest[end..end + 4] != *b"\r\n\r\n" {
                            return Err(format!("the end of a body: {}", text(rest)));
                        }
                        self.used += end + 4;
                        self.at = At::Whole;
                    } else {
                        self.used += end + 2;
                        self.at = At::Chunk(size);
                    }
                }
                At::Chunk(0) => {
                    if rest.len() < 2 {
                        return Ok(());
                    }
                    if rest[..2] != *b"\r\n" {
                        return Err(format!("behind a chunk: {}", text(rest)));
                    }
                    self.used += 2;
                    self.at = At::ChunkSize;
                }
                At::Chunk(left) => {
                    let n = left.min(rest.len());
                    if n == 0 {
                        return Ok(());
                    }
                    self.body.extend_from_slice(&rest[..n]);
                    self.used += n;
                    self.at = At::Chunk(left - n);
                }
            }
        }
    }
}

fn head(bytes: &[u8]) -> Result<Head> {
    let all = std::str::from_utf8(bytes).map_err(|e| format!("{}: {e}", text(bytes)))?;
    let mut lines = all.split("\r\n");
    let line = lines.next().unwrap_or("");
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("a request line: {line:?}"));
    };
    let is_token = |name: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !name.is_empty() && name.bytes().all(known)
    };
    if !is_token(method)
        || !target.starts_with('/')
        || !target.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(format!("a request line: {line:?}"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or(("", ""));
        if !is_token(name) || !value.bytes().all(|b| (b' '..0x7f).contains(&b)) {
            return Err(format!("a field: {line:?}"));
        }
        fields.push((name.to_string(), value.to_string()));
    }
    let head = Head {
        method: method.into(),
        target: target.into(),
        fields,
    };
    if head.field("host").is_none() || !head.is_single("host") {
        return Err(format!("not one host: {head:?}"));
    }
    Ok(head)
}

fn framing(head: &Head) -> Result<At> {
    if !head.is_single("content-length") || !head.is_single("transfer-encoding") {
        return Err(format!("two framings: {head:?}"));
    }
    match (
        head.field("content-length"),
        head.field("transfer-encoding"),
    ) {
        (None, None) => Ok(At::Length(0)),
        (Some(digits), None) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .map(At::Length)
            .map_err(|e| format!("{digits:?}: {e}")),
        (None, Some("chunked")) => Ok(At::ChunkSize),
        _ => Err(format!("its framing: {head:?}")),
    }
}

pub(crate) fn find(all: &[u8], what: &[u8]) -> Option<usize> {
    all.windows(what.len()).position(|window| window == what)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.len().min(100);
    format!(
        "{:?} ({} bytes)",
        String::from_utf8_lossy(&bytes[..end]),
        bytes.len()
    )
}
