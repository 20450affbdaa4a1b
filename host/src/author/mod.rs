//! Tools for those who write rules: `sluicegate rules run` and its kin. They need no server, except to read what really came.
//!
//! - `new`: `rules new`
//! - `project`: the settings, and the rules that they name
//! - `asker`: asks the rules as the service does
//! - `fakes`: answers what they ask of the host
//! - `run`: `rules run`
//! - `test`: `rules test`
//! - `source`: entries that really came
//! - `outcome_class`: what many outcomes have in common, to count them
//! - `diff`: `rules diff`
//! - `capture`: `rules capture`
//! - `coverage`: `rules coverage`
//! - `from_schema`: `rules from-schema`
//! - `check`: `rules check`
//! - `workload`: the entries by which rules are measured
//! - `bench`: `rules bench`
//! - `profile`: `rules profile`
//! - `files`: files that are written for others
//! - `command`: the command line
//!
//! Guest code runs in worker processes, under the limits of the service, and what it returns is checked as there.

mod asker;
mod bench;
mod capture;
mod check;
mod command;
mod coverage;
mod diff;
mod fakes;
mod files;
mod from_schema;
mod new;
mod outcome_class;
mod profile;
mod project;
mod run;
mod source;
mod test;
mod workload;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

pub use command::{Command, run};

use crate::config;
use crate::rules::{Refusal, deploy};
use crate::{store, stream};

/// Why a command for authors failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(Box<config::Error>),
    #[error(transparent)]
    Tenant(Box<deploy::Error>),
    #[error(
        "the folder {folder} is not empty; wanted the name of one that is missing: nothing is overwritten"
    )]
    NotEmpty { folder: PathBuf },
    /// A folder holds no settings.
    #[error(
        "there is no {file}; wanted the folder of a rules project, or the file with its settings by --config"
    )]
    NoProject { file: PathBuf },
    #[error("the component {file} cannot be read: {source}")]
    Unreadable { file: PathBuf, source: io::Error },
    /// It is named by the settings, not by the command line.
    #[error("the component {file}, which the settings name (GUEST), cannot be read: {source}")]
    UnreadableGuest { file: PathBuf, source: io::Error },
    #[error("the component {name} is refused: {reason}")]
    Refused { name: String, reason: Box<Refusal> },
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    #[error(transparent)]
    Input(#[from] sluicegate_verdicts::format::Error),
    #[error("{file}: {message}")]
    Fakes { file: PathBuf, message: String },
    /// The rules ask what nobody has an answer for.
    #[error("{0}")]
    NoFake(String),
    #[error("no golden has {0:?} in its name or that of its file")]
    NoneMeant(String),
    #[error("the baseline {file} cannot be read: {message}; wanted a file that --save has written")]
    Baseline { file: PathBuf, message: String },
    #[error(
        "the baseline was measured with other entries, or in batches of another size; wanted the same, or a new one by --save"
    )]
    OtherInput,
    #[error(
        "the rules fail for all of the {entries} entries, so there is nothing to measure; `sluicegate rules run` tells why"
    )]
    NothingToMeasure { entries: usize },
    /// Rules cannot do this, unless the host lets them.
    #[error(
        "the same entries took another amount of fuel when they were judged again: a defect of the program"
    )]
    OtherFuel,
    #[error("the file {file} cannot be written: {source}")]
    Unwritable { file: PathBuf, source: io::Error },
    #[error(
        "there are no goldens in {folder}: {found}; wanted files such as orders.jsonl, with an entry and `expect` in each line"
    )]
    NoGoldens { folder: PathBuf, found: String },
    #[error(
        "the goldens in {folder} have {bytes} bytes; wanted at most {most}: `sluicegate rules run` judges any number of entries"
    )]
    TooManyGoldens { folder: PathBuf, bytes: u64, most: u64 },
    /// The database knows no version of the rules.
    #[error(
        "no version of the rules is in force for tenant {tenant}: the service has never run with this database"
    )]
    NoneInForce { tenant: String },
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error(
        "the key in {file}: {found}; wanted 16 to 4096 bytes, such as those of `head -c 32 /dev/urandom`"
    )]
    Key { file: PathBuf, found: String },
    /// A mask that hides nothing is misspelt, and what it was meant for would be written in clear.
    #[error(
        "none of the {entries} entries has {places}, which was to be masked, so nothing was written; wanted the name of a field of the entries as they came, or such as data.properties.email"
    )]
    NothingToMask { places: String, entries: u64 },
    #[error(transparent)]
    FromSchema(#[from] from_schema::Error),
    /// The program has a defect.
    #[error("asking the rules panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    #[error("writing JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Settings(Box::new(error))
    }
}

impl From<deploy::Error> for Error {
    fn from(error: deploy::Error) -> Self {
        Self::Tenant(Box::new(error))
    }
}

impl Error {
    /// Returns the code that the program exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoProject { .. }
            | Self::NotEmpty { .. }
            | Self::Unreadable { .. }
            | Self::Input(_)
            | Self::Fakes { .. }
            | Self::NoFake(_)
            | Self::NoneMeant(_)
            | Self::Baseline { .. }
            | Self::OtherInput
            | Self::Key { .. }
            | Self::NothingToMeasure { .. }
            | Self::NoGoldens { .. }
            | Self::TooManyGoldens { .. } => ExitCode::from(WRONG_INPUT),
            Self::FromSchema(error) => error.exit_code(),
            Self::Settings(error) if error.is_of_command_line() => ExitCode::from(WRONG_INPUT),
            Self::Settings(_)
            | Self::Tenant(_)
            | Self::UnreadableGuest { .. }
            | Self::Refused { .. }
            | Self::NoneInForce { .. }
            | Self::Sandbox(_) => ExitCode::from(REFUSED),
            Self::OtherFuel
            | Self::NothingToMask { .. }
            | Self::Store(_)
            | Self::Stream(_)
            | Self::Panicked(_)
            | Self::Json(_)
            | Self::Output(_)
            | Self::Unwritable { .. } => ExitCode::FAILURE,
        }
    }
}

/// The command line is wrong, or a file that it names cannot be read.
const WRONG_INPUT: u8 = 2;
/// The settings cannot be used, or the component.
const REFUSED: u8 = 3;
