//! What rules may do besides judging, as far as the operator grants it: each interface is a trait, [`Host`] is the real one, and
//! [`Fake`] is for unit tests.
//!
//! A component imports the interfaces that its rules use, and no others: rules that only count need `metrics = true` and no
//! more.
//!
//! ```
//! use sluicegate_kit::capabilities::{Fake, Host, Metrics, Store, Value};
//! use sluicegate_kit::{Code, Entry, Judged, Rules, Verdict, read_event, violation};
//!
//! /// Accepts the events of known users.
//! #[derive(Default)]
//! struct Known<H = Host> {
//!     host: H,
//! }
//!
//! impl<H: Store + Metrics> Rules for Known<H> {
//!     fn judge(&self, entry: &Entry) -> Judged {
//!         let event = read_event(entry)?;
//!         match self.host.query("user", &[Value::Text(event.user_id.clone())]) {
//!             Ok(rows) if rows.is_empty() => {
//!                 self.host.add("unknown_users", &[("type", &event.event_type)], 1);
//!                 Ok(Verdict::discard("unknown user"))
//!             }
//!             Ok(_) => Ok(Verdict::Accept(event)),
//!             // A dead letter can be replayed when the statement works again.
//!             Err(error) => Err(violation("", "not_looked_up", error.to_string()).into()),
//!         }
//!     }
//! }
//!
//! sluicegate_kit::export!(Known);
//!
//! let rules = Known { host: Fake::new().with_rows("user", vec![]) };
//! let entry = Entry::of(&[("data", r#"{"event_id": "123e4567-e89b-12d3-a456-426614174000",
//!     "event_type": "click", "user_id": "ada", "timestamp": "2026-01-18T22:17:34Z"}"#)]);
//! assert_eq!(rules.judge(&entry), Ok(Verdict::discard("unknown user")));
//! assert_eq!(rules.host.count("unknown_users"), 1);
//! assert_eq!(rules.host.run(), [("user".to_owned(), vec![Value::Text("ada".to_owned())])]);
//! ```

mod fake;

pub use fake::{Fake, Published};

use crate::EntryId;
use crate::bindings::text::sluicegate::guest::{metrics, store, stream};

pub use store::{Error as StoreError, Refusal, Value};
pub use stream::PublishError;

/// Statements that the operator has named, run within the transaction of the batch.
pub trait Store {
    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    ///
    /// The statement gave nothing. The transaction goes on.
    fn query(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, StoreError>;

    /// Runs a statement and returns how many rows it changed.
    ///
    /// # Errors
    ///
    /// The statement did nothing. The transaction goes on.
    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, StoreError>;
}

/// The stream that the entries come from, and streams to publish to.
pub trait Stream {
    /// Returns how many entries the group has not been delivered yet, if that is known. No verdict may depend on it.
    fn lag(&self) -> Option<u64>;

    /// Returns how often this entry of the batch was delivered, this time included.
    fn delivery_count(&self, id: EntryId) -> Option<u64>;

    /// Adds an entry to a stream, once the batch is committed.
    ///
    /// # Errors
    ///
    /// Nothing will be sent.
    fn publish(&self, stream: &str, fields: &[(&str, &str)]) -> Result<(), PublishError>;
}

/// Counters and histograms of the rules' own. They count when the batch commits.
pub trait Metrics {
    /// Adds to a counter. Labels must not contain data: their values are few.
    fn add(&self, name: &str, labels: &[(&str, &str)], count: u64);

    /// Notes a value of a histogram.
    fn observe(&self, name: &str, labels: &[(&str, &str)], value: f64);
}

/// The service. It answers in a component only: use a [`Fake`] elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Store for Host {
    fn query(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, StoreError> {
        store::query(statement, parameters)
    }

    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, StoreError> {
        store::execute(statement, parameters)
    }
}

impl Stream for Host {
    fn lag(&self) -> Option<u64> {
        stream::lag()
    }

    fn delivery_count(&self, id: EntryId) -> Option<u64> {
        stream::delivery_count(id)
    }

    fn publish(&self, stream: &str, fields: &[(&str, &str)]) -> Result<(), PublishError> {
        stream::publish(stream, &owned(fields))
    }
}

impl Metrics for Host {
    fn add(&self, name: &str, labels: &[(&str, &str)], count: u64) {
        metrics::add(name, &owned(labels), count);
    }

    fn observe(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        metrics::observe(name, &owned(labels), value);
    }
}

/// Returns pairs as the contract's bindings want them.
fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
