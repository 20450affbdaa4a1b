//! Writes all metrics as a request of OTLP, as OpenTelemetry maps those of Prometheus: names unchanged, counters as monotonic
//! sums, all of them cumulative.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;

use crate::metrics::{AllMetrics, Family, Kind, Sample, Value};
use crate::otlp::scope;

/// Returns the request that tells a collector these metrics, which are of this moment.
pub(super) fn of(metrics: &AllMetrics, resource: &Resource, now: SystemTime) -> ExportMetricsServiceRequest {
    let families = metrics.families().into_iter().filter(|family| !family.samples.is_empty());
    let metrics = families.map(|family| of_family(family, nanos(now))).collect();
    let attributes = ResourceAttributesWithSchema::from(resource).attributes.0;
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource::v1::Resource { attributes, ..Default::default() }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some((scope(), None).into()),
                metrics,
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

fn of_family(family: Family<'_>, now: u64) -> Metric {
    let cumulative = AggregationTemporality::Cumulative.into();
    let (name, kind) = (family.full_name(), family.kind);
    let numbers = |family: Family<'_>| {
        let point = |sample| number(sample, now);
        family.samples.into_iter().map(point).collect()
    };
    let (unit, help) = (if family.is_in_seconds { "s" } else { "" }, family.help);
    let (of_prometheus, data) = match kind {
        Kind::Counter => {
            let sum =
                Sum { data_points: numbers(family), aggregation_temporality: cumulative, is_monotonic: true };
            ("counter", metric::Data::Sum(sum))
        }
        Kind::Gauge => ("gauge", metric::Data::Gauge(Gauge { data_points: numbers(family) })),
        Kind::Histogram => {
            let point = |sample| buckets(sample, now);
            let data_points = family.samples.into_iter().map(point).collect();
            let histogram = Histogram { data_points, aggregation_temporality: cumulative };
            ("histogram", metric::Data::Histogram(histogram))
        }
    };
    Metric {
        name,
        description: help.to_owned(),
        unit: unit.to_owned(),
        metadata: vec![attribute(("prometheus.type", of_prometheus))],
        data: Some(data),
    }
}

fn number(sample: Sample<'_>, now: u64) -> NumberDataPoint {
    let (value, since) = match sample.value {
        Value::Count(count) => {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            (Some(number_data_point::Value::AsInt(count)), nanos(sample.since.0))
        }
        // A level has no beginning.
        Value::Level(level) => (Some(number_data_point::Value::AsDouble(level)), 0),
        Value::Buckets { .. } => (None, 0),
    };
    NumberDataPoint {
        attributes: sample.labels.into_iter().map(attribute).collect(),
        start_time_unix_nano: since,
        time_unix_nano: now,
        value,
        ..Default::default()
    }
}

fn buckets(sample: Sample<'_>, now: u64) -> HistogramDataPoint {
    let (sum, buckets) = match sample.value {
        Value::Buckets { sum, buckets } => (Some(sum), buckets),
        Value::Count(_) | Value::Level(_) => (None, Vec::new()),
    };
    HistogramDataPoint {
        attributes: sample.labels.into_iter().map(attribute).collect(),
        start_time_unix_nano: nanos(sample.since.0),
        time_unix_nano: now,
        count: buckets.iter().map(|(_, count)| count).sum(),
        sum,
        bucket_counts: buckets.iter().map(|(_, count)| *count).collect(),
        // The last bucket has none.
        explicit_bounds: buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
        ..Default::default()
    }
}

fn attribute((key, value): (&str, &str)) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
