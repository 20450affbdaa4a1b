//! From entries to outcomes: the rules are asked, and whatever they do, every entry gets one.

mod entry;
mod fault;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::SemaphorePermit;
use tokio::task::JoinError;
use tracing::Span;

use crate::batch::{Breaches, Judged, Version};
use crate::batch_budget;
use crate::capabilities::{Effects, HostContext, Lost, Measured, Transaction, TransactionRequests};
pub use entry::{Batch, BytesEntry, GuestEntry, TextEntry, Value};
pub use fault::Fault;
use sluicegate_verdicts::validate::{OutputLimits, cut, quoted, validate};
use sluicegate_verdicts::{Entry, Outcome, Reason, Verdict, Violation};

/// Once a batch has taken so many time limits, its rest is judged entry by
/// entry, and shares as many again. Enough to find one poison entry by halves
/// in the largest batch, and two in one of 100.
const LIMITS_PER_BATCH: u32 = 16;
/// The least share of the time limit that an entry gets: a hundredth.
const MIN_SHARE: u32 = 100;
/// The entries that are asked about at once after the rules have failed for one of more. Fewer make more calls, and of more,
/// most are sent in vain: a call was measured to take 170 µs, and an entry that is sent 3.5. By that, this is near the best
/// for batches of 100 to 1,000 entries with one to ten panics.
const PIECE: usize = 64;
/// The time limits that a batch takes at most, besides [`MIN_SHARE`] of one for each entry: then it ends, whatever is left.
const MAX_LIMITS_PER_BATCH: u32 = 3 * LIMITS_PER_BATCH;

/// A version of the rules: a component in its sandbox; in the benchmark, also
/// the same rules as native code.
pub trait Rules: Send + Sync {
    fn version(&self) -> Version;

    /// How long a call may take.
    fn time_limit(&self) -> Duration;

    /// What the verdicts may hold.
    fn bounds(&self) -> OutputLimits;

    /// Gives a verdict for each entry, in the order of the batch, in this much processor time. May block for
    /// [`Rules::max_call`].
    fn process(&self, batch: &Batch<'_>, time: Duration, context: &mut HostContext) -> Answer;

    /// Whether they take [`Batch::Bytes`], and not [`Batch::Text`].
    fn takes_bytes(&self) -> bool {
        false
    }

    /// How long a call may take by the clock, on a busy machine.
    fn max_call(&self) -> Duration {
        self.time_limit()
    }

    /// Waits until they may be called, and holds a permit meanwhile. May block for long.
    fn call_permit(&self) -> Option<SemaphorePermit<'_>> {
        None
    }

    /// Whether they do more than judge: then they are asked within the batch's transaction.
    fn wants_transaction(&self) -> bool {
        false
    }
}

/// How long the rules may take for a batch of so many entries without a word
/// to the database: with a transaction of theirs, each call begins with one.
pub fn max_pause(rules: &dyn Rules, entries: u32) -> Duration {
    let limits = match rules.wants_transaction() {
        true => 1,
        // The last call, and what is not counted.
        false => max_limits(entries) + 2,
    };
    rules.max_call() * limits
}

/// The time limits that a batch of so many entries takes at most.
pub(crate) fn max_limits(entries: u32) -> u32 {
    MAX_LIMITS_PER_BATCH + entries / MIN_SHARE
}

/// What came of a call.
#[derive(Debug)]
pub struct Answer {
    /// As many as the batch has entries.
    pub verdicts: Result<Vec<Verdict>, Fault>,
    /// The time that counts for the limits of the batch.
    pub used: Duration,
}

/// What came of a batch.
#[derive(Debug)]
pub struct Judgement {
    /// Every entry with its one outcome, in the order of the batch (invariant 2).
    pub entries: Vec<Judged>,
    /// What the rules did meanwhile that they must not.
    pub breaches: Breaches,
    /// The most entries that took longer than the time limit at once, though no half of them did: the rules are too slow
    /// for so many.
    pub too_many_at_once: Option<usize>,
    /// How often the process in which the rules run was started again.
    pub restarts: u64,
    /// What the calls took.
    pub measured: Measured,
}

