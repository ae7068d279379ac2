//! Floor 0. The timer wheel: every deadline of the reactor, in one structure.
//!
//! It knows [`Instant`] and nothing else. There is no clock inside; `now` is always an argument, so
//! a test owns time.
//!
//! This is the hierarchical timing wheel of G. Varghese and T. Lauck, "Hashed and Hierarchical
//! Timing Wheels" (SOSP 1987), scheme 7. Time is cut into ticks of 1 ms. A tick is a number written
//! in base 64, and there is one level per digit:
//!
//! ```text
//!   cursor (a tick)   = ...   0    0   17    5   42    in base 64
//!                                       |    |    |
//!   level 0   slots of 1 ms             |    |    +--> [0 .. 41][42 .. 63]   due within 64 ms
//!   level 1   slots of 64 ms            |    +-------> [0 ..  5][ 6 .. 63]   ... 4 s
//!   level 2   slots of 4.1 s            +------------> [0 .. 17][18 .. 63]   ... 4 min
//!   level 3   slots of 4.4 min                                               ... 4.7 h
//!     ...                                               empty    in use
//!   level 9   no deadline that fits an `Instant` lies beyond it
//! ```
//!
//! A timer sits on the level of the highest digit in which its tick differs from the cursor, in the
//! slot that digit names. When the cursor enters a slot of a level above 0, the timers in it
//! *cascade*: they now agree with the cursor in that digit, so each is placed again, further down.
//! A timer therefore moves at most once per level in its life.
//!
//! ```text
//!   insert --> [level n] --cascade--> [level < n] --cascade--> ... [level 0] --pop_expired--> out
//!                  |                       |                           |
//!                  +-----------------------+------- cancel ------------+--------------------> out
//! ```
//!
//! Invariants:
//!
//! 1. The cursor never goes back, and no timer is due before it.
//! 2. A timer's slot is a function of its tick and the cursor, so it is computed, never stored.
//! 3. On its level, an occupied slot lies ahead of the cursor's digit (on level 0, at or ahead of
//!    it). So slots never wrap, and the first occupied slot of the first occupied level holds the
//!    earliest timer. The cursor skips any span of empty slots in one step.
//! 4. Timers of the same tick are always in the same slot, in the order they were inserted.
//! 5. A slot's bit in `occupied` is set exactly when its list is not empty.

use std::num::NonZeroU32;

use crate::base::clock::Instant;

/// Microseconds in a tick.
const TICK: u64 = 1_000;

/// Bits in a digit: a level has 64 slots so that its occupancy is one `u64`.
const DIGIT: u32 = 6;
const SLOTS: usize = 1 << DIGIT;

/// Six levels reach 2 years. Ten reach every tick an [`Instant`] can name (`u64::MAX / TICK` has 55
/// bits), which costs 1 KiB and spares a second kind of place for deadlines beyond the last level.
const LEVELS: usize = 10;

/// The end of the free list. No entry has this index.
const NIL: u32 = u32::MAX;

/// Names one inserted timer, for ever: once that timer has fired or was cancelled the id is stale,
/// and no later timer answers to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TimerId {
    index: u32,
    /// Not zero, so that an `Option<TimerId>` is no larger than a `TimerId`.
    generation: NonZeroU32,
}

/// A set of values, each with the instant at which it expires.
///
/// Timers expire in the order of their ticks, and within a tick in the order of insertion. A
/// deadline that has already passed when it is inserted counts as due at the current tick.
#[derive(Debug)]
pub struct Wheel<T> {
    /// The tick up to which time has been handled.
    cursor: u64,
    /// Per level, one bit per slot.
    occupied: [u64; LEVELS],
    /// The first entry of each occupied slot's list; without meaning for an empty slot.
    heads: [[u32; SLOTS]; LEVELS],
    /// Every timer, and the free entries between them. It grows to the largest number of timers
    /// ever pending at once and then no more.
    entries: Vec<Entry<T>>,
    /// The first free entry.
    free: u32,
    len: usize,
}

