//! Adds two rules to the default ones: the strict guest.
//!
//! It is the example to copy for rules of one's own. The default rules judge first, and this guest
//! looks only at the sound events that they accept.
//!
//! - A `purchase` must have a `properties.amount`, a number greater than 0.
//! - A `heartbeat` is discarded.

use guest_rules::{Code, Entry, Event, Guest, Verdict, Violation, quote, violation};
use serde_json::{Map, Value};

/// Implements what the component exports.
pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        batch.iter().map(judge).collect()
    }
}

guest_rules::export!(Component);

fn judge(entry: &Entry) -> Verdict {
    match guest_rules::judge(entry) {
        Verdict::Accept(event) => judge_event(event),
        other => other,
    }
}

fn judge_event(event: Event) -> Verdict {
    match event.event_type.as_str() {
        "heartbeat" => Verdict::Discard("heartbeat".to_owned()),
        "purchase" => match check_amount(event.properties.as_deref()) {
            Ok(()) => Verdict::Accept(event),
            Err(violation) => Verdict::Reject(vec![violation]),
        },
        _ => Verdict::Accept(event),
    }
}

fn check_amount(properties: Option<&str>) -> Result<(), Violation> {
    let refuse = |code, found: &str| {
        let message = format!("found {found}, expected a number greater than 0 for a purchase");
        Err(violation("properties.amount", code, message))
    };

    // The default rules have accepted the text, so it is a JSON object.
    let properties: Map<String, Value> =
        properties.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    match properties.get("amount") {
        None => refuse(Code::Missing, "nothing"),
        Some(Value::Number(amount)) if amount.as_f64().is_some_and(|amount| amount > 0.0) => Ok(()),
        Some(Value::Number(amount)) => refuse(Code::OutOfRange, &quote(&amount.to_string())),
        Some(other) => refuse(Code::WrongType, &quote(&other.to_string())),
    }
}

#[cfg(test)]
mod tests;
