//! Makes events, as a producer sends them and as the table holds them.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// Holds a stream entry's fields, as bytes.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Makes fields of text or bytes.
pub fn fields<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Fields {
    pairs.into_iter().map(|(name, value)| (name.as_ref().to_vec(), value.as_ref().to_vec())).collect()
}

/// Holds one event, and also one row of the table `events`, so that the two compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Is the key, together with `time`.
    pub event_id: Uuid,
    /// Has a precision of a microsecond.
    pub time: DateTime<Utc>,
    /// Must not be empty.
    pub event_type: String,
    /// Must not be empty.
    pub user_id: String,
    /// Holds a JSON object, or nothing.
    pub properties: Option<Value>,
}

impl Event {
    /// Makes an event like no other.
    pub fn new() -> Self {
        static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let micros = 1_768_774_674_827_000 + i64::try_from(number).unwrap_or(0) * 1_009;
        Self {
            event_id: Uuid::from_u64_pair(*RUN, number),
            time: DateTime::from_timestamp_micros(micros).expect("in this century"),
            event_type: "page_view".to_owned(),
            user_id: format!("user-{number}"),
            properties: Some(
                json!({ "number": number, "path": "/preise/übersicht", "deep": { "a": [1, 2.5, null] } }),
            ),
        }
    }

    pub fn of_type(event_type: &str) -> Self {
        Self { event_type: event_type.to_owned(), ..Self::new() }
    }

    /// Renders the event as one field `data`.
    pub fn data(&self) -> Fields {
        let mut data = json!({
            "event_id": self.event_id.to_string(),
            "event_type": self.event_type,
            "user_id": self.user_id,
            "timestamp": self.timestamp(),
        });
        if let Some(properties) = &self.properties {
            data["properties"] = properties.clone();
        }
        fields([("data", data.to_string())])
    }

    /// Renders the event as a field for each part.
    pub fn flat(&self) -> Fields {
        let mut flat = vec![
            ("event_id", self.event_id.to_string()),
            ("event_type", self.event_type.clone()),
            ("user_id", self.user_id.clone()),
            ("timestamp", self.timestamp()),
        ];
        if let Some(properties) = &self.properties {
            flat.push(("properties", properties.to_string()));
        }
        fields(flat)
    }

    /// Returns the time as a producer writes it.
    pub fn timestamp(&self) -> String {
        self.time.to_rfc3339_opts(SecondsFormat::Micros, true)
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}
