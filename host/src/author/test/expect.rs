//! What a golden expects, compared with what came.

use serde_json::Value;
use uuid::Uuid;

use sluicegate_verdicts::Reason;
use sluicegate_verdicts::format::{time_of, time_text};

/// The kinds of outcomes, as a golden names them.
const KINDS: [&str; 5] = ["accept", "expand", "reject", "discard", "fault"];
const ROW: [&str; 5] = ["event_id", "time", "event_type", "user_id", "properties"];
const VIOLATION: [&str; 3] = ["path", "code", "message"];
/// The most differences of a golden that are told.
const MAX_DIFFERENCES: usize = 20;

/// One place where what came is not what was wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// Such as `accept.properties.plan`, or `reject[0].code`.
    pub(super) path: String,
    /// Nothing where something is that must not be.
    pub(super) wanted: Option<Value>,
    /// Nothing where something lacks.
    pub(super) got: Option<Value>,
}

/// Checks the form of an expected outcome, and writes times and IDs as outcomes have them.
pub(super) fn check_outcome(value: &mut Value) -> Result<(), String> {
    let wanted = || format!("expect: wanted one of {} in an object", KINDS.join(", "));
    let Value::Object(keys) = value else { return Err(wanted()) };
    let mut kinds = KINDS.into_iter().filter(|kind| keys.contains_key(*kind));
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return Err(wanted()) };
    let is_known = |key: &str| key == kind || (kind == "fault" && key == "message");
    if let Some(other) = keys.keys().find(|key| !is_known(key)) {
        return Err(format!("expect: {other:?} is no part of an outcome; {}", wanted()));
    }
    let Some(outcome) = keys.get_mut(kind) else { return Err(wanted()) };
    match (kind, outcome) {
        ("accept", row) => check_row("accept", row),
        ("expand", Value::Array(rows)) => {
            rows.iter_mut().enumerate().try_for_each(|(i, row)| check_row(&format!("expand[{i}]"), row))
        }
        ("reject", Value::Array(violations)) => violations
            .iter()
            .enumerate()
            .try_for_each(|(i, violation)| check_texts(&format!("reject[{i}]"), violation, &VIOLATION)),
        ("discard", Value::String(_)) => Ok(()),
        ("fault", Value::String(reason)) => check_reason(reason),
        ("expand", _) => Err("expand: wanted a list of rows".to_owned()),
        ("reject", _) => Err("reject: wanted a list of violations".to_owned()),
        _ => Err(format!("{kind}: wanted text")),
    }
}

fn check_row(place: &str, row: &mut Value) -> Result<(), String> {
    let Value::Object(columns) = row else { return Err(format!("{place}: wanted a row, an object")) };
    if let Some(other) = columns.keys().find(|column| !ROW.contains(&column.as_str())) {
        return Err(format!("{place}: {other:?} is no column; wanted some of {}", ROW.join(", ")));
    }
    if let Some(time) = columns.get_mut("time") {
        let micros = match &*time {
            Value::String(text) => time_of(text),
            other => other.as_i64(),
        };
        let wanted = "wanted a time such as 2026-11-29T12:00:00Z, or microseconds since the Unix epoch";
        let micros = micros.ok_or_else(|| format!("{place}.time is {time}; {wanted}"))?;
        *time = time_text(micros).map_or(micros.into(), Value::String);
    }
    if let Some(id) = columns.get_mut("event_id") {
        let uuid = id.as_str().and_then(|text| Uuid::try_parse(text).ok());
        let uuid = uuid.ok_or_else(|| format!("{place}.event_id is {id}; wanted a UUID"))?;
        *id = uuid.to_string().into();
    }
    for column in ["event_type", "user_id"] {
        if columns.get(column).is_some_and(|text| !text.is_string()) {
            return Err(format!("{place}.{column}: wanted text"));
        }
    }
    match columns.get("properties") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => Err(format!("{place}.properties: wanted an object or null")),
    }
}

/// Checks that this is an object of texts with no other keys.
fn check_texts(place: &str, value: &Value, keys: &[&str]) -> Result<(), String> {
    let Value::Object(texts) = value else { return Err(format!("{place}: wanted an object")) };
    match texts.iter().find(|(key, text)| !keys.contains(&key.as_str()) || !text.is_string()) {
        Some((key, _)) => {
            Err(format!("{place}.{key}: wanted text, and no other keys than {}", keys.join(", ")))
        }
        None => Ok(()),
    }
}

