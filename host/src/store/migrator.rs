//! Checks and prepares what the first batch needs: version, extension and schema.

use std::time::Duration;

use sqlx::migrate::Migration;
use sqlx::{Connection, PgConnection};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{sleep, timeout};

use super::error::is_denied;
use super::{CONNECT_TIMEOUT, Database, Error, Store, table};

pub(super) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

pub(super) const MIN_POSTGRES_MAJOR: u32 = 14;
/// Below this version, ON CONFLICT DO NOTHING on a compressed chunk can drop the rest of a
/// statement after the first conflict (timescaledb#7672).
pub(super) const MIN_TIMESCALEDB: (u32, u32, u32) = (2, 18, 1);

/// A migration may take hours, so its statements have no time limit. Instead the server ends a
/// session that waits this long for the service, which never needs so long to send the next
/// statement. Otherwise a network that swallows packets would keep the locks for ever.
const MAX_IDLE: &str = "SET idle_session_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s'";
/// Makes the extension visible, which may be in a schema of its own.
const SEE_EXTENSION: &str = "SELECT set_config('search_path',
         concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(nspname)), false)
     FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace ON pg_namespace.oid = extnamespace
     WHERE extname = 'timescaledb' AND nspname <> ALL (current_schemas(true))";
/// The time between two looks at whether the server still works for the session.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The number of looks without an answer, in a row, after which the server is given up.
const MAX_LOOKS_IN_VAIN: u32 = 3;

/// The largest number of tenants whose tables are checked at the same time: all may start at once.
const MAX_CONCURRENT_TABLES: usize = 8;

/// How far the database is prepared, and who may prepare it.
pub(super) struct Migrator {
    /// Set when the extension and the migrations are in place.
    shared: OnceCell<()>,
    /// These permits are not those of writers: a table that is large or locked may take hours.
    tables: Semaphore,
}

impl Migrator {
    pub(super) fn new() -> Self {
        Self { shared: OnceCell::new(), tables: Semaphore::new(MAX_CONCURRENT_TABLES) }
    }
}

