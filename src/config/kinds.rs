//! Floor 5. What a single value of a config can be: a size, a wait, a count, a status.
//!
//! A number that means bytes or time has a unit, always: nobody has to know which it would be.

use super::decode::{Decode, Reader, Value};
use crate::proto::forwarded::Trusted;
use crate::proto::redis::Url;
use crate::upstream::expect::Statuses;
use bytesize::ByteSize;
use serde_json::{Value as Json, json};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use toml::de::DeValue;

/// Bytes: `"16KiB"`, `"1MB"`, `"512B"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Size(pub(super) u64);

/// A length of time: `"30s"`, `"250ms"`, `"1m 30s"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Wait(pub(super) Duration);

/// How many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Count(pub(super) usize);

/// An HTTP status, 200 to 599.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status(pub(super) u16);

/// A share of a whole: `"20%"`, from none to all of it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Percent(pub(super) f64);

/// A number, with a fraction or without.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Factor(pub(super) f64);

/// Statuses that are as good as each other: `"200-299, 304"`, or a single number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct StatusRanges(pub(super) Statuses);

/// What nobody is to see, in a log or anywhere.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How many processes serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Workers {
    /// One for each core.
    Auto,
    Number(usize),
}

/// The value of the `server` field, or `false` for none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ServerHeader(pub(super) Option<String>);

/// Name servers: addresses, with the port if it is not 53.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct NameServers(pub(super) Vec<SocketAddr>);

/// One of them.
struct NameServer(SocketAddr);

/// Where a Redis is, and as whom to speak to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RedisUrl(pub(super) Url);

/// Addresses of proxies: one, a network, or `unix`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Network(String);

impl Network {
    /// Those of a list, together.
    pub(super) fn all(list: &[Network]) -> Trusted {
        // Each has been read before.
        Trusted::parse(list.iter().map(|one| one.0.as_str())).unwrap_or_default()
    }
}

