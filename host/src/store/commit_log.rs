//! Records what is committed: an entry that is delivered again is not decided again.
//!
//! The process may die between the commit of a batch and its XACK. Its entries come again, and the
//! rules may be others by then: a row could be followed by a dead letter of the same entry. So each
//! transaction also writes which entries it decided, as a row of the table `decided`. That row is
//! deleted some minutes after they are acknowledged, since they may still come again: somebody sets
//! the group back, or Redis is restored as it was.
//!
//! A replica can be frozen while it has a batch in flight, and go on when others have decided its
//! entries. So whoever takes entries over first fences the runs that had them. Each run has a row
//! of the table `commits` for each batch that it may have in flight. A transaction locks the row of
//! its batch, and fails as a whole if that is fenced.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::pool::Purpose;
use super::{Committed, Error, Store, within_timeout};
use crate::batch::{Judged, Tally};
use crate::capabilities::Publication;
use sluicegate_verdicts::{Entry, EntryId};

/// What the transactions of one batch are recorded under: one number, unless the batch is split.
pub struct BatchRecord {
    /// The batch's row of the table `commits`, among those of this run.
    pub(super) slot: i32,
    /// The numbers of which it may be unknown whether they are committed.
    pub(super) numbers: Vec<Number>,
    /// The numbers whose publications were passed on.
    given: HashSet<i64>,
}

impl BatchRecord {
    /// Makes a record for a new batch. No two batches in flight may have the same slot.
    pub fn new(slot: i32) -> Self {
        Self { slot, numbers: Vec::new(), given: HashSet::new() }
    }

    /// Returns what was published for these entries, if a row of this batch says that they are
    /// committed. Leaves the rows of other batches.
    pub(super) fn lookup(
        &mut self,
        run: Uuid,
        rows: &mut Vec<PgRow>,
        entries: &[Entry],
    ) -> Result<Option<Arc<Vec<Publication>>>, Error> {
        let keys: HashSet<EntryKey> = entries.iter().map(EntryKey::from_entry).collect();
        let mut found = None;
        for row in std::mem::take(rows) {
            let (of, number): (Uuid, i64) = (row.try_get("run")?, row.try_get("number")?);
            if of != run || !self.numbers.iter().any(|known| known.get() == number) {
                rows.push(row);
                continue;
            }
            for CommitPart { keys: decided, publications } in decode(row.try_get("entries")?)? {
                let decided: HashSet<EntryKey> = decided.into_iter().collect();
                if found.is_none() && keys.is_subset(&decided) {
                    let is_new = self.given.insert(number);
                    found = Some(if is_new { publications } else { Arc::default() });
                }
            }
        }
        Ok(found)
    }
}

/// The numbers that a run gives its transactions.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers(Arc<Mutex<Given>>);

#[derive(Debug, Default)]
struct Given {
    next: i64,
    /// The numbers whose entries are not acknowledged yet.
    in_use: BTreeSet<i64>,
}

impl Numbers {
    pub(super) fn take(&self) -> Number {
        let mut given = self.0.lock();
        let number = given.next;
        given.next += 1;
        given.in_use.insert(number);
        Number(Arc::new(Held { number, numbers: self.clone() }))
    }

    /// Returns a number before which all are acknowledged, or were never committed.
    fn oldest(&self) -> i64 {
        let given = self.0.lock();
        given.in_use.first().copied().unwrap_or(given.next)
    }
}

/// What a transaction is recorded under. Its row stays at least as long as somebody holds this.
#[derive(Clone, Debug)]
pub struct Number(Arc<Held>);

#[derive(Debug)]
struct Held {
    number: i64,
    numbers: Numbers,
}

impl Number {
    pub(super) fn get(&self) -> i64 {
        self.0.number
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.numbers.0.lock().in_use.remove(&self.number);
    }
}

/// What one transaction has decided, and what its rules have published, to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CommitPart {
    keys: Vec<EntryKey>,
    publications: Arc<Vec<Publication>>,
}

