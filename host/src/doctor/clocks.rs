//! Judges the clocks of the servers.

use std::time::Duration;

use super::finding::{Finding, Subject};
use crate::clock::ClockGap;

/// A clock that is further away is told.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Judges a server's clock: entries and rows are compared with this host's.
pub(super) fn judge(id: &'static str, subject: &Subject, gap: ClockGap) -> Finding {
    let ahead = gap.ahead_us.unsigned_abs();
    let uncertain = gap.round_trip_us.unsigned_abs() / 2;
    let apart = format!(
        "{:.3} s {} this host's clock, give or take {:.3} s",
        Duration::from_micros(ahead).as_secs_f64(),
        if gap.ahead_us < 0 { "behind" } else { "ahead of" },
        Duration::from_micros(uncertain).as_secs_f64()
    );
    match Duration::from_micros(ahead.saturating_sub(uncertain)) > CLOCK_TOLERANCE {
        true => Finding::warning(
            id,
            subject,
            apart,
            format!(
                "{} s at most: the times of entries and rows are compared with each other",
                CLOCK_TOLERANCE.as_secs()
            ),
            "set the clocks by NTP on all hosts: timedatectl set-ntp true",
        ),
        false => Finding::ok(id, subject, apart),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn clocks_apart_are_told_and_slow_answers_are_not() {
        let level = |ahead_us, round_trip_us| {
            judge("redis-clock", &Subject::Redis, ClockGap { ahead_us, round_trip_us }).level
        };
        assert_eq!(level(1_900_000, 0), Level::Ok);
        assert_eq!(level(-2_100_000, 0), Level::Warning);
        assert_eq!(level(2_100_000, 1_000_000), Level::Ok);
    }
}
