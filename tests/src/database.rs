//! Provides a database of the test's own, and reads what stands in it.

use std::str::FromStr as _;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use sluicegate::batch::Digest;
use sluicegate_demo::ledger::{self, Audit};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Decode, PgConnection, PgPool, Postgres, Row as _,
    Type,
};

use crate::events::{Event, Fields};
use crate::guests::DEFAULT;
use crate::wait::{block_on, until};

/// Owns a database. It is made empty, and dropped, by force, when the value is.
pub struct Database {
    server: PgConnectOptions,
    name: String,
    pool: PgPool,
}

/// Holds one row of the table `dead_letters`.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    pub stream: String,
    /// Holds the ID as Redis writes it.
    pub entry_id: String,
    pub reason: String,
    /// Holds a JSON array.
    pub violations: Value,
    /// Holds the fields as they came.
    pub fields: Option<Fields>,
    /// Holds the digest of the component that was in force.
    pub component: Vec<u8>,
}

impl Letter {
    /// Returns the violations' codes, in order.
    pub fn codes(&self) -> Vec<&str> {
        let violations = self.violations.as_array().expect("an array of violations");
        violations.iter().map(|violation| violation["code"].as_str().expect("a code")).collect()
    }
}

impl Database {
    pub(crate) fn create(server_url: &str, name: &str) -> Self {
        let server = PgConnectOptions::from_str(server_url).expect("POSTGRES_URL reads");
        // Nobody can be connected to template0, but TimescaleDB's workers may be to template1.
        until("a database of the test's own", || {
            run(&server, &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"))
                .map_err(|error| error.to_string())
        });
        // This is asynchronous only in name: the pool starts a task.
        let pool = block_on(async {
            PgPoolOptions::new()
                .max_connections(2)
                .acquire_timeout(Duration::from_secs(10))
                .connect_lazy_with(server.clone().database(name))
        });
        Self { server, name: name.to_owned(), pool }
    }

    /// Returns the URL for the service.
    pub fn url(&self) -> String {
        self.server.clone().database(&self.name).to_url_lossy().to_string()
    }

    /// Returns the URL for the service, in another role.
    pub fn url_of_role(&self, role: &str, password: &str) -> String {
        self.server.clone().database(&self.name).username(role).password(password).to_url_lossy().to_string()
    }

    /// Opens a connection of the test's own.
    pub fn connect(&self) -> PgConnection {
        let options = self.server.clone().database(&self.name);
        until("a connection to the database", || {
            block_on(PgConnection::connect_with(&options)).map_err(|error| error.to_string())
        })
    }

    pub fn execute(&self, sql: &str) {
        let done = block_on(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool));
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin,
    {
        self.try_value(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Returns one value, or why there is none: the table may not be there, or the server be away.
    pub fn try_value<T>(&self, sql: &str) -> Result<T, String>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin,
    {
        block_on(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool))
            .map_err(|error| error.to_string())
    }

    /// Returns all rows of `events`, in the order of their IDs.
    pub fn events(&self) -> Vec<Event> {
        let sql = "SELECT event_id, time, event_type, user_id, properties::text FROM events ORDER BY event_id, time";
        self.rows(sql, |row| Event {
            event_id: row.get(0),
            time: row.get(1),
            event_type: row.get(2),
            user_id: row.get(3),
            properties: row.get::<Option<String>, _>(4).map(|text| json(&text)),
        })
    }

    /// Returns all rows of `dead_letters`, in the order of their making.
    pub fn letters(&self) -> Vec<Letter> {
        let sql = "SELECT stream, entry_id, reason, violations::text, fields, component FROM dead_letters ORDER BY id";
        self.rows(sql, |row| Letter {
            stream: row.get(0),
            entry_id: row.get(1),
            reason: row.get(2),
            violations: json(row.get(3)),
            fields: row.get::<Option<Vec<Vec<u8>>>, _>(4).map(pairs),
            component: row.get(5),
        })
    }

    /// Hands all events and a stream's letters to the audit. `versions` pass for the default rules.
    pub fn audit(&self, audit: &mut Audit<'_>, stream: &str, versions: &[Digest]) {
        let rows =
            self.rows("SELECT event_id, time, event_type, user_id, properties::text FROM events", |row| {
                sluicegate_verdicts::Event {
                    event_id: row.get(0),
                    time: row.get(1),
                    event_type: row.get(2),
                    user_id: row.get(3),
                    properties: row.get(4),
                }
            });
        rows.iter().for_each(|row| audit.row(row));
        for letter in self.letters().into_iter().filter(|letter| letter.stream == stream) {
            let violation = |violation: &Value| {
                let text = |name: &str| violation[name].as_str().unwrap_or_default().to_owned();
                (text("path"), text("code"))
            };
            let violations = letter.violations.as_array().expect("an array").iter().map(violation).collect();
            let is_known = versions.iter().any(|version| version.as_bytes() == letter.component);
            let component =
                if is_known { Digest::new(DEFAULT).as_bytes().to_vec() } else { letter.component };
            let fields = letter.fields.map(|fields| fields.into_iter().flat_map(<[_; 2]>::from).collect());
            audit.letter(&ledger::Letter {
                entry: letter.entry_id,
                reason: letter.reason,
                violations,
                fields,
                component,
            });
        }
    }

    fn rows<T>(&self, sql: &'static str, read: impl Fn(PgRow) -> T) -> Vec<T> {
        let rows = block_on(sqlx::query(sql).fetch_all(&self.pool));
        rows.unwrap_or_else(|error| panic!("{sql}: {error}")).into_iter().map(read).collect()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("jsonb holds JSON")
}

fn pairs(flat: Vec<Vec<u8>>) -> Fields {
    assert!(flat.len().is_multiple_of(2), "names and values by turns: {flat:?}");
    flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

/// Runs one statement on the server itself.
fn run(server: &PgConnectOptions, sql: &str) -> Result<(), sqlx::Error> {
    block_on(async {
        let mut connection = PgConnection::connect_with(server).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
        connection.close().await
    })
}

impl Drop for Database {
    fn drop(&mut self) {
        block_on(self.pool.close());
        // This is tried more than once, because a worker of TimescaleDB's may come in between.
        for _ in 0..5 {
            match run(&self.server, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)) {
                Err(sqlx::Error::Database(_)) => sleep(Duration::from_millis(100)),
                Ok(()) | Err(_) => return,
            }
        }
    }
}
