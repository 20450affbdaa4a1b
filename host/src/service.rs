//! Runs all tenants in one process. They share the servers, and the failure of one stays its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::config::{Config, TableName, Tenant, TenantName};
use crate::pipeline::RulesInForce;
use crate::rules::{Feed, Folders, Sources};
use crate::sandbox::SandboxEngine;
use crate::store::Database;
use crate::stream::Redis;
use crate::tenant::{Error, ProcessWide, RulesSource, Run};

/// Runs the service until `shutdown` is called.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let redis = Redis::new(&config)?;
    let database = Database::new(&config).map_err(Error::StoreUrl)?;
    let engine = SandboxEngine::new(&config).map_err(Error::Sandbox)?;
    let sources = Sources { engine, database: database.clone(), folders: Arc::<Folders>::default() };
    let rules = RulesSource::Versions(sources, Feed::new(database.clone()));
    run_all(ProcessWide { config, redis, database, rules }, shutdown).await
}

/// Runs the service with these rules for every tenant until `shutdown` is called.
pub async fn run_with(config: Config, rules: RulesInForce, shutdown: CancellationToken) -> Result<(), Error> {
    let redis = Redis::new(&config)?;
    let database = Database::new(&config).map_err(Error::StoreUrl)?;
    run_all(ProcessWide { config, redis, database, rules: RulesSource::Given(rules) }, shutdown).await
}

async fn run_all(shared: ProcessWide, shutdown: CancellationToken) -> Result<(), Error> {
    let shared = Arc::new(shared);
    let feed = tokio::spawn({
        let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
        async move {
            if let RulesSource::Versions(_, feed) = &shared.rules {
                feed.run(&shutdown).await;
            }
        }
    });
    let outcome = run_tenants(&shared, &shutdown).await;
    shutdown.cancel();
    // It tells the database that this replica is gone, which takes a moment at most.
    feed.await?;
    outcome
}

async fn run_tenants(shared: &Arc<ProcessWide>, shutdown: &CancellationToken) -> Result<(), Error> {
    let tenants = &shared.config.tenants;
    let run = |tenant: &Tenant| Run::new(Arc::clone(shared), tenant.clone(), shutdown.clone());
    if let ([only], false) = (tenants.as_slice(), shared.config.has_named_tenants) {
        return run(only).serve(false).await;
    }
    for (table, names) in tables_in_common(tenants) {
        let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        tracing::warn!(%table, tenants = names, "tenants share a table: each can keep an event from the others by storing its event_id and time first");
    }
    let mut runs = JoinSet::new();
    for tenant in tenants {
        // The span is on every line about the tenant, whatever level is wanted.
        let span = tracing::error_span!("serve", tenant = %tenant.name);
        let run = run(tenant);
        let served = async move {
            if let Err(error) = run.serve(true).await {
                tracing::error!(%error, "failed during the shutdown");
            }
        };
        runs.spawn(served.instrument(span));
    }
    let mut outcome = Ok(());
    while let Some(ended) = runs.join_next().await {
        // A tenant ends before the shutdown only by a defect, and then nothing should seem well.
        if let Err(panicked) = ended {
            shutdown.cancel();
            outcome = Err(panicked.into());
        }
    }
    outcome
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
