//! Writes a batch: its events and dead letters in one transaction.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _};
use uuid::Uuid;

use super::commit_log::{Known, Recorded, ends};
use super::dead_letter_rows::Letters;
use super::pool::Purpose;
use super::session::{self, Session};
use super::timestamp::Timestamp;
use super::{BatchRecord, Committed, Error, Number, Remedy, Store, WRITING, within_timeout};
use crate::batch::{Entry, EntryId, Event, Judged, Outcome, Reason, Tally, Vec1};
use crate::batch_budget;
use crate::capabilities::Publication;
use crate::config::TableName;
use crate::failpoint::failpoint;

/// The statements that write a tenant's table.
///
/// Each takes any number of rows: five arrays are five parameters. So it is prepared once, and is
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

/// Records the batch in the same statement.
const RECORDED: &str = "WITH recorded AS (
         INSERT INTO decided (run, number, stream, consumer_group, first, last, entries)
         SELECT $6, $8, $9, $10, $11, $12, $13 WHERE sluicegate_hold($6, $7)
         ON CONFLICT (run, number) DO UPDATE
         SET first = EXCLUDED.first, last = EXCLUDED.last, entries = EXCLUDED.entries, committed_at = now()
     ) ";
const RETURNING: &str = " RETURNING event_id, time";

impl Inserts {
    pub(super) fn new(table: &TableName) -> Self {
        let insert = format!(
            "INSERT INTO {table} (time, event_id, event_type, user_id, properties)
             SELECT time, event_id, event_type, user_id, properties::jsonb
             FROM UNNEST($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[])
                  AS event (time, event_id, event_type, user_id, properties)
             ON CONFLICT (event_id, time) DO NOTHING",
            table = table.quoted()
        );
        Self {
            insert: format!("{RECORDED}{insert}").into(),
            insert_returning: format!("{RECORDED}{insert}{RETURNING}").into(),
            insert_unrecorded_returning: format!("{insert}{RETURNING}").into(),
            // The list of times stands there once more, so that only their chunks are looked at.
            missing: format!(
                "SELECT count(*) FROM UNNEST($1::timestamptz[], $2::uuid[]) AS wanted (time, event_id)
                 WHERE NOT EXISTS (
                     SELECT FROM {table} AS event
                     WHERE event.time = ANY ($1) AND event.time = wanted.time AND event.event_id = wanted.event_id)",
                table = table.quoted()
            )
            .into(),
        }
    }
}

/// Writes one batch after the other, over connections that all tenants share.
pub struct Writer {
    store: Store,
}

impl Writer {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Writes the events and the dead letters of a batch, all or nothing.
    ///
    /// It is idempotent: a batch whose outcome is unknown is written again. When this is cancelled
    /// or fails, an open transaction is rolled back, mostly by closing its connection.
    pub async fn write(
        &mut self,
        batch: &[Judged],
        record: &BatchRecord,
        number: &Number,
    ) -> Result<Committed, Error> {
        let written = self.try_write(batch, record, number).await;
        written.map_err(|error| self.store.database.failed(error))
    }

    async fn try_write(
        &mut self,
        batch: &[Judged],
        record: &BatchRecord,
        number: &Number,
    ) -> Result<Committed, Error> {
        let rows = Rows::from_batch(batch);
        let letters = Letters::from_batch(batch)?;
        let recorded = Recorded::from_batch(batch, &Arc::default(), record.slot, number)?;
        let purpose = if batch_budget::is_heavy(batch, &[]) { Purpose::Heavy } else { Purpose::Plain };
        let mut pooled = self.store.acquire(purpose).await?;
        if let Purpose::Heavy = purpose {
            // Others wait for the connection, and should not wait for a lock on this table, too.
            within_timeout(WRITING, set_lock_timeout("1s", &mut pooled.connection)).await?;
        }
        let new_rows = write(&mut pooled.connection, &self.store, &rows, &letters, &recorded);
        let new_rows = match within_timeout(WRITING, new_rows).await {
            Ok(new_rows) => new_rows,
            Err(error) => {
                if let (Remedy::BlameRow, Purpose::Plain) = (error.remedy(), purpose) {
                    // The connection is sound. A flood of such rows would leave nobody a warm one.
                    if within_timeout("rolling back", pooled.connection.ping()).await.is_ok() {
                        pooled.release(&self.store.database);
                    }
                }
                return Err(error);
            }
        };
        if let Purpose::Heavy = purpose {
            within_timeout(WRITING, set_lock_timeout("0", &mut pooled.connection)).await?;
        }
        failpoint!("after_commit", sqlx::Error::from(std::io::Error::other("failpoint")).into());
        pooled.release(&self.store.database);
        let ids = batch.iter().map(|judged| judged.entry.id).collect();
        let publications = Arc::default();
        Ok(Committed { ids, tally: tally(batch, new_rows), publications, _number: Some(number.clone()) })
    }

