//! Tests that what is gone before it could be read is counted once and reported.

use std::thread::sleep;
use std::time::Duration;

use redis::cmd;
use sluicegate_tests::{Event, Fields, Metrics, Scene, Service, block_on, until};

fn data(count: usize) -> Vec<Fields> {
    (0..count).map(|_| Event::new().data()).collect()
}

fn send(scene: &Scene, count: usize) {
    scene.stream.add_all(&data(count));
}

fn lost(service: &Service) -> Vec<String> {
    let find = |line: &str| Some(line.split_once("in_total=")?.1.split(' ').next()?.to_owned());
    service.log().lines().filter(|line| line.contains("entries are lost")).filter_map(find).collect()
}

fn trim(scene: &Scene, length: usize) {
    scene.stream.run::<u64>(cmd("XTRIM").arg(&scene.stream.name).arg("MAXLEN").arg("=").arg(length));
}

#[test]
fn entries_trimmed_while_nobody_read_are_told_once() {
    let scene = Scene::new();
    let service = scene.start();
    send(&scene, 10);
    scene.until_stored(10);
    scene.stream.until_drained();
    service.stop();
    send(&scene, 50);
    trim(&scene, 20);

    let service = scene.service().set("MONITORING_INTERVAL", "100ms").start();
    scene.until_stored(30);
    service.until_logged(&["entries are lost", "entries=30", "in_total=30"]);
    scene.stream.until_drained();
    let metrics = Metrics::all(&service.log()).len();
    until("three more metrics lines", || match Metrics::all(&service.log()).len() {
        found if found >= metrics + 3 => Ok(()),
        found => Err(format!("{found}")),
    });
    assert_eq!(lost(&service), ["30"], "told once");
    let metrics = service.stop().metrics();
    assert_eq!((metrics.get("lost"), metrics.tally()), (30, [20, 0, 0, 0, 0]));
}

#[test]
fn entries_trimmed_while_postgres_hangs_are_told() {
    let scene = Scene::new();
    let service = scene.service().set("MONITORING_INTERVAL", "100ms").set("BATCH_SIZE", 10).start();
    send(&scene, 1);
    scene.until_stored(1);
    let lock = lock(&scene);
    send(&scene, 300);
    // Reading stops by itself when all slots are taken.
    let delivered = until("reading stopped", || {
        let read = scene.stream.group_info("entries-read").unwrap_or_default();
        sleep(Duration::from_millis(300));
        match scene.stream.group_info("entries-read") {
            Some(again) if again == read && again != "1" => Ok(again.parse::<usize>().unwrap()),
            again => Err(format!("{again:?}")),
        }
    });
    trim(&scene, 50);
    let gone = 301 - delivered - 50;
    service.until_logged(&["entries are lost", &format!("in_total={gone}")]);
    block_on(sqlx::Connection::close(lock)).unwrap();
    scene.until_stored(delivered + 50);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().get("lost"), u64::try_from(gone).unwrap());
}

/// Locks the table for as long as the connection lives.
fn lock(scene: &Scene) -> sqlx::PgConnection {
    let mut connection = scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut connection).await.unwrap() });
    connection
}

/// Adds `count` entries at once, and leaves `length` in the stream.
fn burst(scene: &Scene, count: usize, length: usize) {
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for fields in data(count) {
        pipeline.add_command(scene.stream.xadd(&fields));
    }
    pipeline.cmd("XTRIM").arg(&scene.stream.name).arg("MAXLEN").arg("=").arg(length);
    let _: redis::Value = pipeline.query(&mut scene.stream.connect().unwrap()).unwrap();
}

/// The reader gets past the gap before anybody looks at the group, and there are several readers.
#[test]
fn what_is_trimmed_between_two_looks_is_counted_by_one_of_the_replicas() {
    let scene = Scene::new();
    let replica =
        |name: &str| scene.service().set("CONSUMER_NAME", name).set("MONITORING_INTERVAL", "1h").start();
    let replicas = [replica("one"), replica("two"), replica("three")];
    for round in 1..=5 {
        let lock = lock(&scene);
        burst(&scene, 500, 100);
        burst(&scene, 500, 100);
        sleep(Duration::from_millis(200)); // what is read before the lock goes differs from round to round
        block_on(sqlx::Connection::close(lock)).unwrap();
        scene.stream.until_drained();
        assert!(scene.database.events().len() < round * 1_000);
    }
    let stored = scene.database.events().len() as u64;
    let lost: u64 = replicas.map(|replica| replica.stop().metrics().get("lost")).iter().sum();
    assert_eq!(stored + lost, 5_000, "{stored} stored");
    assert!(lost > 3_000, "{lost}");
}

/// Nobody had a chance to read such an entry: the stream was deleted, or its server has evicted it.
#[test]
fn what_was_unread_when_the_stream_was_deleted_is_lost() {
    let scene = Scene::new();
    let service = scene.service().set("BATCH_SIZE", 10).set("BLOCK", "100ms").start();
    send(&scene, 5);
    scene.until_stored(5);
    let lock = lock(&scene);
    burst(&scene, 500, 1_000);
    until("reading stopped", || {
        let read = scene.stream.group_info("entries-read").unwrap_or_default();
        sleep(Duration::from_millis(300));
        match scene.stream.group_info("entries-read") {
            Some(again) if again == read && again != "5" => Ok(()),
            again => Err(format!("{again:?}")),
        }
    });
    let read: u64 = scene.stream.group_info("entries-read").unwrap().parse().unwrap();
    scene.stream.run::<u64>(cmd("DEL").arg(&scene.stream.name));
    send(&scene, 20);
    block_on(sqlx::Connection::close(lock)).unwrap();
    let read_then = usize::try_from(read).unwrap();
    scene.until_stored(read_then + 20);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().get("lost"), 505 - read);
}
