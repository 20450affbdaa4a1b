//! `sluicegate rules bench`: what an entry costs: fuel, which is the same in each run, and time and memory beside it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Error;
use super::asker::Asker;
use super::format::{Lines, entry_line};
use super::project::Project;
use super::test::goldens;
use crate::batch::{Digester, Entry, Outcome, Reason};
use crate::capabilities::Measured;
use crate::config::Time;
use crate::text::printable;

/// The most entries that are read of a file.
const MAX_ENTRIES: usize = 10_000;
/// The time is measured for so much processor time, and a number of batches at least.
const TIME: Duration = Duration::from_secs(1);
const MIN_BATCHES: usize = 11;
/// By the clock it takes no longer than this: a machine may be busy.
const MAX_TIME: Duration = Duration::from_secs(20);
/// More fuel than any call takes.
const FUEL: u64 = 1 << 50;
/// The time limit of calls whose fuel is counted, the longest that the settings allow.
const COUNTING_TIME: Time = Time::secs(60);
/// The most bytes of a file with the results of an earlier run.
const MAX_BASELINE_BYTES: u64 = 1 << 20;

/// How rules are measured.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Entries as JSON lines, instead of the goldens
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// The entries of a batch [default: BATCH_SIZE]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,
    /// Compare with the results that an earlier run has saved
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Save the results for later runs to compare with
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// How much more fuel an entry may take than in the baseline
    #[arg(long, value_name = "PERCENT", default_value = "2%", value_parser = percent)]
    max_regress: f64,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Results {
    component: String,
    /// The SHA-256 of the entries that were judged.
    input: String,
    entries: usize,
    /// Entries that were left out because the rules fail for them.
    left_out: usize,
    batch: usize,
    /// With its share of the start of instances.
    fuel_per_entry: f64,
    fuel_per_start: u64,
    /// Microseconds of a processor in the rules' process, with the share of the start.
    micros_per_entry: f64,
    start_micros: f64,
    entries_per_second: f64,
    /// The most memory of an instance.
    memory_bytes: usize,
    /// The entries of a batch that fit into GUEST_TIME_LIMIT.
    fitting_batch: u64,
}

/// Measures rules, and returns whether they take no more fuel than they may.
pub(super) async fn bench(
    mut project: Project,
    options: &Options,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let baseline = options.baseline.as_deref().map(read_baseline).transpose()?;
    if let Some(batch) = options.batch.and_then(|batch| usize::try_from(batch).ok()) {
        project.tenant.batch_size = batch;
    }
    let entries = entries(&project, options.events.as_deref())?;
    let results = measure(&project, entries).await?;
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&results)?)?,
        false => results.tell(&project, out)?,
    }
    if let Some(file) = &options.save {
        let text = serde_json::to_string(&results)? + "\n";
        fs::write(file, text).map_err(|source| Error::Unwritable { file: file.clone(), source })?;
    }
    let Some(baseline) = baseline else { return Ok(true) };
    if (&baseline.input, baseline.batch) != (&results.input, results.batch) {
        return Err(Error::OtherInput);
    }
    let change = (results.fuel_per_entry / baseline.fuel_per_entry.max(f64::MIN_POSITIVE) - 1.0) * 100.0;
    let is_within = change <= options.max_regress;
    if !options.json || !is_within {
        let judgement = if is_within { "within" } else { "more than" };
        let line = format!("fuel {change:+.2} % against the baseline, {judgement} {} %", options.max_regress);
        match options.json {
            // Standard output is for programs.
            true => writeln!(std::io::stderr(), "sluicegate: {line}")?,
            false => writeln!(out, "{line}")?,
        }
    }
    Ok(is_within)
}