impl Workers {
    /// How many that is here: 1 or more.
    pub(super) fn count(self) -> usize {
        match self {
            Workers::Number(n) => n,
            Workers::Auto => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Processes on one machine; more are a slip of the finger.
const MAX_WORKERS: usize = 256;

/// Longer waits are slips of the finger, and clocks do not go on for ever.
const MAX_WAIT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A number alone, in quotes or not: what it counts is not said.
fn lacks_unit(value: &Value<'_>, text: &str) -> bool {
    let text = text.trim();
    integer(value).is_some() || (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
}

fn integer(value: &Value<'_>) -> Option<i128> {
    match value.get_ref() {
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

impl Decode for Size {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str = "a size with its unit: \"16KiB\", \"1MB\", \"512B\"";
        let text = match integer(value) {
            Some(_) => String::new(),
            None => reader.text(value, "a size", WRITE)?,
        };
        if lacks_unit(value, &text) {
            reader.mistake(
                value.span(),
                "a size without a unit",
                format!("write {WRITE}"),
            );
            return None;
        }
        match text.trim().parse::<ByteSize>().map(|size| size.as_u64()) {
            // What is too much to be counted has become the most that can be.
            Ok(u64::MAX) => {
                let instead = "write less than \"16EiB\"";
                reader.mistake(value.span(), "more than can be counted", instead);
                None
            }
            Ok(size) => Some(Size(size)),
            Err(_) => {
                reader.mistake(value.span(), "not a size", format!("write {WRITE}"));
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([bB]|[kKmMgGtTpPeE][iI]?[bB]?)\s*$|\$\{" })
    }
    fn show(&self) -> Json {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let whole = |(_, size): &&(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        match units.iter().find(whole) {
            Some((unit, size)) => format!("{}{unit}", self.0 / size).into(),
            None => format!("{}B", self.0).into(),
        }
    }
}

impl Decode for Wait {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str = "a time with its unit: \"30s\", \"250ms\", \"5m\"";
        let text = match integer(value) {
            Some(_) => String::new(),
            None => reader.text(value, "a length of time", WRITE)?,
        };
        // 0 is the same in every unit.
        if lacks_unit(value, &text) && text.trim() != "0" {
            reader.mistake(
                value.span(),
                "a time without a unit",
                format!("write {WRITE}"),
            );
            return None;
        }
        match humantime::parse_duration(text.trim()) {
            Ok(wait) if wait > MAX_WAIT => {
                reader.mistake(value.span(), "longer than a year", "write a year or less");
                None
            }
            Ok(wait) => Some(Wait(wait)),
            Err(_) => {
                reader.mistake(
                    value.span(),
                    "not a length of time",
                    format!("write {WRITE}"),
                );
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^\s*([0-9]+(\.[0-9]+)?\s*[a-zA-Zµ]+\s*)+$|^\s*0\s*$|\$\{" })
    }
    fn show(&self) -> Json {
        humantime::format_duration(self.0).to_string().into()
    }
}

impl Decode for Count {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(number) = integer(value) else {
            let instead = "a whole number, without quotes";
            return reader.wrong_type(value, "a whole number", instead);
        };
        match usize::try_from(number) {
            Ok(count) => Some(Count(count)),
            Err(_) => {
                reader.mistake(
                    value.span(),
                    "not a count",
                    "write a whole number, 0 or more",
                );
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 0 })
    }
    fn show(&self) -> Json {
        self.0.into()
    }
}

impl Decode for Status {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(number) = integer(value) else {
            return reader.wrong_type(
                value,
                "a status",
                "a number from 200 to 599, without quotes",
            );
        };
        match u16::try_from(number) {
            Ok(status @ 200..=599) => Some(Status(status)),
            _ => {
                reader.mistake(
                    value.span(),
                    "not a status an answer can have",
                    "write 200 to 599",
                );
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 200, "maximum": 599 })
    }
    fn show(&self) -> Json {
        self.0.into()
    }
}

impl Decode for Percent {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str = "a share with its sign, from \"0%\" to \"100%\"";
        let text = match value.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) => String::new(),
            _ => reader.text(value, "a share", WRITE)?,
        };
        let Some(number) = text.trim().strip_suffix('%') else {
            let title = "a share without a percent sign";
            reader.mistake(value.span(), title, format!("write {WRITE}"));
            return None;
        };
        let number = number.trim_end();
        let is_plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match number.parse::<f64>() {
            Ok(percent) if is_plain && percent <= 100.0 => Some(Percent(percent / 100.0)),
            _ => {
                reader.mistake(value.span(), "not a share", format!("write {WRITE}"));
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^\s*(100(\.0*)?|[0-9]{1,2}(\.[0-9]*)?|\.[0-9]+)\s*%\s*$|\$\{" })
    }
    fn show(&self) -> Json {
        // Of what has been a float of 32 bits, no more is known.
        format!("{}%", (self.0 * 1e6).round() / 1e4).into()
    }
}

impl Decode for Factor {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
            _ => integer(value).map(|number| number as f64),
        };
        match number {
            Some(number) if f64::is_finite(number) => Some(Factor(number)),
            Some(_) => {
                let instead = "write one that can be counted to: 1.25";
                reader.mistake(value.span(), "not a finite number", instead);
                None
            }
            None => reader.wrong_type(value, "a number", "a number, without quotes: 1.25"),
        }
    }
    fn schema() -> Json {
        json!({ "type": "number" })
    }
    fn show(&self) -> Json {
        // As for a share.
        ((self.0 * 1e6).round() / 1e6).into()
    }
}

impl Decode for StatusRanges {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str = "statuses from 100 to 599: \"200-399\", \"200, 204\"";
        let text = match integer(value) {
            Some(number) => number.to_string(),
            None => reader.text(value, "statuses", WRITE)?,
        };
        // Not what the parser says of it, which holds the text.
        match text.parse() {
            Ok(statuses) => Some(StatusRanges(statuses)),
            Err(_) => {
                let instead = format!("write {WRITE}");
                reader.mistake(value.span(), "not statuses", instead);
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": r"^[0-9 ,-]+$|\$\{" },
        ] })
    }
    fn show(&self) -> Json {
        self.0.to_string().into()
    }
}

impl Decode for Secret {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let instead = "a string, best from elsewhere: \"${NAME}\"";
        reader.text(value, "a secret", instead).map(Secret)
    }
    fn schema() -> Json {
        String::schema()
    }
    fn show(&self) -> Json {
        Json::Null
    }
}

impl Decode for Workers {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let instead = format!("\"auto\", or a number from 1 to {MAX_WORKERS}");
        let number = match integer(value) {
            Some(number) => usize::try_from(number).unwrap_or(0),
            // A string, so that a variable can say it.
            None => match reader.text(value, "a number of workers", &instead)?.trim() {
                "auto" => return Some(Workers::Auto),
                text => text.parse().unwrap_or(0),
            },
        };
        if (1..=MAX_WORKERS).contains(&number) {
            return Some(Workers::Number(number));
        }
        reader.mistake(
            value.span(),
            "not a number of workers",
            format!("write {instead}"),
        );
        None
    }
    fn schema() -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": MAX_WORKERS },
            { "type": "string", "pattern": r"^(auto|[0-9]+)$|\$\{" },
        ] })
    }
    fn show(&self) -> Json {
        match self {
            Workers::Auto => "auto".into(),
            Workers::Number(n) => (*n).into(),
        }
    }
}

