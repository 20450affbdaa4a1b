//! Counts what happens, and reports it: as a line of CSV, as a line of the log, and as metrics for
//! those who ask.
//!
//! - `histogram`, `recent`: how long things took, and what happened lately
//! - `discards`, `series`: what rules say of their discards, and the metrics of their own
//! - `csv`: the metrics file
//! - `service`: what the process does that is no tenant's
//! - `families`: describes each metric
//! - `exposition`: writes them for Prometheus

mod csv;
mod discards;
mod exposition;
mod families;
mod histogram;
mod recent;
mod series;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chrono::Utc;
use enum_map::{Enum, EnumMap};
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

pub use self::csv::{CsvFile, MetricsRow};
pub(crate) use self::exposition::Format;
pub(crate) use self::families::{AllMetrics, Family, Kind, Outside, Sample, TenantMetrics, Value, age_of};
pub(crate) use self::service::{ServiceCounters, ServiceTotals, Signal};
use crate::batch::{Breaches, Judged, Tally, Version};
use crate::capabilities::{self, Series};
use crate::config::{Config, TenantName};
use crate::stream::{GroupMonitor, GroupStats};
use discards::Discards;
use histogram::Histogram;
use recent::Recent;
use series::AllSeries;
use sluicegate_verdicts::EntryId;

/// What the pipeline has done since the start, and what it is waiting for.
#[derive(Debug, Default)]
pub struct Counters {
    since: Since,
    totals: Mutex<Totals>,
    series: Mutex<AllSeries>,
    discards: Mutex<Discards>,
    timings: Mutex<Timings>,
    /// Why the version that is wanted is refused.
    rules_refused: Mutex<Option<String>>,
    /// The lag that the last report found.
    lag: Mutex<Option<u64>>,
}

/// When something began to count, from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since(pub(crate) SystemTime);

impl Default for Since {
    fn default() -> Self {
        Self(SystemTime::now())
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    /// The entries that were read, including those that were delivered again.
    pub(crate) delivered: u64,
    /// Those that were in flight when the pipeline failed, and do not count as delivered any more.
    pub(crate) abandoned: u64,
    /// The entries that were gone before their turn.
    pub(crate) lost: u64,
    pub(crate) tally: Tally,
    pub(crate) breaches: Breaches,
    /// How often a guest's process was started again.
    pub(crate) restarts: u64,
    pub(crate) batches: u64,
    /// The version that judged the last batch.
    pub(crate) version: Option<Version>,
    /// How often another version judged than the one before.
    pub(crate) swaps: u64,
    /// How often a version came into force, that of the start included.
    pub(crate) deployments_in_force: u64,
    /// How often a version that was to come into force was refused.
    pub(crate) deployments_refused: u64,
    /// Whether the version that is wanted is refused.
    pub(crate) rules_are_refused: bool,
    pub(crate) recent: Recent<u64>,
    last_batch: Duration,
    /// When the last batch ended, or the first one after a pause was read.
    last_progress: Option<Instant>,
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

/// A part of a batch's way whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Stage {
    /// From the read until the batch can be written.
    Judge,
    /// From then until it is committed. Rules that are granted statements are asked meanwhile.
    Write,
    /// From the commit until Redis has acknowledged it.
    Acknowledge,
}

impl Stage {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Judge => "judge",
            Self::Write => "write",
            Self::Acknowledge => "acknowledge",
        }
    }
}

/// How long things took since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timings {
    /// From the read of a batch to its acknowledgement.
    pub(crate) batch: Histogram,
    pub(crate) stages: EnumMap<Stage, Histogram>,
    /// The time that the rules took for a batch.
    pub(crate) rules: Histogram,
    /// From the XADD of an entry to the commit of its outcome.
    pub(crate) commit: Histogram,
    /// The same of the last half minute.
    recent_commit: Recent<Histogram>,
}

/// Since when each server is waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    redis: Option<Instant>,
    postgres: Option<Instant>,
}

impl Totals {
    pub(crate) fn in_flight(&self) -> u64 {
        self.delivered.saturating_sub(self.tally.total())
    }

    /// Returns whether a server answers, as far as that is known.
    pub(crate) fn is_connected(&self, server: Dependency) -> Option<bool> {
        match self.waiting_since(server) {
            Some(_) => Some(false),
            None => self.started.then_some(true),
        }
    }

    /// Returns since when a server is waited for, if it is.
    pub(crate) fn waiting_since(&self, server: Dependency) -> Option<Instant> {
        match server {
            Dependency::Redis => self.waiting.redis,
            Dependency::Postgres => self.waiting.postgres,
        }
    }

    /// Returns whether entries are read.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    /// Returns how long no batch has ended. It is `None` before the first one.
    pub(crate) fn without_progress(&self) -> Option<Duration> {
        self.last_progress.map(|at| at.elapsed())
    }

