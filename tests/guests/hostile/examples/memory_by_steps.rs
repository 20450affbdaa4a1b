//! Takes memory, a mebibyte at a time. GUEST_MEMORY stops it.

use std::hint::black_box;

hostile::provoked!(|_| {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; 1 << 20]));
    }
});
