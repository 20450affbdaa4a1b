//! The third stage: commits, in whole or in parts. Rules that import capabilities are asked here,
//! within the transaction.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::Error;
use super::chunks::KnownWeeks;
use super::in_flight::{CommittedBatch, InFlight, JudgedBatch, Work};
use super::judge_stage::{BatchJudge, is_heavy};
use super::rejections::RejectionLog;
use super::slow_rules::SlowRulesLog;
use super::write_failure::{Failure, Shape, Step};
use crate::batch::Judged;
use crate::capabilities::{HostContext, Usage};
use crate::judge::Judgement;
use crate::metrics::{Counters, Dependency, Stage};
use crate::retry::Retry;
use crate::store::{self, BatchRecord, Begun, Committed, Number, Remedy, Writer};
use crate::tap::Tap;
use sluicegate_verdicts::validate::cut;
use sluicegate_verdicts::{Outcome, Reason, Vec1, Violation};

#[derive(Clone)]
pub(super) struct WriteStage {
    pub(super) judge: BatchJudge,
    /// How long a single entry that may be at fault is tried again.
    pub(super) row_retry: Duration,
    pub(super) known_weeks: Arc<KnownWeeks>,
    pub(super) counters: Arc<Counters>,
    pub(super) rejections: Arc<RejectionLog>,
    pub(super) slow_rules: Arc<SlowRulesLog>,
    pub(super) tap: Arc<Tap>,
    pub(super) to_acknowledge: mpsc::Sender<CommittedBatch>,
}

