//! `sluicegate rules bench`: what an entry costs: fuel, which is the same in each run, and time and memory beside it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use super::asker::Asker;
use super::check::{LONG_START, START_EARLIER};
use super::project::Project;
use super::workload::{self, Workload};
use crate::batch::Digester;
use crate::capabilities::Measured;
use crate::config::Time;
use crate::text::printable;
use sluicegate_verdicts::Entry;
use sluicegate_verdicts::format::entry_line;

/// The time is measured for so much processor time.
const TIME: Duration = Duration::from_secs(1);
/// More fuel than any call takes.
const FUEL: u64 = 1 << 50;
/// The time limit of calls whose fuel is counted, the longest that the settings allow.
const COUNTING_TIME: Time = Time::secs(60);
/// The most bytes of a file with the results of an earlier run.
const MAX_BASELINE_BYTES: u64 = 1 << 20;

/// How rules are measured.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    input: workload::Options,
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
pub(super) async fn bench(project: &Project, options: &Options, out: &mut dyn Write) -> Result<bool, Error> {
    let baseline = options.baseline.as_deref().map(read_baseline).transpose()?;
    let results = measure(project, Workload::read(project, &options.input)?).await?;
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&results)?)?,
        false => results.tell(project, out)?,
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

async fn measure(project: &Project, mut workload: Workload) -> Result<Results, Error> {
    let timed = Asker::new(project)?;
    let mut counting = project.clone();
    counting.tenant.guest_fuel = FUEL;
    // A batch that is split at a time limit takes the fuel of its parts, and no two runs split alike.
    counting.tenant.guest_time_limit = COUNTING_TIME;
    let counted = Asker::new(&counting)?;
    workload.leave_out_faults(&timed).await?;
    let fuel = fuel_of(&counted, &workload).await?;
    if fuel != fuel_of(&counted, &workload).await? {
        return Err(Error::OtherFuel);
    }
    let (time, memory_bytes) = time_of(&timed, &workload).await?;
    let Workload { entries, left_out, batch } = workload;
    let entries_in_all = u64::try_from(entries.len()).unwrap_or(u64::MAX).max(1);
    let start = time.start.as_secs_f64() * 1e6;
    let per_entry = time.time.as_secs_f64() * 1e6 / as_f64(batch);
    let beyond_start = time.time.saturating_sub(time.start).as_secs_f64() / as_f64(batch);
    let limit = project.tenant.guest_time_limit.0.saturating_sub(time.start).as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    let fitting_batch = (limit / beyond_start.max(1e-9)).clamp(0.0, 1e12) as u64;
    Ok(Results {
        component: project.component_name(),
        input: digest(&entries)?,
        entries: entries.len(),
        left_out,
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
async fn fuel_of(asker: &Asker, workload: &Workload) -> Result<Measured, Error> {
    let mut sum = Measured::default();
    for batch in workload.entries.chunks(workload.batch) {
        sum.add(asker.ask(batch.to_vec()).await?.measured);
    }
    // Only the fuel is to be the same in each run.
    Ok(Measured { time: Duration::ZERO, start: Duration::ZERO, ..sum })
}

/// Returns the median call of a batch by its time, and the most memory of all.
async fn time_of(asker: &Asker, workload: &Workload) -> Result<(Measured, usize), Error> {
    let mut calls = Vec::new();
    workload.repeat(asker, TIME, |measured| calls.push(measured)).await?;
    let memory_bytes = calls.iter().map(|measured| measured.memory_bytes).max().unwrap_or(0);
    calls.sort_by_key(|measured| measured.time);
    Ok((calls.get(calls.len() / 2).cloned().unwrap_or_default(), memory_bytes))
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
        let Self { batch, fitting_batch, .. } = self;
        writeln!(out, "component  {}", printable(&self.component))?;
        writeln!(out, "input      {}", workload::describe(self.entries, self.left_out, *batch))?;
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
        if self.start_micros > LONG_START.as_secs_f64() * 1e6 {
            let share = 100.0 * self.start_micros / (self.micros_per_entry * as_f64(*batch)).max(1e-9);
            writeln!(
                out,
                "note       each batch pays for the start of an instance, {share:.0} % of its time: {START_EARLIER}"
            )?;
        }
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
