//! Waits for nothing at all, which would never come. No call to the host waits: that is a trap, and costs its entry.

use hostile::wasi::poll::poll;

hostile::provoked!(|entry| {
    poll(&[]);
    hostile::judge(entry)
});
