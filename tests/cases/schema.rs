//! Tests rules that are made of JSON Schemas: the real command, the real sandbox. They need no server.

use std::fs;

use serde_json::Value;
use sluicegate_tests::{Project, guests};

const PURCHASE: &str = r##"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",
"required":["amount","items"],"additionalProperties":false,"properties":{
"amount":{"type":"number","exclusiveMinimum":0},"currency":{"type":"string","pattern":"^[A-Z]{3}$"},
"items":{"type":"array","minItems":1,"items":{"$ref":"parts/item.json"}}}}"##;
const ITEM: &str = r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","required":["sku"],
"properties":{"sku":{"type":"string","format":"uuid"},"price":{"type":"number","minimum":0}}}"#;
const MAPPING: &str = r#"
[fields]
user_id = ["userId", "user_id"]
[[step]]
if = 'properties.items.exists(item, item.sku.matches("^test"))'
discard = "test"
"#;
const COMMAND: [&str; 6] =
    ["from-schema", "purchase=purchase.json", "--with", "parts/item.json", "-o", "rules.wasm"];

fn project() -> Project {
    let project = Project::new(&guests::scripted(), "");
    project.write("purchase.json", PURCHASE);
    project.write("parts/item.json", ITEM);
    project
}

fn entry(event_type: &str, user_id: &str, properties: &str) -> String {
    format!(
        r#"{{"fields":{{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","event_type":"{event_type}","user_id":"{user_id}","timestamp":"2026-01-18T22:17:34.827Z"{properties}}}}}"#
    )
}

#[test]
fn all_violations_are_told_with_path_and_code() {
    let project = project();
    let told = project.rules(&COMMAND);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let sku = "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11";
    let sound = format!(r#","properties":{{"amount":1.50,"items":[{{"sku":"{sku}"}}]}}"#);
    let broken =
        r#","properties":{"amount":0,"first name":1,"currency":"euro","items":[{"price":-1},{"sku":"a"}]}"#;
    let events = [
        entry("purchase", "u", &sound),
        entry("purchase", "", broken),
        entry("purchase", "u", ""),
        entry("click", "u", ""),
    ];
    let told = project.rules_reading(&events.join("\n"), &["run"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let verdicts: Vec<Value> = told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(verdicts[0]["accept"]["properties"].is_object(), "{}", verdicts[0]);
    let rejected = |at: usize| {
        let violations = verdicts[at]["reject"].as_array().unwrap_or_else(|| panic!("{}", verdicts[at]));
        let mut found: Vec<String> = violations
            .iter()
            .map(|violation| {
                format!("{} {}", violation["path"].as_str().unwrap(), violation["code"].as_str().unwrap())
            })
            .collect();
        found.sort();
        found
    };
    assert_eq!(
        rejected(1),
        [
            "properties.amount too_small",
            "properties.currency pattern_mismatch",
            "properties.items[0].price too_small",
            "properties.items[0].sku missing",
            "properties.items[1].sku invalid_format",
            "properties[\"first name\"] unexpected_field",
            "user_id empty",
        ]
    );
    assert_eq!(rejected(2), ["properties.amount missing", "properties.items missing"]);
    assert_eq!(rejected(3), ["event_type unknown_event_type"]);
}

#[test]
fn the_same_files_give_the_same_bytes_wherever_they_are() {
    let made = || {
        let project = project();
        project.write("mapping.toml", MAPPING);
        let told = project.rules(&[&COMMAND[..], &["--mapping", "mapping.toml"]].concat());
        assert_eq!(told.code, Some(0), "{}", told.err);
        fs::read(project.folder().join("rules.wasm")).unwrap()
    };
    assert!(made() == made(), "two components of the same files differ");
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_place() {
    let project = project();
    for (schema, place, name) in [
        (r#"{"properties":{"a":{"pattern":"(?=a)b"}}}"#, "#/properties/a/pattern", "(?=a)b"),
        (r#"{"items":{"format":"postcode"}}"#, "#/items/format", "postcode"),
        (r#"{"$ref":"https://example.com/x.json"}"#, "bad.json: at `#/$ref`: ", "https://example.com/x.json"),
        (r#"{"items":{"$ref":"other.json#/x"}}"#, "bad.json: at `#/items/$ref`: ", "found `other.json#/x`"),
        (
            r##"{"items":{"$ref":"#/$defs/no"},"not":{"$ref":"#"}}"##,
            "bad.json: at `#/items/$ref`: ",
            "`#/$defs/no`",
        ),
        (r##"{"items":{"$ref":"#none"}}"##, "bad.json: at `#/items/$ref`: ", "`#none`"),
        (r#"{"items":{"$ref":"http://[x"}}"#, "bad.json: at `#/items/$ref`: ", "`http://[x`"),
        (r#"{"$schema":"http://json-schema.org/draft-06/schema#"}"#, "#/$schema", "draft-06"),
        (
            r#"{"type":"strin"}"#,
            "bad.json: at `#/type`: ",
            "found `\"strin\"`, expected one of `array`, `boolean`",
        ),
        (r#"{"items":{"type":["x"]}}"#, "bad.json: at `#/items/type`: ", "found `[\"x\"]`"),
        ("{", "", "no JSON"),
    ] {
        project.write("bad.json", schema);
        let told = project.rules(&["from-schema", "bad.json", "-o", "bad.wasm"]);
        assert_eq!(told.code, Some(3), "{schema}: {}", told.err);
        assert!(told.err.contains(place) && told.err.contains(name), "{schema}: {}", told.err);
        assert!(!project.folder().join("bad.wasm").exists(), "{schema}");
    }
}
