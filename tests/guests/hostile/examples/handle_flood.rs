//! Holds a million pollables at the same time. GUEST_HANDLES stops it.

use hostile::wasi::monotonic_clock::subscribe_duration;

hostile::provoked!(|entry| {
    let held: Vec<_> = (0..hostile::amount(entry, 1_000_000)).map(|_| subscribe_duration(1)).collect();
    hostile::tell(entry, format!("{{\"held\":{}}}", held.len()))
});
