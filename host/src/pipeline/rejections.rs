//! Logs entries that were not stored.

use parking_lot::Mutex;

use crate::batch::Judged;
use crate::log_limit::LogLimit;
use sluicegate_verdicts::validate::cut;
use sluicegate_verdicts::{Outcome, Violation};

/// Logs entries that were not stored, with a limit.
#[derive(Default)]
pub(super) struct RejectionLog(Mutex<LogLimit>);

impl RejectionLog {
    pub(super) fn log(&self, batch: &[Judged]) {
        let mut limit = self.0.lock();
        for Judged { entry, outcome, .. } in batch {
            let Outcome::DeadLetter(reason, violations) = outcome else { continue };
            if let Some(entries) = limit.end_of_second() {
                tell_suppressed(entries);
            }
            if limit.has_room() {
                tracing::warn!(
                    entry = %entry.id, reason = reason.as_str(), violations = summary(violations), "entry not stored"
                );
            }
        }
    }
}

impl Drop for RejectionLog {
    fn drop(&mut self) {
        tell_suppressed(self.0.get_mut().take_suppressed());
    }
}

fn tell_suppressed(entries: u64) {
    if entries > 0 {
        tracing::warn!(entries, "more entries not stored; see the table dead_letters");
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
