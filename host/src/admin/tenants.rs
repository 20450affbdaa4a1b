//! `/v1/tenants`: what each tenant does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::OfLook;
use super::extract::Path;
use super::health::trouble;
use super::registry::{Found, Observed, look_for_all};
use super::{Access, Api, Problem};
use crate::metrics::age_of;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TenantList {
    /// In the order of their names.
    pub(crate) tenants: Vec<TenantView>,
}

/// A tenant. What is not known is null.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TenantView {
    pub(crate) name: String,
    /// What it does: `starting`, `running`, `paused`, `failed`, or what it waits for.
    #[schema(example = "running")]
    pub(crate) state: String,
    /// Why it makes no progress although it should, as `/readyz` tells it.
    pub(crate) trouble: Option<String>,
    pub(crate) stream: String,
    pub(crate) group: String,
    pub(crate) table: String,
    /// For how long it has been served.
    pub(crate) uptime_seconds: f64,
    /// The entries that ended, by their outcome, since then.
    pub(crate) entries: BTreeMap<String, u64>,
    /// The entries that were read.
    pub(crate) delivered: u64,
    pub(crate) in_flight: u64,
    /// The entries that were gone before they were read.
    pub(crate) lost: u64,
    pub(crate) batches: u64,
    /// How often the rules broke a limit, by its kind.
    pub(crate) breaches: BTreeMap<String, u64>,
    pub(crate) worker_restarts: u64,
    /// The version of the rules that judges, by the first digits of its digest.
    #[schema(example = "6f2b91c03ad4")]
    pub(crate) rules_version: Option<String>,
    /// Why this replica refuses the version of the rules that is wanted.
    pub(crate) rules_refused: Option<String>,
    /// Entries that ended per second, since the tenant is served.
    pub(crate) rate: f64,
    /// Entries that ended per second, in the last half minute.
    pub(crate) recent_rate: f64,
    /// From the XADD of an entry to its commit: what half of the entries of the last half minute did not exceed, as the
    /// buckets of `sluicegate_commit_latency_seconds` tell it. Null without any.
    pub(crate) commit_latency_p50_seconds: Option<f64>,
    /// What 99 of 100 did not exceed.
    pub(crate) commit_latency_p99_seconds: Option<f64>,
    /// Entries that the group was not given yet.
    pub(crate) lag: Option<u64>,
    /// Entries that the group was given and has not acknowledged, whichever replica has them.
    pub(crate) pending: Option<u64>,
    pub(crate) stream_length: Option<u64>,
    /// The dead letters that no replay has settled; 10000 says that there are as many or more.
    pub(crate) open_dead_letters: Option<u64>,
    /// The age of the oldest entry that is not acknowledged, by its ID; 0 without any.
    pub(crate) oldest_age_seconds: Option<f64>,
}

impl TenantView {
    fn new(tenant: &Observed, found: Found, open_letters: &BTreeMap<String, u64>) -> Self {
        let (config, totals) = (&tenant.config, tenant.counters.now());
        let uptime = tenant.since.elapsed();
        let ended = u32::try_from(totals.tally.total()).unwrap_or(u32::MAX);
        let named = |(name, count): (&str, u64)| (name.to_owned(), count);
        let latency = tenant.counters.recent_commit_latency();
        Self {
            name: config.name.to_string(),
            state: totals.state().to_owned(),
            trouble: trouble(&totals, config, found),
            stream: config.stream_name.clone(),
            group: config.consumer_group.clone(),
            table: config.events_table.to_string(),
            uptime_seconds: uptime.as_secs_f64(),
            entries: totals.tally.outcomes().map(named).into(),
            delivered: totals.delivered,
            in_flight: totals.in_flight(),
            lost: totals.lost,
            batches: totals.batches,
            breaches: totals.breaches.kinds().filter(|(_, count)| *count > 0).map(named).collect(),
            worker_restarts: totals.restarts,
            rules_version: totals.version.map(|version| version.to_string()),
            rules_refused: tenant.counters.why_rules_are_refused(),
            rate: f64::from(ended) / uptime.as_secs_f64().max(1e-3),
            recent_rate: totals.recent.rate(Instant::now()),
            commit_latency_p50_seconds: latency.quantile(0.5).as_ref().map(Duration::as_secs_f64),
            commit_latency_p99_seconds: latency.quantile(0.99).as_ref().map(Duration::as_secs_f64),
            lag: found.backlog.and_then(|backlog| backlog.lag),
            pending: found.backlog.map(|backlog| backlog.pending),
            stream_length: found.backlog.map(|backlog| backlog.length),
            open_dead_letters: open_letters.get(config.name.as_str()).copied(),
            oldest_age_seconds: found.backlog.map(|backlog| age_of(backlog.oldest).as_secs_f64()),
        }
    }
}

/// Lists the tenants that the caller may see.
#[utoipa::path(
    get, path = "/tenants", tag = "tenants",
    responses((status = 200, description = "The tenants", body = TenantList), OfLook)
)]
async fn list(State(api): State<Api>, access: Access) -> Json<TenantList> {
    let tenants = api.visible(&access);
    let (found, open_letters) = tokio::join!(look_for_all(&tenants), api.figures.open_letters.count());
    let view = |(tenant, found): (&Arc<Observed>, Found)| TenantView::new(tenant, found, &open_letters);
    let tenants = tenants.iter().zip(found).map(view).collect();
    Json(TenantList { tenants })
}

/// Shows one tenant.
#[utoipa::path(
    get, path = "/tenants/{name}", tag = "tenants",
    params(("name" = String, Path, description = "The tenant's name; `default` without named tenants")),
    responses((status = 200, description = "The tenant", body = TenantView), OfLook)
)]
async fn show(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
) -> Result<Json<TenantView>, Problem> {
    let tenant = api.tenant(&access, &name)?;
    let (found, open_letters) = tokio::join!(tenant.look(), api.figures.open_letters.count());
    Ok(Json(TenantView::new(&tenant, found, &open_letters)))
}
