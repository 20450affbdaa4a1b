//! The record of what is committed: an entry that is delivered again is not decided again.
//!
//! Between the commit of a batch and its XACK the process may die. Its entries
//! come again, and the rules may be others by then: a row could be followed by
//! a dead letter of the same entry. So each transaction also writes which
//! entries it decided. It overwrites what an earlier batch wrote that is
//! acknowledged since, so the table stays as small as the batches in flight.
//!
//! A replica can be frozen while it has a batch in flight, and go on when others
//! have decided its entries. So who takes entries over first fences the runs
//! that had them: their rows here can no longer be overwritten, and a
//! transaction that cannot do that fails as a whole.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::lending::Purpose;
use super::{Committed, Error, Store, patient};
use crate::batch::{Entry, EntryId, Judged, Tally};
use crate::capabilities::Publication;

/// What the transactions of one batch have decided so far: one, unless the batch is split.
pub struct Record {
    /// Which row of the table, among those of this run.
    pub(super) slot: i32,
    parts: Vec<Part>,
}

/// What one transaction has decided, and what its rules have published, which is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    marks: Vec<Mark>,
    publications: Arc<Vec<Publication>>,
}

impl Part {
    fn of(batch: &[Judged], publications: Arc<Vec<Publication>>) -> Self {
        Self { marks: batch.iter().map(|judged| Mark::of(&judged.entry)).collect(), publications }
    }
}

impl Record {
    /// For a new batch. No two batches in flight may have the same slot.
    pub fn new(slot: i32) -> Self {
        Self { slot, parts: Vec::new() }
    }

    /// With these entries added, as the column `entries` has it.
    pub(super) fn encoded_with(
        &self,
        batch: &[Judged],
        publications: &Arc<Vec<Publication>>,
    ) -> Result<Vec<u8>, Error> {
        let part = Part::of(batch, Arc::clone(publications));
        encode(self.parts.iter().chain([&part]))
    }

    /// What was published for these entries, if the row of this place says that they are committed.
    pub(super) fn recall(
        &mut self,
        row: &[u8],
        entries: &[Entry],
    ) -> Result<Option<Arc<Vec<Publication>>>, Error> {
        let marks: Vec<Mark> = entries.iter().map(Mark::of).collect();
        let Some(part) = decode(row)?.pop().filter(|part| part.marks == marks) else { return Ok(None) };
        let publications = Arc::clone(&part.publications);
        self.parts.push(part);
        Ok(Some(publications))
    }

    /// They are committed.
    pub(super) fn extend(&mut self, batch: &[Judged], publications: Arc<Vec<Publication>>) {
        self.parts.push(Part::of(batch, publications));
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

#[derive(Serialize, Deserialize)]
struct EncodedPart<'a>(Vec<Step>, Cow<'a, [Publication]>);

fn encode<'a>(parts: impl Iterator<Item = &'a Part>) -> Result<Vec<u8>, Error> {
    let encoded = |part: &'a Part| {
        let mut last = 0;
        let step = |Mark { id, checksum }: &Mark| {
            let step = id.milliseconds.wrapping_sub(last);
            last = id.milliseconds;
            Step(step, id.sequence, checksum.to_le_bytes())
        };
        EncodedPart(part.marks.iter().map(step).collect(), Cow::Borrowed(&part.publications))
    };
    let parts: Vec<EncodedPart<'_>> = parts.map(encoded).collect();
    postcard::to_stdvec(&parts).map_err(Error::Record)
}

fn decode(bytes: &[u8]) -> Result<Vec<Part>, Error> {
    let parts: Vec<EncodedPart<'_>> = postcard::from_bytes(bytes).map_err(Error::Record)?;
    let decoded = |EncodedPart(steps, publications): EncodedPart<'_>| {
        let mut milliseconds = 0_u64;
        let mark = |Step(step, sequence, checksum)| {
            milliseconds = milliseconds.wrapping_add(step);
            Mark { id: EntryId { milliseconds, sequence }, checksum: u32::from_le_bytes(checksum) }
        };
        Part {
            marks: steps.into_iter().map(mark).collect(),
            publications: Arc::new(publications.into_owned()),
        }
    };
    Ok(parts.into_iter().map(decoded).collect())
}

