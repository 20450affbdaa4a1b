//! Asks for a gibibyte of randomness in one call. The host gives 64 KiB at most, and traps.

use hostile::wasi::random::get_random_bytes;

hostile::provoked!(|entry| {
    let bytes = get_random_bytes(1 << 30);
    hostile::tell(entry, format!("{{\"random_bytes\":{}}}", bytes.len()))
});