impl CommitPart {
    fn from_batch(batch: &[Judged], publications: Arc<Vec<Publication>>) -> Self {
        Self { keys: batch.iter().map(|judged| EntryKey::from_entry(&judged.entry)).collect(), publications }
    }
}

/// A row of the table `decided`, to be written together with what it tells of.
pub(super) struct Recorded {
    pub(super) slot: i32,
    pub(super) number: i64,
    /// The milliseconds of the smallest and of the greatest ID.
    pub(super) ends: [i64; 2],
    pub(super) entries: Vec<u8>,
}

impl Recorded {
    pub(super) fn from_batch(
        batch: &[Judged],
        publications: &Arc<Vec<Publication>>,
        slot: i32,
        number: &Number,
    ) -> Result<Self, Error> {
        let part = CommitPart::from_batch(batch, Arc::clone(publications));
        let ids = || batch.iter().map(|judged| judged.entry.id);
        Ok(Self { slot, number: number.get(), ends: ends(ids), entries: encode([&part].into_iter())? })
    }
}

/// Returns the milliseconds of the smallest and of the greatest ID, or 0 if there is none.
pub(super) fn ends<I: Iterator<Item = EntryId>>(ids: impl Fn() -> I) -> [i64; 2] {
    [ids().min(), ids().max()].map(|id| id.map_or(0, |id| i64::try_from(id.milliseconds).unwrap_or(i64::MAX)))
}

/// Identifies an entry by its ID and its fields, because a stream that was deleted and made again
/// can use an ID a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EntryKey {
    id: EntryId,
    checksum: u32,
}

impl EntryKey {
    fn from_entry(entry: &Entry) -> Self {
        let mut checksum = crc32fast::Hasher::new();
        for part in entry.fields.iter().flatten().flat_map(|(name, value)| [name, value]) {
            checksum.update(&part.len().to_le_bytes());
            checksum.update(part);
        }
        Self { id: entry.id, checksum: checksum.finalize() }
    }
}

/// A key as it is written: its milliseconds are counted from the key before, so that most of them
/// take one byte.
#[derive(Serialize, Deserialize)]
struct Step(u64, u64, [u8; 4]);

#[derive(Serialize, Deserialize)]
struct EncodedPart<'a>(Vec<Step>, Cow<'a, [Publication]>);

fn encode<'a>(parts: impl Iterator<Item = &'a CommitPart>) -> Result<Vec<u8>, Error> {
    let encoded = |part: &'a CommitPart| {
        let mut last = 0;
        let step = |EntryKey { id, checksum }: &EntryKey| {
            let step = id.milliseconds.wrapping_sub(last);
            last = id.milliseconds;
            Step(step, id.sequence, checksum.to_le_bytes())
        };
        EncodedPart(part.keys.iter().map(step).collect(), Cow::Borrowed(&part.publications))
    };
    let parts: Vec<EncodedPart<'_>> = parts.map(encoded).collect();
    postcard::to_stdvec(&parts).map_err(Error::BatchRecord)
}

fn decode(bytes: &[u8]) -> Result<Vec<CommitPart>, Error> {
    let parts: Vec<EncodedPart<'_>> = postcard::from_bytes(bytes).map_err(Error::BatchRecord)?;
    let decoded = |EncodedPart(steps, publications): EncodedPart<'_>| {
        let mut milliseconds = 0_u64;
        let key = |Step(step, sequence, checksum)| {
            milliseconds = milliseconds.wrapping_add(step);
            EntryKey { id: EntryId { milliseconds, sequence }, checksum: u32::from_le_bytes(checksum) }
        };
        CommitPart {
            keys: steps.into_iter().map(key).collect(),
            publications: Arc::new(publications.into_owned()),
        }
    };
    Ok(parts.into_iter().map(decoded).collect())
}

/// Looks up what earlier runs, and other replicas, have committed.
pub struct CommitLog {
    store: Store,
    /// The parts whose publications were passed on already.
    published: HashSet<Key>,
}

