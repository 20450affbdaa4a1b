//! Writes a batch: events and dead letters in one transaction.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Connection as _, PgConnection, Postgres, Row as _};
use uuid::Uuid;

use super::letters::Letters;
use super::{CONNECT_PATIENCE, Error, Store};
use crate::batch::{EntryId, Event, Fate, Judged, Reason, Tally, Vec1};
use crate::failpoint::failpoint;

/// Entries whose fate is committed: the only thing that can be acknowledged (invariant 1).
///
/// Nothing but a successful [`Writer::write`] makes one.
#[derive(Debug)]
#[must_use = "committed entries must be acknowledged"]
pub struct Committed {
    ids: Vec<EntryId>,
    tally: Tally,
}

impl Committed {
    /// The entries, in the order of the batch.
    pub fn ids(&self) -> &[EntryId] {
        &self.ids
    }

    /// How they ended.
    pub fn tally(&self) -> Tally {
        self.tally
    }
}

/// One statement for any number of rows: five arrays are five parameters, so
/// it is prepared once and far from PostgreSQL's limit of 65,535.
const INSERT_EVENTS: &str = "INSERT INTO events (time, event_id, event_type, user_id, properties)
     SELECT time, event_id, event_type, user_id, properties::jsonb
     FROM UNNEST($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[])
          AS event (time, event_id, event_type, user_id, properties)
     ON CONFLICT DO NOTHING";

/// The same, when it must be known which rows were new.
const INSERT_EVENTS_RETURNING: &str = "INSERT INTO events (time, event_id, event_type, user_id, properties)
     SELECT time, event_id, event_type, user_id, properties::jsonb
     FROM UNNEST($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[])
          AS event (time, event_id, event_type, user_id, properties)
     ON CONFLICT DO NOTHING RETURNING event_id, time";

/// How long the database may take for a batch. After it the connection is given
/// up: a network that swallows packets would keep the batch waiting for ever.
/// The largest batch takes a second; so long it takes when something is wrong,
/// and a shorter time would repeat in vain what only waits for a lock.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the server itself goes on with a statement of a batch, in ms: not
/// longer than somebody waits for it. It does not see that a client is gone
/// while a statement waits for a lock, and each attempt would leave a backend
/// behind until there are no more connections.
const STATEMENT_TIMEOUT: &str = "SET statement_timeout = 25000";

/// Writes batches over a connection of its own.
pub struct Writer {
    store: Store,
    /// None before the first batch and after an error.
    connection: Option<PgConnection>,
}

impl Writer {
    pub(super) fn new(store: Store) -> Self {
        Self { store, connection: None }
    }

    /// Writes what is to be stored and what is to be kept as a dead letter, all or nothing.
    ///
    /// Idempotent: a batch whose outcome is unknown is written again. When this
    /// is cancelled or fails, the connection is closed, and a transaction that
    /// was open on it is rolled back.
    pub async fn write(&mut self, batch: &[Judged]) -> Result<Committed, Error> {
        let rows = Rows::of(batch);
        let letters = Letters::of(batch)?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = self.store.connect().await?;
                let set = sqlx::raw_sql(STATEMENT_TIMEOUT).execute(&mut connection);
                tokio::time::timeout(CONNECT_PATIENCE, set)
                    .await
                    .map_err(|_| Error::TimedOut { what: "connecting", after: CONNECT_PATIENCE })??;
                connection
            }
        };
        let new_rows = write(&mut connection, &self.store.stream, &rows, &letters);
        let new_rows = tokio::time::timeout(WRITE_PATIENCE, new_rows)
            .await
            .map_err(|_| Error::TimedOut { what: "writing a batch", after: WRITE_PATIENCE })??;
        failpoint!("after_commit", sqlx::Error::from(std::io::Error::other("failpoint")).into());
        self.connection = Some(connection);
        let ids = batch.iter().map(|judged| judged.entry.id).collect();
        Ok(Committed { ids, tally: tally(batch, new_rows) })
    }
}

