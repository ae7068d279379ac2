//! Floor 2. How a callback fails: an error it returns, a panic, an answer it never gives.

use super::awaits::Elapsed;
use super::ctx::OffloadError;
use super::fetch::FetchError;
use super::stream::Aborted;
use super::task::SpawnError;
use crate::base::id::RequestId;
use http::StatusCode;
use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

/// An error with the status it should be answered with. Returned from a handler (alone, or inside a
/// `Box<dyn Error>` by way of `?`), it is answered with its status and text. So are, with the status of a gateway, the
/// errors of what a handler waits for: [`FetchError`], [`Elapsed`], [`SpawnError`], [`OffloadError`]; those of databases where
/// `?` turns them into a `StatusError`. Any other error is a 500; its text stays in the log, as theirs does.
///
/// ```
/// use loopwright::{App, StatusError};
/// let mut app: App = App::new();
/// app.get("/square/{n}", |_, req, res| -> Result<(), StatusError> {
///     let n: u32 = req.param("n").parse().map_err(|_| StatusError::new(400, "not a number"))?;
///     res.text((n * n).to_string());
///     Ok(())
/// });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusError {
    status: StatusCode,
    message: String,
}

impl StatusError {
    /// An error of the client's (4xx) or ours (5xx). A number that is no such status becomes 500.
    pub fn new(status: u16, message: impl Into<String>) -> StatusError {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|s| s.is_client_error() || s.is_server_error());
        StatusError {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            message: message.into(),
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StatusError {}

/// What went wrong is for the log, the status for the client.
fn gateway(status: StatusCode, error: &dyn fmt::Display) -> StatusError {
    log::error!("{error}");
    let text = status.canonical_reason().unwrap_or("error");
    StatusError::new(status.as_u16(), text)
}

macro_rules! status_errors {
    ($($error:ty),*) => {$(
        /// With the status of a gateway.
        impl From<$error> for StatusError {
            fn from(error: $error) -> StatusError {
                gateway(error.gateway_status(), &error)
            }
        }
    )*};
}

status_errors!(FetchError, Elapsed, SpawnError, OffloadError, Aborted);

/// What is answered where somebody else was asked in vain.
trait Gateway {
    fn gateway_status(&self) -> StatusCode;
}

impl Gateway for FetchError {
    fn gateway_status(&self) -> StatusCode {
        self.status()
    }
}

impl Gateway for Elapsed {
    fn gateway_status(&self) -> StatusCode {
        StatusCode::GATEWAY_TIMEOUT
    }
}

impl Gateway for SpawnError {
    fn gateway_status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

impl Gateway for OffloadError {
    fn gateway_status(&self) -> StatusCode {
        match self {
            OffloadError::Full => StatusCode::SERVICE_UNAVAILABLE,
            OffloadError::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Of an upstream's answer: of a request's body, the loop has answered, or there is nobody to be answered.
impl Gateway for Aborted {
    fn gateway_status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
}

/// Why an exchange has no answer of its callback's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FailureKind {
    /// The callback returned an error.
    Error,
    /// The callback panicked.
    Panic,
    /// The response or its responder was dropped unanswered.
    Unanswered,
    /// The answer held a header that must not be sent.
    Header,
    /// The client has left, and the task that would have answered was dropped. What is answered still reaches one that
    /// has only closed its sending side.
    Cancelled,
}

/// What the error hook ([`crate::App::on_error`]) is told.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) is_public: bool,
    pub(crate) request_id: Option<RequestId>,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Failure {
            kind,
            status,
            message: message.into(),
            is_public: false,
            request_id: None,
        }
    }

    /// For nobody, most likely; 499 is what gateways' logs have for it, and no error of ours.
    pub(crate) fn client_left() -> Failure {
        let mut failure = Failure::new(FailureKind::Cancelled, "the client has left");
        failure.status = StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT);
        failure
    }

    pub(crate) fn panic(payload: Box<dyn Any + Send>) -> Failure {
        Failure::new(FailureKind::Panic, panic_text(payload))
    }

    /// What happened.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The status that is about to be answered; the hook may set another.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The error's text, or the panic's. Fit for a log; fit for a client only if it came with a
    /// [`StatusError`].
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The request's id, as the log has it.
    pub fn request_id(&self) -> Option<RequestId> {
        self.request_id
    }

    /// What a client may read.
    pub fn public_text(&self) -> &str {
        match self.is_public {
            true => &self.message,
            false => self.status.canonical_reason().unwrap_or("error"),
        }
    }
}

/// The text of a panic, if it has one.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_string();
    }
    payload
        .downcast_ref::<String>()
        .cloned()
        .unwrap_or_else(|| "a panic without a text".to_string())
}

