//! Lets an operator look at dead letters and purge them; `replay` judges them again.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, QueryBuilder, Row as _};

use super::pool::{Purpose, on_connection};
use super::timestamp::{NoTimestamp, Timestamp};
use super::{Database, Error, Job, JobLease, within_timeout};
use crate::failpoint::failpoint;
use crate::text::first_digits;
use sluicegate_verdicts::{Entry, EntryId, Field, Violation};

/// Selects the letters that match everything that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub id: Option<i64>,
    pub reason: Option<String>,
    /// The code of one of the letter's violations.
    pub code: Option<String>,
    pub tenant: Option<String>,
    pub stream: Option<String>,
    /// The first hexadecimal digits of the version or the component that judged the letter.
    pub guest: Option<String>,
    pub before: Option<DateTime<Utc>>,
    /// The letter was recorded at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Whether to select only letters that no replay has settled.
    pub open: bool,
    /// Only letters with numbers below this one are selected.
    pub before_id: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct Letter {
    /// The letter's number in the table.
    pub id: i64,
    pub tenant: String,
    /// The stream that the entry came from.
    pub stream: String,
    pub entry_id: String,
    pub reason: String,
    pub violations: Vec<Violation>,
    /// Name, value, name, value, …; none when the entry was deleted before it was read.
    pub fields: Option<Vec<Vec<u8>>>,
    /// How often the entry had been delivered.
    pub deliveries: i64,
    /// The component that judged it, by the first digits of its digest.
    pub component: String,
    /// The version of the rules, by its first digits, if the letter is not older than versions are.
    pub version: Option<String>,
    pub recorded_at: DateTime<Utc>,
    /// What became of the letter in its last replay.
    pub replay_outcome: Option<String>,
    pub replayed_at: Option<DateTime<Utc>>,
}

/// A cause that letters have in common.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The number of letters.
    pub letters: i64,
    pub tenant: String,
    /// The stream that the entries came from.
    pub stream: String,
    pub reason: String,
    /// The place in the entry, empty for the whole of it.
    pub path: Option<String>,
    /// A name for what is wrong there.
    pub code: Option<String>,
    /// The component that judged them, by the first digits of its digest.
    pub component: String,
    /// The version of the rules, by its first digits, if the letters are not older than versions are.
    pub version: Option<String>,
    /// When the first of them was recorded.
    pub first: DateTime<Utc>,
    /// When the last of them was recorded.
    pub last: DateTime<Utc>,
}

impl Cause {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            letters: row.try_get("letters")?,
            tenant: row.try_get("tenant")?,
            stream: row.try_get("stream")?,
            reason: row.try_get("reason")?,
            path: row.try_get("path")?,
            code: row.try_get("code")?,
            component: first_digits(&row.try_get::<Vec<u8>, _>("component")?),
            version: row.try_get::<Option<Vec<u8>>, _>("version")?.map(|version| first_digits(&version)),
            first: time(row.try_get("first")?)?,
            last: time(row.try_get("last")?)?,
        })
    }
}

/// The letters that a replay covers, as they were when it began.
///
/// Letters that are recorded later are left to the next replay, or a busy service might keep this
/// one going for ever.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The letters to replay, which are [`Filter::open`] ones.
    filter: Filter,
    /// The time by the database's clock. Letters that anybody has replayed since then are done.
    began: DateTime<Utc>,
    /// The newest letter's number.
    newest: i64,
}

/// Selects the columns of a [`Letter`].
const LETTERS: &str =
    "SELECT id, tenant, stream, entry_id, reason, violations::text AS violations, fields, deliveries,
    component, version, recorded_at, replay_outcome, replayed_at FROM dead_letters";

/// The condition for letters that no replay has settled, written as the indexes have it.
const OPEN: &str = "(replay_outcome IS NULL OR replay_outcome NOT IN ('stored', 'duplicate', 'discarded'))";

