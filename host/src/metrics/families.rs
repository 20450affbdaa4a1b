//! Describes each metric, with the samples of all tenants.
//!
//! Every sample has the label `tenant`, but for those of the whole process. What is not known has no sample, which is not 0.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;
use super::series::{Labels, Value as SeriesValue};
use super::service::{Requests, Signal};
use super::{Counters, Dependency, ServiceCounters, ServiceTotals, Since, Timings, Totals};
use crate::batch::Version;
use crate::stream::Backlog;
use sluicegate_verdicts::EntryId;

/// What the names of all metrics begin with.
pub(super) const PREFIX: &str = "sluicegate";

/// All metrics of one tenant at one moment.
#[derive(Debug)]
pub(crate) struct TenantMetrics {
    name: String,
    since: Since,
    totals: Totals,
    timings: Timings,
    discards: BTreeMap<String, u64>,
    series: BTreeMap<Labels, SeriesValue>,
    dropped_samples: u64,
    /// The version that judged last, and its component, by their first digits.
    version: Option<[String; 2]>,
    outside: Outside,
}

/// What the servers tell of a tenant. What they do not tell is unknown, and no metric.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outside {
    /// What the group has before it.
    pub(crate) backlog: Option<Backlog>,
    /// The age of the oldest entry that is not acknowledged.
    pub(crate) oldest_age: Option<Duration>,
    /// The dead letters that no replay has settled, up to a bound.
    pub(crate) open_dead_letters: Option<u64>,
}

impl TenantMetrics {
    pub(crate) fn new(name: &str, counters: &Counters, outside: Outside) -> Self {
        let series = counters.series.lock().clone();
        let totals = counters.now();
        let digits = |version: Version| [version.digest, version.component].map(|digest| digest.to_string());
        Self {
            name: name.to_owned(),
            since: counters.since,
            version: totals.version.map(digits),
            totals,
            timings: *counters.timings.lock(),
            discards: counters.discards.lock().by_reason(),
            series: series.for_export(),
            dropped_samples: series.dropped(),
            outside,
        }
    }
}

/// All metrics of the process and of some tenants, at one moment.
#[derive(Debug)]
pub(crate) struct AllMetrics {
    service: ServiceTotals,
    since: Since,
    tenants: Vec<TenantMetrics>,
}

/// A metric, with its samples.
#[derive(Debug)]
pub(crate) struct Family<'m> {
    /// The name without the prefix, the unit and the ending of its kind.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) is_in_seconds: bool,
    pub(crate) kind: Kind,
    pub(crate) samples: Vec<Sample<'m>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A value of a metric, with its labels.
#[derive(Debug)]
pub(crate) struct Sample<'m> {
    pub(crate) labels: Vec<(&'m str, &'m str)>,
    /// Since when is counted.
    pub(crate) since: Since,
    pub(crate) value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    Count(u64),
    Level(f64),
    /// The sum, and the buckets, each with its upper bound and its own count. The last one has no bound, which is infinity.
    Buckets {
        sum: f64,
        buckets: Vec<(f64, u64)>,
    },
}

impl Family<'_> {
    /// Returns the name as Prometheus' text format has it.
    pub(crate) fn full_name(&self) -> String {
        let unit = if self.is_in_seconds { "_seconds" } else { "" };
        let ending = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{PREFIX}_{}{unit}{ending}", self.name)
    }
}

impl AllMetrics {
    pub(crate) fn new(service: &ServiceCounters, tenants: Vec<TenantMetrics>) -> Self {
        Self { service: service.now(), since: service.since(), tenants }
    }

    /// Returns all metrics. One that has no samples is among them.
    pub(crate) fn families(&self) -> Vec<Family<'_>> {
        let mut page = Page { metrics: self, families: Vec::new() };
        describe_service(&mut page);
        describe_otlp(&mut page);
        describe_tenants(&mut page);
        describe_entries(&mut page);
        describe_rules(&mut page);
        describe_times(&mut page);
        describe_group(&mut page);
        describe_guests(&mut page);
        page.families
    }
}

