//! The command line of the tools for authors.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::from_schema;
use super::project::Project;
use super::run::judge_file;
use super::{Error, REFUSED, bench, capture, check, coverage, diff, new, profile, test};

const RUN_EXIT_CODES: &str = "Exit codes:
  0  every entry was judged, whatever came of it
  1  the machine is at fault
  2  the command line is wrong, or a file that it names
  3  the component is refused, or the settings are wrong";

const FROM_SCHEMA_EXIT_CODES: &str = "Exit codes:
  0  the component is written
  1  the machine is at fault
  2  the command line is wrong, or a file that it names cannot be read
  3  a schema is refused: standard error names each place";

const TEST_EXIT_CODES: &str = "Exit codes:
  0  all goldens are as expected
  1  one is not, or the machine is at fault
  2  the command line is wrong, or a file that it names, or a golden, or there is none
  3  the component is refused, or the settings are wrong";

const DIFF_EXIT_CODES: &str = "Exit codes:
  0  it was compared, and no more changes than --fail-on allows
  1  more changes, or a server or the machine is at fault
  2  the command line is wrong, or a file that it names
  3  a component or version is refused, or the settings are wrong";

const CAPTURE_EXIT_CODES: &str = "Exit codes:
  0  the goldens are written
  1  a server or the machine is at fault
  2  the command line is wrong, or a file that it names
  3  the component is refused, or the settings are wrong";

const COVERAGE_EXIT_CODES: &str = "Exit codes:
  0  it was looked at
  1  with --strict, something came that no golden has; or a server or the machine is at fault
  2  the command line is wrong, or a file that it names, or a golden, or there is none
  3  the component is refused, or the settings are wrong";

const CHECK_EXIT_CODES: &str = "Exit codes:
  0  the service would take it
  1  the machine is at fault
  2  the command line is wrong, or a file that it names cannot be read
  3  the component would be refused, or the settings are wrong";

const BENCH_EXIT_CODES: &str = "Exit codes:
  0  it was measured, and takes no more fuel than it may
  1  an entry takes more fuel than it may, or the machine is at fault
  2  the command line is wrong, or a file that it names
  3  the component is refused, or the settings are wrong";

const PROFILE_EXIT_CODES: &str = "Exit codes:
  0  the profile is written
  1  the machine is at fault
  2  the command line is wrong, or a file that it names
  3  the component is refused, or the settings are wrong";

const NEW_EXIT_CODES: &str = "Exit codes:
  0  the project is there
  1  the machine is at fault
  2  the command line is wrong, or the folder is not empty";

