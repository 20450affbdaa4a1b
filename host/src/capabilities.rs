//! What a guest of the world `pipeline` may do besides judging: pure data, and
//! the one thing that happens while it judges, a statement in the batch's transaction.
//!
//! The rest takes effect when the batch commits: what it publishes is kept
//! beside its record and sent before its XACK, and what it counts is added then.

use std::any::Any;

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq)]
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

/// Why a statement gave nothing. The transaction is as before, and goes on.
#[derive(Clone, Debug, PartialEq)]
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

/// The database is away, or the transaction is over: the batch is to be judged
/// again in another one. No entry is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transaction is lost")]
pub struct Lost;

/// What a statement gives, or why it gave nothing; or that there is no transaction any more.
pub type StatementResult<T> = Result<Result<T, StatementError>, Lost>;

/// The batch's own transaction, as far as its guest may use it. Blocks.
pub trait Transaction: Any + Send {
    /// From here on a call can be undone.
    fn begin_call(&mut self) -> Result<(), Lost>;

    /// Runs a statement by its name and gives its rows, column by column.
    fn query(&mut self, statement: &str, parameters: Vec<Value>) -> StatementResult<Vec<Vec<Value>>>;

    /// Runs a statement by its name and gives how many rows it changed.
    fn execute(&mut self, statement: &str, parameters: Vec<Value>) -> StatementResult<u64>;

    /// Takes back what was written since [`Transaction::begin_call`].
    fn undo_call(&mut self) -> Result<(), Lost>;
}

/// An entry for another stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    pub stream: String,
    /// Names and values.
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub name: String,
    /// Sorted.
    pub labels: Vec<(String, String)>,
}

/// A value for a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    Add(u64),
    Observe(f64),
}

/// What a batch does when it commits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// To be sent, in this order.
    pub publications: Vec<Publication>,
    /// To be counted.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// For [`MAX_PUBLICATIONS`].
    pub publications: usize,
    /// For [`MAX_PUBLICATIONS_BYTES`].
    pub published_bytes: usize,
    /// For [`MAX_SAMPLES`].
    pub samples: usize,
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
}

/// What a call may use.
#[derive(Default)]
pub struct HostContext {
    /// `None` for a guest without statements.
    pub transaction: Option<Box<dyn Transaction>>,
    /// Entries that the group has not been delivered, when last looked at.
    pub lag: Option<u64>,
    /// What other parts of the batch have left for their commits, after it was split.
    pub used: Usage,
    /// What the calls so far have left for the commit.
    pub effects: Effects,
}