fn describe_service(page: &mut Page<'_>) {
    let metrics = page.metrics;
    let version = ("version", env!("CARGO_PKG_VERSION"));
    page.of_service(
        Kind::Gauge,
        "build_info",
        "The version of the service, with the value 1",
        vec![(vec![version], Value::Level(1.0))],
    );
    let ServiceTotals { reloads_in_force, reloads_refused, settings_are_refused, .. } = metrics.service;
    let reloads = [("in_force", reloads_in_force), ("refused", reloads_refused)];
    page.of_service(
        Kind::Counter,
        "settings_reloads",
        "Times that the settings were read again, by outcome",
        reloads.map(|(outcome, count)| (vec![("outcome", outcome)], Value::Count(count))).into(),
    );
    page.of_service(
        Kind::Gauge,
        "settings_refused",
        "1 while the settings that were read last have a mistake, and older ones are in force",
        vec![(Vec::new(), Value::Level(if settings_are_refused { 1.0 } else { 0.0 }))],
    );
}

fn describe_otlp(page: &mut Page<'_>) {
    let ServiceTotals { requests, lost_spans, .. } = page.metrics.service;
    let sent = requests.iter().filter_map(|(signal, requests)| Some((signal, (*requests)?)));
    let samples = sent.flat_map(|(signal, Requests { taken, failed })| {
        [("taken", taken), ("failed", failed)].map(|(outcome, count)| {
            (vec![("signal", signal.as_str()), ("outcome", outcome)], Value::Count(count))
        })
    });
    page.of_service(
        Kind::Counter,
        "otlp_requests",
        "Requests to the OTLP collector, by what is sent and what came of it",
        samples.collect(),
    );
    let lost = requests[Signal::Traces].map(|_| (Vec::new(), Value::Count(lost_spans)));
    page.of_service(
        Kind::Counter,
        "otlp_spans_lost",
        "Spans that there was no room for, or that the OTLP collector did not take",
        lost.into_iter().collect(),
    );
}

fn describe_tenants(page: &mut Page<'_>) {
    page.gauge("tenant_state", "1 for the state in which the tenant is, 0 for the others", |tenant| {
        let now = tenant.totals.state();
        // What it waits for is told by `connected`.
        let now = if now.starts_with("waiting") { "waiting" } else { now };
        let is_now = |state| if state == now { 1.0 } else { 0.0 };
        ["starting", "running", "paused", "waiting", "failed"]
            .map(|state| labelled("state", state, is_now(state)))
            .into()
    });
    page.gauge("connected", "1 if the server answers, 0 while it is waited for", |tenant| {
        let servers = [("redis", Dependency::Redis), ("postgres", Dependency::Postgres)];
        let connected = servers.into_iter().filter_map(|(name, server)| {
            let is_connected = tenant.totals.is_connected(server)?;
            Some(labelled("server", name, if is_connected { 1.0 } else { 0.0 }))
        });
        connected.collect()
    });
}

fn describe_entries(page: &mut Page<'_>) {
    page.counter("entries", "Entries that were committed and acknowledged, by their outcome", |tenant| {
        tenant.totals.tally.outcomes().map(|(outcome, count)| labelled("outcome", outcome, count)).into()
    });
    page.counter("entries_delivered", "Entries that were read, each time that they were", |tenant| {
        one(tenant.totals.delivered + tenant.totals.abandoned)
    });
    page.counter("entries_lost", "Entries that were trimmed or deleted before they were read", |tenant| {
        one(tenant.totals.lost)
    });
    page.gauge("entries_in_flight", "Entries that were read and are not acknowledged yet", |tenant| {
        one(float(tenant.totals.in_flight()))
    });
    page.gauge("dead_letters_open", "Dead letters that no replay has settled, 10000 at most", |tenant| {
        known(tenant.outside.open_dead_letters)
    });
    page.counter("batches", "Batches, or parts of them, that were acknowledged", |tenant| {
        one(tenant.totals.batches)
    });
}

