//! Letters judged again, by the rules and into the table of their tenant.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::{CHUNK, Error, Which};
use crate::capabilities::Powers;
use crate::config::Config;
use crate::guests::Guests;
use crate::judge::{Rules, judge};
use crate::sandbox::Sandboxes;
use crate::store::{Archive, Database, Filter, Judge, Part, Scope, Store};

/// Between two looks at letters that another replay holds.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What came of a replay.
#[derive(Default)]
pub(super) struct Replayed {
    /// How many letters ended how.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// Letters that are left to another replay.
    pub(super) held: u64,
}

/// Replays the letters of each tenant by its own rules, into its own table.
pub(super) async fn replay(
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
