//! Tests that a run whose entries were taken over is fenced: it commits nothing more.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluicegate_tests::{Event, Producer, Scene, Service, guests, until};

/// Another replica claims the entry, or one of the same name reads it again, and decides otherwise.
#[test]
fn a_replica_that_was_frozen_writes_nothing_that_was_taken_over() {
    for claimer in ["claimer", "frozen"] {
        let scene = Scene::new();
        let frozen = scene.service().set("CONSUMER_NAME", "frozen");
        let frozen = frozen.with_failpoints("before_insert=delay:2000/1").start();
        scene.stream.add(&Event { properties: None, ..Event::of_type("purchase") }.data());
        frozen.until_logged(&["failpoint", "before_insert"]);
        frozen.signal(Signal::STOP);
        let service = scene.service().set("GUEST", scene.guest(guests::STRICT));
        let service = service.set("CONSUMER_NAME", claimer).set("CLAIM_MIN_IDLE", "100ms").start();
        scene.stream.until_drained();
        assert_eq!(service.stop().metrics().tally(), [0, 0, 1, 0, 0]);

        frozen.signal(Signal::CONT);
        frozen.until_logged(&["taken over by another", "beginning again"]);
        assert_eq!(scene.database.events(), [], "{claimer}");
        assert_eq!(scene.database.letters().len(), 1);
        // The replica then goes on.
        let new = Event::new();
        scene.stream.add(&new.data());
        assert_eq!(scene.until_stored(1), [new]);
        scene.stream.until_drained();
        assert_eq!(frozen.stop().metrics().tally(), [1, 0, 0, 0, 0]);
    }
}

/// The writer fails while the reader stands still for longer than the stages have to end. What counts is why the writer
/// failed.
#[test]
fn a_fenced_run_begins_again_even_if_its_other_stages_do_not_end() {
    let scene = Scene::new();
    let stalled = scene.service().set("BLOCK", "10ms");
    let stalled = stalled.with_failpoints("before_insert=delay:1000/1;after_read=delay:6000/2").start();
    scene.stream.add(&Event::new().data());
    stalled.until_logged(&["failpoint", "before_insert"]);
    scene.database.execute("UPDATE commits SET fenced_at = now()");
    stalled.until_logged(&["taken over by another", "beginning again"]);
    scene.until_stored(1);
    scene.stream.until_drained();
    assert_eq!(stalled.stop().metrics().tally(), [1, 0, 0, 0, 0]);
}

/// Each replica reads again what the other has in flight. They pause, so one gets something done.
#[test]
fn two_replicas_of_one_name_do_not_fence_each_other_without_a_pause() {
    let scene = Scene::new();
    let producer = Producer::paced(&scene.stream, 5, Duration::from_millis(50), Event::new);
    // Each has something in flight whenever the other begins.
    let start = || scene.service().with_failpoints("before_insert=delay:200/1").start();
    let services = [start(), start()];
    let until_fenced = |times: usize| {
        until(&format!("{times} fenced runs"), || {
            let fenced = |service: &Service| {
                service
                    .log()
                    .lines()
                    .filter(|line| line.contains("two replicas share a CONSUMER_NAME"))
                    .count()
            };
            match services.iter().map(fenced).max() {
                Some(found) if found >= times => Ok(()),
                found => Err(format!("{found:?}")),
            }
        });
    };
    until_fenced(1);
    let first = Instant::now();
    until_fenced(3);
    // The pauses are at least one second and two. The test may have seen the first fence late.
    assert!(first.elapsed() > Duration::from_millis(2_500), "{:?}", first.elapsed());
    let sent = producer.stop();
    scene.until_stored(sent.len());
    scene.stream.until_drained();
}
