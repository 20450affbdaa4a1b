//! A batch on its way from one stage to the next, and the places for so many of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::batch::{Entry, Judged};
use crate::judge::Rules;
use crate::store::Committed;
use crate::surplus;

/// A batch on its way, with what belongs to the whole of it.
///
/// Shared, because a batch can commit in parts. The last of them gives the place back.
pub(super) struct Flight {
    pub(super) read_at: Instant,
    pub(super) place: Place,
    /// The tenant's only one, if it is [not much less](super::judge::is_effort): no other batch is judged meanwhile.
    effort: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Flight {
    pub(super) fn new(place: Place) -> Self {
        Self { read_at: Instant::now(), place, effort: Mutex::default() }
    }

    /// Keeps it until all of the batch is acknowledged.
    pub(super) fn keep_effort(&self, effort: OwnedSemaphorePermit) {
        *self.effort.lock().unwrap_or_else(PoisonError::into_inner) = Some(effort);
    }

    /// Lets the next batch be judged.
    pub(super) fn end_effort(&self) {
        self.effort.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

pub(super) struct ReadBatch {
    pub(super) entries: Vec<Entry>,
    pub(super) flight: Arc<Flight>,
}

pub(super) struct JudgedBatch {
    pub(super) part: Part,
    pub(super) flight: Arc<Flight>,
}

/// A batch, or what is left of it after it was split.
pub(super) enum Part {
    /// What is to become of each entry is known.
    Judged(Vec<Judged>),
    /// The rules write too: they are asked within the transaction, by this version.
    Open(Vec<Entry>, Arc<dyn Rules>),
}

impl Part {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Judged(entries) => entries.len(),
            Self::Open(entries, _) => entries.len(),
        }
    }

    /// What is written at once, the first at the end.
    pub(super) fn portions(self) -> Vec<Self> {
        match self {
            Self::Judged(entries) => surplus::portions(entries).into_iter().rev().map(Self::Judged).collect(),
            Self::Open(..) => vec![self],
        }
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
    pub(super) flight: Arc<Flight>,
}

/// The places of batches in flight, so many and no more.
#[derive(Clone)]
pub(super) struct Places {
    permits: Arc<Semaphore>,
    /// The numbers of the free ones, at least as many as there are permits.
    free: Arc<Mutex<Vec<i32>>>,
    count: u32,
}

/// A place among those in flight, with a number that no other has at the same time.
pub(super) struct Place {
    pub(super) number: i32,
    free: Arc<Mutex<Vec<i32>>>,
    /// After the drop, which gives the number back.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        // A setting of at most 64 and a few.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let free = (0..i32::try_from(count).unwrap_or(i32::MAX)).rev().collect();
        let permits = usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(permits)), free: Arc::new(Mutex::new(free)), count }
    }

    /// A place for a batch; if `quiet`, not before all others are free. `None` after the shutdown.
    pub(super) async fn take(&self, quiet: bool, shutdown: &CancellationToken) -> Option<Place> {
        let wanted = if quiet { self.count } else { 1 };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            permit = Arc::clone(&self.permits).acquire_many_owned(wanted) => {
                let mut permit = permit.ok()?; // never closed
                permit.split(permit.num_permits().saturating_sub(1));
                let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
                Some(Place { number, free: Arc::clone(&self.free), _permit: permit })
            }
        }
    }
}