fn check_reason(found: &str) -> Result<(), String> {
    let known: Vec<&str> = Reason::all().map(Reason::as_str).filter(|reason| *reason != "rejected").collect();
    match known.contains(&found) {
        true => Ok(()),
        false => Err(format!("fault is {found:?}; wanted one of {}", known.join(", "))),
    }
}

/// Checks the form of `[{"stream":"…","fields":{…}}, …]`.
pub(super) fn check_publications(value: &mut Value) -> Result<(), String> {
    check_list("publish", value, &["stream", "fields"])
}

/// Checks the form of `[{"name":"…","labels":{…},"add":1}, …]`.
pub(super) fn check_samples(value: &mut Value) -> Result<(), String> {
    check_list("metrics", value, &["name", "labels", "add", "observe"])
}

fn check_list(place: &str, value: &Value, keys: &[&str]) -> Result<(), String> {
    let wanted = || format!("{place}: wanted a list of objects with some of {}", keys.join(", "));
    let Value::Array(items) = value else { return Err(wanted()) };
    let is_item = |item: &Value| {
        item.as_object().is_some_and(|item| item.keys().all(|key| keys.contains(&key.as_str())))
    };
    if items.iter().all(is_item) { Ok(()) } else { Err(wanted()) }
}

/// Compares an outcome with what was wanted of it. What is not named is not compared.
pub(super) fn compare_outcome(wanted: &Value, got: &Value) -> Vec<Difference> {
    if kind(wanted) != kind(got) {
        return vec![Difference {
            path: String::new(),
            wanted: Some(wanted.clone()),
            got: Some(got.clone()),
        }];
    }
    if kind(wanted) == "fault" {
        // Its message tells functions and numbers that differ from build to build.
        let has_part =
            match (wanted.get("message").and_then(Value::as_str), got.get("message").and_then(Value::as_str))
            {
                (Some(part), Some(whole)) => whole.contains(part),
                _ => true,
            };
        if wanted.get("fault") == got.get("fault") && has_part {
            return Vec::new();
        }
    }
    compare("", wanted, got, How::Subset)
}

/// How two values are compared.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum How {
    /// What the first one does not name may be anything.
    Subset,
    Exactly,
}

/// Returns where the values differ, some of the places if there are many.
pub(super) fn compare(path: &str, wanted: &Value, got: &Value, how: How) -> Vec<Difference> {
    let mut found = Vec::new();
    compare_at(path, wanted, got, how, &mut found);
    found.truncate(MAX_DIFFERENCES);
    found
}