/// What earlier runs, and other replicas, have committed.
pub struct Records {
    store: Store,
    /// The parts whose publications were passed on meanwhile.
    published: HashSet<Key>,
}

/// Run, slot, number of the part.
type Key = (Uuid, i32, usize);

impl Records {
    pub(super) fn new(store: Store) -> Self {
        Self { store, published: HashSet::new() }
    }

    /// Of entries that are delivered again, those whose fate is committed, and
    /// the others, in their order.
    ///
    /// They were delivered to these consumers before. Whatever of theirs is in flight yet can no longer commit.
    pub async fn recall(
        &mut self,
        entries: &[Entry],
        owners: &BTreeSet<String>,
    ) -> Result<(Committed, Vec<Entry>), Error> {
        let known = self.fence_and_look(owners).await;
        let mut known = known.map_err(|error| self.store.database.failed(error))?;
        let of = |entry: &Entry| match (known.marks.get(&entry.id), &entry.fields) {
            (None, _) => None,
            // Deleted since: there is nothing left to compare.
            (Some((_, key)), None) => Some(*key),
            (Some((checksum, key)), Some(_)) => (*checksum == Mark::of(entry).checksum).then_some(*key),
        };
        let (mut ids, mut new, mut keys) = (Vec::new(), Vec::new(), BTreeSet::new());
        for entry in entries {
            match of(entry) {
                Some(key) => {
                    ids.push(entry.id);
                    keys.insert(key);
                }
                None => new.push(entry.clone()),
            }
        }
        let mut publications = Vec::new();
        for key in keys {
            if self.published.insert(key) {
                publications.extend(
                    known.publications.remove(&key).iter().flat_map(|published| published.iter().cloned()),
                );
            }
        }
        let tally = Tally { duplicate: u64::try_from(ids.len()).unwrap_or(u64::MAX), ..Tally::default() };
        Ok((Committed { ids, tally, publications: Arc::new(publications) }, new))
    }

    async fn fence_and_look(&self, owners: &BTreeSet<String>) -> Result<Known, Error> {
        let mut loan = self.store.borrow(Purpose::Plain).await?;
        let known = async {
            // First, and to its end: what commits before it is seen then.
            fence(&self.store, owners, &mut loan.connection).await?;
            known(&self.store, &mut loan.connection).await
        };
        let known = patient("recalling commits", known).await?;
        loan.give_back(&self.store.database);
        Ok(known)
    }

    /// Nothing more comes again for now.
    pub fn rest(&mut self) {
        self.published.clear();
    }
}

#[derive(Default)]
struct Known {
    marks: HashMap<EntryId, (u32, Key)>,
    publications: HashMap<Key, Arc<Vec<Publication>>>,
}

/// Ends the runs of these consumers, but for this one: waits for what they commit just now, and refuses the rest.
async fn fence(store: &Store, owners: &BTreeSet<String>, connection: &mut PgConnection) -> Result<(), Error> {
    let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
    let fenced = sqlx::query(
        "UPDATE commits SET fenced_at = now()
         WHERE stream = $1 AND consumer_group = $2 AND consumer = ANY ($3) AND run <> $4 AND fenced_at IS NULL",
    )
    .bind(&store.stream)
    .bind(&store.group)
    .bind(owners)
    .bind(store.run)
    .execute(connection)
    .await?;
    tracing::debug!(rows = fenced.rows_affected(), "fenced earlier runs");
    Ok(())
}

async fn known(store: &Store, connection: &mut PgConnection) -> Result<Known, Error> {
    let rows =
        sqlx::query("SELECT run, slot, entries FROM commits WHERE stream = $1 AND consumer_group = $2")
            .bind(&store.stream)
            .bind(&store.group)
            .fetch_all(connection)
            .await?;
    let mut known = Known::default();
    for row in rows {
        let (run, slot) = (row.try_get("run")?, row.try_get("slot")?);
        for (number, Part { marks, publications }) in decode(row.try_get("entries")?)?.into_iter().enumerate()
        {
            let key = (run, slot, number);
            known.marks.extend(marks.into_iter().map(|Mark { id, checksum }| (id, (checksum, key))));
            known.publications.insert(key, publications);
        }
    }
    Ok(known)
}