/// What a handler may return: nothing, or a `Result` whose error is logged and answered.
pub trait Outcome {
    #[doc(hidden)]
    fn failure(self) -> Option<Failure>;
}

impl Outcome for () {
    fn failure(self) -> Option<Failure> {
        None
    }
}

/// A handler that never returns, as `|_, _, _| panic!()` (the type has no stable name of its own).
impl Outcome for <fn() -> ! as Returns>::Value {
    fn failure(self) -> Option<Failure> {
        self
    }
}

#[doc(hidden)]
pub trait Returns {
    type Value;
}

impl<R> Returns for fn() -> R {
    type Value = R;
}

impl<E: fmt::Display + 'static> Outcome for Result<(), E> {
    fn failure(self) -> Option<Failure> {
        let error = self.err()?;
        let mut failure = Failure::new(FailureKind::Error, error.to_string());
        if let Some((status, is_public)) = find_status(&error) {
            (failure.status, failure.is_public) = (status, is_public);
        }
        Some(failure)
    }
}

/// Looks for an error that says a status, and whether its text is for the client.
fn find_status(error: &dyn Any) -> Option<(StatusCode, bool)> {
    if let Some(known) = find::<StatusError>(error) {
        return Some((known.status, true));
    }
    let status = find::<FetchError>(error)
        .map(Gateway::gateway_status)
        .or_else(|| find::<Elapsed>(error).map(Gateway::gateway_status))
        .or_else(|| find::<SpawnError>(error).map(Gateway::gateway_status))
        .or_else(|| find::<OffloadError>(error).map(Gateway::gateway_status));
    status.map(|status| (status, false))
}

/// The error itself, or what a box holds.
fn find<E: StdError + 'static>(error: &dyn Any) -> Option<&E> {
    let boxed = error.downcast_ref::<Box<dyn StdError>>().map(|b| &**b);
    match boxed {
        Some(inner) => inner.downcast_ref::<E>(),
        None => match error.downcast_ref::<Box<dyn StdError + Send + Sync>>() {
            Some(inner) => inner.downcast_ref::<E>(),
            None => error.downcast_ref::<E>(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_error_is_found_alone_and_in_boxes() {
        let error = || StatusError::new(404, "no such user");
        let boxed: Box<dyn StdError> = error().into();
        let sync: Box<dyn StdError + Send + Sync> = error().into();
        for failure in [
            Err(error()).failure(),
            Err(boxed).failure(),
            Err(sync).failure(),
        ] {
            let failure = failure.unwrap();
            assert_eq!(
                (failure.status.as_u16(), failure.public_text()),
                (404, "no such user")
            );
        }
        let other = Err("secret").failure().unwrap();
        assert_eq!(
            (other.status.as_u16(), other.public_text()),
            (500, "Internal Server Error")
        );
        assert_eq!(other.message(), "secret");
        let late = FetchError::Deadline(std::time::Duration::ZERO);
        let boxed: Box<dyn StdError> = late.clone().into();
        for failure in [Err(late).failure(), Err(boxed).failure()] {
            let failure = failure.unwrap();
            assert_eq!(
                (failure.status.as_u16(), failure.public_text()),
                (504, "Gateway Timeout")
            );
        }
        for none in [0, 200, 302, 399, 600, 999, 1000] {
            assert_eq!(StatusError::new(none, "").status().as_u16(), 500, "{none}");
        }
        assert!(Ok::<(), StatusError>(()).failure().is_none() && ().failure().is_none());
    }
}
