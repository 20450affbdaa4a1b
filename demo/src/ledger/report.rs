//! Defines what an audit reports.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::generator::Strict;
use sluicegate::batch::Tally;
use sluicegate::stream::GroupStats;
use sluicegate_verdicts::EntryId;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discrepancy {
    #[error("the event {event} (entry {entry}) is not in the table")]
    Lost {
        event: Uuid,
        /// Names the first entry that carried the event.
        entry: EntryId,
    },
    #[error("the event {event} is in the table more than once; it was sent {sent} times")]
    Doubled {
        event: Uuid,
        /// Counts the entries that carried the event.
        sent: usize,
    },
    #[error("the event {event} has {column} {found}; sent was {sent}")]
    Changed {
        event: Uuid,
        column: &'static str,
        found: String,
        /// Holds what the column should be.
        sent: String,
    },
    #[error("the row of the event {event} was never sent")]
    InventedRow {
        /// Is an ID that nobody sent.
        event: Uuid,
    },
    #[error("the invalid entry {entry} is not among the dead letters; wanted {wanted}")]
    MissingLetter {
        entry: EntryId,
        /// Holds the reason and the violations that the letter should have.
        wanted: String,
    },
    #[error("the dead letter of the entry {entry} has {what} {found}; wanted {wanted}")]
    WrongLetter {
        entry: EntryId,
        /// Names the part of the letter that is wrong.
        what: &'static str,
        found: String,
        wanted: String,
    },
    #[error("the entry {entry} is valid, but a dead letter: {found}")]
    WronglyRefused {
        entry: EntryId,
        /// Holds the letter's reason and violations.
        found: String,
    },
    #[error("the dead letter of the entry {entry} is of an entry that was never sent")]
    InventedLetter {
        /// Holds the ID as it stands in the table.
        entry: String,
    },
    #[error("the entry {entry} has more than one dead letter")]
    DoubledLetter { entry: EntryId },
    #[error("the dead letter of the entry {entry} names the component {found}, which was never in force")]
    UnknownRules {
        entry: EntryId,
        /// Holds the beginning of the digest.
        found: String,
    },
    #[error("the event {event} is in the table, and each of its entries is a dead letter too")]
    BothWays {
        /// Was stored by one version and refused by the other.
        event: Uuid,
    },
    #[error("the entry {late} was judged by the old rules, after {early} had been judged by the new ones")]
    OutOfOrder {
        /// Was judged by the new rules.
        early: EntryId,
        /// Was judged by the old rules.
        late: EntryId,
    },
    #[error("no entry shows that the new rules were ever in force")]
    NeverSwapped,
    #[error("{what} is {found} at the end; wanted 0")]
    NotDrained {
        /// Is `the lag` or `pending`.
        what: &'static str,
        found: String,
    },
    #[error("{found}; wanted {wanted}")]
    Ending {
        found: String,
        /// Says how the service should end.
        wanted: String,
    },
    #[error("{what}: {found}; wanted {wanted}")]
    Sum {
        /// Says which number it is, and whose.
        what: &'static str,
        found: String,
        wanted: String,
    },
}

/// Names what must hold. Each check is one line of the printed ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    Rows,
    Duplicates,
    Letters,
    Invented,
    Swap,
    Drained,
    Sums,
    Ending,
}

impl Check {
    /// Lists all checks, in the order in which they are printed.
    pub const ALL: [Self; 8] = [
        Self::Rows,
        Self::Duplicates,
        Self::Letters,
        Self::Invented,
        Self::Swap,
        Self::Drained,
        Self::Sums,
        Self::Ending,
    ];

    /// Returns what must hold, for people.
    #[must_use]
    pub fn claim(self) -> &'static str {
        match self {
            Self::Rows => "every accepted event is in the table, each column as it was sent",
            Self::Duplicates => "every event that was sent again is there once all the same",
            Self::Letters => "every refused entry is a dead letter, reasons and fields right",
            Self::Invented => "there is no row and no dead letter that nobody sent",
            Self::Swap => "every entry was judged once, by one version; there was one swap",
            Self::Drained => "nothing is left in the stream: lag 0, pending 0",
            Self::Sums => "the five ways to end add up; the service's log and CSV agree",
            Self::Ending => "the service ended in order, in time, with exit code 0",
        }
    }
}

impl Discrepancy {
    /// Returns the check that the discrepancy fails.
    #[must_use]
    pub fn check(&self) -> Check {
        match self {
            Self::Lost { .. } | Self::Changed { .. } => Check::Rows,
            Self::Doubled { sent: 2.., .. } => Check::Duplicates,
            Self::Doubled { .. } => Check::Rows,
            Self::MissingLetter { .. }
            | Self::WrongLetter { .. }
            | Self::WronglyRefused { .. }
            | Self::DoubledLetter { .. } => Check::Letters,
            Self::InventedRow { .. } | Self::InventedLetter { .. } | Self::UnknownRules { .. } => {
                Check::Invented
            }
            Self::BothWays { .. } | Self::OutOfOrder { .. } | Self::NeverSwapped => Check::Swap,
            Self::NotDrained { .. } => Check::Drained,
            Self::Sum { .. } => Check::Sums,
            Self::Ending { .. } => Check::Ending,
        }
    }
}

