//! Every setting and its default, once.

mod grants;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

pub use grants::{Grants, Parameter, Statement};

/// The file read from the working directory when no other is named.
pub const DEFAULT_FILE: &str = "sluicegate.toml";

/// One setting, for `--help` and the README. The name is that of the
/// environment variable; in `sluicegate.toml` it is written in lower case.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// As a user would write it; `None` when there is none.
    pub default: Option<&'static str>,
    /// One line, with units and range.
    pub meaning: &'static str,
    /// Whether a value such as `42` is text all the same.
    is_text: bool,
}

const fn text(name: &'static str, default: Option<&'static str>, meaning: &'static str) -> Setting {
    Setting { name, default, meaning, is_text: true }
}

const fn value(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default: Some(default), meaning, is_text: false }
}

/// All settings, in the order in which people meet them.
pub const SETTINGS: [Setting; 34] = [
    text(
        "REDIS_URL",
        None,
        "Redis 7.0 or later: `redis://[user:password@]host:port[/db]`, `rediss://` with TLS",
    ),
    text(
        "POSTGRES_URL",
        None,
        "PostgreSQL 14 or later with TimescaleDB: `postgres://user:password@host:port/database`",
    ),
    text("STREAM_NAME", Some("analytics_events"), "the stream to read"),
    text("CONSUMER_GROUP", Some("analytics-consumers"), "created at `0`, with the stream, if missing"),
    text(
        "CONSUMER_NAME",
        Some("consumer-1"),
        "unique for each replica of the group, the same after a restart",
    ),
    value("BATCH_SIZE", "100", "entries one XREADGROUP asks for, at most; 1 to 10000"),
    value("BLOCK_MS", "1000", "how long XREADGROUP waits for entries; 1 to 60000"),
    value(
        "PARTIAL_BATCH_DELAY_MS",
        "100",
        "pause after a partial batch, so that the next one is fuller; 0 to 60000",
    ),
    value("COMMITS_IN_FLIGHT", "3", "batches that may commit at the same time, one connection each; 1 to 64"),
    text(
        "GUEST",
        None,
        "a component file with the rules, watched for changes; unset: the default rules inside the program",
    ),
    value(
        "GUEST_SETTINGS",
        "{}",
        "what the guest reads by `wasi:config`: in the file a table `[guest_settings]`, in the environment `{name = \"value\"}`; text only, 64 KiB in all",
    ),
    value("GUEST_TIME_LIMIT_MS", "1000", "how long the guest may take for a batch; 10 to 60000"),
    value(
        "GUEST_FUEL",
        "0",
        "instructions the guest may execute for a batch, about: exact where time is not, and slower; 0 for no such limit",
    ),
    value("GUEST_MEMORY_BYTES", "134217728", "memory of the guest for a batch; 1 MiB to 1 GiB"),
    value("GUEST_STACK_BYTES", "524288", "stack of the guest; 64 KiB to 1 MiB"),
    value("GUEST_TABLE_ELEMENTS", "100000", "elements of all tables of the guest; 1 to 10000000"),
    value("GUEST_INSTANCES", "64", "core instances that the guest may consist of; 1 to 1000"),
    value("GUEST_HANDLES", "10000", "streams and other resources that the guest may hold; 16 to 1000000"),
    value(
        "GUEST_OUTPUT_BYTES",
        "67108864",
        "what the guest may hand over in one call, and for a batch beyond what its entries brought; 64 KiB to 1 GiB",
    ),
    value("GUEST_ROWS", "100000", "rows that a batch may become; 1000 to 10000000"),
    value("GUEST_STRING_BYTES", "16777216", "a string of a row, its properties included; 1 KiB to 256 MiB"),
    value("GUEST_JSON_DEPTH", "127", "levels of properties; 1 to 127"),
    value("GUEST_LOG_BYTES", "4096", "what is logged of what the guest prints for a batch; 0 to 1 MiB"),
    value("GUEST_COMPONENT_BYTES", "67108864", "a component file; 1 KiB to 1 GiB"),
    value("GUEST_COMPILE_MS", "60000", "how long a component may take to compile; 100 to 600000"),
    value(
        "GUEST_COMPILE_MEMORY_BYTES",
        "2147483648",
        "address space of the process that compiles a component; 256 MiB to 64 GiB",
    ),
    text(
        "GUEST_CACHE",
        None,
        "a folder for compiled components, made if missing, of no other user and with the mode 0700; unset: compiled at each start",
    ),
    value(
        "CLAIM_MIN_IDLE_MS",
        "60000",
        "entries that another consumer has held for so long are taken over; longer than any batch takes; 100 to 86400000",
    ),
    value(
        "DELIVERIES_MAX",
        "10",
        "an entry delivered more often without an end becomes a dead letter; 4 to 1000",
    ),
    value(
        "DEAD_LETTER_RETENTION_DAYS",
        "0",
        "dead letters older than this are deleted; 0 keeps them; 0 to 36500",
    ),
    value("MONITORING_INTERVAL_MS", "10000", "between two metrics lines; 100 to 3600000"),
    text("METRICS_CSV", Some("backend/metrics.csv"), "appended to; folders are made"),
    value("ALLOW_PLAIN_TABLE", "false", "run on a PostgreSQL without TimescaleDB, on a plain table"),
    text("LOG_FORMAT", Some("text"), "`text` or `json`; `RUST_LOG` sets the level, `info` by default"),
];

