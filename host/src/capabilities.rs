//! What a guest of the world `pipeline` may do besides judging: pure data, and
//! the one thing that happens while it judges, a statement in the batch's transaction.
//!
//! The rest takes effect when the batch commits: what it publishes is kept
//! beside its record and sent before its XACK, and what it counts is added then.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::config::Grants;
use crate::stack_samples::{MAX_STACKS, StackSamples};

/// Statements that one batch may run; those of calls that were undone do not count, but take their time.
pub const MAX_STATEMENTS: u64 = 10_000;
/// The bytes of all parameters of the statements that one batch runs; likewise.
pub const MAX_PARAMETERS_BYTES: usize = 4 << 20;
/// Entries that one batch may publish.
pub const MAX_PUBLICATIONS: usize = 10_000;
/// The bytes of all that one batch publishes.
pub const MAX_PUBLICATIONS_BYTES: usize = 4 << 20;
/// Samples that one batch may take for metrics. What is beyond is dropped.
pub const MAX_SAMPLES: usize = 10_000;
/// The bytes of a metric's name, of a label's name, of its value.
pub const MAX_LABEL_BYTES: usize = 64;
/// The labels of one series.
pub const MAX_LABELS: usize = 8;

/// A value that PostgreSQL and a guest exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// NULL of any type.
    Null,
    /// `boolean`
    Boolean(bool),
    /// `smallint`, `integer`, `bigint`
    Integer(i64),
    /// `real`, `double precision`
    Number(f64),
    /// `text`, `varchar`
    Text(String),
    /// `uuid` in text form
    Uuid(String),
    /// `timestamptz` in microseconds since the Unix epoch
    Timestamp(i64),
    /// `jsonb` in text form
    Json(String),
    /// `bytea`
    Bytes(Vec<u8>),
}

impl Value {
    /// Returns the bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(text) | Self::Uuid(text) | Self::Json(text) => text.len(),
                Self::Bytes(bytes) => bytes.len(),
                _ => 0,
            }
    }
}

/// Counts the statements of a batch for [`MAX_STATEMENTS`], and their parameters for [`MAX_PARAMETERS_BYTES`].
#[derive(Debug, Default)]
pub struct StatementMeter {
    /// The statements so far, without undone ones, which a second call must not pay for.
    count: u64,
    /// The bytes of their parameters, counted likewise.
    bytes: usize,
    /// Both numbers as they were when the running call began.
    before_call: (u64, usize),
}

impl StatementMeter {
    pub fn begin_call(&mut self) {
        self.before_call = (self.count, self.bytes);
    }

    pub fn undo_call(&mut self) {
        (self.count, self.bytes) = self.before_call;
    }

    /// Returns whether there was a statement.
    pub fn was_used(&self) -> bool {
        self.count > 0
    }

    /// Counts a statement, if it is within the limits.
    pub fn admit(&mut self, parameters: &[Value]) -> Result<(), StatementError> {
        self.count += 1;
        if self.count > MAX_STATEMENTS {
            return Err(StatementError::TooManyStatements(MAX_STATEMENTS));
        }
        let bytes = self.bytes.saturating_add(parameters.iter().map(Value::bytes).sum());
        if bytes > MAX_PARAMETERS_BYTES {
            return Err(StatementError::too_much(MAX_PARAMETERS_BYTES));
        }
        self.bytes = bytes;
        Ok(())
    }
}

/// Why a statement gave nothing. The transaction is as before, and goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StatementError {
    /// No grant for this name.
    NotGranted(String),
    /// Other parameters than were declared.
    WrongParameters(String),
    /// PostgreSQL's own: SQLSTATE and message.
    Refused(String, String),
    /// The statement's limit, in ms.
    TimedOut(u64),
    /// The statement's limit of rows, or of bytes.
    TooMuch(u64),
    /// [`MAX_STATEMENTS`]
    TooManyStatements(u64),
    /// A column's type that [`Value`] does not have.
    UnknownType(String),
}

impl StatementError {
    /// Returns the error for more rows or bytes than this limit.
    pub fn too_much(limit: usize) -> Self {
        Self::TooMuch(u64::try_from(limit).unwrap_or(u64::MAX))
    }
}

/// The database is away, or the transaction is over: the batch is to be judged
/// again in another one. No entry is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("the transaction is lost")]
pub struct Lost;

