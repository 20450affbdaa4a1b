//! Keeps jobs: long work on dead letters, which outlives the process that does it.
//!
//! Whoever works on a job has a lease of it, by the clock of the database. How far the job is stands in
//! its row, and is written in the transactions of the work, each of which checks the lease: so a job that
//! was cancelled, or that another replica has taken over, does not commit anything more.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::dead_letter_store::{Scope, time};
use super::pool::on_connection;
use super::{Database, Error};
use crate::config::TenantName;
use sluicegate_verdicts::validate::cut;

/// How long a lease lasts. It is renewed well before that.
const LEASE: &str = "INTERVAL '15 seconds'";
/// The jobs of a tenant that may wait or run at the same time.
const MAX_OPEN: i64 = 100;
/// The jobs of a tenant that are kept, besides those that wait or run.
const KEPT_JOBS: i64 = 1_000;
/// The ways to end that are counted by name. What a guest calls a violation is part of it.
const MAX_OUTCOMES: usize = 50;
/// Stands for the others.
const OTHER: &str = "(other)";

/// Lets the number of open jobs be looked at and changed by one transaction at a time.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('sluicegate.jobs'))";
const COUNT_OPEN: &str =
    "SELECT count(*) FROM dead_letter_jobs WHERE tenant = $1 AND state IN ('queued', 'running')";
/// A tenant's jobs run one after the other: a purge that was asked for after a replay is not to delete what that
/// has not come to.
const TAKE: &str =
    "UPDATE dead_letter_jobs SET state = 'running', replica = $2, lease = $3, attempts = attempts + 1,
         started_at = coalesce(started_at, now()), leased_until = now() + $LEASE
     WHERE id = (SELECT id FROM dead_letter_jobs AS job WHERE tenant = ANY ($1) AND (
             (state = 'running' AND leased_until < now())
             OR (state = 'queued' AND NOT EXISTS (
                 SELECT FROM dead_letter_jobs AS other WHERE other.tenant = job.tenant
                 AND (other.state = 'running' OR other.state = 'queued' AND other.id < job.id))))
         ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
     RETURNING $COLUMNS";

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum JobState {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A job that somebody asks for.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    pub tenant: &'a TenantName,
    pub kind: &'static str,
    /// JSON.
    pub request: &'a str,
    pub author: &'a str,
}

/// A job as the database has it.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: i64,
    pub tenant: String,
    pub kind: String,
    /// JSON.
    pub request: String,
    pub author: String,
    pub state: JobState,
    pub asked_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// The replica that works on it, or did so last.
    pub replica: Option<String>,
    pub progress: JobProgress,
    /// The letters that it is about, once that is known.
    pub in_total: Option<u64>,
    /// What it does, or waits for.
    pub note: Option<String>,
    pub error: Option<String>,
    /// How often it was begun since a letter was last done.
    pub attempts: u32,
    /// When it was first begun, by the database's clock, and the newest letter then.
    pub(super) began: Option<(DateTime<Utc>, i64)>,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// The number of the last letter done.
    pub after: i64,
    pub done: u64,
    /// How many letters ended how.
    pub outcomes: BTreeMap<String, u64>,
}

impl JobProgress {
    /// Returns the progress after these letters, of which the last has this number.
    fn with(&self, outcomes: &BTreeMap<String, u64>, last: i64) -> Self {
        let mut next = Self { after: self.after.max(last), ..self.clone() };
        for (outcome, count) in outcomes {
            next.done += count;
            let name = cut(outcome.clone());
            let is_known = next.outcomes.contains_key(&name) || next.outcomes.len() < MAX_OUTCOMES;
            let name = if is_known { name } else { OTHER.to_owned() };
            *next.outcomes.entry(name).or_default() += count;
        }
        next
    }
}

/// What came of the wish to have a job go on.
#[derive(Debug)]
pub enum Resumed {
    Queued(Box<Job>),
    /// The tenant has too many jobs that have not ended.
    QueueFull,
    /// It is neither cancelled nor has it failed.
    NotStopped,
}

