//! Floor 1. Parameters of a query: values whose encoding is decided when the statement has said what it wants.
//!
//! Numbers, booleans and bytes go in binary where the statement wants just them; everything else goes as text, for
//! the server to read, so that enums, domains and types nobody here knows work, too. Text stays a value: there is no
//! way for it to become SQL.

use super::error::ParamError;
use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::{IsNull, message::frontend};
use postgres_types::{Format, Kind, ToSql, Type};
use smallvec::SmallVec;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One value.
///
/// ```
/// use loopwright::proto::pg::Param;
/// assert!(matches!(Param::from(7), Param::Int(7)));
/// assert!(matches!(Param::from(None::<&str>), Param::Null));
/// ```
#[derive(Debug)]
pub enum Param {
    /// `NULL`, of any type.
    Null,
    /// For `bool`.
    Bool(bool),
    /// For `int2`, `int4`, `int8` and `oid`, if it is in their range; for `numeric` and floats.
    Int(i64),
    /// For `float4`, `float8` and `numeric`.
    Float(f64),
    /// For texts, and, read by the server, for what is written as one: enums, dates, UUIDs, addresses, arrays.
    /// Not for numbers, booleans and JSON: see [`Param::Given`].
    Text(String),
    /// For `bytea`.
    Bytes(Bytes),
    /// A document, for `json` and `jsonb`.
    Json(String),
    /// A text from outside, for whatever the statement wants: `"7"` for an `int4`. It is checked to be one.
    Given(String),
    /// A string of a JSON document from outside, as it is written there, quotes and all: for `json` and `jsonb` that, for
    /// anything else its text, as [`Param::Given`].
    JsonString(String),
    /// Anything else, as the `postgres-types` crate has it.
    Typed(Box<dyn ToSql>),
}

macro_rules! from {
    ($($type:ty => $value:ident $made:expr;)*) => {$(
        impl From<$type> for Param {
            fn from($value: $type) -> Param {
                $made
            }
        }
    )*};
}

from! {
    bool => v Param::Bool(v);
    i16 => v Param::Int(v.into());
    i32 => v Param::Int(v.into());
    i64 => v Param::Int(v);
    u32 => v Param::Int(v.into());
    f32 => v Param::Float(v.into());
    f64 => v Param::Float(v);
    &str => v Param::Text(v.into());
    String => v Param::Text(v);
    Bytes => v Param::Bytes(v);
    Vec<u8> => v Param::Bytes(v.into());
    &[u8] => v Param::Bytes(Bytes::copy_from_slice(v));
    serde_json::Value => v Param::Json(v.to_string());
}

impl<T: Into<Param>> From<Option<T>> for Param {
    fn from(value: Option<T>) -> Param {
        value.map_or(Param::Null, Into::into)
    }
}

/// The values of `$1`, `$2`, …
///
/// ```
/// use loopwright::proto::pg::Params;
/// let params = Params::new().with(7).with("ada").with(None::<bool>);
/// assert_eq!(params.len(), 3);
/// ```
#[derive(Debug, Default)]
pub struct Params(SmallVec<[Param; 2]>);

impl Params {
    /// None yet.
    pub fn new() -> Params {
        Params::default()
    }

    /// And the next one.
    pub fn with(mut self, param: impl Into<Param>) -> Params {
        self.push(param);
        self
    }

    /// Adds the next one.
    pub fn push(&mut self, param: impl Into<Param>) {
        self.0.push(param.into());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Param> {
        self.0.iter()
    }

    /// About as many bytes as they will take.
    pub(super) fn size(&self) -> usize {
        self.iter().map(Param::size).fold(0, usize::saturating_add)
    }
}

impl<P: Into<Param>> FromIterator<P> for Params {
    fn from_iter<I: IntoIterator<Item = P>>(params: I) -> Params {
        Params(params.into_iter().map(Into::into).collect())
    }
}

impl<P: Into<Param>, const N: usize> From<[P; N]> for Params {
    fn from(params: [P; N]) -> Params {
        params.into_iter().collect()
    }
}

impl From<()> for Params {
    fn from((): ()) -> Params {
        Params::new()
    }
}

macro_rules! from_tuple {
    ($($($type:ident)+;)*) => {$(
        impl<$($type: Into<Param>),+> From<($($type,)+)> for Params {
            #[allow(non_snake_case)] // As the types are named.
            fn from(($($type,)+): ($($type,)+)) -> Params {
                Params::new()$(.with($type))+
            }
        }
    )*};
}

// Values of different types: `(7, "ada")`.
from_tuple! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H;
}

