//! How full the stream is, and what was trimmed before it was read.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::reply::Attributes;
use super::server::Shared;
use super::{Error, PATIENCE, Stream};
use crate::batch::EntryId;

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
    /// Entries that were trimmed or deleted before the group read them, newly
    /// found since the last time: they are lost.
    pub lost: u64,
}

/// Asks for the group's levels.
pub struct Gauge {
    stream: Stream,
    gap: Gap,
}

impl Gauge {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, gap: Gap::default() }
    }

    /// The levels at this moment.
    ///
    /// The connection may have broken since it was used last, which shows only
    /// now: then a new one is asked, so that the report has its levels.
    pub async fn levels(&mut self) -> Result<Levels, Error> {
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

    async fn ask(&mut self, mut shared: Shared) -> Result<Levels, Error> {
        match self.try_levels(&mut shared.connection).await {
            Ok(levels) => Ok(levels),
            Err(error) => Err(self.stream.redis.failed(&shared, error).await),
        }
    }

    async fn try_levels(&mut self, connection: &mut MultiplexedConnection) -> Result<Levels, Error> {
        let stream = &self.stream;
        // One transaction, so that the two replies are of one moment.
        let reply: RedisResult<(Value, Value)> = redis::pipe()
            .atomic()
            .cmd("XINFO")
            .arg("STREAM")
            .arg(&stream.name)
            .cmd("XINFO")
            .arg("GROUPS")
            .arg(&stream.name)
            .query_async(connection)
            .await;
        let (info, groups) = match reply {
            Ok(reply) => reply,
            // Nobody has added anything yet, and the group is made when the pipeline starts. Redis has no code for it.
            Err(source) if source.to_string().contains("no such key") => return Ok(Levels::default()),
            Err(source) => return Err(stream.error("XINFO", source)),
        };
        let (Some(info), Some(group)) = (Attributes::of(info), find_group(groups, &stream.group)) else {
            return Ok(Levels::default());
        };
        Ok(Levels {
            length: info.number("length").unwrap_or(0),
            pending: group.number("pending").unwrap_or(0),
            lost: self.gap.lost_since(&info, &group),
            lag: self.gap.lag(&info, &group),
        })
    }
}

