//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

/// Delays that grow from 50 ms to between 1 and 2 s, with jitter, so that
/// replicas do not come back all at once.
pub(crate) struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .with_jitter();
        Self(delays.build())
    }
}

impl Backoff {
    /// Waits for the next delay.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0.next().unwrap_or(Duration::from_secs(1))).await;
    }

    /// Waits for the next delay, or for `shutdown`.
    pub(crate) async fn wait_unless(&mut self, shutdown: &CancellationToken) {
        tokio::select! {
            () = self.wait() => {}
            () = shutdown.cancelled() => {}
        }
    }
}
