//! What a check has found, and how urgent it is.

use std::fmt;

use serde::Serialize;

use crate::config::TenantName;
use crate::text::printable;

/// How urgent a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The service does not work, or can lose what it has promised to keep.
    Error,
    /// Something will go wrong, or costs more than it must.
    Warning,
    /// Worth knowing. Nothing need be done.
    Note,
    Ok,
}

impl Level {
    pub(super) const ALL: [Self; 4] = [Self::Error, Self::Warning, Self::Note, Self::Ok];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
            Self::Ok => "ok",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Settings,
    Redis,
    Postgres,
    Tenant(TenantName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings => f.write_str("settings"),
            Self::Redis => f.write_str("redis"),
            Self::Postgres => f.write_str("postgres"),
            Self::Tenant(name) => write!(f, "tenant {name}"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One finding. Its identifier stays the same from version to version; its words may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub id: &'static str,
    pub level: Level,
    pub subject: Subject,
    pub found: String,
    /// Empty where all is well.
    pub wanted: String,
    /// What to do: a command or a setting to copy. Empty where nothing need be done.
    pub remedy: String,
}

impl Finding {
    pub(super) fn ok(id: &'static str, subject: &Subject, found: impl Into<String>) -> Self {
        Self::new(id, Level::Ok, subject, found, "", "")
    }

    pub(super) fn note(
        id: &'static str,
        subject: &Subject,
        found: impl Into<String>,
        wanted: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(id, Level::Note, subject, found, wanted, remedy)
    }

    pub(super) fn warning(
        id: &'static str,
        subject: &Subject,
        found: impl Into<String>,
        wanted: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(id, Level::Warning, subject, found, wanted, remedy)
    }

    pub(super) fn error(
        id: &'static str,
        subject: &Subject,
        found: impl Into<String>,
        wanted: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(id, Level::Error, subject, found, wanted, remedy)
    }

    /// Names of consumers, tables and users are others' text, and so is what servers say.
    pub(super) fn new(
        id: &'static str,
        level: Level,
        subject: &Subject,
        found: impl Into<String>,
        wanted: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let shown = |text: String| printable(&text).into_owned();
        let (found, wanted, remedy) = (shown(found.into()), shown(wanted.into()), shown(remedy.into()));
        Self { id, level, subject: subject.clone(), found, wanted, remedy }
    }
}
