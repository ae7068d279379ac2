//! Floor 1. A frame's header, both ways, and the masking of its payload (RFC 6455 §5.2, §5.3).
//!
//! What one header alone can have wrong is found here, as soon as its first two bytes are there; what
//! depends on the frames before is the session's.

use super::error::Error;

/// The longest header there is.
pub const MAX_HEADER: usize = 14;
/// The longest payload of a control frame.
pub const MAX_CONTROL: usize = 125;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// More of a message that has begun.
    Continuation,
    /// The beginning of a text message.
    Text,
    /// The beginning of a binary message.
    Binary,
    /// The end of the connection.
    Close,
    /// To be answered with a pong.
    Ping,
    /// The answer to a ping, or a sign of life.
    Pong,
}

impl Opcode {
    fn read(bits: u8) -> Result<Opcode, Error> {
        Ok(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(Error::Protocol("a reserved opcode")),
        })
    }

    fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    /// Close, ping or pong.
    pub fn is_control(self) -> bool {
        self.bits() >= 8
    }
}

/// The front of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it is.
    pub opcode: Opcode,
    /// The last frame of its message.
    pub fin: bool,
    /// The first reserved bit: its message is compressed.
    pub rsv1: bool,
    /// The masking key, on frames of a client.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub len: u64,
}

impl Header {
    /// Reads the header at the front of `input` and says how long it is; `None` until it is all there.
    /// `masked` is whether the peer has to mask: a client has to, a server must not.
    ///
    /// ```
    /// use loopwright::proto::ws::frame::{Header, Opcode};
    ///
    /// let hello = b"\x81\x05Hello";
    /// let (header, len) = Header::decode(hello, false)?.expect("it is whole");
    /// assert_eq!((header.opcode, header.fin, header.len, len), (Opcode::Text, true, 5, 2));
    /// assert_eq!(Header::decode(&hello[..1], false)?, None);
    /// # Ok::<(), loopwright::proto::ws::Error>(())
    /// ```
    ///
    /// # Errors
    /// What no header may be, whatever comes before it.
    pub fn decode(input: &[u8], masked: bool) -> Result<Option<(Header, usize)>, Error> {
        let [flags, length, rest @ ..] = input else {
            return Ok(None);
        };
        let opcode = Opcode::read(flags & 0x0f)?;
        let fin = flags & 0x80 != 0;
        if flags & 0x30 != 0 {
            return Err(Error::Protocol("a reserved bit"));
        }
        if (length & 0x80 != 0) != masked {
            return Err(Error::Protocol(if masked {
                "a frame of a client without a mask"
            } else {
                "a frame of a server with a mask"
            }));
        }
        if opcode.is_control() {
            if !fin {
                return Err(Error::Protocol("a fragmented control frame"));
            }
            if length & 0x7f > 125 {
                return Err(Error::Protocol("a control frame over 125 bytes"));
            }
        }
        let (len, size) = match (length & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            (127, [a, b, c, d, e, f, g, h, ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8)
            }
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 0),
        };
        if (size == 2 && len < 126) || (size == 8 && len <= 0xffff) {
            return Err(Error::Protocol("a length in more bytes than it needs"));
        }
        if len > i64::MAX as u64 {
            return Err(Error::Protocol("a length of 64 bits"));
        }
        let mask = match rest.get(size..size + 4) {
            Some(&[a, b, c, d]) if masked => Some([a, b, c, d]),
            _ if masked => return Ok(None),
            _ => None,
        };
        let header = Header {
            opcode,
            fin,
            rsv1: flags & 0x40 != 0,
            mask,
            len,
        };
        Ok(Some((header, 2 + size + mask.map_or(0, |key| key.len()))))
    }

    /// Appends the header, its length in as few bytes as will do.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.fin) << 7 | u8::from(self.rsv1) << 6 | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        match self.len {
            // Both fit: what is larger is another arm's.
            0..=125 => out.extend_from_slice(&[flags, masked | self.len as u8]),
            126..=0xffff => {
                let [a, b] = (self.len as u16).to_be_bytes();
                out.extend_from_slice(&[flags, masked | 126, a, b]);
            }
            _ => {
                out.extend_from_slice(&[flags, masked | 127]);
                out.extend_from_slice(&self.len.to_be_bytes());
            }
        }
        if let Some(key) = self.mask {
            out.extend_from_slice(&key);
        }
    }
}

