//! A batch's transaction, in which its guest may run statements that the operator has named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use serde_json::value::RawValue;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Column as _, PgConnection, Postgres, Row as _, TypeInfo as _, ValueRef as _};
use uuid::Uuid;

use super::pool::PooledConnection;
use super::timestamp::{NoTimestamp, Timestamp};
use super::{Database, Error, Number, STATEMENT_TIMEOUT_MS, Store, within_timeout};
use crate::capabilities::{
    Lost, StatementError, StatementMeter, StatementResult, TransactionRequest, TransactionRequests, Value,
};
use crate::config::{Parameter, Statement};

/// The time beyond a statement's own limit after which the network is at fault.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest number of bytes in all values that a statement returns.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The statements of a tenant, by their names.
pub type Statements = Arc<BTreeMap<String, Statement>>;

/// A transaction that has begun. If it is dropped without a commit, its connection is closed and it
/// is rolled back.
pub struct Session {
    pub(super) pooled: PooledConnection,
    statements: Statements,
    meter: StatementMeter,
    /// Why the transaction is over, if it is.
    pub(super) lost: Option<Error>,
}

impl Session {
    /// Begins a transaction. The guest may compute for `pause` between two of its statements.
    pub(super) async fn begin(
        mut pooled: PooledConnection,
        store: &Store,
        pause: Duration,
    ) -> Result<Self, Error> {
        // The server must not end the transaction meanwhile.
        let idle_ms = u128::from(STATEMENT_TIMEOUT_MS) + pause.as_millis();
        let begin = format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = {idle_ms}");
        let begin = sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut pooled.connection);
        within_timeout("beginning a transaction", begin).await?;
        let statements = Arc::clone(&store.statements);
        Ok(Self { pooled, statements, meter: StatementMeter::default(), lost: None })
    }

    /// Locks the slot of a batch until the transaction ends. Waits for another transaction in this
    /// slot, one whose COMMIT had no answer. Then returns the records of the batch, and of entries
    /// from the first to the last of these milliseconds.
    pub(super) async fn take_slot(
        &mut self,
        store: &Store,
        slot: i32,
        numbers: &[Number],
        [first, last]: [i64; 2],
    ) -> Result<Vec<PgRow>, Error> {
        let connection = &mut self.pooled.connection;
        let taken = async {
            sqlx::query("SELECT sluicegate_hold($1, $2)")
                .bind(store.run)
                .bind(slot)
                .execute(&mut *connection)
                .await?;
            // Others may have decided these entries, if the group was set back.
            sqlx::query(
                "SELECT run, number, entries FROM decided WHERE run = $1 AND number = ANY ($2)
                 UNION ALL
                 SELECT run, number, entries FROM decided
                 WHERE stream = $3 AND consumer_group = $4 AND last >= $5 AND first <= $6
                       AND NOT (run = $1 AND number = ANY ($2))",
            )
            .bind(store.run)
            .bind(numbers.iter().map(Number::get).collect::<Vec<i64>>())
            .bind(&store.stream)
            .bind(&store.group)
            .bind(first)
            .bind(last)
            .fetch_all(connection)
            .await
        };
        within_timeout("beginning a transaction", taken).await
    }

    /// Returns whether the guest has run a statement.
    pub(super) fn was_used(&self) -> bool {
        self.meter.was_used()
    }

    /// Makes it possible to undo all that the guest does from here on.
    pub(super) async fn begin_all(&mut self) -> Result<(), Error> {
        let begun = sqlx::raw_sql("SAVEPOINT guest").execute(&mut self.pooled.connection);
        within_timeout("beginning a transaction", begun).await.map(drop)
    }

    /// Undoes what was written since [`Session::begin_all`], after an error too.
    pub(super) async fn undo_all(&mut self) -> Result<(), Error> {
        let undone = sqlx::raw_sql("ROLLBACK TO SAVEPOINT guest").execute(&mut self.pooled.connection);
        within_timeout("rolling back", undone).await.map(drop)
    }

    /// Undoes the whole transaction.
    pub(super) async fn rollback(mut self, database: &Database) -> Result<(), Error> {
        let undone = sqlx::raw_sql("ROLLBACK").execute(&mut self.pooled.connection);
        let undone = within_timeout("rolling back", undone).await;
        database.finish(self.pooled, undone).map(drop)
    }

    /// Gives the connection back after the commit. It is closed if something may be left on it.
    pub(super) async fn release(mut self, database: &Database) {
        let is_clean = !self.was_used()
            || within_timeout(
                "resetting a session",
                sqlx::raw_sql(FORGET).execute(&mut self.pooled.connection),
            )
            .await
            .is_ok();
        if is_clean {
            self.pooled.release(database);
        }
    }

    /// Returns why the transaction is over, after an answer has said that it is.
    pub fn lost(&mut self) -> Error {
        self.lost.take().unwrap_or(Error::SessionLost)
    }

    /// Answers what the rules ask, until nobody asks any more.
    pub async fn serve(&mut self, mut requests: TransactionRequests) {
        while let Some(request) = requests.recv().await {
            // If the asker has gone meanwhile, nobody has a use for the answer.
            match request {
                TransactionRequest::BeginCall(answer) => drop(answer.send(self.begin_call().await)),
                TransactionRequest::UndoCall(answer) => drop(answer.send(self.undo_call().await)),
                TransactionRequest::Query(statement, parameters, answer) => {
                    drop(answer.send(self.query(&statement, parameters).await));
                }
                TransactionRequest::Execute(statement, parameters, answer) => {
                    drop(answer.send(self.execute(&statement, parameters).await));
                }
            }
        }
    }

    async fn begin_call(&mut self) -> Result<(), Lost> {
        self.meter.begin_call();
        self.control("SAVEPOINT guest_call".to_owned()).await
    }

    async fn undo_call(&mut self) -> Result<(), Lost> {
        self.meter.undo_call();
        self.control("ROLLBACK TO SAVEPOINT guest_call".to_owned()).await
    }

    async fn control(&mut self, sql: String) -> Result<(), Lost> {
        if self.lost.is_some() {
            return Err(Lost);
        }
        let done = async {
            let run = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.pooled.connection);
            match tokio::time::timeout(CANCEL_TIMEOUT, run).await {
                Ok(done) => done.map(drop).map_err(Error::from),
                Err(_) => Err(Error::TimedOut { what: "a statement of the guest", after: CANCEL_TIMEOUT }),
            }
        };
        done.await.map_err(|error| {
            self.lost = Some(error);
            Lost
        })
    }
}

