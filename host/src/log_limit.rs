//! Limits log lines about what others do: a flood of bad entries must not become a flood of lines.

use std::time::{Duration, Instant};

/// The lines of a second. Those beyond it are counted, and told in one line more.
pub(crate) const MAX_LINES_PER_SECOND: u32 = 100;

/// Counts the lines of the running second, and those that there was no room for.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    begun: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    /// After a second, begins another and returns how many lines the old one had no room for.
    pub(crate) fn end_of_second(&mut self) -> Option<u64> {
        let is_over = self.begun.is_some_and(|begun| begun.elapsed() >= Duration::from_secs(1));
        is_over.then(|| self.take_suppressed())
    }

    /// Begins a second, unless one is running.
    pub(crate) fn begin(&mut self) {
        self.begun.get_or_insert_with(Instant::now);
    }

    /// Returns whether there is room for a line, and counts it.
    pub(crate) fn has_room(&mut self) -> bool {
        self.begin();
        self.lines = self.lines.saturating_add(1);
        let has_room = self.lines <= MAX_LINES_PER_SECOND;
        self.suppressed += u64::from(!has_room);
        has_room
    }

    /// Returns how many lines there was no room for, and begins anew.
    pub(crate) fn take_suppressed(&mut self) -> u64 {
        std::mem::take(self).suppressed
    }
}

/// The time between two log lines about the same trouble.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// Limits log lines about one trouble that goes on.
#[derive(Debug, Default)]
pub(crate) struct Reminder {
    told: Option<Instant>,
}

impl Reminder {
    /// Returns whether it is time for a line: for the first one it is, and then every 10 s.
    pub(crate) fn is_due(&mut self) -> bool {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= REMIND_EVERY);
        if is_due {
            self.told = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_a_bound_and_is_counted() {
        let mut limit = LogLimit::default();
        assert_eq!((0..150).filter(|_| limit.has_room()).count(), 100);
        // It is as if the second did not end.
        limit.begun = Some(Instant::now() + Duration::from_secs(3_600));
        assert_eq!(limit.end_of_second(), None);
        limit.begun = Instant::now().checked_sub(Duration::from_secs(1));
        assert_eq!(limit.end_of_second(), Some(50));
        assert!(limit.has_room(), "another second");
        assert_eq!(limit.take_suppressed(), 0);
    }
}
