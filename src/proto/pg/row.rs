//! Floor 1. A row of an answer: its values by index or name, as a struct, as JSON.
//!
//! Invariants: a [`Row`] has as many values as its [`Columns`], and their lengths end where it ends: the session has
//! looked. What they mean is looked at when they are asked for.

use super::error::ConvertError;
use super::value::{Elements, TOO_LONG, Value, check_array, is_binary};
use postgres_types::{FromSql, Kind, Type};
use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

/// What one value of a row is. [`Row`] has an example.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// As the query names it.
    pub name: String,
    /// The number of its type in the server's catalogue.
    pub oid: u32,
    /// [`Type::UNKNOWN`] for enums, composites and extensions, whose values are texts; domains are their base.
    pub ty: Type,
    /// Whether values come in binary.
    pub binary: bool,
    /// `"name":`
    key: Box<str>,
}

impl Column {
    pub(super) fn new(name: &str, oid: u32, binary: Option<bool>) -> Column {
        let ty = Type::from_oid(oid).unwrap_or(Type::UNKNOWN);
        // Strings are always JSON.
        let key = serde_json::to_string(name).unwrap_or_default() + ":";
        Column {
            name: name.into(),
            oid,
            binary: binary.unwrap_or_else(|| is_binary(&ty)),
            ty,
            key: key.into(),
        }
    }

    pub(super) fn value<'a>(&self, raw: &'a [u8]) -> Result<Value<'a>, ConvertError> {
        Value::read(&self.ty, self.binary, raw).map_err(|why| self.error(why))
    }

    pub(super) fn error(&self, why: impl ToString) -> ConvertError {
        ConvertError::Value {
            column: self.name.clone(),
            type_name: self.ty.name().into(),
            why: why.to_string(),
        }
    }
}

/// What the rows of one answer have. [`Row`] has an example.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Columns {
    columns: Vec<Column>,
    /// Bytes of one row as JSON.
    json: usize,
}

