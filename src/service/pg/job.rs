//! Floor 4. A question and who waits for its answer, and all of those there are.
//!
//! A job waits in the hub's queue, or is asked on a connection, and leaves [`Jobs`] with its answer, once. Its [`Id`]
//! names it for ever: the slot it had is used again, the number in front of that not before there were 2^40 others.

use super::{CopyIn, PgError, Rows, Tx};
use crate::proto::pg::{Columns, Query, Row, Sql};
use crate::{AbortId, Bytes, Ctx, Demand, Instant};
use slab::Slab;
use smallvec::SmallVec;
use std::rc::Rc;
use std::time::Duration;

pub(super) type Id = u64;
pub(super) type Then<S, T> = Box<dyn FnOnce(&mut Ctx<'_, S>, Result<T, PgError>)>;
pub(super) type Take<S, T> = Box<dyn FnMut(&mut Ctx<'_, S>, T) -> Demand>;
pub(super) type Source<S> = Box<dyn FnMut(&mut Ctx<'_, S>) -> CopyIn>;

/// What nobody waits for: the hub's own questions. No job has it.
pub(super) const NOBODY: Id = 0;
/// Of an [`Id`], those that say where the job is.
const SLOT_BITS: u32 = 24;

/// What is asked.
pub(super) enum Ask {
    Query(Query),
    Simple(Sql),
    CopyIn(Sql),
    CopyOut(Sql),
}

/// Who waits for the answer.
pub(super) enum Sink<S: 'static> {
    Rows {
        rows: SmallVec<[Row; 1]>,
        columns: Option<Rc<Columns>>,
        bytes: usize,
        then: Then<S, Rows>,
    },
    /// `None`: it is being called.
    Each(Option<Take<S, Row>>, Then<S, u64>),
    CopyIn(Option<Source<S>>, Then<S, u64>),
    CopyOut(Option<Take<S, Bytes>>, Then<S, u64>),
    Begin(Then<S, Tx<S>>),
    /// Nobody any more.
    Nobody,
}

impl<S: 'static> Sink<S> {
    pub(super) fn rows(
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Rows, PgError>) + 'static,
    ) -> Sink<S> {
        Sink::Rows {
            rows: SmallVec::new(),
            columns: None,
            bytes: 0,
            then: Box::new(then),
        }
    }

    pub(super) fn each(
        row: impl FnMut(&mut Ctx<'_, S>, Row) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> Sink<S> {
        Sink::Each(Some(Box::new(row)), Box::new(then))
    }

    pub(super) fn copy_in(
        source: impl FnMut(&mut Ctx<'_, S>) -> CopyIn + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> Sink<S> {
        Sink::CopyIn(Some(Box::new(source)), Box::new(then))
    }

    pub(super) fn copy_out(
        piece: impl FnMut(&mut Ctx<'_, S>, Bytes) -> Demand + 'static,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<u64, PgError>) + 'static,
    ) -> Sink<S> {
        Sink::CopyOut(Some(Box::new(piece)), Box::new(then))
    }

    pub(super) fn is_nobody(&self) -> bool {
        matches!(self, Sink::Nobody)
    }

    pub(super) fn is_streamed(&self) -> bool {
        matches!(self, Sink::Each(..) | Sink::CopyIn(..) | Sink::CopyOut(..))
    }

    /// There is no answer.
    pub(super) fn fail(self, cx: &mut Ctx<'_, S>, error: PgError) {
        match self {
            Sink::Rows { then, .. } => then(cx, Err(error)),
            Sink::Each(_, then) | Sink::CopyIn(_, then) | Sink::CopyOut(_, then) => {
                then(cx, Err(error));
            }
            Sink::Begin(then) => then(cx, Err(error)),
            Sink::Nobody => {}
        }
    }
}

/// When, for how long it will have been, and the setting that says so.
pub(super) type Deadline = (Instant, Duration, &'static str);

impl<S: 'static> Job<S> {
    pub(super) fn new(
        since: Instant,
        sink: Sink<S>,
        alone: bool,
        timeout: Option<Duration>,
    ) -> Job<S> {
        Job {
            sink,
            on: None,
            ticket: 0,
            alone,
            since,
            timeout,
            due: None,
            rest: Bytes::new(),
            waits: false,
            is_copying: false,
            abort: None,
        }
    }

    /// Until when it may take, or the pause that begins now.
    pub(super) fn deadline(&self, now: Instant, pause: Option<Duration>) -> Option<Deadline> {
        let whole = self
            .timeout
            .map(|limit| (self.since + limit, limit, "timeout"));
        let pause = pause.map(|limit| (now + limit, limit, "hold"));
        whole.into_iter().chain(pause).min_by_key(|(at, ..)| *at)
    }
}

pub(super) struct Job<S: 'static> {
    pub(super) sink: Sink<S>,
    /// The connection it is asked on; `None`: it waits in the queue.
    pub(super) on: Option<Id>,
    pub(super) ticket: u64,
    pub(super) alone: bool,
    pub(super) since: Instant,
    /// How long it may take.
    pub(super) timeout: Option<Duration>,
    /// When it is given up, and what for.
    pub(super) due: Option<Deadline>,
    /// What is there of the data of a copy.
    pub(super) rest: Bytes,
    /// Who takes or gives the pieces has said that there is to be a pause.
    pub(super) waits: bool,
    /// The server takes the data of this copy.
    pub(super) is_copying: bool,
    /// What happens if its client goes.
    pub(super) abort: Option<AbortId>,
}

/// All that have no answer yet.
pub(super) struct Jobs<S: 'static> {
    slots: Slab<(Id, Job<S>)>,
    /// The number of the one that was made last.
    made: u64,
}

