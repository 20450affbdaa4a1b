//! Letters judged again, by the rules and into the table of their tenant.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::progress::ProgressMeter;
use super::{Error, Which};
use crate::batch::Version;
use crate::config::{Config, Tenant};
use crate::judge::Rules;
use crate::outbox;
use crate::rules::{self, Manifest};
use crate::sandbox::SandboxEngine;
use crate::store::{Database, DeadLetterStore, Filter, Replay, ReplayPage, Scope, Store};
use crate::stream::{self, Redis, Stream};
use crate::text::printable;

/// Letters replayed in one transaction, at most.
const MAX_PART: usize = 500;
/// Between two looks at what somebody else holds.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What came of a replay.
#[derive(Default)]
pub(super) struct Replayed {
    /// How many letters ended how.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// Letters that are left to another replay.
    pub(super) held: u64,
}

/// What an operator wants of a replay.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// Only to know what would come of it.
    pub(super) dry_run: bool,
    /// For what somebody else holds.
    pub(super) wait: Duration,
    /// By other rules than those in force.
    pub(super) force: bool,
}

/// Replays the letters of each tenant by its own rules, into its own table.
pub(super) async fn replay(
    dead_letters: &DeadLetterStore,
    database: &Database,
    config: &Config,
    which: &Which,
    How { dry_run, wait, force }: How,
    progress: &mut dyn Write,
) -> Result<Replayed, Error> {
    let is_meant = |name: &str| which.tenant.as_deref().is_none_or(|wanted| wanted == name);
    if let Some(found) =
        which.tenant.clone().filter(|_| !config.tenants.iter().any(|tenant| is_meant(tenant.name.as_str())))
    {
        let known: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        return Err(Error::UnknownTenant { found, known: known.join(", ") });
    }
    let engine = SandboxEngine::new(config).map_err(Error::Sandbox)?;
    // All are looked at before the first letter is touched: what is refused for one is to be refused as a whole.
    let mut replays = Vec::new();
    for tenant in config.tenants.iter().filter(|tenant| is_meant(tenant.name.as_str())) {
        let filter = Filter { tenant: Some(tenant.name.to_string()), ..which.filter(true) };
        let scope = dead_letters.scope(filter).await?;
        let store = database.store(tenant);
        let outbox = Outbox { config, tenant, stream: OnceCell::new() };
        if dead_letters.left(&scope).await? == 0 {
            replays.push((store, outbox, scope, None));
            continue;
        }
        store.prepare().await?;
        let (rules, manifest, from) = rules::load_for_replay(&engine, tenant, database, force).await?;
        writeln!(progress, "tenant {}: judged by the rules {} ({from})", tenant.name, rules.version())?;
        match difference(database, tenant, rules.version(), &manifest).await? {
            Some(differs) if !force => {
                return Err(Error::OtherRules { tenant: tenant.name.clone(), differs });
            }
            Some(differs) => writeln!(progress, "tenant {}: {differs}; judged all the same", tenant.name)?,
            None => {}
        }
        if !dry_run && !tenant.grants.publish.is_empty() {
            outbox.stream()?; // better now than after the first letters
        }
        replays.push((store, outbox, scope, Some(rules)));
    }
    let mut replayed = Replayed::default();
    for (store, outbox, scope, rules) in replays {
        if !dry_run {
            outbox.send(&store).await?;
        }
        let Some(rules) = rules else { continue };
        let replayed = &mut replayed;
        // The rules' limits are made for so many.
        let limit = u32::try_from(outbox.tenant.batch_size.min(MAX_PART)).unwrap_or(u32::MAX);
        let mut replaying = ReplayRun { dead_letters, store, outbox, scope, limit, dry_run, wait, replayed };
        replaying.run(&rules, progress).await?;
    }
    Ok(replayed)
}

