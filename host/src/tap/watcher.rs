//! What waits for somebody who watches, and what was left out.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{self, LeftOut};
use super::{Second, Selection};
use crate::batch::{Ended, Judged, Tally};

/// The bytes that wait for one watcher. All watchers together hold 8 MiB at most.
pub(super) const QUEUE_BYTES: usize = 64 << 10;
/// The events that wait for one watcher.
const QUEUE_EVENTS: usize = 128;

/// Somebody who watches, as the data path sees it.
pub(super) struct Watcher {
    pub(super) selection: Selection,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// The entries that were wanted before any were left out.
    seen: u64,
    second: Second,
    left_out: LeftOut,
}

impl State {
    fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_EVENTS || self.bytes + event::MAX_BYTES > QUEUE_BYTES
    }
}

impl Watcher {
    pub(super) fn new(selection: Selection) -> Self {
        Self { selection, state: Mutex::default(), ready: Notify::new() }
    }

    /// Returns whether the next batch may have an entry with rows for this watcher.
    pub(super) fn wants_rows(&self, now: Instant, share: u32) -> bool {
        let mut state = self.state.lock();
        let rate = self.selection.rate.min(share);
        self.selection.wants_rows() && !state.is_full() && state.second.left(now, rate) > 0
    }

    /// Picks entries of a batch, and counts what is left out.
    pub(super) fn pick(
        &self,
        batch: &[Judged],
        tally: Tally,
        ends: &[Option<Ended>],
        now: Instant,
        share: u32,
    ) -> Vec<(usize, Ended)> {
        let Selection { one_in, rate, .. } = self.selection;
        let found = self.selection.count(batch, tally);
        let mut state = self.state.lock();
        let state = &mut *state;
        // They are numbered, and those whose number is a multiple are wanted.
        let next_multiple = |number: u64| number.div_ceil(one_in);
        let wanted = next_multiple(state.seen + found) - next_multiple(state.seen);
        if wanted == 0 {
            state.seen += found;
            return Vec::new();
        }
        let is_full = state.is_full();
        let room = if is_full { 0 } else { state.second.left(now, rate.min(share)) };
        let mut picked = Vec::new();
        if room > 0 {
            let most = usize::try_from(room).unwrap_or(usize::MAX);
            let is_wanted = |(at, judged): (usize, &Judged)| {
                let ended = ends.get(at).copied().flatten()?;
                self.selection.wants(judged, ended).then_some((at, ended))
            };
            let numbered = (state.seen..).zip(batch.iter().enumerate().filter_map(is_wanted));
            let multiples = numbered.filter(|(number, _)| number % one_in == 0).map(|(_, entry)| entry);
            picked.extend(multiples.take(most));
        }
        state.seen += found;
        state.second.used += u32::try_from(picked.len()).unwrap_or(u32::MAX);
        let left_out = wanted.saturating_sub(u64::try_from(picked.len()).unwrap_or(u64::MAX));
        match is_full {
            true => state.left_out.slow += left_out,
            false => state.left_out.rate += left_out,
        }
        picked
    }

    /// Puts an event into the queue, or leaves it out if there is no room.
    pub(super) fn push(&self, event: Bytes) {
        let mut state = self.state.lock();
        if state.is_full() {
            state.left_out.slow += 1;
            return;
        }
        state.bytes += event.len();
        state.queue.push_back(event);
        drop(state);
        self.ready.notify_one();
    }

    /// Waits until something was put into the queue.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    pub(super) fn take(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        let event = state.queue.pop_front()?;
        state.bytes = state.bytes.saturating_sub(event.len());
        Some(event)
    }

    pub(super) fn has_left_out(&self) -> bool {
        self.state.lock().left_out != LeftOut::default()
    }

    /// Returns the event that tells what was left out since the last one.
    pub(super) fn take_left_out(&self) -> Option<Bytes> {
        let left_out = std::mem::take(&mut self.state.lock().left_out);
        (left_out != LeftOut::default()).then(|| event::dropped(left_out))
    }

    #[cfg(test)]
    pub(super) fn begin_second(&self) {
        self.state.lock().second = Second::default();
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().queue.iter().map(Bytes::len).sum()
    }
}