/// Selects a row for each tenant, stream, reason, violation and component. Foreign texts are cut.
const CAUSES: &str =
    "SELECT tenant, left(stream, 200) AS stream, reason, left(path, 200) AS path, left(code, 200) AS code, component, version,
        count(*) AS letters, min(recorded_at) AS first, max(recorded_at) AS last
     FROM dead_letters LEFT JOIN LATERAL (
         SELECT DISTINCT violation->>'path' AS path, violation->>'code' AS code
         FROM jsonb_array_elements(CASE jsonb_typeof(violations) WHEN 'array' THEN violations ELSE '[]' END) AS violation
     ) AS violation ON true";

/// Selects the same without the fields, and these violations.
fn brief(violations: &str) -> String {
    let brief = LETTERS.replace("violations::text", violations);
    brief.replace(" fields,", " NULL::bytea[] AS fields,")
}

/// Selects the first ten violations. Rows that somebody else wrote may hold anything.
const FIRST_VIOLATIONS: &str = "CASE jsonb_typeof(violations) WHEN 'array'
    THEN jsonb_path_query_array(violations, '$[0 to 9]') ELSE '[]' END::text";

/// The dead letters of a database. Its statements have time limits, except those that search.
pub struct DeadLetterStore {
    pub(super) database: Database,
    /// How long a search may take, if that has an end.
    patience: Option<Duration>,
}

