//! The rows of a batch, and the statements that insert them.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::columns::{self, Statement};
use super::commit_log::Recorded;
use super::timestamp::Timestamp;
use super::{Error, Store};
use crate::batch::{Ended, Judged, Tally};
use crate::batch_budget;
use crate::config::TableName;
use sluicegate_verdicts::{Event, Outcome, Vec1};

/// The column that names the version of the rules that made a row, if the table has it.
pub(super) const VERSION: &str = "rules_version";

/// The statements that write a tenant's table.
///
/// Each takes any number of rows: an array of values is one parameter. So it is prepared once, and is
/// far from PostgreSQL's limit of 65,535.
#[derive(Clone)]
pub(super) struct Inserts {
    insert: Arc<str>,
    /// Inserts, and returns which rows were new.
    insert_returning: Arc<str>,
    insert_unrecorded_returning: Arc<str>,
    /// Counts the keys that are not in the table.
    missing: Arc<str>,
}

/// Records the batch in the same statement. Its parameters come after so many others.
fn recorded(parameters: usize) -> String {
    let [run, place, number, stream, group, first, last, entries]: [usize; 8] =
        std::array::from_fn(|i| parameters + 1 + i);
    format!(
        "WITH recorded AS (
             INSERT INTO decided (run, number, stream, consumer_group, first, last, entries)
             SELECT ${run}, ${number}, ${stream}, ${group}, ${first}, ${last}, ${entries}
             WHERE sluicegate_hold(${run}, ${place})
             ON CONFLICT (run, number) DO UPDATE
             SET first = EXCLUDED.first, last = EXCLUDED.last, entries = EXCLUDED.entries, committed_at = now()
         ) "
    )
}

impl Inserts {
    /// Makes the statements for a table, which may have a column for the version of the rules.
    pub(super) fn new(table: &TableName, has_version: bool) -> Self {
        let table = table.quoted();
        let version = columns::PARAMETERS + 1;
        let (parameters, column, value) = match has_version {
            true => (version, format!(", {VERSION}"), format!(", ${version}::int")),
            false => (columns::PARAMETERS, String::new(), String::new()),
        };
        let recorded = recorded(parameters);
        let insert = format!(
            "INSERT INTO {table} ({}{column}) {} ON CONFLICT ({}) DO NOTHING",
            columns::names(),
            columns::rows_sent(&value),
            columns::KEY
        );
        Self {
            insert: format!("{recorded}{insert}").into(),
            insert_returning: format!("{recorded}{insert} RETURNING {}", columns::KEY).into(),
            insert_unrecorded_returning: format!("{insert} RETURNING {}", columns::KEY).into(),
            // The list of times stands there once more, so that only their chunks are looked at.
            missing: format!(
                "SELECT count(*) FROM UNNEST($1::timestamptz[], $2::uuid[]) AS wanted (time, event_id)
                 WHERE NOT EXISTS (
                     SELECT FROM {table} AS event
                     WHERE event.time = ANY ($1) AND event.time = wanted.time AND event.event_id = wanted.event_id)"
            )
            .into(),
        }
    }
}

/// The keys of rows: ID and time.
pub(super) type Keys = HashSet<(Uuid, DateTime<Utc>)>;

/// Reads keys. A row whose time cannot be read is none of the batch: a trigger has changed it.
fn keys(rows: &[PgRow]) -> Result<Keys, Error> {
    let time = |row: &PgRow| row.try_get::<Timestamp, _>(1).ok().and_then(|time| time.try_into().ok());
    let keys = rows.iter().filter_map(|row| time(row).map(|time| Ok((row.try_get(0)?, time))));
    Ok(keys.collect::<Result<_, sqlx::Error>>()?)
}

/// The rows that the statement added.
pub(super) enum NewRows {
    /// How many rows were new, in a batch in which each entry has one row.
    Count(u64),
    Keys(Keys),
}

impl NewRows {
    fn count(&self) -> usize {
        match self {
            Self::Count(count) => usize::try_from(*count).unwrap_or(usize::MAX),
            Self::Keys(keys) => keys.len(),
        }
    }

    /// Adds the rows that an earlier statement of the same batch has added.
    pub(super) fn and(self, earlier: Keys) -> Self {
        match self {
            Self::Count(_) => self,
            Self::Keys(mut keys) => {
                keys.extend(earlier);
                Self::Keys(keys)
            }
        }
    }
}

/// Tells how the entries ended: in all, and each one where it is known.
pub(super) fn ends_of(batch: &[Judged], mut new_rows: NewRows) -> (Tally, Vec<Option<Ended>>) {
    let with_rows = batch.iter().filter(|judged| matches!(judged.outcome, Outcome::Store(_))).count();
    let with_rows = u64::try_from(with_rows).unwrap_or(u64::MAX);
    let mut tally = Tally::default();
    if let NewRows::Count(count) = new_rows {
        tally.stored = count;
        tally.duplicate = with_rows.saturating_sub(count);
    }
    let mut end = |Judged { outcome, .. }: &Judged| {
        let ended = match (outcome, &mut new_rows) {
            // They are counted above.
            (Outcome::Store(_), NewRows::Count(0)) => return Some(Ended::Duplicate),
            (Outcome::Store(_), NewRows::Count(count)) => {
                return (*count == with_rows).then_some(Ended::Stored);
            }
            (Outcome::Store(events), NewRows::Keys(keys)) => match take_new(events, keys) {
                true => Ended::Stored,
                false => Ended::Duplicate,
            },
            (Outcome::DeadLetter(reason, _), _) => Ended::from(*reason),
            (Outcome::Discard(_), _) => Ended::Discarded,
        };
        tally.count(ended);
        Some(ended)
    };
    let ends = batch.iter().map(&mut end).collect();
    (tally, ends)
}

