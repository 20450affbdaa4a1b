//! The last stage: acknowledges what is committed.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::Error;
use super::in_flight::{CommittedBatch, InFlight};
use crate::metrics::{Counters, Dependency, Stage};
use crate::retry::{Retry, Retryable as _};
use crate::stream::{Acknowledger, Unacknowledged};

/// Acknowledges what is committed, until Redis has it. Only then does it count.
///
/// Rules may have published what Redis refuses because it is out of memory. That holds up nothing
/// that is committed later. At most as many batches are here as may be in flight.
pub(super) async fn acknowledge(
    mut acknowledger: Acknowledger,
    counters: Arc<Counters>,
    mut batches: mpsc::Receiver<CommittedBatch>,
) -> Result<(), Error> {
    let mut retry =
        Retry::new("acknowledging failed; trying again").telling(counters.waiting_for(Dependency::Redis));
    let mut due: Vec<(Unacknowledged, Arc<InFlight>, Instant)> = Vec::new();
    // A heavy batch sends what it publishes bit by bit.
    let of = |CommittedBatch { committed, in_flight, at }| {
        (Unacknowledged::new(committed, in_flight.is_heavy()), in_flight, at)
    };
    loop {
        if due.is_empty() {
            let Some(batch) = batches.recv().await else { return Ok(()) };
            due.push(of(batch));
        }
        while let Ok(batch) = batches.try_recv() {
            due.push(of(batch));
        }
        let outcome = acknowledger.acknowledge(due.iter_mut().map(|(batch, ..)| batch)).await;
        for (batch, in_flight, committed_at) in due.extract_if(.., |(batch, ..)| batch.is_acknowledged()) {
            counters.passed(Stage::Acknowledge, committed_at.elapsed());
            in_flight.trace(|trace| {
                trace.passed(Stage::Acknowledge, committed_at);
                trace.ended(batch.tally());
            });
            in_flight.acknowledged(batch.entries());
            counters.ended(batch.tally(), in_flight.read_at.elapsed());
        }
        match outcome {
            Ok(()) => retry.succeeded(),
            Err(error) if error.is_permanent() => return Err(error.into()),
            Err(error) => {
                let delay = retry.failed(&error);
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    Some(batch) = batches.recv() => due.push(of(batch)),
                }
            }
        }
    }
}