fn describe_rules(page: &mut Page<'_>) {
    page.counter("breaches", "How often the rules broke a limit or the contract, by kind", |tenant| {
        tenant.totals.breaches.kinds().map(|(kind, count)| labelled("kind", kind, count)).collect()
    });
    page.gauge("rules_info", "1 for the version of the rules that judged the last batch", |tenant| {
        let Some([version, component]) = &tenant.version else { return Vec::new() };
        vec![(vec![("version", version.as_str()), ("component", component.as_str())], 1.0)]
    });
    page.counter("rules_swaps", "How often another version of the rules judged than before", |tenant| {
        one(tenant.totals.swaps)
    });
    page.counter(
        "rules_deployments",
        "Versions of the rules that were to come into force, by outcome",
        |tenant| {
            let Totals { deployments_in_force, deployments_refused, .. } = tenant.totals;
            [("in_force", deployments_in_force), ("refused", deployments_refused)]
                .map(|(outcome, count)| labelled("outcome", outcome, count))
                .into()
        },
    );
    page.gauge("rules_refused", "1 while the version of the rules that is wanted is refused", |tenant| {
        one(if tenant.totals.rules_are_refused { 1.0 } else { 0.0 })
    });
    page.counter("worker_restarts", "Processes of guests that died and were started again", |tenant| {
        one(tenant.totals.restarts)
    });
    page.counter("discards", "Entries that the rules discarded, by the reason they gave", |tenant| {
        tenant.discards.iter().map(|(reason, count)| labelled("reason", reason, *count)).collect()
    });
}

fn describe_times(page: &mut Page<'_>) {
    page.histogram("batch_duration", "From the read of a batch to its acknowledgement", |tenant| {
        one(&tenant.timings.batch)
    });
    page.histogram("stage_duration", "The time of a batch in each stage of the pipeline", |tenant| {
        tenant.timings.stages.iter().map(|(stage, times)| labelled("stage", stage.as_str(), times)).collect()
    });
    page.histogram("rules_duration", "The time that the rules took for a batch, by the clock", |tenant| {
        one(&tenant.timings.rules)
    });
    page.histogram("commit_latency", "From the XADD of an entry, by its ID, to its commit", |tenant| {
        one(&tenant.timings.commit)
    });
}

fn describe_group(page: &mut Page<'_>) {
    page.gauge("group_lag", "Entries that were not delivered to the group yet", |tenant| {
        known(tenant.outside.backlog.and_then(|backlog| backlog.lag))
    });
    page.gauge(
        "group_pending",
        "Entries delivered to the group and not acknowledged, by any replica",
        |tenant| known(tenant.outside.backlog.map(|backlog| backlog.pending)),
    );
    page.gauge("stream_length", "Entries in the stream", |tenant| {
        known(tenant.outside.backlog.map(|backlog| backlog.length))
    });
    page.gauge_in_seconds(
        "oldest_entry_age",
        "Age, by its ID, of the oldest entry that is not acknowledged; 0 without any",
        |tenant| tenant.outside.oldest_age.map(|age| one(age.as_secs_f64())).unwrap_or_default(),
    );
}

/// Describes the series that the guests keep. Their names are values of a label: so no name that a
/// guest chooses can meet that of another tenant, or of the service.
fn describe_guests(page: &mut Page<'_>) {
    page.counter("guest_count", "Counters that the rules keep, by the name they gave", |tenant| {
        let series = tenant.series.iter().filter_map(|(labels, value)| match value {
            SeriesValue::Counter(total) => Some((of_guest(labels), *total)),
            SeriesValue::Histogram { .. } => None,
        });
        series.collect()
    });
    page.summaries("guest_observed", "Values that the rules observed, by the name they gave", |tenant| {
        let series = tenant.series.iter().filter_map(|(labels, value)| match value {
            SeriesValue::Counter(_) => None,
            SeriesValue::Histogram { count, sum, .. } => Some((of_guest(labels), (*count, *sum))),
        });
        series.collect()
    });
    page.counter("guest_dropped_samples", "Samples of the rules that were beyond a limit", |tenant| {
        one(tenant.dropped_samples)
    });
}