/// Counts all discrepancies of one check, and keeps the first ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub count: u64,
    pub first: Vec<Discrepancy>,
}

impl Found {
    const KEPT: usize = 20;

    pub(super) fn add(&mut self, discrepancy: Discrepancy) {
        self.count += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(discrepancy);
        }
    }
}

/// Counts how often each of several names came up.
pub type Counts = BTreeMap<String, u64>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Holds what does not add up, and is empty when everything does.
    pub discrepancies: BTreeMap<Check, Found>,
    /// Counts the entries that Redis took.
    pub produced: u64,
    /// Counts the entries that Redis may have taken besides.
    pub unanswered: u64,
    /// Counts the different valid events among the entries.
    pub events: u64,
    /// Counts the entries whose event an earlier entry had carried.
    pub copies: u64,
    pub invalid: u64,
    /// Counts the entries that were given up because they were delivered too often, if that may be.
    pub given_up: u64,
    pub rows: u64,
    /// Counts the dead letters by reason.
    pub letters: Counts,
    /// Counts the violations of the dead letters by code, and then by path.
    pub codes: BTreeMap<String, Counts>,
    /// Counts the dead letters by version: default, strict.
    pub letters_by_version: [u64; 2],
    /// Counts the events that the strict rules discard: stored, and not stored.
    pub discardable: [u64; 2],
    /// Counts the events that the strict rules reject: stored, and not stored.
    pub rejectable: [u64; 2],
    /// Counts entries discarded for certain, and copies of stored events that may have been.
    pub discarded: [u64; 2],
    /// Names the last entry that the default rules judged for certain.
    pub last_default: Option<EntryId>,
    /// Names the first entry that the strict rules judged for certain.
    pub first_strict: Option<EntryId>,
}

impl Report {
    pub fn add(&mut self, discrepancy: Discrepancy) {
        self.discrepancies.entry(discrepancy.check()).or_default().add(discrepancy);
    }

    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.discrepancies.is_empty()
    }

    #[must_use]
    pub fn all_letters(&self) -> u64 {
        self.letters.values().sum()
    }

    pub(super) fn judged_by_default(&mut self, entry: EntryId) {
        self.last_default = self.last_default.max(Some(entry));
    }

    pub(super) fn judged_by_strict(&mut self, entry: EntryId) {
        self.first_strict = Some(self.first_strict.map_or(entry, |first| first.min(entry)));
    }

    /// Counts an event that the versions treat differently.
    pub(super) fn note(&mut self, strict: &Strict, stored: bool, entries: u64) {
        let [certain, possible] = &mut self.discarded;
        let ways = match strict {
            Strict::Accept => return,
            Strict::Reject(_) => &mut self.rejectable,
            Strict::Discard => {
                if stored {
                    *possible += entries - 1;
                } else {
                    *certain += entries;
                }
                &mut self.discardable
            }
        };
        let [in_table, elsewhere] = ways;
        *(if stored { in_table } else { elsewhere }) += 1;
    }

    /// Checks that the rules changed at one moment, between two entries. The service must have read
    /// everything once and in order, and its rules must have been replaced once.
    pub fn check_swap(&mut self) {
        match (self.first_strict, self.last_default) {
            (None, _) => self.add(Discrepancy::NeverSwapped),
            (Some(early), Some(late)) if early <= late => self.add(Discrepancy::OutOfOrder { early, late }),
            _ => {}
        }
    }

    /// Checks that nothing is left to read or to acknowledge.
    pub fn check_group(&mut self, group: GroupStats) {
        let lag = group.lag.map_or("unknown".to_owned(), |lag| lag.to_string());
        for (what, found) in [("the lag", lag), ("pending", group.pending.to_string())] {
            if found != "0" {
                self.add(Discrepancy::NotDrained { what, found });
            }
        }
    }

    /// Checks the counters of a service that ran from the first entry to the last.
    pub fn check_counters(&mut self, tally: Tally) {
        let rejected = self.letters.get("rejected").copied().unwrap_or(0);
        let [certain, possible] = self.discarded;
        let duplicates_at_least = self.copies.saturating_sub(certain + possible + rejected);
        let any = self.unanswered;
        for (what, found, least, most) in [
            ("entries stored, by the service", tally.stored, self.rows, self.rows),
            ("entries rejected, by the service", tally.rejected, rejected, rejected),
            (
                "entries dead-lettered, by the service",
                tally.dead_lettered,
                self.all_letters() - rejected,
                self.all_letters() - rejected,
            ),
            ("entries discarded, by the service", tally.discarded, certain, certain + possible + any),
            ("duplicates, by the service", tally.duplicate, duplicates_at_least, self.copies + any),
            ("all entries, by the service", tally.total(), self.produced, self.produced + any),
        ] {
            self.check_sum(what, found, least, most);
        }
    }

    /// Checks that `found` is not less than `least` and not more than `most`.
    pub fn check_sum(&mut self, what: &'static str, found: u64, least: u64, most: u64) {
        if !(least..=most).contains(&found) {
            let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
            self.add(Discrepancy::Sum { what, found: found.to_string(), wanted });
        }
    }
}