impl<S: 'static> Jobs<S> {
    /// How many there may be.
    pub(super) const MOST: usize = 1 << SLOT_BITS;

    pub(super) fn new() -> Jobs<S> {
        let (slots, made) = (Slab::new(), 0);
        Jobs { slots, made }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= Self::MOST
    }

    /// There is room: see [`Jobs::is_full`].
    pub(super) fn insert(&mut self, job: Job<S>) -> Id {
        // From 1 to 2^40 - 1, and again: 127 days at 100,000 a second.
        self.made = self.made % (Id::MAX >> SLOT_BITS) + 1;
        let slot = self.slots.vacant_entry();
        let id = self.made << SLOT_BITS | slot.key() as u64;
        slot.insert((id, job));
        id
    }

    fn slot(id: Id) -> usize {
        id as usize & (Self::MOST - 1)
    }

    pub(super) fn get(&self, id: Id) -> Option<&Job<S>> {
        let (of, job) = self.slots.get(Self::slot(id))?;
        (*of == id).then_some(job)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Job<S>> {
        let (of, job) = self.slots.get_mut(Self::slot(id))?;
        (*of == id).then_some(job)
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Job<S>> {
        self.get(id)?;
        self.slots.try_remove(Self::slot(id)).map(|(_, job)| job)
    }

    /// The deadlines that are set, in no order.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (Instant, Id)> {
        let all = self.slots.iter();
        all.filter_map(|(_, (id, job))| Some((job.due?.0, *id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(jobs: &mut Jobs<()>) -> Id {
        let job = Job::new(Instant::default(), Sink::Nobody, false, None);
        jobs.insert(job)
    }

    #[test]
    fn an_id_names_one_job() {
        let mut jobs = Jobs::new();
        let first = insert(&mut jobs);
        assert!(jobs.remove(first).is_some());
        let second = insert(&mut jobs);
        assert_eq!(Jobs::<()>::slot(first), Jobs::<()>::slot(second));
        assert!(jobs.get(first).is_none() && jobs.remove(first).is_none());
        assert!(jobs.get_mut(second).is_some());
        assert_eq!(jobs.len(), 1);
    }

    #[test]
    fn no_job_is_nobody() {
        let mut jobs = Jobs::new();
        assert!(jobs.get(NOBODY).is_none());
        jobs.made = (1 << 40) - 2;
        for _ in 0..3 {
            let id = insert(&mut jobs);
            assert_ne!(id, NOBODY);
            assert!(jobs.remove(id).is_some());
        }
    }
}
