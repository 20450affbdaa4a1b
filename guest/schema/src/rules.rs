//! Judges an event by the schema of its type.

use std::collections::BTreeMap;

use jsonschema::Validator;
use serde_json::{Map, Value};
use sluicegate_kit::{
    Code, Entry, Judged, Rules, Verdict, Violation, Violations, quote, read_event_with, violation,
};

use crate::breach::{self, PROPERTIES};
use crate::mapping::Mapping;

/// Says that there is no schema for a type of event.
const UNKNOWN_EVENT_TYPE: &str = "unknown_event_type";

/// Holds what an instance has from its beginning.
pub(crate) struct SchemaRules {
    pub(crate) types: BTreeMap<String, Validator>,
    /// Is for all types that are not among these. Without it, they are refused.
    pub(crate) others: Option<Validator>,
    /// Makes events of entries. Without it, entries have the fields of events.
    pub(crate) mapping: Option<Mapping>,
}

impl Rules for SchemaRules {
    /// Judges an entry by the default rules, and its properties by the schema.
    fn judge(&self, entry: &Entry) -> Judged {
        let further = |event_type: &str, properties: Option<&str>| self.further(event_type, properties);
        match &self.mapping {
            Some(mapping) => mapping.judge(entry, further),
            None => read_event_with(entry, further).map(Verdict::Accept),
        }
    }
}

impl SchemaRules {
    fn further(&self, event_type: &str, properties: Option<&str>) -> Violations {
        let Some(validator) = self.types.get(event_type).or(self.others.as_ref()) else {
            let message = format!("found {}, expected a type that a schema was given for", quote(event_type));
            return violation("event_type", UNKNOWN_EVENT_TYPE, message).into();
        };
        // No properties are as good as none within: a schema that requires some names the missing ones.
        let properties = match properties.map(serde_json::from_str) {
            None => Value::Object(Map::new()),
            Some(Ok(value)) => value,
            Some(Err(error)) => return unreadable(&error).into(),
        };
        if validator.is_valid(&properties) {
            return Violations::new();
        }
        validator.iter_errors(&properties).flat_map(|error| breach::violations(&error)).collect()
    }
}

/// Makes the violation of a JSON text that was found to be well-formed, but cannot be held in memory.
fn unreadable(error: &serde_json::Error) -> Violation {
    violation(PROPERTIES, Code::JsonSyntax, error.to_string())
}
