//! Floor 1. `postgres://user:password@host:port/database?options`: where a server is, and as whom it is asked.

use crate::proto::address::{Address, Secret};
use crate::proto::http::is_authority;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// As whom, to which database, and how a session begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The role.
    pub user: String,
    /// `None`: none is sent.
    pub password: Option<Secret>,
    /// `None`: the one named like the user.
    pub database: Option<String>,
    /// Whether the password may be sent as it is, for whoever listens to read.
    pub cleartext: bool,
    /// Parameters of the session: `application_name`, `search_path`, `statement_timeout`, … `client_encoding` and
    /// `DateStyle` are ours.
    pub parameters: Vec<(String, String)>,
}

impl Settings {
    /// Of `user`, without a password.
    ///
    /// ```
    /// let settings = loopwright::proto::pg::Settings::new("ada");
    /// assert_eq!((settings.database, settings.cleartext), (None, false));
    /// ```
    pub fn new(user: &str) -> Settings {
        Settings {
            user: user.into(),
            password: None,
            database: None,
            cleartext: false,
            parameters: Vec::new(),
        }
    }
}

/// `postgres://user[:password]@host[:port][/database][?parameters]`, or `postgresql:`. User, password, host,
/// database and values may be percent-encoded. A host that begins with `/` (encoded, or as the parameter `host`) is the
/// folder of a Unix socket.
///
/// Parameters: `host`, `port`, `user`, `password`, `dbname`, `connect_timeout` (seconds), `application_name`, `options`
/// and `sslmode` (`disable` or `prefer`: there is no TLS yet).
///
/// ```
/// use loopwright::proto::pg::Url;
/// use loopwright::proto::address::Address;
/// let url: Url = "postgres://ada:s3cret@db.example/shop?application_name=web".parse().unwrap();
/// assert_eq!(url.address, Address::Tcp("db.example".into(), 5432));
/// assert_eq!(url.settings.database.as_deref(), Some("shop"));
/// assert!(!format!("{url:?}").contains("s3cret"));
/// let url: Url = "postgres://ada@/shop?host=/run/postgresql".parse().unwrap();
/// assert_eq!(url.address, Address::Unix("/run/postgresql/.s.PGSQL.5432".into()));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// Where.
    pub address: Address,
    /// As whom.
    pub settings: Settings,
    /// How long a connection may take to be made; `None`: as the caller has it.
    pub connect_timeout: Option<Duration>,
}

/// What is wrong with a URL. Says nothing of its text: there may be a password in it.
///
/// ```
/// use loopwright::proto::pg::{Url, UrlError};
/// assert_eq!("postgres://ada@h?sslmode=require".parse::<Url>(), Err(UrlError::Tls));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    Scheme,
    /// `sslmode` wants TLS.
    Tls,
    /// `sslmode` is not known.
    TlsMode,
    /// No user.
    User,
    /// Percent-encoding, what is no UTF-8 once decoded, or a NUL.
    Encoding,
    /// Not a host, or several.
    Host,
    /// Not a port.
    Port,
    /// Not a database's name.
    Database,
    /// Not seconds.
    Timeout,
    /// A parameter that is not known, or a fragment.
    Parameter,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::Scheme => "want postgres://user[:password]@host[:port]/database",
            UrlError::Tls => {
                "sslmode wants TLS, which is not there yet; use sslmode=disable through a tunnel, a Unix socket or a private network"
            }
            UrlError::TlsMode => "sslmode is disable or prefer (require, verify-ca and verify-full want TLS, which is not there yet)",
            UrlError::User => "want a user: postgres://user@host/database",
            UrlError::Encoding => "user, password, host, database and parameters are percent-encoded UTF-8 without NUL",
            UrlError::Host => "want one host name, one address (IPv6 in brackets), or the folder of a socket as host=/folder",
            UrlError::Port => "want a port from 1 to 65535",
            UrlError::Database => "want one database behind the host: /database",
            UrlError::Timeout => "connect_timeout is a number of seconds",
            UrlError::Parameter => {
                "the parameters are host, port, user, password, dbname, connect_timeout, application_name, options and sslmode"
            }
        })
    }
}

impl std::error::Error for UrlError {}

fn decoded(text: &str) -> Result<String, UrlError> {
    // What follows a percent sign that is no encoding would be taken as it is: the mistake of a password with a %.
    let is_encoded = text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    let text = percent_decode_str(text).decode_utf8();
    match text {
        Ok(text) if is_encoded && !text.contains('\0') => Ok(text.into_owned()),
        _ => Err(UrlError::Encoding),
    }
}