    /// Tries whether other rows can be written to the tenant's table, and leaves nothing behind.
    pub async fn look_at_others(&self) -> Others {
        let looked = async {
            let mut pooled = self.store.acquire(Purpose::Plain).await?;
            let looked = async {
                let mut transaction = pooled.connection.begin().await?;
                let others = look_at_others(&self.store, &mut transaction).await?;
                transaction.rollback().await?;
                Ok::<Others, Error>(others)
            };
            let looked = looked.await;
            self.store.database.finish(pooled, looked)
        };
        looked.await.unwrap_or_else(|error| Others::from_write(Err(error)))
    }

    /// Gives a number to the transactions of one part of a batch. At most one of them is committed.
    pub fn number(&self, record: &mut BatchRecord) -> Number {
        let number = self.store.numbers.take();
        record.numbers.push(number.clone());
        number
    }

    /// Begins a transaction that a guest may use while it judges these entries.
    ///
    /// If a COMMIT took place but had no answer, what the guest did would count twice when it is
    /// asked again. Then there is nothing left to begin.
    pub async fn begin(
        &mut self,
        entries: &[Entry],
        record: &mut BatchRecord,
        pause: Duration,
    ) -> Result<Begun, Error> {
        let begun = async {
            let pooled = self.store.acquire(Purpose::Guest).await?;
            // Each call of the guest begins with a statement.
            let mut session = Session::begin(pooled, &self.store, pause).await?;
            let ends = ends(|| entries.iter().map(|entry| entry.id));
            let recorded = session.take_slot(&self.store, record.slot, &record.numbers, ends).await?;
            Ok::<_, Error>((session, recorded))
        };
        let (session, mut recorded) = begun.await.map_err(|error| self.store.database.failed(error))?;
        if let Some(publications) = record.lookup(self.store.run, &mut recorded, entries)? {
            let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
            let tally = Tally { duplicate: u64::try_from(ids.len()).unwrap_or(u64::MAX), ..Tally::default() };
            let committed = Committed { ids, tally, publications, _number: None };
            return Ok(Begun::Decided { committed, rest: Vec::new() });
        }
        let (committed, rest, _) = Known::from_rows(&recorded)?.split(entries);
        if committed.ids.is_empty() {
            return Ok(Begun::Open(Box::new(session)));
        }
        session.rollback(&self.store.database).await?;
        Ok(Begun::Decided { committed, rest })
    }

    /// Does the same as [`Writer::write`], in a transaction that a guest has used. When this is
    /// cancelled or fails, all is undone, what the guest did too.
    pub async fn commit(
        &mut self,
        session: Session,
        batch: &[Judged],
        publications: Vec<Publication>,
        record: &BatchRecord,
        number: &Number,
    ) -> Result<Committed, Error> {
        let committed = self.try_commit(session, batch, Arc::new(publications), record, number).await;
        committed.map_err(|error| self.store.database.failed(error))
    }