impl Decode for Network {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str = "an address (\"::1\"), a network with nothing behind its prefix (\"10.0.0.0/8\"), or \"unix\"";
        let text = reader.text(value, "a network", WRITE)?;
        match Trusted::parse([text.as_str()]) {
            Ok(_) => Some(Network(text)),
            // Says nothing of the text: a variable may have put a secret there.
            Err(_) => {
                reader.mistake(value.span(), "not a network", format!("write {WRITE}"));
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^unix$|[.:]|\$\{" })
    }
    fn show(&self) -> Json {
        self.0.as_str().into()
    }
}

impl Decode for NameServer {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        const WRITE: &str =
            "an address, \"10.0.0.53\" or \"::1\", or one with a port: \"[::1]:5353\"";
        let text = reader.text(value, "a name server", WRITE)?;
        let with_port = |ip: IpAddr| SocketAddr::new(ip, 53);
        let parsed = text.parse().map(with_port).or_else(|_| text.parse());
        match parsed.ok().filter(|at: &SocketAddr| at.port() != 0) {
            Some(at) => Some(NameServer(at)),
            None => {
                let instead = format!("write {WRITE}");
                reader.mistake(value.span(), "not the address of a name server", instead);
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"[.:]|\$\{" })
    }
    fn show(&self) -> Json {
        self.0.to_string().into()
    }
}

impl Decode for NameServers {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let all = Vec::<NameServer>::decode(value, reader)?;
        Some(NameServers(all.into_iter().map(|one| one.0).collect()))
    }
    fn schema() -> Json {
        Vec::<NameServer>::schema()
    }
    fn show(&self) -> Json {
        match self.0.is_empty() {
            true => Json::Null,
            false => self.0.iter().map(SocketAddr::to_string).collect(),
        }
    }
}

impl From<NameServers> for Vec<SocketAddr> {
    fn from(servers: NameServers) -> Vec<SocketAddr> {
        servers.0
    }
}

impl From<Vec<SocketAddr>> for NameServers {
    fn from(servers: Vec<SocketAddr>) -> NameServers {
        NameServers(servers)
    }
}

impl Decode for RedisUrl {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let instead = "a string: \"redis://host:6379\"";
        let text = reader.text(value, "a URL", instead)?;
        match text.parse() {
            Ok(url) => Some(RedisUrl(url)),
            // Says nothing of the text: there may be a password in it.
            Err(e) => {
                reader.mistake(value.span(), "not the URL of a Redis", e.to_string());
                None
            }
        }
    }
    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^[a-zA-Z]+(\+[a-zA-Z]+)?://|\$\{" })
    }
    fn show(&self) -> Json {
        Json::Null
    }
}

impl Decode for ServerHeader {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(false) => Some(ServerHeader(None)),
            _ => reader
                .text(
                    value,
                    "a string or false",
                    "it in quotes, or false for none",
                )
                .map(|text| ServerHeader(Some(text))),
        }
    }
    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "string" }, { "const": false }] })
    }
    fn show(&self) -> Json {
        match &self.0 {
            Some(text) => text.as_str().into(),
            None => false.into(),
        }
    }
}

macro_rules! convert {
    ($($wrapper:ident <=> $inner:ty),*) => {$(
        impl From<$wrapper> for $inner {
            fn from(value: $wrapper) -> $inner {
                <$inner>::try_from(value.0).unwrap_or(<$inner>::MAX)
            }
        }
        impl From<$inner> for $wrapper {
            fn from(value: $inner) -> $wrapper {
                $wrapper(value.try_into().unwrap_or_default())
            }
        }
    )*};
}
convert!(Size <=> usize, Size <=> u64, Count <=> usize, Count <=> u32, Count <=> u64, Wait <=> Duration);

macro_rules! convert_float {
    ($($wrapper:ident <=> $inner:ty),*) => {$(
        impl From<$wrapper> for $inner {
            fn from(value: $wrapper) -> $inner {
                value.0 as $inner
            }
        }
        impl From<$inner> for $wrapper {
            fn from(value: $inner) -> $wrapper {
                $wrapper(value.into())
            }
        }
    )*};
}
convert_float!(Percent <=> f32, Percent <=> f64, Factor <=> f32);
