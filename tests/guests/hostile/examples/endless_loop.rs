//! Never returns. GUEST_TIME_LIMIT stops it, and GUEST_FUEL where it is set.

hostile::provoked!(|_| loop {
    std::hint::black_box(());
});
