//! Judges the tables: those that all tenants share, and each tenant's own.

use super::finding::{Finding, Subject};
use super::postgres_server::{quoted, setting};
use crate::config::Tenant;
use crate::store::{Hypertable, PostgresLook, RefusedStatement, TableLook, TenantTable};

/// The tables that a chunk brings: itself and its indexes, each with a lock.
const LOCKS_PER_CHUNK: i64 = 3;
/// From so many chunks on, planning takes long.
const MANY_CHUNKS: i64 = 2_000;

/// Judges the tables that all tenants share.
pub(super) fn judge_own(look: &PostgresLook) -> Vec<Finding> {
    let mut findings = Vec::new();
    let user = look.server.as_ref().map_or("ROLE", |server| server.user.as_str());
    for (name, table) in &look.own_tables {
        let Some(table) = table else { continue };
        findings.extend(rights(name, table, &Subject::Postgres, user));
        findings.extend(unlogged(name, table, &Subject::Postgres));
        findings.extend(row_security(name, table, &Subject::Postgres));
    }
    let there = look.own_tables.iter().filter(|(_, table)| table.is_some()).count();
    if there > 0 && findings.is_empty() {
        let found = format!("the role may do all that is needed on {there} tables of the service");
        findings.push(Finding::ok("tables", &Subject::Postgres, found));
    }
    findings
}

/// Judges a tenant's table.
pub(super) fn judge(table: &TenantTable, look: &PostgresLook, tenant: &Tenant) -> Vec<Finding> {
    let subject = Subject::Tenant(table.tenant.clone());
    let mut findings = statements(table, &subject);
    findings.extend(events_table(table, look, &subject));
    findings.extend(table.hypertable.as_ref().map(|it| jobs(it, tenant, &subject)).unwrap_or_default());
    findings
}

/// Judges the statements that its rules may run.
fn statements(table: &TenantTable, subject: &Subject) -> Vec<Finding> {
    let told = |RefusedStatement { name, why }: &RefusedStatement| {
        Finding::error(
            "granted-statement",
            subject,
            format!("PostgreSQL would refuse the statement {name:?}: {why}"),
            "a statement that the role can run",
            format!("mend [statements.{name}] or its table, or take it out of [grants] statements"),
        )
    };
    table.refused_statements.iter().map(told).collect()
}

fn events_table(table: &TenantTable, look: &PostgresLook, subject: &Subject) -> Vec<Finding> {
    let name = table.table.to_string();
    let Some(found) = &table.look else {
        let found = format!("there is no table {name} yet");
        // A look that failed is told by itself.
        let note = Finding::note("events-table", subject, found, "", "nothing: it is made at the start");
        return if look.failed.is_empty() { vec![note] } else { Vec::new() };
    };
    if let Some(form) = &table.other_form {
        return vec![Finding::error(
            "events-table",
            subject,
            format!("the table {name} has another form: {form}"),
            &table.wanted_form,
            format!("EVENTS_TABLE=events_of_sluicegate, or ALTER TABLE {name} to that form"),
        )];
    }
    let user = look.server.as_ref().map_or("ROLE", |server| server.user.as_str());
    let mut findings = Vec::new();
    findings.extend(kind(&name, found, subject));
    findings.extend(rights(&name, found, subject, user));
    findings.extend(unlogged(&name, found, subject));
    findings.extend(row_security(&name, found, subject));
    findings.extend(required_columns(&name, found, subject));
    findings.extend(triggers(&name, found, subject));
    findings.extend(unique_indexes(&name, found, subject));
    findings.extend(hypertable(&name, table, look, subject));
    if findings.is_empty() {
        let form = match &table.hypertable {
            Some(Hypertable { chunks, chunk_interval_s: Some(seconds), .. }) => {
                format!("hypertable with {chunks} chunks of {:.1} days", seconds / 86_400.0)
            }
            Some(Hypertable { chunks, .. }) => format!("hypertable with {chunks} chunks"),
            None => "plain table".to_owned(),
        };
        findings.push(Finding::ok("events-table", subject, format!("{name}: {form}")));
    }
    findings
}

