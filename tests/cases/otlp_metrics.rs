//! Tests that a collector gets by OTLP what `/metrics` has, and that no collector can hold up the service.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric};
use sluicegate_tests::{
    Collector, Event, GRANTS, Launch, STATEMENTS, Scene, Stage, attributes, event_of, purchase_of, until,
};

/// The samples of Prometheus: the value of each name with its labels.
type Samples = BTreeMap<String, f64>;

fn pushed(scene: &Scene, url: &str) -> Launch {
    scene.service().set("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", format!("{url}/v1/metrics"))
}

fn metrics_of(request: &ExportMetricsServiceRequest) -> &[Metric] {
    &request.resource_metrics[0].scope_metrics[0].metrics
}

/// Names a sample in one way, whatever the order of its labels.
fn named(name: &str, labels: &BTreeMap<&str, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    format!("{name} {}", labels.join(" "))
}

/// Returns what Prometheus would have scraped. Bounds are written in one way.
fn as_scraped(request: &ExportMetricsServiceRequest) -> Samples {
    let mut samples = Samples::new();
    for metric in metrics_of(request) {
        let points = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => &sum.data_points,
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    let mut labels = attributes(&point.attributes);
                    let (name, mut count) = (&metric.name, 0);
                    samples.insert(named(&format!("{name}_count"), &labels), point.count as f64);
                    samples.insert(named(&format!("{name}_sum"), &labels), point.sum.unwrap());
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    let bounds = point.explicit_bounds.iter().copied().chain([f64::INFINITY]);
                    for (bound, more) in bounds.zip(&point.bucket_counts) {
                        count += more;
                        labels.insert("le", format!("{bound:?}"));
                        samples.insert(named(&format!("{name}_bucket"), &labels), count as f64);
                    }
                }
                continue;
            }
            other => panic!("{other:?}"),
        };
        for point in points {
            let value = match point.value.unwrap() {
                Value::AsDouble(value) => value,
                Value::AsInt(value) => value as f64,
            };
            samples.insert(named(&metric.name, &attributes(&point.attributes)), value);
        }
    }
    samples
}

