//! Tests the tools of those who write rules. They need no server.

use serde_json::{Value, json};
use sluicegate_tests::{Project, Told, guests};

/// Returns what a command printed, line by line.
fn lines(told: &Told) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    told.out.lines().map(line).collect()
}

const ACCEPTED: &str = r#"{"id":"7-1","fields":{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","event_type":"page_view",
"user_id":"ü","timestamp":"2026-01-18T22:17:34.827Z","properties":{"big": 10000000000000000000000000000000000000001, "a": 1.50}}}"#;

fn accepted() -> String {
    ACCEPTED.replace('\n', "")
}

#[test]
fn entries_are_judged_as_the_service_would_in_their_order() {
    let project = Project::new(&guests::scripted(), "batch_size = 2\n");
    let events = [
        "// comments and empty lines do not count\n".to_owned(),
        accepted(),
        r#"{"fields":{"data":"{}"}}"#.to_owned(),
        r#"{"fields":{"verdict":"expand","count":2},"name":"a golden is an entry too","expect":{"discard":"x"}}"#.to_owned(),
        r#"{"fields":{"verdict":"expand","count":2,"event_id":"a"}}"#.to_owned(),
        r#"{"fields":[["a","1"],["a",{"base64":"/w=="}]]}"#.to_owned(),
        r#"{"fields":{"verdict":"discard","reason":"a bot"}}"#.to_owned(),
        r#"{"fields":{"verdict":"accept","time":1768774674827}}"#.to_owned(),
    ]
    .join("\n");
    project.write("events.jsonl", &events);
    let told = project.rules(&["run", "events.jsonl"]);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
    assert!(
        told.out.contains(r#""properties":{"big":10000000000000000000000000000000000000001,"a":1.50}"#),
        "{}",
        told.out
    );
    let found = lines(&told);
    assert_eq!(found[0]["id"], json!("7-1"));
    assert_eq!(found[0]["accept"]["time"], json!("2026-01-18T22:17:34.827000Z"));
    assert_eq!(found[1]["id"], json!("1700000000004-0"), "the number of its line");
    let codes: Vec<&Value> =
        found[1]["reject"].as_array().unwrap().iter().map(|violation| &violation["code"]).collect();
    assert_eq!(codes, vec!["missing"; 4]);
    assert_eq!(found[2]["expand"].as_array().unwrap().len(), 2);
    let fault = |at: usize| (found[at]["fault"].as_str().unwrap(), found[at]["message"].as_str().unwrap());
    assert_eq!(fault(3).0, "bad_verdict");
    assert_eq!(fault(4).0, "undecodable");
    assert_eq!(found[5], json!({ "id": "1700000000008-0", "discard": "a bot" }));
    assert!(fault(6).1.contains("looks like milliseconds"), "{:?}", fault(6));
    assert_eq!(found.len(), 7);

    let piped = project.rules_reading(&events, &["run"]);
    assert_eq!((piped.code, piped.out), (Some(0), told.out));
}

/// What traps is at fault, and nothing else of its batch; what it printed is told.
#[test]
fn a_trap_costs_its_own_entry() {
    let project = Project::new(&guests::hostile("panic"), "");
    let provoking = accepted().replace("\"fields\":{", "\"fields\":{\"provoke\":\"\",");
    let told = project.rules_reading(&[accepted(), provoking, accepted()].join("\n"), &["run"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let found = lines(&told);
    assert_eq!(found[1]["fault"], json!("trapped"));
    assert!(found[0].get("accept").is_some() && found[2].get("accept").is_some(), "{}", told.out);
    assert!(told.err.contains("guest printed to standard error"), "{}", told.err);
}

#[test]
fn what_does_not_read_is_named_with_its_place() {
    let project = Project::new(&guests::scripted(), "");
    let told = project.rules_reading(&format!("{}\n\n{{\"field\":{{}}}}\n", accepted()), &["run"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(
        told.err.contains("standard input:3: unknown field `field`, expected one of `id`, `fields`"),
        "{}",
        told.err
    );
    assert_eq!(lines(&told).len(), 1, "the entry before it was judged");
    let told = project.rules(&["run", "none.jsonl"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(told.err.contains("none.jsonl cannot be read"), "{}", told.err);
}

/// What the service would refuse is refused here, with the line that grants it.
#[test]
fn a_component_that_is_refused_is_another_error() {
    let project = Project::new(&guests::built("guest_enrich.wasm"), "");
    let told = project.rules_reading("", &["run"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(told.err.contains("rules.wasm is refused") && told.err.contains("[grants]"), "{}", told.err);
    project.write("rules.wasm", "text");
    let told = project.rules_reading("", &["run"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    project.write("sluicegate.toml", "guest_memory = 7\n");
    let told = project.rules_reading("", &["run"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(told.err.contains("GUEST_MEMORY"), "{}", told.err);
}
