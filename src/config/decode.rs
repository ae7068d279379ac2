//! Floor 5. From TOML values to Rust types, mistakes and all.
//!
//! Each type says two things about itself: how it is read, and what its JSON Schema is; `table!` says
//! both for a struct from one list of its keys, so that reader, schema and docs cannot disagree.
//! Reading does not stop at the first mistake: it notes it and goes on with what can be read.

use super::report::{self, Mistake, Span};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeValue;

/// A value as it stands in the file.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// What `${file:…}` may put into a string, in bytes.
const LONGEST_SECRET: u64 = 1 << 20;

/// What reading needs besides the text, and what it finds.
pub(super) struct Reader<'r> {
    pub(super) mistakes: Vec<Mistake>,
    /// The folder of the config: paths in it are relative to that.
    pub(super) folder: &'r Path,
    /// The environment.
    pub(super) variable: &'r dyn Fn(&str) -> Option<String>,
    /// The section that a key belongs in, for keys that stand elsewhere.
    pub(super) home: &'r dyn Fn(&str) -> Option<String>,
}

/// A type that can stand in a config.
pub(super) trait Decode: Sized {
    /// `None`: a mistake has been noted.
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self>;
    /// JSON Schema (draft 2020-12).
    fn schema() -> Json;
    /// As it would be written; null if there is nothing to write.
    fn show(&self) -> Json;
}

impl Reader<'_> {
    pub(super) fn mistake(
        &mut self,
        at: Span,
        title: impl Into<String>,
        instead: impl Into<String>,
    ) {
        self.mistakes.push(Mistake::new(at, title, instead));
    }

    /// Another type was wanted: `want` names it, `instead` is how it is written.
    pub(super) fn wrong_type<T>(
        &mut self,
        value: &Value<'_>,
        want: &str,
        instead: &str,
    ) -> Option<T> {
        let got = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time of day",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.mistake(
            value.span(),
            format!("{got} where {want} is needed"),
            format!("write {instead}"),
        );
        None
    }

    /// A string, with what stands for `${…}` in it.
    pub(super) fn text(&mut self, value: &Value<'_>, want: &str, instead: &str) -> Option<String> {
        let DeValue::String(text) = value.get_ref() else {
            return self.wrong_type(value, want, instead);
        };
        if !text.contains('$') {
            return Some(text.to_string());
        }
        match self.expand(text) {
            Ok(expanded) => Some(expanded),
            Err((title, instead)) => {
                self.mistake(value.span(), title, instead);
                None
            }
        }
    }

    /// `${VAR}`, `${VAR:-default}`, `${file:PATH}`; `$${` is `${` itself. Not repeated on the result.
    fn expand(&self, text: &str) -> Result<String, (String, String)> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some((name, after)) = rest[at + 2..].split_once('}') else {
                let title = "a variable's name has no end".to_string();
                return Err((
                    title,
                    "close it with }, or write $${ for ${ itself".to_string(),
                ));
            };
            out.push_str(&self.variable(name)?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn variable(&self, name: &str) -> Result<String, (String, String)> {
        if let Some(path) = name.strip_prefix("file:") {
            let found = super::read_regular(&self.folder.join(path), LONGEST_SECRET);
            let text = found.and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData.into())
            });
            return match text {
                Ok(content) => Ok(content.trim_end_matches(['\n', '\r']).to_string()),
                Err(e) => Err((
                    format!("cannot read the file of `${{{name}}}`: {e}"),
                    "name a file that can be read".to_string(),
                )),
            };
        }
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_string())),
            None => (name, None),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            let title = "not a variable's name".to_string();
            let instead = "write ${NAME} or ${NAME:-a default}, or $${ for ${ itself";
            return Err((title, instead.to_string()));
        }
        // As in a shell: a default is for what is empty, too.
        let found = (self.variable)(name).filter(|value| !value.is_empty() || default.is_none());
        found.or(default).ok_or_else(|| {
            let title = format!("the variable `{name}` is not set");
            (title, format!("set it, or write ${{{name}:-a default}}"))
        })
    }

    /// A table with no other keys than these.
    pub(super) fn table<'v, 'a>(
        &mut self,
        value: &'v Value<'a>,
        known: &[&str],
    ) -> Option<&'v toml::de::DeTable<'a>> {
        let DeValue::Table(table) = value.get_ref() else {
            let instead = match value.get_ref() {
                DeValue::Array(_) => "one table: a single [name], or { … }".to_string(),
                _ => format!("a table: {{ … }} with keys out of: {}", known.join(", ")),
            };
            return self.wrong_type(value, "a table", &instead);
        };
        for (key, _) in table.iter() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let mistake = match (self.home)(name) {
                    Some(home) if !report::is_like_any(name, known) => {
                        let title = format!("the key `{name}` does not belong here");
                        Mistake::new(
                            key.span(),
                            title,
                            format!("move it to the section [{home}]"),
                        )
                    }
                    _ => Mistake::unknown(key.span(), "key", name, known),
                };
                self.mistakes.push(mistake);
            }
        }
        Some(table)
    }
}

