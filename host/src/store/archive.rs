//! Dead letters as an operator handles them: look, replay, purge.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection as _, PgConnection, Postgres, Row as _};

use super::write::{Keys, Rows, take_new};
use super::{Database, Error, Remedy, Store};
use crate::batch::{Digest, Entry, EntryId, Fate, Field, Judged, Reason, Violation};

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

/// Judges entries by the rules to replay with.
pub type Judge<'a> = &'a (dyn Fn(Vec<Entry>) -> Vec<Judged> + Sync);

/// A part of a replay: what is done in one transaction.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Where the rows go to.
    pub store: &'a Store,
    /// Of what.
    pub scope: &'a Scope,
    /// Letters after this number.
    pub after: i64,
    /// So many, at most.
    pub limit: u32,
    /// Only to tell what would come of them: nothing is written.
    pub trial: bool,
    /// By what.
    pub judge: Judge<'a>,
}

/// What came of a part of a replay.
#[derive(Debug, Default)]
pub struct Replay {
    /// The last letter's number: go on after it. `None` when there was none left.
    pub last: Option<i64>,
    /// How many letters ended how: `stored`, `duplicate`, `discarded`, or a
    /// reason why they are dead letters still, with the code of its first violation.
    pub outcomes: BTreeMap<String, u64>,
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
const MARK: &str =
    "UPDATE dead_letters SET replay_outcome = outcome, replay_component = $3, replayed_at = now()
     FROM UNNEST($1::bigint[], $2::text[]) AS replayed (letter, outcome) WHERE id = letter";

/// The dead letters of a database.
pub struct Archive {
    connection: PgConnection,
}

impl Archive {
    /// Connects, to a database that was prepared.
    pub async fn open(database: &Database) -> Result<Self, Error> {
        let mut connection = database.connect().await?;
        // Otherwise what is killed while its statement waits for a lock holds its letters until then.
        // A server on a system that cannot do this refuses, and then it is so.
        let _ = sqlx::query("SET client_connection_check_interval = '1s'").execute(&mut connection).await;
        Ok(Self { connection })
    }

