//! Tests that valid events become rows, as they are.

use std::collections::BTreeSet;

use redis::cmd;
use sluicegate_tests::{Event, Scene, fields};

/// Makes events as different as the contract allows.
fn varied_events(count: usize) -> Vec<Event> {
    let mut events: Vec<Event> = (0..count).map(|_| Event::new()).collect();
    events[0].properties = None;
    events[1].properties = Some(serde_json::json!({}));
    events[2].user_id = "Zoë \u{1f980} \u{202e}\t\"quoted\" \\ 'x'; DROP TABLE events; --".to_owned();
    events[3].time = "1969-12-31T23:59:59.999999Z".parse().unwrap();
    events[4].time = "9999-12-31T23:59:59.000001Z".parse().unwrap();
    events[5].event_type = "x".repeat(100_000);
    events[6].properties =
        Some(serde_json::json!({ "big": 9_007_199_254_740_993_u64, "small": 1e-300, "": "" }));
    events
}

#[test]
fn events_of_both_forms_are_stored_exactly() {
    let scene = Scene::new();
    let service = scene.service().set("MAX_EVENT_AGE", "30000d").set("MAX_EVENT_AHEAD", "3000000d").start();
    let mut events = varied_events(250);
    let entries: Vec<_> = events
        .iter()
        .enumerate()
        .map(|(i, event)| if i % 2 == 0 { event.data() } else { event.flat() })
        .collect();
    scene.stream.add_all(&entries);

    let stored = scene.until_stored(events.len());
    events.sort_by_key(|event| event.event_id);
    assert_eq!(stored, events);
    scene.stream.until_drained();
    let metrics = service.stop().metrics();
    assert_eq!(metrics.tally(), [250, 0, 0, 0, 0]);
    assert_eq!(scene.database.letters(), []);
}

#[test]
fn a_time_with_an_offset_is_stored_in_utc_and_cut_to_microseconds() {
    let scene = Scene::new();
    let _service = scene.start();
    let event =
        Event { time: "2026-01-18T22:17:34.827001Z".parse().unwrap(), properties: None, ..Event::new() };
    let id = event.event_id.to_string();
    scene.stream.add(&fields([
        ("event_id", id.as_str()),
        ("event_type", &event.event_type),
        ("user_id", &event.user_id),
        ("timestamp", "2026-01-19T03:47:34.827001999+05:30"),
    ]));
    assert_eq!(scene.until_stored(1), [event]);
}

#[test]
fn the_group_is_made_at_the_beginning_so_that_earlier_entries_are_read() {
    let scene = Scene::new();
    let early = Event::new();
    scene.stream.add(&early.data());
    let service = scene.start();
    assert_eq!(scene.until_stored(1), [early]);
    service.until_logged(&["consumer group created at 0"]);
}

#[test]
fn the_stream_is_made_with_the_group() {
    let scene = Scene::new();
    let _service = scene.start();
    assert_eq!(scene.stream.run::<String>(cmd("TYPE").arg(&scene.stream.name)), "stream");
    assert_eq!(scene.stream.group_info("last-delivered-id").as_deref(), Some("0-0"));
    let event = Event::new();
    scene.stream.add(&event.flat());
    assert_eq!(scene.until_stored(1), [event]);
}

#[test]
fn other_groups_and_other_consumers_are_left_alone() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..20).map(|_| Event::new()).collect();
    let ids = scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<_>>());
    let other = scene.stream.another_group("neighbours");
    other.make_group();
    other.read_as("somebody", 5);
    scene.stream.make_group();
    scene.stream.read_as("colleague", 3);

    let service = scene.start();
    assert_eq!(scene.until_stored(17).len(), 17);
    service.stop();
    let first = |count: usize| ids.iter().take(count).cloned().collect::<BTreeSet<String>>();
    assert_eq!(scene.stream.pending(), first(3), "what a colleague of the group was given");
    assert_eq!(other.pending(), first(5), "what the other group was given");
    assert_eq!(other.group_info("entries-read").as_deref(), Some("5"));
}

#[test]
fn redis_may_speak_resp3() {
    let scene = Scene::new();
    let service = scene.service().set("REDIS_URL", format!("{}/?protocol=resp3", scene.stream.url())).start();
    let event = Event::new();
    scene.stream.add(&event.data());
    assert_eq!(scene.until_stored(1), [event]);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().get("stream_length"), 1);
}

#[test]
fn the_table_is_the_documented_hypertable() {
    let scene = Scene::new();
    let _service = scene.start();
    let columns: String = scene.database.value(
        "SELECT string_agg(column_name || ' ' || data_type || ' ' || is_nullable, ', ' ORDER BY ordinal_position)
         FROM information_schema.columns WHERE table_schema = 'public' AND table_name = 'events'",
    );
    assert_eq!(
        columns,
        "time timestamp with time zone NO, event_id uuid NO, event_type text NO, user_id text NO, properties jsonb YES"
    );
    let constraints: String = scene.database.value(
        "SELECT string_agg(pg_get_constraintdef(oid), ', ') FROM pg_constraint
         WHERE conrelid = 'events'::regclass AND contype <> 'n'",
    );
    assert_eq!(constraints, "PRIMARY KEY (event_id, \"time\")");
    let dimension: String = scene.database.value(
        "SELECT string_agg(column_name || ' ' || column_type, ', ') FROM timescaledb_information.dimensions
         WHERE hypertable_schema = 'public' AND hypertable_name = 'events'",
    );
    assert_eq!(dimension, "time timestamp with time zone");
    let hypertables: i64 = scene
        .database
        .value("SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name = 'events'");
    assert_eq!(hypertables, 1);
}
