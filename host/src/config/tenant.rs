//! What each tenant may set for itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use figment::Figment;
use serde::{Deserialize, Serialize};

use super::{Grants, Problem, Statement, over, range, within};

/// The settings of one tenant, checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tenant {
    /// The word in `[tenants.NAME]`; `default` without any such table.
    #[serde(skip)]
    pub name: TenantName,
    /// `STREAM_NAME`.
    pub stream_name: String,
    /// `CONSUMER_GROUP`.
    pub consumer_group: String,
    /// `EVENTS_TABLE`.
    pub events_table: TableName,
    /// `BATCH_SIZE`, entries.
    pub batch_size: usize,
    /// `BLOCK_MS`.
    pub block_ms: u64,
    /// `PARTIAL_BATCH_DELAY_MS`.
    pub partial_batch_delay_ms: u64,
    /// `COMMITS_IN_FLIGHT`, batches.
    pub commits_in_flight: usize,
    /// `GUEST`.
    #[serde(default)]
    pub guest: Option<PathBuf>,
    /// `GUEST_SETTINGS`.
    pub guest_settings: BTreeMap<String, String>,
    /// `GUEST_TIME_LIMIT_MS`.
    pub guest_time_limit_ms: u64,
    /// `GUEST_FUEL`, 0 for no such limit.
    pub guest_fuel: u64,
    /// `GUEST_MEMORY_BYTES`.
    pub guest_memory_bytes: usize,
    /// `GUEST_STACK_BYTES`.
    pub guest_stack_bytes: usize,
    /// `GUEST_TABLE_ELEMENTS`.
    pub guest_table_elements: usize,
    /// `GUEST_INSTANCES`.
    pub guest_instances: u32,
    /// `GUEST_HANDLES`.
    pub guest_handles: usize,
    /// `GUEST_OUTPUT_BYTES`.
    pub guest_output_bytes: usize,
    /// `GUEST_ROWS`.
    pub guest_rows: usize,
    /// `GUEST_STRING_BYTES`.
    pub guest_string_bytes: usize,
    /// `GUEST_JSON_DEPTH`.
    pub guest_json_depth: usize,
    /// `MAX_EVENT_AGE_DAYS`.
    pub max_event_age_days: u32,
    /// `MAX_EVENT_AHEAD_DAYS`.
    pub max_event_ahead_days: u32,
    /// `GUEST_LOG_BYTES`.
    pub guest_log_bytes: usize,
    /// `GUEST_COMPONENT_BYTES`.
    pub guest_component_bytes: usize,
    /// `GUEST_COMPILE_MS`.
    pub guest_compile_ms: u64,
    /// `GUEST_COMPILE_MEMORY_BYTES`.
    pub guest_compile_memory_bytes: u64,
    /// `CLAIM_MIN_IDLE_MS`.
    pub claim_min_idle_ms: u64,
    /// `MAX_DELIVERIES`.
    pub max_deliveries: u64,
    /// `ROW_RETRY_MS`.
    pub row_retry_ms: u64,
    /// `DECIDED_KEPT_S`.
    pub decided_kept_s: u64,
    /// `DEAD_LETTER_RETENTION_DAYS`, 0 for ever.
    pub dead_letter_retention_days: u32,
    /// `[grants]`, in the file only.
    #[serde(default, skip_serializing)]
    pub grants: Grants,
    /// The statements that it is granted.
    #[serde(skip)]
    pub statements: BTreeMap<String, Statement>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            name: TenantName::default(),
            stream_name: "analytics_events".into(),
            consumer_group: "analytics-consumers".into(),
            events_table: TableName::default(),
            batch_size: 100,
            block_ms: 1_000,
            partial_batch_delay_ms: 100,
            commits_in_flight: 3,
            guest: None,
            guest_settings: BTreeMap::new(),
            guest_time_limit_ms: 1_000,
            guest_fuel: 0,
            guest_memory_bytes: 128 << 20,
            guest_stack_bytes: 512 << 10,
            guest_table_elements: 100_000,
            guest_instances: 64,
            guest_handles: 10_000,
            guest_output_bytes: 64 << 20,
            guest_rows: 100_000,
            guest_string_bytes: 16 << 20,
            guest_json_depth: 127,
            // 50 years and one: a clock that is wrong could make a chunk of each week that there is.
            max_event_age_days: 18_262,
            max_event_ahead_days: 366,
            guest_log_bytes: 4 << 10,
            guest_component_bytes: 64 << 20,
            guest_compile_ms: 60_000,
            guest_compile_memory_bytes: 2 << 30,
            claim_min_idle_ms: 60_000,
            max_deliveries: 10,
            row_retry_ms: 30_000,
            decided_kept_s: 600,
            dead_letter_retention_days: 0,
            grants: Grants::default(),
            statements: BTreeMap::new(),
        }
    }
}

impl Tenant {
    /// The defaults of a tenant that has a table of its own in the file.
    pub(super) fn named(name: TenantName) -> Self {
        // A tenant that writes into another's table can keep an event from it, by being there first.
        let events_table = match name == TenantName::default() {
            true => TableName::default(),
            false => TableName(format!("events_{name}")),
        };
        Self { name, events_table, ..Self::default() }
    }

