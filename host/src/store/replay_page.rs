//! Judges dead letters again, one page of them in each transaction.
//!
//! The rules are asked within it: what their statements did, the rows and the letters' marks commit
//! or roll back together. So do publications, which wait in the `outbox` until they are sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection};

use super::dead_letter_store::{DeadLetterStore, Letter, Scope};
use super::other_rows::{OtherRows, look_at_other_rows};
use super::pool::Purpose;
use super::rows::{Keys, Rows, take_new};
use super::session::{self, Session};
use super::{Error, JobLease, Remedy, Store, replay_outbox, within_timeout};
use crate::batch::{Judged, Version};
use crate::capabilities::{HostContext, Lost, Publication};
use crate::failpoint::failpoint;
use crate::judge::{self, Rules, max_pause};
use sluicegate_verdicts::{Entry, Outcome, Reason};

/// A page of a replay: what is done in one transaction.
#[derive(Clone, Copy)]
pub struct ReplayPage<'a> {
    /// The store that the rows go to.
    pub store: &'a Store,
    pub scope: &'a Scope,
    /// Only letters after this number are taken.
    pub after: i64,
    /// The largest number of letters to take.
    pub limit: u32,
    /// Whether only to tell what would become of the letters, and to write nothing.
    pub trial: bool,
    pub rules: &'a Arc<dyn Rules>,
    /// The job that the replay is, if it is one: how far it is commits with the page.
    pub job: Option<&'a JobLease>,
}

/// The result of a page of a replay.
#[derive(Debug, Default)]
pub struct Replay {
    /// The last letter's number, after which to go on, or `None` when no letter was left.
    pub last: Option<i64>,
    /// The number of letters by how they ended: `stored`, `duplicate`, `discarded`, or the reason
    /// why they still are dead letters, with the code of the first violation.
    pub outcomes: BTreeMap<String, u64>,
    /// Whether the page has put something into the outbox.
    pub has_published: bool,
}

struct Answer {
    judged: Vec<Judged>,
    publications: Vec<Publication>,
    /// Whether the rules did anything besides judging.
    has_acted: bool,
}

const MARK: &str =
    "UPDATE dead_letters SET replay_outcome = outcome, replay_component = $3, replay_version = $4, replayed_at = now()
     FROM UNNEST($1::bigint[], $2::text[]) AS replayed (letter, outcome) WHERE id = letter";

impl DeadLetterStore {
    /// Judges the next letters again in one transaction. Unless it is a trial, it stores what is
    /// now accepted and notes what became of each letter.
    ///
    /// If it is killed in the middle, it has done all of a page or nothing. A settled letter is not
    /// [`Filter::open`](super::Filter::open) any more, and its rows have keys.
    ///
    /// Returns `None`, with nothing done, when these letters are to be taken one by one: PostgreSQL
    /// refuses a row, or the rules did something for a letter that stays one. This never happens
    /// for a single letter.
    pub async fn replay(&self, part: ReplayPage<'_>) -> Result<Option<Replay>, Error> {
        let replayed = self.try_replay(part).await;
        replayed.map_err(|error| self.database.failed(error))
    }

