//! Looks at the clock, works, and looks again. It stands still, at the time of the batch's first entry.

use std::hint::black_box;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

hostile::provoked!(|entry| {
    let start = Instant::now();
    (0..1_000_000).for_each(|i| _ = black_box(i));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros());
    hostile::tell(entry, format!("{{\"now\":{now},\"elapsed\":{}}}", start.elapsed().as_nanos()))
});
