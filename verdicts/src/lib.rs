//! Entries, verdicts and outcomes: data without I/O, which the service shares with the harness for other hosts.
//!
//! - [`Entry`]: what Redis delivered
//! - [`Verdict`]: what a guest returns for it
//! - [`validate`]: checks a verdict
//! - [`Outcome`]: what comes of the entry
//! - [`mod@format`]: entries and outcomes as JSON lines
//! - [`bounded`]: verdicts that are read from a stranger's bytes

pub mod bounded;
mod entry;
pub mod format;
mod outcome;
pub mod validate;
mod verdict;

pub use entry::{Entry, EntryId, Field};
pub use outcome::{Event, Outcome, Reason, Vec1};
pub use verdict::{UncheckedEvent, Verdict, Violation};