/// A timer in the circular list of its slot, or a free entry in the free list.
///
/// The list is circular so that a slot needs only its head: the tail is the entry before it.
#[derive(Debug)]
struct Entry<T> {
    /// `None` when free.
    value: Option<T>,
    /// The tick at which it expires.
    due: u64,
    prev: u32,
    next: u32,
    /// The generation of the id that names this timer, or that will name the next one here.
    generation: NonZeroU32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    level: usize,
    digit: usize,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Wheel<T> {
    /// An empty wheel whose cursor is at tick 0. It allocates nothing until the first `insert`.
    pub const fn new() -> Self {
        Self {
            cursor: 0,
            occupied: [0; LEVELS],
            heads: [[NIL; SLOTS]; LEVELS],
            entries: Vec::new(),
            free: NIL,
            len: 0,
        }
    }

    /// The number of pending timers.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is pending.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a timer that expires at the first tick not before `at`.
    pub fn insert(&mut self, at: Instant, value: T) -> TimerId {
        // Rounded up: a timer may be up to a tick late but never early.
        let due = at.as_micros().div_ceil(TICK).max(self.cursor);
        let index = self.allocate(due, value);
        self.link(index);
        self.len += 1;
        TimerId {
            index,
            generation: self.entries[index as usize].generation,
        }
    }

    /// Takes a pending timer out. `None` when it is no longer pending.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        self.remove(id.index)
    }

