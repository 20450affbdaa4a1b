//! The server that all tenants read from, and the one connection that they share.
//!
//! Whoever blocks in XREADGROUP needs a connection of its own. For what is
//! answered at once, acknowledgements and levels, one does for all tenants.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};
use tokio::sync::Mutex;

use super::{Error, PATIENCE, Stream};
use crate::config::{Config, Tenant};

/// The server. Cheap to clone; connects to nothing by itself.
#[derive(Clone)]
pub struct Redis(Arc<Server>);

struct Server {
    client: redis::Client,
    shared: Mutex<Option<Shared>>,
}

/// The shared connection, as somebody has it for a moment.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) connection: MultiplexedConnection,
    /// Whether it was made before: it may have broken since it was used last.
    pub(super) was_there: bool,
    /// Tells it from those before and after it.
    mark: Arc<()>,
}

impl Redis {
    /// Reads the URL.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let client = redis::Client::open(config.redis_url()?)
            .map_err(|error| Error::Url(error.category().to_owned()))?;
        Ok(Self(Arc::new(Server { client, shared: Mutex::new(None) })))
    }

    /// What a tenant reads.
    pub fn stream(&self, config: &Config, tenant: &Tenant) -> Stream {
        Stream {
            redis: self.clone(),
            name: tenant.stream_name.clone(),
            group: tenant.consumer_group.clone(),
            consumer: config.consumer_name.clone(),
            publish: Arc::new(tenant.grants.publish.clone()),
        }
    }

    /// Host and port, without the password.
    pub fn address(&self) -> String {
        self.0.client.get_connection_info().addr().to_string()
    }

    pub(super) async fn connect(&self, response_timeout: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(response_timeout));
        let connected = self.0.client.get_multiplexed_async_connection_with_config(&config).await;
        connected.map_err(|source| self.error("connecting", source))
    }

    pub(super) async fn shared(&self) -> Result<Shared, Error> {
        let mut slot = self.0.shared.lock().await;
        if let Some(shared) = &*slot {
            return Ok(Shared { was_there: true, ..shared.clone() });
        }
        let connection = self.connect(PATIENCE).await?;
        Ok(slot.insert(Shared { connection, was_there: false, mark: Arc::new(()) }).clone())
    }

    /// After an error: the next to ask gets a new one, unless it was the
    /// command that was wrong, or somebody has made a new one already.
    pub(super) async fn failed(&self, shared: &Shared, error: Error) -> Error {
        if !error.is_of_command() {
            self.0.shared.lock().await.take_if(|other| Arc::ptr_eq(&other.mark, &shared.mark));
        }
        error
    }

    pub(super) fn error(&self, command: &'static str, source: RedisError) -> Error {
        Error::Command { address: self.address(), command, source }
    }
}