fn compare_at(path: &str, wanted: &Value, got: &Value, how: How, found: &mut Vec<Difference>) {
    let differs =
        || Difference { path: path.to_owned(), wanted: Some(wanted.clone()), got: Some(got.clone()) };
    match (wanted, got) {
        _ if found.len() >= MAX_DIFFERENCES => {}
        (Value::Object(wanted), Value::Object(got)) => {
            for (key, wanted) in wanted {
                let path = joined(path, key);
                match got.get(key) {
                    Some(got) => compare_at(&path, wanted, got, how, found),
                    None => found.push(Difference { path, wanted: Some(wanted.clone()), got: None }),
                }
            }
            if how == How::Exactly {
                let more = got.iter().filter(|(key, _)| !wanted.contains_key(*key));
                found.extend(more.map(|(key, got)| Difference {
                    path: joined(path, key),
                    wanted: None,
                    got: Some(got.clone()),
                }));
            }
        }
        (Value::Array(wanted), Value::Array(got)) if wanted.len() == got.len() => {
            for (i, (wanted, got)) in wanted.iter().zip(got).enumerate() {
                compare_at(&format!("{path}[{i}]"), wanted, got, how, found);
            }
        }
        (wanted, got) if wanted == got => {}
        _ => found.push(differs()),
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Returns the kind of an outcome.
pub(super) fn kind(outcome: &Value) -> &'static str {
    KINDS.into_iter().find(|kind| outcome.get(kind).is_some()).unwrap_or("nothing")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differences(mut wanted: Value, got: &Value) -> Vec<String> {
        check_outcome(&mut wanted).expect("an expectation");
        let shown = |value: Option<Value>| value.map_or("nothing".to_owned(), |value| value.to_string());
        let found = compare_outcome(&wanted, got).into_iter();
        found
            .map(|Difference { path, wanted, got }| format!("{path}: {} {}", shown(wanted), shown(got)))
            .collect()
    }

    #[test]
    fn what_is_not_named_is_not_compared() {
        let row = json!({ "event_id": "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11", "time": "2026-01-18T22:17:54.827000Z",
            "event_type": "t", "user_id": "u", "properties": { "a": [1, { "b": 2 }], "c": null } });
        let accepted = json!({ "accept": row.clone() });
        for wanted in [
            json!({}),
            json!({ "event_id": "0C7B6B3E5A0E4B0F9D6C2F1F6A3C8E11" }),
            json!({ "time": 1_768_774_674_827_000_i64 }),
            json!({ "time": "2026-01-18T23:17:54.827+01:00" }),
            json!({ "properties": { "a": [1, {}] } }),
        ] {
            assert_eq!(differences(json!({ "accept": wanted }), &accepted), Vec::<String>::new());
        }
        let wanted =
            json!({ "user_id": "v", "time": 1, "properties": { "a": [1, { "b": 3 }], "c": 1, "d": 1 } });
        assert_eq!(
            differences(json!({ "accept": wanted }), &accepted),
            [
                "accept.properties.a[1].b: 3 2",
                "accept.properties.c: 1 null",
                "accept.properties.d: 1 nothing",
                "accept.time: \"1970-01-01T00:00:00.000001Z\" \"2026-01-18T22:17:54.827000Z\"",
                "accept.user_id: \"v\" \"u\"",
            ]
        );
        assert_eq!(differences(json!({ "expand": [{}, {}] }), &json!({ "expand": [row] })).len(), 1);
        assert_eq!(differences(json!({ "discard": "a" }), &accepted).len(), 1);
    }

    #[test]
    fn lists_match_in_order_and_length_and_faults_by_name() {
        let violation = |code: &str| json!({ "path": "p", "code": code, "message": "m" });
        let got = json!({ "reject": [violation("a"), violation("b")] });
        assert_eq!(
            differences(json!({ "reject": [{ "code": "a" }, { "path": "p" }] }), &got),
            Vec::<String>::new()
        );
        assert_eq!(
            differences(json!({ "reject": [{ "code": "b" }, { "code": "a" }] }), &got),
            ["reject[0].code: \"b\" \"a\"", "reject[1].code: \"a\" \"b\""]
        );
        assert_eq!(differences(json!({ "reject": [{ "code": "a" }] }), &got).len(), 1);
        let got = json!({ "fault": "trapped", "message": "the guest trapped: unreachable, in f" });
        assert_eq!(
            differences(json!({ "fault": "trapped", "message": "unreachable" }), &got),
            Vec::<String>::new()
        );
        assert_eq!(differences(json!({ "fault": "trapped", "message": "x" }), &got).len(), 1);
        assert_eq!(differences(json!({ "fault": "timed_out" }), &got), ["fault: \"timed_out\" \"trapped\""]);
    }

    #[test]
    fn an_expectation_of_another_form_is_refused() {
        for (wanted, said) in [
            (json!([]), "wanted one of accept, expand, reject, discard, fault"),
            (json!({}), "wanted one of"),
            (json!({ "accept": {}, "discard": "x" }), "wanted one of"),
            (json!({ "accept": {}, "id": "1-1" }), "\"id\" is no part"),
            (json!({ "accept": [] }), "accept: wanted a row"),
            (json!({ "accept": { "user": "x" } }), "\"user\" is no column"),
            (json!({ "accept": { "time": "now" } }), "accept.time is \"now\""),
            (json!({ "accept": { "time": 1.5 } }), "accept.time is 1.5"),
            (json!({ "expand": [{ "event_id": "x" }] }), "expand[0].event_id is \"x\""),
            (json!({ "accept": { "properties": "{}" } }), "wanted an object or null"),
            (json!({ "reject": { "code": "x" } }), "reject: wanted a list"),
            (json!({ "reject": [{ "code": 1 }] }), "reject[0].code: wanted text"),
            (json!({ "reject": [{ "cod": "x" }] }), "no other keys than path, code, message"),
            (json!({ "fault": "traped" }), "wanted one of undecodable, deleted"),
        ] {
            let error = check_outcome(&mut wanted.clone()).expect_err("a refusal");
            assert!(error.contains(said), "{wanted}: {error}");
        }
    }
}