/// Returns the entries of this file, or else of the goldens.
fn entries(project: &Project, file: Option<&Path>) -> Result<Vec<Entry>, Error> {
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

async fn measure(project: &Project, entries: Vec<Entry>) -> Result<Results, Error> {
    let timed = Asker::new(project)?;
    let mut counting = project.clone();
    counting.tenant.guest_fuel = FUEL;
    // A batch that is split at a time limit takes the fuel of its parts, and no two runs split alike.
    counting.tenant.guest_time_limit = COUNTING_TIME;
    let counted = Asker::new(&counting)?;
    let (all, batch) = (entries.len(), project.tenant.batch_size);
    // A fault takes calls of its own, and ends what is measured early.
    let mut kept = Vec::new();
    for entry in entries {
        let asked = timed.ask(vec![entry.clone()]).await?;
        let is_fault = |outcome: &Outcome| matches!(outcome, Outcome::DeadLetter(reason, _) if *reason != Reason::Rejected);
        if !asked.judged.iter().any(|judged| is_fault(&judged.outcome)) {
            kept.push(entry);
        }
    }
    if kept.is_empty() {
        return Err(Error::NothingToMeasure { entries: all });
    }
    let (fuel, full) = (fuel_of(&counted, &kept, batch).await?, filled(&kept, batch));
    if fuel != fuel_of(&counted, &kept, batch).await? {
        return Err(Error::OtherFuel);
    }
    let (time, memory_bytes) = time_of(&timed, &full).await?;
    let entries_in_all = u64::try_from(kept.len()).unwrap_or(u64::MAX).max(1);
    let start = time.start.as_secs_f64() * 1e6;
    let per_entry = time.time.as_secs_f64() * 1e6 / as_f64(batch);
    let beyond_start = time.time.saturating_sub(time.start).as_secs_f64() / as_f64(batch);
    let limit = project.tenant.guest_time_limit.0.saturating_sub(time.start).as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    let fitting_batch = (limit / beyond_start.max(1e-9)).clamp(0.0, 1e12) as u64;
    Ok(Results {
        component: project.component_name(),
        input: digest(&kept)?,
        entries: kept.len(),
        left_out: all - kept.len(),
        batch,
        fuel_per_entry: fuel.fuel as f64 / entries_in_all as f64,
        fuel_per_start: fuel.start_fuel / fuel.calls.max(1),
        micros_per_entry: per_entry,
        start_micros: start,
        entries_per_second: 1e6 / per_entry.max(1e-9),
        memory_bytes,
        fitting_batch,
    })
}

/// Judges the entries once, in batches, and returns what it took.
async fn fuel_of(asker: &Asker, entries: &[Entry], batch: usize) -> Result<Measured, Error> {
    let mut sum = Measured::default();
    for batch in entries.chunks(batch) {
        sum.add(asker.ask(batch.to_vec()).await?.measured);
    }
    // Only the fuel is to be the same in each run.
    Ok(Measured { time: Duration::ZERO, start: Duration::ZERO, ..sum })
}

/// Returns a full batch of the entries, repeated.
fn filled(entries: &[Entry], batch: usize) -> Vec<Entry> {
    entries.iter().cycle().take(batch).cloned().collect()
}

/// Returns the median call of a batch by its time, and the most memory of all.
async fn time_of(asker: &Asker, batch: &[Entry]) -> Result<(Measured, usize), Error> {
    let (begun, mut calls, mut sum) = (Instant::now(), Vec::new(), Measured::default());
    while (sum.time < TIME || calls.len() < MIN_BATCHES) && begun.elapsed() < MAX_TIME {
        let measured = asker.ask(batch.to_vec()).await?.measured;
        calls.push(measured);
        sum.add(measured);
    }
    calls.sort_by_key(|measured| measured.time);
    let median = calls.get(calls.len() / 2).copied().unwrap_or_default();
    Ok((median, sum.memory_bytes))
}

fn digest(entries: &[Entry]) -> Result<String, Error> {
    let mut digester = Digester::default();
    for entry in entries {
        digester.add(entry_line(entry.id, entry.fields.as_deref().unwrap_or_default())?.as_bytes());
    }
    Ok(digester.digest().to_hex())
}

fn as_f64(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

impl Results {
    fn tell(&self, project: &Project, out: &mut dyn Write) -> Result<(), Error> {
        let Self { entries, left_out, batch, fitting_batch, .. } = self;
        let left_out = match left_out {
            0 => String::new(),
            some => format!(", {some} left out because the rules fail for them"),
        };
        writeln!(out, "component  {}", printable(&self.component))?;
        writeln!(out, "input      {entries} entries{left_out}, in batches of {batch}")?;
        writeln!(
            out,
            "fuel       {:.1} an entry, {} for the start of an instance",
            self.fuel_per_entry, self.fuel_per_start
        )?;
        writeln!(
            out,
            "time       {:.2} µs an entry, {:.0} µs for the start; {:.0} entries a second of a core",
            self.micros_per_entry, self.start_micros, self.entries_per_second
        )?;
        writeln!(out, "memory     {} bytes at most", self.memory_bytes)?;
        let limit = project.tenant.guest_time_limit;
        writeln!(out, "fits       batches of up to {fitting_batch} entries in {limit} (GUEST_TIME_LIMIT)")?;
        if *fitting_batch < u64::try_from(2 * batch).unwrap_or(u64::MAX) {
            writeln!(
                out,
                "note       batches of {batch} come near the time limit, and one that exceeds it is judged again in halves"
            )?;
        }
        Ok(())
    }
}

fn read_baseline(file: &Path) -> Result<Results, Error> {
    let text = fs::metadata(file).and_then(|found| match found.len() > MAX_BASELINE_BYTES {
        true => Err(std::io::Error::other("it is too large to be a file of --save")),
        false => fs::read_to_string(file),
    });
    let wrong = |message: String| Error::Baseline { file: file.to_owned(), message };
    let text = text.map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// Reads `2%` or `2`.
fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    number
        .filter(|number| (0.0..=1e6).contains(number))
        .ok_or_else(|| format!("found {text:?}, wanted a share such as 2%"))
}
