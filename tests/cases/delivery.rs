//! Tests the life of pending entries, what was lost unread, and what the counters say of both.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use redis::cmd;
use sluicegate_tests::{
    Event, Fault, Fields, Metrics, Producer, Proxy, Scene, Service, block_on, fields, guests, until,
};
use sqlx::Connection as _;

fn send(scene: &Scene, count: usize) -> (Vec<Event>, Vec<String>) {
    let events: Vec<Event> = (0..count).map(|_| Event::new()).collect();
    let ids = scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    (events, ids)
}

fn delete(scene: &Scene, ids: &[&String]) {
    let deleted: usize = scene.stream.run(cmd("XDEL").arg(&scene.stream.name).arg(ids));
    assert_eq!(deleted, ids.len());
}

fn until_letters(scene: &Scene, count: usize) -> BTreeMap<String, String> {
    until(&format!("{count} dead letters"), || match scene.database.letters().len() {
        found if found == count => Ok(()),
        found => Err(format!("{found}")),
    });
    scene.database.letters().into_iter().map(|letter| (letter.entry_id, letter.reason)).collect()
}

/// The consumer has left more than one batch.
#[test]
fn what_a_consumer_that_is_gone_left_is_claimed_to_the_end() {
    let scene = Scene::new();
    let (mut events, ids) = send(&scene, 95);
    scene.stream.make_group();
    scene.stream.read_as("gone", 95);
    let deleted = [0, 31, 32, 94];
    delete(&scene, &deleted.map(|i| &ids[i]));

    let service = scene.service().set("BATCH_SIZE", 10).set("CLAIM_MIN_IDLE", "300ms").start();
    scene.until_stored(91);
    service.until_logged(&["claimed what other consumers left pending"]);
    scene.stream.until_drained();
    for i in deleted.into_iter().rev() {
        events.remove(i);
    }
    assert_eq!(scene.database.events(), events);
    let wanted = deleted.map(|i| (ids[i].clone(), "deleted".to_owned()));
    assert_eq!(until_letters(&scene, 4), wanted.into());
    assert_eq!(service.stop().metrics().tally(), [91, 0, 0, 0, 4]);
}

/// Deleted entries become dead letters even if their claimer dies before that is committed.
#[test]
fn deleted_entries_of_a_consumer_that_is_gone_outlive_who_claims_them() {
    for point in ["after_read=kill/2", "after_judge=kill/1", "before_commit=kill/1"] {
        let scene = Scene::new();
        scene.start().stop(); // makes the tables
        let (mut events, ids) = send(&scene, 12);
        scene.stream.read_as("gone", 12);
        delete(&scene, &[&ids[3], &ids[7]]);
        // Commits come one at a time, and the deleted entries, which are read first, come first.
        let launch = || scene.service().set("CLAIM_MIN_IDLE", "100ms").set("COMMITS_IN_FLIGHT", 1);
        // The first read finds no pending entries of the service's own.
        let ended = launch().with_failpoints(point).run_to_end();
        assert_eq!(ended.code, None, "killed at {point}");
        let service = launch().start();
        let wanted = [3, 7].map(|i| (ids[i].clone(), "deleted".to_owned()));
        assert_eq!(until_letters(&scene, 2), wanted.into(), "{point}");
        events.remove(7);
        events.remove(3);
        assert_eq!(scene.until_stored(10), events);
        scene.stream.until_drained();
        assert_eq!(service.stop().metrics().tally(), [10, 0, 0, 0, 2]);
    }
}

