//! Calls itself for ever. Stopped by GUEST_STACK.

hostile::provoked!(|_| hostile::Verdict::Discard(recurse(1).to_string()));

/// Nothing of it is in the guest's memory, where its own stack would end first.
fn recurse(depth: u64) -> u64 {
    match depth {
        0 => 0, // after 2^64 calls
        _ => recurse(depth.wrapping_add(1)).rotate_left(3) ^ depth,
    }
}
