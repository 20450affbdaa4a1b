//! Asks one thing after the other, each within a transaction that may only read and ends by a rollback: behind a pooler,
//! nothing of it stays in a session that others get next.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::timeout;

use super::queries::{BEGIN, HYPERTABLE, MIGRATED, TABLE};
use super::{Migrations, RefusedStatement, TableLook, TenantTable, compare};
use crate::capabilities::Value;
use crate::config::{Statement, Tenant};
use crate::store::session::bound;
use crate::store::{Error, columns, table};

/// How long an answer may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// Nothing more is asked after this, however many tenants there are.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection, and the looks that have failed.
pub(super) struct Asker {
    connection: PgConnection,
    pub(super) failed: Vec<(&'static str, String)>,
    /// Whether the connection gives no more answers.
    pub(super) is_broken: bool,
    begun: Instant,
}

/// What a look hands over besides its statement.
pub(super) trait Parameters {
    fn bind(self, sql: String) -> Query;
}

pub(super) type Query = sqlx::query::QueryScalar<
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
    pub(super) fn new(connection: PgConnection) -> Self {
        Self { connection, failed: Vec::new(), is_broken: false, begun: Instant::now() }
    }

    /// Returns the one value of this statement, or `None` if there is none or the look has failed.
    pub(super) async fn look<T: DeserializeOwned>(
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
        if self.begun.elapsed() > LOOK_TIMEOUT {
            self.is_broken = true;
            self.failed.push((what, format!("the looks before it took {LOOK_TIMEOUT:?}")));
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

    pub(super) async fn process(&mut self, sql: &'static str) -> Result<i32, Error> {
        Ok(sqlx::query_scalar(sql).persistent(false).fetch_one(&mut self.connection).await?)
    }

    /// Asks what was migrated, unless the role may not see it.
    pub(super) async fn migrations(&mut self, table: Option<&TableLook>) -> Option<Migrations> {
        let done: Vec<(i64, bool, String)> = match table {
            Some(table) if !table.denied.is_empty() => return None,
            Some(_) => self.look("the migrations", MIGRATED, ()).await?,
            None if self.failed.is_empty() => Vec::new(),
            None => return None,
        };
        Some(compare(&done))
    }

    pub(super) async fn table(&mut self, name: &str, rights: &[&'static str]) -> Option<TableLook> {
        self.look("a table", TABLE, (name.to_owned(), rights.to_vec(), columns::name_array())).await
    }

    pub(super) async fn tenant_table(&mut self, tenant: &Tenant, has_extension: bool) -> TenantTable {
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
        // Before the first start, what they refer to may be missing too.
        let refused_statements = match look {
            Some(_) => self.statements(tenant).await,
            None => Vec::new(),
        };
        TenantTable {
            tenant: tenant.name.clone(),
            table: name,
            look,
            other_form: form.filter(|found| *found != wanted),
            wanted_form: wanted,
            hypertable,
            refused_statements,
        }
    }

    /// Plans the tenant's granted statements, which shows what is wrong with them and runs none.
    pub(super) async fn statements(&mut self, tenant: &Tenant) -> Vec<RefusedStatement> {
        let mut refused = Vec::new();
        for (name, statement) in &tenant.statements {
            let sql = format!("EXPLAIN {}", statement.sql);
            let explained = Statement { sql, ..statement.clone() };
            let nulls = vec![Value::Null; statement.parameters.len()];
            let Ok(query) = bound(&explained, nulls) else { continue };
            let planned = self.within("a granted statement", async |connection| {
                Ok(query.persistent(false).execute(connection).await.err())
            });
            if let Some(Some(sqlx::Error::Database(error))) = planned.await {
                refused.push(RefusedStatement {
                    name: name.clone(),
                    why: why(error.code().as_deref(), error.message()),
                });
            }
        }
        refused
    }
}

/// Returns what PostgreSQL says of a statement, unless it may repeat a value of it: a statement can hold a secret.
fn why(code: Option<&str>, message: &str) -> String {
    match code {
        Some(code @ ("42P01" | "42703" | "42501" | "42883" | "42P18" | "3F000")) => {
            format!("{message} (SQLSTATE {code})")
        }
        code => format!("SQLSTATE {}", code.unwrap_or("unknown")),
    }
}
