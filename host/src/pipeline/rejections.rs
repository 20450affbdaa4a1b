//! The log lines about entries that were not stored.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::{Judged, Outcome, Violation};
use crate::validate::cut;

/// Lines about single entries; what goes beyond is counted in one more.
const MAX_LINES_PER_SECOND: u32 = 100;

/// Logs what was not stored, with a bound: a flood of bad entries must not become a flood of lines.
#[derive(Default)]
pub(super) struct RejectionLog(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    second: Option<Instant>,
    count: u32,
    /// Entries without a line of their own, not told yet.
    silenced: u64,
}

impl RejectionLog {
    pub(super) fn log(&self, batch: &[Judged]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Judged { entry, outcome, .. } in batch {
            let Outcome::DeadLetter(reason, violations) = outcome else { continue };
            if lines.have_room() {
                tracing::warn!(
                    entry = %entry.id, reason = reason.as_str(), violations = summary(violations), "entry not stored"
                );
            }
        }
    }
}

impl Lines {
    /// Whether there is room for a line; counts the entry if not.
    fn have_room(&mut self) -> bool {
        if self.second.is_none_or(|second| second.elapsed() >= Duration::from_secs(1)) {
            self.tell_silenced();
            (self.second, self.count, self.silenced) = (Some(Instant::now()), 0, 0);
        }
        let has_room = self.count < MAX_LINES_PER_SECOND;
        match has_room {
            true => self.count += 1,
            false => self.silenced += 1,
        }
        has_room
    }

    fn tell_silenced(&self) {
        if self.silenced > 0 {
            tracing::warn!(entries = self.silenced, "more entries not stored; see the table dead_letters");
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.tell_silenced();
    }
}

fn summary(violations: &[Violation]) -> String {
    let parts: Vec<String> = violations
        .iter()
        .map(|Violation { path, code, message }| match path.is_empty() {
            true => format!("{code} ({message})"),
            false => format!("{path}: {code} ({message})"),
        })
        .collect();
    cut(parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_a_bound_and_is_counted() {
        let mut lines = Lines::default();
        // As if the second did not end.
        let begun = Instant::now() + Duration::from_secs(3_600);
        lines.second = Some(begun);
        assert_eq!((0..150).filter(|_| lines.have_room()).count(), 100);
        assert_eq!((lines.count, lines.silenced), (100, 50));
        lines.second = Instant::now().checked_sub(Duration::from_secs(1));
        assert!(lines.have_room(), "another second");
        assert_eq!((lines.count, lines.silenced), (1, 0), "told");
    }
}
