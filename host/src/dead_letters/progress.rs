//! How far a long work is.

use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Tells now and then how far a long work is.
pub(super) struct ProgressMeter<'a> {
    pub(super) done: u64,
    in_total: u64,
    told: Instant,
    /// Whether it was told that others hold something.
    is_waiting: bool,
    to: &'a mut dyn Write,
}

impl<'a> ProgressMeter<'a> {
    pub(super) fn new(in_total: u64, to: &'a mut dyn Write) -> Self {
        Self { done: 0, in_total, told: Instant::now(), is_waiting: false, to }
    }

    pub(super) fn advance(&mut self, by: u64) -> io::Result<()> {
        self.done += by;
        if self.told.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.told = Instant::now();
        writeln!(self.to, "{} of {}", self.done, self.in_total)
    }

    pub(super) fn waits_for(&mut self, what: &str) -> io::Result<()> {
        if self.is_waiting {
            return Ok(());
        }
        self.is_waiting = true;
        writeln!(self.to, "waiting for {what}")
    }
}
