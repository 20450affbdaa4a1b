//! Prepares private servers for the demo, or a corner of given ones that nobody else uses.

use std::str::FromStr as _;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use url::Url;

use super::Error;
use super::error::within;
use super::public::public;
use super::servers::Servers;
use super::signals::stop_servers;

/// Bounds how long a server may take to answer.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Holds servers, a database and a stream.
#[derive(Debug)]
pub(super) struct Workdir {
    servers: Servers,
    /// Names the database that the service uses.
    pub(super) postgres_url: String,
    pub(super) stream: String,
    /// Names the database that was made on a given PostgreSQL and must be dropped again.
    database: Option<String>,
}

impl Workdir {
    /// Makes a database on a given PostgreSQL. It must not be cancelled: PostgreSQL would go on.
    pub(super) async fn prepare(servers: Servers) -> Result<Self, Error> {
        let name = format!("sluicegate_demo_{}_{:08x}", std::process::id(), fastrand::u32(..));
        let stream = match servers.redis {
            Some(_) => sluicegate::config::Tenant::default().stream_name,
            None => name.clone(),
        };
        if servers.redis.is_none() {
            // The service would wait for Redis. The demo reports instead that it is away.
            connect_redis(&servers.redis_url).await?;
        }
        if servers.postgres.is_some() {
            let postgres_url = servers.postgres_url.clone();
            return Ok(Self { servers, postgres_url, stream, database: None });
        }
        let mut url = Url::parse(&servers.postgres_url).map_err(|_| Error::Url("POSTGRES_URL"))?;
        url.set_path(&name);
        statement("making a database for the demo", &servers.postgres_url, format!("CREATE DATABASE {name}"))
            .await?;
        Ok(Self { servers, postgres_url: url.into(), stream, database: Some(name) })
    }

    pub(super) fn redis_url(&self) -> &str {
        &self.servers.redis_url
    }

    /// Tells people where the servers are and what becomes of them.
    pub(super) fn description(&self) -> [(&'static str, String); 2] {
        let redis = match self.servers.redis {
            Some(_) => public(self.redis_url()),
            None => format!("REDIS_URL; stream {}, removed in the end", self.stream),
        };
        let postgres = match &self.database {
            None => public(&self.postgres_url),
            Some(name) => format!("POSTGRES_URL; database {name}, dropped in the end"),
        };
        [("redis", redis), ("postgres", postgres)]
    }

    /// Removes what was made, and stops what was started.
    pub(super) async fn clear(self) -> Result<(), Error> {
        let dropped = match &self.database {
            None => Ok(()),
            Some(name) => {
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                statement("dropping the database", &self.servers.postgres_url, drop).await
            }
        };
        let removed = match self.servers.redis {
            Some(_) => Ok(()),
            None => remove_stream(self.redis_url(), &self.stream).await,
        };
        stop_servers(self.servers).await;
        dropped.and(removed)
    }
}

async fn statement(what: &'static str, url: &str, statement: String) -> Result<(), Error> {
    let at = |source| Error::Postgres { what, source };
    within(what, STEP_TIMEOUT, async {
        let mut connection = connect(url).await?;
        // The statement contains only a name of the demo's own making.
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.map_err(at)?;
        Ok::<_, Error>(())
    })
    .await
}

async fn remove_stream(url: &str, stream: &str) -> Result<(), Error> {
    let what = "removing the stream";
    let mut connection = connect_redis(url).await?;
    let removed = redis::cmd("DEL").arg(stream).query_async(&mut connection).await;
    removed.map_err(|source| Error::Redis { what, source })
}

/// Opens a connection of the demo's own to PostgreSQL.
pub(super) async fn connect(url: &str) -> Result<PgConnection, Error> {
    // The error's message may repeat the password.
    let options = PgConnectOptions::from_str(url).map_err(|_| Error::Url("POSTGRES_URL"))?;
    let options = options.application_name("sluicegate demo").disable_statement_logging();
    let what = "connecting";
    within("connecting to postgres", STEP_TIMEOUT, async {
        options.connect().await.map_err(|source| Error::Postgres { what, source })
    })
    .await
}

/// Opens a connection of the demo's own to Redis.
pub(super) async fn connect_redis(url: &str) -> Result<MultiplexedConnection, Error> {
    let client = redis::Client::open(url).map_err(|_| Error::Url("REDIS_URL"))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(STEP_TIMEOUT))
        .set_response_timeout(Some(STEP_TIMEOUT));
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    connection.map_err(|source| Error::Redis { what: "connecting", source })
}
