//! Describes each metric, and writes all of them in the forms that Prometheus reads.
//!
//! Every sample has the label `tenant`. What is not known has no sample, which is not 0.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::Histogram;
use super::series::{Labels, Value};
use super::{Counters, Dependency, Timings, Totals};
use crate::batch::{EntryId, Version};
use crate::stream::Backlog;

/// All metrics of one tenant at one moment.
#[derive(Debug)]
pub(crate) struct TenantMetrics {
    name: String,
    totals: Totals,
    timings: Timings,
    discards: BTreeMap<String, u64>,
    series: BTreeMap<Labels, Value>,
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

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// Chooses by the header `Accept`. Prometheus itself asks for OpenMetrics.
    pub(crate) fn accepted_by(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The metrics of several tenants.
#[derive(Debug)]
pub(crate) struct Exposition(pub(crate) Vec<TenantMetrics>);

impl Exposition {
    pub(crate) fn write(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("sluicegate");
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut page, &registry)?,
            Format::OpenMetrics => text::encode(&mut page, &registry)?,
        }
        Ok(page)
    }
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page { encoder, tenants: &self.0 };
        describe_service(&mut page)?;
        describe_entries(&mut page)?;
        describe_rules(&mut page)?;
        describe_times(&mut page)?;
        describe_group(&mut page)?;
        describe_guests(&mut page)
    }
}

fn describe_service(page: &mut Page<'_, '_>) -> fmt::Result {
    page.build_info()?;
    page.gauge("tenant_state", "1 for the state in which the tenant is, 0 for the others", |tenant| {
        let now = tenant.totals.state();
        // What it waits for is told by `connected`.
        let now = if now.starts_with("waiting") { "waiting" } else { now };
        let is_now = |state| if state == now { 1.0 } else { 0.0 };
        ["starting", "running", "paused", "waiting", "failed"]
            .map(|state| labelled("state", state, is_now(state)))
            .into()
    })?;
    page.gauge("connected", "1 if the server answers, 0 while it is waited for", |tenant| {
        let servers = [("redis", Dependency::Redis), ("postgres", Dependency::Postgres)];
        let connected = servers.into_iter().filter_map(|(name, server)| {
            let is_connected = tenant.totals.is_connected(server)?;
            Some(labelled("server", name, if is_connected { 1.0 } else { 0.0 }))
        });
        connected.collect()
    })
}

fn describe_entries(page: &mut Page<'_, '_>) -> fmt::Result {
    page.counter("entries", "Entries that were committed and acknowledged, by their outcome", |tenant| {
        tenant.totals.tally.outcomes().map(|(outcome, count)| labelled("outcome", outcome, count)).into()
    })?;
    page.counter("entries_delivered", "Entries that were read, each time that they were", |tenant| {
        one(tenant.totals.delivered + tenant.totals.abandoned)
    })?;
    page.counter("entries_lost", "Entries that were trimmed or deleted before they were read", |tenant| {
        one(tenant.totals.lost)
    })?;
    page.gauge("entries_in_flight", "Entries that were read and are not acknowledged yet", |tenant| {
        one(float(tenant.totals.in_flight()))
    })?;
    page.gauge("dead_letters_open", "Dead letters that no replay has settled, 10000 at most", |tenant| {
        known(tenant.outside.open_dead_letters)
    })?;
    page.counter("batches", "Batches, or parts of them, that were acknowledged", |tenant| {
        one(tenant.totals.batches)
    })
}

fn describe_rules(page: &mut Page<'_, '_>) -> fmt::Result {
    page.counter("breaches", "How often the rules broke a limit or the contract, by kind", |tenant| {
        tenant.totals.breaches.kinds().map(|(kind, count)| labelled("kind", kind, count)).collect()
    })?;
    page.gauge("rules_info", "1 for the version of the rules that judged the last batch", |tenant| {
        let Some([version, component]) = &tenant.version else { return Vec::new() };
        vec![(vec![("version", version.as_str()), ("component", component.as_str())], 1.0)]
    })?;
    page.counter("rules_swaps", "How often another version of the rules judged than before", |tenant| {
        one(tenant.totals.swaps)
    })?;
    page.counter(
        "rules_deployments",
        "Versions of the rules that were to come into force, by outcome",
        |tenant| {
            let Totals { deployments_in_force, deployments_refused, .. } = tenant.totals;
            [("in_force", deployments_in_force), ("refused", deployments_refused)]
                .map(|(outcome, count)| labelled("outcome", outcome, count))
                .into()
        },
    )?;
    page.gauge("rules_refused", "1 while the version of the rules that is wanted is refused", |tenant| {
        one(if tenant.totals.rules_are_refused { 1.0 } else { 0.0 })
    })?;
    page.counter("worker_restarts", "Processes of guests that died and were started again", |tenant| {
        one(tenant.totals.restarts)
    })?;
    page.counter("discards", "Entries that the rules discarded, by the reason they gave", |tenant| {
        tenant.discards.iter().map(|(reason, count)| labelled("reason", reason, *count)).collect()
    })
}

