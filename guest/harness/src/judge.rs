//! From entries to what comes of them.

use chrono::Utc;

use crate::bindings::sluicegate::guest::types as wit;
use sluicegate_verdicts::validate::{OutputLimits, cut, quoted, validate};
use sluicegate_verdicts::{Entry, EntryId, Outcome, Reason, UncheckedEvent, Verdict, Violation};

/// One of the two interfaces that guests export.
pub trait Guest {
    type Entry;

    /// Makes an entry as the guest takes it. An error names the field that it cannot be given.
    fn entry(id: wit::EntryId, fields: Vec<(String, Vec<u8>)>) -> Result<Self::Entry, Unreadable>;

    fn process(batch: &[Self::Entry]) -> Vec<wit::Verdict>;
}

/// A value that is no text, for a guest that takes text: the name of its field, and how many bytes of it are text.
pub struct Unreadable(pub String, pub usize);

/// Judges a batch: one outcome for each entry, in order.
pub(crate) fn judge<G: Guest>(batch: Vec<Entry>) -> Vec<(EntryId, Outcome)> {
    let mut asked = Vec::new();
    // `None` for an entry that the guest is asked about.
    let settled: Vec<(EntryId, Option<Outcome>)> = batch
        .into_iter()
        .map(|entry| (entry.id, read::<G>(entry).map(|entry| asked.push(entry)).err()))
        .collect();
    let mut outcomes = ask::<G>(&asked).into_iter();
    settled.into_iter().map_while(|(id, outcome)| Some((id, outcome.or_else(|| outcomes.next())?))).collect()
}

/// Asks for all entries at once, and for each alone if the answers cannot be told apart.
fn ask<G: Guest>(batch: &[G::Entry]) -> Vec<Outcome> {
    if batch.is_empty() {
        return Vec::new();
    }
    let verdicts = G::process(batch);
    let (found, wanted) = (verdicts.len(), batch.len());
    if found == wanted {
        let now = Utc::now();
        return verdicts
            .into_iter()
            .map(|verdict| validate(verdict.into(), &OutputLimits::DEFAULT, now))
            .collect();
    }
    if wanted > 1 {
        return batch.iter().flat_map(|only| ask::<G>(std::slice::from_ref(only))).collect();
    }
    let message = format!(
        "the guest returned another number of verdicts: found {found}, wanted {wanted}, one for each entry"
    );
    vec![dead_letter(Reason::BadVerdict, Violation { path: String::new(), code: String::new(), message })]
}

fn read<G: Guest>(Entry { id, fields, .. }: Entry) -> Result<G::Entry, Outcome> {
    let mut named = Vec::new();
    for (name, value) in fields.unwrap_or_default() {
        match String::from_utf8(name) {
            Ok(name) => named.push((name, value)),
            Err(error) => {
                let text_bytes = error.utf8_error().valid_up_to();
                let name = String::from_utf8_lossy(error.as_bytes()).into_owned();
                return Err(undecodable("name", &Unreadable(name, text_bytes)));
            }
        }
    }
    let id = wit::EntryId { milliseconds: id.milliseconds, sequence: id.sequence };
    G::entry(id, named).map_err(|unreadable| undecodable("value", &unreadable))
}

fn undecodable(part: &str, Unreadable(name, text_bytes): &Unreadable) -> Outcome {
    let message = format!("the {part} of the field {} is not UTF-8 from byte {text_bytes} on", quoted(name));
    let violation = Violation { path: cut(name.clone()), code: "not_utf8".to_owned(), message };
    dead_letter(Reason::Undecodable, violation)
}

fn dead_letter(reason: Reason, violation: Violation) -> Outcome {
    Outcome::DeadLetter(reason, vec![violation])
}

impl From<wit::Verdict> for Verdict {
    fn from(verdict: wit::Verdict) -> Self {
        match verdict {
            wit::Verdict::Accept(event) => Self::Accept(event.into()),
            wit::Verdict::Expand(events) => Self::Expand(events.into_iter().map(Into::into).collect()),
            wit::Verdict::Reject(violations) => {
                Self::Reject(violations.into_iter().map(Into::into).collect())
            }
            wit::Verdict::Discard(reason) => Self::Discard(reason),
        }
    }
}

impl From<wit::Event> for UncheckedEvent {
    fn from(event: wit::Event) -> Self {
        let wit::Event { event_id, time, event_type, user_id, properties } = event;
        Self { event_id, time, event_type, user_id, properties }
    }
}

impl From<wit::Violation> for Violation {
    fn from(wit::Violation { path, code, message }: wit::Violation) -> Self {
        Self { path, code, message }
    }
}
