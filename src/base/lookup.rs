//! Floor 0. Questions about names, and their answers: what passes between who asks ([`crate::upstream`]) and who looks
//! them up ([`crate::net`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// What is to be looked up: `app.internal:8080`, `[::1]:8080`, `srv:_http._tcp.app.internal`.
///
/// ```
/// use loopwright::base::lookup::Question;
/// let question: Question = "app.internal:8080".parse().unwrap();
/// assert_eq!(question, Question::Host { name: "app.internal".into(), port: 8080 });
/// assert_eq!(question.literal(), None);
/// let question: Question = "srv:_http._tcp.app.internal".parse().unwrap();
/// assert_eq!(question, Question::Service { name: "_http._tcp.app.internal".into() });
/// assert!("app.internal".parse::<Question>().unwrap_err().to_string().contains("port"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Question {
    /// The addresses of a host, to be used with a port.
    Host {
        /// Its name, or an IP address (without brackets).
        name: String,
        /// The port.
        port: u16,
    },
    /// The hosts that offer a service (RFC 2782), with their ports.
    Service {
        /// `_service._protocol.domain`.
        name: String,
    },
}

impl Question {
    /// The answer of a question that needs no looking up, as it names an IP address.
    pub fn literal(&self) -> Option<Address> {
        match self {
            Question::Host { name, port } => {
                let ip: IpAddr = name.parse().ok()?;
                Some(Address::new(name, SocketAddr::new(ip, *port)))
            }
            Question::Service { .. } => None,
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Host { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Question::Host { name, port } => write!(f, "{name}:{port}"),
            Question::Service { name } => write!(f, "srv:{name}"),
        }
    }
}

/// What is wrong with a text that should be a [`Question`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuestionError {
    /// No port, or none between 1 and 65535.
    Port,
    /// Not an IPv6 address in brackets, nor a name of letters, digits, `-`, `_` and dots.
    Name,
}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuestionError::Port => "want a port from 1 to 65535 behind the name: \"name:8080\"",
            QuestionError::Name => {
                "want a name of letters, digits, \"-\" and \"_\" in parts of up to 63, or an IP address (IPv6 in brackets)"
            }
        })
    }
}

impl std::error::Error for QuestionError {}

/// Whether it is a name that can be asked for (RFC 1035 §2.3.4), and no IP address.
///
/// ```
/// use loopwright::base::lookup::is_name;
/// assert!(is_name("_http._tcp.app.internal") && !is_name("a b") && !is_name("10.0.0.1"));
/// ```
pub fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(is_allowed)
    };
    // A name whose last label is a number is an IPv4 address gone wrong: 10.0.0.256.
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(is_label)
        && !name.rsplit('.').next().is_some_and(is_number)
}

impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Question, QuestionError> {
        if let Some(name) = text.strip_prefix("srv:") {
            let name = name.to_owned();
            let service = Question::Service { name: name.clone() };
            return is_name(&name).then_some(service).ok_or(QuestionError::Name);
        }
        let (name, port) = text.rsplit_once(':').ok_or(QuestionError::Port)?;
        let is_digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_digits && *port > 0);
        let port = port.ok_or(QuestionError::Port)?;
        let in_brackets = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let is_good = match in_brackets {
            Some(name) => name.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_name(name) || name.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        let name = in_brackets.unwrap_or(name).to_owned();
        is_good
            .then_some(Question::Host { name, port })
            .ok_or(QuestionError::Name)
    }
}

/// One address that a name stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    /// Of a service: the smallest is used, the others if that fails. 0 for a host.
    pub priority: u16,
    /// The host. Several addresses may be of one.
    pub host: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// Of a service: the host's part of the requests, among those of the same priority. 1 for a host, never 0.
    pub weight: u16,
}

impl Address {
    /// Of a host: no service, so no priority and no weight.
    ///
    /// ```
    /// use loopwright::base::lookup::Address;
    /// let address = Address::new("app.internal", "10.0.0.1:80".parse().unwrap());
    /// assert_eq!((address.priority, address.weight), (0, 1));
    /// ```
    pub fn new(host: &str, addr: SocketAddr) -> Address {
        Address {
            priority: 0,
            host: host.to_owned(),
            addr,
            weight: 1,
        }
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The addresses: at least one.
    pub addresses: Vec<Address>,
    /// For how long it holds, where that is known.
    pub ttl: Option<Duration>,
    /// There may be more: a part could not be looked up.
    pub missing: Option<Failure>,
}

/// No answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There is no such name, or it has no addresses: that is an answer, too.
    NotFound,
    /// Nobody has answered in time.
    Timeout,
    /// Nobody listens there, or a name server will not, or cannot answer.
    Refused(String),
    /// Something else.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotFound => f.write_str("there is no such name, or it has no addresses"),
            Failure::Timeout => f.write_str("no name server has answered in time"),
            Failure::Refused(why) | Failure::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_written_and_read() {
        for text in [
            "app.internal:8080",
            "app:1",
            "app.internal.:65535",
            "10.0.0.1:80",
            "[::1]:80",
            "srv:_http._tcp.app.internal",
        ] {
            let question: Question = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(question.to_string(), text);
            let is_literal = text.starts_with(['1', '[']);
            assert_eq!(question.literal().is_some(), is_literal, "{text}");
        }
        let long = format!("{}:80", "a".repeat(64));
        for (text, want) in [
            ("app", QuestionError::Port),
            ("app:", QuestionError::Port),
            ("app:0", QuestionError::Port),
            ("app:+1", QuestionError::Port),
            ("app:65536", QuestionError::Port),
            (":80", QuestionError::Name),
            ("a..b:80", QuestionError::Name),
            (".:80", QuestionError::Name),
            ("a b:80", QuestionError::Name),
            ("a/b:80", QuestionError::Name),
            ("10.0.0.256:80", QuestionError::Name),
            ("::1:80", QuestionError::Name),
            ("[10.0.0.1]:80", QuestionError::Name),
            ("http://app:80", QuestionError::Name),
            (&long, QuestionError::Name),
            ("srv:", QuestionError::Name),
            ("srv:a:80", QuestionError::Name),
        ] {
            assert_eq!(text.parse::<Question>(), Err(want), "{text}");
        }
    }
}