    pub(crate) fn state(&self) -> &'static str {
        match (self.waiting.redis.is_some(), self.waiting.postgres.is_some()) {
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
        let mut totals = self.totals();
        if totals.in_flight() == 0 {
            totals.last_progress = Some(Instant::now());
        }
        totals.delivered += u64::try_from(entries).unwrap_or(u64::MAX);
    }

    /// Counts the time that a batch spent in a stage.
    pub fn passed(&self, stage: Stage, took: Duration) {
        self.timings.lock().stages[stage].add(took);
    }

    /// Counts the time that the rules took for a batch.
    pub fn judged(&self, took: Duration) {
        self.timings.lock().rules.add(took);
    }

    /// Counts how long ago these entries were added to the stream, now that their outcome is
    /// committed.
    pub fn committed(&self, ids: &[EntryId]) {
        let now = u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0);
        let mut ages = Histogram::default();
        ages.add_ages(ids, now);
        let mut timings = self.timings.lock();
        timings.commit += ages;
        timings.recent_commit.add(ages, Instant::now());
    }

    /// Returns how long ago the entries of the last half minute were added when they were committed.
    pub(crate) fn recent_commit_latency(&self) -> Histogram {
        let recent = self.timings.lock().recent_commit;
        recent.sum(Instant::now())
    }

    /// Returns why the version that is wanted is refused, if it is.
    pub(crate) fn why_rules_are_refused(&self) -> Option<String> {
        self.rules_refused.lock().clone()
    }

    /// Counts how the rules broke the contract.
    pub fn breached(&self, breaches: Breaches, restarts: u64) {
        let mut totals = self.totals();
        totals.breaches += breaches;
        totals.restarts += restarts;
    }

    /// Counts entries that were committed and acknowledged, `took` after they were read.
    pub fn ended(&self, tally: Tally, took: Duration) {
        let now = Instant::now();
        self.timings.lock().batch.add(took);
        let mut totals = self.totals();
        totals.tally += tally;
        totals.batches += 1;
        totals.recent.add(tally.total(), now);
        (totals.last_batch, totals.last_progress) = (took, Some(now));
    }

    /// Notes that entries are read from now on.
    pub fn started(&self) {
        let mut totals = self.totals();
        (totals.started, totals.failed) = (true, false);
    }

    /// Returns whether nothing is read and nothing is in flight.
    pub fn is_quiet(&self) -> bool {
        let totals = self.totals();
        !totals.started || (totals.paused && totals.in_flight() == 0)
    }

    /// Notes which version judges from now on.
    pub fn judged_by(&self, version: Version) {
        let mut totals = self.totals();
        totals.swaps += u64::from(totals.version.is_some_and(|before| before.digest != version.digest));
        totals.version = Some(version);
    }

    /// Counts a version that came into force, or was refused.
    pub fn deployed(&self, is_refused: bool) {
        let mut totals = self.totals();
        match is_refused {
            true => totals.deployments_refused += 1,
            false => totals.deployments_in_force += 1,
        }
    }

    /// Notes why the version that is wanted is refused, or that it is not.
    pub fn rules_are_refused(&self, reason: Option<String>) {
        self.totals().rules_are_refused = reason.is_some();
        *self.rules_refused.lock() = reason;
    }

    /// Notes that somebody wants that nothing is read, or that it goes on.
    pub fn paused(&self, is_paused: bool) {
        self.totals().paused = is_paused;
    }

    /// Notes that the pipeline has ended. What was in flight will be delivered again.
    pub fn failed(&self) {
        let mut totals = self.totals();
        (totals.started, totals.failed, totals.waiting) = (false, true, Waiting::default());
        totals.abandoned += totals.in_flight();
        totals.delivered = totals.tally.total();
    }

    /// Counts the reasons why entries of a committed batch were discarded.
    pub fn discarded(&self, batch: &[Judged]) {
        self.discards.lock().add(batch);
    }

    /// Adds the samples that the guest has taken for a committed batch.
    pub fn sampled(&self, samples: Vec<(Series, capabilities::Sample)>, dropped: u64) {
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
        let since = match server {
            Dependency::Redis => &mut totals.waiting.redis,
            Dependency::Postgres => &mut totals.waiting.postgres,
        };
        *since = waits.then(|| since.unwrap_or_else(Instant::now));
    }

    /// Returns all counts of this moment.
    pub(crate) fn now(&self) -> Totals {
        *self.totals()
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
    /// The reasons of discards as they were logged last.
    told_discards: String,
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
            told_discards: String::new(),
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
        let totals = counters.now();
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
            in_flight = totals.in_flight(),
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
        let discards = counters.discards.lock().to_string();
        if discards != self.told_discards {
            tracing::info!(reasons = %discards, "entries discarded by the rules");
            self.told_discards = discards;
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
