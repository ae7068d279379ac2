//! Floor 1. One connection to a PostgreSQL server, the client's half: protocol 3.0, without sockets.
//!
//! ```text
//!            R: which proof      R: Ok           Z
//!  Startup ──────────────► Login ───► Settling ───► Ready ──── close() ───► Over
//!     │                      │           │            │ ▲
//!     └── E: refused, what breaks the protocol, over a limit, silence ────────► Over(error)
//!                                                     │ │
//!                       asked ──► queue ──► wire ─────┘ └── Z, one for each question: Done or Failed
//! ```
//! What is asked waits in a queue until it may be written, and is remembered in the order in which it was. A query
//! whose statement the server does not know yet is preceded by `Parse` and `Describe`, and waits, with all behind
//! it, until its types are known; then `Bind`, `Execute` and a **`Sync` of its own** are written, so that an error
//! ends with the query that has made it. The server answers each `Sync` with one `Z` (ReadyForQuery): that is
//! what questions and answers are matched by.
//!
//! - [`Session`]: the machine. Bytes in, [`Event`]s out, one at a time, so that who is slow can stop to read.
//! - [`Url`], [`Settings`], [`Limits`]: where, as whom, how much.
//! - [`Query`], [`Sql`], [`Params`], [`Param`]: what is asked.
//! - [`Row`], [`Columns`], [`Column`], [`Tag`], [`DbError`], [`Notification`]: what is answered.
//!
//! Invariants: nothing of one question's rows is given to another's ticket; each ticket gets exactly one
//! [`Event::Done`] or [`Event::Failed`], last; any bytes end in events or in an [`Error`]; no more memory is taken
//! than a message may have ([`Limits::message`]), and no sooner than its bytes come.

mod de;
mod error;
mod param;
mod row;
mod session;
mod sql;
mod url;
mod value;

pub use error::{ConvertError, DbError, Error, ParamError, QueryError, Refusal};
pub use param::{Param, Params};
pub use row::{Column, Columns, Index, Row};
pub use session::{Event, Limits, Notification, Query, Session, Status, Tag, cancel_request};
pub use sql::Sql;
pub use url::{Settings, Url, UrlError};

/// The types that values are converted from and to, of the `postgres-types` crate.
pub use postgres_types as types;