impl DeadLetterStore {
    /// Opens the dead letters of a database that was prepared.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone(), patience: None }
    }

    /// Returns the same, with an end for searches that take longer than this.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// Returns whether the tables are known to be there.
    pub fn is_prepared(&self) -> bool {
        self.database.is_prepared()
    }

    pub async fn count(&self, filter: &Filter) -> Result<u64, Error> {
        self.number(filter.query("SELECT count(*) FROM dead_letters")).await
    }

    /// Counts the open letters of each of these tenants, `most` of each at most, so that the answer is quick.
    pub async fn count_open(&self, tenants: &[String], most: u32) -> Result<Vec<(String, u64)>, Error> {
        let sql = format!(
            "SELECT name, (SELECT count(*) FROM (
                 SELECT FROM dead_letters WHERE tenant = name AND {OPEN} LIMIT $2) AS counted)
             FROM unnest($1::text[]) AS name"
        );
        on_connection!(self.database, "counting dead letters", |connection| {
            let rows = sqlx::query(AssertSqlSafe(sql)).bind(tenants).bind(i64::from(most));
            let count = |row: &PgRow| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)?.unsigned_abs()));
            rows.fetch_all(connection).await?.iter().map(count).collect()
        })
    }

    /// Returns the newest letters without their fields.
    pub async fn newest(&self, filter: &Filter, limit: u32) -> Result<Vec<Letter>, Error> {
        self.select(&brief("violations::text"), filter, limit).await
    }

    /// Returns the newest letters without their fields, and with ten violations each at most.
    pub async fn newest_in_brief(&self, filter: &Filter, limit: u32) -> Result<Vec<Letter>, Error> {
        self.select(&brief(FIRST_VIOLATIONS), filter, limit).await
    }

    /// Returns the newest letters with all that is known of them.
    pub async fn newest_in_full(&self, filter: &Filter, limit: u32) -> Result<Vec<Letter>, Error> {
        self.select(LETTERS, filter, limit).await
    }

    /// Returns one letter, with all that is known of it.
    pub async fn letter(&self, filter: &Filter) -> Result<Option<Letter>, Error> {
        Ok(self.select(LETTERS, filter, 1).await?.pop())
    }

    async fn select(&self, beginning: &str, filter: &Filter, limit: u32) -> Result<Vec<Letter>, Error> {
        let mut query = filter.query(beginning);
        query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit));
        Letter::all(&self.look(query).await?)
    }

    /// Returns the causes, the most frequent first. A letter counts for each of its violations.
    pub async fn causes(&self, filter: &Filter, limit: u32) -> Result<Vec<Cause>, Error> {
        let mut query = filter.query(CAUSES);
        query.push(
            " GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY letters DESC, tenant, stream, reason, path, code LIMIT ",
        );
        query.push_bind(i64::from(limit));
        let rows = self.look(query).await?;
        Ok(rows.iter().map(Cause::from_row).collect::<Result<_, _>>()?)
    }

    /// Fixes what a replay of these letters is about. A job that was begun before goes on with what it was about then.
    pub async fn scope(&self, filter: Filter, job: Option<&Job>) -> Result<Scope, Error> {
        if let Some((began, newest)) = job.and_then(|job| job.began) {
            return Ok(Scope { filter, began, newest });
        }
        let query = QueryBuilder::new("SELECT now(), coalesce(max(id), 0) FROM dead_letters");
        let rows = self.look(query).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(Scope { filter, began: time(row.try_get(0)?)?, newest: row.try_get(1)? })
    }

    /// Returns how many letters nobody has replayed yet. At the end of a replay, another one holds
    /// them.
    pub async fn left(&self, scope: &Scope) -> Result<u64, Error> {
        self.number(scope.query("SELECT count(*) FROM dead_letters")).await
    }

    /// Deletes at most `limit` of the oldest letters after this number, and notes it in the same transaction if that
    /// is a job's. Returns how many were deleted, and the number of the last one.
    pub async fn purge(
        &self,
        filter: &Filter,
        after: i64,
        limit: u32,
        job: Option<&JobLease>,
    ) -> Result<Option<(u64, i64)>, Error> {
        let mut query =
            filter.query("WITH purged AS (DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters");
        query.push(" AND id > ").push_bind(after).push(" ORDER BY id LIMIT ").push_bind(i64::from(limit));
        query.push(") RETURNING id) SELECT count(*), max(id) FROM purged");
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let purged = async {
            let mut transaction = pooled.connection.begin().await?;
            let row = query.build().persistent(false).fetch_one(&mut *transaction).await?;
            let (count, last): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
            let purged = last.map(|last| (count.unsigned_abs(), last));
            let next = match (job, purged) {
                (Some(job), Some((count, last))) => {
                    let outcomes = BTreeMap::from([("deleted".to_owned(), count)]);
                    Some((job, job.write(&outcomes, last, &mut transaction).await?))
                }
                _ => None,
            };
            failpoint!("before_purge", sqlx::Error::from(std::io::Error::other("failpoint")).into());
            transaction.commit().await?;
            if let Some((job, next)) = next {
                job.advance(next);
            }
            Ok::<_, Error>(purged)
        };
        let purged = within_timeout("deleting dead letters", purged).await;
        self.database.finish(pooled, purged)
    }

    async fn number(&self, query: QueryBuilder<Postgres>) -> Result<u64, Error> {
        let rows = self.look(query).await?;
        let number: i64 = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        Ok(u64::try_from(number).unwrap_or(0))
    }

    /// Searches for as long as the server works on it, unless that has an end: going through all letters may take minutes.
    async fn look(&self, mut query: QueryBuilder<Postgres>) -> Result<Vec<PgRow>, Error> {
        let (mut connection, session) = self.database.session().await?;
        if let Some(patience) = self.patience {
            let set = format!("SET statement_timeout = {}", patience.as_millis());
            let set = sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut connection);
            within_timeout("looking for dead letters", set).await?;
        }
        let rows = query.build().persistent(false).fetch_all(&mut connection);
        let found = self.database.watched(session, async { Ok(rows.await?) }).await;
        match (found, self.patience) {
            (Err(error), Some(after)) if Error::is_cancelled(&error) => {
                Err(Error::TimedOut { what: "a search among dead letters", after })
            }
            (found, _) => found,
        }
    }
}