impl Stream {
    /// Whether an entry is pending from `first` to `last`, whoever holds it.
    pub async fn is_pending(&self, first: EntryId, last: EntryId) -> Result<bool, Error> {
        let mut command = redis::cmd("XPENDING");
        command.arg(&self.name).arg(&self.group).arg(first.to_string()).arg(last.to_string()).arg(1);
        let reply = command.query_async(&mut self.connect(PATIENCE).await?).await;
        match reply.map_err(|source| self.error("XPENDING", source)) {
            Ok(reply) => Ok(!super::reply::pending(reply)?.is_empty()),
            Err(error) if error.has_code("NOGROUP") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn find_group(groups: Value, wanted: &str) -> Option<Attributes> {
    let Value::Array(groups) = groups else { return None };
    let is_wanted = |group: &Attributes| matches!(group.get("name"), Some(Value::BulkString(name)) if name == wanted.as_bytes());
    groups.into_iter().filter_map(Attributes::of).find(is_wanted)
}

/// Finds entries that are gone before the group read them.
///
/// When the stream begins after the last entry that the group was delivered,
/// all entries up to there are gone: as many as were ever added and are no
/// longer there. Those the group did not read are lost.
#[derive(Debug, Default)]
struct Gap {
    /// How many entries the group had read, and how many were lost, when looked at last.
    last: Option<(u64, u64)>,
    /// How many entries Redis 7.0 has left out of `entries-read` for good: it
    /// goes on from where it was when entries are trimmed unread. It shows
    /// when the group has read the last entry; later versions are right again then.
    left_out: u64,
}

impl Gap {
    /// The losses that the last call did not know of.
    fn lost_since(&mut self, info: &Attributes, group: &Attributes) -> u64 {
        self.look_for_left_out(info, group);
        let Some((read, lost)) = gap(info, group, self.left_out) else { return 0 };
        let known = match self.last {
            // The group has not moved since: part of this gap is known.
            Some((last_read, last_lost)) if last_read == read => last_lost,
            _ => 0,
        };
        self.last = Some((read, lost));
        lost.saturating_sub(known)
    }

    fn look_for_left_out(&mut self, info: &Attributes, group: &Attributes) {
        let numbers = (info.number("entries-added"), group.number("entries-read"));
        let (Some(added), Some(read)) = numbers else { return };
        if group.id("last-delivered-id").is_some_and(|last| Some(last) == info.id("last-generated-id")) {
            self.left_out = added.saturating_sub(read);
        } else if read + self.left_out > added {
            self.left_out = 0; // counted anew: by a group or a stream that was made again, for example
        }
    }

    /// Entries not delivered yet; `None` when Redis does not know.
    fn lag(&self, info: &Attributes, group: &Attributes) -> Option<u64> {
        let lag = group.number("lag")?.saturating_sub(self.left_out);
        Some(lag.min(info.number("length")?))
    }
}

/// How many entries the group has read, and how many are gone unread. `None`
/// when Redis does not know, or when entries were deleted from the middle,
/// which cannot be told from others.
fn gap(info: &Attributes, group: &Attributes, left_out: u64) -> Option<(u64, u64)> {
    let read = group.number("entries-read")? + left_out;
    let length = info.number("length")?;
    let gone = info.number("entries-added")?.checked_sub(length)?;
    let last_read = group.id("last-delivered-id")?;
    let first = match length {
        0 => None,
        _ => Some(info.id("recorded-first-entry-id")?),
    };
    let begins_later = first.is_none_or(|first| first > last_read);
    let only_from_the_beginning =
        first.is_none_or(|first| info.id("max-deleted-entry-id").unwrap_or(EntryId::ZERO) < first);
    Some((read, if begins_later && only_from_the_beginning { gone.saturating_sub(read) } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn info(length: i64, added: i64, first: &str, deleted: &str) -> Attributes {
        info_until(length, added, first, deleted, "100-0")
    }

    fn info_until(length: i64, added: i64, first: &str, deleted: &str, last: &str) -> Attributes {
        let pairs = [
            ("length", Value::Int(length)),
            ("entries-added", Value::Int(added)),
            ("recorded-first-entry-id", bulk(first)),
            ("max-deleted-entry-id", bulk(deleted)),
            ("last-generated-id", bulk(last)),
        ];
        Attributes::of(Value::Array(
            pairs.into_iter().flat_map(|(name, value)| [bulk(name), value]).collect(),
        ))
        .expect("pairs")
    }

    fn group(read: Value, last: &str, lag: Value) -> Value {
        let pairs =
            [("name", bulk("g")), ("entries-read", read), ("last-delivered-id", bulk(last)), ("lag", lag)];
        Value::Array(vec![Value::Array(
            pairs.into_iter().flat_map(|(name, value)| [bulk(name), value]).collect(),
        )])
    }

    fn found(groups: Value) -> Attributes {
        find_group(groups, "g").expect("the group is there")
    }

    #[test]
    fn an_unknown_lag_is_not_zero() {
        assert_eq!(found(group(Value::Int(0), "0-0", Value::Int(9))).number("lag"), Some(9));
        assert_eq!(found(group(Value::Int(0), "0-0", Value::Nil)).number("lag"), None);
        assert!(find_group(group(Value::Nil, "0-0", Value::Nil), "other").is_none());
    }

    #[test]
    fn what_was_trimmed_unread_is_lost_and_counted_once() {
        let mut gap = Gap::default();
        let group = |read| found(group(Value::Int(read), "5-0", Value::Nil));
        assert_eq!(gap.lost_since(&info(100, 100, "1-0", "0-0"), &group(5)), 0, "nothing is gone");
        assert_eq!(gap.lost_since(&info(97, 100, "4-0", "3-0"), &group(5)), 0, "what is gone was read");
        assert_eq!(gap.lost_since(&info(90, 100, "11-0", "10-0"), &group(5)), 5);
        assert_eq!(gap.lost_since(&info(90, 100, "11-0", "10-0"), &group(5)), 0, "known already");
        assert_eq!(gap.lost_since(&info(88, 100, "13-0", "12-0"), &group(5)), 2, "two more");
        assert_eq!(gap.lost_since(&info(0, 100, "0-0", "100-0"), &group(5)), 88, "the rest");
    }

    /// Ten are read and nine are added, of which six are trimmed; then nine more, of which six again.
    #[test]
    fn what_redis_7_0_leaves_out_is_not_lost_again() {
        let mut gap = Gap::default();
        let info = |length, added, first, last| info_until(length, added, first, "0-0", last);
        let group = |read, last: &str, lag| found(group(Value::Int(read), last, Value::Int(lag)));
        assert_eq!(gap.lost_since(&info(3, 19, "17-0", "19-0"), &group(10, "10-0", 9)), 6);
        let (all, caught_up) = (info(3, 19, "17-0", "19-0"), group(13, "19-0", 6));
        assert_eq!(gap.lost_since(&all, &caught_up), 0);
        assert_eq!(gap.lag(&all, &caught_up), Some(0));
        let (more, behind) = (info(12, 28, "17-0", "28-0"), group(14, "20-0", 14));
        assert_eq!(gap.lost_since(&more, &behind), 0);
        assert_eq!(gap.lag(&more, &behind), Some(8));
        let (trimmed, behind) = (info(3, 28, "26-0", "28-0"), group(13, "19-0", 15));
        assert_eq!(gap.lost_since(&trimmed, &behind), 6, "not the six of before");
        assert_eq!(gap.lag(&trimmed, &behind), Some(3), "not more than there are");
    }

    #[test]
    fn what_cannot_be_known_is_not_guessed() {
        let mut gap = Gap::default();
        let unknown = found(group(Value::Nil, "5-0", Value::Nil));
        assert_eq!(gap.lost_since(&info(90, 100, "11-0", "10-0"), &unknown), 0);
        let known = found(group(Value::Int(5), "5-0", Value::Nil));
        assert_eq!(gap.lost_since(&info(90, 100, "11-0", "50-0"), &known), 0, "deleted from the middle");
    }
}