impl WriteStage {
    /// Commits as many batches at the same time as there are writers, in no promised order. But it
    /// goes one by one when the rules write too: what they write can depend on what they wrote
    /// before, and they would wait for each other's locks.
    pub(super) async fn run(
        self,
        mut idle: Vec<Writer>,
        mut batches: mpsc::Receiver<JudgedBatch>,
    ) -> Result<(), Error> {
        let mut commits: JoinSet<Result<Writer, Error>> = JoinSet::new();
        loop {
            let batch = tokio::select! {
                batch = batches.recv(), if !idle.is_empty() => batch,
                // It is taken at once, not with the next batch: it may have failed for good.
                Some(commit) = commits.join_next() => {
                    idle.push(commit??);
                    continue;
                }
            };
            let Some(batch) = batch else { break };
            let is_alone = matches!(batch.part, Work::Open(..));
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

    /// Writes a batch until its outcome is committed. When PostgreSQL refuses a row, the batch is
    /// halved until the row's entry is alone, which becomes a dead letter.
    async fn write_batch(self, mut writer: Writer, batch: JudgedBatch) -> Result<Writer, Error> {
        let JudgedBatch { part, in_flight, at: mut begun } = batch;
        let mut progress = CommitProgress::new(&in_flight);
        let mut retry = Retry::new("writing to postgres failed; trying again")
            .telling(self.counters.waiting_for(Dependency::Postgres));
        // The part to try next is the last.
        let mut left: VecDeque<Left> = part.split_to_budget().into_iter().map(Left::new).collect();
        while let Some(mut next) = left.pop_back() {
            writer.ask_for_new_rows(self.tap.wants_new_rows());
            let number = next.number.get_or_insert_with(|| writer.number(&mut progress.record)).clone();
            let Attempt { committed, judged, rest, pause } =
                self.attempt(&mut writer, &next.part, &number, &in_flight, &mut progress).await?;
            let error = match committed {
                Ok(mut committed) => {
                    retry.succeeded();
                    self.counters.committed(committed.ids());
                    self.counters.passed(Stage::Write, begun.elapsed());
                    in_flight.trace(|trace| trace.passed(Stage::Write, begun));
                    let (tally, ends) = (committed.tally(), committed.take_ends());
                    // A closed channel: acknowledging failed for good. The entries stay pending.
                    let _ = self.to_acknowledge.send(CommittedBatch::new(committed, &in_flight)).await;
                    let judged = judged.as_deref().or(next.part.judged()).unwrap_or_default();
                    self.tap.show(judged, tally, &ends);
                    left.extend(rest.map(Left::new));
                    in_flight.pause(pause).await;
                    begun = Instant::now();
                    continue;
                }
                Err(error) => error,
            };
            // This is what became of a single entry before the database refused it.
            let only = judged.as_deref().or(next.part.judged()).and_then(<[Judged]>::first).cloned();
            let mut failure = next.failure(&error, only.as_ref(), self.row_retry);
            // An entry with its key is not passed: the first of equal keys is stored.
            failure.is_ahead = left.iter().any(|later| !later.was_put_off)
                && !left.iter().any(|later| later.part.has_key_of(&next.part));
            let mut step = failure.next();
            if step == Step::Look {
                let others = writer.look_at_other_rows().await;
                tracing::debug!(%error, ?others, "looked whether other rows can be written");
                failure.others = Some(others);
                step = failure.next();
            }
            match (step, only) {
                (Step::Halve, _) => {
                    if failure.remedy == Remedy::Split && !matches!(error, store::Error::TooMuchAtOnce) {
                        // The server may be short of something for a moment only.
                        tokio::time::sleep(retry.delay()).await;
                    }
                    let right = next.part.halve();
                    left.extend([Left::new(right), Left::new(next.part)]);
                }
                (Step::Refuse, Some(mut only)) if !matches!(only.outcome, Outcome::DeadLetter(..)) => {
                    self.refuse(&mut only, &error);
                    left.push_back(Left::new(Work::Judged(vec![only])));
                }
                // It is a letter already, and what is refused is what its rules wrote besides. It
                // goes on without that.
                (Step::Refuse, Some(only)) if matches!(next.part, Work::Open(..)) => {
                    left.push_back(Left::new(Work::Judged(vec![only])));
                }
                (Step::Later, _) => {
                    next.was_put_off = true;
                    left.push_front(next);
                }
                (Step::Again | Step::Look, _) => {
                    let delay = retry.failed(&error);
                    // Several that were put off take turns, because their times run at once.
                    match next.was_put_off {
                        true => left.push_front(next),
                        false => left.push_back(next),
                    }
                    tokio::time::sleep(delay).await;
                }
                (Step::Refuse | Step::Stop, _) => return Err(error.into()),
            }
        }
        Ok(writer)
    }

    /// Tries once to commit a part.
    async fn attempt(
        &self,
        writer: &mut Writer,
        part: &Work,
        number: &Number,
        in_flight: &InFlight,
        CommitProgress { record, used }: &mut CommitProgress,
    ) -> Result<Attempt, Error> {
        let begun = Instant::now();
        let (entries, rules) = match part {
            Work::Judged(judged) => {
                let committed = writer.write(judged, record, number).await;
                let mut pause = Duration::ZERO;
                if committed.is_ok() {
                    self.counters.discarded(judged);
                    pause = self.known_weeks.pause_after(judged, begun.elapsed());
                }
                return Ok(Attempt { pause, ..Attempt::new(committed) });
            }
            Work::Open(entries, rules) => (entries, rules),
        };
        let mut session = match writer.begin(entries, record, rules.max_call()).await {
            Ok(Begun::Open(session)) => session,
            Ok(Begun::Decided { committed, rest }) => {
                tracing::info!(entries = committed.ids().len(), "committed before; acknowledging");
                let rest = (!rest.is_empty()).then(|| Work::Open(rest, Arc::clone(rules)));
                return Ok(Attempt { rest, ..Attempt::new(Ok(committed)) });
            }
            Err(error) => return Ok(Attempt::new(Err(error))),
        };
        let context = HostContext { lag: self.counters.lag(), used: *used, ..HostContext::default() };
        let (judgement, effects) = self
            .judge
            .ask(Arc::clone(rules), entries.clone(), in_flight, context, |requests| session.serve(requests))
            .await?;
        let Ok(judgement) = judgement else {
            return Ok(Attempt::new(Err(session.lost())));
        };
        self.slow_rules.log(rules.as_ref(), &judgement);
        let Judgement { entries: judged, breaches, restarts, .. } = judgement;
        self.counters.breached(breaches, restarts);
        if !is_heavy(breaches, &judged, &effects.publications) {
            in_flight.release_heavy_permit();
        }
        let used_with_these = used.and(&effects);
        let committed = writer.commit(*session, &judged, effects.publications, record, number).await;
        let mut pause = Duration::ZERO;
        if committed.is_ok() {
            *used = used_with_these;
            self.rejections.log(&judged);
            self.counters.discarded(&judged);
            self.counters.sampled(effects.samples, effects.dropped_samples);
            pause = self.known_weeks.pause_after(&judged, begun.elapsed());
        }
        Ok(Attempt { judged: Some(judged), pause, ..Attempt::new(committed) })
    }

    /// Makes a dead letter of an entry whose rows PostgreSQL refuses.
    fn refuse(&self, judged: &mut Judged, error: &store::Error) {
        let violation = Violation {
            path: String::new(),
            code: Reason::Refused.as_str().to_owned(),
            message: cut(error.to_string()),
        };
        judged.outcome = Outcome::DeadLetter(Reason::Refused, vec![violation]);
        self.rejections.log(std::slice::from_ref(judged));
    }
}

/// A part of a batch that is not committed yet.
struct Left {
    part: Work,
    /// The number under which it is recorded, since the first try.
    number: Option<Number>,
    /// How often it was tried in vain.
    failures: u32,
    failing_since: Option<Instant>,
    /// Whether others of the batch were tried first.
    was_put_off: bool,
}

impl Left {
    fn new(part: Work) -> Self {
        Self { part, number: None, failures: 0, failing_since: None, was_put_off: false }
    }

    /// Notes another try in vain. `only` is the single entry, if it is known what becomes of it.
    fn failure(&mut self, error: &store::Error, only: Option<&Judged>, patience: Duration) -> Failure {
        self.failures += 1;
        let failing_for = self.failing_since.get_or_insert_with(Instant::now).elapsed();
        let part = match only.map(|only| &only.outcome) {
            _ if self.part.len() > 1 => Shape::Several,
            Some(Outcome::DeadLetter(..)) => Shape::Letter,
            Some(Outcome::Store(Vec1::Many(_))) => Shape::Rows,
            Some(Outcome::Store(Vec1::One(_)) | Outcome::Discard(_)) | None => Shape::Row,
        };
        Failure {
            remedy: error.remedy(),
            is_too_slow: error.is_too_slow(),
            failures: self.failures,
            is_out_of_patience: failing_for >= patience,
            part,
            is_ahead: false,
            others: None,
        }
    }
}

/// The progress of a batch that commits in parts.
struct CommitProgress {
    record: BatchRecord,
    /// What the committed parts have used.
    used: Usage,
}

impl CommitProgress {
    fn new(in_flight: &InFlight) -> Self {
        Self { record: BatchRecord::new(in_flight.slot.number), used: Usage::default() }
    }
}

/// The result of an attempt.
struct Attempt {
    committed: Result<Committed, store::Error>,
    /// What the rules wanted of the entries, if they were asked.
    judged: Option<Vec<Judged>>,
    /// The entries that the attempt did not concern after all.
    rest: Option<Work>,
    /// The pause before the next attempt.
    pause: Duration,
}

impl Attempt {
    /// Makes the result of an attempt in which the rules said nothing.
    fn new(committed: Result<Committed, store::Error>) -> Self {
        Self { committed, judged: None, rest: None, pause: Duration::ZERO }
    }
}
