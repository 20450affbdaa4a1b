//! What a guest returns. All of it is hostile input until `validate` has seen it.

/// What a guest returns: what it wants to become of an entry, not yet checked.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Verdict {
    /// Stores one row.
    Accept(UncheckedEvent),
    /// Stores several rows, all or none.
    Expand(#[serde(deserialize_with = "crate::bounded::list")] Vec<UncheckedEvent>),
    /// Keeps the entry as a dead letter.
    Reject(#[serde(deserialize_with = "crate::bounded::list")] Vec<Violation>),
    /// Drops the entry on purpose.
    Discard(String),
}

/// A row as a guest hands it over: hostile input until `validate` has seen it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UncheckedEvent {
    /// A UUID in text form.
    pub event_id: String,
    /// Microseconds since the Unix epoch.
    pub time: i64,
    pub event_type: String,
    pub user_id: String,
    /// A JSON object in text form.
    pub properties: Option<String>,
}

/// One reason why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// The place in the entry, empty for the whole of it.
    pub path: String,
    /// A short, stable name for programs.
    pub code: String,
    /// A message for people.
    pub message: String,
}