fn kind(name: &str, table: &TableLook, subject: &Subject) -> Option<Finding> {
    (!["r", "p"].contains(&table.kind.as_str())).then(|| {
        Finding::error(
            "events-table",
            subject,
            format!("{name} is no table (relkind {})", table.kind),
            "a table",
            "EVENTS_TABLE=events_of_sluicegate",
        )
    })
}

fn rights(name: &str, table: &TableLook, subject: &Subject, user: &str) -> Option<Finding> {
    (!table.denied.is_empty()).then(|| {
        let denied = table.denied.join(", ");
        Finding::error(
            "table-rights",
            subject,
            format!("the role {user} lacks {denied} on {name}"),
            "the rights that docs/operations.md lists",
            format!("GRANT {denied} ON {}.{} TO {}", quoted(&table.schema), quoted(name), quoted(user)),
        )
    })
}

fn unlogged(name: &str, table: &TableLook, subject: &Subject) -> Option<Finding> {
    table.is_unlogged.then(|| {
        Finding::error(
            "table-unlogged",
            subject,
            format!("the table {name} is UNLOGGED: a crash of PostgreSQL empties it"),
            "a table with a log",
            format!("ALTER TABLE {}.{} SET LOGGED", quoted(&table.schema), quoted(name)),
        )
    })
}

fn row_security(name: &str, table: &TableLook, subject: &Subject) -> Option<Finding> {
    table.has_row_security.then(|| {
        Finding::error(
            "table-row-security",
            subject,
            format!(
                "row-level security of {name} applies to this role: policies can refuse rows, or hide them"
            ),
            "none for the service's role",
            format!(
                "ALTER TABLE {}.{} DISABLE ROW LEVEL SECURITY, or ALTER ROLE … BYPASSRLS",
                quoted(&table.schema),
                quoted(name)
            ),
        )
    })
}

fn required_columns(name: &str, table: &TableLook, subject: &Subject) -> Option<Finding> {
    let first = table.required_columns.first()?;
    Some(Finding::error(
        "table-columns",
        subject,
        format!(
            "{name} has columns that need a value, which the service does not give: {}",
            table.required_columns.join(", ")
        ),
        "a default, or NULL allowed",
        format!("ALTER TABLE {name} ALTER COLUMN {} DROP NOT NULL", quoted(first)),
    ))
}

fn triggers(name: &str, table: &TableLook, subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !table.dropping_triggers.is_empty() {
        findings.push(Finding::warning(
            "table-triggers",
            subject,
            format!(
                "{name} has triggers that can drop a row before it is inserted, and make it a dead letter: {}",
                table.dropping_triggers.join(", ")
            ),
            "AFTER triggers; or rules that discard what is not wanted",
            format!("\\d {name} in psql shows them"),
        ));
    } else if !table.triggers.is_empty() {
        findings.push(Finding::note(
            "table-triggers",
            subject,
            format!(
                "{name} has triggers: {}. What they raise makes a dead letter of the row",
                table.triggers.join(", ")
            ),
            "",
            "",
        ));
    }
    findings
}

fn unique_indexes(name: &str, table: &TableLook, subject: &Subject) -> Option<Finding> {
    (!table.unique_indexes.is_empty()).then(|| {
        Finding::note(
            "table-unique-indexes",
            subject,
            format!(
                "{name} has unique indexes besides its key: {}. A row that they refuse becomes a dead letter",
                table.unique_indexes.join(", ")
            ),
            "",
            "",
        )
    })
}