/// A row that a run left behind, two hours ago or longer.
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
    /// Makes the rows of this run, for so many batches in flight, before it reads: what is not there cannot
    /// be fenced. Then, every hour, renews them, so that nobody takes them for [leftovers](Self::leftovers).
    pub async fn enlist(&self, slots: usize) -> Result<(), Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let enlisted = sqlx::query(
            "INSERT INTO commits (run, slot, stream, consumer_group, consumer, entries)
             SELECT $1, slot, $2, $3, $4, '\\x00' FROM generate_series(0, $5 - 1) AS slot
             ON CONFLICT (run, slot) DO UPDATE SET committed_at = now() WHERE commits.fenced_at IS NULL",
        )
        .bind(self.run)
        .bind(&self.stream)
        .bind(&self.group)
        .bind(&self.database.consumer)
        .bind(i32::try_from(slots).unwrap_or(i32::MAX))
        .execute(&mut loan.connection);
        let enlisted = patient("making the rows of a run", enlisted).await;
        self.database.settle(loan, enlisted).map(drop)
    }

    /// What was not overwritten for two hours, twice as long as a run that lives lets pass, and, for a
    /// day, what keeps a run from going on that was fenced.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let rows = sqlx::query(
            "SELECT run, slot, entries FROM commits
             WHERE stream = $1 AND consumer_group = $2 AND run <> $3
                   AND greatest(committed_at + INTERVAL '2 hours', fenced_at + INTERVAL '1 day') < now()
             ORDER BY committed_at LIMIT 1000",
        )
        .bind(&self.stream)
        .bind(&self.group)
        .bind(self.run)
        .fetch_all(&mut loan.connection);
        let rows = patient("looking for old commits", rows).await;
        let rows = self.database.settle(loan, rows)?;
        let leftover = |row: &sqlx::postgres::PgRow| {
            let encoded: Vec<u8> = row.try_get("entries")?;
            let marks = decode(&encoded)?.into_iter().flat_map(|part| part.marks);
            let ids: Vec<EntryId> = marks.map(|mark| mark.id).collect();
            let first = ids.iter().copied().min().unwrap_or(EntryId::ZERO);
            let last = ids.into_iter().max().unwrap_or(EntryId::ZERO);
            Ok(Leftover { run: row.try_get("run")?, slot: row.try_get("slot")?, encoded, first, last })
        };
        rows.iter().map(leftover).collect()
    }

    /// Deletes a row, unless it was overwritten meanwhile.
    pub async fn forget(&self, leftover: &Leftover) -> Result<(), Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let deleted = sqlx::query("DELETE FROM commits WHERE run = $1 AND slot = $2 AND entries = $3")
            .bind(leftover.run)
            .bind(leftover.slot)
            .bind(&leftover.encoded)
            .execute(&mut loan.connection);
        let deleted = patient("deleting old commits", deleted).await;
        self.database.settle(loan, deleted).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(parts: Vec<(Vec<(u64, u64, u32)>, String)>) {
            let mark = |(milliseconds, sequence, checksum)| Mark { id: EntryId { milliseconds, sequence }, checksum };
            let publication = |stream| Publication { stream, fields: vec![("a".into(), "b".into())] };
            let parts: Vec<Part> = parts
                .into_iter()
                .map(|(marks, stream)| Part {
                    marks: marks.into_iter().map(mark).collect(),
                    publications: Arc::new(vec![publication(stream)]),
                })
                .collect();
            let bytes = encode(parts.iter()).expect("plain data");
            assert_eq!(decode(&bytes).expect("as it was written"), parts);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    /// As the statement that takes a place has it.
    #[test]
    fn nothing_is_one_byte() {
        assert_eq!(encode([].into_iter()).expect("plain data"), [0]);
    }

    #[test]
    fn a_batch_in_a_row_is_small() {
        let mark = |i: u64| Mark {
            id: EntryId { milliseconds: 1_768_689_000_123 + i / 3, sequence: i % 3 },
            checksum: 7,
        };
        let part = Part { marks: (0..100).map(mark).collect(), publications: Arc::default() };
        let bytes = encode([&part].into_iter()).expect("plain data");
        assert_eq!(bytes.len(), 3 + 100 * 6 + 5, "six bytes an entry");
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
