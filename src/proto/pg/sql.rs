//! Floor 1. The text of a question.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// SQL: a literal, which is not copied, or a text made at run time.
///
/// The same text should come again, with other parameters: it is prepared once for each connection.
///
/// ```
/// use loopwright::proto::pg::Sql;
/// let table = "users";
/// for sql in [Sql::from("select 1 from users"), format!("select 1 from {table}").into()] {
///     assert_eq!(&*sql, "select 1 from users");
/// }
/// ```
#[derive(Clone)]
pub struct Sql(Text);

#[derive(Clone)]
enum Text {
    Literal(&'static str),
    Shared(Rc<str>),
}

impl Sql {
    pub(super) fn shared(&self) -> Rc<str> {
        match &self.0 {
            Text::Literal(text) => (*text).into(),
            Text::Shared(text) => text.clone(),
        }
    }
}

impl Deref for Sql {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Text::Literal(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Sql {
        Sql(Text::Literal(text))
    }
}

impl From<Rc<str>> for Sql {
    fn from(text: Rc<str>) -> Sql {
        Sql(Text::Shared(text))
    }
}

impl From<String> for Sql {
    fn from(text: String) -> Sql {
        Sql(Text::Shared(text.into()))
    }
}

impl From<&String> for Sql {
    fn from(text: &String) -> Sql {
        Sql(Text::Shared(text.as_str().into()))
    }
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
