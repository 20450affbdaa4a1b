//! The record of what is committed: an entry that is delivered again is not decided again.
//!
//! Between the commit of a batch and its XACK the process may die. Its entries
//! come again, and the rules may be others by then: a row could be followed by
//! a dead letter of the same entry. So each transaction also writes which
//! entries it decided. It overwrites what an earlier batch wrote that is
//! acknowledged since, so the table stays as small as the batches in flight.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Committed, Error, Store, WRITE_PATIENCE};
use crate::batch::{Entry, EntryId, Judged, Tally};

/// What the transactions of one batch have decided so far: one, unless the batch is split.
pub struct Record {
    /// Which row of the table, among those of this run.
    pub(super) slot: i32,
    marks: Vec<Mark>,
}

impl Record {
    /// For a new batch. No two batches in flight may have the same slot.
    pub fn new(slot: i32) -> Self {
        Self { slot, marks: Vec::new() }
    }

    /// With these entries added, as the column `entries` has it.
    pub(super) fn encoded_with(&self, batch: &[Judged]) -> Result<Vec<u8>, Error> {
        let marks = self.marks.iter().copied().chain(batch.iter().map(|judged| Mark::of(&judged.entry)));
        encode(marks)
    }

    /// They are committed.
    pub(super) fn extend(&mut self, batch: &[Judged]) {
        self.marks.extend(batch.iter().map(|judged| Mark::of(&judged.entry)));
    }
}

/// An entry, by its ID and by its fields: a stream that was deleted and made
/// again can use an ID a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    id: EntryId,
    checksum: u32,
}

impl Mark {
    fn of(entry: &Entry) -> Self {
        let mut checksum = crc32fast::Hasher::new();
        for part in entry.fields.iter().flatten().flat_map(|(name, value)| [name, value]) {
            checksum.update(&part.len().to_le_bytes());
            checksum.update(part);
        }
        Self { id: entry.id, checksum: checksum.finalize() }
    }
}

/// A mark as it is written: the milliseconds counted from the mark before, so
/// that most are one byte.
#[derive(Serialize, Deserialize)]
struct Step(u64, u64, [u8; 4]);

fn encode(marks: impl Iterator<Item = Mark>) -> Result<Vec<u8>, Error> {
    let mut last = 0;
    let steps: Vec<Step> = marks
        .map(|Mark { id, checksum }| {
            let step = id.milliseconds.wrapping_sub(last);
            last = id.milliseconds;
            Step(step, id.sequence, checksum.to_le_bytes())
        })
        .collect();
    postcard::to_stdvec(&steps).map_err(Error::Record)
}

fn decode(bytes: &[u8]) -> Result<Vec<Mark>, Error> {
    let mut milliseconds = 0_u64;
    let steps: Vec<Step> = postcard::from_bytes(bytes).map_err(Error::Record)?;
    let mark = |Step(step, sequence, checksum)| {
        milliseconds = milliseconds.wrapping_add(step);
        Mark { id: EntryId { milliseconds, sequence }, checksum: u32::from_le_bytes(checksum) }
    };
    Ok(steps.into_iter().map(mark).collect())
}

/// What earlier runs, and other replicas, have committed.
pub struct Records {
    store: Store,
    /// Kept while entries come again.
    connection: Option<PgConnection>,
}

impl Records {
    pub(super) fn new(store: Store) -> Self {
        Self { store, connection: None }
    }

    /// Of entries that are delivered again, those whose fate is committed, and
    /// the others, in their order.
    pub async fn recall(&mut self, entries: &[Entry]) -> Result<(Committed, Vec<Entry>), Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.connect().await?,
        };
        let known = known(&self.store, &mut connection);
        let known = tokio::time::timeout(WRITE_PATIENCE, known)
            .await
            .map_err(|_| Error::TimedOut { what: "recalling commits", after: WRITE_PATIENCE })??;
        self.connection = Some(connection);
        let is_known = |entry: &Entry| match (known.get(&entry.id), &entry.fields) {
            (None, _) => false,
            // Deleted since: there is nothing left to compare.
            (Some(_), None) => true,
            (Some(checksum), Some(_)) => *checksum == Mark::of(entry).checksum,
        };
        let (known, new): (Vec<Entry>, Vec<Entry>) = entries.iter().cloned().partition(is_known);
        let ids: Vec<EntryId> = known.into_iter().map(|entry| entry.id).collect();
        let tally = Tally { duplicate: u64::try_from(ids.len()).unwrap_or(u64::MAX), ..Tally::default() };
        Ok((Committed { ids, tally }, new))
    }

    /// Nothing more comes again for now.
    pub fn rest(&mut self) {
        self.connection = None;
    }
}

