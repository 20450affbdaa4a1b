//! How far a long work is.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::text::grouped;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Hears how far a long work is.
pub(super) trait Progress: Send {
    /// Hears something that holds for all of the work.
    fn say(&mut self, line: &str) -> io::Result<()>;

    /// Hears that a part of it begins, with so many letters.
    fn begin(&mut self, in_total: u64);

    /// Hears that so many letters more are done.
    fn advance(&mut self, by: u64) -> io::Result<()>;

    /// Hears what is waited for.
    fn wait_for(&mut self, what: &str) -> io::Result<()>;
}

/// Writes now and then how far a work is.
pub(super) struct ProgressMeter<'a> {
    done: u64,
    in_total: u64,
    told: Instant,
    /// Whether it was told that others hold something.
    is_waiting: bool,
    to: &'a mut (dyn Write + Send),
}

impl<'a> ProgressMeter<'a> {
    pub(super) fn new(to: &'a mut (dyn Write + Send)) -> Self {
        Self { done: 0, in_total: 0, told: Instant::now(), is_waiting: false, to }
    }
}

impl Progress for ProgressMeter<'_> {
    fn say(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.to, "{line}")
    }

    fn begin(&mut self, in_total: u64) {
        (self.done, self.in_total, self.told, self.is_waiting) = (0, in_total, Instant::now(), false);
    }

    fn advance(&mut self, by: u64) -> io::Result<()> {
        self.done += by;
        if self.told.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.told = Instant::now();
        writeln!(self.to, "{} of {}", grouped(self.done), grouped(self.in_total))
    }

    fn wait_for(&mut self, what: &str) -> io::Result<()> {
        if self.is_waiting {
            return Ok(());
        }
        self.is_waiting = true;
        writeln!(self.to, "waiting for {what}")
    }
}
