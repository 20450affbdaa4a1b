//! What an audit finds.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::generator::Strict;
use sluicegate::batch::{EntryId, Tally};
use sluicegate::stream::GroupStats;

/// Something that does not add up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discrepancy {
    /// A valid event is nowhere.
    #[error("the event {event} (entry {entry}) is not in the table")]
    Lost {
        /// Its ID.
        event: Uuid,
        /// The first entry that carried it.
        entry: EntryId,
    },
    /// An event has more than one row.
    #[error("the event {event} is in the table more than once; it was sent {sent} times")]
    Doubled {
        /// Its ID.
        event: Uuid,
        /// How many entries carried it.
        sent: usize,
    },
    /// A column is not what was sent.
    #[error("the event {event} has {column} {found}; sent was {sent}")]
    Changed {
        /// Its ID.
        event: Uuid,
        column: &'static str,
        found: String,
        /// What it should be.
        sent: String,
    },
    /// A row that nobody sent.
    #[error("the row of the event {event} was never sent")]
    InventedRow {
        /// Its ID.
        event: Uuid,
    },
    /// An invalid entry is nowhere.
    #[error("the invalid entry {entry} is not among the dead letters; wanted {wanted}")]
    MissingLetter {
        entry: EntryId,
        /// The reason and the violations that it should have.
        wanted: String,
    },
    /// A dead letter does not say what is wrong with its entry.
    #[error("the dead letter of the entry {entry} has {what} {found}; wanted {wanted}")]
    WrongLetter {
        entry: EntryId,
        /// What is wrong in it.
        what: &'static str,
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// A valid event's entry became a dead letter.
    #[error("the entry {entry} is valid, but a dead letter: {found}")]
    WronglyRefused {
        entry: EntryId,
        /// The letter's reason and violations.
        found: String,
    },
    /// A dead letter that nobody sent the entry of.
    #[error("the dead letter of the entry {entry} is of an entry that was never sent")]
    InventedLetter {
        /// As it stands in the table.
        entry: String,
    },
    /// An entry has two dead letters.
    #[error("the entry {entry} has more than one dead letter")]
    DoubledLetter { entry: EntryId },
    /// Judged by rules that were never in force.
    #[error("the dead letter of the entry {entry} names the component {found}, which was never in force")]
    UnknownRules {
        entry: EntryId,
        /// The beginning of the digest.
        found: String,
    },
    /// Stored by one version and refused by the other.
    #[error("the event {event} is in the table, and each of its entries is a dead letter too")]
    BothWays {
        /// Its ID.
        event: Uuid,
    },
    /// The old rules came back.
    #[error("the entry {late} was judged by the old rules, after {early} had been judged by the new ones")]
    OutOfOrder {
        /// Judged by the new rules.
        early: EntryId,
        /// Judged by the old rules.
        late: EntryId,
    },
    #[error("no entry shows that the new rules were ever in force")]
    NeverSwapped,
    /// Something is left in the stream.
    #[error("{what} is {found} at the end; wanted 0")]
    NotDrained {
        /// `lag` or `pending`.
        what: &'static str,
        found: String,
    },
    /// The service did not end as it should.
    #[error("{found}; wanted {wanted}")]
    Ending {
        found: String,
        /// How it should end.
        wanted: String,
    },
    /// A counter does not fit.
    #[error("{what}: {found}; wanted {wanted}")]
    Sum {
        /// Whose number of what.
        what: &'static str,
        found: String,
        /// What it should be.
        wanted: String,
    },
}

/// A line of the ledger: what must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Every valid event is stored, unchanged.
    Rows,
    /// What was sent again added nothing.
    Duplicates,
    /// Every invalid entry is a dead letter that says why.
    Letters,
    /// Nothing is there that was not sent.
    Invented,
    /// One version judged each entry, and there was one swap.
    Swap,
    /// Nothing is left in the stream.
    Drained,
    Sums,
    /// The service ended in order.
    Ending,
}

impl Check {
    /// All, in the order in which they are told.
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

    /// What must hold, for people.
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
    /// The check that it fails.
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

/// The discrepancies of one check: all counted, the first ones kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many there are.
    pub count: u64,
    /// The first of them.
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

/// How often each of several names came up.
pub type Counts = BTreeMap<String, u64>;

/// All that an audit tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What does not add up. Empty when everything does.
    pub discrepancies: BTreeMap<Check, Found>,
    /// Entries that Redis took.
    pub produced: u64,
    /// Entries that it may have taken besides.
    pub unanswered: u64,
    /// Different valid events among them.
    pub events: u64,
    /// Entries that carried an event that an earlier one had carried.
    pub copies: u64,
    pub invalid: u64,
    /// Entries that were given up because they were delivered too often, where that may be.
    pub given_up: u64,
    /// Rows.
    pub rows: u64,
    /// Dead letters by reason.
    pub letters: Counts,
    /// Violations of the dead letters by code, and then by path.
    pub codes: BTreeMap<String, Counts>,
    /// Dead letters by version: default, strict.
    pub letters_by_version: [u64; 2],
    /// Events that the strict rules discard: stored, and not stored.
    pub discardable: [u64; 2],
    /// Events that the strict rules reject: stored, and not stored.
    pub rejectable: [u64; 2],
    /// Entries that were discarded for certain, and those besides that may have been: copies of stored events.
    pub discarded: [u64; 2],
    /// The last entry that was judged by the default rules for certain.
    pub last_default: Option<EntryId>,
    /// The first entry that was judged by the strict rules for certain.
    pub first_strict: Option<EntryId>,
}

impl Report {
    pub fn add(&mut self, discrepancy: Discrepancy) {
        self.discrepancies.entry(discrepancy.check()).or_default().add(discrepancy);
    }

    /// Whether everything adds up.
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

    /// For a service that read everything once and in order, and whose rules were replaced once: there was one moment
    /// between two entries at which the rules changed.
    pub fn check_swap(&mut self) {
        match (self.first_strict, self.last_default) {
            (None, _) => self.add(Discrepancy::NeverSwapped),
            (Some(early), Some(late)) if early <= late => self.add(Discrepancy::OutOfOrder { early, late }),
            _ => {}
        }
    }

    /// Nothing is left.
    pub fn check_group(&mut self, group: GroupStats) {
        let lag = group.lag.map_or("unknown".to_owned(), |lag| lag.to_string());
        for (what, found) in [("the lag", lag), ("pending", group.pending.to_string())] {
            if found != "0" {
                self.add(Discrepancy::NotDrained { what, found });
            }
        }
    }

    /// The counters of a service that ran from the first entry to the last.
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

    /// A number, and what it may be.
    pub fn check_sum(&mut self, what: &'static str, found: u64, least: u64, most: u64) {
        if !(least..=most).contains(&found) {
            let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
            self.add(Discrepancy::Sum { what, found: found.to_string(), wanted });
        }
    }
}
