//! Judges what PostgreSQL says of itself and of the role.

use std::time::Duration;

use super::clocks;
use super::finding::{Finding, Subject};
use crate::config::Config;
use crate::store::{Extension, Holders, Migrations, PostgresLook, PostgresServer};

const SUBJECT: Subject = Subject::Postgres;
/// A transaction that is open for so long keeps old versions of rows from being removed.
const OLD_TRANSACTION: Duration = Duration::from_secs(3_600);
/// A replication slot that nobody reads may keep so much WAL before it is told.
const KEPT_WAL_BYTES: i64 = 1 << 30;
/// A session is older than the connection only behind a pooler.
const OLD_SESSION_S: f64 = 15.0;
/// PostgreSQL stops at two billions; autovacuum freezes from 200 millions on.
const OLD_TRANSACTIONS: i64 = 1_000_000_000;
/// The connections that a replica needs besides those of its writers: to listen for deployments, for a migration, and to watch
/// over that.
const OTHER_CONNECTIONS: i64 = 2;

pub(super) fn judge(look: &PostgresLook, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(server) = &look.server {
        findings.extend([version(server), role_of_server(server), durability(server)]);
        findings.extend(server.clock.map(|gap| clocks::judge("postgres-clock", &SUBJECT, gap)));
        findings.push(synchronous_commit(server, look));
        findings.push(connections(server, config));
        findings.extend(encoding(server));
        findings.extend(schema(server, look));
        findings.extend(session_settings(server));
        findings.extend(wraparound(server));
        findings.push(pooler(server, look));
    }
    findings.extend(look.extension.as_ref().map(|extension| self::extension(extension, look, config)));
    findings.extend(look.migrations.as_ref().map(|migrations| self::migrations(migrations, look)));
    findings.extend(look.holders.as_ref().map(holders).unwrap_or_default());
    findings.extend(failed(look));
    findings
}

fn version(server: &PostgresServer) -> Finding {
    const ID: &str = "postgres-version";
    match server.wanted_major() {
        Some(wanted) => Finding::error(
            ID,
            &SUBJECT,
            &server.version,
            format!("{wanted} or later"),
            "pg_upgrade to a later version",
        ),
        None => Finding::ok(ID, &SUBJECT, &server.version),
    }
}

fn role_of_server(server: &PostgresServer) -> Finding {
    const ID: &str = "postgres-role";
    match (server.is_standby, setting(server, "default_transaction_read_only") == "on") {
        (true, _) => Finding::error(
            ID,
            &SUBJECT,
            "a standby, which takes no rows",
            "the primary",
            "set POSTGRES_URL to the primary, or name all hosts with ?target_session_attrs=read-write in front of a proxy that knows it",
        ),
        (false, true) => Finding::error(
            ID,
            &SUBJECT,
            "default_transaction_read_only is on for this role or database",
            "off",
            format!("ALTER ROLE {} SET default_transaction_read_only = off", quoted(&server.user)),
        ),
        (false, false) => Finding::ok(ID, &SUBJECT, "the primary, for reading and writing"),
    }
}

fn durability(server: &PostgresServer) -> Finding {
    const ID: &str = "postgres-durability";
    let off: Vec<&str> =
        ["fsync", "full_page_writes"].into_iter().filter(|name| setting(server, name) == "off").collect();
    match off.is_empty() {
        true => Finding::ok(ID, &SUBJECT, "fsync and full_page_writes are on"),
        false => Finding::error(
            ID,
            &SUBJECT,
            format!("{} is off: a crash can lose what is committed and acknowledged", off.join(" and ")),
            "on",
            off.iter().map(|name| format!("ALTER SYSTEM SET {name} = on; ")).collect::<String>()
                + "SELECT pg_reload_conf()",
        ),
    }
}

