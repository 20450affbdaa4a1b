//! The loop: read, judge, write, acknowledge. The only file that names all the steps.
//!
//! Each step is a task; bounded channels join them, so that batch n+1 is judged
//! and n+2 read while batch n commits. What is read holds a permit until it is
//! acknowledged: that bounds the memory, stops reading while the database is
//! away, and tells when nothing is in flight.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::batch::{Breaches, Entry, Fate, Judged, Reason, Vec1, Violation};
use crate::capabilities::{Effects, Lost, Powers, Publication};
use crate::config::Tenant;
use crate::failpoint::failpoint;
use crate::judge::{Judgement, Rules, judge};
use crate::metrics::{Counters, Server};
use crate::retry::Backoff;
use crate::screen::cut;
use crate::store::{self, Begun, Committed, Record, Records, Remedy, Session, Store, Writer};
use crate::stream::{self, Acknowledger, Read, Reader};
use crate::surplus;

/// Batches beyond those that commit: one being read, one being judged, one
/// waiting to be written, one being acknowledged.
const BATCHES_BESIDE_COMMITS: usize = 4;

/// The version of the rules that is in force; a new one takes effect with the next batch.
pub type RulesInForce = watch::Receiver<Arc<dyn Rules>>;

/// Why the pipeline stopped on its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis, and trying again cannot help.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// PostgreSQL, and trying again cannot help.
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    /// A defect of the service.
    #[error("a stage of the pipeline panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// All parts, ready to run.
pub struct Pipeline {
    /// Reads.
    pub reader: Reader,
    /// Judges.
    pub rules: RulesInForce,
    /// Writes.
    pub store: Store,
    /// Acknowledges.
    pub acknowledger: Acknowledger,
    /// Counts what was acknowledged.
    pub counters: Arc<Counters>,
}

/// A batch on its way, with what belongs to the whole of it.
///
/// Shared, because a batch can commit in parts. The last of them gives the place back.
struct Flight {
    read_at: Instant,
    place: Place,
    /// The tenant's only one, if it is [not much less](is_effort): no other batch is judged meanwhile.
    effort: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Flight {
    fn new(place: Place) -> Self {
        Self { read_at: Instant::now(), place, effort: Mutex::default() }
    }

    /// Keeps it until all of the batch is acknowledged.
    fn keep_effort(&self, effort: OwnedSemaphorePermit) {
        *self.effort.lock().unwrap_or_else(PoisonError::into_inner) = Some(effort);
    }

    /// Lets the next batch be judged.
    fn end_effort(&self) {
        self.effort.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

struct ReadBatch {
    entries: Vec<Entry>,
    flight: Arc<Flight>,
}

struct JudgedBatch {
    part: Part,
    flight: Arc<Flight>,
}

/// A batch, or what is left of it after it was split.
enum Part {
    /// What is to become of each entry is known.
    Judged(Vec<Judged>),
    /// The rules write too: they are asked within the transaction, by this version.
    Open(Vec<Entry>, Arc<dyn Rules>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Judged(entries) => entries.len(),
            Self::Open(entries, _) => entries.len(),
        }
    }

    /// What is written at once, the first at the end.
    fn portions(self) -> Vec<Self> {
        match self {
            Self::Judged(entries) => surplus::portions(entries).into_iter().rev().map(Self::Judged).collect(),
            Self::Open(..) => vec![self],
        }
    }

    /// Splits off the second half.
    fn halve(&mut self) -> Self {
        match self {
            Self::Judged(entries) => Self::Judged(entries.split_off(entries.len() / 2)),
            Self::Open(entries, rules) => Self::Open(entries.split_off(entries.len() / 2), Arc::clone(rules)),
        }
    }
}

struct CommittedBatch {
    committed: Committed,
    flight: Arc<Flight>,
}

/// The places of batches in flight, so many and no more.
#[derive(Clone)]
struct Places {
    permits: Arc<Semaphore>,
    /// The numbers of the free ones, at least as many as there are permits.
    free: Arc<Mutex<Vec<i32>>>,
    count: u32,
}

/// A place among those in flight, with a number that no other has at the same time.
struct Place {
    number: i32,
    free: Arc<Mutex<Vec<i32>>>,
    /// After the drop, which gives the number back.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

impl Places {
    fn new(count: usize) -> Self {
        // A setting of at most 64 and a few.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let free = (0..i32::try_from(count).unwrap_or(i32::MAX)).rev().collect();
        let permits = usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(permits)), free: Arc::new(Mutex::new(free)), count }
    }

    /// A place for a batch; if `quiet`, not before all others are free. `None` after the shutdown.
    async fn take(&self, quiet: bool, shutdown: &CancellationToken) -> Option<Place> {
        let wanted = if quiet { self.count } else { 1 };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            permit = Arc::clone(&self.permits).acquire_many_owned(wanted) => {
                let mut permit = permit.ok()?; // never closed
                permit.split(permit.num_permits().saturating_sub(1));
                let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
                Some(Place { number, free: Arc::clone(&self.free), _permit: permit })
            }
        }
    }
}

