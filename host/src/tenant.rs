//! Starts a tenant's pipeline when the servers are there, again after a failure, and drains it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::admin::{self, Observed};
use crate::config::{Config, Tenant, TenantName, Time};
use crate::log_limit::Reminder;
use crate::metrics::{Counters, Dependency, Reporter, ServiceCounters};
use crate::otlp::Traces;
use crate::outbox;
use crate::pipeline::{self, Pipeline, RulesInForce};
use crate::retry::{Backoff, Retry};
use crate::rules::{self, Feed, Refused, RulesLoader, Sources, Stamp};
use crate::store;
use crate::store::{Database, DeadLetterStore, Filter, Store};
use crate::stream::{self, Redis, Stream};
use crate::tap::{Places, Tap};
use sluicegate_verdicts::EntryId;

/// How long the exit waits until the consumer has left its group.
const LEAVING: Duration = Duration::from_secs(1);

/// A run that lasted so long before it failed went well, and the delays begin anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Why the service, or a tenant, ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis failed, and trying again cannot help.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// PostgreSQL failed, and trying again cannot help.
    #[error("postgres at {address}: {source}")]
    Store {
        /// Host, port and database.
        address: String,
        source: Box<store::Error>,
    },
    /// PostgreSQL's URL cannot be used.
    #[error(transparent)]
    StoreUrl(store::Error),
    /// There are no rules to begin with.
    #[error(transparent)]
    Rules(Box<rules::Error>),
    /// The sandbox does not start.
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    /// The admin API cannot be served as the settings want it.
    #[error(transparent)]
    Admin(#[from] admin::Error),
    #[error(transparent)]
    Pipeline(#[from] pipeline::Error),
    /// The service has a defect.
    #[error("a task panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Error {
    fn is_of_credentials(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_of_credentials(),
            Self::Store { source, .. } => source.is_of_credentials(),
            Self::Pipeline(error) => error.is_of_credentials(),
            Self::StoreUrl(_) | Self::Rules(_) | Self::Sandbox(_) | Self::Admin(_) | Self::Panicked(_) => {
                false
            }
        }
    }
}

/// What all tenants share.
pub(crate) struct ProcessWide {
    pub(crate) config: Config,
    pub(crate) redis: Redis,
    pub(crate) database: Database,
    pub(crate) rules: RulesSource,
    pub(crate) tap_places: Places,
    pub(crate) counters: Arc<ServiceCounters>,
    /// What traces batches, where an endpoint is set.
    pub(crate) traces: Option<Traces>,
}

pub(crate) enum RulesSource {
    /// The versions that files and deployments put into force.
    Versions(Sources, Feed),
    /// These rules, for every tenant.
    Given(RulesInForce),
}

/// Serves one tenant for as long as the process lives.
pub(crate) struct Run {
    shared: Arc<ProcessWide>,
    tenant: Tenant,
    counters: Arc<Counters>,
    tap: Arc<Tap>,
    reporter: Reporter,
    /// The rules, which are kept when the pipeline is started again.
    rules: Option<Watched>,
    /// The version that was refused, which is not compiled again at the next start.
    refused: Option<Refused<Stamp>>,
    /// Whether both servers were once as they must be.
    has_run: bool,
    shutdown: CancellationToken,
}

/// What a tenant does after an error that does not pass by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// It ends: nothing else goes on, and whoever started the process should see the error.
    End,
    /// It begins again later, because other tenants go on meanwhile.
    BeginAgain,
}

