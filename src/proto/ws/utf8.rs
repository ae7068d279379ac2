//! Floor 1. UTF-8 that arrives in pieces, cut anywhere.
//!
//! Invariant: `pending` is the beginning of a code point, and there is a way to complete it; so what can no
//! longer become UTF-8 is refused at its first wrong byte.

use super::error::Error;

/// A validator between two pieces.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Utf8 {
    pending: [u8; 3],
    len: u8,
}

impl Utf8 {
    /// Checks the next piece; hands what is complete to `text`, in order.
    pub(super) fn feed(
        &mut self,
        mut piece: &[u8],
        mut text: impl FnMut(&str),
    ) -> Result<(), Error> {
        while self.len > 0 {
            let [first, rest @ ..] = piece else {
                return Ok(());
            };
            piece = rest;
            let (mut point, len) = ([0; 4], usize::from(self.len));
            point[..len].copy_from_slice(&self.pending[..len]);
            point[len] = *first;
            match std::str::from_utf8(&point[..=len]) {
                Ok(whole) => {
                    self.len = 0;
                    text(whole);
                }
                Err(why) if why.error_len().is_none() => self.keep(&point[..=len]),
                Err(_) => return Err(Error::Utf8),
            }
        }
        match std::str::from_utf8(piece) {
            Ok(whole) => text(whole),
            Err(why) if why.error_len().is_none() => {
                let (whole, begun) = piece.split_at(why.valid_up_to());
                text(std::str::from_utf8(whole).unwrap_or_default());
                self.keep(begun);
            }
            Err(_) => return Err(Error::Utf8),
        }
        Ok(())
    }

    /// `begun` is one to three bytes of a longer code point.
    fn keep(&mut self, begun: &[u8]) {
        self.pending[..begun.len()].copy_from_slice(begun);
        self.len = begun.len() as u8;
    }

    /// Bytes that belong to a code point which is not complete.
    pub(super) fn pending(&self) -> usize {
        usize::from(self.len)
    }

    /// The text ends here.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let is_whole = self.len == 0;
        *self = Utf8::default();
        is_whole.then_some(()).ok_or(Error::Utf8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text, if it is one; else how many bytes were let in before the wrong one.
    fn fed(text: &[u8], step: usize) -> Result<String, usize> {
        let (mut utf8, mut out) = (Utf8::default(), String::new());
        for (n, piece) in text.chunks(step).enumerate() {
            utf8.feed(piece, |whole| out.push_str(whole))
                .map_err(|_| n * step)?;
        }
        utf8.finish().map_err(|_| text.len())?;
        Ok(out)
    }

    #[test]
    fn every_pair_of_bytes_and_every_cut_as_the_standard_library_has_it() {
        let tails: [&[u8]; 6] = [
            b"",
            b"a",
            b"\x80",
            b"\x80\x80",
            b"\xbf\xbf\xbf",
            b"\xc3\xa9",
        ];
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                for tail in tails {
                    let text = [&[first, second], tail].concat();
                    let want = std::str::from_utf8(&text).ok();
                    for step in 1..=text.len() {
                        assert_eq!(
                            fed(&text, step).ok().as_deref(),
                            want,
                            "{text:x?} by {step}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_wrong_byte_is_refused_at_once() {
        for (text, at) in [
            (&b"abc\xff"[..], 3),
            (b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80", 6),
            (b"\xed\xa0\x80", 1),
            (b"\xc0\xaf", 0),
            (b"\xe0\x80\xaf", 1),
            (b"\xf0\x8f\xbf\xbf", 1),
            (b"\xf5", 0),
            (b"\xe2\x82a", 2),
            (b"\xe2\x82", 2),
        ] {
            assert_eq!(fed(text, 1), Err(at), "{text:x?}");
        }
    }
}
