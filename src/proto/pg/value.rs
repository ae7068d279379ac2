//! Floor 1. One value of a row, from the bytes of its type to what JSON and serde make of it.
//!
//! Invariants: bytes that are no value of their type are an error; an array's counts are checked against its bytes
//! before anything is made of them.

use super::param::is_numeric;
use postgres_protocol::types;
use postgres_types::{Kind, Type};
use std::fmt;
use std::net::IpAddr;

/// Whether values of this type are asked for, and read, in binary. All others are asked for as text.
pub(super) fn is_binary(ty: &Type) -> bool {
    match ty.kind() {
        Kind::Array(member) => is_binary(member),
        _ => matches!(
            *ty,
            Type::BOOL
                | Type::CHAR
                | Type::INT2
                | Type::INT4
                | Type::INT8
                | Type::OID
                | Type::FLOAT4
                | Type::FLOAT8
                | Type::NUMERIC
                | Type::TEXT
                | Type::VARCHAR
                | Type::BPCHAR
                | Type::NAME
                | Type::BYTEA
                | Type::UUID
                | Type::JSON
                | Type::JSONB
                | Type::DATE
                | Type::TIME
                | Type::TIMETZ
                | Type::TIMESTAMP
                | Type::TIMESTAMPTZ
                | Type::INTERVAL
                | Type::INET
                | Type::CIDR
        ),
    }
}

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Single(f32),
    Double(f64),
    Numeric(Numeric<'a>),
    /// A number as text: of the simple protocol.
    Number(&'a str),
    Text(&'a str),
    Json(&'a str),
    Bytes(&'a [u8]),
    Shown(Shown),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    pub(super) fn read(ty: &Type, binary: bool, raw: &'a [u8]) -> Result<Value<'a>, &'static str> {
        if binary {
            Value::from_binary(ty, raw)
        } else {
            Value::from_text(ty, text(raw)?)
        }
    }

    fn from_text(ty: &Type, text: &'a str) -> Result<Value<'a>, &'static str> {
        Ok(match *ty {
            Type::BOOL => Value::Bool(text == "t"),
            Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
                Value::Int(text.parse().map_err(|_| "no integer")?)
            }
            Type::FLOAT4 => Value::Single(text.parse().map_err(|_| "no float")?),
            Type::FLOAT8 => Value::Double(text.parse().map_err(|_| "no float")?),
            Type::NUMERIC if is_numeric(text) => match text.ends_with(|c: char| c.is_ascii_digit())
            {
                true => Value::Number(text),
                false => Value::Text(text),
            },
            Type::JSON | Type::JSONB => Value::Json(text),
            _ => Value::Text(text),
        })
    }

    fn from_binary(ty: &Type, raw: &'a [u8]) -> Result<Value<'a>, &'static str> {
        let of_length = |_| "of another length than its type";
        Ok(match *ty {
            Type::BOOL => Value::Bool(types::bool_from_sql(raw).map_err(of_length)?),
            Type::INT2 => Value::Int(types::int2_from_sql(raw).map_err(of_length)?.into()),
            Type::INT4 => Value::Int(types::int4_from_sql(raw).map_err(of_length)?.into()),
            Type::INT8 => Value::Int(types::int8_from_sql(raw).map_err(of_length)?),
            Type::OID => Value::Int(types::oid_from_sql(raw).map_err(of_length)?.into()),
            Type::FLOAT4 => Value::Single(types::float4_from_sql(raw).map_err(of_length)?),
            Type::FLOAT8 => Value::Double(types::float8_from_sql(raw).map_err(of_length)?),
            Type::NUMERIC => match Numeric::read(raw)? {
                numeric if numeric.is_number() => Value::Numeric(numeric),
                other => Value::Text(other.name()),
            },
            Type::BYTEA => Value::Bytes(raw),
            Type::JSON => Value::Json(text(raw)?),
            Type::JSONB => match raw.split_first() {
                Some((1, document)) => Value::Json(text(document)?),
                _ => return Err("an unknown version of jsonb"),
            },
            Type::CHAR => match raw {
                [0] => Value::Text(""),
                [c] => Value::Shown(Shown::Char(char::from(*c))),
                _ => return Err("of another length than its type"),
            },
            Type::UUID => Value::Shown(Shown::Uuid(types::uuid_from_sql(raw).map_err(of_length)?)),
            Type::DATE => match types::date_from_sql(raw).map_err(of_length)? {
                i32::MAX => Value::Text("infinity"),
                i32::MIN => Value::Text("-infinity"),
                days => Value::Shown(Shown::Date(days)),
            },
            Type::TIMESTAMP | Type::TIMESTAMPTZ => {
                match types::timestamp_from_sql(raw).map_err(of_length)? {
                    i64::MAX => Value::Text("infinity"),
                    i64::MIN => Value::Text("-infinity"),
                    micros => Value::Shown(Shown::Timestamp(micros, *ty == Type::TIMESTAMPTZ)),
                }
            }
            Type::TIME => Value::Shown(Shown::time(raw, None)?),
            Type::TIMETZ => {
                let (time, zone) = raw.split_at_checked(8).ok_or("too short")?;
                let zone = types::int4_from_sql(zone).map_err(of_length)?;
                Value::Shown(Shown::time(time, Some(zone))?)
            }
            Type::INTERVAL => match Shown::interval(raw)? {
                Shown::Interval(i64::MAX, i32::MAX, i32::MAX) => Value::Text("infinity"),
                Shown::Interval(i64::MIN, i32::MIN, i32::MIN) => Value::Text("-infinity"),
                interval => Value::Shown(interval),
            },
            Type::INET | Type::CIDR => {
                let inet = types::inet_from_sql(raw).map_err(|_| "no address")?;
                Value::Shown(Shown::Inet(inet.addr(), inet.netmask(), *ty == Type::CIDR))
            }
            ref ty => match ty.kind() {
                Kind::Array(member) => Value::Array(Array::read(member, raw)?),
                _ => Value::Text(text(raw)?),
            },
        })
    }

    /// # Errors
    /// Bytes of an array's elements; or the output is over `limit`.
    pub(super) fn json(&self, out: &mut Vec<u8>, limit: usize) -> Result<(), &'static str> {
        // Writing to a Vec does not fail.
        match self {
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Int(n) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
            Value::Single(n) if n.is_finite() => write_json(out, n),
            Value::Double(n) if n.is_finite() => write_json(out, n),
            Value::Single(n) => write_json(out, not_finite((*n).into())),
            Value::Double(n) => write_json(out, not_finite(*n)),
            Value::Numeric(numeric) => write(out, format_args!("{numeric}")),
            Value::Number(text) | Value::Json(text) => out.extend_from_slice(text.as_bytes()),
            Value::Text(text) => write_json(out, text),
            // None of its characters is escaped, but for what one "char" may be.
            Value::Shown(Shown::Char(c)) => write_json(out, c),
            Value::Shown(shown) => write(out, format_args!("\"{shown}\"")),
            Value::Bytes(bytes) => {
                out.extend_from_slice(b"\"\\\\x");
                for byte in *bytes {
                    write(out, format_args!("{byte:02x}"));
                }
                out.push(b'"');
            }
            Value::Array(array) => array.json(out, limit)?,
        }
        if out.len() > limit {
            Err(TOO_LONG)
        } else {
            Ok(())
        }
    }
}

/// What [`Value::json`] says when the output is over its limit.
pub(super) const TOO_LONG: &str = "too long as JSON";

fn write(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let _ = std::io::Write::write_fmt(out, text);
}

fn write_json(out: &mut Vec<u8>, value: impl serde::Serialize) {
    let _ = serde_json::to_writer(out, &value);
}

fn text(raw: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(raw).map_err(|_| "no UTF-8")
}

/// As the server writes it.
pub(super) fn not_finite(n: f64) -> &'static str {
    match n {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// `numeric`: digits to the base 10,000, the first of which counts 10,000 to the power of `weight`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numeric<'a> {
    digits: &'a [u8],
    weight: i16,
    sign: u16,
    /// Decimal digits behind the point.
    scale: u16,
}

const POSITIVE: u16 = 0;
const NEGATIVE: u16 = 0x4000;

impl<'a> Numeric<'a> {
    fn read(raw: &'a [u8]) -> Result<Numeric<'a>, &'static str> {
        let (head, digits) = raw.split_at_checked(8).ok_or("too short for a numeric")?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let numeric = Numeric {
            digits,
            weight: i16::from_be_bytes([head[2], head[3]]),
            sign: word(4),
            scale: word(6),
        };
        if digits.len() != usize::from(word(0)) * 2 {
            return Err("a numeric with another number of digits");
        }
        let known = [POSITIVE, NEGATIVE, 0xC000, 0xD000, 0xF000].contains(&numeric.sign);
        let in_base = (0..word(0)).all(|at| numeric.group(i32::from(at)) < 10_000);
        if !known || !in_base || numeric.scale > 0x3FFF {
            return Err("no numeric");
        }
        Ok(numeric)
    }

    fn is_number(&self) -> bool {
        [POSITIVE, NEGATIVE].contains(&self.sign)
    }

    fn name(&self) -> &'static str {
        match self.sign {
            0xD000 => "Infinity",
            0xF000 => "-Infinity",
            _ => "NaN",
        }
    }

    /// How long its text may be.
    fn len(&self) -> usize {
        let whole = usize::try_from(i32::from(self.weight) + 1).unwrap_or(0);
        whole * 4 + usize::from(self.scale) + 3
    }

    /// The digit at a place, from the first one; those that are not there are 0.
    fn group(&self, at: i32) -> u16 {
        let bytes = usize::try_from(at)
            .ok()
            .and_then(|at| self.digits.get(at * 2..at * 2 + 2));
        bytes.map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

impl fmt::Display for Numeric<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sign == NEGATIVE {
            f.write_str("-")?;
        }
        let weight = i32::from(self.weight);
        // Without zeros in front, which neither the server sends nor JSON allows.
        let first = (0..=weight).find(|at| self.group(*at) != 0);
        match first {
            None => f.write_str("0")?,
            Some(first) => {
                write!(f, "{}", self.group(first))?;
                for at in first + 1..=weight {
                    write!(f, "{:04}", self.group(at))?;
                }
            }
        }
        let mut left = usize::from(self.scale);
        if left > 0 {
            f.write_str(".")?;
        }
        let mut at = weight + 1;
        while left > 0 {
            let n = self.group(at);
            let four = [n / 1000, n / 100 % 10, n / 10 % 10, n % 10];
            for digit in four.iter().take(left) {
                write!(f, "{digit}")?;
            }
            left = left.saturating_sub(4);
            at += 1;
        }
        Ok(())
    }
}

/// What is a text for everybody but the server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
    Char(char),
    Uuid([u8; 16]),
    /// Days since 2000.
    Date(i32),
    /// Microseconds since 2000; whether in UTC, or of no zone.
    Timestamp(i64, bool),
    /// Microseconds since midnight; seconds west of Greenwich.
    Time(i64, Option<i32>),
    /// Microseconds, days, months.
    Interval(i64, i32, i32),
    /// The bits of the network; whether it is one.
    Inet(IpAddr, u8, bool),
}

