//! How calls of the rules end that give no verdicts.

use serde::{Deserialize, Serialize};

use crate::capabilities::Lost;
use crate::text::printable;
use sluicegate_verdicts::Reason;

/// The characters of a fault's text that are told.
const MAX_FAULT_CHARS: usize = 4_000;

/// How a call ended that gave no verdicts. The entries are unharmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Fault {
    /// A trap: a panic, a division by zero, a stack overflow, a breach of the contract's types.
    #[error("the guest trapped: {0}")]
    Trapped(String),
    /// The process in which the rules ran ended, or was ended because it could not be understood.
    #[error("the guest's process ended: {0}")]
    Crashed(String),
    #[error("the guest took longer than {limit_ms} ms (GUEST_TIME_LIMIT){place}")]
    TimedOut {
        /// `GUEST_TIME_LIMIT`, or a share of it.
        limit_ms: u128,
        /// The functions in which the guest was, if they are known.
        place: String,
    },
    #[error("the guest wanted more than {limit_bytes} bytes of memory (GUEST_MEMORY){place}")]
    OutOfMemory {
        /// `GUEST_MEMORY`.
        limit_bytes: usize,
        /// As above.
        place: String,
    },
    #[error("the guest took more than {limit_bytes} bytes of stack (GUEST_STACK)")]
    OutOfStack {
        /// `GUEST_STACK`.
        limit_bytes: usize,
    },
    /// The limit of resources that it holds.
    #[error("the guest wanted more than {limit} handles (GUEST_HANDLES)")]
    OutOfHandles {
        /// `GUEST_HANDLES`.
        limit: usize,
    },
    /// The limit of the elements of its tables.
    #[error("the guest wanted more than {limit} table elements (GUEST_TABLE_ELEMENTS)")]
    TooManyElements {
        /// `GUEST_TABLE_ELEMENTS`.
        limit: usize,
    },
    /// Nothing of theirs: the transaction that they used is over.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The limit of instructions.
    #[error("the guest took more than {limit} fuel (GUEST_FUEL), about an instruction each")]
    OutOfFuel {
        /// `GUEST_FUEL`.
        limit: u64,
    },
    /// More than the host takes in one call.
    #[error("the guest handed over more than {limit_bytes} bytes (GUEST_OUTPUT)")]
    TooMuchOutput {
        /// `GUEST_OUTPUT`.
        limit_bytes: usize,
    },
    /// Too many or too few verdicts: nobody can tell which belongs to which entry.
    #[error(
        "the guest returned another number of verdicts: found {found}, wanted {wanted}, one for each entry"
    )]
    WrongCount {
        found: usize,
        /// The entries in the batch.
        wanted: usize,
    },
}

impl Fault {
    /// The reason of the dead letter that an entry becomes by this.
    pub fn reason(&self) -> Reason {
        match self {
            // A lost transaction is nobody's: nothing is decided then.
            Self::Trapped(_) | Self::Lost(_) => Reason::Trapped,
            Self::Crashed(_) => Reason::Crashed,
            Self::TimedOut { .. } => Reason::TimedOut,
            Self::OutOfMemory { .. } => Reason::OutOfMemory,
            Self::OutOfFuel { .. } => Reason::OutOfFuel,
            Self::OutOfStack { .. } => Reason::OutOfStack,
            Self::OutOfHandles { .. } => Reason::OutOfHandles,
            Self::TooManyElements { .. } => Reason::TooManyElements,
            Self::TooMuchOutput { .. } => Reason::TooMuchOutput,
            Self::WrongCount { .. } => Reason::BadVerdict,
        }
    }

    /// Whether entries may be too much together of which each is fine alone.
    pub(super) fn may_be_of_many(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::OutOfMemory { .. }
            | Self::OutOfFuel { .. }
            | Self::OutOfHandles { .. }
            | Self::TooManyElements { .. }
            | Self::TooMuchOutput { .. } => true,
            Self::Trapped(_)
            | Self::Crashed(_)
            | Self::OutOfStack { .. }
            | Self::WrongCount { .. }
            | Self::Lost(_) => false,
        }
    }

    /// The same, safe for logs and terminals, whoever made it.
    #[must_use]
    pub fn printable(self) -> Self {
        // As much as a dead letter shows, and more.
        let text = |text: String| {
            let text: String = text.chars().take(MAX_FAULT_CHARS).collect();
            printable(&text).into_owned()
        };
        match self {
            Self::Trapped(why) => Self::Trapped(text(why)),
            Self::Crashed(how) => Self::Crashed(text(how)),
            Self::TimedOut { limit_ms, place } => Self::TimedOut { limit_ms, place: text(place) },
            Self::OutOfMemory { limit_bytes, place } => Self::OutOfMemory { limit_bytes, place: text(place) },
            fault => fault,
        }
    }
}
