//! The connections that the writers of all tenants share.
//!
//! So many tenants need no more connections than a few busy ones. Who wants one
//! waits in a line, and a tenant takes no more than its `COMMITS_IN_FLIGHT` at
//! the same time, so one that is slow holds up nobody for long.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{AssertSqlSafe, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{CONNECT_PATIENCE, Database, Error, STATEMENT_TIMEOUT_MS};

/// Lends connections, so many at a time and no more.
pub(super) struct Lending {
    /// Hands out in the order of asking.
    permits: Arc<Semaphore>,
    /// Those that nobody has, the one used last at the end.
    idle: Mutex<Vec<PgConnection>>,
}

/// A connection that is lent. Unless it is [given back](Self::give_back) it is
/// closed: after an error, a time-out or a cancelled write its state is in doubt.
pub(super) struct Loan {
    pub(super) connection: PgConnection,
    _permit: OwnedSemaphorePermit,
}

impl Lending {
    pub(super) fn new(connections: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(connections)), idle: Mutex::default() }
    }

    /// The right to have a connection, when its turn has come.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Closed)
    }

    fn take_idle(&self) -> Option<PgConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Database {
    /// A connection to write with.
    pub(super) async fn borrow(&self) -> Result<Loan, Error> {
        let permit = self.lending.permit().await?;
        if let Some(connection) = self.lending.take_idle() {
            return Ok(Loan { connection, _permit: permit });
        }
        let mut connection = self.connect().await?;
        let set = format!(
            "SET statement_timeout = {STATEMENT_TIMEOUT_MS}; \
             SET idle_in_transaction_session_timeout = {STATEMENT_TIMEOUT_MS}"
        );
        let set = async {
            sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut connection).await?;
            // Otherwise what is killed while its statement waits for a lock keeps its own until then.
            // A server on a system that cannot do this refuses, and then it is so.
            match sqlx::query("SET client_connection_check_interval = '1s'").execute(&mut connection).await {
                Ok(_) | Err(sqlx::Error::Database(_)) => Ok::<(), Error>(()),
                Err(error) => Err(error.into()),
            }
        };
        tokio::time::timeout(CONNECT_PATIENCE, set)
            .await
            .map_err(|_| Error::TimedOut { what: "connecting", after: CONNECT_PATIENCE })??;
        Ok(Loan { connection, _permit: permit })
    }

    /// After work on a connection that is in no transaction any more: gives it back, unless the work failed.
    pub(super) fn settle<T>(&self, loan: Loan, outcome: Result<T, Error>) -> Result<T, Error> {
        match outcome {
            Ok(done) => {
                loan.give_back(self);
                Ok(done)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// After an error. If it was the server or the network, the idle
    /// connections are as dead: whoever took one would only find that out.
    pub(super) fn failed(&self, error: Error) -> Error {
        if error.is_of_connection() {
            self.lending.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        error
    }
}

impl Loan {
    /// After a success: nothing is open on it.
    pub(super) fn give_back(self, database: &Database) {
        let Self { connection, _permit } = self;
        database.lending.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
