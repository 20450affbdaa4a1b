//! Waits for a thousand deadlines, of an hour each. The clock is moved to them, so they are over at once.

use hostile::wasi::{monotonic_clock::subscribe_duration, poll::poll};

hostile::provoked!(|entry| {
    let hour = 3_600_000_000_000;
    let deadlines: Vec<_> = (0..hostile::amount(entry, 1_000)).map(|_| subscribe_duration(hour)).collect();
    let ready = poll(&deadlines.iter().collect::<Vec<_>>());
    hostile::tell(entry, format!("{{\"ready\":{}}}", ready.len()))
});
