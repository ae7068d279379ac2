//! Which server of a group gets a request: what every policy keeps, and what each is for.

use loopwright::Instant;
use loopwright::upstream::balance::{Balance, MAX_SERVERS, Pick, Policy, Server, key};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Duration;

const LATENCY: Policy = Policy::Latency {
    decay: Policy::DECAY,
};
const HASH: Policy = Policy::Hash { load: Policy::LOAD };
const UNBOUNDED: Policy = Policy::Hash {
    load: f64::INFINITY,
};
const POLICIES: [Policy; 8] = [
    Policy::RoundRobin,
    Policy::Random,
    Policy::LeastConnections,
    Policy::TwoChoices,
    LATENCY,
    Policy::First,
    HASH,
    UNBOUNDED,
];

fn group(policy: Policy, weights: &[u32]) -> Balance {
    let mut balance = Balance::new(policy);
    for (ix, weight) in weights.iter().enumerate() {
        let server = Server::new(&format!("10.0.0.{ix}:80"), *weight);
        assert_eq!(balance.add(server), Some(ix));
    }
    balance
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

/// How often each server is chosen for `requests`, of which `held` are in flight at a time, with equal latencies.
fn counts(
    balance: &mut Balance,
    requests: usize,
    held: usize,
    share: impl Fn(usize) -> f32,
    rng: &mut fastrand::Rng,
) -> Vec<f64> {
    let mut counts = vec![0.0; MAX_SERVERS];
    let mut in_flight = VecDeque::new();
    for request in 0..requests {
        let now = Instant::from_micros(request as u64 * 100);
        let pick = Pick {
            key: Some(rng.u64(..)),
            now,
            ..Pick::default()
        };
        let ix = balance.choose(&pick, &share, rng).unwrap();
        counts[ix] += 1.0;
        balance.started(ix);
        in_flight.push_back(ix);
        if in_flight.len() > held {
            let ended = in_flight.swap_remove_back(rng.usize(..=held)).unwrap();
            balance.ended(ended, Some(Duration::from_millis(10)), now);
        }
    }
    let last = counts.iter().rposition(|count| *count > 0.0).unwrap();
    counts.truncate(last + 1);
    counts
}

/// Pearson's statistic of what came against what the weights ask for.
fn chi_square(counts: &[f64], weights: &[u32]) -> f64 {
    let all: f64 = counts.iter().sum();
    let heavy = f64::from(weights.iter().sum::<u32>());
    let due = weights.iter().map(|w| all * f64::from(*w) / heavy);
    let off = counts.iter().zip(due);
    off.map(|(count, due)| (count - due).powi(2) / due).sum()
}

#[test]
fn requests_are_spread_by_weight() {
    for weights in [&[1; 10][..], &[1, 2, 3, 4, 10], &[5], &[100, 1]] {
        for policy in [Policy::RoundRobin, Policy::Random, UNBOUNDED] {
            let mut balance = group(policy, weights);
            let counts = counts(&mut balance, 20_000, 0, |_| 1.0, &mut rng());
            let chi = chi_square(&counts, weights);
            // One in a million with 9 degrees of freedom; round robin is exact.
            let bound = if policy == Policy::RoundRobin {
                0.01
            } else {
                45.0
            };
            assert!(chi < bound, "{policy:?} {weights:?}: {chi}");
        }
    }
}

#[test]
fn those_who_look_at_the_load_spread_it_by_weight_too() {
    for weights in [&[1; 10][..], &[1, 2, 3, 4, 10]] {
        for policy in [Policy::LeastConnections, Policy::TwoChoices, LATENCY, HASH] {
            let mut balance = group(policy, weights);
            let counts = counts(&mut balance, 50_000, 200, |_| 1.0, &mut rng());
            let all: f64 = counts.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let due = all * f64::from(*weight) / f64::from(weights.iter().sum::<u32>());
                let off = (count / due - 1.0).abs();
                assert!(off < 0.1, "{policy:?} {weights:?}: {counts:?}");
            }
        }
    }
}

