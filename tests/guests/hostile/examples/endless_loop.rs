//! Never returns. Stopped by GUEST_TIME_LIMIT, and by GUEST_FUEL where it is set.

hostile::provoked!(|_| loop {
    std::hint::black_box(());
});
