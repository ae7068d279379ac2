//! Floor 4. Why a run fails: what kind of failure it is, which shrinking keeps to, and in words.

/// Kinds of failures. A shorter schedule shows the same only if it fails in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The simulation itself cannot go on: it does not build, or the schedule says what cannot be done.
    Setup,
    /// An answer breaks the grammar.
    Grammar,
    /// A request has no answer.
    Missing,
    /// A request has a part of an answer.
    Part,
    /// An answer that nobody asked for, or behind the last.
    Unasked,
    /// An answer is not what the protocol wants it to be.
    Unfit,
    /// A template's check.
    Template,
    /// The simulation's own checks.
    Check,
    /// A panic: of the loop, or of a check.
    Panic,
    /// The loop sleeps, spins or goes round in circles.
    Loop,
    /// Somebody has something to do, and will not be asked.
    Forgotten,
    /// More is kept than the limits say.
    Memory,
    /// A drain cuts before its time.
    Drain,
    /// Something is left at the end.
    Left,
    /// The same seed is not the same run.
    Chance,
}

/// Why a run fails.
#[derive(Debug)]
pub(super) struct Reason {
    pub(super) kind: Kind,
    pub(super) text: String,
}

impl Reason {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Reason {
        let text = text.into();
        Reason { kind, text }
    }

    /// With the place in front.
    pub(super) fn at(self, place: impl std::fmt::Display) -> Reason {
        Reason::new(self.kind, format!("{place}{}", self.text))
    }
}

/// `Err` unless it holds.
pub(super) fn must(holds: bool, kind: Kind, what: impl FnOnce() -> String) -> Result<(), Reason> {
    if holds {
        Ok(())
    } else {
        Err(Reason::new(kind, what()))
    }
}
