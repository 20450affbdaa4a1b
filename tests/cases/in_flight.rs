//! Tests that no consumer claims what it has in flight, and that what is stuck holds up nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::cmd;
use sluicegate_tests::{
    Event, Fault, Fields, GRANTS, Metrics, Proxy, STATEMENTS, Scene, Stage, block_on, event_of, until,
};

/// Lasts much longer than a consumer may hold entries before others take them over.
const LOCKED: Duration = Duration::from_secs(4);
const MIN_IDLE_MS: u64 = 400;

/// The lock is held for longer than entries may be idle, with all slots taken and more to read.
#[test]
fn rules_count_each_entry_once_though_their_row_is_locked() {
    let stage = Stage::new();
    stage.scene.database.execute("INSERT INTO user_activity VALUES ('ada', 0, now())");
    let mut other = stage.scene.database.connect();
    let lock = "BEGIN; SELECT events FROM user_activity WHERE user_id = 'ada' FOR UPDATE";
    block_on(async { sqlx::raw_sql(lock).execute(&mut other).await.unwrap() });
    let events: Vec<Event> = (0..600).map(|_| event_of("ada")).collect();
    let (first, rest) = events.split_at(300);
    stage.add(first);
    let service = stage
        .service(&format!("{GRANTS}{STATEMENTS}"))
        .set("BATCH_SIZE", 20)
        .set("CLAIM_MIN_IDLE", format!("{}ms", MIN_IDLE_MS))
        .start();
    let begun = Instant::now();
    for part in rest.chunks(10) {
        stage.add(part);
        sleep((LOCKED / 30).min(LOCKED.saturating_sub(begun.elapsed()))); // a load that goes on meanwhile
    }
    block_on(async { sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap() });
    stage.scene.until_stored(600);
    stage.scene.stream.until_drained();
    let ended = service.stop();
    assert_eq!(stage.counted("ada"), 600, "{}", ended.log);
    assert_eq!(ended.metrics().tally(), [600, 0, 0, 0, 0]);
    assert!(
        !ended.log.contains("claimed what other consumers"),
        "there is no other consumer:\n{}",
        ended.log
    );
}

/// A new group would deliver the entries again, and the rules would count them twice.
#[test]
fn a_group_that_is_lost_is_not_made_again_before_what_is_in_flight_has_ended() {
    let scene = Scene::new();
    let service = scene.service().set("BLOCK", "100ms").start();
    let mut other = scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut other).await.unwrap() });
    let events: Vec<Event> = (0..30).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    until("a batch in flight", || match scene.stream.pending().len() {
        30 => Ok(()),
        found => Err(format!("{found} pending")),
    });
    let (name, group) = (&scene.stream.name, &scene.stream.group);
    scene.stream.run::<u64>(cmd("XGROUP").arg("DESTROY").arg(name).arg(group));
    service.until_logged(&["the consumer group is gone"]);
    let created = "consumer group created at 0";
    let before = service.log().matches(created).count();
    sleep(Duration::from_secs(1)); // ten reads, of which the first would make it again
    assert_eq!(service.log().matches(created).count(), before, "{}", service.log());
    block_on(async { sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap() });
    until("the group made again", || match service.log().matches(created).count() {
        found if found > before => Ok(()),
        found => Err(format!("{found} times")),
    });
    assert_eq!(scene.until_stored(30), events);
    scene.stream.until_drained();
    let ended = service.stop();
    assert_eq!(ended.log.matches("the consumer group is gone").count(), 1, "{}", ended.log);
}

