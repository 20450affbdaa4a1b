//! Letters judged again, by the rules and into the table of their tenant.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::{Error, Which};
use crate::batch::Version;
use crate::config::{Config, Tenant};
use crate::judge::Rules;
use crate::outbox;
use crate::rules::{self, Manifest};
use crate::sandbox::SandboxEngine;
use crate::store::{Database, DeadLetterStore, Job, JobLease, Replay, ReplayPage, Scope, Store};
use crate::stream::{self, Redis, Stream};
use crate::text::printable;

/// Letters replayed in one transaction, at most.
const MAX_PART: usize = 500;
/// Between two looks at what somebody else holds.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a replay works with.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) config: &'a Config,
    pub(super) database: &'a Database,
    pub(super) engine: &'a SandboxEngine,
}

/// What came of a replay.
#[derive(Debug, Default)]
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

/// Replays the letters of each tenant, or of one, by its own rules, into its own table.
pub(super) async fn replay(
    means: &Means<'_>,
    which: &Which,
    tenant: Option<&str>,
    how: How,
    progress: &mut dyn Progress,
) -> Result<Replayed, Error> {
    let tenants = &means.config.tenants;
    let is_meant = |name: &str| tenant.is_none_or(|wanted| wanted == name);
    if let Some(found) = tenant.filter(|_| !tenants.iter().any(|tenant| is_meant(tenant.name.as_str()))) {
        return Err(Error::unknown_tenant(found, means.config));
    }
    // All are looked at before the first letter is touched: what is refused for one is to be refused as a whole.
    let mut replays = Vec::new();
    for tenant in tenants.iter().filter(|tenant| is_meant(tenant.name.as_str())) {
        replays.push(TenantReplay::prepare(means, tenant, which, how, None, progress).await?);
    }
    let mut replayed = Replayed::default();
    for replay in replays {
        replay.run(None, &mut replayed, progress).await?;
    }
    Ok(replayed)
}

/// The replay of a tenant's letters, with the rules that it judges by.
pub(super) struct TenantReplay<'a> {
    dead_letters: DeadLetterStore,
    store: Store,
    outbox: Outbox<'a>,
    scope: Scope,
    /// None where no letters were left.
    rules: Option<Arc<dyn Rules>>,
    how: How,
}

impl<'a> TenantReplay<'a> {
    /// Finds the letters, and loads the rules if there are any. Refuses rules that are not those in force, unless that
    /// is forced. A job that was begun before goes on with the letters that it was about then.
    pub(super) async fn prepare(
        means: &Means<'a>,
        tenant: &'a Tenant,
        which: &Which,
        how: How,
        job: Option<&Job>,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let Means { config, database, engine } = *means;
        let dead_letters = DeadLetterStore::new(database);
        let scope = dead_letters.scope(which.filter(Some(tenant.name.as_str()), true), job).await?;
        let store = database.store(tenant);
        let outbox = Outbox { config, tenant, stream: OnceLock::new() };
        let mut replay = Self { dead_letters, store, outbox, scope, rules: None, how };
        if replay.dead_letters.left(&replay.scope).await? == 0 {
            return Ok(replay);
        }
        replay.store.prepare().await?;
        let (rules, manifest, from) = rules::load_for_replay(engine, tenant, database, how.force).await?;
        progress.say(&format!("tenant {}: judged by the rules {} ({from})", tenant.name, rules.version()))?;
        match difference(database, tenant, rules.version(), &manifest).await? {
            Some(differs) if !how.force => {
                return Err(Error::OtherRules { tenant: tenant.name.clone(), differs });
            }
            Some(differs) => {
                progress.say(&format!("tenant {}: {differs}; judged all the same", tenant.name))?;
            }
            None => {}
        }
        if !how.dry_run && !tenant.grants.publish.is_empty() {
            replay.outbox.stream()?; // better now than after the first letters
        }
        replay.rules = Some(rules);
        Ok(replay)
    }

