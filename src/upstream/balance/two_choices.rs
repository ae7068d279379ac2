//! Floor 1. The power of two choices: draw two servers, take the better one.
//!
//! Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE Transactions on Parallel
//! and Distributed Systems 12 (2001). Two draws bring the longest queue from O(log n) to O(log log n), the third
//! little more. Drawn is from a table in which a server stands as often as it weighs, so a draw costs the same
//! for ten servers and for a thousand.

/// Draws before nobody is found. With half of the servers out, one in 65,536 is not.
const DRAWS: usize = 16;

/// The cheaper of two different servers of the table; of equals the first drawn. None if `take` refused all drawn.
pub(super) fn choose(
    table: &[u16],
    rng: &mut fastrand::Rng,
    mut take: impl FnMut(usize, &mut fastrand::Rng) -> bool,
    cost: impl Fn(usize) -> f64,
) -> Option<usize> {
    if table.is_empty() {
        return None;
    }
    let mut draw = |not: Option<usize>| {
        (0..DRAWS).find_map(|_| {
            let ix = usize::from(table[rng.usize(..table.len())]);
            (Some(ix) != not && take(ix, rng)).then_some(ix)
        })
    };
    let first = draw(None)?;
    match draw(Some(first)) {
        Some(second) if cost(second) < cost(first) => Some(second),
        _ => Some(first),
    }
}
