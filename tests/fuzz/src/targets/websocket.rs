//! A WebSocket's machine, either end: the same bytes, whole and in pieces, are the same messages and the
//! same failure; what is reported is what a naive reader of RFC 6455 finds; nothing follows a Close or a failure;
//! what is sent back can be read at the other end.
//!
//! Input: settings, the length of the pieces, then what the peer sends: as it is on the wire, or unmasked
//! (a zero key), so that the fuzzer need not know of masking.

use super::take;
use loopwright::proto::ws::Error;
use loopwright::proto::ws::extension::{Agreed, Direction};
use loopwright::proto::ws::frame::{MAX_CONTROL, MAX_HEADER};
use loopwright::proto::ws::send::Outbound;
use loopwright::proto::ws::session::{Event, Inbound, Kind, Session};

const LIMIT: usize = 20_000;

/// What has been heard, the pieces of a message put together.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Heard {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// One end, with its echo.
struct End {
    session: Session,
    heard: Vec<Heard>,
    failed: Option<Error>,
    current: Option<(Kind, Vec<u8>)>,
    out: Vec<u8>,
    left: usize,
}

fn fed(mut session: Session, data: &[u8], step: usize, streamed: bool, threshold: usize) -> End {
    session.set_streamed(streamed);
    let (mut inbound, mut outbound) = (Inbound::default(), Outbound::new(1, threshold));
    let mut end = End {
        session,
        heard: Vec::new(),
        failed: None,
        current: None,
        out: Vec::new(),
        left: 0,
    };
    let mut kept = Vec::new();
    for piece in data.chunks(step) {
        kept.extend_from_slice(piece);
        let mut input = &mut kept[..];
        loop {
            let before = input.len();
            match end.session.poll_event(&mut input, &mut inbound, LIMIT) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    assert!(end.failed.is_none(), "{event:?} after a failure");
                    let closed = matches!(end.heard.last(), Some(Heard::Close(..)));
                    assert!(!closed, "{event:?} after a Close");
                    let is_drained = matches!(event, Event::Piece { .. });
                    assert!(before > input.len() || is_drained, "{event:?} from nothing");
                    on_event(
                        &mut end.session,
                        event,
                        &mut end.heard,
                        &mut end.current,
                        &mut end.out,
                        &mut outbound,
                    );
                }
                Err(error) => {
                    assert!(end.failed.replace(error).is_none(), "it fails twice");
                    end.session.fail(error, &mut end.out);
                    assert!(end.session.is_closed());
                }
            }
        }
        assert!(
            input.len() < MAX_HEADER + MAX_CONTROL,
            "{} bytes are left",
            input.len()
        );
        kept = input.to_vec();
    }
    end.left = kept.len();
    end
}

fn on_event(
    session: &mut Session,
    event: Event<'_>,
    heard: &mut Vec<Heard>,
    current: &mut Option<(Kind, Vec<u8>)>,
    out: &mut Vec<u8>,
    outbound: &mut Outbound,
) {
    let sent = match event {
        Event::Text(text) => {
            heard.push(Heard::Message(Kind::Text, text.into()));
            session.send_text(text, out, outbound)
        }
        Event::Binary(data) => {
            heard.push(Heard::Message(Kind::Binary, data.into()));
            session.send_binary(data, out, outbound)
        }
        Event::Piece {
            kind,
            first,
            last,
            data,
        } => {
            assert_eq!(first, current.is_none(), "first");
            assert!(last || !data.is_empty(), "an empty piece");
            let (_, whole) = current.get_or_insert((kind, Vec::new()));
            whole.extend_from_slice(data);
            if last && let Some((kind, whole)) = current.take() {
                let is_utf8 = std::str::from_utf8(&whole).is_ok();
                assert!(kind == Kind::Binary || is_utf8, "a text that is none");
                heard.push(Heard::Message(kind, whole));
            }
            session.send_fragment(kind, data, last, out, outbound)
        }
        Event::Ping(data) => {
            heard.push(Heard::Ping(data.into()));
            session.pong(data, out)
        }
        Event::Pong(data) => {
            heard.push(Heard::Pong(data.into()));
            Ok(())
        }
        Event::Close { code, reason } => {
            heard.push(Heard::Close(code, reason.into()));
            session.answer_close(out);
            assert!(session.is_closed());
            Ok(())
        }
    };
    assert_eq!(sent, Ok(()), "an open session sends");
}