/// The run, the number, and the number of the part.
pub(super) type Key = (Uuid, i64, usize);

impl CommitLog {
    pub(super) fn new(store: Store) -> Self {
        Self { store, published: HashSet::new() }
    }

    /// Ends the runs of these consumers, or all, except this one: what they have in flight cannot
    /// be committed any more. Waits for commits that are under way.
    pub async fn fence(&self, owners: Option<&BTreeSet<String>>) -> Result<(), Error> {
        let store = &self.store;
        let mut pooled = store.acquire(Purpose::Plain).await.map_err(|error| store.database.failed(error))?;
        let fenced =
            within_timeout("fencing earlier runs", fence(store, owners, &mut pooled.connection)).await;
        store.database.finish(pooled, fenced)
    }

    /// Splits entries that are delivered again into those whose outcome is committed and the
    /// others, in their order.
    ///
    /// Whoever had them before is to be [fenced](Self::fence) first, so that its commits are seen.
    pub async fn lookup(&mut self, entries: &[Entry]) -> Result<(Committed, Vec<Entry>), Error> {
        let store = &self.store;
        let mut pooled = store.acquire(Purpose::Plain).await.map_err(|error| store.database.failed(error))?;
        let ends = ends(|| entries.iter().map(|entry| entry.id));
        let known = within_timeout("looking up commits", known(store, ends, &mut pooled.connection)).await;
        let mut known = store.database.finish(pooled, known)?;
        known.publications.retain(|transaction, _| !self.published.contains(transaction));
        let (committed, new, transactions) = known.split(entries);
        self.published.extend(transactions);
        Ok((committed, new))
    }

    /// Forgets what was passed on, since nothing more comes again for now.
    pub fn rest(&mut self) {
        self.published.clear();
    }
}

/// The contents of rows of the table `decided`.
#[derive(Default)]
pub(super) struct Known {
    keys: HashMap<EntryId, (u32, Key)>,
    publications: HashMap<Key, Arc<Vec<Publication>>>,
}

impl Known {
    pub(super) fn from_rows(rows: &[PgRow]) -> Result<Self, Error> {
        let mut known = Self::default();
        for row in rows {
            let (run, transaction) = (row.try_get("run")?, row.try_get("number")?);
            for (number, CommitPart { keys, publications }) in
                decode(row.try_get("entries")?)?.into_iter().enumerate()
            {
                let key = (run, transaction, number);
                known.keys.extend(keys.into_iter().map(|EntryKey { id, checksum }| (id, (checksum, key))));
                known.publications.insert(key, publications);
            }
        }
        Ok(known)
    }

    /// Returns the entries that are decided, with what was published for them; the others, in their
    /// order; and the transactions that decided the former.
    pub(super) fn split(mut self, entries: &[Entry]) -> (Committed, Vec<Entry>, BTreeSet<Key>) {
        let transaction_of = |entry: &Entry| match (self.keys.get(&entry.id), &entry.fields) {
            (None, _) => None,
            // The entry was deleted since, so there is nothing left to compare.
            (Some((_, key)), None) => Some(*key),
            (Some((checksum, key)), Some(_)) => {
                (*checksum == EntryKey::from_entry(entry).checksum).then_some(*key)
            }
        };
        let (mut ids, mut new, mut transactions) = (Vec::new(), Vec::new(), BTreeSet::new());
        for entry in entries {
            match transaction_of(entry) {
                Some(key) => {
                    ids.push(entry.id);
                    transactions.insert(key);
                }
                None => new.push(entry.clone()),
            }
        }
        let mut publications = Vec::new();
        for key in &transactions {
            publications.extend(self.publications.remove(key).iter().flat_map(|of| of.iter().cloned()));
        }
        let tally = Tally { duplicate: u64::try_from(ids.len()).unwrap_or(u64::MAX), ..Tally::default() };
        (
            Committed { ids, tally, ends: Vec::new(), publications: Arc::new(publications), _number: None },
            new,
            transactions,
        )
    }
}

