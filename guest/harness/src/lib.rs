//! Makes a command of any guest, which the plain `wasmtime` command line runs: it reads entries as JSON lines and writes what
//! comes of each. `wac plug` puts the guest in; docs/wasmtime.md shows how.
//!
//! What lines hold and what verdicts are checked for is the service's own code, so that the lines are those of
//! `sluicegate rules run`. Its limits and walls are not here: those are given to `wasmtime`. A guest that traps ends the
//! command.

mod judge;

use std::io::{self, Write as _};
use std::process::ExitCode;

pub use judge::{Guest, Unreadable};
use sluicegate_verdicts::Entry;
use sluicegate_verdicts::format::{self, Lines, OutcomeView, outcome_line};

/// Holds what wit-bindgen makes of `wit/`. A component imports of it what it calls.
pub mod bindings {
    #![allow(missing_docs, reason = "generated")]
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sluicegate:harness;
            world harness {
                import sluicegate:guest/handler@0.1.0;
                import sluicegate:guest/bytes-handler@0.1.0;
            }
        ",
        generate_all,
    });
}

/// The entries of a call, unless the arguments say how many: as many as the service's `BATCH_SIZE`.
const BATCH_SIZE: usize = 100;
const MAX_BATCH_SIZE: usize = 10_000;

/// Why the command ends early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("found the arguments {0:?}; wanted none, or --batch with a number from 1 to {MAX_BATCH_SIZE}")]
    Arguments(Vec<String>),
    #[error(transparent)]
    Line(#[from] format::Error),
    #[error("what comes of an entry cannot be written: {0}")]
    Output(#[from] io::Error),
    #[error("what comes of an entry cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// Judges the entries of standard input, and prints what comes of each. An error is told, and is the exit code 1: WASI has no
/// others.
pub fn run<G: Guest>() -> ExitCode {
    match judge_all::<G>() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody can be told, the exit code remains.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn judge_all<G: Guest>() -> Result<(), Error> {
    let batch_size = batch_size()?;
    let mut lines = Lines::new("standard input".to_owned(), io::stdin().lock());
    loop {
        // The entries before a line that does not read are judged: whoever watches has their lines.
        let (batch, error) = next_batch(&mut lines, batch_size);
        let is_last = batch.len() < batch_size;
        let mut out = Vec::new();
        for (id, outcome) in judge::judge::<G>(batch) {
            writeln!(out, "{}", outcome_line(id, &OutcomeView::new(&outcome))?)?;
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(&out)?;
        stdout.flush()?;
        match error {
            Some(error) => return Err(error.into()),
            None if is_last => return Ok(()),
            None => {}
        }
    }
}

/// Returns the next entries, and why there are no more of them if a line is at fault.
fn next_batch(lines: &mut Lines<io::StdinLock<'_>>, most: usize) -> (Vec<Entry>, Option<format::Error>) {
    let mut batch = Vec::new();
    while batch.len() < most {
        match lines.next_entry() {
            Ok(Some(entry)) => batch.push(entry),
            Ok(None) => break,
            Err(error) => return (batch, Some(error)),
        }
    }
    (batch, None)
}

/// Reads the arguments: how many entries a call has, at most.
fn batch_size() -> Result<usize, Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Some(BATCH_SIZE),
        ["--batch", number] => number.parse().ok(),
        _ => None,
    };
    number.filter(|number| (1..=MAX_BATCH_SIZE).contains(number)).ok_or(Error::Arguments(arguments))
}