/// The rules in force, and the tasks that replace them.
struct Watched {
    in_force: RulesInForce,
    is_paused: watch::Receiver<bool>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Run {
    /// Touches nothing yet.
    pub(crate) fn new(shared: Arc<ProcessWide>, tenant: Tenant, shutdown: CancellationToken) -> Self {
        let monitor = shared.redis.stream(&shared.config, &tenant).monitor();
        let reporter = Reporter::new(&shared.config, &tenant.name, monitor);
        let tap = Arc::new(Tap::new(shared.tap_places.clone(), shutdown.clone()));
        Self {
            shared,
            tenant,
            counters: Arc::default(),
            tap,
            reporter,
            rules: None,
            refused: None,
            has_run: false,
            shutdown,
        }
    }

    /// Returns what others may see of the tenant.
    pub(crate) fn observed(&self) -> Observed {
        let monitor = self.shared.redis.stream(&self.shared.config, &self.tenant).monitor();
        Observed::new(self.tenant.clone(), Arc::clone(&self.counters), Arc::clone(&self.tap), monitor)
    }

    /// Serves until the shutdown, or an error that somebody must look at. After an error that may pass there is a new
    /// run, with growing delays between them.
    pub(crate) async fn serve(mut self, after_failure: AfterFailure) -> Result<(), Error> {
        let mut backoff = Backoff::slow();
        loop {
            let begun = Instant::now();
            let Err(error) = self.serve_once(self.shutdown.child_token()).await else { return Ok(()) };
            let said = match &error {
                Error::Pipeline(error) if error.is_fenced() => {
                    "a batch took longer than CLAIM_MIN_IDLE, or two replicas share a CONSUMER_NAME; beginning again \
                     later: set the one higher, or give each replica another name"
                }
                // Credentials that were good before: somebody may be changing them.
                error if error.is_of_credentials() && self.has_run => {
                    "a server does not let us in any more; trying again later"
                }
                _ if after_failure == AfterFailure::BeginAgain && !self.shutdown.is_cancelled() => {
                    "this tenant has failed; starting it again later"
                }
                _ => return Err(error),
            };
            if begun.elapsed() >= HEALTHY_AFTER {
                backoff = Backoff::slow();
            }
            // Without a pause, two of one name would fence each other for ever, and store nothing.
            let delay = backoff.delay();
            tracing::error!(%error, again_in_s = delay.as_secs(), "{said}");
            self.counters.failed();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.reporter.run(&self.counters, &self.shutdown) => return Ok(()),
            }
        }
    }

    /// Runs the pipeline once, until `shutdown` or an error.
    async fn serve_once(&mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { shared, tenant, counters, tap, reporter, rules, refused, .. } = self;
        let ProcessWide { config, redis, database, .. } = &**shared;
        let (stream, store) = (redis.stream(config, tenant), database.store(tenant));
        // The rules of the last run go on. A compilation may take too long for a shutdown.
        let known = rules.take();
        let loading = async {
            match known {
                Some(known) => Ok(known),
                None => watch_rules(shared, tenant, refused, counters, &self.shutdown).await,
            }
        };
        let Prepared { watched, last_decided, has_made_group } = tokio::select! {
            prepared = prepare(&stream, &store, tenant, counters, loading) => prepared?,
            () = reporter.run(counters, &shutdown) => return Ok(()),
        };
        let watched = rules.insert(watched);
        let (rules, is_paused) = (watched.in_force.clone(), watched.is_paused.clone());
        counters.started();
        self.has_run = true;
        tracing::info!(
            redis = redis.address(),
            postgres = database.address(),
            stream = tenant.stream_name,
            group = tenant.consumer_group,
            consumer = config.consumer_name,
            "running"
        );
        // What was trimmed while nobody read shows only before the first read.
        reporter.look_for_losses(counters).await;

        let housekeeping = housekeep(stream.clone(), store.clone(), tenant.clone());
        let _housekeeping = AbortOnDropHandle::new(tokio::spawn(housekeeping.in_current_span()));
        let pruning = prune_decided(store.clone(), tenant.decided_kept.0);
        let _pruning = AbortOnDropHandle::new(tokio::spawn(pruning.in_current_span()));
        let pipeline = Pipeline {
            reader: stream.reader(tenant),
            rules,
            is_paused,
            store,
            last_decided,
            has_made_group,
            acknowledger: stream.acknowledger(),
            attempts: stream.attempts(),
            counters: Arc::clone(counters),
            tap: Arc::clone(tap),
            traces: shared.traces.as_ref().map(|traces| traces.of_tenant(tenant)),
        };
        let reporting = shutdown.child_token();
        let (outcome, ()) = tokio::join!(
            async {
                let outcome = pipeline.run(tenant, shutdown.clone()).await;
                reporting.cancel();
                outcome
            },
            reporter.run(counters, &reporting),
        );
        reporter.report(counters).await;
        outcome?;
        if !self.shutdown.is_cancelled() {
            // A batch that is dropped ends the run, whatever the stages say.
            return Err(pipeline::Error::Dropped.into());
        }
        // Leaving is only tried, because somebody waits for the exit.
        if let Ok(Err(error)) = tokio::time::timeout(LEAVING, stream.leave()).await {
            tracing::debug!(%error, "the consumer stays in its group");
        }
        Ok(())
    }
}

