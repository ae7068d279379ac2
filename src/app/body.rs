//! Floor 2. A whole body: what an answer is made of.

use crate::base::backlog::FileSlice;
use bytes::Bytes;
use std::borrow::Cow;

/// A whole body. Anything string- or byte-like becomes one; borrowed data is copied once, into the
/// loop's output buffer.
///
/// ```
/// use loopwright::{App, Body, FileSlice};
/// use std::{fs::File, rc::Rc};
/// let file = Rc::new(File::open("Cargo.toml").unwrap());
/// let mut app: App = App::new();
/// app.get("/quoted", move |_, _, res| {
///     let slice = FileSlice { file: file.clone(), offset: 0, len: 9 };
///     let parts: Vec<Body> = vec!["<pre>".into(), slice.into(), "</pre>".into()];
///     res.html(parts); // content-length: 20
/// });
/// ```
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Somebody else's bytes.
    Borrowed(&'a [u8]),
    /// Shared or given bytes.
    Owned(Bytes),
    /// A part of an open file, sent by the kernel.
    File(FileSlice),
    /// Several of them, one behind the other, as one body of their common length. Parts of parts are
    /// sent in their place.
    Parts(Vec<Body<'a>>),
}

impl Body<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Body::Borrowed(bytes) => bytes.len() as u64,
            Body::Owned(bytes) => bytes.len() as u64,
            Body::File(slice) => slice.len,
            Body::Parts(parts) => parts.iter().map(Body::len).fold(0, u64::saturating_add),
        }
    }

    pub(crate) fn into_owned(self) -> Body<'static> {
        match self {
            Body::Borrowed(bytes) => Body::Owned(Bytes::copy_from_slice(bytes)),
            Body::Owned(bytes) => Body::Owned(bytes),
            Body::File(slice) => Body::File(slice),
            Body::Parts(parts) => Body::Parts(parts.into_iter().map(Body::into_owned).collect()),
        }
    }
}

impl<'a> From<&'a str> for Body<'a> {
    fn from(text: &'a str) -> Self {
        Body::Borrowed(text.as_bytes())
    }
}
impl<'a> From<&'a String> for Body<'a> {
    fn from(text: &'a String) -> Self {
        Body::Borrowed(text.as_bytes())
    }
}
impl<'a> From<&'a [u8]> for Body<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Body::Borrowed(bytes)
    }
}
impl<'a, const N: usize> From<&'a [u8; N]> for Body<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Body::Borrowed(bytes)
    }
}
impl<'a> From<&'a Vec<u8>> for Body<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Body::Borrowed(bytes)
    }
}
impl From<String> for Body<'_> {
    fn from(text: String) -> Self {
        Body::Owned(text.into())
    }
}
impl From<Vec<u8>> for Body<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Owned(bytes.into())
    }
}
impl From<Bytes> for Body<'_> {
    fn from(bytes: Bytes) -> Self {
        Body::Owned(bytes)
    }
}
impl From<FileSlice> for Body<'_> {
    fn from(slice: FileSlice) -> Self {
        Body::File(slice)
    }
}
impl<'a> From<Vec<Body<'a>>> for Body<'a> {
    fn from(parts: Vec<Body<'a>>) -> Self {
        Body::Parts(parts)
    }
}
impl<'a> From<Cow<'a, str>> for Body<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}
