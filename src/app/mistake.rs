//! Floor 2. What is wrong with what a server was to be built from, and where: in words for an
//! embedder, with a place for whoever has read it from a file and can show the line.

use std::fmt;

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mistake {
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// Where it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Somewhere in the App.
    App,
    /// A limit or timeout: `limits.head`.
    Setting(String),
    /// The route of this number, in the order registered.
    Route(usize),
    /// A host of a route.
    Host(usize, String),
    /// Two routes that cannot both be: the later one first.
    Routes(usize, usize),
}

impl Mistake {
    pub(crate) fn new(place: Place, text: impl Into<String>) -> Mistake {
        Mistake {
            place,
            text: text.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