/// Judges a batch on a thread that may block. Meanwhile `serve` answers what the rules ask of the batch's transaction.
///
/// Gives the judgement, and what the rules have left for the commit.
pub async fn ask<F: Future<Output = ()>>(
    rules: Arc<dyn Rules>,
    max_deliveries: u64,
    entries: Vec<Entry>,
    mut context: HostContext,
    serve: impl FnOnce(TransactionRequests) -> F,
) -> Result<(Result<Judgement, Lost>, Effects), JoinError> {
    let (transaction, requests) = Transaction::new();
    context.transaction = Some(transaction);
    let span = Span::current();
    let asked = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let judgement = judge(rules.as_ref(), max_deliveries, entries, &mut context);
        (judgement, context.effects)
    });
    // Until the thread has dropped its end.
    serve(requests).await;
    asked.await
}

/// Judges a batch. Blocks while the rules run.
///
/// Fails only when the rules used a transaction and it was lost: then nothing is decided.
pub fn judge(
    rules: &dyn Rules,
    max_deliveries: u64,
    entries: Vec<Entry>,
    context: &mut HostContext,
) -> Result<Judgement, Lost> {
    match rules.takes_bytes() {
        false => judge_as::<str>(rules, max_deliveries, entries, context),
        true => judge_as::<[u8]>(rules, max_deliveries, entries, context),
    }
}

fn judge_as<V: Value + ?Sized>(
    rules: &dyn Rules,
    max_deliveries: u64,
    entries: Vec<Entry>,
    context: &mut HostContext,
) -> Result<Judgement, Lost> {
    let mut readable = Vec::with_capacity(entries.len());
    // `None` for an entry that the rules are asked about.
    let settled: Vec<Option<Outcome>> = entries
        .iter()
        .map(|entry| match read::<V>(entry, max_deliveries) {
            Ok(entry) => {
                readable.push(entry);
                None
            }
            Err(outcome) => Some(outcome),
        })
        .collect();
    let mut run = BatchRun::new(rules, readable.len(), context);
    run.ask(&readable)?;
    drop(readable);

    let BatchRun { outcomes, breaches, too_many_at_once, .. } = run;
    let restarts = std::mem::take(&mut context.restarts);
    let version = rules.version();
    let mut outcomes = outcomes.into_iter();
    let outcomes = settled.into_iter().map_while(|outcome| outcome.or_else(|| outcomes.next()));
    let entries = entries
        .into_iter()
        .zip(outcomes)
        .map(|(entry, outcome)| Judged { entry, outcome, version })
        .collect();
    let measured = std::mem::take(&mut context.measured);
    Ok(Judgement { entries, breaches, too_many_at_once, restarts, measured })
}

/// The questions about one batch, and the answers so far.
struct BatchRun<'a> {
    rules: &'a dyn Rules,
    context: &'a mut HostContext,
    bounds: OutputLimits,
    time_limit: Duration,
    /// The entries of the whole batch.
    entries: usize,
    /// What all calls took.
    used: Duration,
    /// Whether a call gave no verdicts. One call alone is bounded by the sandbox; several must be summed here.
    was_split: bool,
    /// In the order of the batch.
    outcomes: Vec<Outcome>,
    /// The bytes of each outcome beyond what its entry brought.
    excesses: Vec<usize>,
    /// In sum.
    excess_bytes: usize,
    /// The rows of all outcomes.
    rows: usize,
    breaches: Breaches,
    /// The calls that gave no verdicts.
    faults: u32,
    too_many_at_once: Option<usize>,
}

impl<'a> BatchRun<'a> {
    fn new(rules: &'a dyn Rules, entries: usize, context: &'a mut HostContext) -> Self {
        Self {
            rules,
            context,
            bounds: rules.bounds(),
            time_limit: rules.time_limit(),
            entries,
            used: Duration::ZERO,
            was_split: false,
            outcomes: Vec::with_capacity(entries),
            excesses: Vec::with_capacity(entries),
            excess_bytes: 0,
            rows: 0,
            breaches: Breaches::default(),
            faults: 0,
            too_many_at_once: None,
        }
    }