impl Filter {
    /// Returns a statement with this beginning and only the conditions that are given, so that it
    /// is planned for these values. Migration 0009 has an index for what is asked most.
    fn query(&self, beginning: &str) -> QueryBuilder<Postgres> {
        let Self { id, reason, code, tenant, stream, guest, before, since, open, before_id } = self;
        let mut query = QueryBuilder::new(beginning);
        query.push(" WHERE true");
        if *open {
            query.push(" AND ").push(OPEN);
        }
        let mut equal = |column: &str, value: &Option<String>| {
            if let Some(value) = value {
                query.push(" AND ").push(column).push(" = ").push_bind(value.clone());
            }
        };
        equal("tenant", tenant);
        equal("reason", reason);
        equal("stream", stream);
        if let Some(id) = id {
            query.push(" AND id = ").push_bind(*id);
        }
        if let Some(before_id) = before_id {
            query.push(" AND id < ").push_bind(*before_id);
        }
        if let Some(code) = code {
            query.push(" AND violations @> jsonb_build_array(jsonb_build_object('code', ");
            query.push_bind(code.clone()).push("::text))");
        }
        if let Some(guest) = guest {
            query.push(" AND (starts_with(encode(component, 'hex'), ").push_bind(guest.clone());
            query.push(") OR starts_with(encode(version, 'hex'), ").push_bind(guest.clone()).push("))");
        }
        if let Some(before) = before {
            query.push(" AND recorded_at < ").push_bind(*before);
        }
        if let Some(since) = since {
            query.push(" AND recorded_at >= ").push_bind(*since);
        }
        query
    }
}

impl Scope {
    /// Returns when the work began, and the newest letter then.
    pub(super) fn bounds(&self) -> (DateTime<Utc>, i64) {
        (self.began, self.newest)
    }

    /// Returns the filter without a look at replays, for letters that were there when the work began.
    pub fn filter(&self) -> Filter {
        Filter { before_id: Some(self.newest.saturating_add(1)), ..self.filter.clone() }
    }

    fn query(&self, beginning: &str) -> QueryBuilder<Postgres> {
        let mut query = self.filter.query(beginning);
        query.push(" AND id <= ").push_bind(self.newest);
        query.push(" AND (replayed_at IS NULL OR replayed_at < ").push_bind(self.began).push(")");
        query
    }

    /// Selects the letters after this number. Unless it is a trial, it locks them and leaves out
    /// those that another replay holds, unless that one dies (see [`DeadLetterStore::left`]).
    pub(super) fn next(&self, after: i64, limit: u32, is_trial: bool) -> QueryBuilder<Postgres> {
        let mut query = self.query(LETTERS);
        query.push(" AND id > ").push_bind(after).push(" ORDER BY id LIMIT ").push_bind(i64::from(limit));
        if !is_trial {
            query.push(" FOR UPDATE SKIP LOCKED");
        }
        query
    }
}

/// Converts a time. Rows that somebody else wrote may hold any time.
pub(super) fn time(time: Timestamp) -> Result<DateTime<Utc>, sqlx::Error> {
    time.try_into().map_err(|error: NoTimestamp| sqlx::Error::Decode(error.into()))
}

impl Letter {
    pub(super) fn all(rows: &[PgRow]) -> Result<Vec<Self>, Error> {
        Ok(rows.iter().map(Self::from_row).collect::<Result<_, _>>()?)
    }

    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let violations: String = row.try_get("violations")?;
        Ok(Self {
            id: row.try_get("id")?,
            tenant: row.try_get("tenant")?,
            stream: row.try_get("stream")?,
            entry_id: row.try_get("entry_id")?,
            reason: row.try_get("reason")?,
            // Rows that somebody else wrote may hold anything.
            violations: serde_json::from_str(&violations).unwrap_or_default(),
            fields: row.try_get("fields")?,
            deliveries: row.try_get("deliveries")?,
            component: first_digits(&row.try_get::<Vec<u8>, _>("component")?),
            version: row.try_get::<Option<Vec<u8>>, _>("version")?.map(|version| first_digits(&version)),
            recorded_at: time(row.try_get("recorded_at")?)?,
            replay_outcome: row.try_get("replay_outcome")?,
            replayed_at: row.try_get::<Option<_>, _>("replayed_at")?.map(time).transpose()?,
        })
    }

    /// Returns the entry as it came. It counts as delivered once, since an operator asks for it.
    pub(crate) fn entry(&self) -> Entry {
        let pair = |pair: &[Vec<u8>]| match pair {
            [name, value] => Some((name.clone(), value.clone())),
            _ => None,
        };
        let fields: Option<Vec<Field>> =
            self.fields.as_ref().map(|fields| fields.chunks(2).filter_map(pair).collect());
        Entry { id: EntryId::parse(self.entry_id.as_bytes()).unwrap_or(EntryId::ZERO), fields, deliveries: 1 }
    }
}
