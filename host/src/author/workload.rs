//! The entries by which rules are measured: those of the goldens or of a file, in full batches.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::Error;
use super::asker::Asker;
use super::project::Project;
use super::test::goldens;
use crate::capabilities::Measured;
use sluicegate_verdicts::format::Lines;
use sluicegate_verdicts::{Entry, Outcome, Reason};

/// The most entries that are read of a file.
const MAX_ENTRIES: usize = 10_000;
/// A number of batches is judged at least.
const MIN_BATCHES: usize = 11;
/// By the clock it takes no longer than this: a machine may be busy.
const MAX_TIME: Duration = Duration::from_secs(20);

/// With what rules are measured.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Entries as JSON lines, instead of the goldens
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// The entries of a batch [default: BATCH_SIZE]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,
}

/// The entries with which rules are measured.
pub(super) struct Workload {
    pub(super) entries: Vec<Entry>,
    /// How many entries do not count because the rules fail for them.
    pub(super) left_out: usize,
    /// The entries of a batch.
    pub(super) batch: usize,
}

/// Returns the entries of this file, or else of the goldens.
fn read(project: &Project, file: Option<&Path>) -> Result<Vec<Entry>, Error> {
    let Some(file) = file else {
        let goldens = goldens::read_all(&project.tests())?.into_iter().flat_map(|file| file.goldens);
        return Ok(goldens.map(|golden| golden.entry).take(MAX_ENTRIES).collect());
    };
    let (mut lines, mut entries) = (Lines::open(file)?, Vec::new());
    while entries.len() < MAX_ENTRIES
        && let Some(entry) = lines.next_entry()?
    {
        entries.push(entry);
    }
    Ok(entries)
}

impl Workload {
    pub(super) fn read(project: &Project, options: &Options) -> Result<Self, Error> {
        let entries = read(project, options.events.as_deref())?;
        let batch = options.batch.and_then(|batch| usize::try_from(batch).ok());
        Ok(Self { entries, left_out: 0, batch: batch.unwrap_or(project.tenant.batch_size) })
    }

    /// Leaves out the entries for which the rules fail: a fault takes calls of its own, and ends what is measured early.
    pub(super) async fn leave_out_faults(&mut self, asker: &Asker) -> Result<(), Error> {
        let is_fault = |outcome: &Outcome| matches!(outcome, Outcome::DeadLetter(reason, _) if *reason != Reason::Rejected);
        let all = std::mem::take(&mut self.entries);
        let number = all.len();
        for entry in all {
            let asked = asker.ask(vec![entry.clone()]).await?;
            if !asked.judged.iter().any(|judged| is_fault(&judged.outcome)) {
                self.entries.push(entry);
            }
        }
        if self.entries.is_empty() {
            return Err(Error::NothingToMeasure { entries: number });
        }
        self.left_out = number - self.entries.len();
        Ok(())
    }

    /// Has full batches judged, of the entries repeated, until they took so much processor time, and tells `each` what a
    /// batch took.
    pub(super) async fn repeat(
        &self,
        asker: &Asker,
        time: Duration,
        mut each: impl FnMut(Measured),
    ) -> Result<(), Error> {
        let full: Vec<Entry> = self.entries.iter().cycle().take(self.batch).cloned().collect();
        let (begun, mut batches, mut used) = (Instant::now(), 0, Duration::ZERO);
        while (used < time || batches < MIN_BATCHES) && begun.elapsed() < MAX_TIME {
            let measured = asker.ask(full.clone()).await?.measured;
            used = used.saturating_add(measured.time);
            batches += 1;
            each(measured);
        }
        Ok(())
    }

    /// Says what is judged, for a line of a report.
    pub(super) fn describe(&self) -> String {
        describe(self.entries.len(), self.left_out, self.batch)
    }
}

/// Says what was judged, for a line of a report.
pub(super) fn describe(entries: usize, left_out: usize, batch: usize) -> String {
    let left_out = match left_out {
        0 => String::new(),
        some => format!(", {some} left out because the rules fail for them"),
    };
    format!("{entries} entries{left_out}, in batches of {batch}")
}
