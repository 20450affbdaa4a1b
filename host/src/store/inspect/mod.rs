//! Looks at PostgreSQL without changing anything, for `sluicegate doctor`.
//!
//! - `queries`: the statements of the looks
//! - `asker`: asks them, each in a transaction that may only read

mod asker;
mod queries;

use std::collections::BTreeMap;

use serde::Deserialize;
use sqlx::migrate::Migration;
use tokio::time::timeout;

use super::migrator::{MIGRATIONS, MIN_POSTGRES_MAJOR, MIN_TIMESCALEDB, OWN_TABLES, parts};
use super::{Database, Error};
use crate::clock::{ClockGap, now_us};
use crate::config::{TableName, Tenant, TenantName};
use asker::{ANSWER_TIMEOUT, Asker};
use queries::{BEGIN, EXTENSION, HOLDERS, SERVER, SETTINGS};

/// The table of sqlx.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
/// How often two connections are compared.
const ROUNDS: usize = 3;

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
    /// The granted statements that the server would not run.
    pub refused_statements: Vec<RefusedStatement>,
}

/// A granted statement that the server would not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedStatement {
    pub name: String,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Hypertable {
    pub chunks: i64,
    pub is_compressed: bool,
    pub chunk_interval_s: Option<f64>,
    /// The age at which a policy drops chunks, if there is one.
    pub retention_s: Option<f64>,
    /// The jobs of the table whose last run has failed.
    pub failed_jobs: Vec<String>,
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

impl Database {
    /// Looks at the server and the tables of these tenants. The result is an error when there is no connection.
    pub async fn inspect(&self, tenants: &[Tenant]) -> Result<PostgresLook, Error> {
        let mut asker = Asker::new(self.connect().await?);
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
