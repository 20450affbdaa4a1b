//! Reads times. The contract wants microseconds since the Unix epoch.

use std::fmt;

use chrono::{DateTime, Timelike as _};

use crate::quote;

/// The unit of a number that tells a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As Python's `time.time()` and `date +%s`.
    Seconds,
    /// As JavaScript's `Date.now()`.
    Milliseconds,
    /// As the contract.
    Microseconds,
}

impl Unit {
    const ALL: [Self; 3] = [Self::Seconds, Self::Milliseconds, Self::Microseconds];

    const fn micros(self) -> i64 {
        match self {
            Self::Seconds => 1_000_000,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Microseconds => "microseconds",
        }
    }
}

/// Why there is no time. The text says what was found and what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeError(String);

impl fmt::Display for TimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimeError {}

/// Returns the microseconds since the Unix epoch of a text in RFC 3339 with an offset.
///
/// What is finer is cut off, towards the past, so that no event moves into the next second. A leap second, `:60`, is the
/// first second of the next minute, as in PostgreSQL.
///
/// ```
/// assert_eq!(sluicegate_kit::times::rfc3339("2026-01-18T23:17:34.827+01:00"), Ok(1_768_774_654_827_000));
/// ```
///
/// # Errors
///
/// What is wrong with the text.
pub fn rfc3339(text: &str) -> Result<i64, TimeError> {
    let refusal = |why: &dyn fmt::Display| {
        TimeError(format!(
            "found {}, expected RFC 3339 with an offset such as `2026-01-18T22:17:34.827Z` ({why})",
            quote(text)
        ))
    };
    // chrono accepts more: a space or an underscore for the `T`, U+2212 for the minus.
    if !text.is_ascii() || !matches!(text.as_bytes().get(10), None | Some(b'T' | b't')) {
        return Err(refusal(&"input contains invalid characters"));
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|error| refusal(&error))?;
    let is_leap_second = time.timestamp_subsec_nanos() >= 1_000_000_000;
    let utc = time.naive_utc().time();
    if is_leap_second && (utc.hour(), utc.minute()) != (23, 59) {
        return Err(refusal(&"a leap second is the last of a day in UTC"));
    }
    Ok(time.timestamp_micros())
}

/// Returns the microseconds since the Unix epoch of a number in this unit. A number that looks like another unit is refused: an
/// event of 1970 that was meant to be of today would be stored, and nobody would find it.
///
/// ```
/// use sluicegate_kit::times::{Unit, epoch};
///
/// assert_eq!(epoch(1_768_774_654_827, Unit::Milliseconds), Ok(1_768_774_654_827_000));
/// let wrong = epoch(1_768_774_654_827, Unit::Microseconds).unwrap_err().to_string();
/// assert_eq!(wrong, "found `1768774654827`, expected microseconds since 1970; it looks like milliseconds");
/// ```
///
/// # Errors
///
/// The unit that the number looks like, or that no time is so far away.
pub fn epoch(number: i64, unit: Unit) -> Result<i64, TimeError> {
    /// The years 1990 to 2099. A number that is in them by one unit is in them by no other.
    const USUAL: std::ops::Range<i64> = 631_152_000_000_000..4_102_444_800_000_000;
    let time = |unit: Unit| number.checked_mul(unit.micros());
    let is_usual = |unit: &Unit| time(*unit).is_some_and(|time| USUAL.contains(&time));
    let refusal = |why: &dyn fmt::Display| {
        TimeError(format!("found `{number}`, expected {} since 1970; {why}", unit.name()))
    };
    let other = if is_usual(&unit) { None } else { Unit::ALL.into_iter().find(is_usual) };
    match (time(unit), other) {
        (_, Some(other)) => Err(refusal(&format_args!("it looks like {}", other.name()))),
        (Some(time), None) => Ok(time),
        (None, None) => Err(refusal(&"no time is so far away")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_another_unit_is_refused() {
        // 1990, now, 2099
        for seconds in [631_152_000_i64, 1_768_774_654, 4_102_444_799] {
            for (number, unit) in [
                (seconds, Unit::Seconds),
                (seconds * 1_000, Unit::Milliseconds),
                (seconds * 1_000_000, Unit::Microseconds),
            ] {
                assert_eq!(epoch(number, unit), Ok(seconds * 1_000_000), "{number}");
                for other in Unit::ALL.into_iter().filter(|other| *other != unit) {
                    let told = epoch(number, other).unwrap_err().to_string();
                    assert!(told.ends_with(&format!("it looks like {}", unit.name())), "{told}");
                }
            }
        }
    }

    #[test]
    fn what_is_unusual_by_every_unit_is_left_to_the_service() {
        for (number, time) in [(0, 0), (-1, -1_000), (5_000, 5_000_000)] {
            assert_eq!(epoch(number, Unit::Milliseconds), Ok(time));
        }
        assert!(epoch(i64::MAX, Unit::Seconds).unwrap_err().to_string().contains("so far away"));
    }
}