/// A value of a tenant and its labels besides the tenant's.
type Labelled<'m, T> = (Vec<(&'m str, &'m str)>, T);

fn one<'m, T>(value: T) -> Vec<Labelled<'m, T>> {
    vec![(Vec::new(), value)]
}

fn labelled<'m, T>(name: &'static str, value: &'m str, count: T) -> Labelled<'m, T> {
    (vec![(name, value)], count)
}

fn known<'m>(value: Option<u64>) -> Vec<Labelled<'m, f64>> {
    value.map(|value| one(float(value))).unwrap_or_default()
}

fn of_guest(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[expect(clippy::cast_precision_loss, reason = "no more than 2^52 entries are at hand")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Gathers metric by metric, each with the samples of all tenants.
struct Page<'m> {
    metrics: &'m AllMetrics,
    families: Vec<Family<'m>>,
}

impl<'m> Page<'m> {
    fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl Fn(&'m TenantMetrics) -> Vec<Labelled<'m, u64>>,
    ) {
        self.of_tenants((name, help, false, Kind::Counter), samples, Value::Count);
    }

    fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl Fn(&'m TenantMetrics) -> Vec<Labelled<'m, f64>>,
    ) {
        self.of_tenants((name, help, false, Kind::Gauge), samples, Value::Level);
    }

    fn gauge_in_seconds(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl Fn(&'m TenantMetrics) -> Vec<Labelled<'m, f64>>,
    ) {
        self.of_tenants((name, help, true, Kind::Gauge), samples, Value::Level);
    }

    fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl Fn(&'m TenantMetrics) -> Vec<Labelled<'m, &'m Histogram>>,
    ) {
        self.of_tenants((name, help, true, Kind::Histogram), samples, |times| Value::Buckets {
            sum: times.sum().as_secs_f64(),
            buckets: times.buckets(),
        });
    }

    /// Adds counts with their sums: histograms of which only the last bucket is known.
    fn summaries(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl Fn(&'m TenantMetrics) -> Vec<Labelled<'m, (u64, f64)>>,
    ) {
        self.of_tenants((name, help, false, Kind::Histogram), samples, |(count, sum)| Value::Buckets {
            sum,
            buckets: vec![(f64::INFINITY, count)],
        });
    }

    fn of_tenants<T>(
        &mut self,
        (name, help, is_in_seconds, kind): (&'static str, &'static str, bool, Kind),
        samples: impl Fn(&'m TenantMetrics) -> Vec<Labelled<'m, T>>,
        value: impl Fn(T) -> Value,
    ) {
        let metrics = self.metrics;
        let of_tenant = |tenant: &'m TenantMetrics| {
            let sample = |(mut labels, found): Labelled<'m, T>| {
                labels.insert(0, ("tenant", tenant.name.as_str()));
                Sample { labels, since: tenant.since, value: value(found) }
            };
            samples(tenant).into_iter().map(sample).collect::<Vec<_>>()
        };
        let samples = metrics.tenants.iter().flat_map(of_tenant).collect();
        self.families.push(Family { name, help, is_in_seconds, kind, samples });
    }

    fn of_service(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        samples: Vec<Labelled<'m, Value>>,
    ) {
        let since = self.metrics.since;
        let samples = samples.into_iter().map(|(labels, value)| Sample { labels, since, value }).collect();
        self.families.push(Family { name, help, is_in_seconds: false, kind, samples });
    }
}

/// Returns how long ago the oldest entry was added to the stream, by its ID.
pub(crate) fn age_of(oldest: Option<EntryId>) -> Duration {
    let now = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or(0);
    oldest.map_or(Duration::ZERO, |id| Duration::from_millis(now.saturating_sub(id.milliseconds)))
}
