//! Looks at PostgreSQL without changing anything, for `sluicegate doctor`. Each look is a transaction that may only
//! read and ends by a rollback: behind a pooler, nothing of it stays in a session that others get next.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::migrate::Migration;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::timeout;

use super::migrator::{MIGRATIONS, MIN_POSTGRES_MAJOR, MIN_TIMESCALEDB, OWN_TABLES, parts};
use super::{Database, Error, columns, table};
use crate::clock::{ClockGap, now_us};
use crate::config::{TableName, Tenant, TenantName};

/// What PostgreSQL told. What it would not tell is missing, and `failed` says why.
#[derive(Debug, Default)]
pub struct PostgresLook {
    pub server: Option<PostgresServer>,
    pub extension: Option<Extension>,
    pub migrations: Option<Migrations>,
    pub holders: Option<Holders>,
    /// Whether two connections had the same session of the server, which only a pooler can bring about.
    pub shares_sessions: Option<bool>,
    /// The tables that all tenants share, by name; `None` for one that is missing.
    pub own_tables: Vec<(&'static str, Option<TableLook>)>,
    pub tables: Vec<TenantTable>,
    /// The looks that failed, with the reason.
    pub failed: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct PostgresServer {
    pub version: String,
    pub version_num: u32,
    pub clock_us: i64,
    #[serde(skip)]
    pub clock: Option<ClockGap>,
    pub is_standby: bool,
    pub user: String,
    pub database: String,
    /// -1 where there is no limit.
    pub role_connections: i64,
    pub database_connections: i64,
    pub encoding: String,
    /// The schema in which tables are made, if the search path has any.
    pub schema: Option<String>,
    pub may_use_schema: bool,
    pub may_create_tables: bool,
    pub may_create_extensions: bool,
    pub settings: BTreeMap<String, String>,
    /// The connections of all clients, this one included.
    pub connections: i64,
    /// How old the session is, or `None` where that is hidden.
    pub session_age_s: Option<f64>,
    /// Transactions since the oldest that is not frozen.
    pub transaction_age: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Extension {
    pub installed: Option<String>,
    /// The version that CREATE EXTENSION would make.
    pub available: Option<String>,
    pub license: Option<String>,
    /// Whether the server has loaded it, as `shared_preload_libraries` says.
    pub is_loaded: bool,
}

/// How the migrations of this program stand in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrations {
    pub pending: Vec<i64>,
    /// The last of those that only a later program knows.
    pub later: Option<i64>,
    /// Those that are of another program, or not as they were written.
    pub foreign: Vec<i64>,
    pub failed: Vec<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct TableLook {
    /// The letter of `pg_class`: r for a table, p for a partitioned one.
    pub kind: String,
    pub is_unlogged: bool,
    pub schema: String,
    /// The rights that the role lacks.
    pub denied: Vec<String>,
    /// Whether policies hide rows from the role, or keep it from writing some.
    pub has_row_security: bool,
    pub triggers: Vec<String>,
    /// The triggers that can drop a row before it is inserted.
    pub dropping_triggers: Vec<String>,
    /// Columns that must have a value, which the service does not give.
    pub required_columns: Vec<String>,
    /// Unique indexes besides the primary key.
    pub unique_indexes: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct TenantTable {
    pub tenant: TenantName,
    pub table: TableName,
    /// `None` for a table that is missing.
    pub look: Option<TableLook>,
    /// Columns and key as they are, where they are not as wanted.
    pub other_form: Option<String>,
    pub wanted_form: String,
    /// `None` for a plain table.
    pub hypertable: Option<Hypertable>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Hypertable {
    pub chunks: i64,
    pub is_compressed: bool,
    pub chunk_interval_s: Option<f64>,
}

/// What keeps old versions of rows, or WAL, from being removed.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Holders {
    /// The oldest transaction of others with a snapshot: its process, and its age.
    pub transaction: Option<(i64, f64)>,
    /// The oldest prepared transaction: its name, and its age.
    pub prepared: Option<(String, f64)>,
    /// Replication slots that nobody reads, with the bytes of WAL that they keep.
    pub slots: Vec<(String, i64)>,
    /// The standbys that are connected.
    pub standbys: i64,
}

/// How long the server may take for one look, and for a lock.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '2s'; \
                     SET LOCAL idle_in_transaction_session_timeout = '10s'";
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// The table of sqlx.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
/// How often two connections are compared.
const ROUNDS: usize = 3;

const SERVER: &str = "SELECT json_build_object(
    'version', current_setting('server_version'),
    'version_num', current_setting('server_version_num')::int,
    'clock_us', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    'is_standby', pg_is_in_recovery(),
    'user', current_user,
    'database', current_database(),
    'role_connections', rolconnlimit,
    'database_connections', datconnlimit,
    'encoding', pg_encoding_to_char(encoding),
    'schema', current_schema(),
    'may_use_schema', coalesce(has_schema_privilege(current_schema(), 'USAGE'), false),
    'may_create_tables', coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
    'may_create_extensions', has_database_privilege(current_database(), 'CREATE'),
    'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY ($1)),
    'connections', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    'session_age_s', (SELECT extract(epoch FROM clock_timestamp() - backend_start)::float8
                      FROM pg_stat_activity WHERE pid = pg_backend_pid()),
    'transaction_age', age(datfrozenxid))
 FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()";

/// The settings that matter.
const SETTINGS: [&str; 16] = [
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "default_transaction_read_only",
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "idle_session_timeout",
    "session_replication_role",
    "log_statement",
    "log_min_duration_statement",
    "log_parameter_max_length",
    "timescaledb.max_tuples_decompressed_per_dml_transaction",
];

const EXTENSION: &str = "SELECT json_build_object(
    'installed', (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'),
    'available', (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'),
    'license', current_setting('timescaledb.license', true),
    'is_loaded', EXISTS (SELECT FROM pg_settings WHERE name LIKE 'timescaledb.%'))";

const MIGRATED: &str =
    "SELECT coalesce(json_agg(json_build_array(version, success, encode(checksum, 'hex'))), '[]')
 FROM _sqlx_migrations";

const TABLE: &str = "SELECT json_build_object(
    'kind', relkind::text,
    'is_unlogged', relpersistence = 'u',
    'schema', nspname,
    'denied', (SELECT coalesce(json_agg(wanted), '[]') FROM unnest($2) AS wanted
               WHERE NOT has_table_privilege(pg_class.oid, wanted)),
    'has_row_security', row_security_active(pg_class.oid),
    'triggers', (SELECT coalesce(json_agg(tgname), '[]') FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
                 WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgenabled <> 'D'
                       AND proname NOT IN ('insert_blocker', 'sluicegate_refuse_fenced')),
    'dropping_triggers', (SELECT coalesce(json_agg(tgname), '[]') FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
                 WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 7 = 7
                       AND proname <> 'insert_blocker'),
    'required_columns', (SELECT coalesce(json_agg(attname), '[]') FROM pg_attribute
                 WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attnotnull AND NOT atthasdef
                       AND attidentity = '' AND attname <> ALL ($3)),
    'unique_indexes', (SELECT coalesce(json_agg(indexrelid::regclass::text), '[]') FROM pg_index
                 WHERE indrelid = pg_class.oid AND indisunique AND NOT indisprimary))
 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = to_regclass($1)";

const HYPERTABLE: &str = "SELECT json_build_object(
    'chunks', num_chunks, 'is_compressed', compression_enabled,
    'chunk_interval_s', (SELECT extract(epoch FROM time_interval)::float8 FROM timescaledb_information.dimensions d
                         WHERE d.hypertable_schema = h.hypertable_schema AND d.hypertable_name = h.hypertable_name
                               AND dimension_number = 1))
 FROM timescaledb_information.hypertables h
 WHERE to_regclass(format('%I.%I', hypertable_schema, hypertable_name)) = to_regclass($1)";

const HOLDERS: &str = "SELECT json_build_object(
    'transaction', (SELECT json_build_array(pid, extract(epoch FROM now() - xact_start)::float8) FROM pg_stat_activity
                    WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
                    ORDER BY xact_start LIMIT 1),
    'prepared', (SELECT json_build_array(gid, extract(epoch FROM now() - prepared)::float8) FROM pg_prepared_xacts
                 ORDER BY prepared LIMIT 1),
    'slots', (SELECT coalesce(json_agg(json_build_array(slot_name, CASE WHEN pg_is_in_recovery() THEN 0
                     ELSE coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint END)), '[]')
              FROM pg_replication_slots WHERE NOT active),
    'standbys', (SELECT count(*) FROM pg_stat_replication))";

impl Database {
    /// Looks at the server and the tables of these tenants. The result is an error when there is no connection.
    pub async fn inspect(&self, tenants: &[Tenant]) -> Result<PostgresLook, Error> {
        let mut asker = Asker { connection: self.connect().await?, failed: Vec::new(), is_broken: false };
        let asked = now_us();
        let server: Option<PostgresServer> = asker.look("the server", SERVER, SETTINGS.to_vec()).await;
        let answered = now_us();
        let server = server.map(|server| PostgresServer {
            clock: Some(ClockGap::new(asked, server.clock_us, answered)),
            ..server
        });
        let extension: Option<Extension> = asker.look("the extension", EXTENSION, ()).await;
        let migrated = asker.table(MIGRATIONS_TABLE, &["SELECT"]).await;
        let migrations = asker.migrations(migrated.as_ref()).await;
        let holders = asker.look("old transactions", HOLDERS, ()).await;
        let has_extension = extension.as_ref().is_some_and(|found| found.installed.is_some());
        let (mut own_tables, mut tables) = (vec![(MIGRATIONS_TABLE, migrated)], Vec::new());
        for (name, _) in OWN_TABLES {
            own_tables.push((name, asker.table(name, &["SELECT", "INSERT", "UPDATE", "DELETE"]).await));
        }
        for tenant in tenants {
            tables.push(asker.tenant_table(tenant, has_extension).await);
        }
        let shares_sessions = match asker.is_broken {
            true => None,
            false => self.shares_sessions(&mut asker).await,
        };
        let failed = asker.failed;
        Ok(PostgresLook {
            server,
            extension,
            migrations,
            holders,
            shares_sessions,
            own_tables,
            tables,
            failed,
        })
    }

