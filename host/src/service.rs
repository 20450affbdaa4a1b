//! Runs all tenants in one process. They share the servers, and the failure of one stays its own.
//! Tenants come, go and change with the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::admin::{Admin, Figures, Tenants};
use crate::config::{Config, TableName, Tenant, TenantName};
use crate::dead_letters::JobRunner;
use crate::metrics::ServiceCounters;
use crate::otlp::{MetricsPush, Traces};
use crate::pipeline::RulesInForce;
use crate::reload::Reload;
use crate::rules::{Feed, Folders, Sources};
use crate::sandbox::SandboxEngine;
use crate::store::Database;
use crate::stream::Redis;
use crate::tap::Places;
use crate::tenant::{AfterFailure, Error, ProcessWide, RulesSource, Run};

/// Runs the service until `shutdown` is called. With `reload`, it follows the settings.
pub async fn run(config: Config, reload: Option<Reload>, shutdown: CancellationToken) -> Result<(), Error> {
    let redis = Redis::new(&config)?;
    let database = Database::new(&config).map_err(Error::StoreUrl)?;
    let engine = SandboxEngine::new(&config).map_err(Error::Sandbox)?;
    let sources = Sources { engine, database: database.clone(), folders: Arc::<Folders>::default() };
    let rules = RulesSource::Versions(sources, Feed::new(database.clone()));
    let counters = Arc::<ServiceCounters>::default();
    let traces = Traces::from_environment(&config.consumer_name, &counters);
    let push = MetricsPush::from_environment(&config.consumer_name, &counters);
    let shared =
        ProcessWide { config, redis, database, rules, tap_places: Places::default(), counters, traces };
    run_all(shared, push, reload, shutdown).await
}

/// Runs the service with these rules for every tenant until `shutdown` is called.
pub async fn run_with(config: Config, rules: RulesInForce, shutdown: CancellationToken) -> Result<(), Error> {
    let redis = Redis::new(&config)?;
    let database = Database::new(&config).map_err(Error::StoreUrl)?;
    let rules = RulesSource::Given(rules);
    let (tap_places, counters) = (Places::default(), Arc::default());
    let shared = ProcessWide { config, redis, database, rules, tap_places, counters, traces: None };
    run_all(shared, None, None, shutdown).await
}

async fn run_all(
    shared: ProcessWide,
    push: Option<MetricsPush>,
    reload: Option<Reload>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let admin = Admin::bind(&shared.config).await?;
    let (shared, observed) = (Arc::new(shared), Tenants::default());
    let feed = tokio::spawn({
        let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
        async move {
            if let RulesSource::Versions(_, feed) = &shared.rules {
                feed.run(&shutdown).await;
            }
        }
    });
    let sources = match &shared.rules {
        RulesSource::Versions(sources, _) => Some(sources.clone()),
        RulesSource::Given(_) => None,
    };
    let jobs = sources.clone().map(|sources| {
        let (observed, shutdown) = (observed.clone(), shutdown.clone());
        let runner = JobRunner::new(shared.config.clone(), sources, move || observed.configs());
        AbortOnDropHandle::new(tokio::spawn(runner.run(shutdown)))
    });
    let figures = Figures::new(observed.clone(), &shared.database, Arc::clone(&shared.counters));
    let pushing = push.map(|push| push.start(figures.clone(), shutdown.clone()));
    let serve = |admin: Admin| tokio::spawn(admin.serve(figures, sources, shutdown.clone()));
    let _admin = admin.map(|admin| AbortOnDropHandle::new(serve(admin)));
    let traces = shared.traces.clone();
    let runs = Runs {
        observed,
        settings: shared.config.clone(),
        shared,
        shutdown: shutdown.clone(),
        tasks: JoinSet::new(),
        running: BTreeMap::new(),
        wanted: BTreeMap::new(),
    };
    let outcome = runs.serve(reload).await;
    shutdown.cancel();
    // They tell the database that this replica is gone, and give a job back, which takes a moment at most.
    feed.await?;
    if let Some(jobs) = jobs {
        jobs.await?;
    }
    let last_metrics = async {
        if let Some(pushing) = pushing {
            pushing.finish().await;
        }
    };
    let last_traces = async {
        if let Some(traces) = traces {
            traces.shutdown().await;
        }
    };
    tokio::join!(last_metrics, last_traces);
    outcome
}

/// How long a tenant that has ended waits until the database knows of it.
const LEAVING: Duration = Duration::from_millis(500);

/// The tenants that run, and those that are to run.
struct Runs {
    shared: Arc<ProcessWide>,
    observed: Tenants,
    /// The settings that were read last.
    settings: Config,
    shutdown: CancellationToken,
    tasks: JoinSet<(TenantName, Result<(), Error>)>,
    /// The tenants that run, each with its settings and what stops it.
    running: BTreeMap<TenantName, (Tenant, CancellationToken)>,
    /// All tenants of the settings.
    wanted: BTreeMap<TenantName, Tenant>,
}

