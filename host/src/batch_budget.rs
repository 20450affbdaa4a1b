//! Tells what rules make of a batch beyond what it brought, and how much of it is written at once.
//!
//! A batch of a few kilobytes can become a hundred thousand rows. In a single transaction they
//! would keep the database, and a thread of the service, from the other tenants for seconds.

use std::collections::BTreeSet;

use crate::batch::Judged;
use crate::capabilities::Publication;
use sluicegate_verdicts::validate::{MAX_EXPANSION_WEEKS, week};
use sluicegate_verdicts::{Event, Outcome, Violation};

/// The bytes that an outcome may take beyond twice its entry without counting as excess.
const FREE_BYTES: usize = 1 << 10;

/// The rows of a transaction beyond one for each entry, unless they are of a single entry: as many
/// as an entry may have.
pub const ROWS_AT_ONCE: usize = 1_000;

/// The bytes of a transaction beyond those of its entries, unless they are of a single entry.
pub const BYTES_AT_ONCE: usize = 1 << 20;

/// The bytes of a transaction in all, its entries included: PostgreSQL ends a statement at a GiB.
const ALL_BYTES_AT_ONCE: usize = 64 << 20;

/// The weeks that the rows of a transaction lie in: at most those of a single entry. Each may be a
/// new chunk, for which the server does a good deal more than for a row.
pub const WEEKS_AT_ONCE: usize = MAX_EXPANSION_WEEKS;

/// Up to the limits divided by this, a batch passes for one without an excess.
const NEGLIGIBLE: usize = 5;

/// Returns the number of rows that the outcome makes.
pub fn rows(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Store(events) => events.as_slice().len(),
        Outcome::DeadLetter(..) | Outcome::Discard(_) => 0,
    }
}

/// Returns the bytes that an outcome takes beyond what can be expected of an entry that brought so
/// many. What is as long as the entry is held in memory as the entry is.
pub fn bytes(brought: usize, outcome: &Outcome) -> usize {
    taken(outcome).saturating_sub(2 * brought + FREE_BYTES)
}

/// Returns the bytes that an outcome takes.
fn taken(outcome: &Outcome) -> usize {
    let violation = |violation: &Violation| {
        size_of::<Violation>() + violation.path.len() + violation.code.len() + violation.message.len()
    };
    match outcome {
        Outcome::Store(events) => events.as_slice().iter().map(Event::bytes).sum(),
        Outcome::DeadLetter(_, violations) => violations.iter().map(violation).sum(),
        Outcome::Discard(reason) => reason.len(),
    }
}

/// Returns the bytes of an entry's fields.
fn brought(judged: &Judged) -> usize {
    judged.entry.fields.iter().flatten().map(|(name, value)| name.len() + value.len()).sum()
}

/// The excess of several entries.
#[derive(Default)]
struct Excess {
    rows: usize,
    bytes: usize,
    /// All bytes, and not the excess alone.
    all_bytes: usize,
    weeks: Weeks,
}

/// The weeks that rows lie in.
#[derive(Default)]
struct Weeks {
    all: BTreeSet<i64>,
    /// The week that was added last, which is mostly that of the next event too.
    last: Option<i64>,
}

impl Weeks {
    fn add(&mut self, outcome: &Outcome) {
        let Outcome::Store(events) = outcome else { return };
        for week in events.as_slice().iter().map(week) {
            if self.last.replace(week) != Some(week) {
                self.all.insert(week);
            }
        }
    }
}

/// Returns the weeks that the rows of a batch lie in.
pub fn weeks(batch: &[Judged]) -> BTreeSet<i64> {
    let mut weeks = Weeks::default();
    batch.iter().for_each(|judged| weeks.add(&judged.outcome));
    weeks.all
}

impl Excess {
    fn from_batch(batch: &[Judged]) -> Self {
        let mut excess = Self::default();
        batch.iter().for_each(|judged| excess.add(judged));
        excess
    }

    fn add(&mut self, judged @ Judged { outcome, .. }: &Judged) {
        self.rows += rows(outcome).saturating_sub(1);
        let brought = brought(judged);
        self.bytes = self.bytes.saturating_add(bytes(brought, outcome));
        self.all_bytes = self.all_bytes.saturating_add(brought).saturating_add(taken(outcome));
        self.weeks.add(outcome);
    }

    /// Adds what is published for a batch as if it were rows.
    fn add_publications(&mut self, batch: &[Judged], publications: &[Publication]) {
        let expected: usize = batch.iter().map(|judged| 2 * brought(judged) + FREE_BYTES).sum();
        let bytes: usize = publications.iter().map(Publication::bytes).sum();
        self.rows += publications.len().saturating_sub(batch.len());
        self.bytes = self.bytes.saturating_add(bytes.saturating_sub(expected));
    }

    /// Returns whether there is more than the limits of a transaction, divided by `part`.
    fn exceeds(&self, part: usize) -> bool {
        self.rows > ROWS_AT_ONCE / part
            || self.bytes > BYTES_AT_ONCE / part
            || self.all_bytes > ALL_BYTES_AT_ONCE / part
            || self.weeks.all.len() > WEEKS_AT_ONCE / part
    }
}

