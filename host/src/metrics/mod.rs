//! Counts what happens, and reports it in two forms: a line of CSV and a line of the log.

mod csv;
mod discards;
mod series;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

pub use self::csv::{CsvFile, MetricsRow};
use crate::batch::{Breaches, Judged, Tally};
use crate::capabilities::{Sample, Series};
use crate::config::{Config, TenantName};
use crate::stream::{GroupMonitor, GroupStats};
use discards::Discards;
use series::AllSeries;

/// What the pipeline has done since the start, and what it is waiting for.
#[derive(Debug, Default)]
pub struct Counters {
    totals: Mutex<Totals>,
    series: Mutex<AllSeries>,
    discards: Mutex<Discards>,
    /// The lag that the last report found.
    lag: Mutex<Option<u64>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// The entries that were read, including those that were delivered again.
    delivered: u64,
    /// The entries that were gone before their turn.
    lost: u64,
    tally: Tally,
    breaches: Breaches,
    /// How often a guest's process was started again.
    restarts: u64,
    batches: u64,
    last_batch: Duration,
    /// Whether both servers were found to be as they must be.
    started: bool,
    /// Whether the pipeline has failed and waits to be started again.
    failed: bool,
    /// Whether somebody wants that nothing is read.
    paused: bool,
    waiting: Waiting,
}

/// A server that the pipeline depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    Redis,
    Postgres,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    redis: bool,
    postgres: bool,
}

impl Totals {
    fn state(&self) -> &'static str {
        match (self.waiting.redis, self.waiting.postgres) {
            _ if self.failed => "failed",
            (false, false) if self.paused => "paused",
            (false, false) if self.started => "running",
            (false, false) => "starting",
            (true, false) => "waiting for redis",
            (false, true) => "waiting for postgres",
            (true, true) => "waiting for redis and postgres",
        }
    }
}

impl Counters {
    /// Counts entries that were read.
    pub fn delivered(&self, entries: usize) {
        self.totals().delivered += u64::try_from(entries).unwrap_or(u64::MAX);
    }

    /// Counts how the rules broke the contract.
    pub fn breached(&self, breaches: Breaches, restarts: u64) {
        let mut totals = self.totals();
        totals.breaches += breaches;
        totals.restarts += restarts;
    }

    /// Counts entries that were committed and acknowledged, `took` after they were read.
    pub fn ended(&self, tally: Tally, took: Duration) {
        let mut totals = self.totals();
        totals.tally += tally;
        totals.batches += 1;
        totals.last_batch = took;
    }

    /// Notes that entries are read from now on.
    pub fn started(&self) {
        let mut totals = self.totals();
        (totals.started, totals.failed) = (true, false);
    }

    /// Notes that somebody wants that nothing is read, or that it goes on.
    pub fn paused(&self, is_paused: bool) {
        self.totals().paused = is_paused;
    }

    /// Notes that the pipeline has ended. What was in flight will be delivered again.
    pub fn failed(&self) {
        let mut totals = self.totals();
        (totals.started, totals.failed, totals.waiting) = (false, true, Waiting::default());
        totals.delivered = totals.tally.total();
    }

    /// Counts the reasons why entries of a committed batch were discarded.
    pub fn discarded(&self, batch: &[Judged]) {
        self.discards.lock().add(batch);
    }

    /// Adds the samples that the guest has taken for a committed batch.
    pub fn sampled(&self, samples: Vec<(Series, Sample)>, dropped: u64) {
        if !samples.is_empty() || dropped > 0 {
            self.series.lock().add(samples, dropped);
        }
    }

    /// Returns the lag that the last report found.
    pub fn lag(&self) -> Option<u64> {
        *self.lag.lock()
    }

    /// Notes that a server is away, or that it is there again.
    pub fn waits_for(&self, server: Dependency, waits: bool) {
        let mut totals = self.totals();
        match server {
            Dependency::Redis => totals.waiting.redis = waits,
            Dependency::Postgres => totals.waiting.postgres = waits,
        }
    }

    /// Returns what [`waits_for`](Self::waits_for) of this server is told by.
    pub fn waiting_for(self: &Arc<Self>, server: Dependency) -> impl Fn(bool) + Send + Sync + 'static {
        let counters = Arc::clone(self);
        move |waits| counters.waits_for(server, waits)
    }

    /// Counts entries that were gone before the group was given them, and logs them at once.
    pub fn lost(&self, entries: u64) {
        if entries == 0 {
            return;
        }
        let mut totals = self.totals();
        totals.lost += entries;
        tracing::error!(
            entries,
            in_total = totals.lost,
            "entries are lost: they were trimmed from the stream, or deleted with it, before they were read; \
             give the stream a higher MAXLEN, or the service more room"
        );
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock()
    }
}