impl Runs {
    /// Serves until the shutdown, or until a tenant that is the only one has failed.
    async fn serve(mut self, reload: Option<Reload>) -> Result<(), Error> {
        tell_tables_in_common(&self.settings.tenants);
        self.wanted = by_name(&self.settings.tenants);
        self.start_wanted();
        let mut outcome = Ok(());
        let mut settings = Settings(reload);
        while !self.tasks.is_empty() || !self.shutdown.is_cancelled() {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    let failure = match ended {
                        Ok((name, outcome)) => self.ended(&name, outcome),
                        Err(panicked) => Some(panicked.into()),
                    };
                    if let Some(error) = failure {
                        // Nothing should seem well.
                        self.shutdown.cancel();
                        outcome = outcome.and(Err(error));
                    }
                }
                config = settings.next(), if !self.shutdown.is_cancelled() => self.follow(config),
                () = self.shutdown.cancelled(), if self.tasks.is_empty() => {}
            }
        }
        outcome
    }

    /// Notes that a tenant's run has ended, and returns why the service is to end, if it is. A run ends before the shutdown because the settings are others, or, where it is
    /// the only tenant, by an error that somebody must look at.
    fn ended(&mut self, name: &TenantName, outcome: Result<(), Error>) -> Option<Error> {
        let stopped = self.running.remove(name).is_some_and(|(_, stop)| stop.is_cancelled());
        match outcome {
            Err(error) if !self.settings.has_named_tenants => return Some(error),
            Err(error) => tracing::error!(tenant = %name, %error, "failed during the shutdown"),
            Ok(()) => {}
        }
        if self.shutdown.is_cancelled() {
            return None;
        }
        if stopped && !self.wanted.contains_key(name) {
            tracing::info!(tenant = %name, "the tenant is gone from the settings, and is not served any more");
        }
        self.start_wanted();
        None
    }

    fn start_wanted(&mut self) {
        let missing: Vec<Tenant> =
            self.wanted.values().filter(|tenant| !self.running.contains_key(&tenant.name)).cloned().collect();
        for tenant in missing {
            let (name, stop) = (tenant.name.clone(), self.shutdown.child_token());
            let run = Run::new(Arc::clone(&self.shared), tenant.clone(), stop.clone());
            let registration = self.observed.add(run.observed());
            let after_failure = match self.settings.has_named_tenants {
                true => AfterFailure::BeginAgain,
                false => AfterFailure::End,
            };
            let served = {
                let name = name.clone();
                let (database, shutdown) = (self.shared.database.clone(), self.shutdown.clone());
                async move {
                    let outcome = run.serve(after_failure).await;
                    if shutdown.is_cancelled() {
                        registration.stay();
                    } else {
                        // The tenant is gone, or is started again and then says so. What the database does not hear it
                        // sees by the silence.
                        let _ = tokio::time::timeout(LEAVING, database.leave_replicas(Some(&name))).await;
                    }
                    (name, outcome)
                }
            };
            match self.settings.has_named_tenants {
                // The span is on every line about the tenant, whatever level is wanted.
                true => {
                    let span = tracing::error_span!("serve", tenant = %name);
                    self.tasks.spawn(served.instrument(span));
                }
                false => {
                    self.tasks.spawn(served);
                }
            }
            self.running.insert(name, (tenant, stop));
        }
    }

    /// Starts tenants that are new in the settings, stops those that are gone, and starts again those that are others.
    fn follow(&mut self, config: Option<Config>) {
        let Some(config) = config else { return self.shared.counters.reloaded(true) };
        if config.has_named_tenants != self.settings.has_named_tenants {
            tracing::error!(
                "[tenants] came or went in the settings: that takes a restart; nothing is changed"
            );
            self.shared.counters.reloaded(true);
            return;
        }
        self.shared.counters.reloaded(false);
        let fixed = self.shared.config.differences(&config);
        if !fixed.is_empty() {
            tracing::warn!(
                settings = fixed.join(", "),
                "these settings of the service are others than at the start; they take effect with the next start"
            );
        }
        let before = std::mem::replace(&mut self.wanted, by_name(&config.tenants));
        let is_new = |name: &&TenantName| !before.contains_key(*name);
        let added: Vec<_> = self.wanted.keys().filter(is_new).map(TenantName::as_str).collect();
        let changed: Vec<_> = self
            .wanted
            .values()
            .filter(|tenant| before.get(&tenant.name).is_some_and(|before| before != *tenant))
            .map(|tenant| tenant.name.as_str())
            .collect();
        let is_gone = |name: &&TenantName| !self.wanted.contains_key(*name);
        let removed: Vec<_> = before.keys().filter(is_gone).map(TenantName::as_str).collect();
        tracing::info!(
            added = added.join(", "),
            changed = changed.join(", "),
            removed = removed.join(", "),
            "the settings were read again"
        );
        tell_tables_in_common(&config.tenants);
        for (name, (tenant, stop)) in &self.running {
            if self.wanted.get(name) != Some(tenant) {
                stop.cancel(); // what is in flight is committed first
            }
        }
        self.settings = config;
        self.start_wanted();
    }
}

/// The settings, as they change.
struct Settings(Option<Reload>);

impl Settings {
    async fn next(&mut self) -> Option<Config> {
        match &mut self.0 {
            Some(reload) => reload.next().await,
            None => std::future::pending().await,
        }
    }
}

fn by_name(tenants: &[Tenant]) -> BTreeMap<TenantName, Tenant> {
    tenants.iter().map(|tenant| (tenant.name.clone(), tenant.clone())).collect()
}

/// Warns of tables that several tenants write to.
fn tell_tables_in_common(tenants: &[Tenant]) {
    for (table, names) in tables_in_common(tenants) {
        let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        tracing::warn!(%table, tenants = names, "tenants share a table: each can keep an event from the others by storing its event_id and time first");
    }
}

/// Returns the tables that several tenants write to.
pub(crate) fn tables_in_common(tenants: &[Tenant]) -> BTreeMap<&TableName, Vec<&TenantName>> {
    let mut tables: BTreeMap<&TableName, Vec<&TenantName>> = BTreeMap::new();
    for tenant in tenants {
        tables.entry(&tenant.events_table).or_default().push(&tenant.name);
    }
    tables.retain(|_, names| names.len() > 1);
    tables
}
