//! The oracle outside the service: what was sent, held against what is in the database afterwards.
//!
//! Pure. A [`Ledger`] is written while entries are sent; an [`Audit`] then takes every row and every dead letter, one
//! at a time, and gives a [`Report`]. It knows nothing of how the service works: only what each entry was, and what
//! each version of the rules makes of it.
//!
//! It allows for what a producer cannot know. An XADD that was never answered may have happened: then its entry may
//! have ended, but need not. And which of two versions judged an entry is for the service to choose, as long as the
//! entry ended in exactly one of the two ways.

use std::collections::HashMap;

use uuid::Uuid;

use super::generator::{Expected, Fields, Refusal, Sample, Strict};
use sluicegate::batch::{Digest, EntryId, Event};

mod audit;
mod report;

pub use audit::{Audit, Letter};
pub use report::{Check, Counts, Discrepancy, Found, Report};

#[derive(Debug)]
pub struct Ledger {
    default: Digest,
    strict: Option<Digest>,
    events: HashMap<Uuid, Sent>,
    entries: HashMap<EntryId, Origin>,
    /// Entries that may exist, under an ID that nobody told us.
    unanswered: HashMap<Fields, (Expected, u64)>,
    unanswered_count: u64,
}

/// A valid event.
#[derive(Debug)]
struct Sent {
    event: Event,
    strict: Strict,
    /// Once, mostly; more often as a duplicate.
    entries: Vec<EntryId>,
}

/// What an entry was made from. Fields are kept where they may end as a dead letter.
#[derive(Debug)]
enum Origin {
    Event(Uuid, Option<Fields>),
    Invalid(Refusal, Fields),
}

impl Ledger {
    /// An empty one, for a service that runs the default rules and later, perhaps, the strict ones.
    #[must_use]
    pub fn new(default: Digest, strict: Option<Digest>) -> Self {
        Self {
            default,
            strict,
            events: HashMap::new(),
            entries: HashMap::new(),
            unanswered: HashMap::new(),
            unanswered_count: 0,
        }
    }

    /// Redis took the entry, under this ID.
    pub fn sent(&mut self, sample: Sample, id: EntryId) {
        let origin = match sample.expected {
            Expected::Row(event, strict) => {
                let event_id = event.event_id;
                let fields = matches!(strict, Strict::Reject(_)).then_some(sample.fields);
                self.events
                    .entry(event_id)
                    .or_insert_with(|| Sent { event, strict, entries: Vec::with_capacity(1) })
                    .entries
                    .push(id);
                Origin::Event(event_id, fields)
            }
            Expected::DeadLetter(refusal) => Origin::Invalid(refusal, sample.fields),
        };
        self.entries.insert(id, origin);
    }

    /// The entry was sent, and no answer came: Redis may have it or not.
    pub fn unanswered(&mut self, sample: &Sample) {
        if let Expected::Row(event, strict) = &sample.expected {
            self.events.entry(event.event_id).or_insert_with(|| Sent {
                event: event.clone(),
                strict: strict.clone(),
                entries: Vec::new(),
            });
        }
        let known = self.unanswered.entry(sample.fields.clone());
        known.or_insert_with(|| (sample.expected.clone(), 0)).1 += 1;
        self.unanswered_count += 1;
    }

    /// Entries that Redis took for certain.
    #[must_use]
    pub fn produced(&self) -> u64 {
        count(self.entries.len())
    }

    /// Begins to compare.
    #[must_use]
    pub fn audit(&self) -> Audit<'_> {
        Audit::new(self)
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