/// Reads a struct from a table: `"what it is" key: Type` for each key that may stand in it. Keys left
/// out, or wrong, keep the value of `Default`, so that the rest can be checked all the same; those in
/// `required` must be there. `as "name"` where the key is a word of Rust.
macro_rules! table {
    ($T:ty { $($doc:literal $field:ident $(as $name:literal)? : $kind:ty),* $(,)? } $(required $required:expr)?) => {
        impl $crate::config::decode::Decode for $T {
            /// What can be read of it; the rest is as by default.
            fn decode(
                value: &$crate::config::decode::Value<'_>,
                reader: &mut $crate::config::decode::Reader<'_>,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$(table!(@name $field $($name)?)),*];
                let mut out = <$T>::default();
                let Some(table) = reader.table(value, KEYS) else {
                    return Some(out);
                };
                $(if let Some(value) = table.get(table!(@name $field $($name)?))
                    && let Some(read) = <$kind as $crate::config::decode::Decode>::decode(value, reader)
                {
                    out.$field = read.into();
                })*
                $(for key in $required {
                    if !table.contains_key(key) {
                        let instead = format!("add `{key} = …`");
                        reader.mistake(value.span(), format!("the key `{key}` is missing"), instead);
                    }
                })?
                Some(out)
            }

            fn schema() -> serde_json::Value {
                let default = <$T>::default();
                let mut properties = serde_json::Map::new();
                $({
                    let shown: $kind = default.$field.clone().into();
                    let name = table!(@name $field $($name)?);
                    let schema = $crate::config::decode::describe(&shown, $doc);
                    properties.insert(name.to_string(), schema);
                })*
                #[allow(unused_mut)]
                let mut schema = serde_json::json!({
                    "type": "object",
                    "properties": properties,
                    "additionalProperties": false,
                });
                $(schema["required"] = serde_json::json!($required);)?
                schema
            }

            fn show(&self) -> serde_json::Value {
                serde_json::Value::Null
            }
        }
    };
    (@name $field:ident $name:literal) => { $name };
    (@name $field:ident) => { stringify!($field) };
}

/// A word out of a few.
macro_rules! choice {
    ($T:ty { $($word:literal => $variant:expr),* $(,)? }) => {
        impl $crate::config::decode::Decode for $T {
            fn decode(
                value: &$crate::config::decode::Value<'_>,
                reader: &mut $crate::config::decode::Reader<'_>,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),*];
                let instead = format!("\"{}\"", WORDS.join("\" or \""));
                let text = reader.text(value, "a word in quotes", &instead)?;
                match text.as_str() {
                    $($word => Some($variant),)*
                    _ => {
                        reader.mistake(value.span(), "not one of the words there are", format!("write {instead}"));
                        None
                    }
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),*] })
            }

            fn show(&self) -> serde_json::Value {
                match self {
                    $(shown if *shown == $variant => $word.into(),)*
                    _ => serde_json::Value::Null,
                }
            }
        }
    };
}

pub(super) use {choice, table};

