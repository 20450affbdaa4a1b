//! Tests how entries are grouped into transactions.

use std::time::{Duration, Instant};

use sluicegate_tests::{Event, Fields, Producer, Scene, scripted, until, verdict};

/// Counts the transactions that stored the events.
const TRANSACTIONS: &str = "SELECT count(DISTINCT xmin::text) FROM events";
/// Counts the most events that one transaction stored.
const LARGEST: &str =
    "SELECT max(count) FROM (SELECT count(*) FROM events GROUP BY xmin::text) AS transaction";

#[test]
fn a_trickle_is_gathered() {
    let scene = Scene::new();
    let service = scene.start();
    // The producer sends 27 events per second, for eight seconds.
    let producer = Producer::paced(&scene.stream, 1, Duration::from_millis(37), Event::new);
    producer.until_sent(216);
    let sent = producer.stop();
    scene.until_stored(sent.len());
    scene.stream.until_drained();
    service.stop();
    let transactions: i64 = scene.database.value(TRANSACTIONS);
    let events = i64::try_from(sent.len()).unwrap();
    assert!(
        10 * transactions <= 4 * events,
        "{transactions} transactions for {events} events, wanted at most 0.4 each"
    );
}

/// The pause is so long that the test would not survive one.
#[test]
fn a_full_batch_is_not_followed_by_a_pause() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..205).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    let start = Instant::now();
    let service = scene.service().set("BATCH_SIZE", 10).set("PARTIAL_BATCH_DELAY", "1m").start();
    assert_eq!(scene.until_stored(205), events);
    scene.stream.until_drained();
    assert!(start.elapsed() < Duration::from_secs(30), "the last, partial batch does not wait either");
    service.stop();
}

#[test]
fn a_partial_batch_is_followed_by_a_pause() {
    let scene = Scene::new();
    let service = scene.service().set("PARTIAL_BATCH_DELAY", "3s").start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    for _ in 0..10 {
        scene.stream.add(&Event::new().data());
    }
    scene.until_stored(11);
    service.stop();
    assert_eq!(scene.database.value::<i64>(TRANSACTIONS), 2, "what came during the pause is one batch");
}

#[test]
fn batch_size_bounds_a_transaction() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..100).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    let service = scene.service().set("BATCH_SIZE", 7).start();
    assert_eq!(scene.until_stored(100), events);
    service.stop();
    assert_eq!(scene.database.value::<i64>(LARGEST), 7);
    assert_eq!(scene.database.value::<i64>(TRANSACTIONS), 15);
}

#[test]
fn a_batch_may_be_large() {
    let scene = Scene::new();
    // The first batches are smaller, each four times as large as the one before.
    let events: Vec<Event> = (0..25_000).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    let service = scene.service().set("BATCH_SIZE", 10_000).start();
    assert_eq!(scene.until_stored(25_000), events);
    scene.stream.until_drained();
    service.stop();
    assert_eq!(scene.database.value::<i64>(LARGEST), 10_000);
}

/// The service dies between two commits.
#[test]
fn what_rules_make_beyond_an_entry_each_is_committed_bit_by_bit() {
    let scene = Scene::new();
    let expansion = |i: u32| {
        let id = format!("00000000-0000-4000-8000-{:012x}", (i + 1) * 1_000);
        verdict("expand", &[("count", "400"), ("event_id", &id)])
    };
    scene.stream.add_all(&(0..5).map(expansion).collect::<Vec<_>>());
    let mut dying = scripted(&scene).with_failpoints("after_commit=kill/2").start_unready();
    until("the service to die", || match dying.has_ended() {
        true => Ok(()),
        false => Err("it lives".to_owned()),
    });
    // Two entries make 798 rows beyond one each, and three would make more than a thousand.
    assert_eq!(scene.database.value::<i64>("SELECT count(*) FROM events"), 1_600);
    assert_eq!(scene.database.value::<i64>(TRANSACTIONS), 2);

    let pending = u64::try_from(scene.stream.pending().len()).unwrap();
    assert!((3..=5).contains(&pending), "{pending} pending: the second portion is not acknowledged");
    let service = scripted(&scene).start();
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [1, pending - 1, 0, 0, 0]);
    assert_eq!(scene.database.value::<i64>("SELECT count(*) FROM events"), 2_000);
    assert_eq!(scene.database.value::<i64>(LARGEST), 800);
}

/// What is in flight has a bound in bytes too.
#[test]
fn large_entries_come_in_smaller_batches() {
    let scene = Scene::new();
    let large = || {
        let properties = Some(serde_json::json!({ "text": "x".repeat(1 << 20) }));
        Event { properties, ..Event::new() }.data()
    };
    scene.stream.add_all(&(0..60).map(|_| large()).collect::<Vec<Fields>>());
    let service = scene.service().set("BATCH_SIZE", 20).start();
    scene.until_stored(60);
    scene.stream.until_drained();
    let metrics = service.stop().metrics();
    assert_eq!(metrics.tally(), [60, 0, 0, 0, 0]);
    // Each batch has eight entries: the first by its bound, the others as each has a mebibyte.
    assert!(metrics.get("batches") >= 6, "{metrics:?}");
}
