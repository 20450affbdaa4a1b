//! Sleeps for an hour. The guest's clock is moved by that, and the sleep is over at once.

use std::time::Duration;

hostile::provoked!(|entry| {
    std::thread::sleep(Duration::from_secs(3_600));
    hostile::judge(entry)
});
