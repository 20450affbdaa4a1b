//! Counts how often the process died with an entry in hand, for the entry's delivery count.
//!
//! Most deliveries say nothing about the entry: the service was restarted while the database was
//! locked, or the network swallowed a reply. So a read leaves the count of Redis as it is. It is
//! raised only while the rules are asked about an entry that was delivered before.

use super::{Error, Stream, script};
use sluicegate_verdicts::{Entry, EntryId};

#[derive(Clone)]
pub struct Attempts {
    stream: Stream,
}

/// The entries delivered before that the rules are asked about, with their delivery counts.
#[must_use = "what is in hand must be put down"]
pub struct InHand(Vec<(EntryId, u64)>);

impl Attempts {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// Raises the counts of entries that were delivered before, because the rules are about to be
    /// asked about them. Whoever reads them after a crash finds them counted once more.
    pub async fn begin(&self, entries: &[Entry]) -> InHand {
        let is_again = |entry: &&Entry| entry.deliveries > 1 && entry.fields.is_some();
        let in_hand =
            InHand(entries.iter().filter(is_again).map(|entry| (entry.id, entry.deliveries)).collect());
        self.set(&in_hand, 0).await;
        in_hand
    }

    /// Lowers the counts: the rules have answered, and no later crash is the entries' fault.
    pub async fn end(&self, in_hand: InHand) {
        self.set(&in_hand, 1).await;
    }

    /// Tries to set the counts. While Redis is away, a crash may go uncounted, or one may be
    /// counted that did not happen. Neither is worth waiting for, because giving up an entry takes
    /// several in a row.
    async fn set(&self, InHand(entries): &InHand, less: u64) {
        if entries.is_empty() {
            return;
        }
        let stream = &self.stream;
        let mut command = script(include_str!("attempts.lua"), &stream.name);
        command.arg(&stream.group).arg(&stream.consumer);
        for (id, deliveries) in entries {
            command.arg(id.to_string()).arg(deliveries.saturating_sub(less));
        }
        let set = async {
            let mut shared = stream.redis.shared().await?;
            let set: Result<(), _> = command.query_async(&mut shared.connection).await;
            match set.map_err(|source| stream.error("XCLAIM", source)) {
                Ok(()) => Ok::<(), Error>(()),
                Err(error) => Err(stream.redis.failed(&shared, error).await),
            }
        };
        if let Err(error) = set.await {
            tracing::debug!(%error, "the delivery counts were not set");
        }
    }
}