/// The settings of one run, checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `REDIS_URL`.
    #[serde(default, skip_serializing)]
    pub redis_url: Secret,
    /// `POSTGRES_URL`.
    #[serde(default, skip_serializing)]
    pub postgres_url: Secret,
    /// `STREAM_NAME`.
    pub stream_name: String,
    /// `CONSUMER_GROUP`.
    pub consumer_group: String,
    /// `CONSUMER_NAME`.
    pub consumer_name: String,
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
    /// `GUEST_LOG_BYTES`.
    pub guest_log_bytes: usize,
    /// `GUEST_COMPONENT_BYTES`.
    pub guest_component_bytes: usize,
    /// `GUEST_COMPILE_MS`.
    pub guest_compile_ms: u64,
    /// `GUEST_COMPILE_MEMORY_BYTES`.
    pub guest_compile_memory_bytes: u64,
    /// `GUEST_CACHE`.
    #[serde(default)]
    pub guest_cache: Option<PathBuf>,
    /// `CLAIM_MIN_IDLE_MS`.
    pub claim_min_idle_ms: u64,
    /// `DELIVERIES_MAX`.
    pub deliveries_max: u64,
    /// `DEAD_LETTER_RETENTION_DAYS`, 0 for ever.
    pub dead_letter_retention_days: u32,
    /// `MONITORING_INTERVAL_MS`.
    pub monitoring_interval_ms: u64,
    /// `METRICS_CSV`.
    pub metrics_csv: PathBuf,
    /// `ALLOW_PLAIN_TABLE`.
    pub allow_plain_table: bool,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `[grants]`, in the file only.
    #[serde(default, skip_serializing)]
    pub grants: Grants,
    /// `[statements.NAME]`, in the file only.
    #[serde(default, skip_serializing)]
    pub statements: BTreeMap<String, Statement>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs, one object a line.
    Json,
}