/// Fences the runs of these consumers, or all but this one. Waits for commits under way.
async fn fence(
    store: &Store,
    owners: Option<&BTreeSet<String>>,
    connection: &mut PgConnection,
) -> Result<(), Error> {
    let owners: Option<Vec<&str>> = owners.map(|owners| owners.iter().map(String::as_str).collect());
    let fenced = sqlx::query(
        "UPDATE commits SET fenced_at = now()
         WHERE stream = $1 AND consumer_group = $2 AND ($3::text[] IS NULL OR consumer = ANY ($3)) AND run <> $4
               AND fenced_at IS NULL",
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

async fn known(
    store: &Store,
    [first, last]: [i64; 2],
    connection: &mut PgConnection,
) -> Result<Known, Error> {
    // An earlier version of the program wrote into the table `commits`.
    let rows = sqlx::query(
        "SELECT run, number, entries FROM decided
         WHERE stream = $1 AND consumer_group = $2 AND last >= $3 AND first <= $4
         UNION ALL
         SELECT run, -1 - slot, entries FROM commits
         WHERE stream = $1 AND consumer_group = $2 AND entries <> '\\x00'",
    )
    .bind(&store.stream)
    .bind(&store.group)
    .bind(first)
    .bind(last)
    .fetch_all(connection)
    .await?;
    Known::from_rows(&rows)
}

/// What a run left behind that has not been there for two hours.
#[derive(Debug)]
pub struct StaleRun {
    run: Uuid,
    /// The milliseconds of the smallest ID that it decided.
    pub first: u64,
    pub last: u64,
}

impl Store {
    /// Makes this run's rows before it reads, one for each slot: without them it cannot be fenced.
    /// Renews them every hour, so that nobody takes the run for [stale](Self::stale).
    pub async fn register(&self, slots: usize) -> Result<(), Error> {
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let registered = sqlx::query(
            "INSERT INTO commits (run, slot, stream, consumer_group, consumer, entries)
             SELECT $1, slot, $2, $3, $4, '\\x00' FROM generate_series(0, $5 - 1) AS slot
             ON CONFLICT (run, slot) DO UPDATE SET committed_at = now() WHERE commits.fenced_at IS NULL",
        )
        .bind(self.run)
        .bind(&self.stream)
        .bind(&self.group)
        .bind(&self.database.consumer)
        .bind(i32::try_from(slots).unwrap_or(i32::MAX))
        .execute(&mut pooled.connection);
        let registered = within_timeout("making the rows of a run", registered).await;
        self.database.finish(pooled, registered).map(drop)
    }

    /// Returns about the greatest ID that is known to be decided.
    pub async fn last_decided(&self) -> Result<Option<EntryId>, Error> {
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let last =
            sqlx::query_scalar("SELECT max(last) FROM decided WHERE stream = $1 AND consumer_group = $2")
                .bind(&self.stream)
                .bind(&self.group)
                .fetch_one(&mut pooled.connection);
        let last = within_timeout("looking for the last commit", last).await;
        let last: Option<i64> = self.database.finish(pooled, last)?;
        let milliseconds = last.and_then(|last| u64::try_from(last).ok());
        // Nobody knows which IDs of the last millisecond it were: each is to be looked up.
        Ok(milliseconds.map(|milliseconds| EntryId { milliseconds, sequence: u64::MAX }))
    }

    /// Returns the count of numbers that were given to transactions.
    pub fn numbers_given(&self) -> i64 {
        self.numbers.0.lock().next
    }

    /// Deletes what this run has decided at least this long ago and has acknowledged.
    pub async fn prune_decided(&self, before: Duration) -> Result<(), Error> {
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let deleted = sqlx::query(
            "DELETE FROM decided WHERE run = $1 AND number < $2 AND committed_at < now() - make_interval(secs => $3)",
        )
        .bind(self.run)
        .bind(self.numbers.oldest())
        .bind(before.as_secs_f64())
        .execute(&mut pooled.connection);
        let deleted = within_timeout("deleting what was decided", deleted).await;
        self.database.finish(pooled, deleted).map(drop)
    }

    /// Returns what was decided by runs that are gone, and deletes the rows by which they could be
    /// fenced. Such rows were not renewed for two hours, twice as long as a live run lets pass.
    /// Rows of a fenced run stay for a day, because they keep it from going on.
    pub async fn stale(&self) -> Result<Vec<StaleRun>, Error> {
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let found = async {
            sqlx::query(
                "DELETE FROM commits
                 WHERE stream = $1 AND consumer_group = $2 AND run <> $3
                       AND greatest(committed_at + INTERVAL '2 hours', fenced_at + INTERVAL '1 day') < now()",
            )
            .bind(&self.stream)
            .bind(&self.group)
            .bind(self.run)
            .execute(&mut pooled.connection)
            .await?;
            sqlx::query(
                "SELECT run, min(first) AS first, max(last) AS last FROM decided
                 WHERE stream = $1 AND consumer_group = $2 AND run <> $3
                       AND NOT EXISTS (
                           SELECT FROM commits
                           WHERE commits.run = decided.run AND fenced_at IS NULL
                                 AND commits.committed_at + INTERVAL '2 hours' > now())
                 GROUP BY run HAVING max(committed_at) + INTERVAL '2 hours' < now() LIMIT 1000",
            )
            .bind(&self.stream)
            .bind(&self.group)
            .bind(self.run)
            .fetch_all(&mut pooled.connection)
            .await
        };
        let rows = within_timeout("looking for old commits", found).await;
        let rows = self.database.finish(pooled, rows)?;
        let stale_run = |row: &sqlx::postgres::PgRow| {
            let milliseconds =
                |name| row.try_get::<i64, _>(name).map(|found| u64::try_from(found).unwrap_or(0));
            Ok(StaleRun {
                run: row.try_get("run")?,
                first: milliseconds("first")?,
                last: milliseconds("last")?,
            })
        };
        rows.iter().map(stale_run).collect()
    }

    /// Deletes what a run has left behind.
    pub async fn prune(&self, stale_run: &StaleRun) -> Result<(), Error> {
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let deleted = sqlx::query("DELETE FROM decided WHERE run = $1")
            .bind(stale_run.run)
            .execute(&mut pooled.connection);
        let deleted = within_timeout("deleting old commits", deleted).await;
        self.database.finish(pooled, deleted).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(parts: Vec<(Vec<(u64, u64, u32)>, String)>) {
            let key = |(milliseconds, sequence, checksum)| EntryKey { id: EntryId { milliseconds, sequence }, checksum };
            let publication = |stream| Publication { stream, fields: vec![("a".into(), "b".into())] };
            let parts: Vec<CommitPart> = parts
                .into_iter()
                .map(|(keys, stream)| CommitPart {
                    keys: keys.into_iter().map(key).collect(),
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

    /// The statements that make and read rows of `commits` rely on it.
    #[test]
    fn nothing_is_one_byte() {
        assert_eq!(encode([].into_iter()).expect("plain data"), [0]);
    }

    #[test]
    fn a_batch_in_a_row_is_small() {
        let key = |i: u64| EntryKey {
            id: EntryId { milliseconds: 1_768_689_000_123 + i / 3, sequence: i % 3 },
            checksum: 7,
        };
        let part = CommitPart { keys: (0..100).map(key).collect(), publications: Arc::default() };
        let bytes = encode([&part].into_iter()).expect("plain data");
        assert_eq!(bytes.len(), 3 + 100 * 6 + 5, "six bytes an entry");
    }

    #[test]
    fn the_same_bytes_in_other_fields_are_another_entry() {
        let entry = |name: &str, value: &str| {
            let fields = Some(vec![(name.into(), value.into())]);
            EntryKey::from_entry(&Entry { id: EntryId::ZERO, fields, deliveries: 1 })
        };
        assert_ne!(entry("ab", "c"), entry("a", "bc"));
        assert_eq!(entry("ab", "c"), entry("ab", "c"));
    }
}
