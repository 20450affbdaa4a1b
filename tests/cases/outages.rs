//! Tests that outages under load lose nothing, and that nothing is acknowledged too early.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rustix::process::Signal;
use sluicegate_demo::servers::{Options, Postgres, Redis};
use sluicegate_tests::{
    Event, Fields, Producer, Scene, Sent, block_on, shared_postgres_url, shared_redis_url, until,
};
use sqlx::Connection as _;
use uuid::Uuid;

/// Returns the IDs of the stored events.
fn stored(scene: &Scene) -> HashSet<Uuid> {
    scene.database.events().iter().map(|event| event.event_id).collect()
}

/// Checks that everything that Redis accepted is stored, and nothing besides.
fn check_all_stored(scene: &Scene, sent: &[Sent]) {
    scene.stream.until_drained();
    let rows = scene.database.events();
    let wanted: BTreeMap<Uuid, &Event> = sent.iter().map(|sent| (sent.event.event_id, &sent.event)).collect();
    let found: BTreeMap<Uuid, &Event> = rows.iter().map(|event| (event.event_id, event)).collect();
    assert_eq!(found.len(), rows.len(), "no event is stored twice");
    let missing: Vec<&Event> =
        wanted.values().filter(|event| !found.contains_key(&event.event_id)).copied().collect();
    assert_eq!(missing, Vec::<&Event>::new());
    assert!(wanted.iter().all(|(id, event)| found[id] == *event), "every event is stored as it was sent");
    assert_eq!(scene.database.letters(), []);
}

/// Checks invariant 1 on a service that cannot mend anything meanwhile.
fn check_acknowledged_are_stored(scene: &Scene, sent: &[Sent]) {
    let stored = stored(scene);
    let by_id: BTreeMap<&str, &Event> = sent.iter().map(|sent| (sent.id.as_str(), &sent.event)).collect();
    let acknowledged = scene.stream.acknowledged();
    let lost: BTreeSet<&String> = acknowledged
        .iter()
        .filter(|id| by_id.get(id.as_str()).is_some_and(|event| !stored.contains(&event.event_id)))
        .collect();
    assert_eq!(lost, BTreeSet::new(), "acknowledged, and not in the table");
    assert!(!acknowledged.is_empty(), "some were acknowledged before");
}

#[test]
fn postgres_crashes_under_load() {
    let mut postgres = Postgres::start(&Options::default()).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    let service = scene.service().set("BATCH_SIZE", 20).start();
    let producer = Producer::start(&scene.stream, Event::new);
    producer.until_sent(300);
    postgres.kill().unwrap();
    service.until_logged(&["writing to postgres failed; trying again"]);
    producer.until_sent(300);

    // The service stands still while the test looks.
    service.signal(Signal::STOP);
    postgres.start_again().unwrap();
    let sent = producer.stop();
    check_acknowledged_are_stored(&scene, &sent);
    service.signal(Signal::CONT);
    check_all_stored(&scene, &sent);
    assert_eq!(service.stop().metrics().get("pending"), 0);
}

#[test]
fn sigterm_while_postgres_is_away_leaves_the_rest_to_the_next_start() {
    let mut postgres = Postgres::start(&Options::default()).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    let service = scene.service().set("BATCH_SIZE", 20).start();
    let producer = Producer::start(&scene.stream, Event::new);
    producer.until_sent(300);
    postgres.kill().unwrap();
    service.until_logged(&["writing to postgres failed; trying again"]);
    service.stop(); // within 5 s, code 0
    let sent = producer.stop();
    postgres.start_again().unwrap();
    check_acknowledged_are_stored(&scene, &sent);
    assert!(!scene.stream.pending().is_empty(), "what was read and not stored is still pending");

    let service = scene.start();
    check_all_stored(&scene, &sent);
    service.stop();
}

#[test]
fn redis_crashes_under_load() {
    let options = Options { settings: vec![("appendfsync".to_owned(), "always".to_owned())] };
    let mut redis = Redis::start(&options).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    let service = scene.service().set("BATCH_SIZE", 20).start();
    let producer = Producer::start(&scene.stream, Event::new);
    for crash in 1..=2 {
        producer.until_sent(300);
        redis.kill().unwrap();
        until("the crash noticed", || match service.log().matches("reading failed; trying again").count() {
            noticed if noticed >= crash => Ok(()),
            noticed => Err(format!("{noticed} of {crash}")),
        });
        redis.start_again().unwrap();
    }
    producer.until_sent(300);
    let sent = producer.stop();
    check_all_stored(&scene, &sent);
    assert_eq!(service.stop().metrics().get("pending"), 0);
}