impl Database {
    /// Checks the server, and makes the extension and the shared tables if they are missing: once,
    /// for whichever tenant comes first. Several replicas may start together: sqlx takes an
    /// advisory lock, and what races while the extension is made is tried again.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.migrator.shared.get_or_try_init(|| self.prepare_now()).await.copied()
    }

    /// Returns whether the shared tables are there.
    pub fn is_prepared(&self) -> bool {
        self.migrator.shared.initialized()
    }

    async fn prepare_now(&self) -> Result<(), Error> {
        let (mut connection, session) = self.session().await?;
        let version = self.watched(session, self.make_extension(&mut connection)).await?;
        match version {
            Some(version) => tracing::info!(timescaledb = version, "database ready to migrate"),
            None => tracing::warn!("no timescaledb: events go to a plain table, as ALLOW_PLAIN_TABLE says"),
        }
        self.tell_weak_settings().await?;
        // Some versions end the connection that tries to make an extension that is not loaded.
        let (mut connection, session) = self.session().await?;
        let prepare = async {
            migrate(&mut connection).await?;
            make_lost_tables(&mut connection).await
        };
        self.watched(session, prepare).await
    }

    /// Warns when the server may forget what it has committed, because that is acknowledged.
    async fn tell_weak_settings(&self) -> Result<(), Error> {
        let (mut connection, _) = self.session().await?;
        let off: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'",
        )
        .fetch_all(&mut connection)
        .await?;
        if !off.is_empty() {
            tracing::warn!(
                off = off.join(", "),
                "this postgres can lose in a crash what it has committed, and so events that are acknowledged"
            );
        }
        Ok(())
    }

    /// Opens a connection of its own, and returns it with the server's process for it.
    pub(super) async fn session(&self) -> Result<(PgConnection, i32), Error> {
        let mut connection = self.connect().await?;
        let begin = async {
            check_server(&mut connection).await?;
            sqlx::raw_sql(MAX_IDLE).execute(&mut connection).await?;
            sqlx::raw_sql(SEE_EXTENSION).execute(&mut connection).await?;
            Ok::<i32, Error>(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?)
        };
        let backend = timeout(CONNECT_TIMEOUT, begin)
            .await
            .map_err(|_| Error::TimedOut { what: "connecting", after: CONNECT_TIMEOUT })??;
        Ok((connection, backend))
    }

    /// Does this work in a session, for as long as the server works on it.
    pub(super) async fn watched<T>(
        &self,
        backend: i32,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            error = self.until_lost(backend) => Err(error),
        }
    }

    /// Looks over other connections until the session with this process is gone or the server
    /// cannot be reached, and returns why.
    async fn until_lost(&self, backend: i32) -> Error {
        let mut in_vain = 0;
        loop {
            sleep(LOOK_EVERY).await;
            match self.is_there(backend).await {
                Ok(true) => in_vain = 0,
                Ok(false) => return Error::SessionLost,
                // The server answers, if only that it has no room for another connection.
                Err(Error::Statement(sqlx::Error::Database(_))) => in_vain = 0,
                Err(error) => {
                    in_vain += 1;
                    if in_vain >= MAX_LOOKS_IN_VAIN {
                        return error;
                    }
                }
            }
        }
    }

    async fn is_there(&self, backend: i32) -> Result<bool, Error> {
        let mut connection = self.connect().await?;
        let found = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)")
            .bind(backend)
            .fetch_one(&mut connection);
        let found = timeout(CONNECT_TIMEOUT, found).await;
        Ok(found.map_err(|_| Error::TimedOut { what: "a look at sessions", after: CONNECT_TIMEOUT })??)
    }

    /// Makes the extension if it is missing. Returns its version, or `None` for a plain table.
    async fn make_extension(&self, connection: &mut PgConnection) -> Result<Option<String>, Error> {
        if let Some(version) = extension_version(connection).await? {
            return Ok(Some(version));
        }
        let available: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')",
        )
        .fetch_one(&mut *connection)
        .await?;
        if !available {
            return if self.allow_plain_table { Ok(None) } else { Err(Error::ExtensionMissing) };
        }
        // The transaction has a lock of its own: IF NOT EXISTS alone races with another replica.
        let mut transaction = connection.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sluicegate.extension'))")
            .execute(&mut *transaction)
            .await?;
        let made = sqlx::query("CREATE EXTENSION IF NOT EXISTS timescaledb").execute(&mut *transaction).await;
        match made {
            Ok(_) => transaction.commit().await?,
            Err(error) if self.allow_plain_table && (is_denied(&error) || must_be_preloaded(&error)) => {
                return Ok(None);
            }
            Err(source) if is_denied(&source) => {
                return Err(Error::NoRights {
                    what: "make the extension timescaledb",
                    remedy: "CREATE EXTENSION timescaledb",
                    source,
                });
            }
            // The extension's own check raises `object_not_in_prerequisite_state` or a fatal error,
            // depending on its version.
            Err(source) if must_be_preloaded(&source) => return Err(Error::ExtensionNotLoaded(source)),
            Err(source) => return Err(source.into()),
        }
        extension_version(connection).await
    }
}

impl Store {
    /// Makes and checks what the tenant's pipeline needs.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.database.prepare().await?;
        let _permit = self.database.migrator.tables.acquire().await.map_err(|_| Error::Closed)?;
        let (mut connection, session) = self.database.session().await?;
        let prepare = async {
            make_lost_tables(&mut connection).await?;
            self.prepare_table(&mut connection).await
        };
        self.database.watched(session, prepare).await
    }
}

/// The tables that all tenants share, each with the migrations that give it its present form.
pub(super) const OWN_TABLES: [(&str, &[i64]); 11] = [
    ("dead_letters", &[2, 4, 9, 10]),
    ("commits", &[3, 6]),
    ("replay_outbox", &[5]),
    ("rules_in_force", &[7]),
    ("decided", &[8]),
    ("rules_components", &[10]),
    ("rules_versions", &[10]),
    ("rules_deployments", &[10]),
    ("rules_replicas", &[10]),
    ("dead_letter_jobs", &[11]),
    ("admin_audit", &[11]),
];

