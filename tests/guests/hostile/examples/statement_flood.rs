//! Runs statements until it may not. The number for a batch stops it, or GUEST_TIME_LIMIT.

use hostile::capabilities::store;

hostile::provoked!(|entry| {
    let refusal = loop {
        if let Err(error) = store::query("one", &[]) {
            break error;
        }
    };
    hostile::tell_refusal(entry, Err::<(), _>(refusal))
});