/// A later crash is noticed too, and a replica that is only slow keeps its entries for its time.
#[test]
fn replicas_take_over_from_one_that_crashed() {
    let scene = Scene::new();
    let replica = |name: &str| scene.service().set("CONSUMER_NAME", name).set("CLAIM_MIN_IDLE", "2s").start();
    let (survivor, victim) = (replica("survivor"), replica("victim"));
    let lock = LockedTable::lock(&scene);
    let producer = Producer::start(&scene.stream, Event::new);
    producer.until_sent(300);
    until("entries held by the victim", || {
        let mut pending = cmd("XPENDING");
        pending.arg(&scene.stream.name).arg(&scene.stream.group).arg("-").arg("+").arg(1).arg("victim");
        let found: Vec<redis::Value> = scene.stream.run(&pending);
        if found.is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
    victim.crash();
    lock.release();
    let sent = producer.stop();
    scene.until_stored(sent.len());
    scene.stream.until_drained();
    let log = survivor.stop().log;
    assert!(log.contains("claimed what other consumers left pending"), "{log}");
}

/// Locks the table `events`, so that every insert waits.
struct LockedTable(sqlx::PgConnection);

impl LockedTable {
    fn lock(scene: &Scene) -> Self {
        let mut connection = scene.database.connect();
        block_on(async {
            sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut connection).await.unwrap();
        });
        Self(connection)
    }

    fn release(mut self) {
        block_on(async {
            sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await.unwrap();
            self.0.close().await.unwrap();
        });
    }
}

#[test]
fn what_is_in_flight_is_not_claimed_however_long_it_takes() {
    let scene = Scene::new();
    let service = scene.service().set("BATCH_SIZE", 10).set("CLAIM_MIN_IDLE", "200ms").start();
    let lock = LockedTable::lock(&scene);
    let (mut events, _) = send(&scene, 30);
    until("entries in flight", || match scene.stream.pending().len() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    for _ in 0..8 {
        sleep(Duration::from_millis(200)); // the time that is the subject
        events.extend(send(&scene, 5).0);
        let deliveries = scene.stream.deliveries();
        assert!(deliveries.values().all(|count| *count == 1), "{deliveries:?}");
    }
    lock.release();
    assert_eq!(scene.until_stored(70), events);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [70, 0, 0, 0, 0], "nothing was processed twice");
}

/// The process may die of the entry. Those that were read with it are not to blame.
#[test]
fn an_entry_that_was_delivered_too_often_costs_only_itself() {
    for consumer in ["consumer-1", "gone"] {
        let scene = Scene::new();
        let (mut events, ids) = send(&scene, 20);
        scene.stream.make_group();
        scene.stream.read_as(consumer, 20);
        scene.stream.claim_as(consumer, &ids[6..9], 3); // suspects
        scene.stream.claim_as(consumer, &ids[7..8], 5); // delivered five times before
        let service = scene.service().set("MAX_DELIVERIES", 5).set("CLAIM_MIN_IDLE", "100ms").start();
        let letters = until_letters(&scene, 1);
        assert_eq!(letters, [(ids[7].clone(), "delivered_too_often".to_owned())].into());
        let poison = events.remove(7);
        assert_eq!(scene.until_stored(19), events);
        scene.stream.until_drained();
        let letter = scene.database.letters().remove(0);
        assert_eq!(letter.fields, Some(poison.data()), "it can be replayed");
        assert_eq!(scene.database.value::<i64>("SELECT deliveries FROM dead_letters"), 6);
        assert_eq!(service.stop().metrics().tally(), [19, 0, 0, 0, 1]);
    }
}

/// The process is killed after the rules have answered, while the database is locked.
#[test]
fn crashes_alone_cost_no_entry() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    let (events, _) = send(&scene, 30);
    let lock = LockedTable::lock(&scene);
    for crash in 0..8 {
        let service = scene.service().set("BATCH_SIZE", 100).set("MAX_DELIVERIES", 4).start();
        let read_again = || -> usize {
            let log = service.log();
            let lines =
                log.lines().filter_map(|line| line.split_once("reading again what was pending entries="));
            lines.map(|(_, count)| count.split(' ').next().unwrap().parse::<usize>().unwrap()).sum()
        };
        until("all of it in flight", || match (scene.stream.pending().len(), read_again()) {
            (30, 30) => Ok(()),
            (30, 0) if crash == 0 => Ok(()),
            found => Err(format!("{found:?}")),
        });
        if crash % 2 == 0 {
            service.crash();
        } else {
            service.end_with(rustix::process::Signal::TERM);
        }
    }
    lock.release();
    let service = scene.service().set("MAX_DELIVERIES", 4).start();
    assert_eq!(scene.until_stored(30), events);
    scene.stream.until_drained();
    assert_eq!(scene.database.letters(), []);
    service.stop();
}

/// The process dies of an entry again and again while the rules judge it, until it is given up.
#[test]
fn an_entry_that_the_process_dies_of_is_given_up() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    let launch = || {
        let guest = guests::hostile("endless_loop").display().to_string();
        scene.service().set("MAX_DELIVERIES", 4).set("GUEST", guest).set("GUEST_TIME_LIMIT", "1m")
    };
    let poison = scene.stream.add(&guests::provoking(&Event::new(), None));
    for crash in 1..=4 {
        let service = launch().start();
        until("the rules to be asked", || match scene.stream.deliveries().get(&poison) {
            Some(&count) if count == crash => Ok(()),
            found => Err(format!("{found:?}")),
        });
        std::thread::sleep(Duration::from_millis(300)); // the first delivery is counted before the rules are asked
        service.crash();
    }
    let service = launch().start();
    assert_eq!(until_letters(&scene, 1), [(poison, "delivered_too_often".to_owned())].into());
    scene.stream.until_drained();
    service.stop();
}

