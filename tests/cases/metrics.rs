//! Tests the metrics file and the log.

use std::fs;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{Event, Fields, Scene, fields, until};

const HEADER: &str = "timestamp,events_processed,lag,batch_time_ms,processing_rate";

/// Holds one line of the file, whose form is checked to the byte.
#[derive(Debug)]
struct Line {
    timestamp: DateTime<Utc>,
    events_processed: u64,
    /// Is `None` as long as Redis has not told the lag.
    lag: Option<u64>,
    rate: f64,
}

/// Parses a line like `2026-01-18T22:17:34.827Z,137,2,8,13.59`.
fn parse(line: &str) -> Line {
    let parts: Vec<&str> = line.split(',').collect();
    let [timestamp, events_processed, lag, batch_time_ms, rate] = parts.as_slice() else {
        panic!("{line:?}")
    };
    let form: String = timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{line:?}");
    let whole = |text: &&str| {
        let number: u64 = text.parse().unwrap_or_else(|_| panic!("{text:?} in {line:?}"));
        assert_eq!(number.to_string(), **text, "{line:?}");
        number
    };
    whole(batch_time_ms);
    let number: f64 = rate.parse().unwrap();
    assert_eq!(format!("{number:.2}"), **rate, "two decimals: {line:?}");
    Line {
        timestamp: timestamp.parse().unwrap(),
        events_processed: whole(events_processed),
        lag: (!lag.is_empty()).then(|| whole(lag)),
        rate: number,
    }
}

/// Returns the file's lines but the header, which must stand once, at the beginning.
fn lines(text: &str) -> Vec<Line> {
    assert!(text.ends_with('\n') && !text.contains(['\r', '"', ' ']), "{text:?}");
    let rest =
        text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n')).expect("the header comes first");
    rest.lines().map(parse).collect()
}

#[test]
fn the_metrics_file_has_its_exact_form_over_two_runs() {
    let scene = Scene::new();
    let path = scene.folder().join("backend/metrics.csv");
    for _ in 0..2 {
        let service = scene.service().set("MONITORING_INTERVAL", "200ms").start();
        scene.stream.add_all(&vec![Event::new().data(); 20]);
        let before = fs::read_to_string(&path).unwrap_or_default().lines().count();
        until("five more lines of metrics", || {
            let found = fs::read_to_string(&path).unwrap_or_default().lines().count();
            if found >= before + 5 { Ok(()) } else { Err(format!("{found} lines, {before} before")) }
        });
        scene.stream.until_drained();
        service.stop();
        let text = fs::read_to_string(&path).unwrap();
        let lines = lines(&text);
        let last = lines.last().unwrap();
        assert_eq!((last.events_processed, last.lag), (20, Some(0)), "the total of this run\n{text}");
    }
    let text = fs::read_to_string(&path).unwrap();
    let lines = lines(&text);
    assert!(lines.windows(2).all(|pair| pair[0].timestamp < pair[1].timestamp), "appended\n{text}");
    assert_eq!(lines[0].rate > 0.0, lines[0].events_processed > 0, "{text}");
    // Four intervals of 200 ms lie between the first five lines of a run.
    let four = (lines[4].timestamp - lines[0].timestamp).num_milliseconds();
    assert!((600..8_000).contains(&four), "four intervals took {four} ms\n{text}");
}

#[test]
fn metrics_csv_names_another_file() {
    let scene = Scene::new();
    let service = scene.service().set("METRICS_CSV", "a/b/c.csv").start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    scene.stream.until_drained();
    service.stop();
    assert_eq!(lines(&fs::read_to_string(scene.folder().join("a/b/c.csv")).unwrap()).len(), 1);
    assert!(!scene.folder().join("backend").exists());
}

#[test]
fn discards_are_told_by_their_reasons() {
    let scene = Scene::new();
    let guest = guests::built("guest_strict.wasm");
    let service = scene.service().set("GUEST", guest.display()).set("MONITORING_INTERVAL", "100ms").start();
    scene.stream.add_all(&vec![Event::of_type("heartbeat").data(); 3]);
    service.until_logged(&["entries discarded by the rules reasons=\"", "\"=3"]);
    service.stop();
}

