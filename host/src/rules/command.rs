//! `sluicegate rules`: deploys versions of the rules, shows where each replica is, and goes back.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::deploy::{self, Deployed, Operator, Status};
use super::{file, listing};
use crate::audit::{Commanded, user};
use crate::config::Config;
use crate::sandbox::SandboxEngine;
use crate::store::{self, Database};

/// What the exit codes mean.
pub const EXIT_CODES: &str = "Exit codes:
  0  it is done; of `status` and with --wait: every replica has in force what is wanted
  1  a server, the settings or the machine is at fault
  2  the command line is wrong, or a file that it names cannot be read
  3  it is refused: the component, the version, or the tenant
  4  of `status` and with --wait: not every replica has in force what is wanted, or another version was deployed after this one";

/// What to do with the rules of a tenant.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put a component into force on all replicas
    Deploy {
        /// A component file
        file: PathBuf,
        /// What the rules read by `wasi:config`; without any, the tenant's GUEST_SETTINGS
        #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        change: Change,
    },
    /// Put an earlier version into force again, with the grants that the settings give now
    Rollback {
        /// The first digits of the version; without, the one before the present one
        #[arg(value_name = "VERSION", value_parser = digits)]
        version: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Show what is wanted, and what each replica has in force
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// List versions, the newest first
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a version: its settings, grants and limits
    Show {
        /// The first digits of the version
        #[arg(value_name = "VERSION", value_parser = digits)]
        version: String,
        #[command(flatten)]
        which: Which,
    },
    /// List what happened, the newest first
    History {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limit: Limit,
    },
    /// Read no more entries, on all replicas; what was read is committed
    Pause {
        #[command(flatten)]
        change: Change,
    },
    /// Read again
    Resume {
        #[command(flatten)]
        change: Change,
    },
}

