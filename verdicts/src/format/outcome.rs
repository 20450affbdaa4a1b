//! What came of an entry, as a line.

use chrono::{DateTime, Datelike as _, SecondsFormat};
use serde::de::{self, Deserializer};
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{compact, json};
use crate::{EntryId, Event, Outcome, Reason, Vec1, Violation};

/// What came of an entry, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutcomeView {
    Accept(RowView),
    Expand(Vec<RowView>),
    Reject(Vec<Violation>),
    /// The reason that the rules gave.
    Discard(String),
    /// The entry is a dead letter for another reason than the rules' verdict.
    Fault {
        reason: String,
        message: String,
    },
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowView {
    pub event_id: String,
    /// In microseconds since the Unix epoch.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub time: i64,
    pub event_type: String,
    pub user_id: String,
    /// A JSON object in text form.
    #[serde(serialize_with = "write_json", deserialize_with = "read_json")]
    pub properties: Option<String>,
}

impl OutcomeView {
    pub fn new(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Store(Vec1::One(event)) => Self::Accept(event.into()),
            Outcome::Store(Vec1::Many(events)) => Self::Expand(events.iter().map(RowView::from).collect()),
            Outcome::DeadLetter(Reason::Rejected, violations) => Self::Reject(violations.clone()),
            Outcome::DeadLetter(reason, violations) => {
                let told = |Violation { path, message, .. }: &Violation| match path.as_str() {
                    "" => message.clone(),
                    path => format!("{path}: {message}"),
                };
                let message = violations.first().map(told).unwrap_or_default();
                Self::Fault { reason: reason.as_str().to_owned(), message }
            }
            Outcome::Discard(reason) => Self::Discard(reason.clone()),
        }
    }

    /// Returns the word under which a line has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Accept(_) => "accept",
            Self::Expand(_) => "expand",
            Self::Reject(_) => "reject",
            Self::Discard(_) => "discard",
            Self::Fault { .. } => "fault",
        }
    }

    /// Reads a line, and the ID in it if there is one. An error says what was found and what is wanted.
    pub fn read(text: &str) -> Result<(Option<EntryId>, Self), String> {
        const ONE: &str = "wanted one of accept, expand, reject, discard, fault";
        let Keys { id, accept, expand, reject, discard, fault, message } = json(text)?;
        let id =
            id.map(|id| EntryId::parse(id.as_bytes()).ok_or_else(|| format!("id is {id:?}, which is none")));
        let has_message = message.is_some();
        let fault = fault.map(|reason| Self::Fault { reason, message: message.unwrap_or_default() });
        if has_message && fault.is_none() {
            return Err("a message is there without a fault, whose message it would be".to_owned());
        }
        let all = [
            accept.map(Self::Accept),
            expand.map(Self::Expand),
            reject.map(Self::Reject),
            discard.map(Self::Discard),
            fault,
        ];
        let mut found = all.into_iter().flatten();
        match (found.next(), found.next()) {
            (Some(view), None) => Ok((id.transpose()?, view)),
            (None, _) => Err(format!("none of the outcomes is there; {ONE}")),
            (Some(one), Some(other)) => {
                Err(format!("{} and {} are both there; {ONE}", one.kind(), other.kind()))
            }
        }
    }
}

/// Writes the view without an ID.
impl Serialize for OutcomeView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.keys(None).serialize(serializer)
    }
}

/// Returns a line of this entry, without the end of the line.
pub fn outcome_line(id: EntryId, view: &OutcomeView) -> serde_json::Result<String> {
    serde_json::to_string(&view.keys(Some(id)))
}

/// The keys that a line can have.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<Row, Rows, Violations, Text> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept: Option<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expand: Option<Rows>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reject: Option<Violations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discard: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Text>,
}

impl OutcomeView {
    fn keys(&self, id: Option<EntryId>) -> Keys<&RowView, &[RowView], &[Violation], &str> {
        let id = id.map(|id| id.to_string());
        let mut keys =
            Keys { id, accept: None, expand: None, reject: None, discard: None, fault: None, message: None };
        match self {
            Self::Accept(row) => keys.accept = Some(row),
            Self::Expand(rows) => keys.expand = Some(rows.as_slice()),
            Self::Reject(violations) => keys.reject = Some(violations.as_slice()),
            Self::Discard(reason) => keys.discard = Some(reason.as_str()),
            Self::Fault { reason, message } => {
                (keys.fault, keys.message) = (Some(reason.as_str()), Some(message.as_str()));
            }
        }
        keys
    }
}

impl From<&Event> for RowView {
    fn from(event: &Event) -> Self {
        Self {
            event_id: event.event_id.to_string(),
            time: event.time.timestamp_micros(),
            event_type: event.event_type.clone(),
            user_id: event.user_id.clone(),
            properties: event.properties.as_deref().map(compact),
        }
    }
}

