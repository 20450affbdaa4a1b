//! Defines what flows through the pipeline: entries, verdicts and outcomes. It is data without I/O.

use std::fmt;

use chrono::{DateTime, Utc};
use enum_map::{Enum, EnumMap};
use sha2::{Digest as _, Sha256};
use strum::{EnumString, IntoStaticStr};
use uuid::Uuid;

use crate::text::{first_digits, hex};

/// The ID that Redis gave a stream entry: `<milliseconds>-<sequence>`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch.
    pub milliseconds: u64,
    /// Distinguishes the entries of one millisecond.
    pub sequence: u64,
}

impl EntryId {
    /// Smaller than the ID of any entry that Redis can hold.
    pub const ZERO: Self = Self { milliseconds: 0, sequence: 0 };

    /// Reads the text form, or returns `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (milliseconds, sequence) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { milliseconds: milliseconds.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

/// The name and the value of a field: any bytes that Redis can hold.
pub type Field = (Vec<u8>, Vec<u8>);

/// One stream entry, as Redis delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's ID, unique in the stream.
    pub id: EntryId,
    /// The fields, in the order of the producer. `None` when the entry was deleted from the stream
    /// while it was pending: its content is lost.
    pub fields: Option<Vec<Field>>,
    /// How often the entry was delivered, this time included, without the times that ended while
    /// the rules were not being asked about it: see `stream/attempts.rs`.
    pub deliveries: u64,
}

/// What a guest returns: what it wants to become of an entry, not yet checked.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Verdict {
    /// Stores one row.
    Accept(UncheckedEvent),
    /// Stores several rows, all or none.
    Expand(#[serde(deserialize_with = "crate::bounded::list")] Vec<UncheckedEvent>),
    /// Keeps the entry as a dead letter.
    Reject(#[serde(deserialize_with = "crate::bounded::list")] Vec<Violation>),
    /// Drops the entry on purpose.
    Discard(String),
}

/// A row as a guest hands it over: hostile input until `validate` has seen it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UncheckedEvent {
    /// A UUID in text form.
    pub event_id: String,
    /// Microseconds since the Unix epoch.
    pub time: i64,
    pub event_type: String,
    pub user_id: String,
    /// A JSON object in text form.
    pub properties: Option<String>,
}

/// A row that PostgreSQL can hold. Only `validate` makes one of an unchecked event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key of the row, together with `time`.
    pub event_id: Uuid,
    /// When the event happened, to the microsecond.
    pub time: DateTime<Utc>,
    /// Text without NUL.
    pub event_type: String,
    /// Text without NUL.
    pub user_id: String,
    /// A JSON object that `jsonb` can hold.
    pub properties: Option<String>,
}

impl Event {
    /// Returns the row's key. Concurrent batches lock rows in this order, and cannot deadlock.
    pub fn key(&self) -> (Uuid, DateTime<Utc>) {
        (self.event_id, self.time)
    }

    /// Returns the bytes that it takes.
    pub fn bytes(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.event_type.len() + self.user_id.len() + properties
    }
}

/// One reason why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// The place in the entry, empty for the whole of it.
    pub path: String,
    /// A short, stable name for programs.
    pub code: String,
    /// A message for people.
    pub message: String,
}

/// Why an entry became a dead letter. The table `dead_letters`, logs and metrics have the name of
/// the variant in `snake_case`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The guest rejected the entry.
    Rejected,
    /// A field is not UTF-8, which the guest cannot be given.
    Undecodable,
    /// The entry was deleted from the stream while it was pending: its content is lost.
    Deleted,
    /// The entry was delivered too often without an end: whoever reads it may die of it.
    DeliveredTooOften,
    /// The guest's verdict does not keep the contract.
    BadVerdict,
    Trapped,
    /// The process in which the guest ran ended.
    Crashed,
    /// The guest overstepped its time limit.
    TimedOut,
    /// The guest overstepped its memory limit.
    OutOfMemory,
    /// The guest executed more instructions than it may.
    OutOfFuel,
    /// The guest overstepped its stack's limit.
    OutOfStack,
    /// The guest held more resources than it may.
    OutOfHandles,
    /// The guest's tables became larger than they may.
    TooManyElements,
    /// The guest handed over more than it may.
    TooMuchOutput,
    /// PostgreSQL refused the row.
    Refused,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns every reason that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        EnumMap::<Self, ()>::default().into_iter().map(|(reason, ())| reason)
    }

    /// Returns whether the rules broke the contract or a limit.
    fn is_breach(self) -> bool {
        match self {
            Self::Trapped
            | Self::Crashed
            | Self::TimedOut
            | Self::OutOfMemory
            | Self::OutOfFuel
            | Self::OutOfStack
            | Self::OutOfHandles
            | Self::TooManyElements
            | Self::TooMuchOutput
            | Self::BadVerdict => true,
            Self::Rejected | Self::Undecodable | Self::Deleted | Self::DeliveredTooOften | Self::Refused => {
                false
            }
        }
    }
}

/// The one way in which an entry ends (invariant 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The entry's rows are stored, or are there already.
    Store(Vec1<Event>),
    /// The entry is kept with the reasons.
    DeadLetter(Reason, Vec<Violation>),
    /// The entry is dropped, for the reason that the guest gave.
    Discard(String),
}

impl Outcome {
    /// Returns how the entry ends, unless that depends on the rows that are there already.
    pub fn ended(&self) -> Option<Ended> {
        match self {
            Self::Store(_) => None,
            Self::DeadLetter(reason, _) => Some((*reason).into()),
            Self::Discard(_) => Some(Ended::Discarded),
        }
    }
}

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

impl From<Reason> for Ended {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Rejected => Self::Rejected,
            _ => Self::DeadLettered,
        }
    }
}

/// One item, mostly, and never none. It saves an allocation for each entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vec1<T> {
    /// Exactly one.
    One(T),
    /// One or more.
    Many(Vec<T>),
}

impl<T> Vec1<T> {
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
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
    fn entry_ids_read_what_they_write() {
        let id = EntryId { milliseconds: 1_768_689_000_123, sequence: 7 };
        assert_eq!(EntryId::parse(id.to_string().as_bytes()), Some(id));
        for bad in ["", "1", "1-", "-1", "a-b", "1-2-3", "18446744073709551616-0"] {
            assert_eq!(EntryId::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_entry_id_is_read_back_in_order(a: (u64, u64), b: (u64, u64)) {
            let [a, b] = [a, b].map(|(milliseconds, sequence)| EntryId { milliseconds, sequence });
            assert_eq!(EntryId::parse(a.to_string().as_bytes()), Some(a));
            assert_eq!(a < b, (a.milliseconds, a.sequence) < (b.milliseconds, b.sequence));
            assert!(a >= EntryId::ZERO);
        }

        #[test]
        fn no_bytes_make_an_entry_id_panic(bytes: Vec<u8>) {
            let _ = EntryId::parse(&bytes);
        }
    }

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
