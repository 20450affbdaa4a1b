//! What a guest may do besides judging, set in the file only: `[grants]` and `[statements.NAME]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Problem, Time, range, within};

/// The grants of a guest of the world `pipeline`. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Whether the guest may see lag and delivery counts.
    pub stream: bool,
    /// The streams that it may publish to, each with the length to trim to (`MAXLEN ~`).
    pub publish: BTreeMap<String, u64>,
    /// The names of the `[statements.NAME]` that it may run.
    pub statements: Vec<String>,
    /// Whether it may keep counters and histograms of its own.
    pub metrics: bool,
}

/// A statement that guests may run by its name, in the batch's own transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// One statement, with parameters `$1`, `$2`, …
    pub sql: String,
    /// The types of the parameters, in order.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    /// How long the statement may take.
    #[serde(default = "default_timeout")]
    pub timeout: Time,
    /// How many rows it may return.
    #[serde(default = "default_rows")]
    pub rows: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parameter {
    /// `boolean`
    Boolean,
    /// `bigint`
    Integer,
    /// `double precision`
    Number,
    /// `text`
    Text,
    /// `uuid`
    Uuid,
    /// `timestamptz`
    Timestamp,
    /// `jsonb`
    Json,
    /// `bytea`
    Bytes,
}

impl Parameter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Text => "text",
            Self::Uuid => "uuid",
            Self::Timestamp => "timestamp",
            Self::Json => "json",
            Self::Bytes => "bytes",
        }
    }
}

fn default_timeout() -> Time {
    Time::millis(100)
}

fn default_rows() -> usize {
    100
}

/// The first words that a statement may have: none ends the transaction or changes the session.
const STATEMENTS: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES"];

impl Statement {
    pub(super) fn check(&self, name: &str) -> Result<(), Problem> {
        let first = self.sql.split_whitespace().next().unwrap_or_default();
        if !STATEMENTS.iter().any(|known| known.eq_ignore_ascii_case(first)) {
            let wanted = format!("a statement that begins with one of {}", STATEMENTS.join(", "));
            return Err(range(format!("statements.{name}.sql"), format!("`{first} …`"), wanted));
        }
        within(format!("statements.{name}.timeout"), self.timeout, Time::millis(1)..=Time::secs(10))?;
        within(format!("statements.{name}.rows"), self.rows, 0..=10_000)
    }
}

impl Grants {
    /// Returns those of the statements that are granted.
    pub(super) fn granted(&self, statements: &BTreeMap<String, Statement>) -> BTreeMap<String, Statement> {
        let granted = |(name, _): &(&String, &Statement)| self.statements.contains(*name);
        statements.iter().filter(granted).map(|(name, statement)| (name.clone(), statement.clone())).collect()
    }

    /// Checks the grants against the existing statements, and the stream that is read.
    pub(super) fn check(&self, statements: &BTreeMap<String, Statement>, own: &str) -> Result<(), Problem> {
        for name in &self.statements {
            if !statements.contains_key(name) {
                let wanted = format!("the name of a table [statements.{name}]");
                return Err(range("grants.statements", format!("{name:?}"), wanted));
            }
        }
        match self.publish.contains_key(own) {
            true => {
                Err(range("grants.publish", format!("{own:?}"), "another stream than the one that is read"))
            }
            false => Ok(()),
        }
    }
}