/// A value that must not be printed: a URL with a password in it.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The value itself. Never for a log, an error or a help page.
    fn required(&self, name: &'static str) -> Result<&str, Error> {
        if self.0.is_empty() {
            let setting = SETTINGS.iter().find(|setting| setting.name == name);
            return Err(Error::Missing { name, wanted: setting.map_or("", |setting| setting.meaning) });
        }
        Ok(&self.0)
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "***" })
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a value that does not read.
    #[error("settings: {}", explain(.0))]
    Unreadable(Box<figment::Error>),
    /// The file named on the command line.
    #[error("settings: the file {0} does not exist")]
    NoFile(PathBuf),
    /// A setting without a default.
    #[error("settings: {name} is not set; wanted {wanted}")]
    Missing {
        /// The environment variable.
        name: &'static str,
        /// What it means.
        wanted: &'static str,
    },
    /// A value that cannot be used.
    #[error("settings: {name} is {found}; wanted {wanted}")]
    Range {
        /// The environment variable, or the name in the file.
        name: Cow<'static, str>,
        /// Its value.
        found: String,
        /// The values that can be used.
        wanted: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis_url: Secret::default(),
            postgres_url: Secret::default(),
            stream_name: "analytics_events".into(),
            consumer_group: "analytics-consumers".into(),
            consumer_name: "consumer-1".into(),
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
            guest_log_bytes: 4 << 10,
            guest_component_bytes: 64 << 20,
            guest_compile_ms: 60_000,
            guest_compile_memory_bytes: 2 << 30,
            guest_cache: None,
            claim_min_idle_ms: 60_000,
            deliveries_max: 10,
            dead_letter_retention_days: 0,
            monitoring_interval_ms: 10_000,
            metrics_csv: "backend/metrics.csv".into(),
            allow_plain_table: false,
            log_format: LogFormat::Text,
            grants: Grants::default(),
            statements: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Environment first, then the file, then the default.
    ///
    /// Without a `file`, `sluicegate.toml` in the working directory is read if
    /// it exists. An environment variable that is set but empty counts as unset.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        if let Some(file) = file.filter(|file| !file.is_file()) {
            return Err(Error::NoFile(file.to_owned()));
        }
        let mut figment = Figment::from(Serialized::defaults(Self::default()))
            .merge(Toml::file(file.unwrap_or(Path::new(DEFAULT_FILE))));
        for setting in &SETTINGS {
            match std::env::var(setting.name) {
                Ok(value) if value.is_empty() => {}
                // `CONSUMER_NAME=42` is a name, not a number: no guessing.
                Ok(value) if setting.is_text => {
                    figment = figment.merge(Serialized::default(&setting.name.to_lowercase(), value));
                }
                Ok(_) => figment = figment.merge(Env::raw().only(&[setting.name])),
                Err(std::env::VarError::NotPresent) => {}
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(range(setting.name, "no UTF-8", "text"));
                }
            }
        }
        let config: Self = figment.extract().map_err(|error| Error::Unreadable(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Error> {
        for (name, text) in [
            ("STREAM_NAME", &self.stream_name),
            ("CONSUMER_GROUP", &self.consumer_group),
            ("CONSUMER_NAME", &self.consumer_name),
        ] {
            if text.is_empty() || text.len() > 512 {
                return Err(range(name, format!("{} bytes long", text.len()), "1 to 512 bytes"));
            }
        }
        within("BATCH_SIZE", self.batch_size, 1..=10_000)?;
        within("BLOCK_MS", self.block_ms, 1..=60_000)?;
        within("PARTIAL_BATCH_DELAY_MS", self.partial_batch_delay_ms, 0..=60_000)?;
        within("COMMITS_IN_FLIGHT", self.commits_in_flight, 1..=64)?;
        self.check_guest()?;
        within("CLAIM_MIN_IDLE_MS", self.claim_min_idle_ms, 100..=86_400_000)?;
        within("DELIVERIES_MAX", self.deliveries_max, 4..=1_000)?;
        within("DEAD_LETTER_RETENTION_DAYS", self.dead_letter_retention_days, 0..=36_500)?;
        within("MONITORING_INTERVAL_MS", self.monitoring_interval_ms, 100..=3_600_000)?;
        self.statements.iter().try_for_each(|(name, statement)| statement.check(name))?;
        self.grants.check(&self.statements, &self.stream_name)
    }

    fn check_guest(&self) -> Result<(), Error> {
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
        within("GUEST_LOG_BYTES", self.guest_log_bytes, 0..=1 << 20)?;
        within("GUEST_COMPONENT_BYTES", self.guest_component_bytes, 1 << 10..=1 << 30)?;
        within("GUEST_COMPILE_MS", self.guest_compile_ms, 100..=600_000)?;
        within("GUEST_COMPILE_MEMORY_BYTES", self.guest_compile_memory_bytes, 256 << 20..=64 << 30)
    }

    /// `REDIS_URL`, which has no default.
    pub fn redis_url(&self) -> Result<&str, Error> {
        self.redis_url.required("REDIS_URL")
    }

    /// `POSTGRES_URL`, which has no default.
    pub fn postgres_url(&self) -> Result<&str, Error> {
        self.postgres_url.required("POSTGRES_URL")
    }

    /// The statements that the guest may run.
    pub fn granted_statements(&self) -> BTreeMap<String, Statement> {
        let granted = |(name, _): &(&String, &Statement)| self.grants.statements.contains(*name);
        self.statements
            .iter()
            .filter(granted)
            .map(|(name, statement)| (name.clone(), statement.clone()))
            .collect()
    }

    /// `PARTIAL_BATCH_DELAY_MS` as a duration.
    pub fn partial_batch_delay(&self) -> Duration {
        Duration::from_millis(self.partial_batch_delay_ms)
    }

    /// `GUEST_TIME_LIMIT_MS` as a duration.
    pub fn guest_time_limit(&self) -> Duration {
        Duration::from_millis(self.guest_time_limit_ms)
    }

    /// `MONITORING_INTERVAL_MS` as a duration.
    pub fn monitoring_interval(&self) -> Duration {
        Duration::from_millis(self.monitoring_interval_ms)
    }
}

/// Names the setting, what was found, and what is wanted in the words of the manual.
fn explain(error: &figment::Error) -> String {
    let name = error.path.join(".");
    let setting = SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(&name));
    match (&error.kind, setting) {
        (Kind::InvalidType(found, _) | Kind::InvalidValue(found, _), Some(Setting { name, meaning, .. })) => {
            format!("{name} is {found}; wanted {meaning}")
        }
        (Kind::UnknownVariant(found, _), Some(Setting { name, meaning, .. })) => {
            format!("{name} is {found:?}; wanted {meaning}")
        }
        (Kind::UnknownField(found, _), _) => {
            format!("{found} is not a setting; `sluicegate run --help` lists them all")
        }
        _ => error.to_string(),
    }
}

