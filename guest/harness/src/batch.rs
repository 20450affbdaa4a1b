//! Entries, verdicts and outcomes, as the service has them: what `format` and `validate` are made for.

use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The ID of an entry: `<milliseconds>-<sequence>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId {
    pub milliseconds: u64,
    pub sequence: u64,
}

impl EntryId {
    /// Reads the text form, or returns `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (milliseconds, sequence) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { milliseconds: milliseconds.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

/// The name and the value of a field.
pub type Field = (Vec<u8>, Vec<u8>);

/// An entry that was read from a line.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: EntryId,
    /// There are always some here: only a stream loses the fields of an entry.
    pub fields: Option<Vec<Field>>,
    #[allow(dead_code, reason = "the stub of the interface `stream` tells it")]
    pub deliveries: u64,
}

/// What a guest returns, not yet checked.
#[derive(Clone, Debug)]
pub enum Verdict {
    Accept(UncheckedEvent),
    Expand(Vec<UncheckedEvent>),
    Reject(Vec<Violation>),
    Discard(String),
}

/// A row as a guest hands it over.
#[derive(Clone, Debug)]
pub struct UncheckedEvent {
    pub event_id: String,
    /// In microseconds since the Unix epoch.
    pub time: i64,
    pub event_type: String,
    pub user_id: String,
    pub properties: Option<String>,
}

/// A row that `validate` has made.
#[derive(Clone, Debug)]
pub struct Event {
    pub event_id: Uuid,
    pub time: DateTime<Utc>,
    pub event_type: String,
    pub user_id: String,
    pub properties: Option<String>,
}

impl Event {
    pub fn key(&self) -> (Uuid, DateTime<Utc>) {
        (self.event_id, self.time)
    }
}

/// One reason why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    pub path: String,
    pub code: String,
    pub message: String,
}

/// Why an entry would be a dead letter. For the service's other reasons it takes the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Rejected,
    Undecodable,
    BadVerdict,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Undecodable => "undecodable",
            Self::BadVerdict => "bad_verdict",
        }
    }
}

/// What comes of an entry.
#[derive(Clone, Debug)]
pub enum Outcome {
    Store(Vec1<Event>),
    DeadLetter(Reason, Vec<Violation>),
    Discard(String),
}

/// One item, or the items of a list that is not empty.
#[derive(Clone, Debug)]
pub enum Vec1<T> {
    One(T),
    Many(Vec<T>),
}
