//! A guest of the world `pipeline` in version 0.1.0. It calls everything that it may import, and returns each kind of verdict.
//!
//! | field `do` | what it does |
//! |---|---|
//! | `accept` | accepts an event whose properties tell what was asked of the host |
//! | `expand` | expands the entry to two events |
//! | `reject` | rejects it with one violation |
//! | others | discards it |

use bindings::exports::sluicegate::guest::handler::Guest;
use bindings::sluicegate::guest::metrics;
use bindings::sluicegate::guest::store::{self, Error, Refusal, Value};
use bindings::sluicegate::guest::stream::{self, PublishError};
use bindings::sluicegate::guest::types::{Entry, EntryId, Event, Verdict, Violation};

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit/0.1.0", world: "pipeline" });
}

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        batch.iter().map(judge).collect()
    }
}

#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "what wit-bindgen makes of an export")]
mod exported {
    use super::{Component, bindings};

    bindings::export!(Component with_types_in bindings);
}

fn judge(entry: &Entry) -> Verdict {
    let wanted = entry.fields.iter().find(|(name, _)| name == "do").map(|(_, value)| value.as_str());
    match wanted {
        Some("accept") => Verdict::Accept(event(entry.id, Some(asked(entry)))),
        Some("expand") => {
            let EntryId { milliseconds, sequence } = entry.id;
            let next = EntryId { milliseconds, sequence: sequence.wrapping_add(1) };
            Verdict::Expand(vec![event(entry.id, None), event(next, None)])
        }
        Some("reject") => Verdict::Reject(vec![Violation {
            path: "do".to_owned(),
            code: "unwanted".to_owned(),
            message: "found reject, wanted another".to_owned(),
        }]),
        _ => Verdict::Discard("nothing to do".to_owned()),
    }
}

fn event(id: EntryId, properties: Option<String>) -> Event {
    Event {
        event_id: format!("{:016x}{:016x}", id.milliseconds, id.sequence),
        time: 1_768_774_674_827_000,
        event_type: "released".to_owned(),
        user_id: "ada".to_owned(),
        properties,
    }
}

/// Asks the host for all that there is, and returns its answers as a JSON object.
fn asked(entry: &Entry) -> String {
    let number = |number: Option<u64>| number.map_or("null".to_owned(), |number| number.to_string());
    let all = [
        Value::Null,
        Value::Boolean(true),
        Value::Integer(7),
        Value::Number(0.5),
        Value::Text("a".to_owned()),
        Value::Uuid("0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11".to_owned()),
        Value::Timestamp(1_768_774_674_827_000),
        Value::Json("{}".to_owned()),
        Value::Bytes(vec![255]),
    ];
    let found = match store::query("look", &all) {
        Ok(rows) => rows.into_iter().flatten().map(|value| value_name(&value)).collect::<Vec<_>>().join(" "),
        Err(error) => error_name(&error),
    };
    let changed = store::execute("touch", &[]).map_err(|error| error_name(&error));
    let refused =
        store::execute("refused", &[]).map_or_else(|error| error_name(&error), |_| "none".to_owned());
    let ungranted =
        store::execute("none", &[]).map_or_else(|error| error_name(&error), |_| "none".to_owned());
    let field = [("plan".to_owned(), "gold".to_owned())];
    let published = match stream::publish("purchases", &field) {
        Ok(()) => "published",
        Err(PublishError::NotGranted(_)) => "not granted",
        Err(PublishError::TooMuch(_)) => "too much",
    };
    metrics::add("asked", &[("plan".to_owned(), "gold".to_owned())], 1);
    metrics::observe("asked_seconds", &[], 0.5);
    format!(
        r#"{{"lag":{},"deliveries":{},"found":"{found}","changed":{},"refused":"{refused}","ungranted":"{ungranted}","published":"{published}"}}"#,
        number(stream::lag()),
        number(stream::delivery_count(entry.id)),
        changed.map_or("null".to_owned(), |changed| changed.to_string()),
    )
}

fn value_name(value: &Value) -> String {
    let name = match value {
        Value::Null => "null",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) => "integer",
        Value::Number(_) => "number",
        Value::Text(_) => "text",
        Value::Uuid(_) => "uuid",
        Value::Timestamp(_) => "timestamp",
        Value::Json(_) => "json",
        Value::Bytes(_) => "bytes",
    };
    name.to_owned()
}

fn error_name(error: &Error) -> String {
    match error {
        Error::NotGranted(statement) => format!("not granted: {statement}"),
        Error::WrongParameters(_) => "wrong parameters".to_owned(),
        Error::Refused(Refusal { code, .. }) => format!("refused: {code}"),
        Error::TimedOut(_) => "timed out".to_owned(),
        Error::TooMuch(_) => "too much".to_owned(),
        Error::TooManyStatements(_) => "too many statements".to_owned(),
        Error::UnknownType(_) => "unknown type".to_owned(),
    }
}
