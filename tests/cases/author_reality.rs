//! Tests `rules diff`, `capture` and `coverage`: rules beside what really came.

use std::fs;

use serde_json::{Value, json};
use sluicegate_tests::{Event, Project, Scene, Told, fields, guests, refused_purchases, rules};

fn json_of(told: &Told) -> Value {
    serde_json::from_str(&told.out).unwrap_or_else(|error| panic!("{error}: {told:?}"))
}

/// Returns the number of entries of each change, as `from->to`.
fn changes(report: &Value) -> Vec<(String, u64)> {
    let change = |change: &Value| {
        let kind = |side: &str| change[side].as_str().unwrap().to_owned();
        (format!("{}->{}", kind("from"), kind("to")), change["entries"].as_u64().unwrap())
    };
    report["changes"].as_array().unwrap().iter().map(change).collect()
}

/// Puts what the tests compare into a folder: components, and entries whose outcomes differ.
fn project() -> Project {
    let project = Project::new(&guests::built("guest_default.wasm"), "batch_size = 7\n");
    fs::copy(guests::built("guest_strict.wasm"), project.folder().join("strict.wasm")).unwrap();
    let line = |at: u64, event_type: &str, properties: &Value| {
        let id = format!("{at}-0");
        let fields = json!({
            "event_id": format!("0c7b6b3e-5a0e-4b0f-9d6c-{at:012x}"), "event_type": event_type, "user_id": "ann@example.org",
            "timestamp": "2026-01-18T22:17:34.827Z", "properties": properties,
        });
        json!({ "id": id, "fields": fields }).to_string()
    };
    let mut lines: Vec<String> = (1..=20).map(|at| line(at, "page_view", &json!({ "a": [at] }))).collect();
    lines.extend((21..=25).map(|at| line(at, "purchase", &json!({ "amount": 0 }))));
    lines.extend((26..=28).map(|at| line(at, "purchase", &json!({}))));
    lines.push(line(29, "heartbeat", &json!({})));
    lines.push(r#"{"id":"30-0","fields":{"data":"{}"}}"#.to_owned());
    project.write("events.jsonl", &lines.join("\n"));
    project
}

#[test]
fn a_difference_is_told_by_kind_and_cause() {
    let project = project();
    let compare = ["diff", "rules.wasm", "strict.wasm", "--events", "events.jsonl"];
    let told = project.rules(&[&compare[..], &["--json"]].concat());
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
    let report = json_of(&told);
    assert_eq!((&report["entries"], &report["same"]), (&json!(30), &json!(21)));
    assert_eq!(changes(&report), [("accept->discard".to_owned(), 1), ("accept->reject".to_owned(), 8)]);
    let rejected = &report["changes"][1]["groups"];
    assert_eq!(rejected[0]["what"], json!("properties.amount: missing"));
    assert_eq!(rejected[1]["what"], json!("properties.amount: out_of_range"));
    assert_eq!(rejected[1]["examples"].as_array().unwrap().len(), 3, "three of five");
    assert_eq!(rejected[1]["examples"][0]["id"], json!("21-0"));
    assert_eq!(project.rules(&[&compare[..], &["--json"]].concat()).out, told.out, "the same bytes");

    let text = project.rules(&compare).out;
    assert!(text.contains("accept -> reject: 8 (26.67 %)"), "{text}");
    let markdown = project.rules(&[&compare[..], &["--markdown"]].concat()).out;
    assert!(
        markdown.contains("| accept → reject | `properties.amount: missing` | 3 | 10.00 % | `26-0` |"),
        "{markdown}"
    );
}

#[test]
fn a_version_differs_from_itself_in_nothing() {
    let project = project();
    let told = project.rules(&[
        "diff",
        "strict.wasm",
        "strict.wasm",
        "--events",
        "events.jsonl",
        "--json",
        "--fail-on",
        "*->*>0",
    ]);
    let report = json_of(&told);
    assert_eq!((told.code, &report["same"], changes(&report)), (Some(0), &json!(30), Vec::new()));
}

#[test]
fn more_changes_than_allowed_are_an_exit_code() {
    let project = project();
    let code = |limit: &str| {
        let compare = ["diff", "rules.wasm", "strict.wasm", "--events", "events.jsonl", "--fail-on", limit];
        project.rules(&compare).code
    };
    assert_eq!(code("accept->reject>27%"), Some(0));
    assert_eq!(code("accept->reject>26%"), Some(1));
    assert_eq!(code("reject->accept>0"), Some(0));
    assert_eq!(code("accept->discard>0"), Some(1));
    assert_eq!(code("accept->gone>0"), Some(2), "no such kind");
    let none = project.rules(&["diff", "rules.wasm", "strict.wasm"]);
    assert_eq!(none.code, Some(2), "it is not said which entries");
    let missing = project.rules(&["diff", "rules.wasm", "none.wasm", "--events", "events.jsonl"]);
    assert_eq!(missing.code, Some(2), "{}", missing.err);
}

#[test]
fn captured_goldens_pass_at_once_and_hide_what_is_masked() {
    let project = project();
    let capture = ["capture", "--events", "events.jsonl", "--mask", "user_id,event_id,properties.amount"];
    let told = project.rules(&[&capture[..], &["-o", "tests/captured.jsonl"]].concat());
    assert_eq!(told.code, Some(1), "there is no such folder");
    project.write("tests/README", "");
    let told = project.rules(&[&capture[..], &["-o", "tests/captured.jsonl"]].concat());
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert_eq!(
        told.err,
        "sluicegate: 30 goldens\n\
         sluicegate: 1 of 30 entries has no user_id: nothing is masked in it\n\
         sluicegate: 1 of 30 entries has no event_id: nothing is masked in it\n\
         sluicegate: 25 of 30 entries have no properties.amount: nothing is masked in them\n"
    );
    let goldens = project.read("tests/captured.jsonl");
    assert!(!goldens.contains("ann@") && !goldens.contains("0c7b6b3e-"), "{goldens}");
    let users: Vec<&str> = goldens.split('"').filter(|text| text.ends_with("@masked.invalid")).collect();
    assert!(users.iter().all(|user| *user == users[0]) && users.len() >= 29, "equal stays equal");
    let tested = project.rules(&["test"]);
    assert_eq!(tested.code, Some(0), "{}{}", tested.out, tested.err);
    let again = project.rules(&[&capture[..], &["-o", "tests/captured.jsonl"]].concat());
    assert_eq!(again.code, Some(1), "nothing is overwritten");
    assert_eq!(project.read("tests/captured.jsonl"), goldens);

    let none = ["capture", "--events", "events.jsonl", "--mask", "user_id,none,data.user_id"];
    for output in [&[][..], &["-o", "tests/none.jsonl"]] {
        let told = project.rules(&[&none[..], output].concat());
        assert_eq!((told.code, told.out.as_str()), (Some(1), ""), "{}", told.err);
        let why =
            "none of the 30 entries has none, data.user_id, which was to be masked, so nothing was written";
        assert!(told.err.contains(why), "{}", told.err);
    }
    assert!(!project.folder().join("tests/none.jsonl").exists());

    project.write("short.key", "short");
    let keyed = project.rules(&[&capture[..], &["--mask-key-file", "short.key"]].concat());
    assert_eq!(keyed.code, Some(2));
    assert!(keyed.err.contains("the key in short.key: found 5 bytes; wanted 16 to 4096"), "{}", keyed.err);
    project.write("long.key", &"k".repeat(32));
    let keyed = || project.rules(&[&capture[..], &["--mask-key-file", "long.key"]].concat()).out;
    assert_eq!(keyed(), keyed(), "with one key, equal values are masked alike in every capture");

    let few =
        project.rules(&["capture", "--events", "events.jsonl", "--each", "2", "--guest", "strict.wasm"]);
    assert_eq!(few.out.lines().count(), 2 + 2 + 2 + 1 + 1, "two of each kind of outcome\n{}", few.out);
}

#[test]
fn what_no_golden_has_is_told_and_the_reverse() {
    let project = project();
    project.write(
        "tests/a.jsonl",
        r#"{"fields":{"data":"no JSON"},"expect":{"reject":[{"code":"json_syntax"}]}}"#,
    );
    let look = ["coverage", "--events", "events.jsonl", "--guest", "strict.wasm"];
    let told = project.rules(&[&look[..], &["--json"]].concat());
    let report = json_of(&told);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let untested = report["untested"].as_array().unwrap();
    assert_eq!(
        (&untested[0]["kind"], &untested[0]["what"], &untested[0]["entries"]),
        (&json!("accept"), &json!("page_view"), &json!(20))
    );
    assert!(
        untested.iter().any(|line| line["what"] == json!("heartbeat") && line["first"] == json!("29-0")),
        "{untested:?}"
    );
    assert_eq!(report["unseen"][0]["what"], json!("data: json_syntax"));
    assert_eq!(project.rules(&[&look[..], &["--strict"]].concat()).code, Some(1));
}

/// The history of a stream is read without its group, and dead letters as they came.
#[test]
fn entries_come_from_the_stream_and_from_dead_letters() {
    let scene = Scene::new();
    refused_purchases(&scene, 5);
    for _ in 0..1_200 {
        scene.stream.add(&Event::of_type("page_view").flat());
    }
    let before = scene.stream.group_info("entries-read");
    let strict = scene.folder().join("strict.wasm").display().to_string();
    let run = |arguments: &[&str]| rules(scene.service(), arguments);
    let compared = |more: &[&str]| {
        let told = run(&[&["diff", "in-force", &strict, "--json"], more].concat());
        assert_eq!(told.code, Some(0), "{}", told.err);
        json_of(&told)
    };
    let report = compared(&["--stream"]);
    assert_eq!(report["entries"], json!(1_207), "more than a page");
    assert_eq!(changes(&report), [("accept->reject".to_owned(), 5)]);
    assert_eq!(compared(&["--stream", "--last", "1100"])["entries"], json!(1_100));
    assert_eq!(compared(&["--stream", "--newer", "1h"])["entries"], json!(1_207));
    assert_eq!(compared(&["--stream", "--before", "2020-01-01T00:00:00Z"])["entries"], json!(0));
    assert_eq!(compared(&["--dead-letters", "--code", "missing"])["entries"], json!(5));
    let report = compared(&["--dead-letters"]);
    assert_eq!((&report["entries"], changes(&report)), (&json!(7), vec![("accept->reject".to_owned(), 5)]));
    assert_eq!(compared(&["--dead-letters", "--last", "2"])["entries"], json!(2));
    assert_eq!(scene.stream.group_info("entries-read"), before, "the group is as it was");

    let captured = run(&["capture", "--dead-letters", "--reason", "undecodable"]);
    assert_eq!(captured.out.lines().count(), 1);
    assert!(
        captured.out.contains(r#""base64""#) && captured.out.contains(r#""expect":{"fault":"undecodable"}"#),
        "{}",
        captured.out
    );
    assert!(captured.err.contains("nothing was masked"), "{}", captured.err);
    scene.stream.add(&fields([("data", "{}")]));
    let unknown = run(&["diff", "in-force", "0123456789", "--stream"]);
    assert_eq!(unknown.code, Some(3), "{}", unknown.err);
}
