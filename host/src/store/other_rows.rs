//! Whether a table takes rows other than one that was refused.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Error, Remedy, Store, columns, within_timeout};

/// Whether a tenant's table takes rows other than one that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherRows {
    Written,
    /// The server refuses other rows too.
    Refused,
    /// The table is empty, so there is no row to try with.
    Unknown,
    /// The server does not answer, or has no room.
    Away,
}

impl OtherRows {
    pub(super) fn from_write(written: Result<u64, Error>) -> Self {
        match written {
            Ok(0) => Self::Unknown,
            Ok(_) => Self::Written,
            Err(error) if error.is_of_keys() => Self::Written,
            Err(error) => match error.remedy() {
                Remedy::Retry | Remedy::Split => Self::Away,
                _ => Self::Refused,
            },
        }
    }
}

/// Writes a copy of the newest row under another ID, within the open transaction, and undoes it.
pub(super) async fn look_at_other_rows(
    store: &Store,
    connection: &mut PgConnection,
) -> Result<OtherRows, Error> {
    let looked = async {
        sqlx::raw_sql("SAVEPOINT others").execute(&mut *connection).await?;
        // A plain table may have no index by time, and then any row will do.
        let has_index: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
             WHERE indrelid = to_regclass($1) AND attname = 'time')",
        )
        .bind(store.table.quoted())
        .fetch_one(&mut *connection)
        .await?;
        let order = if has_index { "ORDER BY time DESC" } else { "" };
        let table = store.table.quoted();
        let copy = format!(
            "INSERT INTO {table} ({}) SELECT {} FROM (SELECT * FROM {table} {order} LIMIT 1) AS newest",
            columns::names(),
            columns::names_but("event_id", "gen_random_uuid()")
        );
        let written = async {
            let copied = sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut *connection).await?;
            sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *connection).await?;
            Ok::<u64, Error>(copied.rows_affected())
        };
        let others = OtherRows::from_write(written.await);
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT others").execute(connection).await?;
        Ok::<OtherRows, Error>(others)
    };
    within_timeout("looking whether other rows can be written", looked).await
}
