//! Floor 5. Every mistake in a config, each shown where it was made.
//!
//! ```text
//! error: unknown key `lisen`
//!  --> loopwright.toml:2:1
//!   |
//! 2 | lisen = "127.0.0.1:8080"
//!   | ^^^^^ did you mean `listen`?
//! ```
//! Invariant: what is shown is the file, and never what a variable or a secret file has put in its
//! place: titles and labels name keys and rules, not values.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// Who has made more mistakes reads again after these are mended.
pub(super) const MOST_SHOWN: usize = 100;

/// Bytes of the config's text.
pub(super) type Span = Range<usize>;

/// One mistake: what is wrong, where, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mistake {
    pub(super) title: String,
    pub(super) at: Span,
    pub(super) instead: String,
    /// The other place, and what it has to do with it.
    pub(super) other: Option<(Span, String)>,
}

impl Mistake {
    pub(super) fn new(at: Span, title: impl Into<String>, instead: impl Into<String>) -> Mistake {
        Mistake {
            title: title.into(),
            at,
            instead: instead.into(),
            other: None,
        }
    }

    /// A name that is not among those there are.
    pub(super) fn unknown(at: Span, what: &str, name: &str, known: &[&str]) -> Mistake {
        let title = format!("unknown {what} `{}`", name.escape_debug());
        Mistake::new(at, title, instead(name, known))
    }

    pub(super) fn with(mut self, other: Span, what: impl Into<String>) -> Mistake {
        self.other = Some((other, what.into()));
        self
    }
}

/// What to write for a name that is not among those there are: the one most likely meant, or all.
pub(super) fn instead<K: AsRef<str>>(name: &str, known: &[K]) -> String {
    let known: Vec<&str> = known.iter().map(K::as_ref).collect();
    // Of those that are as near, the one with the fewest letters between.
    let letters = |known: &str| strsim::osa_distance(name, known);
    let likest = known
        .iter()
        .min_by_key(|known| (distance(name, known), letters(known)));
    match likest {
        Some(close) if is_like(name, close) => format!("did you mean `{close}`?"),
        Some(_) => format!("there are: {}", known.join(", ")),
        None => "there are none".to_string(),
    }
}

/// Slips of the finger between two names; a word too much or too little counts as one.
fn distance(name: &str, known: &str) -> usize {
    let is_part = known.len() > 2 && name.len() > 2;
    match is_part && (name.contains(known) || known.contains(name)) {
        true => 1,
        false => strsim::osa_distance(name, known),
    }
}

fn is_like(name: &str, known: &str) -> bool {
    distance(name, known) * 3 <= name.chars().count().max(known.chars().count())
}

/// Whether a name is so like one there is that it was most likely meant.
pub(super) fn is_like_any(name: &str, known: &[&str]) -> bool {
    known.iter().any(|known| is_like(name, known))
}

/// Everything that is wrong with a config. Its `Display` is what `loopwright check` prints.
///
/// ```
/// use loopwright::config::Config;
/// let report = Config::parse("site.toml", "[server]\nlisten = [8080]\n").unwrap_err();
/// let text = report.to_string();
/// assert!(text.contains("site.toml:2:11"), "{text}");
/// ```
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) path: String,
    /// What to point at; `None` if it could not be read.
    pub(super) text: Option<String>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Report {
    /// A config that could not even be read.
    pub(super) fn unreadable(path: &str, why: impl fmt::Display) -> Report {
        Report {
            path: path.to_string(),
            text: None,
            mistakes: vec![Mistake::new(0..0, format!("cannot read {path}: {why}"), "")],
        }
    }

    /// How many mistakes there are; never 0.
    pub fn count(&self) -> usize {
        self.mistakes.len()
    }

    /// The same in colours, for a terminal.
    pub fn styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let one = |mistake: &Mistake| {
            let title = Level::ERROR.primary_title(&mistake.title);
            let text = match self.text.as_deref() {
                None => return renderer.render(&[annotate_snippets::Group::with_title(title)]),
                // There is no place in an empty text.
                Some("") => "\n",
                Some(text) => text,
            };
            let here = AnnotationKind::Primary.span(within(text, &mistake.at));
            let mut snippet = Snippet::source(text)
                .path(&self.path)
                .annotation(here.label(&mistake.instead));
            if let Some((span, what)) = &mistake.other {
                let there = AnnotationKind::Context.span(within(text, span));
                snippet = snippet.annotation(there.label(what));
            }
            renderer.render(&[title.element(snippet)])
        };
        let first = self.mistakes.iter().take(MOST_SHOWN);
        let shown: Vec<String> = first.map(one).collect();
        let count = match self.count() {
            1 => "1 mistake".to_string(),
            n if n > MOST_SHOWN => format!("{n} mistakes, {MOST_SHOWN} of them shown,"),
            n => format!("{n} mistakes"),
        };
        format!("{}\n\n{count} in {}", shown.join("\n\n"), self.path)
    }
}

/// A place that can be pointed at, whatever the parser said.
fn within(text: &str, span: &Span) -> Span {
    let floor = |at: usize| {
        (0..=at.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0)
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Report {}