fn within<T: PartialOrd + fmt::Display>(
    name: impl Into<Cow<'static, str>>,
    found: T,
    range_: RangeInclusive<T>,
) -> Result<(), Error> {
    match range_.contains(&found) {
        true => Ok(()),
        false => Err(range(name, found, format!("{} to {}", range_.start(), range_.end()))),
    }
}

fn range(name: impl Into<Cow<'static, str>>, found: impl fmt::Display, wanted: impl Into<String>) -> Error {
    Error::Range { name: name.into(), found: found.to_string(), wanted: wanted.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_real_ones() {
        let defaults = serde_json::to_value(Config::default()).expect("plain data");
        for setting in &SETTINGS {
            let real = match defaults.get(setting.name.to_lowercase()) {
                None | Some(serde_json::Value::Null) => None,
                Some(serde_json::Value::String(text)) => Some(text.clone()),
                Some(value) => Some(value.to_string()),
            };
            assert_eq!(real.as_deref(), setting.default, "{}", setting.name);
        }
        let known = defaults.as_object().expect("a struct").len() + 2; // the URLs are never serialised
        assert_eq!(known, SETTINGS.len(), "every field is documented");
    }

    #[test]
    fn the_readme_lists_every_setting() {
        let readme = include_str!("../../README.md");
        for Setting { name, default, meaning, .. } in &SETTINGS {
            let default = default.map_or("–".to_owned(), |default| format!("`{default}`"));
            let row = format!("| `{name}` | {default} | {meaning} |");
            assert!(readme.contains(&row), "README.md lacks the row:\n{row}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let config = Config { redis_url: Secret("redis://:hunter2@h".into()), ..Config::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
