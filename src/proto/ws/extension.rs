//! Floor 1. `Sec-WebSocket-Extensions` (RFC 6455 §9.1), and what is agreed on permessage-deflate
//! (RFC 7692 §7.1).
//!
//! An offer that we do not understand or cannot keep is declined, and the next one looked at; only a field
//! that is not of the grammar fails the handshake. A window of 8 bits is declined for our compressor: zlib
//! has none that small for raw DEFLATE.

use crate::proto::http::{Fields, is_token, list};

const FIELD: &str = "sec-websocket-extensions";
const NAME: &str = "permessage-deflate";

/// What a server is ready to agree on, or a client offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The server's compressor forgets each message. Otherwise it is the connection's own, and costs some
    /// 370 KiB on each for as long as it lives; with a window of 9 bits, 280.
    pub server_no_context_takeover: bool,
    /// The same for the client's; the server then needs a decompressor of some 46 KiB for each connection.
    pub client_no_context_takeover: bool,
    /// The largest window of the server's compressor, 9 to 15 bits.
    pub server_max_window_bits: u8,
    /// The largest window of the client's compressor, 9 to 15 bits, if the client can be told.
    pub client_max_window_bits: u8,
}

impl Default for Settings {
    /// Nothing is kept between messages: a connection that is silent costs nothing.
    fn default() -> Settings {
        Settings {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
        }
    }
}

/// One direction of what was agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direction {
    /// A message may refer to those before it.
    pub takeover: bool,
    /// The window, 8 to 15.
    pub window_bits: u8,
}

/// permessage-deflate as agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// What the server compresses.
    pub server: Direction,
    /// What the client compresses.
    pub client: Direction,
}

/// The parameters of one offer, or of an answer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Params {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// `Some(None)`: named, without a value.
    client_max_window_bits: Option<Option<u8>>,
}

/// The field is not of the grammar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// Reads `name *( ";" param )`. The parameters are `None` if the extension is another, or if one of them
/// is unknown, repeated, or has no value that it may have.
fn read(member: &[u8]) -> Result<(&[u8], Option<Params>), Malformed> {
    let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let name = parts
        .next()
        .filter(|name| is_token(name))
        .ok_or(Malformed)?;
    let mut params = name
        .eq_ignore_ascii_case(NAME.as_bytes())
        .then(Params::default);
    for part in parts {
        let (key, value) = match part.iter().position(|&b| b == b'=') {
            None => (part, None),
            Some(at) => (
                part[..at].trim_ascii(),
                Some(unquoted(part[at + 1..].trim_ascii())?),
            ),
        };
        if !is_token(key) {
            return Err(Malformed);
        }
        params = params.and_then(|params| params.with(key, value.as_deref()));
    }
    Ok((name, params))
}

/// A token, plain or in quotes: RFC 6455 §9.1 allows nothing else in them, so neither `,` nor `;`.
fn unquoted(value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut token = value.to_vec();
    if let [b'"', quoted @ .., b'"'] = value {
        token.clear();
        let mut bytes = quoted.iter();
        while let Some(&b) = bytes.next() {
            token.push(if b == b'\\' {
                *bytes.next().ok_or(Malformed)?
            } else {
                b
            });
        }
    }
    is_token(&token).then_some(token).ok_or(Malformed)
}

