//! Tries again: how long to wait before it, and how often to say so.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use crate::log_limit::Reminder;

/// The longest delay of [`Backoff::slow`], before jitter.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Delays that grow, with jitter, so that replicas do not come back all at once. A new value begins anew.
pub(crate) struct Backoff(ExponentialBackoff);

impl Backoff {
    /// From 50 ms to between 1 and 2 s.
    fn quick() -> Self {
        Self::within(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// From 1 s to between 30 and 60 s, as each attempt costs something.
    pub(crate) fn slow() -> Self {
        Self::within(Duration::from_secs(1), MAX_DELAY)
    }

    fn within(first: Duration, last: Duration) -> Self {
        let delays = ExponentialBuilder::new().with_min_delay(first).with_max_delay(last);
        Self(delays.without_max_times().with_jitter().build())
    }

    pub(crate) fn delay(&mut self) -> Duration {
        self.0.next().unwrap_or(MAX_DELAY)
    }
}

/// An error of something that may be tried again.
pub(crate) trait Retryable: Display {
    /// Returns whether trying again cannot help, because somebody must change something.
    fn is_permanent(&self) -> bool;
}

/// One thing that is tried until it succeeds, or until the shutdown.
pub(crate) struct Retry {
    /// What the log says of a failure.
    said: Cow<'static, str>,
    backoff: Backoff,
    reminder: Reminder,
    /// Told after each attempt whether there will be another.
    told: Option<Box<dyn Fn(bool) + Send + Sync>>,
    shutdown: CancellationToken,
}

impl Retry {
    pub(crate) fn new(said: impl Into<Cow<'static, str>>) -> Self {
        Self {
            said: said.into(),
            backoff: Backoff::quick(),
            reminder: Reminder::default(),
            told: None,
            shutdown: CancellationToken::new(),
        }
    }

    /// Tells after each attempt whether there will be another.
    pub(crate) fn telling(mut self, told: impl Fn(bool) + Send + Sync + 'static) -> Self {
        self.told = Some(Box::new(told));
        self
    }

    /// Waits no longer than to the shutdown, and says nothing more then.
    pub(crate) fn until(mut self, shutdown: &CancellationToken) -> Self {
        self.shutdown = shutdown.clone();
        self
    }

    /// Returns the value of an attempt that succeeded. After one that failed it waits, and returns `None` when the next
    /// attempt is due, or when the shutdown has come. An error that is permanent is returned at once.
    pub(crate) async fn after<T, E: Retryable>(&mut self, attempt: Result<T, E>) -> Result<Option<T>, E> {
        match attempt {
            Ok(value) => {
                self.succeeded();
                Ok(Some(value))
            }
            Err(error) if error.is_permanent() => Err(error),
            Err(error) => {
                let delay = self.failed(&error);
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = self.shutdown.cancelled() => {}
                }
                Ok(None)
            }
        }
    }

    /// Notes a success: the next failure is the first one.
    pub(crate) fn succeeded(&mut self) {
        self.backoff = Backoff::quick();
        self.reminder = Reminder::default();
        self.tell(false);
    }

    /// Notes a failure, and returns how long to wait before the next attempt.
    pub(crate) fn failed(&mut self, error: &dyn Display) -> Duration {
        self.tell(true);
        if !self.shutdown.is_cancelled() && self.reminder.is_due() {
            tracing::warn!(%error, "{}", self.said);
        }
        self.backoff.delay()
    }

    /// Returns the next delay, for what is tried again without having failed for good.
    pub(crate) fn delay(&mut self) -> Duration {
        self.backoff.delay()
    }

    fn tell(&self, waits: bool) {
        if let Some(told) = &self.told {
            told(waits);
        }
    }
}
