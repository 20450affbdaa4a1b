//! Looks at the group before a read: what was trimmed before its turn, and who has what comes next.

use std::collections::BTreeSet;

use redis::{Cmd, Value};

use super::{Error, Stream, script};
use sluicegate_verdicts::EntryId;

/// The result of a look at the group. The look counts lost entries as read: see `look.lua`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// The number of entries newly found that the group can never be given.
    pub(super) lost: u64,
    /// The ID that was delivered last, to any consumer.
    pub(super) last_delivered: EntryId,
    /// The number of entries that were ever added to the stream.
    pub(super) added: u64,
    /// The number of entries that the group was not given yet, or `None` when Redis does not know.
    pub(super) unread: Option<u64>,
    /// The consumers that have some of the next entries pending, since the group was set back.
    pub(super) owners: BTreeSet<String>,
}

impl Look {
    /// Returns the command for a look before a read of this many entries.
    pub(super) fn command(stream: &Stream, wanted: usize) -> Cmd {
        let mut command = script(include_str!("look.lua"), &stream.name);
        command.arg(&stream.group).arg(wanted);
        command
    }

    pub(super) fn from_reply(reply: Value) -> Result<Self, Error> {
        let Value::Array(parts) = &reply else { return Err(Self::unexpected(&reply)) };
        let [
            Value::Int(lost),
            Value::BulkString(last),
            Value::Int(added),
            Value::Int(unread),
            Value::Array(owners),
        ] = parts.as_slice()
        else {
            return Err(Self::unexpected(&reply));
        };
        let owner = |owner: &Value| match owner {
            Value::BulkString(name) => Ok(String::from_utf8_lossy(name).into_owned()),
            _ => Err(Self::unexpected(&reply)),
        };
        Ok(Self {
            lost: u64::try_from(*lost).unwrap_or(0),
            last_delivered: EntryId::parse(last).ok_or_else(|| Self::unexpected(&reply))?,
            added: u64::try_from(*added).unwrap_or(0),
            unread: u64::try_from(*unread).ok(),
            owners: owners.iter().map(owner).collect::<Result<_, _>>()?,
        })
    }

    fn unexpected(found: &Value) -> Error {
        super::reply::unexpected("XINFO", found, "losses, last ID, entries added, unread, consumers")
    }
}