    /// With what is set in `layers`, checked. The statements are all that the operator has named.
    pub(super) fn set(
        self,
        layers: &Figment,
        statements: &BTreeMap<String, Statement>,
    ) -> Result<Self, Problem> {
        let mut tenant = Self { name: self.name.clone(), ..over(&self, layers)? };
        tenant.check()?;
        tenant.grants.check(statements, &tenant.stream_name)?;
        tenant.statements = tenant.grants.granted(statements);
        Ok(tenant)
    }

    fn check(&self) -> Result<(), Problem> {
        for (name, text) in [("STREAM_NAME", &self.stream_name), ("CONSUMER_GROUP", &self.consumer_group)] {
            short_text(name, text)?;
        }
        within("BATCH_SIZE", self.batch_size, 1..=10_000)?;
        within("BLOCK_MS", self.block_ms, 1..=60_000)?;
        within("PARTIAL_BATCH_DELAY_MS", self.partial_batch_delay_ms, 0..=60_000)?;
        within("COMMITS_IN_FLIGHT", self.commits_in_flight, 1..=64)?;
        self.check_guest()?;
        within("CLAIM_MIN_IDLE_MS", self.claim_min_idle_ms, 100..=86_400_000)?;
        within("MAX_DELIVERIES", self.max_deliveries, 4..=1_000)?;
        within("DECIDED_KEPT_S", self.decided_kept_s, 10..=604_800)?;
        within("ROW_RETRY_MS", self.row_retry_ms, 0..=3_600_000)?;
        within("DEAD_LETTER_RETENTION_DAYS", self.dead_letter_retention_days, 0..=36_500)
    }

    /// `PARTIAL_BATCH_DELAY_MS` as a duration.
    pub fn partial_batch_delay(&self) -> Duration {
        Duration::from_millis(self.partial_batch_delay_ms)
    }

    /// `ROW_RETRY_MS`, but no longer than until others would take the entry over, and begin anew.
    pub fn row_retry(&self) -> Duration {
        Duration::from_millis(self.row_retry_ms.min(self.claim_min_idle_ms / 2))
    }

    /// `DECIDED_KEPT_S` as a duration.
    pub fn decided_kept(&self) -> Duration {
        Duration::from_secs(self.decided_kept_s)
    }

    fn check_guest(&self) -> Result<(), Problem> {
        let text = self.guest_settings.iter().map(|(name, value)| name.len() + value.len());
        within("GUEST_SETTINGS", text.sum::<usize>(), 0..=64 << 10)?;
        within("GUEST_TIME_LIMIT_MS", self.guest_time_limit_ms, 10..=60_000)?;
        within("GUEST_FUEL", self.guest_fuel, 0..=1 << 60)?;
        within("GUEST_MEMORY_BYTES", self.guest_memory_bytes, 1 << 20..=1 << 30)?;
        within("GUEST_STACK_BYTES", self.guest_stack_bytes, 64 << 10..=1 << 20)?;
        within("GUEST_TABLE_ELEMENTS", self.guest_table_elements, 1..=10_000_000)?;
        within("GUEST_INSTANCES", self.guest_instances, 1..=1_000)?;
        within("GUEST_HANDLES", self.guest_handles, 16..=1_000_000)?;
        within("GUEST_OUTPUT_BYTES", self.guest_output_bytes, 64 << 10..=1 << 30)?;
        within("GUEST_ROWS", self.guest_rows, 1_000..=10_000_000)?;
        within("GUEST_STRING_BYTES", self.guest_string_bytes, 1 << 10..=256 << 20)?;
        within("GUEST_JSON_DEPTH", self.guest_json_depth, 1..=127)?;
        within("MAX_EVENT_AGE_DAYS", self.max_event_age_days, 1..=100_000_000)?;
        within("MAX_EVENT_AHEAD_DAYS", self.max_event_ahead_days, 1..=100_000_000)?;
        within("GUEST_LOG_BYTES", self.guest_log_bytes, 0..=1 << 20)?;
        within("GUEST_COMPONENT_BYTES", self.guest_component_bytes, 1 << 10..=1 << 30)?;
        within("GUEST_COMPILE_MS", self.guest_compile_ms, 100..=600_000)?;
        within("GUEST_COMPILE_MEMORY_BYTES", self.guest_compile_memory_bytes, 256 << 20..=64 << 30)
    }

    /// `GUEST_TIME_LIMIT_MS` as a duration.
    pub fn guest_time_limit(&self) -> Duration {
        Duration::from_millis(self.guest_time_limit_ms)
    }
}

/// What a stream, a group or a consumer may be called.
pub(super) fn short_text(name: &'static str, text: &str) -> Result<(), Problem> {
    match text.is_empty() || text.len() > 512 {
        true => Err(range(name, format!("{} bytes long", text.len()), "1 to 512 bytes")),
        false => Ok(()),
    }
}

/// A tenant's name: short, and good for a file's, a table's and a label's part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(String);

impl TenantName {
    /// What a name must be.
    pub const WANTED: &'static str = "a lower-case letter, then at most 31 of a-z, 0-9 and _";

    /// `None` for what is no name.
    pub fn new(text: &str) -> Option<Self> {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let is_name = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(is_inner)
            && text.len() <= 32;
        is_name.then(|| Self(text.to_owned()))
    }

    /// As it is written.
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
    /// As it stands in SQL.
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