    /// Replays the letters. If this is dropped in its midst, what is committed stays, and the rest is as it was.
    pub(super) async fn run(
        self,
        job: Option<&JobLease>,
        replayed: &mut Replayed,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let Self { dead_letters, store, outbox, scope, rules, how } = self;
        if !how.dry_run {
            outbox.send(&store).await?;
        }
        let in_total = match rules {
            Some(_) => dead_letters.left(&scope).await?,
            None => 0,
        };
        if let Some(job) = job {
            // A dry run marks no letter, so those that it has come to are among them.
            let done = if how.dry_run { 0 } else { job.progress().done };
            job.begin(&scope, done + in_total).await?;
        }
        let Some(rules) = rules else { return Ok(()) };
        progress.begin(in_total);
        // The rules' limits are made for so many.
        let limit = u32::try_from(outbox.tenant.batch_size.min(MAX_PART)).unwrap_or(u32::MAX);
        let judged = |replayed: &Replayed| replayed.outcomes.values().sum::<u64>();
        let before = judged(replayed);
        let run = ReplayRun {
            dead_letters,
            store,
            outbox,
            scope,
            limit,
            how,
            rules,
            job,
            replayed: &mut *replayed,
        };
        run.run(progress).await?;
        let passed_over = in_total.saturating_sub(judged(replayed) - before);
        if how.dry_run && job.is_none() && passed_over > 0 {
            progress.say(&format!(
                "{passed_over} dead letters were not judged: another replay has just done so"
            ))?;
        }
        Ok(())
    }
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
    stream: OnceLock<Stream>,
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

/// A replay as it goes through the letters.
struct ReplayRun<'a> {
    dead_letters: DeadLetterStore,
    store: Store,
    outbox: Outbox<'a>,
    scope: Scope,
    /// Letters in one transaction.
    limit: u32,
    how: How,
    rules: Arc<dyn Rules>,
    job: Option<&'a JobLease>,
    replayed: &'a mut Replayed,
}

impl ReplayRun<'_> {
    /// Goes through the letters and, while another replay holds some, through
    /// what is left: the other may have died, and its letters are free as soon
    /// as the server has noticed. It waits so long for something to do.
    async fn run(mut self, progress: &mut dyn Progress) -> Result<(), Error> {
        let mut idle_since = Instant::now();
        loop {
            if self.pass(progress).await? > 0 {
                idle_since = Instant::now();
            }
            // A dry run locks nothing, and passes over nothing.
            let held = if self.how.dry_run { 0 } else { self.dead_letters.left(&self.scope).await? };
            if held == 0 || idle_since.elapsed() >= self.how.wait {
                self.replayed.held += held;
                return Ok(());
            }
            progress.wait_for(&format!("{held} dead letters that another replay holds"))?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Once through the letters that nobody holds; returns how many they were.
    async fn pass(&mut self, progress: &mut dyn Progress) -> Result<u64, Error> {
        // Letters that were replayed are marked, but not by a dry run.
        let begin = self.job.filter(|_| self.how.dry_run).map_or(0, |job| job.progress().after);
        let (mut after, mut replayed) = (begin, 0);
        // So many letters are to be taken one by one.
        let mut alone = 0_u32;
        loop {
            let limit = if alone > 0 { 1 } else { self.limit };
            let Some(part) = self.part(after, limit, progress).await? else {
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
                progress.advance(count)?;
                *self.replayed.outcomes.entry(outcome).or_default() += count;
            }
        }
    }

    /// What the rules write to may be held by the service, for as long as a batch takes.
    async fn part(
        &self,
        after: i64,
        limit: u32,
        progress: &mut dyn Progress,
    ) -> Result<Option<Replay>, Error> {
        let begun = Instant::now();
        loop {
            let Self { store, scope, how, rules, job, .. } = self;
            let part = ReplayPage { store, scope, after, limit, trial: how.dry_run, rules, job: *job };
            match self.dead_letters.replay(part).await {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                Err(error) if begun.elapsed() >= how.wait => return Err(Error::Conflict(error)),
                Err(_) => {
                    progress.wait_for("rows that somebody else holds")?;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(replay) => return Ok(replay),
            }
        }
    }
}
