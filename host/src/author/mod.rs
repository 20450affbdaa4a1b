//! Tools for those who write rules: `sluicegate rules run` and its kin. They need no server.
//!
//! - [`format`]: entries and what came of them, as JSON lines
//! - `project`: the settings, and the rules that they name
//! - `asker`: asks the rules as the service does
//! - `run`: `rules run`
//! - `command`: the command line
//!
//! Guest code runs in worker processes, under the limits of the service, and what it returns is checked as there.

mod asker;
mod command;
pub mod format;
mod project;
mod run;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

pub use command::{Command, run};

use crate::config;
use crate::rules::{Refusal, deploy};

/// Why a command for authors failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] config::Error),
    #[error(transparent)]
    Tenant(#[from] deploy::Error),
    /// A folder holds no settings.
    #[error(
        "there is no {file}; wanted the folder of a rules project, or the file with its settings by --config"
    )]
    NoProject { file: PathBuf },
    #[error("the component {file} cannot be read: {source}")]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("the component {name} is refused: {reason}")]
    Refused { name: String, reason: Refusal },
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    #[error(transparent)]
    Input(#[from] format::Error),
    /// The rules want a transaction, and there is none.
    #[error("the rules import capabilities of the world `pipeline`, for which there is no server here")]
    NoServer,
    /// The program has a defect.
    #[error("asking the rules panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    #[error("writing JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// Returns the code that the program exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoProject { .. } | Self::Input(_) => ExitCode::from(WRONG_INPUT),
            Self::Settings(_)
            | Self::Tenant(_)
            | Self::Unreadable { .. }
            | Self::Refused { .. }
            | Self::Sandbox(_)
            | Self::NoServer => ExitCode::from(REFUSED),
            Self::Panicked(_) | Self::Json(_) | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

/// The command line is wrong, or a file that it names.
const WRONG_INPUT: u8 = 2;
/// The settings cannot be used, or the component.
const REFUSED: u8 = 3;
