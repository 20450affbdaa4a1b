//! `sluicegate rules run`: judges entries of a file in batches, and prints what would come of each.

use std::io::{self, BufRead, Write};
use std::path::Path;

use super::Error;
use super::asker::Asker;
use super::project::Project;
use sluicegate_verdicts::Entry;
use sluicegate_verdicts::format::{Lines, OutcomeView, outcome_line};

/// Judges the entries of this file, or of standard input, in batches of `BATCH_SIZE`.
pub(super) async fn judge_file(
    project: &Project,
    file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let asker = Asker::new(project)?;
    match file {
        Some(file) => judge_all(&asker, project.tenant.batch_size, Lines::open(file)?, out).await,
        None => {
            let input = Lines::new("standard input".to_owned(), io::stdin().lock());
            judge_all(&asker, project.tenant.batch_size, input, out).await
        }
    }
}

async fn judge_all(
    asker: &Asker,
    batch_size: usize,
    mut lines: Lines<impl BufRead>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    loop {
        // The entries before a line that does not read are judged: whoever watches has their lines.
        let (batch, error) = next_batch(&mut lines, batch_size);
        let is_last = batch.len() < batch_size;
        for judged in asker.ask(batch).await?.judged {
            writeln!(out, "{}", outcome_line(judged.entry.id, &OutcomeView::new(&judged.outcome))?)?;
        }
        out.flush()?;
        match error {
            Some(error) => return Err(error.into()),
            None if is_last => return Ok(()),
            None => {}
        }
    }
}

/// Returns the next entries, and why there are no more of them if a line is at fault.
fn next_batch(
    lines: &mut Lines<impl BufRead>,
    most: usize,
) -> (Vec<Entry>, Option<sluicegate_verdicts::format::Error>) {
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
