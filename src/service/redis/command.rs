//! Floor 4. What is asked of a Redis: commands and their arguments, scripts.
//!
//! A [`Command`] keeps its arguments in one piece of memory, so that it costs two allocations, however many there are.

use crate::Bytes;
use sha1::{Digest, Sha1};
use smallvec::SmallVec;
use std::fmt::{self, Write};
use std::rc::Rc;

/// An argument of a command: bytes, text, numbers in decimal.
///
/// ```
/// use loopwright::service::redis::Arg;
/// /// A key of ours.
/// struct User(u32);
/// impl Arg for User {
///     fn write(&self, out: &mut Vec<u8>) {
///         "user:".write(out);
///         self.0.write(out);
///     }
/// }
/// let mut key = Vec::new();
/// User(7).write(&mut key);
/// assert_eq!(key, b"user:7");
/// ```
pub trait Arg {
    /// Appends it.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! bytes {
    ($($type:ty),*) => {$(
        impl Arg for $type {
            fn write(&self, out: &mut Vec<u8>) {
                let bytes: &[u8] = self.as_ref();
                out.extend_from_slice(bytes);
            }
        }
    )*};
}

bytes!(str, String, [u8], Vec<u8>, Bytes);

impl<const N: usize> Arg for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<T: Arg + ?Sized> Arg for &T {
    fn write(&self, out: &mut Vec<u8>) {
        (**self).write(out);
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Arg for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
            }
        }
    )*};
}

integers!(
    i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize
);

macro_rules! floats {
    ($($type:ty),*) => {$(
        /// With the fewest digits that lead back to it.
        impl Arg for $type {
            fn write(&self, out: &mut Vec<u8>) {
                let mut text = String::new();
                // Writing to a String cannot fail.
                let _ = write!(text, "{self}");
                out.extend_from_slice(text.as_bytes());
            }
        }
    )*};
}

floats!(f32, f64);

/// A command: its name and its arguments, of any bytes.
///
/// Arrays, slices and tuples are commands, too: `["GET", "k"]`, `("EXPIRE", "k", 60)`.
///
/// ```
/// use loopwright::service::redis::Command;
/// let keys = vec!["a".to_string(), "b".to_string()];
/// let command = Command::new("DEL").args(&keys).arg(7).arg(&b"\xff"[..]);
/// assert_eq!(command.arguments().collect::<Vec<_>>(), [&b"DEL"[..], b"a", b"b", b"7", b"\xff"]);
/// assert_eq!(Command::from(("EXPIRE", "k", 60)), Command::from(["EXPIRE", "k", "60"]));
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Command {
    bytes: Vec<u8>,
    /// Where each argument ends.
    ends: SmallVec<[usize; 6]>,
}

/// Not its arguments: they may be secret.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = String::from_utf8_lossy(self.name());
        let more = self.ends.len().saturating_sub(1);
        write!(f, "{name:?} with {more} arguments")
    }
}

impl Command {
    /// Of this name, without arguments so far.
    pub fn new(name: impl Arg) -> Command {
        Command::default().arg(name)
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl Arg) -> Command {
        argument.write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self
    }

    /// More arguments.
    pub fn args<A: Arg>(self, arguments: impl IntoIterator<Item = A>) -> Command {
        arguments.into_iter().fold(self, Command::arg)
    }

    /// Its name, then its arguments.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied();
        // Ends are lengths of `bytes` as it grew: in order, and none is beyond it.
        begins.zip(ends).map(|(begin, end)| &self.bytes[begin..end])
    }

    pub(super) fn name(&self) -> &[u8] {
        self.arguments().next().unwrap_or_default()
    }

    /// Bytes on the wire, and a few more.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + 16 * self.ends.len() + 64
    }

    fn is_one_of(&self, names: &[&str]) -> bool {
        let name = self.name();
        let mut names = names.iter();
        names.any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
    }

    /// Whether it may hold up what is behind it on its connection, by waiting for something to happen.
    pub(super) fn is_blocking(&self) -> bool {
        const READ: [&str; 2] = ["XREAD", "XREADGROUP"];
        const BLOCKING: [&str; 8] = [
            "BLPOP",
            "BRPOP",
            "BLMOVE",
            "BRPOPLPUSH",
            "BLMPOP",
            "BZPOPMIN",
            "BZPOPMAX",
            "BZMPOP",
        ];
        let has_block = || {
            self.arguments()
                .any(|word| word.eq_ignore_ascii_case(b"BLOCK"))
        };
        self.is_about_replicas()
            || self.is_one_of(&BLOCKING)
            || self.is_one_of(&READ) && has_block()
    }

    /// Whether it waits until replicas, or the disk, have what its connection has written.
    pub(super) fn is_about_replicas(&self) -> bool {
        self.is_one_of(&["WAIT", "WAITAOF"])
    }

    /// Why it may not be asked on a connection that others use, too.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        const OF_CLIENT: [&[u8]; 3] = [b"REPLY", b"TRACKING", b"CACHING"];
        let word = self.arguments().nth(1).unwrap_or_default();
        let is_own = || OF_CLIENT.iter().any(|own| word.eq_ignore_ascii_case(own));
        if self.name().is_empty() {
            Some("a command has a name")
        } else if self.is_one_of(&["AUTH", "SELECT", "HELLO", "RESET", "QUIT"]) {
            Some("user, password and database are said in the URL")
        } else if self.is_one_of(&["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"]) {
            Some("a transaction is asked as one: see multi and watch")
        } else if self.is_one_of(&[
            "SUBSCRIBE",
            "UNSUBSCRIBE",
            "PSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SSUBSCRIBE",
            "SUNSUBSCRIBE",
        ]) {
            Some("subscriptions have a connection of their own: see subscribe")
        } else if self.is_one_of(&["MONITOR", "SYNC", "PSYNC", "REPLCONF"])
            || self.is_one_of(&["CLIENT"]) && is_own()
        {
            Some("its replies cannot be matched")
        } else {
            None
        }
    }
}