/// Returns a time as RFC 3339 has it, to the microsecond, or `None` where it has no form for the year.
pub fn time_text(micros: i64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(micros).filter(|time| (0..=9_999).contains(&time.year()))?;
    Some(time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Returns the microseconds since the Unix epoch of a time in RFC 3339.
pub fn time_of(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn write_time<S: Serializer>(micros: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    match time_text(*micros) {
        Some(text) => serializer.serialize_str(&text),
        None => serializer.serialize_i64(*micros),
    }
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a time such as \"2026-11-29T12:00:00.000000Z\", or microseconds since the Unix epoch"
    )]
    enum Time {
        Micros(i64),
        Text(String),
    }
    match Time::deserialize(deserializer)? {
        Time::Micros(micros) => Ok(micros),
        Time::Text(text) => time_of(&text).ok_or_else(|| {
            de::Error::custom(format!("time is {text:?}; wanted RFC 3339, such as 2026-11-29T12:00:00Z"))
        }),
    }
}

fn write_json<S: Serializer>(json: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let json: Option<&RawValue> =
        json.as_deref().map(serde_json::from_str).transpose().map_err(S::Error::custom)?;
    json.serialize(serializer)
}

fn read_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let json = Option::<Box<RawValue>>::deserialize(deserializer)?;
    Ok(json.map(|json| compact(json.get())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> RowView {
        RowView {
            event_id: "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11".to_owned(),
            time: 1_768_774_674_827_000,
            event_type: "page_view".to_owned(),
            user_id: "u1".to_owned(),
            properties: Some(r#"{"a":1.50}"#.to_owned()),
        }
    }

    #[test]
    fn each_outcome_is_read_as_it_is_written() {
        let id = EntryId { milliseconds: 1, sequence: 2 };
        let violation =
            |path: &str| Violation { path: path.into(), code: "missing".into(), message: "m".into() };
        let ancient = RowView { time: -210_863_520_000_000_000, properties: None, ..row() };
        let accepted = r#"{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","time":"2026-01-18T22:17:54.827000Z","event_type":"page_view","user_id":"u1","properties":{"a":1.50}}"#;
        for (view, wanted) in [
            (OutcomeView::Accept(row()), format!(r#"{{"id":"1-2","accept":{accepted}}}"#)),
            (
                OutcomeView::Expand(vec![row(), ancient]),
                format!(
                    r#"{{"id":"1-2","expand":[{accepted},{{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","time":-210863520000000000,"event_type":"page_view","user_id":"u1","properties":null}}]}}"#
                ),
            ),
            (
                OutcomeView::Reject(vec![violation("a")]),
                r#"{"id":"1-2","reject":[{"path":"a","code":"missing","message":"m"}]}"#.to_owned(),
            ),
            (OutcomeView::Discard("bot".into()), r#"{"id":"1-2","discard":"bot"}"#.to_owned()),
            (
                OutcomeView::Fault { reason: "trapped".into(), message: "m".into() },
                r#"{"id":"1-2","fault":"trapped","message":"m"}"#.to_owned(),
            ),
        ] {
            let line = outcome_line(id, &view).expect("JSON");
            assert_eq!(line, wanted);
            assert_eq!(OutcomeView::read(&line), Ok((Some(id), view)));
        }
    }

    #[test]
    fn a_fault_of_a_verdict_names_the_place() {
        let violation =
            Violation { path: "[1].event-id".into(), code: "repeated_key".into(), message: "m".into() };
        let view = OutcomeView::new(&Outcome::DeadLetter(Reason::BadVerdict, vec![violation]));
        let wanted = OutcomeView::Fault { reason: "bad_verdict".into(), message: "[1].event-id: m".into() };
        assert_eq!(view, wanted);
    }

    #[test]
    fn an_error_says_what_is_wanted() {
        for (text, wanted) in [
            ("{}", "wanted one of accept, expand, reject, discard, fault"),
            (r#"{"discard":"a","fault":"trapped"}"#, "discard and fault are both there"),
            (r#"{"discard":"a","message":"b"}"#, "without a fault"),
            (r#"{"discarded":"a"}"#, "unknown field `discarded`"),
            (r#"{"discard":"a","id":"x"}"#, "id is \"x\""),
            (r#"{"accept":{"event_id":"a"}}"#, "missing field `time`"),
            (
                r#"{"accept":{"event_id":"a","time":"now","event_type":"","user_id":"","properties":null}}"#,
                "wanted RFC 3339",
            ),
        ] {
            let error = OutcomeView::read(text).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
