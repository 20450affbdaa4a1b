//! Declares each setting once. From here come the structs, the defaults, the checks, `--help`,
//! docs/settings.md and sluicegate.example.toml.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::declare::{Setting, Value, settings};
use super::units::{Size, Time};
use super::{Grants, Listen, LogFormat, Misspelt, Problem, Secret, Statement, TableName, TenantName, Walls};

settings! {
    /// The checked settings of the whole service, and the tenants with theirs.
    Config, of the service: true {
        #[serde(skip_serializing)]
        redis_url: Secret = Secret::default();
            "Redis 7.0 or later: `redis://[user:password@]host:port[/db]`, `rediss://` with TLS"
        redis_url_file: Option<PathBuf> = None;
            "a file with the URL instead, read again at each connection: for credentials that are changed while the service runs"
        redis_tls_ca_file: Option<PathBuf> = None;
            "certificates in PEM form of the authorities that Redis' certificate may come from; unset: those of the system"
        redis_tls_cert_file: Option<PathBuf> = None;
            "the certificate in PEM form that Redis asks of us, with REDIS_TLS_KEY_FILE"
        redis_tls_key_file: Option<PathBuf> = None;
            "the key in PEM form of that certificate"
        redis_silence: Time = Time::secs(10), Time::secs(1)..=Time::secs(3_600);
            "a connection to Redis from which the network brings no sign of life for so long is given up, by TCP keepalive"
        #[serde(skip_serializing)]
        postgres_url: Secret = Secret::default();
            "PostgreSQL 14 or later with TimescaleDB: `postgres://user:password@host:port/database`, for TLS with `?sslmode=verify-full` and, if wanted, `sslrootcert`, `sslcert` and `sslkey`, each a file"
        postgres_url_file: Option<PathBuf> = None;
            "a file with the URL instead, read again at each connection"
        postgres_connections: usize = 10, 1..=1_000;
            "connections that the writers of all tenants share; never fewer than the largest COMMITS_IN_FLIGHT"
        consumer_name: String = "consumer-1".to_owned();
            "unique for each replica of the group, the same after a restart"
        guest_code: Size = Size::gib(1), Size::mib(16)..=Size::gib(1_024);
            "native code and memory images of all tenants' guests together, half of it for one of several tenants, and a quarter for versions to go back to; a guest of 16 MiB always has room"
        guest_idle: Time = Time::secs(60), Time::millis(100)..=Time::secs(86_400);
            "the process of a guest that nobody has called for so long is ended; a new one is there within milliseconds"
        guest_walls: Walls = Walls::Required;
            "`required`: a guest is refused where the kernel lacks one of the walls around its process; `available`: those that there are will do, and the log tells what lacks"
        guest_cache: Option<PathBuf> = None;
            "a folder for compiled components, made if missing, of no other user and with the mode 0700; unset: compiled at each start"
        monitoring_interval: Time = Time::secs(10), Time::millis(100)..=Time::secs(3_600);
            "between two metrics lines"
        metrics_csv: PathBuf = "backend/metrics.csv".into();
            "appended to; folders are made; of a tenant NAME: `metrics-NAME.csv` beside it"
        admin_listen: Listen = Listen::At(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8700));
            "the address for metrics, health and the admin API, by HTTP; `off` for none; another than one of the machine's own (loopback) needs ADMIN_TOKENS_FILE"
        admin_tokens_file: Option<PathBuf> = None;
            "a TOML file with the tokens that the admin API asks for, read again when it changes: docs/admin.md; unset: local callers need none"
        allow_plain_table: bool = false;
            "run on a PostgreSQL without TimescaleDB, on a plain table"
        log_format: LogFormat = LogFormat::Text;
            "`text` or `json`; `RUST_LOG` sets the level, `info` by default"
        ---
        /// The tables `[statements.NAME]`, in the file only.
        #[serde(skip_serializing)]
        statements: BTreeMap<String, Statement> = BTreeMap::new();
        /// The tenants, in the order of their names; never empty.
        #[serde(skip)]
        tenants: Vec<Tenant> = vec![Tenant::default()];
        /// The variables that have no effect, and are nearly settings.
        #[serde(skip)]
        misspelt: Vec<Misspelt> = Vec::new();
        /// Whether somebody has chosen the address for the admin API.
        #[serde(skip)]
        is_admin_listen_set: bool = false;
        /// Whether the tenants come from tables `[tenants.NAME]`. Without any there is `default`.
        #[serde(skip)]
        has_named_tenants: bool = false;
    }

    /// The checked settings of one tenant.
    Tenant, of the service: false {
        stream_name: String = "analytics_events".to_owned();
            "the stream to read"
        consumer_group: String = "analytics-consumers".to_owned();
            "created at `0`, with the stream, if missing"
        events_table: TableName = TableName::default();
            "the table for events, made if missing; of a tenant NAME: `events_NAME`; `[a-z_][a-z0-9_]{0,62}`"
        batch_size: usize = 100, 1..=10_000;
            "entries one XREADGROUP asks for, at most"
        block: Time = Time::secs(1), Time::millis(1)..=Time::secs(60);
            "how long XREAD waits for entries"
        partial_batch_delay: Time = Time::millis(100), Time::millis(0)..=Time::secs(60);
            "pause after a partial batch, so that the next one is fuller"
        commits_in_flight: usize = 3, 1..=64;
            "batches that may commit at the same time, one connection each"
        guest: Option<PathBuf> = None;
            "a component file with the rules, watched for changes; unset: what `sluicegate rules deploy` deployed last, and before that the default rules inside the program"
        guest_settings: BTreeMap<String, String> = BTreeMap::new();
            "what the guest reads by `wasi:config`: in the file a table `[guest_settings]`, in the environment `{name = \"value\"}`; text only, 64 KiB in all"
        guest_time_limit: Time = Time::secs(1), Time::millis(10)..=Time::secs(60);
            "processor time that the guest may take for a call, which is one for a batch unless it fails; by the clock twenty times as much, and at least ten seconds"
        guest_fuel: u64 = 0;
            "instructions the guest may execute in one call, about: exact where time is not, and slower; 0 for no such limit"
        guest_memory: Size = Size::mib(128), Size::mib(1)..=Size::gib(1);
            "memory of the guest for a batch"
        guest_stack: Size = Size::kib(512), Size::kib(64)..=Size::mib(1);
            "stack of the guest"
        guest_table_elements: usize = 100_000, 1..=10_000_000;
            "elements of all tables of the guest"
        guest_instances: u32 = 64, 1..=1_000;
            "core instances that the guest may consist of"
        guest_handles: usize = 10_000, 16..=1_000_000;
            "streams and other resources that the guest may hold"
        guest_output: Size = Size::mib(64), Size::kib(64)..=Size::gib(1);
            "what the guest may hand over in one call, and for a batch beyond what its entries brought"
        guest_rows: usize = 100_000, 1_000..=10_000_000;
            "rows that a batch may become"
        guest_string: Size = Size::mib(16), Size::kib(1)..=Size::mib(256);
            "a string of a row, its properties included"
        guest_json_depth: usize = 127, 1..=127;
            "levels of properties"
        // A wrong clock could make a chunk of each week that there is.
        max_event_age: Time = Time::days(18_262), Time::days(1)..=Time::days(100_000_000);
            "an event that happened longer ago, 50 years by default, becomes a dead letter: each week of events is a chunk of the table"
        max_event_ahead: Time = Time::days(366), Time::days(1)..=Time::days(100_000_000);
            "the same of an event that is so far ahead of the clock"
        guest_log_size: Size = Size::kib(4), Size(0)..=Size::mib(1);
            "what is logged of what the guest prints in one call to each of its two streams: the beginning and the end"
        guest_component: Size = Size::mib(64), Size::kib(1)..=Size::gib(1);
            "a component file"
        guest_compile_time: Time = Time::secs(60), Time::millis(100)..=Time::secs(600);
            "processor time that a component may take to compile"
        guest_compile_memory: Size = Size::gib(2), Size::mib(256)..=Size::gib(64);
            "address space of the process that compiles a component"
        claim_min_idle: Time = Time::secs(60), Time::millis(100)..=Time::days(1);
            "entries that another consumer has held for so long are taken over; longer than any batch takes"
        max_deliveries: u64 = 10, 4..=1_000;
            "an entry that the rules were asked about so often when the process died becomes a dead letter"
        row_retry: Time = Time::secs(30), Time::millis(0)..=Time::secs(3_600);
            "how long a row is tried again that PostgreSQL refuses with an error that may pass, while it takes other rows; then it becomes a dead letter; at most half of CLAIM_MIN_IDLE counts"
        decided_kept: Time = Time::secs(600), Time::secs(10)..=Time::days(7);
            "how long it is known of an entry that it was decided, after that: so long a group may be set back, or Redis restored, and rules are not asked about it again"
        dead_letter_retention: Option<Time> = None, Some(Time::days(1))..=Some(Time::days(36_500));
            "dead letters older than this are deleted; unset: kept"
        ---
        /// The word in `[tenants.NAME]`, or `default` without any such table.
        #[serde(skip)]
        name: TenantName = TenantName::default();
        /// The table `[grants]`, in the file only.
        #[serde(skip_serializing)]
        grants: Grants = Grants::default();
        /// The statements that the tenant is granted.
        #[serde(skip)]
        statements: BTreeMap<String, Statement> = BTreeMap::new();
    }
}