/// How these rules differ from those that the service is to have in force.
async fn difference(
    database: &Database,
    tenant: &Tenant,
    version: Version,
    manifest: &Manifest,
) -> Result<Option<String>, Error> {
    let wanted = database.wanted(&tenant.name, true).await?;
    let Some(stored) = &wanted.version else {
        return Ok(Some("the service has never told which rules are in force".to_owned()));
    };
    let by = printable(&wanted.author);
    let since = wanted.since.map(|since| since.format("%FT%TZ").to_string()).unwrap_or_default();
    if stored.version.component != version.component {
        let (found, in_force) = (version.component, stored.version.component);
        return Ok(Some(format!(
            "found the component {found}, wanted {in_force}, which {by} has put into force at {since}"
        )));
    }
    let is_alike = Manifest::parse(&stored.manifest, stored.version.digest)
        .is_ok_and(|in_force| in_force.judges_like(manifest));
    if !is_alike {
        return Ok(Some(format!(
            "found other guest settings, grants or statements than {by} has put into force at {since}"
        )));
    }
    let replicas = database.replicas(&tenant.name).await?;
    let table = tenant.events_table.to_string();
    let newest = replicas.iter().min_by(|one, other| one.silent_s.total_cmp(&other.silent_s));
    Ok(newest.filter(|replica| replica.events_table != table).map(|replica| {
        let (consumer, found) = (printable(&replica.consumer), printable(&replica.events_table));
        format!("found the table {table}, wanted {found}, to which {consumer} writes")
    }))
}

/// Where the publications of a tenant's rules go.
struct Outbox<'a> {
    config: &'a Config,
    tenant: &'a Tenant,
    /// Made when it is needed: without publications, no Redis is.
    stream: OnceCell<Stream>,
}

impl Outbox<'_> {
    fn stream(&self) -> Result<Stream, stream::Error> {
        if let Some(stream) = self.stream.get() {
            return Ok(stream.clone());
        }
        let stream = Redis::new(self.config)?.stream(self.config, self.tenant);
        Ok(self.stream.get_or_init(|| stream).clone())
    }

    async fn send(&self, store: &Store) -> Result<(), outbox::Error> {
        outbox::send(store, || self.stream()).await.map(drop)
    }
}

/// The replay of a tenant's letters.
struct ReplayRun<'a> {
    dead_letters: &'a DeadLetterStore,
    store: Store,
    outbox: Outbox<'a>,
    scope: Scope,
    /// Letters in one transaction.
    limit: u32,
    dry_run: bool,
    /// For what somebody else holds.
    wait: Duration,
    replayed: &'a mut Replayed,
}

impl ReplayRun<'_> {
    /// Goes through the letters and, while another replay holds some, through
    /// what is left: the other may have died, and its letters are free as soon
    /// as the server has noticed. It waits so long for something to do.
    async fn run(&mut self, rules: &Arc<dyn Rules>, progress: &mut dyn Write) -> Result<(), Error> {
        let mut meter = ProgressMeter::new(self.dead_letters.left(&self.scope).await?, progress);
        let mut idle_since = Instant::now();
        loop {
            if self.pass(rules, &mut meter).await? > 0 {
                idle_since = Instant::now();
            }
            // A dry run locks nothing, and passes over nothing.
            let held = if self.dry_run { 0 } else { self.dead_letters.left(&self.scope).await? };
            if held == 0 || idle_since.elapsed() >= self.wait {
                self.replayed.held += held;
                return Ok(());
            }
            meter.waits_for(&format!("{held} dead letters that another replay holds"))?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Once through the letters that nobody holds; returns how many they were.
    async fn pass(&mut self, rules: &Arc<dyn Rules>, meter: &mut ProgressMeter<'_>) -> Result<u64, Error> {
        let (mut after, mut replayed) = (0, 0);
        // So many letters are to be taken one by one.
        let mut alone = 0_u32;
        loop {
            let limit = if alone > 0 { 1 } else { self.limit };
            let Some(part) = self.part(after, limit, rules, meter).await? else {
                alone = limit;
                continue;
            };
            let Some(last) = part.last else { return Ok(replayed) };
            (after, alone) = (last, alone.saturating_sub(1));
            if part.has_published {
                self.outbox.send(&self.store).await?;
            }
            for (outcome, count) in part.outcomes {
                replayed += count;
                meter.advance(count)?;
                *self.replayed.outcomes.entry(outcome).or_default() += count;
            }
        }
    }

    /// What the rules write to may be held by the service, for as long as a batch takes.
    async fn part(
        &self,
        after: i64,
        limit: u32,
        rules: &Arc<dyn Rules>,
        meter: &mut ProgressMeter<'_>,
    ) -> Result<Option<Replay>, Error> {
        let begun = Instant::now();
        loop {
            let Self { store, scope, dry_run: trial, .. } = self;
            let part = ReplayPage { store, scope, after, limit, trial: *trial, rules };
            match self.dead_letters.replay(part).await {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                Err(error) if begun.elapsed() >= self.wait => return Err(Error::Conflict(error)),
                Err(_) => {
                    meter.waits_for("rows that somebody else holds")?;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(replay) => return Ok(replay),
            }
        }
    }
}
