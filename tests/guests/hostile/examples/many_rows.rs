//! Makes a thousand rows of an entry, which is allowed, and of many entries too many: stopped by GUEST_ROWS.

use hostile::{Event, Verdict};

hostile::provoked!(|entry| match hostile::judge(entry) {
    Verdict::Accept(event) => {
        // A row is another one by its time.
        let row = |i| Event { time: event.time + i, ..event.clone() };
        Verdict::Expand((0..1_000).map(row).collect())
    }
    other => other,
});