async fn known(store: &Store, connection: &mut PgConnection) -> Result<HashMap<EntryId, u32>, Error> {
    let rows = sqlx::query("SELECT entries FROM commits WHERE stream = $1 AND consumer_group = $2")
        .bind(&store.stream)
        .bind(&store.group)
        .fetch_all(connection)
        .await?;
    let mut known = HashMap::new();
    for row in rows {
        let marks = decode(row.try_get("entries")?)?;
        known.extend(marks.into_iter().map(|Mark { id, checksum }| (id, checksum)));
    }
    Ok(known)
}

/// A row that a run left behind, an hour ago or longer.
#[derive(Debug)]
pub struct Leftover {
    run: Uuid,
    slot: i32,
    encoded: Vec<u8>,
    /// The smallest ID in it.
    pub first: EntryId,
    /// The greatest.
    pub last: EntryId,
}

impl Store {
    /// What was not overwritten for an hour: that of runs that ended, and of idle replicas.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let mut connection = self.connect().await?;
        let rows = sqlx::query(
            "SELECT run, slot, entries FROM commits
             WHERE stream = $1 AND consumer_group = $2 AND run <> $3 AND committed_at < now() - INTERVAL '1 hour'
             ORDER BY committed_at LIMIT 1000",
        )
        .bind(&self.stream)
        .bind(&self.group)
        .bind(self.run)
        .fetch_all(&mut connection)
        .await?;
        let leftover = |row: &sqlx::postgres::PgRow| {
            let encoded: Vec<u8> = row.try_get("entries")?;
            let ids = decode(&encoded)?.into_iter().map(|mark| mark.id);
            let first = ids.clone().min().unwrap_or(EntryId::ZERO);
            let last = ids.max().unwrap_or(EntryId::ZERO);
            Ok(Leftover { run: row.try_get("run")?, slot: row.try_get("slot")?, encoded, first, last })
        };
        rows.iter().map(leftover).collect()
    }

    /// Deletes a row, unless it was overwritten meanwhile.
    pub async fn forget(&self, leftover: &Leftover) -> Result<(), Error> {
        let mut connection = self.connect().await?;
        sqlx::query("DELETE FROM commits WHERE run = $1 AND slot = $2 AND entries = $3")
            .bind(leftover.run)
            .bind(leftover.slot)
            .bind(&leftover.encoded)
            .execute(&mut connection)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(marks: Vec<(u64, u64, u32)>) {
            let marks: Vec<Mark> = marks
                .into_iter()
                .map(|(milliseconds, sequence, checksum)| Mark { id: EntryId { milliseconds, sequence }, checksum })
                .collect();
            let bytes = encode(marks.iter().copied()).expect("plain numbers");
            assert_eq!(decode(&bytes).expect("as it was written"), marks);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_batch_in_a_row_is_small() {
        let mark = |i: u64| Mark {
            id: EntryId { milliseconds: 1_768_689_000_123 + i / 3, sequence: i % 3 },
            checksum: 7,
        };
        let bytes = encode((0..100).map(mark)).expect("plain numbers");
        assert_eq!(bytes.len(), 1 + 100 * 6 + 5, "six bytes an entry");
    }

    #[test]
    fn the_same_bytes_in_other_fields_are_another_entry() {
        let entry = |name: &str, value: &str| {
            let fields = Some(vec![(name.into(), value.into())]);
            Mark::of(&Entry { id: EntryId::ZERO, fields, deliveries: 1 })
        };
        assert_ne!(entry("ab", "c"), entry("a", "bc"));
        assert_eq!(entry("ab", "c"), entry("ab", "c"));
    }
}
