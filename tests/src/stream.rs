//! Provides a stream of the test's own, with its group.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, Connection, FromRedisValue, RedisResult, Value, cmd};

use crate::events::Fields;
use crate::wait::until;

/// Names a stream, which is made when something is added, and deleted when this is dropped.
pub struct Stream {
    url: String,
    client: redis::Client,
    /// Says whether the stream is this value's to delete.
    is_owner: bool,
    pub name: String,
    pub group: String,
}

impl Stream {
    pub(crate) fn new(server_url: &str, name: &str) -> Self {
        let client = redis::Client::open(server_url).expect("REDIS_URL reads");
        Self {
            url: server_url.to_owned(),
            client,
            is_owner: true,
            name: name.to_owned(),
            group: format!("{name}-group"),
        }
    }

    /// Returns the same stream, for another thread.
    pub(crate) fn another(&self) -> Self {
        Self {
            is_owner: false,
            url: self.url.clone(),
            client: self.client.clone(),
            name: self.name.clone(),
            group: self.group.clone(),
        }
    }

    /// Returns the same stream, seen by another group.
    pub fn another_group(&self, group: &str) -> Self {
        let mut other = self.another();
        group.clone_into(&mut other.group);
        other
    }

    /// Returns a stream beside this one, with a group of the same name.
    pub fn sibling(&self, name: &str) -> Self {
        let mut other = self.another();
        (other.is_owner, other.name) = (true, format!("{}:{name}", self.name));
        other
    }

    /// Returns the server's URL, for the service.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a connection for one use, which works again as soon as the server does.
    pub fn connect(&self) -> RedisResult<Connection> {
        self.client.get_connection()
    }

    pub fn run<T: FromRedisValue>(&self, command: &Cmd) -> T {
        self.try_run(command).unwrap_or_else(|error| {
            panic!("{:?}: {error}", command.get_packed_command().escape_ascii().to_string())
        })
    }

    /// Runs a command. The server may be away.
    pub fn try_run<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        command.query(&mut self.connect()?)
    }

    /// Adds an entry, and returns its ID.
    pub fn add(&self, fields: &Fields) -> String {
        self.run(&self.xadd(fields))
    }

    /// Adds entries in one round trip, and returns their IDs.
    pub fn add_all<'a>(&self, entries: impl IntoIterator<Item = &'a Fields>) -> Vec<String> {
        let mut pipeline = redis::pipe();
        for fields in entries {
            pipeline.add_command(self.xadd(fields));
        }
        let mut connection = self.connect().expect("redis serves");
        pipeline.query(&mut connection).expect("entries are added")
    }

    /// Returns the command that adds an entry.
    pub fn xadd(&self, fields: &Fields) -> Cmd {
        let mut xadd = cmd("XADD");
        xadd.arg(&self.name).arg("*");
        for (name, value) in fields {
            xadd.arg(name).arg(value);
        }
        xadd
    }

    /// Makes the group at the stream's beginning, as an earlier run would have.
    pub fn make_group(&self) {
        self.run::<()>(cmd("XGROUP").arg("CREATE").arg(&self.name).arg(&self.group).arg("0").arg("MKSTREAM"));
    }

    /// Reads entries as an earlier run would have, without acknowledging them.
    pub fn read_as(&self, consumer: &str, count: usize) {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(consumer).arg("COUNT").arg(count);
        let _: Value = self.run(read.arg("STREAMS").arg(&self.name).arg(">"));
    }

    /// Returns the IDs that were delivered to the group and not acknowledged.
    pub fn pending(&self) -> BTreeSet<String> {
        self.deliveries().into_keys().collect()
    }

    /// Returns how often each pending entry was delivered.
    pub fn deliveries(&self) -> BTreeMap<String, u64> {
        let entries: Vec<(String, String, u64, u64)> =
            self.run(cmd("XPENDING").arg(&self.name).arg(&self.group).arg("-").arg("+").arg(1_000_000));
        entries.into_iter().map(|(id, .., deliveries)| (id, deliveries)).collect()
    }

    /// Hands pending entries to a consumer, with this count of deliveries.
    pub fn claim_as(&self, consumer: &str, ids: &[String], deliveries: u64) {
        let mut claim = cmd("XCLAIM");
        claim.arg(&self.name).arg(&self.group).arg(consumer).arg(0).arg(ids);
        let _: Value = self.run(claim.arg("RETRYCOUNT").arg(deliveries).arg("JUSTID"));
    }

    /// Returns what XINFO GROUPS says, or `None` when there is no group or the value is null.
    pub fn group_info(&self, attribute: &str) -> Option<String> {
        let groups: Vec<redis::Value> = self.try_run(cmd("XINFO").arg("GROUPS").arg(&self.name)).ok()?;
        groups.into_iter().find_map(|group| {
            let pairs: Vec<(Value, Value)> = group.into_map_iter().ok()?.collect();
            let get = |name: &str| pairs.iter().find(|(key, _)| *key == Value::BulkString(name.into()));
            (get("name")?.1 == Value::BulkString(self.group.clone().into())).then_some(())?;
            redis::from_redis_value(get(attribute)?.1.clone()).ok()
        })
    }

    /// Returns the IDs that were delivered and acknowledged, and so are not to come any more.
    pub fn acknowledged(&self) -> BTreeSet<String> {
        let last = self.group_info("last-delivered-id").expect("the group is there");
        let entries: Vec<(String, Value)> = self.run(cmd("XRANGE").arg(&self.name).arg("-").arg(last));
        let pending = self.pending();
        entries.into_iter().map(|(id, _)| id).filter(|id| !pending.contains(id)).collect()
    }

    /// Returns whether everything was delivered and acknowledged.
    pub fn is_drained(&self) -> bool {
        ["lag", "pending"].iter().all(|name| self.group_info(name).as_deref() == Some("0"))
    }

    /// Waits until everything was delivered and acknowledged.
    pub fn until_drained(&self) {
        until("every entry delivered and acknowledged", || {
            let length: u64 = self.try_run(cmd("XLEN").arg(&self.name)).map_err(|error| error.to_string())?;
            let [read, lag, pending] = ["entries-read", "lag", "pending"].map(|name| self.group_info(name));
            match (read.as_deref(), lag.as_deref(), pending.as_deref()) {
                (Some(_), Some("0"), Some("0")) => Ok(()),
                _ => Err(format!("length {length}, entries read {read:?}, lag {lag:?}, pending {pending:?}")),
            }
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_owner {
            let _: RedisResult<()> = self.try_run(cmd("DEL").arg(&self.name));
        }
    }
}
