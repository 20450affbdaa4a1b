//! The live tap: shows those who watch a tenant a sample of what was committed.
//!
//! While nobody watches, a batch costs a look at a number. Otherwise the work of a second and the
//! memory have bounds, and nothing waits for a watcher: one who does not keep up is told how many
//! entries were left out.
//!
//! - `selection`: which entries somebody wants to see
//! - `watcher`: what waits for somebody who watches
//! - `event`: an entry as an event, cut to a bounded size

mod event;
mod selection;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::batch::{Ended, Judged, Tally};
pub(crate) use selection::{DEFAULT_RATE, MAX_RATE, Selection};
use watcher::Watcher;

/// How many may watch at the same time, all tenants together.
pub(crate) const MAX_WATCHERS: usize = 128;
/// The entries that all watchers of the process are given in a second, in equal shares.
const ENTRIES_PER_SECOND: u32 = 1_000;
/// The batches of a second of which PostgreSQL is asked which rows were new, for a tenant. Of others
/// that is known only where all rows were new, or none.
const EXACT_BATCHES_PER_SECOND: u32 = 20;
/// What is not told for so long is said to be alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The time between two events that tell what was left out.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The places of those who watch, which all tenants share.
#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WATCHERS)))
    }
}

impl Places {
    /// Returns how many entries each watcher may be given in a second.
    fn share(&self) -> u32 {
        let watchers = MAX_WATCHERS.saturating_sub(self.0.available_permits()).max(1);
        ENTRIES_PER_SECOND / u32::try_from(watchers).unwrap_or(u32::MAX)
    }
}

/// The tap of a tenant.
pub(crate) struct Tap {
    /// The number of watchers.
    count: AtomicUsize,
    watchers: RwLock<Vec<Arc<Watcher>>>,
    places: Places,
    exact_batches: Mutex<Second>,
    /// Ends all streams.
    closed: CancellationToken,
}

impl Tap {
    /// Makes a tap that is open until this token says otherwise.
    pub(crate) fn new(places: Places, closed: CancellationToken) -> Self {
        Self {
            count: AtomicUsize::new(0),
            watchers: RwLock::default(),
            places,
            exact_batches: Mutex::default(),
            closed,
        }
    }

    /// Lets somebody watch. Returns `None` if there are too many already.
    pub(crate) fn watch(self: &Arc<Self>, selection: Selection) -> Option<Watch> {
        let place = Arc::clone(&self.places.0).try_acquire_owned().ok()?;
        let left = selection.limit;
        let watcher = Arc::new(Watcher::new(selection));
        self.watchers.write().push(Arc::clone(&watcher));
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(Watch { tap: Arc::clone(self), watcher, left, told_at: None, _place: place })
    }

    fn is_watched(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Returns whether PostgreSQL should say which rows of the next batch are new, because somebody
    /// may be given one of them.
    pub(crate) fn wants_new_rows(&self) -> bool {
        if !self.is_watched() {
            return false;
        }
        let (now, share) = (Instant::now(), self.places.share());
        self.watchers.read().iter().any(|watcher| watcher.wants_rows(now, share))
            && self.exact_batches.lock().take(now, EXACT_BATCHES_PER_SECOND)
    }

    /// Shows a batch that is committed: how its entries ended, in all and each one where it is known.
    pub(crate) fn show(&self, batch: &[Judged], tally: Tally, ends: &[Option<Ended>]) {
        // Nothing is known of entries that were committed before.
        if batch.is_empty() || !self.is_watched() {
            return;
        }
        let (now, share) = (Instant::now(), self.places.share());
        let mut encoded = Encoded::default();
        for watcher in self.watchers.read().iter() {
            for (at, ended) in watcher.pick(batch, tally, ends, now, share) {
                if let Some(judged) = batch.get(at) {
                    watcher.push(encoded.event(at, judged, ended, watcher.selection.with_payload));
                }
            }
        }
    }
}

/// The entries of a batch that were encoded, which happens once for all who are given one.
#[derive(Default)]
struct Encoded(Vec<(usize, bool, Bytes)>);

impl Encoded {
    fn event(&mut self, at: usize, judged: &Judged, ended: Ended, with_payload: bool) -> Bytes {
        let known = self.0.iter().find(|(other, payload, _)| (*other, *payload) == (at, with_payload));
        if let Some((.., event)) = known {
            return event.clone();
        }
        let event = event::entry(judged, ended, with_payload);
        self.0.push((at, with_payload, event.clone()));
        event
    }
}

/// Somebody who watches, until this is dropped.
pub(crate) struct Watch {
    tap: Arc<Tap>,
    watcher: Arc<Watcher>,
    /// How many entries more are wanted.
    left: u64,
    /// When it was told last what was left out.
    told_at: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// Waits for the next event, or for the time to say that the stream is alive. Returns `None` at the
    /// end: the tenant is not served any more, or all that was wanted was given.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.left == 0 || self.tap.closed.is_cancelled() {
                return None;
            }
            let tells_from = self.told_at.map(|told_at| told_at + TELL_EVERY);
            let is_due = tells_from.is_none_or(|from| from <= Instant::now());
            if is_due && let Some(event) = self.watcher.take_left_out() {
                self.told_at = Some(Instant::now());
                return Some(event);
            }
            if let Some(event) = self.watcher.take() {
                self.left -= 1;
                return Some(event);
            }
            let wait = match tells_from.filter(|_| self.watcher.has_left_out()) {
                Some(from) => from.saturating_duration_since(Instant::now()),
                None => KEEP_ALIVE,
            };
            tokio::select! {
                () = self.tap.closed.cancelled() => return None,
                () = self.watcher.ready() => {}
                () = tokio::time::sleep(wait) => {
                    if !self.watcher.has_left_out() {
                        return Some(event::ALIVE);
                    }
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tap.watchers.write().retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.tap.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts what was used up in the running second.
#[derive(Debug, Default)]
struct Second {
    begun: Option<Instant>,
    used: u32,
}

impl Second {
    /// Returns how much of the limit is left.
    fn left(&mut self, now: Instant, limit: u32) -> u32 {
        if self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= Duration::from_secs(1)) {
            *self = Self { begun: Some(now), used: 0 };
        }
        limit.saturating_sub(self.used)
    }

    /// Takes one, if one is left.
    fn take(&mut self, now: Instant, limit: u32) -> bool {
        let is_left = self.left(now, limit) > 0;
        self.used += u32::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests;
