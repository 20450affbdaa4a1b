//! Counters, and the two forms in which they are told: a line of CSV and a line of the log.

mod csv;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio_util::sync::CancellationToken;

pub use self::csv::{CsvFile, Record};
use crate::batch::Tally;
use crate::config::Config;
use crate::stream::Gauge;

/// How many entries ended in which way since the start.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Totals>);

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    tally: Tally,
    batches: u64,
    last_batch: Duration,
}

impl Counters {
    /// Counts entries that were committed and acknowledged, `took` after they were read.
    pub fn add(&self, tally: Tally, took: Duration) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals.tally += tally;
        totals.batches += 1;
        totals.last_batch = took;
    }

    fn totals(&self) -> Totals {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the metrics at each interval and once at the end.
pub struct Reporter {
    gauge: Gauge,
    csv: CsvFile,
    last: (Instant, u64),
}

impl Reporter {
    /// Nothing is written before the first interval has passed.
    pub fn new(config: &Config, gauge: Gauge) -> Self {
        Self { gauge, csv: CsvFile::new(&config.metrics_csv), last: (Instant::now(), 0) }
    }

    /// Reports at each interval, until `shutdown`.
    pub async fn run(&mut self, counters: &Counters, interval: Duration, shutdown: &CancellationToken) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.report(counters).await,
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// One line of CSV and one of the log, of this moment.
    pub async fn report(&mut self, counters: &Counters) {
        // Not longer than this: the last report comes while somebody waits for the exit.
        let levels = tokio::time::timeout(Duration::from_secs(1), self.gauge.levels()).await;
        let levels = match levels {
            Ok(Ok(levels)) => Some(levels),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the stream's levels are unknown");
                None
            }
            Err(_) => None,
        };
        let Totals { tally, batches, last_batch } = counters.totals();
        let rate = self.rate(tally.total());
        let record = Record {
            timestamp: Utc::now(),
            events_processed: tally.total(),
            lag: levels.and_then(|levels| levels.lag),
            batch_time_ms: u64::try_from(last_batch.as_millis()).unwrap_or(u64::MAX),
            processing_rate: rate,
        };
        // What Redis did not tell is left out of the line.
        tracing::info!(
            processed = record.events_processed,
            stored = tally.stored,
            duplicate = tally.duplicate,
            rejected = tally.rejected,
            discarded = tally.discarded,
            dead_lettered = tally.dead_lettered,
            lag = record.lag,
            pending = levels.map(|levels| levels.pending),
            stream_length = levels.map(|levels| levels.length),
            batches,
            batch_time_ms = record.batch_time_ms,
            rate = (rate * 100.0).round() / 100.0,
            "metrics"
        );
        if let Err(error) = self.csv.append(&record) {
            tracing::warn!(%error, file = %self.csv.path().display(), "the metrics line was not written");
        }
    }

    /// Events a second since the last report.
    fn rate(&mut self, processed: u64) -> f64 {
        let (last_at, last_processed) = std::mem::replace(&mut self.last, (Instant::now(), processed));
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate of more than 2^52 events a second is not at hand"
        )]
        let events = processed.saturating_sub(last_processed) as f64;
        events / last_at.elapsed().as_secs_f64().max(1e-3)
    }
}
