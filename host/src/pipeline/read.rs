//! The first stage: reads from the stream, and looks up what was committed before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::flight::{CommittedBatch, Flight, Places, ReadBatch};
use crate::batch::Entry;
use crate::metrics::{Counters, Server};
use crate::retry::Backoff;
use crate::store::{Records, Remedy};
use crate::stream::{Read, Reader};

pub(super) struct Reading {
    pub(super) reader: Reader,
    pub(super) records: Records,
    pub(super) places: Places,
    pub(super) partial_batch_delay: Duration,
    pub(super) counters: Arc<Counters>,
    pub(super) to_judge: mpsc::Sender<ReadBatch>,
    /// For what was committed before.
    pub(super) to_acknowledge: mpsc::Sender<CommittedBatch>,
    pub(super) shutdown: CancellationToken,
}

impl Reading {
    /// Reads until the shutdown; closing the channels then lets the other stages run empty.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        while let Some(place) = self.places.take(self.reader.quiet(), &self.shutdown).await {
            // One decision: what is wanted now, and not what was wanted before the place was there.
            let is_in_flight = |id| self.places.hold(id);
            match self.reader.read(place.is_alone, &is_in_flight, &self.shutdown).await {
                Ok(Read { entries, is_partial, owners }) => {
                    backoff = Backoff::default();
                    self.counters.waits_for(Server::Redis, false);
                    self.counters.delivered(entries.len());
                    let flight = Arc::new(Flight::new(place, &entries, self.shutdown.clone()));
                    let entries = match owners.is_empty() {
                        false => self.recall(entries, &owners, &flight).await?,
                        true => {
                            self.records.rest();
                            entries
                        }
                    };
                    let is_empty = entries.is_empty();
                    if !is_empty && self.to_judge.send(ReadBatch { entries, flight }).await.is_err() {
                        break; // a later stage failed
                    }
                    if is_partial && !is_empty {
                        pause(self.partial_batch_delay, &self.shutdown).await;
                    }
                }
                Err(error) if error.is_permanent() => return Err(error.into()),
                Err(error) => {
                    self.counters.waits_for(Server::Redis, true);
                    if backoff.is_news() && !self.shutdown.is_cancelled() {
                        tracing::warn!(%error, "reading failed; trying again");
                    }
                    backoff.wait_unless(&self.shutdown).await;
                }
            }
        }
        Ok(())
    }

    /// Those of the entries that nobody has decided yet; the others were
    /// committed before, and are acknowledged. None of either when the shutdown
    /// comes first: they stay pending.
    async fn recall(
        &mut self,
        entries: Vec<Entry>,
        owners: &BTreeSet<String>,
        flight: &Arc<Flight>,
    ) -> Result<Vec<Entry>, Error> {
        if entries.is_empty() {
            return Ok(entries);
        }
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            match self.records.recall(&entries, owners).await {
                Ok((committed, new)) => {
                    self.counters.waits_for(Server::Postgres, false);
                    if !committed.ids().is_empty() {
                        tracing::info!(entries = committed.ids().len(), "committed before; acknowledging");
                        let flight = Arc::clone(flight);
                        // A closed channel: acknowledging failed for good. The entries stay pending.
                        let _ = self.to_acknowledge.send(CommittedBatch { committed, flight }).await;
                    }
                    return Ok(new);
                }
                Err(error) if matches!(error.remedy(), Remedy::Retry | Remedy::Split) => {
                    self.counters.waits_for(Server::Postgres, true);
                    if backoff.is_news() {
                        tracing::warn!(%error, "recalling what was committed failed; trying again");
                    }
                    backoff.wait_unless(&self.shutdown).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Vec::new())
    }
}

async fn pause(delay: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = shutdown.cancelled() => {}
    }
}
