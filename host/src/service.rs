//! Runs all tenants in one process. They share the servers, and the failure of one stays its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::admin::{Admin, Tenants};
use crate::config::{Config, TableName, Tenant, TenantName};
use crate::pipeline::RulesInForce;
use crate::sandbox::SandboxEngine;
use crate::store::Database;
use crate::stream::Redis;
use crate::tenant::{Error, ProcessWide, RulesSource, Run};

/// Runs the service until `shutdown` is called.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let redis = Redis::new(&config)?;
    let database = Database::new(&config).map_err(Error::StoreUrl)?;
    let engine = SandboxEngine::new(&config).map_err(Error::Sandbox)?;
    let rules = RulesSource::RulesLoader(engine, Arc::default());
    run_all(ProcessWide { config, redis, database, rules }, shutdown).await
}

/// Runs the service with these rules for every tenant until `shutdown` is called.
pub async fn run_with(config: Config, rules: RulesInForce, shutdown: CancellationToken) -> Result<(), Error> {
    let redis = Redis::new(&config)?;
    let database = Database::new(&config).map_err(Error::StoreUrl)?;
    run_all(ProcessWide { config, redis, database, rules: RulesSource::Given(rules) }, shutdown).await
}

async fn run_all(shared: ProcessWide, shutdown: CancellationToken) -> Result<(), Error> {
    let admin = Admin::bind(&shared.config).await?;
    let shared = Arc::new(shared);
    let (observed, tenants) = (Tenants::default(), &shared.config.tenants);
    let run = |tenant: &Tenant| {
        let run = Run::new(Arc::clone(&shared), tenant.clone(), shutdown.clone());
        let registration = observed.add(run.observed());
        (tenant.name.clone(), run, registration)
    };
    let mut all: Vec<_> = tenants.iter().map(run).collect();
    let _admin = admin
        .map(|admin| AbortOnDropHandle::new(tokio::spawn(admin.serve(observed.clone(), shutdown.clone()))));
    if !shared.config.has_named_tenants
        && let Some((_, run, _registration)) = all.pop()
    {
        return run.serve(false).await;
    }
    for (table, names) in tables_in_common(tenants) {
        let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        tracing::warn!(%table, tenants = names, "tenants share a table: each can keep an event from the others by storing its event_id and time first");
    }
    let mut runs = JoinSet::new();
    for (name, run, registration) in all {
        // The span is on every line about the tenant, whatever level is wanted.
        let span = tracing::error_span!("serve", tenant = %name);
        let served = async move {
            let _registration = registration;
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
fn tables_in_common(tenants: &[Tenant]) -> BTreeMap<&TableName, Vec<&TenantName>> {
    let mut tables: BTreeMap<&TableName, Vec<&TenantName>> = BTreeMap::new();
    for tenant in tenants {
        tables.entry(&tenant.events_table).or_default().push(&tenant.name);
    }
    tables.retain(|_, names| names.len() > 1);
    tables
}
