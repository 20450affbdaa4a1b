//! Gives each event another week, and so a chunk of its own. MAX_EVENT_AGE stops it.

use hostile::{Event, accept_but, amount};

const WEEK_MICROS: i64 = 7 * 86_400_000_000;

hostile::provoked!(|entry| {
    accept_but(entry, |event| {
        let any = entry
            .id
            .milliseconds
            .wrapping_mul(31)
            .wrapping_add(entry.id.sequence)
            .wrapping_mul(2_654_435_761);
        // Now and then this is beyond what is allowed by default.
        let weeks = amount(entry, usize::try_from(any % 6_000).unwrap_or(0));
        Event { time: event.time - i64::try_from(weeks).unwrap_or(0) * WEEK_MICROS, ..event }
    })
});
