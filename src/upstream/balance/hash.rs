//! Floor 1. Consistent hashing with bounded loads: a key's server, unless that one has too much to do.
//!
//! Sources: V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018, for the
//! bound (a server takes no more than a load factor times its share of all that is in flight) on Maglev's table
//! (`maglev.rs`) in place of a ring. Where the ring has a next server, a key has here a next place, from the key
//! and the number of the choice alone, so its second choice is as steady as its first.
//!
//! The hash is SipHash-1-3 with a key of zeros: the same in each worker, after each restart and on each machine.
//! It is no secret: who can choose keys can choose a server, and the bound is what protects that server.

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// Places that are looked at. If load is bound by 1.25, at most 4 of 5 servers are full: one key in 1,200 finds none.
const CHOICES: u64 = 32;

/// What a policy by hash takes for a key: the client's address, a path, a field.
///
/// ```
/// use loopwright::upstream::balance::key;
/// assert_eq!(key(b"192.0.2.7"), key(b"192.0.2.7"));
/// assert_ne!(key(b"192.0.2.7"), key(b"192.0.2.8"));
/// ```
pub fn key(bytes: &[u8]) -> u64 {
    of(bytes)
}

pub(super) fn of(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Another number for each: the finish of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub(super) fn mix(number: u64) -> u64 {
    let x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The first choice of `key` that `take` takes, who is told the server, and a number from 0 to 1 that is this
/// choice's own: a server that takes a share of its keys takes the same ones each time.
pub(super) fn choose(table: &[u16], key: u64, take: impl Fn(usize, f32) -> bool) -> Option<usize> {
    (0..CHOICES).find_map(|choice| {
        let hash = mix(key.wrapping_add(mix(choice)));
        let place = (u128::from(hash) * table.len() as u128) >> 64;
        let ix = usize::from(*table.get(place as usize)?);
        let part = (mix(hash) >> 40) as f32 / (1 << 24) as f32;
        take(ix, part).then_some(ix)
    })
}
