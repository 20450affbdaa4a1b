//! Makes rows of many weeks for each entry, and of other weeks for the next one: each row needs a
//! chunk of its own. An entry is stopped at 64 weeks.

use hostile::{Event, Verdict, amount};

const WEEK_MICROS: i64 = 7 * 86_400_000_000;

hostile::provoked!(|entry| match hostile::judge(entry) {
    Verdict::Accept(event) => {
        let weeks = i64::try_from(amount(entry, 64)).unwrap_or(0);
        let first =
            weeks * i64::try_from(entry.id.milliseconds.wrapping_add(entry.id.sequence) % 80).unwrap_or(0);
        let row = |i| Event { time: event.time - (first + i) * WEEK_MICROS, ..event.clone() };
        Verdict::Expand((0..weeks).map(row).collect())
    }
    other => other,
});
