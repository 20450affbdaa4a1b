//! `sluicegate dead-letters`: what an operator does with entries that were not stored.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};

use crate::capabilities::Powers;
use crate::config::Config;
use crate::guests::{self, Guests};
use crate::judge::{Rules, judge};
use crate::sandbox::Sandboxes;
use crate::store::{self, Archive, Database, Filter, Judge, Letter, Part, Scope, Store};

/// Letters handled in one transaction.
const CHUNK: u32 = 500;
/// Between two looks at letters that another replay holds.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

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
        /// How long to wait, in the end, for letters that another replay holds
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = age)]
        wait: Duration,
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
    Guest(#[from] guests::Error),
    /// What such a guest does beside judging belongs to a batch of the stream.
    #[error(
        "letters cannot be replayed by a guest that uses stream, store or metrics; \
         add the entries to the stream again (`sluicegate dead-letters show` prints them), or replay by a guest without"
    )]
    Powers,
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
    Held {
        /// How many.
        letters: u64,
    },
    /// Nobody knows its rules and its table.
    #[error("there is no tenant {found:?} in the settings; wanted one of: {known}")]
    UnknownTenant {
        /// As it was asked for.
        found: String,
        /// All that there are.
        known: String,
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
    let mut archive = Archive::open(&database).await?;
    match command {
        Command::List { which, settled, limit, json } => {
            let filter = which.filter(!settled);
            let letters = archive.newest(&filter, limit).await?;
            match json {
                true => letters.iter().try_for_each(|letter| writeln!(out, "{}", as_json(letter)))?,
                false => table(&letters, archive.count(&filter).await?, out)?,
            }
        }
        Command::Show { id } => {
            let filter = Filter { id: Some(id), ..Filter::default() };
            let letter = archive.newest(&filter, 1).await?.pop().ok_or(Error::Unknown(id))?;
            show(&letter, out)?;
        }
        Command::Replay { which, dry_run, wait } => {
            let replayed = replay(&mut archive, &database, config, &which, dry_run, wait, progress).await?;
            summary(&replayed.outcomes, if dry_run { "would be" } else { "are" }, out)?;
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
                true => archive.count(&filter).await?,
                false => purge(&mut archive, &filter, progress).await?,
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
            before: self.older.map(ago),
            since: self.newer.map(ago),
            open,
        }
    }

    fn is_everything(&self) -> bool {
        let Self { id, reason, code, tenant, older, newer } = self;
        id.is_none()
            && reason.is_none()
            && code.is_none()
            && tenant.is_none()
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

/// What came of a replay.
#[derive(Default)]
struct Replayed {
    /// How many letters ended how.
    outcomes: BTreeMap<String, u64>,
    /// Letters that are left to another replay.
    held: u64,
}

/// Replays the letters of each tenant by its own rules, into its own table.
async fn replay(
    archive: &mut Archive,
    database: &Database,
    config: &Config,
    which: &Which,
    dry_run: bool,
    wait: Duration,
    progress: &mut dyn Write,
) -> Result<Replayed, Error> {
    let is_meant = |name: &str| which.tenant.as_deref().is_none_or(|wanted| wanted == name);
    if let Some(found) =
        which.tenant.clone().filter(|_| !config.tenants.iter().any(|tenant| is_meant(tenant.name.as_str())))
    {
        let known: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        return Err(Error::UnknownTenant { found, known: known.join(", ") });
    }
    let sandboxes = Sandboxes::new(config).map_err(Error::Sandbox)?;
    let mut replayed = Replayed::default();
    for tenant in config.tenants.iter().filter(|tenant| is_meant(tenant.name.as_str())) {
        let filter = Filter { tenant: Some(tenant.name.to_string()), ..which.filter(true) };
        let scope = archive.scope(filter).await?;
        if archive.left(&scope).await? == 0 {
            continue;
        }
        let store = database.store(tenant);
        store.prepare().await?;
        let guests = Guests::load(sandboxes.of(tenant).map_err(Error::Sandbox)?, tenant.guest.as_deref())?;
        let rules = guests.in_force().borrow().clone();
        if rules.wants_transaction() {
            return Err(Error::Powers);
        }
        let mut replaying = Replaying { archive, store, scope, dry_run, replayed: &mut replayed };
        replaying.run(rules.as_ref(), wait, progress).await?;
    }
    Ok(replayed)
}

/// The replay of a tenant's letters.
struct Replaying<'a> {
    archive: &'a mut Archive,
    store: Store,
    scope: Scope,
    dry_run: bool,
    replayed: &'a mut Replayed,
}

impl Replaying<'_> {
    /// Goes through the letters and, while another replay holds some, through
    /// what is left: the other may have died, and its letters are free as soon
    /// as the server has noticed. It waits so long for something to do.
    async fn run(
        &mut self,
        rules: &dyn Rules,
        wait: Duration,
        progress: &mut dyn Write,
    ) -> Result<(), Error> {
        // The rules run on this thread: nothing else waits for it.
        let judge = |entries| {
            let judge = || judge(rules, u64::MAX, entries, &mut Powers::default());
            // Without a transaction there is none to lose.
            tokio::task::block_in_place(judge).map_or_else(|_| Vec::new(), |judgement| judgement.entries)
        };

        let mut meter = Progress::new(self.archive.left(&self.scope).await?, progress);
        let mut idle_since = Instant::now();
        loop {
            if self.pass(&judge, &mut meter).await? > 0 {
                idle_since = Instant::now();
            }
            // A dry run locks nothing, and passes over nothing.
            let held = if self.dry_run { 0 } else { self.archive.left(&self.scope).await? };
            if held == 0 || idle_since.elapsed() >= wait {
                self.replayed.held += held;
                return Ok(());
            }
            meter.waits_for(held)?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Once through the letters that nobody holds; gives how many they were.
    async fn pass(&mut self, judge: Judge<'_>, meter: &mut Progress<'_>) -> Result<u64, Error> {
        let (mut after, mut replayed) = (0, 0);
        loop {
            let part = Part {
                store: &self.store,
                scope: &self.scope,
                after,
                limit: CHUNK,
                trial: self.dry_run,
                judge,
            };
            let part = self.archive.replay(part).await?;
            let Some(last) = part.last else { return Ok(replayed) };
            after = last;
            for (outcome, count) in part.outcomes {
                replayed += count;
                meter.advance(count)?;
                *self.replayed.outcomes.entry(outcome).or_default() += count;
            }
        }
    }
}

async fn purge(archive: &mut Archive, filter: &Filter, progress: &mut dyn Write) -> Result<u64, Error> {
    let mut meter = Progress::new(archive.count(filter).await?, progress);
    loop {
        match archive.purge(filter, CHUNK).await? {
            0 => return Ok(meter.done),
            purged => meter.advance(purged)?,
        }
    }
}

/// Tells now and then how far a long work is.
struct Progress<'a> {
    done: u64,
    in_total: u64,
    told: Instant,
    /// Whether it was told that others hold letters.
    is_waiting: bool,
    to: &'a mut dyn Write,
}

impl<'a> Progress<'a> {
    fn new(in_total: u64, to: &'a mut dyn Write) -> Self {
        Self { done: 0, in_total, told: Instant::now(), is_waiting: false, to }
    }

    fn advance(&mut self, by: u64) -> io::Result<()> {
        self.done += by;
        if self.told.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.told = Instant::now();
        writeln!(self.to, "{} of {}", self.done, self.in_total)
    }

    fn waits_for(&mut self, held: u64) -> io::Result<()> {
        if self.is_waiting {
            return Ok(());
        }
        self.is_waiting = true;
        writeln!(self.to, "waiting for {held} dead letters that another replay holds")
    }
}

fn table(letters: &[Letter], in_total: u64, out: &mut dyn Write) -> io::Result<()> {
    if letters.is_empty() {
        return writeln!(out, "no dead letters");
    }
    writeln!(out, "{:>8}  {:<20}  {:<19}  {:<21}  VIOLATION", "ID", "RECORDED", "REASON", "ENTRY")?;
    for letter in letters {
        let violation = letter.violations.first().map(|first| match first.path.is_empty() {
            true => first.code.clone(),
            false => format!("{}: {}", first.path, first.code),
        });
        let more = match letter.violations.len() {
            0 | 1 => String::new(),
            more => format!(" (and {})", more - 1),
        };
        let replayed = letter
            .replay_outcome
            .as_deref()
            .map(|outcome| format!(" [replayed: {outcome}]"))
            .unwrap_or_default();
        writeln!(
            out,
            "{:>8}  {:<20}  {:<19}  {:<21}  {}{more}{replayed}",
            letter.id,
            second(letter.recorded_at),
            printable(&letter.reason),
            printable(&letter.entry_id),
            printable(&violation.unwrap_or_default()),
        )?;
    }
    let shown = u64::try_from(letters.len()).unwrap_or(u64::MAX);
    if in_total > shown {
        writeln!(out, "the newest {shown} of {in_total}; --limit shows more")?;
    }
    Ok(())
}

fn show(letter: &Letter, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "dead letter {}", letter.id)?;
    let replayed = match (&letter.replay_outcome, letter.replayed_at) {
        (Some(outcome), Some(at)) => format!("{outcome}, {}", second(at)),
        _ => "never".to_owned(),
    };
    for (name, value) in [
        ("reason", letter.reason.clone()),
        ("tenant", letter.tenant.clone()),
        ("stream", letter.stream.clone()),
        ("entry", letter.entry_id.clone()),
        ("deliveries", letter.deliveries.to_string()),
        ("rules", letter.component.clone()),
        ("recorded", second(letter.recorded_at)),
        ("replayed", replayed),
    ] {
        writeln!(out, "  {name:<10}  {}", printable(&value))?;
    }
    writeln!(out, "violations")?;
    for violation in &letter.violations {
        let path = if violation.path.is_empty() { "(entry)" } else { &violation.path };
        writeln!(
            out,
            "  {}: {}: {}",
            printable(path),
            printable(&violation.code),
            printable(&violation.message)
        )?;
    }
    writeln!(out, "fields")?;
    match &letter.fields {
        None => writeln!(out, "  (the entry was deleted before it was read)"),
        Some(fields) => fields.chunks(2).try_for_each(|pair| match pair {
            [name, value] => writeln!(out, "  {} = {}", readable(name), readable(value)),
            _ => Ok(()),
        }),
    }
}

