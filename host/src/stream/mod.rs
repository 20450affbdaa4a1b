//! Speaks to Redis: the consumer group, reading, acknowledging, figures.
//!
//! - `reader`: reads new entries with XREADGROUP, and takes over pending ones with XCLAIM
//! - `attempts`: counts how often the process died with an entry in hand
//! - `acknowledger`: acknowledges with XACK what is committed
//! - `publish`: sends with XADD what rules have published
//! - `look`: finds what was trimmed before it was read, and who has what comes next
//! - `history`: reads what the stream still holds, and touches no group
//! - `group_stats`: asks how full the stream is
//! - `inspect`, `rights`: look at the server and change nothing, for `sluicegate doctor`
//! - `backlog`: asks what is left to do, for those who watch the service
//! - `server`: the server, and the connection that all tenants share
//! - `reply`: reads entries from the replies of Redis

mod acknowledger;
mod attempts;
mod backlog;
mod group_stats;
mod history;
mod inspect;
mod look;
mod publish;
mod reader;
mod reply;
mod rights;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

pub use acknowledger::{Acknowledger, Unacknowledged};
pub use attempts::Attempts;
pub use backlog::Backlog;
pub use group_stats::{GroupMonitor, GroupStats};
pub use history::History;
pub use inspect::{ConsumerLook, GroupLook, OldestPending, RedisLook, StreamFigures, StreamLook};
pub use reader::{Pending, Quiet, Read, Reader};
pub use rights::{Denied, Why};
pub use server::Redis;

use crate::config::{self, Tenant};
use crate::retry::Retryable;

/// How long connecting may take, and a reply beyond the time for which its command blocks.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest major version of Redis that reports the `lag` of a group.
const MIN_REDIS_MAJOR: u32 = 7;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings give no URL.
    #[error(transparent)]
    Settings(#[from] config::Error),
    /// The URL cannot be parsed. It may hold a password, so it is not repeated.
    #[error(
        "REDIS_URL does not read ({0}); wanted redis://[user:password@]host:port[/db], or rediss:// with TLS"
    )]
    Url(String),
    /// The TLS settings or their files cannot be used.
    #[error(
        "the settings REDIS_TLS_* cannot be used: {0}; wanted files in PEM form, a certificate with its key, and a URL rediss://…"
    )]
    Tls(String),
    #[error("redis at {address}: {command}: {source}{hint}")]
    Command {
        address: String,
        command: &'static str,
        source: RedisError,
        /// What may be wrong, if something suggests itself.
        hint: &'static str,
    },
    /// The server is older than what the service needs.
    #[error("redis at {address} has version {found}; wanted {MIN_REDIS_MAJOR}.0 or later")]
    TooOld {
        address: String,
        /// The version that the server reports.
        found: String,
    },
    /// A command was given up at the shutdown.
    #[error("redis: {command} had no reply by the shutdown")]
    Unanswered { command: &'static str },
    /// A reply has a form that the command does not have.
    #[error("redis: {command} replied {found}; wanted {wanted}")]
    Reply {
        command: &'static str,
        /// The form of the reply, without its content.
        found: String,
        wanted: &'static str,
    },
}

impl Retryable for Error {
    fn is_permanent(&self) -> bool {
        match self {
            Self::Settings(_) | Self::Url(_) | Self::Tls(_) | Self::TooOld { .. } => true,
            Self::Reply { .. } | Self::Unanswered { .. } => false,
            Self::Command { source, .. } => {
                matches!(source.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
                    || matches!(source.kind(), ErrorKind::Server(ServerErrorKind::NoPerm))
                    || ["NOPERM", "WRONGTYPE", "NOAUTH", "WRONGPASS"].iter().any(|code| self.says(code))
            }
        }
    }
}

impl Error {
    /// Returns whether the server answered, and would answer the same on another connection.
    fn is_of_command(&self) -> bool {
        match self {
            Self::Command { source, .. } => {
                // In a pipeline, redis-rs does not report a code that it does not know.
                (source.kind() == ErrorKind::Extension && source.code().is_none())
                    || matches!(source.code(), Some("ERR" | "WRONGTYPE" | "NOGROUP" | "BUSYGROUP" | "NOPERM"))
            }
            Self::Reply { .. } | Self::TooOld { .. } | Self::Settings(_) | Self::Url(_) | Self::Tls(_) => {
                true
            }
            Self::Unanswered { .. } => false,
        }
    }

    /// Returns whether the server said this code. In a pipeline, it may be in the text only.
    fn says(&self, code: &str) -> bool {
        match self {
            Self::Command { source, .. } => source.code() == Some(code) || source.to_string().contains(code),
            _ => false,
        }
    }