/// The service sets it for its own sessions where it is off; a pooler may give it another session after that.
fn synchronous_commit(server: &PostgresServer, look: &PostgresLook) -> Finding {
    const ID: &str = "postgres-synchronous-commit";
    let found = setting(server, "synchronous_commit");
    let has_standbys = !setting(server, "synchronous_standby_names").is_empty();
    let reset = format!(
        "ALTER DATABASE {0} RESET synchronous_commit, or ALTER ROLE {1} RESET synchronous_commit, or in postgresql.conf",
        quoted(&server.database),
        quoted(&server.user)
    );
    match found {
        "off" if look.shares_sessions == Some(true) => Finding::error(
            ID,
            &SUBJECT,
            "synchronous_commit is off, and a pooler shares sessions: a crash can lose what is acknowledged",
            "on",
            reset,
        ),
        "off" => Finding::warning(
            ID,
            &SUBJECT,
            "synchronous_commit is off: this service sets it on for itself, other writers of this database do not",
            "on",
            reset,
        ),
        "local" | "remote_write" if has_standbys => Finding::warning(
            ID,
            &SUBJECT,
            format!(
                "synchronous_commit is {found}, and there are synchronous standbys: a failover can lose what is acknowledged"
            ),
            "on or remote_apply",
            reset,
        ),
        found => Finding::ok(ID, &SUBJECT, format!("synchronous_commit is {found}")),
    }
}

fn connections(server: &PostgresServer, config: &Config) -> Finding {
    const ID: &str = "postgres-connections";
    let number = |name| setting(server, name).parse::<i64>().unwrap_or(0);
    let all = number("max_connections");
    let for_others = number("superuser_reserved_connections") + number("reserved_connections");
    let ours = i64::try_from(config.connections_for_writing()).unwrap_or(i64::MAX);
    let wanted = ours.saturating_add(OTHER_CONNECTIONS);
    let limits = [
        ("max_connections, without those reserved,", all.saturating_sub(for_others)),
        ("the role's CONNECTION LIMIT", server.role_connections),
        ("the database's CONNECTION LIMIT", server.database_connections),
    ];
    let least = limits.into_iter().filter(|(_, limit)| *limit >= 0).min_by_key(|(_, limit)| *limit);
    let used = format!(
        "{} of {all} connections are in use, and a replica takes {wanted} at most",
        server.connections
    );
    let remedy = "POSTGRES_CONNECTIONS=5, or ALTER SYSTEM SET max_connections = 200 and a restart; replicas × POSTGRES_CONNECTIONS must fit";
    match least {
        Some((name, limit)) if limit < wanted => Finding::warning(
            ID,
            &SUBJECT,
            format!("{name} is {limit}, and a replica takes up to {wanted}: its writers wait for each other"),
            format!("{wanted} or more"),
            remedy,
        ),
        _ if all > 0 && server.connections.saturating_add(wanted) > all.saturating_sub(for_others) => {
            Finding::warning(ID, &SUBJECT, used, "room for one more replica", remedy)
        }
        _ => Finding::ok(ID, &SUBJECT, used),
    }
}

fn encoding(server: &PostgresServer) -> Option<Finding> {
    (server.encoding != "UTF8").then(|| {
        Finding::error(
            "postgres-encoding",
            &SUBJECT,
            format!("the database has the encoding {}", server.encoding),
            "UTF8: events with other letters become dead letters",
            "CREATE DATABASE sluicegate TEMPLATE template0 ENCODING 'UTF8', and POSTGRES_URL to match",
        )
    })
}

