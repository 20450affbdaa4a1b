//! Which entries somebody wants to see.

use enum_map::EnumMap;

use crate::batch::{Ended, Judged, Tally};
use sluicegate_verdicts::Outcome;

/// The entries that somebody is given in a second who does not say how many.
pub(crate) const DEFAULT_RATE: u32 = 20;
/// The most that somebody may ask for in a second.
pub(crate) const MAX_RATE: u32 = 100;

#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) outcomes: EnumMap<Ended, bool>,
    /// One of these is among the violations; without any, all entries are wanted.
    pub(crate) codes: Vec<String>,
    /// Only the first entry of so many is wanted.
    pub(crate) one_in: u64,
    /// The most that are wanted in a second.
    pub(crate) rate: u32,
    /// The most that are wanted at all.
    pub(crate) limit: u64,
    /// Whether the content is wanted too.
    pub(crate) with_payload: bool,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            outcomes: EnumMap::from_fn(|_| true),
            codes: Vec::new(),
            one_in: 1,
            rate: DEFAULT_RATE,
            limit: u64::MAX,
            with_payload: false,
        }
    }
}

impl Selection {
    /// Returns whether an entry can be wanted that has rows.
    pub(super) fn wants_rows(&self) -> bool {
        self.codes.is_empty() && (self.outcomes[Ended::Stored] || self.outcomes[Ended::Duplicate])
    }

    pub(super) fn wants(&self, judged: &Judged, ended: Ended) -> bool {
        self.outcomes[ended] && (self.codes.is_empty() || self.has_code(judged))
    }

    /// Returns how many entries of a batch are wanted, before any are left out.
    pub(super) fn count(&self, batch: &[Judged], tally: Tally) -> u64 {
        let counted =
            || self.outcomes.iter().filter(|(_, wanted)| **wanted).map(|(ended, _)| tally.of(ended));
        match self.codes.is_empty() {
            true => counted().sum(),
            false if tally.rejected + tally.dead_lettered == 0 => 0,
            false => {
                let wanted = |judged: &&Judged| {
                    Ended::of(&judged.outcome).is_some_and(|ended| self.wants(judged, ended))
                };
                u64::try_from(batch.iter().filter(wanted).count()).unwrap_or(u64::MAX)
            }
        }
    }

    fn has_code(&self, judged: &Judged) -> bool {
        let Outcome::DeadLetter(_, violations) = &judged.outcome else { return false };
        violations.iter().any(|violation| self.codes.contains(&violation.code))
    }
}
