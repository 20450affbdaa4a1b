//! Compares the clock of a server with this host's.

use std::time::{SystemTime, UNIX_EPOCH};

/// How far a server's clock is ahead of this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockGap {
    pub ahead_us: i64,
    /// The question and the answer were on their way for so long.
    pub round_trip_us: i64,
}

impl ClockGap {
    /// Compares what a server said with the host's time before the question and after the answer.
    pub fn new(before_us: i64, server_us: i64, after_us: i64) -> Self {
        let round_trip_us = after_us.saturating_sub(before_us).max(0);
        let middle_us = before_us.saturating_add(round_trip_us / 2);
        Self { ahead_us: server_us.saturating_sub(middle_us), round_trip_us }
    }
}

/// Returns this host's time, in microseconds since the Unix epoch.
pub(crate) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_the_middle_of_the_round_trip() {
        let gap = ClockGap::new(1_000, 5_000, 3_000);
        assert_eq!(gap, ClockGap { ahead_us: 3_000, round_trip_us: 2_000 });
        assert_eq!(ClockGap::new(3_000, 5_000, 1_000).round_trip_us, 0, "the host's clock was set back");
    }
}