/// Reports the metrics at each interval and once at the end.
pub struct Reporter {
    monitor: GroupMonitor,
    csv: CsvFile,
    interval: Duration,
    /// When the next line is due, which is unset before the first [`Reporter::run`].
    next: Option<tokio::time::Instant>,
    last: (Instant, u64),
}

impl Reporter {
    /// Nothing is written before the first interval has passed.
    pub fn new(config: &Config, tenant: &TenantName, monitor: GroupMonitor) -> Self {
        let interval = config.monitoring_interval.0;
        Self {
            monitor,
            csv: CsvFile::new(&config.metrics_csv_of(tenant)),
            interval,
            next: None,
            last: (Instant::now(), 0),
        }
    }

    /// Reports at each interval, until `shutdown`.
    pub async fn run(&mut self, counters: &Counters, shutdown: &CancellationToken) {
        loop {
            let next = *self.next.get_or_insert_with(|| tokio::time::Instant::now() + self.interval);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    self.next = None;
                    self.report(counters).await;
                }
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Looks for entries that were trimmed from the stream before they were read, and logs them.
    pub async fn look_for_losses(&mut self, counters: &Counters) {
        self.group_stats(counters).await;
    }

    /// Returns the group's figures, if they can be had. Losses are logged at once.
    async fn group_stats(&mut self, counters: &Counters) -> Option<GroupStats> {
        // The look may take no longer: the last report comes while somebody waits for the exit.
        let group_stats = match tokio::time::timeout(Duration::from_secs(1), self.monitor.group_stats()).await
        {
            Ok(Ok(group_stats)) => group_stats,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the group's figures are unknown");
                return None;
            }
            Err(_) => {
                tracing::warn!("the group's figures are unknown: no answer from redis within 1 s");
                return None;
            }
        };
        counters.lost(group_stats.lost);
        Some(group_stats)
    }

    /// Writes a line of CSV and a line of the log, of this moment.
    pub async fn report(&mut self, counters: &Counters) {
        let group_stats = self.group_stats(counters).await;
        *counters.lag.lock() = group_stats.and_then(|group_stats| group_stats.lag);
        let totals = *counters.totals();
        let tally = totals.tally;
        let rate = self.rate(tally.total());
        let record = MetricsRow {
            timestamp: Utc::now(),
            events_processed: tally.total(),
            lag: group_stats.and_then(|group_stats| group_stats.lag),
            batch_time_ms: u64::try_from(totals.last_batch.as_millis()).unwrap_or(u64::MAX),
            processing_rate: rate,
        };
        // The line leaves out what Redis did not tell, and breaches if there were none.
        tracing::info!(
            state = totals.state(),
            processed = record.events_processed,
            stored = tally.stored,
            duplicate = tally.duplicate,
            rejected = tally.rejected,
            discarded = tally.discarded,
            dead_lettered = tally.dead_lettered,
            delivered = totals.delivered,
            in_flight = totals.delivered.saturating_sub(tally.total()),
            lost = totals.lost,
            lag = record.lag,
            pending = group_stats.map(|group_stats| group_stats.pending),
            stream_length = group_stats.map(|group_stats| group_stats.length),
            batches = totals.batches,
            batch_time_ms = record.batch_time_ms,
            breaches =
                Some(totals.breaches).filter(|breaches| !breaches.is_empty()).map(tracing::field::display),
            guest_restarts = Some(totals.restarts).filter(|restarts| *restarts > 0),
            rate = (rate * 100.0).round() / 100.0,
            "metrics"
        );
        let series = counters.series.lock().clone();
        if !series.is_empty() {
            let dropped = Some(series.dropped()).filter(|dropped| *dropped > 0);
            tracing::info!(%series, dropped, "guest metrics");
        }
        let discards = counters.discards.lock().clone();
        if !discards.is_empty() {
            tracing::info!(reasons = %discards, "entries discarded by the rules");
        }
        if let Err(error) = self.csv.append(&record) {
            tracing::warn!(%error, file = %self.csv.path().display(), "the metrics line was not written");
        }
    }

    /// Returns how many entries ended per second since the last report.
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
