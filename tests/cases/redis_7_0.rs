//! Tests on the oldest Redis that is supported whatever depends on how the server behaves.

use std::time::Duration;

use redis::cmd;
use rustix::process::Signal;
use sluicegate_demo::servers::{Options, Redis};
use sluicegate_tests::{Event, Fields, Metrics, Proxy, Scene, fields, shared_postgres_url, until};

/// Starts a server of the test's own, with a scene on it.
fn redis_7_0() -> (Redis, Scene) {
    let redis = Redis::start_7_0(&Options::default()).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    let info: String = scene.stream.run(cmd("INFO").arg("server"));
    assert!(info.contains("redis_version:7.0."), "{info}");
    (redis, scene)
}

fn send(scene: &Scene, count: usize) -> (Vec<Event>, Vec<String>) {
    let events: Vec<Event> = (0..count).map(|_| Event::new()).collect();
    let ids = scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    (events, ids)
}

/// The service starts on a server without the stream, and is ended while it waits for entries.
#[test]
fn new_entries() {
    let (_redis, scene) = redis_7_0();
    let service = scene.service().set("BLOCK", "1m").set("MONITORING_INTERVAL", "100ms").start();
    service.until_logged(&["consumer group created at 0"]);
    let (events, _) = send(&scene, 250);
    scene.stream.add(&fields([("data", "no JSON")]));
    assert_eq!(scene.until_stored(250), events);
    scene.stream.until_drained();
    until("a lag of 0 in the log", || match Metrics::last(&service.log()) {
        Some(metrics) if metrics.get("processed") == 251 && metrics.get("lag") == 0 => Ok(()),
        last => Err(format!("{last:?}")),
    });
    assert_eq!(scene.database.letters().len(), 1);
    let ended = service.stop(); // while it waits for entries
    assert!(ended.took < Duration::from_secs(2), "{:?}", ended.took);
    assert_eq!(ended.metrics().tally(), [250, 0, 1, 0, 0]);
}

/// What the service had read and not acknowledged is read again.
#[test]
fn a_kill() {
    let (_redis, scene) = redis_7_0();
    scene.start().stop(); // makes the tables
    let (mut events, _) = send(&scene, 60);
    let ended = scene.service().set("BATCH_SIZE", 10).with_failpoints("before_insert=kill/3").run_to_end();
    assert_eq!(ended.code, None, "killed");
    let left = scene.stream.pending().len();
    assert!(left > 0, "it had read more than it acknowledged");
    events.extend(send(&scene, 5).0);
    let service = scene.start();
    service.until_logged(&["reading again what was pending"]);
    assert_eq!(scene.until_stored(65), events);
    scene.stream.until_drained();
    service.stop().metrics().tally();
}

/// The consumer's entries are claimed, and the deleted ones become dead letters.
#[test]
fn a_consumer_that_is_gone() {
    let (_redis, scene) = redis_7_0();
    let (mut events, ids) = send(&scene, 35);
    scene.stream.make_group();
    scene.stream.read_as("gone", 35);
    let deleted = [0, 17, 34];
    let xdel: usize = scene.stream.run(cmd("XDEL").arg(&scene.stream.name).arg(&deleted.map(|i| &ids[i])));
    assert_eq!(xdel, 3);
    let service = scene.service().set("BATCH_SIZE", 10).set("CLAIM_MIN_IDLE", "200ms").start();
    deleted.into_iter().rev().for_each(|i| drop(events.remove(i)));
    assert_eq!(scene.until_stored(32), events);
    until("nothing pending", || match scene.stream.pending().len() {
        0 => Ok(()),
        found => Err(format!("{found}")),
    });
    let letters = scene.database.letters();
    let letters: Vec<_> =
        letters.iter().map(|letter| (letter.entry_id.as_str(), letter.reason.as_str())).collect();
    assert_eq!(letters.len(), 3, "{letters:?}");
    for i in deleted {
        assert!(letters.contains(&(ids[i].as_str(), "deleted")), "{letters:?}");
    }
    assert_eq!(service.stop().metrics().tally(), [32, 0, 0, 0, 3]);
}

/// The entries are lost, and counted once, though this Redis counts as if nothing was skipped.
#[test]
fn entries_that_were_trimmed_unread() {
    let (_redis, scene) = redis_7_0();
    let service = scene.start();
    send(&scene, 10);
    scene.until_stored(10);
    scene.stream.until_drained();
    service.stop();
    send(&scene, 50);
    let trimmed: u64 = scene.stream.run(cmd("XTRIM").arg(&scene.stream.name).arg("MAXLEN").arg("=").arg(20));
    assert_eq!(trimmed, 40);
    let service = scene.service().set("MONITORING_INTERVAL", "100ms").start();
    service.until_logged(&["entries are lost", "entries=30"]);
    scene.until_stored(30);
    until("a lag of 0 in the log", || match Metrics::last(&service.log()) {
        Some(metrics) if metrics.get("processed") == 20 && metrics.get("lag") == 0 => Ok(()),
        last => Err(format!("{last:?}")),
    });
    let metrics = service.stop().metrics();
    assert_eq!((metrics.get("lost"), metrics.tally()), (30, [20, 0, 0, 0, 0]));
}

/// The reply arrives late, and the entries in it are finished before the end.
#[test]
fn entries_on_their_way_at_the_signal() {
    let (_redis, scene) = redis_7_0();
    let proxy = Proxy::start(scene.stream.url());
    proxy.hold_reply_to(b"\r\n>\r\n"); // of the first XREADGROUP that asks for new entries
    let (events, _) = send(&scene, 1);
    let service = scene.service().set("REDIS_URL", proxy.url(scene.stream.url())).set("BLOCK", "1m").start();
    until("the entry delivered", || match scene.stream.pending().len() {
        1 => Ok(()),
        found => Err(format!("{found} pending")),
    });
    service.signal(Signal::TERM);
    service.until_logged(&["shutting down"]);
    proxy.release();
    service.stop(); // a second signal changes nothing
    assert_eq!(scene.stream.pending().len(), 0);
    assert_eq!(scene.database.events(), events);
}
