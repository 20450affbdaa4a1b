//! Logs rules that are too slow for a whole batch.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::batch::Version;
use crate::judge::{Judgement, Rules};

/// The time after which one version is reported again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Tells that batches take too long and are halved: it costs throughput, and nothing is lost.
#[derive(Default)]
pub(super) struct SlowRulesLog(Mutex<Option<(Version, Instant)>>);

impl SlowRulesLog {
    pub(super) fn log(&self, rules: &dyn Rules, judgement: &Judgement) {
        let Some(entries) = judgement.too_many_at_once else { return };
        let mut told = self.0.lock();
        let version = rules.version();
        if told.is_some_and(|(told, at)| told == version && at.elapsed() < AGAIN_AFTER) {
            return;
        }
        *told = Some((version, Instant::now()));
        tracing::warn!(
            %version,
            guest = %version.component,
            "a batch of {entries} entries took the guest longer than {} ms (GUEST_TIME_LIMIT) and was halved, which costs \
             time for each batch; set BATCH_SIZE to about {}, or the limit higher",
            rules.time_limit().as_millis(),
            entries / 2
        );
    }
}
