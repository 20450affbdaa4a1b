//! Tests the mapping of rules without code: the real command, the real sandbox, and the examples of the manual.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sluicegate_tests::{Project, guests};

/// Takes all types of events, with any properties.
const ANY: &str = "{}";
const COMMAND: [&str; 6] = ["from-schema", "any.json", "--mapping", "mapping.toml", "-o", "rules.wasm"];

fn project(mapping: &str, settings: &str) -> Project {
    let project = Project::new(&guests::scripted(), settings);
    project.write("any.json", ANY);
    project.write("mapping.toml", mapping);
    project
}

/// Makes the rules, and returns what comes of each event.
fn outcomes(mapping: &str, settings: &str, events: &[Value]) -> Vec<Value> {
    let project = project(mapping, settings);
    let told = project.rules(&COMMAND);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let lines = events.iter().map(|data| json!({ "fields": { "data": data } }).to_string());
    let told = project.rules_reading(&lines.collect::<Vec<String>>().join("\n"), &["run"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns an event with these properties, in the default form.
fn event(event_type: &str, properties: &Value) -> Value {
    json!({
        "event_id": "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11", "event_type": event_type, "user_id": "u",
        "timestamp": "2026-01-18T22:17:34.827Z", "properties": properties,
    })
}

fn violations(outcome: &Value) -> Vec<(&str, &str)> {
    let violations = outcome["reject"].as_array().unwrap_or_else(|| panic!("{outcome}"));
    violations.iter().map(|one| (one["path"].as_str().unwrap(), one["code"].as_str().unwrap())).collect()
}

#[test]
fn tracking_plans_become_rules_without_code() {
    for (example, schemas) in [
        ("segment", &["Order Completed=order_completed.json", "User Registered=user_registered.json"][..]),
        ("snowplow", &["checkout_step=checkout_step.json"]),
    ] {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
        let manual = fs::read_to_string(examples.join("README.md")).unwrap();
        let project = Project::new(&guests::scripted(), "");
        for folder in ["", "tests/"] {
            let files = fs::read_dir(examples.join(example).join(folder)).unwrap();
            for file in files.map(|file| file.unwrap()).filter(|file| file.path().is_file()) {
                let name = file.file_name().into_string().unwrap();
                project.write(&format!("{folder}{name}"), &fs::read_to_string(file.path()).unwrap());
            }
        }
        let command =
            [&["from-schema"], schemas, &["--mapping", "mapping.toml", "-o", "rules.wasm"]].concat();
        let written = command
            .iter()
            .map(|word| if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() });
        let written = written.collect::<Vec<String>>().join(" ");
        assert!(
            manual.contains(&format!("sluicegate rules {written}\n")),
            "docs/examples/README.md: {written}"
        );
        let told = project.rules(&command);
        assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{example}");
        let told = project.rules(&["test"]);
        assert_eq!(told.code, Some(0), "{example}: {}{}", told.out, told.err);
    }
}

#[test]
fn steps_change_what_they_name_and_nothing_else() {
    let mapping = r#"
[fields]
"properties.country" = ["context.geo.country", "country"]
[[step]]
default = { "properties.currency" = "EUR", "properties.tags" = ["new"], "properties.deep.er" = 1.5 }
[[step]]
rename = { "properties.sum" = "properties.money.amount" }
[[step]]
drop = ["properties.password", "properties[\"first name\"]"]
[[step]]
if = 'event_type == "comment" && size(properties.text) > 5'
truncate = { "properties.text" = 5 }
[[step]]
clamp = { "properties.age" = { min = 0, max = 120 } }
[[step]]
if = 'has(properties.items) && properties.items.exists(item, item.price > 100 || item.name.matches("^x+$"))'
discard = "too_dear"
"#;
    let properties = json!({
        "sum": 1, "password": "secret", "first name": "Ada", "text": "Grüße, Welt", "age": 130, "currency": null,
        "items": [{ "price": 99.5, "name": "xy" }],
    });
    let mut with_context = event("comment", &properties);
    with_context["context"] = json!({ "geo": { "country": "AT" } });
    let mut dear = event("comment", &json!({ "items": [{ "price": 1, "name": "x" }], "text": "short" }));
    dear["country"] = json!("DE");
    let untouched =
        event("view", &json!({ "text": "Grüße, Welt", "age": 7, "tags": [], "deep": { "er": 0 } }));
    let found = outcomes(mapping, "", &[with_context, dear, untouched]);
    assert_eq!(
        found[0]["accept"]["properties"],
        json!({
            "money": { "amount": 1 }, "text": "Grüße", "age": 120, "currency": "EUR", "tags": ["new"],
            "deep": { "er": 1.5 }, "country": "AT", "items": [{ "price": 99.5, "name": "xy" }],
        })
    );
    assert_eq!(found[1]["discard"], "too_dear", "{}", found[1]);
    assert_eq!(
        found[2]["accept"]["properties"],
        json!({ "text": "Grüße, Welt", "age": 7, "tags": [], "deep": { "er": 0 }, "currency": "EUR" })
    );
}

#[test]
fn a_number_keeps_its_digits_beside_what_is_changed() {
    let project =
        project("[[step]]\ndrop = [\"properties.a\"]\n[[step]]\ndefault = { \"properties.d\" = 1 }", "");
    let told = project.rules(&COMMAND);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let data = event("x", &json!({ "a": 1 }))
        .to_string()
        .replace("\"a\":1", r#""a":1,"b":1.50,"c":123456789012345678901234567890.10"#);
    let told = project.rules_reading(&json!({ "fields": { "data": data } }).to_string(), &["run"]);
    assert!(
        told.out.contains(r#"{"b":1.50,"c":123456789012345678901234567890.10,"d":1}"#),
        "{}{}",
        told.out,
        told.err
    );
}

#[test]
fn a_number_becomes_the_time_that_it_counts() {
    let mapping = r#"
[fields]
timestamp = "created"
[[step]]
if = 'event_type != "number"'
epoch = { "timestamp" = "seconds", "properties.seen" = "milliseconds", "properties.at.ns" = "nanoseconds" }
"#;
    let properties = json!({ "seen": 1_731_700_000_250_u64, "at": { "ns": -1 }, "sum": 1_731_700_000 });
    let created = |event_type: &str, number: &str| {
        let mut event = event(event_type, &properties);
        event["created"] = serde_json::from_str(number).unwrap();
        event
    };
    let found = outcomes(
        mapping,
        "",
        &[
            created("whole", "1731700000"),
            created("fraction", "1731700000.25"),
            created("string", r#""1731700000""#),
            created("far", "1731700000000"),
            created("number", "1731700000"),
            created("text", r#""2024-11-15T20:46:40+01:00""#),
        ],
    );
    let (whole, fraction) = (&found[0]["accept"], &found[1]["accept"]);
    assert_eq!(whole["time"], "2024-11-15T19:46:40.000000Z", "{}", found[0]);
    assert_eq!(
        whole["properties"],
        json!({
            "seen": "2024-11-15T19:46:40.25Z", "at": { "ns": "1969-12-31T23:59:59.999999Z" }, "sum": 1_731_700_000,
        })
    );
    assert_eq!(fraction["time"], "2024-11-15T19:46:40.250000Z", "{}", found[1]);
    assert_eq!(violations(&found[2]), [("timestamp", "invalid_timestamp")], "a text is left as it is");
    for left in [&found[3], &found[4]] {
        assert_eq!(violations(left), [("timestamp", "wrong_type")], "{left}");
    }
    assert_eq!(found[5]["accept"]["time"], whole["time"], "{}", found[5]);
}

#[test]
fn what_cannot_be_done_to_an_event_is_told_and_no_fault() {
    let mapping = r#"
[[step]]
if = 'event_type == "condition"'
discard = "never"
[[step]]
if = 'event_type == "missing" && properties.amount > 5'
discard = "never"
[[step]]
if = 'event_type == "type" && properties.amount > 5'
discard = "never"
[[step]]
if = 'event_type == "number" && properties.amount'
discard = "never"
[[step]]
if = 'event_type == "default"'
default = { "properties.a.b" = 1 }
[[step]]
if = 'event_type in ["split", "scalar", "many"]'
split = "properties.items"
"#;
    let amount = json!({ "amount": "ten" });
    let many: Vec<u32> = (0..1001).collect();
    let found = outcomes(
        mapping,
        "",
        &[
            event("missing", &json!({})),
            event("type", &amount),
            event("number", &amount),
            event("default", &json!({ "a": "text" })),
            event("split", &json!({})),
            event("scalar", &json!({ "items": 7 })),
            event("many", &json!({ "items": many })),
            event("fine", &amount),
        ],
    );
    let expected = [
        ("mapping.step[1].if", "condition_failed"),
        ("mapping.step[2].if", "condition_failed"),
        ("mapping.step[3].if", "condition_failed"),
        ("properties.a", "wrong_type"),
        ("properties.items", "missing"),
        ("properties.items", "wrong_type"),
        ("properties.items", "too_many_items"),
    ];
    for (outcome, expected) in found.iter().zip(expected) {
        assert_eq!(violations(outcome), [expected], "{outcome}");
    }
    assert!(found[7].get("accept").is_some(), "{}", found[7]);
}

#[test]
fn the_key_of_a_hash_is_a_setting_of_the_guest_and_not_in_the_component() {
    let key = "a key of the test's own";
    let project =
        project("[[step]]\nhash = [\"user_id\"]", &format!("[guest_settings]\nhash_key = \"{key}\""));
    let told = project.rules(&COMMAND);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let component = fs::read(project.folder().join("rules.wasm")).unwrap();
    assert!(!component.windows(key.len()).any(|window| window == key.as_bytes()));
    let told =
        project.rules_reading(&json!({ "fields": { "data": event("x", &json!({})) } }).to_string(), &["run"]);
    let outcome: Value = serde_json::from_str(told.out.trim()).unwrap();
    // What `printf u | openssl dgst -sha256 -hmac 'a key of the test's own'` prints.
    assert_eq!(
        outcome["accept"]["user_id"], "7d637ec25b1dcc8b6daf709cb6e878b85826281abbdd85369d6aa16d909c1ad7",
        "{outcome}"
    );
}

/// What a field of text that is broken JSON may hold is not told as missing.
#[test]
fn a_field_that_is_broken_json_is_told_as_that() {
    let project =
        project("[fields]\nuser_id = \"context.user\"\nevent_type = [\"note.type\", \"kind\"]\n", "");
    let told = project.rules(&COMMAND);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let entry = |context: &str| {
        json!({ "fields": {
            "event_id": "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11", "timestamp": "2026-01-18T22:17:34.827Z",
            "context": context, "note": "[draft] of a text", "kind": "click",
        } })
        .to_string()
    };
    let entries = [entry(r#"{"user": "ada"}"#), entry(r#"{"user": "ada""#)].join("\n");
    let told = project.rules_reading(&entries, &["run"]);
    let found: Vec<Value> = told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found[0]["accept"]["event_type"], json!("click"), "{}", told.out);
    assert_eq!(violations(&found[1]), [("context", "json_syntax")]);
    assert!(told.out.contains("found no JSON: EOF while parsing an object at line 1"), "{}", told.out);
}

/// Without a key all events that are to be hashed would be rejected, one by one.
#[test]
fn a_mapping_that_hashes_is_refused_without_a_key() {
    let mapping =
        "[[step]]\ndrop = [\"properties.a\"]\n[[step]]\nif = 'event_type == \"x\"'\nhash = [\"user_id\"]";
    let project = project(mapping, "");
    let told = project.rules(&COMMAND);
    assert_eq!(told.code, Some(0), "{}", told.err);
    for (settings, code) in [
        ("", 3),
        ("[guest_settings]\nhash_key = \"short\"\n", 3),
        ("[guest_settings]\nhash_key = \"of 16 bytes ....\"\n", 0),
    ] {
        project.write("sluicegate.toml", &format!("guest = \"rules.wasm\"\n{settings}"));
        let told = project.rules(&["check"]);
        assert_eq!(told.code, Some(code), "{settings}: {}{}", told.out, told.err);
        let why = "it does not start: the guest trapped: it said: [guest_settings] found no setting `hash_key` of 16 bytes or more; \
                   expected one, with which `step[1].hash` of the mapping hashes";
        assert_eq!(told.out.contains(why), code == 3, "{}", told.out);
    }
}

#[test]
fn what_a_mapping_may_not_say_is_refused_with_its_key() {
    let project = project("", "");
    let deep = format!("{}true{}", "!(".repeat(60), ")".repeat(60));
    let told_once = format!(
        r#"
[fields]
user = "user_id"
"properties.a" = "a[0]"
[[step]]
if = 'entry.type = "track"'
discard = "x"
[[step]]
if = 'request.type == "track"'
discard = "x"
[[step]]
if = 'properties.items.map(i, i.price).size() > 0'
discard = "x"
[[step]]
if = 'properties.items.exists(i, i.parts.exists(p, p > 1))'
discard = "x"
[[step]]
if = 'entry.agent.matches(entry.pattern)'
discard = "x"
[[step]]
if = 'entry.agent.matches("(")'
discard = "x"
[[step]]
if = 'timestamp(entry.at) > timestamp(entry.before)'
discard = "x"
[[step]]
if = '{deep}'
discard = "x"
[[step]]
drop = ["user"]
[[step]]
drop = ["properties.a"]
hash = ["properties.b"]
[[step]]
discard = "Not a Name"
[[step]]
clamp = {{ "properties.a" = {{ min = 2, max = 1 }} }}
[[step]]
default = {{ properties.a = 1 }}
[[step]]
split = "properties"
[[step]]
if = 'true'
[[step]]
epoch = {{ "timestamp" = "hours", "created" = "seconds" }}
"#
    );
    project.write("mapping.toml", &told_once);
    let told = project.rules(&COMMAND);
    assert_eq!(told.code, Some(3), "{}", told.err);
    for (key, word) in [
        ("fields.user", "`user`"),
        ("fields.properties.a", "`a[0]`"),
        ("step[0].if", "no expression"),
        ("step[1].if", "`request`"),
        ("step[2].if", "`map`"),
        ("step[3].if", "within another"),
        ("step[4].if", "written out"),
        ("step[5].if", "pattern"),
        ("step[6].if", "`timestamp`"),
        ("step[7].if", "recursion"),
        ("step[8].drop", "`user`"),
        ("step[9]", "2 actions"),
        ("step[10].discard", "`Not a Name`"),
        ("step[11].clamp.\"properties.a\"", "above"),
        ("step[12].default.\"properties\"", "in quotes"),
        ("step[13].split", "within `properties`"),
        ("step[14]", "0 actions"),
        (
            "step[15].epoch.\"timestamp\"",
            "`hours`, expected one of `seconds`, `milliseconds`, `microseconds`, `nanoseconds`",
        ),
        ("step[15].epoch.\"created\"", "`created`"),
    ] {
        let line = told.err.lines().find(|line| line.contains(&format!("mapping.toml: at `{key}`: ")));
        assert!(line.is_some_and(|line| line.contains(word)), "{key}: {}", told.err);
    }
    for (mapping, key, code) in [
        ("[[step]]\nuppercase = [\"user_id\"]", "`step[0].uppercase`", 3),
        ("[[step]]\ntruncate = { \"properties.a\" = -1 }", "`step[0].truncate.properties.a`", 3),
        ("[[step]]\nepoch = { \"timestamp\" = 1000 }", "`step[0].epoch.timestamp`", 3),
        ("[[step]\n", "line 1", 2),
    ] {
        project.write("mapping.toml", mapping);
        let told = project.rules(&COMMAND);
        assert_eq!(told.code, Some(code), "{}", told.err);
        assert!(told.err.contains("mapping.toml") && told.err.contains(key), "{}", told.err);
    }
}