#[test]
fn an_idle_group_is_used_by_weight_and_not_from_the_front() {
    for weights in [&[1; 10][..], &[1, 3], &[1, 2, 3, 4, 10]] {
        for policy in [Policy::LeastConnections, Policy::TwoChoices] {
            let mut balance = group(policy, weights);
            let counts = counts(&mut balance, 10_000, 0, |_| 1.0, &mut rng());
            let chi = chi_square(&counts, weights);
            assert!(chi < 45.0, "{policy:?} {weights:?}: {counts:?}");
        }
    }
}

/// Six requests on a server of weight 3 are as many as two on one of weight 1.
#[test]
fn the_server_with_the_least_to_do_is_chosen() {
    for (weights, in_flight, least) in [
        ([1, 1, 1], [3, 1, 2], &[1][..]),
        ([3, 1, 1], [5, 2, 2], &[0]),
        ([3, 1, 1], [6, 2, 3], &[0, 1]),
        ([1, 1, 1], [0, 4, 0], &[0, 2]),
    ] {
        let mut balance = group(Policy::LeastConnections, &weights);
        let mut drawn = group(Policy::TwoChoices, &weights);
        for (ix, requests) in in_flight.into_iter().enumerate() {
            (0..requests).for_each(|_| balance.started(ix));
            (0..requests).for_each(|_| drawn.started(ix));
        }
        let (mut rng, mut chosen) = (rng(), Vec::new());
        for _ in 0..50 {
            chosen.extend(balance.choose(&Pick::default(), |_| 1.0, &mut rng));
            // With one of three left out, two choices see all there are.
            let pick = Pick {
                tried: &[2],
                ..Pick::default()
            };
            let ix = drawn.choose(&pick, |_| 1.0, &mut rng).unwrap();
            let load = |ix: usize| f64::from(in_flight[ix]) / f64::from(weights[ix]);
            assert!(load(ix) <= load(1 - ix), "{weights:?} {in_flight:?}: {ix}");
        }
        chosen.sort();
        chosen.dedup();
        assert_eq!(chosen, least, "{weights:?} {in_flight:?}");
    }
}

#[test]
fn the_first_is_used_until_it_cannot_be() {
    let mut balance = group(Policy::First, &[1, 1, 1]);
    assert_eq!(counts(&mut balance, 100, 5, |_| 1.0, &mut rng()), [100.0]);
    let second = |ix| if ix == 0 { 0.0 } else { 1.0 };
    assert_eq!(
        counts(&mut balance, 100, 5, second, &mut rng()),
        [0.0, 100.0]
    );
}

/// A quarter of what a full server gets, and not nothing; those who look at the load come close to it.
#[test]
fn a_server_that_starts_slowly_gets_less() {
    for policy in POLICIES {
        let mut balance = group(policy, &[1; 5]);
        let share = |ix| if ix == 0 { 0.25 } else { 1.0 };
        let counts = counts(&mut balance, 20_000, 50, share, &mut rng());
        let part = match policy {
            Policy::First => counts[0] / 20_000.0,
            _ => counts[0] / (counts[1..].iter().sum::<f64>() / 4.0),
        };
        let exact = [Policy::RoundRobin, Policy::Random, Policy::First, UNBOUNDED];
        let expected = match exact.contains(&policy) {
            true => 0.22..0.28,
            false => 0.2..0.6,
        };
        assert!(expected.contains(&part), "{policy:?}: {part} {counts:?}");
    }
}

#[test]
fn the_same_seed_chooses_the_same() {
    let run = |policy, seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut balance = group(policy, &[1, 2, 3, 4, 5, 6]);
        balance.stagger(&mut rng);
        counts(&mut balance, 1000, 20, |_| 1.0, &mut rng)
    };
    for policy in POLICIES {
        assert_eq!(run(policy, 1), run(policy, 1));
    }
    assert_ne!(run(Policy::Random, 1), run(Policy::Random, 2));
}

