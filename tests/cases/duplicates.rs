//! Tests that what comes twice is stored once: duplicates and redelivered entries.

use redis::cmd;
use sluicegate_tests::{Event, Fields, Producer, Scene, Service, until};

#[test]
fn duplicates_add_no_row() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..30).map(|_| Event::new()).collect();
    let entries: Vec<Fields> = events.iter().map(Event::data).collect();
    let twice: Vec<Fields> = entries.iter().chain(&entries).cloned().collect();

    // These duplicates are within a batch.
    scene.stream.add_all(&twice);
    let service = scene.start();
    assert_eq!(scene.until_stored(30), events);
    scene.stream.until_drained();
    // These are across batches: the other form or another content, but the same key.
    let changed = Event { user_id: "another".to_owned(), ..events[0].clone() };
    scene.stream.add_all(&[events[1].flat(), changed.data()]);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [30, 32, 0, 0, 0]);

    // These are across runs, between new events.
    let new = Event::new();
    scene.stream.add_all(&[entries[2].clone(), new.data(), entries[3].clone()]);
    let service = scene.start();
    scene.until_stored(31);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [1, 2, 0, 0, 0]);
    assert_eq!(scene.database.events()[..30], events, "the first one stays as it was");
}

/// It does not matter what else the rows hold.
#[test]
fn of_two_events_with_one_key_the_first_is_stored() {
    let scene = Scene::new();
    let pairs: Vec<[Event; 2]> = [("zoe", "ada"), ("ada", "zoe"), ("bob", "bob")]
        .map(|(first, second)| {
            let first = Event { user_id: first.to_owned(), ..Event::new() };
            [first.clone(), Event { user_id: second.to_owned(), ..first }]
        })
        .into();
    let entries: Vec<Fields> = pairs.iter().flatten().map(Event::data).collect();
    scene.stream.add_all(&entries);
    let service = scene.start();
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [3, 3, 0, 0, 0]);
    let first: Vec<Event> = pairs.into_iter().map(|[first, _]| first).collect();
    assert_eq!(scene.database.events(), first);
}

#[test]
fn the_key_is_the_event_id_with_the_time() {
    let scene = Scene::new();
    let event = Event::new();
    let later = Event { time: event.time + std::time::Duration::from_micros(1), ..event.clone() };
    scene.stream.add_all(&[event.data(), later.data(), event.data()]);
    let service = scene.start();
    assert_eq!(scene.until_stored(2), [event, later]);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [2, 1, 0, 0, 0]);
}

#[test]
fn every_way_to_end_is_counted() {
    let scene = Scene::new();
    let event = Event::new();
    let no_amount = Event { properties: None, ..Event::of_type("purchase") };
    let undecodable: Fields = vec![(b"data".to_vec(), b"\xff".to_vec())];
    scene.stream.add_all(&[
        event.data(),
        event.flat(),
        no_amount.data(),
        Event::of_type("heartbeat").data(),
        Event::of_type("heartbeat").data(),
        undecodable,
    ]);
    let strict = scene.folder().join("strict.wasm");
    std::fs::write(&strict, sluicegate_tests::guests::STRICT).unwrap();
    let service = scene.service().set("GUEST", strict.display()).start();
    scene.until_stored(1);
    scene.stream.until_drained();
    let metrics = service.stop().metrics();
    assert_eq!(metrics.tally(), [1, 1, 1, 2, 1]);
    assert_eq!(usize::try_from(metrics.get("processed")), Ok(scene.stream.acknowledged().len()));
}

#[test]
fn what_an_earlier_run_left_pending_comes_first() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..40).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    scene.stream.make_group();
    scene.stream.read_as("consumer-1", 23);
    assert_eq!(scene.stream.pending().len(), 23);

    // One commit comes after the other, so that the transactions' numbers tell the order.
    let service = scene.service().set("BATCH_SIZE", 5).set("COMMITS_IN_FLIGHT", 1).start();
    assert_eq!(scene.until_stored(40), events);
    scene.stream.until_drained();
    let last_of_old = format!("event_id <= '{}'", events[22].event_id);
    let in_order: bool = scene.database.value(&format!(
        "SELECT max(xmin::text::bigint) FILTER (WHERE {last_of_old}) < min(xmin::text::bigint) FILTER (WHERE NOT {last_of_old})
         FROM events"
    ));
    assert!(in_order, "the pending entries are committed before the new ones");
    assert_eq!(service.stop().metrics().tally(), [40, 0, 0, 0, 0]);
}

#[test]
fn only_ones_own_pending_entries_are_taken() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..4).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    scene.stream.make_group();
    scene.stream.read_as("42", 2);
    scene.stream.read_as("consumer-1", 2);
    // A consumer's name that looks like a number is still a name.
    let service = scene.service().set("CONSUMER_NAME", "42").start();
    assert_eq!(scene.until_stored(2), events[..2]);
    service.until_logged(&["running", "consumer=\"42\""]);
    service.stop();
    assert_eq!(scene.stream.pending().len(), 2);
}

/// Three replicas start at once on an empty database: all make extension, tables and group.
#[test]
fn replicas_start_together_and_share_the_load() {
    let scene = Scene::new();
    let names = ["a", "b", "c"];
    let replica =
        |name: &&str| scene.service().set("CONSUMER_NAME", name).set("BATCH_SIZE", 20).start_unready();
    let replicas: Vec<Service> = names.iter().map(replica).collect();
    for replica in &replicas {
        replica.until_logged(&["running"]);
    }
    let producer = Producer::start(&scene.stream, Event::new);
    until("every replica at work", || {
        let consumers: Vec<redis::Value> =
            scene.stream.run(cmd("XINFO").arg("CONSUMERS").arg(&scene.stream.name).arg(&scene.stream.group));
        match producer.count() {
            500.. if consumers.len() == names.len() => Ok(()),
            count => Err(format!("{} consumers, {count} events", consumers.len())),
        }
    });
    let sent = producer.stop();
    scene.until_stored(sent.len());
    scene.stream.until_drained();
    let processed: Vec<u64> =
        replicas.into_iter().map(|replica| replica.stop().metrics().get("stored")).collect();
    assert_eq!(processed.iter().sum::<u64>(), u64::try_from(sent.len()).unwrap());
    assert!(processed.iter().all(|count| *count > 0), "{processed:?}");
}
