//! The last stage.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Error;
use super::flight::CommittedBatch;
use crate::metrics::{Counters, Server};
use crate::retry::Backoff;
use crate::stream::Acknowledger;

/// Acknowledges what is committed, until Redis has it. Only then does it count.
pub(super) async fn acknowledge(
    mut acknowledger: Acknowledger,
    counters: Arc<Counters>,
    mut batches: mpsc::Receiver<CommittedBatch>,
) -> Result<(), Error> {
    let mut backoff = Backoff::default();
    while let Some(first) = batches.recv().await {
        let mut flights = vec![first.flight];
        let mut committed = vec![first.committed];
        while let Ok(next) = batches.try_recv() {
            flights.push(next.flight);
            committed.push(next.committed);
        }
        while let Err(error) = acknowledger.acknowledge(&committed).await {
            if error.is_permanent() {
                return Err(error.into());
            }
            counters.waits_for(Server::Redis, true);
            if backoff.is_news() {
                tracing::warn!(%error, "acknowledging failed; trying again");
            }
            backoff.wait().await;
        }
        backoff = Backoff::default();
        counters.waits_for(Server::Redis, false);
        for (committed, flight) in committed.iter().zip(flights) {
            flight.acknowledged(committed.ids().len());
            counters.ended(committed.tally(), flight.read_at.elapsed());
        }
    }
    Ok(())
}