    async fn try_replay(&self, part: ReplayPage<'_>) -> Result<Option<Replay>, Error> {
        let pooled = self.database.acquire(Purpose::Guest).await?;
        let mut session =
            Session::begin(pooled, part.store, max_pause(part.rules.as_ref(), part.limit)).await?;
        let mut next = part.scope.next(part.after, part.limit, part.trial);
        let next = next.build().persistent(false).fetch_all(&mut session.pooled.connection);
        let rows = within_timeout("taking dead letters", next).await?;
        let letters = Letter::all(&rows)?;
        let Some(last) = letters.last().map(|letter| letter.id) else {
            session.rollback(&self.database).await?;
            return Ok(Some(Replay::default()));
        };
        let entries = letters.iter().map(Letter::entry).collect();
        let (mut session, answer) = ask(session, entries, part.rules).await?;
        let Answer { judged, mut publications, has_acted } = answer;
        failpoint!("before_insert", failed());

        // What the rules did for a letter that stays one is undone, or a replay would repeat it.
        let undoes =
            has_acted && judged.iter().any(|judged| matches!(judged.outcome, Outcome::DeadLetter(..)));
        // A trial inserts too, to tell new rows from duplicates, and rolls back.
        let inserted = match undoes {
            true => None,
            false => insert(part.store, &mut session.pooled.connection, &judged).await?,
        };
        if inserted.is_none() {
            if letters.len() > 1 {
                // The rollback is completed here, so that the letters are free to be taken again.
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
                    Marks { ids: letters.iter().map(|letter| letter.id).collect(), marks, by: first.version };
                let noted = part.job.map(|job| (job, &replay.outcomes, last));
                self.commit(session, part.store, marks, publications, noted).await?;
            }
            _ => {
                replay.has_published = false;
                session.rollback(&self.database).await?;
                if let Some(job) = part.job {
                    job.note(&replay.outcomes, last).await?;
                }
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
        noted: Option<(&JobLease, &BTreeMap<String, u64>, i64)>,
    ) -> Result<(), Error> {
        let connection = &mut session.pooled.connection;
        let committed = async {
            marks.write(connection).await?;
            replay_outbox::put(store, &publications, connection).await?;
            let next = match noted {
                Some((job, outcomes, last)) => Some((job, job.write(outcomes, last, connection).await?)),
                None => None,
            };
            failpoint!("before_commit", failed());
            sqlx::raw_sql("COMMIT").execute(connection).await?;
            Ok::<_, Error>(next)
        };
        if let Some((job, next)) = within_timeout("writing what was replayed", committed).await? {
            job.advance(next);
        }
        failpoint!("after_commit", failed());
        session.release(&self.database).await;
        Ok(())
    }
}

/// Asks the rules within the transaction. Afterwards, all that they did can still be undone.
async fn ask(
    mut session: Session,
    entries: Vec<Entry>,
    rules: &Arc<dyn Rules>,
) -> Result<(Session, Answer), Error> {
    session.begin_all().await?;
    // There is no lag: a replay reads no stream.
    let context = HostContext::default();
    let asked =
        judge::ask(Arc::clone(rules), u64::MAX, entries, context, |requests| session.serve(requests)).await;
    let (judgement, effects) = asked.map_err(Error::Panicked)?;
    let judged = judgement.map_err(|Lost| session.lost())?.entries;
    // Metrics belong to a running service: a command has no interval at which to tell them.
    let publications = effects.publications;
    let has_acted = session.was_used() || !publications.is_empty();
    Ok((session, Answer { judged, publications, has_acted }))
}

/// Inserts rows and returns the keys of new ones, or `None` when PostgreSQL refuses one of them.
async fn insert(
    store: &Store,
    connection: &mut PgConnection,
    judged: &[Judged],
) -> Result<Option<Keys>, Error> {
    let inserted = async {
        // This also checks constraints that are deferred to the commit, when it would be too late
        // to mark a letter.
        sqlx::raw_sql(AssertSqlSafe(session::end_of_guest())).execute(&mut *connection).await?;
        Rows::from_batch(judged, true).insert_returning(store, connection).await
    };
    match within_timeout("storing what was replayed", inserted).await {
        Ok(new) => Ok(Some(new)),
        Err(error) => match error.remedy() {
            Remedy::BlameRow => Ok(None),
            Remedy::Split | Remedy::RetryUnlessRow | Remedy::StopUnlessRow if judged.len() > 1 => Ok(None),
            Remedy::RetryUnlessRow | Remedy::StopUnlessRow => {
                sqlx::raw_sql("ROLLBACK TO SAVEPOINT guest").execute(&mut *connection).await?;
                match look_at_other_rows(store, connection).await? {
                    OtherRows::Written => Ok(None),
                    OtherRows::Refused | OtherRows::Unknown | OtherRows::Away => Err(error),
                }
            }
            _ => Err(error),
        },
    }
}

/// Returns how many letters ended in which way, and how each of them ended.
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

/// The outcomes to note at letters.
struct Marks {
    ids: Vec<i64>,
    marks: Vec<&'static str>,
    by: Version,
}

impl Marks {
    async fn write(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let mark = sqlx::query(MARK)
            .bind(&self.ids)
            .bind(&self.marks)
            .bind(self.by.component.as_bytes())
            .bind(self.by.digest.as_bytes());
        mark.execute(connection).await?;
        Ok(())
    }
}

#[cfg(feature = "failpoints")]
fn failed() -> Error {
    sqlx::Error::from(std::io::Error::other("failpoint")).into()
}
