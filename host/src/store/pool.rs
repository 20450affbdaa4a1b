//! The connections that the writers of all tenants share.
//!
//! Many tenants need no more connections than a few busy ones. Writers wait for one in a line.
//! Where there are several tenants, none has more than half of the connections, so that a tenant
//! whose table is locked leaves some to the others. Guests that use a transaction while they judge
//! can hold a connection for as long as their limits allow, so all of them together get half.
//! Batches of which the rules made much more than they brought are written one after the other:
//! however many connections there are, PostgreSQL has only so many processors.

use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{CONNECT_TIMEOUT, Database, Error, STATEMENT_TIMEOUT_MS, Store};

/// The number of connections that write a [`Purpose::Heavy`] at the same time.
const HEAVY_CONNECTIONS: usize = 1;

/// A limited number of connections.
pub(super) struct Pool {
    /// Permits for all connections, given in the order of asking.
    permits: Arc<Semaphore>,
    /// Permits for those that guests may hold, in the same order.
    guest_permits: Arc<Semaphore>,
    /// Permits for those that write a [`Purpose::Heavy`], in the same order.
    heavy_permits: Arc<Semaphore>,
    /// The connections that nobody holds, the one used last at the end.
    idle: Mutex<Vec<PgConnection>>,
}

/// A connection of the pool. Unless it is [released](Self::release) it is closed, because after an
/// error, a time-out or a cancelled write its state is in doubt.
pub(super) struct PooledConnection {
    pub(super) connection: PgConnection,
    _permits: Permits,
    /// A permit of the tenant's share, if the connection is for a tenant.
    _tenant_permit: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// Writes a batch, or looks something up.
    Plain,
    /// Writes a batch of which the rules made much more than it brought.
    Heavy,
    /// Runs a transaction that a guest uses while it judges.
    Guest,
}

/// The right to have a connection.
pub(super) struct Permits {
    _any: OwnedSemaphorePermit,
    _of_purpose: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            guest_permits: Arc::new(Semaphore::new(connections.div_ceil(2))),
            heavy_permits: Arc::new(Semaphore::new(HEAVY_CONNECTIONS)),
            idle: Mutex::default(),
        }
    }

    pub(super) async fn permits(&self, purpose: Purpose) -> Result<Permits, Error> {
        let take = async |permits: &Arc<Semaphore>| {
            Arc::clone(permits).acquire_owned().await.map_err(|_| Error::Closed)
        };
        // In this order, a wait for others of the same purpose takes no place in the main line.
        let of_purpose = match purpose {
            Purpose::Plain => None,
            Purpose::Heavy => Some(take(&self.heavy_permits).await?),
            Purpose::Guest => Some(take(&self.guest_permits).await?),
        };
        Ok(Permits { _any: take(&self.permits).await?, _of_purpose: of_purpose })
    }

    fn take_idle(&self) -> Option<PgConnection> {
        self.idle.lock().pop()
    }
}

impl Database {
    /// Returns a connection to write with.
    pub(super) async fn acquire(&self, purpose: Purpose) -> Result<PooledConnection, Error> {
        let permits = self.pool.permits(purpose).await?;
        if let Some(connection) = self.pool.take_idle() {
            return Ok(PooledConnection { connection, _permits: permits, _tenant_permit: None });
        }
        let mut connection = self.connect().await?;
        // These settings hold whatever the role or the database sets otherwise: a commit that the
        // server can forget must not be acknowledged, and each statement must see what others have
        // committed before it.
        let set = format!(
            "SET statement_timeout = {STATEMENT_TIMEOUT_MS}; \
             SET idle_in_transaction_session_timeout = {STATEMENT_TIMEOUT_MS}; \
             SET lock_timeout = 0; \
             SET default_transaction_isolation = 'read committed'; \
             SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'; \
             SELECT set_config(name, 'on', false) FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'"
        );
        let set = async {
            sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut connection).await?;
            // Without this setting, a process killed while its statement waits for a lock keeps its
            // own locks until then. A server on a system that cannot do this refuses it, which is
            // accepted.
            match sqlx::query("SET client_connection_check_interval = '1s'").execute(&mut connection).await {
                Ok(_) | Err(sqlx::Error::Database(_)) => Ok::<(), Error>(()),
                Err(error) => Err(error.into()),
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, set)
            .await
            .map_err(|_| Error::TimedOut { what: "connecting", after: CONNECT_TIMEOUT })??;
        Ok(PooledConnection { connection, _permits: permits, _tenant_permit: None })
    }

    /// Gives back a connection that is in no transaction any more, unless the work has failed.
    pub(super) fn finish<T>(&self, pooled: PooledConnection, outcome: Result<T, Error>) -> Result<T, Error> {
        match outcome {
            Ok(done) => {
                pooled.release(self);
                Ok(done)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// After an error of the server or the network, closes the idle connections, which are as dead:
    /// whoever took one would only find that out.
    pub(super) fn failed(&self, error: Error) -> Error {
        if error.is_of_connection() {
            self.pool.idle.lock().clear();
        }
        error
    }
}

/// Says of which type the errors of this work are.
pub(super) fn failing<T>(
    work: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    work
}

/// Does this on a connection of the pool, within the time that the database may take.
macro_rules! on_connection {
    ($database:expr, $what:literal, |$connection:ident| $work:block) => {{
        let mut pooled = $database.acquire($crate::store::pool::Purpose::Plain).await?;
        let work = $crate::store::pool::failing(async {
            let $connection = &mut pooled.connection;
            $work
        });
        let done = $crate::store::within_timeout($what, work).await;
        $database.finish(pooled, done)
    }};
}
pub(super) use on_connection;

impl Store {
    /// Returns a connection of the tenant's share. Waiting for the share takes no place in the main
    /// line.
    pub(super) async fn acquire(&self, purpose: Purpose) -> Result<PooledConnection, Error> {
        let tenant_permits =
            Arc::clone(&self.tenant_permits).acquire_owned().await.map_err(|_| Error::Closed)?;
        let pooled = self.database.acquire(purpose).await?;
        Ok(PooledConnection { _tenant_permit: Some(tenant_permits), ..pooled })
    }
}

impl PooledConnection {
    /// Gives the connection back after a success, when nothing is open on it.
    pub(super) fn release(self, database: &Database) {
        let Self { connection, _permits, _tenant_permit } = self;
        database.pool.idle.lock().push(connection);
    }
}