/// The role must make tables only where some are missing.
fn schema(server: &PostgresServer, look: &PostgresLook) -> Option<Finding> {
    const ID: &str = "postgres-schema";
    let user = quoted(&server.user);
    let Some(schema) = &server.schema else {
        return Some(Finding::error(
            ID,
            &SUBJECT,
            format!(
                "no schema of the search path of {} exists, or the role may use none of them",
                server.user
            ),
            "a schema for the tables",
            format!("GRANT CREATE, USAGE ON SCHEMA public TO {user}"),
        ));
    };
    if !server.may_use_schema {
        return Some(Finding::error(
            ID,
            &SUBJECT,
            format!("the role {} may not use the schema {schema}", server.user),
            "USAGE on it",
            format!("GRANT USAGE ON SCHEMA {} TO {user}", quoted(schema)),
        ));
    }
    let missing: Vec<String> = look
        .own_tables
        .iter()
        .filter(|(_, table)| table.is_none())
        .map(|(name, _)| (*name).to_owned())
        .chain(look.tables.iter().filter(|table| table.look.is_none()).map(|table| table.table.to_string()))
        .collect();
    // A look that failed has found no table either.
    (!missing.is_empty() && look.failed.is_empty() && !server.may_create_tables).then(|| {
        Finding::error(
            ID,
            &SUBJECT,
            format!(
                "{} are missing, and the role {} may not make tables in {schema}",
                missing.join(", "),
                server.user
            ),
            "CREATE on the schema until the service has run once",
            format!("GRANT CREATE, USAGE ON SCHEMA {} TO {user}", quoted(schema)),
        )
    })
}

fn session_settings(server: &PostgresServer) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !["0", ""].contains(&setting(server, "idle_session_timeout")) {
        findings.push(Finding::note(
            "postgres-idle-sessions",
            &SUBJECT,
            format!(
                "idle_session_timeout is {} ms: the server ends connections that wait for batches",
                setting(server, "idle_session_timeout")
            ),
            "0 for this role",
            format!("ALTER ROLE {} SET idle_session_timeout = 0", quoted(&server.user)),
        ));
    }
    if setting(server, "session_replication_role") == "replica" {
        findings.push(Finding::error(
            "postgres-triggers-off",
            &SUBJECT,
            "session_replication_role is replica: the trigger that fences a run does not fire",
            "origin",
            format!("ALTER ROLE {} RESET session_replication_role", quoted(&server.user)),
        ));
    }
    let logs_all = setting(server, "log_min_duration_statement") == "0"
        || ["all", "mod"].contains(&setting(server, "log_statement"));
    if logs_all && setting(server, "log_parameter_max_length") != "0" {
        findings.push(Finding::note(
            "postgres-logs-events",
            &SUBJECT,
            "log_statement or log_min_duration_statement makes the server log each statement with its parameters: every event is in its log",
            "log_parameter_max_length of 0, where that is not meant",
            format!("ALTER ROLE {} SET log_parameter_max_length = 0", quoted(&server.user)),
        ));
    }
    findings
}

fn wraparound(server: &PostgresServer) -> Option<Finding> {
    (server.transaction_age > OLD_TRANSACTIONS).then(|| {
        Finding::error(
            "postgres-wraparound",
            &SUBJECT,
            format!("the oldest transaction that is not frozen is {} transactions ago", server.transaction_age),
            "less than a billion: at two billions PostgreSQL takes no more writes",
            "VACUUM (FREEZE), and see what keeps autovacuum from it: old transactions, prepared ones, replication slots",
        )
    })
}

fn pooler(server: &PostgresServer, look: &PostgresLook) -> Finding {
    const ID: &str = "postgres-pooler";
    match (look.shares_sessions, server.session_age_s) {
        (Some(true), _) => Finding::error(
            ID,
            &SUBJECT,
            "a pooler gives one session to several connections: the time-outs that each session sets are another's a moment later",
            "a session for each connection",
            "pool_mode = session in pgbouncer.ini, or POSTGRES_URL to the server itself",
        ),
        (_, Some(age)) if age > OLD_SESSION_S => Finding::note(
            ID,
            &SUBJECT,
            "a pooler seems to be between: the session is older than the connection",
            "pool_mode = session, with a pool for POSTGRES_CONNECTIONS of each replica",
            "SHOW POOLS on PgBouncer's console",
        ),
        _ => Finding::ok(ID, &SUBJECT, "a session for each connection"),
    }
}