/// Makes tables again that somebody has dropped.
async fn make_lost_tables(connection: &mut PgConnection) -> Result<(), Error> {
    for (table, migrations) in OWN_TABLES {
        if is_there(table, connection).await? {
            continue;
        }
        let mut transaction = connection.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sluicegate.table'), hashtext($1))")
            .bind(table)
            .execute(&mut *transaction)
            .await?;
        if is_there(table, &mut transaction).await? {
            continue; // by another replica, or for another tenant
        }
        tracing::warn!(table, "a table of the service was dropped, with what was in it; making it again");
        for migration in MIGRATIONS.iter().filter(|migration| migrations.contains(&migration.version)) {
            sqlx::raw_sql(migration.sql.clone()).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}

pub(super) async fn is_there(table: &str, connection: &mut PgConnection) -> Result<bool, Error> {
    let found = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table);
    Ok(found.fetch_one(connection).await?)
}

async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    table::check_before_first_migration(connection).await?;
    if is_migrated(connection).await? {
        return Ok(());
    }
    // This does what `run` does: rustc cannot tell that a task may hold `run` itself ("not general
    // enough").
    MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(source)
        | sqlx::migrate::MigrateError::ExecuteMigration(source, _)
            if is_denied(&source) =>
        {
            Error::NoRights {
                what: "make the tables",
                remedy: "GRANT CREATE, USAGE ON SCHEMA public TO <role>",
                source,
            }
        }
        other => Error::Migrate(other),
    })
}

/// Returns whether all migrations have been run: then a role needs no right to make tables.
///
/// Later versions only add to the tables, so a program that is older than the database can go on.
async fn is_migrated(connection: &mut PgConnection) -> Result<bool, Error> {
    if !is_there("_sqlx_migrations", connection).await? {
        return Ok(false);
    }
    let done: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success")
            .fetch_all(connection)
            .await?;
    let is_done = |migration: &Migration| {
        done.iter()
            .any(|(version, checksum)| *version == migration.version && *checksum == *migration.checksum)
    };
    let known = MIGRATIONS.iter().map(|migration| migration.version).max();
    if let Some(later) = done.iter().map(|(version, _)| *version).max().filter(|last| Some(*last) > known) {
        tracing::warn!(
            migration = later,
            "the database was prepared by a later version of this program, which only adds to it; going on"
        );
    }
    Ok(MIGRATIONS.iter().all(is_done))
}

async fn check_server(connection: &mut PgConnection) -> Result<(), Error> {
    let number: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(&mut *connection).await?;
    let number: u32 = number.parse().unwrap_or(0);
    match number >= MIN_POSTGRES_MAJOR * 10_000 {
        true => Ok(()),
        false => Err(Error::ServerTooOld {
            found: sqlx::query_scalar("SHOW server_version").fetch_one(connection).await?,
            wanted: MIN_POSTGRES_MAJOR,
        }),
    }
}

pub(super) async fn extension_version(connection: &mut PgConnection) -> Result<Option<String>, Error> {
    let version: Option<String> =
        sqlx::query_scalar("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'")
            .fetch_optional(connection)
            .await?;
    if let Some(found) = version.as_deref().filter(|version| parts(version) < Some(MIN_TIMESCALEDB)) {
        tracing::warn!(
            found,
            "this timescaledb can drop rows when a batch meets a compressed chunk (timescaledb#7672); \
             update to 2.18.1 or later, or leave compression off"
        );
    }
    Ok(version)
}

pub(super) fn parts(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split(['.', '-']).map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?, parts.next().unwrap_or(0)))
}

fn must_be_preloaded(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("preload"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare() {
        assert!(parts("2.19.3") >= Some(MIN_TIMESCALEDB));
        assert!(parts("2.18.1-dev") >= Some(MIN_TIMESCALEDB));
        assert!(parts("2.9.11") < Some(MIN_TIMESCALEDB));
        assert!(parts("3.0") >= Some(MIN_TIMESCALEDB));
    }
}