const DAY: i64 = 86_400_000_000;

impl Shown {
    fn time(raw: &[u8], zone: Option<i32>) -> Result<Shown, &'static str> {
        let micros = types::time_from_sql(raw).map_err(|_| "no time")?;
        let in_range = zone.is_none_or(|zone| zone.unsigned_abs() < 86_400);
        if !(0..=DAY).contains(&micros) || !in_range {
            return Err("no time of day");
        }
        Ok(Shown::Time(micros, zone))
    }

    fn interval(raw: &[u8]) -> Result<Shown, &'static str> {
        let wrong = |_| "no interval";
        let (micros, rest) = raw.split_at_checked(8).ok_or("no interval")?;
        let (days, months) = rest.split_at_checked(4).ok_or("no interval")?;
        Ok(Shown::Interval(
            types::int8_from_sql(micros).map_err(wrong)?,
            types::int4_from_sql(days).map_err(wrong)?,
            types::int4_from_sql(months).map_err(wrong)?,
        ))
    }
}

/// Year, month and day, from days since 2000. The year before 1 is 0.
fn civil(days: i64) -> (i64, i64, i64) {
    // Eras of 400 years begin on the first of March; 2000-03-01 is 60 days after our epoch.
    let days = days - 60;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (2000 + era * 400 + year + next, month, day)
}