    async fn try_commit(
        &mut self,
        mut session: Session,
        batch: &[Judged],
        publications: Arc<Vec<Publication>>,
        record: &BatchRecord,
        number: &Number,
    ) -> Result<Committed, Error> {
        if let Some(error) = session.lost.take() {
            return Err(error);
        }
        if batch_budget::is_too_much_at_once(batch) {
            return Err(Error::TooMuchAtOnce);
        }
        let mut rows = Rows::from_batch(batch);
        let letters = Letters::from_batch(batch)?;
        let recorded = Recorded::from_batch(batch, &publications, record.slot, number)?;
        let store = &self.store;
        let written = async {
            let connection = &mut session.pooled.connection;
            failpoint!("before_insert", sqlx::Error::from(std::io::Error::other("failpoint")).into());
            sqlx::raw_sql(AssertSqlSafe(session::end_of_guest())).execute(&mut *connection).await?;
            if !letters.is_empty() {
                letters.insert(store, connection).await?;
            }
            // What the guest did in the transaction is for all of them, so they cannot commit in
            // portions. But a statement of all of them would hold up a thread for others.
            let mut earlier = Keys::new();
            for portion in rows.split_excess() {
                earlier.extend(portion.insert_returning(store, connection).await?);
            }
            let new_rows = rows.insert(store, &recorded, connection).await?.and(earlier);
            failpoint!("before_commit", sqlx::Error::from(std::io::Error::other("failpoint")).into());
            sqlx::raw_sql("COMMIT").execute(connection).await?;
            Ok::<NewRows, Error>(new_rows)
        };
        let new_rows = within_timeout(WRITING, written).await?;
        failpoint!("after_commit", sqlx::Error::from(std::io::Error::other("failpoint")).into());
        session.release(&self.store.database).await;
        let ids = batch.iter().map(|judged| judged.entry.id).collect();
        Ok(Committed { ids, tally: tally(batch, new_rows), publications, _number: Some(number.clone()) })
    }
}

async fn set_lock_timeout(timeout: &str, connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(format!("SET lock_timeout = '{timeout}'"))).execute(connection).await?;
    Ok(())
}

async fn write(
    connection: &mut PgConnection,
    store: &Store,
    rows: &Rows<'_>,
    letters: &Letters<'_>,
    recorded: &Recorded,
) -> Result<NewRows, Error> {
    failpoint!("before_insert", sqlx::Error::from(std::io::Error::other("failpoint")).into());
    if letters.is_empty() && !store.can_drop_rows() {
        // A single statement is a transaction, and saves two round trips. A new trigger that drops
        // rows shows after the commit: the entries come again, and stored ones are duplicates.
        return rows.insert(store, recorded, connection).await;
    }
    let mut transaction = connection.begin().await?;
    if !letters.is_empty() {
        letters.insert(store, &mut transaction).await?;
    }
    let new_rows = rows.insert(store, recorded, &mut transaction).await?;
    failpoint!("before_commit", sqlx::Error::from(std::io::Error::other("failpoint")).into());
    transaction.commit().await?;
    Ok(new_rows)
}

/// Whether a tenant's table takes rows other than one that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    Written,
    /// The server refuses other rows too.
    Refused,
    /// The table is empty, so there is no row to try with.
    Unknown,
    /// The server does not answer, or has no room.
    Away,
}

impl Others {
    fn from_write(written: Result<u64, Error>) -> Self {
        match written {
            Ok(0) => Self::Unknown,
            Ok(_) => Self::Written,
            Err(error) if error.is_of_keys() => Self::Written,
            Err(error) => match error.remedy() {
                Remedy::Retry | Remedy::Split => Self::Away,
                _ => Self::Refused,
            },
        }
    }
}

/// Writes a copy of the newest row under another ID, within the open transaction, and undoes it.
pub(super) async fn look_at_others(store: &Store, connection: &mut PgConnection) -> Result<Others, Error> {
    let looked = async {
        sqlx::raw_sql("SAVEPOINT others").execute(&mut *connection).await?;
        // A plain table may have no index by time, and then any row will do.
        let has_index: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
             WHERE indrelid = to_regclass($1) AND attname = 'time')",
        )
        .bind(store.table.quoted())
        .fetch_one(&mut *connection)
        .await?;
        let order = if has_index { "ORDER BY time DESC" } else { "" };
        let table = store.table.quoted();
        let copy = format!(
            "INSERT INTO {table} (time, event_id, event_type, user_id, properties)
             SELECT time, gen_random_uuid(), event_type, user_id, properties
             FROM (SELECT * FROM {table} {order} LIMIT 1) AS newest"
        );
        let written = async {
            let copied = sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut *connection).await?;
            sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *connection).await?;
            Ok::<u64, Error>(copied.rows_affected())
        };
        let others = Others::from_write(written.await);
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT others").execute(connection).await?;
        Ok::<Others, Error>(others)
    };
    within_timeout("looking whether other rows can be written", looked).await
}

