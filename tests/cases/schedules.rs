//! Runs short random schedules of faults, which `SOAK_SEED` repeats; `make soak` runs a long one.

use std::time::Duration;

use sluicegate_tests::Soak;

fn schedule() {
    let mut soak = Soak::start(false);
    soak.round(Duration::from_secs(20));
    soak.stop();
}

#[test]
fn a_random_schedule() {
    schedule();
}

#[test]
fn another_random_schedule() {
    schedule();
}