struct Clock(i64);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        write!(f, "{hours:02}:{minutes:02}:{:02}", seconds % 60)?;
        fraction(micros.unsigned_abs(), f)
    }
}

/// Without zeros at the end.
fn fraction(micros: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if micros == 0 {
        return Ok(());
    }
    let (mut micros, mut digits) = (micros, 6);
    while micros.is_multiple_of(10) {
        micros /= 10;
        digits -= 1;
    }
    write!(f, ".{micros:0digits$}")
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Shown::Char(c) => write!(f, "{c}"),
            Shown::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    let hyphen = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
                    write!(f, "{hyphen}{byte:02x}")?;
                }
                Ok(())
            }
            Shown::Date(days) => date(days.into(), &"", f),
            Shown::Timestamp(micros, is_utc) => {
                let clock = Clock(micros.rem_euclid(DAY));
                let zone = if is_utc { "Z" } else { "" };
                date(micros.div_euclid(DAY), &format_args!("T{clock}{zone}"), f)
            }
            Shown::Time(micros, zone) => {
                Clock(micros).fmt(f)?;
                let Some(west) = zone else { return Ok(()) };
                let seconds = west.unsigned_abs();
                let sign = if west > 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60)?;
                match seconds % 60 {
                    0 => Ok(()),
                    seconds => write!(f, ":{seconds:02}"),
                }
            }
            Shown::Interval(micros, days, months) => interval(micros, days, months, f),
            Shown::Inet(ip, bits, is_network) => {
                let all = if ip.is_ipv4() { 32 } else { 128 };
                match is_network || bits != all {
                    true => write!(f, "{ip}/{bits}"),
                    false => write!(f, "{ip}"),
                }
            }
        }
    }
}

