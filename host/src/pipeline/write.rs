//! The third stage: commits, in whole or in parts. Rules with powers are asked here, within the transaction.

use std::any::Any;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::Error;
use super::flight::{CommittedBatch, Flight, JudgedBatch, Part};
use super::judge::{ask, is_effort};
use super::rejections::RejectionLog;
use super::slow_rules::SlowRulesLog;
use crate::batch::{Fate, Judged, Reason, Vec1, Violation};
use crate::capabilities::{Effects, Powers, Spent};
use crate::judge::Judgement;
use crate::metrics::{Counters, Server};
use crate::retry::Backoff;
use crate::screen::cut;
use crate::store::{self, Begun, Committed, Record, Remedy, Session, Writer};

/// So often the server may be short of what a single entry needs before the entry is refused: for about ten seconds.
const SHORTAGES_MAX: u32 = 10;

#[derive(Clone)]
pub(super) struct Writing {
    pub(super) deliveries_max: u64,
    pub(super) counters: Arc<Counters>,
    pub(super) rejections: Arc<RejectionLog>,
    pub(super) slow_rules: Arc<SlowRulesLog>,
    pub(super) to_acknowledge: mpsc::Sender<CommittedBatch>,
}

impl Writing {
    /// Commits as many batches at the same time as there are writers, in no
    /// promised order; but one after the other when the rules write too: what
    /// they write can depend on what they wrote before, and they would wait for each other's locks.
    pub(super) async fn run(
        self,
        mut idle: Vec<Writer>,
        mut batches: mpsc::Receiver<JudgedBatch>,
    ) -> Result<(), Error> {
        let mut commits: JoinSet<Result<Writer, Error>> = JoinSet::new();
        loop {
            let batch = tokio::select! {
                batch = batches.recv(), if !idle.is_empty() => batch,
                // At once, not with the next batch: it may have failed for good.
                Some(commit) = commits.join_next() => {
                    idle.push(commit??);
                    continue;
                }
            };
            let Some(batch) = batch else { break };
            let is_alone = matches!(batch.part, Part::Open(..));
            while is_alone && let Some(commit) = commits.join_next().await {
                idle.push(commit??);
            }
            if let Some(writer) = idle.pop() {
                commits.spawn(self.clone().write_batch(writer, batch).in_current_span());
            }
            while is_alone && let Some(commit) = commits.join_next().await {
                idle.push(commit??);
            }
        }
        while let Some(commit) = commits.join_next().await {
            commit??;
        }
        Ok(())
    }

    /// Writes a batch until its fate is committed. When PostgreSQL refuses a row,
    /// the batch is halved until the row's entry is alone; it becomes a dead letter.
    async fn write_batch(self, mut writer: Writer, batch: JudgedBatch) -> Result<Writer, Error> {
        let JudgedBatch { part, flight } = batch;
        let mut progress = Progress::new(&flight);
        let mut backoff = Backoff::default();
        // How often the part that is next has failed.
        let mut failures = 0;
        // The next one is the last.
        let mut parts = part.portions();
        while let Some(mut part) = parts.pop() {
            let Attempt { outcome, judged } =
                self.attempt(&mut writer, &part, &flight, &mut progress).await?;
            let error = match outcome {
                Ok(committed) => {
                    self.counters.waits_for(Server::Postgres, false);
                    failures = 0;
                    let flight = Arc::clone(&flight);
                    // A closed channel: acknowledging failed for good. The entries stay pending.
                    let _ = self.to_acknowledge.send(CommittedBatch { committed, flight }).await;
                    continue;
                }
                Err(error) => error,
            };
            failures += 1;
            let remedy = match error.remedy() {
                // Not before the second time: the first may be of somebody's lock.
                Remedy::Retry if error.is_too_slow() && failures > 1 && part.len() > 1 => Remedy::Split,
                remedy => remedy,
            };
            if matches!(remedy, Remedy::BlameRow | Remedy::Split) && part.len() > 1 {
                if remedy == Remedy::Split && !matches!(error, store::Error::TooMuchAtOnce) {
                    // The server may be short of something for a moment only.
                    backoff.wait().await;
                }
                let right = part.halve();
                parts.extend([right, part]);
                failures = 0;
                continue;
            }
            // What became of an only entry before the database refused it.
            let only = judged.or(match part {
                Part::Judged(ref judged) => judged.first().cloned(),
                Part::Open(..) => None,
            });
            match (remedy, only) {
                // An entry of many rows is at fault itself, if the server is short again and again; one of a single
                // row only came at a bad time.
                (Remedy::Split, Some(mut only))
                    if matches!(only.fate, Fate::Store(Vec1::Many(_))) && failures >= SHORTAGES_MAX =>
                {
                    self.refuse(&mut only, &error);
                    parts.push(Part::Judged(vec![only]));
                }
                (Remedy::BlameRow, Some(mut only)) if !matches!(only.fate, Fate::DeadLetter(..)) => {
                    self.refuse(&mut only, &error);
                    parts.push(Part::Judged(vec![only]));
                }
                // It is a letter already, and what is refused is what its rules have written besides: without that.
                (Remedy::BlameRow, Some(only)) if matches!(part, Part::Open(..)) => {
                    parts.push(Part::Judged(vec![only]));
                }
                (Remedy::Retry | Remedy::Split, _) => {
                    self.counters.waits_for(Server::Postgres, true);
                    if backoff.is_news() {
                        tracing::warn!(%error, "writing to postgres failed; trying again");
                    }
                    backoff.wait().await;
                    parts.push(part);
                }
                (Remedy::BlameRow | Remedy::Stop, _) => return Err(error.into()),
            }
        }
        Ok(writer)
    }