/// Begins with a version of the tenant's rules, and replaces it by what its file and deployments want.
async fn watch_rules(
    shared: &ProcessWide,
    tenant: &Tenant,
    refused: &mut Option<Refused<Stamp>>,
    counters: &Arc<Counters>,
    shutdown: &CancellationToken,
) -> Result<Watched, Error> {
    let (sources, feed) = match &shared.rules {
        RulesSource::Given(in_force) => {
            let is_paused = watch::Sender::new(false).subscribe();
            return Ok(Watched { in_force: in_force.clone(), is_paused, _tasks: Vec::new() });
        }
        RulesSource::Versions(sources, feed) => (sources, feed),
    };
    let loader = RulesLoader::start(sources.clone(), tenant, refused, counters, shutdown.clone()).await;
    let loader = Arc::new(loader.map_err(|error| match error {
        rules::Error::Store(source) => {
            Error::Store { address: sources.database.address().to_owned(), source: Box::new(source) }
        }
        error => Error::Rules(Box::new(error)),
    })?);
    let (in_force, is_paused) = (loader.in_force(), loader.is_paused());
    let watching = tokio::spawn(Arc::clone(&loader).watch(refused.clone()).in_current_span());
    let following = tokio::spawn(loader.apply_deployments(feed.subscribe()).in_current_span());
    let _tasks = vec![AbortOnDropHandle::new(watching), AbortOnDropHandle::new(following)];
    Ok(Watched { in_force, is_paused, _tasks })
}

/// The time between two deletions of what was decided.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Deletes what was decided so long ago that it does not come again, until the run ends.
async fn prune_decided(store: Store, kept: Duration) {
    let mut reminder = Reminder::default();
    // Before that nothing is old enough, and a tenant with nothing to do asks PostgreSQL nothing.
    tokio::time::sleep(kept).await;
    let (mut given, mut given_at) = (0, Instant::now());
    loop {
        tokio::time::sleep(FORGET_EVERY).await;
        if store.numbers_given() != given {
            (given, given_at) = (store.numbers_given(), Instant::now());
        }
        if given == 0 || given_at.elapsed() > kept + 3 * FORGET_EVERY {
            continue;
        }
        // Tenants take turns: many that started together would ask at the same moment.
        let Ok(_permit) = store.database().housekeeping_permit().await else { return };
        if let Err(error) = store.prune_decided(kept).await
            && reminder.is_due()
        {
            tracing::warn!(%error, "what was decided long ago was not deleted; trying again");
        }
    }
}

/// Deletes every hour what nobody needs any more, and does what replays have left undone.
async fn housekeep(stream: Stream, store: Store, tenant: Tenant) {
    let retention = tenant.dead_letter_retention;
    let mut hours = tokio::time::interval(Duration::from_secs(3_600));
    loop {
        hours.tick().await;
        // Tenants take turns, or a hundred would want a connection at the same moment.
        let Ok(_permit) = store.database().housekeeping_permit().await else { return };
        match purge(&store, &tenant.name, retention).await {
            Ok(0) => {}
            Ok(purged) => tracing::info!(purged, "old dead letters deleted"),
            Err(error) => {
                tracing::warn!(%error, "old dead letters were not deleted; trying again in an hour")
            }
        }
        match outbox::send(&store, || Ok(stream.clone())).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, "sent what a replay that was killed had published"),
            Err(error) => {
                tracing::warn!(%error, "what a replay has published was not sent; trying again in an hour")
            }
        }
        if let Err(error) = store.register(pipeline::slots(&tenant)).await {
            tracing::warn!(%error, "the rows of this run were not renewed; trying again in an hour");
        }
        if let Err(error) = store.database().prune_rules(&tenant.name).await {
            tracing::warn!(%error, "old versions of the rules were not deleted; trying again in an hour");
        }
        if let Err(error) = prune_admin(&store, &tenant.name).await {
            tracing::warn!(%error, "old jobs and audit rows were not deleted; trying again in an hour");
        }
        if let Err(error) = prune(&stream, &store).await {
            tracing::warn!(%error, "the record of old commits was not deleted; trying again in an hour");
        }
    }
}

