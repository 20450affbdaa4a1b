//! `sluicegate dead-letters`: what an operator does with entries that were not stored.
//!
//! - `listing`: letters as text and as JSON
//! - `replay`: letters judged again
//! - `progress`: how far a long work is

mod listing;
mod progress;
mod replay;

use std::io::{self, Write};
use std::time::Duration;

use chrono::Utc;
use clap::{Args, Subcommand};

use crate::config::Config;
use crate::store::{self, Database, DeadLetterStore, Filter};
use crate::{outbox, rules, stream};
use progress::ProgressMeter;

/// Letters deleted in one transaction.
const CHUNK: u32 = 500;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the newest
    List {
        /// Which ones
        #[command(flatten)]
        which: Which,
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
        which: Which,
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
    },
    /// Judge letters again by the current rules, and store what they now accept
    Replay {
        /// Which ones
        #[command(flatten)]
        which: Which,
        /// Only tell what would come of them
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for rows that the rules write to and somebody else holds, and, in the end,
        /// for letters that another replay holds
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = age)]
        wait: Duration,
        /// Judge by the rules of these settings, though the service has others in force
        #[arg(long)]
        force: bool,
    },
    /// Delete letters, open and settled
    Purge {
        /// Which ones
        #[command(flatten)]
        which: Which,
        /// Only tell how many
        #[arg(long)]
        dry_run: bool,
        /// Without any condition, this is needed
        #[arg(long)]
        all: bool,
    },
}

/// Which letters. All conditions must hold.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// This number
    #[arg(long)]
    id: Option<i64>,
    /// With this reason: rejected, undecodable, trapped, …
    #[arg(long)]
    reason: Option<String>,
    /// With a violation of this code: missing, `wrong_type`, …
    #[arg(long)]
    code: Option<String>,
    /// Of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// From this stream
    #[arg(long)]
    stream: Option<String>,
    /// Judged by this version of the rules: the first digits of its digest or its component's, as `show` and the log have it
    #[arg(long, value_name = "DIGEST", value_parser = digits)]
    guest: Option<String>,
    /// Older than this: 30s, 15m, 12h, 7d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older: Option<Duration>,
    /// Not older than this
    #[arg(long, value_name = "AGE", value_parser = age)]
    newer: Option<Duration>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting.
    #[error(transparent)]
    Settings(#[from] crate::config::Error),
    /// PostgreSQL.
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    /// The rules to replay with.
    #[error(transparent)]
    Rules(#[from] rules::Error),
    /// Redis, or its URL, which is needed only for rules that publish.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error(
        "what the rules have published was not sent ({0}); it is kept, and sent by the next replay or the \
         next start of the service"
    )]
    Unsent(#[from] outbox::Error),
    /// Rows that the rules, or theirs, want.
    #[error(
        "somebody else, the service perhaps, held rows that the rules write to for longer than --wait \
         (postgres: {0}); what was replayed before is stored: run this again"
    )]
    Conflict(store::Error),
    /// The sandbox does not start.
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    /// The reader of the output is gone, for example.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    /// No such letter.
    #[error("there is no dead letter {0}; `sluicegate dead-letters list` shows which there are")]
    Unknown(i64),
    /// Not everything could be replayed.
    #[error(
        "{letters} dead letters were not replayed: another replay holds them; run this again when it has ended"
    )]
    Held { letters: u64 },
    /// Nobody knows its rules and its table.
    #[error("there is no tenant {found:?} in the settings; wanted one of: {known}")]
    UnknownTenant {
        /// As it was asked for.
        found: String,
        /// All that there are.
        known: String,
    },
    /// The rules of the settings are not those of the service.
    #[error(
        "tenant {tenant}: {differs}; run this with the settings of the service (GUEST, GUEST_SETTINGS, .env, \
         sluicegate.toml), or add --force to judge by the rules of these settings"
    )]
    OtherRules {
        tenant: crate::config::TenantName,
        /// What differs, and how.
        differs: String,
    },
    /// A purge of everything, by mistake perhaps.
    #[error("purge without a condition deletes every dead letter; add --all if that is meant")]
    Everything,
}

