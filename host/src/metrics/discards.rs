//! Counts discarded entries by the reason that the rules gave, for a limited number of reasons.

use std::collections::BTreeMap;
use std::fmt;

use crate::batch::Judged;
use crate::text::printable;
use sluicegate_verdicts::Outcome;

/// The largest number of a tenant's reasons that have their own count. The others share one.
const MAX_REASONS: usize = 20;
/// The largest number of characters that are kept of a reason.
const MAX_REASON_CHARS: usize = 64;

/// The counts since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Discards {
    counts: BTreeMap<String, u64>,
    others: u64,
}

impl Discards {
    /// Counts the discarded entries of a committed batch.
    pub(super) fn add(&mut self, batch: &[Judged]) {
        for judged in batch {
            let Outcome::Discard(reason) = &judged.outcome else { continue };
            let end = reason.char_indices().nth(MAX_REASON_CHARS).map_or(reason.len(), |(at, _)| at);
            let reason = reason.get(..end).unwrap_or_default();
            let has_room = self.counts.len() < MAX_REASONS;
            match self.counts.get_mut(reason) {
                Some(count) => *count += 1,
                None if has_room => {
                    self.counts.insert(reason.to_owned(), 1);
                }
                None => self.others += 1,
            }
        }
    }

    /// Returns the counts for export. Those without a count of their own are `(other)`.
    pub(super) fn by_reason(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (reason, count) in &self.counts {
            *counts.entry(printable(reason).into_owned()).or_default() += count;
        }
        if self.others > 0 {
            *counts.entry("(other)".to_owned()).or_default() += self.others;
        }
        counts
    }
}

/// Formats a line of the log, the most frequent first: `"heartbeat"=12 "a bot"=3 others=1`.
impl fmt::Display for Discards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<(&String, &u64)> = self.counts.iter().collect();
        counts.sort_by(|(_, a), (_, b)| b.cmp(a));
        for (at, (reason, count)) in counts.into_iter().enumerate() {
            // Quotes are escaped too: a reason must not look like several.
            let reason = printable(reason).replace('"', "\\\"");
            write!(f, "{}\"{reason}\"={count}", if at == 0 { "" } else { " " })?;
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, " others={others}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Digest, Version};
    use sluicegate_verdicts::{Entry, EntryId};

    fn discarded(reason: &str) -> Judged {
        let entry = Entry { id: EntryId::ZERO, fields: None, deliveries: 1 };
        Judged {
            entry,
            outcome: Outcome::Discard(reason.to_owned()),
            version: Version::of_component(Digest::new(b"")),
        }
    }

    #[test]
    fn the_most_frequent_reason_comes_first() {
        let mut discards = Discards::default();
        discards.add(&["bot", "heartbeat", "heartbeat", "a\nb", "", "x\"=9 \"y"].map(discarded));
        assert_eq!(discards.to_string(), r#""heartbeat"=2 ""=1 "a\nb"=1 "bot"=1 "x\"=9 \"y"=1"#);
    }

    #[test]
    fn there_is_a_bound() {
        let mut discards = Discards::default();
        for i in 0..10_000 {
            discards.add(&[discarded(&format!("{i}{}", "x".repeat(1_000)))]);
        }
        assert_eq!((discards.counts.len(), discards.others), (MAX_REASONS, 9_980));
        assert!(discards.to_string().len() < 2_000);
    }
}
