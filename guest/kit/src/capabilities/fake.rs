//! Stands in for the service in unit tests.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{Metrics, PublishError, Store, StoreError, Stream, Value};
use crate::EntryId;

/// An entry that was published: the stream, and the fields.
pub type Published = (String, Vec<(String, String)>);

type Answer = Box<dyn Fn(&[Value]) -> Result<Vec<Vec<Value>>, StoreError>>;

/// Answers like a service that grants what the test names, and remembers what rules did.
#[derive(Default)]
pub struct Fake {
    lag: Option<u64>,
    deliveries: BTreeMap<(u64, u64), u64>,
    answers: BTreeMap<String, Answer>,
    changes: BTreeMap<String, u64>,
    streams: Vec<String>,
    done: RefCell<Done>,
}

#[derive(Default)]
struct Done {
    run: Vec<(String, Vec<Value>)>,
    published: Vec<Published>,
    counts: BTreeMap<String, u64>,
    values: BTreeMap<String, Vec<f64>>,
}

impl Fake {
    /// Makes one that grants nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants a statement, whose answer is always these rows.
    #[must_use]
    pub fn with_rows(self, statement: &str, rows: Vec<Vec<Value>>) -> Self {
        self.with_answer(statement, move |_| Ok(rows.clone()))
    }

    /// Grants a statement, whose answer depends on the parameters.
    #[must_use]
    pub fn with_answer(
        mut self,
        statement: &str,
        answer: impl Fn(&[Value]) -> Result<Vec<Vec<Value>>, StoreError> + 'static,
    ) -> Self {
        self.answers.insert(statement.to_owned(), Box::new(answer));
        self
    }

    /// Grants a statement that changes so many rows each time.
    #[must_use]
    pub fn with_changes(mut self, statement: &str, rows: u64) -> Self {
        self.changes.insert(statement.to_owned(), rows);
        self
    }

    /// Grants publishing to a stream.
    #[must_use]
    pub fn with_stream(mut self, stream: &str) -> Self {
        self.streams.push(stream.to_owned());
        self
    }

    /// Says how often an entry was delivered. Other entries come for the first time.
    #[must_use]
    pub fn with_delivery_count(mut self, id: EntryId, count: u64) -> Self {
        self.deliveries.insert((id.milliseconds, id.sequence), count);
        self
    }

    /// Says how far the group is behind, which is not known else.
    #[must_use]
    pub fn with_lag(mut self, lag: u64) -> Self {
        self.lag = Some(lag);
        self
    }

    /// Returns the statements that were run, with their parameters, in their order.
    #[must_use]
    pub fn run(&self) -> Vec<(String, Vec<Value>)> {
        self.done.borrow().run.clone()
    }

    /// Returns what was published, in its order.
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        self.done.borrow().published.clone()
    }

    /// Returns what was added to a counter, by whatever labels.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.done.borrow().counts.get(name).copied().unwrap_or_default()
    }

    /// Returns the values of a histogram, by whatever labels.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.done.borrow().values.get(name).cloned().unwrap_or_default()
    }

    fn note_run(&self, statement: &str, parameters: &[Value]) {
        self.done.borrow_mut().run.push((statement.to_owned(), parameters.to_vec()));
    }
}

impl Store for Fake {
    fn query(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, StoreError> {
        let answer =
            self.answers.get(statement).ok_or_else(|| StoreError::NotGranted(statement.to_owned()))?;
        self.note_run(statement, parameters);
        answer(parameters)
    }

    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, StoreError> {
        match (self.changes.get(statement), self.answers.get(statement)) {
            (Some(changed), _) => {
                self.note_run(statement, parameters);
                Ok(*changed)
            }
            (None, Some(answer)) => {
                self.note_run(statement, parameters);
                answer(parameters).map(|rows| u64::try_from(rows.len()).unwrap_or(u64::MAX))
            }
            (None, None) => Err(StoreError::NotGranted(statement.to_owned())),
        }
    }
}

impl Stream for Fake {
    fn lag(&self) -> Option<u64> {
        self.lag
    }

    fn delivery_count(&self, id: EntryId) -> Option<u64> {
        Some(self.deliveries.get(&(id.milliseconds, id.sequence)).copied().unwrap_or(1))
    }

    fn publish(&self, stream: &str, fields: &[(&str, &str)]) -> Result<(), PublishError> {
        if !self.streams.iter().any(|granted| granted == stream) {
            return Err(PublishError::NotGranted(stream.to_owned()));
        }
        self.done.borrow_mut().published.push((stream.to_owned(), super::owned(fields)));
        Ok(())
    }
}

impl Metrics for Fake {
    fn add(&self, name: &str, _: &[(&str, &str)], count: u64) {
        *self.done.borrow_mut().counts.entry(name.to_owned()).or_default() += count;
    }

    fn observe(&self, name: &str, _: &[(&str, &str)], value: f64) {
        self.done.borrow_mut().values.entry(name.to_owned()).or_default().push(value);
    }
}
