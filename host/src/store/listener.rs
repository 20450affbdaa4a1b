//! Hears of deployments by LISTEN, over a connection of its own.

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::deployments::CHANNEL;
use super::{CONNECT_TIMEOUT, Database, Error};

/// Waits for word of a deployment. It must be replaced after an error.
pub struct Listener(PgListener);

impl Database {
    /// Listens for deployments from now on.
    pub async fn listen(&self) -> Result<Listener, Error> {
        let listen = async {
            // A listener wants a pool, of which it takes one connection.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(CONNECT_TIMEOUT)
                .connect_lazy_with(self.options());
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            Ok(Listener(listener))
        };
        let timed_out = |_| Error::TimedOut { what: "connecting", after: CONNECT_TIMEOUT };
        tokio::time::timeout(CONNECT_TIMEOUT, listen).await.map_err(timed_out)?
    }
}

impl Listener {
    /// Waits until there is word of a deployment.
    pub async fn heard(&mut self) -> Result<(), Error> {
        match self.0.try_recv().await? {
            Some(_) => Ok(()),
            None => Err(Error::SessionLost),
        }
    }
}
