//! The connections that the writers of all tenants share.
//!
//! So many tenants need no more connections than a few busy ones. Who wants one
//! waits in a line, and a tenant takes no more than its `COMMITS_IN_FLIGHT` at
//! the same time, so one that is slow holds up nobody for long. Guests that use
//! a transaction while they judge can hold one for as long as their limits
//! allow: so all of them together get half of the connections.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{AssertSqlSafe, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{CONNECT_PATIENCE, Database, Error, STATEMENT_TIMEOUT_MS};

/// Lends connections, so many at a time and no more.
pub(super) struct Lending {
    /// Hands out in the order of asking.
    permits: Arc<Semaphore>,
    /// Which of them guests may hold; the same.
    guest_permits: Arc<Semaphore>,
    /// Those that nobody has, the one used last at the end.
    idle: Mutex<Vec<PgConnection>>,
}

/// A connection that is lent. Unless it is [given back](Self::give_back) it is
/// closed: after an error, a time-out or a cancelled write its state is in doubt.
pub(super) struct Loan {
    pub(super) connection: PgConnection,
    _permits: Permits,
}

/// The right to have a connection.
pub(super) struct Permits {
    _any: OwnedSemaphorePermit,
    _guest: Option<OwnedSemaphorePermit>,
}

impl Lending {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            guest_permits: Arc::new(Semaphore::new(connections.div_ceil(2))),
            idle: Mutex::default(),
        }
    }

    pub(super) async fn permits(&self, of_guest: bool) -> Result<Permits, Error> {
        let take = async |permits: &Arc<Semaphore>| {
            Arc::clone(permits).acquire_owned().await.map_err(|_| Error::Closed)
        };
        // In this order: a guest waits for other guests without a place in the line of all.
        let guest = if of_guest { Some(take(&self.guest_permits).await?) } else { None };
        Ok(Permits { _any: take(&self.permits).await?, _guest: guest })
    }

    fn take_idle(&self) -> Option<PgConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Database {
    /// A connection to write with.
    pub(super) async fn borrow(&self) -> Result<Loan, Error> {
        self.borrow_with(self.lending.permits(false).await?).await
    }

    /// The same for a transaction that a guest uses.
    pub(super) async fn borrow_for_guest(&self) -> Result<Loan, Error> {
        self.borrow_with(self.lending.permits(true).await?).await
    }

    async fn borrow_with(&self, permits: Permits) -> Result<Loan, Error> {
        if let Some(connection) = self.lending.take_idle() {
            return Ok(Loan { connection, _permits: permits });
        }
        let mut connection = self.connect().await?;
        let set = format!(
            "SET statement_timeout = {STATEMENT_TIMEOUT_MS}; \
             SET idle_in_transaction_session_timeout = {STATEMENT_TIMEOUT_MS}"
        );
        let set = sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut connection);
        tokio::time::timeout(CONNECT_PATIENCE, set)
            .await
            .map_err(|_| Error::TimedOut { what: "connecting", after: CONNECT_PATIENCE })??;
        Ok(Loan { connection, _permits: permits })
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
        let Self { connection, _permits } = self;
        database.lending.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