/// What became of a transaction that was to begin.
pub enum Begun {
    Open(Box<Session>),
    /// Some of the entries are decided: an earlier transaction of this batch has committed after
    /// all, or another run decided them before the group was set back.
    Decided {
        committed: Committed,
        /// The entries that are not decided.
        rest: Vec<Entry>,
    },
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
enum NewRows {
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
    fn and(self, earlier: Keys) -> Self {
        match self {
            Self::Count(_) => self,
            Self::Keys(mut keys) => {
                keys.extend(earlier);
                Self::Keys(keys)
            }
        }
    }
}

/// Counts how the entries ended.
fn tally(batch: &[Judged], mut new_rows: NewRows) -> Tally {
    let mut tally = Tally::default();
    for Judged { outcome, .. } in batch {
        match (outcome, &mut new_rows) {
            (Outcome::Store(_), NewRows::Count(_)) => tally.duplicate += 1,
            (Outcome::Store(events), NewRows::Keys(keys)) => match take_new(events, keys) {
                true => tally.stored += 1,
                false => tally.duplicate += 1,
            },
            (Outcome::DeadLetter(Reason::Rejected, _), _) => tally.rejected += 1,
            (Outcome::DeadLetter(..), _) => tally.dead_lettered += 1,
            (Outcome::Discard(_), _) => tally.discarded += 1,
        }
    }
    if let NewRows::Count(count) = new_rows {
        tally.stored = count;
        tally.duplicate = tally.duplicate.saturating_sub(count);
    }
    tally
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
    /// Whether each entry has exactly one row.
    one_each: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn from_batch(batch: &'a [Judged]) -> Self {
        let stored = batch.iter().filter_map(|judged| match &judged.outcome {
            Outcome::Store(events) => Some(events),
            Outcome::DeadLetter(..) | Outcome::Discard(_) => None,
        });
        let one_each = stored.clone().all(|events| matches!(events, Vec1::One(_)));
        let mut events: Vec<&Event> = stored.flat_map(Vec1::as_slice).collect();
        // The sort is stable: of rows with one key, the first in the order of the stream is stored.
        events.sort_by_key(|event| event.key());
        Self { events, one_each }
    }

    /// Splits off portions, until no more is left than one statement should have. It gives none if
    /// each entry has one row, because a batch has few enough entries.
    fn split_excess(&mut self) -> Vec<Self> {
        let mut portions = Vec::new();
        if self.one_each {
            return portions;
        }
        let (mut rows, mut bytes) = (0, 0);
        let events = std::mem::take(&mut self.events);
        for event in events {
            (rows, bytes) = (rows + 1, bytes + batch_budget::event_bytes(event));
            let is_full = rows > batch_budget::ROWS_AT_ONCE || bytes > batch_budget::BYTES_AT_ONCE;
            if is_full && !self.events.is_empty() {
                portions.push(Self { events: std::mem::take(&mut self.events), one_each: false });
                (rows, bytes) = (1, batch_budget::event_bytes(event));
            }
            self.events.push(event);
        }
        portions
    }

    /// Inserts the rows and the record of the batch, even if there are no rows.
    async fn insert(
        &self,
        store: &Store,
        recorded: &Recorded,
        connection: &mut PgConnection,
    ) -> Result<NewRows, Error> {
        let statement = if self.one_each { &store.inserts.insert } else { &store.inserts.insert_returning };
        let query = self
            .bound(statement)
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
        let missing: i64 = sqlx::query_scalar(AssertSqlSafe(Arc::clone(&store.inserts.missing)))
            .bind(self.column(|event| event.time))
            .bind(self.column(|event| event.event_id))
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
        let statement = self.bound(&store.inserts.insert_unrecorded_returning);
        let new = keys(&statement.fetch_all(&mut *connection).await?)?;
        self.check_for_dropped(store, new.len(), connection).await?;
        Ok(new)
    }

    fn bound<'q>(&self, statement: &Arc<str>) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(AssertSqlSafe(Arc::clone(statement)))
            .bind(self.column(|event| event.time))
            .bind(self.column(|event| event.event_id))
            .bind(self.column(|event| event.event_type.as_str()))
            .bind(self.column(|event| event.user_id.as_str()))
            .bind(self.column(|event| event.properties.as_deref()))
    }

    fn column<T>(&self, value: impl Fn(&'a Event) -> T) -> Vec<T> {
        self.events.iter().map(|event| value(event)).collect()
    }
}
