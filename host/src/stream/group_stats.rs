//! Asks how full the stream is, seen from the group.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::look::Look;
use super::reply::Attributes;
use super::server::SharedConnection;
use super::{Error, REPLY_TIMEOUT, Stream};
use sluicegate_verdicts::EntryId;

/// The figures of the stream and of the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStats {
    /// The length of the stream.
    pub length: u64,
    /// Entries delivered to the group and not acknowledged yet.
    pub pending: u64,
    /// Entries not delivered to the group yet. After some deletions Redis does not know the number,
    /// and it is `None`, which is not 0.
    pub lag: Option<u64>,
    /// Entries newly found lost: they were trimmed or deleted before the group read them.
    pub lost: u64,
}

/// Asks for the group's figures.
pub struct GroupMonitor {
    pub(super) stream: Stream,
}

impl GroupMonitor {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// Returns the figures of this moment.
    ///
    /// The connection may have broken since it was used last, which shows only now. Then a new
    /// connection is asked, so that the report has its figures.
    pub async fn group_stats(&mut self) -> Result<GroupStats, Error> {
        let shared = self.stream.redis.shared().await?;
        let was_there = shared.was_there;
        match self.ask(shared).await {
            Err(error) if was_there && !error.is_of_command() => {
                let shared = self.stream.redis.shared().await?;
                self.ask(shared).await
            }
            other => other,
        }
    }

    async fn ask(&mut self, mut shared: SharedConnection) -> Result<GroupStats, Error> {
        match self.try_ask(&mut shared.connection).await {
            Ok(group_stats) => Ok(group_stats),
            Err(error) => Err(self.stream.redis.failed(&shared, error).await),
        }
    }

    async fn try_ask(&mut self, connection: &mut MultiplexedConnection) -> Result<GroupStats, Error> {
        let stream = &self.stream;
        // The commands are one transaction, so that the replies are of one moment.
        let reply: RedisResult<(Value, u64, Value)> = redis::pipe()
            .atomic()
            .add_command(Look::command(stream, 0))
            .cmd("XLEN")
            .arg(&stream.name)
            .cmd("XINFO")
            .arg("GROUPS")
            .arg(&stream.name)
            .query_async(connection)
            .await;
        let (look, length, groups) = match reply {
            Ok(reply) => reply,
            // Nobody has added anything yet, and no group is made. Redis has no code for this.
            Err(source) if source.to_string().contains("no such key") => return Ok(GroupStats::default()),
            Err(source) => return Err(stream.error("XINFO", source)),
        };
        let Look { lost, .. } = Look::from_reply(look)?;
        let Some(group) = find_group(groups, &stream.group) else { return Ok(GroupStats::default()) };
        Ok(GroupStats {
            length,
            pending: group.number("pending").unwrap_or(0),
            lost,
            // In some versions, entries that are gone count until the next read.
            lag: group.number("lag").map(|lag| lag.min(length)),
        })
    }
}

impl Stream {
    /// Returns whether an entry from `first` to `last` is pending, whoever holds it.
    pub async fn is_pending(&self, first: EntryId, last: EntryId) -> Result<bool, Error> {
        let mut command = redis::cmd("XPENDING");
        command.arg(&self.name).arg(&self.group).arg(first.to_string()).arg(last.to_string()).arg(1);
        let reply = command.query_async(&mut self.connect(REPLY_TIMEOUT).await?).await;
        match reply.map_err(|source| self.error("XPENDING", source)) {
            Ok(reply) => Ok(!super::reply::pending(reply)?.is_empty()),
            Err(error) if error.says("NOGROUP") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn find_group(groups: Value, wanted: &str) -> Option<Attributes> {
    let Value::Array(groups) = groups else { return None };
    let is_wanted = |group: &Attributes| matches!(group.get("name"), Some(Value::BulkString(name)) if name == wanted.as_bytes());
    groups.into_iter().filter_map(Attributes::from_reply).find(is_wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn group(read: Value, last: &str, lag: Value) -> Value {
        let pairs =
            [("name", bulk("g")), ("entries-read", read), ("last-delivered-id", bulk(last)), ("lag", lag)];
        Value::Array(vec![Value::Array(
            pairs.into_iter().flat_map(|(name, value)| [bulk(name), value]).collect(),
        )])
    }

    #[test]
    fn an_unknown_lag_is_not_zero() {
        let lag = |lag| {
            find_group(group(Value::Int(0), "0-0", lag), "g").expect("the group is there").number("lag")
        };
        assert_eq!(lag(Value::Int(9)), Some(9));
        assert_eq!(lag(Value::Nil), None);
        assert!(find_group(group(Value::Nil, "0-0", Value::Nil), "other").is_none());
    }
}