    /// Takes the next timer that has expired by `now`, or `None` when there is none left.
    ///
    /// A `now` before the cursor counts as the cursor: time that has passed stays passed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let now = (now.as_micros() / TICK).max(self.cursor);
        while let Some(slot) = self.first_occupied() {
            let start = self.start(slot);
            if start > now {
                break;
            }
            self.cursor = start;
            if slot.level == 0 {
                return self.remove(self.heads[0][slot.digit]);
            }
            self.cascade(slot);
        }
        self.cursor = now;
        None
    }

    /// When to call [`pop_expired`](Self::pop_expired) next: never after the earliest timer expires.
    ///
    /// It is before that when the timer has yet to cascade. Once `pop_expired` has returned `None`
    /// at the instant given here, the next answer is strictly later.
    pub fn next_deadline(&self) -> Option<Instant> {
        let tick = self.start(self.first_occupied()?);
        // Saturates for the last, incomplete tick of a u64 only. That one never comes, so a
        // deadline in it means "never".
        Some(Instant::from_micros(tick.saturating_mul(TICK)))
    }

    /// The slot with the earliest timers.
    fn first_occupied(&self) -> Option<Slot> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let digit = self.occupied[level].trailing_zeros() as usize;
        Some(Slot { level, digit })
    }

    /// The first tick of an occupied slot.
    const fn start(&self, slot: Slot) -> u64 {
        let shift = DIGIT * slot.level as u32;
        let above = self.cursor >> shift >> DIGIT << DIGIT;
        (above | slot.digit as u64) << shift
    }

    /// The slot for timers due at this tick.
    const fn slot(&self, due: u64) -> Slot {
        // All ticks that differ in the lowest digit or not at all belong to level 0.
        let differing = (due ^ self.cursor) | (SLOTS as u64 - 1);
        let level = differing.ilog2() / DIGIT;
        let digit = (due >> (DIGIT * level)) as usize % SLOTS;
        Slot {
            level: level as usize,
            digit,
        }
    }

    /// Places the timers of a slot again, after the cursor has come to the start of it.
    fn cascade(&mut self, slot: Slot) {
        let head = self.heads[slot.level][slot.digit];
        self.occupied[slot.level] &= !(1 << slot.digit);
        let mut index = head;
        loop {
            let next = self.entries[index as usize].next;
            self.link(index);
            if next == head {
                break;
            }
            index = next;
        }
    }

    /// Appends an entry to the list of its slot.
    fn link(&mut self, index: u32) {
        let Slot { level, digit } = self.slot(self.entries[index as usize].due);
        let bit = 1 << digit;
        let (prev, next) = if self.occupied[level] & bit == 0 {
            self.occupied[level] |= bit;
            self.heads[level][digit] = index;
            (index, index)
        } else {
            let head = self.heads[level][digit];
            (self.entries[head as usize].prev, head)
        };
        self.entries[prev as usize].next = index;
        self.entries[next as usize].prev = index;
        self.entries[index as usize].prev = prev;
        self.entries[index as usize].next = next;
    }

    /// Takes an entry out of the list of its slot.
    fn unlink(&mut self, index: u32) {
        let Entry {
            due, prev, next, ..
        } = self.entries[index as usize];
        let Slot { level, digit } = self.slot(due);
        if next == index {
            self.occupied[level] &= !(1 << digit);
            return;
        }
        self.entries[prev as usize].next = next;
        self.entries[next as usize].prev = prev;
        if self.heads[level][digit] == index {
            self.heads[level][digit] = next;
        }
    }

    /// Ends a pending timer: its id becomes stale and its entry free.
    fn remove(&mut self, index: u32) -> Option<T> {
        self.unlink(index);
        self.len -= 1;
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.saturating_add(1);
        // The last generation is never given out: an entry that reaches it is retired, for its
        // next id would be one that was used before.
        if entry.generation != NonZeroU32::MAX {
            entry.next = self.free;
            self.free = index;
        }
        entry.value.take()
    }

    /// Puts a timer into a free entry, or a new one. It is not in a list yet.
    fn allocate(&mut self, due: u64, value: T) -> u32 {
        if self.free != NIL {
            let index = self.free;
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            entry.due = due;
            entry.value = Some(value);
            return index;
        }
        assert!(
            self.entries.len() < NIL as usize,
            "timer indices are exhausted"
        );
        let index = self.entries.len() as u32;
        let generation = NonZeroU32::MIN;
        self.entries.push(Entry {
            value: Some(value),
            due,
            prev: index,
            next: index,
            generation,
        });
        index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = TICK;
    const SECOND: u64 = 1_000 * MS;
    const HOUR: u64 = 3_600 * SECOND;
    const YEAR: u64 = 8_766 * HOUR;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    fn drain<T>(wheel: &mut Wheel<T>, now: u64) -> Vec<T> {
        std::iter::from_fn(|| wheel.pop_expired(at(now))).collect()
    }

    impl<T> Wheel<T> {
        /// Asserts the invariants of the file's head.
        fn check(&self) {
            let mut linked = 0;
            for level in 0..LEVELS {
                for digit in 0..SLOTS {
                    if self.occupied[level] & (1 << digit) == 0 {
                        continue;
                    }
                    let slot = Slot { level, digit };
                    assert!(
                        self.start(slot) >= self.cursor,
                        "{slot:?} is behind the cursor"
                    );
                    let head = self.heads[level][digit];
                    let mut index = head;
                    loop {
                        let entry = &self.entries[index as usize];
                        assert!(entry.value.is_some() && entry.due >= self.cursor);
                        assert_eq!(self.slot(entry.due), slot);
                        assert_eq!(self.entries[entry.next as usize].prev, index);
                        linked += 1;
                        index = entry.next;
                        if index == head {
                            break;
                        }
                    }
                }
            }
            assert_eq!(linked, self.len);
            let mut free = 0;
            let mut index = self.free;
            while index != NIL {
                assert!(self.entries[index as usize].value.is_none());
                free += 1;
                index = self.entries[index as usize].next;
            }
            let retired = self
                .entries
                .iter()
                .filter(|entry| entry.generation == NonZeroU32::MAX)
                .count();
            assert_eq!(linked + free + retired, self.entries.len());
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size_of::<TimerId>(), 8);
        assert_eq!(size_of::<Option<TimerId>>(), 8);
        assert_eq!(size_of::<Entry<(u64, bool)>>(), 40);
        assert!(size_of::<Wheel<(u64, bool)>>() <= 2_700);
    }

    #[test]
    fn an_empty_wheel_has_nothing_to_say() {
        let mut wheel = Wheel::<u8>::default();
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
        assert_eq!(wheel.pop_expired(at(0)), None);
        assert_eq!(wheel.pop_expired(at(u64::MAX)), None);
    }

    #[test]
    fn a_timer_expires_at_the_first_tick_not_before_its_deadline() {
        // (cursor, deadline, last instant at which it must not expire, first at which it must)
        let table = [
            (0, 0, None, 0),
            (0, 1, Some(MS - 1), MS),
            (0, MS - 1, Some(MS - 1), MS),
            (0, MS, Some(MS - 1), MS),
            (0, MS + 1, Some(2 * MS - 1), 2 * MS),
            (0, 63 * MS, Some(63 * MS - 1), 63 * MS),
            (0, 64 * MS, Some(64 * MS - 1), 64 * MS),
            (0, 4_096 * MS, Some(4_096 * MS - 1), 4_096 * MS),
            (63 * MS, 64 * MS, Some(64 * MS - 1), 64 * MS),
            (4_095 * MS, 4_097 * MS, Some(4_097 * MS - 1), 4_097 * MS),
            (SECOND, 30 * SECOND, Some(30 * SECOND - 1), 30 * SECOND),
            (HOUR, 3 * YEAR, Some(3 * YEAR - 1), 3 * YEAR),
            (
                3 * YEAR,
                3 * YEAR + 5 * MS,
                Some(3 * YEAR + 5 * MS - 1),
                3 * YEAR + 5 * MS,
            ),
            (0, 500_000 * YEAR, Some(500_000 * YEAR - 1), 500_000 * YEAR),
            (HOUR, 0, None, HOUR),
            (HOUR, HOUR - 1, None, HOUR),
            (HOUR, HOUR, None, HOUR),
        ];
        for (cursor, deadline, not_yet, expired) in table {
            let mut wheel = Wheel::new();
            assert_eq!(wheel.pop_expired(at(cursor)), None);
            wheel.insert(at(deadline), ());
            if let Some(not_yet) = not_yet {
                assert_eq!(
                    wheel.pop_expired(at(not_yet)),
                    None,
                    "{deadline} at {cursor}: early"
                );
            }
            wheel.check();
            assert_eq!(
                wheel.pop_expired(at(expired)),
                Some(()),
                "{deadline} at {cursor}: late"
            );
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn timers_expire_by_tick_then_by_insertion() {
        let mut wheel = Wheel::new();
        wheel.insert(at(10 * SECOND), "second, from level 2");
        wheel.insert(at(5 * MS), "first");
        assert_eq!(drain(&mut wheel, 5 * MS), ["first"]);
        wheel.insert(at(10 * SECOND - 1), "third: earlier, but the same tick");
        assert_eq!(drain(&mut wheel, 9_990 * MS), [""; 0]);
        wheel.insert(at(10 * SECOND), "fourth, straight into level 0");
        wheel.insert(at(9_999 * MS), "before them");
        assert_eq!(
            drain(&mut wheel, HOUR),
            [
                "before them",
                "second, from level 2",
                "third: earlier, but the same tick",
                "fourth, straight into level 0",
            ]
        );
    }

    #[test]
    fn a_lagging_wheel_places_new_timers_correctly() {
        let mut wheel = Wheel::new();
        // Nobody has called pop_expired since 0; it is now one hour later.
        wheel.insert(at(HOUR + 5 * MS), 2);
        wheel.insert(at(HOUR + 3 * SECOND), 3);
        wheel.insert(at(HOUR - SECOND), 1);
        assert_eq!(drain(&mut wheel, HOUR), [1]);
        assert_eq!(drain(&mut wheel, HOUR + 5 * MS - 1), [0; 0]);
        assert_eq!(drain(&mut wheel, HOUR + 5 * MS), [2]);
        assert_eq!(drain(&mut wheel, HOUR + 3 * SECOND), [3]);
    }

    #[test]
    fn time_that_goes_back_changes_nothing() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.pop_expired(at(HOUR)), None);
        wheel.insert(at(HOUR + SECOND), "later");
        assert_eq!(wheel.pop_expired(at(0)), None);
        wheel.insert(at(SECOND), "past");
        assert_eq!(drain(&mut wheel, 0), ["past"]);
        assert_eq!(drain(&mut wheel, HOUR + SECOND), ["later"]);
    }

    #[test]
    fn a_stale_id_is_harmless() {
        let mut wheel = Wheel::new();
        let first = wheel.insert(at(MS), 1);
        assert_eq!(wheel.cancel(first), Some(1));
        assert_eq!(wheel.cancel(first), None);
        let second = wheel.insert(at(MS), 2);
        assert_eq!((second.index, wheel.cancel(first)), (first.index, None));
        assert_eq!(wheel.pop_expired(at(MS)), Some(2));
        assert_eq!(wheel.cancel(second), None);
        assert_eq!(Wheel::<u8>::new().cancel(second), None);
    }

    #[test]
    fn an_entry_out_of_generations_is_retired() {
        let mut wheel = Wheel::new();
        let id = wheel.insert(at(MS), 1);
        wheel.cancel(id);
        let last = NonZeroU32::new(u32::MAX - 1).expect("not zero");
        wheel.entries[id.index as usize].generation = last;
        let id = wheel.insert(at(MS), 2);
        assert_eq!(id.generation, last);
        assert_eq!(wheel.cancel(id), Some(2));
        assert_eq!(wheel.cancel(id), None);
        let fresh = wheel.insert(at(MS), 3);
        assert_ne!(fresh.index, id.index);
        assert_eq!(wheel.cancel(id), None);
        wheel.check();
        assert_eq!(wheel.pop_expired(at(MS)), Some(3));
    }

    #[test]
    fn a_warm_wheel_does_not_allocate() {
        let mut wheel = Wheel::new();
        for round in 0..1_000 {
            let ids: Vec<_> = (0..100)
                .map(|n| wheel.insert(at(round * SECOND + n), n))
                .collect();
            assert!(ids.iter().step_by(2).all(|&id| wheel.cancel(id).is_some()));
            assert_eq!(drain(&mut wheel, round * SECOND + MS).len(), 50);
        }
        assert_eq!(wheel.entries.len(), 100);
    }

    #[test]
    fn the_next_deadline_is_exact_on_level_0_and_the_next_cascade_above() {
        let mut wheel = Wheel::new();
        wheel.insert(at(4_100 * MS), ());
        assert_eq!(wheel.next_deadline(), Some(at(4_096 * MS)));
        assert_eq!(wheel.pop_expired(at(4_096 * MS)), None);
        assert_eq!(wheel.next_deadline(), Some(at(4_100 * MS)));
        wheel.insert(at(0), ());
        assert_eq!(wheel.next_deadline(), Some(at(4_096 * MS)));
    }

    #[test]
    fn a_deadline_in_the_last_tick_of_all_never_comes() {
        let mut wheel = Wheel::new();
        let id = wheel.insert(at(u64::MAX), ());
        assert_eq!(wheel.pop_expired(at(u64::MAX)), None);
        assert_eq!(wheel.next_deadline(), Some(at(u64::MAX)));
        wheel.check();
        assert_eq!(wheel.cancel(id), Some(()));
    }

    /// The obvious implementation.
    #[derive(Default)]
    struct Model {
        cursor: u64,
        /// Deadlines by tick and sequence number.
        pending: BTreeMap<(u64, usize), u64>,
        /// The key of every timer ever inserted.
        keys: Vec<(u64, usize)>,
    }

    impl Model {
        /// Returns the sequence number, which the test uses as the value.
        fn insert(&mut self, at: u64) -> usize {
            let sequence = self.keys.len();
            let key = (at.div_ceil(TICK).max(self.cursor), sequence);
            self.pending.insert(key, at);
            self.keys.push(key);
            sequence
        }

        fn cancel(&mut self, sequence: usize) -> Option<usize> {
            self.pending.remove(&self.keys[sequence]).map(|_| sequence)
        }

        fn pop_expired(&mut self, now: u64) -> Option<usize> {
            let now = (now / TICK).max(self.cursor);
            match self.pending.first_key_value() {
                Some((&(tick, sequence), _)) if tick <= now => {
                    self.pending.pop_first();
                    self.cursor = tick;
                    Some(sequence)
                }
                _ => {
                    self.cursor = now;
                    None
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A deadline this long after the present.
        Insert(u64),
        /// A deadline this long before it.
        InsertPast(u64),
        /// The timer that was inserted this long ago, in timers; often a stale one.
        Cancel(prop::sample::Index),
        /// Lets time pass with nobody asking, so that the wheel lags.
        Sleep(u64),
        /// Pops a few expired timers, perhaps not all of them.
        Pop(usize),
        /// Pops every expired timer.
        Drain,
        /// Pops every timer that has expired by a time in the past.
        DrainPast(u64),
        /// Sleeps until the next deadline, as the reactor does.
        Wait,
    }

    /// A span of time: all orders of magnitude from 1 µs to 140,000 years are equally likely.
    fn span() -> impl Strategy<Value = u64> {
        prop_oneof![
            (0u32..62).prop_flat_map(|bits| 0..=(1u64 << bits)),
            0..200 * MS,
            (0u64..200).prop_map(|ms| ms * MS),
            // On the edge of a slot of some level.
            (0u32..9, 0u64..3)
                .prop_map(|(level, off)| ((1 << (6 * level)) + off).saturating_sub(1) * MS),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => span().prop_map(Step::Insert),
            1 => span().prop_map(Step::InsertPast),
            3 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            2 => span().prop_map(Step::Sleep),
            1 => (0usize..4).prop_map(Step::Pop),
            2 => Just(Step::Drain),
            1 => span().prop_map(Step::DrainPast),
            3 => Just(Step::Wait),
        ]
    }

    /// The wheel and the model, side by side.
    #[derive(Default)]
    struct Pair {
        wheel: Wheel<usize>,
        model: Model,
        ids: Vec<TimerId>,
        now: u64,
    }

    impl Pair {
        fn insert(&mut self, deadline: u64) {
            let sequence = self.model.insert(deadline);
            self.ids.push(self.wheel.insert(at(deadline), sequence));
        }

        fn pop(&mut self, now: u64) -> bool {
            let popped = self.wheel.pop_expired(at(now));
            assert_eq!(popped, self.model.pop_expired(now));
            popped.is_some()
        }

        fn drain(&mut self) {
            let pending = self.model.pending.clone();
            while self.pop(self.now) {}
            for (key, &deadline) in &pending {
                if self.model.pending.contains_key(key) {
                    assert!(
                        self.now < deadline.saturating_add(MS),
                        "more than a tick late"
                    );
                } else {
                    assert!(self.now >= deadline, "early");
                }
            }
            // Progress: having handled everything up to now, there is nothing to do before later.
            assert!(
                self.wheel
                    .next_deadline()
                    .is_none_or(|next| next > at(self.now))
            );
        }

        fn wait(&mut self) {
            if let Some(next) = self.wheel.next_deadline() {
                self.now = self.now.max(next.as_micros());
                self.drain();
            }
        }

        fn run(&mut self, step: Step) {
            match step {
                Step::Insert(span) => self.insert(self.now.saturating_add(span)),
                Step::InsertPast(span) => self.insert(self.now.saturating_sub(span)),
                Step::Cancel(which) if !self.ids.is_empty() => {
                    let sequence = which.index(self.ids.len());
                    let cancelled = self.wheel.cancel(self.ids[sequence]);
                    assert_eq!(cancelled, self.model.cancel(sequence));
                }
                Step::Cancel(_) => {}
                Step::Sleep(span) => self.now = (self.now.saturating_add(span)).min(u64::MAX / 2),
                Step::Pop(count) => {
                    let _ = (0..count).all(|_| self.pop(self.now));
                }
                Step::Drain => self.drain(),
                Step::DrainPast(span) => while self.pop(self.now.saturating_sub(span)) {},
                Step::Wait => self.wait(),
            }
        }

        fn check(&self) {
            self.wheel.check();
            assert_eq!(self.wheel.cursor, self.model.cursor);
            assert_eq!(self.wheel.len(), self.model.pending.len());
            assert_eq!(self.wheel.is_empty(), self.model.pending.is_empty());
            let earliest = self
                .model
                .pending
                .keys()
                .next()
                .map(|(tick, _)| at(tick * MS));
            match (self.wheel.next_deadline(), earliest) {
                (Some(next), Some(earliest)) => assert!(next <= earliest, "woken too late"),
                (next, earliest) => assert_eq!(next, earliest),
            }
        }
    }

    proptest! {
        #[test]
        fn the_wheel_is_the_model(steps in prop::collection::vec(step(), 0..120)) {
            let mut pair = Pair::default();
            for step in steps {
                pair.run(step);
                pair.check();
            }
            // Left alone it runs dry, with no more turns than cascades and expiries.
            let turns = (LEVELS + 1) * pair.wheel.len();
            for _ in 0..turns {
                pair.wait();
                pair.check();
            }
            prop_assert!(pair.wheel.is_empty());
        }
    }
}