    /// Compares the sessions of two connections. One has a transaction open meanwhile, so that a pooler cannot give
    /// its session to the other one.
    async fn shares_sessions(&self, asker: &mut Asker) -> Option<bool> {
        const PROCESS: &str = "SELECT pg_backend_pid()";
        let compared = async {
            let mut other = self.connect().await?;
            let first: i32 = asker.process(PROCESS).await?;
            for _ in 0..ROUNDS {
                sqlx::raw_sql(BEGIN).execute(&mut other).await?;
                let others: i32 = sqlx::query_scalar(PROCESS).persistent(false).fetch_one(&mut other).await?;
                let now = asker.process(PROCESS).await?;
                sqlx::raw_sql("ROLLBACK").execute(&mut other).await?;
                if others == first || now != first {
                    return Ok(true);
                }
            }
            Ok::<bool, Error>(false)
        };
        match timeout(ANSWER_TIMEOUT, compared).await {
            Ok(Ok(shares)) => Some(shares),
            // A second connection may be too much for the role, which is told elsewhere.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// A connection, and the looks that have failed.
struct Asker {
    connection: PgConnection,
    failed: Vec<(&'static str, String)>,
    /// Whether the connection gives no more answers.
    is_broken: bool,
}

/// What a look hands over besides its statement.
trait Parameters {
    fn bind(self, sql: String) -> Query;
}

type Query = sqlx::query::QueryScalar<
    'static,
    sqlx::Postgres,
    Option<Json<serde_json::Value>>,
    sqlx::postgres::PgArguments,
>;

impl Parameters for () {
    fn bind(self, sql: String) -> Query {
        sqlx::query_scalar(AssertSqlSafe(sql))
    }
}

impl Parameters for Vec<&'static str> {
    fn bind(self, sql: String) -> Query {
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(self)
    }
}

impl Parameters for String {
    fn bind(self, sql: String) -> Query {
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(self)
    }
}

impl Parameters for (String, Vec<&'static str>, Vec<&'static str>) {
    fn bind(self, sql: String) -> Query {
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(self.0).bind(self.1).bind(self.2)
    }
}

impl Asker {
    /// Returns the one value of this statement, or `None` if there is none or the look has failed.
    async fn look<T: DeserializeOwned>(
        &mut self,
        what: &'static str,
        sql: &str,
        parameters: impl Parameters,
    ) -> Option<T> {
        let query = parameters.bind(sql.to_owned());
        let found = self.within(what, async |connection| {
            // A statement with a name would need the same session again, which a pooler may not give.
            Ok(query.persistent(false).fetch_optional(connection).await?.flatten())
        });
        let Json(found) = found.await.flatten()?;
        match serde_json::from_value(found) {
            Ok(found) => Some(found),
            Err(error) => {
                self.failed.push((what, error.to_string()));
                None
            }
        }
    }

    /// Does this within a transaction that may only read.
    async fn within<T>(
        &mut self,
        what: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Option<T> {
        if self.is_broken {
            return None;
        }
        let connection = &mut self.connection;
        let looked = async {
            sqlx::raw_sql(BEGIN).execute(&mut *connection).await?;
            let done = work(&mut *connection).await;
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
            done
        };
        let outcome = match timeout(ANSWER_TIMEOUT, looked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::TimedOut { what, after: ANSWER_TIMEOUT }),
        };
        match outcome {
            Ok(done) => Some(done),
            Err(error) => {
                self.is_broken = error.is_of_connection();
                self.failed.push((what, error.to_string()));
                None
            }
        }
    }

    async fn process(&mut self, sql: &'static str) -> Result<i32, Error> {
        Ok(sqlx::query_scalar(sql).persistent(false).fetch_one(&mut self.connection).await?)
    }

    /// Asks what was migrated, unless the role may not see it.
    async fn migrations(&mut self, table: Option<&TableLook>) -> Option<Migrations> {
        let done: Vec<(i64, bool, String)> = match table {
            Some(table) if !table.denied.is_empty() => return None,
            Some(_) => self.look("the migrations", MIGRATED, ()).await?,
            None if self.failed.is_empty() => Vec::new(),
            None => return None,
        };
        Some(compare(&done))
    }

    async fn table(&mut self, name: &str, rights: &[&'static str]) -> Option<TableLook> {
        self.look("a table", TABLE, (name.to_owned(), rights.to_vec(), columns::name_array())).await
    }

    async fn tenant_table(&mut self, tenant: &Tenant, has_extension: bool) -> TenantTable {
        let (name, wanted) = (tenant.events_table.clone(), columns::form());
        // The service neither updates nor deletes events.
        let look = self.table(&name.quoted(), &["SELECT", "INSERT"]).await;
        let table = name.clone();
        let form = self.within("a table of events", async |connection| table::form(connection, &table).await);
        let form = form.await.flatten();
        let hypertable = match has_extension {
            true => self.look("a hypertable", HYPERTABLE, name.quoted()).await,
            false => None,
        };
        TenantTable {
            tenant: tenant.name.clone(),
            table: name,
            look,
            other_form: form.filter(|found| *found != wanted),
            wanted_form: wanted,
            hypertable,
        }
    }
}

/// Compares what was migrated with the migrations of this program.
fn compare(done: &[(i64, bool, String)]) -> Migrations {
    let found = |migration: &Migration| done.iter().find(|(version, ..)| *version == migration.version);
    let last = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let mut migrations = Migrations::default();
    for migration in MIGRATIONS.iter() {
        match found(migration) {
            None => migrations.pending.push(migration.version),
            Some((version, false, _)) => migrations.failed.push(*version),
            Some((version, true, checksum)) if *checksum != crate::text::hex(&migration.checksum) => {
                migrations.foreign.push(*version);
            }
            Some(_) => {}
        }
    }
    migrations.later = done.iter().map(|(version, ..)| *version).max().filter(|later| *later > last);
    migrations
}

impl PostgresServer {
    /// Returns the oldest major version that will do, if this one is older.
    pub fn wanted_major(&self) -> Option<u32> {
        (self.version_num < MIN_POSTGRES_MAJOR * 10_000).then_some(MIN_POSTGRES_MAJOR)
    }
}

impl Extension {
    /// Returns whether this version can drop rows when a batch meets a compressed chunk (timescaledb#7672).
    pub fn drops_rows(&self) -> bool {
        self.installed.as_deref().is_some_and(|version| parts(version) < Some(MIN_TIMESCALEDB))
    }

    /// Returns whether conflicts with compressed chunks are found without unpacking them, by bloom filters.
    pub fn has_bloom_filters(&self) -> bool {
        self.installed.as_deref().is_some_and(|version| parts(version) >= Some((2, 20, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_compared() {
        let done: Vec<(i64, bool, String)> = MIGRATIONS
            .iter()
            .map(|migration| (migration.version, true, crate::text::hex(&migration.checksum)))
            .collect();
        assert_eq!(compare(&done), Migrations::default());
        assert_eq!(compare(&[]).pending.len(), done.len());
        let mut other = done.clone();
        other.pop();
        other[0].1 = false;
        other[1].2 = "00".to_owned();
        other.push((9_999, true, "00".to_owned()));
        let found = compare(&other);
        assert_eq!((found.failed.as_slice(), found.foreign.as_slice()), (&[1][..], &[2][..]));
        assert_eq!((found.pending.len(), found.later), (1, Some(9_999)));
    }
}