/// Selects jobs.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub id: Option<i64>,
    pub tenants: Vec<String>,
    pub state: Option<JobState>,
    /// Only jobs with numbers below this one.
    pub before_id: Option<i64>,
}

impl Job {
    const COLUMNS: &'static str = "id, tenant, kind, request::text AS request, author, state, asked_at, started_at, ended_at, \
         replica, attempts, began, newest, after, done, in_total, outcomes::text AS outcomes, note, error";

    fn from_row(row: &PgRow) -> Result<Self, Error> {
        let maybe =
            |column| -> Result<_, Error> { Ok(row.try_get::<Option<_>, _>(column)?.map(time).transpose()?) };
        let state: String = row.try_get("state")?;
        let outcomes: String = row.try_get("outcomes")?;
        let began = maybe("began")?.zip(row.try_get("newest")?);
        Ok(Self {
            id: row.try_get("id")?,
            tenant: row.try_get("tenant")?,
            kind: row.try_get("kind")?,
            request: row.try_get("request")?,
            author: row.try_get("author")?,
            state: state.parse().map_err(|_| Error::JobsTable("a state"))?,
            asked_at: time(row.try_get("asked_at")?)?,
            started_at: maybe("started_at")?,
            ended_at: maybe("ended_at")?,
            replica: row.try_get("replica")?,
            progress: JobProgress {
                after: row.try_get("after")?,
                done: row.try_get::<i64, _>("done")?.unsigned_abs(),
                outcomes: serde_json::from_str(&outcomes).map_err(|_| Error::JobsTable("outcomes"))?,
            },
            in_total: row.try_get::<Option<i64>, _>("in_total")?.map(i64::unsigned_abs),
            note: row.try_get("note")?,
            error: row.try_get("error")?,
            attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
            began,
        })
    }

    fn maybe_from_row(row: Option<PgRow>) -> Result<Option<Self>, Error> {
        row.as_ref().map(Self::from_row).transpose()
    }
}

/// Makes a statement with the columns and the lease in their places.
fn sql(text: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(text.replace("$COLUMNS", Job::COLUMNS).replace("$LEASE", LEASE))
}

async fn is_full(tenant: &str, connection: &mut PgConnection) -> Result<bool, Error> {
    sqlx::query(LOCK).execute(&mut *connection).await?;
    let open: i64 = sqlx::query_scalar(COUNT_OPEN).bind(tenant).fetch_one(connection).await?;
    Ok(open >= MAX_OPEN)
}