/// What a statement gives, or why it gave nothing; or that there is no transaction any more.
pub type StatementResult<T> = Result<Result<T, StatementError>, Lost>;

/// The batch's own transaction, as the thread sees it that asks the rules. Each call blocks until the task that
/// holds the transaction has answered.
pub struct Transaction(mpsc::Sender<TransactionRequest>);

/// The requests of a [`Transaction`], for the task that holds it.
pub type TransactionRequests = mpsc::Receiver<TransactionRequest>;

/// A request, with the place for its answer.
pub enum TransactionRequest {
    /// From here on a call of the rules can be undone.
    BeginCall(oneshot::Sender<Result<(), Lost>>),
    /// Takes back what was written since [`TransactionRequest::BeginCall`].
    UndoCall(oneshot::Sender<Result<(), Lost>>),
    /// Runs a granted statement and gives its rows, column by column.
    Query(String, Vec<Value>, oneshot::Sender<StatementResult<Vec<Vec<Value>>>>),
    /// Runs a granted statement and gives the number of rows that it changed.
    Execute(String, Vec<Value>, oneshot::Sender<StatementResult<u64>>),
}

impl Transaction {
    /// A transaction, and where its requests arrive.
    pub fn new() -> (Self, TransactionRequests) {
        let (sender, requests) = mpsc::channel(1);
        (Self(sender), requests)
    }

    /// See [`TransactionRequest::BeginCall`].
    pub fn begin_call(&self) -> Result<(), Lost> {
        self.ask(TransactionRequest::BeginCall)?
    }

    /// See [`TransactionRequest::UndoCall`].
    pub fn undo_call(&self) -> Result<(), Lost> {
        self.ask(TransactionRequest::UndoCall)?
    }

    /// See [`TransactionRequest::Query`].
    pub fn query(&self, statement: String, parameters: Vec<Value>) -> StatementResult<Vec<Vec<Value>>> {
        self.ask(|answer| TransactionRequest::Query(statement, parameters, answer))?
    }

    /// See [`TransactionRequest::Execute`].
    pub fn execute(&self, statement: String, parameters: Vec<Value>) -> StatementResult<u64> {
        self.ask(|answer| TransactionRequest::Execute(statement, parameters, answer))?
    }

    fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> TransactionRequest) -> Result<T, Lost> {
        let (sender, answer) = oneshot::channel();
        self.0.blocking_send(request(sender)).map_err(|_| Lost)?;
        answer.blocking_recv().map_err(|_| Lost)
    }
}

/// An entry for another stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    pub stream: String,
    /// Names and values.
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")]
    pub fields: Vec<(String, String)>,
}

impl Publication {
    /// What it counts for [`MAX_PUBLICATIONS_BYTES`].
    pub fn bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
        self.stream.len() + fields
    }
}

/// A metric's name with its labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    /// Sorted.
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")]
    pub labels: Vec<(String, String)>,
}

/// A value for a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Sample {
    Add(u64),
    Observe(f64),
}

/// What a batch does when it commits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Effects {
    /// To be sent, in this order.
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")]
    pub publications: Vec<Publication>,
    /// To be counted.
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")]
    pub samples: Vec<(Series, Sample)>,
    /// Samples that were not taken: too many, or with names or values that are none.
    pub dropped_samples: u64,
}

impl Effects {
    /// Adds those of a later call.
    pub fn extend(&mut self, later: Self) {
        self.publications.extend(later.publications);
        self.samples.extend(later.samples);
        self.dropped_samples = self.dropped_samples.saturating_add(later.dropped_samples);
    }
}

/// What counts for the limits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// For [`MAX_PUBLICATIONS`].
    pub publications: usize,
    /// For [`MAX_PUBLICATIONS_BYTES`].
    pub published_bytes: usize,
    /// For [`MAX_SAMPLES`].
    pub samples: usize,
}

/// Why a publication is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    NotGranted,
    /// More than this limit.
    TooMuch(u64),
}

impl Usage {
    #[must_use]
    pub fn and(self, effects: &Effects) -> Self {
        let published_bytes: usize = effects.publications.iter().map(Publication::bytes).sum();
        Self {
            publications: self.publications + effects.publications.len(),
            published_bytes: self.published_bytes + published_bytes,
            samples: self.samples + effects.samples.len(),
        }
    }

