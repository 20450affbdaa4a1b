//! The first stage: reads from the stream, and looks up what was committed before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::in_flight::{CommittedBatch, InFlight, ReadBatch, Slot, Slots};
use crate::log_limit::Reminder;
use crate::metrics::{Counters, Dependency};
use crate::otlp::TenantTraces;
use crate::retry::Retry;
use crate::store::CommitLog;
use crate::stream::{Pending, Read, Reader};
use sluicegate_verdicts::{Entry, EntryId};

pub(super) struct ReadStage {
    pub(super) reader: Reader,
    pub(super) commit_log: CommitLog,
    pub(super) slots: Slots,
    /// The greatest ID that is known to have been delivered.
    pub(super) last_read: Option<EntryId>,
    /// Whether all others are to be fenced before the first read.
    pub(super) fences_all_first: bool,
    /// Limits the log lines that say that the group was set back.
    pub(super) set_back: Reminder,
    /// Whether all others were fenced since the group was set back.
    pub(super) has_fenced_all: bool,
    pub(super) partial_batch_delay: Duration,
    pub(super) counters: Arc<Counters>,
    pub(super) traces: Option<TenantTraces>,
    pub(super) to_judge: mpsc::Sender<ReadBatch>,
    /// Takes what was committed before.
    pub(super) to_acknowledge: mpsc::Sender<CommittedBatch>,
    /// Whether somebody wants that nothing is read.
    pub(super) is_paused: watch::Receiver<bool>,
    pub(super) shutdown: CancellationToken,
}

