//! The second stage: asks the rules.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};

use super::in_flight::{InFlight, JudgedBatch, ReadBatch, Work};
use super::rejections::RejectionLog;
use super::slow_rules::SlowRulesLog;
use super::{Error, RulesInForce};
use crate::batch::{Breaches, Judged};
use crate::batch_budget;
use crate::capabilities::{Effects, HostContext, Lost, Publication, TransactionRequests};
use crate::failpoint::failpoint;
use crate::judge::{self, Judgement, Rules};
use crate::metrics::{Counters, Stage};
use crate::stream::Attempts;
use sluicegate_verdicts::Entry;

/// Judges batch by batch, each by the version that is in force when it begins (invariant 6).
pub(super) async fn judge_all(
    mut in_force: RulesInForce,
    judge: BatchJudge,
    counters: Arc<Counters>,
    rejections: Arc<RejectionLog>,
    slow_rules: Arc<SlowRulesLog>,
    mut batches: mpsc::Receiver<ReadBatch>,
    to_write: mpsc::Sender<JudgedBatch>,
) -> Result<(), Error> {
    let mut last = in_force.borrow_and_update().version();
    counters.judged_by(last);
    // Rules that make much of little take one processor from the others, not a second one to write it,
    // and the disks bit by bit.
    let heavy_permits = Arc::new(Semaphore::new(1));
    while let Some(ReadBatch { entries, in_flight }) = batches.recv().await {
        let Ok(heavy_permit) = Arc::clone(&heavy_permits).acquire_owned().await else { break }; // never closed
        in_flight.keep_heavy_permit(heavy_permit);
        // After the wait: those of before it may not be in force any more.
        let rules = Arc::clone(&in_force.borrow_and_update());
        let version = rules.version();
        if version.digest != last.digest {
            tracing::info!(
                from = %last, to = %version,
                from_component = %last.component, component = %version.component,
                "rules swapped"
            );
            last = version;
            counters.judged_by(last);
        }
        let part = match rules.wants_transaction() {
            true => Work::Open(entries, rules),
            false => {
                let (judgement, _) = judge
                    .ask(Arc::clone(&rules), entries, &in_flight, HostContext::default(), |_| {
                        std::future::ready(())
                    })
                    .await?;
                // Without a transaction there is none to lose.
                let Ok(judgement) = judgement else { break };
                slow_rules.log(rules.as_ref(), &judgement);
                let Judgement { entries, breaches, restarts, .. } = judgement;
                counters.breached(breaches, restarts);
                rejections.log(&entries);
                if !is_heavy(breaches, &entries, &[]) {
                    in_flight.release_heavy_permit();
                }
                Work::Judged(entries)
            }
        };
        counters.passed(Stage::Judge, in_flight.read_at.elapsed());
        in_flight.trace(|trace| trace.passed(Stage::Judge, in_flight.read_at));
        if to_write.send(JudgedBatch { part, in_flight, at: Instant::now() }).await.is_err() {
            break; // a later stage failed
        }
    }
    Ok(())
}

/// Whether to write, to send or to tell what came of a batch is a good deal more work than its entries are.
pub(super) fn is_heavy(breaches: Breaches, batch: &[Judged], publications: &[Publication]) -> bool {
    !breaches.is_empty() || batch_budget::is_heavy(batch, publications)
}

/// How rules are asked.
#[derive(Clone)]
pub(super) struct BatchJudge {
    pub(super) max_deliveries: u64,
    pub(super) attempts: Attempts,
    pub(super) counters: Arc<Counters>,
}

impl BatchJudge {
    /// Asks the rules, and keeps a note in Redis meanwhile of the entries that are in hand.
    pub(super) async fn ask<F: Future<Output = ()>>(
        &self,
        rules: Arc<dyn Rules>,
        entries: Vec<Entry>,
        in_flight: &InFlight,
        context: HostContext,
        serve: impl FnOnce(TransactionRequests) -> F,
    ) -> Result<(Result<Judgement, Lost>, Effects), Error> {
        let in_hand = self.attempts.begin(&entries).await;
        let (version, begun) = (rules.version(), Instant::now());
        let asked = judge::ask(rules, self.max_deliveries, entries, context, serve).await?;
        self.counters.judged(begun.elapsed());
        in_flight.trace(|trace| trace.judged(version, begun));
        self.attempts.end(in_hand).await;
        failpoint!("after_judge");
        Ok(asked)
    }
}
