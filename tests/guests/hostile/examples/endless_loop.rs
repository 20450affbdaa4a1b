//! Never returns. Stopped by GUEST_TIME_LIMIT_MS, and by GUEST_FUEL where it is set.

hostile::provoked!(|_| loop {
    std::hint::black_box(());
});
