//! Reads `timestamptz` values as PostgreSQL sends them, without a panic.
//!
//! sqlx's own conversion to chrono adds to a date without a look at the result: `infinity`, or a
//! year that chrono does not have, ends the task that reads it.

use chrono::{DateTime, Utc};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::{Decode, Postgres, Type};

/// The microseconds from the Unix epoch to the epoch of PostgreSQL, 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A finite `timestamptz`, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamp(pub(super) i64);

/// Why a value of the type cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTimestamp {
    #[error("found infinity, wanted a time")]
    Infinity,
    #[error("found -infinity, wanted a time")]
    MinusInfinity,
    #[error("found a time that is too far away; wanted one within some 260,000 years")]
    TooFar,
}

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match <i64 as Decode<Postgres>>::decode(value)? {
            i64::MAX => Err(NoTimestamp::Infinity.into()),
            i64::MIN => Err(NoTimestamp::MinusInfinity.into()),
            micros => Ok(Self(micros.checked_add(POSTGRES_EPOCH_MICROS).ok_or(NoTimestamp::TooFar)?)),
        }
    }
}

impl TryFrom<Timestamp> for DateTime<Utc> {
    type Error = NoTimestamp;

    fn try_from(Timestamp(micros): Timestamp) -> Result<Self, NoTimestamp> {
        DateTime::from_timestamp_micros(micros).ok_or(NoTimestamp::TooFar)
    }
}
