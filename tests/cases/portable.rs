//! Tests that the default guest is an ordinary component, which the wasmtime command line runs.

use std::path::PathBuf;
use std::process::Command;

use sluicegate_tests::guests;

/// Finds wasmtime by the same rule as `tests/setup/cache.sh`.
fn wasmtime() -> PathBuf {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("SLUICEGATE_CACHE").unwrap_or_else(|| match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/var/cache/sluicegate"),
        false => set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .unwrap_or_default()
            .join("sluicegate"),
    });
    let program = cache.join("wasmtime-48.0.8/bin/wasmtime");
    assert!(program.is_file(), "{} is missing; run: tests/setup/tools.sh wasmtime", program.display());
    program
}

#[test]
fn the_wasmtime_command_line_runs_the_default_guest() {
    let good = r#"{id: {milliseconds: 1, sequence: 0}, fields: [
        ("event_id", "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11"), ("event_type", "page_view"), ("user_id", "u1"),
        ("timestamp", "2026-01-18T22:17:34.827Z"), ("properties", "{\"a\":1}")]}"#;
    let bad = r#"{id: {milliseconds: 1, sequence: 1}, fields: [("data", "{}")]}"#;
    let output = Command::new(wasmtime())
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
