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

/// The conditions of a [`Filter`], parameters 1 to 7.
macro_rules! matching {
    ($before:expr, $after:literal) => {
        concat!(
            $before,
            " WHERE ($1::bigint IS NULL OR id = $1) AND ($2::text IS NULL OR reason = $2)
              AND ($3::text IS NULL OR violations @> jsonb_build_array(jsonb_build_object('code', $3)))
              AND ($4::text IS NULL OR tenant = $4)
              AND ($5::timestamptz IS NULL OR recorded_at < $5)
              AND ($6::timestamptz IS NULL OR recorded_at >= $6)
              AND (NOT $7 OR replay_outcome IS NULL OR replay_outcome NOT IN ('stored', 'duplicate', 'discarded')) ",
            $after
        )
    };
}

const COUNT: &str = matching!("SELECT count(*) FROM dead_letters", "");
const NEWEST: &str = matching!(letters!(), "ORDER BY id DESC LIMIT $8");
const BEGIN: &str = matching!("SELECT now(), coalesce(max(id), 0) FROM dead_letters", "");
const LEFT: &str = matching!(
    "SELECT count(*) FROM dead_letters",
    "AND id <= $8 AND (replayed_at IS NULL OR replayed_at < $9)"
);
const NEXT: &str = matching!(
    letters!(),
    "AND id <= $8 AND (replayed_at IS NULL OR replayed_at < $9) AND id > $10 ORDER BY id LIMIT $11"
);
/// What another replay holds is its affair, unless it dies: see [`Archive::left`].
const NEXT_LOCKED: &str = matching!(
    letters!(),
    "AND id <= $8 AND (replayed_at IS NULL OR replayed_at < $9) AND id > $10 ORDER BY id LIMIT $11
     FOR UPDATE SKIP LOCKED"
);
const PURGE: &str =
    matching!("DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters", "ORDER BY id LIMIT $8)");

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
fn time(time: Timestamp) -> Result<DateTime<Utc>, sqlx::Error> {
    time.try_into().map_err(|error: NoTimestamp| sqlx::Error::Decode(error.into()))
}

impl Letter {
    pub(super) fn all(rows: &[PgRow]) -> Result<Vec<Self>, Error> {
        Ok(rows.iter().map(Self::of).collect::<Result<_, _>>()?)
    }

    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let component: Vec<u8> = row.try_get("component")?;
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
            component: component.iter().take(6).map(|byte| format!("{byte:02x}")).collect(),
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
