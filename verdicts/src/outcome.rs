//! What comes of an entry, once its verdict is checked.

use chrono::{DateTime, Utc};
use enum_map::{Enum, EnumMap};
use strum::IntoStaticStr;
use uuid::Uuid;

use crate::verdict::Violation;

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
    pub fn is_breach(self) -> bool {
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
