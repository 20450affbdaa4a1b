//! Redis: the consumer group, reading, acknowledging, lag.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio_util::sync::CancellationToken;

use crate::batch::{Entry, EntryId, Field};
use crate::config::Config;
use crate::store::Committed;

/// How long a connection may take to be established, and a reply to come
/// beyond the time for which the command blocks.
const PATIENCE: Duration = Duration::from_secs(5);
/// The oldest Redis with the `lag` of a group.
const REDIS_MAJOR_MIN: u32 = 7;

/// What goes wrong with Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL does not read. It may hold a password, so it is not repeated.
    #[error(
        "REDIS_URL does not read ({0}); wanted redis://[user:password@]host:port[/db], or rediss:// with TLS"
    )]
    Url(String),
    /// A command failed, or the connection did.
    #[error("redis at {address}: {command}: {source}")]
    Command {
        /// Host and port.
        address: String,
        /// The command's name.
        command: &'static str,
        /// What redis-rs says.
        source: RedisError,
    },
    /// The server is older than what the service needs.
    #[error("redis at {address} has version {found}; wanted {REDIS_MAJOR_MIN}.0 or later")]
    TooOld {
        /// Host and port.
        address: String,
        /// As the server says it.
        found: String,
    },
    /// A reply of a form that the command does not have.
    #[error("redis: {command} replied {found}; wanted {wanted}")]
    Reply {
        /// The command's name.
        command: &'static str,
        /// The beginning of the reply.
        found: String,
        /// The form that was expected.
        wanted: &'static str,
    },
}

impl Error {
    /// Whether trying again cannot help: somebody must change something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Url(_) | Self::TooOld { .. } => true,
            Self::Reply { .. } => false,
            Self::Command { source, .. } => {
                matches!(source.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
                    || matches!(source.kind(), ErrorKind::Server(ServerErrorKind::NoPerm))
                    || matches!(source.code(), Some("WRONGTYPE" | "NOAUTH" | "WRONGPASS"))
            }
        }
    }

    fn has_code(&self, wanted: &str) -> bool {
        matches!(self, Self::Command { source, .. } if source.code() == Some(wanted))
    }
}

/// One consumer of one group of one stream. Cheap to clone; makes connections.
#[derive(Clone)]
pub struct Stream {
    client: redis::Client,
    name: String,
    group: String,
    consumer: String,
}

/// How full the stream is, seen from the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Entries in the stream.
    pub length: u64,
    /// Entries delivered to the group and not acknowledged yet.
    pub pending: u64,
    /// Entries not delivered to the group yet. Redis does not always know:
    /// after some deletions this is `None`, which is not 0.
    pub lag: Option<u64>,
}

impl Stream {
    /// Connects to nothing yet.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let client = redis::Client::open(config.redis_url.reveal())
            .map_err(|error| Error::Url(error.category().to_owned()))?;
        Ok(Self {
            client,
            name: config.stream_name.clone(),
            group: config.consumer_group.clone(),
            consumer: config.consumer_name.clone(),
        })
    }

    /// Host and port, without the password.
    pub fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Connects, checks the server's version and makes the group if it is missing.
    pub async fn prepare(&self) -> Result<(), Error> {
        let mut connection = self.connect(PATIENCE).await?;
        // A server that keeps INFO from us by its access rules is taken as it is.
        if let Ok(Value::BulkString(info)) =
            redis::cmd("INFO").arg("server").query_async(&mut connection).await
            && let Some(found) = version(&String::from_utf8_lossy(&info))
            && found
                .split('.')
                .next()
                .and_then(|major| major.parse().ok())
                .is_some_and(|major: u32| major < REDIS_MAJOR_MIN)
        {
            return Err(Error::TooOld { address: self.address(), found: found.to_owned() });
        }
        self.make_group(&mut connection).await
    }

    /// The reading side. Begins with what an earlier run left pending.
    pub fn reader(&self, config: &Config) -> Reader {
        Reader {
            stream: self.clone(),
            batch_size: config.batch_size,
            block: Duration::from_millis(config.block_ms),
            connection: None,
            position: Position::Pending(EntryId::ZERO),
        }
    }

    /// The acknowledging side, on a connection of its own.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { stream: self.clone(), connection: None }
    }

    /// Watches the group's levels, on a connection of its own.
    pub fn gauge(&self) -> Gauge {
        Gauge { stream: self.clone(), connection: None }
    }

    async fn connect(&self, response_timeout: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(response_timeout));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|source| self.error("connecting", source))
    }

    /// Makes the group at the stream's beginning, and the stream with it.
    async fn make_group(&self, connection: &mut MultiplexedConnection) -> Result<(), Error> {
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
                tracing::info!(stream = self.name, group = self.group, "consumer group created at 0");
                Ok(())
            }
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            Err(error) => Err(self.error("XGROUP CREATE", error)),
        }
    }

    fn error(&self, command: &'static str, source: RedisError) -> Error {
        Error::Command { address: self.address(), command, source }
    }
}

