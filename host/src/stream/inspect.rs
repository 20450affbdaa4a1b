//! Looks at Redis without changing anything, for `sluicegate doctor`: the server, and each tenant's stream and group.
//!
//! `rights` finds which commands the user may not run.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};

use super::reply::Attributes;
use super::rights::{self, Denied};
use super::{Error, REPLY_TIMEOUT, Redis};
use crate::clock::{ClockGap, now_us};
use crate::config::{Tenant, TenantName};
use sluicegate_verdicts::EntryId;

/// What Redis told. What it would not tell is missing.
#[derive(Debug, Default)]
pub struct RedisLook {
    /// The reply to INFO, by name.
    pub info: BTreeMap<String, String>,
    /// The settings that matter, by name.
    pub config: BTreeMap<String, String>,
    pub user: Option<String>,
    pub clock: Option<ClockGap>,
    /// The commands of looks that the server refused.
    pub refused: Vec<&'static str>,
    pub streams: Vec<StreamLook>,
    /// Why the look has ended early.
    pub broken: Option<String>,
}

#[derive(Debug, Default)]
pub struct StreamLook {
    pub tenant: TenantName,
    pub stream: String,
    pub group_name: String,
    /// Why the stream cannot be read, in Redis' words: it is something else, or on another node.
    pub unreadable: Option<String>,
    /// Whether the user may not look at it.
    pub is_hidden: bool,
    /// `None` when there is no stream.
    pub figures: Option<StreamFigures>,
    /// `None` when there is no group.
    pub group: Option<GroupLook>,
    pub denied: Vec<Denied>,
    /// The streams that the rules may publish to and this user may not.
    pub unpublishable: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamFigures {
    pub length: u64,
    /// The number of entries that were ever added.
    pub added: u64,
    /// The ID of the first entry, unless the stream is empty.
    pub first: Option<EntryId>,
    pub last_generated: EntryId,
    pub max_deleted: EntryId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLook {
    pub last_delivered: EntryId,
    /// The number of entries read, or `None` when Redis does not know.
    pub read: Option<u64>,
    pub lag: Option<u64>,
    pub pending: u64,
    pub oldest: Option<OldestPending>,
    pub consumers: Vec<ConsumerLook>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldestPending {
    pub id: String,
    pub consumer: String,
    pub idle: Duration,
    pub deliveries: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerLook {
    pub name: String,
    pub pending: u64,
    /// How long it has not asked for anything.
    pub idle: Duration,
}

/// The settings that the look asks for.
const CONFIG: [&str; 6] = [
    "appendfsync",
    "save",
    "min-replicas-to-write",
    "stop-writes-on-bgsave-error",
    "timeout",
    "tcp-keepalive",
];

/// How long the whole look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// What the server said to a command.
pub(super) enum Answer {
    Reply(Value),
    /// A refusal, in Redis' words.
    Refused(String),
}

/// A connection, and what was asked over it in vain.
pub(super) struct Asker {
    connection: MultiplexedConnection,
}

impl Asker {
    /// Asks. An error means that the connection is broken.
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Answer, RedisError> {
        match command.query_async::<Value>(&mut self.connection).await {
            Ok(reply) => Ok(Answer::Reply(reply)),
            Err(error) if error.code().is_some() => {
                let (code, detail) = (error.code().unwrap_or_default(), error.detail().unwrap_or_default());
                Ok(Answer::Refused(format!("{code} {detail}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for something that may be missing from the report.
    async fn look(&mut self, command: &Cmd) -> Result<Option<Value>, RedisError> {
        Ok(match self.ask(command).await? {
            Answer::Reply(reply) => Some(reply),
            Answer::Refused(_) => None,
        })
    }
}

impl Redis {
    /// Looks at the server and at the streams of these tenants. The result is an error when there is no connection.
    pub async fn inspect(&self, tenants: &[Tenant]) -> Result<RedisLook, Error> {
        let mut asker = Asker { connection: self.connect(REPLY_TIMEOUT).await? };
        let mut look = RedisLook::default();
        let looked = tokio::time::timeout(LOOK_TIMEOUT, look_at_all(&mut asker, tenants, &mut look)).await;
        look.broken = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("the look took longer than {LOOK_TIMEOUT:?}")),
        };
        Ok(look)
    }
}

async fn look_at_all(asker: &mut Asker, tenants: &[Tenant], look: &mut RedisLook) -> Result<(), RedisError> {
    look_at_server(asker, look).await?;
    for tenant in tenants {
        let mut stream = StreamLook {
            tenant: tenant.name.clone(),
            stream: tenant.stream_name.clone(),
            group_name: tenant.consumer_group.clone(),
            ..StreamLook::default()
        };
        look_at_stream(asker, &mut stream).await?;
        stream.denied = rights::denied(asker, look.user.as_deref(), &tenant.stream_name).await?;
        for target in tenant.grants.publish.keys() {
            if let Some(why) = rights::unpublishable(asker, look.user.as_deref(), target).await? {
                stream.unpublishable.push((target.clone(), why));
            }
        }
        look.streams.push(stream);
    }
    Ok(())
}

async fn look_at_server(asker: &mut Asker, look: &mut RedisLook) -> Result<(), RedisError> {
    match asker.look(&redis::cmd("INFO")).await? {
        Some(Value::BulkString(info)) => look.info = pairs(&String::from_utf8_lossy(&info)),
        // RESP3 gives the text with a word about its form.
        Some(Value::VerbatimString { text, .. }) => look.info = pairs(&text),
        _ => look.refused.push("INFO"),
    }
    match asker.look(redis::cmd("CONFIG").arg("GET").arg(&CONFIG)).await? {
        Some(reply) => look.config = config(reply),
        None => look.refused.push("CONFIG GET"),
    }
    match asker.look(redis::cmd("ACL").arg("WHOAMI")).await? {
        Some(user) => look.user = text(&user),
        None => look.refused.push("ACL WHOAMI"),
    }
    let before = now_us();
    match asker.look(&redis::cmd("TIME")).await? {
        Some(reply) => look.clock = clock(&reply).map(|at| ClockGap::new(before, at, now_us())),
        None => look.refused.push("TIME"),
    }
    Ok(())
}

async fn look_at_stream(asker: &mut Asker, look: &mut StreamLook) -> Result<(), RedisError> {
    let found = asker.ask(redis::cmd("XINFO").arg("STREAM").arg(&look.stream)).await?;
    match found {
        Answer::Reply(reply) => look.figures = Attributes::from_reply(reply).map(|found| figures(&found)),
        Answer::Refused(why) => {
            if ["WRONGTYPE", "MOVED", "CLUSTERDOWN"].iter().any(|code| why.starts_with(code)) {
                look.unreadable = Some(why);
            } else {
                look.is_hidden = !why.contains("no such key");
            }
            return Ok(());
        }
    }
    let groups = asker.look(redis::cmd("XINFO").arg("GROUPS").arg(&look.stream)).await?;
    look.is_hidden = groups.is_none();
    let Some(found) = groups.and_then(|groups| super::group_stats::find_group(groups, &look.group_name))
    else {
        return Ok(());
    };
    let mut group = GroupLook {
        last_delivered: id(&found, "last-delivered-id").unwrap_or_default(),
        read: found.number("entries-read"),
        lag: found.number("lag"),
        pending: found.number("pending").unwrap_or(0),
        ..GroupLook::default()
    };
    let mut consumers = redis::cmd("XINFO");
    consumers.arg("CONSUMERS").arg(&look.stream).arg(&look.group_name);
    if let Some(Value::Array(consumers)) = asker.look(&consumers).await? {
        group.consumers = consumers.into_iter().filter_map(Attributes::from_reply).map(consumer).collect();
    }
    let mut pending = redis::cmd("XPENDING");
    pending.arg(&look.stream).arg(&look.group_name).arg("-").arg("+").arg(1);
    group.oldest = asker.look(&pending).await?.and_then(oldest);
    look.group = Some(group);
    Ok(())
}

fn figures(found: &Attributes) -> StreamFigures {
    let length = found.number("length").unwrap_or(0);
    StreamFigures {
        length,
        added: found.number("entries-added").unwrap_or(0),
        first: id(found, "recorded-first-entry-id").filter(|_| length > 0),
        last_generated: id(found, "last-generated-id").unwrap_or_default(),
        max_deleted: id(found, "max-deleted-entry-id").unwrap_or_default(),
    }
}

fn consumer(found: Attributes) -> ConsumerLook {
    ConsumerLook {
        name: found.get("name").and_then(text).unwrap_or_default(),
        pending: found.number("pending").unwrap_or(0),
        idle: Duration::from_millis(found.number("idle").unwrap_or(0)),
    }
}

/// Reads the first line of XPENDING with a range.
fn oldest(reply: Value) -> Option<OldestPending> {
    let Value::Array(lines) = reply else { return None };
    let Value::Array(parts) = lines.into_iter().next()? else { return None };
    let [id, consumer, Value::Int(idle), Value::Int(deliveries)] = parts.as_slice() else { return None };
    Some(OldestPending {
        id: text(id)?,
        consumer: text(consumer)?,
        idle: Duration::from_millis(u64::try_from(*idle).unwrap_or(0)),
        deliveries: u64::try_from(*deliveries).unwrap_or(0),
    })
}

fn id(found: &Attributes, name: &str) -> Option<EntryId> {
    match found.get(name)? {
        Value::BulkString(id) => EntryId::parse(id),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

/// Reads lines such as `name:value`.
fn pairs(info: &str) -> BTreeMap<String, String> {
    let pairs = info.lines().filter_map(|line| line.trim().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn config(reply: Value) -> BTreeMap<String, String> {
    let pairs = reply.into_map_iter().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((text(&name)?, text(&value)?))).collect()
}

/// Reads the reply to TIME: seconds and microseconds.
fn clock(reply: &Value) -> Option<i64> {
    let Value::Array(parts) = reply else { return None };
    let [seconds, micros] = parts.as_slice() else { return None };
    let number = |value: &Value| text(value)?.parse::<i64>().ok();
    number(seconds)?.checked_mul(1_000_000)?.checked_add(number(micros)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_and_time_are_read() {
        let info =
            pairs("# Server\r\nredis_version:8.0.2\r\nexecutable:/a:b\r\n\r\n# Memory\r\nmaxmemory:0\r\n");
        assert_eq!(info.get("redis_version").map(String::as_str), Some("8.0.2"));
        assert_eq!(info.get("executable").map(String::as_str), Some("/a:b"));
        let bulk = |text: &str| Value::BulkString(text.into());
        assert_eq!(clock(&Value::Array(vec![bulk("12"), bulk("345")])), Some(12_000_345));
        assert_eq!(clock(&Value::Array(vec![bulk("12")])), None);
    }

    #[test]
    fn the_oldest_pending_entry_is_read() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let line = Value::Array(vec![bulk("1-0"), bulk("gone"), Value::Int(61_000), Value::Int(3)]);
        let found = oldest(Value::Array(vec![line])).expect("a line");
        assert_eq!((found.id.as_str(), found.consumer.as_str()), ("1-0", "gone"));
        assert_eq!((found.idle, found.deliveries), (Duration::from_secs(61), 3));
        assert_eq!(oldest(Value::Array(Vec::new())), None);
    }
}