fn extension(extension: &Extension, look: &PostgresLook, config: &Config) -> Finding {
    const ID: &str = "timescaledb";
    let is_compressed =
        look.tables.iter().any(|table| table.hypertable.as_ref().is_some_and(|it| it.is_compressed));
    let plain_is_allowed = config.allow_plain_table;
    let license = extension.license.as_deref().filter(|license| !license.is_empty());
    match (&extension.installed, &extension.available) {
        (None, None) if plain_is_allowed => {
            Finding::note(ID, &SUBJECT, "no timescaledb on this server; ALLOW_PLAIN_TABLE is set", "", "")
        }
        (None, None) => Finding::error(
            ID,
            &SUBJECT,
            "the extension timescaledb is not available on this server",
            "TimescaleDB 2.18.1 or later, or leave to do without",
            "install it and set shared_preload_libraries = 'timescaledb', or set ALLOW_PLAIN_TABLE=true",
        ),
        (None, Some(_)) if !extension.is_loaded => not_loaded(plain_is_allowed),
        (None, Some(_)) => not_installed(look, plain_is_allowed),
        (Some(version), _) if extension.drops_rows() => {
            let (found, remedy) = (
                format!(
                    "timescaledb {version} can drop rows when a batch meets a compressed chunk (timescaledb#7672)"
                ),
                "ALTER EXTENSION timescaledb UPDATE, as the first statement of a new session (psql -X)",
            );
            match is_compressed {
                true => Finding::error(ID, &SUBJECT, found, "2.18.1 or later", remedy),
                false => Finding::warning(ID, &SUBJECT, found, "2.18.1 or later, or no compression", remedy),
            }
        }
        (Some(version), Some(available)) if version != available => Finding::warning(
            ID,
            &SUBJECT,
            format!("the database has timescaledb {version}, the server {available}"),
            "one version",
            "ALTER EXTENSION timescaledb UPDATE, as the first statement of a new session (psql -X)",
        ),
        (Some(version), _) => {
            let edition = match license {
                Some("apache") => ", Apache edition: no compression, policies or continuous aggregates",
                Some(_) => ", Community edition",
                // The extension is there, and this session has not loaded it yet.
                None => "",
            };
            Finding::ok(ID, &SUBJECT, format!("timescaledb {version}{edition}"))
        }
    }
}

fn not_loaded(plain_is_allowed: bool) -> Finding {
    const ID: &str = "timescaledb";
    const FOUND: &str = "the extension timescaledb is installed on this server, and not loaded";
    match plain_is_allowed {
        true => Finding::note(ID, &SUBJECT, format!("{FOUND}; ALLOW_PLAIN_TABLE is set"), "", ""),
        false => Finding::error(
            ID,
            &SUBJECT,
            FOUND,
            "a server that loads it, or leave to do without",
            "shared_preload_libraries = 'timescaledb' in postgresql.conf and a restart, or ALLOW_PLAIN_TABLE=true",
        ),
    }
}

fn not_installed(look: &PostgresLook, plain_is_allowed: bool) -> Finding {
    const ID: &str = "timescaledb";
    let may_make = look.server.as_ref().is_some_and(|server| server.may_create_extensions);
    match (may_make, plain_is_allowed) {
        (true, _) => Finding::note(
            ID,
            &SUBJECT,
            "the extension timescaledb is available, and not made in this database yet",
            "",
            "nothing: it is made at the start",
        ),
        (false, true) => Finding::note(
            ID,
            &SUBJECT,
            "the extension timescaledb is not made in this database; ALLOW_PLAIN_TABLE is set",
            "",
            "",
        ),
        (false, false) => Finding::error(
            ID,
            &SUBJECT,
            "the extension timescaledb is not made in this database, and the role may not make it",
            "the extension, or leave to do without",
            "let an administrator run: CREATE EXTENSION timescaledb; or set ALLOW_PLAIN_TABLE=true",
        ),
    }
}