    /// Tries once to commit a part.
    async fn attempt(
        &self,
        writer: &mut Writer,
        part: &Part,
        flight: &Flight,
        Progress { record, spent }: &mut Progress,
    ) -> Result<Attempt, Error> {
        let (entries, rules) = match part {
            Part::Judged(judged) => {
                let outcome = writer.write(judged, record).await;
                if outcome.is_ok() {
                    self.counters.discarded(judged);
                }
                return Ok(Attempt { outcome, judged: None });
            }
            Part::Open(entries, rules) => (entries, rules),
        };
        let session = match writer.begin(entries, record).await {
            Ok(Begun::Open(session)) => session,
            Ok(Begun::Committed(committed)) => return Ok(Attempt { outcome: Ok(committed), judged: None }),
            Err(error) => return Ok(Attempt { outcome: Err(error), judged: None }),
        };
        let powers = Powers {
            transaction: Some(session),
            lag: self.counters.lag(),
            spent: *spent,
            effects: Effects::default(),
        };
        let (judgement, powers) =
            ask(Arc::clone(rules), self.deliveries_max, entries.clone(), powers).await?;
        let Powers { transaction, effects, .. } = powers;
        let session = transaction.and_then(|session| (session as Box<dyn Any>).downcast::<Session>().ok());
        let Some(mut session) = session else {
            return Ok(Attempt { outcome: Err(store::Error::SessionLost), judged: None });
        };
        let Ok(judgement) = judgement else {
            let error = session.take_lost().unwrap_or(store::Error::SessionLost);
            return Ok(Attempt { outcome: Err(error), judged: None });
        };
        self.slow_rules.log(rules.as_ref(), &judgement);
        let Judgement { entries: judged, breaches, .. } = judgement;
        self.counters.breached(breaches);
        if !is_effort(breaches, &judged, &effects.publications) {
            flight.end_effort();
        }
        let spent_with_these = spent.and(&effects);
        let outcome = writer.commit(*session, &judged, effects.publications, record).await;
        if outcome.is_ok() {
            *spent = spent_with_these;
            self.rejections.log(&judged);
            self.counters.discarded(&judged);
            self.counters.sampled(effects.samples, effects.dropped_samples);
        }
        Ok(Attempt { outcome, judged: judged.into_iter().next() })
    }

    /// Makes a dead letter of an entry whose rows PostgreSQL refuses.
    fn refuse(&self, judged: &mut Judged, error: &store::Error) {
        let violation = Violation {
            path: String::new(),
            code: Reason::Refused.as_str().to_owned(),
            message: cut(error.to_string()),
        };
        judged.fate = Fate::DeadLetter(Reason::Refused, vec![violation]);
        self.rejections.log(std::slice::from_ref(judged));
    }
}

/// How far a batch is that commits in parts.
struct Progress {
    record: Record,
    /// By the parts that are committed.
    spent: Spent,
}

impl Progress {
    fn new(flight: &Flight) -> Self {
        Self { record: Record::new(flight.place.number), spent: Spent::default() }
    }
}

/// What came of an attempt.
struct Attempt {
    outcome: Result<Committed, store::Error>,
    /// What the rules wanted of the first entry, if they were asked.
    judged: Option<Judged>,
}
