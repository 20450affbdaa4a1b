//! The server that all tenants read from, and the one connection that they share.
//!
//! A reader that blocks in XREAD needs a connection of its own. Acknowledgements and figures are
//! answered at once, so one connection is enough for all tenants.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError,
    TlsCertificates,
};
use tokio::sync::Mutex;

use super::{Error, REPLY_TIMEOUT, Stream};
use crate::config::{Config, Tenant, UrlSource};

/// Stands in an error instead of the name of a command.
const CONNECTING: &str = "connecting";

/// The server. It is cheap to clone, and connects to nothing by itself.
#[derive(Clone)]
pub struct Redis(Arc<RedisInner>);

struct RedisInner {
    url: UrlSource,
    tls: Option<TlsCertificates>,
    silence: Duration,
    /// The client of the URL that was read last.
    client: parking_lot::Mutex<redis::Client>,
    shared: Mutex<Option<SharedConnection>>,
}

/// The shared connection, as one user holds it for a moment.
#[derive(Clone)]
pub(super) struct SharedConnection {
    pub(super) connection: MultiplexedConnection,
    /// Whether the connection was made before: it may have broken since it was used last.
    pub(super) was_there: bool,
    /// Tells this connection from those before and after it.
    mark: Arc<()>,
}

impl Redis {
    /// Reads the URL and the TLS files.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let (url, tls) = (config.redis_url(), tls(config)?);
        let silence = config.redis_silence.0;
        let client = parking_lot::Mutex::new(client(&url.read()?, tls.as_ref(), silence)?);
        Ok(Self(Arc::new(RedisInner { url, tls, silence, client, shared: Mutex::new(None) })))
    }

    /// Returns a client of the current URL, or of the last one while its file cannot be read.
    fn client(&self) -> redis::Client {
        let RedisInner { url, tls, silence, client: last, .. } = &*self.0;
        let mut last = last.lock();
        if url.is_file() {
            match url.read().map_err(Error::from).and_then(|url| client(&url, tls.as_ref(), *silence)) {
                Ok(client) => *last = client,
                Err(error) => {
                    tracing::warn!(%error, "the URL of redis was not read again; going on with the last one")
                }
            }
        }
        last.clone()
    }

    /// Returns the stream that a tenant reads.
    pub fn stream(&self, config: &Config, tenant: &Tenant) -> Stream {
        Stream {
            redis: self.clone(),
            name: tenant.stream_name.clone(),
            group: tenant.consumer_group.clone(),
            consumer: config.consumer_name.clone(),
            publish: Arc::new(tenant.grants.publish.clone()),
        }
    }

    /// Returns host and port, without the password.
    pub fn address(&self) -> String {
        let client = self.0.client.lock();
        client.get_connection_info().addr().to_string()
    }

    pub(super) async fn connect(&self, response_timeout: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REPLY_TIMEOUT))
            .set_response_timeout(Some(response_timeout));
        let connected = self.client().get_multiplexed_async_connection_with_config(&config).await;
        connected.map_err(|source| self.error(CONNECTING, source))
    }

    pub(super) async fn shared(&self) -> Result<SharedConnection, Error> {
        let mut slot = self.0.shared.lock().await;
        if let Some(shared) = &*slot {
            return Ok(SharedConnection { was_there: true, ..shared.clone() });
        }
        let connection = self.connect(REPLY_TIMEOUT).await?;
        Ok(slot.insert(SharedConnection { connection, was_there: false, mark: Arc::new(()) }).clone())
    }

    /// Drops the shared connection after an error, so that the next user gets a new one, unless
    /// only the command was wrong or somebody has made a new one already.
    pub(super) async fn failed(&self, shared: &SharedConnection, error: Error) -> Error {
        if !error.is_of_command() {
            self.0.shared.lock().await.take_if(|other| Arc::ptr_eq(&other.mark, &shared.mark));
        }
        error
    }

    pub(super) fn error(&self, command: &'static str, source: RedisError) -> Error {
        let hint = if command == CONNECTING { self.hint(&source) } else { "" };
        Error::Command { address: self.address(), command, source, hint }
    }

    /// Returns what a failure to connect suggests.
    fn hint(&self, source: &RedisError) -> &'static str {
        let client = self.0.client.lock();
        let is_tls = matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
        match is_tls {
            // A Redis without TLS takes the first bytes for a command, and waits for its end.
            true if source.is_timeout() || source.to_string().contains("InvalidContentType") => {
                "; does the server speak TLS at this port? If not, wanted redis://, not rediss://"
            }
            false if source.kind() == ErrorKind::Parse || source.is_connection_dropped() => {
                "; does the server want TLS at this port? Then wanted rediss://, not redis://"
            }
            _ => "",
        }
    }
}

/// Makes a client, which connects to nothing.
fn client(url: &str, tls: Option<&TlsCertificates>, silence: Duration) -> Result<redis::Client, Error> {
    let unreadable = |error: RedisError| Error::Url(error.category().to_owned());
    // Three probes are sent, the first when half of the time has passed.
    let keepalive = TcpKeepalive::new().with_time(silence / 2).with_interval(silence / 6).with_retries(3);
    let tcp = TcpSettings::default().set_keepalive(keepalive).set_user_timeout(silence);
    let info = url.into_connection_info().map_err(unreadable)?.set_tcp_settings(tcp);
    match (tls, info.addr()) {
        (None, _) => redis::Client::open(info).map_err(unreadable),
        (Some(tls), ConnectionAddr::TcpTls { .. }) => {
            redis::Client::build_with_tls(info, tls.clone()).map_err(|error| Error::Tls(error.to_string()))
        }
        (Some(_), _) => Err(Error::Tls("REDIS_URL does not begin with rediss://".to_owned())),
    }
}

/// Reads the TLS files. Returns `None` when no TLS setting is set.
fn tls(config: &Config) -> Result<Option<TlsCertificates>, Error> {
    let read = |file: &Option<PathBuf>| {
        let read = |file: &PathBuf| {
            std::fs::read(file).map_err(|error| Error::Tls(format!("{}: {error}", file.display())))
        };
        file.as_ref().map(read).transpose()
    };
    let root_cert = read(&config.redis_tls_ca_file)?;
    let client_tls = match (read(&config.redis_tls_cert_file)?, read(&config.redis_tls_key_file)?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => {
            let message = "only one of REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE is set";
            return Err(Error::Tls(message.to_owned()));
        }
    };
    let is_set = root_cert.is_some() || client_tls.is_some();
    Ok(is_set.then_some(TlsCertificates { client_tls, root_cert }))
}