/// What a statement wants in one place.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) oid: u32,
    /// [`Type::UNKNOWN`] for what `postgres-types` does not know: enums, domains, composites, extensions.
    pub(super) ty: Type,
}

impl Wanted {
    pub(super) fn new(oid: u32) -> Wanted {
        let ty = Type::from_oid(oid).unwrap_or(Type::UNKNOWN);
        Wanted { oid, ty }
    }

    fn name(&self) -> String {
        match self.ty {
            Type::UNKNOWN => format!("type {}", self.oid),
            ref ty => ty.name().into(),
        }
    }
}

/// A `Bind` of the unnamed portal.
///
/// # Errors
/// What does not fit. What was written of it is to be taken back by the caller.
pub(super) fn bind(
    statement: &str,
    wanted: &[Wanted],
    params: &Params,
    result_formats: impl Iterator<Item = i16>,
    out: &mut BytesMut,
) -> Result<(), Option<ParamError>> {
    let both = || params.iter().zip(wanted);
    let formats = both().map(|(param, wanted)| i16::from(param.is_binary(&wanted.ty)));
    let mut position = 0;
    let mut wrong = None;
    let encode = |(param, wanted): (&Param, &Wanted), out: &mut BytesMut| {
        position += 1;
        param.encode(&wanted.ty, out).map_err(|why| {
            wrong = Some(ParamError {
                position,
                type_name: wanted.name(),
                why: why.clone(),
            });
            why.into()
        })
    };
    // [`Param::Typed`] is anybody's code. Whoever calls this has a connection in hand, which is not to be lost with it.
    let bound = catch_unwind(AssertUnwindSafe(|| {
        frontend::bind("", statement, formats, both(), encode, result_formats, out)
    }));
    match bound {
        Ok(bound) => bound.map_err(|_| wrong),
        Err(_) => Err(Some(ParamError {
            position,
            type_name: position
                .checked_sub(1)
                .and_then(|at| wanted.get(at))
                .map_or_else(String::new, Wanted::name),
            why: "its conversion panicked".into(),
        })),
    }
}

impl Param {
    fn size(&self) -> usize {
        match self {
            Param::Text(text)
            | Param::Json(text)
            | Param::Given(text)
            | Param::JsonString(text) => text.len(),
            Param::Bytes(bytes) => bytes.len(),
            _ => 16,
        }
    }

    fn is_binary(&self, ty: &Type) -> bool {
        match self {
            Param::Null
            | Param::Text(_)
            | Param::Json(_)
            | Param::Given(_)
            | Param::JsonString(_) => false,
            Param::Bool(_) => *ty == Type::BOOL,
            Param::Int(_) => matches!(*ty, Type::INT2 | Type::INT4 | Type::INT8 | Type::OID),
            Param::Float(_) => matches!(*ty, Type::FLOAT4 | Type::FLOAT8),
            Param::Bytes(_) => true,
            Param::Typed(value) => matches!(value.encode_format(ty), Format::Binary),
        }
    }