/// Returns the setting of this name, in capitals or not.
pub(super) fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
}

/// Returns a table of all settings, as docs/settings.md has it.
pub fn as_markdown() -> String {
    let mut page = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for Setting { name, default, meaning, .. } in SETTINGS.iter() {
        let default = default.as_ref().map_or("–".to_owned(), |default| format!("`{default}`"));
        page.push_str(&format!("| `{name}` | {default} | {meaning} |\n"));
    }
    page
}

/// Returns a file to begin with, which has all settings as they are by default.
pub fn as_toml() -> String {
    let mut file =
        String::from("# All settings of Sluicegate, as they are by default. Each may be left out.\n");
    for Setting { name, default, meaning, is_text, .. } in SETTINGS.iter() {
        let value = match default {
            Some(default) if *is_text => format!("{default:?}"),
            Some(default) => default.clone(),
            None => "…".to_owned(),
        };
        file.push_str(&format!("\n# {meaning}\n# {} = {value}\n", name.to_lowercase()));
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `make settings` writes both.
    #[test]
    fn the_page_and_the_example_have_every_setting() {
        let page = include_str!("../../../docs/settings.md");
        assert!(page.contains(&as_markdown()), "docs/settings.md is old; run: make settings");
        let example = include_str!("../../../sluicegate.example.toml");
        assert!(example == as_toml(), "sluicegate.example.toml is old; run: make settings");
    }

    #[test]
    fn the_example_reads() {
        let lines =
            as_toml().lines().filter_map(|line| line.strip_prefix("# ")).collect::<Vec<_>>().join("\n");
        let settings: String = lines
            .lines()
            .filter(|line| {
                line.split_once(" = ").is_some_and(|(name, value)| setting(name).is_some() && value != "…")
            })
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(settings.lines().count() > 30, "{settings}");
        use figment::providers::Format as _;
        let read: Tenant = figment::Figment::from(figment::providers::Toml::string(&settings))
            .extract()
            .expect("the defaults can be written");
        assert!(read.check_each().is_ok());
        assert_eq!(read.batch_size, Tenant::default().batch_size);
    }
}