#[test]
fn staggered_workers_begin_with_different_servers() {
    let first = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut balance = group(Policy::RoundRobin, &[1; 10]);
        balance.stagger(&mut rng);
        let counts = counts(&mut balance, 1000, 0, |_| 1.0, &mut rng);
        assert!(counts.iter().all(|count| (99.0..=101.0).contains(count)));
        balance.choose(&Pick::default(), |_| 1.0, &mut rng)
    };
    let mut firsts: Vec<_> = (0..50).map(first).collect();
    firsts.sort();
    firsts.dedup();
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[test]
fn a_latency_that_rises_sends_requests_elsewhere() {
    let (mut balance, mut rng) = (group(LATENCY, &[1; 3]), rng());
    let now = Instant::default();
    for (ix, ms) in [(0, 10), (1, 10), (2, 500)] {
        balance.started(ix);
        balance.ended(ix, Some(Duration::from_millis(ms)), now);
    }
    let mut chosen = [0; 3];
    for _ in 0..300 {
        let pick = Pick {
            now,
            ..Pick::default()
        };
        chosen[balance.choose(&pick, |_| 1.0, &mut rng).unwrap()] += 1;
    }
    assert_eq!(chosen[2], 0, "{chosen:?}");
    // Nothing more is heard of it while the others go on answering: in a minute it is tried again.
    let later = now + Duration::from_secs(60);
    for ix in [0, 1] {
        balance.ended(ix, Some(Duration::from_millis(10)), later);
    }
    let pick = Pick {
        now: later,
        ..Pick::default()
    };
    let is_tried = (0..10).any(|_| balance.choose(&pick, |_| 1.0, &mut rng) == Some(2));
    assert!(is_tried);
}

#[test]
fn a_new_server_is_tried_once_and_not_with_a_flood() {
    let (mut balance, mut rng) = (group(LATENCY, &[1; 3]), rng());
    let now = Instant::default();
    for ix in [0, 1] {
        balance.ended(ix, Some(Duration::from_millis(10)), now);
    }
    for _ in 0..100 {
        let ix = balance.choose(&Pick::default(), |_| 1.0, &mut rng).unwrap();
        balance.started(ix);
    }
    assert_eq!(balance.server(2).unwrap().in_flight(), 1);
}

/// The server each of 10,000 keys is sent to, when nobody has anything to do.
fn homes(balance: &mut Balance, share: impl Fn(usize) -> f32) -> Vec<usize> {
    let mut rng = rng();
    // Each its own moment, so that no census is older than the question.
    let mut home = |n: u64| {
        let pick = Pick {
            key: Some(key(format!("client {n}").as_bytes())),
            now: Instant::from_micros(n * 20_000),
            ..Pick::default()
        };
        balance.choose(&pick, &share, &mut rng).unwrap()
    };
    (0..10_000).map(&mut home).collect()
}

fn moved(before: &[usize], after: &[usize]) -> f64 {
    let moved = before.iter().zip(after).filter(|(b, a)| b != a).count();
    moved as f64 / before.len() as f64
}

#[test]
fn only_the_keys_of_a_server_that_is_out_move_and_they_come_back() {
    let mut balance = group(HASH, &[1; 10]);
    let before = homes(&mut balance, |_| 1.0);
    let out = homes(&mut balance, |ix| if ix == 3 { 0.0 } else { 1.0 });
    for (before, out) in before.iter().zip(&out) {
        assert_eq!(before == out, *before != 3);
    }
    // They are spread over all that are left.
    let heirs: Vec<_> = (0..10)
        .map(|ix| {
            before
                .iter()
                .zip(&out)
                .filter(|(b, o)| **b == 3 && **o == ix)
                .count()
        })
        .collect();
    assert!(
        heirs
            .iter()
            .enumerate()
            .all(|(ix, n)| (*n > 50) == (ix != 3)),
        "{heirs:?}"
    );
    assert_eq!(homes(&mut balance, |_| 1.0), before);
}

