//! Tests that the default guest is an ordinary component, which the wasmtime command line runs.

use std::process::Command;

use sluicegate_tests::{cached, guests};

#[test]
fn the_wasmtime_command_line_runs_the_default_guest() {
    let good = r#"{id: {milliseconds: 1, sequence: 0}, fields: [
        ("event_id", "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11"), ("event_type", "page_view"), ("user_id", "u1"),
        ("timestamp", "2026-01-18T22:17:34.827Z"), ("properties", "{\"a\":1}")]}"#;
    let bad = r#"{id: {milliseconds: 1, sequence: 1}, fields: [("data", "{}")]}"#;
    let output = Command::new(cached("wasmtime-48.0.8/bin/wasmtime", "wasmtime"))
        .args(["run", "--invoke", &format!("process([{good}, {bad}])")])
        .arg(guests::built("guest_default.wasm"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let verdicts = printed.trim();
    let accepted = concat!(
        r#"[accept({event-id: "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11", time: 1768774654827000, "#,
        r#"event-type: "page_view", user-id: "u1", properties: some("{\"a\":1}")}), reject(["#,
    );
    assert!(verdicts.starts_with(accepted), "{verdicts}");
    assert_eq!(verdicts.matches(r#"code: "missing""#).count(), 4, "{verdicts}");
}

/// This shows that what the command line ran is what the service runs.
#[test]
fn the_service_carries_this_very_component() {
    assert!(std::fs::read(guests::built("guest_default.wasm")).unwrap() == guests::DEFAULT);
}
