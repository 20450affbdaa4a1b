//! Calls itself for ever. GUEST_STACK stops it.

hostile::provoked!(|_| hostile::Verdict::Discard(recurse(1).to_string()));

/// Keeps nothing in the guest's memory, where the guest's own stack would end first.
fn recurse(depth: u64) -> u64 {
    match depth {
        0 => 0, // after 2^64 calls
        _ => recurse(depth.wrapping_add(1)).rotate_left(3) ^ depth,
    }
}