fn migrations(migrations: &Migrations, look: &PostgresLook) -> Finding {
    const ID: &str = "migrations";
    let list = |versions: &[i64]| versions.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let Migrations { pending, later, foreign, failed } = migrations;
    if !foreign.is_empty() {
        return Finding::error(
            ID,
            &SUBJECT,
            format!("_sqlx_migrations has migrations that are of another program: {}", list(foreign)),
            "a schema for this service alone",
            "CREATE SCHEMA sluicegate; ALTER ROLE ROLE SET search_path = sluicegate, public",
        );
    }
    if !failed.is_empty() {
        return Finding::error(
            ID,
            &SUBJECT,
            format!("migrations were begun and not finished: {}", list(failed)),
            "all of them finished",
            format!(
                "look at the tables, and DELETE FROM _sqlx_migrations WHERE version IN ({})",
                list(failed)
            ),
        );
    }
    let is_new = look.own_tables.iter().all(|(_, table)| table.is_none());
    match (pending.is_empty(), later) {
        (false, _) if is_new => {
            Finding::note(ID, &SUBJECT, "no tables yet", "", "nothing: the service makes them at its start")
        }
        (false, _) => Finding::warning(
            ID,
            &SUBJECT,
            format!("migrations that are to be run: {}", list(pending)),
            "all of them run",
            "start this version of the service with a role that may: GRANT CREATE, USAGE ON SCHEMA public TO ROLE",
        ),
        (true, Some(later)) => Finding::note(
            ID,
            &SUBJECT,
            format!(
                "the database was prepared by a later version of this program (migration {later}), which only adds"
            ),
            "",
            "update this program to the version that prepared it",
        ),
        (true, None) => Finding::ok(ID, &SUBJECT, "all migrations are run"),
    }
}

fn holders(holders: &Holders) -> Vec<Finding> {
    const ID: &str = "postgres-old-transactions";
    let mut findings = Vec::new();
    let is_old = |age: f64| age > OLD_TRANSACTION.as_secs_f64();
    if let Some((process, age)) = holders.transaction.filter(|(_, age)| is_old(*age)) {
        findings.push(Finding::warning(
            ID,
            &SUBJECT,
            format!("the process {process} has had a transaction open for {age:.0} s: VACUUM removes nothing that it might see"),
            "less than an hour",
            format!("SELECT * FROM pg_stat_activity WHERE pid = {process}; then SELECT pg_terminate_backend({process})"),
        ));
    }
    if let Some((name, age)) = holders.prepared.as_ref().filter(|(_, age)| is_old(*age)) {
        findings.push(Finding::warning(
            ID,
            &SUBJECT,
            format!("the transaction {name:?} was prepared {age:.0} s ago: it holds its locks, and VACUUM removes nothing that it might see"),
            "COMMIT PREPARED or ROLLBACK PREPARED",
            format!("ROLLBACK PREPARED '{}'", name.replace('\'', "''")),
        ));
    }
    for (name, bytes) in holders.slots.iter().filter(|(_, bytes)| *bytes > KEPT_WAL_BYTES) {
        findings.push(Finding::warning(
            "postgres-replication-slots",
            &SUBJECT,
            format!("the replication slot {name:?} is read by nobody, and keeps {} MiB of WAL", bytes >> 20),
            "a slot that is read, or none",
            format!("SELECT pg_drop_replication_slot('{}')", name.replace('\'', "''")),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(ID, &SUBJECT, "no transaction is open for long, as far as this role sees"));
    }
    findings
}

fn failed(look: &PostgresLook) -> Option<Finding> {
    let (what, why) = look.failed.first()?;
    let more = look.failed.len().saturating_sub(1);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    Some(Finding::warning(
        "postgres-not-told",
        &SUBJECT,
        format!("the look at {what} failed: {why}{more}"),
        "an answer to each question",
        "give the role the right, or see why the server is slow, and look again",
    ))
}

pub(super) fn setting<'a>(server: &'a PostgresServer, name: &str) -> &'a str {
    server.settings.get(name).map_or("", String::as_str)
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