/// Slow rules lose nothing, and cost time with each batch.
#[test]
fn rules_that_are_too_slow_for_a_batch_are_told_once() {
    let scene = Scene::new();
    let slow = guests::handmade_of(
        "(func $provoked (param i32) (local $i i32)
            (loop $more (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10000000)))))",
    );
    let file = scene.folder().join("slow.wasm");
    fs::write(&file, slow).unwrap();
    let entries: Vec<Fields> = (0..300).map(|_| provoking(&Event::new(), None)).collect();
    scene.stream.add_all(&entries);
    let service = scene.service().set("GUEST", file.display()).set("GUEST_TIME_LIMIT", "100ms").start();
    service.until_logged(&[
        "took the guest longer than 100 ms (GUEST_TIME_LIMIT) and was halved",
        "set BATCH_SIZE to about",
    ]);
    scene.stream.until_drained();
    let ended = service.stop();
    assert_eq!(ended.log.matches("set BATCH_SIZE to about").count(), 1, "{}", ended.log);
    assert_eq!(ended.metrics().tally(), [0, 0, 0, 300, 0]);
}

/// A disk that is full, or a folder that may not be written to, stops no event.
#[test]
fn metrics_that_cannot_be_written_are_only_told() {
    let scene = Scene::new();
    fs::write(scene.folder().join("backend"), "a file where a folder is wanted").unwrap();
    let service = scene.service().set("MONITORING_INTERVAL", "100ms").start();
    service.until_logged(&["the metrics line was not written", "backend/metrics.csv"]);
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    service.stop();
}

#[test]
fn the_log_tells_the_levels_of_the_stream() {
    let scene = Scene::new();
    scene.stream.add_all(&vec![Event::new().data(); 3]);
    scene.stream.make_group();
    scene.stream.read_as("colleague", 2);
    let service = scene.start();
    scene.until_stored(1);
    until("one entry acknowledged", || match scene.stream.pending().len() {
        2 => Ok(()),
        found => Err(format!("{found} pending")),
    });
    let metrics = service.stop().metrics();
    assert_eq!(["stream_length", "pending", "lag", "batches"].map(|name| metrics.get(name)), [3, 2, 0, 1]);
}

#[test]
fn json_logs_are_json() {
    let scene = Scene::new();
    let service = scene.service().set("LOG_FORMAT", "json").start_unready();
    service.until_logged(&["\"running\""]);
    let id = scene
        .stream
        .add_all(&[Event::new().data(), fields([("data", "bad \u{1b}[31m \"line\"\n{}")])])
        .remove(1);
    scene.until_stored(1);
    scene.stream.until_drained();
    let ended = service.stop();
    let lines: Vec<Value> = ended
        .log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
        .collect();
    let find = |message: &str| {
        lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{message}"))
    };
    assert_eq!(find("metrics")["processed"], 2);
    let refused = find("entry not stored");
    assert_eq!(refused["entry"], id.as_str());
    assert_eq!(refused["level"], "WARN");
    assert!(refused["timestamp"].as_str().unwrap().parse::<DateTime<Utc>>().is_ok());
}

/// Only a violation may quote what it is about.
#[test]
fn the_log_tells_nothing_of_the_events() {
    let scene = Scene::new();
    let marked = |mark: &str| Event {
        user_id: format!("{mark}-user"),
        event_type: format!("{mark}-type"),
        properties: Some(serde_json::json!({ format!("{mark}-key"): format!("{mark}-value") })),
        ..Event::new()
    };
    let refused = fields([
        ("event_id", "quoted-marker"),
        ("event_type", "hidden-type"),
        ("user_id", "hidden-user"),
        ("timestamp", "2026-01-18T22:17:34.827Z"),
    ]);
    scene.stream.add_all(&[marked("hidden").data(), marked("hidden").flat(), refused]);
    let service = scene.start();
    scene.until_stored(2);
    scene.stream.until_drained();
    // A statement that fails must not tell its parameters either.
    scene
        .database
        .execute("ALTER TABLE events ADD CONSTRAINT refuse CHECK (event_type <> 'hidden-type') NOT VALID");
    scene.stream.add(&marked("hidden").data());
    until("the refused row's letter", || match scene.database.letters().len() {
        2 => Ok(()),
        found => Err(format!("{found} letters")),
    });
    let log = service.stop().log;
    assert!(log.contains("quoted-marker"), "a violation says what was found:\n{log}");
    assert!(!log.contains("hidden"), "{log}");
}
