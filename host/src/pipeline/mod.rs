//! The loop: read, judge, write, acknowledge. No other file names all the steps.
//!
//! Each step is a task. Bounded channels join them, so that batch n+1 is judged and n+2 is read
//! while batch n commits. What is read holds a permit until it is acknowledged: that bounds the
//! memory, stops reading while the database is away, and tells when nothing is in flight.
//!
//! - `in_flight`: batches on their way, and the slots for so many of them
//! - `read_stage`, `judge_stage`, `write_stage`, `ack_stage`: the stages
//! - `chunks`: limits how fast a tenant may make new chunks of its table
//! - `failure`: decides what is done about what PostgreSQL did not take
//! - `rejections`, `slow_rules`: log what was not stored, and rules that are too slow

mod ack_stage;
mod chunks;
mod in_flight;
mod judge_stage;
mod read_stage;
mod rejections;
mod slow_rules;
mod write_failure;
mod write_stage;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::config::Tenant;
use crate::judge::Rules;
use crate::log_limit::Reminder;
use crate::metrics::Counters;
use crate::otlp::TenantTraces;
use crate::store::{self, Store};
use crate::stream::{self, Acknowledger, Attempts, Reader};
use crate::tap::Tap;
use ack_stage::acknowledge;
use in_flight::Slots;
use judge_stage::{BatchJudge, judge_all};
use read_stage::ReadStage;
use rejections::RejectionLog;
use slow_rules::SlowRulesLog;
use sluicegate_verdicts::EntryId;
use write_stage::WriteStage;

/// The batches beyond those that commit: one being read, one being judged, one waiting to be
/// written, one being acknowledged.
const BATCHES_BESIDE_COMMITS: usize = 4;

/// The version of the rules that is in force; a new one takes effect with the next batch.
pub type RulesInForce = watch::Receiver<Arc<dyn Rules>>;

/// Why the pipeline stopped on its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis failed, and trying again cannot help.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// PostgreSQL failed, and trying again cannot help.
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    /// The service has a defect.
    #[error("a batch was dropped before it was acknowledged, and no stage said why")]
    Dropped,
    /// The service has a defect.
    #[error("a stage of the pipeline panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// All parts of the pipeline, ready to run.
pub struct Pipeline {
    pub reader: Reader,
    pub rules: RulesInForce,
    /// Whether somebody wants that nothing is read.
    pub is_paused: watch::Receiver<bool>,
    pub store: Store,
    /// The greatest ID that is known to have been decided.
    pub last_decided: Option<EntryId>,
    /// Whether the group was made now, and so delivers from the beginning.
    pub has_made_group: bool,
    pub acknowledger: Acknowledger,
    pub attempts: Attempts,
    pub counters: Arc<Counters>,
    pub(crate) tap: Arc<Tap>,
    /// What traces batches, where an endpoint is set.
    pub(crate) traces: Option<TenantTraces>,
}

impl Error {
    /// Returns whether another run has taken over what this one had in flight: a new one may begin.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_fenced())
    }
}

impl Error {
    /// Returns whether a server rejects the credentials.
    pub fn is_of_credentials(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_of_credentials(),
            Self::Store(error) => error.is_of_credentials(),
            Self::Dropped | Self::Panicked(_) => false,
        }
    }
}

/// How long the batches in flight may take to be committed and acknowledged after the shutdown.
/// What is not done by then stays pending for the next start.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns the largest number of batches that a tenant has in flight.
pub fn slots(tenant: &Tenant) -> usize {
    tenant.commits_in_flight + BATCHES_BESIDE_COMMITS
}

impl Pipeline {
    /// Runs until `shutdown` is called and everything read is acknowledged, or until trying again
    /// cannot help. After the shutdown, and after the first stage that fails, it waits for the others
    /// no longer than [`DRAIN_TIMEOUT`].
    pub async fn run(self, tenant: &Tenant, shutdown: CancellationToken) -> Result<(), Error> {
        let permits = slots(tenant);
        // The permits bound what the channels can hold.
        let (to_judge, read_batches) = mpsc::channel(permits);
        let (to_write, judged_batches) = mpsc::channel(permits);
        let (to_acknowledge, committed_batches) = mpsc::channel(permits);

        let mut stages = JoinSet::new();
        let counters = self.counters;
        let reading = ReadStage {
            reader: self.reader,
            commit_log: self.store.commit_log(),
            slots: Slots::new(permits),
            last_read: self.last_decided,
            // Others may be at work on what a group that is gone has delivered.
            fences_all_first: self.has_made_group && self.last_decided.is_some(),
            set_back: Reminder::default(),
            has_fenced_all: false,
            partial_batch_delay: tenant.partial_batch_delay.0,
            counters: Arc::clone(&counters),
            traces: self.traces,
            to_judge,
            to_acknowledge: to_acknowledge.clone(),
            is_paused: self.is_paused,
            shutdown: shutdown.clone(),
        };
        stages.spawn(reading.run().in_current_span());
        let (rejections, slow_rules) = (Arc::new(RejectionLog::default()), Arc::new(SlowRulesLog::default()));
        let judge = BatchJudge {
            max_deliveries: tenant.max_deliveries,
            attempts: self.attempts,
            counters: Arc::clone(&counters),
        };
        let writing = WriteStage {
            judge: judge.clone(),
            row_retry: tenant.row_retry(),
            known_weeks: Arc::default(),
            counters: Arc::clone(&counters),
            rejections: Arc::clone(&rejections),
            slow_rules: Arc::clone(&slow_rules),
            tap: self.tap,
            to_acknowledge,
        };
        let judging = judge_all(
            self.rules,
            judge,
            Arc::clone(&counters),
            rejections,
            slow_rules,
            read_batches,
            to_write,
        );
        stages.spawn(judging.in_current_span());
        let writers = (0..tenant.commits_in_flight).map(|_| self.store.writer()).collect();
        stages.spawn(writing.run(writers, judged_batches).in_current_span());
        stages.spawn(acknowledge(self.acknowledger, counters, committed_batches).in_current_span());

        let mut outcome = Ok(());
        let drained = async {
            while let Some(stage) = stages.join_next().await {
                if let Err(error) = stage.map_err(Error::from).flatten() {
                    shutdown.cancel();
                    // The first error is the reason of the others.
                    if outcome.is_ok() {
                        outcome = Err(error);
                    }
                }
            }
        };
        let deadline = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            () = drained => {}
            () = deadline => {
                tracing::warn!("not everything was committed in time; the rest stays pending for the next start");
            }
        }
        outcome
    }
}
