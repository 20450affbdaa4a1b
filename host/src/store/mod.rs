//! PostgreSQL: migrate at start, write a batch in one transaction.

mod error;
mod prepare;
mod write;

use std::str::FromStr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub use error::{Error, Remedy};
pub use write::Committed;

use crate::config::Config;

/// How long a connection may take to be had.
const PATIENCE: Duration = Duration::from_secs(5);

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    address: String,
    /// Named in dead letters.
    stream: String,
    allow_plain_table: bool,
}

impl Store {
    /// Connects to nothing yet.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(config.postgres_url.reveal())
            .map_err(|_| Error::Url)? // its message may repeat the password
            .application_name("sluicegate");
        let address = format!(
            "{}:{}/{}",
            options.get_host(),
            options.get_port(),
            options.get_database().unwrap_or(options.get_username())
        );
        let connections = u32::try_from(config.commits_in_flight).unwrap_or(u32::MAX);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(PATIENCE)
            // A connection that broke while idle shows at the next statement,
            // which is idempotent and tried again: no round trip to find out before.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            address,
            stream: config.stream_name.clone(),
            allow_plain_table: config.allow_plain_table,
        })
    }

    /// Host, port and database, without the password.
    pub fn address(&self) -> &str {
        &self.address
    }
}