impl Error {
    /// Whether another run has taken over what this one had in flight: a new one can begin at once.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_fenced())
    }
}

/// The batches that a tenant has in flight at most.
pub fn places(tenant: &Tenant) -> usize {
    tenant.commits_in_flight + BATCHES_BESIDE_COMMITS
}

impl Pipeline {
    /// Runs until `shutdown` is called and everything read is acknowledged, or
    /// until trying again cannot help.
    pub async fn run(self, tenant: &Tenant, shutdown: CancellationToken) -> Result<(), Error> {
        let permits = places(tenant);
        // The permits bound what the channels can hold.
        let (to_judge, read_batches) = mpsc::channel(permits);
        let (to_write, judged_batches) = mpsc::channel(permits);
        let (to_acknowledge, committed_batches) = mpsc::channel(permits);

        let mut stages = JoinSet::new();
        let counters = self.counters;
        let reading = Reading {
            reader: self.reader,
            records: self.store.records(),
            places: Places::new(permits),
            partial_batch_delay: tenant.partial_batch_delay(),
            counters: Arc::clone(&counters),
            to_judge,
            to_acknowledge: to_acknowledge.clone(),
            shutdown: shutdown.clone(),
        };
        stages.spawn(reading.run().in_current_span());
        let rejections = Arc::new(RejectionLog::default());
        let writing = Writing {
            deliveries_max: tenant.deliveries_max,
            counters: Arc::clone(&counters),
            rejections: Arc::clone(&rejections),
            to_acknowledge,
        };
        let judging = judge_all(
            self.rules,
            tenant.deliveries_max,
            Arc::clone(&counters),
            rejections,
            read_batches,
            to_write,
        );
        stages.spawn(judging.in_current_span());
        let writers = (0..tenant.commits_in_flight).map(|_| self.store.writer()).collect();
        stages.spawn(writing.run(writers, judged_batches).in_current_span());
        stages.spawn(acknowledge(self.acknowledger, counters, committed_batches).in_current_span());

        let mut outcome = Ok(());
        while let Some(stage) = stages.join_next().await {
            if let Err(error) = stage.map_err(Error::from).flatten() {
                shutdown.cancel();
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }
}

/// The first stage.
struct Reading {
    reader: Reader,
    records: Records,
    places: Places,
    partial_batch_delay: Duration,
    counters: Arc<Counters>,
    to_judge: mpsc::Sender<ReadBatch>,
    /// For what was committed before.
    to_acknowledge: mpsc::Sender<CommittedBatch>,
    shutdown: CancellationToken,
}

impl Reading {
    /// Reads until the shutdown; closing the channels then lets the other stages run empty.
    async fn run(mut self) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        while let Some(place) = self.places.take(self.reader.wants_quiet(), &self.shutdown).await {
            match self.reader.read(&self.shutdown).await {
                Ok(Read { entries, is_partial, owners }) => {
                    backoff = Backoff::default();
                    self.counters.waits_for(Server::Redis, false);
                    self.counters.delivered(entries.len());
                    let flight = Arc::new(Flight::new(place));
                    let entries = match owners.is_empty() {
                        false => self.recall(entries, &owners, &flight).await?,
                        true => {
                            self.records.rest();
                            entries
                        }
                    };
                    let is_empty = entries.is_empty();
                    if !is_empty && self.to_judge.send(ReadBatch { entries, flight }).await.is_err() {
                        break; // a later stage failed
                    }
                    if is_partial && !is_empty {
                        pause(self.partial_batch_delay, &self.shutdown).await;
                    }
                }
                Err(error) if error.is_permanent() => return Err(error.into()),
                Err(error) => {
                    self.counters.waits_for(Server::Redis, true);
                    if backoff.is_news() && !self.shutdown.is_cancelled() {
                        tracing::warn!(%error, "reading failed; trying again");
                    }
                    backoff.wait_unless(&self.shutdown).await;
                }
            }
        }
        Ok(())
    }

    /// Those of the entries that nobody has decided yet; the others were
    /// committed before, and are acknowledged. None of either when the shutdown
    /// comes first: they stay pending.
    async fn recall(
        &mut self,
        entries: Vec<Entry>,
        owners: &BTreeSet<String>,
        flight: &Arc<Flight>,
    ) -> Result<Vec<Entry>, Error> {
        if entries.is_empty() {
            return Ok(entries);
        }
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            match self.records.recall(&entries, owners).await {
                Ok((committed, new)) => {
                    self.counters.waits_for(Server::Postgres, false);
                    if !committed.ids().is_empty() {
                        tracing::info!(entries = committed.ids().len(), "committed before; acknowledging");
                        let flight = Arc::clone(flight);
                        // A closed channel: acknowledging failed for good. The entries stay pending.
                        let _ = self.to_acknowledge.send(CommittedBatch { committed, flight }).await;
                    }
                    return Ok(new);
                }
                Err(error) if matches!(error.remedy(), Remedy::Retry | Remedy::Split) => {
                    self.counters.waits_for(Server::Postgres, true);
                    if backoff.is_news() {
                        tracing::warn!(%error, "recalling what was committed failed; trying again");
                    }
                    backoff.wait_unless(&self.shutdown).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Vec::new())
    }
}

async fn pause(delay: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Judges batch by batch, each by the version that is in force when it begins (invariant 6).
async fn judge_all(
    mut in_force: RulesInForce,
    deliveries_max: u64,
    counters: Arc<Counters>,
    rejections: Arc<RejectionLog>,
    mut batches: mpsc::Receiver<ReadBatch>,
    to_write: mpsc::Sender<JudgedBatch>,
) -> Result<(), Error> {
    let mut last = in_force.borrow_and_update().digest();
    // Rules that make much of little take one processor from the others, not a second one to write it,
    // and the disks bit by bit.
    let efforts = Arc::new(Semaphore::new(1));
    while let Some(ReadBatch { entries, flight }) = batches.recv().await {
        let rules = Arc::clone(&in_force.borrow_and_update());
        if rules.digest() != last {
            tracing::info!(from = %last, to = %rules.digest(), "guest swapped");
            last = rules.digest();
        }
        let Ok(effort) = Arc::clone(&efforts).acquire_owned().await else { break }; // never closed
        flight.keep_effort(effort);
        let part = match rules.wants_transaction() {
            true => Part::Open(entries, rules),
            false => {
                let (judgement, _) = ask(rules, deliveries_max, entries, Powers::default()).await?;
                // Without a transaction there is none to lose.
                let Ok(Judgement { entries, breaches }) = judgement else { break };
                counters.breached(breaches);
                rejections.log(&entries);
                if !is_effort(breaches, &entries, &[]) {
                    flight.end_effort();
                }
                Part::Judged(entries)
            }
        };
        if to_write.send(JudgedBatch { part, flight }).await.is_err() {
            break; // a later stage failed
        }
    }
    Ok(())
}

/// Whether to write, to send or to tell what came of a batch is a good deal more work than its entries are.
fn is_effort(breaches: Breaches, batch: &[Judged], publications: &[Publication]) -> bool {
    breaches != Breaches::default() || surplus::is_heavy(batch, publications)
}

/// Asks the rules on a thread that may block.
async fn ask(
    rules: Arc<dyn Rules>,
    deliveries_max: u64,
    entries: Vec<Entry>,
    mut powers: Powers,
) -> Result<(Result<Judgement, Lost>, Powers), Error> {
    let span = Span::current();
    let asked = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let judgement = judge(rules.as_ref(), deliveries_max, entries, &mut powers);
        (judgement, powers)
    });
    let asked = asked.await?;
    failpoint!("after_judge");
    Ok(asked)
}

/// Logs what was not stored, with a bound: a flood of bad entries must not become a flood of lines.
#[derive(Default)]
struct RejectionLog(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    second: Option<Instant>,
    count: u32,
}

impl RejectionLog {
    const LINES_A_SECOND_MAX: u32 = 1_000;