#[test]
fn keys_come_back_one_after_the_other_to_a_server_that_starts_slowly() {
    let mut balance = group(HASH, &[1; 10]);
    let full = homes(&mut balance, |_| 1.0);
    let mut at_home = Vec::new();
    for share in [0.0, 0.1, 0.4, 0.8, 1.0] {
        let homes = homes(&mut balance, |ix| if ix == 3 { share } else { 1.0 });
        let now: Vec<_> = (0..homes.len()).filter(|n| homes[*n] == 3).collect();
        assert!(
            at_home.iter().all(|n| now.contains(n)),
            "a key went away again"
        );
        let all = full.iter().filter(|home| **home == 3).count() as f32;
        assert!((now.len() as f32 / all - share).abs() < 0.1);
        at_home = now;
    }
}

/// Ten servers: a tenth of the keys must move when one leaves for good, a fifteenth of that on top may.
#[test]
fn few_keys_move_when_a_server_leaves_for_good_or_is_replaced() {
    let mut balance = group(HASH, &[1; 10]);
    let before = homes(&mut balance, |_| 1.0);
    balance.remove(3);
    let after = homes(&mut balance, |_| 1.0);
    assert!(!after.contains(&3));
    let share = moved(&before, &after);
    assert!((0.09..0.13).contains(&share), "{share}");

    assert!(!balance.replace(4, Server::new("x", 1)), "4 has not left");
    assert!(balance.replace(3, Server::new("10.0.0.3:80", 1)));
    assert_eq!(homes(&mut balance, |_| 1.0), before, "it is the same again");

    balance.set_weight(3, 2);
    let share = moved(&before, &homes(&mut balance, |_| 1.0));
    // It has two elevenths instead of one tenth.
    assert!((0.08..0.13).contains(&share), "{share}");
}

/// One key that is everybody's favourite does not drown its server.
#[test]
fn no_server_has_more_than_its_bound() {
    for (weights, load) in [
        (&[1; 10][..], 1.25),
        (&[1; 10], 2.0),
        (&[1, 2, 3, 4, 10], 1.25),
    ] {
        let mut balance = group(Policy::Hash { load }, weights);
        let heavy = f64::from(weights.iter().sum::<u32>());
        let mut rng = rng();
        let hot = Pick {
            key: Some(42),
            ..Pick::default()
        };
        for all in 1..=2000 {
            // One in eight asks for something else.
            let pick = if rng.u8(..8) > 0 {
                hot
            } else {
                Pick::default()
            };
            let ix = balance.choose(&pick, |_| 1.0, &mut rng).unwrap();
            balance.started(ix);
            let fair = f64::from(all) * f64::from(weights[ix]) / heavy;
            let has = f64::from(balance.server(ix).unwrap().in_flight());
            assert!(has <= (load * fair).ceil(), "{has} of {all} at {ix}");
        }
        // Nor do requests go elsewhere for nothing: the favourite's own server has what it may have.
        let home = group(UNBOUNDED, weights).choose(&hot, |_| 1.0, &mut rng);
        let bound = load * 2000.0 * f64::from(weights[home.unwrap()]) / heavy;
        let has = balance.server(home.unwrap()).unwrap().in_flight();
        assert!(f64::from(has) > bound - 2.0, "{has} of {bound}");
    }
}

#[test]
fn without_a_bound_a_favourite_key_has_one_server() {
    let mut balance = group(UNBOUNDED, &[1; 10]);
    let mut rng = rng();
    let pick = Pick {
        key: Some(42),
        ..Pick::default()
    };
    let first = balance.choose(&pick, |_| 1.0, &mut rng);
    for _ in 0..100 {
        balance.started(first.unwrap());
        assert_eq!(balance.choose(&pick, |_| 1.0, &mut rng), first);
    }
}