async fn write(
    connection: &mut PgConnection,
    stream: &str,
    rows: &Rows<'_>,
    letters: &Letters<'_>,
) -> Result<NewRows, Error> {
    failpoint!("before_insert", sqlx::Error::from(std::io::Error::other("failpoint")).into());
    if letters.is_empty() {
        // A single statement is a transaction by itself, without two round trips more.
        return rows.insert(connection).await;
    }
    let mut transaction = connection.begin().await?;
    letters.insert(stream, &mut transaction).await?;
    let new_rows = rows.insert(&mut transaction).await?;
    failpoint!("before_commit", sqlx::Error::from(std::io::Error::other("failpoint")).into());
    transaction.commit().await?;
    Ok(new_rows)
}

/// The keys of rows.
pub(super) type Keys = HashSet<(Uuid, DateTime<Utc>)>;

/// Which rows the statement added.
enum NewRows {
    /// So many of a batch in which each entry has one row.
    Count(u64),
    /// These.
    Keys(Keys),
}

/// Counts how the entries ended.
fn tally(batch: &[Judged], mut new_rows: NewRows) -> Tally {
    let mut tally = Tally::default();
    for Judged { fate, .. } in batch {
        match (fate, &mut new_rows) {
            (Fate::Store(_), NewRows::Count(_)) => tally.duplicate += 1,
            (Fate::Store(events), NewRows::Keys(keys)) => match take_new(events, keys) {
                true => tally.stored += 1,
                false => tally.duplicate += 1,
            },
            (Fate::DeadLetter(Reason::Rejected, _), _) => tally.rejected += 1,
            (Fate::DeadLetter(..), _) => tally.dead_lettered += 1,
            (Fate::Discard(_), _) => tally.discarded += 1,
        }
    }
    if let NewRows::Count(count) = new_rows {
        tally.stored = count;
        tally.duplicate = tally.duplicate.saturating_sub(count);
    }
    tally
}

/// Whether any of an entry's rows is new. A new row is the first entry's that
/// wanted it; for a later one it was there already.
pub(super) fn take_new(events: &Vec1<Event>, keys: &mut Keys) -> bool {
    let new = events.as_slice().iter().filter(|event| keys.remove(&(event.event_id, event.time)));
    new.count() > 0
}

/// The events of a batch.
pub(super) struct Rows<'a> {
    /// In the order of their keys, so that concurrent batches lock in one order.
    events: Vec<&'a Event>,
    /// Whether each entry has exactly one.
    one_each: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn of(batch: &'a [Judged]) -> Self {
        let stored = batch.iter().filter_map(|judged| match &judged.fate {
            Fate::Store(events) => Some(events),
            Fate::DeadLetter(..) | Fate::Discard(_) => None,
        });
        let one_each = stored.clone().all(|events| matches!(events, Vec1::One(_)));
        let mut events: Vec<&Event> = stored.flat_map(Vec1::as_slice).collect();
        events.sort_unstable();
        Self { events, one_each }
    }

    async fn insert(&self, connection: &mut PgConnection) -> Result<NewRows, Error> {
        if !self.one_each {
            return Ok(NewRows::Keys(self.insert_returning(connection).await?));
        }
        if self.events.is_empty() {
            return Ok(NewRows::Count(0));
        }
        let inserted = self.bound(INSERT_EVENTS).execute(connection).await?;
        Ok(NewRows::Count(inserted.rows_affected()))
    }

    /// Inserts, and gives the keys of the rows that were new.
    pub(super) async fn insert_returning(&self, connection: &mut PgConnection) -> Result<Keys, Error> {
        let rows = self.bound(INSERT_EVENTS_RETURNING).fetch_all(connection).await?;
        let keys = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(keys.collect::<Result<_, sqlx::Error>>()?)
    }

    fn bound(&self, statement: &'static str) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(statement)
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
