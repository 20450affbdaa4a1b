//! Dead letters as an operator handles them: look, purge; `replay` judges them again.

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

use super::lending::Purpose;
use super::timestamp::{NoTimestamp, Timestamp};
use super::{Database, Error, patient};
use crate::batch::{Entry, EntryId, Field, Violation};

/// Which letters are meant: those that match all that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// This one.
    pub id: Option<i64>,
    /// With this reason.
    pub reason: Option<String>,
    /// With a violation of this code.
    pub code: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// From this stream.
    pub stream: Option<String>,
    /// Judged by a component whose digest begins so, in hexadecimal digits.
    pub guest: Option<String>,
    /// Recorded before.
    pub before: Option<DateTime<Utc>>,
    /// Recorded at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Only those that no replay has settled.
    pub open: bool,
}

/// One dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its number in the table.
    pub id: i64,
    /// Whose it is.
    pub tenant: String,
    /// Where the entry came from.
    pub stream: String,
    /// The entry's ID.
    pub entry_id: String,
    /// Why it was not stored.
    pub reason: String,
    /// In detail.
    pub violations: Vec<Violation>,
    /// Name, value, name, value, …; none when it was deleted before it was read.
    pub fields: Option<Vec<Vec<u8>>>,
    /// How often it had been delivered.
    pub deliveries: i64,
    /// The version of the rules, by its first digits.
    pub component: String,
    /// When.
    pub recorded_at: DateTime<Utc>,
    /// What came of the last replay.
    pub replay_outcome: Option<String>,
    /// When that was.
    pub replayed_at: Option<DateTime<Utc>>,
}

/// Letters that have a cause in common.
#[derive(Clone, Debug)]
pub struct Cause {
    /// How many there are.
    pub letters: i64,
    /// Whose they are.
    pub tenant: String,
    /// Where the entries came from.
    pub stream: String,
    /// Why they were not stored.
    pub reason: String,
    /// Where in the entry; empty for the whole of it.
    pub path: Option<String>,
    /// What is wrong there.
    pub code: Option<String>,
    /// The version of the rules, by its first digits.
    pub component: String,
    /// When the first was recorded.
    pub first: DateTime<Utc>,
    /// When the last was.
    pub last: DateTime<Utc>,
}

impl Cause {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            letters: row.try_get("letters")?,
            tenant: row.try_get("tenant")?,
            stream: row.try_get("stream")?,
            reason: row.try_get("reason")?,
            path: row.try_get("path")?,
            code: row.try_get("code")?,
            component: first_digits(row.try_get("component")?),
            first: time(row.try_get("first")?)?,
            last: time(row.try_get("last")?)?,
        })
    }
}

/// Of a digest: as many as a log line has.
fn first_digits(component: Vec<u8>) -> String {
    component.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// What a replay is about, as it was when the replay began.
///
/// Letters that are recorded later are left to the next one, or a busy service
/// might keep it going for ever.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Which letters; [`Filter::open`] ones.
    filter: Filter,
    /// By the database's clock. What was replayed since then is done with, by whomever.
    began: DateTime<Utc>,
    /// The newest letter's number.
    newest: i64,
}

/// What a [`Letter`] is made of.
macro_rules! letters {
    () => {
        "SELECT id, tenant, stream, entry_id, reason, violations::text AS violations, fields, deliveries, component,
                recorded_at, replay_outcome, replayed_at
         FROM dead_letters"
    };
}

/// The conditions of a [`Filter`], parameters 1 to 9.
macro_rules! matching {
    ($before:expr, $after:literal) => {
        concat!(
            $before,
            " WHERE ($1::bigint IS NULL OR id = $1) AND ($2::text IS NULL OR reason = $2)
              AND ($3::text IS NULL OR violations @> jsonb_build_array(jsonb_build_object('code', $3)))
              AND ($4::text IS NULL OR tenant = $4)
              AND ($5::timestamptz IS NULL OR recorded_at < $5)
              AND ($6::timestamptz IS NULL OR recorded_at >= $6)
              AND ($8::text IS NULL OR stream = $8)
              AND ($9::text IS NULL OR starts_with(encode(component, 'hex'), $9))
              AND (NOT $7 OR replay_outcome IS NULL OR replay_outcome NOT IN ('stored', 'duplicate', 'discarded')) ",
            $after
        )
    };
}

const COUNT: &str = matching!("SELECT count(*) FROM dead_letters", "");
const NEWEST: &str = matching!(letters!(), "ORDER BY id DESC LIMIT $10");
const BEGIN: &str = matching!("SELECT now(), coalesce(max(id), 0) FROM dead_letters", "");
const LEFT: &str = matching!(
    "SELECT count(*) FROM dead_letters",
    "AND id <= $10 AND (replayed_at IS NULL OR replayed_at < $11)"
);
const NEXT: &str = matching!(
    letters!(),
    "AND id <= $10 AND (replayed_at IS NULL OR replayed_at < $11) AND id > $12 ORDER BY id LIMIT $13"
);
/// What another replay holds is its affair, unless it dies: see [`Archive::left`].
const NEXT_LOCKED: &str = matching!(
    letters!(),
    "AND id <= $10 AND (replayed_at IS NULL OR replayed_at < $11) AND id > $12 ORDER BY id LIMIT $13
     FOR UPDATE SKIP LOCKED"
);
const PURGE: &str =
    matching!("DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters", "ORDER BY id LIMIT $10)");
