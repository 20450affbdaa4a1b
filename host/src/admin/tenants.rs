//! `/v1/tenants`: what each tenant does.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::registry::{Found, Observed, look_for_all};
use super::{Access, Api, Problem};
use crate::metrics::age_of;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
}

#[derive(Debug, Serialize, ToSchema)]
struct TenantList {
    /// In the order of their names.
    tenants: Vec<TenantView>,
}

/// A tenant. What is not known is null.
#[derive(Debug, Serialize, ToSchema)]
struct TenantView {
    name: String,
    /// What it does: `starting`, `running`, `paused`, `failed`, or what it waits for.
    #[schema(example = "running")]
    state: &'static str,
    stream: String,
    group: String,
    table: String,
    /// For how long it has been served.
    uptime_seconds: f64,
    /// The entries that ended, by their outcome, since then.
    entries: BTreeMap<&'static str, u64>,
    /// The entries that were read.
    delivered: u64,
    in_flight: u64,
    /// The entries that were gone before they were read.
    lost: u64,
    batches: u64,
    /// How often the rules broke a limit, by its kind.
    breaches: BTreeMap<&'static str, u64>,
    worker_restarts: u64,
    /// Entries that ended per second, since the tenant is served.
    rate: f64,
    /// Entries that ended per second, in the last half minute.
    recent_rate: f64,
    /// Entries that the group was not given yet.
    lag: Option<u64>,
    /// Entries that the group was given and has not acknowledged, whichever replica has them.
    pending: Option<u64>,
    stream_length: Option<u64>,
    /// The dead letters that no replay has settled; 10000 says that there are as many or more.
    open_dead_letters: Option<u64>,
    /// The age of the oldest entry that is not acknowledged, by its ID; 0 without any.
    oldest_age_seconds: Option<f64>,
}

impl TenantView {
    fn new(tenant: &Observed, found: Found, open_letters: &BTreeMap<String, u64>) -> Self {
        let (config, totals) = (&tenant.config, tenant.counters.now());
        let uptime = tenant.since.elapsed();
        let ended = u32::try_from(totals.tally.total()).unwrap_or(u32::MAX);
        Self {
            name: config.name.to_string(),
            state: totals.state(),
            stream: config.stream_name.clone(),
            group: config.consumer_group.clone(),
            table: config.events_table.to_string(),
            uptime_seconds: uptime.as_secs_f64(),
            entries: totals.tally.outcomes().into(),
            delivered: totals.delivered,
            in_flight: totals.in_flight(),
            lost: totals.lost,
            batches: totals.batches,
            breaches: totals.breaches.kinds().filter(|(_, count)| *count > 0).collect(),
            worker_restarts: totals.restarts,
            rate: f64::from(ended) / uptime.as_secs_f64().max(1e-3),
            recent_rate: totals.recent.rate(std::time::Instant::now()),
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
    responses((status = 200, description = "The tenants", body = TenantList), (status = 401, body = Problem))
)]
async fn list(State(api): State<Api>, access: Access) -> Json<TenantList> {
    let tenants = api.visible(&access);
    let (found, open_letters) = tokio::join!(look_for_all(&tenants), api.open_letters.count());
    let view = |(tenant, found): (&Arc<Observed>, Found)| TenantView::new(tenant, found, &open_letters);
    let tenants = tenants.iter().zip(found).map(view).collect();
    Json(TenantList { tenants })
}

/// Shows one tenant.
#[utoipa::path(
    get, path = "/tenants/{name}", tag = "tenants",
    params(("name" = String, Path, description = "The tenant's name; `default` without named tenants")),
    responses(
        (status = 200, description = "The tenant", body = TenantView),
        (status = 401, body = Problem),
        (status = 404, description = "There is none, or the caller may not see it", body = Problem),
    )
)]
async fn show(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
) -> Result<Json<TenantView>, Problem> {
    let tenant = api.tenant(&access, &name)?;
    let (found, open_letters) = tokio::join!(tenant.look(), api.open_letters.count());
    Ok(Json(TenantView::new(&tenant, found, &open_letters)))
}
