//! Writes a batch: its events and dead letters in one transaction.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::commit_log::{Known, Recorded, ends};
use super::dead_letter_rows::Letters;
use super::other_rows::{OtherRows, look_at_other_rows};
use super::pool::Purpose;
use super::rows::{Keys, NewRows, Rows, ends_of};
use super::session::{self, Session};
use super::{BatchRecord, Committed, Error, Number, Remedy, Store, WRITING, within_timeout};
use crate::batch::{Judged, Tally};
use crate::batch_budget;
use crate::capabilities::Publication;
use crate::failpoint::failpoint;
use sluicegate_verdicts::{Entry, EntryId};

/// Writes one batch after the other, over connections that all tenants share.
pub struct Writer {
    store: Store,
    asks_for_new_rows: bool,
}

impl Writer {
    pub(super) fn new(store: Store) -> Self {
        Self { store, asks_for_new_rows: false }
    }

    /// Decides whether PostgreSQL is asked which rows of a batch are new. Otherwise it is asked where
    /// entries have several rows, and how each of the other entries ended is known if all rows were
    /// new, or none.
    pub fn ask_for_new_rows(&mut self, asks: bool) {
        self.asks_for_new_rows = asks;
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
        let rows = Rows::from_batch(batch, self.asks_for_new_rows);
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
        let (tally, ends) = ends_of(batch, new_rows);
        Ok(Committed { ids, tally, ends, publications: Arc::default(), _number: Some(number.clone()) })
    }

    /// Tries whether other rows can be written to the tenant's table, and leaves nothing behind.
    pub async fn look_at_other_rows(&self) -> OtherRows {
        let looked = async {
            let mut pooled = self.store.acquire(Purpose::Plain).await?;
            let looked = async {
                let mut transaction = pooled.connection.begin().await?;
                let others = look_at_other_rows(&self.store, &mut transaction).await?;
                transaction.rollback().await?;
                Ok::<OtherRows, Error>(others)
            };
            let looked = looked.await;
            self.store.database.finish(pooled, looked)
        };
        looked.await.unwrap_or_else(|error| OtherRows::from_write(Err(error)))
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
            let committed = Committed { ids, tally, ends: Vec::new(), publications, _number: None };
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
        let mut rows = Rows::from_batch(batch, self.asks_for_new_rows);
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
        let (tally, ends) = ends_of(batch, new_rows);
        Ok(Committed { ids, tally, ends, publications, _number: Some(number.clone()) })
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