#[test]
fn a_stream_that_is_deleted_is_made_again() {
    let scene = Scene::new();
    let service = scene.start();
    let first = Event::new();
    scene.stream.add(&first.data());
    scene.until_stored(1);
    scene.stream.run::<u64>(redis::cmd("DEL").arg(&scene.stream.name));
    service.until_logged(&["the consumer group is gone"]);
    scene.stream.add_all(&[first.data(), Event::new().data()]);
    scene.until_stored(2);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [2, 1, 0, 0, 0]);
}

#[test]
fn servers_may_come_up_after_the_service() {
    let mut redis = Redis::start(&Options::default()).unwrap();
    let mut postgres = Postgres::start(&Options::default()).unwrap();
    let scene = Scene::on(&redis.url(), &postgres.url());
    redis.stop().unwrap();
    postgres.stop().unwrap();

    let service = scene.service().start_unready();
    service.until_logged(&["waiting for redis", &redis.port().to_string()]);
    service.until_logged(&["waiting for postgres", &postgres.port().to_string()]);
    redis.start_again().unwrap();
    let event = Event::new();
    scene.stream.add(&event.data());
    postgres.start_again().unwrap();
    service.until_logged(&["running"]);
    assert_eq!(scene.until_stored(1), [event]);
    service.stop();
}

/// Ends the service's connections, as an administrator or a failover does.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'sluicegate'";

/// Ends only the connections whose statement waits for a lock.
const TERMINATE_BLOCKED: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'sluicegate' AND wait_event_type = 'Lock'";

/// Each batch is in the middle of its statement when its connection is cut.
#[test]
fn connections_cut_in_mid_batch_acknowledge_nothing() {
    let scene = Scene::new();
    let service = scene.service().set("BATCH_SIZE", 10).start();
    let mut lock = scene.database.connect();
    let transaction = block_on(async {
        let mut transaction = lock.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE events").execute(&mut *transaction).await.unwrap();
        transaction
    });
    let mut events: Vec<Event> = (0..200).map(|_| Event::new()).collect();
    let mut entries: Vec<Fields> = events.iter().map(Event::data).collect();
    entries.push(sluicegate_tests::fields([("data", "no JSON")]));
    scene.stream.add_all(&entries);
    for _ in 0..3 {
        until("connections cut in mid-statement", || match scene.database.value::<i64>(TERMINATE_BLOCKED) {
            0 => Err("no statement waiting".to_owned()),
            _ => Ok(()),
        });
    }
    service.until_logged(&["writing to postgres failed; trying again"]);
    assert_eq!(scene.stream.acknowledged().len(), 0, "nothing is acknowledged that is not committed");

    block_on(transaction.rollback()).unwrap();
    let rows = scene.until_stored(200);
    events.sort_by_key(|event| event.event_id);
    assert_eq!(rows, events);
    scene.stream.until_drained();
    assert_eq!(scene.database.letters().len(), 1);
    service.stop();
}

#[test]
fn connections_cut_under_load_lose_nothing() {
    let scene = Scene::new();
    let service = scene.service().set("BATCH_SIZE", 10).start();
    let producer = Producer::start(&scene.stream, Event::new);
    for _ in 0..10 {
        producer.until_sent(50);
        let _: i64 = scene.database.value(TERMINATE);
    }
    let sent = producer.stop();
    check_all_stored(&scene, &sent);
    assert!(service.stop().log.contains("trying again"), "some batch was hit");
}

#[test]
fn a_killed_service_leaves_everything_to_the_next_start() {
    let scene = Scene::new();
    let producer = Producer::start(&scene.stream, Event::new);
    for _ in 0..3 {
        let service = scene.service().set("BATCH_SIZE", 10).start();
        producer.until_sent(200);
        service.crash();
    }
    let sent = producer.stop();
    check_acknowledged_are_stored(&scene, &sent);
    let service = scene.start();
    check_all_stored(&scene, &sent);
    service.stop();
}
