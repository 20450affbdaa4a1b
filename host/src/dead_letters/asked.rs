//! Which letters are meant, and what is to be done with them: as arguments of the command line, and as JSON.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use clap::Args;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::store::Filter;

/// The longest text that letters are looked for by.
const MAX_TEXT_CHARS: usize = 1_000;

/// Which letters. All conditions must hold.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// This number
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// With this reason: rejected, undecodable, trapped, …
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 1000, pattern = r"^[^\u0000]*$")]
    pub reason: Option<Text>,
    /// With a violation of this code: missing, `wrong_type`, …
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 1000, pattern = r"^[^\u0000]*$")]
    pub code: Option<Text>,
    /// From this stream
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 1000, pattern = r"^[^\u0000]*$")]
    pub stream: Option<Text>,
    /// Judged by this version of the rules: the first digits of its digest or its component's, as `show` and the log have it
    #[arg(long, value_name = "DIGEST")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[0-9a-fA-F]{1,64}$")]
    pub guest: Option<Digits>,
    /// Older than this: 30s, 15m, 12h, 7d
    #[arg(long, value_name = "AGE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "7d", pattern = "^([0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,5}h|[0-9]{1,4}d)$")]
    pub older: Option<Age>,
    /// Not older than this
    #[arg(long, value_name = "AGE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "12h", pattern = "^([0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,5}h|[0-9]{1,4}d)$")]
    pub newer: Option<Age>,
    /// Recorded before this time: 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub before: Option<Moment>,
    /// Recorded at this time or later
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Moment>,
}

impl Which {
    /// Returns the letters of this tenant, or of any, for which all conditions hold now.
    pub fn filter(&self, tenant: Option<&str>, open: bool) -> Filter {
        let Self { id, reason, code, stream, guest, before, since, .. } = self.fixed();
        let text = |text: Option<Text>| text.map(|Text(text)| text);
        Filter {
            id,
            reason: text(reason),
            code: text(code),
            tenant: tenant.map(str::to_owned),
            stream: text(stream),
            guest: guest.map(|Digits(digits)| digits),
            before: before.map(|Moment(before)| before),
            since: since.map(|Moment(since)| since),
            open,
            before_id: None,
        }
    }

    /// Returns the same with times in the place of ages, which would mean something else later.
    #[must_use]
    pub fn fixed(&self) -> Self {
        let ago = |Age(age): Age| Moment(Utc::now() - age);
        let (older, newer) = (self.older.map(ago), self.newer.map(ago));
        Self {
            older: None,
            newer: None,
            before: self.before.into_iter().chain(older).min(),
            since: self.since.into_iter().chain(newer).max(),
            ..self.clone()
        }
    }

    /// Returns whether there is no condition.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

/// What is to be judged again, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// Which letters; all that are open without it.
    #[serde(default, deserialize_with = "object")]
    pub filter: Which,
    /// Only tell what would come of them.
    #[serde(default)]
    pub dry_run: bool,
    /// Judge by the rules of the replica's settings, though others are in force. Only admins may.
    #[serde(default)]
    pub force: bool,
    /// How long to wait for rows that the rules write to and somebody else holds, and, in the end, for letters that
    /// another replay holds: 30s without it, an hour at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30s", pattern = "^([0-9]{1,3}s|[1-5]?[0-9]m|1h)$")]
    pub wait: Option<Age>,
}

/// What is to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Which letters, open and settled.
    #[serde(default, deserialize_with = "object")]
    pub filter: Which,
    /// Only tell how many.
    #[serde(default)]
    pub dry_run: bool,
    /// Without any condition, this is needed. Only admins may.
    #[serde(default)]
    pub all: bool,
}

/// Long work on the letters of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Replay(ReplayRequest),
    Purge(PurgeRequest),
}

impl Work {
    /// The name of a replay in the table of jobs.
    pub const REPLAY: &'static str = "replay";
    /// The name of a purge.
    pub const PURGE: &'static str = "purge";

    /// Reads work from the table of jobs.
    pub fn parse(kind: &str, request: &str) -> Result<Self, String> {
        let read = match kind {
            Self::REPLAY => serde_json::from_str(request).map(Self::Replay),
            Self::PURGE => serde_json::from_str(request).map(Self::Purge),
            other => return Err(format!("found work of the kind {other:?}, wanted replay or purge")),
        };
        read.map_err(|error| format!("what was asked for does not read: {error}"))
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Replay(_) => Self::REPLAY,
            Self::Purge(_) => Self::PURGE,
        }
    }

    /// Returns what is asked for as JSON, with the times that the ages mean now.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Replay(asked) => {
                serde_json::to_string(&ReplayRequest { filter: asked.filter.fixed(), ..asked.clone() })
            }
            Self::Purge(asked) => {
                serde_json::to_string(&PurgeRequest { filter: asked.filter.fixed(), ..asked.clone() })
            }
        }
    }

    /// Returns whether this overrides a safeguard: other rules than those in force, or everything deleted.
    pub fn is_drastic(&self) -> bool {
        match self {
            Self::Replay(asked) => asked.force,
            Self::Purge(asked) => asked.filter.is_everything() && !asked.dry_run,
        }
    }
}

