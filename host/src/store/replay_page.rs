//! Dead letters judged again, a part of them in one transaction.
//!
//! The rules are asked inside of it: what their statements did, the rows and
//! the letters' marks commit or roll back together, and so do publications,
//! which wait in the `outbox` until they are sent.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::dead_letter_store::{DeadLetterStore, Letter, Scope};
use super::pool::Purpose;
use super::session::{self, Session};
use super::writer::{Keys, Others, Rows, look_at_others, take_new};
use super::{Error, Remedy, Store, replay_outbox, within_timeout};
use crate::batch::{Digest, Entry, Judged, Outcome, Reason};
use crate::capabilities::{HostContext, Lost, Publication};
use crate::failpoint::failpoint;

/// Judges entries by the rules to replay with. May block.
pub type Judge<'a> = &'a (dyn Fn(Vec<Entry>, &mut HostContext) -> Result<Vec<Judged>, Lost> + Sync);

/// A part of a replay: what is done in one transaction.
#[derive(Clone, Copy)]
pub struct ReplayPage<'a> {
    /// Where the rows go to.
    pub store: &'a Store,
    pub scope: &'a Scope,
    /// Letters after this number.
    pub after: i64,
    /// So many, at most.
    pub limit: u32,
    /// Only to tell what would come of them: nothing is written.
    pub trial: bool,
    pub judge: Judge<'a>,
    /// How long that may take without a word to the database.
    pub pause: Duration,
}

/// What came of a part of a replay.
#[derive(Debug, Default)]
pub struct Replay {
    /// The last letter's number: go on after it. `None` when there was none left.
    pub last: Option<i64>,
    /// How many letters ended how: `stored`, `duplicate`, `discarded`, or a
    /// reason why they are dead letters still, with the code of its first violation.
    pub outcomes: BTreeMap<String, u64>,
    /// Whether there is something new in the outbox.
    pub has_published: bool,
}

/// What the rules made of letters.
struct Answer {
    judged: Vec<Judged>,
    publications: Vec<Publication>,
    /// Whether they did anything besides judging.
    has_acted: bool,
}

const MARK: &str =
    "UPDATE dead_letters SET replay_outcome = outcome, replay_component = $3, replayed_at = now()
     FROM UNNEST($1::bigint[], $2::text[]) AS replayed (letter, outcome) WHERE id = letter";

impl DeadLetterStore {
    /// Judges the next letters again and, unless it is a trial, stores what
    /// is now accepted and notes what came of each, in one transaction.
    ///
    /// Killed in the middle, it has done all of a part or nothing; a letter
    /// that is settled is not [`Filter::open`](super::Filter::open) any more, and its rows have keys.
    ///
    /// `None`, with nothing done, when these letters are to be taken one by one: PostgreSQL refuses a
    /// row, or the rules did something for a letter that stays one. Never for a single letter.
    pub async fn replay(&self, part: ReplayPage<'_>) -> Result<Option<Replay>, Error> {
        let replayed = self.try_replay(part).await;
        replayed.map_err(|error| self.database.failed(error))
    }

    async fn try_replay(&self, part: ReplayPage<'_>) -> Result<Option<Replay>, Error> {
        let pooled = self.database.acquire(Purpose::Guest).await?;
        let mut session = Session::begin(pooled, part.store, part.pause).await?;
        let mut next = part.scope.next(part.after, part.limit, part.trial);
        let next = next.build().persistent(false).fetch_all(&mut session.pooled.connection);
        let rows = within_timeout("taking dead letters", next).await?;
        let letters = Letter::all(&rows)?;
        let Some(last) = letters.last().map(|letter| letter.id) else {
            session.rollback(&self.database).await?;
            return Ok(Some(Replay::default()));
        };
        let entries = letters.iter().map(Letter::entry).collect();
        let (mut session, answer) = ask(session, entries, part.judge).await?;
        let Answer { judged, mut publications, has_acted } = answer;
        failpoint!("before_insert", failed());

        // What the rules did for a letter that stays one is taken back, or each replay would do it again.
        let undoes =
            has_acted && judged.iter().any(|judged| matches!(judged.outcome, Outcome::DeadLetter(..)));
        // A trial inserts too, to tell new rows from duplicates, and rolls back.
        let inserted = match undoes {
            true => None,
            false => insert(part.store, &mut session.pooled.connection, &judged).await?,
        };
        if inserted.is_none() {
            if letters.len() > 1 {
                // To its end, on this connection: the letters are free when they are taken again.
                session.rollback(&self.database).await?;
                return Ok(None);
            }
            session.undo_all().await?;
            publications.clear();
        }
        let (outcomes, marks) = outcomes(&judged, inserted);
        let mut replay = Replay { last: Some(last), outcomes, has_published: !publications.is_empty() };
        match (part.trial, judged.first()) {
            (false, Some(first)) => {
                let marks =
                    Marks { ids: letters.iter().map(|letter| letter.id).collect(), marks, by: first.digest };
                self.commit(session, part.store, marks, publications).await?;
            }
            _ => {
                replay.has_published = false;
                session.rollback(&self.database).await?;
            }
        }
        Ok(Some(replay))
    }

