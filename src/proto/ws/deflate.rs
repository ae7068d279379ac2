//! Floor 1. DEFLATE for messages (RFC 7692 §7.2): what compresses, what decompresses, without a word about
//! frames. Without the feature `deflate` neither can be made to work, and the extension is never agreed on.
//!
//! A message on the wire lacks the end of the flush that ended it, `00 00 ff ff`: taken off here on its way
//! out, put back by whoever feeds the inflater.
//!
//! Not seen: a compressed message that stops within a block. zlib cannot be asked, through this interface,
//! whether it has; what was cut off a stored block is filled with the four bytes put back. And a message whose
//! block is marked as final empties the window, as with every implementation over zlib: a peer that marks one
//! and then refers to what was before it is refused.

use super::error::Error;

/// What ends a flush, and is not sent.
pub(super) const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

#[cfg(feature = "deflate")]
mod codec {
    use super::{Error, TAIL};
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

    /// A decompressor: some 46 KiB.
    #[derive(Debug)]
    pub struct Inflater(Decompress);

    impl Inflater {
        /// For a peer whose window is of at most `window_bits`.
        pub fn new(window_bits: u8) -> Inflater {
            // A compressor that says 8 may mean 9: zlib's does.
            Inflater(Decompress::new_with_window_bits(
                false,
                window_bits.clamp(9, 15),
            ))
        }

        /// Decompresses from the front of `input` to the front of `output`: bytes used, bytes written. Less
        /// than all of the input is used only if the output is full.
        ///
        /// # Errors
        /// The input is not DEFLATE.
        pub fn inflate(
            &mut self,
            input: &[u8],
            output: &mut [u8],
        ) -> Result<(usize, usize), Error> {
            let (mut used, mut written) = (0, 0);
            loop {
                let before = (self.0.total_in(), self.0.total_out());
                let (from, to) = (&input[used..], &mut output[written..]);
                let status = self.0.decompress(from, to, FlushDecompress::Sync);
                let status = status.map_err(|_| Error::Deflate)?;
                let step = (self.0.total_in() - before.0, self.0.total_out() - before.1);
                used += step.0 as usize;
                written += step.1 as usize;
                if status == Status::StreamEnd {
                    // RFC 7692 §7.2.3.4: a final block may end a message, or be followed by more.
                    self.reset();
                }
                if written == output.len() || used == input.len() {
                    return Ok((used, written));
                }
                if step == (0, 0) {
                    return Err(Error::Deflate);
                }
            }
        }

        /// Forgets what it has seen.
        pub fn reset(&mut self) {
            self.0.reset(false);
        }
    }

    /// A compressor: some 370 KiB; 280 with the smallest window.
    #[derive(Debug)]
    pub struct Deflater {
        stream: Compress,
        window_bits: u8,
    }

    impl Deflater {
        /// With a window of 9 to 15 bits, and a level of 0 to 9.
        pub fn new(level: u8, window_bits: u8) -> Deflater {
            let level = Compression::new(u32::from(level.min(9)));
            let window_bits = window_bits.clamp(9, 15);
            Deflater {
                stream: Compress::new_with_window_bits(level, false, window_bits),
                window_bits,
            }
        }

        /// Its window.
        pub fn window_bits(&self) -> u8 {
            self.window_bits
        }

        /// Appends `payload`, compressed: a message, or if it is not the `last` of it, a part of one that
        /// can be decompressed as far as it goes.
        ///
        /// # Errors
        /// The compressor failed. It must not be used again.
        pub fn deflate(
            &mut self,
            payload: &[u8],
            last: bool,
            out: &mut Vec<u8>,
        ) -> Result<(), Error> {
            if payload.is_empty() {
                // RFC 7692 §7.2.3.6. A second flush with nothing between would say nothing at all.
                out.extend_from_slice(if last { &[0] } else { &[] });
                return Ok(());
            }
            let mut rest = payload;
            loop {
                out.reserve(rest.len() / 2 + 256);
                let before = self.stream.total_in();
                self.stream
                    .compress_vec(rest, out, FlushCompress::Sync)
                    .map_err(|_| Error::Deflate)?;
                rest = &rest[(self.stream.total_in() - before) as usize..];
                if rest.is_empty() && out.len() < out.capacity() {
                    break;
                }
            }
            if last && out.ends_with(&TAIL) {
                out.truncate(out.len() - TAIL.len());
            }
            Ok(())
        }

        /// Forgets what it has seen.
        pub fn reset(&mut self) {
            self.stream.reset();
        }
    }
}

#[cfg(not(feature = "deflate"))]
mod codec {
    use super::Error;

    /// None: the feature `deflate` is off.
    #[derive(Debug)]
    pub struct Inflater;

    impl Inflater {
        /// One that fails.
        pub fn new(_: u8) -> Inflater {
            Inflater
        }

        /// Fails.
        ///
        /// # Errors
        /// Always.
        pub fn inflate(&mut self, _: &[u8], _: &mut [u8]) -> Result<(usize, usize), Error> {
            Err(Error::Deflate)
        }

        /// Nothing to forget.
        pub fn reset(&mut self) {}
    }

    /// None: the feature `deflate` is off.
    #[derive(Debug)]
    pub struct Deflater;

    impl Deflater {
        /// One that fails.
        pub fn new(_: u8, _: u8) -> Deflater {
            Deflater
        }

        /// Of nothing.
        pub fn window_bits(&self) -> u8 {
            15
        }

        /// Fails.
        ///
        /// # Errors
        /// Always.
        pub fn deflate(&mut self, _: &[u8], _: bool, _: &mut Vec<u8>) -> Result<(), Error> {
            Err(Error::Deflate)
        }

        /// Nothing to forget.
        pub fn reset(&mut self) {}
    }
}

pub use codec::{Deflater, Inflater};

/// What belongs to one connection because its messages may refer to those before (context takeover), or
/// because one is being sent in fragments.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    pub(super) inflater: Option<Inflater>,
    pub(super) deflater: Option<Deflater>,
}
