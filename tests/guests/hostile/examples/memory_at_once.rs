//! Takes a gibibyte of memory in one step. GUEST_MEMORY stops it.

hostile::provoked!(|_| {
    let hoard = std::hint::black_box(vec![1_u8; 1 << 30]);
    hostile::Verdict::Discard(hoard.len().to_string())
});