/// Where in the stream the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Among the entries that were delivered to this consumer before, after this one.
    Pending(EntryId),
    /// At the entries that nobody has been given.
    New,
}

/// Reads batches by XREADGROUP, on a connection of its own because it blocks.
pub struct Reader {
    stream: Stream,
    batch_size: usize,
    block: Duration,
    connection: Option<ReadConnection>,
    position: Position,
}

struct ReadConnection {
    connection: MultiplexedConnection,
    /// For CLIENT UNBLOCK.
    client_id: i64,
}

/// What one XREADGROUP gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// In the order of the stream.
    pub entries: Vec<Entry>,
    /// Whether they had been delivered before, to an earlier run or over a
    /// connection that broke.
    pub redelivered: bool,
}

impl Reader {
    /// The next entries, at most a batch; none when none came in time or
    /// `shutdown` was called meanwhile.
    ///
    /// After an error the reader begins again with the pending entries, since
    /// the server may have delivered a batch that never arrived. The caller
    /// must see to it that nothing read before is still in flight by then:
    /// it would be read twice.
    pub async fn read(&mut self, shutdown: &CancellationToken) -> Result<Read, Error> {
        let read = self.try_read(shutdown).await;
        if read.is_err() {
            self.connection = None;
            self.position = Position::Pending(EntryId::ZERO);
        }
        read
    }

    async fn try_read(&mut self, shutdown: &CancellationToken) -> Result<Read, Error> {
        if let Position::Pending(after) = self.position {
            let entries = self.xreadgroup(&after.to_string(), shutdown).await?;
            if let Some(last) = entries.last() {
                self.position = Position::Pending(last.id);
                return Ok(Read { entries, redelivered: true });
            }
            self.position = Position::New;
        }
        let entries = self.xreadgroup(">", shutdown).await?;
        Ok(Read { entries, redelivered: false })
    }

    async fn xreadgroup(&mut self, from: &str, shutdown: &CancellationToken) -> Result<Vec<Entry>, Error> {
        let stream = &self.stream;
        let ReadConnection { connection, client_id } = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(stream.connect_for_reading(self.block).await?),
        };
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&stream.group).arg(&stream.consumer).arg("COUNT").arg(self.batch_size);
        if from == ">" {
            command.arg("BLOCK").arg(millis(self.block));
        }
        command.arg("STREAMS").arg(&stream.name).arg(from);

        let mut reply = std::pin::pin!(command.query_async::<Value>(connection));
        let reply = tokio::select! {
            reply = &mut reply => reply,
            () = shutdown.cancelled() => stream.unblock(*client_id, reply).await,
        };
        match reply.map_err(|source| stream.error("XREADGROUP", source)) {
            Ok(reply) => entries(reply),
            // The stream or the group was deleted. A new group at 0 delivers
            // again what is left; the rows' keys absorb what was stored before.
            Err(error) if error.has_code("NOGROUP") => {
                tracing::warn!(stream = stream.name, group = stream.group, "the consumer group is gone");
                let mut connection = stream.connect(PATIENCE).await?;
                stream.make_group(&mut connection).await?;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }
}

impl Stream {
    async fn connect_for_reading(&self, block: Duration) -> Result<ReadConnection, Error> {
        let mut connection = self.connect(block + PATIENCE).await?;
        let client_id = redis::cmd("CLIENT")
            .arg("ID")
            .query_async(&mut connection)
            .await
            .map_err(|source| self.error("CLIENT ID", source))?;
        Ok(ReadConnection { connection, client_id })
    }

    /// Ends a blocked XREADGROUP and gives its reply, entries included.
    ///
    /// Dropping the request instead could leave entries pending that the
    /// server delivered at that very moment. They would not be lost, but they
    /// would wait for the next start. Does not wait longer than a second.
    async fn unblock(
        &self,
        client_id: i64,
        mut reply: impl Future<Output = Result<Value, RedisError>> + Unpin,
    ) -> Result<Value, RedisError> {
        let unblock = async {
            let Ok(mut connection) = self.connect(PATIENCE).await else { return };
            loop {
                // Repeated, because it does nothing while the request is still on its way.
                let _: Result<i64, RedisError> =
                    redis::cmd("CLIENT").arg("UNBLOCK").arg(client_id).query_async(&mut connection).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reply = async {
            tokio::select! {
                reply = &mut reply => reply,
                () = async { unblock.await; std::future::pending().await } => Ok(Value::Nil),
            }
        };
        tokio::time::timeout(Duration::from_secs(1), reply).await.unwrap_or(Ok(Value::Nil))
    }
}

/// Sends XACK, for committed entries only.
pub struct Acknowledger {
    stream: Stream,
    connection: Option<MultiplexedConnection>,
}

impl Acknowledger {
    /// Acknowledges all entries of these batches. After an error none, some or
    /// all may be acknowledged: call again with the same.
    pub async fn acknowledge(&mut self, batches: &[Committed]) -> Result<(), Error> {
        let acknowledged = self.try_acknowledge(batches).await;
        if acknowledged.is_err() {
            self.connection = None;
        }
        acknowledged
    }

    async fn try_acknowledge(&mut self, batches: &[Committed]) -> Result<(), Error> {
        let stream = &self.stream;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(stream.connect(PATIENCE).await?),
        };
        let mut pipeline = redis::pipe();
        for batch in batches {
            let command = pipeline.cmd("XACK").arg(&stream.name).arg(&stream.group);
            for id in batch.ids() {
                command.arg(id.to_string());
            }
        }
        let counts: Vec<u64> =
            pipeline.query_async(connection).await.map_err(|source| stream.error("XACK", source))?;
        let expected: usize = batches.iter().map(|batch| batch.ids().len()).sum();
        tracing::debug!(expected, acknowledged = counts.iter().sum::<u64>(), "acknowledged");
        Ok(())
    }
}

/// Asks for the group's levels.
pub struct Gauge {
    stream: Stream,
    connection: Option<MultiplexedConnection>,
}

impl Gauge {
    /// The levels at this moment.
    pub async fn levels(&mut self) -> Result<Levels, Error> {
        let levels = self.try_levels().await;
        if levels.is_err() {
            self.connection = None;
        }
        levels
    }

