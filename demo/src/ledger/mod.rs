//! Judges the service from outside: compares what was sent with what is in the database later.
//!
//! The module is pure. A [`Ledger`] is written while entries are sent. An [`Audit`] then takes
//! every row and every dead letter, and gives a [`Report`]. The ledger knows nothing of how the
//! service works: it knows each entry, and what each version of the rules makes of it.
//!
//! The ledger allows for what a producer cannot know. An XADD without an answer may have happened,
//! so its entry may have ended, but need not. Which of two versions judges an entry is for the
//! service to choose, as long as the entry ends in exactly one of the two ways.

use std::collections::HashMap;

use uuid::Uuid;

use super::generator::{Expected, Fields, Refusal, Sample, Strict};
use sluicegate::batch::Digest;
use sluicegate_verdicts::{EntryId, Event};

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
    /// Holds entries that may exist, under an ID that the producer was not told.
    unanswered: HashMap<Fields, (Expected, u64)>,
    unanswered_count: u64,
}

#[derive(Debug)]
struct Sent {
    event: Event,
    strict: Strict,
    /// Holds mostly one ID, and more when the event was sent again.
    entries: Vec<EntryId>,
}

/// Says what an entry was made from. The fields are kept if the entry may end as a dead letter.
#[derive(Debug)]
enum Origin {
    Event(Uuid, Option<Fields>),
    Invalid(Refusal, Fields),
}

impl Ledger {
    /// Makes an empty ledger, for the default rules and later, perhaps, the strict ones.
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

    /// Notes that Redis took the entry under this ID.
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

    /// Notes that the entry was sent and no answer came: Redis may have it or not.
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

    /// Returns how many entries Redis took for certain.
    #[must_use]
    pub fn produced(&self) -> u64 {
        count(self.entries.len())
    }

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
