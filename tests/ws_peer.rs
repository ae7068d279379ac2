//! WebSocket against an implementation that shares no code with ours: tungstenite at the other end, in both
//! roles, random messages both ways.

use loopwright::proto::ws::send::Outbound;
use loopwright::proto::ws::session::{Event, Inbound, Kind, Session};
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Write};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocket};

/// What the peer reads and writes instead of a socket.
#[derive(Debug, Default)]
struct Wire {
    arriving: Vec<u8>,
    leaving: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = buffer.len().min(self.arriving.len());
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        buffer[..n].copy_from_slice(&self.arriving[..n]);
        self.arriving.drain(..n);
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.leaving.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn message() -> impl Strategy<Value = Message> {
    let data = || {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..130),
            proptest::collection::vec(any::<u8>(), 65_530..65_540),
        ]
    };
    prop_oneof![
        "\\PC{0,80}".prop_map(Message::text),
        data().prop_map(Message::binary),
        proptest::collection::vec(any::<u8>(), 0..=125).prop_map(|data| Message::Ping(data.into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn messages_both_ways(
        messages in proptest::collection::vec((message(), 1..4usize), 1..8),
        step in 1..70_000usize,
        we_serve in any::<bool>(),
    ) {
        let (mut ours, role) = match we_serve {
            true => (Session::server(None), Role::Client),
            false => (Session::client(None, 11), Role::Server),
        };
        let mut peer = WebSocket::from_raw_socket(Wire::default(), role, None);
        let (mut inbound, mut outbound) = (Inbound::default(), Outbound::default());

        // Theirs to us, and our answers.
        for (message, _) in &messages {
            peer.send(message.clone()).unwrap();
        }
        peer.close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() })).unwrap();
        let (mut heard, mut kept, mut out) = (Vec::new(), Vec::new(), Vec::new());
        // In fragments, ours to them.
        for (message, pieces) in &messages {
            let (kind, data) = match message {
                Message::Text(text) => (Kind::Text, text.as_bytes()),
                Message::Binary(data) => (Kind::Binary, &data[..]),
                message => {
                    ours.ping(&message.clone().into_data(), &mut out).unwrap();
                    continue;
                }
            };
            let size = data.len() / pieces + 1;
            for n in 0..*pieces {
                let piece = data.chunks(size).nth(n).unwrap_or_default();
                ours.send_fragment(kind, piece, n + 1 == *pieces, &mut out, &mut outbound).unwrap();
            }
        }
        for piece in std::mem::take(&mut peer.get_mut().leaving).chunks(step) {
            kept.extend_from_slice(piece);
            let mut input = &mut kept[..];
            while let Some(event) = ours.poll_event(&mut input, &mut inbound, 1 << 20).unwrap() {
                heard.push(match event {
                    Event::Text(text) => Message::text(text),
                    Event::Binary(data) => Message::binary(data.to_vec()),
                    Event::Ping(data) => {
                        ours.pong(data, &mut out).unwrap();
                        Message::Ping(data.to_vec().into())
                    }
                    Event::Close { code, reason } => {
                        prop_assert_eq!((code, reason), (Some(1001), "bye"));
                        ours.answer_close(&mut out);
                        continue;
                    }
                    event => panic!("{event:?}"),
                });
            }
            kept = input.to_vec();
        }
        prop_assert!(heard.iter().eq(messages.iter().map(|(message, _)| message)));
        prop_assert!(ours.is_closed() && kept.is_empty());

        // What they have heard: all of it, then a pong for each ping of theirs, then our Close.
        peer.get_mut().arriving = out;
        let mut got = Vec::new();
        while let Ok(message) = peer.read() {
            got.push(message);
        }
        let pongs = messages.iter().filter_map(|(message, _)| match message {
            Message::Ping(data) => Some(Message::Pong(data.clone())),
            _ => None,
        });
        let mut want: Vec<_> = messages.iter().map(|(message, _)| message.clone()).chain(pongs).collect();
        want.push(Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })));
        prop_assert_eq!(got, want);
    }
}