    fn encode(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, String> {
        let fits = |what: &str| Err(format!("{what} does not fit"));
        match self {
            Param::Null => return Ok(IsNull::Yes),
            Param::Bool(value) => match *ty {
                Type::BOOL => out.put_u8(u8::from(*value)),
                Type::UNKNOWN => out.put_slice(if *value { b"t" } else { b"f" }),
                _ => return fits("a boolean"),
            },
            Param::Int(value) => return int(*value, ty, out),
            Param::Float(value) => match *ty {
                Type::FLOAT8 => out.put_f64(*value),
                Type::FLOAT4 => {
                    #[allow(clippy::cast_possible_truncation)]
                    // Rounded as the type is; checked for its range.
                    let single = *value as f32;
                    if single.is_infinite() && value.is_finite() {
                        return Err(format!("{value:e} is out of its range"));
                    }
                    out.put_f32(single);
                }
                Type::NUMERIC | Type::UNKNOWN => show(value, out),
                _ => return fits("a float"),
            },
            Param::Text(text) => {
                if is_number(ty)
                    || matches!(*ty, Type::BOOL | Type::BYTEA | Type::JSON | Type::JSONB)
                {
                    return fits("a text");
                }
                put_text(text, out)?;
            }
            Param::Bytes(bytes) => match *ty {
                Type::BYTEA => out.put_slice(bytes),
                _ => return fits("a string of bytes"),
            },
            Param::Json(text) => match *ty {
                Type::JSON | Type::JSONB | Type::TEXT | Type::VARCHAR | Type::UNKNOWN => {
                    put_text(text, out)?;
                }
                _ => return fits("a JSON document"),
            },
            Param::Given(text) => {
                check(text, ty)?;
                put_text(text, out)?;
            }
            Param::JsonString(raw) => {
                let text: String = serde_json::from_str(raw).map_err(|e| e.to_string())?;
                match *ty {
                    Type::JSON | Type::JSONB => put_text(raw, out)?,
                    _ => return Param::Given(text).encode(ty, out),
                }
            }
            Param::Typed(value) => {
                return match value.to_sql_checked(ty, out) {
                    Ok(postgres_types::IsNull::Yes) => Ok(IsNull::Yes),
                    Ok(postgres_types::IsNull::No) => Ok(IsNull::No),
                    Err(error) => Err(error.to_string()),
                };
            }
        }
        Ok(IsNull::No)
    }
}

fn is_number(ty: &Type) -> bool {
    matches!(
        *ty,
        Type::INT2
            | Type::INT4
            | Type::INT8
            | Type::OID
            | Type::FLOAT4
            | Type::FLOAT8
            | Type::NUMERIC
    )
}

fn int(value: i64, ty: &Type, out: &mut BytesMut) -> Result<IsNull, String> {
    let range = |_| format!("{value} is out of its range");
    match *ty {
        Type::INT2 => out.put_i16(value.try_into().map_err(range)?),
        Type::INT4 => out.put_i32(value.try_into().map_err(range)?),
        Type::INT8 => out.put_i64(value),
        Type::OID => out.put_u32(value.try_into().map_err(range)?),
        Type::NUMERIC | Type::FLOAT4 | Type::FLOAT8 | Type::UNKNOWN => {
            out.put_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        _ => return Err("an integer does not fit".into()),
    }
    Ok(IsNull::No)
}

fn show(value: &f64, out: &mut BytesMut) {
    // Fails only for want of memory.
    let _ = write!(out, "{value:e}");
}

fn put_text(text: &str, out: &mut BytesMut) -> Result<(), String> {
    if text.contains('\0') {
        return Err("a text with a NUL in it".into());
    }
    out.put_slice(text.as_bytes());
    Ok(())
}

/// Whether the server would read `text` as a `ty`; of types that are not looked at here it is the judge.
fn check(text: &str, ty: &Type) -> Result<(), String> {
    let is = |fine: bool, what: &str| {
        if fine {
            return Ok(());
        }
        let mut begin: String = text.chars().take(40).collect();
        if begin.len() < text.len() {
            begin.push('…');
        }
        Err(format!("{begin:?} is no {what}"))
    };
    if let Kind::Array(_) = ty.kind() {
        return is(text.starts_with(['{', '[']), "array ({…})");
    }
    match *ty {
        Type::BOOL => {
            let words = [
                "t", "true", "y", "yes", "on", "1", "f", "false", "n", "no", "off", "0",
            ];
            is(
                words.iter().any(|word| text.eq_ignore_ascii_case(word)),
                "boolean",
            )
        }
        Type::INT2 => is(text.parse::<i16>().is_ok(), "integer from -32768 to 32767"),
        Type::INT4 => is(text.parse::<i32>().is_ok(), "integer of 32 bits"),
        Type::INT8 => is(text.parse::<i64>().is_ok(), "integer of 64 bits"),
        Type::OID => is(text.parse::<u32>().is_ok(), "object identifier"),
        Type::FLOAT4 | Type::FLOAT8 => is(text.parse::<f64>().is_ok(), "number"),
        Type::NUMERIC => is(is_numeric(text), "number"),
        Type::UUID => is(is_uuid(text), "UUID"),
        Type::JSON | Type::JSONB => {
            let document = serde_json::from_str::<serde::de::IgnoredAny>(text);
            is(document.is_ok(), "JSON document")
        }
        Type::DATE => is(is_moment(text, is_date), "date (YYYY-MM-DD)"),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let fine = is_moment(text, |text| {
                let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00"));
                is_date(date) && is_time(time)
            });
            is(fine, "time stamp (YYYY-MM-DDThh:mm:ss, with Z or +hh:mm)")
        }
        Type::TIME | Type::TIMETZ => is(is_time(text), "time of day (hh:mm:ss)"),
        _ => Ok(()),
    }
}

/// Digits with a sign, a point and an exponent, or what is no number and has a name.
pub(super) fn is_numeric(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    if ["nan", "infinity", "inf"]
        .iter()
        .any(|name| text.eq_ignore_ascii_case(name))
    {
        return true;
    }
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (
            digits,
            exponent.strip_prefix(['+', '-']).unwrap_or(exponent),
        ),
        None => (text, "0"),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let some_exponent = !exponent.is_empty() && exponent.len() < 7 && all_digits(exponent);
    !(whole.is_empty() && part.is_empty()) && all_digits(whole) && all_digits(part) && some_exponent
}

fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    match text.len() {
        32 => text.bytes().all(|b| b.is_ascii_hexdigit()),
        36 => text
            .bytes()
            .enumerate()
            .all(|(at, b)| match hyphens.contains(&at) {
                true => b == b'-',
                false => b.is_ascii_hexdigit(),
            }),
        _ => false,
    }
}

