//! Makes a thousand rows of each entry, which is allowed, but too many in all. GUEST_ROWS stops it.

use hostile::{Event, Verdict};

hostile::provoked!(|entry| match hostile::judge(entry) {
    Verdict::Accept(event) => {
        // A row becomes another one by its time.
        let row = |i| Event { time: event.time + i, ..event.clone() };
        Verdict::Expand((0..1_000).map(row).collect())
    }
    other => other,
});