fn hypertable(name: &str, table: &TenantTable, look: &PostgresLook, subject: &Subject) -> Vec<Finding> {
    let has_extension = look.extension.as_ref().is_some_and(|it| it.installed.is_some());
    let Some(hypertable) = &table.hypertable else {
        return match has_extension && look.failed.is_empty() {
            true => vec![Finding::note(
                "events-table",
                subject,
                format!("{name} is a plain table, and timescaledb is here"),
                "",
                "nothing: it becomes a hypertable at the start, which moves its rows and takes a while",
            )],
            false => Vec::new(),
        };
    };
    let mut findings = Vec::new();
    findings.extend(locks(name, hypertable, look, subject));
    findings.extend(compression(name, hypertable, look, subject));
    if hypertable.chunks > MANY_CHUNKS {
        findings.push(Finding::warning(
            "table-chunks",
            subject,
            format!("{name} has {} chunks: statements take long to plan", hypertable.chunks),
            format!("{MANY_CHUNKS} at most; weeks by the time of the events"),
            format!(
                "SELECT set_chunk_time_interval('{name}', INTERVAL '1 month') for those to come, drop_chunks for those that are not \
                 wanted, and a shorter MAX_EVENT_AGE and MAX_EVENT_AHEAD against wrong clocks"
            ),
        ));
    }
    findings
}

/// Judges the policies of TimescaleDB, which only its Community edition has.
fn jobs(hypertable: &Hypertable, tenant: &Tenant, subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !hypertable.failed_jobs.is_empty() {
        findings.push(Finding::warning(
            "table-jobs",
            subject,
            format!("the last run of a job has failed: {}", hypertable.failed_jobs.join(", ")),
            "jobs that succeed",
            "SELECT * FROM timescaledb_information.job_errors ORDER BY finish_time DESC tells why",
        ));
    }
    let age = tenant.max_event_age;
    if let Some(seconds) = hypertable.retention_s.filter(|seconds| *seconds < age.0.as_secs_f64()) {
        let days = seconds / 86_400.0;
        findings.push(Finding::note(
            "table-retention",
            subject,
            format!("a policy drops events that are older than {days:.1} days, and MAX_EVENT_AGE lets in those of {age}"),
            "no event that makes a chunk only to be dropped with it",
            format!("MAX_EVENT_AGE={days:.0}d"),
        ));
    }
    findings
}

/// A statement over the whole table locks each chunk.
fn locks(name: &str, hypertable: &Hypertable, look: &PostgresLook, subject: &Subject) -> Option<Finding> {
    let server = look.server.as_ref()?;
    let number = |name| setting(server, name).parse::<i64>().ok();
    let sessions = number("max_connections")?.saturating_add(number("max_prepared_transactions")?);
    let room = number("max_locks_per_transaction")?.saturating_mul(sessions);
    let wanted = hypertable.chunks.saturating_mul(LOCKS_PER_CHUNK);
    (wanted > room).then(|| {
        Finding::warning(
            "table-locks",
            subject,
            format!(
                "{name} has {} chunks, and a statement over all of them takes about {wanted} locks; the server has room for {room}",
                hypertable.chunks
            ),
            "room for them, or statements with a condition on time",
            format!("ALTER SYSTEM SET max_locks_per_transaction = {}, and a restart", wanted / sessions.max(1) + 64),
        )
    })
}

