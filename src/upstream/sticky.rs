//! Floor 1. A client stays with the server it met first: a cookie that names the server, and that only we
//! can have written.
//!
//! ```text
//! value = base64url( name (8) · ends at, Unix seconds (8) · first 16 bytes of HMAC-SHA256(secret, cookie · name · ends at) )
//! ```
//!
//! The name is a keyed hash of what the server is called in the config: the same in each process and after
//! each restart, and nothing a stranger learns from. A value that is forged, cut, of another cookie or
//! past its end names nobody, and the client is given to any server, as a new one would be.
//! Invariant: whether a signature is right is compared in constant time; what is read from a cookie takes no memory.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::time::{Duration, SystemTime};

const BODY: usize = 16;
const SIGNATURE: usize = 16;
/// The length of a value: 32 bytes in base64url.
pub const LENGTH: usize = 43;
/// The shortest secret that is taken.
pub const MIN_SECRET: usize = 16;

/// Writes and reads the cookie of one group of servers.
///
/// ```
/// use loopwright::upstream::sticky::Sticky;
/// use std::time::{Duration, SystemTime};
/// let sticky = Sticky::new("server", b"sixteen bytes or more", Duration::from_secs(3600)).unwrap();
/// let (now, name) = (SystemTime::UNIX_EPOCH, sticky.name("10.0.0.1:8080"));
/// let value = sticky.value(name, now);
/// let field = format!("a=b; server={value}");
/// assert_eq!(sticky.find([field.as_bytes()], now), Some(name));
/// assert_eq!(sticky.find([field.as_bytes()], now + Duration::from_secs(3600)), None);
/// ```
#[derive(Clone)]
pub struct Sticky {
    cookie: String,
    /// Fed the secret: cloned for each value, which is cheaper than to begin anew.
    mac: Hmac<Sha256>,
    max_age: Duration,
}

/// The same cookie for the same servers: whoever asks may not look at the secret either.
impl PartialEq for Sticky {
    fn eq(&self, other: &Sticky) -> bool {
        let shown = |sticky: &Sticky| (sticky.cookie.clone(), sticky.max_age, sticky.name(""));
        shown(self) == shown(other)
    }
}

/// The secret is in it.
impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Sticky");
        shown.field("cookie", &self.cookie);
        shown
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a sticky cookie's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StickyError {
    /// The cookie's name is no token.
    Name,
    /// The secret has less than [`MIN_SECRET`] bytes.
    Secret,
}

impl std::fmt::Display for StickyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StickyError::Name => f.write_str("not a cookie's name"),
            StickyError::Secret => write!(f, "a secret has {MIN_SECRET} bytes or more"),
        }
    }
}

impl std::error::Error for StickyError {}

/// Stable, and unlike for unlike servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerName(pub [u8; 8]);

/// A value of the cookie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value([u8; LENGTH]);

impl std::ops::Deref for Value {
    type Target = str;

    fn deref(&self) -> &str {
        // Base64 is ASCII.
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

impl Sticky {
    /// A cookie of this name, signed with `secret`, which holds for `max_age`.
    ///
    /// # Errors
    /// The name is none, or the secret is too short.
    pub fn new(cookie: &str, secret: &[u8], max_age: Duration) -> Result<Sticky, StickyError> {
        if http::HeaderName::from_bytes(cookie.as_bytes()).is_err() {
            return Err(StickyError::Name);
        }
        let mac = Hmac::<Sha256>::new_from_slice(secret).ok();
        let mac = mac.filter(|_| secret.len() >= MIN_SECRET);
        Ok(Sticky {
            cookie: cookie.to_string(),
            mac: mac.ok_or(StickyError::Secret)?,
            max_age,
        })
    }

    /// What a server is called in the cookie. `server` is how the config calls it.
    pub fn name(&self, server: &str) -> ServerName {
        let mac = self
            .mac
            .clone()
            .chain_update(b"name\0")
            .chain_update(server);
        let mut name = [0; 8];
        name.copy_from_slice(&mac.finalize().into_bytes()[..8]);
        ServerName(name)
    }

    /// The cookie's name.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// How long a value holds.
    pub fn max_age(&self) -> Duration {
        self.max_age
    }

    fn mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mac = self.mac.clone().chain_update(b"value\0");
        mac.chain_update(&self.cookie)
            .chain_update(b"\0")
            .chain_update(body)
    }

    /// A value that names this server, from now on.
    pub fn value(&self, server: ServerName, now: SystemTime) -> Value {
        let ends = unix_seconds(now).saturating_add(self.max_age.as_secs());
        let mut bytes = [0; BODY + SIGNATURE];
        bytes[..8].copy_from_slice(&server.0);
        bytes[8..BODY].copy_from_slice(&ends.to_be_bytes());
        let signature = self.mac(&bytes[..BODY]).finalize().into_bytes();
        bytes[BODY..].copy_from_slice(&signature[..SIGNATURE]);
        let mut value = [b'A'; LENGTH];
        // It has the length that 32 bytes take.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut value);
        Value(value)
    }

    /// The server that a value names, if we have written it, and its time is not over.
    pub fn check(&self, value: &[u8], now: SystemTime) -> Option<ServerName> {
        let mut bytes = [0; BODY + SIGNATURE];
        if value.len() != LENGTH
            || URL_SAFE_NO_PAD.decode_slice(value, &mut bytes) != Ok(bytes.len())
        {
            return None;
        }
        let (body, signature) = bytes.split_at(BODY);
        self.mac(body).verify_truncated_left(signature).ok()?;
        let (name, ends) = body.split_at(8);
        let ends = u64::from_be_bytes(ends.try_into().ok()?);
        let holds = unix_seconds(now) < ends;
        holds.then_some(ServerName(name.try_into().ok()?))
    }

    /// The server that a request's `Cookie` lines name: the first value that holds. Of cookies with one
    /// name no more than four are looked at.
    pub fn find<'a>(
        &self,
        lines: impl IntoIterator<Item = &'a [u8]>,
        now: SystemTime,
    ) -> Option<ServerName> {
        let pairs = lines
            .into_iter()
            .flat_map(|line| line.split(|&b| b == b';'));
        let values = pairs.filter_map(|pair| {
            let rest = pair.trim_ascii().strip_prefix(self.cookie.as_bytes())?;
            rest.strip_prefix(b"=").map(unquoted)
        });
        values.take(4).find_map(|value| self.check(value, now))
    }
}

