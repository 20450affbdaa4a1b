//! Writes all metrics in the forms that Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::families::{AllMetrics, Family, Kind, PREFIX, Value};

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

impl AllMetrics {
    /// Writes a page for Prometheus.
    pub(crate) fn write(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut page, &registry)?,
            Format::OpenMetrics => text::encode(&mut page, &registry)?,
        }
        Ok(page)
    }
}

impl Collector for AllMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Family { name, help, is_in_seconds, kind, samples } in self.families() {
            let unit = is_in_seconds.then_some(&Unit::Seconds);
            let kind = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
            for sample in samples {
                write(sample.value, &mut family.encode_family(&sample.labels)?)?;
            }
        }
        Ok(())
    }
}

fn write(value: Value, metric: &mut MetricEncoder) -> fmt::Result {
    match value {
        Value::Count(count) => metric.encode_counter::<NoLabelSet, u64, u64>(&count, None),
        Value::Level(level) => metric.encode_gauge(&level),
        Value::Buckets { sum, buckets } => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::{Breaches, Tally};
    use crate::capabilities::{self, Series};
    use crate::metrics::{Counters, Outside, ServiceCounters, TenantMetrics};

    fn page(tenants: &[(&str, &Counters)], format: Format) -> String {
        let metrics =
            |(name, counters): &(&str, &Counters)| TenantMetrics::new(name, counters, Outside::default());
        AllMetrics::new(&ServiceCounters::default(), tenants.iter().map(metrics).collect())
            .write(format)
            .expect("a page")
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
