//! Keeps what happened lately, second by second.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// The number of seconds that are looked back on.
const SECONDS: u64 = 30;

/// The sum of what happened in each of the last seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recent<T> {
    /// When there was first something to add.
    begun: Option<Instant>,
    /// The second that was counted last, from the beginning.
    last: u64,
    /// The sum of second `s` is at `s % SECONDS`.
    sums: [T; 30],
}

impl<T: AddAssign + Copy + Default> Recent<T> {
    pub(super) fn add(&mut self, what: T, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        self.pass_to(now.duration_since(begun).as_secs());
        if let Some(sum) = self.sums.get_mut(slot(self.last)) {
            *sum += what;
        }
    }

    /// Returns the sum of the last half minute.
    pub(crate) fn sum(mut self, now: Instant) -> T {
        if let Some(begun) = self.begun {
            self.pass_to(now.duration_since(begun).as_secs());
        }
        let mut all = T::default();
        self.sums.into_iter().for_each(|sum| all += sum);
        all
    }

    /// Empties the sums of the seconds in which nothing was added.
    fn pass_to(&mut self, second: u64) {
        for passed in (self.last + 1..=second).take(self.sums.len()) {
            // After a long pause all of them are emptied, whichever come first.
            if let Some(sum) = self.sums.get_mut(slot(passed)) {
                *sum = T::default();
            }
        }
        self.last = self.last.max(second);
    }
}

impl Recent<u64> {
    /// Returns how many entries ended per second.
    pub(crate) fn rate(self, now: Instant) -> f64 {
        let Some(begun) = self.begun else { return 0.0 };
        let ended = u32::try_from(self.sum(now)).unwrap_or(u32::MAX);
        // The first second would make a burst look endless, and the last one is not over.
        let seconds =
            now.duration_since(begun).clamp(Duration::from_secs(1), Duration::from_secs(SECONDS - 1));
        f64::from(ended) / seconds.as_secs_f64()
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second % SECONDS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ago_does_not_count() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut recent = Recent::default();
        assert!(recent.rate(start) <= 0.0);
        recent.add(100, start);
        assert!((recent.rate(start) - 100.0).abs() < 1e-9);
        assert!((recent.rate(after(10)) - 10.0).abs() < 1e-9);
        for second in 1..=300 {
            recent.add(50, after(second));
        }
        let rate = recent.rate(after(300));
        assert!((45.0..=55.0).contains(&rate), "{rate}");
        assert!(recent.rate(after(400)) <= 0.0);
        recent.add(58, after(1_000));
        assert!((recent.rate(after(1_010)) - 2.0).abs() < 1e-9);
    }
}