fn is_moment(text: &str, parse: impl Fn(&str) -> bool) -> bool {
    let words = [
        "infinity",
        "-infinity",
        "epoch",
        "now",
        "today",
        "tomorrow",
        "yesterday",
    ];
    words.iter().any(|word| text.eq_ignore_ascii_case(word)) || parse(text)
}

/// A number of `text`'s digits, all of it.
fn digits(text: &str, len: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let fine = len.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| fine)
}

fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut next = |len| parts.next().and_then(|part| digits(part, len));
    let (Some(year), Some(month), Some(day)) = (next(4..=7), next(1..=2), next(1..=2)) else {
        return false;
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    year > 0 && (1..=days).contains(&day) && parts.next().is_none()
}

fn is_time(text: &str) -> bool {
    let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let (time, zone) = match text.rfind(['+', '-']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let below = |text: &str, limit| digits(text, 1..=2).is_some_and(|n| n <= limit);
    let is_clock = |text: &str, parts: std::ops::RangeInclusive<usize>, hours| {
        let mut fields = text.split(':').enumerate();
        let fine = |(at, field)| below(field, if at == 0 { hours } else { 60 });
        parts.contains(&text.split(':').count()) && fields.all(fine)
    };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    digits(fraction, 1..=9).is_some()
        && is_clock(clock.trim_end(), 2..=3, 24)
        && zone.is_none_or(|zone| is_clock(zone, 1..=3, 15) || digits(zone, 4..=4).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pg::row::{Column, Columns, Row};
    use proptest::prelude::*;
    use std::rc::Rc;

    /// What a `Bind` says of one parameter: whether it is binary, and its bytes.
    fn bound(ty: &Type, param: Param) -> Result<(bool, Vec<u8>), String> {
        let mut out = BytesMut::new();
        let wanted = [Wanted::new(ty.oid())];
        let params = Params::from([param]);
        bind("s", &wanted, &params, std::iter::empty(), &mut out)
            .map_err(|wrong| wrong.map(|wrong| wrong.to_string()).unwrap_or_default())?;
        // The letter, the length, two names, one format, one value with its length, no formats.
        let rest = &out[5 + 1 + 2..];
        assert_eq!((&rest[..2], &rest[4..6]), (&[0, 1][..], &[0, 1][..]));
        assert_eq!(rest[rest.len() - 2..], [0, 0]);
        Ok((rest[3] == 1, rest[6..rest.len() - 2].to_vec()))
    }

    /// Comes back as the one value of a row.
    fn row(ty: &Type, param: Param) -> Row {
        let (binary, value) = bound(ty, param).expect("it fits");
        let columns = Columns::new(vec![Column::new("v", ty.oid(), Some(binary))], 1 << 20);
        Row::new(value.into(), Rc::new(columns)).expect("a row")
    }

    proptest! {
        #[test]
        fn integers_come_back(n in any::<i64>()) {
            prop_assert_eq!(row(&Type::INT8, n.into()).get::<i64>(0), Ok(n));
            let small = i32::try_from(n >> 32).expect("32 bits");
            prop_assert_eq!(row(&Type::INT4, small.into()).get::<i32>("v"), Ok(small));
            let fits = bound(&Type::INT4, n.into());
            prop_assert_eq!(fits.is_ok(), i32::try_from(n).is_ok());
            let fits = bound(&Type::INT2, Param::Given((n >> 40).to_string()));
            prop_assert_eq!(fits.is_ok(), i16::try_from(n >> 40).is_ok());
        }

        #[test]
        fn floats_come_back(x in any::<f64>(), y in any::<f32>()) {
            prop_assert_eq!(row(&Type::FLOAT8, x.into()).get::<f64>(0).map(f64::to_bits), Ok(x.to_bits()));
            let back = row(&Type::FLOAT4, y.into()).get::<f32>(0);
            prop_assert!(back.is_ok_and(|back| back == y || (back.is_nan() && y.is_nan())));
            // As a numeric's text.
            let text = row(&Type::NUMERIC, x.into()).get::<String>(0).expect("a text");
            prop_assert_eq!(text.parse::<f64>().ok(), Some(x));
            prop_assert!(is_numeric(&text), "{}", text);
        }

        #[test]
        fn texts_and_bytes_come_back(text in "[^\0]*", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let back = row(&Type::TEXT, text[..].into());
            prop_assert_eq!(back.get::<&str>(0), Ok(&text[..]));
            let back = row(&Type::BYTEA, bytes.clone().into());
            prop_assert_eq!(back.get::<&[u8]>(0), Ok(&bytes[..]));
            let document = serde_json::json!({ "text": text });
            let back = row(&Type::JSON, document.clone().into()).to::<(serde_json::Value,)>();
            prop_assert_eq!(back, Ok((document,)));
        }

        /// Any text from outside fits, or is an error that says where.
        #[test]
        fn any_text(text in "\\PC{0,20}|[0-9TZ:. +-]{0,25}", oid in 16u32..3910) {
            if let Some(ty) = Type::from_oid(oid)
                && let Err(why) = bound(&ty, Param::Given(text)) {
                prop_assert!(why.starts_with("parameter $1 ("), "{}", why);
            }
        }
    }

    #[test]
    fn moments() {
        for (text, fits) in [
            ("2024-02-29", true),
            ("2000-02-29", true),
            ("1900-02-29", false),
            ("2024-13-01", false),
            ("2024-04-31", false),
            ("0000-01-01", false),
            ("24-01-01", false),
            ("2024-01-01-01", false),
            ("2024-01", false),
            ("infinity", true),
        ] {
            assert_eq!(check(text, &Type::DATE).is_ok(), fits, "{text}");
        }
        for (text, fits) in [
            ("2024-01-01", true),
            ("2024-01-01T12:00", true),
            ("2024-01-01 12:00:00.123456Z", true),
            ("2024-01-01T12:00:00+05:45", true),
            ("2024-01-01T12:00:00-0330", true),
            ("2024-01-01T12:00:00+7", true),
            ("2024-01-01T", false),
            ("2024-01-01T12", false),
            ("2024-01-01T12:00:00+99", false),
            ("2024-01-01T12:61", false),
            ("2024-01-01T12:00:00.", false),
            ("1704067200", false),
            ("", false),
        ] {
            assert_eq!(check(text, &Type::TIMESTAMPTZ).is_ok(), fits, "{text}");
        }
        for (text, fits) in [
            ("1", true),
            ("-1.5e-3", true),
            (".5", true),
            ("5.", true),
            ("NaN", true),
            ("-inf", true),
            ("", false),
            (".", false),
            ("-", false),
            ("1e", false),
            ("1e9999999", false),
            ("0x1", false),
            ("1 ", false),
        ] {
            assert_eq!(is_numeric(text), fits, "{text}");
        }
    }
}
