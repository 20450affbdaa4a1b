//! Asks what is left to do, for those who watch the service.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::{Error, GroupMonitor, Stream, script};
use sluicegate_verdicts::EntryId;

/// What a group has before it, whichever replica will do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The length of the stream.
    pub length: u64,
    /// Entries delivered to the group and not acknowledged yet.
    pub pending: u64,
    /// Entries not delivered to the group yet, or `None` when Redis does not know the number.
    pub lag: Option<u64>,
    /// The ID that was delivered last.
    pub last_delivered: EntryId,
    /// The first entry that is not acknowledged, delivered or not.
    pub oldest: Option<EntryId>,
    /// Whether there are entries that the group was not given yet.
    pub has_undelivered: bool,
}

impl GroupMonitor {
    /// Returns what is left to do at this moment, or `None` without a group. It changes nothing in
    /// Redis, and may be given up at any time.
    pub async fn backlog(&self) -> Result<Option<Backlog>, Error> {
        let mut shared = self.stream.redis.shared().await?;
        match ask(&self.stream, &mut shared.connection).await {
            Ok(backlog) => Ok(backlog),
            Err(error) => Err(self.stream.redis.failed(&shared, error).await),
        }
    }
}

async fn ask(stream: &Stream, connection: &mut MultiplexedConnection) -> Result<Option<Backlog>, Error> {
    let mut command = script(include_str!("backlog.lua"), &stream.name);
    command.arg(&stream.group);
    let reply = command.query_async(connection).await.map_err(|source| stream.error("XINFO", source))?;
    from_reply(&reply)
}

fn from_reply(reply: &Value) -> Result<Option<Backlog>, Error> {
    let unexpected = || {
        super::reply::unexpected("XINFO", reply, "length, pending, lag, last ID, first pending, first unread")
    };
    let Value::Array(parts) = reply else { return Err(unexpected()) };
    if parts.is_empty() {
        return Ok(None);
    }
    let [
        Value::Int(length),
        Value::Int(pending),
        Value::Int(lag),
        Value::BulkString(last),
        Value::BulkString(first_pending),
        Value::BulkString(first_undelivered),
    ] = parts.as_slice()
    else {
        return Err(unexpected());
    };
    let length = u64::try_from(*length).unwrap_or(0);
    let (first_pending, first_undelivered) =
        (EntryId::parse(first_pending), EntryId::parse(first_undelivered));
    Ok(Some(Backlog {
        length,
        pending: u64::try_from(*pending).unwrap_or(0),
        // In some versions, entries that are gone count until the next read.
        lag: u64::try_from(*lag).ok().map(|lag| lag.min(length)),
        last_delivered: EntryId::parse(last).ok_or_else(unexpected)?,
        oldest: first_pending.into_iter().chain(first_undelivered).min(),
        has_undelivered: first_undelivered.is_some(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(lag: i64, first_pending: &str, first_undelivered: &str) -> Value {
        let bulk = |text: &str| Value::BulkString(text.into());
        let counts = [9, 2, lag].map(Value::Int);
        let ids = ["5-0", first_pending, first_undelivered].map(bulk);
        Value::Array(counts.into_iter().chain(ids).collect())
    }

    #[test]
    fn the_oldest_entry_is_pending_or_undelivered() {
        let id = |milliseconds| EntryId { milliseconds, sequence: 0 };
        for (reply, lag, oldest, has_undelivered) in [
            (reply(3, "4-0", "6-0"), Some(3), Some(id(4)), true),
            (reply(0, "4-0", ""), Some(0), Some(id(4)), false),
            // The group was set back.
            (reply(3, "8-0", "6-0"), Some(3), Some(id(6)), true),
            (reply(-1, "", "6-0"), None, Some(id(6)), true),
            (reply(99, "", ""), Some(9), None, false),
        ] {
            let backlog = from_reply(&reply).expect("a reply").expect("a group");
            assert_eq!(
                (backlog.lag, backlog.oldest, backlog.has_undelivered),
                (lag, oldest, has_undelivered)
            );
        }
        assert_eq!(from_reply(&Value::Array(Vec::new())).expect("a reply"), None);
    }
}
