//! Looks at the clock, works, looks again, and sleeps for an hour. The clock begins at the time of the first entry, and
//! moves only when it is looked at or waited for.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

hostile::provoked!(|entry| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros());
    let start = Instant::now();
    (0..1_000_000).for_each(|i| _ = black_box(i));
    let elapsed = start.elapsed().as_nanos();
    std::thread::sleep(Duration::from_secs(3_600));
    let slept = start.elapsed().as_secs();
    hostile::tell(entry, format!("{{\"now\":{now},\"elapsed\":{elapsed},\"slept\":{slept}}}"))
});
