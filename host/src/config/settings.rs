//! All settings, as docs/settings.md and `--help` list them.

/// One setting, for `--help` and docs/settings.md. The name is that of the
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
    pub(super) is_text: bool,
    /// Whether it is one for the whole service: no tenant has its own.
    pub is_of_service: bool,
}

impl Setting {
    const fn of_service(mut self) -> Self {
        self.is_of_service = true;
        self
    }
}

const fn text(name: &'static str, default: Option<&'static str>, meaning: &'static str) -> Setting {
    Setting { name, default, meaning, is_text: true, is_of_service: false }
}

const fn value(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default: Some(default), meaning, is_text: false, is_of_service: false }
}

/// All settings, in the order in which people meet them.
pub const SETTINGS: [Setting; 47] = [
    text(
        "REDIS_URL",
        None,
        "Redis 7.0 or later: `redis://[user:password@]host:port[/db]`, `rediss://` with TLS",
    )
    .of_service(),
    text(
        "REDIS_URL_FILE",
        None,
        "a file with the URL instead, read again at each connection: for credentials that are changed while the service runs",
    )
    .of_service(),
    text(
        "REDIS_TLS_CA_FILE",
        None,
        "certificates in PEM form of the authorities that Redis' certificate may come from; unset: those of the system",
    )
    .of_service(),
    text("REDIS_TLS_CERT_FILE", None, "the certificate in PEM form that Redis asks of us, with REDIS_TLS_KEY_FILE").of_service(),
    text("REDIS_TLS_KEY_FILE", None, "the key in PEM form of that certificate").of_service(),
    value(
        "REDIS_SILENCE_MS",
        "10000",
        "a connection to Redis from which the network brings no sign of life for so long is given up, by TCP keepalive; 1000 to 3600000",
    )
    .of_service(),
    text(
        "POSTGRES_URL",
        None,
        "PostgreSQL 14 or later with TimescaleDB: `postgres://user:password@host:port/database`, for TLS with `?sslmode=verify-full` and, if wanted, `sslrootcert`, `sslcert` and `sslkey`, each a file",
    )
    .of_service(),
    text("POSTGRES_URL_FILE", None, "a file with the URL instead, read again at each connection").of_service(),
    value(
        "POSTGRES_CONNECTIONS",
        "10",
        "connections that the writers of all tenants share; never fewer than the largest COMMITS_IN_FLIGHT; 1 to 1000",
    )
    .of_service(),
    text("STREAM_NAME", Some("analytics_events"), "the stream to read"),
    text("CONSUMER_GROUP", Some("analytics-consumers"), "created at `0`, with the stream, if missing"),
    text(
        "CONSUMER_NAME",
        Some("consumer-1"),
        "unique for each replica of the group, the same after a restart",
    )
    .of_service(),
    text(
        "EVENTS_TABLE",
        Some("events"),
        "the table for events, made if missing; of a tenant NAME: `events_NAME`; [a-z_][a-z0-9_]{0,62}",
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
    value("GUEST_TIME_LIMIT_MS", "1000", "how long the guest may take for a call, which is one for a batch unless it fails; 10 to 60000"),
    value(
        "GUEST_FUEL",
        "0",
        "instructions the guest may execute in one call, about: exact where time is not, and slower; 0 for no such limit",
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
    value(
        "MAX_EVENT_AGE_DAYS",
        "18262",
        "an event that happened longer ago, 50 years by default, becomes a dead letter: each week of events is a chunk of the table; 1 to 100000000",
    ),
    value("MAX_EVENT_AHEAD_DAYS", "366", "the same of an event that is so far ahead of the clock; 1 to 100000000"),
    value("GUEST_LOG_BYTES", "4096", "what is logged of what the guest prints in one call; 0 to 1 MiB"),
    value("GUEST_COMPONENT_BYTES", "67108864", "a component file; 1 KiB to 1 GiB"),
    value("GUEST_COMPILE_MS", "60000", "processor time that a component may take to compile; 100 to 600000"),
    value(
        "GUEST_COMPILE_MEMORY_BYTES",
        "2147483648",
        "address space of the process that compiles a component; 256 MiB to 64 GiB",
    ),
    value(
        "GUEST_CODE_BYTES",
        "1073741824",
        "native code and memory images of all tenants' guests together, half of it for one of several tenants; a guest of 16 MiB always has room; 16 MiB to 1 TiB",
    )
    .of_service(),
    text(
        "GUEST_CACHE",
        None,
        "a folder for compiled components, made if missing, of no other user and with the mode 0700; unset: compiled at each start",
    )
    .of_service(),
    value(
        "CLAIM_MIN_IDLE_MS",
        "60000",
        "entries that another consumer has held for so long are taken over; longer than any batch takes; 100 to 86400000",
    ),
    value(
        "MAX_DELIVERIES",
        "10",
        "an entry that the rules were asked about so often when the process died becomes a dead letter; 4 to 1000",
    ),
    value(
        "ROW_RETRY_MS",
        "30000",
        "how long a row is tried again that PostgreSQL refuses with an error that may pass, while it takes other rows; then it becomes a dead letter; at most half of CLAIM_MIN_IDLE_MS counts; 0 to 3600000",
    ),
    value(
        "DECIDED_KEPT_S",
        "600",
        "how long it is known of an entry that it was decided, after that: so long a group may be set back, or Redis restored, and rules are not asked about it again; 10 to 604800",
    ),
    value(
        "DEAD_LETTER_RETENTION_DAYS",
        "0",
        "dead letters older than this are deleted; 0 keeps them; 0 to 36500",
    ),
    value("MONITORING_INTERVAL_MS", "10000", "between two metrics lines; 100 to 3600000").of_service(),
    text("METRICS_CSV", Some("backend/metrics.csv"), "appended to; folders are made; of a tenant NAME: `metrics-NAME.csv` beside it").of_service(),
    value("ALLOW_PLAIN_TABLE", "false", "run on a PostgreSQL without TimescaleDB, on a plain table").of_service(),
    text("LOG_FORMAT", Some("text"), "`text` or `json`; `RUST_LOG` sets the level, `info` by default").of_service(),
];

/// The setting of this name, in capitals or not.
pub(super) fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Tenant};

    #[test]
    fn the_documented_defaults_are_the_real_ones() {
        let mut defaults = serde_json::to_value(Config::default()).expect("plain data");
        let tenant = serde_json::to_value(Tenant::default()).expect("plain data");
        defaults.as_object_mut().expect("a struct").extend(tenant.as_object().expect("a struct").clone());
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
    fn the_page_lists_every_setting() {
        let page = include_str!("../../../docs/settings.md");
        for Setting { name, default, meaning, .. } in &SETTINGS {
            let default = default.map_or("–".to_owned(), |default| format!("`{default}`"));
            let row = format!("| `{name}` | {default} | {meaning} |");
            assert!(page.contains(&row), "docs/settings.md lacks the row:\n{row}");
        }
    }
}