/// The lock stands for a compression or a reorder of one old chunk.
#[test]
fn one_late_event_for_a_locked_chunk_does_not_stop_the_others() {
    let scene = Scene::new();
    let old = || Event { time: chrono::Utc::now() - chrono::TimeDelta::weeks(50), ..Event::new() };
    let service = scene
        .service()
        .set("BATCH_SIZE", 10)
        .set("CLAIM_MIN_IDLE", format!("{}ms", MIN_IDLE_MS))
        .set("PARTIAL_BATCH_DELAY", "0ms")
        .set("MONITORING_INTERVAL", "100ms")
        .start();
    scene.stream.add(&old().data());
    scene.until_stored(1);
    let chunk: String = scene.database.value("SELECT tableoid::regclass::text FROM events");
    let mut other = scene.database.connect();
    let lock = format!("BEGIN; LOCK TABLE {chunk}");
    block_on(async { sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut other).await.unwrap() });

    let late = old();
    scene.stream.add(&late.data());
    let fresh = |count: usize| (0..count).map(|_| Event::new().data()).collect::<Vec<Fields>>();
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < LOCKED {
        scene.stream.add_all(&fresh(10));
        sent += 10;
        sleep(Duration::from_millis(100)); // a load that goes on meanwhile
    }
    // Only the late event's batch waits. A query on the table would wait, too.
    until("the others to be stored", || {
        match Metrics::last(&service.log()).map(|metrics| metrics.get("stored")) {
            Some(found) if found >= sent - 10 => Ok(()),
            found => Err(format!("{found:?} of {sent}")),
        }
    });
    block_on(async { sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap() });
    scene.stream.until_drained();
    let ended = service.stop();
    assert_eq!(ended.metrics().tally(), [sent + 2, 0, 0, 0, 0], "{}", ended.log);
}

/// Redis looks through all pending entries, whichever command asks.
#[test]
fn many_pending_entries_of_a_live_consumer_hold_up_nothing() {
    const ENTRIES: usize = 100_000;
    let scene = Scene::new();
    scene.stream.make_group();
    let fields: Vec<Fields> = vec![Event::new().data(); 1_000];
    for _ in 0..ENTRIES / fields.len() {
        scene.stream.add_all(&fields);
    }
    let abandoned = Event::new();
    let id = scene.stream.add(&abandoned.data());
    scene.stream.read_as("alive", ENTRIES + 1);
    let (name, group) = (&scene.stream.name, &scene.stream.group);
    let hour: u64 = 3_600_000;
    let mut abandon = cmd("XCLAIM");
    abandon.arg(name).arg(group).arg("gone").arg(0).arg(&id).arg("IDLE").arg(hour);
    scene.stream.run::<redis::Value>(&abandon);
    let service = scene.service().set("CLAIM_MIN_IDLE", format!("{}ms", hour / 2)).start();
    let begun = Instant::now();
    assert_eq!(scene.until_stored(1), [abandoned]);
    let event = Event::new();
    scene.stream.add(&event.data());
    scene.until_stored(2);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let ended = service.stop();
    assert_eq!(ended.metrics().tally(), [2, 0, 0, 0, 0], "{}", ended.log);
}

/// Time and again, somebody else takes the entry between the look that finds it and the take.
#[test]
fn what_another_takes_meanwhile_stays_with_it() {
    let scene = Scene::new();
    scene.stream.make_group();
    let event = Event::new();
    let id = scene.stream.add(&event.data());
    scene.stream.read_as("first", 1);
    let (name, group) = (&scene.stream.name, &scene.stream.group);
    let claim = |consumer: &str| {
        let mut claim = cmd("XCLAIM");
        claim.arg(name).arg(group).arg(consumer).arg(0).arg(&id).arg("IDLE").arg(3_600_000).arg("JUSTID");
        scene.stream.run::<redis::Value>(&claim);
    };
    let proxy = Proxy::start(scene.stream.url());
    proxy.set(Fault::Delay(Duration::from_millis(150)));
    let launch = scene.service().set("REDIS_URL", proxy.url(scene.stream.url()));
    let launch = launch.set("CLAIM_MIN_IDLE", "100ms").set("BLOCK", "100ms");
    let (claiming, begun) = (AtomicBool::new(true), Instant::now());
    let service = std::thread::scope(|scope| {
        scope.spawn(|| {
            for consumer in ["second", "third"].into_iter().cycle() {
                if !claiming.load(Ordering::Relaxed) || begun.elapsed() > Duration::from_secs(60) {
                    return;
                }
                claim(consumer);
                sleep(Duration::from_millis(20)); // the others' pace, much faster than a reply
            }
        });
        let service = launch.start();
        service.until_logged(&["running redis="]);
        sleep(Duration::from_secs(2)); // for several looks, and what would be taken after them
        let rows = scene.database.value::<i64>("SELECT count(*) FROM events");
        claiming.store(false, Ordering::Relaxed);
        assert_eq!(rows, 0, "{}", service.log());
        service
    });
    proxy.set(Fault::None);
    assert_eq!(scene.until_stored(1), [event]);
    scene.stream.until_drained();
    service.stop();
}