impl<A: Arg, const N: usize> From<[A; N]> for Command {
    fn from(words: [A; N]) -> Command {
        Command::default().args(words)
    }
}

impl<A: Arg> From<&[A]> for Command {
    fn from(words: &[A]) -> Command {
        Command::default().args(words)
    }
}

impl<A: Arg> From<Vec<A>> for Command {
    fn from(words: Vec<A>) -> Command {
        Command::default().args(words)
    }
}

macro_rules! tuples {
    ($($name:ident)*) => {
        impl<$($name: Arg),*> From<($($name,)*)> for Command {
            #[allow(non_snake_case)]
            fn from(($($name,)*): ($($name,)*)) -> Command {
                Command::default()$(.arg($name))*
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);

/// A script for the server, asked for by its digest: see [`RedisClient::script`](super::RedisClient::script).
///
/// ```
/// use loopwright::service::redis::Script;
/// let script = Script::new("return 1");
/// assert_eq!(script.sha1(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    source: Rc<str>,
    sha1: Rc<str>,
}

impl Script {
    /// Of a text in Lua.
    pub fn new(source: &str) -> Script {
        let digest = Sha1::digest(source.as_bytes());
        let sha1 = digest.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Script {
            source: source.into(),
            sha1: sha1.into(),
        }
    }

    /// By which the server knows it.
    pub fn sha1(&self) -> &str {
        &self.sha1
    }

    /// The short command, and the whole one.
    pub(super) fn commands(&self, keys: &[impl Arg], args: &[impl Arg]) -> (Command, Command) {
        let of = |name: &str, what: &str| {
            let head = Command::new(name).arg(what).arg(keys.len());
            head.args(keys).args(args)
        };
        (of("EVALSHA", &self.sha1), of("EVAL", &self.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: impl Into<Command>) -> Vec<String> {
        let command = command.into();
        let words = command.arguments().map(String::from_utf8_lossy);
        words.map(|word| word.into_owned()).collect()
    }

    #[test]
    fn arguments_of_all_kinds() {
        assert_eq!(words(["GET", "", "k"]), ["GET", "", "k"]);
        assert_eq!(words(vec!["A".to_string()]), ["A"]);
        assert_eq!(words(&["A", "B"][..]), ["A", "B"]);
        let bytes = Bytes::from_static(b"b");
        let command = ("SET", -1, 2u64, 0.1, 1e21, f64::INFINITY, &bytes, *b"x");
        let digits = "1000000000000000000000";
        assert_eq!(
            words(command),
            ["SET", "-1", "2", "0.1", digits, "inf", "b", "x"]
        );
        assert_eq!(words(Command::default()), [""; 0]);
    }

    #[test]
    fn what_kind_of_command() {
        for command in [
            "blpop k 1",
            "BZPOPMIN k 0",
            "xread block 0 STREAMS s $",
            "XREADGROUP GROUP g c COUNT 1 BLOCK 5 STREAMS s >",
            "WAIT 1 0",
        ] {
            let command = Command::from(command.split(' ').collect::<Vec<_>>());
            assert!(command.is_blocking() && command.refusal().is_none());
        }
        for command in ["LPOP k", "XREAD STREAMS s 0", "GET BLOCK", "CLIENT LIST"] {
            let command = Command::from(command.split(' ').collect::<Vec<_>>());
            assert!(!command.is_blocking() && command.refusal().is_none());
        }
        for command in [
            "",
            "select 1",
            "Auth x",
            "multi",
            "WATCH k",
            "subscribe c",
            "client reply OFF",
            "monitor",
            "replconf ack 0",
        ] {
            let command = Command::from(command.split(' ').collect::<Vec<_>>());
            assert!(command.refusal().is_some(), "{command:?}");
        }
        assert!(Command::default().refusal().is_some());
        let secret = Command::from(["SET", "k", "s3cret"]);
        assert_eq!(format!("{secret:?}"), "\"SET\" with 2 arguments");
    }
}
