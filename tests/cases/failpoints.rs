//! Tests that each entry ends once although the service fails, stalls or dies at each step of its
//! work, again and again, under load. See `host/src/failpoint.rs`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use sluicegate_tests::{Load, Scene};

/// Counts the entries that must pass within `BOUND`, however often the service fails.
const ENTRIES: u64 = 600;
const BOUND: Duration = Duration::from_secs(90);

/// Checks that a load goes through with the action at this point, however often the service dies.
fn survive(point: &str, action: &str) {
    let scene = Scene::new();
    let points = format!("{point}={action}");
    let launch = || {
        let service = scene.service().set("BATCH_SIZE", 20).set("PARTIAL_BATCH_DELAY", "0ms");
        service.set("CLAIM_MIN_IDLE", "300ms").set("BLOCK", "100ms").with_failpoints(&points).start_unready()
    };
    let mut service = launch();
    let mut load = Load::start(&scene.stream, 1, 10);
    let start = Instant::now();
    let (mut deaths, mut hits) = (0, 0);
    loop {
        sleep(Duration::from_millis(30));
        if load.sent() >= ENTRIES && (hits + deaths > 0 || service.log().contains("failpoint")) {
            load.stop();
            if scene.stream.is_drained() {
                break;
            }
        }
        if service.has_ended() {
            hits += service.log().matches(" failpoint ").count();
            deaths += 1;
            service = launch();
        }
        assert!(start.elapsed() < BOUND, "{points}: {} sent, {deaths} deaths, not drained", load.sent());
    }
    hits += service.log().matches(" failpoint ").count();
    assert!(hits > 0, "{points} was reached");
    assert_eq!(deaths > 0, action.starts_with("kill"), "{points}: {deaths} deaths");
    load.settle(&scene);
}

/// Errors and delays are frequent; a death costs a start, and each life must be long enough.
fn survive_all(point: &str) {
    survive(point, "error/3");
    survive(point, "delay:150/4");
    survive(point, "kill/10");
}

#[test]
fn after_read() {
    survive_all("after_read");
}

/// Judging cannot fail: whatever the guest does, there is an outcome.
#[test]
fn after_judge() {
    survive("after_judge", "delay:150/4");
    survive("after_judge", "kill/10");
}

#[test]
fn before_insert() {
    survive_all("before_insert");
}

/// The failpoint is in the transaction, after its inserts.
#[test]
fn before_commit() {
    survive_all("before_commit");
}

/// The error is that of a COMMIT whose outcome is unknown.
#[test]
fn after_commit() {
    survive_all("after_commit");
}

#[test]
fn before_ack() {
    survive_all("before_ack");
}

#[test]
fn after_ack() {
    survive_all("after_ack");
}