    /// Counts a publication, if it is within the limits.
    pub fn publish(
        &mut self,
        publication: &Publication,
        is_granted: impl FnOnce(&str) -> bool,
    ) -> Result<(), PublishError> {
        if !is_granted(&publication.stream) {
            return Err(PublishError::NotGranted);
        }
        let too_much = |limit: usize| Err(PublishError::TooMuch(u64::try_from(limit).unwrap_or(u64::MAX)));
        let bytes = self.published_bytes.saturating_add(publication.bytes());
        if bytes > MAX_PUBLICATIONS_BYTES {
            return too_much(MAX_PUBLICATIONS_BYTES);
        }
        // XADD takes no entry without fields.
        if publication.fields.is_empty() {
            return too_much(0);
        }
        if self.publications >= MAX_PUBLICATIONS {
            return too_much(MAX_PUBLICATIONS);
        }
        self.publications += 1;
        self.published_bytes = bytes;
        Ok(())
    }

    /// Counts a sample, if it is within the limits.
    pub fn sample(&mut self, series: &Series, sample: Sample) -> bool {
        let is_taken = self.samples < MAX_SAMPLES && series.is_valid() && sample.is_finite();
        self.samples += usize::from(is_taken);
        is_taken
    }

    /// Counts all that a call has left for the commit. False if a part of it could not be: then it was not checked
    /// where it was made.
    pub fn admit(mut self, effects: &Effects, grants: &Grants) -> bool {
        let is_granted = |stream: &str| grants.publish.contains_key(stream);
        (grants.metrics || effects.samples.is_empty())
            && effects.publications.iter().all(|publication| self.publish(publication, is_granted).is_ok())
            && effects.samples.iter().all(|(series, sample)| self.sample(series, *sample))
    }
}

impl Series {
    fn is_valid(&self) -> bool {
        let is_name_of_one =
            |(name, value): &(String, String)| is_name(name) && value.len() <= MAX_LABEL_BYTES;
        is_name(&self.name) && self.labels.len() <= MAX_LABELS && self.labels.iter().all(is_name_of_one)
    }
}

impl Sample {
    fn is_finite(self) -> bool {
        match self {
            Self::Add(_) => true,
            Self::Observe(value) => value.is_finite(),
        }
    }
}

/// Whether a metric or a label may have this name, as all systems of metrics take it: nothing that could forge another
/// in a line.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_LABEL_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What a call may use.
#[derive(Default)]
pub struct HostContext {
    /// `None` for a guest without statements.
    pub transaction: Option<Transaction>,
    /// Entries that the group has not been delivered, when last looked at.
    pub lag: Option<u64>,
    /// What other parts of the batch have left for their commits, after it was split.
    pub used: Usage,
    /// What the calls so far have left for the commit.
    pub effects: Effects,
    /// How often the process in which the rules run was started again during these calls.
    pub restarts: u64,
    /// What these calls took.
    pub measured: Measured,
}

/// What calls of the rules took, for those who measure rules. All of it is the word of the process in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub calls: u64,
    /// The processor time, from the start of instantiation to the return of the verdicts.
    pub time: Duration,
    /// The part of it in which instances started.
    pub start: Duration,
    /// The fuel, of which an instruction takes about one; 0 where none is counted.
    pub fuel: u64,
    /// The part of it with which instances started.
    pub start_fuel: u64,
    /// The bytes of all memories of an instance, the largest one of them.
    pub memory_bytes: usize,
    /// Where the time went, for each call whose guest takes samples.
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")]
    pub samples: Vec<StackSamples>,
}

impl Measured {
    /// Returns whether a worker that does what it should can have measured this in one call.
    pub fn is_within(&self, takes_samples: bool) -> bool {
        self.samples.len() <= usize::from(takes_samples) && self.samples.iter().all(StackSamples::is_within)
    }

    /// Adds later calls.
    pub fn add(&mut self, later: Self) {
        self.calls = self.calls.saturating_add(later.calls);
        self.time = self.time.saturating_add(later.time);
        self.start = self.start.saturating_add(later.start);
        self.fuel = self.fuel.saturating_add(later.fuel);
        self.start_fuel = self.start_fuel.saturating_add(later.start_fuel);
        self.memory_bytes = self.memory_bytes.max(later.memory_bytes);
        if self.samples.iter().map(|call| call.stacks.len()).sum::<usize>() < MAX_STACKS {
            self.samples.extend(later.samples);
        }
    }
}