/// Reads a page of `/metrics` whose labels have no commas and quotes in them.
fn read(page: &str) -> Samples {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (label, value) = label.split_once('=').unwrap();
            let value = value.trim_matches('"');
            match label {
                "le" => (label, format!("{:?}", value.parse::<f64>().unwrap())),
                _ => (label, value.to_owned()),
            }
        });
        (named(name, &labels.collect::<BTreeMap<_, _>>()), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[test]
fn a_collector_gets_what_the_page_has() {
    let stage = Stage::new();
    let collector = Collector::start();
    stage.add(&[purchase_of("ada", 12.5), purchase_of("bob", 3.0), event_of("bob")]);
    let service = stage
        .service(&format!("{GRANTS}{STATEMENTS}"))
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .set("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter%32")
        .set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .set("OTEL_TRACES_EXPORTER", "none")
        .set("OTEL_METRIC_EXPORT_INTERVAL", 200)
        .start();
    stage.scene.until_stored(3);
    stage.scene.stream.until_drained();
    let admin = service.admin();
    // It counts what it sends.
    let is_of_itself = |name: &str| name.starts_with("sluicegate_otlp_");
    let last = until("the same by both ways", || {
        let pushes = collector.metrics();
        let (_, last) = pushes.last().ok_or("no push")?;
        let mut scraped = read(&admin.get("/metrics").body);
        let mut taken = as_scraped(last);
        scraped.retain(|name, _| !is_of_itself(name));
        taken.retain(|name, _| !is_of_itself(name));
        let differences: Vec<&String> = scraped
            .keys()
            .chain(taken.keys())
            .filter(|name| scraped.get(*name) != taken.get(*name))
            .collect();
        match differences.is_empty() {
            true => Ok(last.clone()),
            false => Err(format!("{differences:?}")),
        }
    });

    let samples = as_scraped(&last);
    for part in ["guest_count_total", "guest_observed_count", "commit_latency_seconds_bucket", "build_info"] {
        let name = format!("sluicegate_{part} ");
        assert!(samples.iter().any(|(found, value)| found.starts_with(&name) && *value > 0.0), "{part}");
    }
    let metric = |name: &str| {
        let found = metrics_of(&last).iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("{name}")).clone()
    };
    let Some(Data::Sum(entries)) = metric("sluicegate_entries_total").data else { panic!("no sum") };
    assert!(entries.is_monotonic);
    assert_eq!(entries.aggregation_temporality(), AggregationTemporality::Cumulative);
    let point = &entries.data_points[0];
    assert!(0 < point.start_time_unix_nano && point.start_time_unix_nano < point.time_unix_nano);
    let duration = metric("sluicegate_batch_duration_seconds");
    assert_eq!(
        (duration.unit.as_str(), attributes(&duration.metadata)["prometheus.type"].as_str()),
        ("s", "histogram")
    );
    assert!(!duration.description.is_empty());
    let Some(Data::Histogram(duration)) = duration.data else { panic!("no histogram") };
    assert_eq!(duration.aggregation_temporality(), AggregationTemporality::Cumulative);
    assert_eq!(metric("sluicegate_group_lag").unit, "");

    let resource = last.resource_metrics[0].resource.as_ref().unwrap();
    let resource = attributes(&resource.attributes);
    assert_eq!(resource["service.name"], "sluicegate");
    assert_eq!(resource["service.instance.id"], "consumer-1");
    assert_eq!(resource["deployment.environment.name"], "test");
    let (head, first) = &collector.metrics()[0];
    assert!(
        head.contains("content-type: application/x-protobuf") && head.contains("api-key: hunter2"),
        "{head}"
    );
    let began = |request| {
        let entries = metrics_of(request).iter().find(|metric| metric.name == "sluicegate_entries_total");
        match &entries.unwrap().data {
            Some(Data::Sum(sum)) => sum.data_points[0].start_time_unix_nano,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(began(first), began(&last), "the same beginning in all of them");
    assert_eq!(admin.metric(r#"otlp_requests_total{signal="metrics",outcome="failed"}"#), Some(0.0));
    assert_eq!(admin.metric(r#"otlp_requests_total{signal="traces",outcome="taken"}"#), None);
    assert!(!service.stop().log.contains("hunter2"));
}

/// What was counted until the end is sent at the exit, before the next interval, and of all tenants.
#[test]
fn the_last_metrics_are_sent_at_the_exit() {
    let scene = Scene::new();
    let collector = Collector::start();
    let service = pushed(&scene, &collector.url).set("ADMIN_LISTEN", "off").start();
    scene.stream.add(&Event::new().data());
    scene.stream.until_drained();
    service.stop();
    let pushes = collector.metrics();
    assert_eq!(pushes.len(), 1, "the interval is a minute");
    let stored = "sluicegate_entries_total outcome=stored tenant=default";
    assert_eq!(as_scraped(&pushes[0].1)[stored], 1.0);
}

#[test]
fn a_collector_that_never_answers_metrics_delays_nothing() {
    let scene = Scene::new();
    // The kernel takes the connections, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let service = pushed(&scene, &url)
        .set("OTEL_METRIC_EXPORT_INTERVAL", 100)
        .set("OTEL_EXPORTER_OTLP_TIMEOUT", 300)
        .start();
    let events: Vec<_> = (0..1_000).map(|_| Event::new().data()).collect();
    scene.stream.add_all(&events);
    scene.until_stored(1_000);
    let line = service.until_logged(&["metrics were not taken"]);
    assert!(line.contains("it has not answered within 300ms"), "{line}");
    let admin = service.admin();
    until("more of them", || {
        let failed = admin.metric(r#"otlp_requests_total{signal="metrics",outcome="failed"}"#).unwrap();
        if failed >= 3.0 { Ok(()) } else { Err(format!("{failed}")) }
    });
    let begun = Instant::now();
    let log = service.stop().log;
    // It is known to be silent, and is not asked at the end.
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(log.matches("metrics were not taken").count(), 1, "a line each 10 s: {log}");
}

#[test]
fn what_is_no_collector_is_told() {
    let scene = Scene::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nonsense = Collector::answering("200 OK", b"<html>hunter2</html>");
    let refusing = Collector::answering("429 Too Many Requests", b"hunter2");
    // A partial success: 7 were refused.
    let partial = Collector::answering("200 OK", b"\x0a\x02\x08\x07");
    for (url, part, is_taken) in [
        (&format!("http://{nobody}"), "it cannot be reached: Connection refused", false),
        (&nonsense.url, "it answers 200 OK, but not as a collector does", false),
        (&refusing.url, "it answers 429 Too Many Requests", false),
        (&partial.url, "it has not taken 7 of what it was sent", true),
    ] {
        let service = pushed(&scene, url).set("OTEL_METRIC_EXPORT_INTERVAL", 100).start();
        let line = service.until_logged(&["metrics were not taken"]);
        assert!(line.contains(part), "{line}");
        let outcome = if is_taken { "taken" } else { "failed" };
        let sample = format!(r#"otlp_requests_total{{signal="metrics",outcome="{outcome}"}}"#);
        assert!(service.admin().metric(&sample).is_some_and(|count| count > 0.0), "{sample}");
        assert!(!service.stop().log.contains("hunter2"));
    }
}

/// No metrics are no reason to store nothing.
#[test]
fn metrics_that_cannot_be_sent_are_told() {
    let scene = Scene::new();
    for (name, value, part) in [
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "https://u:hunter2@localhost",
            "wanted a collector beside the service",
        ),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc", "wanted http/protobuf"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta", "wanted cumulative"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "10s", "wanted a number of milliseconds, 100 or more"),
    ] {
        let service = pushed(&scene, "http://localhost:4318").set(name, value).start();
        let line = service.until_logged(&["metrics are not sent", part]);
        assert!(!line.contains("hunter2"), "{line}");
        service.stop();
    }
    let service = pushed(&scene, "http://localhost:4318").set("OTEL_METRICS_EXPORTER", "none").start();
    assert!(!service.stop().log.contains("OTLP"));
}
