//! Sleeps for an hour. Time stands still in a guest, so that is over at once.

use std::time::Duration;

hostile::provoked!(|entry| {
    std::thread::sleep(Duration::from_secs(3_600));
    hostile::judge(entry)
});
