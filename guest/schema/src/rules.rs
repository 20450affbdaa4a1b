//! Judges an event by the schema of its type.

use std::collections::BTreeMap;

use guest_rules::{Entry, Verdict, Violation, quote};
use jsonschema::Validator;
use serde_json::{Map, Value};

use crate::breach::{self, PROPERTIES};

/// Says that there is no schema for a type of event.
const UNKNOWN_EVENT_TYPE: &str = "unknown_event_type";

/// Holds what an instance has from its beginning.
pub(crate) struct Rules {
    pub(crate) types: BTreeMap<String, Validator>,
    /// Is for all types that are not among these. Without it, they are refused.
    pub(crate) others: Option<Validator>,
}

impl Rules {
    /// Judges an entry by the default rules, and its properties by the schema.
    pub(crate) fn judge(&self, entry: &Entry) -> Verdict {
        guest_rules::judge_further(entry, |event_type, properties| self.further(event_type, properties))
    }

    fn further(&self, event_type: &str, properties: Option<&str>) -> Vec<Violation> {
        let Some(validator) = self.types.get(event_type).or(self.others.as_ref()) else {
            return vec![Violation {
                path: "event_type".to_owned(),
                code: UNKNOWN_EVENT_TYPE.to_owned(),
                message: format!("found {}, expected a type that a schema was given for", quote(event_type)),
            }];
        };
        // No properties are as good as none within: a schema that requires some names the missing ones.
        let properties = match properties.map(serde_json::from_str) {
            None => Value::Object(Map::new()),
            Some(Ok(value)) => value,
            Some(Err(error)) => return vec![unreadable(&error)],
        };
        if validator.is_valid(&properties) {
            return Vec::new();
        }
        validator.iter_errors(&properties).flat_map(|error| breach::violations(&error)).collect()
    }
}

/// Makes the violation of a JSON text that was found to be well-formed, but cannot be held in memory.
fn unreadable(error: &serde_json::Error) -> Violation {
    guest_rules::violation(PROPERTIES, guest_rules::Code::JsonSyntax, error.to_string())
}