impl ReadStage {
    /// Reads until the shutdown. Then it closes the channels, and the other stages run empty.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        if self.fences_all_first {
            self.has_fenced_all = self.fence(None).await?;
        }
        let mut retry = Retry::new("reading failed; trying again")
            .telling(self.counters.waiting_for(Dependency::Redis))
            .until(&self.shutdown);
        while let Some(slot) = self.slots.take(self.reader.quiet(), &self.shutdown).await {
            self.until_resumed().await;
            if self.shutdown.is_cancelled() {
                break;
            }
            let read = match self.read(slot).await {
                Err(Error::Stream(error)) => Err(error),
                read => Ok(read?),
            };
            match retry.after(read).await? {
                Some(ReadOutcome::Read { is_partial: true }) => {
                    pause(self.partial_batch_delay, &self.shutdown).await;
                }
                Some(ReadOutcome::Read { is_partial: false }) | None => {}
                Some(ReadOutcome::StageFailed) => break,
            }
        }
        Ok(())
    }

    /// Waits for as long as somebody wants that nothing is read, or until the shutdown.
    async fn until_resumed(&mut self) {
        if !*self.is_paused.borrow_and_update() {
            return;
        }
        self.counters.paused(true);
        let is_paused = &mut self.is_paused;
        let resumed = async {
            // Who could resume may be gone; then nothing is read until the shutdown.
            if is_paused.wait_for(|is_paused| !is_paused).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = resumed => {}
            () = self.shutdown.cancelled() => {}
        }
        self.counters.paused(false);
    }

    /// Reads into this slot, and passes on what nobody has decided yet.
    async fn read(&mut self, slot: Slot) -> Result<ReadOutcome, Error> {
        // The reader decides by what it wants now, not by what it wanted before the slot was taken.
        let is_in_flight = |id| self.slots.hold(id);
        let read = self.reader.read(slot.is_alone, &is_in_flight, &self.shutdown).await;
        self.counters.lost(self.reader.take_lost());
        // Any replica may have been given that.
        self.last_read = self.last_read.max(Some(self.reader.last_delivered()));
        let (entries, in_flight, is_partial) = match read? {
            Read::Nothing => return Ok(ReadOutcome::Read { is_partial: false }),
            Read::GroupIsGone => return self.make_group_again().await,
            Read::New { entries, is_partial, was_set_back, owners } => {
                let in_flight = self.in_flight(slot, &entries);
                let (first, last) =
                    (entries.first().map(|entry| entry.id), entries.last().map(|entry| entry.id));
                if was_set_back {
                    self.has_fenced_all = false; // once more, perhaps
                }
                let entries = match first <= self.last_read || was_set_back || !owners.is_empty() {
                    true => self.lookup_set_back(entries, &owners, &in_flight).await?,
                    false => {
                        self.commit_log.rest();
                        self.has_fenced_all = false;
                        entries
                    }
                };
                self.last_read = last.max(self.last_read);
                (entries, in_flight, is_partial)
            }
            Read::Pending(pending) => {
                // The owners are fenced before the entries are taken. The other way round, a take
                // whose reply is lost would leave the entries here, and hide whose they were.
                let owners = pending.iter().map(Pending::owner).collect();
                if !self.fence(Some(&owners)).await? {
                    return Ok(ReadOutcome::Read { is_partial: false });
                }
                let entries = self.reader.take(&pending, &self.shutdown).await?;
                let in_flight = self.in_flight(slot, &entries);
                (self.lookup(entries, &in_flight).await?, in_flight, false)
            }
        };
        if !entries.is_empty() && self.to_judge.send(ReadBatch { entries, in_flight }).await.is_err() {
            return Ok(ReadOutcome::StageFailed);
        }
        Ok(ReadOutcome::Read { is_partial })
    }

    fn in_flight(&self, slot: Slot, entries: &[Entry]) -> Arc<InFlight> {
        self.counters.delivered(entries.len());
        let trace = self.traces.as_ref().and_then(|traces| traces.begin(entries));
        Arc::new(InFlight::new(slot, entries, self.shutdown.clone(), trace))
    }

    /// Returns the entries that nobody has decided yet. The others were committed before, and are
    /// acknowledged. If the shutdown comes first, neither happens, and they stay pending.
    async fn lookup(&mut self, entries: Vec<Entry>, in_flight: &Arc<InFlight>) -> Result<Vec<Entry>, Error> {
        if entries.is_empty() {
            return Ok(entries);
        }
        let mut retry = self.lookups();
        let (committed, new) = loop {
            if self.shutdown.is_cancelled() {
                return Ok(Vec::new());
            }
            if let Some(found) = retry.after(self.commit_log.lookup(&entries).await).await? {
                break found;
            }
        };
        if !committed.ids().is_empty() {
            tracing::info!(entries = committed.ids().len(), "committed before; acknowledging");
            // A closed channel: acknowledging failed for good. The entries stay pending.
            let _ = self.to_acknowledge.send(CommittedBatch::new(committed, in_flight)).await;
        }
        Ok(new)
    }

    /// Makes the group again when nobody can be at work any more on what it will deliver.
    async fn make_group_again(&mut self) -> Result<ReadOutcome, Error> {
        if !self.fence(None).await? {
            return Ok(ReadOutcome::Read { is_partial: false });
        }
        self.has_fenced_all = true;
        self.reader.make_group_again().await?;
        Ok(ReadOutcome::Read { is_partial: false })
    }

    /// Looks up entries that the group gives again as new ones: somebody has set it back, or Redis
    /// has gone back in time. Redis told who had them pending, if it still knew.
    async fn lookup_set_back(
        &mut self,
        entries: Vec<Entry>,
        owners: &BTreeSet<String>,
        in_flight: &Arc<InFlight>,
    ) -> Result<Vec<Entry>, Error> {
        let found = entries.len();
        if !owners.is_empty() && !self.fence(Some(owners)).await? {
            return Ok(Vec::new());
        }
        let mut new = self.lookup(entries, in_flight).await?;
        if !new.is_empty() && !std::mem::replace(&mut self.has_fenced_all, true) {
            // They may be in flight elsewhere, nobody knows where, since before it was set back.
            if !self.fence(None).await? {
                return Ok(Vec::new());
            }
            new = self.lookup(new, in_flight).await?;
        }
        if self.set_back.is_due() {
            tracing::warn!(
                entries = found,
                known = found - new.len(),
                "entries that were delivered before come again as new ones: was the group set back? Those that are \
                 known to be decided are acknowledged, and the rules are asked about the others"
            );
        }
        Ok(new)
    }

    /// Fences these consumers, or all others. Returns `false` if the shutdown comes first.
    async fn fence(&mut self, owners: Option<&BTreeSet<String>>) -> Result<bool, Error> {
        let mut retry = self.lookups();
        while !self.shutdown.is_cancelled() {
            if retry.after(self.commit_log.fence(owners).await).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lookups(&self) -> Retry {
        Retry::new("looking up what was committed failed; trying again")
            .telling(self.counters.waiting_for(Dependency::Postgres))
            .until(&self.shutdown)
    }
}

enum ReadOutcome {
    Read {
        /// Whether a pause makes the next batch fuller.
        is_partial: bool,
    },
    /// A later stage has failed, which says why.
    StageFailed,
}

async fn pause(delay: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = shutdown.cancelled() => {}
    }
}