fn port(text: &str) -> Result<u16, UrlError> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| *port > 0 && is_number);
    port.ok_or(UrlError::Port)
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Url, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        if !["postgres", "postgresql"].contains(&&scheme.to_ascii_lowercase()[..]) {
            return Err(UrlError::Scheme);
        }
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if text.contains('#') {
            return Err(UrlError::Parameter);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user_info, server) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (user_info, None),
        };
        let mut settings = Settings::new(&decoded(user)?);
        let secret = |text: String| Some(Secret::new(text)).filter(|s| !s.expose().is_empty());
        settings.password = password.and_then(secret);
        let name = |text: String| Some(text).filter(|text| !text.is_empty());
        settings.database = name(decoded(path.strip_prefix('/').unwrap_or_default())?);

        // Behind the brackets, if there are any, for an IPv6 address is full of colons.
        let behind = server.rfind(']').map_or(0, |at| at + 1);
        if server.starts_with('[') && behind == 0 {
            return Err(UrlError::Host);
        }
        let at = server[behind..].find(':').map(|at| behind + at);
        let (host, number) = server.split_at(at.unwrap_or(server.len()));
        let mut number = number.strip_prefix(':').map(port).transpose()?;
        let mut host = decoded(host)?;
        let mut connect_timeout = None;
        for parameter in parameters.split('&').filter(|text| !text.is_empty()) {
            let (key, value) = parameter.split_once('=').ok_or(UrlError::Parameter)?;
            let value = decoded(value)?;
            match key {
                "host" => host = value,
                "port" => number = Some(port(&value)?),
                "user" => settings.user = value,
                "password" => settings.password = secret(value),
                "dbname" => settings.database = name(value),
                "connect_timeout" => {
                    let seconds = value.parse().map_err(|_| UrlError::Timeout)?;
                    // As libpq has it, 0 is none.
                    connect_timeout = Some(Duration::from_secs(seconds)).filter(|t| !t.is_zero());
                }
                "application_name" | "options" => settings.parameters.push((key.into(), value)),
                "sslmode" => match &value[..] {
                    "disable" | "prefer" | "allow" => {}
                    "require" | "verify-ca" | "verify-full" => return Err(UrlError::Tls),
                    _ => return Err(UrlError::TlsMode),
                },
                _ => return Err(UrlError::Parameter),
            }
        }
        if settings.user.is_empty() {
            return Err(UrlError::User);
        }
        if settings
            .database
            .as_ref()
            .is_some_and(|name| name.contains('/'))
        {
            return Err(UrlError::Database);
        }
        let number = number.unwrap_or(5432);
        let address = if host.starts_with('/') {
            Address::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{number}")))
        } else {
            if host.is_empty() || host.contains(['%', ',']) || !is_authority(host.as_bytes()) {
                return Err(UrlError::Host);
            }
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Address::Tcp(host.into(), number)
        };
        Ok(Url {
            address,
            settings,
            connect_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let tcp = |host: &str, port| Address::Tcp(host.into(), port);
        let unix = |path: &str| Address::Unix(path.into());
        for (text, address, user, password, database) in [
            ("postgres://ada@h", tcp("h", 5432), "ada", None, None),
            ("PostgreSQL://ada@h/", tcp("h", 5432), "ada", None, None),
            (
                "postgres://ada:p%40%3a@127.0.0.1:7/d",
                tcp("127.0.0.1", 7),
                "ada",
                Some("p@:"),
                Some("d"),
            ),
            (
                "postgres://ada:a@b@[::1]:7/a%20b",
                tcp("::1", 7),
                "ada",
                Some("a@b"),
                Some("a b"),
            ),
            ("postgres://ada:@h", tcp("h", 5432), "ada", None, None),
            (
                "postgres://h/d?user=ada&password=pw",
                tcp("h", 5432),
                "ada",
                Some("pw"),
                Some("d"),
            ),
            (
                "postgres://ada@%2frun%2fpg:7/d",
                unix("/run/pg/.s.PGSQL.7"),
                "ada",
                None,
                Some("d"),
            ),
            (
                "postgres:///d?host=/run/pg&user=ada",
                unix("/run/pg/.s.PGSQL.5432"),
                "ada",
                None,
                Some("d"),
            ),
            (
                "postgres://ada@/?host=h&port=7&dbname=d",
                tcp("h", 7),
                "ada",
                None,
                Some("d"),
            ),
            (
                "postgres://ada@h?sslmode=prefer",
                tcp("h", 5432),
                "ada",
                None,
                None,
            ),
        ] {
            let url: Url = text.parse().expect(text);
            let mut settings = Settings::new(user);
            settings.password = password.map(|text: &str| Secret::new(text.into()));
            settings.database = database.map(String::from);
            assert_eq!((url.address, url.settings), (address, settings), "{text}");
            assert_eq!(url.connect_timeout, None);
        }
        let text = "postgres://ada@h/d?application_name=a%20b&options=-c%20work_mem%3D1MB&connect_timeout=5";
        let url: Url = text.parse().expect(text);
        let want = [("application_name", "a b"), ("options", "-c work_mem=1MB")];
        assert_eq!(
            url.settings.parameters,
            want.map(|(key, value)| (key.into(), value.into()))
        );
        assert_eq!(url.connect_timeout, Some(Duration::from_secs(5)));
        for (text, error) in [
            ("", UrlError::Scheme),
            ("localhost:5432", UrlError::Scheme),
            ("mysql://s3cret@h", UrlError::Scheme),
            ("postgres://ada@h?sslmode=require", UrlError::Tls),
            ("postgres://ada@h?sslmode=s3cret", UrlError::TlsMode),
            ("postgres://h", UrlError::User),
            ("postgres://:s3cret@h", UrlError::User),
            ("postgres://ada:s3cret%@h", UrlError::Encoding),
            ("postgres://ada:%ffs3cret@h", UrlError::Encoding),
            ("postgres://ada:%00s3cret@h", UrlError::Encoding),
            ("postgres://ada@", UrlError::Host),
            ("postgres://ada@:7", UrlError::Host),
            ("postgres://ada@a,b/d", UrlError::Host),
            ("postgres://ada@::1/d", UrlError::Port),
            ("postgres://ada@[::1/d", UrlError::Host),
            ("postgres://ada@a b/d", UrlError::Host),
            ("postgres://ada@h:0", UrlError::Port),
            ("postgres://ada@h:+7", UrlError::Port),
            ("postgres://ada@h:", UrlError::Port),
            ("postgres://ada@h/a/b", UrlError::Database),
            ("postgres://ada@h?connect_timeout=s3cret", UrlError::Timeout),
            ("postgres://ada@h?s3cret=1", UrlError::Parameter),
            ("postgres://ada@h?s3cret", UrlError::Parameter),
            ("postgres://ada@h#s3cret", UrlError::Parameter),
        ] {
            assert_eq!(text.parse::<Url>(), Err(error), "{text}");
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
    }
}
