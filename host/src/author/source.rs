//! Entries that really came: of a file, of the history of the tenant's stream, or of dead letters.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args};

use super::Error;
use super::project::Project;
use crate::dead_letters::{Age, Moment};
use crate::store::{Database, DeadLetterStore, Filter};
use crate::stream::{History, Redis};
use sluicegate_verdicts::format::Lines;
use sluicegate_verdicts::{Entry, EntryId};

/// Letters are read in pages of so many.
const PAGE: u32 = 500;

/// Where entries come from.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("source").required(true).args(["events", "stream", "dead_letters"]))]
pub(super) struct Options {
    /// Entries as JSON lines; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["last", "newer", "since", "before"])]
    events: Option<PathBuf>,
    /// What the tenant's stream still holds; no consumer group is touched
    #[arg(long)]
    stream: bool,
    /// The tenant's dead letters, replayed or not
    #[arg(long)]
    dead_letters: bool,
    /// The newest so many
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    last: u64,
    /// Not older than this: 30s, 15m, 12h, 7d
    #[arg(long, value_name = "AGE", conflicts_with = "since")]
    newer: Option<Age>,
    /// Added, or recorded, at this time or later: 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Added, or recorded, before this time
    #[arg(long, value_name = "TIME")]
    before: Option<Moment>,
    /// Of dead letters, those with a violation of this code
    #[arg(long, requires = "dead_letters")]
    code: Option<String>,
    /// Of dead letters, those with this reason: rejected, trapped, …
    #[arg(long, requires = "dead_letters")]
    reason: Option<String>,
}

/// Entries, of which some are kept in memory at a time.
pub(super) struct Entries {
    source: Source,
    /// What was read and not given yet.
    rest: VecDeque<Entry>,
}

enum Source {
    File(Lines<Box<dyn BufRead>>),
    Stream(History),
    Letters(Letters),
}

/// Dead letters, the newest first.
struct Letters {
    store: DeadLetterStore,
    filter: Filter,
    left: u64,
}

impl Options {
    /// Opens the source.
    pub(super) async fn open(&self, project: &Project) -> Result<Entries, Error> {
        Ok(Entries { source: self.open_source(project).await?, rest: VecDeque::new() })
    }

    async fn open_source(&self, project: &Project) -> Result<Source, Error> {
        if let Some(file) = &self.events {
            return Ok(Source::File(match file.to_str() {
                Some("-") => {
                    Lines::new("standard input".to_owned(), Box::new(io::BufReader::new(io::stdin())))
                }
                _ => Lines::open(file)?.boxed(),
            }));
        }
        let (config, tenant) = (&project.config, &project.tenant);
        if self.stream {
            let id = |time: DateTime<Utc>, sequence| EntryId {
                milliseconds: u64::try_from(time.timestamp_millis()).unwrap_or(0),
                sequence,
            };
            let from = self.since().map_or(EntryId::ZERO, |since| id(since, 0));
            let last = EntryId { milliseconds: u64::MAX, sequence: u64::MAX };
            let to = self
                .before
                .map_or(last, |Moment(before)| id(before - chrono::TimeDelta::milliseconds(1), u64::MAX));
            let history = Redis::new(config)?.stream(config, tenant).history(from, to, self.last).await?;
            return Ok(Source::Stream(history));
        }
        let database = Database::new(config)?;
        database.prepare().await?;
        let filter = Filter {
            tenant: Some(tenant.name.to_string()),
            code: self.code.clone(),
            reason: self.reason.clone(),
            since: self.since(),
            before: self.before.map(|Moment(before)| before),
            ..Filter::default()
        };
        Ok(Source::Letters(Letters { store: DeadLetterStore::new(&database), filter, left: self.last }))
    }

    fn since(&self) -> Option<DateTime<Utc>> {
        let newer = self.newer.map(|Age(age)| Utc::now() - age);
        newer.or(self.since.map(|Moment(since)| since))
    }

    /// Returns whether the entries are those of users, rather than of a file that somebody has made.
    pub(super) fn is_live(&self) -> bool {
        self.events.is_none()
    }
}

impl Entries {
    /// Returns the next entries, fewer than so many only at the end. Entries whose fields are lost are left out.
    pub(super) async fn next_batch(&mut self, size: usize) -> Result<Vec<Entry>, Error> {
        while self.rest.len() < size {
            let part = match &mut self.source {
                Source::File(lines) => read_part(lines)?,
                Source::Stream(history) => history.next_page().await?,
                Source::Letters(letters) => letters.next_part().await?,
            };
            if part.is_empty() {
                break;
            }
            self.rest.extend(part);
        }
        Ok(self.rest.drain(..size.min(self.rest.len())).collect())
    }
}

fn read_part(lines: &mut Lines<Box<dyn BufRead>>) -> Result<Vec<Entry>, Error> {
    let mut part = Vec::new();
    while part.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
        let Some(entry) = lines.next_entry()? else { break };
        part.push(entry);
    }
    Ok(part)
}

impl Letters {
    async fn next_part(&mut self) -> Result<Vec<Entry>, Error> {
        loop {
            let limit = u32::try_from(self.left).map_or(PAGE, |left| left.min(PAGE));
            if limit == 0 {
                return Ok(Vec::new());
            }
            let letters = self.store.newest_in_full(&self.filter, limit).await?;
            let Some(oldest) = letters.last() else { return Ok(Vec::new()) };
            self.filter.before_id = Some(oldest.id);
            self.left = self.left.saturating_sub(u64::try_from(letters.len()).unwrap_or(u64::MAX));
            let entries: Vec<Entry> = letters
                .iter()
                .filter(|letter| letter.fields.is_some())
                .map(|letter| letter.entry())
                .collect();
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
    }
}