/// Carries out a command; what it tells goes to `out`, its progress to `progress`.
pub async fn run(
    command: Command,
    config: &Config,
    out: &mut dyn Write,
    progress: &mut dyn Write,
) -> Result<(), Error> {
    let database = Database::new(config)?;
    database.prepare().await?;
    let dead_letters = DeadLetterStore::new(&database);
    match command {
        Command::List { which, settled, limit, json } => {
            let filter = which.filter(!settled);
            let letters = dead_letters.newest(&filter, limit).await?;
            match json {
                true => {
                    letters.iter().try_for_each(|letter| writeln!(out, "{}", listing::as_json(letter)))?
                }
                false => listing::table(&letters, dead_letters.count(&filter).await?, out)?,
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
        Command::Show { id } => {
            let filter = Filter { id: Some(id), ..Filter::default() };
            let letter = dead_letters.newest(&filter, 1).await?.pop().ok_or(Error::Unknown(id))?;
            listing::show(&letter, out)?;
        }
        Command::Replay { which, dry_run, wait, force } => {
            let how = replay::How { dry_run, wait, force };
            let replayed = replay::replay(&dead_letters, &database, config, &which, how, progress).await?;
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
            let filter = which.filter(false);
            let purged = match dry_run {
                true => dead_letters.count(&filter).await?,
                false => purge(&dead_letters, &filter, progress).await?,
            };
            writeln!(out, "{purged} dead letters {} deleted", if dry_run { "would be" } else { "are" })?;
        }
    }
    Ok(out.flush()?)
}

impl Which {
    fn filter(&self, open: bool) -> Filter {
        let ago = |age: Duration| Utc::now() - age;
        Filter {
            id: self.id,
            reason: self.reason.clone(),
            code: self.code.clone(),
            tenant: self.tenant.clone(),
            stream: self.stream.clone(),
            guest: self.guest.clone(),
            before: self.older.map(ago),
            since: self.newer.map(ago),
            open,
        }
    }

    fn is_everything(&self) -> bool {
        let Self { id, reason, code, tenant, stream, guest, older, newer } = self;
        id.is_none()
            && reason.is_none()
            && code.is_none()
            && tenant.is_none()
            && stream.is_none()
            && guest.is_none()
            && older.is_none()
            && newer.is_none()
    }
}

/// Reads `30s`, `15m`, `12h` or `7d`; at most a hundred years.
fn age(text: &str) -> Result<Duration, String> {
    let wanted = || format!("found {text:?}, wanted a number and one of s, m, h, d, such as 12h");
    let (number, seconds) = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or_else(wanted)?;
    let number: u64 = number.parse().map_err(|_| wanted())?;
    let seconds =
        number.checked_mul(seconds).filter(|seconds| *seconds <= 36_500 * 86_400).ok_or_else(wanted)?;
    Ok(Duration::from_secs(seconds))
}

/// Reads the beginning of a digest.
fn digits(text: &str) -> Result<String, String> {
    match (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("found {text:?}, wanted 1 to 64 hexadecimal digits, such as 0c77de41f19b")),
    }
}

async fn purge(
    dead_letters: &DeadLetterStore,
    filter: &Filter,
    progress: &mut dyn Write,
) -> Result<u64, Error> {
    let mut meter = ProgressMeter::new(dead_letters.count(filter).await?, progress);
    let mut after = 0;
    while let Some((purged, last)) = dead_letters.purge(filter, after, CHUNK).await? {
        meter.advance(purged)?;
        after = last;
    }
    Ok(meter.done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "7", "d", "-1h", "1.5h", "7w", "99999999999999999999d", "36501d"] {
            assert!(age(bad).is_err(), "{bad:?}");
        }
    }
}
