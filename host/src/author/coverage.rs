//! `sluicegate rules coverage`: what comes of entries that really came and of no golden, and the reverse.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::asker::Asker;
use super::outcome_class::OutcomeClass;
use super::project::Project;
use super::test::goldens;
use super::{Error, source};
use crate::text::printable;
use sluicegate_verdicts::Entry;
use sluicegate_verdicts::format::OutcomeView;

/// The most classes that are told apart. Rules that put data into codes would have one for each entry.
const MAX_CLASSES: usize = 10_000;

/// What to look at.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    source: source::Options,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
    /// Exit with 1 if something came that no golden has
    #[arg(long)]
    strict: bool,
}

/// How many entries have a class, and the first of them.
#[derive(Default)]
struct Found(BTreeMap<OutcomeClass, (u64, String)>);

impl Found {
    fn add(&mut self, view: &OutcomeView, entry: &Entry) {
        for class in OutcomeClass::all(view) {
            if self.0.len() < MAX_CLASSES || self.0.contains_key(&class) {
                self.0.entry(class).or_insert_with(|| (0, entry.id.to_string())).0 += 1;
            }
        }
    }

    fn without(&self, others: &Self) -> Vec<Line> {
        let mut lines: Vec<Line> = self
            .0
            .iter()
            .filter(|(class, _)| !others.0.contains_key(class))
            .map(|(class, (entries, first))| Line {
                class: class.clone(),
                entries: *entries,
                first: first.clone(),
            })
            .collect();
        lines.sort_by(|a, b| b.entries.cmp(&a.entries).then_with(|| a.class.cmp(&b.class)));
        lines
    }
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    class: OutcomeClass,
    entries: u64,
    /// The ID of the first of them.
    first: String,
}

#[derive(Serialize)]
struct Report {
    entries: u64,
    goldens: u64,
    /// What came of entries, and of no golden.
    untested: Vec<Line>,
    /// What came of goldens, and of no entry.
    unseen: Vec<Line>,
}

/// Tells what no golden has, and returns whether that is nothing, or does not matter.
pub(super) async fn coverage(
    project: &Project,
    options: &Options,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let files = goldens::read_all(&project.tests())?;
    let asker = Asker::new(project)?;
    let (mut tested, mut goldens) = (Found::default(), 0);
    for golden in files.into_iter().flat_map(|file| file.goldens) {
        goldens += 1;
        for judged in asker.ask(vec![golden.entry]).await?.judged {
            tested.add(&OutcomeView::new(&judged.outcome), &judged.entry);
        }
    }
    let (mut came, mut count) = (Found::default(), 0);
    let mut entries = options.source.open(project).await?;
    loop {
        let batch = entries.next_batch(project.tenant.batch_size).await?;
        if batch.is_empty() {
            break;
        }
        for judged in asker.ask(batch).await?.judged {
            count += 1;
            came.add(&OutcomeView::new(&judged.outcome), &judged.entry);
        }
    }
    let report =
        Report { entries: count, goldens, untested: came.without(&tested), unseen: tested.without(&came) };
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => report.write(out)?,
    }
    Ok(!options.strict || report.untested.is_empty())
}

impl Report {
    fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        writeln!(out, "{} entries, {} goldens", self.entries, self.goldens)?;
        for (title, lines) in
            [("came, and no golden has it", &self.untested), ("in goldens only", &self.unseen)]
        {
            if !lines.is_empty() {
                writeln!(out, "\n{title}:")?;
            }
            for Line { class, entries, first } in lines {
                writeln!(out, "  {entries:>8}  {}  (first {first})", printable(&class.to_string()))?;
            }
        }
        Ok(())
    }
}
