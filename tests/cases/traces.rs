//! Tests that each batch is a trace that a collector gets, and that no collector can hold up the service.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use sluicegate_tests::{Collector, Event, Fields, Launch, Scene, attributes, until};

fn spans(collector: &Collector) -> Vec<Span> {
    let resources = collector.traces().into_iter().flat_map(|(_, request)| request.resource_spans);
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// Waits for the span of a batch.
fn until_batch(collector: &Collector) -> Span {
    until("the span of a batch", || {
        let spans = spans(collector);
        let batch = spans.iter().find(|span| span.name.starts_with("process "));
        batch.cloned().ok_or_else(|| format!("{} spans", spans.len()))
    })
}

fn traced(scene: &Scene, url: &str) -> Launch {
    scene.service().set("OTEL_EXPORTER_OTLP_ENDPOINT", url).set("OTEL_BSP_SCHEDULE_DELAY", 200)
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn with_parent(event: &Event, parent: &str) -> Fields {
    [event.data(), vec![(b"traceparent".to_vec(), parent.into())]].concat()
}

#[test]
fn each_batch_is_a_trace() {
    let scene = Scene::new();
    let collector = Collector::start();
    let event = Event::new();
    let undecodable: Fields = vec![(b"data".to_vec(), b"\xff".to_vec())];
    scene.stream.add_all(&[
        with_parent(&event, PARENT),
        with_parent(&Event::new(), "made up"),
        event.data(),
        undecodable,
    ]);
    let launch = traced(&scene, &collector.url)
        .set("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2")
        .set("OTEL_SERVICE_NAME", "events")
        .set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    let service = launch.start();
    let batch = until_batch(&collector);
    assert_eq!(batch.name, format!("process {}", scene.stream.name));
    assert_eq!(batch.parent_span_id, Vec::<u8>::new());
    let found = attributes(&batch.attributes);
    for (name, value) in [
        ("messaging.system", "redis"),
        ("messaging.destination.name", scene.stream.name.as_str()),
        ("messaging.consumer.group.name", scene.stream.group.as_str()),
        ("messaging.batch.message_count", "4"),
        ("sluicegate.tenant", "default"),
        ("sluicegate.outcome.stored", "2"),
        ("sluicegate.outcome.duplicate", "1"),
        ("sluicegate.outcome.dead_lettered", "1"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}: {found:?}");
    }
    let links: Vec<String> = batch.links.iter().map(|link| hex(&link.trace_id)).collect();
    assert_eq!(links, ["4bf92f3577b34da6a3ce929d0e0e4736"], "the valid one");

    let spans = spans(&collector);
    let mut stages: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == batch.span_id).collect();
    stages.sort_by_key(|span| span.start_time_unix_nano);
    let names: Vec<&str> = stages.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["judge", "rules", "write", "acknowledge"]);
    let [judge, rules, write, acknowledge] = stages[..] else { unreachable!() };
    assert!(judge.start_time_unix_nano >= batch.start_time_unix_nano);
    assert!(rules.end_time_unix_nano <= judge.end_time_unix_nano);
    assert!(judge.end_time_unix_nano <= write.start_time_unix_nano);
    assert!(write.end_time_unix_nano <= acknowledge.start_time_unix_nano);
    assert!(acknowledge.end_time_unix_nano <= batch.end_time_unix_nano);
    assert_eq!(attributes(&rules.attributes)["sluicegate.rules.version"].len(), 12);
    assert!(stages.iter().all(|span| span.trace_id == batch.trace_id));

    let (head, first) = &collector.traces()[0];
    assert!(head.starts_with("post /v1/traces http/1.1") && head.contains("api-key: hunter2"), "{head}");
    let resource = first.resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes(&resource.attributes);
    assert_eq!(resource["service.name"], "events");
    assert_eq!(resource["service.instance.id"], "consumer-1");
    assert_eq!(resource["deployment.environment.name"], "test");
    let log = service.stop().log;
    assert!(!log.contains("hunter2"), "{log}");
}

/// What is left is sent at the exit, before the next interval.
#[test]
fn the_last_traces_are_sent_at_the_exit() {
    let scene = Scene::new();
    let collector = Collector::start();
    let service = traced(&scene, &collector.url).set("OTEL_BSP_SCHEDULE_DELAY", 600_000).start();
    scene.stream.add(&Event::new().data());
    scene.stream.until_drained();
    service.stop();
    let batch = until_batch(&collector);
    assert_eq!(attributes(&batch.attributes)["sluicegate.outcome.stored"], "1");
}

#[test]
fn a_collector_that_never_answers_delays_nothing() {
    let scene = Scene::new();
    // The kernel takes the connections, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let service = traced(&scene, &url).set("BATCH_SIZE", 1).set("PARTIAL_BATCH_DELAY", "0ms").start();
    // Of each there are five spans: more than may wait.
    let events: Vec<Fields> = (0..1_000).map(|_| Event::new().data()).collect();
    scene.stream.add_all(&events);
    scene.until_stored(1_000);
    let begun = Instant::now();
    let ended = service.stop();
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    assert!(ended.log.contains("the last traces were not sent within 1 s"), "{}", ended.log);
}

/// Traces are no reason to store nothing.
#[test]
fn a_collector_that_cannot_be_used_is_told() {
    let scene = Scene::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = traced(&scene, &format!("http://{nobody}")).set("OTEL_EXPORTER_OTLP_TIMEOUT", 500).start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    let line = service.until_logged(&["spans are lost"]);
    assert!(line.contains("it cannot be reached: Connection refused"), "{line}");
    service.stop();
    for (name, value, part) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://u:hunter2@localhost",
            "wanted a collector beside the service",
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hunter2@localhost", "wanted a header"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "wanted http/protobuf"),
    ] {
        let service = traced(&scene, "http://localhost:4318").set(name, value).start();
        let line = service.until_logged(&["traces are not sent", part]);
        assert!(!line.contains("hunter2"), "{line}");
        service.stop();
    }
    for (name, value) in
        [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")]
    {
        let service = traced(&scene, "http://localhost:4318").set(name, value).start();
        assert!(!service.stop().log.contains("trace"), "{name}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