/// A property's schema: its type's, what it is, and what holds when it is left out.
pub(super) fn describe<T: Decode>(default: &T, doc: &str) -> Json {
    let mut schema = T::schema();
    schema["description"] = doc.into();
    let default = default.show();
    if !default.is_null() {
        schema["default"] = default;
    }
    schema
}

/// A value, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T: Decode> Decode for At<T> {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let span = value.span();
        T::decode(value, reader).map(|value| At { value, span })
    }
    fn schema() -> Json {
        T::schema()
    }
    fn show(&self) -> Json {
        self.value.show()
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        T::decode(value, reader).map(Some)
    }
    fn schema() -> Json {
        T::schema()
    }
    fn show(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::show)
    }
}

impl Decode for String {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        reader.text(value, "a string", "a string: \"…\"")
    }
    fn schema() -> Json {
        json!({ "type": "string" })
    }
    fn show(&self) -> Json {
        self.as_str().into()
    }
}

/// Relative to the config's folder.
impl Decode for PathBuf {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, "a path", "a string: \"…\"")?;
        Some(reader.folder.join(text))
    }
    fn schema() -> Json {
        json!({ "type": "string" })
    }
    fn show(&self) -> Json {
        Json::Null
    }
}

impl Decode for bool {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => reader.wrong_type(value, "true or false", "true or false, without quotes"),
        }
    }
    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
    fn show(&self) -> Json {
        (*self).into()
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Array(array) = value.get_ref() else {
            let instead = match value.get_ref() {
                DeValue::Table(_) => "an array of tables: [[name]], or [{ … }]",
                DeValue::String(_) => "it in brackets: [\"…\"]",
                _ => "an array: [ … ]",
            };
            return reader.wrong_type(value, "an array", instead);
        };
        // Each of them is looked at, whatever the others are like.
        let read = array.iter().filter_map(|one| T::decode(one, reader));
        Some(read.collect())
    }
    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }
    fn show(&self) -> Json {
        match self.is_empty() {
            true => Json::Null,
            false => self.iter().map(T::show).collect(),
        }
    }
}

/// `"one"`, or `["one", "two"]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<T: Decode> Decode for OneOrMany<T> {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(_) => Vec::decode(value, reader).map(OneOrMany),
            _ => T::decode(value, reader).map(|one| OneOrMany(vec![one])),
        }
    }
    fn schema() -> Json {
        json!({ "anyOf": [T::schema(), Vec::<T>::schema()] })
    }
    fn show(&self) -> Json {
        self.0.show()
    }
}

/// A table whose keys are the user's own names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named<T>(pub(super) Vec<(At<String>, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<T: Decode> Decode for Named<T> {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            return reader.wrong_type(value, "a table", "a table: { name = … }");
        };
        let one = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Value<'_>)| {
            let name = At {
                value: key.get_ref().to_string(),
                span: key.span(),
            };
            Some((name, T::decode(value, reader)?))
        };
        Some(Named(table.iter().filter_map(one).collect()))
    }
    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }
    fn show(&self) -> Json {
        Json::Null
    }
}

/// A table, or in place of it a string that says all there is to say.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Short<T>(pub(super) T);

/// A table for which a string can stand.
pub(super) trait Shorthand: Decode {
    /// What the string says.
    type Word: Decode;
    /// What it is, in words: "a name".
    const WHAT: &'static str;
    /// What it stands for.
    fn of(word: At<Self::Word>) -> Self;
    /// The string, if it says all there is to say.
    fn word(&self) -> Option<Self::Word> {
        None
    }
}

impl<T: Shorthand> Decode for Short<T> {
    fn decode(value: &Value<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(_) => T::decode(value, reader).map(Short),
            DeValue::String(_) => At::decode(value, reader).map(|word| Short(T::of(word))),
            _ => {
                let what = T::WHAT;
                let instead = format!("{what}, \"…\", or a table, {{ … }}");
                reader.wrong_type(value, &format!("{what} or a table"), &instead)
            }
        }
    }
    fn schema() -> Json {
        json!({ "anyOf": [T::Word::schema(), T::schema()] })
    }
    fn show(&self) -> Json {
        self.0.word().map_or(Json::Null, |word| word.show())
    }
}
