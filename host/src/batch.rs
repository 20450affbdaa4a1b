//! Defines what the pipeline knows of the entries it has judged: by which version, and how they ended.

use std::fmt;

use chrono::{DateTime, Utc};
use enum_map::{Enum, EnumMap};
use sha2::{Digest as _, Sha256};
use sluicegate_verdicts::{Entry, Event, Outcome, Reason};
use strum::{EnumString, IntoStaticStr};
use uuid::Uuid;

use crate::text::{first_digits, hex};

/// How an entry ended, as it is counted and told.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Enum, IntoStaticStr, EnumString, serde::Serialize, utoipa::ToSchema,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// At least one row was new.
    Stored,
    /// All rows were there already.
    Duplicate,
    /// It became a dead letter by the guest's verdict.
    Rejected,
    /// It was dropped by the guest's verdict.
    Discarded,
    /// It became a dead letter for any other reason.
    DeadLettered,
}

impl Ended {
    /// Returns how an entry ends, unless that depends on the rows that are there already.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Store(_) => None,
            Outcome::DeadLetter(reason, _) => Some((*reason).into()),
            Outcome::Discard(_) => Some(Self::Discarded),
        }
    }
}

impl From<Reason> for Ended {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Rejected => Self::Rejected,
            _ => Self::DeadLettered,
        }
    }
}

/// An entry and what is to become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The entry as it was delivered.
    pub entry: Entry,
    pub outcome: Outcome,
    /// The version of the rules that decided.
    pub version: Version,
}

impl Judged {
    /// Returns the keys of the entry's rows.
    pub fn keys(&self) -> impl Iterator<Item = (Uuid, DateTime<Utc>)> {
        let events = match &self.outcome {
            Outcome::Store(events) => events.as_slice(),
            Outcome::DeadLetter(..) | Outcome::Discard(_) => &[],
        };
        events.iter().map(Event::key)
    }
}

/// Names a version of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The SHA-256 of the version's manifest: of all that decides.
    pub digest: Digest,
    /// The SHA-256 of the component alone.
    pub component: Digest,
    /// The number of the version's row in the database, if it is recorded there.
    pub number: Option<i32>,
}

impl Version {
    /// Names rules that are nothing but a component.
    pub fn of_component(component: Digest) -> Self {
        Self { digest: component, component, number: None }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest.fmt(f)
    }
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn new(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the digest with these bytes, which the database keeps.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns all hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

/// Makes the digest of bytes that come piece by piece.
#[derive(Default)]
pub struct Digester(Sha256);

impl Digester {
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all that was added.
    pub fn digest(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Writes the first 12 hexadecimal digits, which are enough for a log line.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&first_digits(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// How the entries of a batch ended. The five counts add up to the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries with at least one new row.
    pub stored: u64,
    /// Entries whose rows were all there already.
    pub duplicate: u64,
    /// Dead letters by the guest's verdict.
    pub rejected: u64,
    /// Entries dropped by the guest's verdict.
    pub discarded: u64,
    /// Dead letters for any other reason.
    pub dead_lettered: u64,
}

impl Tally {
    /// Returns each way to end with its count.
    pub fn outcomes(&self) -> [(&'static str, u64); 5] {
        [
            ("stored", self.stored),
            ("duplicate", self.duplicate),
            ("rejected", self.rejected),
            ("discarded", self.discarded),
            ("dead_lettered", self.dead_lettered),
        ]
    }

    /// Returns how many entries ended in this way.
    pub fn of(&self, ended: Ended) -> u64 {
        match ended {
            Ended::Stored => self.stored,
            Ended::Duplicate => self.duplicate,
            Ended::Rejected => self.rejected,
            Ended::Discarded => self.discarded,
            Ended::DeadLettered => self.dead_lettered,
        }
    }

    /// Counts an entry that ended in this way.
    pub fn count(&mut self, ended: Ended) {
        let count = match ended {
            Ended::Stored => &mut self.stored,
            Ended::Duplicate => &mut self.duplicate,
            Ended::Rejected => &mut self.rejected,
            Ended::Discarded => &mut self.discarded,
            Ended::DeadLettered => &mut self.dead_lettered,
        };
        *count += 1;
    }

    pub fn total(&self) -> u64 {
        self.stored + self.duplicate + self.rejected + self.discarded + self.dead_lettered
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.rejected += other.rejected;
        self.discarded += other.discarded;
        self.dead_lettered += other.dead_lettered;
    }
}

/// How often the rules broke the contract, by the kind of breach. There are calls that gave no
/// verdicts, each of which ended an instance, and verdicts that could not be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaches(EnumMap<Reason, u64>);

impl Breaches {
    /// Counts a breach, unless the reason is none.
    pub fn count(&mut self, reason: Reason) {
        if reason.is_breach() {
            self.0[reason] += 1;
        }
    }

    /// Returns each kind with its number, those that there were not too.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0
            .into_iter()
            .filter(|(reason, _)| reason.is_breach())
            .map(|(reason, count)| (reason.as_str(), count))
    }

    /// Returns the number of breaches of this kind.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason]
    }

    /// Returns whether there were none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Breaches {
    fn add_assign(&mut self, other: Self) {
        for (reason, count) in other.0 {
            self.0[reason] += count;
        }
    }
}

/// Writes the sum, and then the kinds that there were: `3 trapped=2 timed_out=1`.
impl fmt::Display for Breaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.values().sum::<u64>())?;
        let mut some = self.0.into_iter().filter(|(_, count)| *count > 0);
        some.try_for_each(|(reason, count)| write!(f, " {}={count}", reason.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaches_are_counted_by_their_kind() {
        let mut breaches = Breaches::default();
        for reason in [Reason::TimedOut, Reason::Trapped, Reason::Trapped, Reason::Rejected] {
            breaches.count(reason);
        }
        assert_eq!(breaches.to_string(), "3 trapped=2 timed_out=1");
    }

    #[test]
    fn a_digest_is_named_by_its_first_twelve_digits() {
        assert_eq!(Digest::new(b"").to_string(), "e3b0c44298fc");
    }
}
