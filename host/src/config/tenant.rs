//! The settings that each tenant may have for itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use figment::Figment;
use figment::providers::Serialized;
use serde::{Deserialize, Serialize};

use super::{Error, Problem, Statement, Tenant, over};

/// The settings that bound a guest and decide about entries: what loads a component, and what is logged, does not.
const GUEST_LIMITS: [&str; 13] = [
    "guest_time_limit",
    "guest_fuel",
    "guest_memory",
    "guest_stack",
    "guest_table_elements",
    "guest_instances",
    "guest_handles",
    "guest_output",
    "guest_rows",
    "guest_string",
    "guest_json_depth",
    "max_event_age",
    "max_event_ahead",
];

impl Tenant {
    /// Returns the defaults of a tenant that has a table of its own in the file.
    pub(super) fn named(name: TenantName) -> Self {
        // A tenant that writes to another's table can keep an event out by storing its key first.
        let events_table = match name == TenantName::default() {
            true => TableName::default(),
            false => TableName(format!("events_{name}")),
        };
        Self { name, events_table, ..Self::default() }
    }

    /// Applies what is set in `layers`, and checks it. The operator has named all of these
    /// statements.
    pub(super) fn set(
        self,
        layers: &Figment,
        statements: &BTreeMap<String, Statement>,
    ) -> Result<Self, Problem> {
        let mut tenant = Self { name: self.name.clone(), ..over(&self, layers)? };
        tenant.check_each()?;
        tenant.grants.check(statements, &tenant.stream_name)?;
        tenant.statements = tenant.grants.granted(statements);
        Ok(tenant)
    }

    /// Returns the limits of the guest that decide about entries, by the names of their settings.
    pub fn guest_limits(&self) -> BTreeMap<String, serde_json::Value> {
        // A setting that does not become JSON is none of these.
        let Ok(serde_json::Value::Object(all)) = serde_json::to_value(self) else { return BTreeMap::new() };
        all.into_iter().filter(|(name, _)| GUEST_LIMITS.contains(&name.as_str())).collect()
    }

    /// Returns the tenant with these limits, by the names of their settings. A name that is no limit has no effect.
    pub fn with_guest_limits(&self, limits: &BTreeMap<String, serde_json::Value>) -> Result<Self, Error> {
        let named = |problem| Error { tenant: Some(self.name.clone()), problem };
        let limits: BTreeMap<_, _> =
            limits.iter().filter(|(name, _)| GUEST_LIMITS.contains(&name.as_str())).collect();
        let layer = Figment::from(Serialized::defaults(limits));
        let limited: Self = over(self, &layer).map_err(named)?;
        limited.check_each().map_err(named)?;
        Ok(Self {
            name: self.name.clone(),
            grants: self.grants.clone(),
            statements: self.statements.clone(),
            ..limited
        })
    }

    /// Returns `ROW_RETRY`, or less if others would take the entry over before that.
    pub fn row_retry(&self) -> Duration {
        self.row_retry.0.min(self.claim_min_idle.0 / 2)
    }
}

/// A tenant's name. It is short, and may be part of a file's, a table's or a label's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(String);

impl TenantName {
    /// Says what a name must be.
    pub const WANTED: &'static str = "a lower-case letter, then at most 31 of a-z, 0-9 and _";

    /// Returns `None` for what is no name.
    pub fn new(text: &str) -> Option<Self> {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let is_name = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(is_inner)
            && text.len() <= 32;
        is_name.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table's name, which needs no quotes in SQL unless it is a key word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TableName(String);

impl TableName {
    /// Returns the name as it stands in SQL.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl TryFrom<String> for TableName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_first = |c: char| c.is_ascii_lowercase() || c == '_';
        let is_inner = |c: char| is_first(c) || c.is_ascii_digit();
        match text.starts_with(is_first) && text.chars().all(is_inner) && text.len() <= 63 {
            true => Ok(Self(text)),
            false => Err(format!("is {text:?}")),
        }
    }
}

impl Default for TableName {
    fn default() -> Self {
        Self("events".to_owned())
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["a", "acme", "a_9", &"x".repeat(32)] {
            assert_eq!(TenantName::new(name).as_ref().map(TenantName::as_str), Some(name));
        }
        for bad in ["", "9a", "_a", "A", "acme-eu", "a b", "ä", "a\"", "a.b", &"x".repeat(33)] {
            assert_eq!(TenantName::new(bad), None, "{bad:?}");
        }
        for table in ["events", "_e9", &"x".repeat(63)] {
            assert_eq!(
                TableName::try_from(table.to_owned()).map(|table| table.quoted()),
                Ok(format!("\"{table}\""))
            );
        }
        for bad in ["", "9a", "Events", "e-f", "public.events", "e\"; DROP TABLE events; --", &"x".repeat(64)]
        {
            assert!(TableName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
