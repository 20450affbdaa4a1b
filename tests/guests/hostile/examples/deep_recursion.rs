//! Calls itself for ever. Stopped by GUEST_STACK_BYTES.

use std::hint::black_box;

hostile::provoked!(|_| hostile::Verdict::Discard(recurse(1).to_string()));

#[expect(unconditional_recursion, reason = "to overflow the stack is what it is for")]
fn recurse(depth: u64) -> u64 {
    let ballast = black_box([depth; 64]);
    black_box(recurse(black_box(depth + 1)).wrapping_add(ballast.iter().sum::<u64>()))
}
