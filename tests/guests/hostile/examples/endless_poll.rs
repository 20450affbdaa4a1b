//! Waits for nothing at all. No call to the host waits: this one is a trap, and costs its entry.

use hostile::wasi::poll::poll;

hostile::provoked!(|entry| {
    poll(&[]);
    hostile::judge(entry)
});
