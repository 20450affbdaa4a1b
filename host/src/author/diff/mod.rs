//! `sluicegate rules diff`: judges the same entries by two versions, and tells what would change. Nothing is written.
//!
//! - `changes`: where two rows differ
//! - `report`: what was found, for people and for programs
//! - `limit`: how much may change
//!
//! Both versions get the same batches, and rules are pure, so a version differs from itself in nothing.

mod changes;
mod limit;
mod report;

use std::io::Write;
use std::sync::Arc;

use clap::Args;

use super::asker::Asker;
use super::project::Project;
use super::{Error, source};
use crate::batch::Judged;
use changes::changes;
use limit::Limit;
use report::Report;
use sluicegate_verdicts::format::OutcomeView;

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A component file, the first digits of a version, or in-force
    old: String,
    /// The same, of what is to come
    new: String,
    #[command(flatten)]
    source: source::Options,
    /// For programs: one JSON object
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// For a comment on a change
    #[arg(long)]
    markdown: bool,
    /// Exit with 1 if more entries change so, such as accept->reject>0.1% or *->fault>0
    #[arg(long = "fail-on", value_name = "LIMIT")]
    limits: Vec<Limit>,
    /// How many examples to show of each kind of change
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=100))]
    examples: u16,
}

/// Compares two versions, and returns whether the changes are within the limits.
pub(super) async fn diff(project: &Project, options: &Options, out: &mut dyn Write) -> Result<bool, Error> {
    let engine = project.engine()?;
    let load =
        async |name: &str| Asker::with_rules(project, Arc::new(project.load_named(&engine, name).await?));
    let (old, new) = (load(&options.old).await?, load(&options.new).await?);
    let mut report = Report::new(
        (&options.old, old.rules.version()),
        (&options.new, new.rules.version()),
        usize::from(options.examples),
    );
    let mut entries = options.source.open(project).await?;
    loop {
        let batch = entries.next_batch(project.tenant.batch_size).await?;
        if batch.is_empty() {
            break;
        }
        let (old, new) = tokio::try_join!(old.ask(batch.clone()), new.ask(batch))?;
        old.judged.iter().zip(&new.judged).for_each(|(old, new)| compare(old, new, &mut report));
    }
    let exceeded: Vec<&Limit> = options.limits.iter().filter(|limit| report.exceeds(limit)).collect();
    if options.json {
        report.write_json(&exceeded, out)?;
    } else if options.markdown {
        report.write_markdown(&exceeded, out)?;
    } else {
        report.write_text(&exceeded, out)?;
    }
    Ok(exceeded.is_empty())
}

fn compare(old: &Judged, new: &Judged, report: &mut Report) {
    if old.outcome == new.outcome {
        return report.count_same();
    }
    let views = (OutcomeView::new(&old.outcome), OutcomeView::new(&new.outcome));
    match changes(&views.0, &views.1) {
        // Their texts differ, but not what PostgreSQL would hold.
        Some(changes) if changes.is_empty() => report.count_same(),
        changes => report.count(old.entry.id, &views.0, &views.1, changes.unwrap_or_default()),
    }
}
