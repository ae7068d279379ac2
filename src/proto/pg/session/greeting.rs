//! Floor 1. The greeting: who we are, and the proof of it that the server wants.
//!
//! ```text
//!            R 3, 5: the password, or its MD5
//!  Startup ──────────────────────────────────► Proved ── R 0 ──► Settling ── K, S … Z ──► Ready
//!     │ │ R 10                         R 12 ▲                       ▲
//!     │ └─────► Scram ── R 11 ──► Scram ────┘                       │
//!     └────────────────── R 0: no proof ────────────────────────────┘
//! ```
//! Invariants: with SCRAM, nobody is believed to be the server who has not proved that it knows the password. The password
//! is given away once, in clear text only if that is allowed, and the hashing that is wanted of us has a limit.

use super::read::{Answer, Shelf};
use super::{Event, Limits, Phase, Session, Status};
use crate::base::clock::Instant;
use crate::proto::pg::{DbError, Error, Refusal, Settings};
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{self, sasl};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::collections::{HashMap, VecDeque};

/// What to send on a connection of its own, and then close it, to have what a session's server does now cancelled:
/// whichever of its questions that is.
///
/// ```
/// let bytes = loopwright::proto::pg::cancel_request(1, 2);
/// assert_eq!(bytes, [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2]);
/// ```
pub fn cancel_request(process: i32, key: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let words = [16, 80_877_102, process, key];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

impl Session {
    /// On a connection that has just been made. The output has the greeting.
    ///
    /// # Errors
    /// The settings have a NUL in them.
    pub fn new(settings: &Settings, limits: Limits, now: Instant) -> Result<Session, Refusal> {
        let mut output = BytesMut::new();
        let database = settings.database.as_deref();
        let ours = [
            ("user", Some(&settings.user[..])),
            ("database", database),
            ("client_encoding", Some("UTF8")),
            ("DateStyle", Some("ISO")),
        ];
        let ours = ours
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let theirs = settings
            .parameters
            .iter()
            .map(|(key, value)| (&key[..], &value[..]));
        let theirs = theirs.filter(|(key, _)| !is_ours(key));
        frontend::startup_message(ours.chain(theirs), &mut output).map_err(|_| Refusal::Nul)?;
        Ok(Session {
            user: settings.user.clone(),
            password: settings.password.clone(),
            cleartext: settings.cleartext,
            limits,
            phase: Phase::Startup,
            input: Vec::new(),
            shelf: Shelf::default(),
            output,
            unfit: VecDeque::new(),
            queue: VecDeque::new(),
            queued: 0,
            waiting: VecDeque::new(),
            blocked: false,
            open: 0,
            copying: None,
            next_ticket: 0,
            cache: HashMap::new(),
            closing: Vec::new(),
            next_statement: 0,
            uses: 0,
            status: Status::Idle,
            is_changed: false,
            cancel_key: None,
            started: now,
            progress: now,
        })
    }

    pub(super) fn on_login(
        &mut self,
        answer: Answer<'_>,
        now: Instant,
    ) -> Result<Option<Event>, Error> {
        let message = match answer {
            Answer::Ready(status) if matches!(self.phase, Phase::Settling) => {
                self.status = status;
                self.phase = Phase::Ready;
                self.progress = now;
                return Ok(Some(Event::Ready));
            }
            Answer::Other(message) => message,
            _ => return Err(Error::Unexpected("a strange answer to the greeting")),
        };
        match (&mut self.phase, message) {
            (_, Message::ErrorResponse(body)) => {
                Err(Error::Refused(Box::new(DbError::read(body.fields())?)))
            }
            (Phase::Startup | Phase::Proved, Message::AuthenticationOk) => {
                self.phase = Phase::Settling;
                Ok(None)
            }
            (Phase::Startup, Message::AuthenticationCleartextPassword) => {
                if !self.cleartext {
                    return Err(Error::Cleartext);
                }
                let secret = self.password.take().ok_or(Error::NoPassword)?;
                self.prove(|out| frontend::password_message(secret.expose().as_bytes(), out))
            }
            (Phase::Startup, Message::AuthenticationMd5Password(body)) => {
                let secret = self.password.take().ok_or(Error::NoPassword)?;
                let (user, password) = (self.user.as_bytes(), secret.expose().as_bytes());
                let hash = authentication::md5_hash(user, password, body.salt());
                self.prove(|out| frontend::password_message(hash.as_bytes(), out))
            }
            (Phase::Startup, Message::AuthenticationSasl(body)) => {
                let mut names = body.mechanisms();
                let mut offered = Vec::new();
                while let Some(name) = names.next().map_err(|_| Error::Malformed("a greeting"))? {
                    offered.push(name);
                }
                if !offered.contains(&sasl::SCRAM_SHA_256) {
                    return Err(Error::Unsupported(offered.join(", ")));
                }
                let secret = self.password.take().ok_or(Error::NoPassword)?;
                let password = secret.expose().as_bytes();
                let scram = sasl::ScramSha256::new(password, sasl::ChannelBinding::unsupported());
                let name = sasl::SCRAM_SHA_256;
                let written =
                    frontend::sasl_initial_response(name, scram.message(), &mut self.output);
                written.map_err(proof)?;
                self.phase = Phase::Scram(scram);
                Ok(None)
            }
            (Phase::Scram(scram), Message::AuthenticationSaslContinue(body)) => {
                let rounds = rounds(body.data()).ok_or(Error::Malformed("a proof"))?;
                if rounds > self.limits.iterations {
                    let limit = self.limits.iterations;
                    let why = format!("the server wants {rounds} rounds of hashing, over {limit}");
                    return Err(Error::Proof(why));
                }
                scram.update(body.data()).map_err(proof)?;
                frontend::sasl_response(scram.message(), &mut self.output).map_err(proof)?;
                Ok(None)
            }
            (Phase::Scram(scram), Message::AuthenticationSaslFinal(body)) => {
                scram.finish(body.data()).map_err(proof)?;
                self.phase = Phase::Proved;
                Ok(None)
            }
            (Phase::Scram(_), Message::AuthenticationOk) => {
                let why = "the server has not proved that it knows the password";
                Err(Error::Proof(why.into()))
            }
            (Phase::Startup, other) => match other {
                Message::AuthenticationGss => Err(Error::Unsupported("GSSAPI".into())),
                Message::AuthenticationSspi => Err(Error::Unsupported("SSPI".into())),
                Message::AuthenticationKerberosV5 => Err(Error::Unsupported("Kerberos".into())),
                _ => Err(Error::Unexpected("a strange answer to the greeting")),
            },
            (Phase::Settling, Message::BackendKeyData(body)) => {
                self.cancel_key = Some((body.process_id(), body.secret_key()));
                Ok(None)
            }
            _ => Err(Error::Unexpected("a strange answer to the greeting")),
        }
    }

    fn prove(
        &mut self,
        message: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<Option<Event>, Error> {
        message(&mut self.output).map_err(proof)?;
        self.phase = Phase::Proved;
        Ok(None)
    }
}

fn is_ours(key: &str) -> bool {
    let ours = ["user", "database", "client_encoding", "DateStyle"];
    // An empty name would be the end of the message.
    key.is_empty() || ours.iter().any(|name| key.eq_ignore_ascii_case(name))
}

fn proof(error: std::io::Error) -> Error {
    Error::Proof(error.to_string())
}

/// The rounds of hashing in a SCRAM server's first message.
fn rounds(message: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(message).ok()?;
    text.split(',')
        .find_map(|part| part.strip_prefix("i="))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, feed, message, said, wire};
    use super::*;
    use crate::proto::address::Secret;
    use crate::proto::resp::cuts;
    use base64::{Engine, engine::general_purpose::STANDARD};

    /// The server's half of SCRAM-SHA-256, with a password that it takes to be `password`.
    fn scram(session: &mut Session, password: &str, wrong_end: bool) -> Result<Vec<String>, Error> {
        use hmac::{Hmac, KeyInit, Mac};
        use sha2::{Digest, Sha256};
        let hash = |key: &[u8], text: &[u8]| -> Vec<u8> {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
            mac.update(text);
            mac.finalize().into_bytes().to_vec()
        };
        session.sent(session.output().len());
        feed(session, &[&wire("R:10,SCRAM-SHA-256-PLUS|SCRAM-SHA-256||")])?;
        let text = |session: &mut Session, from| {
            let text = String::from_utf8(session.output()[from..].to_vec()).expect("text");
            session.sent(session.output().len());
            text
        };
        let first = text(session, 5 + "SCRAM-SHA-256".len() + 1 + 4);
        let bare = first
            .strip_prefix("n,,")
            .expect("no channel binding")
            .to_string();
        let nonce = format!("{}more", bare.strip_prefix("n=,r=").expect("a nonce"));
        let salt = b"salt";
        let challenge = format!("r={nonce},s={},i=2", STANDARD.encode(salt));
        feed(
            session,
            &[&message(
                b'R',
                &[&[0, 0, 0, 11], challenge.as_bytes()].concat(),
            )],
        )?;
        let last = text(session, 5);
        let (without_proof, proof) = last.rsplit_once(",p=").expect("a proof");
        let one = hash(password.as_bytes(), &[salt, &[0, 0, 0, 1][..]].concat());
        let two = hash(password.as_bytes(), &one);
        let salted: Vec<u8> = one.iter().zip(&two).map(|(a, b)| a ^ b).collect();
        let all = format!("{bare},{challenge},{without_proof}");
        let client_key = hash(&salted, b"Client Key");
        let signature = hash(&Sha256::digest(&client_key), all.as_bytes());
        let want: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(a, b)| a ^ b)
            .collect();
        if proof != STANDARD.encode(want) {
            return feed(session, &[&wire("F:28P01")]);
        }
        let mut end = hash(&hash(&salted, b"Server Key"), all.as_bytes());
        end[0] ^= u8::from(wrong_end);
        let end = format!("v={}", STANDARD.encode(end));
        feed(
            session,
            &[&message(b'R', &[&[0, 0, 0, 12], end.as_bytes()].concat())],
        )?;
        feed(session, &[&wire("R:0 K Z:I")])
    }

    fn login(password: Option<&str>, cleartext: bool) -> Session {
        let mut settings = Settings::new("ada");
        settings.password = password.map(|text| Secret::new(text.into()));
        settings.cleartext = cleartext;
        settings.parameters = vec![
            ("application_name".into(), "x".into()),
            ("DateStyle".into(), "German".into()),
        ];
        let session = Session::new(&settings, Limits::default(), at(0)).expect("a session");
        let greeting =
            b"\0\x03\0\0user\0ada\0client_encoding\0UTF8\0DateStyle\0ISO\0application_name\0x\0\0";
        assert_eq!(session.output()[4..], greeting[..]);
        session
    }

    #[test]
    fn logins() {
        let ready = Ok(vec!["ready".to_string()]);
        assert_eq!(scram(&mut login(Some("pw"), false), "pw", false), ready);
        let error = scram(&mut login(Some("pw"), false), "other", false).expect_err("wrong");
        assert_eq!(
            error.to_string(),
            "the server refuses the login: no (28P01)"
        );
        // Somebody who does not know the password is no server of ours.
        let error = scram(&mut login(Some("pw"), false), "pw", true).expect_err("wrong");
        assert_eq!(
            error.to_string(),
            "the proof of the password has failed: SCRAM verification error"
        );
        for (password, cleartext, server, says, want) in [
            (Some("pw"), false, "R:0 Z:I", "", Ok("ready")),
            (Some("pw"), true, "R:3 R:0 Z:I", "p:pw", Ok("ready")),
            (Some("pw"), false, "R:3", "", Err("clear text")),
            (None, true, "R:3", "", Err("there is none")),
            // md5(md5(pw ada) salt), as of the server's own documentation.
            (Some("pw"), false, "R:5,salt R:0 Z:I", "p:md5", Ok("ready")),
            (None, false, "R:5,salt", "", Err("there is none")),
            (
                None,
                false,
                "R:10,SCRAM-SHA-256||",
                "",
                Err("there is none"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-512|X||",
                "",
                Err("SCRAM-SHA-512, X, which is not supported"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:0",
                "",
                Err("has not proved"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:11,r=x,s=c2FsdA==,i=2",
                "",
                Err("invalid nonce"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:11,r=x,s=c2FsdA==,i=99999",
                "",
                Err("99999 rounds"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:11,r=x",
                "",
                Err("a proof"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:12,v=x",
                "",
                Err("has failed"),
            ),
            (Some("pw"), false, "R:11,r=x", "", Err("strange")),
            (Some("pw"), true, "R:3 R:3", "p:pw", Err("strange")),
            (Some("pw"), true, "R:7", "", Err("GSSAPI")),
            (None, false, "R:4", "", Err("a message")),
            (None, false, "Z:I", "", Err("strange")),
            (None, false, "R:0 D:7", "", Err("strange")),
            (
                None,
                false,
                "F:3D000",
                "",
                Err("refuses the login: no (3D000)"),
            ),
            (
                None,
                false,
                "R:0 F:53300",
                "",
                Err("refuses the login: no (53300)"),
            ),
        ] {
            for pieces in cuts(&wire(server)) {
                let mut session = login(password, cleartext);
                session.sent(session.output().len());
                let got = feed(&mut session, &pieces).map(|events| events.join(" "));
                match (got, want) {
                    (Ok(got), Ok(want)) => {
                        assert_eq!(got, want);
                        assert!(said(&mut session).starts_with(says), "{server}");
                    }
                    (Err(error), Err(want)) => {
                        assert!(error.to_string().contains(want), "{server}: {error}");
                        assert!(!session.is_ready());
                    }
                    (got, want) => panic!("{server}: {got:?} instead of {want:?}"),
                }
                assert!(!format!("{session:?}").contains("pw"));
            }
        }
    }
}
