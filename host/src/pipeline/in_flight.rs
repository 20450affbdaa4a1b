//! Batches on their way from one stage to the next, and the slots for so many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::batch::Judged;
use crate::batch_budget;
use crate::judge::Rules;
use crate::otlp::BatchTrace;
use crate::store::Committed;
use crate::stream::Quiet;
use sluicegate_verdicts::{Entry, EntryId};

/// How long a batch that should be alone waits for those in flight, unless it must be alone. One of
/// them may wait for somebody's lock, for hours.
const QUIET_TIMEOUT: Duration = Duration::from_secs(10);

/// A batch on its way, with what belongs to the whole of it. It is shared, because a batch can
/// commit in parts. The last of them gives the slot back.
///
/// If it is dropped before all of its entries are acknowledged, a stage has failed. Then it ends
/// the run, and only after that gives the slot back: what is read after a failure would count as
/// delivered once more, and be judged by nobody.
pub(super) struct InFlight {
    pub(super) read_at: Instant,
    pub(super) slot: Slot,
    /// The number of entries that are not acknowledged yet.
    pending: AtomicUsize,
    run: CancellationToken,
    /// Where the batch is traced.
    trace: Option<BatchTrace>,
    /// While a [heavy](super::judge_stage::is_heavy) batch keeps it, no other batch is judged.
    heavy_permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl InFlight {
    /// Holds these entries in a slot, in a run that this token ends.
    pub(super) fn new(
        slot: Slot,
        entries: &[Entry],
        run: CancellationToken,
        trace: Option<BatchTrace>,
    ) -> Self {
        slot.hold(entries);
        let (read_at, pending) = (Instant::now(), AtomicUsize::new(entries.len()));
        Self { read_at, slot, pending, run, trace, heavy_permit: Mutex::default() }
    }

    /// Tells the trace, if there is one.
    pub(super) fn trace(&self, tell: impl FnOnce(&BatchTrace)) {
        if let Some(trace) = &self.trace {
            tell(trace);
        }
    }

    /// Counts so many of the entries as acknowledged.
    pub(super) fn acknowledged(&self, entries: usize) {
        self.pending.fetch_sub(entries, Ordering::Relaxed);
    }

    /// Keeps the permit until all of the batch is acknowledged.
    pub(super) fn keep_heavy_permit(&self, heavy_permit: OwnedSemaphorePermit) {
        *self.heavy_permit.lock() = Some(heavy_permit);
    }

    /// Returns whether the permit is kept.
    pub(super) fn is_heavy(&self) -> bool {
        self.heavy_permit.lock().is_some()
    }

    /// Waits before the next part of the batch is written, unless the run comes to its end.
    pub(super) async fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            let _ended = tokio::time::timeout(pause, self.run.cancelled()).await;
        }
    }

    /// Lets the next batch be judged.
    pub(super) fn release_heavy_permit(&self) {
        self.heavy_permit.lock().take();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if *self.pending.get_mut() > 0 {
            self.run.cancel();
            self.trace(BatchTrace::lost);
        }
    }
}

pub(super) struct ReadBatch {
    pub(super) entries: Vec<Entry>,
    pub(super) in_flight: Arc<InFlight>,
}

pub(super) struct JudgedBatch {
    pub(super) part: Work,
    pub(super) in_flight: Arc<InFlight>,
    /// When it could be written.
    pub(super) at: Instant,
}

/// A batch, or what is left of it after it was split.
pub(super) enum Work {
    /// What is to become of each entry is known.
    Judged(Vec<Judged>),
    /// The rules write too, so this version is asked within the transaction.
    Open(Vec<Entry>, Arc<dyn Rules>),
}

impl Work {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Judged(entries) => entries.len(),
            Self::Open(entries, _) => entries.len(),
        }
    }

    /// Returns what is to become of each entry, if it is known.
    pub(super) fn judged(&self) -> Option<&[Judged]> {
        match self {
            Self::Judged(entries) => Some(entries),
            Self::Open(..) => None,
        }
    }

    /// Returns the parts that are each written at once, the first at the end.
    pub(super) fn split_to_budget(self) -> Vec<Self> {
        match self {
            Self::Judged(entries) => {
                batch_budget::split_to_budget(entries).into_iter().rev().map(Self::Judged).collect()
            }
            Self::Open(..) => vec![self],
        }
    }

    /// Returns whether a row of this part has the key of a row of the other.
    pub(super) fn has_key_of(&self, other: &Self) -> bool {
        let keys = |part: &Self| match part {
            Self::Judged(entries) => entries.iter().flat_map(Judged::keys).collect(),
            // The keys are not known yet.
            Self::Open(..) => BTreeSet::new(),
        };
        !keys(self).is_disjoint(&keys(other))
    }

    /// Splits off the second half.
    pub(super) fn halve(&mut self) -> Self {
        match self {
            Self::Judged(entries) => Self::Judged(entries.split_off(entries.len() / 2)),
            Self::Open(entries, rules) => Self::Open(entries.split_off(entries.len() / 2), Arc::clone(rules)),
        }
    }
}