    /// Returns whether the server rejects the credentials, or denies their user the command.
    pub fn is_of_credentials(&self) -> bool {
        match self {
            Self::Command { source, .. } => {
                source.kind() == ErrorKind::AuthenticationFailed
                    || ["NOPERM", "NOAUTH", "WRONGPASS"].iter().any(|code| self.says(code))
            }
            _ => false,
        }
    }

    fn is_timeout(&self) -> bool {
        matches!(self, Self::Command { source, .. } if source.is_timeout())
    }
}

/// One consumer of one group of one stream. It is cheap to clone, and makes connections.
#[derive(Clone)]
pub struct Stream {
    redis: Redis,
    name: String,
    group: String,
    consumer: String,
    /// The streams that the guest may publish to, with the length to trim to; 0 for no trimming.
    publish: Arc<BTreeMap<String, u64>>,
}

impl Stream {
    /// Returns the server's host and port, without the password.
    pub fn address(&self) -> String {
        self.redis.address()
    }

    /// Connects, checks the server's version, and makes the group if it is missing. Returns whether
    /// it was missing.
    pub async fn prepare(&self) -> Result<bool, Error> {
        let mut shared = self.redis.shared().await?;
        match self.try_prepare(&mut shared.connection).await {
            Ok(is_made) => Ok(is_made),
            Err(error) => Err(self.redis.failed(&shared, error).await),
        }
    }

    async fn try_prepare(&self, connection: &mut MultiplexedConnection) -> Result<bool, Error> {
        // A server whose access rules deny INFO is taken as it is.
        if let Ok(Value::BulkString(info)) = redis::cmd("INFO").arg("server").query_async(connection).await
            && let Some(found) = version(&String::from_utf8_lossy(&info))
            && found
                .split('.')
                .next()
                .and_then(|major| major.parse().ok())
                .is_some_and(|major: u32| major < MIN_REDIS_MAJOR)
        {
            return Err(Error::TooOld { address: self.address(), found: found.to_owned() });
        }
        self.make_group(connection).await
    }

    pub fn reader(&self, tenant: &Tenant) -> Reader {
        Reader::new(self.clone(), tenant)
    }

    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger::new(self.clone())
    }

    pub fn attempts(&self) -> Attempts {
        Attempts::new(self.clone())
    }

    pub fn monitor(&self) -> GroupMonitor {
        GroupMonitor::new(self.clone())
    }

    async fn connect(&self, response_timeout: Duration) -> Result<MultiplexedConnection, Error> {
        self.redis.connect(response_timeout).await
    }

    /// Makes the group at 0, and the stream too, unless it exists. Returns whether it was made.
    async fn make_group(&self, connection: &mut MultiplexedConnection) -> Result<bool, Error> {
        // It looks first, because a server that is out of memory or denies XGROUP refuses to make
        // even a group that exists.
        if self.has_group(connection).await {
            return Ok(false);
        }
        let made: Result<Value, RedisError> = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.name)
            .arg(&self.group)
            .arg("0")
            .arg("MKSTREAM")
            .query_async(connection)
            .await;
        match made {
            Ok(_) => {
                tracing::info!(
                    stream = self.name,
                    group = self.group,
                    "consumer group created at 0; what is acknowledged stays in the stream until somebody trims it, as \
                     by XADD with MAXLEN"
                );
                Ok(true)
            }
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(false),
            Err(error) => Err(self.error("XGROUP CREATE", error)),
        }
    }

    /// Returns whether the group is known to exist.
    async fn has_group(&self, connection: &mut MultiplexedConnection) -> bool {
        let groups = redis::cmd("XINFO").arg("GROUPS").arg(&self.name).query_async(connection).await;
        groups.is_ok_and(|groups| group_stats::find_group(groups, &self.group).is_some())
    }

    /// Removes the consumer, which nobody needs after a clean stop, unless it has entries pending.
    pub async fn leave(&self) -> Result<(), Error> {
        let mut shared = self.redis.shared().await?;
        let mut command = script(include_str!("leave.lua"), &self.name);
        command.arg(&self.group).arg(&self.consumer);
        let left: Result<u64, RedisError> = command.query_async(&mut shared.connection).await;
        match left.map_err(|source| self.error("XGROUP DELCONSUMER", source)) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.redis.failed(&shared, error).await),
        }
    }

    fn error(&self, command: &'static str, source: RedisError) -> Error {
        self.redis.error(command, source)
    }
}

/// Returns a command that runs this script on this key. The script is sent in full: it is small,
/// and a server that was restarted knows no script by its digest.
fn script(text: &str, key: &str) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(1).arg(key);
    command
}

/// Returns the value of `redis_version` in the reply to INFO.
fn version(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_found() {
        assert_eq!(super::version("# Server\r\nredis_version:7.0.15\r\nos:Linux\r\n"), Some("7.0.15"));
    }
}