impl Session {
    async fn query(&mut self, name: &str, parameters: Vec<Value>) -> StatementResult<Vec<Vec<Value>>> {
        let (statement, query) = match self.begin_statement(name, parameters).await? {
            Ok(begun) => begun,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let got = within_limit(&statement, rows(query, &mut self.pooled.connection, &statement)).await;
        self.end_statement(&statement, got).await
    }

    async fn execute(&mut self, name: &str, parameters: Vec<Value>) -> StatementResult<u64> {
        let (statement, query) = match self.begin_statement(name, parameters).await? {
            Ok(begun) => begun,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let executed = async {
            let done = query.execute(&mut self.pooled.connection).await?;
            Ok(Ok(done.rows_affected()))
        };
        let got = within_limit(&statement, executed).await;
        self.end_statement(&statement, got).await
    }

    /// Checks a statement, and begins a savepoint for it, so that its error spoils nothing else.
    async fn begin_statement(
        &mut self,
        name: &str,
        parameters: Vec<Value>,
    ) -> StatementResult<(Statement, Bound)> {
        let Some(statement) = self.statements.get(name).cloned() else {
            return Ok(Err(StatementError::NotGranted(name.to_owned())));
        };
        if let Err(refusal) = self.meter.admit(&parameters) {
            return Ok(Err(refusal));
        }
        let query = match bound(&statement, parameters) {
            Ok(query) => query,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let timeout_ms = statement.timeout.as_millis();
        // A statement that waits for a lock is not slow: the wait ends the transaction, and the
        // batch is judged again later. The lock's limit must end before the statement's, which does
        // not tell the cause.
        self.control(format!(
            "SAVEPOINT guest_statement; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {timeout_ms}",
            (timeout_ms / 2).max(1)
        ))
        .await?;
        Ok(Ok((statement, query)))
    }

    async fn end_statement<T>(
        &mut self,
        statement: &Statement,
        got: Result<Result<T, StatementError>, Error>,
    ) -> StatementResult<T> {
        let refusal = match got {
            Ok(Ok(got)) => {
                self.control("RELEASE SAVEPOINT guest_statement".to_owned()).await?;
                return Ok(Ok(got));
            }
            Ok(Err(refusal)) => refusal,
            Err(error) => match refused(&error, statement.timeout.as_millis()) {
                Some(refusal) => refusal,
                None => {
                    self.lost = Some(error);
                    return Err(Lost);
                }
            },
        };
        self.control("ROLLBACK TO SAVEPOINT guest_statement; RELEASE SAVEPOINT guest_statement".to_owned())
            .await?;
        Ok(Err(refusal))
    }
}

/// Ends a statement that the server does not end in time.
async fn within_limit<T>(
    statement: &Statement,
    run: impl Future<Output = Result<Result<T, StatementError>, Error>>,
) -> Result<Result<T, StatementError>, Error> {
    let limit = Duration::from_millis(statement.timeout.as_millis()) + CANCEL_TIMEOUT;
    let run = tokio::time::timeout(limit, run).await;
    run.map_err(|_| Error::TimedOut { what: "a statement of the guest", after: limit })?
}

/// Returns the settings that a batch's own statements need after the guest's. Checks that were put
/// off until the commit are made now, so that it is known whose fault it is. Nobody computes any
/// more, so the server need not wait for that.
pub(super) fn end_of_guest() -> String {
    format!(
        "SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL lock_timeout = 0; \
         SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; \
         SET LOCAL idle_in_transaction_session_timeout = {STATEMENT_TIMEOUT_MS}"
    )
}

/// Resets what outlives a transaction, and would be there for the connection's next user.
const FORGET: &str = "SELECT pg_advisory_unlock_all(); DISCARD TEMP; UNLISTEN *; RESET ROLE; RESET search_path; RESET TimeZone";

/// Returns what the guest is told, unless the transaction is over or a retry may go well.
fn refused(error: &Error, timeout_ms: u64) -> Option<StatementError> {
    let Error::Statement(sqlx::Error::Database(database)) = error else { return None };
    let code = database.code()?;
    match code.as_ref() {
        "57014" => Some(StatementError::TimedOut(timeout_ms)),
        // Somebody holds a lock, or the server is read-only for now or has waited too long.
        "55P03" | "25006" | "25P03" => None,
        // The plan is older than a change of the table. sqlx keeps it as long as the connection.
        "0A000" if database.message().contains("cached plan") => None,
        // These are connections, deadlocks, and the end of the server.
        code if ["08", "40", "57"].iter().any(|class| code.starts_with(class)) => None,
        _ => Some(StatementError::Refused(code.into_owned(), database.message().to_owned())),
    }
}

/// Checks parameters against those that the operator has declared.
pub(crate) fn check_parameters(statement: &Statement, parameters: Vec<Value>) -> Result<(), StatementError> {
    bound(statement, parameters).map(drop)
}

pub(super) type Bound = Query<'static, Postgres, PgArguments>;

pub(super) fn bound(statement: &Statement, parameters: Vec<Value>) -> Result<Bound, StatementError> {
    let wrong = || {
        let kinds: Vec<&str> = statement.parameters.iter().map(|kind| kind.as_str()).collect();
        StatementError::WrongParameters(format!("wanted ({})", kinds.join(", ")))
    };
    if parameters.len() != statement.parameters.len() {
        return Err(wrong());
    }
    let query = sqlx::query(AssertSqlSafe(statement.sql.clone()));
    parameters.into_iter().zip(&statement.parameters).try_fold(query, |query, (value, kind)| {
        Ok(match (kind, value) {
            (Parameter::Boolean, Value::Null) => query.bind(None::<bool>),
            (Parameter::Integer, Value::Null) => query.bind(None::<i64>),
            (Parameter::Number, Value::Null) => query.bind(None::<f64>),
            (Parameter::Text, Value::Null) => query.bind(None::<String>),
            (Parameter::Uuid, Value::Null) => query.bind(None::<Uuid>),
            (Parameter::Timestamp, Value::Null) => query.bind(None::<DateTime<Utc>>),
            (Parameter::Json, Value::Null) => query.bind(None::<Json<Box<RawValue>>>),
            (Parameter::Bytes, Value::Null) => query.bind(None::<Vec<u8>>),
            (Parameter::Boolean, Value::Boolean(value)) => query.bind(value),
            (Parameter::Integer, Value::Integer(value)) => query.bind(value),
            (Parameter::Number, Value::Number(value)) => query.bind(value),
            (Parameter::Text, Value::Text(value)) => query.bind(value),
            (Parameter::Uuid, Value::Uuid(value)) => {
                query.bind(Uuid::parse_str(&value).map_err(|_| wrong())?)
            }
            (Parameter::Timestamp, Value::Timestamp(value)) => {
                query.bind(DateTime::from_timestamp_micros(value).ok_or_else(wrong)?)
            }
            (Parameter::Json, Value::Json(value)) => {
                query.bind(Json(RawValue::from_string(value).map_err(|_| wrong())?))
            }
            (Parameter::Bytes, Value::Bytes(value)) => query.bind(value),
            _ => return Err(wrong()),
        })
    })
}

/// Returns the rows of a statement, within its limits.
async fn rows(
    query: Bound,
    connection: &mut PgConnection,
    statement: &Statement,
) -> Result<Result<Vec<Vec<Value>>, StatementError>, Error> {
    let (mut rows, mut bytes, mut refusal) = (Vec::new(), 0_usize, None);
    let mut found = query.fetch(connection);
    // All rows are read, even of what is too much: the connection is to be used again.
    while let Some(row) = found.try_next().await? {
        if refusal.is_some() {
            continue;
        }
        match values(&row) {
            Err(unknown) => refusal = Some(unknown),
            Ok(_) if rows.len() >= statement.rows => refusal = Some(StatementError::too_much(statement.rows)),
            Ok(row) => {
                bytes += row.iter().map(Value::bytes).sum::<usize>();
                rows.push(row);
                refusal = (bytes > MAX_ANSWER_BYTES).then(|| StatementError::too_much(MAX_ANSWER_BYTES));
            }
        }
    }
    Ok(refusal.map_or(Ok(rows), Err))
}

/// The SQLSTATE datetime_field_overflow.
const OVERFLOW: &str = "22008";

fn no_timestamp(error: &sqlx::Error) -> Option<&NoTimestamp> {
    match error {
        sqlx::Error::ColumnDecode { source, .. } => source.downcast_ref(),
        _ => None,
    }
}

fn values(row: &PgRow) -> Result<Vec<Value>, StatementError> {
    let value = |column: &sqlx::postgres::PgColumn| {
        let at = column.ordinal();
        let name = column.type_info().name().to_owned();
        let is_null = row.try_get_raw(at).is_ok_and(|raw| raw.is_null());
        let value = match name.as_str() {
            _ if is_null => Ok(Value::Null),
            "BOOL" => row.try_get(at).map(Value::Boolean),
            "INT2" => row.try_get(at).map(|value: i16| Value::Integer(value.into())),
            "INT4" => row.try_get(at).map(|value: i32| Value::Integer(value.into())),
            "INT8" => row.try_get(at).map(Value::Integer),
            "FLOAT4" => row.try_get(at).map(|value: f32| Value::Number(value.into())),
            "FLOAT8" => row.try_get(at).map(Value::Number),
            "TEXT" | "VARCHAR" | "NAME" | "CHAR" => row.try_get(at).map(Value::Text),
            "UUID" => row.try_get(at).map(|value: Uuid| Value::Uuid(value.to_string())),
            "TIMESTAMPTZ" => row.try_get(at).map(|Timestamp(micros)| Value::Timestamp(micros)),
            "JSON" | "JSONB" => {
                row.try_get(at).map(|Json(value): Json<Box<RawValue>>| Value::Json(value.get().to_owned()))
            }
            "BYTEA" => row.try_get(at).map(Value::Bytes),
            _ => return Err(StatementError::UnknownType(format!("{}: {name}", column.name()))),
        };
        value.map_err(|error| match no_timestamp(&error) {
            Some(why) => StatementError::Refused(OVERFLOW.to_owned(), format!("{}: {why}", column.name())),
            None => StatementError::UnknownType(format!("{}: {name}", column.name())),
        })
    };
    row.columns().iter().map(value).collect()
}