/// One row for each tenant, stream, reason, violation and component. Texts of others are cut.
const CAUSES: &str = matching!(
    "SELECT tenant, left(stream, 200) AS stream, reason, left(path, 200) AS path, left(code, 200) AS code, component,
            count(*) AS letters, min(recorded_at) AS first, max(recorded_at) AS last
     FROM dead_letters LEFT JOIN LATERAL (
         SELECT DISTINCT violation->>'path' AS path, violation->>'code' AS code
         FROM jsonb_array_elements(CASE jsonb_typeof(violations) WHEN 'array' THEN violations ELSE '[]' END) AS violation
     ) AS violation ON true",
    "GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY letters DESC, tenant, stream, reason, path, code LIMIT $10"
);

/// The dead letters of a database. Each of its statements has a time limit of its own.
pub struct Archive {
    pub(super) database: Database,
}

impl Archive {
    /// Of a database that was prepared.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// How many there are.
    pub async fn count(&self, filter: &Filter) -> Result<u64, Error> {
        self.number("counting dead letters", filter.bind(COUNT)).await
    }

    /// The newest.
    pub async fn newest(&self, filter: &Filter, limit: u32) -> Result<Vec<Letter>, Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let rows = filter.bind(NEWEST).bind(i64::from(limit)).fetch_all(&mut loan.connection);
        let rows = patient("listing dead letters", rows).await;
        Letter::all(&self.database.settle(loan, rows)?)
    }

    /// Why there are letters: the most frequent causes first. A letter counts for each of its violations.
    pub async fn causes(&self, filter: &Filter, limit: u32) -> Result<Vec<Cause>, Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let rows = filter.bind(CAUSES).bind(i64::from(limit)).fetch_all(&mut loan.connection);
        let rows = patient("counting dead letters", rows).await;
        let rows = self.database.settle(loan, rows)?;
        Ok(rows.iter().map(Cause::of).collect::<Result<_, _>>()?)
    }

    /// What a replay of these letters is about.
    pub async fn scope(&self, filter: Filter) -> Result<Scope, Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let row =
            patient("looking for dead letters", filter.bind(BEGIN).fetch_one(&mut loan.connection)).await;
        let row = self.database.settle(loan, row)?;
        Ok(Scope { filter, began: row.try_get(0)?, newest: row.try_get(1)? })
    }

    /// How many letters nobody has replayed yet: those that another replay
    /// holds, when a replay has come to its end.
    pub async fn left(&self, scope: &Scope) -> Result<u64, Error> {
        self.number("counting dead letters", scope.bind(LEFT)).await
    }

    /// Deletes the oldest, at most `limit`; gives how many it were.
    pub async fn purge(&self, filter: &Filter, limit: u32) -> Result<u64, Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let purged = filter.bind(PURGE).bind(i64::from(limit)).execute(&mut loan.connection);
        let purged = patient("deleting dead letters", purged).await;
        Ok(self.database.settle(loan, purged)?.rows_affected())
    }

    async fn number(&self, what: &'static str, query: Bound) -> Result<u64, Error> {
        let mut loan = self.database.borrow(Purpose::Plain).await?;
        let row = patient(what, query.fetch_one(&mut loan.connection)).await;
        let number: i64 = self.database.settle(loan, row)?.try_get(0)?;
        Ok(u64::try_from(number).unwrap_or(0))
    }
}

type Bound = Query<'static, Postgres, PgArguments>;

impl Filter {
    fn bind(&self, statement: &'static str) -> Bound {
        sqlx::query(statement)
            .bind(self.id)
            .bind(self.reason.clone())
            .bind(self.code.clone())
            .bind(self.tenant.clone())
            .bind(self.before)
            .bind(self.since)
            .bind(self.open)
            .bind(self.stream.clone())
            .bind(self.guest.clone())
    }
}

impl Scope {
    fn bind(&self, statement: &'static str) -> Bound {
        self.filter.bind(statement).bind(self.newest).bind(self.began)
    }

    /// The letters after this number; unless it is a trial, they are locked.
    pub(super) fn next(&self, after: i64, limit: u32, is_trial: bool) -> Bound {
        let next = if is_trial { NEXT } else { NEXT_LOCKED };
        self.bind(next).bind(after).bind(i64::from(limit))
    }
}

/// Rows that somebody else wrote may hold any.
pub(super) fn time(time: Timestamp) -> Result<DateTime<Utc>, sqlx::Error> {
    time.try_into().map_err(|error: NoTimestamp| sqlx::Error::Decode(error.into()))
}

impl Letter {
    pub(super) fn all(rows: &[PgRow]) -> Result<Vec<Self>, Error> {
        Ok(rows.iter().map(Self::of).collect::<Result<_, _>>()?)
    }

    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
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
            component: first_digits(row.try_get("component")?),
            recorded_at: time(row.try_get("recorded_at")?)?,
            replay_outcome: row.try_get("replay_outcome")?,
            replayed_at: row.try_get::<Option<_>, _>("replayed_at")?.map(time).transpose()?,
        })
    }

    /// The entry as it came. It counts as delivered once: an operator asks for it.
    pub(super) fn entry(&self) -> Entry {
        let pair = |pair: &[Vec<u8>]| match pair {
            [name, value] => Some((name.clone(), value.clone())),
            _ => None,
        };
        let fields: Option<Vec<Field>> =
            self.fields.as_ref().map(|fields| fields.chunks(2).filter_map(pair).collect());
        Entry { id: EntryId::parse(self.entry_id.as_bytes()).unwrap_or(EntryId::ZERO), fields, deliveries: 1 }
    }
}