/// Whose rules, and how to show them.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// The tenant; needed if there are several
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct Limit {
    /// How many, at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

#[derive(Args, Clone, Debug)]
pub struct Change {
    #[command(flatten)]
    which: Which,
    /// Why, for the history
    #[arg(long, short, default_value = "", value_parser = text)]
    message: String,
    /// Who, for the history [default: the name of this user]
    #[arg(long, value_name = "NAME", value_parser = text)]
    by: Option<String>,
    /// Wait until every replica has it in force, for so long at most; 30s without a value
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "30s", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] crate::config::Error),
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    #[error(transparent)]
    Deploy(#[from] deploy::Error),
    #[error("the file {file} cannot be read: {source}")]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// Returns the code that the program exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Deploy(error) if error.is_refusal() => ExitCode::from(REFUSED),
            Self::Unreadable { .. } => ExitCode::from(WRONG_INPUT),
            Self::Settings(error) if error.is_of_command_line() => ExitCode::from(WRONG_INPUT),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The command line is wrong, or a file that it names cannot be read.
const WRONG_INPUT: u8 = 2;
/// What was wanted is refused.
const REFUSED: u8 = 3;
/// Not every replica has in force what is wanted.
const NOT_EVERYWHERE: u8 = 4;

/// Carries out a command, and returns the code to exit with.
pub async fn run(command: Command, config: &Config, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let component = match &command {
        // No server is asked for what cannot be deployed anyway.
        Command::Deploy { file, change, .. } => {
            let tenant = deploy::tenant(config, change.which.tenant.as_deref())?;
            let unreadable = |source| Error::Unreadable { file: file.clone(), source };
            file::read(file, tenant.guest_component.bytes()).map_err(unreadable)?
        }
        _ => Vec::new(),
    };
    let database = Database::new(config)?;
    database.prepare().await?;
    let operator = |which: &Which, author: String, message: String| {
        let tenant = deploy::tenant(config, which.tenant.as_deref())?;
        Ok::<_, Error>(Operator { database: &database, tenant, author, message })
    };
    let looking = |which: &Which| operator(which, String::new(), String::new());
    let changing = |change: &Change| {
        operator(&change.which, change.by.clone().unwrap_or_else(user), change.message.clone())
    };
    let code = match command {
        Command::Deploy { file, settings, change } => {
            let operator = changing(&change)?;
            let settings = (!settings.is_empty()).then(|| settings.into_iter().collect::<BTreeMap<_, _>>());
            let engine = SandboxEngine::for_command(config).map_err(Error::Sandbox)?;
            let source = file.display().to_string();
            let deployed = operator.deploy(&engine, component, source.clone(), settings).await;
            record(&operator, "rules deploy", &source, deployed.as_ref().map(named)).await?;
            let deployed = deployed?;
            tell_deployed(&operator, &change, &deployed, out).await?
        }
        Command::Rollback { version, change } => {
            let operator = changing(&change)?;
            let deployed = operator.rollback(version.as_deref()).await;
            let target = version.as_deref().unwrap_or_default();
            record(&operator, "rules rollback", target, deployed.as_ref().map(named)).await?;
            let deployed = deployed?;
            tell_deployed(&operator, &change, &deployed, out).await?
        }
        Command::Pause { change } => pause(&changing(&change)?, &change, true, out).await?,
        Command::Resume { change } => pause(&changing(&change)?, &change, false, out).await?,
        Command::Status { which } => {
            let status = looking(&which)?.status().await?;
            listing::status(&status, which.json, out)?;
            code_of(&status)
        }
        Command::List { which, limit } => {
            let operator = looking(&which)?;
            let wanted = operator.status().await?.wanted;
            let versions = operator.versions(limit.limit).await?;
            listing::versions(&versions, &wanted, limit.limit, which.json, out)?;
            ExitCode::SUCCESS
        }
        Command::Show { version, which } => {
            listing::version(&looking(&which)?.version(&version).await?, which.json, out)?;
            ExitCode::SUCCESS
        }
        Command::History { which, limit } => {
            let history = looking(&which)?.history(limit.limit).await?;
            listing::history(&history, limit.limit, which.json, out)?;
            ExitCode::SUCCESS
        }
    };
    out.flush()?;
    Ok(code)
}

fn named(deployed: &Deployed) -> String {
    format!("version {}", deployed.version)
}

/// Records who has changed what. If that fails, it is said.
async fn record(
    operator: &Operator<'_>,
    action: &str,
    target: &str,
    told: Result<String, &deploy::Error>,
) -> Result<(), Error> {
    let tenant = Some(operator.tenant.name.as_str());
    let commanded = Commanded { author: &operator.author, action, tenant, target };
    match commanded.record(operator.database, told).await {
        Ok(()) => Ok(()),
        Err(why) => Ok(writeln!(io::stderr(), "{why}")?),
    }
}

async fn tell_deployed(
    operator: &Operator<'_>,
    change: &Change,
    deployed: &Deployed,
    out: &mut dyn Write,
) -> Result<ExitCode, Error> {
    if !change.which.json {
        let version = deployed.version;
        match deployed.is_known {
            true => {
                writeln!(out, "version {version} is wanted already (deployment {})", deployed.deployment)?
            }
            false => writeln!(out, "version {version} is deployed (deployment {})", deployed.deployment)?,
        }
    }
    wait(operator, change, Some(deployed), out).await
}

async fn pause(
    operator: &Operator<'_>,
    change: &Change,
    is_to_pause: bool,
    out: &mut dyn Write,
) -> Result<ExitCode, Error> {
    let action = if is_to_pause { "rules pause" } else { "rules resume" };
    let done = operator.pause(is_to_pause).await;
    record(operator, action, "", done.as_ref().map(|_| String::new())).await?;
    done?;
    if !change.which.json {
        let said = if is_to_pause { "nothing more is to be read" } else { "entries are to be read" };
        writeln!(out, "tenant {}: {said}", operator.tenant.name)?;
    }
    wait(operator, change, None, out).await
}

/// Waits if that is wanted, and tells where each replica is.
async fn wait(
    operator: &Operator<'_>,
    change: &Change,
    deployed: Option<&Deployed>,
    out: &mut dyn Write,
) -> Result<ExitCode, Error> {
    let status = match change.wait {
        Some(wait) => operator.wait(wait).await?,
        None if change.which.json => operator.status().await?,
        None => return Ok(ExitCode::SUCCESS),
    };
    listing::deployed(deployed, &status, change.which.json, out)?;
    let wanted = status.wanted.version.as_ref().map(|wanted| wanted.version.digest);
    let is_overtaken = deployed.is_some_and(|deployed| wanted != Some(deployed.version.digest));
    if is_overtaken && !change.which.json {
        writeln!(out, "another version was deployed after this one")?;
    }
    Ok(match change.wait {
        Some(_) if is_overtaken => ExitCode::from(NOT_EVERYWHERE),
        Some(_) => code_of(&status),
        None => ExitCode::SUCCESS,
    })
}

fn code_of(status: &Status) -> ExitCode {
    if status.is_everywhere() { ExitCode::SUCCESS } else { ExitCode::from(NOT_EVERYWHERE) }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("found {text:?}, wanted NAME=VALUE")),
    }
}

/// Reads what goes into the history.
fn text(text: &str) -> Result<String, String> {
    match text.len() <= 1_000 && !text.contains('\0') {
        true => Ok(text.to_owned()),
        false => Err("wanted 1000 bytes at most, none of them zero".to_owned()),
    }
}

/// Reads the beginning of a digest.
fn digits(text: &str) -> Result<String, String> {
    match (4..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("found {text:?}, wanted 4 to 64 hexadecimal digits, such as 0c77de41f19b")),
    }
}
