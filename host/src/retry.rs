//! Decides how long to wait before trying again, and how often to say so.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

/// The time between two log lines about the same trouble.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The longest delay of [`Backoff::slow`], before jitter.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Delays that grow from 50 ms to between 1 and 2 s, with jitter, so that
/// replicas do not come back all at once. A new value begins anew.
pub(crate) struct Backoff {
    delays: ExponentialBackoff,
    told: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .with_jitter();
        Self { delays: delays.build(), told: None }
    }
}

impl Backoff {
    /// Returns delays that grow from 1 s to between 30 and 60 s, as each attempt costs something.
    pub(crate) fn slow() -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(MAX_DELAY)
            .without_max_times()
            .with_jitter();
        Self { delays: delays.build(), told: None }
    }

    pub(crate) fn delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(MAX_DELAY)
    }

    /// Returns whether this failure is worth a log line: the first is, and then one every 10 s.
    pub(crate) fn should_log(&mut self) -> bool {
        let should_log = self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if should_log {
            self.told = Some(Instant::now());
        }
        should_log
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }

    /// Waits for the next delay, or for `shutdown`.
    pub(crate) async fn wait_unless(&mut self, shutdown: &CancellationToken) {
        tokio::select! {
            () = self.wait() => {}
            () = shutdown.cancelled() => {}
        }
    }
}