fn compression(
    name: &str,
    hypertable: &Hypertable,
    look: &PostgresLook,
    subject: &Subject,
) -> Option<Finding> {
    const ID: &str = "table-compression";
    if !hypertable.is_compressed {
        return None;
    }
    let limit = look
        .server
        .as_ref()
        .map(|server| setting(server, "timescaledb.max_tuples_decompressed_per_dml_transaction"))
        .unwrap_or_default();
    if !["0", ""].contains(&limit) {
        return Some(Finding::warning(
            ID,
            subject,
            format!(
                "{name} is compressed, and a transaction may unpack {limit} rows: a late event can be refused for want of more"
            ),
            "no such limit for this role",
            "ALTER ROLE … SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0",
        ));
    }
    let is_slow = look.extension.as_ref().is_some_and(|extension| !extension.has_bloom_filters());
    is_slow.then(|| {
        Finding::note(
            ID,
            subject,
            format!("{name} is compressed: before timescaledb 2.20 a late event unpacks whole segments to look for its key"),
            "timescaledb 2.20 or later",
            "ALTER EXTENSION timescaledb UPDATE",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::store::{Extension, PostgresServer};

    fn look() -> PostgresLook {
        let settings = [
            ("max_connections", "100"),
            ("max_prepared_transactions", "0"),
            ("max_locks_per_transaction", "64"),
            ("timescaledb.max_tuples_decompressed_per_dml_transaction", "100000"),
        ];
        PostgresLook {
            server: Some(PostgresServer {
                user: "app".to_owned(),
                settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                ..PostgresServer::default()
            }),
            extension: Some(Extension { installed: Some("2.19.3".to_owned()), ..Extension::default() }),
            ..PostgresLook::default()
        }
    }

    fn told(change: impl FnOnce(&mut TenantTable, &mut TableLook)) -> Vec<(&'static str, Level)> {
        let mut table = TenantTable {
            hypertable: Some(Hypertable { chunks: 10, ..Hypertable::default() }),
            ..TenantTable::default()
        };
        let mut found =
            TableLook { kind: "r".to_owned(), schema: "public".to_owned(), ..TableLook::default() };
        change(&mut table, &mut found);
        table.look = Some(found);
        let findings = judge(&table, &look(), &Tenant::default());
        let told = findings.iter().filter(|finding| finding.level != Level::Ok);
        told.map(|finding| (finding.id, finding.level)).collect()
    }

    #[test]
    fn each_flaw_of_a_table_has_its_finding() {
        let one = |name: &str| vec![name.to_owned()];
        assert_eq!(told(|_, _| ()), []);
        assert_eq!(told(|_, found| found.kind = "v".to_owned()), [("events-table", Level::Error)]);
        assert_eq!(told(|_, found| found.denied = one("INSERT")), [("table-rights", Level::Error)]);
        assert_eq!(told(|_, found| found.is_unlogged = true), [("table-unlogged", Level::Error)]);
        assert_eq!(told(|_, found| found.has_row_security = true), [("table-row-security", Level::Error)]);
        assert_eq!(told(|_, found| found.required_columns = one("note")), [("table-columns", Level::Error)]);
        assert_eq!(told(|_, found| found.triggers = one("note")), [("table-triggers", Level::Note)]);
        assert_eq!(told(|_, found| found.unique_indexes = one("u")), [("table-unique-indexes", Level::Note)]);
        assert_eq!(
            told(|_, found| {
                (found.triggers, found.dropping_triggers) = (one("drop"), one("drop"));
            }),
            [("table-triggers", Level::Warning)]
        );
        assert_eq!(
            told(|table, _| table.other_form = Some("number bigint".to_owned())),
            [("events-table", Level::Error)]
        );
        assert_eq!(told(|table, _| table.hypertable = None), [("events-table", Level::Note)]);
        let chunks = |chunks, is_compressed| {
            told(|table, _| {
                table.hypertable = Some(Hypertable { chunks, is_compressed, ..Hypertable::default() });
            })
        };
        assert_eq!(chunks(2_000, false), []);
        assert_eq!(chunks(2_500, false), [("table-locks", Level::Warning), ("table-chunks", Level::Warning)]);
        assert_eq!(chunks(5, true), [("table-compression", Level::Warning)]);
        let with = |hypertable: Hypertable| told(|table, _| table.hypertable = Some(hypertable));
        assert_eq!(
            with(Hypertable { failed_jobs: one("policy_retention 1000"), ..Hypertable::default() }),
            [("table-jobs", Level::Warning)]
        );
        assert_eq!(
            with(Hypertable { retention_s: Some(86_400.0), ..Hypertable::default() }),
            [("table-retention", Level::Note)]
        );
    }

    #[test]
    fn a_missing_right_becomes_a_statement_to_copy() {
        let found = TableLook {
            schema: "public".to_owned(),
            denied: vec!["INSERT".to_owned(), "DELETE".to_owned()],
            ..TableLook::default()
        };
        let own_tables = vec![("decided", Some(found)), ("commits", None)];
        let findings = judge_own(&PostgresLook { own_tables, ..look() });
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].remedy, "GRANT INSERT, DELETE ON \"public\".\"decided\" TO \"app\"");
    }
}
