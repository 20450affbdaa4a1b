//! Counts times in buckets, as Prometheus wants histograms.

use std::ops::AddAssign;
use std::time::Duration;

use sluicegate_verdicts::EntryId;

/// The upper bounds of the buckets in milliseconds, which are inclusive. A last bucket has none.
const BOUNDS_MS: [u64; 18] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000,
    86_400_000,
];

/// The times since the start, each in the first bucket that holds it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Histogram {
    counts: [u64; BOUNDS_MS.len()],
    beyond: u64,
    sum: Duration,
}

impl Histogram {
    pub(super) fn add(&mut self, took: Duration) {
        // A time just above a bound belongs to the next bucket.
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        *self.bucket(micros.div_ceil(1_000)) += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// Adds how long ago each of these entries was added to its stream.
    ///
    /// Entries of one batch are of nearly the same age, so that the bucket of the last one mostly
    /// is that of the next.
    pub(super) fn add_ages(&mut self, ids: &[EntryId], now_ms: u64) {
        let mut ids = ids.iter().map(|id| now_ms.saturating_sub(id.milliseconds)).peekable();
        let mut sum = 0_u64;
        while let Some(age) = ids.next() {
            let (after, until) = limits(age);
            let (mut count, mut ages) = (1, age);
            while let Some(next) = ids.next_if(|next| (after..=until).contains(next)) {
                count += 1;
                ages = ages.saturating_add(next);
            }
            *self.bucket(age) += count;
            sum = sum.saturating_add(ages);
        }
        self.sum = self.sum.saturating_add(Duration::from_millis(sum));
    }

    fn bucket(&mut self, millis: u64) -> &mut u64 {
        let at = BOUNDS_MS.partition_point(|bound| *bound < millis);
        self.counts.get_mut(at).unwrap_or(&mut self.beyond)
    }

    /// Returns the time that this share of all times does not exceed, as Prometheus' `histogram_quantile` estimates it:
    /// within its bucket, times are taken to be evenly spread. `None` if there are none.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "more than 2^52 times are not at hand")]
        let counts = self.counts.map(|count| count as f64);
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let rank = (self.count() > 0).then(|| self.count() as f64 * share)?;
        let (mut below, mut lower) = (0.0, Duration::ZERO);
        for (count, bound) in counts.into_iter().zip(BOUNDS_MS) {
            let upper = Duration::from_millis(bound);
            if count > 0.0 && below + count >= rank {
                let part = ((rank - below) / count).clamp(0.0, 1.0);
                return Some(lower + (upper - lower).mul_f64(part));
            }
            (below, lower) = (below + count, upper);
        }
        Some(lower) // beyond the last bound, nothing more is known
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.beyond
    }

    pub(crate) fn sum(&self) -> Duration {
        self.sum
    }

    /// Returns the buckets, each with its upper bound in seconds and its own count.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let seconds = |bound: &u64| Duration::from_millis(*bound).as_secs_f64();
        let bounds = BOUNDS_MS.iter().map(seconds).chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied().chain([self.beyond])).collect()
    }
}

impl AddAssign for Histogram {
    fn add_assign(&mut self, other: Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.beyond += other.beyond;
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// Returns the least and the greatest number of milliseconds in the same bucket.
fn limits(millis: u64) -> (u64, u64) {
    let at = BOUNDS_MS.partition_point(|bound| *bound < millis);
    let after = at.checked_sub(1).and_then(|before| BOUNDS_MS.get(before)).map_or(0, |bound| bound + 1);
    (after, BOUNDS_MS.get(at).copied().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(histogram: &Histogram) -> Vec<(f64, u64)> {
        histogram.buckets().into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for micros in [0, 1_000, 1_001, 2_000, 86_400_000_000, 86_400_000_001] {
            histogram.add(Duration::from_micros(micros));
        }
        assert_eq!(held(&histogram), [(0.001, 2), (0.002, 2), (86_400.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.count(), 6);
        assert_eq!(histogram.sum(), Duration::from_micros(2 * 86_400_000_000 + 4_002));
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (0..98).for_each(|_| histogram.add(Duration::from_millis(7)));
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(7_500)));
        histogram.add(Duration::from_millis(1_500));
        histogram.add(Duration::from_secs(864_000));
        assert_eq!(histogram.quantile(0.99), Some(Duration::from_secs(2)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_secs(86_400)), "the last bound");
        let mut twice = histogram;
        twice += histogram;
        assert_eq!((twice.count(), twice.quantile(0.5)), (200, histogram.quantile(0.5)));
    }

    proptest::proptest! {
        #[test]
        fn ages_are_as_if_they_were_added_one_by_one(ages: Vec<u32>) {
            let now = u64::from(u32::MAX) + 1_768_000_000_000;
            let id = |age: &u32| EntryId { milliseconds: now - u64::from(*age), sequence: 0 };
            let (mut at_once, mut one_by_one) = (Histogram::default(), Histogram::default());
            at_once.add_ages(&ages.iter().map(id).collect::<Vec<_>>(), now);
            ages.iter().for_each(|age| one_by_one.add(Duration::from_millis(u64::from(*age))));
            assert_eq!(at_once.buckets(), one_by_one.buckets());
            assert_eq!(at_once.sum(), one_by_one.sum());
        }
    }

    #[test]
    fn an_id_ahead_of_the_clock_is_of_no_age() {
        let mut histogram = Histogram::default();
        histogram.add_ages(&[EntryId { milliseconds: 9, sequence: 0 }], 1);
        assert_eq!(held(&histogram), [(0.001, 1)]);
    }
}