fn date(days: i64, behind: &dyn fmt::Display, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    write!(f, "{year:04}-{month:02}-{day:02}{behind}{era}")
}

/// ISO 8601, as the server writes it if asked for it.
fn interval(micros: i64, days: i32, months: i32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let seconds = micros / 1_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let (seconds, micros) = (seconds % 60, micros % 1_000_000);
    if [hours, minutes, seconds, micros, days.into(), months.into()] == [0; 6] {
        return f.write_str("PT0S");
    }
    let part = |f: &mut fmt::Formatter<'_>, n: i64, unit: char| match n {
        0 => Ok(()),
        n => write!(f, "{n}{unit}"),
    };
    f.write_str("P")?;
    part(f, i64::from(months / 12), 'Y')?;
    part(f, i64::from(months % 12), 'M')?;
    part(f, days.into(), 'D')?;
    if [hours, minutes, seconds, micros] != [0; 4] {
        f.write_str("T")?;
    }
    part(f, hours, 'H')?;
    part(f, minutes, 'M')?;
    if seconds != 0 || micros != 0 {
        let sign = if seconds < 0 || micros < 0 { "-" } else { "" };
        write!(f, "{sign}{}", seconds.unsigned_abs())?;
        fraction(micros.unsigned_abs(), f)?;
        f.write_str("S")?;
    }
    Ok(())
}

/// `a[]`, of any dimensions.
#[derive(Clone, Debug)]
pub(super) struct Array<'a> {
    pub(super) member: Type,
    /// How many there are along each; none: the array is empty.
    pub(super) dimensions: smallvec::SmallVec<[usize; 2]>,
    /// The elements, each with its length in front.
    pub(super) elements: &'a [u8],
}

/// The server's own limit.
const MAX_DIMENSIONS: usize = 6;

/// Whether an array has no more elements than its bytes could hold: what reads it may make room for them.
pub(super) fn check_array(raw: &[u8]) -> Result<(), &'static str> {
    Array::read(&Type::UNKNOWN, raw).map(|_| ())
}