    /// Asks for a batch and, after a fault, for parts of it, until the entry at
    /// fault is alone: the others are judged as if it were not there.
    fn ask<V: Value + ?Sized>(&mut self, batch: &[GuestEntry<'_, V>]) -> Result<(), Lost> {
        let [_, _, ..] = batch else { return batch.iter().try_for_each(|only| self.ask_alone(only)) };
        if self.is_out_of_patience() {
            return batch.iter().try_for_each(|only| self.ask_alone(only));
        }
        match self.call(batch, self.time_limit) {
            Ok(()) => Ok(()),
            Err(Fault::Lost(lost)) => Err(lost),
            Err(fault) => {
                let entries = batch.len();
                tracing::debug!(entries, version = %self.rules.version(), reason = fault.reason().as_str(), "guest failed; splitting the batch");
                self.was_split = true;
                let timed_out = self.breaches.of(Reason::TimedOut);
                match fault.may_be_of_many() {
                    true => {
                        let (left, right) = batch.split_at(entries / 2);
                        self.ask(left)?;
                        self.ask(right)?;
                    }
                    false => self.ask_pieces(batch)?,
                }
                if matches!(fault, Fault::TimedOut { .. }) && self.breaches.of(Reason::TimedOut) == timed_out
                {
                    self.too_many_at_once = self.too_many_at_once.max(Some(entries));
                }
                Ok(())
            }
        }
    }

    /// Asks for a batch with an entry that the rules fail for, in pieces. Nearly always the halves of a large batch would
    /// be asked in vain too, and the more entries are asked in vain, the more that takes.
    fn ask_pieces<V: Value + ?Sized>(&mut self, batch: &[GuestEntry<'_, V>]) -> Result<(), Lost> {
        let last = batch.len().saturating_sub(1) / PIECE * PIECE;
        let (pieces, last) = batch.split_at(last);
        let faults = self.faults;
        pieces.chunks(PIECE).try_for_each(|piece| self.ask(piece))?;
        match last {
            [_, _, ..] if self.faults == faults && !self.is_out_of_patience() => self.ask_halves(last),
            _ => self.ask(last),
        }
    }

    /// Asks for each half of a batch with an entry that the rules fail for. If it is not in the left half, it is in the
    /// right one, which is halved without asking: calls in vain are the dearest.
    fn ask_halves<V: Value + ?Sized>(&mut self, batch: &[GuestEntry<'_, V>]) -> Result<(), Lost> {
        let (left, right) = batch.split_at(batch.len() / 2);
        let faults = self.faults;
        self.ask(left)?;
        match right {
            [_, _, ..] if self.faults == faults && !self.is_out_of_patience() => self.ask_halves(right),
            _ => self.ask(right),
        }
    }

    fn is_out_of_patience(&self) -> bool {
        self.used >= self.time_limit * LIMITS_PER_BATCH
    }

    fn ask_alone<V: Value + ?Sized>(&mut self, only: &GuestEntry<'_, V>) -> Result<(), Lost> {
        if self.used >= self.time_limit * max_limits(u32::try_from(self.entries).unwrap_or(u32::MAX)) {
            let message =
                "other entries of the batch had used up its time before this one was tried; replay it alone";
            self.push(dead_letter(Reason::TimedOut, message.to_owned()), 0);
            return Ok(());
        }
        let time = self.share();
        match self.call(std::slice::from_ref(only), time) {
            Ok(()) => {}
            Err(Fault::Lost(lost)) => return Err(lost),
            Err(fault) => {
                let mut message = fault.to_string();
                if matches!(fault, Fault::TimedOut { .. }) && time < self.time_limit {
                    message.push_str(
                        ", its share after other entries of the batch had used up more than theirs; replay it alone",
                    );
                }
                self.push(dead_letter(fault.reason(), message), 0);
            }
        }
        Ok(())
    }

    /// The time for an entry that is judged alone: the whole limit while the
    /// batch has patience, then an equal share of what is left of it. So a batch
    /// takes about 32 limits at most, or a hundredth of one for each entry, not
    /// two for each; and an entry has always more time than the limit foresees
    /// for it among its neighbours.
    fn share(&self) -> Duration {
        if !self.is_out_of_patience() {
            return self.time_limit;
        }
        let left = (self.time_limit * (2 * LIMITS_PER_BATCH)).saturating_sub(self.used);
        let entries = self.entries.saturating_sub(self.outcomes.len()).max(1);
        let share = left / u32::try_from(entries).unwrap_or(u32::MAX);
        share.clamp(self.time_limit / MIN_SHARE, self.time_limit)
    }

    /// Asks once, and keeps the answer.
    fn call<V: Value + ?Sized>(&mut self, batch: &[GuestEntry<'_, V>], time: Duration) -> Result<(), Fault> {
        let permit = self.rules.call_permit();
        let Answer { verdicts, used } = self.rules.process(&V::batch(batch), time, self.context);
        drop(permit);
        // Who waits for others is not slow. But to look at an answer can take as long as to give it.
        let begun = processor_time_of_thread();
        let kept = verdicts.map(|verdicts| self.keep(batch, verdicts));
        let looked = processor_time_of_thread().saturating_sub(begun);
        self.used = self.used.saturating_add(used).saturating_add(looked);
        if let Err(fault) = &kept {
            self.breaches.count(fault.reason());
            self.faults += 1;
        }
        kept
    }

    fn keep<V: Value + ?Sized>(&mut self, batch: &[GuestEntry<'_, V>], verdicts: Vec<Verdict>) {
        let (bounds, now) = (self.bounds, Utc::now());
        for (entry, verdict) in batch.iter().zip(verdicts) {
            let outcome = validate(verdict, &bounds, now);
            if let Outcome::DeadLetter(Reason::BadVerdict, _) = outcome {
                self.breaches.count(Reason::BadVerdict);
            }
            let excess = match self.was_split {
                true => batch_budget::bytes(entry.bytes(), &outcome),
                false => 0,
            };
            self.push(outcome, excess);
        }
        self.shed();
    }

    fn push(&mut self, outcome: Outcome, excess: usize) {
        self.rows += batch_budget::rows(&outcome);
        self.excess_bytes = self.excess_bytes.saturating_add(excess);
        self.outcomes.push(outcome);
        self.excesses.push(excess);
    }

    /// Makes dead letters of the largest outcomes until the batch keeps its limits:
    /// the entries that are small are not to pay for those that are not.
    fn shed(&mut self) {
        if self.rows > self.bounds.rows {
            let limit = format!("{} rows (GUEST_ROWS)", self.bounds.rows);
            let sizes = self.outcomes.iter().map(batch_budget::rows).collect();
            self.shed_by(sizes, self.rows - self.bounds.rows, &limit);
        }
        if self.excess_bytes > self.bounds.output_bytes {
            let most = self.bounds.output_bytes;
            let limit = format!("{most} bytes beyond what the entries brought (GUEST_OUTPUT)");
            self.shed_by(self.excesses.clone(), self.excess_bytes - most, &limit);
        }
    }

    fn shed_by(&mut self, sizes: Vec<usize>, mut excess: usize, limit: &str) {
        let mut largest: Vec<(usize, usize)> =
            sizes.into_iter().enumerate().map(|(at, size)| (size, at)).collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        for (size, at) in largest {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(size);
            let message = format!("the batch became more than {limit}, and this entry the most of it");
            if let (Some(outcome), Some(excess)) = (self.outcomes.get_mut(at), self.excesses.get_mut(at)) {
                self.rows -= batch_budget::rows(outcome);
                self.excess_bytes -= *excess;
                *excess = 0;
                *outcome = dead_letter(Reason::TooMuchOutput, message);
                self.breaches.count(Reason::TooMuchOutput);
            }
        }
    }
}

fn processor_time_of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn dead_letter(reason: Reason, message: String) -> Outcome {
    let violation =
        Violation { path: String::new(), code: reason.as_str().to_owned(), message: cut(message) };
    Outcome::DeadLetter(reason, vec![violation])
}

/// The entry as the rules can have it, or what becomes of it without being asked about.
fn read<V: Value + ?Sized>(entry: &Entry, max_deliveries: u64) -> Result<GuestEntry<'_, V>, Outcome> {
    let Some(fields) = &entry.fields else {
        let message = "the entry was deleted from the stream while it was pending; its content is lost";
        return Err(dead_letter(Reason::Deleted, message.to_owned()));
    };
    if entry.deliveries > max_deliveries {
        let message =
            format!("delivered {} times without an end, wanted at most {max_deliveries}", entry.deliveries);
        return Err(dead_letter(Reason::DeliveredTooOften, message));
    }
    let fields: Result<Vec<(&str, &V)>, Violation> = fields
        .iter()
        .map(|(name, value)| match (std::str::from_utf8(name), V::read(value)) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            (Err(error), _) => Err(undecodable(&String::from_utf8_lossy(name), "name", error)),
            (Ok(name), Err(error)) => Err(undecodable(&Cow::Borrowed(name), "value", error)),
        })
        .collect();
    match fields {
        Ok(fields) => Ok(GuestEntry { id: entry.id, fields, deliveries: entry.deliveries }),
        Err(violation) => Err(Outcome::DeadLetter(Reason::Undecodable, vec![violation])),
    }
}

fn undecodable(name: &str, part: &str, error: std::str::Utf8Error) -> Violation {
    Violation {
        path: cut(name.to_owned()),
        code: "not_utf8".to_owned(),
        message: format!(
            "the {part} of the field {} is not UTF-8 from byte {} on",
            quoted(name),
            error.valid_up_to()
        ),
    }
}

#[cfg(test)]
mod tests;