/// Returns whether any of an entry's rows is new. A new row is of the first entry that wanted it:
/// for later ones it was there already.
pub(super) fn take_new(events: &Vec1<Event>, keys: &mut Keys) -> bool {
    let new = events.as_slice().iter().filter(|event| keys.remove(&(event.event_id, event.time)));
    new.count() > 0
}

/// The events of a batch.
pub(super) struct Rows<'a> {
    /// They are in the order of their keys, so that concurrent batches lock in one order.
    events: Vec<&'a Event>,
    /// Whether it is enough to know how many rows are new: each entry has exactly one row.
    one_each: bool,
    /// The number of the version that judged the batch.
    version: Option<i32>,
}

impl<'a> Rows<'a> {
    /// If `asks_for_new`, each new row is told in any case.
    pub(super) fn from_batch(batch: &'a [Judged], asks_for_new: bool) -> Self {
        let stored = batch.iter().filter_map(|judged| match &judged.outcome {
            Outcome::Store(events) => Some(events),
            Outcome::DeadLetter(..) | Outcome::Discard(_) => None,
        });
        let one_each = !asks_for_new && stored.clone().all(|events| matches!(events, Vec1::One(_)));
        let mut events: Vec<&Event> = stored.flat_map(Vec1::as_slice).collect();
        // The sort is stable: of rows with one key, the first in the order of the stream is stored.
        events.sort_by_key(|event| event.key());
        Self { events, one_each, version: batch.first().and_then(|judged| judged.version.number) }
    }

    /// Splits off portions, until no more is left than one statement should have. It gives none if
    /// each entry has one row, because a batch has few enough entries.
    pub(super) fn split_excess(&mut self) -> Vec<Self> {
        let mut portions = Vec::new();
        if self.one_each {
            return portions;
        }
        let (mut rows, mut bytes) = (0, 0);
        let events = std::mem::take(&mut self.events);
        for event in events {
            (rows, bytes) = (rows + 1, bytes + event.bytes());
            let is_full = rows > batch_budget::ROWS_AT_ONCE || bytes > batch_budget::BYTES_AT_ONCE;
            if is_full && !self.events.is_empty() {
                portions.push(Self {
                    events: std::mem::take(&mut self.events),
                    one_each: false,
                    version: self.version,
                });
                (rows, bytes) = (1, event.bytes());
            }
            self.events.push(event);
        }
        portions
    }

    /// Inserts the rows and the record of the batch, even if there are no rows.
    pub(super) async fn insert(
        &self,
        store: &Store,
        recorded: &Recorded,
        connection: &mut PgConnection,
    ) -> Result<NewRows, Error> {
        let inserts = store.inserts();
        let statement = if self.one_each { &inserts.insert } else { &inserts.insert_returning };
        let query = self
            .bound(statement, store)
            .bind(store.run)
            .bind(recorded.slot)
            .bind(recorded.number)
            .bind(&store.stream)
            .bind(&store.group)
            .bind(recorded.ends[0])
            .bind(recorded.ends[1])
            .bind(&recorded.entries);
        let new_rows = match self.one_each {
            true => NewRows::Count(query.execute(&mut *connection).await?.rows_affected()),
            false => NewRows::Keys(keys(&query.fetch_all(&mut *connection).await?)?),
        };
        self.check_for_dropped(store, new_rows.count(), connection).await?;
        Ok(new_rows)
    }

    /// Checks that the rows that were not new are there. A trigger can drop a row without a word.
    async fn check_for_dropped(
        &self,
        store: &Store,
        new_rows: usize,
        connection: &mut PgConnection,
    ) -> Result<(), Error> {
        if new_rows >= self.events.len() || !store.table_can_drop_rows(&mut *connection).await? {
            return Ok(());
        }
        let missing: i64 = sqlx::query_scalar(AssertSqlSafe(Arc::clone(&store.inserts().missing)))
            .bind(self.events.iter().map(|event| event.time).collect::<Vec<_>>())
            .bind(self.events.iter().map(|event| event.event_id).collect::<Vec<_>>())
            .fetch_one(connection)
            .await?;
        match missing {
            0 => Ok(()),
            rows => Err(Error::Dropped { rows: rows.unsigned_abs(), table: store.table.to_string() }),
        }
    }

    /// Inserts rows without a record, and returns the keys of the new ones.
    pub(super) async fn insert_returning(
        &self,
        store: &Store,
        connection: &mut PgConnection,
    ) -> Result<Keys, Error> {
        let statement = self.bound(&store.inserts().insert_unrecorded_returning, store);
        let new = keys(&statement.fetch_all(&mut *connection).await?)?;
        self.check_for_dropped(store, new.len(), connection).await?;
        Ok(new)
    }

    fn bound<'q>(&self, statement: &Arc<str>, store: &Store) -> Statement<'q> {
        let bound = columns::bind(sqlx::query(AssertSqlSafe(Arc::clone(statement))), &self.events);
        if store.has_version_column() { bound.bind(self.version) } else { bound }
    }
}