/// Whether it begins with a message that is whole in one frame.
pub fn begins_with_message(frames: &[u8]) -> bool {
    let fin_and_opcode = frames.first().map(|first| first & 0x8f);
    [Some(0x81), Some(0x82)].contains(&fin_and_opcode)
}

/// Masks `payload`, or takes the mask away: it is the same. `key` is turned, so that the next call goes on
/// where this one ended.
///
/// ```
/// use loopwright::proto::ws::frame::mask;
///
/// let mut text = *b"Hello";
/// let mut key = [0x37, 0xfa, 0x21, 0x3d];
/// mask(&mut text[..3], &mut key);
/// mask(&mut text[3..], &mut key);
/// assert_eq!(text, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
/// ```
pub fn mask(payload: &mut [u8], key: &mut [u8; 4]) {
    let [a, b, c, d] = *key;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // The compiler makes it wider yet.
    let (words, rest) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c, d]) {
        *byte ^= key;
    }
    key.rotate_left(payload.len() % 4);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_no_prefix_of_it() {
        let lengths = [0, 1, 125, 126, 127, 65535, 65536, 1 << 32, i64::MAX as u64];
        for len in lengths {
            for key in [None, Some([1, 2, 3, 4])] {
                for (fin, rsv1) in [(true, false), (false, true)] {
                    let header = Header {
                        opcode: Opcode::Binary,
                        fin,
                        rsv1,
                        mask: key,
                        len,
                    };
                    let mut out = Vec::new();
                    header.encode(&mut out);
                    let whole = Header::decode(&out, key.is_some());
                    assert_eq!(whole, Ok(Some((header, out.len()))));
                    for cut in 0..out.len() {
                        assert_eq!(Header::decode(&out[..cut], key.is_some()), Ok(None));
                    }
                }
            }
        }
    }

    #[test]
    fn refusals() {
        for (bytes, masked) in [
            (&b"\x91\x00"[..], false),
            (b"\xa1\x00", false),
            (b"\x83\x00", false),
            (b"\x87\x00", false),
            (b"\x8b\x00", false),
            (b"\x8f\x00", false),
            (b"\x81\x80", false),
            (b"\x81\x00", true),
            (b"\x09\x00", false),
            (b"\x08\x00", false),
            (b"\x0a\x00", false),
            (b"\x89\x7e", false),
            (b"\x88\x7f", false),
            (b"\x81\x7e\x00\x7d", false),
            (b"\x81\x7f\0\0\0\0\0\0\xff\xff", false),
            (b"\x81\x7f\x80\0\0\0\0\0\0\0", false),
        ] {
            let got = Header::decode(bytes, masked);
            assert!(
                matches!(got, Err(Error::Protocol(_))),
                "{bytes:x?}: {got:?}"
            );
        }
    }

    #[test]
    fn masking_is_bytewise_at_every_offset_and_cut() {
        let plain: Vec<u8> = (0..100u8).map(|n| n.wrapping_mul(37)).collect();
        let key = [0xde, 0xad, 0xbe, 0xef];
        for from in 0..20 {
            let text = &plain[from..];
            let want: Vec<u8> = text
                .iter()
                .enumerate()
                .map(|(n, b)| b ^ key[n % 4])
                .collect();
            for cut in 0..=text.len() {
                let (mut got, mut turned) = (text.to_vec(), key);
                let (a, b) = got.split_at_mut(cut);
                mask(a, &mut turned);
                mask(b, &mut turned);
                assert_eq!(got, want, "{from} {cut}");
            }
        }
    }
}
