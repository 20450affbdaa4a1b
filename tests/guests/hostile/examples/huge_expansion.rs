//! Expands an entry to a hundred thousand events. The contract allows 1,000, at most.

use hostile::{Event, Verdict};

hostile::provoked!(|entry| match hostile::judge(entry) {
    Verdict::Accept(event) => {
        let small = Event { properties: None, ..event };
        Verdict::Expand(vec![small; hostile::amount(entry, 100_000)])
    }
    other => other,
});
