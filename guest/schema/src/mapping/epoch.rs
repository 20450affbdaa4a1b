//! Writes numbers that count the time since 1970 as RFC 3339, digit by digit: a fraction has no error of floating point.

use chrono::{DateTime, SecondsFormat};

/// The first microsecond of the year 1, and the last one of the year 9999: RFC 3339 has four digits for a year.
const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
/// Has as many digits as there are in the microseconds of `YEARS`, at most.
const MAX_DIGITS: i64 = 18;

/// Is what a number counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Unit {
    pub(crate) const ALL: [Self; 4] =
        [Self::Seconds, Self::Milliseconds, Self::Microseconds, Self::Nanoseconds];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Microseconds => "microseconds",
            Self::Nanoseconds => "nanoseconds",
        }
    }

    /// Returns how many digits the point moves to the right to count microseconds.
    const fn digits(self) -> i64 {
        match self {
            Self::Seconds => 6,
            Self::Milliseconds => 3,
            Self::Microseconds => 0,
            Self::Nanoseconds => -3,
        }
    }
}

/// Returns the time in UTC, with as many digits of a second as it has, six at most. Returns `None` for what is no number of
/// JSON, or is of no year that RFC 3339 can tell.
pub(crate) fn rfc3339(json: &str, unit: Unit) -> Option<String> {
    let micros = micros(json, unit).filter(|micros| YEARS.contains(micros))?;
    let text = DateTime::from_timestamp_micros(micros)?.to_rfc3339_opts(SecondsFormat::Micros, true);
    let digits = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    Some(format!("{digits}Z"))
}

/// Returns the microseconds. What is finer is cut off towards the past, as it is where a text is read.
fn micros(json: &str, unit: Unit) -> Option<i64> {
    let (is_negative, number) = match json.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, json),
    };
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // An exponent that no integer holds moves the point beyond all digits, to one side or the other.
    let exponent = exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
    let len = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
    let moved = exponent.saturating_add(unit.digits()).saturating_sub(len(fraction));
    // Is how many of the digits are before the point.
    let before = len(significant).saturating_add(moved);
    if before > MAX_DIGITS {
        return None;
    }
    let before = usize::try_from(before).unwrap_or(0);
    let (kept, cut) = significant.split_at(before.min(significant.len()));
    let kept = format!("0{kept:0<before$}").parse::<i64>().ok()?;
    Some(match (is_negative, cut.bytes().all(|digit| digit == b'0')) {
        (false, _) => kept,
        (true, true) => -kept,
        (true, false) => -kept - 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unit: Unit, times: &[(&str, &str)]) {
        for (number, time) in times {
            assert_eq!(rfc3339(number, unit).as_deref(), Some(*time), "{number} {}", unit.name());
        }
    }

    #[test]
    fn each_unit_counts_the_time_since_1970() {
        for unit in Unit::ALL {
            check(unit, &[("0", "1970-01-01T00:00:00Z"), ("-0", "1970-01-01T00:00:00Z")]);
        }
        let time = "2024-11-15T19:46:40Z";
        check(Unit::Seconds, &[("1731700000", time), ("-1", "1969-12-31T23:59:59Z")]);
        check(Unit::Milliseconds, &[("1731700000000", time), ("-1", "1969-12-31T23:59:59.999Z")]);
        check(Unit::Microseconds, &[("1731700000000000", time), ("-1", "1969-12-31T23:59:59.999999Z")]);
        check(Unit::Nanoseconds, &[("1731700000000000000", time), ("-1000", "1969-12-31T23:59:59.999999Z")]);
    }

    #[test]
    fn a_fraction_is_exact_and_has_as_many_digits_as_it_needs() {
        check(
            Unit::Seconds,
            &[
                ("1731700000.25", "2024-11-15T19:46:40.25Z"),
                ("1731700000.000", "2024-11-15T19:46:40Z"),
                ("1731700000.100200", "2024-11-15T19:46:40.1002Z"),
                // The nearest number of floating point is less.
                ("1731700000.000001", "2024-11-15T19:46:40.000001Z"),
                ("253402300799.999999", "9999-12-31T23:59:59.999999Z"),
                ("0.5", "1970-01-01T00:00:00.5Z"),
                ("-0.5", "1969-12-31T23:59:59.5Z"),
            ],
        );
        check(Unit::Milliseconds, &[("1731700000123.456", "2024-11-15T19:46:40.123456Z")]);
        check(Unit::Nanoseconds, &[("1731700000123456000", "2024-11-15T19:46:40.123456Z")]);
    }

    #[test]
    fn what_is_finer_than_a_microsecond_is_cut_off_towards_the_past() {
        let (before, after) = ("1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z");
        check(Unit::Seconds, &[("0.0000009", after), ("-0.0000009", before), ("-0.0000010", before)]);
        check(Unit::Seconds, &[("1731700000.1234569", "2024-11-15T19:46:40.123456Z")]);
        check(Unit::Microseconds, &[("0.9", after), ("-0.9", before)]);
        check(Unit::Nanoseconds, &[("1", after), ("999", after), ("-1", before), ("-999", before)]);
        check(Unit::Nanoseconds, &[("1731700000123456789", "2024-11-15T19:46:40.123456Z")]);
    }

    #[test]
    fn an_exponent_moves_the_point() {
        let time = "2024-11-15T19:46:40Z";
        check(Unit::Seconds, &[("1.7317e9", time), ("17317E+5", time), ("1731700000000e-3", time)]);
        check(
            Unit::Seconds,
            &[("1.73170000025e9", "2024-11-15T19:46:40.25Z"), ("0e99", "1970-01-01T00:00:00Z")],
        );
        let (smallest, tiny) = ("1e-99999999999999999999", "1e-9223372036854775808");
        check(Unit::Nanoseconds, &[(smallest, "1970-01-01T00:00:00Z"), (tiny, "1970-01-01T00:00:00Z")]);
    }

    #[test]
    fn a_time_of_no_year_from_1_to_9999_is_none() {
        check(
            Unit::Seconds,
            &[("-62135596800", "0001-01-01T00:00:00Z"), ("253402300799", "9999-12-31T23:59:59Z")],
        );
        let many = "9".repeat(400);
        for beyond in [
            "-62135596801",
            "-62135596800.0000001",
            "253402300800",
            "9223372036854775807",
            "1e18",
            "1e999999999999999999999",
            "-1e9223372036854775807",
            &many,
        ] {
            assert_eq!(rfc3339(beyond, Unit::Seconds), None, "{beyond}");
        }
        assert_eq!(rfc3339("1731700000000000", Unit::Seconds), None, "microseconds are no seconds");
        let zeros = format!("{}1731700000", "0".repeat(400));
        check(Unit::Seconds, &[(&zeros, "2024-11-15T19:46:40Z")]);
    }

    #[test]
    fn what_is_no_number_is_none() {
        for other in ["null", "true", "\"1731700000\"", "[1731700000]", "{}", "-", ""] {
            assert_eq!(rfc3339(other, Unit::Seconds), None, "{other}");
        }
    }
}
