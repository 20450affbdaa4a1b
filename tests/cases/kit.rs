//! Tests the kit for rules in the sandbox, by rules for entries of another shape, with settings: see
//! `tests/guests/scripted/examples/tracks.rs`. They need no server.

use serde_json::{Value, json};
use sluicegate_tests::{Project, guests};

const SOUND: &str = r#"[guest_settings]
key = "a key that is a secret"
robots = '["googlebot"]'
max_items = "2"
"#;

fn project(settings: &str) -> Project {
    Project::new(&guests::built("examples/tracks.wasm"), settings)
}

/// The service would go on by the rules in force. The value may be a secret, so it is not told.
#[test]
fn settings_that_do_not_fit_are_refused_before_any_entry() {
    for (settings, why) in [
        ("", "missing field `key`"),
        ("[guest_settings]\nkey = \"s3cret\"\n", "`key`: expected 16 characters or more"),
        (&SOUND.replace("\"2\"", "\"s3cret\""), "the setting `max_items`: expected a number of the type u"),
        (&SOUND.replace("max_items", "max_itmes"), "unknown field `max_itmes`"),
    ] {
        let told = project(settings).rules_reading(r#"{"fields":{"data":"{}"}}"#, &["run"]);
        assert_eq!(told.code, Some(3), "{settings}: {}{}", told.out, told.err);
        assert!(told.err.contains("it does not start") && told.err.contains(why), "{why}: {}", told.err);
        assert!(!told.err.contains("s3cret"), "{}", told.err);
    }
}

#[test]
fn entries_of_another_shape_become_rows() {
    let order = json!({
        "messageId": "order-7", "email": "ada@example.org", "sentAt": 1_768_774_654_827_i64,
        "context": {"agent": "firefox"}, "items": [{"sku": "a", "price": 1.5}, {"sku": "b", "price": 2}],
    });
    let flat: Vec<Value> =
        order.as_object().unwrap().iter().map(|(name, value)| json!([name, value])).collect();
    let with = |name: &str, value: Value| {
        let mut order = order.clone();
        order[name] = value;
        json!({ "fields": { "data": order } })
    };
    let entries = [
        with("note", json!("in JSON")),
        json!({ "fields": flat }),
        with("context", json!({"agent": "googlebot"})),
        with("sentAt", json!(1_768_774_654)),
        with("items", json!([{"price": 0}, {"price": "1"}, {}])),
        with("items", json!([{"price": 1}, {"price": 1}, {"price": 1}])),
        json!({ "fields": {"data": {"context": 7, "messageId": ""}} }),
    ];
    let entries: Vec<String> = entries.iter().map(Value::to_string).collect();
    let told = project(SOUND).rules_reading(&entries.join("\n"), &["run"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let came: Vec<Value> = told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows = came[0]["expand"].as_array().unwrap();
    assert_eq!(rows[1]["properties"], json!({"sku": "b", "price": 2}));
    assert_eq!(rows[1]["time"], json!("2026-01-18T22:17:34.827000Z"));
    assert_eq!(
        rows[1]["event_id"],
        json!("c1f69b6d-210b-5b13-be84-00efd31d20f1"),
        "the same one in any language, by UUID 5"
    );
    assert_eq!(rows[1]["user_id"].as_str().unwrap().len(), 64);
    assert_eq!(came[0]["expand"], came[1]["expand"], "both forms");
    assert_eq!(came[2]["discard"], json!("robot"));
    assert!(
        came[3]["reject"][0]["message"].as_str().unwrap().ends_with("it looks like seconds"),
        "{}",
        came[3]
    );
    let codes = |at: usize| -> Vec<(&str, &str)> {
        let violations = came[at]["reject"].as_array().unwrap().iter();
        violations.map(|one| (one["path"].as_str().unwrap(), one["code"].as_str().unwrap())).collect()
    };
    let prices =
        [("items[0].price", "out_of_range"), ("items[1].price", "wrong_type"), ("items[2].price", "missing")];
    assert_eq!(codes(4), prices);
    assert_eq!(codes(5), [("items", "too_many_items")]);
    let all = [
        ("context", "wrong_type"),
        ("messageId", "empty"),
        ("email", "missing"),
        ("sentAt", "missing"),
        ("items", "missing"),
    ];
    assert_eq!(codes(6), all);
}

/// What the rules do not use of the kit, the component does not import: the default rules want no grant.
#[test]
fn a_component_imports_what_its_rules_use() {
    for (guest, world, wants_config) in [
        ("guest_default.wasm", "validator", false),
        ("guest_bytes.wasm", "bytes-validator", false),
        ("examples/tracks.wasm", "validator", true),
    ] {
        let told = Project::new(&guests::built(guest), SOUND).rules(&["check"]);
        assert_eq!(told.code, Some(0), "{guest}: {}", told.err);
        assert!(told.out.contains(&format!("world      {world}\n")), "{}", told.out);
        assert_eq!(told.out.contains("wasi:config/store@0.2.0-rc.1"), wants_config, "{}", told.out);
        assert!(!told.out.contains("import     sluicegate:guest/st"), "{}", told.out);
    }
}