    async fn try_levels(&mut self) -> Result<Levels, Error> {
        let stream = &self.stream;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(stream.connect(PATIENCE).await?),
        };
        let (length, groups): (u64, Value) = redis::pipe()
            .cmd("XLEN")
            .arg(&stream.name)
            .cmd("XINFO")
            .arg("GROUPS")
            .arg(&stream.name)
            .query_async(connection)
            .await
            .map_err(|source| stream.error("XINFO GROUPS", source))?;
        Ok(group_levels(groups, &stream.group).map(|levels| Levels { length, ..levels }).unwrap_or_default())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The value of `redis_version` in the reply to INFO.
fn version(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::trim)
}

fn unexpected(command: &'static str, found: &Value, wanted: &'static str) -> Error {
    let found: String = format!("{found:?}").chars().take(100).collect();
    Error::Reply { command, found, wanted }
}

/// Walks the reply to XREADGROUP for one stream, taking the values out of it.
///
/// The reply is walked by hand: redis-rs's own type for it copies every value
/// and turns an entry that was deleted while pending into one without fields.
fn entries(reply: Value) -> Result<Vec<Entry>, Error> {
    let entries = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(mut streams) => match (streams.pop(), streams.is_empty()) {
            (None, _) => return Ok(Vec::new()),
            (Some(Value::Array(mut stream)), true) if stream.len() == 2 => stream.pop(),
            (other, _) => return Err(not_entries(&Value::Array(streams.into_iter().chain(other).collect()))),
        },
        // RESP3, which a URL can ask for.
        Value::Map(mut streams) if streams.len() == 1 => streams.pop().map(|(_, entries)| entries),
        other => return Err(not_entries(&other)),
    };
    match entries {
        Some(Value::Array(entries)) => entries.into_iter().map(entry).collect(),
        other => Err(not_entries(&other.unwrap_or(Value::Nil))),
    }
}

fn not_entries(found: &Value) -> Error {
    unexpected("XREADGROUP", found, "the entries of one stream")
}

fn entry(value: Value) -> Result<Entry, Error> {
    let Value::Array(mut parts) = value else { return Err(not_entries(&value)) };
    let (fields, id) = (parts.pop(), parts.pop());
    let (Some(Value::BulkString(id)), Some(fields), true) = (id, fields, parts.is_empty()) else {
        return Err(not_entries(&Value::Array(parts)));
    };
    let Some(id) = EntryId::parse(&id) else { return Err(not_entries(&Value::BulkString(id))) };
    let fields = match fields {
        Value::Nil => None,
        Value::Array(flat) => Some(pairs(flat)?),
        other => return Err(not_entries(&other)),
    };
    Ok(Entry { id, fields })
}

fn pairs(flat: Vec<Value>) -> Result<Vec<Field>, Error> {
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let Some(name) = flat.next() {
        match (name, flat.next()) {
            (Value::BulkString(name), Some(Value::BulkString(value))) => pairs.push((name, value)),
            (name, _) => return Err(not_entries(&name)),
        }
    }
    Ok(pairs)
}

/// Finds the group in the reply to XINFO GROUPS; the length is left at 0.
fn group_levels(groups: Value, wanted: &str) -> Option<Levels> {
    let Value::Array(groups) = groups else { return None };
    groups.into_iter().find_map(|group| {
        let attributes: Vec<(Value, Value)> = group.into_map_iter().ok()?.collect();
        let attribute = |name: &str| {
            attributes.iter().find(|(key, _)| *key == Value::BulkString(name.into())).map(|(_, value)| value)
        };
        let number = |name: &str| match attribute(name) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        (attribute("name") == Some(&Value::BulkString(wanted.into()))).then(|| Levels {
            length: 0,
            pending: number("pending").unwrap_or(0),
            lag: number("lag"),
        })
    })
}

#[cfg(test)]
mod tests;
