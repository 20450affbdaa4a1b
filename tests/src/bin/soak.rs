//! Runs random faults for SOAK_SECONDS (3600), and checks again and again: `make soak`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sluicegate_tests::Soak;

/// Sets the time between two audits.
const ROUND: Duration = Duration::from_secs(120);
/// Bounds what an allocator may keep besides.
const MAX_GROWTH_BYTES: u64 = 32 << 20;

fn main() -> ExitCode {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_600);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut soak = Soak::start(true);
    let (mut entries, mut rows, mut letters, mut rounds) = (0, 0, 0, 0);
    while Instant::now() < end {
        let report = soak.round(ROUND.min(end.saturating_duration_since(Instant::now())));
        entries += report.produced;
        rows += report.rows;
        letters += report.all_letters();
        rounds += 1;
    }
    eprintln!(
        "{rounds} rounds, {} faults, {entries} entries, {rows} rows, {letters} letters: everything adds up",
        soak.faults()
    );
    // The first rounds fill what is kept: caches and the allocator's arenas.
    let settled = soak.memory().len() / 3;
    let early = soak.memory().iter().take(settled + 1).max().copied().unwrap_or(0);
    let late = soak.memory().iter().skip(settled + 1).max().copied().unwrap_or(early);
    let in_mib: Vec<u64> = soak.memory().iter().map(|bytes| bytes >> 20).collect();
    eprintln!("resident memory of the replica that lived on, at the end of each round: {in_mib:?} MiB");
    soak.stop();
    if late > early + MAX_GROWTH_BYTES {
        eprintln!("memory grew: {} MiB, then {} MiB", early >> 20, late >> 20);
        return ExitCode::FAILURE;
    }
    eprintln!("memory did not grow");
    ExitCode::SUCCESS
}