impl Columns {
    pub(super) fn new(columns: Vec<Column>, json: usize) -> Columns {
        Columns { columns, json }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// How many bytes of JSON an answer may be.
    pub(crate) fn json_limit(&self) -> usize {
        self.json
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, Column> {
        self.columns.iter()
    }

    /// The number of the first one with this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

impl std::ops::Index<usize> for Columns {
    type Output = Column;

    /// # Panics
    /// There is none.
    fn index(&self, at: usize) -> &Column {
        &self.columns[at]
    }
}

/// A column, by number from 0 or by name. [`Row`] has an example.
pub trait Index {
    /// Its number.
    fn find(&self, columns: &Columns) -> Option<usize>;
    /// For an error.
    fn show(&self) -> String;
}

impl Index for usize {
    fn find(&self, columns: &Columns) -> Option<usize> {
        Some(*self).filter(|at| *at < columns.len())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Index for &str {
    fn find(&self, columns: &Columns) -> Option<usize> {
        columns.position(self)
    }
    fn show(&self) -> String {
        (*self).to_string()
    }
}

/// A piece of the block that it came in.
#[derive(Clone)]
pub(super) struct Values {
    block: Rc<Vec<u8>>,
    range: Range<usize>,
}

impl Values {
    /// `None`: that is more than the block has.
    pub(super) fn new(block: Rc<Vec<u8>>, range: Range<usize>) -> Option<Values> {
        block.get(range.clone())?;
        Some(Values { block, range })
    }
}

impl Deref for Values {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // `new` has looked that it is there.
        self.block.get(self.range.clone()).unwrap_or_default()
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Values) -> bool {
        **self == **other
    }
}

impl Eq for Values {}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl From<Vec<u8>> for Values {
    fn from(bytes: Vec<u8>) -> Values {
        let range = 0..bytes.len();
        let block = Rc::new(bytes);
        Values { block, range }
    }
}

/// One row. It keeps the block of memory alive that it came in (about 16 KiB, or its own size).
///
/// ```
/// use loopwright::Instant;
/// use loopwright::proto::pg::{Event, Limits, Query, Session, Settings};
/// # let now = Instant::default();
/// # let mut session = Session::new(&Settings::new("ada"), Limits::default(), now).unwrap();
/// # session.poll_event(&mut &b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"[..], now).unwrap();
/// let ticket = session.query(Query::new("select id from users"), now).unwrap();
/// # let mut input = &b"1\0\0\0\x04t\0\0\0\x06\0\0T\0\0\0\x1b\0\x01id\0\0\0\0\0\0\0\0\0\0\x17\0\x04\0\0\0\0\0\0\
/// #   Z\0\0\0\x05I2\0\0\0\x04D\0\0\0\x0e\0\x01\0\0\0\x04\0\0\0\x07C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"[..];
/// let mut rows = Vec::new();
/// while let Some(event) = session.poll_event(&mut input, now).unwrap() {
///     match event {
///         Event::Columns(_, columns) => assert_eq!((columns.len(), &columns[0].name[..]), (1, "id")),
///         Event::Row(_, row) => rows.push(row),
///         Event::Done(which, tag) => assert_eq!((which, tag.rows()), (ticket, 1)),
///         other => unreachable!("{other:?}"),
///     }
/// }
/// assert_eq!(rows[0].get::<i32>("id"), Ok(7));
///
/// #[derive(serde::Deserialize)]
/// struct User {
///     id: u64,
/// }
/// let user: User = rows[0].to().unwrap();
/// assert_eq!(user.id, 7);
///
/// let mut json = Vec::new();
/// rows[0].json(&mut json).unwrap();
/// assert_eq!(json, b"{\"id\":7}");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    values: Values,
    columns: Rc<Columns>,
}

impl Row {
    /// `None`: other than as many values as columns.
    pub(super) fn new(values: Values, columns: Rc<Columns>) -> Option<Row> {
        let mut rest = Elements(&values);
        for _ in 0..columns.len() {
            rest.next().ok()?;
        }
        let is_whole = rest.0.is_empty();
        is_whole.then_some(Row { values, columns })
    }

    /// What it has.
    pub fn columns(&self) -> &Rc<Columns> {
        &self.columns
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// How many bytes its values take, and their lengths.
    pub fn size(&self) -> usize {
        self.values.len()
    }

    /// Whether it has none: `SELECT` without columns.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&Column, Option<&[u8]>)> {
        let mut rest = Elements(&self.values);
        self.columns
            .iter()
            .map(move |column| (column, rest.next().ok().flatten()))
    }

    fn find(&self, index: &impl Index) -> Result<(&Column, Option<&[u8]>), ConvertError> {
        let at = index.find(&self.columns);
        at.and_then(|at| self.values().nth(at))
            .ok_or_else(|| ConvertError::NoSuchColumn(index.show()))
    }

    /// The bytes of a value, as [`Column::binary`] says; `None`: NULL.
    ///
    /// # Errors
    /// No such column.
    pub fn raw(&self, index: impl Index) -> Result<Option<&[u8]>, ConvertError> {
        self.find(&index).map(|(_, raw)| raw)
    }

    /// A value, by number or name: `row.get::<i32>("id")?`, and `row.get::<Option<i32>>("id")?` if it may be NULL.
    /// What came as text ([`Column::binary`]) is given as text.
    ///
    /// # Errors
    /// No such column, NULL, or another type.
    pub fn get<'a, T: FromSql<'a>>(&'a self, index: impl Index) -> Result<T, ConvertError> {
        let (column, raw) = self.find(&index)?;
        let ty = if column.binary {
            &column.ty
        } else {
            &Type::UNKNOWN
        };
        if !T::accepts(ty) {
            let wrong = postgres_types::WrongType::new::<T>(column.ty.clone());
            return Err(column.error(wrong));
        }
        // `postgres-types` makes room for as many elements as the array's head says.
        if let (Kind::Array(_), Some(raw)) = (ty.kind(), raw) {
            check_array(raw).map_err(|why| column.error(why))?;
        }
        T::from_sql_nullable(ty, raw).map_err(|why| column.error(why))
    }

    /// The whole row as a `T`: a struct whose fields are named like columns, a map, or a tuple by order.
    ///
    /// # Errors
    /// What does not fit.
    pub fn to<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, ConvertError> {
        super::de::row(self)
    }

    /// Appends the row as a JSON object, its columns in order (two of one name are two).
    ///
    /// `bool`, integers, floats and `numeric` (all digits) are JSON's own, but NaN and infinities texts; `json` and
    /// `jsonb` stand as they are; time stamps, dates and times are ISO 8601 (`timestamptz` in UTC, as in RFC 3339),
    /// intervals ISO 8601 durations; `bytea` is `\x` and hexadecimal digits; arrays are arrays; all others are the text that
    /// the server makes of them.
    ///
    /// # Errors
    /// Bytes that are no value of their type. What was written of the row is taken back.
    pub fn json(&self, out: &mut Vec<u8>) -> Result<(), ConvertError> {
        let begin = out.len();
        let written = self.write_json(out);
        if written.is_err() {
            out.truncate(begin);
        }
        written
    }

    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), ConvertError> {
        let limit = out.len().saturating_add(self.columns.json);
        for (at, (column, raw)) in self.values().enumerate() {
            out.push(if at == 0 { b'{' } else { b',' });
            out.extend_from_slice(column.key.as_bytes());
            self.write_value(column, raw, out, limit)?;
        }
        out.extend_from_slice(if self.is_empty() { b"{}" } else { b"}" });
        Ok(())
    }

    /// Appends one of its values as JSON, as [`Row::json`] does, by number or name.
    ///
    /// # Errors
    /// No such column, or bytes that are no value of their type. What was written of it is taken back.
    ///
    /// ```no_run
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/count", |cx, _, res| {
    ///     let res = res.defer();
    ///     cx.pg("main").one("select count(*) from users", (), move |_, row| {
    ///         let mut json = Vec::new();
    ///         if let Ok(Some(row)) = row && row.json_value(0, &mut json).is_ok() {
    ///             res.header("content-type", "application/json").bytes(json);
    ///         }
    ///     });
    /// });
    /// ```
    pub fn json_value(&self, index: impl Index, out: &mut Vec<u8>) -> Result<(), ConvertError> {
        let (column, raw) = self.find(&index)?;
        let begin = out.len();
        let limit = begin.saturating_add(self.columns.json);
        let written = self.write_value(column, raw, out, limit);
        if written.is_err() {
            out.truncate(begin);
        }
        written
    }

    fn write_value(
        &self,
        column: &Column,
        raw: Option<&[u8]>,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), ConvertError> {
        let written = match raw {
            None => {
                out.extend_from_slice(b"null");
                Ok(())
            }
            Some(raw) => column.value(raw)?.json(out, limit),
        };
        written.map_err(|why| match why {
            TOO_LONG => ConvertError::TooLong {
                limit: self.columns.json,
            },
            why => column.error(why),
        })
    }
}
