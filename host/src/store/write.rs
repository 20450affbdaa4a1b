//! Writes a batch: events and dead letters in one transaction.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::{Error, Store};
use crate::batch::{Entry, EntryId, Event, Fate, Judged, Reason, Tally, Vec1, Violation};

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

/// An array of arrays cannot be unnested by one level, so each letter's fields
/// are a slice of one long array.
const INSERT_LETTERS: &str =
    "INSERT INTO dead_letters (stream, entry_id, fingerprint, reason, violations, fields, component)
     SELECT $1, entry_id, fingerprint, reason, violations::jsonb,
            CASE WHEN first_field IS NOT NULL THEN ($2::bytea[])[first_field:last_field] END, component
     FROM UNNEST($3::text[], $4::bytea[], $5::text[], $6::text[], $7::int[], $8::int[], $9::bytea[])
          AS letter (entry_id, fingerprint, reason, violations, first_field, last_field, component)
     ON CONFLICT DO NOTHING";

/// How long the database may take for a batch. After it the connection is given
/// up: a network that swallows packets would keep the batch waiting for ever.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

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
            None => self.store.connect().await?,
        };
        let new_rows = write(&mut connection, &self.store.stream, &rows, &letters);
        let new_rows = tokio::time::timeout(WRITE_PATIENCE, new_rows)
            .await
            .map_err(|_| Error::TimedOut { what: "writing a batch", after: WRITE_PATIENCE })??;
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
    if letters.is_empty() {
        // A single statement is a transaction by itself, without two round trips more.
        return rows.insert(connection).await;
    }
    let mut transaction = connection.begin().await?;
    letters.insert(stream, &mut transaction).await?;
    let new_rows = rows.insert(&mut transaction).await?;
    transaction.commit().await?;
    Ok(new_rows)
}

/// Which rows the statement added.
enum NewRows {
    /// So many of a batch in which each entry has one row.
    Count(u64),
    /// These.
    Keys(HashSet<(Uuid, DateTime<Utc>)>),
}

/// Counts how the entries ended.
fn tally(batch: &[Judged], mut new_rows: NewRows) -> Tally {
    let mut tally = Tally::default();
    for Judged { fate, .. } in batch {
        match (fate, &mut new_rows) {
            (Fate::Store(_), NewRows::Count(_)) => tally.duplicate += 1,
            (Fate::Store(events), NewRows::Keys(keys)) => {
                // A new row is the first entry's that wanted it; for a later one in the batch it was there already.
                let new = events.as_slice().iter().filter(|event| keys.remove(&(event.event_id, event.time)));
                match new.count() {
                    0 => tally.duplicate += 1,
                    _ => tally.stored += 1,
                }
            }
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

/// The events of a batch.
struct Rows<'a> {
    /// In the order of their keys, so that concurrent batches lock in one order.
    events: Vec<&'a Event>,
    /// Whether each entry has exactly one.
    one_each: bool,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a [Judged]) -> Self {
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
        if self.events.is_empty() {
            return Ok(NewRows::Count(0));
        }
        let statement = if self.one_each { INSERT_EVENTS } else { INSERT_EVENTS_RETURNING };
        let query = sqlx::query(statement)
            .bind(self.column(|event| event.time))
            .bind(self.column(|event| event.event_id))
            .bind(self.column(|event| event.event_type.as_str()))
            .bind(self.column(|event| event.user_id.as_str()))
            .bind(self.column(|event| event.properties.as_deref()));
        if self.one_each {
            return Ok(NewRows::Count(query.execute(connection).await?.rows_affected()));
        }
        let rows = query.fetch_all(connection).await?;
        let keys = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(NewRows::Keys(keys.collect::<Result<_, sqlx::Error>>()?))
    }

    fn column<T>(&self, value: impl Fn(&'a Event) -> T) -> Vec<T> {
        self.events.iter().map(|event| value(event)).collect()
    }
}

/// The dead letters of a batch, column by column.
#[derive(Default)]
struct Letters<'a> {
    fields: Vec<&'a [u8]>,
    entry_ids: Vec<String>,
    fingerprints: Vec<Vec<u8>>,
    reasons: Vec<&'static str>,
    violations: Vec<String>,
    /// Where the letter's fields begin and end in `fields`, counted from 1; none for a lost entry.
    first_fields: Vec<Option<i32>>,
    last_fields: Vec<Option<i32>>,
    components: Vec<&'a [u8]>,
}

impl<'a> Letters<'a> {
    fn of(batch: &'a [Judged]) -> Result<Self, Error> {
        let mut letters = Self::default();
        for Judged { entry, fate, digest } in batch {
            if let Fate::DeadLetter(reason, violations) = fate {
                letters.push(entry, *reason, violations, digest.as_bytes())?;
            }
        }
        Ok(letters)
    }

    fn push(
        &mut self,
        entry: &'a Entry,
        reason: Reason,
        violations: &[Violation],
        component: &'a [u8],
    ) -> Result<(), Error> {
        let position = |length: usize| i32::try_from(length).map_err(|_| Error::TooManyFields);
        let mut fingerprint = Sha256::new();
        let first = position(self.fields.len() + 1)?;
        for (name, value) in entry.fields.iter().flatten() {
            for part in [name, value] {
                fingerprint.update(part.len().to_le_bytes());
                fingerprint.update(part);
                self.fields.push(part);
            }
        }
        let last = position(self.fields.len())?;
        let is_known = entry.fields.is_some();
        self.first_fields.push(is_known.then_some(first));
        self.last_fields.push(is_known.then_some(last));
        self.entry_ids.push(entry.id.to_string());
        self.fingerprints.push(fingerprint.finalize().to_vec());
        self.reasons.push(reason.as_str());
        self.violations.push(serde_json::to_string(violations).map_err(Error::Violations)?);
        self.components.push(component);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.entry_ids.is_empty()
    }

    async fn insert(&self, stream: &str, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(INSERT_LETTERS)
            .bind(stream)
            .bind(&self.fields)
            .bind(&self.entry_ids)
            .bind(&self.fingerprints)
            .bind(&self.reasons)
            .bind(&self.violations)
            .bind(&self.first_fields)
            .bind(&self.last_fields)
            .bind(&self.components)
            .execute(connection)
            .await?;
        Ok(())
    }
}