    async fn commit(
        &self,
        mut session: Session,
        store: &Store,
        marks: Marks,
        publications: Vec<Publication>,
    ) -> Result<(), Error> {
        let connection = &mut session.pooled.connection;
        let committed = async {
            marks.write(connection).await?;
            replay_outbox::put(store, &publications, connection).await?;
            failpoint!("before_commit", failed());
            sqlx::raw_sql("COMMIT").execute(connection).await?;
            Ok::<(), Error>(())
        };
        within_timeout("writing what was replayed", committed).await?;
        failpoint!("after_commit", failed());
        session.release(&self.database).await;
        Ok(())
    }
}

/// Asks the rules within the transaction. After it, all that they did can be undone.
async fn ask(
    mut session: Session,
    entries: Vec<Entry>,
    judge: Judge<'_>,
) -> Result<(Session, Answer), Error> {
    session.begin_all().await?;
    // Nobody has looked at the lag, and there is no stream to have one.
    let mut context = HostContext { transaction: Some(Box::new(session)), ..HostContext::default() };
    let judged = judge(entries, &mut context);
    let HostContext { transaction, effects, .. } = context;
    let session = transaction.and_then(|session| (session as Box<dyn Any>).downcast::<Session>().ok());
    let mut session = session.ok_or(Error::SessionLost)?;
    let judged = judged.map_err(|Lost| session.take_lost().unwrap_or(Error::SessionLost))?;
    // Metrics are a running service's: a command has no interval at which to tell them.
    let publications = effects.publications;
    let has_acted = session.was_used() || !publications.is_empty();
    Ok((*session, Answer { judged, publications, has_acted }))
}

/// Inserts rows, and gives the keys of new ones; `None` when PostgreSQL refuses one of them.
async fn insert(
    store: &Store,
    connection: &mut PgConnection,
    judged: &[Judged],
) -> Result<Option<Keys>, Error> {
    let inserted = async {
        // Among others, so that what is checked at the commit is checked here: then it is too late for a letter to be marked.
        sqlx::raw_sql(AssertSqlSafe(session::end_of_guest())).execute(&mut *connection).await?;
        Rows::from_batch(judged).insert_returning(store, connection).await
    };
    match within_timeout("storing what was replayed", inserted).await {
        Ok(new) => Ok(Some(new)),
        Err(error) => match error.remedy() {
            Remedy::BlameRow => Ok(None),
            Remedy::Split | Remedy::RetryUnlessRow | Remedy::StopUnlessRow if judged.len() > 1 => Ok(None),
            Remedy::RetryUnlessRow | Remedy::StopUnlessRow => {
                sqlx::raw_sql("ROLLBACK TO SAVEPOINT guest").execute(&mut *connection).await?;
                match look_at_others(store, connection).await? {
                    Others::Written => Ok(None),
                    Others::Refused | Others::Unknown | Others::Away => Err(error),
                }
            }
            _ => Err(error),
        },
    }
}

/// How letters ended, counted and one by one.
fn outcomes(judged: &[Judged], mut new: Option<Keys>) -> (BTreeMap<String, u64>, Vec<&'static str>) {
    let (mut outcomes, mut marks) = (BTreeMap::new(), Vec::with_capacity(judged.len()));
    for judged in judged {
        let (outcome, detail) = match (&judged.outcome, &mut new) {
            (Outcome::Store(events), Some(new)) => match take_new(events, new) {
                true => ("stored", None),
                false => ("duplicate", None),
            },
            (Outcome::Store(_), None) => (Reason::Refused.as_str(), None),
            (Outcome::Discard(_), _) => ("discarded", None),
            (Outcome::DeadLetter(reason, violations), _) => (reason.as_str(), violations.first()),
        };
        marks.push(outcome);
        let name = detail.map_or(outcome.to_owned(), |violation| format!("{outcome} ({})", violation.code));
        *outcomes.entry(name).or_default() += 1;
    }
    (outcomes, marks)
}

/// What is noted of letters.
struct Marks {
    ids: Vec<i64>,
    marks: Vec<&'static str>,
    by: Digest,
}

impl Marks {
    async fn write(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let mark = sqlx::query(MARK).bind(&self.ids).bind(&self.marks).bind(self.by.as_bytes());
        mark.execute(connection).await?;
        Ok(())
    }
}

#[cfg(feature = "failpoints")]
fn failed() -> Error {
    sqlx::Error::from(std::io::Error::other("failpoint")).into()
}