#[test]
fn numbers_have_a_limit_and_a_place_can_be_had_again() {
    let mut balance = group(Policy::Random, &[1; MAX_SERVERS]);
    assert_eq!(balance.add(Server::new("one more", 1)), None);
    balance.remove(5);
    assert_eq!(balance.add(Server::new("one more", 1)), None);
    assert!(balance.replace(5, Server::new("one more", 1)));
}

/// What is known of the group as a whole is not asked for with every request. This is.
#[test]
fn a_primary_that_is_back_is_used_at_once() {
    for policy in POLICIES {
        let mut balance = group(policy, &[1]);
        balance.add(Server::new("backup", 1).backup());
        let mut choose =
            |primary| balance.choose(&Pick::default(), |ix| [primary, 1.0][ix], &mut rng());
        assert_eq!(choose(0.0), Some(1), "{policy:?}");
        assert_eq!(choose(1.0), Some(0), "{policy:?}");
        assert_eq!(choose(0.0), Some(1), "{policy:?}");
    }
}

/// A group in any state, and a request.
#[derive(Clone, Debug)]
struct Case {
    policy: Policy,
    /// Weight, backup, left, in flight, share.
    servers: Vec<(u32, bool, bool, u32, f32)>,
    tried: Vec<usize>,
    sticky: Option<usize>,
    key: Option<u64>,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let share = prop_oneof![
        3 => Just(0.0f32),
        3 => Just(1.0f32),
        1 => Just(1e-6f32),
        1 => 0.0f32..1.0
    ];
    let server = (
        0u32..2000,
        any::<bool>(),
        prop::bool::weighted(0.2),
        0u32..9,
        share,
    );
    (
        prop::sample::select(&POLICIES[..]),
        prop::collection::vec(server, 0..20),
        prop::collection::vec(0usize..20, 0..6),
        prop::option::weighted(0.3, 0usize..25),
        any::<Option<u64>>(),
        any::<u64>(),
    )
        .prop_map(|(policy, servers, tried, sticky, key, seed)| Case {
            policy,
            servers,
            tried,
            sticky,
            key,
            seed,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// The invariants that `Balance` names: somebody, if there is anybody; nobody who is out; backups last.
    #[test]
    fn whoever_can_be_chosen_is_and_nobody_else(case in case()) {
        let mut balance = Balance::new(case.policy);
        for (ix, (weight, backup, left, in_flight, _)) in case.servers.iter().enumerate() {
            let server = Server::new(&format!("server {ix}"), *weight);
            balance.add(if *backup { server.backup() } else { server });
            (0..*in_flight).for_each(|_| balance.started(ix));
            if in_flight % 2 == 1 {
                balance.ended(ix, Some(Duration::from_micros(u64::from(*weight))), Instant::default());
            }
            if *left {
                balance.remove(ix);
            }
        }
        let is_backup = |ix: &usize| case.servers[*ix].1;
        let mut rng = fastrand::Rng::with_seed(case.seed);
        for turn in 0..6 {
            // Shares change between two requests: each has that of its neighbour.
            let share = |ix: usize| case.servers[(ix + turn / 3) % case.servers.len()].4;
            let can = |ix: &usize| {
                let is_there = case.servers.get(*ix).is_some_and(|server| !server.2);
                is_there && share(*ix) > 0.0 && !case.tried.contains(ix)
            };
            let anybody: Vec<usize> = (0..case.servers.len()).filter(can).collect();
            let has_primary = anybody.iter().any(|ix| !is_backup(ix));
            let pick = Pick {
                key: case.key,
                sticky: case.sticky,
                tried: &case.tried,
                now: Instant::from_micros(turn as u64 * 1000),
            };
            let chosen = balance.choose(&pick, share, &mut rng);
            prop_assert_eq!(chosen.is_some(), !anybody.is_empty());
            let Some(ix) = chosen else { continue };
            prop_assert!(can(&ix));
            match case.sticky.filter(can) {
                Some(sticky) => prop_assert_eq!(ix, sticky),
                None => prop_assert_eq!(is_backup(&ix), !has_primary),
            }
            balance.started(ix);
        }
    }
}