/// Cuts a batch between its entries into portions to write at once: one, if there is no excess.
pub fn split_to_budget(mut batch: Vec<Judged>) -> Vec<Vec<Judged>> {
    let mut cuts = Vec::new();
    let mut sum = Excess::default();
    for (at, judged) in batch.iter().enumerate() {
        sum.add(judged);
        if sum.exceeds(1) && at > 0 {
            cuts.push(at);
            sum = Excess::from_batch(std::slice::from_ref(judged));
        }
    }
    let mut parts: Vec<Vec<Judged>> = cuts.into_iter().rev().map(|at| batch.split_off(at)).collect();
    parts.push(batch);
    parts.reverse();
    parts
}

/// Returns whether to write a batch, and send its publications, is much more work than its entries.
pub fn is_heavy(batch: &[Judged], publications: &[Publication]) -> bool {
    let mut sum = Excess::from_batch(batch);
    sum.add_publications(batch, publications);
    sum.exceeds(NEGLIGIBLE)
}

/// Returns whether one transaction would be too large for the server, or make more chunks than its
/// locks are good for, and a part of the batch would not.
pub fn is_too_much_at_once(batch: &[Judged]) -> bool {
    let sum = Excess::from_batch(batch);
    batch.len() > 1 && (sum.weeks.all.len() > WEEKS_AT_ONCE || sum.all_bytes > ALL_BYTES_AT_ONCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Digest, Version};
    use sluicegate_verdicts::{Entry, EntryId, Reason, Vec1};

    fn judged(sequence: u64, outcome: Outcome) -> Judged {
        let id = EntryId { milliseconds: 0, sequence };
        Judged {
            entry: Entry { id, fields: Some(Vec::new()), deliveries: 1 },
            outcome,
            version: Version::of_component(Digest::new(b"")),
        }
    }

    fn event(properties: usize) -> Event {
        Event {
            event_id: uuid::Uuid::nil(),
            time: chrono::DateTime::UNIX_EPOCH,
            event_type: String::new(),
            user_id: String::new(),
            properties: Some("x".repeat(properties)),
        }
    }

    fn of_rows(sequence: u64, rows: usize) -> Judged {
        judged(sequence, Outcome::Store(Vec1::Many(vec![event(0); rows])))
    }

    /// Returns the sequence numbers of the entries of each portion.
    fn cut(batch: Vec<Judged>) -> Vec<Vec<u64>> {
        let sequences =
            |portion: Vec<Judged>| portion.iter().map(|judged| judged.entry.id.sequence).collect();
        split_to_budget(batch).into_iter().map(sequences).collect()
    }

    #[test]
    fn a_batch_without_an_excess_is_written_at_once() {
        let batch: Vec<_> = (0..10_000).map(|i| judged(i, Outcome::Store(Vec1::One(event(900))))).collect();
        assert!(!is_heavy(&batch, &[]));
        assert_eq!(cut(batch), vec![(0..10_000).collect::<Vec<_>>()]);
        assert_eq!(cut(Vec::new()), vec![Vec::<u64>::new()]);
    }

    #[test]
    fn many_rows_are_written_bit_by_bit() {
        let letter = || Outcome::DeadLetter(Reason::Rejected, Vec::new());
        let batch =
            vec![of_rows(0, 501), of_rows(1, 501), judged(2, letter()), of_rows(3, 2), of_rows(4, 1_000)];
        assert!(is_heavy(&batch, &[]));
        assert_eq!(cut(batch), [vec![0, 1, 2], vec![3, 4]]);
        let batch = (0..3).map(|i| of_rows(i, 1_000)).collect();
        assert_eq!(cut(batch), [[0], [1], [2]]);
        // A single entry is not cut, however much it makes.
        assert_eq!(cut(vec![of_rows(0, 5_000), of_rows(1, 1)]), [[0], [1]]);
    }

    #[test]
    fn many_weeks_are_written_bit_by_bit() {
        let of_week = |i: u64| {
            let time =
                chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::weeks(i64::try_from(i).expect("few"));
            judged(i, Outcome::Store(Vec1::One(Event { time, ..event(0) })))
        };
        assert!(!is_heavy(&(0..12).map(of_week).collect::<Vec<_>>(), &[]));
        let batch: Vec<_> = (0..150).map(of_week).collect();
        assert!(is_heavy(&batch, &[]) && is_too_much_at_once(&batch) && !is_too_much_at_once(&batch[..64]));
        assert_eq!(cut(batch), [(0..64).collect::<Vec<_>>(), (64..128).collect(), (128..150).collect()]);
    }

    #[test]
    fn what_is_published_counts_too() {
        let batch: Vec<_> = (0..100).map(|i| judged(i, Outcome::Discard(String::new()))).collect();
        let of_bytes =
            |length| Publication { stream: String::new(), fields: vec![(String::new(), "x".repeat(length))] };
        assert!(!is_heavy(&batch, &vec![of_bytes(900); 100]), "one for each entry");
        assert!(is_heavy(&batch, &vec![of_bytes(1); 301]));
        assert!(is_heavy(&batch, &[of_bytes(400_000)]));
    }

    #[test]
    fn many_bytes_are_written_bit_by_bit() {
        let batch = (0..4).map(|i| judged(i, Outcome::Store(Vec1::One(event(500 << 10))))).collect();
        assert_eq!(cut(batch), [[0, 1], [2, 3]]);
    }
}