/// Reads a JSON object. A list of values, in the order of the fields, would do otherwise.
pub(crate) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<T, D::Error> {
    let object = serde_json::Map::deserialize(from)?;
    T::deserialize(serde_json::Value::Object(object)).map_err(D::Error::custom)
}

/// Lets a type be read from text, by the command line and from JSON.
macro_rules! read_from_text {
    ($type:ident) => {
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::parse(&text)
            }
        }
    };
}

/// A time span, such as 12h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Age(pub Duration);
read_from_text!(Age);

impl Age {
    /// Reads `30s`, `15m`, `12h` or `7d`; at most a hundred years.
    fn parse(text: &str) -> Result<Self, String> {
        let wanted = || format!("found {text:?}, wanted a number and one of s, m, h, d, such as 12h");
        let (number, seconds) = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)]
            .into_iter()
            .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
            .ok_or_else(wanted)?;
        let number: u64 = number.parse().map_err(|_| wanted())?;
        let seconds =
            number.checked_mul(seconds).filter(|seconds| *seconds <= 36_500 * 86_400).ok_or_else(wanted)?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl From<Age> for String {
    fn from(Age(age): Age) -> Self {
        format!("{}s", age.as_secs())
    }
}

/// A time by the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(pub DateTime<Utc>);
read_from_text!(Moment);

impl Moment {
    /// Reads a time as RFC 3339 writes it.
    fn parse(text: &str) -> Result<Self, String> {
        let wanted = || format!("found {text:?}, wanted a time such as 2026-01-31T12:00:00Z");
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| wanted())?.to_utc();
        // A year of five digits does not read back.
        if (0..=9_999).contains(&time.year()) { Ok(Self(time)) } else { Err(wanted()) }
    }
}

impl From<Moment> for String {
    fn from(Moment(time): Moment) -> Self {
        time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }
}

/// The beginning of a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digits(String);
read_from_text!(Digits);

impl Digits {
    fn parse(text: &str) -> Result<Self, String> {
        match (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit()) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(format!("found {text:?}, wanted 1 to 64 hexadecimal digits, such as 0c77de41f19b")),
        }
    }
}

impl From<Digits> for String {
    fn from(Digits(digits): Digits) -> Self {
        digits
    }
}

/// A text that PostgreSQL can hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);
read_from_text!(Text);

impl Text {
    fn parse(text: &str) -> Result<Self, String> {
        match text.chars().count() <= MAX_TEXT_CHARS && !text.contains('\0') {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("wanted a text of {MAX_TEXT_CHARS} characters at most, none of them zero")),
        }
    }
}

impl From<Text> for String {
    fn from(Text(text): Text) -> Self {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        let age = |text: &str| text.parse::<Age>();
        assert_eq!(age("90s"), Ok(Age(Duration::from_secs(90))));
        assert_eq!(age("7d"), Ok(Age(Duration::from_secs(7 * 86_400))));
        for bad in ["", "7", "d", "-1h", "1.5h", "7w", "99999999999999999999d", "36501d"] {
            assert!(age(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_job_means_later_what_it_meant_when_it_was_asked_for() {
        let which: Which =
            serde_json::from_str(r#"{"older": "1h", "before": "2020-01-01T00:00:00Z", "newer": "7d"}"#)
                .expect("conditions");
        let work = Work::Purge(PurgeRequest { filter: which, ..PurgeRequest::default() });
        let json = work.to_json().expect("JSON");
        assert!(json.contains(r#""before":"2020-01-01T00:00:00Z","since":"2"#), "{json}");
        let Ok(Work::Purge(read)) = Work::parse(Work::PURGE, &json) else { panic!("{json}") };
        assert_eq!(read.filter.fixed(), read.filter);
        assert!(!work.is_drastic());
        assert!(Work::Purge(PurgeRequest { all: true, ..PurgeRequest::default() }).is_drastic());
        for bad in [
            r#"{"filter": {"tenant": "b"}}"#,
            r#"{"filter": [null, null]}"#,
            r#"{"filter": {"code": "\u0000"}}"#,
        ] {
            assert!(Work::parse(Work::PURGE, bad).is_err(), "{bad}");
        }
    }
}