    /// How many there are.
    pub async fn count(&mut self, filter: &Filter) -> Result<u64, Error> {
        let count: i64 = filter.bind(COUNT).fetch_one(&mut self.connection).await?.try_get(0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The newest.
    pub async fn newest(&mut self, filter: &Filter, limit: u32) -> Result<Vec<Letter>, Error> {
        let rows = filter.bind(NEWEST).bind(i64::from(limit)).fetch_all(&mut self.connection).await?;
        rows.iter().map(|row| Ok(Letter::of(row)?)).collect()
    }

    /// What a replay of these letters is about.
    pub async fn scope(&mut self, filter: Filter) -> Result<Scope, Error> {
        let row = filter.bind(BEGIN).fetch_one(&mut self.connection).await?;
        Ok(Scope { filter, began: row.try_get(0)?, newest: row.try_get(1)? })
    }

    /// How many letters nobody has replayed yet: those that another replay
    /// holds, when a replay has come to its end.
    pub async fn left(&mut self, scope: &Scope) -> Result<u64, Error> {
        let count: i64 = scope.bind(LEFT).fetch_one(&mut self.connection).await?.try_get(0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Judges the next letters again and, unless it is a trial, stores what
    /// is now accepted and notes what came of each, in one transaction.
    ///
    /// Killed in the middle, it has done all of a part or nothing; a letter
    /// that is settled is not [`Filter::open`] any more, and its rows have keys.
    pub async fn replay(&mut self, part: Part<'_>) -> Result<Replay, Error> {
        match self.try_replay(part).await {
            // A row that PostgreSQL refuses: go one by one, so that only its letter stays open.
            Err(error) if error.remedy() == Remedy::BlameRow && part.limit > 1 => {
                self.replay_one_by_one(part).await
            }
            other => other,
        }
    }

    /// On the same connection: there the rollback comes first. Over another
    /// one, the letters might be locked still.
    async fn replay_one_by_one(&mut self, part: Part<'_>) -> Result<Replay, Error> {
        let mut replay = Replay::default();
        for _ in 0..part.limit {
            let after = replay.last.unwrap_or(part.after);
            let one = self.try_replay(Part { after, limit: 1, ..part }).await?;
            if one.last.is_none() {
                break;
            }
            replay.last = one.last;
            for (outcome, count) in one.outcomes {
                *replay.outcomes.entry(outcome).or_default() += count;
            }
        }
        Ok(replay)
    }

    async fn try_replay(&mut self, part: Part<'_>) -> Result<Replay, Error> {
        let mut transaction = self.connection.begin().await?;
        let query = part.scope.bind(if part.trial { NEXT } else { NEXT_LOCKED });
        let rows = query.bind(part.after).bind(i64::from(part.limit)).fetch_all(&mut *transaction).await?;
        let letters: Vec<Letter> = rows.iter().map(Letter::of).collect::<Result<_, _>>()?;
        let judged = (part.judge)(letters.iter().map(Letter::entry).collect());

        // A trial inserts too, to tell new rows from duplicates, and rolls back.
        let mut new = match (insert(part.store, &mut transaction, &judged).await, judged.len()) {
            (Ok(new), _) => Some(new),
            (Err(error), 1) if error.remedy() == Remedy::BlameRow => None,
            (Err(error), _) => return Err(error),
        };
        let mut replay = Replay { last: letters.last().map(|letter| letter.id), ..Replay::default() };
        let mut marks = Vec::with_capacity(judged.len());
        for judged in &judged {
            let (outcome, detail) = match (&judged.fate, &mut new) {
                (Fate::Store(events), Some(new)) => match take_new(events, new) {
                    true => ("stored", None),
                    false => ("duplicate", None),
                },
                (Fate::Store(_), None) => (Reason::Refused.as_str(), None),
                (Fate::Discard(_), _) => ("discarded", None),
                (Fate::DeadLetter(reason, violations), _) => (reason.as_str(), violations.first()),
            };
            marks.push(outcome);
            let name =
                detail.map_or(outcome.to_owned(), |violation| format!("{outcome} ({})", violation.code));
            *replay.outcomes.entry(name).or_default() += 1;
        }
        match (part.trial, judged.first()) {
            (false, Some(first)) => {
                let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
                mark(&mut transaction, &ids, &marks, first.digest).await?;
                transaction.commit().await?;
            }
            _ => transaction.rollback().await?,
        }
        Ok(replay)
    }

    /// Deletes the oldest, at most `limit`; gives how many it were.
    pub async fn purge(&mut self, filter: &Filter, limit: u32) -> Result<u64, Error> {
        Ok(filter.bind(PURGE).bind(i64::from(limit)).execute(&mut self.connection).await?.rows_affected())
    }
}

/// Inserts rows, and gives the keys of new ones. After an error the transaction goes on without them.
async fn insert(store: &Store, transaction: &mut PgConnection, judged: &[Judged]) -> Result<Keys, Error> {
    let mut savepoint = transaction.begin().await?;
    // What is checked at the commit is checked here: then it is too late for a letter to be marked.
    sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *savepoint).await?;
    let new = Rows::of(judged).insert_returning(store, &mut savepoint).await?;
    savepoint.commit().await?;
    Ok(new)
}

async fn mark(
    connection: &mut PgConnection,
    ids: &[i64],
    outcomes: &[&str],
    component: Digest,
) -> Result<(), Error> {
    sqlx::query(MARK).bind(ids).bind(outcomes).bind(component.as_bytes()).execute(connection).await?;
    Ok(())
}

impl Filter {
    fn bind(&self, statement: &'static str) -> Query<'static, Postgres, PgArguments> {
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
    fn bind(&self, statement: &'static str) -> Query<'static, Postgres, PgArguments> {
        self.filter.bind(statement).bind(self.newest).bind(self.began)
    }
}

impl Letter {
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
            recorded_at: row.try_get("recorded_at")?,
            replay_outcome: row.try_get("replay_outcome")?,
            replayed_at: row.try_get("replayed_at")?,
        })
    }

    /// The entry as it came. It counts as delivered once: an operator asks for it.
    fn entry(&self) -> Entry {
        let pair = |pair: &[Vec<u8>]| match pair {
            [name, value] => Some((name.clone(), value.clone())),
            _ => None,
        };
        let fields: Option<Vec<Field>> =
            self.fields.as_ref().map(|fields| fields.chunks(2).filter_map(pair).collect());
        Entry { id: EntryId::parse(self.entry_id.as_bytes()).unwrap_or(EntryId::ZERO), fields, deliveries: 1 }
    }
}
