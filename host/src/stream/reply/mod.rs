//! Reads entries from the replies of Redis.
//!
//! Replies are walked by hand: the type of redis-rs for XREADGROUP copies every value, and turns an
//! entry that was deleted while pending into one without fields.

use redis::Value;

use super::Error;
use sluicegate_verdicts::{Entry, EntryId, Field};

/// One line of XPENDING: an entry that was delivered and not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub(super) id: EntryId,
    /// The consumer that the entry was delivered to.
    pub(super) owner: Vec<u8>,
    /// The delivery count, without deliveries of which nothing has died. No other count survives a
    /// crash of the service.
    pub(super) deliveries: u64,
}

impl Pending {
    /// Returns the consumer's name. The consumers of this service have names that are text.
    pub fn owner(&self) -> String {
        String::from_utf8_lossy(&self.owner).into_owned()
    }
}

/// Reads the entries of one stream from the reply to XREADGROUP.
pub(super) fn entries(reply: Value) -> Result<Vec<Entry>, Error> {
    const COMMAND: &str = "XREADGROUP";
    let unexpected = |found: &Value| unexpected(COMMAND, found, "the entries of one stream");
    let stream = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(streams) => match <[Value; 1]>::try_from(streams) {
            Ok([Value::Array(stream)]) => <[Value; 2]>::try_from(stream).ok().map(|[_, entries]| entries),
            Ok([other]) => return Err(unexpected(&other)),
            Err(streams) if streams.is_empty() => return Ok(Vec::new()),
            Err(streams) => return Err(unexpected(&Value::Array(streams))),
        },
        // This is RESP3, which a URL can ask for.
        Value::Map(mut streams) if streams.len() == 1 => streams.pop().map(|(_, entries)| entries),
        other => return Err(unexpected(&other)),
    };
    match stream {
        Some(Value::Array(entries)) => entries.into_iter().map(|value| entry(COMMAND, value)).collect(),
        other => Err(unexpected(&other.unwrap_or(Value::Nil))),
    }
}

/// Reads the reply to XPENDING with a range.
pub(super) fn pending(reply: Value) -> Result<Vec<Pending>, Error> {
    let unexpected = |found: &Value| unexpected("XPENDING", found, "ID, consumer, idle time, deliveries");
    let Value::Array(lines) = reply else { return Err(unexpected(&reply)) };
    let line = |value: Value| {
        let Value::Array(parts) = &value else { return Err(unexpected(&value)) };
        match parts.as_slice() {
            [Value::BulkString(id), Value::BulkString(owner), _idle, Value::Int(deliveries)] => {
                let id = EntryId::parse(id).ok_or_else(|| unexpected(&value))?;
                Ok(Pending { id, owner: owner.clone(), deliveries: u64::try_from(*deliveries).unwrap_or(0) })
            }
            _ => Err(unexpected(&value)),
        }
    };
    lines.into_iter().map(line).collect()
}

/// Reads the reply of `take.lua`: the entries that were taken. Deleted ones have no fields.
pub(super) fn taken(reply: Value) -> Result<Vec<Entry>, Error> {
    listed("XCLAIM", reply)
}

/// Reads a list of entries, such as the reply to XRANGE.
pub(super) fn listed(command: &'static str, reply: Value) -> Result<Vec<Entry>, Error> {
    match reply {
        Value::Array(entries) => entries.into_iter().map(|value| entry(command, value)).collect(),
        other => Err(unexpected(command, &other, "a list of entries")),
    }
}

fn entry(command: &'static str, value: Value) -> Result<Entry, Error> {
    const WANTED: &str = "an entry: an ID and a list of fields, or nil";
    let Value::Array(parts) = value else { return Err(unexpected(command, &value, WANTED)) };
    match <[Value; 2]>::try_from(parts) {
        Ok([Value::BulkString(id), fields]) => {
            let Some(id) = EntryId::parse(&id) else {
                return Err(unexpected(command, &Value::BulkString(id), WANTED));
            };
            let fields = match fields {
                Value::Nil => None,
                Value::Array(flat) => Some(pairs(command, flat)?),
                other => return Err(unexpected(command, &other, WANTED)),
            };
            Ok(Entry { id, fields, deliveries: 1 })
        }
        Ok([id, _]) => Err(unexpected(command, &id, WANTED)),
        Err(parts) => Err(unexpected(command, &Value::Array(parts), WANTED)),
    }
}

fn pairs(command: &'static str, flat: Vec<Value>) -> Result<Vec<Field>, Error> {
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let Some(name) = flat.next() {
        match (name, flat.next()) {
            (Value::BulkString(name), Some(Value::BulkString(value))) => pairs.push((name, value)),
            (name, _) => return Err(unexpected(command, &name, "pairs of names and values")),
        }
    }
    Ok(pairs)
}

/// Describes the form of a reply, but not its content, which may be data of an event.
pub(super) fn unexpected(command: &'static str, found: &Value, wanted: &'static str) -> Error {
    let found = match found {
        Value::Nil => "nil".to_owned(),
        Value::Int(_) => "a number".to_owned(),
        Value::BulkString(bytes) => format!("a string of {} bytes", bytes.len()),
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Map(pairs) => format!("a map of {}", pairs.len()),
        _ => "something else".to_owned(),
    };
    Error::Reply { command, found, wanted }
}

/// Reads attributes by name from a reply such as XINFO's.
pub(super) struct Attributes(Vec<(Value, Value)>);

impl Attributes {
    pub(super) fn from_reply(reply: Value) -> Option<Self> {
        Some(Self(reply.into_map_iter().ok()?.collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(key, _)| matches!(key, Value::BulkString(key) if key == name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Returns `None` when Redis does not know the number, which is not 0.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