impl<'a> Array<'a> {
    pub(super) fn read(member: &Type, raw: &'a [u8]) -> Result<Array<'a>, &'static str> {
        let word = |at: usize| {
            let bytes = raw.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            let n = bytes
                .map(i32::from_be_bytes)
                .ok_or("too short for an array")?;
            usize::try_from(n).map_err(|_| "an array of negative size")
        };
        let count = word(0)?;
        if count > MAX_DIMENSIONS {
            return Err("too many dimensions");
        }
        let elements = raw.get(12 + count * 8..).ok_or("too short for an array")?;
        let mut dimensions = smallvec::SmallVec::new();
        let mut total = 1usize;
        for at in 0..count {
            let len = word(12 + at * 8)?;
            total = total.saturating_mul(len);
            dimensions.push(len);
        }
        // An empty `oidvector` is none along its one dimension.
        let is_empty = count > 1 && dimensions.contains(&0);
        if count > 0 && (total > elements.len() / 4 || is_empty) {
            return Err("an array with more elements than bytes");
        }
        if *member == Type::NUMERIC {
            check_numerics(elements)?;
        }
        let member = member.clone();
        Ok(Array {
            member,
            dimensions,
            elements,
        })
    }

    fn json(&self, out: &mut Vec<u8>, limit: usize) -> Result<(), &'static str> {
        let mut elements = Elements(self.elements);
        self.json_along(&self.dimensions, &mut elements, out, limit)
    }

    /// As deep as there are dimensions.
    fn json_along(
        &self,
        dimensions: &[usize],
        elements: &mut Elements<'a>,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), &'static str> {
        out.push(b'[');
        let (len, inner) = dimensions
            .split_first()
            .map_or((0, &[][..]), |(len, inner)| (*len, inner));
        for at in 0..len {
            if at > 0 {
                out.push(b',');
            }
            if !inner.is_empty() {
                self.json_along(inner, elements, out, limit)?;
                continue;
            }
            match elements.next()? {
                None => out.extend_from_slice(b"null"),
                Some(raw) => Value::from_binary(&self.member, raw)?.json(out, limit)?,
            }
        }
        out.push(b']');
        Ok(())
    }
}

/// Ten bytes of a numeric may be 147,455 digits: of one that is fine, of thousands it is not.
fn check_numerics(elements: &[u8]) -> Result<(), &'static str> {
    let mut left = elements.len().saturating_mul(64).saturating_add(256 * 1024);
    let mut rest = Elements(elements);
    while !rest.0.is_empty() {
        let len = rest
            .next()?
            .map_or(Ok(0), |raw| Numeric::read(raw).map(|numeric| numeric.len()))?;
        left = left
            .checked_sub(len)
            .ok_or("numerics with too many digits")?;
    }
    Ok(())
}

/// Values with their lengths in front.
#[derive(Clone, Debug)]
pub(super) struct Elements<'a>(pub(super) &'a [u8]);