fn describe_times(page: &mut Page<'_, '_>) -> fmt::Result {
    page.histogram("batch_duration", "From the read of a batch to its acknowledgement", |tenant| {
        one(&tenant.timings.batch)
    })?;
    page.histogram("stage_duration", "The time of a batch in each stage of the pipeline", |tenant| {
        tenant.timings.stages.iter().map(|(stage, times)| labelled("stage", stage.as_str(), times)).collect()
    })?;
    page.histogram("rules_duration", "The time that the rules took for a batch, by the clock", |tenant| {
        one(&tenant.timings.rules)
    })?;
    page.histogram("commit_latency", "From the XADD of an entry, by its ID, to its commit", |tenant| {
        one(&tenant.timings.commit)
    })
}

fn describe_group(page: &mut Page<'_, '_>) -> fmt::Result {
    page.gauge("group_lag", "Entries that were not delivered to the group yet", |tenant| {
        known(tenant.outside.backlog.and_then(|backlog| backlog.lag))
    })?;
    page.gauge(
        "group_pending",
        "Entries delivered to the group and not acknowledged, by any replica",
        |tenant| known(tenant.outside.backlog.map(|backlog| backlog.pending)),
    )?;
    page.gauge("stream_length", "Entries in the stream", |tenant| {
        known(tenant.outside.backlog.map(|backlog| backlog.length))
    })?;
    page.gauge_in_seconds(
        "oldest_entry_age",
        "Age, by its ID, of the oldest entry that is not acknowledged; 0 without any",
        |tenant| tenant.outside.oldest_age.map(|age| one(age.as_secs_f64())).unwrap_or_default(),
    )
}

/// Describes the series that the guests keep. Their names are values of a label: so no name that a
/// guest chooses can meet that of another tenant, or of the service.
fn describe_guests(page: &mut Page<'_, '_>) -> fmt::Result {
    page.counter("guest_count", "Counters that the rules keep, by the name they gave", |tenant| {
        let series = tenant.series.iter().filter_map(|(labels, value)| match value {
            Value::Counter(total) => Some((of_guest(labels), *total)),
            Value::Histogram { .. } => None,
        });
        series.collect()
    })?;
    page.summaries("guest_observed", "Values that the rules observed, by the name they gave", |tenant| {
        let series = tenant.series.iter().filter_map(|(labels, value)| match value {
            Value::Counter(_) => None,
            Value::Histogram { count, sum, .. } => Some((of_guest(labels), (*count, *sum))),
        });
        series.collect()
    })?;
    page.counter("guest_dropped_samples", "Samples of the rules that were beyond a limit", |tenant| {
        one(tenant.dropped_samples)
    })
}

/// A value and its labels besides the tenant's.
type Sample<'a, T> = (Vec<(&'a str, &'a str)>, T);

fn one<'a, T>(value: T) -> Vec<Sample<'a, T>> {
    vec![(Vec::new(), value)]
}

fn labelled<'a, T>(name: &'static str, value: &'a str, count: T) -> Sample<'a, T> {
    (vec![(name, value)], count)
}

fn known<'a>(value: Option<u64>) -> Vec<Sample<'a, f64>> {
    value.map(|value| one(float(value))).unwrap_or_default()
}