/// RFC 6265 §4.1.1: quotes around a value.
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn sticky(cookie: &str, secret: &[u8]) -> Sticky {
        Sticky::new(cookie, secret, HOUR).unwrap()
    }

    #[test]
    fn cookies() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ours = sticky("server", &[1; 16]);
        let (a, b) = (ours.name("a"), ours.name("b"));
        assert!(
            a != b
                && a == sticky("other", &[1; 16]).name("a")
                && a != sticky("server", &[2; 16]).name("a")
        );
        let value = ours.value(a, now).to_string();
        assert_eq!(value.len(), LENGTH);
        let of_b = ours.value(b, now).to_string();
        let later = ours.value(a, now + HOUR).to_string();
        let other_cookie = sticky("other", &[1; 16]).value(a, now).to_string();
        let other_secret = sticky("server", &[2; 16]).value(a, now).to_string();
        // The body of one, the signature of another.
        let spliced = format!("{}{}", &value[..21], &of_b[21..]);
        for (field, want) in [
            (format!("server={value}"), Some(a)),
            (format!("x=1;server={value};y=2"), Some(a)),
            (format!("x=1;  server=\"{value}\" ; y"), Some(a)),
            (format!("server=x; server={of_b}"), Some(b)),
            (
                format!("server=1; server=2; server=3; server={value}"),
                Some(a),
            ),
            (
                format!("server=1; server=2; server=3; server=4; server={value}"),
                None,
            ),
            (format!("server={value}x"), None),
            (format!("server={}", &value[1..]), None),
            (format!("server={}", &value[..42]), None),
            (format!("server={value}="), None),
            (format!("server={spliced}"), None),
            (format!("server={other_cookie}"), None),
            (format!("server={other_secret}"), None),
            (format!("servers={value}"), None),
            (format!("xserver={value}"), None),
            (format!("Server={value}"), None),
            (format!("server {value}"), None),
            ("server=".into(), None),
            (";;=;".into(), None),
            ("".into(), None),
        ] {
            assert_eq!(ours.find([field.as_bytes()], now), want, "{field}");
        }
        let lines = [
            b"a=b".as_slice(),
            format!("server={value}").leak().as_bytes(),
        ];
        assert_eq!(ours.find(lines, now), Some(a));
        // Until its end, and not at it.
        assert_eq!(
            ours.check(value.as_bytes(), now + HOUR - Duration::from_secs(1)),
            Some(a)
        );
        assert_eq!(ours.check(value.as_bytes(), now + HOUR), None);
        assert_eq!(ours.check(later.as_bytes(), now + HOUR), Some(a));
    }

    #[test]
    fn no_bit_of_a_value_can_be_changed() {
        let now = SystemTime::UNIX_EPOCH;
        let ours = sticky(
            "server",
            b"a secret of some length, longer than a block of SHA-256 which is 64 bytes",
        );
        let value = ours.value(ours.name("a"), now);
        for at in 0..LENGTH {
            for other in [b'A', b'B', b'z', b'_', b'+', 0, 0xff] {
                let mut changed = value.0;
                changed[at] = other;
                let same = changed == value.0;
                assert_eq!(ours.check(&changed, now).is_some(), same, "{at} {other}");
            }
        }
    }

    #[test]
    fn settings() {
        for (cookie, secret, want) in [
            ("a", &[0; 16][..], None),
            ("a", &[0; 15], Some(StickyError::Secret)),
            ("a b", &[0; 16], Some(StickyError::Name)),
            ("", &[0; 16], Some(StickyError::Name)),
        ] {
            assert_eq!(Sticky::new(cookie, secret, HOUR).err(), want);
        }
        assert!(!format!("{:?}", sticky("a", &[77; 16])).contains("77"));
    }
}