/// What to do with rules that are being written.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a project of rules: sources, tests, goldens, and all that it needs of Sluicegate
    #[command(after_help = NEW_EXIT_CODES)]
    New {
        /// The name of the project, and of the folder to make
        name: new::Name,
        /// What to write the rules in
        #[arg(long, value_name = "LANGUAGE")]
        lang: new::Language,
    },
    /// Judge entries of a file, and print what would come of each; needs no server
    #[command(after_help = RUN_EXIT_CODES)]
    Run {
        /// Entries as JSON lines; without it, standard input
        file: Option<PathBuf>,
        #[command(flatten)]
        which: Which,
    },
    /// Make a component of JSON Schemas; needs no server and no toolchain
    #[command(after_help = FROM_SCHEMA_EXIT_CODES)]
    FromSchema {
        #[command(flatten)]
        options: from_schema::Options,
    },
    /// Judge goldens, which are entries with what must come of them; needs no server
    #[command(after_help = TEST_EXIT_CODES)]
    Test {
        /// The folder of a project: its settings, and its goldens in tests/*.jsonl
        folder: Option<PathBuf>,
        #[command(flatten)]
        options: test::Options,
        #[command(flatten)]
        which: Which,
    },
    /// Judge the same entries by two versions, and show what would change; writes nothing
    #[command(after_help = DIFF_EXIT_CODES)]
    Diff {
        #[command(flatten)]
        options: diff::Options,
        /// The tenant whose settings count; needed if there are several
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// Make goldens of entries that really came, with what comes of them now
    #[command(after_help = CAPTURE_EXIT_CODES)]
    Capture {
        #[command(flatten)]
        options: capture::Options,
        #[command(flatten)]
        which: Which,
    },
    /// Show what comes of entries that really came and of no golden, and the reverse
    #[command(after_help = COVERAGE_EXIT_CODES)]
    Coverage {
        #[command(flatten)]
        options: coverage::Options,
        #[command(flatten)]
        which: Which,
    },
    /// Show what a component imports, wants to be granted and costs, and whether the service would take it
    #[command(after_help = CHECK_EXIT_CODES)]
    Check {
        /// A component; without it, that of the settings, else rules.wasm
        file: Option<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Measure what an entry costs: fuel, which does not vary from run to run, time and memory
    #[command(after_help = BENCH_EXIT_CODES)]
    Bench {
        /// A component, or the folder of a project; without it, the working directory
        what: Option<PathBuf>,
        #[command(flatten)]
        options: bench::Options,
        #[command(flatten)]
        which: Which,
    },
    /// Find out where the time goes, function by function, and write a profile for profiler.firefox.com
    #[command(after_help = PROFILE_EXIT_CODES)]
    Profile {
        /// A component, or the folder of a project; without it, the working directory
        what: Option<PathBuf>,
        #[command(flatten)]
        options: profile::Options,
        #[command(flatten)]
        which: Which,
    },
}

/// By which rules to judge.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// A component; without it, the one that the settings name, else rules.wasm beside them, else the default rules
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// The tenant whose settings count; needed if there are several
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

impl Which {
    /// Reads the settings of this file, or else of the project in this folder.
    fn project(self, config: Option<&Path>, folder: &Path) -> Result<Project, Error> {
        let project = Project::open(config, folder, self.tenant.as_deref(), self.guest)?;
        for name in &project.config.misspelt {
            writeln!(io::stderr(), "sluicegate: {name}")?;
        }
        Ok(project)
    }

    /// Does the same for a component of the project in the working directory, or for the project in a folder.
    fn project_of(self, what: Option<PathBuf>, config: Option<&Path>) -> Result<Project, Error> {
        match what {
            Some(file) if file.is_file() => Self { guest: Some(file), ..self }.project(config, Path::new("")),
            folder => self.project(config, folder.as_deref().unwrap_or(Path::new(""))),
        }
    }
}

/// Carries out a command, and returns the code to exit with.
pub async fn run(command: Command, config: Option<&Path>, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let here = Path::new("");
    let is_as_wanted = match command {
        Command::FromSchema { options } => {
            from_schema::make(&options, out, &mut io::stderr())?;
            true
        }
        Command::New { name, lang } => {
            new::new(&name, lang, out)?;
            true
        }
        Command::Run { file, which } => {
            let project = which.project(config, here)?;
            judge_file(&project, file.as_deref(), out).await?;
            true
        }
        Command::Test { folder, options, which } => {
            test::test(&which.project(config, folder.as_deref().unwrap_or(here))?, &options, out).await?
        }
        Command::Diff { options, tenant } => {
            diff::diff(&Which { guest: None, tenant }.project(config, here)?, &options, out).await?
        }
        Command::Capture { options, which } => {
            capture::capture(&which.project(config, here)?, &options, out).await?;
            true
        }
        Command::Coverage { options, which } => {
            coverage::coverage(&which.project(config, here)?, &options, out).await?
        }
        Command::Check { file, json, which } => {
            let which = Which { guest: file.or(which.guest), ..which };
            let is_taken = check::check(&which.project(config, here)?, json, out).await?;
            out.flush()?;
            return Ok(if is_taken { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) });
        }
        Command::Bench { what, options, which } => {
            bench::bench(&which.project_of(what, config)?, &options, out).await?
        }
        Command::Profile { what, options, which } => {
            profile::profile(&which.project_of(what, config)?, &options, out).await?;
            true
        }
    };
    out.flush()?;
    Ok(if is_as_wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