fn of_guest(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[expect(clippy::cast_precision_loss, reason = "no more than 2^52 entries are at hand")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Writes metric by metric, each with the samples of all tenants.
struct Page<'e, 't> {
    encoder: DescriptorEncoder<'e>,
    tenants: &'t [TenantMetrics],
}

impl<'t> Page<'_, 't> {
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Fn(&'t TenantMetrics) -> Vec<Sample<'t, u64>>,
    ) -> fmt::Result {
        self.family((name, help, None, MetricType::Counter), samples, |count, metric| {
            metric.encode_counter::<NoLabelSet, u64, u64>(&count, None)
        })
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Fn(&'t TenantMetrics) -> Vec<Sample<'t, f64>>,
    ) -> fmt::Result {
        self.family((name, help, None, MetricType::Gauge), samples, |value, metric| {
            metric.encode_gauge(&value)
        })
    }

    fn gauge_in_seconds(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Fn(&'t TenantMetrics) -> Vec<Sample<'t, f64>>,
    ) -> fmt::Result {
        let described = (name, help, Some(&Unit::Seconds), MetricType::Gauge);
        self.family(described, samples, |value, metric| metric.encode_gauge(&value))
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Fn(&'t TenantMetrics) -> Vec<Sample<'t, &'t Histogram>>,
    ) -> fmt::Result {
        let described = (name, help, Some(&Unit::Seconds), MetricType::Histogram);
        self.family(described, samples, |times, metric| {
            let (sum, count, buckets) = (times.sum().as_secs_f64(), times.count(), times.buckets());
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    /// Writes counts with their sums: histograms of which only the last bucket is known.
    fn summaries(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Fn(&'t TenantMetrics) -> Vec<Sample<'t, (u64, f64)>>,
    ) -> fmt::Result {
        self.family((name, help, None, MetricType::Histogram), samples, |(count, sum), metric| {
            metric.encode_histogram::<NoLabelSet>(sum, count, &[(f64::INFINITY, count)], None)
        })
    }

    fn family<T>(
        &mut self,
        (name, help, unit, kind): (&str, &str, Option<&Unit>, MetricType),
        samples: impl Fn(&'t TenantMetrics) -> Vec<Sample<'t, T>>,
        write: impl Fn(T, &mut MetricEncoder) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit, kind)?;
        for tenant in self.tenants {
            for (labels, value) in samples(tenant) {
                let labels = ([("tenant", tenant.name.as_str())], labels);
                write(value, &mut family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn build_info(&mut self) -> fmt::Result {
        let help = "The version of the service, with the value 1";
        let mut family = self.encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1_u64)
    }
}

/// Returns how long ago the oldest entry was added to the stream, by its ID.
pub(crate) fn age_of(oldest: Option<EntryId>) -> Duration {
    let now = u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or(0);
    oldest.map_or(Duration::ZERO, |id| Duration::from_millis(now.saturating_sub(id.milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Breaches, Tally};
    use crate::capabilities::{self, Series};

    fn page(tenants: &[(&str, &Counters)], format: Format) -> String {
        let metrics =
            |(name, counters): &(&str, &Counters)| TenantMetrics::new(name, counters, Outside::default());
        Exposition(tenants.iter().map(metrics).collect()).write(format).expect("a page")
    }

    #[test]
    fn each_count_has_its_sample() {
        let counters = Counters::default();
        counters.delivered(9);
        counters.ended(Tally { stored: 3, rejected: 4, ..Tally::default() }, Duration::from_millis(7));
        counters.breached(Breaches::default(), 2);
        let page = page(&[("a", &counters)], Format::Prometheus);
        for line in [
            "# TYPE sluicegate_entries_total counter",
            r#"sluicegate_entries_total{tenant="a",outcome="stored"} 3"#,
            r#"sluicegate_entries_total{tenant="a",outcome="duplicate"} 0"#,
            r#"sluicegate_entries_in_flight{tenant="a"} 2.0"#,
            r#"sluicegate_breaches_total{tenant="a",kind="trapped"} 0"#,
            r#"sluicegate_worker_restarts_total{tenant="a"} 2"#,
            r#"sluicegate_batch_duration_seconds_bucket{tenant="a",le="0.005"} 0"#,
            r#"sluicegate_batch_duration_seconds_bucket{tenant="a",le="0.01"} 1"#,
            r#"sluicegate_tenant_state{tenant="a",state="starting"} 1.0"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
        for unknown in
            ["sluicegate_group_lag{", "sluicegate_oldest_entry_age_seconds{", "sluicegate_connected{"]
        {
            assert!(!page.contains(unknown), "{unknown}");
        }
    }

    /// Prometheus takes a smaller number for a new start.
    #[test]
    fn a_failure_takes_nothing_back() {
        let counters = Counters::default();
        counters.delivered(9);
        counters.ended(Tally { stored: 3, ..Tally::default() }, Duration::ZERO);
        counters.failed();
        counters.delivered(6);
        let page = page(&[("a", &counters)], Format::Prometheus);
        assert!(page.contains("sluicegate_entries_delivered_total{tenant=\"a\"} 15\n"), "{page}");
    }

    #[test]
    fn no_name_that_a_guest_chooses_meets_another() {
        let series = |name: &str, labels: &[(&str, &str)]| Series {
            name: name.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        let (a, b) = (Counters::default(), Counters::default());
        let add = capabilities::Sample::Add;
        a.sampled(
            vec![
                (series("x", &[]), add(1)),
                (series("x_total", &[]), add(2)),
                (series("y", &[("tenant", "b"), ("le", "\"\n"), ("name", "z")]), add(3)),
                (series("y", &[("__name__", "up"), ("a", "1"), ("a", "2")]), add(4)),
                // A worker that somebody has taken over sorts nothing.
                (series("y", &[("a", "1"), ("__name__", "up")]), add(8)),
            ],
            5,
        );
        b.sampled(vec![(series("x", &[]), capabilities::Sample::Observe(1.5))], 0);
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let page = page(&[("a", &a), ("b", &b)], format);
            for line in [
                r#"sluicegate_guest_count_total{tenant="a",name="x"} 1"#,
                r#"sluicegate_guest_count_total{tenant="a",name="x_total"} 2"#,
                r#"sluicegate_guest_count_total{tenant="a",name="y",guest_le="\"\\n",guest_name="z",guest_tenant="b"} 3"#,
                r#"sluicegate_guest_count_total{tenant="a",name="y",a="1",guest___name__="up"} 4"#,
                r#"sluicegate_guest_observed_sum{tenant="b",name="x"} 1.5"#,
                r#"sluicegate_guest_dropped_samples_total{tenant="a"} 5"#,
            ] {
                assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
            }
        }
    }
}
