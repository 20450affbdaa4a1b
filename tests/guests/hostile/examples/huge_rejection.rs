//! Rejects with 4,096 violations, whose messages are all the same mebibyte of its memory: 4 GiB for
//! a host that copied them. GUEST_OUTPUT stops it.
#![expect(unsafe_code, reason = "no honest guest can do this; nobody lives to free the memory twice")]

use hostile::{Verdict, violation};

hostile::provoked!(|entry| {
    let text = "x".repeat(1 << 20).leak();
    let mut same = || unsafe { String::from_raw_parts(text.as_mut_ptr(), text.len(), text.len()) };
    Verdict::Reject((0..hostile::amount(entry, 4_096)).map(|_| violation("huge", same())).collect())
});
