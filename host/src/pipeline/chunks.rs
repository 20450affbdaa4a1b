//! Limits how fast a tenant may make new chunks of its hypertable.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;

use crate::batch::Judged;
use crate::batch_budget;

/// The pause after a transaction for each week that no transaction of this run had rows in before.
/// Every new chunk makes every connection of the server forget what it knows about hypertables:
/// without the pause, an event of another tenant took nearly twice as long to write. So a tenant
/// makes 40 in a second, or spends a sixth of its time on them, whichever is more.
const PAUSE: Duration = Duration::from_millis(25);
/// The number of new weeks that need no pause.
const FREE: usize = 8;
/// The pause is at most so many times as long as the transaction took: a week that is new to the
/// run may have its chunk already, and then writing there takes hardly any time.
const MAX_RATIO: u32 = 5;

/// The weeks that this run has written rows of.
#[derive(Debug, Default)]
pub(super) struct KnownWeeks(Mutex<BTreeSet<i64>>);

impl KnownWeeks {
    /// Returns the pause that is due after this batch is committed, which took so long.
    pub(super) fn pause_after(&self, committed: &[Judged], took: Duration) -> Duration {
        let mut known = self.0.lock();
        let new = batch_budget::weeks(committed).into_iter().filter(|week| known.insert(*week)).count();
        let pause = PAUSE * u32::try_from(new.saturating_sub(FREE)).unwrap_or(u32::MAX);
        pause.min(took * MAX_RATIO)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;
    use crate::batch::{Digest, Version};
    use sluicegate_verdicts::{Entry, EntryId, Event, Outcome, Vec1};

    fn of_weeks(weeks: std::ops::Range<i64>) -> Vec<Judged> {
        let judged = |week| Judged {
            entry: Entry { id: EntryId::ZERO, fields: None, deliveries: 1 },
            outcome: Outcome::Store(Vec1::One(Event {
                event_id: uuid::Uuid::nil(),
                time: DateTime::UNIX_EPOCH + TimeDelta::weeks(week),
                event_type: String::new(),
                user_id: String::new(),
                properties: None,
            })),
            version: Version::of_component(Digest::new(b"")),
        };
        weeks.map(judged).collect()
    }

    #[test]
    fn only_what_is_new_has_a_price() {
        let (known, long) = (KnownWeeks::default(), Duration::from_secs(60));
        assert_eq!(known.pause_after(&of_weeks(0..8), long), Duration::ZERO);
        assert_eq!(known.pause_after(&of_weeks(0..72), long), 56 * PAUSE);
        assert_eq!(known.pause_after(&of_weeks(0..72), long), Duration::ZERO);
        assert_eq!(known.pause_after(&[], long), Duration::ZERO);
        let took = Duration::from_millis(20);
        assert_eq!(known.pause_after(&of_weeks(100..164), took), MAX_RATIO * took, "their chunks were there");
    }
}