pub(super) struct CommittedBatch {
    pub(super) committed: Committed,
    pub(super) in_flight: Arc<InFlight>,
    /// When it was known to be committed.
    pub(super) at: Instant,
}

impl CommittedBatch {
    pub(super) fn new(committed: Committed, in_flight: &Arc<InFlight>) -> Self {
        Self { committed, in_flight: Arc::clone(in_flight), at: Instant::now() }
    }
}

/// The slots of batches in flight, in a limited number.
#[derive(Clone)]
pub(super) struct Slots {
    permits: Arc<Semaphore>,
    held: Arc<Mutex<Held>>,
    count: u32,
}

struct Held {
    /// The numbers of the free slots, at least as many as there are permits.
    free: Vec<i32>,
    /// The IDs of each batch in flight, in their order, by the number of its slot.
    ids: BTreeMap<i32, Vec<EntryId>>,
}

/// A slot among those in flight, with a number that no other has at the same time.
pub(super) struct Slot {
    pub(super) number: i32,
    /// Whether no other batch was in flight when the slot was taken.
    pub(super) is_alone: bool,
    held: Arc<Mutex<Held>>,
    /// It is released after the drop, which gives the number back.
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn hold(&self, entries: &[Entry]) {
        let ids = entries.iter().map(|entry| entry.id).collect();
        self.held.lock().ids.insert(self.number, ids);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.ids.remove(&self.number);
        held.free.push(self.number);
    }
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        // This is a setting of at most 64, and a few more.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let free = (0..i32::try_from(count).unwrap_or(i32::MAX)).rev().collect();
        let permits = usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS);
        let held = Arc::new(Mutex::new(Held { free, ids: BTreeMap::new() }));
        Self { permits: Arc::new(Semaphore::new(permits)), held, count }
    }

    /// Returns whether a batch in flight has this entry.
    pub(super) fn hold(&self, id: EntryId) -> bool {
        let held = self.held.lock();
        held.ids.values().any(|ids| ids.binary_search(&id).is_ok())
    }

    /// Takes a slot for a batch. Returns `None` after the shutdown.
    pub(super) async fn take(&self, quiet: Quiet, shutdown: &CancellationToken) -> Option<Slot> {
        let all = self.take_of(self.count, shutdown);
        match quiet {
            Quiet::Needed => all.await,
            Quiet::Wanted => match tokio::time::timeout(QUIET_TIMEOUT, all).await {
                Ok(slot) => slot,
                Err(_) => self.take_of(1, shutdown).await,
            },
            Quiet::NotWanted => self.take_of(1, shutdown).await,
        }
    }

    async fn take_of(&self, wanted: u32, shutdown: &CancellationToken) -> Option<Slot> {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            permit = Arc::clone(&self.permits).acquire_many_owned(wanted) => {
                let mut permit = permit.ok()?; // never closed
                permit.split(permit.num_permits().saturating_sub(1));
                let mut held = self.held.lock();
                let (number, is_alone) = (held.free.pop()?, held.ids.is_empty());
                drop(held);
                Some(Slot { number, is_alone, held: Arc::clone(&self.held), _permit: permit })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(sequences: std::ops::Range<u64>) -> Vec<Entry> {
        let entry = |sequence| Entry { id: id(sequence), fields: None, deliveries: 1 };
        sequences.map(entry).collect()
    }

    fn id(sequence: u64) -> EntryId {
        EntryId { milliseconds: 1, sequence }
    }

    #[tokio::test]
    async fn what_is_in_flight_is_known() {
        let (slots, run) = (Slots::new(2), CancellationToken::new());
        let first = slots.take(Quiet::NotWanted, &run).await.expect("a slot");
        assert!(first.is_alone);
        let first = InFlight::new(first, &entries(0..3), run.clone(), None);
        let second = slots.take(Quiet::NotWanted, &run).await.expect("a slot");
        assert!(!second.is_alone);
        let second = InFlight::new(second, &entries(5..6), run.clone(), None);
        assert_eq!(
            [0, 2, 3, 5, 6].map(|sequence| slots.hold(id(sequence))),
            [true, true, false, true, false]
        );
        drop(first);
        assert_eq!([0, 5].map(|sequence| slots.hold(id(sequence))), [false, true]);
        drop(second);
    }

    #[tokio::test]
    async fn a_batch_that_is_lost_ends_the_run_before_its_place_is_free() {
        let (slots, run) = (Slots::new(1), CancellationToken::new());
        let slot = slots.take(Quiet::Needed, &run).await.expect("a slot");
        let in_flight = InFlight::new(slot, &entries(0..3), run.clone(), None);
        in_flight.acknowledged(2);
        in_flight.acknowledged(1);
        drop(in_flight);
        assert!(!run.is_cancelled(), "all of it was acknowledged");

        let slot = slots.take(Quiet::Needed, &run).await.expect("the slot again");
        let in_flight = InFlight::new(slot, &entries(0..3), run.clone(), None);
        in_flight.acknowledged(2);
        drop(in_flight);
        assert!(run.is_cancelled());
        assert!(slots.take(Quiet::Needed, &run).await.is_none(), "nothing more is read");
    }
}
