//! `sluicegate dead-letters`: list, summary, show, replay, purge.

use std::io::Write;

use clap::{Args, Subcommand};

use super::progress::{Progress, ProgressMeter};
use super::{Age, Error, Which, listing, purge, replay};
use crate::audit::{Commanded, user};
use crate::config::Config;
use crate::sandbox::SandboxEngine;
use crate::store::{Database, DeadLetterStore, Filter};
use crate::text::grouped;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the newest
    List {
        /// Which ones
        #[command(flatten)]
        which: Chosen,
        /// Those too that a replay has settled
        #[arg(long)]
        settled: bool,
        /// How many, at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// One JSON object a line, with everything but the fields
        #[arg(long)]
        json: bool,
    },
    /// Count letters by their cause, the most frequent first; one counts for each of its violations
    Summary {
        /// Which ones
        #[command(flatten)]
        which: Chosen,
        /// Those too that a replay has settled
        #[arg(long)]
        settled: bool,
        /// How many causes, at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one, with its fields
    Show {
        /// Its number, as `list` gives it
        id: i64,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Judge letters again by the current rules, and store what they now accept
    Replay {
        /// Which ones
        #[command(flatten)]
        which: Chosen,
        /// Only tell what would come of them
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for rows that the rules write to and somebody else holds, and, in the end,
        /// for letters that another replay holds
        #[arg(long, value_name = "TIME", default_value = "30s")]
        wait: Age,
        /// Judge by the rules of these settings, though the service has others in force
        #[arg(long)]
        force: bool,
    },
    /// Delete letters, open and settled
    Purge {
        /// Which ones
        #[command(flatten)]
        which: Chosen,
        /// Only tell how many
        #[arg(long)]
        dry_run: bool,
        /// Without any condition, this is needed
        #[arg(long)]
        all: bool,
    },
}

impl Command {
    /// Returns the tenant whose letters are meant, if it is named.
    fn tenant(&self) -> Option<&str> {
        match self {
            Self::List { which, .. }
            | Self::Summary { which, .. }
            | Self::Replay { which, .. }
            | Self::Purge { which, .. } => which.tenant.as_deref(),
            Self::Show { .. } => None,
        }
    }
}

/// Which letters, and whose.
#[derive(Args, Clone, Debug)]
pub struct Chosen {
    #[command(flatten)]
    which: Which,
    /// Of this tenant
    #[arg(long)]
    tenant: Option<String>,
}

impl Chosen {
    fn filter(&self, open: bool) -> Filter {
        self.which.filter(self.tenant.as_deref(), open)
    }

    fn is_everything(&self) -> bool {
        self.which.is_everything() && self.tenant.is_none()
    }
}

/// Carries out a command; what it tells goes to `out`, its progress to `progress`.
pub async fn run(
    command: Command,
    config: &Config,
    out: &mut dyn Write,
    progress: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let database = Database::new(config)?;
    database.prepare().await?;
    let dead_letters = DeadLetterStore::new(&database);
    if let Some(tenant) = command.tenant() {
        check_tenant(tenant, config, &dead_letters).await?;
    }
    match command {
        Command::List { which, settled, limit, json } => {
            let filter = which.filter(!settled);
            let letters = dead_letters.newest(&filter, limit).await?;
            match json {
                true => {
                    letters.iter().try_for_each(|letter| writeln!(out, "{}", listing::as_json(letter)))?
                }
                false => {
                    let in_total = dead_letters.count(&filter).await?;
                    listing::table(&letters, in_total, config.has_named_tenants, out)?;
                }
            }
        }
        Command::Summary { which, settled, limit, json } => {
            let causes = dead_letters.causes(&which.filter(!settled), limit).await?;
            match json {
                true => {
                    causes.iter().try_for_each(|cause| writeln!(out, "{}", listing::cause_as_json(cause)))?
                }
                false => listing::causes(&causes, out)?,
            }
        }
        Command::Show { id, json } => {
            let filter = Filter { id: Some(id), ..Filter::default() };
            let letter = dead_letters.letter(&filter).await?.ok_or(Error::Unknown(id))?;
            match json {
                true => writeln!(out, "{}", listing::as_json_with_fields(&letter))?,
                false => listing::show(&letter, out)?,
            }
        }
        Command::Replay { which, dry_run, wait, force } => {
            let engine = SandboxEngine::for_command(config).map_err(Error::Sandbox)?;
            let means = replay::Means { config, database: &database, engine: &engine };
            let how = replay::How { dry_run, wait: wait.0, force };
            let mut meter = ProgressMeter::new(progress);
            let replayed =
                replay::replay(&means, &which.which, which.tenant.as_deref(), how, &mut meter).await;
            if !dry_run {
                let told = replayed.as_ref().map(|replayed| format!("{:?}", replayed.outcomes));
                audit(&database, "replay", &which, told, &mut meter).await?;
            }
            let replayed = replayed?;
            listing::summary(&replayed.outcomes, if dry_run { "would be" } else { "are" }, out)?;
            if replayed.held > 0 {
                out.flush()?;
                return Err(Error::Held { letters: replayed.held });
            }
        }
        Command::Purge { which, dry_run, all } => {
            if which.is_everything() && !all && !dry_run {
                return Err(Error::Everything);
            }
            let mut meter = ProgressMeter::new(progress);
            let purged = purge::purge(&dead_letters, &which.filter(false), dry_run, &mut meter).await;
            if !dry_run {
                let told = purged.as_ref().map(|purged| format!("{purged} deleted"));
                audit(&database, "purge", &which, told, &mut meter).await?;
            }
            let (purged, verb) = (grouped(purged?), if dry_run { "would be" } else { "are" });
            writeln!(out, "{purged} dead letters {verb} deleted")?;
        }
    }
    Ok(out.flush()?)
}

/// Refuses the name of a tenant that there is not: it is misspelt. One that is gone from the settings may have left letters.
async fn check_tenant(name: &str, config: &Config, dead_letters: &DeadLetterStore) -> Result<(), Error> {
    let of_tenant = Filter { tenant: Some(name.to_owned()), ..Filter::default() };
    match config.tenants.iter().any(|tenant| tenant.name.as_str() == name)
        || !dead_letters.newest(&of_tenant, 1).await?.is_empty()
    {
        true => Ok(()),
        false => Err(Error::unknown_tenant(name, config)),
    }
}

/// Records who has changed what. If that fails, the change is made all the same, and it is said.
async fn audit(
    database: &Database,
    what: &str,
    which: &Chosen,
    told: Result<String, &Error>,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let commanded = Commanded {
        author: &user(),
        action: &format!("dead-letters {what}"),
        tenant: which.tenant.as_deref(),
        target: &serde_json::to_string(&which.which).unwrap_or_default(),
    };
    match commanded.record(database, told).await {
        Ok(()) => Ok(()),
        Err(why) => Ok(progress.say(&why)?),
    }
}