/// To a blocked reader, FLUSHALL, a deleted stream and a group destroyed by mistake look like this.
#[test]
fn a_group_that_is_lost_is_made_again_at_the_beginning() {
    for command in ["DEL", "DESTROY"] {
        let scene = Scene::new();
        let service = scene.service().set("BLOCK", "20s").start();
        let (mut events, _) = send(&scene, 20);
        scene.until_stored(20);
        scene.stream.until_drained();
        let name = &scene.stream.name;
        match command {
            "DEL" => scene.stream.run::<u64>(cmd("DEL").arg(name)),
            _ => scene.stream.run::<u64>(cmd("XGROUP").arg("DESTROY").arg(name).arg(&scene.stream.group)),
        };
        events.extend(send(&scene, 30).0);
        service.until_logged(&["the consumer group is gone"]);
        assert_eq!(scene.until_stored(50), events);
        scene.stream.until_drained();
        let repeated = if command == "DEL" { 0 } else { 20 };
        let metrics = service.stop().metrics();
        assert_eq!(metrics.tally(), [50, repeated, 0, 0, 0], "what is left is read again, and added once");
        assert_eq!(metrics.get("lost"), 0, "{command}");
    }
}

fn until_state(service: &Service, wanted: &str) {
    until(&format!("the state {wanted}"), || match Metrics::last(&service.log()) {
        Some(metrics) if metrics.state() == wanted => Ok(()),
        metrics => Err(format!("{metrics:?}")),
    });
}

#[test]
fn the_state_tells_what_is_waited_for() {
    let scene = Scene::new();
    let (redis, postgres) = (Proxy::start(scene.stream.url()), Proxy::start(&scene.database.url()));
    let service = scene
        .service()
        .set("REDIS_URL", redis.url(scene.stream.url()))
        .set("POSTGRES_URL", postgres.url(&scene.database.url()))
        .set("MONITORING_INTERVAL", "100ms")
        .start();
    let mut count = 0;
    let producer = Producer::start(&scene.stream, move || {
        count += 1;
        if count % 7 == 0 { Event { user_id: String::new(), ..Event::new() } } else { Event::new() }
    });
    producer.until_sent(100);
    until_state(&service, "running");
    for (proxy, waiting) in [(&postgres, "waiting for postgres"), (&redis, "waiting for redis")] {
        proxy.set(Fault::Cut);
        until_state(&service, waiting);
        proxy.set(Fault::None);
        until_state(&service, "running");
        producer.until_sent(100);
    }
    let sent = producer.stop();
    scene.stream.until_drained();
    let log = service.stop().log;
    let all = Metrics::all(&log);
    for metrics in &all {
        metrics.tally(); // checks the sums
    }
    assert_eq!(all.last().unwrap().get("in_flight"), 0);
    let rejected = sent.iter().filter(|sent| sent.event.user_id.is_empty()).count();
    assert_eq!(scene.database.letters().len(), rejected);
    assert_eq!(scene.database.events().len(), sent.len() - rejected);
}

/// The service deletes older letters by itself.
#[test]
fn letters_are_kept_as_long_as_the_setting_says() {
    let scene = Scene::new();
    let service = scene.start();
    scene.stream.add_all(&[fields([("data", "one")]), fields([("data", "two")])]);
    until_letters(&scene, 2);
    service.stop();
    scene.database.execute(
        "UPDATE dead_letters SET recorded_at = now() - interval '49 hours' WHERE id = (SELECT min(id) FROM dead_letters)",
    );
    let service = scene.service().set("DEAD_LETTER_RETENTION", "3d").start();
    scene.stream.until_drained();
    service.stop();
    assert_eq!(scene.database.letters().len(), 2, "neither is three days old");
    let service = scene.service().set("DEAD_LETTER_RETENTION", "2d").start();
    service.until_logged(&["old dead letters deleted", "purged=1"]);
    let left = scene.database.letters();
    assert_eq!(
        left.into_iter().map(|letter| letter.fields).collect::<Vec<_>>(),
        [Some(fields([("data", "two")]))]
    );
    service.stop();
}