pub(crate) fn run(mut data: &[u8]) {
    let settings = take(&mut data);
    let step = usize::from(take(&mut data)).max(1);
    let is_server = settings & 1 == 0;
    let both = Direction {
        takeover: settings & 2 != 0,
        window_bits: 9 + settings % 7,
    };
    let agreed = (settings & 4 != 0).then_some(Agreed {
        server: both,
        client: both,
    });
    let session = || match is_server {
        true => Session::server(agreed),
        false => Session::client(agreed, 7),
    };
    let streamed = settings & 8 != 0;
    let threshold = usize::from(settings >> 4) * 4;
    let whole = fed(session(), data, usize::MAX, streamed, threshold);
    let split = fed(session(), data, step, streamed, threshold);
    assert_eq!(whole.heard, split.heard, "by {step}");
    // Which of several faults is met first may differ, as may how far a text was looked at.
    assert_eq!(
        whole.failed.is_some(),
        split.failed.is_some(),
        "by {step}: {:?} {:?}",
        whole.failed,
        split.failed
    );
    assert_eq!(whole.left, split.left, "by {step}");
    if agreed.is_none() {
        let naive = naive(data, is_server, streamed);
        assert_eq!(
            (&whole.heard, whole.failed.is_some()),
            (&naive.0, naive.1),
            "naively"
        );
    }

    // Our echo is the messages, to the other end.
    let peer = || match is_server {
        true => Session::client(agreed, 9),
        false => Session::server(agreed),
    };
    for end in [&whole, &split] {
        let (at_peer, mut want) = (fed(peer(), &end.out, step, false, threshold), Vec::new());
        let is_answered = |heard: &&Heard| !matches!(heard, Heard::Pong(_));
        for heard in end.heard.iter().filter(is_answered) {
            want.push(match heard {
                Heard::Ping(data) => Heard::Pong(data.clone()),
                Heard::Close(code, _) => Heard::Close(*code, String::new()),
                heard => heard.clone(),
            });
        }
        if let Some(error) = end.failed {
            want.push(Heard::Close(Some(error.close_code()), String::new()));
        }
        // A streamed echo may have no bounds, and may have been cut off.
        if !streamed {
            assert_eq!(at_peer.failed, None, "of our own");
            assert_eq!(at_peer.heard, want, "the echo");
        }
    }
}

/// RFC 6455 without extensions, over bytes that are all there: what is heard, and whether it fails.
fn naive(data: &[u8], is_server: bool, streamed: bool) -> (Vec<Heard>, bool) {
    let (mut heard, mut at) = (Vec::new(), 0);
    let mut message: Option<(Kind, Vec<u8>)> = None;
    let byte = |at: usize| data.get(at).copied();
    loop {
        let (Some(first), Some(second)) = (byte(at), byte(at + 1)) else {
            return (heard, false);
        };
        let (fin, opcode) = (first >= 0x80, first % 16);
        let is_control = opcode >= 8;
        let bad = first & 0x30 != 0
            || (second >= 0x80) != is_server
            || ![0, 1, 2, 8, 9, 10].contains(&opcode)
            || (is_control && (!fin || second % 128 > 125));
        if bad {
            return (heard, true);
        }
        let more = match second % 128 {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if data.len() < at + 2 + more {
            return (heard, false);
        }
        let long = data[at + 2..at + 2 + more]
            .iter()
            .fold(0u64, |n, &b| n << 8 | u64::from(b));
        let len = if more == 0 {
            u64::from(second % 128)
        } else {
            long
        };
        if (more == 2 && len < 126) || (more == 8 && (len < 65536 || len >> 63 == 1)) {
            return (heard, true);
        }
        let start = at + 2 + more + if is_server { 4 } else { 0 };
        if data.len() < start {
            return (heard, false);
        }
        let begun = message.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
        let bad = first & 0x40 != 0
            || (opcode == 0 && message.is_none())
            || ([1, 2].contains(&opcode) && message.is_some())
            || (!is_control && !streamed && begun + len > LIMIT as u64);
        if bad {
            return (heard, true);
        }
        let is_whole = (data.len() - start) as u64 >= len;
        let end = if is_whole {
            start + len as usize
        } else {
            data.len()
        };
        let mut payload = data[start..end].to_vec();
        if is_server {
            let key = &data[start - 4..start];
            payload
                .iter_mut()
                .zip(key.iter().cycle())
                .for_each(|(byte, key)| *byte ^= key);
        }
        if is_control && !is_whole {
            return (heard, false);
        }
        match opcode {
            8 => {
                let code = match payload[..] {
                    [] => None,
                    [_] => return (heard, true),
                    [a, b, ..] => Some(u16::from(a) << 8 | u16::from(b)),
                };
                let is_code = |code| {
                    (1000..=1014).contains(&code) && ![1004, 1005, 1006].contains(&code)
                        || (3000..5000).contains(&code)
                };
                if !code.is_none_or(is_code) {
                    return (heard, true);
                }
                match String::from_utf8(payload.split_off(payload.len().min(2))) {
                    Ok(reason) => heard.push(Heard::Close(code, reason)),
                    Err(_) => return (heard, true),
                }
                return (heard, false);
            }
            9 => heard.push(Heard::Ping(payload)),
            10 => heard.push(Heard::Pong(payload)),
            _ => {
                let kind = if opcode == 1 {
                    Kind::Text
                } else {
                    Kind::Binary
                };
                let (kind, bytes) = message.get_or_insert((kind, Vec::new()));
                bytes.extend(payload);
                let is_text = match std::str::from_utf8(bytes) {
                    Ok(_) => true,
                    Err(why) => why.error_len().is_none() && !(fin && is_whole),
                };
                if *kind == Kind::Text && !is_text {
                    return (heard, true);
                }
                if !is_whole {
                    return (heard, false);
                }
                if fin && let Some((kind, bytes)) = message.take() {
                    heard.push(Heard::Message(kind, bytes));
                }
            }
        }
        at = end;
    }
}
