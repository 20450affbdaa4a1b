//! Publishes a mebibyte for each entry. No two entries can be written in one transaction, as each
//! has rows of many weeks. What a batch may publish, in however many transactions, stops it.

use hostile::capabilities::{granted_stream, stream};
use hostile::{Event, Verdict};

const WEEK_MICROS: i64 = 7 * 86_400_000_000;

hostile::provoked!(|entry| {
    let fields = [("data".to_owned(), "x".repeat(1 << 20))];
    let answer = stream::publish(&granted_stream(), &fields);
    match (answer, hostile::judge(entry)) {
        (Ok(()), Verdict::Accept(event)) => {
            let first = 64 * i64::try_from(entry.id.sequence % 80).unwrap_or(0);
            let row = |i| Event { time: event.time - (first + i) * WEEK_MICROS, ..event.clone() };
            Verdict::Expand((0..64).map(row).collect())
        }
        (answer, _) => hostile::tell_refusal(entry, answer),
    }
});
