//! Tests the demo, as a newcomer sees it.

use std::process::Command;

use sluicegate_tests::{guests, shared_postgres_url, shared_redis_url};
use tempfile::TempDir;

/// The demo runs on the servers of the tests, where it keeps to a stream and a database of its own.
#[test]
fn the_demo_adds_up() {
    let folder = TempDir::new().unwrap();
    let output = Command::new(guests::program("sluicegate-demo"))
        .arg("demo")
        .current_dir(&folder)
        .env("DEMO_SECONDS", "10")
        .env("REDIS_URL", shared_redis_url())
        .env("POSTGRES_URL", shared_postgres_url())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success(), "{}:\n{told}", output.status);
    assert!(told.contains("strict"), "the rules were swapped:\n{told}");
}