impl Database {
    /// Adds a job to the queue. Returns `None` if the tenant has too many jobs that have not ended.
    pub async fn ask_for_job(&self, new: &NewJob<'_>) -> Result<Option<Job>, Error> {
        let insert =
            "INSERT INTO dead_letter_jobs (tenant, kind, request, author) VALUES ($1, $2, $3::jsonb, $4)
                      RETURNING $COLUMNS";
        let job = on_connection!(self, "asking for a job", |connection| {
            let mut transaction = connection.begin().await?;
            if is_full(new.tenant.as_str(), &mut transaction).await? {
                return Ok(None);
            }
            let row = sqlx::query(sql(insert))
                .bind(new.tenant.as_str())
                .bind(new.kind)
                .bind(new.request)
                .bind(new.author)
                .fetch_one(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(Some(Job::from_row(&row)?))
        })?;
        self.jobs.notify_one();
        Ok(job)
    }

    /// Waits until somebody asks this process for a job.
    pub async fn asked_for_job(&self) {
        self.jobs.notified().await;
    }

    /// Returns jobs, the newest first.
    pub async fn jobs(&self, filter: &JobFilter, limit: u32) -> Result<Vec<Job>, Error> {
        let select = "SELECT $COLUMNS FROM dead_letter_jobs WHERE tenant = ANY ($1) AND ($2::bigint IS NULL OR id = $2)
                      AND ($3::text IS NULL OR state = $3) AND id < $4 ORDER BY id DESC LIMIT $5";
        on_connection!(self, "listing jobs", |connection| {
            let rows = sqlx::query(sql(select))
                .bind(&filter.tenants)
                .bind(filter.id)
                .bind(filter.state.map(JobState::as_str))
                .bind(filter.before_id.unwrap_or(i64::MAX))
                .bind(i64::from(limit));
            rows.fetch_all(connection).await?.iter().map(Job::from_row).collect()
        })
    }

    /// Cancels a job. Nothing more of it commits from now on. Returns `None` if it has ended already.
    pub async fn cancel_job(&self, id: i64) -> Result<Option<Job>, Error> {
        let update =
            "UPDATE dead_letter_jobs SET state = 'cancelled', ended_at = now(), lease = NULL, note = NULL
                      WHERE id = $1 AND state IN ('queued', 'running') RETURNING $COLUMNS";
        on_connection!(self, "cancelling a job", |connection| {
            Job::maybe_from_row(sqlx::query(sql(update)).bind(id).fetch_optional(connection).await?)
        })
    }

    /// Puts a job that was cancelled, or has failed, back into the queue, to go on where it was.
    pub async fn resume_job(&self, job: &Job) -> Result<Resumed, Error> {
        let update =
            "UPDATE dead_letter_jobs SET state = 'queued', ended_at = NULL, error = NULL, attempts = 0
                      WHERE id = $1 AND state IN ('cancelled', 'failed') RETURNING $COLUMNS";
        let resumed = on_connection!(self, "resuming a job", |connection| {
            let mut transaction = connection.begin().await?;
            if is_full(&job.tenant, &mut transaction).await? {
                return Ok(Resumed::QueueFull);
            }
            let row = sqlx::query(sql(update)).bind(job.id).fetch_optional(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(Job::maybe_from_row(row)?.map_or(Resumed::NotStopped, |job| Resumed::Queued(Box::new(job))))
        })?;
        self.jobs.notify_one();
        Ok(resumed)
    }

    /// Takes the next job of these tenants: one that waits, or one whose lease is over.
    pub async fn take_job(&self, tenants: &[String]) -> Result<Option<(Job, JobLease)>, Error> {
        let id = Uuid::new_v4();
        let job = on_connection!(self, "taking a job", |connection| {
            let row = sqlx::query(sql(TAKE)).bind(tenants).bind(&self.consumer).bind(id);
            Job::maybe_from_row(row.fetch_optional(connection).await?)
        })?;
        Ok(job.map(|job| {
            let progress = Mutex::new(job.progress.clone());
            let lease = JobLease { database: self.clone(), job: job.id, id, progress };
            (job, lease)
        }))
    }

    /// Deletes jobs that ended 30 days ago, or are too many.
    pub async fn prune_jobs(&self, tenant: &TenantName) -> Result<(), Error> {
        let delete = "DELETE FROM dead_letter_jobs WHERE tenant = $1 AND state NOT IN ('queued', 'running')
             AND (ended_at < now() - INTERVAL '30 days'
                  OR id <= (SELECT id FROM dead_letter_jobs WHERE tenant = $1 ORDER BY id DESC OFFSET $2 LIMIT 1))";
        on_connection!(self, "deleting old jobs", |connection| {
            sqlx::query(delete).bind(tenant.as_str()).bind(KEPT_JOBS).execute(connection).await?;
            Ok(())
        })
    }
}

/// The right to work on a job, for as long as nobody cancels it and it is renewed in time.
pub struct JobLease {
    database: Database,
    job: i64,
    id: Uuid,
    progress: Mutex<JobProgress>,
}

impl JobLease {
    /// Returns how far the job is.
    pub fn progress(&self) -> JobProgress {
        self.progress.lock().clone()
    }

    /// Notes what the job is about, when it is first begun, and how many letters that are in all.
    pub async fn begin(&self, scope: &Scope, in_total: u64) -> Result<(), Error> {
        let update = "UPDATE dead_letter_jobs SET began = coalesce(began, $3), newest = coalesce(newest, $4), in_total = $5
                      WHERE id = $1 AND lease = $2 AND state = 'running'";
        let (began, newest) = scope.bounds();
        on_connection!(self.database, "beginning a job", |connection| {
            let update = sqlx::query(update).bind(self.job).bind(self.id).bind(began).bind(newest);
            held(update.bind(number(in_total)).execute(connection).await?.rows_affected())
        })
    }

    /// Notes in a transaction that is open that these letters are done. Once it has committed,
    /// [`JobLease::advance`] is to be called with what this returns.
    pub(super) async fn write(
        &self,
        outcomes: &BTreeMap<String, u64>,
        last: i64,
        connection: &mut PgConnection,
    ) -> Result<JobProgress, Error> {
        let update = "UPDATE dead_letter_jobs SET after = $3, done = $4, outcomes = $5::jsonb, attempts = 0
                      WHERE id = $1 AND lease = $2 AND state = 'running'";
        let next = self.progress().with(outcomes, last);
        let written = serde_json::to_string(&next.outcomes).map_err(Error::Violations)?;
        let update =
            sqlx::query(update).bind(self.job).bind(self.id).bind(next.after).bind(number(next.done));
        held(update.bind(written).execute(connection).await?.rows_affected())?;
        Ok(next)
    }

    /// Goes on from there, since it is committed.
    pub(super) fn advance(&self, next: JobProgress) {
        *self.progress.lock() = next;
    }

    /// Notes that these letters are done, without anything else that is to commit.
    pub async fn note(&self, outcomes: &BTreeMap<String, u64>, last: i64) -> Result<(), Error> {
        let next = on_connection!(self.database, "noting how far a job is", |connection| {
            self.write(outcomes, last, connection).await
        })?;
        self.advance(next);
        Ok(())
    }

    /// Renews the lease, and tells what the job does.
    pub async fn renew(&self, note: &str) -> Result<(), Error> {
        let update = "UPDATE dead_letter_jobs SET leased_until = now() + $LEASE, note = $3
                      WHERE id = $1 AND lease = $2 AND state = 'running'";
        on_connection!(self.database, "renewing the lease of a job", |connection| {
            let update = sqlx::query(sql(update)).bind(self.job).bind(self.id).bind(cut(note.to_owned()));
            held(update.execute(connection).await?.rows_affected())
        })
    }

    /// Ends the job, with the reason if it has failed.
    pub async fn end(&self, error: Option<&str>) -> Result<(), Error> {
        let update =
            "UPDATE dead_letter_jobs SET state = $3, error = $4, ended_at = now(), lease = NULL, note = NULL
             WHERE id = $1 AND lease = $2 AND state = 'running'";
        let state = if error.is_some() { JobState::Failed } else { JobState::Done };
        on_connection!(self.database, "ending a job", |connection| {
            let update = sqlx::query(update).bind(self.job).bind(self.id).bind(state.as_str());
            let update = update.bind(error.map(|error| cut(error.to_owned())));
            held(update.execute(connection).await?.rows_affected())
        })
    }

    /// Gives the job back, to be gone on with by whoever takes it next. An `interrupted` one has not failed.
    pub async fn release(&self, interrupted: bool) -> Result<(), Error> {
        let update = "UPDATE dead_letter_jobs SET state = 'queued', lease = NULL, note = NULL,
                          attempts = greatest(attempts - CASE WHEN $3 THEN 1 ELSE 0 END, 0)
                      WHERE id = $1 AND lease = $2 AND state = 'running'";
        on_connection!(self.database, "giving back a job", |connection| {
            let update = sqlx::query(update).bind(self.job).bind(self.id).bind(interrupted);
            held(update.execute(connection).await?.rows_affected())
        })
    }
}

/// Returns an error unless a statement that checks the lease has found the row.
fn held(rows: u64) -> Result<(), Error> {
    if rows == 0 { Err(Error::LeaseLost) } else { Ok(()) }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_up_and_has_a_bound() {
        let one = |name: String| BTreeMap::from([(name, 1)]);
        let mut progress = JobProgress::default();
        for i in 0..80 {
            progress = progress.with(&one(format!("rejected ({i})")), i);
        }
        progress = progress.with(&one("rejected (3)".to_owned()), 20);
        assert_eq!((progress.after, progress.done), (79, 81));
        assert_eq!(progress.outcomes.len(), MAX_OUTCOMES + 1);
        assert_eq!((progress.outcomes["rejected (3)"], progress.outcomes[OTHER]), (2, 30));
    }
}