impl Params {
    fn with(mut self, key: &[u8], value: Option<&[u8]>) -> Option<Params> {
        let is_new = match (key, value) {
            (b"server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            (b"client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            (b"server_max_window_bits", Some(value)) => {
                self.server_max_window_bits.replace(bits(value)?).is_none()
            }
            (b"client_max_window_bits", None) => {
                self.client_max_window_bits.replace(None).is_none()
            }
            (b"client_max_window_bits", Some(value)) => {
                let bits = bits(value)?;
                self.client_max_window_bits.replace(Some(bits)).is_none()
            }
            _ => return None,
        };
        is_new.then_some(self)
    }

    /// As it stands in the field.
    fn write(&self) -> String {
        let mut text = NAME.to_string();
        let mut push = |name: &str, value: Option<u8>| {
            text.push_str("; ");
            text.push_str(name);
            if let Some(value) = value {
                text.push_str(&format!("={value}"));
            }
        };
        if self.server_no_context_takeover {
            push("server_no_context_takeover", None);
        }
        if self.client_no_context_takeover {
            push("client_no_context_takeover", None);
        }
        if self.server_max_window_bits.is_some() {
            push("server_max_window_bits", self.server_max_window_bits);
        }
        if let Some(value) = self.client_max_window_bits {
            push("client_max_window_bits", value);
        }
        text
    }
}

/// RFC 7692 §7.1.2: a decimal integer from 8 to 15 without leading zeroes.
fn bits(value: &[u8]) -> Option<u8> {
    match value {
        [b @ (b'8' | b'9')] => Some(b - b'0'),
        [b'1', b @ b'0'..=b'5'] => Some(10 + b - b'0'),
        _ => None,
    }
}

/// The server's choice: the first offer it can keep, and what it answers. `None`: the extension is declined.
pub(super) fn accept(
    fields: &Fields<'_>,
    settings: Option<&Settings>,
) -> Result<Option<(Agreed, String)>, Malformed> {
    let mut chosen = None;
    // To the end: a fault behind the chosen offer is one as well.
    for member in fields.get_all(FIELD).flat_map(list) {
        let (_, offer) = read(member)?;
        let settings = settings.filter(|_| cfg!(feature = "deflate"));
        if let (None, Some(offer), Some(settings)) = (&chosen, offer, settings) {
            chosen = offer.accept(settings);
        }
    }
    Ok(chosen)
}

impl Params {
    fn accept(&self, settings: &Settings) -> Option<(Agreed, String)> {
        let wanted = settings.server_max_window_bits.clamp(9, 15);
        let server_bits = self.server_max_window_bits.unwrap_or(15).min(wanted);
        if server_bits < 9 {
            return None;
        }
        // A client that does not name it cannot be told. One that hints at 8 may mean 9: zlib does.
        let client_bits = self.client_max_window_bits.map_or(15, |hint| {
            let wanted = settings.client_max_window_bits.clamp(9, 15);
            hint.unwrap_or(15).min(wanted).max(9)
        });
        let answer = Params {
            server_no_context_takeover: self.server_no_context_takeover
                || settings.server_no_context_takeover,
            client_no_context_takeover: self.client_no_context_takeover
                || settings.client_no_context_takeover,
            server_max_window_bits: (self.server_max_window_bits.is_some() || server_bits < 15)
                .then_some(server_bits),
            client_max_window_bits: (client_bits < 15).then_some(Some(client_bits)),
        };
        Some((answer.agreed(), answer.write()))
    }

    /// What an answer of these parameters means.
    fn agreed(&self) -> Agreed {
        Agreed {
            server: Direction {
                takeover: !self.server_no_context_takeover,
                window_bits: self.server_max_window_bits.unwrap_or(15),
            },
            client: Direction {
                takeover: !self.client_no_context_takeover,
                window_bits: self.client_max_window_bits.flatten().unwrap_or(15),
            },
        }
    }
}

/// A client's offer.
pub(super) fn offer(settings: &Settings) -> String {
    let server_bits = settings.server_max_window_bits.clamp(9, 15);
    let client_bits = settings.client_max_window_bits.clamp(9, 15);
    let params = Params {
        server_no_context_takeover: settings.server_no_context_takeover,
        client_no_context_takeover: settings.client_no_context_takeover,
        server_max_window_bits: (server_bits < 15).then_some(server_bits),
        client_max_window_bits: Some((client_bits < 15).then_some(client_bits)),
    };
    params.write()
}

/// The client's check of the answer (RFC 7692 §7.1): what the server says has to be what was offered, or
/// less.
pub(super) fn check_answer(
    fields: &Fields<'_>,
    offered: Option<&Settings>,
) -> Result<Option<Agreed>, &'static str> {
    let mut agreed = None;
    for member in fields.get_all(FIELD).flat_map(list) {
        let (name, answer) = read(member).map_err(|Malformed| "malformed extensions")?;
        let is_ours = name.eq_ignore_ascii_case(NAME.as_bytes());
        let Some(settings) = offered.filter(|_| is_ours && cfg!(feature = "deflate")) else {
            return Err("an extension that was not offered");
        };
        let answer = answer.ok_or("permessage-deflate with parameters that are none")?;
        let server_limit = settings.server_max_window_bits.clamp(9, 15);
        if answer.server_max_window_bits.unwrap_or(15) > server_limit
            || (settings.server_no_context_takeover && !answer.server_no_context_takeover)
        {
            return Err("permessage-deflate beyond what was offered");
        }
        // Its value has to be there, and our compressor has no window of 8 bits.
        if matches!(answer.client_max_window_bits, Some(None | Some(..9))) {
            return Err("permessage-deflate with a window we cannot keep");
        }
        let mut both = answer.agreed();
        both.client.takeover &= !settings.client_no_context_takeover;
        both.client.window_bits = both
            .client
            .window_bits
            .min(settings.client_max_window_bits.clamp(9, 15));
        if agreed.replace(both).is_some() {
            return Err("permessage-deflate twice");
        }
    }
    Ok(agreed)
}
