//! How often the process died with an entry in hand, which is what a delivery count is to tell.
//!
//! Redis counts deliveries, and most of them say nothing about the entry: the service was restarted while the database
//! was locked, or the network swallowed a reply. So a read leaves the count as it is, and it is raised only while the
//! rules are asked about an entry that was delivered before.

use super::{Error, Stream, script};
use crate::batch::{Entry, EntryId};

/// Keeps the delivery counts of one consumer's entries.
#[derive(Clone)]
pub struct Attempts {
    stream: Stream,
}

/// Entries that the rules are asked about and that were delivered before, with the number of their deliveries.
#[must_use = "what is in hand must be put down"]
pub struct InHand(Vec<(EntryId, u64)>);

impl Attempts {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// The rules are about to be asked about these entries: whoever reads them after a crash finds those that were
    /// delivered before counted once more.
    pub async fn begin(&self, entries: &[Entry]) -> InHand {
        let is_again = |entry: &&Entry| entry.deliveries > 1 && entry.fields.is_some();
        let in_hand =
            InHand(entries.iter().filter(is_again).map(|entry| (entry.id, entry.deliveries)).collect());
        self.set(&in_hand, 0).await;
        in_hand
    }

    /// The rules have answered: nothing that happens from here on is the entries' fault.
    pub async fn end(&self, in_hand: InHand) {
        self.set(&in_hand, 1).await;
    }

    /// A try. If Redis is away, a crash is not counted, or one is counted that was none. Neither is worth waiting for, as
    /// it takes several in a row until an entry is given up.
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
