//! Floor 1. A row as serde sees it: a map of columns to values, or a sequence of them.
//!
//! Integers and floats are themselves; `numeric` is a text with all its digits, or a number for a field that wants one;
//! what JSON has as a text (time stamps, UUIDs, enums) is that text; `json` and `jsonb` are what is in them; `bytea` is
//! bytes, or a sequence of them.

use super::error::ConvertError;
use super::row::{Column, Row};
use super::value::{Array, Elements, Value};
use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use std::fmt;

pub(super) fn row<'a, T: Deserialize<'a>>(row: &'a Row) -> Result<T, ConvertError> {
    T::deserialize(Whole(row)).map_err(|Wrong(error)| error)
}

/// An error that knows its column.
#[derive(Debug)]
struct Wrong(ConvertError);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(why: T) -> Wrong {
        Wrong(ConvertError::Struct(why.to_string()))
    }
}

struct Whole<'a>(&'a Row);

impl<'a> Whole<'a> {
    fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        self.0.values().map(|(column, raw)| Field { column, raw })
    }
}

impl<'a> Deserializer<'a> for Whole<'a> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let entries = self.fields().map(|field| (&field.column.name[..], field));
        visitor.visit_map(MapDeserializer::new(entries))
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_seq(SeqDeserializer::new(self.fields()))
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        map struct enum identifier ignored_any
    }
}

/// A value with the column that it is of, for its errors.
#[derive(Clone, Copy)]
struct Field<'a> {
    column: &'a Column,
    raw: Option<&'a [u8]>,
}

impl<'a> Field<'a> {
    fn visit<T>(self, f: impl FnOnce(Element<'a>) -> Result<T, Error>) -> Result<T, Wrong> {
        let value = self
            .raw
            .map(|raw| self.column.value(raw))
            .transpose()
            .map_err(Wrong)?;
        f(Element(value)).map_err(|why| Wrong(self.column.error(why)))
    }
}

impl<'a> IntoDeserializer<'a, Wrong> for Field<'a> {
    type Deserializer = Field<'a>;

    fn into_deserializer(self) -> Field<'a> {
        self
    }
}

macro_rules! forward {
    ($($method:ident($($name:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'a>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Wrong> {
            self.visit(|element| element.$method($($name,)* visitor))
        }
    )*};
}

impl<'a> Deserializer<'a> for Field<'a> {
    type Error = Wrong;

    forward! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_i128() deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_option() deserialize_unit() deserialize_seq()
        deserialize_map() deserialize_identifier() deserialize_ignored_any()
        deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }
}

/// `None`: NULL.
struct Element<'a>(Option<Value<'a>>);

impl<'a> IntoDeserializer<'a, Error> for Element<'a> {
    type Deserializer = Element<'a>;

    fn into_deserializer(self) -> Element<'a> {
        self
    }
}

fn custom(why: impl fmt::Display) -> Error {
    de::Error::custom(why)
}

impl<'a> Element<'a> {
    /// The digits of a number, for a field that wants a number.
    fn number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let digits = match &self.0 {
            Some(Value::Numeric(numeric)) => numeric.to_string(),
            Some(Value::Number(text)) => (*text).to_string(),
            _ => return self.deserialize_any(visitor),
        };
        if let Ok(n) = digits.parse::<i64>() {
            visitor.visit_i64(n)
        } else if let Ok(n) = digits.parse::<u64>() {
            visitor.visit_u64(n)
        } else {
            visitor.visit_f64(digits.parse().map_err(custom)?)
        }
    }
}

macro_rules! number {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
            self.number(visitor)
        }
    )*};
}

impl<'a> Deserializer<'a> for Element<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let Some(value) = self.0 else {
            return visitor.visit_unit();
        };
        match value {
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(n) => visitor.visit_i64(n),
            Value::Single(n) => visitor.visit_f32(n),
            Value::Double(n) => visitor.visit_f64(n),
            Value::Numeric(numeric) => visitor.visit_string(numeric.to_string()),
            Value::Number(text) | Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Json(text) => {
                let mut json = serde_json::Deserializer::from_str(text);
                let value = json.deserialize_any(visitor).map_err(custom)?;
                json.end().map_err(custom)?;
                Ok(value)
            }
            Value::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Value::Shown(shown) => visitor.visit_string(shown.to_string()),
            Value::Array(array) => {
                let mut elements = Elements(array.elements);
                along(&array, &array.dimensions, &mut elements, visitor)
            }
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            // A document that is null is as good as none.
            None | Some(Value::Json("null")) => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Some(Value::Bytes(bytes)) => {
                visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Some(Value::Text(text)) => visitor.visit_enum(text.into_deserializer()),
            Some(Value::Json(text)) => {
                let mut json = serde_json::Deserializer::from_str(text);
                let value = json.deserialize_enum(name, variants, visitor);
                value.map_err(custom)
            }
            _ => Err(custom("neither a text nor a JSON document, for an enum")),
        }
    }

    number! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool char str string bytes byte_buf unit unit_struct tuple_struct map struct identifier ignored_any
    }
}

/// An array's elements along its first dimension.
fn along<'a, V: Visitor<'a>>(
    array: &Array<'a>,
    dimensions: &[usize],
    elements: &mut Elements<'a>,
    visitor: V,
) -> Result<V::Value, Error> {
    let (len, inner) = dimensions
        .split_first()
        .map_or((0, &[][..]), |(len, inner)| (*len, inner));
    visitor.visit_seq(Along {
        array,
        left: len,
        inner,
        elements,
    })
}

struct Along<'b, 'a> {
    array: &'b Array<'a>,
    left: usize,
    /// The dimensions of what is in here.
    inner: &'b [usize],
    elements: &'b mut Elements<'a>,
}

impl<'a> de::SeqAccess<'a> for Along<'_, 'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if !self.inner.is_empty() {
            let (array, dimensions) = (self.array, self.inner);
            let elements = &mut *self.elements;
            let inner = Inner {
                array,
                dimensions,
                elements,
            };
            return seed.deserialize(inner).map(Some);
        }
        let raw = self.elements.next().map_err(custom)?;
        let value = raw.map(|raw| Value::read(&self.array.member, true, raw));
        let value = value.transpose().map_err(custom)?;
        seed.deserialize(Element(value)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// What is along all dimensions but the first.
struct Inner<'b, 'a> {
    array: &'b Array<'a>,
    dimensions: &'b [usize],
    elements: &'b mut Elements<'a>,
}

impl<'a> Deserializer<'a> for Inner<'_, 'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        along(self.array, self.dimensions, self.elements, visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