    fn log(&self, batch: &[Judged]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut silenced = 0;
        for Judged { entry, fate, .. } in batch {
            let Fate::DeadLetter(reason, violations) = fate else { continue };
            if lines.second.is_none_or(|second| second.elapsed() >= Duration::from_secs(1)) {
                *lines = Lines { second: Some(Instant::now()), count: 0 };
            }
            lines.count = lines.count.saturating_add(1);
            match lines.count <= Self::LINES_A_SECOND_MAX {
                true => tracing::warn!(
                    entry = %entry.id, reason = reason.as_str(), violations = summary(violations), "entry not stored"
                ),
                false => silenced += 1,
            }
        }
        if silenced > 0 {
            tracing::warn!(entries = silenced, "more entries not stored; see the table dead_letters");
        }
    }
}

fn summary(violations: &[Violation]) -> String {
    let parts: Vec<String> = violations
        .iter()
        .map(|Violation { path, code, message }| match path.is_empty() {
            true => format!("{code} ({message})"),
            false => format!("{path}: {code} ({message})"),
        })
        .collect();
    cut(parts.join("; "))
}

/// The third stage.
#[derive(Clone)]
struct Writing {
    deliveries_max: u64,
    counters: Arc<Counters>,
    rejections: Arc<RejectionLog>,
    to_acknowledge: mpsc::Sender<CommittedBatch>,
}

impl Writing {
    /// Commits as many batches at the same time as there are writers, in no
    /// promised order; but one after the other when the rules write too: what
    /// they write can depend on what they wrote before, and they would wait for each other's locks.
    async fn run(self, mut idle: Vec<Writer>, mut batches: mpsc::Receiver<JudgedBatch>) -> Result<(), Error> {
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
        let mut record = Record::new(flight.place.number);
        let mut backoff = Backoff::default();
        // The next one is the last.
        let mut parts = part.portions();
        while let Some(mut part) = parts.pop() {
            let Attempt { outcome, judged } = self.attempt(&mut writer, &part, &flight, &mut record).await?;
            let error = match outcome {
                Ok(committed) => {
                    self.counters.waits_for(Server::Postgres, false);
                    let flight = Arc::clone(&flight);
                    // A closed channel: acknowledging failed for good. The entries stay pending.
                    let _ = self.to_acknowledge.send(CommittedBatch { committed, flight }).await;
                    continue;
                }
                Err(error) => error,
            };
            let remedy = error.remedy();
            if matches!(remedy, Remedy::BlameRow | Remedy::Split) && part.len() > 1 {
                let right = part.halve();
                parts.extend([right, part]);
                continue;
            }
            // What became of an only entry before the database refused it.
            let only = judged.or(match part {
                Part::Judged(ref judged) => judged.first().cloned(),
                Part::Open(..) => None,
            });
            match (remedy, only) {
                // An entry of many rows is at fault itself; one of a single row only came at a bad time.
                (Remedy::Split, Some(mut only)) if matches!(only.fate, Fate::Store(Vec1::Many(_))) => {
                    refuse(&mut only, &error);
                    parts.push(Part::Judged(vec![only]));
                }
                (Remedy::BlameRow, Some(mut only)) if !matches!(only.fate, Fate::DeadLetter(..)) => {
                    refuse(&mut only, &error);
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
        record: &mut Record,
    ) -> Result<Attempt, Error> {
        let (entries, rules) = match part {
            Part::Judged(judged) => {
                return Ok(Attempt { outcome: writer.write(judged, record).await, judged: None });
            }
            Part::Open(entries, rules) => (entries, rules),
        };
        let session = match writer.begin(entries, record).await {
            Ok(Begun::Open(session)) => session,
            Ok(Begun::Committed(committed)) => return Ok(Attempt { outcome: Ok(committed), judged: None }),
            Err(error) => return Ok(Attempt { outcome: Err(error), judged: None }),
        };
        let powers =
            Powers { transaction: Some(session), lag: self.counters.lag(), effects: Effects::default() };
        let (judgement, powers) =
            ask(Arc::clone(rules), self.deliveries_max, entries.clone(), powers).await?;
        let Powers { transaction, effects, .. } = powers;
        let session = transaction.and_then(|session| (session as Box<dyn Any>).downcast::<Session>().ok());
        let Some(mut session) = session else {
            return Ok(Attempt { outcome: Err(store::Error::SessionLost), judged: None });
        };
        let Ok(Judgement { entries: judged, breaches }) = judgement else {
            let error = session.take_lost().unwrap_or(store::Error::SessionLost);
            return Ok(Attempt { outcome: Err(error), judged: None });
        };
        self.counters.breached(breaches);
        if !is_effort(breaches, &judged, &effects.publications) {
            flight.end_effort();
        }
        let outcome = writer.commit(*session, &judged, effects.publications, record).await;
        if outcome.is_ok() {
            self.rejections.log(&judged);
            self.counters.sampled(effects.samples, effects.dropped_samples);
        }
        Ok(Attempt { outcome, judged: judged.into_iter().next() })
    }
}

/// What came of an attempt.
struct Attempt {
    outcome: Result<Committed, store::Error>,
    /// What the rules wanted of the first entry, if they were asked.
    judged: Option<Judged>,
}

/// Makes a dead letter of an entry whose rows PostgreSQL refuses.
fn refuse(judged: &mut Judged, error: &store::Error) {
    tracing::warn!(entry = %judged.entry.id, %error, "postgres refused the row");
    let violation = Violation {
        path: String::new(),
        code: Reason::Refused.as_str().to_owned(),
        message: cut(error.to_string()),
    };
    judged.fate = Fate::DeadLetter(Reason::Refused, vec![violation]);
}

/// Acknowledges what is committed, until Redis has it. Only then does it count.
async fn acknowledge(
    mut acknowledger: Acknowledger,
    counters: Arc<Counters>,
    mut batches: mpsc::Receiver<CommittedBatch>,
) -> Result<(), Error> {
    let mut backoff = Backoff::default();
    while let Some(first) = batches.recv().await {
        let mut flights = vec![first.flight];
        let mut committed = vec![first.committed];
        while let Ok(next) = batches.try_recv() {
            flights.push(next.flight);
            committed.push(next.committed);
        }
        while let Err(error) = acknowledger.acknowledge(&committed).await {
            if error.is_permanent() {
                return Err(error.into());
            }
            counters.waits_for(Server::Redis, true);
            if backoff.is_news() {
                tracing::warn!(%error, "acknowledging failed; trying again");
            }
            backoff.wait().await;
        }
        backoff = Backoff::default();
        counters.waits_for(Server::Redis, false);
        for (committed, flight) in committed.iter().zip(flights) {
            counters.ended(committed.tally(), flight.read_at.elapsed());
        }
    }
    Ok(())
}