fn summary(outcomes: &BTreeMap<String, u64>, verb: &str, out: &mut dyn Write) -> io::Result<()> {
    if outcomes.is_empty() {
        return writeln!(out, "no dead letters to replay");
    }
    for (outcome, count) in outcomes {
        match outcome.as_str() {
            "stored" | "duplicate" | "discarded" => writeln!(out, "{count:>8}  {verb} {outcome}")?,
            open => writeln!(
                out,
                "{count:>8}  {} dead letters still: {}",
                if verb == "are" { "are" } else { "would be" },
                printable(open)
            )?,
        }
    }
    Ok(())
}

fn as_json(letter: &Letter) -> serde_json::Value {
    serde_json::json!({
        "id": letter.id,
        "tenant": letter.tenant,
        "stream": letter.stream,
        "entry_id": letter.entry_id,
        "reason": letter.reason,
        "violations": letter.violations,
        "deliveries": letter.deliveries,
        "component": letter.component,
        "recorded_at": second(letter.recorded_at),
        "replay_outcome": letter.replay_outcome,
        "replayed_at": letter.replayed_at.map(second),
    })
}

fn second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Text as it is, control characters escaped: a letter must not write to the operator's terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// UTF-8 as text, other bytes escaped.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => printable(text),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
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

    #[test]
    fn a_letter_cannot_write_to_the_terminal() {
        assert_eq!(readable(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(readable(b"\xff\n"), "b\"\\xff\\n\"");
    }
}