impl<'a> Elements<'a> {
    /// `None`: NULL.
    pub(super) fn next(&mut self) -> Result<Option<&'a [u8]>, &'static str> {
        let (len, rest) = self.0.split_first_chunk().ok_or("no more values")?;
        let Ok(len) = usize::try_from(i32::from_be_bytes(*len)) else {
            self.0 = rest;
            return Ok(None);
        };
        let (value, rest) = rest
            .split_at_checked(len)
            .ok_or("a value longer than the rest")?;
        self.0 = rest;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(ty: &Type, raw: &[u8]) -> Result<String, &'static str> {
        let mut out = Vec::new();
        Value::read(ty, true, raw)?.json(&mut out, 1 << 20)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    /// A numeric's bytes, from its text.
    fn numeric(text: &str) -> Vec<u8> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (0x4000u16, digits),
            None => (0, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
        let padded = format!("{part}{}", "0".repeat((4 - part.len() % 4) % 4));
        let groups = |text: &str| -> Vec<u16> {
            let groups = text.as_bytes().chunks(4);
            groups
                .map(|four| {
                    std::str::from_utf8(four)
                        .expect("digits")
                        .parse()
                        .expect("a number")
                })
                .collect()
        };
        let weight = i16::try_from(whole.len() / 4).expect("short") - 1;
        let mut all = [groups(&whole), groups(&padded)].concat();
        // The server leaves zeros out, at either end.
        let before = all.len();
        let first = all.iter().position(|group| *group != 0).unwrap_or(before);
        all.drain(..first);
        let weight = weight - i16::try_from(first).expect("short");
        while all.last() == Some(&0) {
            all.pop();
        }
        let head = [
            u16::try_from(all.len()).expect("short"),
            weight.cast_unsigned(),
            sign,
            u16::try_from(part.len()).expect("short"),
        ];
        head.iter()
            .chain(&all)
            .flat_map(|word| word.to_be_bytes())
            .collect()
    }

    #[test]
    fn numerics() {
        for text in [
            "0",
            "0.0",
            "7",
            "-7",
            "10000",
            "0.00001",
            "123456789.000100",
            "-0.5",
            "99999999",
        ] {
            assert_eq!(json(&Type::NUMERIC, &numeric(text)), Ok(text.to_string()));
        }
        for (raw, why) in [
            (&[][..], "too short for a numeric"),
            (
                &[0, 1, 0, 0, 0, 0, 0, 0],
                "a numeric with another number of digits",
            ),
            (&[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10], "no numeric"),
            (&[0, 0, 0, 0, 0, 1, 0, 0], "no numeric"),
            (&[0, 0, 0, 0, 0, 0, 0x40, 0], "no numeric"),
        ] {
            assert_eq!(json(&Type::NUMERIC, raw), Err(why));
        }
        // As large as they come.
        let large = [0u16, 32767, 0, 0x3FFF]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect::<Vec<_>>();
        assert_eq!(
            json(&Type::NUMERIC, &large).map(|text| text.len()),
            Ok(16_383 + 2)
        );
        let large: Vec<u8> = [1u16, 32767, 0, 0x3FFF, 1]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        assert_eq!(
            json(&Type::NUMERIC, &large).map(|text| text.len()),
            Ok(32767 * 4 + 1 + 1 + 16_383)
        );
    }

    /// An array of so many of these bytes.
    fn array(dimensions: &[i32], element: &[u8], times: usize) -> Vec<u8> {
        let mut raw = Vec::new();
        let count = i32::try_from(dimensions.len()).expect("few");
        for word in [count, 0, 0]
            .iter()
            .chain(dimensions.iter().flat_map(|len| [len, &1]))
        {
            raw.extend_from_slice(&word.to_be_bytes());
        }
        for _ in 0..times {
            raw.extend_from_slice(&u32::try_from(element.len()).expect("short").to_be_bytes());
            raw.extend_from_slice(element);
        }
        raw
    }

    #[test]
    fn arrays() {
        let seven = 7i32.to_be_bytes();
        let ints =
            |dimensions: &[i32], times| json(&Type::INT4_ARRAY, &array(dimensions, &seven, times));
        assert_eq!(ints(&[], 0), Ok("[]".into()));
        assert_eq!(ints(&[2], 2), Ok("[7,7]".into()));
        assert_eq!(ints(&[1, 2, 1], 2), Ok("[[[7],[7]]]".into()));
        let many = Err("an array with more elements than bytes");
        assert_eq!(ints(&[i32::MAX], 1), many);
        assert_eq!(ints(&[65_536, 65_536], 1), many);
        assert_eq!(ints(&[0, 1], 0), many);
        assert_eq!(ints(&[0], 0), Ok("[]".into()));
        assert_eq!(ints(&[-1], 1), Err("an array of negative size"));
        assert_eq!(ints(&[1; 7], 1), Err("too many dimensions"));
        assert_eq!(
            json(&Type::INT4_ARRAY, &[0; 11]),
            Err("too short for an array")
        );
        // `postgres-types` would make room for them.
        assert!(check_array(&array(&[i32::MAX], &seven, 1)).is_err());
        let huge = [1u16, 32767, 0, 0, 1]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect::<Vec<_>>();
        let numerics = |times: u16| {
            json(
                &Type::NUMERIC_ARRAY,
                &array(&[times.into()], &huge, times.into()),
            )
        };
        assert!(numerics(2).is_ok());
        assert_eq!(numerics(3), Err("numerics with too many digits"));
    }

    #[test]
    fn what_is_no_value() {
        for (ty, raw) in [
            (Type::BOOL, &[][..]),
            (Type::INT4, &[0; 3]),
            (Type::INT8, &[0; 9]),
            (Type::UUID, &[0; 15]),
            (Type::JSONB, b""),
            (Type::JSONB, b"\x02{}"),
            (Type::TEXT, b"\xff"),
            (Type::JSON, b"\xff"),
            (Type::TIME, &[255; 8]),
            (Type::TIMETZ, &[0, 0, 0, 0, 0, 0, 0, 0, 127, 0, 0, 0]),
            (Type::INTERVAL, &[0; 15]),
            (Type::INET, &[2, 33, 0, 4, 1, 2, 3, 4]),
        ] {
            assert!(json(&ty, raw).is_err(), "{ty} {raw:?}");
        }
    }

    proptest! {
        #[test]
        fn numerics_are_exact(text in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?") {
            // The server has no negative zero.
            prop_assume!(!text.starts_with('-') || text.contains(|c: char| ('1'..='9').contains(&c)));
            prop_assert_eq!(json(&Type::NUMERIC, &numeric(&text)), Ok(text));
        }

        #[test]
        fn integers_and_floats(n in any::<i64>(), small in any::<i32>(), x in any::<f64>()) {
            prop_assert_eq!(json(&Type::INT8, &n.to_be_bytes()), Ok(n.to_string()));
            prop_assert_eq!(json(&Type::INT4, &small.to_be_bytes()), Ok(small.to_string()));
            let text = json(&Type::FLOAT8, &x.to_be_bytes()).expect("a float");
            prop_assert_eq!(text.parse::<f64>().ok(), Some(x).filter(|x| x.is_finite()));
        }

        /// Against another way to count: from one day to the next.
        #[test]
        fn days_follow_each_other(days in -2_451_545i32..2_147_483_493) {
            let (year, month, day) = civil(days.into());
            let next = civil(i64::from(days) + 1);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let want = match (day == last, month) {
                (true, 12) => (year + 1, 1, 1),
                (true, _) => (year, month + 1, 1),
                (false, _) => (year, month, day + 1),
            };
            prop_assert!((1..=12).contains(&month) && (1..=last).contains(&day));
            prop_assert_eq!(next, want);
        }

        /// Any bytes are a value that JSON can have, or an error.
        #[test]
        fn any_bytes(raw in proptest::collection::vec(any::<u8>(), 0..64), at in 0usize..34) {
            let types = [
                Type::BOOL, Type::CHAR, Type::INT2, Type::INT4, Type::INT8, Type::OID, Type::FLOAT4, Type::FLOAT8,
                Type::NUMERIC, Type::TEXT, Type::BYTEA, Type::UUID, Type::DATE, Type::TIME, Type::TIMETZ,
                Type::TIMESTAMP, Type::TIMESTAMPTZ, Type::INTERVAL, Type::INET, Type::CIDR, Type::BOOL_ARRAY,
                Type::INT4_ARRAY, Type::NUMERIC_ARRAY, Type::TEXT_ARRAY, Type::BYTEA_ARRAY, Type::UUID_ARRAY,
                Type::TIMESTAMPTZ_ARRAY, Type::INTERVAL_ARRAY, Type::INET_ARRAY, Type::CHAR_ARRAY, Type::TIMETZ_ARRAY,
                Type::FLOAT4_ARRAY, Type::DATE_ARRAY, Type::MONEY,
            ];
            if let Ok(text) = json(&types[at], &raw) {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{}", text);
            }
        }
    }

    #[test]
    fn the_epoch() {
        assert_eq!(
            (civil(0), civil(59), civil(60), civil(-1)),
            ((2000, 1, 1), (2000, 2, 29), (2000, 3, 1), (1999, 12, 31))
        );
    }
}