/// Deletes dead letters that are older than the setting says, if it says anything.
async fn purge(store: &Store, tenant: &TenantName, retention: Option<Time>) -> Result<u64, store::Error> {
    /// The letters that are deleted in one transaction.
    const CHUNK: u32 = 1_000;
    let Some(Time(retention)) = retention else { return Ok(0) };
    let before = Some(chrono::Utc::now() - retention);
    let filter = Filter { before, tenant: Some(tenant.to_string()), ..Filter::default() };
    let dead_letters = DeadLetterStore::new(store.database());
    let (mut purged, mut after) = (0, 0);
    while let Some((part, last)) = dead_letters.purge(&filter, after, CHUNK, None).await? {
        purged += part;
        after = last;
    }
    Ok(purged)
}

/// Deletes what the admin API has left behind long ago.
async fn prune_admin(store: &Store, tenant: &TenantName) -> Result<(), store::Error> {
    store.database().prune_jobs(tenant).await?;
    store.database().prune_audit().await
}

/// Deletes the record of commits of which nothing is pending any more.
async fn prune(stream: &Stream, store: &Store) -> Result<(), pipeline::Error> {
    for stale in store.stale().await? {
        let end = EntryId { milliseconds: stale.last, sequence: u64::MAX };
        if !stream.is_pending(EntryId { milliseconds: stale.first, sequence: 0 }, end).await? {
            store.prune(&stale).await?;
        }
    }
    Ok(())
}

/// What was found when both servers were there.
struct Prepared {
    watched: Watched,
    /// The greatest ID that is known to have been decided.
    last_decided: Option<EntryId>,
    /// Whether there was no group, so that it was made.
    has_made_group: bool,
}

/// Waits until both servers are there and as they must be, and the rules are in force.
async fn prepare(
    stream: &Stream,
    store: &Store,
    tenant: &Tenant,
    counters: &Arc<Counters>,
    loading: impl Future<Output = Result<Watched, Error>>,
) -> Result<Prepared, Error> {
    let redis = async {
        let mut retry = Retry::new("waiting for redis").telling(counters.waiting_for(Dependency::Redis));
        let has_made_group = loop {
            if let Some(is_made) = retry.after(stream.prepare().await).await.map_err(Error::Stream)? {
                break is_made;
            }
        };
        Ok::<bool, Error>(has_made_group)
    };
    let postgres = async {
        // Rules come into force when the database has recorded them.
        let watched = loading.await?;
        let address = store.database().address();
        let mut retry = Retry::new(format!("waiting for postgres at {address}"))
            .telling(counters.waiting_for(Dependency::Postgres));
        let prepare = async || {
            store.prepare().await?;
            store.register(pipeline::slots(tenant)).await?;
            store.last_decided().await
        };
        let last_decided = loop {
            let prepared = retry.after(prepare().await).await;
            let failed =
                |source: store::Error| Error::Store { address: address.to_owned(), source: Box::new(source) };
            if let Some(last_decided) = prepared.map_err(failed)? {
                break last_decided;
            }
        };
        Ok((watched, last_decided))
    };
    let (has_made_group, (watched, last_decided)) = tokio::try_join!(redis, postgres)?;
    Ok(Prepared { watched, last_decided, has_made_group })
}
