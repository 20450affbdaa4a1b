//! `sluicegate rules test`: goldens, which are entries with what must come of them.
//!
//! - `goldens`: reads them
//! - `expect`: compares what a golden expects with what came
//! - `company`: judges each golden alone, and in the company of the others of its file
//! - `effects`: what was published and counted, as a golden has it
//! - `report`: tells what is not as expected, to people, as JSON and as JUnit's XML
//! - `update`: writes what came into the files

mod company;
mod effects;
mod expect;
pub(super) mod goldens;
mod report;
mod update;

use std::io::Write;
use std::path::PathBuf;

use super::Error;
use super::asker::Asker;
use super::project::Project;
use company::Companies;
use expect::compare_outcome;
use goldens::{Golden, GoldenFile};
use report::{Problem, Report, Summary};

/// How goldens are tested.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Write what came into the goldens that expect something else
    #[arg(long)]
    update: bool,
    /// Test only goldens with this text in their name, or in that of their file
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write the results to a file, in JUnit's format
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// For programs: one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Options {
    fn is_meant(&self, file: &GoldenFile, golden: &Golden) -> bool {
        let Some(text) = &self.filter else { return true };
        let name = golden.name.as_deref().unwrap_or_default();
        name.contains(text.as_str()) || file.file_name().contains(text.as_str())
    }
}

/// Tests the goldens of a project, and returns whether all are as expected.
pub(super) async fn test(project: &Project, options: &Options, out: &mut dyn Write) -> Result<bool, Error> {
    let files = goldens::read_all(&project.tests())?;
    let asker = Asker::new(project)?;
    let mut reports = Vec::new();
    let mut summary = Summary::new(project.component_name(), asker.rules.version());
    for file in &files {
        let meant: Vec<usize> = (0..)
            .zip(&file.goldens)
            .filter(|(_, golden)| options.is_meant(file, golden))
            .map(|(i, _)| i)
            .collect();
        if meant.is_empty() {
            continue;
        }
        let companies = Companies::judge(&asker, project.tenant.batch_size, file, &meant).await?;
        let mut of_file: Vec<Report> =
            meant.iter().filter_map(|i| report(file, file.goldens.get(*i)?, *i, &companies)).collect();
        if options.update {
            summary.updated += update::update(file, &mut of_file)?;
        }
        for report in &of_file {
            summary.count(report);
            match options.json {
                true => writeln!(out, "{}", report.as_json())?,
                false => report.tell(out)?,
            }
        }
        reports.extend(of_file);
    }
    if reports.is_empty() {
        return Err(Error::NoneMeant(options.filter.clone().unwrap_or_default()));
    }
    match options.json {
        true => writeln!(out, "{}", summary.as_json())?,
        false => summary.tell(out)?,
    }
    if let Some(file) = &options.junit {
        let xml = report::junit(&reports);
        std::fs::write(file, xml).map_err(|source| Error::Unwritable { file: file.clone(), source })?;
    }
    Ok(summary.is_as_expected())
}

/// Compares what came of a golden with what it expects.
fn report(file: &GoldenFile, golden: &Golden, at: usize, companies: &Companies) -> Option<Report> {
    let alone = companies.alone(at)?;
    let mut problems = Vec::new();
    match alone {
        Err(message) => problems.push(Problem::Undecided(message.clone())),
        Ok(answer) => {
            match &golden.wanted.outcome {
                None => problems.push(Problem::NoExpectation),
                Some(wanted) => {
                    problems
                        .extend(compare_outcome(wanted, &answer.outcome).into_iter().map(Problem::Differs));
                }
            }
            for (place, wanted, got) in [
                ("publish", &golden.wanted.publish, &answer.published),
                ("metrics", &golden.wanted.metrics, &answer.counted),
            ] {
                let Some(wanted) = wanted else { continue };
                let differences = expect::compare(place, wanted, got, expect::How::Subset);
                problems.extend(differences.into_iter().map(Problem::Differs));
            }
            problems.extend(companies.differences(at).into_iter().map(Problem::InCompany));
        }
    }
    Some(Report::new(file, golden, alone.as_ref().ok().cloned(), problems))
}
