//! Makes the table that a tenant's events go to, if it is missing, and checks its form.

use std::sync::atomic::Ordering;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::error::is_denied;
use super::migrator::{OWN_TABLES, is_there};
use super::rows::{Inserts, VERSION};
use super::{Error, Store, columns};
use crate::config::TableName;

impl Store {
    /// Makes the tenant's table if it is missing, as the first migration makes `events`. The
    /// database must be prepared.
    pub(super) async fn prepare_table(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let table = &self.table;
        self.table_can_drop_rows(connection).await?;
        self.look_for_version_column(connection).await?;
        let is_there = match form(connection, table).await? {
            // The check comes before anything is made of the table: it may be somebody else's.
            Some(found) => check(table, found).map(|()| true)?,
            None => false,
        };
        if is_there && is_as_wanted(connection, table).await? {
            return Ok(());
        }
        let mut transaction = connection.begin().await?;
        // IF NOT EXISTS alone races with another replica. Each table has its own lock: to take over
        // one that has rows, or that somebody has locked, may take hours.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('sluicegate.table'), hashtext($1))")
            .bind(table.quoted())
            .execute(&mut *transaction)
            .await?;
        make(&mut transaction, table).await.map_err(|error| match error {
            Error::Statement(source) if is_denied(&source) => Error::NoRights {
                what: "make the tables",
                remedy: "GRANT CREATE, USAGE ON SCHEMA public TO <role>",
                source,
            },
            other => other,
        })?;
        transaction.commit().await?;
        check(table, form(connection, table).await?.unwrap_or_default())
    }
}

impl Store {
    /// Returns whether a trigger of the table can drop a row that is inserted, and remembers it.
    pub(super) async fn table_can_drop_rows(&self, connection: &mut PgConnection) -> Result<bool, Error> {
        // These fire for each row (1) before (2) it is inserted (4), and are not TimescaleDB's own.
        let found: bool = sqlx::query_scalar(
            "SELECT EXISTS (
                 SELECT FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
                 WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgtype & 7 = 7 AND tgenabled <> 'D'
                       AND proname <> 'insert_blocker')",
        )
        .bind(self.table.quoted())
        .fetch_one(connection)
        .await?;
        self.drops_rows.store(found, Ordering::Relaxed);
        Ok(found)
    }

    /// Looks whether the table has a column for the version of the rules, which the operator may have added.
    async fn look_for_version_column(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let found: bool = sqlx::query_scalar(
            "SELECT EXISTS (
                 SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped
                     AND attgenerated = '' AND format_type(atttypid, NULL) IN ('integer', 'bigint'))",
        )
        .bind(self.table.quoted())
        .bind(VERSION)
        .fetch_one(connection)
        .await?;
        self.has_version_column.store(found, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn has_version_column(&self) -> bool {
        self.has_version_column.load(Ordering::Relaxed)
    }

    /// Returns the statements that write the table.
    pub(super) fn inserts(&self) -> &Inserts {
        let [without, with] = &self.inserts;
        if self.has_version_column() { with } else { without }
    }

    /// Returns what was remembered last.
    pub(super) fn can_drop_rows(&self) -> bool {
        self.drops_rows.load(Ordering::Relaxed)
    }
}

/// Returns whether the extension is there. Without it a table stays plain, which is then allowed.
async fn has_extension(connection: &mut PgConnection) -> Result<bool, Error> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb')",
    );
    Ok(found.fetch_one(connection).await?)
}

/// Returns whether the table is a hypertable, or must stay a plain one.
async fn is_as_wanted(connection: &mut PgConnection, table: &TableName) -> Result<bool, Error> {
    if !has_extension(connection).await? {
        return Ok(true);
    }
    let found = sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM timescaledb_information.hypertables
             WHERE to_regclass(format('%I.%I', hypertable_schema, hypertable_name)) = to_regclass($1))",
    );
    Ok(found.bind(table.quoted()).fetch_one(connection).await?)
}

async fn make(connection: &mut PgConnection, table: &TableName) -> Result<(), Error> {
    let table = table.quoted();
    let create = format!("CREATE TABLE IF NOT EXISTS {table} ({})", columns::definition());
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *connection).await?;
    if has_extension(connection).await? {
        sqlx::query(
            "SELECT create_hypertable($1::regclass, 'time', if_not_exists => TRUE, migrate_data => TRUE)",
        )
        .bind(table)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// Returns what the table looks like, if there is one.
pub(super) async fn form(connection: &mut PgConnection, table: &TableName) -> Result<Option<String>, Error> {
    let found = sqlx::query_scalar(
        "SELECT concat(
             (SELECT string_agg(attname || ' ' || CASE format_type(atttypid, NULL)
                      WHEN 'character varying' THEN 'text' ELSE format_type(atttypid, NULL) END, ', ' ORDER BY attname)
              FROM pg_attribute
              WHERE attrelid = events AND attnum > 0 AND NOT attisdropped
                AND attname = ANY ($2)),
             '; ',
             (SELECT coalesce('primary key (' || string_agg(attname, ', ' ORDER BY attname) || ')', 'no primary key')
              FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
              WHERE indrelid = events AND indisprimary))
         FROM to_regclass($1) AS events WHERE events IS NOT NULL",
    );
    Ok(found.bind(table.quoted()).bind(columns::name_array()).fetch_optional(connection).await?)
}

/// Checks a table, which may have been there before. Without the key, duplicates would not show.
fn check(table: &TableName, found: String) -> Result<(), Error> {
    let wanted = columns::form();
    match found == wanted {
        true => Ok(()),
        false => Err(Error::WrongTable { table: table.to_string(), found, wanted }),
    }
}

/// Checks tables before the migrations make a hypertable of `events` or add columns, because they
/// may be somebody else's. Later that concerns only the tenant that writes there.
pub(super) async fn check_before_first_migration(connection: &mut PgConnection) -> Result<(), Error> {
    if is_there("_sqlx_migrations", connection).await? {
        return Ok(());
    }
    for (table, _) in OWN_TABLES {
        if is_there(table, connection).await? {
            return Err(Error::NotOurs { table });
        }
    }
    let events = TableName::default();
    match form(connection, &events).await? {
        Some(found) => check(&events, found),
        None => Ok(()),
    }
}
