//! Reads what a stream still holds. No consumer group is touched.

use redis::{Cmd, Value};

use super::{Error, Stream, reply};
use sluicegate_verdicts::{Entry, EntryId};

/// The entries of one reply. Each of them may be large.
const PAGE: usize = 500;

/// A part of a stream, from its oldest entry to its newest.
pub struct History {
    stream: Stream,
    /// Where the next page begins, as XRANGE has it.
    next: String,
    /// The last entry that belongs to it, or `None` once all was read.
    last: Option<EntryId>,
}

impl Stream {
    /// Finds the newest `most` entries with IDs within `from..=to`, as the stream is now. Entries that are added later do not
    /// belong to it; those that are trimmed meanwhile are left out.
    pub async fn history(&self, from: EntryId, to: EntryId, most: u64) -> Result<History, Error> {
        let (mut first, mut last, mut left, mut end) = (to, None, most, to.to_string());
        while left > 0 {
            let count = usize::try_from(left).map_or(PAGE, |left| left.min(PAGE));
            let mut command = redis::cmd("XREVRANGE");
            command.arg(&self.name).arg(end).arg(from.to_string()).arg("COUNT").arg(count);
            let page = self.entries("XREVRANGE", &command).await?;
            let Some(oldest) = page.last() else { break };
            last = last.or(page.first().map(|entry| entry.id));
            first = oldest.id;
            left = left.saturating_sub(u64::try_from(page.len()).unwrap_or(u64::MAX));
            end = exclusive(first);
            if page.len() < count {
                break;
            }
        }
        Ok(History { stream: self.clone(), next: first.to_string(), last })
    }

    async fn entries(&self, name: &'static str, command: &Cmd) -> Result<Vec<Entry>, Error> {
        let mut shared = self.redis.shared().await?;
        match command.query_async::<Value>(&mut shared.connection).await {
            Ok(found) => reply::listed(name, found),
            Err(source) => Err(self.redis.failed(&shared, self.error(name, source)).await),
        }
    }
}

impl History {
    /// Returns the next entries, or none if that were all.
    pub async fn next_page(&mut self) -> Result<Vec<Entry>, Error> {
        let Some(last) = self.last else { return Ok(Vec::new()) };
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.stream.name).arg(&self.next).arg(last.to_string()).arg("COUNT").arg(PAGE);
        let page = self.stream.entries("XRANGE", &command).await?;
        match page.last() {
            Some(newest) if newest.id < last => self.next = exclusive(newest.id),
            _ => self.last = None,
        }
        Ok(page)
    }
}

/// Returns an end of a range to which the entry itself does not belong.
fn exclusive(id: EntryId) -> String {
    format!("({id}")
}
